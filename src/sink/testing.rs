//! Rows, folders and clocks for the tests of all sinks.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::signals::{DIASTOLIC, HEART_RATE, MEAN_ARTERIAL, SYSTOLIC};
use crate::sink::Rows;
use crate::sink::files::Clock;
use crate::sink::tables::{Context, SignalColumn, Tables};
use crate::source::Topics;
use crate::time::{Epoch, EventTime, IngestTime};
use crate::vocabulary::findings::{Alert, AlertState, Finding, Part};
use crate::vocabulary::*;

/// 2026-01-01T00:00:00Z in microseconds.
pub(crate) const NEW_YEAR: i64 = 1_767_225_600_000_000;

/// Columns of the shipped pressures and, for `with_heart_rate`, one more signal.
pub(crate) fn signals(with_heart_rate: bool) -> Vec<SignalColumn> {
    let mmhg = |signal, name: &str| SignalColumn { signal, name: name.into(), unit: "mmhg".into() };
    let mut signals =
        vec![mmhg(SYSTOLIC, "systolic"), mmhg(DIASTOLIC, "diastolic"), mmhg(MEAN_ARTERIAL, "mean_arterial")];
    if with_heart_rate {
        signals.push(SignalColumn { signal: HEART_RATE, name: "heart_rate".into(), unit: "per_minute".into() });
    }
    signals
}

pub(crate) fn tables(model: Option<&str>, with_heart_rate: bool) -> Tables {
    Tables::new(Context {
        topics: Topics::new(["bp-obs".to_string(), "other".to_string()]),
        signals: signals(with_heart_rate),
        rule_set: "acc_aha_2017".into(),
        model: model.map(Into::into),
    })
}

pub(crate) fn position(offset: i64) -> Position {
    Position { partition: Partition { topic: TopicId(0), number: 3 }, offset, entry: 0 }
}

pub(crate) fn reading(offset: i64, signals: &[(crate::signals::SignalId, f64)]) -> Reading {
    let mut values = Signals::default();
    signals.iter().for_each(|(signal, value)| assert!(values.insert(*signal, *value)));
    let mut observation = [0xa0; 16];
    observation[8..].copy_from_slice(&offset.to_be_bytes());
    Reading {
        patient: Pseudonym([offset as u8 % 5; 16]),
        observation: Pseudonym(observation),
        facts: Facts {
            position: position(offset),
            received_at: Some(IngestTime::from_millis(NEW_YEAR / 1_000 + 250 + offset)),
            at: EventTime::from_micros(NEW_YEAR + offset * 1_000_000),
            version: Version::Number(1),
            signals: values,
            ..Facts::default()
        },
    }
}

/// Readings of these systolic pressures; above 140 mmHg with a reason; replacing an earlier version or not.
pub(crate) fn readings(epoch: Epoch, systolic: &[(f64, bool)]) -> Rows {
    let mut assessed = Assessed::default();
    for (offset, (value, replaces)) in systolic.iter().enumerate() {
        assessed.scorable.readings.push(reading(offset as i64, &[(SYSTOLIC, *value), (DIASTOLIC, 75.0)]));
        assessed.scorable.replaces.push(*replaces);
        let reasons = if *value > 140.0 { ["systolic_high"].as_slice() } else { &[] };
        let assessment = Assessment {
            category: Some(if *value > 140.0 { "stage 2" } else { "normal" }),
            reasons: reasons.iter().copied().collect(),
            probability: Some(value / 200.0),
            risk_level: Some("LOW"),
            ..Assessment::default()
        };
        assessed.assessments.push(assessment);
    }
    tables(Some("c0ffee"), false).readings(&assessed, epoch)
}

/// That many readings.
pub(crate) fn many(epoch: Epoch, count: usize) -> Rows {
    readings(epoch, &(0..count).map(|at| (110.0 + (at * 7 % 60) as f64, false)).collect::<Vec<_>>())
}

/// That many rejections.
pub(crate) fn rejected(epoch: Epoch, count: u64) -> Rows {
    let rejection = |index| Rejection {
        rule: "unit_missing",
        detail: "component.valueQuantity.unit",
        index: Some(index),
        position: position(index as i64),
    };
    tables(None, false).rejected(&(0..count).map(rejection).collect::<Vec<_>>(), epoch)
}

/// An alert about a feature in all readings, in the window of this hour of the new year.
pub(crate) fn alert(feature: &'static str, hour: i64, state: AlertState) -> Alert {
    let at = |hour: i64| EventTime::from_micros(NEW_YEAR + hour * 3_600_000_000);
    Alert {
        table: "shifts",
        feature,
        group: Part::default(),
        current: (at(hour), at(hour + 1)),
        statistic: "psi",
        value: Some(0.31),
        windows_held: 3,
        state,
    }
}

/// Rows of these alerts.
pub(crate) fn alerts(epoch: Epoch, alerts: Vec<Alert>) -> Rows {
    tables(None, false).findings(alerts.into_iter().map(Finding::Alert).collect(), epoch).remove(0)
}

/// A clock that a test moves.
#[derive(Clone)]
pub(crate) struct Hand(Arc<Mutex<Instant>>);

impl Hand {
    pub(crate) fn new() -> Self {
        Hand(Arc::new(Mutex::new(Instant::now())))
    }

    pub(crate) fn advance(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }

    pub(crate) fn clock(&self) -> Clock {
        let hand = self.0.clone();
        Arc::new(move || *hand.lock().unwrap())
    }
}

/// Names in a folder, sorted; none if it does not exist.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Names that readers see.
pub(crate) fn visible(folder: &Path) -> Vec<String> {
    names(folder).into_iter().filter(|name| !name.starts_with('.')).collect()
}
