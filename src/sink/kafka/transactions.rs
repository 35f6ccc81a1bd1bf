//! A transactional producer, used once: whatever goes wrong ends it.
//!
//! librdkafka does not know KIP-890 (<https://cwiki.apache.org/confluence/x/B40ODg>): between two transactions of one producer the epoch
//! stays the same, so a request of the first that was delayed on its way can take effect in the second. Hence
//!
//! 1. after an error of any kind the producer must be dropped; the next one with the same id gets a new epoch, and the broker ends what was open;
//! 2. after a connection was lost in the middle of a transaction, too, although the client has healed it and the transaction was committed:
//!    [`Transactions::is_disturbed`];
//! 3. the last message of a transaction, its progress record, is sent when all others are acknowledged: where it is, they are.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

use super::message::Message;
use super::wait::{Fault, SLICE, Wait};
use crate::sink::SinkError;
use crate::source::kafka::client::creation_error;

/// How long one look for acknowledgements takes; a poll always takes its whole time.
const POLL: Duration = Duration::from_millis(2);
/// How long a commit may take until its result counts as unknown.
const COMMIT_MAX: Duration = Duration::from_secs(30);

/// What has become of messages, and of the connection that they went over.
#[derive(Default)]
pub(super) struct Reports {
    unsettled: AtomicI64,
    /// The first message that was not delivered, or the first that never will be: why, and its topic.
    failed: Mutex<Option<(RDKafkaErrorCode, String)>>,
    /// Where the message that was sent with [`NOTED`] lies.
    offset: AtomicI64,
    disturbed: AtomicBool,
}

/// Opaque of the message whose offset is wanted.
const NOTED: usize = 1;

impl ClientContext for Reports {
    fn log(&self, _: RDKafkaLogLevel, kind: &str, text: &str) {
        // The only sign of it: the client tries again by itself, and reports an error only if it took a request's whole time.
        if kind == "FAIL" && text.contains("in state UP") {
            self.disturbed.store(true, Ordering::SeqCst);
        }
        tracing::debug!(target: "sink::kafka", "{text}");
    }

    fn error(&self, error: KafkaError, _: &str) {
        let code = code(&error);
        tracing::warn!(target: "sink::kafka", %code, "the producer reports an error");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        match result {
            Ok(message) if opaque == NOTED => self.offset.store(message.offset(), Ordering::SeqCst),
            Ok(_) => {}
            Err((error, message)) => self.fail(code(error), message.topic()),
        }
        self.unsettled.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Reports {
    fn failed(&self) -> MutexGuard<'_, Option<(RDKafkaErrorCode, String)>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, code: RDKafkaErrorCode, topic: &str) {
        let mut failed = self.failed();
        if failed.is_none() || is_hopeless(code) {
            *failed = Some((code, topic.to_owned()));
        }
    }
}

/// A producer with an id of its own; one transaction after the other.
pub(super) struct Transactions {
    producer: BaseProducer<Reports>,
    id: String,
}

/// A producer with these settings. Does not connect yet.
pub(super) fn create(client: &ClientConfig, id: &str) -> Result<BaseProducer<Reports>, SinkError> {
    let mut client = client.clone();
    client.set("transactional.id", id).set("enable.idempotence", "true").set("acks", "all");
    client.set("log.connection.close", "true").set_log_level(RDKafkaLogLevel::Info);
    client.create_with_context(Reports::default()).map_err(|error| {
        SinkError::Refused(format!(
            "could not set up the kafka sink: {}; look at sink.kafka.client",
            creation_error(&error)
        ))
    })
}

impl Transactions {
    /// Makes a producer and fences every other one of this id: when it returns, the other's last transaction is committed or aborted, and it can commit no more.
    pub(super) fn begin(client: &ClientConfig, id: String, wait: &Wait<'_>) -> Result<Self, Fault> {
        let producer = create(client, &id)?;
        loop {
            wait.go_on()?;
            match producer.init_transactions(SLICE) {
                Ok(()) => return Ok(Transactions { producer, id }),
                Err(KafkaError::Transaction(error)) if error.is_retriable() => producer.poll(POLL),
                Err(error) => return Err(fault(code(&error), &id)),
            }
        }
    }

    /// Commits these messages, and `last` behind them; returns the offset of `last`.
    ///
    /// After an error nobody knows whether they are committed, and this must be dropped.
    pub(super) fn commit(&self, messages: &[Message], last: &Message, wait: &Wait<'_>) -> Result<i64, Fault> {
        let offset = self.fill(messages, last, wait)?;
        self.end(wait)?;
        Ok(offset)
    }

    /// True if a connection was lost since the last transaction began.
    pub(super) fn is_disturbed(&self) -> bool {
        self.producer.context().disturbed.load(Ordering::SeqCst)
    }

    /// Looks for news.
    pub(super) fn attend(&self) {
        self.producer.poll(POLL);
    }

    /// Begins a transaction and puts everything into it.
    pub(super) fn fill(&self, messages: &[Message], last: &Message, wait: &Wait<'_>) -> Result<i64, Fault> {
        let reports = self.producer.context();
        // What happened since the last transaction does not matter to it, nor to this one.
        self.producer.poll(POLL);
        reports.disturbed.store(false, Ordering::SeqCst);
        reports.offset.store(-1, Ordering::SeqCst);
        self.producer.begin_transaction().map_err(|error| fault(code(&error), &self.id))?;
        messages.iter().try_for_each(|message| self.send(message, 0, wait))?;
        self.settle(wait)?;
        self.send(last, NOTED, wait)?;
        self.settle(wait)?;
        match reports.offset.load(Ordering::SeqCst) {
            // A repetition that the broker recognised has no offset.
            ..0 => Err(Fault::Passing(RDKafkaErrorCode::DuplicateSequenceNumber)),
            offset => Ok(offset),
        }
    }

    /// Commits the transaction.
    pub(super) fn end(&self, wait: &Wait<'_>) -> Result<(), Fault> {
        let began = Instant::now();
        loop {
            let result = self.producer.commit_transaction(SLICE);
            // A connection's loss waits among the client's news.
            self.producer.poll(POLL);
            match result {
                Ok(()) => return Ok(()),
                // The call, not the request, is repeated: the client goes on waiting for the same answer.
                Err(KafkaError::Transaction(error)) if error.is_retriable() && began.elapsed() < COMMIT_MAX => {
                    wait.go_on()?;
                }
                Err(error) => return Err(fault(code(&error), &self.id)),
            }
        }
    }

    /// Hands a message to the client; waits while its queue is full.
    fn send(&self, message: &Message, opaque: usize, wait: &Wait<'_>) -> Result<(), Fault> {
        let mut record = BaseRecord::with_opaque_to(&message.topic, opaque).key(&message.key);
        record.payload = message.value.as_ref();
        record.headers = message.headers.clone();
        self.producer.context().unsettled.fetch_add(1, Ordering::SeqCst);
        loop {
            let (error, back) = match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err(refusal) => refusal,
            };
            match code(&error) {
                RDKafkaErrorCode::QueueFull => record = back,
                code => return Err(fault(code, &message.topic)),
            }
            self.check()?;
            wait.go_on()?;
            self.producer.poll(POLL);
        }
    }

    /// Waits until everything that was sent is acknowledged.
    fn settle(&self, wait: &Wait<'_>) -> Result<(), Fault> {
        while self.producer.context().unsettled.load(Ordering::SeqCst) > 0 {
            wait.go_on()?;
            self.producer.poll(POLL);
            self.check()?;
        }
        self.check()
    }

    fn check(&self) -> Result<(), Fault> {
        match self.producer.context().failed().take() {
            None => Ok(()),
            Some((code, topic)) => Err(fault(code, &topic)),
        }
    }
}

fn code(error: &KafkaError) -> RDKafkaErrorCode {
    match error {
        KafkaError::Transaction(error) => error.code(),
        error => error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown),
    }
}

/// True if no later attempt can succeed.
fn is_hopeless(code: RDKafkaErrorCode) -> bool {
    hint(code).is_some()
}

/// What to do about what no repetition cures.
fn hint(code: RDKafkaErrorCode) -> Option<&'static str> {
    Some(match code {
        RDKafkaErrorCode::MessageSizeTooLarge => "raise message.max.bytes of sink.kafka.client and of the topic",
        RDKafkaErrorCode::InvalidTopic => "a topic's name has letters, digits, '.', '_', '-', at most 249",
        RDKafkaErrorCode::InvalidRecord => "the topic's settings ask for something else, e.g. a schema",
        RDKafkaErrorCode::TransactionalIdAuthorizationFailed => {
            "allow WRITE and DESCRIBE on transactional ids that begin with windkessel.<flow>."
        }
        RDKafkaErrorCode::InvalidTransactionTimeout => {
            "the brokers' transaction.max.timeout.ms is lower than transaction.timeout.ms of sink.kafka.client"
        }
        RDKafkaErrorCode::UnsupportedVersion | RDKafkaErrorCode::UnsupportedFeature => {
            "exactly once needs brokers that know transactions, Kafka 2.5 or newer"
        }
        _ => return None,
    })
}

/// `name` is the topic or the transactional id.
fn fault(code: RDKafkaErrorCode, name: &str) -> Fault {
    match hint(code) {
        Some(hint) => Fault::Final(SinkError::Refused(format!("could not write to {name:?}: {code}; {hint}"))),
        None => Fault::Passing(code),
    }
}
