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
//! 4. Every source begins in the same epoch, so whatever opens with it is known before anything else is applied.
//! 5. What a source delivers before [`Polled::First`] is in lower epochs, on every worker, than what any delivers after it.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
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
pub struct EpochClock(Arc<Ticking>);

#[derive(Debug)]
struct Ticking {
    first: Epoch,
    leader: AtomicU64,
    /// Sources that have not delivered yet what comes first.
    expected: AtomicUsize,
}

impl EpochClock {
    /// For `sources` sources. Starts at `first`, which must be higher than every epoch of an earlier run (Unix milliseconds are).
    pub fn starting_at(first: Epoch, sources: usize) -> Self {
        EpochClock(Arc::new(Ticking { first, leader: AtomicU64::new(first), expected: AtomicUsize::new(sources) }))
    }

    fn leader(&self) -> Epoch {
        self.0.leader.load(Ordering::SeqCst)
    }

    fn advance(&self, from: Epoch) -> Epoch {
        self.0.leader.fetch_max(from + 1, Ordering::SeqCst).max(from + 1)
    }

    /// One source has delivered what comes first, and has advanced the clock since.
    fn arrive(&self) {
        self.0.expected.fetch_sub(1, Ordering::SeqCst);
    }

    fn all_have_arrived(&self) -> bool {
        self.0.expected.load(Ordering::SeqCst) == 0
    }
}

/// Wakes an operator in a little while: one alarm at a time, however often it is asked for.
pub(super) struct Nap {
    activator: Activator,
    until: Option<Instant>,
}

impl Nap {
    pub(super) fn new(activator: Activator) -> Self {
        Nap { activator, until: None }
    }

    pub(super) fn take(&mut self) {
        let now = Instant::now();
        if self.until.is_none_or(|until| until <= now) {
            self.activator.activate_after(NAP);
            self.until = Some(now + NAP);
        }
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

/// Reads `from` until it ends, epoch by epoch. The tail is to be finished once the dataflow has completed.
pub fn source<'s>(
    scope: Scope<'s, Epoch>,
    name: &str,
    from: Box<dyn Poll>,
    context: SourceContext,
) -> (Stream<'s, Records>, Tail) {
    // Timely drops an operator as soon as it can emit nothing more; what it read last is not durable then.
    let tail = Tail(Rc::new(RefCell::new(None)));
    let shared = Rc::clone(&tail.0);
    let stream =
        operator::source::<_, CapacityContainerBuilder<Vec<Records>>, _, _>(scope, name, move |capability, info| {
            let activator = scope.activator_for(info.address);
            *shared.borrow_mut() = Some(Reader::new(from, context, capability, activator));
            move |output| {
                let step = shared.borrow_mut().as_mut().and_then(Reader::step);
                if let Some((capability, records)) = step {
                    output.session(&capability).give(records);
                }
            }
        });
    (stream, tail)
}

/// A source that has been read to its end.
pub struct Tail(Rc<RefCell<Option<Reader>>>);

impl Tail {
    /// Reports what has become durable last, and parts with the source.
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
    /// Partitions that were opened, to be ended when the input is declared complete.
    opened: Vec<Partition>,
    first: First,
    epoch_bytes: usize,
    /// Bytes and ends of closed epochs that are not durable yet, oldest first.
    closed: VecDeque<Closed>,
    ends: BTreeMap<Partition, i64>,
    reported: Instant,
    /// Epochs and bytes under way as last told to the gauges, which all sources share.
    told: (i64, i64),
}

/// How far a source is with what comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// It may still deliver some of it.
    Reading,
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

impl Reader {
    fn new(
        from: Box<dyn Poll>,
        context: SourceContext,
        mut capability: Capability<Epoch>,
        activator: Activator,
    ) -> Self {
        // The first epoch, not the leader's: this worker may be late, and what it opens must not be.
        capability.downgrade(&context.clock.0.first);
        let now = Instant::now();
        Reader {
            from,
            context,
            capability: Some(capability),
            activator,
            begun: now,
            opened: Vec::new(),
            first: First::Reading,
            epoch_bytes: 0,
            closed: VecDeque::new(),
            ends: BTreeMap::new(),
            reported: now,
            told: (0, 0),
        }
    }

    /// One activation: at most one batch.
    fn step(&mut self) -> Option<(Capability<Epoch>, Records)> {
        self.retire();
        self.capability.as_ref()?;
        self.report_lag();
        if self.gated() {
            self.activator.activate_after(NAP);
            return None;
        }
        self.go_on();
        let started = Instant::now();
        let mut records = Records { arena: Arena::recycled(), ..Records::default() };
        let polled = self.poll(&mut records);
        let capability = self.capability.clone()?;
        self.account(&records, started);
        match polled {
            Polled::Some | Polled::First => self.activator.activate(),
            Polled::Nothing => self.activator.activate_after(NAP),
            Polled::End => self.close(None),
        }
        let epoch = *capability.time();
        if polled == Polled::First || (polled != Polled::End && self.epoch_is_over(epoch)) {
            let next = self.context.clock.advance(epoch);
            self.close(Some(next));
        }
        if self.first == First::Reading && matches!(polled, Polled::First | Polled::End) {
            // After the clock was advanced: whoever sees this sees a leader beyond everything that came first.
            self.context.clock.arrive();
            self.first = First::Waiting;
        }
        (!records.records.is_empty() || !records.marks.is_empty()).then_some((capability, records))
    }

    /// Ends the wait for the others, in an epoch that is higher than all in which something came first.
    fn go_on(&mut self) {
        if self.first == First::Waiting && self.context.clock.all_have_arrived() {
            self.first = First::Over;
            self.close(Some(self.context.clock.leader()));
        }
    }

    fn poll(&mut self, records: &mut Records) -> Polled {
        if self.context.stop.drain() {
            return Polled::End;
        }
        if self.first == First::Waiting {
            return Polled::Nothing;
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

    /// Ends the current epoch and begins `next` or the leader's, whichever is higher; or ends the input.
    fn close(&mut self, next: Option<Epoch>) {
        let Some(capability) = self.capability.as_mut() else { return };
        let now = Instant::now();
        let ends = std::mem::take(&mut self.ends).into_iter().collect();
        let epoch = *capability.time();
        self.closed.push_back(Closed { epoch, bytes: self.epoch_bytes, at: now, settled: false, ends });
        self.epoch_bytes = 0;
        self.begun = now;
        match next {
            Some(next) => capability.downgrade(&next.max(self.context.clock.leader())),
            None => self.capability = None,
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
    fn gated(&mut self) -> bool {
        let unsettled = || self.closed.iter().filter(|closed| !closed.settled);
        let epochs = unsettled().count() as u64;
        let bytes: usize = unsettled().map(|closed| closed.bytes).sum::<usize>() + self.epoch_bytes;
        self.tell((epochs as i64, bytes as i64));
        epochs > 0 && (epochs >= self.context.inflight.epochs || bytes >= self.context.inflight.bytes)
    }

    /// Moves the gauges, which are sums over the workers.
    fn tell(&mut self, now: (i64, i64)) {
        self.context.metrics.inflight_epochs.add(now.0 - self.told.0);
        self.context.metrics.inflight_bytes.add(now.1 - self.told.1);
        self.told = now;
    }

    /// Once a second, also while nothing is read: that is when it grows.
    fn report_lag(&mut self) {
        if self.reported.elapsed() < Duration::from_secs(1) {
            return;
        }
        self.reported = Instant::now();
        for lag in self.from.lag() {
            let labels = [self.context.topics.name(lag.partition.topic), &lag.partition.number.to_string()];
            self.context.metrics.source_lag.with_label_values(&labels).set(lag.records);
        }
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
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.tell((0, 0));
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
    /// As they came: each a stretch of one worker's reading.
    inputs: Vec<Vec<K::Input>>,
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
            let mut failed = false;
            move |(input, input_frontier), (ticks, tick_frontier), output| {
                let started = Instant::now();
                input.for_each(|capability, data| {
                    let capability = capability.retain_least(0).expect("a message has a time");
                    let epoch = *capability.time();
                    pending.entry(epoch).or_insert_with(|| Pending::new(capability)).inputs.push(std::mem::take(data));
                });
                ticks.for_each(|capability, data| {
                    let capability = capability.retain_least(0).expect("a message has a time");
                    let epoch = *capability.time();
                    pending.entry(epoch).or_insert_with(|| Pending::new(capability)).ticks.append(data);
                });
                while let Some(entry) = pending.first_entry() {
                    let epoch = *entry.key();
                    if failed || !passed(&input_frontier.frontier(), epoch) || !passed(&tick_frontier.frontier(), epoch)
                    {
                        break;
                    }
                    let Pending { capability, inputs, ticks } = entry.remove();
                    let mut inputs = in_order::<K>(inputs);
                    records.inc_by(inputs.len() as u64);
                    match machine.apply(epoch, &mut inputs, &ticks) {
                        Ok(Some(out)) => output.session(&capability).give(out),
                        Ok(None) => {}
                        Err(error) => {
                            // Its state is in pieces; the run is about to end.
                            failed = true;
                            failure.report(format!("{name}: {error}"));
                        }
                    }
                    busy.inc_by(started.elapsed().as_secs_f64());
                }
            }
        },
    )
}

/// One epoch's input, sorted. Parts are sorted already and rarely overlap (a part is a stretch of a few partitions), so that as a rule
/// each input is moved once.
fn in_order<K: Keyed>(mut parts: Vec<Vec<K::Input>>) -> Vec<K::Input> {
    let mut pieces: Vec<Vec<K::Input>> = Vec::with_capacity(parts.len());
    for part in &mut parts {
        // From the end, so that each split moves its own piece alone.
        let starts: Vec<usize> = (1..part.len()).filter(|at| K::order(&part[*at]) < K::order(&part[at - 1])).collect();
        for start in starts.into_iter().rev() {
            pieces.push(part.split_off(start));
        }
    }
    pieces.append(&mut parts);
    pieces.retain(|piece| !piece.is_empty());
    pieces.sort_by_key(|piece| piece.first().map(K::order));
    let overlap = pieces.windows(2).any(|pair| pair[0].last().map(K::order) > pair[1].first().map(K::order));
    let mut sorted = Vec::with_capacity(pieces.iter().map(Vec::len).sum());
    for piece in &mut pieces {
        sorted.append(piece);
    }
    if overlap {
        sorted.sort_by_key(K::order);
    }
    sorted
}

/// True once no message of `epoch` can arrive any more.
fn passed(frontier: &AntichainRef<'_, Epoch>, epoch: Epoch) -> bool {
    !frontier.less_equal(&epoch)
}
