//! The table of signals: what can be measured, how it is coded, in which unit, and what is plausible.
//!
//! The truth is `schemas/signals.toml`; a flow may name another file (`decode.signals_file`), so a new signal needs no code.
//! The twelve shipped signals keep their number for ever (rules and features name them by it); more follow behind.
//!
//! **Invariants**
//!
//! 1. A signal's number is its place in the table, and the first twelve places are the shipped names.
//! 2. A (system, code) pair has at most one meaning in the whole table.
//! 3. Looking a coding up allocates nothing and compares one candidate: [`CodeIndex`] is open addressing over a fixed hash.
//!
//! Limits: [`SIGNALS_MAX`] signals, [`SYSTEMS_MAX`] code systems. It does not judge values: `decode` does, with these ranges.

mod index;
mod table;

use serde::{Deserialize, Serialize};

pub use index::{CodeIndex, Meaning, System};
pub use table::{Conversion, Panel, Signal, SignalTable, Unit, Variant};

/// Index of a signal in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SignalId(pub u8);

/// Most signals in a table.
pub const SIGNALS_MAX: usize = 128;
/// Most code systems in a table.
pub const SYSTEMS_MAX: usize = 32;

/// Systolic blood pressure, mm[Hg].
pub const SYSTOLIC: SignalId = SignalId(0);
/// Diastolic blood pressure, mm[Hg].
pub const DIASTOLIC: SignalId = SignalId(1);
/// Mean arterial pressure as the device measured it, mm[Hg].
pub const MEAN_ARTERIAL: SignalId = SignalId(2);
/// Heart rate, /min.
pub const HEART_RATE: SignalId = SignalId(3);
/// Respiratory rate, /min.
pub const RESPIRATORY_RATE: SignalId = SignalId(4);
/// Oxygen saturation, %.
pub const OXYGEN_SATURATION: SignalId = SignalId(5);
/// Body temperature, Cel.
pub const TEMPERATURE: SignalId = SignalId(6);
/// Blood glucose, mmol/L.
pub const GLUCOSE: SignalId = SignalId(7);
/// Serum creatinine, umol/L.
pub const CREATININE: SignalId = SignalId(8);
/// Body weight, kg.
pub const WEIGHT: SignalId = SignalId(9);
/// Body height, cm.
pub const HEIGHT: SignalId = SignalId(10);
/// Body mass index, kg/m2.
pub const BODY_MASS_INDEX: SignalId = SignalId(11);

/// The names of the twelve, in order: every table begins with them.
pub const SHIPPED: [&str; 12] = [
    "systolic",
    "diastolic",
    "mean_arterial",
    "heart_rate",
    "respiratory_rate",
    "oxygen_saturation",
    "temperature",
    "glucose",
    "creatinine",
    "weight",
    "height",
    "body_mass_index",
];
