//! The `audit` stage: has the population of readings moved, has the input? Statistics kept incrementally as differential collections.
//!
//! ```text
//! assessed ─┐                        updates                        changes                    ┌─> shifts, quality, performance, fairness, alerts
//! labels ───┤
//! flaws ────┼─> counts (per worker) ────────> arrange ─> reduce ───────────> publish (per key) ─┤
//! ticks ────┴──────────────────────────────────────────────────────────────────┘               └─> gauges
//!                                    by (series, block)   window vs reference
//! ```
//!
//! For every feature, group and window of event time: how far is the distribution of the window from that of the
//! `audit.reference_windows` windows before it, or from a saved profile? Late readings, new versions and withdrawals change the answer for a window and for all
//! windows that have it in their reference; differential finds out which.
//!
//! * [`series`]: what is counted; the bin rule. [`tally`], [`counts`]: readings to updates, and when. [`histogram`]: the difference type.
//! * [`ledger`]: what must be known by patient: patients by window, scores, labels. [`scores`]: performance and fairness. [`quality`]: flaws of inputs.
//! * [`found`], [`compare`], [`statistics`], [`judge`]: what `reduce` computes. [`alerts`]: verdicts that hold. [`publish`]: which comparisons become rows. [`watermark`](crate::watermark): when.
//! * [`profile`]: the saved reference: how it is made, and what is compared with it.
//! * `epochs`, `machines`: the operator for both ends, and what it drives.
//!
//! Invariants:
//!
//! 1. Differential sees sums, never readings: an epoch that closes no window costs it nothing.
//! 2. The rows of an epoch are a function of the epochs so far, the same on any number of workers; the last row of a window is a
//!    function of the readings alone, as long as they came within the correction horizon.
//! 3. State is bounded by the horizon: windows that no live comparison needs are retracted, so that the arrangements compact to
//!    (horizon + two references) × series. No trace handle outlives its operator. With an unbounded horizon nothing is ever forgotten.
//!    Panes of an hour, a horizon of 30 days and all 40 series filled (15 bins) are, by estimate, 20 MB in the arrangement, over all workers,
//!    and 8 MB a worker in [`counts`].
//! 4. Arrangements are not saved. What [`counts`] remembers is the consolidated collection: after a start it is put back as input, in an
//!    epoch of its own below all others, and differential rebuilds the rest. [`publish`] remembers what was published, so that what merely
//!    reappears is no row. The rows that follow are those of a run that never ended, whatever the number of workers.
//!
//! 5. Labels come in any order, before or after the readings that they are about, and long after the rows of their windows; whatever
//!    they change within the horizon is published again. Where each of them ended is counted here and nowhere else.
//! 6. A demographic update moves what its patient contributed within the horizon to the groups that follow from it; what lies further back stays.

pub mod alerts;
pub mod compare;
pub mod counts;
mod epochs;
pub mod found;
pub mod histogram;
pub mod judge;
pub mod ledger;
mod machines;
pub mod profile;
pub mod publish;
pub mod quality;
pub mod scores;
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
use timely::dataflow::operators::Concat;
use timely::dataflow::operators::generic::operator::empty;
use timely::dataflow::operators::vec::Map;

use crate::audit::counts::{ByPatient, Counts};
use crate::audit::epochs::{ByEpoch, by_epoch};
use crate::audit::found::{Finder, Found};
use crate::audit::histogram::Histogram;
use crate::audit::judge::Judge;
use crate::audit::machines::{Counting, Publishing};
use crate::audit::profile::reference::Reference;
use crate::audit::publish::Publisher;
use crate::audit::series::{Block, Calendar, Pane, Series, Subject};
use crate::config::AuditSpec;
use crate::graph::Plan;
use crate::runtime::checkpoint::{Desk, Seat};
use crate::runtime::metrics::Metrics;
use crate::runtime::survive::{KEY_GROUPS, Route};
use crate::source::Share;
use crate::time::{Epoch, EventSpan};
use crate::vocabulary::findings::Finding;
use crate::vocabulary::flaws::Flawed;
use crate::vocabulary::{Assessed, Scorable, Tick};

/// Drift of the assessed readings, and the quality of all inputs: `flawed` is of those that ended before. `ticks` must reach every worker; `horizon` is how long after its end a window can be corrected.
///
/// Each row leaves on one worker only, in the epoch of the watermark (or of the correction) that caused it; on a worker and in an
/// epoch rows ascend by window, group and feature. What was saved is put back in the epoch `put_back_at`, below every other.
pub fn render<'s>(
    (assessed, flawed): (StreamVec<'s, Epoch, Arc<Assessed>>, StreamVec<'s, Epoch, Vec<Flawed>>),
    ticks: StreamVec<'s, Epoch, Tick>,
    plan: &Plan,
    desk: &Desk,
    put_back_at: Option<Epoch>,
) -> StreamVec<'s, Epoch, Finding> {
    let spec = &plan.flow.spec;
    if !spec.audit.enabled {
        return empty(assessed.scope());
    }
    if let Some(sums) = &plan.profile {
        return profile::count::render(assessed, &spec.audit, sums.clone());
    }
    // What ended in `decode` comes as batches without readings.
    let flawed = flawed
        .map(|flawed| Arc::new(Assessed { scorable: Scorable { flawed, ..Default::default() }, ..Default::default() }));
    let assessed = assessed.concat(flawed);
    let share = Share { worker: assessed.scope().index(), workers: assessed.scope().peers() };
    let reference = plan.flow.reference.as_ref().map(|reference| {
        let scored_by = profile::count::scored_by(&spec.score, &spec.audit, plan.model.as_deref());
        Arc::new(reference.for_scores_by(&scored_by).0)
    });
    let (counting, publishing) =
        machines(&spec.audit, reference.as_deref(), spec.correction.horizon, share, &plan.metrics);
    let publishing = publishing.with_topics(plan.topics.clone());
    let (counting, publishing) = (desk.seat("audit.counts", counting), desk.seat("audit.publish", publishing));
    shifts(assessed, ticks, (&spec.audit, reference), put_back_at, counting, publishing)
}

/// The same by itself, for measurements: nothing of it survives.
pub fn alone<'s>(
    assessed: StreamVec<'s, Epoch, Arc<Assessed>>,
    ticks: StreamVec<'s, Epoch, Tick>,
    spec: &AuditSpec,
    horizon: EventSpan,
    metrics: &Metrics,
) -> StreamVec<'s, Epoch, Finding> {
    let share = Share { worker: assessed.scope().index(), workers: assessed.scope().peers() };
    let (counting, publishing) = machines(spec, None, horizon, share, metrics);
    shifts(assessed, ticks, (spec, None), None, Seat::loose(counting), Seat::loose(publishing))
}

/// The machines of one worker, as they are before every reading. `horizon` is how long after its end a window can be corrected.
fn machines(
    spec: &AuditSpec,
    reference: Option<&Reference>,
    horizon: EventSpan,
    share: Share,
    metrics: &Metrics,
) -> (Counting, Publishing) {
    let calendar = calendar(spec);
    let by_patient = ByPatient { selected: spec.selected, label_horizon: spec.outcomes.horizon };
    let counts = Counts::new(calendar, horizon, share, spec.patients.then_some(by_patient));
    let publisher = Publisher::new(calendar, horizon, share, spec.alert_windows);
    let publisher = publisher.profiled(reference.map(|reference| reference.span));
    (Counting::new(counts, metrics.clone()), Publishing::new(publisher, metrics.clone()))
}

/// The dataflow between the machines. If they hold saved state, it is put back in the epoch `restore`, lower than every other.
fn shifts<'s>(
    assessed: StreamVec<'s, Epoch, Arc<Assessed>>,
    ticks: StreamVec<'s, Epoch, Tick>,
    (spec, reference): (&AuditSpec, Option<Arc<Reference>>),
    restore: Option<Epoch>,
    counting: Seat<impl ByEpoch<Left = Arc<Assessed>, Right = Tick, Output = Update>>,
    publishing: Seat<impl ByEpoch<Left = Change, Right = Tick, Output = Finding>>,
) -> StreamVec<'s, Epoch, Finding> {
    let histograms = by_epoch(assessed, ticks.clone(), "audit::counts", restore, |_, under| under, counting);
    let finder = Finder::new(calendar(spec), Judge::new(spec), reference);
    let found = find(histograms.as_collection(), calendar(spec), finder);
    by_epoch(found.inner, ticks, "audit::publish", restore, |(_, epoch, _), _| *epoch, publishing)
}

/// Where a profile is the reference, no window looks back.
fn calendar(spec: &AuditSpec) -> Calendar {
    let reference_windows = if spec.reference_profile.is_some() { 0 } else { spec.reference_windows };
    Calendar::new(spec.window, spec.hop.unwrap_or(spec.window), reference_windows)
}

/// A change of one series' pane, as differential takes it: histograms are the multiplicity.
type Update = ((Series, Pane), Epoch, Histogram);

/// What is found, as it appears or stands no longer.
type Change = ((Series, Pane, Found), Epoch, isize);

/// The routes below `end` that lead to this worker.
fn owned(share: Share, end: Route) -> impl Iterator<Item = Route> {
    (share.worker as Route..end).step_by(share.workers)
}

/// Which worker compares and publishes a subject: the same for its counts, and for what was saved of it.
fn subject_route(subject: Subject) -> Route {
    Route::from(subject.0) % KEY_GROUPS
}

/// Every window against its reference: one finding a series and window, as long as either side has readings.
///
/// All of a subject is on one worker: what comes behind needs no exchange.
fn find<'s>(
    histograms: VecCollection<'s, Epoch, (Series, Pane), Histogram>,
    calendar: Calendar,
    mut finder: Finder,
) -> VecCollection<'s, Epoch, (Series, Pane, Found)> {
    type Key = (Subject, Block);
    let by_block = histograms.flat_map(move |(series, pane)| {
        let subjects = series.needed_by().into_iter();
        subjects
            .flat_map(move |subject| calendar.blocks_needing(pane).map(move |block| ((subject, block), (series, pane))))
    });
    let route =
        Exchange::new(|(((subject, _), _), _, _): &((Key, (Series, Pane)), Epoch, Histogram)| subject_route(*subject));
    arrange_core::<_, _, ValBatcher<Key, (Series, Pane), Epoch, Histogram>, ValSpine<_, _, Epoch, Histogram>>(
        by_block.inner,
        route,
        "audit::arrange",
        ValBatcher::new,
    )
    .reduce_abelian::<_, ValBuilder<Key, (Series, Pane, Found), _, isize>, ValSpine<_, _, _, _>, _, _>(
        "audit::find",
        move |(subject, block), counts, found| {
            found.extend(finder.find(*subject, *block, counts).into_iter().map(|found| (found, 1)));
        },
        |updates, key, changes| {
            updates.clear();
            updates.extend(changes.drain(..).map(|(found, epoch, diff)| ((*key, found), epoch, diff)));
        },
    )
    .as_collection(|_, found| found.clone())
}
