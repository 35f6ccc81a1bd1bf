//! A flow, made ready and run: opens what the flow names, builds the graph on every worker, waits, reports.
//!
//! Everything that can be wrong with the outside (a missing file, an unreachable broker, a port in use) is found here, before the
//! first worker starts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use timely::dataflow::operators::probe::Handle;

use crate::cli::Failed;
use crate::config::{Flow, SourceKind};
use crate::graph::{self, Generation, Plan};
use crate::pseudonymise::Key;
use crate::runtime::checkpoint::{Desk, Restored, StateWriter};
use crate::runtime::clock::{EpochClock, border_above};
use crate::runtime::delivery::{Progress, Sink};
use crate::runtime::driver::SourceContext;
use crate::runtime::epoch_log::{Claim, EpochLog, History, LogError, Seal};
use crate::runtime::failure::{Cause, Failure};
use crate::runtime::http::{self, Health, ServerHandle};
use crate::runtime::live::Live;
use crate::runtime::memory::{self, Bound, Machine, Pressure, Watch};
use crate::runtime::metrics::Metrics;
use crate::runtime::progress::{self, Terminal};
use crate::runtime::recorder::{Publisher, Recorded, Recorder, Stamp};
use crate::runtime::recovery::{self, Recovery, digest};
use crate::runtime::state_files::StateKey;
use crate::runtime::stop::Stop;
use crate::runtime::store::{self, SharedStore};
use crate::runtime::summary::{self, Glyphs, Ran, Usage};
use crate::runtime::worker;
use crate::score::logistic::Logistic;
use crate::signals::SignalId;
use crate::sink::tables::{Context, SignalColumn};
use crate::sink::{self, Deliver};
use crate::source::{self, Opening, Poll, Share, Topics};
use crate::time::Epoch;
use crate::vocabulary::{Partition, TopicId};

/// After being asked to end, a run has this long to deliver what is under way. Container platforms kill after 30 s.
pub const DRAIN_MAX: Duration = Duration::from_secs(20);

/// How often it is looked whether the run was asked to end.
const DRAIN_CHECK_EVERY: Duration = Duration::from_millis(100);

/// How a job runs, apart from its flow.
#[derive(Clone)]
pub struct Options {
    /// Worker threads.
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
}

/// The log, taken over, and what follows from it.
struct Begun {
    store: SharedStore,
    log: EpochLog,
    cipher: Option<Arc<StateKey>>,
    recovery: Recovery,
}

impl Job {
    /// Opens everything that the flow names, and takes over its epoch log: an earlier run that is still there ends.
    pub fn prepare(flow: Flow, options: Options) -> Result<Job, Failed> {
        let key = Key::read(&flow.spec.pseudonymise).map_err(Failed::configuration)?;
        let metrics = Metrics::new();
        let model = load_model(&flow, &metrics)?;
        let names = source::topics(&flow.spec.source, &|name| key.name_hash(name)).map_err(Failed::configuration)?;
        let (begun, topics) = begin(&flow, &options, &key, model.as_deref(), &names, &metrics)?;
        let context = Context {
            topics: topics.clone(),
            signals: signal_columns(&flow),
            rule_set: flow.spec.score.rules.clone(),
            model: model.as_ref().map(|model| model.name().to_owned()),
        };
        let generation = Generation {
            number: begun.recovery.generation,
            workers: options.workers,
            earlier: begun.recovery.earlier.clone(),
            committed_up_to: begun.recovery.committed_up_to,
        };
        let failure = Failure::default();
        let plan = Plan { flow: Arc::new(flow), key, model, topics, context, metrics, failure, generation };
        let live = Live::new(&plan.flow.spec.name, plan.metrics.clone());
        let health = Health::new(options.workers);
        health.joined();
        let server = serve(&plan, &live, &health, &options.stop)?;
        // Nobody could look at the page without a server.
        let page = server.is_some().then_some(&live);
        sink::recover(&plan, &begun.recovery.staged).map_err(Failed::unavailable)?;
        let resume = &begun.recovery.resume;
        let hands = (0..options.workers)
            .map(|worker| open(&plan, &options, worker, resume, page))
            .collect::<Result<Vec<_>, _>>()?;
        let progress =
            hands.iter().flat_map(|hands| hands.sinks.iter().map(|sink| (sink.name, sink.progress.clone()))).collect();
        Ok(Job { plan, options, hands, progress, begun, server, health })
    }

    /// Adds a sink to those that the flow names, on the first worker: `check` looks at the rows themselves.
    #[must_use]
    pub fn with_sink(mut self, name: &'static str, deliver: Box<dyn Deliver>) -> Job {
        let sink = Sink { name, deliver, progress: Progress::default() };
        self.progress.push((name, sink.progress.clone()));
        self.hands[0].sinks.push(sink);
        self
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
        let workers = self.options.workers;
        let drain = Drain::watch(&self.options.stop, &self.plan.failure, &self.progress, DRAIN_MAX)
            .map_err(Failed::unavailable)?;
        let hands: Vec<_> = self.hands.into_iter().map(Some).collect();
        let hands = Mutex::new(hands);
        let (plan, options) = (self.plan.clone(), self.options.clone());
        let (pressure, metrics) = (Pressure::default(), plan.metrics.clone());
        let machine = Machine::default();
        memory::announce(&Bound::of(&plan.flow, workers), machine.read().map(|reading| reading.limit), &metrics);
        let memory = Watch::start(move || machine.read(), pressure.clone(), metrics).map_err(Failed::unavailable)?;
        let keeping = Keeping::start(self.begun, &plan, &options).map_err(Failed::unavailable)?;
        let ended = worker::execute(workers, self.health, self.plan.failure.clone(), move |index, scope| {
            let mine =
                hands.lock().unwrap_or_else(PoisonError::into_inner)[index].take().expect("each worker builds once");
            let settled = Handle::new();
            let context = SourceContext {
                worker: index,
                epoch: plan.flow.spec.epoch.clone(),
                inflight: plan.flow.spec.inflight.clone(),
                pressure: pressure.clone(),
                clock: keeping.clock.clone(),
                settled: settled.clone(),
                replay: keeping.replay.clone(),
                stop: options.stop.clone(),
                failure: plan.failure.clone(),
                metrics: plan.metrics.clone(),
                topics: plan.topics.clone(),
            };
            let tail = graph::build(scope, &plan, mine.source, context, mine.sinks, &settled, keeping.of_worker(index));
            move || tail.finish()
        });
        drop((drain, line, memory));
        ended.map_err(Failed::of)?;
        let cut_short = self.options.stop.drain();
        Ok(Report { plan: self.plan, elapsed: started.elapsed(), cut_short, server: self.server })
    }
}

/// Takes over the log, and reads what there is to go on from. The topics are those of the flow, behind those that earlier runs knew.
fn begin(
    flow: &Flow,
    options: &Options,
    key: &Key,
    model: Option<&Logistic>,
    names: &Topics,
    metrics: &Metrics,
) -> Result<(Begun, Topics), Failed> {
    let spec = &flow.spec;
    let store = match options.keep {
        Keep::State => store::open(&spec.state).map_err(Failed::unavailable)?,
        Keep::Nowhere => store::memory(),
    };
    let cipher = StateKey::read(&spec.state).map_err(Failed::configuration)?.map(Arc::new);
    let digests: BTreeMap<String, String> = [
        (digest::FLOW, spec.name.clone()),
        (digest::KEY, key.id()),
        (digest::SHAPE, shape(flow)),
        (digest::RULES, rules_digest(flow, model)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let ids = match options.keep {
        Keep::State => source::topic_ids(&spec.source, names, &options.stop).map_err(Failed::source)?,
        Keep::Nowhere => BTreeMap::new(),
    };
    let seal = |history: &History| {
        recovery::admit(history, &digests, options.replay_with_new_code)?;
        let digests =
            recovery::with_topics(&digests, history, &ids).map_err(|topic| source::made_anew(&topic).to_string())?;
        let known = known_topics(history, spec.source.kind, names)?;
        Ok(Seal {
            generation: 0,
            workers: options.workers as u32,
            processes: 1,
            topics: known.names().map(str::to_owned).collect(),
            digests,
            replay: !history.claims.is_empty(),
        })
    };
    let (log, history) = EpochLog::take_over(store.clone(), seal).map_err(log_failed)?;
    let topics = known_topics(&history, spec.source.kind, names).map_err(Failed::configuration)?;
    let fetching = Instant::now();
    let mut recovery = recovery::recover(&store, &history, cipher.as_deref()).map_err(log_failed)?;
    metrics.restore_seconds.set(fetching.elapsed().as_secs_f64());
    metrics.generation.set(i64::try_from(recovery.generation).unwrap_or(i64::MAX));
    if history.last_epoch.is_none() {
        recovery.above = first_epoch();
    }
    tracing::info!(target: "runtime", generation = recovery.generation, checkpoint = recovery.checkpoint, repeated = recovery.replay.len(), "starting");
    Ok((Begun { store, log, cipher, recovery }, topics))
}

fn log_failed(error: LogError) -> Failed {
    match error {
        LogError::Store(_) => Failed::unavailable(error),
        _ => Failed::configuration(error),
    }
}

/// The flow's topics, behind those that the state knows.
fn known_topics(history: &History, kind: SourceKind, names: &Topics) -> Result<Topics, String> {
    let known = history.seals.last().filter(|_| !history.is_blank()).map_or(&[][..], |seal| &seal.topics);
    let read = history.partitions_read();
    let gone = |(id, name): &(u32, &String)| {
        names.id(name).is_none() && read.iter().any(|partition| partition.topic == TopicId(*id))
    };
    // A file that was read may be taken away. A topic that is no longer read would hold every window open.
    if let Some((_, gone)) = (0..).zip(known).find(|topic| kind == SourceKind::Kafka && gone(topic)) {
        return Err(format!(
            "source.topics no longer names {gone:?}, of which state.path holds state; name it, or begin with an empty state.path"
        ));
    }
    Ok(Topics::continuing(known, names.names().map(str::to_owned)))
}

/// The settings that state cannot be carried over.
fn shape(flow: &Flow) -> String {
    let spec = &flow.spec;
    let (patient, audit) = (&spec.patient, &spec.audit);
    format!(
        "patient.window {}, patient.hop {}, audit.window {}, audit.reference_windows {}, score.rules {}",
        patient.window, patient.hop, audit.window, audit.reference_windows, spec.score.rules
    )
}

/// What decides the rows of an epoch, as one number: the settings of the stages, the model, the version.
fn rules_digest(flow: &Flow, model: Option<&Logistic>) -> String {
    let spec = &flow.spec;
    let settings = serde_json::json!({
        "decode": spec.decode, "patient": spec.patient, "correction": spec.correction, "score": spec.score, "audit": spec.audit,
        "model": model.map(Logistic::name), "version": env!("CARGO_PKG_VERSION"),
    });
    format!("{:08x}", crc32c::crc32c(settings.to_string().as_bytes()))
}

/// What keeps a run's log and state, on its threads.
struct Keeping {
    clock: EpochClock,
    replay: Vec<Claim>,
    recorder: Recorder,
    writer: StateWriter,
    /// For the first worker.
    publisher: Mutex<Option<Publisher>>,
    restored: Restored,
    cipher: Option<Arc<StateKey>>,
    ends: BTreeMap<Partition, i64>,
    checkpoint: Option<Epoch>,
    plan: Plan,
}

impl Keeping {
    fn start(begun: Begun, plan: &Plan, options: &Options) -> std::io::Result<Keeping> {
        let Begun { store, log, cipher, recovery } = begun;
        let state = &plan.flow.spec.state;
        let (stop, failure, metrics) = (options.stop.clone(), plan.failure.clone(), plan.metrics.clone());
        let every = Duration::from_secs(state.checkpoint_seconds);
        let clock = EpochClock::starting_above(recovery.above, options.workers, every);
        if let Some(checkpoint) = recovery.checkpoint {
            clock.record(checkpoint);
        }
        let folders = sink::folders(&plan.flow.spec.sink);
        let publish = move |recorded: &Recorded| {
            folders.iter().try_for_each(|folder| {
                folder.publish(recorded.epoch, &recorded.staged, true).map_err(|error| error.to_string())
            })
        };
        let generation = recovery.generation;
        let writer =
            StateWriter::start(store, generation, cipher.clone(), stop.clone(), failure.clone(), metrics.clone())?;
        Ok(Keeping {
            publisher: Mutex::new(Some(Publisher::start(publish, clock.clone(), failure.clone())?)),
            clock,
            replay: recovery.replay,
            recorder: Recorder::start(log, state.keep as usize, stop, failure, metrics, plan.topics.clone())?,
            writer,
            restored: recovery.restored,
            cipher,
            ends: recovery.ends,
            checkpoint: recovery.checkpoint,
            plan: plan.clone(),
        })
    }

    /// What the graph of one worker needs of it.
    fn of_worker(&self, index: usize) -> graph::Keeping {
        let generation = &self.plan.generation;
        let start = self.replay.first().map_or(self.clock.start(), |claim| claim.epoch);
        let base_every = self.plan.flow.spec.state.base_every;
        let desk = Desk::new(
            Share { worker: index, workers: generation.workers },
            self.restored.clone(),
            self.cipher.clone(),
            start,
            base_every,
            self.writer.clone(),
            self.plan.failure.clone(),
            self.plan.metrics.clone(),
        );
        let stamp = Stamp {
            generation: generation.number,
            base_every,
            ends: self.ends.clone(),
            replay: self.replay.clone(),
            committed_up_to: generation.committed_up_to,
        };
        graph::Keeping {
            desk,
            clock: self.clock.clone(),
            recorder: self.recorder.clone(),
            stamp,
            put_back_at: self.checkpoint.map(border_above),
            publisher: self.publisher.lock().unwrap_or_else(PoisonError::into_inner).take(),
        }
    }
}

/// What came of a job.
pub struct Report {
    plan: Plan,
    elapsed: Duration,
    cut_short: bool,
    server: Option<ServerHandle>,
}

impl Report {
    /// The table that a run ends with.
    pub fn summary(&self) -> String {
        let ran = Ran {
            flow: self.plan.flow.spec.name.clone(),
            resources: Some(self.plan.metrics.decode_resources.get()),
            cut_short: self.cut_short,
            wall: self.elapsed,
            usage: Usage::of_process(),
            look: self.places(),
        };
        let width = u16::try_from(progress::terminal_width()).unwrap_or(u16::MAX);
        summary::summary(&self.plan.metrics, &ran, width, Glyphs::Utf8)
    }

    /// Where to look next.
    fn places(&self) -> Vec<(String, String)> {
        let sink = &self.plan.flow.spec.sink;
        let mut places = Vec::new();
        let mut add = |what: &str, place: String| places.push((what.to_owned(), place));
        if let Some(parquet) = &sink.parquet {
            add("Parquet", format!("{}/*/*.parquet", parquet.path.display()));
        }
        if let Some(ndjson) = &sink.ndjson {
            add("NDJSON", format!("{}/*/*.ndjson", ndjson.path.display()));
        }
        if let Some(spec) = &sink.elasticsearch {
            add("Elasticsearch", format!("{}/{}*/_search", spec.url, spec.index));
        }
        if let Some(kafka) = sink.kafka.as_ref().filter(|kafka| !kafka.topic.is_empty()) {
            add("Kafka", format!("topic {} on {}", kafka.topic, kafka.brokers));
        }
        places
    }

    /// Telemetry of the job.
    pub fn metrics(&self) -> &Metrics {
        &self.plan.metrics
    }

    /// Keeps the live page up until asked to stop.
    pub fn keep_serving(self, stop: &Stop) {
        if let Some(server) = &self.server {
            tracing::info!(target: "http", "still serving {} until Ctrl-C", server.url());
            while !stop.drain() {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Watches that a run which was asked to end does so. Dropped when it has.
struct Drain {
    _running: Sender<()>,
}

impl Drain {
    /// From `stop` on the run has `wait`; then everything that waits is told to give up, and the run fails.
    fn watch(
        stop: &Stop,
        failure: &Failure,
        progress: &[(&'static str, Progress)],
        wait: Duration,
    ) -> std::io::Result<Drain> {
        let (running, ended) = channel::<()>();
        let (stop, failure, progress) = (stop.clone(), failure.clone(), progress.to_vec());
        std::thread::Builder::new().name("drain".into()).spawn(move || {
            // Nothing is ever sent: the channel closes when the run has ended.
            let runs_on = |wait| ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout);
            while !stop.drain() {
                if !runs_on(DRAIN_CHECK_EVERY) {
                    return;
                }
            }
            if runs_on(wait) {
                failure.report_as(Cause::Undelivered, undelivered(wait, &progress));
                stop.abandon_now();
            }
        })?;
        Ok(Drain { _running: running })
    }
}

/// Which sinks hold the others up: a sink that is further may only not have been given the rest.
fn undelivered(wait: Duration, progress: &[(&'static str, Progress)]) -> String {
    let settled: Vec<(Epoch, &str)> = progress.iter().map(|(sink, progress)| (progress.settled(), *sink)).collect();
    let lowest = settled.iter().map(|(epoch, _)| *epoch).min();
    let last = settled.iter().filter(|(epoch, _)| Some(*epoch) == lowest).map(|(_, sink)| *sink);
    let names = last.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ");
    format!(
        "gave up {} s after being asked to stop: could not deliver everything to {names}; what is not delivered is read again by the next run",
        wait.as_secs()
    )
}

fn load_model(flow: &Flow, metrics: &Metrics) -> Result<Option<Arc<Logistic>>, Failed> {
    let model = match &flow.spec.model.file {
        Some(path) if path.exists() => Some(Arc::new(read_model(path).map_err(Failed::configuration)?)),
        Some(path) => {
            tracing::warn!(target: "score", "no model file at {path:?}: rules alone, probability stays null");
            None
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

fn serve(plan: &Plan, live: &Arc<Live>, health: &Arc<Health>, stop: &Stop) -> Result<Option<ServerHandle>, Failed> {
    let listen = &plan.flow.spec.http.listen;
    if listen.is_empty() {
        return Ok(None);
    }
    let server = http::serve(listen, plan.metrics.clone(), Arc::clone(live), Arc::clone(health), stop.clone())
        .map_err(Failed::unavailable)?;
    Ok(Some(server))
}

fn open(
    plan: &Plan,
    options: &Options,
    worker: usize,
    resume: &BTreeMap<Partition, i64>,
    live: Option<&Arc<Live>>,
) -> Result<Hands, Failed> {
    let opening = Opening {
        share: Share { worker, workers: options.workers },
        until_end: options.until_end,
        topics: &plan.topics,
        path_key: &|name| plan.key.name_hash(name),
        resume,
        stop: &options.stop,
        progress: options.read.clone(),
    };
    let source = source::open(&plan.flow.spec.source, &opening).map_err(Failed::source)?;
    let sinks = sink::open(plan, worker, live, &options.stop).map_err(Failed::unavailable)?;
    Ok(Hands { source, sinks })
}

fn read_model(path: &Path) -> Result<Logistic, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("could not read the model {path:?}: {error}"))?;
    Logistic::load(&bytes).map_err(|error| format!("could not use the model {path:?}: {error}"))
}

/// The columns of the flow's signals: a table's column name is the signal's name and its unit.
fn signal_columns(flow: &Flow) -> Vec<SignalColumn> {
    let column = |id: &SignalId| {
        let signal = flow.decode.table().signal(*id);
        let unit = signal.column.strip_prefix(&signal.name).unwrap_or_default().trim_start_matches('_');
        SignalColumn { signal: *id, name: signal.name.clone(), unit: unit.to_owned() }
    };
    flow.decode.signals().iter().map(column).collect()
}

/// Unix milliseconds: higher than every epoch of an earlier run, so that document versions never go back.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where a run is numbered by the clock; no result depends on it"
)]
fn first_epoch() -> Epoch {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as Epoch
}

#[cfg(test)]
mod damage;

#[cfg(test)]
mod tests {
    //! Proves that a drain is bounded. What a drain delivers is proved in `runtime/tests.rs`.
    use super::*;

    #[test]
    fn a_run_that_does_not_end_after_being_asked_is_given_up_and_says_what_was_stuck() {
        let (stop, failure) = (Stop::default(), Failure::default());
        let elasticsearch = || ("elasticsearch", Progress::default());
        let progress = [("parquet", Progress::settled_up_to(7)), elasticsearch(), elasticsearch()];
        let drain = Drain::watch(&stop, &failure, &progress, Duration::from_millis(1)).unwrap();
        stop.ask();
        while !stop.abandon() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let reported = failure.reported().unwrap();
        assert_eq!(reported.cause, Cause::Undelivered);
        assert!(reported.text.contains("could not deliver everything to elasticsearch;"), "{}", reported.text);
        drop(drain);
    }

    #[test]
    fn a_run_that_ends_in_time_is_left_alone() {
        let (stop, failure) = (Stop::default(), Failure::default());
        let drain = Drain::watch(&stop, &failure, &[], Duration::from_secs(60)).unwrap();
        stop.ask();
        drop(drain);
        std::thread::sleep(DRAIN_CHECK_EVERY * 3);
        assert!(!failure.happened() && !stop.abandon());
    }

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
