//! The `patient` stage: of every patient, which version of each observation stands, the windows, and the features to score by.
//!
//! ```text
//! Intake ──┬─ identity and versions ──┬─ history of the partition ──> features ──> Scorable
//!          │   (contributions.rs)     └─ windows ── closings ──────> WindowRow
//! Tick ────┴─ watermark ─────────────────────────────┘
//! ```
//!
//! [`Patients`] is one worker's share: a plain state machine, without clock, thread or timely. It is given whole epochs.
//!
//! # The promise
//!
//! The same input gives the same final rows and outcomes whatever the worker count, batch sizes, epoch borders and interleaving of
//! partitions. ("Final": of an observation, and of a window, the row emitted last; a sink keeps the one of the highest epoch.)
//!
//! 1. **Timeliness** comes with the reading, judged by its own partition at that record.
//! 2. **History** (recent readings and baseline) is that of the same patient *in the same partition before it*, in the order of the
//!    partition. A patient normally lives in one partition, because Kafka routes by key; one who does not has a history in each.
//! 3. **A window's content** is the set of readings in `[start, end)` that contribute, over all partitions; sums run in the order of
//!    (event time, observation).
//! 4. **A window closes** when the lowest watermark over all partitions that are neither idle nor ended passes its end (all are opened
//!    in the first epoch). That decides when its row is emitted, never what the last row says.
//!
//! Where the promise ends, because it must: an observation id, or a Patient resource, whose copies are in *different* partitions is
//! resolved in the order in which they are applied; a partition that wakes up after it was idle may find its readings behind the
//! horizon; and what is older than the horizon is forgotten at the border of an epoch, so that an input which refers to something
//! measured exactly one horizon before the watermark may or may not still meet it.
//!
//! # Identity and versions
//!
//! Compared with the version that the same partition delivered before, and then with the one that holds from another partition:
//!
//! | the input is | ending | effect |
//! |---|---|---|
//! | of the same version | `duplicate` | none |
//! | of a lower version | `superseded` | none |
//! | of a higher version | `contributed` | the earlier is taken out of windows, history and (as [`Withdrawn`](crate::vocabulary::Withdrawn)) audit; the new one is put in; `replaces` |
//! | not comparable, time, signals and status being equal | `duplicate` | none |
//! | not comparable and different | `contributed` | as a higher version: the later position stands |
//! | of a status that withdraws | `contributed` | the earlier is taken out everywhere, the row emitted has no values and the time of what it withdraws; the id is remembered (tombstone): later inputs of a version not higher are `superseded` |
//! | the same, of an id of which nothing is known | `ignored` | none but the tombstone: there is no row to take back |
//! | a repeated withdrawal | `duplicate` | none |
//!
//! Of the same version, one that withdraws and one that does not, the one that withdraws wins in either order. A deletion without a version
//! inherits the version that it withdraws. A copy from another partition that does not hold still takes its place in the history of its
//! own partition, which must not depend on the other's progress.
//!
//! **Too late** readings (more than `patient.lateness` behind) get a row with their own values alone, ending `late`, and contribute
//! nothing; they are remembered like others. But a *correction* of an observation that was in time once is never too late within the
//! horizon: it contributes as `Late`. The row's `Facts::timeliness` says what was decided, so `TooLate` is on exactly the rows that contribute
//! nothing (withdrawals apart, which keep their own).
//!
//! **Demographics** that change move the patient's contributions within the horizon to other groups of the audit
//! ([`Moved`](crate::vocabulary::Moved)); rows that were emitted stay.
//!
//! **Beyond the horizon** nothing is known of an earlier version, but that there was one can be told: from the status (`amended`, `corrected`, and those that
//! withdraw), from a version number above 1. Such an input gets its row, as if it replaced one, flagged `not_recomputed`, ending `late` for the reason
//! `horizon`: windows, baseline and drift keep what they held. It is the same with a correction that moves a reading to a time beyond the horizon. A withdrawal gets the
//! row only if it says what it withdraws and the flow takes that; a deletion without content cannot be told from one of a laboratory value, and is `ignored`.
//!
//! # Windows
//!
//! Content: what contributes, apart from summaries and, in windows shorter than a day, readings known only to the day.
//! `revision` counts the late readings and the corrections (withdrawals included) that changed the window, each once. A closed window that
//! changes is emitted again at once, once an epoch; one that became empty has `None` for every signal. Within an epoch rows are sorted by
//! (end, patient). `above_seconds` and `below_seconds`: each systolic value stands from its time until the next systolic value's or the
//! window's end; none reaches in from before the window.
//!
//! # Features
//!
//! The ring of a (patient, partition) holds the last `baseline_readings` full readings (both pressures; not summaries, not too late). A correction
//! takes the place of what it corrects, or none if that has left the ring; what is withdrawn leaves it. *Recent* statistics are over the ring after the reading has
//! taken its place (a partial reading has none), the *baseline* over the ring before. Baseline: the median, blended as
//! `n/min · median + (1 − n/min) · population` below `baseline_readings_min`; deviation: `(x − baseline) / max(1.4826 · MAD, 5 mmHg)`.
//! Sources are at the formulas, in `features.rs` and `history.rs`. Withdrawals, summaries and too late readings have their own values only.
//!
//! # Memory
//!
//! Contributions and bookkeeping behind the horizon are dropped when their patient is touched and by a sweep of
//! [`SWEEP_PATIENTS`] patients an epoch. Bytes, as a test measures them (three signals, one partition):
//!
//! | a patient at rest | bytes | | active, in addition | bytes |
//! |---|---|---|---|---|
//! | state | 64 | | vectors' heads | 128 |
//! | ring of 12 readings | 96 | | each contribution | 84 |
//! | index entry, at a mean load of 2/3 | 31 | | each open window | 28 |
//! | **together** | **191** | | each revised window, until the horizon | 16 |
//!
//! A patient with comorbidities has a line in a map beside ([`conditions`]): 40 bytes, and 32 for each condition that counts or may yet be compared with. They
//! have no horizon. In a flow that takes no conditions the map is empty. A reading counts under the comorbidities that are known when it comes.
//!
//! What survives is in `saved.rs`: patients by key group, and the watermark. In a run of which nothing is saved, nothing is kept for it.
//!
//! Labels pass through to the audit, which counts where they end. They make no patient known, and their partitions hold no window open.
//!
//! Limits: `patient.patients_max` patients a worker ([`PatientsFull`]); of one patient, contributions are scanned linearly.
//! Does not: check plausibility, score, or know files.

mod conditions;
mod contributions;
mod features;
mod history;
#[cfg(test)]
mod oracle;
mod saved;
mod state;
#[cfg(test)]
mod tests;
mod window;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use crate::config::{CorrectionSpec, PatientSpec, SourceKind};
use crate::graph::Plan;
use crate::runtime::checkpoint::Desk;
use crate::runtime::driver::{self, Keyed, Stream};
use crate::runtime::metrics::Metrics;
use crate::runtime::survive::{Blocks, Corrupt, Extent, Survive, key_group};
use crate::signals::{DIASTOLIC, SYSTOLIC, SignalId};
use crate::source::Share;
use crate::time::{Epoch, EventSpan, EventTime};
use crate::vocabulary::{
    Condition, Demographics, Intake, Outcome, Partition, Position, Pseudonym, Reading, Scorable, Tally, Tick, WindowRow,
};
use crate::watermark::{PartitionId, Watermark};

use conditions::Conditions;
use saved::Touched;
use state::{Moment, Patient};
use window::{Closings, Grid, Whose};

/// Patients that each epoch looks at for what can be forgotten: 512 a second at 250 ms; under load epochs are shorter and there are more of them.
pub const SWEEP_PATIENTS: usize = 128;

/// Patients that are brought into the cache at once, before they are worked on. Nearly all of them have been out of it since they were last
/// touched, and half of this stage's time would go into waiting for one line after the other.
const WARM_PATIENTS: usize = 32;

/// Bytes that a patient at rest takes (the table above).
pub fn bytes_at_rest(spec: &PatientSpec) -> u64 {
    64 + 8 * u64::from(spec.baseline_readings) + 31
}

/// Bytes that a contribution of three signals takes until it is beyond `correction.horizon`.
pub const CONTRIBUTION_BYTES: u64 = 84;

/// A reading known to the day enters windows of this length or more.
const DAY: EventSpan = EventSpan::from_seconds(86_400);

/// Intakes, exchanged by patient, in; readings to score, and windows, out.
pub fn render<'s>(
    intakes: Stream<'s, Intake>,
    ticks: Stream<'s, Tick>,
    plan: &Plan,
    desk: &Desk,
) -> (Stream<'s, Scorable>, Stream<'s, Vec<WindowRow>>) {
    let spec = &plan.flow.spec;
    // A Kafka partition that was read to its end may be read on in a later run.
    let partitions_end = spec.source.kind != SourceKind::Kafka;
    let signals = plan.flow.decode.signals().to_vec();
    let settings = Settings::new(&spec.patient, &spec.correction, signals, partitions_end);
    let settings = settings.with_conditions(plan.flow.decode.takes_conditions());
    let share = Share { worker: intakes.scope().index(), workers: intakes.scope().peers() };
    let stage = Stage::new(Patients::new(settings).with_share(share), plan.metrics.clone());
    let seat = desk.seat("patient", stage);
    let telling = (plan.metrics.clone(), plan.failure.clone());
    let outputs = driver::keyed(intakes, ticks, "patient", telling, seat);
    driver::split(outputs, "patient::split", |output: PatientOutput, scorable, windows| {
        if !output.scorable.is_empty() {
            scorable.push(output.scorable);
        }
        if !output.windows.is_empty() {
            windows.push(output.windows);
        }
    })
}

/// The machine and its telemetry, as the driver wants them.
pub struct Stage {
    patients: Patients,
    /// Patients and contributions as last told to the gauges, which all workers share.
    held: (i64, i64),
    metrics: Metrics,
}

impl Stage {
    /// With a machine that has applied nothing yet.
    pub fn new(patients: Patients, metrics: Metrics) -> Self {
        Stage { patients, held: (0, 0), metrics }
    }

    /// The ticks of an epoch that are worth a look at everything kept for their partitions: ends, and one a day of event time.
    ///
    /// Asked before they are applied. Only the last tick of a partition counts, so that it does not matter how the epoch was cut into batches.
    fn progress(&self, ticks: &[Tick]) -> Vec<Tick> {
        let last: BTreeMap<Partition, Tick> = ticks.iter().map(|tick| (tick.partition, *tick)).collect();
        let worth = last.into_values().filter(|tick| {
            let before = self.patients.watermark.open(tick.partition);
            let another_day = |before: EventTime| before.floor_to(DAY) < tick.watermark.floor_to(DAY);
            tick.watermark == EventTime::MAX || before.is_some_and(another_day)
        });
        worth.collect()
    }
}

impl Survive for Stage {
    fn save(&mut self, extent: Extent, into: &mut Blocks) {
        self.patients.save(extent, into);
    }

    fn load(&mut self, block: &[u8]) -> Result<(), Corrupt> {
        self.patients.load(block)
    }

    fn expect(&mut self, times: f64) {
        self.patients.expect(times);
    }

    fn loaded(&mut self) {
        self.patients.loaded();
    }
}

impl Keyed for Stage {
    type Input = Intake;
    type Tick = Tick;
    type Output = PatientOutput;
    type Order = Position;

    fn route(intake: &Intake) -> u64 {
        key_group(intake.patient().hash64())
    }

    fn order(intake: &Intake) -> Position {
        intake.position()
    }

    fn apply(
        &mut self,
        epoch: Epoch,
        intakes: &mut Vec<Intake>,
        ticks: &[Tick],
    ) -> Result<Option<PatientOutput>, String> {
        let mut output = PatientOutput::default();
        output.scorable.progress = self.progress(ticks);
        self.patients.apply(epoch, intakes, ticks, &mut output).map_err(|full| full.to_string())?;
        self.metrics.add(&mut output.tally);
        let revised = output.windows.iter().filter(|window| window.revision > 0).count() as u64;
        self.metrics.windows.with_label_values(&["first"]).inc_by(output.windows.len() as u64 - revised);
        self.metrics.windows.with_label_values(&["revised"]).inc_by(revised);
        let held = (self.patients.patients() as i64, self.patients.contributions() as i64);
        self.metrics.patients.add(held.0 - self.held.0);
        self.metrics.contributions.add(held.1 - self.held.1);
        self.held = held;
        self.metrics.conditions_left_out.inc_by(self.patients.conditions.left_out());
        Ok(Some(output))
    }
}

/// What the stage needs to know of the flow.
#[derive(Clone, Debug)]
pub struct Settings {
    grid: Grid,
    horizon: EventSpan,
    high_mmhg: f64,
    low_mmhg: f64,
    baseline_readings: usize,
    baseline_readings_min: u32,
    population_systolic_mmhg: f64,
    population_diastolic_mmhg: f64,
    patients_max: u64,
    signals: Vec<SignalId>,
    systolic_column: Option<usize>,
    diastolic_column: Option<usize>,
    /// What has ended is not read on in a later run.
    partitions_end: bool,
    /// Somebody of whom nothing was read yet.
    nobody: Demographics,
}

impl Settings {
    /// From the sections of a validated flow and its signals, in the order of `decode.signals`: that of the columns.
    /// `partitions_end` says that nothing ever comes from a partition that has ended: true of files and the generator.
    ///
    /// Panics on what a validated flow rules out: a hop that does not divide the window, a horizon below lateness and window together.
    pub fn new(
        patient: &PatientSpec,
        correction: &CorrectionSpec,
        signals: Vec<SignalId>,
        partitions_end: bool,
    ) -> Self {
        let (window, hop) = (patient.window.micros(), patient.hop.micros());
        assert!(hop > 0 && window >= hop && window % hop == 0, "the hop divides the window");
        assert!(
            correction.horizon.micros() >= patient.lateness.micros().saturating_add(window),
            "what can reopen a window can be recalled"
        );
        Settings {
            grid: Grid { window: patient.window, hop: patient.hop },
            horizon: correction.horizon,
            high_mmhg: patient.high_mmhg,
            low_mmhg: patient.low_mmhg,
            baseline_readings: patient.baseline_readings as usize,
            baseline_readings_min: patient.baseline_readings_min,
            population_systolic_mmhg: patient.population_systolic_mmhg,
            population_diastolic_mmhg: patient.population_diastolic_mmhg,
            // Patients are numbered with 32 bits.
            patients_max: patient.patients_max.min(u64::from(u32::MAX)),
            systolic_column: state::column(&signals, SYSTOLIC),
            diastolic_column: state::column(&signals, DIASTOLIC),
            signals,
            partitions_end,
            nobody: Demographics::default(),
        }
    }

    /// The same, of a flow that takes conditions, or not: who has none has 0 comorbidities then, and not an unknown number.
    pub fn with_conditions(self, taken: bool) -> Settings {
        let nobody = Demographics { comorbidities: taken.then_some(0), ..Demographics::default() };
        Settings { nobody, ..self }
    }

    fn takes_conditions(&self) -> bool {
        self.nobody.comorbidities.is_some()
    }
}

/// What an epoch made.
#[derive(Debug, Default)]
pub struct PatientOutput {
    /// Readings with features, in position order, and what they withdrew.
    pub scorable: Scorable,
    /// Windows that closed or changed, ascending by (end, patient); one row a window.
    pub windows: Vec<WindowRow>,
    /// Where the epoch's inputs ended: contributed, superseded, duplicate or late.
    pub tally: Tally,
}

/// A worker holds as many patients as it may.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "could not take in another patient: this worker holds {limit} already; raise patient.patients_max (about 200 bytes each), or run more workers"
)]
pub struct PatientsFull {
    /// `patient.patients_max`.
    pub limit: u64,
}

/// One worker's patients.
#[derive(Debug)]
pub struct Patients {
    settings: Settings,
    watermark: Watermark,
    index: HashMap<Pseudonym, u32, BuildHasherDefault<PseudonymHasher>>,
    slab: Slab,
    conditions: Conditions,
    /// Where the patients of the epoch's inputs are: kept for its memory alone.
    places: Vec<u32>,
    closings: Closings,
    /// The patient at which the next sweep begins.
    sweep: usize,
    contributions: usize,
    epoch: Option<Epoch>,
    share: Share,
    touched: Touched,
}

impl Patients {
    /// Nobody yet.
    pub fn new(settings: Settings) -> Self {
        Patients {
            settings,
            watermark: Watermark::new(),
            index: HashMap::default(),
            slab: Slab::default(),
            conditions: Conditions::default(),
            places: Vec::new(),
            closings: Closings::default(),
            sweep: 0,
            contributions: 0,
            epoch: None,
            share: Share { worker: 0, workers: 1 },
            touched: Touched::default(),
        }
    }

    /// The same, as one of several workers, the patients being dealt out by [`key_group`].
    pub fn with_share(self, share: Share) -> Self {
        Patients { share, ..self }
    }

    /// Applies one whole epoch and adds what it makes to `out`. Epochs ascend.
    ///
    /// `intakes` are sorted by position, and drained. `ticks` is everything broadcast with epochs up to this one that was not given
    /// before, of each partition in its order: it closes windows after the intakes are applied.
    ///
    /// Errors: a patient too many; then the state is half an epoch ahead and must not be used any more.
    pub fn apply(
        &mut self,
        epoch: Epoch,
        intakes: &mut Vec<Intake>,
        ticks: &[Tick],
        out: &mut PatientOutput,
    ) -> Result<(), PatientsFull> {
        debug_assert!(self.epoch.is_none_or(|last| last < epoch), "epochs ascend");
        debug_assert!(intakes.is_sorted_by_key(Intake::position), "an epoch is applied in position order");
        self.epoch = Some(epoch);
        self.watermark.reopen(ticks);
        out.scorable.reserve(intakes.len());
        // Labels pass through: they make nobody known, and their partitions are none of readings.
        intakes.retain(|intake| match intake {
            Intake::Label { label, .. } => {
                out.scorable.labels.push(*label);
                false
            }
            Intake::Reading(_) | Intake::Demographics { .. } | Intake::Condition { .. } => true,
        });
        let mut endings = [0_u64; Ending::COUNT];
        let mut run: Option<(Partition, PartitionId)> = None;
        self.places.clear();
        for intake in intakes.iter() {
            let place = self.locate(intake.patient())?;
            self.places.push(place);
        }
        for (at, intake) in intakes.drain(..).enumerate() {
            if at % WARM_PATIENTS == 0 {
                self.slab.warm(self.places[at..].iter().take(WARM_PATIENTS).copied(), Patient::touch_active);
            }
            let index = self.places[at];
            let partition = intake.position().partition;
            // Position order makes runs of one partition.
            let (_, id) = *match &mut run {
                Some(run) if run.0 == partition => run,
                run => run.insert((partition, self.watermark.id(partition))),
            };
            let ending = match intake {
                Intake::Reading(reading) => self.read(reading, index, id, &mut out.scorable),
                Intake::Demographics { patient, demographics, .. } => {
                    if self.slab.get_mut(index).learn(demographics, &self.settings) {
                        self.regroup(Whose { patient, index }, &mut out.scorable);
                    }
                    Ending::Demographics
                }
                Intake::Condition { patient, condition, .. } => {
                    self.suffer(Whose { patient, index }, &condition, &mut out.scorable);
                    Ending::Demographics
                }
                Intake::Label { .. } => unreachable!("labels were taken out"),
            };
            endings[ending as usize] += 1;
        }
        for (ending, count) in Ending::ALL.into_iter().zip(endings).filter(|(_, count)| *count > 0) {
            if let Some((outcome, reason)) = ending.outcome() {
                out.tally.add_many(outcome, reason, count);
            }
        }
        self.watermark.advance(ticks);
        self.close(&mut out.windows);
        self.sweep();
        Ok(())
    }

    /// How far event time has come over all partitions.
    pub fn watermark(&self) -> EventTime {
        self.watermark.reached()
    }

    /// Number of patients held.
    pub fn patients(&self) -> usize {
        self.index.len()
    }

    /// Number of contributions (and tombstones) held.
    pub fn contributions(&self) -> usize {
        self.contributions
    }

    fn read(&mut self, reading: Reading, index: u32, partition: PartitionId, out: &mut Scorable) -> Ending {
        let whose = Whose { patient: reading.patient, index };
        let watermark = self.watermark.reached();
        let recall = self.watermark.frozen(self.settings.horizon);
        let partitions = &self.watermark;
        let moment = Moment { settings: &self.settings, partition, partitions, watermark, recall };
        let patient = self.slab.get_mut(whose.index);
        let before = patient.contributions();
        let saved = patient.forget(watermark, recall - self.settings.grid.window, self.settings.signals.len());
        let held = patient.contributions();
        let ending = patient.take(reading, &moment, (whose, &mut self.closings), out);
        if !saved || patient.contributions() < held {
            // A version went, or was moved beyond recall, and nothing is kept that would replace what was saved of it.
            self.touched.rewrite(index);
        }
        self.contributions = self.contributions + patient.contributions() - before;
        ending
    }

    /// Applies what is said of a patient's condition.
    fn suffer(&mut self, whose: Whose, condition: &Condition, out: &mut Scorable) {
        if !self.conditions.take(whose.index, condition) {
            return;
        }
        self.touched.change_conditions(whose.index);
        let count = self.conditions.count(whose.index);
        if self.slab.get_mut(whose.index).suffer(count, &self.settings) {
            self.regroup(whose, out);
        }
    }

    /// What a patient contributed within the horizon follows what is known of it by now.
    fn regroup(&mut self, whose: Whose, out: &mut Scorable) {
        let recall = self.watermark.frozen(self.settings.horizon);
        self.slab.get_mut(whose.index).regroup(whose.patient, recall, &self.settings, out);
    }

    /// Where a patient is whom an input touches; a new one gets a place.
    fn locate(&mut self, patient: &Pseudonym) -> Result<u32, PatientsFull> {
        let index = match self.index.get(patient) {
            Some(index) => *index,
            None => self.add(patient)?,
        };
        self.touched.touch(Whose { patient: *patient, index });
        Ok(index)
    }

    fn add(&mut self, patient: &Pseudonym) -> Result<u32, PatientsFull> {
        let limit = self.settings.patients_max;
        if self.index.len() as u64 >= limit {
            return Err(PatientsFull { limit });
        }
        let index = self.slab.add();
        self.index.insert(*patient, index);
        Ok(index)
    }

    fn close(&mut self, out: &mut Vec<WindowRow>) {
        let due = self.closings.take(self.watermark.reached());
        out.reserve(due.len());
        for (at, (end, whose)) in due.iter().enumerate() {
            if at % WARM_PATIENTS == 0 {
                let next = due[at..].iter().take(WARM_PATIENTS);
                self.slab.warm(next.map(|(_, whose)| whose.index), Patient::touch_newest);
            }
            let row = self.slab.get(whose.index).window(whose.patient, *end, &self.settings);
            out.push(row.expect("a window with changes keeps its patient active: it lies within the horizon"));
        }
        if self.watermark.reached() == EventTime::MAX {
            // What comes next goes on from before: without this it would find them open.
            for (_, whose) in &due {
                self.slab.get_mut(whose.index).close();
                self.touched.touch(*whose);
            }
        }
        self.closings.recycle(due);
    }

    /// Looks at the next few patients for what can be forgotten.
    fn sweep(&mut self) {
        let watermark = self.watermark.reached();
        let until = self.watermark.frozen(self.settings.horizon) - self.settings.grid.window;
        for _ in 0..SWEEP_PATIENTS.min(self.slab.len()) {
            self.sweep = if self.sweep < self.slab.len() { self.sweep } else { 0 };
            let patient = self.slab.get_mut(self.sweep as u32);
            let before = patient.contributions();
            if !patient.forget(watermark, until, self.settings.signals.len()) {
                self.touched.rewrite(self.sweep as u32);
            }
            if self.settings.partitions_end {
                patient.forget_ended(&self.watermark);
            }
            self.contributions = self.contributions + patient.contributions() - before;
            self.sweep += 1;
        }
    }
}

/// Where an input ended, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Reading,
    Correction,
    Withdrawal,
    Superseded,
    Duplicate,
    Late,
    BeyondHorizon,
    Unfounded,
    Demographics,
}

impl Ending {
    const ALL: [Ending; 9] = [
        Ending::Reading,
        Ending::Correction,
        Ending::Withdrawal,
        Ending::Superseded,
        Ending::Duplicate,
        Ending::Late,
        Ending::BeyondHorizon,
        Ending::Unfounded,
        Ending::Demographics,
    ];
    const COUNT: usize = Ending::ALL.len();

    /// As it is counted; `None` for Patient and Condition resources, which `decode` has counted as ignored: they make no row.
    fn outcome(self) -> Option<(Outcome, &'static str)> {
        match self {
            Ending::Reading => Some((Outcome::Contributed, "reading")),
            Ending::Correction => Some((Outcome::Contributed, "correction")),
            Ending::Withdrawal => Some((Outcome::Contributed, "withdrawal")),
            Ending::Superseded => Some((Outcome::Superseded, "version")),
            Ending::Duplicate => Some((Outcome::Duplicate, "version")),
            Ending::Late => Some((Outcome::Late, "lateness")),
            Ending::BeyondHorizon => Some((Outcome::Late, "horizon")),
            Ending::Unfounded => Some((Outcome::Ignored, "withdrawal_of_unknown")),
            Ending::Demographics => None,
        }
    }
}

/// Patients in chunks, so that growing never moves those that are there.
#[derive(Debug, Default)]
struct Slab(Vec<Vec<Patient>>);

impl Slab {
    const CHUNK: usize = 1_024;

    fn len(&self) -> usize {
        self.0.last().map_or(0, |last| (self.0.len() - 1) * Self::CHUNK + last.len())
    }

    fn add(&mut self) -> u32 {
        let index = self.len();
        if index.is_multiple_of(Self::CHUNK) {
            self.0.push(Vec::with_capacity(Self::CHUNK));
        }
        self.0.last_mut().expect("a chunk with room was just added if there was none").push(Patient::default());
        u32::try_from(index).expect("patients_max is below 2^32")
    }

    fn get(&self, index: u32) -> &Patient {
        &self.0[index as usize / Self::CHUNK][index as usize % Self::CHUNK]
    }

    /// Brings patients into the cache step by step, for all of them at once, so that the misses of a step overlap.
    fn warm(&self, patients: impl Iterator<Item = u32> + Clone, touch: fn(&Patient) -> usize) {
        let mut touched = 0_usize;
        for step in [Patient::touch, touch] {
            touched = patients.clone().fold(touched, |sum, patient| sum.wrapping_add(step(self.get(patient))));
        }
        // The sum means nothing; it must not be left out.
        std::hint::black_box(touched);
    }

    fn get_mut(&mut self, index: u32) -> &mut Patient {
        &mut self.0[index as usize / Self::CHUNK][index as usize % Self::CHUNK]
    }
}

/// [`Pseudonym::hash64`] as the hash: it is uniform already. Halves swapped, because the route between workers has used up its low bits.
#[derive(Default)]
struct PseudonymHasher(u64);

impl Hasher for PseudonymHasher {
    fn finish(&self) -> u64 {
        self.0.rotate_left(32)
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_be_bytes(*first);
        }
    }

    /// The length of an array, the same for all.
    fn write_usize(&mut self, _: usize) {}
}
