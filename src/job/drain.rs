//! That a run which was asked to end does so, or says what holds it up.

use std::collections::BTreeSet;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::runtime::clock::EpochClock;
use crate::runtime::delivery::Progress;
use crate::runtime::failure::{Cause, Failure};
use crate::runtime::stop::Stop;
use crate::time::Epoch;

/// How often it is looked whether the run was asked to end.
const DRAIN_CHECK_EVERY: Duration = Duration::from_millis(100);

/// Watches that a run which was asked to end does so. Dropped when it has.
pub(super) struct Drain {
    _running: Sender<()>,
}

impl Drain {
    /// From `stop` on, or when another process was asked, the run has `wait`; then everything that waits is told to give up, and the run fails.
    pub(super) fn watch(
        (stop, clock): (Stop, EpochClock),
        failure: &Failure,
        progress: &[(&'static str, Progress)],
        wait: Duration,
    ) -> std::io::Result<Drain> {
        let (running, ended) = channel::<()>();
        let (failure, progress) = (failure.clone(), progress.to_vec());
        std::thread::Builder::new().name("drain".into()).spawn(move || {
            // Nothing is ever sent: the channel closes when the run has ended.
            let runs_on = |wait| ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout);
            while !stop.drain() {
                if !runs_on(DRAIN_CHECK_EVERY) {
                    return;
                }
                if clock.draining() {
                    stop.follow();
                }
            }
            if runs_on(wait) {
                failure.report_as(Cause::Undelivered, undelivered(wait, &progress));
                stop.abandon_now();
            }
        })?;
        Ok(Drain { _running: running })
    }
}

/// Which sinks hold the others up: a sink that is further may only not have been given the rest.
fn undelivered(wait: Duration, progress: &[(&'static str, Progress)]) -> String {
    let settled: Vec<(Epoch, &str)> = progress.iter().map(|(sink, progress)| (progress.settled(), *sink)).collect();
    let lowest = settled.iter().map(|(epoch, _)| *epoch).min();
    let last = settled.iter().filter(|(epoch, _)| Some(*epoch) == lowest).map(|(_, sink)| *sink);
    let names = last.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ");
    format!(
        "gave up {} s after being asked to stop: could not deliver everything to {names}; what is not delivered is read again by the next run",
        wait.as_secs()
    )
}

#[cfg(test)]
mod tests {
    //! Proves that a drain is bounded. What a drain delivers is proved in `runtime/tests.rs`.
    use super::*;
    use crate::job::DRAIN_MAX;

    #[test]
    fn a_run_that_does_not_end_after_being_asked_is_given_up_and_says_what_was_stuck() {
        let (stop, failure) = (Stop::default(), Failure::default());
        let elasticsearch = || ("elasticsearch", Progress::default());
        let progress = [("parquet", Progress::settled_up_to(7)), elasticsearch(), elasticsearch()];
        let clock = EpochClock::starting_above(0, 1, DRAIN_MAX);
        let drain = Drain::watch((stop.clone(), clock), &failure, &progress, Duration::from_millis(1)).unwrap();
        stop.ask();
        while !stop.abandon() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let reported = failure.reported().unwrap();
        assert_eq!(reported.cause, Cause::Undelivered);
        assert!(reported.text.contains("could not deliver everything to elasticsearch;"), "{}", reported.text);
        drop(drain);
    }

    #[test]
    fn a_run_that_ends_in_time_is_left_alone() {
        let (stop, failure) = (Stop::default(), Failure::default());
        let clock = EpochClock::starting_above(0, 1, DRAIN_MAX);
        let drain = Drain::watch((stop.clone(), clock), &failure, &[], Duration::from_secs(60)).unwrap();
        stop.ask();
        drop(drain);
        std::thread::sleep(DRAIN_CHECK_EVERY * 3);
        assert!(!failure.happened() && !stop.abandon());
    }
}
