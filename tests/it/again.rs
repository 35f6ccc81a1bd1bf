//! Proves what a run reads that goes on where an earlier one stopped: what was added to a file, all of a file that was replaced, all of standard input; and
//! never a file by the offset that was counted in another.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{DEADLINE, Finished, Running, finish, key_file, ndjson, outcomes, repository, text, windkessel};

/// A folder in which run after run goes on.
struct Again {
    folder: tempfile::TempDir,
    key: String,
    /// Observations, one a line.
    lines: Vec<String>,
}

impl Again {
    fn new() -> Again {
        let folder = tempfile::tempdir().unwrap();
        let made = ["generate", "--output", "-", "--observations", "600", "--patients", "10", "--clean"];
        let made = finish(windkessel(folder.path()).args(made)).succeeded().out;
        let lines = made.lines().filter(|line| line.starts_with(r#"{"resourceType":"Observation""#));
        let lines: Vec<String> = lines.map(str::to_owned).collect();
        assert_eq!(lines.len(), 600);
        Again { key: key_file(folder.path()), folder, lines }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("observations.ndjson")
    }

    fn write(&self, lines: &[String]) {
        fs::write(self.file(), lines.join("\n") + "\n").unwrap();
    }

    fn command(&self, path: &Path) -> Command {
        let mut command = windkessel(self.folder.path());
        command.arg("run").arg(repository("dataflows/blood_pressure_replay.toml")).args(["--until", "end"]);
        command.args(["--set", &self.key, "--set", &format!("source.paths=[{path:?}]")]);
        command
    }

    fn run(&self) -> Finished {
        finish(&mut self.command(&self.file()))
    }

    /// Pipes the lines into a run.
    fn pipe(&self, lines: &[String]) -> Finished {
        let mut running = Running::start(self.command(Path::new("-")).stdin(Stdio::piped()));
        running.stdin().write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
        running.wait(DEADLINE).succeeded()
    }

    /// How many readings are there, under which topics; no observation twice.
    fn readings(&self) -> (usize, BTreeSet<String>) {
        let rows = ndjson(&self.folder.path().join("windkessel-data"), "readings");
        let observations: BTreeSet<&str> = rows.iter().map(|row| text(row, "observation")).collect();
        assert_eq!(observations.len(), rows.len());
        (rows.len(), rows.iter().map(|row| text(row, "topic").to_owned()).collect())
    }
}

fn contributed(finished: &Finished) -> u64 {
    outcomes(&finished.out)["contributed"]
}

#[test]
fn what_was_added_to_a_file_is_read_and_the_rest_is_not_read_again() {
    let again = Again::new();
    again.write(&again.lines[..200]);
    assert_eq!(contributed(&again.run().succeeded()), 200);
    assert_eq!(contributed(&again.run().succeeded()), 0);
    again.write(&again.lines[..350]);
    let grown = again.run().succeeded();
    assert_eq!(contributed(&grown), 150);
    assert!(!grown.err.contains("WARN"), "{}", grown.err);
    let (readings, topics) = again.readings();
    assert_eq!((readings, topics.len()), (350, 1));
}

#[test]
fn a_file_that_was_replaced_is_read_from_its_beginning_aloud() {
    let again = Again::new();
    again.write(&again.lines[..200]);
    again.run().succeeded();
    // Shorter, and some of it was there before.
    again.write(&again.lines[150..300]);
    let replaced = again.run().succeeded();
    let told = outcomes(&replaced.out);
    assert_eq!((told["contributed"], told["duplicate"]), (100, 50), "{}", replaced.out);
    assert!(replaced.err.contains("is not the file that an earlier run has read"), "{}", replaced.err);
    // The new one grows like any other.
    again.write(&again.lines[150..400]);
    assert_eq!(contributed(&again.run().succeeded()), 100);
    let (readings, topics) = again.readings();
    assert_eq!(readings, 400);
    let [first, second] = &topics.iter().collect::<Vec<_>>()[..] else { panic!("{topics:?}") };
    assert!(first.starts_with("file-") && **second == format!("{first}.2"), "{topics:?}");
}

#[test]
fn standard_input_is_read_whole_every_time() {
    let again = Again::new();
    for (number, lines) in (1..).zip([&again.lines[..200], &again.lines[200..260], &again.lines[260..600]]) {
        assert_eq!(contributed(&again.pipe(lines)), lines.len() as u64, "run {number}");
    }
    let (readings, topics) = again.readings();
    assert_eq!(readings, 600);
    assert_eq!(topics.iter().map(String::as_str).collect::<Vec<_>>(), ["stdin", "stdin.2", "stdin.3"]);
}

/// A run dies here when something that it has read is claimed: the first claim says only which partitions there are.
const CLAIMED: &str = "log.claims.after:2";

/// What was claimed must be read again as it was. A file that is another one now cannot be that, nor can standard input.
#[test]
fn after_a_crash_a_file_that_was_replaced_is_refused_and_one_that_was_put_back_goes_on() {
    let again = Again::new();
    again.write(&again.lines[..400]);
    let mut dying = again.command(&again.file());
    dying.env("WINDKESSEL_FAILPOINT", CLAIMED);
    assert_eq!(finish(&mut dying).code(), None, "it dies with the claim");
    let entries = || fs::read_dir(again.folder.path().join("windkessel-data/state/log")).unwrap().count();
    let before = entries();
    again.write(&again.lines[200..600]);
    let refused = again.run();
    assert_eq!(refused.code(), Some(78), "{}", refused.err);
    assert!(refused.last_words().contains("or not as it was: 1 of its files"), "{}", refused.err);
    assert_eq!(entries(), before, "nothing was changed");
    again.write(&again.lines[..400]);
    again.run().succeeded();
    assert_eq!(again.readings().0, 400);
    again.write(&again.lines[200..600]);
    again.run().succeeded();
    assert_eq!(again.readings().0, 600);
}

#[test]
fn after_a_crash_standard_input_is_refused_with_what_to_do() {
    let again = Again::new();
    let mut dying = again.command(Path::new("-"));
    let mut dying = Running::start(dying.stdin(Stdio::piped()).env("WINDKESSEL_FAILPOINT", CLAIMED));
    // It need not take all of it any more.
    let _ = dying.stdin().write_all(again.lines.join("\n").as_bytes());
    assert_eq!(dying.wait(DEADLINE).code(), None);
    let refused = Running::start(again.command(Path::new("-")).stdin(Stdio::null())).wait(DEADLINE);
    assert_eq!(refused.code(), Some(78), "{}", refused.err);
    assert!(refused.last_words().contains("as standard input cannot be"), "{}", refused.err);
}
