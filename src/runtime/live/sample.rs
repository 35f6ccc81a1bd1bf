//! Invented rows for tests and for looking at the page: the columns that the page reads, seeded.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, Float64Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::Int32Type;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::config::TableName;
use crate::sink::Rows;
use crate::vocabulary::Pseudonym;

/// One invented reading.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) observation: u64,
    pub(crate) patient: u64,
    pub(crate) at_micros: i64,
    pub(crate) status: &'static str,
    pub(crate) pressures: Option<(f64, f64)>,
    pub(crate) reasons: Vec<&'static str>,
    pub(crate) replaces: bool,
}

impl Row {
    pub(crate) fn new(observation: u64, at_micros: i64, systolic: f64, diastolic: f64) -> Row {
        let mut reasons = Vec::new();
        if systolic > 140.0 {
            reasons.push("hypertension_systolic");
        }
        if diastolic > 90.0 {
            reasons.push("hypertension_diastolic");
        }
        if systolic < 90.0 {
            reasons.push("hypotension_systolic");
        }
        let pressures = Some((systolic, diastolic));
        Row { observation, patient: observation, at_micros, status: "final", pressures, reasons, replaces: false }
    }
}

fn category(systolic: f64, diastolic: f64) -> &'static str {
    match (systolic, diastolic) {
        (s, d) if s > 180.0 || d > 120.0 => "crisis",
        (s, d) if s >= 140.0 || d >= 90.0 => "stage 2",
        (s, d) if s >= 130.0 || d >= 80.0 => "stage 1",
        (s, _) if s >= 120.0 => "elevated",
        _ => "normal",
    }
}

fn pseudonym(id: u64) -> String {
    let high = id.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Pseudonym((u128::from(high) << 64 | u128::from(high.rotate_left(29) ^ id)).to_be_bytes()).to_string()
}

/// The same rows, with text as plain strings or dictionary-encoded.
pub(crate) fn readings(rows: &[Row], dictionaries: bool) -> Rows {
    let text = |values: Vec<Option<String>>| -> ArrayRef {
        if dictionaries {
            Arc::new(values.iter().map(|v| v.as_deref()).collect::<DictionaryArray<Int32Type>>())
        } else {
            Arc::new(StringArray::from(values))
        }
    };
    let each =
        |of: &dyn Fn(&Row) -> Option<f64>| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<Float64Array>()) };
    let mut reasons = ListBuilder::new(StringBuilder::new());
    for row in rows {
        row.reasons.iter().for_each(|reason| reasons.values().append_value(reason));
        reasons.append(true);
    }
    let probability =
        |row: &Row| row.pressures.map(|(s, d)| 1.0 / (1.0 + (-(s - 148.0) / 9.0 - (d - 92.0) / 11.0).exp()));
    let risk = |row: &Row| {
        probability(row).map(|p| {
            if p > 0.7 {
                "HIGH"
            } else if p > 0.3 {
                "MODERATE"
            } else {
                "LOW"
            }
        })
    };
    let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.at_micros)).with_timezone("UTC");
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("patient", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| pseudonym(row.patient))))),
        ("observation", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| pseudonym(row.observation))))),
        ("status", text(rows.iter().map(|row| Some(row.status.to_owned())).collect())),
        ("effective_at", Arc::new(times)),
        ("systolic_mmhg", each(&|row| row.pressures.map(|(s, _)| s))),
        ("diastolic_mmhg", each(&|row| row.pressures.map(|(_, d)| d))),
        ("category", text(rows.iter().map(|row| row.pressures.map(|(s, d)| category(s, d).to_owned())).collect())),
        ("reasons", Arc::new(reasons.finish())),
        ("probability", each(&|row| probability(row))),
        ("risk_level", text(rows.iter().map(|row| risk(row).map(str::to_owned)).collect())),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
    Rows {
        table: TableName::Readings,
        batch,
        replaces: rows.iter().map(|row| row.replaces).collect(),
        routes: Arc::default(),
    }
}

/// One list of numbers a shift.
fn lists(shifts: &[(&str, &str, Option<f64>)], list: impl Fn(usize) -> Vec<f64>) -> ArrayRef {
    let mut lists = ListBuilder::new(arrow::array::Float64Builder::new());
    for at in 0..shifts.len() {
        list(at).into_iter().for_each(|value| lists.values().append_value(value));
        lists.append(true);
    }
    Arc::new(lists.finish())
}

/// Shifts: feature, group, psi (`None`: insufficient).
pub(crate) fn shifts(shifts: &[(&str, &str, Option<f64>)]) -> Rows {
    let verdict = |psi: &Option<f64>| match psi {
        None => "insufficient",
        Some(psi) if *psi >= 0.25 => "act",
        Some(psi) if *psi >= 0.1 => "watch",
        Some(_) => "none",
    };
    let ends = TimestampMicrosecondArray::from(vec![1_790_000_000_000_000; shifts.len()]).with_timezone("UTC");
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("feature", Arc::new(StringArray::from_iter_values(shifts.iter().map(|shift| shift.0)))),
        ("group", Arc::new(StringArray::from_iter_values(shifts.iter().map(|shift| shift.1)))),
        ("current_end", Arc::new(ends)),
        ("current_count", Arc::new(UInt64Array::from(vec![4_210; shifts.len()]))),
        ("psi", Arc::new(shifts.iter().map(|shift| shift.2).collect::<Float64Array>())),
        (
            "jensen_shannon",
            Arc::new(shifts.iter().map(|s| s.2.map(|psi| (psi / 6.0).sqrt())).collect::<Float64Array>()),
        ),
        ("verdict", Arc::new(StringArray::from_iter_values(shifts.iter().map(|shift| verdict(&shift.2))))),
        ("unit", Arc::new(StringArray::from_iter_values(shifts.iter().map(|_| "mmHg")))),
        ("bin_edges", lists(shifts, |_| vec![80.0, 120.0, 140.0, 180.0])),
        ("reference_bins", lists(shifts, |_| vec![10.0, 30.0, 20.0])),
        // The last of several belongs to other edges: it is not drawn.
        (
            "current_bins",
            lists(shifts, |at| if at == 0 || at + 1 < shifts.len() { vec![1.0, 2.0, 5.0] } else { vec![1.0] }),
        ),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
    Rows { table: TableName::Shifts, batch, replaces: Arc::default(), routes: Arc::default() }
}

/// Rows of `quality`: topic, measure, the hour at which the window ends, its share, verdict.
pub(crate) fn quality(rows: &[(&str, &str, i64, f64, &str)]) -> Rows {
    let ends = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.2 * 3_600_000_000));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("topic", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0)))),
        ("measure", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1)))),
        ("current_end", Arc::new(ends.with_timezone("UTC"))),
        ("reference_rate", Arc::new(Float64Array::from(vec![0.01; rows.len()]))),
        ("current_rate", Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.3)))),
        ("verdict", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.4)))),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
    Rows { table: TableName::Quality, batch, replaces: Arc::default(), routes: Arc::default() }
}

/// A ward's readings around an instant: mostly normal, some hypertensive, few extreme, a partial one now and then.
pub(crate) fn ward(seed: u64, count: usize, end_micros: i64, spread_micros: i64) -> Vec<Row> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let row = |_| {
        let (patient, at) = (random.random_range(0..4_000_u64), end_micros - random.random_range(0..spread_micros));
        let usual = 106.0 + (patient * 7_919 % 40) as f64;
        let hour = (at / 3_600_000_000 % 24) as f64;
        let swing = 8.0 * ((hour - 4.0) / 24.0 * std::f64::consts::TAU).sin();
        let spike = if random.random_range(0..120) == 0 { random.random_range(20.0..60.0) } else { 0.0 };
        let systolic: f64 = (usual + swing + spike + random.random_range(-9.0..9.0_f64)).round();
        let mut row =
            Row::new(random.random(), at, systolic, (systolic * 0.62 + random.random_range(-6.0..6.0)).round());
        row.patient = patient;
        if random.random_range(0..60) == 0 {
            (row.pressures, row.reasons) = (None, Vec::new());
        }
        row
    };
    (0..count).map(row).collect()
}
