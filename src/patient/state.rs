//! One patient: what versions of observations do to contributions, history and windows. The rules are in [the stage's page](super).

use smallvec::SmallVec;

use super::contributions::{Contributions, Known, Version};
use super::features::{self, Baseline, Pressures, Row};
use super::history::Chain;
use super::window::{self, Change, Closings, Whose, Windows};
use super::{Ending, Settings};
use crate::decode::Leniency;
use crate::signals::{DIASTOLIC, SYSTOLIC, SignalId};
use crate::time::EventTime;
use crate::vocabulary::flaws::{Flaw, Flawed, Flaws};
use crate::vocabulary::{
    self, Demographics, Facts, Moved, Precedence, Precision, Pseudonym, Reading, Scorable, Signals, Timeliness,
    WindowRow, Withdrawn,
};
use crate::watermark::{PartitionId, Watermark};

/// Everything kept of one patient. At rest, only the chains and the demographics are left.
/// A cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Patient {
    pub(super) active: Option<Box<Active>>,
    pub(super) chains: SmallVec<[Chain; 1]>,
    pub(super) demographics: Option<Demographics>,
}

/// What is there of a patient with contributions inside the horizon.
/// Two cache lines.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Active {
    pub(super) contributions: Contributions,
    pub(super) windows: Windows,
}

/// The circumstances under which an input is applied.
#[derive(Clone, Copy)]
pub(super) struct Moment<'a> {
    pub(super) settings: &'a Settings,
    pub(super) partition: PartitionId,
    /// What partitions are called.
    pub(super) partitions: &'a Watermark,
    /// The combined watermark before this epoch.
    pub(super) watermark: EventTime,
    /// What was measured before is forgotten: the watermark less the horizon.
    pub(super) recall: EventTime,
}

/// What versions already known make of a new one.
enum Judgement {
    /// Its own partition has delivered the same or a newer one: nothing happens.
    Settled(Ending),
    /// New in its partition, but another partition's version holds: it joins its chain, and no more.
    Shadowed(Ending),
    /// It holds from now on.
    Holds,
}

/// What its chain makes of a reading.
struct History {
    row: Row,
    /// It has, or has had, a place in the ring.
    entered: bool,
}

/// The version that a reading follows in its chain.
#[derive(Clone, Copy)]
struct Predecessor {
    at: EventTime,
    systolic: f64,
    diastolic: f64,
}

impl Patient {
    /// Applies one reading or withdrawal; its row, if it gets one, goes to `out`.
    pub(super) fn take(
        &mut self,
        mut reading: Reading,
        moment: &Moment<'_>,
        (whose, closings): (Whose, &mut Closings),
        out: &mut Scorable,
    ) -> Ending {
        let settings = moment.settings;
        let active = self.active.get_or_insert_default();
        let mut values = settings.values(&reading.facts.signals);
        let known = active.contributions.known(&reading.observation, moment.partition, moment.recall);
        let judgement = active.judge(&reading.facts, &values, known);
        if let Judgement::Settled(ending) | Judgement::Shadowed(ending) = judgement
            && ending == Ending::Duplicate
            && !reading.facts.status.withdraws()
        {
            out.flawed.push(flawed(&reading.facts, Flaws::input(Flaw::Duplicate)));
        }
        if let Judgement::Settled(ending) = judgement {
            return ending;
        }
        let in_time = reading.facts.timeliness != Timeliness::TooLate;
        let admitted = active.admit(&mut reading.facts, &mut values, known, moment.recall);
        reading.facts.not_recomputed = reading.facts.at < moment.recall && corrects(&reading.facts, known);
        let demographics = self.demographics.unwrap_or(settings.nobody);
        let predecessor = known.own.and_then(|place| active.history(place, settings));
        let chain = chain(&mut self.chains, moment.partition);
        let history = remember(chain, predecessor, (&reading.facts, in_time), &demographics, settings);

        let version = active.version(&reading, (known, admitted), history.entered, moment);
        if let Judgement::Shadowed(ending) = judgement {
            active.keep(version, &values, known.own, moment.recall);
            return ending;
        }
        let counts = admitted == Some(true) && !reading.facts.summary;
        let flaws = active.flaws(&reading.facts, known.holder, settings);
        if !flaws.alone().is_none() {
            out.flawed.push(flawed(&reading.facts, flaws.alone()));
        }
        let in_windows = counts && settings.windowed(&reading.facts, &values);
        let version = version.holding(&demographics, (counts, in_windows), flaws);
        let change = Change {
            before: active.retire(known.holder, whose.patient, moment, out),
            after: version.is(Version::IN_WINDOWS).then_some(version.at),
            revised: known.holder.is_some() || reading.facts.timeliness != Timeliness::OnTime,
        };
        closings.change(whose, &mut active.windows, settings.grid, change, moment.watermark);
        active.keep(version, &values, known.own, moment.recall);
        let beyond = reading.facts.not_recomputed;
        if admitted.is_none() && known.holder.is_none() && !beyond {
            // Remembered, but there is no row to take back: most are of observations that this flow never takes.
            return Ending::Unfounded;
        }
        // Behind the horizon there may be a row of which nothing is known any more.
        emit(reading, &history.row, demographics, known.holder.is_some() || beyond, out);
        match (admitted, known.holder) {
            _ if beyond => Ending::BeyondHorizon,
            (None, _) => Ending::Withdrawal,
            (Some(false), _) => Ending::Late,
            (Some(true), Some(_)) => Ending::Correction,
            (Some(true), None) => Ending::Reading,
        }
    }

    /// Applies a Patient resource. False if nothing came of it.
    pub(super) fn learn(&mut self, new: Demographics, settings: &Settings) -> bool {
        let known = self.demographics.unwrap_or(settings.nobody);
        let newer = !new.version.compare(known.version).is_some_and(std::cmp::Ordering::is_le);
        if newer {
            self.demographics = Some(Demographics { comorbidities: known.comorbidities, ..new });
        }
        newer
    }

    /// Applies a change of how many comorbidities there are. False if it is none.
    pub(super) fn suffer(&mut self, comorbidities: u8, settings: &Settings) -> bool {
        let known = self.demographics.unwrap_or(settings.nobody);
        let other = known.comorbidities != Some(comorbidities);
        if other {
            self.demographics = Some(Demographics { comorbidities: Some(comorbidities), ..known });
        }
        other
    }

    /// Has audit count what the patient contributed since `recall` under the groups that follow from what is known by now.
    pub(super) fn regroup(&mut self, patient: Pseudonym, recall: EventTime, settings: &Settings, out: &mut Scorable) {
        if let Some(active) = &mut self.active {
            let known = self.demographics.unwrap_or(settings.nobody);
            active.regroup(&known, patient, recall, settings, out);
        }
    }

    /// The row of one of the patient's windows as it stands.
    pub(super) fn window(&self, patient: Pseudonym, end: EventTime, settings: &Settings) -> Option<WindowRow> {
        let active = self.active.as_deref()?;
        Some(window::row(patient, end, &active.contributions, &active.windows, settings))
    }

    /// Something of the patient itself, for the cache's sake.
    pub(super) fn touch(&self) -> usize {
        usize::from(self.active.is_some())
    }

    /// Something of what a reading meets first, for the cache's sake.
    pub(super) fn touch_active(&self) -> usize {
        let chain = self.chains.first().map_or(0, Chain::touch);
        let active = |active: &Active| active.contributions.touch() + usize::from(active.windows.is_empty());
        chain + self.active.as_deref().map_or(0, active)
    }

    /// Something of what a window is made of, for the cache's sake.
    pub(super) fn touch_newest(&self) -> usize {
        self.active.as_deref().map_or(0, |active| active.contributions.touch_newest())
    }

    /// Number of versions held.
    pub(super) fn contributions(&self) -> usize {
        self.active.as_ref().map_or(0, |active| active.contributions.len())
    }

    /// Drops what has fallen behind the horizon, at a cost that was paid for when it came.
    ///
    /// False if some of it was to be saved: a later version may have been, in place of one that was.
    pub(super) fn forget(&mut self, watermark: EventTime, until: EventTime, stride: usize) -> bool {
        let Some(active) = &mut self.active else { return true };
        let saved = active.contributions.forget(until, stride);
        active.windows.forget(watermark, until);
        if active.contributions.len() == 0 && active.windows.is_empty() {
            self.active = None;
        }
        saved
    }

    /// All input has ended: no window waits any more.
    pub(super) fn close(&mut self) {
        if let Some(active) = &mut self.active {
            active.windows.open.clear();
        }
    }

    /// Drops the chains of partitions that have ended: for sources from which nothing comes after the end.
    pub(super) fn forget_ended(&mut self, watermark: &Watermark) {
        if self.chains.iter().any(|chain| watermark.ended(chain.partition)) {
            self.chains.retain(|chain| !watermark.ended(chain.partition));
            self.chains.shrink_to_fit();
        }
    }
}

impl Active {
    fn judge(&self, facts: &Facts, values: &[f64], known: Known) -> Judgement {
        if let Some(ending) = known.own.and_then(|own| self.precedence(facts, values, own)) {
            return Judgement::Settled(ending);
        }
        let other = known.holder.filter(|holder| known.own != Some(*holder));
        match other.and_then(|holder| self.precedence(facts, values, holder)) {
            Some(ending) => Judgement::Shadowed(ending),
            None => Judgement::Holds,
        }
    }

    /// `None` if an input is newer than the version at `place`, else where it ends.
    fn precedence(&self, facts: &Facts, values: &[f64], place: usize) -> Option<Ending> {
        let old = self.contributions.get(place);
        let same = || {
            let mut both = self.contributions.values(place, values.len()).iter().zip(values);
            facts.at == old.at && facts.status == old.status && both.all(|(old, new)| old.to_bits() == new.to_bits())
        };
        match facts.version.precedence(facts.status.withdraws(), (old.version, old.status.withdraws()), same) {
            Precedence::Newer => None,
            Precedence::Superseded => Some(Ending::Superseded),
            Precedence::Duplicate => Some(Ending::Duplicate),
        }
    }

    /// Decides whether an input contributes, and makes its facts say so: `None` for a withdrawal.
    fn admit(&self, facts: &mut Facts, values: &mut [f64], known: Known, recall: EventTime) -> Option<bool> {
        if facts.status.withdraws() {
            // What is withdrawn was measured then; a deletion does not say.
            if let Some(place) = known.own.or(known.holder) {
                facts.at = self.contributions.get(place).at;
            }
            facts.signals = Signals::default();
            values.fill(f64::NAN);
            return None;
        }
        let in_time = facts.timeliness != Timeliness::TooLate || self.admitted(known);
        let admitted = in_time && facts.at >= recall;
        facts.timeliness = match facts.timeliness {
            _ if !admitted => Timeliness::TooLate,
            Timeliness::TooLate => Timeliness::Late,
            timeliness => timeliness,
        };
        Some(admitted)
    }

    /// What is kept of an input, as long as it does not hold.
    fn version(
        &self,
        reading: &Reading,
        (known, admitted): (Known, Option<bool>),
        in_history: bool,
        moment: &Moment<'_>,
    ) -> Version {
        let facts = &reading.facts;
        let mut version = Version::new(reading.observation, moment.partition, facts);
        version.version = self.newest_version(facts, known);
        version.set(Version::ADMITTED, admitted == Some(true) || self.admitted(known));
        version.set(Version::IN_HISTORY, in_history);
        version.set(Version::DAY, facts.precision == Precision::Day);
        version
    }

    /// What a chain must know of an earlier version: when it was measured and its pressures, if it has had a place there.
    fn history(&self, place: usize, settings: &Settings) -> Option<Predecessor> {
        let version = self.contributions.get(place);
        let (systolic, diastolic) = settings.pressures(self.contributions.values(place, settings.signals.len()));
        version.is(Version::IN_HISTORY).then_some(Predecessor { at: version.at, systolic, diastolic })
    }

    fn admitted(&self, known: Known) -> bool {
        let admitted = |place: Option<usize>| place.is_some_and(|at| self.contributions.get(at).is(Version::ADMITTED));
        admitted(known.own) || admitted(known.holder)
    }

    /// The version that later ones must exceed. A deletion that says none inherits the one it withdraws, so that this does not come back.
    fn newest_version(&self, facts: &Facts, known: Known) -> crate::vocabulary::Version {
        let inherits = facts.status.withdraws() && facts.version.number().is_none();
        match known.own.or(known.holder).filter(|_| inherits) {
            Some(place) => self.contributions.get(place).version,
            None => facts.version,
        }
    }

    /// What data quality counts a reading under. Whether it was late was told when its observation first came: who corrects something sends it afterwards.
    fn flaws(&self, facts: &Facts, holder: Option<usize>, settings: &Settings) -> Flaws {
        if !facts.is_input() {
            return Flaws::NONE;
        }
        let late = match holder {
            Some(place) => self.contributions.get(place).flaws.has(Flaw::Late),
            None => facts.timeliness != Timeliness::OnTime,
        };
        Flaws::input(Flaw::Readings)
            .with(Flaw::SignalMissing, settings.lacks_a_pressure(&facts.signals))
            .with(Flaw::UnitAssumed, Leniency::UnitAssumed.is_in(facts.leniencies))
            .with(Flaw::Late, late)
    }

    /// Takes back what held so far; the time at which windows held it, if they did.
    fn retire(
        &mut self,
        holder: Option<usize>,
        patient: Pseudonym,
        moment: &Moment<'_>,
        out: &mut Scorable,
    ) -> Option<EventTime> {
        let place = holder?;
        let (settings, version) = (moment.settings, *self.contributions.get(place));
        if !version.flaws.is_none() {
            let topic = moment.partitions.partition(version.partition).topic;
            out.flawed.push(Flawed { topic, at: version.at, flaws: version.flaws, count: -1 });
        }
        if version.is(Version::COUNTED) {
            out.withdrawn.push(self.counted(place, patient, settings));
        }
        let kept = self.contributions.get_mut(place);
        kept.set(Version::HOLDS | Version::COUNTED | Version::IN_WINDOWS, false);
        kept.set(Version::UNSAVED, true);
        kept.flaws = Flaws::NONE;
        version.is(Version::IN_WINDOWS).then_some(version.at)
    }

    /// A version as audit counted it.
    fn counted(&self, place: usize, patient: Pseudonym, settings: &Settings) -> Withdrawn {
        let version = self.contributions.get(place);
        Withdrawn {
            patient,
            at: version.at,
            precision: if version.is(Version::DAY) { Precision::Day } else { Precision::Instant },
            signals: settings.signals(self.contributions.values(place, settings.signals.len())),
            demographics: version.demographics(),
        }
    }

    /// Has audit count what was measured since `recall` under the groups that follow from these demographics.
    fn regroup(
        &mut self,
        new: &Demographics,
        patient: Pseudonym,
        recall: EventTime,
        settings: &Settings,
        out: &mut Scorable,
    ) {
        for place in self.contributions.between(recall, EventTime::MAX) {
            let version = self.contributions.get_mut(place);
            let before = version.demographics();
            if !version.is(Version::COUNTED) || before.groups_alike(new) {
                continue;
            }
            version.group(new);
            version.set(Version::UNSAVED, true);
            let observation = version.observation;
            out.moved.push(Moved { observation, measured: self.counted(place, patient, settings), before });
        }
    }

    /// Keeps a version in place of its partition's earlier one.
    fn keep(&mut self, version: Version, values: &[f64], own: Option<usize>, recall: EventTime) {
        if let Some(place) = own {
            self.contributions.remove(place, values.len());
        }
        if version.at >= recall {
            self.contributions.insert(version, values);
        }
    }
}

/// One more input that data quality counts.
fn flawed(facts: &Facts, flaws: Flaws) -> Flawed {
    Flawed { topic: facts.position.partition.topic, at: facts.at, flaws, count: 1 }
}

/// True if there was an earlier version, known or not; of a withdrawal of something unknown, if it is of a kind that has rows here.
fn corrects(facts: &Facts, known: Known) -> bool {
    let later = matches!(facts.version, vocabulary::Version::Number(number) if number > 1);
    known.holder.is_some() || (facts.taken && (facts.status.corrects() || later))
}

fn chain(chains: &mut SmallVec<[Chain; 1]>, partition: PartitionId) -> &mut Chain {
    let place = chains.iter().position(|chain| chain.partition == partition).unwrap_or_else(|| {
        chains.push(Chain::new(partition));
        chains.len() - 1
    });
    &mut chains[place]
}

/// Lets a reading take its place in its chain, or leave it, and makes its features on the way.
///
/// `in_time` is the partition's own judgement: what is admitted for the sake of another partition's version has features, but no place.
fn remember(
    chain: &mut Chain,
    predecessor: Option<Predecessor>,
    (facts, in_time): (&Facts, bool),
    demographics: &Demographics,
    settings: &Settings,
) -> History {
    let own = Pressures::of(&facts.signals);
    let place = predecessor.and_then(|earlier| chain.leave(earlier.at, earlier.systolic, earlier.diastolic));
    let fits = own.full() && !facts.summary && settings.baseline_readings > 0;
    // A correction of a reading that has left the ring is no recent reading.
    let enters = fits && (place.is_some() || (predecessor.is_none() && in_time));
    let scored = facts.timeliness != Timeliness::TooLate && !facts.summary && !facts.status.withdraws();
    let baseline = scored.then(|| Baseline::of(chain, settings));
    if enters {
        chain.enter(place, facts.at, own.systolic, own.diastolic, settings.baseline_readings);
    }
    let row = match baseline {
        Some(baseline) => features::row(&own, &chain.recent(), &baseline, demographics, facts.at),
        None => own.alone(),
    };
    History { row, entered: enters || (fits && predecessor.is_some()) }
}

fn emit(reading: Reading, row: &Row, demographics: Demographics, replaces: bool, out: &mut Scorable) {
    out.readings.push(reading);
    out.features.extend_from_slice(row);
    out.demographics.push(demographics);
    out.replaces.push(replaces);
}

impl Settings {
    /// The values of the configured signals, in their order; NaN where not measured.
    fn values(&self, signals: &Signals) -> SmallVec<[f64; 4]> {
        self.signals.iter().map(|signal| signals.get(*signal).unwrap_or(f64::NAN)).collect()
    }

    /// The way back.
    pub(super) fn signals(&self, values: &[f64]) -> Signals {
        let mut signals = Signals::default();
        for (signal, value) in self.signals.iter().zip(values).filter(|(_, value)| !value.is_nan()) {
            signals.insert(*signal, *value);
        }
        signals
    }

    /// Systolic and diastolic pressure among values in the order of the columns.
    fn pressures(&self, values: &[f64]) -> (f64, f64) {
        let value = |column: Option<usize>| column.and_then(|column| values.get(column)).copied().unwrap_or(f64::NAN);
        (value(self.systolic_column), value(self.diastolic_column))
    }

    /// True if of the two pressures, both of which the flow takes, one was measured alone.
    fn lacks_a_pressure(&self, signals: &Signals) -> bool {
        let both = self.systolic_column.is_some() && self.diastolic_column.is_some();
        both && signals.get(SYSTOLIC).is_some() != signals.get(DIASTOLIC).is_some()
    }

    /// True if windows take it in: measured, and known more exactly than a window is long.
    fn windowed(&self, facts: &Facts, values: &[f64]) -> bool {
        let exact = facts.precision == Precision::Instant || self.grid.window >= super::DAY;
        exact && values.iter().any(|value| !value.is_nan())
    }
}

/// The column of a signal.
pub(super) fn column(signals: &[SignalId], signal: SignalId) -> Option<usize> {
    signals.iter().position(|configured| *configured == signal)
}
