//! What is found becomes rows: the state machine behind differential's output.
//!
//! Invariants:
//!
//! 1. A row is emitted when its window has closed with readings in it, and again whenever what was found changed; at most once an epoch.
//! 2. A window that was published and has lost all its readings is published once more, with a count of 0: no sink keeps a row that no
//!    longer stands. A window that never had readings is not published.
//! 3. A frozen window is not published any more, whatever is retracted below it.
//! 4. A series is of one worker, which routes by its subject: that is its block when it is saved. The watermark is saved for every worker. An entry
//!    adds windows to those published before, and tells what the gauges show; what the watermark has frozen needs no entry to go.
//! 5. A window waits until it has closed: where windows overlap, its first panes are told before. What waits is not saved: the put-back tells it again.
//! 6. What is said of alerts ([`alerts`](super::alerts)) follows from the rows published so far; frozen windows are summed up as a [`Run`].
//!
//! Kept: of every window that was published and can still change what was said of it, some 48 bytes.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::audit::alerts::{By, News, Run, Said, review};
use crate::audit::compare::Comparison;
use crate::audit::found::{Fared, Found, Performed};
use crate::audit::judge::Statistic;
use crate::audit::quality::{self, Rates};
use crate::audit::series::{ATTRIBUTES, Calendar, GROUPS, Kind, Pane, SERIES, Series};
use crate::audit::{owned, subject_route};
use crate::runtime::survive::{Blocks, Corrupt, Extent, KEY_GROUPS, Route, Survive, entries};
use crate::source::Share;
use crate::time::EventSpan;
use crate::vocabulary::Tick;
use crate::vocabulary::findings::{Alert, Fairness, Finding, Part, Performance, Quality, Shift, Span};
use crate::vocabulary::flaws::MEASURES;
use crate::watermark::Watermark;

/// A change of what is found: it appears (+1) or stands no longer (−1).
pub type Change = ((Series, Pane, Found), isize);

/// A row, and what the gauges show because of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// The row.
    pub finding: Finding,
    /// What the gauges show from now on, and of which series, if it is the newest window of that.
    pub newest: Option<(Series, Newest)>,
}

/// What the gauges show of a series: the newest window's statistics; of data quality the share with the flaw, in the first place.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Newest {
    /// The window.
    pub window: Pane,
    /// Its statistics, in the order of [`SHOWN`]; `None` where there was none.
    pub statistics: [Option<f64>; SHOWN.len()],
}

/// The statistics that the gauges show.
pub const SHOWN: [Statistic; 4] =
    [Statistic::Psi, Statistic::JensenShannon, Statistic::KolmogorovSmirnov, Statistic::Wasserstein];

/// One series, apart from its windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Course {
    newest: Option<Newest>,
    /// Where it stood before the window `until`.
    run: Run,
    until: Option<Pane>,
    /// Whether an alert stands after its newest window.
    alert: bool,
}

/// What one worker has published of the series that it owns.
#[derive(Debug)]
pub struct Publisher {
    calendar: Calendar,
    horizon: EventSpan,
    alert_windows: u32,
    /// The span of the reference, if it is always the same.
    profiled: Option<Span>,
    watermark: Watermark,
    published: BTreeMap<(Series, Pane), Said>,
    /// What was found of windows that have not closed: their panes may have.
    waiting: BTreeMap<(Pane, Series), Found>,
    courses: BTreeMap<Series, Course>,
    share: Share,
    /// What was published since the last save; `None` until there was one.
    unsaved: Option<BTreeSet<(Series, Pane)>>,
    /// Whether ticks came since the last save.
    clock_moved: bool,
}

impl Publisher {
    /// Nothing published yet. `share` says which worker this is; `alert_windows` how long a verdict must hold.
    pub fn new(calendar: Calendar, horizon: EventSpan, share: Share, alert_windows: u32) -> Self {
        Publisher {
            calendar,
            horizon,
            alert_windows,
            profiled: None,
            watermark: Watermark::new(),
            published: BTreeMap::new(),
            waiting: BTreeMap::new(),
            courses: BTreeMap::new(),
            share,
            unsaved: None,
            clock_moved: false,
        }
    }

    /// The same, where every window is compared with a profile of this span.
    #[must_use]
    pub fn profiled(self, profiled: Option<Span>) -> Self {
        Publisher { profiled, ..self }
    }

    /// The span that a window is compared with.
    fn reference(&self, window: Pane) -> Span {
        self.profiled.unwrap_or_else(|| self.calendar.span(self.calendar.reference(window)))
    }

    /// What the gauges show, of every series that has been published here.
    pub fn newest(&self) -> impl Iterator<Item = (Series, Newest)> {
        self.courses.iter().filter_map(|(series, course)| Some((*series, course.newest?)))
    }

    /// Of every series that has been published here, whether an alert stands.
    pub fn alerts(&self) -> impl Iterator<Item = (Series, bool)> {
        self.courses.iter().map(|(series, course)| (*series, course.alert))
    }

    /// Applies the changes and ticks of one epoch. Rows ascend by window, then series; alerts come last, by series and window.
    pub fn advance(&mut self, changes: impl IntoIterator<Item = Change>, ticks: &[Tick]) -> Vec<Published> {
        let live = self.calendar.pane_of(self.watermark.frozen(self.horizon));
        self.freeze(live);
        self.watermark.advance(ticks);
        self.clock_moved |= !ticks.is_empty();
        self.hold(changes);
        let open = self.calendar.pane_of(self.watermark.reached());
        let still_open = self.waiting.split_off(&(open, Series(0)));
        let closed = std::mem::replace(&mut self.waiting, still_open).split_off(&(live, Series(0)));
        let mut touched = BTreeSet::new();
        let mut rows = Vec::new();
        for ((window, series), found) in closed {
            if let Some(published) = self.publish(window, series, &found) {
                touched.insert(series);
                rows.push(published);
            }
        }
        for series in touched {
            self.tell(series, &mut rows);
        }
        rows
    }

    /// Takes in what differential makes of the put-back: what has closed was published before, what is open waits.
    pub fn put_back(&mut self, changes: impl IntoIterator<Item = Change>) {
        self.hold(changes);
        let open = self.calendar.pane_of(self.watermark.reached());
        self.waiting = self.waiting.split_off(&(open, Series(0)));
        // At the end of all input windows close that are open again after a start.
        self.waiting.retain(|(window, series), _| !self.published.contains_key(&(*series, *window)));
    }

    fn hold(&mut self, changes: impl IntoIterator<Item = Change>) {
        let mut standing: BTreeMap<(Pane, Series), Option<Found>> = BTreeMap::new();
        for ((series, window, found), diff) in changes {
            debug_assert!(diff.abs() == 1, "audit: reduce finds one thing of a series and window");
            let now = standing.entry((window, series)).or_default();
            if diff > 0 {
                *now = Some(found);
            }
        }
        // Only retracted, nothing stands: the window has no readings.
        let standing = standing.into_iter();
        let or_nothing = |(key, found): ((Pane, Series), Option<Found>)| {
            (key, found.unwrap_or_else(|| Found::nothing(key.1.kind())))
        };
        self.waiting.extend(standing.map(or_nothing));
    }

    /// Sums up windows before `live`, of which nothing more is said.
    fn freeze(&mut self, live: Pane) {
        let mut gone = Vec::new();
        for (series, course) in &mut self.courses {
            let start = course.until.unwrap_or(Pane(i64::MIN));
            for (key, said) in self.published.range((*series, Pane(i64::MIN))..(*series, live)) {
                if key.1 >= start {
                    course.run.step(said.verdict, self.alert_windows);
                }
                gone.push(*key);
            }
            course.until = course.until.max(Some(live));
        }
        for key in gone {
            self.published.remove(&key);
        }
    }

    fn publish(&mut self, window: Pane, series: Series, found: &Found) -> Option<Published> {
        let before = self.published.get(&(series, window)).copied();
        if found.readings() == 0 && before.is_none() {
            return None;
        }
        let said = Said { state: before.and_then(|said| said.state), ..said_of(found) };
        self.published.insert((series, window), said);
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.insert((series, window));
        }
        let course = self.courses.entry(series).or_default();
        let newest = match found {
            Found::Shift(comparison) if course.newest.is_none_or(|shown| shown.window <= window) => {
                Some(Newest { window, statistics: SHOWN.map(|statistic| comparison.statistic(statistic)) })
            }
            Found::Quality(_) if course.newest.is_none_or(|shown| shown.window <= window) => {
                let mut statistics = [None; SHOWN.len()];
                statistics[0] = said.value;
                Some(Newest { window, statistics })
            }
            _ => None,
        };
        course.newest = newest.or(course.newest);
        let newest = newest.map(|newest| (series, newest));
        Some(Published { newest, finding: self.finding(window, series, found) })
    }

    /// Reviews a series, and says what is new of its alerts.
    fn tell(&mut self, series: Series, rows: &mut Vec<Published>) {
        let course = self.courses.entry(series).or_default();
        let mut news = Vec::new();
        let start = course.until.unwrap_or(Pane(i64::MIN));
        let windows = self.published.range_mut((series, start)..=(series, Pane(i64::MAX)));
        let run = review(course.run, windows.map(|((_, window), said)| (*window, said)), self.alert_windows, &mut news);
        course.alert = run.alert;
        for News { window, state, held } in news {
            if let Some(unsaved) = &mut self.unsaved {
                unsaved.insert((series, window));
            }
            let said = self.published[&(series, window)];
            let (table, feature) = about(series);
            let alert = Alert {
                table,
                feature,
                group: part(series),
                current: self.calendar.span(self.calendar.current(window)),
                statistic: said.statistic.name(),
                value: said.value,
                windows_held: held,
                state,
            };
            rows.push(Published { finding: Finding::Alert(alert), newest: None });
        }
    }

    fn finding(&self, window: Pane, series: Series, found: &Found) -> Finding {
        match found {
            Found::Shift(comparison) => Finding::Shift(self.shift(window, series, comparison)),
            Found::Performance(packed) => Finding::Performance(self.performance(window, series, packed.open())),
            Found::Fairness(packed) => Finding::Fairness(self.fairness(window, series, packed.open())),
            Found::Quality(packed) => Finding::Quality(self.quality(window, series, packed.open())),
        }
    }

    fn shift(&self, window: Pane, series: Series, comparison: &Comparison) -> Shift {
        let feature = series.kind().feature().expect("only features drift");
        Shift {
            feature: feature.name,
            unit: feature.unit,
            group: series.group().to_owned(),
            reference: self.reference(window),
            current: self.calendar.span(self.calendar.current(window)),
            reference_side: comparison.reference.side(),
            current_side: comparison.current.side(),
            bin_edges: feature.grid.edges(),
            statistics: comparison.statistics(),
            statistic: comparison.decided_by.name(),
            verdict: comparison.verdict,
        }
    }

    fn performance(&self, window: Pane, series: Series, figures: Performed) -> Performance {
        let days = self.calendar.window().seconds() / 86_400.0;
        let patient_days = figures.patients.map(|patients| patients as f64 * days);
        Performance {
            group: series.group(),
            reference: self.reference(window),
            current: self.calendar.span(self.calendar.current(window)),
            readings: figures.readings,
            patients: figures.patients,
            scored: figures.scored,
            labelled: figures.labelled,
            positives: figures.positives,
            selected: figures.selected,
            alarms: figures.alarms,
            patient_days,
            alarms_per_patient_day: patient_days.filter(|days| *days > 0.0).map(|days| figures.alarms as f64 / days),
            score_mean: figures.score_mean,
            observed_rate: figures.observed_rate,
            measured: figures.measured,
            reference_measured: figures.reference_measured,
            estimated: figures.estimated,
            verdict: figures.verdict,
        }
    }

    fn quality(&self, window: Pane, series: Series, rates: Rates) -> Quality {
        let Kind::Quality(slot, measure) = series.kind() else { unreachable!("only inputs have a quality") };
        Quality {
            topic: quality::topic(slot),
            measure: MEASURES[measure],
            reference: self.calendar.span(self.calendar.reference(window)),
            current: self.calendar.span(self.calendar.current(window)),
            reference_counts: rates.reference,
            current_counts: rates.current,
            verdict: rates.verdict,
        }
    }

    fn fairness(&self, window: Pane, series: Series, figures: Fared) -> Fairness {
        let [selection, tpr, fpr, ppv] = figures.rates;
        Fairness {
            attribute: about(series).1,
            group: series.group(),
            reference_group: GROUPS[usize::from(figures.reference_group)],
            current: self.calendar.span(self.calendar.current(window)),
            readings: figures.readings,
            patients: figures.patients,
            labelled: figures.labelled,
            positives: figures.positives,
            selection,
            tpr,
            fpr,
            ppv,
            score_mean: figures.score_mean,
            observed_rate: figures.observed_rate,
            ece: figures.ece,
            differences: figures.beside.differences,
            ratios: figures.beside.ratios,
            below_four_fifths: figures.beside.below_four_fifths,
            verdict: figures.beside.verdict,
        }
    }
}

/// The table, and the feature or attribute, that a series is published under.
pub fn about(series: Series) -> (&'static str, &'static str) {
    match series.kind() {
        Kind::Measured(_, feature) => ("shifts", feature.name),
        Kind::Probability(_) => ("shifts", "probability"),
        Kind::Fairness(group) => {
            let attribute = ATTRIBUTES.iter().find(|(_, groups)| groups.contains(&group));
            ("fairness", attribute.map_or("all", |(name, _)| *name))
        }
        Kind::Quality(_, measure) => ("quality", MEASURES[measure]),
        Kind::Patients(_) | Kind::Scores(_) => ("performance", "score"),
    }
}

/// The group or topic that a series is about.
pub fn part(series: Series) -> Part {
    match series.kind() {
        Kind::Quality(slot, _) => Part::Topic(quality::topic(slot)),
        _ => Part::Group(series.group()),
    }
}

/// The worker on which the series of an alert is published, modulo the workers; `None` if there is none that is about this.
pub fn route(Alert { table, feature, group, .. }: &Alert) -> Option<Route> {
    let mut all = (0..SERIES as u16).map(Series);
    let named = |series: &Series| about(*series) == (*table, *feature) && part(*series) == *group;
    all.find(named).map(|series| subject_route(series.subject()))
}

/// What is said of a window, apart from alerts.
fn said_of(found: &Found) -> Said {
    let (verdict, statistic, value) = match found {
        Found::Shift(comparison) => {
            let by = comparison.decided_by;
            (comparison.verdict, By::Drift(by), comparison.statistic(by))
        }
        Found::Performance(packed) => {
            let figures: Performed = packed.open();
            (figures.verdict, By::Auroc, figures.measured.auroc)
        }
        Found::Fairness(packed) => {
            let Fared { beside, .. } = packed.open();
            (beside.verdict, By::SelectionRateRatio, beside.ratios[0])
        }
        Found::Quality(packed) => {
            let Rates { current: (inputs, flawed), verdict, .. } = packed.open();
            (verdict, By::Rate, (inputs > 0).then(|| flawed as f64 / inputs as f64))
        }
    };
    Said { verdict, statistic, value, state: None }
}

/// What [`Corrupt`] names.
const WHAT: &str = "block of the published drift";

#[derive(Serialize, Deserialize)]
enum Entry<'a> {
    Clock(Cow<'a, Watermark>),
    /// Published in addition to what older entries say; and how the series stands now.
    Series {
        series: Series,
        windows: Vec<(Pane, Said)>,
        course: Course,
    },
}

impl Survive for Publisher {
    fn save(&mut self, extent: Extent, into: &mut Blocks) {
        let unsaved = self.unsaved.replace(BTreeSet::new());
        let clock_moved = std::mem::take(&mut self.clock_moved);
        let changed = (extent == Extent::Changed).then(|| unsaved.expect("the first save of a generation is a base"));
        if changed.is_none() || clock_moved {
            let clock = Entry::Clock(Cow::Borrowed(&self.watermark));
            owned(self.share, KEY_GROUPS).for_each(|route| into.push(route, &clock));
        }
        let mut by_series: BTreeMap<Series, Vec<(Pane, Said)>> = BTreeMap::new();
        match changed {
            // What has been frozen since needs no entry.
            Some(changed) => changed.iter().for_each(|key @ (series, window)| {
                let windows = by_series.entry(*series).or_default();
                windows.extend(self.published.get(key).map(|said| (*window, *said)));
            }),
            None => {
                // What is shown outlives what is published: that freezes.
                by_series.extend(self.courses.keys().map(|series| (*series, Vec::new())));
                for ((series, window), said) in &self.published {
                    by_series.entry(*series).or_default().push((*window, *said));
                }
            }
        }
        for (series, windows) in by_series {
            let course = self.courses.get(&series).copied().unwrap_or_default();
            into.push(subject_route(series.subject()), &Entry::Series { series, windows, course });
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
            Entry::Series { series, windows, course } => {
                let statistics = course.newest.iter().flat_map(|newest| newest.statistics);
                let values = windows.iter().map(|(_, said)| said.value);
                let sound = statistics.chain(values).flatten().all(f64::is_finite);
                if !sound || usize::from(series.0) >= SERIES {
                    return Err(corrupt);
                }
                self.courses.insert(series, course);
                self.published.extend(windows.into_iter().map(|(window, said)| ((series, window), said)));
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
    use crate::audit::found::Packed;
    use crate::time::EventTime;
    use crate::vocabulary::Partition;
    use crate::vocabulary::findings::Verdict;

    const ALONE: Share = Share { worker: 0, workers: 1 };

    /// Panes of 60 s, references of 2, correctable for 120 s; times are printed in minutes.
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
        let psi = values.get(2).map(|psi| psi.parse::<f64>().unwrap());
        let verdict = match psi {
            None => Verdict::Insufficient,
            Some(psi) if psi < 0.1 => Verdict::None,
            Some(psi) if psi < 0.25 => Verdict::Watch,
            Some(_) => Verdict::Act,
        };
        let comparison = Comparison::sketch(values[0].parse().unwrap(), values[1].parse().unwrap(), psi, verdict);
        let diff = if word.starts_with('+') { 1 } else { -1 };
        ((Series(series.parse().unwrap()), Pane(window.parse().unwrap()), Found::Shift(Box::new(comparison))), diff)
    }

    fn print(into: &mut String, Published { finding, newest }: &Published) {
        let Finding::Shift(shift) = finding else {
            return writeln!(into, "    {finding:?}").unwrap();
        };
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
            if newest.is_some() { " newest" } else { "" },
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

    /// Pane 2 ends at 180 s and is frozen at 300 s, from the next epoch on.
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
        let minute = EventSpan::from_seconds(60);
        Publisher::new(Calendar::new(minute, minute, 2), EventSpan::from_seconds(120), share, 3)
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
                let order = |Published { finding, .. }: &Published| format!("{finding:?}");
                let mut expected = expected;
                expected.sort_by_key(order);
                rows.sort_by_key(order);
                assert_eq!(rows, expected, "seed {seed}");
            }
        }
    }

    #[test]
    fn what_an_alert_is_about_leads_to_the_worker_that_makes_it() {
        let alerted = |series: &Series| !matches!(series.kind(), Kind::Patients(_));
        for series in (0..SERIES as u16).map(Series).filter(alerted) {
            let (table, feature) = about(series);
            let alert = Alert { table, feature, group: part(series), ..Alert::default() };
            assert_eq!(route(&alert), Some(subject_route(series.subject())), "{series:?}");
        }
        let nobody = Alert { table: "shifts", feature: "systolic", group: Part::Group("nobody"), ..Alert::default() };
        assert_eq!(route(&nobody), None);
    }

    /// What a sender puts right was never wrong.
    #[test]
    fn an_alert_about_a_topic_is_taken_back_with_the_flaws_that_it_came_from_and_others_are_not() {
        let found = |slot, window, verdict, diff| {
            let rates = Rates { reference: (90, 0), current: (30, 12), verdict };
            ((Series::quality(slot, 2), Pane(window), Found::Quality(Packed::of(&rates))), diff)
        };
        let mut publisher = publisher(ALONE);
        let mut told = |changes: Vec<Change>, watermark| -> Vec<(i64, Part, &str)> {
            let published = publisher.advance(changes, &[tick(watermark)]);
            let alert = |published: Published| match published.finding {
                Finding::Alert(alert) => Some((alert.current.0.micros() / 60_000_000, alert.group, alert.state.name())),
                _ => None,
            };
            published.into_iter().filter_map(alert).collect()
        };
        let acting = |slot| (0..3).map(move |window| found(slot, window, Verdict::Act, 1));
        let topic = |slot| Part::Topic(quality::topic(slot));
        let raised = told(acting(1).chain(acting(quality::TOPICS_MAX)).collect(), "180");
        assert_eq!(raised, [(2, topic(1), "raised"), (2, Part::Topic(None), "raised")]);
        let corrected = vec![found(1, 1, Verdict::Act, -1), found(1, 1, Verdict::None, 1)];
        assert_eq!(told(corrected, "185"), [(2, topic(1), "withdrawn")]);
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
        let course = Course::default();
        assert!(refused(Entry::Series { series: Series(SERIES as u16), windows: Vec::new(), course }));
        let newest = Newest { window: Pane(1), statistics: [None, None, Some(f64::NAN), None] };
        let course = Course { newest: Some(newest), ..course };
        assert!(refused(Entry::Series { series: Series(0), windows: Vec::new(), course }));
    }
}
