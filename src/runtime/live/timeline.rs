//! Categories over event time, in a bounded number of buckets that widen as the data spreads.
//!
//! Buckets are sparse and aligned to the Unix epoch. When more than [`BUCKETS_MAX`] are occupied, all merge into the next width of a ladder
//! on which every width divides the next, so that merging loses no count. What is *shown* is a dense stretch of at most [`SHOWN_MAX`] buckets:
//! the narrowest width at which some stretch holds [`COVERED_PERCENT`] of the readings. A device with its clock in 1970, which would squeeze
//! everything else into one column, is thereby counted outside the chart instead of ruling it.
//!
//! Invariants: the counts shown and the count outside add up to the rows added; the ladder's end covers all of `i64` microseconds.

use std::collections::BTreeMap;

use serde::Serialize;

/// Occupied buckets that are kept.
pub(super) const BUCKETS_MAX: usize = 480;
/// Categories that are told apart: the widest guideline has seven bands; the last slot takes any beyond.
pub(super) const CATEGORIES_MAX: usize = 12;
/// Rows that are counted between two looks at the number of buckets.
const CHUNK_ROWS: usize = 4_096;
/// Columns of the chart.
const SHOWN_MAX: i64 = 120;
/// The stretch that is shown holds at least this share.
const COVERED_PERCENT: u64 = 99;

/// Names of rows without category (one of the two pressures is missing) and of those beyond the limit.
const UNCATEGORISED: &str = "uncategorised";
const FURTHER: &str = "further";

/// Widths of a bucket in seconds: 1, 5, 15, 30 minutes; 1, 3, 6, 12 hours; 1 day; 1, 4, 12, 48 weeks; then tens of them.
const LADDER_SECONDS: [i64; 17] = [
    60,
    300,
    900,
    1_800,
    3_600,
    10_800,
    21_600,
    43_200,
    86_400,
    604_800,
    2_419_200,
    7_257_600,
    29_030_400,
    290_304_000,
    2_903_040_000,
    29_030_400_000,
    290_304_000_000,
];

type Counts = [u64; CATEGORIES_MAX];

#[derive(Default)]
pub(super) struct Timeline {
    step: usize,
    names: Vec<String>,
    buckets: BTreeMap<i64, Counts>,
}

/// A dense stretch of the timeline, ready to draw.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Shown {
    /// Start of the first bucket, seconds since 1970.
    pub start_seconds: i64,
    /// Width of a bucket.
    pub width_seconds: i64,
    /// The categories, in order of first appearance.
    pub names: Vec<String>,
    /// For each category its counts, one a bucket.
    pub counts: Vec<Vec<u64>>,
    /// Readings outside the stretch.
    pub outside: u64,
}

impl Timeline {
    /// The slot of a category; a new one is opened while there is room.
    pub(super) fn category(&mut self, name: Option<&str>) -> u8 {
        let name = name.unwrap_or(UNCATEGORISED);
        if let Some(slot) = self.names.iter().position(|known| known == name) {
            return slot as u8;
        }
        if self.names.len() == CATEGORIES_MAX {
            return CATEGORIES_MAX as u8 - 1;
        }
        let last = self.names.len() == CATEGORIES_MAX - 1;
        self.names.push(if last { FURTHER } else { name }.to_owned());
        self.names.len() as u8 - 1
    }

    /// Counts rows: their event times in microseconds, and their categories' slots.
    pub(super) fn add(&mut self, times: &[i64], categories: &[u8]) {
        assert_eq!(times.len(), categories.len(), "one category a row");
        let mut near = Near::new();
        // The width changes between chunks only, so at most a chunk's rows of surplus buckets exist at any time.
        for (times, categories) in times.chunks(CHUNK_ROWS).zip(categories.chunks(CHUNK_ROWS)) {
            let width = self.width_micros();
            for (at, &category) in times.iter().zip(categories) {
                near.count(at.div_euclid(width), category, &mut self.buckets);
            }
            near.flush(&mut self.buckets);
            while self.buckets.len() > BUCKETS_MAX && self.step + 1 < LADDER_SECONDS.len() {
                self.buckets = merged(&self.buckets, LADDER_SECONDS[self.step + 1] / LADDER_SECONDS[self.step]);
                self.step += 1;
            }
        }
    }

    fn width_micros(&self) -> i64 {
        LADDER_SECONDS[self.step] * 1_000_000
    }

    /// What the chart shows.
    pub(super) fn shown(&self) -> Shown {
        let total: u64 = self.buckets.values().flatten().sum();
        let mut found = None;
        for (step, width) in LADDER_SECONDS.iter().enumerate().skip(self.step) {
            let buckets = merged(&self.buckets, width / LADDER_SECONDS[self.step]);
            let (first, last, covered) = best_stretch(&buckets);
            found = Some((step, buckets, first, last, covered));
            if covered * 100 >= total * COVERED_PERCENT {
                break;
            }
        }
        let (step, buckets, first, last, covered) = found.expect("the ladder has a step at or above the current one");
        if total == 0 {
            return Shown::default();
        }
        let counts = (0..self.names.len())
            .map(|slot| (first..=last).map(|bucket| buckets.get(&bucket).map_or(0, |counts| counts[slot])).collect())
            .collect();
        Shown {
            start_seconds: first * LADDER_SECONDS[step],
            width_seconds: LADDER_SECONDS[step],
            names: self.names.clone(),
            counts,
            outside: total - covered,
        }
    }
}

/// Counts close at hand: a row costs a division and an addition instead of a search in the tree (measured on two cores at 4 to 11 ns
/// instead of 55 to 90, by how far the times spread).
struct Near(Vec<(i64, Counts)>);

impl Near {
    /// Slots; a power of two. Neighbouring buckets never share one.
    const SLOTS: usize = 512;
    /// A slot without bucket: no event time divided by a width gives this.
    const FREE: i64 = i64::MIN;

    fn new() -> Self {
        Near(vec![(Self::FREE, [0; CATEGORIES_MAX]); Self::SLOTS])
    }

    fn count(&mut self, bucket: i64, category: u8, buckets: &mut BTreeMap<i64, Counts>) {
        let slot = &mut self.0[bucket as usize % Self::SLOTS];
        if slot.0 != bucket {
            Self::give(slot, buckets);
            slot.0 = bucket;
        }
        slot.1[usize::from(category)] += 1;
    }

    fn flush(&mut self, buckets: &mut BTreeMap<i64, Counts>) {
        self.0.iter_mut().for_each(|slot| Self::give(slot, buckets));
    }

    /// Moves a slot's counts into the tree and frees it.
    fn give(slot: &mut (i64, Counts), buckets: &mut BTreeMap<i64, Counts>) {
        if slot.0 != Self::FREE {
            let sums = buckets.entry(slot.0).or_default();
            sums.iter_mut().zip(&slot.1).for_each(|(sum, count)| *sum += count);
            *slot = (Self::FREE, [0; CATEGORIES_MAX]);
        }
    }
}

/// Buckets `factor` times as wide.
fn merged(buckets: &BTreeMap<i64, Counts>, factor: i64) -> BTreeMap<i64, Counts> {
    let mut wide: BTreeMap<i64, Counts> = BTreeMap::new();
    for (bucket, counts) in buckets {
        let sums = wide.entry(bucket.div_euclid(factor)).or_default();
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    wide
}

/// The stretch of at most [`SHOWN_MAX`] buckets that holds the most, the newest of equals: its first and last occupied bucket, and what it holds.
fn best_stretch(buckets: &BTreeMap<i64, Counts>) -> (i64, i64, u64) {
    let sums: Vec<(i64, u64)> = buckets.iter().map(|(bucket, counts)| (*bucket, counts.iter().sum())).collect();
    let (mut from, mut held, mut best) = (0, 0, (0, 0, 0));
    for &(last, sum) in &sums {
        held += sum;
        while last - sums[from].0 >= SHOWN_MAX {
            held -= sums[from].1;
            from += 1;
        }
        if held >= best.2 {
            best = (sums[from].0, last, held);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt as _, SeedableRng as _};

    const MINUTE: i64 = 60_000_000;

    fn total(shown: &Shown) -> u64 {
        shown.counts.iter().flatten().sum::<u64>() + shown.outside
    }

    #[test]
    fn every_width_divides_the_next_and_the_last_covers_all_of_time() {
        assert!(LADDER_SECONDS.windows(2).all(|pair| pair[1] % pair[0] == 0));
        let last = LADDER_SECONDS[LADDER_SECONDS.len() - 1];
        assert!((i64::MAX / 1_000_000 / last * 2) < SHOWN_MAX);
    }

    #[test]
    fn nothing_shows_as_nothing() {
        assert_eq!(Timeline::default().shown(), Shown::default());
    }

    #[test]
    fn two_hours_show_by_the_minute() {
        let mut timeline = Timeline::default();
        let (normal, stage) = (timeline.category(Some("normal")), timeline.category(Some("stage 1")));
        let times: Vec<i64> = (0..120).map(|minute| minute * MINUTE + 7).collect();
        let codes: Vec<u8> = (0..120).map(|minute| if minute % 3 == 0 { stage } else { normal }).collect();
        timeline.add(&times, &codes);
        let shown = timeline.shown();
        assert_eq!((shown.start_seconds, shown.width_seconds, shown.outside), (0, 60, 0));
        assert_eq!(shown.counts[0].len(), 120);
        assert_eq!((shown.counts[0].iter().sum::<u64>(), shown.counts[1].iter().sum::<u64>()), (80, 40));
    }

    #[test]
    fn a_clock_in_1970_does_not_squeeze_the_chart() {
        let mut timeline = Timeline::default();
        let now = 1_790_000_000_000_000;
        let times: Vec<i64> = (0..500).map(|row| now + row % 60 * MINUTE).chain([0, 1, -MINUTE]).collect();
        timeline.add(&times, &vec![0; times.len()]);
        timeline.category(None);
        let shown = timeline.shown();
        assert_eq!((shown.width_seconds, shown.outside, total(&shown)), (60, 3, 503));
    }

    #[test]
    fn categories_beyond_the_limit_share_the_last_slot() {
        let mut timeline = Timeline::default();
        let slots: Vec<u8> = (0..20).map(|name| timeline.category(Some(&name.to_string()))).collect();
        assert_eq!(slots[10..14], [10, 11, 11, 11]);
        assert_eq!(timeline.names[11], FURTHER);
        assert_eq!(timeline.category(Some("3")), 3);
    }

    #[test]
    fn no_row_is_lost_whatever_the_spread() {
        for seed in 0..40 {
            let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let spread = 10_i64.pow(random.random_range(6..19));
            let mut timeline = Timeline::default();
            for name in ["a", "b", "c"] {
                timeline.category(Some(name));
            }
            let mut rows = [0; 3];
            for _ in 0..20 {
                let times: Vec<i64> = (0..200).map(|_| random.random_range(-spread..spread)).collect();
                let codes: Vec<u8> = (0..200).map(|_| random.random_range(0..3)).collect();
                codes.iter().for_each(|code| rows[usize::from(*code)] += 1);
                timeline.add(&times, &codes);
                assert!(timeline.buckets.len() <= BUCKETS_MAX, "seed {seed}");
                let kept: Vec<u64> =
                    (0..3).map(|slot| timeline.buckets.values().map(|counts| counts[slot]).sum()).collect();
                assert_eq!(kept, rows, "seed {seed}");
                assert_eq!(total(&timeline.shown()), rows.iter().sum::<u64>(), "seed {seed}");
            }
        }
    }

    #[test]
    fn rows_lie_in_the_bucket_of_their_time_after_widening_as_well() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let times: Vec<i64> = (0..5_000).map(|_| random.random_range(0..40_000) * MINUTE).collect();
        let mut timeline = Timeline::default();
        timeline.category(Some("a"));
        timeline.add(&times, &vec![0; times.len()]);
        let mut expected: BTreeMap<i64, u64> = BTreeMap::new();
        times.iter().for_each(|at| *expected.entry(at.div_euclid(timeline.width_micros())).or_default() += 1);
        let kept: BTreeMap<i64, u64> = timeline.buckets.iter().map(|(bucket, counts)| (*bucket, counts[0])).collect();
        assert_eq!(kept, expected);
    }
}
