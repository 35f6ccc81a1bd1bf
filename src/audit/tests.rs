//! The whole stage through timely, against a naive recomputation.
//!
//! * *Workers*: the same script on 1, 2 and 4 workers, stepped in different rhythms, gives the same rows in the same epochs.
//! * *Oracle*: the last row of every window equals what is recomputed from the readings that still stand (`naive.rs`), the labels that do (`scored.rs`)
//!   and the inputs that do (`inputs.rs`);
//!   counts exactly, statistics within 1e-9.
//! * *Profile* (`profiled.rs`): the same with a saved profile as the reference.
//! * *Restarts* (`restarts.rs`): a run that is broken off and goes on from saved state, on other workers, gives the same rows.
//! * *Bounds*: with a horizon, the arrangements stay as small at the end of a long run as they were soon after its start.
//!
//! A script is seeded; a failing test names its seed.

mod inputs;
mod naive;
mod profiled;
mod restarts;
mod scored;
mod seeded;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::ops::Range;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use differential_dataflow::logging::{DifferentialEvent, DifferentialEventBuilder};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use timely::dataflow::operators::vec::Broadcast;
use timely::dataflow::operators::{Input, Inspect, Probe};

use self::naive::{Line, Naive};
use super::*;
use crate::config::OutcomesSpec;
use crate::signals::{DIASTOLIC, MEAN_ARTERIAL, SYSTOLIC};
use crate::time::EventTime;
use crate::vocabulary::findings::{Shift, Statistics};
use crate::vocabulary::flaws::Flawed;
use crate::vocabulary::{
    Assessment, Demographics, Facts, Label, Moved, Partition, Pseudonym, Reading, Sex, Signals, Status, Timeliness,
    TopicId, Version, Withdrawn,
};

const MINUTE: i64 = 60_000_000;
const PARTITIONS: i32 = 3;

fn spec() -> AuditSpec {
    AuditSpec {
        window: EventSpan::from_seconds(600),
        hop: Some(EventSpan::from_seconds(300)),
        reference_windows: 3,
        readings_min: 4,
        outcomes: OutcomesSpec { horizon: EventSpan::from_seconds(5_400), ..Default::default() },
        ..Default::default()
    }
}

/// What happens in one epoch; everything of a patient goes through one worker.
#[derive(Clone, Default)]
struct EpochOfScript {
    rows: Vec<Row>,
    withdrawn: Vec<(u64, Withdrawn)>,
    moved: Vec<(u64, Moved)>,
    labels: Vec<Label>,
    /// With the number of the worker, modulo workers, that is told.
    flawed: Vec<(u64, Flawed)>,
    ticks: Vec<Tick>,
}

/// A reading as it leaves the scoring.
#[derive(Clone)]
struct Row {
    patient: u64,
    reading: Reading,
    demographics: Demographics,
    assessment: Assessment,
    replaces: bool,
}

impl Row {
    fn contributes(&self) -> bool {
        let facts = &self.reading.facts;
        facts.timeliness != Timeliness::TooLate && !facts.summary && !facts.status.withdraws()
    }

    fn withdrawn(&self) -> (u64, Withdrawn) {
        let (Reading { patient, facts, .. }, demographics) = (&self.reading, self.demographics);
        let Facts { at, precision, signals, .. } = facts.clone();
        (self.patient, Withdrawn { patient: *patient, at, precision, signals, demographics })
    }
}

/// Random patients whose pressure creeps up; a tenth of the readings late, some of them by hours; a tenth withdrawn again.
fn script(seed: u64, epochs: usize) -> Vec<EpochOfScript> {
    script_of(seed, epochs, 30)
}

/// The same of so many patients, at most 255.
fn script_of(seed: u64, epochs: usize, patients: usize) -> Vec<EpochOfScript> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let patients: Vec<Demographics> = (0..patients)
        .map(|at| Demographics {
            birth_year: rng.random_bool(0.9).then(|| rng.random_range(1930..2015)),
            sex: [Sex::Female, Sex::Male, Sex::Other, Sex::Unknown][rng.random_range(0..4)],
            comorbidities: (at % 7 > 0).then_some(at as u8 % 6),
            ..Default::default()
        })
        .collect();
    let mut standing: Vec<Row> = Vec::new();
    let mut script: Vec<EpochOfScript> =
        (0..epochs).map(|epoch| random_epoch(&mut rng, epoch as i64, &patients, &mut standing)).collect();
    script[0].ticks = (0..PARTITIONS).map(|number| tick(number, EventTime::MIN)).collect();
    script.push(EpochOfScript {
        ticks: (0..PARTITIONS).map(|number| tick(number, EventTime::MAX)).collect(),
        ..Default::default()
    });
    script
}

fn random_epoch(rng: &mut ChaCha8Rng, epoch: i64, patients: &[Demographics], standing: &mut Vec<Row>) -> EpochOfScript {
    let mut of_epoch = EpochOfScript::default();
    let now = epoch * 3 * MINUTE;
    for _ in 0..rng.random_range(0..40) {
        let patient = rng.random_range(0..patients.len());
        let mut row = random_row(rng, now, patient as u64, patients[patient]);
        // Another version of the same observation, or its end.
        if rng.random_bool(0.2) && !standing.is_empty() {
            let gone = standing.swap_remove(rng.random_range(0..standing.len()));
            of_epoch.withdrawn.push(gone.withdrawn());
            of_epoch.flawed.push((gone.patient, inputs::taken_back(&gone)));
            row = Row { patient: gone.patient, replaces: true, demographics: gone.demographics, ..row };
            (row.reading.patient, row.reading.observation) = (gone.reading.patient, gone.reading.observation);
            if rng.random_bool(0.5) {
                (row.reading.facts.status, row.reading.facts.signals) = (Status::EnteredInError, Signals::default());
            }
        }
        of_epoch.flawed.extend(inputs::flaws(&row).map(|flawed| (patient as u64, flawed)));
        if row.contributes() {
            standing.push(row.clone());
        }
        of_epoch.rows.push(row);
    }
    for _ in 0..rng.random_range(0..4) {
        of_epoch.labels.push(random_label(rng, now, patients.len()));
    }
    learn(epoch, standing, &mut of_epoch);
    for number in 0..PARTITIONS {
        if rng.random_bool(0.7) {
            let idle = rng.random_bool(0.1);
            let watermark = EventTime::from_micros(now - rng.random_range(0..8) * MINUTE);
            of_epoch.ticks.push(Tick { idle, ..tick(number, watermark) });
        }
    }
    of_epoch
}

/// More becomes known of a patient, as `patient` tells it. Of random numbers of its own: what else is in a script stays the same.
fn learn(epoch: i64, standing: &mut [Row], of_epoch: &mut EpochOfScript) {
    let mut rng = ChaCha8Rng::seed_from_u64(epoch as u64);
    if standing.is_empty() || rng.random_bool(0.6) {
        return;
    }
    let patient = standing[rng.random_range(0..standing.len())].patient;
    let birth_year = rng.random_bool(0.9).then(|| rng.random_range(1930..2015));
    let sex = [Sex::Female, Sex::Male][rng.random_range(0..2)];
    for row in standing.iter_mut().filter(|row| row.patient == patient) {
        let before = row.demographics;
        row.demographics = Demographics { birth_year, sex, ..Default::default() };
        of_epoch
            .moved
            .push((patient, Moved { observation: row.reading.observation, measured: row.withdrawn().1, before }));
    }
}

/// Of a patient that may have no readings yet; about readings to come, or of hours ago; a version, a repetition, a withdrawal, a tombstone.
fn random_label(rng: &mut ChaCha8Rng, now: i64, patients: usize) -> Label {
    let happened = [None, Some(false), Some(true), Some(false)][rng.random_range(0..4)];
    let at = match happened {
        None if rng.random_bool(0.5) => EventTime::MIN,
        _ => EventTime::from_micros(now + rng.random_range(-300..60) * MINUTE),
    };
    Label {
        patient: Pseudonym([rng.random_range(0..patients) as u8; 16]),
        id: Pseudonym([rng.random_range(0..6); 16]),
        happened,
        at,
        version: if rng.random_bool(0.2) { Version::Unversioned } else { Version::Number(rng.random_range(0..9)) },
    }
}

fn random_row(rng: &mut ChaCha8Rng, now: i64, patient: u64, demographics: Demographics) -> Row {
    let behind = match rng.random_range(0..20) {
        0 => rng.random_range(0..300) * MINUTE,
        1 => rng.random_range(0..40) * MINUTE,
        _ => rng.random_range(0..6 * MINUTE),
    };
    let mut signals = Signals::default();
    let systolic = rng.random_range(80..160) + now / (20 * MINUTE);
    signals.insert(SYSTOLIC, systolic as f64);
    if rng.random_bool(0.95) {
        signals.insert(DIASTOLIC, f64::from(rng.random_range(300..1000)) / 10.0);
    }
    if rng.random_bool(0.3) {
        signals.insert(MEAN_ARTERIAL, f64::from(rng.random_range(20..320)));
    }
    let facts = Facts {
        at: EventTime::from_micros(now - behind),
        position: inputs::position(patient),
        timeliness: if rng.random_bool(0.03) { Timeliness::TooLate } else { Timeliness::OnTime },
        summary: rng.random_bool(0.03),
        signals,
        ..Default::default()
    };
    let mut observation = [0; 16];
    rng.fill_bytes(&mut observation);
    let probability = rng.random_bool(0.8).then(|| f64::from(rng.random_range(0..40)) / 39.0);
    let risk = |probability: f64| ["LOW", "MODERATE", "HIGH"][(probability * 2.9) as usize];
    let assessment = Assessment {
        alarm: rng.random_bool(0.3),
        probability,
        risk_level: probability.map(risk),
        ..Default::default()
    };
    // The last byte is the key group: it decides which worker has the patient.
    let reading = Reading { patient: Pseudonym([patient as u8; 16]), observation: Pseudonym(observation), facts };
    Row { patient, reading, demographics, assessment, replaces: false }
}

/// Has a script of `tests/audit` compare cases with what other packages say, if there is a Python that has them (its head says which).
pub(super) fn compare_with_other_packages(script: &str, cases: impl Iterator<Item = serde_json::Value>) {
    let Ok(python) = std::env::var("WINDKESSEL_TEST_PYTHON_AUDIT") else {
        return println!("skipped: WINDKESSEL_TEST_PYTHON_AUDIT names no Python for tests/audit/{script}");
    };
    let lines: String = cases.map(|case| format!("{case}\n")).collect();
    let script = format!("{}/tests/audit/{script}", env!("CARGO_MANIFEST_DIR"));
    let mut child = Command::new(python).arg(script).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn tick(number: i32, watermark: EventTime) -> Tick {
    Tick { partition: Partition { topic: TopicId(0), number }, watermark, idle: false }
}

/// What one worker is given of an epoch, in two batches.
fn share_of(of_epoch: &EpochOfScript, worker: u64, workers: u64) -> [Arc<Assessed>; 2] {
    let mut batches = [Assessed::default(), Assessed::default()];
    for (at, row) in of_epoch.rows.iter().enumerate() {
        if row.patient % workers == worker {
            let batch = &mut batches[2 * at / of_epoch.rows.len()];
            batch.scorable.readings.push(row.reading.clone());
            batch.scorable.demographics.push(row.demographics);
            batch.scorable.replaces.push(row.replaces);
            batch.assessments.push(row.assessment.clone());
        }
    }
    let gone = of_epoch.withdrawn.iter().filter(|(patient, _)| patient % workers == worker);
    batches[0].scorable.withdrawn.extend(gone.map(|(_, gone)| gone.clone()));
    let moved = of_epoch.moved.iter().filter(|(patient, _)| patient % workers == worker);
    batches[1].scorable.moved.extend(moved.map(|(_, moved)| moved.clone()));
    let labels = of_epoch.labels.iter().filter(|label| label.patient.hash64() % 256 % workers == worker);
    batches[1].scorable.labels.extend(labels.copied());
    let flawed = of_epoch.flawed.iter().filter(|(number, _)| number % workers == worker);
    batches[1].scorable.flawed.extend(flawed.map(|(_, flawed)| *flawed));
    batches.map(Arc::new)
}

/// A stretch of a script on some workers.
#[derive(Clone)]
struct Run {
    workers: usize,
    /// Steps until quiet after every so many epochs.
    rhythm: usize,
    horizon: EventSpan,
    metrics: Metrics,
    epochs: Range<usize>,
    /// What is put back before.
    saved: Vec<restarts::Saved>,
    /// Where the machines are saved.
    borders: Vec<Epoch>,
    /// What windows are compared with, if not with those before.
    reference: Option<Arc<Reference>>,
}

/// The settings of a flow that names this profile.
fn spec_against(reference: Option<&Reference>) -> AuditSpec {
    AuditSpec { reference_profile: reference.map(|_| "profile.json".into()), ..spec() }
}

/// Runs a whole script, see [`run_part`]; what is found of drift.
fn run(
    script: &[EpochOfScript],
    workers: usize,
    rhythm: usize,
    horizon: EventSpan,
    metrics: &Metrics,
) -> Vec<(Epoch, Shift)> {
    let shift = |(epoch, found)| match found {
        // Probabilities are recounted in `scored.rs`.
        Finding::Shift(shift) if shift.feature != "probability" => Some((epoch, shift)),
        _ => None,
    };
    run_all(script, workers, rhythm, horizon, metrics).into_iter().filter_map(shift).collect()
}

/// The same, everything that is found.
fn run_all(
    script: &[EpochOfScript],
    workers: usize,
    rhythm: usize,
    horizon: EventSpan,
    metrics: &Metrics,
) -> Vec<(Epoch, Finding)> {
    let (metrics, epochs) = (metrics.clone(), 0..script.len());
    let (saved, borders, reference) = (Vec::new(), Vec::new(), None);
    run_part(script, Run { workers, rhythm, horizon, metrics, epochs, saved, borders, reference }).0
}

/// Rows with their epochs, ascending by epoch, key and worker; and what was saved.
fn run_part(script: &[EpochOfScript], run: Run) -> (Vec<(Epoch, Finding)>, Vec<restarts::Saved>) {
    let rows: Arc<Mutex<Vec<(Epoch, Finding)>>> = Arc::default();
    let saved: Arc<Mutex<Vec<restarts::Saved>>> = Arc::default();
    let (collected, saving, script, workers) = (rows.clone(), saved.clone(), script.to_vec(), run.workers);
    let config = if workers == 1 { timely::Config::thread() } else { timely::Config::process(workers) };
    let guards = timely::execute(config, move |worker| {
        let first = run.epochs.start as Epoch;
        let share = Share { worker: worker.index(), workers };
        let spec = spec_against(run.reference.as_deref());
        let (counting, publishing) = machines(&spec, run.reference.as_deref(), run.horizon, share, &run.metrics);
        let counting = restarts::Kept::new("counts", counting, share, &run, &saving);
        let publishing = restarts::Kept::new("publish", publishing, share, &run, &saving);
        let restore = (!run.saved.is_empty()).then(|| first - 1);
        let (mut assessed, mut ticks, probe) = worker.dataflow::<Epoch, _, _>(|scope| {
            let (assessed, assessed_stream) = scope.new_input::<Vec<Arc<Assessed>>>();
            let (ticks, tick_stream) = scope.new_input::<Vec<Tick>>();
            let collected = collected.clone();
            let shifts = shifts(
                assessed_stream,
                tick_stream.broadcast(),
                (&spec, run.reference.clone()),
                restore,
                Seat::loose(counting),
                Seat::loose(publishing),
            )
            .inspect_core(move |event| {
                if let Ok((stamp, found)) = event {
                    let epoch = *stamp.least().unwrap();
                    collected.lock().unwrap().extend(found.iter().map(|found| (epoch, found.clone())));
                }
            });
            (assessed, ticks, shifts.probe().0)
        });
        assessed.advance_to(first);
        ticks.advance_to(first);
        let (index, peers) = (worker.index() as u64, worker.peers() as u64);
        for at in run.epochs.clone() {
            for batch in share_of(&script[at], index, peers) {
                assessed.send(batch);
            }
            for tick in script[at].ticks.iter().filter(|tick| tick.partition.number as u64 % peers == index) {
                ticks.send(*tick);
            }
            assessed.advance_to(at as Epoch + 1);
            ticks.advance_to(at as Epoch + 1);
            if at % run.rhythm == 0 {
                worker.step_while(|| probe.less_than(assessed.time()));
            }
        }
    })
    .unwrap();
    for ended in guards.join() {
        ended.unwrap();
    }
    let mut rows = std::mem::take(&mut *rows.lock().unwrap());
    rows.sort_by_cached_key(|(epoch, found)| (*epoch, order(found)));
    let saved = std::mem::take(&mut *saved.lock().unwrap());
    (rows, saved)
}

/// What a row is about, and then everything in it: floats are printed so that they read back equal.
fn order(found: &Finding) -> (EventTime, String) {
    let at = match found {
        Finding::Shift(shift) => shift.current.0,
        Finding::Quality(quality) => quality.current.0,
        Finding::Performance(performance) => performance.current.0,
        Finding::Fairness(fairness) => fairness.current.0,
        Finding::Alert(alert) => alert.current.0,
    };
    (at, format!("{found:?}"))
}

/// A row in what must be equal bit for bit.
fn bits(shift: &Shift) -> (Vec<u64>, Vec<Option<u64>>, &'static str) {
    let Line { counts, numbers, bins, verdict } = Line::of(shift);
    let counts = counts.into_iter().chain(bins.concat()).collect();
    (counts, numbers.into_iter().map(|number| number.map(f64::to_bits)).collect(), verdict)
}

type Key = (String, &'static str, EventTime);

fn key(shift: &Shift) -> Key {
    (shift.group.clone(), shift.feature, shift.current.0)
}

/// The last row of every key.
fn last(rows: &[(Epoch, Shift)]) -> BTreeMap<Key, &Shift> {
    rows.iter().map(|(_, shift)| (key(shift), shift)).collect()
}

fn assert_agrees(shift: &Shift, naive: &Naive, context: &str) {
    let (ours, expected) = (Line::of(shift), naive.row(&key(shift)));
    assert!(ours.agrees(&expected), "{context}:\n{ours:?}, expected\n{expected:?}");
}

#[test]
fn any_number_of_workers_publishes_the_same_rows_in_the_same_epochs() {
    for seed in 0..2 {
        let script = script(seed, 36);
        let horizon = if seed % 2 == 0 { EventSpan::UNBOUNDED } else { EventSpan::from_seconds(1_800) };
        let one = run_all(&script, 1, 1, horizon, &Metrics::new());
        assert!(one.len() > 1_000, "seed {seed}: the script is worth running");
        for (workers, rhythm) in [(2, 7), (4, 3)] {
            let many = run_all(&script, workers, rhythm, horizon, &Metrics::new());
            assert_eq!(one.len(), many.len(), "seed {seed}, {workers} workers, steps every {rhythm}");
            for ((one_epoch, one), (epoch, many)) in one.iter().zip(&many) {
                assert_eq!((one_epoch, order(one)), (epoch, order(many)), "seed {seed}, {workers} workers");
            }
        }
    }
}

#[test]
fn the_last_row_of_every_window_is_what_a_recount_gives() {
    for seed in 10..12 {
        let script = script(seed, 40);
        let naive = Naive::of(&script);
        let rows = run(&script, 2, 3, EventSpan::UNBOUNDED, &Metrics::new());
        let last = last(&rows);
        for (key, shift) in &last {
            assert_agrees(shift, &naive, &format!("seed {seed}: {key:?}"));
        }
        for key in naive.keys() {
            assert!(last.contains_key(&key), "seed {seed}: {key:?} was not published");
        }
        let verdicts: BTreeSet<&str> = last.values().map(|shift| shift.verdict.name()).collect();
        assert!(verdicts.len() >= 3, "seed {seed}: the script shows {verdicts:?} only");
    }
}

/// A file of history may be read in one epoch that also brings its end.
#[test]
fn history_in_one_epoch_gives_every_window_once_and_right() {
    for seed in 20..23 {
        let mut whole = EpochOfScript::default();
        for of_epoch in script(seed, 60) {
            whole.rows.extend(of_epoch.rows);
            whole.labels.extend(of_epoch.labels);
            whole.withdrawn.extend(of_epoch.withdrawn);
            whole.moved.extend(of_epoch.moved);
            whole.flawed.extend(of_epoch.flawed);
            whole.ticks.extend(of_epoch.ticks);
        }
        let script = [whole];
        let naive = Naive::of(&script);
        let rows = run(&script, 2, 1, EventSpan::from_seconds(1_800), &Metrics::new());
        assert_eq!(last(&rows).len(), rows.len(), "seed {seed}: one row a window");
        for (_, shift) in &rows {
            assert_agrees(shift, &naive, &format!("seed {seed}: {:?}", key(shift)));
        }
        assert_eq!(rows.len(), naive.keys().len(), "seed {seed}");
    }
}

#[test]
fn a_key_has_one_row_an_epoch_and_is_published_again_when_it_changes() {
    let rows = run(&script(30, 60), 2, 1, EventSpan::UNBOUNDED, &Metrics::new());
    let mut known: BTreeMap<Key, (Epoch, &Shift)> = BTreeMap::new();
    let mut revised = 0;
    for (epoch, shift) in &rows {
        if let Some((before, was)) = known.insert(key(shift), (*epoch, shift)) {
            assert!(before < *epoch, "two rows of {:?} in epoch {epoch}", key(shift));
            assert_ne!(bits(was), bits(shift), "{:?} was published unchanged", key(shift));
            revised += 1;
        }
    }
    assert!(revised > 100, "{revised} revisions");
}

/// The latest row of what was not yet frozen when the last readings came.
#[test]
fn windows_within_the_horizon_are_right_although_older_ones_are_forgotten() {
    let horizon = EventSpan::from_seconds(1_800);
    for seed in 40..43 {
        let script = script(seed, 100);
        let naive = Naive::of(&script);
        let metrics = Metrics::new();
        let rows = run(&script, 2, 3, horizon, &metrics);
        let mut watermark = crate::watermark::Watermark::new();
        script.iter().for_each(|of_epoch| watermark.advance(&of_epoch.ticks));
        // Windows go by their last pane.
        let hop = spec().hop.unwrap();
        let live = watermark.frozen(horizon).floor_to(hop) + hop - spec().window;
        let mut checked = 0;
        for (key, shift) in last(&rows).into_iter().filter(|(key, _)| key.2 >= live) {
            assert_agrees(shift, &naive, &format!("seed {seed}: {key:?}"));
            checked += 1;
        }
        assert!(checked > 50, "seed {seed}: {checked} rows");
        let dropped: u64 =
            ["reading", "withdrawal"].map(|kind| metrics.drift_dropped.with_label_values(&[kind]).get()).iter().sum();
        assert!(dropped > 0, "seed {seed}: the script reaches beyond the horizon");
    }
}

/// The gauges of the population stability index, by feature and group.
fn shown(metrics: &Metrics) -> BTreeMap<String, f64> {
    let mut shown: BTreeMap<String, f64> = BTreeMap::new();
    for family in metrics.registry().gather().iter().filter(|family| family.name() == "windkessel_drift_psi") {
        for metric in family.get_metric() {
            let labels: Vec<&str> = metric.get_label().iter().map(|label| label.value()).collect();
            if !labels.contains(&"probability") {
                shown.insert(labels.join(" "), metric.get_gauge().get_value());
            }
        }
    }
    shown
}

#[test]
fn gauges_show_the_newest_window_and_vanish_without_a_statistic() {
    let metrics = Metrics::new();
    let rows = run(&script(50, 60), 1, 1, EventSpan::UNBOUNDED, &metrics);
    let mut newest: BTreeMap<(&str, &str), &Shift> = BTreeMap::new();
    for shift in last(&rows).values() {
        let entry = newest.entry((shift.feature, &shift.group)).or_insert(shift);
        if shift.current > entry.current {
            *entry = shift;
        }
    }
    let shown = shown(&metrics);
    let expected: BTreeMap<String, f64> = newest
        .iter()
        .filter_map(|((feature, group), shift)| Some((format!("{feature} {group}"), shift.statistics.psi?)))
        .collect();
    assert!(!expected.is_empty() && expected.len() < newest.len(), "the script shows both");
    assert_eq!(shown, expected);
}

/// Counts the updates that all arrangements hold, as differential itself reports them.
#[test]
fn arrangements_do_not_grow_with_the_length_of_the_run() {
    fn updates_held_max(epochs: usize, horizon: EventSpan, reference: Option<Arc<Reference>>) -> isize {
        let script = script(60, epochs);
        let held_max = timely::execute_directly(move |worker| {
            let held = std::rc::Rc::new(std::cell::RefCell::new((0isize, 0isize)));
            let counted = held.clone();
            worker.log_register().unwrap().insert::<DifferentialEventBuilder, _>(
                "differential/arrange",
                move |_: &Duration, events| {
                    for (_, event) in events.iter().flatten() {
                        let (now, max) = &mut *counted.borrow_mut();
                        *now += match event {
                            DifferentialEvent::Batch(batch) => batch.length as isize,
                            DifferentialEvent::Merge(merge) => merge
                                .complete
                                .map_or(0, |length| length as isize - merge.length1 as isize - merge.length2 as isize),
                            DifferentialEvent::Drop(drop) => -(drop.length as isize),
                            _ => 0,
                        };
                        *max = (*max).max(*now);
                    }
                },
            );
            let (mut assessed, mut ticks, probe) = worker.dataflow::<Epoch, _, _>(|scope| {
                let (assessed, assessed_stream) = scope.new_input::<Vec<Arc<Assessed>>>();
                let (ticks, tick_stream) = scope.new_input::<Vec<Tick>>();
                let share = Share { worker: 0, workers: 1 };
                let spec = spec_against(reference.as_deref());
                let (counting, publishing) = machines(&spec, reference.as_deref(), horizon, share, &Metrics::new());
                let (against, counting) = ((&spec, reference.clone()), Seat::loose(counting));
                let shifts = shifts(assessed_stream, tick_stream, against, None, counting, Seat::loose(publishing));
                (assessed, ticks, shifts.probe().0)
            });
            for (at, of_epoch) in script.iter().enumerate() {
                share_of(of_epoch, 0, 1).into_iter().for_each(|batch| assessed.send(batch));
                of_epoch.ticks.iter().for_each(|tick| ticks.send(*tick));
                assessed.advance_to(at as Epoch + 1);
                ticks.advance_to(at as Epoch + 1);
                worker.step_while(|| probe.less_than(assessed.time()));
            }
            held.borrow().1
        });
        assert!(held_max > 0, "differential reports its batches");
        held_max
    }
    let horizon = EventSpan::from_seconds(1_800);
    let (short, long) = (updates_held_max(60, horizon, None), updates_held_max(180, horizon, None));
    assert!(long < short * 3 / 2, "{short} updates in a short run, {long} in one three times as long");
    let unbounded = updates_held_max(180, EventSpan::UNBOUNDED, None);
    assert!(unbounded > long * 2, "the measure sees growth: {unbounded} without a horizon, {long} with one");
    // Half an hour and a window of ten minutes, without the half hour of a reference; and each pane is in one block less often.
    let profiled = updates_held_max(60, horizon, Some(Arc::new(profiled::reference(7))));
    assert!(profiled < short * 3 / 4, "{profiled} updates against a profile, {short} against the windows before");
}
