//! Where records come from: Kafka, files, the generator. The graph cannot tell them apart.
//!
//! A source is a [`Poll`]: it never blocks, fills at most the bytes it is asked for, and says when it has ended.
//! Partitions are assigned to workers statically ([`Share::takes`], a fixed hash of topic name and partition); no group protocol, no rebalance.
//!
//! ```text
//! topics(spec)  ─>  Topics (the same on every worker)
//! open(spec, …) ─>  kafka::KafkaSource | files::FileSource | generator::GeneratorSource   each behind Poll
//! embedded      ─>  a Kafka-protocol broker in this process, for `demo` and for tests; read through kafka::KafkaSource
//! ```
//!
//! Limits: `source.record_bytes_max` a record ([`files::DOCUMENT_BYTES_MAX`] for a `.json` file that is one document),
//! `source.queue_kib` of fetched messages a worker (Kafka), one open file a worker.

pub mod embedded;
pub mod files;
pub mod generator;
pub mod kafka;
pub(crate) mod pace;
pub(crate) mod produce;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::config::{OutcomeInputs, SourceKind, SourceSpec};
use crate::identified::Records;
use crate::runtime::stop::Stop;
use crate::runtime::survive::Route;
use crate::vocabulary::{Partition, TopicId};

/// A keyed hash of a path, of which six bytes name a file's topic. Keyed, because file names can be guessed.
pub type PathKey<'a> = &'a dyn Fn(&str) -> [u8; 6];

/// The topics of a flow. Kafka: those configured. Files: `file-` and 12 hex digits each, by `key` of the path as written (or as
/// found below a folder as written), with `.2` and so on for what replaced it ([`identify`]); `stdin` for `-`, likewise; `file-outcomes-` and 12 hex digits
/// for a file of outcomes. Generator: `generator`.
///
/// # Errors
/// [`SourceError::Configuration`] if the configuration names no topic or no readable file.
pub fn topics(spec: &SourceSpec, key: PathKey<'_>) -> Result<Topics, SourceError> {
    match spec.kind {
        SourceKind::Kafka => kafka::topics(spec),
        SourceKind::Files => files::topics(spec, key),
        SourceKind::Generator => Ok(Topics::new([generator::TOPIC.to_owned()])),
    }
}

/// Whether a topic, by its name, is one of those that outcomes are read from.
pub fn has_outcomes(inputs: &OutcomeInputs, topic: &str) -> bool {
    match inputs {
        OutcomeInputs::Topics(topics) => topics.iter().any(|of_outcomes| of_outcomes == topic),
        OutcomeInputs::Paths(_) => topic.starts_with(files::OUTCOMES_TOPIC),
    }
}

/// What a source is opened with, besides its configuration.
pub struct Opening<'a> {
    /// Which worker of how many.
    pub share: Share,
    /// True to end at what is there now (`--until end`). Files end in any case.
    pub until_end: bool,
    /// The topics, as [`topics`] returned them.
    pub topics: &'a Topics,
    /// The same function that [`topics`] was given.
    pub path_key: PathKey<'a>,
    /// The next offset of each partition, where durable state says; it takes precedence over `source.start`. Partitions of other workers are ignored.
    pub resume: &'a BTreeMap<Partition, i64>,
    /// How the run is asked to end: opening is given up, and [`Poll::poll`] answers [`Polled::End`].
    pub stop: &'a Stop,
    /// Who wants to know how far Kafka partitions have been read: the feeder of an [`embedded`] broker.
    pub progress: Option<Progress>,
}

/// Opens one worker's share of a source. May wait for a broker, for at most [`kafka::Waits`]; everything later never blocks.
///
/// # Errors
/// [`SourceError::Configuration`] for what a change of the flow file cures, [`SourceError::Unavailable`] for the rest.
pub fn open(spec: &SourceSpec, opening: &Opening<'_>) -> Result<Box<dyn Poll>, SourceError> {
    match spec.kind {
        SourceKind::Kafka => Ok(Box::new(kafka::KafkaSource::open(spec, opening, kafka::Waits::default())?)),
        SourceKind::Files => Ok(Box::new(files::FileSource::open(spec, opening)?)),
        SourceKind::Generator => Ok(Box::new(generator::GeneratorSource::open(spec, opening)?)),
    }
}

/// What the topics of a flow are, apart from their names: a name may come to stand for another topic. Empty for sources whose topics are what
/// they are called, and where nobody tells. May wait for some seconds.
///
/// # Errors
/// [`SourceError::Configuration`] for settings that cannot work.
pub fn topic_ids(spec: &SourceSpec, topics: &Topics, stop: &Stop) -> Result<BTreeMap<String, String>, SourceError> {
    match spec.kind {
        SourceKind::Kafka => kafka::topic_ids(spec, topics, stop),
        SourceKind::Files | SourceKind::Generator => Ok(BTreeMap::new()),
    }
}

/// What an earlier run has left, as far as files are concerned.
pub(crate) struct Earlier<'a> {
    /// Topics by their numbers.
    pub(crate) topics: &'a [String],
    /// Those of which something was read.
    pub(crate) read: &'a BTreeSet<TopicId>,
    /// What [`Found::prints`] was.
    pub(crate) prints: &'a BTreeMap<String, String>,
}

/// What is there now.
pub(crate) struct Found {
    /// Its topics.
    pub(crate) names: Topics,
    /// For each file's topic, what tells it from another of the same name: to be kept for the next run.
    pub(crate) prints: BTreeMap<String, String>,
}

/// Which topics stand for what is there, in the eyes of a run that goes on where an earlier one stopped: a file may have been replaced. `topics` are
/// those that [`topics`] has found.
///
/// # Errors
/// [`SourceError::Configuration`], naming the path as it was written.
pub(crate) fn identify(
    spec: &SourceSpec,
    topics: &Topics,
    key: PathKey<'_>,
    earlier: &Earlier<'_>,
) -> Result<Found, SourceError> {
    match spec.kind {
        SourceKind::Files => files::identity::identify(spec, key, earlier),
        SourceKind::Kafka | SourceKind::Generator => Ok(Found { names: topics.clone(), prints: BTreeMap::new() }),
    }
}

/// What a run says if a topic is another one than that of which state was kept.
pub fn made_anew(topic: &str) -> SourceError {
    kafka::made_anew(topic)
}

/// One worker's share of all partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// This worker, from 0.
    pub worker: usize,
    /// How many workers there are, over all processes.
    pub workers: usize,
}

impl Share {
    /// True if this worker reads the partition. Exactly one worker does; the partitions of one topic are dealt out evenly.
    pub fn takes(self, topic: &str, number: i32) -> bool {
        route(topic, number) % self.workers.max(1) as u64 == self.worker as u64
    }
}

/// Where a partition goes: the topic's hash plus the partition's number, so that neighbours never pile up on one worker.
///
/// FNV-1a, 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>): a fixed algorithm, because all workers of all processes must agree.
pub(crate) fn route(topic: &str, number: i32) -> Route {
    let hash = topic
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    // FNV's low bits mix poorly for names that differ in their last character only; the high half is folded in.
    (hash ^ (hash >> 32)).wrapping_add(number as u64)
}

/// How far the partitions of some topics have been read: the next offset of each, shared between a source and a feeder.
#[derive(Clone, Debug)]
pub struct Progress(Arc<[Box<[AtomicI64]>]>);

impl Progress {
    /// Of topics with so many partitions each, in the order of their numbers; all at offset 0.
    pub fn new(partitions: &[i32]) -> Self {
        let of_topic = |count: &i32| (0..*count).map(|_| AtomicI64::new(0)).collect();
        Progress(partitions.iter().map(of_topic).collect())
    }

    /// Everything below `offset` has been read.
    pub fn advance(&self, partition: Partition, offset: i64) {
        if let Some(at) = self.of(partition) {
            at.fetch_max(offset, Ordering::Release);
        }
    }

    /// The next offset to be read.
    pub fn next_offset(&self, partition: Partition) -> i64 {
        self.of(partition).map_or(0, |at| at.load(Ordering::Acquire))
    }

    fn of(&self, Partition { topic, number }: Partition) -> Option<&AtomicI64> {
        self.0.get(topic.0 as usize)?.get(usize::try_from(number).ok()?)
    }
}

/// The topics of a flow: [`TopicId`] is the index. The same on every worker, and in every run that goes on from the same state: those that
/// an earlier run knew keep their numbers, new ones follow, sorted by name.
///
/// A file's topic name is `file-` and 12 hex digits of a keyed hash of its path: file names identify people more often than not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics {
    names: Arc<[Arc<str>]>,
    by_name: Arc<BTreeMap<Arc<str>, TopicId>>,
}

impl Topics {
    /// From names; sorts and removes repetitions.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Topics::continuing(&[], names)
    }

    /// The same, behind those that an earlier run knew.
    pub fn continuing(known: &[String], names: impl IntoIterator<Item = String>) -> Self {
        let mut all: Vec<Arc<str>> = known.iter().map(|name| Arc::from(name.as_str())).collect();
        let new: BTreeSet<Arc<str>> = names.into_iter().map(Arc::from).collect();
        all.extend(new.into_iter().filter(|name| !known.iter().any(|known| **known == **name)));
        let by_name = all.iter().zip(0..).map(|(name, id)| (Arc::clone(name), TopicId(id))).collect();
        Topics { names: all.into(), by_name: Arc::new(by_name) }
    }

    /// The name of a topic.
    pub fn name(&self, topic: TopicId) -> &str {
        &self.names[topic.0 as usize]
    }

    /// The number of a topic, if it belongs to the flow.
    pub fn id(&self, name: &str) -> Option<TopicId> {
        self.by_name.get(name).copied()
    }

    /// The topic that stands for the newest file of a path, or for the newest standard input, `first` being what the first was called.
    pub fn newest(&self, first: &str) -> Option<TopicId> {
        let behind = self.by_name.range::<str, _>((Bound::Included(first), Bound::Unbounded));
        let alike = behind.take_while(|(name, _)| name.starts_with(first));
        let numbered = alike.filter_map(|(name, id)| Some((files::identity::ordinal(first, name)?, *id)));
        numbered.max().map(|(_, id)| id)
    }

    /// Where a partition of the flow is read ([`Share::takes`]: this modulo the workers), and so the block in which its state is saved.
    ///
    /// Panics if the flow has no such topic ([`Topics::has`]).
    pub fn route(&self, partition: Partition) -> Route {
        route(self.name(partition.topic), partition.number)
    }

    /// True if the number is that of a topic of the flow.
    pub fn has(&self, topic: TopicId) -> bool {
        (topic.0 as usize) < self.names.len()
    }

    /// All names, in order of their numbers.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }
}

/// What a poll found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// Records or marks were added; there may be more at once.
    Some,
    /// Nothing now; ask again in a few milliseconds.
    Nothing,
    /// Everything that the rest should be judged by (who the patients are) has been delivered before this answer; nothing comes with it.
    /// Given once at most. The next poll comes when all workers' sources have said so, or have ended, and opens a higher epoch than all of theirs.
    First,
    /// Nothing will ever come again (and every partition's [`Mark::Ended`](crate::identified::Mark) was delivered).
    /// After [`Stop::ask`] as well, but then without those marks: a partition that was only left has not ended, and its windows stay open.
    End,
}

/// A source, as one worker reads its share of it.
pub trait Poll: Send + 'static {
    /// Adds up to about `bytes_max` bytes of records (at least one record if there is one) and any marks. Never blocks longer than a few milliseconds.
    ///
    /// A partition that is not there from the beginning is opened in an earlier call than its first record comes in, and [`Poll::lag`] names its first offset meanwhile.
    fn poll(&mut self, bytes_max: usize, into: &mut Records) -> Result<Polled, SourceError>;

    /// While an earlier run's epochs are repeated and too much of later ones has come already: of a partition nothing is wanted at or beyond its limit, and
    /// nothing at all of one that is not named, until the next call; `None` lifts all limits. A batch or so beyond them is no harm.
    fn limit(&mut self, limits: Option<&BTreeMap<Partition, i64>>);

    /// Everything below these offsets is covered by a recorded checkpoint: a Kafka source commits them for outside tools. Each is the next offset to read.
    fn durable(&mut self, ends: &[(Partition, i64)]);

    /// For each partition read here: where the next record will be read, and how many records are known to wait behind it.
    fn lag(&self) -> Vec<Lag>;
}

/// How far a partition has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Which.
    pub partition: Partition,
    /// The next offset.
    pub position: i64,
    /// Records known to wait.
    pub records: i64,
}

/// A source cannot go on. Nothing in it names a patient, a payload or a credential.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The configuration cannot work; retrying would not help.
    #[error("{0}")]
    Configuration(String),
    /// The outside refuses, for good as far as the client can tell.
    #[error("{0}")]
    Unavailable(String),
}

#[cfg(test)]
mod tests {
    //! Proves that the assignment is fixed, complete and even.
    use super::*;

    #[test]
    fn every_partition_belongs_to_exactly_one_worker_and_they_are_dealt_out_evenly() {
        for workers in 1..=5 {
            let mut counts = vec![0; workers];
            for number in 0..20 {
                let takers: Vec<usize> =
                    (0..workers).filter(|&worker| Share { worker, workers }.takes("bp-obs", number)).collect();
                assert_eq!(takers.len(), 1);
                counts[takers[0]] += 1;
            }
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        }
    }

    #[test]
    fn a_partition_is_read_where_its_route_leads() {
        let topics = Topics::new(["bp-obs".to_owned(), "labs".to_owned()]);
        for (workers, number) in [(1, 0), (2, 7), (3, 7), (5, 12)] {
            for name in ["bp-obs", "labs"] {
                let route = topics.route(Partition { topic: topics.id(name).unwrap(), number });
                let worker = (route % workers) as usize;
                assert!(Share { worker, workers: workers as usize }.takes(name, number));
            }
        }
        assert!(topics.has(TopicId(1)) && !topics.has(TopicId(2)));
    }

    #[test]
    fn the_route_is_the_same_in_every_build() {
        assert_eq!(route("bp-obs", 0), ROUTE_OF_BP_OBS);
        assert_eq!(route("bp-obs", 3), ROUTE_OF_BP_OBS + 3);
    }

    /// Computed apart from this code, from the definition of FNV-1a.
    const ROUTE_OF_BP_OBS: u64 = 0x9603_983e_51f1_a776;

    #[test]
    fn topics_keep_their_numbers_when_others_come() {
        let before = Topics::new(["b".to_owned(), "d".to_owned()]);
        let known: Vec<String> = before.names().map(str::to_owned).collect();
        let now = Topics::continuing(&known, ["c", "d", "a", "c"].map(str::to_owned));
        assert_eq!(now.names().collect::<Vec<_>>(), ["b", "d", "a", "c"]);
        assert_eq!((now.id("d"), now.id("c"), now.id("x")), (before.id("d"), Some(TopicId(3)), None));
    }

    #[test]
    fn progress_never_goes_back() {
        let progress = Progress::new(&[2, 1]);
        let partition = |topic, number| Partition { topic: TopicId(topic), number };
        for (topic, number, offset) in [(0, 1, 10), (0, 1, 7), (0, 9, 7), (1, 0, 3), (2, 0, 5)] {
            progress.advance(partition(topic, number), offset);
        }
        let next = |topic, number| progress.next_offset(partition(topic, number));
        assert_eq!((next(0, 0), next(0, 1), next(0, 9), next(1, 0), next(2, 0)), (0, 10, 0, 3, 0));
    }
}
