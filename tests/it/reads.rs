//! Proves that an answer below `/api/v1` names an epoch of the epoch log, that the rows of every such epoch are found in the files, and that the epoch
//! never goes back: neither while a run goes on, nor over `kill -9` and a start that repeats, nor over a clean one.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{DEADLINE, Running, get, integer, key_file, ndjson, repository, windkessel};

/// A log's entry has this many bytes before its JSON (`runtime/epoch_log/envelope.rs`).
const HEAD_BYTES: usize = 20;

/// The epochs that a log has.
#[derive(Default)]
struct Log {
    epochs: BTreeSet<u64>,
    /// Those of checkpoints. Claims before the first of them are pruned, nothing else is here.
    checkpoints: BTreeSet<u64>,
}

impl Log {
    fn has(&self, epoch: u64) -> bool {
        self.epochs.contains(&epoch) || self.checkpoints.first().is_some_and(|first| epoch < *first)
    }

    fn last(&self) -> u64 {
        *self.epochs.last().unwrap()
    }

    /// Epochs that a start would repeat.
    fn to_repeat(&self) -> usize {
        let newest = self.checkpoints.last().copied().unwrap_or(0);
        self.epochs.range(newest + 1..).count()
    }
}

fn log(folder: &Path) -> Log {
    let mut log = Log::default();
    for entry in fs::read_dir(folder.join("state/log")).into_iter().flatten() {
        // One that is just being made may be gone, or not whole.
        let bytes = fs::read(entry.unwrap().path()).unwrap_or_default();
        let Ok(envelope) = serde_json::from_slice::<Value>(bytes.get(HEAD_BYTES..).unwrap_or_default()) else {
            continue;
        };
        let entry = &envelope["entry"];
        let claims = entry["Claims"].as_array().into_iter().flatten();
        log.epochs.extend(claims.map(|claim| claim["epoch"].as_u64().unwrap()));
        if let Some(checkpoint) = entry["Checkpoint"]["epoch"].as_u64() {
            log.epochs.insert(checkpoint);
            log.checkpoints.insert(checkpoint);
        }
    }
    log
}

/// Synthetic patients without end, into files.
fn command(folder: &Path) -> Command {
    let mut command = windkessel(folder);
    command.arg("run").arg(repository("dataflows/blood_pressure_replay.toml")).args(["--workers", "2"]);
    let settings = [
        "source.kind=\"generator\"",
        "source.patients=40",
        "source.observations=0",
        "source.rate_per_second=400",
        "state.path=\"state\"",
        "state.checkpoint_seconds=2",
        "state.keep=10000",
        "http.listen=\"127.0.0.1:0\"",
    ];
    command.args(settings.iter().flat_map(|setting| ["--set", setting])).args(["--set", &key_file(folder)]);
    command
}

/// The answer to one request: as JSON, and how far it reaches.
fn ask(url: &str, path: &str, generation: u64) -> (Value, Option<u64>) {
    let answer: Value = serde_json::from_str(&get(&format!("{url}{path}")).unwrap()).unwrap();
    if answer["epoch"].is_u64() {
        assert_eq!(answer["generation"], generation, "{path}");
    }
    let epoch = answer["epoch"].as_u64();
    (answer, epoch)
}

/// Asks until `enough` epochs were told; each is the log's, and none is lower than one before. The last one.
fn follow(running: &mut Running, folder: &Path, generation: u64, before: u64, enough: usize) -> u64 {
    let url = running.url();
    let (mut told, mut last) = (BTreeSet::new(), before);
    running.until("more epochs", |_| {
        let (snapshot, epoch) = ask(&url, "/api/v1/snapshot", generation);
        let mut epochs: Vec<u64> = epoch.into_iter().collect();
        if let Some(patient) = snapshot["alerts"][0]["patient"].as_str() {
            epochs.extend(ask(&url, &format!("/api/v1/patient/{patient}"), generation).1);
        }
        let known = log(folder);
        for epoch in epochs {
            assert!(epoch >= last, "{epoch} after {last}, in run {generation}");
            assert!(known.has(epoch), "{epoch} is not in the log");
            told.insert(epoch);
            last = epoch;
        }
        (told.len() >= enough).then_some(())
    });
    last
}

#[test]
fn an_answer_names_an_epoch_of_the_log_which_never_goes_back() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut first = Running::start(&mut command(folder));
    let last = follow(&mut first, folder, 1, 0, 12);
    first.until("epochs behind a checkpoint", |_| {
        let log = log(folder);
        (!log.checkpoints.is_empty() && log.to_repeat() >= 3).then_some(())
    });
    first.kill();
    let claimed = log(folder).last();
    assert!(claimed >= last);

    // Slowly, so that it is asked while it repeats.
    let mut second = Running::start(command(folder).env("WINDKESSEL_FAILPOINT", "replay.epoch.after:1:delay=200"));
    let last = follow(&mut second, folder, 2, claimed, 8);
    second.signal("TERM");
    let ended = second.wait(DEADLINE).succeeded();
    let recorded = log(folder).last();
    assert!(recorded >= last, "{}", ended.err);

    let mut third = Running::start(&mut command(folder));
    let last = follow(&mut third, folder, 3, recorded, 4);
    third.signal("TERM");
    third.wait(DEADLINE).succeeded();
    // What was told is what the files hold: epochs of rows are the log's.
    let known = log(folder);
    let rows = ndjson(&folder.join("windkessel-data"), "readings");
    let epochs: BTreeSet<u64> = rows.iter().map(|row| integer(row, "epoch") as u64).collect();
    assert!(epochs.iter().all(|epoch| known.has(*epoch)) && epochs.range(..=last).count() >= 8, "{epochs:?}");
}
