//! How a run is asked to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Shared by everything that may wait. Asked once, sources end and everything drains; asked twice, everything gives up.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicU8>);

impl Stop {
    /// Asks (again).
    pub fn ask(&self) {
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |asked| Some(asked.saturating_add(1)));
    }

    /// True once asked: sources end, what is under way is delivered.
    pub fn drain(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= 1
    }

    /// True once asked twice: stop waiting for the outside.
    pub fn abandon(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= 2
    }
}
