//! How [`Counts`] survives a restart.
//!
//! Invariants:
//!
//! 1. An entry is one pane of one *saver*, the worker that saved it, whole: a later entry of the same saver and pane replaces it, one
//!    without counts says that the pane is forgotten. Panes of several savers are kept apart until all blocks are in, and then added
//!    up: whoever takes them in holds their sum.
//! 2. So a generation of workers begins with a base: its entries would otherwise stand beside those that it has summed.
//! 3. A saver's panes travel by its index. The clock (the watermark and what was let through last) is the same on all workers and
//!    needed by all, so it is saved once for each of [`KEY_GROUPS`] routes: every worker of the next generation is reached by one of
//!    them, as long as there are no more workers than that.
//! 4. What is known by patient is saved by the patient's key group, like the patient itself.
//!
//! Between saves it keeps the panes that were touched, 8 bytes each; before the first save nothing, because that saves everything.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Counts, add};
use crate::audit::histogram::Cells;
use crate::audit::ledger;
use crate::audit::owned;
use crate::audit::series::Pane;
use crate::runtime::survive::{Blocks, Corrupt, Extent, KEY_GROUPS, Survive, entries, key_group};
use crate::watermark::Watermark;

/// What [`Corrupt`] names.
const WHAT: &str = "block of the drift's counts";

/// What the next save has to say, and what loaded blocks said.
#[derive(Debug, Default)]
pub(super) struct Saving {
    /// Panes whose counts changed since the last save; `None` until there was one.
    touched: Option<BTreeSet<Pane>>,
    /// Whether ticks came since the last save.
    pub(super) clock_moved: bool,
    /// What each saver held of a pane: not told, and told.
    loading: BTreeMap<(u64, Pane), (Cells, Cells)>,
}

impl Saving {
    /// The pane's counts change.
    pub(super) fn touch(&mut self, pane: Pane) {
        if let Some(touched) = &mut self.touched {
            touched.insert(pane);
        }
    }
}

#[derive(Serialize, Deserialize)]
enum Entry<'a> {
    Clock { watermark: Cow<'a, Watermark>, let_through: (i64, Pane) },
    Pane { saver: u64, pane: Pane, held: Cow<'a, Cells>, released: Cow<'a, Cells> },
    Patient(Cow<'a, ledger::Saved>),
}

impl Survive for Counts {
    fn save(&mut self, extent: Extent, into: &mut Blocks) {
        let touched = self.saving.touched.replace(BTreeSet::new());
        let clock_moved = std::mem::take(&mut self.saving.clock_moved);
        let changed = (extent == Extent::Changed).then(|| touched.expect("the first save of a generation is a base"));
        if changed.is_none() || clock_moved {
            let (watermark, let_through) = (Cow::Borrowed(&self.watermark), self.let_through);
            let clock = Entry::Clock { watermark, let_through };
            owned(self.share, KEY_GROUPS).for_each(|route| into.push(route, &clock));
        }
        let all = || self.held.keys().chain(self.released.keys()).copied().collect();
        let panes: BTreeSet<Pane> = changed.unwrap_or_else(all);
        let (saver, none) = (self.share.worker as u64, Cells::default());
        for pane in panes {
            let held = Cow::Borrowed(self.held.get(&pane).unwrap_or(&none));
            let released = Cow::Borrowed(self.released.get(&pane).unwrap_or(&none));
            into.push(saver, &Entry::Pane { saver, pane, held, released });
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.save(extent == Extent::All, |of_patient| {
                into.push(key_group(of_patient.patient().hash64()), &Entry::Patient(Cow::Borrowed(of_patient)));
            });
        }
    }

    fn load(&mut self, block: &[u8]) -> Result<(), Corrupt> {
        entries(block, WHAT, |entry| self.take(entry))
    }

    fn expect(&mut self, times: f64) {
        if let Some(ledger) = &mut self.ledger {
            ledger.expect(times);
        }
    }

    fn loaded(&mut self) {
        for ((_, pane), (held, released)) in std::mem::take(&mut self.saving.loading) {
            add(&mut self.held, pane, held);
            add(&mut self.released, pane, released);
        }
        for counted in [&mut self.held, &mut self.released] {
            counted.retain(|_, cells| !cells.as_slice().is_empty());
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.loaded();
        }
    }
}

impl Counts {
    fn take(&mut self, entry: Entry<'static>) -> Result<(), Corrupt> {
        match entry {
            Entry::Clock { watermark, let_through } => {
                self.watermark = watermark.into_owned();
                self.let_through = let_through;
            }
            Entry::Pane { saver, pane, held, released } => {
                if !held.is_sound() || !released.is_sound() {
                    return Err(Corrupt { what: WHAT });
                }
                self.saving.loading.insert((saver, pane), (held.into_owned(), released.into_owned()));
            }
            Entry::Patient(saved) => {
                if !saved.is_sound() {
                    return Err(Corrupt { what: WHAT });
                }
                // If patients are no longer counted, what was known of them is not needed.
                if let Some(ledger) = &mut self.ledger {
                    ledger.load(saved.into_owned());
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    //! What is saved is the state: whole, in parts, of several workers at once. What is no state is refused.

    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::audit::counts::tests::{counts, parse};
    use crate::source::Share;
    use crate::vocabulary::Assessed;
    use crate::watermark::SavedWatermark;

    /// A random epoch of the workers: each its own readings, all the same watermark.
    fn advance(rng: &mut ChaCha8Rng, workers: &mut [Counts], minute: i64) {
        let mut ticks = Vec::new();
        // Far from 0: the script has no negative times.
        let minute = minute + 100;
        parse(&format!("W{}", minute * 60 + rng.random_range(0..60)), &mut Assessed::default(), &mut ticks);
        for counts in workers {
            let mut batch = Assessed::default();
            for _ in 0..rng.random_range(0..5) {
                let (at, systolic) = (minute * 60 + rng.random_range(-200..90), rng.random_range(90..170));
                let sign = if rng.random_bool(0.2) { '-' } else { '=' };
                parse(&format!("{at}{sign}{systolic}"), &mut batch, &mut Vec::new());
            }
            counts.advance([&batch], &ticks, &mut Vec::new());
        }
    }

    fn workers(count: usize) -> Vec<Counts> {
        (0..count).map(|worker| counts(Share { worker, workers: count })).collect()
    }

    fn save(workers: &mut [Counts], extent: Extent) -> Blocks {
        let mut blocks = Blocks::default();
        workers.iter_mut().for_each(|counts| counts.save(extent, &mut blocks));
        blocks
    }

    fn load(checkpoints: &[Blocks], count: usize) -> Vec<Counts> {
        let mut workers = workers(count);
        for (route, block) in checkpoints.iter().flat_map(Blocks::iter) {
            workers[route as usize % count].load(block).unwrap();
        }
        workers.iter_mut().for_each(Survive::loaded);
        workers
    }

    type Sums = BTreeMap<Pane, Cells>;

    /// What all workers hold together, and that they agree on the rest.
    fn sums(workers: &[Counts]) -> (Sums, Sums, SavedWatermark, (i64, Pane)) {
        let (mut held, mut released) = (Sums::new(), Sums::new());
        for counts in workers {
            assert_eq!(counts.watermark.saved(), workers[0].watermark.saved());
            assert_eq!(counts.let_through, workers[0].let_through);
            counts.held.iter().for_each(|(pane, cells)| add(&mut held, *pane, cells.clone()));
            counts.released.iter().for_each(|(pane, cells)| add(&mut released, *pane, cells.clone()));
        }
        for sums in [&mut held, &mut released] {
            sums.retain(|_, cells| !cells.as_slice().is_empty());
        }
        (held, released, workers[0].watermark.saved(), workers[0].let_through)
    }

    #[test]
    fn a_base_and_the_changes_since_are_the_sum_on_any_number_of_workers() {
        for seed in 0..20 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut running = workers(rng.random_range(1..5));
            let mut checkpoints = Vec::new();
            for minute in 0..30 {
                advance(&mut rng, &mut running, minute);
                if minute >= 5 && rng.random_bool(0.3) {
                    let extent = if checkpoints.is_empty() { Extent::All } else { Extent::Changed };
                    checkpoints.push(save(&mut running, extent));
                }
            }
            checkpoints.push(save(&mut running, Extent::Changed));
            for count in 1..6 {
                let mut loaded = load(&checkpoints, count);
                assert_eq!(sums(&loaded), sums(&running), "seed {seed}");
                // And so again.
                let again = load(&[save(&mut loaded, Extent::All)], count % 3 + 1);
                assert_eq!(sums(&again), sums(&running), "seed {seed}");
            }
        }
    }

    #[test]
    fn what_did_not_change_is_not_saved_again() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut running = workers(2);
        (0..10).for_each(|minute| advance(&mut rng, &mut running, minute));
        let quiet = |counts: &mut Counts| {
            counts.advance([], &[], &mut Vec::new());
        };
        // What the last watermark froze is forgotten in the epoch after it.
        running.iter_mut().for_each(quiet);
        assert!(!save(&mut running, Extent::All).is_empty());
        assert!(save(&mut running, Extent::Changed).is_empty());
        running.iter_mut().for_each(quiet);
        assert!(save(&mut running, Extent::Changed).is_empty());
    }

    #[test]
    fn what_was_released_is_put_back() {
        let mut rng = ChaCha8Rng::seed_from_u64(8);
        let mut running = workers(1);
        (0..10).for_each(|minute| advance(&mut rng, &mut running, minute));
        let loaded = load(&[save(&mut running, Extent::All)], 1);
        let mut updates = Vec::new();
        loaded[0].put_back(&mut updates);
        let expected: Vec<_> = running[0]
            .released
            .iter()
            .flat_map(|(pane, cells)| cells.histograms().map(|(series, histogram)| ((series, *pane), histogram)))
            .collect();
        assert!(!updates.is_empty());
        assert_eq!(updates, expected);
    }

    proptest! {
        /// A block with some bytes changed, or cut: refused, or some other state; never a panic.
        #[test]
        fn a_mutilated_block_is_no_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut rng = ChaCha8Rng::seed_from_u64(9);
            let mut running = workers(1);
            (0..6).for_each(|minute| advance(&mut rng, &mut running, minute));
            let blocks = save(&mut running, Extent::All);
            let mut block = blocks.iter().next().unwrap().1.to_vec();
            block.truncate(cut.index(block.len()) + 1);
            changes.iter().for_each(|(at, to)| { let at = at.index(block.len()); block[at] = *to; });
            let [ref mut counts] = workers(1)[..] else { unreachable!() };
            if counts.load(&block).is_ok() {
                counts.loaded();
                counts.put_back(&mut Vec::new());
                advance(&mut rng, std::slice::from_mut(counts), 7);
            }
        }
    }

    #[test]
    fn cells_that_no_machine_can_hold_are_refused() {
        let pane = |cells: &[(u32, i64)]| {
            let mut blocks = Blocks::default();
            let bytes = postcard::to_allocvec(&cells.to_vec()).unwrap();
            let cells: Cells = postcard::from_bytes(&bytes).unwrap();
            let (held, released) = (Cow::Owned(Cells::default()), Cow::Owned(cells));
            blocks.push(0, &Entry::Pane { saver: 0, pane: Pane(1), held, released });
            counts(Share { worker: 0, workers: 1 }).load(blocks.iter().next().unwrap().1)
        };
        assert_eq!(pane(&[(1, 1), (2, -1)]), Ok(()));
        for broken in [&[(2, 1), (1, 1)][..], &[(1, 0)], &[(60_000_000, 1)], &[(1, i64::MIN)]] {
            assert_eq!(pane(broken), Err(Corrupt { what: WHAT }), "{broken:?}");
        }
    }
}
