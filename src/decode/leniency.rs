//! What was overlooked to read an observation, counted by name.

use crate::vocabulary::Leniencies;

/// One deviation that is let through; its place in [`Leniency::ALL`] is its bit in [`Leniencies`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leniency {
    /// A component's coding has no system; its code was taken for LOINC (CLINICAL row 3).
    ComponentCodeWithoutSystem,
    /// The same for the Observation's own code.
    CodeWithoutSystem,
    /// The panel has the code that 85354-9 replaced (row 4).
    PanelSuperseded,
    /// The panel's code is none that is known; its components speak for themselves.
    PanelUnknown,
    /// Only "blood pressure", in SNOMED CT, says what the panel is (row 5).
    PanelGeneric,
    /// A code that names a position or method (row 10).
    PositionSpecific,
    /// The unit was recognised by its text, not by a UCUM code (row 12).
    UnitFromText,
    /// What stands as unit code is a spelling, not UCUM (row 12).
    UnitCodeNotUcum,
    /// No unit at all: the canonical one was assumed (row 15).
    UnitAssumed,
    /// Status `preliminary` (row 23).
    StatusPreliminary,
    /// Status `registered` or `unknown` (row 24).
    StatusUncertain,
    /// `issued` stands for the effective time (row 34).
    EffectiveFromIssued,
    /// The broker's timestamp stands for the effective time.
    EffectiveFromReceived,
    /// Only the year or month is known; its first day was taken (row 31).
    EffectivePartial,
    /// A `urn:uuid:` that no Bundle entry resolves: the UUID stands for the patient (row 36).
    SubjectUnresolved,
    /// The patient is known by a logical identifier (row 37).
    SubjectIdentifier,
    /// An id that FHIR would not allow, but that servers use.
    IdNonstandard,
    /// A key occurred twice; the last stands (row 45).
    DuplicateKey,
}

impl Leniency {
    /// All of them with their names, which are metric labels.
    pub const ALL: [(Leniency, &'static str); 18] = [
        (Leniency::ComponentCodeWithoutSystem, "component_code_without_system"),
        (Leniency::CodeWithoutSystem, "code_without_system"),
        (Leniency::PanelSuperseded, "panel_superseded"),
        (Leniency::PanelUnknown, "panel_unknown"),
        (Leniency::PanelGeneric, "panel_generic"),
        (Leniency::PositionSpecific, "position_specific"),
        (Leniency::UnitFromText, "unit_from_text"),
        (Leniency::UnitCodeNotUcum, "unit_code_not_ucum"),
        (Leniency::UnitAssumed, "unit_assumed"),
        (Leniency::StatusPreliminary, "status_preliminary"),
        (Leniency::StatusUncertain, "status_uncertain"),
        (Leniency::EffectiveFromIssued, "effective_from_issued"),
        (Leniency::EffectiveFromReceived, "effective_from_received"),
        (Leniency::EffectivePartial, "effective_partial"),
        (Leniency::SubjectUnresolved, "subject_unresolved"),
        (Leniency::SubjectIdentifier, "subject_identifier"),
        (Leniency::IdNonstandard, "id_nonstandard"),
        (Leniency::DuplicateKey, "duplicate_key"),
    ];

    /// Adds this one to a set.
    pub(super) fn add_to(self, set: &mut Leniencies) {
        set.0 |= 1 << self as u32;
    }

    /// Whether it is in a set.
    pub fn is_in(self, set: Leniencies) -> bool {
        set.0 & 1 << self as u32 != 0
    }

    /// The names of a set.
    pub fn names(set: Leniencies) -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().filter(move |(one, _)| one.is_in(set)).map(|(_, name)| name)
    }
}

/// Observations that needed each leniency.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeniencyCounts([u64; Leniency::ALL.len()]);

impl LeniencyCounts {
    /// Counts an observation.
    pub(super) fn add(&mut self, set: Leniencies) {
        let mut rest = set.0;
        while rest != 0 {
            self.0[rest.trailing_zeros() as usize] += 1;
            rest &= rest - 1;
        }
    }

    /// The counts above zero, by name; they start again at zero.
    pub fn drain(&mut self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = std::mem::take(&mut self.0);
        Leniency::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0).map(|((_, name), count)| (name, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leniencys_bit_is_its_place() {
        for (at, (one, name)) in Leniency::ALL.into_iter().enumerate() {
            assert_eq!(one as usize, at, "{name}");
        }
    }

    #[test]
    fn counts_are_drained_by_name() {
        let mut set = Leniencies::default();
        Leniency::UnitFromText.add_to(&mut set);
        Leniency::DuplicateKey.add_to(&mut set);
        let mut counts = LeniencyCounts::default();
        counts.add(set);
        counts.add(set);
        assert_eq!(counts.drain().collect::<Vec<_>>(), [("unit_from_text", 2), ("duplicate_key", 2)]);
        assert_eq!(counts.drain().count(), 0);
    }
}
