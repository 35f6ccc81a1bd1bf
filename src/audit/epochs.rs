//! One operator for both ends of the audit: it hands a machine one whole epoch after the other.
//!
//! Knows nothing of what it carries. Holds the capability of an epoch until the epoch is complete on both inputs, and no longer; after a
//! start from saved state, its first one until the machine has put back what it had told before.

use std::collections::BTreeMap;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::{Capability, Operator};
use timely::progress::frontier::AntichainRef;

use crate::runtime::checkpoint::Seat;
use crate::runtime::driver::earlier;
use crate::runtime::survive::Survive;
use crate::time::Epoch;

/// A machine that applies whole epochs, and survives the process.
pub(super) trait ByEpoch: Survive + 'static {
    /// What comes on the left.
    type Left: 'static;
    /// What comes on the right.
    type Right: 'static;
    /// What leaves.
    type Output: Clone + 'static;

    /// Called once, before everything else, if this is a start from saved state: appends what has to be told again, in an epoch of
    /// its own below all others.
    fn first(&mut self, epoch: Epoch, emit: &mut Vec<Self::Output>);

    /// Applies one epoch with everything that came. What is appended leaves in that epoch.
    fn apply(&mut self, epoch: Epoch, left: Vec<Self::Left>, right: Vec<Self::Right>, emit: &mut Vec<Self::Output>);
}

/// What has arrived of an epoch.
struct Pending<L, R> {
    capability: Capability<Epoch>,
    left: Vec<L>,
    right: Vec<R>,
}

/// Has the machine apply each epoch once, ascending, when neither input can deliver any more of it; epochs in which nothing came are
/// passed over.
///
/// `epoch_of` says to which epoch an item of the left input belongs, given the one it travelled under (updates of a collection may
/// travel under an earlier one than their own). `restore` is the epoch in which saved state is put back, lower than every epoch of
/// both inputs; `None` if nothing was saved.
pub(super) fn by_epoch<'s, M: ByEpoch>(
    left: StreamVec<'s, Epoch, M::Left>,
    right: StreamVec<'s, Epoch, M::Right>,
    name: &str,
    restore: Option<Epoch>,
    epoch_of: impl Fn(&M::Left, Epoch) -> Epoch + 'static,
    mut seat: Seat<M>,
) -> StreamVec<'s, Epoch, M::Output>
where
    Vec<M::Left>: timely::Container,
    Vec<M::Right>: timely::Container,
{
    left.binary_frontier::<_, CapacityContainerBuilder<Vec<M::Output>>, _, _, _, _>(
        right,
        Pipeline,
        Pipeline,
        name,
        move |initial, _| {
            let mut restoring = restore.map(|epoch| initial.delayed(&epoch));
            let mut pending: BTreeMap<Epoch, Pending<M::Left, M::Right>> = BTreeMap::new();
            let mut emitted = Vec::new();
            move |(left, left_frontier), (right, right_frontier), output| {
                if let Some(capability) = restoring.take() {
                    seat.machine().first(*capability.time(), &mut emitted);
                    output.session(&capability).give_iterator(emitted.drain(..));
                }
                left.for_each(|travelled, batch| {
                    let &under = travelled.least().expect("a message travels under a capability");
                    for item in batch.drain(..) {
                        let epoch = epoch_of(&item, under);
                        let capability = || travelled.delayed(&epoch, 0);
                        pending.entry(epoch).or_insert_with(|| Pending::new(capability())).left.push(item);
                    }
                });
                right.for_each(|travelled, batch| {
                    let &epoch = travelled.least().expect("a message travels under a capability");
                    let capability = || travelled.delayed(&epoch, 0);
                    pending.entry(epoch).or_insert_with(|| Pending::new(capability())).right.append(batch);
                });
                let first_of = |frontier: AntichainRef<'_, Epoch>| frontier.first().copied();
                let open = earlier(first_of(left_frontier.frontier()), first_of(right_frontier.frontier()));
                loop {
                    seat.keep(earlier(open, pending.keys().next().copied()));
                    let Some(first) = pending.first_entry() else { break };
                    let epoch = *first.key();
                    if open.is_some_and(|open| open <= epoch) {
                        break;
                    }
                    let Pending { capability, left, right } = first.remove();
                    seat.machine().apply(epoch, left, right, &mut emitted);
                    output.session(&capability).give_iterator(emitted.drain(..));
                }
            }
        },
    )
}

impl<L, R> Pending<L, R> {
    fn new(capability: Capability<Epoch>) -> Self {
        Pending { capability, left: Vec::new(), right: Vec::new() }
    }
}
