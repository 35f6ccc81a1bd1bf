//! A flow, made ready and run: opens what the flow names, builds the graph on every worker, waits, reports.
//!
//! Everything that can be wrong with the outside (a missing file, an unreachable broker, a port in use) is found here, before the
//! first worker starts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use timely::dataflow::operators::probe::Handle;

use crate::cli::Failed;
use crate::config::Flow;
use crate::graph::{self, Plan};
use crate::pseudonymise::Key;
use crate::runtime::delivery::{Progress, Sink};
use crate::runtime::driver::{EpochClock, SourceContext};
use crate::runtime::failure::Failure;
use crate::runtime::health::Health;
use crate::runtime::http::{self, Server};
use crate::runtime::live::Live;
use crate::runtime::metrics::Metrics;
use crate::runtime::progress::ProgressLine;
use crate::runtime::stop::Stop;
use crate::runtime::summary;
use crate::runtime::worker;
use crate::score::logistic::Logistic;
use crate::sink::tables::Context;
use crate::source::{self, Poll, Share};
use crate::time::Epoch;

/// How a job runs, apart from its flow.
#[derive(Clone, Debug)]
pub struct Options {
    /// Worker threads.
    pub workers: usize,
    /// End at the end of what the source holds now.
    pub until_end: bool,
    /// Asks the job to end.
    pub stop: Stop,
    /// Show progress on standard error.
    pub progress: bool,
}

/// What one worker needs of the outside.
struct Hands {
    source: Box<dyn Poll + Send>,
    sinks: Vec<Sink>,
}

/// A job, ready to run.
pub struct Job {
    plan: Plan,
    options: Options,
    hands: Vec<Hands>,
    progress: Vec<Progress>,
    server: Option<Server>,
    health: Health,
}

impl Job {
    /// Opens everything that the flow names.
    pub fn prepare(flow: Flow, options: Options) -> Result<Job, Failed> {
        let key = Key::read(&flow.spec.pseudonymise).map_err(Failed::configuration)?;
        let metrics = Metrics::new();
        let model = load_model(&flow, &metrics)?;
        let topics = source::topics(&flow.spec.source, &|name| key.name_hash(name)).map_err(Failed::configuration)?;
        let context = Context {
            flow: flow.spec.name.clone(),
            topics: topics.clone(),
            signals: flow.signal_columns(),
            rule_set: flow.spec.score.rules.clone(),
            model: model.as_ref().map(|model| model.digest().to_owned()),
            key_id: key.id(),
        };
        let plan = Plan { flow: Arc::new(flow), key, model, topics, context, metrics, failure: Failure::default() };
        let live = Live::new(plan.metrics.clone());
        let health = Health::new();
        let server = serve(&plan, &live, &health, &options.stop)?;
        let hands = (0..options.workers).map(|worker| open(&plan, &options, worker, &live)).collect::<Result<Vec<_>, _>>()?;
        let progress = hands.iter().flat_map(|hands| hands.sinks.iter().map(|sink| sink.progress.clone())).collect();
        Ok(Job { plan, options, hands, progress, server, health })
    }

    /// Telemetry of this job.
    pub fn metrics(&self) -> &Metrics {
        &self.plan.metrics
    }

    /// Runs until the input has ended or the job was asked to stop, and everything is delivered.
    pub fn run(self) -> Result<Report, Failed> {
        let started = Instant::now();
        let line = self.options.progress.then(|| ProgressLine::start(self.plan.metrics.clone()));
        let workers = self.options.workers;
        let clock = EpochClock::starting_at(first_epoch());
        let hands: Vec<_> = self.hands.into_iter().map(Some).collect();
        let hands = Mutex::new(hands);
        let (plan, options, progress) = (self.plan.clone(), self.options.clone(), self.progress);
        let ended = worker::execute(workers, self.health, self.plan.failure.clone(), move |index, scope| {
            let mine = hands.lock().unwrap_or_else(PoisonError::into_inner)[index].take().expect("each worker builds once");
            let settled = Handle::new();
            let context = SourceContext {
                epoch: plan.flow.spec.epoch.clone(),
                inflight: plan.flow.spec.inflight.clone(),
                clock: clock.clone(),
                settled: settled.clone(),
                durable: durable(progress.clone()),
                stop: options.stop.clone(),
                failure: plan.failure.clone(),
                metrics: plan.metrics.clone(),
                topics: plan.topics.clone(),
            };
            graph::build(scope, &plan, mine.source, context, mine.sinks, &settled);
        });
        drop(line);
        ended.map_err(Failed::unavailable)?;
        Ok(Report { plan: self.plan, elapsed: started.elapsed(), server: self.server })
    }
}

/// What came of a job.
pub struct Report {
    plan: Plan,
    elapsed: Duration,
    server: Option<Server>,
}

impl Report {
    /// The table that a run ends with.
    pub fn summary(&self) -> String {
        let sink = &self.plan.flow.spec.sink;
        let mut places = Vec::new();
        places.extend(sink.parquet.as_ref().map(|parquet| format!("Parquet: {}", parquet.path.display())));
        places.extend(sink.ndjson.as_ref().map(|ndjson| format!("NDJSON: {}", ndjson.path.display())));
        places.extend(sink.elasticsearch.as_ref().map(|spec| format!("Elasticsearch: {} (index {}*)", spec.url, spec.index)));
        summary::summary(&self.plan.metrics, self.elapsed, &places)
    }

    /// Telemetry of the job.
    pub fn metrics(&self) -> &Metrics {
        &self.plan.metrics
    }

    /// Keeps the live page up until asked to stop.
    pub fn keep_serving(self, stop: &Stop) {
        if let Some(server) = &self.server {
            tracing::info!(target: "http", "still serving http://{}/ until Ctrl-C", server.address());
            while !stop.drain() {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn load_model(flow: &Flow, metrics: &Metrics) -> Result<Option<Arc<Logistic>>, Failed> {
    let model = match &flow.spec.model.file {
        Some(path) if path.exists() => Some(Arc::new(Logistic::read(path).map_err(Failed::configuration)?)),
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
        Some(model) => metrics.model_info.with_label_values(&[model.digest(), "logistic"]).set(1),
        None => metrics.model_info.with_label_values(&["", "none"]).set(0),
    }
    Ok(model)
}

fn serve(plan: &Plan, live: &Live, health: &Health, stop: &Stop) -> Result<Option<Server>, Failed> {
    let listen = &plan.flow.spec.http.listen;
    if listen.is_empty() {
        return Ok(None);
    }
    let server = http::serve(listen, plan.metrics.clone(), live.clone(), health.clone(), stop.clone()).map_err(Failed::unavailable)?;
    Ok(Some(server))
}

fn open(plan: &Plan, options: &Options, worker: usize, live: &Live) -> Result<Hands, Failed> {
    let share = Share { worker, workers: options.workers };
    let source = source::open(&plan.flow.spec.source, share, options.until_end, &plan.topics, &options.stop).map_err(Failed::unavailable)?;
    let sinks = crate::sink::open(plan, worker, live, &options.stop).map_err(Failed::unavailable)?;
    Ok(Hands { source, sinks })
}

/// The lowest durable epoch of all sinks of this process.
fn durable(progress: Vec<Progress>) -> Box<dyn Fn() -> Epoch> {
    Box::new(move || progress.iter().map(Progress::durable).min().unwrap_or(Epoch::MAX))
}

/// Unix milliseconds: higher than every epoch of an earlier run, so that document versions never go back.
#[expect(clippy::disallowed_methods, reason = "the one place where a run is numbered by the clock; no result depends on it")]
fn first_epoch() -> Epoch {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as Epoch
}
