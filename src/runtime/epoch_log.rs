//! The one log: what was read as which epoch, what is saved, and who may say so.
//!
//! ```text
//! log/…01  Seal g1      log/…04  Claims 8-9         log/…07  Seal g2    <─ g1 loses its next append: it is fenced
//! log/…02  Claims 1-4   log/…05  Checkpoint 4       log/…08  Claims 12
//! log/…03  Claims 5-7   log/…06  Claims 10-11
//! ```
//!
//! Invariants:
//!
//! 1. Entries are numbered without gaps, each is created once ([`Store::create`](super::store::Store::create)) and never changed. Whoever creates number n decided.
//! 2. Between two seals all entries are of the writer of the first. A new writer's first entry is its seal; so an older one loses its next
//!    append, and knows that it is fenced.
//! 4. Claimed epochs ascend, and so do the checkpoints of one generation. A checkpoint of a later generation gives up those before it that are not
//!    older: they were fallen back behind.
//! 3. A seal is never removed: it stands where the writer before it will try to append, however late.
//! 5. An entry says where the log began when it was written. What is below is not looked at, and may be removed in any order and come back; what is
//!    missing from there on is a loss, and refused.
//! 6. Kept is what the newest checkpoints need: their state files, those of the bases that they are changes to, and every claim after the
//!    oldest of them. So falling back from a checkpoint whose state is damaged loses nothing.
//!
//! Limits: an entry of more than [`ENTRY_BYTES_MAX`] is refused. An entry is a request to the store and a wait for it: claim several epochs in one.
//! Entries are not authenticated; whoever can write to the store can write to the log.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::identified::Mark;
use crate::runtime::failpoint::{self, Guard};
use crate::runtime::state_files;
use crate::runtime::store::{SharedStore, Store, StoreError};
use crate::sink::StagedFile;
use crate::time::Epoch;
use crate::vocabulary::{Partition, TopicId};

mod envelope;
mod facts;
#[cfg(test)]
mod tests;

pub use envelope::ENTRY_BYTES_MAX;
use envelope::{Begin, Envelope, Writer};
use facts::Facts;

/// What names of entries begin with.
const FOLDER: &str = "log/";

/// Successors that race for the same number begin again this often. Each time somebody won.
const TAKE_OVERS_MAX: usize = 64;

/// An entry of the log.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum Entry {
    /// A start.
    Seal(Seal),
    /// Epochs, ascending, and what was read in them.
    Claims(Vec<Claim>),
    /// Everything up to an epoch is applied, saved and staged.
    Checkpoint(Checkpoint),
}

/// A start: from here on only this generation appends.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Seal {
    /// Counts starts, from 1. [`EpochLog::take_over`] sets it.
    pub generation: u64,
    /// Workers of the job.
    pub workers: u32,
    /// Processes of the job.
    pub processes: u32,
    /// Topics by [`TopicId`](crate::vocabulary::TopicId), as it is meant by the entries up to the next seal.
    pub topics: Vec<String>,
    /// Digests of what results depend on, by name: flow, model, key.
    pub digests: BTreeMap<String, String>,
    /// True if epochs are repeated at this start.
    pub replay: bool,
}

/// The input cut of an epoch.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Claim {
    /// Which epoch.
    pub epoch: Epoch,
    /// Partitions that are new here, and their first offset.
    pub starts: Vec<(Partition, i64)>,
    /// Partitions of which something was read, and the offset after it.
    pub cuts: Vec<(Partition, i64)>,
    /// What happened to partitions, after what was read.
    pub marks: Vec<PartitionMark>,
}

/// [`Mark`], which like everything identified cannot be written down.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionMark {
    /// It will be read.
    Opened(Partition),
    /// It has been empty for a while.
    Idle(Partition),
    /// It has ended.
    Ended(Partition),
}

impl PartitionMark {
    /// Which partition.
    pub fn partition(self) -> Partition {
        let (PartitionMark::Opened(partition) | PartitionMark::Idle(partition) | PartitionMark::Ended(partition)) =
            self;
        partition
    }
}

impl From<Mark> for PartitionMark {
    fn from(mark: Mark) -> Self {
        match mark {
            Mark::Opened(partition) => PartitionMark::Opened(partition),
            Mark::Idle(partition) => PartitionMark::Idle(partition),
            Mark::Ended(partition) => PartitionMark::Ended(partition),
        }
    }
}

impl From<PartitionMark> for Mark {
    fn from(mark: PartitionMark) -> Self {
        match mark {
            PartitionMark::Opened(partition) => Mark::Opened(partition),
            PartitionMark::Idle(partition) => Mark::Idle(partition),
            PartitionMark::Ended(partition) => Mark::Ended(partition),
        }
    }
}

/// Everything up to and including `epoch` is applied, its state is saved, its rows are settled or staged.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Up to which epoch.
    pub epoch: Epoch,
    /// Whose it is.
    pub generation: u64,
    /// `None`: it is a base itself. Else the checkpoint that it holds changes to, or the base at the beginning of those changes:
    /// all checkpoints from there on are needed to read it ([`History::chain`]). The first of a start is a base.
    pub base: Option<Epoch>,
    /// Its state files.
    pub parts: Vec<StatePart>,
    /// Sink files that are committed with it.
    pub staged: Vec<StagedFile>,
    /// Partitions and the offset up to which they are read.
    pub ends: Vec<(Partition, i64)>,
    /// Outcome counters by name, from the beginning of the job on.
    pub counters: BTreeMap<String, u64>,
}

/// A state file that a checkpoint needs, as it must be found.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct StatePart {
    /// The object's name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// The checksum of all of its bytes.
    pub crc32c: u32,
}

/// What a start finds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The generation of this start.
    pub generation: u64,
    /// Seals in force since the oldest checkpoint that is kept, oldest first; that of this start is not among them.
    pub seals: Vec<Seal>,
    /// Checkpoints that are kept, oldest first. Any of them can be gone back to.
    pub checkpoints: Vec<Checkpoint>,
    /// Claims after the newest checkpoint, ascending.
    pub claims: Vec<Claim>,
    /// Claims before those and after the oldest checkpoint, ascending.
    pub earlier: Vec<Claim>,
    /// The highest epoch that was claimed or saved.
    pub last_epoch: Option<Epoch>,
}

impl History {
    /// Claims after an epoch, ascending: what is to be repeated from a checkpoint on.
    pub fn claims_since(&self, epoch: Epoch) -> Vec<Claim> {
        self.earlier.iter().chain(&self.claims).filter(|claim| claim.epoch > epoch).cloned().collect()
    }

    /// True if nothing was ever read: starts alone leave nothing to go on from.
    pub fn is_blank(&self) -> bool {
        self.checkpoints.is_empty() && self.claims.is_empty()
    }

    /// Partitions of which the newest checkpoint or a later claim knows an offset.
    pub fn partitions_read(&self) -> BTreeSet<Partition> {
        let saved = self.checkpoints.last().into_iter().flat_map(|checkpoint| &checkpoint.ends);
        let claimed = self.claims.iter().flat_map(|claim| claim.starts.iter().chain(&claim.cuts));
        saved.chain(claimed).map(|(partition, _)| *partition).collect()
    }

    /// Topics of which the newest checkpoint or a later claim says that something was read, of those that begin at offset 0.
    pub fn topics_read(&self) -> BTreeSet<TopicId> {
        let saved = self.checkpoints.last().into_iter().flat_map(|checkpoint| &checkpoint.ends);
        let claimed = self.claims.iter().flat_map(|claim| &claim.cuts);
        let read = saved.chain(claimed).filter(|(_, end)| *end > 0);
        read.map(|(partition, _)| partition.topic).collect()
    }

    /// The checkpoints whose state files make up the state of one of them, in the order in which they are to be loaded.
    pub fn chain(&self, checkpoint: &Checkpoint) -> Vec<&Checkpoint> {
        facts::chain(&self.checkpoints, checkpoint)
    }
}

/// Why the log did not do what it should.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LogError {
    /// Another process has taken over. This one must end and touch nothing any more.
    #[error(
        "another process has taken over this job: generation {by} has sealed the log of generation {generation} (only one process may run on one state.path)"
    )]
    Fenced {
        /// Ours.
        generation: u64,
        /// Whose seal was found.
        by: u64,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object is not what it should be. Nothing is guessed.
    #[error(
        "{name} in state.path {why} (restore it from a copy, or give the state up: begin with an empty state.path and new folders of the sinks)"
    )]
    Corrupt {
        /// The object's name.
        name: String,
        /// What is wrong with it: `is missing`, `has a wrong checksum`.
        why: String,
    },
    /// What was asked for cannot be done with this log. A sentence with a hint.
    #[error("{0}")]
    Refused(String),
}

/// The log, sealed by this process.
pub struct EpochLog {
    store: SharedStore,
    writer: Writer,
    generation: u64,
    /// The number of the next entry.
    next: u64,
    facts: Facts,
    /// Entries from here on were read or written.
    read_from: u64,
    /// Where the log begins, as the newest entry says.
    recorded: Begin,
    /// Where the next entry will say that it begins.
    begin: Begin,
    /// An entry of which it is not known whether it was created. It is first to be.
    pending: Option<Envelope>,
}

impl EpochLog {
    /// Reads the log and seals it; begins again when somebody else appends meanwhile.
    ///
    /// `seal` makes the entry from what was read; its generation is set here.
    ///
    /// # Errors
    /// [`LogError::Refused`] with the text of `seal`; [`LogError::Corrupt`] for a log with a hole or a damaged entry; after an unavailable store
    /// the whole call may be repeated (a seal that was created all the same is followed by another, which does no harm).
    pub fn take_over(
        store: SharedStore,
        mut seal: impl FnMut(&History) -> Result<Seal, String>,
    ) -> Result<(EpochLog, History), LogError> {
        for _ in 0..TAKE_OVERS_MAX {
            let (facts, history, begin) = read(store.as_ref())?;
            let seal = Seal { generation: history.generation, ..seal(&history).map_err(LogError::Refused)? };
            let mut log = EpochLog {
                store: store.clone(),
                writer: Writer::random()?,
                generation: history.generation,
                next: facts.newest + 1,
                facts,
                read_from: begin.entry,
                recorded: begin,
                begin,
                pending: None,
            };
            match log.append(&Entry::Seal(seal)) {
                Err(LogError::Fenced { .. }) => continue,
                sealed => sealed?,
            }
            log.prove_exclusive()?;
            return Ok((log, history));
        }
        Err(LogError::Refused(format!(
            "could not take over the log: {TAKE_OVERS_MAX} times another process was faster (only one process may run on one state.path)"
        )))
    }

    /// Our generation.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The name of the newest entry that this process has appended.
    pub fn newest(&self) -> String {
        name(self.next - 1)
    }

    /// Appends an entry; when it returns, the entry is durable and nobody had taken over.
    ///
    /// # Errors
    /// After an unavailable store the entry may be in the log or not: call again with the same entry. It stays first in line: a call
    /// with another entry appends it before. [`LogError::Fenced`] when the next number is taken by another generation.
    /// [`LogError::Refused`] for an entry that breaks the log's order; nothing is appended.
    pub fn append(&mut self, entry: &Entry) -> Result<(), LogError> {
        if let Some(pending) = self.pending.clone() {
            self.create(&pending)?;
            if pending.entry == *entry {
                return Ok(());
            }
        }
        self.facts
            .check(self.generation, entry)
            .map_err(|why| LogError::Refused(format!("could not append: {why}")))?;
        let envelope = Envelope {
            number: self.next,
            generation: self.generation,
            writer: self.writer.clone(),
            begin: self.begin,
            entry: entry.clone(),
        };
        self.create(&envelope)
    }

    /// Creates the next entry, or finds that it is there.
    fn create(&mut self, envelope: &Envelope) -> Result<(), LogError> {
        let (name, bytes) = (name(envelope.number), envelope.encode()?);
        let (before, after) = places(&envelope.entry);
        self.pending = Some(envelope.clone());
        failpoint::hit(before);
        if !self.store.create(&name, &bytes)? {
            let found = self.store.get(&name)?.ok_or_else(|| corrupt(&name, "is taken, and yet not there"))?;
            let found = Envelope::decode(&name, &found)?;
            if found != *envelope && !Guard::Fence.holds() {
                return self.create(&Envelope { number: envelope.number + 1, ..envelope.clone() });
            }
            if found != *envelope {
                return Err(LogError::Fenced { generation: self.generation, by: found.generation });
            }
        }
        failpoint::hit(after);
        self.pending = None;
        self.next = envelope.number + 1;
        self.recorded = envelope.begin;
        self.facts.apply(envelope.number, envelope.generation, &envelope.entry);
        Ok(())
    }

    /// Creates the seal once more, which must fail: in a store that overwrites, nobody would ever be fenced.
    fn prove_exclusive(&self) -> Result<(), LogError> {
        let name = name(self.next - 1);
        let Some(bytes) = self.store.get(&name)? else {
            return Err(corrupt(&name, "is not there after it was created"));
        };
        if self.store.create(&name, &bytes)? {
            return Err(LogError::Refused(
                "the store of state.path overwrites what it is asked to create only if it is not there: use one with conditional writes (If-None-Match)".into(),
            ));
        }
        Ok(())
    }

    /// Removes entries and state files that neither the newest `keep` checkpoints need nor those that they hold changes to.
    ///
    /// What is not needed any more is said by the next entry, and removed by the call after that: so a loss of power that
    /// brings back some of what was removed does not make a hole.
    ///
    /// # Errors
    /// Of the store; what was not removed is removed by a later call.
    pub fn prune(&mut self, keep: usize) -> Result<(), LogError> {
        self.facts.trim(self.recorded);
        // Until this start has saved something, it may yet be known only to itself to which checkpoint it has fallen back.
        if self.facts.newest_of(self.generation).is_some() {
            self.begin = self.facts.begin(keep, self.begin).unwrap_or(self.begin);
        }
        failpoint::hit("log.prune.before");
        let Begin { entry, swept, .. } = self.recorded;
        for name in self.store.list(FOLDER)? {
            if number(&name).is_some_and(|number| swept <= number && number < entry) && !self.is_seal(&name)? {
                self.store.delete(&name)?;
            }
        }
        self.begin.swept = entry;
        let needed = self.facts.parts();
        for name in self.store.list(state_files::FOLDER)? {
            if !needed.contains(name.as_str()) && self.is_given_up(&name) {
                self.store.delete(&name)?;
            }
        }
        failpoint::hit("log.prune.after");
        Ok(())
    }

    /// True if an entry must stay because it keeps an earlier writer out. What an earlier start left to be removed is looked at.
    fn is_seal(&self, name: &str) -> Result<bool, LogError> {
        match number(name) {
            Some(number) if number >= self.read_from => Ok(self.facts.is_seal(number)),
            _ => {
                let Some(bytes) = self.store.get(name)? else { return Ok(false) };
                // What cannot be read stays as well.
                let found = Envelope::decode(name, &bytes);
                Ok(found.map_or(true, |envelope| matches!(envelope.entry, Entry::Seal(_))))
            }
        }
    }

    /// True if a state file that no checkpoint lists will be listed by none. Those of later generations, and ours that are being written, may yet be.
    fn is_given_up(&self, name: &str) -> bool {
        let Some((epoch, generation)) = state_files::parse(name) else { return false };
        let ours = self.facts.newest_of(self.generation);
        generation < self.generation || generation == self.generation && ours.is_some_and(|newest| epoch <= newest)
    }
}

/// What a writer of this generation would find now, if another has taken over. Asks the store once; one that does not answer says nothing.
pub fn overtaken(store: &dyn Store, generation: u64) -> Option<LogError> {
    let name = name(newest(store).ok()??);
    let by = Envelope::decode(&name, &store.get(&name).ok()??).ok()?.generation;
    (by > generation).then_some(LogError::Fenced { generation, by })
}

/// Where a test may end the process: before and after this entry is created.
fn places(entry: &Entry) -> (&'static str, &'static str) {
    match entry {
        Entry::Seal(_) => ("log.seal.before", "log.seal.after"),
        Entry::Claims(_) => ("log.claims.before", "log.claims.after"),
        Entry::Checkpoint(_) => ("log.checkpoint.before", "log.checkpoint.after"),
    }
}

/// Reads the log from where its newest entry says that it begins.
fn read(store: &dyn Store) -> Result<(Facts, History, Begin), LogError> {
    let mut newest = newest(store)?;
    loop {
        let Some(last) = newest else {
            return Ok((Facts::default(), History { generation: 1, ..History::default() }, Begin::default()));
        };
        match read_from(store, last) {
            // The writer may have gone on and removed what it does not need any more.
            Err(Missing::At(missing)) => {
                let now = self::newest(store)?;
                if now == newest {
                    return Err(corrupt(&name(missing), "is missing, and later entries are there"));
                }
                newest = now;
            }
            Err(Missing::No(error)) => return Err(error),
            Ok(read) => return Ok(read),
        }
    }
}

/// Why a log was not read.
enum Missing {
    /// An entry is not there.
    At(u64),
    /// Something else.
    No(LogError),
}

impl From<LogError> for Missing {
    fn from(error: LogError) -> Self {
        Missing::No(error)
    }
}

fn read_from(store: &dyn Store, newest: u64) -> Result<(Facts, History, Begin), Missing> {
    let entry = |number: u64| -> Result<Envelope, Missing> {
        let name = name(number);
        let bytes = store.get(&name).map_err(LogError::from)?.ok_or(Missing::At(number))?;
        let envelope = Envelope::decode(&name, &bytes)?;
        if envelope.number != number {
            return Err(corrupt(&name, &format!("holds entry {}", envelope.number)).into());
        }
        Ok(envelope)
    };
    let begin = entry(newest)?.begin;
    if begin.entry > newest {
        return Err(corrupt(&name(newest), &format!("says that the log begins at {}, after it", begin.entry)).into());
    }
    let mut reader = facts::Reader::new(begin);
    // The seal in force where the log begins, if it lies before.
    if begin.seal < begin.entry {
        reader.take(entry(begin.seal)?)?;
    }
    for number in begin.entry..=newest {
        reader.take(entry(number)?)?;
    }
    let (facts, history) = reader.finish()?;
    Ok((facts, history, begin))
}

/// What an object of the log says.
#[cfg(test)]
pub(crate) fn entry(name: &str, bytes: &[u8]) -> Entry {
    Envelope::decode(name, bytes).unwrap().entry
}

/// The number of the newest entry.
fn newest(store: &dyn Store) -> Result<Option<u64>, LogError> {
    Ok(store.list(FOLDER)?.iter().filter_map(|name| number(name)).max())
}

fn name(number: u64) -> String {
    format!("{FOLDER}{number:020}")
}

/// The number that a name says; `None` if it is no entry's.
fn number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(FOLDER)?;
    let plain = digits.len() == 20 && digits.bytes().all(|digit| digit.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

fn corrupt(name: &str, why: &str) -> LogError {
    LogError::Corrupt { name: name.into(), why: why.into() }
}
