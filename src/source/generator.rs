//! Synthetic patients and their blood pressures as FHIR R4 messages, seeded: for `demo`, `generate`, `train`, tests and benchmarks.
//!
//! ```text
//! seed, patients ─> 8 streams (patient index % 8) ─> messages    one stream is one partition
//! ```
//!
//! Invariants:
//!
//! 1. A stream's messages depend on (profile, seed, patients, observations, its number) alone: not on the number of workers, nor on a clock.
//! 2. A patient's Patient resource comes before its first observation, in the same partition, or inside every message ([`Wrapping`]).
//! 3. Messages arrive in ascending order of [`Head::arrival`]; `event_time` is never after it.
//!
//! It is no simulator of disease: levels, rhythms and episodes are made plausible enough to exercise windows, baselines, rules and a model
//! whose labels are known ([`Truth`]). What is learned from them says nothing about people.

mod conditions;
pub mod outcomes;
mod patient;
mod poll;
pub mod profile;
mod render;
mod shape;
mod stream;

pub use self::poll::GeneratorSource;
use self::profile::{Cohort, Episode, Profile};
pub use self::render::ID_BYTES;
use self::stream::Stream;
use crate::time::EventTime;

/// The generator's topic.
pub const TOPIC: &str = "generator";

/// Its partitions: a patient belongs to partition `index % PARTITIONS`.
pub const PARTITIONS: u32 = 8;

/// Everything about a message but its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// The patient's logical id, ASCII: the Kafka key.
    pub key: [u8; ID_BYTES],
    /// The patient, from 0.
    pub patient_index: u32,
    /// What the message is.
    pub content: Content,
    /// When it was measured, whole milliseconds; for a Patient resource its arrival.
    pub event_time: EventTime,
    /// When it arrives.
    pub arrival: EventTime,
    /// What is really the matter.
    pub truth: Truth,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A Patient resource.
    Patient,
    /// A Condition resource.
    Condition,
    /// An observation, in its wrapping.
    Observation,
}

/// What only the generator knows: labels for training, and the reason for what looks odd.
#[derive(Clone, Copy, Debug)]
pub struct Truth {
    /// The kind of patient.
    pub cohort: Cohort,
    /// Age at the profile's start.
    pub age_years: u16,
    /// Administrative gender; the rest are male.
    pub female: bool,
    /// The episode that the patient was in when it was measured: the label.
    pub adverse: Option<Episode>,
    /// What is wrong with the message.
    pub fault: Option<Fault>,
    /// The true pressure; NaN for messages that are no new reading.
    pub systolic_mmhg: f32,
    /// The true pressure; NaN for messages that are no new reading.
    pub diastolic_mmhg: f32,
}

/// What can be wrong with a message; at most one thing is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// Delivered behind later readings.
    Late,
    /// Impossible values.
    Outlier,
    /// Systolic and diastolic exchanged.
    Swapped,
    /// Values without a unit.
    UnitMissing,
    /// A higher version of an earlier reading.
    Amended,
    /// An earlier reading is withdrawn.
    EnteredInError,
    /// The same message again.
    Duplicate,
}

/// A message with its bytes.
#[derive(Clone, Debug)]
pub struct Message {
    /// Everything about it.
    pub head: Head,
    /// JSON.
    pub payload: Vec<u8>,
}

/// All partitions' messages in one order: observations in turn from each.
pub struct Generator {
    streams: Vec<Stream>,
    turn: usize,
}

impl Generator {
    /// `observations` messages with observations (corrections and repetitions count), 0 for no end; Patient resources come on top.
    pub fn new(profile: &Profile, seed: u64, patients: u32, observations: u64) -> Self {
        let stream = |number| Stream::new(profile, seed, patients, observations, number);
        Generator { streams: (0..stream::streams(patients)).map(stream).collect(), turn: 0 }
    }

    /// Writes the next message over `payload`, which is grown once and then used again; `None` at the end.
    pub fn next_into(&mut self, payload: &mut Vec<u8>) -> Option<Head> {
        let head = self.streams[self.turn].next_into(payload)?;
        if head.content == Content::Observation {
            self.turn = (self.turn + 1) % self.streams.len();
        }
        Some(head)
    }
}

impl Iterator for Generator {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        /// Fits every bare message.
        const PAYLOAD_BYTES: usize = 1_536;
        let mut payload = Vec::with_capacity(PAYLOAD_BYTES);
        let head = self.next_into(&mut payload)?;
        Some(Message { head, payload })
    }
}

#[cfg(test)]
mod tests;
