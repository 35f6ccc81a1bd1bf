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
        let mut values: SmallVec<[u16; 32]> = hundredths.collect();
        values.sort_unstable();
        let (low, high) = if values.is_empty() { return None } else { ((values.len() - 1) / 2, values.len() / 2) };
        let median_twice = u32::from(values[low]) + u32::from(values[high]);
        let deviation_four_times = middle_distances(&values, median_twice);
        Some(Centre {
            median: f64::from(median_twice) / (2.0 * SCALE),
            deviation: f64::from(deviation_four_times) / (4.0 * SCALE),
        })
    }
}

/// The two middle distances of sorted values from half of `median_twice`, doubled, added up. Distances grow outwards from the median, so they
/// are met in order from there: no second sort.
fn middle_distances(values: &[u16], median_twice: u32) -> u32 {
    let distance = |value: u16| (2 * u32::from(value)).abs_diff(median_twice);
    let (low, high) = ((values.len() - 1) / 2, values.len() / 2);
    let mut right = values.partition_point(|value| 2 * u32::from(*value) < median_twice);
    let mut left = right;
    let mut sum = 0;
    for rank in 0..=high {
        let below = left.checked_sub(1).map(|at| distance(values[at]));
        let above = values.get(right).map(|value| distance(*value));
        let next = match (below, above) {
            (Some(below), Some(above)) if below <= above => {
                left -= 1;
                below
            }
            (Some(below), None) => {
                left -= 1;
                below
            }
            (_, Some(above)) => {
                right += 1;
                above
            }
            (None, None) => break,
        };
        sum += next * (u32::from(rank == low) + u32::from(rank == high));
    }
    sum
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
    fn the_median_deviation_is_that_of_sorted_distances() {
        let mut state = 7_u32;
        for _ in 0..2_000 {
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state >> 16
            };
            let values: Vec<u16> = (0..1 + next() % 13).map(|_| (next() % 40) as u16).collect();
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let (low, high) = ((sorted.len() - 1) / 2, sorted.len() / 2);
            let median_twice = u32::from(sorted[low]) + u32::from(sorted[high]);
            let mut distances: Vec<u32> =
                sorted.iter().map(|value| (2 * u32::from(*value)).abs_diff(median_twice)).collect();
            distances.sort_unstable();
            assert_eq!(middle_distances(&sorted, median_twice), distances[low] + distances[high], "{values:?}");
        }
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
