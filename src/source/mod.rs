//! Where records come from: Kafka, files, the generator. The graph cannot tell them apart.
//!
//! A source is a [`Poll`]: it never blocks, fills at most the bytes it is asked for, and says when it has ended.
//! Partitions are assigned to workers statically (`hash(topic name, partition) % workers`); no group protocol, no rebalance.
//!
//! Limits: `source.record_bytes_max` a record, `source.queue_kib` of fetched messages a worker (Kafka), one open file a worker.

use std::sync::Arc;

use crate::identified::Records;
use crate::vocabulary::{Partition, TopicId};

/// The topics of a flow, sorted by name: [`TopicId`] is the index. The same on every worker.
///
/// A file's topic name is `file-` and 12 hex digits of a keyed hash of its path: file names identify people more often than not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics(Arc<[Arc<str>]>);

impl Topics {
    /// From names; sorts and removes repetitions.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let mut names: Vec<Arc<str>> = names.into_iter().map(Arc::from).collect();
        names.sort_unstable();
        names.dedup();
        Topics(names.into())
    }

    /// The name of a topic.
    pub fn name(&self, topic: TopicId) -> &str {
        &self.0[topic.0 as usize]
    }

    /// The number of a topic, if it belongs to the flow.
    pub fn id(&self, name: &str) -> Option<TopicId> {
        self.0.binary_search_by(|known| (**known).cmp(name)).ok().map(|at| TopicId(at as u32))
    }

    /// All names, in order of their numbers.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|name| &**name)
    }
}

/// What a poll found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// Records or marks were added; there may be more at once.
    Some,
    /// Nothing now; ask again in a few milliseconds.
    Nothing,
    /// Nothing will ever come again (and every partition's [`Mark::Ended`](crate::identified::Mark) was delivered).
    End,
}

/// A source, as one worker reads its share of it.
pub trait Poll: 'static {
    /// Adds up to about `bytes_max` bytes of records (at least one record if there is one) and any marks. Never blocks longer than a few milliseconds.
    fn poll(&mut self, bytes_max: usize, into: &mut Records) -> Result<Polled, SourceError>;

    /// Everything below these offsets is durable in every sink: a Kafka source commits them for outside tools. Each is the next offset to read.
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
