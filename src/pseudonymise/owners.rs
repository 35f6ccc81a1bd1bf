//! Whose an observation is, as long as that may be asked: a tombstone names the observation that it deletes, and not its patient. An outcome of a patient is
//! kept like an observation; its partition is another.
//!
//! Kept by partition, because a tombstone has the key, and so the partition, of what it deletes: what is forgotten, and when, then depends
//! on the partition alone, and not on which others are read by the same worker. Two generations: when the younger one holds
//! half of [`OWNERS_MAX`], the older is forgotten and the younger takes its place.
//!
//! Limits: [`OWNERS_MAX`] a partition, about 70 bytes each: 9 MB. A topic that is not written by key may have its tombstones in another partition than its
//! observations; those are not found.

use std::collections::BTreeMap;

use foldhash::HashMap;
use serde::{Deserialize, Serialize};

use crate::runtime::survive::{Blocks, Corrupt, Extent, entries};
use crate::source::Topics;
use crate::vocabulary::{Partition, Pseudonym};

/// Observations of one partition whose patient is remembered; at least the latest half of them are.
pub const OWNERS_MAX: usize = 1 << 17;

/// The owners of all partitions that are read here.
#[derive(Debug)]
pub(super) struct Owners {
    /// Of one partition.
    owners_max: usize,
    partitions: BTreeMap<Partition, Generations>,
}

/// The owners of one partition.
#[derive(Debug, Default)]
struct Generations {
    younger: Generation,
    older: Generation,
    /// How often the younger took the older's place since the last save; two stands for more.
    turns: u8,
}

#[derive(Debug, Default)]
struct Generation {
    owners: HashMap<Pseudonym, Owner>,
    /// Some of them are not saved.
    changed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Owner {
    patient: Pseudonym,
    saved: bool,
}

/// Observation and patient.
type Pair = (Pseudonym, Pseudonym);

/// What is saved of one partition: new owners, in the generations into which they belong after so many turns.
#[derive(Serialize, Deserialize)]
struct Saved {
    partition: Partition,
    /// Two make all that was loaded before obsolete.
    turns: u8,
    older: Vec<Pair>,
    younger: Vec<Pair>,
}

impl Owners {
    /// Nobody yet, and never more than `owners_max` of a partition.
    pub(super) fn new(owners_max: usize) -> Self {
        Owners { owners_max, partitions: BTreeMap::new() }
    }

    /// Remembers whose an observation is, until half of `owners_max` others of its partition have come, or later.
    pub(super) fn own(&mut self, partition: Partition, observation: Pseudonym, patient: Pseudonym) {
        let generations = self.partitions.entry(partition).or_default();
        if generations.younger.owners.len() >= self.owners_max / 2 {
            generations.turn();
            generations.turns = (generations.turns + 1).min(2);
        }
        generations.younger.own(observation, Owner { patient, saved: false });
    }

    /// Whose an observation of this partition is.
    pub(super) fn patient(&self, partition: Partition, observation: &Pseudonym) -> Option<Pseudonym> {
        let Generations { younger, older, .. } = self.partitions.get(&partition)?;
        younger.owners.get(observation).or_else(|| older.owners.get(observation)).map(|owner| owner.patient)
    }

    /// Saves the owners that are new since the last save, or all, by the routes of their partitions.
    pub(super) fn save(&mut self, extent: Extent, topics: &Topics, into: &mut Blocks) {
        for (partition, generations) in &mut self.partitions {
            let turns = if extent == Extent::All { 2 } else { generations.turns };
            if turns == 0 && !generations.younger.changed {
                continue;
            }
            let saved = Saved {
                partition: *partition,
                turns,
                older: generations.older.save(extent),
                younger: generations.younger.save(extent),
            };
            into.push(topics.route(*partition), &saved);
            generations.turns = 0;
        }
    }

    /// Takes in a block.
    pub(super) fn load(&mut self, block: &[u8], topics: &Topics) -> Result<(), Corrupt> {
        let what = "owner of an observation";
        entries(block, what, |saved: Saved| {
            if !topics.has(saved.partition.topic) {
                return Err(Corrupt { what });
            }
            let generations = self.partitions.entry(saved.partition).or_default();
            if saved.turns > 1 {
                generations.turn();
            }
            if saved.turns > 0 {
                // They were saved after they had become the older ones.
                generations.younger.load(saved.older);
                generations.turn();
            }
            generations.younger.load(saved.younger);
            Ok(())
        })
    }
}

impl Generations {
    fn turn(&mut self) {
        self.older = std::mem::take(&mut self.younger);
    }
}

impl Generation {
    fn own(&mut self, observation: Pseudonym, owner: Owner) {
        // What is known already is saved already, or will be.
        if self.owners.get(&observation).is_none_or(|known| known.patient != owner.patient) {
            self.owners.insert(observation, owner);
            self.changed |= !owner.saved;
        }
    }

    /// Those that are not saved, or all, ascending.
    fn save(&mut self, extent: Extent) -> Vec<Pair> {
        let mut pairs = Vec::new();
        if self.changed || extent == Extent::All {
            let new = self.owners.iter_mut().filter(|(_, owner)| extent == Extent::All || !owner.saved);
            pairs.extend(new.map(|(observation, owner)| {
                owner.saved = true;
                (*observation, owner.patient)
            }));
            pairs.sort_unstable();
        }
        self.changed = false;
        pairs
    }

    fn load(&mut self, pairs: Vec<Pair>) {
        pairs.into_iter().for_each(|(observation, patient)| self.own(observation, Owner { patient, saved: true }));
    }
}

#[cfg(test)]
mod tests {
    //! Proves that the older half is forgotten, by partition; that saved owners are those of a machine that went on.

    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::runtime::survive::testing::mutilated;

    const OWNERS: usize = 600;
    const P: Partition = Partition { topic: crate::vocabulary::TopicId(0), number: 0 };
    const Q: Partition = Partition { number: 1, ..P };

    fn pseudonym(number: usize) -> Pseudonym {
        Pseudonym((number as u128).to_be_bytes())
    }

    fn topics() -> Topics {
        Topics::new(["bp-obs".to_owned()])
    }

    fn held(owners: &Owners, partition: Partition) -> Vec<Vec<Pair>> {
        let Generations { younger, older, .. } = &owners.partitions[&partition];
        let sorted = |generation: &Generation| {
            let mut pairs: Vec<Pair> = generation.owners.iter().map(|(own, owner)| (*own, owner.patient)).collect();
            pairs.sort_unstable();
            pairs
        };
        vec![sorted(older), sorted(younger)]
    }

    #[test]
    fn of_too_many_owners_the_older_half_of_the_partition_is_forgotten() {
        let mut owners = Owners::new(OWNERS);
        owners.own(Q, pseudonym(0), pseudonym(8));
        (0..OWNERS).for_each(|number| owners.own(P, pseudonym(number), pseudonym(7)));
        assert_eq!(held(&owners, P).iter().map(Vec::len).sum::<usize>(), OWNERS);
        owners.own(P, pseudonym(OWNERS), pseudonym(7));
        assert_eq!(owners.patient(P, &pseudonym(0)), None);
        assert_eq!(owners.patient(P, &pseudonym(OWNERS / 2)), Some(pseudonym(7)));
        assert_eq!(owners.patient(Q, &pseudonym(0)), Some(pseudonym(8)), "another partition");
    }

    #[test]
    fn saved_owners_are_those_of_a_machine_that_went_on() {
        let half = OWNERS / 2;
        let topics = topics();
        for seed in 0..100 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let (mut alone, mut saved) = (Owners::new(OWNERS), Owners::new(OWNERS));
            let (mut blocks, mut next) = (Vec::new(), 0);
            for save in 0..5 {
                // Up to more than two generations between two saves, some observations a second time, some with another patient.
                for _ in 0..[0, 1, half / 3, half, 5 * half / 2][rng.random_range(0..5)] {
                    let known = next > 0 && rng.random_bool(0.1);
                    let number = if known { rng.random_range(0..next) } else { next };
                    next += usize::from(!known);
                    let patient = pseudonym(rng.random_range(0..2) * 1_000 + number % 1_000);
                    alone.own(P, pseudonym(number), patient);
                    saved.own(P, pseudonym(number), patient);
                }
                let extent = if save == 0 || rng.random_bool(0.2) { Extent::All } else { Extent::Changed };
                blocks.truncate(if extent == Extent::All { 0 } else { blocks.len() });
                let mut block = Blocks::default();
                saved.save(extent, &topics, &mut block);
                blocks.push(block);
                if rng.random_bool(0.5) {
                    saved = Owners::new(OWNERS);
                    for (_, block) in blocks.iter().flat_map(Blocks::iter) {
                        saved.load(block, &topics).unwrap();
                    }
                }
                if next > 0 {
                    assert_eq!(held(&saved, P), held(&alone, P), "seed {seed}, save {save}");
                }
            }
        }
    }

    #[test]
    fn what_is_known_is_not_saved_again() {
        let (topics, mut owners) = (topics(), Owners::new(OWNERS));
        let bytes = |owners: &mut Owners, extent| {
            let mut blocks = Blocks::default();
            owners.save(extent, &topics, &mut blocks);
            blocks.bytes()
        };
        (0..100).for_each(|number| owners.own(P, pseudonym(number), pseudonym(7)));
        assert_eq!(bytes(&mut owners, Extent::All), 100 * 32 + 5);
        owners.own(P, pseudonym(5), pseudonym(7));
        assert_eq!(bytes(&mut owners, Extent::Changed), 0);
        owners.own(P, pseudonym(5), pseudonym(8));
        assert_eq!(bytes(&mut owners, Extent::Changed), 32 + 5);
    }

    #[test]
    fn a_mutilated_block_is_corrupt_or_possible() {
        let (topics, mut rng) = (topics(), ChaCha8Rng::seed_from_u64(1));
        let (mut owners, mut blocks, mut refused) = (Owners::new(OWNERS), Blocks::default(), 0);
        (0..50).for_each(|number| owners.own(P, pseudonym(number), pseudonym(7)));
        owners.save(Extent::All, &topics, &mut blocks);
        let block = blocks.iter().next().unwrap().1;
        for _ in 0..2_000 {
            let mut owners = Owners::new(OWNERS);
            match owners.load(&mutilated(block, &mut rng), &topics) {
                Err(_) => refused += 1,
                Ok(()) => owners.own(P, pseudonym(1), pseudonym(9)),
            }
        }
        assert!(refused > 500, "{refused}");
    }
}
