//! What a flow file may say, and that the shipped files, the JSON Schema and `Spec` say the same.

use std::collections::BTreeMap;

use super::*;

const SMALL: &str = "name = \"t\"\n[pseudonymise]\nkey_env = \"K\"\n";

fn check(text: &str, overrides: &[&str]) -> Result<Flow, String> {
    let overrides: Vec<_> = overrides.iter().map(|text| (*text).to_owned()).collect();
    Flow::check(parse(text, &overrides)?)
}

#[test]
fn an_unknown_key_is_refused_with_its_place() {
    let why = check("name = \"t\"\n[patient]\nwindows = \"1h\"\n", &[]).unwrap_err();
    assert!(why.contains("line 3"), "{why}");
    assert!(why.contains("windows"), "{why}");
    assert!(check(SMALL, &["patient.windows=1h"]).unwrap_err().contains("windows"));
}

#[test]
fn overrides_are_toml_values_or_bare_text_and_the_last_one_wins() {
    let flow = check(
        SMALL,
        &["patient.window=2h", "patient.hop=\"1h\"", "source.topics=[\"a\", \"b\"]", "epoch.ms=7", "patient.window=3h"],
    )
    .unwrap();
    assert_eq!(flow.spec.patient.window.to_string(), "3h");
    assert_eq!(flow.spec.source.topics, ["a", "b"]);
    assert_eq!(flow.spec.epoch.ms, 7);
    assert!(check(SMALL, &["epoch"]).unwrap_err().contains("no \"=\""));
    assert!(check(SMALL, &["name.x=1"]).unwrap_err().contains("not a section"));
}

#[test]
fn what_cannot_work_is_refused_by_name() {
    let table = [
        ("name=\"a b\"", "name must be"),
        ("patient.hop=7m", "must divide"),
        ("patient.hop=1s", "at most 64 times"),
        ("patient.window=0s", "patient.window must be positive"),
        ("patient.baseline_readings=65", "1..=64"),
        ("audit.outcomes.horizon=0s", "audit.outcomes.horizon must be positive"),
        ("audit.outcomes={topics=[\"o\"]}", "must name the outcome"),
        ("audit.outcomes={topics=[\"o\"],outcome=\"x\",horizon=\"31d\"}", "at most correction.horizon (30d)"),
        ("audit.outcomes={topics=[\"bp-obs\"],outcome=\"x\"}", "none of source.topics"),
        ("sink.kafka={topic=\"\",dead_letter_topic=\"\"}", "neither topic nor dead_letter_topic nor alerts_topic"),
        ("sink.kafka={alerts_topic=\"bp-assessed\"}", "sink.kafka.alerts_topic must be a topic of its own"),
        ("sink.kafka={alerts_topic=\"windkessel-progress\"}", "sink.kafka.progress_topic must be a topic of its own"),
        ("sink.webhook={url=\"localhost:9\"}", "sink.webhook.url"),
        ("sink.webhook={url=\"http://h\",url_file=\"f\"}", "both url and url_file"),
        ("sink.webhook={url=\"http://h\",waiting_max=0}", "sink.webhook.waiting_max must be at least 1"),
        ("audit.schedule={every=\"90m\",reports=\"r\"}", "must be a multiple of audit.window (1h), got 90m"),
        ("audit.schedule={every=\"1d\"}", "it needs audit.schedule.reports (a folder) or sink.postgres.url"),
        ("audit.schedule={every=\"1d\",reports=\"r\"}", "it needs audit.enabled, and sink.parquet"),
        ("audit.schedule={reports=\"r\"}", "audit.schedule.reports needs audit.schedule.every"),
        ("sink.postgres={url=\"postgresql://u@h/d\"}", "it needs audit.schedule.every"),
        ("sink.postgres={url=\"mysql://u@h/d\"}", "sink.postgres.url"),
        ("audit.outcomes={paths=[\"o\"],outcome=\"x\"}", "topics with source.kind \"kafka\""),
        ("audit={patients=false,outcomes={topics=[\"o\"],outcome=\"x\"}}", "needs audit.enabled and audit.patients"),
        (
            "audit.reference_profile=absent.json",
            "audit.reference_profile: could not use the profile \"absent.json\": No such file",
        ),
        ("patient.baseline_readings_min=13", "1..=12"),
        ("correction.horizon=1h", "correction.horizon must be at least"),
        ("decode.signals=[\"systolic\",\"pressure\"]", "there is no"),
        ("decode.signals=[\"systolic\",\"systolic\"]", "twice"),
        ("decode.signals=[]", "at least one"),
        ("score.rules=who", "names no rule set"),
        ("score.alarm_k=3", "alarm_k"),
        ("source.kind=amqp", "amqp"),
        ("source.topics=[]", "source.topics"),
        ("inflight.epochs=0", "inflight.epochs"),
        ("pseudonymise.key_file=k", "both"),
        ("sink.elasticsearch.url=localhost", "http://"),
        ("sink.elasticsearch.index=BP", "lower-case"),
        ("sink.parquet.zstd_level=23", "1..=22"),
        ("state.path=\"\"", "state.path"),
        ("state.path=gs://bucket", "gs:// is not known"),
        ("state.path=s3:///prefix", "no name of a bucket"),
        ("state.path=s3://bucket/../other", "in parts between"),
        ("state.checkpoint_seconds=0", "state.checkpoint_seconds"),
        ("state.keep=0", "state.keep"),
        ("state.base_every=0", "state.base_every"),
        ("state.endpoint=\"http://localhost:9000\"", "state.endpoint is for s3://"),
        ("state={path=\"s3://b\",endpoint=\"localhost:9000\"}", "state.endpoint must be"),
        ("state={path=\"s3://b\",endpoint=\"https://me:word@host\"}", "without user and password"),
        ("state={path=\"s3://b\",access_key_file=\"a\"}", "both access_key_file and secret_key_file"),
    ];
    for (set, expected) in table {
        let why = check(SMALL, &[set]).unwrap_err();
        assert!(why.contains(expected) || why.contains("not in the table"), "{set}: {why}");
    }
    assert!(check("name = \"t\"", &[]).unwrap_err().contains("pseudonymise needs"));
}

/// Settings that have no default, which the reference flow shows behind a `#`.
const OPTIONAL: [&str; 23] = [
    "decode.comorbidities_file",
    "decode.signals_file",
    "model.file",
    "pseudonymise.key_env",
    "sink.elasticsearch.api_key_file",
    "sink.elasticsearch.ca_file",
    "sink.elasticsearch.password_file",
    "sink.elasticsearch.user",
    "pseudonymise.key_file",
    "state.access_key_file",
    "state.ca_file",
    "state.encryption_key_file",
    "state.endpoint",
    "state.region",
    "state.secret_key_file",
    "audit.hop",
    "audit.reference_profile",
    "sink.webhook.url_file",
    "sink.webhook.token_file",
    "sink.webhook.ca_file",
    "audit.schedule.every",
    "sink.postgres.password_file",
    "sink.postgres.ca_file",
];

/// What the reference flow sets to something else than the default, and why.
const CHOSEN: [(&str, &str); 4] = [
    ("name", "a flow has a name, and there is no default"),
    ("pseudonymise.key_file", "a key must be named, and there is no default"),
    ("sink.ndjson.tables", "the other tables are in Parquet already"),
    ("state.path", "beside the rows, so that one folder holds everything"),
];

/// Every key of a table under its full name; empty tables of names and values under their own.
fn flat(table: &Table, prefix: &str, into: &mut BTreeMap<String, Value>) {
    for (key, value) in table {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) if !inner.is_empty() => flat(inner, &name, into),
            // A section without a default may be there or not.
            Value::Table(_) if prefix.is_empty() => {}
            value => drop(into.insert(name, value.clone())),
        }
    }
}

fn reference() -> String {
    std::fs::read_to_string("dataflows/blood_pressure.toml").unwrap()
}

#[test]
fn the_reference_flow_holds_every_key_with_its_default() {
    let default = Spec {
        sink: SinkSpec {
            parquet: Some(ParquetSpec::default()),
            ndjson: Some(NdjsonSpec::default()),
            elasticsearch: Some(ElasticsearchSpec::default()),
            kafka: Some(KafkaSinkSpec::default()),
            webhook: Some(WebhookSpec::default()),
            postgres: Some(PostgresSpec::default()),
        },
        ..Spec::default()
    };
    let (mut expected, mut written) = (BTreeMap::new(), BTreeMap::new());
    flat(&Table::try_from(default).unwrap(), "", &mut expected);
    flat(&toml::from_str(&reference()).unwrap(), "", &mut written);
    for (key, why) in CHOSEN {
        assert_ne!(expected.remove(key), written.remove(key), "{key} is the default: {why}?");
    }
    let (expected, written): (Vec<_>, Vec<_>) = (expected.into_iter().collect(), written.into_iter().collect());
    for (key, value) in &expected {
        assert!(written.contains(&(key.clone(), value.clone())), "dataflows/blood_pressure.toml lacks {key} = {value}");
    }
    assert_eq!(expected, written);
}

#[test]
fn the_reference_flow_shows_every_optional_key_too() {
    let text = reference();
    for name in OPTIONAL {
        let key = name.rsplit('.').next().unwrap();
        assert!(text.contains(&format!("{key} = ")), "dataflows/blood_pressure.toml does not show {name}");
    }
    // The schema knows of no optional key beside these.
    let mut optional = Vec::new();
    nullable(&schema()["$defs"], &mut optional);
    optional.sort();
    let mut expected: Vec<_> = OPTIONAL.iter().map(|name| name.rsplit('.').next().unwrap().to_owned()).collect();
    expected.sort();
    assert_eq!(optional, expected);
}

/// Names of settings whose type may be null, sections apart.
fn nullable(definitions: &serde_json::Value, into: &mut Vec<String>) {
    for definition in definitions.as_object().unwrap().values() {
        for (name, property) in definition["properties"].as_object().into_iter().flatten() {
            if property["type"].as_array().is_some_and(|types| types.contains(&"null".into())) {
                into.push(name.clone());
            }
        }
    }
}

/// The JSON Schema of a flow file.
fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(Spec).to_value();
    let head = schema.as_object_mut().unwrap();
    head.insert("title".into(), "A flow of Windkessel".into());
    head.insert("description".into(), "dataflows/*.toml; blood_pressure.toml shows every key with its default.".into());
    head.insert("required".into(), serde_json::json!(["name", "pseudonymise"]));
    // Lengths of time are written as text: a whole number and a unit.
    spans(&mut schema);
    schema
}

/// Gives every length of time its pattern: a property of type string whose default is one.
fn spans(value: &mut serde_json::Value) {
    let Some(object) = value.as_object_mut() else { return };
    let is_span = object.get("type").is_some_and(|kind| kind == "string")
        && object.get("default").and_then(|text| text.as_str()).is_some_and(|text| text.parse::<EventSpan>().is_ok());
    if is_span {
        object.insert("pattern".into(), "^([0-9]+(us|ms|s|m|h|d)|unbounded)$".into());
    }
    object.values_mut().for_each(spans);
}

#[test]
fn the_schema_of_flow_files_is_the_committed_one() {
    let path = "schemas/flow.schema.json";
    let text = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == text, "{path} is out of date: UPDATE_EXPECT=1 cargo test rewrites it");
}

#[test]
fn every_shipped_flow_is_valid() {
    for folder in ["dataflows", "docker"] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                Flow::read(&path, &[]).unwrap_or_else(|why| panic!("{why}"));
            }
        }
    }
}
