//! Where rows go: Parquet, NDJSON, Elasticsearch, Kafka, the live page; and where alerts go besides, a webhook.
//!
//! Every table is an Arrow [`RecordBatch`], made once a batch by [`tables`] and shared by all sinks; a sink is a [`Deliver`]
//! on a thread of its own (`runtime/delivery.rs`), behind a bounded queue. The sink's frontier moves only when rows are settled.
//!
//! [`json`] writes rows as JSON, for every sink that needs it.
//!
//! Limits: `runtime::delivery::QUEUE_MAX` batches waiting for a sink's thread (more wait in its operator, as many as the sources' gate lets through), `sink.*` sizes within each.

pub mod tables;

mod alerts;
pub mod filter;
pub mod json;

pub mod elasticsearch;
pub mod files;
pub mod kafka;
pub mod ndjson;
pub mod parquet;
pub mod postgres;
pub mod remote;
pub mod webhook;

#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use sha2::{Digest as _, Sha256};

use self::elasticsearch::ElasticsearchSink;
use self::files::{Folder, Recovered};
use self::kafka::{KafkaSink, Lane};
use self::ndjson::NdjsonSink;
use self::parquet::{ParquetSink, Provenance};
use self::webhook::WebhookSink;
use crate::config::{SinkSpec, TableName};
use crate::graph::{Generation, Plan};
use crate::runtime::delivery::{Progress, Sink};
use crate::runtime::live::LiveSink;
use crate::runtime::stop::Stop;
use crate::runtime::survive::{Route, Survive};
use crate::time::Epoch;

/// Sinks that wait for their destinations beside the run, and hold nothing up: what they wait with is in the saved state, or in committed files.
pub const BESIDE: [&str; 3] = [webhook::SINK, postgres::SINK, REPORTS];

/// The name of the pages of scheduled audits in metrics and logs.
pub const REPORTS: &str = "reports";

/// An id by which others tell repetitions apart, of what it is made from: 32 hexadecimal digits, the first half of its SHA-256.
fn id_of(text: &str) -> String {
    Sha256::digest(text)[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

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
    /// For `alerts`, where each row comes from: the route of the state that it is made from. For the other tables empty.
    pub routes: Arc<[Route]>,
}

impl Rows {
    /// When the broker had the oldest record behind these rows, in microseconds since the Unix epoch; `None` for files and for tables without it.
    pub fn received_first(&self) -> Option<i64> {
        let column = self.batch.column_by_name("received_at")?;
        arrow::compute::min(column.as_primitive_opt::<TimestampMicrosecondType>()?)
    }
}

/// The folders of the flow's file sinks, in which a recorded checkpoint is published.
pub fn folders(spec: &SinkSpec) -> Vec<Folder> {
    let parquet = spec.parquet.iter().map(|spec| Folder::of::<parquet::Parquet>(spec.path.clone()));
    let ndjson = spec.ndjson.iter().map(|spec| Folder::of::<ndjson::Ndjson>(spec.path.clone()));
    parquet.chain(ndjson).collect()
}

/// Makes the folders agree with the log: files of recorded checkpoints get their names, others without one are deleted. Not `strict`: a file that is missing may be
/// in another process's folder.
pub fn recover(plan: &Plan, checkpoints: &[(Epoch, Vec<StagedFile>)], strict: bool) -> Result<(), SinkError> {
    for folder in folders(&plan.flow.spec.sink) {
        let Recovered { named, deleted } = folder.recover(checkpoints, strict)?;
        if named + deleted > 0 {
            tracing::info!(target: "sink", named, deleted, "files of the last run: named because their checkpoint is recorded, deleted because they will be written again");
        }
    }
    Ok(())
}

/// Opens the sinks of one worker: those that the flow names, and the live page's.
pub fn open(plan: &Plan, worker: usize, stop: &Stop) -> Result<Vec<Sink>, SinkError> {
    let spec = &plan.flow.spec;
    let Generation { number: generation, committed_up_to, .. } = plan.generation;
    let metrics = || plan.metrics.clone();
    let clock = || -> files::Clock { Arc::new(std::time::Instant::now) };
    let sink = |name, deliver: Box<dyn Deliver>| Sink { name, deliver, progress: Progress::default() };
    let mut sinks = Vec::new();
    sinks.extend(plan.live.as_ref().map(|live| sink("live", Box::new(LiveSink::new(Arc::clone(live))))));
    if let Some(parquet) = &spec.sink.parquet {
        let provenance = Provenance {
            flow: spec.name.clone(),
            key_id: plan.key.id(),
            rule_set: spec.score.rules.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let mut deliver = ParquetSink::parquet(parquet, provenance, generation, worker, clock(), metrics())?;
        deliver.skip_up_to(committed_up_to);
        sinks.push(sink("parquet", Box::new(deliver)));
    }
    if let Some(ndjson) = &spec.sink.ndjson {
        let mut deliver = NdjsonSink::ndjson(ndjson, generation, worker, clock(), metrics())?;
        deliver.skip_up_to(committed_up_to);
        sinks.push(sink("ndjson", Box::new(deliver)));
    }
    if let Some(elasticsearch) = &spec.sink.elasticsearch {
        let deliver = ElasticsearchSink::new(elasticsearch, worker, &spec.state.folder(), stop.clone(), metrics())?;
        sinks.push(sink("elasticsearch", Box::new(deliver)));
    }
    if let Some(kafka) = &spec.sink.kafka {
        let client = crate::source::kafka::client::configuration(&kafka.brokers, &kafka.client, &kafka.client_files);
        let client = client.map_err(|error| SinkError::Refused(error.to_string()))?;
        let lane = Lane {
            job: spec.name.clone(),
            generation,
            worker,
            workers: plan.generation.workers,
            earlier: plan.generation.earlier.clone(),
            published_up_to: committed_up_to,
        };
        let deliver = KafkaSink::new(kafka, client, &spec.source.group, lane, stop.clone(), metrics())?;
        sinks.push(sink("kafka", Box::new(deliver)));
    }
    if let Some(webhook) = spec.sink.webhook.as_ref().filter(|webhook| webhook.is_on()) {
        let deliver = WebhookSink::new(webhook, &spec.name, worker, stop.clone(), metrics())?;
        sinks.push(sink(webhook::SINK, Box::new(deliver)));
    }
    Ok(sinks)
}

/// A file that is complete and synced under a hidden name, and gets its own when the checkpoint that lists it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct StagedFile {
    /// The sink's name: `parquet`, `ndjson`.
    pub sink: String,
    /// The table: the folder below the sink's path.
    pub table: TableName,
    /// The final name in that folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
    /// First and last epoch of its rows.
    pub epochs: (Epoch, Epoch),
}

/// A sink's hand. Runs on its own thread and may block, retry and wait; `stop` of the context it was made with tells it to give up.
///
/// # Contract
/// `deliver` is called with epochs that ascend table by table; `close(e)` after the last `deliver` of epochs up to and including `e`; `stage(c)` after
/// `close(c)` and before anything of a later epoch; `finish` last, once. All of it only for epochs whose input is recorded: a replay repeats them exactly.
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

    /// True if it adds to `sink_records` itself, because it does not write every row that it is given.
    fn counts_its_rows(&self) -> bool {
        false
    }

    /// A checkpoint: makes everything up to `epoch` durable. Files that are complete and synced, but get their names only when the checkpoint is recorded,
    /// are returned for its entry in the log; each is returned once.
    fn stage(&mut self, _epoch: Epoch) -> Result<Vec<StagedFile>, SinkError> {
        Ok(Vec::new())
    }

    /// What of this sink survives the process besides its files. Put back before anything is delivered; saved right after each `stage`.
    ///
    /// Saved is always everything ([`Extent::All`](crate::runtime::survive::Extent)), and it must take the place of what an earlier save said of the same.
    fn state(&mut self) -> Option<&mut dyn Survive> {
        None
    }

    /// The input has ended or the run is being drained; everything was staged before.
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
