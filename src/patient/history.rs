//! The recent readings of one patient in one partition, and what they say: the personal baseline.
//!
//! A [`Chain`] is a ring of the last `patient.baseline_readings` full readings (both pressures) in the order of the partition, so that
//! it is a pure function of the partition: which other partitions were read meanwhile, and how far, cannot show in it.
//!
//! Invariants:
//!
//! 1. At most the given number of slots, the oldest leaving first.
//! 2. A slot is 8 bytes: pressures in hundredths of mmHg (0 to 655.35, rounded; devices give whole ones), times in whole seconds
//!    within 68 years of the ring's first reading. Sums are integers, so no result depends on how it was summed.
//!
//! Limits: what lies outside those ranges is moved to their border. A reading that left the ring does not come back when a newer one
//! is withdrawn.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::time::EventTime;
use crate::watermark::PartitionId;

/// Hundredths of mmHg in one mmHg.
const SCALE: f64 = 100.0;
const SECONDS_PER_HOUR: f64 = 3_600.0;

/// One reading of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slot {
    /// Since the chain's origin.
    seconds: i32,
    /// Hundredths of mmHg.
    systolic: u16,
    /// Hundredths of mmHg.
    diastolic: u16,
}

/// A ring of slots, oldest first.
#[derive(Debug)]
pub(super) struct Chain {
    /// Whose order it follows.
    pub(super) partition: PartitionId,
    /// Minutes from the Unix epoch to the first reading: the zero of the slots' seconds.
    pub(super) origin_minutes: i32,
    pub(super) ring: Box<[Slot]>,
}

impl Chain {
    pub(super) fn new(partition: PartitionId) -> Self {
        Chain { partition, origin_minutes: 0, ring: Box::default() }
    }

    /// Removes a reading; its place if it was still there. Of several alike the latest goes.
    pub(super) fn leave(&mut self, at: EventTime, systolic: f64, diastolic: f64) -> Option<usize> {
        let slot = self.slot(at, systolic, diastolic);
        let place = self.ring.iter().rposition(|known| *known == slot)?;
        self.resize(|ring| {
            ring.remove(place);
        });
        Some(place)
    }

    /// Puts a reading in `place` (`None`: last) of a ring of at most `readings_max`.
    pub(super) fn enter(
        &mut self,
        place: Option<usize>,
        at: EventTime,
        systolic: f64,
        diastolic: f64,
        readings_max: usize,
    ) {
        if self.ring.is_empty() {
            self.origin_minutes = saturate(at.micros().div_euclid(60_000_000));
        }
        let slot = self.slot(at, systolic, diastolic);
        if let Some(place) = place {
            return self.resize(|ring| ring.insert(place, slot));
        }
        if self.ring.len() < readings_max {
            return self.resize(|ring| ring.push(slot));
        }
        self.ring.copy_within(1.., 0);
        if let Some(last) = self.ring.last_mut() {
            *last = slot;
        }
    }

    /// Memory follows the number of readings exactly: most patients have few.
    fn resize(&mut self, change: impl FnOnce(&mut Vec<Slot>)) {
        let mut ring = std::mem::take(&mut self.ring).into_vec();
        ring.reserve_exact(1);
        change(&mut ring);
        self.ring = ring.into_boxed_slice();
    }

    fn slot(&self, at: EventTime, systolic: f64, diastolic: f64) -> Slot {
        let seconds = at.micros().div_euclid(1_000_000) - i64::from(self.origin_minutes) * 60;
        // A float to integer cast saturates.
        let hundredths = |mmhg: f64| (mmhg * SCALE).round() as u16;
        Slot { seconds: saturate(seconds), systolic: hundredths(systolic), diastolic: hundredths(diastolic) }
    }

    /// What the readings in the ring amount to.
    pub(super) fn recent(&self) -> Recent {
        let mut sums = Sums::default();
        let mut previous = self.ring.first().map_or(0, |slot| slot.systolic);
        let origin = self.ring.first().map_or(0, |slot| i64::from(slot.seconds));
        for slot in &self.ring {
            sums.add(i64::from(slot.seconds) - origin, slot);
            sums.steps += u64::from(slot.systolic.abs_diff(previous));
            previous = slot.systolic;
        }
        sums.recent()
    }

    /// Median and spread of the systolic and of the diastolic pressures; `None` for an empty ring.
    pub(super) fn centres(&self) -> Option<(Centre, Centre)> {
        let systolic = Centre::of(self.ring.iter().map(|slot| slot.systolic))?;
        let diastolic = Centre::of(self.ring.iter().map(|slot| slot.diastolic))?;
        Some((systolic, diastolic))
    }

    /// Something of the ring, for the cache's sake.
    pub(super) fn touch(&self) -> usize {
        let of = |slot: Option<&Slot>| slot.map_or(0, |slot| usize::from(slot.systolic));
        of(self.ring.first()) + of(self.ring.last())
    }

    /// Number of readings in the ring.
    pub(super) fn len(&self) -> usize {
        self.ring.len()
    }
}

fn saturate(value: i64) -> i32 {
    value.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
}

/// Statistics of a ring, in mmHg; NaN where there are too few readings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recent {
    pub(super) readings: f64,
    pub(super) systolic: Spread,
    pub(super) systolic_min: f64,
    pub(super) systolic_max: f64,
    /// Average real variability: the mean absolute difference of successive readings.
    /// Source: Mena et al., "A reliable index for the prognostic significance of blood pressure variability", J Hypertens 2005;23:505-511;
    /// here unweighted, and in the order of the partition.
    pub(super) systolic_variability: f64,
    pub(super) diastolic: Spread,
}

/// Statistics of one pressure over a ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    pub(super) mean: f64,
    /// Sample standard deviation (n − 1).
    pub(super) standard_deviation: f64,
    /// Ordinary least squares over event time.
    pub(super) slope_per_hour: f64,
}

/// Exact sums over a ring, in hundredths of mmHg and seconds.
#[derive(Default)]
struct Sums {
    readings: u64,
    seconds: i64,
    seconds_squared: i128,
    systolic: PressureSums,
    systolic_range: Option<(u16, u16)>,
    steps: u64,
    diastolic: PressureSums,
}

#[derive(Default)]
struct PressureSums {
    values: u64,
    squares: u64,
    by_seconds: i128,
}

impl Sums {
    fn add(&mut self, seconds: i64, slot: &Slot) {
        self.readings += 1;
        self.seconds += seconds;
        self.seconds_squared += i128::from(seconds) * i128::from(seconds);
        let (min, max) = self.systolic_range.unwrap_or((slot.systolic, slot.systolic));
        self.systolic_range = Some((min.min(slot.systolic), max.max(slot.systolic)));
        self.systolic.add(seconds, slot.systolic);
        self.diastolic.add(seconds, slot.diastolic);
    }

    fn recent(&self) -> Recent {
        let readings = self.readings as f64;
        let (min, max) = self
            .systolic_range
            .map_or((f64::NAN, f64::NAN), |(min, max)| (f64::from(min) / SCALE, f64::from(max) / SCALE));
        // 0/0 is NaN, which is what one reading has to say of differences.
        let steps = self.readings.saturating_sub(1) as f64;
        Recent {
            readings,
            systolic: self.spread(&self.systolic),
            systolic_min: min,
            systolic_max: max,
            systolic_variability: self.steps as f64 / (steps * SCALE),
            diastolic: self.spread(&self.diastolic),
        }
    }

    fn spread(&self, pressure: &PressureSums) -> Spread {
        let count = i128::from(self.readings);
        let values = i128::from(pressure.values);
        let readings = self.readings as f64;
        let squares = (count * i128::from(pressure.squares) - values * values) as f64;
        let across = (count * pressure.by_seconds - i128::from(self.seconds) * values) as f64;
        let along = (count * self.seconds_squared - i128::from(self.seconds) * i128::from(self.seconds)) as f64;
        let pairs = readings * (readings - 1.0);
        Spread {
            mean: pressure.values as f64 / (readings * SCALE),
            standard_deviation: if self.readings > 1 { (squares / pairs).sqrt() / SCALE } else { f64::NAN },
            slope_per_hour: across / along * (SECONDS_PER_HOUR / SCALE),
        }
    }
}

impl PressureSums {
    fn add(&mut self, seconds: i64, hundredths: u16) {
        self.values += u64::from(hundredths);
        self.squares += u64::from(hundredths) * u64::from(hundredths);
        self.by_seconds += i128::from(seconds) * i128::from(hundredths);
    }
}

/// A median and the median absolute deviation from it, in mmHg.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Centre {
    pub(super) median: f64,
    pub(super) deviation: f64,
}

impl Centre {
    fn of(hundredths: impl Iterator<Item = u16>) -> Option<Self> {
        let mut values: SmallVec<[u32; RANKED_MAX]> = hundredths.map(u32::from).collect();
        let median_twice = middle(&mut values)?;
        values.iter_mut().for_each(|value| *value = (2 * *value).abs_diff(median_twice));
        let deviation_four_times = middle(&mut values)?;
        Some(Centre {
            median: f64::from(median_twice) / (2.0 * SCALE),
            deviation: f64::from(deviation_four_times) / (4.0 * SCALE),
        })
    }
}

/// Rings up to this length, which are nearly all, are ordered by counting.
const RANKED_MAX: usize = 16;

/// The two middle values, added up; `None` if there are none. Orders the values as a side effect, or not.
///
/// Every value's rank is the number of those below it: no branch depends on a value, which in a sort of a dozen values costs most of its time,
/// and the compiler compares four at once. Values are below 2¹⁷ and ties are told apart by their place, so that ranks are distinct.
fn middle(values: &mut [u32]) -> Option<u32> {
    let (low, high) = if values.is_empty() { return None } else { ((values.len() - 1) / 2, values.len() / 2) };
    if values.len() > RANKED_MAX {
        values.sort_unstable();
        return Some(values[low] + values[high]);
    }
    let mut keys = [i32::MAX; RANKED_MAX];
    for ((key, value), place) in keys.iter_mut().zip(values.iter()).zip(0..) {
        *key = (*value as i32) * RANKED_MAX as i32 + place;
    }
    let mut ranks = [0_i32; RANKED_MAX];
    for other in &keys[..values.len()] {
        for (rank, key) in ranks.iter_mut().zip(&keys) {
            *rank += i32::from(other < key);
        }
    }
    let mut ordered = [0; RANKED_MAX];
    for (value, rank) in values.iter().zip(ranks) {
        ordered[rank as usize % RANKED_MAX] = *value;
    }
    Some(ordered[low] + ordered[high])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::Partition;

    fn at(seconds: i64) -> EventTime {
        EventTime::from_micros(seconds * 1_000_000)
    }

    fn chain() -> Chain {
        Chain::new(crate::watermark::Watermark::new().id(Partition::default()))
    }

    #[test]
    fn a_ring_of_three_says_what_three_readings_say() {
        let mut chain = chain();
        for (seconds, systolic) in [(0, 500.0), (0, 120.0), (1_800, 126.0), (3_600, 120.5)] {
            chain.enter(None, at(seconds), systolic, 80.0, 3);
        }
        let recent = chain.recent();
        assert_eq!((recent.readings, recent.systolic_min, recent.systolic_max), (3.0, 120.0, 126.0));
        assert!((recent.systolic.mean - 366.5 / 3.0).abs() < 1e-12);
        assert!((recent.systolic.slope_per_hour - 0.5).abs() < 1e-12);
        assert_eq!(recent.systolic_variability, (6.0 + 5.5) / 2.0);
        assert_eq!((recent.diastolic.standard_deviation, recent.diastolic.slope_per_hour), (0.0, 0.0));
        let (systolic, _) = chain.centres().unwrap();
        assert_eq!(systolic, Centre { median: 120.5, deviation: 0.5 });
    }

    #[test]
    fn the_middle_is_that_of_sorted_values_whatever_their_number() {
        let mut state = 7_u32;
        for round in 0..4_000 {
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state >> 16
            };
            // Few different values make ties; the others reach the greatest doubled distance.
            let most = if round % 2 == 0 { 5 } else { 131_071 };
            let mut values: Vec<u32> = (0..1 + next() % 20).map(|_| (next() * 2 + 1) % (most + 1)).collect();
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let expected = sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2];
            assert_eq!(middle(&mut values), Some(expected), "{sorted:?}");
        }
        assert_eq!(middle(&mut []), None);
    }

    #[test]
    fn the_deviation_is_the_median_distance_from_the_median() {
        let centre = |values: &[u16]| Centre::of(values.iter().copied()).unwrap();
        assert_eq!(centre(&[12_000]), Centre { median: 120.0, deviation: 0.0 });
        assert_eq!(centre(&[10_000, 13_000, 11_000, 20_000]), Centre { median: 120.0, deviation: 15.0 });
        assert_eq!(centre(&[0, u16::MAX]), Centre { median: 327.675, deviation: 327.675 });
    }

    #[test]
    fn too_few_readings_say_nothing() {
        let mut chain = chain();
        assert!(chain.centres().is_none());
        assert!(chain.recent().systolic.mean.is_nan() && chain.recent().systolic_variability.is_nan());
        chain.enter(None, at(5), 120.0, 80.0, 3);
        let recent = chain.recent();
        assert_eq!((recent.systolic.mean, recent.systolic_min), (120.0, 120.0));
        assert!(recent.systolic.standard_deviation.is_nan() && recent.systolic.slope_per_hour.is_nan());
        assert!(recent.systolic_variability.is_nan());
        chain.enter(None, at(5), 130.0, 80.0, 3);
        assert!(chain.recent().systolic.slope_per_hour.is_nan(), "two readings at one time have no slope");
    }

    #[test]
    fn a_correction_takes_the_place_of_what_it_corrects() {
        let mut chain = chain();
        for (seconds, systolic) in [(0, 100.0), (60, 110.0), (120, 120.0)] {
            chain.enter(None, at(seconds), systolic, 80.0, 3);
        }
        let place = chain.leave(at(60), 110.0, 80.0);
        assert_eq!(place, Some(1));
        chain.enter(place, at(60), 118.0, 80.0, 3);
        assert_eq!(chain.recent().systolic_variability, (18.0 + 2.0) / 2.0);
        assert_eq!(chain.leave(at(60), 110.0, 80.0), None, "it has left");
    }

    #[test]
    fn a_ring_survives_the_ends_of_time_and_of_the_scale() {
        let mut chain = chain();
        for time in [EventTime::MIN, at(0), EventTime::MAX] {
            chain.enter(None, time, 1e9, -1.0, 3);
        }
        assert_eq!(chain.recent().systolic_max, 655.35);
        assert_eq!(chain.recent().diastolic.mean, 0.0);
        assert!(chain.recent().systolic.slope_per_hour.is_finite());
    }
}
