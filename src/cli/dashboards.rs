//! `windkessel kibana` and `windkessel grafana`: the dashboards as files that both import.

use std::path::PathBuf;

use super::Failed;
use crate::dashboards;

/// Arguments of both.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What can be done.
#[derive(clap::Subcommand, Debug)]
pub enum Verb {
    /// Write them as a file to import: NDJSON of data views and dashboards for Kibana 8.9 or newer (Stack Management, Saved objects), JSON for
    /// Grafana 10.4 or newer (Dashboards, New, Import).
    Export {
        /// Where to; standard output if absent.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// Exports Kibana's.
pub fn kibana(args: &Args) -> Result<(), Failed> {
    export(args, dashboards::kibana())
}

/// Exports Grafana's.
pub fn grafana(args: &Args) -> Result<(), Failed> {
    export(args, dashboards::grafana())
}

fn export(args: &Args, made: Result<String, String>) -> Result<(), Failed> {
    let Verb::Export { out } = &args.verb;
    super::write_out(out.as_deref(), &made.map_err(Failed::other)?)
}
