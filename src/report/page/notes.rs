//! Notes: what is missing, and what every figure means, with its source.

use maud::{Markup, html};

use crate::report::gather::Audit;
use crate::report::thresholds::STATISTICS;

/// What could not be read and what was left out.
pub(super) fn left_out(audit: &Audit) -> Markup {
    html! {
        @if !audit.remarks.is_empty() {
            section #left-out aria-labelledby="left-out-title" {
                h2 #left-out-title { "Missing and left out" }
                ul { @for remark in &audit.remarks { li { (remark) } } }
            }
        }
    }
}

/// Definitions, thresholds, sources.
pub(super) fn methods(audit: &Audit) -> Markup {
    let settings = &audit.settings;
    html! {
        section #methods aria-labelledby="methods-title" {
            h2 #methods-title { "Methods" }
            p {
                "Windows are spans of event time, when something was measured, not when it arrived. A late reading, a correction or a withdrawal changes the windows "
                "it belongs to; this page shows what stands now. The histograms of one feature share their bins, which are fixed: a statistic can be compared from week to week, "
                "though not to the last digit with a tool that fits its bins to the data."
            }
            p {
                "Counts are of readings unless they say patients. Readings of one patient resemble each other, so intervals and p-values computed from readings are too narrow; "
                "read effect sizes first, and how many patients they come from. "
                @if audit.settings_known { "Settings are those of the flow file: " } @else { "No flow file was named, so the default settings are assumed: " }
                "at least " (settings.readings_min) " readings on either side for a verdict; population stability index " (settings.psi_watch) " to watch, " (settings.psi_act) " to act."
            }
            h3 { "Verdicts" }
            dl.notes {
                (note("none", "Within what is usual.", ""))
                (note("watch", "Past the first threshold: look at it when there is time.", ""))
                (note("act", "Past the second threshold: find out why.", ""))
                (note("too little data", "Too few readings or patients to say anything. It is not the same as none.", ""))
            }
            h3 { "Drift" }
            dl.notes { @for statistic in &STATISTICS { (note(statistic.title, statistic.meaning, statistic.source)) } }
            h3 { "Performance" }
            dl.notes {
                (note("AUROC", "Chance that a reading whose outcome happened has a higher probability than one whose outcome did not; ties count half.", "Hanley & McNeil, Radiology 143(1), 1982"))
                (note("Brier score", "Mean squared difference of probability and outcome.", "Brier, Monthly Weather Review 78(1), 1950"))
                (note("Expected calibration error", "Over tenths of probability, the mean of |mean probability − observed rate|, weighted by readings.", "Naeini, Cooper & Hauskrecht, AAAI 2015"))
                (note("Estimated (CBPE)", "What the figures would be if the probabilities were calibrated: from them alone, without outcomes. It does not see a change of what the outcome depends on.", "NannyML 0.13"))
                (note("Alarms a patient-day", "Readings that raised an alarm, by patients times the window's length in days.", ""))
            }
            h3 { "Fairness" }
            dl.notes {
                (note("Interval", "95 %, of a proportion of readings.", "Wilson, JASA 22(158), 1927"))
                (note("Difference and ratio", "Group less, and by, the group of the same attribute with most readings.", "as fairlearn's between groups"))
                (note("Four fifths", "A selection rate below four fifths of the reference group's, or above its inverse, is marked. A rule of employment law, used here as a habit.", "29 CFR 1607.4(D)"))
            }
        }
    }
}

fn note(term: &str, meaning: &str, source: &str) -> Markup {
    html! { div { dt { (term) } dd { (meaning) @if !source.is_empty() { " " span.source { (source) "." } } } } }
}
