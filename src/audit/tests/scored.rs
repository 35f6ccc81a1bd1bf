//! Performance and fairness against a recount of the readings that stand, with the labels that stand.

use super::*;
use crate::audit::found::{Fared, Performed};
use crate::audit::judge::Judge;
use crate::audit::scores::{Score, Summary, Thousandths};
use crate::audit::series::{ATTRIBUTES, GROUPS};
use crate::runtime::metrics::samples;
use crate::vocabulary::Outcome;
use crate::vocabulary::findings::{Fairness, Performance, Span};

/// Labels by patient and id.
type Labels = BTreeMap<(Pseudonym, Pseudonym), Label>;

/// Lets a label stand in place of an earlier version, if it is newer; what is about times up to `start` alone is forgotten. Says how the input ends.
/// What withdraws keeps the time of what it withdraws; without a version it is as new as that.
fn stand(labels: &mut Labels, label: Label, start: EventTime) -> Outcome {
    labels.retain(|_, label| label.at > start);
    let withdraws = label.happened.is_none();
    let Some(known) = labels.get_mut(&(label.patient, label.id)) else {
        if label.at > start {
            labels.insert((label.patient, label.id), label);
        }
        return match (withdraws, label.at > start) {
            (true, _) => Outcome::Ignored,
            (false, true) => Outcome::Contributed,
            (false, false) => Outcome::Late,
        };
    };
    let withdrawn = known.happened.is_none();
    let same = (known.happened, known.at) == (label.happened, label.at) || (withdraws && withdrawn);
    let ends = match (label.version.number(), known.version.number()) {
        (Some(new), Some(old)) if new < old => Outcome::Superseded,
        (Some(new), Some(old)) if new == old && withdraws == withdrawn => Outcome::Duplicate,
        (Some(new), Some(old)) if new == old && withdrawn => Outcome::Superseded,
        (Some(_), Some(_)) => Outcome::Contributed,
        _ if same => Outcome::Duplicate,
        _ => Outcome::Contributed,
    };
    if ends == Outcome::Contributed && withdraws {
        known.happened = None;
        known.version = if label.version.number().is_some() { label.version } else { known.version };
    } else if ends == Outcome::Contributed {
        *known = label;
    }
    ends
}

/// Before this, no window that may still change looks.
fn forgotten_before(watermark: &crate::watermark::Watermark, horizon: EventSpan) -> EventTime {
    let (hop, window) = (spec().hop.unwrap(), spec().window);
    let frozen = watermark.frozen(horizon);
    let back = EventSpan::from_micros(window.micros() * (1 + i64::from(spec().reference_windows)));
    if frozen == EventTime::MIN { frozen } else { frozen.floor_to(hop) + hop - back }
}

/// The rows that stand at the end, and the labels; how the labels ended.
pub(super) struct Standing {
    rows: Vec<Row>,
    labels: Vec<Label>,
    ends: BTreeMap<Outcome, u64>,
}

impl Standing {
    pub(super) fn of(script: &[EpochOfScript], horizon: EventSpan) -> Self {
        let mut rows: BTreeMap<Pseudonym, Row> = BTreeMap::new();
        let (mut labels, mut ends) = (Labels::new(), BTreeMap::new());
        let mut watermark = crate::watermark::Watermark::new();
        for of_epoch in script {
            for row in &of_epoch.rows {
                rows.remove(&row.reading.observation);
                let whole = [SYSTOLIC, DIASTOLIC].iter().all(|signal| row.reading.facts.signals.get(*signal).is_some());
                if row.contributes() && whole {
                    rows.insert(row.reading.observation, row.clone());
                }
            }
            for (_, Moved { observation, measured, .. }) in &of_epoch.moved {
                rows.entry(*observation).and_modify(|row| row.demographics = measured.demographics);
            }
            let start = forgotten_before(&watermark, horizon);
            for label in &of_epoch.labels {
                *ends.entry(stand(&mut labels, *label, start)).or_default() += 1;
            }
            watermark.advance(&of_epoch.ticks);
        }
        Standing { rows: rows.into_values().collect(), labels: labels.into_values().collect(), ends }
    }

    /// What came of the patient within the horizon after a reading: an outcome that happened outweighs any number that did not.
    fn label(&self, row: &Row) -> Option<bool> {
        let at = row.reading.facts.at;
        let about = |label: &&Label| {
            label.patient == row.reading.patient && at < label.at && label.at <= at + spec().outcomes.horizon
        };
        let said: Vec<bool> = self.labels.iter().filter(about).filter_map(|label| label.happened).collect();
        if said.is_empty() { None } else { Some(said.iter().any(|happened| *happened)) }
    }

    /// Whether a row is of a group.
    fn is_of(row: &Row, group: &str) -> bool {
        let years = row.demographics.age_years(row.reading.facts.at);
        let Some((attribute, value)) = group.split_once('=') else { return true };
        match attribute {
            "sex" => row.demographics.sex.code() == value,
            "risk" => row.assessment.risk_level == Some(value),
            "comorbidities" => row.demographics.comorbidities.is_some_and(|count| match value {
                "2-3" => count == 2 || count == 3,
                "4+" => count > 3,
                exactly => count.to_string() == exactly,
            }),
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

    pub(super) fn summary(&self, group: &str, from: EventTime, to: EventTime) -> (Summary, u64) {
        let mut codes = Vec::new();
        let mut patients = BTreeSet::new();
        for row in &self.rows {
            let at = row.reading.facts.at;
            if from <= at && at < to && Self::is_of(row, group) {
                let Assessment { alarm, probability, .. } = row.assessment;
                let thousandths = probability.and_then(Thousandths::of);
                let score = Score { thousandths, selected: alarm, alarm };
                codes.push((score.code(self.label(row)), 1));
                patients.insert(row.patient);
            }
        }
        (Summary::of(Histogram::from_counts(codes).as_slice()), patients.len() as u64)
    }

    fn performance(&self, row: &Performance) {
        let (start, window) = (row.current.0, spec().window);
        let length = EventSpan::from_micros(window.micros() * i64::from(spec().reference_windows));
        self.performance_against(row, &self.summary(row.group, start - length, start).0);
    }

    pub(super) fn performance_against(&self, row: &Performance, reference: &Summary) {
        let (start, window) = (row.current.0, spec().window);
        let (current, patients) = self.summary(row.group, start, start + window);
        // Of a window that has lost its last reading nothing stands.
        let expected = match current.readings {
            0 => Performed::default(),
            _ => Performed::of(&current, reference, Some(patients), &Judge::new(&spec())),
        };
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
        assert!(found == expected, "{row:?}\nexpected {expected:?}");
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

/// The last rows of a script that is run on two workers, and how its labels ended.
struct LastRows {
    performance: BTreeMap<(&'static str, Span), Performance>,
    fairness: BTreeMap<(&'static str, Span), Fairness>,
    probability: BTreeMap<(String, Span), Shift>,
    ends: BTreeMap<Outcome, u64>,
}

impl LastRows {
    fn of(script: &[EpochOfScript], workers: usize, horizon: EventSpan) -> Self {
        let metrics = Metrics::new();
        let rows = run_all(script, workers, 3, horizon, &metrics);
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
        let mut ends = BTreeMap::new();
        for sample in samples(&metrics.inputs) {
            let outcome = Outcome::ALL.into_iter().find(|outcome| outcome.name() == sample.label("outcome")).unwrap();
            *ends.entry(outcome).or_default() += sample.value as u64;
        }
        LastRows { performance, fairness, probability, ends }
    }
}

#[test]
fn the_last_rows_of_performance_and_fairness_are_what_a_recount_gives() {
    for (seed, workers) in [(70, 4), (71, 1)] {
        let script = script(seed, 45);
        let standing = Standing::of(&script, EventSpan::UNBOUNDED);
        let LastRows { performance, fairness, probability, ends } =
            LastRows::of(&script, workers, EventSpan::UNBOUNDED);
        performance.values().for_each(|row| standing.performance(row));
        fairness.values().for_each(|row| standing.fairness(row));
        for row in probability.values() {
            let (summary, _) = standing.summary(&row.group, row.current.0, row.current.1);
            assert_eq!(row.current_side.readings, summary.scored, "{row:?}");
            let close = |a: Option<f64>, b: Option<f64>| a.zip(b).is_none_or(|(a, b)| (a - b).abs() < 1e-9);
            assert!(close(row.current_side.mean, summary.score_mean()), "{row:?}");
        }
        assert!(probability.len() > 100);
        for group in &GROUPS[ATTRIBUTES[3].1.clone()] {
            assert!(performance.keys().any(|(of, _)| of == group), "seed {seed}: {group} was scored");
        }
        let labelled: u64 = performance.values().map(|row| row.labelled).sum();
        assert!(labelled > 200 && performance.len() > 100 && fairness.len() > 100, "{labelled} labelled");
        assert!(performance.values().any(|row| row.measured.auroc.is_some()), "seed {seed}");
        assert_eq!(ends, standing.ends, "seed {seed}: where labels end");
        for outcome in [Outcome::Contributed, Outcome::Superseded, Outcome::Duplicate, Outcome::Ignored] {
            assert!(ends.contains_key(&outcome), "seed {seed}: no label is {}", outcome.name());
        }
    }
}

#[test]
fn labels_beyond_the_horizon_are_late_and_those_within_correct_what_was_published() {
    let horizon = EventSpan::from_seconds(1_800);
    let mut labelled = 0;
    for (seed, workers) in [(73, 1), (74, 4)] {
        let script = script(seed, 80);
        let standing = Standing::of(&script, horizon);
        let LastRows { performance, fairness, ends, .. } = LastRows::of(&script, workers, horizon);
        let mut watermark = crate::watermark::Watermark::new();
        script.iter().for_each(|of_epoch| watermark.advance(&of_epoch.ticks));
        let hop = spec().hop.unwrap();
        let live = watermark.frozen(horizon).floor_to(hop) + hop - spec().window;
        let live = |(_, span): &(&'static str, Span)| span.0 >= live;
        let performance: Vec<_> = performance.into_iter().filter(|(key, _)| live(key)).map(|(_, row)| row).collect();
        performance.iter().for_each(|row| standing.performance(row));
        fairness.iter().filter(|(key, _)| live(key)).for_each(|(_, row)| standing.fairness(row));
        labelled += performance.iter().map(|row| row.labelled).sum::<u64>();
        assert_eq!(ends, standing.ends, "seed {seed}: where labels end");
        assert!(ends[&Outcome::Late] > 10, "seed {seed}: {ends:?}");
    }
    assert!(labelled > 100, "{labelled} labelled readings in windows that may still change");
}
