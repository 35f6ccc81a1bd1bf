//! Proves that a run which dies again and again, anywhere, leaves the rows of one that never died: none lost, none doubled, none contradicted,
//! at the end and to everybody who looks meanwhile. And that this proof would notice: it is repeated without each of the guards ([`Guard`](windkessel::runtime::failpoint::Guard)).
//!
//! What only a loss of power shows (syncing) is proved by the power-loss twins of `runtime/store` and `sink/files`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use windkessel::runtime::failpoint::PLACES;
use windkessel::source::generator::profile::Profile;
use windkessel::source::generator::{Generator, PARTITIONS};

use crate::oracle::{self, Expected, Message};
use crate::replay::{FINITE, Input, TIMES};
use crate::support::crash::{Blow, Random, Struck, Witness, Wrong, shifts, strike};
use crate::support::{
    DEADLINE, Finished, KEY, Row, Running, Tables, finish, integer, key_file, ndjson, repository, same, text,
    windkessel,
};

const PATIENTS: u32 = 100;
const SEED: u64 = 7;

/// A flow and the folder that it works in.
struct Scene {
    folder: tempfile::TempDir,
    settings: Vec<String>,
    /// For every run.
    environment: Vec<(&'static str, String)>,
}

impl Scene {
    fn new(settings: Vec<String>) -> Scene {
        Scene { folder: tempfile::tempdir().unwrap(), settings, environment: Vec::new() }
    }

    fn generator(observations: u64) -> Scene {
        let mut scene = Scene::new(vec![
            "source.kind=\"generator\"".into(),
            format!("source.observations={observations}"),
            format!("source.patients={PATIENTS}"),
            format!("source.seed={SEED}"),
        ]);
        scene.settings.push(key_file(scene.folder.path()));
        scene
    }

    fn files(input: &Input) -> Scene {
        Scene::new(vec![input.paths(), input.key.clone()])
    }

    fn without(mut self, guard: &str) -> Scene {
        self.environment.push(("WINDKESSEL_BREAK", guard.into()));
        self
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("windkessel-data")
    }

    fn run(&self, workers: u64, more: &[&str]) -> Command {
        let mut command = windkessel(self.folder.path());
        command.arg("run").arg(repository("dataflows/blood_pressure_replay.toml")).args(["--until", "end", "-q", "-w"]);
        command.arg(workers.to_string()).envs(self.environment.iter().cloned());
        let often =
            ["state.checkpoint_seconds=1", "state.base_every=3", "state.keep=2", "epoch.ms=20", "epoch.bytes=16384"];
        let all = self.settings.iter().map(String::as_str).chain(FINITE).chain(often).chain(["audit.window=\"1h\""]);
        command.args(all.chain(more.iter().copied()).flat_map(|setting| ["--set", setting]));
        command
    }

    /// Runs to the end of the input.
    fn finish(&self, workers: u64) -> Finished {
        finish(&mut self.run(workers, &[])).succeeded()
    }

    fn rows(&self) -> Tables {
        let (ndjson, parquet) = (Tables::ndjson(&self.data()), Tables::parquet(&self.data()));
        same(&ndjson, &parquet, "NDJSON and Parquet");
        ndjson
    }

    fn shifts(&self) -> Vec<String> {
        shifts(&ndjson(&self.data(), "shifts"))
    }
}

/// What the generator's partitions hold.
fn generated(observations: u64) -> Vec<Message> {
    let mut offsets: BTreeMap<i32, i64> = BTreeMap::new();
    let message = |message: windkessel::source::generator::Message| {
        let partition = (message.head.patient_index % PARTITIONS) as i32;
        let next = offsets.entry(partition).or_default();
        let offset = *next;
        *next += 1;
        Message { partition, offset, received_at: None, payload: message.payload }
    };
    Generator::new(&Profile::default(), SEED, PATIENTS, observations).map(message).collect()
}

/// Asserts that the end of a scene is what the oracle says, and what a run says that was left alone.
fn judge(scene: &Scene, witness: &mut Witness, expected: &Expected, partition: &dyn Fn(&Row) -> i32, alone: &Scene) {
    witness.conclude();
    assert!(witness.findings.kinds().is_empty(), "{:?}", witness.findings);
    let rows = scene.rows();
    rows.agree(expected, partition);
    alone.finish(2);
    same(&alone.rows(), &rows, "a run that was left alone wrote other rows");
    let (one, other) = (alone.shifts(), scene.shifts());
    assert!(!one.is_empty() && one == other, "{} and {} shifts", one.len(), other.len());
}

/// Every place that a flow without servers comes by, in an order that chance chose.
fn places(random: &mut Random) -> Vec<Blow> {
    let mut places: Vec<&str> =
        PLACES.into_iter().filter(|place| !place.starts_with("elastic") && !place.starts_with("kafka")).collect();
    let mut blows = Vec::new();
    while !places.is_empty() {
        let place = places.swap_remove(random.below(places.len() as u64) as usize);
        let once = place.starts_with("log.seal") || place.starts_with("restore") || place.starts_with("log.prune");
        let nth = if once { 1 } else { 1 + random.below(3) };
        blows.push(Blow::Failpoint(format!("{place}:{nth}")));
    }
    blows
}

/// Some blows at random moments, put between others.
fn and_others(random: &mut Random, mut blows: Vec<Blow>, kills: usize) -> Vec<Blow> {
    for number in 0..kills {
        let blow = match number % 4 {
            0 => Blow::Kill(random.millis(30, 700)),
            1 => Blow::Later(random.millis(0, 700)),
            2 => Blow::Kill(random.millis(300, 2_500)),
            _ => Blow::Ask(random.millis(300, 2_000)),
        };
        let at = random.below(blows.len() as u64 + 1) as usize;
        blows.insert(at, blow);
    }
    blows
}

/// Input that one scene has is soon read on a fast machine, and a blow that meets a finished run proves nothing: then another scene begins.
struct Rounds<'a> {
    blows: VecDeque<Blow>,
    random: &'a mut Random,
    throttle: &'a [&'static str],
    /// How often each kind of end came.
    counts: BTreeMap<Struck, usize>,
    /// Lines that dead runs had handed out.
    promised: usize,
}

impl Rounds<'_> {
    /// Strikes runs of scene after scene until every blow has met a run that lived. `end` finishes a scene and judges it.
    fn play(&mut self, scene: impl Fn() -> Scene, end: impl Fn(Scene, &mut Witness)) {
        for _ in 0..ROUNDS_MAX {
            let scene = scene();
            let mut witness = Witness::of(scene.data());
            self.beat(&scene, &mut witness);
            self.promised += witness.promised();
            end(scene, &mut witness);
            if self.blows.is_empty() {
                break;
            }
        }
        eprintln!("{:?}, {} lines handed out by dead runs", self.counts, self.promised);
        assert!(self.blows.is_empty(), "after {ROUNDS_MAX} rounds these have hit nothing: {:?}", self.blows);
        assert!(self.promised > 0, "no run died between a row and its checkpoint");
    }

    /// Strikes a scene's runs until one comes to the end of its input, while somebody reads what has names.
    fn beat(&mut self, scene: &Scene, witness: &mut Witness) {
        let over = AtomicBool::new(false);
        let shared = Mutex::new(witness);
        let locked = || -> MutexGuard<'_, &mut Witness> { shared.lock().unwrap() };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    locked().glance();
                    std::thread::sleep(Duration::from_millis(150));
                }
            });
            // The reader ends also when a blow panics.
            let _over = Over(&over);
            while let Some(blow) = self.blows.pop_front() {
                let workers = 1 + self.random.below(4);
                let struck = strike(&mut scene.run(workers, self.throttle), &scene.data(), &blow);
                let mut witness = locked();
                witness.harvest();
                eprintln!("{workers} workers, {blow:?}: {struck:?}, {} files", witness.names());
                *self.counts.entry(struck).or_default() += 1;
                if struck == Struck::Done {
                    self.blows.push_front(blow.sooner());
                    return;
                }
            }
        });
    }

    /// Blows that have met a run that lived.
    fn hits(&self) -> usize {
        self.counts.iter().filter(|(struck, _)| **struck != Struck::Done).map(|(_, count)| count).sum()
    }
}

/// Far more than it takes.
const ROUNDS_MAX: usize = 40;

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Blows at random moments, besides those at every place.
const GENERATOR_KILLS: usize = 8;
const FILE_KILLS: usize = 18;

#[test]
fn a_generator_that_dies_at_every_place_leaves_what_one_leaves_that_was_left_alone() {
    const OBSERVATIONS: u64 = 16_000;
    let mut random = Random::seeded("generator");
    let places = places(&mut random);
    let blows = VecDeque::from(and_others(&mut random, places, GENERATOR_KILLS));
    let asked = blows.len();
    let (throttle, counts) = (&["source.rate_per_second=300"], BTreeMap::new());
    let mut rounds = Rounds { blows, random: &mut random, throttle, counts, promised: 0 };
    let expected = oracle::expect(&generated(OBSERVATIONS), &KEY, TIMES);
    let alone = Scene::generator(OBSERVATIONS);
    let end = |scene: Scene, witness: &mut Witness| {
        scene.finish(2);
        let names = witness.names();
        scene.finish(3);
        assert_eq!(witness.names(), names, "a run of what is done wrote something");
        judge(&scene, witness, &expected, &|row| integer(row, "partition") as i32, &alone);
    };
    rounds.play(|| Scene::generator(OBSERVATIONS), end);
    assert_eq!(rounds.hits(), asked);
}

#[test]
fn files_whose_reader_is_killed_at_random_moments_are_read_once() {
    let mut random = Random::seeded("files");
    let input = Input::with_patients_apart(16_000);
    let blows = VecDeque::from(and_others(&mut random, Vec::new(), FILE_KILLS));
    let (throttle, counts) = (&["inflight.epochs=1"], BTreeMap::new());
    let mut rounds = Rounds { blows, random: &mut random, throttle, counts, promised: 0 };
    let (expected, topics, alone) = (input.expected(TIMES), input.topics(), Scene::files(&input));
    let scene = || {
        let mut scene = Scene::files(&input);
        // A file has no rate of its own, and an epoch is a batch of a megabyte at least.
        scene.environment.push(("WINDKESSEL_FAILPOINT", "log.claims.after:1:delay=400".into()));
        scene
    };
    let end = |mut scene: Scene, witness: &mut Witness| {
        scene.environment.clear();
        scene.finish(2);
        judge(&scene, witness, &expected, &|row| topics[text(row, "topic")], &alone);
    };
    rounds.play(scene, end);
    assert_eq!(rounds.hits(), FILE_KILLS);
}

#[test]
fn a_partition_stands_where_it_was_whoever_repeats_the_epoch_in_which_it_was_opened() {
    let input = Input::with_patients_apart(12_000);
    let scene = Scene::files(&input);
    let mut witness = Witness::of(scene.data());
    let one_epoch_at_a_time = ["inflight.epochs=1", "state.base_every=1"];
    for (workers, place) in [(1, "log.claims.after:3"), (3, "log.checkpoint.after:2")] {
        let dies = Blow::Failpoint(format!("log.claims.after:1:delay=300,{place}:exit"));
        assert_eq!(strike(&mut scene.run(workers, &one_epoch_at_a_time), &scene.data(), &dies), Struck::Failpoint);
        witness.harvest();
    }
    assert!(witness.promised() > 0);
    scene.finish(2);
    let topics = input.topics();
    judge(&scene, &mut witness, &input.expected(TIMES), &|row| topics[text(row, "topic")], &Scene::files(&input));
}

/// Starts a second run while the first is stopped, and lets the first go on. How the first has ended, if it has.
fn start_twice(scene: &Scene, witness: &mut Witness) -> Option<Finished> {
    let slow = &["source.rate_per_second=400"];
    let mut first = Running::start(&mut scene.run(1, slow));
    first.until("a checkpoint", |_| (witness.names() > 0).then_some(()));
    first.signal("STOP");
    witness.harvest();
    let names = witness.names();
    let mut second = Running::start(&mut scene.run(3, slow));
    second.until("a checkpoint of the second", |_| (witness.names() > names).then_some(()));
    first.signal("CONT");
    let ended = first.ends_within(Duration::from_secs(10));
    let first = if ended { Some(first.wait(DEADLINE)) } else { None };
    witness.harvest();
    second.kill();
    witness.harvest();
    first
}

#[test]
fn a_run_that_was_stopped_and_overtaken_by_another_ends_with_9_and_does_no_harm() {
    const OBSERVATIONS: u64 = 4_000;
    let scene = Scene::generator(OBSERVATIONS);
    let mut witness = Witness::of(scene.data());
    let first = start_twice(&scene, &mut witness).unwrap();
    assert_eq!(first.code(), Some(9), "{}", first.err);
    assert!(witness.promised() > 0);
    scene.finish(2);
    let expected = oracle::expect(&generated(OBSERVATIONS), &KEY, TIMES);
    judge(&scene, &mut witness, &expected, &|row| integer(row, "partition") as i32, &Scene::generator(OBSERVATIONS));
}

#[test]
fn a_run_that_is_overtaken_while_it_has_nothing_to_append_ends_with_9_too() {
    let scene = Scene::generator(FEW);
    let mut command = scene.run(2, &[]);
    let mut first = Running::start(command.env("WINDKESSEL_FAILPOINT", "sink.stage.before:1:delay=4000"));
    let mut witness = Witness::of(scene.data());
    first.until("rows", |_| {
        witness.harvest();
        (witness.promised() > 0).then_some(())
    });
    std::thread::sleep(Duration::from_secs(1));
    witness.harvest();
    scene.finish(3);
    let first = first.wait(DEADLINE);
    assert_eq!(first.code(), Some(9), "{}", first.err);
    witness.conclude();
    assert!(witness.findings.kinds().is_empty(), "{:?}", witness.findings);
}

/// A run over two files that has died with claimed epochs, and the files.
fn died_over_two_files() -> (Scene, [PathBuf; 2]) {
    let mut scene = Scene::new(Vec::new());
    let folder = scene.folder.path().to_owned();
    let counts = ["--observations", "400", "--patients", "10"];
    let paths = ["a.ndjson", "b.ndjson"].map(|name| folder.join(name));
    for path in &paths {
        finish(windkessel(&folder).args(["generate", "--output"]).arg(path).args(counts)).succeeded();
    }
    scene.settings = vec![format!("source.paths=[{:?}]", folder), key_file(&folder)];
    let dies = Blow::Failpoint("log.checkpoint.before".into());
    assert_eq!(strike(&mut scene.run(1, &[]), &scene.data(), &dies), Struck::Failpoint);
    (scene, paths)
}

#[test]
fn a_file_that_was_shortened_after_a_crash_is_asked_for_as_it_was() {
    let (scene, [path, _]) = died_over_two_files();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.lines().take(100).collect::<Vec<_>>().join("\n")).unwrap();
    let finished = finish(&mut scene.run(2, &[]));
    assert_eq!(finished.code(), Some(78), "{}", finished.err);
    assert!(finished.last_words().contains("or not as it was: 1 of its files"), "{}", finished.err);
    fs::write(&path, text).unwrap();
    scene.finish(2);
}

#[test]
fn a_file_that_was_taken_away_after_a_crash_is_asked_for_instead_of_being_lost() {
    let (scene, [path, _]) = died_over_two_files();
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).unwrap();
    let finished = finish(&mut scene.run(2, &[]));
    assert_eq!(finished.code(), Some(78), "{}", finished.err);
    assert!(finished.last_words().contains("put them back"), "{}", finished.err);
    fs::rename(&aside, &path).unwrap();
    scene.finish(2);
}

// ---------------------------------------------------------------- without a guard

const FEW: u64 = 2_000;

/// Lets a run without a guard go on until `when`, kills it, finishes, and tells what was found.
fn caught(guard: &str, failpoint: &str, when: impl Fn(&mut Witness) -> bool) -> BTreeSet<Wrong> {
    let scene = Scene::generator(FEW).without(guard);
    let mut witness = Witness::of(scene.data());
    let mut command = scene.run(2, &["source.rate_per_second=400"]);
    if !failpoint.is_empty() {
        command.env("WINDKESSEL_FAILPOINT", failpoint);
    }
    let mut running = Running::start(&mut command);
    running.until("the moment to die", |_| {
        witness.harvest();
        when(&mut witness).then_some(())
    });
    running.kill();
    witness.harvest();
    scene.finish(3);
    witness.conclude();
    eprintln!("{guard}: {:?}", witness.findings);
    witness.findings.kinds()
}

#[test]
fn without_the_log_rows_are_doubled() {
    assert!(caught("no-log", "", |witness| witness.names() > 0).contains(&Wrong::Doubled));
}

#[test]
fn without_replay_what_was_shown_is_contradicted() {
    let found = caught("no-replay", "", |witness| witness.names() > 0 && witness.promised() > 0);
    assert!(found.contains(&Wrong::Contradicted));
}

#[test]
fn without_waiting_for_claims_what_was_shown_is_contradicted() {
    let found = caught("no-claim-wait", "log.claims.before:1:delay=500", |witness| witness.promised() > 50);
    assert!(found.contains(&Wrong::Contradicted));
}

#[test]
fn with_files_named_before_their_checkpoint_rows_are_doubled() {
    let found = caught("early-publish", "log.checkpoint.before:1:delay=60000", |witness| witness.names() > 0);
    assert!(found.contains(&Wrong::Doubled));
}

#[test]
fn without_fencing_a_run_that_was_overtaken_does_harm() {
    let scene = Scene::generator(FEW).without("no-fence");
    let mut witness = Witness::of(scene.data());
    let first = start_twice(&scene, &mut witness);
    let code = first.as_ref().and_then(Finished::code);
    let last = finish(&mut scene.run(2, &[]));
    eprintln!("no-fence: the overtaken ended with {code:?}, the next with {:?}: {}", last.code(), last.last_words());
    assert_eq!(last.code(), Some(78));
    assert!(
        last.last_words().contains("was not written by generation"),
        "two writers have mixed their entries: {}",
        last.err
    );
}

/// Two versions of each observation, in different files: which of them comes first within an epoch decides which rows there are.
fn versions_apart(folder: &Path) -> String {
    let observation = |number: usize, version: u32| {
        let pressure = |code: &str, value: u32| {
            format!(
                r#"{{"code":{{"coding":[{{"system":"http://loinc.org","code":"{code}"}}]}},"valueQuantity":{{"value":{value},"code":"mm[Hg]"}}}}"#
            )
        };
        format!(
            r#"{{"resourceType":"Observation","id":"o{number}","meta":{{"versionId":"{version}"}},"status":"amended","code":{{"coding":[{{"system":"http://loinc.org","code":"85354-9"}}]}},"subject":{{"reference":"Patient/p{number}"}},"effectiveDateTime":"2026-01-01T00:00:00Z","component":[{},{}]}}"#,
            pressure("8480-6", 120 + version),
            pressure("8462-4", 80)
        )
    };
    let mut paths = Vec::new();
    for file in 0..12 {
        let lines: Vec<String> =
            (0..40).map(|line| observation(40 * (file / 2) + line, 1 + (file as u32 % 2))).collect();
        paths.push(folder.join(format!("{file}.ndjson")));
        fs::write(&paths[file], lines.join("\n")).unwrap();
    }
    format!("source.paths={paths:?}")
}

#[test]
fn more_workers_repeat_an_epoch_as_one_made_it() {
    let mut scene = Scene::new(Vec::new());
    scene.settings = vec![versions_apart(scene.folder.path()), key_file(scene.folder.path())];
    let mut witness = Witness::of(scene.data());
    let one_epoch = ["epoch.ms=3000", "epoch.bytes=100000000"];
    let dies = Blow::Failpoint("log.checkpoint.before".into());
    assert_eq!(strike(&mut scene.run(1, &one_epoch), &scene.data(), &dies), Struck::Failpoint);
    witness.harvest();
    assert!(witness.promised() > 0);
    scene.finish(4);
    witness.conclude();
    assert!(witness.findings.kinds().is_empty(), "{:?}", witness.findings);
}

/// In a debug build, which alone can be without a guard, the machine itself notices.
#[test]
fn without_sorting_no_epoch_is_applied() {
    let mut scene = Scene::new(Vec::new()).without("no-sort");
    scene.settings = vec![versions_apart(scene.folder.path()), key_file(scene.folder.path())];
    let finished = finish(&mut scene.run(1, &["epoch.ms=3000", "epoch.bytes=100000000"]));
    assert_eq!(finished.code(), Some(70), "{}", finished.err);
    assert!(finished.err.contains("position order"), "{}", finished.err);
}
