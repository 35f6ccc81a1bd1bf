//! Saved objects as Kibana imports them: one JSON object a line, data views first.
//!
//! `typeMigrationVersion` is that of Kibana 8.9, so that any 8 from there on and 9 take the file, and no migration of older objects touches
//! it. Objects carry neither `version` nor dates: an import with `overwrite=true` changes nothing the second time.
//! Panels flow: each stands right of the one before while the row of [`GRID_WIDTH`] has room.

use serde_json::{Map, Value, json};

use super::lens;
use super::source::{self, Placed, View};

/// Columns of Kibana's grid.
pub(super) const GRID_WIDTH: u32 = 48;
/// The versions that the objects claim to be of.
const CORE_VERSION: &str = "8.8.0";
const VIEW_VERSION: &str = "8.0.0";
const DASHBOARD_VERSION: &str = "8.9.0";

/// The file that `windkessel kibana export` writes.
///
/// # Errors
/// A description that cannot be read or names a field that is not there.
pub fn kibana() -> Result<String, String> {
    let mut objects: Vec<Value> = source::views()?.iter().map(data_view).collect();
    for placed in source::dashboards()? {
        objects.push(dashboard(&placed)?);
    }
    Ok(objects.iter().map(|object| format!("{object}\n")).collect())
}

fn object(kind: &str, version: &str, id: &str, attributes: Value, references: Vec<Value>) -> Value {
    json!({
        "id": id, "type": kind, "attributes": attributes, "references": references,
        "coreMigrationVersion": CORE_VERSION, "typeMigrationVersion": version, "managed": false,
    })
}

/// Kibana keeps parts of an object as text that holds JSON.
fn text(value: Value) -> String {
    value.to_string()
}

fn data_view(view: &View) -> Value {
    let attributes = json!({
        "title": view.title, "name": view.name, "timeFieldName": "@timestamp",
        "fields": text(json!([])), "fieldAttrs": text(json!({})), "fieldFormatMap": text(json!({})),
        "runtimeFieldMap": text(json!({})), "sourceFilters": text(json!([])), "typeMeta": text(json!({})),
    });
    object("index-pattern", VIEW_VERSION, &view.id, attributes, Vec::new())
}

fn dashboard(placed: &Placed) -> Result<Value, String> {
    let Placed { id, view, dashboard, .. } = placed;
    let (mut panels, mut references, mut corner) = (Vec::new(), Vec::new(), Corner::of_width(GRID_WIDTH));
    for (at, panel) in dashboard.panels.iter().enumerate() {
        let index = format!("p{at}");
        let own = placed.view_of(panel);
        let (attributes, layers) = lens::attributes(panel, own).map_err(|fault| format!("{id}: {fault}"))?;
        let [width, height] = panel.size;
        let (x, y) = corner.place(panel.size);
        panels.push(json!({
            "type": "lens", "panelIndex": index, "title": panel.title, "version": DASHBOARD_VERSION,
            "gridData": { "x": x, "y": y, "w": width, "h": height, "i": index },
            "embeddableConfig": { "attributes": attributes, "enhancements": {}, "hidePanelTitles": false },
        }));
        references.extend(layers.iter().map(|layer| lens::reference(layer, &format!("{index}:"), &own.id)));
    }
    let (controls, chosen) = controls(&dashboard.controls, view)?;
    references.extend(chosen);
    let options = json!({
        "useMargins": true, "syncColors": true, "syncCursor": true, "syncTooltips": false, "hidePanelTitles": false,
    });
    let mut attributes = json!({
        "title": dashboard.title, "description": dashboard.note, "version": 1, "hits": 0,
        "timeRestore": true, "timeFrom": dashboard.from, "timeTo": "now",
        "refreshInterval": { "pause": false, "value": 10_000 },
        "kibanaSavedObjectMeta": {
            "searchSourceJSON": text(json!({ "query": { "language": "kuery", "query": "" }, "filter": [] })),
        },
        "optionsJSON": text(options),
        "panelsJSON": text(Value::Array(panels)),
    });
    if let Some(controls) = controls {
        attributes["controlGroupInput"] = controls;
    }
    Ok(object("dashboard", DASHBOARD_VERSION, id, attributes, references))
}

/// Where the next panel's upper left corner is.
pub(super) struct Corner {
    grid: u32,
    x: u32,
    y: u32,
    /// Height of the row so far.
    row: u32,
}

impl Corner {
    /// In a grid of so many columns.
    pub(super) fn of_width(grid: u32) -> Self {
        Corner { grid, x: 0, y: 0, row: 0 }
    }

    /// The place of a panel of this width and height.
    pub(super) fn place(&mut self, [width, height]: [u32; 2]) -> (u32, u32) {
        if self.x + width > self.grid {
            (self.x, self.y, self.row) = (0, self.y + self.row, 0);
        }
        let place = (self.x, self.y);
        self.x += width;
        self.row = self.row.max(height);
        place
    }
}

/// The lists to choose from above the panels, and their references.
fn controls(fields: &[String], view: &View) -> Result<(Option<Value>, Vec<Value>), String> {
    let (mut panels, mut references) = (Map::new(), Vec::new());
    for (order, field) in fields.iter().enumerate() {
        view.field(field)?;
        let id = format!("c{order}");
        let input = json!({
            "id": id, "fieldName": field, "title": field.replace('_', " "), "enhancements": {},
            "selectedOptions": [], "searchTechnique": "prefix", "sort": { "by": "_count", "direction": "desc" },
        });
        let panel = json!({
            "type": "optionsListControl", "order": order, "grow": true, "width": "medium", "explicitInput": input,
        });
        panels.insert(id.clone(), panel);
        let name = format!("controlGroup_{id}:optionsListDataView");
        references.push(json!({ "type": "index-pattern", "id": view.id, "name": name }));
    }
    if panels.is_empty() {
        return Ok((None, references));
    }
    let ignored = json!({
        "ignoreFilters": false, "ignoreQuery": false, "ignoreTimerange": false, "ignoreValidations": false,
    });
    let group = json!({
        "controlStyle": "oneLine", "chainingSystem": "HIERARCHICAL", "showApplySelections": false,
        "ignoreParentSettingsJSON": text(ignored), "panelsJSON": text(Value::Object(panels)),
    });
    Ok((Some(group), references))
}
