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
use crate::runtime::cluster::{self, JoinError, Links, Membership, Peers, Word};
use crate::runtime::delivery::{Progress, Sink};
use crate::runtime::driver::SourceContext;
use crate::runtime::epoch_log::{self, Claim, EpochLog, History, LogError, Seal};
use crate::runtime::failpoint;
use crate::runtime::failure::{Cause, Failure, Reported};
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
use crate::runtime::watchdog::{self, Watchdog};
use crate::runtime::worker::{self, Crew};
use crate::score::logistic::Logistic;
use crate::signals::SignalId;
use crate::sink::files::Folder;
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

/// The other processes, found.
struct Cluster {
    peers: Peers,
    links: Links,
    watchdog: Watchdog,
}

/// The log, taken over, and what follows from it.
pub(crate) struct Begun {
    store: SharedStore,
    /// `None` in a process that does not lead.
    log: Option<EpochLog>,
    cipher: Option<Arc<StateKey>>,
    pub(crate) recovery: Recovery,
}

impl Job {
    /// Finds the other processes, opens everything that the flow names, and takes over its epoch log: an earlier run that is still there ends.
    pub fn prepare(flow: Flow, options: Options) -> Result<Job, Failed> {
        let key = Key::read(&flow.spec.pseudonymise).map_err(Failed::configuration)?;
        let metrics = Metrics::new();
        let model = load_model(&flow, &metrics)?;
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
        let (begun, topics) = begin(store, &flow, &options, digests, &names, &metrics, peers)?;
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
        let plan = Plan { flow: Arc::new(flow), key, model, topics, context, metrics, failure, generation };
        // Nobody could look at the page without a server.
        let page = server.is_some().then_some(&live);
        sink::recover(&plan, &begun.recovery.staged, cluster.is_none()).map_err(Failed::unavailable)?;
        if let Some(cluster) = &cluster {
            // Folders may be shared: nobody writes until everybody has cleaned up.
            cluster.peers.meet().map_err(Failed::of)?;
        }
        health.joined();
        let (resume, crew) = (&begun.recovery.resume, options.crew());
        let hands = (0..options.workers)
            .map(|index| open(&plan, &options, crew.number(index), resume, page))
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
        let keeping = Keeping::start(self.begun, &plan, &options, publish(&plan, crew)).map_err(Failed::unavailable)?;
        let asked = (self.options.stop.clone(), keeping.clock.clone());
        let drain = Drain::watch(asked, &self.plan.failure, &self.progress, DRAIN_MAX).map_err(Failed::unavailable)?;
        let (wires, cluster) = match self.cluster {
            Some(Cluster { peers, mut links, watchdog }) => (links.wires(&peers), Some((peers, watchdog))),
            None => (Vec::new(), None),
        };
        let ended = worker::execute(crew, wires, self.health, self.plan.failure.clone(), move |index, scope| {
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
        let cut_short = self.options.stop.drain();
        let part = (crew.processes > 1).then_some((crew.process, crew.processes));
        Ok(Report { plan: self.plan, elapsed: started.elapsed(), cut_short, part, server: self.server })
    }
}

/// Finds the other processes, if there are any.
fn join(
    flow: &Flow,
    options: &Options,
    digests: &BTreeMap<String, String>,
    names: &Topics,
    (health, metrics, failure): (&Arc<Health>, &Metrics, &Failure),
) -> Result<Option<Cluster>, Failed> {
    let Some(membership) = &options.cluster else { return Ok(None) };
    let mut links = cluster::join(membership, &word(flow, options, digests, names)).map_err(|error| match error {
        JoinError::Differs(_) => Failed::configuration(error),
        JoinError::Missing(_) => Failed::unavailable(error),
    })?;
    let spec = &flow.spec.cluster;
    let silence = Duration::from_secs(spec.silence_seconds);
    let seen = metrics.clone();
    let peers = Peers::start(&mut links, membership, silence, failure.clone(), move || watchdog::waits(&seen))
        .map_err(Failed::unavailable)?;
    let watchdog = Watchdog::start(spec, peers.clone(), health.clone(), metrics.clone(), failure.clone())
        .map_err(Failed::unavailable)?;
    tracing::info!(target: "runtime", process = membership.process, processes = membership.processes(), "the cluster is complete");
    Ok(Some(Cluster { peers, links, watchdog }))
}

/// What all processes must have been started with alike: else their graphs, or their rows, would differ.
fn word(flow: &Flow, options: &Options, digests: &BTreeMap<String, String>, names: &Topics) -> Word {
    let spec = &flow.spec;
    let topics =
        names.names().fold(0, |sum, name| crc32c::crc32c_append(crc32c::crc32c_append(sum, name.as_bytes()), b"\n"));
    let sinks = [
        ("live page", !spec.http.listen.is_empty()),
        ("parquet", spec.sink.parquet.is_some()),
        ("ndjson", spec.sink.ndjson.is_some()),
        ("elasticsearch", spec.sink.elasticsearch.is_some()),
        ("kafka", spec.sink.kafka.is_some()),
    ];
    let sinks: Vec<&str> = sinks.into_iter().filter_map(|(name, there)| there.then_some(name)).collect();
    let crew = options.crew();
    let mut word = digests.clone();
    word.extend(
        [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("number of processes", crew.processes.to_string()),
            ("number of workers", crew.threads.to_string()),
            ("end", options.until_end.to_string()),
            ("set of topics or files", format!("{topics:08x}")),
            ("set of sinks", sinks.join(", ")),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    word
}

/// What a state belongs to.
pub(crate) fn digests(flow: &Flow, key: &Key, model: Option<&Logistic>) -> BTreeMap<String, String> {
    [
        (digest::FLOW, flow.spec.name.clone()),
        (digest::KEY, key.id()),
        (digest::SHAPE, shape(flow)),
        (digest::RULES, rules_digest(flow, model)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Takes over the log, and reads what there is to go on from; in a process that does not lead, hears it from the one that does.
/// The topics are those of the flow, behind those that earlier runs knew.
pub(crate) fn begin(
    store: impl FnOnce() -> Result<SharedStore, Failed>,
    flow: &Flow,
    options: &Options,
    digests: BTreeMap<String, String>,
    names: &Topics,
    metrics: &Metrics,
    peers: Option<&Peers>,
) -> Result<(Begun, Topics), Failed> {
    let (spec, crew) = (&flow.spec, options.crew());
    // Opening a store sweeps it, so that nobody may be writing: process 0 has just written the seal, and nobody does again before all have met.
    let told = peers.filter(|_| crew.process > 0).map(Peers::hear).transpose().map_err(Failed::of)?;
    let store = store()?;
    let cipher = StateKey::read(&spec.state).map_err(Failed::configuration)?.map(Arc::new);
    if let Some(mut told) = told {
        let topics = Topics::continuing(&std::mem::take(&mut told.topics), []);
        let recovery = Recovery::as_told(told, &store, cipher.as_deref()).map_err(Failed::unavailable)?;
        return Ok((Begun { store, log: None, cipher, recovery }, topics));
    }
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
            workers: crew.workers() as u32,
            processes: crew.processes as u32,
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
    failpoint::hit("restore.after");
    metrics.generation.set(i64::try_from(recovery.generation).unwrap_or(i64::MAX));
    if history.last_epoch.is_none() {
        recovery.above = first_epoch();
    }
    still_there(&recovery.replay, &topics, names).map_err(Failed::configuration)?;
    tracing::info!(target: "runtime", generation = recovery.generation, checkpoint = recovery.checkpoint, repeated = recovery.replay.len(), "starting");
    if let Some(peers) = peers {
        peers.tell(recovery.to_tell(topics.names().map(str::to_owned).collect(), log.newest()));
    }
    Ok((Begun { store, log: Some(log), cipher, recovery }, topics))
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

/// Refuses to repeat claimed epochs without what was read in them.
fn still_there(replay: &[Claim], topics: &Topics, names: &Topics) -> Result<(), String> {
    let read = replay.iter().flat_map(|claim| &claim.cuts).map(|(partition, _)| topics.name(partition.topic));
    let gone: BTreeSet<&str> = read.filter(|name| names.id(name).is_none()).collect();
    gone.first().map_or(Ok(()), |first| {
        Err(format!(
            "the last run did not end cleanly, and has to read again what is not there any more: {} of its files or topics, such as {first} \
             (`windkessel explain --files` tells which file that is); put them back for one run, or begin with an empty state.path and new folders of the sinks",
            gone.len()
        ))
    })
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

/// Gives files of recorded checkpoints their names. Where there are several processes, a file that is missing may be in another's folder.
fn publish(plan: &Plan, crew: Crew) -> impl FnMut(&Recorded) -> Result<(), String> + Send + 'static {
    let (folders, strict) = (sink::folders(&plan.flow.spec.sink), crew.processes == 1);
    move |recorded| {
        let name = |folder: &Folder| folder.publish(recorded.epoch, &recorded.staged, strict);
        folders.iter().try_for_each(name).map_err(|error| error.to_string())
    }
}

/// What keeps a run's log and state, on its threads.
pub(crate) struct Keeping {
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
    crew: Crew,
    plan: Plan,
}

impl Keeping {
    pub(crate) fn start(
        begun: Begun,
        plan: &Plan,
        options: &Options,
        publish: impl FnMut(&Recorded) -> Result<(), String> + Send + 'static,
    ) -> std::io::Result<Keeping> {
        let Begun { store, log, cipher, recovery } = begun;
        let state = &plan.flow.spec.state;
        let (stop, failure, metrics) = (options.stop.clone(), plan.failure.clone(), plan.metrics.clone());
        let every = Duration::from_secs(state.checkpoint_seconds);
        let crew = options.crew();
        let clock = EpochClock::starting_above(recovery.above, crew.workers(), every);
        if let Some(checkpoint) = recovery.checkpoint {
            clock.record(checkpoint);
        }
        let generation = recovery.generation;
        let writer =
            StateWriter::start(store, generation, cipher.clone(), stop.clone(), failure.clone(), metrics.clone())?;
        let recorder = match log {
            Some(log) => Recorder::start(log, state.keep, stop, failure.clone(), metrics, plan.topics.clone())?,
            None => Recorder::elsewhere(),
        };
        Ok(Keeping {
            publisher: Mutex::new(Some(Publisher::start(publish, clock.clone(), failure.clone())?)),
            clock,
            replay: recovery.replay,
            recorder,
            writer,
            restored: recovery.restored,
            cipher,
            ends: recovery.ends,
            checkpoint: recovery.checkpoint,
            crew,
            plan: plan.clone(),
        })
    }

    /// What the source of one worker needs.
    pub(crate) fn of_source(
        &self,
        index: usize,
        stop: &Stop,
        settled: &Handle<Epoch>,
        pressure: &Pressure,
    ) -> SourceContext {
        let Plan { flow, failure, metrics, topics, .. } = &self.plan;
        SourceContext {
            worker: index,
            epoch: flow.spec.epoch.clone(),
            inflight: flow.spec.inflight.clone(),
            pressure: pressure.clone(),
            clock: self.clock.clone(),
            settled: settled.clone(),
            replay: self.replay.clone(),
            stop: stop.clone(),
            failure: failure.clone(),
            metrics: metrics.clone(),
            topics: topics.clone(),
        }
    }

    /// What the graph of one worker needs of it.
    pub(crate) fn of_worker(&self, index: usize) -> graph::Keeping {
        let generation = &self.plan.generation;
        let start = self.replay.first().map_or(self.clock.start(), |claim| claim.epoch);
        let base_every = self.plan.flow.spec.state.base_every;
        let desk = Desk::new(
            Share { worker: self.crew.number(index), workers: self.crew.workers() },
            self.restored.clone(),
            self.cipher.clone(),
            start,
            base_every,
            self.writer.clone(),
            (self.plan.metrics.clone(), self.plan.failure.clone()),
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
    /// Which process of how many.
    part: Option<(usize, usize)>,
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
            part: self.part,
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
    /// From `stop` on, or when another process was asked, the run has `wait`; then everything that waits is told to give up, and the run fails.
    fn watch(
        (stop, clock): (Stop, EpochClock),
        failure: &Failure,
        progress: &[(&'static str, Progress)],
        wait: Duration,
    ) -> std::io::Result<Drain> {
        let (running, ended) = channel::<()>();
        let (failure, progress) = (failure.clone(), progress.to_vec());
        std::thread::Builder::new().name("drain".into()).spawn(move || {
            // Nothing is ever sent: the channel closes when the run has ended.
            let runs_on = |wait| ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout);
            while !stop.drain() {
                if !runs_on(DRAIN_CHECK_EVERY) {
                    return;
                }
                if clock.draining() {
                    stop.follow();
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

fn open(
    plan: &Plan,
    options: &Options,
    worker: usize,
    resume: &BTreeMap<Partition, i64>,
    live: Option<&Arc<Live>>,
) -> Result<Hands, Failed> {
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
    let sinks = sink::open(plan, worker, live, &options.stop).map_err(Failed::unavailable)?;
    Ok(Hands { source, sinks })
}

fn read_model(path: &Path) -> Result<Logistic, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("could not read the model {path:?}: {error}"))?;
    Logistic::load(&bytes).map_err(|error| format!("could not use the model {path:?}: {error}"))
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
        let clock = EpochClock::starting_above(0, 1, DRAIN_MAX);
        let drain = Drain::watch((stop.clone(), clock), &failure, &progress, Duration::from_millis(1)).unwrap();
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
        let clock = EpochClock::starting_above(0, 1, DRAIN_MAX);
        let drain = Drain::watch((stop.clone(), clock), &failure, &[], Duration::from_secs(60)).unwrap();
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
