//! What the audit's indices must hold: of each subject and window what the last row says that another sink of the same runs wrote; nothing else.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::clients::{Document, documents};
use crate::support::{Row, integer, last_rows, ndjson};

/// Each table that becomes documents, and what its rows are about besides the window.
pub(crate) const TABLES: [(&str, &[&str]); 5] = [
    ("shifts", &["feature", "group", "current_start", "current_end"]),
    ("quality", &["topic", "measure", "current_start", "current_end"]),
    ("performance", &["group", "current_start", "current_end"]),
    ("fairness", &["attribute", "group", "current_start", "current_end"]),
    ("alerts", &["table", "feature", "group", "current_start", "current_end"]),
];

/// The documents that the NDJSON files below `data` make of a table.
fn expected(data: &Path, table: &str, subject: &[&str]) -> Vec<Row> {
    let mut rows = last_rows(&ndjson(data, table), subject);
    for row in &mut rows {
        let count = ["current_inputs", "readings_count", "current_count"].iter().find_map(|column| row.get(*column));
        let gone = count == Some(&json!(0)) || row.get("state") == Some(&json!("withdrawn"));
        let kind = if table == "alerts" { "alert" } else { "metric" };
        let when = row["current_end"].clone();
        row.insert("@timestamp".into(), when);
        row.insert("retracted".into(), gone.into());
        row.insert("event".into(), json!({ "kind": kind }));
        row.insert("ecs".into(), json!({ "version": "8.11.0" }));
        row.insert("service".into(), json!({ "name": "windkessel" }));
    }
    rows
}

/// True if both say the same; floats may be read with another last digit.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) if one.is_f64() && other.is_f64() => {
            let (one, other) = (one.as_f64().unwrap(), other.as_f64().unwrap());
            (one - other).abs() <= 4.0 * f64::EPSILON * one.abs().max(other.abs())
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (one, other) => one == other,
    }
}

/// Compares every index with the files, document by document; what they hold, by table.
pub(crate) fn agree(url: &str, stem: &str, data: &Path) -> BTreeMap<&'static str, Vec<Row>> {
    let mut all = BTreeMap::new();
    for (table, subject) in TABLES {
        let expected = expected(data, table, subject);
        let about = |row: &Row| subject.iter().map(|column| row[*column].to_string()).collect::<Vec<_>>();
        let mut there = BTreeMap::new();
        for Document { id, version, source } in documents(url, &format!("{stem}-{table}")) {
            assert_eq!(version, integer(&source, "epoch"), "{id}");
            assert!(there.insert(about(&source), source).is_none(), "{table}: two documents of one subject and window");
        }
        let wanted: BTreeMap<Vec<String>, Row> = expected.iter().map(|row| (about(row), row.clone())).collect();
        assert_eq!(there.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>(), "{table}");
        for (about, row) in &wanted {
            let source = &there[about];
            assert_eq!(source.len(), row.len(), "{table}: {source:?}, not {row:?}");
            for (field, value) in row {
                assert!(same(&source[field], value), "{table}: {field} of {about:?}: {}, not {value}", source[field]);
            }
        }
        all.insert(table, expected);
    }
    all
}
