//! Flaws of inputs, as data quality counts them: what each is called, and sets of them.
//!
//! A name is that of the rule (`decode/rule.rs`) or leniency (`decode/leniency.rs`) that it comes from, where there is one. The names are in rows of
//! `quality` and in metric labels: they never change.
//!
//! | measure | an input counts under it if |
//! |---|---|
//! | `readings` | it is a reading that stands, a duplicate of one, or was meant to be one: rejected, or a signal without value |
//! | `signal_missing` | of the two pressures only one was measured; a signal is named and has no value (`no_value`, `value_missing`) |
//! | `unit_assumed` | the value has no unit, the canonical one was assumed |
//! | `late` | it was behind its partition's watermark when it first came; corrections are not late |
//! | `duplicate` | the same version had been seen |
//! | `rejected` | it broke a rule, whichever |
//! | `value_out_of_range` | its value is not plausible (`implausible`, `systolic_not_above_diastolic`, `value_not_finite`) |
//! | `unit_missing` | it was rejected because the value has no unit |
//! | `unit_other` | it was rejected because the unit is none of the signal's |
//! | `clock_ahead` | it was rejected because the device's clock ran ahead of the broker's |

use crate::time::EventTime;
use crate::vocabulary::TopicId;

/// Something that inputs are counted under; its number is its bit in [`Flaws`]. The first four can be of a reading that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table above")]
pub enum Flaw {
    /// None at all: every input has this one.
    Readings,
    SignalMissing,
    UnitAssumed,
    Late,
    Duplicate,
    Rejected,
    ValueOutOfRange,
    UnitMissing,
    UnitOther,
    ClockAhead,
}

/// Names by number.
pub const MEASURES: [&str; 10] = [
    "readings",
    "signal_missing",
    "unit_assumed",
    "late",
    "duplicate",
    "rejected",
    "value_out_of_range",
    "unit_missing",
    "unit_other",
    "clock_ahead",
];

/// A set of [`Flaw`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flaws(u16);

impl Flaws {
    /// No input, no flaw.
    pub const NONE: Flaws = Flaws(0);

    /// An input with one flaw; of [`Flaw::Readings`] one without.
    pub const fn input(flaw: Flaw) -> Self {
        Flaws(1 << Flaw::Readings as u16 | 1 << flaw as u16)
    }

    /// The same with one more.
    #[must_use]
    pub const fn with(self, flaw: Flaw, on: bool) -> Self {
        Flaws(self.0 | (on as u16) << flaw as u16)
    }

    /// The flaws alone: the input is counted by who asks.
    #[must_use]
    pub const fn alone(self) -> Self {
        Flaws(self.0 & !1)
    }

    /// Whether it is among them.
    pub const fn has(self, flaw: Flaw) -> bool {
        self.0 & 1 << flaw as u16 != 0
    }

    /// True if nothing is in it.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// A bit for each number.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// From [`bits`](Flaws::bits) of a reading that stands; `None` if such a one cannot have them: what was read from outside may say anything.
    pub const fn standing(bits: u16) -> Option<Self> {
        let flaws = Flaws(bits);
        let sound = bits < 1 << Flaw::Duplicate as u16 && (bits == 0 || flaws.has(Flaw::Readings));
        if sound { Some(flaws) } else { None }
    }

    /// Their numbers, ascending.
    pub fn numbers(self) -> impl Iterator<Item = usize> {
        (0..MEASURES.len()).filter(move |number| self.0 & 1 << number != 0)
    }
}

/// A change of what data quality counts. It says nothing of a single input but its flaws, topic and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flawed {
    /// Where the inputs came from.
    pub topic: TopicId,
    /// When they were measured. Of what `decode` did not let through only the start of the pane is told: [`decode`](crate::decode) says how it is found.
    pub at: EventTime,
    /// What they are counted under.
    pub flaws: Flaws,
    /// How many more inputs, or fewer.
    pub count: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flaws_number_is_its_place_and_every_one_of_them_is_of_an_input() {
        for (flaw, name) in [
            (Flaw::Readings, "readings"),
            (Flaw::SignalMissing, "signal_missing"),
            (Flaw::UnitAssumed, "unit_assumed"),
            (Flaw::Late, "late"),
            (Flaw::Duplicate, "duplicate"),
            (Flaw::Rejected, "rejected"),
            (Flaw::ValueOutOfRange, "value_out_of_range"),
            (Flaw::UnitMissing, "unit_missing"),
            (Flaw::UnitOther, "unit_other"),
            (Flaw::ClockAhead, "clock_ahead"),
        ] {
            let names: Vec<&str> = Flaws::input(flaw).alone().numbers().map(|number| MEASURES[number]).collect();
            assert_eq!(names, if flaw == Flaw::Readings { vec![] } else { vec![name] });
            assert!(Flaws::input(flaw).has(Flaw::Readings) && Flaws::input(flaw).has(flaw));
        }
    }

    #[test]
    fn what_stands_has_its_own_flaws_alone() {
        let both = Flaws::input(Flaw::Late).with(Flaw::UnitAssumed, true).with(Flaw::SignalMissing, false);
        let standing = |flaws: Flaws| Flaws::standing(flaws.bits());
        assert_eq!((standing(both), standing(Flaws::NONE)), (Some(both), Some(Flaws::NONE)));
        assert!(!both.has(Flaw::SignalMissing));
        assert_eq!(standing(both.alone()), None, "flaws of no input");
        assert_eq!(standing(both.with(Flaw::Duplicate, true)), None);
    }
}
