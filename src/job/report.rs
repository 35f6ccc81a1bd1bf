//! What a run says when it has ended.

use std::time::Duration;

use crate::graph::Plan;
use crate::runtime::http::ServerHandle;
use crate::runtime::metrics::Metrics;
use crate::runtime::progress;
use crate::runtime::stop::Stop;
use crate::runtime::summary::{self, Glyphs, Ran, Usage};

/// What came of a job.
pub struct Report {
    pub(super) plan: Plan,
    pub(super) elapsed: Duration,
    pub(super) cut_short: bool,
    /// Which process of how many.
    pub(super) part: Option<(usize, usize)>,
    pub(super) server: Option<ServerHandle>,
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
