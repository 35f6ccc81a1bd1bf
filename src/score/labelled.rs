//! Labelled readings: what a model is trained on, and how they are written in a file.
//!
//! Two formats, both with one row a line and the same columns:
//! * NDJSON: `{"patient": "3f…", "label": 1, "systolic": 151.5, "age_years": null}`
//! * CSV: a line of column names, then values; comma-separated, `"` around a value if it holds a comma, no line breaks inside values.
//!
//! `patient` (text or number: whatever tells patients apart) and `label` (0, 1, true, false) must be there; every other column is one
//! of [`FEATURE_NAMES`], in its unit. A column may be absent and a value missing (`null`, nothing, `NaN`): it is imputed.
//! A column of any other name is refused: a misspelt feature would otherwise be missing everywhere and nobody would know.
//!
//! Errors give row and column, never a value.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::FEATURES;
use crate::vocabulary::FEATURE_NAMES;

/// One reading with its features and the truth about it.
#[derive(Clone, Copy, Debug)]
pub struct LabelledReading {
    /// In the order and units of [`FEATURE_NAMES`]; NaN where unknown.
    pub features: [f64; FEATURES],
    /// True for what the model shall find.
    pub label: bool,
    /// Tells patients apart: the same patient is never both trained on and held out.
    pub patient: u64,
}

/// A row could not be understood. Never holds a value of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// Not a JSON object.
    #[error("is not a JSON object on one line")]
    NotAnObject,
    /// A column that is neither `patient`, `label` nor a feature.
    #[error("column {0:?} is not known; known are patient, label, {known}", known = FEATURE_NAMES.join(", "))]
    UnknownColumn(String),
    /// A column that every row needs.
    #[error("column {0:?} is missing; every row needs patient and label")]
    MissingColumn(&'static str),
    /// A column twice.
    #[error("column {0:?} is there twice")]
    RepeatedColumn(String),
    /// Not what the column holds.
    #[error("column {column:?} is not {demand}")]
    Value {
        /// Which column.
        column: String,
        /// What it must be.
        demand: &'static str,
    },
    /// A CSV row of another length than the line of names.
    #[error("has {found} values under {expected} column names")]
    Length {
        /// Column names.
        expected: usize,
        /// Values.
        found: usize,
    },
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Patient,
    Label,
    Feature(usize),
}

impl Column {
    fn named(name: &str) -> Result<Self, RowError> {
        match name {
            "patient" => Ok(Column::Patient),
            "label" => Ok(Column::Label),
            _ => FEATURE_NAMES
                .iter()
                .position(|feature| *feature == name)
                .map(Column::Feature)
                .ok_or_else(|| RowError::UnknownColumn(name.into())),
        }
    }
}

/// A row while its columns come in.
#[derive(Default)]
struct Row {
    features: Option<[f64; FEATURES]>,
    label: Option<bool>,
    patient: Option<u64>,
}

impl Row {
    fn feature(&mut self, index: usize, value: f64) {
        self.features.get_or_insert([f64::NAN; FEATURES])[index] = value;
    }

    fn finish(self) -> Result<LabelledReading, RowError> {
        Ok(LabelledReading {
            features: self.features.unwrap_or([f64::NAN; FEATURES]),
            label: self.label.ok_or(RowError::MissingColumn("label"))?,
            patient: self.patient.ok_or(RowError::MissingColumn("patient"))?,
        })
    }
}

/// Reads one line of NDJSON.
pub fn from_json(line: &str) -> Result<LabelledReading, RowError> {
    let Ok(Value::Object(object)) = serde_json::from_str(line) else { return Err(RowError::NotAnObject) };
    let mut row = Row::default();
    for (name, value) in object {
        let wrong = |demand| RowError::Value { column: name.clone(), demand };
        match (Column::named(&name)?, &value) {
            (Column::Patient, Value::String(text)) => row.patient = Some(patient_number(text)),
            (Column::Patient, Value::Number(number)) => row.patient = Some(patient_number(&number.to_string())),
            (Column::Patient, _) => return Err(wrong("text or a number")),
            (Column::Label, Value::Bool(label)) => row.label = Some(*label),
            (Column::Label, _) => row.label = Some(label(&value.to_string()).ok_or_else(|| wrong(LABEL))?),
            (Column::Feature(index), Value::Null) => row.feature(index, f64::NAN),
            (Column::Feature(index), _) => row.feature(index, value.as_f64().ok_or_else(|| wrong(NUMBER))?),
        }
    }
    row.finish()
}

/// Reads the rows of a CSV file whose line of names it has seen.
#[derive(Debug)]
pub struct CsvRows {
    columns: Vec<(String, Column)>,
}

impl CsvRows {
    /// From the line of column names.
    pub fn new(names: &str) -> Result<Self, RowError> {
        let names = split_csv(names.strip_prefix('\u{feff}').unwrap_or(names));
        for (index, name) in names.iter().enumerate() {
            if names[..index].contains(name) {
                return Err(RowError::RepeatedColumn(name.clone()));
            }
        }
        for needed in ["patient", "label"] {
            if !names.iter().any(|name| name == needed) {
                return Err(RowError::MissingColumn(needed));
            }
        }
        let columns = names.into_iter().map(|name| Column::named(&name).map(|column| (name, column)));
        Ok(CsvRows { columns: columns.collect::<Result<_, _>>()? })
    }

    /// Reads one line.
    pub fn row(&self, line: &str) -> Result<LabelledReading, RowError> {
        let values = split_csv(line);
        if values.len() != self.columns.len() {
            return Err(RowError::Length { expected: self.columns.len(), found: values.len() });
        }
        let mut row = Row::default();
        for ((name, column), value) in self.columns.iter().zip(&values) {
            let wrong = |demand| RowError::Value { column: name.clone(), demand };
            match column {
                Column::Patient if value.is_empty() => return Err(wrong("text or a number")),
                Column::Patient => row.patient = Some(patient_number(value)),
                Column::Label => row.label = Some(label(value).ok_or_else(|| wrong(LABEL))?),
                Column::Feature(index) if value.is_empty() => row.feature(*index, f64::NAN),
                Column::Feature(index) => row.feature(*index, value.parse().map_err(|_| wrong(NUMBER))?),
            }
        }
        row.finish()
    }
}

const LABEL: &str = "0, 1, true or false";
const NUMBER: &str = "a number";

fn label(text: &str) -> Option<bool> {
    match text {
        "1" | "1.0" | "true" => Some(true),
        "0" | "0.0" | "false" => Some(false),
        _ => None,
    }
}

/// A number for whatever tells patients apart: 8 bytes of its SHA-256, so that text and numbers of any length will do.
fn patient_number(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// The values of one line; `"` quotes, `""` inside quotes is one `"`.
fn split_csv(line: &str) -> Vec<String> {
    let mut values = vec![String::new()];
    let mut quoted = false;
    let mut characters = line.trim_end_matches(['\r', '\n']).chars().peekable();
    while let Some(character) = characters.next() {
        let value = values.last_mut().expect("starts with one and only grows");
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => value.extend(characters.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => values.push(String::new()),
            _ => value.push(character),
        }
    }
    values.iter_mut().for_each(|value| *value = value.trim().to_owned());
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_row_reads_the_same_from_json_and_csv() {
        let json = from_json(r#"{"patient": "a,b", "label": true, "systolic": 151.5, "age_years": null}"#).unwrap();
        let csv = CsvRows::new("\u{feff}systolic, label,patient,age_years\r\n").unwrap();
        let csv = csv.row("151.5,1,\"a,b\",\r\n").unwrap();
        assert_eq!((json.label, json.patient), (csv.label, csv.patient));
        assert_eq!(json.features[0], 151.5);
        assert_eq!(json.features.map(f64::to_bits), csv.features.map(f64::to_bits));
    }

    #[test]
    fn numbers_and_text_name_the_same_patient() {
        let patient = |row: &str| from_json(row).unwrap().patient;
        assert_eq!(patient(r#"{"patient": 7, "label": 0}"#), patient(r#"{"patient": "7", "label": 0}"#));
        assert_ne!(patient(r#"{"patient": 7, "label": 0}"#), patient(r#"{"patient": 8, "label": 0}"#));
    }

    #[test]
    fn refusals_name_the_column_and_no_value() {
        let json = |row: &str| from_json(row).unwrap_err().to_string();
        assert_eq!(json("[1]"), "is not a JSON object on one line");
        assert!(json(r#"{"patient": 1, "label": 0, "sytolic": 1}"#).starts_with("column \"sytolic\" is not known; known"));
        assert_eq!(json(r#"{"patient": 1}"#), "column \"label\" is missing; every row needs patient and label");
        assert_eq!(json(r#"{"patient": 1, "label": 2}"#), "column \"label\" is not 0, 1, true or false");
        assert_eq!(
            json(r#"{"patient": 1, "label": 0, "systolic": "secret"}"#),
            "column \"systolic\" is not a number"
        );
        let csv = CsvRows::new("patient,label,systolic").unwrap();
        assert_eq!(csv.row("1,0").unwrap_err(), RowError::Length { expected: 3, found: 2 });
        assert_eq!(csv.row("1,0,secret").unwrap_err().to_string(), "column \"systolic\" is not a number");
        assert_eq!(CsvRows::new("label,patient,label").unwrap_err(), RowError::RepeatedColumn("label".into()));
        assert_eq!(CsvRows::new("label").unwrap_err(), RowError::MissingColumn("patient"));
    }
}
