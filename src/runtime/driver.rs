//! The operators that hold capabilities. Everything else in the project is a plain state machine that one of these drives.
//!
//! | operator | drives | holds |
//! |---|---|---|
//! | [`source`] | a [`Poll`] | the current epoch, until it closes |
//! | [`batches`], [`fork`] | a closure over whole batches | nothing |
//! | [`keyed`] | a [`Keyed`] machine | every epoch with input, until the frontier has passed it |
//! | [`sink`](super::delivery::sink) | a [`Deliver`](crate::sink::Deliver) on its thread | every epoch with rows, until it is settled |
//!
//! Invariants:
//!
//! 1. The timestamp is the epoch. A record belongs to the epoch in which it was read.
//! 2. A source is gated: it reads on only while fewer than `inflight.epochs` epochs and `inflight.bytes` bytes are unsettled
//!    (timely's own queues have no bound). One whole epoch is always let through, or nothing ever would be.
//! 3. A keyed machine sees whole epochs, in order, each sorted by position: what it computes does not depend on arrival.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use timely::ExchangeData;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::operator::{self, Operator};
use timely::dataflow::operators::probe::Handle;
use timely::dataflow::{Scope, StreamVec};
use timely::progress::frontier::AntichainRef;
use timely::scheduling::Activator;

use super::failure::Failure;
use super::metrics::Metrics;
use super::stop::Stop;
use crate::config::{EpochSpec, InflightSpec};
use crate::identified::{Arena, Mark, Record, Records};
use crate::source::{Poll, Polled};
use crate::time::Epoch;
use crate::vocabulary::Partition;

/// A source hands on about this many bytes at once: small enough for the cache, large enough that progress tracking costs nothing.
const BATCH_BYTES: usize = 1 << 20;

/// How long a source that found nothing, or is gated, waits until it looks again.
pub(super) const NAP: Duration = Duration::from_millis(2);

/// The stream of one kind of batches or items.
pub type Stream<'s, D> = StreamVec<'s, Epoch, D>;

/// Which epoch the sources of this process are in: the fastest one leads, so that none waits for another's clock.
#[derive(Clone, Debug)]
pub struct EpochClock(Arc<AtomicU64>);

impl EpochClock {
    /// Starts at `first`, which must be higher than every epoch of an earlier run (Unix milliseconds are).
    pub fn starting_at(first: Epoch) -> Self {
        EpochClock(Arc::new(AtomicU64::new(first)))
    }

    fn leader(&self) -> Epoch {
        self.0.load(Ordering::Relaxed)
    }

    fn advance(&self, from: Epoch) -> Epoch {
        self.0.fetch_max(from + 1, Ordering::Relaxed).max(from + 1)
    }
}

/// What a source operator needs besides its [`Poll`].
pub struct SourceContext {
    /// When epochs close.
    pub epoch: EpochSpec,
    /// How much may be under way.
    pub inflight: InflightSpec,
    /// The shared clock.
    pub clock: EpochClock,
    /// The frontier behind all sinks.
    pub settled: Handle<Epoch>,
    /// The highest epoch that is durable in all sinks of this process.
    pub durable: Box<dyn Fn() -> Epoch>,
    /// Asked to end.
    pub stop: Stop,
    /// Where a source that cannot go on says so.
    pub failure: Failure,
    /// Telemetry.
    pub metrics: Metrics,
    /// Names of topics, for labels.
    pub topics: crate::source::Topics,
}

/// Reads `from` until it ends, epoch by epoch.
pub fn source<'s>(
    scope: Scope<'s, Epoch>,
    name: &str,
    from: Box<dyn Poll>,
    context: SourceContext,
) -> Stream<'s, Records> {
    operator::source::<_, CapacityContainerBuilder<Vec<Records>>, _, _>(scope, name, move |capability, info| {
        let activator = scope.activator_for(info.address);
        let mut reader = Reader::new(from, context, capability, activator);
        move |output| {
            if let Some((capability, records)) = reader.step() {
                output.session(&capability).give(records);
            }
        }
    })
}

/// The state of a source operator.
struct Reader {
    from: Box<dyn Poll>,
    context: SourceContext,
    capability: Option<Capability<Epoch>>,
    activator: Activator,
    begun: Instant,
    /// Partitions that were opened, to be ended when the input is declared complete.
    opened: Vec<Partition>,
    epoch_bytes: usize,
    /// Bytes and ends of closed epochs that are not durable yet, oldest first.
    closed: VecDeque<Closed>,
    ends: BTreeMap<Partition, i64>,
    reported: Instant,
}

/// An epoch that was closed.
struct Closed {
    epoch: Epoch,
    bytes: usize,
    at: Instant,
    settled: bool,
    ends: Vec<(Partition, i64)>,
}

impl Reader {
    fn new(
        from: Box<dyn Poll>,
        context: SourceContext,
        mut capability: Capability<Epoch>,
        activator: Activator,
    ) -> Self {
        capability.downgrade(&context.clock.leader());
        let now = Instant::now();
        Reader {
            from,
            context,
            capability: Some(capability),
            activator,
            begun: now,
            opened: Vec::new(),
            epoch_bytes: 0,
            closed: VecDeque::new(),
            ends: BTreeMap::new(),
            reported: now,
        }
    }

    /// One activation: at most one batch.
    fn step(&mut self) -> Option<(Capability<Epoch>, Records)> {
        self.retire();
        let epoch = *self.capability.as_ref()?.time();
        if self.gated() {
            self.activator.activate_after(NAP);
            return None;
        }
        let started = Instant::now();
        let mut records = Records { arena: Arena::recycled(), ..Records::default() };
        let polled = self.poll(&mut records);
        let capability = self.capability.clone()?;
        self.account(&records, started);
        match polled {
            Polled::Some => self.activator.activate(),
            Polled::Nothing => self.activator.activate_after(NAP),
            Polled::End => self.close(None),
        }
        if polled != Polled::End && self.epoch_is_over(epoch) {
            let next = self.context.clock.advance(epoch);
            self.close(Some(next));
        }
        (!records.records.is_empty() || !records.marks.is_empty()).then_some((capability, records))
    }

    fn poll(&mut self, records: &mut Records) -> Polled {
        if self.context.stop.drain() {
            return Polled::End;
        }
        let complete = self.context.stop.is_complete();
        let polled = self.from.poll(BATCH_BYTES, records).unwrap_or_else(|error| {
            self.context.failure.report(format!("source: {error}"));
            Polled::End
        });
        self.opened.extend(
            records
                .marks
                .iter()
                .filter_map(|mark| if let Mark::Opened(partition) = mark { Some(*partition) } else { None }),
        );
        if complete && polled == Polled::Nothing {
            records.marks.extend(self.opened.drain(..).map(Mark::Ended));
            return Polled::End;
        }
        polled
    }

    fn epoch_is_over(&self, epoch: Epoch) -> bool {
        self.epoch_bytes >= self.context.epoch.bytes
            || self.begun.elapsed() >= Duration::from_millis(self.context.epoch.ms)
            || self.context.clock.leader() > epoch
    }

    /// Ends the current epoch and begins `next`, or ends the input.
    fn close(&mut self, next: Option<Epoch>) {
        let Some(capability) = self.capability.as_mut() else { return };
        let now = Instant::now();
        let ends = std::mem::take(&mut self.ends).into_iter().collect();
        self.closed.push_back(Closed {
            epoch: *capability.time(),
            bytes: self.epoch_bytes,
            at: now,
            settled: false,
            ends,
        });
        self.epoch_bytes = 0;
        self.begun = now;
        match next {
            Some(next) => capability.downgrade(&next.max(self.context.clock.leader())),
            None => self.capability = None,
        }
        if self.capability.is_none() {
            // Keep retiring until everything is durable.
            self.activator.activate_after(NAP);
        }
    }

    /// Notes which closed epochs have been settled, and reports durable offsets.
    fn retire(&mut self) {
        let durable = (self.context.durable)();
        for closed in self.closed.iter_mut().filter(|closed| !closed.settled) {
            if self.context.settled.less_equal(&closed.epoch) {
                break;
            }
            closed.settled = true;
            self.context.metrics.epoch_seconds.observe(closed.at.elapsed().as_secs_f64());
            self.context.metrics.settled_epoch.set(closed.epoch as i64);
        }
        while let Some(closed) = self.closed.front().filter(|closed| closed.settled && closed.epoch <= durable) {
            if !closed.ends.is_empty() {
                self.from.durable(&closed.ends);
            }
            self.closed.pop_front();
        }
    }

    /// True while too much is under way.
    fn gated(&self) -> bool {
        let unsettled = || self.closed.iter().filter(|closed| !closed.settled);
        let epochs = unsettled().count() as u64;
        let bytes: usize = unsettled().map(|closed| closed.bytes).sum::<usize>() + self.epoch_bytes;
        self.context.metrics.inflight_epochs.set(epochs as i64);
        self.context.metrics.inflight_bytes.set(bytes as i64);
        epochs > 0 && (epochs >= self.context.inflight.epochs || bytes >= self.context.inflight.bytes)
    }

    fn account(&mut self, records: &Records, started: Instant) {
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
        metrics.stage_busy.with_label_values(&["source"]).inc_by(started.elapsed().as_secs_f64());
        if self.reported.elapsed() >= Duration::from_secs(1) {
            self.reported = Instant::now();
            for lag in self.from.lag() {
                let labels = [self.context.topics.name(lag.partition.topic), &lag.partition.number.to_string()];
                metrics.source_lag.with_label_values(&labels).set(lag.records);
            }
        }
    }
}

/// Maps batches one by one, on the worker where they are.
pub fn batches<'s, In: 'static, Out: 'static>(
    input: Stream<'s, In>,
    name: &'static str,
    metrics: Metrics,
    mut logic: impl FnMut(Epoch, In, &mut Vec<Out>) + 'static,
) -> Stream<'s, Out> {
    input.unary::<CapacityContainerBuilder<Vec<Out>>, _, _, _>(Pipeline, name, move |_capability, _info| {
        let busy = metrics.stage_busy.with_label_values(&[name]);
        let mut out = Vec::new();
        move |input, output| {
            let started = Instant::now();
            let mut worked = false;
            input.for_each(|capability, data| {
                worked = true;
                let epoch = *capability.least().expect("a message has a time");
                for batch in data.drain(..) {
                    logic(epoch, batch, &mut out);
                }
                output.session(&capability).give_iterator(out.drain(..));
            });
            if worked {
                busy.inc_by(started.elapsed().as_secs_f64());
            }
        }
    })
}

/// What [`fork`] fills: three outputs of one batch.
pub struct Outputs<A, B, C> {
    /// The first output.
    pub first: Vec<A>,
    /// The second.
    pub second: Vec<B>,
    /// The third.
    pub third: Vec<C>,
}

/// Maps batches one by one into three streams.
pub fn fork<'s, In: 'static, A: 'static, B: 'static, C: 'static>(
    input: Stream<'s, In>,
    name: &'static str,
    metrics: Metrics,
    mut logic: impl FnMut(Epoch, In, &mut Outputs<A, B, C>) + 'static,
) -> (Stream<'s, A>, Stream<'s, B>, Stream<'s, C>) {
    let mut builder = OperatorBuilder::new(name.to_owned(), input.scope());
    let mut input = builder.new_input(input, Pipeline);
    let (first, first_stream) = builder.new_output();
    let (second, second_stream) = builder.new_output();
    let (third, third_stream) = builder.new_output();
    let mut first = OutputBuilder::<_, CapacityContainerBuilder<Vec<A>>>::from(first);
    let mut second = OutputBuilder::<_, CapacityContainerBuilder<Vec<B>>>::from(second);
    let mut third = OutputBuilder::<_, CapacityContainerBuilder<Vec<C>>>::from(third);
    builder.build(move |_capabilities| {
        let busy = metrics.stage_busy.with_label_values(&[name]);
        let mut out = Outputs { first: Vec::new(), second: Vec::new(), third: Vec::new() };
        move |_frontiers| {
            let started = Instant::now();
            let mut worked = false;
            let (mut first, mut second, mut third) = (first.activate(), second.activate(), third.activate());
            input.for_each(|capability, data| {
                worked = true;
                let epoch = *capability.least().expect("a message has a time");
                for batch in data.drain(..) {
                    logic(epoch, batch, &mut out);
                }
                first.session(&capability).give_iterator(out.first.drain(..));
                second.session(&capability).give_iterator(out.second.drain(..));
                third.session(&capability).give_iterator(out.third.drain(..));
            });
            if worked {
                busy.inc_by(started.elapsed().as_secs_f64());
            }
        }
    });
    (first_stream, second_stream, third_stream)
}

/// Maps batches one by one into two streams.
pub fn split<'s, In: 'static, A: 'static, B: 'static>(
    input: Stream<'s, In>,
    name: &'static str,
    metrics: Metrics,
    mut logic: impl FnMut(In, &mut Vec<A>, &mut Vec<B>) + 'static,
) -> (Stream<'s, A>, Stream<'s, B>) {
    let (first, second, _) = fork::<_, _, _, ()>(input, name, metrics, move |_epoch, batch, out| {
        logic(batch, &mut out.first, &mut out.second)
    });
    (first, second)
}

/// Makes a batch of the items that travel together.
pub fn gather<'s, D: 'static>(items: Stream<'s, D>, name: &'static str) -> Stream<'s, Vec<D>> {
    items.unary::<CapacityContainerBuilder<Vec<Vec<D>>>, _, _, _>(Pipeline, name, move |_capability, _info| {
        move |input, output| {
            input.for_each(|capability, data| output.session(&capability).give(std::mem::take(data)));
        }
    })
}

/// A machine whose state is keyed.
///
/// # Contract
/// `apply` is called once per epoch, in ascending order, with everything that this worker owns of it, sorted by `order`,
/// and with all broadcast `Tick`s of epochs up to and including it. What it pushes is emitted at that epoch.
pub trait Keyed: 'static {
    /// What is exchanged.
    type Input: ExchangeData;
    /// What is broadcast.
    type Tick: ExchangeData + Clone;
    /// One batch of output.
    type Output: 'static;
    /// What the input is sorted by within an epoch.
    type Order: Ord;

    /// Which worker owns it: taken modulo the number of workers. A fixed function of the key.
    fn route(input: &Self::Input) -> u64;

    /// The order within an epoch.
    fn order(input: &Self::Input) -> Self::Order;

    /// Applies a whole epoch; drains `inputs`.
    fn apply(
        &mut self,
        epoch: Epoch,
        inputs: &mut Vec<Self::Input>,
        ticks: &[Self::Tick],
    ) -> Result<Option<Self::Output>, String>;
}

/// Input of epochs that the frontier has not passed yet.
struct Pending<K: Keyed> {
    capability: Capability<Epoch>,
    inputs: Vec<K::Input>,
    ticks: Vec<K::Tick>,
}

impl<K: Keyed> Pending<K> {
    fn new(capability: Capability<Epoch>) -> Self {
        Pending { capability, inputs: Vec::new(), ticks: Vec::new() }
    }
}

/// Exchanges `input` by key, and hands whole, sorted epochs to the machine.
pub fn keyed<'s, K: Keyed>(
    input: Stream<'s, K::Input>,
    ticks: Stream<'s, K::Tick>,
    name: &'static str,
    metrics: Metrics,
    failure: Failure,
    mut machine: K,
) -> Stream<'s, K::Output> {
    let exchange = Exchange::new(|input: &K::Input| K::route(input));
    input.binary_frontier::<_, CapacityContainerBuilder<Vec<K::Output>>, _, _, _, _>(
        ticks,
        exchange,
        Pipeline,
        name,
        move |_capability, _info| {
            let busy = metrics.stage_busy.with_label_values(&[name]);
            let records = metrics.stage_records.with_label_values(&[name]);
            let mut pending: BTreeMap<Epoch, Pending<K>> = BTreeMap::new();
            move |(input, input_frontier), (ticks, tick_frontier), output| {
                let started = Instant::now();
                input.for_each(|capability, data| {
                    let capability = capability.retain_least(0).expect("a message has a time");
                    let epoch = *capability.time();
                    pending.entry(epoch).or_insert_with(|| Pending::new(capability)).inputs.append(data);
                });
                ticks.for_each(|capability, data| {
                    let capability = capability.retain_least(0).expect("a message has a time");
                    let epoch = *capability.time();
                    pending.entry(epoch).or_insert_with(|| Pending::new(capability)).ticks.append(data);
                });
                while let Some(entry) = pending.first_entry() {
                    let epoch = *entry.key();
                    if !passed(&input_frontier.frontier(), epoch) || !passed(&tick_frontier.frontier(), epoch) {
                        break;
                    }
                    let Pending { capability, mut inputs, ticks } = entry.remove();
                    records.inc_by(inputs.len() as u64);
                    // Stable: an epoch is a concatenation of a few sorted runs, which this sort merges.
                    inputs.sort_by_key(K::order);
                    match machine.apply(epoch, &mut inputs, &ticks) {
                        Ok(Some(out)) => output.session(&capability).give(out),
                        Ok(None) => {}
                        Err(error) => failure.report(format!("{name}: {error}")),
                    }
                    busy.inc_by(started.elapsed().as_secs_f64());
                }
            }
        },
    )
}

/// True once no message of `epoch` can arrive any more.
fn passed(frontier: &AntichainRef<'_, Epoch>, epoch: Epoch) -> bool {
    !frontier.less_equal(&epoch)
}
