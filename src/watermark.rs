//! How far event time has come over all partitions: what closes windows, and what may be forgotten.
//!
//! Invariants:
//!
//! 1. The watermark never goes back, but from the end of all input, and is a function of the ticks of the epochs so far: every worker has the same one in
//!    every epoch.
//! 2. It is the lowest of the partitions that neither idle nor have ended. An ended partition does not count while others are open;
//!    while all that are open are idle, the furthest of them counts. When all have ended it is [`EventTime::MAX`].
//! 3. A partition that has been named but has delivered nothing holds it at [`EventTime::MIN`].
//! 4. What may be forgotten is judged by the watermark before the end of all input: the end shuts nothing out.
//! 5. An ended partition may be opened again: then its ticks count again. If all had ended, it goes on from before the end of all input, be it that a run was
//!    continued there (loaded), or that one repeats how an earlier run came to its end ([`Watermark::reopen`]).
//!
//! It judges no reading: timeliness comes with the reading, from its own partition alone.
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
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "SavedWatermark", into = "SavedWatermark")]
pub struct Watermark {
    ids: BTreeMap<Partition, PartitionId>,
    ticks: Vec<Tick>,
    reached: EventTime,
    /// The greatest that was not the end of all input.
    reached_open: EventTime,
}

/// What survives of a watermark. Ended partitions are not in it: one that is not in it has ended, or was never heard of, which is the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedWatermark {
    reached: EventTime,
    reached_open: EventTime,
    /// Ascending by partition.
    open: Vec<Tick>,
}

impl From<Watermark> for SavedWatermark {
    fn from(watermark: Watermark) -> Self {
        watermark.saved()
    }
}

impl From<SavedWatermark> for Watermark {
    fn from(saved: SavedWatermark) -> Self {
        let mut watermark = Watermark::new();
        watermark.restore(saved);
        watermark
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

    /// The number of a partition that is named by saved state. If nothing else tells of it, it has ended: it holds nothing up.
    pub fn past_id(&mut self, partition: Partition) -> PartitionId {
        let known = self.ids.contains_key(&partition);
        let id = self.id(partition);
        if !known {
            self.ticks[id.0 as usize].watermark = EventTime::MAX;
        }
        id
    }

    /// Which partition a number stands for.
    pub fn partition(&self, id: PartitionId) -> Partition {
        self.ticks[id.0 as usize].partition
    }

    /// How far a partition has come that is known and has not ended.
    pub fn open(&self, partition: Partition) -> Option<EventTime> {
        let PartitionId(at) = *self.ids.get(&partition)?;
        Some(self.ticks[at as usize].watermark).filter(|watermark| *watermark < EventTime::MAX)
    }

    /// What survives.
    pub fn saved(&self) -> SavedWatermark {
        let open = self.ids.values().map(|PartitionId(at)| self.ticks[*at as usize]);
        SavedWatermark {
            reached: self.reached,
            reached_open: self.reached_open,
            open: open.filter(|tick| tick.watermark < EventTime::MAX).collect(),
        }
    }

    /// Takes in what was saved, in place of everything known; numbers of partitions stay.
    ///
    /// If all input had ended, it goes on from before: what comes now is no late-comer.
    pub fn restore(&mut self, saved: SavedWatermark) {
        (self.reached, self.reached_open) = (saved.reached, saved.reached_open);
        self.go_on();
        for tick in &mut self.ticks {
            (tick.watermark, tick.idle) = (EventTime::MAX, false);
        }
        for tick in saved.open {
            let PartitionId(at) = self.id(tick.partition);
            self.ticks[at as usize] = tick;
        }
    }

    /// True if nothing more will come from this partition.
    pub fn ended(&self, id: PartitionId) -> bool {
        self.ticks[id.0 as usize].watermark == EventTime::MAX
    }

    /// To be told of an epoch's ticks before its readings are applied: after the end of all input they are of a later run's, which judges them as if it
    /// had been loaded there.
    pub fn reopen(&mut self, ticks: &[Tick]) {
        if !ticks.is_empty() {
            self.go_on();
        }
    }

    fn go_on(&mut self) {
        if self.reached == EventTime::MAX {
            self.reached = self.reached_open;
        }
    }

    /// Takes in the ticks of one epoch; those of one partition in the order in which they were given.
    pub fn advance(&mut self, ticks: &[Tick]) {
        if ticks.is_empty() {
            return;
        }
        self.go_on();
        for tick in ticks {
            let PartitionId(at) = self.id(tick.partition);
            let known = &mut self.ticks[at as usize];
            let reopened = known.watermark == EventTime::MAX;
            known.watermark = if reopened { tick.watermark } else { known.watermark.max(tick.watermark) };
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
    fn a_partition_that_is_opened_again_counts_again() {
        check("0@open 1@open; 0@10 1@20; 0@end; 0@12; 0@22 1@25", &[-1, 10, 20, 20, 22]);
    }

    #[test]
    fn after_the_end_of_all_it_goes_on_from_before_as_if_it_had_been_loaded_there() {
        check("0@10; 0@end; 1@open; 1@5; 1@20; 1@end; 1@end", &[10, 999, 10, 10, 20, 999, 999]);
        check("0@10; 0@end; 0@7 1@open; 0@12 1@11", &[10, 999, 10, 11]);
        let (mut ended, mut loaded) = (Watermark::new(), Watermark::new());
        ended.advance(&["0@10", "0@end"].map(tick));
        loaded.restore(ended.saved());
        ended.reopen(&[]);
        assert_eq!(ended.reached(), EventTime::MAX, "nothing has come");
        ended.reopen(&[tick("1@open")]);
        assert_eq!(ended.saved(), loaded.saved());
    }

    #[test]
    fn a_loaded_watermark_goes_on_from_before_the_end_of_all_input() {
        let mut watermark = Watermark::new();
        for epoch in ["0@open 1@open 2@open", "0@30 1@20", "1@20~ 2@end"] {
            watermark.advance(&epoch.split_whitespace().map(tick).collect::<Vec<_>>());
        }
        let (mut loaded, mut ended) = (Watermark::new(), watermark.clone());
        let past = loaded.past_id(tick("2@open").partition);
        loaded.restore(watermark.saved());
        let unheard = loaded.past_id(tick("3@open").partition);
        assert!(loaded.ended(past) && loaded.ended(unheard));
        assert_eq!(loaded.saved(), watermark.saved());
        for epoch in ["1@21", "0@40~ 1@25", "2@35", "0@end 1@end"] {
            let ticks: Vec<_> = epoch.split_whitespace().map(tick).collect();
            watermark.advance(&ticks);
            loaded.advance(&ticks);
            assert_eq!(loaded.saved(), watermark.saved(), "{epoch}");
        }
        ended.advance(&[tick("0@end"), tick("1@end")]);
        assert_eq!(ended.reached(), EventTime::MAX);
        loaded.restore(ended.saved());
        assert_eq!((loaded.reached(), loaded.open(tick("0@open").partition)), (EventTime::from_micros(30), None));
        loaded.advance(&[tick("0@31"), tick("1@32")]);
        assert_eq!(loaded.reached(), EventTime::from_micros(31));
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
        assert_eq!(back.saved(), watermark.saved());
        for next in ["0@40", "1@35", "7@end", "0@end", "1@end"].map(tick) {
            back.advance(&[next]);
            watermark.advance(&[next]);
            assert_eq!((back.reached(), back.frozen(EventSpan::ZERO)), (watermark.reached(), watermark.reached_open));
        }
    }
}
