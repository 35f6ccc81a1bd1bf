//! How far event time has come over all partitions: what closes windows, and what may be forgotten.
//!
//! Invariants:
//!
//! 1. The watermark never goes back, and is a function of the ticks of the epochs so far: every worker has the same one in every epoch.
//! 2. It is the lowest of the partitions that neither idle nor have ended. An ended partition does not count while others are open;
//!    while all that are open are idle, the furthest of them counts. When all have ended it is [`EventTime::MAX`].
//! 3. A partition that has been named but has delivered nothing holds it at [`EventTime::MIN`].
//! 4. What may be forgotten is judged by the watermark before the end of all input: the end shuts nothing out.
//!
//! It judges no reading: timeliness comes with the reading, from its own partition alone.
//!
//! It can be saved, and is then a worker's own: the numbers of partitions come back as they were.
//!
//! Limits: 40 bytes a partition, and an epoch in which a watermark moved looks at all partitions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::time::{EventSpan, EventTime};
use crate::vocabulary::{Partition, Tick};

/// A partition's number within one [`Watermark`], in order of first sight: it names, it does not order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionId(u32);

/// All known partitions and the watermark they amount to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Saved", into = "Saved")]
pub struct Watermark {
    ids: BTreeMap<Partition, PartitionId>,
    ticks: Vec<Tick>,
    reached: EventTime,
    /// The greatest that was not the end of all input.
    reached_open: EventTime,
}

/// What is saved of a [`Watermark`]: the numbers of the partitions follow from their order.
#[derive(Serialize, Deserialize)]
struct Saved {
    ticks: Vec<Tick>,
    reached: EventTime,
    reached_open: EventTime,
}

impl From<Watermark> for Saved {
    fn from(Watermark { ticks, reached, reached_open, .. }: Watermark) -> Self {
        Saved { ticks, reached, reached_open }
    }
}

impl TryFrom<Saved> for Watermark {
    type Error = &'static str;

    fn try_from(Saved { ticks, reached, reached_open }: Saved) -> Result<Self, Self::Error> {
        let ids: BTreeMap<_, _> = (0..).map(PartitionId).zip(&ticks).map(|(id, tick)| (tick.partition, id)).collect();
        if ids.len() < ticks.len() {
            return Err("a partition is named twice");
        }
        Ok(Watermark { ids, ticks, reached, reached_open })
    }
}

impl Default for Watermark {
    fn default() -> Self {
        Self::new()
    }
}

impl Watermark {
    /// Before every reading.
    pub fn new() -> Self {
        let reached = EventTime::MIN;
        Watermark { ids: BTreeMap::new(), ticks: Vec::new(), reached, reached_open: reached }
    }

    /// Windows that end at or before this are closed.
    pub fn reached(&self) -> EventTime {
        self.reached
    }

    /// What lies before this can no longer be corrected, `horizon` being how long it can.
    pub fn frozen(&self, horizon: EventSpan) -> EventTime {
        self.reached_open - horizon
    }

    /// The number of a partition; a new one counts from here on.
    pub fn id(&mut self, partition: Partition) -> PartitionId {
        *self.ids.entry(partition).or_insert_with(|| {
            self.ticks.push(Tick { partition, watermark: EventTime::MIN, idle: false });
            PartitionId(u32::try_from(self.ticks.len() - 1).expect("fewer than 2^32 partitions"))
        })
    }

    /// True if nothing more will come from this partition.
    pub fn ended(&self, id: PartitionId) -> bool {
        self.ticks[id.0 as usize].watermark == EventTime::MAX
    }

    /// Takes in the ticks of one epoch; those of one partition in the order in which they were given.
    pub fn advance(&mut self, ticks: &[Tick]) {
        if ticks.is_empty() {
            return;
        }
        for tick in ticks {
            let PartitionId(at) = self.id(tick.partition);
            let known = &mut self.ticks[at as usize];
            known.watermark = known.watermark.max(tick.watermark);
            known.idle = tick.idle;
        }
        self.reached = self.reached.max(self.combine());
        if self.reached < EventTime::MAX {
            self.reached_open = self.reached;
        }
    }

    fn combine(&self) -> EventTime {
        let open = || self.ticks.iter().filter(|tick| tick.watermark < EventTime::MAX);
        let lowest = open().filter(|tick| !tick.idle).map(|tick| tick.watermark).min();
        lowest.or_else(|| open().map(|tick| tick.watermark).max()).unwrap_or(EventTime::MAX)
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

    #[test]
    fn an_ended_partition_does_not_count_while_others_are_open() {
        check("0@open 1@open; 0@30; 0@end; 1@5; 1@7~; 1@9", &[-1, -1, -1, 5, 7, 9]);
    }

    #[test]
    fn a_partition_first_seen_through_a_reading_holds_windows_open_until_its_tick() {
        let mut watermark = Watermark::new();
        let id = watermark.id(tick("7@open").partition);
        watermark.advance(&[tick("0@10")]);
        assert_eq!(watermark.reached(), EventTime::MIN);
        watermark.advance(&[tick("7@end")]);
        assert!(watermark.ended(id));
        assert_eq!(watermark.reached(), EventTime::from_micros(10));
    }

    #[test]
    fn a_saved_watermark_comes_back_with_its_numbers_and_goes_on() {
        let mut watermark = Watermark::new();
        watermark.advance(&["7@30", "0@10", "3@end", "1@5~"].map(tick));
        let mut back: Watermark = postcard::from_bytes(&postcard::to_allocvec(&watermark).unwrap()).unwrap();
        assert_eq!(back, watermark);
        assert_eq!(back.id(tick("1@0").partition), watermark.id(tick("1@0").partition));
        for next in ["0@40", "1@35", "7@end", "0@end", "1@end"].map(tick) {
            back.advance(&[next]);
            watermark.advance(&[next]);
            assert_eq!((back.reached(), back.frozen(EventSpan::ZERO)), (watermark.reached(), watermark.reached_open));
        }
    }

    #[test]
    fn a_watermark_that_names_a_partition_twice_is_none() {
        let saved =
            Saved { ticks: vec![tick("0@1"), tick("0@2")], reached: EventTime::MIN, reached_open: EventTime::MIN };
        assert!(postcard::from_bytes::<Watermark>(&postcard::to_allocvec(&saved).unwrap()).is_err());
    }
}
