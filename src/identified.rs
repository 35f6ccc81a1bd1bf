//! What is still identified. These types exist only left of `pseudonymise`.
//!
//! Invariants, held by the compiler:
//!
//! 1. Nothing here is `Serialize`, `Display` or `Clone`, so timely cannot exchange it, no sink can take it, and `Debug` prints `…`.
//! 2. The bytes of a record can be read by `decode` (it needs them to parse); an id can be read by nobody:
//!    the one way out of an [`Id`] is [`Pseudonymiser`](crate::pseudonymise::Pseudonymiser), which holds the key.
//!
//! ```compile_fail
//! fn sink<T: serde::Serialize>(_: T) {}
//! fn leak(observations: windkessel::identified::Observations) { sink(observations) }
//! ```
//! ```compile_fail
//! fn leak(records: windkessel::identified::Records) -> String { format!("{}", records) }
//! ```
//! ```compile_fail
//! fn exchange<T: timely::ExchangeData>(_: T) {}
//! fn leak(observation: windkessel::identified::Observation) { exchange(observation) }
//! ```

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use crate::time::{EventTime, IngestTime};
use crate::vocabulary::{Comorbidities, Demographics, Facts, Partition, Position, Version};

/// Bytes of one batch that may identify people. Grows only; ranges into it stay valid.
#[derive(Default)]
pub struct Arena(Vec<u8>);

/// A range of an [`Arena`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    start: u32,
    len: u32,
}

/// A patient's or an observation's logical id, as a range of its batch's arena. Cannot be read, only pseudonymised.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Id(Slice);

/// Buffers of dropped arenas that a worker keeps for the next batches: a fresh megabyte costs a page fault for every 4 KiB of it.
const SPARE_BUFFERS_MAX: usize = 8;

/// Larger buffers are given back: one odd batch must not hold memory for ever.
const SPARE_BYTES_MAX: usize = 8 << 20;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

impl Drop for Arena {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        if buffer.capacity() == 0 || buffer.capacity() > SPARE_BYTES_MAX {
            return;
        }
        buffer.clear();
        // While a thread ends there is nothing to keep buffers for.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_BUFFERS_MAX {
                spare.push(buffer);
            }
        });
    }
}

impl Arena {
    /// An empty arena, with the buffer of an earlier batch of this thread if there is one.
    pub fn recycled() -> Self {
        Arena(SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten().unwrap_or_default())
    }

    /// An arena with room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Self {
        Arena(Vec::with_capacity(bytes))
    }

    /// Appends bytes. Panics beyond 4 GiB, which `inflight.bytes` rules out by orders of magnitude.
    pub fn push(&mut self, bytes: &[u8]) -> Slice {
        let start = u32::try_from(self.0.len()).expect("a batch is far below 4 GiB");
        self.0.extend_from_slice(bytes);
        Slice { start, len: u32::try_from(bytes.len()).expect("a record is far below 4 GiB") }
    }

    /// Number of bytes held.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if nothing is held.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of a slice. For `decode` alone.
    pub(crate) fn bytes(&self, slice: Slice) -> &[u8] {
        &self.0[slice.range()]
    }

    /// The bytes of an id. For `pseudonymise` alone.
    pub(crate) fn id(&self, id: Id) -> &[u8] {
        self.bytes(id.0)
    }
}

impl Slice {
    /// Length in bytes.
    pub fn len(self) -> usize {
        self.len as usize
    }

    /// True for the empty slice.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// A part of this slice, `range` counted from its start.
    pub fn part(self, range: Range<usize>) -> Slice {
        assert!(range.end <= self.len(), "a part lies within its slice");
        Slice { start: self.start + range.start as u32, len: (range.end - range.start) as u32 }
    }

    fn range(self) -> Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }
}

impl Id {
    /// Declares a slice to be an id.
    pub fn new(slice: Slice) -> Self {
        Id(slice)
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// What a source delivers: a batch of records, of any partitions of that source, in partition order.
#[derive(Debug, Default)]
pub struct Records {
    /// The payloads and keys.
    pub arena: Arena,
    /// The records, in the order in which they were read.
    pub records: Vec<Record>,
    /// What happened to partitions, after the records of this batch.
    pub marks: Vec<Mark>,
}

/// One record: bytes and where they came from.
#[derive(Debug)]
pub struct Record {
    /// Topic, partition and offset; `entry` is 0.
    pub position: Position,
    /// The broker's timestamp. Absent for files.
    pub received_at: Option<IngestTime>,
    /// What it carries.
    pub payload: Payload,
    /// Kafka's key. It may name a patient.
    pub key: Option<Slice>,
}

impl Record {
    /// Size of payload and key.
    pub fn bytes(&self) -> u64 {
        let payload = if let Payload::Bytes(bytes) = self.payload { bytes.len() } else { 0 };
        (payload + self.key.map_or(0, Slice::len)) as u64
    }
}

/// What a record carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Bytes, not looked at yet.
    Bytes(Slice),
    /// Kafka's null payload: the resource that the key names was deleted.
    Tombstone,
    /// More than `source.record_bytes_max`; it was not read.
    TooLarge,
    /// It could not be decompressed or read further; the rest of the file is lost with it.
    Unreadable,
}

/// What a source says of a partition, apart from its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It will be read here; until its first record its watermark is [`EventTime::MIN`].
    Opened(Partition),
    /// It has been empty for `source.idle` and holds no window open until its next record.
    Idle(Partition),
    /// It has ended; nothing more will come.
    Ended(Partition),
}

/// Everything that a batch of records decoded to.
#[derive(Debug, Default)]
pub struct Observations {
    /// The records' arena, moved; escaped ids are appended by `decode`.
    pub arena: Arena,
    /// In record order.
    pub entries: Vec<Entry>,
}

/// One decoded thing.
#[derive(Debug)]
pub enum Entry {
    /// An observation with at least one configured signal, or one that withdraws an earlier version (`Facts::status`).
    Observation(Observation),
    /// A Patient resource: who somebody is, as far as scoring and audit may know.
    Patient(PatientUpdate),
    /// A resource of this id was deleted (tombstone, DELETE entry): retract whatever it contributed.
    Deletion(Deletion),
    /// What came of a patient, or that this was said in error.
    Label(LabelUpdate),
    /// A Condition resource: which comorbidities it means, or that it means none any more.
    Condition(ConditionUpdate),
}

/// A FHIR Observation, decoded and still identified.
#[derive(Debug)]
pub struct Observation {
    /// Whose it is: the canonical logical id (`Patient/x`, absolute URL, `urn:uuid:` and `/_history/` forms agree).
    pub patient: Id,
    /// The resource's logical id; `None` if it has none (then its position stands for it).
    pub id: Option<Id>,
    /// Everything that does not identify anybody.
    pub facts: Facts,
    /// The record's key names the resource (`Observation/…`): a later tombstone may delete it, and will not say whose it was.
    pub deletable: bool,
}

/// A FHIR Patient, reduced to what features and audit may use.
#[derive(Debug)]
pub struct PatientUpdate {
    /// The patient's logical id.
    pub patient: Id,
    /// Where it came from: orders updates.
    pub position: Position,
    /// What is known.
    pub demographics: Demographics,
}

/// What came of a patient, as a record of `audit.outcomes` says it.
#[derive(Debug)]
pub struct LabelUpdate {
    /// The patient's logical id; `None` of a tombstone, which names the outcome alone.
    pub patient: Option<Id>,
    /// The outcome's own id; `None` if it has none (then patient and time stand for it).
    pub id: Option<Id>,
    /// Where it was read.
    pub position: Position,
    /// Whether it happened; `None` withdraws what was said.
    pub happened: Option<bool>,
    /// By when; [`EventTime::MIN`] of a tombstone.
    pub at: EventTime,
    /// Its version.
    pub version: Version,
    /// The record's key is its id: a later tombstone may delete it, and will not say whose it was.
    pub deletable: bool,
}

/// A FHIR Condition, reduced to what it counts as; or its deletion.
#[derive(Debug)]
pub struct ConditionUpdate {
    /// The patient's logical id; `None` of a deletion that does not say.
    pub patient: Option<Id>,
    /// The resource's logical id; `None` if it has none (then its position stands for it).
    pub id: Option<Id>,
    /// Where it was read.
    pub position: Position,
    /// What it counts as.
    pub comorbidities: Comorbidities,
    /// It takes earlier versions back.
    pub withdraws: bool,
    /// Its version.
    pub version: Version,
    /// The record's key names it: a later tombstone may delete it, and will not say whose it was.
    pub deletable: bool,
}

/// The deletion of an Observation whose body is not there any more.
#[derive(Debug)]
pub struct Deletion {
    /// The patient, where the record names one (a key, a previous version in a history Bundle).
    pub patient: Option<Id>,
    /// The observation's logical id.
    pub id: Id,
    /// Where the deletion was read.
    pub position: Position,
    /// When it was received.
    pub received_at: Option<IngestTime>,
    /// Its version, where the record says.
    pub version: Version,
    /// The partition's watermark at that record: stands for the unknown event time.
    pub watermark: EventTime,
}
