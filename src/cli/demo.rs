//! `windkessel demo`: the whole flow in one process, with an embedded broker.
//!
//! The broker is librdkafka's mock cluster, reached through the ordinary client over loopback; everything else is what `run` runs.

use std::path::PathBuf;

use super::{Failed, eprint_line, print_line};
use crate::config::{Flow, SourceKind, Spec};
use crate::job::{Job, Options};
use crate::pseudonymise::Key;
use crate::runtime::stop::Stop;
use crate::source::embedded;

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

/// Runs the demo.
pub fn run(args: Args) -> Result<(), Failed> {
    let stop = Stop::default();
    stop.on_signals().map_err(Failed::unavailable)?;
    std::fs::create_dir_all(&args.output).map_err(|error| Failed::unavailable(format!("could not create {:?}: {error}", args.output)))?;
    let key_file = args.output.join("pseudonym.key");
    let key = Key::create_file(&key_file).map_err(Failed::configuration)?;
    let broker = embedded::Broker::start("bp-obs", embedded::PARTITIONS).map_err(Failed::unavailable)?;
    let flow = flow(&args, &broker.address())?;
    let messages = messages(&args, &flow, &key)?;
    eprint_line(&format!(
        "windkessel demo: {} on an embedded broker ({}), rows to {}/",
        if args.input.is_empty() { "synthetic patients".to_owned() } else { format!("{} input path(s)", args.input.len()) },
        broker.address(),
        args.output.display()
    ));
    let options = Options { workers: args.workers.into(), until_end: false, stop: stop.clone(), progress: true };
    let job = Job::prepare(flow, options)?;
    let feeder = broker.feed(messages, args.rate, job.consumed(), stop.clone());
    // The broker has no end that a consumer could see: the feeder tells when everything it produced has been read.
    let job = job.ending_when(feeder.finished());
    let report = job.run()?;
    feeder.join().map_err(Failed::unavailable)?;
    print_line(&report.summary());
    if args.stay {
        report.keep_serving(&stop);
    }
    Ok(())
}
