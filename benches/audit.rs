//! What one more minute costs the audit: `cargo bench --bench audit`.
//!
//! A window of a million readings (20 minutes of 50,000) against the million before it, hopping by a minute: every minute a new window is compared in all groups,
//! for four features and the probability, with patients, performance and fairness (as shipped) and without. The whole dataflow runs, differential included.
//! Beside it the same drift statistics recomputed from the two million readings by a plain loop, which also checks what was published.
//! What Evidently takes for as many rows: `python3 benches/drift_report.py`.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark's figures are its output, and it may be blunt"
)]

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use timely::dataflow::operators::vec::Input;
use timely::dataflow::operators::{Inspect, Probe};
use windkessel::audit;
use windkessel::audit::compare::statistics;
use windkessel::audit::series::{FEATURES, GROUPS, PRESSURE};
use windkessel::audit::statistics::Sides;
use windkessel::config::AuditSpec;
use windkessel::runtime::metrics::Metrics;
use windkessel::runtime::summary::Usage;
use windkessel::signals::{DIASTOLIC, SYSTOLIC};
use windkessel::time::{Epoch, EventSpan, EventTime};
use windkessel::vocabulary::findings::{Finding, Shift};
use windkessel::vocabulary::{Assessed, Assessment, Demographics, Facts, Partition, Pseudonym, Reading, Sex, Tick};

const READINGS_A_MINUTE: u64 = 50_000;
const PATIENTS: u64 = 20_000;
const WINDOW_MINUTES: i64 = 20;
/// Minutes that are measured, after two windows and one minute more.
const MINUTES: i64 = 20;

fn main() {
    let (with, rows) = minutes(true);
    let (without, _) = minutes(false);
    let (recounted, shifts) = recount(&rows);
    let each = |total: Duration| total.as_secs_f64() * 1e3 / MINUTES as f64;
    let times = |total: Duration| recounted.as_secs_f64() * 1e3 / each(total);
    println!("a minute of {READINGS_A_MINUTE} readings more, window and reference of a million each, CPU time:");
    println!("as shipped                           {:8.1} ms", each(with));
    println!("without patients and performance     {:8.1} ms", each(without));
    println!(
        "{shifts} comparisons recounted from readings {:6.0} ms: {:.0} and {:.0} times as much",
        recounted.as_secs_f64() * 1e3,
        times(with),
        times(without)
    );
}

/// The first minute, from the Unix epoch: in April 2026.
const FIRST_MINUTE: i64 = 29_600_000;

fn minute(number: i64) -> EventTime {
    EventTime::from_micros((FIRST_MINUTE + number) * 60_000_000)
}

/// Chance, always the same (splitmix64, <https://prng.di.unimi.it/splitmix64.c>).
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn pseudonym(number: u64) -> Pseudonym {
    let [high, low] = [mixed(number).to_be_bytes(), mixed(!number).to_be_bytes()];
    Pseudonym(std::array::from_fn(|at| if at < 8 { high[at] } else { low[at - 8] }))
}

/// The pressures of a reading: bell-shaped, in whole mmHg.
fn pressures(number: u64) -> (f64, f64) {
    let bell = |bits: u64| (0..4).map(|part| (bits >> (8 * part)) & 31).sum::<u64>() as f64 - 62.0;
    let bits = mixed(number);
    (128.0 + bell(bits).round(), 76.0 + (bell(bits >> 32) * 0.6).round())
}

fn demographics(patient: u64) -> Demographics {
    let sex = if mixed(patient ^ 7) & 1 == 0 { Sex::Female } else { Sex::Male };
    Demographics { birth_year: Some(1_935 + (mixed(patient ^ 9) % 80) as i16), sex, ..Demographics::default() }
}

/// The readings of a minute, scored.
fn batch(of_minute: i64) -> Assessed {
    let mut batch = Assessed::default();
    for number in 0..READINGS_A_MINUTE {
        let number = of_minute as u64 * READINGS_A_MINUTE + number;
        let patient = mixed(number ^ 0xabcd) % PATIENTS;
        let (systolic, diastolic) = pressures(number);
        let at = minute(of_minute) + EventSpan::from_micros((number % READINGS_A_MINUTE) as i64 * 1_000);
        let mut facts = Facts { at, ..Facts::default() };
        facts.signals.insert(SYSTOLIC, systolic);
        facts.signals.insert(DIASTOLIC, diastolic);
        let probability = ((systolic - 60.0) / 140.0).clamp(0.0, 1.0);
        let risk = ["LOW", "MODERATE", "HIGH"][(probability * 2.99) as usize];
        let (alarm, probability, risk_level) = (systolic > 170.0, Some(probability), Some(risk));
        batch.scorable.readings.push(Reading { patient: pseudonym(patient), observation: pseudonym(number), facts });
        batch.scorable.demographics.push(demographics(patient));
        batch.scorable.replaces.push(false);
        batch.assessments.push(Assessment { alarm, probability, risk_level, ..Assessment::default() });
    }
    batch
}

/// CPU time of the minutes that are measured, and the rows of the last.
fn minutes(patients: bool) -> (Duration, Vec<Shift>) {
    timely::execute_directly(move |worker| {
        let window = EventSpan::from_seconds(60 * WINDOW_MINUTES);
        let hop = Some(EventSpan::from_seconds(60));
        let spec = AuditSpec { window, hop, reference_windows: 1, patients, ..AuditSpec::default() };
        let found = Rc::new(RefCell::new(Vec::new()));
        let taken = found.clone();
        let (mut assessed, mut ticks, probe) = worker.dataflow::<Epoch, _, _>(|scope| {
            let (assessed, batches) = scope.new_input::<Arc<Assessed>>();
            let (ticks, ends) = scope.new_input::<Tick>();
            let horizon = EventSpan::from_seconds(3_600);
            let rows = audit::alone(batches, ends, &spec, horizon, &Metrics::new());
            (assessed, ticks, rows.inspect(move |row| taken.borrow_mut().push(row.clone())).probe().0)
        });
        let mut apply = |number: i64, batch: Assessed| {
            assessed.send(Arc::new(batch));
            let watermark = minute(number + 1);
            ticks.send(Tick { partition: Partition::default(), watermark, idle: false });
            assessed.advance_to(number as Epoch + 1);
            ticks.advance_to(number as Epoch + 1);
            while probe.less_than(&(number as Epoch + 1)) {
                worker.step();
            }
        };
        let first = 2 * WINDOW_MINUTES + 1;
        (0..first).for_each(|number| apply(number, batch(number)));
        let mut cpu = Duration::ZERO;
        for number in first..first + MINUTES {
            let batch = batch(number);
            found.borrow_mut().clear();
            let before = Usage::of_process().cpu.unwrap();
            apply(number, batch);
            cpu += Usage::of_process().cpu.unwrap() - before;
        }
        let rows = found.take().into_iter().filter_map(|found| match found {
            Finding::Shift(shift) if shift.feature != "probability" => Some(shift),
            _ => None,
        });
        (cpu, rows.collect())
    })
}

/// The comparisons of the last minute from the readings, one after the other, and that they are those that were published.
fn recount(rows: &[Shift]) -> (Duration, usize) {
    let end = 2 * WINDOW_MINUTES + 1 + MINUTES;
    let value = |feature: usize, (systolic, diastolic): (f64, f64)| match feature {
        0 => systolic,
        1 => diastolic,
        2 => diastolic + (systolic - diastolic) / 3.0,
        _ => systolic - diastolic,
    };
    let readings = |from: i64, to: i64| {
        (from as u64 * READINGS_A_MINUTE..to as u64 * READINGS_A_MINUTE)
            .map(|number| (pressures(number), groups(demographics(mixed(number ^ 0xabcd) % PATIENTS), minute(from))))
            .collect::<Vec<_>>()
    };
    let (reference, current) =
        (readings(end - 2 * WINDOW_MINUTES, end - WINDOW_MINUTES), readings(end - WINDOW_MINUTES, end));
    let before = Usage::of_process().cpu.unwrap();
    let mut checked = 0;
    for row in rows.iter().filter(|row| row.current.1 == minute(end)) {
        let feature = FEATURES.iter().position(|feature| feature.name == row.feature).unwrap();
        let bit = 1 << group(&row.group);
        let counts = |of: &[((f64, f64), u16)]| {
            let mut counts = vec![0; PRESSURE.values()];
            for (pressures, _) in of.iter().filter(|(_, groups)| groups & bit != 0) {
                counts[usize::from(PRESSURE.value_of(value(feature, *pressures)).0)] += 1;
            }
            counts
        };
        let expected = statistics(&Sides::new(PRESSURE, &counts(&reference), &counts(&current)));
        assert_eq!(row.statistics, expected, "{} {}", row.feature, row.group);
        checked += 1;
    }
    assert!(checked > 20, "{checked} of {}", rows.len());
    (Usage::of_process().cpu.unwrap() - before, checked)
}

/// A bit for each of [`GROUPS`] that a patient belongs to.
fn groups(demographics: Demographics, at: EventTime) -> u16 {
    let years = demographics.age_years(at).unwrap();
    let bands = [(18, "<18"), (40, "18-39"), (65, "40-64"), (80, "65-79"), (i16::MAX, "80+")];
    let (_, band) = bands.iter().find(|(end, _)| years < *end).unwrap();
    let names = ["all".to_owned(), format!("sex={}", demographics.sex.code()), format!("age={band}")];
    names.iter().fold(0, |bits, name| bits | 1 << group(name))
}

fn group(name: &str) -> usize {
    GROUPS.iter().position(|group| *group == name).unwrap()
}
