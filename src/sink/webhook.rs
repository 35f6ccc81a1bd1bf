//! A webhook: each of the audit's alerts is POSTed to somebody who is to be told.
//!
//! ```text
//! alerts ─deliver─> pending ─close─> outbox ─> [thread] ─POST─> receiver
//!                                      └─ stage: what still waits is part of the checkpoint
//! ```
//!
//! Invariants:
//!
//! 1. An alert is sent only when its epoch is claimed: what is told is not contradicted by a later run.
//! 2. *At least once.* Settled (`close`) means put into the outbox. What a crash takes from there is made again by the epochs since the checkpoint,
//!    what waited at the checkpoint was saved with it. An alert whose answer was lost, or that was accepted after the last checkpoint, is sent again, with the
//!    same `id`.
//! 3. A receiver that is down, slow or refuses holds nothing up: the run goes on, and its alerts wait.
//! 4. Alerts are sent one after the other, those of one subject in the order in which they came. One that is refused for good is given up, counted and
//!    logged; it stays in the table `alerts`.
//! 5. No error, log or metric holds the token, the URL of a `url_file`, or what a receiver has answered.
//!
//! Limits: `waiting_max` alerts wait for each worker, beyond the oldest is given up; [`poster`]'s times; [`STAGE_MAX`], [`FINISH_MAX`].
//! `docs/decisions/0020-alerts-go-out.md` says why it is so.

mod client;
mod notice;
mod outbox;
mod poster;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use self::client::Client;
pub use self::client::{check_url, connect};
use self::notice::Notice;
use self::outbox::Shared;
use self::poster::{PACE, Pace, Poster};
use crate::config::{TableName, WebhookSpec};
use crate::runtime::metrics::Metrics;
use crate::runtime::stop::Stop;
use crate::runtime::survive::{Blocks, Corrupt, Extent, Survive};
use crate::sink::{Deliver, Rows, SinkError, StagedFile};
use crate::time::Epoch;

/// The sink's name in metrics and logs.
pub const SINK: &str = "webhook";

/// How long a checkpoint waits for a receiver that has answered so far: so a run that ends in peace leaves nothing to be sent twice.
const STAGE_MAX: Duration = Duration::from_secs(2);
/// How long the end of a run does.
const FINISH_MAX: Duration = Duration::from_secs(5);

/// The webhook of one worker.
pub struct WebhookSink {
    flow: String,
    shared: Arc<Shared>,
    /// Alerts of epochs that are not closed.
    pending: Vec<Notice>,
    poster: JoinHandle<()>,
    metrics: Metrics,
}

impl WebhookSink {
    /// Reads secrets and starts the thread that sends; does not wait for the receiver. `flow` is the flow's name; the first worker looks whether
    /// anybody is there.
    ///
    /// # Errors
    /// A URL or a secret that cannot be used; a file that cannot be read; a thread that the system refuses.
    pub fn new(spec: &WebhookSpec, flow: &str, worker: usize, stop: Stop, metrics: Metrics) -> Result<Self, SinkError> {
        Self::with((spec, flow), worker == 0, stop, metrics, PACE)
    }

    fn with(
        (spec, flow): (&WebhookSpec, &str),
        look: bool,
        stop: Stop,
        metrics: Metrics,
        pace: Pace,
    ) -> Result<Self, SinkError> {
        let shared = Arc::new(Shared::new(spec.waiting_max));
        let client = Client::new(spec, pace.request)?;
        let poster = Poster::new(Arc::clone(&shared), client, pace, stop, metrics.clone());
        let poster = std::thread::Builder::new().name("webhook".into()).spawn(move || poster.run(look));
        let poster =
            poster.map_err(|source| SinkError::Io { action: "start", path: "the webhook's thread".into(), source })?;
        Ok(WebhookSink { flow: flow.to_owned(), shared, pending: Vec::new(), poster, metrics })
    }
}

impl Deliver for WebhookSink {
    fn counts_its_rows(&self) -> bool {
        true
    }

    fn deliver(&mut self, epoch: Epoch, rows: &Rows) -> Result<(), SinkError> {
        if rows.table == TableName::Alerts {
            self.pending.extend(notice::of(&self.flow, epoch, rows));
        }
        Ok(())
    }

    fn close(&mut self, epoch: Epoch) -> Result<(), SinkError> {
        if self.poster.is_finished() {
            return Err(SinkError::Refused(
                "the thread of the webhook has ended; this is a bug, please report it".into(),
            ));
        }
        let (closed, later) = std::mem::take(&mut self.pending).into_iter().partition(|notice| notice.epoch <= epoch);
        self.pending = later;
        for given_up in self.shared.put(closed) {
            poster::give_up(&self.metrics, &given_up, "too_many_wait", 0);
        }
        Ok(())
    }

    fn stage(&mut self, _: Epoch) -> Result<Vec<StagedFile>, SinkError> {
        self.shared.wait_until_sent(STAGE_MAX);
        Ok(Vec::new())
    }

    fn state(&mut self) -> Option<&mut dyn Survive> {
        Some(self)
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.close(Epoch::MAX)?;
        let waiting = self.shared.wait_until_sent(FINISH_MAX);
        self.shared.end();
        if waiting > 0 {
            tracing::warn!(target: "sink::webhook", waiting, "alerts wait in the state: the next run sends them");
        }
        Ok(())
    }
}

impl Survive for WebhookSink {
    fn save(&mut self, _: Extent, into: &mut Blocks) {
        self.shared.lock().save(into);
    }

    fn load(&mut self, block: &[u8]) -> Result<(), Corrupt> {
        self.shared.lock().load(block)
    }

    fn loaded(&mut self) {
        self.shared.loaded();
    }
}

impl Drop for WebhookSink {
    fn drop(&mut self) {
        self.shared.end();
    }
}
