//! Records from Kafka, through librdkafka: static assignment, no group protocol, batches.
//!
//! ```text
//! broker ─> librdkafka's threads ─> its queue (source.queue_kib) ─batch─> Records      poll(): copies, never waits
//!                                   main queue ─> events ─> log (rate-limited)
//! ```
//!
//! Invariants:
//!
//! 1. Records of a partition are delivered in offset order, each once; offsets may have gaps (transactions, compaction).
//! 2. An offset that is not there stops the run with [`SourceError`]; nothing resets silently (`auto.offset.reset=error`).
//! 3. A broker that is down is waited for: its partitions stand still, the others go on, and none of them becomes idle meanwhile.
//! 4. With `until_end` a partition ends exactly at the end offset seen at the start, whether or not the last offset holds a record; and
//!    nothing is looked for that is added later.
//! 5. A partition that is added is opened in an earlier poll than its first record comes in.
//!
//! Limits: 2,048 messages a poll, and at most one record beyond the bytes asked for. A key of more than [`KEY_BYTES_MAX`] is dropped.
//! Partitions that are added while it runs are looked for every `source.discovery_seconds`, by a thread of its own.

mod batch;
pub mod client;
mod discover;
mod start;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaErrorCode as Code;

use self::batch::{Event, Fetched, Fetcher, Message};
pub(super) use self::discover::made_anew;
use self::discover::{Discovery, Found, vanished};
pub use self::start::Waits;
use self::start::{ACCEPT_LOSS, Planned};
use crate::config::{OutcomeInputs, SourceSpec};
use crate::identified::{Mark, Payload, Record, Records};
use crate::runtime::stop::Stop;
use crate::source::{Lag, Opening, Poll, Polled, Progress, SourceError, Topics};
use crate::time::IngestTime;
use crate::vocabulary::{Partition, Position};

/// A key longer than this is no key of anything (a FHIR id has at most 64 characters); the record is delivered without it.
pub const KEY_BYTES_MAX: usize = 1_024;

/// Partitions are looked over for idleness this often.
const IDLE_CHECK_EVERY: Duration = Duration::from_millis(250);

/// The configured topics.
pub(super) fn topics(spec: &SourceSpec) -> Result<Topics, SourceError> {
    if spec.topics.is_empty() || spec.topics.iter().any(String::is_empty) {
        return Err(SourceError::Configuration("source.topics must name at least one topic, e.g. [\"bp-obs\"]".into()));
    }
    let of_outcomes = match &spec.outcomes {
        Some(OutcomeInputs::Topics(topics)) => topics.as_slice(),
        _ => &[],
    };
    Ok(Topics::new(spec.topics.iter().chain(of_outcomes).cloned()))
}

/// Which topic each name stands for just now; none for brokers that do not number topics, or do not answer. A topic that is deleted and made
/// anew gets another id.
///
/// # Errors
/// [`SourceError::Configuration`] for settings that cannot work.
pub(super) fn topic_ids(
    spec: &SourceSpec,
    topics: &Topics,
    stop: &Stop,
) -> Result<BTreeMap<String, String>, SourceError> {
    start::topic_ids(spec, topics, stop, Waits::default())
}

/// One worker's share of some topics.
pub struct KafkaSource {
    /// `None` for a worker that will never have partitions: it needs no connection.
    fetcher: Option<Fetcher>,
    /// `None` if nothing is looked for.
    discovery: Option<Discovery>,
    reading: Reading,
    stop: Stop,
    progress: Option<Progress>,
    idle: Option<Duration>,
    idle_checked: Instant,
    committed: BTreeMap<Partition, i64>,
    /// Partitions that librdkafka was told to leave alone for the time being.
    paused: BTreeSet<Partition>,
}

/// Everything about the partitions, apart from the client.
struct Reading {
    topics: Topics,
    /// Ascending by partition.
    partitions: Vec<Reader>,
    record_bytes_max: usize,
    until_end: bool,
    /// Not delivered yet.
    marks: Vec<Mark>,
    /// Ended since librdkafka was last told.
    ended: Vec<usize>,
    /// Topic token and number of the previous message, and its partition's index.
    run: Option<(usize, i32, usize)>,
    now: Instant,
    failed: Option<SourceError>,
    trouble: Trouble,
}

/// How far one partition is.
struct Reader {
    partition: Partition,
    /// The next offset.
    position: i64,
    /// The end offset when it was opened.
    end: i64,
    ended: bool,
    /// The broker has said that there is nothing behind `position`.
    at_end: bool,
    idle: bool,
    /// When the last record came.
    quiet_since: Instant,
}

impl Reader {
    fn new(plan: &Planned, until_end: bool, now: Instant) -> Reader {
        Reader {
            partition: plan.partition,
            position: plan.position,
            end: plan.end,
            ended: until_end && plan.position >= plan.end,
            at_end: false,
            idle: false,
            quiet_since: now,
        }
    }
}

impl KafkaSource {
    /// Connects, looks up the partitions and begins to fetch those of this worker.
    ///
    /// # Errors
    /// [`SourceError::Configuration`] for settings, topics or offsets that cannot work; [`SourceError::Unavailable`] if no broker answers within `waits`.
    pub fn open(spec: &SourceSpec, opening: &Opening<'_>, waits: Waits) -> Result<Self, SourceError> {
        let mut fetcher = start::consumer(spec)?;
        let planned = start::plan(&mut fetcher, spec, opening, waits)?;
        KafkaSource::assigned(fetcher, spec, opening, &planned)
    }

    /// Begins to fetch what is planned.
    fn assigned(
        fetcher: Fetcher,
        spec: &SourceSpec,
        opening: &Opening<'_>,
        planned: &[Planned],
    ) -> Result<Self, SourceError> {
        let reading = Reading::new(spec, opening, planned);
        let mut assignment = TopicPartitionList::new();
        for (plan, reader) in planned.iter().zip(&reading.partitions) {
            if !reader.ended {
                let added = assignment.add_partition_offset(&plan.topic, plan.partition.number, plan.offset);
                added.map_err(|why| unavailable("assign partitions", &why))?;
            }
        }
        let looks = !opening.until_end && spec.discovery_seconds > 0;
        let discovery = looks.then(|| Discovery::start(start::asking(spec)?, spec, opening, planned)).transpose()?;
        let fetcher = if assignment.count() == 0 && !looks {
            None
        } else {
            fetcher.consumer().assign(&assignment).map_err(|why| unavailable("assign partitions", &why))?;
            Some(fetcher)
        };
        let idle = (spec.idle != crate::time::EventSpan::UNBOUNDED)
            .then(|| Duration::from_micros(u64::try_from(spec.idle.micros()).unwrap_or(0)));
        Ok(KafkaSource {
            fetcher,
            discovery,
            idle_checked: reading.now,
            reading,
            stop: opening.stop.clone(),
            progress: opening.progress.clone(),
            idle,
            committed: BTreeMap::new(),
            paused: BTreeSet::new(),
        })
    }

    /// Begins to fetch partitions that were added.
    fn take_in_what_was_found(&mut self) -> Result<(), SourceError> {
        let (Some(discovery), Some(fetcher)) = (&self.discovery, &self.fetcher) else { return Ok(()) };
        while let Some(found) = discovery.next() {
            let plan = match found {
                Found::Added(plan) => plan,
                Found::Lost(why) => return Err(why),
            };
            let Planned { topic, partition, offset, position, .. } = &plan;
            let mut list = TopicPartitionList::new();
            let assigned = list
                .add_partition_offset(topic, partition.number, *offset)
                .and_then(|()| fetcher.consumer().incremental_assign(&list));
            assigned.map_err(|why| unavailable("assign partitions", &why))?;
            tracing::info!(target: "source", "partition {} of topic {topic:?} was added; it is read from offset {position}", partition.number);
            self.reading.add(&plan);
        }
        Ok(())
    }

    /// Tells librdkafka to leave what has ended, and the feeder how far everything is.
    fn settle(&mut self) -> Result<(), SourceError> {
        if let Some(progress) = &self.progress {
            self.reading.partitions.iter().for_each(|reader| progress.advance(reader.partition, reader.position));
        }
        let Some(fetcher) = self.fetcher.as_ref().filter(|_| !self.reading.ended.is_empty()) else { return Ok(()) };
        let mut list = TopicPartitionList::new();
        for index in self.reading.ended.drain(..) {
            let partition = self.reading.partitions[index].partition;
            list.add_partition(self.reading.topics.name(partition.topic), partition.number);
        }
        fetcher.consumer().incremental_unassign(&list).map_err(|why| unavailable("leave partitions", &why))
    }
}

impl Poll for KafkaSource {
    fn poll(&mut self, bytes_max: usize, into: &mut Records) -> Result<Polled, SourceError> {
        if self.stop.drain() {
            return Ok(Polled::End);
        }
        let before = into.records.len();
        self.reading.now = Instant::now();
        if let Some(fetcher) = &mut self.fetcher {
            let reading = &mut self.reading;
            let start = into.arena.len();
            reading.run = None;
            fetcher.drain(&mut |fetched| {
                reading.take(fetched, into);
                let full = into.arena.len() - start >= bytes_max;
                if full || reading.failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            fetcher.events(&mut |event| reading.hear(&event));
        }
        if let Some(failed) = self.reading.failed.take() {
            return Err(failed);
        }
        if let Some(idle) = self.idle
            && self.reading.now - self.idle_checked >= IDLE_CHECK_EVERY
        {
            self.idle_checked = self.reading.now;
            self.reading.mark_idle(idle);
        }
        self.settle()?;
        // Last: the marks of this poll come before the records of the next.
        self.take_in_what_was_found()?;
        let marked = !self.reading.marks.is_empty();
        into.marks.append(&mut self.reading.marks);
        Ok(if marked || into.records.len() > before {
            Polled::Some
        } else if self.reading.until_end && self.reading.partitions.iter().all(|reader| reader.ended) {
            Polled::End
        } else {
            Polled::Nothing
        })
    }

    fn limit(&mut self, limits: Option<&BTreeMap<Partition, i64>>) {
        let wanted = |reader: &Reader| {
            limits.is_none_or(|limits| limits.get(&reader.partition).is_some_and(|limit| reader.position < *limit))
        };
        let open = self.reading.partitions.iter().filter(|reader| !reader.ended);
        let pause: BTreeSet<Partition> = open.filter(|reader| !wanted(reader)).map(|reader| reader.partition).collect();
        let (newly, no_longer) = (&pause - &self.paused, &self.paused - &pause);
        let list = |partitions: &BTreeSet<Partition>| {
            let mut list = TopicPartitionList::new();
            for partition in partitions {
                list.add_partition(self.reading.topics.name(partition.topic), partition.number);
            }
            list
        };
        if let Some(fetcher) = &self.fetcher {
            // What is not paused only comes too early and takes memory.
            let paused = fetcher.consumer().pause(&list(&newly));
            let resumed = fetcher.consumer().resume(&list(&no_longer));
            if let Err(why) = paused.and(resumed) {
                self.reading.trouble.note(Instant::now(), &format!("could not pause or resume partitions: {why}"));
            }
        }
        self.paused = pause;
    }

    fn durable(&mut self, ends: &[(Partition, i64)]) {
        let Some(fetcher) = &self.fetcher else { return };
        let mut list = TopicPartitionList::new();
        for &(partition, end) in ends {
            let ours = self.reading.index(partition).is_some();
            if ours && self.committed.get(&partition).is_none_or(|&committed| committed < end) {
                let topic = self.reading.topics.name(partition.topic);
                if list.add_partition_offset(topic, partition.number, Offset::Offset(end)).is_ok() {
                    self.committed.insert(partition, end);
                }
            }
        }
        if list.count() > 0
            && let Err(why) = fetcher.consumer().commit(&list, CommitMode::Async)
        {
            // Only a courtesy to outside tools: what counts is the epoch log.
            self.reading.trouble.note(Instant::now(), &format!("could not commit offsets: {why}"));
        }
    }

    fn lag(&self) -> Vec<Lag> {
        let lag = |reader: &Reader| {
            let topic = self.reading.topics.name(reader.partition.topic);
            let seen = self.fetcher.as_ref().and_then(|fetcher| fetcher.end_seen(topic, reader.partition.number));
            let end = if reader.ended { reader.position } else { seen.unwrap_or(reader.end) };
            Lag { partition: reader.partition, position: reader.position, records: (end - reader.position).max(0) }
        };
        self.reading.partitions.iter().map(lag).collect()
    }
}

impl Reading {
    fn new(spec: &SourceSpec, opening: &Opening<'_>, planned: &[Planned]) -> Self {
        let now = Instant::now();
        let mut marks: Vec<Mark> = planned.iter().map(|plan| Mark::Opened(plan.partition)).collect();
        let partitions: Vec<Reader> = planned.iter().map(|plan| Reader::new(plan, opening.until_end, now)).collect();
        marks.extend(partitions.iter().filter(|reader| reader.ended).map(|reader| Mark::Ended(reader.partition)));
        Reading {
            topics: opening.topics.clone(),
            partitions,
            record_bytes_max: spec.record_bytes_max,
            until_end: opening.until_end,
            marks,
            ended: Vec::new(),
            run: None,
            now,
            failed: None,
            trouble: Trouble::default(),
        }
    }

    /// A partition that was added. Nothing holds an index meanwhile: a run of records ends with its poll, and with nothing ending nothing is left.
    fn add(&mut self, plan: &Planned) {
        if let Err(at) = self.partitions.binary_search_by_key(&plan.partition, |reader| reader.partition) {
            self.run = None;
            self.partitions.insert(at, Reader::new(plan, false, self.now));
            self.marks.push(Mark::Opened(plan.partition));
        }
    }

    fn index(&self, partition: Partition) -> Option<usize> {
        self.partitions.binary_search_by_key(&partition, |reader| reader.partition).ok()
    }

    fn find(&self, topic: &str, number: i32) -> Option<usize> {
        self.index(Partition { topic: self.topics.id(topic)?, number })
    }

    fn take(&mut self, fetched: Fetched<'_>, into: &mut Records) {
        match fetched {
            Fetched::Message(message) => self.record(&message, into),
            Fetched::Problem { topic, number, offset, code, text } => {
                let index = topic.and_then(|topic| self.find(topic, number));
                match (code, index) {
                    (Code::PartitionEOF, Some(index)) => self.reached(index, offset),
                    _ => self.problem(topic.unwrap_or(""), number, code, text, index),
                }
            }
        }
    }

    fn record(&mut self, message: &Message<'_>, into: &mut Records) {
        let index = match self.run {
            Some((token, number, index)) if token == message.topic_token && number == message.number => index,
            _ => {
                let Some(index) = self.find(message.topic, message.number) else { return };
                self.run = Some((message.topic_token, message.number, index));
                index
            }
        };
        let reader = &mut self.partitions[index];
        // Behind the position lies nothing that was not delivered; behind the end, nothing that was asked for.
        let beyond = self.until_end && message.offset >= reader.end;
        if reader.ended || message.offset < reader.position || beyond {
            if beyond {
                self.reached(index, message.offset);
            }
            return;
        }
        (reader.position, reader.at_end, reader.idle, reader.quiet_since) =
            (message.offset + 1, false, false, self.now);
        let ends = self.until_end && reader.position >= reader.end;
        let payload = match message.payload {
            None => Payload::Tombstone,
            Some(bytes) if bytes.len() > self.record_bytes_max => Payload::TooLarge,
            Some(bytes) => Payload::Bytes(into.arena.push(bytes)),
        };
        let key = message.key.filter(|key| key.len() <= KEY_BYTES_MAX).map(|key| into.arena.push(key));
        let position = Position { partition: reader.partition, offset: message.offset, entry: 0 };
        let received_at = message.timestamp_ms.map(IngestTime::from_millis);
        into.records.push(Record { position, received_at, payload, key });
        if ends {
            self.reached(index, message.offset + 1);
        }
    }

    /// Everything below `offset` of a partition is read; what is missing in between holds no records (transactions, compaction).
    fn reached(&mut self, index: usize, offset: i64) {
        let reader = &mut self.partitions[index];
        if reader.ended {
            return;
        }
        let offset = if self.until_end { offset.min(reader.end) } else { offset };
        reader.position = reader.position.max(offset);
        reader.at_end = true;
        if self.until_end && reader.position >= reader.end {
            reader.ended = true;
            self.marks.push(Mark::Ended(reader.partition));
            self.ended.push(index);
        }
    }

    /// What waiting cures is logged; the rest fails the run.
    fn problem(&mut self, topic: &str, number: i32, code: Code, text: &str, index: Option<usize>) {
        let failed = match code {
            Code::AutoOffsetReset => {
                let position = index.map_or(0, |index| self.partitions[index].position);
                SourceError::Configuration(format!(
                    "offset {position} of partition {number} of topic {topic:?} is not there any more \
                     (deleted by retention, or the topic was made anew); {ACCEPT_LOSS}"
                ))
            }
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => vanished(topic, number),
            Code::TopicAuthorizationFailed => SourceError::Unavailable(format!(
                "not allowed to read topic {topic:?} any more; the user needs the right Read on it"
            )),
            Code::MessageSizeTooLarge => SourceError::Configuration(format!(
                "a record of partition {number} of topic {topic:?} does not fit into one answer of the broker; \
                 set source.client.\"receive.message.max.bytes\" higher (now 100 MB unless set)"
            )),
            Code::Fatal => SourceError::Unavailable(format!("the Kafka client cannot go on: {text}")),
            _ => return self.trouble.note(self.now, text),
        };
        self.failed.get_or_insert(failed);
    }

    fn hear(&mut self, event: &Event<'_>) {
        /// Syslog's "warning".
        const WARNING: i32 = 4;
        match *event {
            Event::Error(Code::Fatal, text) => {
                let failed = SourceError::Unavailable(format!("the Kafka client cannot go on: {text}"));
                self.failed.get_or_insert(failed);
            }
            Event::Error(_, text) => self.trouble.note(self.now, text),
            Event::Log(level, text) if level <= WARNING => self.trouble.note(self.now, text),
            Event::Log(_, text) => tracing::debug!(target: "source", "{text}"),
        }
    }

    /// Idle is what the broker says is empty and what has been so for long enough; silence alone is no proof, and time in which
    /// there was trouble with a broker does not count.
    fn mark_idle(&mut self, after: Duration) {
        for reader in &mut self.partitions {
            let since = self.trouble.last.map_or(reader.quiet_since, |trouble| trouble.max(reader.quiet_since));
            if reader.at_end && !reader.idle && !reader.ended && self.now - since >= after {
                reader.idle = true;
                self.marks.push(Mark::Idle(reader.partition));
            }
        }
    }
}

/// Difficulties with brokers, told at most every [`Trouble::WARN_EVERY`].
#[derive(Default)]
struct Trouble {
    last: Option<Instant>,
    warned: Option<Instant>,
    untold: u64,
}

impl Trouble {
    const WARN_EVERY: Duration = Duration::from_secs(30);

    fn note(&mut self, now: Instant, text: &str) {
        self.last = Some(now);
        if self.warned.is_some_and(|warned| now - warned < Self::WARN_EVERY) {
            self.untold += 1;
            return;
        }
        tracing::warn!(target: "source", untold = self.untold, "Kafka: {text}; the client goes on trying");
        (self.warned, self.untold) = (Some(now), 0);
    }
}

fn unavailable(what: &str, why: &KafkaError) -> SourceError {
    SourceError::Unavailable(format!("could not {what}: {why}"))
}

#[cfg(test)]
mod tests;
