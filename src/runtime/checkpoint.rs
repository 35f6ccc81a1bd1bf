//! Checkpoints on one worker: stages hand in their state at each border, sinks their staged files; together they go to whoever records them.
//!
//! ```text
//! stages ─keep─┐ blocks ─> StateWriter (threads) > state files ─┐
//!              ├─ Desk (one a worker) ──────────────────────────┴─> [gather] ─> record
//! sinks ─stage─┘ staged files
//! ```
//!
//! Invariants:
//!
//! 1. A stage hands in its state as of "everything below the border is applied": when its input has come to the border, before it applies anything
//!    above. So the parts of one border are one consistent cut, without a message to anybody.
//! 2. Every worker hands in for the same borders in the same order; the first of a run, and every `base_every`-th after it, is a base.
//! 3. [`gather`] emits a worker's pieces of a border when all its stages and all its sinks have handed in theirs, and holds the epoch until then.
//!
//! Limits: those of the [`writer`].

pub mod writer;

use std::cell::{RefCell, RefMut};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Scope;
use timely::dataflow::operators::generic::operator;

use super::clock::{EpochClock, border_above};
use super::driver::{NAP, Stream};
use super::epoch_log::{Checkpoint, LogError, StatePart};
use super::failure::Failure;
use super::host;
use super::metrics::Metrics;
use super::recorder::checkpoint_of;
use super::state_files::{self, StateKey};
use super::store::SharedStore;
use super::survive::{Blocks, Extent, Outlet, Survive};
use crate::sink::StagedFile;
use crate::source::Share;
use crate::time::Epoch;
use writer::{Belt, StateWriter};

/// What one worker adds to a checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Gathered {
    /// Its state files.
    pub parts: Vec<StatePart>,
    /// Files of its sinks that are to get their names.
    pub staged: Vec<StagedFile>,
}

/// The state that a run begins with: the objects of a checkpoint and of those that it builds on, oldest first. What a stage has loaded is let go of.
#[derive(Clone, Default)]
pub struct Restored {
    objects: Vec<Arc<Object>>,
    /// Whether there was anything.
    found: bool,
}

struct Object {
    part: StatePart,
    bytes: Vec<u8>,
}

impl Object {
    /// Fetches and verifies an object.
    fn fetch(store: &SharedStore, part: &StatePart, cipher: Option<&StateKey>) -> Result<Object, LogError> {
        let missing = || LogError::Corrupt { name: part.name.clone(), why: "is missing".into() };
        let bytes = store.get(&part.name)?.ok_or_else(missing)?;
        // All of it: a checkpoint is used whole or not at all. What is not encrypted is proved by its checksums; unpacking it would prove no more.
        state_files::decode(&part.name, &bytes, part, cipher, |_| cipher.is_some(), |_, _, _| Ok(()))?;
        Ok(Object { part: part.clone(), bytes })
    }
}

impl Restored {
    /// Fetches and verifies the state of the newest of `chain`, which begins with a base and ascends.
    ///
    /// # Errors
    /// The object that is missing or damaged ([`LogError::Corrupt`]); the store; a key or a format that is another ([`LogError::Refused`]).
    pub fn fetch(store: &SharedStore, chain: &[&Checkpoint], cipher: Option<&StateKey>) -> Result<Restored, LogError> {
        Self::fetch_parts(store, chain.iter().flat_map(|checkpoint| &checkpoint.parts), cipher)
    }

    /// The same of these objects, oldest first.
    ///
    /// # Errors
    /// As [`Restored::fetch`].
    pub fn fetch_parts<'a>(
        store: &SharedStore,
        parts: impl IntoIterator<Item = &'a StatePart>,
        cipher: Option<&StateKey>,
    ) -> Result<Restored, LogError> {
        let parts: Vec<&StatePart> = parts.into_iter().collect();
        let objects = host::side_by_side(parts, |part| Object::fetch(store, part, cipher).map(Arc::new));
        let objects: Vec<Arc<Object>> = objects.into_iter().collect::<Result<_, _>>()?;
        Ok(Restored { found: !objects.is_empty(), objects })
    }

    /// The objects that no stage has loaded, oldest first.
    pub fn parts(&self) -> impl Iterator<Item = &StatePart> {
        self.objects.iter().map(|object| &object.part)
    }

    /// Takes out the objects of a stage.
    fn of(&mut self, stage: &str) -> Vec<Arc<Object>> {
        let ending = format!("-{stage}");
        self.objects.extract_if(.., |object| object.part.name.ends_with(&ending)).collect()
    }
}

/// A stage's machine that is to be loaded.
struct Loading<'a> {
    stage: &'static str,
    machine: &'a mut dyn Survive,
    objects: Vec<Arc<Object>>,
}

impl Loading<'_> {
    fn bytes(&self) -> usize {
        self.objects.iter().map(|object| object.bytes.len()).sum()
    }

    /// Hands the machine the blocks that this worker owns, and lets go of each object as soon as that is done: the state takes its memory.
    fn load(self, share: Share, cipher: Option<&StateKey>) -> Result<(), String> {
        let Loading { stage, machine, objects } = self;
        let ours = |route: u64| route % share.workers.max(1) as u64 == share.worker as u64;
        let mut first = true;
        for object in objects {
            let Object { part, bytes } = &*object;
            let load = |_, block: &[u8], following: u64| {
                machine.load(block).map_err(|corrupt| corrupt.to_string())?;
                if std::mem::take(&mut first) && !block.is_empty() {
                    machine.expect(following as f64 / block.len() as f64);
                }
                Ok(())
            };
            let loaded = state_files::decode(&part.name, bytes, part, cipher, ours, load);
            loaded.map_err(|why| format!("could not put back the state of {stage}: {why}"))?;
        }
        machine.loaded();
        Ok(())
    }
}

/// What stages and sinks of one worker have handed in for one border.
#[derive(Default)]
struct Pieces {
    stages: usize,
    /// Files that the writer has not written yet.
    unwritten: usize,
    sinks: usize,
    parts: Vec<StatePart>,
    staged: Vec<StagedFile>,
}

/// Where stages and sinks of one worker hand in their pieces.
#[derive(Clone)]
pub struct Desk(Rc<RefCell<Inner>>);

struct Inner {
    share: Share,
    restored: Restored,
    cipher: Option<Arc<StateKey>>,
    first_border: Epoch,
    base_every: u32,
    writer: StateWriter,
    failure: Failure,
    metrics: Metrics,
    reply: Sender<(Epoch, StatePart)>,
    written: Receiver<(Epoch, StatePart)>,
    stages: usize,
    sinks: usize,
    borders: BTreeMap<Epoch, Pieces>,
    /// Machines that were not loaded yet.
    fresh: Vec<(&'static str, Rc<RefCell<dyn Survive>>)>,
}

impl Desk {
    /// For one worker. `start` is the first epoch in which something new is read: what is repeated below it is in the first checkpoint, and need not
    /// wait for one.
    pub fn new(
        share: Share,
        restored: Restored,
        cipher: Option<Arc<StateKey>>,
        start: Epoch,
        base_every: u32,
        writer: StateWriter,
        (metrics, failure): (Metrics, Failure),
    ) -> Desk {
        let (reply, written) = channel();
        Desk(Rc::new(RefCell::new(Inner {
            share,
            restored,
            cipher,
            first_border: border_above(start),
            base_every: base_every.max(1),
            writer,
            failure,
            metrics,
            reply,
            written,
            stages: 0,
            sinks: 0,
            borders: BTreeMap::new(),
            fresh: Vec::new(),
        })))
    }

    /// Gives a stage its place. Its machine is loaded when every stage has one ([`gather`]).
    pub fn seat<M: Survive + 'static>(&self, stage: &'static str, machine: M) -> Seat<M> {
        let machine = Rc::new(RefCell::new(machine));
        self.0.borrow_mut().fresh.push((stage, Rc::clone(&machine) as _));
        Seat { machine, place: Some(self.place(stage)) }
    }

    /// Gives the state of a sink a place. It is loaded here, because the sink begins to work before all have their places; it is small.
    pub fn seat_of_sink(&self, sink: &'static str, state: &mut dyn Survive) -> Place {
        let mut inner = self.0.borrow_mut();
        if inner.restored.found {
            let objects = inner.restored.of(sink);
            let loading = Loading { stage: sink, machine: state, objects };
            let loaded = loading.load(inner.share, inner.cipher.as_deref());
            loaded.unwrap_or_else(|why| inner.failure.report(why));
        }
        drop(inner);
        self.place(sink)
    }

    fn place(&self, stage: &'static str) -> Place {
        let mut inner = self.0.borrow_mut();
        inner.stages += 1;
        Place { desk: self.clone(), stage, border: inner.first_border, count: 0 }
    }

    /// Puts back what every stage had saved, side by side: the largest decides how long it takes. If one cannot be read, the run fails.
    fn put_back(&self) {
        let mut inner = self.0.borrow_mut();
        let Inner { restored, fresh, share, cipher, failure, .. } = &mut *inner;
        let (mut restored, fresh) = (std::mem::take(restored), std::mem::take(fresh));
        if !restored.found {
            return;
        }
        let mut machines: Vec<_> = fresh.iter().map(|(stage, machine)| (*stage, machine.borrow_mut())).collect();
        let to_load = machines.iter_mut();
        let to_load = to_load.map(|(stage, machine)| {
            let objects = restored.of(stage);
            Loading { stage, machine: &mut **machine, objects }
        });
        let mut to_load: Vec<Loading<'_>> = to_load.collect();
        to_load.sort_by_key(|loading| Reverse(loading.bytes()));
        for loaded in host::side_by_side(to_load, |loading| loading.load(*share, cipher.as_deref())) {
            loaded.unwrap_or_else(|why| failure.report(why));
        }
    }

    /// The border at which a sink stages first; it is expected at every border from now on.
    pub fn seat_sink(&self) -> Epoch {
        let mut inner = self.0.borrow_mut();
        inner.sinks += 1;
        inner.first_border
    }

    /// A sink has settled everything below `border` and staged these files.
    pub fn staged(&self, border: Epoch, mut files: Vec<StagedFile>) {
        let mut inner = self.0.borrow_mut();
        let pieces = inner.borders.entry(border).or_default();
        pieces.sinks += 1;
        pieces.staged.append(&mut files);
    }

    /// The pieces of the lowest border, once all are in.
    fn take(&self) -> Option<(Epoch, Gathered)> {
        let mut inner = self.0.borrow_mut();
        let inner = &mut *inner;
        while let Ok((border, part)) = inner.written.try_recv() {
            let pieces = inner.borders.entry(border).or_default();
            pieces.unwritten -= 1;
            pieces.parts.push(part);
        }
        let first = inner.borders.first_entry()?;
        let pieces = first.get();
        let all = pieces.stages == inner.stages && pieces.unwritten == 0 && pieces.sinks == inner.sinks;
        if !all {
            return None;
        }
        let (border, pieces) = first.remove_entry();
        Some((border, Gathered { parts: pieces.parts, staged: pieces.staged }))
    }
}

/// A stage's machine, with its place at the desk.
pub struct Seat<M> {
    machine: Rc<RefCell<M>>,
    /// `None`: nothing of it survives.
    place: Option<Place>,
}

impl<M: Survive> Seat<M> {
    /// A machine of which nothing survives.
    pub fn loose(machine: M) -> Self {
        Seat { machine: Rc::new(RefCell::new(machine)), place: None }
    }

    /// The machine. It is loaded before the graph runs.
    pub fn machine(&self) -> RefMut<'_, M> {
        self.machine.borrow_mut()
    }

    /// Hands in the machine's state for every border up to `reached`: no input below that can come any more, and all that came is applied.
    /// `None` when the input has ended: then nothing is left to be handed in.
    pub fn keep(&mut self, reached: Option<Epoch>) {
        let Some(place) = &mut self.place else { return };
        while reached.is_some_and(|reached| reached >= place.border) {
            place.save(&mut *self.machine.borrow_mut());
        }
    }
}

/// A stage's place at the desk: it knows which border is next.
pub struct Place {
    desk: Desk,
    stage: &'static str,
    border: Epoch,
    count: u32,
}

impl Place {
    fn save(&mut self, machine: &mut dyn Survive) {
        let (base_every, metrics) = {
            let inner = self.desk.0.borrow();
            (inner.base_every, inner.metrics.clone())
        };
        let started = Instant::now();
        let extent = if self.count.is_multiple_of(base_every) { Extent::All } else { Extent::Changed };
        let mut blocks = Blocks::through(self.belt());
        machine.save(extent, &mut blocks);
        self.end(blocks.finish());
        metrics.checkpoint_pause.observe(started.elapsed().as_secs_f64());
    }

    /// The next border.
    pub fn border(&self) -> Epoch {
        self.border
    }

    /// Hands in what was saved elsewhere, for the next border.
    pub fn hand_in(&mut self, blocks: Blocks) {
        let (mut belt, blocks) = (self.belt(), blocks.into_blocks());
        let count = blocks.len();
        blocks.into_iter().for_each(|(route, block)| belt.take(route, block));
        self.end(count);
    }

    fn belt(&self) -> Belt {
        let inner = self.desk.0.borrow();
        Belt { writer: inner.writer.clone(), stage: self.stage, worker: inner.share.worker, border: self.border }
    }

    /// Nothing more comes for this border; so many blocks did.
    fn end(&mut self, blocks: usize) {
        let belt = self.belt();
        let mut inner = self.desk.0.borrow_mut();
        let pieces = inner.borders.entry(self.border).or_default();
        pieces.stages += 1;
        if blocks > 0 {
            pieces.unwritten += 1;
            belt.end(inner.reply.clone());
        }
        (self.border, self.count) = (border_above(self.border), self.count + 1);
    }
}

/// Emits this worker's pieces of each border, at the checkpoint's epoch, as soon as all are in. Every stage must have its seat by now: all are loaded here.
pub fn gather<'s>(scope: Scope<'s, Epoch>, desk: Desk, clock: EpochClock) -> Stream<'s, Gathered> {
    desk.put_back();
    operator::source::<_, CapacityContainerBuilder<Vec<Gathered>>, _, _>(
        scope,
        "gather",
        move |mut capability, info| {
            let activator = scope.activator_for(info.address);
            capability.downgrade(&checkpoint_of(desk.0.borrow().first_border));
            let mut held = Some(capability);
            move |output| {
                let Some(capability) = held.as_mut() else { return };
                activator.activate_after(NAP);
                while let Some((border, gathered)) = desk.take() {
                    output.session(capability).give(gathered);
                    capability.downgrade(&checkpoint_of(border_above(border)));
                    if clock.final_border().is_some_and(|last| last <= border) {
                        held = None;
                        return;
                    }
                }
            }
        },
    )
}
