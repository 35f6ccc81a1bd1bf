//! The two machines as the operators drive them: with metrics, and with what to do at a start from saved state.
//!
//! ```text
//! start: Counting ──all it had told──> arrange ─> reduce ──all comparisons, again──> Publishing: published before, not again
//! ```
//!
//! Invariant: the epoch of the put-back is below every other, and holds nothing else. What differential makes of it is, comparison for
//! comparison, what stood when the state was saved: on every worker [`Counting`] puts its share back, and the arrangement adds them up.

use std::sync::Arc;

use crate::audit::compare::Exact;
use crate::audit::counts::{self, Counts, Dropped};
use crate::audit::epochs::ByEpoch;
use crate::audit::publish::{Published, Publisher};
use crate::audit::{Change, Update};
use crate::runtime::metrics::Metrics;
use crate::runtime::survive::{Blocks, Corrupt, Extent, Survive};
use crate::time::Epoch;
use crate::vocabulary::findings::Finding;
use crate::vocabulary::{Assessed, Tick};

/// [`Counts`], and what it dropped as metrics.
pub(super) struct Counting {
    counts: Counts,
    updates: Vec<counts::Update>,
    metrics: Metrics,
}

impl Counting {
    pub(super) fn new(counts: Counts, metrics: Metrics) -> Self {
        Counting { counts, updates: Vec::new(), metrics }
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
    }
}

impl Survive for Counting {
    fn save(&mut self, extent: Extent, into: &mut Blocks) {
        self.counts.save(extent, into);
    }

    fn load(&mut self, block: &[u8]) -> Result<(), Corrupt> {
        self.counts.load(block)
    }

    fn loaded(&mut self) {
        self.counts.loaded();
    }
}

/// [`Publisher`], and the gauges of the newest windows.
pub(super) struct Publishing {
    publisher: Publisher,
    metrics: Metrics,
    /// The epoch whose comparisons were published before the start.
    restored: Option<Epoch>,
}

impl Publishing {
    pub(super) fn new(publisher: Publisher, metrics: Metrics) -> Self {
        Publishing { publisher, metrics, restored: None }
    }

    /// Sets the gauges of a series; without a statistic they are absent rather than stale.
    fn show(&self, feature: &str, group: &str, psi: Option<f64>, jensen_shannon: Option<f64>) {
        for (gauge, value) in [(&self.metrics.drift_psi, psi), (&self.metrics.drift_js, jensen_shannon)] {
            match value {
                Some(value) => gauge.with_label_values(&[feature, group]).set(value),
                // An error only says that the gauge was not there.
                None => drop(gauge.remove_label_values(&[feature, group])),
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
            let (psi, jensen_shannon) = (newest.psi.map(Exact::into), newest.jensen_shannon.map(Exact::into));
            self.show(series.feature(), series.group(), psi, jensen_shannon);
        }
    }

    fn apply(&mut self, epoch: Epoch, changes: Vec<Change>, ticks: Vec<Tick>, emit: &mut Vec<Finding>) {
        if self.restored == Some(epoch) {
            debug_assert!(ticks.is_empty(), "the epoch of the put-back is below those of all sources");
            return;
        }
        let changes = changes.into_iter().map(|(comparison, _, diff)| (comparison, diff));
        for Published { shift, newest } in self.publisher.advance(changes, &ticks) {
            if newest {
                self.show(shift.feature, &shift.group, shift.statistics.psi, shift.statistics.jensen_shannon);
            }
            emit.push(Finding::Shift(shift));
        }
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
