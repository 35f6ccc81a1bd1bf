//! Pseudonyms of patients that a worker has met before: an HMAC costs about as much as a miss of the memory's caches, so what is remembered
//! lies in one line, and is fetched for many ids at once.
//!
//! Invariants:
//!
//! 1. A slot is a cache line, and holds the id itself: what is found is the pseudonym of exactly this id.
//! 2. An id has four places, as a rule it is in the first. If all are taken it displaces what is there, whose pseudonym is worked out again when it
//!    is asked for.
//! 3. Which places those are follows from a hash with random keys, so nobody can choose ids that displace each other.
//!
//! Limits: [`SLOTS_MAX`] slots; ids longer than [`ID_BYTES_MAX`] are not remembered.

use std::hash::BuildHasher;

use crate::vocabulary::Pseudonym;

/// Slots that one worker has at most.
pub(super) const SLOTS_MAX: usize = 1 << 21;
/// Slots that it begins with.
const SLOTS_MIN: usize = 1 << 10;
/// Slots in which an id may be: a power of two.
const PLACES: usize = 4;
/// Longest id that is remembered, in bytes: a UUID has 36.
const ID_BYTES_MAX: usize = 46;

/// Where an id may be.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place(u32);

/// The slots of one worker.
pub(super) struct Cache {
    /// A power of two of them.
    slots: Box<[Slot]>,
    used: usize,
    hasher: foldhash::fast::RandomState,
}

#[derive(Clone)]
#[repr(align(64))]
struct Slot {
    pseudonym: Pseudonym,
    /// Zero for an empty slot: no id is empty.
    length: u8,
    id: [u8; ID_BYTES_MAX],
}

/// Bytes of a slot.
pub(super) const SLOT_BYTES: usize = size_of::<Slot>();

impl Slot {
    const EMPTY: Slot = Slot { pseudonym: Pseudonym([0; 16]), length: 0, id: [0; ID_BYTES_MAX] };

    fn id(&self) -> &[u8] {
        &self.id[..usize::from(self.length)]
    }
}

impl Default for Cache {
    fn default() -> Self {
        Cache { slots: vec![Slot::EMPTY; SLOTS_MIN].into(), used: 0, hasher: Default::default() }
    }
}

impl Cache {
    /// Where an id may be, whatever the number of slots.
    pub(super) fn place(&self, id: &[u8]) -> Place {
        Place(self.hasher.hash_one(id) as u32)
    }

    /// Something of the slot, for the cache's sake.
    pub(super) fn touch(&self, place: Place) -> usize {
        usize::from(self.slots[self.slot(place)].length)
    }

    /// The pseudonym of an id, if it is remembered.
    pub(super) fn get(&self, place: Place, id: &[u8]) -> Option<Pseudonym> {
        // An empty slot is told by its length: the empty id must not be found there.
        let is = |slot: &&Slot| slot.length > 0 && slot.id() == id;
        self.places(place).map(|place| &self.slots[place]).find(is).map(|slot| slot.pseudonym)
    }

    /// Remembers the pseudonym of an id that was not found.
    pub(super) fn insert(&mut self, place: Place, id: &[u8], pseudonym: Pseudonym) {
        if id.is_empty() || id.len() > ID_BYTES_MAX {
            return;
        }
        if self.used > self.slots.len() / 2 && self.slots.len() < SLOTS_MAX {
            self.grow();
        }
        let mut slot = Slot { pseudonym, length: id.len() as u8, ..Slot::EMPTY };
        slot.id[..id.len()].copy_from_slice(id);
        self.put(place, slot);
    }

    fn put(&mut self, place: Place, slot: Slot) {
        let free = self.places(place).find(|place| self.slots[*place].length == 0);
        self.used += usize::from(free.is_some());
        self.slots[free.unwrap_or_else(|| self.slot(place))] = slot;
    }

    fn grow(&mut self) {
        let more = vec![Slot::EMPTY; 2 * self.slots.len()].into();
        let slots = std::mem::replace(&mut self.slots, more);
        self.used = 0;
        for slot in slots.into_iter().filter(|slot| slot.length > 0) {
            self.put(self.place(slot.id()), slot);
        }
    }

    /// The first slot of a place.
    fn slot(&self, Place(hash): Place) -> usize {
        hash as usize & (self.slots.len() - 1)
    }

    /// All slots of a place, the first one first.
    fn places(&self, place: Place) -> impl Iterator<Item = usize> + use<> {
        let first = self.slot(place);
        (0..PLACES).map(move |other| first ^ other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pseudonym(number: usize) -> Pseudonym {
        Pseudonym((number as u128).to_be_bytes())
    }

    #[test]
    fn what_is_found_is_of_exactly_this_id() {
        let mut cache = Cache::default();
        let ids: Vec<String> = (0..100_000).map(|number| format!("patient-{number}")).collect();
        let mut found = 0;
        for round in 0..2 {
            for (number, id) in ids.iter().enumerate() {
                let place = cache.place(id.as_bytes());
                match cache.get(place, id.as_bytes()) {
                    Some(known) => {
                        assert_eq!(known, pseudonym(number));
                        found += 1;
                    }
                    None => cache.insert(place, id.as_bytes(), pseudonym(number)),
                }
            }
            assert!(round > 0 || found == 0, "an id that was never inserted is not found");
        }
        // With less than half of the slots in use few ids find all their places taken.
        assert!(found > 85_000, "{found} of 100,000 are remembered");
    }

    #[test]
    fn it_grows_to_its_limit_and_then_forgets() {
        let mut cache = Cache::default();
        for number in 0..3 * SLOTS_MAX {
            let id = number.to_string();
            let place = cache.place(id.as_bytes());
            cache.insert(place, id.as_bytes(), pseudonym(number));
        }
        assert_eq!(cache.slots.len(), SLOTS_MAX);
        assert!(cache.used <= SLOTS_MAX);
        let last = 3 * SLOTS_MAX - 1;
        let id = last.to_string();
        assert_eq!(cache.get(cache.place(id.as_bytes()), id.as_bytes()), Some(pseudonym(last)));
    }

    #[test]
    fn the_empty_and_the_longest_id_are_worked_out_each_time() {
        let mut cache = Cache::default();
        for id in [&b""[..], &[b'x'; ID_BYTES_MAX + 1]] {
            let place = cache.place(id);
            cache.insert(place, id, pseudonym(1));
            assert_eq!(cache.get(place, id), None);
        }
        let longest = [b'x'; ID_BYTES_MAX];
        let place = cache.place(&longest);
        cache.insert(place, &longest, pseudonym(2));
        assert_eq!(cache.get(place, &longest), Some(pseudonym(2)));
        assert_eq!((cache.get(place, &longest[1..]), SLOT_BYTES), (None, 64));
    }
}
