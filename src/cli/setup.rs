//! `windkessel setup`: what a flow needs in its destinations, put there once, by an account that may.

use std::path::PathBuf;
use std::time::Duration;

use super::{Failed, print_line};
use crate::config::Flow;
use crate::job;
use crate::runtime::stop::Stop;
use crate::sink::elasticsearch::{self, Installed};
use crate::sink::tables::{Context, Tables};
use crate::source::Topics;

/// Elasticsearch must answer within this time.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Arguments of `setup`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The flow file.
    pub flow: PathBuf,
    /// Override a setting, as for `run`.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// Puts templates and lifecycle policy into Elasticsearch; says of each whether it was changed.
pub fn run(args: &Args) -> Result<(), Failed> {
    let flow = Flow::read(&args.flow, &args.overrides).map_err(Failed::configuration)?;
    let Some(spec) = &flow.spec.sink.elasticsearch else {
        let name = args.flow.display();
        return Err(Failed::configuration(format!("could not set up {name:?}: the flow has no sink.elasticsearch")));
    };
    let stop = Stop::default();
    stop.on_signals().map_err(Failed::unavailable)?;
    elasticsearch::connect(spec, CONNECT_MAX).map_err(Failed::unavailable)?;
    let signals = job::signal_columns(&flow);
    let rule_set = flow.spec.score.rules.clone();
    let tables = Tables::new(Context { topics: Topics::new([]), signals, rule_set, model: None });
    for Installed { what, changed } in elasticsearch::setup(spec, &tables, &stop).map_err(Failed::unavailable)? {
        print_line(&format!("{:<10} {what}", if changed { "installed" } else { "as it was" }));
    }
    Ok(())
}
