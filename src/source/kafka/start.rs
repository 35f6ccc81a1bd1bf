//! How a Kafka source starts: brokers are reached, partitions looked up, and for each partition of this worker it is decided where to begin
//! and, with `--until end`, where to stop.
//!
//! The only part of the source that waits, each step for at most [`Waits`]. The decision itself is [`begin`], a pure function.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::batch::{Described, Event, Fetcher, describe};
use super::client::{self, Quiet};
use super::discover::vanished;
use crate::config::{SourceSpec, Start};
use crate::runtime::stop::Stop;
use crate::source::{Opening, SourceError, Topics};
use crate::vocabulary::{Partition, TopicId};

/// How long opening may wait.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// For brokers to answer at all.
    pub brokers: Duration,
    /// For a topic to exist: one that was only just made is not known everywhere at once.
    pub topic: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Waits { brokers: Duration::from_secs(15), topic: Duration::from_secs(5) }
    }
}

/// A single question to the brokers waits this long, so that a request to stop is noticed.
pub(super) const QUESTION_WAIT: Duration = Duration::from_secs(1);

/// One partition of this worker, and where it begins.
pub(super) struct Planned {
    /// Which.
    pub(super) partition: Partition,
    /// Its topic's name.
    pub(super) topic: String,
    /// Where reading begins, for librdkafka: a number, or the beginning (which may move until it is read).
    pub(super) offset: Offset,
    /// The same as a number, as far as known now.
    pub(super) position: i64,
    /// The end now.
    pub(super) end: i64,
}

/// What the broker says of one partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The oldest offset that is kept.
    low: i64,
    /// The next offset to be written (or the last stable one, below an open transaction).
    high: i64,
}

/// A consumer for the flow file's settings and those the engine needs.
pub(super) fn consumer(spec: &SourceSpec) -> Result<Fetcher, SourceError> {
    let mut settings = client::configuration(&spec.brokers, &spec.client, &spec.client_files)?;
    if spec.group.is_empty() {
        return Err(SourceError::Configuration(
            "source.group is empty; name the group that offsets are published under".into(),
        ));
    }
    settings
        .set("group.id", &spec.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        // A vanished offset must stop the run, never move it silently.
        .set("auto.offset.reset", "error")
        // Figures about the client, pushed to the broker if it asks: nobody has asked for them here.
        .set("enable.metrics.push", "false")
        .set("queued.max.messages.kbytes", spec.queue_kib.to_string())
        .set_log_level(RDKafkaLogLevel::Warning);
    // A response may hold as much as the queue, so that the queue's limit is not exceeded many times over by one answer;
    // librdkafka insists on at least its `message.max.bytes`, a megabyte.
    let response_bytes = (u64::from(spec.queue_kib) * 1024).clamp(1 << 20, 64 << 20);
    default(&mut settings, "fetch.max.bytes", &response_bytes.to_string());
    // Measured: with librdkafka's own second of backoff a full queue empties before it asks again.
    default(&mut settings, "fetch.queue.backoff.ms", "1");
    // First guess for a partition's part of a response; librdkafka doubles it when a record is larger.
    default(&mut settings, "fetch.message.max.bytes", &(1 << 20).to_string());
    let consumer = settings.create_with_context(Quiet).map_err(|why| client::creation_error(&why))?;
    Fetcher::new(consumer).ok_or_else(|| SourceError::Unavailable("librdkafka made a consumer without a queue".into()))
}

/// A client that only asks.
pub(super) fn asking(spec: &SourceSpec) -> Result<BaseConsumer<Quiet>, SourceError> {
    let mut settings = client::configuration(&spec.brokers, &spec.client, &spec.client_files)?;
    settings.set("enable.metrics.push", "false").set_log_level(RDKafkaLogLevel::Warning);
    settings.create_with_context(Quiet).map_err(|why| client::creation_error(&why))
}

/// The id of each topic that exists and has one; none if nobody tells within [`Waits::topic`]: opening says whether brokers can be reached at all.
pub(super) fn topic_ids(
    spec: &SourceSpec,
    topics: &Topics,
    stop: &Stop,
    waits: Waits,
) -> Result<BTreeMap<String, String>, SourceError> {
    let client = asking(spec)?;
    let names: Vec<&str> = topics.names().collect();
    let begun = Instant::now();
    let described = loop {
        match describe(&client, &names, QUESTION_WAIT) {
            Ok(described) => break described,
            Err(why) if stop.drain() || begun.elapsed() >= waits.topic => {
                tracing::warn!(target: "source", "could not ask for the ids of the topics: {why}; whether one was made anew is not noticed at this start");
                break Vec::new();
            }
            Err(_) => std::thread::sleep(QUESTION_WAIT / 10),
        }
    };
    Ok(described.into_iter().filter_map(|Described { topic, id, .. }| Some((topic, id?))).collect())
}

fn default(settings: &mut ClientConfig, key: &str, value: &str) {
    if settings.get(key).is_none() {
        settings.set(key, value);
    }
}

/// The partitions of this worker with their beginnings and ends.
pub(super) fn plan(
    fetcher: &mut Fetcher,
    spec: &SourceSpec,
    opening: &Opening<'_>,
    waits: Waits,
) -> Result<Vec<Planned>, SourceError> {
    let mut wanted = Vec::new();
    for ((id, topic), numbers) in (0..).zip(opening.topics.names()).zip(partitions(fetcher, spec, opening, waits)?) {
        for number in numbers {
            if opening.share.takes(topic, number) {
                wanted.push((Partition { topic: TopicId(id), number }, topic));
            }
        }
    }
    wanted.sort_unstable();
    let committed = committed(fetcher, spec, &wanted, opening, waits)?;
    wanted
        .iter()
        .zip(committed)
        .map(|(&(partition, topic), committed)| {
            let ask = |fetcher: &Fetcher| fetcher.consumer().fetch_watermarks(topic, partition.number, QUESTION_WAIT);
            let (low, high) = insist(fetcher, spec, opening.stop, waits.brokers, ask)?;
            let bounds = Bounds { low, high };
            // One that came while nobody looked: all of it is new.
            let others_are_known = opening.resume.keys().any(|known| known.topic == partition.topic);
            let start = if others_are_known { Start::Earliest } else { spec.start };
            let offset = begin(start, opening.resume.get(&partition).copied(), committed, bounds)
                .map_err(|lost| lost.explain(topic, partition.number))?;
            let position = match offset {
                Offset::Offset(offset) => offset,
                _ => low,
            };
            Ok(Planned { partition, topic: topic.to_owned(), offset, position, end: high })
        })
        .collect()
}

/// Where a partition begins: where durable state says, else as configured. An offset out of bounds is an error, never a reset.
fn begin(start: Start, resume: Option<i64>, committed: Option<i64>, bounds: Bounds) -> Result<Offset, Lost> {
    let named = match (resume, start) {
        (Some(offset), _) => offset,
        (None, Start::Latest) => bounds.high,
        (None, Start::Committed) if committed.is_some() => committed.expect("just tested"),
        // By name, not by number: retention may pass the number before it is read.
        (None, Start::Earliest | Start::Committed) => return Ok(Offset::Beginning),
    };
    if (bounds.low..=bounds.high).contains(&named) { Ok(Offset::Offset(named)) } else { Err(Lost { named, bounds }) }
}

/// An offset that is not there.
#[derive(Debug)]
struct Lost {
    named: i64,
    bounds: Bounds,
}

impl Lost {
    fn explain(&self, topic: &str, number: i32) -> SourceError {
        let Lost { named, bounds: Bounds { low, high } } = self;
        let what = if named < low {
            format!("retention has deleted the {} records before offset {low}", low - named)
        } else {
            format!("the partition ends at offset {high}: the topic was made anew or truncated")
        };
        SourceError::Configuration(format!(
            "could not go on at offset {named} of partition {number} of topic {topic:?}: {what}; {ACCEPT_LOSS}"
        ))
    }
}

/// The way out of lost offsets, which nobody but the operator may take.
pub(super) const ACCEPT_LOSS: &str =
    "to accept the loss, start with --set 'source.start=\"earliest\"' and an empty state.path";

/// The partition numbers of each topic, in the order of [`Topics`](crate::source::Topics).
fn partitions(
    fetcher: &mut Fetcher,
    spec: &SourceSpec,
    opening: &Opening<'_>,
    waits: Waits,
) -> Result<Vec<Vec<i32>>, SourceError> {
    let begun = Instant::now();
    loop {
        // All topics at once: rdkafka 0.39 lets go of a single topic's handle before it asks about it.
        let metadata = insist(fetcher, spec, opening.stop, waits.brokers, |fetcher| {
            fetcher.consumer().fetch_metadata(None, QUESTION_WAIT)
        })?;
        let numbers = |name: &str| -> Result<Vec<i32>, SourceError> {
            let topic = metadata.topics().iter().find(|topic| topic.name() == name && !topic.partitions().is_empty());
            let topic = topic.ok_or_else(|| unknown(name, spec))?;
            let numbers = topic.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect();
            complete(numbers, name, opening)
        };
        match opening.topics.names().map(numbers).collect() {
            Err(_) if begun.elapsed() < waits.topic => std::thread::sleep(QUESTION_WAIT / 4),
            result => return result,
        }
    }
}

fn unknown(topic: &str, spec: &SourceSpec) -> SourceError {
    SourceError::Configuration(format!(
        "topic {topic:?} does not exist at {}, or may not be described by this user; create it or correct source.topics",
        spec.brokers
    ))
}

/// Whatever durable state has read of must be there: nobody else would repeat it.
fn complete(numbers: Vec<i32>, topic: &str, opening: &Opening<'_>) -> Result<Vec<i32>, SourceError> {
    let known = opening.resume.keys().filter(|known| Some(known.topic) == opening.topics.id(topic));
    match known.map(|known| known.number).find(|number| !numbers.contains(number)) {
        Some(number) => Err(vanished(topic, number)),
        None => Ok(numbers),
    }
}

/// The group's committed offsets, one per wanted partition; not asked for unless they can matter.
fn committed(
    fetcher: &mut Fetcher,
    spec: &SourceSpec,
    wanted: &[(Partition, &str)],
    opening: &Opening<'_>,
    waits: Waits,
) -> Result<Vec<Option<i64>>, SourceError> {
    if spec.start != Start::Committed || wanted.iter().all(|(partition, _)| opening.resume.contains_key(partition)) {
        return Ok(vec![None; wanted.len()]);
    }
    let mut list = TopicPartitionList::new();
    for (partition, topic) in wanted {
        list.add_partition(topic, partition.number);
    }
    let answer = insist(fetcher, spec, opening.stop, waits.brokers, |fetcher| {
        fetcher.consumer().committed_offsets(list.clone(), QUESTION_WAIT * 5)
    })?;
    let offset = |topic: &str, number| match answer.find_partition(topic, number)?.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    };
    Ok(wanted.iter().map(|(partition, topic)| offset(topic, partition.number)).collect())
}

/// Asks until there is an answer, it is time to stop, or `wait` is over.
fn insist<T>(
    fetcher: &mut Fetcher,
    spec: &SourceSpec,
    stop: &Stop,
    wait: Duration,
    ask: impl Fn(&Fetcher) -> Result<T, KafkaError>,
) -> Result<T, SourceError> {
    let begun = Instant::now();
    let mut reason = String::new();
    loop {
        let why = match ask(fetcher) {
            Ok(answer) => return Ok(answer),
            Err(why) => why,
        };
        fetcher.events(&mut |event| {
            // The last one that is not merely a summary: "Connection refused" helps, "1/1 brokers are down" does not.
            if let Event::Error(code, text) = event
                && (code != Code::AllBrokersDown || reason.is_empty())
            {
                text.clone_into(&mut reason);
            }
        });
        if stop.drain() {
            return Err(SourceError::Unavailable("stopped before the source was open".into()));
        }
        if hopeless(&why).is_break() || begun.elapsed() >= wait {
            let reason = if reason.is_empty() { why.to_string() } else { reason };
            return Err(SourceError::Unavailable(format!(
                "could not reach Kafka at {} within {} s: {reason}; check source.brokers and that the broker is up",
                spec.brokers,
                begun.elapsed().as_secs()
            )));
        }
        std::thread::sleep(QUESTION_WAIT / 10);
    }
}

/// Breaks for what waiting does not cure.
fn hopeless(why: &KafkaError) -> ControlFlow<()> {
    match why.rdkafka_error_code() {
        Some(Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed | Code::Fatal) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    }
}

#[cfg(test)]
mod tests {
    //! Proves where a partition begins.
    use super::*;

    #[test]
    fn durable_state_comes_first_then_the_committed_offset_then_the_beginning() {
        let bounds = Bounds { low: 10, high: 20 };
        let cases = [
            (Start::Committed, Some(15), Some(12), Offset::Offset(15)),
            (Start::Latest, Some(15), None, Offset::Offset(15)),
            (Start::Committed, None, Some(12), Offset::Offset(12)),
            (Start::Committed, None, Some(20), Offset::Offset(20)),
            (Start::Committed, None, None, Offset::Beginning),
            (Start::Earliest, None, Some(12), Offset::Beginning),
            (Start::Latest, None, Some(12), Offset::Offset(20)),
        ];
        for (start, resume, committed, expected) in cases {
            assert_eq!(
                begin(start, resume, committed, bounds).unwrap(),
                expected,
                "{start:?} {resume:?} {committed:?}"
            );
        }
    }

    #[test]
    fn an_offset_that_is_gone_is_an_error_that_says_what_was_lost() {
        let bounds = Bounds { low: 10, high: 20 };
        let text =
            |named| begin(Start::Committed, Some(named), None, bounds).unwrap_err().explain("bp-obs", 3).to_string();
        assert_eq!(
            text(7),
            "could not go on at offset 7 of partition 3 of topic \"bp-obs\": retention has deleted the 3 records before offset 10; \
             to accept the loss, start with --set 'source.start=\"earliest\"' and an empty state.path"
        );
        assert!(text(21).contains("made anew"));
    }
}
