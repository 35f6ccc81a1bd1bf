//! What the page is told, once a second: figures from the metrics and aggregates of the rows, as one JSON object.
//!
//! Names carry their units. Everything in it is bounded by the limits of [`super`], some 20 KiB at most.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::{Alert, Flaw, Live, PARTITIONS_MAX, Reach, Shift, Shown, StageState, State, rate};
use crate::runtime::metrics::{Metrics, Sample, samples, total};
use crate::vocabulary::Outcome;

/// Reasons of rejection that are named; the others are in the metrics.
const REASONS_MAX: usize = 8;

/// The page's view of one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// How far readings, categories, alerts, shifts and flaws reach. The other figures are of this moment.
    #[serde(flatten)]
    pub reach: Reach,
    /// The flow's name.
    pub flow: String,
    /// Windkessel's version.
    pub version: &'static str,
    /// `running`, or `draining` once the run was asked to end.
    pub phase: &'static str,
    /// Wall clock, seconds since 1970.
    pub at_seconds: u64,
    /// When the run started.
    pub started_at_seconds: u64,
    /// Readings that came by.
    pub readings: Readings,
    /// What was read and what waits.
    pub source: Source,
    /// Where inputs ended.
    pub outcomes: Outcomes,
    /// Patients held in state.
    pub patients: u64,
    /// Alarms raised, after persistence; one reading may raise several.
    pub alarms: u64,
    /// Epochs read and not yet settled.
    pub inflight_epochs: u64,
    /// The model's name; `None` while rules run alone.
    pub model: Option<String>,
    /// Categories over event time.
    pub categories: Shown,
    /// Readings for which rules fired, newest first.
    pub alerts: Vec<Alert>,
    /// Drift by feature, then group.
    pub shifts: Vec<Shift>,
    /// Flaws of the input that have become more frequent, by topic, then measure.
    pub flaws: Vec<Flaw>,
    /// The sinks.
    pub sinks: Vec<SinkState>,
    /// The stages and sinks in the order of the graph, with the time that they are at work.
    pub stages: Vec<StageState>,
}

/// Readings that came by.
#[derive(Clone, Debug, Serialize)]
pub struct Readings {
    /// Since the start; a correction counts again.
    pub count: u64,
    /// Mean of the last five full seconds.
    pub per_second: f64,
    /// The last [`rate::RATE_SECONDS`] full seconds, oldest first; the newest is the one before `at_seconds`.
    pub history: Vec<u64>,
}

/// What was read and what waits.
#[derive(Clone, Debug, Serialize)]
pub struct Source {
    /// Records read.
    pub records: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Records known to wait.
    pub lag: u64,
    /// Number of partitions.
    pub partitions: usize,
    /// Those with the most records waiting, in descending order; of equals those whose event time is furthest behind.
    pub lags: Vec<Lag>,
}

/// One partition's lag.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lag {
    /// The topic; for a file the keyed hash of its path.
    pub topic: String,
    /// The partition's number.
    pub partition: String,
    /// Records known to wait.
    pub records: u64,
    /// The event time that it has reached, seconds since 1970; `None` before its first reading.
    pub watermark_seconds: Option<f64>,
}

/// Where inputs ended.
#[derive(Clone, Debug, Serialize)]
pub struct Outcomes {
    /// Every outcome, in the order of [`Outcome::ALL`], zeros included.
    pub counts: Vec<OutcomeCount>,
    /// Why inputs were rejected: the most frequent rules.
    pub rejected: Vec<ReasonCount>,
}

/// One outcome.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutcomeCount {
    /// Its name.
    pub outcome: &'static str,
    /// Inputs that ended so.
    pub count: u64,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReasonCount {
    /// Its name.
    pub reason: String,
    /// Inputs that it rejected.
    pub count: u64,
}

/// One sink.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SinkState {
    /// Its name.
    pub sink: String,
    /// Rows settled, all tables.
    pub records: u64,
    /// True while it waits for its destination.
    pub waiting: bool,
}

/// What the metrics say, gathered without the lock.
pub(super) struct Counted {
    source: Source,
    outcomes: Outcomes,
    sinks: Vec<SinkState>,
    patients: u64,
    alarms: u64,
    inflight_epochs: u64,
    model: Option<String>,
    busy: BTreeMap<String, f64>,
}

impl Counted {
    pub(super) fn of(metrics: &Metrics) -> Self {
        let model = samples(&metrics.model_info).iter().find(|s| s.value > 0.0).map(|s| s.label("model").to_owned());
        Counted {
            source: source(metrics),
            outcomes: outcomes(metrics),
            sinks: sinks(metrics),
            patients: count(metrics.patients.get() as f64),
            alarms: count(total(&metrics.alarms)),
            inflight_epochs: count(metrics.inflight_epochs.get() as f64),
            model: model.filter(|name| !name.is_empty()),
            busy: by_label(&metrics.stage_busy, "operator"),
        }
    }
}

pub(super) fn build(live: &Live, state: &mut State, counted: Counted, now: Duration, draining: bool) -> Snapshot {
    let history = state.rate.history(now.as_secs());
    Snapshot {
        reach: state.reached.reach(),
        flow: live.flow.clone(),
        version: env!("CARGO_PKG_VERSION"),
        phase: if draining { "draining" } else { "running" },
        at_seconds: now.as_secs(),
        started_at_seconds: live.started.as_secs(),
        readings: Readings { count: state.readings, per_second: rate::mean(&history), history },
        source: counted.source,
        outcomes: counted.outcomes,
        patients: counted.patients,
        alarms: counted.alarms,
        inflight_epochs: counted.inflight_epochs,
        model: counted.model,
        categories: state.timeline.shown(),
        alerts: state.alerts.iter().rev().cloned().collect(),
        shifts: state.shifts.values().cloned().collect(),
        flaws: state.flaws.values().cloned().collect(),
        stages: state.busy.told(now, &counted.busy),
        sinks: counted.sinks,
    }
}

fn source(metrics: &Metrics) -> Source {
    let mut lags: BTreeMap<(String, String), Lag> = BTreeMap::new();
    for sample in samples(&metrics.source_lag) {
        partition(&mut lags, &sample).records = count(sample.value);
    }
    for sample in samples(&metrics.source_watermark) {
        partition(&mut lags, &sample).watermark_seconds = Some(sample.value);
    }
    let mut lags: Vec<Lag> = lags.into_values().collect();
    let partitions = lags.len();
    let lag = lags.iter().map(|lag| lag.records).sum();
    // Stable: equals stay in the order of their labels.
    let behind = |lag: &Lag| lag.watermark_seconds.unwrap_or(f64::INFINITY);
    lags.sort_by(|one, other| other.records.cmp(&one.records).then_with(|| behind(one).total_cmp(&behind(other))));
    lags.truncate(PARTITIONS_MAX);
    Source {
        records: count(total(&metrics.source_records)),
        bytes: count(total(&metrics.source_bytes)),
        lag,
        partitions,
        lags,
    }
}

/// The partition that a sample is about.
fn partition<'a>(lags: &'a mut BTreeMap<(String, String), Lag>, sample: &Sample) -> &'a mut Lag {
    let (topic, partition) = (sample.label("topic").to_owned(), sample.label("partition").to_owned());
    let key = (topic.clone(), partition.clone());
    lags.entry(key).or_insert(Lag { topic, partition, records: 0, watermark_seconds: None })
}

/// The values of a metric that has one label of interest.
fn by_label(metric: &impl prometheus::core::Collector, label: &str) -> BTreeMap<String, f64> {
    samples(metric).iter().map(|sample| (sample.label(label).to_owned(), sample.value)).collect()
}

fn outcomes(metrics: &Metrics) -> Outcomes {
    let inputs = samples(&metrics.inputs);
    let of = |outcome: Outcome| inputs.iter().filter(move |sample| sample.label("outcome") == outcome.name());
    let counts = Outcome::ALL
        .into_iter()
        .map(|outcome| OutcomeCount {
            outcome: outcome.name(),
            count: of(outcome).map(|sample| count(sample.value)).sum(),
        })
        .collect();
    let mut rejected: Vec<ReasonCount> = of(Outcome::Rejected)
        .map(|sample| ReasonCount { reason: sample.label("reason").to_owned(), count: count(sample.value) })
        .collect();
    rejected.sort_by_key(|reason| std::cmp::Reverse(reason.count));
    rejected.truncate(REASONS_MAX);
    Outcomes { counts, rejected }
}

fn sinks(metrics: &Metrics) -> Vec<SinkState> {
    let mut sinks: BTreeMap<String, (u64, bool)> = BTreeMap::new();
    for sample in samples(&metrics.sink_records) {
        sinks.entry(sample.label("sink").to_owned()).or_default().0 += count(sample.value);
    }
    for sample in samples(&metrics.sink_waiting) {
        sinks.entry(sample.label("sink").to_owned()).or_default().1 |= sample.value > 0.0;
    }
    sinks.into_iter().map(|(sink, (records, waiting))| SinkState { sink, records, waiting }).collect()
}

/// A metric's value as a count: they are all integers below 2^53.
fn count(value: f64) -> u64 {
    value.max(0.0) as u64
}
