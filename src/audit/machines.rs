//! The two machines as the operators drive them: with metrics, and with what to do at a start from saved state.
//!
//! ```text
//! start: Counting ──all it had told──> arrange ─> reduce ──all comparisons, again──> Publishing: published before, not again
//! ```
//!
//! Invariant: the epoch of the put-back is below every other, and holds nothing else. What differential makes of it is, comparison for
//! comparison, what stood when the state was saved: on every worker [`Counting`] puts its share back, and the arrangement adds them up.

use std::sync::Arc;

use prometheus::GaugeVec;

use crate::audit::counts::{self, Counts, Dropped};
use crate::audit::epochs::ByEpoch;
use crate::audit::publish::{Newest, Published, Publisher, about, part};
use crate::audit::quality;
use crate::audit::series::{Kind, Series};
use crate::audit::{Change, Update};
use crate::runtime::metrics::Metrics;
use crate::runtime::survive::{Blocks, Corrupt, Extent, Survive};
use crate::source::Topics;
use crate::time::Epoch;
use crate::vocabulary::findings::{Finding, Part};
use crate::vocabulary::flaws::{Flaw, MEASURES};
use crate::vocabulary::{Assessed, Tick};

/// [`Counts`], and what it dropped as metrics.
pub(super) struct Counting {
    counts: Counts,
    updates: Vec<counts::Update>,
    metrics: Metrics,
    held_bytes: i64,
}

impl Counting {
    pub(super) fn new(counts: Counts, metrics: Metrics) -> Self {
        Counting { counts, updates: Vec::new(), metrics, held_bytes: 0 }
    }
}

impl ByEpoch for Counting {
    type Left = Arc<Assessed>;
    type Right = Tick;
    type Output = Update;

    fn first(&mut self, epoch: Epoch, emit: &mut Vec<Update>) {
        self.counts.put_back(&mut self.updates);
        emit.extend(self.updates.drain(..).map(|(key, histogram)| (key, epoch, histogram)));
    }

    fn apply(&mut self, epoch: Epoch, batches: Vec<Arc<Assessed>>, ticks: Vec<Tick>, emit: &mut Vec<Update>) {
        let Dropped { readings, withdrawals } =
            self.counts.advance(batches.iter().map(|batch| &**batch), &ticks, &mut self.updates);
        for (kind, count) in [("reading", readings), ("withdrawal", withdrawals)] {
            if count > 0 {
                self.metrics.drift_dropped.with_label_values(&[kind]).inc_by(count);
            }
        }
        emit.extend(self.updates.drain(..).map(|(key, histogram)| (key, epoch, histogram)));
        self.metrics.add(&mut self.counts.endings());
        // The gauge adds up the workers of a process.
        let held = self.counts.held_bytes() as i64;
        self.metrics.audit_held_bytes.add(held - std::mem::replace(&mut self.held_bytes, held));
    }
}

impl Survive for Counting {
    fn save(&mut self, extent: Extent, into: &mut Blocks) {
        self.counts.save(extent, into);
    }

    fn load(&mut self, block: &[u8]) -> Result<(), Corrupt> {
        self.counts.load(block)
    }

    fn expect(&mut self, times: f64) {
        self.counts.expect(times);
    }

    fn loaded(&mut self) {
        self.counts.loaded();
    }
}

/// [`Publisher`], and the gauges of the newest windows.
pub(super) struct Publishing {
    publisher: Publisher,
    metrics: Metrics,
    topics: Topics,
    /// The epoch whose comparisons were published before the start.
    restored: Option<Epoch>,
}

impl Publishing {
    pub(super) fn new(publisher: Publisher, metrics: Metrics) -> Self {
        Publishing { publisher, metrics, topics: Topics::default(), restored: None }
    }

    /// The same, with names for topics: without one the gauges show nothing of it.
    pub(super) fn with_topics(self, topics: Topics) -> Self {
        Publishing { topics, ..self }
    }

    /// Sets what is shown of a series that has something to show.
    fn show_series(&self, series: Series, newest: &Newest) {
        let Some(part) = self.part_name(series) else { return };
        match series.kind() {
            Kind::Quality(_, measure) => {
                set(&self.metrics.quality_rate, &[part, MEASURES[measure]], newest.statistics[0]);
            }
            kind => {
                if let Some(feature) = kind.feature() {
                    self.show(feature.name, part, newest);
                }
            }
        }
    }

    /// What gauges call the group or topic of a series; `None` of what they do not show: readings, which are no flaw, and topics without a name.
    fn part_name(&self, series: Series) -> Option<&str> {
        if matches!(series.kind(), Kind::Quality(_, measure) if measure == Flaw::Readings as usize) {
            return None;
        }
        match part(series) {
            Part::Group(group) => Some(group),
            Part::Topic(topic) if topic.is_none_or(|topic| self.topics.has(topic)) => {
                Some(quality::topic_name(&self.topics, topic))
            }
            Part::Topic(_) => None,
        }
    }

    /// Sets the gauges of a series; without a statistic they are absent rather than stale.
    fn show(&self, feature: &str, group: &str, newest: &Newest) {
        let Metrics { drift_psi, drift_js, drift_ks, drift_wasserstein, .. } = &self.metrics;
        for (gauge, value) in [drift_psi, drift_js, drift_ks, drift_wasserstein].into_iter().zip(newest.statistics) {
            set(gauge, &[feature, group], value);
        }
    }
}

fn set(gauge: &GaugeVec, labels: &[&str], value: Option<f64>) {
    match value {
        Some(value) => gauge.with_label_values(labels).set(value),
        // An error only says that the gauge was not there.
        None => drop(gauge.remove_label_values(labels)),
    }
}

impl Publishing {
    fn show_alerts(&self) {
        for (series, stands) in self.publisher.alerts() {
            let (table, feature) = about(series);
            if let Some(part) = self.part_name(series) {
                self.metrics.audit_alert.with_label_values(&[table, feature, part]).set(i64::from(stands));
            }
        }
    }
}

impl ByEpoch for Publishing {
    type Left = Change;
    type Right = Tick;
    type Output = Finding;

    fn first(&mut self, epoch: Epoch, _emit: &mut Vec<Finding>) {
        self.restored = Some(epoch);
        for (series, newest) in self.publisher.newest() {
            self.show_series(series, &newest);
        }
        self.show_alerts();
    }

    fn apply(&mut self, epoch: Epoch, changes: Vec<Change>, ticks: Vec<Tick>, emit: &mut Vec<Finding>) {
        let changes = changes.into_iter().map(|(comparison, _, diff)| (comparison, diff));
        if self.restored == Some(epoch) {
            debug_assert!(ticks.is_empty(), "the epoch of the put-back is below those of all sources");
            self.publisher.put_back(changes);
            return;
        }
        for Published { finding, newest } in self.publisher.advance(changes, &ticks) {
            if let Some((series, newest)) = newest {
                self.show_series(series, &newest);
            }
            emit.push(finding);
        }
        self.show_alerts();
    }
}

impl Survive for Publishing {
    fn save(&mut self, extent: Extent, into: &mut Blocks) {
        self.publisher.save(extent, into);
    }

    fn load(&mut self, block: &[u8]) -> Result<(), Corrupt> {
        self.publisher.load(block)
    }

    fn loaded(&mut self) {
        self.publisher.loaded();
    }
}
