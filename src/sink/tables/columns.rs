//! Arrow columns from iterators, filled without allocation per row.
//!
//! Lengths are known in advance, so every buffer is reserved once. Floats that are not finite become null.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, ListArray, NullBufferBuilder, StringArray,
    StringBuilder, TimestampMicrosecondArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field};

use crate::sink::json::is_civil;
use crate::time::EventTime;
use crate::vocabulary::Pseudonym;

/// Length of a printed pseudonym.
const PSEUDONYM_TEXT_BYTES: usize = 32;

/// Name of a list's items, as Parquet's specification has it since 2.4 (arrow-rs says `item`).
pub(super) const LIST_ITEM: &str = "element";

/// Collects floats; those that are not finite become null.
pub(super) struct Float64s(Float64Array);

impl FromIterator<Option<f64>> for Float64s {
    fn from_iter<I: IntoIterator<Item = Option<f64>>>(values: I) -> Self {
        // Numbers first, and then which of them are known, 64 at a time: a bit a row costs as much as the rest of the column.
        let numbers: Vec<f64> = values.into_iter().map(|value| value.unwrap_or(f64::NAN)).collect();
        let known = |row: usize| numbers[row].is_finite();
        let all = numbers.iter().fold(true, |all, number| all & number.is_finite());
        let nulls = (!all).then(|| NullBuffer::new(BooleanBuffer::collect_bool(numbers.len(), known)));
        Float64s(Float64Array::new(numbers.into(), nulls))
    }
}

impl From<Float64s> for ArrayRef {
    fn from(floats: Float64s) -> ArrayRef {
        Arc::new(floats.0)
    }
}

/// Pseudonyms as 32 lower-case hexadecimal digits.
pub(super) fn pseudonyms<'a>(values: impl ExactSizeIterator<Item = &'a Pseudonym>) -> ArrayRef {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let rows = values.len();
    let mut text = Vec::with_capacity(rows * PSEUDONYM_TEXT_BYTES);
    for value in values {
        let mut digits = [0; PSEUDONYM_TEXT_BYTES];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(value.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        text.extend_from_slice(&digits);
    }
    let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(PSEUDONYM_TEXT_BYTES, rows));
    Arc::new(StringArray::new(offsets, Buffer::from_vec(text), None))
}

/// Texts, null where there is none.
pub(super) fn texts<'a>(values: impl ExactSizeIterator<Item = Option<&'a str>>) -> ArrayRef {
    let mut column = StringBuilder::with_capacity(values.len(), values.len() * 12);
    values.for_each(|value| column.append_option(value));
    Arc::new(column.finish())
}

/// The same text, or none, in every row.
pub(super) fn repeated(value: Option<&str>, rows: usize) -> ArrayRef {
    match value {
        Some(value) => {
            let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(value.len(), rows));
            Arc::new(StringArray::new(offsets, Buffer::from_vec(value.as_bytes().repeat(rows)), None))
        }
        None => Arc::new(StringArray::new_null(rows)),
    }
}

/// Lists of texts; a row without any has an empty list.
pub(super) fn lists<'a>(values: impl ExactSizeIterator<Item = &'a [&'static str]>) -> ArrayRef {
    let mut offsets = Vec::with_capacity(values.len() + 1);
    let mut items = StringBuilder::new();
    let mut end = 0_i32;
    offsets.push(end);
    for value in values {
        value.iter().for_each(|item| items.append_value(item));
        end += i32::try_from(value.len()).expect("a handful of reasons");
        offsets.push(end);
    }
    let field = Arc::new(Field::new(LIST_ITEM, DataType::Utf8, false));
    Arc::new(ListArray::new(field, OffsetBuffer::new(offsets.into()), Arc::new(items.finish()), None))
}

/// 64-bit integers that are known in every row.
pub(super) fn int64(values: impl ExactSizeIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

/// 64-bit integers, null where there is none.
pub(super) fn int64_or_null(values: impl ExactSizeIterator<Item = Option<i64>>) -> ArrayRef {
    let (integers, nulls) = integers(values);
    Arc::new(Int64Array::new(integers, nulls))
}

/// The integers, 0 where there is none, and where that is, if anywhere.
fn integers(values: impl ExactSizeIterator<Item = Option<i64>>) -> (ScalarBuffer<i64>, Option<NullBuffer>) {
    let mut nulls = NullBufferBuilder::new(values.len());
    let integers: Vec<i64> = values
        .map(|value| {
            nulls.append(value.is_some());
            value.unwrap_or(0)
        })
        .collect();
    (integers.into(), nulls.finish())
}

/// 32-bit integers.
pub(super) fn int32(values: impl ExactSizeIterator<Item = i32>) -> ArrayRef {
    Arc::new(Int32Array::from_iter_values(values))
}

/// Truth values.
pub(super) fn boolean(values: impl ExactSizeIterator<Item = bool>) -> ArrayRef {
    let values: Vec<bool> = values.collect();
    Arc::new(BooleanArray::from(values))
}

/// Instants, microseconds UTC; null where unknown or outside the years 0001 to 9999.
pub(super) fn instants(values: impl ExactSizeIterator<Item = Option<EventTime>>) -> ArrayRef {
    let (micros, nulls) = integers(values.map(|at| at.filter(|at| is_civil(*at)).map(EventTime::micros)));
    Arc::new(TimestampMicrosecondArray::new(micros, nulls).with_timezone("UTC"))
}

/// Instants that are always known, as they are.
pub(super) fn bounds(values: impl ExactSizeIterator<Item = EventTime>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(values.map(EventTime::micros)).with_timezone("UTC"))
}
