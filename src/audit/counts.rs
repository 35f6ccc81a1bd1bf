//! From readings to the few updates that differential sees: the state machine of one worker.
//!
//! ```text
//! readings, withdrawals ─> tally (this epoch) ─> held ──window closes──> released ──nobody needs it──> negated
//!                                                 └ corrections, a few times a window ┘ └───> updates <───┘
//! ```
//!
//! Invariants:
//!
//! 1. An update is (series, window) with a histogram as its difference; their number depends on series and windows, never on readings.
//! 2. A window's first update comes in the epoch in which the watermark passes its end. What arrives for closed windows is gathered and
//!    let through [`CORRECTIONS_PER_WINDOW`] times a window of event time: a late reading changes `reference_windows + 1` comparisons of
//!    each of its series, which no sink should be told for each of them.
//! 3. What was released is remembered (sparsely), so that a window can be retracted exactly once no comparison that may still change
//!    needs it: when the last window that has it in its reference is frozen. The sum of all updates is then empty again.
//! 4. A contribution to such a forgotten window is dropped and counted. None can come from a reading within `patient.lateness`, which is
//!    less than the horizon, unless its partition idled.
//!
//! Kept per worker: per window between the oldest unforgotten and the newest, 16 bytes per cell that ever counted (at most 1,160).

use std::collections::BTreeMap;

use differential_dataflow::difference::Abelian;

use crate::audit::histogram::{Cells, Histogram};
use crate::audit::series::{Calendar, Contribution, Series, Window};
use crate::audit::tally::Tally;
use crate::audit::watermark::Watermark;
use crate::time::{EventSpan, EventTime};
use crate::vocabulary::{Assessed, Demographics, Facts, Precision, Signals, Tick, Timeliness};

/// How often, in a window's length of event time, corrections of closed windows are let through.
pub const CORRECTIONS_PER_WINDOW: i64 = 12;

/// A change of one series' window.
pub type Update = ((Series, Window), Histogram);

/// Contributions for forgotten windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Readings not counted.
    pub readings: u64,
    /// Withdrawals of what is no longer held.
    pub withdrawals: u64,
}

/// What one worker has counted.
#[derive(Debug)]
pub struct Counts {
    calendar: Calendar,
    horizon: EventSpan,
    watermark: Watermark,
    tally: Tally,
    /// Not told yet: open windows, and corrections of closed ones.
    held: BTreeMap<Window, Cells>,
    /// Told, and not taken back.
    released: BTreeMap<Window, Cells>,
    /// The step of event time, and the first open window, when windows were last let through.
    let_through: (i64, Window),
}

impl Counts {
    /// Nothing counted yet. `horizon` is how long a window can be corrected after it closed.
    pub fn new(calendar: Calendar, horizon: EventSpan) -> Self {
        Counts {
            calendar,
            horizon,
            watermark: Watermark::new(),
            tally: Tally::default(),
            held: BTreeMap::new(),
            released: BTreeMap::new(),
            let_through: (i64::MIN, Window(i64::MIN)),
        }
    }

    /// Applies one epoch; appends updates, for each window and series at most one retraction and one addition.
    pub fn advance<'a>(
        &mut self,
        batches: impl IntoIterator<Item = &'a Assessed>,
        ticks: &[Tick],
        updates: &mut Vec<Update>,
    ) -> Dropped {
        let kept = self.first_kept();
        let mut dropped = Dropped::default();
        for batch in batches {
            self.count(batch, kept, &mut dropped);
        }
        for (window, cells) in self.tally.drain() {
            self.held.entry(window).or_default().add(&cells);
        }
        self.forget(kept, updates);
        self.watermark.advance(ticks);
        self.release(updates);
        dropped
    }

    /// The first window whose counts can still change a comparison that may be published.
    fn first_kept(&self) -> Window {
        let first_live = self.calendar.window_of(self.watermark.frozen(self.horizon));
        self.calendar.reference(first_live).0
    }

    fn count(&mut self, batch: &Assessed, kept: Window, dropped: &mut Dropped) {
        let scorable = &batch.scorable;
        debug_assert_eq!(scorable.readings.len(), scorable.demographics.len(), "patient: demographics of every reading");
        for (reading, demographics) in scorable.readings.iter().zip(&scorable.demographics) {
            let facts = &reading.facts;
            if contributes(facts) && !self.add(facts.at, facts.precision, &facts.signals, demographics, kept, 1) {
                dropped.readings += 1;
            }
        }
        for gone in &scorable.withdrawn {
            if !self.add(gone.at, gone.precision, &gone.signals, &gone.demographics, kept, -1) {
                dropped.withdrawals += 1;
            }
        }
    }

    /// `false` if the window is forgotten.
    fn add(
        &mut self,
        at: EventTime,
        precision: Precision,
        signals: &Signals,
        demographics: &Demographics,
        kept: Window,
        sign: i32,
    ) -> bool {
        if !self.calendar.admits(precision) {
            return true;
        }
        let Some(contribution) = Contribution::of(at, signals, demographics) else { return true };
        let window = self.calendar.window_of(at);
        if window < kept {
            return false;
        }
        self.tally.add(window, &contribution, sign);
        true
    }

    /// Retracts windows before `kept`. Corrections of theirs that are still held can go: nobody will look.
    fn forget(&mut self, kept: Window, updates: &mut Vec<Update>) {
        self.held = self.held.split_off(&kept);
        let live = self.released.split_off(&kept);
        for (window, cells) in std::mem::replace(&mut self.released, live) {
            for (series, mut histogram) in cells.histograms() {
                histogram.negate();
                updates.push(((series, window), histogram));
            }
        }
    }

    /// Lets closed windows through when the watermark has come to another step or window. It alone decides, not what is held here:
    /// all workers must do so in the same epoch.
    fn release(&mut self, updates: &mut Vec<Update>) {
        let reached = self.watermark.reached();
        let step_micros = (self.calendar.width().micros() / CORRECTIONS_PER_WINDOW).max(1);
        let open = self.calendar.window_of(reached);
        let come_to = (reached.micros().div_euclid(step_micros), open);
        if come_to == self.let_through {
            return;
        }
        self.let_through = come_to;
        let still_held = self.held.split_off(&open);
        for (window, cells) in std::mem::replace(&mut self.held, still_held) {
            updates.extend(cells.histograms().map(|(series, histogram)| ((series, window), histogram)));
            self.released.entry(window).or_default().add(&cells);
        }
    }
}

/// Whether a reading is counted at all. Withdrawals were filtered when they were counted: `patient` names what had contributed.
fn contributes(facts: &Facts) -> bool {
    facts.timeliness != Timeliness::TooLate && !facts.summary && !facts.status.withdraws()
}
