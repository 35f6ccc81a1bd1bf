//! What the audit says: rows of `shifts`, `quality`, `performance`, `fairness` and `alerts`.
//!
//! Invariants:
//!
//! 1. A finding is about one *current* window of event time, `[start, end)`. Its last row, by epoch, stands.
//! 2. A statistic that has too little to stand on is `None`, never a guess; the verdict is then `insufficient`.
//! 3. Counts are of readings unless the name says patients. Readings of one patient are not independent of each other: intervals that are
//!    computed from readings are too narrow, which is why patients are counted beside them (CLINICAL §5).
//! 4. Nothing in a finding belongs to one person alone: no pseudonym, no time of a reading.

use serde::{Deserialize, Serialize};

use crate::time::EventTime;
use crate::vocabulary::TopicId;

/// A span of event time: start (inclusive) and end (exclusive).
pub type Span = (EventTime, EventTime);

/// A row of one of the audit's tables.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// Of `shifts`.
    Shift(Shift),
    /// Of `quality`.
    Quality(Quality),
    /// Of `performance`.
    Performance(Performance),
    /// Of `fairness`.
    Fairness(Fairness),
    /// Of `alerts`.
    Alert(Alert),
}

/// How far a finding is from what was expected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// Too few readings or patients to say anything.
    #[default]
    Insufficient,
    /// Nothing to see.
    None,
    /// Past the first threshold.
    Watch,
    /// Past the second threshold.
    Act,
}

impl Verdict {
    /// As rows have it.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Insufficient => "insufficient",
            Verdict::None => "none",
            Verdict::Watch => "watch",
            Verdict::Act => "act",
        }
    }
}

/// What an alert's row says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AlertState {
    /// With this window the verdict has been `act` for `audit.alert_windows` in a row: an alert begins.
    #[default]
    Raised,
    /// With this window it has been below `watch` for as many: the alert ends.
    Cleared,
    /// A correction has taken back what was said of this window.
    Withdrawn,
}

impl AlertState {
    /// All of them.
    pub const ALL: [AlertState; 3] = [AlertState::Raised, AlertState::Cleared, AlertState::Withdrawn];

    /// As rows have it.
    pub fn name(self) -> &'static str {
        match self {
            AlertState::Raised => "raised",
            AlertState::Cleared => "cleared",
            AlertState::Withdrawn => "withdrawn",
        }
    }
}

/// Of whom or what a finding speaks, among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A group of patients or readings: `all`, `sex=female`, `risk=HIGH`.
    Group(&'static str),
    /// The inputs of a topic; `None`: of all topics that are not counted by themselves ([`TOPICS_MAX`](crate::audit::quality::TOPICS_MAX)).
    Topic(Option<TopicId>),
}

impl Default for Part {
    fn default() -> Self {
        Part::Group("all")
    }
}

/// Something has shifted and stays so, or no longer does: what people are told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Alert {
    /// The table whose verdict it is about: `shifts`, `quality`, `performance` or `fairness`.
    pub table: &'static str,
    /// The feature, or what else that table's rows are about: of `quality` the measure.
    pub feature: &'static str,
    /// The group; of `quality` the topic.
    pub group: Part,
    /// The span of the window with which it begins or ends.
    pub current: Span,
    /// The statistic that the verdict comes from.
    pub statistic: &'static str,
    /// Its value in that window.
    pub value: Option<f64>,
    /// Windows in a row that said the same, that one included.
    pub windows_held: u32,
    /// Whether it begins, ends or was a mistake.
    pub state: AlertState,
}

/// One side of a comparison: the reference or the current window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Side {
    /// Readings.
    pub readings: u64,
    /// Patients with at least one of these readings; `None` if patients are not counted (`audit.patients`), or a profile does not say.
    pub patients: Option<u64>,
    /// Arithmetic mean, in the feature's unit; `None` without readings.
    pub mean: Option<f64>,
    /// Standard deviation of the sample (n − 1), in the feature's unit; `None` below two readings.
    pub standard_deviation: Option<f64>,
    /// Readings in each bin between two neighbours of [`Shift::bin_edges`].
    pub bins: Vec<u64>,
}

/// What a reference and a current window differ by. `audit/statistics.rs` has the definitions and their sources.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Population stability index of the bins, natural logarithm.
    pub psi: Option<f64>,
    /// Jensen–Shannon distance of the bins (base 2, square root of the divergence), 0 to 1.
    pub jensen_shannon: Option<f64>,
    /// Kolmogorov–Smirnov statistic of the values: the greatest difference of the two distribution functions, 0 to 1.
    pub kolmogorov_smirnov: Option<f64>,
    /// Its p-value, by Kolmogorov's limit.
    pub kolmogorov_smirnov_p: Option<f64>,
    /// Wasserstein distance of the values, in standard deviations of the reference.
    pub wasserstein: Option<f64>,
    /// Hellinger distance of the bins, 0 to 1.
    pub hellinger: Option<f64>,
    /// χ² of the bins as a contingency table.
    pub chi2: Option<f64>,
    /// Its p-value.
    pub chi2_p: Option<f64>,
    /// Standardised difference of the means, current less reference.
    pub effect_size: Option<f64>,
}

impl Statistics {
    /// One of them by its column's name.
    pub fn named(&self, name: &str) -> Option<f64> {
        match name {
            "psi" => self.psi,
            "jensen_shannon" => self.jensen_shannon,
            "kolmogorov_smirnov" => self.kolmogorov_smirnov,
            "kolmogorov_smirnov_p" => self.kolmogorov_smirnov_p,
            "wasserstein" => self.wasserstein,
            "hellinger" => self.hellinger,
            "chi2" => self.chi2,
            "chi2_p" => self.chi2_p,
            "effect_size" => self.effect_size,
            _ => None,
        }
    }
}

/// The drift of one feature in one group between the reference and the current window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shift {
    /// The feature's name.
    pub feature: &'static str,
    /// The unit of its values, `mmHg`; `1` for a number without unit.
    pub unit: &'static str,
    /// The group, e.g. `all`, `sex=female`, `age=65-79`.
    pub group: String,
    /// The span of the reference.
    pub reference: Span,
    /// The span of the current window.
    pub current: Span,
    /// What was in the reference.
    pub reference_side: Side,
    /// What was in the current window.
    pub current_side: Side,
    /// Ascending edges of the bins of both sides; one more than there are bins. The first bin takes all below, the last all above.
    pub bin_edges: Vec<f64>,
    /// Their differences.
    pub statistics: Statistics,
    /// The statistic that the verdict comes from, by its column's name.
    pub statistic: &'static str,
    /// What it amounts to.
    pub verdict: Verdict,
}

/// How many inputs of one topic had one flaw.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quality {
    /// The topic; `None` for all that are not counted by themselves ([`TOPICS_MAX`](crate::audit::quality::TOPICS_MAX)).
    pub topic: Option<TopicId>,
    /// What is counted: one of [`MEASURES`](crate::vocabulary::flaws::MEASURES).
    pub measure: &'static str,
    /// The span of the reference.
    pub reference: Span,
    /// The span of the current window.
    pub current: Span,
    /// Inputs in the reference, and those with the flaw.
    pub reference_counts: (u64, u64),
    /// Inputs in the current window, and those with the flaw.
    pub current_counts: (u64, u64),
    /// What the difference of the rates amounts to.
    pub verdict: Verdict,
}

/// A rate with its 95 % interval; all `None` where nothing can be divided by.
///
/// Source of the interval: Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22(158).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// The rate.
    pub rate: Option<f64>,
    /// The lower end.
    pub low: Option<f64>,
    /// The upper end.
    pub high: Option<f64>,
}

/// How good the verdicts on readings were: against outcomes where there are some, else as estimated from the probabilities alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Goodness {
    /// Right verdicts among the labelled readings.
    pub accuracy: Option<f64>,
    /// Area under the receiver operating characteristic of the probabilities; ties count half.
    pub auroc: Option<f64>,
    /// Mean squared difference of probability and outcome.
    pub brier: Option<f64>,
    /// Selected among the readings with the outcome (true positive rate).
    pub sensitivity: Option<f64>,
    /// Not selected among the readings without the outcome.
    pub specificity: Option<f64>,
    /// Readings with the outcome among the selected.
    pub ppv: Option<f64>,
    /// Expected calibration error: over tenths of probability, the mean of |mean probability − observed rate|, weighted by readings.
    pub ece: Option<f64>,
}

/// How the scores of one group did in one window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Performance {
    /// The group.
    pub group: &'static str,
    /// The span of the reference.
    pub reference: Span,
    /// The span of the current window.
    pub current: Span,
    /// Assessed readings.
    pub readings: u64,
    /// Their patients; `None` if patients are not counted.
    pub patients: Option<u64>,
    /// Readings with a probability.
    pub scored: u64,
    /// Readings with an outcome.
    pub labelled: u64,
    /// Of those, readings whose outcome happened.
    pub positives: u64,
    /// Selected readings (`audit.selected` says which).
    pub selected: u64,
    /// Readings that raised an alarm.
    pub alarms: u64,
    /// Patients times the window's length in days.
    pub patient_days: Option<f64>,
    /// Alarms by patient-day.
    pub alarms_per_patient_day: Option<f64>,
    /// Mean probability.
    pub score_mean: Option<f64>,
    /// Positives among the labelled.
    pub observed_rate: Option<f64>,
    /// Against the outcomes, in the current window.
    pub measured: Goodness,
    /// The same in the reference.
    pub reference_measured: Goodness,
    /// Estimated without outcomes (CBPE).
    pub estimated: Goodness,
    /// `insufficient` below `audit.readings_min` labelled readings; else by the fall of the AUROC against the reference.
    pub verdict: Verdict,
}

/// How one group fares beside the reference group of the same attribute, in one window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fairness {
    /// What groups are formed by: `sex`, `age`, `risk`.
    pub attribute: &'static str,
    /// The group.
    pub group: &'static str,
    /// The group of the same attribute that it is compared with: the one with most readings in the window, the first of equals.
    pub reference_group: &'static str,
    /// The span of the window.
    pub current: Span,
    /// Assessed readings.
    pub readings: u64,
    /// Their patients; `None` if patients are not counted.
    pub patients: Option<u64>,
    /// Readings with an outcome.
    pub labelled: u64,
    /// Of those, readings whose outcome happened.
    pub positives: u64,
    /// Selected among all.
    pub selection: Rate,
    /// Selected among the positives.
    pub tpr: Rate,
    /// Selected among the labelled negatives.
    pub fpr: Rate,
    /// Positives among the labelled selected.
    pub ppv: Rate,
    /// Mean probability.
    pub score_mean: Option<f64>,
    /// Positives among the labelled.
    pub observed_rate: Option<f64>,
    /// Expected calibration error.
    pub ece: Option<f64>,
    /// Differences of the four rates, group less reference group: selection, tpr, fpr, ppv.
    pub differences: [Option<f64>; 4],
    /// Ratios of the four rates, group by reference group, in the same order.
    pub ratios: [Option<f64>; 4],
    /// True if the ratio of the selection rates is below four fifths (29 CFR 1607.4(D)) either way round; `None` without a ratio.
    pub below_four_fifths: Option<bool>,
    /// `insufficient` below the minimum; `watch` below four fifths; `act` if, besides, the intervals of the selection rates do not overlap.
    pub verdict: Verdict,
}
