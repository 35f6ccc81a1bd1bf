//! The page: what is said in which order. Most important first; every section stands alone.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::gather::{Audit, Section, Series};
use super::numbers;
use super::rows::Row;
use crate::vocabulary::findings::{Span, Verdict};

mod alerts;
mod drift;
mod fairness;
mod notes;
mod performance;
mod quality;
mod summary;

/// The page's style, for screens in light and dark and for paper.
const STYLE: &str = include_str!("report.css");

/// The whole page.
pub fn render(audit: &Audit) -> String {
    let flow = flow(audit);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                // Even if a text should get past the escaping, nothing runs and nothing is fetched.
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                meta name="generator" content={ "windkessel " (env!("CARGO_PKG_VERSION")) };
                meta name="referrer" content="no-referrer";
                title { "Audit of " (flow) ", " (numbers::instant(audit.made_at)) " UTC" }
                style { (PreEscaped(STYLE)) (PreEscaped(running_header(&flow, audit))) }
            }
            body {
                a.skip href="#summary" { "To the summary" }
                (summary::header(audit, &flow))
                nav aria-label="Sections" { (contents(audit)) }
                main {
                    (summary::render(audit))
                    (quality::render(audit))
                    (drift::render(audit))
                    (performance::render(audit))
                    (fairness::render(audit))
                    (alerts::render(audit))
                    (notes::left_out(audit))
                    (notes::methods(audit))
                }
                footer {
                    p { "Made by Windkessel " (env!("CARGO_PKG_VERSION")) ". Not a medical device. What it says is about populations of readings, never about one person." }
                }
            }
        }
    };
    page.into_string()
}

/// The flow's name, or names.
fn flow(audit: &Audit) -> String {
    let flows: Vec<&str> = audit.provenance.flows.iter().map(String::as_str).collect();
    if flows.is_empty() { "an unnamed flow".to_owned() } else { flows.join(", ") }
}

/// What stands on top of every printed page. The name comes from a file and goes into CSS: no more than a flow's name may have is let through.
fn running_header(flow: &str, audit: &Audit) -> String {
    let plain: String =
        flow.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ',' | ' ')).collect();
    format!(
        "@page {{ @top-left {{ content: \"Windkessel: audit of {plain}\" }} @top-right {{ content: \"{} UTC\" }} }}",
        numbers::instant(audit.made_at)
    )
}

fn contents(audit: &Audit) -> Markup {
    let sections = [
        ("summary", "Summary", true),
        ("quality", "Data quality", audit.quality.is_some()),
        ("drift", "Drift", audit.drift.is_some()),
        ("performance", "Performance", audit.performance.is_some()),
        ("fairness", "Fairness", audit.fairness.is_some()),
        ("alerts", "Alerts", audit.alerts.is_some()),
        ("methods", "Methods", true),
    ];
    html! {
        ul { @for (id, name, _) in sections.iter().filter(|(_, _, there)| *there) { li { a href={ "#" (id) } { (name) } } } }
    }
}

/// What a section says without rows.
const NO_ROWS: &str = "No rows: this part of the audit was off, or no window has closed yet.";

/// A section with its window, or `nothing` if there is nothing to say.
fn section<S>(
    id: &str,
    title: &str,
    nothing: &str,
    found: Option<&Section<S>>,
    content: impl FnOnce(&Section<S>) -> Markup,
) -> Markup {
    html! {
        section id=(id) aria-labelledby={ (id) "-title" } {
            h2 id={ (id) "-title" } { (title) }
            @match found {
                Some(found) => {
                    p.window { (window(found.window)) (passed_by(found.passed_by)) }
                    (content(found))
                }
                None => { p.empty { (nothing) } }
            }
        }
    }
}

fn window(span: Span) -> Markup {
    html! { "Window " strong { (numbers::span(span)) " UTC" } " (" (numbers::length(span)) ")" }
}

fn passed_by(newest: Option<Span>) -> Markup {
    html! {
        @if let Some(newest) = newest {
            ". The newest window, " (numbers::span(newest)) ", has too few readings for any verdict, so this is an earlier one"
        }
        "."
    }
}

/// A verdict as a word that also stands without colour.
fn tag(verdict: Verdict) -> Markup {
    let text = match verdict {
        Verdict::None => "none",
        Verdict::Watch => "watch",
        Verdict::Act => "act",
        Verdict::Insufficient => "too little data",
    };
    html! { span class={ "tag " (verdict.name()) } { (text) } }
}

/// How many series have each verdict.
fn tally<R: Row>(series: &[Series<R>]) -> [(Verdict, usize); 4] {
    [Verdict::Act, Verdict::Watch, Verdict::None, Verdict::Insufficient]
        .map(|verdict| (verdict, series.iter().filter(|series| series.now.verdict() == verdict).count()))
}

/// Readings, and patients where they are counted.
fn of_patients(readings: u64, patients: Option<u64>) -> String {
    let readings = format!("{} readings", numbers::count(readings));
    match patients {
        Some(patients) => format!("{readings} of {} patients", numbers::count(patients)),
        None => readings,
    }
}

/// A name that may stand in an id.
fn slug(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

/// Two headings of a column.
fn column(title: &str, unit: &str) -> Markup {
    html! { th scope="col" class="number" { (title) @if !unit.is_empty() { br; span.unit { (unit) } } } }
}
