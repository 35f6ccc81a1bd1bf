//! What must be known by patient: who has been seen when, what scoring said of each reading, and what came of it.
//!
//! Differential sees none of it. A reading, its withdrawal or a label changes some counts by one; these go the way of all counts.
//!
//! *Patients* are counted once a window and group, however many readings they have. A window is a range of panes, and who was there in several of them
//! must count once: so a patient counts in each pane under the number of panes until the next one with a reading of the same group (at most
//! [`Ledger::gap_max`]). In the panes `[a, b)` are as many patients as have, in some pane u of them, a gap that reaches b: each is counted in the last
//! pane of the range that has a reading. A reading more changes at most two of these counts, in each of its groups.
//!
//! *Labels* say of one patient whether an outcome had happened by some time. They hold for the readings of the horizon before that time: positive is a
//! reading with a label that happened, negative one with none but such as did not happen, unlabelled one with neither. Readings and labels come in any order.
//!
//! | the label is | ending | effect |
//! |---|---|---|
//! | of a higher version than the one with its id, or cannot be compared with it and differs | `contributed` | it takes the place of the earlier, which is taken back; or takes it back alone, if it withdraws |
//! | of a lower version | `superseded` | none |
//! | of the same version | `duplicate` | none; but of two the one that withdraws wins in either order |
//! | a withdrawal of what is not known | `ignored` | remembered: a lower version that comes later is `superseded` |
//! | about readings of forgotten panes alone | `late` | none |
//!
//! Invariants:
//!
//! 1. What it emits for a pane adds up to the counts of the entries that stand, whatever the order in which they came.
//! 2. Entries and labels of forgotten panes are dropped without a word: their counts go with their panes. A label that is about forgotten panes alone is as if it
//!    had been dropped, whether it was or not: no ending depends on when memory was swept.
//!
//! Kept: 24 bytes a reading within horizon and reference, the same as `patient` keeps it, and their list's slack; 64 a patient and about as many a label.

use std::collections::{BTreeMap, BTreeSet};

use foldhash::HashMap;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::audit::scores::Score;
use crate::audit::series::{ATTRIBUTES, Calendar, Cell, GROUPS, Groups, OF_PATIENT, Pane, Series, Value, each};
use crate::time::{EventSpan, EventTime};
use crate::vocabulary::{Label, Outcome, Precedence, Pseudonym};

/// Bytes that a patient takes, and a reading within horizon and reference (the page above).
pub const KEPT_BYTES: (u64, u64) = (64, 32);

/// A change of a count in some groups at once: pane, groups, what is counted, by how much.
pub type Change = (Pane, Groups, What, i32);

/// What is counted of a reading or a patient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// A reading's score and label.
    Code(Value),
    /// A patient, by the panes until the next reading.
    Gap(Value),
}

impl What {
    /// The cells of the groups in `groups`.
    pub fn cells(self, groups: Groups) -> impl Iterator<Item = Cell> {
        each(groups).map(move |group| match self {
            What::Code(code) => Cell::new(Series::scores(group), code),
            What::Gap(gap) => Cell::new(Series::patients(group), gap),
        })
    }
}

/// One reading.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was measured.
    pub at: EventTime,
    /// The first 64 bits of its observation's pseudonym: enough among those of one patient.
    pub observation: u64,
    /// What scoring said.
    pub score: Score,
    /// The groups that it belongs to.
    pub groups: Groups,
}

/// Patients that are brought into the cache at once, see [`Ledger::warm`].
pub const WARM_PATIENTS: usize = 32;

/// Bit of a kept entry's groups: it came after the last save.
const UNSAVED: Groups = 1 << 31;
const ALL_GROUPS: Groups = (1 << GROUPS.len()) - 1;
const _: () = assert!(ALL_GROUPS & UNSAVED == 0 && size_of::<Entry>() == 24);

/// Where an entry stands among those of its patient: when, and the observation.
pub type Place = (EventTime, u64);

/// Everything of one patient.
#[derive(Debug, Default)]
struct Account {
    /// Ascending by (time, observation).
    entries: Vec<Entry>,
    /// Ascending by (time, id).
    labels: Vec<Label>,
    /// It is in the list of those to be saved.
    touched: bool,
}

/// Where a label ended (the table above).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The first of its id.
    New,
    /// It has taken the place of an earlier one.
    Correction,
    /// It has taken an earlier one back.
    Withdrawal,
    /// A higher version stands.
    Superseded,
    /// The same version stands.
    Duplicate,
    /// It is about forgotten panes.
    Late,
    /// Nothing is known of what it withdraws.
    Unfounded,
}

impl Ending {
    /// As it is counted.
    pub fn outcome(self) -> (Outcome, &'static str) {
        match self {
            Ending::New => (Outcome::Contributed, "outcome"),
            Ending::Correction => (Outcome::Contributed, "outcome_correction"),
            Ending::Withdrawal => (Outcome::Contributed, "outcome_withdrawal"),
            Ending::Superseded => (Outcome::Superseded, "outcome_version"),
            Ending::Duplicate => (Outcome::Duplicate, "outcome_version"),
            Ending::Late => (Outcome::Late, "outcome_horizon"),
            Ending::Unfounded => (Outcome::Ignored, "withdrawal_of_unknown_outcome"),
        }
    }
}

/// Patients with readings that stand, over all panes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// By group.
    pub of: [u64; GROUPS.len()],
    /// By attribute: those with a reading that is in none of its groups.
    pub without: [u64; ATTRIBUTES.len()],
}

/// All patients of one worker.
#[derive(Debug)]
pub struct Ledger {
    calendar: Calendar,
    /// For so long before its time a label holds.
    horizon: EventSpan,
    accounts: HashMap<Pseudonym, Account>,
    /// `None` until there was a save.
    unsaved: Option<Unsaved>,
    entries: usize,
    labels: usize,
    /// Entries and labels that were there after the last sweep.
    swept: usize,
}

/// What has changed since the last save, apart from entries that say so themselves.
#[derive(Debug, Default)]
struct Unsaved {
    touched: Vec<Pseudonym>,
    /// Readings taken back; some may have come again.
    gone: BTreeMap<Pseudonym, Vec<Place>>,
    labelled: BTreeSet<Pseudonym>,
}

/// What survives of one patient: entries that stand, those that do not or stand anew, and all labels if some have changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    patient: Pseudonym,
    standing: Vec<Entry>,
    gone: Vec<Place>,
    labels: Option<Vec<Label>>,
}

impl Saved {
    /// Whose.
    pub fn patient(&self) -> &Pseudonym {
        &self.patient
    }

    /// Whether what was read from outside can be worked with.
    pub fn is_sound(&self) -> bool {
        self.standing.iter().all(|entry| entry.groups <= ALL_GROUPS)
    }
}

impl Ledger {
    /// Nobody known yet. A label holds for the readings of `horizon` (positive, bounded) before its time.
    pub fn new(calendar: Calendar, horizon: EventSpan) -> Self {
        let accounts = HashMap::default();
        Ledger { calendar, horizon, accounts, unsaved: None, entries: 0, labels: 0, swept: 0 }
    }

    /// Readings kept.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Labels kept.
    pub fn labels(&self) -> usize {
        self.labels
    }

    /// Patients kept.
    pub fn patients(&self) -> usize {
        self.accounts.len()
    }

    /// How many patients have readings that stand.
    pub fn standing(&self) -> Standing {
        let mut standing = Standing::default();
        for account in self.accounts.values() {
            let groups = account.entries.iter().fold(0, |groups, entry| groups | entry.groups);
            each(groups & ALL_GROUPS).for_each(|group| standing.of[group] += 1);
            for (without, (_, groups)) in standing.without.iter_mut().zip(ATTRIBUTES) {
                let bits = groups.fold(0, |bits, group| bits | 1 << group);
                *without += u64::from(account.entries.iter().any(|entry| entry.groups & bits == 0));
            }
        }
        standing
    }

    /// Something of each patient's newest entry, for the cache's sake: one line after the other would be waited for, these come together.
    pub fn warm<'a>(&self, patients: impl Iterator<Item = &'a Pseudonym>) -> usize {
        let newest = |patient| self.accounts.get(patient).and_then(|account| account.entries.last());
        patients.filter_map(newest).filter(|entry| entry.groups & UNSAVED != 0).count()
    }

    /// Takes in a reading that is not here: an earlier version of it was removed.
    pub fn add(&mut self, patient: Pseudonym, entry: Entry, changes: &mut Vec<Change>) {
        let account = self.accounts.entry(patient).or_default();
        account.insert(entry, (&self.calendar, self.horizon), changes);
        self.entries += 1;
        note(&mut self.unsaved, patient, account);
    }

    /// Takes a reading back; one that is not known is none.
    pub fn remove(&mut self, patient: Pseudonym, observation: u64, changes: &mut Vec<Change>) {
        let Some(account) = self.accounts.get_mut(&patient) else { return };
        let Some(place) = account.remove(observation, (&self.calendar, self.horizon), changes) else { return };
        self.entries -= 1;
        if let Some(unsaved) = note(&mut self.unsaved, patient, account) {
            unsaved.gone.entry(patient).or_default().push(place);
        }
    }

    /// Has a reading count under other groups of its patient; what scoring said of it stays. One that is not known, or stands elsewhere by now, is none.
    pub fn regroup(&mut self, patient: Pseudonym, place: Place, of_patient: Groups, changes: &mut Vec<Change>) {
        let Some(account) = self.accounts.get_mut(&patient) else { return };
        let Ok(index) = account.entries.binary_search_by_key(&place, Account::order) else { return };
        account.regroup(index, of_patient, (&self.calendar, self.horizon), changes);
        if let Some(unsaved) = note(&mut self.unsaved, patient, account) {
            // What was saved of it goes when what it is now is taken in.
            unsaved.gone.entry(patient).or_default().push(place);
        }
    }

    /// Takes in a label; panes before `kept` are forgotten. Says where it ended, and appends the changes.
    pub fn label(&mut self, label: Label, kept: Pane, changes: &mut Vec<Change>) -> Ending {
        let start = self.calendar.start(kept);
        let known = self.accounts.get_mut(&label.patient).and_then(|account| {
            self.labels -= account.forget_labels(start);
            account.labels.iter().find(|other| other.id == label.id).copied()
        });
        let ending = match &known {
            Some(known) => precedence(known, &label),
            None if label.happened.is_none() => Ending::Unfounded,
            None if label.at <= start => Ending::Late,
            None => Ending::New,
        };
        let after = match (ending, known) {
            (Ending::Superseded | Ending::Duplicate, _) => return ending,
            (Ending::Late | Ending::Unfounded, _) if label.at <= start => return ending,
            (Ending::Withdrawal, Some(known)) => withdrawn(&known, label),
            _ => label,
        };
        let account = self.accounts.entry(label.patient).or_default();
        account.relabel(known, after, (&self.calendar, self.horizon), changes);
        self.labels += usize::from(known.is_none());
        if let Some(unsaved) = note(&mut self.unsaved, label.patient, account) {
            unsaved.labelled.insert(label.patient);
        }
        ending
    }

    /// Drops what lies in panes before `kept`, when as much has come since the last time as was left then: a constant cost for each reading.
    pub fn forget(&mut self, kept: Pane) {
        const ENTRIES_MIN: usize = 1_024;
        if self.entries + self.labels < 2 * self.swept.max(ENTRIES_MIN) {
            return;
        }
        let start = self.calendar.start(kept);
        self.accounts.values_mut().for_each(|account| {
            account.entries.drain(..account.entries.partition_point(|entry| entry.at < start));
            account.forget_labels(start);
        });
        self.recount();
    }

    /// Drops empty accounts, and counts what the others hold.
    fn recount(&mut self) {
        self.accounts.retain(|_, account| !account.entries.is_empty() || !account.labels.is_empty());
        self.entries = self.accounts.values().map(|account| account.entries.len()).sum();
        self.labels = self.accounts.values().map(|account| account.labels.len()).sum();
        self.swept = self.entries + self.labels;
    }

    /// Hands over what must survive: everything, or what was touched since the last call.
    pub fn save(&mut self, all: bool, mut take: impl FnMut(&Saved)) {
        let changed = self.unsaved.replace(Unsaved::default()).filter(|_| !all);
        let mut saved = Saved { patient: Pseudonym::default(), standing: Vec::new(), gone: Vec::new(), labels: None };
        let Some(Unsaved { touched, mut gone, labelled }) = changed else {
            for (patient, account) in &mut self.accounts {
                saved.patient = *patient;
                saved.labels = Some(account.labels.clone());
                account.save(true, &mut saved.standing);
                take(&saved);
            }
            return;
        };
        let nobody = &mut Account::default();
        for (at, patient) in touched.iter().enumerate() {
            if at % WARM_PATIENTS == 0 {
                std::hint::black_box(self.warm(touched[at..].iter().take(WARM_PATIENTS)));
            }
            let account = self.accounts.get_mut(patient).unwrap_or(nobody);
            saved.patient = *patient;
            // Who was forgotten meanwhile and came again is touched twice: the second time there is nothing left.
            saved.gone = gone.remove(patient).unwrap_or_default();
            saved.labels = labelled.contains(patient).then(|| account.labels.clone());
            account.save(false, &mut saved.standing);
            take(&saved);
        }
    }

    /// As many patients as there are, `times` again, are likely to be taken in.
    pub fn expect(&mut self, times: f64) {
        self.accounts.reserve((self.accounts.len() as f64 * times) as usize);
    }

    /// Takes in what was saved; it was counted then.
    pub fn load(&mut self, Saved { patient, standing, gone, labels }: Saved) {
        let account = self.accounts.entry(patient).or_default();
        if account.entries.is_empty() {
            account.entries = standing;
        } else {
            account.entries.retain(|entry| !gone.contains(&Account::order(entry)));
            account.entries.extend(standing);
        }
        account.entries.sort_unstable_by_key(Account::order);
        if let Some(labels) = labels {
            account.labels = labels;
        }
    }

    /// After the last block.
    pub fn loaded(&mut self) {
        self.recount();
    }
}

/// Notes that a patient is to be saved, once; where more of what has changed is noted, if it is.
fn note<'a>(unsaved: &'a mut Option<Unsaved>, patient: Pseudonym, account: &mut Account) -> Option<&'a mut Unsaved> {
    let unsaved = unsaved.as_mut()?;
    if !std::mem::replace(&mut account.touched, true) {
        unsaved.touched.push(patient);
    }
    Some(unsaved)
}

/// Where a label ends whose id is known.
fn precedence(known: &Label, label: &Label) -> Ending {
    let withdraws = label.happened.is_none();
    let same = || (known.happened, known.at) == (label.happened, label.at);
    match label.version.precedence(withdraws, (known.version, known.happened.is_none()), same) {
        Precedence::Newer if withdraws => Ending::Withdrawal,
        Precedence::Newer => Ending::Correction,
        Precedence::Superseded => Ending::Superseded,
        Precedence::Duplicate => Ending::Duplicate,
    }
}

/// What is kept of a withdrawal: the time of what it withdraws, for as long as that could come again; its version, if it says none.
fn withdrawn(known: &Label, label: Label) -> Label {
    let version = label.version.number().map_or(known.version, |_| label.version);
    Label { at: known.at, version, ..label }
}

impl Account {
    fn order(entry: &Entry) -> Place {
        (entry.at, entry.observation)
    }

    fn insert(&mut self, entry: Entry, rule: Rule<'_>, changes: &mut Vec<Change>) {
        self.count(&entry, 1, rule, changes);
        let place = match self.entries.last() {
            // Most readings are the patient's latest.
            Some(last) if Account::order(last) > Account::order(&entry) => {
                self.entries.partition_point(|other| Account::order(other) < Account::order(&entry))
            }
            _ => self.entries.len(),
        };
        self.entries.insert(place, Entry { groups: entry.groups | UNSAVED, ..entry });
    }

    /// Where it stood; `None` if there is no such reading.
    fn remove(&mut self, observation: u64, rule: Rule<'_>, changes: &mut Vec<Change>) -> Option<Place> {
        let place = self.entries.iter().rposition(|entry| entry.observation == observation)?;
        let entry = self.entries.remove(place);
        self.count(&entry, -1, rule, changes);
        Some(Account::order(&entry))
    }

    /// Has a reading count in other groups that are its patient's.
    fn regroup(&mut self, index: usize, of_patient: Groups, (calendar, horizon): Rule<'_>, changes: &mut Vec<Change>) {
        let Entry { at, score, groups: before, .. } = self.entries[index];
        let (before, after) = (before & ALL_GROUPS, before & ALL_GROUPS & !OF_PATIENT | of_patient);
        let (pane, code) = (calendar.pane_of(at), What::Code(score.code(self.label_of(at, horizon))));
        // Not among those of the groups that it leaves or comes to, as counting wants it.
        self.entries[index].groups = before & after;
        for (groups, sign) in
            [(before & !after, -1), (after & !before, 1)].into_iter().filter(|(groups, _)| *groups != 0)
        {
            changes.push((pane, groups, code, sign));
            self.count_among((pane, groups), sign, calendar, changes);
        }
        self.entries[index].groups = after | UNSAVED;
    }

    /// Counts a reading beside the others, or takes it back: it is not among them.
    fn count(&self, entry: &Entry, sign: i32, (calendar, horizon): Rule<'_>, changes: &mut Vec<Change>) {
        let (pane, groups) = (calendar.pane_of(entry.at), entry.groups & ALL_GROUPS);
        changes.push((pane, groups, What::Code(entry.score.code(self.label_of(entry.at, horizon))), sign));
        match self.entries.last() {
            // Nearly always a reading comes last, of a patient whose groups are what they were: one look, not a search.
            Some(last) if last.at <= entry.at && last.groups & groups == groups => {
                let previous = calendar.pane_of(last.at);
                if previous < pane {
                    count_patient((pane, groups), (Some(previous), None), sign, calendar, changes);
                }
            }
            _ => self.count_among((pane, groups), sign, calendar, changes),
        }
    }

    /// Counts the patient in a pane where it has a reading of these groups, or takes it back, among all others.
    fn count_among(&self, (pane, groups): (Pane, Groups), sign: i32, calendar: &Calendar, changes: &mut Vec<Change>) {
        let (start, end) = (calendar.start(pane), calendar.start(Pane(pane.0.saturating_add(1))));
        let before = self.entries.partition_point(|entry| entry.at < start);
        let after = before + self.entries[before..].partition_point(|entry| entry.at < end);
        let there = self.entries[before..after].iter().fold(0, |there, entry| there | entry.groups);
        // Whoever was there longer ago, or comes again later, than the longest gap counts as if he had not been there, or did not come.
        let reach = calendar.gap_max();
        let (first, end) =
            (calendar.start(Pane(pane.0.saturating_sub(reach))), calendar.start(Pane(pane.0.saturating_add(reach))));
        let first = self.entries[..before].partition_point(|entry| entry.at < first);
        let last = after + self.entries[after..].partition_point(|entry| entry.at < end);
        // Groups in which the patient comes and goes alike are counted at once: mostly all of them.
        let mut alike: SmallVec<[(Around, Groups); 4]> = SmallVec::new();
        for group in each(groups & !there).map(|group| 1 << group) {
            let of_group = |entry: &&Entry| entry.groups & group != 0;
            let previous =
                self.entries[first..before].iter().rev().find(of_group).map(|entry| calendar.pane_of(entry.at));
            let next = self.entries[after..last].iter().find(of_group).map(|entry| calendar.pane_of(entry.at));
            match alike.iter_mut().find(|(around, _)| *around == (previous, next)) {
                Some((_, groups)) => *groups |= group,
                None => alike.push(((previous, next), group)),
            }
        }
        for (around, groups) in alike {
            count_patient((pane, groups), around, sign, calendar, changes);
        }
    }

    /// Whether the outcome happened within `horizon` after `at`, as far as labels say: one that happened says so whatever others say.
    fn label_of(&self, at: EventTime, horizon: EventSpan) -> Option<bool> {
        let first = self.labels.partition_point(|label| label.at <= at);
        let holding = self.labels[first..].iter().take_while(|label| label.at - horizon <= at);
        holding.filter_map(|label| label.happened).max()
    }

    /// Puts a label in the place of what it was before, and counts the readings anew that either is about.
    fn relabel(&mut self, before: Option<Label>, after: Label, rule: Rule<'_>, changes: &mut Vec<Change>) {
        let (calendar, horizon) = rule;
        let other = before.map_or(after.at, |before| before.at);
        let place = |at: EventTime| self.entries.partition_point(|entry| entry.at < at);
        let about = place(after.at.min(other) - horizon)..place(after.at.max(other));
        let was: Vec<Option<bool>> =
            self.entries[about.clone()].iter().map(|entry| self.label_of(entry.at, horizon)).collect();
        self.labels.retain(|label| label.id != after.id);
        let place = self.labels.partition_point(|other| (other.at, other.id) < (after.at, after.id));
        self.labels.insert(place, after);
        for (entry, was) in self.entries[about].iter().zip(was) {
            let is = self.label_of(entry.at, horizon);
            if was != is {
                let pane = calendar.pane_of(entry.at);
                let groups = entry.groups & ALL_GROUPS;
                changes.push((pane, groups, What::Code(entry.score.code(was)), -1));
                changes.push((pane, groups, What::Code(entry.score.code(is)), 1));
            }
        }
    }

    /// Drops the labels that are about readings before `start` alone; how many.
    fn forget_labels(&mut self, start: EventTime) -> usize {
        self.labels.drain(..self.labels.partition_point(|label| label.at <= start)).count()
    }

    /// Copies all entries, or those that are not saved, and notes that they are.
    fn save(&mut self, all: bool, into: &mut Vec<Entry>) {
        into.clear();
        self.touched = false;
        for entry in self.entries.iter_mut().filter(|entry| all || entry.groups & UNSAVED != 0) {
            entry.groups &= ALL_GROUPS;
            into.push(*entry);
        }
    }
}

/// Where panes lie, and for how long before its time a label holds.
type Rule<'a> = (&'a Calendar, EventSpan);

/// The panes before and after in which a patient has readings of a group.
type Around = (Option<Pane>, Option<Pane>);

/// Counts a patient in a pane, or takes him back, between the panes where he was before and after.
fn count_patient(
    (pane, groups): (Pane, Groups),
    (previous, next): Around,
    sign: i32,
    calendar: &Calendar,
    changes: &mut Vec<Change>,
) {
    let gap = |from: Pane, to: Option<Pane>| {
        let max = calendar.gap_max();
        let panes = to.map_or(max, |to| to.0.saturating_sub(from.0).min(max));
        What::Gap(Value(panes as u16))
    };
    changes.push((pane, groups, gap(pane, next), sign));
    let Some(previous) = previous else { return };
    let (without, with) = (gap(previous, next), gap(previous, Some(pane)));
    if without != with {
        changes.push((previous, groups, without, -sign));
        changes.push((previous, groups, with, sign));
    }
}

/// How many patients have a reading in the panes before `end` that are given, by what is counted in each.
pub fn patients<'a>(panes: impl IntoIterator<Item = (Pane, &'a super::histogram::Histogram)>, end: Pane) -> u64 {
    let last_seen = |(pane, gaps): (Pane, &super::histogram::Histogram)| {
        let reaches = |(gap, _): &&(Value, i64)| i64::from(gap.0) >= end.0.saturating_sub(pane.0);
        gaps.as_slice().iter().filter(reaches).map(|(_, count)| count).sum::<i64>()
    };
    panes.into_iter().map(last_seen).sum::<i64>().max(0).unsigned_abs()
}

#[cfg(test)]
mod tests {
    //! Against a recount: after any order of readings, withdrawals, corrections and labels, every window has the patients and codes that stand.

    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::audit::histogram::{Cells, Counted, Histogram};
    use crate::audit::series::PATIENT_GROUPS;
    use crate::time::EventSpan;
    use crate::vocabulary::Version;

    const PANES: i64 = 30;

    const HORIZON: EventSpan = EventSpan::from_seconds(420);
    /// A group that follows from the score.
    const RISK: Groups = 1 << PATIENT_GROUPS;
    /// One that follows from the patient, though no feature of it is watched.
    const ILL: Groups = 1 << ATTRIBUTES[3].1.start;
    const ALL_KEPT: Pane = Pane(i64::MIN);

    fn calendar() -> Calendar {
        Calendar::new(EventSpan::from_seconds(120), EventSpan::from_seconds(60), 4)
    }

    fn empty() -> Ledger {
        Ledger::new(calendar(), HORIZON)
    }

    fn pseudonym(number: u8) -> Pseudonym {
        Pseudonym([number; 16])
    }

    fn at(rng: &mut ChaCha8Rng) -> EventTime {
        EventTime::from_micros(rng.random_range(0..PANES * 60) * 1_000_000)
    }

    /// What stands, said in the plainest way.
    #[derive(Default)]
    struct Naive {
        entries: BTreeMap<(u8, u64), Entry>,
        labels: BTreeMap<(u8, Pseudonym), Label>,
    }

    impl Naive {
        /// Positive if any label says so, else negative if any does.
        fn label_of(&self, patient: u8, at: EventTime) -> Option<bool> {
            let of = self.labels.iter().filter(|((whose, _), _)| *whose == patient).map(|(_, label)| label);
            let holding = of.filter(|label| label.at - HORIZON <= at && at < label.at);
            let said: Vec<bool> = holding.filter_map(|label| label.happened).collect();
            (!said.is_empty()).then(|| said.contains(&true))
        }

        /// The table of the module, read aloud.
        fn label(&mut self, patient: u8, label: Label) -> Outcome {
            let withdraws = label.happened.is_none();
            let Some(known) = self.labels.get_mut(&(patient, label.id)) else {
                if label.at > EventTime::MIN {
                    self.labels.insert((patient, label.id), label);
                }
                return if withdraws { Outcome::Ignored } else { Outcome::Contributed };
            };
            let (now, before) = (label.version.number(), known.version.number());
            let comparable = now.is_some() && before.is_some();
            let same = (known.happened, known.at) == (label.happened, label.at);
            let both = withdraws && known.happened.is_none();
            let alike = withdraws == known.happened.is_none();
            if comparable && now < before {
                return Outcome::Superseded;
            }
            if (comparable && now == before && alike) || (!comparable && (same || both)) {
                return Outcome::Duplicate;
            }
            if comparable && now == before && !withdraws {
                return Outcome::Superseded;
            }
            *known = match withdraws {
                true => Label {
                    happened: None,
                    version: if now.is_some() { label.version } else { known.version },
                    ..*known
                },
                false => label,
            };
            Outcome::Contributed
        }

        fn codes(&self, group: usize, pane: Pane) -> BTreeMap<Value, i64> {
            let mut codes = BTreeMap::new();
            for ((patient, _), entry) in &self.entries {
                if calendar().pane_of(entry.at) == pane && entry.groups & (1 << group) != 0 {
                    *codes.entry(entry.score.code(self.label_of(*patient, entry.at))).or_default() += 1;
                }
            }
            codes
        }

        fn patients(&self, group: usize, start: Pane, end: Pane) -> u64 {
            let within = |entry: &Entry| (start..end).contains(&calendar().pane_of(entry.at));
            let of = self.entries.iter().filter(|(_, entry)| within(entry) && entry.groups & (1 << group) != 0);
            of.map(|((patient, _), _)| patient).collect::<BTreeSet<_>>().len() as u64
        }
    }

    fn step(rng: &mut ChaCha8Rng, ledger: &mut Ledger, naive: &mut Naive, changes: &mut Vec<Change>) {
        let patient = rng.random_range(0..6);
        let observation = rng.random_range(0..12);
        match rng.random_range(0..10) {
            0 | 1 => {
                ledger.remove(pseudonym(patient), observation, changes);
                naive.entries.remove(&(patient, observation));
            }
            2 => {
                let of_patient = rng.random_range(1..8) | if rng.random_bool(0.5) { ILL } else { 0 };
                if let Some(entry) = naive.entries.get_mut(&(patient, observation)) {
                    entry.groups = entry.groups & RISK | of_patient;
                }
                let place = naive.entries.get(&(patient, observation)).map_or(at(rng), |entry| entry.at);
                ledger.regroup(pseudonym(patient), (place, observation), of_patient, changes);
            }
            3 | 4 => {
                let happened = [None, Some(false), Some(true)][rng.random_range(0..3)];
                let label = Label {
                    patient: pseudonym(patient),
                    id: pseudonym(rng.random_range(0..3)),
                    happened,
                    // A deletion does not say.
                    at: if happened.is_none() && rng.random_bool(0.5) { EventTime::MIN } else { at(rng) },
                    version: match rng.random_range(0..3) {
                        0 => Version::Unversioned,
                        _ => Version::Number(rng.random_range(1..5)),
                    },
                };
                let ending = ledger.label(label, ALL_KEPT, changes);
                assert_eq!(ending.outcome().0, naive.label(patient, label), "{label:?}");
            }
            _ => {
                let thousandths = rng
                    .random_bool(0.8)
                    .then(|| crate::audit::scores::Thousandths::of(f64::from(rng.random_range(0..4)) * 0.3));
                let score = Score { thousandths: thousandths.flatten(), selected: rng.random_bool(0.5), alarm: false };
                let groups = rng.random_range(1..8) | if rng.random_bool(0.5) { RISK } else { 0 };
                let entry = Entry { at: at(rng), observation, score, groups };
                ledger.remove(pseudonym(patient), observation, changes);
                ledger.add(pseudonym(patient), entry, changes);
                naive.entries.insert((patient, observation), entry);
            }
        }
    }

    fn check(naive: &Naive, changes: &[Change], context: &str) {
        let mut cells: BTreeMap<Pane, Vec<(Cell, i64)>> = BTreeMap::new();
        for (pane, groups, what, sign) in changes {
            cells.entry(*pane).or_default().extend(what.cells(*groups).map(|cell| (cell, i64::from(*sign))));
        }
        let cells: BTreeMap<Pane, Cells> =
            cells.into_iter().map(|(pane, counts)| (pane, Counted::from_counts(counts))).collect();
        let of = |series: Series| -> BTreeMap<Pane, Histogram> {
            let found = |cells: &Cells| cells.histograms().find(|(of, _)| *of == series).map(|(_, counts)| counts);
            cells.iter().filter_map(|(pane, cells)| Some((*pane, found(cells)?))).collect()
        };
        for group in (0..3).chain([RISK, ILL].map(|group| group.trailing_zeros() as usize)) {
            let (codes, gaps) = (of(Series::scores(group)), of(Series::patients(group)));
            for pane in (0..PANES).map(Pane) {
                let counted: BTreeMap<Value, i64> =
                    codes.get(&pane).into_iter().flat_map(|counts| counts.as_slice().iter().copied()).collect();
                assert_eq!(counted, naive.codes(group, pane), "{context} {pane:?}");
                for length in 1..=8 {
                    let end = Pane(pane.0 + length);
                    let counted = patients(gaps.range(pane..end).map(|(pane, gaps)| (*pane, gaps)), end);
                    assert_eq!(counted, naive.patients(group, pane, end), "{context} {pane:?} {length} group {group}");
                }
            }
        }
    }

    #[test]
    fn whatever_comes_in_whatever_order_what_stands_is_counted() {
        for seed in 0..30 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let (mut ledger, mut naive, mut changes) = (empty(), Naive::default(), Vec::new());
            for at in 0..80 {
                step(&mut rng, &mut ledger, &mut naive, &mut changes);
                if at % 20 == 19 {
                    check(&naive, &changes, &format!("seed {seed}, step {at}"));
                }
            }
            assert_eq!(ledger.entries(), naive.entries.len(), "seed {seed}");
            assert_eq!(ledger.labels(), naive.labels.len(), "seed {seed}");
        }
    }

    #[test]
    fn what_is_saved_goes_on_like_the_original() {
        for seed in 30..50 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let (mut ledger, mut naive, mut changes) = (empty(), Naive::default(), Vec::new());
            let mut saves = Vec::new();
            ledger.save(true, |saved| saves.push(saved.clone()));
            for at in 0..60 {
                step(&mut rng, &mut ledger, &mut naive, &mut changes);
                if at % 13 == 0 {
                    ledger.save(false, |saved| saves.push(saved.clone()));
                }
            }
            ledger.save(false, |saved| saves.push(saved.clone()));
            let mut again = empty();
            saves.into_iter().for_each(|saved| again.load(saved));
            again.loaded();
            assert_eq!((again.entries(), again.labels()), (ledger.entries(), ledger.labels()));
            for _ in 0..40 {
                step(&mut rng, &mut again, &mut naive, &mut changes);
            }
            check(&naive, &changes, &format!("seed {seed}"));
        }
    }

    #[test]
    fn entries_of_forgotten_panes_go_when_enough_has_come() {
        let mut ledger = empty();
        let mut changes = Vec::new();
        for number in 0..5_000_u64 {
            let at = EventTime::from_micros(number as i64 * 1_000_000);
            let entry = Entry { at, observation: number, score: Score::default(), groups: 1 };
            ledger.add(pseudonym((number % 7) as u8), entry, &mut changes);
            ledger.forget(calendar().pane_of(at + EventSpan::from_seconds(-600)));
            assert!(ledger.entries() <= 2_049, "{number}");
        }
        assert_eq!(ledger.patients(), 7);
    }
}
