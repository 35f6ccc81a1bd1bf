//! How a run is asked to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// Shared by everything that may wait. Asked once, sources end and everything drains; asked twice, everything gives up.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    asked: AtomicU8,
    complete: AtomicBool,
    followed: AtomicBool,
}

impl Stop {
    /// Asks (again).
    pub fn ask(&self) {
        let _ = self.0.asked.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |asked| Some(asked.saturating_add(1)));
    }

    /// Drains because another process was asked to. The first signal that comes to this one is then still its first.
    pub fn follow(&self) {
        self.0.followed.store(true, Ordering::SeqCst);
    }

    /// True once asked: sources end, what is under way is delivered.
    pub fn drain(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed) >= 1 || self.0.followed.load(Ordering::Relaxed)
    }

    /// True once asked twice: stop waiting for the outside.
    pub fn abandon(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed) >= 2
    }

    /// As asked twice: the time for draining is over.
    pub fn abandon_now(&self) {
        self.0.asked.fetch_max(2, Ordering::SeqCst);
    }

    /// Declares that the outside will add nothing more: a source that would wait for ever ends once it finds nothing.
    pub fn complete(&self) {
        self.0.complete.store(true, Ordering::SeqCst);
    }

    /// True once declared complete.
    pub fn is_complete(&self) -> bool {
        self.0.complete.load(Ordering::SeqCst)
    }

    /// From now on SIGTERM and SIGINT (Ctrl-C) ask. The thread that waits for them lives as long as the process.
    ///
    /// # Errors
    /// The system refuses to register the handlers.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let stop = self.clone();
        let mut signals =
            signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT])?;
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for _ in signals.forever() {
                stop.ask();
                match stop.abandon() {
                    false => tracing::info!(target: "runtime", "stopping: delivering what is under way; a second signal ends at once"),
                    true => {
                        tracing::warn!(target: "runtime", "stopping at once");
                        // Always safe: what is not settled is read again by the next run.
                        std::process::exit(130);
                    }
                }
            }
        })?;
        Ok(())
    }
}
