//! A run that was broken off goes on as if it had not been: on any number of workers, and again after that.
//!
//! The run that never ended is the oracle. A restarted one begins at the border where the machines were saved, while the one before had
//! come some epochs further: what it made of those is made again.

use std::collections::VecDeque;

use super::*;
use crate::runtime::survive::{Blocks, Corrupt, Extent, Route, Survive};

/// One block, saved as of all epochs below `border`.
#[derive(Clone)]
pub(super) struct Saved {
    stage: &'static str,
    border: Epoch,
    route: Route,
    block: Vec<u8>,
}

/// A machine that is saved at borders; at the first whole, then what changed.
pub(super) struct Kept<M> {
    machine: M,
    stage: &'static str,
    extent: Extent,
    borders: VecDeque<Epoch>,
    saved: Arc<Mutex<Vec<Saved>>>,
}

impl<M: Survive> Kept<M> {
    /// Puts back what is this worker's, in the order of `run.saved`.
    pub(super) fn new(
        stage: &'static str,
        mut machine: M,
        share: Share,
        run: &Run,
        saved: &Arc<Mutex<Vec<Saved>>>,
    ) -> Self {
        let leads_here =
            |saved: &&Saved| saved.stage == stage && saved.route % share.workers as Route == share.worker as Route;
        for Saved { block, .. } in run.saved.iter().filter(leads_here) {
            machine.load(block).unwrap();
        }
        if !run.saved.is_empty() {
            machine.loaded();
        }
        let borders = run.borders.iter().copied().collect();
        Kept { machine, stage, extent: Extent::All, borders, saved: saved.clone() }
    }
}

impl<M: ByEpoch> ByEpoch for Kept<M> {
    type Left = M::Left;
    type Right = M::Right;
    type Output = M::Output;

    fn first(&mut self, epoch: Epoch, emit: &mut Vec<M::Output>) {
        self.machine.first(epoch, emit);
    }

    fn apply(&mut self, epoch: Epoch, left: Vec<M::Left>, right: Vec<M::Right>, emit: &mut Vec<M::Output>) {
        while let Some(border) = self.borders.front().copied().filter(|border| *border <= epoch) {
            self.borders.pop_front();
            let mut blocks = Blocks::default();
            self.save(self.extent, &mut blocks);
            self.extent = Extent::Changed;
            let stage = self.stage;
            let saved = blocks.iter().map(|(route, block)| Saved { stage, border, route, block: block.to_vec() });
            self.saved.lock().unwrap().extend(saved);
        }
        self.machine.apply(epoch, left, right, emit);
    }
}

impl<M: Survive> Survive for Kept<M> {
    fn save(&mut self, extent: Extent, into: &mut Blocks) {
        self.machine.save(extent, into);
    }

    fn load(&mut self, block: &[u8]) -> Result<(), Corrupt> {
        self.machine.load(block)
    }
}

/// How many epochs a run goes on beyond the border from which the next one starts.
const LOST: usize = 6;

/// One generation: from one border to the next, and then some epochs more that are lost. A base is saved a while before the last border,
/// and there only what changed.
fn generation(script: &[EpochOfScript], run: Run, until: usize) -> (Vec<(Epoch, Finding)>, Vec<Saved>) {
    let start = run.epochs.start;
    let epochs = start..script.len().min(until + LOST);
    let borders = [start + (until - start) / 2, until - 2, until].map(|border| border as Epoch).to_vec();
    let by_route = start.is_multiple_of(2);
    let (rows, mut saved) = run_part(script, Run { epochs, borders, ..run });
    assert!([until - 2, until].iter().all(|border| saved.iter().any(|saved| saved.border == *border as Epoch)));
    // Both orders are oldest first.
    saved.sort_by_key(|saved| (if by_route { saved.route } else { 0 }, saved.border));
    (rows, saved)
}

fn assert_same(expected: &[(Epoch, Finding)], rows: &[(Epoch, Finding)], epochs: Range<usize>, context: &str) {
    let line = |(epoch, found): &(Epoch, Finding)| (*epoch, order(found));
    let of_epochs = |(epoch, _): &&(Epoch, Finding)| epochs.contains(&(*epoch as usize));
    let expected: Vec<_> = expected.iter().filter(of_epochs).map(line).collect();
    let rows: Vec<_> = rows.iter().map(line).collect();
    if let Some(at) = (0..expected.len().max(rows.len())).find(|at| expected.get(*at) != rows.get(*at)) {
        panic!("{context}, row {at}: expected {:?}, was {:?}", expected.get(at), rows.get(at));
    }
}

#[test]
fn a_run_that_starts_again_on_other_workers_goes_on_as_if_it_had_not_ended() {
    for (seed, reference) in [(0, None), (1, None), (3, Some(Arc::new(profiled::reference(7))))] {
        let script = script(seed, 50);
        let horizon = if seed % 2 == 0 { EventSpan::UNBOUNDED } else { EventSpan::from_seconds(1_800) };
        let whole = profiled::run_against(&script, (1, 1), horizon, reference.clone());
        let mut rng = ChaCha8Rng::seed_from_u64(100 + seed);
        for workers in [[1, 2, 3], [4, 1, 2]] {
            let ends = [rng.random_range(8..20), rng.random_range(28..42), script.len()];
            let context = format!("seed {seed}, {workers:?} workers until {ends:?}");
            let (mut start, mut saved) = (0, Vec::new());
            for (workers, end) in workers.into_iter().zip(ends) {
                let (rhythm, metrics) = (rng.random_range(1..9), Metrics::new());
                let (epochs, borders, reference) = (start..script.len(), Vec::new(), reference.clone());
                let begun = Run { workers, rhythm, horizon, metrics, epochs, saved, borders, reference };
                let (rows, after) =
                    if end < script.len() { generation(&script, begun, end) } else { run_part(&script, begun) };
                assert!(!rows.is_empty(), "{context}: a generation is worth running");
                assert_same(&whole, &rows, start..script.len().min(end + LOST), &context);
                (start, saved) = (end, after);
            }
        }
    }
}

#[test]
fn gauges_are_set_again_before_anything_is_read() {
    for (seed, border) in [(50, 20), (51, 33)] {
        let script = script(seed, 60);
        for horizon in [EventSpan::UNBOUNDED, EventSpan::from_seconds(1_800)] {
            let until_border = Metrics::new();
            run(&script[..border], 1, 1, horizon, &until_border);
            let metrics = Metrics::new();
            let first = Run {
                workers: 2,
                rhythm: 1,
                horizon,
                metrics: Metrics::new(),
                epochs: 0..0,
                saved: Vec::new(),
                borders: Vec::new(),
                reference: None,
            };
            let (_, saved) = generation(&script, first.clone(), border);
            let again = Run { workers: 3, metrics: metrics.clone(), epochs: border..border, saved, ..first };
            let (rows, _) = run_part(&script, again);
            assert!(rows.is_empty(), "seed {seed}: what merely reappears is no row");
            assert!(!shown(&metrics).is_empty());
            assert_eq!(shown(&metrics), shown(&until_border), "seed {seed}");
        }
    }
}
