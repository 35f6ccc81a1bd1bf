//! The progress topic: made if it is missing, checked, and read up to a record.
//!
//! How does a reader know that it has come to the end? Not by the broker's last stable offset: another lane's open transaction holds it back,
//! and what was committed behind it would not be seen. So a lane writes a mark of its own and reads until it meets it: a reader
//! of committed records gets them in order, hence has then seen every record before the mark. But it waits for transactions that are open, up to
//! `transaction.timeout.ms` for one that a crash left behind; so whoever must be fenced is looked for among all records, committed or not.
//!
//! Limits: [`READ_MAX`] for one reading; at least `transaction.timeout.ms` of whoever left a transaction open must fit into it. The topic's
//! segments are [`SEGMENT_BYTES`], since a broker compacts only those that are full.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::ledger::Ledger;
use super::wait::{Fault, SLICE, Wait};
use crate::sink::SinkError;
use crate::source::kafka::client::Quiet;

/// How long reading up to a mark may take until it is begun again: more than a transaction's default timeout of 60 s.
const READ_MAX: Duration = Duration::from_secs(90);
/// How long the broker may take to answer about topics.
const ADMIN_MAX: Duration = Duration::from_secs(10);
/// How long it may take to tell a topic's settings, which it need not.
const SETTINGS_MAX: Duration = Duration::from_secs(2);
/// Size of a segment: some 40,000 records, which are read in well under a second.
const SEGMENT_BYTES: &str = "8388608";
/// One look for records.
const POLL: Duration = Duration::from_millis(50);

/// Which records a reader sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Those of open and aborted transactions, too: enough to know who exists.
    All,
    /// What is true.
    Committed,
}

/// Reads records of the progress topic, from its beginning or a later offset on.
pub(super) struct Reader {
    consumer: BaseConsumer<Quiet>,
    /// The next offset.
    next: i64,
}

impl Reader {
    pub(super) fn new(client: &ClientConfig, group: &str, topic: &str, from: i64, seen: Seen) -> Result<Self, Fault> {
        let isolation = if seen == Seen::All { "read_uncommitted" } else { "read_committed" };
        let mut client = client.clone();
        client
            .set("group.id", group)
            .set("isolation.level", isolation)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Compaction leaves gaps, which are no error; before the beginning there is nothing.
            .set("auto.offset.reset", "earliest");
        let passing = |error: KafkaError| Fault::Passing(code(&error));
        let consumer: BaseConsumer<Quiet> = client.create_with_context(Quiet).map_err(passing)?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, 0, Offset::Offset(from)).map_err(passing)?;
        consumer.assign(&list).map_err(passing)?;
        Ok(Reader { consumer, next: from })
    }

    /// Takes in every record up to and including the one at `mark`, which must be a committed one.
    pub(super) fn read_to(&mut self, mark: i64, ledger: &mut Ledger, wait: &Wait<'_>) -> Result<(), Fault> {
        let began = Instant::now();
        while self.next <= mark {
            wait.go_on()?;
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    ledger.take(message.key().unwrap_or_default(), message.payload())?;
                    self.next = message.offset() + 1;
                }
                Some(Err(error)) => tracing::debug!(target: "sink::kafka", %error, "reading the progress topic"),
                None => {}
            }
            if began.elapsed() > READ_MAX {
                return Err(Fault::Passing(RDKafkaErrorCode::OperationTimedOut));
            }
        }
        Ok(())
    }
}

/// Makes the topic if it is missing, and refuses one that would lose progress.
pub(super) fn ensure(client: &ClientConfig, topic: &str, wait: &Wait<'_>) -> Result<(), Fault> {
    let admin: AdminClient<Quiet> = client.create_with_context(Quiet).map_err(|error| Fault::Passing(code(&error)))?;
    // All topics: asking about one by name would make the broker create it, with its own settings.
    let metadata = loop {
        wait.go_on()?;
        if let Ok(metadata) = admin.inner().fetch_metadata(None, SLICE) {
            break metadata;
        }
    };
    match metadata.topics().iter().find(|known| known.name() == topic && !known.partitions().is_empty()) {
        None => create(&admin, topic),
        Some(known) if known.partitions().len() != 1 => Err(refused(
            topic,
            &format!("it has {} partitions, and progress needs the order of one", known.partitions().len()),
        )),
        Some(_) => check(&admin, topic),
    }
}

fn create(admin: &AdminClient<Quiet>, topic: &str) -> Result<(), Fault> {
    let new = NewTopic::new(topic, 1, TopicReplication::Fixed(-1))
        .set("cleanup.policy", "compact")
        .set("segment.bytes", SEGMENT_BYTES)
        .set("min.cleanable.dirty.ratio", "0.1");
    let answers = answer(admin.create_topics([&new], &options(ADMIN_MAX)))?;
    match answers.into_iter().next() {
        None | Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
        Some(Err((_, why @ (RDKafkaErrorCode::RequestTimedOut | RDKafkaErrorCode::OperationTimedOut)))) => {
            Err(Fault::Passing(why))
        }
        Some(Err((_, why))) => Err(refused(topic, &format!("it is missing and could not be created: {why}"))),
    }
}

/// Only a topic that is compacted, and nothing else, keeps every lane's last record. A broker that does not say is believed.
fn check(admin: &AdminClient<Quiet>, topic: &str) -> Result<(), Fault> {
    let Ok(answers) = answer(admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options(SETTINGS_MAX))) else {
        return Ok(());
    };
    let Some(Ok(settings)) = answers.into_iter().next() else { return Ok(()) };
    match settings.get("cleanup.policy").and_then(|entry| entry.value.as_deref()) {
        None | Some("compact") => Ok(()),
        Some(policy) => Err(refused(topic, &format!("its cleanup.policy is {policy:?}, so progress would be deleted"))),
    }
}

fn refused(topic: &str, why: &str) -> Fault {
    Fault::Final(SinkError::Refused(format!(
        "could not use the topic {topic:?} of sink.kafka.progress_topic: {why}; \
         create it with one partition and cleanup.policy=compact, and allow this flow to read and write it"
    )))
}

fn options(wait: Duration) -> AdminOptions {
    AdminOptions::new().request_timeout(Some(wait)).operation_timeout(Some(wait))
}

fn answer<T>(future: impl Future<Output = Result<T, KafkaError>>) -> Result<T, Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|source| SinkError::Io { action: "make", path: "an executor".into(), source })?;
    runtime.block_on(future).map_err(|error| Fault::Passing(code(&error)))
}

fn code(error: &KafkaError) -> RDKafkaErrorCode {
    error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)
}
