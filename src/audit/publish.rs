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
use crate::audit::watermark::Watermark;
use crate::config::AuditSpec;
use crate::time::EventSpan;
use crate::vocabulary::{Shift, Tick};

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
        live.into_iter().filter_map(|((window, series), comparison)| self.publish(window, series, &comparison)).collect()
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
