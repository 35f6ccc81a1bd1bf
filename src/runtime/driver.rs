//! The operators that hold capabilities. Everything else in the project is a plain state machine that one of these drives.
//!
//! | operator | drives | holds |
//! |---|---|---|
//! | [`source`] (in `reader.rs`) | a [`Poll`](crate::source::Poll) | the current epoch, until it closes |
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
//!    Its state is saved between two epochs, at every border ([`checkpoint`](super::checkpoint)).
//! 4. Every source begins in the same epoch, so whatever opens with it is known before anything else is applied.
//! 5. What a source delivers before [`Polled::First`](crate::source::Polled::First) is in lower epochs, on every worker, than what any delivers after it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use timely::ExchangeData;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::operator::Operator;
use timely::progress::frontier::AntichainRef;
use timely::scheduling::Activator;

use super::checkpoint::Seat;
use super::failpoint::Guard;
use super::failure::Failure;
use super::host;
use super::metrics::Metrics;
pub use super::reader::{SourceContext, Tail, source};
use super::survive::Survive;
use crate::time::Epoch;

/// How long a source that found nothing, or is gated, waits until it looks again.
pub(super) const NAP: Duration = Duration::from_millis(2);

/// The stream of one kind of batches or items.
pub type Stream<'s, D> = StreamVec<'s, Epoch, D>;

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
        let now = host::now();
        if self.until.is_none_or(|until| until <= now) {
            self.activator.activate_after(NAP);
            self.until = Some(now + NAP);
        }
    }
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

/// Maps batches one by one into three streams, with a machine that survives.
///
/// Batches come in the order of their epochs, because they come from one operator of the same worker: the machine is saved before
/// the first one above a border, or when the frontier has come to it.
pub fn fork<'s, M: Survive + 'static, In: 'static, A: 'static, B: 'static, C: 'static>(
    input: Stream<'s, In>,
    name: &'static str,
    mut seat: Seat<M>,
    mut logic: impl FnMut(&mut M, Epoch, In, &mut Outputs<A, B, C>) + 'static,
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
        let mut out = Outputs { first: Vec::new(), second: Vec::new(), third: Vec::new() };
        move |frontiers| {
            let (mut first, mut second, mut third) = (first.activate(), second.activate(), third.activate());
            input.for_each(|capability, data| {
                let epoch = *capability.least().expect("a message has a time");
                seat.keep(Some(epoch));
                let mut machine = seat.machine();
                for batch in data.drain(..) {
                    logic(&mut machine, epoch, batch, &mut out);
                }
                first.session(&capability).give_iterator(out.first.drain(..));
                second.session(&capability).give_iterator(out.second.drain(..));
                third.session(&capability).give_iterator(out.third.drain(..));
            });
            seat.keep(frontiers[0].frontier().first().copied());
        }
    });
    (first_stream, second_stream, third_stream)
}

/// Maps batches one by one, on the worker where they are, with a machine that survives.
pub fn batches<'s, M: Survive + 'static, In: 'static, Out: 'static>(
    input: Stream<'s, In>,
    name: &'static str,
    seat: Seat<M>,
    mut logic: impl FnMut(&mut M, Epoch, In, &mut Vec<Out>) + 'static,
) -> Stream<'s, Out> {
    let (out, _, _) = fork::<_, _, _, (), ()>(input, name, seat, move |machine, epoch, batch, out| {
        logic(machine, epoch, batch, &mut out.first);
    });
    out
}

/// Maps batches one by one into two streams, without state.
pub fn split<'s, In: 'static, A: 'static, B: 'static>(
    input: Stream<'s, In>,
    name: &'static str,
    mut logic: impl FnMut(In, &mut Vec<A>, &mut Vec<B>) + 'static,
) -> (Stream<'s, A>, Stream<'s, B>) {
    let (first, second, _) = fork::<_, _, _, _, ()>(input, name, Seat::loose(()), move |(), _epoch, batch, out| {
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

/// Exchanges `input` by key, and hands whole, sorted epochs to the machine, whose state is saved at every border.
pub fn keyed<'s, K: Keyed + Survive>(
    input: Stream<'s, K::Input>,
    ticks: Stream<'s, K::Tick>,
    name: &'static str,
    (metrics, failure): (Metrics, Failure),
    mut seat: Seat<K>,
) -> Stream<'s, K::Output> {
    let exchange = Exchange::new(|input: &K::Input| K::route(input));
    input.binary_frontier::<_, CapacityContainerBuilder<Vec<K::Output>>, _, _, _, _>(
        ticks,
        exchange,
        Pipeline,
        name,
        move |_capability, _info| {
            let records = metrics.stage_records.with_label_values(&[name]);
            let mut pending: BTreeMap<Epoch, Pending<K>> = BTreeMap::new();
            // A megabyte or more, kept: a fresh one would be paid for page by page in every epoch.
            let mut sorted = Vec::new();
            let mut failed = false;
            move |(input, input_frontier), (ticks, tick_frontier), output| {
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
                let first_of = |frontier: AntichainRef<'_, Epoch>| frontier.first().copied();
                let open = earlier(first_of(input_frontier.frontier()), first_of(tick_frontier.frontier()));
                loop {
                    if !failed {
                        seat.keep(earlier(open, pending.keys().next().copied()));
                    }
                    let Some(entry) = pending.first_entry() else { break };
                    let epoch = *entry.key();
                    if failed || open.is_some_and(|open| open <= epoch) {
                        break;
                    }
                    let Pending { capability, inputs, ticks } = entry.remove();
                    in_order::<K>(inputs, &mut sorted);
                    records.inc_by(sorted.len() as u64);
                    match seat.machine().apply(epoch, &mut sorted, &ticks) {
                        Ok(Some(out)) => output.session(&capability).give(out),
                        Ok(None) => {}
                        Err(error) => {
                            // Its state is in pieces; the run is about to end.
                            failed = true;
                            failure.report(format!("{name}: {error}"));
                        }
                    }
                }
            }
        },
    )
}

/// Makes `sorted` one epoch's input. Parts are sorted already and rarely overlap (a part is a stretch of a few partitions), so that as a rule
/// each input is moved once.
fn in_order<K: Keyed>(mut parts: Vec<Vec<K::Input>>, sorted: &mut Vec<K::Input>) {
    if !Guard::Sort.holds() {
        return sorted.extend(parts.into_iter().flatten());
    }
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
    sorted.clear();
    sorted.reserve(pieces.iter().map(Vec::len).sum());
    for piece in &mut pieces {
        sorted.append(piece);
    }
    if overlap {
        sorted.sort_by_key(K::order);
    }
}

/// The lower of two epochs, either of which may not be there.
pub fn earlier(a: Option<Epoch>, b: Option<Epoch>) -> Option<Epoch> {
    a.into_iter().chain(b).min()
}
