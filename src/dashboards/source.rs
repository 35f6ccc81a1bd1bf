//! The descriptions of Kibana's dashboards, as `schemas/kibana/*.toml` hold them.
//!
//! A panel says what is shown (`values`), by what (`rows`, `by`) and of which documents (`where`, in Kibana's query language). Everything
//! else, such as ids, references, layout and formats, follows from it. A description may stand over several indices: `{type}` is then
//! the field that the index calls so.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value as Json;

use crate::sink::elasticsearch::template;

/// Every dashboard, in the order in which they are exported.
const DASHBOARDS: [(&str, &str); 6] = [
    ("anomalies", include_str!("../../schemas/kibana/anomalies.toml")),
    ("patient", include_str!("../../schemas/kibana/patient.toml")),
    ("drift", include_str!("../../schemas/kibana/drift.toml")),
    ("scores", include_str!("../../schemas/kibana/scores.toml")),
    ("pipeline", include_str!("../../schemas/kibana/pipeline.toml")),
    ("drop_in", include_str!("../../schemas/kibana/drop_in.toml")),
];
const VIEWS: &str = include_str!("../../schemas/kibana/views.toml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Views {
    view: Vec<View>,
}

/// A data view: the indices of one pattern.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// The saved object's id.
    pub id: String,
    /// The pattern of index names.
    pub title: String,
    /// What users see.
    pub name: String,
    /// The index template that maps its fields.
    template: String,
    /// Elasticsearch's type of each field, from the template.
    #[serde(skip)]
    types: BTreeMap<String, String>,
}

impl View {
    /// Elasticsearch's type of a field.
    ///
    /// # Errors
    /// The template has no such field.
    pub fn field(&self, name: &str) -> Result<&str, String> {
        let found = self.types.get(name).map(String::as_str);
        found.ok_or_else(|| format!("the template {:?} has no field {name:?}", self.template))
    }
}

/// The data views.
///
/// # Errors
/// A description that cannot be read.
pub fn views() -> Result<Vec<View>, String> {
    let Views { mut view } = toml::from_str(VIEWS).map_err(|error| format!("views.toml: {error}"))?;
    for view in &mut view {
        view.types = template::field_types(&view.template)
            .ok_or_else(|| format!("views.toml: there is no template {:?}", view.template))?;
    }
    Ok(view)
}

/// A dashboard, or the same one over several indices.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dashboard {
    /// What users see.
    pub title: String,
    /// What it is for.
    pub note: String,
    /// The stretch of time that it opens with, up to now.
    pub from: String,
    /// Fields that can be chosen by.
    #[serde(default)]
    pub controls: Vec<String>,
    /// Where it is looked at; one saved object each.
    over: Vec<Over>,
    /// The panels, from left to right and from top to bottom.
    #[serde(rename = "panel")]
    pub panels: Vec<Panel>,
}

/// One index that a dashboard is over.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Over {
    id: String,
    view: String,
    #[serde(default)]
    fields: BTreeMap<String, String>,
}

/// One panel.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Panel {
    /// What stands above it.
    pub title: String,
    /// What stands behind its question mark.
    #[serde(default)]
    pub note: String,
    /// How it is drawn.
    pub chart: Chart,
    /// Width and height in Kibana's grid, which is 48 wide.
    pub size: [u32; 2],
    /// The data view that it looks at, if that is not the dashboard's.
    view: Option<String>,
    /// Left out where the index has no field of this role.
    needs: Option<String>,
    /// Which documents, in Kibana's query language; all if absent.
    #[serde(rename = "where")]
    only: Option<String>,
    /// Withdrawn readings count as well.
    #[serde(default)]
    retracted: bool,
    /// The horizontal axis, the slices, or the rows of a table.
    #[serde(default)]
    pub rows: Vec<Bucket>,
    /// What is told apart by colour.
    pub by: Option<Bucket>,
    /// The figures.
    pub values: Vec<Figure>,
    /// The two figures, over all that is shown, that a band reaches from and to.
    #[serde(default)]
    pub band: Vec<Figure>,
    /// Fixed values that are drawn across.
    #[serde(default)]
    pub lines: Vec<Line>,
}

/// A fixed value that is drawn across a panel.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The value.
    pub at: f64,
    /// What stands beside it.
    pub label: String,
}

/// How a panel is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Chart {
    /// One number.
    Metric,
    /// Upright, stacked.
    Bars,
    /// Lying.
    Hbars,
    /// Upright, stacked to one hundred percent.
    Shares,
    /// Lines.
    Lines,
    /// A ring.
    Pie,
    /// A table.
    Table,
}

/// What documents are sorted into.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Bucket {
    /// Stretches of event time: a fixed length, or `auto`.
    Time {
        /// Their length.
        time: String,
        /// What stands beside it.
        label: Option<String>,
    },
    /// Stretches of a number, all of one width.
    Ranges {
        /// The field.
        ranges: String,
        /// Start of the first.
        from: f64,
        /// End of the last, exclusive.
        to: f64,
        /// Width of each.
        width: f64,
    },
    /// The most frequent values.
    Top {
        /// How many.
        top: u32,
        /// The field.
        of: String,
        /// What stands beside it.
        label: Option<String>,
    },
    /// The values with the newest documents; the panel's first figure is their time.
    Newest {
        /// How many.
        newest: u32,
        /// The field.
        of: String,
    },
}

/// A figure.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// What is computed.
    pub measure: Measure,
    /// Of which field; `count` and `share` have none.
    pub of: Option<String>,
    /// Which percentile.
    pub percent: Option<u8>,
    /// Which documents.
    #[serde(rename = "where")]
    pub only: Option<String>,
    /// What stands beside it.
    pub label: Option<String>,
    /// Digits behind the point.
    pub decimals: Option<u8>,
}

/// What a figure computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// Documents.
    Count,
    /// Documents of `where` as a part of all.
    Share,
    /// Arithmetic mean.
    Average,
    /// The 50th percentile.
    Median,
    /// A percentile.
    Percentile,
    /// Smallest.
    Min,
    /// Largest.
    Max,
    /// Different values.
    Unique,
    /// The newest document's value.
    Last,
}

impl Panel {
    /// Which documents: Kibana's query language.
    pub fn query(&self) -> String {
        let standing = (!self.retracted).then(|| "NOT retracted: true".to_owned());
        standing.into_iter().chain(self.only.clone()).collect::<Vec<_>>().join(" and ")
    }
}

/// A dashboard over one data view, ready to be generated.
pub struct Placed {
    /// The saved object's id.
    pub id: String,
    /// The data view.
    pub view: View,
    /// Those of panels that look at another one.
    others: Vec<View>,
    /// With the fields of that view.
    pub dashboard: Dashboard,
}

impl Placed {
    /// The data view that a panel looks at.
    pub fn view_of(&self, panel: &Panel) -> &View {
        let own = panel.view.as_ref().and_then(|id| self.others.iter().find(|view| view.id == *id));
        own.unwrap_or(&self.view)
    }
}

/// Every dashboard over every index.
///
/// # Errors
/// A description that cannot be read, or names a view that is not there.
pub fn dashboards() -> Result<Vec<Placed>, String> {
    let views = views()?;
    let mut placed = Vec::new();
    for (name, text) in DASHBOARDS {
        let described: toml::Table = toml::from_str(text).map_err(|error| format!("{name}.toml: {error}"))?;
        let described = serde_json::to_value(described).expect("TOML without dates is JSON");
        let read = |described: Json| serde_json::from_value::<Dashboard>(described);
        let plain = read(described.clone()).map_err(|error| format!("{name}.toml: {error}"))?;
        for over in plain.over {
            let named = |id: &String| {
                let view = views.iter().find(|view| view.id == *id);
                view.cloned().ok_or_else(|| format!("{name}.toml: there is no view {id:?}"))
            };
            let view = named(&over.view)?;
            let others = plain.panels.iter().filter_map(|panel| panel.view.as_ref()).map(named);
            let others = others.collect::<Result<Vec<_>, _>>()?;
            let mut dashboard =
                read(filled(&described, &over.fields)).map_err(|error| format!("{name}.toml: {error}"))?;
            let has = |panel: &Panel| panel.needs.as_ref().is_none_or(|role| over.fields.contains_key(role));
            dashboard.panels.retain(has);
            placed.push(Placed { id: over.id, view, others, dashboard });
        }
    }
    Ok(placed)
}

/// The same with every `{role}` replaced by its field, in texts and queries alike.
fn filled(described: &Json, fields: &BTreeMap<String, String>) -> Json {
    match described {
        Json::String(text) => {
            let fill = |text: String, (role, field): (&String, &String)| text.replace(&format!("{{{role}}}"), field);
            fields.iter().fold(text.clone(), fill).into()
        }
        Json::Array(items) => items.iter().map(|item| filled(item, fields)).collect(),
        Json::Object(entries) => entries.iter().map(|(key, item)| (key.clone(), filled(item, fields))).collect(),
        other => other.clone(),
    }
}
