//! The features of one reading: its own values, its patient's recent readings and baseline, and who the patient is.
//!
//! Does not score and knows no thresholds; the order of the columns is [`FEATURE_NAMES`](crate::vocabulary::FEATURE_NAMES).

use super::Settings;
use super::history::{Centre, Chain, Recent};
use crate::signals::{DIASTOLIC, MEAN_ARTERIAL, SYSTOLIC};
use crate::time::EventTime;
use crate::vocabulary::{Demographics, FEATURE_NAMES, Sex, Signals};

/// One row of the matrix.
pub(super) type Row = [f64; FEATURE_NAMES.len()];

/// Makes the median absolute deviation of a normal distribution its standard deviation: 1/Φ⁻¹(3/4).
/// Source: Rousseeuw & Croux, "Alternatives to the median absolute deviation", J Am Stat Assoc 1993;88:1273-1283.
const DEVIATION_TO_SIGMA: f64 = 1.4826;

/// No deviation is measured in a smaller unit than this: the mean error that ISO 81060-2:2018 allows a sphygmomanometer, mmHg.
const DEVIATION_FLOOR_MMHG: f64 = 5.0;

/// A reading's own pressures in mmHg; NaN if it has none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pressures {
    pub(super) systolic: f64,
    pub(super) diastolic: f64,
    mean_arterial: f64,
}

impl Pressures {
    /// The device's own mean arterial pressure stands; without it, diastolic plus a third of the pulse pressure.
    /// Source: the usual clinical estimate, as in Meaney et al., Heart 2000;84:64.
    pub(super) fn of(signals: &Signals) -> Self {
        let systolic = signals.get(SYSTOLIC).unwrap_or(f64::NAN);
        let diastolic = signals.get(DIASTOLIC).unwrap_or(f64::NAN);
        let mean_arterial = signals.get(MEAN_ARTERIAL).unwrap_or(diastolic + (systolic - diastolic) / 3.0);
        Pressures { systolic, diastolic, mean_arterial }
    }

    /// True if both pressures were measured: what a chain takes in.
    pub(super) fn full(&self) -> bool {
        self.systolic.is_finite() && self.diastolic.is_finite()
    }

    /// The row of a reading that has no history: its own values alone.
    pub(super) fn alone(&self) -> Row {
        let mut row = [f64::NAN; FEATURE_NAMES.len()];
        row[..4].copy_from_slice(&[self.systolic, self.diastolic, self.mean_arterial, self.systolic - self.diastolic]);
        row
    }
}

/// What a chain says before a reading takes its place in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Baseline {
    systolic: (f64, f64),
    diastolic: (f64, f64),
}

impl Baseline {
    /// The patient's own median, blended with the population's while there are few readings; and the unit of deviation from it.
    pub(super) fn of(chain: &Chain, settings: &Settings) -> Self {
        let centres = chain.centres();
        // Linear shrinkage towards the population: our choice of weights, the simplest that starts at 0 and ends at 1.
        let own = (chain.len() as f64 / settings.baseline_readings_min.max(1) as f64).min(1.0);
        let blend = |centre: Option<Centre>, population: f64| match centre {
            None => (population, DEVIATION_FLOOR_MMHG),
            Some(Centre { median, deviation }) => {
                (own * median + (1.0 - own) * population, (DEVIATION_TO_SIGMA * deviation).max(DEVIATION_FLOOR_MMHG))
            }
        };
        Baseline {
            systolic: blend(centres.map(|(systolic, _)| systolic), settings.population_systolic_mmhg),
            diastolic: blend(centres.map(|(_, diastolic)| diastolic), settings.population_diastolic_mmhg),
        }
    }
}

/// The row of a reading with history.
pub(super) fn row(
    own: &Pressures,
    recent: &Recent,
    baseline: &Baseline,
    demographics: &Demographics,
    at: EventTime,
) -> Row {
    let (systolic_baseline, systolic_unit) = baseline.systolic;
    let (diastolic_baseline, diastolic_unit) = baseline.diastolic;
    [
        own.systolic,
        own.diastolic,
        own.mean_arterial,
        own.systolic - own.diastolic,
        recent.readings,
        recent.systolic.mean,
        recent.systolic.standard_deviation,
        recent.systolic_min,
        recent.systolic_max,
        recent.systolic.slope_per_hour,
        recent.systolic_variability,
        recent.diastolic.mean,
        recent.diastolic.standard_deviation,
        recent.diastolic.slope_per_hour,
        systolic_baseline,
        (own.systolic - systolic_baseline) / systolic_unit,
        diastolic_baseline,
        (own.diastolic - diastolic_baseline) / diastolic_unit,
        age_years(demographics, at),
        match demographics.sex {
            Sex::Female => 1.0,
            Sex::Male => 0.0,
            Sex::Other | Sex::Unknown => f64::NAN,
        },
    ]
}

/// The calendar is only asked when a birth year is known.
fn age_years(demographics: &Demographics, at: EventTime) -> f64 {
    let age = demographics.birth_year.and_then(|_| demographics.age_years(at));
    age.map_or(f64::NAN, f64::from)
}
