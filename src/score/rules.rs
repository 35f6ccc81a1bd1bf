//! Rule sets: named tables of thresholds, and the one loop that reads them.
//!
//! A [`RuleSet`] gives a reading a *category* (a guideline's word for its band) and *reasons* (the names of the rules that fire).
//! Tables are `const`; every row names its source. `docs/clinical.md` is generated from them ([`describe`](super::describe)).
//!
//! Invariants:
//! 1. A band is a half-open range of the unrounded value: 129.9 lies in 120 to 130.
//! 2. The higher category wins, whichever pressure reaches it.
//! 3. A value that is missing (NaN) fires nothing; a rule never fills it in.
//! 4. Rules are judged one by one: a reading can fire rules of opposite direction (170/55), and both are reported.
//!
//! A category is a band of one reading, never a diagnosis, and the bands are those of adults. Age is not looked at: who a patient
//! is may arrive on another partition and later than the reading, and a category must depend on the reading alone.
//!
//! Limits: [`RULES_MAX`] rules a set, for what fires travels as a bit each.

use std::ops::{Bound, RangeBounds};

use smallvec::SmallVec;

use super::{guidelines, legacy, news2};
use crate::signals;
use crate::vocabulary::Signals;

/// Rules of a set: one bit each in [`Fired`].
pub const RULES_MAX: usize = 16;

/// Which rules of a set fire: bit `i` stands for `rules[i]`.
pub type Fired = u16;

/// Every rule set, in the order in which they are listed; the first is the default.
pub fn rule_sets() -> &'static [RuleSet] {
    &RULE_SETS
}

/// The rule set of this name.
pub fn rule_set(name: &str) -> Option<&'static RuleSet> {
    RULE_SETS.iter().find(|set| set.name == name)
}

static RULE_SETS: [RuleSet; 7] = [
    guidelines::ACC_AHA_2017,
    guidelines::ESC_2024,
    guidelines::ESH_2023,
    news2::NEWS2,
    legacy::REAL_TIME_MONITORING,
    legacy::READINGS_ENVELOPE,
    legacy::FHIR_ANOMALIES,
];

/// A named table of thresholds.
#[derive(Debug)]
pub struct RuleSet {
    /// What `score.rules` and the `rule_set` column call it.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// The document it comes from.
    pub source: &'static str,
    /// What to know before using it.
    pub note: &'static str,
    /// How a reading gets its category.
    pub categories: Categories,
    /// The rules, in the order in which reasons are given.
    pub rules: &'static [Rule],
    /// Without one of these a reading is partial: it raises no alarm.
    pub required: &'static [Quantity],
    /// Whether the rules are applied to a partial reading at all. A systolic pressure without diastolic is how a pressure
    /// taken by palpation looks, and 60 mmHg is worth a reason; the pipelines that a legacy set replaces knew no such reading.
    pub partial_reasons: bool,
}

/// How a rule set names a reading.
#[derive(Debug)]
pub enum Categories {
    /// By bands of the two pressures, ascending; both pressures are needed.
    Pressure(&'static [Band]),
    /// By the NEWS2 aggregate and its red scores; all five parameters are needed.
    News2,
}

/// One band of pressures.
#[derive(Debug)]
pub struct Band {
    /// The string in the `category` column.
    pub category: &'static str,
    /// What may be shown to people: a reading is in a range, a person has no diagnosis.
    pub wording: &'static str,
    /// Systolic pressures that lead here, mmHg.
    pub systolic: Option<Range>,
    /// Diastolic pressures that lead here, mmHg.
    pub diastolic: Option<Range>,
}

/// One rule: it fires when its quantity lies in its range (and the second one, if there is one, as well).
#[derive(Debug)]
pub struct Rule {
    /// The reason that is given.
    pub name: &'static str,
    /// The anomaly label for sinks that want one word (`labels`).
    pub label: &'static str,
    /// What is looked at.
    pub quantity: Quantity,
    /// Where it fires.
    pub range: Range,
    /// A second condition.
    pub and: Option<(Quantity, Range)>,
    /// Whether it may raise an alarm once it persists.
    pub alarms: bool,
    /// Document and section.
    pub source: &'static str,
}

/// A number that rules look at. The first seven are signals and have the signal's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Quantity {
    /// Systolic pressure, mmHg.
    Systolic = 0,
    /// Diastolic pressure, mmHg.
    Diastolic = 1,
    /// Mean arterial pressure as the device sent it, mmHg.
    MeanArterial = 2,
    /// Heart rate, /min.
    HeartRate = 3,
    /// Respiratory rate, /min.
    RespiratoryRate = 4,
    /// Oxygen saturation, %.
    OxygenSaturation = 5,
    /// Body temperature, Cel.
    Temperature = 6,
    /// Diastolic + (systolic − diastolic) / 3, mmHg; only where the device sent no mean.
    MeanArterialEstimated = 7,
    /// How far the systolic pressure lies below the patient's own baseline, % of it.
    BaselineFall = 8,
    /// The NEWS2 aggregate, points; only with all five parameters.
    News2Aggregate = 9,
}

impl Quantity {
    const COUNT: usize = 10;

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Quantity::Systolic => "systolic",
            Quantity::Diastolic => "diastolic",
            Quantity::MeanArterial => "mean arterial (measured)",
            Quantity::MeanArterialEstimated => "mean arterial (estimated)",
            Quantity::BaselineFall => "systolic fall below own baseline",
            Quantity::RespiratoryRate => "respiratory rate",
            Quantity::OxygenSaturation => "oxygen saturation",
            Quantity::HeartRate => "heart rate",
            Quantity::Temperature => "temperature",
            Quantity::News2Aggregate => "NEWS2 aggregate",
        }
    }

    /// Its unit for people.
    pub fn unit(self) -> &'static str {
        match self {
            Quantity::Systolic
            | Quantity::Diastolic
            | Quantity::MeanArterial
            | Quantity::MeanArterialEstimated => "mmHg",
            Quantity::BaselineFall | Quantity::OxygenSaturation => "%",
            Quantity::RespiratoryRate | Quantity::HeartRate => "/min",
            Quantity::Temperature => "°C",
            Quantity::News2Aggregate => "points",
        }
    }
}

/// A range of a quantity, in its unit. Never contains NaN.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    lower: Bound<f64>,
    upper: Bound<f64>,
}

impl Range {
    /// `value`, included, and up.
    pub const fn from(value: f64) -> Self {
        Range { lower: Bound::Included(value), upper: Bound::Unbounded }
    }

    /// More than `value`.
    pub const fn above(value: f64) -> Self {
        Range { lower: Bound::Excluded(value), upper: Bound::Unbounded }
    }

    /// Less than `value`.
    pub const fn below(value: f64) -> Self {
        Range { lower: Bound::Unbounded, upper: Bound::Excluded(value) }
    }

    /// The part of this range below `end`.
    pub const fn until(self, end: f64) -> Self {
        Range { lower: self.lower, upper: Bound::Excluded(end) }
    }

    /// The part of this range up to and with `last`: for guidelines that begin the next band *above* a number.
    pub const fn up_to(self, last: f64) -> Self {
        Range { lower: self.lower, upper: Bound::Included(last) }
    }

    /// True if `value` lies inside; false for NaN.
    pub fn contains(&self, value: f64) -> bool {
        (self.lower, self.upper).contains(&value)
    }

    /// Where it begins and ends.
    pub fn bounds(&self) -> (Bound<f64>, Bound<f64>) {
        (self.lower, self.upper)
    }
}

/// The quantities of one reading; NaN where unknown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vitals([f64; Quantity::COUNT]);

impl Vitals {
    /// Of a reading's signals and of its patient's own baseline (mmHg, NaN if there is none).
    pub(super) fn new(signals: &Signals, systolic_baseline: f64) -> Self {
        let mut values = [f64::NAN; Quantity::COUNT];
        for measured in signals.iter().take_while(|measured| measured.signal <= signals::TEMPERATURE) {
            values[usize::from(measured.signal.0)] = measured.value;
        }
        let [systolic, diastolic, mean_arterial, ..] = values;
        if mean_arterial.is_nan() {
            values[Quantity::MeanArterialEstimated as usize] = mean_arterial_estimate(systolic, diastolic);
        }
        values[Quantity::BaselineFall as usize] = 100.0 * (systolic_baseline - systolic) / systolic_baseline;
        let mut vitals = Vitals(values);
        vitals.0[Quantity::News2Aggregate as usize] = news2::aggregate(&vitals).map_or(f64::NAN, f64::from);
        vitals
    }

    pub(super) fn get(&self, quantity: Quantity) -> f64 {
        self.0[quantity as usize]
    }
}

/// D + (S − D) / 3, mmHg: the usual estimate of the mean arterial pressure. It is not what a device measures: on eICU cuff readings the
/// device's own mean differed by −2.7 ± 5.4 mmHg, by more than 5 in 42 % of them (docs/clinical.md).
fn mean_arterial_estimate(systolic: f64, diastolic: f64) -> f64 {
    diastolic + (systolic - diastolic) / 3.0
}

/// What a rule set says of one reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The band; `None` if what it needs is missing.
    pub(super) category: Option<&'static str>,
    /// Which rules fire.
    pub(super) fired: Fired,
    /// False for a partial reading.
    pub(super) complete: bool,
}

impl RuleSet {
    /// Category and reasons of one reading.
    pub(super) fn judge(&self, vitals: &Vitals) -> Verdict {
        let complete = self.required.iter().all(|&quantity| !vitals.get(quantity).is_nan());
        let category = match self.categories {
            Categories::Pressure(bands) => {
                category(bands, vitals.get(Quantity::Systolic), vitals.get(Quantity::Diastolic))
            }
            Categories::News2 => news2::category(vitals),
        };
        let mut fired = 0;
        if complete || self.partial_reasons {
            for (index, rule) in self.rules.iter().enumerate() {
                fired |= Fired::from(rule.fires(vitals)) << index;
            }
        }
        Verdict { category, fired, complete }
    }

    /// The rules that may raise an alarm.
    pub(super) fn alarming(&self) -> Fired {
        self.rules.iter().enumerate().fold(0, |mask, (index, rule)| mask | Fired::from(rule.alarms) << index)
    }

    /// The names of the rules that fire, in the set's order.
    pub(super) fn names(&self, fired: Fired) -> impl Iterator<Item = &'static str> + '_ {
        // Most readings fire nothing: the loop runs over set bits, not over rules.
        let mut left = fired;
        std::iter::from_fn(move || {
            let index = left.trailing_zeros() as usize;
            left &= left.wrapping_sub(1);
            self.rules.get(index).map(|rule| rule.name)
        })
    }

    /// The anomaly labels of these reasons: each once, in the order of the reasons. A reason that is not of this set has none.
    pub fn labels<'a>(&self, reasons: impl IntoIterator<Item = &'a str>) -> SmallVec<[&'static str; 2]> {
        let mut labels = SmallVec::new();
        for reason in reasons {
            if let Some(rule) = self.rules.iter().find(|rule| rule.name == reason)
                && !labels.contains(&rule.label)
            {
                labels.push(rule.label);
            }
        }
        labels
    }
}

impl Rule {
    fn fires(&self, vitals: &Vitals) -> bool {
        self.range.contains(vitals.get(self.quantity))
            && self.and.is_none_or(|(quantity, range)| range.contains(vitals.get(quantity)))
    }
}

/// The highest band that either pressure leads to; `None` unless both are known.
fn category(bands: &[Band], systolic: f64, diastolic: f64) -> Option<&'static str> {
    if systolic.is_nan() || diastolic.is_nan() {
        return None;
    }
    let leads = |range: Option<Range>, value: f64| range.is_some_and(|range| range.contains(value));
    let band = bands.iter().rev().find(|band| leads(band.systolic, systolic) || leads(band.diastolic, diastolic));
    band.map(|band| band.category)
}

#[cfg(test)]
mod tests;
