//! Drift: each feature with its statistics, both histograms, its history, and every group.

use maud::{Markup, html};

use super::{NO_ROWS, column, of_patients, section, slug, tag};
use crate::report::chart::histogram::{self, Bins};
use crate::report::chart::history::{self, Line, Point};
use crate::report::gather::{Audit, Section, Series};
use crate::report::numbers;
use crate::report::rows::Shift;
use crate::report::thresholds::{self, STATISTICS, Thresholds};
use crate::vocabulary::findings::Verdict;

/// Groups of a feature that are shown; of more, those that have moved come first and the others are counted.
const SERIES_SHOWN_MAX: usize = 60;

/// Groups of a feature whose histograms are drawn.
const MULTIPLES_MAX: usize = 12;

/// The section.
pub(super) fn render(audit: &Audit) -> Markup {
    section("drift", "Drift", NO_ROWS, audit.drift.as_ref(), |found| {
        html! {
            p.quiet {
                "How far the readings of the window are from those of the reference. " (numbers::count(found.windows as u64))
                (if found.windows == 1 { " window" } else { " windows" }) " in the tables."
            }
            @for series in by_feature(found) { (feature(audit, series)) }
        }
    })
}

/// The series of each feature; they come sorted by it.
fn by_feature(found: &Section<Series<Shift>>) -> impl Iterator<Item = &[Series<Shift>]> {
    found.series.chunk_by(|a, b| a.now.feature == b.now.feature)
}

fn feature(audit: &Audit, series: &[Series<Shift>]) -> Markup {
    // Everybody, or without such a group the first one.
    let main = series.iter().find(|series| series.now.group == "all").unwrap_or(&series[0]);
    let worst = series.iter().map(|series| series.now.verdict).max().unwrap_or_default();
    let name = numbers::heading(&main.now.feature);
    html! {
        article.feature id={ "drift-" (slug(&main.now.feature)) } {
            h3 { (name) @if !matches!(main.now.unit.as_str(), "" | "1") { span.unit { ", " (main.now.unit) } } " " (tag(worst)) }
            p { (sentence(&main.now)) }
            div.pair {
                (histogram_figure(&main.now, &name))
                (history_figure(audit, main, strongest(series, main), &name))
            }
            div.pair {
                (statistics(audit, &main.now))
                (multiples(series))
            }
            (groups(audit, series, &name))
        }
    }
}

/// What has happened, in words.
fn sentence(now: &Shift) -> Markup {
    let places = numbers::decimals_of(now.reference_side.mean.unwrap_or_default());
    let text = |value: f64| numbers::decimals(value, places);
    let unit = numbers::with_unit("", &now.unit);
    html! {
        (heading_of(now)) ": "
        @if let (Some(before), Some(after)) = (now.reference_side.mean, now.current_side.mean) {
            "mean " (numbers::data(Some(before), text)) " → " (numbers::data(Some(after), text)) (unit) ", "
            strong { (numbers::with_unit(&numbers::signed(after - before, places), &now.unit)) }
            @if let Some(effect) = now.statistics.effect_size { " (" (numbers::signed(effect, 2)) " standard deviations)" }
            @if let (Some(before), Some(after)) = (now.reference_side.standard_deviation, now.current_side.standard_deviation) {
                "; spread (SD) " (numbers::data(Some(before), text)) " → " (numbers::data(Some(after), text)) (unit)
            }
            ". "
        }
        (of_patients(now.current_side.readings, now.current_side.patients)) " in the window, "
        (of_patients(now.reference_side.readings, now.reference_side.patients)) " in the reference."
    }
}

fn heading_of(now: &Shift) -> String {
    if now.group == "all" { "All readings".to_owned() } else { numbers::heading(&numbers::group(&now.group)) }
}

fn bins(shift: &Shift) -> Bins<'_> {
    Bins { edges: &shift.bin_edges, reference: &shift.reference_side.bins, current: &shift.current_side.bins }
}

fn histogram_figure(now: &Shift, name: &str) -> Markup {
    html! {
        figure {
            figcaption { "Distribution" (legend()) }
            @match histogram::large(&format!("{name}: reference and window"), &now.unit, bins(now)) {
                Some(drawing) => (drawing),
                None => { p.empty { "No histograms in the table." } }
            }
        }
    }
}

fn legend() -> Markup {
    html! { span.legend { span.key.reference {} "reference" span.key.current {} "window" } }
}

fn points(audit: &Audit, series: &Series<Shift>) -> (Vec<Point>, Thresholds) {
    let statistic = &series.now.statistic;
    let of = |row: &Shift| Point { at: row.current.1, value: row.statistics.named(statistic), verdict: row.verdict };
    (series.history.iter().map(of).collect(), audit.thresholds(statistic))
}

/// The group that has moved most, if it has moved more than everybody together.
fn strongest<'a>(series: &'a [Series<Shift>], main: &Series<Shift>) -> Option<&'a Series<Shift>> {
    let size = |series: &Series<Shift>| series.now.statistics.effect_size.unwrap_or_default().abs();
    let moved = series.iter().filter(|other| other.now.verdict > main.now.verdict.max(Verdict::None));
    moved.max_by(|a, b| a.now.verdict.cmp(&b.now.verdict).then(size(a).total_cmp(&size(b))))
}

fn history_figure(audit: &Audit, main: &Series<Shift>, strongest: Option<&Series<Shift>>, name: &str) -> Markup {
    let (of_main, thresholds) = points(audit, main);
    let of_strongest = strongest.map(|series| points(audit, series).0).unwrap_or_default();
    let title = thresholds::title(&main.now.statistic);
    let lines = [Line { class: "strongest", points: &of_strongest }, Line { class: "current", points: &of_main }];
    let lines = if strongest.is_some() { &lines[..] } else { &lines[1..] };
    html! {
        figure {
            figcaption {
                (title) " over time"
                @if let Some(series) = strongest {
                    span.legend {
                        span.key.current {} (numbers::group(&main.now.group))
                        span.key.strongest {} (numbers::group(&series.now.group))
                    }
                }
            }
            @match history::large(&format!("{name}: {title} over time"), lines, 0.0, thresholds) {
                Some(drawing) => (drawing),
                None => { p.empty { "No history: one window has a value." } }
            }
        }
    }
}

fn statistics(audit: &Audit, now: &Shift) -> Markup {
    html! {
        div.scroll { table.data.statistics data-feature=(now.feature) data-group=(now.group) {
            caption { "Statistics, " (heading_of(now).to_lowercase()) }
            thead { tr {
                th scope="col" { "Statistic" }
                (column("Value", ""))
                (column("Watch from", ""))
                (column("Act from", ""))
            } }
            tbody {
                @for statistic in &STATISTICS {
                    @let decides = statistic.name == now.statistic;
                    @let Thresholds { watch, act, below } = audit.thresholds(statistic.name);
                    @let limit = |value: Option<f64>| value.map(|v| format!("{}{v}", if below { "< " } else { "" }));
                    tr class=(if decides { "decides" } else { "" }) data-column=(statistic.name) {
                        th scope="row" { (statistic.title) @if decides { span.quiet { " · decides" } } }
                        td.number { (numbers::data(now.statistics.named(statistic.name), numbers::statistic)) }
                        td.number { (limit(watch).unwrap_or_default()) }
                        td.number { (limit(act).unwrap_or_default()) }
                    }
                }
            }
        } }
    }
}

fn groups(audit: &Audit, series: &[Series<Shift>], name: &str) -> Markup {
    let mut shown: Vec<&Series<Shift>> = series.iter().collect();
    if shown.len() > SERIES_SHOWN_MAX {
        shown.sort_by_key(|series| std::cmp::Reverse(series.now.verdict.max(Verdict::None)));
    }
    let unit = if series[0].now.unit == "1" { "" } else { &series[0].now.unit };
    html! {
        div.scroll { table.data.groups {
            caption { (name) " by group" }
            thead { tr {
                th scope="col" { "Group" }
                (column("Mean", "reference"))
                (column("Mean", "window"))
                (column("Change", unit))
                (column("Effect", "SD"))
                (column("Wasserstein", "SD"))
                (column(&short_title(&series[0].now.statistic), "decides"))
                th scope="col" { "Over time" }
                (column("Readings", "window"))
                (column("Patients", "window"))
                (column("Readings", "reference"))
                (column("Patients", "reference"))
                th scope="col" { "Verdict" }
            } }
            tbody { @for series in shown.iter().take(SERIES_SHOWN_MAX) { (group_row(audit, series)) } }
        } }
        @if shown.len() > SERIES_SHOWN_MAX { p.quiet { (shown.len() - SERIES_SHOWN_MAX) " more groups are left out." } }
    }
}

/// What fits above a column.
fn short_title(statistic: &str) -> String {
    match statistic {
        "psi" => "PSI".to_owned(),
        "jensen_shannon" => "Jensen–Shannon".to_owned(),
        "hellinger" => "Hellinger".to_owned(),
        "wasserstein" => "Wasserstein".to_owned(),
        "kolmogorov_smirnov_p" => "KS, p".to_owned(),
        other => thresholds::title(other),
    }
}

fn group_row(audit: &Audit, series: &Series<Shift>) -> Markup {
    let now = &series.now;
    let (points, limits) = points(audit, series);
    let (before, after) = (now.reference_side.mean, now.current_side.mean);
    let places = numbers::decimals_of(before.unwrap_or_default());
    let mean = |value| numbers::data(value, |value| numbers::decimals(value, places));
    let change = before.zip(after).map(|(before, after)| after - before);
    html! {
        tr class=(now.verdict.name()) data-feature=(now.feature) data-group=(now.group) {
            th scope="row" { (numbers::group(&now.group)) }
            td.number { (mean(before)) }
            td.number { (mean(after)) }
            td.number { (numbers::data(change, |value| numbers::signed(value, places))) }
            td.number { (numbers::data(now.statistics.effect_size, |value| numbers::signed(value, 2))) }
            td.number { (numbers::data(now.statistics.wasserstein, numbers::statistic)) }
            td.number.decides { (numbers::data(now.deciding(), numbers::statistic)) }
            td { @if let Some(line) = history::small(&format!("{} over time", numbers::group(&now.group)), &points, limits) { (line) } }
            td.number { (numbers::data_count(Some(now.current_side.readings))) }
            td.number { (numbers::data_count(now.current_side.patients)) }
            td.number { (numbers::data_count(Some(now.reference_side.readings))) }
            td.number { (numbers::data_count(now.reference_side.patients)) }
            td { (tag(now.verdict)) }
        }
    }
}

/// Small histograms of the groups beside `all`: those that have moved furthest, in the order of the table.
fn multiples(series: &[Series<Shift>]) -> Markup {
    let mut shown: Vec<(usize, &Series<Shift>)> = series
        .iter()
        .enumerate()
        .filter(|(_, series)| series.now.group != "all" && series.now.verdict != Verdict::Insufficient)
        .collect();
    let all = shown.len();
    let size = |series: &Series<Shift>| series.now.statistics.effect_size.unwrap_or_default().abs();
    shown.sort_by(|(_, a), (_, b)| b.now.verdict.cmp(&a.now.verdict).then(size(b).total_cmp(&size(a))));
    shown.truncate(MULTIPLES_MAX);
    shown.sort_by_key(|(at, _)| *at);
    let drawn: Vec<(&Shift, Markup)> = shown
        .iter()
        .filter_map(|(_, series)| {
            let title = format!("{}: reference and window", numbers::group(&series.now.group));
            Some((&series.now, histogram::small(&title, &series.now.unit, bins(&series.now))?))
        })
        .collect();
    html! {
        @if !drawn.is_empty() {
            div {
                p.caption { "Distribution by group" (legend()) }
                div.multiples {
                    @for (now, drawing) in &drawn {
                        figure { figcaption { (numbers::group(&now.group)) " " (tag(now.verdict)) } (drawing) }
                    }
                }
                @if all > drawn.len() { p.quiet { (all - drawn.len()) " more groups are not drawn." } }
            }
        }
    }
}
