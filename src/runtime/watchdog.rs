//! Ends a process of a cluster that no longer gets on, so that a supervisor starts all of them again. Timely would wait for ever.
//!
//! | what is seen | what it means | exit code |
//! |---|---|---|
//! | the watchdog itself did not run for `cluster.silence_seconds` | this process was stopped; the others have gone on without it | 70 |
//! | a worker has not stepped for as long | it is stuck | 70 |
//! | a process was not heard of for as long | it was stopped, or the network is gone | 70 |
//! | epochs under way, none settled for `cluster.stall_seconds`, and no sink waits, here or elsewhere | something is stuck that nobody knows | 70 |
//! | the run has failed, and does not end within [`END_MAX`] | a worker is too stuck to leave | that of the failure |
//!
//! Invariants: [`Watch`] decides over facts that were read, with the time as an argument; a sink that waits for its destination never ends a run, however long.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::cluster::Peers;
use super::cluster::peers::{Silent, was_stopped};
use super::failure::{Cause, Failure};
use super::http::Health;
use super::metrics::{Metrics, Sample, samples};
use crate::config::ClusterSpec;
use crate::sink::BESIDE;

/// After a failure a run ends by itself in less.
const END_MAX: Duration = Duration::from_secs(2);

/// Looks so often, or ten times in `cluster.silence_seconds`.
const LOOK_EVERY_MAX: Duration = Duration::from_millis(100);

/// What is seen in one look.
#[derive(Clone, Debug, Default)]
struct Facts {
    worker: Option<(usize, Duration)>,
    peer: Option<Silent>,
    settled: i64,
    under_way: i64,
    waits: bool,
}

/// What was seen before.
struct Watch {
    silence: Duration,
    stall: Duration,
    last: Duration,
    settled: i64,
    moved: Duration,
}

impl Watch {
    fn new(spec: &ClusterSpec) -> Self {
        let (silence, stall) = (Duration::from_secs(spec.silence_seconds), Duration::from_secs(spec.stall_seconds));
        Watch { silence, stall, last: Duration::ZERO, settled: 0, moved: Duration::ZERO }
    }

    /// Why the process is to end, if it is.
    fn look(&mut self, now: Duration, facts: &Facts) -> Option<String> {
        let gap = now.saturating_sub(std::mem::replace(&mut self.last, now));
        if facts.settled != self.settled || facts.under_way == 0 || facts.waits {
            (self.settled, self.moved) = (facts.settled, now);
        }
        let stalled = now.saturating_sub(self.moved);
        if gap > self.silence {
            return Some(was_stopped(gap));
        }
        if let Some((worker, silence)) = facts.worker {
            return Some(format!("worker {worker} of this process has not stepped for {} s", silence.as_secs()));
        }
        if let Some(Silent { name, silence }) = &facts.peer {
            return Some(format!(
                "{name} of the cluster was not heard of for {:.1} s: it was stopped, or cannot be reached",
                silence.as_secs_f64()
            ));
        }
        (stalled > self.stall).then(|| {
            format!(
                "{} epochs are under way, none was settled for {} s, and no sink waits",
                facts.under_way,
                stalled.as_secs()
            )
        })
    }
}

/// The thread. Dropped when the run has ended.
pub struct Watchdog {
    _running: Sender<()>,
}

impl Watchdog {
    /// Starts it.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(
        spec: &ClusterSpec,
        peers: Peers,
        health: Arc<Health>,
        metrics: Metrics,
        failure: Failure,
    ) -> std::io::Result<Watchdog> {
        let (running, ended) = channel::<()>();
        let mut watch = Watch::new(spec);
        let silence = watch.silence;
        let every = (silence / 10).min(LOOK_EVERY_MAX);
        std::thread::Builder::new().name("watchdog".into()).spawn(move || {
            let begun = Instant::now();
            let mut failed = None;
            // Nothing is ever sent: the channel closes when the run has ended.
            while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                let facts = Facts {
                    worker: health.silent(silence).next(),
                    peer: peers.silent().next(),
                    settled: metrics.settled_epoch.get(),
                    under_way: metrics.inflight_epochs.get(),
                    waits: waits(&metrics) || peers.wait_for_the_outside(),
                };
                if let Some(why) = watch.look(begun.elapsed(), &facts) {
                    failure.report_as(Cause::Stuck, format!("gave up: {why}"));
                }
                // After the report: who finds a connection broken asks whether this process was stopped.
                peers.looked();
                let Some(reported) = failure.reported() else { continue };
                if failed.get_or_insert_with(Instant::now).elapsed() > END_MAX {
                    crate::cli::eprint_line(&format!("windkessel: {}", reported.text));
                    std::process::exit(reported.cause.exit_code().into());
                }
            }
        })?;
        Ok(Watchdog { _running: running })
    }
}

/// True if a sink, or the log, waits for the outside.
pub fn waits(metrics: &Metrics) -> bool {
    let holds_up = |sample: &Sample| sample.value > 0.0 && !BESIDE.contains(&sample.label("sink"));
    metrics.epoch_log_waiting.get() > 0 || samples(&metrics.sink_waiting).iter().any(holds_up)
}

#[cfg(test)]
mod tests {
    //! Proves when a process is given up, to the second.
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn watch() -> Watch {
        Watch::new(&ClusterSpec { silence_seconds: 5, stall_seconds: 30 })
    }

    /// Looks every second from `from` on; when it was given up, and why.
    fn until(watch: &mut Watch, from: u32, to: u32, facts: impl Fn(u32) -> Facts) -> Option<(u32, String)> {
        (from..=to).find_map(|second| Some((second, watch.look(SECOND * second, &facts(second))?)))
    }

    #[test]
    fn a_stalled_frontier_is_given_up_after_thirty_seconds_unless_a_sink_waits_or_nothing_is_under_way() {
        let stalled = |_| Facts { settled: 7, under_way: 2, ..Facts::default() };
        let (second, why) = until(&mut watch(), 1, 100, stalled).unwrap();
        assert_eq!(second, 32, "seen first after one second");
        assert!(why.contains("2 epochs are under way, none was settled for 31 s"), "{why}");
        assert_eq!(until(&mut watch(), 1, 100, |_| Facts { waits: true, ..stalled(0) }), None);
        assert_eq!(until(&mut watch(), 1, 100, |_| Facts { under_way: 0, ..stalled(0) }), None);
        assert_eq!(until(&mut watch(), 1, 100, |second| Facts { settled: i64::from(second / 30), ..stalled(0) }), None);
        let waited = |second| Facts { waits: second <= 50, ..stalled(0) };
        assert_eq!(
            until(&mut watch(), 1, 100, waited).map(|(second, _)| second),
            Some(81),
            "from the end of the wait on"
        );
    }

    #[test]
    fn one_that_was_stopped_says_so_rather_than_that_the_others_are_silent() {
        let mut watch = watch();
        let quiet = Silent { name: "process 1 (b:1)".into(), silence: 9 * SECOND };
        let facts = Facts { peer: Some(quiet), worker: Some((0, 9 * SECOND)), ..Facts::default() };
        assert_eq!(watch.look(SECOND, &Facts::default()), None);
        assert_eq!(watch.look(6 * SECOND, &Facts::default()), None);
        assert!(watch.look(12 * SECOND, &facts).unwrap().contains("was stopped for 6.0 s"));
        assert!(watch.look(13 * SECOND, &facts).unwrap().contains("worker 0"));
        assert!(watch.look(14 * SECOND, &Facts { worker: None, ..facts }).unwrap().contains("process 1 (b:1)"));
    }
}
