//! Proves that a replay of files gives what the oracle says, row by row, whatever the worker count and the epoch borders.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use crate::oracle::{self, Expected, Message, Times};
use crate::support::{KEY, Tables, finish, key_file, outcomes, repository, same, windkessel};

const FILES: usize = 4;

/// Generated input, split so that each patient is in one file, and somewhat out of order.
pub(crate) struct Input {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) key: String,
    messages: Vec<Message>,
    files: usize,
}

impl Input {
    pub(crate) fn generated(observations: u32) -> Input {
        Input::split(observations, FILES, &[], |line| patient(line).bytes().map(usize::from).sum::<usize>() % FILES)
    }

    /// Patient resources in a file of their own.
    pub(crate) fn with_patients_apart(observations: u32) -> Input {
        let of_patient = |line: &str| patient(line).bytes().map(usize::from).sum::<usize>() % FILES;
        let is_patient = |line: &str| line.starts_with("{\"resourceType\":\"Patient\"");
        Input::split(observations, FILES + 1, &[], |line| if is_patient(line) { FILES } else { of_patient(line) })
    }

    /// Nothing wrong with any message, and all in order.
    pub(crate) fn clean(observations: u32) -> Input {
        Input::split(observations, FILES, &["--clean"], |line| {
            patient(line).bytes().map(usize::from).sum::<usize>() % FILES
        })
    }

    fn split(observations: u32, count: usize, further: &[&str], file: impl Fn(&str) -> usize) -> Input {
        let folder = tempfile::tempdir().unwrap();
        let counts =
            ["--observations", &observations.to_string(), "--patients", "300", "--seed", "11"].map(str::to_owned);
        finish(windkessel(folder.path()).args(["generate", "--output", "all.ndjson"]).args(counts).args(further))
            .succeeded();
        let text = fs::read_to_string(folder.path().join("all.ndjson")).unwrap();
        let mut files: Vec<Vec<&str>> = vec![Vec::new(); count];
        for line in text.lines() {
            files[file(line)].push(line);
        }
        let mut messages = Vec::new();
        for (number, mut lines) in (0..).zip(files) {
            if further.is_empty() {
                disturb(&mut lines);
            }
            fs::write(folder.path().join(format!("part-{number}.ndjson")), lines.join("\n")).unwrap();
            let message = |(offset, line): (i64, &&str)| Message {
                partition: number,
                offset,
                received_at: None,
                payload: line.as_bytes().to_owned(),
            };
            messages.extend((0..).zip(&lines).map(message));
        }
        let key = key_file(folder.path());
        Input { folder, key, messages, files: count }
    }

    pub(crate) fn expected(&self, times: Times) -> Expected {
        oracle::expect(&self.messages, &KEY, times)
    }

    pub(crate) fn paths(&self) -> String {
        let paths = (0..self.files).map(|number| self.folder.path().join(format!("part-{number}.ndjson")));
        format!("source.paths={:?}", paths.collect::<Vec<PathBuf>>())
    }

    /// Runs the replay flow into a folder of its own and checks that its two sinks agree.
    fn run(&self, workers: u32, settings: &[&str]) -> Ran {
        let folder = tempfile::tempdir_in(self.folder.path()).unwrap();
        let mut command = windkessel(folder.path());
        command.arg("run").arg(repository("dataflows/blood_pressure_replay.toml")).args(["--until", "end", "-w"]);
        command.arg(workers.to_string()).args(["--set", &self.paths(), "--set", &self.key]);
        command.args(settings.iter().flat_map(|setting| ["--set", setting]));
        let finished = finish(&mut command).succeeded();
        let data = folder.path().join("windkessel-data");
        let (ndjson, parquet) = (Tables::ndjson(&data), Tables::parquet(&data));
        same(&ndjson, &parquet, "NDJSON and Parquet");
        Ran { tables: ndjson, outcomes: outcomes(&finished.out) }
    }

    /// The files' names in rows, with the numbers that the oracle knows them by.
    pub(crate) fn topics(&self) -> HashMap<String, i32> {
        let mut command = windkessel(self.folder.path());
        command.args(["explain", "--files"]).arg(repository("dataflows/blood_pressure_replay.toml"));
        let listed = finish(command.args(["--set", &self.paths(), "--set", &self.key])).succeeded();
        let entry = |line: &str| {
            let (topic, path) = line.split_once("  ").unwrap();
            let name = Path::new(path.trim()).file_stem().unwrap().to_str().unwrap().to_owned();
            (topic.to_owned(), name.strip_prefix("part-").unwrap().parse().unwrap())
        };
        listed.out.lines().map(entry).collect()
    }

    pub(crate) fn check(&self, ran: &Ran, expected: &Expected) {
        let topics = self.topics();
        ran.tables.agree(expected, &|row| topics[row["topic"].as_str().unwrap()]);
        for (name, count) in &ran.outcomes {
            assert_eq!(*count, expected.outcomes.get(name.as_str()).copied().unwrap_or(0), "{name}");
        }
    }
}

pub(crate) struct Ran {
    pub(crate) tables: Tables,
    /// Of all processes together.
    pub(crate) outcomes: BTreeMap<String, u64>,
}

/// Whose message it is: the first id after `Patient/`, or the id of a Patient.
fn patient(line: &str) -> &str {
    let start = line.find("\"Patient/").map_or_else(|| line.find("\"id\":\"").unwrap() + 6, |at| at + 9);
    &line[start..start + 36]
}

/// Moves one message in 29 behind up to 200 later ones: versions overtake each other, and more readings are late or too late.
fn disturb(lines: &mut [&str]) {
    let mut state = 12_345_u64;
    for at in 0..lines.len() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (draw, far) = (state >> 33, (state >> 40) % 200);
        let until = (at + 1 + far as usize).min(lines.len());
        if draw.is_multiple_of(29) {
            lines[at..until].rotate_left(1);
        }
    }
}

const SECOND: i64 = 1_000_000;
pub(crate) const FINITE: [&str; 2] = ["patient.disorder=\"30s\"", "patient.lateness=\"2m\""];
pub(crate) const TIMES: Times = Times { window: 3_600 * SECOND, disorder: 30 * SECOND, lateness: 120 * SECOND };
/// Far beyond anything generated, and far from overflow.
const UNBOUNDED: Times = Times { window: 3_600 * SECOND, disorder: i64::MAX / 8, lateness: 86_400 * SECOND };

#[test]
fn a_replay_with_late_readings_is_what_the_oracle_says_with_any_number_of_workers() {
    let input = Input::generated(20_000);
    let expected = input.expected(TIMES);
    for name in ["contributed", "superseded", "duplicate", "late", "ignored", "rejected"] {
        assert!(expected.outcomes.get(name).is_some_and(|count| *count > 0), "the input makes no {name} one");
    }
    let one = input.run(1, &FINITE);
    input.check(&one, &expected);
    for workers in [2, 4] {
        let more = input.run(workers, &FINITE);
        input.check(&more, &expected);
        same(&one.tables, &more.tables, &format!("{workers} workers wrote other rows than one"));
    }
}

#[test]
fn a_replay_as_shipped_is_what_the_oracle_says_with_any_number_of_workers() {
    let input = Input::generated(8_000);
    let expected = input.expected(UNBOUNDED);
    let one = input.run(1, &[]);
    input.check(&one, &expected);
    let four = input.run(4, &[]);
    same(&one.tables, &four.tables, "4 workers wrote other rows than one");
}

#[test]
fn the_borders_of_epochs_change_no_row() {
    let input = Input::generated(6_000);
    let expected = input.expected(TIMES);
    let usual = input.run(1, &FINITE);
    for borders in [["epoch.ms=1", "epoch.bytes=4096"], ["epoch.ms=60000", "epoch.bytes=1000000000"]] {
        let settings: Vec<&str> = FINITE.into_iter().chain(borders).chain(["inflight.epochs=3"]).collect();
        let other = input.run(2, &settings);
        input.check(&other, &expected);
        same(&usual.tables, &other.tables, &format!("{borders:?} made other rows"));
    }
}

#[test]
fn a_run_that_lets_one_epoch_through_at_a_time_ends() {
    let input = Input::with_patients_apart(2_000);
    let expected = input.expected(TIMES);
    for workers in [1, 2] {
        let settings: Vec<&str> = FINITE.into_iter().chain(["inflight.epochs=1", "epoch.bytes=16384"]).collect();
        input.check(&input.run(workers, &settings), &expected);
    }
}

#[test]
fn probabilities_of_a_model_do_not_depend_on_the_number_of_workers() {
    let input = Input::generated(4_000);
    let model = input.folder.path().join("model.json");
    let mut train = windkessel(input.folder.path());
    train.args(["train", "--patients", "60", "--observations", "6000", "--output"]).arg(&model);
    finish(&mut train).succeeded();
    let setting = format!("model.file={model:?}");
    let settings: Vec<&str> = FINITE.into_iter().chain([setting.as_str()]).collect();
    let one = input.run(1, &settings);
    input.check(&one, &input.expected(TIMES));
    let scored = one.tables.readings.iter().filter(|row| row.contains_key("probability"));
    let probable = scored.map(|row| row["probability"].as_f64().unwrap()).inspect(|p| assert!((0.0..=1.0).contains(p)));
    assert!(probable.count() * 10 > one.tables.readings.len() * 9, "most readings have a probability");
    for workers in [2, 4] {
        let more = input.run(workers, &settings);
        same(&one.tables, &more.tables, &format!("{workers} workers wrote other rows than one"));
    }
}
