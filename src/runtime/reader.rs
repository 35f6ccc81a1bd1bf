//! The operator that reads a source: epochs, their cuts, the gate, and what is repeated after a start.
//!
//! ```text
//! repeat the claimed epochs ──> read, close epochs, send their cuts ──> ended: follow the others ──> the final border: wait for its checkpoint
//! ```
//!
//! Invariants 1, 2, 4 and 5 of [`driver`](super::driver) are kept here, and:
//!
//! 1. No capability is held for an epoch that was closed, and a gated source keeps the one it has.
//! 2. An epoch that was claimed is repeated with exactly the records of its claim: those below its cut and not below the one before, whatever the
//!    number of workers then was and now is. What the source delivers beyond is held back ([`Replay`]).
//! 3. A source that has ended lets go of its last capability only when the checkpoint of everything is recorded.
//!
//! Limits: [`HELD_BYTES_MAX`] and one batch more are held back while epochs are repeated.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use timely::container::CapacityContainerBuilder;
use timely::dataflow::Scope;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{OutputBuilder, operator};
use timely::dataflow::operators::probe::Handle;
use timely::scheduling::Activator;

use super::clock::{Cut, EpochClock};
use super::driver::{NAP, Stream};
use super::epoch_log::{Claim, PartitionMark};
use super::failpoint::{self, Guard};
use super::failure::{Cause, Failure};
use super::host;
use super::memory::{Level, Pressure};
use super::metrics::{Metrics, unix_seconds};
use super::stop::Stop;
use crate::config::{EpochSpec, InflightSpec};
use crate::identified::{Arena, Mark, Payload, Record, Records};
use crate::source::{Poll, Polled, Share, SourceError};
use crate::time::Epoch;
use crate::vocabulary::Partition;

/// A source hands on about this many bytes at once: small enough for the cache, large enough that progress tracking costs nothing.
pub(super) const BATCH_BYTES: usize = 1 << 20;

/// While epochs are repeated, partitions that are further than the epoch are read on until this much of them waits.
pub(super) const HELD_BYTES_MAX: usize = 32 << 20;

/// What a source operator needs besides its [`Poll`].
pub struct SourceContext {
    /// Which worker, over all processes.
    pub worker: usize,
    /// When epochs close.
    pub epoch: EpochSpec,
    /// How much may be under way.
    pub inflight: InflightSpec,
    /// Whether memory is short.
    pub pressure: Pressure,
    /// The process's clock.
    pub clock: EpochClock,
    /// The frontier behind all sinks.
    pub settled: Handle<Epoch>,
    /// Epochs that an earlier run has claimed and no checkpoint covers, ascending: they come first, as they were.
    pub replay: Vec<Claim>,
    /// Asked to end.
    pub stop: Stop,
    /// Where a source that cannot go on says so.
    pub failure: Failure,
    /// Telemetry.
    pub metrics: Metrics,
    /// Names of topics, for labels.
    pub topics: crate::source::Topics,
}

impl SourceContext {
    /// True if this worker of so many reads the partition.
    fn reads(&self, partition: Partition, workers: usize) -> bool {
        let share = Share { worker: self.worker, workers };
        share.takes(self.topics.name(partition.topic), partition.number)
    }
}

/// What the operator emits.
enum Fed {
    Records(Records),
    Cut(Cut),
}

/// Reads `from` until it ends, epoch by epoch. The cuts say how each epoch was closed. The tail is to be finished once the dataflow has completed.
pub fn source<'s>(
    scope: Scope<'s, Epoch>,
    name: &str,
    from: Box<dyn Poll>,
    context: SourceContext,
) -> (Stream<'s, Records>, Stream<'s, Cut>, Tail) {
    // Timely drops an operator as soon as it can emit nothing more; what it read last is not committed then.
    let tail = Tail(Rc::new(RefCell::new(None)));
    let shared = Rc::clone(&tail.0);
    let fed = operator::source::<_, CapacityContainerBuilder<Vec<Fed>>, _, _>(scope, name, move |capability, info| {
        let activator = scope.activator_for(info.address);
        *shared.borrow_mut() = Some(Reader::new(from, context, scope.peers(), capability, activator));
        let mut out = Vec::new();
        move |output| {
            if let Some(reader) = shared.borrow_mut().as_mut() {
                reader.step(&mut out);
            }
            for (capability, fed) in out.drain(..) {
                output.session(&capability).give(fed);
            }
        }
    });
    let (records, cuts) = apart(fed);
    (records, cuts, tail)
}

/// Records and cuts, each in a stream.
fn apart(fed: Stream<'_, Fed>) -> (Stream<'_, Records>, Stream<'_, Cut>) {
    let mut builder = OperatorBuilder::new("source::apart".to_owned(), fed.scope());
    let mut input = builder.new_input(fed, Pipeline);
    let (records, records_stream) = builder.new_output();
    let (cuts, cuts_stream) = builder.new_output();
    let mut records = OutputBuilder::<_, CapacityContainerBuilder<Vec<Records>>>::from(records);
    let mut cuts = OutputBuilder::<_, CapacityContainerBuilder<Vec<Cut>>>::from(cuts);
    builder.build(move |_capabilities| {
        move |_frontiers| {
            let (mut records, mut cuts) = (records.activate(), cuts.activate());
            input.for_each(|capability, data| {
                for fed in data.drain(..) {
                    match fed {
                        Fed::Records(batch) => records.session(&capability).give(batch),
                        Fed::Cut(cut) => cuts.session(&capability).give(cut),
                    }
                }
            });
        }
    });
    (records_stream, cuts_stream)
}

/// A source that has been read to its end.
pub struct Tail(Rc<RefCell<Option<Reader>>>);

impl Tail {
    /// Reports what was recorded last, and parts with the source.
    pub fn finish(self) {
        if let Some(mut reader) = self.0.borrow_mut().take() {
            reader.retire();
        }
    }
}

/// The state of a source operator.
struct Reader {
    from: Box<dyn Poll>,
    context: SourceContext,
    capability: Option<Capability<Epoch>>,
    activator: Activator,
    begun: Instant,
    /// When the source was.
    opened_at: Instant,
    /// Partitions that were opened, to be ended when the input is declared complete.
    opened: Vec<Partition>,
    phase: Phase,
    first: First,
    /// Delivered by the source, and not passed on yet.
    ahead: Records,
    epoch_bytes: usize,
    /// Bytes and ends of closed epochs that no checkpoint covers yet, oldest first.
    closed: VecDeque<Closed>,
    /// Where each partition begins, until that was said.
    starts: Vec<(Partition, i64)>,
    /// Partitions of which it was said, or is about to be.
    begun_at: BTreeSet<Partition>,
    ends: BTreeMap<Partition, i64>,
    marks: Vec<PartitionMark>,
    reported: Instant,
    /// Epochs and bytes under way as last told to the gauges, which all sources share.
    told: (i64, i64),
}

/// What a source does.
enum Phase {
    Repeating(Replay),
    Reading,
    Ended,
}

/// How far a source is with what comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// It may still deliver some of it.
    Reading,
    /// It has delivered all, and has not said so yet.
    Delivered,
    /// It waits until all others have delivered theirs.
    Waiting,
    /// All have.
    Over,
}

/// An epoch that was closed.
struct Closed {
    epoch: Epoch,
    bytes: usize,
    at: Instant,
    settled: bool,
    ends: Vec<(Partition, i64)>,
}

/// Epochs to be repeated.
struct Replay {
    /// Those that are left; the first is the one that is being repeated.
    claims: VecDeque<Claim>,
    /// The cuts up to and including it.
    limits: BTreeMap<Partition, i64>,
    /// Of all processes.
    workers: usize,
    /// The source was told of the limits.
    limited: bool,
}

impl Reader {
    fn new(
        from: Box<dyn Poll>,
        mut context: SourceContext,
        workers: usize,
        mut capability: Capability<Epoch>,
        activator: Activator,
    ) -> Self {
        let mut claims = VecDeque::from(std::mem::take(&mut context.replay));
        if !Guard::Replay.holds() {
            claims.clear();
        }
        // Not the leader's: this worker may be late, and what it opens must not be.
        capability.downgrade(&claims.front().map_or(context.clock.start(), |claim| claim.epoch));
        let now = host::now();
        let phase = match claims.is_empty() {
            true => Phase::Reading,
            false => Phase::Repeating(Replay { claims, workers, limits: BTreeMap::new(), limited: false }),
        };
        let starts: Vec<(Partition, i64)> = from.lag().into_iter().map(|lag| (lag.partition, lag.position)).collect();
        Reader {
            from,
            context,
            capability: Some(capability),
            activator,
            begun: now,
            opened_at: now,
            opened: Vec::new(),
            phase,
            first: First::Reading,
            ahead: Records::default(),
            epoch_bytes: 0,
            closed: VecDeque::new(),
            begun_at: starts.iter().map(|(partition, _)| *partition).collect(),
            starts,
            ends: BTreeMap::new(),
            marks: Vec::new(),
            reported: now,
            told: (0, 0),
        }
    }

    /// One activation: at most one batch.
    fn step(&mut self, out: &mut Vec<(Capability<Epoch>, Fed)>) {
        self.retire();
        let Some(capability) = &self.capability else { return };
        let epoch = *capability.time();
        self.report_lag();
        let gated = self.gated();
        if matches!(self.phase, Phase::Ended) {
            return self.follow(epoch);
        }
        if gated {
            return self.activator.activate_after(NAP);
        }
        match std::mem::replace(&mut self.phase, Phase::Reading) {
            Phase::Repeating(replay) => self.repeat(epoch, replay, out),
            Phase::Reading | Phase::Ended => self.read(epoch, out),
        }
    }

    /// Reads a batch of something new.
    fn read(&mut self, epoch: Epoch, out: &mut Vec<(Capability<Epoch>, Fed)>) {
        if self.first == First::Delivered {
            // While epochs were repeated; nothing else may come before the others have come as far.
            let next = self.context.clock.advance(epoch, false);
            self.close(out, Some(next), false);
            return self.activator.activate();
        }
        if self.first == First::Waiting && self.context.clock.all_have_delivered_first() {
            // In an epoch above all in which something came first: the clock has heard of them.
            self.first = First::Over;
            let leader = self.context.clock.leader();
            // It may be there already. What is closed and yet held would never be settled.
            if leader > epoch {
                self.close(out, Some(leader), false);
            }
            return self.activator.activate();
        }
        let mut records = std::mem::take(&mut self.ahead);
        let polled = if records.records.is_empty() { self.poll(&mut records) } else { Polled::Some };
        self.account(&records);
        // Whatever of the partition comes after it must be in a later epoch: a claim has marks behind all records.
        let idled = records.marks.iter().any(|mark| matches!(mark, Mark::Idle(_)));
        self.emit(records, out);
        match polled {
            Polled::Some | Polled::First => self.activator.activate(),
            Polled::Nothing | Polled::End => self.activator.activate_after(NAP),
        }
        if self.first == First::Reading && matches!(polled, Polled::First | Polled::End) {
            self.first = First::Delivered;
        }
        if polled == Polled::End {
            self.close(out, None, true);
        } else if self.first == First::Delivered || idled || self.epoch_is_over(epoch) {
            let held_something = !self.ends.is_empty() || !self.marks.is_empty() || !self.starts.is_empty();
            let next = self.context.clock.advance(epoch, held_something);
            self.close(out, Some(next), false);
        }
    }

    /// Repeats a part of a claimed epoch.
    fn repeat(&mut self, epoch: Epoch, mut replay: Replay, out: &mut Vec<(Capability<Epoch>, Fed)>) {
        let Some(claim) = replay.claims.front().cloned() else {
            return self.go_live(&replay);
        };
        if epoch < claim.epoch {
            self.downgrade(claim.epoch);
        }
        replay.limits.extend(claim.cuts.iter().copied());
        let mut records = self.due(&replay.limits);
        if records.records.is_empty() {
            if self.stopped_while_repeating() {
                return;
            }
            replay.limit(&mut *self.from, self.ahead.arena.len());
            let mut read = Records { arena: Arena::recycled(), ..Records::default() };
            if self.poll(&mut read) == Polled::First {
                self.first = First::Delivered;
            }
            self.refuse_if_cut_short(&read.marks, &replay);
            records = self.hold_back(read, &replay.limits);
            self.activator.activate_after(if records.records.is_empty() { NAP } else { Duration::ZERO });
        } else {
            self.activator.activate();
        }
        self.account(&records);
        if !records.records.is_empty() {
            self.emit(records, out);
        }
        if self.ahead_of(&claim) && self.nothing_due(&replay.limits) {
            // What is kept of a partition is kept where it is read, be it there no more.
            let ours = |mark: &&PartitionMark| self.context.reads(mark.partition(), replay.workers);
            let marks = claim.marks.iter().filter(ours).map(|mark| (*mark).into()).collect();
            self.emit(Records { marks, ..Records::default() }, out);
            // It is claimed already: no cut is sent.
            let next = replay.claims.get(1).map_or(self.context.clock.start(), |claim| claim.epoch);
            self.end_epoch();
            self.downgrade(next);
            replay.claims.pop_front();
            // All workers repeat all epochs, each its part.
            self.context.metrics.replayed_epochs.inc_by(u64::from(self.context.worker == 0));
            failpoint::hit("replay.epoch.after");
            self.activator.activate();
        }
        self.phase = Phase::Repeating(replay);
    }

    /// What an earlier run had read is read again; from here on everything is new.
    fn go_live(&mut self, replay: &Replay) {
        if replay.limited {
            self.from.limit(None);
        }
        if self.context.worker == 0 {
            self.context.metrics.restore_seconds.add(self.opened_at.elapsed().as_secs_f64());
        }
        self.downgrade(self.context.clock.start());
        self.marks.clear();
        self.phase = Phase::Reading;
        self.activator.activate();
    }

    /// A run that ends before everything claimed was repeated must record nothing: the next one does it all again.
    fn stopped_while_repeating(&mut self) -> bool {
        let stopped = self.context.stop.drain();
        if stopped {
            let text =
                "asked to end while what an earlier run had read was read again; the next run does so".to_owned();
            self.context.failure.report_as(Cause::Undelivered, text);
            self.phase = Phase::Ended;
        }
        stopped
    }

    /// The source has come to the end of a claim in all partitions that it reads.
    fn ahead_of(&self, claim: &Claim) -> bool {
        let lags = self.from.lag();
        let position = |partition| lags.iter().find(|lag| lag.partition == partition).map(|lag| lag.position);
        claim.cuts.iter().all(|(partition, end)| position(*partition).is_none_or(|position| position >= *end))
    }

    /// What was read of a partition must be there to be read again: the run fails if one ends before.
    fn refuse_if_cut_short(&self, marks: &[Mark], replay: &Replay) {
        let ended =
            marks.iter().filter_map(|mark| if let Mark::Ended(partition) = mark { Some(partition) } else { None });
        for partition in ended {
            let ends = replay.claims.iter().flat_map(|claim| &claim.cuts).filter(|(of, _)| of == partition);
            let (end, lags) = (ends.map(|(_, end)| *end).max(), self.from.lag());
            let position = lags.iter().find(|lag| lag.partition == *partition).map(|lag| lag.position);
            if end > position {
                let (topic, number) = (self.context.topics.name(partition.topic), partition.number);
                self.context.failure.report(format!(
                    "source: an earlier run has read {topic}/{number} up to {}, and it ends at {} now; put it back as it was for one run, or begin with \
                     an empty state.path and new folders of the sinks",
                    end.unwrap_or_default(),
                    position.unwrap_or_default()
                ));
            }
        }
    }

    fn nothing_due(&self, limits: &BTreeMap<Partition, i64>) -> bool {
        !self.ahead.records.iter().any(|record| is_below(record, limits))
    }

    /// Takes out of what was held back whatever lies below the limits.
    fn due(&mut self, limits: &BTreeMap<Partition, i64>) -> Records {
        if self.nothing_due(limits) {
            return Records::default();
        }
        let ahead = std::mem::take(&mut self.ahead);
        self.hold_back(ahead, limits)
    }

    /// Passes on what lies below the limits, and keeps the rest, with all marks: the claims have their own.
    fn hold_back(&mut self, mut read: Records, limits: &BTreeMap<Partition, i64>) -> Records {
        self.ahead.marks.append(&mut read.marks);
        if read.records.iter().all(|record| is_below(record, limits)) {
            return read;
        }
        let Records { arena, records, .. } = read;
        let mut below = Records { arena: Arena::recycled(), ..Records::default() };
        for record in records {
            let to = if is_below(&record, limits) { &mut below } else { &mut self.ahead };
            let mut copy = |slice| to.arena.push(arena.bytes(slice));
            let payload = match record.payload {
                Payload::Bytes(slice) => Payload::Bytes(copy(slice)),
                other => other,
            };
            let key = record.key.map(copy);
            to.records.push(Record { payload, key, ..record });
        }
        below
    }

    /// Has ended: keeps pace with the others, and with the last of them waits for the checkpoint of everything.
    fn follow(&mut self, epoch: Epoch) {
        self.activator.activate_after(NAP);
        match self.context.clock.final_border() {
            Some(border) => {
                self.downgrade(border.max(epoch));
                if self.context.clock.recorded() + 1 >= border {
                    self.capability = None;
                }
            }
            None => self.downgrade(self.context.clock.leader().max(epoch)),
        }
    }

    fn poll(&mut self, records: &mut Records) -> Polled {
        if self.context.stop.drain() || self.context.clock.draining() {
            return Polled::End;
        }
        // Epochs are closed meanwhile, so that what was read is settled, and its memory given back.
        if self.first == First::Waiting || self.context.pressure.level() == Level::Critical {
            return Polled::Nothing;
        }
        let complete = self.context.stop.is_complete();
        if records.arena.is_empty() {
            records.arena = Arena::recycled();
        }
        let polled = self.from.poll(BATCH_BYTES, records).unwrap_or_else(|error| {
            let cause = match error {
                SourceError::Configuration(_) => Cause::Configuration,
                SourceError::Unavailable(_) => Cause::Outside,
            };
            self.context.failure.report_as(cause, format!("source: {error}"));
            Polled::End
        });
        self.hear_of_opened(&records.marks);
        if complete && polled == Polled::Nothing {
            records.marks.extend(self.opened.drain(..).map(Mark::Ended));
            return Polled::End;
        }
        polled
    }

    /// Where a partition begins that was not there from the beginning goes into the cut of the epoch that is open: no later one than its mark.
    fn hear_of_opened(&mut self, marks: &[Mark]) {
        for mark in marks {
            let Mark::Opened(partition) = *mark else { continue };
            self.opened.push(partition);
            if self.begun_at.insert(partition) {
                let begins = self.from.lag().into_iter().find(|lag| lag.partition == partition);
                self.starts.extend(begins.map(|lag| (partition, lag.position)));
            }
        }
    }

    fn epoch_is_over(&self, epoch: Epoch) -> bool {
        self.epoch_bytes >= self.context.epoch.bytes
            || host::since(self.begun) >= Duration::from_millis(self.context.epoch.ms)
            || self.context.clock.leader() > epoch
    }

    fn emit(&mut self, records: Records, out: &mut Vec<(Capability<Epoch>, Fed)>) {
        self.marks.extend(records.marks.iter().map(|mark| PartitionMark::from(*mark)));
        if let Some(capability) = self.capability.as_ref()
            && (!records.records.is_empty() || !records.marks.is_empty())
        {
            out.push((capability.clone(), Fed::Records(records)));
        }
    }

    /// Ends the current epoch with its cut, and begins `next` or the leader's, whichever is higher; `None` at the end of the input.
    fn close(&mut self, out: &mut Vec<(Capability<Epoch>, Fed)>, next: Option<Epoch>, ended: bool) {
        let Some(capability) = self.capability.clone() else { return };
        let epoch = *capability.time();
        let cut = Cut {
            worker: self.context.worker,
            epoch,
            starts: std::mem::take(&mut self.starts),
            marks: std::mem::take(&mut self.marks),
            ends: self.end_epoch(),
            first: self.first == First::Delivered,
            ended,
            draining: self.context.stop.drain(),
        };
        if cut.first {
            self.first = First::Waiting;
        }
        out.push((capability, Fed::Cut(cut)));
        match next {
            Some(next) => self.downgrade(next.max(self.context.clock.leader())),
            None => self.phase = Phase::Ended,
        }
    }

    /// Notes that the current epoch holds what was read so far; for each partition, the next offset.
    fn end_epoch(&mut self) -> Vec<(Partition, i64)> {
        let now = host::now();
        let ends: Vec<(Partition, i64)> = std::mem::take(&mut self.ends).into_iter().collect();
        if let Some(capability) = &self.capability {
            let (epoch, bytes) = (*capability.time(), std::mem::take(&mut self.epoch_bytes));
            self.closed.push_back(Closed { epoch, bytes, at: now, settled: false, ends: ends.clone() });
        }
        self.begun = now;
        ends
    }

    fn downgrade(&mut self, to: Epoch) {
        if let Some(capability) = &mut self.capability {
            capability.downgrade(&to);
        }
    }

    /// Notes which closed epochs have been settled, and reports offsets that a checkpoint covers.
    fn retire(&mut self) {
        for closed in self.closed.iter_mut().filter(|closed| !closed.settled) {
            if self.context.settled.less_equal(&closed.epoch) {
                break;
            }
            closed.settled = true;
            self.context.metrics.epoch_seconds.observe(host::since(closed.at).as_secs_f64());
            self.context.metrics.settled_epoch.set(closed.epoch as i64);
            self.context.metrics.settled.set(unix_seconds() as i64);
        }
        let recorded = self.context.clock.recorded();
        let mut ends = BTreeMap::new();
        while let Some(closed) = self.closed.front().filter(|closed| closed.settled && closed.epoch <= recorded) {
            ends.extend(closed.ends.iter().copied());
            self.closed.pop_front();
        }
        if !ends.is_empty() {
            self.from.durable(&ends.into_iter().collect::<Vec<_>>());
        }
    }

    /// True while too much is under way.
    fn gated(&mut self) -> bool {
        let unsettled = || self.closed.iter().filter(|closed| !closed.settled);
        let epochs = unsettled().count() as u64;
        let bytes: usize = unsettled().map(|closed| closed.bytes).sum::<usize>() + self.epoch_bytes;
        self.tell((epochs as i64, bytes as i64));
        let (epochs_max, bytes_max) = self.context.pressure.inflight(&self.context.inflight);
        epochs > 0 && (epochs >= epochs_max || bytes >= bytes_max)
    }

    /// Moves the gauges, which are sums over the workers.
    fn tell(&mut self, now: (i64, i64)) {
        self.context.metrics.inflight_epochs.add(now.0 - self.told.0);
        self.context.metrics.inflight_bytes.add(now.1 - self.told.1);
        self.told = now;
    }

    /// Once a second, also while nothing is read: that is when it grows.
    fn report_lag(&mut self) {
        if host::since(self.reported) < Duration::from_secs(1) {
            return;
        }
        self.reported = host::now();
        let metrics = &self.context.metrics;
        for lag in self.from.lag() {
            let (topic, number) = (self.context.topics.name(lag.partition.topic), lag.partition.number.to_string());
            metrics.source_lag.with_label_values(&[topic, &number]).set(lag.records);
            metrics.source_offset.with_label_values(&[topic, &number, "read"]).set(lag.position);
        }
        metrics.checkpoints_missed.set(i64::try_from(self.context.clock.missed()).unwrap_or(i64::MAX));
    }

    fn account(&mut self, records: &Records) {
        self.epoch_bytes += records.arena.len();
        let metrics = &self.context.metrics;
        // Runs of one partition are long: one label look-up a run.
        for run in records.records.chunk_by(|a, b| a.position.partition == b.position.partition) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let partition = first.position.partition;
            let labels = [self.context.topics.name(partition.topic), &partition.number.to_string()];
            metrics.source_records.with_label_values(&labels).inc_by(run.len() as u64);
            metrics.source_bytes.with_label_values(&labels).inc_by(run.iter().map(Record::bytes).sum());
            self.ends.insert(partition, last.position.offset + 1);
        }
    }
}

/// True if a record belongs to an epoch whose cuts these are, or to one before.
fn is_below(record: &Record, limits: &BTreeMap<Partition, i64>) -> bool {
    limits.get(&record.position.partition).is_some_and(|limit| record.position.offset < *limit)
}

impl Replay {
    /// Tells the source of the limits while too much is held back, and takes that back once little is.
    fn limit(&mut self, from: &mut dyn Poll, held_bytes: usize) {
        if held_bytes >= if self.limited { HELD_BYTES_MAX / 2 } else { HELD_BYTES_MAX } {
            from.limit(Some(&self.limits));
            self.limited = true;
        } else if self.limited {
            from.limit(None);
            self.limited = false;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.tell((0, 0));
    }
}
