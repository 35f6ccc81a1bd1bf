//! What came of synthetic patients, as records of `audit.outcomes`: of each hour in which a patient was measured, whether he was in an episode at one of these readings.
//!
//! Invariant: a function of the messages' heads, in their order. Readings that arrive when a later hour has begun are left out, as whoever looks back on an hour would not have them.
//!
//! Limits: one hour a patient is open. With `audit.outcomes.horizon` of an hour each reading has the outcome of its own hour.

use std::collections::BTreeMap;

use super::{Content, Head};
use crate::time::{EventSpan, EventTime};

/// The outcome's name, for `audit.outcomes.outcome`.
pub const OUTCOME: &str = "adverse_episode";

const HOUR: EventSpan = EventSpan::from_seconds(3_600);

/// Looks at messages and says what came of each patient's hour when the next one begins.
#[derive(Debug, Default)]
pub struct Outcomes {
    open: BTreeMap<u32, Hour>,
}

/// The hour that a patient is in.
#[derive(Clone, Copy, Debug)]
struct Hour {
    key: [u8; super::ID_BYTES],
    start: EventTime,
    adverse: bool,
}

impl Outcomes {
    /// Takes in the head of the next message; the record about the patient's hour that has ended with it, if one has.
    pub fn take(&mut self, head: &Head) -> Option<Vec<u8>> {
        if head.content != Content::Observation {
            return None;
        }
        let start = head.event_time.floor_to(HOUR);
        let now = Hour { key: head.key, start, adverse: head.truth.adverse.is_some() };
        let hour = self.open.entry(head.patient_index).or_insert(now);
        if start > hour.start {
            return Some(std::mem::replace(hour, now).record());
        }
        hour.adverse |= start == hour.start && now.adverse;
        None
    }

    /// The records about the hours that are still open: after the last message.
    pub fn finish(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.open).into_values().map(Hour::record).collect()
    }
}

impl Hour {
    fn record(self) -> Vec<u8> {
        let patient = String::from_utf8_lossy(&self.key);
        let end = jiff::Timestamp::from_microsecond((self.start + HOUR).micros()).unwrap_or_default();
        let (hour, value) = (self.start.micros() / HOUR.micros(), u8::from(self.adverse));
        format!(
            r#"{{"id":"{patient}-{hour}","patient":"{patient}","outcome":"{OUTCOME}","at":"{end}","value":{value},"version":1}}"#
        )
        .into_bytes()
    }
}
