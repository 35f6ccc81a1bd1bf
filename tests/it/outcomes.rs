//! Proves that outcomes and conditions from files come to what a recomputation from the files gives: performance and fairness of every window and group, whatever the
//! order, the versions and the withdrawals, on any number of workers, and also when outcomes come in later runs, long after their windows were published.
//!
//! The recomputation shares no code with the engine. It takes from the rows of `readings` what scoring said, and everything else from the input.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::oracle::pseudonym;
use crate::replay::Input;
use crate::support::{KEY, Row, finish, instant, integer, last_rows, ndjson, outcomes, repository, text, windkessel};

/// The generator's patients are measured about once a minute.
const MINUTE: i64 = 60_000_000;
const WINDOW: i64 = 4 * MINUTE;
const REFERENCE: i64 = 2 * WINDOW;
/// `audit.outcomes.horizon`.
const HORIZON: i64 = 3 * MINUTE;

const SETTINGS: [&str; 11] = [
    "audit.window=\"4m\"",
    "audit.reference_windows=2",
    "audit.readings_min=10",
    "audit.selected=\"reason\"",
    "audit.outcomes.outcome=\"deterioration\"",
    "audit.outcomes.horizon=\"3m\"",
    // An alarm is then a reading with a reason that may alarm.
    "score.alarm_k=1",
    "score.alarm_n=1",
    "score.alarm_refractory=\"0s\"",
    "epoch.bytes=200000",
    "state.checkpoint_seconds=1",
];

/// The reasons of ACC/AHA 2017 that may alarm (docs/clinical.md).
const ALARMING: [&str; 6] = [
    "systolic_crisis",
    "diastolic_crisis",
    "hypotension_systolic",
    "hypotension_map",
    "hypotension_map_estimated",
    "below_baseline",
];

/// A small generator of numbers that look random: the same ones every time.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// What was said of one outcome, in the order in which it was read.
#[derive(Clone)]
struct Said {
    patient: String,
    id: String,
    at: i64,
    happened: Option<bool>,
    version: i64,
}

impl Said {
    fn line(&self, draw: &mut Draw) -> String {
        let patient = if draw.below(2) == 0 { self.patient.clone() } else { format!("Patient/{}", self.patient) };
        let value = self.happened.map_or(Value::Null, |happened| match draw.below(2) {
            0 => json!(happened),
            _ => json!(u8::from(happened)),
        });
        let at = jiff::Timestamp::from_microsecond(self.at).unwrap().to_string();
        json!({"id": self.id, "patient": patient, "outcome": "deterioration", "at": at, "value": value, "version": self.version})
            .to_string()
    }
}

/// Lines of the input, parsed.
fn resources(input: &Input) -> Vec<Value> {
    let mut all = Vec::new();
    for entry in fs::read_dir(input.folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("part-") {
            let text = fs::read_to_string(path).unwrap();
            all.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
        }
    }
    all
}

/// What a Condition of the input may say: system, code, and the name of the comorbidity, if it is one.
const CODES: [(&str, &str, Option<&str>); 8] = [
    ("http://snomed.info/sct", "44054006", Some("diabetes")),
    ("http://hl7.org/fhir/sid/icd-10-cm", "E11.9", Some("diabetes")),
    ("http://snomed.info/sct", "84114007", Some("heart failure")),
    ("http://hl7.org/fhir/sid/icd-10", "J44.1", Some("chronic pulmonary disease")),
    ("http://hl7.org/fhir/sid/icd-10-cm", "N183", Some("renal disease")),
    ("http://snomed.info/sct", "22298006", Some("myocardial infarction")),
    ("http://hl7.org/fhir/sid/icd-10", "I10", None),
    ("http://snomed.info/sct", "224299000", None),
];

/// Conditions of a patient, as lines: several versions of some, the newer one first as often as not.
fn conditions(patient: &str, draw: &mut Draw) -> Vec<String> {
    let mut lines = Vec::new();
    for number in 0..draw.below(8) {
        let (system, code, _) = CODES[draw.below(8) as usize];
        let versions = 1 + draw.below(2);
        for version in 1..=versions {
            let clinical = ["active", "active", "active", "recurrence", "resolved"][draw.below(5) as usize];
            let verification = match draw.below(8) {
                0 if version > 1 => "entered-in-error",
                1 => "provisional",
                _ => "confirmed",
            };
            let line = json!({
                "resourceType": "Condition", "id": format!("{patient}-{number}"), "meta": {"versionId": version.to_string()},
                "clinicalStatus": {"coding": [{"code": clinical}]}, "verificationStatus": {"coding": [{"code": verification}]},
                "code": {"coding": [{"system": system, "code": code}]}, "subject": {"reference": format!("Patient/{patient}")},
            });
            lines.insert(if draw.below(2) == 0 { lines.len() } else { 0 }, line.to_string());
        }
    }
    lines
}

/// Puts conditions before everything else of the files that their patients are in.
fn add_conditions(input: &Input) {
    let mut draw = Draw(9);
    for entry in fs::read_dir(input.folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_str().unwrap().starts_with("part-") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let resources = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let of_patients = resources.filter(|resource| resource["resourceType"] == "Patient");
        let ids: Vec<String> = of_patients.map(|patient| patient["id"].as_str().unwrap().to_owned()).collect();
        let lines: Vec<String> = ids.iter().flat_map(|id| conditions(id, &mut draw)).collect();
        fs::write(path, lines.join("\n") + "\n" + &text).unwrap();
    }
}

/// How many different comorbidities each patient has, by pseudonym: of those whose newest version says active and confirmed.
fn comorbidities(resources: &[Value]) -> BTreeMap<String, usize> {
    let mut newest: BTreeMap<&str, &Value> = BTreeMap::new();
    for one in resources.iter().filter(|resource| resource["resourceType"] == "Condition") {
        let version = |one: &Value| one["meta"]["versionId"].as_str().unwrap().parse::<u64>().unwrap();
        let known = newest.entry(one["id"].as_str().unwrap()).or_insert(one);
        *known = if version(one) > version(known) { one } else { known };
    }
    let mut names: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for one in newest.values() {
        let coded = |element: &str| one[element]["coding"][0]["code"].as_str().unwrap();
        let (_, _, name) = CODES.iter().find(|(_, code, _)| *code == coded("code")).unwrap();
        let active =
            ["active", "recurrence"].contains(&coded("clinicalStatus")) && coded("verificationStatus") == "confirmed";
        if let (Some(name), true) = (name, active) {
            let patient = one["subject"]["reference"].as_str().unwrap().strip_prefix("Patient/").unwrap();
            names.entry(pseudonym(&KEY, "Patient/", patient)).or_default().insert(name);
        }
    }
    names.into_iter().map(|(patient, names)| (patient, names.len())).collect()
}

/// First and last event time of each patient, by id.
fn spans(resources: &[Value]) -> BTreeMap<String, (i64, i64)> {
    let mut spans: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for resource in resources.iter().filter(|resource| resource["resourceType"] == "Observation") {
        let patient = resource["subject"]["reference"].as_str().unwrap().strip_prefix("Patient/").unwrap();
        let at = resource["effectiveDateTime"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_microsecond();
        let span = spans.entry(patient.to_owned()).or_insert((at, at));
        *span = (span.0.min(at), span.1.max(at));
    }
    spans
}

/// Outcomes in three parts, as they might come over time: the later ones correct and withdraw the earlier ones, and repeat some.
fn said(spans: &BTreeMap<String, (i64, i64)>) -> [Vec<Said>; 3] {
    let (mut draw, mut parts) = (Draw(3), [Vec::new(), Vec::new(), Vec::new()]);
    for (number, (patient, (first, last))) in spans.iter().enumerate() {
        let (mut at, mut count) = (*first, 0);
        // Of every seventh patient nothing is ever said.
        while number % 7 != 0 && at < last + HORIZON {
            at += (1 + draw.below(3) as i64) * MINUTE;
            count += 1;
            let id = format!("{patient}-{count}");
            let one = Said { patient: patient.clone(), id, at, happened: Some(draw.below(4) == 0), version: 1 };
            let part = draw.below(3) as usize;
            parts[part].push(one.clone());
            let later = Said { version: 2, ..one.clone() };
            match draw.below(8) {
                0 => parts[2].push(Said { happened: one.happened.map(|happened| !happened), ..later }),
                1 => parts[2].push(Said { happened: None, ..later }),
                2 => parts[2].push(Said { at: at + 2 * MINUTE, ..later }),
                3 => parts[2].push(one),
                // The correction overtakes what it corrects.
                4 => parts[0].insert(0, Said { happened: Some(true), ..later }),
                _ => {}
            }
        }
    }
    for part in &mut parts {
        for at in (1..part.len()).rev() {
            part.swap(at, draw.below(at as u64 + 1) as usize);
        }
    }
    parts
}

/// What stands when all of it was read in this order, and how each ended.
fn standing(said: &[Said]) -> (Vec<Said>, BTreeMap<String, u64>) {
    let (mut stands, mut ends) = (BTreeMap::<&str, Said>::new(), BTreeMap::new());
    for one in said {
        let known = stands.get(one.id.as_str());
        let end = match known {
            None if one.happened.is_none() => "ignored",
            Some(known) if one.version < known.version => "superseded",
            Some(known) if one.version == known.version => "duplicate",
            _ => "contributed",
        };
        if known.is_none_or(|known| one.version > known.version) {
            stands.insert(&one.id, one.clone());
        }
        *ends.entry(end.to_owned()).or_default() += 1;
    }
    (stands.into_values().collect(), ends)
}

/// A reading that stands, with all that is asked about it.
struct Reading {
    patient: String,
    at: i64,
    probability: Option<f64>,
    selected: bool,
    alarm: bool,
    label: Option<bool>,
    groups: BTreeSet<String>,
}

/// Year of birth and sex of each patient, by pseudonym.
fn demographics(resources: &[Value]) -> BTreeMap<String, (Option<i64>, String)> {
    let patients = resources.iter().filter(|resource| resource["resourceType"] == "Patient");
    let of = |patient: &Value| {
        let year = patient["birthDate"].as_str().map(|date| date[..4].parse().unwrap());
        let sex = patient["gender"].as_str().unwrap_or("unknown").to_owned();
        (pseudonym(&KEY, "Patient/", patient["id"].as_str().unwrap()), (year, sex))
    };
    patients.map(of).collect()
}

fn readings(rows: &[Row], resources: &[Value], stands: &[Said]) -> Vec<Reading> {
    let people = demographics(resources);
    let takes_conditions = resources.iter().any(|resource| resource["resourceType"] == "Condition");
    let counts = comorbidities(resources);
    let mut labels: BTreeMap<String, Vec<&Said>> = BTreeMap::new();
    for one in stands {
        labels.entry(pseudonym(&KEY, "Patient/", &one.patient)).or_default().push(one);
    }
    // A patient is in one file: of an observation the row that was read last stands.
    let mut last: BTreeMap<&str, &Row> = BTreeMap::new();
    for row in rows {
        let known = last.entry(text(row, "observation")).or_insert(row);
        *known = if integer(row, "offset") >= integer(known, "offset") { row } else { known };
    }
    let whole = |row: &&&Row| row.contains_key("systolic_mmhg") && row.contains_key("diastolic_mmhg");
    let reading = |row: &&Row| {
        let (patient, at) = (text(row, "patient"), instant(row, "effective_at").unwrap());
        let reasons: Vec<&str> = row["reasons"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
        let of_patient = labels.get(patient).into_iter().flatten();
        let about = of_patient.filter(|one| one.at - HORIZON <= at && at < one.at);
        let happened: Vec<bool> = about.filter_map(|one| one.happened).collect();
        let mut groups = groups(people.get(patient), at, row.get("risk_level").and_then(Value::as_str));
        if takes_conditions {
            let name = ["0", "1", "2-3", "2-3"].get(counts.get(patient).copied().unwrap_or(0)).unwrap_or(&"4+");
            groups.insert(format!("comorbidities={name}"));
        }
        Reading {
            patient: patient.to_owned(),
            at,
            probability: row.get("probability").map(|one| (one.as_f64().unwrap() * 1_000.0).round() / 1_000.0),
            selected: !reasons.is_empty(),
            alarm: reasons.iter().any(|reason| ALARMING.contains(reason)),
            label: (!happened.is_empty()).then(|| happened.contains(&true)),
            groups,
        }
    };
    last.values().filter(whole).map(reading).collect()
}

fn groups(person: Option<&(Option<i64>, String)>, at: i64, risk: Option<&str>) -> BTreeSet<String> {
    let unknown = (None, "unknown".to_owned());
    let (birth_year, sex) = person.unwrap_or(&unknown);
    let instant = jiff::Timestamp::from_microsecond(at).unwrap();
    let year = i64::from(jiff::tz::Offset::UTC.to_datetime(instant).year());
    let mut groups = BTreeSet::from(["all".to_owned(), format!("sex={sex}")]);
    if let Some(age) = birth_year.map(|birth_year| year - birth_year).filter(|age| *age >= 0) {
        let bands = [(18, "<18"), (40, "18-39"), (65, "40-64"), (80, "65-79"), (i64::MAX, "80+")];
        groups.insert(format!("age={}", bands.iter().find(|(end, _)| age < *end).unwrap().1));
    }
    groups.extend(risk.map(|risk| format!("risk={risk}")));
    groups
}

fn share(part: usize, of: usize) -> Option<f64> {
    (of > 0).then(|| part as f64 / of as f64)
}

/// The readings of one group in one span.
struct Side<'a>(Vec<&'a Reading>);

impl Side<'_> {
    fn of<'a>(all: &'a [Reading], group: &str, start: i64, end: i64) -> Side<'a> {
        Side(all.iter().filter(|one| start <= one.at && one.at < end && one.groups.contains(group)).collect())
    }

    fn count(&self, test: impl Fn(&Reading) -> bool) -> usize {
        self.0.iter().filter(|one| test(one)).count()
    }

    fn confused(&self, selected: bool, label: bool) -> usize {
        self.count(|one| one.selected == selected && one.label == Some(label))
    }

    /// Probabilities and outcomes of those that have both.
    fn judged(&self) -> Vec<(f64, bool)> {
        self.0.iter().filter_map(|one| Some((one.probability?, one.label?))).collect()
    }

    fn patients(&self) -> usize {
        self.0.iter().map(|one| &one.patient).collect::<BTreeSet<_>>().len()
    }

    fn score_mean(&self) -> Option<f64> {
        let known: Vec<f64> = self.0.iter().filter_map(|one| one.probability).collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    }

    /// Every pair of a positive and a negative: who has the higher probability?
    fn auroc(&self) -> Option<f64> {
        let judged = self.judged();
        let of = |label: bool| judged.iter().filter(move |(_, one)| *one == label).map(|(p, _)| *p);
        let won = |p: f64, q: f64| {
            if p > q {
                1.0
            } else if p < q {
                0.0
            } else {
                0.5
            }
        };
        let pairs: Vec<f64> = of(true).flat_map(|p| of(false).map(move |q| won(p, q))).collect();
        (!pairs.is_empty()).then(|| pairs.iter().sum::<f64>() / pairs.len() as f64)
    }

    fn brier(&self) -> Option<f64> {
        let judged = self.judged();
        let squares = judged.iter().map(|(p, label)| (p - f64::from(u8::from(*label))).powi(2)).sum::<f64>();
        (!judged.is_empty()).then(|| squares / judged.len() as f64)
    }

    fn calibration_error(&self) -> Option<f64> {
        let judged = self.judged();
        let gap = |tenth: i64| {
            let within = judged.iter().filter(|(p, _)| ((p * 1_000.0).round() as i64 / 100).min(9) == tenth);
            within.map(|(p, label)| p - f64::from(u8::from(*label))).sum::<f64>().abs()
        };
        (!judged.is_empty()).then(|| (0..10).map(gap).sum::<f64>() / judged.len() as f64)
    }

    /// By the names of the columns of `performance`.
    fn measured(&self) -> [(&'static str, Option<f64>); 7] {
        let [tn, fp, missed, tp] =
            [(false, false), (true, false), (false, true), (true, true)].map(|(s, l)| self.confused(s, l));
        [
            ("accuracy", share(tp + tn, tp + tn + fp + missed)),
            ("auroc", self.auroc()),
            ("brier", self.brier()),
            ("sensitivity", share(tp, tp + missed)),
            ("specificity", share(tn, tn + fp)),
            ("ppv", share(tp, tp + fp)),
            ("ece", self.calibration_error()),
        ]
    }

    /// By the names of the columns of `fairness`.
    fn rates(&self) -> [(&'static str, Option<f64>); 4] {
        let [tn, fp, missed, tp] =
            [(false, false), (true, false), (false, true), (true, true)].map(|(s, l)| self.confused(s, l));
        [
            ("selection_rate", share(self.count(|one| one.selected), self.0.len())),
            ("tpr", share(tp, tp + missed)),
            ("fpr", share(fp, fp + tn)),
            ("ppv", share(tp, tp + fp)),
        ]
    }
}

fn equal(row: &Row, column: &str, expected: Option<f64>) {
    let found = row.get(column).map(|value| value.as_f64().unwrap());
    let close = match (found, expected) {
        (Some(found), Some(expected)) => (found - expected).abs() <= 1e-9 * expected.abs().max(1.0),
        (None, None) => true,
        _ => false,
    };
    assert!(close, "{column} is {found:?}, not {expected:?}: {row:?}");
}

fn performance_agrees(row: &Row, all: &[Reading], in_order: bool) {
    let (group, start) = (text(row, "group"), instant(row, "current_start").unwrap());
    let side = Side::of(all, group, start, start + WINDOW);
    let reference = Side::of(all, group, start - REFERENCE, start);
    for (column, count) in [
        ("readings_count", side.0.len()),
        ("patients_count", side.patients()),
        ("scored_count", side.count(|one| one.probability.is_some())),
        ("labelled_count", side.count(|one| one.label.is_some())),
        ("positives_count", side.count(|one| one.label == Some(true))),
        ("selected_count", side.count(|one| one.selected)),
    ] {
        assert_eq!(row.get(column).map_or(0, |_| integer(row, column)), count as i64, "{column} of {row:?}");
    }
    let days = side.patients() as f64 * WINDOW as f64 / (24 * 60 * MINUTE) as f64;
    equal(row, "patient_days", Some(days));
    // Which of several readings alarms depends on their order, unless all is in order.
    let alarms = side.count(|one| one.alarm) as i64;
    assert!(integer(row, "alarms_count") == alarms || !in_order, "{alarms} alarms, not as in {row:?}");
    let alarms = integer(row, "alarms_count") as f64;
    equal(row, "alarms_per_patient_day", (days > 0.0).then(|| alarms / days));
    equal(row, "score_mean", side.score_mean());
    side.measured().iter().for_each(|(column, expected)| equal(row, column, *expected));
    for (column, expected) in reference.measured() {
        equal(row, &format!("reference_{column}"), expected);
    }
}

fn fairness_agrees(row: &Row, all: &[Reading]) {
    let (group, beside) = (text(row, "group"), text(row, "reference_group"));
    let start = instant(row, "current_start").unwrap();
    let [side, other] = [group, beside].map(|group| Side::of(all, group, start, start + WINDOW));
    assert_eq!(integer(row, "labelled_count"), side.count(|one| one.label.is_some()) as i64, "{row:?}");
    assert_eq!(integer(row, "positives_count"), side.count(|one| one.label == Some(true)) as i64, "{row:?}");
    equal(row, "ece", side.calibration_error());
    for ((column, rate), (_, other)) in side.rates().into_iter().zip(other.rates()) {
        equal(row, column, rate);
        equal(row, &format!("{column}_difference"), rate.zip(other).map(|(rate, other)| rate - other));
        let ratio = rate.zip(other).filter(|(_, other)| *other > 0.0).map(|(rate, other)| rate / other);
        equal(row, &format!("{column}_ratio"), ratio);
    }
}

/// A folder in which run after run goes on.
struct Ward {
    input: Input,
    resources: Vec<Value>,
    parts: [Vec<Said>; 3],
    model: String,
    data: tempfile::TempDir,
    /// Nothing in the input is late, corrected or withdrawn. Only then are there conditions: a reading counts under those that came before it.
    in_order: bool,
}

impl Ward {
    fn new(in_order: bool) -> Ward {
        let input = if in_order { Input::clean(4_000) } else { Input::with_patients_apart(4_000) };
        let model = input.folder.path().join("model.json");
        let mut train = windkessel(input.folder.path());
        train.args(["train", "--patients", "60", "--observations", "6000", "--output"]).arg(&model);
        finish(&mut train).succeeded();
        if in_order {
            add_conditions(&input);
        }
        let resources = resources(&input);
        let parts = said(&spans(&resources));
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join("outcomes")).unwrap();
        Ward { input, resources, parts, model: format!("model.file={model:?}"), data, in_order }
    }

    /// Adds a file of outcomes to those that the next run finds.
    fn write(&self, name: &str, lines: &[String]) {
        fs::write(self.data.path().join("outcomes").join(name), lines.join("\n") + "\n").unwrap();
    }

    fn command(&self, workers: &str) -> Command {
        let mut command = windkessel(self.data.path());
        command.arg("run").arg(repository("dataflows/blood_pressure_replay.toml")).args(["--until", "end", "-w"]);
        let paths = [self.input.paths(), self.input.key.clone(), self.model.clone()];
        command.arg(workers).args(paths.iter().flat_map(|setting| ["--set", setting]));
        command.args(SETTINGS.iter().flat_map(|setting| ["--set", setting]));
        command.args(["--set", "audit.outcomes.paths=[\"outcomes\"]"]);
        command.args(["--set", &format!("decode.conditions={}", self.in_order)]);
        command
    }

    /// How the inputs of a run ended.
    fn run(&self, workers: &str) -> BTreeMap<String, u64> {
        outcomes(&finish(&mut self.command(workers)).succeeded().out)
    }

    /// A run that dies when outcomes are claimed, before any checkpoint: the next one reads them again.
    fn die(&self, workers: &str) {
        let dying = finish(self.command(workers).env("WINDKESSEL_FAILPOINT", "log.claims.after:2"));
        assert_eq!(dying.code(), None, "it dies with the claim\n{}", dying.err);
    }

    fn rows(&self, table: &str) -> Vec<Row> {
        ndjson(&self.data.path().join("windkessel-data"), table)
    }

    /// Compares the last row of each window and group with what the outcomes that have been said so far come to; returns the labelled readings.
    fn check(&self, said: &[Said]) -> i64 {
        let all = readings(&self.rows("readings"), &self.resources, &standing(said).0);
        let performance = last_rows(&self.rows("performance"), &["group", "current_start"]);
        let fairness = last_rows(&self.rows("fairness"), &["group", "current_start"]);
        assert!(performance.len() > 50 && fairness.len() > 50, "{} {}", performance.len(), fairness.len());
        performance.iter().for_each(|row| performance_agrees(row, &all, self.in_order));
        fairness.iter().for_each(|row| fairness_agrees(row, &all));
        let groups: BTreeSet<&str> = fairness.iter().map(|row| text(row, "group")).collect();
        for group in ["comorbidities=0", "comorbidities=1", "comorbidities=2-3", "comorbidities=4+"] {
            assert_eq!(groups.contains(group), self.in_order, "{group} is among {groups:?}");
        }
        let whole = performance.iter().filter(|row| text(row, "group") == "all");
        let labelled = whole.map(|row| integer(row, "labelled_count")).sum::<i64>();
        assert_eq!(labelled, all.iter().filter(|one| one.label.is_some()).count() as i64);
        assert!(performance.iter().filter(|row| row.contains_key("auroc")).count() > 20 || labelled == 0);
        labelled
    }
}

#[test]
fn outcomes_that_come_run_after_run_correct_what_was_published() {
    let ward = Ward::new(false);
    let mut draw = Draw(5);
    // A first run without any outcome; then one part after the other, on other workers.
    ward.run("1");
    assert_eq!(ward.check(&[]), 0);
    let mut read: Vec<Said> = Vec::new();
    let mut published = ward.rows("performance").len();
    for (number, workers) in [(0, "4"), (1, "1"), (2, "2")] {
        let part = &ward.parts[number];
        let mut lines: Vec<String> = part.iter().map(|one| one.line(&mut draw)).collect();
        lines.insert(1, lines[0].replace("deterioration", "readmission"));
        lines.insert(1, lines[0].replace("\"patient\"", "\"person\""));
        ward.write(&format!("part-{number}.ndjson"), &lines);
        if number == 1 {
            ward.die("2");
        }
        let ended = ward.run(workers);
        let (_, before) = standing(&read);
        read.extend(part.iter().cloned());
        let (_, mut expected) = standing(&read);
        before.iter().for_each(|(end, count)| *expected.get_mut(end).unwrap() -= count);
        *expected.entry("ignored".to_owned()).or_default() += 1;
        *expected.entry("rejected".to_owned()).or_default() += 1;
        for (end, count) in ended {
            assert_eq!(count, expected.get(&end).copied().unwrap_or(0), "run {number}: {end}");
        }
        assert!(ward.check(&read) > 1_000, "run {number}");
        let rows = ward.rows("performance").len();
        assert!(rows > published + 20, "run {number}: windows are published again");
        published = rows;
    }
}

#[test]
fn outcomes_read_with_the_readings_come_to_the_same_on_any_number_of_workers() {
    for (in_order, workers) in [(true, "1"), (true, "4"), (false, "2")] {
        let (ward, mut draw) = (Ward::new(in_order), Draw(6));
        for (number, part) in ward.parts.iter().enumerate() {
            let lines: Vec<String> = part.iter().map(|one| one.line(&mut draw)).collect();
            ward.write(&format!("part-{number}.ndjson"), &lines);
        }
        ward.run(workers);
        assert!(ward.check(&ward.parts.concat()) > 1_000);
        let alarms = ward.rows("performance").iter().map(|row| integer(row, "alarms_count")).sum::<i64>();
        assert!(alarms > 10, "{alarms} alarms");
    }
}
