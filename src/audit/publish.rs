//! Which comparisons become rows: the state machine behind differential's output.
//!
//! Invariants:
//!
//! 1. A row is emitted when its window has closed with readings in it, and again whenever its comparison changed; at most once an epoch.
//! 2. A window that was published and has lost all its readings is published once more, with a count of 0: no sink keeps a row that no
//!    longer stands. A window that never had readings is not published.
//! 3. A frozen window is not published any more, whatever is retracted below it.
//!
//! 4. A series is of one worker, which routes by its number: that is its block when it is saved, each with a copy of the watermark. An entry
//!    adds windows to those published before, and tells what the gauges show; what the watermark has frozen needs no entry to go.
//!
//! Kept: the keys that were published and can still change, 16 bytes each; those of them that were published since the last save once more.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::audit::compare::{Comparison, Exact};
use crate::audit::owned;
use crate::audit::series::{Calendar, SERIES, Series, Window};
use crate::audit::statistics::verdict;
use crate::config::AuditSpec;
use crate::runtime::survive::{Blocks, Corrupt, Extent, Survive, entries};
use crate::source::Share;
use crate::time::EventSpan;
use crate::vocabulary::Tick;
use crate::vocabulary::findings::{Shift, Side, Statistics};
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

/// What the gauges show of a series: the newest window's statistics.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Newest {
    /// The window.
    pub window: Window,
    /// Its population stability index, if there was one.
    pub psi: Option<Exact>,
    /// Its Jensen–Shannon distance, likewise.
    pub jensen_shannon: Option<Exact>,
}

/// What one worker has published of the series that it owns.
#[derive(Debug)]
pub struct Publisher {
    calendar: Calendar,
    horizon: EventSpan,
    spec: AuditSpec,
    watermark: Watermark,
    published: BTreeSet<(Window, Series)>,
    newest: [Option<Newest>; SERIES],
    share: Share,
    /// What was published since the last save; `None` until there was one.
    unsaved: Option<BTreeSet<(Window, Series)>>,
    /// Whether ticks came since the last save.
    clock_moved: bool,
}

impl Publisher {
    /// Nothing published yet. `share` says which worker this is.
    pub fn new(calendar: Calendar, horizon: EventSpan, spec: AuditSpec, share: Share) -> Self {
        Publisher {
            calendar,
            horizon,
            spec,
            watermark: Watermark::new(),
            published: BTreeSet::new(),
            newest: [None; SERIES],
            share,
            unsaved: None,
            clock_moved: false,
        }
    }

    /// What the gauges show, of every series that has been published here.
    pub fn newest(&self) -> impl Iterator<Item = (Series, Newest)> {
        (0..).map(Series).zip(self.newest).filter_map(|(series, newest)| Some((series, newest?)))
    }

    /// Applies the changes and ticks of one epoch; rows ascending by window, then group, then feature.
    pub fn advance(&mut self, changes: impl IntoIterator<Item = Change>, ticks: &[Tick]) -> Vec<Published> {
        let live = self.calendar.window_of(self.watermark.frozen(self.horizon));
        self.published = self.published.split_off(&(live, Series(0)));
        self.watermark.advance(ticks);
        self.clock_moved |= !ticks.is_empty();
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
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.insert((window, series));
        }
        let shown = &mut self.newest[usize::from(series.0)];
        let newest = shown.is_none_or(|shown| shown.window <= window);
        if newest {
            *shown = Some(Newest { window, psi: comparison.psi, jensen_shannon: comparison.jensen_shannon });
        }
        Some(Published { newest, shift: self.shift(window, series, comparison) })
    }

    fn shift(&self, window: Window, series: Series, comparison: &Comparison) -> Shift {
        let span = |(from, to): (Window, Window)| (self.calendar.start(from), self.calendar.start(to));
        let psi = comparison.psi.map(f64::from);
        let side = |readings| Side { readings, ..Side::default() };
        Shift {
            feature: series.feature(),
            unit: "mmHg",
            group: series.group().to_owned(),
            reference: span(self.calendar.reference(window)),
            current: span((window, Window(window.0.saturating_add(1)))),
            reference_side: side(comparison.reference_count),
            current_side: side(comparison.current_count),
            statistics: Statistics {
                psi,
                jensen_shannon: comparison.jensen_shannon.map(f64::from),
                ..Statistics::default()
            },
            statistic: "psi",
            verdict: verdict(psi, &self.spec),
            ..Shift::default()
        }
    }
}

/// What [`Corrupt`] names.
const WHAT: &str = "block of the published drift";

#[derive(Serialize, Deserialize)]
enum Entry<'a> {
    Clock(Cow<'a, Watermark>),
    /// Published in addition to what older entries say; and what is shown now.
    Series {
        series: Series,
        windows: Vec<Window>,
        newest: Option<Newest>,
    },
}

impl Survive for Publisher {
    fn save(&mut self, extent: Extent, into: &mut Blocks) {
        let unsaved = self.unsaved.replace(BTreeSet::new());
        let clock_moved = std::mem::take(&mut self.clock_moved);
        let changed = (extent == Extent::Changed).then(|| unsaved.expect("the first save of a generation is a base"));
        if changed.is_none() || clock_moved {
            let clock = Entry::Clock(Cow::Borrowed(&self.watermark));
            owned(self.share, SERIES as u64).for_each(|route| into.push(route, &clock));
        }
        let mut by_series: BTreeMap<Series, Vec<Window>> = BTreeMap::new();
        if changed.is_none() {
            // What is shown outlives what is published: that freezes.
            by_series.extend(self.newest().map(|(series, _)| (series, Vec::new())));
        }
        for (window, series) in changed.as_ref().unwrap_or(&self.published) {
            by_series.entry(*series).or_default().push(*window);
        }
        for (series, windows) in by_series {
            let newest = self.newest[usize::from(series.0)];
            into.push(series.0.into(), &Entry::Series { series, windows, newest });
        }
    }

    fn load(&mut self, block: &[u8]) -> Result<(), Corrupt> {
        entries(block, WHAT, |entry| self.take(entry))
    }
}

impl Publisher {
    fn take(&mut self, entry: Entry<'static>) -> Result<(), Corrupt> {
        let corrupt = Corrupt { what: WHAT };
        match entry {
            Entry::Clock(watermark) => self.watermark = watermark.into_owned(),
            Entry::Series { series, windows, newest } => {
                let statistics = newest.iter().flat_map(|newest| [newest.psi, newest.jensen_shannon]);
                if !statistics.flatten().all(|statistic| f64::from(statistic).is_finite()) {
                    return Err(corrupt);
                }
                *self.newest.get_mut(usize::from(series.0)).ok_or(corrupt)? = newest;
                self.published.extend(windows.into_iter().map(|window| (window, series)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use expect_test::{Expect, expect};
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::time::EventTime;
    use crate::vocabulary::Partition;

    const ALONE: Share = Share { worker: 0, workers: 1 };

    /// Windows of 60 s, references of 2, correctable for 120 s; times are printed in minutes.
    ///
    /// One line an epoch: `+series/window:reference/current/psi` and the same with `-`; `W seconds` is the watermark.
    fn check(script: &str, expect: Expect) {
        let mut publisher = publisher(ALONE);
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
            shift.current_side.readings,
            minutes(shift.reference.0),
            minutes(shift.reference.1),
            shift.reference_side.readings,
            shift.statistics.psi,
            shift.statistics.jensen_shannon,
            shift.verdict.name(),
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

    /// Random changes of an epoch; comparisons come and go, watermarks ascend.
    fn random_epoch(rng: &mut ChaCha8Rng, minute: i64) -> (Vec<Change>, Vec<Tick>) {
        let mut changes = BTreeMap::new();
        for _ in 0..rng.random_range(0..6) {
            let (series, window) = (rng.random_range(0..8_u8), rng.random_range(minute - 5..minute));
            let word = format!("+{series}/{window}:{}/{}/0.{}", minute, rng.random_range(0..3), rng.random_range(0..9));
            changes.insert((series, window), change(&word));
        }
        (changes.into_values().collect(), vec![tick(&(minute * 60).to_string())])
    }

    fn publisher(share: Share) -> Publisher {
        let calendar = Calendar::new(EventSpan::from_seconds(60), 2);
        Publisher::new(calendar, EventSpan::from_seconds(120), AuditSpec::default(), share)
    }

    fn save(publisher: &mut Publisher, extent: Extent) -> Blocks {
        let mut blocks = Blocks::default();
        publisher.save(extent, &mut blocks);
        blocks
    }

    /// What worker `share` has after a start.
    fn loaded(checkpoints: &[Blocks], share: Share) -> Publisher {
        let mut publisher = publisher(share);
        for (route, block) in checkpoints.iter().flat_map(Blocks::iter) {
            if route % share.workers as u64 == share.worker as u64 {
                publisher.load(block).unwrap();
            }
        }
        publisher.loaded();
        publisher
    }

    #[test]
    fn loaded_publishers_go_on_with_their_series_as_the_one_that_was_saved() {
        for seed in 0..20 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut running = publisher(ALONE);
            running.advance([], &[tick("-600")]);
            let mut checkpoints = vec![save(&mut running, Extent::All)];
            for minute in 0..20 {
                let (changes, ticks) = random_epoch(&mut rng, minute);
                running.advance(changes, &ticks);
                if rng.random_bool(0.4) {
                    checkpoints.push(save(&mut running, Extent::Changed));
                }
            }
            checkpoints.push(save(&mut running, Extent::Changed));
            let again = save(&mut running, Extent::All);
            assert!(save(&mut running, Extent::Changed).is_empty(), "seed {seed}: nothing changed");
            let mut shared: Vec<Publisher> =
                (0..3).map(|worker| loaded(&checkpoints, Share { worker, workers: 3 })).collect();
            let mut based = loaded(&[again], ALONE);
            for minute in 20..40 {
                let (changes, ticks) = random_epoch(&mut rng, minute);
                let expected = running.advance(changes.clone(), &ticks);
                assert_eq!(based.advance(changes.clone(), &ticks), expected, "seed {seed}");
                let mut rows: Vec<Published> = Vec::new();
                for publisher in &mut shared {
                    let worker = publisher.share.worker;
                    let own = changes.iter().filter(|((series, _, _), _)| usize::from(series.0) % 3 == worker);
                    rows.extend(publisher.advance(own.cloned(), &ticks));
                }
                let order = |Published { shift, .. }: &Published| (shift.current, shift.group.clone(), shift.feature);
                let mut expected = expected;
                expected.sort_by_key(order);
                rows.sort_by_key(order);
                assert_eq!(rows, expected, "seed {seed}");
            }
        }
    }

    #[test]
    fn a_mutilated_block_is_refused_or_another_state_and_never_a_panic() {
        let mut running = publisher(ALONE);
        let mut rng = ChaCha8Rng::seed_from_u64(30);
        for minute in 0..10 {
            let (changes, ticks) = random_epoch(&mut rng, minute);
            running.advance(changes, &ticks);
        }
        let blocks = save(&mut running, Extent::All);
        let block = blocks.iter().next().unwrap().1;
        for _ in 0..3_000 {
            let mut block = block.to_vec();
            block.truncate(rng.random_range(1..=block.len()));
            for _ in 0..rng.random_range(0..4) {
                let at = rng.random_range(0..block.len());
                block[at] = rng.random();
            }
            let mut publisher = publisher(ALONE);
            if publisher.load(&block).is_ok() {
                publisher.loaded();
                publisher.advance([], &[tick("900")]);
            }
        }
        let refused = |entry: Entry<'_>| {
            let mut blocks = Blocks::default();
            blocks.push(0, &entry);
            publisher(ALONE).load(blocks.iter().next().unwrap().1) == Err(Corrupt { what: WHAT })
        };
        assert!(refused(Entry::Series { series: Series(SERIES as u8), windows: Vec::new(), newest: None }));
        let newest = Newest { window: Window(1), psi: Some(f64::NAN.into()), jensen_shannon: None };
        assert!(refused(Entry::Series { series: Series(0), windows: Vec::new(), newest: Some(newest) }));
    }
}
