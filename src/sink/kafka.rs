//! Kafka: assessed readings to one topic, rejections to dead-letter topics.
//!
//! ```text
//! readings ─filter─> <topic>                        key = patient's pseudonym, value = the row as JSON, header epoch
//! rejected ────────> error.<source topic>.<group>   key = topic/partition/offset/entry, value = rule, detail and position as JSON,
//!                                                   headers x-error-type, x-error-message, x-source-topic, -partition, -offset, epoch
//! ```
//!
//! Invariants:
//!
//! 1. A dead letter holds neither the payload nor the key of its record: both identify people. The position says where they are.
//! 2. Settled (`close`) means acknowledged by all in-sync replicas.
//!
//! The producer is idempotent, so its own retries neither lose, double nor reorder. What it gives up on (a topic that is missing, a
//! permission) is sent again until it arrives or the run is abandoned; such messages come behind later ones of the same key, and if
//! the client had to be made anew (librdkafka's "fatal" errors), those in flight may arrive twice. librdkafka looks again for a topic
//! that refused only every `topic.metadata.refresh.interval.ms`, which is set to 10 s here.
//! After a crash, epochs that were not settled are sent again: at least once, and the header `epoch` tells repetitions apart.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, StringArray};
use arrow::datatypes::{Int32Type, Int64Type};
use rdkafka::ClientContext;
use rdkafka::Timestamp;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

use crate::config::{KafkaSinkSpec, TableName};
use crate::runtime::metrics::Metrics;
use crate::runtime::stop::Stop;
use crate::sink::filter::Filter;
use crate::sink::{Deliver, Rows, SinkError, json};
use crate::time::Epoch;

/// The sink's name in metrics.
const NAME: &str = "kafka";
/// How long one look for acknowledgements takes; a poll always takes its whole time.
const POLL: Duration = Duration::from_millis(2);
/// Pause before messages that the client gave up on are sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// From this long on, a sink that waits says so in the metrics.
const WAITING_SHOWN_AFTER: Duration = Duration::from_secs(1);

/// The Kafka sink of one worker.
pub struct KafkaSink {
    producer: BaseProducer<Deliveries>,
    client: ClientConfig,
    spec: KafkaSinkSpec,
    group: String,
    stop: Stop,
    metrics: Metrics,
}

/// What has become of messages: handed over and not heard of, and given up on by the client. Filled while the producer is polled, which only the sink's thread does.
#[derive(Default)]
struct Deliveries {
    unsettled: AtomicI64,
    failed: Mutex<Vec<(RDKafkaErrorCode, OwnedMessage)>>,
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, _: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        tracing::warn!(target: "sink::kafka", %code, "the producer reports an error and goes on");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => drop(self.unsettled.fetch_sub(1, Ordering::Relaxed)),
            Err((error, message)) => {
                self.give_up(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown), message.detach());
            }
        }
    }
}

impl Deliveries {
    fn failed(&self) -> MutexGuard<'_, Vec<(RDKafkaErrorCode, OwnedMessage)>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client no longer tries; the message waits here.
    fn give_up(&self, code: RDKafkaErrorCode, message: OwnedMessage) {
        self.failed().push((code, message));
        self.unsettled.fetch_sub(1, Ordering::Relaxed);
    }

    fn take_failed(&self) -> Vec<(RDKafkaErrorCode, OwnedMessage)> {
        std::mem::take(&mut *self.failed())
    }

    fn is_settled(&self) -> bool {
        self.unsettled.load(Ordering::Relaxed) == 0 && self.failed().is_empty()
    }
}

impl KafkaSink {
    /// A sink that writes with these client settings (brokers, security, tuning), to which it adds idempotence.
    /// `group` is the source's, for the dead-letter topics' names. Does not connect; refuses settings that librdkafka does not take.
    pub fn new(
        spec: &KafkaSinkSpec,
        mut client: ClientConfig,
        group: &str,
        stop: Stop,
        metrics: Metrics,
    ) -> Result<Self, SinkError> {
        for (key, value) in [
            ("linger.ms", "5"),
            ("compression.codec", "zstd"),
            ("queue.buffering.max.kbytes", "16384"),
            ("topic.metadata.refresh.interval.ms", "10000"),
            // Without end: a broker that is away makes the sink wait, not lose.
            ("message.timeout.ms", "0"),
        ] {
            if client.get(key).is_none() {
                client.set(key, value);
            }
        }
        client.set("enable.idempotence", "true").set("acks", "all");
        let producer = create(&client)?;
        Ok(KafkaSink { producer, client, spec: spec.clone(), group: group.to_string(), stop, metrics })
    }

    fn readings(&mut self, epoch: Epoch, rows: &Rows) -> Result<(), SinkError> {
        if self.spec.topic.is_empty() {
            return Ok(());
        }
        let filter = Filter::new(self.spec.readings, rows);
        let lines = encoded(rows, &[], |row| filter.passes(row))?;
        let patients = texts(rows, "patient");
        for row in 0..lines.len() {
            let Some(value) = lines.object(row) else { continue };
            let headers = OwnedHeaders::new_with_capacity(1).insert(text("epoch", &epoch.to_string()));
            self.send(&self.spec.topic, patients.value(row).as_bytes(), value, headers)?;
        }
        Ok(())
    }

    fn dead_letters(&mut self, epoch: Epoch, rows: &Rows) -> Result<(), SinkError> {
        if self.spec.dead_letter_topic.is_empty() {
            return Ok(());
        }
        const FIELDS: [&str; 7] = ["rule", "detail", "index", "topic", "partition", "offset", "entry"];
        let lines = encoded(rows, &FIELDS, |_| true)?;
        let (topics, rules, details) = (texts(rows, "topic"), texts(rows, "rule"), texts(rows, "detail"));
        let partitions = column(rows, "partition").as_primitive::<Int32Type>();
        let offsets = column(rows, "offset").as_primitive::<Int64Type>();
        let entries = column(rows, "entry").as_primitive::<Int64Type>();
        for row in 0..lines.len() {
            let Some(value) = lines.object(row) else { continue };
            let (topic, partition) = (topics.value(row), partitions.value(row).to_string());
            let offset = offsets.value(row).to_string();
            let key = format!("{topic}/{partition}/{offset}/{}", entries.value(row));
            let headers = OwnedHeaders::new_with_capacity(6)
                .insert(text("x-error-type", rules.value(row)))
                .insert(text("x-error-message", details.value(row)))
                .insert(text("x-source-topic", topic))
                .insert(text("x-source-partition", &partition))
                .insert(text("x-source-offset", &offset))
                .insert(text("epoch", &epoch.to_string()));
            self.send(&dead_letter_topic(&self.spec, topic, &self.group), key.as_bytes(), value, headers)?;
            self.metrics.dead_letters.with_label_values(&[rules.value(row)]).inc();
        }
        Ok(())
    }

    /// Hands a message to the client; waits while its queue is full.
    fn send(&self, topic: &str, key: &[u8], value: &[u8], headers: OwnedHeaders) -> Result<(), SinkError> {
        let mut record = BaseRecord::to(topic).key(key).payload(value).headers(headers);
        let context = self.producer.context();
        self.metrics.sink_bytes.with_label_values(&[NAME]).inc_by((key.len() + value.len()) as u64);
        context.unsettled.fetch_add(1, Ordering::Relaxed);
        loop {
            let (error, back) = match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err(refusal) => refusal,
            };
            match error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown) {
                RDKafkaErrorCode::QueueFull => {
                    record = back;
                    self.may_wait()?;
                    self.producer.poll(POLL);
                }
                // The topic or the whole client takes nothing at present: `attend` sees to it.
                code => {
                    context.give_up(code, owned(&back));
                    return Ok(());
                }
            }
        }
    }

    /// Looks for acknowledgements; sends again what the client gave up on, unless trying again is no use.
    fn attend(&mut self) -> Result<(), SinkError> {
        self.producer.poll(POLL);
        let failed = match self.producer.client().fatal_error() {
            Some((code, _)) => self.renew(code)?,
            None => self.producer.context().take_failed(),
        };
        let Some((code, _)) = failed.first() else { return Ok(()) };
        tracing::warn!(target: "sink::kafka", %code, count = failed.len(), "messages were not delivered; sending them again");
        if let Some((code, message)) = failed.iter().find(|(code, _)| is_hopeless(*code)) {
            return Err(refused(*code, message.topic()));
        }
        self.may_wait()?;
        self.metrics.sink_retries.with_label_values(&[NAME]).inc_by(failed.len() as u64);
        self.producer.poll(RETRY_PAUSE);
        failed.into_iter().try_for_each(|(_, message)| self.again(message))
    }

    /// A new client in place of one that has failed for good; returns what the old one had not delivered.
    fn renew(&mut self, code: RDKafkaErrorCode) -> Result<Vec<(RDKafkaErrorCode, OwnedMessage)>, SinkError> {
        let context = self.producer.context().clone();
        let fresh = create(&self.client)?;
        // Dropping a producer returns all it holds as failed.
        drop(std::mem::replace(&mut self.producer, fresh));
        match context.unsettled.load(Ordering::Relaxed) {
            0 => Ok(context.take_failed()),
            _ => Err(refused(code, &self.spec.topic)),
        }
    }

    fn again(&self, message: OwnedMessage) -> Result<(), SinkError> {
        let headers = message.headers().map_or_else(OwnedHeaders::new, |headers| headers.as_borrowed().detach());
        self.send(message.topic(), message.key().unwrap_or_default(), message.payload().unwrap_or_default(), headers)
    }

    fn may_wait(&self) -> Result<(), SinkError> {
        if self.stop.abandon() { Err(SinkError::Stopped) } else { Ok(()) }
    }

    /// Waits until everything that was sent is acknowledged.
    fn settle(&mut self) -> Result<(), SinkError> {
        let (began, waiting) = (Instant::now(), self.metrics.sink_waiting.with_label_values(&[NAME]));
        while !self.producer.context().is_settled() {
            self.may_wait()?;
            self.attend()?;
            waiting.set(i64::from(began.elapsed() >= WAITING_SHOWN_AFTER));
        }
        waiting.set(0);
        Ok(())
    }
}

impl Deliver for KafkaSink {
    fn deliver(&mut self, epoch: Epoch, rows: &Rows) -> Result<(), SinkError> {
        match rows.table {
            TableName::Readings => self.readings(epoch, rows),
            TableName::Rejected => self.dead_letters(epoch, rows),
            TableName::Windows | TableName::Shifts => Ok(()),
        }
    }

    fn close(&mut self, _: Epoch) -> Result<(), SinkError> {
        self.settle()
    }

    fn idle(&mut self) -> Result<(), SinkError> {
        self.attend()
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.settle()
    }
}

fn create(client: &ClientConfig) -> Result<BaseProducer<Deliveries>, SinkError> {
    client.create_with_context(Deliveries::default()).map_err(|error| {
        SinkError::Refused(format!("could not set up the kafka sink: {error}; look at sink.kafka.client"))
    })
}

/// A message as the client would have given it back.
fn owned(record: &BaseRecord<'_, [u8], [u8]>) -> OwnedMessage {
    OwnedMessage::new(
        record.payload.map(<[u8]>::to_vec),
        record.key.map(<[u8]>::to_vec),
        record.topic.to_string(),
        Timestamp::NotAvailable,
        0,
        0,
        record.headers.clone(),
    )
}

/// Where rejections of a source topic go; `auto` follows the convention `error.<source topic>.<group>`.
pub fn dead_letter_topic(spec: &KafkaSinkSpec, source: &str, group: &str) -> String {
    match spec.dead_letter_topic.as_str() {
        "auto" => format!("error.{source}.{group}"),
        named => named.to_string(),
    }
}

/// True if no later attempt can succeed: the message itself is refused.
fn is_hopeless(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidTopic | RDKafkaErrorCode::InvalidRecord
    )
}

fn refused(code: RDKafkaErrorCode, topic: &str) -> SinkError {
    let hint = match code {
        RDKafkaErrorCode::MessageSizeTooLarge => "raise message.max.bytes of sink.kafka.client and of the topic",
        RDKafkaErrorCode::InvalidTopic => "a topic's name has letters, digits, '.', '_', '-', at most 249",
        _ => "restart: unsettled epochs are sent again",
    };
    SinkError::Refused(format!("could not write to topic {topic:?}: {code}; {hint}"))
}

fn encoded(rows: &Rows, columns: &[&str], keep: impl Fn(usize) -> bool) -> Result<json::JsonRows, SinkError> {
    let fields = columns.iter().map(|column| (column.to_string(), column.to_string())).collect();
    json::rows_where(&rows.batch, &fields, keep).map_err(|error| SinkError::Refused(error.to_string()))
}

fn column<'a>(rows: &'a Rows, name: &str) -> &'a dyn Array {
    rows.batch.column_by_name(name).expect("the table's schema is fixed")
}

fn texts<'a>(rows: &'a Rows, name: &str) -> &'a StringArray {
    column(rows, name).as_string()
}

fn text<'a>(key: &'a str, value: &'a str) -> Header<'a, &'a str> {
    Header { key, value: Some(value) }
}

#[cfg(test)]
mod tests;
