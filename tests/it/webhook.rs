//! Proves that every alert of the table `alerts` is told to the receiver, whatever dies on the way: the receiver, or the run.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::support::{Row, finish, integer, key_file, ndjson, parsed, repository, text, windkessel};

/// Takes alerts, on a port that nobody listened at before.
struct Receiver {
    told: Arc<Mutex<Vec<Row>>>,
}

impl Receiver {
    fn at(address: &str) -> Receiver {
        let listener = TcpListener::bind(address).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&told);
        // Lives as long as the test process: a listener has no portable way to be woken.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let told = Arc::clone(&shared);
                std::thread::spawn(move || while take(&stream, &told).is_some() {});
            }
        });
        Receiver { told }
    }

    fn told(&self) -> Vec<Row> {
        self.told.lock().unwrap().clone()
    }
}

fn take(stream: &TcpStream, told: &Mutex<Vec<Row>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        match line.trim().to_ascii_lowercase().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap(),
            None if line.trim().is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    // A look, without a body, tells nothing.
    if length > 0 {
        told.lock().unwrap().push(parsed(std::str::from_utf8(&body).unwrap()));
    }
    let mut stream = stream;
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").ok()
}

struct Stage {
    folder: tempfile::TempDir,
    address: String,
}

impl Stage {
    /// A month of readings, whose windows differ for no other reason than that they are few.
    fn new() -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let made = ["generate", "--output", "input.ndjson", "--observations", "6000", "--patients", "40"];
        finish(windkessel(folder.path()).args(made)).succeeded();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        Stage { folder, address }
    }

    fn run(&self, workers: usize) -> Command {
        self.run_on(workers, &["input.ndjson"])
    }

    fn run_on(&self, workers: usize, paths: &[&str]) -> Command {
        let settings = [
            format!("source.paths={paths:?}"),
            key_file(self.folder.path()),
            format!("sink.webhook.url=\"http://{}/alerts\"", self.address),
            "audit.window=\"6h\"".into(),
            "audit.readings_min=10".into(),
            "audit.alert_windows=1".into(),
            "state.checkpoint_seconds=1".into(),
            "epoch.bytes=65536".into(),
        ];
        let mut command = windkessel(self.folder.path());
        command.arg("run").arg(repository("dataflows/blood_pressure_replay.toml"));
        command.args(["--until", "end", "-w", &workers.to_string()]);
        command.args(settings.iter().flat_map(|setting| ["--set", setting]));
        command
    }

    /// Every row of the table was told, each under its own id, those of one subject in their order; how many messages there were.
    fn agree(&self, told: &[Row]) -> (usize, usize) {
        let rows = ndjson(&self.folder.path().join("windkessel-data"), "alerts");
        assert!(!rows.is_empty(), "nothing to compare");
        let mut first = BTreeMap::new();
        for row in told {
            let same = first.entry(text(row, "id").to_owned()).or_insert_with(|| row.clone());
            assert_eq!(same, row, "one id, one message");
        }
        let columns = |row: &Row| {
            let about =
                ["table", "feature", "group", "current_start", "state"].map(|column| text(row, column).to_owned());
            (integer(row, "epoch"), about)
        };
        let written: BTreeSet<_> = rows.iter().map(columns).collect();
        assert_eq!(first.values().map(columns).collect::<BTreeSet<_>>(), written);
        assert_eq!((first.len(), written.len()), (rows.len(), rows.len()));
        let mut newest = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for row in told.iter().filter(|row| seen.insert(text(row, "id"))) {
            let epoch = newest.insert(text(row, "alert"), integer(row, "epoch")).unwrap_or(0);
            assert!(epoch <= integer(row, "epoch"), "{} out of order", text(row, "alert"));
        }
        (rows.len(), told.len())
    }
}

#[test]
fn what_a_dead_receiver_did_not_take_is_told_by_the_next_run_on_other_workers() {
    let stage = Stage::new();
    let first = finish(&mut stage.run(2)).succeeded();
    assert!(
        first.err.contains("alerts wait for their receiver") && first.err.contains("the next run sends them"),
        "{}",
        first.err
    );
    let receiver = Receiver::at(&stage.address);
    finish(&mut stage.run(3)).succeeded();
    let (rows, told) = stage.agree(&receiver.told());
    assert_eq!(told, rows, "a receiver that answers is told once");
    finish(&mut stage.run(1)).succeeded();
    assert_eq!(receiver.told().len(), rows, "and not again");
}

#[test]
fn a_run_that_dies_tells_everything_and_the_same_again_under_the_same_id() {
    let stage = Stage::new();
    let receiver = Receiver::at(&stage.address);
    let input = std::fs::read_to_string(stage.folder.path().join("input.ndjson")).unwrap();
    let lines: Vec<&str> = input.lines().collect();
    // One third after the other, so that there is something to be told in every run.
    let parts = ["part-0.ndjson", "part-1.ndjson", "part-2.ndjson"];
    for (number, place) in ["log.checkpoint.after:1", "log.claims.after:2", "sink.name.after:2"].into_iter().enumerate()
    {
        let third = &lines[lines.len() * number / 3..lines.len() * (number + 1) / 3];
        std::fs::write(stage.folder.path().join(parts[number]), third.join("\n") + "\n").unwrap();
        let mut dying = stage.run_on(number + 1, &parts[..=number]);
        let dead = finish(dying.env("WINDKESSEL_FAILPOINT", place));
        assert_eq!(dead.code(), None, "it dies at {place}: {}", dead.err);
    }
    finish(&mut stage.run_on(2, &parts)).succeeded();
    let (rows, told) = stage.agree(&receiver.told());
    eprintln!("{rows} alerts were told in {told} messages");
}
