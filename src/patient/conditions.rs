//! Which conditions of a patient count as comorbidities: beside the patients, so that a flow that takes none pays nothing.
//!
//! The newest version of each condition stands, by the order of versions of all resources ([`Version::precedence`]). Its comorbidities are part of the
//! patient's set; how many there are in it is what [`Demographics`](crate::vocabulary::Demographics) say.
//!
//! Invariants:
//!
//! 1. What counts nothing is kept only as long as it can matter: an earlier version may come after it, or it has withdrawn one. Most conditions are no
//!    comorbidities, come once, and leave nothing.
//! 2. A condition does not age: there is no horizon. It stands until a later version says something else.
//!
//! Limits: [`CONDITIONS_MAX`] of a patient. At the limit what counts nothing makes room, the lowest id first; if all count, a new one is not taken in, which
//! a metric tells (`windkessel_conditions_left_out_total`).
//! Kept: 32 bytes a condition, and 40 for each patient who has one.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::vocabulary::{Comorbidities, Condition, Precedence, Version};

/// Conditions of one patient that are kept. Who has as many diagnoses that count has all comorbidities there are.
pub(super) const CONDITIONS_MAX: usize = 256;

/// One condition, as its newest version has it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The first 64 bits of its pseudonym: enough among those of one patient.
    id: u64,
    version: Version,
    comorbidities: Comorbidities,
    withdraws: bool,
}

/// All conditions of one worker's patients.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    /// By the place of the patient.
    of: HashMap<u32, Vec<Kept>, foldhash::fast::FixedState>,
    /// Conditions that were not taken in since somebody asked.
    left_out: u64,
}

impl Conditions {
    /// Takes in what is said of a patient's condition; true if something has changed.
    pub(super) fn take(&mut self, patient: u32, condition: &Condition) -> bool {
        let conditions = self.of.entry(patient).or_default();
        let taken = take(conditions, condition);
        self.left_out += u64::from(taken == Taken::LeftOut);
        if conditions.is_empty() {
            self.of.remove(&patient);
        }
        taken == Taken::Changed
    }

    /// How many were not taken in since the last call, because their patient has as many as are kept.
    pub(super) fn left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }

    /// How many comorbidities a patient has.
    pub(super) fn count(&self, patient: u32) -> u8 {
        self.of(patient).iter().fold(Comorbidities::NONE, |all, kept| all.or(kept.comorbidities)).count()
    }

    /// The conditions of a patient, ascending by id.
    pub(super) fn of(&self, patient: u32) -> &[Kept] {
        self.of.get(&patient).map_or(&[], Vec::as_slice)
    }

    /// The patients who have one, ascending.
    pub(super) fn patients(&self) -> Vec<u32> {
        let mut patients: Vec<u32> = self.of.keys().copied().collect();
        patients.sort_unstable();
        patients
    }

    /// Puts in what was saved of a patient, in place of what is here; false if that cannot have been saved.
    pub(super) fn put(&mut self, patient: u32, conditions: Vec<Kept>) -> bool {
        let sound = conditions.len() <= CONDITIONS_MAX && conditions.is_sorted_by(|one, other| one.id < other.id);
        if sound && conditions.is_empty() {
            self.of.remove(&patient);
        } else if sound {
            self.of.insert(patient, conditions);
        }
        sound
    }
}

/// What came of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Changed,
    Nothing,
    /// All that are kept count, and they are as many as may be.
    LeftOut,
}

fn take(conditions: &mut Vec<Kept>, condition: &Condition) -> Taken {
    let Condition { comorbidities, withdraws, version, .. } = *condition;
    let id = condition.id.hash64();
    let place = conditions.binary_search_by_key(&id, |kept| kept.id);
    let known = place.ok().map(|place| conditions[place]);
    let mut new = Kept { id, version, comorbidities, withdraws };
    if let Some(known) = known {
        let same = || known.comorbidities == comorbidities;
        if version.precedence(withdraws, (known.version, known.withdraws), same) != Precedence::Newer {
            return Taken::Nothing;
        }
        if withdraws && version.number().is_none() {
            // Else what it withdraws would come back with the next copy.
            new.version = known.version;
        }
    }
    match place {
        Ok(place) if new.matters() => conditions[place] = new,
        Ok(place) => drop(conditions.remove(place)),
        Err(_) if !new.matters() => return Taken::Nothing,
        Err(place) => return insert(conditions, place, new),
    }
    Taken::Changed
}

fn insert(conditions: &mut Vec<Kept>, place: usize, new: Kept) -> Taken {
    let mut place = place;
    if conditions.len() >= CONDITIONS_MAX {
        let Some(idle) = conditions.iter().position(|kept| kept.comorbidities.is_empty()) else {
            return Taken::LeftOut;
        };
        conditions.remove(idle);
        place -= usize::from(idle < place);
    }
    conditions.insert(place, new);
    Taken::Changed
}

impl Kept {
    /// Whether it counts, or a version may come that it must be compared with.
    fn matters(&self) -> bool {
        !self.comorbidities.is_empty()
            || match self.version {
                Version::Unversioned => false,
                Version::Number(number) => self.withdraws || number > 1,
                Version::Updated(_) => true,
            }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::vocabulary::Pseudonym;

    fn condition(id: u64, means: &[u8], version: Version, withdraws: bool) -> Condition {
        let comorbidities = means.iter().fold(Comorbidities::NONE, |all, one| all.or(Comorbidities::one(*one)));
        Condition { id: Pseudonym((u128::from(id) << 64).to_be_bytes()), comorbidities, withdraws, version }
    }

    #[test]
    fn versions_decide_what_counts_whatever_the_order() {
        use Version::{Number, Unversioned};
        let said = [
            condition(1, &[0], Number(1), false),
            condition(1, &[], Number(2), false),
            condition(2, &[1, 2], Number(1), false),
            condition(3, &[1], Number(3), false),
            condition(3, &[], Number(3), true),
            condition(4, &[3], Number(2), false),
        ];
        // Every rotation, forwards and backwards.
        for turn in 0..said.len() {
            let mut order = said.to_vec();
            order.rotate_left(turn);
            for order in [order.clone(), order.into_iter().rev().collect()] {
                let mut conditions = Conditions::default();
                for condition in &order {
                    conditions.take(7, condition);
                }
                assert_eq!((conditions.count(7), conditions.count(8)), (3, 0), "{order:?}");
            }
        }
        let mut conditions = Conditions::default();
        assert!(conditions.take(0, &condition(5, &[4], Number(1), false)));
        assert!(conditions.take(0, &condition(5, &[], Unversioned, true)), "a deletion without a version");
        assert!(!conditions.take(0, &condition(5, &[4], Number(1), false)), "what was deleted does not come back");
        assert!(conditions.take(0, &condition(5, &[4], Number(2), false)));
        assert_eq!(conditions.count(0), 1);
    }

    #[test]
    fn what_can_matter_to_nobody_is_not_kept() {
        use Version::{Number, Unversioned, Updated};
        let mut conditions = Conditions::default();
        for version in [Unversioned, Number(1)] {
            assert!(!conditions.take(0, &condition(1, &[], version, false)));
        }
        assert!(!conditions.take(0, &condition(1, &[], Unversioned, true)));
        assert!(conditions.patients().is_empty());
        assert!(conditions.take(0, &condition(1, &[], Number(2), false)));
        assert!(conditions.take(1, &condition(1, &[], Updated(9), false)));
        assert!(conditions.take(2, &condition(1, &[1], Unversioned, false)));
        assert!(!conditions.take(2, &condition(1, &[1], Unversioned, false)), "said again");
        assert!(conditions.take(2, &condition(1, &[], Unversioned, false)));
        assert_eq!(conditions.patients(), [0, 1]);
        assert_eq!(size_of::<Kept>(), 32);
    }

    #[test]
    fn at_the_limit_what_counts_nothing_makes_room() {
        let mut conditions = Conditions::default();
        let limit = CONDITIONS_MAX as u64;
        (1..limit).for_each(|id| assert!(conditions.take(0, &condition(id * 2, &[1], Version::Unversioned, false))));
        assert!(conditions.take(0, &condition(1, &[], Version::Number(2), false)));
        assert_eq!(conditions.of(0).len(), CONDITIONS_MAX);
        assert!(conditions.take(0, &condition(9_999, &[2], Version::Unversioned, false)));
        assert_eq!((conditions.of(0).len(), conditions.count(0)), (CONDITIONS_MAX, 2));
        assert_eq!(conditions.left_out(), 0);
        assert!(!conditions.take(0, &condition(9_997, &[3], Version::Unversioned, false)), "all count");
        assert_eq!((conditions.left_out(), conditions.left_out()), (1, 0), "which is told, once");
        assert!(
            conditions.take(0, &condition(9_999, &[3], Version::Unversioned, false)),
            "one that is kept may change"
        );
        let kept = conditions.of(0).to_vec();
        let mut other = Conditions::default();
        assert!(other.put(0, kept.clone()) && other.of(0) == kept);
        assert!(!other.put(0, kept.iter().rev().copied().collect()), "out of order");
        assert!(!other.put(0, [kept.clone(), kept].concat()), "too many");
    }

    /// Against all versions ever said, looked through again each time.
    #[test]
    fn random_versions_count_as_a_look_at_all_of_them() {
        for seed in 0..200 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let (mut conditions, mut said) = (Conditions::default(), Vec::new());
            for _ in 0..60 {
                let (id, number) = (rng.random_range(0..5), rng.random_range(1..6));
                // A version says one thing; only that it was said in error may be added to it.
                let counts = !(id + number as u64).is_multiple_of(3);
                let means = [(id * 7 + number as u64 * 3) as u8 % 4].repeat(usize::from(counts));
                let new = condition(id, &means, Version::Number(number), false);
                let new = match rng.random_range(0..8) {
                    0 => condition(id, &[], Version::Number(number), true),
                    _ => new,
                };
                conditions.take(3, &new);
                said.push(new);
                let newest = |id: u64| {
                    let of = said.iter().filter(|one| one.id == condition(id, &[], Version::Unversioned, false).id);
                    of.max_by_key(|one| (one.version.number(), one.withdraws))
                };
                let all = (0..5).filter_map(newest).fold(Comorbidities::NONE, |all, one| all.or(one.comorbidities));
                assert_eq!(conditions.count(3), all.count(), "seed {seed}: {said:?}");
            }
        }
    }
}
