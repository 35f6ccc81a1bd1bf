//! What changes about topics while they are read: partitions that are added are found and read from their beginning; a topic that has vanished
//! or was made anew stops the run.
//!
//! ```text
//! thread, with a client of its own: every source.discovery_seconds ask ─> Known::look (pure) ─> channel ─> KafkaSource::poll
//! ```
//!
//! Invariants:
//!
//! 1. [`Discovery::next`] never waits. A broker that does not answer is asked again next time.
//! 2. A partition is found once, by the worker whose it is.
//! 3. A topic of another id is another topic: its offsets mean other records. That one is missing is believed the second time only
//!    ([`MISSING_LOOKS`]): brokers hear of changes one after the other.
//!
//! Limits: brokers before Kafka 2.8 do not number topics, and librdkafka's mock has no controller to ask; a topic that was made anew is noticed there by an end below our position only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::metadata::MetadataPartition;

use super::batch::{Described, describe};
use super::client::Quiet;
use super::start::{ACCEPT_LOSS, Planned, QUESTION_WAIT};
use crate::config::SourceSpec;
use crate::source::{Opening, Share, SourceError, Topics};
use crate::vocabulary::{Partition, TopicId};

/// So many looks one after the other must not find a partition until it is gone.
const MISSING_LOOKS: u32 = 2;

/// What was found.
pub(super) enum Found {
    /// A partition, which begins there.
    Added(Planned),
    /// Why the run cannot go on.
    Lost(SourceError),
}

/// A thread that looks; it ends when this is dropped.
pub(super) struct Discovery {
    found: Receiver<Found>,
    _running: Sender<()>,
}

impl Discovery {
    /// Starts it: `client` is its own, `planned` is read already.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(super) fn start(
        client: BaseConsumer<Quiet>,
        spec: &SourceSpec,
        opening: &Opening<'_>,
        planned: &[Planned],
    ) -> Result<Discovery, SourceError> {
        let partitions = planned.iter().map(|plan| plan.partition).collect();
        let known = Known::new(opening.share, opening.topics.clone(), partitions);
        let every = Duration::from_secs(spec.discovery_seconds);
        let (sender, found) = channel();
        let (running, stopped) = channel();
        std::thread::Builder::new()
            .name("discovery".into())
            .spawn(move || look_again_and_again(&client, known, every, &sender, &stopped))
            .map_err(|why| SourceError::Unavailable(format!("could not start a thread: {why}")))?;
        Ok(Discovery { found, _running: running })
    }

    /// What was found since the last call, one at a time.
    pub(super) fn next(&self) -> Option<Found> {
        self.found.try_recv().ok()
    }
}

fn look_again_and_again(
    client: &BaseConsumer<Quiet>,
    mut known: Known,
    every: Duration,
    found: &Sender<Found>,
    stopped: &Receiver<()>,
) {
    loop {
        // What it has to say of brokers, the client that reads says as well.
        while client.poll(Duration::ZERO).is_some() {}
        match look(client, &mut known, found) {
            Ok(()) => {}
            Err(why) => {
                // Fails only when the source is gone.
                let _ = found.send(Found::Lost(why));
                return;
            }
        }
        // Nothing is ever sent: the channel closes when the source has gone.
        if stopped.recv_timeout(every) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// Looks once.
fn look(client: &BaseConsumer<Quiet>, known: &mut Known, found: &Sender<Found>) -> Result<(), SourceError> {
    let topics = known.topics.clone();
    let names: Vec<&str> = topics.names().collect();
    let described = match describe(client, &names, QUESTION_WAIT).or_else(|_| enumerate(client, &names)) {
        Ok(described) => described,
        Err(why) => {
            tracing::debug!(target: "source", "could not look for new partitions: {why}");
            return Ok(());
        }
    };
    for partition in known.look(&described)? {
        let topic = topics.name(partition.topic);
        // Without an answer (no leader yet, perhaps) it is found again next time.
        let Ok((low, high)) = client.fetch_watermarks(topic, partition.number, QUESTION_WAIT) else { continue };
        let topic = topic.to_owned();
        let added = Planned { partition, topic, offset: Offset::Beginning, position: low, end: high };
        known.partitions.insert(partition);
        if found.send(Found::Added(added)).is_err() {
            break;
        }
    }
    Ok(())
}

/// The same without ids: only the controller knows those, and it may be away.
fn enumerate(client: &BaseConsumer<Quiet>, names: &[&str]) -> Result<Vec<Described>, KafkaError> {
    let metadata = client.fetch_metadata(None, QUESTION_WAIT)?;
    let partitions = |name: &str| {
        let topic = metadata.topics().iter().find(|topic| topic.name() == name);
        topic.into_iter().flat_map(|topic| topic.partitions()).map(MetadataPartition::id).collect()
    };
    Ok(names
        .iter()
        .map(|name| Described { topic: (*name).to_owned(), id: None, partitions: partitions(name) })
        .collect())
}

/// What one worker knows of the topics.
struct Known {
    share: Share,
    topics: Topics,
    /// Those that it reads.
    partitions: BTreeSet<Partition>,
    ids: BTreeMap<TopicId, String>,
    /// How often a topic, or a partition of it, was not there.
    missing: BTreeMap<TopicId, u32>,
}

impl Known {
    fn new(share: Share, topics: Topics, partitions: BTreeSet<Partition>) -> Known {
        Known { share, topics, partitions, ids: BTreeMap::new(), missing: BTreeMap::new() }
    }

    /// Compares with what the brokers say: the partitions of this worker that are new.
    fn look(&mut self, described: &[Described]) -> Result<Vec<Partition>, SourceError> {
        let mut added = Vec::new();
        for Described { topic: name, id, partitions } in described {
            let Some(topic) = self.topics.id(name) else { continue };
            let named = id.as_ref().filter(|_| !partitions.is_empty());
            if let Some(id) = named {
                let first = self.ids.entry(topic).or_insert_with(|| id.clone());
                if first != id {
                    return Err(made_anew(name));
                }
            }
            let ours = self.partitions.iter().filter(|partition| partition.topic == topic);
            match ours.copied().find(|partition| !partitions.contains(&partition.number)) {
                Some(partition) => self.miss(partition, name)?,
                None => _ = self.missing.remove(&topic),
            }
            let numbers = partitions.iter().filter(|number| self.share.takes(name, **number));
            let all = numbers.map(|&number| Partition { topic, number });
            added.extend(all.filter(|partition| !self.partitions.contains(partition)));
        }
        added.sort_unstable();
        Ok(added)
    }

    fn miss(&mut self, partition: Partition, name: &str) -> Result<(), SourceError> {
        let times = self.missing.entry(partition.topic).or_default();
        *times += 1;
        if *times < MISSING_LOOKS { Ok(()) } else { Err(vanished(name, partition.number)) }
    }
}

/// A topic of the same name is another one.
pub(in crate::source) fn made_anew(topic: &str) -> SourceError {
    SourceError::Configuration(format!(
        "topic {topic:?} was deleted and made anew: its offsets no longer mean what was read; {ACCEPT_LOSS}"
    ))
}

/// A partition that was read is not there.
pub(super) fn vanished(topic: &str, number: i32) -> SourceError {
    SourceError::Configuration(format!(
        "partition {number} of topic {topic:?} does not exist any more; if the topic was made anew, {ACCEPT_LOSS}"
    ))
}

#[cfg(test)]
mod tests {
    //! Proves what is made of what the brokers say.
    use super::*;

    fn described(topic: &str, id: &str, partitions: std::ops::Range<i32>) -> Described {
        let id = (!id.is_empty()).then(|| id.to_owned());
        Described { topic: topic.to_owned(), id, partitions: partitions.collect() }
    }

    fn known(worker: usize, workers: usize, read: i32) -> Known {
        let topics = Topics::new(["bp-obs".to_owned(), "labs".to_owned()]);
        let share = Share { worker, workers };
        let all = (0..read).map(|number| Partition { topic: topics.id("bp-obs").unwrap(), number });
        let ours = all.filter(|partition| share.takes("bp-obs", partition.number)).collect();
        Known::new(share, topics, ours)
    }

    #[test]
    fn what_is_added_is_found_by_exactly_one_worker_and_again_until_it_is_read() {
        for workers in 1..=3 {
            let mut found = Vec::new();
            for worker in 0..workers {
                let mut known = known(worker, workers, 2);
                assert_eq!(known.look(&[described("bp-obs", "a", 0..2)]).unwrap(), []);
                let added = known.look(&[described("bp-obs", "a", 0..5)]).unwrap();
                assert_eq!(known.look(&[described("bp-obs", "a", 0..5)]).unwrap(), added);
                known.partitions.extend(&added);
                assert_eq!(known.look(&[described("bp-obs", "a", 0..5)]).unwrap(), []);
                found.extend(added.into_iter().map(|partition| partition.number));
            }
            found.sort_unstable();
            assert_eq!(found, [2, 3, 4], "{workers} workers");
        }
    }

    #[test]
    fn a_topic_of_another_id_stops_the_run_at_once() {
        let mut known = known(0, 1, 2);
        known.look(&[described("bp-obs", "a", 0..2), described("labs", "b", 0..1)]).unwrap();
        known.look(&[described("bp-obs", "", 0..2)]).unwrap();
        let why = known.look(&[described("bp-obs", "c", 0..2)]).unwrap_err();
        assert!(matches!(why, SourceError::Configuration(_)));
        assert!(why.to_string().starts_with("topic \"bp-obs\" was deleted and made anew"), "{why}");
        assert!(why.to_string().contains("--set 'source.start"), "{why}");
    }

    #[test]
    fn a_topic_that_is_missing_stops_the_run_the_second_time_in_a_row() {
        let gone = || [described("bp-obs", "", 0..0)];
        let mut known = known(0, 1, 2);
        for _ in 0..3 {
            known.look(&gone()).unwrap();
            known.look(&[described("bp-obs", "a", 0..2)]).unwrap();
        }
        known.look(&[described("bp-obs", "a", 0..1)]).unwrap();
        let why = known.look(&gone()).unwrap_err();
        assert!(why.to_string().contains("does not exist any more"), "{why}");
        assert!(matches!(why, SourceError::Configuration(_)));
    }
}
