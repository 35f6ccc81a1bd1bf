//! `windkessel report`: the audit as a page.

use std::path::PathBuf;

use super::{Failed, eprint_line};
use crate::config::{Flow, TableName};
use crate::report::{self, Audit, Folders, Question, pdf};
use crate::time::EventTime;

/// Arguments of `report`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The folder that a flow wrote to, or the flow file, which also knows the thresholds.
    #[arg(default_value = "windkessel-data", value_name = "FOLDER or FLOW.toml")]
    pub from_where: PathBuf,
    /// The page to write; one that is there is replaced.
    #[arg(short, long, default_value = "report.html", value_name = "FILE")]
    pub out: PathBuf,
    /// Only windows that begin at this time or later (2026-01-31 or 2026-01-31T12:00:00Z).
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub from: Option<EventTime>,
    /// Only windows that end at this time or earlier.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub to: Option<EventTime>,
    /// Print it to a PDF beside it as well, by an installed Chromium, Chrome or Edge.
    #[arg(long)]
    pub pdf: bool,
    /// The browser that prints.
    #[arg(long, value_name = "PROGRAM", requires = "pdf")]
    pub browser: Option<PathBuf>,
    /// Override a setting of the flow, as for `run`.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// A day, which begins at midnight UTC, or an instant with its offset.
fn time(text: &str) -> Result<EventTime, String> {
    let instant = text.parse::<jiff::Timestamp>().or_else(|_| format!("{text}T00:00:00Z").parse());
    let hint = |_: jiff::Error| "write a day such as 2026-01-31, or an instant such as 2026-01-31T12:00:00Z".to_owned();
    instant.map(|at| EventTime::from_micros(at.as_microsecond())).map_err(hint)
}

/// Reads, renders, writes.
pub fn run(args: &Args) -> Result<(), Failed> {
    let question = question(args)?;
    let audit = Audit::read(&question);
    if audit.is_empty() {
        let tables = TableName::OF_AUDIT.map(TableName::name).join(", ");
        return Err(Failed::unavailable(format!(
            "could not report on {:?}: none of the tables {tables} has rows there; name the folder of sink.parquet.path, or wait until the first window has closed",
            args.from_where
        )));
    }
    super::write_whole(&args.out, report::render(&audit).as_bytes()).map_err(|error| {
        Failed::unavailable(format!("could not write {:?}: {error}; --out names another place", args.out))
    })?;
    eprint_line(&format!("windkessel report: {}", args.out.display()));
    if args.pdf {
        let path = args.out.with_extension("pdf");
        let browser = args.browser.clone().or_else(|| pdf::find(&std::env::var_os("PATH").unwrap_or_default()));
        pdf::print(browser, &args.out, &path).map_err(Failed::unavailable)?;
        eprint_line(&format!("windkessel report: {}", path.display()));
    }
    Ok(())
}

fn question(args: &Args) -> Result<Question, Failed> {
    let now = super::now();
    let (start, end) = report::ALWAYS;
    let range = (args.from.unwrap_or(start), args.to.unwrap_or(end));
    if args.from_where.is_dir() {
        if !args.overrides.is_empty() {
            return Err(Failed::configuration("--set changes a flow, and a folder was named; name the flow file"));
        }
        let folder = Some(args.from_where.clone());
        return Ok(Question { folders: Folders { parquet: folder.clone(), ndjson: folder }, range, audit: None, now });
    }
    let flow = Flow::read(&args.from_where, &args.overrides).map_err(Failed::configuration)?;
    let sink = &flow.spec.sink;
    let folders = Folders {
        parquet: sink.parquet.as_ref().map(|parquet| parquet.path.clone()),
        ndjson: sink.ndjson.as_ref().map(|ndjson| ndjson.path.clone()),
    };
    if folders == Folders::default() {
        return Err(Failed::configuration(format!(
            "could not report on flow {:?}: it has neither sink.parquet nor sink.ndjson, and a report is made from their files",
            args.from_where
        )));
    }
    Ok(Question { folders, range, audit: Some(flow.spec.audit), now })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::report::tests::fixture::{findings, window, write_parquet};

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &[&str]) -> Args {
        Command::try_parse_from([&["report"], line].concat()).unwrap().args
    }

    /// What a report on these arguments says; the page goes to a folder of its own.
    fn report(line: &[&str]) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("page.html");
        run(&args(&[line, &["--out", out.to_str().unwrap()]].concat())).map_err(|failed| failed.to_string())?;
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside the page");
        Ok(std::fs::read_to_string(out).unwrap())
    }

    #[test]
    fn a_folder_and_its_flow_give_a_page_and_the_flow_knows_the_thresholds() {
        let folder = tempfile::tempdir().unwrap();
        write_parquet(folder.path(), 1, &findings(34, 7));
        let data = folder.path().to_str().unwrap();
        let page = report(&[data]).unwrap();
        assert!(page.starts_with("<!DOCTYPE html>") && page.contains("No flow file was named"));
        let parquet = format!("sink.parquet.path={data:?}");
        let flow = ["dataflows/blood_pressure_replay.toml", "--set", &parquet, "--set", "audit.psi_act=0.375"];
        let page = report(&flow).unwrap();
        assert!(page.contains("act 0.375") && page.contains("Settings are those of the flow file"));
        let page = report(&[data, "--to", "2026-01-08T18:00:00Z"]).unwrap();
        assert!(page.contains("3 windows in the tables"), "28, 29 and 30 end by then");
    }

    #[test]
    fn what_cannot_be_reported_on_is_said_with_a_hint() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().to_str().unwrap();
        let nothing = report(&[data]).unwrap_err();
        assert!(nothing.contains("none of the tables") && nothing.contains("sink.parquet.path"), "{nothing}");
        let missing = folder.path().join("missing");
        let error = report(&[missing.to_str().unwrap()]).unwrap_err();
        assert!(error.starts_with("could not read flow"), "{error}");
        let error = report(&[data, "--set", "audit.psi_act=1"]).unwrap_err();
        assert!(error.contains("name the flow file"), "{error}");
        let out = folder.path().join("no/such/folder.html");
        write_parquet(folder.path(), 1, &findings(28, 7));
        let error = run(&args(&[data, "--out", out.to_str().unwrap()])).unwrap_err().to_string();
        assert!(error.contains("--out names another place"), "{error}");
    }

    #[test]
    fn times_are_days_or_instants() {
        let of = |text: &str| time(text).map(EventTime::micros);
        let start = window(0).0.micros();
        assert_eq!(of("2026-01-01"), Ok(start));
        assert_eq!(of("2026-01-01T01:00:00+01:00"), Ok(start));
        for wrong in ["yesterday", "2026-01-01 12:00", "2026-13-01", ""] {
            assert!(of(wrong).unwrap_err().contains("2026-01-31"), "{wrong}");
        }
        assert!(Command::try_parse_from(["report", "--browser", "chromium"]).is_err(), "a browser is for --pdf");
    }
}
