//! `windkessel run`: runs a flow.

use std::path::PathBuf;

use super::{Failed, print_line};
use crate::config::Flow;
use crate::job::{Job, Keep, Options};
use crate::runtime::progress::Terminal;
use crate::runtime::stop::Stop;

/// Arguments of `run`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The flow file.
    pub flow: PathBuf,
    /// Worker threads.
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

/// Runs the flow.
pub fn run(args: &Args, terminal: Terminal) -> Result<(), Failed> {
    let flow = Flow::read(&args.flow, &args.overrides).map_err(Failed::configuration)?;
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
    };
    let report = Job::prepare(flow, options)?.run()?;
    if !args.quiet {
        print_line(&report.summary());
    }
    Ok(())
}
