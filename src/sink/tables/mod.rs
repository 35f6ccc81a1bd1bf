//! The tables that leave the engine, as Arrow batches: one batch per call, shared by every sink.
//!
//! ```text
//! Assessed ─readings─> Rows    WindowRow ─windows─> Rows    Rejection ─rejected─> Rows    Finding ─shifts, quality, performance, fairness, alerts─> Rows
//! ```
//!
//! Invariants:
//!
//! 1. Schemas ([`schema`]) depend on the flow's signals alone; names and types of the shipped ones are fixed (`schemas/parquet/*.txt`).
//! 2. Row order is the order of the input; equal input gives equal batches.
//! 3. A withdrawn reading (status `entered-in-error`, `cancelled`) is a row without values, category or probability.
//! 4. No NaN: what is not known is null. No instant outside the years 0001 to 9999: a deletion of unknown time has none.
//!
//! Columns are filled one after the other, without allocation per row. Integers are signed, and 64 bits wide apart from Kafka's partition:
//! an epoch starts at Unix milliseconds and never comes near 2⁶³, while unsigned integers cannot be written to Delta, Hive or an Elasticsearch `long`.

mod columns;
mod findings;
mod schema;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;

pub use self::schema::{SignalColumn, describe};

use self::columns::{
    Float64s, boolean, bounds, instants, int32, int64, int64_or_null, lists, pseudonyms, repeated, texts,
};
use timely::dataflow::operators::Concatenate;

use crate::audit::publish;
use crate::config::TableName;
use crate::graph::Plan;
use crate::runtime::checkpoint::Seat;
use crate::runtime::driver::{self, Stream};
use crate::runtime::survive::Route;
use crate::signals::{DIASTOLIC, MEAN_ARTERIAL, SYSTOLIC, SignalId};
use crate::sink::Rows;
use crate::source::Topics;
use crate::time::{Epoch, EventTime};
use crate::vocabulary::findings::Finding;
use crate::vocabulary::{Aggregate, Assessed, Assessment, Facts, Position, Reading, Rejection, Timeliness, WindowRow};

/// Batches of the stages in, rows of all tables out.
pub fn render<'s>(
    assessed: Stream<'s, Arc<Assessed>>,
    windows: Stream<'s, Vec<WindowRow>>,
    rejections: Stream<'s, Vec<Rejection>>,
    found: Stream<'s, Finding>,
    plan: &Plan,
) -> Stream<'s, Rows> {
    let tables = Arc::new(Tables::new(plan.context.clone()));
    let of = || Arc::clone(&tables);
    let readings = of();
    let assessed =
        driver::batches(assessed, "tables::readings", Seat::loose(()), move |(), epoch, batch: Arc<Assessed>, out| {
            if !batch.assessments.is_empty() {
                out.push(readings.readings(&batch, epoch));
            }
        });
    let tables_of = of();
    let windows =
        driver::batches(windows, "tables::windows", Seat::loose(()), move |(), epoch, batch: Vec<WindowRow>, out| {
            out.push(tables_of.windows(&batch, epoch));
        });
    let tables_of = of();
    let rejections = driver::batches(
        rejections,
        "tables::rejected",
        Seat::loose(()),
        move |(), epoch, batch: Vec<Rejection>, out| {
            out.push(tables_of.rejected(&batch, epoch));
        },
    );
    let found = driver::gather(found, "tables::findings::gather");
    let tables_of = of();
    let found =
        driver::batches(found, "tables::findings", Seat::loose(()), move |(), epoch, batch: Vec<Finding>, out| {
            out.extend(tables_of.findings(batch, epoch));
        });
    assessed.scope().concatenate([assessed, windows, rejections, found])
}

/// What the tables of a flow have in common.
#[derive(Clone, Debug)]
pub struct Context {
    /// The flow's topics.
    pub topics: Topics,
    /// The flow's signals, in the order of `decode.signals`: the order of their columns and of [`WindowRow::aggregates`].
    pub signals: Vec<SignalColumn>,
    /// Name of the rule set that scores.
    pub rule_set: String,
    /// Digest of the model that scores; `None` while rules run alone.
    pub model: Option<String>,
}

/// Makes rows. One per worker.
#[derive(Clone, Debug)]
pub struct Tables {
    context: Context,
    readings: SchemaRef,
    windows: SchemaRef,
    rejected: SchemaRef,
    shifts: SchemaRef,
    quality: SchemaRef,
    performance: SchemaRef,
    fairness: SchemaRef,
    alerts: SchemaRef,
}

impl Tables {
    /// Fixes the schemas.
    pub fn new(context: Context) -> Self {
        let of = |table| Arc::new(schema::schema(table, &context.signals));
        Tables {
            readings: of(TableName::Readings),
            windows: of(TableName::Windows),
            rejected: of(TableName::Rejected),
            shifts: of(TableName::Shifts),
            quality: of(TableName::Quality),
            performance: of(TableName::Performance),
            fairness: of(TableName::Fairness),
            alerts: of(TableName::Alerts),
            context,
        }
    }

    /// The schema of a table.
    pub fn schema(&self, table: TableName) -> &SchemaRef {
        match table {
            TableName::Readings => &self.readings,
            TableName::Windows => &self.windows,
            TableName::Rejected => &self.rejected,
            TableName::Shifts => &self.shifts,
            TableName::Quality => &self.quality,
            TableName::Performance => &self.performance,
            TableName::Fairness => &self.fairness,
            TableName::Alerts => &self.alerts,
        }
    }

    /// One row per reading, in their order. Panics if assessments or `replaces` are not one per reading.
    pub fn readings(&self, assessed: &Assessed, epoch: Epoch) -> Rows {
        let (readings, assessments) = (&assessed.scorable.readings, &assessed.assessments);
        assert_eq!(readings.len(), assessments.len(), "one assessment per reading");
        assert_eq!(readings.len(), assessed.scorable.replaces.len(), "one flag per reading");
        let facts = || readings.iter().map(|reading| &reading.facts);
        let mut columns: Vec<ArrayRef> = vec![
            pseudonyms(readings.iter().map(|reading| &reading.patient)),
            pseudonyms(readings.iter().map(|reading| &reading.observation)),
            texts(facts().map(|facts| Some(facts.status.code()))),
            int64_or_null(facts().map(|facts| facts.version.number())),
        ];
        columns.extend(self.positions(facts().map(|facts| facts.position)));
        columns.push(instants(facts().map(|facts| Some(facts.at))));
        columns.push(instants(facts().map(|facts| facts.received_at.map(|at| EventTime::from_micros(at.micros())))));
        columns.extend(self.measured(readings));
        columns.extend(self.scores(readings, assessments));
        columns.push(boolean(facts().map(|facts| facts.timeliness != Timeliness::OnTime)));
        columns.push(boolean(facts().map(|facts| facts.not_recomputed)));
        columns.push(epochs(epoch, readings.len()));
        rows(TableName::Readings, &self.readings, columns, assessed.scorable.replaces.as_slice().into())
    }

    /// One row per window, in their order.
    pub fn windows(&self, windows: &[WindowRow], epoch: Epoch) -> Rows {
        let mut columns: Vec<ArrayRef> = vec![
            pseudonyms(windows.iter().map(|window| &window.patient)),
            bounds(windows.iter().map(|window| window.start)),
            bounds(windows.iter().map(|window| window.end)),
        ];
        for at in 0..self.context.signals.len() {
            columns.extend(aggregates(windows, at));
        }
        let systolic = self.context.signals.iter().position(|column| column.signal == SYSTOLIC);
        // Without a systolic value there was no time above or below anything, nor a time within.
        let measured = |window: &WindowRow| systolic.is_some_and(|at| aggregate(window, at).is_some());
        columns.push(floats(windows.iter().map(|window| measured(window).then_some(window.above_seconds))));
        columns.push(floats(windows.iter().map(|window| measured(window).then_some(window.below_seconds))));
        columns.push(int64(windows.iter().map(|window| i64::from(window.revision))));
        columns.push(epochs(epoch, windows.len()));
        rows(TableName::Windows, &self.windows, columns, Arc::default())
    }

    /// One row per rejection, in their order.
    pub fn rejected(&self, rejections: &[Rejection], epoch: Epoch) -> Rows {
        let mut columns = Vec::with_capacity(8);
        columns.extend(self.positions(rejections.iter().map(|rejection| rejection.position)));
        columns.push(int64(rejections.iter().map(|rejection| i64::from(rejection.position.entry))));
        columns.push(texts(rejections.iter().map(|rejection| Some(rejection.rule))));
        columns.push(texts(rejections.iter().map(|rejection| Some(rejection.detail))));
        columns.push(int64_or_null(rejections.iter().map(|rejection| rejection.index.map(signed))));
        columns.push(epochs(epoch, rejections.len()));
        rows(TableName::Rejected, &self.rejected, columns, Arc::default())
    }

    /// What the audit found, table by table, each in its order; a table without rows is not among them.
    pub fn findings(&self, found: Vec<Finding>, epoch: Epoch) -> Vec<Rows> {
        let (mut shifts, mut quality, mut performance, mut fairness, mut alerts) =
            (vec![], vec![], vec![], vec![], vec![]);
        for finding in found {
            match finding {
                Finding::Shift(row) => shifts.push(row),
                Finding::Quality(row) => quality.push(row),
                Finding::Performance(row) => performance.push(row),
                Finding::Fairness(row) => fairness.push(row),
                Finding::Alert(row) => alerts.push(row),
            }
        }
        let routes =
            alerts.iter().map(|alert| publish::route(alert).expect("an alert is about a series that is published"));
        let routes: Arc<[Route]> = routes.collect();
        let alerts =
            self.found(TableName::Alerts, &findings::alerts(), &alerts, epoch).map(|rows| Rows { routes, ..rows });
        [
            self.found(TableName::Shifts, &findings::shifts(), &shifts, epoch),
            self.found(TableName::Quality, &findings::quality(), &quality, epoch),
            self.found(TableName::Performance, &findings::performance(), &performance, epoch),
            self.found(TableName::Fairness, &findings::fairness(), &fairness, epoch),
            alerts,
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn found<T>(&self, table: TableName, said: &[findings::Said<T>], found: &[T], epoch: Epoch) -> Option<Rows> {
        let mut columns = findings::arrays(said, found, &self.context.topics);
        columns.push(epochs(epoch, found.len()));
        (!found.is_empty()).then(|| rows(table, self.schema(table), columns, Arc::default()))
    }

    /// topic, partition, offset
    fn positions(&self, positions: impl ExactSizeIterator<Item = Position> + Clone) -> [ArrayRef; 3] {
        [
            texts(positions.clone().map(|position| Some(self.context.topics.name(position.partition.topic)))),
            int32(positions.clone().map(|position| position.partition.number)),
            int64(positions.map(|position| position.offset)),
        ]
    }

    /// systolic_mmhg, diastolic_mmhg, the other signals in the flow's order, mean_arterial_mmhg
    fn measured(&self, readings: &[Reading]) -> Vec<ArrayRef> {
        let others = schema::others(&self.context.signals).map(|column| column.signal);
        let mut columns: Vec<ArrayRef> = [SYSTOLIC, DIASTOLIC]
            .into_iter()
            .chain(others)
            .map(|signal| floats(readings.iter().map(|reading| standing(&reading.facts, signal))))
            .collect();
        columns.push(floats(readings.iter().map(|reading| mean_arterial(&reading.facts))));
        columns
    }

    /// category, reasons, rule_set, probability, risk_level, model
    fn scores(&self, readings: &[Reading], assessments: &[Assessment]) -> [ArrayRef; 6] {
        // Scoring says nothing of a withdrawn reading; that it shows nothing is decided here, once.
        let scored = || {
            readings
                .iter()
                .zip(assessments)
                .map(|(reading, assessment)| (!reading.facts.status.withdraws()).then_some(assessment))
        };
        [
            texts(scored().map(|assessment| assessment?.category)),
            lists(scored().map(|assessment| assessment.map_or(&[][..], |assessment| &assessment.reasons))),
            repeated(Some(&self.context.rule_set), readings.len()),
            floats(scored().map(|assessment| assessment?.probability)),
            texts(scored().map(|assessment| assessment?.risk_level)),
            repeated(self.context.model.as_deref(), readings.len()),
        ]
    }
}

/// The value of a signal, unless the reading is withdrawn.
fn standing(facts: &Facts, signal: SignalId) -> Option<f64> {
    if facts.status.withdraws() { None } else { facts.signals.get(signal) }
}

/// Mean arterial pressure, mmHg: the device's own if it sent one, else D + (S − D)/3; `None` if neither is known.
///
/// Source: CLINICAL §3; the estimate differs from the device's by −2.7 mmHg on average, sd 5.4.
fn mean_arterial(facts: &Facts) -> Option<f64> {
    standing(facts, MEAN_ARTERIAL).or_else(|| {
        let (systolic, diastolic) = (standing(facts, SYSTOLIC)?, standing(facts, DIASTOLIC)?);
        Some(diastolic + (systolic - diastolic) / 3.0)
    })
}

fn aggregate(window: &WindowRow, at: usize) -> Option<&Aggregate> {
    window.aggregates.get(at)?.as_ref()
}

/// count, mean, min, max, standard deviation, slope, last of the signal at an index.
fn aggregates(windows: &[WindowRow], at: usize) -> [ArrayRef; 7] {
    let column = |value: fn(&Aggregate) -> f64| floats(windows.iter().map(|window| aggregate(window, at).map(value)));
    [
        int64(windows.iter().map(|window| aggregate(window, at).map_or(0, |found| i64::from(found.count)))),
        column(|found| found.mean),
        column(|found| found.min),
        column(|found| found.max),
        column(|found| found.standard_deviation),
        column(|found| found.slope_per_hour),
        column(|found| found.last),
    ]
}

fn floats(values: impl ExactSizeIterator<Item = Option<f64>>) -> ArrayRef {
    values.collect::<Float64s>().into()
}

fn epochs(epoch: Epoch, rows: usize) -> ArrayRef {
    let epoch = i64::try_from(epoch).expect("epochs start at Unix milliseconds and count upwards by time");
    int64(std::iter::repeat_n(epoch, rows))
}

/// A count as the tables' signed integer; counts beyond 2⁶³ do not happen, and stand at the largest.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn rows(table: TableName, schema: &SchemaRef, columns: Vec<ArrayRef>, replaces: Arc<[bool]>) -> Rows {
    let batch = RecordBatch::try_new(schema.clone(), columns).expect("columns are made in the schema's order");
    Rows { table, batch, replaces, routes: Arc::default() }
}

#[cfg(test)]
mod tests;
