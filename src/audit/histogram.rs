//! Sparse counts that can be added and taken back: the *difference* type of the audit's collections.
//!
//! In a differential collection a record has a multiplicity from any Abelian group. Here the record is (series, pane) and the group
//! is the histogram itself: one update carries all values of a pane, adding histograms is what consolidation does anyway, and a
//! withdrawal is the negated histogram. One update per value would say the same with some hundred times the updates.
//!
//! Invariants: ascending, one entry a key, no entry of 0; so equal histograms are equal bytes and the empty one is zero.

use differential_dataflow::difference::{Abelian, IsZero, Monoid, Semigroup};
use serde::{Deserialize, Serialize};

use crate::audit::series::{Cell, Series, Value};

/// Counts by key, ascending, without zeros; a count may be negative (it takes something back).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Counted<K>(Vec<(K, i64)>);

/// Counts by value: one pane of one series.
pub type Histogram = Counted<Value>;

/// Counts by cell: one pane of all series.
pub type Cells = Counted<Cell>;

impl<K: Ord + Copy> Counted<K> {
    /// From counts in any order, repetitions added up.
    pub fn from_counts(mut counts: Vec<(K, i64)>) -> Self {
        counts.sort_unstable_by_key(|(key, _)| *key);
        Self::from_ascending(counts)
    }

    /// From counts in ascending order, repetitions added up.
    pub fn from_ascending(mut counts: Vec<(K, i64)>) -> Self {
        debug_assert!(counts.is_sorted_by_key(|(key, _)| *key), "the caller promised ascending keys");
        counts.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 += next.1;
            }
            same
        });
        counts.retain(|(_, count)| *count != 0);
        Counted(counts)
    }

    /// The counts, ascending by key.
    pub fn as_slice(&self) -> &[(K, i64)] {
        &self.0
    }

    /// Adds `other`, key by key.
    pub fn add(&mut self, other: &Self) {
        if other.0.is_empty() {
            return;
        }
        let ours = std::mem::take(&mut self.0);
        self.0.reserve_exact(ours.len().max(other.0.len()));
        let mut theirs = other.0.iter().copied().peekable();
        for (key, count) in ours {
            while let Some(before) = theirs.next_if(|(their, _)| *their < key) {
                self.0.push(before);
            }
            let count = count + theirs.next_if(|(their, _)| *their == key).map_or(0, |(_, more)| more);
            if count != 0 {
                self.0.push((key, count));
            }
        }
        self.0.extend(theirs);
    }
}

impl<K> Default for Counted<K> {
    fn default() -> Self {
        Counted(Vec::new())
    }
}

/// The greatest count that is believed of a cell: more than any topic holds, and so little that sums of them stay far within 64 bits.
pub const COUNT_MAX: u64 = 1 << 40;

impl Cells {
    /// Whether what was read from outside keeps the invariants of this type: then everything can be done with it.
    pub fn is_sound(&self) -> bool {
        self.0.is_sorted_by(|(a, _), (b, _)| a < b)
            && self.0.iter().all(|(cell, _)| cell.exists())
            && self.0.iter().all(|(_, count)| (1..=COUNT_MAX).contains(&count.unsigned_abs()))
    }

    /// A histogram for each series that has counts, ascending.
    pub fn histograms(&self) -> impl Iterator<Item = (Series, Histogram)> + '_ {
        self.0.chunk_by(|(a, _), (b, _)| a.series() == b.series()).map(|chunk| {
            let values = chunk.iter().map(|(cell, count)| (cell.value(), *count)).collect();
            (chunk[0].0.series(), Counted(values))
        })
    }
}

impl<K> IsZero for Counted<K> {
    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Ord + Copy> Semigroup for Counted<K> {
    fn plus_equals(&mut self, other: &Self) {
        self.add(other);
    }
}

impl<K: Ord + Copy> Monoid for Counted<K> {
    fn zero() -> Self {
        Counted::default()
    }
}

impl<K: Ord + Copy> Abelian for Counted<K> {
    fn negate(&mut self) {
        for (_, count) in &mut self.0 {
            *count = -*count;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::audit::series::{PLACES, cell_at};

    fn histogram() -> impl Strategy<Value = Histogram> {
        prop::collection::vec((0u16..12, -3i64..4), 0..20).prop_map(|counts| {
            Counted::from_counts(counts.into_iter().map(|(value, count)| (Value(value), count)).collect())
        })
    }

    fn as_map(histogram: &Histogram) -> BTreeMap<Value, i64> {
        histogram.as_slice().iter().copied().collect()
    }

    #[test]
    fn sound_cells_ascend_exist_and_count_something() {
        let cells = |counts: &[(usize, i64)]| {
            Counted(counts.iter().map(|(place, count)| (cell_at(*place), *count)).collect::<Vec<_>>())
        };
        let last = PLACES - 1;
        let most = COUNT_MAX as i64;
        for sound in [&[][..], &[(0, 1)], &[(0, -most), (last, most)]] {
            assert!(cells(sound).is_sound(), "{sound:?}");
        }
        for broken in
            [&[(0, 0)][..], &[(1, 1), (1, 1)], &[(2, 1), (1, 1)], &[(last + 1, 1)], &[(0, most + 1)], &[(0, i64::MIN)]]
        {
            assert!(!cells(broken).is_sound(), "{broken:?}");
        }
    }

    proptest! {
        #[test]
        fn addition_is_that_of_maps(a in histogram(), b in histogram()) {
            let mut expected = as_map(&a);
            for (value, count) in as_map(&b) {
                *expected.entry(value).or_default() += count;
            }
            expected.retain(|_, count| *count != 0);
            let mut sum = a.clone();
            sum.plus_equals(&b);
            prop_assert!(sum.as_slice().is_sorted_by(|(a, _), (b, _)| a < b));
            prop_assert_eq!(as_map(&sum), expected);
        }

        #[test]
        fn what_was_added_can_be_taken_back(a in histogram(), b in histogram()) {
            let mut sum = a.clone();
            sum.plus_equals(&b);
            let mut back = b.clone();
            back.negate();
            sum.plus_equals(&back);
            prop_assert_eq!(sum, a);
        }
    }
}
