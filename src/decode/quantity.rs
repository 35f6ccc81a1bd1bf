//! One `value[x]` with its unit, judged as a value of one signal (CLINICAL rows 11 to 20).

use super::json::{Text, decimal};
use super::leniency::Leniency;
use super::rule;
use super::verdict::Broken;
use crate::config::MissingUnit;
use crate::signals::{Conversion, Signal, Unit};
use crate::vocabulary::Leniencies;

/// UCUM's URI as a code system.
const UCUM: &[u8] = b"http://unitsofmeasure.org";

/// What stands in the place of a value.
#[derive(Clone, Default)]
pub(super) struct Value<T> {
    pub(super) quantity: Option<Quantity<T>>,
    /// A value of another type than Quantity.
    pub(super) other: bool,
    /// `dataAbsentReason` is there.
    pub(super) absent_reason: bool,
}

/// A FHIR Quantity.
#[derive(Clone, Default)]
pub(super) struct Quantity<T> {
    pub(super) value: Number<T>,
    /// `_value`: an extension says why there is no value.
    pub(super) explained: bool,
    pub(super) unit: Option<T>,
    pub(super) system: Option<T>,
    pub(super) code: Option<T>,
    pub(super) comparator: bool,
    /// What the unit comes to, if that is known already; its texts are not looked at then.
    pub(super) scale: Option<Scale>,
}

/// What the unit of a quantity comes to.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    /// `None`: there is no unit, and the canonical one is assumed.
    conversion: Option<Conversion>,
    /// What was overlooked to find it.
    leniencies: Leniencies,
}

/// `Quantity.value`.
#[derive(Clone, Copy, Default)]
pub(super) enum Number<T> {
    #[default]
    Missing,
    Literal(T),
    Other,
}

impl<T: Copy> Value<T> {
    /// The same with every text exchanged.
    pub(super) fn map<U>(&self, of: &mut impl FnMut(T) -> U) -> Value<U> {
        let Value { ref quantity, other, absent_reason } = *self;
        Value { quantity: quantity.as_ref().map(|quantity| quantity.map(of)), other, absent_reason }
    }
}

impl<T: Copy> Quantity<T> {
    fn map<U>(&self, of: &mut impl FnMut(T) -> U) -> Quantity<U> {
        let Quantity { value, explained, unit, system, code, comparator, scale } = *self;
        let value = match value {
            Number::Missing => Number::Missing,
            Number::Literal(literal) => Number::Literal(of(literal)),
            Number::Other => Number::Other,
        };
        let (unit, system, code) = (unit.map(&mut *of), system.map(&mut *of), code.map(&mut *of));
        Quantity { value, explained, unit, system, code, comparator, scale }
    }

    /// Its value as it is written, if that is a number.
    pub(super) fn literal(&self) -> Option<T> {
        if let Number::Literal(literal) = self.value { Some(literal) } else { None }
    }
}

/// What a value comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Finding {
    /// A plausible value in the canonical unit.
    Measured(f64),
    /// None, and that is in order.
    Absent,
    /// It broke a rule.
    Broken(Broken),
}

/// Judges a value as one of `signal`.
pub(super) fn judge(
    value: &Value<Text<'_>>,
    signal: &Signal,
    unit_missing: MissingUnit,
    text: &mut Vec<u8>,
    leniencies: &mut Leniencies,
) -> Finding {
    match measure(value, signal, unit_missing, text, leniencies) {
        Ok(Some(value)) => Finding::Measured(value),
        Ok(None) => Finding::Absent,
        Err(broken) => Finding::Broken(broken),
    }
}

fn measure(
    value: &Value<Text<'_>>,
    signal: &Signal,
    unit_missing: MissingUnit,
    text: &mut Vec<u8>,
    leniencies: &mut Leniencies,
) -> Result<Option<f64>, Broken> {
    if value.other {
        return Err(Broken::new(rule::VALUE_NOT_QUANTITY, "value[x]"));
    }
    let Some(quantity) = &value.quantity else { return Ok(None) };
    let literal = match quantity.value {
        Number::Literal(literal) => literal,
        Number::Other => return Err(Broken::new(rule::VALUE_NOT_NUMBER, "valueQuantity.value")),
        Number::Missing if quantity.explained || value.absent_reason => return Ok(None),
        Number::Missing => return Err(Broken::new(rule::VALUE_MISSING, "valueQuantity.value")),
    };
    if value.absent_reason {
        return Err(Broken::new(rule::VALUE_AND_ABSENT_REASON, "dataAbsentReason"));
    }
    if quantity.comparator {
        return Err(Broken::new(rule::COMPARATOR, "valueQuantity.comparator"));
    }
    let Some(number) = decimal(literal.raw()) else {
        return Err(Broken::new(rule::VALUE_NOT_FINITE, "valueQuantity.value"));
    };
    let scale = match quantity.scale {
        Some(scale) => scale,
        None => scale(quantity, signal, unit_missing, text)?,
    };
    leniencies.0 |= scale.leniencies.0;
    let value = scale.conversion.map_or(number, |conversion| conversion.canonical(number));
    if !signal.plausible(value) {
        return Err(Broken::new(rule::IMPLAUSIBLE, "valueQuantity.value"));
    }
    Ok(Some(value))
}

/// What the unit of a quantity of `signal` comes to, whatever its value is.
pub(super) fn scale(
    quantity: &Quantity<Text<'_>>,
    signal: &Signal,
    unit_missing: MissingUnit,
    text: &mut Vec<u8>,
) -> Result<Scale, Broken> {
    let mut leniencies = Leniencies::default();
    let unit = unit(quantity, signal, text, &mut leniencies)?;
    if unit.is_none() && unit_missing != MissingUnit::AssumeCanonical {
        return Err(Broken::new(rule::UNIT_MISSING, "valueQuantity.unit"));
    }
    if unit.is_none() {
        Leniency::UnitAssumed.add_to(&mut leniencies);
    }
    Ok(Scale { conversion: unit.map(Unit::conversion), leniencies })
}

/// The unit of a quantity: its UCUM code, else a code that is a known spelling, else its text. `None` if it says nothing.
///
/// A UCUM code decides, whatever the text says (row 11). Under another code system a code says little, so the text is heard as well (row 50).
fn unit<'s>(
    quantity: &Quantity<Text<'_>>,
    signal: &'s Signal,
    buffer: &mut Vec<u8>,
    leniencies: &mut Leniencies,
) -> Result<Option<&'s Unit>, Broken> {
    const OTHER: Broken = Broken::new(rule::UNIT_OTHER, "valueQuantity.unit");
    let ucum = quantity.system.is_none_or(|system| system.is(UCUM));
    let code = quantity.code.filter(|code| !code.is(b""));
    let text = quantity.unit.filter(|text| !text.is(b""));
    if let Some(code) = code {
        let code = code.plain(buffer);
        if ucum && let Some(unit) = signal.unit_by_code(code) {
            return Ok(Some(unit));
        }
        if let Some(unit) = signal.unit_by_text(code) {
            Leniency::UnitCodeNotUcum.add_to(leniencies);
            return Ok(Some(unit));
        }
        if ucum || text.is_none() {
            return Err(OTHER);
        }
    }
    let Some(text) = text else { return Ok(None) };
    let unit = signal.unit_by_text(text.plain(buffer)).ok_or(OTHER)?;
    Leniency::UnitFromText.add_to(leniencies);
    Ok(Some(unit))
}
