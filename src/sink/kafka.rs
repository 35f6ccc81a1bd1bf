//! Kafka: assessed readings to one topic, rejections to dead-letter topics, alerts to one of their own; each row exactly once for consumers that read committed records.
//!
//! ```text
//! readings ─filter─> <topic>                        key = patient's pseudonym, value = the row as JSON, header epoch
//! rejected ────────> error.<source topic>.<group>   key = topic/partition/offset/entry, value = rule, detail and position as JSON,
//!                                                   headers x-error-type, x-error-message, x-source-topic, -partition, -offset, epoch
//! alerts ──────────> <alerts topic>                 key = table/feature/group/start/end of the window, value = the row as JSON, header epoch
//! with any of them ─> <progress topic>               key = job/generation/worker/workers, value = the epoch up to which all is published
//! ```
//!
//! A close publishes the rows that it settles and a progress record in one transaction. After a crash the same rows come again, with the same
//! epochs, perhaps to other workers; those whose lane had progressed so far are passed over. [`session`](self) says why that is right, in
//! its head and in `docs/decisions/0013-kafka-exactly-once.md`.
//!
//! Invariants:
//!
//! 1. A dead letter holds neither the payload nor the key of its record: both identify people. The position says where they are.
//! 2. Settled (`close`) means committed: rows and progress are acknowledged by all in-sync replicas, and so is the commit.
//! 3. A transaction is open only during a close. A stream without rows has none, and writes no progress.
//! 4. Rows of one key are in the topic in the order in which they came, also across repetitions.
//!
//! Limits: rows are held, as JSON, until their transaction is committed: those of the epochs of one close, so of no more input than
//! `inflight.epochs` and `inflight.bytes` let in; the client's queue (`queue.buffering.max.kbytes`) comes on top. A transaction must be over in
//! `transaction.timeout.ms` (60 s), which is also how long consumers may wait for what lies behind one that a crash left open, if nobody starts again.
//!
//! It does not open its lane when it is made but at the first call, on its own thread: a broker that is away makes the sink wait, not the start.
//! Consumers that do not ask for `isolation.level=read_committed` (librdkafka's default, not Java's) may see a row several times.
//! librdkafka's mock cluster takes part in transactions but shows what was aborted.

mod ledger;
mod message;
mod progress;
mod session;
mod transactions;
mod wait;

use std::collections::BTreeMap;

use rdkafka::config::ClientConfig;

pub use self::ledger::Lane;
use self::message::Message;
pub use self::message::dead_letter_topic;
use self::session::{Place, Session};
use self::wait::Wait;
use crate::config::{KafkaSinkSpec, TableName};
use crate::runtime::metrics::Metrics;
use crate::runtime::stop::Stop;
use crate::sink::{Deliver, Rows, SinkError};
use crate::time::Epoch;

/// librdkafka's setting of the queue's size, in kB.
const QUEUE_KBYTES: &str = "queue.buffering.max.kbytes";
const QUEUE_KBYTES_DEFAULT: usize = 16_384;

/// Bytes that the client's queue may hold with these settings.
pub fn queue_bytes(client: &BTreeMap<String, String>) -> usize {
    client.get(QUEUE_KBYTES).and_then(|text| text.parse().ok()).unwrap_or(QUEUE_KBYTES_DEFAULT) << 10
}

/// The sink's name in metrics.
const NAME: &str = "kafka";

/// The Kafka sink of one worker.
pub struct KafkaSink {
    spec: KafkaSinkSpec,
    place: Place,
    /// `None` until the first call.
    session: Option<Session>,
    held: Vec<Message>,
    /// The highest epoch of what is held.
    upto: Epoch,
    stop: Stop,
    metrics: Metrics,
}

impl KafkaSink {
    /// A sink that writes with these client settings (brokers, security, tuning), to which it adds idempotence and transactions.
    /// `group` is the source's, for the dead-letter topics' names and for reading the progress topic. Does not connect.
    ///
    /// # Errors
    /// [`SinkError::Refused`] for settings that librdkafka does not take.
    pub fn new(
        spec: &KafkaSinkSpec,
        mut client: ClientConfig,
        group: &str,
        lane: Lane,
        stop: Stop,
        metrics: Metrics,
    ) -> Result<Self, SinkError> {
        for (key, value) in [
            ("linger.ms", "5"),
            ("compression.codec", "zstd"),
            (QUEUE_KBYTES, &QUEUE_KBYTES_DEFAULT.to_string()),
            ("topic.metadata.refresh.interval.ms", "10000"),
            ("transaction.timeout.ms", "60000"),
        ] {
            if client.get(key).is_none() {
                client.set(key, value);
            }
        }
        transactions::create(&client, &lane.id().transactional_id(&lane.job))?;
        let topic = spec.progress_topic.as_str().into();
        let place = Place { client, group: group.to_string(), topic, lane };
        Ok(KafkaSink { spec: spec.clone(), place, session: None, held: Vec::new(), upto: 0, stop, metrics })
    }

    /// The open lane; opens it if need be.
    fn session(&mut self) -> Result<&Session, SinkError> {
        let session = match self.session.take() {
            Some(session) => session,
            None => Session::open(&self.place, &Wait::new(&self.stop, &self.metrics))?,
        };
        Ok(self.session.insert(session))
    }

    fn readings(&mut self, epoch: Epoch, rows: &Rows) -> Result<(), SinkError> {
        if self.spec.topic.is_empty() {
            return Ok(());
        }
        let spec = self.spec.clone();
        let published = self.session()?.published();
        let messages = message::readings(&spec, epoch, rows, |route| !published.holds(epoch, route))?;
        self.hold(epoch, messages);
        Ok(())
    }

    fn dead_letters(&mut self, epoch: Epoch, rows: &Rows) -> Result<(), SinkError> {
        if self.spec.dead_letter_topic.is_empty() {
            return Ok(());
        }
        let (spec, group) = (self.spec.clone(), self.place.group.clone());
        let published = self.session()?.published();
        let letters = message::dead_letters(&spec, &group, epoch, rows, |route| !published.holds(epoch, route))?;
        for (rule, _) in &letters {
            self.metrics.dead_letters.with_label_values(&[rule]).inc();
        }
        self.hold(epoch, letters.into_iter().map(|(_, message)| message).collect());
        Ok(())
    }

    fn alerts(&mut self, epoch: Epoch, rows: &Rows) -> Result<(), SinkError> {
        if self.spec.alerts_topic.is_empty() {
            return Ok(());
        }
        let spec = self.spec.clone();
        let published = self.session()?.published();
        let messages = message::alerts(&spec, epoch, rows, |route| !published.holds(epoch, route))?;
        self.hold(epoch, messages);
        Ok(())
    }

    fn hold(&mut self, epoch: Epoch, messages: Vec<Message>) {
        if messages.is_empty() {
            return;
        }
        let bytes = messages.iter().map(Message::bytes).sum::<usize>();
        self.metrics.sink_bytes.with_label_values(&[NAME]).inc_by(bytes as u64);
        self.held.extend(messages);
        self.upto = self.upto.max(epoch);
    }

    /// Publishes what is held.
    fn settle(&mut self) -> Result<(), SinkError> {
        if self.held.is_empty() {
            return Ok(());
        }
        self.session()?;
        let session = self.session.as_mut().expect("it was opened in the line before");
        let (wait, count) = (Wait::new(&self.stop, &self.metrics), self.held.len() as u64);
        let retries = self.metrics.sink_retries.with_label_values(&[NAME]);
        session.publish(&self.held, self.upto, &wait, || retries.inc_by(count))?;
        self.held.clear();
        Ok(())
    }
}

impl Deliver for KafkaSink {
    fn deliver(&mut self, epoch: Epoch, rows: &Rows) -> Result<(), SinkError> {
        match rows.table {
            TableName::Readings => self.readings(epoch, rows),
            TableName::Rejected => self.dead_letters(epoch, rows),
            TableName::Alerts => self.alerts(epoch, rows),
            _ => Ok(()),
        }
    }

    fn close(&mut self, _: Epoch) -> Result<(), SinkError> {
        self.settle()
    }

    fn idle(&mut self) -> Result<(), SinkError> {
        self.session()?.attend();
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.settle()
    }
}

#[cfg(test)]
mod real;
#[cfg(test)]
mod tests;
