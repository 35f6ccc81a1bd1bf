//! Proves exactly once with the real graph: real workers, state machines, log and checkpoints, under a scheduler that picks the interleaving.
//!
//! ```text
//! seed ─> input, flow, crashes ─> process 0 ── dies ─> process 1 ── dies ─> … ─> the last one ends
//!                                    │ 1 to 5 workers, one step at a time, and hands (log, state, sinks), one message at a time
//!                                    └─ may go on for a while beside its successor
//! ```
//!
//! What came out is compared with what one worker makes of the epochs that were claimed, without a crash, in order:
//!
//! 1. The claims hold every record of every partition, once, in order.
//! 2. Whatever any hand was ever given, by a process that is dead or was succeeded too, is a row of that epoch: nothing conflicts.
//! 3. No process gives a hand a row twice, and every row was given to one: nothing is lost.
//! 4. The files that readers see hold every row once: nothing is lost or doubled.
//! 5. The same seed gives the same events: a failing seed is a recording.
//!
//! A process dies between two turns, or in the middle of creating an object of the store, which is then there or not. Answers of the store get lost.
//!
//! `WINDKESSEL_SEEDS=100000 cargo test --lib simulation` runs more than the 1,000 of an ordinary test; `WINDKESSEL_SEED=17` runs one, and prints its events.

mod input;
mod process;
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::failure::Cause;
use super::host::simulated::Time;
use crate::config::Flow;
use crate::vocabulary::Partition;
use input::Input;
use process::{Process, Setting};
use world::{Found, Reach, World};

/// Seeds of an ordinary test.
const SEEDS: u64 = 1_000;
/// No simulation needs nearly as many turns.
const TURNS_MAX: usize = 200_000;
const FLOW: &str = r#"
name = "simulated"
[source]
kind = "kafka"
brokers = "nowhere:1"
topics = ["bp-obs"]
[decode]
conditions = true
[pseudonymise]
key_env = "NONE"
[patient]
window = "1h"
hop = "30m"
disorder = "10m"
lateness = "1h"
[audit]
window = "1h"
reference_windows = 2
readings_min = 3
[correction]
horizon = "30d"
"#;

/// How a process comes to its end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// The input has ended.
    Done,
    /// After so many turns, at once.
    Killed(usize),
    /// As it creates this object of the store.
    DiesAt(usize),
    /// It is asked to, after so many turns.
    Asked(usize),
    /// After so many turns somebody takes over, and it goes on for so many.
    Succeeded(usize, usize),
}

impl End {
    fn random(rng: &mut ChaCha8Rng) -> End {
        let most = *[60, 400, 1_500].choose(rng).expect("three");
        let turns = rng.random_range(1..most);
        match rng.random_range(0..10) {
            0..3 => End::Killed(turns),
            3..6 => End::DiesAt(rng.random_range(0..turns / 8 + 4)),
            6..7 => End::Asked(turns),
            _ => End::Succeeded(turns, rng.random_range(1..600)),
        }
    }
}

/// Everything that a seed decides, apart from the interleaving.
struct Scene {
    rng: ChaCha8Rng,
    world: Arc<World>,
    flow: Arc<Flow>,
    input: Arc<Input>,
    time: Time,
    tick: Duration,
    lost: f64,
}

impl Scene {
    fn of(seed: u64) -> Scene {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let input = Arc::new(Input::random(&mut rng));
        let flow = Arc::new(flow(&mut rng));
        let tick = Duration::from_millis([3, 10, 30].choose(&mut rng).copied().expect("three"));
        let lost = if rng.random_bool(0.3) { 0.1 } else { 0.0 };
        Scene { rng, world: World::new(), flow, input, time: Time::new(), tick, lost }
    }

    fn setting(&mut self, number: usize, workers: usize, dies_at: Option<usize>) -> Setting {
        let seed = self.rng.random();
        Setting {
            reach: Reach::new(&self.world, number, seed, dies_at, self.lost),
            world: Arc::clone(&self.world),
            flow: Arc::clone(&self.flow),
            input: Arc::clone(&self.input),
            time: self.time.clone(),
            number,
            workers,
            seed: seed >> 1,
            oracle: None,
        }
    }

    /// All processes, one after the other or for a while beside each other.
    fn play(&mut self) {
        let crashes = self.rng.random_range(0..=4);
        let mut earlier: Vec<(Process, usize)> = Vec::new();
        for number in 0..=crashes {
            let end = if number < crashes { End::random(&mut self.rng) } else { End::Done };
            let workers = *[1, 2, 2, 3, 3, 4, 5].choose(&mut self.rng).expect("seven");
            self.world.note(format!("{number}: begins with {workers} workers, {end:?}"));
            let dies_at = if let End::DiesAt(objects) = end { Some(objects) } else { None };
            let setting = self.setting(number, workers, dies_at);
            let Some(mut process) = Process::start(setting) else { continue };
            self.live(&mut process, end, &mut earlier);
            if self.world.is_wrong() {
                return;
            }
            if let End::Succeeded(_, more) = end {
                earlier.push((process, more));
            }
        }
    }

    /// One process until its end, and earlier ones that have not noticed yet.
    fn live(&mut self, process: &mut Process, end: End, earlier: &mut Vec<(Process, usize)>) {
        for turn in 0..TURNS_MAX {
            match end {
                End::Killed(turns) | End::Succeeded(turns, _) if turn >= turns => return,
                End::Asked(turns) if turn == turns => process.stop.ask(),
                _ => {}
            }
            if process.is_over() || self.world.is_wrong() {
                return;
            }
            if let Some(reported) = process.failed() {
                let expected = process.setting.reach.is_dead()
                    || reported.cause == Cause::Undelivered && matches!(end, End::Asked(_));
                if !expected {
                    self.world.wrong(format!("process {} failed: {}", process.setting.number, reported.text));
                }
                return;
            }
            self.time.pass(self.tick);
            if !earlier.is_empty() && self.rng.random_bool(0.4) {
                let at = self.rng.random_range(0..earlier.len());
                earlier[at].0.turn();
                earlier[at].1 -= 1;
                if earlier[at].1 == 0 || earlier[at].0.is_over() {
                    earlier.swap_remove(at);
                }
            } else {
                process.turn();
            }
        }
        self.world.wrong("the run does not end".to_owned());
    }

    /// What one worker makes of the claimed epochs.
    fn expected(&mut self, found: &Arc<Found>) -> Found {
        self.world = World::new();
        self.lost = 0.0;
        let mut flow = Flow::clone(&self.flow);
        flow.spec.inflight.epochs = 1_000;
        self.flow = Arc::new(flow);
        let setting = Setting { oracle: Some(Arc::clone(found)), ..self.setting(0, 1, None) };
        let mut process = Process::start(setting).expect("does not die");
        for _ in 0..TURNS_MAX {
            if process.is_over() || process.failed().is_some() {
                break;
            }
            self.time.pass(self.tick);
            process.round();
        }
        if !process.is_over() {
            self.world.wrong(format!("the comparison does not end: {:?}", process.failed()));
        }
        drop(process);
        self.world.found()
    }
}

/// The flow with random limits.
fn flow(rng: &mut ChaCha8Rng) -> Flow {
    static FLOWS: OnceLock<Flow> = OnceLock::new();
    let mut flow = FLOWS.get_or_init(|| Flow::parse(FLOW, &[]).unwrap()).clone();
    let spec = &mut flow.spec;
    spec.epoch.ms = *[10, 100, 1_000].choose(rng).expect("three");
    spec.epoch.bytes = *[1, 2_000, 1 << 20].choose(rng).expect("three");
    spec.inflight.epochs = *[1, 3, 16].choose(rng).expect("three");
    spec.state.checkpoint_seconds = *[0, 1, 3, 10].choose(rng).expect("four");
    spec.audit.enabled = rng.random_bool(0.4);
    spec.state.keep = rng.random_range(1..4);
    spec.state.base_every = rng.random_range(1..5);
    flow
}

/// Runs a seed: its events, or what is wrong with it.
fn simulate(seed: u64) -> (Vec<String>, Result<(), String>) {
    let mut scene = Scene::of(seed);
    scene.play();
    let mut found = scene.world.found();
    let events = std::mem::take(&mut found.events);
    if let Some(wrong) = found.wrong {
        return (events, Err(wrong));
    }
    let found = Arc::new(found);
    let result = complete(&found, &scene.input).and_then(|()| {
        let expected = scene.expected(&found);
        compare(&found, &expected)
    });
    (events, result)
}

/// Every record of every partition is claimed once, in order.
fn complete(found: &Found, input: &Input) -> Result<(), String> {
    let mut next: BTreeMap<Partition, i64> = BTreeMap::new();
    for claim in &found.claims {
        for (partition, start) in &claim.starts {
            // A later run says where it began to read, which is where the checkpoint before it had come to.
            if *next.entry(*partition).or_insert(*start) < *start {
                return Err(format!("{partition:?} goes on at {start} in epoch {}, not at {next:?}", claim.epoch));
            }
        }
        for (partition, end) in &claim.cuts {
            let next = next.entry(*partition).or_default();
            if *end < *next {
                return Err(format!("{partition:?} goes back to {end} in epoch {}", claim.epoch));
            }
            *next = *end;
        }
    }
    for (number, records) in input.partitions.iter().enumerate() {
        let end = next.get(&input::partition(number)).copied().unwrap_or(0);
        if end != records.len() as i64 {
            return Err(format!("partition {number} was read to {end} of {}", records.len()));
        }
    }
    Ok(())
}

/// Compares rows with those of the comparison.
fn compare(found: &Found, expected: &Found) -> Result<(), String> {
    if let Some(wrong) = &expected.wrong {
        return Err(wrong.clone());
    }
    let due: BTreeMap<_, _> = expected.delivered.iter().map(|((_, epoch), rows)| (*epoch, rows)).collect();
    let mut missing = due.clone();
    let mut left: BTreeMap<_, BTreeMap<&String, usize>> = missing
        .iter_mut()
        .map(|(epoch, rows)| (*epoch, rows.iter().map(|(row, count)| (row, *count)).collect()))
        .collect();
    for ((process, epoch), rows) in &found.delivered {
        for (row, count) in rows {
            match due.get(epoch).and_then(|due| due.get(row)) {
                None => {
                    return Err(format!(
                        "process {process} delivers in epoch {epoch} a row that is none: {row}; due: {:?}",
                        due.get(epoch)
                    ));
                }
                Some(due) if due < count => return Err(format!("process {process} delivers {count} times: {row}")),
                Some(_) => {}
            }
            if let Some(left) = left.get_mut(epoch) {
                left.remove(row);
            }
        }
    }
    if let Some((epoch, rows)) = left.iter().find(|(_, rows)| !rows.is_empty()) {
        return Err(format!("lost in epoch {epoch}: {rows:?}"));
    }
    for (epoch, rows) in &due {
        let named = found.named.get(epoch);
        for (row, count) in *rows {
            let there = named.and_then(|named| named.get(row)).copied().unwrap_or(0);
            if there != *count {
                return Err(format!("files hold {there} times, not {count} times, in epoch {epoch}: {row}"));
            }
        }
    }
    let count = |rows: &BTreeMap<String, usize>| rows.values().sum::<usize>();
    let (named, due): (usize, usize) =
        (found.named.values().map(count).sum(), due.values().map(|rows| count(rows)).sum());
    if named != due {
        return Err(format!("files hold {named} rows, not {due}"));
    }
    Ok(())
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_dies_when_and_in_whichever_order_things_happen_everything_is_there_once() {
    if let Some(seed) = variable("WINDKESSEL_SEED") {
        let (events, result) = simulate(seed);
        events.iter().for_each(|event| println!("{event}"));
        return result.unwrap();
    }
    let seeds = variable("WINDKESSEL_SEEDS").unwrap_or(SEEDS);
    let (next, begun) = (AtomicU64::new(0), Instant::now());
    let failed: Mutex<BTreeMap<u64, String>> = Mutex::default();
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                break;
            }
            if let (_, Err(wrong)) = simulate(seed) {
                failed.lock().unwrap().insert(seed, wrong);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| _ = scope.spawn(work)));
    let failed = failed.into_inner().unwrap();
    let some: Vec<_> = failed.iter().take(5).map(|(seed, wrong)| format!("WINDKESSEL_SEED={seed}: {wrong}")).collect();
    println!("{seeds} seeds in {:?}", begun.elapsed());
    assert!(failed.is_empty(), "{} of {seeds} seeds:\n{}", failed.len(), some.join("\n"));
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..10 {
        let (first, again) = (simulate(seed).0, simulate(seed).0);
        let differs = first.iter().zip(&again).position(|(first, again)| first != again);
        assert_eq!(differs.map(|at| (&first[at], &again[at])), None, "seed {seed}");
        assert_eq!(first.len(), again.len(), "seed {seed}");
    }
}
