//! A script of epochs and checkpoints over a folder, ended before each step that changes the disk, by a crash of the process or of the machine.
//!
//! They prove: at any moment a reader sees rows of recorded checkpoints alone, each once; after the next start it sees all of them; and when the script
//! has been run to its end, however often it died on the way, it sees every row once.

use std::sync::LazyLock;

use arrow::array::RecordBatch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::TempDir;

use super::faults::Faulty;
use super::*;
use crate::config::{NdjsonSpec, ParquetSpec};
use crate::sink::json;
use crate::sink::ndjson::NdjsonSink;
use crate::sink::parquet::{ParquetSink, Provenance};
use crate::sink::testing::{Hand, many, names, rejected, visible};

/// What a run does.
#[derive(Clone, Copy)]
enum Act {
    /// An epoch with so many readings and rejections.
    Epoch(Epoch, usize, u64),
    Checkpoint(Epoch),
}
use Act::{Checkpoint, Epoch as Rows};

/// Files that are finished by their size, epochs without rows, a checkpoint without files, one table and both.
const SCRIPT: [Act; 12] = [
    Rows(1, 2, 1),
    Rows(2, 0, 0),
    Rows(3, 1, 0),
    Checkpoint(3),
    Rows(4, 6, 0),
    Rows(5, 5, 2),
    Rows(6, 1, 0),
    Checkpoint(7),
    Checkpoint(9),
    Rows(10, 0, 1),
    Rows(11, 4, 0),
    Checkpoint(12),
];

/// A file is finished at about five NDJSON rows.
const LIMITS: Limits = Limits { bytes_max: 2_000, age_max: Duration::from_secs(60) };

/// The log.
#[derive(Default)]
struct Recorded {
    checkpoints: Vec<(Epoch, Vec<StagedFile>)>,
    /// So many of them are published for sure.
    published: usize,
    /// Those that are published are dropped from it.
    forgets: bool,
}

impl Recorded {
    fn newest(&self) -> Epoch {
        self.checkpoints.last().map_or(0, |(epoch, _)| *epoch)
    }
}

/// How a crash goes.
#[derive(Clone, Copy, Debug)]
enum Crash {
    Process,
    Machine,
}

trait Kind: Format + Sized {
    fn sink(path: &Path, generation: u64) -> FileSink<Self>;
    fn read(path: &Path) -> Vec<String>;
}

impl Kind for crate::sink::ndjson::Ndjson {
    fn sink(path: &Path, generation: u64) -> FileSink<Self> {
        let spec = NdjsonSpec { path: path.into(), ..NdjsonSpec::default() };
        NdjsonSink::ndjson(&spec, generation, 0, Hand::new().clock(), Metrics::new()).unwrap()
    }

    fn read(path: &Path) -> Vec<String> {
        std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Kind for crate::sink::parquet::Parquet {
    fn sink(path: &Path, generation: u64) -> FileSink<Self> {
        let spec = ParquetSpec { path: path.into(), ..ParquetSpec::default() };
        let text = String::new;
        let provenance = Provenance { flow: text(), key_id: text(), rule_set: text(), version: text() };
        ParquetSink::parquet(&spec, provenance, generation, 0, Hand::new().clock(), Metrics::new()).unwrap()
    }

    fn read(path: &Path) -> Vec<String> {
        let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap();
        reader.build().unwrap().flat_map(|batch| lines(&batch.unwrap())).collect()
    }
}

fn lines(batch: &RecordBatch) -> Vec<String> {
    let text = json::rows(batch, &BTreeMap::new()).unwrap().into_bytes();
    String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
}

/// All rows of the script, sorted, with their epochs.
static ROWS: LazyLock<Vec<(String, Epoch)>> = LazyLock::new(|| {
    let mut rows = Vec::new();
    for act in SCRIPT {
        if let Rows(epoch, readings, rejections) = act {
            let tables = [many(epoch, readings), rejected(epoch, rejections)];
            rows.extend(tables.iter().flat_map(|rows| lines(&rows.batch)).map(|line| (line, epoch)));
        }
    }
    rows.sort();
    rows
});

/// All rows up to and including an epoch.
fn expected(upto: Epoch) -> Vec<String> {
    ROWS.iter().filter(|(_, epoch)| *epoch <= upto).map(|(line, _)| line.clone()).collect()
}

/// What a reader sees who asks for names with the sink's ending; each file is read to its end.
fn seen<F: Kind>(path: &Path) -> Vec<String> {
    let mut rows = Vec::new();
    for folder in ["readings", "rejected"].map(|table| path.join(table)) {
        let named = names(&folder).into_iter().filter(|name| !name.starts_with('.') && name.ends_with(F::NAME));
        rows.extend(named.flat_map(|name| F::read(&folder.join(name))));
    }
    rows.sort();
    rows
}

/// Asserts that a list names files only that are there, and returns how many lists there are.
fn lists(path: &Path) -> usize {
    let listed = visible(&path.join("_committed"));
    for name in &listed {
        let text = std::fs::read_to_string(path.join("_committed").join(name)).unwrap();
        let list: serde_json::Value = serde_json::from_str(&text).expect("a list is whole");
        for file in list["files"].as_array().unwrap() {
            let there = path.join(file["table"].as_str().unwrap()).join(file["name"].as_str().unwrap());
            assert!(there.exists(), "{name} lists {there:?}, which is not there");
        }
    }
    listed.len()
}

/// One run: makes the folder agree with the log, then does what follows after checkpoint `from`.
fn live<F: Kind>(
    path: &Path,
    generation: u64,
    from: Epoch,
    disk: &Faulty,
    recorded: &mut Recorded,
) -> Result<(), SinkError> {
    let mut folder = Folder::of::<F>(path.into());
    folder.disk = disk.disk();
    let kept = if recorded.forgets { recorded.published } else { 0 };
    folder.recover(&recorded.checkpoints[kept..], true)?;
    recorded.published = recorded.checkpoints.len();
    assert_eq!(seen::<F>(path), expected(recorded.newest()), "after a start, all that is recorded is seen");
    let mut sink = F::sink(path, generation);
    sink.disk = disk.disk();
    sink.limits = LIMITS;
    sink.skip_up_to(recorded.newest());
    for act in SCRIPT {
        match act {
            Rows(epoch, readings, rejections) if epoch > from => {
                sink.deliver(epoch, &many(epoch, readings))?;
                sink.deliver(epoch, &rejected(epoch, rejections))?;
                sink.close(epoch)?;
            }
            Checkpoint(epoch) if epoch > from => {
                let files = sink.stage(epoch)?;
                if epoch <= recorded.newest() {
                    assert_eq!(files, [], "its rows are there already");
                    continue;
                }
                // The log is not on this disk, so it has recorded the checkpoint or has not.
                disk.step("record").map_err(|error| SinkError::Refused(error.to_string()))?;
                recorded.checkpoints.push((epoch, files.clone()));
                folder.publish(epoch, &files, true)?;
                recorded.published = recorded.checkpoints.len();
                folder.publish(epoch, &files, true)?;
            }
            Rows(..) | Checkpoint(_) => {}
        }
    }
    sink.finish()
}

/// One run that may die. True if it came to its end.
fn life<F: Kind>(
    path: &Path,
    generation: u64,
    back: usize,
    disk: &Faulty,
    how: Crash,
    recorded: &mut Recorded,
) -> bool {
    let from = recorded.checkpoints.iter().rev().nth(back).map_or(0, |(epoch, _)| *epoch);
    let ended = live::<F>(path, generation, from, disk, recorded).is_ok();
    let before = expected(recorded.newest());
    if !ended && matches!(how, Crash::Machine) {
        disk.lose_power();
    }
    lists(path);
    let after = seen::<F>(path);
    assert!(after.windows(2).all(|two| two[0] != two[1]), "a row is seen twice");
    assert!(after.iter().all(|row| before.binary_search(row).is_ok()), "a row of no recorded checkpoint is seen");
    ended
}

fn whole<F: Kind>(path: &Path, recorded: &mut Recorded, generation: u64) {
    assert!(life::<F>(path, generation, 0, &Faulty::default(), Crash::Process, recorded));
    assert_eq!(seen::<F>(path), expected(Epoch::MAX));
    let hidden = |table: &str| names(&path.join(table)).into_iter().filter(|name| name.starts_with('.')).count();
    assert_eq!(["readings", "rejected", "_committed"].map(hidden), [0; 3], "nothing is left over");
    assert_eq!(lists(path), 3, "one list for each checkpoint that has files");
}

fn dies_at_every_step<F: Kind>(how: Crash, forgets: bool) {
    for step in 0.. {
        println!("{how:?} at step {step}, forgets: {forgets}");
        let folder = TempDir::new().unwrap();
        let mut recorded = Recorded { forgets, ..Recorded::default() };
        let ended = life::<F>(folder.path(), 1, 0, &Faulty::dying_at(step), how, &mut recorded);
        whole::<F>(folder.path(), &mut recorded, 2);
        if ended {
            assert!(step > 60, "the script has more steps than {step}");
            break;
        }
    }
}

#[test]
fn ndjson_rows_are_seen_once_whatever_step_a_run_dies_at() {
    for (how, forgets) in [(Crash::Process, false), (Crash::Machine, false), (Crash::Machine, true)] {
        dies_at_every_step::<crate::sink::ndjson::Ndjson>(how, forgets);
    }
}

#[test]
fn parquet_rows_are_seen_once_whatever_step_a_run_dies_at() {
    dies_at_every_step::<crate::sink::parquet::Parquet>(Crash::Machine, true);
}

#[test]
fn rows_are_seen_once_however_often_runs_die_and_however_far_back_they_begin() {
    let mut state = 20_260_101_u64;
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for case in 0..60 {
        println!("case {case}");
        let folder = TempDir::new().unwrap();
        let (mut recorded, mut generation) = (Recorded { forgets: draw(2) == 0, ..Recorded::default() }, 1);
        for _ in 0..1 + draw(5) {
            let (disk, back) = (Faulty::dying_at(draw(90) as usize), draw(3) as usize);
            let how = if draw(2) == 0 { Crash::Process } else { Crash::Machine };
            life::<crate::sink::ndjson::Ndjson>(folder.path(), generation, back, &disk, how, &mut recorded);
            generation += 1;
        }
        whole::<crate::sink::ndjson::Ndjson>(folder.path(), &mut recorded, generation);
    }
}
