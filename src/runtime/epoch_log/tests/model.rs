//! A log beside the plainest one there is: a list of everything that was ever appended, from which nothing is removed.

use super::*;

/// Checkpoints that are kept.
const KEEP: usize = 2;

#[derive(Default)]
struct Model {
    generation: u64,
    claims: Vec<Epoch>,
    /// Epoch, generation and base of those that were not given up.
    checkpoints: Vec<(Epoch, u64, Option<Epoch>)>,
}

impl Model {
    fn chain_begins(&self, at: usize) -> usize {
        match self.checkpoints[at].2 {
            None => at,
            Some(base) => self.chain_begins(self.checkpoints.iter().position(|kept| kept.0 == base).unwrap()),
        }
    }

    /// The position of the first checkpoint that must be kept.
    fn first_needed(&self) -> usize {
        let first = self.checkpoints.len().saturating_sub(KEEP);
        (first..self.checkpoints.len()).map(|at| self.chain_begins(at)).min().unwrap_or(0)
    }

    fn since(&self, epoch: Option<Epoch>) -> Vec<Epoch> {
        self.claims.iter().copied().filter(|claim| epoch.is_none_or(|epoch| *claim > epoch)).collect()
    }

    fn assert_is(&self, history: &History, store: &SharedStore) {
        assert_eq!(history.generation, self.generation + 1);
        assert_eq!(history.seals.last().map_or(0, |seal| seal.generation), self.generation);
        let kept: Vec<_> = history.checkpoints.iter().map(|kept| (kept.epoch, kept.generation, kept.base)).collect();
        let needed = &self.checkpoints[self.first_needed()..];
        assert!(kept.ends_with(needed) && self.checkpoints.ends_with(&kept), "{kept:?} of {:?}", self.checkpoints);
        assert_eq!(epochs(&history.claims), self.since(kept.last().map(|kept| kept.0)));
        for checkpoint in &history.checkpoints {
            assert_eq!(epochs(&history.claims_since(checkpoint.epoch)), self.since(Some(checkpoint.epoch)));
            for part in &checkpoint.parts {
                assert!(store.get(&part.name).unwrap().is_some(), "{} is needed", part.name);
            }
        }
        let last = self.claims.last().copied().max(self.checkpoints.last().map(|kept| kept.0));
        assert!(history.last_epoch >= last);
    }
}

#[test]
fn any_run_of_appends_prunes_and_starts_is_read_as_the_list_of_everything_says() {
    for seed in 0..300 {
        let store = memory();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut model = Model::default();
        let (mut log, history) = take_over(&store).unwrap();
        model.assert_is(&history, &store);
        model.generation = 1;
        let (mut fenced, mut epoch, mut saved_below) = (Vec::new(), 100, 100);
        for _ in 0..60 {
            match random.random_range(0..10) {
                0..=3 => {
                    let first = epoch + random.random_range(1..5);
                    epoch = first + random.random_range(0..4);
                    log.append(&claims(first..=epoch)).unwrap();
                    model.claims.extend(first..=epoch);
                }
                4..=6 => {
                    let newest = model.checkpoints.last().filter(|kept| kept.1 == model.generation);
                    let at = random
                        .random_range(saved_below..=epoch.max(saved_below))
                        .max(newest.map_or(0, |kept| kept.0 + 1));
                    let base = newest.map(|kept| kept.0).filter(|_| random.random_bool(0.6));
                    save(&store, &mut log, at, base).unwrap();
                    let generation = model.generation;
                    model.checkpoints.retain(|kept| kept.0 < at || kept.1 == generation);
                    model.checkpoints.push((at, generation, base));
                    (epoch, saved_below) = (epoch.max(at), at);
                }
                7 | 8 => log.prune(KEEP).unwrap(),
                _ => {
                    let (next, history) = take_over(&store).unwrap();
                    model.assert_is(&history, &store);
                    model.generation += 1;
                    // Falls back to one of those that are kept.
                    if !history.checkpoints.is_empty() {
                        let to = random.random_range(0..history.checkpoints.len());
                        saved_below = history.checkpoints[to].epoch + 1;
                    }
                    fenced.push(std::mem::replace(&mut log, next));
                }
            }
            if let Some(zombie) = fenced.last_mut().filter(|_| random.random_bool(0.2)) {
                assert!(matches!(zombie.append(&claims([u64::MAX])), Err(LogError::Fenced { .. })));
                zombie.prune(KEEP).unwrap();
            }
        }
        end(&store, log, &mut model, epoch);
    }
}

/// Nothing is left that is not needed, once that was said by one more entry.
fn end(store: &SharedStore, mut log: EpochLog, model: &mut Model, epoch: Epoch) {
    // Nothing is given up before a start has a checkpoint of its own.
    let generation = model.generation;
    save(store, &mut log, epoch + 1, None).unwrap();
    model.checkpoints.retain(|kept| kept.0 <= epoch || kept.1 == generation);
    model.checkpoints.push((epoch + 1, generation, None));
    for extra in 1..=2 {
        log.prune(KEEP).unwrap();
        log.append(&claims([epoch + extra])).unwrap();
        model.claims.push(epoch + extra);
    }
    log.prune(KEEP).unwrap();
    let (_, history) = take_over(store).unwrap();
    model.assert_is(&history, store);
    let Some(oldest) = history.checkpoints.first() else { return };
    assert_eq!(history.checkpoints.len(), model.checkpoints.len() - model.first_needed());
    let parts: Vec<String> =
        history.checkpoints.iter().flat_map(|kept| &kept.parts).map(|part| part.name.clone()).collect();
    let found = store.list("state/").unwrap();
    assert!(found.iter().all(|name| parts.contains(name)), "{found:?} beyond {parts:?}");
    // Entries before the oldest checkpoint's, and before the claims after it, are seals.
    let entries: Vec<Envelope> = store
        .list("log/")
        .unwrap()
        .iter()
        .map(|name| Envelope::decode(name, &store.get(name).unwrap().unwrap()).unwrap())
        .collect();
    let begin = entries.iter().position(|envelope| match &envelope.entry {
        Entry::Seal(_) => false,
        Entry::Claims(claims) => claims.last().unwrap().epoch > oldest.epoch,
        Entry::Checkpoint(kept) => kept.epoch >= oldest.epoch,
    });
    assert!(entries[..begin.unwrap()].iter().all(|envelope| matches!(envelope.entry, Entry::Seal(_))));
}
