//! What scoring said of readings and what came of it, by group: performance and fairness.
//!
//! A reading is counted under a *code*: its probability in thousandths, whether it was selected, whether it raised an alarm, and its label (unknown,
//! did not happen, happened). From the counts of a pane all figures follow, exactly for probabilities rounded to thousandths.
//!
//! Readings of one patient are not independent: the intervals here treat them as if they were, so they are too narrow. Patients stand beside them.
//!
//! *Estimates without labels* (CBPE): a calibrated probability p is a reading whose outcome happens p times. So the selected readings have Σp expected
//! true positives and Σ(1 − p) false ones. Source: NannyML 0.13, "Confidence-based performance estimation"; wrong as far as the model is not calibrated.

use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use crate::audit::series::Value;
use crate::vocabulary::findings::{Goodness, Rate, Verdict};

/// Stands for "no probability" among thousandths.
const UNSCORED: u16 = 1_001;
const LABELS: u16 = 3;
const FLAGS: u16 = 4;

/// Number of codes.
pub const CODES: usize = (UNSCORED as usize + 1) * (LABELS * FLAGS) as usize;

/// A fall of the AUROC against the reference by this much is `watch`, by twice as much `act`: a choice of ours, half the width of what is commonly called one
/// class of discrimination (Hosmer & Lemeshow 2013, §5.2.4: steps of 0.1).
pub const AUROC_FALL_WATCH: f64 = 0.05;

/// Below this ratio of selection rates a group is marked. Source: 29 CFR 1607.4(D), the four-fifths rule.
pub const FOUR_FIFTHS: f64 = 0.8;

/// A probability in thousandths, from 0 to 1,000; with its absence two bytes. Kept is one more than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u16", try_from = "u16")]
pub struct Thousandths(NonZeroU16);

impl Thousandths {
    /// A finite probability, rounded to the nearest thousandth.
    pub fn of(probability: f64) -> Option<Self> {
        let rounded = probability.is_finite().then(|| (probability.clamp(0.0, 1.0) * 1_000.0).round() as u16);
        rounded.and_then(|thousandths| thousandths.try_into().ok())
    }
}

impl TryFrom<u16> for Thousandths {
    type Error = &'static str;

    fn try_from(thousandths: u16) -> Result<Self, Self::Error> {
        let kept = NonZeroU16::MIN.checked_add(thousandths).filter(|_| thousandths < UNSCORED);
        kept.map(Thousandths).ok_or("a probability is at most 1,000 thousandths")
    }
}

impl From<Thousandths> for u16 {
    fn from(Thousandths(kept): Thousandths) -> u16 {
        kept.get() - 1
    }
}

/// What scoring said of one reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Score {
    /// The probability in thousandths, `None` without one.
    pub thousandths: Option<Thousandths>,
    /// Whether `audit.selected` takes it.
    pub selected: bool,
    /// Whether it raised an alarm.
    pub alarm: bool,
}

impl Score {
    /// The code under which it is counted.
    pub fn code(self, label: Option<bool>) -> Value {
        let label = label.map_or(0, |happened| 1 + u16::from(happened));
        let flags = 2 * u16::from(self.selected) + u16::from(self.alarm);
        Value((self.thousandths.map_or(UNSCORED, u16::from) * LABELS + label) * FLAGS + flags)
    }

    /// What a code says.
    pub(super) fn of_code(code: u16) -> (Self, Option<bool>) {
        let (flags, rest) = (code % FLAGS, code / FLAGS);
        let thousandths = Thousandths::try_from(rest / LABELS).ok();
        let label = [None, Some(false), Some(true)][usize::from(rest % LABELS)];
        (Score { thousandths, selected: flags >= 2, alarm: flags % 2 == 1 }, label)
    }
}

/// Readings of one group and one side, summed up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Assessed readings.
    pub readings: u64,
    /// Of those, with a probability.
    pub scored: u64,
    /// Selected.
    pub selected: u64,
    /// With an alarm.
    pub alarms: u64,
    /// Labelled readings by [not selected, selected][did not happen, happened].
    confusion: [[u64; 2]; 2],
    /// Those with a probability, ascending by it.
    by_probability: Vec<OfProbability>,
}

/// Readings of one probability.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct OfProbability {
    thousandths: u16,
    readings: u64,
    selected: u64,
    /// Labelled readings: did not happen, happened.
    labelled: [u64; 2],
}

impl OfProbability {
    fn probability(&self) -> f64 {
        f64::from(self.thousandths) / 1_000.0
    }

    /// Of so many such readings, how many are expected not to have the outcome, and to have it.
    fn expected(&self, count: u64) -> [f64; 2] {
        let happens = count as f64 * self.probability();
        [count as f64 - happens, happens]
    }
}

impl Summary {
    /// Of counts by code, ascending; a count below 0 is held at 0.
    pub fn of(codes: &[(Value, i64)]) -> Self {
        let mut summary = Summary::default();
        for (code, count) in codes.iter().filter(|(_, count)| *count > 0) {
            summary.add(Score::of_code(code.0), count.unsigned_abs());
        }
        summary
    }

    fn add(&mut self, (score, label): (Score, Option<bool>), count: u64) {
        self.readings += count;
        self.selected += if score.selected { count } else { 0 };
        self.alarms += if score.alarm { count } else { 0 };
        if let Some(happened) = label {
            self.confusion[usize::from(score.selected)][usize::from(happened)] += count;
        }
        let Some(thousandths) = score.thousandths.map(u16::from) else { return };
        self.scored += count;
        // Codes ascend by probability first.
        if self.by_probability.last().is_none_or(|last| last.thousandths != thousandths) {
            self.by_probability.push(OfProbability { thousandths, ..OfProbability::default() });
        }
        let Some(of) = self.by_probability.last_mut() else { return };
        of.readings += count;
        of.selected += if score.selected { count } else { 0 };
        if let Some(happened) = label {
            of.labelled[usize::from(happened)] += count;
        }
    }

    /// Takes away who was selected and what came of it; probabilities stay.
    pub(super) fn forget_outcomes(&mut self) {
        (self.selected, self.confusion) = (0, [[0; 2]; 2]);
        for of in &mut self.by_probability {
            (of.selected, of.labelled) = (0, [0; 2]);
        }
    }

    /// Readings with a label.
    pub fn labelled(&self) -> u64 {
        self.confusion.concat().iter().sum()
    }

    /// Of those, readings whose outcome happened.
    pub fn positives(&self) -> u64 {
        self.confusion[0][1] + self.confusion[1][1]
    }

    /// Mean probability.
    pub fn score_mean(&self) -> Option<f64> {
        let sum: u64 = self.by_probability.iter().map(|of| u64::from(of.thousandths) * of.readings).sum();
        quotient(sum as f64 / 1_000.0, self.scored as f64)
    }

    /// Positives among the labelled.
    pub fn observed_rate(&self) -> Option<f64> {
        quotient(self.positives() as f64, self.labelled() as f64)
    }

    /// Counts of the probabilities by thousandths, for drift.
    pub fn probabilities(&self) -> Vec<i64> {
        let mut counts = vec![0; usize::from(UNSCORED)];
        for of in &self.by_probability {
            counts[usize::from(of.thousandths)] = of.readings as i64;
        }
        counts
    }

    /// Selection rate, true positive rate, false positive rate, positive predictive value.
    pub fn rates(&self) -> [Rate; 4] {
        let [[tn, missed], [false_alarms, tp]] = self.confusion;
        [
            wilson(self.selected, self.readings),
            wilson(tp, tp + missed),
            wilson(false_alarms, false_alarms + tn),
            wilson(tp, tp + false_alarms),
        ]
    }

    /// Against the labels.
    pub fn measured(&self) -> Goodness {
        let weights = self.weights(|of| of.labelled.map(|count| count as f64));
        let scored = weights.iter().map(|(_, [no, yes])| no + yes).sum();
        let confusion = self.confusion.map(|row| row.map(|count| count as f64));
        Goodness { ece: self.calibration_error(scored), ..goodness(confusion, &weights, scored) }
    }

    /// Without labels, from the probabilities alone.
    pub fn estimated(&self) -> Goodness {
        let mut expected = [[0.0; 2]; 2];
        for of in &self.by_probability {
            for (row, count) in expected.iter_mut().zip([of.readings - of.selected, of.selected]) {
                let [no, yes] = of.expected(count);
                row[0] += no;
                row[1] += yes;
            }
        }
        goodness(expected, &self.weights(|of| of.expected(of.readings)), self.scored as f64)
    }

    /// Negatives and positives by probability.
    fn weights(&self, of: impl Fn(&OfProbability) -> [f64; 2]) -> Vec<(f64, [f64; 2])> {
        self.by_probability.iter().map(|at| (at.probability(), of(at))).collect()
    }

    /// Over tenths of probability, the last one with 1: Σ |Σp − Σy| / n.
    fn calibration_error(&self, scored: f64) -> Option<f64> {
        let tenth_of = |of: &OfProbability| (of.thousandths / 100).min(9);
        let gap = |of_tenth: &[OfProbability]| {
            let sum = |term: fn(&OfProbability) -> u64| of_tenth.iter().map(term).sum::<u64>();
            let expected = sum(|of| u64::from(of.thousandths) * (of.labelled[0] + of.labelled[1]));
            expected.abs_diff(sum(|of| 1_000 * of.labelled[1]))
        };
        let gaps = self.by_probability.chunk_by(|a, b| tenth_of(a) == tenth_of(b)).map(gap);
        quotient(gaps.sum::<u64>() as f64 / 1_000.0, scored)
    }
}

/// Of a confusion [not selected, selected][negative, positive], and of negatives and positives by ascending probability.
fn goodness(confusion: [[f64; 2]; 2], weights: &[(f64, [f64; 2])], scored: f64) -> Goodness {
    let [[tn, missed], [false_alarms, tp]] = confusion;
    let squares = weights.iter().map(|(p, [no, yes])| no * p * p + yes * (1.0 - p) * (1.0 - p)).sum();
    Goodness {
        accuracy: quotient(tp + tn, tp + tn + missed + false_alarms),
        auroc: auroc(weights),
        brier: quotient(squares, scored),
        sensitivity: quotient(tp, tp + missed),
        specificity: quotient(tn, tn + false_alarms),
        ppv: quotient(tp, tp + false_alarms),
        ece: None,
    }
}

fn quotient(part: f64, of: f64) -> Option<f64> {
    (of > 0.0).then(|| part / of)
}

/// Area under the receiver operating characteristic: the share of pairs in which the positive has the higher probability, ties counting half. `None`
/// unless both occur.
///
/// Source: Hanley & McNeil 1982, "The meaning and use of the area under a ROC curve", Radiology 143(1); `sklearn.metrics.roc_auc_score` gives the same.
fn auroc(weights: &[(f64, [f64; 2])]) -> Option<f64> {
    let (mut pairs, mut negatives, mut positives) = (0.0, 0.0, 0.0);
    for (_, [no, yes]) in weights {
        pairs += yes * (negatives + no / 2.0);
        negatives += no;
        positives += yes;
    }
    quotient(pairs, negatives * positives)
}

/// A share with its 95 % interval. Source: Wilson 1927, JASA 22(158).
pub fn wilson(part: u64, of: u64) -> Rate {
    const Z: f64 = 1.959963984540054;
    if of == 0 {
        return Rate::default();
    }
    let (n, share) = (of as f64, part as f64 / of as f64);
    let middle = (share + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    // The interval's ends meet 0 and 1 exactly, but for rounding.
    let low = if part == 0 { 0.0 } else { middle - half };
    let high = if part == of { 1.0 } else { middle + half };
    Rate { rate: Some(share), low: Some(low), high: Some(high) }
}

/// What performance amounts to.
pub fn performance_verdict(current: &Summary, reference: &Summary, labelled_min: u64) -> Verdict {
    if current.labelled() < labelled_min || reference.labelled() < labelled_min {
        return Verdict::Insufficient;
    }
    match (reference.measured().auroc, current.measured().auroc) {
        (Some(reference), Some(current)) if reference - current >= 2.0 * AUROC_FALL_WATCH => Verdict::Act,
        (Some(reference), Some(current)) if reference - current >= AUROC_FALL_WATCH => Verdict::Watch,
        (Some(_), Some(_)) => Verdict::None,
        _ => Verdict::Insufficient,
    }
}

/// How a group's rates stand beside those of the reference group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Beside {
    /// Group less reference group.
    pub differences: [Option<f64>; 4],
    /// Group by reference group.
    pub ratios: [Option<f64>; 4],
    /// Whether the selection rates' ratio is below four fifths, either way round.
    pub below_four_fifths: Option<bool>,
    /// What it amounts to.
    pub verdict: Verdict,
}

impl Beside {
    /// Compares two groups; below `readings_min` readings on either side the verdict is `insufficient`.
    pub fn of(group: &Summary, reference: &Summary, readings_min: u64) -> Self {
        let (ours, theirs) = (group.rates(), reference.rates());
        let both = |at: usize| ours[at].rate.zip(theirs[at].rate);
        let all = [0, 1, 2, 3];
        let ratios = all.map(|at| both(at).filter(|(_, theirs)| *theirs > 0.0).map(|(ours, theirs)| ours / theirs));
        let below = |ratio: f64| !(FOUR_FIFTHS..=1.0 / FOUR_FIFTHS).contains(&ratio);
        let below_four_fifths = ratios[0].map(below);
        let apart = match (ours[0], theirs[0]) {
            (
                Rate { low: Some(low), high: Some(high), .. },
                Rate { low: Some(other_low), high: Some(other_high), .. },
            ) => high < other_low || other_high < low,
            _ => false,
        };
        let verdict = match below_four_fifths {
            _ if group.readings < readings_min || reference.readings < readings_min => Verdict::Insufficient,
            None => Verdict::Insufficient,
            Some(true) if apart => Verdict::Act,
            Some(true) => Verdict::Watch,
            Some(false) => Verdict::None,
        };
        Beside {
            differences: all.map(|at| both(at).map(|(ours, theirs)| ours - theirs)),
            ratios,
            below_four_fifths,
            verdict,
        }
    }
}

#[cfg(test)]
mod tests {
    //! Against the definitions, one reading at a time.

    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::audit::histogram::Histogram;
    use crate::audit::tests::compare_with_other_packages;

    fn kept(thousandths: Option<u16>) -> Option<Thousandths> {
        thousandths.map(|thousandths| thousandths.try_into().unwrap())
    }

    fn probability(thousandths: Thousandths) -> f64 {
        f64::from(u16::from(thousandths)) / 1e3
    }

    fn random(rng: &mut ChaCha8Rng) -> (Score, Option<bool>) {
        let thousandths: Option<u16> = rng.random_bool(0.9).then(|| rng.random_range(0..=20) * 50);
        let selected = thousandths.is_some_and(|p| p > 400) ^ rng.random_bool(0.1);
        let score = Score { thousandths: kept(thousandths), selected, alarm: rng.random_bool(0.2) };
        let happens = f64::from(thousandths.unwrap_or(300)) / 1_200.0;
        (score, rng.random_bool(0.7).then(|| rng.random_bool(happens)))
    }

    fn summary(readings: &[(Score, Option<bool>)]) -> Summary {
        let codes = readings.iter().map(|(score, label)| (score.code(*label), 1)).collect();
        Summary::of(Histogram::from_counts(codes).as_slice())
    }

    #[test]
    fn a_code_says_what_was_counted() {
        for thousandths in [None, Some(0), Some(1), Some(999), Some(1_000)].map(kept) {
            for label in [None, Some(false), Some(true)] {
                for (selected, alarm) in [(false, false), (false, true), (true, false), (true, true)] {
                    let score = Score { thousandths, selected, alarm };
                    assert!(usize::from(score.code(label).0) < CODES);
                    assert_eq!(Score::of_code(score.code(label).0), (score, label));
                }
            }
        }
        for (probability, expected) in [(0.0, 0), (0.0005, 1), (0.4994, 499), (1.0, 1_000), (7.0, 1_000)] {
            assert_eq!(Thousandths::of(probability).map(u16::from), Some(expected));
        }
        assert_eq!(Thousandths::of(f64::NAN), None);
        assert!(Thousandths::try_from(1_001).is_err() && Thousandths::try_from(u16::MAX).is_err());
    }

    #[test]
    fn figures_are_those_of_a_plain_recount() {
        let close =
            |ours: Option<f64>, expected: f64| assert!((ours.unwrap() - expected).abs() < 1e-12, "{ours:?} {expected}");
        for seed in 0..20 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let readings: Vec<_> = (0..300).map(|_| random(&mut rng)).collect();
            let summary = summary(&readings);
            let labelled: Vec<(Option<f64>, bool, bool)> = readings
                .iter()
                .filter_map(|(score, label)| Some((score.thousandths.map(probability), score.selected, (*label)?)))
                .collect();
            let count = |of: &dyn Fn(bool, bool) -> bool| labelled.iter().filter(|(_, s, y)| of(*s, *y)).count() as f64;
            let measured = summary.measured();
            close(measured.accuracy, count(&|s, y| s == y) / labelled.len() as f64);
            close(measured.sensitivity, count(&|s, y| s && y) / count(&|_, y| y));
            close(measured.specificity, count(&|s, y| !s && !y) / count(&|_, y| !y));
            close(measured.ppv, count(&|s, y| s && y) / count(&|s, _| s));
            let scored: Vec<(f64, f64)> =
                labelled.iter().filter_map(|(p, _, y)| Some(((*p)?, f64::from(u8::from(*y))))).collect();
            close(measured.brier, scored.iter().map(|(p, y)| (p - y).powi(2)).sum::<f64>() / scored.len() as f64);
            let (mut pairs, mut won) = (0.0, 0.0);
            for (p, _) in scored.iter().filter(|(_, y)| *y == 1.0) {
                for (q, _) in scored.iter().filter(|(_, y)| *y == 0.0) {
                    pairs += 1.0;
                    won += if p > q {
                        1.0
                    } else if p == q {
                        0.5
                    } else {
                        0.0
                    };
                }
            }
            close(measured.auroc, won / pairs);
            let tenth = |p: f64| ((p * 10.0 + 1e-9).floor() as usize).min(9);
            let gap =
                |bin: usize| scored.iter().filter(|(p, _)| tenth(*p) == bin).map(|(p, y)| p - y).sum::<f64>().abs();
            close(measured.ece, (0..10).map(gap).sum::<f64>() / scored.len() as f64);
            let all: Vec<(f64, bool)> = readings
                .iter()
                .filter_map(|(score, _)| Some((probability(score.thousandths?), score.selected)))
                .collect();
            let sum = |of: &dyn Fn(f64, bool) -> f64| all.iter().map(|(p, s)| of(*p, *s)).sum::<f64>();
            let estimated = summary.estimated();
            close(estimated.accuracy, sum(&|p, s| if s { p } else { 1.0 - p }) / all.len() as f64);
            close(estimated.sensitivity, sum(&|p, s| if s { p } else { 0.0 }) / sum(&|p, _| p));
            close(estimated.ppv, sum(&|p, s| if s { p } else { 0.0 }) / sum(&|_, s| f64::from(u8::from(s))));
            close(estimated.brier, sum(&|p, _| p * (1.0 - p)) / all.len() as f64);
            close(summary.score_mean(), sum(&|p, _| p) / all.len() as f64);
        }
    }

    /// Two random groups, scored and labelled, against fairlearn, scikit-learn and scipy: within 1e-9.
    #[test]
    fn other_packages_say_the_same_of_scores() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let case = |_| {
            let groups = [150, 400].map(|readings| {
                let whole = |rng: &mut ChaCha8Rng| {
                    std::iter::repeat_with(|| random(rng))
                        .find(|(score, label)| score.thousandths.and(*label).is_some())
                };
                (0..readings).map(|_| whole(&mut rng).unwrap()).collect::<Vec<_>>()
            });
            let readings = groups.each_ref().map(|group| {
                let reading = |(score, label): &(Score, Option<bool>)| {
                    serde_json::json!([probability(score.thousandths.unwrap()), score.selected, label.unwrap()])
                };
                group.iter().map(reading).collect::<Vec<_>>()
            });
            let [first, second] = readings;
            serde_json::json!({ "first": first, "second": second, "ours": said_of(&groups) })
        };
        compare_with_other_packages("other_packages_of_scores.py", (0..40).map(case));
    }

    /// Everything that is compared, by its name in the script.
    fn said_of(groups: &[Vec<(Score, Option<bool>)>; 2]) -> serde_json::Map<String, serde_json::Value> {
        let [first, second] = groups.each_ref().map(|group| summary(group));
        let all = summary(&groups.concat());
        let beside = Beside::of(&second, &first, 1);
        let mut said = serde_json::Map::new();
        let mut say = |name: String, figure: Option<f64>| drop(said.insert(name, serde_json::json!(figure)));
        for (at, rate) in ["selection_rate", "tpr", "fpr", "ppv"].into_iter().enumerate() {
            say(format!("{rate} of first"), first.rates()[at].rate);
            say(format!("{rate} of second"), second.rates()[at].rate);
            // Theirs are of the greater and the smaller, whichever group has which.
            say(format!("{rate} difference"), beside.differences[at].map(f64::abs));
            say(format!("{rate} ratio"), beside.ratios[at].map(|ratio| ratio.min(1.0 / ratio)));
        }
        let Goodness { accuracy, auroc, brier, sensitivity, specificity, ppv, .. } = all.measured();
        let goodness = [accuracy, auroc, brier, sensitivity, specificity, ppv];
        let names = ["accuracy", "auroc", "brier", "sensitivity", "specificity", "ppv"];
        names.into_iter().zip(goodness).for_each(|(name, figure)| say(name.to_owned(), figure));
        let [selection, ..] = all.rates();
        say("selection_rate low".to_owned(), selection.low);
        say("selection_rate high".to_owned(), selection.high);
        said
    }

    /// `statsmodels.stats.proportion.proportion_confint(method="wilson")`, by hand for 8 of 10 (Newcombe 1998 prints 0.490, 0.943).
    #[test]
    fn wilsons_interval_is_the_printed_one() {
        let Rate { rate, low, high } = wilson(8, 10);
        assert_eq!(rate, Some(0.8));
        assert!((low.unwrap() - 0.4901).abs() < 1e-4 && (high.unwrap() - 0.9433).abs() < 1e-4, "{low:?} {high:?}");
        assert_eq!((wilson(0, 5).low, wilson(5, 5).high, wilson(0, 0)), (Some(0.0), Some(1.0), Rate::default()));
    }

    #[test]
    fn four_fifths_are_judged_either_way_round() {
        let group = |selected: usize, of: usize| {
            let reading = |at: usize| (Score { selected: at < selected, ..Score::default() }, None);
            summary(&(0..of).map(reading).collect::<Vec<_>>())
        };
        for (ours, theirs, expected) in [
            ((30, 100), (30, 100), (Some(false), Verdict::None)),
            ((24, 100), (30, 100), (Some(false), Verdict::None)),
            ((23, 100), (30, 100), (Some(true), Verdict::Watch)),
            ((38, 100), (30, 100), (Some(true), Verdict::Watch)),
            ((5, 100), (30, 100), (Some(true), Verdict::Act)),
            ((5, 9), (30, 100), (Some(true), Verdict::Insufficient)),
            ((5, 100), (0, 100), (None, Verdict::Insufficient)),
        ] {
            let beside = Beside::of(&group(ours.0, ours.1), &group(theirs.0, theirs.1), 10);
            assert_eq!((beside.below_four_fifths, beside.verdict), expected, "{ours:?} {theirs:?}");
        }
    }
}
