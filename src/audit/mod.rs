//! The `audit` stage: has the population of readings moved? Drift statistics, kept incrementally as differential collections.
//!
//! ```text
//! assessed ─┐                        updates                        changes                    ┌─> shifts
//!           ├─> counts (per worker) ────────> arrange ─> reduce ───────────> publish (per key) ─┤
//! ticks ────┴──────────────────────────────────────────────────────────────────┘               └─> gauges
//!                                    by (series, block)   window vs reference
//! ```
//!
//! For every feature, group and tumbling window of event time: how far is the distribution of the window from that of the
//! `audit.reference_windows` windows before it? Late readings, new versions and withdrawals change the answer for a window and for all
//! windows that have it in their reference; differential finds out which.
//!
//! * [`series`]: what is counted; the bin rule. [`tally`], [`counts`]: readings to updates, and when. [`histogram`]: the difference type.
//! * [`compare`], [`statistics`]: what `reduce` computes. [`publish`]: which comparisons become rows. [`watermark`](crate::watermark): when.
//!
//! Invariants:
//!
//! 1. Differential sees sums, never readings: an epoch that closes no window costs it nothing.
//! 2. The rows of an epoch are a function of the epochs so far, the same on any number of workers; the last row of a window is a
//!    function of the readings alone, as long as they came within the correction horizon.
//! 3. State is bounded by the horizon: windows that no live comparison needs are retracted, so that the arrangements compact to
//!    (horizon + two references) × series. No trace handle outlives its operator. With an unbounded horizon nothing is ever forgotten.
//!    Windows of an hour, a horizon of 30 days and all 40 series filled (15 bins) are, by estimate, 20 MB in the arrangement, over all workers,
//!    and 8 MB a worker in [`counts`].
//!
//! Does not: keep state across restarts (what [`counts`] remembers is what a snapshot would hold); count patients; look at assessments,
//! so fairness of the model's verdicts is not in this first form.

pub mod compare;
pub mod counts;
mod epochs;
pub mod histogram;
pub mod publish;
pub mod series;
pub mod statistics;
pub mod tally;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use differential_dataflow::operators::arrange::arrangement::arrange_core;
use differential_dataflow::trace::implementations::{ValBatcher, ValBuilder, ValSpine};
use differential_dataflow::{AsCollection, VecCollection};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::operator::empty;
use timely::dataflow::operators::vec::Map;

use crate::audit::compare::{Comparison, compare};
use crate::audit::counts::{Counts, Dropped};
use crate::audit::epochs::by_epoch;
use crate::audit::histogram::Histogram;
use crate::audit::publish::{Published, Publisher};
use crate::audit::series::{Block, Calendar, Series, Window};
use crate::config::AuditSpec;
use crate::graph::Plan;
use crate::runtime::metrics::Metrics;
use crate::time::{Epoch, EventSpan};
use crate::vocabulary::{Assessed, Shift, Tick};

/// Drift of the assessed readings. `ticks` must reach every worker; `horizon` is how long after its end a window can be corrected.
///
/// Each row leaves on one worker only, in the epoch of the watermark (or of the correction) that caused it; on a worker and in an
/// epoch rows ascend by window, group and feature.
pub fn render<'s>(
    assessed: StreamVec<'s, Epoch, Arc<Assessed>>,
    ticks: StreamVec<'s, Epoch, Tick>,
    plan: &Plan,
    _desk: &crate::runtime::checkpoint::Desk,
    _put_back_at: Option<Epoch>,
) -> StreamVec<'s, Epoch, Shift> {
    let spec = &plan.flow.spec;
    match spec.audit.enabled {
        true => shifts(assessed, ticks, &spec.audit, spec.correction.horizon, &plan.metrics),
        false => empty(assessed.scope()),
    }
}

/// The same, of its own parts. `horizon` is how long after its end a window can be corrected.
fn shifts<'s>(
    assessed: StreamVec<'s, Epoch, Arc<Assessed>>,
    ticks: StreamVec<'s, Epoch, Tick>,
    spec: &AuditSpec,
    horizon: EventSpan,
    metrics: &Metrics,
) -> StreamVec<'s, Epoch, Shift> {
    let calendar = Calendar::new(spec.window, spec.reference_windows);
    let histograms = count(assessed, ticks.clone(), Counts::new(calendar, horizon), metrics.clone());
    let comparisons = compare_windows(histograms, calendar, spec.readings_min);
    publish(comparisons, ticks, Publisher::new(calendar, horizon, spec.clone()), metrics.clone())
}

/// Per worker: the changes of its windows, as a collection of (series, window) with histograms as multiplicity.
fn count<'s>(
    assessed: StreamVec<'s, Epoch, Arc<Assessed>>,
    ticks: StreamVec<'s, Epoch, Tick>,
    mut counts: Counts,
    metrics: Metrics,
) -> VecCollection<'s, Epoch, (Series, Window), Histogram> {
    let mut updates = Vec::new();
    by_epoch(
        assessed,
        ticks,
        "audit::counts",
        |_, epoch| epoch,
        move |epoch, batches, ticks, emit| {
            let Dropped { readings, withdrawals } =
                counts.advance(batches.iter().map(|batch| &**batch), &ticks, &mut updates);
            for (kind, count) in [("reading", readings), ("withdrawal", withdrawals)] {
                if count > 0 {
                    metrics.drift_dropped.with_label_values(&[kind]).inc_by(count);
                }
            }
            emit.extend(updates.drain(..).map(|(key, histogram)| (key, epoch, histogram)));
        },
    )
    .as_collection()
}

/// Every window against its reference, one comparison a series and window, as long as either side has readings.
///
/// All of a series is on one worker: what comes behind needs no exchange.
fn compare_windows<'s>(
    histograms: VecCollection<'s, Epoch, (Series, Window), Histogram>,
    calendar: Calendar,
    readings_min: u64,
) -> VecCollection<'s, Epoch, (Series, Window, Comparison)> {
    type Key = (Series, Block);
    let by_block = histograms
        .flat_map(move |(series, window)| calendar.blocks_needing(window).map(|block| ((series, block), window)));
    let route = Exchange::new(|(((series, _), _), _, _): &((Key, Window), Epoch, Histogram)| u64::from(series.0));
    arrange_core::<_, _, ValBatcher<Key, Window, Epoch, Histogram>, ValSpine<Key, Window, Epoch, Histogram>>(
        by_block.inner,
        route,
        "audit::arrange",
        ValBatcher::new,
    )
    .reduce_abelian::<_, ValBuilder<Key, (Window, Comparison), _, isize>, ValSpine<_, _, _, _>, _, _>(
        "audit::compare",
        move |(_, block), windows, comparisons| {
            comparisons
                .extend(compare(&calendar, readings_min, *block, windows).into_iter().map(|compared| (compared, 1)));
        },
        |updates, key, changes| {
            updates.clear();
            updates.extend(changes.drain(..).map(|(compared, epoch, diff)| ((*key, compared), epoch, diff)));
        },
    )
    .as_collection(|(series, _), (window, comparison)| (*series, *window, *comparison))
}

/// Rows, and the gauges of the newest windows.
fn publish<'s>(
    comparisons: VecCollection<'s, Epoch, (Series, Window, Comparison)>,
    ticks: StreamVec<'s, Epoch, Tick>,
    mut publisher: Publisher,
    metrics: Metrics,
) -> StreamVec<'s, Epoch, Shift> {
    by_epoch(
        comparisons.inner,
        ticks,
        "audit::publish",
        |(_, epoch, _), _| *epoch,
        move |_, changes, ticks, emit| {
            let changes = changes.into_iter().map(|(comparison, _, diff)| (comparison, diff));
            emit.extend(publisher.advance(changes, &ticks));
        },
    )
    .map(move |Published { shift, newest }| {
        if newest {
            show(&metrics, &shift);
        }
        shift
    })
}

/// Sets the gauges of a series; without a statistic they are absent rather than stale.
fn show(metrics: &Metrics, shift: &Shift) {
    let labels = [shift.feature, &shift.group];
    for (gauge, value) in [(&metrics.drift_psi, shift.psi), (&metrics.drift_js, shift.jensen_shannon)] {
        match value {
            Some(value) => gauge.with_label_values(&labels).set(value),
            // An error only says that the gauge was not there.
            None => drop(gauge.remove_label_values(&labels)),
        }
    }
}
