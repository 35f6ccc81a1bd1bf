//! Decoders that are saved and loaded, on any number of workers, say what one that went on says; whatever is loaded, nothing panics.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::stream::{bundle, heart_rate};
use super::*;
use crate::runtime::survive::testing::{Saves, mutilated};
use crate::runtime::survive::{Blocks, Extent, Survive};

const STEPS: usize = 24;

fn topics() -> Topics {
    Topics::new(["bp-obs".to_owned(), "labs".to_owned()])
}

fn partitions() -> Vec<Partition> {
    (0..7).map(|at| Partition { topic: TopicId(at % 2), number: at as i32 / 2 }).collect()
}

fn decoders(workers: usize, files: bool) -> Vec<Decoder> {
    (0..workers).map(|_| Decoder::new(settings(&spec(), files)).with_topics(topics())).collect()
}

/// Makes a mark of a partition.
type MarkOf = fn(Partition) -> Mark;

/// What is read of one partition in one step: the payloads, then a mark. Every partition is opened first, some end and are opened again.
fn step(rng: &mut ChaCha8Rng, number: usize, ended: &mut bool) -> (Vec<String>, Option<MarkOf>) {
    if number == 0 || (*ended && rng.random_bool(0.3)) {
        *ended = false;
        return (Vec::new(), Some(Mark::Opened));
    }
    if *ended {
        return (Vec::new(), None);
    }
    let payload = |rng: &mut ChaCha8Rng| {
        let at = format!("2026-01-{:02}T{:02}:30:00Z", 1 + number / 24, rng.random_range(0..24));
        match rng.random_range(0..10) {
            0 => bundle(&["a", "b", "c"]),
            1 => "{".to_owned(),
            2 => heart_rate("b", &at).replace("final", "entered-in-error"),
            _ => heart_rate("a", &at),
        }
    };
    let payloads = (0..rng.random_range(0..4)).map(|_| payload(rng)).collect();
    let mark: Option<MarkOf> = match rng.random_range(0..8) {
        0 => Some(Mark::Idle),
        1 => {
            *ended = true;
            Some(Mark::Ended)
        }
        _ => None,
    };
    (payloads, mark)
}

/// What decoders say of each step and partition. Before some steps they are saved, and at `moves` others take over, as many as it says.
fn run(seed: u64, files: bool, moves: &[(usize, usize)]) -> Vec<String> {
    let (topics, mut rng, mut said) = (topics(), ChaCha8Rng::seed_from_u64(seed), Vec::new());
    let (mut machines, mut saves) = (decoders(1, files), Saves::default());
    let mut ended = vec![false; partitions().len()];
    for number in 0..STEPS {
        if !moves.is_empty() && number % 3 == 1 {
            saves.save(if number == 1 || number == 13 { Extent::All } else { Extent::Changed }, &mut machines);
        }
        if let Some((_, workers)) = moves.iter().find(|(at, _)| *at == number) {
            machines = decoders(*workers, files);
            saves.load(&mut machines);
        }
        for (at, partition) in partitions().into_iter().enumerate() {
            let (payloads, mark) = step(&mut rng, number, &mut ended[at]);
            let mut batch = Batch::default();
            for payload in payloads {
                let slice = batch.0.arena.push(payload.as_bytes());
                batch.push(partition, number as i64, Payload::Bytes(slice), None);
            }
            batch.0.marks.extend(mark.map(|mark| mark(partition)));
            let owner = (topics.route(partition) % machines.len() as u64) as usize;
            let mut out = batch.decode(&mut machines[owner]);
            let text = show(&mut out);
            said.push(format!("{number} {partition:?}: {text}{:?} {:?}", out.ticks, out.late));
        }
        let idle: i64 = machines.iter().map(|machine| machine.progress.idle()).sum();
        said.push(format!("{number}: {idle} idle"));
    }
    said
}

#[test]
fn decoders_that_were_saved_and_loaded_go_on_as_one_that_was_not() {
    for seed in 0..20 {
        for files in [false, true] {
            let alone = run(seed, files, &[]);
            for moves in [[(4, 1), (10, 2), (16, 3)], [(1, 2), (7, 4), (19, 1)], [(13, 4), (16, 2), (22, 3)]] {
                assert_eq!(run(seed, files, &moves), alone, "seed {seed}, {moves:?}");
            }
        }
    }
}

#[test]
fn what_has_not_moved_is_not_saved_again() {
    let mut decoder = decoders(1, false).remove(0);
    Batch::default().marked(Mark::Opened(ZERO)).decode(&mut decoder);
    let saved = |decoder: &mut Decoder, extent| {
        let mut blocks = Blocks::default();
        decoder.save(extent, &mut blocks);
        blocks.bytes()
    };
    assert!(saved(&mut decoder, Extent::Changed) > 0, "the first time everything is new");
    assert_eq!(saved(&mut decoder, Extent::Changed), 0);
    assert!(saved(&mut decoder, Extent::All) > 0);
    Batch::of(heart_rate("a", "2026-01-01T00:00:00Z").as_bytes()).decode(&mut decoder);
    assert!(saved(&mut decoder, Extent::Changed) > 0);
}

#[test]
fn a_mutilated_block_is_corrupt_or_possible() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut machines, mut saves, mut refused) = (decoders(1, true), Saves::default(), 0);
    for partition in partitions() {
        let mut batch = Batch::default().marked(Mark::Opened(partition));
        let slice = batch.0.arena.push(heart_rate("a", "2026-01-01T00:00:00Z").as_bytes());
        batch.push(partition, 0, Payload::Bytes(slice), None);
        batch.decode(&mut machines[0]);
    }
    saves.save(Extent::All, &mut machines);
    let blocks: Vec<_> = saves.blocks().collect();
    for _ in 0..3_000 {
        let block = mutilated(blocks[rng.random_range(0..blocks.len())], &mut rng);
        let mut machine = decoders(1, true).remove(0);
        match machine.load(&block) {
            Err(corrupt) => refused += usize::from(corrupt.to_string().contains("place of a partition")),
            Ok(()) => {
                Batch::of(heart_rate("a", "2026-01-01T00:00:00Z").as_bytes()).decode(&mut machine);
                machine.save(Extent::All, &mut Blocks::default());
            }
        }
    }
    assert!(refused > 1_000, "{refused}");
}
