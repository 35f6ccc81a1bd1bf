//! What the history keeps of a period: counts, the worst, and the figures of the newest window of which anything can be said. `schemas/postgresql/README.md`
//! names every field. Like the page, it is made from the tables and judges nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::gather;
use super::read::{Folders, Source};
use super::rows::{Alert, Fairness, Performance, Quality, RATES, Row, Shift};
use super::standing::Standing;
use crate::config::TableName;
use crate::sink::json::instant_text;
use crate::time::{Epoch, EventTime};
use crate::vocabulary::findings::{AlertState, Goodness, Span, Verdict};

/// Findings of drift, and of data quality, that are named, the worst first.
const WORST_MAX: usize = 10;

/// What is kept of one period.
#[derive(Clone, Debug)]
pub struct Digest {
    /// The earliest start and the latest end of the references; `None` without drift.
    pub reference: Option<Span>,
    /// What it says.
    pub summary: Value,
}

/// The windows that files say something of which begin with an epoch that is `wanted`.
pub fn windows(folders: &Folders, wanted: impl Fn(Epoch) -> bool) -> BTreeSet<Span> {
    let mut source = Source::new(folders.clone(), super::ALWAYS);
    TableName::OF_AUDIT.into_iter().flat_map(|table| source.windows(table, &wanted)).collect()
}

impl Digest {
    /// Reads what stands of a period; `None` if nothing does.
    pub fn read(folders: &Folders, period: Span, made_at: EventTime) -> Option<Digest> {
        let mut source = Source::new(folders.clone(), period);
        let (shifts, performance) = (source.table::<Shift>(), source.table::<Performance>());
        let (fairness, alerts) = (source.table::<Fairness>(), source.table::<Alert>());
        let quality = source.table::<Quality>();
        let epochs = [newest(&shifts), newest(&quality), newest(&performance), newest(&fairness), newest(&alerts)];
        let epoch = epochs.into_iter().flatten().max()?;
        let references: Vec<Span> = shifts.all().map(|row| row.reference).collect();
        let (start, end) = (references.iter().map(|span| span.0).min(), references.iter().map(|span| span.1).max());
        let mut remarks: Vec<&String> = source.remarks.iter().filter(|remark| remark.contains("damaged")).collect();
        remarks.sort();
        let summary = json!({
            "epoch": epoch,
            "made_at": instant_text(made_at),
            "windows": shifts.windows().max(quality.windows()).max(performance.windows()).max(fairness.windows()),
            "verdicts": {
                "shifts": verdicts(&shifts), "quality": verdicts(&quality),
                "performance": verdicts(&performance), "fairness": verdicts(&fairness),
            },
            "alerts": states(&alerts),
            "drift": worst_drift(&shifts),
            "quality": worst_flaws(&gather::by_topic(&quality)),
            "performance": of_window(&performance, performed),
            "fairness": of_window(&fairness, fared),
            "remarks": remarks,
        });
        Some(Digest { reference: start.zip(end), summary })
    }
}

fn newest<R: Row>(standing: &Standing<R>) -> Option<i64> {
    standing.all().map(Row::epoch).max()
}

/// Rows by verdict.
fn verdicts<R: Row>(standing: &Standing<R>) -> Value {
    let all = [Verdict::Act, Verdict::Watch, Verdict::None, Verdict::Insufficient];
    let count = |verdict: Verdict| standing.all().filter(|row| row.verdict() == verdict).count();
    Value::Object(all.into_iter().map(|verdict| (verdict.name().to_owned(), count(verdict).into())).collect())
}

fn states(alerts: &Standing<Alert>) -> Value {
    let count = |state| alerts.all().filter(|alert| alert.state == Some(state)).count();
    Value::Object(AlertState::ALL.into_iter().map(|state| (state.name().to_owned(), count(state).into())).collect())
}

/// Of each finding its worst window, in whose verdict there is something; of these the worst first. Sizes are not negative.
fn worst<R: Row>(standing: &Standing<R>, size: impl Fn(&R) -> f64) -> Vec<&R> {
    // Floats of one sign are in the order of their bits.
    let badness = |row: &R| (row.verdict(), size(row).to_bits());
    let mut by_key: BTreeMap<_, &R> = BTreeMap::new();
    for row in standing.all() {
        let worst = by_key.entry(row.key()).or_insert(row);
        if badness(row) > badness(worst) {
            *worst = row;
        }
    }
    let mut rows: Vec<&R> = by_key.into_values().filter(|row| row.verdict() != Verdict::Insufficient).collect();
    rows.sort_by_key(|row| Reverse(badness(row)));
    rows.truncate(WORST_MAX);
    rows
}

fn worst_drift(shifts: &Standing<Shift>) -> Value {
    // Of p-values less is worse.
    let size = |row: &Shift| {
        row.deciding().map_or(0.0, |value| if row.statistic.ends_with("_p") { 1.0 - value } else { value.abs() })
    };
    let row = |row: &Shift| {
        json!({
            "feature": row.feature, "group": row.group, "window": span(row.current), "verdict": row.verdict.name(),
            "statistic": row.statistic, "value": row.deciding(),
            "psi": row.statistics.psi, "effect_size": row.statistics.effect_size,
            "reference_count": row.reference_side.readings, "current_count": row.current_side.readings,
        })
    };
    worst(shifts, size).into_iter().map(row).collect()
}

/// Flaws alone that have become more: fewer harm nobody.
fn worst_flaws(quality: &Standing<Quality>) -> Value {
    let row = |row: &Quality| {
        let (reference_rate, current_rate) = row.rates();
        json!({
            "topic": row.topic, "measure": row.measure, "window": span(row.current), "verdict": row.verdict.name(),
            "reference_rate": reference_rate, "current_rate": current_rate,
            "reference_inputs": row.reference_counts.0, "current_inputs": row.current_counts.0,
        })
    };
    let worst = worst(quality, |row| row.rise().unwrap_or(0.0).max(0.0));
    worst.into_iter().filter(|row| row.verdict >= Verdict::Watch).map(row).collect()
}

/// The rows of the newest window of which anything can be said; null without one.
fn of_window<R: Row>(standing: &Standing<R>, row: fn(&R) -> Value) -> Value {
    let Some(window) = standing.detail() else { return Value::Null };
    json!({ "window": span(window), "groups": standing.of(window).map(row).collect::<Vec<_>>() })
}

fn performed(row: &Performance) -> Value {
    json!({
        "group": row.group, "readings_count": row.readings, "patients_count": row.patients, "scored_count": row.scored,
        "labelled_count": row.labelled, "positives_count": row.positives, "selected_count": row.selected, "alarms_count": row.alarms,
        "alarms_per_patient_day": row.alarms_per_patient_day, "score_mean": row.score_mean, "observed_rate": row.observed_rate,
        "measured": goodness(&row.measured), "reference": goodness(&row.reference_measured), "estimated": goodness(&row.estimated),
        "verdict": row.verdict.name(),
    })
}

fn goodness(of: &Goodness) -> Value {
    json!({
        "accuracy": of.accuracy, "auroc": of.auroc, "brier": of.brier, "sensitivity": of.sensitivity,
        "specificity": of.specificity, "ppv": of.ppv, "ece": of.ece,
    })
}

fn fared(row: &Fairness) -> Value {
    let mut all: Map<String, Value> = [
        ("attribute", json!(row.attribute)),
        ("group", json!(row.group)),
        ("reference_group", json!(row.reference_group)),
        ("readings_count", json!(row.readings)),
        ("patients_count", json!(row.patients)),
        ("below_four_fifths", json!(row.below_four_fifths)),
        ("verdict", json!(row.verdict.name())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into_iter()
    .collect();
    for (at, name) in RATES.into_iter().enumerate() {
        all.insert(name.to_owned(), json!(row.rates[at].rate));
        all.insert(format!("{name}_difference"), json!(row.differences[at]));
        all.insert(format!("{name}_ratio"), json!(row.ratios[at]));
    }
    Value::Object(all)
}

fn span((start, end): Span) -> Value {
    json!([instant_text(start), instant_text(end)])
}

#[cfg(test)]
mod tests {
    use super::super::tests::fixture::{findings, window, write_parquet};
    use super::*;

    /// The rows of the report's own fixture: counted here another way, from the findings that they were written from.
    #[test]
    fn a_digest_counts_what_stands_within_its_period() {
        use crate::vocabulary::findings::Finding;
        let folder = tempfile::tempdir().unwrap();
        let found = findings(48, 7);
        write_parquet(folder.path(), 1, &found);
        let folders = Folders { parquet: Some(folder.path().into()), ndjson: None };
        let period = (window(24).0, window(47).1);
        let digest = Digest::read(&folders, period, EventTime::from_micros(0)).unwrap();
        let within = |span: &Span| span.0 >= period.0 && span.1 <= period.1;
        let shifts: Vec<_> = found
            .iter()
            .flat_map(|(_, findings)| findings)
            .filter_map(|finding| match finding {
                Finding::Shift(shift) if within(&shift.current) => Some(shift),
                _ => None,
            })
            .collect();
        assert!(!shifts.is_empty());
        for verdict in [Verdict::Act, Verdict::Watch, Verdict::None, Verdict::Insufficient] {
            let count = shifts.iter().filter(|shift| shift.verdict == verdict).count();
            assert_eq!(digest.summary["verdicts"]["shifts"][verdict.name()], count, "{}", verdict.name());
        }
        let worst = shifts.iter().max_by(|a, b| {
            let of = |shift: &crate::vocabulary::findings::Shift| (shift.verdict, shift.statistics.psi.unwrap_or(0.0));
            of(a).partial_cmp(&of(b)).unwrap()
        });
        let worst = worst.unwrap();
        assert_eq!(digest.summary["drift"][0]["value"], worst.statistics.psi.unwrap());
        assert_eq!(digest.summary["drift"][0]["feature"], worst.feature);
        assert_eq!(digest.reference.unwrap().0, shifts.iter().map(|shift| shift.reference.0).min().unwrap());
        assert_eq!(digest.reference.unwrap().1, shifts.iter().map(|shift| shift.reference.1).max().unwrap());
        let empty = (window(400).0, window(401).1);
        assert!(Digest::read(&folders, empty, EventTime::from_micros(0)).is_none());
    }

    #[test]
    fn flaws_that_have_become_more_frequent_are_named_by_topic_and_files_are_one() {
        use crate::vocabulary::findings::Finding;
        let folder = tempfile::tempdir().unwrap();
        let found = findings(60, 7);
        write_parquet(folder.path(), 1, &found);
        let folders = Folders { parquet: Some(folder.path().into()), ndjson: None };
        let digest = Digest::read(&folders, (window(0).0, window(59).1), EventTime::from_micros(0)).unwrap();
        let rows = found.iter().flat_map(|(_, findings)| findings).filter_map(|finding| match finding {
            Finding::Quality(row) => Some(row.verdict),
            _ => None,
        });
        let watched = rows.filter(|verdict| *verdict == Verdict::Watch).count();
        assert!(watched > 0);
        assert_eq!(digest.summary["verdicts"]["quality"]["watch"], watched);
        let named = digest.summary["quality"].as_array().unwrap();
        let [late] = &named[..] else { panic!("what has not become more frequent is not named: {named:?}") };
        assert_eq!(
            (&late["topic"], &late["measure"], &late["verdict"]),
            (&json!("bp-obs"), &json!("late"), &json!("watch"))
        );
        assert!(late["current_rate"].as_f64() > late["reference_rate"].as_f64(), "{late}");
        assert!(!digest.summary.to_string().contains("\"file-"), "{named:?}");
    }
}
