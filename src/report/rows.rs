//! Rows of the audit's tables as they are read back: by the names of their columns, whatever their order.
//!
//! A column that is not there, or cannot be made what `schemas/parquet` says, counts as null in every row; [`unusable`] names such columns, so
//! that the report can say so. A row without what identifies its finding is no row.
//!
//! The types differ from [`findings`](crate::vocabulary::findings) in their texts only, which are owned here: they come from files.

use std::collections::BTreeMap;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};

use crate::config::TableName;
use crate::time::EventTime;
use crate::vocabulary::findings::{AlertState, Goodness, Rate, Side, Span, Statistics, Verdict};

/// A row that says something of a window.
pub(super) trait Row: Sized + Clone {
    /// Its table.
    const TABLE: TableName;
    /// What identifies a finding, beside its window.
    type Key: Ord;

    /// From the row at an index.
    fn read(columns: &Columns, at: usize) -> Option<Self>;
    /// What it is about.
    fn key(&self) -> Self::Key;
    /// What every row says.
    fn told(&self) -> Told;

    /// The current window.
    fn window(&self) -> Span {
        self.told().window
    }

    /// The slice of ingestion that wrote it.
    fn epoch(&self) -> i64 {
        self.told().epoch
    }

    /// What it amounts to, where it says so.
    fn verdict(&self) -> Verdict {
        self.told().verdict
    }
}

/// What the rows of all tables have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// The current window.
    pub(super) window: Span,
    /// The slice of ingestion that wrote it.
    pub(super) epoch: i64,
    /// What it amounts to; [`Verdict::None`] of a table that has no verdicts.
    pub(super) verdict: Verdict,
}

/// Drift of a feature in a group.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Shift {
    /// The feature's name.
    pub(super) feature: String,
    /// The unit of its values; `1` or empty for a number without unit.
    pub(super) unit: String,
    /// The group.
    pub(super) group: String,
    /// The span of the reference.
    pub(super) reference: Span,
    /// The span of the window.
    pub(super) current: Span,
    /// What was in the reference.
    pub(super) reference_side: Side,
    /// What was in the window.
    pub(super) current_side: Side,
    /// Ascending edges of the bins; empty where they were not read.
    pub(super) bin_edges: Vec<f64>,
    /// The differences.
    pub(super) statistics: Statistics,
    /// The statistic that the verdict comes from.
    pub(super) statistic: String,
    /// What it amounts to.
    pub(super) verdict: Verdict,
    /// When it was written.
    pub(super) epoch: i64,
}

impl Shift {
    /// The value that the verdict comes from.
    pub(super) fn deciding(&self) -> Option<f64> {
        self.statistics.named(&self.statistic)
    }
}

impl Row for Shift {
    const TABLE: TableName = TableName::Shifts;
    type Key = (String, String);

    fn read(columns: &Columns, at: usize) -> Option<Self> {
        let row = columns.row(at);
        Some(Shift {
            feature: row.text("feature")?,
            group: row.text("group")?,
            unit: row.text("unit").unwrap_or_default(),
            reference: row.span("reference_start", "reference_end").unwrap_or_default(),
            current: row.span("current_start", "current_end")?,
            reference_side: row.side("reference"),
            current_side: row.side("current"),
            bin_edges: row.numbers("bin_edges"),
            statistics: Statistics {
                psi: row.number("psi"),
                jensen_shannon: row.number("jensen_shannon"),
                kolmogorov_smirnov: row.number("kolmogorov_smirnov"),
                kolmogorov_smirnov_p: row.number("kolmogorov_smirnov_p"),
                wasserstein: row.number("wasserstein"),
                hellinger: row.number("hellinger"),
                chi2: row.number("chi2"),
                chi2_p: row.number("chi2_p"),
                effect_size: row.number("effect_size"),
            },
            // Before the column existed there was one statistic that decided.
            statistic: row.text("statistic").unwrap_or_else(|| "psi".to_owned()),
            verdict: row.verdict(),
            epoch: row.epoch(),
        })
    }

    fn key(&self) -> Self::Key {
        (self.feature.clone(), self.group.clone())
    }

    fn told(&self) -> Told {
        Told { window: self.current, epoch: self.epoch, verdict: self.verdict }
    }
}

/// A flaw of one topic's inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Quality {
    /// The topic.
    pub(super) topic: String,
    /// The flaw, or `readings`.
    pub(super) measure: String,
    /// The span of the window.
    pub(super) current: Span,
    /// Inputs in the reference, and those with the flaw.
    pub(super) reference_counts: (u64, u64),
    /// The same in the window.
    pub(super) current_counts: (u64, u64),
    /// What the difference amounts to.
    pub(super) verdict: Verdict,
    /// When it was written.
    pub(super) epoch: i64,
}

impl Quality {
    /// The share of inputs with the flaw, in the reference and in the window; `None` without inputs.
    pub(super) fn rates(&self) -> (Option<f64>, Option<f64>) {
        let rate = |(inputs, flawed): (u64, u64)| (inputs > 0).then(|| flawed as f64 / inputs as f64);
        (rate(self.reference_counts), rate(self.current_counts))
    }

    /// By how much the share has risen, 0 to 1; negative where it has fallen.
    pub(super) fn rise(&self) -> Option<f64> {
        let (before, after) = self.rates();
        before.zip(after).map(|(before, after)| after - before)
    }
}

impl Row for Quality {
    const TABLE: TableName = TableName::Quality;
    type Key = (String, String);

    fn read(columns: &Columns, at: usize) -> Option<Self> {
        let row = columns.row(at);
        let counts = |side: &str| {
            let of = |what: &str| row.count(&format!("{side}_{what}")).unwrap_or_default();
            (of("inputs"), of("count"))
        };
        Some(Quality {
            topic: row.text("topic")?,
            measure: row.text("measure")?,
            current: row.span("current_start", "current_end")?,
            reference_counts: counts("reference"),
            current_counts: counts("current"),
            verdict: row.verdict(),
            epoch: row.epoch(),
        })
    }

    fn key(&self) -> Self::Key {
        (self.topic.clone(), self.measure.clone())
    }

    fn told(&self) -> Told {
        Told { window: self.current, epoch: self.epoch, verdict: self.verdict }
    }
}

/// How the scores of a group did.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Performance {
    /// The group.
    pub(super) group: String,
    /// The span of the reference.
    pub(super) reference: Span,
    /// The span of the window.
    pub(super) current: Span,
    /// Assessed readings.
    pub(super) readings: u64,
    /// Their patients, if they are counted.
    pub(super) patients: Option<u64>,
    /// Readings with a probability.
    pub(super) scored: u64,
    /// Readings with an outcome.
    pub(super) labelled: u64,
    /// Readings whose outcome happened.
    pub(super) positives: u64,
    /// Selected readings.
    pub(super) selected: u64,
    /// Readings that raised an alarm.
    pub(super) alarms: u64,
    /// Alarms by patient-day.
    pub(super) alarms_per_patient_day: Option<f64>,
    /// Mean probability.
    pub(super) score_mean: Option<f64>,
    /// Positives among the labelled.
    pub(super) observed_rate: Option<f64>,
    /// Against the outcomes, in the window.
    pub(super) measured: Goodness,
    /// Against the outcomes, in the reference.
    pub(super) reference_measured: Goodness,
    /// Estimated without outcomes.
    pub(super) estimated: Goodness,
    /// What it amounts to.
    pub(super) verdict: Verdict,
    /// When it was written.
    pub(super) epoch: i64,
}

impl Row for Performance {
    const TABLE: TableName = TableName::Performance;
    type Key = String;

    fn read(columns: &Columns, at: usize) -> Option<Self> {
        let row = columns.row(at);
        let count = |name| row.count(name).unwrap_or_default();
        Some(Performance {
            group: row.text("group")?,
            reference: row.span("reference_start", "reference_end").unwrap_or_default(),
            current: row.span("current_start", "current_end")?,
            readings: count("readings_count"),
            patients: row.count("patients_count"),
            scored: count("scored_count"),
            labelled: count("labelled_count"),
            positives: count("positives_count"),
            selected: count("selected_count"),
            alarms: count("alarms_count"),
            alarms_per_patient_day: row.number("alarms_per_patient_day"),
            score_mean: row.number("score_mean"),
            observed_rate: row.number("observed_rate"),
            measured: row.goodness(""),
            reference_measured: row.goodness("reference_"),
            estimated: row.goodness("estimated_"),
            verdict: row.verdict(),
            epoch: row.epoch(),
        })
    }

    fn key(&self) -> Self::Key {
        self.group.clone()
    }

    fn told(&self) -> Told {
        Told { window: self.current, epoch: self.epoch, verdict: self.verdict }
    }
}

/// How a group fares beside the others of its attribute.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Fairness {
    /// What groups are formed by.
    pub(super) attribute: String,
    /// The group.
    pub(super) group: String,
    /// The group that it is compared with.
    pub(super) reference_group: String,
    /// The span of the window.
    pub(super) current: Span,
    /// Assessed readings.
    pub(super) readings: u64,
    /// Their patients, if they are counted.
    pub(super) patients: Option<u64>,
    /// Readings with an outcome.
    pub(super) labelled: u64,
    /// Readings whose outcome happened.
    pub(super) positives: u64,
    /// Selection rate, TPR, FPR, PPV, in the order of [`RATES`].
    pub(super) rates: [Rate; 4],
    /// Mean probability.
    pub(super) score_mean: Option<f64>,
    /// Positives among the labelled.
    pub(super) observed_rate: Option<f64>,
    /// Expected calibration error.
    pub(super) ece: Option<f64>,
    /// Group less reference group, in the order of [`RATES`].
    pub(super) differences: [Option<f64>; 4],
    /// Group by reference group, in the order of [`RATES`].
    pub(super) ratios: [Option<f64>; 4],
    /// Whether the selection rates are further apart than four fifths allow.
    pub(super) below_four_fifths: Option<bool>,
    /// What it amounts to.
    pub(super) verdict: Verdict,
    /// When it was written.
    pub(super) epoch: i64,
}

/// The columns of the rates of [`Fairness`].
pub(super) const RATES: [&str; 4] = ["selection_rate", "tpr", "fpr", "ppv"];

impl Row for Fairness {
    const TABLE: TableName = TableName::Fairness;
    type Key = (String, String);

    fn read(columns: &Columns, at: usize) -> Option<Self> {
        let row = columns.row(at);
        let count = |name| row.count(name).unwrap_or_default();
        let rate = |name: &str| Rate {
            rate: row.number(name),
            low: row.number(&format!("{name}_low")),
            high: row.number(&format!("{name}_high")),
        };
        Some(Fairness {
            attribute: row.text("attribute")?,
            group: row.text("group")?,
            reference_group: row.text("reference_group").unwrap_or_default(),
            current: row.span("current_start", "current_end")?,
            readings: count("readings_count"),
            patients: row.count("patients_count"),
            labelled: count("labelled_count"),
            positives: count("positives_count"),
            rates: RATES.map(rate),
            score_mean: row.number("score_mean"),
            observed_rate: row.number("observed_rate"),
            ece: row.number("ece"),
            differences: RATES.map(|name| row.number(&format!("{name}_difference"))),
            ratios: RATES.map(|name| row.number(&format!("{name}_ratio"))),
            below_four_fifths: row.flag("below_four_fifths"),
            verdict: row.verdict(),
            epoch: row.epoch(),
        })
    }

    fn key(&self) -> Self::Key {
        (self.attribute.clone(), self.group.clone())
    }

    fn told(&self) -> Told {
        Told { window: self.current, epoch: self.epoch, verdict: self.verdict }
    }
}

/// A shift that holds, or no longer does.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Alert {
    /// The table whose verdict it is about.
    pub(super) table: String,
    /// The feature, or what else that table's rows are about.
    pub(super) feature: String,
    /// The group.
    pub(super) group: String,
    /// The window with which it begins or ends.
    pub(super) current: Span,
    /// The statistic that the verdict comes from.
    pub(super) statistic: String,
    /// Its value in that window.
    pub(super) value: Option<f64>,
    /// Windows in a row that said the same.
    pub(super) windows_held: u64,
    /// Whether it begins, ends or was a mistake; `None` for a word that this version does not know.
    pub(super) state: Option<AlertState>,
    /// When it was written.
    pub(super) epoch: i64,
}

impl Row for Alert {
    const TABLE: TableName = TableName::Alerts;
    type Key = (String, String, String);

    fn read(columns: &Columns, at: usize) -> Option<Self> {
        let row = columns.row(at);
        let states = [AlertState::Raised, AlertState::Cleared, AlertState::Withdrawn];
        let state = row.text("state");
        Some(Alert {
            table: row.text("table")?,
            feature: row.text("feature")?,
            group: row.text("group")?,
            current: row.span("current_start", "current_end")?,
            statistic: row.text("statistic").unwrap_or_default(),
            value: row.number("value"),
            windows_held: row.count("windows_held").unwrap_or_default(),
            state: states.into_iter().find(|known| state.as_deref() == Some(known.name())),
            epoch: row.epoch(),
        })
    }

    fn key(&self) -> Self::Key {
        (self.table.clone(), self.feature.clone(), self.group.clone())
    }

    fn told(&self) -> Told {
        Told { window: self.current, epoch: self.epoch, verdict: Verdict::None }
    }
}

/// The columns of a batch, each of the type that the schema says.
pub(super) struct Columns(BTreeMap<String, ArrayRef>);

impl Columns {
    /// Those columns of the batch that the schema knows and that can be made what it says.
    pub(super) fn new(batch: &RecordBatch, schema: &Schema) -> Self {
        let known = schema.fields().iter().filter_map(|field| {
            let found = batch.column_by_name(field.name())?;
            Some((field.name().clone(), of_type(found, field.data_type())?))
        });
        Columns(known.collect())
    }

    /// The current window of the row at an index.
    pub(super) fn window(&self, at: usize) -> Option<Span> {
        self.row(at).span("current_start", "current_end")
    }

    fn row(&self, at: usize) -> At<'_> {
        At { columns: self, at }
    }

    fn get(&self, name: &str, at: usize) -> Option<&ArrayRef> {
        self.0.get(name).filter(|column| column.is_valid(at))
    }
}

/// The columns of `schema` that the rows of `found` cannot give: not there, or of a type that cannot be converted.
pub(super) fn unusable(found: &Schema, schema: &Schema) -> Vec<String> {
    let usable = |name: &str, kind: &DataType| match found.field_with_name(name) {
        Ok(field) => field.data_type() == kind || arrow::compute::can_cast_types(field.data_type(), kind),
        Err(_) => false,
    };
    let lost = schema.fields().iter().filter(|field| !usable(field.name(), field.data_type()));
    lost.map(|field| field.name().clone()).collect()
}

/// Tools that rewrite files choose other widths of texts and other units of time.
fn of_type(found: &ArrayRef, kind: &DataType) -> Option<ArrayRef> {
    if found.data_type() == kind { Some(found.clone()) } else { cast(found, kind).ok() }
}

/// One row.
struct At<'a> {
    columns: &'a Columns,
    at: usize,
}

impl At<'_> {
    fn text(&self, name: &str) -> Option<String> {
        let column: &StringArray = self.columns.get(name, self.at)?.as_string_opt()?;
        Some(column.value(self.at).to_owned())
    }

    fn time(&self, name: &str) -> Option<EventTime> {
        let column: &TimestampMicrosecondArray =
            self.columns.get(name, self.at)?.as_primitive_opt::<TimestampMicrosecondType>()?;
        debug_assert!(matches!(column.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)));
        Some(EventTime::from_micros(column.value(self.at)))
    }

    fn span(&self, start: &str, end: &str) -> Option<Span> {
        Some((self.time(start)?, self.time(end)?))
    }

    fn integer(&self, name: &str) -> Option<i64> {
        let column: &Int64Array = self.columns.get(name, self.at)?.as_primitive_opt::<Int64Type>()?;
        Some(column.value(self.at))
    }

    fn epoch(&self) -> i64 {
        self.integer("epoch").unwrap_or_default()
    }

    fn count(&self, name: &str) -> Option<u64> {
        self.integer(name).and_then(|value| u64::try_from(value).ok())
    }

    fn number(&self, name: &str) -> Option<f64> {
        let column: &Float64Array = self.columns.get(name, self.at)?.as_primitive_opt::<Float64Type>()?;
        Some(column.value(self.at)).filter(|value| value.is_finite())
    }

    fn flag(&self, name: &str) -> Option<bool> {
        let column: &BooleanArray = self.columns.get(name, self.at)?.as_boolean_opt()?;
        Some(column.value(self.at))
    }

    fn list(&self, name: &str) -> Option<ArrayRef> {
        Some(self.columns.get(name, self.at)?.as_list_opt::<i32>()?.value(self.at))
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        let list = self.list(name);
        let values = list.as_ref().and_then(|list| list.as_primitive_opt::<Float64Type>());
        values.map(|values| values.values().to_vec()).unwrap_or_default()
    }

    fn counts(&self, name: &str) -> Vec<u64> {
        let list = self.list(name);
        let values = list.as_ref().and_then(|list| list.as_primitive_opt::<Int64Type>());
        let values = values.map(|values| values.values().iter().map(|count| u64::try_from(*count).unwrap_or(0)));
        values.map(Iterator::collect).unwrap_or_default()
    }

    fn verdict(&self) -> Verdict {
        let (said, all) = (self.text("verdict"), [Verdict::None, Verdict::Watch, Verdict::Act]);
        all.into_iter().find(|verdict| said.as_deref() == Some(verdict.name())).unwrap_or_default()
    }

    /// `reference` or `current`.
    fn side(&self, side: &str) -> Side {
        let name = |what: &str| format!("{side}_{what}");
        Side {
            readings: self.count(&name("count")).unwrap_or_default(),
            patients: self.count(&name("patients")),
            mean: self.number(&name("mean")),
            standard_deviation: self.number(&name("standard_deviation")),
            bins: self.counts(&name("bins")),
        }
    }

    fn goodness(&self, prefix: &str) -> Goodness {
        let number = |what: &str| self.number(&format!("{prefix}{what}"));
        Goodness {
            accuracy: number("accuracy"),
            auroc: number("auroc"),
            brier: number("brier"),
            sensitivity: number("sensitivity"),
            specificity: number("specificity"),
            ppv: number("ppv"),
            ece: number("ece"),
        }
    }
}
