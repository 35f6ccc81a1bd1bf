//! How far event time has come over all partitions: the lowest watermark of those that still count.
//!
//! Invariants:
//!
//! 1. The combined watermark never goes back.
//! 2. A partition that has been named but has delivered nothing holds it at [`EventTime::MIN`].
//! 3. Idle and ended partitions hold nothing open. While some partition is still to end, the ends of others do not count either;
//!    if all that are left are idle, the furthest of them counts. When all have ended it is [`EventTime::MAX`].
//!
//! It judges no reading: timeliness comes with the reading, from its own partition alone.

use std::collections::BTreeMap;

use crate::time::EventTime;
use crate::vocabulary::{Partition, Tick};

/// A partition's number within this worker, in order of first sight: it names, it does not order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartitionId(pub(super) u32);

/// All known partitions and the watermark they amount to.
#[derive(Debug)]
pub(super) struct Watermarks {
    ids: BTreeMap<Partition, PartitionId>,
    ticks: Vec<Tick>,
    combined: EventTime,
}

impl Watermarks {
    pub(super) fn new() -> Self {
        Watermarks { ids: BTreeMap::new(), ticks: Vec::new(), combined: EventTime::MIN }
    }

    /// The combined watermark.
    pub(super) fn combined(&self) -> EventTime {
        self.combined
    }

    /// The number of a partition; a new one counts from here on.
    pub(super) fn id(&mut self, partition: Partition) -> PartitionId {
        *self.ids.entry(partition).or_insert_with(|| {
            self.ticks.push(Tick { partition, watermark: EventTime::MIN, idle: false });
            PartitionId(u32::try_from(self.ticks.len() - 1).expect("fewer than 2^32 partitions"))
        })
    }

    /// True if nothing more will come from this partition.
    pub(super) fn ended(&self, id: PartitionId) -> bool {
        self.ticks[id.0 as usize].watermark == EventTime::MAX
    }

    /// Takes in what was broadcast, of each partition in its order.
    pub(super) fn advance(&mut self, ticks: &[Tick]) {
        for tick in ticks {
            let PartitionId(at) = self.id(tick.partition);
            let known = &mut self.ticks[at as usize];
            known.watermark = known.watermark.max(tick.watermark);
            known.idle = tick.idle;
        }
        if !ticks.is_empty() {
            self.combined = self.combined.max(self.combine());
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

    fn at(seconds: i64) -> EventTime {
        EventTime::from_micros(seconds * 1_000_000)
    }

    fn tick(number: i32, watermark: EventTime, idle: bool) -> Tick {
        Tick { partition: Partition { number, ..Default::default() }, watermark, idle }
    }

    #[test]
    fn the_slowest_partition_that_still_counts_decides() {
        let mut watermarks = Watermarks::new();
        let mut after = |ticks: &[Tick]| {
            watermarks.advance(ticks);
            watermarks.combined()
        };
        assert_eq!(after(&[tick(0, EventTime::MIN, false), tick(1, EventTime::MIN, false)]), EventTime::MIN);
        assert_eq!(after(&[tick(0, at(10), false)]), EventTime::MIN, "partition 1 has delivered nothing");
        assert_eq!(after(&[tick(1, at(5), false)]), at(5));
        assert_eq!(after(&[tick(1, at(5), true)]), at(10), "an idle partition holds nothing open");
        assert_eq!(after(&[tick(1, at(6), false)]), at(10), "waking up takes nothing back");
        assert_eq!(after(&[tick(1, at(12), true), tick(0, at(11), true)]), at(12), "all idle: the furthest");
        assert_eq!(after(&[tick(0, EventTime::MAX, false)]), at(12), "an end closes nothing while others are to end");
        assert_eq!(after(&[tick(1, EventTime::MAX, false)]), EventTime::MAX);
    }

    #[test]
    fn a_partition_first_seen_through_a_reading_holds_windows_open_until_its_tick() {
        let mut watermarks = Watermarks::new();
        let id = watermarks.id(Partition { number: 7, ..Default::default() });
        watermarks.advance(&[tick(0, at(10), false)]);
        assert_eq!(watermarks.combined(), EventTime::MIN);
        watermarks.advance(&[tick(7, EventTime::MAX, false)]);
        assert!(watermarks.ended(id));
        assert_eq!(watermarks.combined(), at(10));
    }
}
