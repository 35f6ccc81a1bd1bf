//! The first thing that went wrong for good.

use std::sync::{Arc, Mutex, PoisonError};

/// Shared by everything that may fail; the run ends with what was reported first.
#[derive(Clone, Debug, Default)]
pub struct Failure(Arc<Mutex<Option<String>>>);

impl Failure {
    /// Reports; only the first report counts. The text never holds a value that was read, nor a credential.
    pub fn report(&self, text: String) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(text);
    }

    /// What was reported, if anything.
    pub fn reported(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
