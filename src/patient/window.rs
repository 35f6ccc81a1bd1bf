//! Windows of event time: which ones a time lies in, which are still open, and what the readings in one amount to.
//!
//! Invariants:
//!
//! 1. A window is `[start, start + window)`, its start a multiple of `hop` from the Unix epoch.
//! 2. A window is closed once the combined watermark has reached its end; only then is it emitted, and again in every epoch that changes it.
//! 3. Aggregates are sums in the order of (event time, observation): arrival cannot show in their last bit.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::Settings;
use super::contributions::{Contributions, Version};
use crate::time::{EventSpan, EventTime};
use crate::vocabulary::{Aggregate, Pseudonym, WindowRow};

const MICROS_PER_HOUR: f64 = 3.6e9;

/// How windows lie in time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub(super) window: EventSpan,
    pub(super) hop: EventSpan,
}

impl Grid {
    /// The ends of the windows that `at` lies in, ascending: `window / hop` of them.
    fn ends(self, at: EventTime) -> impl Iterator<Item = EventTime> {
        let first = at.floor_to(self.hop);
        let windows = self.window.micros() / self.hop.micros();
        (1..=windows).map(move |number| first + EventSpan::from_micros(number * self.hop.micros()))
    }

    /// True if `at` lies in the window that ends at `end`.
    fn holds(self, end: EventTime, at: EventTime) -> bool {
        end - self.window <= at && at < end
    }
}

/// What an input changes in the windows of its patient.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    /// Something measured then is taken out.
    pub(super) before: Option<EventTime>,
    /// Something measured then is put in.
    pub(super) after: Option<EventTime>,
    /// It counts as a revision: late, or a correction.
    pub(super) revised: bool,
}

/// One patient's bookkeeping; empty for a patient without open or revised windows.
#[derive(Debug, Default)]
pub(super) struct Windows {
    /// Ends of windows that wait in [`Closings`], ascending; those behind the watermark are leftovers.
    ///
    /// In place while there are one or two, as nearly always: every reading looks here, and another cache line costs more than the comparison.
    pub(super) open: SmallVec<[EventTime; 2]>,
    /// Ends of windows that were revised, ascending, and how often.
    pub(super) revisions: Box<[(EventTime, u32)]>,
}

impl Windows {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.revisions.is_empty()
    }

    fn revision(&self, end: EventTime) -> u32 {
        self.revisions.binary_search_by_key(&end, |(end, _)| *end).map_or(0, |place| self.revisions[place].1)
    }

    fn revise(&mut self, end: EventTime) {
        match self.revisions.binary_search_by_key(&end, |(end, _)| *end) {
            Ok(place) => self.revisions[place].1 += 1,
            Err(place) => {
                let mut revisions = std::mem::take(&mut self.revisions).into_vec();
                revisions.insert(place, (end, 1));
                self.revisions = revisions.into_boxed_slice();
            }
        }
    }

    /// True if the window was not known to be open.
    fn open(&mut self, end: EventTime) -> bool {
        match self.open.last() {
            Some(last) if *last == end => return false,
            Some(last) if *last > end => match self.open.binary_search(&end) {
                Ok(_) => return false,
                Err(place) => self.open.insert(place, end),
            },
            _ => self.open.push(end),
        }
        true
    }

    /// Drops what has closed, and the revisions of windows that can change no more; lazily, as contributions are.
    pub(super) fn forget(&mut self, watermark: EventTime, until: EventTime) {
        if self.open.get(self.open.len() / 2).is_some_and(|end| *end <= watermark) {
            let closed = self.open.partition_point(|end| *end <= watermark);
            self.open.drain(..closed);
            if self.open.spilled() && self.open.capacity() > 4 * self.open.len() {
                self.open.shrink_to_fit();
            }
        }
        if self.revisions.get(self.revisions.len() / 2).is_some_and(|(end, _)| *end <= until) {
            let settled = self.revisions.partition_point(|(end, _)| *end <= until);
            self.revisions = self.revisions[settled..].into();
        }
    }
}

/// A patient, as windows name one: who, and where on this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whose {
    pub(super) patient: Pseudonym,
    pub(super) index: u32,
}

/// The windows of all patients that wait for the watermark, or have changed behind it.
#[derive(Debug, Default)]
pub(super) struct Closings {
    /// By end; each patient once a window.
    pending: BTreeMap<EventTime, Vec<Whose>>,
    /// Closed windows that changed in this epoch; repetitions are removed when they are taken.
    changed: Vec<(EventTime, Whose)>,
}

impl Closings {
    /// Notes what changes: windows behind the watermark are to be emitted again, the others when they close.
    pub(super) fn change(
        &mut self,
        whose: Whose,
        windows: &mut Windows,
        grid: Grid,
        change: Change,
        watermark: EventTime,
    ) {
        let after = change.after.into_iter().flat_map(|at| grid.ends(at));
        let before = change.before.into_iter().flat_map(|at| grid.ends(at));
        // What is taken out of a window and put into the same changes it once.
        let only_before = before.filter(|end| change.after.is_none_or(|at| !grid.holds(*end, at)));
        for end in after.chain(only_before) {
            if change.revised {
                windows.revise(end);
            }
            if end <= watermark {
                self.changed.push((end, whose));
            } else if windows.open(end) {
                self.pending.entry(end).or_default().push(whose);
            }
        }
    }

    /// Notes a window that waits already, by what was saved.
    pub(super) fn wait(&mut self, end: EventTime, whose: Whose) {
        self.pending.entry(end).or_default().push(whose);
    }

    /// Takes every window to emit now that the watermark has come so far: once each, ascending by (end, patient).
    pub(super) fn take(&mut self, watermark: EventTime) -> Vec<(EventTime, Whose)> {
        while let Some(first) = self.pending.first_entry().filter(|first| *first.key() <= watermark) {
            let (end, patients) = first.remove_entry();
            self.changed.extend(patients.into_iter().map(|whose| (end, whose)));
        }
        let mut due = std::mem::take(&mut self.changed);
        due.sort_unstable_by_key(|(end, whose)| (*end, u128::from_be_bytes(whose.patient.0)));
        due.dedup();
        due
    }

    /// Gives back the memory of what was taken.
    pub(super) fn recycle(&mut self, mut taken: Vec<(EventTime, Whose)>) {
        taken.clear();
        self.changed = taken;
    }
}

/// The row of one window as it stands.
pub(super) fn row(
    patient: Pseudonym,
    end: EventTime,
    contributions: &Contributions,
    windows: &Windows,
    settings: &Settings,
) -> WindowRow {
    let start = end - settings.grid.window;
    let stride = settings.signals.len();
    let places: SmallVec<[usize; 32]> =
        contributions.between(start, end).filter(|place| contributions.get(*place).is(Version::IN_WINDOWS)).collect();
    let column = |column: usize| {
        places.iter().filter_map(move |place| {
            let value = contributions.values(*place, stride)[column];
            (!value.is_nan()).then(|| (contributions.get(*place).at, value))
        })
    };
    let (above_seconds, below_seconds) = match settings.systolic_column {
        Some(systolic) => standing_seconds(column(systolic), end, settings.high_mmhg, settings.low_mmhg),
        None => (0.0, 0.0),
    };
    WindowRow {
        patient,
        start,
        end,
        aggregates: (0..stride).map(|number| aggregate(column(number), start)).collect(),
        above_seconds,
        below_seconds,
        revision: windows.revision(end),
    }
}

/// Seconds at or above `high` and below `low`: each value stands from its time until the next one's, the last until `end`.
/// A value from before the window does not reach into it.
fn standing_seconds(values: impl Iterator<Item = (EventTime, f64)>, end: EventTime, high: f64, low: f64) -> (f64, f64) {
    let (mut above, mut below) = (EventSpan::ZERO.micros(), EventSpan::ZERO.micros());
    let mut values = values.peekable();
    while let Some((at, value)) = values.next() {
        let until = values.peek().map_or(end, |(next, _)| *next);
        let micros = (until - at).micros();
        above += if value >= high { micros } else { 0 };
        below += if value < low { micros } else { 0 };
    }
    (EventSpan::from_micros(above).seconds(), EventSpan::from_micros(below).seconds())
}

/// The aggregate of one signal; `None` without a value. Two passes: the one-pass formula of the variance loses digits.
fn aggregate(values: impl Iterator<Item = (EventTime, f64)> + Clone, start: EventTime) -> Option<Aggregate> {
    let hours = |at: EventTime| (at - start).micros() as f64 / MICROS_PER_HOUR;
    let (first_at, first) = values.clone().next()?;
    let (mut count, mut sum, mut sum_hours) = (0_u32, 0.0, 0.0);
    let (mut min, mut max, mut last, mut last_at) = (first, first, first, first_at);
    for (at, value) in values.clone() {
        count += 1;
        sum += value;
        sum_hours += hours(at);
        min = value.min(min);
        max = value.max(max);
        (last, last_at) = (value, at);
    }
    let readings = f64::from(count);
    let (mean, mean_hours) = (sum / readings, sum_hours / readings);
    let (mut squares, mut across, mut along) = (0.0, 0.0, 0.0);
    if count > 1 {
        for (at, value) in values {
            let (rise, run) = (value - mean, hours(at) - mean_hours);
            squares += rise * rise;
            across += rise * run;
            along += run * run;
        }
    }
    Some(Aggregate {
        count,
        mean,
        min,
        max,
        standard_deviation: if count > 1 { (squares / (readings - 1.0)).sqrt() } else { f64::NAN },
        slope_per_hour: if first_at < last_at { across / along } else { f64::NAN },
        last,
    })
}
