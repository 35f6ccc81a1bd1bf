//! Whether the workers live, and whether the run can take work.
//!
//! *Alive*: every worker has stepped within [`SILENCE_MAX`]; one that does not is stuck, and a supervisor may restart the process.
//! *Ready*: all workers have joined, every share of the source is assigned, no sink has been blocked longer than [`BLOCKED_MAX`],
//! and the run is not being drained. Not ready is no reason to restart: a destination that is down does not come back by it.
//!
//! Invariants: a tick is one clock reading and one relaxed store; a worker that has not ticked yet is starting (restoring state can take
//! minutes), which is alive and not ready; the clock is injected, so that tests need not wait.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::runtime::metrics::{Metrics, samples};
use crate::sink::BESIDE;

/// A worker that has not stepped for this long is stuck.
pub const SILENCE_MAX: Duration = Duration::from_secs(5);
/// A sink that has waited for its destination this long makes the run unready.
pub const BLOCKED_MAX: Duration = Duration::from_secs(30);

/// A clock that only goes forward; its zero is arbitrary.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Clock {
    /// The system's monotonic clock.
    pub fn monotonic() -> Self {
        let start = Instant::now();
        Clock(Arc::new(move || start.elapsed()))
    }

    /// Any other.
    pub fn from_fn(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Clock(Arc::new(now))
    }

    fn now(&self) -> Duration {
        (self.0)()
    }
}

/// Shared by the workers, which report, and the HTTP server, which answers.
pub struct Health {
    clock: Clock,
    workers: Box<[Worker]>,
    joined: AtomicBool,
    blocked: Mutex<BTreeMap<String, Duration>>,
}

#[derive(Default)]
struct Worker {
    /// Milliseconds of the clock, plus one; 0 before the first.
    ticked: AtomicU64,
    assigned: AtomicBool,
    ended: AtomicBool,
}

/// What is wrong, for a human and for a script.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// `worker`, `joined`, `source`, `sink` or `draining`.
    pub check: &'static str,
    /// One sentence, without values from messages.
    pub reason: String,
}

impl Health {
    /// For this process's workers, by the system's clock.
    pub fn new(workers: usize) -> Arc<Health> {
        Self::with_clock(workers, Clock::monotonic())
    }

    /// For this process's workers, by another clock.
    pub fn with_clock(workers: usize, clock: Clock) -> Arc<Health> {
        let workers = (0..workers).map(|_| Worker::default()).collect();
        Arc::new(Health { clock, workers, joined: AtomicBool::new(false), blocked: Mutex::default() })
    }

    /// Worker `index` (of this process, from 0) has stepped. Called in every turn of its loop, and while it restores state.
    pub fn tick(&self, index: usize) {
        let millis = self.clock.now().as_millis() as u64;
        self.workers[index].ticked.store(millis + 1, Ordering::Relaxed);
    }

    /// All processes of the run have found each other.
    pub fn joined(&self) {
        self.joined.store(true, Ordering::Relaxed);
    }

    /// Worker `index` knows its share of the source and where to begin.
    pub fn assigned(&self, index: usize) {
        self.workers[index].assigned.store(true, Ordering::Relaxed);
    }

    /// Worker `index` has finished its work: it will tick no more.
    pub fn ended(&self, index: usize) {
        self.workers[index].ended.store(true, Ordering::Relaxed);
    }

    /// Why the process should be restarted; empty while all is well.
    pub fn stuck(&self) -> Vec<Problem> {
        let problem = |(index, silence): (usize, Duration)| Problem {
            check: "worker",
            reason: format!("worker {index} has not stepped for {} s", silence.as_secs()),
        };
        self.silent(SILENCE_MAX).map(problem).collect()
    }

    /// Workers that have begun and not ended, and have not stepped for longer than `limit`; and for how long.
    pub fn silent(&self, limit: Duration) -> impl Iterator<Item = (usize, Duration)> {
        let now = self.clock.now().as_millis() as u64;
        let silent = move |(index, worker): (usize, &Worker)| {
            let ticked = worker.ticked.load(Ordering::Relaxed).checked_sub(1)?;
            let silence = Duration::from_millis(now.saturating_sub(ticked));
            (silence > limit && !worker.ended.load(Ordering::Relaxed)).then_some((index, silence))
        };
        self.workers.iter().enumerate().filter_map(silent)
    }

    /// Why no work can be taken; empty when ready. `draining`: the run was asked to end.
    pub fn unready(&self, metrics: &Metrics, draining: bool) -> Vec<Problem> {
        let mut problems = self.stuck();
        let mut add = |check, reason: String| problems.push(Problem { check, reason });
        if !self.joined.load(Ordering::Relaxed) {
            add("joined", "the processes have not all joined".into());
        }
        let unassigned = self.workers.iter().filter(|worker| !worker.assigned.load(Ordering::Relaxed)).count();
        if unassigned > 0 {
            add("source", format!("{unassigned} of {} workers have no share of the source yet", self.workers.len()));
        }
        for (sink, blocked) in self.observe(metrics) {
            if blocked > BLOCKED_MAX {
                add("sink", format!("sink {sink:?} has waited for its destination for {} s", blocked.as_secs()));
            }
        }
        if draining {
            add("draining", "the run was asked to end".into());
        }
        problems
    }

    /// Looks which sinks wait now and answers since how long. Called once a second, so that the answer is right to a second.
    pub(super) fn observe(&self, metrics: &Metrics) -> BTreeMap<String, Duration> {
        let now = self.clock.now();
        let mut blocked = self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting: Vec<String> = samples(&metrics.sink_waiting)
            .iter()
            .filter(|sample| sample.value > 0.0 && !BESIDE.contains(&sample.label("sink")))
            .map(|sample| sample.label("sink").to_owned())
            .collect();
        blocked.retain(|sink, _| waiting.contains(sink));
        for sink in waiting {
            blocked.entry(sink).or_insert(now);
        }
        blocked.iter().map(|(sink, since)| (sink.clone(), now.saturating_sub(*since))).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A clock that tests set.
    pub(in crate::runtime::http) fn manual() -> (Arc<AtomicU64>, Clock) {
        let millis = Arc::new(AtomicU64::new(0));
        let read = millis.clone();
        (millis, Clock::from_fn(move || Duration::from_millis(read.load(Ordering::Relaxed))))
    }

    #[test]
    fn a_worker_is_stuck_after_five_seconds_and_not_before() {
        let (clock, read) = manual();
        let health = Health::with_clock(2, read);
        assert_eq!(health.stuck(), [], "starting is alive");
        health.tick(0);
        health.tick(1);
        clock.store(5_000, Ordering::Relaxed);
        assert_eq!(health.stuck(), []);
        health.tick(1);
        clock.store(5_001, Ordering::Relaxed);
        let reason = "worker 0 has not stepped for 5 s".to_owned();
        assert_eq!(health.stuck(), [Problem { check: "worker", reason }]);
        health.ended(0);
        assert_eq!(health.stuck(), []);
    }

    #[test]
    fn a_run_is_ready_once_joined_and_assigned() {
        let (metrics, health) = (Metrics::new(), Health::with_clock(2, manual().1));
        let checks = |draining| health.unready(&metrics, draining).iter().map(|p| p.check).collect::<Vec<_>>();
        assert_eq!(checks(false), ["joined", "source"]);
        health.joined();
        health.assigned(0);
        assert_eq!(checks(false), ["source"]);
        health.assigned(1);
        assert_eq!(checks(false), [] as [&str; 0]);
        assert_eq!(checks(true), ["draining"]);
    }

    #[test]
    fn a_sink_may_wait_thirty_seconds_each_time() {
        let (clock, read) = manual();
        let (metrics, health) = (Metrics::new(), Health::with_clock(0, read));
        health.joined();
        let waiting = metrics.sink_waiting.with_label_values(&["elasticsearch"]);
        let ready_at = |seconds: u64| {
            clock.store(seconds * 1_000, Ordering::Relaxed);
            health.unready(&metrics, false).is_empty()
        };
        waiting.set(1);
        assert!(ready_at(10) && ready_at(40));
        assert!(!ready_at(41));
        waiting.set(0);
        assert!(ready_at(42));
        waiting.set(1);
        assert!(ready_at(43) && ready_at(73));
        assert!(!ready_at(74));
    }
}
