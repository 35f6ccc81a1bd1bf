//! The first thing that went wrong for good.

use std::sync::{Arc, Mutex, PoisonError};

/// What kind of thing went wrong. It decides the exit code, so that a supervisor can tell whether a restart helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A source or a sink cannot go on, or another process of the cluster has gone.
    Outside,
    /// What the flow names is not what it was: a restart does not help.
    Configuration,
    /// A thread panicked.
    Bug,
    /// Another run has taken over.
    Fenced,
    /// The run was asked to end, and not everything could be delivered in time.
    Undelivered,
    /// This process, or one of its peers, does not get on; see [`watchdog`](super::watchdog).
    Stuck,
}

impl Cause {
    /// The exit code of a process that ends for this cause. `cli` has the table.
    pub const fn exit_code(self) -> u8 {
        match self {
            Cause::Outside => 69,
            Cause::Configuration => 78,
            Cause::Fenced => 9,
            Cause::Bug | Cause::Stuck => 70,
            Cause::Undelivered => 75,
        }
    }
}

/// What was reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// What kind.
    pub cause: Cause,
    /// One sentence. It never holds a value that was read, nor a credential.
    pub text: String,
}

/// Shared by everything that may fail; the run ends with what was reported first.
#[derive(Clone, Debug, Default)]
pub struct Failure(Arc<Mutex<Option<Reported>>>);

impl Failure {
    /// Reports that something outside refuses; only the first report counts. The text never holds a value that was read, nor a credential.
    pub fn report(&self, text: String) {
        self.report_as(Cause::Outside, text);
    }

    /// Reports; only the first report counts.
    pub fn report_as(&self, cause: Cause, text: String) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(Reported { cause, text });
    }

    /// What was reported, if anything.
    pub fn reported(&self) -> Option<Reported> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// True once something was reported.
    pub fn happened(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}
