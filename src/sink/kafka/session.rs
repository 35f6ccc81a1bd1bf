//! One lane's dealings with the broker: its opening, its transactions, and what follows when one of them fails.
//!
//! ```text
//! open:     init own id ─> mark "announced" ─> read all up to it ─> fence earlier lanes ─> mark "opened" ─> read up to it ─> publish …
//! publish:  begin ─> rows ─> progress ─> commit
//! recover:  new producer, init own id ─> mark "opened" ─> read up to it: is the progress there?
//! ```
//!
//! Why no row is published twice, and none is lost:
//!
//! 1. *Whoever reads a mark of a higher generation publishes nothing.* A lane reads after every `init`: at its opening and at every recovery.
//! 2. *Whoever does not is fenced.* Say an old lane has read up to its mark, written after its `init`, and has not seen the new lane's
//!    announcement. Then that lies behind the mark in the topic, and was written after the old lane's `init`; the new lane fences after its
//!    announcement, so after that `init`. The old lane's next commit fails, it recovers, reads the announcement, and ends.
//! 3. *Progress is read when all older lanes are fenced:* `init` of their ids returns when their last transaction is committed or aborted.
//!    What they have published is then known and does not grow.
//! 4. *An unknown result is looked up.* The new producer's `init` has decided it, and rows and progress record are one transaction.
//!
//! Whom to fence is read from all records, committed or not: an earlier lane's open transaction would hold up a reader of committed ones. That errs
//! on the safe side: a mark is written only when what it says is true, whatever becomes of its transaction.
//!
//! A lane that left no mark before the announcement need not be fenced (it will read the announcement), nor one of a generation before one that
//! has opened (that has fenced it). So however often a flow has died, a start fences few lanes.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::ClientConfig;

use super::ledger::{Lane, LaneId, Ledger, Mark, Published};
use super::message::Message;
use super::progress::{self, Reader, Seen};
use super::transactions::Transactions;
use super::wait::{Fault, Wait};
use crate::runtime::failpoint;
use crate::sink::SinkError;
use crate::time::Epoch;

/// Pause before another attempt.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Where and as whom a session works.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) client: ClientConfig,
    /// Consumer group for the progress topic; nothing is committed in it.
    pub(super) group: String,
    /// The progress topic.
    pub(super) topic: Arc<str>,
    pub(super) lane: Lane,
}

/// An open lane.
pub(super) struct Session {
    place: Place,
    /// `None`: a new one must be made, and the progress be read back, before anything is published.
    producer: Option<Transactions>,
    ledger: Ledger,
    /// The ledger has everything before this offset.
    read: i64,
    published: Published,
}

impl Session {
    /// Opens a lane, as often as it takes.
    pub(super) fn open(place: &Place, wait: &Wait<'_>) -> Result<Self, SinkError> {
        persist(wait, || Session::try_open(place, wait))
    }

    fn try_open(place: &Place, wait: &Wait<'_>) -> Result<Self, Fault> {
        progress::ensure(&place.client, &place.topic, wait)?;
        let (lane, own) = (&place.lane, place.lane.id());
        let producer = place.producer(own, wait)?;
        let announced = place.mark(&producer, Mark::Announced, wait)?;
        let known = place.read(Ledger::new(&lane.job), 0..=announced, Seen::All, wait)?;
        known.refuse_if_taken_over(lane)?;
        for earlier in known.to_fence(lane.generation) {
            place.producer(earlier, wait)?;
        }
        let opened = place.mark(&producer, Mark::Opened, wait)?;
        let ledger = place.read(Ledger::new(&lane.job), 0..=opened, Seen::Committed, wait)?;
        ledger.refuse_if_taken_over(lane)?;
        let published = ledger.published(lane);
        let mut session =
            Session { place: place.clone(), producer: Some(producer), ledger, read: opened + 1, published };
        if session.place.lane.worker == 0 {
            session.forget(wait)?;
        }
        Ok(session)
    }

    /// What earlier generations have published.
    pub(super) fn published(&self) -> &Published {
        &self.published
    }

    /// Publishes these messages, and that everything up to `upto` is published, in one transaction; as often as it takes.
    /// `failed` is called before every repetition.
    pub(super) fn publish(
        &mut self,
        messages: &[Message],
        upto: Epoch,
        wait: &Wait<'_>,
        mut failed: impl FnMut(),
    ) -> Result<(), SinkError> {
        let mut first = true;
        persist(wait, || {
            if !std::mem::take(&mut first) {
                failed();
            }
            self.try_publish(messages, upto, wait)
        })
    }

    fn try_publish(&mut self, messages: &[Message], upto: Epoch, wait: &Wait<'_>) -> Result<(), Fault> {
        // Taken out: whatever goes wrong from here on ends it.
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => {
                let producer = self.recover(wait)?;
                if self.ledger.progress(self.place.lane.id()) >= upto {
                    self.producer = Some(producer);
                    return Ok(());
                }
                producer
            }
        };
        let progress = self.place.progress(upto);
        producer.fill(messages, &progress, wait)?;
        failpoint::hit("kafka.commit.before");
        producer.end(wait)?;
        failpoint::hit("kafka.commit.after");
        self.producer = (!producer.is_disturbed()).then_some(producer);
        Ok(())
    }

    /// A new producer, and what the progress topic says now that its predecessor's last transaction is decided.
    fn recover(&mut self, wait: &Wait<'_>) -> Result<Transactions, Fault> {
        let producer = self.place.producer(self.place.lane.id(), wait)?;
        let mark = self.place.mark(&producer, Mark::Opened, wait)?;
        self.ledger = self.place.read(self.ledger.clone(), self.read..=mark, Seen::Committed, wait)?;
        self.read = mark + 1;
        self.ledger.refuse_if_taken_over(&self.place.lane)?;
        Ok(producer)
    }

    /// Deletes what the topic says of generations that no replay will ask about.
    fn forget(&mut self, wait: &Wait<'_>) -> Result<(), Fault> {
        let mut deletions: Vec<Message> =
            self.ledger.outdated(&self.place.lane).into_iter().map(|key| self.place.record(key, None)).collect();
        if let (Some(last), Some(producer)) = (deletions.pop(), &self.producer) {
            producer.commit(&deletions, &last, wait)?;
            if producer.is_disturbed() {
                self.producer = None;
            }
        }
        Ok(())
    }

    /// Looks for news.
    pub(super) fn attend(&self) {
        if let Some(producer) = &self.producer {
            producer.attend();
        }
    }
}

impl Place {
    /// Makes a producer with a lane's id, which fences every other one with it.
    fn producer(&self, lane: LaneId, wait: &Wait<'_>) -> Result<Transactions, Fault> {
        Transactions::begin(&self.client, lane.transactional_id(&self.lane.job), wait)
    }

    /// The ledger with the records at these offsets.
    fn read(&self, mut ledger: Ledger, at: RangeInclusive<i64>, seen: Seen, wait: &Wait<'_>) -> Result<Ledger, Fault> {
        let mut reader = Reader::new(&self.client, &self.group, &self.topic, *at.start(), seen)?;
        reader.read_to(*at.end(), &mut ledger, wait)?;
        Ok(ledger)
    }

    /// Writes the lane's mark and returns its offset.
    fn mark(&self, producer: &Transactions, mark: Mark, wait: &Wait<'_>) -> Result<i64, Fault> {
        let record = self.record(self.lane.id().mark_key(&self.lane.job), Some(mark.value().into()));
        let offset = producer.commit(&[], &record, wait)?;
        match producer.is_disturbed() {
            false => Ok(offset),
            true => Err(Fault::Passing(rdkafka::error::RDKafkaErrorCode::BrokerTransportFailure)),
        }
    }

    fn progress(&self, upto: Epoch) -> Message {
        self.record(self.lane.id().progress_key(&self.lane.job), Some(upto.to_string().into()))
    }

    fn record(&self, key: String, value: Option<Vec<u8>>) -> Message {
        Message { topic: Arc::clone(&self.topic), key: key.into_bytes(), value, headers: None }
    }
}

/// Attempts until one succeeds, or fails for good, or the run is given up.
fn persist<T>(wait: &Wait<'_>, mut attempt: impl FnMut() -> Result<T, Fault>) -> Result<T, SinkError> {
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(Fault::Final(error)) => return Err(error),
            Err(Fault::Passing(code)) => {
                tracing::warn!(target: "sink::kafka", %code, "a transaction was not confirmed; looking what became of it");
                wait.pause(RETRY_PAUSE)?;
            }
        }
    }
}

#[cfg(test)]
impl Session {
    /// Puts everything into a transaction and leaves it open, as a crash before the commit does.
    pub(super) fn fill(&mut self, messages: &[Message], upto: Epoch, wait: &Wait<'_>) {
        let producer = self.producer.as_ref().unwrap();
        producer.fill(messages, &self.place.progress(upto), wait).unwrap();
    }

    /// Commits that transaction.
    pub(super) fn end(&self, wait: &Wait<'_>) -> Result<(), Fault> {
        self.producer.as_ref().unwrap().end(wait)
    }

    pub(super) fn has_producer(&self) -> bool {
        self.producer.is_some()
    }

    /// The lane's producer is gone, as after a result that nobody knows.
    pub(super) fn lose_producer(&mut self) {
        self.producer = None;
    }
}
