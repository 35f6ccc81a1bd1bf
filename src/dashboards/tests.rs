//! Proves, without Kibana, what makes an import fail or a panel stay empty (ECOSYSTEM.md §4 a to e): the shape of every object, closed
//! references, columns that are there, fields that the index template maps and that can be counted by, panels that do not overlap. Each check
//! is tried on a broken copy. That the panels' queries answer what they should is proved against a real server, in `tests/services/kibana.rs`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::saved::GRID_WIDTH;

mod metrics;
mod names;

const COMMITTED: &str = "docker/kibana/windkessel.ndjson";

fn committed() -> String {
    std::fs::read_to_string(COMMITTED).unwrap()
}

#[test]
fn the_committed_file_is_what_the_descriptions_give() {
    expect_test::expect_file![concat!(env!("CARGO_MANIFEST_DIR"), "/docker/kibana/windkessel.ndjson")]
        .assert_eq(&super::kibana().unwrap());
}

// ---------------------------------------------------------------- (a) the shapes that Kibana takes; a further key is refused

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(non_snake_case, reason = "Kibana's names")]
struct Object {
    id: String,
    r#type: String,
    attributes: Map<String, Value>,
    references: Vec<Reference>,
    coreMigrationVersion: String,
    typeMigrationVersion: String,
    managed: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reference {
    r#type: String,
    id: String,
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(non_snake_case, dead_code, reason = "Kibana's names; some are only there to be there")]
struct DataView {
    title: String,
    name: String,
    timeFieldName: String,
    fields: String,
    fieldAttrs: String,
    fieldFormatMap: String,
    runtimeFieldMap: String,
    sourceFilters: String,
    typeMeta: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(non_snake_case, dead_code, reason = "Kibana's names; some are only there to be there")]
struct Dashboard {
    title: String,
    description: String,
    version: u32,
    hits: u32,
    timeRestore: bool,
    timeFrom: String,
    timeTo: String,
    refreshInterval: Refresh,
    kibanaSavedObjectMeta: Meta,
    optionsJSON: String,
    panelsJSON: String,
    controlGroupInput: Option<Controls>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only there to be there")]
struct Refresh {
    pause: bool,
    value: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(non_snake_case, reason = "Kibana's names")]
struct Meta {
    searchSourceJSON: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(non_snake_case, dead_code, reason = "Kibana's names; some are only there to be there")]
struct Controls {
    controlStyle: String,
    chainingSystem: String,
    showApplySelections: bool,
    ignoreParentSettingsJSON: String,
    panelsJSON: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(non_snake_case, dead_code, reason = "Kibana's names; some are only there to be there")]
struct Panel {
    r#type: String,
    panelIndex: String,
    title: String,
    version: String,
    gridData: Grid,
    embeddableConfig: Embedded,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Grid {
    x: u32,
    y: u32,
    w: u32,
    h: u32,
    i: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(non_snake_case, dead_code, reason = "Kibana's names; some are only there to be there")]
struct Embedded {
    attributes: Lens,
    enhancements: Map<String, Value>,
    hidePanelTitles: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(non_snake_case, dead_code, reason = "Kibana's names; some are only there to be there")]
struct Lens {
    title: String,
    description: String,
    r#type: String,
    visualizationType: String,
    references: Vec<Reference>,
    state: State,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(non_snake_case, dead_code, reason = "Kibana's names; some are only there to be there")]
struct State {
    adHocDataViews: Map<String, Value>,
    datasourceStates: Datasources,
    filters: Vec<Value>,
    internalReferences: Vec<Value>,
    query: Query,
    visualization: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(non_snake_case, dead_code, reason = "Kibana's names; some are only there to be there")]
struct Datasources {
    formBased: FormBased,
    textBased: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FormBased {
    layers: BTreeMap<String, Layer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(non_snake_case, dead_code, reason = "Kibana's names; some are only there to be there")]
struct Layer {
    columnOrder: Vec<String>,
    columns: BTreeMap<String, Value>,
    incompleteColumns: Map<String, Value>,
    sampling: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    language: String,
    query: String,
}

// ---------------------------------------------------------------- the checks

/// What Kibana would stumble over; nothing if all is well.
fn faults(ndjson: &str) -> Vec<String> {
    let mut faults = Faults::default();
    let objects: Vec<Object> = ndjson.lines().filter_map(|line| faults.read(line, "an object")).collect();
    faults.envelopes(&objects);
    let views: BTreeMap<&str, BTreeMap<String, String>> = objects
        .iter()
        .filter(|object| object.r#type == "index-pattern")
        .filter_map(|object| Some((object.id.as_str(), faults.data_view(object)?)))
        .collect();
    for object in objects.iter().filter(|object| object.r#type == "dashboard") {
        faults.dashboard(object, &views);
    }
    faults.0
}

#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn note(&mut self, fault: bool, what: impl FnOnce() -> String) {
        if fault {
            self.0.push(what());
        }
    }

    fn read<'a, T: Deserialize<'a>>(&mut self, text: &'a str, what: &str) -> Option<T> {
        serde_json::from_str(text).map_err(|why| self.0.push(format!("{what}: {why}"))).ok()
    }

    fn envelopes(&mut self, objects: &[Object]) {
        let mut seen = BTreeSet::new();
        for object in objects {
            let known = matches!(
                (object.r#type.as_str(), object.typeMigrationVersion.as_str()),
                ("index-pattern", "8.0.0") | ("dashboard", "8.9.0")
            );
            self.note(!known || object.coreMigrationVersion != "8.8.0" || object.managed, || {
                format!("{}: type or version", object.id)
            });
            self.note(!seen.insert((&object.r#type, &object.id)), || format!("{} is there twice", object.id));
        }
        let there = |reference: &Reference| {
            objects.iter().any(|object| object.r#type == reference.r#type && object.id == reference.id)
        };
        for reference in objects.iter().flat_map(|object| &object.references) {
            self.note(!there(reference), || format!("{} leads nowhere", reference.name));
        }
    }

    /// The fields of a data view, with Elasticsearch's types.
    fn data_view(&mut self, object: &Object) -> Option<BTreeMap<String, String>> {
        let view: DataView = self.read(&Value::Object(object.attributes.clone()).to_string(), &object.id)?;
        for json in [&view.fields, &view.fieldAttrs, &view.fieldFormatMap, &view.runtimeFieldMap] {
            self.note(serde_json::from_str::<Value>(json).is_err(), || format!("{}: {json} is no JSON", object.id));
        }
        let stem = view.title.trim_end_matches('*');
        let mut fields = BTreeMap::new();
        for file in ["windkessel-mappings.component", &format!("{stem}.template")] {
            let path = format!("schemas/elasticsearch/{file}.json");
            let template: Value = serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()?;
            let properties = template["template"]["mappings"]["properties"].as_object()?.clone();
            fields.extend(
                properties.into_iter().filter_map(|(name, mapping)| Some((name, mapping["type"].as_str()?.to_owned()))),
            );
        }
        self.note(!fields.contains_key(&view.timeFieldName), || format!("{}: no time", object.id));
        Some(fields)
    }

    fn dashboard(&mut self, object: &Object, views: &BTreeMap<&str, BTreeMap<String, String>>) {
        let attributes = Value::Object(object.attributes.clone()).to_string();
        let Some(dashboard) = self.read::<Dashboard>(&attributes, &object.id) else { return };
        self.read::<Value>(&dashboard.kibanaSavedObjectMeta.searchSourceJSON, "searchSourceJSON");
        self.read::<Value>(&dashboard.optionsJSON, "optionsJSON");
        let mut due: BTreeSet<(String, String)> = BTreeSet::new();
        let panels: Vec<Panel> = self.read(&dashboard.panelsJSON, &object.id).unwrap_or_default();
        self.note(panels.len() < 9, || format!("{} has {} panels", object.id, panels.len()));
        self.grid(&object.id, &panels);
        for panel in &panels {
            let what = format!("{} / {}", object.id, panel.title);
            self.panel(&what, panel, views);
            let lens = &panel.embeddableConfig.attributes;
            due.extend(lens.references.iter().map(|r| (format!("{}:{}", panel.panelIndex, r.name), r.id.clone())));
        }
        if let Some(group) = &dashboard.controlGroupInput {
            let controls: Map<String, Value> = self.read(&group.panelsJSON, "controls").unwrap_or_default();
            for (id, control) in &controls {
                let field = control["explicitInput"]["fieldName"].as_str().unwrap_or_default();
                let name = format!("controlGroup_{id}:optionsListDataView");
                let view = object.references.iter().find(|reference| reference.name == name);
                let view = view.map(|reference| reference.id.clone()).unwrap_or_default();
                self.field(&format!("{} / control", object.id), views.get(view.as_str()), field);
                due.insert((name, view));
            }
        }
        let there = object.references.iter().map(|r| (r.name.clone(), r.id.clone())).collect::<BTreeSet<_>>();
        self.note(there != due, || format!("{}: references {there:?}, not {due:?}", object.id));
    }

    fn grid(&mut self, id: &str, panels: &[Panel]) {
        let apart = |a: &Grid, b: &Grid| a.x + a.w <= b.x || b.x + b.w <= a.x || a.y + a.h <= b.y || b.y + b.h <= a.y;
        for (at, panel) in panels.iter().enumerate() {
            let grid = &panel.gridData;
            self.note(grid.i != panel.panelIndex, || format!("{id}: {} is named twice", panel.title));
            self.note(grid.x + grid.w > GRID_WIDTH || grid.h == 0, || format!("{id}: {} sticks out", panel.title));
            for other in &panels[..at] {
                self.note(!apart(grid, &other.gridData), || format!("{id}: {} overlaps", panel.title));
                self.note(panel.panelIndex == other.panelIndex, || format!("{id}: {} twice", panel.panelIndex));
            }
        }
    }

    fn panel(&mut self, what: &str, panel: &Panel, views: &BTreeMap<&str, BTreeMap<String, String>>) {
        let lens = &panel.embeddableConfig.attributes;
        self.note(panel.r#type != "lens" || lens.r#type != "lens", || format!("{what}: type"));
        let layers = &lens.state.datasourceStates.formBased.layers;
        let named: BTreeSet<String> =
            layers.keys().map(|layer| format!("indexpattern-datasource-layer-{layer}")).collect();
        let referenced: BTreeSet<String> = lens.references.iter().map(|reference| reference.name.clone()).collect();
        self.note(named != referenced, || format!("{what}: layers {named:?}, references {referenced:?}"));
        let view = lens.references.first().and_then(|reference| views.get(reference.id.as_str()));
        self.query(what, view, &lens.state.query);
        for layer in layers.values() {
            self.layer(what, view, layer);
        }
        for (layer, accessor) in accessors(&lens.state.visualization) {
            let there = layers.get(&layer).is_some_and(|layer| layer.columns.contains_key(&accessor));
            self.note(!there, || format!("{what}: no column {accessor:?} in {layer:?}"));
        }
        let metric = lens.state.visualization["metricAccessor"].is_string();
        self.note((lens.visualizationType == "lnsMetric") != metric, || format!("{what}: a metric without accessor"));
    }

    fn layer(&mut self, what: &str, view: Option<&BTreeMap<String, String>>, layer: &Layer) {
        let ordered: BTreeSet<&String> = layer.columnOrder.iter().collect();
        self.note(ordered != layer.columns.keys().collect(), || format!("{what}: columnOrder"));
        let bucketed = |id: &String| layer.columns.get(id).is_some_and(|column| column["isBucketed"] == true);
        let buckets_first = layer.columnOrder.windows(2).all(|pair| bucketed(&pair[0]) || !bucketed(&pair[1]));
        self.note(!buckets_first, || format!("{what}: a bucket stands behind a figure"));
        for column in layer.columns.values() {
            let operation = column["operationType"].as_str().unwrap_or_default();
            match column["sourceField"].as_str() {
                Some("___records___") => {
                    self.note(operation != "count", || format!("{what}: {operation} of documents"))
                }
                Some(field) => self.column(what, view, (operation, field, column)),
                None => {
                    let fixed = operation == "static_value"
                        && column["params"]["value"].as_str().is_some_and(|text| text.parse::<f64>().is_ok());
                    self.note(!fixed && !matches!(operation, "formula" | "math"), || {
                        format!("{what}: {operation} of nothing")
                    })
                }
            }
            for reference in column["references"].as_array().into_iter().flatten() {
                let there = layer.columns.contains_key(reference.as_str().unwrap_or_default());
                self.note(!there, || format!("{what}: a formula of {reference}"));
            }
            if let Ok(query) = serde_json::from_value::<Query>(column["filter"].clone()) {
                self.query(what, view, &query);
            }
            let order = &column["params"]["orderBy"];
            let column_there = order["columnId"].as_str().is_none_or(|id| layer.columns.contains_key(id));
            self.note(!column_there, || format!("{what}: ordered by {order}"));
        }
    }

    fn column(
        &mut self,
        what: &str,
        view: Option<&BTreeMap<String, String>>,
        (operation, field, column): (&str, &str, &Value),
    ) {
        let Some(mapped) = self.field(what, view, field) else { return };
        let number = matches!(mapped.as_str(), "float" | "integer" | "long");
        let fits = match operation {
            "date_histogram" => mapped == "date",
            "average" | "median" | "percentile" | "range" => number,
            "min" | "max" => number || mapped == "date",
            "terms" | "unique_count" | "last_value" => true,
            _ => false,
        };
        self.note(!fits, || format!("{what}: {operation} of {field}, which is a {mapped}"));
        let said = column["dataType"].as_str().unwrap_or_default();
        let expected = match (operation, mapped.as_str()) {
            ("unique_count", _) => "number",
            ("range", _) | (_, "keyword") => "string",
            (_, "date") => "date",
            (_, "boolean") => "boolean",
            _ => "number",
        };
        self.note(said != expected, || format!("{what}: {field} is said to be a {said}"));
    }

    /// The type of a field, which must be one that Kibana can count by.
    fn field(&mut self, what: &str, view: Option<&BTreeMap<String, String>>, field: &str) -> Option<String> {
        let mapped = view.and_then(|fields| fields.get(field)).cloned();
        self.note(mapped.as_deref().is_none_or(|mapped| mapped == "text"), || {
            format!("{what}: {field:?} is not mapped so that it can be counted by")
        });
        mapped
    }

    /// Every field that a query names is there.
    fn query(&mut self, what: &str, view: Option<&BTreeMap<String, String>>, query: &Query) {
        self.note(query.language != "kuery", || format!("{what}: {}", query.language));
        let plain: String = query.query.split('"').step_by(2).collect();
        let words: Vec<&str> = plain.split([' ', '(', ')']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            if let Some(field) =
                pair[0].strip_suffix(':').or_else(|| pair[1].starts_with(['<', '>']).then_some(pair[0]))
            {
                self.field(what, view, field);
            }
        }
    }
}

/// Every column that a visualisation names, with its layer.
fn accessors(visualisation: &Value) -> Vec<(String, String)> {
    let own = std::slice::from_ref(visualisation);
    let layers = visualisation["layers"].as_array().map_or(own, Vec::as_slice);
    let mut found = Vec::new();
    for layer in layers {
        let mut add = |accessor: &Value| {
            found.push((
                layer["layerId"].as_str().unwrap_or("?").to_owned(),
                accessor.as_str().unwrap_or("?").to_owned(),
            ));
        };
        ["xAccessor", "splitAccessor", "metricAccessor"].iter().filter_map(|key| layer.get(key)).for_each(&mut add);
        for key in ["accessors", "primaryGroups", "metrics"] {
            layer[key].as_array().into_iter().flatten().for_each(&mut add);
        }
        layer["yConfig"].as_array().into_iter().flatten().for_each(|config| add(&config["forAccessor"]));
        layer["columns"].as_array().into_iter().flatten().for_each(|column| add(&column["columnId"]));
    }
    found
}

#[test]
fn kibana_would_take_and_draw_every_object() {
    let text = committed();
    assert_eq!(faults(&text), Vec::<String>::new());
    assert_eq!((text.lines().count(), text.matches(r#""type":"dashboard""#).count()), (17, 8));
}

/// A text inside the objects (where quotes are escaped), and what it is broken to.
const BREAKS: [(&str, &str, &str); 13] = [
    (r#""managed":false"#, r#""managed":false,"version":"1""#, "unknown field"),
    (r#""typeMigrationVersion":"8.9.0""#, r#""typeMigrationVersion":"9.0.0""#, "type or version"),
    (r#""hits":0"#, r#""hits":0,"hints":0"#, "unknown field"),
    (r#""id":"windkessel-fhir-anomalies""#, r#""id":"windkessel-bp-readings""#, "twice"),
    (
        r#""name":"p3:indexpattern-datasource-layer-data""#,
        r#""name":"p3:indexpattern-datasource-layer-x""#,
        "references",
    ),
    (r#"\"metricAccessor\":\"v0\""#, r#"\"accessor\":\"v0\""#, "a metric without accessor"),
    (r#"\"xAccessor\":\"r0\""#, r#"\"xAccessor\":\"r7\""#, "no column"),
    (r#"\"columnOrder\":[\"r0\",\"v0\"]"#, r#"\"columnOrder\":[\"v0\"]"#, "columnOrder"),
    (r#"\"sourceField\":\"category\""#, r#"\"sourceField\":\"bp_category\""#, "not mapped"),
    ("NOT retracted: true", "NOT withdrawn: true", "not mapped"),
    (r#"\"type\":\"column\",\"columnId\":\"v0\""#, r#"\"type\":\"column\",\"columnId\":\"v9\""#, "ordered by"),
    (r#"\"value\":\"0.8\""#, r#"\"value\":\"four fifths\""#, "static_value of nothing"),
    (r#"\"gridData\":{\"x\":8,"#, r#"\"gridData\":{\"x\":7,"#, "overlaps"),
];

#[test]
fn every_check_notices_a_broken_copy() {
    let whole = committed();
    for (text, broken, fault) in BREAKS {
        assert!(whole.contains(text), "{text} is not in the file");
        let found = faults(&whole.replace(text, broken));
        assert!(found.iter().any(|found| found.contains(fault)), "{text} -> {broken}: {found:?}");
    }
}

#[test]
fn a_description_with_a_field_that_is_not_there_is_refused() {
    let view = super::source::views().unwrap().remove(0);
    assert_eq!(view.field("category"), Ok("keyword"));
    assert!(view.field("bp_category").unwrap_err().contains("bp_category"));
}

/// The panels that issue 7 and the earlier pipelines' users ask for.
#[test]
fn the_dashboards_show_what_was_asked_for() {
    let text = committed();
    for title in [
        "Anomalies over time, by type",
        "Distribution of systolic, mmHg",
        "Distribution of diastolic, mmHg",
        "Anomaly rate",
        "Critical peaks",
        "Categories",
        "Median systolic in hypertension",
        "Top five types and the patients who have them most",
        "Model probability",
        "Newest critical readings",
        "Systolic against the usual range, mmHg",
        "Windows",
        "Shares of categories over time",
        "By source: who is flagged how often",
        "Drift by feature: population stability index",
        "Drift by feature: Jensen-Shannon distance",
        "Alerts: verdicts that stay",
        "Fairness: selection rate by group, as a ratio to the reference group's",
        "Groups outside four fifths",
        "Performance of the score over time",
        "Partitions",
    ] {
        assert!(text.contains(&format!(r#"\"title\":\"{title}\""#)), "{title}");
    }
}
