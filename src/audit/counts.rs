//! From readings to the few updates that differential sees: the state machine of one worker.
//!
//! ```text
//! readings, withdrawals ─> tally (this epoch) ─> held ──pane closes──> released ──nobody needs it──> negated
//!                                                 └ corrections, a few times a pane ┘ └───> updates <───┘
//! ```
//!
//! Invariants:
//!
//! 1. An update is (series, pane) with a histogram as its difference; their number depends on series and panes, never on readings.
//! 2. A pane's first update comes in the epoch in which the watermark passes its end. What arrives for closed panes is gathered and
//!    let through [`CORRECTIONS_PER_PANE`] times a pane of event time: a late reading changes all comparisons that look back on its pane, in each of
//!    each of its series, which no sink should be told for each of them.
//! 3. What was released is remembered (sparsely), so that a pane can be retracted exactly once no comparison that may still change
//!    needs it: when the last pane that has it in its reference is frozen. The sum of all updates is then empty again.
//! 4. A contribution to such a forgotten pane is dropped and counted. None can come from a reading within `patient.lateness`, which is
//!    less than the horizon, unless its partition idled.
//!
//! 5. It is additive: what several workers had counted may be added up on one of them, or on another, and the sums of updates stay the
//!    same. What decides *when* (the watermark, and what was let through last) is the same on all of them.
//!
//! [`saved`] says how it survives. Kept per worker: per pane between the oldest unforgotten and the newest, 16 bytes per cell that ever counted (at most 12,040; some 4,000 do).

mod saved;

use std::collections::BTreeMap;
use std::collections::btree_map;

use differential_dataflow::difference::Abelian;

use crate::audit::histogram::{Cells, Histogram};
use crate::audit::ledger::{self, Entry, Ledger, WARM_PATIENTS};
use crate::audit::scores::{Score, Thousandths};
use crate::audit::series::{self, Calendar, Contribution, GROUPS, Groups, Pane, Series, groups_of};
use crate::audit::tally::Tally;
use crate::config::Selected;
use crate::signals::{DIASTOLIC, SYSTOLIC};
use crate::source::Share;
use crate::time::{EventSpan, EventTime};
use crate::vocabulary::flaws::Flawed;
use crate::vocabulary::{
    self, Assessed, Assessment, Facts, Label, Moved, Precision, Scorable, Signals, Tick, Timeliness, Withdrawn,
};
use crate::watermark::Watermark;

/// How often, in a pane's length of event time, corrections of closed panes are let through: of panes of an hour, every quarter of an hour. Each time all
/// windows that look back on them are compared again.
pub const CORRECTIONS_PER_PANE: i64 = 4;

/// A change of one series' pane.
pub type Update = ((Series, Pane), Histogram);

/// Contributions for forgotten panes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Readings not counted.
    pub readings: u64,
    /// Withdrawals of what is no longer held.
    pub withdrawals: u64,
}

/// What one worker has counted.
#[derive(Debug)]
pub struct Counts {
    calendar: Calendar,
    horizon: EventSpan,
    watermark: Watermark,
    tally: Tally,
    /// Not told yet: open panes, and corrections of closed ones.
    held: BTreeMap<Pane, Cells>,
    /// Told, and not taken back.
    released: BTreeMap<Pane, Cells>,
    /// The step of event time, and the first open pane, when panes were last let through.
    let_through: (i64, Pane),
    share: Share,
    saving: saved::Saving,
    ledger: Option<Ledger>,
    selected: Selected,
    changes: Vec<ledger::Change>,
    /// Of each reading of the batch.
    groups: Vec<Groups>,
    endings: vocabulary::Tally,
}

/// What is counted by patient.
#[derive(Clone, Copy, Debug)]
pub struct ByPatient {
    /// Which readings count as selected.
    pub selected: Selected,
    /// For so long before its time a label holds.
    pub label_horizon: EventSpan,
}

impl Counts {
    /// Nothing counted yet. `horizon` is how long a pane can be corrected after it closed; `share` says which worker this is; `by_patient` says what is
    /// counted by patient, if anything is.
    pub fn new(calendar: Calendar, horizon: EventSpan, share: Share, by_patient: Option<ByPatient>) -> Self {
        Counts {
            calendar,
            horizon,
            watermark: Watermark::new(),
            tally: Tally::default(),
            held: BTreeMap::new(),
            released: BTreeMap::new(),
            let_through: (i64::MIN, Pane(i64::MIN)),
            share,
            saving: saved::Saving::default(),
            ledger: by_patient.map(|by_patient| Ledger::new(calendar, by_patient.label_horizon)),
            selected: by_patient.map(|by_patient| by_patient.selected).unwrap_or_default(),
            changes: Vec::new(),
            groups: Vec::new(),
            endings: vocabulary::Tally::default(),
        }
    }

    /// Applies one epoch; appends updates, for each pane and series at most one retraction and one addition.
    pub fn advance<'a>(
        &mut self,
        batches: impl IntoIterator<Item = &'a Assessed>,
        ticks: &[Tick],
        updates: &mut Vec<Update>,
    ) -> Dropped {
        let kept = self.first_kept();
        let mut dropped = Dropped::default();
        for batch in batches {
            self.count(batch, kept, &mut dropped);
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.forget(kept);
        }
        for (pane, cells) in self.tally.drain() {
            self.saving.touch(pane);
            add(&mut self.held, pane, cells);
        }
        self.forget(kept, updates);
        self.watermark.advance(ticks);
        self.saving.clock_moved |= !ticks.is_empty();
        self.release(updates);
        dropped
    }

    /// After a start from saved state: appends what differential had been told before, so that its collection is the same again.
    pub fn put_back(&self, updates: &mut Vec<Update>) {
        for (pane, cells) in &self.released {
            tell(*pane, cells, updates);
        }
    }

    /// Everything that stands, told or not, by pane; and how many patients have it, see [`Ledger::standing`].
    pub(super) fn standing(&self) -> (BTreeMap<Pane, Cells>, ledger::Standing) {
        let mut panes = self.released.clone();
        self.held.iter().for_each(|(pane, cells)| add(&mut panes, *pane, cells.clone()));
        (panes, self.ledger.as_ref().map(Ledger::standing).unwrap_or_default())
    }

    /// The first pane whose counts can still change a comparison that may be published.
    fn first_kept(&self) -> Pane {
        let first_live = self.calendar.pane_of(self.watermark.frozen(self.horizon));
        self.calendar.reference(first_live).0
    }

    fn count(&mut self, batch: &Assessed, kept: Pane, dropped: &mut Dropped) {
        let scorable = &batch.scorable;
        self.groups.clear();
        debug_assert_eq!(
            scorable.readings.len(),
            scorable.demographics.len(),
            "patient: demographics of every reading"
        );
        for (reading, demographics) in scorable.readings.iter().zip(&scorable.demographics) {
            let Facts { at, precision, signals, .. } = &reading.facts;
            let groups = groups_of(*at, demographics);
            self.groups.push(groups);
            let pane = self.calendar.pane_of(*at);
            self.input(&reading.facts, pane, kept);
            let measurement = Measurement { pane, precision: *precision, signals, groups };
            dropped.readings += u64::from(contributes(&reading.facts) && !self.add(measurement, kept, 1));
        }
        for Flawed { topic, at, flaws, count } in &scorable.flawed {
            let pane = self.calendar.pane_of(*at);
            if pane >= kept {
                self.tally.add_flaws(pane, *topic, *flaws, *count);
            }
        }
        if self.ledger.is_some() {
            self.enter(batch, kept);
        }
        for Moved { measured, before, .. } in &scorable.moved {
            let Withdrawn { at, precision, signals, demographics, .. } = measured;
            let (pane, before, after) =
                (self.calendar.pane_of(*at), groups_of(*at, before), groups_of(*at, demographics));
            for (groups, sign) in [(before & !after, -1), (after & !before, 1)] {
                let measurement = Measurement { pane, precision: *precision, signals, groups };
                // What is forgotten is under no group any more.
                self.add(measurement, kept, sign);
            }
        }
        for Withdrawn { at, precision, signals, demographics, .. } in &scorable.withdrawn {
            let groups = groups_of(*at, demographics);
            let pane = self.calendar.pane_of(*at);
            let measurement = Measurement { pane, precision: *precision, signals, groups };
            dropped.withdrawals += u64::from(!self.add(measurement, kept, -1));
        }
    }

    /// Enters a batch into the ledger, and counts what changes. Whatever is withdrawn has a row that replaces it, in order.
    fn enter(&mut self, batch: &Assessed, kept: Pane) {
        let Some(ledger) = &mut self.ledger else { return };
        let Scorable { readings, replaces, moved, labels, .. } = &batch.scorable;
        for (at, (reading, groups)) in readings.iter().zip(&self.groups).enumerate() {
            if at % WARM_PATIENTS == 0 {
                let next = readings[at..].iter().take(WARM_PATIENTS);
                std::hint::black_box(ledger.warm(next.map(|reading| &reading.patient)));
            }
            let observation = reading.observation.hash64();
            if replaces.get(at).copied().unwrap_or(false) {
                ledger.remove(reading.patient, observation, &mut self.changes);
            }
            let facts = &reading.facts;
            let stands = contributes(facts) && self.calendar.admits(facts.precision);
            if !stands || !is_whole(&facts.signals) || self.calendar.pane_of(facts.at) < kept {
                continue;
            }
            let (score, risk) = score_of(batch.assessments.get(at), self.selected);
            let groups = groups | risk.map_or(0, |risk| 1 << risk);
            ledger.add(reading.patient, Entry { at: facts.at, observation, score, groups }, &mut self.changes);
        }
        // Whatever came of it since: the last of them has the groups that it has now.
        for Moved { observation, measured, .. } in moved {
            let place = (measured.at, observation.hash64());
            let groups = groups_of(measured.at, &measured.demographics);
            ledger.regroup(measured.patient, place, groups, &mut self.changes);
        }
        for label in labels {
            let (outcome, reason) = ledger.label(*label, kept, &mut self.changes).outcome();
            self.endings.add(outcome, reason);
        }
        // What lies in forgotten panes went with them.
        for change in self.changes.drain(..).filter(|(pane, ..)| *pane >= kept) {
            self.tally.add_change(change);
        }
    }

    /// Where labels have ended since the last call.
    pub fn endings(&mut self) -> vocabulary::Tally {
        std::mem::take(&mut self.endings)
    }

    /// Bytes held, about: what grows with panes, readings, patients and labels.
    pub fn held_bytes(&self) -> usize {
        let cells = self.held.values().chain(self.released.values()).map(|cells| cells.as_slice().len()).sum::<usize>();
        let of_ledger = self.ledger.as_ref().map_or(0, |ledger| {
            let kept = ledger.entries() * size_of::<Entry>() + ledger.labels() * size_of::<Label>();
            kept + ledger.patients() * ACCOUNT_BYTES
        });
        cells * size_of::<(series::Cell, i64)>() + of_ledger
    }

    /// Counts a reading for data quality: whatever came of it. One known to the day counts at its start, for a topic of such readings has inputs as well.
    fn input(&mut self, facts: &Facts, pane: Pane, kept: Pane) {
        if facts.is_input() && pane >= kept {
            self.tally.add_input(pane, facts.position.partition.topic);
        }
    }

    /// `false` if the pane is forgotten.
    fn add(&mut self, measurement: Measurement<'_>, kept: Pane, sign: i32) -> bool {
        let Measurement { pane, precision, signals, groups } = measurement;
        if !self.calendar.admits(precision) {
            return true;
        }
        let Some(contribution) = Contribution::of(signals, groups) else { return true };
        if pane < kept {
            return false;
        }
        self.tally.add(pane, contribution, sign);
        true
    }

    /// Retracts panes before `kept`. Corrections of theirs that are still held can go: nobody will look.
    fn forget(&mut self, kept: Pane, updates: &mut Vec<Update>) {
        // Not worth saving: were such a pane loaded again, it would go in the first epoch.
        self.held = self.held.split_off(&kept);
        let live = self.released.split_off(&kept);
        for (pane, cells) in std::mem::replace(&mut self.released, live) {
            self.saving.touch(pane);
            for (series, mut histogram) in cells.histograms() {
                histogram.negate();
                updates.push(((series, pane), histogram));
            }
        }
    }

    /// Lets closed panes through when the watermark has come to another step or pane. It alone decides, not what is held here:
    /// all workers must do so in the same epoch.
    fn release(&mut self, updates: &mut Vec<Update>) {
        let reached = self.watermark.reached();
        let step_micros = (self.calendar.hop().micros() / CORRECTIONS_PER_PANE).max(1);
        let open = self.calendar.pane_of(reached);
        let come_to = (reached.micros().div_euclid(step_micros), open);
        // At the end of all input there is no later step: what is continued from there and fits into one epoch comes to the same end again.
        if come_to == self.let_through && reached < EventTime::MAX {
            return;
        }
        self.let_through = come_to;
        let still_held = self.held.split_off(&open);
        for (pane, cells) in std::mem::replace(&mut self.held, still_held) {
            self.saving.touch(pane);
            tell(pane, &cells, updates);
            add(&mut self.released, pane, cells);
        }
    }
}

/// Appends the counts of a pane as updates.
fn tell(pane: Pane, cells: &Cells, updates: &mut Vec<Update>) {
    updates.extend(cells.histograms().map(|(series, histogram)| ((series, pane), histogram)));
}

/// Adds the counts of a pane to those of others.
fn add(panes: &mut BTreeMap<Pane, Cells>, pane: Pane, cells: Cells) {
    match panes.entry(pane) {
        btree_map::Entry::Vacant(new) => drop(new.insert(cells)),
        btree_map::Entry::Occupied(mut known) => known.get_mut().add(&cells),
    }
}

/// What a reading and its withdrawal have in common: all that decides where it is counted.
struct Measurement<'a> {
    pane: Pane,
    precision: Precision,
    signals: &'a Signals,
    groups: Groups,
}

/// A patient's place in a map, with two lists: an estimate.
const ACCOUNT_BYTES: usize = 128;

/// Whether a reading has what every watched feature needs.
fn is_whole(signals: &Signals) -> bool {
    [SYSTOLIC, DIASTOLIC].iter().all(|signal| signals.get(*signal).is_some_and(f64::is_finite))
}

/// What scoring said, and the group of its risk level.
fn score_of(assessment: Option<&Assessment>, selected: Selected) -> (Score, Option<u8>) {
    let Some(Assessment { alarm, reasons, probability, risk_level, .. }) = assessment else {
        return (Score::default(), None);
    };
    let risk = risk_level.and_then(|level| GROUPS.iter().position(|group| group.strip_prefix("risk=") == Some(level)));
    let selected = match selected {
        Selected::Alarm => *alarm,
        Selected::Reason => !reasons.is_empty(),
        Selected::HighRisk => *risk_level == Some("HIGH"),
    };
    let thousandths = probability.and_then(Thousandths::of);
    (Score { thousandths, selected, alarm: *alarm }, risk.map(|group| group as u8))
}

/// Whether a reading is counted at all: what `patient` does not let contribute is too late, a summary, or withdraws.
/// A withdrawal needs no such question, it names what had contributed.
fn contributes(facts: &Facts) -> bool {
    facts.timeliness != Timeliness::TooLate && !facts.summary && !facts.status.withdraws()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use expect_test::{Expect, expect};

    use super::*;
    use crate::vocabulary::{Partition, Reading, Status};

    const ALONE: Share = Share { worker: 0, workers: 1 };

    /// Panes of 60 s, references of 2 panes, correctable for 120 s; so corrections are let through every 15 s of event time.
    pub(super) fn counts(share: Share) -> Counts {
        let minute = EventSpan::from_seconds(60);
        Counts::new(Calendar::new(minute, minute, 2), EventSpan::from_seconds(120), share, None)
    }

    /// One line an epoch. `at=systolic` a reading of 60 mmHg diastolic (`at` in seconds), `at-systolic` its withdrawal, `W at` the watermark.
    /// A word behind a comma marks a reading: `late`, `toolate`, `summary`, `error`, `day`, `single`.
    fn check(script: &str, expect: Expect) {
        let mut counts = counts(ALONE);
        let mut printed = String::new();
        for epoch in script.trim().lines().map(str::trim) {
            let mut batch = Assessed::default();
            let mut ticks = Vec::new();
            for word in epoch.split_whitespace() {
                parse(word, &mut batch, &mut ticks);
            }
            let mut updates = Vec::new();
            let dropped = counts.advance([&batch], &ticks, &mut updates);
            writeln!(printed, "{epoch}").unwrap();
            // The systolic of everybody stands for all series.
            for ((series, pane), histogram) in &updates {
                if *series == Series(0) {
                    let values: Vec<String> =
                        histogram.as_slice().iter().map(|(value, count)| format!("{}:{count:+}", value.0)).collect();
                    writeln!(printed, "    pane {} {}", pane.0, values.join(" ")).unwrap();
                }
            }
            if dropped != Dropped::default() {
                writeln!(printed, "    dropped {} {}", dropped.readings, dropped.withdrawals).unwrap();
            }
        }
        expect.assert_eq(&printed);
    }

    pub(super) fn parse(word: &str, batch: &mut Assessed, ticks: &mut Vec<Tick>) {
        let seconds = |text: &str| EventTime::from_micros(text.parse::<i64>().unwrap() * 1_000_000);
        if let Some(at) = word.strip_prefix('W') {
            let watermark = if at == "end" { EventTime::MAX } else { seconds(at) };
            ticks.push(Tick { partition: Partition::default(), watermark, idle: false });
            return;
        }
        let (word, mark) = word.split_once(',').unwrap_or((word, ""));
        let (at, systolic) = word.split_once(['=', '-']).unwrap();
        let mut signals = Signals::default();
        signals.insert(SYSTOLIC, systolic.parse().unwrap());
        if mark != "single" {
            signals.insert(DIASTOLIC, 60.0);
        }
        let precision = if mark == "day" { Precision::Day } else { Precision::Instant };
        let timeliness = match mark {
            "late" => Timeliness::Late,
            "toolate" => Timeliness::TooLate,
            _ => Timeliness::OnTime,
        };
        let demographics = vocabulary::Demographics::default();
        if word.contains('-') {
            let patient = Default::default();
            batch.scorable.withdrawn.push(Withdrawn { patient, at: seconds(at), precision, signals, demographics });
            return;
        }
        let status = if mark == "error" { Status::EnteredInError } else { Status::Final };
        let facts = Facts {
            at: seconds(at),
            precision,
            timeliness,
            summary: mark == "summary",
            status,
            signals,
            ..Default::default()
        };
        let reading = Reading { patient: Default::default(), observation: Default::default(), facts };
        batch.scorable.readings.push(reading);
        batch.scorable.demographics.push(demographics);
    }

    #[test]
    fn a_pane_is_let_through_when_the_watermark_passes_its_end() {
        check(
            "10=120 20=121 70=130
             W59
             W60 61=130
             W120",
            expect![[r#"
                10=120 20=121 70=130
                W59
                W60 61=130
                    pane 0 120:+1 121:+1
                W120
                    pane 1 130:+2
            "#]],
        );
    }

    #[test]
    fn corrections_wait_for_the_next_step_of_event_time() {
        check(
            "10=120 20=145 W61
             20-145 30=150,late W62
             40=150,late W74
             W75
             20-145 20=145 W90",
            expect![[r#"
                10=120 20=145 W61
                    pane 0 120:+1 145:+1
                20-145 30=150,late W62
                40=150,late W74
                W75
                    pane 0 145:-1 150:+2
                20-145 20=145 W90
            "#]],
        );
    }

    #[test]
    fn only_whole_plain_and_timely_readings_are_counted() {
        check(
            "10=120 11=120,toolate 12=120,summary 13=120,error 14=120,day 15=120,single 16=120,late 17-120,day
             Wend",
            expect![[r#"
                10=120 11=120,toolate 12=120,summary 13=120,error 14=120,day 15=120,single 16=120,late 17-120,day
                Wend
                    pane 0 120:+2
            "#]],
        );
    }

    #[test]
    fn the_end_of_input_closes_every_pane_in_the_epoch_of_its_readings() {
        check(
            "10=120 100000=130 Wend",
            expect![[r#"
                10=120 100000=130 Wend
                    pane 0 120:+1
                    pane 1666 130:+1
            "#]],
        );
    }

    /// Pane 0 is in the references of 1 and 2; pane 2 ends at 180 s and is frozen 120 s later.
    #[test]
    fn a_pane_is_forgotten_one_epoch_after_nobody_needs_it() {
        check(
            "10=120 W299
             20=130,late W300
             30=140,late 20-130 W301",
            expect![[r#"
                10=120 W299
                    pane 0 120:+1
                20=130,late W300
                    pane 0 130:+1
                30=140,late 20-130 W301
                    pane 0 120:-1 130:-1
                    dropped 1 1
            "#]],
        );
    }

    #[test]
    fn what_was_told_and_not_taken_back_is_bounded_by_horizon_and_references() {
        let mut counts = counts(ALONE);
        let mut told: BTreeMap<(Series, Pane), Histogram> = BTreeMap::new();
        let mut told_max = 0;
        for minute in 2..500 {
            let mut batch = Assessed::default();
            let mut ticks = Vec::new();
            parse(&format!("{}={}", minute * 60 + 7, 100 + minute % 60), &mut batch, &mut ticks);
            parse(&format!("{}=110,late", minute * 60 - 100), &mut batch, &mut ticks);
            parse(&format!("W{}", minute * 60), &mut batch, &mut ticks);
            let mut updates = Vec::new();
            counts.advance([&batch], &ticks, &mut updates);
            for (key, histogram) in updates {
                told.entry(key).or_default().add(&histogram);
            }
            told.retain(|_, histogram| !histogram.as_slice().is_empty());
            told_max = told_max.max(told.len());
        }
        // 2 frozen in time + 2 of a reference + 1 because the epoch before decides; 9 series: 4 features of the two groups of one patient, and the inputs.
        assert_eq!(told_max, 5 * 9);
        assert!(counts.released.len() <= 5 && counts.held.len() <= 2);
    }
}
