//! Golden rows of each table, as JSON; the schemas against `schemas/parquet/`.
//!
//! They prove: the contract's columns in their order, what is null when, and that the files in `schemas/` are what the code says.

mod findings;

use std::collections::BTreeMap;

use expect_test::{Expect, expect, expect_file};

use super::*;
use crate::signals::HEART_RATE;
use crate::sink::json;
use crate::sink::testing::{NEW_YEAR, position, reading, signals, tables};
use crate::time::{EventSpan, IngestTime};
use crate::vocabulary::{Partition, Pseudonym, Scorable, Status, TopicId, Version};

fn check(rows: &Rows, expected: Expect) {
    let lines = json::rows(&rows.batch, &BTreeMap::new()).unwrap();
    expected.assert_eq(std::str::from_utf8(lines.bytes()).unwrap());
}

fn assessed(readings: Vec<(Reading, Assessment)>) -> Assessed {
    let replaces = vec![false; readings.len()];
    let (readings, assessments) = readings.into_iter().unzip();
    Assessed { scorable: Scorable { readings, replaces, ..Scorable::default() }, assessments }
}

#[test]
fn the_schemas_are_those_that_are_published() {
    let signals = signals(false);
    expect_file!["../../../schemas/parquet/readings.txt"].assert_eq(&describe(TableName::Readings, &signals));
    expect_file!["../../../schemas/parquet/windows.txt"].assert_eq(&describe(TableName::Windows, &signals));
    expect_file!["../../../schemas/parquet/rejected.txt"].assert_eq(&describe(TableName::Rejected, &signals));
    expect_file!["../../../schemas/parquet/shifts.txt"].assert_eq(&describe(TableName::Shifts, &signals));
    expect_file!["../../../schemas/parquet/quality.txt"].assert_eq(&describe(TableName::Quality, &signals));
    expect_file!["../../../schemas/parquet/performance.txt"].assert_eq(&describe(TableName::Performance, &signals));
    expect_file!["../../../schemas/parquet/fairness.txt"].assert_eq(&describe(TableName::Fairness, &signals));
    expect_file!["../../../schemas/parquet/alerts.txt"].assert_eq(&describe(TableName::Alerts, &signals));
}

#[test]
fn readings_have_the_contracts_columns_in_its_order() {
    let names: Vec<String> =
        tables(None, true).schema(TableName::Readings).fields().iter().map(|field| field.name().clone()).collect();
    let contract = "patient observation status version topic partition offset effective_at received_at \
        systolic_mmhg diastolic_mmhg heart_rate_per_minute mean_arterial_mmhg category reasons rule_set \
        probability risk_level model late not_recomputed epoch";
    assert_eq!(names, contract.split_whitespace().collect::<Vec<_>>());
}

#[test]
fn a_reading_is_a_row() {
    let scored = Assessment {
        category: Some("stage 2"),
        reasons: ["systolic_high", "diastolic_high"].into_iter().collect(),
        probability: Some(0.75),
        risk_level: Some("HIGH"),
        ..Assessment::default()
    };
    let mut late = reading(8, &[(SYSTOLIC, 117.0), (DIASTOLIC, 75.0), (MEAN_ARTERIAL, 91.5), (HEART_RATE, 61.0)]);
    late.facts.timeliness = Timeliness::Late;
    late.facts.version = Version::Unversioned;
    late.facts.received_at = None;
    let normal = Assessment { category: Some("normal"), ..Assessment::default() };
    let assessed = assessed(vec![(reading(7, &[(SYSTOLIC, 162.0), (DIASTOLIC, 96.0)]), scored), (late, normal)]);
    check(
        &tables(Some("c0ffee"), true).readings(&assessed, 1_767_225_600_250),
        expect![[r#"
            {"patient":"02020202020202020202020202020202","observation":"a0a0a0a0a0a0a0a00000000000000007","status":"final","version":1,"topic":"bp-obs","partition":3,"offset":7,"effective_at":"2026-01-01T00:00:07.000000Z","received_at":"2026-01-01T00:00:00.257000Z","systolic_mmhg":162.0,"diastolic_mmhg":96.0,"mean_arterial_mmhg":118.0,"category":"stage 2","reasons":["systolic_high","diastolic_high"],"rule_set":"acc_aha_2017","probability":0.75,"risk_level":"HIGH","model":"c0ffee","late":false,"not_recomputed":false,"epoch":1767225600250}
            {"patient":"03030303030303030303030303030303","observation":"a0a0a0a0a0a0a0a00000000000000008","status":"final","topic":"bp-obs","partition":3,"offset":8,"effective_at":"2026-01-01T00:00:08.000000Z","systolic_mmhg":117.0,"diastolic_mmhg":75.0,"heart_rate_per_minute":61.0,"mean_arterial_mmhg":91.5,"category":"normal","reasons":[],"rule_set":"acc_aha_2017","model":"c0ffee","late":true,"not_recomputed":false,"epoch":1767225600250}
        "#]],
    );
}

#[test]
fn without_a_model_there_is_neither_probability_nor_model() {
    let assessed = assessed(vec![(reading(1, &[(SYSTOLIC, 120.0)]), Assessment::default())]);
    check(
        &tables(None, false).readings(&assessed, 1),
        expect![[r#"
            {"patient":"01010101010101010101010101010101","observation":"a0a0a0a0a0a0a0a00000000000000001","status":"final","version":1,"topic":"bp-obs","partition":3,"offset":1,"effective_at":"2026-01-01T00:00:01.000000Z","received_at":"2026-01-01T00:00:00.251000Z","systolic_mmhg":120.0,"reasons":[],"rule_set":"acc_aha_2017","late":false,"not_recomputed":false,"epoch":1}
        "#]],
    );
}

#[test]
fn a_withdrawn_reading_has_no_values_whatever_it_came_with() {
    let scored = Assessment {
        category: Some("crisis"),
        reasons: ["systolic_high"].into_iter().collect(),
        probability: Some(0.9),
        risk_level: Some("HIGH"),
        ..Assessment::default()
    };
    let mut withdrawn = reading(4, &[(SYSTOLIC, 190.0), (DIASTOLIC, 100.0), (MEAN_ARTERIAL, 130.0)]);
    withdrawn.facts.status = Status::EnteredInError;
    // A deletion, read before its partition had a watermark.
    withdrawn.facts.at = EventTime::MIN;
    let mut assessed = assessed(vec![(withdrawn, scored)]);
    assessed.scorable.replaces = vec![true];
    let rows = tables(None, false).readings(&assessed, 1);
    assert_eq!(*rows.replaces, [true]);
    check(
        &rows,
        expect![[r#"
            {"patient":"04040404040404040404040404040404","observation":"a0a0a0a0a0a0a0a00000000000000004","status":"entered-in-error","version":1,"topic":"bp-obs","partition":3,"offset":4,"received_at":"2026-01-01T00:00:00.254000Z","reasons":[],"rule_set":"acc_aha_2017","late":false,"not_recomputed":false,"epoch":1}
        "#]],
    );
}

#[test]
fn values_that_are_not_numbers_are_null() {
    let assessment = Assessment { probability: Some(f64::NAN), ..Assessment::default() };
    let rows = tables(None, false)
        .readings(&assessed(vec![(reading(1, &[(SYSTOLIC, f64::INFINITY), (DIASTOLIC, 70.0)]), assessment)]), 1);
    for column in ["systolic_mmhg", "mean_arterial_mmhg", "probability"] {
        assert_eq!(rows.batch.column_by_name(column).unwrap().null_count(), 1, "{column}");
    }
}

fn window(aggregates: &[Option<Aggregate>]) -> WindowRow {
    let start = EventTime::from_micros(NEW_YEAR);
    WindowRow {
        patient: Pseudonym([0xfe; 16]),
        start,
        end: start + EventSpan::from_seconds(3_600),
        aggregates: aggregates.iter().copied().collect(),
        above_seconds: 1_800.0,
        below_seconds: 0.0,
        revision: 2,
    }
}

#[test]
fn a_window_is_a_row_with_what_was_measured() {
    let single = Aggregate {
        count: 1,
        mean: 72.0,
        min: 72.0,
        max: 72.0,
        standard_deviation: f64::NAN,
        slope_per_hour: f64::NAN,
        last: 72.0,
    };
    let several = Aggregate {
        count: 3,
        mean: 140.0,
        min: 130.0,
        max: 150.0,
        standard_deviation: 10.0,
        slope_per_hour: -4.5,
        last: 130.0,
    };
    check(
        &tables(None, false).windows(&[window(&[Some(several), Some(single), None]), window(&[None, None, None])], 9),
        expect![[r#"
            {"patient":"fefefefefefefefefefefefefefefefe","window_start":"2026-01-01T00:00:00.000000Z","window_end":"2026-01-01T01:00:00.000000Z","systolic_count":3,"systolic_mean_mmhg":140.0,"systolic_min_mmhg":130.0,"systolic_max_mmhg":150.0,"systolic_standard_deviation_mmhg":10.0,"systolic_slope_mmhg_per_hour":-4.5,"systolic_last_mmhg":130.0,"diastolic_count":1,"diastolic_mean_mmhg":72.0,"diastolic_min_mmhg":72.0,"diastolic_max_mmhg":72.0,"diastolic_last_mmhg":72.0,"mean_arterial_count":0,"systolic_above_seconds":1800.0,"systolic_below_seconds":0.0,"revision":2,"epoch":9}
            {"patient":"fefefefefefefefefefefefefefefefe","window_start":"2026-01-01T00:00:00.000000Z","window_end":"2026-01-01T01:00:00.000000Z","systolic_count":0,"diastolic_count":0,"mean_arterial_count":0,"revision":2,"epoch":9}
        "#]],
    );
}

#[test]
fn a_rejection_is_a_row_with_a_position_and_no_value() {
    let rejection = |index| Rejection {
        rule: "unit_missing",
        detail: "component.valueQuantity.unit",
        index,
        position: Position { partition: Partition { topic: TopicId(1), number: 0 }, offset: i64::MAX, entry: u32::MAX },
    };
    check(
        &tables(None, false).rejected(&[rejection(Some(u64::MAX)), rejection(None)], 5),
        expect![[r#"
            {"topic":"other","partition":0,"offset":9223372036854775807,"entry":4294967295,"rule":"unit_missing","detail":"component.valueQuantity.unit","index":9223372036854775807,"epoch":5}
            {"topic":"other","partition":0,"offset":9223372036854775807,"entry":4294967295,"rule":"unit_missing","detail":"component.valueQuantity.unit","epoch":5}
        "#]],
    );
}

#[test]
fn no_input_is_a_batch_without_rows() {
    let tables = tables(None, false);
    assert_eq!(tables.readings(&Assessed::default(), 1).batch.num_rows(), 0);
    assert_eq!(tables.windows(&[], 1).batch.num_rows(), 0);
    assert_eq!(tables.rejected(&[], 1).batch.num_rows(), 0);
    assert!(tables.findings(vec![], 1).is_empty());
}

#[test]
fn times_of_receipt_keep_their_microseconds() {
    let mut read = reading(0, &[]);
    read.facts.received_at = Some(IngestTime::from_millis(-1));
    read.facts.position = position(0);
    let rows = tables(None, false).readings(&assessed(vec![(read, Assessment::default())]), 1);
    let line = json::rows(&rows.batch, &BTreeMap::new()).unwrap();
    let text = std::str::from_utf8(line.bytes()).unwrap();
    assert!(text.contains(r#""received_at":"1969-12-31T23:59:59.999000Z""#), "{text}");
}
