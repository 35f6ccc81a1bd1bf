//! The optimum against its own gradient, against slow gradient ascent, and on data whose truth is known.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::vocabulary::FEATURE_NAMES;

fn random_design(seed: u64, rows: usize, columns: usize) -> (Array2<f64>, Vec<bool>) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let design = Array2::from_shape_fn(
        (rows, columns),
        |(_, column)| {
            if column == 0 { 1.0 } else { random.random_range(-2.0..2.0) }
        },
    );
    let labels = design.outer_iter().map(|row| random.random_bool(sigmoid(-1.0 + row[1] - 0.5 * row[2]))).collect();
    (design, labels)
}

#[test]
fn the_derivatives_are_those_of_the_objective() {
    let (design, labels) = random_design(1, 60, 4);
    let at = Array1::from(vec![0.3, -0.7, 1.1, 0.2]);
    let (gradient, curvature) = derivatives(&design, &labels, 0.8, &at);
    let step = 1e-5;
    let moved = |column: usize, by: f64| {
        let mut moved = at.clone();
        moved[column] += by;
        moved
    };
    for column in 0..4 {
        let value = |by| objective(&design, &labels, 0.8, &moved(column, by));
        let numeric = (value(step) - value(-step)) / (2.0 * step);
        assert!((numeric - gradient[column]).abs() < 1e-6, "{numeric} {}", gradient[column]);
        let slope = |by| derivatives(&design, &labels, 0.8, &moved(column, by)).0;
        let numeric = (slope(-step) - slope(step)) / (2.0 * step);
        for other in 0..4 {
            assert!((numeric[other] - curvature[[other, column]]).abs() < 1e-6);
        }
    }
}

#[test]
fn newton_arrives_where_slow_gradient_ascent_arrives() {
    for ridge in [0.01, 1.0, 25.0] {
        let (design, labels) = random_design(2, 60, 4);
        let fast = fit(&design, &labels, ridge).unwrap();
        let mut slow = Array1::zeros(4);
        for _ in 0..600 {
            slow = &slow + &(derivatives(&design, &labels, ridge, &slow).0 * 0.02);
        }
        assert!(fast.iter().zip(&slow).all(|(a, b): (&f64, &f64)| (a - b).abs() < 1e-8), "{fast} {slow}");
    }
}

#[test]
fn a_system_of_equations_is_solved() {
    let a = ndarray::array![[4.0, 2.0, 0.6], [2.0, 5.0, 1.0], [0.6, 1.0, 3.0]];
    let x = ndarray::array![1.0, -2.0, 0.5];
    let solved = solve(a.clone(), a.dot(&x)).unwrap();
    assert!(solved.iter().zip(&x).all(|(a, b)| (a - b).abs() < 1e-12));
    assert!(solve(ndarray::array![[1.0, 2.0], [2.0, 1.0]], ndarray::array![1.0, 1.0]).is_none());
}

/// Patients with a systolic level of their own; the label's log-odds are −2 + 1.2 · (systolic − 130) / 20 + 0.5 · (age − 60) / 10.
fn patients(seed: u64, patients: u64, readings: usize) -> Vec<LabelledReading> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let column = |name| FEATURE_NAMES.iter().position(|feature| *feature == name).unwrap();
    let (mean, pulse, age_years) = (column("systolic_mean"), column("pulse_pressure"), column("age_years"));
    let mut rows = Vec::new();
    for patient in 0..patients {
        let level = random.random_range(100.0..160.0);
        let age: f64 = random.random_range(40.0..80.0);
        for _ in 0..readings {
            let systolic: f64 = level + random.random_range(-15.0..15.0);
            let diastolic = systolic * 0.6 + random.random_range(-8.0..8.0);
            let mut features = [f64::NAN; FEATURES];
            (features[0], features[1], features[pulse]) = (systolic, diastolic, systolic - diastolic);
            features[mean] = 1.0;
            if random.random_bool(0.9) {
                features[age_years] = age;
            }
            let label = random.random_bool(sigmoid(-2.0 + 1.2 * (systolic - 130.0) / 20.0 + 0.05 * (age - 60.0)));
            rows.push(LabelledReading { features, label, patient });
        }
    }
    rows
}

#[test]
fn training_finds_the_truth_and_is_calibrated_on_patients_it_has_not_seen() {
    let rows = patients(5, 300, 10);
    let (model, card) = train(rows.into_iter(), &TrainSettings::new(Origin::Synthetic, 1)).unwrap();
    assert_eq!(model.card(), &card);
    assert_eq!((card.data.as_str(), card.clinical_use.as_str()), ("synthetic patients", "none"));
    assert_eq!(card.training.rows + card.held_out.rows, 3_000);
    assert_eq!(card.training.patients + card.held_out.patients, 300);
    assert!((50..100).contains(&card.held_out.patients), "{card:?}");
    assert!(card.auroc.unwrap() > 0.7, "{card:?}");
    assert!((card.calibration_slope.unwrap() - 1.0).abs() < 0.25, "{card:?}");
    assert!(card.calibration_intercept.unwrap().abs() < 0.4, "{card:?}");
    // `systolic_mean` never varied and the other features were never there: neither is in the model.
    let file: ModelFile = serde_json::from_slice(model.bytes()).unwrap();
    let names: Vec<_> = file.features.iter().map(|term| term.name.as_str()).collect();
    assert_eq!(names, ["systolic", "diastolic", "pulse_pressure", "age_years"]);
    // Without weights the mean probability is the share of positives.
    let age = &file.features[3];
    assert!((age.coefficient / age.scale - 0.05).abs() < 0.02, "{age:?}");
}

#[test]
fn without_weights_the_mean_probability_is_the_share_of_positives() {
    let rows = patients(6, 60, 10);
    let settings = TrainSettings { held_out: 0.0, ..TrainSettings::new(Origin::Labelled, 1) };
    let (model, card) = train(rows.iter().copied(), &settings).unwrap();
    assert_eq!((card.held_out.rows, card.auroc, card.brier, card.calibration_slope), (0, None, None, None));
    assert_eq!(card.clinical_use, "not established");
    let features: Vec<f64> = rows.iter().flat_map(|row| row.features).collect();
    let view = ArrayView2::from_shape((rows.len(), FEATURES), &features).unwrap();
    let total: f64 = model.score(view, &mut Scratch::default()).map(|scored| scored.unwrap().probability).sum();
    assert!((total - card.training.positives as f64).abs() < 1e-6);
}

#[test]
fn separable_data_have_a_finite_model() {
    let rows = (0..200u64).map(|patient| {
        let mut features = [f64::NAN; FEATURES];
        (features[0], features[1]) = (100.0 + patient as f64 / 2.0, 80.0);
        LabelledReading { features, label: patient >= 100, patient }
    });
    let (model, card) = train(rows, &TrainSettings::new(Origin::Labelled, 1)).unwrap();
    assert_eq!((card.auroc, card.calibration_slope), (Some(1.0), None));
    let file: ModelFile = serde_json::from_slice(model.bytes()).unwrap();
    assert!(file.features[0].coefficient.is_finite() && file.features[0].coefficient < 20.0);
}

#[test]
fn the_split_is_by_patient_and_does_not_depend_on_the_order_of_rows() {
    let settings = TrainSettings::new(Origin::Synthetic, 9);
    let rows = patients(7, 80, 3);
    let forwards = split(rows.iter().copied(), &settings).unwrap();
    let backwards = split(rows.iter().rev().copied(), &settings).unwrap();
    let set = |rows: &Rows| rows.patients.iter().copied().collect::<BTreeSet<_>>();
    assert_eq!(set(&forwards.training), set(&backwards.training));
    assert!(set(&forwards.training).is_disjoint(&set(&forwards.held_out)));
    let other = split(rows.iter().copied(), &TrainSettings { seed: 10, ..settings }).unwrap();
    assert_ne!(set(&other.held_out), set(&forwards.held_out));
}

#[test]
fn the_same_rows_give_the_same_file_and_other_rows_another() {
    let settings = TrainSettings::new(Origin::Synthetic, 1);
    let file = |rows: Vec<LabelledReading>| train(rows.into_iter(), &settings).unwrap().0.bytes().to_vec();
    let once = file(patients(8, 40, 5));
    assert_eq!(once, file(patients(8, 40, 5)));
    let sha = |bytes: &[u8]| serde_json::from_slice::<ModelFile>(bytes).unwrap().training_sha256;
    let mut changed = patients(8, 40, 5);
    for row in &mut changed {
        row.features[2] = 1.0;
    }
    assert_ne!(sha(&once), sha(&file(changed)));
}

#[test]
fn rows_that_cannot_train_are_refused_or_left_out() {
    let settings = TrainSettings { held_out: 0.0, ..TrainSettings::new(Origin::Labelled, 1) };
    let refused = |rows: Vec<LabelledReading>, settings: &TrainSettings| {
        train(rows.into_iter(), settings).unwrap_err().to_string()
    };
    assert!(refused(vec![], &settings).contains("0 of 0 training rows"));
    let mut rows = patients(9, 10, 4);
    rows.iter_mut().for_each(|row| row.label = true);
    assert!(refused(rows.clone(), &settings).contains("40 of 40 training rows are labelled 1"));
    rows.iter_mut().enumerate().for_each(|(index, row)| {
        row.label = index % 2 == 0;
        row.features = [120.0; FEATURES];
    });
    assert!(refused(rows, &settings).contains("no feature varies"));
    let bad = TrainSettings { ridge: 0.0, ..settings.clone() };
    assert!(refused(vec![], &bad).contains("the ridge must be greater than 0, got 0"));
    let bad = TrainSettings { held_out: 1.0, ..settings.clone() };
    assert!(refused(vec![], &bad).contains("less than 1, got 1"));

    let mut rows = patients(9, 30, 4);
    rows[0].features[1] = f64::NAN;
    let (_, card) = train(rows.into_iter(), &settings).unwrap();
    assert_eq!((card.rows_without_pressure, card.training.rows), (1, 119));
}
