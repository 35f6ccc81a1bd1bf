//! Who writes the epoch log: claims of epochs, and checkpoints.
//!
//! ```text
//! cuts of all sources ─> [claim] ───────────> Recorder (thread, process 0) ─> log
//!                           │  holds each epoch until it is claimed   ^
//!                           └─> sinks                                 │
//! gathered pieces ──────> [record] ───────────────────────────────────┘
//!                           └─ holds each checkpoint until it is recorded ─> [publish] on every process: files get their names
//! ```
//!
//! Invariants:
//!
//! 1. A sink is given rows of an epoch only when the frontier of [`claim`] has passed it: its claim is durable then.
//! 2. A checkpoint is appended when every worker has handed in its pieces: its state is written, its sinks have settled and staged.
//! 3. The thread appends in the order in which it was asked; a lost append ends the run ([`Cause::Fenced`]).
//!
//! Limits: [`QUEUE_MAX`] entries wait for the thread. A store that cannot be reached is tried again every [`RETRY_MAX`] at the latest,
//! until the run is abandoned; meanwhile nothing is claimed, so the sinks wait and the gate stops the sources.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::operator::Operator;
use timely::scheduling::SyncActivator;

use super::checkpoint::Gathered;
use super::clock::{BORDER, Cut, EpochClock, border_above};
use super::driver::Stream;
use super::epoch_log::{Checkpoint, Claim, Entry, EpochLog, LogError};
use super::failpoint::Guard;
use super::failure::{Cause, Failure};
use super::host;
use super::metrics::{Metrics, unix_seconds};
use super::recovery::FILES_UP_TO;
use super::stop::Stop;
use crate::sink::StagedFile;
use crate::source::Topics;
use crate::time::Epoch;
use crate::vocabulary::Partition;

/// Entries that may wait for the thread: far more than epochs can be under way.
const QUEUE_MAX: usize = 1_024;

/// Between two attempts to reach the store, at first.
const RETRY_MIN: Duration = Duration::from_millis(50);
/// And at most.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The hand that writes the log. Exists in process 0; elsewhere nothing is sent to it.
#[derive(Clone)]
pub struct Recorder {
    sender: Option<SyncSender<(Entry, Done)>>,
}

/// Tells an operator that its entry is durable.
struct Done {
    upto: Epoch,
    mark: Arc<AtomicU64>,
    wake: SyncActivator,
}

/// What the thread works with.
struct Hand {
    log: EpochLog,
    keep: usize,
    stop: Stop,
    failure: Failure,
    metrics: Metrics,
    topics: Topics,
}

impl Recorder {
    /// Starts the thread. It keeps the newest `keep` checkpoints.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(
        log: EpochLog,
        keep: usize,
        stop: Stop,
        failure: Failure,
        metrics: Metrics,
        topics: Topics,
    ) -> std::io::Result<Recorder> {
        let mut hand = Hand { log, keep, stop, failure, metrics, topics };
        let sender = host::take("epoch-log", QUEUE_MAX, move |(entry, done)| hand.record(&entry, &done))?;
        Ok(Recorder { sender: Some(sender) })
    }

    /// For a process that does not lead.
    pub fn elsewhere() -> Recorder {
        Recorder { sender: None }
    }

    fn append(&self, entry: Entry, done: Done) {
        if let Some(sender) = &self.sender {
            // Fails only when the thread has reported why it is gone.
            let _ = sender.send((entry, done));
        }
    }
}

impl Hand {
    fn record(&mut self, entry: &Entry, done: &Done) -> ControlFlow<()> {
        if let Err(error) = self.append(entry) {
            let cause = if matches!(error, LogError::Fenced { .. }) { Cause::Fenced } else { Cause::Outside };
            self.failure.report_as(cause, format!("epoch log: {error}"));
            return ControlFlow::Break(());
        }
        self.tell(entry);
        if matches!(entry, Entry::Checkpoint(_))
            && let Err(error) = self.log.prune(self.keep)
        {
            tracing::warn!(target: "runtime", "could not delete what no checkpoint needs any more: {error}; it is tried again with the next");
        }
        done.mark.store(done.upto, Ordering::Release);
        // Fails only when the worker has gone.
        let _ = done.wake.activate();
        ControlFlow::Continue(())
    }

    /// Telemetry of an entry that is durable.
    fn tell(&self, entry: &Entry) {
        let metrics = &self.metrics;
        let offset = |stage: &str, (partition, end): &(Partition, i64)| {
            let labels = [self.topics.name(partition.topic), &partition.number.to_string(), stage];
            metrics.source_offset.with_label_values(&labels).set(*end);
        };
        match entry {
            Entry::Seal(_) => {}
            Entry::Claims(claims) => {
                metrics.claims.inc_by(claims.len() as u64);
                metrics.claim_last_success.set(unix_seconds() as i64);
                claims.iter().flat_map(|claim| &claim.cuts).for_each(|cut| offset("claimed", cut));
            }
            Entry::Checkpoint(checkpoint) => {
                metrics.checkpoints.inc();
                metrics.checkpoint_last_success.set(unix_seconds() as i64);
                checkpoint.ends.iter().for_each(|end| offset("checkpointed", end));
            }
        }
    }

    /// Appends; goes on trying while the store cannot be reached.
    fn append(&mut self, entry: &Entry) -> Result<(), LogError> {
        let mut pause = RETRY_MIN;
        while Guard::Log.holds() {
            match self.log.append(entry) {
                Err(LogError::Store(error)) if error.may_be_retried() && !self.stop.abandon() => {
                    self.metrics.epoch_log_waiting.set(1);
                    tracing::warn!(target: "runtime", "could not write the epoch log: {error}; trying again");
                    host::sleep(pause);
                    pause = (2 * pause).min(RETRY_MAX);
                }
                result => {
                    self.metrics.epoch_log_waiting.set(0);
                    return result;
                }
            }
        }
        Ok(())
    }
}

/// Claims epochs: emits nothing, and its frontier is what is claimed. Every worker's clock hears of all cuts.
///
/// `cuts` must be broadcast; the first worker's part of the operator is the one that writes.
pub fn claim<'s>(cuts: Stream<'s, Cut>, recorder: Recorder, clock: EpochClock) -> Stream<'s, ()> {
    let scope = cuts.scope();
    let leads = scope.index() == 0;
    cuts.unary_frontier::<CapacityContainerBuilder<Vec<()>>, _, _, _>(Pipeline, "claim", move |capability, info| {
        let wake = scope.worker().sync_activator_for(info.address.to_vec());
        let mark = Arc::new(AtomicU64::new(0));
        let mut waiting: BTreeMap<Epoch, Claim> = BTreeMap::new();
        // One capability, for the lowest epoch that is not claimed.
        let mut unclaimed = leads.then_some(capability);
        let mut asked = 0;
        move |(input, frontier), _output| {
            input.for_each(|_, data| {
                for cut in data.drain(..) {
                    clock.hear(&cut);
                    if leads && !cut.is_empty() {
                        add(&mut waiting, cut);
                    }
                }
            });
            let Some(capability) = unclaimed.as_mut() else { return };
            let open = frontier.frontier().first().copied().unwrap_or(Epoch::MAX);
            let later = waiting.split_off(&open);
            let claims: Vec<Claim> = std::mem::replace(&mut waiting, later).into_values().collect();
            if let Some(last) = claims.last().map(|claim| claim.epoch) {
                asked = last;
                let done = Done { upto: last, mark: Arc::clone(&mark), wake: wake.clone() };
                recorder.append(Entry::Claims(claims), done);
            }
            let claimed = mark.load(Ordering::Acquire);
            // Epochs without a claim hold nothing.
            let next = if claimed == asked { open } else { claimed + 1 };
            if next == Epoch::MAX {
                unclaimed = None;
            } else {
                capability.downgrade(&next.max(*capability.time()));
            }
        }
    })
}

/// Puts the cut of one source to those of the others.
fn add(waiting: &mut BTreeMap<Epoch, Claim>, cut: Cut) {
    let new = || Claim { epoch: cut.epoch, starts: Vec::new(), cuts: Vec::new(), marks: Vec::new() };
    let claim = waiting.entry(cut.epoch).or_insert_with(new);
    claim.starts.extend(cut.starts);
    claim.cuts.extend(cut.ends);
    claim.marks.extend(cut.marks);
}

/// A recorded checkpoint, as every process hears of it.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Recorded {
    /// Everything up to here is applied, saved, and settled or staged.
    pub epoch: Epoch,
    /// The files that get their names.
    pub staged: Vec<StagedFile>,
}

/// What a checkpoint's entry says besides its pieces.
pub struct Stamp {
    /// This run's generation.
    pub generation: u64,
    /// A base is written every so many checkpoints.
    pub base_every: u32,
    /// The next offset of each partition, as of the checkpoint that this run began with.
    pub ends: BTreeMap<Partition, i64>,
    /// Claims that are repeated: their cuts come on top.
    pub replay: Vec<Claim>,
    /// Files of epochs up to here were written by an earlier run.
    pub committed_up_to: Epoch,
}

/// Records checkpoints; emits each once it is durable. `claims` are the cuts again, for the offsets.
pub fn record<'s>(
    pieces: Stream<'s, Gathered>,
    cuts: Stream<'s, Cut>,
    stamp: Stamp,
    recorder: Recorder,
) -> Stream<'s, Recorded> {
    let scope = pieces.scope();
    let to_first = Exchange::new(|_: &Gathered| 0);
    pieces.binary_frontier::<_, CapacityContainerBuilder<Vec<Recorded>>, _, _, _, _>(
        cuts,
        to_first,
        Pipeline,
        "record",
        move |_capability, info| {
            let wake = scope.worker().sync_activator_for(info.address.to_vec());
            let mark = Arc::new(AtomicU64::new(0));
            let mut waiting: BTreeMap<Epoch, (Capability<Epoch>, Vec<Gathered>)> = BTreeMap::new();
            let mut appended: BTreeMap<Epoch, (Capability<Epoch>, Recorded)> = BTreeMap::new();
            let mut ledger = Offsets::new(&stamp);
            let mut before = None;
            let mut count = 0;
            move |(pieces, frontier), (cuts, cuts_frontier), output| {
                pieces.for_each(|capability, data| {
                    let capability = capability.retain_least(0).expect("a message has a time");
                    let new = (capability, Vec::new());
                    waiting.entry(*new.0.time()).or_insert(new).1.append(data);
                });
                cuts.for_each(|_, data| data.drain(..).for_each(|cut| ledger.add(&cut)));
                let complete = |epoch: &Epoch| !frontier.less_equal(epoch) && !cuts_frontier.less_equal(epoch);
                while let Some(entry) = waiting.first_entry().filter(|entry| complete(entry.key())) {
                    let epoch = *entry.key();
                    let (capability, gathered) = entry.remove();
                    let base = before.filter(|_| count % stamp.base_every != 0);
                    let checkpoint = put_together(epoch, gathered, base, &stamp, ledger.up_to(epoch));
                    (before, count) = (Some(epoch), count + 1);
                    appended.insert(epoch, (capability, Recorded { epoch, staged: checkpoint.staged.clone() }));
                    let done = Done { upto: epoch, mark: Arc::clone(&mark), wake: wake.clone() };
                    recorder.append(Entry::Checkpoint(checkpoint), done);
                }
                let recorded = mark.load(Ordering::Acquire);
                while let Some(entry) = appended.first_entry().filter(|entry| *entry.key() <= recorded) {
                    let (capability, done) = entry.remove();
                    output.session(&capability).give(done);
                }
            }
        },
    )
}

fn put_together(
    epoch: Epoch,
    gathered: Vec<Gathered>,
    base: Option<Epoch>,
    stamp: &Stamp,
    ends: Vec<(Partition, i64)>,
) -> Checkpoint {
    debug_assert_eq!(border_above(epoch), epoch + 1, "a checkpoint is of everything below a border");
    let (mut parts, mut staged) = (Vec::new(), Vec::new());
    for mut piece in gathered {
        parts.append(&mut piece.parts);
        staged.append(&mut piece.staged);
    }
    parts.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    staged.sort_unstable();
    let files_up_to = (FILES_UP_TO.to_owned(), stamp.committed_up_to);
    let counters = Some(files_up_to).filter(|(_, upto)| *upto > epoch).into_iter().collect();
    Checkpoint { epoch, generation: stamp.generation, base, parts, staged, ends, counters }
}

/// Where each partition has come to, epoch by epoch.
struct Offsets {
    ends: BTreeMap<Partition, i64>,
    later: BTreeMap<Epoch, Vec<(Partition, i64)>>,
}

impl Offsets {
    fn new(stamp: &Stamp) -> Self {
        let mut offsets = Offsets { ends: stamp.ends.clone(), later: BTreeMap::new() };
        for claim in &stamp.replay {
            offsets.open(&claim.starts);
            offsets.later.insert(claim.epoch, claim.cuts.clone());
        }
        offsets
    }

    /// Where a partition begins counts until something of it was read.
    fn open(&mut self, starts: &[(Partition, i64)]) {
        for (partition, start) in starts {
            self.ends.entry(*partition).or_insert(*start);
        }
    }

    fn add(&mut self, cut: &Cut) {
        self.open(&cut.starts);
        if !cut.ends.is_empty() {
            self.later.entry(cut.epoch).or_default().extend(cut.ends.iter().copied());
        }
    }

    fn up_to(&mut self, epoch: Epoch) -> Vec<(Partition, i64)> {
        let rest = self.later.split_off(&(epoch + 1));
        for (_, cuts) in std::mem::replace(&mut self.later, rest) {
            self.ends.extend(cuts);
        }
        self.ends.iter().map(|(partition, end)| (*partition, *end)).collect()
    }
}

/// The epoch of the checkpoint that a border is the border of.
pub const fn checkpoint_of(border: Epoch) -> Epoch {
    debug_assert!(border.is_multiple_of(BORDER));
    border - 1
}

/// Gives files their names, on a thread of each process: renames wait for the disk.
pub struct Publisher(SyncSender<Recorded>);

impl Publisher {
    /// `publish` is called with every recorded checkpoint, in order; when it returns, the clock is told.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(
        mut publish: impl FnMut(&Recorded) -> Result<(), String> + Send + 'static,
        clock: EpochClock,
        failure: Failure,
    ) -> std::io::Result<Publisher> {
        let work = move |recorded: Recorded| {
            if let Err(why) = publish(&recorded) {
                failure.report(why);
                return ControlFlow::Break(());
            }
            clock.record(recorded.epoch);
            ControlFlow::Continue(())
        };
        host::take("publish", QUEUE_MAX, work).map(Publisher)
    }
}

/// Passes recorded checkpoints, which are broadcast, to the process's publisher; `None` on all workers of a process but one.
pub fn publish(recorded: Stream<'_, Recorded>, publisher: Option<Publisher>) {
    recorded.sink(Pipeline, "publish", move |(input, _)| {
        input.for_each(|_, data| {
            for recorded in data.drain(..) {
                if let Some(publisher) = &publisher {
                    // Fails only when the thread has reported why it is gone.
                    let _ = publisher.0.send(recorded);
                }
            }
        });
    });
}
