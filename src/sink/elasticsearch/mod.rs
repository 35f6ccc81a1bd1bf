//! Elasticsearch: each document ends with the content of its highest epoch; no duplicates, no stale overwrite.
//!
//! ```text
//! deliver ─> Documents ─> pending ─close─> consolidate ─> Batcher ─> Destination ─> POST _bulk
//!  (rows)     (filter,     (one           (newest per      ^            (waits        │
//!              encode)      epoch)         id)             └─ again ─────────────────┘
//!                                                                     rejected ─> dead letters
//! ```
//!
//! It rests on a deterministic `_id` (the observation's pseudonym; what a finding of the audit is about) and external versions (the epoch): repeating anything is harmless, so a
//! retry never has to know whether the first attempt arrived.
//!
//! | answer | what happens |
//! |---|---|
//! | item 200, 201 | written |
//! | item 409 | the index holds this version or a newer one: written |
//! | item 429, 5xx | only these items again, after a pause, in their order, for ever |
//! | item 400, other 4xx | dead letter; above 1 % of an epoch (and above 10) the run stops |
//! | item 404 | the index does not exist and is not created: the run stops |
//! | item or request 401, 403 | secrets are read again, once; then the run stops |
//! | request 408, 429, 5xx, no answer | the same request again, after a pause, for ever |
//! | request 413 | requests become half as large; a document too large alone is a dead letter |
//! | request, anything else | the run stops |
//!
//! Invariants: an epoch is closed only when every document of it is written or in the dead letters; no error, log or metric holds a value of a document or
//! a secret; index names come from the flow file only.
//!
//! Limits: documents of the open epoch are held in memory (`epoch.bytes` bounds them); one request at a time for each worker; readers may see an epoch
//! partly written; an observation that changes its patient *and* is seen by two workers in one epoch keeps either version. Data streams and
//! rollover are not used: they cannot overwrite a document. The tables `readings` and, if the flow says so, those of the audit become documents ([`findings`]); windows
//! and rejections do not.

pub mod bulk;
pub mod client;
pub mod dead_letter;
pub mod destination;
pub mod document;
pub mod findings;
pub mod indices;
pub mod lifecycle;
pub mod response;
pub mod template;

#[cfg(test)]
mod real;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use tracing::{debug, error};

use crate::config::{ElasticsearchSpec, IndexBy, TableName};
use crate::runtime::failpoint;
use crate::runtime::metrics::{Metrics, unix_seconds};
use crate::runtime::stop::Stop;
use crate::sink::remote::Backoff;
use crate::sink::tables::Tables;
use crate::sink::{Deliver, Rows, SinkError};
use crate::time::Epoch;

use bulk::{Batch, Batcher, Item};
use client::{Body, Client, REQUEST_TIMEOUT, Request};
use dead_letter::{DeadLetter, DeadLetterHook};
use destination::{BACKOFF_FIRST, BACKOFF_MAX, Destination};
use document::{Document, Documents};
use findings::Findings;
use response::ItemAnswer;
use template::Planned;

pub use template::Installed;

/// The sink's name in metrics and logs.
pub const SINK: &str = "elasticsearch";

/// Above this share of an epoch's documents rejected, the fault is the flow's or the index's, not a document's.
const REJECTED_PERCENT_MAX: usize = 1;
/// This many are let through whatever their share: a quiet night's epoch has ten documents.
const REJECTED_ALWAYS_ALLOWED: usize = 10;

/// The pauses and time-outs; shorter in tests.
#[derive(Clone, Copy, Debug)]
struct Pace {
    backoff_first: Duration,
    backoff_max: Duration,
    request: Duration,
}

const PACE: Pace = Pace { backoff_first: BACKOFF_FIRST, backoff_max: BACKOFF_MAX, request: REQUEST_TIMEOUT };

/// The sink. Blocks in [`Deliver::close`]; belongs on a thread of its own.
pub struct ElasticsearchSink {
    spec: ElasticsearchSpec,
    documents: Documents,
    findings: Option<Findings>,
    destination: Destination,
    batcher: Batcher,
    /// The documents of open epochs, in the order of delivery.
    pending: Vec<Document>,
    /// Tables of which rows have come and whose templates still have to be looked at.
    uninstalled: BTreeMap<TableName, SchemaRef>,
    /// Tables whose templates need no look.
    installed: BTreeSet<TableName>,
    /// Secrets were read again and nothing was written since.
    renewed: bool,
    /// Something was written that a refresh would make searchable.
    unrefreshed: bool,
    dead_letters: DeadLetterHook,
    metrics: Metrics,
}

/// How one epoch's documents fare.
#[derive(Clone, Copy, Debug)]
struct Tolerance {
    documents: usize,
    rejected: usize,
}

impl Tolerance {
    fn exceeded(self) -> bool {
        self.rejected > REJECTED_ALWAYS_ALLOWED && self.rejected * 100 > self.documents * REJECTED_PERCENT_MAX
    }
}

/// Asks the cluster for its health, once.
///
/// # Errors
/// What cannot work about the settings, or that no usable answer came.
pub fn connect(spec: &ElasticsearchSpec, wait_max: Duration) -> Result<(), SinkError> {
    let refused =
        |why: String| SinkError::Refused(format!("could not reach sink.elasticsearch.url {:?}: {why}", spec.url));
    let reply = Client::new(spec, wait_max)?.send(&Request::get("/_cluster/health"));
    match reply.map_err(|error| refused(error.reason().to_owned()))?.status {
        200 => Ok(()),
        401 | 403 => Err(refused("it refuses the credentials".into())),
        status => Err(refused(format!("it answers with status {status}"))),
    }
}

/// Puts everything that the flow's indices need, as far as it is not there: the lifecycle policy if there is to be one, the templates, and for
/// indices that are there already the fields that they lack and the policy. What was looked at, in this order; a second time changes nothing.
///
/// # Errors
/// What the cluster refuses, or a credential that cannot be read. A cluster that does not answer is waited for.
pub fn setup(spec: &ElasticsearchSpec, tables: &Tables, stop: &Stop) -> Result<Vec<Installed>, SinkError> {
    let (documents, findings) = (Documents::new(spec)?, Findings::new(spec)?);
    let backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_MAX);
    let client = Client::new(spec, REQUEST_TIMEOUT)?;
    let mut destination = Destination::new(client, backoff, stop.clone(), Metrics::new());
    let mut done = Vec::new();
    if let Some(policy) = lifecycle::policy(spec) {
        done.push(template::put_if_due(&mut destination, &policy)?);
    }
    let mut planned = vec![template::plan(spec, &documents, tables.schema(TableName::Readings))];
    if findings.is_some() {
        planned.extend(findings::TABLES.map(|table| template::plan_findings(spec, table, tables.schema(table))));
    }
    done.extend(template::install(&mut destination, &planned)?);
    let changed = lifecycle::apply(&mut destination, spec)?;
    done.extend(changed.into_iter().map(|name| Installed { what: format!("index {name}"), changed: true }));
    Ok(done)
}

impl ElasticsearchSink {
    /// Reads secrets and checks names; does not connect. Dead letters of worker `worker` go below `state`.
    ///
    /// # Errors
    /// A URL, index name, field or credential that cannot work; a file that cannot be read.
    pub fn new(
        spec: &ElasticsearchSpec,
        worker: usize,
        state: &Path,
        stop: Stop,
        metrics: Metrics,
    ) -> Result<Self, SinkError> {
        Self::with(spec, dead_letter::to_file(state, worker), stop, metrics, PACE)
    }

    fn with(
        spec: &ElasticsearchSpec,
        dead_letters: DeadLetterHook,
        stop: Stop,
        metrics: Metrics,
        pace: Pace,
    ) -> Result<Self, SinkError> {
        let client = Client::new(spec, pace.request)?;
        let backoff = Backoff::new(pace.backoff_first, pace.backoff_max);
        Ok(ElasticsearchSink {
            spec: spec.clone(),
            documents: Documents::new(spec)?,
            findings: Findings::new(spec)?,
            destination: Destination::new(client, backoff, stop, metrics.clone()),
            batcher: Batcher::new(spec.bulk_bytes, spec.bulk_documents),
            pending: Vec::new(),
            uninstalled: BTreeMap::new(),
            installed: if spec.install_template { BTreeSet::new() } else { TableName::ALL.into() },
            renewed: false,
            unrefreshed: false,
            dead_letters,
            metrics,
        })
    }

    /// Writes everything pending up to an epoch. Later epochs stay: a second version with the same epoch would be taken for a repetition.
    fn settle_pending(&mut self, epoch: Epoch) -> Result<(), SinkError> {
        let (mut documents, later) =
            std::mem::take(&mut self.pending).into_iter().partition(|document| document.epoch <= epoch);
        self.pending = later;
        if Vec::is_empty(&documents) {
            return Ok(());
        }
        document::consolidate(&mut documents);
        self.install_templates()?;
        if self.spec.index_by == IndexBy::Month {
            indices::moved(&mut self.destination, &self.spec.index, &documents)?
                .into_iter()
                .for_each(|retraction| self.batcher.offer(retraction));
        }
        for document in documents {
            self.batcher.offer(Item::of(document));
        }
        let mut tolerance = Tolerance { documents: self.batcher.waiting(), rejected: 0 };
        while let Some(batch) = self.batcher.take() {
            self.send(batch, &mut tolerance)?;
        }
        self.unrefreshed = true;
        self.metrics.sink_last_success.with_label_values(&[SINK]).set(unix_seconds());
        Ok(())
    }

    fn install_templates(&mut self) -> Result<(), SinkError> {
        let plan = |(table, schema): (&TableName, &SchemaRef)| match table {
            TableName::Readings => template::plan(&self.spec, &self.documents, schema),
            _ => template::plan_findings(&self.spec, *table, schema),
        };
        let planned: Vec<Planned> = self.uninstalled.iter().map(plan).collect();
        template::install(&mut self.destination, &planned)?;
        self.installed.extend(std::mem::take(&mut self.uninstalled).into_keys());
        Ok(())
    }

    /// Sends one request and acts on its answer.
    fn send(&mut self, batch: Batch, tolerance: &mut Tolerance) -> Result<(), SinkError> {
        let body = Body::bulk(&batch.body());
        let bytes = body.bytes() as u64;
        let request = Request::post(format!("/_bulk?filter_path={}", response::FILTER_PATH), body);
        failpoint::hit("elasticsearch.bulk.before");
        let reply = self.destination.send(&request)?;
        failpoint::hit("elasticsearch.bulk.after");
        self.metrics.sink_batches.with_label_values(&[SINK]).inc();
        match reply.status {
            200 => {
                self.metrics.sink_bytes.with_label_values(&[SINK]).inc_by(bytes);
                match response::parse(&reply.body, batch.len()) {
                    Ok(answers) => self.settle(batch, answers, tolerance),
                    Err(response::Unreadable) => {
                        let documents = batch.len();
                        self.batcher.put_back(batch);
                        self.destination.wait("its answer could not be read", 200, documents)
                    }
                }
            }
            413 => match self.batcher.too_large(batch) {
                Some(item) => {
                    let alone = ItemAnswer { id: None, status: 413, error_type: "document_too_large" };
                    self.reject(&item, &alone, tolerance)
                }
                None => {
                    debug!(sink = SINK, "a request was too large: requests are halved");
                    Ok(())
                }
            },
            status => Err(SinkError::Refused(format!(
                "could not write to Elasticsearch: a bulk request was answered {status} ({}); check that sink.elasticsearch.url is the \
                 cluster's own address, or a proxy that passes POST /_bulk on",
                response::error_type(&reply.body)
            ))),
        }
    }

    fn settle(&mut self, batch: Batch, answers: Vec<ItemAnswer>, tolerance: &mut Tolerance) -> Result<(), SinkError> {
        let settled = self.batcher.settle(batch, answers);
        for (table, done) in &settled.done {
            self.metrics.sink_records.with_label_values(&[SINK, table.name()]).inc_by(*done);
        }
        for (item, answer) in &settled.rejected {
            self.reject(item, answer, tolerance)?;
        }
        if let Some(index) = settled.index_missing {
            return Err(SinkError::Refused(format!(
                "could not write to Elasticsearch: there is no index {index:?} and the cluster does not create it; create it, or allow it in \
                 action.auto_create_index"
            )));
        }
        if settled.forbidden {
            if std::mem::replace(&mut self.renewed, true) {
                return Err(destination::forbidden(403, "for single documents"));
            }
            return self.destination.renew();
        }
        self.renewed = false;
        match settled.again {
            0 => {
                self.destination.relieved();
                Ok(())
            }
            again => self.destination.wait("it takes only a part of what it is sent", 200, again),
        }
    }

    /// Puts a document into the dead letters; too many of them stop the run.
    fn reject(&mut self, item: &Item, answer: &ItemAnswer, tolerance: &mut Tolerance) -> Result<(), SinkError> {
        let ItemAnswer { status, error_type, .. } = *answer;
        self.metrics.sink_rejected_items.with_label_values(&[SINK, error_type]).inc();
        error!(sink = SINK, index = &*item.index, document = %item.id, epoch = item.epoch, status, error_type, "document rejected");
        (self.dead_letters)(DeadLetter::new(&item.index, item.id, item.epoch, status, error_type))?;
        tolerance.rejected += 1;
        if tolerance.exceeded() {
            return Err(SinkError::Refused(format!(
                "could not write to Elasticsearch: {} of {} documents of one epoch were rejected, the last with {status} ({error_type}); \
                 the index's mapping does not fit sink.elasticsearch.fields: compare GET {}/_mapping with schemas/elasticsearch/",
                tolerance.rejected, tolerance.documents, item.index
            )));
        }
        Ok(())
    }
}

impl Deliver for ElasticsearchSink {
    fn counts_its_rows(&self) -> bool {
        true
    }

    fn deliver(&mut self, epoch: Epoch, rows: &Rows) -> Result<(), SinkError> {
        if rows.batch.num_rows() == 0 {
            return Ok(());
        }
        let documents = match rows.table {
            TableName::Readings => Some(self.documents.of(epoch, rows)?),
            _ => self.findings.as_ref().and_then(|findings| findings.of(epoch, rows)),
        };
        let Some(documents) = documents else { return Ok(()) };
        if !self.installed.contains(&rows.table) {
            self.uninstalled.entry(rows.table).or_insert_with(|| rows.batch.schema());
        }
        self.pending.extend(documents);
        Ok(())
    }

    fn close(&mut self, epoch: Epoch) -> Result<(), SinkError> {
        self.settle_pending(epoch)
    }

    /// Also asks for a refresh, so that a run that has ended is searchable. Its failure changes nothing: the documents are
    /// durable, and visible with the index's next refresh.
    fn finish(&mut self) -> Result<(), SinkError> {
        self.settle_pending(Epoch::MAX)?;
        if std::mem::take(&mut self.unrefreshed) {
            let mut pattern = match self.spec.index_by {
                IndexBy::None => self.spec.index.clone(),
                IndexBy::Month => format!("{}-*", self.spec.index),
            };
            if self.findings.is_some() {
                pattern += &format!(",{}-*", self.spec.audit);
            }
            let refreshed = self.destination.try_once(&Request::poke(format!("/{pattern}/_refresh")));
            debug!(sink = SINK, refreshed, "asked for a refresh at the end");
        }
        Ok(())
    }
}
