//! Fairness: each attribute with the rates of its groups, their intervals, and how they compare.

use maud::{Markup, html};

use super::{NO_ROWS, column, section, slug, tag};
use crate::report::chart::whiskers::{self, Dot};
use crate::report::gather::{Audit, Series};
use crate::report::numbers;
use crate::report::rows::{Fairness, RATES};
use crate::vocabulary::findings::{Span, Verdict};

/// Groups of an attribute that are shown.
const SERIES_SHOWN_MAX: usize = 40;

/// What the rates of [`RATES`] are called.
const TITLES: [(&str, &str); 4] = [
    ("Selected", "of all readings"),
    ("Found (TPR)", "selected among those whose outcome happened"),
    ("False alarms (FPR)", "selected among those whose outcome did not happen"),
    ("Right (PPV)", "outcome happened among the selected"),
];

/// The section.
pub(super) fn render(audit: &Audit) -> Markup {
    section("fairness", "Fairness", NO_ROWS, audit.fairness.as_ref(), |found| {
        html! {
            p.quiet {
                "Rates with 95 % intervals (Wilson), which take readings for independent: with few patients they are too narrow. The vertical line is the group "
                "that the others are compared with, the shade is four fifths of its rate and its inverse."
            }
            @for series in found.series.chunk_by(|a, b| a.now.attribute == b.now.attribute) { (attribute(series)) }
        }
    })
}

fn attribute(series: &[Series<Fairness>]) -> Markup {
    let name = &series[0].now.attribute;
    let worst = series.iter().map(|series| series.now.verdict).max().unwrap_or_default();
    let shown: Vec<&Fairness> = series.iter().take(SERIES_SHOWN_MAX).map(|series| &series.now).collect();
    let below: Vec<String> = shown
        .iter()
        .filter(|row| row.below_four_fifths == Some(true) && row.verdict != Verdict::Insufficient)
        .map(|row| numbers::group(&row.group))
        .collect();
    let (outcomes_of, with_outcomes) = with_outcomes(series).unzip();
    html! {
        article.feature id={ "fairness-" (slug(name)) } {
            h3 { "By " (numbers::words(name)) " " (tag(worst)) }
            p {
                "Compared with " strong { (numbers::group(&shown[0].reference_group)) } ", the group with most readings. "
                @if below.is_empty() { "No group with enough data is selected less than four fifths as often, or more than five fourths." }
                @else { "Outside four fifths: " strong { (below.join(", ")) } "." }
                @if outcomes_of.is_none() { " No outcomes are known, and so none of the rates that need them." }
                @else if let Some(of) = outcomes_of.filter(|of| *of != shown[0].current) { " Outcomes come later: the three plots that need them are of " strong { (numbers::span(of)) } ", the newest window that has some." }
            }
            div.plots {
                (plot(&shown, 0))
                @for at in 1..RATES.len() { @if let Some(rows) = &with_outcomes { (plot(rows, at)) } }
            }
            (table(&shown, name))
            @if series.len() > SERIES_SHOWN_MAX { p.quiet { (series.len() - SERIES_SHOWN_MAX) " more groups are left out." } }
        }
    }
}

/// The newest window in which a rate that needs outcomes is known, and what it says.
fn with_outcomes(series: &[Series<Fairness>]) -> Option<(Span, Vec<&Fairness>)> {
    let known = |row: &&Fairness| row.rates[1..].iter().any(|rate| rate.rate.is_some());
    let all = || series.iter().take(SERIES_SHOWN_MAX).flat_map(|series| &series.history);
    let window = all().filter(known).map(|row| row.current).max_by_key(|(start, end)| (*end, *start))?;
    Some((window, all().filter(|row| row.current == window).collect()))
}

/// What a group has of its attribute, where that is said above: `female` of `sex=female`.
fn value(group: &str) -> String {
    numbers::words(group.split_once('=').map_or(group, |(_, value)| value))
}

fn plot(rows: &[&Fairness], at: usize) -> Markup {
    let dots: Vec<Dot> = rows
        .iter()
        .map(|row| Dot {
            label: value(&row.group),
            rate: row.rates[at],
            reference: row.group == row.reference_group,
            faint: row.verdict == Verdict::Insufficient,
        })
        .collect();
    let (title, meaning) = TITLES[at];
    html! {
        figure {
            figcaption { (title) br; span.quiet { (meaning) } }
            @match whiskers::rates(&format!("{title}: {meaning}, by group"), &dots, at == 0) {
                Some(drawing) => (drawing),
                None => { p.empty { "Not known." } }
            }
        }
    }
}

fn table(rows: &[&Fairness], name: &str) -> Markup {
    html! {
        div.scroll { table.data.groups {
            caption { "By " (numbers::words(name)) }
            thead {
                tr {
                    th scope="col" rowspan="2" { "Group" }
                    @for (title, _) in TITLES { th scope="colgroup" colspan="3" { (title) } }
                    th scope="colgroup" colspan="2" { "Probability" }
                    th scope="colgroup" colspan="3" { "Seen in" }
                    th scope="col" rowspan="2" { "Verdict" }
                }
                tr {
                    @for _ in TITLES { (column("rate", "interval")) (column("less", "points")) (column("by", "ratio")) }
                    (column("mean", "")) (column("observed", ""))
                    (column("readings", "")) (column("patients", "")) (column("outcomes", ""))
                }
            }
            tbody { @for row in rows { (table_row(row)) } }
        } }
    }
}

fn table_row(row: &Fairness) -> Markup {
    let own = row.group == row.reference_group;
    let outside = row.below_four_fifths == Some(true);
    html! {
        tr class=(row.verdict.name()) data-attribute=(row.attribute) data-group=(row.group) {
            th scope="row" { (value(&row.group)) @if own { br; span.quiet { "reference" } } }
            @for at in 0..RATES.len() {
                td.number data-column=(RATES[at]) {
                    (numbers::data(row.rates[at].rate, numbers::percent))
                    @if let (Some(low), Some(high)) = (row.rates[at].low, row.rates[at].high) {
                        br; span.interval { (numbers::data(Some(low), |v| numbers::decimals(v * 100.0, 1))) "–" (numbers::data(Some(high), numbers::percent)) }
                    }
                }
                @if own { td.number {} td.number {} } @else {
                    td.number { (numbers::data(row.differences[at], |value| numbers::signed(value * 100.0, 1))) }
                    td class={ "number" (if at == 0 && outside { " outside" } else { "" }) } {
                        (numbers::data(row.ratios[at], |value| numbers::decimals(value, 2)))
                        @if at == 0 && outside { br; span.mark { "outside 4/5" } }
                    }
                }
            }
            td.number { (numbers::data(row.score_mean, numbers::percent)) }
            td.number { (numbers::data(row.observed_rate, numbers::percent)) }
            td.number { (numbers::data_count(Some(row.readings))) }
            td.number { (numbers::data_count(row.patients)) }
            td.number { (numbers::data_count(Some(row.labelled))) }
            td { (tag(row.verdict)) }
        }
    }
}
