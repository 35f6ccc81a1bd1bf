//! Rows to what a reader wants to know: the window to look at, how each finding came there, and since when it is so.
//!
//! Invariants:
//!
//! 1. Every section has one window, said in its heading: the newest of which anything can be said ([`Standing::detail`]).
//! 2. The order of features, groups and topics is that of their names, or of what the names mean (ages ascend, `all` is first): two reports of one
//!    flow can be laid side by side.
//! 3. Topics that stand for files are one topic, `files`: a file may hold one person.

use std::collections::{BTreeMap, BTreeSet};

use super::read::{Folders, Provenance, Source};
use super::rows::{Alert, Fairness, Performance, Quality, Row, Shift};
use super::standing::Standing;
use super::thresholds::{self, Thresholds};
use crate::config::AuditSpec;
use crate::time::EventTime;
use crate::vocabulary::findings::{AlertState, Span, Verdict};

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// Where the tables are.
    pub folders: Folders,
    /// Windows that begin and end within.
    pub range: Span,
    /// The flow's `[audit]`; `None` if no flow was named.
    pub audit: Option<AuditSpec>,
    /// When it is asked.
    pub now: EventTime,
}

/// What the tables say.
#[derive(Clone, Debug)]
pub struct Audit {
    /// When it was made.
    pub(super) made_at: EventTime,
    /// What the files say of themselves.
    pub(super) provenance: Provenance,
    /// The settings that thresholds come from.
    pub(super) settings: AuditSpec,
    /// False if they are the defaults, since no flow was named.
    pub(super) settings_known: bool,
    /// Drift of the features.
    pub(super) drift: Option<Section<Series<Shift>>>,
    /// Flaws of the input, by topic.
    pub(super) quality: Option<Section<Series<Quality>>>,
    /// How the scores did.
    pub(super) performance: Option<Section<Series<Performance>>>,
    /// How groups fare.
    pub(super) fairness: Option<Section<Series<Fairness>>>,
    /// What people were told, newest first.
    pub(super) alerts: Option<Vec<Alert>>,
    /// What could not be read and what was left out.
    pub(super) remarks: BTreeSet<String>,
}

/// What one table says of one window.
#[derive(Clone, Debug)]
pub(super) struct Section<S> {
    /// The window.
    pub(super) window: Span,
    /// The newest window, if too little is known of it.
    pub(super) passed_by: Option<Span>,
    /// Windows of the table.
    pub(super) windows: usize,
    /// What there is in the window.
    pub(super) series: Vec<S>,
}

/// One finding and how it came there.
#[derive(Clone, Debug)]
pub(super) struct Series<R> {
    /// In the section's window.
    pub(super) now: R,
    /// In all windows up to that one, ascending.
    pub(super) history: Vec<R>,
}

/// Since when a finding has been what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Since {
    /// The start of the first window of the unbroken run.
    pub(super) start: EventTime,
    /// True if the run begins where the table does: it may be older.
    pub(super) at_least: bool,
}

impl<R: Row> Series<R> {
    /// Since when the verdict has been `watch` or `act` in every window; `None` if it is neither now.
    pub(super) fn since(&self) -> Option<Since> {
        let moved = |row: &&R| row.verdict() >= Verdict::Watch;
        let run = self.history.iter().rev().take_while(moved).count();
        let first = self.history[self.history.len() - run..].first()?;
        Some(Since { start: first.window().0, at_least: run == self.history.len() })
    }
}

impl Audit {
    /// Reads everything.
    pub fn read(question: &Question) -> Audit {
        let mut source = Source::new(question.folders.clone(), question.range);
        let shifts = source.table::<Shift>();
        let mut drift = section(&shifts);
        if let Some(drift) = &mut drift {
            add_histograms(drift, &mut source);
            drift
                .series
                .sort_by_cached_key(|series| (feature_order(&series.now.feature), group_order(&series.now.group)));
        }
        let quality = quality(&source.table::<Quality>());
        let mut performance = section(&source.table::<Performance>());
        if let Some(performance) = &mut performance {
            performance.series.sort_by_cached_key(|series| group_order(&series.now.group));
        }
        let mut fairness = section(&source.table::<Fairness>());
        if let Some(fairness) = &mut fairness {
            fairness.series.sort_by_cached_key(|series| group_order(&series.now.group));
        }
        let alerts = source.table::<Alert>();
        let alerts = (!alerts.is_empty()).then(|| alerts.all().rev().cloned().collect());
        source.newest_readings();
        let mut remarks = source.remarks;
        remarks.extend(shifts.cut_at().map(|start| {
            format!(
                "Windows before {} are left out of the history: there are too many.",
                super::numbers::instant(start)
            )
        }));
        Audit {
            made_at: question.now,
            provenance: source.provenance,
            settings: question.audit.clone().unwrap_or_default(),
            settings_known: question.audit.is_some(),
            drift,
            quality,
            performance,
            fairness,
            alerts,
            remarks,
        }
    }

    /// True if no table has a row.
    pub fn is_empty(&self) -> bool {
        let tables =
            [self.drift.is_some(), self.quality.is_some(), self.performance.is_some(), self.fairness.is_some()];
        !tables.contains(&true) && self.alerts.is_none()
    }

    /// The thresholds of a statistic in force.
    pub(super) fn thresholds(&self, statistic: &str) -> Thresholds {
        thresholds::of(statistic, &self.settings)
    }

    /// Alerts that were raised and not cleared since, newest first.
    pub(super) fn open_alerts(&self) -> Vec<&Alert> {
        let mut last = BTreeMap::new();
        let all = self.alerts.iter().flatten();
        for alert in all.filter(|alert| matches!(alert.state, Some(AlertState::Raised | AlertState::Cleared))) {
            last.entry(alert.key()).or_insert(alert);
        }
        let mut open: Vec<&Alert> =
            last.into_values().filter(|alert| alert.state == Some(AlertState::Raised)).collect();
        open.sort_by_key(|alert| std::cmp::Reverse(alert.current.1));
        open
    }
}

/// What a table says of the window to look at.
fn section<R: Row>(standing: &Standing<R>) -> Option<Section<Series<R>>> {
    let window = standing.detail()?;
    let series = standing.of(window).map(|now| {
        let up_to = |row: &&R| (row.window().1, row.window().0) <= (window.1, window.0);
        Series { now: now.clone(), history: standing.history(&now.key()).take_while(up_to).cloned().collect() }
    });
    let passed_by = standing.newest().filter(|newest| *newest != window);
    Some(Section { window, passed_by, windows: standing.windows(), series: series.collect() })
}

fn add_histograms(drift: &mut Section<Series<Shift>>, source: &mut Source) {
    let full = source.histograms(drift.window);
    let mut full: BTreeMap<_, Shift> = full.all().map(|shift| (shift.key(), shift.clone())).collect();
    for series in &mut drift.series {
        // A newer row may have come in between: only the very same one has the same histograms.
        if let Some(found) = full.remove(&series.now.key()).filter(|found| found.epoch == series.now.epoch) {
            series.now = found;
        }
    }
}

/// The name of the topic that all files are shown as.
pub(super) const FILES: &str = "files";

/// What topics that stand for files are shown as: one of them may hold one person.
pub(super) fn topic(name: &str) -> &str {
    if name.starts_with("file-") { FILES } else { name }
}

/// Flaws by topic, files as one.
pub(super) fn by_topic(standing: &Standing<Quality>) -> Standing<Quality> {
    let mut merged = Standing::default();
    let mut sums: BTreeMap<(Span, String, String), Quality> = BTreeMap::new();
    for row in standing.all() {
        let topic = topic(&row.topic);
        let sum = sums.entry((row.current, topic.to_owned(), row.measure.clone())).or_insert_with(|| Quality {
            topic: topic.to_owned(),
            reference_counts: (0, 0),
            current_counts: (0, 0),
            verdict: Verdict::Insufficient,
            ..row.clone()
        });
        for (sum, more) in
            [(&mut sum.reference_counts, row.reference_counts), (&mut sum.current_counts, row.current_counts)]
        {
            *sum = (sum.0.saturating_add(more.0), sum.1.saturating_add(more.1));
        }
        sum.verdict = sum.verdict.max(row.verdict);
    }
    sums.into_values().for_each(|row| merged.insert(row));
    merged
}

fn quality(standing: &Standing<Quality>) -> Option<Section<Series<Quality>>> {
    let mut found = section(&by_topic(standing))?;
    found
        .series
        .sort_by_cached_key(|Series { now, .. }| (now.topic.clone(), now.measure != "readings", now.measure.clone()));
    Some(found)
}

/// The pressures as a clinician names them, then everything else by name.
fn feature_order(feature: &str) -> (usize, String) {
    let known = ["systolic", "diastolic", "mean_arterial", "pulse_pressure"];
    (known.iter().position(|name| *name == feature).unwrap_or(known.len()), feature.to_owned())
}

/// `all`, then by attribute; within it by the number that the group begins with (`<18` is before `18-39`), by level of risk, by name.
pub(super) fn group_order(group: &str) -> (bool, String, u64, bool, String) {
    let (attribute, value) = group.split_once('=').unwrap_or(("", group));
    let digits: String = value.trim_start_matches('<').chars().take_while(char::is_ascii_digit).collect();
    let level = ["LOW", "MODERATE", "HIGH"].iter().position(|level| *level == value).map(|level| level as u64);
    let number = level.or(digits.parse().ok()).unwrap_or(u64::MAX);
    (group != "all", attribute.to_owned(), number, !value.starts_with('<'), value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_ascend_by_what_their_names_mean() {
        let sorted = [
            "all",
            "age=<18",
            "age=18-39",
            "age=40-64",
            "age=80+",
            "comorbidities=0",
            "comorbidities=1",
            "comorbidities=2-3",
            "comorbidities=4+",
            "risk=LOW",
            "risk=MODERATE",
            "risk=HIGH",
            "sex=female",
            "sex=male",
        ];
        let mut shuffled = sorted;
        shuffled.reverse();
        shuffled.sort_by_key(|group| group_order(group));
        assert_eq!(shuffled, sorted);
    }

    #[test]
    fn a_run_ends_where_a_window_was_quiet_or_had_too_little() {
        let at = |hour: i64| EventTime::from_micros(hour * 3_600_000_000);
        let series = |verdicts: &str| {
            let history: Vec<Shift> = (0..)
                .zip(verdicts.chars())
                .map(|(hour, verdict)| Shift {
                    current: (at(hour), at(hour + 1)),
                    verdict: match verdict {
                        'a' => Verdict::Act,
                        'w' => Verdict::Watch,
                        'n' => Verdict::None,
                        _ => Verdict::Insufficient,
                    },
                    ..Shift::default()
                })
                .collect();
            Series { now: history[history.len() - 1].clone(), history }
                .since()
                .map(|since| (since.start, since.at_least))
        };
        assert_eq!(series("nawa"), Some((at(1), false)));
        assert_eq!(series("a?wa"), Some((at(2), false)));
        assert_eq!(series("wa"), Some((at(0), true)));
        assert_eq!(series("aan"), None);
    }
}
