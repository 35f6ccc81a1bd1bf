//! Rows of the audit's tables become documents: which index, under which id, with which fields.
//!
//! | table | index | `_id` is a digest of |
//! |---|---|---|
//! | `shifts` | `<stem>-shifts` | feature, group, window |
//! | `quality` | `<stem>-quality` | topic, measure, window |
//! | `performance` | `<stem>-performance` | group, window |
//! | `fairness` | `<stem>-fairness` | attribute, group, window |
//! | `alerts` | `<stem>-alerts` | table, feature, group, window |
//!
//! The stem is `sink.elasticsearch.audit`; without one nothing of the audit is written. Fields are all columns, and `@timestamp`, the window's end.
//! `retracted` is true for what no longer stands: a window that has lost all its readings, an alert that a correction has taken back.
//!
//! Invariants: what is said again of a window overwrites what was said before, by the epoch as version; one document of a window and subject an epoch
//! (`audit/publish.rs`). Nothing here is about one person. Pure.
//!
//! Limits: one index a table, kept for ever: some dozens of documents a window.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Int64Type, Schema, TimestampMicrosecondType};
use sha2::{Digest, Sha256};

use crate::config::{ElasticsearchSpec, TableName};
use crate::sink::json;
use crate::sink::{Rows, SinkError};
use crate::time::Epoch;
use crate::vocabulary::findings::AlertState;

use super::document::{Document, DocumentId, ECS, RETRACTED, check_index};

/// The tables that become documents, in the order in which their templates are put.
pub const TABLES: [TableName; 5] = TableName::OF_AUDIT;

/// When what a document says was known.
const TIMESTAMP: (&str, &str) = ("@timestamp", "current_end");
/// The bounds of a window.
const WINDOW: [&str; 2] = ["current_start", "current_end"];

/// The name of a table's index.
pub fn index(stem: &str, table: TableName) -> String {
    format!("{stem}-{}", table.name())
}

/// The fields: document field = column.
pub fn fields(schema: &Schema) -> BTreeMap<String, String> {
    let columns = schema.fields().iter().map(|field| (field.name().clone(), field.name().clone()));
    columns.chain([(TIMESTAMP.0.to_owned(), TIMESTAMP.1.to_owned())]).collect()
}

/// Makes the documents of a flow's audit.
#[derive(Clone, Debug)]
pub struct Findings {
    indices: BTreeMap<TableName, Arc<str>>,
}

impl Findings {
    /// `None` if the flow wants no such documents.
    ///
    /// # Errors
    /// An index name that Elasticsearch would refuse.
    pub fn new(spec: &ElasticsearchSpec) -> Result<Option<Self>, SinkError> {
        if spec.audit.is_empty() {
            return Ok(None);
        }
        check_index("sink.elasticsearch.audit", &spec.audit)?;
        let indices = TABLES.into_iter().map(|table| (table, index(&spec.audit, table).into())).collect();
        Ok(Some(Findings { indices }))
    }

    /// The documents of a batch, in the order of its rows; `None` if its table becomes none.
    ///
    /// # Panics
    /// If the batch is not of its table: the schema is fixed.
    pub fn of(&self, epoch: Epoch, rows: &Rows) -> Option<Vec<Document>> {
        let (table, index) = (rows.table, self.indices.get(&rows.table)?);
        let encoded = json::rows(&rows.batch, &fields(&rows.batch.schema())).expect("fields are the schema's columns");
        let view = View::of(rows);
        let kind = if table == TableName::Alerts { "alert" } else { "metric" };
        let document = |row: usize| {
            let retracted = view.retracted(row);
            let mut source = format!("{{\"{RETRACTED}\":{retracted},{ECS}\"{kind}\"}},").into_bytes();
            // Without its brace it goes on with what is there.
            source.extend_from_slice(&encoded.object(row).expect("no row is left out")[1..]);
            let index = Arc::clone(index);
            Document { table, id: view.id(table, row), index, epoch, replaces: false, source }
        };
        Some((0..rows.batch.num_rows()).map(document).collect())
    }
}

/// The columns that decide about a row.
struct View<'a> {
    subject: Vec<&'a ArrayRef>,
    count: Option<&'a ArrayRef>,
    state: Option<&'a ArrayRef>,
}

impl<'a> View<'a> {
    fn of(rows: &'a Rows) -> Self {
        let column = |name: &&str| rows.batch.column_by_name(name).expect("the table has this column");
        let (subject, count, state) = match rows.table {
            TableName::Shifts => (&["feature", "group"][..], Some("current_count"), None),
            TableName::Quality => (&["topic", "measure"][..], Some("current_inputs"), None),
            TableName::Performance => (&["group"][..], Some("readings_count"), None),
            TableName::Fairness => (&["attribute", "group"][..], Some("readings_count"), None),
            TableName::Alerts => (&["table", "feature", "group"][..], None, Some("state")),
            other => unreachable!("{} is none of the audit's tables with documents", other.name()),
        };
        View {
            subject: subject.iter().chain(&WINDOW).map(column).collect(),
            count: count.as_ref().map(column),
            state: state.as_ref().map(column),
        }
    }

    /// The same for the same subject and window, whatever is said of them.
    fn id(&self, table: TableName, row: usize) -> DocumentId {
        let mut digest = Sha256::new();
        let mut part = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        part(table.name().as_bytes());
        for column in &self.subject {
            match column.data_type() {
                DataType::Timestamp(..) => {
                    part(&column.as_primitive::<TimestampMicrosecondType>().value(row).to_le_bytes());
                }
                _ => part(column.as_string::<i32>().value(row).as_bytes()),
            }
        }
        let digest: [u8; 32] = digest.finalize().into();
        DocumentId(std::array::from_fn(|at| digest[at]))
    }

    fn retracted(&self, row: usize) -> bool {
        let empty = self.count.is_some_and(|count| count.as_primitive::<Int64Type>().value(row) == 0);
        let taken_back = |state: &&ArrayRef| state.as_string::<i32>().value(row) == AlertState::Withdrawn.name();
        empty || self.state.as_ref().is_some_and(taken_back)
    }
}

#[cfg(test)]
mod tests {
    //! What these prove: every column is in the document; the id is that of subject and window alone; what no longer stands says so.
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::super::testing::found;
    use super::*;
    use crate::sink::testing::alert;
    use crate::time::EventTime;
    use crate::vocabulary::findings::{Alert, Fairness, Finding, Performance, Quality, Shift, Side};

    fn findings() -> Findings {
        let spec = ElasticsearchSpec { audit: "bp-audit".into(), ..ElasticsearchSpec::default() };
        Findings::new(&spec).unwrap().unwrap()
    }

    fn documents(finding: Finding) -> (Document, Value) {
        let rows = found(7, vec![finding]);
        let mut documents = findings().of(7, &rows).unwrap();
        let document = documents.pop().unwrap();
        assert!(documents.is_empty() && document.epoch == 7);
        let source: Value = serde_json::from_slice(&document.source).unwrap();
        for field in rows.batch.schema().fields() {
            let column = rows.batch.column_by_name(field.name()).unwrap();
            assert_eq!(source.get(field.name()).is_some(), column.is_valid(0), "{}", field.name());
        }
        (document, source)
    }

    fn hours(start: i64, end: i64) -> (EventTime, EventTime) {
        let hour = |hour: i64| EventTime::from_micros(hour * 3_600_000_000);
        (hour(start), hour(end))
    }

    fn shift(feature: &'static str, group: &str, current: (i64, i64), readings: u64) -> Finding {
        let current_side = Side { readings, ..Side::default() };
        Finding::Shift(Shift {
            feature,
            group: group.to_owned(),
            current: hours(current.0, current.1),
            current_side,
            ..Shift::default()
        })
    }

    #[test]
    fn every_table_has_an_index_and_says_what_it_found() {
        let current = hours(490_000, 490_001);
        let inputs = Finding::Quality(Quality {
            topic: None,
            measure: "late",
            current,
            current_counts: (3, 1),
            ..Quality::default()
        });
        let side = Finding::Performance(Performance { group: "all", current, readings: 3, ..Performance::default() });
        let fair = Finding::Fairness(Fairness {
            attribute: "sex",
            group: "sex=female",
            current,
            readings: 3,
            ..Fairness::default()
        });
        let alert = Finding::Alert(Alert { current, ..alert("systolic", 0, AlertState::Raised) });
        let told = [shift("systolic", "all", (490_000, 490_001), 3), inputs, side, fair, alert].map(documents);
        let told: Vec<String> = told
            .iter()
            .map(|(document, source)| {
                format!(
                    "{} {} {} {}",
                    document.index, source["event"]["kind"], source["@timestamp"], source["retracted"]
                )
            })
            .collect();
        expect_test::expect![[r#"
            bp-audit-shifts "metric" "2025-11-24T17:00:00.000000Z" false
            bp-audit-quality "metric" "2025-11-24T17:00:00.000000Z" false
            bp-audit-performance "metric" "2025-11-24T17:00:00.000000Z" false
            bp-audit-fairness "metric" "2025-11-24T17:00:00.000000Z" false
            bp-audit-alerts "alert" "2025-11-24T17:00:00.000000Z" false"#]]
        .assert_eq(&told.join("\n"));
        assert!(findings().of(7, &super::super::testing::readings(&[])).is_none());
    }

    #[test]
    fn the_id_is_of_subject_and_window_whatever_is_said() {
        let id = |feature, group, window, readings| documents(shift(feature, group, window, readings)).0.id;
        let first = id("systolic", "all", (1, 2), 3);
        assert_eq!(first, id("systolic", "all", (1, 2), 900));
        let others = [
            id("diastolic", "all", (1, 2), 3),
            id("systolic", "sex=male", (1, 2), 3),
            id("systolic", "all", (1, 3), 3),
            id("systolic", "all", (0, 2), 3),
        ];
        assert_eq!(others.into_iter().chain([first]).collect::<BTreeSet<_>>().len(), 5);
        // Another table's subject of the same letters, and letters that move from one part to the next.
        let fair = |attribute, group| {
            documents(Finding::Fairness(Fairness { attribute, group, current: hours(1, 2), ..Fairness::default() }))
                .0
                .id
        };
        assert_ne!(fair("systolic", "all"), first);
        assert_ne!(fair("ab", "c"), fair("a", "bc"));
    }

    #[test]
    fn what_no_longer_stands_is_retracted() {
        assert_eq!(documents(shift("systolic", "all", (1, 2), 0)).1["retracted"], true);
        for (state, retracted) in [(AlertState::Withdrawn, true), (AlertState::Cleared, false)] {
            assert_eq!(documents(Finding::Alert(alert("systolic", 1, state))).1["retracted"], retracted);
        }
    }
}
