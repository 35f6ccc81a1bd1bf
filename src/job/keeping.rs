//! What keeps a run's log and state while it runs, and hands each worker its part of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use timely::dataflow::operators::probe::Handle;

use super::Options;
use super::begin::Begun;
use crate::graph::{self, Plan};
use crate::runtime::checkpoint::writer::StateWriter;
use crate::runtime::checkpoint::{Desk, Restored};
use crate::runtime::clock::{EpochClock, border_above};
use crate::runtime::driver::SourceContext;
use crate::runtime::epoch_log::Claim;
use crate::runtime::live::Beginning;
use crate::runtime::memory::Pressure;
use crate::runtime::recorder::{Publisher, Recorded, Recorder, Stamp};
use crate::runtime::state_files::StateKey;
use crate::runtime::stop::Stop;
use crate::runtime::worker::Crew;
use crate::sink;
use crate::sink::files::Folder;
use crate::source::Share;
use crate::time::Epoch;
use crate::vocabulary::Partition;

/// What keeps a run's log and state, on its threads.
pub(crate) struct Keeping {
    pub(super) clock: EpochClock,
    replay: Vec<Claim>,
    recorder: Recorder,
    writer: StateWriter,
    /// For the first worker.
    publisher: Mutex<Option<Publisher>>,
    /// One for each worker of the process.
    restored: Mutex<Vec<Restored>>,
    cipher: Option<Arc<StateKey>>,
    ends: BTreeMap<Partition, i64>,
    checkpoint: Option<Epoch>,
    crew: Crew,
    plan: Plan,
}

impl Keeping {
    pub(crate) fn start(
        begun: Begun,
        plan: &Plan,
        options: &Options,
        publish: impl FnMut(&Recorded) -> Result<(), String> + Send + 'static,
    ) -> std::io::Result<Keeping> {
        let Begun { store, log, cipher, recovery } = begun;
        let state = &plan.flow.spec.state;
        let (stop, failure, metrics) = (options.stop.clone(), plan.failure.clone(), plan.metrics.clone());
        let every = Duration::from_secs(state.checkpoint_seconds);
        let crew = options.crew();
        let clock = EpochClock::starting_above(recovery.above, crew.workers(), every);
        if let Some(checkpoint) = recovery.checkpoint {
            clock.record(checkpoint);
        }
        let generation = recovery.generation;
        if let Some(live) = &plan.live {
            let repeats = !recovery.replay.is_empty();
            live.begin(Beginning { generation, last_epoch: recovery.last_epoch, repeats }, clock.clone());
        }
        let writer =
            StateWriter::start(store, generation, cipher.clone(), stop.clone(), failure.clone(), metrics.clone())?;
        let recorder = match log {
            Some(log) => Recorder::start(log, state.keep, stop, failure.clone(), metrics, plan.topics.clone())?,
            None => Recorder::elsewhere(),
        };
        Ok(Keeping {
            publisher: Mutex::new(Some(Publisher::start(publish, clock.clone(), failure.clone())?)),
            clock,
            replay: recovery.replay,
            recorder,
            writer,
            restored: Mutex::new(vec![recovery.restored; crew.threads]),
            cipher,
            ends: recovery.ends,
            checkpoint: recovery.checkpoint,
            crew,
            plan: plan.clone(),
        })
    }

    /// What the source of one worker needs.
    pub(crate) fn of_source(
        &self,
        index: usize,
        stop: &Stop,
        settled: &Handle<Epoch>,
        pressure: &Pressure,
    ) -> SourceContext {
        let Plan { flow, failure, metrics, topics, .. } = &self.plan;
        SourceContext {
            worker: index,
            epoch: flow.spec.epoch.clone(),
            inflight: flow.spec.inflight.clone(),
            pressure: pressure.clone(),
            clock: self.clock.clone(),
            settled: settled.clone(),
            replay: self.replay.clone(),
            stop: stop.clone(),
            failure: failure.clone(),
            metrics: metrics.clone(),
            topics: topics.clone(),
        }
    }

    /// What the graph of one worker needs of it.
    pub(crate) fn of_worker(&self, index: usize) -> graph::Keeping {
        let generation = &self.plan.generation;
        let base_every = self.plan.flow.spec.state.base_every;
        let desk = Desk::new(
            Share { worker: self.crew.number(index), workers: self.crew.workers() },
            self.restored.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default(),
            self.cipher.clone(),
            self.clock.start(),
            base_every,
            self.writer.clone(),
            (self.plan.metrics.clone(), self.plan.failure.clone()),
        );
        let stamp = Stamp {
            generation: generation.number,
            base_every,
            ends: self.ends.clone(),
            replay: self.replay.clone(),
            committed_up_to: generation.committed_up_to,
        };
        graph::Keeping {
            desk,
            clock: self.clock.clone(),
            recorder: self.recorder.clone(),
            stamp,
            put_back_at: self.checkpoint.map(border_above),
            publisher: self.publisher.lock().unwrap_or_else(PoisonError::into_inner).take(),
        }
    }
}

/// Gives files of recorded checkpoints their names, and then tells whoever makes something of them. Where there are several processes, a file that is
/// missing may be in another's folder.
pub(super) fn publish(
    plan: &Plan,
    crew: Crew,
    tell: Option<impl Fn(&Recorded) + Send + 'static>,
) -> impl FnMut(&Recorded) -> Result<(), String> + Send + 'static {
    let (folders, strict) = (sink::folders(&plan.flow.spec.sink), crew.processes == 1);
    move |recorded| {
        let name = |folder: &Folder| folder.publish(recorded.epoch, &recorded.staged, strict);
        folders.iter().try_for_each(name).map_err(|error| error.to_string())?;
        tell.iter().for_each(|tell| tell(recorded));
        Ok(())
    }
}
