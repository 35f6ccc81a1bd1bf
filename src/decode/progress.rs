//! How far the event time of each partition has come.
//!
//! **The watermark** of a partition at a record is the greatest event time of the Observations accepted from that partition *before*
//! it, less `disorder`; [`EventTime::MIN`] before the first. An Observation is judged against the watermark as it stands before
//! itself, so a reading never makes itself late, and what is late depends on nothing but the partition's own content.
//!
//! What does not move the watermark: rejected and ignored inputs (`clock_ahead` above all), and versions that withdraw
//! (their time may be the error that they withdraw).

use crate::identified::Mark;
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

/// Where one partition stands.
#[derive(Debug)]
pub(super) struct Standing {
    partition: Partition,
    latest: EventTime,
    /// The number of the next resource, if resources are numbered.
    ordinal: i64,
    idle: bool,
    ended: bool,
    /// What the last tick said; `None` if one is due.
    told: Option<EventTime>,
}

impl Progress {
    pub(super) fn new(disorder: EventSpan, lateness: EventSpan) -> Self {
        Progress { disorder, lateness, standings: Vec::new(), last: 0 }
    }

    fn standing(&mut self, partition: Partition) -> &mut Standing {
        if self.standings.get(self.last).is_none_or(|standing| standing.partition != partition) {
            self.last = match self.standings.binary_search_by_key(&partition, |standing| standing.partition) {
                Ok(at) => at,
                Err(at) => {
                    let new = Standing {
                        partition,
                        latest: EventTime::MIN,
                        ordinal: 0,
                        idle: false,
                        ended: false,
                        told: None,
                    };
                    self.standings.insert(at, new);
                    at
                }
            };
        }
        &mut self.standings[self.last]
    }

    /// A record of this partition is looked at; the partition is not idle any more.
    pub(super) fn wake(&mut self, partition: Partition) {
        let standing = self.standing(partition);
        if standing.idle {
            standing.idle = false;
            standing.told = None;
        }
    }

    /// The watermark of a partition as it stands.
    pub(super) fn watermark(&mut self, partition: Partition) -> EventTime {
        let disorder = self.disorder;
        self.standing(partition).latest - disorder
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
        let standing = self.standing(partition);
        standing.latest = standing.latest.max(at);
    }

    /// The number of the next resource of this partition.
    pub(super) fn ordinal(&mut self, partition: Partition) -> &mut i64 {
        &mut self.standing(partition).ordinal
    }

    /// Partitions that hold no window open although they have not ended.
    pub(super) fn idle(&self) -> i64 {
        self.standings.iter().filter(|standing| standing.idle).count() as i64
    }

    /// What the source says of a partition.
    pub(super) fn mark(&mut self, mark: Mark) {
        let standing = match mark {
            Mark::Opened(partition) => self.standing(partition),
            Mark::Idle(partition) => {
                let standing = self.standing(partition);
                standing.idle = true;
                standing
            }
            Mark::Ended(partition) => {
                let standing = self.standing(partition);
                standing.ended = true;
                standing
            }
        };
        standing.told = None;
    }

    /// One tick for each partition whose state is another than at the last call, ascending; ended partitions are forgotten.
    pub(super) fn ticks(&mut self, into: &mut Vec<Tick>) {
        let disorder = self.disorder;
        for standing in &mut self.standings {
            let watermark = if standing.ended { EventTime::MAX } else { standing.latest - disorder };
            if standing.told != Some(watermark) {
                standing.told = Some(watermark);
                into.push(Tick { partition: standing.partition, watermark, idle: standing.idle && !standing.ended });
            }
        }
        self.standings.retain(|standing| !standing.ended);
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
