//! Waiting for a broker: how long is the run's to say, and the metrics show it.
//!
//! Invariants: every wait of the sink asks here, at least every [`SLICE`], whether the run was abandoned; a wait that ended is no longer shown.

use std::cell::Cell;
use std::time::{Duration, Instant};

use prometheus::IntGauge;
use rdkafka::error::RDKafkaErrorCode;

use super::NAME;
use crate::runtime::metrics::Metrics;
use crate::runtime::stop::Stop;
use crate::sink::SinkError;

/// The longest call into the client between two looks at the run's state.
pub(super) const SLICE: Duration = Duration::from_millis(500);
/// From this long on, a sink that waits says so in the metrics.
const SHOWN_AFTER: Duration = Duration::from_secs(1);

/// Why an attempt did not succeed.
#[derive(Debug)]
pub(super) enum Fault {
    /// Another attempt may: with what the client said.
    Passing(RDKafkaErrorCode),
    /// No other attempt will, or none is wanted.
    Final(SinkError),
}

impl From<SinkError> for Fault {
    fn from(error: SinkError) -> Self {
        Fault::Final(error)
    }
}

/// One wait, from its making to its drop.
pub(super) struct Wait<'a> {
    stop: &'a Stop,
    /// A sum over the workers, each of which has a sink of its own.
    waiting: IntGauge,
    began: Instant,
    shown: Cell<bool>,
}

impl<'a> Wait<'a> {
    pub(super) fn new(stop: &'a Stop, metrics: &Metrics) -> Self {
        let waiting = metrics.sink_waiting.with_label_values(&[NAME]);
        Wait { stop, waiting, began: Instant::now(), shown: Cell::new(false) }
    }

    /// [`SinkError::Stopped`] if the run does not want to wait any longer.
    pub(super) fn go_on(&self) -> Result<(), SinkError> {
        if self.stop.abandon() {
            return Err(SinkError::Stopped);
        }
        if !self.shown.get() && self.began.elapsed() >= SHOWN_AFTER {
            self.waiting.inc();
            self.shown.set(true);
        }
        Ok(())
    }

    /// Does nothing for a while of at most [`SLICE`].
    pub(super) fn pause(&self, pause: Duration) -> Result<(), SinkError> {
        self.go_on()?;
        std::thread::sleep(pause);
        self.go_on()
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.waiting.sub(i64::from(self.shown.get()));
    }
}
