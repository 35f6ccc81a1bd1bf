//! What is counted: features, groups, values and panes, each as a small number.
//!
//! ```text
//! reading ─> pane (event time, floored) × series (group × feature) × value (1 mmHg) ─> ±1
//! ```
//!
//! Invariants:
//!
//! 1. A contribution is a pure function of event time, signals and demographics, all of which a
//!    [`Withdrawn`](crate::vocabulary::Withdrawn) carries: what was added can be subtracted exactly.
//! 2. Values and bins never move. Bins fitted to the data (quantiles, Sturges on both sides) would have to be recounted from the readings
//!    whenever the data changes; fixed ones can be streamed, summed over workers and panes, and taken back.
//!
//! **The grid.** Pressures are mostly whole mmHg, so they are counted by whole mmHg from 0 to 300: a reading is rounded (half up), what lies outside
//! counts at the end. Probabilities are counted by thousandths. Whatever compares values is exact for the rounded ones.
//!
//! **The bin rule** is called [`BIN_RULE`]: ten neighbouring values are a bin, `[10 i, 10 (i + 1))` mmHg of the rounded value; a PSI can only be
//! compared with one of the same rule. Its width is a choice between resolution and noise: without any drift the expected PSI grows with the
//! number of occupied bins, about (bins − 1)(1/n + 1/m) (Yurdakul & Naranjo 2020, "Statistical properties of the population stability index",
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

use crate::audit::quality;
use crate::audit::scores::CODES;
use crate::config::AUDIT_HOPS_MAX;
use crate::signals::{DIASTOLIC, MEAN_ARTERIAL, SYSTOLIC};
use crate::time::{EventSpan, EventTime};
use crate::vocabulary::flaws::MEASURES;
use crate::vocabulary::{Demographics, Precision, Sex, Signals, TopicId};

/// The name of the rule by which values are binned: part of what a statistic means.
pub const BIN_RULE: &str = "rounded_1_mmhg_bins_10_mmhg";

/// A value of a feature, as its step on the feature's [`Grid`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Value(pub u16);

/// Equidistant values, and the bins that they form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// The lowest value, in the feature's unit; whatever is below counts here.
    pub low: f64,
    /// From one value to the next, in the feature's unit.
    pub step: f64,
    values: u16,
    values_per_bin: u16,
    bins: u16,
}

/// Whole mmHg from 0 to 300; 31 bins, the last one for 300 and above.
pub const PRESSURE: Grid = Grid { low: 0.0, step: 1.0, values: 301, values_per_bin: 10, bins: 31 };

impl Grid {
    /// How many values there are.
    pub const fn values(&self) -> usize {
        self.values as usize
    }

    /// How many bins there are.
    pub const fn bins(&self) -> usize {
        self.bins as usize
    }

    /// The value of a finite number: the nearest, of two the greater.
    pub fn value_of(&self, number: f64) -> Value {
        // The cast rounds towards 0 and saturates; below 0 it is 0.
        Value((((number - self.low) / self.step + 0.5) as u16).min(self.values - 1))
    }

    /// Dense counts by value, cut into those of each bin; the last bin has the rest.
    pub fn bins_of<'a, T>(&self, values: &'a [T]) -> impl Iterator<Item = &'a [T]> + use<'a, T> {
        let (width, bins) = (usize::from(self.values_per_bin), self.bins());
        (0..bins).map(move |bin| {
            let end = if bin + 1 == bins { values.len() } else { (bin + 1) * width };
            &values[bin * width..end]
        })
    }

    /// The edges of the bins, ascending; one more than there are bins.
    pub fn edges(&self) -> Vec<f64> {
        (0..=self.bins).map(|bin| self.low + f64::from(bin * self.values_per_bin) * self.step).collect()
    }
}

/// A quantity whose distribution is watched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Feature {
    /// Its name, one of [`FEATURE_NAMES`](crate::vocabulary::FEATURE_NAMES).
    pub name: &'static str,
    /// The unit of its values.
    pub unit: &'static str,
    /// Its values.
    pub grid: Grid,
}

/// The watched features: those that follow from the signals of one reading alone.
pub const FEATURES: [Feature; 4] = [
    Feature { name: "systolic", unit: "mmHg", grid: PRESSURE },
    Feature { name: "diastolic", unit: "mmHg", grid: PRESSURE },
    Feature { name: "mean_arterial", unit: "mmHg", grid: PRESSURE },
    Feature { name: "pulse_pressure", unit: "mmHg", grid: PRESSURE },
];

/// The distribution of the model's probabilities, watched like a feature.
pub const PROBABILITY: Feature = Feature {
    name: "probability",
    unit: "1",
    grid: Grid { low: 0.0, step: 1e-3, values: 1_001, values_per_bin: 100, bins: 10 },
};

/// The groups. The cap of ages at 90 lies inside `80+`; who has no known age is in no age group. Those by risk and by comorbidities are of readings that were scored;
/// of a flow that takes no conditions nothing is in the latter. Who has 2 or 3 comorbidities is one group, and who has more another: with a group for each count the upper ones
/// would hold too few for a verdict.
pub const GROUPS: [&str; 17] = [
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
    "risk=LOW",
    "risk=MODERATE",
    "risk=HIGH",
    "comorbidities=0",
    "comorbidities=1",
    "comorbidities=2-3",
    "comorbidities=4+",
];

/// A set of groups: a bit for each of [`GROUPS`].
pub type Groups = u32;

/// How many of [`GROUPS`] a reading belongs to by its patient alone: those whose features are watched.
pub const PATIENT_GROUPS: usize = 10;

/// Those that follow from who the patient is, whether their features are watched or not: all but the three of what scoring said.
pub const OF_PATIENT: Groups = ((1 << GROUPS.len()) - 1) & !(0b111 << PATIENT_GROUPS);

/// What groups are formed by, and which of [`GROUPS`] they are.
pub const ATTRIBUTES: [(&str, std::ops::Range<usize>); 4] =
    [("sex", 1..5), ("age", 5..10), ("risk", 10..13), ("comorbidities", 13..17)];

/// What a [`Series`] is about; the number is an index into [`GROUPS`], but for data quality, which knows none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Counted: the values of a feature.
    Measured(usize, &'static Feature),
    /// Counted: patients by the panes until they come again ([`ledger`](super::ledger)).
    Patients(usize),
    /// Counted: readings by what scoring said and what came of it ([`scores`](super::scores)). Published as performance.
    Scores(usize),
    /// Published: the drift of the probabilities.
    Probability(usize),
    /// Published: how the group fares beside others.
    Fairness(usize),
    /// Inputs of a topic, by its [`slot`](quality::slot), with a flaw, by its number. Published; that of all readings is counted, with flaws as values.
    Quality(usize, usize),
}

impl Kind {
    /// The feature whose drift it is, if it is drift.
    pub fn feature(self) -> Option<&'static Feature> {
        match self {
            Kind::Measured(_, feature) => Some(feature),
            Kind::Probability(_) => Some(&PROBABILITY),
            _ => None,
        }
    }
}

/// Number of the series that are [`Kind::Measured`]: the first ones.
pub const MEASURED: usize = PATIENT_GROUPS * FEATURES.len();
/// Groups whose series come before those of inputs. The others were added later, behind these: what was saved names series by number.
const EARLY_GROUPS: usize = 13;
const LATE_GROUPS: usize = GROUPS.len() - EARLY_GROUPS;
/// What is counted or published of every group besides features, by the place of its series.
const BY_GROUP: [fn(usize) -> Kind; 4] = [Kind::Patients, Kind::Scores, Kind::Probability, Kind::Fairness];
const FIRST_QUALITY: usize = MEASURED + BY_GROUP.len() * EARLY_GROUPS;
const FIRST_LATE: usize = FIRST_QUALITY + quality::SLOTS * MEASURES.len();
/// Number of [`Series`].
pub const SERIES: usize = FIRST_LATE + BY_GROUP.len() * LATE_GROUPS;

/// One thing that is counted or published of one group, or topic. Measured series are group-major, so that any number of workers shares the large group `all`
/// by feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Series(pub u16);

impl Series {
    /// The values of a feature, by index into [`GROUPS`] and [`FEATURES`].
    pub fn measured(group: usize, feature: usize) -> Self {
        Series((group * FEATURES.len() + feature) as u16)
    }

    /// The patients of a group.
    pub fn patients(group: usize) -> Self {
        Series::by_group(0, group)
    }

    /// The scores of a group, and its performance.
    pub fn scores(group: usize) -> Self {
        Series::by_group(1, group)
    }

    /// The drift of a group's probabilities.
    pub fn probability(group: usize) -> Self {
        Series::by_group(2, group)
    }

    /// How a group fares beside others.
    pub fn fairness(group: usize) -> Self {
        Series::by_group(3, group)
    }

    /// By the place in [`BY_GROUP`].
    fn by_group(place: usize, group: usize) -> Self {
        Series(match group.checked_sub(EARLY_GROUPS) {
            None => MEASURED + place * EARLY_GROUPS + group,
            Some(late) => FIRST_LATE + place * LATE_GROUPS + late,
        } as u16)
    }

    /// The inputs of a topic, by all that is counted of them.
    pub fn inputs(topic: TopicId) -> Self {
        Series::quality(quality::slot(topic), 0)
    }

    /// The inputs of a topic, by its slot, that have a flaw, by its number.
    pub fn quality(slot: usize, measure: usize) -> Self {
        Series((FIRST_QUALITY + slot * MEASURES.len() + measure) as u16)
    }

    /// What it is about. It must be one of [`SERIES`].
    pub fn kind(self) -> Kind {
        match usize::from(self.0) {
            at if at < MEASURED => Kind::Measured(at / FEATURES.len(), &FEATURES[at % FEATURES.len()]),
            at if at < FIRST_QUALITY => BY_GROUP[(at - MEASURED) / EARLY_GROUPS]((at - MEASURED) % EARLY_GROUPS),
            at if at < FIRST_LATE => {
                Kind::Quality((at - FIRST_QUALITY) / MEASURES.len(), (at - FIRST_QUALITY) % MEASURES.len())
            }
            at => BY_GROUP[(at - FIRST_LATE) / LATE_GROUPS](EARLY_GROUPS + (at - FIRST_LATE) % LATE_GROUPS),
        }
    }

    /// The group's name.
    pub fn group(self) -> &'static str {
        match self.kind() {
            Kind::Measured(group, _)
            | Kind::Patients(group)
            | Kind::Scores(group)
            | Kind::Probability(group)
            | Kind::Fairness(group) => GROUPS[group],
            // Inputs are of topics, whoever they are about.
            Kind::Quality(..) => GROUPS[0],
        }
    }

    /// What it is compared with: all of a subject is on one worker.
    pub fn subject(self) -> Subject {
        match self.kind() {
            Kind::Quality(slot, _) => Subject(Series::quality(slot, 0).0),
            _ => Subject(self.0.min(SCORES.0)),
        }
    }

    /// The subjects that need its counts.
    pub fn needed_by(self) -> SmallVec<[Subject; 5]> {
        let features =
            |group: usize| (0..FEATURES.len()).map(move |feature| Series::measured(group, feature).subject());
        match self.kind() {
            Kind::Measured(..) | Kind::Quality(..) => [self.subject()].into_iter().collect(),
            Kind::Patients(group) if group < PATIENT_GROUPS => features(group).chain([SCORES]).collect(),
            _ => [SCORES].into_iter().collect(),
        }
    }
}

/// What is compared in one place: a measured series, all scores, or the inputs of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Subject(pub u16);

/// The subject of all scores.
pub const SCORES: Subject = Subject(MEASURED as u16);

/// One value of one series. Ordered by series, then value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cell(u32);

impl Cell {
    /// Of a series and a value.
    pub fn new(series: Series, value: Value) -> Self {
        Cell(u32::from(series.0) << 16 | u32::from(value.0))
    }

    /// Its series.
    pub fn series(self) -> Series {
        Series((self.0 >> 16) as u16)
    }

    /// Its value.
    pub fn value(self) -> Value {
        Value(self.0 as u16)
    }

    /// Whether there is such a cell: what was read from outside may name others.
    pub fn exists(self) -> bool {
        let value = usize::from(self.value().0);
        usize::from(self.series().0) < SERIES
            && match self.series().kind() {
                Kind::Measured(_, feature) => value < feature.grid.values(),
                Kind::Patients(_) => (1..=AUDIT_HOPS_MAX as usize).contains(&value),
                Kind::Scores(_) => value < CODES,
                Kind::Quality(_, measure) => measure == 0 && value < MEASURES.len(),
                Kind::Probability(_) | Kind::Fairness(_) => false,
            }
    }
}

/// Values of [`FEATURES`] in all groups, for arrays: [`Contribution::places`] counts up to here.
pub const PLACES: usize = MEASURED * PRESSURE.values();

/// What one reading adds to its pane: a value of every feature, in every group it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct Contribution {
    /// A value for each of [`FEATURES`].
    pub values: [Value; FEATURES.len()],
    /// The groups that it belongs to by its patient alone: the first [`PATIENT_GROUPS`].
    pub groups: Groups,
}

impl Contribution {
    /// Of one reading in these groups, of which those count whose features are watched; `None` unless both pressures were measured.
    ///
    /// The mean arterial pressure is the device's own where it was sent, else diastolic + (systolic − diastolic) / 3 (CLINICAL §3:
    /// the estimate differs from the device's by 2.7 mmHg on average).
    pub fn of(signals: &Signals, groups: Groups) -> Option<Self> {
        let systolic = signals.get(SYSTOLIC).filter(|mmhg| mmhg.is_finite())?;
        let diastolic = signals.get(DIASTOLIC).filter(|mmhg| mmhg.is_finite())?;
        let estimate = diastolic + (systolic - diastolic) / 3.0;
        let mean_arterial = signals.get(MEAN_ARTERIAL).filter(|mmhg| mmhg.is_finite()).unwrap_or(estimate);
        let values = [systolic, diastolic, mean_arterial, systolic - diastolic];
        let groups = groups & ((1 << PATIENT_GROUPS) - 1);
        Some(Contribution { values: values.map(|mmhg| PRESSURE.value_of(mmhg)), groups })
    }

    /// Where it is counted in an array of [`PLACES`].
    pub fn places(&self) -> impl Iterator<Item = usize> + '_ {
        each(self.groups).flat_map(|group| {
            let first = group * FEATURES.len();
            self.values
                .iter()
                .enumerate()
                .map(move |(feature, value)| (first + feature) * PRESSURE.values() + usize::from(value.0))
        })
    }

    /// The cells to count it in.
    pub fn cells(&self) -> impl Iterator<Item = Cell> + '_ {
        self.places().map(cell_at)
    }
}

/// The cell of a place in an array of [`PLACES`].
pub fn cell_at(place: usize) -> Cell {
    Cell::new(Series((place / PRESSURE.values()) as u16), Value((place % PRESSURE.values()) as u16))
}

/// The groups that a patient belongs to at that time.
pub(super) fn groups_of(at: EventTime, demographics: &Demographics) -> Groups {
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
    1 | 1 << sex | age.map_or(0, |age| 1 << age) | group_of_comorbidities(demographics)
}

/// The group by comorbidities, of a flow that takes conditions.
fn group_of_comorbidities(demographics: &Demographics) -> Groups {
    let group = demographics.comorbidities.map(|count| match count {
        0 => 13,
        1 => 14,
        2 | 3 => 15,
        4.. => 16,
    });
    group.map_or(0, |group| 1 << group)
}

/// The groups whose bits are set, ascending.
pub(super) fn each(groups: Groups) -> impl Iterator<Item = usize> {
    let rest = |groups: &Groups| Some(groups & (groups - 1)).filter(|rest| *rest != 0);
    std::iter::successors(Some(groups).filter(|groups| *groups != 0), rest)
        .map(|groups| groups.trailing_zeros() as usize)
}

/// The unit in which event time is counted, as its ordinal: pane 0 starts at 1970-01-01T00:00:00Z.
///
/// A window is some panes in a row and goes by its last one, with which it closes. Windows that do not overlap are one pane each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pane(pub i64);

/// As many panes in a row as a window looks back: the key under which panes meet the windows and references they are part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Block(pub i64);

/// How event time is cut into panes, windows, references and blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calendar {
    hop: EventSpan,
    window_panes: i64,
    reference_panes: i64,
}

impl Calendar {
    /// From the length of a window and from one window to the next (both positive, the second dividing the first), and the number of windows that
    /// do not overlap in a reference; 0 if the reference is not made of panes.
    pub fn new(window: EventSpan, hop: EventSpan, reference_windows: u32) -> Self {
        let sound = hop > EventSpan::ZERO && window >= hop && window.micros() % hop.micros() == 0;
        assert!(sound, "the flow was validated: audit.hop divides audit.window");
        let window_panes = window.micros() / hop.micros();
        Calendar { hop, window_panes, reference_panes: i64::from(reference_windows) * window_panes }
    }

    /// The length of a pane: from one window to the next.
    pub fn hop(&self) -> EventSpan {
        self.hop
    }

    /// The length of a window.
    pub fn window(&self) -> EventSpan {
        EventSpan::from_micros(self.hop.micros() * self.window_panes)
    }

    /// Number of panes in a window.
    pub fn window_panes(&self) -> i64 {
        self.window_panes
    }

    /// The greatest number of panes in which patients must be told apart: a window's or a reference's.
    pub fn gap_max(&self) -> i64 {
        self.window_panes.max(self.reference_panes)
    }

    /// The pane of an event time; also the first pane that has not ended at that time.
    pub fn pane_of(&self, at: EventTime) -> Pane {
        Pane(at.micros().div_euclid(self.hop.micros()))
    }

    /// Where a pane starts.
    pub fn start(&self, pane: Pane) -> EventTime {
        EventTime::from_micros(pane.0.saturating_mul(self.hop.micros()))
    }

    /// The panes `[start, end)` of a window that goes by its last one.
    pub fn current(&self, last: Pane) -> (Pane, Pane) {
        let end = last.0.saturating_add(1);
        (Pane(end.saturating_sub(self.window_panes)), Pane(end))
    }

    /// The panes `[start, end)` of a window's reference: those right before it.
    pub fn reference(&self, last: Pane) -> (Pane, Pane) {
        let (end, _) = self.current(last);
        (Pane(end.0.saturating_sub(self.reference_panes)), end)
    }

    /// When panes `[start, end)` begin and end.
    pub fn span(&self, (start, end): (Pane, Pane)) -> (EventTime, EventTime) {
        (self.start(start), self.start(end))
    }

    /// Whether a reading of this precision can be placed in a pane at all: one known to the day needs a pane of a day or more.
    pub fn admits(&self, precision: Precision) -> bool {
        precision == Precision::Instant || self.hop >= EventSpan::from_seconds(86_400)
    }

    /// The block of a pane.
    pub fn block_of(&self, pane: Pane) -> Block {
        Block(pane.0.div_euclid(self.block_panes()))
    }

    /// The panes of a block, ascending.
    pub fn panes_of(&self, block: Block) -> impl Iterator<Item = Pane> + use<> {
        let first = block.0.saturating_mul(self.block_panes());
        (first..first.saturating_add(self.block_panes())).map(Pane)
    }

    /// The blocks whose windows need a pane: its own, and the next if windows look back at all.
    pub fn blocks_needing(&self, pane: Pane) -> impl Iterator<Item = Block> + use<> {
        let own = self.block_of(pane);
        let looks_back = self.look_back() > 0;
        [Some(own), looks_back.then_some(Block(own.0.saturating_add(1)))].into_iter().flatten()
    }

    /// How many panes before its last one a window and its reference reach.
    fn look_back(&self) -> i64 {
        self.window_panes - 1 + self.reference_panes
    }

    fn block_panes(&self) -> i64 {
        self.look_back().max(1)
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
    fn values_are_the_nearest_and_the_ends_take_the_rest() {
        for (mmhg, value) in [
            (f64::MIN, 0),
            (-0.1, 0),
            (0.0, 0),
            (0.499, 0),
            (0.5, 1),
            (119.5, 120),
            (120.0, 120),
            (120.499, 120),
            (299.999, 300),
            (300.0, 300),
            (f64::MAX, 300),
        ] {
            assert_eq!(PRESSURE.value_of(mmhg), Value(value), "{mmhg}");
        }
    }

    #[test]
    fn bins_are_neighbouring_values_and_the_last_one_has_the_rest() {
        let values: Vec<usize> = (0..PRESSURE.values()).collect();
        let bins: Vec<&[usize]> = PRESSURE.bins_of(&values).collect();
        assert_eq!((bins.len(), PRESSURE.edges().len()), (PRESSURE.bins(), PRESSURE.bins() + 1));
        for (bin, edges) in bins.iter().zip(PRESSURE.edges().windows(2)) {
            assert_eq!(bin[0] as f64, edges[0]);
            assert!(bin.iter().all(|value| (*value as f64) < edges[1]));
        }
        assert_eq!(bins.concat(), values);
    }

    #[test]
    fn a_cell_is_one_value_of_one_series() {
        for place in 0..PLACES {
            let cell = cell_at(place);
            assert!(cell.exists());
            assert_eq!(Cell::new(cell.series(), cell.value()), cell);
        }
        for (series, value) in
            [(0, 301), (40, 0), (40, 10_001), (53, CODES as u16), (66, 0), (79, 10), (80, 0), (729, 0), (65_535, 0)]
        {
            assert!(!Cell::new(Series(series), Value(value)).exists(), "{series} {value}");
        }
        assert_eq!(Series::measured(9, 3).kind(), Kind::Measured(9, &FEATURES[3]));
        assert_eq!(Series::measured(9, 3).group(), "age=80+");
        for group in 0..GROUPS.len() {
            assert_eq!(Series::patients(group).kind(), Kind::Patients(group));
            assert_eq!(Series::scores(group).kind(), Kind::Scores(group));
            assert_eq!(Series::probability(group).kind(), Kind::Probability(group));
            assert_eq!(Series::fairness(group).kind(), Kind::Fairness(group));
        }
        // What state files of earlier versions name by number.
        let numbers = [Series::patients(0), Series::scores(12), Series::probability(0), Series::fairness(12)];
        assert_eq!(numbers, [40, 65, 66, 91].map(Series));
        assert_eq!([Series::quality(0, 0), Series::quality(64, 9)], [92, 741].map(Series));
        assert_eq!([Series::patients(13), Series::fairness(16)], [742, 757].map(Series));
        assert_eq!(SERIES, 758);
        for (slot, measure) in [(0, 0), (0, 9), (1, 0), (64, 9)] {
            let series = Series::quality(slot, measure);
            assert_eq!((series.kind(), usize::from(series.0) < SERIES), (Kind::Quality(slot, measure), true));
            assert_eq!(series.subject().0, Series::inputs(TopicId(slot as u32)).0);
            assert_eq!(Cell::new(series, Value(9)).exists(), measure == 0);
        }
    }

    #[test]
    fn a_contribution_has_a_cell_for_each_feature_and_group() {
        let (values, groups) = ([120, 80, 93, 40].map(Value), 1 | 1 << 2 | 1 << 7);
        let contribution = Contribution { values, groups };
        let cells: Vec<(&str, &str, u16)> = contribution
            .cells()
            .map(|cell| match cell.series().kind() {
                Kind::Measured(group, feature) => (GROUPS[group], feature.name, cell.value().0),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(cells.len(), 12);
        assert_eq!(cells[0], ("all", "systolic", 120));
        assert_eq!(cells[6], ("sex=male", "mean_arterial", 93));
        assert_eq!(cells[11], ("age=40-64", "pulse_pressure", 40));
    }

    #[test]
    fn age_groups_change_at_their_birthdays() {
        let at = EventTime::from_micros(1_767_225_600_000_000); // 2026-01-01
        for (born, group) in
            [(2026, 5), (2009, 5), (2008, 6), (1987, 6), (1986, 7), (1962, 7), (1961, 8), (1946, 9), (1900, 9)]
        {
            let demographics = Demographics { birth_year: Some(born), sex: Sex::Male, ..Default::default() };
            assert!(each(groups_of(at, &demographics)).eq([0, 2, group]), "{born}");
        }
        assert!(each(groups_of(at, &Demographics::default())).eq([0, 4]));
        assert_eq!(each(0).next(), None);
    }

    #[test]
    fn comorbidities_are_grouped_by_their_count() {
        let names = |count| {
            let groups = group_of_comorbidities(&Demographics { comorbidities: count, ..Demographics::default() });
            each(groups).map(|group| GROUPS[group]).collect::<Vec<_>>()
        };
        assert!(names(None).is_empty());
        for (count, name) in [(0, "0"), (1, "1"), (2, "2-3"), (3, "2-3"), (4, "4+"), (14, "4+")] {
            assert_eq!(names(Some(count)), [format!("comorbidities={name}")]);
        }
        let (_, groups) = ATTRIBUTES[3].clone();
        assert!(GROUPS[groups].iter().all(|group| group.starts_with("comorbidities=")));
    }

    #[test]
    fn no_window_looks_further_back_than_the_block_before() {
        for (window_panes, reference_windows) in [(1, 0), (1, 1), (1, 2), (1, 24), (6, 4), (4, 0)] {
            let hop = EventSpan::from_seconds(60);
            let calendar = Calendar::new(EventSpan::from_seconds(60 * window_panes), hop, reference_windows);
            for window in (-50..50).map(Pane) {
                let (from, to) = (calendar.reference(window).0, calendar.current(window).1);
                assert_eq!(to.0 - from.0, window_panes * (1 + i64::from(reference_windows)));
                for pane in (from.0..to.0).map(Pane) {
                    assert!(calendar.blocks_needing(pane).any(|block| block == calendar.block_of(window)));
                }
                assert!(calendar.panes_of(calendar.block_of(window)).any(|of_block| of_block == window));
            }
        }
    }
}
