//! Rows of `readings` become documents: which rows, under which id, in which index, with which fields.
//!
//! | | |
//! |---|---|
//! | rows | those that the filter takes, and every row that replaces an earlier version |
//! | `_id` | the observation's pseudonym: a newer version of it overwrites |
//! | index | the configured name, or `<stem>-YYYY.MM` of the event time, UTC: a replay finds the same index again |
//! | fields | the configured ones, else all columns; always `@timestamp` (the event time), `epoch` and `retracted` |
//! | `labels` | what the rule set calls the reasons, each once: a string if it is one, an array if they are more, absent if none |
//!
//! `retracted` is true for a version that withdraws the observation (entered in error, cancelled) and for one that replaces a document
//! but does not pass the filter itself: dashboards ask for `NOT retracted: true`. A document is not deleted: a deletion forgets
//! its version after `index.gc_deletes` (60 s), and a replay would then resurrect it.
//!
//! Invariants: index names hold nothing but the configured stem and digits; one document an id leaves [`consolidate`]. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, AsArray, ListArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Schema, TimestampMicrosecondType};
use serde_json::json;

use crate::config::{ElasticsearchSpec, IndexBy, ReadingFilter, TableName};
use crate::score::rules::rule_set;
use crate::sink::json::{self, JsonRows};
use crate::sink::{Rows, SinkError};
use crate::time::Epoch;
use crate::vocabulary::{Pseudonym, Status};

/// The field that holds the event time under the name that every Elasticsearch tool looks for.
const TIMESTAMP: (&str, &str) = ("@timestamp", "effective_at");
/// The epoch, which is also the document's version.
const EPOCH: (&str, &str) = ("epoch", "epoch");
/// Set by the sink, never a column.
pub(super) const RETRACTED: &str = "retracted";
/// Stands for the rule set's labels in a flow file.
const LABELS: &str = "labels";
/// The Elastic Common Schema that `event.kind` follows: metric for a measurement, alert for one with a reason.
pub(super) const ECS: &str = r#""ecs":{"version":"8.11.0"},"service":{"name":"windkessel"},"event":{"kind":"#;
/// The month of an event time that the calendar does not have (outside the years 1 to 9999).
const UNDATED: &str = "undated";

/// A document's `_id`, printed as 32 hexadecimal digits: an observation's pseudonym, or a digest of what a finding of the audit is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentId(pub [u8; 16]);

impl From<Pseudonym> for DocumentId {
    fn from(observation: Pseudonym) -> Self {
        DocumentId(observation.0)
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As pseudonyms are printed: an observation's document is found by its pseudonym.
        Pseudonym(self.0).fmt(out)
    }
}

/// A document, encoded.
#[derive(Clone, PartialEq, Eq)]
pub struct Document {
    /// The table that its row is of.
    pub table: TableName,
    /// Its `_id`.
    pub id: DocumentId,
    /// Its index.
    pub index: Arc<str>,
    /// Its version.
    pub epoch: Epoch,
    /// It replaces an earlier version, which may stand in another month's index.
    pub replaces: bool,
    /// One JSON object.
    pub source: Vec<u8>,
}

/// The rules above, as a flow sets them.
#[derive(Clone, Debug)]
pub struct Documents {
    index: String,
    by: IndexBy,
    readings: ReadingFilter,
    /// Without those that stand for labels.
    fields: BTreeMap<String, String>,
    /// Fields that hold labels.
    labels: Vec<String>,
}

impl Documents {
    /// # Errors
    /// An index name that Elasticsearch would refuse, or a field that the sink writes itself.
    pub fn new(spec: &ElasticsearchSpec) -> Result<Self, SinkError> {
        check_index("sink.elasticsearch.index", &spec.index)?;
        if spec.fields.contains_key(RETRACTED) {
            return Err(SinkError::Refused(
                "sink.elasticsearch.fields must not name \"retracted\": the sink writes it itself".into(),
            ));
        }
        let (labels, fields): (Vec<_>, Vec<_>) =
            spec.fields.clone().into_iter().partition(|(_, column)| column == LABELS);
        Ok(Documents {
            index: spec.index.clone(),
            by: spec.index_by,
            readings: spec.readings,
            fields: fields.into_iter().collect(),
            labels: labels.into_iter().map(|(field, _)| field).collect(),
        })
    }

    /// True if every column is written under its own name, with the common fields of Elastic's schema.
    pub fn bare(&self) -> bool {
        self.fields.is_empty() && self.labels.is_empty()
    }

    /// Fields that hold labels.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The fields that come from columns: document field = column.
    pub fn columns(&self, schema: &Schema) -> BTreeMap<String, String> {
        let mut columns = self.fields.clone();
        if self.bare() {
            columns.extend(schema.fields().iter().map(|field| (field.name().clone(), field.name().clone())));
        }
        for (field, column) in [TIMESTAMP, EPOCH] {
            columns.entry(field.into()).or_insert_with(|| column.into());
        }
        columns
    }

    /// The documents of a batch, in the order of its rows.
    ///
    /// # Errors
    /// A configured column that the table does not have.
    pub fn of(&self, epoch: Epoch, rows: &Rows) -> Result<Vec<Document>, SinkError> {
        let view = View::of(&rows.batch);
        let replaces = |row: usize| rows.replaces.get(row).copied().unwrap_or(false);
        let keep = |row: usize| replaces(row) || self.takes(&view, row);
        let encoded = json::rows_where(&rows.batch, &self.columns(&rows.batch.schema()), keep)
            .map_err(|unknown| SinkError::Refused(format!("sink.elasticsearch.fields: {unknown}")))?;
        let mut months = Months { stem: &self.index, last: None };
        let document = |row: usize| {
            let replaces = replaces(row);
            Some(Document {
                table: TableName::Readings,
                id: view.id(row),
                index: match self.by {
                    IndexBy::None => months.plain(),
                    IndexBy::Month => months.name(view.at(row)),
                },
                epoch,
                replaces,
                source: self.source(&view, &encoded, row, replaces)?,
            })
        };
        Ok((0..rows.batch.num_rows()).filter_map(document).collect())
    }

    fn takes(&self, view: &View<'_>, row: usize) -> bool {
        match self.readings {
            ReadingFilter::All => true,
            ReadingFilter::Anomalies => view.anomalous(row),
            ReadingFilter::Normal => !view.anomalous(row),
        }
    }

    /// The encoded columns with the sink's own fields in front; `None` if the row was left out.
    fn source(&self, view: &View<'_>, encoded: &JsonRows, row: usize, replaces: bool) -> Option<Vec<u8>> {
        let columns = encoded.object(row)?;
        let retracted = view.withdraws(row) || (replaces && !self.takes(view, row));
        let mut source = format!("{{\"{RETRACTED}\":{retracted}").into_bytes();
        if self.bare() {
            let kind = if view.anomalous(row) { "alert" } else { "metric" };
            source.extend_from_slice(format!(",{ECS}\"{kind}\"}}").as_bytes());
        }
        for field in &self.labels {
            view.write_labels(row, field, &mut source);
        }
        // The encoder's object begins with a brace, which becomes the comma between the two halves.
        if columns != b"{}" {
            source.push(b',');
        }
        source.extend_from_slice(&columns[1..]);
        Some(source)
    }
}

/// Leaves the newest version of each id: the last of the highest epoch. Ordered by id.
pub fn consolidate(documents: &mut Vec<Document>) {
    documents.sort_by_key(|document| (document.id, document.epoch));
    // `dedup_by` keeps the first of equals and compares (later, earlier): put the later one in its place.
    documents.dedup_by(|later, earlier| {
        let same = later.id == earlier.id;
        if same {
            let replaces = later.replaces || earlier.replaces;
            std::mem::swap(later, earlier);
            earlier.replaces = replaces;
        }
        same
    });
}

/// True if `name` is a month's index of this stem.
pub fn is_month_of(stem: &str, name: &str) -> bool {
    let Some(month) = name.strip_prefix(stem).and_then(|rest| rest.strip_prefix('-')) else { return false };
    month == UNDATED
        || matches!(month.as_bytes(), [y @ .., b'.', a, b] if y.len() == 4 && y.iter().chain([a, b]).all(u8::is_ascii_digit))
}

/// A name that needs no escaping in JSON or a URL, and that Elasticsearch accepts.
pub fn check_index(key: &str, name: &str) -> Result<(), SinkError> {
    let sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    let first = name.bytes().next().unwrap_or(b'.');
    if name.bytes().all(sound) && !b"._-".contains(&first) && name.len() <= INDEX_BYTES_MAX {
        return Ok(());
    }
    Err(SinkError::Refused(format!(
        "could not use {key} {name:?}; take lower-case letters, digits, '.', '_' and '-', beginning with a letter \
         or digit, at most {INDEX_BYTES_MAX} bytes"
    )))
}

/// Elasticsearch allows 255 bytes; the month needs some.
const INDEX_BYTES_MAX: usize = 200;

/// Index names, each made once while the month stays the same.
struct Months<'a> {
    stem: &'a str,
    last: Option<(Option<Month>, Arc<str>)>,
}

impl Months<'_> {
    fn plain(&mut self) -> Arc<str> {
        self.last.get_or_insert_with(|| (None, self.stem.into())).1.clone()
    }

    fn name(&mut self, at: Option<i64>) -> Arc<str> {
        let month = at.and_then(month_of);
        match &self.last {
            Some((last, name)) if *last == month => name.clone(),
            _ => {
                let name: Arc<str> = match month {
                    Some((year, month)) => format!("{}-{year:04}.{month:02}", self.stem).into(),
                    None => format!("{}-{UNDATED}", self.stem).into(),
                };
                self.last = Some((month, name.clone()));
                name
            }
        }
    }
}

/// Year and month.
type Month = (i16, i8);

fn month_of(micros: i64) -> Option<Month> {
    let instant = jiff::Timestamp::from_microsecond(micros).ok()?;
    let civil = jiff::tz::Offset::UTC.to_datetime(instant);
    (civil.year() >= 1).then(|| (civil.year(), civil.month()))
}

/// The columns that decide about a row.
struct View<'a> {
    observation: &'a StringArray,
    status: &'a StringArray,
    effective_at: &'a TimestampMicrosecondArray,
    reasons: &'a ListArray,
    rule_set: &'a StringArray,
}

impl<'a> View<'a> {
    /// # Panics
    /// If the batch is not a table of `readings`: its schema is fixed.
    fn of(batch: &'a RecordBatch) -> Self {
        let column = |name: &str| batch.column_by_name(name).expect("readings have this column");
        View {
            observation: column("observation").as_string(),
            status: column("status").as_string(),
            effective_at: column("effective_at").as_primitive::<TimestampMicrosecondType>(),
            reasons: column("reasons").as_list(),
            rule_set: column("rule_set").as_string(),
        }
    }

    fn id(&self, row: usize) -> DocumentId {
        let observation = self.observation.value(row).parse::<Pseudonym>();
        observation.expect("the column observation holds printed pseudonyms").into()
    }

    fn at(&self, row: usize) -> Option<i64> {
        self.effective_at.is_valid(row).then(|| self.effective_at.value(row))
    }

    fn withdraws(&self, row: usize) -> bool {
        let status = self.status.value(row);
        [Status::EnteredInError, Status::Cancelled].iter().any(|withdrawn| withdrawn.code() == status)
    }

    fn anomalous(&self, row: usize) -> bool {
        self.reasons.is_valid(row) && self.reasons.value_length(row) > 0
    }

    fn write_labels(&self, row: usize, field: &str, out: &mut Vec<u8>) {
        let Some(rules) = rule_set(self.rule_set.value(row)).filter(|_| self.anomalous(row)) else { return };
        let reasons = self.reasons.value(row);
        let value = match rules.labels(reasons.as_string::<i32>().iter().flatten()).as_slice() {
            [] => return,
            [label] => json!({ field: label }),
            labels => json!({ field: labels }),
        };
        // Without the braces it is one more member of the document.
        let member = value.to_string();
        out.push(b',');
        out.extend_from_slice(&member.as_bytes()[1..member.len() - 1]);
    }
}

#[cfg(test)]
mod tests {
    //! What these prove: which rows become which documents, by a table of rows with a printed answer.

    use expect_test::{Expect, expect};

    use super::super::testing::{readings, row};
    use super::*;

    fn check(spec: &ElasticsearchSpec, rows: &Rows, expect: Expect) {
        let documents = Documents::new(spec).unwrap().of(7, rows).unwrap();
        let mut out = String::new();
        for document in documents {
            let source = std::str::from_utf8(&document.source).unwrap();
            serde_json::from_str::<serde_json::Value>(source).unwrap();
            out += &format!("{} {} {source}\n", document.index, &document.id.to_string()[30..]);
        }
        expect.assert_eq(&out);
    }

    fn fields(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(field, column)| (field.to_string(), column.to_string())).collect()
    }

    fn table() -> Rows {
        readings(&[
            row(1)
                .at("2026-01-31T23:59:59Z")
                .pressure(170.0, 55.0)
                .reasons(&["hypertension_systolic", "hypotension_diastolic"]),
            row(2)
                .at("2026-02-01T00:00:00Z")
                .pressure(150.0, 95.0)
                .reasons(&["hypertension_systolic", "hypertension_diastolic"]),
            row(3).at("2026-02-02T00:00:00Z").pressure(120.0, 80.0),
            row(4).at("2026-02-03T00:00:00Z").pressure(121.0, 80.0).replaces().status("amended"),
            row(5).at("2026-02-04T00:00:00Z").replaces().status("entered-in-error"),
        ])
    }

    #[test]
    fn anomalies_pass_and_so_does_what_replaces_one() {
        let spec = ElasticsearchSpec {
            readings: ReadingFilter::Anomalies,
            fields: fields(&[("anomaly_type", "labels"), ("systolic_pressure", "systolic_mmhg")]),
            ..Default::default()
        };
        check(
            &spec,
            &table(),
            expect![[r#"
            bp-readings-2026.01 01 {"retracted":false,"anomaly_type":["Hypertension","Hypotension"],"@timestamp":"2026-01-31T23:59:59.000000Z","epoch":7,"systolic_pressure":170.0}
            bp-readings-2026.02 02 {"retracted":false,"anomaly_type":"Hypertension","@timestamp":"2026-02-01T00:00:00.000000Z","epoch":7,"systolic_pressure":150.0}
            bp-readings-2026.02 04 {"retracted":true,"@timestamp":"2026-02-03T00:00:00.000000Z","epoch":7,"systolic_pressure":121.0}
            bp-readings-2026.02 05 {"retracted":true,"@timestamp":"2026-02-04T00:00:00.000000Z","epoch":7}
        "#]],
        );
    }

    #[test]
    fn normal_readings_are_those_without_reason() {
        let spec = ElasticsearchSpec {
            readings: ReadingFilter::Normal,
            index: "normal".into(),
            index_by: IndexBy::None,
            fields: fields(&[("s", "systolic_mmhg")]),
            ..Default::default()
        };
        check(
            &spec,
            &table(),
            expect![[r#"
            normal 03 {"retracted":false,"@timestamp":"2026-02-02T00:00:00.000000Z","epoch":7,"s":120.0}
            normal 04 {"retracted":false,"@timestamp":"2026-02-03T00:00:00.000000Z","epoch":7,"s":121.0}
            normal 05 {"retracted":true,"@timestamp":"2026-02-04T00:00:00.000000Z","epoch":7}
        "#]],
        );
    }

    #[test]
    fn without_fields_all_columns_are_written_with_the_common_schema() {
        let rows = readings(&[row(2)
            .at("2026-02-01T00:00:00Z")
            .pressure(150.0, 95.0)
            .reasons(&["hypertension_systolic", "hypertension_diastolic"])]);
        check(
            &ElasticsearchSpec::default(),
            &rows,
            expect![[r#"
            bp-readings-2026.02 02 {"retracted":false,"ecs":{"version":"8.11.0"},"service":{"name":"windkessel"},"event":{"kind":"alert"},"@timestamp":"2026-02-01T00:00:00.000000Z","category":"stage 2","diastolic_mmhg":95.0,"effective_at":"2026-02-01T00:00:00.000000Z","epoch":7,"late":false,"not_recomputed":false,"observation":"00000000000000000000000000000002","offset":2,"partition":0,"patient":"000000000000000000000000000000aa","reasons":["hypertension_systolic","hypertension_diastolic"],"rule_set":"legacy_readings_envelope","status":"final","systolic_mmhg":150.0}
        "#]],
        );
    }

    #[test]
    fn a_time_outside_the_calendar_has_an_index_of_its_own() {
        let mut months = Months { stem: "s", last: None };
        let names: Vec<_> = [Some(0), Some(i64::MIN), None, Some(i64::MAX), Some(-1)].map(|at| months.name(at)).into();
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        assert_eq!(names, ["s-1970.01", "s-undated", "s-undated", "s-undated", "s-1969.12"]);
        assert!(names.iter().all(|name| is_month_of("s", name)));
        for other in ["s", "s-", "s-2026", "s-x-2026.01", "t-2026.01", "s-2026.1", "s-12026.01"] {
            assert!(!is_month_of("s", other), "{other}");
        }
    }

    #[test]
    fn an_unknown_column_names_what_there_is() {
        let spec = ElasticsearchSpec { fields: fields(&[("a", "pulse")]), ..Default::default() };
        let error = Documents::new(&spec).unwrap().of(1, &table()).err().unwrap().to_string();
        assert!(error.contains("sink.elasticsearch.fields") && error.contains("\"pulse\""), "{error}");
    }

    #[test]
    fn names_that_elasticsearch_refuses_are_refused_at_start() {
        for index in ["", "BP", "a b", "-a", ".a", "a/b", "a\"b", "a*", "ä"] {
            let spec = ElasticsearchSpec { index: index.into(), ..Default::default() };
            assert!(Documents::new(&spec).is_err(), "{index:?}");
        }
        let spec = ElasticsearchSpec { fields: fields(&[("retracted", "late")]), ..Default::default() };
        assert!(Documents::new(&spec).is_err());
    }

    #[test]
    fn the_last_version_of_a_document_wins() {
        let document = |id: u8, epoch: Epoch, source: &str, replaces: bool| Document {
            table: TableName::Readings,
            id: DocumentId([id; 16]),
            index: "i".into(),
            epoch,
            replaces,
            source: source.into(),
        };
        let mut documents = vec![
            document(2, 8, "d", false),
            document(1, 7, "a", false),
            document(2, 7, "c", true),
            document(1, 7, "b", true),
            document(3, 7, "e", false),
            document(1, 7, "f", false),
        ];
        consolidate(&mut documents);
        let left: Vec<_> = documents
            .iter()
            .map(|d| (d.id.0[0], d.epoch, std::str::from_utf8(&d.source).unwrap(), d.replaces))
            .collect();
        assert_eq!(left, [(1, 7, "f", true), (2, 8, "d", true), (3, 7, "e", false)]);
    }

    #[test]
    fn what_a_pseudonym_prints_is_read_back() {
        let all = Pseudonym(std::array::from_fn(|at| (at * 17) as u8));
        assert_eq!(all.to_string().parse(), Ok(all));
        for text in ["", "00", "+0000000000000000000000000000000", &"é".repeat(16)] {
            assert!(text.parse::<Pseudonym>().is_err(), "{text}");
        }
    }
}
