//! `windkessel profile`: what readings look like, as a file that other readings are compared with.
//!
//! From a flow (its source is read to the end, through all stages up to the score, and nothing is written) or from Parquet files ([`rows`]).

use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use super::{Failed, print_line};
use crate::audit::profile::count::{Counter, Making, SharedSums};
use crate::audit::profile::{OfFeature, PATIENTS_MIN, Profile, ScoredBy, Source, digest};
use crate::audit::series::GROUPS;
use crate::config::{AuditSpec, Flow, SinkSpec, Start};
use crate::job::{Job, Keep, Options};
use crate::runtime::progress::Terminal;
use crate::runtime::stop::Stop;
use crate::time::EventSpan;

mod rows;

use self::rows::Names;

/// Arguments of `profile`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A flow file, of whose source everything is read that is there now; or a Parquet file; or a folder of such, or one that a flow wrote to.
    #[arg(value_name = "FLOW.toml, FILE.parquet or FOLDER")]
    pub from_where: PathBuf,
    /// The profile to write.
    #[arg(short, long, default_value = "profile.json", value_name = "FILE")]
    pub out: PathBuf,
    /// Overwrite the profile if it is there.
    #[arg(long)]
    pub force: bool,
    /// Override a setting of the flow, as for `run`. May be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Flow: worker threads.
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: u16,
    /// Parquet: what a column is called there, such as systolic=sbp. May be repeated; the names that Windkessel writes need not be said.
    #[arg(long = "column", value_name = "COLUMN=NAME", value_parser = rows::renaming)]
    pub columns: Vec<(&'static str, String)>,
    /// Parquet: the length of the windows that will be compared with it (a flow says so itself).
    #[arg(long, default_value = "1h", value_name = "SPAN")]
    pub window: EventSpan,
    /// Parquet: windows of fewer readings do not say what is usual (a flow's audit.readings_min).
    #[arg(long, default_value_t = 500, value_name = "N")]
    pub readings_min: u64,
    /// Show no progress.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Reads, counts, writes, and says what of.
pub fn run(args: &Args, terminal: Terminal) -> Result<(), Failed> {
    // Asked before the work as well as after it.
    refuse_to_overwrite(args)?;
    let is_flow = !args.from_where.is_dir() && args.from_where.extension().is_none_or(|ending| ending != "parquet");
    let profile = if is_flow { of_flow(args, terminal)? } else { of_parquet(args)? };
    refuse_to_overwrite(args)?;
    let text = profile.text();
    super::write_whole(&args.out, text.as_bytes()).map_err(|error| {
        Failed::unavailable(format!("could not write {:?}: {error}; --out names another place", args.out))
    })?;
    print_line(&summary(&profile));
    let (out, digest) = (args.out.display(), digest(&text));
    print_line(&format!("wrote {out} ({digest}); name it as audit.reference_profile in a flow"));
    Ok(())
}

fn refuse_to_overwrite(args: &Args) -> Result<(), Failed> {
    match args.out.exists() && !args.force {
        true => Err(Failed::unavailable(format!(
            "could not write {:?}: it is there already, and flows may be compared with it; --force overwrites it, --out names another place",
            args.out
        ))),
        false => Ok(()),
    }
}

fn of_flow(args: &Args, terminal: Terminal) -> Result<Profile, Failed> {
    if !args.columns.is_empty() {
        return Err(Failed::configuration("--column is for Parquet files, and a flow was named"));
    }
    let flow = apart(Flow::read_for_profile(&args.from_where, &args.overrides).map_err(Failed::configuration)?);
    let (audit, name) = (flow.spec.audit.clone(), flow.spec.name.clone());
    let stop = Stop::default();
    stop.on_signals().map_err(Failed::unavailable)?;
    let options = Options {
        workers: args.workers.into(),
        until_end: true,
        stop: stop.clone(),
        terminal: (!args.quiet).then_some(terminal),
        read: None,
        keep: Keep::Nowhere,
        replay_with_new_code: false,
        cluster: None,
    };
    let sums = SharedSums::default();
    let job = Job::prepare(flow, options)?.with_profile(sums.clone());
    let scored_by = job.scored_by();
    job.run()?;
    if stop.drain() {
        return Err(Failed::unavailable("was asked to end before everything was read: there is no profile"));
    }
    let source = source("flow", Some(name));
    let making = Making { audit, source, scored_by, knows_patients: true, knows_sex: true };
    let sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
    making.make(&sums).map_err(|why| nothing(&args.from_where, &why))
}

/// The flow, so that it reads everything, writes nothing, and disturbs no run of it: a Kafka group has committed offsets, where a run without state would
/// begin, and which it would move.
fn apart(mut flow: Flow) -> Flow {
    flow.spec.source.start = Start::Earliest;
    flow.spec.source.group += "-profile";
    flow.spec.sink = SinkSpec::default();
    flow.spec.http.listen = String::new();
    flow.spec.audit.enabled = true;
    flow
}

fn of_parquet(args: &Args) -> Result<Profile, Failed> {
    if !args.overrides.is_empty() {
        return Err(Failed::configuration("--set changes a flow, and Parquet files were named; name the flow file"));
    }
    if args.window <= EventSpan::ZERO || args.window == EventSpan::UNBOUNDED {
        return Err(Failed::configuration(format!("--window must be positive and bounded, got {}", args.window)));
    }
    let found = rows::read(&args.from_where, &Names::new(&args.columns)).map_err(Failed::unavailable)?;
    let audit = AuditSpec { window: args.window, readings_min: args.readings_min, ..AuditSpec::default() };
    let mut counter = Counter::new(&audit);
    found.rows.assessed(&mut |batch| counter.add(batch));
    // Who was selected, and what came of it, is in no column.
    let scored_by = ScoredBy { rule_set: found.rule_set, model: found.model, selected: None, outcome: None };
    let (knows_patients, knows_sex) = (found.knows_patients, found.knows_sex);
    let making = Making { audit, source: source("parquet", found.flow), scored_by, knows_patients, knows_sex };
    making.make(&counter.sums()).map_err(|why| nothing(&args.from_where, &why))
}

fn source(kind: &str, flow: Option<String>) -> Source {
    Source { kind: kind.to_owned(), flow, version: env!("CARGO_PKG_VERSION").to_owned() }
}

fn nothing(from_where: &Path, why: &str) -> Failed {
    Failed::unavailable(format!("could not make a profile of {from_where:?}: {why}"))
}

/// What was written, as far as a look tells whether it can be right: a pressure in another unit has another mean.
fn summary(profile: &Profile) -> String {
    let Profile { readings, patients, start, end, .. } = profile;
    let patients = patients.map_or("patients unknown".to_owned(), |patients| format!("{patients} patients"));
    let mut lines = vec![format!("{readings} readings, {patients}, from {start} to {end}")];
    let of_all = profile.features.iter().filter(|of| of.group == GROUPS[0]);
    lines.extend(of_all.map(|OfFeature { feature, unit, mean, standard_deviation, .. }| {
        let (mean, deviation) = (mean.unwrap_or_default(), standard_deviation.unwrap_or_default());
        format!("  {feature:<15} mean {mean:6.1} {unit}, standard deviation {deviation:.1}")
    }));
    let groups: Vec<&str> =
        GROUPS.into_iter().filter(|group| profile.features.iter().any(|of| of.group == *group)).collect();
    lines.push(format!("  groups: {}", groups.join(", ")));
    if !profile.left_out.is_empty() {
        lines.push(format!(
            "  left out, because of fewer than {PATIENTS_MIN} patients, or to hide them: {}",
            profile.left_out.join(", ")
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_read_from_the_beginning_and_apart_from_its_runs() {
        let overrides = ["audit.reference_profile=absent.json", "audit.enabled=false"].map(str::to_owned);
        let path = Path::new("dataflows/blood_pressure.toml");
        // The profile that the flow names is the one to be made.
        let flow = Flow::read_for_profile(path, &overrides).unwrap();
        let spec = apart(flow).spec;
        assert_eq!((spec.source.start, spec.source.group.as_str()), (Start::Earliest, "windkessel-profile"));
        assert_eq!((spec.sink, spec.http.listen.as_str()), (SinkSpec::default(), ""));
        assert!(spec.audit.enabled && spec.audit.reference_profile.is_none());
    }
}
