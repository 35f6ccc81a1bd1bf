//! What these tests prove: machines that are saved and loaded, on any number of workers, emit in every epoch what one that went on emits; a run that is
//! continued after the end of its input comes to the rows of one that was not interrupted; whatever is loaded, nothing panics; the bytes of `saved.rs`.

use std::time::Instant;

use super::*;
use crate::patient::Stage;
use crate::runtime::driver::Keyed;
use crate::runtime::metrics::Metrics;
use crate::runtime::survive::testing::{Saves, mutilated};
use crate::runtime::survive::{Blocks, Extent, Survive, key_group};
use crate::source::Share;

type EpochInput = (Vec<Intake>, Vec<Tick>);

fn machines(workers: usize, settings: &Settings) -> Vec<Patients> {
    (0..workers).map(|worker| Patients::new(settings.clone()).with_share(Share { worker, workers })).collect()
}

/// Cuts the partitions into epochs at random. All are opened in the first, each goes ahead at its own pace and is idle at times.
fn schedule(partitions: &[PartitionState], rng: &mut ChaCha8Rng, epoch_max: usize) -> Vec<EpochInput> {
    let tick = |state: &PartitionState, watermark, idle| Tick { partition: state.partition, watermark, idle };
    let opened = partitions.iter().map(|state| tick(state, EventTime::MIN, false)).collect();
    let mut epochs = vec![(Vec::new(), opened)];
    let mut read = vec![0; partitions.len()];
    while partitions.iter().zip(&read).any(|(state, read)| *read < state.intakes.len()) {
        let (mut intakes, mut ticks) = (Vec::new(), Vec::new());
        for (state, read) in partitions.iter().zip(&mut read).filter(|(state, read)| **read < state.intakes.len()) {
            let count = rng.random_range(0..=epoch_max).min(state.intakes.len() - *read);
            intakes.extend(state.intakes[*read..*read + count].iter().map(|(intake, _)| intake.clone()));
            *read += count;
            let last = read.checked_sub(1).map_or(EventTime::MIN, |last| state.intakes[last].1);
            let ended = *read == state.intakes.len();
            ticks.push(tick(state, if ended { EventTime::MAX } else { last }, count == 0 && rng.random_bool(0.5)));
        }
        epochs.push((intakes, ticks));
    }
    epochs
}

/// One epoch on several workers, their outputs put together.
fn apply(workers: &mut [Patients], epoch: u64, (intakes, ticks): &EpochInput) -> PatientOutput {
    let mut all = PatientOutput::default();
    let count = workers.len() as u64;
    for (number, worker) in workers.iter_mut().enumerate() {
        let own = |intake: &&Intake| key_group(intake.patient().hash64()) % count == number as u64;
        worker.apply(epoch, &mut intakes.iter().filter(own).cloned().collect(), ticks, &mut all).unwrap();
    }
    all.windows.sort_by_key(|row| (row.end, row.patient));
    all
}

/// Everything emitted, whichever worker it came from.
fn text(mut out: PatientOutput) -> String {
    let rows = out.scorable.features.chunks(FEATURE_NAMES.len()).zip(&out.scorable.demographics);
    let readings = out.scorable.readings.iter().zip(&out.scorable.replaces).zip(rows);
    let mut lines: Vec<String> = readings.map(|row| format!("{row:?}")).collect();
    lines.extend(out.scorable.withdrawn.iter().map(|withdrawn| format!("{withdrawn:?}")));
    lines.extend(out.scorable.moved.iter().map(|moved| format!("{moved:?}")));
    lines.extend(out.scorable.flawed.iter().map(|flawed| format!("{flawed:?}")));
    lines.extend(out.tally.drain().map(|ending| format!("{ending:?}")));
    lines.sort_unstable();
    lines.extend(out.windows.iter().map(|row| format!("{row:?}")));
    lines.join("\n")
}

/// Runs on one machine, or on workers that are saved now and then, and give way to any number of others.
fn run(epochs: &[EpochInput], settings: &Settings, mut moves: Option<&mut ChaCha8Rng>) -> Vec<String> {
    let (mut workers, mut saves, mut based) = (machines(1, settings), Saves::default(), false);
    let mut texts = Vec::new();
    for (epoch, input) in epochs.iter().enumerate() {
        if let Some(rng) = &mut moves
            && rng.random_bool(0.4)
        {
            let extent = if based && rng.random_bool(0.8) { Extent::Changed } else { Extent::All };
            based = true;
            saves.save(extent, &mut workers);
            if rng.random_bool(0.5) {
                let patients: usize = workers.iter().map(Patients::patients).sum();
                workers = machines(rng.random_range(1..=4), settings);
                saves.load(&mut workers);
                assert_eq!(workers.iter().map(Patients::patients).sum::<usize>(), patients);
            }
        }
        texts.push(text(apply(&mut workers, epoch as u64, input)));
    }
    texts
}

fn partitions(seed: u64, spec: &PatientSpec, horizon: EventSpan) -> Vec<PartitionState> {
    let rng = ChaCha8Rng::seed_from_u64(seed);
    let mut generator = Generator { rng, horizon, spec: spec.clone(), numbered: false, observations: 1_000 };
    let count = 1 + seed as i32 % 3;
    (0..count).map(|number| generator.partition(number, count, 150)).collect()
}

#[test]
fn machines_that_were_saved_and_loaded_go_on_as_one_that_was_not() {
    for seed in 0..40 {
        let spec = PatientSpec { hop: EventSpan::from_seconds([1_200, 3_600][seed as usize % 2]), ..spec() };
        let horizon = if seed % 3 == 0 { hours(48) } else { hours(3) };
        let settings = settings(&spec, horizon);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let epochs = schedule(&partitions(seed, &spec, horizon), &mut rng, [2, 8, 30][seed as usize % 3]);
        let alone = run(&epochs, &settings, None);
        for _ in 0..4 {
            let moved = run(&epochs, &settings, Some(&mut rng));
            for (epoch, (moved, alone)) in moved.iter().zip(&alone).enumerate() {
                assert_eq!(moved, alone, "seed {seed}, epoch {epoch}");
            }
        }
    }
}

#[test]
fn a_run_that_is_continued_after_the_end_comes_to_the_rows_of_one_that_was_not_interrupted() {
    for seed in 0..40 {
        let (spec, horizon) = (spec(), hours(48));
        let settings = Settings { partitions_end: false, ..settings(&spec, horizon) };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let whole = partitions(seed, &spec, horizon);
        let expected = replay(&whole, &settings, 1, seed, 1_000_000);
        let (mut workers, mut saves, mut found) = (machines(2, &settings), Saves::default(), Expected::default());
        let (mut read, mut epoch) = (vec![0; whole.len()], 0);
        for part in 0..3 {
            // To be continued: each partition goes on from where it was, by a tick that says so.
            let mut ends = Vec::new();
            let parts = whole.iter().zip(&read).map(|(state, read)| {
                let left = state.intakes.len() - read;
                let end = read + if part == 2 { left } else { rng.random_range(0..=left / 2) };
                ends.push(end);
                let intakes = state.intakes[*read..end].to_vec();
                PartitionState {
                    partition: state.partition,
                    offset: 0,
                    newest: state.newest,
                    intakes,
                    sent: Vec::new(),
                }
            });
            let parts: Vec<_> = parts.collect();
            let mut epochs = schedule(&parts, &mut rng, 20);
            for ((state, tick), read) in whole.iter().zip(&mut epochs[0].1).zip(&read) {
                tick.watermark = read.checked_sub(1).map_or(EventTime::MIN, |last| state.intakes[last].1);
            }
            let all =
                parts.iter().map(|state| Tick { partition: state.partition, watermark: EventTime::MAX, idle: false });
            epochs.push((Vec::new(), all.collect()));
            for (number, input) in epochs.iter().enumerate() {
                if number == epochs.len() / 2 {
                    saves.save(Extent::All, &mut workers);
                }
                gather(&mut found, apply(&mut workers, epoch, input));
                epoch += 1;
            }
            saves.save(Extent::Changed, &mut workers);
            workers = machines(rng.random_range(1..=3), &settings);
            saves.load(&mut workers);
            read = ends;
        }
        found.withdrawn.sort();
        assert_same(&found, &expected, 0.0, &format!("seed {seed}"));
    }
}

#[test]
fn a_window_that_the_end_of_input_closed_is_emitted_again_only_if_it_changes() {
    let lines = [
        "ann a 10:00 120/80; bob b 10:10 130/80; tick 10:05",
        "end",
        "tick 10:05",
        "ann c 10:30 150/80; tick 10:40",
        "tick 11:00",
    ];
    expect![[r#"
        0: a 10:00 120/80 final OnTime
        0: b 10:10 130/80 final OnTime
        1: ann [10:00, 11:00) n=1 mean=120 above=0 below=0 r0
        1: bob [10:00, 11:00) n=1 mean=130 above=0 below=0 r0
        3: c 10:30 150/80 final OnTime
        4: ann [10:00, 11:00) n=2 mean=135 above=1800 below=0 r0
    "#]]
    .assert_eq(&told(hours(48), &lines, true));
}

#[test]
fn history_is_kept_of_a_partition_that_may_go_on() {
    for (partitions_end, kept) in [(true, "chains: []"), (false, "chains: [Chain")] {
        let settings = Settings { partitions_end, ..settings(&spec(), hours(48)) };
        let mut script = Script { patients: Patients::new(settings), offset: 0 };
        script.epoch(0, "ann a 10:00 120/80; end").unwrap();
        assert!(format!("{:?}", script.patients.slab.get(0)).contains(kept), "{kept}");
    }
}

#[test]
fn only_those_who_were_touched_are_saved_again_and_those_who_were_loaded_are_not() {
    let mut script = Script::new(&spec(), hours(48));
    script.epoch(0, "ann a 10:00 120/80; bob b 10:10 130/80; eve born 1950 female; tick 10:10").unwrap();
    let saved = |patients: &mut Patients, extent| {
        let mut blocks = Blocks::default();
        patients.save(extent, &mut blocks);
        blocks.bytes()
    };
    let first = saved(&mut script.patients, Extent::Changed);
    let watermark = saved(&mut script.patients, Extent::Changed);
    assert_eq!(saved(&mut script.patients, Extent::All), first, "before anything was saved, all was changed");
    script.epoch(1, "eve born 1951 female; eve born 1951 female; tick 12:00").unwrap();
    let one = saved(&mut script.patients, Extent::Changed);
    assert!(watermark < one && one < watermark + 40, "{one} of {first}, {watermark} of them for the watermark");
    let (mut saves, mut loaded) = (Saves::default(), machines(1, &settings(&spec(), hours(48))));
    saves.save(Extent::All, &mut [script.patients]);
    saves.load(&mut loaded);
    assert_eq!(saved(&mut loaded[0], Extent::Changed), watermark);
}

#[test]
fn a_contribution_is_saved_once_until_it_changes_or_everything_is_saved() {
    let mut script = Script::new(&spec(), hours(48));
    let readings: Vec<String> = (0..50).map(|minute| format!("ann r{minute} 10:{minute:02} 120/80")).collect();
    script.epoch(0, &format!("{}; tick 10:50", readings.join("; "))).unwrap();
    let saved = |patients: &mut Patients, extent| {
        let mut blocks = Blocks::default();
        patients.save(extent, &mut blocks);
        blocks.bytes()
    };
    let base = saved(&mut script.patients, Extent::All);
    let watermark = saved(&mut script.patients, Extent::Changed);
    script.epoch(1, "ann new 10:51 130/80; tick 10:51").unwrap();
    let one = saved(&mut script.patients, Extent::Changed) - watermark;
    script.epoch(2, "ann r7 10:07 125/80 v2; tick 10:52").unwrap();
    let corrected = saved(&mut script.patients, Extent::Changed) - watermark;
    assert!(base > 50 * 50 && (60..400).contains(&one) && (60..400).contains(&corrected), "{base} {one} {corrected}");
    assert!(saved(&mut script.patients, Extent::All) > base);
}

/// The lines' output; if `saved`, everybody is saved and loaded after every line.
fn told(horizon: EventSpan, lines: &[&str], saved: bool) -> String {
    let (mut script, mut saves) = (Script::new(&spec(), horizon), Saves::default());
    let mut text = String::new();
    for (epoch, line) in lines.iter().enumerate() {
        text += &print(epoch, &mut script.epoch(epoch as u64, line).unwrap());
        if saved {
            let mut workers = [script.patients];
            saves.save(if epoch == 0 { Extent::All } else { Extent::Changed }, &mut workers);
            let mut loaded = machines(1, &settings(&spec(), horizon));
            saves.load(&mut loaded);
            script.patients = loaded.remove(0);
        }
    }
    text
}

/// The lines' output, which is the same whether anything is saved or not.
fn told_in_either_case(horizon: EventSpan, lines: &[&str]) -> String {
    let alone = told(horizon, lines, false);
    assert_eq!(told(horizon, lines, true), alone);
    alone
}

#[test]
fn a_version_that_held_until_another_partition_had_a_higher_one_is_loaded_as_one_that_does_not_hold() {
    let lines = [
        "ann a 10:00 120/80 v1; tick 10:05; tick 10:05 @1",
        "ann a 10:00 130/80 v2 @1",
        "ann a 10:00 140/80 v3 @1",
        "tick 11:00; tick 11:00 @1",
    ];
    let told = told_in_either_case(hours(48), &lines);
    assert!(told.contains("n=1 mean=140"), "{told}");
}

#[test]
fn a_version_that_moved_beyond_the_horizon_is_not_loaded_as_it_was_before() {
    let lines =
        ["ann a 10:00 120/80 v1; tick 12:00", "ann a 07:00 120/80 v2 late", "ann a 11:50 150/80 v1; tick 13:00"];
    let told = told_in_either_case(hours(3), &lines);
    assert!(told.contains("2: a 11:50 150/80"), "{told}");
}

/// Both in one epoch: the correction is still within the horizon, and behind it when the epoch is saved.
#[test]
fn a_version_that_was_forgotten_before_it_was_saved_leaves_none_that_it_replaced() {
    let lines = [
        "ann a 11:55 120/80 v1; tick 12:00",
        "ann a 09:05 120/80 v2 late; tick 14:30",
        "ann a 14:40 150/80 v1; tick 14:45",
        "tick 16:00",
    ];
    let told = told_in_either_case(hours(3), &lines);
    assert!(told.contains("2: a 14:40 150/80"), "{told}");
}

#[test]
fn more_patients_than_may_be_are_loaded_and_a_new_one_is_refused() {
    let (mut script, mut saves) = (Script::new(&spec(), hours(48)), Saves::default());
    script.epoch(0, "ann a 10:00 120/80; bob b 10:10 130/80").unwrap();
    saves.save(Extent::All, &mut [script.patients]);
    let small = settings(&PatientSpec { patients_max: 1, ..spec() }, hours(48));
    let mut loaded = machines(1, &small);
    saves.load(&mut loaded);
    let mut script = Script { patients: loaded.remove(0), offset: 10 };
    assert!(script.epoch(1, "ann a 10:00 120/80; bob c 10:10 130/80").is_ok());
    assert_eq!(script.epoch(2, "eve d 10:00 120/80").unwrap_err(), PatientsFull { limit: 1 });
}

#[test]
fn saved_signals_find_their_columns_in_another_flow() {
    let (mut script, mut saves) = (Script::new(&spec(), hours(48)), Saves::default());
    script.epoch(0, "ann a 10:00 120/80; ann b 10:10 130/90; tick 10:10").unwrap();
    saves.save(Extent::All, &mut [script.patients]);
    let correction = CorrectionSpec { horizon: hours(48) };
    let mut loaded = machines(1, &Settings::new(&spec(), &correction, vec![HEART_RATE, DIASTOLIC], true));
    saves.load(&mut loaded);
    let out = apply(&mut loaded, 1, &(Vec::new(), vec![tick(EventTime::MAX)]));
    let aggregates = &out.windows[0].aggregates;
    assert!(aggregates[0].is_none());
    assert_eq!(aggregates[1].map(|diastolic| (diastolic.count, diastolic.mean)), Some((2, 85.0)));
}

fn tick(watermark: EventTime) -> Tick {
    Tick { partition: Partition::default(), watermark, idle: false }
}

#[test]
fn a_mutilated_block_is_corrupt_or_possible() {
    let (spec, horizon) = (spec(), hours(48));
    let settings = settings(&spec, horizon);
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let epochs = schedule(&partitions(5, &spec, horizon), &mut rng, 30);
    let (mut workers, mut saves, mut refused) = (machines(1, &settings), Saves::default(), 0);
    let (before, after) = epochs.split_at(epochs.len() / 2);
    for (epoch, input) in before.iter().enumerate() {
        apply(&mut workers, epoch as u64, input);
    }
    saves.save(Extent::All, &mut workers);
    let mut blocks: Vec<&[u8]> = saves.blocks().collect();
    blocks.sort_by_key(|block| std::cmp::Reverse(block.len()));
    let input: EpochInput = (after.iter().flat_map(|(intakes, _)| intakes.clone()).collect(), after[0].1.clone());
    let mut input = input;
    input.0.sort_by_key(Intake::position);
    for round in 0..1_500 {
        let mut machine = machines(1, &settings);
        // Six patients, and the watermark alone in all other groups.
        match machine[0].load(&mutilated(blocks[round % 7], &mut rng)) {
            Err(corrupt) => refused += usize::from(corrupt.what == "patient"),
            Ok(()) => {
                machine[0].loaded();
                apply(&mut machine, 1_000, &input);
                machine[0].save(Extent::All, &mut Blocks::default());
            }
        }
    }
    assert!(refused > 500, "{refused}");
}

#[test]
fn what_score_is_told_of_progress_does_not_depend_on_batches() {
    let day = |days: i64| EventTime::from_micros(days * 86_400_000_000);
    let tick =
        |number, watermark| Tick { partition: Partition { number, ..Default::default() }, watermark, idle: false };
    let script: [&[Tick]; 5] = [
        &[tick(1, EventTime::MIN), tick(0, EventTime::MIN)],
        &[tick(0, day(3)), tick(1, day(1)), tick(0, day(4))],
        &[tick(0, day(4) + hours(23)), tick(1, day(1))],
        &[tick(1, day(2)), tick(0, day(5)), tick(0, EventTime::MAX)],
        &[tick(0, day(6)), tick(1, day(9)), tick(1, day(2))],
    ];
    let mut stage = Stage::new(Patients::new(settings(&spec(), hours(48))), Metrics::new());
    let mut told = Vec::new();
    for (epoch, ticks) in script.into_iter().enumerate() {
        let out = stage.apply(epoch as u64, &mut Vec::new(), ticks).unwrap().unwrap();
        told.push(out.scorable.progress.iter().map(|tick| (tick.partition.number, tick.watermark)).collect::<Vec<_>>());
        let mut saves = Saves::default();
        saves.save(Extent::All, &mut [stage]);
        let mut stages = [Stage::new(Patients::new(settings(&spec(), hours(48))), Metrics::new())];
        saves.load(&mut stages);
        [stage] = stages;
    }
    let expected: [&[(i32, EventTime)]; 5] =
        [&[], &[(0, day(4)), (1, day(1))], &[], &[(0, EventTime::MAX), (1, day(2))], &[]];
    assert_eq!(told, expected);
}

#[test]
fn bytes_are_as_the_page_says() {
    const PATIENTS: u64 = 20_000;
    let settings =
        Settings::new(&PatientSpec::default(), &CorrectionSpec { horizon: hours(30) }, COLUMNS[..3].to_vec(), true);
    let readings = settings.baseline_readings as i64;
    let mut workers = machines(1, &settings);
    let mut observations = 0;
    let mut epoch = |workers: &mut [Patients], number: u64, count: i64, watermark: EventTime| {
        let mut intakes = Vec::new();
        for patient in 0..PATIENTS {
            for reading in 0..count {
                observations += 1;
                let position = Position { offset: observations, ..Position::default() };
                let at = minutes(29_000_000 + number as i64 * 10_000 + reading * 5 + patient as i64 % 60);
                let mut facts = Facts { position, at, version: Version::Number(1), ..Facts::default() };
                let systolic = 100 + (patient as i64 * 7 + reading * 5) % 60;
                for (signal, value) in
                    [(SYSTOLIC, systolic), (DIASTOLIC, systolic - 40), (MEAN_ARTERIAL, systolic - 27)]
                {
                    facts.signals.insert(signal, value as f64);
                }
                intakes.push(Intake::Reading(Reading {
                    patient: spread(patient),
                    observation: spread(observations as u64),
                    facts,
                }));
            }
        }
        apply(workers, number, &(intakes, vec![tick(watermark)]));
    };
    let measure = |workers: &mut Vec<Patients>, what: &str| {
        let mut saves = Saves::default();
        let start = Instant::now();
        saves.save(Extent::All, workers);
        let saved = start.elapsed();
        *workers = machines(1, &settings);
        let start = Instant::now();
        saves.load(workers);
        let (loaded, bytes) = (start.elapsed(), saves.bytes() as u64 / PATIENTS);
        let each = |time: std::time::Duration| time.as_nanos() as u64 / PATIENTS;
        println!("{what}: {bytes} bytes, {} ns to save, {} ns to load, a patient", each(saved), each(loaded));
        bytes
    };
    epoch(&mut workers, 1, readings, EventTime::MIN);
    let active = measure(&mut workers, "active");
    epoch(&mut workers, 2, 0, minutes(29_100_000));
    let rest = measure(&mut workers, "at rest");
    println!("{} bytes a contribution", (active - rest) / readings as u64);
    assert!((100..125).contains(&rest), "{rest}");
    assert!((50..70).contains(&((active - rest) / readings as u64)), "{active}");
}
