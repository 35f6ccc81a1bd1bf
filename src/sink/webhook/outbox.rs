//! What waits for the receiver: bounded, in order, and saved with each checkpoint.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::notice::Notice;
use crate::runtime::survive::{Blocks, Corrupt, Route, entries};

/// What [`Corrupt`] names.
const WHAT: &str = "block of a webhook's outbox";

/// What waits of a route; takes the place of what was said of it before.
#[derive(Serialize, Deserialize)]
struct Entry {
    route: Route,
    waiting: Vec<Notice>,
}

/// The queue itself: pure.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Notice>,
    max: usize,
    /// Routes of which the last save, or what was loaded, says something.
    saved: BTreeSet<Route>,
    loading: BTreeMap<Route, Vec<Notice>>,
    /// The receiver has not taken the last attempt.
    failing: bool,
    /// Nothing will be sent any more.
    ended: bool,
}

impl Outbox {
    pub(super) fn new(max: usize) -> Self {
        Outbox { max, ..Outbox::default() }
    }

    /// Appends; what has no room any more, the oldest first.
    pub(super) fn put(&mut self, notices: impl IntoIterator<Item = Notice>) -> Vec<Notice> {
        self.waiting.extend(notices);
        let too_many = self.waiting.len().saturating_sub(self.max);
        self.waiting.drain(..too_many).collect()
    }

    /// Removes the one with this id, if it is still first.
    fn remove(&mut self, id: &str) {
        if self.waiting.front().is_some_and(|first| first.id == id) {
            self.waiting.pop_front();
        }
    }

    /// Saves all that waits, and that nothing does of a route that was saved before.
    pub(super) fn save(&mut self, into: &mut Blocks) {
        let mut by_route: BTreeMap<Route, Vec<Notice>> = BTreeMap::new();
        by_route.extend(std::mem::take(&mut self.saved).into_iter().map(|route| (route, Vec::new())));
        for notice in &self.waiting {
            by_route.entry(notice.route).or_default().push(notice.clone());
        }
        for (route, waiting) in by_route {
            if !waiting.is_empty() {
                self.saved.insert(route);
            }
            into.push(route, &Entry { route, waiting });
        }
    }

    /// Takes in a block.
    pub(super) fn load(&mut self, block: &[u8]) -> Result<(), Corrupt> {
        entries(block, WHAT, |Entry { route, waiting }| {
            self.loading.insert(route, waiting);
            Ok(())
        })
    }

    /// After the last block: what waited waits again, in the order of its epochs.
    fn loaded(&mut self) {
        let loading = std::mem::take(&mut self.loading);
        self.saved.extend(loading.keys());
        let mut waited: Vec<Notice> = loading.into_values().flatten().collect();
        waited.sort_by_key(|notice| notice.epoch);
        waited.into_iter().rev().for_each(|notice| self.waiting.push_front(notice));
    }
}

/// The queue between the sink and the thread that sends.
#[derive(Debug)]
pub(super) struct Shared {
    outbox: Mutex<Outbox>,
    changed: Condvar,
}

impl Shared {
    pub(super) fn new(max: usize) -> Self {
        Shared { outbox: Mutex::new(Outbox::new(max)), changed: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, notices: Vec<Notice>) -> Vec<Notice> {
        let given_up = self.lock().put(notices);
        self.changed.notify_all();
        given_up
    }

    pub(super) fn loaded(&self) {
        self.lock().loaded();
        self.changed.notify_all();
    }

    /// Nothing more is to be sent.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// The next to be sent; it stays the first until it is [done](Shared::done). `None` when nothing more is to be sent.
    pub(super) fn next(&self) -> Option<Notice> {
        let mut outbox = self.lock();
        loop {
            if outbox.ended {
                return None;
            }
            if let Some(first) = outbox.waiting.front() {
                return Some(first.clone());
            }
            outbox = self.changed.wait(outbox).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// It was sent, or given up; the receiver answers.
    pub(super) fn done(&self, id: &str) {
        let mut outbox = self.lock();
        outbox.remove(id);
        outbox.failing = false;
        drop(outbox);
        self.changed.notify_all();
    }

    /// The receiver has not taken it.
    pub(super) fn failed(&self) {
        self.lock().failing = true;
        self.changed.notify_all();
    }

    /// Sleeps, unless the end comes before.
    pub(super) fn sleep(&self, pause: Duration) {
        let outbox = self.lock();
        let slept = self.changed.wait_timeout_while(outbox, pause, |outbox| !outbox.ended);
        drop(slept.unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits until all is sent, but no longer than this, nor for a receiver that fails. How many still wait.
    pub(super) fn wait_until_sent(&self, at_most: Duration) -> usize {
        let until = Instant::now() + at_most;
        let mut outbox = self.lock();
        while !outbox.waiting.is_empty() && !outbox.failing && !outbox.ended {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            outbox = self.changed.wait_timeout(outbox, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        outbox.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    //! Proves, against a model that plays checkpoints and crashes, that what waits at a checkpoint waits again after a start, in order, on any number of workers.
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn notice(epoch: u64, route: Route) -> Notice {
        Notice { id: format!("{epoch}/{route}"), epoch, route, body: String::new() }
    }

    fn ids(outbox: &Outbox) -> Vec<String> {
        outbox.waiting.iter().map(|notice| notice.id.clone()).collect()
    }

    /// Loads what chains of saves say, oldest first, as whichever workers there are now.
    fn restored(chains: &[Blocks], workers: u64) -> Vec<Outbox> {
        let outbox = |worker: u64| {
            let mut outbox = Outbox::new(usize::MAX);
            for blocks in chains {
                for (_, block) in blocks.iter().filter(|(route, _)| route % workers == worker) {
                    outbox.load(block).unwrap();
                }
            }
            outbox.loaded();
            outbox
        };
        (0..workers).map(outbox).collect()
    }

    #[test]
    fn what_waited_at_a_checkpoint_waits_again_on_any_number_of_workers() {
        for seed in 0..200 {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let mut outboxes = vec![Outbox::new(usize::MAX)];
            let (mut chain, mut waiting): (Vec<Blocks>, Vec<String>) = (Vec::new(), Vec::new());
            for epoch in 0..40 {
                let workers = outboxes.len() as u64;
                for _ in 0..random.random_range(0..3) {
                    let notice = notice(epoch, random.random_range(0..5));
                    if !waiting.contains(&notice.id) {
                        waiting.push(notice.id.clone());
                        outboxes[(notice.route % workers) as usize].put([notice]);
                    }
                }
                if random.random_bool(0.5) {
                    let at = random.random_range(0..outboxes.len());
                    if let Some(first) = outboxes[at].waiting.front().map(|notice| notice.id.clone()) {
                        outboxes[at].remove(&first);
                        waiting.retain(|id| *id != first);
                    }
                }
                if random.random_bool(0.4) {
                    for outbox in &mut outboxes {
                        let mut blocks = Blocks::default();
                        outbox.save(&mut blocks);
                        chain.push(blocks);
                    }
                    if random.random_bool(0.5) {
                        outboxes = restored(&chain, random.random_range(1..5));
                    }
                }
                let workers = outboxes.len() as u64;
                for (worker, outbox) in (0..).zip(&outboxes) {
                    let route = |id: &str| id.split('/').nth(1).unwrap().parse::<u64>().unwrap();
                    let of_route = |all: &[String], wanted: u64| -> Vec<String> {
                        all.iter().filter(|id| route(id) == wanted).cloned().collect()
                    };
                    for wanted in (0..5).filter(|route| route % workers == worker) {
                        let (found, expected) = (of_route(&ids(outbox), wanted), of_route(&waiting, wanted));
                        assert_eq!(found, expected, "seed {seed}, epoch {epoch}, route {wanted}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_outbox_that_was_never_used_saves_nothing_and_one_that_was_says_when_it_is_empty() {
        let (mut outbox, mut blocks) = (Outbox::new(9), Blocks::default());
        outbox.save(&mut blocks);
        assert!(blocks.is_empty());
        outbox.put([notice(1, 3)]);
        outbox.save(&mut blocks);
        outbox.remove("1/3");
        outbox.save(&mut blocks);
        assert!(restored(&[blocks], 1)[0].waiting.is_empty());
        let mut last = Blocks::default();
        outbox.save(&mut last);
        assert!(last.is_empty(), "said once is enough");
    }

    #[test]
    fn too_many_give_up_the_oldest() {
        let mut outbox = Outbox::new(2);
        let given_up = outbox.put((1..=5).map(|epoch| notice(epoch, 0)));
        assert_eq!(given_up.iter().map(|notice| notice.epoch).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(ids(&outbox), ["4/0", "5/0"]);
        outbox.remove("1/0");
        assert_eq!(ids(&outbox).len(), 2, "what was given up while it was being sent takes nobody with it");
    }

    #[test]
    fn a_mutilated_block_is_refused() {
        let (mut outbox, mut blocks) = (Outbox::new(9), Blocks::default());
        outbox.put([notice(1, 3)]);
        outbox.save(&mut blocks);
        let (_, block) = blocks.iter().next().unwrap();
        assert_eq!(Outbox::new(9).load(&block[..block.len() - 1]), Err(Corrupt { what: WHAT }));
    }
}
