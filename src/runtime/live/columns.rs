//! Arrow batches, read as far as the page needs them.
//!
//! Text may be plain or dictionary-encoded. A column that is absent reads as null throughout (a flow may not measure diastolic pressure);
//! one of an unexpected type as well: the page is the last thing that may stop a run.

use std::collections::BTreeSet;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, Float64Type, TimeUnit, TimestampMicrosecondType};

use super::{Alert, Bins, Flaw, Shift};
use crate::sink::Rows;

/// A batch of `readings`.
pub(super) struct Readings<'a> {
    batch: &'a RecordBatch,
    /// One flag a row: it withdraws a reading and is none itself.
    withdraws: Vec<u8>,
    /// Rows that are readings.
    pub(super) count: u64,
    /// Observations of which an earlier version falls.
    pub(super) replaced: BTreeSet<String>,
}

impl<'a> Readings<'a> {
    pub(super) fn of(rows: &'a Rows) -> Self {
        let batch = &rows.batch;
        let mut withdraws =
            codes(batch, "status", |status| u8::from(matches!(status, Some("entered-in-error" | "cancelled"))));
        // A deletion may not know when its reading was measured.
        if let Some(times) = batch.column_by_name("effective_at").filter(|times| times.null_count() > 0) {
            withdraws.iter_mut().enumerate().for_each(|(row, flag)| *flag |= u8::from(times.is_null(row)));
        }
        let count = withdraws.iter().filter(|flag| **flag == 0).count() as u64;
        let mut replaced = BTreeSet::new();
        if rows.replaces.contains(&true) {
            let observations = text(batch, "observation");
            replaced = std::iter::zip(&*rows.replaces, observations.iter())
                .filter_map(|(replaces, observation)| replaces.then_some(observation?.to_owned()))
                .collect();
        }
        Readings { batch, withdraws, count, replaced }
    }

    /// Event times of the readings, microseconds since 1970.
    pub(super) fn times(&self) -> Vec<i64> {
        let times = column(self.batch, "effective_at", &DataType::Timestamp(TimeUnit::Microsecond, None));
        self.only_readings(times.as_primitive::<TimestampMicrosecondType>().values())
    }

    /// One code a reading, as `code` numbers the categories.
    pub(super) fn category_codes(&self, code: impl FnMut(Option<&str>) -> u8) -> Vec<u8> {
        self.only_readings(&codes(self.batch, "category", code))
    }

    fn only_readings<T: Copy>(&self, values: &[T]) -> Vec<T> {
        std::iter::zip(values, &self.withdraws).filter(|(_, flag)| **flag == 0).map(|(value, _)| *value).collect()
    }

    /// The last `max` rows that have reasons, in order.
    pub(super) fn alerts(&self, max: usize) -> Vec<Alert> {
        let Some(reasons) = self.batch.column_by_name("reasons").and_then(|column| column.as_list_opt::<i32>()) else {
            return Vec::new();
        };
        let fired = |row: &usize| reasons.is_valid(*row) && reasons.value_length(*row) > 0 && self.withdraws[*row] == 0;
        let mut rows: Vec<u32> =
            (0..self.batch.num_rows()).rev().filter(fired).take(max).map(|row| row as u32).collect();
        rows.reverse();
        let Ok(picked) = take_record_batch(self.batch, &UInt32Array::from(rows)) else { return Vec::new() };
        alerts_of(&picked)
    }
}

/// Every row of a small batch.
fn alerts_of(batch: &RecordBatch) -> Vec<Alert> {
    let (patients, observations) = (text(batch, "patient"), text(batch, "observation"));
    let (categories, risks) = (text(batch, "category"), text(batch, "risk_level"));
    let (systolic, diastolic) = (numbers(batch, "systolic_mmhg"), numbers(batch, "diastolic_mmhg"));
    let (times, probabilities) = (instants(batch, "effective_at"), numbers(batch, "probability"));
    let reasons = batch.column_by_name("reasons").and_then(|column| column.as_list_opt::<i32>());
    let rows = 0..batch.num_rows();
    rows.map(|row| Alert {
        patient: string(&patients, row).unwrap_or_default(),
        observation: string(&observations, row).unwrap_or_default(),
        effective_at: string(&times, row),
        systolic_mmhg: number(&systolic, row),
        diastolic_mmhg: number(&diastolic, row),
        category: string(&categories, row),
        reasons: reasons.map_or_else(Vec::new, |lists| strings(&lists.value(row))),
        probability: number(&probabilities, row),
        risk_level: string(&risks, row),
        contributions: Vec::new(),
    })
    .collect()
}

/// Every row of a batch of `quality`.
pub(super) fn flaws(batch: &RecordBatch) -> Vec<Flaw> {
    let (topics, measures, verdicts) = (text(batch, "topic"), text(batch, "measure"), text(batch, "verdict"));
    let (before, now) = (numbers(batch, "reference_rate"), numbers(batch, "current_rate"));
    let ends = instants(batch, "current_end");
    let rows = 0..batch.num_rows();
    rows.map(|row| Flaw {
        topic: string(&topics, row).unwrap_or_default(),
        measure: string(&measures, row).unwrap_or_default(),
        current_end: string(&ends, row),
        reference_rate: number(&before, row),
        current_rate: number(&now, row),
        verdict: string(&verdicts, row).unwrap_or_default(),
    })
    .collect()
}

/// Every row of a batch of `shifts`.
pub(super) fn shifts(batch: &RecordBatch) -> Vec<Shift> {
    let (features, groups, verdicts) = (text(batch, "feature"), text(batch, "group"), text(batch, "verdict"));
    let (psi, distances) = (numbers(batch, "psi"), numbers(batch, "jensen_shannon"));
    let (ends, counts) = (instants(batch, "current_end"), numbers(batch, "current_count"));
    let units = text(batch, "unit");
    let rows = 0..batch.num_rows();
    rows.map(|row| Shift {
        feature: string(&features, row).unwrap_or_default(),
        group: string(&groups, row).unwrap_or_default(),
        current_end: string(&ends, row),
        current_count: number(&counts, row),
        psi: number(&psi, row),
        jensen_shannon: number(&distances, row),
        verdict: string(&verdicts, row).unwrap_or_default(),
        unit: string(&units, row),
        bins: bins(batch, row),
    })
    .collect()
}

/// Both histograms of a row, if they are there and fit each other.
fn bins(batch: &RecordBatch, row: usize) -> Option<Bins> {
    let list = |name: &str| -> Option<Vec<f64>> {
        let lists = batch.column_by_name(name)?.as_list_opt::<i32>()?;
        let values = cast(&lists.value(row), &DataType::Float64).ok()?;
        Some(values.as_primitive::<Float64Type>().values().to_vec())
    };
    let found = Bins { edges: list("bin_edges")?, reference: list("reference_bins")?, current: list("current_bins")? };
    let count = found.edges.len().saturating_sub(1);
    (count > 0 && found.reference.len() == count && found.current.len() == count).then_some(found)
}

/// A column as the wanted type; nulls if there is none or it cannot be converted.
fn column(batch: &RecordBatch, name: &str, wanted: &DataType) -> ArrayRef {
    let found = batch.column_by_name(name).and_then(|column| match (column.data_type(), wanted) {
        // The zone is only a label on microseconds since 1970, UTC; dropping it by `cast` would shift to local time.
        (DataType::Timestamp(TimeUnit::Microsecond, _), DataType::Timestamp(TimeUnit::Microsecond, None)) => {
            let times = column.as_primitive::<TimestampMicrosecondType>();
            Some(std::sync::Arc::new(times.clone().with_timezone_opt(None::<&str>)) as ArrayRef)
        }
        _ => cast(column, wanted).ok(),
    });
    found.unwrap_or_else(|| arrow::array::new_null_array(wanted, batch.num_rows()))
}

fn text(batch: &RecordBatch, name: &str) -> StringArray {
    column(batch, name, &DataType::Utf8).as_string::<i32>().clone()
}

fn numbers(batch: &RecordBatch, name: &str) -> Float64Array {
    column(batch, name, &DataType::Float64).as_primitive::<Float64Type>().clone()
}

/// Instants as RFC 3339 to the second.
fn instants(batch: &RecordBatch, name: &str) -> StringArray {
    let times = column(batch, name, &DataType::Timestamp(TimeUnit::Microsecond, None));
    let written = |micros: i64| {
        let at = jiff::Timestamp::from_second(micros.div_euclid(1_000_000)).ok()?;
        Some(at.to_string())
    };
    times.as_primitive::<TimestampMicrosecondType>().iter().map(|micros| written(micros?)).collect()
}

/// One code a row. `code` is asked once a distinct text where the column is dictionary-encoded, else once a run of equal texts.
fn codes(batch: &RecordBatch, name: &str, mut code: impl FnMut(Option<&str>) -> u8) -> Vec<u8> {
    let Some(column) = batch.column_by_name(name).filter(|column| column.null_count() < column.len()) else {
        return if batch.num_rows() == 0 { Vec::new() } else { vec![code(None); batch.num_rows()] };
    };
    if let Some(dictionary) = column.as_any_dictionary_opt() {
        let Ok(values) = cast(dictionary.values(), &DataType::Utf8) else { return vec![code(None); column.len()] };
        let values = values.as_string::<i32>();
        // Values that no row has must not take a slot, so they are asked for on first sight.
        let mut known: Vec<Option<u8>> = vec![None; values.len()];
        let keys = dictionary.normalized_keys();
        return (0..column.len())
            .map(|row| match column.is_null(row) {
                true => code(None),
                false => *known[keys[row]].get_or_insert_with(|| code(Some(values.value(keys[row])))),
            })
            .collect();
    }
    let mut last: Option<(Option<&str>, u8)> = None;
    let values = text(batch, name);
    values
        .iter()
        .map(|value| match last {
            Some((known, code)) if known == value => code,
            _ => {
                let code = code(value);
                last = Some((value, code));
                code
            }
        })
        .collect()
}

fn string(column: &StringArray, row: usize) -> Option<String> {
    column.is_valid(row).then(|| column.value(row).to_owned())
}

fn number(column: &Float64Array, row: usize) -> Option<f64> {
    column.is_valid(row).then(|| column.value(row)).filter(|value| value.is_finite())
}

fn strings(list: &ArrayRef) -> Vec<String> {
    let Ok(list) = cast(list, &DataType::Utf8) else { return Vec::new() };
    list.as_string::<i32>().iter().flatten().map(str::to_owned).collect()
}
