//! Performance and fairness against a recount of the readings that stand, with the labels that stand.

use super::*;
use crate::audit::found::{Fared, Performed};
use crate::audit::judge::Judge;
use crate::audit::scores::{Score, Summary};
use crate::audit::series::{ATTRIBUTES, GROUPS};
use crate::vocabulary::findings::{Fairness, Performance};

/// The rows that stand at the end, and the labels.
struct Standing {
    rows: Vec<Row>,
    labels: Vec<Label>,
}

impl Standing {
    fn of(script: &[EpochOfScript]) -> Self {
        let mut rows: BTreeMap<Pseudonym, Row> = BTreeMap::new();
        let mut labels: BTreeMap<(Pseudonym, Pseudonym), Label> = BTreeMap::new();
        for of_epoch in script {
            for row in &of_epoch.rows {
                rows.remove(&row.reading.observation);
                let whole = [SYSTOLIC, DIASTOLIC].iter().all(|signal| row.reading.facts.signals.get(*signal).is_some());
                if row.contributes() && whole {
                    rows.insert(row.reading.observation, row.clone());
                }
            }
            for label in &of_epoch.labels {
                let known = labels.get(&(label.patient, label.id));
                if known.is_none_or(|known| known.version.compare(label.version).unwrap().is_lt()) {
                    labels.insert((label.patient, label.id), *label);
                }
            }
        }
        Standing { rows: rows.into_values().collect(), labels: labels.into_values().collect() }
    }

    fn label(&self, row: &Row) -> Option<bool> {
        let at = row.reading.facts.at;
        let holds = |label: &&Label| {
            label.patient == row.reading.patient && label.span.0 <= at && at < label.span.1 && label.happened.is_some()
        };
        self.labels.iter().filter(holds).max_by_key(|label| (label.span.0, label.id))?.happened
    }

    /// Whether a row is of a group.
    fn is_of(row: &Row, group: &str) -> bool {
        let years = row.demographics.age_years(row.reading.facts.at);
        let Some((attribute, value)) = group.split_once('=') else { return true };
        match attribute {
            "sex" => row.demographics.sex.code() == value,
            "risk" => row.assessment.risk_level == Some(value),
            _ => years.is_some_and(|years| match value {
                "<18" => years < 18,
                "80+" => years >= 80,
                band => {
                    let (from, to) = band.split_once('-').unwrap();
                    (from.parse().unwrap()..=to.parse().unwrap()).contains(&years)
                }
            }),
        }
    }

    fn summary(&self, group: &str, from: EventTime, to: EventTime) -> (Summary, u64) {
        let mut codes = Vec::new();
        let mut patients = BTreeSet::new();
        for row in &self.rows {
            let at = row.reading.facts.at;
            if from <= at && at < to && Self::is_of(row, group) {
                let Assessment { alarm, probability, .. } = row.assessment;
                let thousandths = probability.map(|probability| (probability * 1_000.0).round() as u16);
                let score = Score { thousandths, selected: alarm, alarm };
                codes.push((score.code(self.label(row)), 1));
                patients.insert(row.patient);
            }
        }
        (Summary::of(Histogram::from_counts(codes).as_slice()), patients.len() as u64)
    }

    fn performance(&self, row: &Performance) {
        let (start, window) = (row.current.0, spec().window);
        let (current, patients) = self.summary(row.group, start, start + window);
        let length = EventSpan::from_micros(window.micros() * i64::from(spec().reference_windows));
        let (reference, _) = self.summary(row.group, start - length, start);
        let expected = Performed::of(&current, &reference, Some(patients), &Judge::new(&spec()));
        let found = Performed {
            readings: row.readings,
            patients: row.patients,
            scored: row.scored,
            labelled: row.labelled,
            positives: row.positives,
            selected: row.selected,
            alarms: row.alarms,
            score_mean: row.score_mean,
            observed_rate: row.observed_rate,
            measured: row.measured,
            reference_measured: row.reference_measured,
            estimated: row.estimated,
            verdict: row.verdict,
        };
        // A window that has lost its last reading may have nothing in its reference either: then nothing stands.
        let nothing = Performed { patients: None, ..expected.clone() };
        assert!(found == expected || (row.readings == 0 && found == nothing), "{row:?}\nexpected {expected:?}");
        let days = patients as f64 * 600.0 / 86_400.0;
        assert!(row.readings == 0 || (row.patient_days.unwrap() - days).abs() < 1e-9);
    }

    fn fairness(&self, row: &Fairness) {
        let (start, end) = (row.current.0, row.current.0 + spec().window);
        let (_, groups) = ATTRIBUTES.iter().find(|(attribute, _)| *attribute == row.attribute).unwrap();
        let of: Vec<(&str, Summary)> =
            groups.clone().map(|group| (GROUPS[group], self.summary(GROUPS[group], start, end).0)).collect();
        let most = of.iter().map(|(_, summary)| summary.readings).max().unwrap();
        if row.readings == 0 {
            assert_eq!(self.summary(row.group, start, end).0.readings, 0);
            return;
        }
        let (name, reference) = of.iter().find(|(_, summary)| summary.readings == most).unwrap();
        assert_eq!(row.reference_group, *name, "{row:?}");
        let (summary, patients) = self.summary(row.group, start, end);
        let place = GROUPS.iter().position(|group| group == name).unwrap();
        let expected = Fared::of(&summary, (place, reference), Some(patients), &Judge::new(&spec()));
        assert_eq!([row.selection, row.tpr, row.fpr, row.ppv], expected.rates, "{row:?}");
        assert_eq!((row.readings, row.patients, row.labelled), (expected.readings, Some(patients), expected.labelled));
        assert_eq!((row.differences, row.ratios), (expected.beside.differences, expected.beside.ratios));
        assert_eq!((row.below_four_fifths, row.verdict), (expected.beside.below_four_fifths, expected.beside.verdict));
    }
}

#[test]
fn the_last_rows_of_performance_and_fairness_are_what_a_recount_gives() {
    for seed in 70..71 {
        let script = script(seed, 50);
        let standing = Standing::of(&script);
        let rows = run_all(&script, 2, 3, EventSpan::UNBOUNDED, &Metrics::new());
        let (mut performance, mut fairness, mut probability) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (_, found) in rows {
            match found {
                Finding::Performance(row) => drop(performance.insert((row.group, row.current), row)),
                Finding::Fairness(row) => drop(fairness.insert((row.group, row.current), row)),
                Finding::Shift(row) if row.feature == "probability" => {
                    drop(probability.insert((row.group.clone(), row.current), row));
                }
                _ => {}
            }
        }
        performance.values().for_each(|row| standing.performance(row));
        fairness.values().for_each(|row| standing.fairness(row));
        for row in probability.values() {
            let (summary, _) = standing.summary(&row.group, row.current.0, row.current.1);
            assert_eq!(row.current_side.readings, summary.scored, "{row:?}");
            let close = |a: Option<f64>, b: Option<f64>| a.zip(b).is_none_or(|(a, b)| (a - b).abs() < 1e-9);
            assert!(close(row.current_side.mean, summary.score_mean()), "{row:?}");
        }
        assert!(probability.len() > 100);
        let labelled: u64 = performance.values().map(|row| row.labelled).sum();
        assert!(labelled > 100 && performance.len() > 100 && fairness.len() > 100, "{labelled} labelled");
        assert!(performance.values().any(|row| row.measured.auroc.is_some()), "seed {seed}");
    }
}
