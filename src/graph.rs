//! The page: the whole dataflow, read aloud.
//!
//! ```text
//! Kafka ─┐                                        ┌─ windows ──┐
//! files ─┼─> source ─> decode ─> pseudonymise ─>  │  patient   ├─> score ─┬─> tables ─> sinks: Parquet · NDJSON · Elasticsearch · Kafka · live page
//! gen.  ─┘     │          │           (exchange   │ (keyed     │          │
//!          (offsets)      └─> rejected  by key)   └─ baseline ─┘          └─> audit (differential: drift)
//! ```
//!
//! Left of `pseudonymise` the types of [`identified`](crate::identified) flow, right of it those of [`vocabulary`](crate::vocabulary).
//! The timestamp is the epoch. Besides the data, `decode` sends ticks (how far each partition's event time has come) to every worker.

use std::sync::Arc;

use timely::dataflow::Scope;
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::probe::Handle;
use timely::dataflow::operators::vec::Broadcast;

use crate::config::Flow;
use crate::pseudonymise::Key;
use crate::runtime::delivery::{self, Sink};
use crate::runtime::driver::{self, SourceContext, Tail};
use crate::runtime::failure::Failure;
use crate::runtime::metrics::Metrics;
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
) -> Tail {
    let (records, tail) = driver::source(scope, "source", source, context);
    let (observations, rejections, ticks) = decode::render(records, plan);
    let intakes = pseudonymise::render(observations, &plan.key, plan.topics.clone(), plan.metrics.clone());
    let ticks = ticks.broadcast();
    let (scorable, windows) = patient::render(intakes, ticks.clone(), plan);
    let assessed = score::render(scorable, plan);
    let shifts = audit::render(assessed.clone(), ticks, plan);
    let rows = tables::render(assessed, windows, rejections, shifts, plan);
    for sink in sinks {
        delivery::sink(rows.clone(), sink, plan.metrics.clone(), plan.failure.clone()).probe_with(settled);
    }
    rows.probe_with(settled);
    tail
}
