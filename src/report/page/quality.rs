//! Data quality: how many inputs of each topic had which flaw.

use maud::{Markup, html};

use super::{column, section, tag};
use crate::report::chart::history::{self, Point};
use crate::report::gather::{Audit, Series};
use crate::report::numbers;
use crate::report::rows::Quality;
use crate::report::thresholds::Thresholds;
use crate::vocabulary::findings::Verdict;

/// Rows that are shown; of more, those that have moved come first and the others are counted.
const SERIES_SHOWN_MAX: usize = 200;

/// Without rows.
const NO_ROWS: &str = "No rows: no window has closed, or the run was of an engine that did not keep data quality. Rejected inputs are in the table rejected, late ones are flagged in readings, and all are counted in the metrics.";

/// The section.
pub(super) fn render(audit: &Audit) -> Markup {
    section("quality", "Data quality", NO_ROWS, audit.quality.as_ref(), |found| {
        let mut shown: Vec<&Series<Quality>> = found.series.iter().collect();
        if shown.len() > SERIES_SHOWN_MAX {
            shown.sort_by_key(|series| std::cmp::Reverse(series.now.verdict.max(Verdict::None)));
        }
        html! {
            p.quiet { "Of the inputs of each topic, how many have which flaw, beside the reference. Watch and act: the share has risen by more than chance (Newcombe 1998) and by a size that matters (Cohen's h of 0.2 and 0.5)." }
            div.scroll { table.data {
                caption.hidden { "Flaws of the input by topic" }
                thead { tr {
                    th scope="col" { "Topic" }
                    th scope="col" { "What" }
                    (column("Reference", "share"))
                    (column("Window", "share"))
                    (column("Change", ""))
                    (column("Inputs with it", "window"))
                    (column("Of", "window"))
                    th scope="col" { "Over time" }
                    th scope="col" { "Verdict" }
                } }
                tbody { @for series in shown.iter().take(SERIES_SHOWN_MAX) { (row(series)) } }
            } }
            @if shown.len() > SERIES_SHOWN_MAX { p.quiet { (shown.len() - SERIES_SHOWN_MAX) " more rows are left out." } }
        }
    })
}

fn row(series: &Series<Quality>) -> Markup {
    let now = &series.now;
    let (before, after) = now.rates();
    let point = |row: &Quality| Point { at: row.current.1, value: row.rates().1, verdict: row.verdict };
    let history: Vec<Point> = series.history.iter().map(point).collect();
    html! {
        tr class=(now.verdict.name()) data-topic=(now.topic) data-measure=(now.measure) {
            th scope="row" { (now.topic) }
            td { (numbers::words(&now.measure)) }
            td.number { (numbers::data(before, numbers::percent)) }
            td.number { (numbers::data(after, numbers::percent)) }
            td.number { (numbers::data(now.rise(), numbers::points)) }
            td.number { (numbers::data_count(Some(now.current_counts.1))) }
            td.number { (numbers::data_count(Some(now.current_counts.0))) }
            td { @if let Some(line) = history::small(&format!("{} over time", numbers::words(&now.measure)), &history, Thresholds::default()) { (line) } }
            td { (tag(now.verdict)) }
        }
    }
}
