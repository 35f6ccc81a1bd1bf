//! A window against its reference: the function that differential's `reduce` applies to a block of panes.
//!
//! The reference of a window is the sum of the `reference_windows` windows right before it, or a saved profile. Sending the histogram of every pane
//! to each of the windows it serves would cost an update for each; sending it to its own block and the next costs two, because a block is
//! as long as a window looks back and so none looks beyond the block before. Window and reference are then sliding sums.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use foldhash::fast::FixedState;
use serde::{Deserialize, Serialize};

use crate::audit::histogram::Histogram;
use crate::audit::judge::{Judge, Statistic, Usual};
use crate::audit::ledger;
use crate::audit::profile::reference::{Fixed, Reference};
use crate::audit::series::{Block, Calendar, Grid, Pane, Series};
use crate::audit::statistics::{
    Moments, Sides, chi2, hellinger_distance, jensen_shannon_distance, population_stability_index,
};
use crate::vocabulary::findings::{Side, Statistics, Verdict};

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

/// One side of a comparison, as [`Side`].
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExactSide {
    /// Readings.
    pub readings: u64,
    patients: Option<u64>,
    mean: Option<Exact>,
    standard_deviation: Option<Exact>,
    bins: Vec<u64>,
}

impl ExactSide {
    fn new(moments: Moments, patients: Option<u64>, bins: &[u64]) -> Self {
        ExactSide {
            readings: moments.readings,
            patients,
            mean: moments.mean.map(Exact::from),
            standard_deviation: moments.standard_deviation().map(Exact::from),
            bins: bins.to_vec(),
        }
    }

    /// As rows have it.
    pub fn side(&self) -> Side {
        Side {
            readings: self.readings,
            patients: self.patients,
            mean: self.mean.map(f64::from),
            standard_deviation: self.standard_deviation.map(f64::from),
            bins: self.bins.clone(),
        }
    }
}

/// One window of one series against its reference.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Comparison {
    /// What is in the reference.
    pub reference: ExactSide,
    /// What is in the window.
    pub current: ExactSide,
    /// By [`Statistic`]; `None` if a side holds fewer readings than needed, or the statistic is not defined.
    statistics: [Option<Exact>; Statistic::ALL.len()],
    /// Which of them the verdict comes from.
    pub decided_by: Statistic,
    /// What they amount to.
    pub verdict: Verdict,
}

impl Comparison {
    /// Compares two sides.
    pub(super) fn of(sides: &Sides, patients: (Option<u64>, Option<u64>), judge: &Judge, usual: Option<Usual>) -> Self {
        let (reference, current) = sides.moments();
        let (reference_bins, current_bins) = sides.bins();
        let enough = judge.enough(reference.readings, current.readings);
        let statistics = if enough { statistics(sides) } else { Statistics::default() };
        let (decided_by, verdict) = judge.verdict(&statistics, reference.readings, usual);
        Comparison {
            reference: ExactSide::new(reference, patients.0, reference_bins),
            current: ExactSide::new(current, patients.1, current_bins),
            statistics: Statistic::ALL.map(|statistic| statistic.of(&statistics).map(Exact::from)),
            decided_by,
            verdict,
        }
    }

    /// So many readings on the sides, and nothing more: for tests of what comes behind.
    #[cfg(test)]
    pub(super) fn sketch(reference: u64, current: u64, psi: Option<f64>, verdict: Verdict) -> Self {
        let side = |readings| ExactSide { readings, ..ExactSide::default() };
        let mut sketch = Comparison { reference: side(reference), current: side(current), verdict, ..Self::default() };
        sketch.statistics[Statistic::Psi as usize] = psi.map(Exact::from);
        sketch.statistics[Statistic::JensenShannon as usize] = psi.map(|psi| Exact::from(psi / 2.0));
        sketch
    }

    /// A statistic of it.
    pub fn statistic(&self, statistic: Statistic) -> Option<f64> {
        self.statistics[statistic as usize].map(f64::from)
    }

    /// All statistics, as rows have them.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            psi: self.statistic(Statistic::Psi),
            jensen_shannon: self.statistic(Statistic::JensenShannon),
            kolmogorov_smirnov: self.statistic(Statistic::KolmogorovSmirnov),
            kolmogorov_smirnov_p: self.statistic(Statistic::KolmogorovSmirnovP),
            wasserstein: self.statistic(Statistic::Wasserstein),
            hellinger: self.statistic(Statistic::Hellinger),
            chi2: self.statistic(Statistic::Chi2),
            chi2_p: self.statistic(Statistic::Chi2P),
            effect_size: self.statistic(Statistic::EffectSize),
        }
    }
}

/// All statistics of two sides.
pub fn statistics(sides: &Sides) -> Statistics {
    let (reference, current) = sides.bins();
    let (kolmogorov_smirnov, chi2) = (sides.kolmogorov_smirnov(), chi2(reference, current));
    Statistics {
        psi: population_stability_index(reference, current),
        jensen_shannon: jensen_shannon_distance(reference, current),
        kolmogorov_smirnov: kolmogorov_smirnov.map(|(statistic, _)| statistic),
        kolmogorov_smirnov_p: kolmogorov_smirnov.map(|(_, p)| p),
        wasserstein: sides.wasserstein_distance(),
        hellinger: hellinger_distance(reference, current),
        chi2: chi2.map(|(statistic, _)| statistic),
        chi2_p: chi2.map(|(_, p)| p),
        effect_size: sides.effect_size(),
    }
}

/// Windows of a series whose comparison is remembered: the newest of those that were asked for. A few blocks are recomputed again and again while
/// history is read, and most of their windows are as they were.
const REMEMBERED_WINDOWS: usize = 96;

/// Compares the windows of a block.
#[derive(Debug)]
pub struct Comparer {
    calendar: Calendar,
    judge: Judge,
    /// If the windows before are not.
    profile: Option<Arc<Reference>>,
    /// By the hash of what they were made of, 64 bits: that another content has the same is ruled out for practical purposes.
    remembered: BTreeMap<(Series, Pane), (u64, Comparison)>,
}

impl Comparer {
    /// With the calendar of the flow, what makes a verdict, and the profile to compare with, if there is one.
    pub fn new(calendar: Calendar, judge: Judge, profile: Option<Arc<Reference>>) -> Self {
        Comparer { calendar, judge, profile, remembered: BTreeMap::new() }
    }

    /// All comparisons of a block of one series, ascending by window. `panes` and the `patients` of its group ascending, of this block and the one before.
    ///
    /// A window without readings is not compared, and what was found of it before stands no longer. Most of those in a block that is being counted have
    /// not begun.
    pub fn compare(
        &mut self,
        series: Series,
        grid: &Grid,
        block: Block,
        panes: &[(Pane, &Histogram)],
        patients: &[(Pane, &Histogram)],
    ) -> Vec<(Pane, Comparison)> {
        let (hashes, patient_hashes) = (hashes(panes), hashes(patients));
        let (mut reference, mut current) = (Sliding::new(grid.values(), panes), Sliding::new(grid.values(), panes));
        let mut comparisons = Vec::new();
        for window in self.calendar.panes_of(block) {
            let (from, (start, end)) = (self.calendar.reference(window).0, self.calendar.current(window));
            if within(&hashes, start, end).is_empty() {
                continue;
            }
            let made_of = within(&hashes, from, end);
            let hash = hash(&(made_of, within(&patient_hashes, from, end)));
            let known = self.remembered.get(&(series, window)).filter(|(known, _)| *known == hash);
            let comparison = match known {
                Some((_, comparison)) => comparison.clone(),
                None => {
                    reference.to(self.calendar.reference(window));
                    current.to(self.calendar.current(window));
                    let fixed = self.profile.as_deref().and_then(|profile| profile.measured(series));
                    let sides = Sides::new(*grid, fixed.map_or(&reference.sum, |fixed| &fixed.values), &current.sum);
                    let patients = self.patients(window, patients, fixed);
                    let usual = match &self.profile {
                        Some(_) => fixed.and_then(|fixed| fixed.usual),
                        None => self.judge.usual(sides.bins().0, &self.chunks(grid, window, panes)),
                    };
                    Comparison::of(&sides, patients, &self.judge, usual)
                }
            };
            self.remembered.insert((series, window), (hash, comparison.clone()));
            comparisons.push((window, comparison));
        }
        self.forget(series);
        comparisons
    }

    /// Patients of reference and window, if they are counted.
    fn patients(
        &self,
        window: Pane,
        patients: &[(Pane, &Histogram)],
        fixed: Option<&Fixed>,
    ) -> (Option<u64>, Option<u64>) {
        if !self.judge.counts_patients() {
            return (None, None);
        }
        let of = |(start, end): (Pane, Pane)| {
            let panes = within(patients, start, end).iter().map(|(pane, gaps)| (*pane, *gaps));
            Some(ledger::patients(panes, end))
        };
        let reference = match &self.profile {
            Some(_) => fixed.and_then(|fixed| fixed.patients),
            None => of(self.calendar.reference(window)),
        };
        (reference, of(self.calendar.current(window)))
    }

    fn forget(&mut self, series: Series) {
        let of_series = (series, Pane(i64::MIN))..=(series, Pane(i64::MAX));
        let count = self.remembered.range(of_series.clone()).count();
        for _ in REMEMBERED_WINDOWS..count {
            let oldest = self.remembered.range(of_series.clone()).next().map(|(key, _)| *key);
            oldest.and_then(|key| self.remembered.remove(&key));
        }
    }

    /// The windows that a reference is made of, by bins, if the verdict looks at them.
    fn chunks(&self, grid: &Grid, window: Pane, panes: &[(Pane, &Histogram)]) -> Vec<Vec<u64>> {
        if !self.judge.looks_at_chunks() {
            return Vec::new();
        }
        let (start, end) = self.calendar.reference(window);
        let chunks = (start.0..end.0).step_by(self.calendar.window_panes() as usize);
        let bins = |from: i64| {
            let mut sliding = Sliding::new(grid.values(), panes);
            sliding.to((Pane(from), Pane(from + self.calendar.window_panes())));
            grid.bins_of(&sliding.sum).map(|bin| bin.iter().map(|count| (*count).max(0).unsigned_abs()).sum()).collect()
        };
        chunks.map(bins).collect()
    }
}

/// The sum of a range of panes that moves forward.
struct Sliding<'a> {
    panes: &'a [(Pane, &'a Histogram)],
    entered: usize,
    left: usize,
    sum: Vec<i64>,
}

impl<'a> Sliding<'a> {
    /// Of so many values.
    fn new(values: usize, panes: &'a [(Pane, &'a Histogram)]) -> Self {
        Sliding { panes, entered: 0, left: 0, sum: vec![0; values] }
    }

    /// Moves to the panes `[start, end)`, neither of them before where it was.
    fn to(&mut self, (start, end): (Pane, Pane)) {
        while self.panes.get(self.entered).is_some_and(|(pane, _)| *pane < end) {
            self.add(self.entered, 1);
            self.entered += 1;
        }
        // Whatever is before `start` has entered already or enters and leaves at once.
        while self.left < self.entered && self.panes[self.left].0 < start {
            self.add(self.left, -1);
            self.left += 1;
        }
    }

    fn add(&mut self, at: usize, sign: i64) {
        for (value, count) in self.panes[at].1.as_slice() {
            self.sum[usize::from(value.0)] += sign * count;
        }
    }
}

/// Those of ascending panes that lie in `[start, end)`.
pub(super) fn within<T>(panes: &[(Pane, T)], start: Pane, end: Pane) -> &[(Pane, T)] {
    let at = |bound: Pane| panes.partition_point(|(pane, _)| *pane < bound);
    &panes[at(start)..at(end)]
}

/// What each pane holds, as a hash.
pub(super) fn hashes(panes: &[(Pane, &Histogram)]) -> Vec<(Pane, u64)> {
    panes.iter().map(|(pane, counts)| (*pane, hash(counts))).collect()
}

pub(super) fn hash(of: &impl Hash) -> u64 {
    FixedState::with_seed(0).hash_one(of)
}
#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::audit::histogram::Counted;
    use crate::audit::series::{PRESSURE, Value};
    use crate::config::{AuditSpec, DriftPreset};
    use crate::time::EventSpan;

    fn judge(preset: DriftPreset) -> Judge {
        Judge::new(&AuditSpec { readings_min: 3, preset, patients: false, ..AuditSpec::default() })
    }

    fn dense(panes: &BTreeMap<i64, Vec<(u16, i64)>>, from: i64, to: i64) -> Vec<i64> {
        let mut sum = vec![0; PRESSURE.values()];
        for (value, count) in panes.range(from..to.max(from)).flat_map(|(_, counts)| counts) {
            sum[usize::from(*value)] += count;
        }
        sum
    }

    proptest! {
        #[test]
        fn the_sliding_sums_are_the_sums(
            window_panes in 1i64..4,
            reference_windows in 0u32..4,
            block in -2i64..3,
            nannyml in any::<bool>(),
            counted in prop::collection::btree_map(
                -30i64..30,
                prop::collection::vec((0..PRESSURE.values() as u16, 1i64..9), 1..6),
                0..40,
            ),
        ) {
            let hop = EventSpan::from_seconds(60);
            let calendar = Calendar::new(EventSpan::from_seconds(60 * window_panes), hop, reference_windows);
            let judge = judge(if nannyml { DriftPreset::Nannyml } else { DriftPreset::Industry });
            let histograms: Vec<(Pane, Histogram)> = counted
                .iter()
                .map(|(pane, counts)| {
                    let counts = counts.iter().map(|(value, count)| (Value(*value), *count)).collect();
                    (Pane(*pane), Counted::from_counts(counts))
                })
                .collect();
            let block = Block(block);
            let delivered: Vec<(Pane, &Histogram)> = histograms
                .iter()
                .filter(|(pane, _)| calendar.blocks_needing(*pane).any(|needs| needs == block))
                .map(|(pane, histogram)| (*pane, histogram))
                .collect();
            let mut expected = Vec::new();
            for window in calendar.panes_of(block) {
                let start = window.0 + 1 - window_panes;
                let length = i64::from(reference_windows) * window_panes;
                let (reference, current) =
                    (dense(&counted, start - length, start), dense(&counted, start, window.0 + 1));
                // Counts are positive here: what has panes has readings.
                if current.iter().all(|count| *count == 0) {
                    continue;
                }
                let chunks: Vec<Vec<u64>> = (0..i64::from(reference_windows).min(if nannyml { 9 } else { 0 }))
                    .map(|chunk| start - length + chunk * window_panes)
                    .map(|from| Sides::new(PRESSURE, &dense(&counted, from, from + window_panes), &current).bins().0.to_vec())
                    .collect();
                let sides = Sides::new(PRESSURE, &reference, &current);
                expected.push((window, Comparison::of(&sides, (None, None), &judge, judge.usual(sides.bins().0, &chunks))));
            }
            let compared = Comparer::new(calendar, judge, None).compare(Series(0), &PRESSURE, block, &delivered, &[]);
            prop_assert_eq!(compared, expected);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_changes_with_the_readings() {
        let hop = EventSpan::from_seconds(60);
        let mut comparer = Comparer::new(Calendar::new(hop, hop, 4), judge(DriftPreset::Industry), None);
        let of = |count| Histogram::from_counts(vec![(Value(120), count)]);
        for block in 0..200 {
            let (before, now) = (of(5), of(6));
            let panes = [(Pane(4 * block), &before), (Pane(4 * block + 1), &now)];
            let first = comparer.compare(Series(3), &PRESSURE, Block(block), &panes, &[]);
            assert_eq!(comparer.compare(Series(3), &PRESSURE, Block(block), &panes, &[]), first);
            let (changed, pane) = (of(7), Pane(4 * block + 1));
            let again = comparer.compare(Series(3), &PRESSURE, Block(block), &[panes[0], (pane, &changed)], &[]);
            let readings = |of: &[(Pane, Comparison)]| of.iter().map(|(_, c)| c.current.readings).collect::<Vec<_>>();
            assert_eq!((readings(&first), readings(&again)), (vec![5, 6], vec![5, 7]));
        }
        assert_eq!(comparer.remembered.len(), REMEMBERED_WINDOWS);
    }

    #[test]
    fn the_minimum_of_readings_counts_on_both_sides() {
        let side = |count| {
            let mut values = vec![0; PRESSURE.values()];
            values[120] = count;
            values
        };
        for (reference, current, enough) in [(2, 3, false), (3, 2, false), (3, 3, true), (4, 4, true)] {
            let sides = Sides::new(PRESSURE, &side(reference), &side(current));
            let comparison = Comparison::of(&sides, (None, None), &judge(DriftPreset::Industry), None);
            for statistic in [Statistic::Psi, Statistic::JensenShannon, Statistic::Hellinger] {
                assert_eq!(comparison.statistic(statistic).is_some(), enough, "{reference} {current}");
            }
            assert_eq!(comparison.verdict != Verdict::Insufficient, enough);
        }
    }
}
