//! How far event time has come, over all partitions: what closes windows, and what freezes them.
//!
//! Invariants:
//!
//! 1. The watermark never goes back, and is a function of the ticks of the epochs so far: every worker has the same one in every epoch.
//! 2. It is the least watermark of the partitions that neither idle nor have ended; [`EventTime::MAX`] once all have ended. While all that
//!    have not ended are idle, the furthest of them counts: nothing else is to be waited for.
//! 3. What is frozen is judged by the watermark *before* the epoch, and never by the end of the input: an epoch that spans a year of
//!    replayed readings does not shut its own readings out.
//!
//! Partitions are known from their first tick. A partition first heard of in a later epoch holds windows open from then on.

use std::collections::BTreeMap;

use crate::time::{EventSpan, EventTime};
use crate::vocabulary::{Partition, Tick};

/// The watermark of a flow.
#[derive(Clone, Debug)]
pub struct Watermark {
    partitions: BTreeMap<Partition, Tick>,
    reached: EventTime,
    /// The greatest that was not the end of all input.
    reached_open: EventTime,
}

impl Default for Watermark {
    fn default() -> Self {
        Self::new()
    }
}

impl Watermark {
    /// Before every reading.
    pub fn new() -> Self {
        Watermark { partitions: BTreeMap::new(), reached: EventTime::MIN, reached_open: EventTime::MIN }
    }

    /// Takes in the ticks of one epoch; those of one partition in the order in which they were given.
    pub fn advance(&mut self, ticks: &[Tick]) {
        if ticks.is_empty() {
            return;
        }
        for tick in ticks {
            let known = self.partitions.entry(tick.partition).or_insert(*tick);
            known.watermark = known.watermark.max(tick.watermark);
            known.idle = tick.idle;
        }
        self.reached = self.reached.max(self.least());
        if self.reached < EventTime::MAX {
            self.reached_open = self.reached;
        }
    }

    /// Windows that end at or before this are closed.
    pub fn reached(&self) -> EventTime {
        self.reached
    }

    /// Windows that end at or before this can no longer be corrected, `horizon` being how long they can.
    pub fn frozen(&self, horizon: EventSpan) -> EventTime {
        self.reached_open - horizon
    }

    fn least(&self) -> EventTime {
        let open = || self.partitions.values().filter(|tick| tick.watermark < EventTime::MAX);
        let busy = open().filter(|tick| !tick.idle).map(|tick| tick.watermark).min();
        let furthest = || open().map(|tick| tick.watermark).max();
        busy.or_else(furthest).unwrap_or(EventTime::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::TopicId;

    /// One line an epoch: `partition@seconds`, `~` behind it for idle, `end` and `open` for the extremes.
    fn check(script: &str, expected: &[i64]) {
        let mut watermark = Watermark::new();
        let mut reached = Vec::new();
        for epoch in script.split(';') {
            let ticks: Vec<Tick> = epoch.split_whitespace().map(tick).collect();
            watermark.advance(&ticks);
            reached.push(match watermark.reached() {
                EventTime::MIN => -1,
                EventTime::MAX => 999,
                at => at.micros(),
            });
        }
        assert_eq!(reached, expected, "{script}");
    }

    fn tick(word: &str) -> Tick {
        let (partition, at) = word.split_once('@').unwrap();
        let idle = at.ends_with('~');
        let watermark = match at.trim_end_matches('~') {
            "open" => EventTime::MIN,
            "end" => EventTime::MAX,
            micros => EventTime::from_micros(micros.parse().unwrap()),
        };
        Tick { partition: Partition { topic: TopicId(0), number: partition.parse().unwrap() }, watermark, idle }
    }

    #[test]
    fn the_slowest_partition_decides() {
        check("0@open 1@open; 0@10; 1@5; 1@20; 0@15", &[-1, -1, 5, 10, 15]);
    }

    #[test]
    fn an_idle_partition_is_not_waited_for_until_it_wakes() {
        check("0@open 1@open; 0@10 1@5; 1@5~; 0@30; 1@6; 0@40; 1@35", &[-1, 5, 10, 30, 30, 30, 35]);
    }

    #[test]
    fn when_all_idle_the_furthest_counts() {
        check("0@10 1@5; 0@10~; 1@5~", &[5, 5, 10]);
        check("0@10 1@5; 1@5~; 0@10~", &[5, 10, 10]);
        check("0@open~ 1@open~", &[-1]);
    }

    #[test]
    fn the_end_of_all_is_the_end_of_time() {
        check("0@open 1@open; 0@10 1@5; 1@end; 0@12~; 0@end", &[-1, 5, 10, 12, 999]);
    }

    #[test]
    fn the_end_of_all_freezes_nothing() {
        let mut watermark = Watermark::new();
        watermark.advance(&[tick("0@100")]);
        watermark.advance(&[tick("0@end")]);
        assert_eq!(watermark.frozen(EventSpan::from_micros(30)), EventTime::from_micros(70));
        assert_eq!(watermark.frozen(EventSpan::UNBOUNDED), EventTime::MIN);
    }
}
