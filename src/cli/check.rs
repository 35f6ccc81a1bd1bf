//! `windkessel check`: is this flow file right, and does it still do what its golden says?
//!
//! The golden of `x.toml` is the folder `x.golden` beside it: `input.ndjson`, and `expected.ndjson` with one line for each thing that
//! the flow would write (sorted, without what differs from run to run: epoch and topic), led by where it goes:
//!
//! | line | what |
//! |---|---|
//! | `readings`, `windows` | a row with all columns, if the flow writes Parquet |
//! | `rejected` | a rejection, in every flow |
//! | `elasticsearch` | a document, if the flow renames its fields |
//! | `ndjson` | a row of `readings` as the flow filters and renames it |
//!
//! It runs with a fixed, public key, without a model, and touches no sink of the flow. Its input is a file, which has no broker's timestamps.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::{Failed, print_line};
use crate::config::{
    AuditSpec, Flow, NdjsonSpec, OutcomesSpec, PseudonymiseSpec, ScheduleSpec, SinkSpec, SourceKind, TableName,
};
use crate::job::{self, Job, Keep, Options};
use crate::pseudonymise::Key;
use crate::runtime::stop::Stop;
use crate::sink::elasticsearch::{self, document::Documents};
use crate::sink::filter::Filter;
use crate::sink::{Deliver, Rows, SinkError, json, postgres, webhook};
use crate::source::{self, Opening, Share};
use crate::time::Epoch;

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
    if let Some(file) = &flow.spec.model.file {
        match job::read_model(file).map_err(Failed::configuration)? {
            Some(_) => print_line("model: readable"),
            None => print_line(&format!("model: {} is not there, rules alone score", file.display())),
        }
    }
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
    if let Some(spec) = flow.spec.sink.webhook.as_ref().filter(|webhook| webhook.is_on()) {
        webhook::connect(spec, CONNECT_MAX).map_err(Failed::unavailable)?;
        print_line("webhook: answers");
    }
    if let Some(spec) = flow.spec.sink.postgres.as_ref().filter(|postgres| postgres.is_on()) {
        postgres::connect(spec, CONNECT_MAX).map_err(Failed::unavailable)?;
        print_line("postgres: answers");
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

/// What a flow writes of `input`, in the golden's form.
pub fn golden_rows(flow: Flow, input: &Path) -> Result<String, Failed> {
    let scratch = Scratch::new().map_err(Failed::unavailable)?;
    let key_file = scratch.0.join("key");
    std::fs::write(&key_file, GOLDEN_KEY).map_err(Failed::unavailable)?;
    owner_only(&key_file).map_err(Failed::unavailable)?;
    let mut spec = flow.spec;
    let paper = Paper::new(&spec.sink).map_err(Failed::configuration)?;
    let lines = Arc::clone(&paper.lines);
    spec.source.kind = SourceKind::Files;
    spec.source.paths = vec![input.to_owned()];
    spec.pseudonymise = PseudonymiseSpec { key_file: Some(key_file), key_env: None };
    let (outcomes, schedule) = (OutcomesSpec::default(), ScheduleSpec::default());
    spec.audit = AuditSpec { enabled: false, outcomes, schedule, ..spec.audit };
    spec.model.file = None;
    spec.http.listen = String::new();
    spec.state.path = scratch.0.join("state").display().to_string();
    spec.sink = SinkSpec::default();
    let flow = Flow::check(spec).map_err(Failed::configuration)?;
    let options = Options {
        workers: 1,
        until_end: true,
        stop: Stop::default(),
        terminal: None,
        read: None,
        keep: Keep::Nowhere,
        replay_with_new_code: false,
        cluster: None,
    };
    Job::prepare(flow, options)?.with_sink("golden", Box::new(paper)).run()?;
    let mut lines = std::mem::take(&mut *lines.lock().unwrap_or_else(PoisonError::into_inner));
    lines.sort_unstable();
    lines.push(String::new());
    Ok(lines.join("\n"))
}

#[cfg(unix)]
fn owner_only(path: &Path) -> std::io::Result<()> {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
}

#[cfg(not(unix))]
fn owner_only(_path: &Path) -> std::io::Result<()> {
    Ok(())
}

/// A sink that writes down what the flow's own sinks would hold, and touches none of them.
struct Paper {
    /// With all columns: what Parquet holds.
    tables: Vec<TableName>,
    /// Selected, renamed and filtered.
    ndjson: Option<NdjsonSpec>,
    documents: Option<Documents>,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Paper {
    fn new(sink: &SinkSpec) -> Result<Self, SinkError> {
        let tables = match sink.parquet {
            Some(_) => vec![TableName::Readings, TableName::Windows, TableName::Rejected],
            None => vec![TableName::Rejected],
        };
        let documents = sink.elasticsearch.as_ref().filter(|spec| !spec.fields.is_empty()).map(Documents::new);
        Ok(Paper {
            tables,
            ndjson: sink.ndjson.clone().filter(|spec| !spec.fields.is_empty()),
            documents: documents.transpose()?,
            lines: Arc::default(),
        })
    }

    fn write(&self, sink: &str, row: &[u8]) {
        let mut row: Value = serde_json::from_slice(row).expect("a sink writes JSON");
        if let Some(row) = row.as_object_mut() {
            row.shift_remove("epoch");
            row.shift_remove("topic");
        }
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{sink} {row}"));
    }
}

impl Deliver for Paper {
    fn deliver(&mut self, epoch: Epoch, rows: &Rows) -> Result<(), SinkError> {
        let table = rows.table;
        let wrong = |unknown: json::UnknownColumn| SinkError::Refused(unknown.to_string());
        if self.tables.contains(&table) {
            let all = json::rows(&rows.batch, &BTreeMap::new()).map_err(wrong)?;
            (0..all.len()).for_each(|row| self.write(table.name(), all.line(row)));
        }
        if table != TableName::Readings {
            return Ok(());
        }
        if let Some(spec) = self.ndjson.as_ref().filter(|spec| spec.tables.contains(&table)) {
            let filter = Filter::new(spec.readings, rows);
            let some = json::rows_where(&rows.batch, &spec.fields, |row| filter.passes(row)).map_err(wrong)?;
            (0..some.len()).filter_map(|row| some.object(row)).for_each(|row| self.write("ndjson", row));
        }
        if let Some(documents) = &self.documents {
            documents.of(epoch, rows)?.iter().for_each(|document| self.write("elasticsearch", &document.source));
        }
        Ok(())
    }

    fn close(&mut self, _epoch: Epoch) -> Result<(), SinkError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn flows() -> Vec<PathBuf> {
        let mut flows: Vec<_> = std::fs::read_dir("dataflows")
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
            .collect();
        flows.sort();
        assert!(flows.len() >= 5, "{flows:?}");
        flows
    }

    #[test]
    fn every_shipped_flow_does_what_its_golden_says() {
        let update = std::env::var_os("UPDATE_EXPECT").is_some();
        for path in flows() {
            let folder = path.with_extension("golden");
            let flow = Flow::read(&path, &[]).unwrap_or_else(|why| panic!("{why}"));
            golden(flow, &folder, update).unwrap_or_else(|failed| panic!("{failed}"));
        }
    }

    #[test]
    fn a_golden_shows_what_the_sinks_of_its_flow_would_hold() {
        let lines = |name: &str| std::fs::read_to_string(format!("dataflows/{name}.golden/expected.ndjson")).unwrap();
        let leads = |name: &str| {
            lines(name)
                .lines()
                .filter_map(|line| line.split(' ').next().map(str::to_owned))
                .collect::<std::collections::BTreeSet<_>>()
        };
        let names = |leads: std::collections::BTreeSet<String>| leads.into_iter().collect::<Vec<_>>().join(" ");
        assert_eq!(names(leads("blood_pressure")), "readings rejected windows");
        assert_eq!(names(leads("readings_envelope")), "elasticsearch ndjson rejected");
        // Nobody's name, birth date or id of the input comes out.
        for flow in flows() {
            let text = std::fs::read_to_string(flow.with_extension("golden").join("expected.ndjson")).unwrap();
            for word in ["Quill", "golden-", "1951-", "urn:oid"] {
                assert!(!text.contains(word), "{}: {word}", flow.display());
            }
        }
    }

    #[test]
    fn a_golden_that_differs_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let input = std::fs::read("dataflows/fhir_anomalies.golden/input.ndjson").unwrap();
        std::fs::write(folder.path().join("input.ndjson"), input).unwrap();
        std::fs::write(folder.path().join("expected.ndjson"), "rejected {}\n").unwrap();
        let flow = Flow::read(Path::new("dataflows/fhir_anomalies.toml"), &[]).unwrap();
        let failed = golden(flow, folder.path(), false).unwrap_err();
        assert_eq!(failed.code, 1);
        assert!(failed.to_string().contains("--update"), "{failed}");
    }
}
