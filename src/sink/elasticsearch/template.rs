//! Index and component templates: what to put, and when.
//!
//! Two component templates (settings, common fields) and one index template a flow; four more, one a table, if the flow's audit is written too. The bodies are the files of `schemas/elasticsearch/`;
//! a flow whose index or fields none of them fits gets one derived from the table's column types. What is put carries
//! `_meta.version` and `_meta.digest`, and is put only when it is absent, older, or of our version with other content: a re-run changes
//! nothing, an operator's newer one is left alone. What an installation wants otherwise it puts into `windkessel@custom`.
//! Several workers may do it at once: they put the same.
//!
//! Invariants: names and patterns come from the flow's index only; an index name with a longer stem wins over a shorter one (its priority is
//! higher), so two flows with stems `bp` and `bp-icu` do not collide.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Schema};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tracing::{info, warn};

use crate::config::{ElasticsearchSpec, IndexBy, TableName};
use crate::sink::SinkError;

use super::client::Request;
use super::destination::Destination;
use super::document::Documents;
use super::{SINK, findings, indices, lifecycle, response};

const SETTINGS: &str = include_str!("../../../schemas/elasticsearch/windkessel-settings.component.json");
const MAPPINGS: &str = include_str!("../../../schemas/elasticsearch/windkessel-mappings.component.json");
const SHIPPED: [&str; 9] = [
    include_str!("../../../schemas/elasticsearch/bp-readings.template.json"),
    include_str!("../../../schemas/elasticsearch/bp-anomalies.template.json"),
    include_str!("../../../schemas/elasticsearch/blood_pressure_anomalies_v2.template.json"),
    include_str!("../../../schemas/elasticsearch/fhir_anomalies.template.json"),
    include_str!("../../../schemas/elasticsearch/bp-audit-shifts.template.json"),
    include_str!("../../../schemas/elasticsearch/bp-audit-quality.template.json"),
    include_str!("../../../schemas/elasticsearch/bp-audit-performance.template.json"),
    include_str!("../../../schemas/elasticsearch/bp-audit-fairness.template.json"),
    include_str!("../../../schemas/elasticsearch/bp-audit-alerts.template.json"),
];

/// Above the templates that Elastic ships (100 to 200); the length of the stem is added.
const PRIORITY_MIN: usize = 200;
/// Version of a derived template; its digest tells two apart.
const DERIVED_VERSION: u64 = 1;
/// Longer texts are stored but cannot be searched or counted.
const KEYWORD_BYTES_MAX: u32 = 256;
/// How many indices one request extends: their names stand in its path.
const EXTENDED_AT_ONCE: usize = 32;

/// One template, or a lifecycle policy: what is put by name and versioned.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    kind: Kind,
    name: String,
    body: Value,
}

/// What kind of thing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A component template.
    Component,
    /// An index template.
    Index,
    /// A lifecycle policy.
    Policy,
}

/// What was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// What it is, with its name.
    pub what: String,
    /// It was put; else it was there already, as it should be or newer.
    pub changed: bool,
}

impl Template {
    /// Gives the body its version and its digest.
    pub fn new(kind: Kind, name: impl Into<String>, mut body: Value) -> Self {
        let version = body["_meta"]["version"].as_u64().unwrap_or(DERIVED_VERSION);
        let mut meta = body["_meta"].take();
        let content: String =
            Sha256::digest(body.to_string()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        meta["version"] = json!(version);
        meta["digest"] = json!(content);
        body["_meta"] = meta;
        Template { kind, name: name.into(), body }
    }

    /// Where it is put.
    pub fn path(&self) -> String {
        match self.kind {
            Kind::Policy => format!("/_ilm/policy/{}", self.name),
            Kind::Component => format!("/_component_template/{}", self.name),
            Kind::Index => format!("/_index_template/{}", self.name),
        }
    }

    /// What it says.
    pub fn body(&self) -> &Value {
        &self.body
    }

    /// What it is, with its name.
    fn title(&self) -> String {
        let kind = match self.kind {
            Kind::Component => "component template",
            Kind::Index => "index template",
            Kind::Policy => "lifecycle policy",
        };
        format!("{kind} {}", self.name)
    }

    /// What it is for.
    pub fn description(&self) -> &str {
        self.body["_meta"]["description"].as_str().unwrap_or_default()
    }

    /// The `_meta` in the answer to GET.
    fn meta<'a>(&self, answer: &'a Value) -> &'a Value {
        match self.kind {
            Kind::Component => &answer["component_templates"][0]["component_template"]["_meta"],
            Kind::Index => &answer["index_templates"][0]["index_template"]["_meta"],
            Kind::Policy => &answer[&self.name]["policy"]["_meta"],
        }
    }

    /// True if what is there, by its `_meta`, is to be replaced.
    fn is_due(&self, there: &Value) -> bool {
        let ours = &self.body["_meta"];
        match (there["version"].as_u64(), ours["version"].as_u64()) {
            (Some(theirs), Some(version)) if theirs == version => there["digest"] != ours["digest"],
            (theirs, version) => theirs < version,
        }
    }
}

/// The templates of one table's indices, in the order in which they must be put, and which indices those are.
pub struct Planned {
    templates: Vec<Template>,
    index: String,
    by: IndexBy,
}

#[cfg(test)]
impl Planned {
    /// The template of the indices themselves.
    pub(super) fn last(mut self) -> Template {
        self.templates.pop().expect("three of them")
    }
}

/// Those of a flow's readings.
pub fn plan(spec: &ElasticsearchSpec, documents: &Documents, schema: &Schema) -> Planned {
    let written = written(documents, schema);
    planned(&spec.index, spec.index_by, &written, lifecycle::policy_name(spec))
}

/// Those of one table of its audit: one index, without an end.
pub fn plan_findings(spec: &ElasticsearchSpec, table: TableName, schema: &Schema) -> Planned {
    let fields = findings::fields(schema).into_iter();
    let written =
        fields.filter_map(|(field, column)| Some((field, mapping(schema.field_with_name(&column).ok()?.data_type()))));
    planned(&findings::index(&spec.audit, table), IndexBy::None, &written.collect(), None)
}

fn planned(index: &str, by: IndexBy, written: &BTreeMap<String, Value>, policy: Option<String>) -> Planned {
    let common = shipped(MAPPINGS);
    let body = SHIPPED
        .iter()
        .map(|text| shipped(text))
        .find(|body| fits(body, index) && covers(&[properties(body), properties(&common)], written))
        .unwrap_or_else(|| derived(written, &properties(&common)));
    let templates = vec![
        Template::new(Kind::Component, "windkessel-settings", shipped(SETTINGS)),
        Template::new(Kind::Component, "windkessel-mappings", common),
        Template::new(Kind::Index, format!("windkessel-{index}"), for_index(body, index, by, policy)),
    ];
    Planned { templates, index: index.to_owned(), by }
}

/// Elasticsearch's type of each field, `@timestamp` and the like included, that the shipped template of this name maps. Objects, such as `event`,
/// are left out. `None` if no template of this name is shipped.
pub fn field_types(stem: &str) -> Option<BTreeMap<String, String>> {
    let bodies = SHIPPED.iter().map(|text| shipped(text));
    let body = bodies.into_iter().find(|body| body["index_patterns"][0] == format!("{stem}*"))?;
    let fields = properties(&shipped(MAPPINGS)).into_iter().chain(properties(&body));
    Some(fields.filter_map(|(field, mapping)| Some((field, mapping["type"].as_str()?.to_owned()))).collect())
}

/// Puts what is due, the templates that several tables have once; then gives existing indices the fields that they lack.
pub fn install(destination: &mut Destination, planned: &[Planned]) -> Result<Vec<Installed>, SinkError> {
    let mut installed: Vec<Installed> = Vec::new();
    for template in planned.iter().flat_map(|planned| &planned.templates) {
        if installed.iter().all(|known| known.what != template.title()) {
            installed.push(put_if_due(destination, template)?);
        }
    }
    let changed = |template: &Template| installed.iter().any(|known| known.changed && known.what == template.title());
    for planned in planned.iter().filter(|planned| planned.templates.iter().any(changed)) {
        extend(destination, planned)?;
    }
    Ok(installed)
}

/// Gives the indices that are there the fields of their templates.
fn extend(destination: &mut Destination, planned: &Planned) -> Result<(), SinkError> {
    let Planned { templates, index, by } = planned;
    let fields: Map<String, Value> = templates.iter().flat_map(|template| properties(&template.body)).collect();
    let existing = indices::existing(destination, index, *by)?;
    for names in existing.chunks(EXTENDED_AT_ONCE) {
        let path = format!("/{}/_mapping?ignore_unavailable=true", names.join(","));
        let reply = destination.ask(&Request::put(path, &json!({ "properties": fields })))?;
        if reply.status != 200 {
            let error = response::error_type(&reply.body);
            warn!(sink = SINK, index, error, "an existing index keeps a mapping that contradicts the template");
        }
    }
    Ok(())
}

/// Puts one if it is absent, older, or of our version with other content.
pub fn put_if_due(destination: &mut Destination, template: &Template) -> Result<Installed, SinkError> {
    let there = destination.ask(&Request::get(template.path()))?;
    let due = match there.status {
        404 => true,
        200 => {
            let answer: Value = serde_json::from_slice(&there.body).unwrap_or_default();
            template.is_due(template.meta(&answer))
        }
        status => return Err(refused(template, status, &there.body)),
    };
    if due {
        let body = match template.kind {
            Kind::Policy => json!({ "policy": template.body }),
            Kind::Component | Kind::Index => template.body.clone(),
        };
        let reply = destination.ask(&Request::put(template.path(), &body))?;
        if reply.status != 200 {
            return Err(refused(template, reply.status, &reply.body));
        }
        info!(sink = SINK, template = template.name, for_what = template.description(), "template installed");
    }
    Ok(Installed { what: template.title(), changed: due })
}

fn refused(template: &Template, status: u16, body: &[u8]) -> SinkError {
    let hint = match template.kind {
        Kind::Policy => {
            "it takes the privilege manage_ilm, and a server with lifecycle management: else leave sink.elasticsearch.keep \"unbounded\""
        }
        Kind::Component | Kind::Index => {
            "another template may claim the same indices with the same priority; or put the files of schemas/elasticsearch/ yourself and set \
             sink.elasticsearch.install_template = false"
        }
    };
    let (title, error) = (template.title(), response::error_type(body));
    SinkError::Refused(format!("could not install the {title}: Elasticsearch answered {status} ({error}); {hint}"))
}

fn shipped(text: &str) -> Value {
    serde_json::from_str(text).expect("a test reads every shipped template")
}

fn properties(body: &Value) -> Map<String, Value> {
    body["template"]["mappings"]["properties"].as_object().cloned().unwrap_or_default()
}

/// What a flow writes besides the common fields, with the types that the table's columns have.
fn written(documents: &Documents, schema: &Schema) -> BTreeMap<String, Value> {
    let columns = documents.columns(schema).into_iter().filter_map(|(field, column)| {
        let column = schema.field_with_name(&column).ok()?;
        Some((field, mapping(column.data_type())))
    });
    columns.chain(documents.labels().iter().map(|field| (field.clone(), keyword()))).collect()
}

/// True if one of the body's patterns takes an index of this name or stem.
fn fits(body: &Value, index: &str) -> bool {
    let patterns = body["index_patterns"].as_array().into_iter().flatten().filter_map(Value::as_str);
    patterns.into_iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(stem) => index.starts_with(stem),
        None => pattern == index,
    })
}

fn covers(mapped: &[Map<String, Value>], written: &BTreeMap<String, Value>) -> bool {
    written.keys().all(|field| mapped.iter().any(|properties| properties.contains_key(field)))
}

fn derived(written: &BTreeMap<String, Value>, common: &Map<String, Value>) -> Value {
    let own: Map<String, Value> =
        written.iter().filter(|(field, _)| !common.contains_key(*field)).map(|(k, v)| (k.clone(), v.clone())).collect();
    json!({
        "composed_of": ["windkessel-settings", "windkessel-mappings", "windkessel@custom"],
        "ignore_missing_component_templates": ["windkessel@custom"],
        "template": { "mappings": { "properties": own } },
        "_meta": {
            "version": DERIVED_VERSION,
            "managed_by": "windkessel",
            "description": "Derived from the flow's columns.",
        },
    })
}

/// The body with the patterns, the priority and the lifecycle policy of the flow's own indices.
fn for_index(mut body: Value, index: &str, by: IndexBy, policy: Option<String>) -> Value {
    if let Some(policy) = policy {
        body["template"]["settings"] = json!({ "index": { "lifecycle": { "name": policy } } });
    }
    body["index_patterns"] = match by {
        IndexBy::None => json!([index]),
        IndexBy::Month => json!([format!("{index}-*")]),
    };
    body["priority"] = json!(PRIORITY_MIN + index.len());
    body
}

fn keyword() -> Value {
    json!({ "type": "keyword", "ignore_above": KEYWORD_BYTES_MAX })
}

/// Elasticsearch's type for a column. A list has its item's: every field may hold several values.
fn mapping(column: &DataType) -> Value {
    match column {
        DataType::List(item) => mapping(item.data_type()),
        DataType::Dictionary(_, value) => mapping(value),
        DataType::Boolean => json!({ "type": "boolean" }),
        DataType::Int8 | DataType::Int16 | DataType::Int32 => json!({ "type": "integer" }),
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => json!({ "type": "long" }),
        DataType::Float32 | DataType::Float64 => json!({ "type": "float" }),
        DataType::Timestamp(..) => json!({ "type": "date", "format": "strict_date_optional_time" }),
        _ => keyword(),
    }
}

#[cfg(test)]
mod tests {
    //! What these prove: the files are sound, the right one is chosen, and when one is put. Against a real server: `real.rs`.

    use super::super::testing::{readings, row};
    use super::*;
    use crate::config::ElasticsearchSpec;

    fn schema() -> Schema {
        readings(&[row(1)]).batch.schema().as_ref().clone()
    }

    fn planned(spec: &ElasticsearchSpec) -> Template {
        let documents = Documents::new(spec).unwrap();
        plan(spec, &documents, &schema()).last()
    }

    #[test]
    fn every_shipped_template_is_sound() {
        for text in SHIPPED {
            let body = shipped(text);
            assert!(body["priority"].as_u64().unwrap() >= 200);
            assert!(body["_meta"]["version"].as_u64().is_some());
            assert_eq!(body["composed_of"], json!(["windkessel-settings", "windkessel-mappings", "windkessel@custom"]));
            assert_eq!(body["ignore_missing_component_templates"], json!(["windkessel@custom"]));
            assert!(!text.contains("\"text\""), "no text field: Kibana cannot count by it");
        }
        assert_eq!(shipped(MAPPINGS)["template"]["mappings"]["dynamic"], "strict");
    }

    #[test]
    fn the_reference_flow_gets_the_shipped_template_under_its_own_pattern() {
        let template = planned(&ElasticsearchSpec::default());
        assert_eq!(template.name, "windkessel-bp-readings");
        assert_eq!(template.body["index_patterns"], json!(["bp-readings-*"]));
        assert_eq!(template.body["priority"], 211);
        assert!(template.description().contains("blood_pressure.toml"));
    }

    /// The files of the audit's tables say what the tables are, no more and no less; another stem gets the same, derived.
    #[test]
    fn the_audit_gets_the_shipped_templates_and_each_maps_all_that_its_table_has() {
        for table in findings::TABLES {
            let schema = super::super::testing::tables().schema(table).clone();
            for stem in ["bp-audit", "ward-7"] {
                let spec = ElasticsearchSpec { audit: stem.into(), keep: "90d".parse().unwrap(), ..Default::default() };
                let planned = plan_findings(&spec, table, &schema);
                let index = format!("{stem}-{}", table.name());
                let template = planned.templates.last().unwrap();
                assert_eq!(template.name, format!("windkessel-{index}"));
                assert_eq!(template.body["index_patterns"], json!([index]));
                assert_eq!(template.body["template"]["settings"], Value::Null, "kept for ever");
                let common = properties(&shipped(MAPPINGS));
                let columns = schema.fields().iter().filter(|field| !common.contains_key(field.name()));
                let columns: Map<String, Value> =
                    columns.map(|field| (field.name().clone(), mapping(field.data_type()))).collect();
                assert_eq!(properties(&template.body), columns, "{index}");
                assert_eq!(template.description().contains("sink.elasticsearch.audit"), stem == "bp-audit", "{index}");
            }
        }
    }

    #[test]
    fn other_fields_or_another_index_get_a_derived_template() {
        let fields = [
            ("who", "patient"),
            ("why", "labels"),
            ("mmhg", "systolic_mmhg"),
            ("at", "effective_at"),
            ("r", "reasons"),
        ];
        let fields: BTreeMap<_, _> = fields.map(|(field, column)| (field.to_string(), column.to_string())).into();
        for (index, by, pattern) in [("bp-readings", IndexBy::None, "bp-readings"), ("else", IndexBy::Month, "else-*")]
        {
            let spec =
                ElasticsearchSpec { index: index.into(), index_by: by, fields: fields.clone(), ..Default::default() };
            let template = planned(&spec);
            assert_eq!(template.body["index_patterns"], json!([pattern]));
            let date = json!({ "type": "date", "format": "strict_date_optional_time" });
            assert_eq!(
                template.body["template"]["mappings"]["properties"],
                json!({ "at": date, "mmhg": { "type": "float" }, "r": keyword(), "who": keyword(), "why": keyword() })
            );
        }
    }

    #[test]
    fn a_template_is_put_when_absent_older_or_changed() {
        let template = planned(&ElasticsearchSpec::default());
        let ours = template.body["_meta"].clone();
        let version = ours["version"].as_u64().unwrap();
        assert!(template.is_due(&Value::Null), "somebody else's");
        assert!(!template.is_due(&ours), "a re-run changes nothing");
        assert!(template.is_due(&json!({ "version": version - 1, "digest": ours["digest"] })), "older");
        assert!(template.is_due(&json!({ "version": version, "digest": "other" })), "changed");
        assert!(!template.is_due(&json!({ "version": version + 1, "digest": "other" })), "newer");
    }
}
