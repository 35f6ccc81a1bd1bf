//! Which columns a table has, in which order, of which type. DESIGN §5 is the contract; `schemas/parquet/*.txt` is its witness.
//!
//! A column is never renamed, moved or given another type after the first release; a new one goes right before `epoch`.

use std::fmt::Write as _;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};

use super::columns::LIST_ITEM;
use super::findings;
use crate::config::TableName;
use crate::signals::{DIASTOLIC, MEAN_ARTERIAL, SYSTOLIC, SignalId};

/// How a signal is called in column names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignalColumn {
    /// Which signal.
    pub signal: SignalId,
    /// Its name, e.g. `systolic`.
    pub name: String,
    /// Its canonical unit as part of a name, e.g. `mmhg`, `per_minute`, `percent`; empty for a number without unit.
    pub unit: String,
}

impl SignalColumn {
    /// `systolic_mmhg`, `systolic_mean_mmhg`, `systolic_slope_mmhg_per_hour`; the unit is left out where there is none.
    fn named(&self, statistic: &str, per: &str) -> String {
        let parts = [&self.name, statistic, &self.unit, per];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("_")
    }
}

/// One column: name, type, whether it may be null, and what it says.
pub(super) struct Column {
    name: String,
    kind: DataType,
    nullable: bool,
    meaning: String,
}

/// The Arrow schema of a table.
pub(super) fn schema(table: TableName, signals: &[SignalColumn]) -> Schema {
    let field = |column: Column| Field::new(column.name, column.kind, column.nullable);
    Schema::new(columns(table, signals).into_iter().map(field).collect::<Vec<_>>())
}

/// A table's schema as text, one column a line: what `schemas/parquet/<table>.txt` holds for the shipped flow.
pub fn describe(table: TableName, signals: &[SignalColumn]) -> String {
    columns(table, signals).iter().fold(String::new(), |mut text, column| {
        let null = if column.nullable { "null" } else { "" };
        let kind = type_name(&column.kind);
        writeln!(text, "{:<42} {kind:<24} {null:<5} {}", column.name, column.meaning).expect("a String takes all");
        text
    })
}

fn type_name(kind: &DataType) -> String {
    match kind {
        DataType::Timestamp(_, _) => "timestamp[us, UTC]".into(),
        DataType::List(item) => format!("list<{}>", type_name(item.data_type())),
        other => other.to_string().to_lowercase(),
    }
}

/// The flow's signals beside the three that have a place of their own.
pub(super) fn others(signals: &[SignalColumn]) -> impl Iterator<Item = &SignalColumn> {
    signals.iter().filter(|column| ![SYSTOLIC, DIASTOLIC, MEAN_ARTERIAL].contains(&column.signal))
}

fn columns(table: TableName, signals: &[SignalColumn]) -> Vec<Column> {
    match table {
        TableName::Readings => readings(signals),
        TableName::Windows => windows(signals),
        TableName::Rejected => rejected(),
        TableName::Shifts => found(&findings::shifts()),
        TableName::Quality => found(&findings::quality()),
        TableName::Performance => found(&findings::performance()),
        TableName::Fairness => found(&findings::fairness()),
        TableName::Alerts => found(&findings::alerts()),
    }
}

fn readings(signals: &[SignalColumn]) -> Vec<Column> {
    let mut columns = vec![
        given("patient", DataType::Utf8, "pseudonym: 32 lower-case hexadecimal digits"),
        given("observation", DataType::Utf8, "pseudonym of the observation; the key of this table"),
        given("status", DataType::Utf8, "FHIR Observation.status; entered-in-error and cancelled withdraw the reading"),
        maybe("version", DataType::Int64, "meta.versionId, else meta.lastUpdated in microseconds"),
    ];
    columns.extend(position());
    columns.extend([
        maybe("effective_at", instant(), "when it was measured; null for a deletion of unknown time"),
        maybe("received_at", instant(), "when the broker took it in; null for files"),
        maybe("systolic_mmhg", DataType::Float64, "null if not measured or withdrawn"),
        maybe("diastolic_mmhg", DataType::Float64, "null if not measured or withdrawn"),
    ]);
    columns.extend(
        others(signals)
            .map(|signal| maybe(&signal.named("", ""), DataType::Float64, "null if not measured or withdrawn")),
    );
    let reasons = DataType::List(Field::new(LIST_ITEM, DataType::Utf8, false).into());
    columns.extend([
        maybe("mean_arterial_mmhg", DataType::Float64, "the device's own, else diastolic + (systolic - diastolic)/3"),
        maybe("category", DataType::Utf8, "the guideline's band; null if partial or withdrawn"),
        given("reasons", reasons, "the rules that fired; empty if none"),
        given("rule_set", DataType::Utf8, "the guideline that category and reasons come from"),
        maybe("probability", DataType::Float64, "the model's; null without a model"),
        maybe("risk_level", DataType::Utf8, "LOW, MODERATE or HIGH; null without a model"),
        maybe("model", DataType::Utf8, "digest of the model; null without one"),
        given("late", DataType::Boolean, "behind its partition's watermark"),
        given(
            "not_recomputed",
            DataType::Boolean,
            "corrects something beyond correction.horizon: windows and shifts keep what they held",
        ),
        epoch(),
    ]);
    columns
}

fn windows(signals: &[SignalColumn]) -> Vec<Column> {
    let mut columns = vec![
        given("patient", DataType::Utf8, "pseudonym: 32 lower-case hexadecimal digits"),
        given("window_start", instant(), "inclusive"),
        given("window_end", instant(), "exclusive"),
    ];
    for signal in signals {
        let float = |statistic, per, meaning| maybe(&signal.named(statistic, per), DataType::Float64, meaning);
        columns.extend([
            given(&format!("{}_count", signal.name), DataType::Int64, "readings; 0 if not measured"),
            float("mean", "", "arithmetic mean"),
            float("min", "", "smallest"),
            float("max", "", "largest"),
            float("standard_deviation", "", "of the sample (n - 1); null below two readings"),
            float("slope", "per_hour", "least squares; null below two readings at different times"),
            float("last", "", "the latest value"),
        ]);
    }
    columns.extend([
        maybe("systolic_above_seconds", DataType::Float64, "at or above patient.high_mmhg; null if not measured"),
        maybe("systolic_below_seconds", DataType::Float64, "below patient.low_mmhg; null if not measured"),
        given("revision", DataType::Int64, "0 for the on-time content, one more per late reading or correction"),
        epoch(),
    ]);
    columns
}

fn rejected() -> Vec<Column> {
    let mut columns = position();
    columns.extend([
        given("entry", DataType::Int64, "ordinal within the record, for a Bundle; else 0"),
        given("rule", DataType::Utf8, "why; schemas/fhir/rejected has an example of each"),
        given("detail", DataType::Utf8, "where or which limit; never a value that was read"),
        maybe("index", DataType::Int64, "what detail counts: an element, a line, a byte"),
        epoch(),
    ]);
    columns
}

/// One of the audit's tables.
fn found<T>(said: &[findings::Said<T>]) -> Vec<Column> {
    findings::columns(said).into_iter().chain([epoch()]).collect()
}

fn position() -> Vec<Column> {
    vec![
        given("topic", DataType::Utf8, "Kafka topic, or file- and a keyed hash of the path"),
        given("partition", DataType::Int32, "Kafka partition; 0 for files"),
        given("offset", DataType::Int64, "Kafka offset; for files the ordinal of the resource"),
    ]
}

fn epoch() -> Column {
    given("epoch", DataType::Int64, "the slice of ingestion that wrote the row")
}

pub(super) fn instant() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

pub(super) fn given(name: &str, kind: DataType, meaning: &str) -> Column {
    Column { name: name.into(), kind, nullable: false, meaning: meaning.into() }
}

pub(super) fn maybe(name: &str, kind: DataType, meaning: &str) -> Column {
    Column { nullable: true, ..given(name, kind, meaning) }
}
