//! The stage as a whole: which reading is told what, and that batches may be cut anywhere.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::logistic::ModelFile;
use super::*;
use crate::runtime::survive::testing::Saves;
use crate::signals::{DIASTOLIC, HEART_RATE, SYSTOLIC, SignalId};
use crate::vocabulary::{Demographics, Facts, Position, Pseudonym, Signals, Status, TopicId};

fn reading(number: u8, minutes: i64, values: &[(SignalId, f64)]) -> Reading {
    let mut signals = Signals::default();
    assert!(values.iter().all(|&(signal, value)| signals.insert(signal, value)));
    let at = EventTime::from_micros(minutes * 60_000_000);
    Reading {
        patient: Pseudonym([1; 16]),
        observation: Pseudonym([number; 16]),
        facts: Facts { at, signals, ..Facts::default() },
    }
}

fn pressures(number: u8, minutes: i64, systolic: f64, diastolic: f64) -> Reading {
    reading(number, minutes, &[(SYSTOLIC, systolic), (DIASTOLIC, diastolic)])
}

/// What `patient` would make of them, without history.
fn scorable(readings: Vec<Reading>) -> Scorable {
    let mut features = Vec::new();
    for reading in &readings {
        let mut row = [f64::NAN; FEATURES];
        row[0] = reading.facts.signals.get(SYSTOLIC).unwrap_or(f64::NAN);
        row[1] = reading.facts.signals.get(DIASTOLIC).unwrap_or(f64::NAN);
        features.extend(row);
    }
    let demographics = vec![Demographics::default(); readings.len()];
    let replaces = vec![false; readings.len()];
    Scorable { readings, features, demographics, replaces, ..Scorable::default() }
}

fn model() -> Arc<Logistic> {
    let file: ModelFile = serde_json::from_value(serde_json::json!({
        "format": "windkessel.logistic/1",
        "features": [{"name": "systolic", "mean": 120.0, "scale": 20.0, "coefficient": 1.0, "imputation": 120.0}],
        "intercept": 0.0,
        "risk_levels": {"moderate": 0.2, "high": 0.5},
        "training_sha256": "0".repeat(64),
        "card": {
            "data": "synthetic patients", "clinical_use": "none", "seed": 1, "ridge": 1.0,
            "training": {"rows": 0, "positives": 0, "patients": 0},
            "held_out": {"rows": 0, "positives": 0, "patients": 0},
            "rows_without_pressure": 0,
            "auroc": null, "brier": null, "calibration_slope": null, "calibration_intercept": null
        }
    }))
    .unwrap();
    Arc::new(Logistic::from_file(&file).unwrap())
}

fn one(reading: Reading) -> Assessment {
    let spec = ScoreSpec { alarm_k: 1, alarm_n: 1, ..ScoreSpec::default() };
    let mut scorer = Scorer::new(&spec, Some(model())).unwrap();
    scorer.score(scorable(vec![reading])).assessments.remove(0)
}

#[test]
fn a_complete_reading_is_told_everything() {
    let told = one(pressures(1, 0, 185.0, 80.0));
    assert_eq!(told.category, Some("crisis"));
    assert_eq!(told.reasons.as_slice(), ["systolic_crisis"]);
    assert!(told.alarm);
    assert_eq!(told.risk_level, Some("HIGH"));
    assert_eq!(told.contributions.as_slice(), [(0, 3.25)]);
    assert!((told.probability.unwrap() - 1.0 / (1.0 + (-3.25f64).exp())).abs() < 1e-15);
}

#[test]
fn hypertension_gives_a_reason_and_no_alarm() {
    let told = one(pressures(1, 0, 150.0, 80.0));
    assert_eq!(
        (told.category, told.reasons.as_slice(), told.alarm),
        (Some("stage 2"), &["systolic_stage_2"][..], false)
    );
}

#[test]
fn partial_readings_have_no_category_alarm_or_probability() {
    let told = one(reading(1, 0, &[(SYSTOLIC, 60.0)]));
    assert_eq!((told.category, told.alarm, told.probability), (None, false, None));
    assert_eq!(told.reasons.as_slice(), ["hypotension_systolic"]);
    assert_eq!(one(reading(1, 0, &[(HEART_RATE, 70.0)])), Assessment::default());
}

#[test]
fn withdrawn_summary_day_and_too_late_readings_do_not_alarm() {
    let changed = |change: fn(&mut Facts)| {
        let mut reading = pressures(1, 0, 185.0, 80.0);
        change(&mut reading.facts);
        one(reading)
    };
    assert_eq!(changed(|facts| facts.status = Status::EnteredInError), Assessment::default());
    assert_eq!(changed(|facts| facts.status = Status::Cancelled), Assessment::default());
    let summary = changed(|facts| facts.summary = true);
    assert_eq!((summary.category, summary.alarm, summary.probability), (Some("crisis"), false, None));
    for told in [
        changed(|facts| facts.precision = Precision::Day),
        changed(|facts| facts.timeliness = Timeliness::TooLate),
        changed(|facts| facts.timeliness = Timeliness::Late),
    ] {
        assert_eq!((told.category, told.alarm, told.probability.is_some()), (Some("crisis"), false, true));
    }
}

#[test]
fn readings_that_do_not_count_neither_raise_nor_clear() {
    let spec = ScoreSpec::default();
    let mut scorer = Scorer::new(&spec, None).unwrap();
    let mut summary = pressures(2, 1, 120.0, 80.0);
    summary.facts.summary = true;
    let mut too_late = pressures(3, 2, 120.0, 80.0);
    too_late.facts.timeliness = Timeliness::TooLate;
    let readings = vec![
        pressures(1, 0, 85.0, 70.0),
        summary,
        too_late,
        reading(4, 3, &[(SYSTOLIC, 120.0)]),
        pressures(5, 4, 85.0, 70.0),
    ];
    let alarms: Vec<_> = scorer.score(scorable(readings)).assessments.iter().map(|told| told.alarm).collect();
    assert_eq!(alarms, [false, false, false, false, true]);
    assert_eq!(scorer.take_alarms().collect::<Vec<_>>(), [("hypotension_systolic", 1)]);
    assert_eq!(scorer.take_alarms().count(), 0);
    assert_eq!(scorer.firing(), 1);
    let ended = |number| crate::vocabulary::Tick {
        partition: crate::vocabulary::Partition { number, ..Default::default() },
        watermark: EventTime::MAX,
        idle: false,
    };
    scorer.score(Scorable { progress: vec![ended(1_000)], ..Scorable::default() });
    assert_eq!(scorer.firing(), 1, "another partition");
    let own = pressures(1, 0, 85.0, 70.0).facts.position.partition.number;
    scorer.score(Scorable { progress: vec![ended(own)], ..Scorable::default() });
    assert_eq!(scorer.firing(), 0, "a partition that has ended is forgotten");
}

#[test]
fn a_withdrawn_reading_takes_its_firing_back() {
    let mut scorer = Scorer::new(&ScoreSpec::default(), None).unwrap();
    let mut withdrawn = reading(1, 0, &[]);
    withdrawn.facts.status = Status::EnteredInError;
    withdrawn.facts.timeliness = Timeliness::TooLate;
    let readings = vec![pressures(1, 0, 85.0, 70.0), withdrawn, pressures(2, 5, 85.0, 70.0)];
    assert!(scorer.score(scorable(readings)).assessments.iter().all(|told| !told.alarm));
}

#[test]
fn the_own_baseline_counts_from_six_readings_on() {
    let reasons = |count: f64| {
        let mut scorable = scorable(vec![pressures(1, 0, 100.0, 70.0)]);
        scorable.features[RECENT_READINGS] = count;
        scorable.features[SYSTOLIC_BASELINE] = 150.0;
        let mut scorer = Scorer::new(&ScoreSpec::default(), None).unwrap();
        scorer.score(scorable).assessments.remove(0).reasons
    };
    assert!(reasons(5.0).is_empty());
    assert_eq!(reasons(6.0).as_slice(), ["below_baseline"]);
}

#[test]
fn the_columns_of_the_features_are_where_they_are_looked_for() {
    assert_eq!(FEATURE_NAMES[..2], ["systolic", "diastolic"]);
    assert_eq!(FEATURE_NAMES[RECENT_READINGS], "recent_readings");
    assert_eq!(FEATURE_NAMES[SYSTOLIC_BASELINE], "systolic_baseline");
}

#[test]
fn an_unknown_rule_set_is_refused_with_the_known_ones() {
    let spec = ScoreSpec { rules: "seed".into(), ..ScoreSpec::default() };
    let error = Scorer::new(&spec, None).err().unwrap();
    assert!(error.starts_with("score.rules names no rule set: \"seed\"; known are acc_aha_2017, esc_2024"), "{error}");
}

#[test]
fn batches_may_be_cut_anywhere_and_saved_state_carries_on() {
    for seed in 0..20 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let readings: Vec<Reading> = (0..400)
            .map(|index| {
                let systolic = random.random_range(70.0..200.0);
                let mut reading = pressures(random.random_range(0..=255), index * 3, systolic, systolic * 0.6);
                reading.patient = Pseudonym([random.random_range(0..4); 16]);
                let partition = Partition { topic: TopicId(0), number: random.random_range(0..2) };
                reading.facts.position = Position { partition, offset: index, entry: 0 };
                reading
            })
            .collect();
        let mut scorer = Scorer::new(&ScoreSpec::default(), Some(model())).unwrap();
        let whole = scorer.score(scorable(readings.clone()));
        let mut scorers = [Scorer::new(&ScoreSpec::default(), Some(model())).unwrap()];
        let (mut parts, mut saves) = (Vec::new(), Saves::default());
        let mut left = readings.as_slice();
        while !left.is_empty() {
            let (part, rest) = left.split_at(random.random_range(1..=left.len().min(50)));
            parts.extend(scorers[0].score(scorable(part.to_vec())).assessments);
            saves.save(if random.random_bool(0.2) { Extent::All } else { Extent::Changed }, &mut scorers);
            scorers = [Scorer::new(&ScoreSpec::default(), Some(model())).unwrap()];
            saves.load(&mut scorers);
            left = rest;
        }
        assert_eq!(parts, whole.assessments, "seed {seed}");
        assert!(parts.iter().any(|told| told.alarm), "seed {seed} should alarm somewhere");
    }
}
