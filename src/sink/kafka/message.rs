//! Rows as messages: which of them, with which key, value, headers and route.
//!
//! Invariants: a row's messages are a function of the row and its epoch alone, so that a replay makes the same; a dead letter holds neither
//! the payload nor the key of its record.

use std::sync::Arc;

use arrow::array::{Array, AsArray, StringArray};
use arrow::datatypes::{Int32Type, Int64Type};
use rdkafka::message::{Header, OwnedHeaders};

use crate::config::KafkaSinkSpec;
use crate::runtime::survive::{Route, key_group};
use crate::sink::alerts::Alerts;
use crate::sink::filter::Filter;
use crate::sink::{Rows, SinkError, json};
use crate::source;
use crate::time::Epoch;
use crate::vocabulary::Pseudonym;

/// The columns of `rejected` that a dead letter repeats.
const DEAD_LETTER: [&str; 7] = ["rule", "detail", "index", "topic", "partition", "offset", "entry"];

/// A message that waits for its transaction.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) topic: Arc<str>,
    pub(super) key: Vec<u8>,
    /// `None` deletes the key from a compacted topic.
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Option<OwnedHeaders>,
}

impl Message {
    /// Key and value, without headers.
    pub(super) fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// The messages of a batch of `readings`; of those rows only that the filter passes and whose route is `wanted`.
pub(super) fn readings(
    spec: &KafkaSinkSpec,
    epoch: Epoch,
    rows: &Rows,
    wanted: impl Fn(Route) -> bool,
) -> Result<Vec<Message>, SinkError> {
    let (filter, patients) = (Filter::new(spec.readings, rows), texts(rows, "patient"));
    let lines = encoded(rows, &[], |row| filter.passes(row) && wanted(patient_route(patients.value(row))))?;
    let (topic, epoch): (Arc<str>, _) = (spec.topic.as_str().into(), epoch.to_string());
    let message = |row| {
        Some(Message {
            topic: Arc::clone(&topic),
            key: patients.value(row).as_bytes().to_vec(),
            value: Some(lines.object(row)?.to_vec()),
            headers: Some(OwnedHeaders::new_with_capacity(1).insert(text("epoch", &epoch))),
        })
    };
    Ok((0..lines.len()).filter_map(message).collect())
}

/// The messages of a batch of `rejected`, each with its rule; of those rows only whose route is `wanted`.
pub(super) fn dead_letters(
    spec: &KafkaSinkSpec,
    group: &str,
    epoch: Epoch,
    rows: &Rows,
    wanted: impl Fn(Route) -> bool,
) -> Result<Vec<(String, Message)>, SinkError> {
    let (topics, rules, details) = (texts(rows, "topic"), texts(rows, "rule"), texts(rows, "detail"));
    let partitions = column(rows, "partition").as_primitive::<Int32Type>();
    let offsets = column(rows, "offset").as_primitive::<Int64Type>();
    let entries = column(rows, "entry").as_primitive::<Int64Type>();
    let route = |row| source::route(topics.value(row), partitions.value(row));
    let lines = encoded(rows, &DEAD_LETTER, |row| wanted(route(row)))?;
    let epoch = epoch.to_string();
    let letter = |row| {
        let (topic, partition) = (topics.value(row), partitions.value(row).to_string());
        let (offset, rule) = (offsets.value(row).to_string(), rules.value(row));
        let headers = OwnedHeaders::new_with_capacity(6)
            .insert(text("x-error-type", rule))
            .insert(text("x-error-message", details.value(row)))
            .insert(text("x-source-topic", topic))
            .insert(text("x-source-partition", &partition))
            .insert(text("x-source-offset", &offset))
            .insert(text("epoch", &epoch));
        let message = Message {
            topic: dead_letter_topic(spec, topic, group).into(),
            key: format!("{topic}/{partition}/{offset}/{}", entries.value(row)).into_bytes(),
            value: Some(lines.object(row)?.to_vec()),
            headers: Some(headers),
        };
        Some((rule.to_owned(), message))
    };
    Ok((0..lines.len()).filter_map(letter).collect())
}

/// The messages of a batch of `alerts`; of those rows only whose route is `wanted`. What is said again of a window has the key of what was said before.
pub(super) fn alerts(
    spec: &KafkaSinkSpec,
    epoch: Epoch,
    rows: &Rows,
    wanted: impl Fn(Route) -> bool,
) -> Result<Vec<Message>, SinkError> {
    let alerts = Alerts::of(rows);
    let lines = encoded(rows, &[], |row| wanted(alerts.route(row)))?;
    let (topic, epoch): (Arc<str>, _) = (spec.alerts_topic.as_str().into(), epoch.to_string());
    let message = |row| {
        Some(Message {
            topic: Arc::clone(&topic),
            key: alerts.key(row).into_bytes(),
            value: Some(lines.object(row)?.to_vec()),
            headers: Some(OwnedHeaders::new_with_capacity(1).insert(text("epoch", &epoch))),
        })
    };
    Ok((0..lines.len()).filter_map(message).collect())
}

/// Where rejections of a source topic go; `auto` follows the convention `error.<source topic>.<group>`.
pub fn dead_letter_topic(spec: &KafkaSinkSpec, source: &str, group: &str) -> String {
    match spec.dead_letter_topic.as_str() {
        "auto" => format!("error.{source}.{group}"),
        named => named.to_string(),
    }
}

/// The route of a patient's rows: that of the patient's state.
fn patient_route(patient: &str) -> Route {
    let digit = |at: usize| u8::from_str_radix(&patient[2 * at..2 * at + 2], 16);
    let pseudonym = std::array::from_fn(|at| digit(at).expect("a pseudonym is written as 32 hexadecimal digits"));
    key_group(Pseudonym(pseudonym).hash64())
}

fn encoded(rows: &Rows, columns: &[&str], keep: impl Fn(usize) -> bool) -> Result<json::JsonRows, SinkError> {
    let fields = columns.iter().map(|column| (column.to_string(), column.to_string())).collect();
    json::rows_where(&rows.batch, &fields, keep).map_err(|error| SinkError::Refused(error.to_string()))
}

fn column<'a>(rows: &'a Rows, name: &str) -> &'a dyn Array {
    rows.batch.column_by_name(name).expect("the table's schema is fixed")
}

fn texts<'a>(rows: &'a Rows, name: &str) -> &'a StringArray {
    column(rows, name).as_string()
}

fn text<'a>(key: &'a str, value: &'a str) -> Header<'a, &'a str> {
    Header { key, value: Some(value) }
}

#[cfg(test)]
mod tests {
    //! Proves that a row's route is that of the state it comes from.
    use super::*;

    #[test]
    fn a_patients_rows_go_where_the_patients_state_is() {
        for seed in 0..=255_u8 {
            let pseudonym = Pseudonym(std::array::from_fn(|at| seed.wrapping_mul(31).wrapping_add(at as u8 * 7)));
            assert_eq!(patient_route(&pseudonym.to_string()), key_group(pseudonym.hash64()));
        }
    }
}
