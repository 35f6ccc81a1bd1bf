//! Kills a run again and again, and judges what it has written: nothing lost, nothing doubled, nothing contradicted.
//!
//! *Contradicted* is what makes this sharp: whatever line any run has handed to the operating system, in a file that never got a name, was of a claimed
//! epoch, so a sink that writes at once (Elasticsearch) would have shown it to somebody. It must come again, to the letter, with its epoch.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{DEADLINE, Finished, Row, Running, files, parquet_file, parsed, timeless};

/// Chance, always the same for one seed (splitmix64, <https://prng.di.unimi.it/splitmix64.c>).
pub(crate) struct Random(u64);

impl Random {
    /// From `WINDKESSEL_CRASH_SEED`, or a fixed seed; says which.
    pub(crate) fn seeded(test: &str) -> Random {
        let seed = std::env::var("WINDKESSEL_CRASH_SEED").map_or(20_261_125, |text| text.parse().unwrap());
        eprintln!("{test}: WINDKESSEL_CRASH_SEED={seed}");
        let salt = test.bytes().fold(0_u64, |salt, byte| salt.wrapping_mul(31).wrapping_add(byte.into()));
        Random(seed ^ salt)
    }

    /// Less than `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    /// From `start` to before `end` milliseconds.
    pub(crate) fn millis(&mut self, start: u64, end: u64) -> Duration {
        Duration::from_millis(start + self.below(end - start))
    }
}

/// How a run is ended.
#[derive(Clone, Debug)]
pub(crate) enum Blow {
    /// `kill -9` after a while.
    Kill(Duration),
    /// The same, counted from its first checkpoint: however slow the machine, something was achieved.
    Later(Duration),
    /// It dies at a failpoint, or is killed if it does not come there in time.
    Failpoint(String),
    /// SIGTERM after a while.
    Ask(Duration),
}

impl Blow {
    /// The same, but one that came too late comes earlier.
    pub(crate) fn sooner(self) -> Blow {
        match self {
            Blow::Kill(after) => Blow::Kill(after / 2),
            Blow::Later(after) => Blow::Later(after / 2),
            Blow::Ask(after) => Blow::Ask(after / 2),
            Blow::Failpoint(place) => match place.rsplit_once(':') {
                Some((place, nth)) if nth.parse::<u32>().is_ok() => Blow::Failpoint(format!("{place}:1")),
                _ => Blow::Failpoint(place),
            },
        }
    }
}

/// How a run has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Struck {
    /// By `kill -9`.
    Killed,
    /// At its failpoint.
    Failpoint,
    /// Asked, it has drained.
    Drained,
    /// Asked, it had no time to drain, or was repeating what an earlier run had read.
    GaveUp,
    /// Before the blow: everything was done.
    Done,
}

/// A failpoint has this long to be reached.
const FAILPOINT_MAX: Duration = Duration::from_secs(20);
/// And a checkpoint so long.
const CHECKPOINT_MAX: Duration = Duration::from_secs(40);
/// What `abort` ends with.
const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;

/// Starts a run that writes NDJSON below `data`, and ends it.
pub(crate) fn strike(command: &mut Command, data: &Path, blow: &Blow) -> Struck {
    let mut running;
    match blow {
        Blow::Kill(after) | Blow::Ask(after) => {
            running = Running::start(command);
            if running.ends_within(*after) {
                return struck(&running.kill(), blow);
            }
        }
        Blow::Later(after) => {
            let before = names(data);
            running = Running::start(command);
            let begun = Instant::now();
            while names(data) == before && begun.elapsed() < CHECKPOINT_MAX {
                if running.ends_within(Duration::from_millis(10)) {
                    return struck(&running.kill(), blow);
                }
            }
            running.ends_within(*after);
        }
        Blow::Failpoint(place) => {
            running = Running::start(command.env("WINDKESSEL_FAILPOINT", place));
            running.ends_within(FAILPOINT_MAX);
        }
    }
    if matches!(blow, Blow::Ask(_)) {
        running.signal("TERM");
        return asked(running.wait(DEADLINE), blow);
    }
    struck(&running.kill(), blow)
}

fn struck(finished: &Finished, blow: &Blow) -> Struck {
    match (finished.status.signal(), finished.code()) {
        (Some(SIGKILL), _) => Struck::Killed,
        (Some(SIGABRT), _) if matches!(blow, Blow::Failpoint(_)) => Struck::Failpoint,
        (None, Some(0)) => Struck::Done,
        _ => panic!("{blow:?} met a run that had ended with {}:\n{}", finished.status, finished.err),
    }
}

fn asked(finished: Finished, blow: &Blow) -> Struck {
    // Before it knows of signals; and with 75 while it repeats what an earlier run had read.
    let early = finished.status.signal() == Some(15);
    assert!(early || matches!(finished.code(), Some(0 | 75)), "{blow:?}: {}\n{}", finished.status, finished.err);
    if finished.code() == Some(0) { Struck::Drained } else { Struck::GaveUp }
}

/// What is wrong with what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wrong {
    /// A row is not there.
    Lost,
    /// A row is there twice.
    Doubled,
    /// A row that a run had handed out did not come again as it was.
    Contradicted,
    /// A file with a name is not whole, or changed.
    Torn,
}

/// What was found, with an example of each.
#[derive(Default)]
pub(crate) struct Findings(BTreeMap<Wrong, (usize, String)>);

impl Findings {
    pub(crate) fn add(&mut self, wrong: Wrong, example: impl FnOnce() -> String) {
        let found = self.0.entry(wrong).or_insert_with(|| (0, example()));
        found.0 += 1;
    }

    pub(crate) fn kinds(&self) -> BTreeSet<Wrong> {
        self.0.keys().copied().collect()
    }
}

impl fmt::Debug for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.0.iter().map(|(wrong, (count, example))| (wrong, format!("{count}, e.g. {example}"))))
            .finish()
    }
}

/// The tables, with the columns by which a row is itself.
const TABLES: [(&str, &[&str]); 8] = [
    ("readings", &["topic", "partition", "offset"]),
    ("windows", &["patient", "window_start", "revision"]),
    ("rejected", &["topic", "partition", "offset", "entry"]),
    ("shifts", &["feature", "group", "current_start", "epoch"]),
    ("quality", &["topic", "measure", "current_start", "epoch"]),
    ("performance", &["group", "current_start", "epoch"]),
    ("fairness", &["attribute", "group", "current_start", "epoch"]),
    ("alerts", &["table", "feature", "group", "current_start", "epoch"]),
];

/// Looks at the folder of a flow that writes NDJSON and Parquet there.
pub(crate) struct Witness {
    data: PathBuf,
    /// Lines of files without a name, by table: of claimed epochs, so they must come again.
    promised: BTreeMap<&'static str, HashSet<String>>,
    /// Rows of every file with a name, as they were when it was first seen, with the file's length.
    named: HashMap<PathBuf, (u64, usize)>,
    /// Rows of files with names, by table and format: which were seen.
    seen: HashMap<(&'static str, &'static str), HashSet<String>>,
    pub(crate) findings: Findings,
}

impl Witness {
    pub(crate) fn of(data: PathBuf) -> Witness {
        let (promised, named, seen) = (BTreeMap::new(), HashMap::new(), HashMap::new());
        Witness { data, promised, named, seen, findings: Findings::default() }
    }

    /// Notes what a dead run has left under hidden names. To be called before the next one begins, which deletes it.
    pub(crate) fn harvest(&mut self) {
        for (table, _) in TABLES {
            let Ok(entries) = fs::read_dir(self.data.join(table)) else { continue };
            for path in entries.map(|entry| entry.unwrap().path()) {
                let name = path.file_name().unwrap().to_str().unwrap();
                if name.starts_with('.') && name.contains(".ndjson.") {
                    // A run that is still there may give it another name.
                    let Ok(text) = fs::read_to_string(&path) else { continue };
                    // A last line without an end was still being written.
                    let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
                    self.promised.entry(table).or_default().extend(lines.map(str::to_owned));
                }
            }
        }
    }

    /// Lines of dead runs so far.
    pub(crate) fn promised(&self) -> usize {
        self.promised.values().map(HashSet::len).sum()
    }

    /// Files that have names now.
    pub(crate) fn names(&self) -> usize {
        names(&self.data)
    }

    /// Reads what a reader sees who globs, at any moment: whole files that never change, no row twice.
    pub(crate) fn glance(&mut self) {
        for (table, key) in TABLES {
            for format in ["ndjson", "parquet"] {
                for path in files(&self.data.join(table), format) {
                    self.look(&path, (table, format), key);
                }
            }
        }
    }

    fn look(&mut self, path: &Path, (table, format): (&'static str, &'static str), key: &[&str]) {
        let bytes = fs::metadata(path).unwrap().len();
        if let Some((before, _)) = self.named.get(path) {
            if *before != bytes {
                self.findings.add(Wrong::Torn, || format!("{path:?} had {before} bytes, then {bytes}"));
            }
            return;
        }
        let Some(rows) = rows(path, format) else {
            return self.findings.add(Wrong::Torn, || format!("{path:?}, {bytes} bytes"));
        };
        self.named.insert(path.to_owned(), (bytes, rows.len()));
        let seen = self.seen.entry((table, format)).or_default();
        for row in rows {
            let key: Vec<String> = key.iter().map(|column| row[*column].to_string()).collect();
            if !seen.insert(key.join(" ")) {
                self.findings.add(Wrong::Doubled, || format!("{table} {row:?} in {path:?}"));
            }
        }
    }

    /// At the end: everything that was promised has come.
    pub(crate) fn conclude(&mut self) {
        self.glance();
        for (table, promised) in &self.promised {
            let texts =
                files(&self.data.join(table), "ndjson").into_iter().map(|path| fs::read_to_string(path).unwrap());
            let written: HashSet<String> =
                texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
            for line in promised.difference(&written) {
                self.findings.add(Wrong::Contradicted, || format!("{table} {line}"));
            }
        }
    }
}

fn names(data: &Path) -> usize {
    TABLES.iter().map(|(table, _)| files(&data.join(table), "ndjson").len()).sum()
}

/// The rows of a file; `None` if it is not whole.
fn rows(path: &Path, format: &str) -> Option<Vec<Row>> {
    if format == "parquet" {
        return parquet_file(path).ok();
    }
    let text = fs::read_to_string(path).unwrap();
    text.ends_with('\n').then(|| text.lines().map(parsed).collect())
}

/// Rows of `shifts` that stand at the end, without what differs from run to run.
pub(crate) fn shifts(rows: &[Row]) -> Vec<String> {
    timeless(&super::last_rows(rows, &["feature", "group", "current_start"]))
}
