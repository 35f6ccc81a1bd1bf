//! What is counted: features, groups, bins and windows, each as a small number.
//!
//! ```text
//! reading ─> window (event time, floored) × series (group × feature) × bin (10 mmHg) ─> ±1
//! ```
//!
//! Invariants:
//!
//! 1. A contribution is a pure function of event time, signals and demographics, all of which a
//!    [`Withdrawn`](crate::vocabulary::Withdrawn) carries: what was added can be subtracted exactly.
//! 2. Bins never move. Bins fitted to the data (quantiles, Sturges on both sides) would have to be recounted from the readings
//!    whenever the data changes; fixed ones can be streamed, summed over workers and windows, and taken back.
//!
//! **The bin rule** is called [`BIN_RULE`]; a PSI can only be compared with one of the same rule.
//! Its width is a choice between resolution and noise: without any drift the expected PSI grows with the number of occupied bins,
//! about (bins − 1)(1/n + 1/m) (Yurdakul & Naranjo 2020, "Statistical properties of the population stability index",
//! J. Risk Model Validation 14(4)). Simulated for whole-number pressures, normal with sd 18, the reference 24 times as long, no drift:
//!
//! | bin width | mean PSI, n = 500 | verdict `watch` (≥ 0.1) | mean PSI after a shift of 6 mmHg |
//! |---|---|---|---|
//! | 2.5 mmHg | 0.105 | 57 % | 0.23 |
//! | 5 mmHg | 0.054 | 2 % | 0.17 |
//! | **10 mmHg** | **0.028** | **0 %** | **0.14** |
//!
//! The customary thresholds 0.1 and 0.25 come from 10 to 20 bins; 10 mmHg occupies about 15.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::signals::{DIASTOLIC, MEAN_ARTERIAL, SYSTOLIC};
use crate::time::{EventSpan, EventTime};
use crate::vocabulary::{Demographics, Precision, Sex, Signals};

/// The name of the rule by which values are binned: part of what a statistic means.
pub const BIN_RULE: &str = "fixed_10_mmhg";

/// Width of a bin, mmHg.
pub const BIN_MMHG: f64 = 10.0;

/// Bins with two ends; one more on either side takes what lies outside.
pub const BINS_BETWEEN: usize = 27;

/// All bins of a feature: below, between, above.
pub const BINS: usize = BINS_BETWEEN + 2;

/// A bin: 0 is below the range, `BINS - 1` at or above its end, the others are half open, `[low + 10 (bin - 1), low + 10 bin)` mmHg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Bin(pub u8);

/// A quantity whose distribution is watched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Feature {
    /// Its name, one of [`FEATURE_NAMES`](crate::vocabulary::FEATURE_NAMES).
    pub name: &'static str,
    /// Where its second bin starts, mmHg: pressures from 30 to 300, the pulse pressure from 0 to 270.
    pub low_mmhg: f64,
}

/// The watched features: those that follow from the signals of one reading alone.
pub const FEATURES: [Feature; 4] = [
    Feature { name: "systolic", low_mmhg: 30.0 },
    Feature { name: "diastolic", low_mmhg: 30.0 },
    Feature { name: "mean_arterial", low_mmhg: 30.0 },
    Feature { name: "pulse_pressure", low_mmhg: 0.0 },
];

/// The groups. The cap of ages at 90 lies inside `80+`; who has no known age is in no age group.
pub const GROUPS: [&str; 10] = [
    "all",
    "sex=female",
    "sex=male",
    "sex=other",
    "sex=unknown",
    "age=<18",
    "age=18-39",
    "age=40-64",
    "age=65-79",
    "age=80+",
];

/// Number of [`Series`].
pub const SERIES: usize = GROUPS.len() * FEATURES.len();

/// One feature in one group. Group-major, so that any number of workers shares the large group `all` by feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Series(pub u8);

impl Series {
    /// By index into [`GROUPS`] and [`FEATURES`].
    pub fn new(group: usize, feature: usize) -> Self {
        Series((group * FEATURES.len() + feature) as u8)
    }

    /// The feature's name.
    pub fn feature(self) -> &'static str {
        FEATURES[self.0 as usize % FEATURES.len()].name
    }

    /// The group's name.
    pub fn group(self) -> &'static str {
        GROUPS[self.0 as usize / FEATURES.len()]
    }
}

/// Number of [`Cell`]s.
pub const CELLS: usize = SERIES * BINS;

/// One bin of one series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cell(pub u16);

impl Cell {
    /// Of a series and a bin.
    pub fn new(series: Series, bin: Bin) -> Self {
        Cell(u16::from(series.0) * BINS as u16 + u16::from(bin.0))
    }

    /// Its series.
    pub fn series(self) -> Series {
        Series((self.0 / BINS as u16) as u8)
    }

    /// Its bin.
    pub fn bin(self) -> Bin {
        Bin((self.0 % BINS as u16) as u8)
    }
}

/// What one reading adds to its window: a bin of every feature, in every group it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct Contribution {
    /// A bin for each of [`FEATURES`].
    pub bins: [Bin; FEATURES.len()],
    /// Indices into [`GROUPS`].
    pub groups: SmallVec<[u8; 3]>,
}

impl Contribution {
    /// Of one reading; `None` unless both pressures were measured.
    ///
    /// The mean arterial pressure is the device's own where it was sent, else diastolic + (systolic − diastolic) / 3 (CLINICAL §3:
    /// the estimate differs from the device's by 2.7 mmHg on average).
    pub fn of(at: EventTime, signals: &Signals, demographics: &Demographics) -> Option<Self> {
        let systolic = signals.get(SYSTOLIC).filter(|mmhg| mmhg.is_finite())?;
        let diastolic = signals.get(DIASTOLIC).filter(|mmhg| mmhg.is_finite())?;
        let estimate = diastolic + (systolic - diastolic) / 3.0;
        let mean_arterial = signals.get(MEAN_ARTERIAL).filter(|mmhg| mmhg.is_finite()).unwrap_or(estimate);
        let values = [systolic, diastolic, mean_arterial, systolic - diastolic];
        let mut bins = [Bin(0); FEATURES.len()];
        for ((bin, value), feature) in bins.iter_mut().zip(values).zip(&FEATURES) {
            *bin = bin_of(value, feature.low_mmhg);
        }
        Some(Contribution { bins, groups: groups_of(at, demographics) })
    }

    /// The cells to count it in.
    pub fn cells(&self) -> impl Iterator<Item = Cell> + '_ {
        self.groups.iter().flat_map(|&group| {
            self.bins
                .iter()
                .enumerate()
                .map(move |(feature, &bin)| Cell::new(Series::new(usize::from(group), feature), bin))
        })
    }
}

/// The bin of a finite value of a feature whose range starts at `low_mmhg`.
fn bin_of(mmhg: f64, low_mmhg: f64) -> Bin {
    let above = mmhg - low_mmhg;
    if above < 0.0 {
        return Bin(0);
    }
    // The division is exact at every border, which a multiplication by 0.1 would not be. The cast rounds down and saturates.
    Bin(((above / BIN_MMHG) as u64).min(BINS_BETWEEN as u64) as u8 + 1)
}

fn groups_of(at: EventTime, demographics: &Demographics) -> SmallVec<[u8; 3]> {
    let sex = match demographics.sex {
        Sex::Female => 1,
        Sex::Male => 2,
        Sex::Other => 3,
        Sex::Unknown => 4,
    };
    let age = demographics.age_years(at).map(|years| match years {
        ..18 => 5,
        18..40 => 6,
        40..65 => 7,
        65..80 => 8,
        80.. => 9,
    });
    [Some(0), Some(sex), age].into_iter().flatten().collect()
}

/// A tumbling window, as its ordinal: window 0 starts at 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Window(pub i64);

/// As many windows in a row as a reference has: the key under which windows meet the references they are part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Block(pub i64);

/// How event time is cut into windows, references and blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calendar {
    width: EventSpan,
    reference_windows: i64,
}

impl Calendar {
    /// From the width of a window (positive) and the number of windows in a reference.
    pub fn new(width: EventSpan, reference_windows: u32) -> Self {
        assert!(width > EventSpan::ZERO, "the flow was validated: audit.window is positive");
        Calendar { width, reference_windows: i64::from(reference_windows) }
    }

    /// The width of a window.
    pub fn width(&self) -> EventSpan {
        self.width
    }

    /// Number of windows in a reference.
    pub fn reference_windows(&self) -> i64 {
        self.reference_windows
    }

    /// The window of an event time; also the first window that has not ended at that time.
    pub fn window_of(&self, at: EventTime) -> Window {
        Window(at.micros().div_euclid(self.width.micros()))
    }

    /// Where a window starts.
    pub fn start(&self, window: Window) -> EventTime {
        EventTime::from_micros(window.0.saturating_mul(self.width.micros()))
    }

    /// The reference of a window, `[start, end)`: the windows right before it.
    pub fn reference(&self, window: Window) -> (Window, Window) {
        (Window(window.0.saturating_sub(self.reference_windows)), window)
    }

    /// Whether a reading of this precision can be placed in a window at all: one known to the day needs a window of a day or more.
    pub fn admits(&self, precision: Precision) -> bool {
        precision == Precision::Instant || self.width >= EventSpan::from_seconds(86_400)
    }

    /// The block of a window.
    pub fn block_of(&self, window: Window) -> Block {
        Block(window.0.div_euclid(self.block_windows()))
    }

    /// The windows of a block, ascending.
    pub fn windows_of(&self, block: Block) -> impl Iterator<Item = Window> + use<> {
        let first = block.0.saturating_mul(self.block_windows());
        (first..first.saturating_add(self.block_windows())).map(Window)
    }

    /// The two blocks that need a window: its own, where it is compared, and the next, into whose references it may reach.
    pub fn blocks_needing(&self, window: Window) -> [Block; 2] {
        let own = self.block_of(window);
        [own, Block(own.0.saturating_add(1))]
    }

    fn block_windows(&self) -> i64 {
        self.reference_windows.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::FEATURE_NAMES;

    #[test]
    fn features_bear_the_names_of_the_matrix() {
        for (feature, name) in FEATURES.iter().zip(FEATURE_NAMES) {
            assert_eq!(feature.name, name);
        }
    }

    #[test]
    fn bins_are_half_open_and_their_ends_take_the_rest() {
        for (mmhg, bin) in [
            (f64::MIN, 0),
            (29.999, 0),
            (30.0, 1),
            (39.999, 1),
            (40.0, 2),
            (120.0, 10),
            (129.999, 10),
            (299.999, 27),
            (300.0, 28),
            (f64::MAX, 28),
        ] {
            assert_eq!(bin_of(mmhg, 30.0), Bin(bin), "{mmhg}");
        }
        assert_eq!(bin_of(-0.1, 0.0), Bin(0));
        assert_eq!(bin_of(0.0, 0.0), Bin(1));
    }

    #[test]
    fn every_border_belongs_to_the_bin_above_it() {
        for feature in &FEATURES {
            for step in 0..=BINS_BETWEEN {
                let border = feature.low_mmhg + BIN_MMHG * step as f64;
                assert_eq!(bin_of(border, feature.low_mmhg), Bin(step as u8 + 1));
                assert_eq!(bin_of(border - 1e-9, feature.low_mmhg), Bin(step as u8));
            }
        }
    }

    #[test]
    fn a_cell_is_one_bin_of_one_series() {
        for cell in 0..CELLS as u16 {
            let cell = Cell(cell);
            assert_eq!(Cell::new(cell.series(), cell.bin()), cell);
        }
        assert_eq!(Series::new(9, 3).feature(), "pulse_pressure");
        assert_eq!(Series::new(9, 3).group(), "age=80+");
    }

    #[test]
    fn age_groups_change_at_their_birthdays() {
        let at = EventTime::from_micros(1_767_225_600_000_000); // 2026-01-01
        for (born, group) in
            [(2026, 5), (2009, 5), (2008, 6), (1987, 6), (1986, 7), (1962, 7), (1961, 8), (1946, 9), (1900, 9)]
        {
            let demographics = Demographics { birth_year: Some(born), sex: Sex::Male, ..Default::default() };
            assert_eq!(groups_of(at, &demographics).as_slice(), [0, 2, group], "{born}");
        }
        assert_eq!(groups_of(at, &Demographics::default()).as_slice(), [0, 4]);
    }

    #[test]
    fn a_reference_reaches_no_further_back_than_the_block_before() {
        for reference_windows in [0, 1, 2, 24] {
            let calendar = Calendar::new(EventSpan::from_seconds(60), reference_windows);
            for window in (-50..50).map(Window) {
                let (from, to) = calendar.reference(window);
                for served in (from.0..to.0).map(Window) {
                    assert!(calendar.blocks_needing(served).contains(&calendar.block_of(window)));
                }
                assert!(calendar.windows_of(calendar.block_of(window)).any(|of_block| of_block == window));
            }
        }
    }
}
