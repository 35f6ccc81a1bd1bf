//! The table of signals: what can be measured, how it is coded, in which unit, and what is plausible.
//!
//! The truth is `schemas/signals.toml`; a flow may name another file (`decode.signals_file`), so a new signal needs no code.
//! The twelve shipped signals keep their number for ever (rules and features name them by it); more follow behind.

use serde::{Deserialize, Serialize};

/// Index of a signal in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SignalId(pub u8);

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
