//! Counts of one epoch of one worker: many readings in, few numbers out.
//!
//! An epoch of live data touches one or two windows, so the first few windows of an epoch get a dense array of cells each
//! (4.6 kB; adding to it is the whole cost per reading: some 55 ns for its 12 cells, `--release`, 2-core machine). An epoch of replayed
//! history may touch thousands: beyond [`DENSE_WINDOWS_MAX`] contributions are kept as they are and sorted by window at the end, which
//! takes more time but no more memory than the readings did.

use smallvec::SmallVec;

use crate::audit::histogram::{Cells, Counted};
use crate::audit::series::{CELLS, Cell, Contribution, Window};

/// Windows of one epoch that are counted densely.
pub const DENSE_WINDOWS_MAX: usize = 8;

/// Counts by window and cell, emptied every epoch; its arrays are kept.
#[derive(Debug, Default)]
pub struct Tally {
    dense: Vec<Dense>,
    /// How many of `dense` this epoch uses.
    used: usize,
    /// Which of them the last contribution went to: the next one mostly goes there too.
    last: usize,
    /// What belongs to none of them.
    sparse: Vec<(Window, Contribution, i32)>,
}

#[derive(Debug)]
struct Dense {
    window: Window,
    counts: Box<[i32; CELLS]>,
}

impl Tally {
    /// Counts a contribution (`sign` 1) or takes one back (−1).
    pub fn add(&mut self, window: Window, contribution: Contribution, sign: i32) {
        match self.slot(window) {
            Some(dense) => contribution.cells().for_each(|cell| dense.counts[usize::from(cell.0)] += sign),
            None => self.sparse.push((window, contribution, sign)),
        }
    }

    /// Takes all counts out, ascending by window. A window whose counts cancelled is not among them.
    pub fn drain(&mut self) -> Vec<(Window, Cells)> {
        let dense = self.dense[..self.used].iter_mut().map(|Dense { window, counts }| {
            let counts = counts.iter_mut().enumerate().filter(|(_, count)| **count != 0);
            let counts = counts.map(|(cell, count)| (Cell(cell as u16), i64::from(std::mem::take(count))));
            (*window, Counted::from_ascending(counts.collect()))
        });
        // A window is either dense or sparse: once the arrays are taken, no other window gets one in this epoch.
        self.sparse.sort_unstable_by_key(|(window, _, _)| *window);
        let sparse = self.sparse.chunk_by(|(a, _, _), (b, _, _)| a == b).map(|of_window| {
            let signed = |(_, contribution, sign): &(Window, Contribution, i32)| {
                let sign = i64::from(*sign);
                contribution.cells().map(move |cell| (cell, sign)).collect::<SmallVec<[_; 12]>>()
            };
            (of_window[0].0, Counted::from_counts(of_window.iter().flat_map(signed).collect()))
        });
        let mut windows: Vec<_> = dense.chain(sparse).filter(|(_, cells)| !cells.as_slice().is_empty()).collect();
        windows.sort_unstable_by_key(|(window, _)| *window);
        self.sparse.clear();
        (self.used, self.last) = (0, 0);
        windows
    }

    fn slot(&mut self, window: Window) -> Option<&mut Dense> {
        let is_last = self.dense[..self.used].get(self.last).is_some_and(|dense| dense.window == window);
        if !is_last {
            let known = self.dense[..self.used].iter().position(|dense| dense.window == window);
            self.last = known.or_else(|| self.open(window))?;
        }
        Some(&mut self.dense[self.last])
    }

    fn open(&mut self, window: Window) -> Option<usize> {
        if self.used == DENSE_WINDOWS_MAX {
            return None;
        }
        match self.dense.get_mut(self.used) {
            Some(free) => free.window = window,
            None => self.dense.push(Dense { window, counts: Box::new([0; CELLS]) }),
        }
        self.used += 1;
        Some(self.used - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use smallvec::smallvec;

    use super::*;
    use crate::audit::series::{BINS, Bin, FEATURES, GROUPS};

    fn contribution() -> impl Strategy<Value = Contribution> {
        (prop::array::uniform4(0..BINS as u8), 1..GROUPS.len() as u8).prop_map(|(bins, group)| {
            let bins: [u8; FEATURES.len()] = bins;
            Contribution { bins: bins.map(Bin), groups: smallvec![0, group] }
        })
    }

    proptest! {
        /// Twice as many windows as are counted densely, and a second epoch in the same arrays.
        #[test]
        fn however_it_is_counted_the_counts_are_the_same(
            epochs in prop::collection::vec(prop::collection::vec((0..16i64, contribution(), prop::bool::ANY), 0..60), 2)
        ) {
            let mut tally = Tally::default();
            for epoch in epochs {
                let mut expected: BTreeMap<(Window, Cell), i64> = BTreeMap::new();
                for (window, contribution, back) in epoch {
                    let sign = if back { -1 } else { 1 };
                    for cell in contribution.cells() {
                        *expected.entry((Window(window), cell)).or_default() += i64::from(sign);
                    }
                    tally.add(Window(window), contribution, sign);
                }
                expected.retain(|_, count| *count != 0);
                let counted = tally.drain();
                prop_assert!(counted.is_sorted_by(|(a, _), (b, _)| a < b));
                let counted: BTreeMap<_, _> = counted
                    .iter()
                    .flat_map(|(window, cells)| cells.as_slice().iter().map(|(cell, count)| ((*window, *cell), *count)))
                    .collect();
                prop_assert_eq!(counted, expected);
            }
        }
    }
}
