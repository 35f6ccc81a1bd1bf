//! What these tests prove: the rules of the stage's page one by one, as scripts with a printed answer; the same rows as the [oracle](super::oracle)
//! on random input, and the same bits for any epochs, interleaving of partitions and number of machines; the bytes of the page's table.
//! Of machines that are saved and loaded: `saved`.

mod saved;

use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::oracle::{self, Expected};
use super::{PatientOutput, Patients, PatientsFull, Settings};
use crate::config::{CorrectionSpec, PatientSpec};
use crate::decode::Leniency;
use crate::signals::{DIASTOLIC, HEART_RATE, MEAN_ARTERIAL, SYSTOLIC, SignalId};
use crate::time::{EventSpan, EventTime};
use crate::vocabulary::flaws::{Flaw, Flaws, MEASURES};
use crate::vocabulary::{
    Comorbidities, Condition, Demographics, FEATURE_NAMES, Facts, Intake, Leniencies, Moved, Outcome, Partition,
    Position, Precision, Pseudonym, Reading, Scorable, Sex, Signals, Status, Tick, Timeliness, TopicId, Version,
    WindowRow,
};

const COLUMNS: [SignalId; 4] = [SYSTOLIC, DIASTOLIC, MEAN_ARTERIAL, HEART_RATE];

fn minutes(minutes: i64) -> EventTime {
    EventTime::from_micros(minutes * 60_000_000)
}

fn pseudonym(name: &str) -> Pseudonym {
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Pseudonym(bytes)
}

fn name(pseudonym: Pseudonym) -> String {
    String::from_utf8(pseudonym.0.into_iter().filter(|byte| *byte != 0).collect()).unwrap()
}

fn hours(hours: i64) -> EventSpan {
    EventSpan::from_seconds(hours * 3_600)
}

fn spec() -> PatientSpec {
    PatientSpec { lateness: hours(2), baseline_readings: 4, baseline_readings_min: 2, ..Default::default() }
}

fn settings(spec: &PatientSpec, horizon: EventSpan) -> Settings {
    Settings::new(spec, &CorrectionSpec { horizon }, COLUMNS.to_vec(), true).with_conditions(true)
}

// ---------------------------------------------------------------- scripts

/// One line an epoch, inputs separated by `;`: `patient observation hh:mm systolic/diastolic [words]`, `patient born year sex [words]`,
/// `tick hh:mm [@partition] [idle]`, `end [@partition]`.
struct Script {
    patients: Patients,
    offset: i64,
}

fn time(text: &str) -> EventTime {
    let (hour, minute) = text.split_once(':').unwrap();
    minutes(hour.parse::<i64>().unwrap() * 60 + minute.parse::<i64>().unwrap())
}

fn clock(at: EventTime) -> String {
    let minutes = at.micros() / 60_000_000;
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}

fn partition(words: &[&str]) -> Partition {
    let number = words.iter().find_map(|word| word.strip_prefix('@')).map_or(0, |number| number.parse().unwrap());
    Partition { number, ..Default::default() }
}

fn version(words: &[&str]) -> Version {
    let number = words.iter().find_map(|word| word.strip_prefix('v')).map(|number| number.parse().unwrap());
    number.map_or(Version::Unversioned, Version::Number)
}

fn signals(text: &str) -> Signals {
    let mut signals = Signals::default();
    for (signal, value) in [SYSTOLIC, DIASTOLIC].into_iter().zip(text.split('/')) {
        if let Ok(value) = value.parse() {
            signals.insert(signal, value);
        }
    }
    signals
}

impl Script {
    fn new(spec: &PatientSpec, horizon: EventSpan) -> Self {
        Script { patients: Patients::new(settings(spec, horizon)), offset: 0 }
    }

    fn intake(&mut self, words: &[&str]) -> Intake {
        self.offset += 1;
        let position = Position { partition: partition(words), offset: self.offset, entry: 0 };
        let patient = pseudonym(words[0]);
        if words[1] == "born" {
            let sex = if words[3] == "female" { Sex::Female } else { Sex::Male };
            let demographics = Demographics {
                birth_year: Some(words[2].parse().unwrap()),
                sex,
                version: version(&words[4..]),
                ..Default::default()
            };
            return Intake::Demographics { patient, position, demographics };
        }
        let any = |word: &str| words.contains(&word);
        let facts = Facts {
            position,
            at: time(words[2]),
            precision: if any("day") { Precision::Day } else { Precision::Instant },
            timeliness: match (any("late"), any("toolate")) {
                (true, _) => Timeliness::Late,
                (_, true) => Timeliness::TooLate,
                _ => Timeliness::OnTime,
            },
            version: version(&words[4..]),
            status: match (any("error"), any("amended")) {
                (true, _) => Status::EnteredInError,
                (_, true) => Status::Amended,
                _ => Status::Final,
            },
            signals: signals(words[3]),
            taken: !any("foreign"),
            summary: any("summary"),
            ..Default::default()
        };
        Intake::Reading(Reading { patient, observation: pseudonym(words[1]), facts })
    }

    fn epoch(&mut self, epoch: u64, line: &str) -> Result<PatientOutput, PatientsFull> {
        let (mut intakes, mut ticks, mut out) = (Vec::new(), Vec::new(), PatientOutput::default());
        for item in line.split(';') {
            match item.split_whitespace().collect::<Vec<_>>().as_slice() {
                [] => {}
                words @ ["end", ..] => {
                    ticks.push(Tick { partition: partition(words), watermark: EventTime::MAX, idle: false });
                }
                words @ ["tick", at, ..] => {
                    ticks.push(Tick { partition: partition(words), watermark: time(at), idle: words.contains(&"idle") })
                }
                words => intakes.push(self.intake(words)),
            }
        }
        intakes.sort_by_key(Intake::position);
        self.patients.apply(epoch, &mut intakes, &ticks, &mut out)?;
        Ok(out)
    }
}

fn signals_text(signals: &Signals) -> String {
    let value = |signal| signals.get(signal).map_or("-".to_owned(), |value| value.to_string());
    format!("{}/{}", value(SYSTOLIC), value(DIASTOLIC))
}

fn print(epoch: usize, out: &mut PatientOutput) -> String {
    let mut text = String::new();
    let mut line = |line: String| text += &format!("{epoch}: {line}\n");
    for (number, reading) in out.scorable.readings.iter().enumerate() {
        let facts = &reading.facts;
        let replaces = if out.scorable.replaces[number] { " replaces" } else { "" };
        let (values, at) = (signals_text(&facts.signals), clock(facts.at));
        let (status, timeliness) = (facts.status.code(), facts.timeliness);
        let recomputed = if facts.not_recomputed { " not recomputed" } else { "" };
        line(format!("{} {at} {values} {status} {timeliness:?}{replaces}{recomputed}", name(reading.observation)));
    }
    for withdrawn in &out.scorable.withdrawn {
        line(format!("withdrawn {} {}", clock(withdrawn.at), signals_text(&withdrawn.signals)));
    }
    for row in &out.windows {
        let systolic = row.aggregates[0].map_or("empty".to_owned(), |a| format!("n={} mean={}", a.count, a.mean));
        let (start, end) = (clock(row.start), clock(row.end));
        let (above, below) = (row.above_seconds, row.below_seconds);
        line(format!(
            "{} [{start}, {end}) {systolic} above={above} below={below} r{}",
            name(row.patient),
            row.revision
        ));
    }
    let mut tally: Vec<_> = out.tally.drain().filter(|(outcome, ..)| *outcome != Outcome::Contributed).collect();
    tally.sort_unstable();
    tally.into_iter().for_each(|(outcome, reason, count)| line(format!("{} {reason}: {count}", outcome.name())));
    text
}

fn run(spec: &PatientSpec, horizon: EventSpan, script: &str) -> (String, Patients) {
    let mut machine = Script::new(spec, horizon);
    let mut text = String::new();
    for (epoch, line) in script.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate() {
        let mut out = machine.epoch(epoch as u64, line).unwrap();
        text += &print(epoch, &mut out);
    }
    (text, machine.patients)
}

fn check(script: &str, expect: Expect) {
    expect.assert_eq(&run(&spec(), hours(48), script).0);
}

#[test]
fn a_window_closes_when_the_watermark_reaches_its_end() {
    check(
        "ann a 10:00 120/80; ann b 10:59 130/80; bob c 10:30 150/80; tick 10:59
         tick 11:00",
        expect![[r#"
            0: a 10:00 120/80 final OnTime
            0: b 10:59 130/80 final OnTime
            0: c 10:30 150/80 final OnTime
            1: ann [10:00, 11:00) n=2 mean=125 above=0 below=0 r0
            1: bob [10:00, 11:00) n=1 mean=150 above=1800 below=0 r0
        "#]],
    );
}

#[test]
fn windows_come_by_end_and_then_by_patient() {
    check(
        "zoe a 10:00 120/80; ann b 10:00 120/80; zoe c 09:00 120/80; tick 12:00",
        expect![[r#"
            0: a 10:00 120/80 final OnTime
            0: b 10:00 120/80 final OnTime
            0: c 09:00 120/80 final OnTime
            0: zoe [09:00, 10:00) n=1 mean=120 above=0 below=0 r0
            0: ann [10:00, 11:00) n=1 mean=120 above=0 below=0 r0
            0: zoe [10:00, 11:00) n=1 mean=120 above=0 below=0 r0
        "#]],
    );
}

#[test]
fn a_late_reading_reopens_its_window_and_is_counted_in_its_revision() {
    check(
        "ann a 10:00 120/80; tick 12:00
         ann b 10:30 150/80 late; ann c 10:40 160/80 late
         ann d 10:50 170/80 toolate",
        expect![[r#"
            0: a 10:00 120/80 final OnTime
            0: ann [10:00, 11:00) n=1 mean=120 above=0 below=0 r0
            1: b 10:30 150/80 final Late
            1: c 10:40 160/80 final Late
            1: ann [10:00, 11:00) n=3 mean=143.33333333333334 above=1800 below=0 r2
            2: d 10:50 170/80 final TooLate
            2: late lateness: 1
        "#]],
    );
}

#[test]
fn a_late_reading_counts_in_a_window_that_has_not_closed_as_well() {
    check(
        "ann a 10:00 120/80 late; ann b 10:10 130/80; tick 12:00",
        expect![[r#"
        0: a 10:00 120/80 final Late
        0: b 10:10 130/80 final OnTime
        0: ann [10:00, 11:00) n=2 mean=125 above=0 below=0 r1
    "#]],
    );
}

#[test]
fn the_same_version_again_is_a_duplicate_and_a_lower_one_is_superseded() {
    check(
        "ann a 10:00 120/80 v2; ann a 10:00 120/80 v2; ann a 10:00 110/80 v1; tick 12:00
         ann a 10:00 120/80 v2; ann a 10:00 110/80 v1",
        expect![[r#"
            0: a 10:00 120/80 final OnTime
            0: ann [10:00, 11:00) n=1 mean=120 above=0 below=0 r0
            0: superseded version: 1
            0: duplicate version: 1
            1: superseded version: 1
            1: duplicate version: 1
        "#]],
    );
}

#[test]
fn a_higher_version_replaces_and_its_windows_are_emitted_again() {
    check(
        "ann a 10:00 120/80 v1; ann b 10:00 100/80; tick 12:00
         ann a 10:00 130/80 v2 late
         ann a 11:30 140/80 v3",
        expect![[r#"
            0: a 10:00 120/80 final OnTime
            0: b 10:00 100/80 final OnTime
            0: ann [10:00, 11:00) n=2 mean=110 above=0 below=0 r0
            1: a 10:00 130/80 final Late replaces
            1: withdrawn 10:00 120/80
            1: ann [10:00, 11:00) n=2 mean=115 above=0 below=0 r1
            2: a 11:30 140/80 final OnTime replaces
            2: withdrawn 10:00 130/80
            2: ann [10:00, 11:00) n=1 mean=100 above=0 below=0 r2
            2: ann [11:00, 12:00) n=1 mean=140 above=1800 below=0 r1
        "#]],
    );
}

#[test]
fn without_versions_the_same_content_is_a_duplicate_and_other_content_replaces() {
    check(
        "ann a 10:00 120/80; ann a 10:00 120/80; ann a 10:00 121/80; tick 12:00
         ann a 10:00 121/80 late",
        expect![[r#"
            0: a 10:00 120/80 final OnTime
            0: a 10:00 121/80 final OnTime replaces
            0: withdrawn 10:00 120/80
            0: ann [10:00, 11:00) n=1 mean=121 above=0 below=0 r1
            0: duplicate version: 1
            1: duplicate version: 1
        "#]],
    );
}

#[test]
fn a_withdrawal_empties_the_window_and_its_id_does_not_come_back() {
    check(
        "ann a 10:00 120/80 v1; tick 12:00
         ann a 14:00 - v2 error
         ann a 14:00 - v2 error; ann a 10:00 120/80 v1; ann a 10:00 120/80 v2
         ann a 10:10 125/80 v3 toolate",
        expect![[r#"
            0: a 10:00 120/80 final OnTime
            0: ann [10:00, 11:00) n=1 mean=120 above=0 below=0 r0
            1: a 10:00 -/- entered-in-error OnTime replaces
            1: withdrawn 10:00 120/80
            1: ann [10:00, 11:00) empty above=0 below=0 r1
            2: superseded version: 2
            2: duplicate version: 1
            3: a 10:10 125/80 final Late replaces
            3: ann [10:00, 11:00) n=1 mean=125 above=0 below=0 r2
        "#]],
    );
}

#[test]
fn a_withdrawal_before_the_window_closes_still_leaves_a_row() {
    check(
        "ann a 10:00 120/80 v1; ann a 10:00 - v2 error; tick 12:00",
        expect![[r#"
        0: a 10:00 120/80 final OnTime
        0: a 10:00 -/- entered-in-error OnTime replaces
        0: withdrawn 10:00 120/80
        0: ann [10:00, 11:00) empty above=0 below=0 r1
    "#]],
    );
}

#[test]
fn of_one_version_the_withdrawal_wins_in_either_order() {
    check(
        "ann a 10:00 120/80 v1; ann a 10:00 - v1 error; ann b 10:00 - v1 error; ann b 10:00 120/80 v1",
        expect![[r#"
            0: a 10:00 120/80 final OnTime
            0: a 10:00 -/- entered-in-error OnTime replaces
            0: withdrawn 10:00 120/80
            0: superseded version: 1
            0: ignored withdrawal_of_unknown: 1
        "#]],
    );
}

#[test]
fn an_unknown_id_is_withdrawn_before_it_comes() {
    check(
        "ann a 10:00 99/9 v2 error; ann a 10:00 120/80 v1; ann a 10:00 121/80 v3; tick 12:00",
        expect![[r#"
            0: a 10:00 121/80 final OnTime replaces
            0: ann [10:00, 11:00) n=1 mean=121 above=0 below=0 r1
            0: superseded version: 1
            0: ignored withdrawal_of_unknown: 1
        "#]],
    );
}

#[test]
fn a_deletion_without_version_keeps_the_withdrawn_version_out() {
    check(
        "ann a 10:00 120/80 v3; ann a 12:00 - error; ann a 10:00 120/80 v3; ann a 13:00 - error; ann a 10:00 122/80 v4",
        expect![[r#"
            0: a 10:00 120/80 final OnTime
            0: a 10:00 -/- entered-in-error OnTime replaces
            0: a 10:00 122/80 final OnTime replaces
            0: withdrawn 10:00 120/80
            0: superseded version: 1
            0: duplicate version: 1
        "#]],
    );
}

#[test]
fn a_correction_of_what_was_in_time_is_never_too_late_within_the_horizon() {
    check(
        "ann a 10:00 120/80 v1; ann b 10:00 120/80 toolate v1; tick 20:00
         ann a 10:00 130/80 v2 toolate; ann b 10:00 130/80 v2 toolate",
        expect![[r#"
            0: a 10:00 120/80 final OnTime
            0: b 10:00 120/80 final TooLate
            0: ann [10:00, 11:00) n=1 mean=120 above=0 below=0 r0
            0: late lateness: 1
            1: a 10:00 130/80 final Late replaces
            1: b 10:00 130/80 final TooLate replaces
            1: withdrawn 10:00 120/80
            1: ann [10:00, 11:00) n=1 mean=130 above=0 below=0 r1
            1: late lateness: 1
        "#]],
    );
}

/// The horizon is three hours. What is known only by its status or version to be a correction gets a row and the flag; what may be of anything else does not.
#[test]
fn a_correction_beyond_the_horizon_stands_as_a_row_and_says_that_nothing_was_recomputed() {
    let script = "ann a 10:00 120/80 v1; ann b 10:10 122/80; ann c 12:30 124/80 v1; tick 13:09
                  ann a 10:00 130/80 v2 toolate; ann b 10:10 132/80 amended toolate; tick 15:00
                  ann a 10:00 131/80 v2 toolate; ann b 10:10 133/80 amended toolate; ann d 10:20 140/80 toolate v1
                  ann a 10:00 - v3 error toolate; ann x 10:00 - v3 error foreign toolate; ann c 10:00 125/80 v2 toolate";
    expect![[r#"
        0: a 10:00 120/80 final OnTime
        0: b 10:10 122/80 final OnTime
        0: c 12:30 124/80 final OnTime
        0: ann [10:00, 11:00) n=2 mean=121 above=0 below=0 r0
        0: ann [12:00, 13:00) n=1 mean=124 above=0 below=0 r0
        1: a 10:00 130/80 final TooLate replaces not recomputed
        1: b 10:10 132/80 amended Late replaces
        1: withdrawn 10:10 122/80
        1: ann [10:00, 11:00) n=2 mean=126 above=0 below=0 r1
        1: late horizon: 1
        2: a 10:00 131/80 final TooLate replaces not recomputed
        2: b 10:10 133/80 amended TooLate replaces not recomputed
        2: d 10:20 140/80 final TooLate
        2: late horizon: 2
        2: late lateness: 1
        3: a 10:00 -/- entered-in-error TooLate replaces not recomputed
        3: c 10:00 125/80 final TooLate replaces not recomputed
        3: withdrawn 12:30 124/80
        3: ann [12:00, 13:00) empty above=0 below=0 r1
        3: late horizon: 2
        3: ignored withdrawal_of_unknown: 1
    "#]]
    .assert_eq(&run(&spec(), hours(3), script).0);
}

#[test]
fn summaries_and_days_enter_no_hourly_window() {
    check(
        "ann a 10:00 120/80 summary; ann b 10:00 130/80 day; ann c 10:00 -/70; tick 12:00",
        expect![[r#"
        0: a 10:00 120/80 final OnTime
        0: b 10:00 130/80 final OnTime
        0: c 10:00 -/70 final OnTime
        0: ann [10:00, 11:00) empty above=0 below=0 r0
    "#]],
    );
}

#[test]
fn days_enter_daily_windows() {
    let spec = PatientSpec { window: hours(24), hop: hours(24), ..spec() };
    expect![[r#"
        0: b 00:00 130/80 final OnTime
        0: ann [00:00, 24:00) n=1 mean=130 above=0 below=0 r0
    "#]]
    .assert_eq(&run(&spec, hours(48), "ann b 00:00 130/80 day; tick 24:00").0);
}

#[test]
fn a_value_stands_until_the_next_or_the_end_of_the_window() {
    check(
        "ann a 10:10 140/80; ann b 10:20 139.9/80; ann c 10:30 -/70; ann d 10:40 89.9/50; ann e 10:55 90/50; end",
        expect![[r#"
            0: a 10:10 140/80 final OnTime
            0: b 10:20 139.9/80 final OnTime
            0: c 10:30 -/70 final OnTime
            0: d 10:40 89.9/50 final OnTime
            0: e 10:55 90/50 final OnTime
            0: ann [10:00, 11:00) n=4 mean=114.94999999999999 above=600 below=900 r0
        "#]],
    );
}

#[test]
fn overlapping_windows_share_their_readings_and_a_correction_counts_once_in_each() {
    let spec = PatientSpec { hop: EventSpan::from_seconds(1_200), ..spec() };
    let script = "ann a 10:10 120/80 v1; tick 12:00
                  ann a 10:30 140/80 v2 late";
    expect![[r#"
        0: a 10:10 120/80 final OnTime
        0: ann [09:20, 10:20) n=1 mean=120 above=0 below=0 r0
        0: ann [09:40, 10:40) n=1 mean=120 above=0 below=0 r0
        0: ann [10:00, 11:00) n=1 mean=120 above=0 below=0 r0
        1: a 10:30 140/80 final Late replaces
        1: withdrawn 10:10 120/80
        1: ann [09:20, 10:20) empty above=0 below=0 r1
        1: ann [09:40, 10:40) n=1 mean=140 above=600 below=0 r1
        1: ann [10:00, 11:00) n=1 mean=140 above=1800 below=0 r1
        1: ann [10:20, 11:20) n=1 mean=140 above=3000 below=0 r1
    "#]]
    .assert_eq(&run(&spec, hours(48), script).0);
}

#[test]
fn an_idle_partition_holds_no_window_open() {
    check(
        "ann a 10:00 120/80; tick 11:30; tick 09:00 @1
         tick 09:00 @1 idle
         bob b 09:10 120/80 @1",
        expect![[r#"
            0: a 10:00 120/80 final OnTime
            1: ann [10:00, 11:00) n=1 mean=120 above=0 below=0 r0
            2: b 09:10 120/80 final OnTime
            2: bob [09:00, 10:00) n=1 mean=120 above=0 below=0 r0
        "#]],
    );
}

#[test]
fn copies_in_two_partitions_contribute_once_and_the_highest_version_stands() {
    check(
        "ann a 10:00 120/80 v2; ann a 10:00 120/80 v2 @1; ann b 10:00 110/80 v1; ann b 10:00 120/80 v2 @1
         ann b 10:00 110/80 v1 @1; ann a 10:00 125/80 v1 @2; end; end @1; end @2",
        expect![[r#"
            0: a 10:00 120/80 final OnTime
            0: b 10:00 110/80 final OnTime
            0: b 10:00 120/80 final OnTime replaces
            0: withdrawn 10:00 110/80
            0: duplicate version: 1
            1: ann [10:00, 11:00) n=2 mean=120 above=0 below=0 r1
            1: superseded version: 2
        "#]],
    );
}

#[test]
fn a_copy_from_another_partition_enters_the_history_of_its_own() {
    let mut machine = Script::new(&spec(), hours(48));
    let script = "ann a 10:00 120/80 v1; ann a 10:00 120/80 v1 @1; ann b 10:10 130/80 @1";
    let out = machine.epoch(0, script).unwrap();
    let of_b = &out.scorable.features[FEATURE_NAMES.len()..];
    assert_eq!((of_b[4], of_b[5]), (2.0, 125.0), "two recent readings in partition 1, one of them a copy");
}

#[test]
fn features_are_those_of_a_worked_example() {
    let mut machine = Script::new(&spec(), hours(48));
    let script = "ann born 1940 female; ann a 10:00 120/80; ann b 11:00 130/80; ann c 12:00 150/90";
    let out = machine.epoch(0, script).unwrap();
    let row = &out.scorable.features[2 * FEATURE_NAMES.len()..];
    let feature = |name: &str| row[FEATURE_NAMES.iter().position(|other| *other == name).unwrap()];
    let expected = [
        ("systolic", 150.0),
        ("diastolic", 90.0),
        ("mean_arterial", 110.0),
        ("pulse_pressure", 60.0),
        ("recent_readings", 3.0),
        ("systolic_mean", 400.0 / 3.0),
        ("systolic_standard_deviation", (700.0_f64 / 3.0).sqrt()),
        ("systolic_min", 120.0),
        ("systolic_max", 150.0),
        ("systolic_slope_per_hour", 15.0),
        ("systolic_variability", 15.0),
        ("diastolic_mean", 250.0 / 3.0),
        ("diastolic_standard_deviation", (100.0_f64 / 3.0).sqrt()),
        ("diastolic_slope_per_hour", 5.0),
        ("systolic_baseline", 125.0),
        ("systolic_baseline_deviation", 25.0 / (1.4826 * 5.0)),
        ("diastolic_baseline", 80.0),
        ("diastolic_baseline_deviation", 2.0),
        ("age_years", 30.0),
        ("female", 1.0),
    ];
    for (name, value) in expected {
        assert!((feature(name) - value).abs() < 1e-9, "{name}: {} instead of {value}", feature(name));
    }
    assert_eq!(expected.map(|(name, _)| name), FEATURE_NAMES, "every feature, in its order");
}

#[test]
fn a_cold_start_is_measured_against_the_population() {
    let mut machine = Script::new(&spec(), hours(48));
    let out = machine.epoch(0, "ann a 10:00 132/72; ann b 11:00 -/80").unwrap();
    let (first, second) = out.scorable.features.split_at(FEATURE_NAMES.len());
    assert_eq!((first[14], first[15], first[16], first[17]), (122.0, 2.0, 72.0, 0.0));
    assert_eq!((second[4], second[14]), (1.0, 127.0), "half its own, half the population's");
    assert!(second[0].is_nan() && second[15].is_nan() && second[19].is_nan());
}

#[test]
fn the_newest_demographics_stand() {
    let mut machine = Script::new(&spec(), hours(48));
    let script = "ann born 1940 male v2; ann born 1950 female v1; ann a 10:00 120/80; ann born 1940 male v2; \
                  ann born 1920 female v3; ann b 10:10 120/80; ann born 1921 female; ann born 1921 female; ann c 10:20 120/80";
    let out = machine.epoch(0, script).unwrap();
    let ages: Vec<f64> = out.scorable.features.chunks(FEATURE_NAMES.len()).map(|row| row[18]).collect();
    assert_eq!(ages, [30.0, 50.0, 49.0]);
    let total = |outcome| out.tally.total(outcome);
    assert_eq!(
        (total(Outcome::Contributed), total(Outcome::Superseded), total(Outcome::Duplicate)),
        (3, 0, 0),
        "readings alone are counted here"
    );
}

/// An epoch in which nothing else comes is told on like any other: on one worker of several there often is none.
#[test]
fn who_changes_group_takes_along_what_was_counted_even_if_nothing_else_comes() {
    let mut machine = Script::new(&spec(), hours(48));
    let mut epoch = 0;
    let mut told = |line: &str| {
        epoch += 1;
        machine.epoch(epoch, line).unwrap().scorable
    };
    told("ann born 1940 male v1; ann a 10:00 120/80; ann b 10:05 121/80 toolate; bob c 10:10 122/80; tick 10:10");
    let Scorable { moved, .. } = told("ann born 1940 female v2");
    let of = |moved: &Moved| (name(moved.observation), moved.before.sex, moved.measured.demographics.sex);
    assert_eq!(moved.iter().map(of).collect::<Vec<_>>(), [("a".to_owned(), Sex::Male, Sex::Female)]);
    assert!(!Scorable { moved, ..Default::default() }.is_empty(), "it is to go on");
    assert!(told("ann born 1940 female v3; ann born 1950 male v1").is_empty(), "there is nothing to move");
    let gone = told("ann a 10:00 120/80 v2 error").withdrawn;
    assert_eq!(gone.iter().map(|gone| gone.demographics.sex).collect::<Vec<_>>(), [Sex::Female]);
}

#[test]
fn a_patient_too_many_stops_the_run_with_a_hint() {
    let spec = PatientSpec { patients_max: 2, ..spec() };
    let mut machine = Script::new(&spec, hours(48));
    assert!(machine.epoch(0, "ann a 10:00 120/80; bob b 10:00 120/80").is_ok());
    assert!(machine.epoch(1, "ann c 10:00 120/80; bob born 1950 male").is_ok(), "known patients go on");
    let full = machine.epoch(2, "eve d 10:00 120/80").unwrap_err();
    assert_eq!(full, PatientsFull { limit: 2 });
    assert!(full.to_string().contains("holds 2 already; raise patient.patients_max"));
}

// ---------------------------------------------------------------- forgetting

#[test]
fn what_lies_behind_the_horizon_is_forgotten_and_only_history_is_left() {
    let script = "ann a 10:00 120/80; bob b 10:00 120/80 v1; bob b 10:00 - v2 error; tick 11:00
                  tick 40:00";
    let (_, patients) = run(&spec(), hours(3), script);
    assert_eq!((patients.patients(), patients.contributions()), (2, 0));
    assert!(format!("{:?}", patients.slab.get(0)).contains("active: None"));
}

#[test]
fn contributions_are_counted_as_they_come_and_go() {
    let (_, patients) =
        run(&spec(), hours(3), "ann a 10:00 120/80; ann b 20:00 120/80; ann b 20:00 121/80; tick 10:00");
    assert_eq!(patients.contributions(), 2);
}

#[test]
fn memory_is_as_the_page_says() {
    use super::contributions::Version as Kept;
    use super::history::{Chain, Slot};
    use super::state::{Active, Patient};
    use super::window::Whose;
    let rest = [
        ("state", size_of::<Patient>(), 64),
        ("chain", size_of::<Chain>(), 24),
        ("ring of 12 readings", 12 * size_of::<Slot>(), 96),
        ("index entry", (size_of::<(Pseudonym, u32)>() + 1) * 3 / 2, 31),
        ("vectors' heads", size_of::<Active>(), 128),
        ("contribution", size_of::<Kept>() + size_of::<u32>() + 3 * size_of::<f64>(), 84),
        ("open window", size_of::<EventTime>() + size_of::<Whose>(), 28),
        ("revised window", size_of::<(EventTime, u32)>(), 16),
    ];
    for (what, bytes, documented) in rest {
        println!("{what}: {bytes}");
        assert_eq!(bytes, documented, "{what}");
    }
}

// ---------------------------------------------------------------- random input

/// Random partitions: fresh readings, late ones, redeliveries, corrections, withdrawals and Patient resources. Each observation keeps to one partition,
/// refers to nothing older than the horizon, and Patient resources come only where all of the patient's readings are.
struct Generator {
    rng: ChaCha8Rng,
    horizon: EventSpan,
    spec: PatientSpec,
    /// Every reading has an integer for its version.
    numbered: bool,
    observations: u64,
}

struct PartitionState {
    partition: Partition,
    offset: i64,
    newest: EventTime,
    intakes: Vec<(Intake, EventTime)>,
    sent: Vec<Reading>,
}

impl Generator {
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn id(&mut self) -> Pseudonym {
        self.observations += 1;
        spread(self.observations)
    }

    fn partition(&mut self, number: i32, partitions: i32, inputs: usize) -> PartitionState {
        let partition = Partition { topic: TopicId(number as u32), number };
        let start = minutes(self.rng.random_range(0..600));
        let mut state = PartitionState { partition, offset: 0, newest: start, intakes: Vec::new(), sent: Vec::new() };
        for _ in 0..inputs {
            let watermark = state.newest - self.spec.disorder;
            // Even patients live in one partition, odd ones in all.
            let patient = self.rng.random_range(0..6_u64);
            let lives_here = patient % 2 == 1 || patient % partitions as u64 == number as u64;
            let patient = if lives_here { patient } else { 1 };
            let position = Position { partition, offset: state.offset, entry: 0 };
            state.offset += 1;
            let intake = match self.rng.random_range(0..100) {
                0..4 if patient % 2 == 0 => self.demographics(patient, position),
                4..16 if patient % 2 == 0 => Some(self.condition(patient, position)),
                4..40 => self.again(&state, position, watermark),
                _ => Some(self.fresh(patient, &state, position)),
            };
            let intake = intake.unwrap_or_else(|| self.fresh(patient, &state, position));
            if let Intake::Reading(reading) = &intake {
                if !reading.facts.status.withdraws() {
                    state.newest = state.newest.max(reading.facts.at);
                }
                state.sent.push(reading.clone());
            }
            let watermark = state.newest - self.spec.disorder;
            state.intakes.push((intake, watermark));
        }
        state
    }

    fn demographics(&mut self, patient: u64, position: Position) -> Option<Intake> {
        let sex = [Sex::Female, Sex::Male, Sex::Other][self.rng.random_range(0..3)];
        let birth_year = self.chance(80).then(|| self.rng.random_range(1_900..1_971));
        let version = self.version();
        Some(Intake::Demographics {
            patient: spread(patient),
            position,
            demographics: Demographics { birth_year, sex, version, ..Demographics::default() },
        })
    }

    /// One of a few conditions. Each has versions of one kind, as resources of one server have; a numbered one says the same whenever it comes.
    fn condition(&mut self, patient: u64, position: Position) -> Intake {
        let id = self.rng.random_range(0..6_u64);
        let number = self.rng.random_range(1..5);
        let withdraws = self.chance(15);
        let (version, means) = match id % 3 {
            0 => (Version::Number(number), id as i64 * 5 + number * 7),
            1 => (Version::Updated(number), self.rng.random_range(0..9)),
            _ => (Version::Unversioned, self.rng.random_range(0..9)),
        };
        let version = if withdraws && self.chance(30) { Version::Unversioned } else { version };
        let mut comorbidities = Comorbidities::NONE;
        if !withdraws && means % 3 > 0 {
            comorbidities = Comorbidities::one((means % 5) as u8).or(Comorbidities::one((means % 7) as u8));
        }
        let condition = Condition { id: spread(10_000 + id), comorbidities, withdraws, version };
        Intake::Condition { patient: spread(patient), position, condition }
    }

    fn version(&mut self) -> Version {
        match self.rng.random_range(0..3) {
            _ if self.numbered => Version::Number(self.rng.random_range(0..4)),
            0 => Version::Unversioned,
            1 => Version::Updated(self.rng.random_range(0..3)),
            _ => Version::Number(self.rng.random_range(0..4)),
        }
    }

    fn judge(&self, facts: &mut Facts, newest: EventTime) {
        let watermark = newest - self.spec.disorder;
        facts.timeliness = if facts.at >= watermark {
            Timeliness::OnTime
        } else if facts.at >= watermark - self.spec.lateness {
            Timeliness::Late
        } else {
            Timeliness::TooLate
        };
    }

    fn fresh(&mut self, patient: u64, state: &PartitionState, position: Position) -> Intake {
        let spread_micros = match self.rng.random_range(0..10) {
            0 => -12_000_000_000..0,
            1..4 => -1_200_000_000..0,
            4 => 0..7_200_000_000_i64,
            _ => 0..600_000_000,
        };
        // Often to the minute, so that times coincide; sometimes to the microsecond.
        let micros = self.rng.random_range(spread_micros);
        let at = state.newest + EventSpan::from_micros(micros);
        let at = if self.chance(70) { at.floor_to(EventSpan::from_seconds(60)) } else { at };
        let mut facts = Facts { position, at, version: self.version(), ..Default::default() };
        facts.precision = if self.chance(5) { Precision::Day } else { Precision::Instant };
        facts.summary = self.chance(5);
        if self.chance(3) {
            facts.status = Status::EnteredInError;
        } else {
            facts.signals = self.signals();
            facts.leniencies = self.leniencies();
        }
        self.judge(&mut facts, state.newest);
        let observation = self.id();
        Intake::Reading(Reading { patient: spread(patient), observation, facts })
    }

    fn leniencies(&mut self) -> Leniencies {
        let unit_assumed = 1 << Leniency::UnitAssumed as u32;
        Leniencies(if self.chance(20) { unit_assumed } else { 0 })
    }

    fn signals(&mut self) -> Signals {
        let mut signals = Signals::default();
        let (systolic, diastolic) = (self.rng.random_range(80..181), self.rng.random_range(40..111));
        let tenths = f64::from(self.rng.random_range(0..2) * self.rng.random_range(0..10)) / 10.0;
        if self.chance(90) {
            signals.insert(SYSTOLIC, f64::from(systolic) + tenths);
        }
        if self.chance(90) {
            signals.insert(DIASTOLIC, f64::from(diastolic));
        }
        if self.chance(20) {
            signals.insert(MEAN_ARTERIAL, f64::from(diastolic) + 20.0);
        }
        if signals.is_empty() || self.chance(10) {
            signals.insert(HEART_RATE, 70.0);
        }
        signals
    }

    /// A redelivery, correction or withdrawal of something sent before, if the horizon leaves anything.
    fn again(&mut self, state: &PartitionState, position: Position, watermark: EventTime) -> Option<Intake> {
        let oldest = watermark - self.horizon;
        let recent = &state.sent[state.sent.len().saturating_sub(30)..];
        // Whichever of its versions stands must be within the horizon.
        let recalled = |reading: &&Reading| {
            let mut versions = state.sent.iter().filter(|other| other.observation == reading.observation);
            versions.all(|version| version.facts.at >= oldest)
        };
        let known: Vec<&Reading> = recent.iter().filter(recalled).collect();
        let mut reading = (*known.get(self.rng.random_range(0..known.len().max(1)))?).clone();
        let facts = &mut reading.facts;
        facts.position = position;
        if self.chance(60) {
            facts.version = match facts.version {
                Version::Number(number) => Version::Number(number + self.rng.random_range(0..3) - 1),
                Version::Updated(number) => Version::Updated(number + self.rng.random_range(0..3) - 1),
                Version::Unversioned => Version::Unversioned,
            };
            facts.status = Status::Amended;
            facts.signals = self.signals();
            facts.leniencies = self.leniencies();
            facts.summary = self.chance(5);
            if self.chance(30) {
                let moved = facts.at + EventSpan::from_micros(self.rng.random_range(-3_600_000_000..3_600_000_000));
                facts.at = moved.max(oldest);
            }
            if self.chance(25) {
                facts.status = if self.chance(50) { Status::Cancelled } else { Status::EnteredInError };
                facts.signals = Signals::default();
            }
        }
        self.judge(facts, state.newest);
        Some(Intake::Reading(reading))
    }
}

fn spread(number: u64) -> Pseudonym {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    bytes[8..].copy_from_slice(&number.wrapping_mul(0xC2B2_AE3D_27D4_EB4F).to_be_bytes());
    Pseudonym(bytes)
}

/// Runs the partitions through several machines, cut into epochs at random, each partition going ahead at its own pace.
fn replay(partitions: &[PartitionState], settings: &Settings, machines: u64, seed: u64, epoch_max: usize) -> Expected {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut workers: Vec<Patients> = (0..machines).map(|_| Patients::new(settings.clone())).collect();
    let mut read = vec![0; partitions.len()];
    let mut result = Expected::default();
    let mut epoch = 0;
    while partitions.iter().zip(&read).any(|(state, read)| *read < state.intakes.len()) || epoch == 0 {
        let mut intakes: Vec<Vec<Intake>> = vec![Vec::new(); machines as usize];
        let mut ticks = Vec::new();
        for (state, read) in partitions.iter().zip(&mut read) {
            let count = rng.random_range(0..=epoch_max).min(state.intakes.len() - *read);
            for (intake, _) in &state.intakes[*read..*read + count] {
                intakes[(intake.patient().hash64() % machines) as usize].push(intake.clone());
            }
            *read += count;
            let last = read.checked_sub(1).map_or(EventTime::MIN, |last| state.intakes[last].1);
            let watermark = if *read == state.intakes.len() { EventTime::MAX } else { last };
            ticks.push(Tick { partition: state.partition, watermark, idle: false });
        }
        for (worker, intakes) in workers.iter_mut().zip(&mut intakes) {
            let mut out = PatientOutput::default();
            worker.apply(epoch, intakes, &ticks, &mut out).unwrap();
            gather(&mut result, out);
        }
        epoch += 1;
    }
    result.withdrawn.sort();
    result
}

fn gather(result: &mut Expected, mut out: PatientOutput) {
    let features = &out.scorable.features;
    for (number, reading) in out.scorable.readings.iter().enumerate() {
        let columns = number * FEATURE_NAMES.len()..(number + 1) * FEATURE_NAMES.len();
        let row = (reading.clone(), features[columns].to_vec(), out.scorable.replaces[number]);
        result.readings.insert((reading.patient, reading.observation), row);
        let comorbidities = out.scorable.demographics[number].comorbidities;
        result.comorbidities.insert((reading.patient, reading.observation), comorbidities);
    }
    let keys: Vec<_> = out.windows.iter().map(|row| (row.end, row.patient)).collect();
    assert!(keys.is_sorted_by(|a, b| a < b), "one row a window, by (end, patient)");
    result.windows.extend(out.windows.into_iter().map(|row| ((row.end, row.patient), row)));
    for (outcome, _, count) in out.tally.drain() {
        *result.outcomes.entry(outcome).or_default() += count;
    }
    let rows = out.scorable.readings.iter().map(|reading| &reading.facts).filter(|facts| facts.is_input());
    let rows = rows.map(|facts| (facts.position.partition.topic, facts.at, Flaws::input(Flaw::Readings), 1));
    let flawed = out.scorable.flawed.iter().map(|flawed| (flawed.topic, flawed.at, flawed.flaws, flawed.count));
    for (topic, at, flaws, count) in rows.chain(flawed) {
        for measure in flaws.numbers() {
            *result.inputs.entry((topic.0, at.micros(), MEASURES[measure])).or_default() += i64::from(count);
        }
    }
    result.inputs.retain(|_, count| *count != 0);
    count(result, &out.scorable);
    for withdrawn in out.scorable.withdrawn {
        let values = withdrawn.signals.iter().map(|measured| (measured.signal.0, measured.value.to_bits()));
        result.withdrawn.push((withdrawn.patient, withdrawn.at.micros(), values.collect()));
    }
}

/// What drift counts: rows that contribute, what they withdrew, and what was moved.
fn count(result: &mut Expected, Scorable { readings, demographics, moved, withdrawn, .. }: &Scorable) {
    let mut add = |patient: Pseudonym, at: EventTime, signals: &Signals, who: &Demographics, sign: i64| {
        let values = signals.iter().map(|measured| (measured.signal.0, measured.value.to_bits())).collect();
        let key = (patient, at.micros(), values, who.birth_year, who.sex, who.comorbidities);
        *result.counted.entry(key).or_default() += sign;
    };
    for (Reading { patient, facts, .. }, who) in readings.iter().zip(demographics) {
        if facts.timeliness != Timeliness::TooLate && !facts.summary && !facts.status.withdraws() {
            add(*patient, facts.at, &facts.signals, who, 1);
        }
    }
    for gone in withdrawn {
        add(gone.patient, gone.at, &gone.signals, &gone.demographics, -1);
    }
    for Moved { measured, before, .. } in moved {
        add(measured.patient, measured.at, &measured.signals, before, -1);
        add(measured.patient, measured.at, &measured.signals, &measured.demographics, 1);
    }
    result.counted.retain(|_, count| *count != 0);
}

/// Equal up to `tolerance`, relative above one; NaN equals NaN.
fn close(a: f64, b: f64, tolerance: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * a.abs().max(1.0)
}

fn numbers(row: &WindowRow) -> Vec<f64> {
    let mut numbers = vec![row.above_seconds, row.below_seconds, f64::from(row.revision)];
    for aggregate in &row.aggregates {
        numbers.push(f64::from(u8::from(aggregate.is_some())));
        if let Some(a) = aggregate {
            numbers.extend([f64::from(a.count), a.mean, a.min, a.max, a.standard_deviation, a.slope_per_hour, a.last]);
        }
    }
    numbers
}

fn assert_same(found: &Expected, expected: &Expected, tolerance: f64, what: &str) {
    assert_eq!(found.outcomes, expected.outcomes, "{what}: outcomes");
    assert_eq!(found.withdrawn, expected.withdrawn, "{what}: withdrawn");
    assert_eq!(found.inputs, expected.inputs, "{what}: inputs and their flaws");
    if !found.counted.is_empty() && !expected.counted.is_empty() {
        assert_eq!(found.counted, expected.counted, "{what}: groups");
    }
    assert_eq!(found.comorbidities, expected.comorbidities, "{what}: comorbidities");
    let keys = |expected: &Expected| expected.readings.keys().copied().collect::<Vec<_>>();
    assert_eq!(keys(found), keys(expected), "{what}: observations");
    for (key, (reading, features, replaces)) in &found.readings {
        let (other, other_features, other_replaces) = &expected.readings[key];
        assert_eq!(format!("{reading:?}"), format!("{other:?}"), "{what}: {key:?}");
        assert_eq!(replaces, other_replaces, "{what}: {key:?}");
        for (name, (a, b)) in FEATURE_NAMES.iter().zip(features.iter().zip(other_features)) {
            assert!(close(*a, *b, tolerance), "{what}: {key:?} {name}: {a} instead of {b}");
        }
    }
    let rows = |expected: &Expected| expected.windows.keys().copied().collect::<Vec<_>>();
    assert_eq!(rows(found), rows(expected), "{what}: windows");
    for (key, row) in &found.windows {
        let (a, b) = (numbers(row), numbers(&expected.windows[key]));
        let same = a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| close(*a, *b, tolerance));
        assert!(same, "{what}: window {key:?}: {a:?} instead of {b:?}");
    }
}

#[test]
fn random_input_gives_what_the_oracle_says_however_it_is_cut_and_spread() {
    let (mut seen, mut flawed): (BTreeMap<Outcome, u64>, BTreeMap<&str, i64>) = Default::default();
    let mut counts: BTreeMap<u8, u64> = BTreeMap::new();
    for seed in 0..60 {
        let hop = [1_200, 3_600][seed as usize % 2];
        let spec = PatientSpec { hop: EventSpan::from_seconds(hop), ..spec() };
        // The least that a flow may have, so that forgetting takes place all the time; and more.
        let horizon = if seed % 3 == 0 { hours(48) } else { hours(3) };
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let mut generator = Generator { rng, horizon, spec: spec.clone(), numbered: false, observations: 1_000 };
        let count = 1 + seed as i32 % 3;
        let partitions: Vec<_> = (0..count).map(|number| generator.partition(number, count, 150)).collect();
        let intakes: Vec<Intake> =
            partitions.iter().flat_map(|state| state.intakes.iter().map(|(intake, _)| intake.clone())).collect();
        let mut expected = oracle::expect(&spec, &COLUMNS, &intakes);
        expected.withdrawn.sort();
        let settings = settings(&spec, horizon);
        let mut whole = replay(&partitions, &settings, 1, seed, 1_000_000);
        if horizon < hours(48) {
            // What is beyond the horizon counts as it did then, and when that was depends on how the input was cut.
            whole.counted.clear();
        }
        assert_same(&whole, &expected, 1e-6, &format!("seed {seed}, one machine against the oracle"));
        for machines in 1..=4 {
            let epoch_max = [1, 5, 40][(seed + machines) as usize % 3];
            let cut = replay(&partitions, &settings, machines, seed + machines, epoch_max);
            assert_same(&cut, &whole, 0.0, &format!("seed {seed}, {machines} machines, epochs to {epoch_max}"));
        }
        expected.comorbidities.values().flatten().for_each(|count| *counts.entry(*count).or_default() += 1);
        expected.inputs.iter().for_each(|((.., measure), count)| *flawed.entry(measure).or_default() += count);
        expected.outcomes.iter().for_each(|(outcome, count)| *seen.entry(*outcome).or_default() += count);
    }
    let all = [Outcome::Contributed, Outcome::Superseded, Outcome::Duplicate, Outcome::Late];
    assert!(all.iter().all(|outcome| seen[outcome] > 100), "the input is varied: {seen:?}");
    assert!((0..4).all(|count| counts[&count] > 50), "comorbidities are varied: {counts:?}");
    let of_readings = ["readings", "signal_missing", "unit_assumed", "late", "duplicate"];
    assert!(of_readings.iter().all(|measure| flawed[measure] > 100), "the flaws are varied: {flawed:?}");
}

#[test]
fn a_partition_that_comes_twice_contributes_once_whichever_copy_is_ahead() {
    for seed in 0..30 {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let mut generator = Generator { rng, horizon: hours(48), spec: spec(), numbered: true, observations: 1_000 };
        let first = generator.partition(0, 1, 150);
        let partition = Partition { number: 1, ..Default::default() };
        let intakes = first.intakes.iter().map(|(intake, watermark)| (moved(intake, partition), *watermark)).collect();
        let readings = first.intakes.iter().filter(|(intake, _)| matches!(intake, Intake::Reading(_))).count() as u64;
        let second = PartitionState { partition, offset: 0, newest: first.newest, intakes, sent: Vec::new() };
        let once = replay(std::slice::from_ref(&first), &settings(&spec(), hours(48)), 1, seed, 1_000_000);
        let twice = replay(&[first, second], &settings(&spec(), hours(48)), 2, seed, 7);
        assert_eq!(twice.outcomes.values().sum::<u64>(), 2 * readings, "seed {seed}: each input ends once");
        assert_eq!(twice.withdrawn, once.withdrawn, "seed {seed}");
        assert!(twice.readings.keys().eq(once.readings.keys()), "seed {seed}: observations");
        for (key, (reading, ..)) in &once.readings {
            let copy = &twice.readings[key].0.facts;
            assert_eq!(
                (copy.at, copy.status, &copy.signals),
                (reading.facts.at, reading.facts.status, &reading.facts.signals)
            );
        }
        assert_eq!(format!("{:?}", twice.windows), format!("{:?}", once.windows), "seed {seed}");
    }
}

/// The same input, read from another partition. Only numbered versions have an order that the partition does not matter to.
fn moved(intake: &Intake, partition: Partition) -> Intake {
    let mut intake = intake.clone();
    match &mut intake {
        Intake::Reading(reading) => reading.facts.position.partition = partition,
        Intake::Demographics { position, .. } | Intake::Label { position, .. } | Intake::Condition { position, .. } => {
            position.partition = partition
        }
    }
    intake
}
