//! Proves that what nobody should send has the ending that `schemas/fhir` promises, with a dead letter that names the place and no person.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer};

use crate::clients::{documents, producer, topic};
use crate::servers::servers;
use crate::support::canary::{CANARY, leak, marked};
use crate::support::{Tables, files, finish, integer, key_file, outcomes, repository, text, windkessel};

/// 2026-01-02T00:00:00Z, when the broker has the examples by their own account, in milliseconds.
const RECEIVED_MS: i64 = 1_767_312_000_000;
const SIGNALS: &str = "decode.signals=[\"systolic\", \"diastolic\", \"mean_arterial\", \"heart_rate\", \"respiratory_rate\", \
    \"oxygen_saturation\", \"temperature\", \"glucose\", \"creatinine\", \"weight\", \"height\", \"body_mass_index\"]";

/// A record and the rule that it breaks; `None` if it breaks none.
struct Poison {
    payload: Option<Vec<u8>>,
    rule: Option<String>,
}

fn poisons() -> Vec<Poison> {
    let settings = fs::read_to_string(repository("schemas/fhir/settings.toml")).unwrap();
    let mut poisons = Vec::new();
    for kind in ["rejected", "ignored"] {
        for path in files(&repository("schemas/fhir").join(kind), "json") {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let rule = name.split('.').next().unwrap().to_owned();
            let special = ["record_too_large", "unreadable", "too_many_signals"].contains(&rule.as_str());
            if special || settings.contains(&format!("\"{kind}/{name}\"")) {
                continue;
            }
            let payload = fs::read(path).unwrap();
            // The word must not change which rule comes first: ids and narrative of what can be parsed.
            let payload = match String::from_utf8(payload.clone()) {
                Ok(text) if rule.starts_with("subject") || rule.starts_with("implausible") => {
                    marked(&text).into_bytes()
                }
                _ => payload,
            };
            poisons.push(Poison { payload: Some(payload), rule: (kind == "rejected").then_some(rule) });
        }
    }
    let nested = [b"{\"a\":".repeat(20_000), b"[".repeat(20_000)];
    let broken = |payload: &[u8], rule: &str| Poison { payload: Some(payload.to_owned()), rule: Some(rule.to_owned()) };
    poisons.extend(nested.iter().map(|payload| broken(payload, "json_depth")));
    poisons.push(broken(b"", "json_syntax"));
    poisons.push(broken(CANARY.as_bytes(), "json_syntax"));
    poisons.push(broken(&[b"{\"", CANARY.as_bytes(), b"\xff\"}"].concat(), "not_utf8"));
    poisons.push(broken(&vec![b' '; 200_000], "record_too_large"));
    poisons.push(Poison { payload: None, rule: None });
    poisons
}

fn produce(brokers: &str, topic: &str, poisons: &[Poison]) {
    let producer = producer(brokers);
    for poison in poisons {
        let headers = OwnedHeaders::new().insert(Header { key: CANARY, value: Some(CANARY) });
        let mut record = BaseRecord::to(topic).partition(0).key(CANARY).timestamp(RECEIVED_MS).headers(headers);
        record.payload = poison.payload.as_deref();
        producer.send(record).map_err(|(why, _)| why).unwrap();
    }
    producer.flush(Duration::from_secs(30)).unwrap();
}

#[test]
fn poison_is_rejected_by_name_and_leaves_no_trace_of_a_person() {
    let Some(servers) = servers("poison_is_rejected_by_name_and_leaves_no_trace_of_a_person") else { return };
    let (kafka, elasticsearch) = (&servers.kafka.address, &servers.elasticsearch.address);
    let (folder, name) = (tempfile::tempdir().unwrap(), format!("poison-{}", std::process::id()));
    let poisons = poisons();
    assert!(poisons.len() > 120);
    produce(kafka, &name, &poisons);

    let data = folder.path().join("data");
    let settings = [
        format!("source.brokers={kafka:?}"),
        format!("source.topics=[{name:?}]"),
        format!("source.group={name:?}"),
        "source.record_bytes_max=150000".into(),
        SIGNALS.into(),
        format!("sink.parquet.path={data:?}"),
        format!("sink.ndjson.path={data:?}"),
        format!("sink.elasticsearch.url={elasticsearch:?}"),
        format!("sink.elasticsearch.index={name:?}"),
        format!("sink.kafka.brokers={kafka:?}"),
        format!("sink.kafka.topic=\"{name}-assessed\""),
        format!("sink.kafka.progress_topic=\"{name}-progress\""),
        format!("state.path={:?}", data.join("state")),
        "http.listen=\"\"".into(),
        key_file(folder.path()),
    ];
    let mut command = windkessel(folder.path());
    command.env("RUST_LOG", "trace").arg("run").arg(repository("dataflows/blood_pressure.toml"));
    command.args(settings.iter().flat_map(|setting| ["--set", setting])).args(["--until", "end"]);
    let finished = finish(&mut command).succeeded();

    let wanted: BTreeMap<i64, String> =
        (0..).zip(&poisons).filter_map(|(offset, poison)| Some((offset, poison.rule.clone()?))).collect();
    let rejected = Tables::ndjson(&data).rejected;
    let found = rejected.iter().map(|row| (integer(row, "offset"), text(row, "rule").to_owned())).collect();
    assert_eq!(wanted, found);
    let told = outcomes(&finished.out);
    assert_eq!((told["rejected"], told["contributed"]), (wanted.len() as u64, 0), "{}", finished.out);
    // A Patient inside of something is counted on its own.
    assert!(told["ignored"] as usize >= poisons.len() - wanted.len(), "{}", finished.out);

    let letters = topic(kafka, &format!("error.{name}.{name}"));
    assert_eq!(letters.len(), wanted.len());
    for letter in &letters {
        let offset: i64 = letter.headers["x-source-offset"].parse().unwrap();
        assert_eq!(letter.headers["x-error-type"], wanted[&offset]);
        assert_eq!(letter.headers["x-source-topic"], name);
        assert_eq!(letter.headers["x-source-partition"], "0");
        let shown = [&letter.key[..], &letter.payload, format!("{:?}", letter.headers).as_bytes()].concat();
        assert_eq!(leak(&shown), None);
    }
    assert_eq!(leak(finished.err.as_bytes()), None, "standard error");
    assert_eq!(leak(finished.out.as_bytes()), None, "standard output");
    assert!(documents(elasticsearch, &name).is_empty());
}
