//! The slow, obvious version of the blood pressure flow: one thread, `serde_json::Value`, maps and loops.
//!
//! It shares no code with the engine, so that agreement means something. It knows the shapes that the generator makes
//! (bare Observations and Patients, kPa, missing units, impossible values, versions, withdrawals, repetitions, late arrival),
//! not all of FHIR, and expects each patient in one partition. The rules are those that `src/patient/mod.rs` and
//! `src/decode/progress.rs` promise, DESIGN.md §3 and docs/clinical.md; no line of it was taken from the code below them.

use std::collections::{BTreeMap, HashMap};

use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

/// One message as it lay in a topic.
pub(crate) struct Message {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// The broker's timestamp, in microseconds; absent for files.
    pub(crate) received_at: Option<i64>,
    pub(crate) payload: Vec<u8>,
}

/// The times of a flow, in microseconds.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub(crate) window: i64,
    pub(crate) disorder: i64,
    pub(crate) lateness: i64,
}

/// A row of `readings`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) patient: String,
    pub(crate) observation: String,
    pub(crate) status: String,
    pub(crate) version: Option<i64>,
    pub(crate) at: i64,
    pub(crate) received_at: Option<i64>,
    pub(crate) systolic: Option<f64>,
    pub(crate) diastolic: Option<f64>,
    pub(crate) mean_arterial: Option<f64>,
    pub(crate) category: Option<&'static str>,
    pub(crate) late: bool,
}

/// A window as its last row must say.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Window {
    pub(crate) revision: i64,
    pub(crate) systolic: Option<Aggregate>,
    pub(crate) diastolic: Option<Aggregate>,
    pub(crate) above_seconds: f64,
    pub(crate) below_seconds: f64,
}

/// One pressure over one window.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Aggregate {
    pub(crate) count: i64,
    pub(crate) mean: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) standard_deviation: Option<f64>,
    pub(crate) slope_per_hour: Option<f64>,
    pub(crate) last: f64,
}

/// Everything that the flow must give.
#[derive(Default)]
pub(crate) struct Expected {
    /// Inputs by outcome.
    pub(crate) outcomes: BTreeMap<&'static str, u64>,
    /// By (partition, offset).
    pub(crate) readings: BTreeMap<(i32, i64), Reading>,
    /// By (partition, offset): the rule.
    pub(crate) rejected: BTreeMap<(i32, i64), &'static str>,
    /// By (patient, start).
    pub(crate) windows: BTreeMap<(String, i64), Window>,
    /// By observation: the position of the row that stands at the end.
    pub(crate) standing: BTreeMap<String, (i32, i64)>,
}

/// What is remembered of an observation.
struct Known {
    version: i64,
    at: i64,
    /// In windows now: its pressures.
    counted: Option<(f64, f64)>,
    admitted: bool,
    withdrawn: bool,
}

/// Computes what must come out. Messages of one partition are given in the order of their offsets.
pub(crate) fn expect(messages: &[Message], key: &[u8; 32], times: Times) -> Expected {
    let mut expected = Expected::default();
    let mut newest: HashMap<i32, i64> = HashMap::new();
    let mut known: HashMap<String, Known> = HashMap::new();
    let mut contents: BTreeMap<(String, i64), BTreeMap<(i64, String), (f64, f64)>> = BTreeMap::new();
    let mut revisions: BTreeMap<(String, i64), i64> = BTreeMap::new();
    for message in messages {
        let place = (message.partition, message.offset);
        let resource: Value = serde_json::from_slice(&message.payload).expect("the generator writes JSON");
        if resource["resourceType"] != "Observation" {
            expected.count("ignored");
            continue;
        }
        let status = resource["status"].as_str().expect("a status").to_owned();
        let withdraws = status == "entered-in-error" || status == "cancelled";
        let pressures = if withdraws { Ok((f64::NAN, f64::NAN)) } else { pressures(&resource) };
        let (systolic, diastolic) = match pressures {
            Ok(pair) => pair,
            Err(rule) => {
                expected.count("rejected");
                expected.rejected.insert(place, rule);
                continue;
            }
        };
        let at = instant(resource["effectiveDateTime"].as_str().expect("a time"));
        let watermark = newest.get(&message.partition).map(|newest| newest - times.disorder);
        let behind = watermark.is_some_and(|watermark| at < watermark);
        let far_behind = watermark.is_some_and(|watermark| at < watermark - times.lateness);
        // The time of a version that withdraws may be the very error that it withdraws.
        if !withdraws {
            let newest = newest.entry(message.partition).or_insert(i64::MIN);
            *newest = at.max(*newest);
        }

        let patient = pseudonym(
            key,
            "Patient/",
            resource["subject"]["reference"]
                .as_str()
                .and_then(|text| text.strip_prefix("Patient/"))
                .expect("a reference"),
        );
        let observation = pseudonym(key, "Observation/", resource["id"].as_str().expect("an id"));
        let version: i64 =
            resource["meta"]["versionId"].as_str().and_then(|text| text.parse().ok()).expect("a version");
        let before = known.get(&observation);
        if let Some(before) = before {
            if version < before.version || (version == before.version && before.withdrawn && !withdraws) {
                expected.count("superseded");
                continue;
            }
            if version == before.version && before.withdrawn == withdraws {
                expected.count("duplicate");
                continue;
            }
        }
        if withdraws && before.is_none() {
            // There is no row to take back; but what comes later of a version not higher is withdrawn already.
            expected.count("ignored");
            known.insert(observation, Known { version, at, counted: None, admitted: false, withdrawn: true });
            continue;
        }
        let admitted = !withdraws && (!far_behind || before.is_some_and(|before| before.admitted));
        expected.count(if withdraws || admitted { "contributed" } else { "late" });
        let row_at = if withdraws { before.map_or(at, |before| before.at) } else { at };
        let value = |value: f64| (!withdraws).then_some(value);
        expected.readings.insert(
            place,
            Reading {
                patient: patient.clone(),
                observation: observation.clone(),
                status,
                version: Some(version),
                at: row_at,
                received_at: message.received_at,
                systolic: value(systolic),
                diastolic: value(diastolic),
                mean_arterial: value(diastolic + (systolic - diastolic) / 3.0),
                category: (!withdraws).then(|| category(systolic, diastolic)),
                late: behind,
            },
        );
        expected.standing.insert(observation.clone(), place);

        let revised = before.is_some() || behind;
        let start = |at: i64| at - at.rem_euclid(times.window);
        let mut changed = Vec::new();
        if let Some((before_at, Some(_))) = before.map(|before| (before.at, before.counted)) {
            let window = (patient.clone(), start(before_at));
            contents.get_mut(&window).expect("it was counted").remove(&(before_at, observation.clone()));
            changed.push(window);
        }
        if admitted {
            let window = (patient.clone(), start(at));
            contents.entry(window.clone()).or_default().insert((at, observation.clone()), (systolic, diastolic));
            revisions.entry(window.clone()).or_insert(0);
            changed.push(window);
        }
        changed.dedup();
        if revised {
            for window in changed {
                *revisions.entry(window).or_insert(0) += 1;
            }
        }
        let was_admitted = before.is_some_and(|before| before.admitted);
        known.insert(
            observation,
            Known {
                version,
                at: row_at,
                counted: admitted.then_some((systolic, diastolic)),
                admitted: admitted || was_admitted,
                withdrawn: withdraws,
            },
        );
    }
    for ((patient, start), revision) in revisions {
        let content = &contents[&(patient.clone(), start)];
        expected.windows.insert((patient, start), window(content, start + times.window, revision));
    }
    expected
}

impl Expected {
    fn count(&mut self, outcome: &'static str) {
        *self.outcomes.entry(outcome).or_default() += 1;
    }
}

fn window(content: &BTreeMap<(i64, String), (f64, f64)>, end: i64, revision: i64) -> Window {
    let systolic: Vec<(i64, f64)> = content.iter().map(|((at, _), (systolic, _))| (*at, *systolic)).collect();
    let diastolic: Vec<(i64, f64)> = content.iter().map(|((at, _), (_, diastolic))| (*at, *diastolic)).collect();
    let standing = |test: &dyn Fn(f64) -> bool| {
        let until = systolic.iter().skip(1).map(|(at, _)| *at).chain([end]);
        let spans =
            systolic.iter().zip(until).filter(|((_, value), _)| test(*value)).map(|((at, _), until)| until - at);
        spans.sum::<i64>() as f64 / 1e6
    };
    Window {
        revision,
        above_seconds: standing(&|value| value >= 140.0),
        below_seconds: standing(&|value| value < 90.0),
        systolic: aggregate(&systolic),
        diastolic: aggregate(&diastolic),
    }
}

fn aggregate(values: &[(i64, f64)]) -> Option<Aggregate> {
    let (_, last) = *values.last()?;
    let count = values.len() as f64;
    let mean = values.iter().map(|(_, value)| value).sum::<f64>() / count;
    let hours: Vec<f64> = values.iter().map(|(at, _)| (at - values[0].0) as f64 / 3.6e9).collect();
    let hours_mean = hours.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|(_, value)| (value - mean) * (value - mean)).sum();
    let along: f64 = hours.iter().map(|hour| (hour - hours_mean) * (hour - hours_mean)).sum();
    let across: f64 = hours.iter().zip(values).map(|(hour, (_, value))| (hour - hours_mean) * (value - mean)).sum();
    Some(Aggregate {
        count: values.len() as i64,
        mean,
        min: values.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min),
        max: values.iter().map(|(_, value)| *value).fold(f64::NEG_INFINITY, f64::max),
        standard_deviation: (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt()),
        slope_per_hour: (values.len() > 1 && along > 0.0).then(|| across / along),
        last,
    })
}

/// ACC/AHA 2017, said once more in the plainest way.
fn category(systolic: f64, diastolic: f64) -> &'static str {
    if systolic > 180.0 || diastolic > 120.0 {
        "crisis"
    } else if systolic >= 140.0 || diastolic >= 90.0 {
        "stage 2"
    } else if systolic >= 130.0 || diastolic >= 80.0 {
        "stage 1"
    } else if systolic >= 120.0 {
        "elevated"
    } else {
        "normal"
    }
}

/// Both pressures in mmHg, or the rule that they break.
fn pressures(resource: &Value) -> Result<(f64, f64), &'static str> {
    let mut found: HashMap<&str, f64> = HashMap::new();
    for component in resource["component"].as_array().expect("components") {
        let code = component["code"]["coding"][0]["code"].as_str().expect("a code");
        let quantity = &component["valueQuantity"];
        let value = quantity["value"].as_f64().expect("a value");
        let value = match quantity["code"].as_str().or(quantity["unit"].as_str()) {
            None => return Err("unit_missing"),
            Some("kPa") => value * 7.50062,
            Some("mm[Hg]" | "mmHg") => value,
            Some(other) => panic!("the generator has learned the unit {other}"),
        };
        let range = if code == "8480-6" { 30.0..=300.0 } else { 10.0..=200.0 };
        if !range.contains(&value) {
            return Err("implausible");
        }
        found.insert(if code == "8480-6" { "systolic" } else { "diastolic" }, value);
    }
    let (systolic, diastolic) = (found["systolic"], found["diastolic"]);
    if systolic <= diastolic { Err("systolic_not_above_diastolic") } else { Ok((systolic, diastolic)) }
}

fn instant(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().expect("an instant").as_microsecond()
}

/// The first 16 bytes of the HMAC, as hex.
pub(crate) fn pseudonym(key: &[u8; 32], kind: &str, id: &str) -> String {
    let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("any length").chain_update(kind).chain_update(id);
    mac.finalize().into_bytes().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
