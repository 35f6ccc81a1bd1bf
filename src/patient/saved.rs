//! What survives of patients: each is an entry in the block of its key group, as it stands; and the watermark is the first entry of every save
//! in every key group, because every worker needs it and any group may be the only one of its worker.
//!
//! Invariants:
//!
//! 1. An entry is all that is kept of its patient: a later one replaces it. Of contributions, which are many and hardly ever change, it may have only
//!    those since the patient's last entry, and says so: each is added, or replaces that of the same observation and partition. An entry names
//!    partitions and signals, not columns or [`PartitionId`]s, which are another worker's.
//! 2. A patient is saved again after it was touched: an input was about it, or a window of it closed at the end of all input. What else changes
//!    it (windows that close, what falls behind the horizon) follows from the watermark, and is done again when everything is loaded.
//! 3. Conditions are an entry of their own beside the patient's, whole, when one of them has changed: most patients have none.
//! 4. The places of the sweep and of patients on a worker do not survive: nothing that is emitted depends on them.
//!
//! Bytes, as a test measures them: about 105 a patient at rest with a ring of 12 readings, and 60 each contribution of three signals.
//! In memory: a bit a patient, and 20 bytes for each that was touched since the last save.
//! Limits: what is read from a block takes at most 60 times its bytes. More patients than `patient.patients_max` are loaded; a new one is then refused.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::conditions::Kept;
use super::contributions::{Contributions, Version};
use super::history::{Chain, Slot};
use super::state::{Active, Patient};
use super::window::{Whose, Windows};
use super::{Closings, Conditions, Patients, Settings, WARM_PATIENTS, state};
use crate::runtime::survive::{Blocks, Corrupt, Extent, KEY_GROUPS, Survive, entries, key_group};
use crate::signals::SignalId;
use crate::time::EventTime;
use crate::vocabulary::flaws::Flaws;
use crate::vocabulary::{self, Demographics, Measured, Partition, Pseudonym, Sex, Status};
use crate::watermark::{PartitionId, SavedWatermark, Watermark};

const CORRUPT: Corrupt = Corrupt { what: "patient" };

/// Above the flags that are saved: none of them is higher than [`Version::UNSAVED`].
const FLAWS_BIT: u32 = 7;

/// Above the flaws: the number of comorbidities under which audit counted the version, and one more; 0 if it is not known.
const COMORBIDITIES_BIT: u32 = 16;

/// Most revisions of one window that are believed.
const REVISIONS_MAX: u32 = 1 << 31;

/// One thing in a block, borrowed when it is written.
#[derive(Serialize, Deserialize)]
enum Entry<W, P, C> {
    Watermark(W),
    Patient(P),
    Conditions(C),
}

/// What is known of a patient by Patient resources: how many comorbidities there are follows from the conditions.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct SavedDemographics {
    birth_year: Option<i16>,
    sex: Sex,
    version: vocabulary::Version,
}

/// All conditions of one patient, in place of those in earlier entries.
#[derive(Serialize, Deserialize)]
struct SavedConditions<K> {
    patient: Pseudonym,
    conditions: K,
}

/// One patient: lists laid end to end, so that one buffer serves all. Those that are short as a rule are in place: a million patients are read at a start.
#[derive(Default, Serialize, Deserialize)]
struct SavedPatient {
    patient: Pseudonym,
    demographics: Option<SavedDemographics>,
    /// Those that chains and versions are of, which name them by place.
    partitions: SmallVec<[Partition; 1]>,
    chains: SmallVec<[SavedChain; 1]>,
    slots: Vec<Slot>,
    /// The versions are to be added to those in earlier entries.
    added: bool,
    versions: Vec<SavedVersion>,
    measured: Vec<Measured>,
    open: SmallVec<[EventTime; 2]>,
    revisions: Vec<(EventTime, u32)>,
}

#[derive(Serialize, Deserialize)]
struct SavedChain {
    partition: u32,
    origin_minutes: i32,
    /// How many of the slots are its own.
    slots: u32,
}

#[derive(Serialize, Deserialize)]
struct SavedVersion {
    observation: Pseudonym,
    at: EventTime,
    version: vocabulary::Version,
    partition: u32,
    birth_year: Option<i16>,
    sex: Sex,
    status: Status,
    /// The version's flags, from [`FLAWS_BIT`] on its flaws, from [`COMORBIDITIES_BIT`] on these. One byte where there are none: what was saved before they were
    /// known stays readable.
    flags: u32,
    /// How many of the measured values are its own.
    measured: u8,
}

/// The patients that were touched since the last save. Kept from the first save or load on: before, everything is to be saved.
#[derive(Debug, Default)]
pub(super) struct Touched {
    kept: bool,
    /// A bit for each place of a patient.
    marks: Vec<u64>,
    list: Vec<Whose>,
    /// Places of those whose contributions are to be saved anew, whole.
    rewritten: BTreeSet<u32>,
    /// Places of those whose conditions have changed.
    conditions: BTreeSet<u32>,
}

impl Touched {
    /// Notes one, once.
    pub(super) fn touch(&mut self, whose: Whose) {
        if !self.kept {
            return;
        }
        let (word, bit) = (whose.index as usize / 64, 1 << (whose.index % 64));
        if word >= self.marks.len() {
            self.marks.resize(word + 1, 0);
        }
        if self.marks[word] & bit == 0 {
            self.marks[word] |= bit;
            self.list.push(whose);
        }
    }

    /// Notes that a contribution has gone of one that was touched: what was saved of its contributions is not to be added to.
    pub(super) fn rewrite(&mut self, index: u32) {
        if self.kept {
            self.rewritten.insert(index);
        }
    }

    /// Notes that a condition has changed of one that was touched.
    pub(super) fn change_conditions(&mut self, index: u32) {
        if self.kept {
            self.conditions.insert(index);
        }
    }

    /// All since the last call, and the places of those to be saved whole; `None` if that is not known.
    fn take(&mut self) -> Option<Changed> {
        let (list, rewritten) = (std::mem::take(&mut self.list), std::mem::take(&mut self.rewritten));
        let changed = Changed { list, rewritten, conditions: std::mem::take(&mut self.conditions) };
        self.marks.fill(0);
        std::mem::replace(&mut self.kept, true).then_some(changed)
    }
}

/// What was touched between two saves.
struct Changed {
    list: Vec<Whose>,
    rewritten: BTreeSet<u32>,
    conditions: BTreeSet<u32>,
}

impl Survive for Patients {
    fn save(&mut self, extent: Extent, into: &mut Blocks) {
        let watermark = self.watermark.saved();
        let touched = self.touched.take().filter(|_| extent == Extent::Changed);
        for group in (self.share.worker as u64..KEY_GROUPS).step_by(self.share.workers.max(1)) {
            into.push(group, &Entry::<_, (), ()>::Watermark(&watermark));
        }
        match touched {
            Some(Changed { list, rewritten, conditions }) => {
                let list = list.iter().copied();
                self.save_each(list, |index, _| (rewritten.contains(&index), conditions.contains(&index)), into);
            }
            None => {
                let index = std::mem::take(&mut self.index);
                let everybody = index.iter().map(|(patient, index)| Whose { patient: *patient, index: *index });
                self.save_each(everybody, |index, conditions| (true, !conditions.of(index).is_empty()), into);
                self.index = index;
            }
        }
    }

    fn load(&mut self, block: &[u8]) -> Result<(), Corrupt> {
        entries(block, CORRUPT.what, |entry| match entry {
            Entry::Watermark(saved) => {
                let saved: SavedWatermark = saved;
                self.watermark.restore(saved);
                Ok(())
            }
            Entry::Patient(saved) => self.put(saved),
            Entry::Conditions(saved) => self.put_conditions(saved),
        })
    }

    fn expect(&mut self, times: f64) {
        self.index.reserve((self.index.len() as f64 * times) as usize);
    }

    /// What follows from the watermark: windows that closed meanwhile, and what has fallen behind the horizon.
    fn loaded(&mut self) {
        let reached = self.watermark.reached();
        let until = self.until();
        (self.closings, self.contributions) = (Closings::default(), 0);
        for (patient, index) in &self.index {
            let state = self.slab.get_mut(*index);
            state.forget(reached, until, self.settings.signals.len());
            self.contributions += state.contributions();
            let Some(active) = &mut state.active else { continue };
            active.windows.open.retain(|end| *end > reached);
            let whose = Whose { patient: *patient, index: *index };
            active.windows.open.iter().for_each(|end| self.closings.wait(*end, whose));
        }
        for index in self.conditions.patients() {
            self.slab.get_mut(index).suffer(self.conditions.count(index), &self.settings);
        }
        self.touched.take();
    }
}

impl Patients {
    /// Saves these; `what` says of a place whether its contributions are saved whole, and whether its conditions are.
    fn save_each(
        &mut self,
        mut whose: impl Iterator<Item = Whose>,
        what: impl Fn(u32, &Conditions) -> (bool, bool),
        into: &mut Blocks,
    ) {
        let (mut saved, mut next) = (SavedPatient::default(), SmallVec::<[Whose; WARM_PATIENTS]>::new());
        loop {
            next.clear();
            next.extend(whose.by_ref().take(WARM_PATIENTS));
            if next.is_empty() {
                return;
            }
            self.slab.warm(next.iter().map(|whose| whose.index), Patient::touch_active);
            for Whose { patient, index } in &next {
                let (whole, conditions) = what(*index, &self.conditions);
                saved.fill(*patient, self.slab.get_mut(*index), whole, &self.watermark, &self.settings);
                into.push(key_group(patient.hash64()), &Entry::<(), _, ()>::Patient(&saved));
                if conditions {
                    let saved = SavedConditions { patient: *patient, conditions: self.conditions.of(*index) };
                    into.push(key_group(patient.hash64()), &Entry::<(), (), _>::Conditions(&saved));
                }
            }
        }
    }

    /// What was measured before can change no window any more.
    fn until(&self) -> EventTime {
        self.watermark.frozen(self.settings.horizon) - self.settings.grid.window
    }

    /// Puts a saved patient in its place, or in that of what was loaded of it before.
    fn put(&mut self, saved: SavedPatient) -> Result<(), Corrupt> {
        let index = self.seat(saved.patient)?;
        let place = self.slab.get_mut(index);
        let before = std::mem::take(place).active.filter(|_| saved.added);
        let before = before.map_or_else(Contributions::default, |active| active.contributions);
        *place = saved.restore(before, &mut self.watermark, &self.settings)?;
        Ok(())
    }

    /// Puts saved conditions in place of those that were loaded before. A flow that takes none any more has no use for them.
    fn put_conditions(&mut self, saved: SavedConditions<Vec<Kept>>) -> Result<(), Corrupt> {
        if !self.settings.takes_conditions() {
            return Ok(());
        }
        let index = self.seat(saved.patient)?;
        self.conditions.put(index, saved.conditions).then_some(()).ok_or(CORRUPT)
    }

    /// Where a patient is that was saved; a new one gets a place.
    fn seat(&mut self, patient: Pseudonym) -> Result<u32, Corrupt> {
        match self.index.get(&patient) {
            Some(index) => Ok(*index),
            None if self.slab.len() < u32::MAX as usize => {
                let index = self.slab.add();
                self.index.insert(patient, index);
                Ok(index)
            }
            None => Err(CORRUPT),
        }
    }
}

impl From<Demographics> for SavedDemographics {
    fn from(Demographics { birth_year, sex, version, .. }: Demographics) -> Self {
        SavedDemographics { birth_year, sex, version }
    }
}

impl SavedDemographics {
    /// Conditions are put beside them when everything is loaded.
    fn restore(self, settings: &Settings) -> Demographics {
        let SavedDemographics { birth_year, sex, version } = self;
        Demographics { birth_year, sex, version, ..settings.nobody }
    }
}

impl SavedPatient {
    /// Takes what is kept of a patient, in place of what is here: all of it, or of contributions what was not saved yet.
    fn fill(
        &mut self,
        patient: Pseudonym,
        state: &mut Patient,
        whole: bool,
        watermark: &Watermark,
        settings: &Settings,
    ) {
        self.clear();
        self.added = !whole;
        (self.patient, self.demographics) = (patient, state.demographics.map(SavedDemographics::from));
        for chain in &state.chains {
            let partition = self.place(watermark.partition(chain.partition));
            self.slots.extend_from_slice(&chain.ring);
            let slots = chain.ring.len() as u32;
            self.chains.push(SavedChain { partition, origin_minutes: chain.origin_minutes, slots });
        }
        let Some(active) = &mut state.active else { return };
        let until = watermark.frozen(settings.horizon) - settings.grid.window;
        // What was not saved yet may stand for something that was: it is saved wherever it lies.
        let first = if whole { active.contributions.between(until, EventTime::MAX).start } else { 0 };
        for place in first..active.contributions.len() {
            let version = active.contributions.get_mut(place);
            if whole || version.is(Version::UNSAVED) {
                version.set(Version::UNSAVED, false);
                let version = *version;
                self.add(&version, active.contributions.values(place, settings.signals.len()), watermark, settings);
            }
        }
        let reached = watermark.reached();
        self.open.extend(active.windows.open.iter().copied().filter(|end| *end > reached));
        self.revisions.extend(active.windows.revisions.iter().filter(|(end, _)| *end > until));
    }

    fn clear(&mut self) {
        self.partitions.clear();
        self.chains.clear();
        self.slots.clear();
        self.versions.clear();
        self.measured.clear();
        self.open.clear();
        self.revisions.clear();
    }

    /// The place of a partition among those named here.
    fn place(&mut self, partition: Partition) -> u32 {
        let place = self.partitions.iter().position(|other| *other == partition).unwrap_or_else(|| {
            self.partitions.push(partition);
            self.partitions.len() - 1
        });
        place as u32
    }

    fn add(&mut self, version: &Version, values: &[f64], watermark: &Watermark, settings: &Settings) {
        let partition = self.place(watermark.partition(version.partition));
        let before = self.measured.len();
        let measured = settings.signals.iter().zip(values).filter(|(_, value)| !value.is_nan());
        self.measured.extend(measured.map(|(signal, value)| Measured { signal: *signal, value: *value }));
        let Version { observation, at, version, birth_year, sex, comorbidities, status, flags, flaws, .. } = *version;
        let comorbidities = comorbidities.map_or(0, |count| u32::from(count) + 1);
        let measured = (self.measured.len() - before) as u8;
        self.versions.push(SavedVersion {
            observation,
            at,
            version,
            partition,
            birth_year,
            sex,
            status,
            flags: u32::from(flags) | u32::from(flaws.bits()) << FLAWS_BIT | comorbidities << COMORBIDITIES_BIT,
            measured,
        });
    }

    /// The patient, with the numbers that partitions have on this worker, and the contributions that earlier entries had.
    fn restore(
        mut self,
        before: Contributions,
        watermark: &mut Watermark,
        settings: &Settings,
    ) -> Result<Patient, Corrupt> {
        let partitions: SmallVec<[PartitionId; 2]> =
            self.partitions.iter().map(|partition| watermark.past_id(*partition)).collect();
        let named = |place: u32| partitions.get(place as usize).copied().ok_or(CORRUPT);
        let demographics = self.demographics.map(|saved| saved.restore(settings));
        let mut patient = Patient { demographics, ..Patient::default() };
        patient.chains.reserve_exact(self.chains.len());
        for SavedChain { partition, origin_minutes, slots } in std::mem::take(&mut self.chains) {
            let partition = named(partition)?;
            let ring = self.ring(slots as usize, settings)?;
            patient.chains.push(Chain { partition, origin_minutes, ring });
        }
        let contributions = self.contributions(before, named, settings)?;
        let windows = self.windows()?;
        if contributions.len() > 0 || !windows.is_empty() {
            patient.active = Some(Box::new(Active { contributions, windows }));
        }
        Ok(patient)
    }

    /// The next so many slots. If the flow now asks for fewer readings, the oldest are left out.
    fn ring(&mut self, slots: usize, settings: &Settings) -> Result<Box<[Slot]>, Corrupt> {
        if slots == self.slots.len() && slots <= settings.baseline_readings {
            // The only chain, as a rule: nothing is copied.
            return Ok(std::mem::take(&mut self.slots).into());
        }
        if slots > self.slots.len() {
            return Err(CORRUPT);
        }
        let own = self.slots.drain(..slots);
        let left_out = slots.saturating_sub(settings.baseline_readings);
        Ok(own.skip(left_out).collect())
    }

    /// Those `before` and, in place of the same or beside them, those of this entry.
    fn contributions(
        &self,
        before: Contributions,
        named: impl Fn(u32) -> Result<PartitionId, Corrupt>,
        settings: &Settings,
    ) -> Result<Contributions, Corrupt> {
        let (mut contributions, stride) = (before, settings.signals.len());
        contributions.expect(self.versions.len(), stride);
        let mut measured = self.measured.as_slice();
        let mut values: SmallVec<[f64; 8]> = SmallVec::from_elem(f64::NAN, stride);
        for saved in &self.versions {
            values.fill(f64::NAN);
            for Measured { signal, value } in take(&mut measured, usize::from(saved.measured))? {
                // A signal that the flow has no column for any more is left out.
                if let Some(column) = column(settings, *signal) {
                    values[column] = *value;
                }
            }
            let SavedVersion { observation, at, version, partition, birth_year, sex, status, flags, .. } = *saved;
            let comorbidities = u8::try_from(flags >> COMORBIDITIES_BIT).map_err(|_| CORRUPT)?.checked_sub(1);
            let flags = flags as u16;
            let flaws = Flaws::standing(flags >> FLAWS_BIT).ok_or(CORRUPT)?;
            let flags = (flags & ((1 << FLAWS_BIT) - 1)) as u8;
            let partition = named(partition)?;
            let version =
                Version { observation, at, version, partition, birth_year, sex, comorbidities, status, flags, flaws };
            contributions.replace(version, &values);
        }
        Ok(contributions)
    }

    fn windows(self) -> Result<Windows, Corrupt> {
        let ascending = self.open.is_sorted_by(|a, b| a < b) && self.revisions.is_sorted_by(|a, b| a.0 < b.0);
        if !ascending || self.revisions.iter().any(|(_, count)| *count > REVISIONS_MAX) {
            return Err(CORRUPT);
        }
        Ok(Windows { open: self.open, revisions: self.revisions.into() })
    }
}

fn column(settings: &Settings, signal: SignalId) -> Option<usize> {
    state::column(&settings.signals, signal)
}

/// The next few of a list.
fn take<'a, T>(list: &mut &'a [T], count: usize) -> Result<&'a [T], Corrupt> {
    let (taken, rest) = list.split_at_checked(count).ok_or(CORRUPT)?;
    *list = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flags had 16 bits, demographics three members, and there were no conditions.
    #[test]
    fn what_was_saved_before_there_were_conditions_stays_readable() {
        let (at, version) = (EventTime::from_micros(7), vocabulary::Version::Number(2));
        let before =
            (Pseudonym([3; 16]), at, version, 1_u32, Some(1950_i16), Sex::Male, Status::Final, 0x7fff_u16, 2_u8);
        let read: SavedVersion = postcard::from_bytes(&postcard::to_allocvec(&before).unwrap()).unwrap();
        assert_eq!((read.flags, read.measured, read.birth_year), (0x7fff, 2, Some(1950)));
        let before = (Some(1950_i16), Sex::Female, version);
        let read: SavedDemographics = postcard::from_bytes(&postcard::to_allocvec(&before).unwrap()).unwrap();
        assert_eq!((read.birth_year, read.sex, read.version), before);
    }
}
