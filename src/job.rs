//! A flow, made ready and run: opens what the flow names, builds the graph on every worker, waits, reports.
//!
//! ```text
//! prepare: joining ──> begin ──> open          run: keeping ── workers ── drain ──> report
//!          the others  the log   source, sinks
//! ```
//!
//! Everything that can be wrong with the outside (a missing file, an unreachable broker, a port in use) is found here, before the
//! first worker starts.

mod audits;
mod begin;
#[cfg(test)]
mod damage;
mod drain;
mod joining;
mod keeping;
mod report;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use timely::dataflow::operators::probe::Handle;

use self::audits::Auditor;
use self::drain::Drain;
use self::joining::{Cluster, join};
use self::keeping::publish;
use crate::audit::profile::ScoredBy;
use crate::audit::profile::count::{SharedSums, scored_by};
use crate::cli::Failed;
use crate::config::Flow;
use crate::graph::{self, Generation, Plan};
use crate::pseudonymise::Key;
use crate::runtime::cluster::Membership;
use crate::runtime::delivery::{Progress, Sink};
use crate::runtime::epoch_log;
use crate::runtime::failure::{Cause, Failure, Reported};
use crate::runtime::http::{self, Health, ServerHandle};
use crate::runtime::live::Live;
use crate::runtime::memory::{self, Bound, Machine, Pressure, Watch};
use crate::runtime::metrics::Metrics;
use crate::runtime::progress::{self, Terminal};
use crate::runtime::stop::Stop;
use crate::runtime::store::{self, SharedStore};
use crate::runtime::worker::{self, Crew};
use crate::score::logistic::Logistic;
use crate::signals::SignalId;
use crate::sink::tables::{Context, SignalColumn};
use crate::sink::{self, Deliver};
use crate::source::{self, Opening, Poll, Share};
use crate::vocabulary::Partition;

pub(crate) use self::begin::{Begun, Wanted, begin, digests};
pub(crate) use self::keeping::Keeping;
pub use self::report::Report;

/// After being asked to end, a run has this long to deliver what is under way. Container platforms kill after 30 s.
pub const DRAIN_MAX: Duration = Duration::from_secs(20);

/// How a job runs, apart from its flow.
#[derive(Clone)]
pub struct Options {
    /// Worker threads of this process. Every process of a cluster has as many.
    pub workers: usize,
    /// End at the end of what the source holds now.
    pub until_end: bool,
    /// Asks the job to end.
    pub stop: Stop,
    /// Show progress on standard error, beside the log.
    pub terminal: Option<Terminal>,
    /// Who wants to know how far the source has read: the feeder of an embedded broker.
    pub read: Option<source::Progress>,
    /// Where state and epoch log are kept.
    pub keep: Keep,
    /// Repeat what an earlier run has claimed although settings or version have changed since: the rows of these epochs may then be others.
    pub replay_with_new_code: bool,
    /// Which process of which cluster this is; `None`: it is alone.
    pub cluster: Option<Arc<Membership>>,
}

impl Options {
    fn crew(&self) -> Crew {
        match &self.cluster {
            Some(cluster) => Crew { process: cluster.process, processes: cluster.processes(), threads: self.workers },
            None => Crew::alone(self.workers),
        }
    }
}

/// Where a run keeps state and epoch log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// In `state.path`: the next run goes on from there.
    State,
    /// In memory: the run is complete in itself, and every one begins anew.
    Nowhere,
}

/// What one worker needs of the outside.
struct Hands {
    source: Box<dyn Poll>,
    sinks: Vec<Sink>,
}

/// A job, ready to run.
pub struct Job {
    plan: Plan,
    options: Options,
    hands: Vec<Hands>,
    /// With the names of their sinks.
    progress: Vec<(&'static str, Progress)>,
    begun: Begun,
    server: Option<ServerHandle>,
    health: Arc<Health>,
    cluster: Option<Cluster>,
}

impl Job {
    /// Finds the other processes, opens everything that the flow names, and takes over its epoch log: an earlier run that is still there ends.
    pub fn prepare(flow: Flow, options: Options) -> Result<Job, Failed> {
        let key = Key::read(&flow.spec.pseudonymise).map_err(Failed::configuration)?;
        let metrics = Metrics::new();
        let model = load_model(&flow, &metrics)?;
        say_reference(&flow, model.as_deref());
        let names = source::topics(&flow.spec.source, &|name| key.name_hash(name)).map_err(Failed::configuration)?;
        let (failure, health) = (Failure::default(), Health::new(options.workers));
        let live = Live::new(&flow.spec.name, metrics.clone());
        // First, so that probes are answered while processes wait for each other.
        let server = serve(&flow.spec.http.listen, &metrics, &live, &health, &options.stop)?;
        let digests = digests(&flow, &key, model.as_deref());
        let cluster = join(&flow, &options, &digests, &names, (&health, &metrics, &failure))?;
        let store = || match options.keep {
            Keep::State => store::open(&flow.spec.state).map_err(Failed::unavailable),
            Keep::Nowhere => Ok(store::memory()),
        };
        let peers = cluster.as_ref().map(|cluster| &cluster.peers);
        let wanted = Wanted { flow: &flow, options: &options, key: &key, digests, names: &names };
        let (begun, topics) = begin(store, wanted, &metrics, peers)?;
        let context = Context {
            topics: topics.clone(),
            signals: signal_columns(&flow),
            rule_set: flow.spec.score.rules.clone(),
            model: model.as_ref().map(|model| model.name().to_owned()),
        };
        let generation = Generation {
            number: begun.recovery.generation,
            workers: options.crew().workers(),
            earlier: begun.recovery.earlier.clone(),
            committed_up_to: begun.recovery.committed_up_to,
        };
        // Nobody could look at the page without a server.
        let live = server.is_some().then_some(live);
        let plan = Plan {
            flow: Arc::new(flow),
            key,
            model,
            topics,
            context,
            metrics,
            failure,
            generation,
            live,
            profile: None,
        };
        sink::recover(&plan, &begun.recovery.staged, cluster.is_none()).map_err(Failed::unavailable)?;
        if let Some(cluster) = &cluster {
            // Folders may be shared: nobody writes until everybody has cleaned up.
            cluster.peers.meet().map_err(Failed::of)?;
        }
        health.joined();
        let (resume, crew) = (&begun.recovery.resume, options.crew());
        let hands = (0..options.workers)
            .map(|index| open(&plan, &options, crew.number(index), resume))
            .collect::<Result<Vec<_>, _>>()?;
        let progress =
            hands.iter().flat_map(|hands| hands.sinks.iter().map(|sink| (sink.name, sink.progress.clone()))).collect();
        Ok(Job { plan, options, hands, progress, begun, server, health, cluster })
    }

    /// Adds a sink to those that the flow names, on the first worker: `check` looks at the rows themselves.
    #[must_use]
    pub fn with_sink(mut self, name: &'static str, deliver: Box<dyn Deliver>) -> Job {
        let sink = Sink { name, deliver, progress: Progress::default() };
        self.progress.push((name, sink.progress.clone()));
        self.hands[0].sinks.push(sink);
        self
    }

    /// Instead of auditing, sums up what the readings look like.
    #[must_use]
    pub fn with_profile(mut self, sums: SharedSums) -> Job {
        self.plan.profile = Some(sums);
        self
    }

    /// How this job's readings are scored.
    pub fn scored_by(&self) -> ScoredBy {
        let spec = &self.plan.flow.spec;
        scored_by(&spec.score, &spec.audit, self.plan.model.as_deref())
    }

    /// Telemetry of this job.
    pub fn metrics(&self) -> &Metrics {
        &self.plan.metrics
    }

    /// Runs until the input has ended or the job was asked to stop, and everything is delivered and recorded. Once asked, it has [`DRAIN_MAX`].
    pub fn run(self) -> Result<Report, Failed> {
        let started = Instant::now();
        let line =
            self.options.terminal.as_ref().map(|terminal| progress::Progress::start(&self.plan.metrics, terminal));
        let crew = self.options.crew();
        let hands: Vec<_> = self.hands.into_iter().map(Some).collect();
        let hands = Mutex::new(hands);
        let (plan, options) = (self.plan.clone(), self.options.clone());
        let (store, generation) = (self.begun.store.clone(), self.begun.recovery.generation);
        let (pressure, metrics) = (Pressure::default(), plan.metrics.clone());
        let machine = Machine::default();
        memory::announce(&Bound::of(&plan.flow, crew.threads), machine.read().map(|reading| reading.limit), &metrics);
        let memory = Watch::start(move || machine.read(), pressure.clone(), metrics).map_err(Failed::unavailable)?;
        let auditor = match options.keep {
            Keep::State => Auditor::start(&plan, crew, &store, &options.stop)?,
            Keep::Nowhere => None,
        };
        let publish = publish(&plan, crew, auditor.as_ref().map(Auditor::teller));
        let keeping = Keeping::start(self.begun, &plan, &options, publish).map_err(Failed::unavailable)?;
        let asked = (self.options.stop.clone(), keeping.clock.clone());
        let drain = Drain::watch(asked, &self.plan.failure, &self.progress, DRAIN_MAX).map_err(Failed::unavailable)?;
        let (wires, cluster) = match self.cluster {
            Some(Cluster { peers, mut links, watchdog }) => (links.wires(&peers), Some((peers, watchdog))),
            None => (Vec::new(), None),
        };
        let telling = (self.plan.failure.clone(), self.plan.metrics.clone());
        let ended = worker::execute(crew, wires, self.health, telling, move |index, scope| {
            let mine =
                hands.lock().unwrap_or_else(PoisonError::into_inner)[index].take().expect("each worker builds once");
            let settled = Handle::new();
            let context = keeping.of_source(crew.number(index), &options.stop, &settled, &pressure);
            let tail = graph::build(scope, &plan, mine.source, context, mine.sinks, &settled, keeping.of_worker(index));
            move || tail.finish()
        });
        drop((drain, line, memory));
        let ended = ended.map_err(|reported| cause(reported, &store, generation));
        if let Some((peers, watchdog)) = cluster {
            match &ended {
                Ok(()) => peers.leave(),
                Err(reported) => peers.fail(reported),
            }
            drop(watchdog);
        }
        ended.map_err(Failed::of)?;
        if let Some(auditor) = auditor {
            auditor.finish(audits::FINISH_MAX);
        }
        let cut_short = self.options.stop.drain();
        let part = (crew.processes > 1).then_some((crew.process, crew.processes));
        Ok(Report { plan: self.plan, elapsed: started.elapsed(), cut_short, part, server: self.server })
    }
}

/// Why a run has failed. One that was overtaken may first trip over what its successor has done, such as taken its files away: what counts, also for
/// whoever would start it again, is that it was overtaken.
fn cause(reported: Reported, store: &SharedStore, generation: u64) -> Reported {
    match epoch_log::overtaken(store.as_ref(), generation) {
        Some(error) if reported.cause != Cause::Fenced => {
            Reported { cause: Cause::Fenced, text: format!("epoch log: {error}; noticed because: {}", reported.text) }
        }
        _ => reported,
    }
}

fn load_model(flow: &Flow, metrics: &Metrics) -> Result<Option<Arc<Logistic>>, Failed> {
    let model = match &flow.spec.model.file {
        Some(path) => {
            let model = read_model(path).map_err(Failed::configuration)?;
            if model.is_none() {
                tracing::warn!(target: "score", "no model file at {path:?}: rules alone, probability stays null");
            }
            model.map(Arc::new)
        }
        None => {
            tracing::info!(target: "score", "the flow names no model: rules alone, probability stays null");
            None
        }
    };
    match &model {
        Some(model) => metrics.model_info.with_label_values(&[model.name(), "logistic"]).set(1),
        None => metrics.model_info.with_label_values(&["", "none"]).set(0),
    }
    Ok(model)
}

/// Says which profile windows are compared with, and what of it cannot be.
fn say_reference(flow: &Flow, model: Option<&Logistic>) {
    let Some(reference) = &flow.reference else { return };
    let digest = &reference.digest;
    tracing::info!(target: "audit", "windows are compared with the profile {digest}, not with those before them");
    let (_, missed) = reference.for_scores_by(&scored_by(&flow.spec.score, &flow.spec.audit, model));
    if let Some(why) = missed {
        tracing::warn!(target: "audit", "the profile {digest} is no reference for how scores do, and their verdicts are insufficient: {why}; make it anew");
    }
}

fn serve(
    listen: &str,
    metrics: &Metrics,
    live: &Arc<Live>,
    health: &Arc<Health>,
    stop: &Stop,
) -> Result<Option<ServerHandle>, Failed> {
    if listen.is_empty() {
        return Ok(None);
    }
    let server = http::serve(listen, metrics.clone(), Arc::clone(live), Arc::clone(health), stop.clone())
        .map_err(Failed::unavailable)?;
    Ok(Some(server))
}

fn open(plan: &Plan, options: &Options, worker: usize, resume: &BTreeMap<Partition, i64>) -> Result<Hands, Failed> {
    let opening = Opening {
        share: Share { worker, workers: options.crew().workers() },
        until_end: options.until_end,
        topics: &plan.topics,
        path_key: &|name| plan.key.name_hash(name),
        resume,
        stop: &options.stop,
        progress: options.read.clone(),
    };
    let source = source::open(&plan.flow.spec.source, &opening).map_err(Failed::source)?;
    let sinks = sink::open(plan, worker, &options.stop).map_err(Failed::unavailable)?;
    Ok(Hands { source, sinks })
}

/// Reads a model file; `None` if there is none.
///
/// # Errors
/// A sentence with the path.
pub fn read_model(path: &Path) -> Result<Option<Logistic>, String> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = std::fs::read(path).map_err(|error| format!("could not read the model {path:?}: {error}"))?;
    Logistic::load(&bytes).map(Some).map_err(|error| format!("could not use the model {path:?}: {error}"))
}

/// The columns of the flow's signals: a table's column name is the signal's name and its unit.
pub fn signal_columns(flow: &Flow) -> Vec<SignalColumn> {
    let column = |id: &SignalId| {
        let signal = flow.decode.table().signal(*id);
        let unit = signal.column.strip_prefix(&signal.name).unwrap_or_default().trim_start_matches('_');
        SignalColumn { signal: *id, name: signal.name.clone(), unit: unit.to_owned() }
    };
    flow.decode.signals().iter().map(column).collect()
}

#[cfg(test)]
mod tests {
    //! Proves that what should be known first is, whatever is read where.
    use super::*;

    /// A Bulk Data export: Patients in files of their own, which other workers may read than the Observations. Small, so that all of
    /// it would fit into one epoch.
    fn export(folder: &Path) {
        let patient = |number: usize| {
            format!(r#"{{"resourceType":"Patient","id":"p{number}","gender":"female","birthDate":"1960"}}"#)
        };
        let pressure = |code: &str, value: usize| {
            format!(
                r#"{{"code":{{"coding":[{{"system":"http://loinc.org","code":"{code}"}}]}},"valueQuantity":{{"value":{value},"code":"mm[Hg]"}}}}"#
            )
        };
        let observation = |number: usize, file: usize| {
            format!(
                r#"{{"resourceType":"Observation","id":"o{number}-{file}","status":"final","code":{{"coding":[{{"system":"http://loinc.org","code":"85354-9"}}]}},"subject":{{"reference":"Patient/p{number}"}},"effectiveDateTime":"2026-01-01T0{file}:00:00Z","component":[{},{}]}}"#,
                pressure("8480-6", 120),
                pressure("8462-4", 80)
            )
        };
        let write = |name: String, lines: Vec<String>| std::fs::write(folder.join(name), lines.join("\n")).unwrap();
        for file in 0..8 {
            write(format!("Observation.{file}.ndjson"), (0..40).map(|number| observation(number, file)).collect());
        }
        for file in 0..4 {
            write(format!("Patient.{file}.ndjson"), (0..10).map(|number| patient(10 * file + number)).collect());
        }
    }

    #[test]
    fn patients_of_a_bulk_export_are_known_before_every_reading_on_any_number_of_workers() {
        let root = tempfile::tempdir().unwrap();
        let (input, key) = (root.path().join("export"), root.path().join("key"));
        std::fs::create_dir(&input).unwrap();
        export(&input);
        Key::create_file(&key).unwrap();
        for workers in [1, 2, 4] {
            let output = root.path().join(workers.to_string());
            let text = |path: &Path| toml::Value::String(path.display().to_string()).to_string();
            let overrides = [
                format!("source.paths=[{}]", text(&input)),
                format!("pseudonymise.key_file={}", text(&key)),
                format!("sink.ndjson.path={}", text(&output)),
                "sink.ndjson.tables=[\"shifts\"]".to_owned(),
            ];
            let flow = "name = \"export\"\n[source]\nkind = \"files\"\n[patient]\ndisorder = \"unbounded\"\n[audit]\nwindow = \"1d\"\n\
                        [http]\nlisten = \"\"\n[sink.ndjson]\npath = \"x\"\n[pseudonymise]\nkey_file = \"x\"\n";
            let flow = Flow::parse(flow, &overrides).unwrap();
            let stop = Stop::default();
            let options = Options {
                workers,
                until_end: true,
                stop,
                terminal: None,
                read: None,
                keep: Keep::Nowhere,
                replay_with_new_code: false,
                cluster: None,
            };
            Job::prepare(flow, options).unwrap().run().unwrap();
            let counted = |group: &str| -> u64 {
                let files = std::fs::read_dir(output.join("shifts")).unwrap();
                let text: String = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
                let rows = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
                let of_group = rows.filter(|row| row["group"] == group && row["feature"] == "systolic");
                of_group.map(|row| row["current_count"].as_u64().unwrap()).sum()
            };
            assert_eq!((counted("all"), counted("sex=female")), (320, 320), "{workers} workers");
        }
    }
}
