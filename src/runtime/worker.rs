//! The workers of this process: start, step, end.
//!
//! Workers are numbered over all processes, process by process; a process numbers its own from 0. Both words are used: *number* and *index*.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use timely::WorkerConfig;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::communication::{Config as Threads, Hooks};
use timely::dataflow::Scope;

use super::busy;
use super::cluster::Wire;
use super::failure::{Cause, Failure, Reported};
use super::http::Health;
use super::metrics::Metrics;
use crate::time::Epoch;

/// How long a worker sleeps when nothing is active; activations from other threads wake it.
const PARK: Duration = Duration::from_millis(20);

/// Where the workers of this process stand among those of all. Every process has as many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crew {
    /// This process's number.
    pub process: usize,
    /// How many processes there are.
    pub processes: usize,
    /// Workers of each.
    pub threads: usize,
}

impl Crew {
    /// The one process of a run.
    pub fn alone(threads: usize) -> Crew {
        Crew { process: 0, processes: 1, threads }
    }

    /// Workers of all processes.
    pub fn workers(self) -> usize {
        self.processes * self.threads
    }

    /// The number, over all processes, of this process's worker with this index.
    pub fn number(self, index: usize) -> usize {
        self.process * self.threads + index
    }
}

/// What timely's workers are built from, and what must outlive them.
type Built = (Vec<AllocatorBuilder>, Box<dyn std::any::Any + Send>);

fn builders(crew: Crew, wires: Vec<Option<Wire>>) -> Result<Built, String> {
    if crew.processes == 1 {
        let threads = if crew.threads == 1 { Threads::Thread } else { Threads::Process(crew.threads) };
        return threads.try_build();
    }
    let hooks = Hooks::default();
    let within = ProcessBuilder::new_typed_vector(crew.threads, hooks.refill.clone(), hooks.spill.clone());
    let (builders, guard) = initialize_networking_from_sockets(within, wires, crew.process, crew.threads, hooks)
        .map_err(|error| format!("could not start the threads of the cluster's connections: {error}"))?;
    Ok((builders.into_iter().map(AllocatorBuilder::Tcp).collect(), Box::new(guard)))
}

/// Runs `build` on each worker of this process, with its index, and steps until every dataflow has completed or something failed. What `build` returns is
/// called on its worker when its dataflow has completed, never after a failure. `wires` lead to the other processes, by their numbers.
///
/// # Errors
/// What was reported to `failure`, or why the threads could not be started. After a failure the other threads may still be
/// at work: the caller is expected to end the process.
pub fn execute<L: FnOnce() + 'static>(
    crew: Crew,
    wires: Vec<Option<Wire>>,
    health: Arc<Health>,
    (failure, metrics): (Failure, Metrics),
    build: impl Fn(usize, Scope<'_, Epoch>) -> L + Send + Sync + 'static,
) -> Result<(), Reported> {
    let (builders, others) = builders(crew, wires).map_err(|text| Reported { cause: Cause::Outside, text })?;
    let (ended, failed) = (failure.clone(), failure.clone());
    let (done, waiting) = channel();
    let guards = timely::execute::execute_from(builders, others, WorkerConfig::default(), move |worker| {
        let index = worker.index() % crew.threads;
        busy::watch(worker, metrics.clone());
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
    for _ in 0..crew.threads {
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
