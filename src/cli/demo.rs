//! `windkessel demo`: the whole flow in one process, with an embedded broker.
//!
//! The broker is librdkafka's mock cluster, reached through the ordinary client over loopback; everything else is what `run` runs.

use std::path::PathBuf;

use toml::Value;

use super::{Failed, eprint_line, print_line};
use crate::config::Flow;
use crate::job::{Job, Keep, Options};
use crate::pseudonymise::Key;
use crate::runtime::progress::Terminal;
use crate::runtime::stop::Stop;
use crate::source::embedded::{self, Embedded, Feed};
use crate::source::files;
use crate::source::generator::Generator;
use crate::source::generator::outcomes::OUTCOME;
use crate::source::generator::profile::Profile;

/// Arguments of `demo`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Your own FHIR files or folders (NDJSON, resources, Bundles, also .gz and .zst) instead of synthetic patients.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub input: Vec<PathBuf>,
    /// Where rows, key and state go.
    #[arg(long, default_value = "windkessel-data")]
    pub output: PathBuf,
    /// Synthetic observations to make; 0 for no end.
    #[arg(long, default_value_t = 120_000)]
    pub observations: u64,
    /// Say what came of the synthetic patients as well, so that performance and fairness are measured against it.
    #[arg(long, conflicts_with = "input")]
    pub outcomes: bool,
    /// Say what the synthetic patients suffer from as well, so that they are grouped by their number of comorbidities.
    #[arg(long, conflicts_with = "input")]
    pub conditions: bool,
    /// Synthetic patients.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..))]
    pub patients: u32,
    /// Observations a second; 0 for as fast as possible.
    #[arg(long, default_value_t = 8_000)]
    pub rate: u64,
    /// Seed of the synthetic patients.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Worker threads.
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,
    /// Address of the live page and the metrics; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:9187")]
    pub listen: String,
    /// Keep the live page up at the end, until Ctrl-C.
    #[arg(long)]
    pub stay: bool,
    /// Override a setting of the flow, as for `run`.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// The demo's flow, before the arguments are filled in.
const FLOW: &str = include_str!("demo.toml");

/// Partitions of the embedded broker's topic.
const PARTITIONS: i32 = 8;

/// Largest document of `--input`: a Bundle with a patient's whole history.
const DOCUMENT_BYTES_MAX: usize = 64 << 20;

/// Runs the demo.
pub fn run(args: &Args, terminal: Terminal) -> Result<(), Failed> {
    let stop = Stop::default();
    stop.on_signals().map_err(Failed::unavailable)?;
    std::fs::create_dir_all(&args.output)
        .map_err(|error| Failed::unavailable(format!("could not create {:?}: {error}", args.output)))?;
    Key::create_file(&key_file(args)).map_err(Failed::configuration)?;
    let topics = [(TOPIC, PARTITIONS), (OUTCOMES_TOPIC, 1)];
    let broker = Embedded::start(&topics[..1 + usize::from(args.outcomes)]).map_err(Failed::unavailable)?;
    ensure_model(args)?;
    let flow = flow(args, broker.brokers()).map_err(Failed::configuration)?;
    let feed = feed(args)?;
    eprint_line(&format!(
        "windkessel demo: {} through an embedded broker ({}), rows to {}/",
        what(args),
        broker.brokers(),
        args.output.display()
    ));
    let options = Options {
        workers: args.workers.into(),
        until_end: false,
        stop: stop.clone(),
        terminal: Some(terminal),
        read: Some(broker.progress()),
        // The broker's topic begins anew with every demo.
        keep: Keep::Nowhere,
        replay_with_new_code: false,
        cluster: None,
    };
    let job = Job::prepare(flow, options)?;
    let feeder = broker.feed(feed, args.rate, &stop).map_err(Failed::unavailable)?;
    // A consumer cannot see the end of a topic: it is where everything has been read that was fed.
    let ending = stop.clone();
    let watcher = std::thread::spawn(move || {
        let fed = feeder.join_read(&ending);
        ending.complete();
        fed
    });
    let report = job.run()?;
    if let Ok(fed) = watcher.join() {
        fed.map_err(Failed::unavailable)?;
    }
    print_line(&report.summary());
    if args.stay {
        report.keep_serving(&stop);
    }
    Ok(())
}

const TOPIC: &str = "bp-obs";

/// Behind [`TOPIC`] in the order of names.
const OUTCOMES_TOPIC: &str = "bp-outcomes";

fn key_file(args: &Args) -> PathBuf {
    args.output.join("pseudonym.key")
}

fn what(args: &Args) -> String {
    match args.input.len() {
        0 => format!("{} synthetic patients", args.patients),
        1 => "your files".to_owned(),
        paths => format!("your files ({paths} paths)"),
    }
}

/// The demo's flow with the arguments filled in.
fn flow(args: &Args, brokers: &str) -> Result<Flow, String> {
    let text = |path: PathBuf| Value::String(path.display().to_string()).to_string();
    let mut overrides = vec![
        format!("source.brokers=\"{brokers}\""),
        format!("pseudonymise.key_file={}", text(key_file(args))),
        format!("sink.parquet.path={}", text(args.output.clone())),
        format!("sink.ndjson.path={}", text(args.output.clone())),
        format!("state.path={}", text(args.output.join("state"))),
        format!("model.file={}", text(model_file(args))),
        format!("http.listen=\"{}\"", args.listen),
    ];
    if !args.input.is_empty() {
        // One file may hold years, and the next one begins years before: nothing in them is late.
        overrides.extend(["patient.disorder=\"unbounded\"".to_owned(), "correction.horizon=\"36500d\"".to_owned()]);
    }
    if args.outcomes {
        overrides.extend([
            format!("audit.outcomes.topics=[\"{OUTCOMES_TOPIC}\"]"),
            format!("audit.outcomes.outcome=\"{OUTCOME}\""),
            "audit.outcomes.horizon=\"1h\"".to_owned(),
        ]);
    }
    if args.conditions {
        overrides.push("decode.conditions=true".to_owned());
    }
    overrides.extend(args.overrides.iter().cloned());
    Flow::parse(FLOW, &overrides)
}

/// A model for the demo, made once: synthetic patients, no clinical use.
fn ensure_model(args: &Args) -> Result<(), Failed> {
    let path = model_file(args);
    if path.exists() {
        return Ok(());
    }
    eprint_line(&format!(
        "windkessel demo: training a model on synthetic patients (no clinical use): {}",
        path.display()
    ));
    super::train::make(&path, &super::synthetic::Cohort { seed: 7, patients: 300, observations: 30_000 })
        .map_err(Failed::configuration)
}

fn model_file(args: &Args) -> PathBuf {
    args.output.join("model.json")
}

/// What the broker is fed with.
fn feed(args: &Args) -> Result<Box<dyn Iterator<Item = Feed> + Send>, Failed> {
    if args.input.is_empty() {
        let profile = Profile { conditions: args.conditions, ..Profile::default() };
        let generator = Generator::new(&profile, args.seed, args.patients, args.observations);
        return Ok(match args.outcomes {
            true => Box::new(embedded::with_outcomes(generator)),
            false => Box::new(embedded::synthetic(generator)),
        });
    }
    let documents = files::documents(&args.input, DOCUMENT_BYTES_MAX).map_err(Failed::configuration)?;
    Ok(Box::new(embedded::documents(documents)))
}
