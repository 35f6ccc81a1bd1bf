//! What statistics amount to: the named sets of thresholds.
//!
//! | preset | statistic | `watch` | `act` | source |
//! |---|---|---|---|---|
//! | `industry` | `psi` | `audit.psi_watch` (0.1) | `audit.psi_act` (0.25) | habit in credit scoring (Siddiqi 2006) |
//! | `evidently` | reference of 1,000 readings or fewer: `kolmogorov_smirnov_p`; more: `wasserstein` | | < 0.05; ≥ 0.1 | Evidently 0.7, `get_default_stattest` |
//! | `nannyml` | `jensen_shannon` | | > mean + 3 standard deviations of the reference's own windows against the whole reference | NannyML 0.13, `StandardDeviationThreshold` |
//! | `whylogs` | `hellinger` | ≥ 0.15 | ≥ 0.4 | whylogs 1.6, `DriftConfig` |
//!
//! Evidently and NannyML know one threshold: what is past it is `act`. Their numbers come from bins of their own; ours are fixed, so that a
//! value is not the same to the last digit, its meaning is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::audit::statistics;
use crate::config::{AuditSpec, DriftPreset};
use crate::vocabulary::findings::{Statistics, Verdict};

/// A statistic of `shifts`, by its column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the columns' own names")]
pub enum Statistic {
    #[default]
    Psi,
    JensenShannon,
    KolmogorovSmirnov,
    KolmogorovSmirnovP,
    Wasserstein,
    Hellinger,
    Chi2,
    Chi2P,
    EffectSize,
}

impl Statistic {
    /// All of them; each is its own index.
    pub const ALL: [Statistic; 9] = [
        Statistic::Psi,
        Statistic::JensenShannon,
        Statistic::KolmogorovSmirnov,
        Statistic::KolmogorovSmirnovP,
        Statistic::Wasserstein,
        Statistic::Hellinger,
        Statistic::Chi2,
        Statistic::Chi2P,
        Statistic::EffectSize,
    ];

    /// The column's name.
    pub fn name(self) -> &'static str {
        match self {
            Statistic::Psi => "psi",
            Statistic::JensenShannon => "jensen_shannon",
            Statistic::KolmogorovSmirnov => "kolmogorov_smirnov",
            Statistic::KolmogorovSmirnovP => "kolmogorov_smirnov_p",
            Statistic::Wasserstein => "wasserstein",
            Statistic::Hellinger => "hellinger",
            Statistic::Chi2 => "chi2",
            Statistic::Chi2P => "chi2_p",
            Statistic::EffectSize => "effect_size",
        }
    }

    /// Its value.
    pub fn of(self, statistics: &Statistics) -> Option<f64> {
        match self {
            Statistic::Psi => statistics.psi,
            Statistic::JensenShannon => statistics.jensen_shannon,
            Statistic::KolmogorovSmirnov => statistics.kolmogorov_smirnov,
            Statistic::KolmogorovSmirnovP => statistics.kolmogorov_smirnov_p,
            Statistic::Wasserstein => statistics.wasserstein,
            Statistic::Hellinger => statistics.hellinger,
            Statistic::Chi2 => statistics.chi2,
            Statistic::Chi2P => statistics.chi2_p,
            Statistic::EffectSize => statistics.effect_size,
        }
    }
}

/// `whylogs`: Hellinger distances from which the verdict is `watch` and `act`.
pub const WHYLOGS_HELLINGER: (f64, f64) = (0.15, 0.4);
/// `evidently`: Wasserstein distance from which the verdict is `act`.
pub const EVIDENTLY_WASSERSTEIN: f64 = 0.1;
/// `evidently`: p-value below which the verdict is `act`.
pub const EVIDENTLY_P: f64 = 0.05;
/// References of at most this many readings are small. Source: Evidently 0.7.
const EVIDENTLY_SMALL: u64 = 1_000;

/// Makes verdicts.
#[derive(Clone, Copy, Debug)]
pub struct Judge {
    preset: DriftPreset,
    readings_min: u64,
    psi_watch: f64,
    psi_act: f64,
    patients: bool,
}

impl Judge {
    /// As the flow wants it.
    pub fn new(spec: &AuditSpec) -> Self {
        let AuditSpec { preset, readings_min, psi_watch, psi_act, patients, .. } = *spec;
        Judge { preset, readings_min, psi_watch, psi_act, patients }
    }

    /// Fewer readings are too few.
    pub fn readings_min(&self) -> u64 {
        self.readings_min
    }

    /// Whether patients are counted.
    pub fn counts_patients(&self) -> bool {
        self.patients
    }

    /// Whether both sides hold enough readings for a statistic.
    pub fn enough(&self, reference: u64, current: u64) -> bool {
        reference >= self.readings_min && current >= self.readings_min
    }

    /// Whether it has to know the windows that a reference is made of.
    pub fn looks_at_chunks(&self) -> bool {
        self.preset == DriftPreset::Nannyml
    }

    /// Which statistic decides, and how. `readings` are those of the reference, and `usual` is how far its own windows are from it, if that is known.
    pub fn verdict(&self, statistics: &Statistics, readings: u64, usual: Option<Usual>) -> (Statistic, Verdict) {
        let (decides, watch, act) = match self.preset {
            DriftPreset::Industry => (Statistic::Psi, self.psi_watch, self.psi_act),
            DriftPreset::Whylogs => (Statistic::Hellinger, WHYLOGS_HELLINGER.0, WHYLOGS_HELLINGER.1),
            DriftPreset::Evidently if readings > EVIDENTLY_SMALL => {
                (Statistic::Wasserstein, EVIDENTLY_WASSERSTEIN, EVIDENTLY_WASSERSTEIN)
            }
            DriftPreset::Evidently => {
                let verdict = match statistics.kolmogorov_smirnov_p {
                    None => Verdict::Insufficient,
                    Some(p) if p < EVIDENTLY_P => Verdict::Act,
                    Some(_) => Verdict::None,
                };
                return (Statistic::KolmogorovSmirnovP, verdict);
            }
            DriftPreset::Nannyml => {
                let verdict = match (statistics.jensen_shannon, usual.map(|usual| usual.limit())) {
                    (Some(distance), Some(limit)) if distance > limit => Verdict::Act,
                    (Some(_), Some(_)) => Verdict::None,
                    _ => Verdict::Insufficient,
                };
                return (Statistic::JensenShannon, verdict);
            }
        };
        let verdict = match decides.of(statistics) {
            None => Verdict::Insufficient,
            Some(value) if value >= act => Verdict::Act,
            Some(value) if value >= watch => Verdict::Watch,
            Some(_) => Verdict::None,
        };
        (decides, verdict)
    }

    /// How far the windows of a reference are from the whole, both by bins; `None` below two windows with enough readings.
    pub fn usual(&self, whole: &[u64], chunks: &[Vec<u64>]) -> Option<Usual> {
        let full = chunks.iter().filter(|chunk| chunk.iter().sum::<u64>() >= self.readings_min);
        let distances: Vec<f64> = full.filter_map(|chunk| statistics::jensen_shannon_distance(whole, chunk)).collect();
        if distances.len() < 2 {
            return None;
        }
        let mean = distances.iter().sum::<f64>() / distances.len() as f64;
        let variance = distances.iter().map(|distance| (distance - mean).powi(2)).sum::<f64>() / distances.len() as f64;
        Some(Usual { windows: distances.len() as u64, mean, standard_deviation: variance.sqrt() })
    }
}

/// How far windows usually are from their reference, in Jensen–Shannon distance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Usual {
    /// Of so many windows, at least two.
    pub windows: u64,
    /// Their mean distance from all of it, 0 to 1.
    pub mean: f64,
    /// Their standard deviation (of the population, n).
    pub standard_deviation: f64,
}

impl Usual {
    /// What is further away is unusual: three standard deviations above the mean. Source: NannyML 0.13, `StandardDeviationThreshold`.
    fn limit(&self) -> f64 {
        self.mean + 3.0 * self.standard_deviation
    }

    /// Whether what was read from outside can be what it says.
    pub fn is_sound(&self) -> bool {
        let distance = |value: f64| (0.0..=1.0).contains(&value);
        self.windows >= 2 && distance(self.mean) && distance(self.standard_deviation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(preset: DriftPreset) -> Judge {
        Judge::new(&AuditSpec { preset, readings_min: 10, psi_watch: 0.1, psi_act: 0.25, ..AuditSpec::default() })
    }

    fn check(preset: DriftPreset, readings: u64, statistics: Statistics, expected: (&str, &str)) {
        let (statistic, verdict) = judge(preset).verdict(&statistics, readings, None);
        assert_eq!((statistic.name(), verdict.name()), expected, "{preset:?} {statistics:?}");
    }

    #[test]
    fn verdicts_begin_at_their_thresholds() {
        for (psi, expected) in [
            (None, "insufficient"),
            (Some(0.0), "none"),
            (Some(0.1f64.next_down()), "none"),
            (Some(0.1), "watch"),
            (Some(0.25f64.next_down()), "watch"),
            (Some(0.25), "act"),
            (Some(9.0), "act"),
        ] {
            check(DriftPreset::Industry, 9, Statistics { psi, ..Statistics::default() }, ("psi", expected));
        }
        for (hellinger, expected) in [(Some(0.1), "none"), (Some(0.15), "watch"), (Some(0.4), "act")] {
            let statistics = Statistics { hellinger, ..Statistics::default() };
            check(DriftPreset::Whylogs, 9, statistics, ("hellinger", expected));
        }
    }

    #[test]
    fn evidently_asks_another_statistic_of_a_small_reference() {
        let statistics =
            Statistics { kolmogorov_smirnov_p: Some(0.049), wasserstein: Some(0.09), ..Statistics::default() };
        check(DriftPreset::Evidently, 1_000, statistics, ("kolmogorov_smirnov_p", "act"));
        check(DriftPreset::Evidently, 1_001, statistics, ("wasserstein", "none"));
        let statistics =
            Statistics { kolmogorov_smirnov_p: Some(0.05), wasserstein: Some(0.1), ..Statistics::default() };
        check(DriftPreset::Evidently, 1_000, statistics, ("kolmogorov_smirnov_p", "none"));
        check(DriftPreset::Evidently, 1_001, statistics, ("wasserstein", "act"));
    }

    #[test]
    fn nannyml_compares_with_the_references_own_windows() {
        let chunks = [vec![50, 50], vec![52, 48], vec![47, 53], vec![1, 0]];
        let whole = [149, 151];
        let distances = [0, 1, 2].map(|chunk: usize| {
            statistics::jensen_shannon_distance(&whole, &chunks[chunk]).expect("both sides have readings")
        });
        let mean = distances.iter().sum::<f64>() / 3.0;
        let limit = mean + 3.0 * (distances.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 3.0).sqrt();
        for (distance, expected) in [(limit - 1e-9, Verdict::None), (limit + 1e-9, Verdict::Act)] {
            let statistics = Statistics { jensen_shannon: Some(distance), ..Statistics::default() };
            let judge = judge(DriftPreset::Nannyml);
            let judged = judge.verdict(&statistics, 300, judge.usual(&whole, &chunks));
            assert_eq!(judged, (Statistic::JensenShannon, expected), "the chunk of one reading does not count");
        }
        assert_eq!(judge(DriftPreset::Nannyml).usual(&whole, &chunks[..1]), None);
        let statistics = Statistics { jensen_shannon: Some(0.9), ..Statistics::default() };
        check(DriftPreset::Nannyml, 300, statistics, ("jensen_shannon", "insufficient"));
    }

    #[test]
    fn each_statistic_is_its_own_index() {
        for (at, statistic) in Statistic::ALL.into_iter().enumerate() {
            assert_eq!(statistic as usize, at);
        }
    }
}
