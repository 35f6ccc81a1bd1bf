//! A broker in this process: librdkafka's mock cluster on a loopback port, spoken to by the ordinary client. For `demo` and for tests.
//!
//! ```text
//! records ─feeder thread─> mock cluster ─> kafka::KafkaSource ─> the flow
//!               ^                                  │
//!               └────────── Progress <─────────────┘   never more than UNREAD_BYTES_MAX ahead, a partition
//! ```
//!
//! The mock keeps about 5 MB a partition and forgets the oldest beyond, read or not; hence the feedback. It has no transactions to speak of and
//! keeps nothing on disk. It is no broker for anybody else.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::files::Documented;
use super::generator::outcomes::Outcomes;
use super::generator::{Generator, Message};
use super::kafka::client;
use super::pace::Pace;
use super::produce::Producer;
use super::{Progress, SourceError};
use crate::runtime::stop::Stop;
use crate::vocabulary::{Partition, TopicId};

/// Unread bytes that a partition may hold: far enough below the mock's 5 MB that batches under way do not matter.
pub const UNREAD_BYTES_MAX: usize = 2 << 20;

/// The largest record that the feeder accepts; larger ones are the client's to refuse.
const RECORD_BYTES_MAX: usize = 64 << 20;

/// A broker with some topics. Lives until it is dropped.
pub struct Embedded {
    brokers: String,
    /// Names and numbers of partitions, ascending by name: as a flow that reads them all numbers its topics.
    topics: Vec<(String, i32)>,
    progress: Progress,
    /// Last: everything else is only about it.
    _cluster: MockCluster<'static, DefaultProducerContext>,
}

/// One record to feed.
#[derive(Clone, Debug)]
pub struct Feed {
    /// The topic, by its place among those of [`Embedded::start`].
    pub topic: usize,
    /// Records of equal lanes keep their order; the partition is `lane % partitions`.
    pub lane: usize,
    /// Kafka's key.
    pub key: Option<Vec<u8>>,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Embedded {
    /// Starts a broker with empty topics, given with their numbers of partitions and ascending by name.
    ///
    /// # Errors
    /// [`SourceError::Unavailable`] if no loopback port is to be had.
    pub fn start(topics: &[(&str, i32)]) -> Result<Self, SourceError> {
        assert!(topics.is_sorted(), "topics are numbered in the order of their names");
        let failed = |why| SourceError::Unavailable(format!("could not start the embedded broker: {why}"));
        let cluster = MockCluster::new(1).map_err(failed)?;
        for (topic, partitions) in topics {
            cluster.create_topic(topic, *partitions, 1).map_err(failed)?;
        }
        let partitions: Vec<i32> = topics.iter().map(|(_, partitions)| *partitions).collect();
        Ok(Embedded {
            brokers: cluster.bootstrap_servers(),
            topics: topics.iter().map(|(topic, partitions)| ((*topic).to_owned(), *partitions)).collect(),
            progress: Progress::new(&partitions),
            _cluster: cluster,
        })
    }

    /// What to write as `source.brokers`.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// What the source that reads the topics must be given ([`Opening::progress`](super::Opening)); without it the feeder stops after 2 MiB.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Feeds records from a thread of its own, `per_second` of them (0: as fast as they are read), until they end or a stop is asked for.
    ///
    /// # Errors
    /// [`SourceError::Unavailable`] if the client cannot be made.
    pub fn feed(
        &self,
        records: impl Iterator<Item = Feed> + Send + 'static,
        per_second: u64,
        stop: &Stop,
    ) -> Result<Feeder, SourceError> {
        let mut settings = client::configuration(&self.brokers, &Default::default(), &Default::default())?;
        settings.set("message.max.bytes", RECORD_BYTES_MAX.to_string());
        let to = |(topic, partitions): &(String, i32)| {
            let windows = (0..*partitions).map(|_| Window::default()).collect();
            Ok(To { producer: Producer::new(settings.clone(), topic)?, windows })
        };
        let (produced, finished) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let feeding = Feeding {
            to: self.topics.iter().map(to).collect::<Result<_, SourceError>>()?,
            progress: self.progress.clone(),
            produced: Arc::clone(&produced),
            stop: stop.clone(),
        };
        let done = Arc::clone(&finished);
        let thread = std::thread::Builder::new().name("feeder".into()).spawn(move || {
            let result = feeding.run(records, &Pace::new(per_second));
            done.store(true, Ordering::Release);
            result
        });
        let thread = thread.map_err(|why| SourceError::Unavailable(format!("could not start the feeder: {why}")))?;
        Ok(Feeder { produced, finished, progress: self.progress.clone(), thread })
    }
}

/// The thread that feeds.
pub struct Feeder {
    produced: Arc<AtomicU64>,
    finished: Arc<AtomicBool>,
    progress: Progress,
    thread: JoinHandle<Result<Fed, SourceError>>,
}

/// What was fed.
struct Fed {
    records: u64,
    /// The next offset of each partition.
    ends: Vec<(Partition, i64)>,
}

impl Feeder {
    /// Records handed to the client so far.
    pub fn produced(&self) -> u64 {
        self.produced.load(Ordering::Relaxed)
    }

    /// True once everything is in the broker, or feeding has failed.
    pub fn finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// Waits for the end; how many records the broker took.
    ///
    /// # Errors
    /// What stopped the feeding.
    pub fn join(self) -> Result<u64, SourceError> {
        self.fed().map(|fed| fed.records)
    }

    /// Waits until everything that was fed has been read as well: an empty poll of a consumer proves nothing, its answer may be under way.
    /// A stop ends the wait.
    ///
    /// # Errors
    /// What stopped the feeding.
    pub fn join_read(self, stop: &Stop) -> Result<u64, SourceError> {
        let progress = self.progress.clone();
        let fed = self.fed()?;
        let unread = || fed.ends.iter().any(|(partition, end)| progress.next_offset(*partition) < *end);
        while unread() && !stop.drain() {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(fed.records)
    }

    fn fed(self) -> Result<Fed, SourceError> {
        self.thread.join().unwrap_or_else(|_| Err(SourceError::Unavailable("the feeder panicked".into())))
    }
}

struct Feeding {
    /// By topic.
    to: Vec<To>,
    progress: Progress,
    produced: Arc<AtomicU64>,
    stop: Stop,
}

/// One topic, as it is fed.
struct To {
    producer: Producer,
    windows: Vec<Window>,
}

impl Feeding {
    fn run(mut self, records: impl Iterator<Item = Feed>, pace: &Pace) -> Result<Fed, SourceError> {
        for (ordinal, Feed { topic, lane, key, payload }) in (0..).zip(records) {
            let number = lane % self.to[topic].windows.len();
            let partition = Partition { topic: TopicId(topic as u32), number: number as i32 };
            if !self.to[topic].producer.wait(pace, ordinal, &self.stop) || !self.room(partition, payload.len()) {
                break;
            }
            let To { producer, windows } = &mut self.to[topic];
            producer.send(Some(number as i32), key.as_deref(), &payload, &self.stop)?;
            windows[number].push(payload.len());
            self.produced.fetch_add(1, Ordering::Relaxed);
            if producer.failed() > 0 {
                break;
            }
        }
        let (mut records, mut ends) = (0, Vec::new());
        for (topic, To { producer, windows }) in (0..).map(TopicId).zip(self.to) {
            let of_topic = (0..).zip(&windows).map(|(number, window)| (Partition { topic, number }, window.end()));
            ends.extend(of_topic);
            records += producer.finish(&self.stop)?;
        }
        Ok(Fed { records, ends })
    }

    /// Waits until the partition has room. False if it was asked to stop meanwhile.
    fn room(&mut self, partition: Partition, bytes: usize) -> bool {
        let To { producer, windows } = &mut self.to[partition.topic.0 as usize];
        let window = &mut windows[partition.number as usize];
        loop {
            window.read_to(self.progress.next_offset(partition));
            if window.bytes == 0 || window.bytes + bytes <= UNREAD_BYTES_MAX {
                return true;
            }
            if self.stop.drain() {
                return false;
            }
            producer.serve(Duration::from_millis(2));
        }
    }
}

/// What one partition holds unread. Its offsets count the records sent, because nobody else writes and nothing may fail.
#[derive(Default)]
struct Window {
    /// Sizes of the unread records; the first one's offset is `first`.
    sizes: VecDeque<usize>,
    first: i64,
    bytes: usize,
}

impl Window {
    fn push(&mut self, bytes: usize) {
        self.sizes.push_back(bytes);
        self.bytes += bytes;
    }

    /// The offset that the next record will have.
    fn end(&self) -> i64 {
        self.first + self.sizes.len() as i64
    }

    fn read_to(&mut self, offset: i64) {
        while self.first < offset {
            let Some(size) = self.sizes.pop_front() else { break };
            self.bytes -= size;
            self.first += 1;
        }
    }
}

/// Synthetic records for the first topic, a lane a patient.
pub fn synthetic(generator: Generator) -> impl Iterator<Item = Feed> + Send {
    generator.map(of_message)
}

/// The same, and what came of the patients for the second topic.
pub fn with_outcomes(mut generator: Generator) -> impl Iterator<Item = Feed> + Send {
    let (mut outcomes, mut ready, mut ended) = (Outcomes::default(), VecDeque::new(), false);
    let outcome = |payload| Feed { topic: 1, lane: 0, key: None, payload };
    std::iter::from_fn(move || {
        if ready.is_empty() && !ended {
            match generator.next() {
                Some(message) => {
                    let said = outcomes.take(&message.head);
                    ready.push_back(of_message(message));
                    ready.extend(said.map(outcome));
                }
                None => {
                    ended = true;
                    ready.extend(outcomes.finish().into_iter().map(outcome));
                }
            }
        }
        ready.pop_front()
    })
}

fn of_message(Message { head, payload }: Message) -> Feed {
    Feed { topic: 0, lane: head.patient_index as usize, key: Some(head.key.to_vec()), payload }
}

/// Documents of files for the first topic, a lane a file.
pub fn documents(documents: Documented) -> impl Iterator<Item = Feed> {
    documents.map(|(lane, payload)| Feed { topic: 0, lane, key: None, payload })
}

#[cfg(test)]
mod tests {
    //! Proves the arithmetic of the window; that nothing is lost through it is proved in `kafka/tests.rs`.
    use super::*;

    #[test]
    fn a_window_counts_what_is_not_read_yet() {
        let mut window = Window::default();
        [10, 20, 30].into_iter().for_each(|size| window.push(size));
        window.read_to(1);
        assert_eq!(window.bytes, 50);
        window.read_to(1);
        window.read_to(0);
        assert_eq!(window.bytes, 50);
        window.read_to(9);
        assert_eq!((window.bytes, window.first, window.end()), (0, 3, 3));
        window.push(7);
        assert_eq!(window.bytes, 7);
    }
}
