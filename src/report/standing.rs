//! What stands: of each finding the row with the highest epoch, of the newest windows.

use std::collections::BTreeMap;

use super::rows::Row;
use crate::time::EventTime;
use crate::vocabulary::findings::{Span, Verdict};

/// Rows of one table that are kept: 1,000 windows of 100 series. Beyond, the oldest windows are left out, and the report says so.
pub(super) const ROWS_MAX: usize = 100_000;

/// Windows in the order of their ends, then of their starts.
type Order = (EventTime, EventTime);

fn order((start, end): Span) -> Order {
    (end, start)
}

/// Takes rows in any order.
#[derive(Debug)]
pub(super) struct Standing<R: Row> {
    windows: BTreeMap<Order, BTreeMap<R::Key, R>>,
    rows: usize,
    rows_max: usize,
    left_out: Option<Order>,
}

impl<R: Row> Default for Standing<R> {
    fn default() -> Self {
        Standing { windows: BTreeMap::new(), rows: 0, rows_max: ROWS_MAX, left_out: None }
    }
}

impl<R: Row> Standing<R> {
    /// A row of the finding with the highest epoch so far takes its place. Of equal epochs the later one does.
    pub(super) fn insert(&mut self, row: R) {
        let window = order(row.window());
        if Some(window) <= self.left_out {
            return;
        }
        let rows = self.windows.entry(window).or_default();
        match rows.get_mut(&row.key()) {
            Some(standing) if standing.epoch() > row.epoch() => {}
            Some(standing) => *standing = row,
            None => {
                rows.insert(row.key(), row);
                self.rows += 1;
            }
        }
        // The newest window stays, however many rows it has.
        while self.rows > self.rows_max && self.windows.len() > 1 {
            let Some((window, rows)) = self.windows.pop_first() else { break };
            self.rows -= rows.len();
            self.left_out = Some(window);
        }
    }

    /// True without any row.
    pub(super) fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// The start of the oldest window that is kept, if older ones were left out.
    pub(super) fn cut_at(&self) -> Option<EventTime> {
        self.left_out?;
        self.windows.keys().next().map(|(_, start)| *start)
    }

    /// The window to look at closely: the newest of which anything can be said, else the newest.
    ///
    /// The last window of a run that has ended, or of outcomes that are still to come, has too little for a verdict.
    pub(super) fn detail(&self) -> Option<Span> {
        let says = |rows: &BTreeMap<R::Key, R>| rows.values().any(|row| row.verdict() != Verdict::Insufficient);
        let found = self.windows.iter().rev().find(|(_, rows)| says(rows)).or(self.windows.iter().next_back());
        found.map(|((end, start), _)| (*start, *end))
    }

    /// The newest window.
    pub(super) fn newest(&self) -> Option<Span> {
        self.windows.keys().next_back().map(|(end, start)| (*start, *end))
    }

    /// How many windows there are.
    pub(super) fn windows(&self) -> usize {
        self.windows.len()
    }

    /// The rows of a window, by their keys.
    pub(super) fn of(&self, window: Span) -> impl Iterator<Item = &R> {
        self.windows.get(&order(window)).into_iter().flat_map(BTreeMap::values)
    }

    /// All rows, windows ascending.
    pub(super) fn all(&self) -> impl DoubleEndedIterator<Item = &R> {
        self.windows.values().flat_map(BTreeMap::values)
    }

    /// The rows of one finding in all windows, ascending.
    pub(super) fn history(&self, key: &R::Key) -> impl DoubleEndedIterator<Item = &R> {
        self.windows.values().filter_map(|rows| rows.get(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::rows::Alert;

    fn alert(window: i64, feature: &str, epoch: i64) -> Alert {
        let at = |hour: i64| EventTime::from_micros(hour * 3_600_000_000);
        Alert { feature: feature.into(), current: (at(window), at(window + 1)), epoch, ..Alert::default() }
    }

    fn epochs(standing: &Standing<Alert>) -> Vec<i64> {
        standing.all().map(|row| row.epoch).collect()
    }

    #[test]
    fn the_row_with_the_highest_epoch_stands_in_whatever_order_they_come() {
        for rows in [[3, 7, 5], [7, 3, 5], [5, 3, 7]] {
            let mut standing = Standing::default();
            rows.into_iter().for_each(|epoch| standing.insert(alert(0, "a", epoch)));
            standing.insert(alert(0, "b", 1));
            assert_eq!(epochs(&standing), [7, 1]);
        }
    }

    #[test]
    fn beyond_the_limit_the_oldest_windows_are_left_out_whatever_the_order() {
        for order in [[1, 2, 3, 4], [4, 3, 2, 1], [2, 4, 1, 3]] {
            let mut standing = Standing { rows_max: 4, ..Standing::default() };
            for window in order {
                standing.insert(alert(window, "a", window));
                standing.insert(alert(window, "b", window));
            }
            assert_eq!(epochs(&standing), [3, 3, 4, 4], "{order:?}");
            assert_eq!(standing.cut_at(), Some(EventTime::from_micros(3 * 3_600_000_000)));
        }
        let mut standing = Standing { rows_max: 2, ..Standing::default() };
        ["a", "b", "c"].into_iter().for_each(|feature| standing.insert(alert(0, feature, 0)));
        assert_eq!((epochs(&standing).len(), standing.cut_at()), (3, None));
    }
}
