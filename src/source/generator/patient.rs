//! One synthetic patient: a level, a rhythm of day and night, a slow wander, and now and then an episode.
//!
//! Invariants: everything about a patient follows from (seed, index); a reading follows from the patient's own past and the
//! random numbers it is given, so neither depends on how patients are dealt out to partitions.

use super::profile::{
    COHORTS, Cohort, DIASTOLIC_SLOPE, Episode, Figures, JITTER_MMHG, Profile, RAMP_HOURS, WANDER_HOURS, WANDER_MMHG,
    WHITE_COAT_MMHG,
};

/// A patient and its recent past.
#[derive(Clone, Debug)]
pub(super) struct Patient {
    pub(super) index: u32,
    /// Seed of everything that never changes about it: names, ids, device.
    pub(super) identity: u64,
    /// Into [`COHORTS`].
    cohort: u8,
    pub(super) female: bool,
    pub(super) age_years: u16,
    pub(super) device: Device,
    systolic: f32,
    diastolic: f32,
    /// The hour of the day at which pressure is highest.
    peak_hour: f32,
    wander: f32,
    /// When the last reading was taken, microseconds; `None` before the first.
    measured_us: Option<i64>,
    episode: Option<Running>,
    /// Readings so far; numbers the observations.
    pub(super) readings: u32,
    pub(super) introduced: bool,
    /// Number of the next condition to tell of.
    pub(super) conditions: u8,
    pub(super) previous: Option<Previous>,
}

/// What a patient is measured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Device {
    Ordinary,
    Kilopascal,
    /// Leaves the unit out now and then.
    Unitless,
}

/// The last message about a patient, as far as a correction or repetition needs it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Previous {
    pub(super) reading: u32,
    pub(super) version: u32,
    pub(super) measured_us: i64,
    pub(super) updated_us: i64,
    pub(super) shown: Shown,
    pub(super) status: Status,
    pub(super) adverse: Option<Episode>,
}

/// What a message shows: tenths of the unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) systolic_tenths: i32,
    pub(super) diastolic_tenths: i32,
    pub(super) unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Mmhg,
    Kilopascal,
    Missing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Final,
    Amended,
    EnteredInError,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    kind: Episode,
    start_us: i64,
    end_us: i64,
    systolic: f32,
    diastolic: f32,
}

/// The true pressures at one instant, and whether the patient was unwell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pressures {
    pub(super) systolic: f32,
    pub(super) diastolic: f32,
    pub(super) adverse: Option<Episode>,
}

const HOUR_US: f32 = 3.6e9;

impl Patient {
    pub(super) fn new(profile: &Profile, seed: u64, index: u32) -> Self {
        let identity = mix(seed ^ mix(u64::from(index) + 1));
        let mut draws = Draws(identity);
        let mut left = draws.unit();
        let is_it = |figures: &Figures| {
            left -= figures.share;
            left < 0.0
        };
        let cohort = COHORTS.iter().position(is_it).unwrap_or(0);
        let figures = &COHORTS[cohort];
        let (youngest, oldest) = figures.age_years;
        let device = match draws.unit() {
            at if at < profile.kilopascal_patients => Device::Kilopascal,
            at if at < profile.kilopascal_patients + profile.unit_missing_patients => Device::Unitless,
            _ => Device::Ordinary,
        };
        let level = draws.normal();
        Patient {
            index,
            identity,
            cohort: cohort as u8,
            female: figures.cohort == Cohort::Pregnant || draws.unit() < 0.5,
            age_years: youngest + (draws.unit() * f64::from(oldest - youngest + 1)) as u16,
            device,
            systolic: figures.systolic.0 + figures.systolic.1 * level,
            // Whose systolic pressure is high tends to have a high diastolic one: correlation 0.6.
            diastolic: figures.diastolic.0 + figures.diastolic.1 * (0.6 * level + 0.8 * draws.normal()),
            peak_hour: 14.0 + 1.5 * draws.normal(),
            wander: WANDER_MMHG * draws.normal(),
            measured_us: None,
            episode: None,
            readings: 0,
            introduced: false,
            conditions: 0,
            previous: None,
        }
    }

    pub(super) fn figures(&self) -> &'static Figures {
        &COHORTS[usize::from(self.cohort)]
    }

    /// Measures. `attended` if somebody stands by. An instant before the previous one leaves the patient's state as it is.
    pub(super) fn measure(&mut self, at_us: i64, attended: bool, draws: &mut Draws) -> Pressures {
        let figures = self.figures();
        let hours = self.measured_us.map_or(0.25, |before| (at_us - before) as f32 / HOUR_US);
        if hours > 0.0 {
            self.measured_us = Some(at_us);
            let memory = (-hours / WANDER_HOURS).exp();
            self.wander = memory * self.wander + (1.0 - memory * memory).sqrt() * WANDER_MMHG * draws.normal();
            self.fall_ill(at_us, hours, draws);
        }
        // Cosine with its peak in the afternoon; from peak to trough it spans `dip` of the level.
        let hour = (at_us.rem_euclid(86_400_000_000)) as f32 / HOUR_US;
        let rhythm = 0.5 * figures.dip * turn((hour - self.peak_hour) / 24.0);
        let alarm = attended && figures.cohort == Cohort::WhiteCoat;
        let (ill, adverse) = self.episode.map_or((0.0, None), |episode| episode.strength(at_us));
        let (add_systolic, add_diastolic) =
            self.episode.map_or((0.0, 0.0), |running| (running.systolic, running.diastolic));
        let common = self.wander + JITTER_MMHG * draws.normal();
        let systolic =
            self.systolic * (1.0 + rhythm) + common + ill * add_systolic + if alarm { WHITE_COAT_MMHG.0 } else { 0.0 };
        let diastolic = self.diastolic * (1.0 + rhythm)
            + DIASTOLIC_SLOPE * common
            + 0.5 * JITTER_MMHG * draws.normal()
            + ill * add_diastolic
            + if alarm { WHITE_COAT_MMHG.1 } else { 0.0 };
        let systolic = systolic.clamp(58.0, 255.0);
        Pressures { systolic, diastolic: diastolic.clamp(30.0, (systolic - 12.0).min(150.0)), adverse }
    }

    /// An episode may begin; hours without a reading count as one, because nobody saw them.
    fn fall_ill(&mut self, at_us: i64, hours: f32, draws: &mut Draws) {
        if self.episode.is_some_and(|episode| at_us < episode.end_us) {
            return;
        }
        let figures = self.figures();
        let hours = hours.min(1.0);
        let draw = draws.unit() as f32;
        let hypotension = figures.hypotensions_per_hour * hours;
        self.episode = if draw < hypotension {
            let end_us = at_us + ((2.0 + 6.0 * draws.unit()) * 3.6e9) as i64;
            let (systolic, diastolic) = (-30.0 - 15.0 * draws.unit() as f32, -15.0 - 10.0 * draws.unit() as f32);
            Some(Running { kind: Episode::Hypotension, start_us: at_us, end_us, systolic, diastolic })
        } else if draw < hypotension + figures.crises_per_hour * hours {
            let end_us = at_us + ((1.0 + 5.0 * draws.unit()) * 3.6e9) as i64;
            let (systolic, diastolic) = (45.0 + 30.0 * draws.unit() as f32, 20.0 + 15.0 * draws.unit() as f32);
            Some(Running { kind: Episode::Crisis, start_us: at_us, end_us, systolic, diastolic })
        } else {
            None
        };
    }
}

impl Running {
    /// From 0 to 1 and back; the patient counts as unwell from one half on.
    fn strength(self, at_us: i64) -> (f32, Option<Episode>) {
        let since = (at_us - self.start_us) as f32 / HOUR_US;
        let left = (self.end_us - at_us) as f32 / HOUR_US;
        let strength = (since.min(left) / RAMP_HOURS).clamp(0.0, 1.0);
        (strength, (strength >= 0.5).then_some(self.kind))
    }
}

/// cos(2πx) to within 0.0011, from the parabola x(1 − |x|) corrected once; a library cosine costs ten times as much.
///
/// Bhaskara's idea; the correction factor 0.225 is the usual minimax choice for parabola sine.
fn turn(x: f32) -> f32 {
    // sin(π·u) for u in −1..1, with u a quarter turn ahead.
    let u = (2.0 * x + 0.5 + 1.0).rem_euclid(2.0) - 1.0;
    let parabola = 4.0 * u * (1.0 - u.abs());
    0.225 * (parabola * parabola.abs() - parabola) + parabola
}

/// SplitMix64's finaliser (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014): a fixed, well-mixed hash of 64 bits.
pub(super) fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Random numbers from a 64-bit state; seeded once per patient or once per reading from the stream's ChaCha.
pub(super) struct Draws(pub(super) u64);

impl Draws {
    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Uniform in 0..1.
    pub(super) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Nearly normal with mean 0 and deviation 1: the sum of four uniform numbers (Irwin–Hall), never beyond 3.5, as no patient is either.
    pub(super) fn normal(&mut self) -> f32 {
        let bits = self.bits();
        let sum = (bits & 0xffff) + ((bits >> 16) & 0xffff) + ((bits >> 32) & 0xffff) + (bits >> 48);
        // Variance of the sum of four uniforms over 0..65536 is 4 · 65536² / 12.
        (sum as f32 - 131_070.0) / 37_837.2
    }
}

#[cfg(test)]
mod tests {
    //! Proves the approximations against the library's own functions.
    use super::*;

    #[test]
    fn the_quick_cosine_is_a_cosine() {
        for step in -3_000..3_000 {
            let x = step as f32 / 1_000.0;
            let exact = (std::f32::consts::TAU * x).cos();
            assert!((turn(x) - exact).abs() < 0.0012, "{x}: {} {exact}", turn(x));
        }
    }

    #[test]
    fn normal_draws_have_mean_0_and_deviation_1() {
        let mut draws = Draws(7);
        let values: Vec<f64> = (0..200_000).map(|_| f64::from(draws.normal())).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.01, "{mean} {variance}");
    }

    #[test]
    fn shares_of_the_cohorts_add_up_to_one() {
        assert!((COHORTS.iter().map(|figures| figures.share).sum::<f64>() - 1.0).abs() < 1e-9);
    }
}
