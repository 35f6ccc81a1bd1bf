//! What the statistics are, from where they count, and who says so: one list for the tables, the charts and the notes of the report.

use crate::audit::judge;
use crate::config::AuditSpec;

/// From where a statistic counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Thresholds {
    /// From here on the verdict is `watch`.
    pub watch: Option<f64>,
    /// From here on it is `act`.
    pub act: Option<f64>,
    /// True if it is *below* the value that the verdict changes, as with p-values.
    pub below: bool,
}

/// A statistic of `shifts` for the reader.
pub(super) struct Described {
    /// Its column.
    pub name: &'static str,
    /// What it is called.
    pub title: &'static str,
    /// What it is, in a sentence.
    pub meaning: &'static str,
    /// Who says so.
    pub source: &'static str,
}

/// The statistics, effect sizes before p-values.
pub(super) const STATISTICS: [Described; 9] = [
    Described {
        name: "effect_size",
        title: "Effect size",
        meaning: "Difference of the means, window less reference, over √((s² of the reference + s² of the window) / 2). 0.2 is called small, 0.5 medium, 0.8 large.",
        source: "Austin, Statistics in Medicine 28(25), 2009; Cohen 1988 for the words",
    },
    Described {
        name: "wasserstein",
        title: "Wasserstein distance",
        meaning: "How far readings would have to be moved, on average, to make one distribution the other, in standard deviations of the reference. 0.1 counts as drift.",
        source: "Evidently 0.7, numeric columns of more than 1,000 rows",
    },
    Described {
        name: "psi",
        title: "Population stability index",
        meaning: "Sum over the bins of (current share − reference share) × ln(current share / reference share), empty bins at 0.0001.",
        source: "Siddiqi, Credit Risk Scorecards, 2006; thresholds 0.1 and 0.25 are habit",
    },
    Described {
        name: "jensen_shannon",
        title: "Jensen–Shannon distance",
        meaning: "Square root of the divergence of the bins, base 2: 0 is the same, 1 is nothing in common.",
        source: "Lin, IEEE Trans. Inf. Theory 37(1), 1991; Endres & Schindelin 2003",
    },
    Described {
        name: "hellinger",
        title: "Hellinger distance",
        meaning: "Distance of the square roots of the bins' shares: 0 is the same, 1 is nothing in common.",
        source: "thresholds 0.15 and 0.4 of whylogs 1.6",
    },
    Described {
        name: "kolmogorov_smirnov",
        title: "Kolmogorov–Smirnov statistic",
        meaning: "The greatest difference of the two distribution functions: 0 to 1.",
        source: "Smirnov 1948",
    },
    Described {
        name: "chi2",
        title: "χ²",
        meaning: "Of the bins as a table of two rows. It grows with the number of readings.",
        source: "Pearson 1900",
    },
    Described {
        name: "kolmogorov_smirnov_p",
        title: "Kolmogorov–Smirnov, p-value",
        meaning: "By Kolmogorov's limit. Takes readings for independent, which those of one patient are not: read it last.",
        source: "Evidently 0.7 uses p < 0.05 on at most 1,000 rows",
    },
    Described {
        name: "chi2_p",
        title: "χ², p-value",
        meaning: "Takes readings for independent, which those of one patient are not: read it last.",
        source: "Pearson 1900",
    },
];

/// What a statistic is called.
pub(super) fn title(name: &str) -> String {
    let known = STATISTICS.iter().find(|statistic| statistic.name == name);
    known.map_or_else(|| super::numbers::heading(name), |statistic| statistic.title.to_owned())
}

/// The thresholds of a statistic when it decides a verdict; none for those that never do, or whose threshold depends on the reference.
pub(super) fn of(statistic: &str, settings: &AuditSpec) -> Thresholds {
    let (watch, act, below) = match statistic {
        "psi" => (Some(settings.psi_watch), Some(settings.psi_act), false),
        "hellinger" => (Some(judge::WHYLOGS_HELLINGER.0), Some(judge::WHYLOGS_HELLINGER.1), false),
        "wasserstein" => (None, Some(judge::EVIDENTLY_WASSERSTEIN), false),
        "kolmogorov_smirnov_p" => (None, Some(judge::EVIDENTLY_P), true),
        _ => (None, None, false),
    };
    Thresholds { watch, act, below }
}
