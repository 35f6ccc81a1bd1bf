//! From a coding to its meaning, on the hot path.

use super::{Panel, SignalId, SignalTable, Variant};

/// A code system of the table, as a small number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct System(u8);

/// What a coding means to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A signal that the flow takes.
    Signal(SignalId, Variant),
    /// Something about the components of the Observation.
    Panel(Panel),
}

/// The codes of the signals that one flow takes, and of all panels.
///
/// Open addressing, linear probing, at most half full; the hash is fixed, so every worker and every run probes alike.
#[derive(Clone, Debug)]
pub struct CodeIndex {
    systems: Vec<Box<[u8]>>,
    loinc: Option<System>,
    slots: Box<[Option<Slot>]>,
}

#[derive(Clone, Debug)]
struct Slot {
    system: System,
    code: Box<[u8]>,
    meaning: Meaning,
}

impl CodeIndex {
    /// An index over the codes of `signals` and of every panel.
    pub fn new(table: &SignalTable, signals: &[SignalId]) -> Self {
        let systems: Vec<Box<[u8]>> = table.systems().iter().map(|uri| uri.as_bytes().into()).collect();
        let mut entries = Vec::new();
        for &id in signals {
            for (code, variant) in table.signal(id).codes() {
                entries.push((code, Meaning::Signal(id, *variant)));
            }
        }
        entries.extend(table.panels().iter().map(|(panel, code)| (code, Meaning::Panel(*panel))));
        let mut slots: Box<[Option<Slot>]> = vec![None; (entries.len() * 2).next_power_of_two().max(2)].into();
        for (code, meaning) in entries {
            let slot = Slot { system: System(code.system), code: code.code.as_bytes().into(), meaning };
            let mut at = hash(slot.system, &slot.code) & (slots.len() - 1);
            while slots[at].is_some() {
                at = (at + 1) & (slots.len() - 1);
            }
            slots[at] = Some(slot);
        }
        let loinc = systems.iter().position(|uri| **uri == *b"http://loinc.org").map(|at| System(at as u8));
        CodeIndex { systems, loinc, slots }
    }

    /// The system with this URI, if the table knows it.
    pub fn system(&self, uri: &[u8]) -> Option<System> {
        self.systems.iter().position(|known| **known == *uri).map(|at| System(at as u8))
    }

    /// What a code of a system means.
    pub fn meaning(&self, system: System, code: &[u8]) -> Option<Meaning> {
        let mask = self.slots.len() - 1;
        let mut at = hash(system, code) & mask;
        while let Some(slot) = &self.slots[at] {
            if slot.system == system && *slot.code == *code {
                return Some(slot.meaning);
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// What a code without any system means: only a LOINC code is telling enough (`dddd-d` with a check digit; the others are bare numbers).
    pub fn meaning_without_system(&self, code: &[u8]) -> Option<Meaning> {
        self.meaning(self.loinc?, code)
    }
}

/// Mixes the length, the first and the last eight bytes: codes are short and differ at the ends.
fn hash(system: System, code: &[u8]) -> usize {
    let word = |bytes: &[u8]| bytes.iter().fold(0u64, |word, &byte| word << 8 | u64::from(byte));
    let (head, tail) = match code.len() {
        0..=8 => (word(code), 0),
        length => (word(&code[..8]), word(&code[length - 8..])),
    };
    // Multipliers: the 64-bit golden ratio and the second constant of splitmix64.
    let mixed = (head ^ u64::from(system.0) << 56).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ^ (tail ^ code.len() as u64).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (mixed ^ mixed >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::super::{DIASTOLIC, HEART_RATE, SYSTOLIC};
    use super::*;

    #[test]
    fn every_code_of_the_table_is_found_and_no_other() {
        let table = SignalTable::shipped();
        let all: Vec<SignalId> = table.iter().map(|(id, _)| id).collect();
        let index = CodeIndex::new(&table, &all);
        for (id, signal) in table.iter() {
            for (code, variant) in signal.codes() {
                let system = index.system(table.systems()[usize::from(code.system)].as_bytes()).unwrap();
                assert_eq!(index.meaning(system, code.code.as_bytes()), Some(Meaning::Signal(id, *variant)));
                let longer = format!("{}0", code.code);
                assert_eq!(index.meaning(system, longer.as_bytes()), None);
            }
        }
        assert_eq!(index.system(b"http://loinc.org/"), None);
    }

    #[test]
    fn signals_that_a_flow_does_not_take_have_no_meaning_but_panels_do() {
        let table = SignalTable::shipped();
        let index = CodeIndex::new(&table, &[SYSTOLIC, DIASTOLIC]);
        let loinc = index.system(b"http://loinc.org").unwrap();
        assert_eq!(index.meaning(loinc, b"8480-6"), Some(Meaning::Signal(SYSTOLIC, Variant::General)));
        assert_eq!(index.meaning(loinc, b"8867-4"), None);
        assert_eq!(index.meaning(loinc, b"76284-9"), Some(Meaning::Panel(Panel::Elsewhere)));
        assert!(CodeIndex::new(&table, &[HEART_RATE]).meaning(loinc, b"8867-4").is_some());
    }

    #[test]
    fn a_code_counts_only_with_its_own_system() {
        let table = SignalTable::shipped();
        let index = CodeIndex::new(&table, &[SYSTOLIC]);
        let snomed = index.system(b"http://snomed.info/sct").unwrap();
        assert_eq!(index.meaning(snomed, b"8480-6"), None);
        assert_eq!(index.meaning_without_system(b"8480-6"), Some(Meaning::Signal(SYSTOLIC, Variant::General)));
        assert_eq!(index.meaning_without_system(b"271649006"), None);
    }
}
