//! A window against its reference: the function that differential's `reduce` applies to a block of windows.
//!
//! The reference of a window is the sum of the histograms of the `reference_windows` windows before it. Sending every histogram to each
//! of the windows it serves would cost `reference_windows + 1` updates; sending it to its own block and the next costs two, because a
//! block is as long as a reference and so no reference reaches beyond the block before. The reference is then a sliding sum.

use serde::{Deserialize, Serialize};

use crate::audit::histogram::{Counted, Histogram};
use crate::audit::series::{BINS, Bin, Block, Calendar, Window};
use crate::audit::statistics::{jensen_shannon_distance, population_stability_index, readings};

/// A finite statistic by its bits: differential orders and compares its data, and equal must mean the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Exact(u64);

impl From<f64> for Exact {
    fn from(value: f64) -> Self {
        Exact(value.to_bits())
    }
}

impl From<Exact> for f64 {
    fn from(exact: Exact) -> f64 {
        f64::from_bits(exact.0)
    }
}

/// One window of one series against its reference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Comparison {
    /// Readings in the reference.
    pub reference_count: u64,
    /// Readings in the window.
    pub current_count: u64,
    /// Population stability index; `None` if a side holds fewer readings than needed.
    pub psi: Option<Exact>,
    /// Jensen–Shannon distance; `None` likewise.
    pub jensen_shannon: Option<Exact>,
}

impl Comparison {
    /// Compares two histograms; below `readings_min` on either side there is no statistic.
    pub fn of(reference: &[(Bin, i64)], current: &[(Bin, i64)], readings_min: u64) -> Self {
        let (reference_count, current_count) = (readings(reference), readings(current));
        let enough = reference_count >= readings_min && current_count >= readings_min;
        Comparison {
            reference_count,
            current_count,
            psi: if enough { population_stability_index(reference, current).map(Exact::from) } else { None },
            jensen_shannon: if enough { jensen_shannon_distance(reference, current).map(Exact::from) } else { None },
        }
    }
}

/// All comparisons of a block of windows, ascending. `windows` ascending, of this block and the one before.
///
/// A window without readings is compared too if its reference has some: whoever published it before must be told.
pub fn compare(
    calendar: &Calendar,
    readings_min: u64,
    block: Block,
    windows: &[(&Window, Histogram)],
) -> Vec<(Window, Comparison)> {
    let mut sum = [0i64; BINS];
    let (mut entering, mut leaving) = (windows.iter().peekable(), windows.iter().peekable());
    let mut currents = windows.iter().peekable();
    let mut comparisons = Vec::new();
    for window in calendar.windows_of(block) {
        let (from, to) = calendar.reference(window);
        // Whatever is before `from` has entered already or enters and leaves at once.
        while let Some((_, histogram)) = entering.next_if(|(at, _)| **at < to) {
            accumulate(&mut sum, histogram, 1);
        }
        while let Some((_, histogram)) = leaving.next_if(|(at, _)| **at < from) {
            accumulate(&mut sum, histogram, -1);
        }
        while currents.next_if(|(at, _)| **at < window).is_some() {}
        let current = currents.peek().filter(|(at, _)| **at == window).map_or(&[][..], |(_, counts)| counts.as_slice());
        let reference = Counted::from_ascending((0u8..).map(Bin).zip(sum).collect());
        if !current.is_empty() || !reference.as_slice().is_empty() {
            comparisons.push((window, Comparison::of(reference.as_slice(), current, readings_min)));
        }
    }
    comparisons
}

fn accumulate(sum: &mut [i64; BINS], histogram: &Histogram, sign: i64) {
    for (bin, count) in histogram.as_slice() {
        sum[usize::from(bin.0)] += sign * count;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::EventSpan;

    proptest! {
        #[test]
        fn the_sliding_sum_is_the_sum(
            reference_windows in 0u32..6,
            block in -2i64..3,
            counted in prop::collection::btree_map(-12i64..12, prop::collection::vec((0..BINS as u8, 1i64..9), 1..6), 0..20),
        ) {
            let calendar = Calendar::new(EventSpan::from_seconds(60), reference_windows);
            let histograms: Vec<(Window, Histogram)> = counted
                .into_iter()
                .map(|(window, counts)| {
                    (Window(window), Counted::from_counts(counts.into_iter().map(|(bin, count)| (Bin(bin), count)).collect()))
                })
                .collect();
            let block = Block(block);
            let delivered: Vec<(&Window, Histogram)> = histograms
                .iter()
                .filter(|(window, _)| calendar.blocks_needing(*window).contains(&block))
                .map(|(window, histogram)| (window, histogram.clone()))
                .collect();
            let mut expected = Vec::new();
            for window in calendar.windows_of(block) {
                let mut reference = Histogram::default();
                let mut current = Histogram::default();
                for (at, histogram) in &histograms {
                    if at.0 < window.0 && at.0 >= window.0 - i64::from(reference_windows) {
                        reference.add(histogram);
                    }
                    if *at == window {
                        current.add(histogram);
                    }
                }
                let comparison = Comparison::of(reference.as_slice(), current.as_slice(), 3);
                if (comparison.reference_count, comparison.current_count) != (0, 0) {
                    expected.push((window, comparison));
                }
            }
            prop_assert_eq!(compare(&calendar, 3, block, &delivered), expected);
        }
    }

    #[test]
    fn the_minimum_of_readings_counts_on_both_sides() {
        let side = |count| [(Bin(3), count)];
        for (reference, current, enough) in [(4, 5, false), (5, 4, false), (5, 5, true), (6, 6, true)] {
            let comparison = Comparison::of(&side(reference), &side(current), 5);
            assert_eq!(comparison.psi.is_some(), enough, "{reference} {current}");
            assert_eq!(comparison.jensen_shannon.is_some(), enough, "{reference} {current}");
        }
        assert_eq!(Comparison::of(&[], &[], 0), Comparison::default());
    }
}
