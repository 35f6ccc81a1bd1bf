//! `windkessel run`: runs a flow.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Failed, print_line};
use crate::config::Flow;
use crate::job::{Job, Keep, Options};
use crate::runtime::cluster::Membership;
use crate::runtime::progress::Terminal;
use crate::runtime::stop::Stop;

/// Arguments of `run`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The flow file.
    pub flow: PathBuf,
    /// Worker threads; in a cluster, of each process.
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: u16,
    /// Override a setting; the value is TOML. May be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub overrides: Vec<String>,
    /// `end`: process what is there now, drain and exit.
    #[arg(long, value_enum)]
    pub until: Option<Until>,
    /// After a crash, repeat what was read although settings or version have changed: rows of that time may be others.
    #[arg(long)]
    pub replay_with_new_code: bool,
    /// Several processes: a file with one host:port a line, line by line process 0, 1, and so on.
    #[arg(long, value_name = "FILE", requires = "process")]
    pub hosts: Option<PathBuf>,
    /// Which line of the hosts file this process is, from 0.
    #[arg(long, value_name = "I", requires = "hosts")]
    pub process: Option<usize>,
    /// A file holding what all processes know and nobody else; needed unless all are on this machine.
    #[arg(long, value_name = "FILE", env = "WINDKESSEL_CLUSTER_SECRET_FILE")]
    pub secret_file: Option<PathBuf>,
    /// How many seconds processes wait for each other at the start.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub join_seconds: u64,
    /// Show neither progress nor summary.
    #[arg(short, long)]
    pub quiet: bool,
}

/// When a run ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Until {
    /// At the end of what the source holds now.
    End,
}

/// The cluster that is meant, if there is one: a file of one line is a process alone.
fn membership(args: &Args) -> Result<Option<Arc<Membership>>, String> {
    let (Some(hosts), Some(process)) = (&args.hosts, args.process) else { return Ok(None) };
    let join = Duration::from_secs(args.join_seconds);
    let membership = Membership::read(hosts, process, args.secret_file.as_deref(), join)?;
    Ok((membership.processes() > 1).then(|| Arc::new(membership)))
}

/// Runs the flow.
pub fn run(args: &Args, terminal: Terminal) -> Result<(), Failed> {
    let flow = Flow::read(&args.flow, &args.overrides).map_err(Failed::configuration)?;
    let cluster = membership(args).map_err(Failed::configuration)?;
    let stop = Stop::default();
    stop.on_signals().map_err(Failed::unavailable)?;
    let terminal = (!args.quiet).then_some(terminal);
    let options = Options {
        workers: args.workers.into(),
        until_end: args.until.is_some(),
        stop,
        terminal,
        read: None,
        keep: Keep::State,
        replay_with_new_code: args.replay_with_new_code,
        cluster,
    };
    let report = Job::prepare(flow, options)?.run()?;
    if !args.quiet {
        print_line(&report.summary());
    }
    Ok(())
}
