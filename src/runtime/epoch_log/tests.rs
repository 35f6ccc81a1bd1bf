//! That the log is what was appended, whoever dies, races or comes too late.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::config::TableName;
use crate::runtime::store::memory;
use crate::runtime::store::testing::creating;
use crate::vocabulary::TopicId;

mod damage;
mod model;
mod power;

fn seal() -> Seal {
    let digests = [("key", "0123abcd"), ("rules", "7f")].map(|(name, digest)| (name.to_owned(), digest.to_owned()));
    let topics = vec!["bp-obs".into()];
    Seal { generation: 0, workers: 2, processes: 1, topics, digests: digests.into(), replay: false }
}

fn partition(number: i32) -> Partition {
    Partition { topic: TopicId(0), number }
}

fn claim(epoch: Epoch) -> Claim {
    Claim {
        epoch,
        starts: vec![(partition(1), 0)],
        cuts: vec![(partition(0), 10 * epoch as i64), (partition(1), i64::MAX)],
        marks: vec![PartitionMark::Opened(partition(1)), PartitionMark::Idle(partition(0))],
    }
}

fn claims(epochs: impl IntoIterator<Item = Epoch>) -> Entry {
    Entry::Claims(epochs.into_iter().map(claim).collect())
}

fn part(epoch: Epoch, generation: u64) -> StatePart {
    StatePart { name: state_files::name(epoch, generation, 0, "patient"), bytes: 3, crc32c: 7 }
}

fn checkpoint(epoch: Epoch, generation: u64, base: Option<Epoch>) -> Entry {
    let staged = StagedFile {
        sink: "parquet".into(),
        table: TableName::Readings,
        name: format!("{epoch}-0-0.parquet"),
        bytes: 1_000,
        rows: 10,
        epochs: (epoch, epoch),
    };
    Entry::Checkpoint(Checkpoint {
        epoch,
        generation,
        base,
        parts: vec![part(epoch, generation)],
        staged: vec![staged],
        ends: vec![(partition(0), 10 * epoch as i64)],
        counters: [("files_up_to".to_owned(), epoch)].into(),
    })
}

fn take_over(store: &SharedStore) -> Result<(EpochLog, History), LogError> {
    EpochLog::take_over(store.clone(), |_| Ok(seal()))
}

/// As a checkpoint is made: first its state file, then its entry.
fn save(store: &SharedStore, log: &mut EpochLog, epoch: Epoch, base: Option<Epoch>) -> Result<(), LogError> {
    let generation = log.generation();
    store.create(&part(epoch, generation).name, b"abc")?;
    log.append(&checkpoint(epoch, generation, base))
}

fn epochs(claims: &[Claim]) -> Vec<Epoch> {
    claims.iter().map(|claim| claim.epoch).collect()
}

#[test]
fn a_start_finds_what_was_appended() {
    let store = memory();
    let (mut log, history) = take_over(&store).unwrap();
    assert_eq!(history, History { generation: 1, ..History::default() });
    log.append(&claims(1..=4)).unwrap();
    log.append(&claims(5..=7)).unwrap();
    save(&store, &mut log, 4, None).unwrap();
    log.append(&claims([8, 9])).unwrap();
    let (_, history) = take_over(&store).unwrap();
    let Entry::Checkpoint(kept) = checkpoint(4, 1, None) else { unreachable!() };
    assert_eq!(history.generation, 2);
    assert_eq!(history.seals, [Seal { generation: 1, ..seal() }]);
    assert_eq!(history.checkpoints, [kept]);
    assert_eq!(history.claims, [5, 6, 7, 8, 9].map(claim));
    assert_eq!(history.earlier, []);
    assert_eq!(history.last_epoch, Some(9));
}

#[test]
fn falling_back_finds_the_claims_since() {
    let store = memory();
    let (mut log, _) = take_over(&store).unwrap();
    for border in [10, 20, 30] {
        log.append(&claims([border - 3, border - 1, border + 1])).unwrap();
        save(&store, &mut log, border, (border > 10).then(|| border - 10)).unwrap();
    }
    let (_, history) = take_over(&store).unwrap();
    assert_eq!(epochs(&history.claims), [31]);
    assert_eq!(epochs(&history.earlier), [11, 17, 19, 21, 27, 29]);
    assert_eq!(epochs(&history.claims_since(20)), [21, 27, 29, 31]);
    let chain =
        |at: usize| -> Vec<Epoch> { history.chain(&history.checkpoints[at]).iter().map(|kept| kept.epoch).collect() };
    assert_eq!((chain(0), chain(1), chain(2)), (vec![10], vec![10, 20], vec![10, 20, 30]));
}

#[test]
fn a_checkpoint_of_a_later_start_gives_up_those_that_were_fallen_back_behind() {
    let store = memory();
    let (mut log, _) = take_over(&store).unwrap();
    log.append(&claims(1..=30)).unwrap();
    for border in [10, 20, 30] {
        save(&store, &mut log, border, None).unwrap();
    }
    let (mut log, _) = take_over(&store).unwrap();
    save(&store, &mut log, 20, None).unwrap();
    let (_, history) = take_over(&store).unwrap();
    let kept: Vec<_> = history.checkpoints.iter().map(|kept| (kept.epoch, kept.generation)).collect();
    assert_eq!(kept, [(10, 1), (20, 2)]);
    assert_eq!(epochs(&history.claims), (21..=30).collect::<Vec<_>>());
    assert_eq!(history.last_epoch, Some(30));
}

#[test]
fn what_breaks_the_order_is_refused_and_not_appended() {
    let store = memory();
    let (mut log, _) = take_over(&store).unwrap();
    log.append(&claims([5, 6])).unwrap();
    save(&store, &mut log, 10, None).unwrap();
    save(&store, &mut log, 20, Some(10)).unwrap();
    save(&store, &mut log, 30, None).unwrap();
    let before = store.list("log/").unwrap();
    for (entry, why) in [
        (claims([6]), "6 is claimed"),
        (claims([8, 7]), "7 is claimed"),
        (claims([]), "no epoch"),
        (checkpoint(40, 2, None), "generation 2"),
        (checkpoint(30, 1, None), "not after 30"),
        (checkpoint(40, 1, Some(25)), "changes to 25"),
        (checkpoint(40, 1, Some(20)), "changes to 20"),
        (checkpoint(40, 1, Some(40)), "changes to 40"),
        (Entry::Seal(seal()), "seal of generation 0"),
    ] {
        let error = log.append(&entry).unwrap_err();
        assert!(matches!(&error, LogError::Refused(text) if text.contains(why)), "{error}");
    }
    assert_eq!(store.list("log/").unwrap(), before);
    log.append(&claims([7])).unwrap();
    let (mut log, _) = take_over(&store).unwrap();
    let error = log.append(&checkpoint(40, 2, Some(30))).unwrap_err();
    assert!(error.to_string().contains("no checkpoint of this start"), "{error}");
}

#[test]
fn a_seal_that_is_not_wanted_leaves_the_log_as_it_is() {
    let store = memory();
    take_over(&store).unwrap();
    let before = store.list("").unwrap();
    let refused = EpochLog::take_over(store.clone(), |history| {
        assert_eq!(history.generation, 2);
        Err("another key".into())
    });
    assert_eq!(refused.err(), Some(LogError::Refused("another key".into())));
    assert_eq!(store.list("").unwrap(), before);
}

#[test]
fn who_was_taken_over_is_fenced_for_ever() {
    let store = memory();
    let (mut old, _) = take_over(&store).unwrap();
    old.append(&claims([1])).unwrap();
    let (mut new, history) = take_over(&store).unwrap();
    assert_eq!(epochs(&history.claims), [1]);
    for _ in 0..2 {
        assert_eq!(old.append(&claims([2])), Err(LogError::Fenced { generation: 1, by: 2 }));
    }
    new.append(&claims([3])).unwrap();
    assert_eq!(old.append(&claims([4])), Err(LogError::Fenced { generation: 1, by: 2 }));
    assert_eq!(epochs(&take_over(&store).unwrap().1.claims), [1, 3]);
}

#[test]
fn who_comes_back_after_the_log_was_pruned_is_fenced_as_well() {
    let store = memory();
    let (mut old, _) = take_over(&store).unwrap();
    old.append(&claims([1])).unwrap();
    for start in 1..5 {
        let (mut log, _) = take_over(&store).unwrap();
        for step in 1..5 {
            let epoch = 100 * start + 10 * step;
            log.append(&claims([epoch - 1])).unwrap();
            save(&store, &mut log, epoch, None).unwrap();
            log.prune(1).unwrap();
        }
    }
    // Everything around it is gone, but not the seal that stands in its way.
    let names = store.list("log/").unwrap();
    assert!(names.contains(&name(3)) && !names.contains(&name(2)) && !names.contains(&name(4)), "{names:?}");
    assert_eq!(old.append(&claims([2])), Err(LogError::Fenced { generation: 1, by: 2 }));
    // And it removes nothing that somebody needs.
    let before = store.list("").unwrap();
    old.prune(1).unwrap();
    assert_eq!(store.list("").unwrap(), before);
}

#[test]
fn of_successors_that_race_all_but_the_last_are_fenced_and_no_claim_is_lost() {
    let store = memory();
    let next = Arc::new(AtomicU64::new(1));
    let successor = |store: SharedStore, next: Arc<AtomicU64>| {
        std::thread::spawn(move || {
            let (mut log, _) = take_over(&store).unwrap();
            let mut claimed = Vec::new();
            for _ in 0..20 {
                let epoch = next.fetch_add(1, Ordering::SeqCst);
                match log.append(&claims([epoch])) {
                    Ok(()) => claimed.push(epoch),
                    Err(LogError::Fenced { generation, by }) if by > generation => {
                        return (log.generation(), claimed, true);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            (log.generation(), claimed, false)
        })
    };
    let successors: Vec<_> = (0..8).map(|_| successor(store.clone(), next.clone())).collect();
    let mut ends: Vec<(u64, Vec<Epoch>, bool)> = successors.into_iter().map(|thread| thread.join().unwrap()).collect();
    ends.sort();
    assert!(ends.windows(2).all(|pair| pair[0].0 < pair[1].0), "every generation once");
    assert!(!ends.last().unwrap().2, "nobody was after the last");
    let acknowledged: Vec<Epoch> = ends.iter().flat_map(|(_, claimed, _)| claimed.clone()).collect();
    let (_, history) = take_over(&store).unwrap();
    assert_eq!(epochs(&history.claims), acknowledged, "in the order of generations, none lost, none added");
}

/// Repeats what may be repeated.
fn stubborn<T>(mut attempt: impl FnMut() -> Result<T, LogError>) -> T {
    loop {
        match attempt() {
            Err(LogError::Store(error)) if error.may_be_retried() => {}
            done => return done.unwrap(),
        }
    }
}

/// A store, and the same answering "unavailable" to every other creation, having done it or not.
fn flaky(seed: u64) -> (SharedStore, SharedStore) {
    let inner = memory();
    let random = std::sync::Mutex::new(ChaCha8Rng::seed_from_u64(seed));
    let flaky = creating(inner.clone(), move |store, name, bytes| {
        let (fails, late) = {
            let mut random = random.lock().unwrap();
            (random.random_bool(0.5), random.random_bool(0.5))
        };
        match (fails, late) {
            (false, _) => store.create(name, bytes),
            (true, false) => Err(StoreError::time_out(name)),
            (true, true) => store.create(name, bytes).and(Err(StoreError::time_out(name))),
        }
    });
    (inner, flaky)
}

#[test]
fn an_entry_whose_answer_was_lost_is_appended_once() {
    for seed in 0..50 {
        let (inner, store) = flaky(seed);
        let (mut log, _) = stubborn(|| take_over(&store));
        let mut came_at_once = 0;
        for epoch in [10, 20, 30, 40, 50] {
            stubborn(|| log.append(&claims([epoch])));
            stubborn(|| save(&store, &mut log, epoch, None));
            came_at_once += u32::from(log.append(&claims([epoch + 1])).is_ok());
            // Another beginning of the log must not make it another entry.
            log.prune(9).unwrap();
            let again = loop {
                match log.append(&claims([epoch + 1])) {
                    Err(LogError::Store(_)) => {}
                    done => break done,
                }
            };
            came_at_once -= u32::from(matches!(again, Err(LogError::Refused(_))));
        }
        assert_eq!(came_at_once, 0, "seed {seed}: what was acknowledged is refused, what was not is taken");
        let (_, history) = take_over(&inner).unwrap();
        assert_eq!(epochs(&history.claims_since(10)), [11, 20, 21, 30, 31, 40, 41, 50, 51], "seed {seed}");
    }
}

#[test]
fn an_entry_of_unknown_fate_comes_before_the_next() {
    for seed in 0..50 {
        let (inner, store) = flaky(seed);
        let (mut log, _) = stubborn(|| take_over(&store));
        // Each is asked for once; one that failed stays first in line.
        let mut there: Vec<Epoch> = Vec::new();
        for epoch in 1..=10 {
            let first = log.pending.clone();
            if log.append(&claims([epoch])).is_ok() {
                there.push(epoch);
            }
            // It was first in line, and is not any more.
            if let (Some(Envelope { entry: Entry::Claims(first), .. }), true) = (first, log.pending.is_none()) {
                there.extend(epochs(&first));
            }
        }
        stubborn(|| log.append(&claims([11])));
        let found = epochs(&take_over(&inner).unwrap().1.claims);
        assert!(found.is_sorted() && found.ends_with(&[11]), "seed {seed}: {found:?}");
        assert!(there.iter().all(|epoch| found.contains(epoch)), "seed {seed}: {there:?} in {found:?}");
    }
}

#[test]
fn a_store_that_overwrites_is_found_out_at_the_start() {
    // It does not know the condition.
    let store = creating(memory(), |store, name, bytes| {
        store.delete(name)?;
        store.create(name, bytes)
    });
    let error = take_over(&store).err().unwrap();
    assert!(error.to_string().contains("If-None-Match"), "{error}");
}

/// A store in which something happens right after it was listed first.
struct Moving {
    inner: SharedStore,
    happens: std::sync::Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Store for Moving {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        self.inner.create(name, bytes)
    }
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(name)
    }
    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let names = self.inner.list(prefix)?;
        let happens = self.happens.lock().unwrap().take();
        happens.into_iter().for_each(|happens| happens());
        Ok(names)
    }
    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.inner.delete(name)
    }
}

#[test]
fn who_reads_while_the_writer_prunes_begins_again() {
    let inner = memory();
    let (mut log, _) = take_over(&inner).unwrap();
    (1..6).for_each(|epoch| log.append(&claims([epoch])).unwrap());
    let store = inner.clone();
    let goes_on = move || {
        for epoch in [10, 20, 30, 40] {
            log.append(&claims([epoch])).unwrap();
            save(&store, &mut log, epoch, None).unwrap();
            log.prune(1).unwrap();
        }
        assert!(store.get(&name(3)).unwrap().is_none(), "it was removed");
    };
    let happens = std::sync::Mutex::new(Some(Box::new(goes_on) as Box<dyn FnOnce() + Send>));
    let moving: SharedStore = Arc::new(Moving { inner, happens });
    let (_, history) = take_over(&moving).unwrap();
    assert_eq!(history.checkpoints.last().map(|kept| kept.epoch), Some(40));
    assert_eq!(history.last_epoch, Some(40));
}
