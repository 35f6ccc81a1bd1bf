//! How far the event time of each partition has come.
//!
//! **The watermark** of a partition at a record is the greatest event time of the Observations accepted from that partition *before*
//! it, less `disorder`; [`EventTime::MIN`] before the first. An Observation is judged against the watermark as it stands before
//! itself, so a reading never makes itself late, and what is late depends on nothing but the partition's own content.
//!
//! What does not move the watermark: rejected and ignored inputs (`clock_ahead` above all), and versions that withdraw
//! (their time may be the error that they withdraw).
//!
//! **What survives** is how far each partition has come, those that have ended included: a run that ended with its input may be continued,
//! and an ended partition is opened again where it left off. Each is an entry of its own, in the block of its partition's route.
//!
//! Limits: 80 bytes a partition, kept for ever; a save looks at all of them.

use serde::{Deserialize, Serialize};

use crate::identified::Mark;
use crate::runtime::survive::{Blocks, Corrupt, Extent, entries};
use crate::source::Topics;
use crate::time::{EventSpan, EventTime};
use crate::vocabulary::{Partition, Tick, Timeliness};

/// The partitions that are read here.
#[derive(Debug)]
pub(super) struct Progress {
    disorder: EventSpan,
    lateness: EventSpan,
    /// Ascending by partition.
    standings: Vec<Standing>,
    /// Where the last look-up ended: records come in runs.
    last: usize,
}

/// One partition, as this worker reads it.
#[derive(Debug)]
struct Standing {
    partition: Partition,
    place: Place,
    /// What the last tick said; `None` if one is due.
    told: Option<EventTime>,
    /// As it was saved last.
    saved: Option<Place>,
}

/// How far one partition has come: what survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    latest: EventTime,
    /// The number of the next resource, if resources are numbered.
    ordinal: i64,
    idle: bool,
    ended: bool,
}

impl Place {
    /// Nothing read yet.
    const START: Place = Place { latest: EventTime::MIN, ordinal: 0, idle: false, ended: false };

    /// What a tick says of it.
    fn watermark(self, disorder: EventSpan) -> EventTime {
        if self.ended { EventTime::MAX } else { self.latest - disorder }
    }
}

/// No partition has more resources than this: what was saved with more is no standing.
const ORDINAL_MAX: i64 = 1 << 62;

impl Progress {
    pub(super) fn new(disorder: EventSpan, lateness: EventSpan) -> Self {
        Progress { disorder, lateness, standings: Vec::new(), last: 0 }
    }

    fn standing(&mut self, partition: Partition) -> &mut Standing {
        if self.standings.get(self.last).is_none_or(|standing| standing.partition != partition) {
            self.last = match self.standings.binary_search_by_key(&partition, |standing| standing.partition) {
                Ok(at) => at,
                Err(at) => {
                    self.standings.insert(at, Standing { partition, place: Place::START, told: None, saved: None });
                    at
                }
            };
        }
        &mut self.standings[self.last]
    }

    /// A record of this partition is looked at; the partition is not idle any more.
    pub(super) fn wake(&mut self, partition: Partition) {
        let standing = self.standing(partition);
        if standing.place.idle {
            standing.place.idle = false;
            standing.told = None;
        }
    }

    /// The watermark of a partition as it stands.
    pub(super) fn watermark(&mut self, partition: Partition) -> EventTime {
        let disorder = self.disorder;
        self.standing(partition).place.latest - disorder
    }

    /// The latest event time that was accepted of a partition, if any was.
    pub(super) fn latest(&mut self, partition: Partition) -> Option<EventTime> {
        Some(self.standing(partition).place.latest).filter(|latest| *latest > EventTime::MIN)
    }

    /// Judges an event time against the watermark as it stands.
    pub(super) fn timeliness(&mut self, partition: Partition, at: EventTime) -> Timeliness {
        let watermark = self.watermark(partition);
        if at >= watermark {
            Timeliness::OnTime
        } else if at >= watermark - self.lateness {
            Timeliness::Late
        } else {
            Timeliness::TooLate
        }
    }

    /// An Observation of this event time was accepted.
    pub(super) fn advance(&mut self, partition: Partition, at: EventTime) {
        let place = &mut self.standing(partition).place;
        place.latest = place.latest.max(at);
    }

    /// The number of the next resource of this partition.
    pub(super) fn ordinal(&mut self, partition: Partition) -> &mut i64 {
        &mut self.standing(partition).place.ordinal
    }

    /// Partitions that hold no window open although they have not ended.
    pub(super) fn idle(&self) -> i64 {
        self.standings.iter().filter(|standing| standing.place.idle && !standing.place.ended).count() as i64
    }

    /// What the source says of a partition. One that is opened, for the first time or again, is neither idle nor at its end.
    pub(super) fn mark(&mut self, mark: Mark) {
        let (Mark::Opened(partition) | Mark::Idle(partition) | Mark::Ended(partition)) = mark;
        let standing = self.standing(partition);
        let place = &mut standing.place;
        match mark {
            Mark::Opened(_) => (place.idle, place.ended) = (false, false),
            Mark::Idle(_) => place.idle = true,
            Mark::Ended(_) => place.ended = true,
        }
        standing.told = None;
    }

    /// One tick for each partition whose state is another than at the last call, ascending.
    pub(super) fn ticks(&mut self, into: &mut Vec<Tick>) {
        let disorder = self.disorder;
        for Standing { partition, place, told, .. } in &mut self.standings {
            let watermark = place.watermark(disorder);
            if *told != Some(watermark) {
                *told = Some(watermark);
                into.push(Tick { partition: *partition, watermark, idle: place.idle && !place.ended });
            }
        }
    }

    /// Saves the partitions that have moved since they were saved last, or all.
    pub(super) fn save(&mut self, extent: Extent, topics: &Topics, into: &mut Blocks) {
        for Standing { partition, place, saved, .. } in &mut self.standings {
            if extent == Extent::All || *saved != Some(*place) {
                into.push(topics.route(*partition), &(*partition, *place));
                *saved = Some(*place);
            }
        }
    }

    /// Takes in a block. Between batches no tick is due, and none is due for what was saved there.
    pub(super) fn load(&mut self, block: &[u8], topics: &Topics) -> Result<(), Corrupt> {
        let what = "place of a partition";
        entries(block, what, |(partition, place): (Partition, Place)| {
            if !topics.has(partition.topic) || !(0..=ORDINAL_MAX).contains(&place.ordinal) {
                return Err(Corrupt { what });
            }
            let told = Some(place.watermark(self.disorder));
            *self.standing(partition) = Standing { partition, place, told, saved: Some(place) };
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::TopicId;

    const P: Partition = Partition { topic: TopicId(0), number: 0 };
    const Q: Partition = Partition { topic: TopicId(0), number: 1 };

    fn at(seconds: i64) -> EventTime {
        EventTime::from_micros(seconds * 1_000_000)
    }

    fn ticks(progress: &mut Progress) -> Vec<(i32, EventTime, bool)> {
        let mut ticks = Vec::new();
        progress.ticks(&mut ticks);
        ticks.iter().map(|tick| (tick.partition.number, tick.watermark, tick.idle)).collect()
    }

    #[test]
    fn a_reading_is_judged_before_it_moves_the_watermark() {
        let mut progress = Progress::new(EventSpan::from_seconds(10), EventSpan::from_seconds(100));
        let mut seen = Vec::new();
        for seconds in [1_000, 5_000, 4_990, 4_989, 4_890, 4_889, 9_000] {
            seen.push(progress.timeliness(P, at(seconds)));
            progress.advance(P, at(seconds));
        }
        use Timeliness::{Late, OnTime, TooLate};
        assert_eq!(seen, [OnTime, OnTime, OnTime, Late, Late, TooLate, OnTime]);
        assert_eq!(progress.watermark(P), at(8_990));
        assert_eq!(progress.watermark(Q), EventTime::MIN, "another partition is another watermark");
    }

    #[test]
    fn marks_and_movement_tick_once() {
        let mut progress = Progress::new(EventSpan::ZERO, EventSpan::ZERO);
        progress.mark(Mark::Opened(Q));
        progress.mark(Mark::Opened(P));
        assert_eq!(ticks(&mut progress), [(0, EventTime::MIN, false), (1, EventTime::MIN, false)]);
        assert_eq!(ticks(&mut progress), []);
        progress.advance(P, at(5));
        progress.advance(P, at(4));
        assert_eq!(ticks(&mut progress), [(0, at(5), false)]);
        progress.mark(Mark::Idle(P));
        assert_eq!((ticks(&mut progress), progress.idle()), (vec![(0, at(5), true)], 1));
        progress.wake(P);
        assert_eq!(ticks(&mut progress), [(0, at(5), false)]);
        progress.wake(P);
        assert_eq!(ticks(&mut progress), []);
        progress.mark(Mark::Idle(P));
        progress.mark(Mark::Ended(P));
        assert_eq!((ticks(&mut progress), progress.idle()), (vec![(0, EventTime::MAX, false)], 0));
        assert_eq!(ticks(&mut progress), []);
    }

    #[test]
    fn an_ended_partition_goes_on_where_it_left_off_when_it_is_opened_again() {
        let mut progress = Progress::new(EventSpan::ZERO, EventSpan::ZERO);
        progress.mark(Mark::Opened(P));
        progress.advance(P, at(5));
        *progress.ordinal(P) += 3;
        progress.mark(Mark::Idle(P));
        progress.mark(Mark::Ended(P));
        assert_eq!((ticks(&mut progress), progress.idle()), (vec![(0, EventTime::MAX, false)], 0));
        progress.mark(Mark::Opened(P));
        assert_eq!((ticks(&mut progress), progress.idle()), (vec![(0, at(5), false)], 0));
        assert_eq!((progress.watermark(P), *progress.ordinal(P)), (at(5), 3));
    }

    #[test]
    fn unbounded_disorder_holds_the_watermark_until_the_end() {
        let mut progress = Progress::new(EventSpan::UNBOUNDED, EventSpan::ZERO);
        progress.mark(Mark::Opened(P));
        assert_eq!(ticks(&mut progress), [(0, EventTime::MIN, false)]);
        progress.advance(P, at(5));
        assert_eq!(progress.timeliness(P, at(-5)), Timeliness::OnTime);
        assert_eq!(ticks(&mut progress), []);
        progress.mark(Mark::Ended(P));
        assert_eq!(ticks(&mut progress), [(0, EventTime::MAX, false)]);
    }
}
