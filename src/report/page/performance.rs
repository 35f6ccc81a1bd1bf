//! Performance: how good the scores were, measured against outcomes, estimated without them, and beside the reference.

use maud::{Markup, html};

use super::{NO_ROWS, column, of_patients, section, tag};
use crate::report::chart::history::{self, Line, Point};
use crate::report::chart::whiskers;
use crate::report::gather::{Audit, Series};
use crate::report::numbers;
use crate::report::rows::Performance;
use crate::report::thresholds::Thresholds;
use crate::vocabulary::findings::{Goodness, Verdict};

/// Groups that are shown.
const SERIES_SHOWN_MAX: usize = 60;

/// A figure: its column, its name, what it says, whether more of it is better, and where it is.
struct Figure {
    column: &'static str,
    title: &'static str,
    meaning: &'static str,
    of: fn(&Goodness) -> Option<f64>,
}

/// In the order in which they are shown.
const FIGURES: [Figure; 7] = [
    Figure {
        column: "auroc",
        title: "AUROC",
        meaning: "does it rank positives higher? 0.5 is chance, 1 always",
        of: |of| of.auroc,
    },
    Figure {
        column: "brier",
        title: "Brier score",
        meaning: "mean squared error of the probability; less is better",
        of: |of| of.brier,
    },
    Figure {
        column: "ece",
        title: "Calibration error (ECE)",
        meaning: "mean gap of predicted and observed; less is better",
        of: |of| of.ece,
    },
    Figure {
        column: "sensitivity",
        title: "Sensitivity",
        meaning: "selected among those whose outcome happened",
        of: |of| of.sensitivity,
    },
    Figure {
        column: "specificity",
        title: "Specificity",
        meaning: "not selected among those whose outcome did not",
        of: |of| of.specificity,
    },
    Figure {
        column: "ppv",
        title: "Positive predictive value",
        meaning: "outcome happened among the selected",
        of: |of| of.ppv,
    },
    Figure { column: "accuracy", title: "Accuracy", meaning: "right among all with an outcome", of: |of| of.accuracy },
];

/// The section.
pub(super) fn render(audit: &Audit) -> Markup {
    section("performance", "Performance", NO_ROWS, audit.performance.as_ref(), |found| {
        let main = found.series.iter().find(|series| series.now.group == "all").or(found.series.first());
        html! {
            @if let Some(main) = main {
                p { (sentence(&main.now)) }
                div.pair {
                    (figures(&main.now))
                    div { (history_figure(main, strongest(&found.series, main))) (calibration(&found.series)) }
                }
            }
            (groups(&found.series))
        }
    })
}

fn sentence(now: &Performance) -> Markup {
    html! {
        (of_patients(now.readings, now.patients)) ", " (numbers::count(now.scored)) " with a probability, "
        (numbers::count(now.labelled)) " with an outcome, of which " (numbers::count(now.positives)) " happened. "
        (numbers::count(now.selected)) " readings were selected"
        @if now.readings > 0 { " (" (numbers::percent(now.selected as f64 / now.readings as f64)) ")" }
        ", " (numbers::count(now.alarms)) " raised an alarm"
        @if let Some(rate) = now.alarms_per_patient_day { ", " strong { (numbers::statistic(rate)) " a patient-day" } }
        "."
        @if now.labelled == 0 { " Without outcomes only the estimates can be read." }
    }
}

fn figures(now: &Performance) -> Markup {
    let change = |figure: &Figure| Some((figure.of)(&now.measured)? - (figure.of)(&now.reference_measured)?);
    html! {
        div.scroll { table.data.statistics data-group=(now.group) {
            caption { "Against outcomes, and estimated without them (CBPE)" }
            thead { tr {
                th scope="col" { "Figure" }
                (column("Window", "measured"))
                (column("Reference", "measured"))
                (column("Change", ""))
                (column("Window", "estimated"))
            } }
            tbody { @for figure in &FIGURES {
                tr data-column=(figure.column) {
                    th scope="row" { (figure.title) br; span.quiet { (figure.meaning) } }
                    td.number { (numbers::data((figure.of)(&now.measured), numbers::statistic)) }
                    td.number { (numbers::data((figure.of)(&now.reference_measured), numbers::statistic)) }
                    td.number { (numbers::data(change(figure), |value| numbers::signed(value, 3))) }
                    td.number { (numbers::data((figure.of)(&now.estimated), numbers::statistic)) }
                }
            } }
        } }
    }
}

/// The group that has fallen most, if it has fallen more than everybody together.
fn strongest<'a>(series: &'a [Series<Performance>], main: &Series<Performance>) -> Option<&'a Series<Performance>> {
    let fall = |series: &Series<Performance>| {
        let Performance { measured, reference_measured, .. } = &series.now;
        reference_measured.auroc.unwrap_or_default() - measured.auroc.unwrap_or_default()
    };
    let moved = series.iter().filter(|other| other.now.verdict > main.now.verdict.max(Verdict::None));
    moved.max_by(|a, b| a.now.verdict.cmp(&b.now.verdict).then(fall(a).total_cmp(&fall(b))))
}

fn history_figure(main: &Series<Performance>, strongest: Option<&Series<Performance>>) -> Markup {
    let measured = |series: &Series<Performance>| -> Vec<Point> {
        let point = |row: &Performance| Point { at: row.current.1, value: row.measured.auroc, verdict: row.verdict };
        series.history.iter().map(point).collect()
    };
    // An estimate has no verdict of its own.
    let estimated = |row: &Performance| Point { at: row.current.1, value: row.estimated.auroc, verdict: Verdict::None };
    let estimated: Vec<Point> = main.history.iter().map(estimated).collect();
    let (of_main, of_strongest) = (measured(main), strongest.map(measured).unwrap_or_default());
    let lines = [
        Line { class: "estimated", points: &estimated },
        Line { class: "strongest", points: &of_strongest },
        Line { class: "current", points: &of_main },
    ];
    html! {
        figure {
            figcaption {
                "AUROC over time"
                span.legend {
                    span.key.estimated {} "estimated" span.key.current {} "measured"
                    @if let Some(series) = strongest { span.key.strongest {} (numbers::group(&series.now.group)) ", measured" }
                }
            }
            @match history::large("AUROC over time, estimated and measured", &lines, 0.5, Thresholds::default()) {
                Some(drawing) => (drawing),
                None => { p.empty { "No history: one window has a value." } }
            }
        }
    }
}

fn groups(series: &[Series<Performance>]) -> Markup {
    html! {
        div.scroll { table.data.groups {
            caption { "By group" }
            thead { tr {
                th scope="col" { "Group" }
                (column("AUROC", "window"))
                (column("AUROC", "reference"))
                (column("Brier", ""))
                (column("Sensitivity", ""))
                (column("PPV", ""))
                (column("Alarms", "a patient-day"))
                (column("Readings", ""))
                (column("Patients", ""))
                (column("Outcomes", "known"))
                th scope="col" { "Verdict" }
            } }
            tbody { @for series in series.iter().take(SERIES_SHOWN_MAX) { (group_row(&series.now)) } }
        } }
        @if series.len() > SERIES_SHOWN_MAX { p.quiet { (series.len() - SERIES_SHOWN_MAX) " more groups are left out." } }
    }
}

fn group_row(now: &Performance) -> Markup {
    html! {
        tr class=(now.verdict.name()) data-group=(now.group) {
            th scope="row" { (numbers::group(&now.group)) }
            td.number { (numbers::data(now.measured.auroc, numbers::statistic)) }
            td.number { (numbers::data(now.reference_measured.auroc, numbers::statistic)) }
            td.number { (numbers::data(now.measured.brier, numbers::statistic)) }
            td.number { (numbers::data(now.measured.sensitivity, numbers::percent)) }
            td.number { (numbers::data(now.measured.ppv, numbers::percent)) }
            td.number { (numbers::data(now.alarms_per_patient_day, numbers::statistic)) }
            td.number { (numbers::data_count(Some(now.readings))) }
            td.number { (numbers::data_count(now.patients)) }
            td.number { (numbers::data_count(Some(now.labelled))) }
            td { (tag(now.verdict)) }
        }
    }
}

/// What was predicted beside what happened.
fn calibration(series: &[Series<Performance>]) -> Markup {
    let pairs: Vec<(String, [Option<f64>; 2])> = series
        .iter()
        .filter(|series| series.now.score_mean.is_some())
        .take(SERIES_SHOWN_MAX)
        .map(|series| (numbers::group(&series.now.group), [series.now.score_mean, series.now.observed_rate]))
        .collect();
    html! {
        @if let Some(drawing) = whiskers::pairs("Predicted and observed, by group", ["predicted", "observed"], &pairs) {
            figure {
                figcaption { "Calibration in the large" span.legend { span.key.hollow {} "mean probability" span.key.dot {} "observed rate" } }
                (drawing)
            }
        }
    }
}
