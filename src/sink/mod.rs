//! Where rows go: Parquet, NDJSON, Elasticsearch, Kafka, the live page.
//!
//! Every table is an Arrow [`RecordBatch`], made once a batch by [`tables`] and shared by all sinks; a sink is a [`Deliver`]
//! on a thread of its own (`runtime/delivery.rs`), behind a bounded queue. The sink's frontier moves only when rows are settled.
//!
//! [`json`] writes rows as JSON, for every sink that needs it.
//!
//! Limits: `runtime::delivery::QUEUE_ROWS_MAX` batches waiting for a sink, `sink.*` sizes within each.

pub mod elasticsearch;
pub mod json;

use std::sync::Arc;

use arrow::array::RecordBatch;

use crate::config::TableName;
use crate::time::Epoch;

/// Rows of one table, of one epoch, of one worker.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Which table; its schema is fixed (`schemas/parquet/<table>.txt`).
    pub table: TableName,
    /// The rows.
    pub batch: RecordBatch,
    /// For `readings`, one flag a row: it replaces or withdraws an earlier version, so a sink that filters rows must pass it on (else the earlier one would stand).
    /// For the other tables empty.
    pub replaces: Arc<[bool]>,
}

/// A sink's hand. Runs on its own thread and may block, retry and wait; `stop` of the context it was made with tells it to give up.
///
/// # Contract
/// `deliver` is called with ascending epochs; `close(e)` after the last `deliver` of epochs up to and including `e`; `finish` last, once.
/// After `close(e)` returns, everything up to `e` is *settled*: written as far as the sink's promise goes, so that only a crash of the machine can lose it.
pub trait Deliver: Send {
    /// Takes rows. May buffer them until `close`.
    fn deliver(&mut self, epoch: Epoch, rows: &Rows) -> Result<(), SinkError>;

    /// Settles everything up to `epoch`.
    fn close(&mut self, epoch: Epoch) -> Result<(), SinkError>;

    /// Called a few times a second while nothing else happens: files that are old enough are finished.
    fn idle(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    /// The highest epoch up to which everything is durable and visible, if it lags behind what is settled (files still open).
    fn durable(&self) -> Option<Epoch> {
        None
    }

    /// Makes everything visible: the input has ended or the run is being drained.
    fn finish(&mut self) -> Result<(), SinkError>;
}

/// A sink cannot go on; the run stops with this text. It never holds a row's values or a credential.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The destination refuses in a way that retrying does not cure: the text says what and what to do.
    #[error("{0}")]
    Refused(String),
    /// The run is being stopped; what is undelivered stays undelivered.
    #[error("stopped while delivering")]
    Stopped,
    /// The local file system failed.
    #[error("could not {action} {path:?}: {source}")]
    Io {
        /// What was attempted, e.g. `write to`.
        action: &'static str,
        /// Where.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
}
