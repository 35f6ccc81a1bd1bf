//! The generator as a source: the streams of this worker's partitions, at a rate.
//!
//! The only clock is handed in; it decides when a record comes, never what it holds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::profile::Profile;
use super::stream::{Stream, streams};
use super::{Content, PARTITIONS, TOPIC};
use crate::config::SourceSpec;
use crate::identified::{Mark, Payload, Record, Records};
use crate::runtime::stop::Stop;
use crate::source::{Lag, Opening, Poll, Polled, SourceError};
use crate::vocabulary::{Partition, Position};

/// Messages taken from one partition before it is the next one's turn: partitions stay close together in event time.
const RUN_MESSAGES: usize = 64;

/// One worker's share of the generator.
pub struct GeneratorSource {
    readers: Vec<Reader>,
    /// Not delivered yet.
    marks: Vec<Mark>,
    /// Observations a second and partition; `None` for as fast as they are taken.
    rate: Option<f64>,
    clock: Box<dyn Fn() -> Duration + Send>,
    turn: usize,
    payload: Vec<u8>,
    /// What is wanted of each partition at most, if there are limits.
    limits: Option<BTreeMap<Partition, i64>>,
    stop: Stop,
}

struct Reader {
    partition: Partition,
    stream: Stream,
    offset: i64,
    /// Observations so far, of this run.
    done: u64,
    ended: bool,
}

impl GeneratorSource {
    /// Opens it on the machine's monotonic clock.
    ///
    /// # Errors
    /// [`SourceError::Configuration`] if it is to be read to its end but has none.
    pub fn open(spec: &SourceSpec, opening: &Opening<'_>) -> Result<Self, SourceError> {
        let begun = Instant::now();
        Self::with_clock(spec, opening, Box::new(move || begun.elapsed()))
    }

    /// Opens it on a clock that tells the time since the start.
    ///
    /// # Errors
    /// As [`GeneratorSource::open`].
    pub fn with_clock(
        spec: &SourceSpec,
        opening: &Opening<'_>,
        clock: Box<dyn Fn() -> Duration + Send>,
    ) -> Result<Self, SourceError> {
        if opening.until_end && spec.observations == 0 {
            let text = "the generator has no end to run until: set source.observations to more than 0, or leave --until end out";
            return Err(SourceError::Configuration(text.into()));
        }
        let topic = opening.topics.id(TOPIC).unwrap_or_default();
        let profile = Profile::default();
        let mut payload = Vec::new();
        let reader = |number: u32| {
            let partition = Partition { topic, number: number as i32 };
            let stream = Stream::new(&profile, spec.seed, spec.patients, spec.observations, number);
            let mut reader = Reader { partition, stream, offset: 0, done: 0, ended: false };
            // Replayed from its beginning: the state of its patients is nowhere else.
            let resume = opening.resume.get(&partition).copied().unwrap_or(0);
            while reader.offset < resume && reader.step(&mut payload).is_some() {}
            // The rate is that of this run: what an earlier one had is not waited for again.
            reader.done = 0;
            reader
        };
        let ours = |number: &u32| opening.share.takes(TOPIC, *number as i32);
        let readers: Vec<Reader> = (0..PARTITIONS).filter(ours).map(reader).collect();
        let rate = (spec.rate_per_second > 0).then(|| spec.rate_per_second as f64 / f64::from(streams(spec.patients)));
        Ok(GeneratorSource {
            marks: readers.iter().map(|reader| Mark::Opened(reader.partition)).collect(),
            readers,
            rate,
            clock,
            turn: 0,
            payload,
            limits: None,
            stop: opening.stop.clone(),
        })
    }

    /// Up to [`RUN_MESSAGES`] of the partition whose turn it is. False if it has none now.
    fn run(&mut self, due: u64, into: &mut Records) -> bool {
        let reader = &mut self.readers[self.turn];
        let limit = self.limits.as_ref().map_or(i64::MAX, |limits| limits.get(&reader.partition).copied().unwrap_or(0));
        let mut count = 0;
        while count < RUN_MESSAGES && reader.done < due && reader.offset < limit {
            let offset = reader.offset;
            let Some(key) = reader.step(&mut self.payload) else { break };
            let payload = Payload::Bytes(into.arena.push(&self.payload));
            let key = Some(into.arena.push(&key));
            let position = Position { partition: reader.partition, offset, entry: 0 };
            into.records.push(Record { position, received_at: None, payload, key });
            count += 1;
        }
        if reader.stream.left() == 0 && !reader.ended {
            reader.ended = true;
            self.marks.push(Mark::Ended(reader.partition));
        }
        count > 0
    }
}

impl Reader {
    /// The next message, written over `payload`; its key.
    fn step(&mut self, payload: &mut Vec<u8>) -> Option<[u8; super::ID_BYTES]> {
        let head = self.stream.next_into(payload)?;
        self.offset += 1;
        self.done += u64::from(head.content == Content::Observation);
        Some(head.key)
    }
}

impl Poll for GeneratorSource {
    fn poll(&mut self, bytes_max: usize, into: &mut Records) -> Result<Polled, SourceError> {
        if self.stop.drain() {
            return Ok(Polled::End);
        }
        let (start, before) = (into.arena.len(), into.records.len());
        let due = self.rate.map_or(u64::MAX, |rate| ((self.clock)().as_secs_f64() * rate) as u64);
        let mut without = 0;
        while without < self.readers.len() && into.arena.len() - start < bytes_max {
            without = if self.run(due, into) { 0 } else { without + 1 };
            self.turn = (self.turn + 1) % self.readers.len();
        }
        let marked = !self.marks.is_empty();
        into.marks.append(&mut self.marks);
        Ok(if marked || into.records.len() > before {
            Polled::Some
        } else if self.readers.iter().all(|reader| reader.ended) {
            Polled::End
        } else {
            Polled::Nothing
        })
    }

    fn limit(&mut self, limits: Option<&BTreeMap<Partition, i64>>) {
        self.limits = limits.cloned();
    }

    /// The generator keeps no offsets.
    fn durable(&mut self, _: &[(Partition, i64)]) {}

    /// What it has not generated yet does not wait: 0.
    fn lag(&self) -> Vec<Lag> {
        let lag = |reader: &Reader| Lag { partition: reader.partition, position: reader.offset, records: 0 };
        self.readers.iter().map(lag).collect()
    }
}
