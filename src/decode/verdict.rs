//! What becomes of one resource, before it has a place in its partition.

use super::reference::IdSource;
use crate::time::EventTime;
use crate::vocabulary::{Comorbidities, Demographics, Leniencies, Precision, Signals, Status, Version};

/// One thing that a record holds.
#[derive(Debug)]
pub(super) enum Item {
    /// An Observation that goes on.
    Observation(Found),
    /// A Patient; `counted` unless it travels in the envelope of an observation, which is the input then.
    Patient { patient: Option<IdSource>, demographics: Demographics, counted: bool },
    /// A Condition, of a flow that takes them; or that one was deleted.
    Condition(Diagnosed),
    /// An Observation was deleted.
    Deletion { patient: Option<IdSource>, id: IdSource, version: Version },
    /// Null where the resource should be: the record's key may say what was deleted.
    Tombstone,
    /// Nothing for this flow.
    Ignored(&'static str),
    /// The same, because signals are named but none has a value; when that was, as far as it can be believed.
    Absent { reason: &'static str, measured: Option<EventTime> },
    /// It broke a rule.
    Rejected(Broken),
}

/// An Observation that goes on.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) patient: IdSource,
    pub(super) id: Option<IdSource>,
    /// `None` only if the status withdraws and no time is given.
    pub(super) at: Option<EventTime>,
    pub(super) precision: Precision,
    pub(super) version: Version,
    pub(super) status: Status,
    pub(super) signals: Signals,
    /// See [`Facts::taken`](crate::vocabulary::Facts).
    pub(super) taken: bool,
    pub(super) summary: bool,
    pub(super) leniencies: Leniencies,
}

/// A Condition that goes on.
#[derive(Debug)]
pub(super) struct Diagnosed {
    /// `None` of a deletion that does not say.
    pub(super) patient: Option<IdSource>,
    pub(super) id: Option<IdSource>,
    /// What it counts as.
    pub(super) comorbidities: Comorbidities,
    /// It takes earlier versions back.
    pub(super) withdraws: bool,
    pub(super) version: Version,
    pub(super) leniencies: Leniencies,
}

impl Diagnosed {
    /// It was deleted.
    pub(super) fn deleted(patient: Option<IdSource>, id: IdSource, version: Version) -> Self {
        let (comorbidities, leniencies) = (Comorbidities::NONE, Leniencies::default());
        Diagnosed { patient, id: Some(id), comorbidities, withdraws: true, version, leniencies }
    }
}

/// Which rule was broken, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) rule: &'static str,
    pub(super) detail: &'static str,
    pub(super) index: Option<u64>,
    /// When what broke it was measured, as far as that can be believed: for counts alone.
    pub(super) measured: Option<EventTime>,
}

impl Broken {
    pub(super) const fn new(rule: &'static str, detail: &'static str) -> Self {
        Broken { rule, detail, index: None, measured: None }
    }

    pub(super) fn at(self, index: usize) -> Self {
        Broken { index: Some(index as u64), ..self }
    }
}

/// Why an Observation does not go on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stop {
    Ignored(&'static str),
    Rejected(Broken),
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        Stop::Rejected(broken)
    }
}
