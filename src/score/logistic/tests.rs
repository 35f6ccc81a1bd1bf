//! The model's file is read strictly; a row's score does not depend on the batch it came in.

use ndarray::Array2;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::score::FEATURES;

fn term(name: &str, mean: f64, scale: f64, coefficient: f64) -> Term {
    Term { name: name.into(), mean, scale, coefficient, imputation: mean }
}

pub(super) fn file() -> ModelFile {
    ModelFile {
        format: FORMAT.into(),
        features: vec![
            term("age_years", 60.0, 10.0, 0.5),
            term("systolic", 120.0, 20.0, 1.5),
            term("systolic_slope_per_hour", 0.0, 4.0, -2.0),
            term("diastolic", 80.0, 10.0, 0.25),
        ],
        intercept: -1.0,
        risk_levels: RiskLevels { moderate: 0.2, high: 0.5 },
        training_sha256: "0".repeat(64),
        card: Card {
            data: "synthetic patients".into(),
            clinical_use: "none".into(),
            seed: 1,
            ridge: 1.0,
            training: Counts::default(),
            held_out: Counts::default(),
            rows_without_pressure: 0,
            auroc: None,
            brier: None,
            calibration_slope: None,
            calibration_intercept: None,
        },
    }
}

fn column(name: &str) -> usize {
    FEATURE_NAMES.iter().position(|feature| *feature == name).unwrap()
}

fn row(values: &[(&str, f64)]) -> Vec<f64> {
    let mut row = vec![f64::NAN; FEATURES];
    values.iter().for_each(|(name, value)| row[column(name)] = *value);
    row
}

fn score(model: &Logistic, rows: &[f64]) -> Vec<Option<Scored>> {
    let features = ArrayView2::from_shape((rows.len() / FEATURES, FEATURES), rows).unwrap();
    model.score(features, &mut Scratch::default()).collect()
}

#[test]
fn the_margin_is_the_sum_of_the_terms() {
    let model = Logistic::from_file(&file()).unwrap();
    let rows = row(&[("systolic", 160.0), ("diastolic", 90.0), ("age_years", 50.0), ("systolic_slope_per_hour", 1.0)]);
    let scored = score(&model, &rows).remove(0).unwrap();
    // −1 − 0.5 + 3 − 0.5 + 0.25
    assert!((scored.probability - 1.0 / (1.0 + (-1.25f64).exp())).abs() < 1e-15);
    assert_eq!(scored.risk_level, "HIGH");
    let age = column("age_years") as u8;
    let slope = column("systolic_slope_per_hour") as u8;
    // Equal sizes keep the file's order: age before slope.
    assert_eq!(scored.contributions.as_slice(), [(0, 3.0), (age, -0.5), (slope, -0.5)]);
}

#[test]
fn a_missing_feature_contributes_nothing_and_a_missing_pressure_forbids_a_score() {
    let model = Logistic::from_file(&file()).unwrap();
    let scored = score(&model, &row(&[("systolic", 100.0), ("diastolic", 80.0)])).remove(0).unwrap();
    assert!((scored.probability - sigmoid(-2.5)).abs() < 1e-15);
    assert_eq!(scored.contributions.as_slice(), [(0, -1.5)]);
    assert_eq!(scored.risk_level, "LOW");
    assert_eq!(score(&model, &row(&[("systolic", 100.0), ("age_years", 60.0)])), [None]);
    assert_eq!(score(&model, &row(&[("diastolic", 80.0)])), [None]);
    assert_eq!(score(&model, &row(&[("systolic", f64::INFINITY), ("diastolic", 80.0)])), [None]);
    assert_eq!(score(&model, &[]), []);
}

#[test]
fn risk_levels_begin_at_their_thresholds() {
    let mut exact = file();
    exact.features.truncate(2);
    exact.features[1].coefficient = 0.0;
    let level = |intercept: f64, moderate: f64, high: f64| {
        let file = ModelFile { intercept, risk_levels: RiskLevels { moderate, high }, ..exact.clone() };
        let model = Logistic::from_file(&file).unwrap();
        score(&model, &row(&[("systolic", 120.0), ("diastolic", 80.0)])).remove(0).unwrap().risk_level
    };
    assert_eq!(level(0.0, 0.2, 0.5), "HIGH");
    assert_eq!(level(0.0, 0.5, 0.6), "MODERATE");
    assert_eq!(level(0.0, 0.5f64.next_up(), 0.6), "LOW");
}

#[test]
fn a_score_does_not_depend_on_the_batch() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut file = file();
    file.features = FEATURE_NAMES
        .iter()
        .map(|name| {
            term(name, random.random_range(-9.0..9.0), random.random_range(0.1..9.0), random.random_range(-1.0..1.0))
        })
        .collect();
    let model = Logistic::from_file(&file).unwrap();
    let count = 500;
    let rows = Array2::from_shape_fn((count, FEATURES), |(_, column)| {
        if column > 1 && random.random_bool(0.1) { f64::NAN } else { random.random_range(-20.0..20.0) }
    });
    let rows = rows.as_slice().unwrap();
    let whole = score(&model, rows);
    let mut scratch = Scratch::default();
    let mut start = 0;
    while start < count {
        let end = count.min(start + random.random_range(1..40));
        let part = ArrayView2::from_shape((end - start, FEATURES), &rows[start * FEATURES..end * FEATURES]).unwrap();
        let part: Vec<_> = model.score(part, &mut scratch).collect();
        assert_eq!(part, whole[start..end]);
        start = end;
    }
    // And all of them are what one would work out by hand, up to rounding.
    for (row, scored) in rows.chunks(FEATURES).zip(&whole) {
        let terms = file.features.iter().zip(row).filter(|(_, value)| value.is_finite());
        let margin: f64 = terms.map(|(term, value)| term.coefficient * (value - term.mean) / term.scale).sum();
        assert!((scored.as_ref().unwrap().probability - sigmoid(file.intercept + margin)).abs() < 1e-12);
    }
}

#[test]
fn the_digest_is_of_the_bytes() {
    let model = Logistic::from_file(&file()).unwrap();
    assert_eq!(model.digest(), hex(&Sha256::digest(model.bytes())));
    assert_eq!(model.name(), &model.digest()[..12]);
    let again = Logistic::load(model.bytes()).unwrap();
    assert_eq!((again.digest(), again.bytes(), again.card()), (model.digest(), model.bytes(), model.card()));
    let spaced = [model.bytes(), b" "].concat();
    assert_ne!(Logistic::load(&spaced).unwrap().name(), model.name());
}

#[test]
fn a_file_that_is_not_understood_is_refused_with_a_reason() {
    let refused = |edit: fn(&mut ModelFile)| {
        let mut file = file();
        edit(&mut file);
        Logistic::from_file(&file).unwrap_err().to_string()
    };
    let expect = |error: String, part: &str| assert!(error.contains(part), "{error}");
    expect(
        refused(|file| file.features[1].scale = 0.0),
        "scale of feature \"systolic\" must be a finite number greater than 0, got 0",
    );
    expect(refused(|file| file.features[1].scale = -1.0), "got -1");
    expect(refused(|file| file.features[0].mean = f64::NAN), "invalid type: null");
    expect(refused(|file| file.intercept = f64::INFINITY), "invalid type: null");
    expect(
        refused(|file| file.features[3].name = "diastolik".into()),
        "feature \"diastolik\" is not known; known are systolic,",
    );
    expect(refused(|file| file.features[3].name = "systolic".into()), "feature \"systolic\" is listed twice");
    expect(refused(|file| file.features.clear()), "features must be a list of at least one feature");
    expect(refused(|file| file.risk_levels.moderate = 0.6), "risk_levels must be ascending between 0 and 1");
    expect(refused(|file| file.risk_levels.high = 1.0), "got 0.2 and 1");
    expect(
        refused(|file| file.training_sha256.truncate(63)),
        "training_sha256 must be 64 lower-case hexadecimal digits",
    );
    expect(
        refused(|file| file.format = "windkessel.logistic/2".into()),
        "format is \"windkessel.logistic/2\", this version reads",
    );

    let text = String::from_utf8(Logistic::from_file(&file()).unwrap().bytes().to_vec()).unwrap();
    let load = |text: &str| Logistic::load(text.as_bytes()).unwrap_err().to_string();
    expect(load(&text.replace("\"intercept\"", "\"bias\"")), "unknown field `bias`");
    expect(load(&text.replace("\"intercept\": -1.0,", "")), "missing field `intercept`");
    expect(load(&text.replace("\"intercept\": -1.0", "\"intercept\": 1e999")), "out of range");
    expect(load(&text.replace("\"intercept\": -1.0", "\"intercept\": NaN")), "line");
    expect(load(&text.replace("\"intercept\": -1.0,", "\"intercept\": -1.0, \"intercept\": 1.0,")), "duplicate field");
    expect(load("[1, 2]"), "written by `windkessel train`");
    expect(load(&format!("{text}x")), "trailing characters");
}
