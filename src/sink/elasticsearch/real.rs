//! Against a real Elasticsearch, when `WINDKESSEL_TEST_ELASTICSEARCH` names its URL (with `…_USER` and `…_PASSWORD_FILE`, `…_CA_FILE`
//! if it asks for them, and `…_API_KEY_FILE` for the sink alone): that the templates are accepted, and that it answers as the scripted server of `tests.rs` pretends.
//!
//! Every test writes to indices of its own, named at random, and removes them.

use std::env;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::testing::{pseudonym, readings_of, row};
use super::*;
use crate::config::Spec;
use crate::score::rules::rule_set;
use ureq::http::Method;

/// One test at a time: one of them looks whether the cluster's state changes.
static ALONE: Mutex<()> = Mutex::new(());

/// A real cluster and an index name of one's own in it.
struct Real {
    spec: ElasticsearchSpec,
    client: Client,
    state: tempfile::TempDir,
    metrics: Metrics,
    _alone: MutexGuard<'static, ()>,
}

impl Drop for Real {
    fn drop(&mut self) {
        let index = &self.spec.index;
        self.ask(Method::DELETE, &format!("/_index_template/windkessel-{index}"), None);
        for name in self.months() {
            self.ask(Method::DELETE, &format!("/{name}"), None);
        }
    }
}

/// `None`, said aloud, where there is no server.
fn real(test: &str, spec: ElasticsearchSpec) -> Option<Real> {
    let Ok(url) = env::var("WINDKESSEL_TEST_ELASTICSEARCH") else {
        // Never a failure: `tests/services` starts a server and runs these tests once more against it.
        println!("SKIPPED {test}: WINDKESSEL_TEST_ELASTICSEARCH names no server");
        return None;
    };
    let spec = ElasticsearchSpec {
        url,
        index: format!("{}-test-{:08x}", spec.index, getrandom::u32().unwrap()),
        user: env::var("WINDKESSEL_TEST_ELASTICSEARCH_USER").ok(),
        password_file: env::var("WINDKESSEL_TEST_ELASTICSEARCH_PASSWORD_FILE").ok().map(Into::into),
        ca_file: env::var("WINDKESSEL_TEST_ELASTICSEARCH_CA_FILE").ok().map(Into::into),
        ..spec
    };
    Some(Real {
        client: Client::new(&spec, REQUEST_TIMEOUT).unwrap(),
        spec,
        state: tempfile::tempdir().unwrap(),
        metrics: Metrics::new(),
        _alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner),
    })
}

impl Real {
    /// The sink, with an API key of its own privileges if there is one.
    fn sink(&self) -> ElasticsearchSink {
        let mut spec = self.spec.clone();
        if let Ok(file) = env::var("WINDKESSEL_TEST_ELASTICSEARCH_API_KEY_FILE") {
            spec = ElasticsearchSpec { api_key_file: Some(file.into()), user: None, password_file: None, ..spec };
        }
        ElasticsearchSink::new(&spec, 0, self.state.path(), Stop::default(), self.metrics.clone()).unwrap()
    }

    fn epoch(&self, sink: &mut ElasticsearchSink, rows: &Rows, epoch: Epoch) {
        sink.deliver(epoch, rows).unwrap();
        sink.close(epoch).unwrap();
    }

    fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let body = body.as_ref().map(Body::json);
        let reply = self.client.send(&Request { method, path: path.into(), body }).unwrap();
        serde_json::from_slice(&reply.body).unwrap()
    }

    fn get(&self, path: &str) -> Value {
        self.ask(Method::GET, path, None)
    }

    fn document(&self, index: &str, number: u8) -> Value {
        self.get(&format!("/{index}/_doc/{}", pseudonym(number)))
    }

    fn months(&self) -> Vec<String> {
        let names = self.get(&format!("/{}*/_alias", self.spec.index));
        names.as_object().unwrap().keys().cloned().collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    }

    fn state_version(&self) -> Value {
        self.get("/_cluster/state/version")["version"].clone()
    }
}

#[test]
fn templates_install_once_and_the_reference_mapping_holds() {
    let Some(real) = real("templates", ElasticsearchSpec::default()) else { return };
    let rows = readings_of(7, &[row(1).pressure(150.0, 90.0).reasons(&["stage 2"]), row(2).at("2026-02-01T00:00:00Z")]);
    let mut sink = real.sink();
    real.epoch(&mut sink, &rows, 7);
    sink.finish().unwrap();
    let index = &real.spec.index;
    assert_eq!(real.months(), [format!("{index}-2026.01"), format!("{index}-2026.02")]);
    let mapping = real.get(&format!("/{index}-2026.01/_mapping"));
    let mapping = &mapping[format!("{index}-2026.01")]["mappings"];
    assert_eq!(mapping["dynamic"], "strict");
    assert_eq!(mapping["properties"]["systolic_mmhg"]["type"], "float");
    assert_eq!(mapping["properties"]["reasons"]["type"], "keyword");
    let hits = real.get(&format!("/{index}-*/_count"));
    assert_eq!(hits["count"], 2, "searchable after finish");

    let path = format!("/_index_template/windkessel-{index}");
    let (before, version) = (real.get(&path), real.state_version());
    let mut again = real.sink();
    real.epoch(&mut again, &rows, 7);
    assert_eq!(real.get(&path), before);
    assert_eq!(real.state_version(), version, "a re-run changes nothing in the cluster");
    assert_eq!(real.metrics.sink_records.with_label_values(&[SINK, "readings"]).get(), 4, "409 is as good as written");
}

#[test]
fn an_older_template_is_replaced_and_a_newer_one_is_kept() {
    let Some(real) = real("template versions", ElasticsearchSpec::default()) else { return };
    let path = format!("/_index_template/windkessel-{}", real.spec.index);
    for (version, kept) in [(0, false), (999, true)] {
        let body = json!({
            "index_patterns": [format!("{}-*", real.spec.index)],
            "priority": 500,
            "_meta": { "version": version },
        });
        real.ask(Method::PUT, &path, Some(body));
        real.epoch(&mut real.sink(), &readings_of(7, &[row(1)]), 7);
        let there = &real.get(&path)["index_templates"][0]["index_template"]["priority"];
        assert_eq!(*there == 500, kept, "version {version}");
    }
}

#[test]
fn a_mapping_error_leaves_the_others_written() {
    let Some(real) = real("mapping error", ElasticsearchSpec::default()) else { return };
    let index = format!("{}-2026.01", real.spec.index);
    // A month that was made by hand, with a type that contradicts: `category` is a text such as "stage 2".
    let body = json!({ "mappings": { "properties": { "category": { "type": "integer" } } } });
    real.ask(Method::PUT, &format!("/{index}"), Some(body));
    let rows = readings_of(7, &[row(1), row(2).pressure(150.0, 90.0), row(3)]);
    real.epoch(&mut real.sink(), &rows, 7);
    let found: Vec<Value> = (1..=3).map(|number| real.document(&index, number)["found"].clone()).collect();
    assert_eq!(found, [true, false, true]);
    let letters = std::fs::read_to_string(real.state.path().join("dead_letters/elasticsearch-0.ndjson")).unwrap();
    let letter: Value = serde_json::from_str(letters.trim()).unwrap();
    assert_eq!(letter["document_id"], pseudonym(2).to_string());
    assert_eq!((&letter["status"], &letter["error_type"]), (&json!(400), &json!("document_parsing_exception")));
    assert!(!letters.contains("stage 2"));
}

#[test]
fn an_older_epoch_does_not_overwrite() {
    let Some(real) = real("external versions", ElasticsearchSpec::default()) else { return };
    let index = format!("{}-2026.01", real.spec.index);
    let pressure = |epoch, systolic| readings_of(epoch, &[row(1).pressure(systolic, 80.0)]);
    real.epoch(&mut real.sink(), &pressure(9, 120.0), 9);
    real.epoch(&mut real.sink(), &pressure(8, 110.0), 8);
    let document = real.document(&index, 1);
    assert_eq!((&document["_version"], &document["_source"]["systolic_mmhg"]), (&json!(9), &json!(120.0)));
    assert_eq!(real.metrics.sink_records.with_label_values(&[SINK, "readings"]).get(), 2);
}

#[test]
fn a_correction_to_another_month_retracts_the_old_document() {
    let Some(real) = real("moved documents", ElasticsearchSpec::default()) else { return };
    let mut sink = real.sink();
    real.epoch(&mut sink, &readings_of(7, &[row(1).at("2025-01-02T00:00:00Z"), row(2).at("2025-01-02T00:00:00Z")]), 7);
    let moved = readings_of(8, &[row(1).at("2026-01-02T00:00:00Z").replaces()]);
    // Twice, as after a crash before the epoch was settled.
    real.epoch(&mut sink, &moved, 8);
    real.epoch(&mut real.sink(), &moved, 8);
    let stem = &real.spec.index;
    let state = |month: &str, number| {
        let document = real.document(&format!("{stem}-{month}"), number);
        (document["_version"].clone(), document["_source"]["retracted"].clone())
    };
    assert_eq!(state("2025.01", 1), (json!(8), json!(true)));
    assert_eq!(state("2026.01", 1), (json!(8), json!(false)));
    assert_eq!(state("2025.01", 2), (json!(7), json!(false)));
    // The old version, replayed, stays retracted.
    real.epoch(&mut real.sink(), &readings_of(7, &[row(1).at("2025-01-02T00:00:00Z")]), 7);
    assert_eq!(state("2025.01", 1), (json!(8), json!(true)));
}

#[test]
fn the_shipped_flows_write_what_their_templates_map() {
    for flow in FLOWS {
        let file: Spec = toml::from_str(flow).unwrap();
        let Some(real) = real(&file.name, file.sink.elasticsearch.unwrap()) else { return };
        let row = row(1).pressure(170.0, 55.0).reasons(&["hypertension_systolic", "hypotension_diastolic"]);
        let mut sink = real.sink();
        real.epoch(&mut sink, &readings_of(7, &[row]), 7);
        let index = &real.spec.index;
        let template = real.get(&format!("/_index_template/windkessel-{index}"));
        let description = &template["index_templates"][0]["index_template"]["_meta"]["description"];
        assert!(
            description.as_str().unwrap().contains(&file.name),
            "{}: the shipped template is used: {description}",
            file.name
        );
        let source = &real.document(index, 1)["_source"];
        assert_eq!(source["patient_id"].as_str().map(str::len), Some(32), "{}: {source}", file.name);
        assert_eq!(source["timestamp"], source["@timestamp"]);
    }
}

/// The three drop-in flows.
const FLOWS: [&str; 3] = [
    include_str!("../../../dataflows/real_time_monitoring.toml"),
    include_str!("../../../dataflows/readings_envelope.toml"),
    include_str!("../../../dataflows/fhir_anomalies.toml"),
];

#[test]
fn the_shipped_flows_are_readable_and_their_fields_are_mapped() {
    for flow in FLOWS {
        let file: Spec = toml::from_str(flow).unwrap();
        let spec = file.sink.elasticsearch.unwrap();
        assert_eq!(spec.index_by, IndexBy::None);
        assert!(rule_set(&file.score.rules).is_some(), "{}", file.score.rules);
        let documents = Documents::new(&spec).unwrap();
        let rows = readings_of(7, &[row(1).pressure(170.0, 55.0).reasons(&["hypertension_systolic"])]);
        assert_eq!(documents.of(7, &rows).unwrap().len(), 1, "{}", file.name);
        let template = template::plan(&spec, &documents, &rows.batch.schema()).last();
        assert!(template.description().contains(&file.name), "{}: no shipped template maps its fields", file.name);
    }
}
