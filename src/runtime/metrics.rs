//! Every metric, defined once. `schemas/metrics.md` is generated from here and a test compares.
//!
//! Labels are bounded: stage, sink, topic, partition, reason. Never a patient, never text from a message.
//! Counters are added to once a batch, never once a record.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::vocabulary::Tally;

/// All metrics of a process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
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
    /// Leniencies applied: `leniency`.
    pub leniencies: IntCounterVec,
    /// Late readings: `disposition` = `reopened` or `late`.
    pub late_readings: IntCounterVec,
    /// Busy time: `stage`.
    pub stage_busy: prometheus::CounterVec,
    /// Records into a stage: `stage`.
    pub stage_records: IntCounterVec,
    /// Readings by category: `category`.
    pub readings: IntCounterVec,
    /// Alarms by reason: `reason`.
    pub alarms: IntCounterVec,
    /// Patients in state.
    pub patients: IntGauge,
    /// Contributions kept for correction.
    pub contributions: IntGauge,
    /// Windows emitted: `revision` = `first` or `revised`.
    pub windows: IntCounterVec,
    /// Drift: `feature`, `group`.
    pub drift_psi: GaugeVec,
    /// Drift: `feature`, `group`.
    pub drift_js: GaugeVec,
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
    /// Unix time of the last success: `sink`.
    pub sink_last_success: GaugeVec,
    /// 1 while a sink waits for its destination: `sink`.
    pub sink_waiting: IntGaugeVec,
    /// Seconds from the broker's timestamp to a settled row: `sink`.
    pub ingest_to_sink: HistogramVec,
    /// The epoch that every sink has settled.
    pub settled_epoch: IntGauge,
    /// Epochs under way.
    pub inflight_epochs: IntGauge,
    /// Bytes read and not yet settled.
    pub inflight_bytes: IntGauge,
    /// Seconds that an epoch takes from closing to settled.
    pub epoch_seconds: Histogram,
    /// `version`, `commit`; always 1.
    pub build_info: IntGaugeVec,
    /// Unix time of the start.
    pub start_time: Gauge,
}

impl Metrics {
    /// Registers every metric once.
    pub fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        Metrics {
            inputs: counters(r, "inputs_total", "Inputs by where they ended, exactly one each", &["outcome", "reason"]),
            source_records: counters(r, "source_records_total", "Records read", &["topic", "partition"]),
            source_bytes: counters(r, "source_bytes_total", "Bytes of records read", &["topic", "partition"]),
            source_lag: gauges(r, "source_lag_records", "Records known to wait in the source", &["topic", "partition"]),
            source_watermark: float_gauges(
                r,
                "source_watermark_timestamp_seconds",
                "Event time that a partition has reached",
                &["topic", "partition"],
            ),
            leniencies: counters(r, "decode_leniencies_total", "Deviations that were overlooked", &["leniency"]),
            late_readings: counters(
                r,
                "late_records_total",
                "Readings behind their partition's watermark",
                &["disposition"],
            ),
            stage_busy: {
                let metric = prometheus::CounterVec::new(
                    opts("operator_busy_seconds_total", "Time that a stage was at work"),
                    &["operator"],
                )
                .expect("valid by the test that registers all");
                register(r, metric)
            },
            stage_records: counters(r, "operator_records_in_total", "Records into a stage", &["operator"]),
            readings: counters(r, "readings_total", "Readings by category", &["category"]),
            alarms: counters(r, "alerts_total", "Alarms raised, by rule", &["reason"]),
            patients: gauge(r, "patients", "Patients held in state"),
            contributions: gauge(r, "contributions", "Contributions kept so that they can be corrected"),
            windows: counters(r, "windows_total", "Windows emitted", &["revision"]),
            drift_psi: float_gauges(
                r,
                "drift_psi",
                "Population stability index of the newest closed window",
                &["feature", "group"],
            ),
            drift_js: float_gauges(
                r,
                "drift_js",
                "Jensen-Shannon distance of the newest closed window",
                &["feature", "group"],
            ),
            drift_dropped: counters(
                r,
                "drift_dropped_total",
                "Readings and withdrawals for windows that drift statistics have forgotten",
                &["kind"],
            ),
            model_info: gauges(r, "model_info", "The model in use; 0 while rules run alone", &["model", "kind"]),
            sink_records: counters(r, "sink_records_total", "Rows settled", &["sink", "table"]),
            sink_bytes: counters(r, "sink_bytes_total", "Bytes written", &["sink"]),
            sink_batches: counters(r, "sink_batches_total", "Requests sent or files finished", &["sink"]),
            sink_retries: counters(r, "sink_retries_total", "Requests or items sent again", &["sink"]),
            sink_rejected_items: counters(
                r,
                "sink_rejected_items_total",
                "Items refused for good by the destination",
                &["sink", "reason"],
            ),
            sink_last_success: float_gauges(
                r,
                "sink_last_success_timestamp_seconds",
                "When the sink last settled something",
                &["sink"],
            ),
            sink_waiting: gauges(r, "sink_waiting", "1 while the sink waits for its destination", &["sink"]),
            ingest_to_sink: {
                let options =
                    HistogramOpts::new("windkessel_ingest_to_sink_seconds", "Broker timestamp to settled row").buckets(
                        prometheus::exponential_buckets(0.01, 2.0, 14).expect("valid by the test that registers all"),
                    );
                register(r, HistogramVec::new(options, &["sink"]).expect("valid by the test that registers all"))
            },
            settled_epoch: gauge(r, "settled_epoch", "The newest epoch that every sink has settled"),
            inflight_epochs: gauge(r, "inflight_epochs", "Epochs read and not yet settled"),
            inflight_bytes: gauge(r, "inflight_bytes", "Bytes read and not yet settled"),
            epoch_seconds: {
                let options = HistogramOpts::new(
                    "windkessel_epoch_seconds",
                    "From the close of an epoch until every sink has settled it",
                )
                .buckets(
                    prometheus::exponential_buckets(0.005, 2.0, 14).expect("valid by the test that registers all"),
                );
                register(r, Histogram::with_opts(options).expect("valid by the test that registers all"))
            },
            build_info: gauges(r, "build_info", "Version of this binary; always 1", &["version"]),
            start_time: {
                register(
                    r,
                    Gauge::with_opts(opts("start_timestamp_seconds", "When the process started"))
                        .expect("valid by the test that registers all"),
                )
            },
            registry,
        }
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
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("windkessel_{name}"), help)
}

fn register<M: prometheus::core::Collector + Clone + 'static>(registry: &Registry, metric: M) -> M {
    registry.register(Box::new(metric.clone())).expect("every name is registered once");
    metric
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(opts(name, help), labels).expect("valid by the test that registers all"))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(registry, IntGaugeVec::new(opts(name, help), labels).expect("valid by the test that registers all"))
}

fn float_gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    register(registry, GaugeVec::new(opts(name, help), labels).expect("valid by the test that registers all"))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::with_opts(opts(name, help)).expect("valid by the test that registers all"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_metric_registers_once() {
        let _ = super::Metrics::new();
    }
}
