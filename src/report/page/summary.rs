//! The first screen: what the report is about, and what has moved.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::{of_patients, slug, tag, tally};
use crate::report::gather::{Audit, Section, Series, Since};
use crate::report::numbers;
use crate::report::rows::{Fairness, Performance, Quality, Row, Shift};
use crate::report::thresholds;
use crate::vocabulary::findings::{Span, Verdict};

/// Rows of the table of what has moved; the sections have all.
const MOVED_SHOWN_MAX: usize = 14;

/// Names of places that are written out; more are counted.
const PLACES_SHOWN_MAX: usize = 4;

/// What it is about.
pub(super) fn header(audit: &Audit, flow: &str) -> Markup {
    let joined = |set: &std::collections::BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(", ");
    let all = audit.drift.as_ref().and_then(|drift| drift.series.iter().find(|series| series.now.group == "all"));
    html! {
        header {
            p.kicker { "Windkessel · audit report" }
            h1 { (flow) }
            dl.facts {
                @if let Some(drift) = &audit.drift {
                    (fact("Window", html! {
                        (numbers::span(drift.window)) " UTC"
                        @if let Some(Series { now, .. }) = all { br; (of_patients(now.current_side.readings, now.current_side.patients)) }
                    }))
                }
                @if let Some(series @ Series { now, .. }) = all {
                    (fact("Reference", html! {
                        @if is_profile(series) { "a saved profile, of " }
                        (numbers::span(now.reference)) " UTC" br;
                        (of_patients(now.reference_side.readings, now.reference_side.patients))
                    }))
                }
                (fact("Rule set", html! { (or_nothing(joined(&audit.provenance.rule_sets))) }))
                (fact("Model", html! { @match &audit.provenance.model { Some(model) => code { (short(model)) }, None => "none named" } }))
                (fact("Written by", html! { "Windkessel " (or_nothing(joined(&audit.provenance.versions))) }))
                (fact("Report made", html! { (numbers::instant(audit.made_at)) " UTC" }))
            }
        }
    }
}

/// A window follows right after its reference, unless that is always the same.
fn is_profile(series: &Series<Shift>) -> bool {
    let apart = |row: &Shift| row.reference != Default::default() && row.reference.1 != row.current.0;
    series.history.iter().any(apart)
}

fn fact(name: &str, value: Markup) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

fn or_nothing(text: String) -> String {
    if text.is_empty() { numbers::NOTHING.to_owned() } else { text }
}

/// The first digits of a digest: enough to tell two apart.
fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

/// Something that has moved.
struct Moved {
    verdict: Verdict,
    /// The section and the anchor within.
    href: String,
    what: String,
    places: Vec<String>,
    effect: Markup,
    since: Option<Since>,
    people: String,
}

/// What has moved, and how much there is to say of the rest.
pub(super) fn render(audit: &Audit) -> Markup {
    let mut moved: Vec<Moved> = [
        audit.quality.as_ref().map(quality).unwrap_or_default(),
        audit.drift.as_ref().map(drift).unwrap_or_default(),
        audit.performance.as_ref().map(performance).unwrap_or_default(),
        audit.fairness.as_ref().map(fairness).unwrap_or_default(),
    ]
    .into_iter()
    .flatten()
    .collect();
    // A sort that is stable keeps the sections' order, and within each the strongest first: sizes of different things cannot be compared.
    moved.sort_by_key(|moved| std::cmp::Reverse(moved.verdict));
    html! {
        section id="summary" aria-labelledby="summary-title" {
            h2 id="summary-title" { "What has moved" }
            p.lead { (lead(&moved, said(audit))) }
            @if let Some(share) = incomplete(audit) {
                p.quiet {
                    "The window has only " (numbers::percent(share)) " of the readings that the reference had in the same time: it may be incomplete, and what it "
                    "holds may be of other hours or other patients."
                }
            }
            (tiles(audit))
            @if !moved.is_empty() {
                div.scroll { (table(&moved)) }
            }
            @if moved.len() > MOVED_SHOWN_MAX {
                p.quiet { (moved.len() - MOVED_SHOWN_MAX) " more are in the sections below." }
            }
        }
    }
}

/// Findings of which anything could be said.
fn said(audit: &Audit) -> usize {
    fn of<R: Row>(found: &Option<Section<Series<R>>>) -> usize {
        found.iter().flat_map(|found| tally(&found.series)).take(3).map(|(_, count)| count).sum()
    }
    of(&audit.drift) + of(&audit.quality) + of(&audit.performance) + of(&audit.fairness)
}

/// Less than this share of the readings that are usual in a window's time is worth a word.
const COMPLETE_MIN: f64 = 0.5;

/// The share of the usual number of readings in the window, if it is strikingly small: a run has ended within it, or a source has fallen silent.
fn incomplete(audit: &Audit) -> Option<f64> {
    let drift = audit.drift.as_ref()?;
    let all = drift.series.iter().map(|series| &series.now).find(|shift| shift.group == "all")?;
    let seconds = |(start, end): Span| (end - start).seconds();
    let usual = all.reference_side.readings as f64 * seconds(all.current) / seconds(all.reference);
    let share = all.current_side.readings as f64 / usual;
    (share.is_finite() && share < COMPLETE_MIN).then_some(share)
}

fn lead(moved: &[Moved], said: usize) -> Markup {
    let of = |verdict| moved.iter().filter(|moved| moved.verdict == verdict).count();
    let names = |verdict| {
        let named: Vec<&str> = moved.iter().filter(|m| m.verdict == verdict).map(|m| m.what.as_str()).collect();
        listed(&named.into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    html! {
        @match (of(Verdict::Act), of(Verdict::Watch)) {
            (0, 0) if said == 0 => { "There is too little data to say whether anything has moved." }
            (0, 0) => { "Nothing has moved past a threshold, as far as there was enough data to say." }
            (0, _) => { "Nothing calls for action. To be watched: " strong { (names(Verdict::Watch)) } "." }
            (_, watch) => {
                "Calls for action: " strong { (names(Verdict::Act)) } "."
                @if watch > 0 { " To be watched: " (names(Verdict::Watch)) "." }
            }
        }
    }
}

fn listed(names: &[String]) -> String {
    let shown = names.iter().take(PLACES_SHOWN_MAX).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(PLACES_SHOWN_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn tiles(audit: &Audit) -> Markup {
    let open = audit.open_alerts().len();
    html! {
        ul.tiles {
            (tile("drift", "Drift", "features × groups", audit.drift.as_ref().map(|found| tally(&found.series))))
            (tile("quality", "Data quality", "topics × flaws", audit.quality.as_ref().map(|found| tally(&found.series))))
            (tile("performance", "Performance", "groups", audit.performance.as_ref().map(|found| tally(&found.series))))
            (tile("fairness", "Fairness", "groups", audit.fairness.as_ref().map(|found| tally(&found.series))))
            li class={ "tile " (if open > 0 { "act" } else { "none" }) } {
                a href="#alerts" { "Alerts" }
                strong { @if audit.alerts.is_none() { "none" } @else { (open) " open" } }
                span.quiet { "raised and not cleared" }
            }
        }
    }
}

fn tile(id: &str, name: &str, of: &str, tally: Option<[(Verdict, usize); 4]>) -> Markup {
    let worst = tally.and_then(|tally| tally.iter().find(|(_, count)| *count > 0).map(|(verdict, _)| *verdict));
    let all: usize = tally.iter().flatten().map(|(_, count)| count).sum();
    html! {
        li class={ "tile " (worst.unwrap_or_default().name()) } {
            a href={ "#" (id) } { (name) }
            @match tally {
                None => { strong { "no rows" } }
                Some(tally) => {
                    strong { (tally[0].1) " act, " (tally[1].1) " watch" }
                    span.bar aria-hidden="true" {
                        @for (verdict, count) in tally.iter().filter(|(_, count)| *count > 0) {
                            span class=(verdict.name()) style={ "flex:" (count) } {}
                        }
                    }
                    span.quiet { "of " (all) " " (of) @if tally[3].1 > 0 { "; " (tally[3].1) " with too little data" } }
                }
            }
        }
    }
}

fn table(moved: &[Moved]) -> Markup {
    html! {
        table.moved {
            caption.hidden { "What has moved, strongest first" }
            thead { tr {
                th scope="col" { "What" }
                th scope="col" { "Verdict" }
                th scope="col" { "Where" }
                th scope="col" { "By how much, where it is strongest" }
                th scope="col" { "Since" }
                th scope="col" { "Seen in" }
            } }
            tbody {
                @for row in moved.iter().take(MOVED_SHOWN_MAX) {
                    tr {
                        th scope="row" { a href=(row.href) { (row.what) } }
                        td { (tag(row.verdict)) }
                        td { (listed(&row.places)) }
                        td { (row.effect) }
                        td.when { (since(row.since)) }
                        td { (row.people) }
                    }
                }
            }
        }
    }
}

fn since(since: Option<Since>) -> Markup {
    html! {
        @match since {
            Some(Since { start, at_least }) => { @if at_least { "at least " } (numbers::instant(start)) }
            None => { (numbers::NOTHING) }
        }
    }
}

/// The series that have moved, by what they share: the strongest first, in each and of all.
fn moved_by<R: Row>(
    found: &Section<Series<R>>,
    shared: impl Fn(&R) -> String,
    size: impl Fn(&R) -> f64,
) -> Vec<(String, Vec<&Series<R>>)> {
    let mut by: BTreeMap<String, Vec<&Series<R>>> = BTreeMap::new();
    for series in found.series.iter().filter(|series| series.now.verdict() >= Verdict::Watch) {
        by.entry(shared(&series.now)).or_default().push(series);
    }
    for series in by.values_mut() {
        series.sort_by(|a, b| {
            b.now.verdict().cmp(&a.now.verdict()).then(size(&b.now).abs().total_cmp(&size(&a.now).abs()))
        });
    }
    let mut by: Vec<(String, Vec<&Series<R>>)> = by.into_iter().collect();
    by.sort_by(|(_, a), (_, b)| size(&b[0].now).abs().total_cmp(&size(&a[0].now).abs()));
    by
}

/// One row a feature.
fn drift(found: &Section<Series<Shift>>) -> Vec<Moved> {
    let size = |shift: &Shift| shift.statistics.effect_size.or(shift.statistics.psi).unwrap_or_default();
    let all = |feature: &str| found.series.iter().filter(|series| series.now.feature == feature).count();
    moved_by(found, |shift| shift.feature.clone(), size)
        .into_iter()
        .map(|(feature, series)| Moved {
            verdict: series[0].now.verdict,
            href: format!("#drift-{}", slug(&feature)),
            places: places(series.iter().map(|series| series.now.group.as_str()), all(&feature)),
            effect: drift_effect(&series[0].now),
            since: series[0].since(),
            people: of_patients(series[0].now.current_side.readings, series[0].now.current_side.patients),
            what: numbers::heading(&feature),
        })
        .collect()
}

/// Groups by name; all of them in a word.
fn places<'a>(groups: impl ExactSizeIterator<Item = &'a str>, all: usize) -> Vec<String> {
    if groups.len() == all && all > 1 {
        return vec![format!("every group ({all})")];
    }
    groups.map(numbers::group).collect()
}

fn drift_effect(shift: &Shift) -> Markup {
    let (before, after) = (shift.reference_side.mean, shift.current_side.mean);
    let places = numbers::decimals_of(before.unwrap_or_default());
    let statistic = shift.deciding();
    html! {
        @if let (Some(before), Some(after)) = (before, after) {
            strong { (numbers::with_unit(&numbers::signed(after - before, places), &shift.unit)) }
            " (mean " (numbers::decimals(before, places)) " → " (numbers::decimals(after, places)) ")"
            @if let Some(effect) = shift.statistics.effect_size { ", " (numbers::signed(effect, 2)) " SD" }
            br;
        }
        span.quiet {
            (numbers::group(&shift.group)) " · " (thresholds::title(&shift.statistic)) " "
            (statistic.map_or(numbers::NOTHING.to_owned(), numbers::statistic))
        }
    }
}

fn quality(found: &Section<Series<Quality>>) -> Vec<Moved> {
    moved_by(found, |row| row.measure.clone(), |row| row.rise().unwrap_or_default())
        .into_iter()
        .map(|(measure, series)| {
            let strongest = &series[0].now;
            let (before, after) = strongest.rates();
            Moved {
                verdict: strongest.verdict,
                href: "#quality".to_owned(),
                what: format!("Data quality: {}", numbers::words(&measure)),
                places: series.iter().map(|series| series.now.topic.clone()).collect(),
                effect: html! {
                    @if let (Some(before), Some(after)) = (before, after) {
                        strong { (numbers::points(after - before)) }
                        " (" (numbers::percent(before)) " → " (numbers::percent(after)) ")"
                    } @else { (numbers::count(strongest.current_counts.1)) " inputs" }
                },
                since: series[0].since(),
                people: format!("{} inputs", numbers::count(strongest.current_counts.0)),
            }
        })
        .collect()
}

fn performance(found: &Section<Series<Performance>>) -> Vec<Moved> {
    let change = |row: &Performance| Some(row.measured.auroc? - row.reference_measured.auroc?);
    moved_by(found, |_| "AUROC".to_owned(), |row| change(row).unwrap_or_default())
        .into_iter()
        .map(|(_, series)| {
            let strongest = &series[0].now;
            Moved {
                verdict: strongest.verdict,
                href: "#performance".to_owned(),
                what: "Performance of the score".to_owned(),
                places: places(series.iter().map(|series| series.now.group.as_str()), found.series.len()),
                effect: html! {
                    @if let (Some(change), Some(before), Some(after)) =
                        (change(strongest), strongest.reference_measured.auroc, strongest.measured.auroc) {
                        strong { "AUROC " (numbers::signed(change, 3)) }
                        " (" (numbers::decimals(before, 3)) " → " (numbers::decimals(after, 3)) ")" br;
                    }
                    span.quiet { (numbers::group(&strongest.group)) }
                },
                since: series[0].since(),
                people: format!("{} with an outcome", numbers::count(strongest.labelled)),
            }
        })
        .collect()
}

/// One row an attribute.
fn fairness(found: &Section<Series<Fairness>>) -> Vec<Moved> {
    let gap = |row: &Fairness| row.differences[0].unwrap_or_default();
    let all = |attribute: &str| found.series.iter().filter(|series| series.now.attribute == attribute).count();
    moved_by(found, |row| row.attribute.clone(), gap)
        .into_iter()
        .map(|(attribute, series)| {
            let strongest = &series[0].now;
            Moved {
                verdict: strongest.verdict,
                href: format!("#fairness-{}", slug(&attribute)),
                what: format!("Fairness by {}", numbers::words(&attribute)),
                places: places(series.iter().map(|series| series.now.group.as_str()), all(&attribute)),
                effect: html! {
                    @if let (Some(rate), Some(ratio)) = (strongest.rates[0].rate, strongest.ratios[0]) {
                        strong { "selected " (numbers::percent(rate)) }
                        ", " (numbers::decimals(ratio, 2)) " × " (numbers::group(&strongest.reference_group)) br;
                    }
                    span.quiet { (numbers::group(&strongest.group)) }
                },
                since: series[0].since(),
                people: of_patients(strongest.readings, strongest.patients),
            }
        })
        .collect()
}
