//! Data quality: how many inputs of a topic had which flaw, in a window and in its reference.
//!
//! ```text
//! inputs ─> pane (event time, floored) × topic × measure ─> ±1      rate of a measure = those with the flaw / readings
//! ```
//!
//! **What is counted** is inputs as they stand: a reading more, with its flaws; a correction takes the place of what it corrects, flaws included; what is
//! withdrawn is taken back. What was rejected stays rejected, and a duplicate stays one: no later input says that it was none
//! ([`vocabulary::flaws`](crate::vocabulary::flaws) has the measures).
//!
//! **The verdict** is of the rate in the window beside that in the reference; an increase alone is judged, for fewer flaws harm nobody. It must be both
//!
//! * *there*: the 95 % interval of the difference lies above 0. Newcombe 1998, "Interval estimation for the difference between independent proportions",
//!   Statistics in Medicine 17, 873–890, method 10 (from two intervals of Wilson);
//! * *large*: Cohen's h = 2 asin √p₂ − 2 asin √p₁ is at least 0.2 (small: `watch`) or 0.5 (medium: `act`). Cohen 1988, "Statistical Power Analysis for
//!   the Behavioral Sciences", 2nd ed., §6.2. From no flaw at all these are 1.0 % and 6.1 %, from 10 % they are 17 % and 30 %.
//!
//! Inputs of one device or patient are not independent, so that intervals are too narrow; the size guards against that. With fewer inputs than
//! `audit.readings_min` on either side the verdict is `insufficient`. `readings` itself has no flaw, and its rate is 1. A verdict that holds raises an
//! alert about the topic, like any other ([`alerts`](super::alerts)).
//!
//! Of a flow with more than [`TOPICS_MAX`] topics the others are counted together: a folder of files of one resource each is no thousand rows a window.

use serde::{Deserialize, Serialize};

use crate::audit::found::{Found, Packed};
use crate::audit::histogram::Histogram;
use crate::audit::scores::wilson;
use crate::audit::series::{Pane, Series, Value};
use crate::source::Topics;
use crate::vocabulary::TopicId;
use crate::vocabulary::findings::Verdict;
use crate::vocabulary::flaws::MEASURES;

/// Topics that are counted each by itself.
pub const TOPICS_MAX: usize = 64;

/// Places for topics: the last is of all others together.
pub const SLOTS: usize = TOPICS_MAX + 1;

/// Increase of a rate, as Cohen's h, from which the verdict is `watch` and `act`.
pub const COHEN_H: (f64, f64) = (0.2, 0.5);

/// Where a topic is counted.
pub fn slot(topic: TopicId) -> usize {
    (topic.0 as usize).min(TOPICS_MAX)
}

/// The topic that is counted there; `None` for the others.
pub fn topic(slot: usize) -> Option<TopicId> {
    (slot < TOPICS_MAX).then_some(TopicId(slot as u32))
}

/// What a row and a gauge call the topic; all others together, those of files like a file's.
pub fn topic_name(topics: &Topics, topic: Option<TopicId>) -> &str {
    match topic {
        Some(topic) => topics.name(topic),
        None if topics.names().any(|name| name.starts_with("file-")) => "file-others",
        None => "others",
    }
}

/// The figures of [`Quality`](crate::vocabulary::findings::Quality): inputs and those with the flaw, of reference and window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "they are those of the row")]
pub struct Rates {
    pub reference: (u64, u64),
    pub current: (u64, u64),
    pub verdict: Verdict,
}

/// What is found of a topic in a window: of every measure. `None` without inputs in the window.
pub fn find(
    slot: usize,
    reference: &[(Pane, &Histogram)],
    current: &[(Pane, &Histogram)],
    inputs_min: u64,
) -> Vec<(Series, Found)> {
    let (reference, current) = (sums(reference), sums(current));
    if current[0] == 0 {
        return Vec::new();
    }
    let of = |measure: usize| {
        let (reference, current) = ((reference[0], reference[measure]), (current[0], current[measure]));
        let rates = Rates { reference, current, verdict: verdict(reference, current, inputs_min) };
        (Series::quality(slot, measure), Found::Quality(Packed::of(&rates)))
    };
    (0..MEASURES.len()).map(of).collect()
}

/// Inputs by measure. What does not add up to something positive is of panes that are being retracted.
fn sums(panes: &[(Pane, &Histogram)]) -> [u64; MEASURES.len()] {
    let mut sums = [0_i64; MEASURES.len()];
    for (Value(measure), count) in panes.iter().flat_map(|(_, counts)| counts.as_slice()) {
        sums[usize::from(*measure)] += count;
    }
    sums.map(|sum| sum.max(0).unsigned_abs())
}

/// What the difference of two rates amounts to; of each side all inputs, and those with the flaw.
fn verdict(reference: (u64, u64), current: (u64, u64), inputs_min: u64) -> Verdict {
    if reference.0 < inputs_min.max(1) || current.0 < inputs_min.max(1) {
        return Verdict::Insufficient;
    }
    let rise = cohen_h(share(reference), share(current));
    match difference_low(reference, current) {
        Some(low) if low > 0.0 && rise >= COHEN_H.1 => Verdict::Act,
        Some(low) if low > 0.0 && rise >= COHEN_H.0 => Verdict::Watch,
        _ => Verdict::None,
    }
}

fn share((of, part): (u64, u64)) -> f64 {
    part as f64 / of as f64
}

/// Cohen's h of two shares, the second less the first.
fn cohen_h(first: f64, second: f64) -> f64 {
    2.0 * (second.min(1.0).sqrt().asin() - first.min(1.0).sqrt().asin())
}

/// The lower end of the 95 % interval of the difference of two shares, the second less the first: Newcombe's method 10.
fn difference_low(first: (u64, u64), second: (u64, u64)) -> Option<f64> {
    // A part larger than the whole cannot be, but for retractions on their way.
    let of = |(of, part): (u64, u64)| wilson(part.min(of), of);
    let (first, second) = (of(first), of(second));
    let (p1, p2) = (first.rate?, second.rate?);
    Some(p2 - p1 - ((p2 - second.low?).powi(2) + (first.high? - p1).powi(2)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newcombes_interval_is_the_printed_one() {
        // Newcombe 1998, table II, contrasts (a) to (d) and (g): 56/70 − 48/80, 9/10 − 3/10, 6/7 − 2/7, 5/56 − 0/29, 10/10 − 0/10.
        for (second, first, printed) in [
            ((70, 56), (80, 48), 0.0524),
            ((10, 9), (10, 3), 0.1705),
            ((7, 6), (7, 2), 0.0582),
            ((56, 5), (29, 0), -0.0381),
            ((10, 10), (10, 0), 0.6075),
        ] {
            let low = difference_low(first, second).unwrap();
            assert!((low - printed).abs() < 5e-5, "{second:?} {first:?}: {low}");
        }
    }

    #[test]
    fn a_verdict_needs_inputs_a_difference_and_its_size() {
        for (reference, current, expected) in [
            ((99, 0), (1_000, 500), "insufficient"),
            ((1_000, 0), (99, 50), "insufficient"),
            ((10_000, 0), (10_000, 0), "none"),
            // Certain, and too little to matter.
            ((1_000_000, 0), (1_000_000, 9_900), "none"),
            ((1_000_000, 0), (1_000_000, 10_000), "watch"),
            ((1_000_000, 0), (1_000_000, 61_000), "watch"),
            ((1_000_000, 0), (1_000_000, 62_000), "act"),
            ((1_000_000, 100_000), (1_000_000, 165_000), "none"),
            ((1_000_000, 100_000), (1_000_000, 175_000), "watch"),
            // Large, and not certain.
            ((100, 10), (100, 18), "none"),
            // Fewer flaws.
            ((10_000, 9_000), (10_000, 0), "none"),
            ((10_000, 10_000), (10_000, 10_000), "none"),
        ] {
            assert_eq!(verdict(reference, current, 100).name(), expected, "{reference:?} {current:?}");
        }
        assert_eq!(verdict((0, 0), (5, 5), 0), Verdict::Insufficient, "nothing to compare with");
    }

    #[test]
    fn topics_beyond_the_last_place_share_it() {
        for (of, place, back) in [(0, 0, Some(0)), (63, 63, Some(63)), (64, 64, None), (9_999, 64, None)] {
            assert_eq!((slot(TopicId(of)), topic(place)), (place, back.map(TopicId)));
        }
        assert!(slot(TopicId(u32::MAX)) < SLOTS);
    }
}
