//! Counts of one epoch of one worker: many readings in, few numbers out.
//!
//! An epoch of live data touches one or two panes, so the first few panes of an epoch get a dense array of cells each
//! (48 kB; adding to it is the whole cost per reading: some 60 ns for its 12 cells, `--release`, 2-core machine). An epoch of replayed
//! history may touch thousands: beyond [`DENSE_PANES_MAX`] contributions are kept as they are and sorted by pane at the end, which
//! takes more time but no more memory than the readings did.

use std::collections::BTreeMap;

use foldhash::HashMap;
use smallvec::SmallVec;

use crate::audit::histogram::{Cells, Counted};
use crate::audit::ledger::{Change, What};
use crate::audit::quality;
use crate::audit::series::{Cell, Contribution, Groups, PLACES, Pane, Series, Value, cell_at};
use crate::vocabulary::TopicId;
use crate::vocabulary::flaws::{Flaw, Flaws, MEASURES};

/// Panes of one epoch that are counted densely.
pub const DENSE_PANES_MAX: usize = 8;

/// Counts by pane and cell, emptied every epoch; its arrays are kept.
#[derive(Debug, Default)]
pub struct Tally {
    dense: Vec<Dense>,
    /// How many of `dense` this epoch uses.
    used: usize,
    /// Which of them the last contribution went to: the next one mostly goes there too.
    last: usize,
    /// What belongs to none of them.
    sparse: Vec<(Pane, Contribution, i32)>,
    /// Counts that are no feature's: of patients and scores.
    others: HashMap<(Pane, Groups, What), i64>,
    /// Inputs by pane and slot of their topic, apart from the last run of them.
    inputs: HashMap<(Pane, usize), Inputs>,
    /// Readings of one pane and topic in a row: hardly a reading begins another.
    run: Run,
}

/// Readings of one pane and topic, by its slot.
#[derive(Debug)]
struct Run {
    pane: Pane,
    slot: usize,
    count: i64,
}

impl Default for Run {
    fn default() -> Self {
        Run { pane: Pane(i64::MIN), slot: 0, count: 0 }
    }
}

/// Inputs by measure.
type Inputs = [i64; MEASURES.len()];

#[derive(Debug)]
struct Dense {
    pane: Pane,
    counts: Box<[i32; PLACES]>,
}

impl Tally {
    /// Counts a contribution (`sign` 1) or takes one back (−1).
    pub fn add(&mut self, pane: Pane, contribution: Contribution, sign: i32) {
        match self.slot(pane) {
            Some(dense) => contribution.places().for_each(|place| dense.counts[place] += sign),
            None => self.sparse.push((pane, contribution, sign)),
        }
    }

    /// Counts what the ledger says, in several groups at once.
    pub fn add_change(&mut self, (pane, groups, what, sign): Change) {
        *self.others.entry((pane, groups, what)).or_default() += i64::from(sign);
    }

    /// Counts a reading as an input of its topic.
    pub fn add_input(&mut self, pane: Pane, topic: TopicId) {
        let slot = quality::slot(topic);
        if (pane, slot) != (self.run.pane, self.run.slot) {
            self.end_run();
            (self.run.pane, self.run.slot) = (pane, slot);
        }
        self.run.count += 1;
    }

    /// Counts inputs under what they have, or takes them back.
    pub fn add_flaws(&mut self, pane: Pane, topic: TopicId, flaws: Flaws, count: i32) {
        let inputs = self.inputs.entry((pane, quality::slot(topic))).or_default();
        flaws.numbers().for_each(|measure| inputs[measure] += i64::from(count));
    }

    fn end_run(&mut self) {
        let count = std::mem::take(&mut self.run.count);
        if count != 0 {
            self.inputs.entry((self.run.pane, self.run.slot)).or_default()[Flaw::Readings as usize] += count;
        }
    }

    /// Takes all counts out, ascending by pane. A pane whose counts cancelled is not among them.
    pub fn drain(&mut self) -> Vec<(Pane, Cells)> {
        let dense = self.dense[..self.used].iter_mut().map(|Dense { pane, counts }| {
            let counts = counts.iter_mut().enumerate().filter(|(_, count)| **count != 0);
            let counts = counts.map(|(place, count)| (cell_at(place), i64::from(std::mem::take(count))));
            (*pane, Counted::from_ascending(counts.collect()))
        });
        // A pane is either dense or sparse: once the arrays are taken, no other pane gets one in this epoch.
        self.sparse.sort_unstable_by_key(|(pane, _, _)| *pane);
        let sparse = self.sparse.chunk_by(|(a, _, _), (b, _, _)| a == b).map(|of_pane| {
            let signed = |(_, contribution, sign): &(Pane, Contribution, i32)| {
                let sign = i64::from(*sign);
                contribution.cells().map(move |cell| (cell, sign)).collect::<SmallVec<[_; 12]>>()
            };
            (of_pane[0].0, Counted::from_counts(of_pane.iter().flat_map(signed).collect()))
        });
        let mut panes: BTreeMap<Pane, Cells> = dense.chain(sparse).collect();
        // The map's order decides nothing: what is drained is sorted.
        let mut others: BTreeMap<Pane, Vec<(Cell, i64)>> = BTreeMap::new();
        for ((pane, groups, what), count) in self.others.drain() {
            others.entry(pane).or_default().extend(what.cells(groups).map(|cell| (cell, count)));
        }
        self.end_run();
        for ((pane, slot), inputs) in self.inputs.drain() {
            let cell = |measure: usize| Cell::new(Series::quality(slot, 0), Value(measure as u16));
            others.entry(pane).or_default().extend(inputs.into_iter().enumerate().map(|(at, count)| (cell(at), count)));
        }
        for (pane, counts) in others {
            panes.entry(pane).or_default().add(&Counted::from_counts(counts));
        }
        panes.retain(|_, cells| !cells.as_slice().is_empty());
        self.sparse.clear();
        (self.used, self.last) = (0, 0);
        panes.into_iter().collect()
    }

    fn slot(&mut self, pane: Pane) -> Option<&mut Dense> {
        let is_last = self.dense[..self.used].get(self.last).is_some_and(|dense| dense.pane == pane);
        if !is_last {
            let known = self.dense[..self.used].iter().position(|dense| dense.pane == pane);
            self.last = known.or_else(|| self.open(pane))?;
        }
        Some(&mut self.dense[self.last])
    }

    fn open(&mut self, pane: Pane) -> Option<usize> {
        if self.used == DENSE_PANES_MAX {
            return None;
        }
        match self.dense.get_mut(self.used) {
            Some(free) => free.pane = pane,
            None => self.dense.push(Dense { pane, counts: Box::new([0; PLACES]) }),
        }
        self.used += 1;
        Some(self.used - 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::audit::series::{FEATURES, PATIENT_GROUPS, PRESSURE, Series, Value};

    fn contribution() -> impl Strategy<Value = Contribution> {
        (prop::array::uniform4(0..PRESSURE.values() as u16), 1..PATIENT_GROUPS as u8).prop_map(|(values, group)| {
            let values: [u16; FEATURES.len()] = values;
            Contribution { values: values.map(Value), groups: 1 | 1 << group }
        })
    }

    proptest! {
        /// Twice as many panes as are counted densely, and a second epoch in the same arrays.
        #[test]
        fn however_it_is_counted_the_counts_are_the_same(
            epochs in prop::collection::vec(prop::collection::vec((0..16i64, contribution(), prop::bool::ANY), 0..60), 2)
        ) {
            let mut tally = Tally::default();
            for epoch in epochs {
                let mut expected: BTreeMap<(Pane, Cell), i64> = BTreeMap::new();
                for (pane, contribution, back) in epoch {
                    let sign = if back { -1 } else { 1 };
                    for cell in contribution.cells() {
                        *expected.entry((Pane(pane), cell)).or_default() += i64::from(sign);
                    }
                    tally.add(Pane(pane), contribution, sign);
                    let (groups, what) = (0b101, What::Code(Value(7)));
                    tally.add_change((Pane(pane), groups, what, 2));
                    // Topics in turn, readings and flaws between each other, one of them taken back.
                    let topic = TopicId(60 + pane as u32);
                    let inputs = Series::inputs(topic);
                    tally.add_input(Pane(pane), topic);
                    tally.add_flaws(Pane(pane), topic, Flaws::input(Flaw::Late), 3);
                    tally.add_flaws(Pane(pane), topic, Flaws::input(Flaw::Late).alone(), sign);
                    *expected.entry((Pane(pane), Cell::new(inputs, Value(0)))).or_default() += 4;
                    *expected.entry((Pane(pane), Cell::new(inputs, Value(3)))).or_default() += 3 + i64::from(sign);
                    for group in [0, 2] {
                        *expected.entry((Pane(pane), Cell::new(Series::scores(group), Value(7)))).or_default() += 2;
                    }
                }
                expected.retain(|_, count| *count != 0);
                let counted = tally.drain();
                prop_assert!(counted.is_sorted_by(|(a, _), (b, _)| a < b));
                let counted: BTreeMap<_, _> = counted
                    .iter()
                    .flat_map(|(pane, cells)| cells.as_slice().iter().map(|(cell, count)| ((*pane, *cell), *count)))
                    .collect();
                prop_assert_eq!(counted, expected);
            }
        }
    }
}
