//! Every metric, defined once. `schemas/metrics.md` is generated from here and a test compares.
//!
//! Labels are bounded: stage, sink, topic, partition, reason. Never a patient, never text from a message.
//! Counters are added to once a batch, never once a record.
//!
//! It keeps no history and computes nothing: rates, ages and quantiles are the reader's (PromQL, the live page).

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use crate::vocabulary::Tally;

/// All metrics of a process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    described: Arc<[Described]>,
    /// Inputs by where they ended and why: `outcome`, `reason`. Their sum is the number of resources read.
    pub inputs: IntCounterVec,
    /// Records read: `topic`, `partition`.
    pub source_records: IntCounterVec,
    /// Bytes read: `topic`, `partition`.
    pub source_bytes: IntCounterVec,
    /// Records known to wait: `topic`, `partition`.
    pub source_lag: IntGaugeVec,
    /// Watermark: `topic`, `partition`.
    pub source_watermark: GaugeVec,
    /// How far a partition has come: `topic`, `partition`, `stage` = `read`, `claimed` or `checkpointed`; each the next offset.
    pub source_offset: IntGaugeVec,
    /// Partitions that are idle.
    pub source_idle: IntGauge,
    /// Inputs read: resources, and records that could not be taken for one. What `inputs` must add up to.
    pub decode_resources: IntCounter,
    /// Leniencies applied: `leniency`.
    pub leniencies: IntCounterVec,
    /// Late readings: `disposition` = `reopened` or `late`.
    pub late_readings: IntCounterVec,
    /// Rejections sent to a dead-letter topic: `reason` (the rule).
    pub dead_letters: IntCounterVec,
    /// Busy time: `operator`, which is the stage's name.
    pub stage_busy: CounterVec,
    /// Records into a stage: `operator`.
    pub stage_records: IntCounterVec,
    /// Readings by category: `category`.
    pub readings: IntCounterVec,
    /// Alarms by reason: `reason`.
    pub alarms: IntCounterVec,
    /// Patients in state.
    pub patients: IntGauge,
    /// Contributions kept for correction.
    pub contributions: IntGauge,
    /// Conditions of patients who have as many as are kept.
    pub conditions_left_out: IntCounter,
    /// Windows emitted: `revision` = `first` or `revised`.
    pub windows: IntCounterVec,
    /// Population stability index of the newest window: `feature`, `group`.
    pub drift_psi: GaugeVec,
    /// Jensen-Shannon distance of the newest window: `feature`, `group`.
    pub drift_js: GaugeVec,
    /// Kolmogorov–Smirnov statistic of the newest closed window.
    pub drift_ks: GaugeVec,
    /// Normed Wasserstein distance of the newest closed window.
    pub drift_wasserstein: GaugeVec,
    /// Share of a topic's inputs with a flaw in the newest closed window: `topic`, `measure`.
    pub quality_rate: GaugeVec,
    /// 1 while an alert of the audit stands.
    pub audit_alert: IntGaugeVec,
    /// Bytes of what the audit keeps by pane, reading and patient, about.
    pub audit_held_bytes: IntGauge,
    /// What came too late for drift statistics: `kind` = `reading` or `withdrawal`.
    pub drift_dropped: IntCounterVec,
    /// 1 while a model is loaded: `model`, `kind`; 0 with `model=""` while rules run alone.
    pub model_info: IntGaugeVec,
    /// Rows written: `sink`, `table`.
    pub sink_records: IntCounterVec,
    /// Bytes written: `sink`.
    pub sink_bytes: IntCounterVec,
    /// Requests or files: `sink`.
    pub sink_batches: IntCounterVec,
    /// Retried requests or items: `sink`.
    pub sink_retries: IntCounterVec,
    /// Items that a sink refused for good: `sink`, `reason`.
    pub sink_rejected_items: IntCounterVec,
    /// Bytes handed over and not yet settled: `sink`.
    pub sink_inflight_bytes: IntGaugeVec,
    /// Unix time of the last success: `sink`.
    pub sink_last_success: GaugeVec,
    /// 1 while a sink waits for its destination: `sink`.
    pub sink_waiting: IntGaugeVec,
    /// Seconds from the broker's timestamp to a settled row: `sink`.
    pub ingest_to_sink: HistogramVec,
    /// The epoch that every sink has settled.
    pub settled_epoch: IntGauge,
    /// When an epoch was last settled: seconds since the Unix epoch.
    pub settled: IntGauge,
    /// Epochs under way.
    pub inflight_epochs: IntGauge,
    /// Bytes read and not yet settled.
    pub inflight_bytes: IntGauge,
    /// Seconds that an epoch takes from closing to settled.
    pub epoch_seconds: Histogram,
    /// Epochs claimed in the epoch log.
    pub claims: IntCounter,
    /// When the last epoch was claimed: seconds since the Unix epoch.
    pub claim_last_success: IntGauge,
    /// 1 while an entry of the epoch log cannot be written.
    pub epoch_log_waiting: IntGauge,
    /// Epochs of an earlier run that were read again.
    pub replayed_epochs: IntCounter,
    /// Seconds that the start took to fetch state, and to read again what was claimed.
    pub restore_seconds: Gauge,
    /// Checkpoints recorded.
    pub checkpoints: IntCounter,
    /// When the last one was recorded: seconds since the Unix epoch.
    pub checkpoint_last_success: IntGauge,
    /// Intervals that have gone by without a checkpoint although one was due.
    pub checkpoints_missed: IntGauge,
    /// Bytes of state files written.
    pub checkpoint_bytes: IntCounter,
    /// Seconds that a stage stands still to hand in its state.
    pub checkpoint_pause: Histogram,
    /// Which run of the state this is; counts starts.
    pub generation: IntGauge,
    /// The most memory that the flow takes, without state, in bytes.
    pub memory_bound: IntGauge,
    /// How near its limit memory is: 0, 1 or 2.
    pub memory_pressure: IntGauge,
    /// Clients of the live page's stream.
    pub live_clients: IntGauge,
    /// `version`; always 1.
    pub build_info: IntGaugeVec,
}

impl Metrics {
    /// Registers every metric once. One line a metric: name without prefix, meaning, labels.
    pub fn new() -> Self {
        let mut c = Catalogue::default();
        let r = &mut c;
        let partition = &["topic", "partition"];
        let drift = &["feature", "group"];
        let mut metrics = Metrics {
            inputs: r.counters("inputs_total", "Inputs by where they ended, exactly one each", &["outcome", "reason"]),
            source_records: r.counters("source_records_total", "Records read", partition),
            source_bytes: r.counters("source_bytes_total", "Bytes of records read", partition),
            source_lag: r.gauges("source_lag_records", "Records known to wait in the source", partition),
            source_watermark: r.float_gauges(
                "source_watermark_timestamp_seconds",
                "Event time that a partition has reached",
                partition,
            ),
            source_offset: r.gauges(
                "source_offset",
                "Next offset of a partition: as read, as claimed in the epoch log, as of the last checkpoint",
                &["topic", "partition", "stage"],
            ),
            source_idle: r.gauge("source_idle_partitions", "Partitions that hold no window open although not ended"),
            decode_resources: r
                .counter("decode_resources_total", "Resources read, and records that could not be taken for one"),
            leniencies: r.counters("decode_leniencies_total", "Deviations that were overlooked", &["leniency"]),
            late_readings: r.counters(
                "late_records_total",
                "Readings behind their partition's watermark",
                &["disposition"],
            ),
            dead_letters: r.counters(
                "dead_letter_records_total",
                "Rejections sent to a dead-letter topic",
                &["reason"],
            ),
            stage_busy: r.float_counters(
                "operator_busy_seconds_total",
                "Time that a stage was at work, over all workers; what timely itself takes is `timely`",
                &["operator"],
            ),
            stage_records: r.counters("operator_records_in_total", "Records into a stage", &["operator"]),
            readings: r.counters("readings_total", "Readings by category", &["category"]),
            alarms: r.counters("alerts_total", "Alarms raised, by rule", &["reason"]),
            patients: r.gauge("patients", "Patients held in state"),
            contributions: r.gauge("contributions", "Contributions kept so that they can be corrected"),
            conditions_left_out: r.counter(
                "conditions_left_out_total",
                "Conditions that count as nothing, because their patient has as many as are kept",
            ),
            windows: r.counters("windows_total", "Windows emitted", &["revision"]),
            drift_psi: r.float_gauges("drift_psi", "Population stability index of the newest closed window", drift),
            drift_js: r.float_gauges("drift_js", "Jensen-Shannon distance of the newest closed window", drift),
            drift_ks: r.float_gauges("drift_ks", "Kolmogorov-Smirnov statistic of the newest closed window", drift),
            drift_wasserstein: r.float_gauges(
                "drift_wasserstein",
                "Wasserstein distance of the newest closed window, in reference standard deviations",
                drift,
            ),
            quality_rate: r.float_gauges(
                "quality_rate",
                "Share of a topic's inputs that have a flaw, in the newest closed window",
                &["topic", "measure"],
            ),
            audit_alert: r.gauges(
                "audit_alert",
                "1 while a verdict has held for audit.alert_windows; of quality the group is the topic",
                &["table", "feature", "group"],
            ),
            audit_held_bytes: r.gauge("audit_held_bytes", "What the audit keeps by window, reading and patient, about"),
            drift_dropped: r.counters("drift_dropped_total", "What came too late for drift statistics", &["kind"]),
            model_info: r.gauges("model_info", "The model in use; 0 while rules run alone", &["model", "kind"]),
            sink_records: r.counters("sink_records_total", "Rows settled", &["sink", "table"]),
            sink_bytes: r.counters("sink_bytes_total", "Bytes written", &["sink"]),
            sink_batches: r.counters("sink_batches_total", "Requests sent or files finished", &["sink"]),
            sink_retries: r.counters("sink_retries_total", "Requests or items sent again", &["sink"]),
            sink_rejected_items: r.counters(
                "sink_rejected_items_total",
                "Items refused for good by the destination",
                &["sink", "reason"],
            ),
            sink_inflight_bytes: r.gauges("sink_inflight_bytes", "Bytes handed to a sink and not settled", &["sink"]),
            sink_last_success: r.float_gauges(
                "sink_last_success_timestamp_seconds",
                "When the sink last settled something",
                &["sink"],
            ),
            sink_waiting: r.gauges("sink_waiting", "1 while the sink waits for its destination", &["sink"]),
            ingest_to_sink: r.histograms("ingest_to_sink_seconds", "Broker timestamp to settled row", 0.01, &["sink"]),
            settled_epoch: r.gauge("settled_epoch", "The newest epoch that every sink has settled"),
            settled: r.gauge("settled_timestamp_seconds", "When every sink last settled an epoch, be it an empty one"),
            inflight_epochs: r.gauge("inflight_epochs", "Epochs read and not yet settled"),
            inflight_bytes: r.gauge("inflight_bytes", "Bytes read and not yet settled"),
            epoch_seconds: r.histogram("epoch_seconds", "From the close of an epoch until every sink has settled it"),
            claims: r.counter("claims_total", "Epochs claimed in the epoch log"),
            claim_last_success: r
                .gauge("claim_last_success_timestamp_seconds", "When the last epoch was claimed; empty ones are not"),
            epoch_log_waiting: r.gauge("epoch_log_waiting", "1 while the epoch log cannot be written"),
            replayed_epochs: r.counter("replayed_epochs_total", "Epochs of an earlier run that were read again"),
            restore_seconds: r
                .float_gauge("restore_seconds", "What this start took to fetch state and to read claimed epochs again"),
            checkpoints: r.counter("checkpoints_total", "Checkpoints recorded in the epoch log"),
            checkpoint_last_success: r
                .gauge("checkpoint_last_success_timestamp_seconds", "When the last checkpoint was recorded"),
            checkpoints_missed: r.gauge(
                "checkpoints_missed",
                "Intervals gone by without a checkpoint although one was due; 0 while all is well or nothing is read",
            ),
            checkpoint_bytes: r.counter("checkpoint_bytes_total", "Bytes of state files written"),
            checkpoint_pause: r
                .histogram("checkpoint_pause_seconds", "How long a stage stands still to hand in its state"),
            generation: r.gauge("generation", "Which run of the state this is; counts starts"),
            memory_bound: r.gauge("memory_bound_bytes", "The most memory that the flow takes, without state"),
            memory_pressure: r
                .gauge("memory_pressure", "0 far from the limit, 1 sources are slowed down, 2 sources are paused"),
            live_clients: r.gauge("live_clients", "Browsers that follow the live page"),
            build_info: r.gauges("build_info", "Version of this binary; always 1", &["version"]),
            registry: Registry::new(),
            described: Arc::new([]),
        };
        #[cfg(target_os = "linux")]
        c.registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("its names have another prefix");
        metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics.registry = c.registry;
        metrics.described = c.described.into();
        metrics
    }

    /// Adds a batch's outcomes.
    pub fn add(&self, tally: &mut Tally) {
        for (outcome, reason, count) in tally.drain() {
            self.inputs.with_label_values(&[outcome.name(), reason]).inc_by(count);
        }
    }

    /// What `/metrics` answers with: the Prometheus text format, process metrics included.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Every metric in the order of the fields, and `schemas/metrics.md` from it.
    pub fn reference(&self) -> String {
        let mut text = String::from(REFERENCE_HEAD);
        for metric in self.described.iter() {
            let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | {} | {} |",
                metric.name,
                metric.kind,
                metric.unit(),
                labels,
                metric.help
            );
        }
        text.push_str(REFERENCE_FOOT);
        text
    }
}

/// The wall clock, since 1970: for what says when something happened. No row depends on it.
#[expect(
    clippy::disallowed_methods,
    reason = "telemetry, the live page, and what a user asks for at the edge of the program"
)]
pub fn unix_now() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// The same as gauges have it.
pub fn unix_seconds() -> f64 {
    unix_now().as_secs_f64()
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// One time series of a metric as it stands: for the live page, the progress line and the summary, which show what `/metrics` shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    labels: Vec<(String, String)>,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// The value of a label; empty if it has none of that name.
    pub fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| label == name).map_or("", |(_, value)| value)
    }
}

/// All time series of a counter or gauge, ordered by their labels.
pub fn samples(metric: &impl Collector) -> Vec<Sample> {
    let mut samples: Vec<Sample> = metric
        .collect()
        .iter()
        .flat_map(|family| family.get_metric())
        .map(|metric| Sample {
            labels: metric.get_label().iter().map(|pair| (pair.name().to_owned(), pair.value().to_owned())).collect(),
            // A metric is one or the other; the one that it is not reads 0.
            value: metric.get_counter().get_value() + metric.get_gauge().get_value(),
        })
        .collect();
    // The vectors iterate in the order of a hash.
    samples.sort_by(|a, b| a.labels.cmp(&b.labels));
    samples
}

/// The sum over all time series of a counter or gauge.
pub fn total(metric: &impl Collector) -> f64 {
    samples(metric).iter().fold(0.0, |sum, sample| sum + sample.value)
}

/// Histograms double their bucket's bound this often: from 5 ms up to 41 s, from 10 ms up to 82 s.
const HISTOGRAM_BUCKETS: usize = 14;

const REFERENCE_HEAD: &str = "\
# Metrics

Written by a test from `src/runtime/metrics.rs` (`UPDATE_EXPECT=1 cargo test --lib metrics`); do not edit.

Every metric of `/metrics` in the order of the graph. Labels are bounded: never a patient, never text from a message.
A metric with labels appears with its first value. Ages are not exported: subtract a timestamp from `time()`.

| name | type | unit | labels | meaning |
|---|---|---|---|---|
";

const REFERENCE_FOOT: &str = "
On Linux the usual `process_*` metrics (CPU seconds, resident and virtual bytes, open files, threads, start time) stand beside these.
";

/// What a metric is, for the reference.
#[derive(Clone, Debug)]
struct Described {
    name: String,
    kind: &'static str,
    labels: Vec<&'static str>,
    help: &'static str,
}

impl Described {
    /// The unit that the name ends in.
    fn unit(&self) -> &'static str {
        let name = self.name.strip_suffix("_total").unwrap_or(&self.name);
        if name.ends_with("_timestamp_seconds") {
            "seconds since 1970"
        } else if name.ends_with("_seconds") {
            "seconds"
        } else if name.ends_with("_bytes") {
            "bytes"
        } else if name.ends_with("_info") {
            "1"
        } else if name.ends_with("_records") {
            "records"
        } else if name.ends_with("_psi") {
            "index, from 0"
        } else if name.ends_with("_js") {
            "distance, 0 to 1"
        } else if name.ends_with("_epoch") {
            "epoch number"
        } else if name.ends_with("_offset") {
            "offset"
        } else if name.ends_with("_pressure") {
            "level, 0 to 2"
        } else {
            "count"
        }
    }
}

/// Registers and describes in one go, so that the reference cannot leave one out.
#[derive(Default)]
struct Catalogue {
    registry: Registry,
    described: Vec<Described>,
}

impl Catalogue {
    fn note<const N: usize>(
        &mut self,
        kind: &'static str,
        name: &str,
        help: &'static str,
        labels: &[&'static str; N],
    ) -> Opts {
        let name = format!("windkessel_{name}");
        self.described.push(Described { name: name.clone(), kind, labels: labels.to_vec(), help });
        Opts::new(name, help)
    }

    fn register<M: Collector + Clone + 'static>(&self, metric: prometheus::Result<M>) -> M {
        let metric = metric.expect("valid by the test that registers all");
        self.registry.register(Box::new(metric.clone())).expect("every name is registered once");
        metric
    }

    fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &'static str,
        labels: &[&'static str; N],
    ) -> IntCounterVec {
        let opts = self.note("counter", name, help, labels);
        self.register(IntCounterVec::new(opts, labels))
    }

    fn float_counters<const N: usize>(
        &mut self,
        name: &str,
        help: &'static str,
        labels: &[&'static str; N],
    ) -> CounterVec {
        let opts = self.note("counter", name, help, labels);
        self.register(CounterVec::new(opts, labels))
    }

    fn gauges<const N: usize>(&mut self, name: &str, help: &'static str, labels: &[&'static str; N]) -> IntGaugeVec {
        let opts = self.note("gauge", name, help, labels);
        self.register(IntGaugeVec::new(opts, labels))
    }

    fn float_gauges<const N: usize>(&mut self, name: &str, help: &'static str, labels: &[&'static str; N]) -> GaugeVec {
        let opts = self.note("gauge", name, help, labels);
        self.register(GaugeVec::new(opts, labels))
    }

    fn histograms<const N: usize>(
        &mut self,
        name: &str,
        help: &'static str,
        first_seconds: f64,
        labels: &[&'static str; N],
    ) -> HistogramVec {
        let opts = self.note("histogram", name, help, labels);
        self.register(HistogramVec::new(buckets(opts, first_seconds), labels))
    }

    fn counter(&mut self, name: &str, help: &'static str) -> IntCounter {
        let opts = self.note("counter", name, help, &[]);
        self.register(IntCounter::with_opts(opts))
    }

    fn gauge(&mut self, name: &str, help: &'static str) -> IntGauge {
        let opts = self.note("gauge", name, help, &[]);
        self.register(IntGauge::with_opts(opts))
    }

    fn float_gauge(&mut self, name: &str, help: &'static str) -> Gauge {
        let opts = self.note("gauge", name, help, &[]);
        self.register(Gauge::with_opts(opts))
    }

    fn histogram(&mut self, name: &str, help: &'static str) -> Histogram {
        let opts = self.note("histogram", name, help, &[]);
        self.register(Histogram::with_opts(buckets(opts, 0.005)))
    }
}

fn buckets(opts: Opts, first_seconds: f64) -> HistogramOpts {
    let bounds = prometheus::exponential_buckets(first_seconds, 2.0, HISTOGRAM_BUCKETS)
        .expect("positive start, factor above one, at least one bucket");
    HistogramOpts::from(opts).buckets(bounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_lists_every_metric() {
        expect_test::expect_file![concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/metrics.md")]
            .assert_eq(&Metrics::new().reference());
    }

    #[test]
    fn every_registered_metric_is_in_the_reference() {
        let metrics = Metrics::new();
        let reference = metrics.reference();
        for family in metrics.registry().gather() {
            let name = family.name();
            assert!(name.starts_with("process_") || reference.contains(&format!("| `{name}` |")), "{name}");
        }
    }

    #[test]
    fn samples_come_in_the_order_of_their_labels() {
        let metrics = Metrics::new();
        for (partition, lag) in [("2", 7), ("0", 5), ("1", 0)] {
            metrics.source_lag.with_label_values(&["bp-obs", partition]).set(lag);
        }
        let seen: Vec<_> =
            samples(&metrics.source_lag).iter().map(|s| (s.label("partition").to_owned(), s.value)).collect();
        assert_eq!(seen, [("0".to_owned(), 5.0), ("1".to_owned(), 0.0), ("2".to_owned(), 7.0)]);
        assert_eq!(total(&metrics.source_lag), 12.0);
    }
}
