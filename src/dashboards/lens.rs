//! A panel's description becomes the state of a Lens visualisation, as Kibana 8.9 and newer read it.
//!
//! Each panel has one layer, `data`, and others, `band` and `lines`, if it has a band or lines. Columns are named by their place: `r0` the first row, `by` the
//! colour, `v0` the first figure; `v0X0` and so on are the parts of a share, which Lens keeps as columns of their own.
//! Sources: the shapes in Kibana's `lens` and in the dashboards of elastic/integrations, as ECOSYSTEM.md §4 lists them.

use serde_json::{Map, Value, json};

use super::source::{Bucket, Chart, Figure, Line, Measure, Panel, View};

/// The layer with the data.
pub(super) const DATA: &str = "data";
/// The layer with the band.
pub(super) const BAND: &str = "band";
/// The layer with fixed values.
pub(super) const LINES: &str = "lines";
/// The field that stands for whole documents.
const RECORDS: &str = "___records___";
/// Event time, in every index.
const TIME: &str = "@timestamp";
/// Fields that hold several values.
const LISTS: [&str; 2] = ["reasons", "anomaly_type"];
/// A band's colour: quiet, with or without a dark theme.
const BAND_COLOUR: &str = "#98a2b3";

/// Columns in their order.
struct Columns<'a> {
    view: &'a View,
    order: Vec<String>,
    columns: Map<String, Value>,
}

/// The attributes of the panel's visualisation, and its layers.
///
/// # Errors
/// A figure or a row that names a field which is not there, or lacks what its measure needs.
pub(super) fn attributes(panel: &Panel, view: &View) -> Result<(Value, Vec<&'static str>), String> {
    let fault = |what: String| format!("panel {:?}: {what}", panel.title);
    let mut layers = Map::new();
    layers.insert(DATA.into(), data_layer(panel, view).map_err(fault)?);
    if !panel.band.is_empty() {
        let mut columns = Columns { view, order: Vec::new(), columns: Map::new() };
        columns.figures(&panel.band).map_err(fault)?;
        layers.insert(BAND.into(), columns.layer());
    }
    if !panel.lines.is_empty() {
        layers.insert(LINES.into(), lines_layer(&panel.lines));
    }
    let names: Vec<&'static str> = [DATA, BAND, LINES].into_iter().filter(|name| layers.contains_key(*name)).collect();
    let (kind, visualisation) = visualisation(panel);
    let references: Vec<Value> = names.iter().map(|layer| reference(layer, "", &view.id)).collect();
    let attributes = json!({
        "title": panel.title,
        "description": panel.note,
        "type": "lens",
        "visualizationType": kind,
        "references": references,
        "state": {
            "adHocDataViews": {},
            "datasourceStates": { "formBased": { "layers": layers }, "textBased": { "layers": {} } },
            "filters": [],
            "internalReferences": [],
            "query": { "language": "kuery", "query": panel.query() },
            "visualization": visualisation,
        },
    });
    Ok((attributes, names))
}

/// A reference from a layer, of the panel that the prefix names, to its data view.
pub(super) fn reference(layer: &str, prefix: &str, view: &str) -> Value {
    json!({ "type": "index-pattern", "id": view, "name": format!("{prefix}indexpattern-datasource-layer-{layer}") })
}

fn data_layer(panel: &Panel, view: &View) -> Result<Value, String> {
    let mut columns = Columns { view, order: Vec::new(), columns: Map::new() };
    let ranked = panel.values.first().filter(|figure| sorts(figure.measure)).map(|_| "v0");
    for (at, bucket) in panel.rows.iter().enumerate() {
        columns.add(format!("r{at}"), bucket_column(bucket, ranked, view)?);
    }
    if let Some(bucket) = &panel.by {
        columns.add("by".into(), bucket_column(bucket, ranked, view)?);
    }
    columns.figures(&panel.values)?;
    Ok(columns.layer())
}

/// Values that no document has: Lens keeps them as texts.
fn lines_layer(lines: &[Line]) -> Value {
    let column = |line: &Line| {
        json!({
            "label": line.label, "customLabel": true, "dataType": "number", "isBucketed": false, "isStaticValue": true,
            "operationType": "static_value", "scale": "ratio", "params": { "value": line.at.to_string() }, "references": [],
        })
    };
    let columns: Map<String, Value> = (0..).zip(lines).map(|(at, line)| (format!("v{at}"), column(line))).collect();
    let order: Vec<&String> = columns.keys().collect();
    json!({ "columnOrder": order, "columns": columns, "incompleteColumns": {}, "sampling": 1 })
}

impl Columns<'_> {
    fn add(&mut self, id: String, column: Value) {
        self.order.push(id.clone());
        self.columns.insert(id, column);
    }

    fn figures(&mut self, figures: &[Figure]) -> Result<(), String> {
        for (at, figure) in figures.iter().enumerate() {
            let id = format!("v{at}");
            match figure.measure {
                Measure::Share => self.share(&id, figure)?,
                _ => self.add(id, figure_column(figure, self.view)?),
            }
        }
        Ok(())
    }

    /// A part of the whole: Lens keeps a formula together with the columns that it was taken apart into.
    fn share(&mut self, id: &str, figure: &Figure) -> Result<(), String> {
        let part = figure.only.as_deref().ok_or("a share needs `where`")?;
        let formula = format!("count(kql='{part}') / count()");
        let (whole, parts) = (label(figure), [format!("{id}X0"), format!("{id}X1"), format!("{id}X2")]);
        let column = |kind: &str, params: Value| {
            json!({
                "label": format!("Part of {whole}"), "customLabel": true, "dataType": "number", "isBucketed": false,
                "operationType": kind, "scale": "ratio", "params": params,
            })
        };
        let count = || {
            let mut count = column("count", json!({ "emptyAsNull": false }));
            count["sourceField"] = RECORDS.into();
            count
        };
        let mut some = count();
        some["filter"] = json!({ "language": "kuery", "query": part });
        let ast = json!({
            "type": "function", "name": "divide", "args": [parts[0], parts[1]], "text": formula,
            "location": { "min": 0, "max": formula.chars().count() },
        });
        let mut quotient = column("math", json!({ "tinymathAst": ast }));
        quotient["references"] = json!([parts[0], parts[1]]);
        let format = json!({ "id": "percent", "params": { "decimals": figure.decimals.unwrap_or(1) } });
        let mut formula = column("formula", json!({ "formula": formula, "isFormulaBroken": false, "format": format }));
        formula["label"] = whole.clone().into();
        formula["references"] = json!([parts[2]]);
        let [first, second, third] = parts;
        self.add(id.to_owned(), formula);
        self.add(first, some);
        self.add(second, count());
        self.add(third, quotient);
        Ok(())
    }

    fn layer(self) -> Value {
        json!({ "columnOrder": self.order, "columns": self.columns, "incompleteColumns": {}, "sampling": 1 })
    }
}

/// What the most frequent values can be ranked by: Lens does not sort by formulas, percentiles and last values.
fn sorts(measure: Measure) -> bool {
    matches!(measure, Measure::Count | Measure::Average | Measure::Min | Measure::Max | Measure::Unique)
}

fn bucket_column(bucket: &Bucket, ranked: Option<&str>, view: &View) -> Result<Value, String> {
    match bucket {
        Bucket::Time { time, label } => Ok(json!({
            "label": label.as_deref().unwrap_or("time"), "customLabel": true, "dataType": "date", "isBucketed": true,
            "operationType": "date_histogram", "scale": "interval", "sourceField": TIME,
            "params": { "interval": time, "includeEmptyRows": false, "dropPartials": false },
        })),
        Bucket::Ranges { ranges, from, to, width } => {
            view.field(ranges)?;
            let count = ((to - from) / width).round() as u32;
            // Divided last, so that 0.1 by 0.1 does not end in 0.30000000000000004.
            let edge = |at: u32| (from * 1e6 + f64::from(at) * (width * 1e6).round()) / 1e6;
            let range = |at| json!({ "from": edge(at), "to": edge(at + 1), "label": format!("{}", edge(at)) });
            Ok(json!({
                "label": human(ranges), "customLabel": true, "dataType": "string", "isBucketed": true,
                "operationType": "range", "scale": "ordinal", "sourceField": ranges,
                "params": {
                    "type": "range", "maxBars": "auto", "ranges": (0..count).map(range).collect::<Vec<_>>(),
                    "parentFormat": { "id": "range", "params": { "template": "arrow_right", "replaceInfinity": true } },
                },
            }))
        }
        Bucket::Top { top, of, label } => terms(of, *top, label.as_deref(), ranked, view),
        Bucket::Newest { newest, of } => terms(of, *newest, None, Some("v0"), view),
    }
}

fn terms(of: &str, size: u32, label: Option<&str>, ranked: Option<&str>, view: &View) -> Result<Value, String> {
    let kind = data_type(view.field(of)?);
    let order = match ranked {
        Some(column) => json!({ "type": "column", "columnId": column }),
        None => json!({ "type": "alphabetical", "fallback": true }),
    };
    Ok(json!({
        "label": label.map_or_else(|| human(of), str::to_owned), "customLabel": true, "dataType": kind, "isBucketed": true,
        "operationType": "terms", "scale": "ordinal", "sourceField": of,
        "params": {
            "size": size, "orderBy": order, "orderDirection": if ranked.is_some() { "desc" } else { "asc" },
            "otherBucket": false, "missingBucket": false, "parentFormat": { "id": "terms" },
            "include": [], "includeIsRegex": false, "exclude": [], "excludeIsRegex": false,
        },
    }))
}

fn figure_column(figure: &Figure, view: &View) -> Result<Value, String> {
    let field = match (figure.measure, &figure.of) {
        (Measure::Count, None) => RECORDS,
        (Measure::Count, Some(_)) | (_, None) => return Err(format!("{:?} has a field, or lacks one", figure.measure)),
        (_, Some(field)) => field,
    };
    let kind = if field == RECORDS { "number" } else { data_type(view.field(field)?) };
    let (operation, mut params) = match figure.measure {
        Measure::Count | Measure::Share => ("count", json!({ "emptyAsNull": true })),
        Measure::Average => ("average", json!({ "emptyAsNull": true })),
        Measure::Median => ("median", json!({ "emptyAsNull": true })),
        Measure::Percentile => {
            ("percentile", json!({ "percentile": figure.percent.ok_or("a percentile needs `percent`")? }))
        }
        Measure::Min => ("min", json!({ "emptyAsNull": true })),
        Measure::Max => ("max", json!({ "emptyAsNull": true })),
        Measure::Unique => ("unique_count", json!({ "emptyAsNull": true })),
        Measure::Last => ("last_value", json!({ "sortField": TIME, "showArrayValues": LISTS.contains(&field) })),
    };
    let numeric = kind == "number" || figure.measure == Measure::Unique;
    if numeric {
        let usual = u8::from(figure.measure == Measure::Average);
        params["format"] = json!({ "id": "number", "params": { "decimals": figure.decimals.unwrap_or(usual) } });
    } else if !matches!(figure.measure, Measure::Last) && kind != "date" {
        return Err(format!("{field:?} is no number"));
    }
    let mut column = json!({
        "label": label(figure), "customLabel": true, "dataType": if numeric { "number" } else { kind }, "isBucketed": false,
        "operationType": operation, "scale": if kind == "string" && !numeric { "ordinal" } else { "ratio" },
        "sourceField": field, "params": params,
    });
    let only = figure.only.clone().or_else(|| (figure.measure == Measure::Last).then(|| format!("{field}: *")));
    if let Some(only) = only {
        column["filter"] = json!({ "language": "kuery", "query": only });
    }
    Ok(column)
}

/// Lens's word for a type of Elasticsearch.
fn data_type(mapped: &str) -> &'static str {
    match mapped {
        "date" => "date",
        "boolean" => "boolean",
        "float" | "double" | "integer" | "long" => "number",
        _ => "string",
    }
}

fn label(figure: &Figure) -> String {
    figure.label.clone().unwrap_or_else(|| figure.of.as_deref().map_or_else(|| "of all".to_owned(), human))
}

fn human(field: &str) -> String {
    field.trim_start_matches('@').replace('_', " ")
}

/// The kind of visualisation and its state.
fn visualisation(panel: &Panel) -> (&'static str, Value) {
    let rows: Vec<String> = (0..panel.rows.len()).map(|at| format!("r{at}")).collect();
    let values: Vec<String> = (0..panel.values.len()).map(|at| format!("v{at}")).collect();
    match panel.chart {
        Chart::Metric => ("lnsMetric", json!({ "layerId": DATA, "layerType": "data", "metricAccessor": "v0" })),
        Chart::Pie => (
            "lnsPie",
            json!({ "shape": "donut", "layers": [{
                "layerId": DATA, "layerType": "data", "primaryGroups": rows, "metrics": values,
                "numberDisplay": "percent", "categoryDisplay": "default", "legendDisplay": "default", "nestedLegend": false,
            }] }),
        ),
        Chart::Table => {
            let shown = rows.iter().chain(&values).map(|id| json!({ "columnId": id })).collect::<Vec<_>>();
            ("lnsDatatable", json!({ "layerId": DATA, "layerType": "data", "columns": shown }))
        }
        Chart::Bars => ("lnsXY", xy(panel, "bar_stacked", &values)),
        Chart::Hbars => ("lnsXY", xy(panel, "bar_horizontal", &values)),
        Chart::Shares => ("lnsXY", xy(panel, "bar_percentage_stacked", &values)),
        Chart::Lines => ("lnsXY", xy(panel, "line", &values)),
    }
}

fn xy(panel: &Panel, series: &str, values: &[String]) -> Value {
    let mut data = json!({
        "layerId": DATA, "layerType": "data", "seriesType": series, "xAccessor": "r0", "accessors": values,
        "position": "top", "showGridlines": false,
    });
    if panel.by.is_some() {
        data["splitAccessor"] = "by".into();
    }
    let mut layers = vec![data];
    if !panel.band.is_empty() {
        // The lower line is filled upwards and the upper one downwards: what lies between is the band.
        let line = |(at, fill): (usize, &str)| {
            json!({
                "forAccessor": format!("v{at}"), "axisMode": "left", "color": BAND_COLOUR, "fill": fill,
                "lineStyle": "dashed", "lineWidth": 1, "textVisibility": true,
            })
        };
        let lines: Vec<Value> = ["above", "below"].into_iter().enumerate().map(line).collect();
        layers.push(json!({
            "layerId": BAND, "layerType": "referenceLine", "accessors": ["v0", "v1"], "yConfig": lines,
        }));
    }
    if !panel.lines.is_empty() {
        let ids: Vec<String> = (0..panel.lines.len()).map(|at| format!("v{at}")).collect();
        let line = |id: &String| {
            json!({
                "forAccessor": id, "axisMode": "left", "color": BAND_COLOUR, "fill": "none", "lineStyle": "dashed",
                "lineWidth": 1, "textVisibility": true,
            })
        };
        let drawn: Vec<Value> = ids.iter().map(line).collect();
        layers.push(json!({ "layerId": LINES, "layerType": "referenceLine", "accessors": ids, "yConfig": drawn }));
    }
    let several = panel.by.is_some() || values.len() > 1;
    json!({
        "layers": layers, "preferredSeriesType": series, "valueLabels": "hide", "fittingFunction": "None",
        "legend": { "isVisible": several, "position": "bottom", "showSingleSeries": false },
        "axisTitlesVisibilitySettings": { "x": false, "yLeft": !several, "yRight": false },
        "yLeftExtent": { "mode": if series == "line" && !shares(panel) && panel.lines.is_empty() { "dataBounds" } else { "full" } },
    })
}

/// A line of shares begins at zero, one of pressures does not; what is drawn across must be in sight.
fn shares(panel: &Panel) -> bool {
    panel.values.iter().any(|figure| figure.measure == Measure::Share)
}
