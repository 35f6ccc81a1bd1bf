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
    /// In windows now.
    counted: bool,
    admitted: bool,
    withdrawn: bool,
}

/// A window of a patient: its start.
type Place = (String, i64);
/// The pressures in a window, by time and observation.
type Content = BTreeMap<(i64, String), (f64, f64)>;

/// What has been read so far.
#[derive(Default)]
struct Replay {
    expected: Expected,
    /// The greatest event time of each partition.
    newest: HashMap<i32, i64>,
    known: HashMap<String, Known>,
    contents: BTreeMap<Place, Content>,
    revisions: BTreeMap<Place, i64>,
}

/// An Observation that breaks no rule.
struct Taken {
    patient: String,
    observation: String,
    status: String,
    version: i64,
    at: i64,
    /// NaN if it withdraws.
    pressures: (f64, f64),
    withdraws: bool,
    /// Behind the watermark.
    behind: bool,
    /// Behind it by more than the lateness.
    far_behind: bool,
}

/// Computes what must come out. Messages of one partition are given in the order of their offsets.
pub(crate) fn expect(messages: &[Message], key: &[u8; 32], times: Times) -> Expected {
    let mut replay = Replay::default();
    for message in messages {
        if let Some(taken) = replay.decode(message, key, times) {
            replay.take(message, taken, times);
        }
    }
    let Replay { mut expected, contents, revisions, .. } = replay;
    for ((patient, start), revision) in revisions {
        let content = &contents[&(patient.clone(), start)];
        expected.windows.insert((patient, start), window(content, start + times.window, revision));
    }
    expected
}

impl Replay {
    fn decode(&mut self, message: &Message, key: &[u8; 32], times: Times) -> Option<Taken> {
        let resource: Value = serde_json::from_slice(&message.payload).expect("the generator writes JSON");
        if resource["resourceType"] != "Observation" {
            self.expected.count("ignored");
            return None;
        }
        let status = resource["status"].as_str().expect("a status").to_owned();
        let withdraws = status == "entered-in-error" || status == "cancelled";
        let pressures = match if withdraws { Ok((f64::NAN, f64::NAN)) } else { pressures(&resource) } {
            Ok(pressures) => pressures,
            Err(rule) => {
                self.expected.count("rejected");
                self.expected.rejected.insert((message.partition, message.offset), rule);
                return None;
            }
        };
        let at = instant(resource["effectiveDateTime"].as_str().expect("a time"));
        let watermark = self.newest.get(&message.partition).map(|newest| newest - times.disorder);
        // The time of a version that withdraws may be the very error that it withdraws.
        if !withdraws {
            let newest = self.newest.entry(message.partition).or_insert(i64::MIN);
            *newest = at.max(*newest);
        }
        let subject = resource["subject"]["reference"].as_str().and_then(|text| text.strip_prefix("Patient/"));
        let version = resource["meta"]["versionId"].as_str().and_then(|text| text.parse().ok());
        Some(Taken {
            patient: pseudonym(key, "Patient/", subject.expect("a reference")),
            observation: pseudonym(key, "Observation/", resource["id"].as_str().expect("an id")),
            status,
            version: version.expect("a version"),
            at,
            pressures,
            withdraws,
            behind: watermark.is_some_and(|watermark| at < watermark),
            far_behind: watermark.is_some_and(|watermark| at < watermark - times.lateness),
        })
    }

    /// The outcome of a version that changes nothing, if this is one.
    fn settled(&self, taken: &Taken) -> Option<&'static str> {
        let Some(before) = self.known.get(&taken.observation) else {
            // There is no row to take back.
            return taken.withdraws.then_some("ignored");
        };
        if taken.version < before.version {
            return Some("superseded");
        }
        match (taken.version == before.version, before.withdrawn, taken.withdraws) {
            (false, _, _) | (true, false, true) => None,
            (true, true, false) => Some("superseded"),
            (true, true, true) | (true, false, false) => Some("duplicate"),
        }
    }

    fn take(&mut self, message: &Message, taken: Taken, times: Times) {
        let before = self.known.get(&taken.observation);
        let (known_before, was_admitted) = (before.is_some(), before.is_some_and(|before| before.admitted));
        let earlier = before.filter(|before| before.counted).map(|before| before.at);
        if let Some(outcome) = self.settled(&taken) {
            self.expected.count(outcome);
            if !known_before {
                // But what comes later of a version not higher is withdrawn already.
                let Taken { version, at, .. } = taken;
                let known = Known { version, at, counted: false, admitted: false, withdrawn: true };
                self.known.insert(taken.observation, known);
            }
            return;
        }
        let admitted = !taken.withdraws && (!taken.far_behind || was_admitted);
        let row_at = before.filter(|_| taken.withdraws).map_or(taken.at, |before| before.at);
        self.expected.count(if taken.withdraws || admitted { "contributed" } else { "late" });
        self.row(message, &taken, row_at);
        self.windows(&taken, (earlier, admitted), known_before || taken.behind, times);
        let known = Known {
            version: taken.version,
            at: row_at,
            counted: admitted,
            admitted: admitted || was_admitted,
            withdrawn: taken.withdraws,
        };
        self.known.insert(taken.observation, known);
    }

    fn row(&mut self, message: &Message, taken: &Taken, at: i64) {
        let (systolic, diastolic) = taken.pressures;
        let value = |value: f64| (!taken.withdraws).then_some(value);
        let row = Reading {
            patient: taken.patient.clone(),
            observation: taken.observation.clone(),
            status: taken.status.clone(),
            version: Some(taken.version),
            at,
            received_at: message.received_at,
            systolic: value(systolic),
            diastolic: value(diastolic),
            mean_arterial: value(diastolic + (systolic - diastolic) / 3.0),
            category: (!taken.withdraws).then(|| category(systolic, diastolic)),
            late: taken.behind,
        };
        let place = (message.partition, message.offset);
        self.expected.standing.insert(row.observation.clone(), place);
        self.expected.readings.insert(place, row);
    }

    /// Takes the version that was counted at `earlier` out of its window, and puts the new one in if it is admitted.
    fn windows(&mut self, taken: &Taken, (earlier, admitted): (Option<i64>, bool), revised: bool, times: Times) {
        let place = |at: i64| (taken.patient.clone(), at - at.rem_euclid(times.window));
        let mut changed = Vec::new();
        if let Some(at) = earlier {
            let content = self.contents.get_mut(&place(at)).expect("it was counted");
            content.remove(&(at, taken.observation.clone()));
            changed.push(place(at));
        }
        if admitted {
            let content = self.contents.entry(place(taken.at)).or_default();
            content.insert((taken.at, taken.observation.clone()), taken.pressures);
            self.revisions.entry(place(taken.at)).or_insert(0);
            changed.push(place(taken.at));
        }
        changed.dedup();
        for window in changed.into_iter().filter(|_| revised) {
            *self.revisions.entry(window).or_insert(0) += 1;
        }
    }
}

impl Expected {
    fn count(&mut self, outcome: &'static str) {
        *self.outcomes.entry(outcome).or_default() += 1;
    }
}

fn window(content: &Content, end: i64, revision: i64) -> Window {
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
