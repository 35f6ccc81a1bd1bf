//! The workers of this process: start, step, end.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use timely::WorkerConfig;
use timely::communication::Config as Threads;
use timely::dataflow::Scope;

use super::failure::{Cause, Failure, Reported};
use super::http::Health;
use crate::time::Epoch;

/// How long a worker sleeps when nothing is active; activations from other threads wake it.
const PARK: Duration = Duration::from_millis(20);

/// Runs `build` on each of `workers` threads and steps until every dataflow has completed or something failed. What `build` returns is
/// called on its worker when its dataflow has completed, never after a failure.
///
/// # Errors
/// What was reported to `failure`, or why the threads could not be started. After a failure the other threads may still be
/// at work: the caller is expected to end the process.
pub fn execute<L: FnOnce() + 'static>(
    workers: usize,
    health: Arc<Health>,
    failure: Failure,
    build: impl Fn(usize, Scope<'_, Epoch>) -> L + Send + Sync + 'static,
) -> Result<(), Reported> {
    let threads = if workers == 1 { Threads::Thread } else { Threads::Process(workers) };
    let config = timely::Config { communication: threads, worker: WorkerConfig::default() };
    let (ended, failed) = (failure.clone(), failure.clone());
    let (done, waiting) = channel();
    let guards = timely::execute(config, move |worker| {
        let index = worker.index();
        let leaving = Leaving { done: done.clone(), failure: ended.clone() };
        let last = worker.dataflow::<Epoch, _, _>(|scope| build(index, scope));
        health.assigned(index);
        while worker.has_dataflows() && !ended.happened() {
            worker.step_or_park(Some(PARK));
            health.tick(index);
        }
        health.ended(index);
        if ended.happened() {
            // Timely would step a failed dataflow for ever once this closure returns.
            drop(leaving);
            loop {
                std::thread::park();
            }
        }
        last();
    });
    let guards = guards.map_err(|text| Reported { cause: Cause::Outside, text })?;
    for _ in 0..workers {
        // Cannot fail: the closure, which the guards keep, holds a sender.
        let _ = waiting.recv();
        if let Some(why) = failed.reported() {
            std::mem::forget(guards);
            return Err(why);
        }
    }
    let panicked = |why| Reported { cause: Cause::Bug, text: format!("a worker panicked: {why}") };
    guards.join().into_iter().try_for_each(|ended| ended.map_err(panicked))
}

/// Says that a worker has left its loop, be it by a panic: the others would wait for a dead peer for ever.
struct Leaving {
    done: Sender<()>,
    failure: Failure,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = "a worker panicked; this is a bug, please report it with the message above";
            self.failure.report_as(Cause::Bug, text.into());
        }
        // The receiver is gone only if the caller has given up already.
        let _ = self.done.send(());
    }
}
