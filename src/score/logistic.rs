//! The logistic model: its file, read strictly, and scoring of a batch.
//!
//! ```text
//! features (readings × FEATURE_NAMES) ─pick, impute, standardise─> z (readings × terms) ─· coefficients─> margin ─> probability
//! ```
//!
//! probability = 1 / (1 + exp(−margin)), margin = intercept + Σ coefficient · z, z = (value − mean) / scale.
//! A missing value is replaced by the file's imputation value, which `train` sets to the training mean, so that it contributes nothing;
//! a reading that lacks one of the two pressures gets no probability at all.
//!
//! Invariants:
//! 1. A row's numbers depend on that row alone: its terms are summed in the same order in a batch of one and of thousands.
//! 2. A file that is not fully understood is refused: unknown keys or features, numbers out of range, repetitions.
//! 3. The digest is of the file's bytes, so the `model` column tells two files apart that differ in anything.
//!
//! Not here: reading the file (the caller has the bytes), training ([`train`](super::train)), other kinds of models.

use std::fmt;

use ndarray::linalg::general_mat_vec_mul;
use ndarray::{ArrayView1, ArrayView2, ArrayViewMut1};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use crate::vocabulary::FEATURE_NAMES;

/// The `format` of a model file that this module reads and writes.
pub const FORMAT: &str = "windkessel.logistic/1";

/// Features that a reading's strongest contributions are chosen from: how many are named.
const CONTRIBUTIONS_MAX: usize = 3;

/// Hexadecimal digits of the digest in the `model` column.
const DIGEST_SHOWN: usize = 12;

/// Columns of the two pressures in [`FEATURE_NAMES`]: without either there is no probability.
const PRESSURES: [usize; 2] = [0, 1];

/// A model file as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// [`FORMAT`].
    pub format: String,
    /// The features it uses: any of [`FEATURE_NAMES`], in any order, each once. Terms are summed in this order.
    pub features: Vec<Term>,
    /// Log-odds where every feature is at its mean.
    pub intercept: f64,
    /// Where risk levels begin.
    pub risk_levels: RiskLevels,
    /// SHA-256 of the training rows, 64 hexadecimal digits.
    pub training_sha256: String,
    /// What is known of it.
    pub card: Card,
}

/// One feature of a model file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Term {
    /// One of [`FEATURE_NAMES`].
    pub name: String,
    /// Subtracted first; in the feature's unit.
    pub mean: f64,
    /// Divided by then; in the feature's unit, greater than zero.
    pub scale: f64,
    /// Log-odds a unit of the standardised feature.
    pub coefficient: f64,
    /// Stands for a missing value; in the feature's unit.
    pub imputation: f64,
}

/// Probabilities at which risk levels begin: `LOW` below `moderate`, `HIGH` from `high` on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RiskLevels {
    /// From here on `MODERATE`.
    pub moderate: f64,
    /// From here on `HIGH`.
    pub high: f64,
}

/// What is known of a model: how it was made and how well it did on patients it had not seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// What it was trained on: `synthetic patients` or `labelled rows`.
    pub data: String,
    /// `none` for synthetic patients; `not established` for rows that only their owner can judge.
    pub clinical_use: String,
    /// The seed of the split.
    pub seed: u64,
    /// The ridge penalty.
    pub ridge: f64,
    /// Rows with both pressures, trained on.
    pub training: Counts,
    /// Rows with both pressures, held out; no patient is in both.
    pub held_out: Counts,
    /// Rows left out because a pressure was missing.
    pub rows_without_pressure: u64,
    /// Area under the ROC curve, held out; absent if one class is missing there.
    pub auroc: Option<f64>,
    /// Mean squared error of the probability, held out; absent if nothing was held out.
    pub brier: Option<f64>,
    /// Slope of the held-out labels' log-odds on the margin: 1 is calibrated, below 1 overconfident.
    pub calibration_slope: Option<f64>,
    /// Intercept beside that slope: 0 is calibrated.
    pub calibration_intercept: Option<f64>,
}

/// How much data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Readings.
    pub rows: u64,
    /// Of them labelled positive.
    pub positives: u64,
    /// Patients they belong to.
    pub patients: u64,
}

/// A model file was refused. The text names the key, what is wrong and what would be right; the caller adds which file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// Not JSON of this shape; the text has line and column.
    #[error("could not read the model: {0}; a model file is written by `windkessel train`")]
    Shape(String),
    /// Another format.
    #[error("could not read the model: format is {0:?}, this version reads {FORMAT:?}")]
    Format(String),
    /// A feature that `patient` does not make.
    #[error("could not read the model: feature {0:?} is not known; known are {known}", known = FEATURE_NAMES.join(", "))]
    UnknownFeature(String),
    /// The same feature twice.
    #[error("could not read the model: feature {0:?} is listed twice")]
    RepeatedFeature(String),
    /// A number that cannot be worked with.
    #[error("could not read the model: {key} must be {demand}, got {value}")]
    Number {
        /// Where in the file.
        key: String,
        /// What it must be.
        demand: &'static str,
        /// What it is.
        value: String,
    },
}

/// A model, ready to score.
pub struct Logistic {
    /// Column in the matrix of features, by term.
    columns: Vec<u8>,
    mean: Vec<f64>,
    scale: Vec<f64>,
    /// The standardised value that stands for a missing one.
    imputed: Vec<f64>,
    coefficients: Vec<f64>,
    intercept: f64,
    risk_levels: RiskLevels,
    card: Card,
    digest: String,
    bytes: Box<[u8]>,
}

/// Buffers of a batch, kept so that they are allocated once.
#[derive(Debug, Default)]
pub struct Scratch {
    standardised: Vec<f64>,
    margins: Vec<f64>,
}

/// What a model says of one reading.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Between 0 and 1.
    pub probability: f64,
    /// `LOW`, `MODERATE` or `HIGH`.
    pub risk_level: &'static str,
    /// The terms that moved the margin most, by falling size: column in [`FEATURE_NAMES`] and log-odds. Terms of exactly 0 are left out.
    pub contributions: SmallVec<[(u8, f64); 3]>,
}

impl Logistic {
    /// Reads a model file.
    pub fn load(bytes: &[u8]) -> Result<Self, ModelError> {
        #[derive(Deserialize)]
        struct Kind {
            format: String,
        }
        let shape = |error: serde_json::Error| ModelError::Shape(error.to_string());
        // The format first: a file of a later version should be told apart, not blamed for a key.
        let Kind { format } = serde_json::from_slice(bytes).map_err(shape)?;
        if format != FORMAT {
            return Err(ModelError::Format(format));
        }
        let file: ModelFile = serde_json::from_slice(bytes).map_err(shape)?;
        check(&file)?;
        let terms = &file.features;
        let pick = |part: fn(&Term) -> f64| terms.iter().map(part).collect::<Vec<_>>();
        Ok(Logistic {
            columns: columns(terms)?,
            mean: pick(|term| term.mean),
            scale: pick(|term| term.scale),
            imputed: pick(|term| (term.imputation - term.mean) / term.scale),
            coefficients: pick(|term| term.coefficient),
            intercept: file.intercept,
            risk_levels: file.risk_levels,
            card: file.card,
            digest: hex(&Sha256::digest(bytes)),
            bytes: bytes.into(),
        })
    }

    /// The model of these contents, by way of the bytes that its file will have.
    pub(super) fn from_file(file: &ModelFile) -> Result<Self, ModelError> {
        let mut bytes = serde_json::to_vec_pretty(file).map_err(|error| ModelError::Shape(error.to_string()))?;
        bytes.push(b'\n');
        Logistic::load(&bytes)
    }

    /// The bytes of its file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// SHA-256 of its file, 64 hexadecimal digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The first 12 digits of [`Logistic::digest`]: the `model` column.
    pub fn name(&self) -> &str {
        &self.digest[..DIGEST_SHOWN]
    }

    /// What is known of it.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// Scores a batch: one item a row of `features` (columns as [`FEATURE_NAMES`], NaN where unknown), in order.
    pub fn score<'a>(
        &'a self,
        features: ArrayView2<'a, f64>,
        scratch: &'a mut Scratch,
    ) -> impl Iterator<Item = Option<Scored>> + 'a {
        self.margins(&features, scratch);
        let terms = scratch.standardised.chunks_exact(self.coefficients.len());
        features.into_outer_iter().zip(terms).zip(&scratch.margins).map(|((row, terms), &margin)| {
            PRESSURES.iter().all(|&column| row[column].is_finite()).then(|| self.scored(terms, margin))
        })
    }

    /// Fills `scratch` with the standardised terms and the margin of every row; returns the margins.
    pub(super) fn margins<'s>(&self, features: &ArrayView2<'_, f64>, scratch: &'s mut Scratch) -> &'s [f64] {
        let terms = self.coefficients.len();
        scratch.standardised.clear();
        for row in features.outer_iter() {
            let values = self.columns.iter().zip(&self.mean).zip(&self.scale).zip(&self.imputed);
            scratch.standardised.extend(values.map(|(((&column, mean), scale), &imputed)| {
                let value = row[usize::from(column)];
                if value.is_finite() { (value - mean) / scale } else { imputed }
            }));
        }
        scratch.margins.clear();
        scratch.margins.resize(features.nrows(), self.intercept);
        let matrix = ArrayView2::from_shape((features.nrows(), terms), &scratch.standardised)
            .expect("one term a column was pushed for every row");
        // ndarray takes one dot product a row, so a row's sum does not depend on the rows around it; a test holds it to that.
        general_mat_vec_mul(
            1.0,
            &matrix,
            &ArrayView1::from(&self.coefficients),
            1.0,
            &mut ArrayViewMut1::from(&mut scratch.margins),
        );
        &scratch.margins
    }

    fn scored(&self, terms: &[f64], margin: f64) -> Scored {
        let probability = sigmoid(margin);
        let risk_level = match probability {
            p if p >= self.risk_levels.high => "HIGH",
            p if p >= self.risk_levels.moderate => "MODERATE",
            _ => "LOW",
        };
        Scored { probability, risk_level, contributions: self.strongest(terms) }
    }

    /// The terms of greatest size; of equal ones the earlier in the file.
    fn strongest(&self, terms: &[f64]) -> SmallVec<[(u8, f64); 3]> {
        let mut top: SmallVec<[(u8, f64); 3]> = SmallVec::new();
        for ((&column, coefficient), term) in self.columns.iter().zip(&self.coefficients).zip(terms) {
            let share = coefficient * term;
            let rank = top.iter().position(|(_, other)| share.abs() > other.abs()).unwrap_or(top.len());
            if rank < CONTRIBUTIONS_MAX && share != 0.0 {
                top.truncate(CONTRIBUTIONS_MAX - 1);
                top.insert(rank.min(top.len()), (column, share));
            }
        }
        top
    }
}

impl fmt::Debug for Logistic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Logistic({}, {} features)", self.name(), self.columns.len())
    }
}

/// 1 / (1 + exp(−margin)), without overflow on either side.
pub(super) fn sigmoid(margin: f64) -> f64 {
    if margin >= 0.0 {
        1.0 / (1.0 + (-margin).exp())
    } else {
        let odds = margin.exp();
        odds / (1.0 + odds)
    }
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The column of every term in [`FEATURE_NAMES`].
fn columns(terms: &[Term]) -> Result<Vec<u8>, ModelError> {
    let mut columns = Vec::with_capacity(terms.len());
    for term in terms {
        let column = FEATURE_NAMES.iter().position(|name| *name == term.name);
        let column = column.ok_or_else(|| ModelError::UnknownFeature(term.name.clone()))? as u8;
        if columns.contains(&column) {
            return Err(ModelError::RepeatedFeature(term.name.clone()));
        }
        columns.push(column);
    }
    Ok(columns)
}

/// Every number is one that can be worked with.
fn check(file: &ModelFile) -> Result<(), ModelError> {
    let demand = |holds: bool, key: &dyn Fn() -> String, demand: &'static str, value: &dyn fmt::Display| {
        if holds { Ok(()) } else { Err(ModelError::Number { key: key(), demand, value: value.to_string() }) }
    };
    demand(!file.features.is_empty(), &|| "features".into(), "a list of at least one feature", &"none")?;
    for term in &file.features {
        let key = |part: &str| format!("{part} of feature {:?}", term.name);
        demand(term.mean.is_finite(), &|| key("mean"), "a finite number", &term.mean)?;
        demand(term.coefficient.is_finite(), &|| key("coefficient"), "a finite number", &term.coefficient)?;
        demand(term.imputation.is_finite(), &|| key("imputation"), "a finite number", &term.imputation)?;
        let positive = term.scale.is_finite() && term.scale > 0.0;
        demand(positive, &|| key("scale"), "a finite number greater than 0", &term.scale)?;
    }
    demand(file.intercept.is_finite(), &|| "intercept".into(), "a finite number", &file.intercept)?;
    let RiskLevels { moderate, high } = file.risk_levels;
    let ordered = 0.0 < moderate && moderate < high && high < 1.0;
    let levels = format!("{moderate} and {high}");
    demand(ordered, &|| "risk_levels".into(), "ascending between 0 and 1 (moderate, then high)", &levels)?;
    let sha = &file.training_sha256;
    let is_sha = sha.len() == 64 && sha.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    demand(is_sha, &|| "training_sha256".into(), "64 lower-case hexadecimal digits", &format!("{sha:?}"))
}

#[cfg(test)]
mod tests;
