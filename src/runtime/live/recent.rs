//! The last readings with everything that was known when they were assessed: a patient's timeline, and why the model said what it said.
//!
//! ```text
//! score ─ Arc<Assessed> ─> ahead ─claimed─> the last READINGS_MAX of them ─┬─> /api/v1/patient/{pseudonym}
//!                                                                           └─> contributions of an alert
//! ```
//!
//! Batches are kept as they are, shared with the other stages: nothing is copied when they come by, and a patient is looked for when
//! somebody asks. Of an observation the newest version stands; a withdrawn one is left out. Nobody is told of a batch before its epoch is claimed: after
//! a crash it might never have been.
//!
//! Limits: [`READINGS_MAX`] readings of this process, some [`READING_BYTES`] each, whoever's they are; a batch beyond that alone is kept until the next; and as
//! many ahead, of which the oldest are forgotten.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::Serialize;

use crate::signals::{DIASTOLIC, SYSTOLIC};
use crate::time::{Epoch, EventTime};
use crate::vocabulary::{Assessed, Assessment, Demographics, FEATURE_NAMES, Pseudonym, Reading, Timeliness};

/// Readings that are kept.
pub const READINGS_MAX: usize = 32_768;
/// Bytes of each: the reading, its features, what is known of its patient, its assessment.
pub const READING_BYTES: usize = size_of::<Reading>()
    + size_of::<[f64; FEATURE_NAMES.len()]>()
    + size_of::<Demographics>()
    + size_of::<Assessment>();
/// Readings of one answer: the newest by time of measurement.
pub const TIMELINE_MAX: usize = 500;

/// A patient's readings in the order of measurement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Patient {
    /// The pseudonym.
    pub patient: String,
    /// At most [`TIMELINE_MAX`].
    pub readings: Vec<Point>,
}

/// One reading, and what was usual for its patient just before it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Pseudonym of the observation.
    pub observation: String,
    /// When it was measured, seconds since 1970.
    pub at_seconds: f64,
    /// mmHg.
    pub systolic_mmhg: Option<f64>,
    /// mmHg.
    pub diastolic_mmhg: Option<f64>,
    /// The patient's own median before this reading, blended with the population's while there are few.
    pub systolic_baseline_mmhg: Option<f64>,
    /// One deviation from it.
    pub systolic_deviation_mmhg: Option<f64>,
    /// As of systolic.
    pub diastolic_baseline_mmhg: Option<f64>,
    /// As of systolic.
    pub diastolic_deviation_mmhg: Option<f64>,
    /// The guideline's band.
    pub category: Option<&'static str>,
    /// The rules that fired.
    pub reasons: Vec<&'static str>,
    /// An alarm was raised.
    pub alarm: bool,
    /// The model's probability.
    pub probability: Option<f64>,
    /// What moved it most.
    pub contributions: Vec<Contribution>,
    /// Behind its partition's watermark.
    pub late: bool,
}

/// How far one feature moved a probability.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Contribution {
    /// The feature's name.
    pub feature: &'static str,
    /// Its share of the margin, log-odds: above 0 towards risk.
    pub log_odds: f64,
}

/// The batches, oldest first.
#[derive(Default)]
pub(super) struct Recent {
    batches: VecDeque<Arc<Assessed>>,
    readings: usize,
    /// Of epochs that are not known to be claimed, as they came.
    ahead: VecDeque<(Epoch, Arc<Assessed>)>,
    readings_ahead: usize,
    /// Everything up to here is claimed.
    released: Epoch,
}

impl Recent {
    /// Takes a batch, to be told when its epoch is released.
    pub(super) fn push(&mut self, epoch: Epoch, batch: Arc<Assessed>) {
        if epoch <= self.released {
            return self.keep(batch);
        }
        self.readings_ahead += batch.assessments.len();
        self.ahead.push_back((epoch, batch));
        while self.readings_ahead > READINGS_MAX && self.ahead.len() > 1 {
            self.readings_ahead -= self.ahead.pop_front().map_or(0, |(_, oldest)| oldest.assessments.len());
        }
    }

    /// Everything up to an epoch is claimed.
    pub(super) fn release(&mut self, upto: Epoch) {
        if upto <= self.released {
            return;
        }
        self.released = upto;
        for (epoch, batch) in std::mem::take(&mut self.ahead) {
            if epoch <= upto {
                self.readings_ahead -= batch.assessments.len();
                self.keep(batch);
            } else {
                self.ahead.push_back((epoch, batch));
            }
        }
    }

    fn keep(&mut self, batch: Arc<Assessed>) {
        if batch.assessments.is_empty() {
            return;
        }
        self.readings += batch.assessments.len();
        self.batches.push_back(batch);
        while self.readings > READINGS_MAX && self.batches.len() > 1 {
            self.readings -= self.batches.pop_front().map_or(0, |oldest| oldest.assessments.len());
        }
    }

    /// What is known of a patient, or `None` if nothing came by lately.
    pub(super) fn patient(&self, wanted: Pseudonym) -> Option<Patient> {
        let mut standing: BTreeMap<Pseudonym, Point> = BTreeMap::new();
        let mut seen = false;
        for batch in &self.batches {
            for (row, reading) in batch.scorable.readings.iter().enumerate() {
                if reading.patient != wanted {
                    continue;
                }
                seen = true;
                match reading.facts.status.withdraws() {
                    true => drop(standing.remove(&reading.observation)),
                    false => drop(standing.insert(reading.observation, point(batch, row))),
                }
            }
        }
        let mut readings: Vec<Point> = standing.into_values().collect();
        readings.sort_by(|one, other| one.at_seconds.total_cmp(&other.at_seconds));
        readings.drain(..readings.len().saturating_sub(TIMELINE_MAX));
        seen.then(|| Patient { patient: wanted.to_string(), readings })
    }

    /// What moved the probabilities of these observations' newest versions, as far as they are here.
    pub(super) fn contributions(&self, wanted: &[Pseudonym]) -> BTreeMap<Pseudonym, Vec<Contribution>> {
        let mut found = BTreeMap::new();
        let newest_first = self.batches.iter().rev();
        let rows = newest_first.flat_map(|batch| batch.scorable.readings.iter().zip(&batch.assessments).rev());
        for (reading, assessment) in rows {
            if found.len() == wanted.len() {
                break;
            }
            if wanted.contains(&reading.observation) {
                found.entry(reading.observation).or_insert_with(|| contributions(assessment));
            }
        }
        found
    }
}

fn point(batch: &Assessed, row: usize) -> Point {
    let (reading, assessment) = (&batch.scorable.readings[row], &batch.assessments[row]);
    let features = &batch.scorable.features[row * FEATURE_NAMES.len()..];
    let of = |name: &str| FEATURE_NAMES.iter().position(|known| *known == name).map(|at| features[at]);
    let known = |value: Option<f64>| value.filter(|value| value.is_finite());
    // The features say how many deviations a reading is away; one deviation is what makes that so.
    let deviation = |own: &str, baseline: &str, away: &str| {
        let (own, baseline, away) = (known(of(own))?, known(of(baseline))?, known(of(away))?);
        known(Some((own - baseline) / away))
    };
    Point {
        observation: reading.observation.to_string(),
        at_seconds: seconds(reading.facts.at),
        systolic_mmhg: reading.facts.signals.get(SYSTOLIC),
        diastolic_mmhg: reading.facts.signals.get(DIASTOLIC),
        systolic_baseline_mmhg: known(of("systolic_baseline")),
        systolic_deviation_mmhg: deviation("systolic", "systolic_baseline", "systolic_baseline_deviation"),
        diastolic_baseline_mmhg: known(of("diastolic_baseline")),
        diastolic_deviation_mmhg: deviation("diastolic", "diastolic_baseline", "diastolic_baseline_deviation"),
        category: assessment.category,
        reasons: assessment.reasons.to_vec(),
        alarm: assessment.alarm,
        probability: known(assessment.probability),
        contributions: contributions(assessment),
        late: reading.facts.timeliness != Timeliness::OnTime,
    }
}

fn contributions(assessment: &Assessment) -> Vec<Contribution> {
    let named = |(index, log_odds): &(u8, f64)| {
        let feature = FEATURE_NAMES.get(usize::from(*index)).copied()?;
        log_odds.is_finite().then_some(Contribution { feature, log_odds: *log_odds })
    };
    assessment.contributions.iter().filter_map(named).collect()
}

fn seconds(at: EventTime) -> f64 {
    at.micros() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    //! What these prove: the newest version of each reading stands, of the patient alone, in the order of measurement; and the limits.

    use super::*;
    use crate::score::FEATURES;
    use crate::vocabulary::{Scorable, Status};

    const SECOND: i64 = 1_000_000;

    fn id(number: u8) -> Pseudonym {
        Pseudonym([number; 16])
    }

    /// A batch of readings: patient, observation, second of measurement.
    fn batch(rows: &[(u8, u8, i64)]) -> Assessed {
        let mut batch = Assessed::default();
        for (patient, observation, second) in rows {
            let mut reading = Reading { patient: id(*patient), observation: id(*observation), ..Reading::default() };
            reading.facts.at = EventTime::from_micros(second * SECOND);
            let mut features = [f64::NAN; FEATURES];
            (features[0], features[14], features[15]) = (150.0, 120.0, 3.0);
            batch.scorable.readings.push(reading);
            batch.scorable.features.extend(features);
            batch.assessments.push(Assessment {
                contributions: smallvec::smallvec![(0, 1.5), (14, -0.25)],
                ..Assessment::default()
            });
        }
        batch
    }

    fn seconds_of(recent: &Recent, patient: u8) -> Vec<f64> {
        recent.patient(id(patient)).map_or_else(Vec::new, |found| found.readings.iter().map(|p| p.at_seconds).collect())
    }

    #[test]
    fn a_patient_is_told_in_the_order_of_measurement_with_what_was_usual_before() {
        let mut recent = Recent::default();
        recent.keep(batch(&[(1, 10, 30), (2, 11, 5), (1, 12, 20)]).into());
        recent.keep(batch(&[(1, 13, 25)]).into());
        assert_eq!(seconds_of(&recent, 1), [20.0, 25.0, 30.0]);
        assert_eq!(recent.patient(id(3)), None);
        let point = recent.patient(id(2)).unwrap().readings.remove(0);
        assert_eq!((point.systolic_baseline_mmhg, point.systolic_deviation_mmhg), (Some(120.0), Some(10.0)));
        assert_eq!((point.diastolic_baseline_mmhg, point.diastolic_deviation_mmhg), (None, None));
        let told = [("systolic", 1.5), ("systolic_baseline", -0.25)];
        assert_eq!(point.contributions, told.map(|(feature, log_odds)| Contribution { feature, log_odds }));
    }

    #[test]
    fn the_newest_version_stands_and_a_withdrawn_one_is_left_out() {
        let mut recent = Recent::default();
        recent.keep(batch(&[(1, 10, 30), (1, 11, 31), (1, 10, 40)]).into());
        assert_eq!(seconds_of(&recent, 1), [31.0, 40.0]);
        let mut withdrawal = batch(&[(1, 11, 31)]);
        withdrawal.scorable.readings[0].facts.status = Status::EnteredInError;
        recent.keep(withdrawal.into());
        assert_eq!(seconds_of(&recent, 1), [40.0]);
        assert_eq!(recent.contributions(&[id(10), id(99)]).keys().collect::<Vec<_>>(), [&id(10)]);
    }

    #[test]
    fn nobody_is_told_of_an_epoch_that_is_not_claimed() {
        let mut recent = Recent::default();
        recent.push(5, batch(&[(1, 10, 10)]).into());
        recent.push(6, batch(&[(1, 11, 20)]).into());
        recent.push(5, batch(&[(1, 12, 30)]).into());
        assert_eq!((recent.patient(id(1)), recent.contributions(&[id(10)]).len()), (None, 0));
        recent.release(5);
        assert_eq!((seconds_of(&recent, 1), recent.readings_ahead), (vec![10.0, 30.0], 1));
        recent.push(5, batch(&[(1, 13, 40)]).into());
        assert_eq!(seconds_of(&recent, 1), [10.0, 30.0, 40.0], "it comes late, and is claimed");
        recent.release(4);
        recent.release(6);
        assert_eq!((seconds_of(&recent, 1).len(), recent.readings_ahead, recent.ahead.len()), (4, 0, 0));
    }

    #[test]
    fn what_nobody_claims_stays_within_the_limit_too() {
        let mut recent = Recent::default();
        let many: Vec<(u8, u8, i64)> = (0..1_000).map(|second| (1, 0, second)).collect();
        for epoch in 1..40 {
            recent.push(epoch, batch(&many).into());
            assert!(recent.readings_ahead <= READINGS_MAX);
        }
        recent.release(Epoch::MAX);
        assert_eq!((recent.batches.len(), recent.readings_ahead), (READINGS_MAX / 1_000, 0));
    }

    #[test]
    fn the_oldest_go_at_the_limit() {
        let mut recent = Recent::default();
        let many: Vec<(u8, u8, i64)> = (0..1_000).map(|second| (1, (second % 250) as u8, second)).collect();
        for _ in 0..40 {
            recent.keep(batch(&many).into());
            assert!(recent.readings <= READINGS_MAX && recent.readings == recent.batches.len() * 1_000);
        }
        assert_eq!(recent.batches.len(), READINGS_MAX / 1_000);
        let huge: Vec<(u8, u8, i64)> = (0..READINGS_MAX as i64 + 1).map(|second| (2, 0, second)).collect();
        recent.keep(batch(&huge).into());
        assert_eq!(
            (recent.batches.len(), seconds_of(&recent, 1)),
            (1, Vec::new()),
            "a batch beyond the limit stands alone"
        );
        recent.keep(batch(&[(3, 1, 1)]).into());
        assert_eq!(recent.readings, 1);
        recent.keep(Assessed { scorable: Scorable::default(), assessments: Vec::new() }.into());
        assert_eq!(recent.batches.len(), 1, "an empty batch takes no place");
    }
}
