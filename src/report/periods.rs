//! Which periods of event time are due for an audit: pure, and survives as a few numbers.
//!
//! Invariants:
//!
//! 1. A period is due when something is known of it that no audit of it has seen, and a window has closed at its end or later: rows of a window come when the
//!    watermark has passed its end, so that all windows before are told.
//! 2. What is told later of a period that has ended makes it due again.
//! 3. Of windows that lie in two periods nothing is said.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::time::{EventSpan, EventTime};
use crate::vocabulary::findings::Span;

/// Where the audits of a flow stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Periods {
    every: i64,
    /// The latest end of a window so far.
    reached: i64,
    /// Periods of which something is to be told, by their ordinals.
    untold: BTreeSet<i64>,
}

impl Periods {
    /// Nothing known, periods of a positive length. The first period of all begins at 1970-01-01T00:00:00Z.
    pub fn new(every: EventSpan) -> Periods {
        Periods { every: every.micros(), reached: i64::MIN, untold: BTreeSet::new() }
    }

    /// Whether it counts in periods of this length.
    pub fn is_of(&self, every: EventSpan) -> bool {
        self.every == every.micros()
    }

    /// Something was told of a window.
    pub fn saw(&mut self, (start, end): Span) {
        self.reached = self.reached.max(end.micros());
        let period = start.micros().div_euclid(self.every);
        if end.micros() <= period.saturating_add(1).saturating_mul(self.every) {
            self.untold.insert(period);
        }
    }

    /// What is known so far is no news: only what is told from now on makes a period due, and what of it has not ended yet.
    pub fn begin(&mut self) {
        self.untold.retain(|period| period.saturating_add(1).saturating_mul(self.every) > self.reached);
    }

    /// The periods that are due, ascending.
    pub fn due(&self) -> Vec<Span> {
        let span =
            |period: &i64| (period.saturating_mul(self.every), period.saturating_add(1).saturating_mul(self.every));
        let ended = |(_, end): &(i64, i64)| *end <= self.reached;
        let at = EventTime::from_micros;
        self.untold.iter().map(span).filter(ended).map(|(start, end)| (at(start), at(end))).collect()
    }

    /// An audit of this period is kept.
    pub fn done(&mut self, (start, _): Span) {
        self.untold.remove(&start.micros().div_euclid(self.every));
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn hours(start: i64, end: i64) -> Span {
        let hour = |hour: i64| EventTime::from_micros(hour * 3_600_000_000);
        (hour(start), hour(end))
    }

    fn days() -> Periods {
        Periods::new(EventSpan::from_seconds(86_400))
    }

    #[test]
    fn a_period_is_due_when_a_window_has_closed_at_its_end_or_later() {
        let mut periods = days();
        periods.saw(hours(22, 23));
        assert!(periods.due().is_empty());
        periods.saw(hours(30, 31));
        assert_eq!(periods.due(), [hours(0, 24)]);
        periods.done(hours(0, 24));
        assert!(periods.due().is_empty());
        periods.saw(hours(47, 48));
        assert_eq!(periods.due(), [hours(24, 48)]);
        periods.saw(hours(5, 6));
        assert_eq!(periods.due(), [hours(0, 24), hours(24, 48)], "a correction");
        periods.saw(hours(-3, -2));
        assert_eq!(periods.due()[0], hours(-24, 0));
    }

    #[test]
    fn a_window_across_two_periods_belongs_to_neither() {
        let mut periods = days();
        periods.saw(hours(23, 25));
        periods.saw(hours(48, 49));
        assert!(periods.due().is_empty());
    }

    #[test]
    fn what_was_there_at_the_beginning_is_no_news_but_what_has_not_ended() {
        let mut periods = days();
        periods.saw(hours(5, 6));
        periods.saw(hours(30, 31));
        periods.begin();
        assert!(periods.due().is_empty());
        periods.saw(hours(47, 48));
        assert_eq!(periods.due(), [hours(24, 48)]);
    }

    /// However often it is interrupted and goes on from what it had written down, each period is audited after the last that was told of it.
    #[test]
    fn whatever_is_told_when_every_period_that_has_ended_is_audited_after_it() {
        for seed in 0..200 {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let (mut periods, mut told) = (days(), Vec::new());
            let mut audited = std::collections::BTreeMap::new();
            for step in 0..60_usize {
                let start = random.random_range(0..5 * 24);
                told.push((step, start));
                periods.saw(hours(start, start + 1));
                if random.random_bool(0.3) {
                    for due in periods.due() {
                        audited.insert(due.0.micros() / 86_400_000_000, step);
                        periods.done(due);
                    }
                }
                if random.random_bool(0.2) {
                    periods = serde_json::from_str(&serde_json::to_string(&periods).unwrap()).unwrap();
                }
            }
            audited.extend(periods.due().into_iter().map(|due| (due.0.micros() / 86_400_000_000, 60)));
            let reached = told.iter().map(|(_, start)| start + 1).max().unwrap();
            for (step, start) in told {
                let period = start / 24;
                let at = audited.get(&period).copied();
                assert_eq!(at.is_some(), (period + 1) * 24 <= reached, "seed {seed}, period {period}");
                assert!(at.is_none_or(|at| at >= step), "seed {seed}, period {period}");
            }
        }
    }
}
