//! Rows as JSON objects: one encoder for NDJSON files, Elasticsearch documents and Kafka messages.
//!
//! A row becomes `{"name":value,…}\n`, its keys in the order of the table's columns, or of the output names if a sink renames or selects.
//!
//! | Arrow | JSON |
//! |---|---|
//! | null, NaN, ±infinity, an instant outside the years 0001 to 9999 | the key is left out |
//! | utf8 | string |
//! | int32, int64, float64, boolean | number, `true`, `false` |
//! | timestamp(µs, UTC) | RFC 3339 with six decimals: `"2026-01-01T00:00:00.000000Z"` |
//! | list of utf8, float64 or int64 | array of strings or numbers, `[]` if empty |
//!
//! Invariants: a row never contains a newline but its last byte; equal batches give equal bytes; floats are the shortest text that reads back equal.
//! It does not build values: bytes go straight into one buffer, nothing is allocated per row. A column of another type is a bug and panics at the batch, not at a row.

use std::collections::BTreeMap;
use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, ListArray, PrimitiveArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};

use crate::time::EventTime;

/// Encoded rows: one buffer, and where each row of the batch lies in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JsonRows {
    bytes: Vec<u8>,
    /// The end of each row, its newline included; a row that was left out ends where it begins.
    ends: Vec<usize>,
}

/// A flow file names a column that its table does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("could not write field {field:?}: there is no column {column:?}; there are {columns}")]
pub struct UnknownColumn {
    /// The output name.
    pub field: String,
    /// The column that was asked for.
    pub column: String,
    /// The columns there are, separated by commas.
    pub columns: String,
}

/// Encodes every row of a batch. `fields` maps output names to columns; empty means all columns under their own names.
pub fn rows(batch: &RecordBatch, fields: &BTreeMap<String, String>) -> Result<JsonRows, UnknownColumn> {
    rows_where(batch, fields, |_| true)
}

/// Encodes the rows for which `keep(row)` holds. Row numbers stay those of the batch; a row left out is empty.
pub fn rows_where(
    batch: &RecordBatch,
    fields: &BTreeMap<String, String>,
    keep: impl Fn(usize) -> bool,
) -> Result<JsonRows, UnknownColumn> {
    let columns: Vec<Column<'_>> = select(&batch.schema(), fields)?
        .into_iter()
        .map(|(name, index)| Column { key: key(&name), values: Values::of(batch.column(index)) })
        .collect();
    let mut out = JsonRows { bytes: Vec::new(), ends: Vec::with_capacity(batch.num_rows()) };
    for row in 0..batch.num_rows() {
        if keep(row) {
            object(&columns, row, &mut out.bytes);
        }
        out.ends.push(out.bytes.len());
    }
    Ok(out)
}

/// Which columns go out, in order: output name and index. Call it once at start, so that a wrong flow file refuses to start.
pub fn select(schema: &Schema, fields: &BTreeMap<String, String>) -> Result<Vec<(String, usize)>, UnknownColumn> {
    let names = || schema.fields().iter().map(|field| field.name().clone());
    if fields.is_empty() {
        return Ok(names().zip(0..).collect());
    }
    let index = |(field, column): (&String, &String)| match schema.index_of(column) {
        Ok(index) => Ok((field.clone(), index)),
        Err(_) => {
            let columns = names().collect::<Vec<_>>().join(", ");
            Err(UnknownColumn { field: field.clone(), column: column.clone(), columns })
        }
    };
    fields.iter().map(index).collect()
}

impl JsonRows {
    /// Number of rows of the batch, those left out included.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True if the batch had no rows.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All encoded rows, each with its newline.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same, taken out.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Where a row lies in [`JsonRows::bytes`], its newline included; empty if it was left out.
    pub fn range(&self, row: usize) -> Range<usize> {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        start..self.ends[row]
    }

    /// A row with its newline; empty if it was left out.
    pub fn line(&self, row: usize) -> &[u8] {
        &self.bytes[self.range(row)]
    }

    /// A row without its newline; `None` if it was left out.
    pub fn object(&self, row: usize) -> Option<&[u8]> {
        self.line(row).strip_suffix(b"\n")
    }
}

/// One output column of a batch.
struct Column<'a> {
    /// `,"name":`
    key: Vec<u8>,
    values: Values<'a>,
}

/// A column's values, downcast once a batch.
enum Values<'a> {
    Text(&'a StringArray),
    Int32(&'a PrimitiveArray<Int32Type>),
    Int64(&'a PrimitiveArray<Int64Type>),
    Float64(&'a PrimitiveArray<Float64Type>),
    Boolean(&'a BooleanArray),
    Instant(&'a PrimitiveArray<TimestampMicrosecondType>),
    Texts(&'a ListArray, &'a StringArray),
    Floats(&'a ListArray, &'a PrimitiveArray<Float64Type>),
    Integers(&'a ListArray, &'a PrimitiveArray<Int64Type>),
}

impl<'a> Values<'a> {
    fn of(array: &'a ArrayRef) -> Self {
        match array.data_type() {
            DataType::Utf8 => Values::Text(array.as_string()),
            DataType::Int32 => Values::Int32(array.as_primitive()),
            DataType::Int64 => Values::Int64(array.as_primitive()),
            DataType::Float64 => Values::Float64(array.as_primitive()),
            DataType::Boolean => Values::Boolean(array.as_boolean()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Values::Instant(array.as_primitive()),
            DataType::List(item) => {
                let list = array.as_list::<i32>();
                match item.data_type() {
                    DataType::Utf8 => Values::Texts(list, list.values().as_string()),
                    DataType::Float64 => Values::Floats(list, list.values().as_primitive()),
                    DataType::Int64 => Values::Integers(list, list.values().as_primitive()),
                    other => panic!("no table has a list of type {other}"),
                }
            }
            other => panic!("no table has a column of type {other}"),
        }
    }

    /// Writes a value; false if there is nothing to write.
    fn write(&self, row: usize, out: &mut Vec<u8>) -> bool {
        match self {
            Values::Text(array) => present(*array, row) && json(out, array.value(row)),
            Values::Int32(array) => present(*array, row) && json(out, &array.value(row)),
            Values::Int64(array) => present(*array, row) && json(out, &array.value(row)),
            Values::Float64(array) => {
                present(*array, row) && array.value(row).is_finite() && json(out, &array.value(row))
            }
            Values::Boolean(array) => present(*array, row) && json(out, &array.value(row)),
            Values::Instant(array) => present(*array, row) && instant(array.value(row), out),
            Values::Texts(array, items) => present(*array, row) && list(array, row, out, |at| items.value(at)),
            Values::Floats(array, items) => present(*array, row) && list(array, row, out, |at| items.value(at)),
            Values::Integers(array, items) => present(*array, row) && list(array, row, out, |at| items.value(at)),
        }
    }
}

fn present(array: &dyn Array, row: usize) -> bool {
    array.is_valid(row)
}

fn instant(micros: i64, out: &mut Vec<u8>) -> bool {
    out.push(b'"');
    let written = write_instant(EventTime::from_micros(micros), out);
    out.push(b'"');
    written
}

fn list<T: serde::Serialize>(array: &ListArray, row: usize, out: &mut Vec<u8>, item: impl Fn(usize) -> T) -> bool {
    out.push(b'[');
    let (start, end) = (array.value_offsets()[row], array.value_offsets()[row + 1]);
    for at in start..end {
        if at > start {
            out.push(b',');
        }
        json(out, &item(at as usize));
    }
    out.push(b']');
    true
}

/// Writes one row, newline included.
fn object(columns: &[Column<'_>], row: usize, out: &mut Vec<u8>) {
    let start = out.len();
    for column in columns {
        let before = out.len();
        out.extend_from_slice(&column.key);
        if !column.values.write(row, out) {
            out.truncate(before);
        }
    }
    // Every key brings its comma; the first one becomes the brace.
    match out.get_mut(start) {
        Some(comma) => *comma = b'{',
        None => out.push(b'{'),
    }
    out.extend_from_slice(b"}\n");
}

fn key(name: &str) -> Vec<u8> {
    let mut key = vec![b','];
    json(&mut key, name);
    key.push(b':');
    key
}

/// Always true: it has written something.
fn json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> bool {
    serde_json::to_writer(out, value).expect("scalars always serialise, and a Vec takes every write");
    true
}

/// An instant as [`write_instant`] writes it; empty where it writes nothing.
pub fn instant_text(at: EventTime) -> String {
    let mut text = Vec::new();
    write_instant(at, &mut text);
    String::from_utf8(text).expect("an instant is text")
}

/// Writes an instant as RFC 3339, UTC, six decimals. Returns false, and writes nothing, outside the years 0001 to 9999 (RFC 3339 §5.6 has four digits).
pub fn write_instant(at: EventTime, out: &mut Vec<u8>) -> bool {
    let Some(civil) = civil(at) else { return false };
    // `write!` with seven arguments costs as much as the rest of the row.
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    digits(&mut text[0..4], civil.year() as u32);
    digits(&mut text[5..7], civil.month() as u32);
    digits(&mut text[8..10], civil.day() as u32);
    digits(&mut text[11..13], civil.hour() as u32);
    digits(&mut text[14..16], civil.minute() as u32);
    digits(&mut text[17..19], civil.second() as u32);
    digits(&mut text[20..26], civil.subsec_nanosecond() as u32 / 1_000);
    out.extend_from_slice(&text);
    true
}

/// Writes a number right-aligned over zeros.
fn digits(into: &mut [u8], mut number: u32) {
    for digit in into.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// True if an instant can be written, and read by the usual tools (Python's `datetime` has the same range).
pub fn is_civil(at: EventTime) -> bool {
    // Two comparisons where `civil` works out a calendar: every row of `readings` asks twice.
    (FIRST_MICROS..=LAST_MICROS).contains(&at.micros())
}

/// 0001-01-01T00:00:00Z in microseconds since the Unix epoch.
const FIRST_MICROS: i64 = -62_135_596_800_000_000;

/// 9999-12-30T22:00:00Z, the last microsecond that jiff reads: it leaves room for every time zone.
const LAST_MICROS: i64 = 253_402_207_200_000_000;

fn civil(at: EventTime) -> Option<jiff::civil::DateTime> {
    let instant = jiff::Timestamp::from_microsecond(at.micros()).ok()?;
    let civil = jiff::tz::Offset::UTC.to_datetime(instant);
    (civil.year() >= 1).then_some(civil)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, ListBuilder, StringBuilder, TimestampMicrosecondArray};
    use expect_test::expect;

    use super::*;

    fn batch() -> RecordBatch {
        let mut reasons = ListBuilder::new(StringBuilder::new());
        reasons.append_value([Some("a"), Some("b\"\n")]);
        reasons.append_value([None::<&str>; 0]);
        reasons.append_null();
        let text = StringArray::from(vec![Some("stage 2"), None, Some("normal")]);
        RecordBatch::try_from_iter_with_nullable([
            ("patient", Arc::new(StringArray::from(vec!["p0", "p1", "p2"])) as ArrayRef, false),
            ("offset", Arc::new(Int64Array::from(vec![Some(0), Some(i64::MIN), None])), true),
            ("value", Arc::new(Float64Array::from(vec![Some(120.0), Some(f64::NAN), Some(0.1 + 0.2)])), true),
            (
                "at",
                Arc::new(
                    TimestampMicrosecondArray::from(vec![0, i64::MIN, 1_767_225_600_000_001]).with_timezone("UTC"),
                ),
                true,
            ),
            ("category", Arc::new(text), true),
            ("reasons", Arc::new(reasons.finish()), true),
            ("late", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])), true),
        ])
        .unwrap()
    }

    fn text(rows: &JsonRows) -> &str {
        std::str::from_utf8(rows.bytes()).unwrap()
    }

    #[test]
    fn every_type_has_one_spelling_and_nulls_are_left_out() {
        let rows = rows(&batch(), &BTreeMap::new()).unwrap();
        expect![[r#"
            {"patient":"p0","offset":0,"value":120.0,"at":"1970-01-01T00:00:00.000000Z","category":"stage 2","reasons":["a","b\"\n"],"late":true}
            {"patient":"p1","offset":-9223372036854775808,"reasons":[],"late":false}
            {"patient":"p2","value":0.30000000000000004,"at":"2026-01-01T00:00:00.000001Z","category":"normal"}
        "#]]
        .assert_eq(text(&rows));
    }

    #[test]
    fn a_sliced_batch_encodes_its_own_rows() {
        let whole = rows(&batch(), &BTreeMap::new()).unwrap();
        let slice = rows(&batch().slice(1, 2), &BTreeMap::new()).unwrap();
        assert_eq!(slice.line(0), whole.line(1));
        assert_eq!(slice.line(1), whole.line(2));
    }

    #[test]
    fn fields_select_and_rename_in_order_of_their_names() {
        let fields = [("type", "reasons"), ("id", "patient"), ("patient_id", "patient")]
            .map(|(field, column)| (field.to_string(), column.to_string()));
        let rows = rows(&batch(), &BTreeMap::from(fields)).unwrap();
        assert_eq!(rows.object(1), Some(&br#"{"id":"p1","patient_id":"p1","type":[]}"#[..]));
    }

    #[test]
    fn a_column_that_does_not_exist_is_named_with_those_that_do() {
        let fields = BTreeMap::from([("x".to_string(), "sytolic".to_string())]);
        let error = rows(&batch(), &fields).unwrap_err().to_string();
        expect![[r#"could not write field "x": there is no column "sytolic"; there are patient, offset, value, at, category, reasons, late"#]]
            .assert_eq(&error);
    }

    #[test]
    fn rows_that_are_left_out_are_empty_and_the_others_keep_their_number() {
        let all = rows(&batch(), &BTreeMap::new()).unwrap();
        let odd = rows_where(&batch(), &BTreeMap::new(), |row| row == 1).unwrap();
        assert_eq!((odd.len(), odd.object(0), odd.object(2)), (3, None, None));
        assert_eq!(odd.line(1), all.line(1));
        assert_eq!(odd.bytes(), all.line(1));
    }

    #[test]
    fn a_row_of_nothing_is_an_empty_object() {
        let fields = BTreeMap::from([("at".to_string(), "category".to_string())]);
        assert_eq!(rows(&batch(), &fields).unwrap().line(1), b"{}\n");
    }

    #[test]
    fn instants_are_written_from_year_1_to_year_9999() {
        let print = |micros| {
            let mut out = Vec::new();
            let at = EventTime::from_micros(micros);
            assert_eq!(write_instant(at, &mut out), is_civil(at));
            String::from_utf8(out).unwrap()
        };
        assert_eq!(print(-62_135_596_800_000_000), "0001-01-01T00:00:00.000000Z");
        assert_eq!(print(-62_135_596_800_000_001), "");
        assert_eq!(print(253_402_207_199_999_999), "9999-12-30T21:59:59.999999Z");
        assert_eq!(print(253_402_207_200_000_000), "9999-12-30T22:00:00.000000Z");
        assert_eq!(print(253_402_207_200_000_001), "");
        assert_eq!(print(i64::MIN), "");
        assert_eq!(print(i64::MAX), "");
        assert_eq!(print(-1), "1969-12-31T23:59:59.999999Z");
    }
}
