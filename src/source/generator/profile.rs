//! What the synthetic population is like and how dirty its data are. Every number is here.
//!
//! Levels and shares are plausible, not fitted to a population: nothing that is computed from them is clinical evidence.

use crate::time::{EventSpan, EventTime};

/// Kinds of patients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cohort {
    /// Adults without known disease.
    Healthy,
    /// Low resting pressure, slow heart.
    Athlete,
    /// Over 70, stiff arteries: high systolic, low diastolic pressure, little fall at night.
    Elderly,
    /// Known hypertension.
    Hypertensive,
    /// High only while somebody measures.
    WhiteCoat,
    /// Second half of a pregnancy.
    Pregnant,
    /// Frail or acutely ill: pressure falls easily.
    Frail,
}

/// The figures of one cohort. Pressures in mmHg.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Who they are about.
    pub cohort: Cohort,
    /// Share of the population; all shares add up to 1.
    pub share: f64,
    /// Youngest and oldest, years.
    pub age_years: (u16, u16),
    /// A patient's own systolic level: mean and standard deviation over patients.
    pub systolic: (f32, f32),
    /// The same, diastolic.
    pub diastolic: (f32, f32),
    /// Fall from the highest to the lowest of the day, as a share of the level. 10–20 % is a "dipper"
    /// (O'Brien et al., ESH position paper on ambulatory monitoring, J Hypertens 2013;31:1731, section on nocturnal dipping).
    pub dip: f32,
    /// Crises (see [`Episode::Crisis`]) that begin, per hour.
    pub crises_per_hour: f32,
    /// Hypotensive episodes that begin, per hour.
    pub hypotensions_per_hour: f32,
}

/// What happens to a patient for some hours: what a model is to recognise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Episode {
    /// Pressure rises by 45–75 / 20–35 mmHg for 1–6 hours.
    Crisis,
    /// Pressure falls by 30–45 / 15–25 mmHg for 2–8 hours.
    Hypotension,
}

/// The cohorts. Order is part of the seed's meaning.
pub const COHORTS: [Figures; 7] = [
    figures(Cohort::Healthy, 0.33, (18, 69), (118.0, 8.0), (73.0, 6.0), 0.14, 0.0002, 0.0004),
    figures(Cohort::Athlete, 0.08, (18, 45), (108.0, 7.0), (63.0, 5.0), 0.15, 0.0001, 0.0006),
    figures(Cohort::Elderly, 0.22, (70, 97), (134.0, 11.0), (70.0, 7.0), 0.06, 0.0015, 0.0030),
    figures(Cohort::Hypertensive, 0.23, (35, 85), (144.0, 10.0), (88.0, 7.0), 0.09, 0.0045, 0.0006),
    figures(Cohort::WhiteCoat, 0.06, (30, 80), (122.0, 7.0), (76.0, 6.0), 0.13, 0.0004, 0.0004),
    figures(Cohort::Pregnant, 0.04, (19, 43), (114.0, 8.0), (70.0, 6.0), 0.12, 0.0025, 0.0008),
    figures(Cohort::Frail, 0.04, (60, 99), (112.0, 10.0), (64.0, 7.0), 0.04, 0.0004, 0.0150),
];

#[expect(clippy::too_many_arguments, reason = "one row of the table above")]
const fn figures(
    cohort: Cohort,
    share: f64,
    age_years: (u16, u16),
    systolic: (f32, f32),
    diastolic: (f32, f32),
    dip: f32,
    crises_per_hour: f32,
    hypotensions_per_hour: f32,
) -> Figures {
    Figures { cohort, share, age_years, systolic, diastolic, dip, crises_per_hour, hypotensions_per_hour }
}

/// A patient's level wanders slowly with this standard deviation …
pub(super) const WANDER_MMHG: f32 = 5.0;
/// … and forgets itself over this many hours.
pub(super) const WANDER_HOURS: f32 = 6.0;
/// Standard deviation from one reading to the next at the same level.
pub(super) const JITTER_MMHG: f32 = 4.5;
/// Diastolic pressure follows systolic with this slope.
pub(super) const DIASTOLIC_SLOPE: f32 = 0.55;
/// Added while somebody in a white coat measures, for those who mind: systolic, diastolic.
pub(super) const WHITE_COAT_MMHG: (f32, f32) = (24.0, 11.0);
/// An episode sets in and fades over this many hours.
pub(super) const RAMP_HOURS: f32 = 0.5;

/// How dirty, how fast, in which wrapping. Rates are shares of observations unless they say otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// When the first reading arrives.
    pub start: EventTime,
    /// How often a patient is measured, on average.
    pub every: EventSpan,
    /// What is around the resource.
    pub wrapping: Wrapping,
    /// Condition resources come behind the Patient resource, if that is a message of its own.
    pub conditions: bool,
    /// In how many ways an observation is written: 1 to [`KINDS_MAX`]. How often each comes falls as 1, 1/2, 1/3 … (Zipf).
    pub kinds: u32,
    /// Written as hardly any other observation is.
    pub unlike: f64,
    /// Delivered up to 30 s after a later reading.
    pub late_seconds: f64,
    /// Delivered up to 5 min after a later reading.
    pub late_minutes: f64,
    /// Impossible values: both numbers typed together (11647), zero, or far too high.
    pub outliers: f64,
    /// Systolic and diastolic in each other's place.
    pub swapped: f64,
    /// A further version of the patient's previous reading, `amended`, with other values.
    pub amended: f64,
    /// A further version of the patient's previous reading, `entered-in-error`.
    pub entered_in_error: f64,
    /// The patient's previous message again, byte for byte.
    pub duplicates: f64,
    /// Share of *patients* whose device reports kilopascal.
    pub kilopascal_patients: f64,
    /// Share of *patients* whose device leaves the unit out of every fourth reading.
    pub unit_missing_patients: f64,
}

/// Each of six parts of an observation is there or not.
pub const KINDS_MAX: u32 = 64;

/// What is around a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Wrapping {
    /// The resource alone; a patient's Patient resource is a message of its own, before the first observation.
    #[default]
    Bare,
    /// `{"patient": …, "observation": …}`.
    Envelope,
    /// A FHIR Bundle of type `collection` with Patient and Observation.
    Bundle,
}

/// 2026-01-05T00:00:00Z, a Monday: a fixed instant, so that the same seed gives the same bytes for ever.
pub const START: EventTime = EventTime::from_micros(1_767_571_200_000_000);

impl Default for Profile {
    /// Dirty as real data are: about 1 % late, corrections and faults well below.
    fn default() -> Self {
        Profile {
            start: START,
            every: EventSpan::from_seconds(900),
            wrapping: Wrapping::Bare,
            conditions: false,
            kinds: 1,
            unlike: 0.0,
            late_seconds: 0.010,
            late_minutes: 0.002,
            outliers: 0.002,
            swapped: 0.001,
            amended: 0.003,
            entered_in_error: 0.001,
            duplicates: 0.002,
            kilopascal_patients: 0.005,
            unit_missing_patients: 0.005,
        }
    }
}

impl Profile {
    /// The same population without any dirt: every reading once, in order, with its unit.
    pub fn clean() -> Self {
        Profile {
            late_seconds: 0.0,
            late_minutes: 0.0,
            outliers: 0.0,
            swapped: 0.0,
            amended: 0.0,
            entered_in_error: 0.0,
            duplicates: 0.0,
            kilopascal_patients: 0.0,
            unit_missing_patients: 0.0,
            ..Profile::default()
        }
    }

    /// Every reading once, with its unit, but delivered late as ever: what a program without versions and rules can count, too.
    pub fn late_only() -> Self {
        let Profile { late_seconds, late_minutes, .. } = Profile::default();
        Profile { late_seconds, late_minutes, ..Profile::clean() }
    }
}
