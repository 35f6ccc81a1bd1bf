//! Which comparisons become rows: the state machine behind differential's output.
//!
//! Invariants:
//!
//! 1. A row is emitted when its window has closed with readings in it, and again whenever its comparison changed; at most once an epoch.
//! 2. A window that was published and has lost all its readings is published once more, with a count of 0: no sink keeps a row that no
//!    longer stands. A window that never had readings is not published.
//! 3. A frozen window is not published any more, whatever is retracted below it.
//!
//! Kept: the keys that were published and can still change, 16 bytes each.

use std::collections::{BTreeMap, BTreeSet};

use crate::audit::compare::Comparison;
use crate::audit::series::{Calendar, SERIES, Series, Window};
use crate::audit::statistics::verdict;
use crate::config::AuditSpec;
use crate::time::EventSpan;
use crate::vocabulary::{Shift, Tick};
use crate::watermark::Watermark;

/// A change of the collection of comparisons: the comparison appears (+1) or stands no longer (−1).
pub type Change = ((Series, Window, Comparison), isize);

/// A row, and whether it is of the newest window of its series: that one is shown by the gauges.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// The row.
    pub shift: Shift,
    /// True for the newest window of its feature and group.
    pub newest: bool,
}

/// What one worker has published of the series that it owns.
#[derive(Debug)]
pub struct Publisher {
    calendar: Calendar,
    horizon: EventSpan,
    spec: AuditSpec,
    watermark: Watermark,
    published: BTreeSet<(Window, Series)>,
    newest: [Option<Window>; SERIES],
}

impl Publisher {
    /// Nothing published yet.
    pub fn new(calendar: Calendar, horizon: EventSpan, spec: AuditSpec) -> Self {
        Publisher {
            calendar,
            horizon,
            spec,
            watermark: Watermark::new(),
            published: BTreeSet::new(),
            newest: [None; SERIES],
        }
    }

    /// Applies the changes and ticks of one epoch; rows ascending by window, then group, then feature.
    pub fn advance(&mut self, changes: impl IntoIterator<Item = Change>, ticks: &[Tick]) -> Vec<Published> {
        let live = self.calendar.window_of(self.watermark.frozen(self.horizon));
        self.published = self.published.split_off(&(live, Series(0)));
        self.watermark.advance(ticks);
        let mut standing: BTreeMap<(Window, Series), Comparison> = BTreeMap::new();
        for ((series, window, comparison), diff) in changes {
            debug_assert!(diff.abs() == 1, "audit: reduce has one comparison a window");
            // Only retracted, nothing stands: no readings on either side.
            let now = standing.entry((window, series)).or_default();
            if diff > 0 {
                *now = comparison;
            }
        }
        let live = standing.split_off(&(live, Series(0)));
        live.into_iter()
            .filter_map(|((window, series), comparison)| self.publish(window, series, &comparison))
            .collect()
    }

    fn publish(&mut self, window: Window, series: Series, comparison: &Comparison) -> Option<Published> {
        if comparison.current_count == 0 && !self.published.contains(&(window, series)) {
            return None;
        }
        debug_assert!(
            window < self.calendar.window_of(self.watermark.reached()),
            "counts: a window is not let through before it has closed"
        );
        self.published.insert((window, series));
        let newest = &mut self.newest[usize::from(series.0)];
        *newest = (*newest).max(Some(window));
        Some(Published { newest: *newest == Some(window), shift: self.shift(window, series, comparison) })
    }

    fn shift(&self, window: Window, series: Series, comparison: &Comparison) -> Shift {
        let span = |(from, to): (Window, Window)| (self.calendar.start(from), self.calendar.start(to));
        let psi = comparison.psi.map(f64::from);
        Shift {
            feature: series.feature(),
            group: series.group().to_owned(),
            reference: span(self.calendar.reference(window)),
            current: span((window, Window(window.0.saturating_add(1)))),
            reference_count: comparison.reference_count,
            current_count: comparison.current_count,
            psi,
            jensen_shannon: comparison.jensen_shannon.map(f64::from),
            verdict: verdict(psi, &self.spec),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use expect_test::{Expect, expect};

    use super::*;
    use crate::time::EventTime;
    use crate::vocabulary::Partition;

    /// Windows of 60 s, references of 2, correctable for 120 s; times are printed in minutes.
    ///
    /// One line an epoch: `+series/window:reference/current/psi` and the same with `-`; `W seconds` is the watermark.
    fn check(script: &str, expect: Expect) {
        let calendar = Calendar::new(EventSpan::from_seconds(60), 2);
        let mut publisher = Publisher::new(calendar, EventSpan::from_seconds(120), AuditSpec::default());
        let mut printed = String::new();
        for epoch in script.trim().lines().map(str::trim) {
            let (mut changes, mut ticks) = (Vec::new(), Vec::new());
            for word in epoch.split_whitespace() {
                match word.strip_prefix('W') {
                    Some(at) => ticks.push(tick(at)),
                    None => changes.push(change(word)),
                }
            }
            writeln!(printed, "{epoch}").unwrap();
            for published in publisher.advance(changes, &ticks) {
                print(&mut printed, &published);
            }
        }
        expect.assert_eq(&printed);
    }

    fn tick(at: &str) -> Tick {
        let watermark = EventTime::from_micros(at.parse::<i64>().unwrap() * 1_000_000);
        Tick { partition: Partition::default(), watermark, idle: false }
    }

    fn change(word: &str) -> Change {
        let (key, value) = word[1..].split_once(':').unwrap();
        let (series, window) = key.split_once('/').unwrap();
        let values: Vec<&str> = value.split('/').collect();
        let comparison = Comparison {
            reference_count: values[0].parse().unwrap(),
            current_count: values[1].parse().unwrap(),
            psi: values.get(2).map(|psi| psi.parse::<f64>().unwrap().into()),
            jensen_shannon: values.get(2).map(|psi| (psi.parse::<f64>().unwrap() / 2.0).into()),
        };
        let diff = if word.starts_with('+') { 1 } else { -1 };
        ((Series(series.parse().unwrap()), Window(window.parse().unwrap()), comparison), diff)
    }

    fn print(into: &mut String, Published { shift, newest }: &Published) {
        let minutes = |at: EventTime| at.micros() / 60_000_000;
        writeln!(
            into,
            "    {} {} [{}, {}) n={} vs [{}, {}) n={} psi={:?} js={:?} {}{}",
            shift.feature,
            shift.group,
            minutes(shift.current.0),
            minutes(shift.current.1),
            shift.current_count,
            minutes(shift.reference.0),
            minutes(shift.reference.1),
            shift.reference_count,
            shift.psi,
            shift.jensen_shannon,
            shift.verdict,
            if *newest { " newest" } else { "" },
        )
        .unwrap();
    }

    #[test]
    fn rows_ascend_and_carry_both_windows() {
        check(
            "W240 +5/3:9/8/0.3 +0/3:9/8/0.1 +0/2:7/6 +39/2:1/1/0.0",
            expect![[r#"
                W240 +5/3:9/8/0.3 +0/3:9/8/0.1 +0/2:7/6 +39/2:1/1/0.0
                    systolic all [2, 3) n=6 vs [0, 2) n=7 psi=None js=None insufficient newest
                    pulse_pressure age=80+ [2, 3) n=1 vs [0, 2) n=1 psi=Some(0.0) js=Some(0.0) none newest
                    systolic all [3, 4) n=8 vs [1, 3) n=9 psi=Some(0.1) js=Some(0.05) watch newest
                    diastolic sex=female [3, 4) n=8 vs [1, 3) n=9 psi=Some(0.3) js=Some(0.15) act newest
            "#]],
        );
    }

    #[test]
    fn a_changed_comparison_is_one_row_and_not_the_newest_if_it_is_not() {
        check(
            "W240 +0/2:7/6 +0/3:9/8
             -0/2:7/6 +0/2:7/5",
            expect![[r#"
                W240 +0/2:7/6 +0/3:9/8
                    systolic all [2, 3) n=6 vs [0, 2) n=7 psi=None js=None insufficient newest
                    systolic all [3, 4) n=8 vs [1, 3) n=9 psi=None js=None insufficient newest
                -0/2:7/6 +0/2:7/5
                    systolic all [2, 3) n=5 vs [0, 2) n=7 psi=None js=None insufficient
            "#]],
        );
    }

    #[test]
    fn a_window_that_lost_its_readings_is_published_once_more() {
        check(
            "W240 +0/2:7/6 +0/3:0/8
             -0/2:7/6 +0/2:7/0
             -0/3:0/8",
            expect![[r#"
                W240 +0/2:7/6 +0/3:0/8
                    systolic all [2, 3) n=6 vs [0, 2) n=7 psi=None js=None insufficient newest
                    systolic all [3, 4) n=8 vs [1, 3) n=0 psi=None js=None insufficient newest
                -0/2:7/6 +0/2:7/0
                    systolic all [2, 3) n=0 vs [0, 2) n=7 psi=None js=None insufficient
                -0/3:0/8
                    systolic all [3, 4) n=0 vs [1, 3) n=0 psi=None js=None insufficient newest
            "#]],
        );
    }

    #[test]
    fn a_window_that_never_had_readings_is_not_published() {
        check(
            "W240 +0/4:7/0 +0/2:7/0",
            expect![[r#"
            W240 +0/4:7/0 +0/2:7/0
        "#]],
        );
    }

    /// Window 2 ends at 180 s and is frozen at 300 s, from the next epoch on.
    #[test]
    fn a_frozen_window_is_silent() {
        check(
            "W299 +0/2:7/6
             W300 -0/2:7/6 +0/2:7/5
             -0/2:7/5 +0/2:7/4 +0/3:9/8
             -0/2:7/4",
            expect![[r#"
                W299 +0/2:7/6
                    systolic all [2, 3) n=6 vs [0, 2) n=7 psi=None js=None insufficient newest
                W300 -0/2:7/6 +0/2:7/5
                    systolic all [2, 3) n=5 vs [0, 2) n=7 psi=None js=None insufficient newest
                -0/2:7/5 +0/2:7/4 +0/3:9/8
                    systolic all [3, 4) n=8 vs [1, 3) n=9 psi=None js=None insufficient newest
                -0/2:7/4
            "#]],
        );
    }
}
