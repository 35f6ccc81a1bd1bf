//! One operator for both ends of the audit: a machine that is handed one whole epoch after the other.
//!
//! Knows nothing of what it carries. Holds the capability of an epoch until the epoch is complete on both inputs, and no longer.

use std::collections::BTreeMap;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::{Capability, Operator};

use crate::time::Epoch;

/// What has arrived of an epoch.
struct Pending<L, R> {
    capability: Capability<Epoch>,
    left: Vec<L>,
    right: Vec<R>,
}

/// Calls `apply` once per epoch, ascending, when neither input can deliver any more of it, with everything that came; epochs in which
/// nothing came are passed over. What `apply` appends to its last argument leaves in that epoch.
///
/// `epoch_of` says to which epoch an item of the left input belongs, given the one it travelled under (updates of a collection may
/// travel under an earlier one than their own).
pub(super) fn by_epoch<'s, L: 'static, R: 'static, O: Clone + 'static>(
    left: StreamVec<'s, Epoch, L>,
    right: StreamVec<'s, Epoch, R>,
    name: &str,
    epoch_of: impl Fn(&L, Epoch) -> Epoch + 'static,
    mut apply: impl FnMut(Epoch, Vec<L>, Vec<R>, &mut Vec<O>) + 'static,
) -> StreamVec<'s, Epoch, O>
where
    Vec<L>: timely::Container,
    Vec<R>: timely::Container,
{
    left.binary_frontier::<_, CapacityContainerBuilder<Vec<O>>, _, _, _, _>(right, Pipeline, Pipeline, name, |_, _| {
        let mut pending: BTreeMap<Epoch, Pending<L, R>> = BTreeMap::new();
        let mut emitted = Vec::new();
        move |(left, left_frontier), (right, right_frontier), output| {
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
            while let Some(first) = pending.first_entry() {
                let epoch = *first.key();
                if left_frontier.less_equal(&epoch) || right_frontier.less_equal(&epoch) {
                    break;
                }
                let Pending { capability, left, right } = first.remove();
                apply(epoch, left, right, &mut emitted);
                output.session(&capability).give_iterator(emitted.drain(..));
            }
        }
    })
}

impl<L, R> Pending<L, R> {
    fn new(capability: Capability<Epoch>) -> Self {
        Pending { capability, left: Vec::new(), right: Vec::new() }
    }
}
