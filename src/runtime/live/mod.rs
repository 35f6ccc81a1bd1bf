//! The hub between the workers and the live page: bounded aggregates of what the sinks are given, updated once a batch.
//!
//! ```text
//! worker 0 ─ LiveSink, tap ─┐                       ┌─ /api/v1/live
//! worker 1 ─ LiveSink, tap ─┼─> Live (one mutex) ─> Snapshot
//! Metrics ──────────────────┘          │            └─ /api/v1/snapshot
//!                                      └─> Patient ─── /api/v1/patient/{pseudonym}
//! ```
//!
//! Invariants:
//! 1. Memory is bounded whatever comes: [`RATE_SECONDS`] counts, [`timeline::BUCKETS_MAX`] times [`timeline::CATEGORIES_MAX`] counts,
//!    [`ALERTS_MAX`] alerts, [`SHIFTS_MAX`] shifts, [`FLAWS_MAX`] flaws, [`PARTITIONS_MAX`] partitions in an answer, [`recent::READINGS_MAX`] readings and
//!    as many that are not claimed yet.
//! 2. The lock is taken once a batch, for work linear in its rows; a snapshot is built only when somebody asks.
//! 3. Only [`Rows`] and [`Assessed`] come in, so nothing identified can.
//! 4. Readings, alerts and shifts of an epoch are told only when it is claimed; every answer says how far it reaches ([`reach`]). Counters
//!    come from the metrics, at once.
//!
//! What it does not do: it is a view of the flow, not of the patients. A corrected reading is counted again (its alert is replaced), nothing is
//! kept over a restart, and no figure here feeds back into the flow. The wall clock only says in which second a batch came by.

mod busy;
mod columns;
mod rate;
pub mod reach;
pub mod recent;
#[cfg(test)]
pub(crate) mod sample;
mod snapshot;
mod timeline;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::config::TableName;
use crate::graph::Plan;
use crate::runtime::checkpoint::Seat;
use crate::runtime::clock::EpochClock;
use crate::runtime::driver::{self, Stream};
use crate::runtime::metrics::{Metrics, unix_now};
use crate::sink::{Deliver, Rows, SinkError};
use crate::time::Epoch;
use crate::vocabulary::{Assessed, Pseudonym};

pub use busy::StageState;
pub use rate::RATE_SECONDS;
pub use reach::{Beginning, Reach};
pub use recent::{Contribution, Patient, Point};
pub use snapshot::{Lag, OutcomeCount, Outcomes, Readings, ReasonCount, SinkState, Snapshot, Source};
pub use timeline::Shown;

/// Alerts that are kept: the newest by arrival.
pub const ALERTS_MAX: usize = 50;
/// Shifts that are kept: the newest of each feature and group. Further groups are left out, never a feature's `all`.
pub const SHIFTS_MAX: usize = 256;
/// Flaws that are kept, of those that have become more frequent; further ones are left out.
pub const FLAWS_MAX: usize = 64;
/// Partitions that a snapshot names: those with the most records waiting.
pub const PARTITIONS_MAX: usize = 12;

/// The aggregates, shared by all workers and the HTTP server.
pub struct Live {
    flow: String,
    started: Duration,
    metrics: Metrics,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    readings: u64,
    rate: rate::Rate,
    timeline: timeline::Timeline,
    alerts: VecDeque<Alert>,
    shifts: BTreeMap<(String, String), Shift>,
    /// By topic and measure.
    flaws: BTreeMap<(String, String), Flaw>,
    recent: recent::Recent,
    busy: busy::Busy,
    reached: reach::Reached,
}

/// Shows the live page what is assessed, where there is a page: the batches themselves, before they become rows.
pub fn render(assessed: Stream<'_, Arc<Assessed>>, plan: &Plan) {
    let Some(live) = plan.live.clone() else { return };
    driver::batches::<_, _, ()>(assessed, "live::tap", Seat::loose(()), move |(), epoch, batch, _| {
        live.see(epoch, batch)
    });
}

/// A reading for which a rule fired.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alert {
    /// Pseudonym of the patient: 32 hex digits.
    pub patient: String,
    /// Pseudonym of the observation: what a correction finds it by.
    pub observation: String,
    /// When it was measured, RFC 3339, UTC; `None` outside the years that RFC 3339 can write.
    pub effective_at: Option<String>,
    /// mmHg.
    pub systolic_mmhg: Option<f64>,
    /// mmHg.
    pub diastolic_mmhg: Option<f64>,
    /// The guideline's band.
    pub category: Option<String>,
    /// The rules that fired; at least one.
    pub reasons: Vec<String>,
    /// The model's probability, 0 to 1.
    pub probability: Option<f64>,
    /// `LOW`, `MODERATE` or `HIGH`.
    pub risk_level: Option<String>,
    /// What moved the probability most; empty without a model.
    pub contributions: Vec<Contribution>,
}

/// The newest drift statistics of one feature in one group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shift {
    /// The feature's name.
    pub feature: String,
    /// The group, `all` for everybody.
    pub group: String,
    /// End of the window they are about, RFC 3339, exclusive.
    pub current_end: Option<String>,
    /// Readings in that window.
    pub current_count: Option<f64>,
    /// Population stability index.
    pub psi: Option<f64>,
    /// Jensen–Shannon distance, 0 to 1.
    pub jensen_shannon: Option<f64>,
    /// `none`, `watch`, `act` or `insufficient`.
    pub verdict: String,
    /// Unit of the feature's values; `None` if it is not told.
    pub unit: Option<String>,
    /// Both histograms; `None` if they are not told.
    pub bins: Option<Bins>,
}

/// A flaw of a topic's inputs that is more frequent in the newest window than in its reference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Flaw {
    /// The topic's name.
    pub topic: String,
    /// The flaw's name.
    pub measure: String,
    /// End of the window that it is about, RFC 3339, exclusive.
    pub current_end: Option<String>,
    /// Share of the reference's inputs that have it, 0 to 1.
    pub reference_rate: Option<f64>,
    /// Share of the window's inputs that have it, 0 to 1.
    pub current_rate: Option<f64>,
    /// `watch` or `act`; what has not risen is not told.
    pub verdict: String,
}

/// How often which values came up, in the reference and in the current window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bins {
    /// Edges of the bins, ascending: one more than there are bins. The outer bins take the rest.
    pub edges: Vec<f64>,
    /// Readings of the reference, by bin.
    pub reference: Vec<f64>,
    /// Readings of the current window, by bin.
    pub current: Vec<f64>,
}

impl Live {
    /// An empty hub. `flow` is the flow's name; counters come from `metrics` when a snapshot is taken.
    pub fn new(flow: &str, metrics: Metrics) -> Arc<Live> {
        Arc::new(Live { flow: flow.to_owned(), started: unix_now(), metrics, state: Mutex::default() })
    }

    /// The page's view of this moment.
    pub fn snapshot(&self, draining: bool) -> Snapshot {
        self.snapshot_at(unix_now(), draining)
    }

    /// What is known of a patient whose readings came by lately, and how far that reaches.
    pub fn patient(&self, patient: Pseudonym) -> (Reach, Option<Patient>) {
        let state = self.lock();
        (state.reached.reach(), state.recent.patient(patient))
    }

    /// A run has begun: what its log says, and the clock that hears of its cuts.
    pub fn begin(&self, beginning: Beginning, clock: EpochClock) {
        self.lock().reached.begin(beginning, clock);
    }

    /// A batch has been assessed.
    pub(crate) fn see(&self, epoch: Epoch, batch: Arc<Assessed>) {
        self.lock().recent.push(epoch, batch);
    }

    fn snapshot_at(&self, now: Duration, draining: bool) -> Snapshot {
        // The metrics are read outside the lock: workers wait for as little as possible.
        let counted = snapshot::Counted::of(&self.metrics);
        snapshot::build(self, &mut self.lock(), counted, now, draining)
    }

    fn take(&self, rows: &Rows, now: Duration) {
        match rows.table {
            TableName::Readings => self.take_readings(rows, now),
            TableName::Shifts => self.take_shifts(rows),
            TableName::Quality => self.take_flaws(rows),
            // Rejections are counted in the metrics; the others have no place on the page.
            _ => {}
        }
    }

    fn take_readings(&self, rows: &Rows, now: Duration) {
        let columns = columns::Readings::of(rows);
        let times = columns.times();
        let state = &mut *self.lock();
        state.readings += columns.count;
        state.rate.add(now.as_secs(), columns.count);
        let codes = columns.category_codes(|name| state.timeline.category(name));
        state.timeline.add(&times, &codes);
        if !columns.replaced.is_empty() {
            state.alerts.retain(|alert| !columns.replaced.contains(&alert.observation));
        }
        let mut alerts = columns.alerts(ALERTS_MAX);
        explain(&mut alerts, &state.recent);
        state.alerts.extend(alerts);
        let surplus = state.alerts.len().saturating_sub(ALERTS_MAX);
        state.alerts.drain(..surplus);
    }

    fn take_flaws(&self, rows: &Rows) {
        let state = &mut *self.lock();
        for flaw in columns::flaws(&rows.batch) {
            let key = (flaw.topic.clone(), flaw.measure.clone());
            let known = state.flaws.get(&key);
            // RFC 3339 in UTC sorts by time. A correction of an older window does not bring back what that one said.
            if known.is_some_and(|known| known.current_end > flaw.current_end) {
                continue;
            }
            if !["watch", "act"].contains(&flaw.verdict.as_str()) {
                state.flaws.remove(&key);
            } else if known.is_some() || state.flaws.len() < FLAWS_MAX {
                state.flaws.insert(key, flaw);
            }
        }
    }

    fn take_shifts(&self, rows: &Rows) {
        let shifts = columns::shifts(&rows.batch);
        let state = &mut *self.lock();
        for shift in shifts {
            let key = (shift.feature.clone(), shift.group.clone());
            if state.shifts.len() < SHIFTS_MAX || state.shifts.contains_key(&key) || shift.group == "all" {
                state.shifts.insert(key, shift);
            }
            if state.shifts.len() > SHIFTS_MAX {
                let surplus = state.shifts.keys().rev().find(|(_, group)| group != "all").cloned();
                // Features are a fixed list, far fewer than the limit; were they not, the oldest by name goes.
                let surplus = surplus.or_else(|| state.shifts.keys().next_back().cloned());
                surplus.and_then(|key| state.shifts.remove(&key));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A worker that panicked leaves counts that are at worst one batch short; the page goes on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds to each alert what moved its probability: rows do not have it, the batches do, which have come by before.
fn explain(alerts: &mut [Alert], recent: &recent::Recent) {
    let wanted: Vec<Pseudonym> = alerts.iter().filter_map(|alert| alert.observation.parse().ok()).collect();
    let found = recent.contributions(&wanted);
    for alert in alerts {
        let observation: Option<Pseudonym> = alert.observation.parse().ok();
        alert.contributions = observation.and_then(|observation| found.get(&observation).cloned()).unwrap_or_default();
    }
}

/// One worker's way into [`Live`]. Settles at once: it promises nothing.
pub struct LiveSink {
    live: Arc<Live>,
    seat: usize,
}

impl LiveSink {
    /// One a worker.
    pub fn new(live: Arc<Live>) -> Self {
        let seat = live.lock().reached.seat();
        LiveSink { live, seat }
    }
}

impl Deliver for LiveSink {
    fn deliver(&mut self, epoch: Epoch, rows: &Rows) -> Result<(), SinkError> {
        // First, so that alerts find what moved them.
        self.live.lock().recent.release(epoch);
        self.live.take(rows, unix_now());
        Ok(())
    }

    fn close(&mut self, epoch: Epoch) -> Result<(), SinkError> {
        let state = &mut *self.live.lock();
        state.recent.release(epoch);
        state.reached.close(self.seat, epoch);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.close(Epoch::MAX)
    }
}

#[cfg(test)]
mod tests;
