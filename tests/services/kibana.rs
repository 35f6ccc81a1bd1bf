//! Proves that every panel of the Kibana dashboards shows what the oracle computes, over indices that the real engine has filled:
//! each panel's query is sent to a real Elasticsearch as Kibana would send it, and its answer compared with a loop over the oracle's documents.
//!
//! The oracle knows pressures, categories, what stands and what is withdrawn. What it does not know (probability, the patient's own
//! baseline) is taken from the rows that another sink of the same run wrote.

use std::collections::BTreeMap;
use std::path::Path;

use rdkafka::producer::{BaseRecord, Producer as _};
use serde_json::{Value, json};

use crate::clients::{Record, WAIT, ask, producer, topic};
use crate::findings;
use crate::lens::{Panel, Told, panels};
use crate::oracle::{self, Expected, Message, Reading, Times};
use crate::servers::{Servers, servers};
use crate::support::{KEY, Row, Tables, finish, integer, key_file, parsed, repository, windkessel};

const SECOND: i64 = 1_000_000;
const TIMES: Times = Times { window: 3_600 * SECOND, disorder: 30 * SECOND, lateness: 120 * SECOND };
const OBSERVATIONS: &str = "6000";

/// Makes a model; the setting that names it.
fn train(folder: &Path) -> String {
    let mut train = windkessel(folder);
    train.args(["train", "--output", "model.json", "--patients", "60", "--observations", "4000"]);
    finish(&mut train).succeeded();
    format!("model.file={:?}", folder.join("model.json"))
}

/// A run of one flow.
struct Flow<'a> {
    servers: &'a Servers,
    folder: &'a Path,
    topic: String,
}

impl Flow<'_> {
    fn generate(&self, format: &str) {
        let mut generate = windkessel(self.folder);
        generate.args(["generate", "--brokers", &self.servers.kafka.address, "--topic", &self.topic, "--seed", "11"]);
        finish(generate.args(["--observations", OBSERVATIONS, "--patients", "90", "--format", format])).succeeded();
    }

    /// A gateway loses its units: inputs that are rejected, in the window from noon on.
    fn lose_units(&self) {
        let example = std::fs::read_to_string(repository("schemas/fhir/rejected/unit_missing.both.json")).unwrap();
        let flawed = example.replace("2026-01-01T08:30:00+01:00", "2026-01-05T13:00:00Z");
        assert_ne!(example, flawed, "the example has another time");
        let producer = producer(&self.servers.kafka.address);
        for _ in 0..500 {
            let record = BaseRecord::<(), _>::to(&self.topic).payload(&flawed);
            producer.send(record).map_err(|(why, _)| why).unwrap();
        }
        producer.flush(WAIT).unwrap();
    }

    /// Runs a shipped flow to the end of the topic, with the settings that it has besides those of the test's place.
    fn run(&self, flow: &str, index: &str, settings: &[String]) {
        let data = self.folder.join(flow);
        let place = [
            format!("source.brokers={:?}", self.servers.kafka.address),
            format!("source.topics=[{:?}]", self.topic),
            format!("source.group={index:?}"),
            format!("sink.ndjson.path={data:?}"),
            format!("sink.elasticsearch.url={:?}", self.servers.elasticsearch.address),
            format!("sink.elasticsearch.index={index:?}"),
            format!("state.path={:?}", data.join("state")),
            "decode.unit_missing=\"reject\"".into(),
            "http.listen=\"\"".into(),
            key_file(self.folder),
        ];
        let mut command = windkessel(self.folder);
        command.arg("run").arg(repository(&format!("dataflows/{flow}.toml"))).args(["-w", "2", "--until", "end"]);
        place.iter().chain(settings).for_each(|setting| {
            command.args(["--set", setting]);
        });
        finish(&mut command).succeeded();
    }

    fn expected(&self) -> (Vec<Message>, Expected) {
        let messages: Vec<Message> = topic(&self.servers.kafka.address, &self.topic).into_iter().map(message).collect();
        let expected = oracle::expect(&messages, &KEY, TIMES);
        (messages, expected)
    }
}

/// A message as the oracle reads it: without an envelope.
fn message(record: Record) -> Message {
    let Record { partition, offset, received_at, payload, .. } = record;
    let resource: Value = serde_json::from_slice(&payload).unwrap();
    let payload = resource.get("observation").map_or(payload, |inner| inner.to_string().into_bytes());
    Message { partition, offset, received_at, payload }
}

fn instant(micros: i64) -> Value {
    format!("{:.6}", jiff::Timestamp::from_microsecond(micros).unwrap()).into()
}

/// Asks every panel over this pattern, and returns how many there were.
fn check(panels: &[Panel], pattern: &str, servers: &Servers, index: &str, documents: &[Row]) -> BTreeMap<String, f64> {
    let url = &servers.elasticsearch.address;
    assert!(index.starts_with(pattern.trim_end_matches('*')), "the data view sees the index");
    ask(url, "POST", &format!("/{index}*/_refresh"), None);
    let (mut faults, mut single) = (Vec::new(), BTreeMap::new());
    for panel in panels.iter().filter(|panel| panel.pattern == pattern) {
        let reply = ask(url, "POST", &format!("/{index}*/_search"), Some(panel.search()));
        assert_eq!(reply["_shards"]["failed"], 0, "{}: {reply}", panel.title);
        let (found, computed) = (panel.answer(&reply), panel.computed(documents));
        let empty = found.values().flatten().all(Option::is_none);
        faults.extend(empty.then(|| format!("{}: nothing to draw", panel.title)));
        faults.extend(panel.agrees(&found, &computed, documents).err());
        if let Some([Some(Told::Number(number))]) = found.get(&[][..]).map(Vec::as_slice) {
            single.insert(panel.title.clone(), *number);
        }
    }
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), panels.len(), faults.join("\n"));
    single
}

// ---------------------------------------------------------------- readings

/// What an index of readings must hold: the oracle's rows that stand, with what another sink wrote of the model and the reasons.
fn readings(expected: &Expected, rows: &[Row], topic: &str) -> Vec<Row> {
    let place = |row: &Row| (integer(row, "partition") as i32, integer(row, "offset"));
    let written: BTreeMap<(i32, i64), &Row> = rows.iter().map(|row| (place(row), row)).collect();
    let document = |place: &(i32, i64)| {
        let (reading, row) = (&expected.readings[place], written[place]);
        let mut document = json!({
            "patient": reading.patient, "observation": reading.observation, "status": reading.status,
            "topic": topic, "partition": place.0, "offset": place.1, "late": reading.late,
            "@timestamp": instant(reading.at), "effective_at": instant(reading.at),
            "received_at": reading.received_at.map(instant), "systolic_mmhg": reading.systolic,
            "diastolic_mmhg": reading.diastolic, "mean_arterial_mmhg": reading.mean_arterial,
            "category": reading.category, "rule_set": "acc_aha_2017", "retracted": reading.systolic.is_none(),
        });
        for known in ["reasons", "probability", "risk_level", "model", "epoch"] {
            document[known] = row.get(known).cloned().unwrap_or_default();
        }
        if let (Some(systolic), Some(diastolic)) = (reading.systolic, reading.diastolic) {
            fired_as_it_should(&document["reasons"], systolic, diastolic);
        }
        document.as_object().unwrap().clone()
    };
    expected.standing.values().map(document).collect()
}

/// The limits of ACC/AHA 2017, said once more.
fn fired_as_it_should(reasons: &Value, systolic: f64, diastolic: f64) {
    let has = |rule: &str| reasons.as_array().unwrap().contains(&rule.into());
    assert_eq!(has("systolic_stage_2"), (140.0..=180.0).contains(&systolic));
    assert_eq!(has("systolic_crisis"), systolic > 180.0);
    assert_eq!(has("diastolic_stage_2"), (90.0..=120.0).contains(&diastolic));
    assert_eq!(has("diastolic_crisis"), diastolic > 120.0);
    assert_eq!(has("hypotension_systolic"), systolic < 90.0);
}

#[test]
fn the_panels_over_readings_show_what_the_oracle_computes() {
    let Some(servers) = servers("the_panels_over_readings_show_what_the_oracle_computes") else { return };
    let folder = tempfile::tempdir().unwrap();
    let name = format!("panels-{}", std::process::id());
    let flow = Flow { servers: &servers, folder: folder.path(), topic: name.clone() };
    flow.generate("bare");
    let index = format!("bp-readings-{name}");
    let settings = [
        train(folder.path()),
        format!("sink.parquet.path={:?}", folder.path().join("parquet")),
        "sink.ndjson.tables=[\"readings\"]".into(),
        format!("sink.kafka.brokers={:?}", servers.kafka.address),
        "sink.kafka.topic=\"\"".into(),
        format!("sink.kafka.progress_topic=\"{name}-progress\""),
        "patient.disorder=\"30s\"".into(),
        "patient.lateness=\"2m\"".into(),
        "audit.enabled=false".into(),
    ];
    flow.run("blood_pressure", &index, &settings);
    let (_, expected) = flow.expected();
    let rows = Tables::ndjson(&folder.path().join("blood_pressure")).readings;
    let documents = readings(&expected, &rows, &name);
    let panels = panels(&std::fs::read_to_string(repository("docker/kibana/windkessel.ndjson")).unwrap());
    let shown = check(&panels, "bp-readings*", &servers, &index, &documents);

    // Some once more, without any machinery.
    let standing: Vec<&Reading> =
        expected.standing.values().map(|place| &expected.readings[place]).filter(|r| r.systolic.is_some()).collect();
    let anomalies = documents.iter().filter(|d| d["retracted"] == false && d["reasons"] != json!([])).count();
    let of = |test: &dyn Fn(&&&Reading) -> bool| standing.iter().filter(test).count() as f64;
    let crises = of(&|reading| reading.category == Some("crisis"));
    let highest = standing.iter().filter_map(|reading| reading.systolic).fold(0.0, f64::max);
    for (title, number) in [
        ("windkessel-anomalies / Readings / data", standing.len() as f64),
        ("windkessel-anomalies / Crisis-range readings / data", crises),
        ("windkessel-anomalies / Anomaly rate / data", anomalies as f64 / standing.len() as f64),
        ("windkessel-anomalies / Highest systolic / data", f64::from(highest as f32)),
        ("windkessel-pipeline / Documents / data", expected.standing.len() as f64),
        ("windkessel-pipeline / Late / data", of(&|reading| reading.late) / standing.len() as f64),
    ] {
        assert!((shown[title] - number).abs() < 1e-9, "{title}: {}, not {number}", shown[title]);
        assert!(number > 0.0, "{title}: the data has some of it");
    }
}

// ---------------------------------------------------------------- the audit

/// What the audit finds, the oracle does not know: it is taken from the rows of another sink, of each window the last. What PSI and the like must be is
/// proved in `src/audit/tests`.
#[test]
fn the_panels_over_the_audit_show_what_another_sink_wrote() {
    let Some(servers) = servers("the_panels_over_the_audit_show_what_another_sink_wrote") else { return };
    let folder = tempfile::tempdir().unwrap();
    let name = format!("audit-panels-{}", std::process::id());
    let flow = Flow { servers: &servers, folder: folder.path(), topic: name.clone() };
    flow.generate("bare");
    flow.lose_units();
    let settings = [
        train(folder.path()),
        format!("sink.parquet.path={:?}", folder.path().join("parquet")),
        "sink.ndjson.tables=[\"shifts\", \"quality\", \"performance\", \"fairness\", \"alerts\"]".into(),
        // The name that the data views have: this test is the only one with these indices.
        "sink.elasticsearch.audit=\"bp-audit\"".into(),
        format!("sink.kafka.brokers={:?}", servers.kafka.address),
        "sink.kafka.topic=\"\"".into(),
        format!("sink.kafka.progress_topic=\"{name}-progress\""),
        "patient.disorder=\"30s\"".into(),
        "audit.window=\"6h\"".into(),
        "audit.reference_windows=2".into(),
        "audit.readings_min=20".into(),
        "audit.psi_watch=0.01".into(),
        "audit.psi_act=0.02".into(),
        "audit.alert_windows=1".into(),
        "audit.selected=\"reason\"".into(),
    ];
    let url = &servers.elasticsearch.address;
    flow.run("blood_pressure", &format!("bp-readings-{name}"), &settings);
    let found = findings::agree(url, "bp-audit", &folder.path().join("blood_pressure"));
    let panels = panels(&std::fs::read_to_string(repository("docker/kibana/windkessel.ndjson")).unwrap());
    for (table, documents) in &found {
        let index = format!("bp-audit-{table}");
        assert!(documents.len() > 10, "{table}: {}", documents.len());
        let asked = panels.iter().filter(|panel| panel.pattern == format!("{index}*")).count();
        assert!(asked >= 2, "{table}: {asked}");
        check(&panels, &format!("{index}*"), &servers, &index, documents);
        ask(url, "DELETE", &format!("/{index}"), None);
    }
}

// ---------------------------------------------------------------- the three drop-in flows

/// Each flow: the data view's pattern, the field of the type, and what it calls high and low.
const DROP_INS: [(&str, &str, &str, [&str; 4]); 3] = [
    (
        "real_time_monitoring",
        "bp-anomalies*",
        "reasons",
        ["hypertension_systolic", "hypertension_diastolic", "hypotension_systolic", "hypotension_diastolic"],
    ),
    (
        "readings_envelope",
        "blood_pressure_anomalies_v2*",
        "anomaly_type",
        ["Hypertension", "Hypertension", "Hypotension", "Hypotension"],
    ),
    (
        "fhir_anomalies",
        "fhir_anomalies*",
        "anomaly_type",
        ["hypertension", "hypertension", "hypotension", "hypotension"],
    ),
];

/// What a drop-in's index holds: the readings outside the limits.
fn anomalies(expected: &Expected, field: &str, labels: [&str; 4]) -> Vec<Row> {
    let document = |reading: &Reading| {
        let (systolic, diastolic) = (reading.systolic?, reading.diastolic?);
        let fired = [systolic > 140.0, diastolic > 90.0, systolic < 90.0, diastolic < 60.0];
        let mut types: Vec<&str> =
            labels.into_iter().zip(fired).filter(|(_, fired)| *fired).map(|(label, _)| label).collect();
        types.dedup();
        if types.is_empty() {
            return None;
        }
        let document = json!({
            "patient_id": reading.patient, "observation_id": reading.observation, "systolic_pressure": systolic,
            "diastolic_pressure": diastolic, "bp_category": reading.category, field: types,
            "timestamp": instant(reading.at), "@timestamp": instant(reading.at), "retracted": false,
        });
        Some(document.as_object().unwrap().clone())
    };
    expected.standing.values().filter_map(|place| document(&expected.readings[place])).collect()
}

#[test]
fn the_panels_of_the_drop_in_flows_show_what_the_oracle_computes() {
    let Some(servers) = servers("the_panels_of_the_drop_in_flows_show_what_the_oracle_computes") else { return };
    let all = panels(&std::fs::read_to_string(repository("docker/kibana/windkessel.ndjson")).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let model = train(folder.path());
    for (name, pattern, field, labels) in DROP_INS {
        let place = folder.path().join(name);
        std::fs::create_dir(&place).unwrap();
        let flow = Flow { servers: &servers, folder: &place, topic: format!("{name}-{}", std::process::id()) };
        flow.generate(if name == "readings_envelope" { "envelope" } else { "bare" });
        let index = format!("{}-panels-{}", pattern.trim_end_matches('*'), std::process::id());
        flow.run(name, &index, std::slice::from_ref(&model));
        let (messages, expected) = flow.expected();
        assert!(messages.len() >= 6_000, "{}", messages.len());
        let mut documents = anomalies(&expected, field, labels);
        if field == "reasons" {
            told_by_the_index(&servers, &index, &mut documents);
        }
        check(&all, pattern, &servers, &index, &documents);
    }
}

/// The probability is the model's, which the oracle does not know: as the index has it, for each document.
fn told_by_the_index(servers: &Servers, index: &str, documents: &mut [Row]) {
    let found = crate::clients::documents(&servers.elasticsearch.address, index);
    let found: BTreeMap<&str, &Row> = found.iter().map(|document| (document.id.as_str(), &document.source)).collect();
    for document in documents {
        let there = found[document["observation_id"].as_str().unwrap()];
        let probability = there.get("ml_anomaly_probability").cloned().unwrap_or_default();
        document.insert("ml_anomaly_probability".into(), probability);
    }
}

#[test]
fn a_panel_that_asks_for_something_else_is_noticed() {
    let Some(servers) = servers("a_panel_that_asks_for_something_else_is_noticed") else { return };
    let url = &servers.elasticsearch.address;
    let index = format!("bp-readings-broken-{}", std::process::id());
    let line = r#"{"patient":"a","category":"crisis","reasons":["systolic_crisis"],"systolic_mmhg":190.0,"diastolic_mmhg":80.0,"retracted":false,"@timestamp":"2026-01-05T00:00:00Z"}"#;
    let document = parsed(line);
    ask(
        url,
        "PUT",
        &format!("/{index}"),
        Some(json!({ "mappings": { "properties": { "category": { "type": "keyword" } } } })),
    );
    ask(url, "POST", &format!("/{index}/_doc?refresh=true"), Some(Value::Object(document.clone())));
    let text = std::fs::read_to_string(repository("docker/kibana/windkessel.ndjson")).unwrap();
    let verdict = |text: &str| {
        let panels = panels(text);
        let panel = panels.iter().find(|panel| panel.title.contains("Crisis-range readings")).unwrap();
        let reply = ask(url, "POST", &format!("/{index}/_search"), Some(panel.search()));
        let told = panel.answer(&reply)[&[][..]].clone();
        (told, panel.agrees(&panel.answer(&reply), &panel.computed(std::slice::from_ref(&document)), &[]).is_ok())
    };
    assert_eq!(verdict(&text), (vec![Some(Told::Number(1.0))], true));
    let broken = text.replace("category: crisis", "category: normal");
    assert_eq!(verdict(&broken).0, vec![Some(Told::Number(0.0))], "the comparison with the oracle above then fails");
    ask(url, "DELETE", &format!("/{index}"), None);
}
