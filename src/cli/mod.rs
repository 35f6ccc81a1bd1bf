//! The command line: what `windkessel` can do. Arguments in, exit code out; the work is done elsewhere.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done, or drained after SIGTERM or Ctrl-C |
//! | 1 | `check` found that the golden differs |
//! | 2 | wrong arguments |
//! | 9 | another run has taken over the state: this one was fenced |
//! | 69 | a source, a sink or a port cannot be used; another process of the cluster is missing or has gone |
//! | 70 | a bug: a worker or a sink panicked; or a process of a cluster that no longer gets on |
//! | 75 | asked to end, but not everything could be delivered within 20 s; the next run reads it again |
//! | 78 | the flow, the key, the model, the profile or the hosts file cannot be used, offsets or a topic that the state knows are gone, or the processes of a cluster differ in them |
//! | 130 | asked to end a second time |

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::runtime::failure::Reported;
use crate::runtime::metrics::unix_now;
use crate::runtime::progress::Terminal;
use crate::source::SourceError;
use crate::time::EventTime;

pub mod check;
pub mod dashboards;
pub mod demo;
pub mod explain;
pub mod generate;
#[cfg(test)]
mod manual;
pub mod profile;
pub mod report;
pub mod run;
pub mod setup;
mod synthetic;
pub mod top;
pub mod train;

/// Windkessel: FHIR observations from Kafka, pseudonymised, windowed, scored and audited, to Elasticsearch, Parquet and Kafka.
#[derive(Parser, Debug)]
#[command(name = "windkessel", version, propagate_version = true, max_term_width = 100, arg_required_else_help = true)]
#[command(
    after_help = "Begin with:  windkessel demo\nLog level:   RUST_LOG=windkessel=debug\nNot a medical device: see docs/clinical.md."
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
    /// How log lines look, on standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log: LogFormat,
}

/// The verbs.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Run the whole flow on an embedded broker, with synthetic patients or your own FHIR files. Needs nothing.
    Demo(demo::Args),
    /// Run a flow.
    Run(run::Args),
    /// Check a flow file, and run its golden beside it.
    Check(check::Args),
    /// Show what a flow does: its graph, and every setting with its default.
    Explain(explain::Args),
    /// Make synthetic FHIR patients and observations.
    Generate(generate::Args),
    /// Make a page of what the audit found: one HTML file that opens offline and prints, or a PDF.
    Report(report::Args),
    /// Make a profile: what readings look like, as a reference that `audit.reference_profile` of a flow can name.
    Profile(profile::Args),
    /// Train a model and write its file.
    Train(train::Args),
    /// Put what a flow needs into Elasticsearch: templates and lifecycle policy. A second time changes nothing.
    Setup(setup::Args),
    /// Watch a run in the terminal.
    Top(top::Args),
    /// The dashboards of Kibana.
    Kibana(dashboards::Args),
    /// The dashboard of Grafana.
    Grafana(dashboards::Args),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A verb that did not do what it was asked, with the exit code that tells scripts why.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Failed {
    code: u8,
    text: String,
}

impl Failed {
    /// The flow, the key or the model cannot be used.
    pub fn configuration(text: impl ToString) -> Self {
        Failed { code: 78, text: text.to_string() }
    }

    /// A source, a sink or a port cannot be used.
    pub fn unavailable(text: impl ToString) -> Self {
        Failed { code: 69, text: text.to_string() }
    }

    /// A source cannot be opened: the flow is wrong, or the outside is.
    pub fn source(error: SourceError) -> Self {
        match error {
            SourceError::Configuration(text) => Failed::configuration(text),
            SourceError::Unavailable(text) => Failed::unavailable(text),
        }
    }

    /// A run ended with what was reported.
    pub fn of(reported: Reported) -> Self {
        Failed { code: reported.cause.exit_code(), text: reported.text }
    }

    /// Something else went wrong: the golden differs, a file exists already.
    pub fn other(text: impl ToString) -> Self {
        Failed { code: 1, text: text.to_string() }
    }
}

/// Does what the arguments say.
pub fn main(arguments: Arguments) -> ExitCode {
    let terminal = Terminal::stderr();
    start_log(arguments.log, &terminal);
    match dispatch(arguments.verb, terminal) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            eprint_line(&format!("windkessel: {failed}"));
            ExitCode::from(failed.code)
        }
    }
}

fn dispatch(verb: Verb, terminal: Terminal) -> Result<(), Failed> {
    match verb {
        Verb::Demo(args) => demo::run(&args, terminal),
        Verb::Run(args) => run::run(&args, terminal),
        Verb::Check(args) => check::run(args),
        Verb::Explain(args) => explain::run(args),
        Verb::Generate(args) => generate::run(&args).map_err(Failed::unavailable),
        Verb::Report(args) => report::run(&args),
        Verb::Profile(args) => profile::run(&args, terminal),
        Verb::Train(args) => train::run(&args).map_err(Failed::configuration),
        Verb::Setup(args) => setup::run(&args),
        Verb::Top(args) => top::run(&args),
        Verb::Kibana(args) => dashboards::kibana(&args),
        Verb::Grafana(args) => dashboards::grafana(&args),
        Verb::Completions { shell } => {
            let mut command = <Arguments as clap::CommandFactory>::command();
            clap_complete::generate(shell, &mut command, "windkessel", &mut std::io::stdout());
            Ok(())
        }
    }
}

fn start_log(format: LogFormat, terminal: &Terminal) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(terminal.writer());
    match format {
        LogFormat::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Writes a line to standard output; a closed pipe (`| head`) is no error.
pub fn print_line(text: &str) {
    let _ = std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{text}\n"));
}

/// Writes a line to standard error.
pub fn eprint_line(text: &str) {
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{text}\n"));
}

/// The wall clock, where a user asked for it or a page says when it was made.
pub(crate) fn now() -> EventTime {
    EventTime::from_micros(i64::try_from(unix_now().as_micros()).unwrap_or(i64::MAX))
}

/// Writes beside the place, to stable storage, then renames: whoever looks sees all of it, or what was there before.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut beside = OsString::from(path);
    beside.push(".part");
    let mut file = File::create(&beside)?;
    file.write_all(bytes).and_then(|()| file.sync_all())?;
    std::fs::rename(&beside, path)
}

/// Writes a text that was made to a file, or to standard output.
fn write_out(file: Option<&Path>, text: &str) -> Result<(), Failed> {
    match file {
        Some(path) => std::fs::write(path, text)
            .map_err(|error| Failed::unavailable(format!("could not write {:?}: {error}", path.display()))),
        None => {
            print_line(text.trim_end());
            Ok(())
        }
    }
}
