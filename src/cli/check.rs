//! `windkessel check`: is this flow file right, and does it still do what its golden says?
//!
//! The golden of `x.toml` is the folder `x.golden` beside it: `input.ndjson`, and `expected.ndjson` with one line a row
//! (table name and row, sorted, without what differs from run to run: epoch and topic). It runs with a fixed, public key
//! and writes NDJSON to a temporary folder: no server is touched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::{Failed, print_line};
use crate::config::{AuditSpec, Flow, NdjsonSpec, PseudonymiseSpec, SinkSpec, SourceKind, TableName};
use crate::job::{Job, Options};
use crate::pseudonymise::Key;
use crate::runtime::stop::Stop;
use crate::sink::elasticsearch;
use crate::source::{self, Opening, Share};

/// The key of goldens: published here, so never one for real data.
const GOLDEN_KEY: &str = "0101010101010101010101010101010101010101010101010101010101010101";

/// How long `--connect` waits for an answer.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Arguments of `check`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The flow file.
    pub flow: PathBuf,
    /// Override a setting, as for `run`.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Also read the key and the model, and connect to the source and the sinks.
    #[arg(long)]
    pub connect: bool,
    /// Write the golden's expected rows anew; review the difference before you commit it.
    #[arg(long)]
    pub update: bool,
}

/// Checks.
pub fn run(args: Args) -> Result<(), Failed> {
    let flow = Flow::read(&args.flow, &args.overrides).map_err(Failed::configuration)?;
    print_line(&format!("{}: valid", args.flow.display()));
    if args.connect {
        connect(&flow)?;
    }
    let folder = args.flow.with_extension("golden");
    if !folder.is_dir() {
        print_line(&format!("{}: no golden beside it ({})", args.flow.display(), folder.display()));
        return Ok(());
    }
    golden(flow, &folder, args.update)
}

/// Opens what the flow names and says what answered.
fn connect(flow: &Flow) -> Result<(), Failed> {
    let key = Key::read(&flow.spec.pseudonymise).map_err(Failed::configuration)?;
    print_line("pseudonym key: readable");
    let topics = source::topics(&flow.spec.source, &|name| key.name_hash(name)).map_err(Failed::configuration)?;
    let opening = Opening {
        share: Share { worker: 0, workers: 1 },
        until_end: true,
        topics: &topics,
        path_key: &|name| key.name_hash(name),
        resume: &BTreeMap::new(),
        stop: &Stop::default(),
        progress: None,
    };
    source::open(&flow.spec.source, &opening).map_err(Failed::source)?;
    print_line("source: answers");
    if let Some(spec) = &flow.spec.sink.elasticsearch {
        elasticsearch::connect(spec, CONNECT_MAX).map_err(Failed::unavailable)?;
        print_line("elasticsearch: answers");
    }
    Ok(())
}

/// Runs the golden's input and compares, or rewrites, its expected rows.
fn golden(flow: Flow, folder: &Path, update: bool) -> Result<(), Failed> {
    let rows = golden_rows(flow, &folder.join("input.ndjson"))?;
    let expected_path = folder.join("expected.ndjson");
    if update {
        std::fs::write(&expected_path, &rows)
            .map_err(|error| Failed::other(format!("could not write {expected_path:?}: {error}")))?;
        print_line(&format!("{}: written, {} rows", expected_path.display(), rows.lines().count()));
        return Ok(());
    }
    let expected = std::fs::read_to_string(&expected_path)
        .map_err(|error| Failed::other(format!("could not read {expected_path:?}: {error}; --update writes it")))?;
    if expected == rows {
        print_line(&format!("{}: {} rows as expected", folder.display(), rows.lines().count()));
        return Ok(());
    }
    for line in expected.lines().filter(|line| !rows.lines().any(|row| row == *line)) {
        print_line(&format!("- {line}"));
    }
    for line in rows.lines().filter(|row| !expected.lines().any(|line| line == *row)) {
        print_line(&format!("+ {line}"));
    }
    Err(Failed::other(format!(
        "{} differs from what the flow gives (- expected, + given); --update accepts it",
        expected_path.display()
    )))
}

/// The rows that a flow makes of `input`, in the golden's form.
pub fn golden_rows(flow: Flow, input: &Path) -> Result<String, Failed> {
    let scratch = Scratch::new().map_err(Failed::unavailable)?;
    let key_file = scratch.0.join("key");
    std::fs::write(&key_file, GOLDEN_KEY).map_err(Failed::unavailable)?;
    let mut spec = flow.spec;
    let fields = spec.sink.elasticsearch.as_ref().map(|elasticsearch| elasticsearch.fields.clone()).unwrap_or_default();
    spec.source.kind = SourceKind::Files;
    spec.source.paths = vec![input.to_owned()];
    spec.pseudonymise = PseudonymiseSpec { key_file: Some(key_file), key_env: None };
    spec.audit = AuditSpec { enabled: false, ..spec.audit };
    spec.http.listen = String::new();
    spec.state.path = scratch.0.join("state");
    let tables = vec![TableName::Readings, TableName::Windows, TableName::Rejected];
    let ndjson = NdjsonSpec { path: scratch.0.clone(), tables: tables.clone(), fields, ..NdjsonSpec::default() };
    spec.sink = SinkSpec { ndjson: Some(ndjson), ..SinkSpec::default() };
    let flow = Flow::check(spec).map_err(Failed::configuration)?;
    let options = Options { workers: 1, until_end: true, stop: Stop::default(), terminal: None, read: None };
    Job::prepare(flow, options)?.run()?;
    collect(&scratch.0, &tables).map_err(Failed::unavailable)
}

/// All rows below `folder`, one a line, sorted.
fn collect(folder: &Path, tables: &[TableName]) -> std::io::Result<String> {
    let mut lines = Vec::new();
    for table in tables {
        let table = table.name();
        let Ok(files) = std::fs::read_dir(folder.join(table)) else { continue };
        for file in files {
            let text = std::fs::read_to_string(file?.path())?;
            for line in text.lines() {
                let mut row: Value = serde_json::from_str(line)?;
                if let Some(row) = row.as_object_mut() {
                    row.shift_remove("epoch");
                    row.shift_remove("topic");
                }
                lines.push(format!("{table} {row}"));
            }
        }
    }
    lines.sort_unstable();
    lines.push(String::new());
    Ok(lines.join("\n"))
}

/// A temporary folder of this process, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("windkessel-check-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing depends on it; the system empties its temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
