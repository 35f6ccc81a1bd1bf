//! The page: the whole dataflow, read aloud.
//!
//! ```text
//! Kafka ─┐                                        ┌─ windows ──┐
//! files ─┼─> source ─> decode ─> pseudonymise ─>  │  patient   ├─> score ─┬─> tables ─> sinks: Parquet · NDJSON · Elasticsearch · Kafka · live page
//! gen.  ─┘     │          │           (exchange   │ (keyed     │          │
//!      cuts ─> epoch log  └─> rejected  by key)   └─ baseline ─┘          └─> audit (differential: drift)
//! ```
//!
//! Sinks are given an epoch when the log has its cut. At every checkpoint border stages hand in their state, and sinks what they have staged.
//!
//! Left of `pseudonymise` the types of [`identified`](crate::identified) flow, right of it those of [`vocabulary`](crate::vocabulary).
//! The timestamp is the epoch. Besides the data, `decode` sends ticks (how far each partition's event time has come) to every worker.

use std::sync::Arc;

use timely::dataflow::Scope;
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::probe::Handle;
use timely::dataflow::operators::vec::Broadcast;

use crate::audit::profile::count::SharedSums;
use crate::config::Flow;
use crate::pseudonymise::Key;
use crate::runtime::checkpoint::{self, Desk};
use crate::runtime::clock::EpochClock;
use crate::runtime::delivery::{self, Sink};
use crate::runtime::driver::{self, SourceContext, Tail};
use crate::runtime::failure::Failure;
use crate::runtime::live::{self, Live};
use crate::runtime::metrics::Metrics;
use crate::runtime::recorder::{self, Publisher, Recorder, Stamp};
use crate::score::logistic::Logistic;
use crate::sink::tables::{self, Context};
use crate::source::{Poll, Topics};
use crate::time::Epoch;
use crate::{audit, decode, patient, pseudonymise, score};

/// What every worker builds the same graph from.
#[derive(Clone)]
pub struct Plan {
    /// The flow.
    pub flow: Arc<Flow>,
    /// The pseudonym key.
    pub key: Key,
    /// The model, if there is one.
    pub model: Option<Arc<Logistic>>,
    /// The flow's topics.
    pub topics: Topics,
    /// Names that go into every row.
    pub context: Context,
    /// Telemetry.
    pub metrics: Metrics,
    /// Where a stage that cannot go on says so.
    pub failure: Failure,
    /// Which run of the flow this is.
    pub generation: Generation,
    /// The live page, if somebody can look at it.
    pub live: Option<Arc<Live>>,
    /// Where what the readings look like is summed up, if that is all that is wanted: no window is then audited.
    pub profile: Option<SharedSums>,
}

/// A run of a flow, among all that its state has seen.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Counts starts, from 1.
    pub number: u64,
    /// Workers, over all processes.
    pub workers: usize,
    /// Earlier runs whose epochs may be repeated, with their numbers of workers.
    pub earlier: Vec<(u64, usize)>,
    /// Files of epochs up to here are written and named.
    pub committed_up_to: Epoch,
}

/// What keeps a worker's state, and the log.
pub struct Keeping {
    /// Where stages and sinks hand in what a checkpoint is made of.
    pub desk: Desk,
    /// The process's clock.
    pub clock: EpochClock,
    /// Who writes the log.
    pub recorder: Recorder,
    /// What checkpoints say of this run.
    pub stamp: Stamp,
    /// The epoch in which differential collections are put back, if there is something to put back.
    pub put_back_at: Option<Epoch>,
    /// Who names files, on one worker of each process.
    pub publisher: Option<Publisher>,
}

/// Builds the graph on one worker. The handle's frontier is what every sink has settled; `settled` must be the one in `context`.
/// The tail is to be finished when the dataflow has completed.
pub fn build(
    scope: Scope<'_, Epoch>,
    plan: &Plan,
    source: Box<dyn Poll>,
    context: SourceContext,
    sinks: Vec<Sink>,
    settled: &Handle<Epoch>,
    Keeping { desk, clock, recorder, stamp, put_back_at, publisher }: Keeping,
) -> Tail {
    let (records, cuts, tail) = driver::source(scope, "source", source, context);
    let cuts = cuts.broadcast();
    let claimed = recorder::claim(cuts.clone(), recorder.clone(), clock.clone());
    let decode::Streams { observations, rejections, flawed, ticks } = decode::render(records, plan, &desk);
    let intakes = pseudonymise::render(observations, plan, &desk);
    let ticks = ticks.broadcast();
    let (scorable, windows) = patient::render(intakes, ticks.clone(), plan, &desk);
    let assessed = score::render(scorable, plan, &desk);
    live::render(assessed.clone(), plan);
    let found = audit::render((assessed.clone(), flawed), ticks, plan, &desk, put_back_at);
    let rows = tables::render(assessed, windows, rejections, found, plan);
    for sink in sinks {
        let telling = (plan.metrics.clone(), plan.failure.clone());
        delivery::sink(rows.clone(), claimed.clone(), sink, &desk, telling).probe_with(settled);
    }
    rows.probe_with(settled);
    let pieces = checkpoint::gather(scope, desk, clock);
    let recorded = recorder::record(pieces, cuts, stamp, recorder);
    recorder::publish(recorded.broadcast(), publisher);
    tail
}
