//! Puts records into Kafka: for the embedded broker's feeder and for `windkessel generate`. The engine's own output is `sink/kafka.rs`, not this.
//!
//! Invariants: the order of one partition is the order of the calls (idempotent producer); memory is bounded by librdkafka's queue, a full
//! queue makes [`Producer::send`] wait; every record that could not be delivered is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;

use super::SourceError;
use super::kafka::client;
use super::pace::Pace;
use crate::runtime::stop::Stop;

/// Delivery reports are looked at after so many records.
const SERVE_EVERY: u64 = 256;

/// How long the last records may take.
const FLUSH_WAIT: Duration = Duration::from_secs(60);

/// Counts what happens to records.
#[derive(Default)]
struct Counts {
    delivered: AtomicU64,
    failed: AtomicU64,
}

struct Reports(Arc<Counts>);

impl ClientContext for Reports {
    fn log(&self, _: RDKafkaLogLevel, _: &str, text: &str) {
        tracing::debug!(target: "source", "{text}");
    }

    fn error(&self, _: KafkaError, text: &str) {
        tracing::warn!(target: "source", "Kafka: {text}; the client goes on trying");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let count = if result.is_ok() { &self.0.delivered } else { &self.0.failed };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// One producer of one topic.
pub(crate) struct Producer {
    producer: BaseProducer<Reports>,
    counts: Arc<Counts>,
    topic: String,
    sent: u64,
}

impl Producer {
    /// For settings as [`client::configuration`] made them; sets what does not change between uses.
    ///
    /// # Errors
    /// [`SourceError::Configuration`] if librdkafka refuses a setting.
    pub(crate) fn new(mut settings: ClientConfig, topic: &str) -> Result<Self, SourceError> {
        settings
            .set("enable.idempotence", "true")
            // What Java's clients do with the same keys, so that topics filled by either agree.
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "5")
            .set("batch.size", (256 << 10).to_string())
            .set("queue.buffering.max.kbytes", (64 << 10).to_string());
        let counts = Arc::new(Counts::default());
        let producer = settings.create_with_context(Reports(Arc::clone(&counts)));
        let producer = producer.map_err(|why| client::creation_error(&why))?;
        Ok(Producer { producer, counts, topic: topic.to_owned(), sent: 0 })
    }

    /// Queues a record; waits while the queue is full. `partition` `None` lets the key decide.
    ///
    /// # Errors
    /// [`SourceError::Unavailable`] if it can never be sent.
    pub(crate) fn send(
        &mut self,
        partition: Option<i32>,
        key: Option<&[u8]>,
        payload: &[u8],
        stop: &Stop,
    ) -> Result<(), SourceError> {
        let mut record = BaseRecord::<[u8], [u8]>::to(&self.topic).payload(payload);
        record.key = key;
        record.partition = partition;
        while let Err((why, back)) = self.producer.send(record) {
            if why.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) || stop.abandon() {
                return Err(SourceError::Unavailable(format!("could not produce to topic {:?}: {why}", self.topic)));
            }
            record = back;
            self.producer.poll(Duration::from_millis(5));
        }
        self.sent += 1;
        if self.sent.is_multiple_of(SERVE_EVERY) {
            self.serve(Duration::ZERO);
        }
        Ok(())
    }

    /// Waits for a pace, looking at delivery reports meanwhile. False if it was asked to stop.
    pub(crate) fn wait(&self, pace: &Pace, ordinal: u64, stop: &Stop) -> bool {
        pace.wait(ordinal, stop, &mut || self.serve(Duration::ZERO))
    }

    /// Looks at delivery reports, waiting for one up to `wait`.
    pub(crate) fn serve(&self, wait: Duration) {
        self.producer.poll(wait);
    }

    /// Records that have arrived.
    pub(crate) fn delivered(&self) -> u64 {
        self.counts.delivered.load(Ordering::Relaxed)
    }

    /// Records that have not, and never will.
    pub(crate) fn failed(&self) -> u64 {
        self.counts.failed.load(Ordering::Relaxed)
    }

    /// Waits until everything has arrived or failed.
    ///
    /// # Errors
    /// [`SourceError::Unavailable`], with how many are missing, if some failed or it took longer than a minute.
    pub(crate) fn finish(self, stop: &Stop) -> Result<u64, SourceError> {
        let begun = Instant::now();
        while self.producer.in_flight_count() > 0 && begun.elapsed() < FLUSH_WAIT && !stop.abandon() {
            // In pieces, so that a second request to stop is noticed.
            let _ = self.producer.flush(Duration::from_millis(200));
        }
        match self.sent - self.delivered() {
            0 => Ok(self.delivered()),
            missing => Err(SourceError::Unavailable(format!(
                "{missing} of {} records did not reach topic {:?}; is the broker up, and may this user write there?",
                self.sent, self.topic
            ))),
        }
    }
}
