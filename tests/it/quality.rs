//! Proves that flaws of the input are counted where they are: what `quality` says of every file, day and flaw is what was put in, on any number of workers
//! and over a death; a unit that one ward no longer sends is found in that ward, from that day on, by its name, and nothing else is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{KEY_TEXT, Row, finish, integer, last_rows, ndjson, repository, text, windkessel};

const DAY: i64 = 86_400;
const DAYS: i64 = 5;
/// From this day on every other reading of the second ward has no unit.
const ONSET: i64 = 3;
/// 2026-01-01T00:00:00Z, in seconds.
const NEW_YEAR: i64 = 1_767_225_600;
/// `patient.disorder`, in seconds.
const DISORDER: i64 = 3_600;

/// Inputs by day and measure.
type Counts = BTreeMap<(i64, &'static str), i64>;

/// One ward's file while it is written, and what it comes to.
struct Ward {
    name: &'static str,
    lines: Vec<String>,
    counts: Counts,
    latest: i64,
}

impl Ward {
    /// Notes an input with its flaws, or that one is gone.
    fn count(&mut self, at: i64, measures: &[&'static str], sign: i64) {
        for measure in ["readings"].iter().chain(measures) {
            *self.counts.entry((at.div_euclid(DAY), measure)).or_default() += sign;
        }
    }

    fn write(&mut self, number: i64, at: i64, change: impl FnOnce(&mut Value)) {
        let pressure = |code: &str, mmhg: i64| {
            json!({"code": {"coding": [{"system": "http://loinc.org", "code": code}]},
                "valueQuantity": {"value": mmhg, "unit": "mmHg", "system": "http://unitsofmeasure.org", "code": "mm[Hg]"}})
        };
        let time = jiff::Timestamp::from_second(NEW_YEAR + at).unwrap().to_string();
        let mut resource = json!({"resourceType": "Observation", "id": format!("{}-{number}", self.name), "meta": {"versionId": "1"},
            "status": "final", "code": {"coding": [{"system": "http://loinc.org", "code": "85354-9"}]},
            "subject": {"reference": format!("Patient/{}-{}", self.name, number % 20)}, "effectiveDateTime": time,
            "component": [pressure("8480-6", 120 + number % 9), pressure("8462-4", 75 + number % 7)]});
        change(&mut resource);
        self.lines.push(resource.to_string());
    }

    /// A reading that is taken, with what it counts under besides its lateness.
    fn accepted(&mut self, number: i64, at: i64, measures: &[&'static str], change: impl FnOnce(&mut Value)) {
        let late = at < self.latest - DISORDER;
        self.count(at, &measures.iter().copied().chain(late.then_some("late")).collect::<Vec<_>>(), 1);
        self.latest = self.latest.max(at);
        self.write(number, at, change);
    }

    fn rejected(&mut self, number: i64, at: i64, measure: &'static str, change: impl FnOnce(&mut Value)) {
        self.count(at, &["rejected", measure], 1);
        self.write(number, at, change);
    }

    /// One reading of each kind in turn, of an hour.
    fn reading(&mut self, number: i64, at: i64, unit_lost: bool) {
        let both = |resource: &mut Value, change: fn(&mut Value)| {
            resource["component"].as_array_mut().unwrap().iter_mut().for_each(change);
        };
        match number % 25 {
            _ if unit_lost && number % 2 == 0 => self.rejected(number, at, "unit_missing", |resource| {
                both(resource, |one| one["valueQuantity"] = json!({"value": one["valueQuantity"]["value"]}));
            }),
            3 => self.accepted(number, at, &["signal_missing"], |resource| drop(resource["component"].as_array_mut().unwrap().pop())),
            5 => {
                self.count(at, &["signal_missing"], 1);
                self.write(number, at, |resource| both(resource, |one| {
                    *one = json!({"code": one["code"], "dataAbsentReason": {"coding": [{"code": "not-performed"}]}});
                }));
            }
            7 => self.rejected(number, at, "value_out_of_range", |resource| {
                resource["component"][0]["valueQuantity"]["value"] = json!(900);
            }),
            9 => self.rejected(number, at, "unit_other", |resource| {
                both(resource, |one| one["valueQuantity"] = json!({"value": 1, "unit": "furlong", "code": "[fur_us]", "system": "http://unitsofmeasure.org"}));
            }),
            11 => {
                // Twice the same: the second says nothing new.
                self.accepted(number, at, &[], |_| {});
                self.count(at, &["duplicate"], 1);
                self.lines.extend(self.lines.last().cloned());
            }
            13 => {
                // Nobody can tell when this was: it counts where its neighbours are.
                self.count(self.latest, &["rejected"], 1);
                self.lines.push("{\"resourceType\": \"Observation\", ".to_owned());
            }
            15 => self.accepted(number, at - 2 * DISORDER, &[], |_| {}),
            17 => {
                // The pressure that is missing comes an hour later.
                self.accepted(number, at, &[], |resource| drop(resource["component"].as_array_mut().unwrap().pop()));
                self.write(number, at, |resource| {
                    (resource["meta"]["versionId"], resource["status"]) = (json!("2"), json!("amended"));
                });
            }
            19 => {
                self.accepted(number, at, &["signal_missing"], |resource| drop(resource["component"].as_array_mut().unwrap().pop()));
                self.count(at, &["signal_missing"], -1);
                self.write(number, at, |resource| {
                    (resource["meta"]["versionId"], resource["status"]) = (json!("2"), json!("entered-in-error"));
                });
            }
            _ => self.accepted(number, at, &[], |_| {}),
        }
    }
}

/// The file of a ward with so many readings an hour.
fn ward(name: &'static str, per_hour: i64, onset: i64) -> Ward {
    let mut ward = Ward { name, lines: Vec::new(), counts: Counts::new(), latest: i64::MIN / 2 };
    for number in 0..DAYS * 24 * per_hour {
        let at = number * 3_600 / per_hour;
        ward.reading(number, at, at >= onset * DAY);
    }
    ward
}

fn command(folder: &Path, data: &str, workers: &str, settings: &[&str]) -> Command {
    let mut command = windkessel(folder);
    command.arg("run").arg(repository("dataflows/blood_pressure_replay.toml")).args(["--until", "end", "-w", workers]);
    let places = ["sink.parquet.path", "sink.ndjson.path"].map(|key| format!("{key}={data:?}"));
    let state = format!("state.path=\"{data}-state\"");
    let fixed = [
        "audit.window=\"1d\"",
        "audit.reference_windows=2",
        "audit.readings_min=100",
        "audit.alert_windows=1",
        "patient.disorder=\"1h\"",
    ];
    let fixed = fixed.iter().chain(&["source.paths=[\"in\"]", "pseudonymise.key_file=\"key\"", "epoch.bytes=20000"]);
    let all = fixed.chain(settings).copied().chain(places.iter().chain([&state]).map(String::as_str));
    command.args(all.flat_map(|setting| ["--set", setting]));
    command
}

/// The last rows of each topic, day and measure.
fn found(folder: &Path, data: &str) -> Vec<Row> {
    let mut rows = last_rows(&ndjson(&folder.join(data), "quality"), &["topic", "measure", "current_start"]);
    rows.sort_by_key(|row| {
        (text(row, "current_start").to_owned(), text(row, "topic").to_owned(), text(row, "measure").to_owned())
    });
    rows
}

fn day(row: &Row) -> i64 {
    let start: jiff::Timestamp = text(row, "current_start").parse().unwrap();
    (start.as_second() - NEW_YEAR).div_euclid(DAY)
}

/// Which ward a topic is, by the inputs of its first day: file names are not told.
fn names<'a>(rows: &[Row], wards: &'a [Ward]) -> BTreeMap<String, &'a Ward> {
    let first = rows.iter().filter(|row| day(row) == 0 && text(row, "measure") == "readings");
    let of = |row: &Row| wards.iter().find(|ward| ward.counts[&(0, "readings")] == integer(row, "current_count"));
    first
        .map(|row| (text(row, "topic").to_owned(), of(row).unwrap_or_else(|| panic!("{row:?} is of no ward"))))
        .collect()
}

/// Every row says what was put in.
fn assert_counted(rows: &[Row], wards: &[Ward]) {
    let names = names(rows, wards);
    assert_eq!(names.len(), 2, "{:?}", names.keys());
    for row in rows {
        let (ward, day, measure) = (names[text(row, "topic")], day(row), text(row, "measure"));
        let of = |days: std::ops::Range<i64>, measure: &str| {
            ward.counts
                .iter()
                .filter(|((day, name), _)| days.contains(day) && *name == measure)
                .map(|(_, count)| count)
                .sum::<i64>()
        };
        let counts = ["reference_inputs", "reference_count", "current_inputs", "current_count"]
            .map(|column| integer(row, column));
        let (reference, current) = (day - 2..day, day..day + 1);
        let expected = [
            of(reference.clone(), "readings"),
            of(reference, measure),
            of(current.clone(), "readings"),
            of(current, measure),
        ];
        assert_eq!(counts, expected, "{} day {day} {measure}", ward.name);
    }
    let nonzero = wards.iter().flat_map(|ward| ward.counts.iter().filter(|(_, count)| **count > 0)).count();
    assert_eq!(rows.iter().filter(|row| integer(row, "current_count") > 0).count(), nonzero, "no count is left out");
}

#[test]
fn flaws_are_counted_where_they_are_and_a_lost_unit_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let wards = [ward("north", 10, DAYS), ward("south", 13, ONSET)];
    std::fs::create_dir(folder.path().join("in")).unwrap();
    for ward in &wards {
        std::fs::write(folder.path().join(format!("in/{}.ndjson", ward.name)), ward.lines.join("\n")).unwrap();
    }
    std::fs::write(folder.path().join("key"), KEY_TEXT).unwrap();

    finish(&mut command(folder.path(), "one", "1", &[])).succeeded();
    let one = found(folder.path(), "one");
    assert_counted(&one, &wards);
    let names = names(&one, &wards);
    let told = |verdict: &str| {
        let rows = one.iter().filter(|row| text(row, "verdict") == verdict);
        rows.map(|row| format!("{} {} {}", names[text(row, "topic")].name, day(row), text(row, "measure")))
            .collect::<Vec<_>>()
    };
    // On the day after, half of the reference is like it.
    assert_eq!(told("act"), ["south 3 rejected", "south 3 unit_missing", "south 4 unit_missing"]);
    assert_eq!(told("watch").iter().filter(|row| !row.starts_with("south 4")).count(), 0, "{:?}", told("watch"));

    // Whoever is to be told is told of that topic and those flaws.
    let alerted = |data: &str| -> Vec<String> {
        let rows = ndjson(&folder.path().join(data), "alerts");
        let of_quality = rows.iter().filter(|row| text(row, "table") == "quality");
        let told = of_quality.map(|row| {
            let (ward, state) = (names[text(row, "group")].name, text(row, "state"));
            format!("{state} {ward} {} {} {}", day(row), text(row, "feature"), text(row, "statistic"))
        });
        told.collect::<BTreeSet<_>>().into_iter().collect()
    };
    let raised = ["raised south 3 rejected current_rate", "raised south 3 unit_missing current_rate"];
    assert_eq!(alerted("one").iter().filter(|told| told.starts_with("raised")).collect::<Vec<_>>(), raised);

    // The same after a death, on other workers.
    let dying = finish(command(folder.path(), "many", "2", &[]).env("WINDKESSEL_FAILPOINT", "log.claims.after:1"));
    assert_eq!(dying.code(), None, "it dies with the claim\n{}", dying.err);
    finish(&mut command(folder.path(), "many", "4", &[])).succeeded();
    let epochless = |rows: &[Row]| {
        rows.iter()
            .cloned()
            .map(|mut row| {
                row.remove("epoch");
                row
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(epochless(&found(folder.path(), "many")), epochless(&one));
    assert_eq!(alerted("many"), alerted("one"));

    // Where a unit may be missing it is a flaw of a reading that stands.
    finish(&mut command(folder.path(), "assumed", "2", &["decode.unit_missing=\"assume-canonical\""])).succeeded();
    let assumed = found(folder.path(), "assumed");
    let of = |measure: &str, rows: &[Row]| -> i64 {
        rows.iter().filter(|row| text(row, "measure") == measure).map(|row| integer(row, "current_count")).sum()
    };
    assert_eq!(of("unit_assumed", &assumed), of("unit_missing", &one));
    assert_eq!((of("unit_missing", &assumed), of("readings", &assumed)), (0, of("readings", &one)));

    let report = finish(windkessel(folder.path()).args(["report", "one", "--out", "report.html"])).succeeded();
    let page = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(page.contains("data-measure=\"unit_missing\""), "{}", report.out);
}
