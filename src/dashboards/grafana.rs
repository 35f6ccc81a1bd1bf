//! Grafana's dashboard from `schemas/grafana/pipeline.toml`: the JSON that provisioning takes.
//!
//! `schemaVersion` 39 is that of Grafana 10.4 and 11: newer ones bring it up to date themselves. Where the metrics come from is a variable, so
//! that the file can be imported anywhere; the compose stack provisions the one data source that it lists.

use serde::Deserialize;
use serde_json::{Value, json};

const DESCRIPTION: &str = include_str!("../../schemas/grafana/pipeline.toml");
/// Columns of Grafana's grid.
pub(super) const GRID_WIDTH: u32 = 24;
const SCHEMA_VERSION: u32 = 39;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Dashboard {
    uid: String,
    title: String,
    note: String,
    #[serde(rename = "panel")]
    panels: Vec<Panel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Panel {
    title: String,
    #[serde(default)]
    note: String,
    chart: Chart,
    size: [u32; 2],
    unit: String,
    /// From where on it is yellow, and from where on red.
    limits: Option<[f64; 2]>,
    queries: Vec<Query>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Chart {
    Stat,
    Lines,
    Bars,
    Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    expr: String,
    legend: Option<String>,
}

/// The file that `windkessel grafana export` writes.
///
/// # Errors
/// A description that cannot be read.
pub fn grafana() -> Result<String, String> {
    let described: Dashboard = toml::from_str(DESCRIPTION).map_err(|error| format!("pipeline.toml: {error}"))?;
    let mut corner = super::saved::Corner::of_width(GRID_WIDTH);
    let panels: Vec<Value> =
        (1..).zip(&described.panels).map(|(id, panel)| draw(id, panel, corner.place(panel.size))).collect();
    let dashboard = json!({
        "uid": described.uid, "title": described.title, "description": described.note, "tags": ["windkessel"],
        "schemaVersion": SCHEMA_VERSION, "version": 1, "editable": true, "graphTooltip": 1, "fiscalYearStartMonth": 0,
        "time": { "from": "now-1h", "to": "now" }, "refresh": "10s", "timezone": "browser",
        "annotations": { "list": [firing()] }, "links": [],
        "templating": { "list": [{
            "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0,
            "includeAll": false, "multi": false, "refresh": 1, "regex": "", "skipUrlSync": false, "options": [], "current": {},
        }] },
        "panels": panels,
    });
    Ok(format!("{dashboard:#}\n"))
}

fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

/// Alerts that fire stand as marks in every chart.
fn firing() -> Value {
    json!({
        "name": "Alerts", "datasource": datasource(), "enable": true, "iconColor": "red",
        "expr": "ALERTS{alertstate=\"firing\", alertname=~\"Windkessel.*\"}", "titleFormat": "{{alertname}}",
        "textFormat": "{{instance}}",
    })
}

fn draw(id: u32, panel: &Panel, (x, y): (u32, u32)) -> Value {
    let [width, height] = panel.size;
    let instant = matches!(panel.chart, Chart::Table);
    let target = |(at, query): (u8, &Query)| {
        json!({
            "refId": char::from(b'A' + at).to_string(), "datasource": datasource(), "expr": query.expr,
            "legendFormat": query.legend.as_deref().unwrap_or("__auto"), "range": !instant, "instant": instant,
            "format": if instant { "table" } else { "time_series" },
        })
    };
    let (kind, options, custom) = form(panel.chart);
    json!({
        "id": id, "type": kind, "title": panel.title, "description": panel.note, "datasource": datasource(),
        "gridPos": { "x": x, "y": y, "w": width, "h": height },
        "targets": (0..).zip(&panel.queries).map(target).collect::<Vec<_>>(),
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit, "min": 0, "custom": custom, "thresholds": thresholds(panel.limits),
                "color": { "mode": if panel.chart == Chart::Stat { "thresholds" } else { "palette-classic" } },
            },
            "overrides": [],
        },
        "options": options,
    })
}

fn thresholds(limits: Option<[f64; 2]>) -> Value {
    let mut steps = vec![json!({ "color": "green", "value": null })];
    for (color, limit) in ["yellow", "red"].into_iter().zip(limits.into_iter().flatten()) {
        steps.push(json!({ "color": color, "value": limit }));
    }
    json!({ "mode": "absolute", "steps": steps })
}

/// Grafana's kind of panel, its options, and how a series is drawn.
fn form(chart: Chart) -> (&'static str, Value, Value) {
    let legend = json!({ "displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": [] });
    let series = json!({ "legend": legend, "tooltip": { "mode": "multi", "sort": "desc" } });
    match chart {
        Chart::Stat => {
            let reduce = json!({ "calcs": ["lastNotNull"], "fields": "", "values": false });
            let options = json!({
                "reduceOptions": reduce, "colorMode": "value", "graphMode": "area", "textMode": "auto",
                "justifyMode": "auto", "orientation": "auto",
            });
            ("stat", options, json!({}))
        }
        Chart::Lines => ("timeseries", series, json!({ "drawStyle": "line", "lineWidth": 2, "fillOpacity": 8 })),
        Chart::Bars => {
            let stacked = json!({ "mode": "normal", "group": "A" });
            let custom = json!({ "drawStyle": "line", "lineWidth": 1, "fillOpacity": 50, "stacking": stacked });
            ("timeseries", series, custom)
        }
        Chart::Table => ("table", json!({ "showHeader": true, "cellHeight": "sm" }), json!({ "align": "auto" })),
    }
}
