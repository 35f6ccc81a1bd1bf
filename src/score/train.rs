//! Training of the logistic model: iteratively reweighted least squares with a ridge, on patients split from those it is measured on.
//!
//! ```text
//! rows ─split by patient─┬─ training ─> mean, scale ─> standardise, impute ─> IRLS ─> model file
//!                        └─ held out ─────────────────────────────────────> AUROC, Brier, calibration ─> card
//! ```
//!
//! Choices:
//! * *Method.* Newton's method on the penalised log-likelihood, which for the logistic link is iteratively reweighted least squares
//!   (McCullagh and Nelder, Generalized Linear Models, 2nd ed. 1989, section 2.5), with a ridge on the standardised coefficients and
//!   none on the intercept (le Cessie and van Houwelingen, Applied Statistics 1992;41:191-201). The penalty is λ/2 · Σ β², so λ is
//!   scikit-learn's 1/C. It makes the optimum finite and unique where features are collinear (pulse pressure is a difference of two
//!   others) or separate the classes.
//! * *Imbalance* is not weighted. Weights would move every probability away from the share of positives it promises, and thresholds
//!   on the probability already choose between misses and false alarms. Calibration is measured on held-out patients instead.
//! * *Split* by a hash of (seed, patient): readings of one patient resemble each other, so a split by row would measure memory.
//!   It does not depend on the order of the rows.
//! * *Features* that never vary in the training rows (or are always missing) are left out of the model.
//!
//! Deterministic: the same rows and settings give the same file on the same kind of processor (the last bits of sums may differ
//! between kinds with and without fused multiply-add).
//!
//! Limits: [`ROWS_MAX`] rows, all in memory, 170 bytes each, as much again while fitting.

use std::collections::BTreeSet;

use ndarray::{Array1, Array2, ArrayView2, Axis};
use sha2::{Digest, Sha256};

use super::labelled::LabelledReading;
use super::logistic::{Card, Counts, FORMAT, Logistic, ModelError, ModelFile, RiskLevels, Scratch, Term, sigmoid};
use super::{FEATURES, measure};
use crate::vocabulary::FEATURE_NAMES;

/// More rows than this are refused: they are held in memory.
pub const ROWS_MAX: usize = 5_000_000;

/// Newton steps; ten are usual.
const STEPS_MAX: u32 = 100;

/// Halvings of one step that would go downhill.
const HALVINGS_MAX: u32 = 30;

/// The optimum is reached when no component of the gradient exceeds this times the number of rows.
const GRADIENT_MAX_PER_ROW: f64 = 1e-10;

/// Rows that are multiplied at a time.
const CHUNK_ROWS: usize = 4_096;

/// How to train.
#[derive(Clone, Debug)]
pub struct TrainSettings {
    /// What the rows are: says what the model may be used for.
    pub origin: Origin,
    /// Chooses who is held out.
    pub seed: u64,
    /// Share of patients that are held out, at least 0 and less than 1.
    pub held_out: f64,
    /// λ, greater than 0.
    pub ridge: f64,
    /// Where risk levels begin.
    pub risk_levels: RiskLevels,
}

impl TrainSettings {
    /// A quarter of patients held out, λ = 1; `MODERATE` from one in five and `HIGH` from evens on, which are conventions, not clinical cuts.
    pub fn new(origin: Origin, seed: u64) -> Self {
        TrainSettings { origin, seed, held_out: 0.25, ridge: 1.0, risk_levels: RiskLevels { moderate: 0.2, high: 0.5 } }
    }
}

/// Where rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The generator: such a model has no clinical use.
    Synthetic,
    /// A file of somebody's own.
    Labelled,
}

impl Origin {
    /// The card's `data` and `clinical_use`.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Origin::Synthetic => ("synthetic patients", "none"),
            Origin::Labelled => ("labelled rows", "not established"),
        }
    }
}

/// A model could not be trained.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A setting that cannot work.
    #[error("could not train: {0}")]
    Setting(String),
    /// More than [`ROWS_MAX`].
    #[error("could not train: more than {ROWS_MAX} rows; they are held in memory, so give fewer")]
    TooManyRows,
    /// No positives or no negatives among the training rows.
    #[error(
        "could not train: {positives} of {rows} training rows are labelled 1, both labels are needed; \
         give more rows or patients (rows without both pressures are left out)"
    )]
    OneClass {
        /// Training rows.
        rows: u64,
        /// Of them positive.
        positives: u64,
    },
    /// Nothing varies.
    #[error("could not train: no feature varies in the training rows")]
    NoFeature,
    /// Newton's method did not arrive.
    #[error("could not train: no optimum was found in {STEPS_MAX} steps; a larger ridge helps when features are collinear")]
    NotConverged,
    /// The result is no valid model: a bug.
    #[error("could not train: {0}")]
    Model(#[from] ModelError),
}

/// Trains a model and measures it on held-out patients. The card is also in the model's file.
pub fn train(
    rows: impl Iterator<Item = LabelledReading>,
    settings: &TrainSettings,
) -> Result<(Logistic, Card), TrainError> {
    check(settings)?;
    let Split { training, held_out, rows_without_pressure } = split(rows, settings)?;
    let counts = training.counts();
    if counts.positives == 0 || counts.positives == counts.rows {
        return Err(TrainError::OneClass { rows: counts.rows, positives: counts.positives });
    }
    let mut terms = standardisation(&training.matrix());
    if terms.is_empty() {
        return Err(TrainError::NoFeature);
    }
    let design = design(&training.matrix(), &terms);
    let coefficients = fit(&design, &training.labels, settings.ridge)?;
    for (term, coefficient) in terms.iter_mut().zip(coefficients.iter().skip(1)) {
        term.coefficient = *coefficient;
    }
    let (data, clinical_use) = settings.origin.words();
    let mut file = ModelFile {
        format: FORMAT.into(),
        features: terms,
        intercept: coefficients[0],
        risk_levels: settings.risk_levels,
        training_sha256: training.fingerprint(),
        card: Card {
            data: data.into(),
            clinical_use: clinical_use.into(),
            seed: settings.seed,
            ridge: settings.ridge,
            training: counts,
            held_out: held_out.counts(),
            rows_without_pressure,
            auroc: None,
            brier: None,
            calibration_slope: None,
            calibration_intercept: None,
        },
    };
    measure_on(&held_out, &mut file)?;
    let model = Logistic::from_file(&file)?;
    Ok((model, file.card))
}

fn check(settings: &TrainSettings) -> Result<(), TrainError> {
    if !(settings.ridge > 0.0 && settings.ridge.is_finite()) {
        let ridge = settings.ridge;
        return Err(TrainError::Setting(format!("the ridge must be greater than 0, got {ridge}")));
    }
    if !(0.0..1.0).contains(&settings.held_out) {
        let share = settings.held_out;
        return Err(TrainError::Setting(format!("the share held out must be at least 0 and less than 1, got {share}")));
    }
    Ok(())
}

// ---------------------------------------------------------------- rows

/// Rows on one side of the split.
#[derive(Default)]
struct Rows {
    /// Row-major, [`FEATURES`] columns.
    features: Vec<f64>,
    labels: Vec<bool>,
    /// Whose each row is, in the order of rows.
    patients: Vec<u64>,
}

struct Split {
    training: Rows,
    held_out: Rows,
    rows_without_pressure: u64,
}

fn split(rows: impl Iterator<Item = LabelledReading>, settings: &TrainSettings) -> Result<Split, TrainError> {
    let mut split = Split { training: Rows::default(), held_out: Rows::default(), rows_without_pressure: 0 };
    for row in rows {
        if !row.features[..2].iter().all(|pressure| pressure.is_finite()) {
            split.rows_without_pressure += 1;
            continue;
        }
        let side = if is_held_out(row.patient, settings) { &mut split.held_out } else { &mut split.training };
        side.features.extend(row.features);
        side.labels.push(row.label);
        side.patients.push(row.patient);
        if split.training.labels.len() + split.held_out.labels.len() > ROWS_MAX {
            return Err(TrainError::TooManyRows);
        }
    }
    Ok(split)
}

/// Whether a patient is held out: a share of a hash of seed and patient.
fn is_held_out(patient: u64, settings: &TrainSettings) -> bool {
    // The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), once over the seed and once over both.
    let mix = |mut bits: u64| {
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    };
    let hash = mix(mix(settings.seed.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ patient);
    // 53 bits make a fraction that a double holds exactly.
    ((hash >> 11) as f64) < settings.held_out * (1u64 << 53) as f64
}

impl Rows {
    fn matrix(&self) -> ArrayView2<'_, f64> {
        ArrayView2::from_shape((self.labels.len(), FEATURES), &self.features).expect("a row is pushed whole")
    }

    fn counts(&self) -> Counts {
        Counts {
            rows: self.labels.len() as u64,
            positives: self.labels.iter().filter(|&&label| label).count() as u64,
            patients: self.patients.iter().collect::<BTreeSet<_>>().len() as u64,
        }
    }

    /// SHA-256 over the rows: features as little-endian doubles (every NaN alike), label byte, patient.
    fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for ((features, label), patient) in self.features.chunks_exact(FEATURES).zip(&self.labels).zip(&self.patients) {
            for &value in features {
                let canonical = if value.is_nan() { f64::NAN } else { value };
                hash.update(canonical.to_le_bytes());
            }
            hash.update([u8::from(*label)]);
            hash.update(patient.to_le_bytes());
        }
        super::logistic::hex(&hash.finalize())
    }
}

// ---------------------------------------------------------------- standardisation

/// A term for every feature that varies: mean and standard deviation (n in the denominator) over its known values.
fn standardisation(matrix: &ArrayView2<'_, f64>) -> Vec<Term> {
    let mut terms = Vec::new();
    for (name, column) in FEATURE_NAMES.iter().zip(matrix.axis_iter(Axis(1))) {
        let known = || column.iter().copied().filter(|value| value.is_finite());
        let count = known().count() as f64;
        let mean = known().sum::<f64>() / count;
        let scale = (known().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
        // A constant column's deviation is rounding, some 1e-16 of its mean; no vital sign varies that little.
        if scale > 1e-9 * mean.abs().max(1.0) {
            terms.push(Term { name: (*name).into(), mean, scale, coefficient: 0.0, imputation: mean });
        }
    }
    terms
}

/// Ones for the intercept, then the standardised terms, missing values at their mean.
fn design(matrix: &ArrayView2<'_, f64>, terms: &[Term]) -> Array2<f64> {
    let mut design = Array2::ones((matrix.nrows(), terms.len() + 1));
    for (index, term) in terms.iter().enumerate() {
        let column = FEATURE_NAMES.iter().position(|name| *name == term.name).expect("terms are made from the names");
        for (cell, &value) in design.column_mut(index + 1).iter_mut().zip(matrix.column(column)) {
            *cell = if value.is_finite() { (value - term.mean) / term.scale } else { 0.0 };
        }
    }
    design
}

// ---------------------------------------------------------------- the optimum

/// Coefficients that maximise Σ log p(label) − ridge/2 · Σ β², the first column of the design (the intercept) being unpenalised.
pub(super) fn fit(design: &Array2<f64>, labels: &[bool], ridge: f64) -> Result<Array1<f64>, TrainError> {
    let gradient_max = GRADIENT_MAX_PER_ROW * labels.len() as f64;
    let mut coefficients = Array1::zeros(design.ncols());
    let mut value = objective(design, labels, ridge, &coefficients);
    for _ in 0..STEPS_MAX {
        let (gradient, curvature) = derivatives(design, labels, ridge, &coefficients);
        if gradient.iter().all(|component| component.abs() <= gradient_max) {
            return Ok(coefficients);
        }
        let mut step = solve(curvature, gradient).ok_or(TrainError::NotConverged)?;
        let mut halvings = 0;
        loop {
            let next = &coefficients + &step;
            let next_value = objective(design, labels, ridge, &next);
            if next_value >= value {
                (coefficients, value) = (next, next_value);
                break;
            }
            // At the optimum rounding alone makes the value fall: then there is nothing left to gain.
            if halvings == HALVINGS_MAX {
                return Ok(coefficients);
            }
            step *= 0.5;
            halvings += 1;
        }
    }
    Err(TrainError::NotConverged)
}

/// The penalised log-likelihood.
fn objective(design: &Array2<f64>, labels: &[bool], ridge: f64, coefficients: &Array1<f64>) -> f64 {
    let margins = design.dot(coefficients);
    // log p(label) = −log(1 + exp(−m)) with m the margin towards the label, written so that it neither overflows nor cancels.
    let likelihood = |(&margin, &label): (&f64, &bool)| {
        let towards = if label { margin } else { -margin };
        towards.min(0.0) - (-towards.abs()).exp().ln_1p()
    };
    let penalty: f64 = coefficients.iter().skip(1).map(|coefficient| coefficient * coefficient).sum();
    margins.iter().zip(labels).map(likelihood).sum::<f64>() - 0.5 * ridge * penalty
}

/// Gradient Xᵀ(y − p) − λβ and negative Hessian XᵀWX + λI of the objective, W = p(1 − p).
fn derivatives(
    design: &Array2<f64>,
    labels: &[bool],
    ridge: f64,
    coefficients: &Array1<f64>,
) -> (Array1<f64>, Array2<f64>) {
    let columns = design.ncols();
    let mut gradient = Array1::zeros(columns);
    let mut curvature = Array2::zeros((columns, columns));
    for (rows, labels) in design.axis_chunks_iter(Axis(0), CHUNK_ROWS).zip(labels.chunks(CHUNK_ROWS)) {
        let probabilities = rows.dot(coefficients).mapv_into(sigmoid);
        let weights = probabilities.mapv(|p| p * (1.0 - p));
        let residuals: Array1<f64> =
            labels.iter().zip(&probabilities).map(|(&label, p)| f64::from(u8::from(label)) - p).collect();
        gradient += &rows.t().dot(&residuals);
        let weighted = &rows * &weights.insert_axis(Axis(1));
        curvature += &rows.t().dot(&weighted);
    }
    for index in 1..columns {
        gradient[index] -= ridge * coefficients[index];
        curvature[[index, index]] += ridge;
    }
    (gradient, curvature)
}

/// Solves A x = b for symmetric positive definite A by Cholesky's factorisation (Golub and Van Loan, Matrix Computations, 4.2);
/// `None` if A is not positive definite.
fn solve(mut a: Array2<f64>, mut b: Array1<f64>) -> Option<Array1<f64>> {
    let size = b.len();
    for column in 0..size {
        let pivot = a[[column, column]] - (0..column).map(|k| a[[column, k]] * a[[column, k]]).sum::<f64>();
        if pivot.is_nan() || pivot <= 0.0 {
            return None;
        }
        a[[column, column]] = pivot.sqrt();
        for row in column + 1..size {
            let rest = a[[row, column]] - (0..column).map(|k| a[[row, k]] * a[[column, k]]).sum::<f64>();
            a[[row, column]] = rest / a[[column, column]];
        }
    }
    for row in 0..size {
        b[row] = (b[row] - (0..row).map(|k| a[[row, k]] * b[k]).sum::<f64>()) / a[[row, row]];
    }
    for row in (0..size).rev() {
        b[row] = (b[row] - (row + 1..size).map(|k| a[[k, row]] * b[k]).sum::<f64>()) / a[[row, row]];
    }
    Some(b)
}

// ---------------------------------------------------------------- the card

/// Fills in what the model, as it would be loaded, does on held-out patients.
fn measure_on(held_out: &Rows, file: &mut ModelFile) -> Result<(), TrainError> {
    let model = Logistic::from_file(file)?;
    let mut scratch = Scratch::default();
    let matrix = held_out.matrix();
    let margins = model.margins(&matrix, &mut scratch);
    let calibration = measure::calibration(margins, &held_out.labels);
    file.card.auroc = measure::auroc(margins, &held_out.labels);
    file.card.brier = measure::brier(margins, &held_out.labels);
    file.card.calibration_intercept = calibration.map(|(intercept, _)| intercept);
    file.card.calibration_slope = calibration.map(|(_, slope)| slope);
    Ok(())
}

#[cfg(test)]
mod tests;
