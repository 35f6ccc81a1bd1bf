//! Scripts of one patient's readings with their alarms; a slow oracle that keeps every reading; and what must not matter:
//! interleaving of partitions, forgetting, saving and loading on any number of workers.

use expect_test::{Expect, expect};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::runtime::survive::testing::{Saves, mutilated};
use crate::runtime::survive::{Route, Survive};
use crate::vocabulary::TopicId;

fn spec(k: u32, n: u32, hold: &str, refractory: &str) -> ScoreSpec {
    ScoreSpec {
        alarm_k: k,
        alarm_n: n,
        alarm_hold: hold.parse().unwrap(),
        alarm_refractory: refractory.parse().unwrap(),
        ..ScoreSpec::default()
    }
}

fn minute(minutes: i64) -> EventTime {
    EventTime::from_micros(minutes * 60_000_000)
}

fn stream(number: i32) -> Stream {
    Stream { patient: Pseudonym([7; 16]), partition: Partition { topic: TopicId(0), number } }
}

/// Rules by letter, `-` for none.
fn letters(text: &str) -> Fired {
    text.bytes().filter(|&letter| letter != b'-').fold(0, |mask, letter| mask | 1 << (letter - b'a'))
}

fn print(fired: Fired) -> String {
    (0..16u8).filter(|rule| fired >> rule & 1 == 1).map(|rule| char::from(b'a' + rule)).collect()
}

/// Steps are `MINUTE RULES [late] [as NAME]` or `withdraw NAME`; the answer has a line an alarm, and the patients left at the end.
fn check(spec: &ScoreSpec, script: &str, expected: Expect) {
    let mut machine = Persistence::new(spec).unwrap();
    let mut answer = String::new();
    for (index, step) in script.split(';').enumerate() {
        let words: Vec<_> = step.split_whitespace().collect();
        let name = |word: &str| 1_000 + word.bytes().fold(0, |name, byte| name * 256 + u64::from(byte));
        if let ["withdraw", observation] = words[..] {
            machine.withdraw(stream(0), name(observation));
            continue;
        }
        let observation =
            words.iter().position(|word| *word == "as").map_or(index as u64, |before| name(words[before + 1]));
        let seen = Seen {
            stream: stream(0),
            at: minute(words[0].parse().unwrap()),
            observation,
            fired: letters(words[1]),
            on_time: !words.contains(&"late"),
        };
        let raised = machine.observe(&seen);
        if raised != 0 {
            answer.push_str(&format!("{}min {}\n", words[0], print(raised)));
        }
    }
    answer.push_str(&format!("{} in state\n", machine.len()));
    expected.assert_eq(&answer);
}

#[test]
fn two_firing_readings_in_a_row_alarm_and_one_does_not() {
    check(
        &spec(2, 2, "0s", "30m"),
        "0 a; 5 -; 10 a; 15 a; 20 -; 25 -",
        expect![[r#"
            15min a
            1 in state
        "#]],
    );
    check(
        &spec(2, 2, "0s", "30m"),
        "0 a; 5 -; 10 -",
        expect![[r#"
            0 in state
        "#]],
    );
}

#[test]
fn two_of_three_forgives_a_gap() {
    check(
        &spec(2, 3, "0s", "30m"),
        "0 a; 5 -; 10 a; 15 -; 20 -; 60 a",
        expect![[r#"
            10min a
            1 in state
        "#]],
    );
}

#[test]
fn the_alarm_needs_a_firing_reading_at_its_own_time() {
    // The hold time is over at minute 10, when the rule does not fire; it alarms with the next firing reading.
    check(
        &spec(1, 3, "10m", "0s"),
        "0 a; 10 -; 15 a",
        expect![[r#"
            15min a
            1 in state
        "#]],
    );
}

#[test]
fn the_firing_must_have_lasted_for_the_hold_time() {
    check(
        &spec(2, 2, "10m", "60m"),
        "0 a; 5 a; 9 a; 10 a; 11 a",
        expect![[r#"
            10min a
            1 in state
        "#]],
    );
    check(
        &spec(2, 2, "10m", "60m"),
        "0 a; 5 a; 9 -; 10 a; 11 a; 20 a",
        expect![[r#"
            20min a
            1 in state
        "#]],
    );
}

#[test]
fn after_an_alarm_the_same_rule_is_silent_and_others_are_not() {
    check(
        &spec(2, 2, "0s", "30m"),
        "0 a; 5 a; 10 ab; 15 ab; 34 a; 35 a; 40 -; 64 a; 65 a",
        expect![[r#"
            5min a
            15min b
            35min a
            65min a
            1 in state
        "#]],
    );
}

#[test]
fn different_rules_do_not_add_up() {
    check(
        &spec(2, 2, "0s", "30m"),
        "0 a; 5 b; 10 a; 15 b",
        expect![[r#"
            1 in state
        "#]],
    );
}

#[test]
fn a_late_reading_neither_raises_nor_clears() {
    check(
        &spec(2, 2, "0s", "30m"),
        "0 a; 5 a late; 7 - late; -3 -; 10 a",
        expect![[r#"
            10min a
            1 in state
        "#]],
    );
    check(
        &spec(2, 2, "0s", "30m"),
        "5 a late; 6 a late",
        expect![[r#"
            0 in state
        "#]],
    );
    // Out of order within the disorder: minute 3 is older than what is known and is no second reading.
    check(
        &spec(2, 2, "0s", "30m"),
        "5 a; 3 a",
        expect![[r#"
            1 in state
        "#]],
    );
}

#[test]
fn observations_of_one_instant_are_one_reading() {
    check(
        &spec(2, 2, "0s", "0s"),
        "5 a; 5 a; 5 ab; 6 b; 6 b",
        expect![[r#"
            6min b
            1 in state
        "#]],
    );
}

#[test]
fn a_correction_replaces_what_the_reading_said_and_never_raises() {
    check(
        &spec(2, 2, "0s", "30m"),
        "0 a as x; 0 - late as x; 5 a; 10 a",
        expect![[r#"
            10min a
            1 in state
        "#]],
    );
    check(
        &spec(2, 2, "0s", "30m"),
        "0 a; 5 - as x; 5 a as x; 10 a",
        expect![[r#"
            10min a
            1 in state
        "#]],
    );
    // The hold time starts again when a correction breaks the episode.
    check(
        &spec(2, 2, "10m", "30m"),
        "0 a; 5 a as x; 5 - late as x; 10 a; 15 a; 20 a",
        expect![[r#"
            20min a
            1 in state
        "#]],
    );
    // Moved to another time it is another reading.
    check(
        &spec(2, 2, "0s", "30m"),
        "0 a as x; 5 a as x; 10 a",
        expect![[r#"
            10min a
            1 in state
        "#]],
    );
}

#[test]
fn a_withdrawn_reading_no_longer_counts_but_the_refractory_time_stands() {
    check(
        &spec(2, 2, "0s", "30m"),
        "0 a as x; withdraw x; 5 a",
        expect![[r#"
            1 in state
        "#]],
    );
    check(
        &spec(2, 2, "0s", "30m"),
        "0 a as x; withdraw y; withdraw x",
        expect![[r#"
            0 in state
        "#]],
    );
    check(
        &spec(2, 2, "0s", "30m"),
        "0 a as x; 5 a as y; withdraw x; withdraw y; 10 a; 15 a; 35 a",
        expect![[r#"
            5min a
            35min a
            1 in state
        "#]],
    );
}

#[test]
fn a_patient_unheard_of_for_a_month_starts_afresh() {
    let month = MEMORY.micros() / 60_000_000;
    for (later, expected) in [(month, "2min a\n1 in state\n"), (month + 1, "1 in state\n")] {
        let mut machine = Persistence::new(&spec(2, 2, "0s", "0s")).unwrap();
        let mut see = |at, observation| {
            machine.observe(&Seen { stream: stream(0), at: minute(at), observation, fired: 1, on_time: true })
        };
        assert_eq!((see(0, 1), see(later, 2) != 0), (0, expected.starts_with("2min")));
    }
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let refused = |spec: ScoreSpec| Persistence::new(&spec).unwrap_err();
    assert_eq!(refused(spec(1, 0, "0s", "0s")), "score.alarm_n must be between 1 and 16, got 0");
    assert_eq!(refused(spec(1, 17, "0s", "0s")), "score.alarm_n must be between 1 and 16, got 17");
    assert!(Persistence::new(&spec(16, 16, "30d", "30d")).is_ok());
    assert!(
        refused(spec(3, 2, "0s", "0s")).starts_with("score.alarm_k must be between 1 and score.alarm_n, which is 2")
    );
    assert!(refused(spec(0, 2, "0s", "0s")).ends_with("got 0"));
    assert!(refused(spec(2, 2, "31d", "0s")).starts_with("score.alarm_hold must be at most 30d"));
    assert!(refused(spec(2, 2, "0s", "unbounded")).ends_with("got unbounded"));
}

// ---------------------------------------------------------------- oracle

/// Keeps everything and works everything out again at each reading. `past` is what was known after each reading that counted:
/// (time, rules) of every instant, ascending.
struct Oracle {
    demand: Demand,
    past: Vec<Vec<(EventTime, Fired)>>,
    alarmed: [Option<EventTime>; 3],
}

impl Oracle {
    fn observe(&mut self, seen: &Seen) -> Fired {
        if !seen.on_time {
            return 0;
        }
        let mut known = self.past.last().cloned().unwrap_or_default();
        if known.last().is_some_and(|(last, _)| seen.at - *last > MEMORY) {
            (known, self.past, self.alarmed) = Default::default();
        }
        match known.last_mut().filter(|(last, _)| *last == seen.at) {
            Some((_, fired)) => *fired |= seen.fired,
            None => known.push((seen.at, seen.fired)),
        }
        self.past.push(known);
        (0..3).filter(|&rule| self.alarms(rule, seen.at)).fold(0, |mask, rule| mask | 1 << rule)
    }

    fn alarms(&mut self, rule: usize, at: EventTime) -> bool {
        let Demand { k, n, hold, refractory } = self.demand;
        let firing = |known: &[(EventTime, Fired)]| -> Vec<EventTime> {
            let last = known.iter().rev().take(n).rev();
            last.filter(|(_, fired)| fired >> rule & 1 == 1).map(|(at, _)| *at).collect()
        };
        let run = self.past.iter().rev().map(|known| firing(known)).take_while(|firing| firing.len() >= k);
        let since = run.last().map(|firing| firing[0]);
        let silent = self.alarmed[rule].is_some_and(|alarm| at == alarm || at - alarm < refractory);
        let fires = self.past.last().and_then(|known| known.last()).is_some_and(|(_, fired)| fired >> rule & 1 == 1);
        let alarm = fires && since.is_some_and(|since| at - since >= hold) && !silent;
        if alarm {
            self.alarmed[rule] = Some(at);
        }
        alarm
    }
}

/// A seeded patient: times never go back, some instants repeat, some readings are late, now and then a month passes.
fn readings(random: &mut ChaCha8Rng, number: i32, count: u64) -> Vec<Seen> {
    let mut at = minute(random.random_range(-1_000..1_000));
    let often = random.random_range(0.1..0.9);
    let mut fired = 0;
    (0..count)
        .map(|index| {
            at = at
                + EventSpan::from_seconds(match random.random_range(0..20) {
                    0..3 => 0,
                    3 => 86_400 * random.random_range(20..40),
                    _ => 60 * random.random_range(1..30),
                });
            if random.random_bool(0.5) {
                fired = (0..3).fold(0, |mask, rule| mask | Fired::from(random.random_bool(often)) << rule);
            }
            let on_time = random.random_bool(0.9);
            Seen { stream: stream(number), at, observation: index << 8 | number as u64, fired, on_time }
        })
        .collect()
}

fn random_spec(random: &mut ChaCha8Rng) -> ScoreSpec {
    let n = random.random_range(1..=5);
    let spans = ["0s", "7m", "30m", "2h", "30d"];
    let hold = spans[random.random_range(0..4)];
    spec(random.random_range(1..=n), n, hold, spans[random.random_range(0..5)])
}

#[test]
fn the_machine_raises_what_a_recomputation_of_everything_raises() {
    for seed in 0..400 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let spec = random_spec(&mut random);
        let mut machine = Persistence::new(&spec).unwrap();
        let mut oracle = Oracle { demand: machine.demand, past: Vec::new(), alarmed: [None; 3] };
        for (index, seen) in readings(&mut random, 0, 120).iter().enumerate() {
            assert_eq!(print(machine.observe(seen)), print(oracle.observe(seen)), "seed {seed}, reading {index}");
        }
    }
}

impl Survive for Persistence {
    fn save(&mut self, extent: Extent, into: &mut Blocks) {
        Persistence::save(self, extent, into);
    }

    fn load(&mut self, block: &[u8]) -> Result<(), Corrupt> {
        Persistence::load(self, block)
    }
}

/// A stream of one of several patients.
fn of_patient(seen: &Seen, patient: u8) -> Seen {
    Seen { stream: Stream { patient: Pseudonym([patient; 16]), ..seen.stream }, ..*seen }
}

/// Runs several partitions of several patients, interleaved at random, now and then forgetting, saving and loading into any number of workers.
fn interleaved(spec: &ScoreSpec, streams: &[Vec<Seen>], random: &mut ChaCha8Rng) -> Vec<Vec<Fired>> {
    let machines = |count| (0..count).map(|_| Persistence::new(spec).unwrap()).collect::<Vec<_>>();
    let (mut workers, mut saves) = (machines(2), Saves::default());
    let mut raised = vec![Vec::new(); streams.len()];
    saves.save(Extent::All, &mut workers);
    loop {
        let open: Vec<_> = (0..streams.len()).filter(|&at| raised[at].len() < streams[at].len()).collect();
        if open.is_empty() {
            return raised;
        }
        let at = open[random.random_range(0..open.len())];
        let seen = &streams[at][raised[at].len()];
        if random.random_bool(0.1) {
            let extent = if random.random_bool(0.2) { Extent::All } else { Extent::Changed };
            saves.save(extent, &mut workers);
            if random.random_bool(0.5) {
                workers = machines(random.random_range(1..=4));
                saves.load(&mut workers);
            }
        }
        let owner = (key_group(seen.stream.patient.hash64()) % workers.len() as Route) as usize;
        if random.random_bool(0.3) {
            // Times never go back, so the next reading's own time is a watermark that no later one is behind.
            workers[owner].forget(seen.stream.partition, seen.at);
        }
        raised[at].push(workers[owner].observe(seen));
    }
}

#[test]
fn interleaving_forgetting_saving_and_loading_change_nothing() {
    for seed in 0..100 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let spec = random_spec(&mut random);
        // One partition a patient: forgetting looks at all of a partition.
        let streams: Vec<Vec<Seen>> = (0..5)
            .map(|number| {
                let readings = readings(&mut random, number, 60);
                readings.iter().map(|seen| of_patient(seen, number as u8 % 3)).collect()
            })
            .collect();
        let alone: Vec<Vec<Fired>> = streams
            .iter()
            .map(|readings| {
                let mut machine = Persistence::new(&spec).unwrap();
                readings.iter().map(|seen| machine.observe(seen)).collect()
            })
            .collect();
        assert_eq!(interleaved(&spec, &streams, &mut random), alone, "seed {seed}");
    }
}

#[test]
fn what_was_dropped_does_not_come_back() {
    let machine = || vec![Persistence::new(&spec(2, 2, "0s", "30m")).unwrap()];
    let seen = |number| Seen { stream: stream(number), at: minute(0), observation: 1, fired: 1, on_time: true };
    let (mut machines, mut saves) = (machine(), Saves::default());
    for number in 0..3 {
        machines[0].observe(&seen(number));
    }
    saves.save(Extent::All, &mut machines);
    machines[0].forget(stream(0).partition, EventTime::MAX);
    machines[0].withdraw(stream(1), 1);
    saves.save(Extent::Changed, &mut machines);
    machines = machine();
    saves.load(&mut machines);
    assert_eq!(machines[0].watches.keys().collect::<Vec<_>>(), [&stream(2)]);
    let bytes = saves.bytes();
    saves.save(Extent::Changed, &mut machines);
    assert_eq!(saves.bytes(), bytes, "nothing has changed since it was loaded");
}

#[test]
fn a_mutilated_block_is_corrupt_or_possible() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let spec = spec(2, 5, "0s", "30d");
    let (mut machines, mut saves, mut refused) = (vec![Persistence::new(&spec).unwrap()], Saves::default(), 0);
    for number in 0..8 {
        for seen in &readings(&mut random, number, 60) {
            machines[0].observe(seen);
        }
    }
    saves.save(Extent::All, &mut machines);
    for _ in 0..4_000 {
        let block = mutilated(saves.blocks().next().unwrap(), &mut random);
        let mut machine = Persistence::new(&spec).unwrap();
        match machine.load(&block) {
            Err(corrupt) => refused += usize::from(corrupt.what.contains("alarm")),
            Ok(()) => {
                let streams: Vec<Stream> = machine.watches.keys().copied().collect();
                for stream in streams {
                    machine.observe(&Seen { stream, at: minute(9_999), observation: 1, fired: 7, on_time: true });
                }
            }
        }
    }
    assert!(refused > 1_000, "{refused}");
}

#[test]
fn patients_who_fell_silent_are_forgotten() {
    let mut machine = Persistence::new(&spec(2, 2, "0s", "30m")).unwrap();
    let at = minute(0);
    machine.observe(&Seen { stream: stream(0), at, observation: 1, fired: 1, on_time: true });
    machine.forget(stream(0).partition, at + MEMORY);
    machine.forget(stream(1).partition, EventTime::MAX);
    assert_eq!(machine.len(), 1);
    machine.forget(stream(0).partition, at + MEMORY + EventSpan::from_micros(1));
    assert_eq!(machine.len(), 0);
}
