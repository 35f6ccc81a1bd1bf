//! Keeps a producer to a rate. For threads of their own, which may sleep; sources never do.

use std::time::{Duration, Instant};

use crate::runtime::stop::Stop;

/// A sleep is cut into pieces of this length, so that a request to stop is noticed.
const NAP: Duration = Duration::from_millis(20);

/// So many things a second, counted from the start, so that a hiccup is caught up with.
pub(crate) struct Pace {
    begun: Instant,
    per_second: u64,
}

impl Pace {
    /// `per_second` 0 means without a limit.
    pub(crate) fn new(per_second: u64) -> Self {
        Pace { begun: Instant::now(), per_second }
    }

    /// Waits until it is time for number `ordinal`, counted from 0. False if it was asked to stop meanwhile.
    pub(crate) fn wait(&self, ordinal: u64, stop: &Stop, while_waiting: &mut dyn FnMut()) -> bool {
        if self.per_second > 0 {
            let due = Duration::from_secs_f64(ordinal as f64 / self.per_second as f64);
            while let Some(left) = due.checked_sub(self.begun.elapsed()).filter(|left| *left > Duration::from_millis(1))
            {
                if stop.drain() {
                    return false;
                }
                while_waiting();
                std::thread::sleep(left.min(NAP));
            }
        }
        !stop.drain()
    }
}
