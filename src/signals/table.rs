//! Reading and checking the table's text.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::{SHIPPED, SIGNALS_MAX, SYSTEMS_MAX, SignalId};

/// Longest spelling of a unit that is compared, in bytes; a longer one is no known unit.
pub(super) const UNIT_TEXT_MAX: usize = 48;

/// The table of signals, checked.
#[derive(Clone, Debug)]
pub struct SignalTable {
    signals: Vec<Signal>,
    panels: Vec<(Panel, Code)>,
    systems: Vec<String>,
}

/// One measurable quantity.
#[derive(Clone, Debug)]
pub struct Signal {
    /// The word for it.
    pub name: String,
    /// Its output column: the name with its unit.
    pub column: String,
    /// The canonical unit, a UCUM code.
    pub unit: String,
    /// The lowest plausible value, in the canonical unit; still accepted.
    pub plausible_min: f64,
    /// The highest plausible value; still accepted.
    pub plausible_max: f64,
    units: Vec<Unit>,
    codes: Vec<(Code, Variant)>,
}

/// A unit that a signal may come in: canonical = (value + offset) × factor.
#[derive(Clone, Debug)]
pub struct Unit {
    ucum: String,
    conversion: Conversion,
    texts: Vec<Vec<u8>>,
}

/// How a value of a unit becomes one of the canonical unit.
#[derive(Clone, Copy, Debug)]
pub struct Conversion {
    offset: f64,
    factor: f64,
}

/// A code, with its system as an index into the table's systems.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Code {
    pub(super) system: u8,
    pub(super) code: String,
}

/// How a code narrows its signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Not at all.
    General,
    /// Measured in a certain position or by a certain method.
    Specific,
    /// A mean over several readings.
    Average,
}

/// What the code of a whole Observation says of its components.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Panel {
    /// A panel of these signals.
    Confirms,
    /// The same, by a code that was replaced.
    Superseded,
    /// The components are means over several readings.
    Average,
    /// "Blood pressure", and no word about where.
    Generic,
    /// Not systemic arterial: the components' codes must not be believed.
    Elsewhere,
}

impl SignalTable {
    /// The shipped table.
    pub fn shipped() -> Self {
        Self::parse(include_str!("../../schemas/signals.toml")).expect("a test reads the shipped table")
    }

    /// The shipped table, or the one in a file. For start-up: stages read no files.
    pub fn load(file: Option<&Path>) -> Result<Self, String> {
        let Some(path) = file else { return Ok(Self::shipped()) };
        let hint = "decode.signals_file must name a table like schemas/signals.toml";
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("could not read the table of signals {path:?}: {error}; {hint}"))?;
        Self::parse(&text).map_err(|error| format!("could not use the table of signals {path:?}: {error}"))
    }

    /// Reads a table. Errors name the entry and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let written: Written = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        let systems: Vec<String> = written.systems.values().cloned().collect();
        if systems.len() > SYSTEMS_MAX {
            return Err(format!(
                "{} code systems are more than the {SYSTEMS_MAX} that a table may have",
                systems.len()
            ));
        }
        let names: Vec<&String> = written.systems.keys().collect();
        let code = |written: &WrittenCode| Code::check(written, &names);
        let mut signals = Vec::new();
        for signal in &written.signal {
            signals.push(Signal::check(signal, &written.units, &code)?);
        }
        let mut panels = Vec::new();
        for panel in &written.panel {
            for written in &panel.codes {
                panels.push((panel.kind, code(written)?));
            }
        }
        let table = SignalTable { signals, panels, systems };
        table.check_names()?;
        table.check_codes()?;
        Ok(table)
    }

    fn check_names(&self) -> Result<(), String> {
        let begins = self.signals.iter().map(|signal| signal.name.as_str()).take(SHIPPED.len()).eq(SHIPPED);
        if !begins {
            return Err(format!(
                "the first signals must be {}, in this order: they are known by number",
                SHIPPED.join(", ")
            ));
        }
        if self.signals.len() > SIGNALS_MAX {
            return Err(format!(
                "{} signals are more than the {SIGNALS_MAX} that a table may have",
                self.signals.len()
            ));
        }
        let mut seen = BTreeSet::new();
        for signal in &self.signals {
            for word in [("name", &signal.name), ("column", &signal.column)] {
                if !seen.insert(word) {
                    return Err(format!("the {} {:?} occurs twice", word.0, word.1));
                }
            }
        }
        Ok(())
    }

    fn check_codes(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        let of_signals = self.signals.iter().flat_map(|signal| signal.codes.iter().map(|(code, _)| code));
        for code in of_signals.chain(self.panels.iter().map(|(_, code)| code)) {
            if !seen.insert(code) {
                let system = &self.systems[usize::from(code.system)];
                return Err(format!("the code {:?} of {system} has two meanings", code.code));
            }
        }
        Ok(())
    }

    /// The number of a signal, by name.
    pub fn id(&self, name: &str) -> Option<SignalId> {
        self.signals.iter().position(|signal| signal.name == name).map(|at| SignalId(at as u8))
    }

    /// A signal. Panics if the number is not from this table.
    pub fn signal(&self, id: SignalId) -> &Signal {
        &self.signals[usize::from(id.0)]
    }

    /// All signals with their numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (SignalId, &Signal)> {
        self.signals.iter().enumerate().map(|(at, signal)| (SignalId(at as u8), signal))
    }

    pub(super) fn systems(&self) -> &[String] {
        &self.systems
    }

    pub(super) fn panels(&self) -> &[(Panel, Code)] {
        &self.panels
    }
}

impl Signal {
    fn check(
        written: &WrittenSignal,
        units: &BTreeMap<String, Vec<WrittenUnit>>,
        code: &dyn Fn(&WrittenCode) -> Result<Code, String>,
    ) -> Result<Self, String> {
        let name = &written.name;
        let words = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        if !words(name) || !words(&written.column) {
            return Err(format!("signal {name:?}: name and column are lower-case letters, digits and _"));
        }
        let [min, max] = written.plausible;
        if !(min.is_finite() && max.is_finite() && min < max) {
            return Err(format!("signal {name:?}: plausible must be [lowest, highest], got [{min}, {max}]"));
        }
        let listed = units.get(&written.units).ok_or_else(|| format!("signal {name:?}: no units.{}", written.units))?;
        let units: Vec<Unit> = listed.iter().map(Unit::check).collect::<Result<_, _>>()?;
        let canonical = units.first().is_some_and(|unit| {
            unit.ucum == written.unit && unit.conversion.factor == 1.0 && unit.conversion.offset == 0.0
        });
        if !canonical {
            return Err(format!(
                "signal {name:?}: the first of units.{} must be its unit {:?}, unscaled",
                written.units, written.unit
            ));
        }
        let mut codes = Vec::new();
        for written in &written.codes {
            let variant = match written.variant.as_deref() {
                None => Variant::General,
                Some("average") => Variant::Average,
                Some(_) => Variant::Specific,
            };
            codes.push((code(written)?, variant));
        }
        Ok(Signal {
            name: name.clone(),
            column: written.column.clone(),
            unit: written.unit.clone(),
            plausible_min: min,
            plausible_max: max,
            units,
            codes,
        })
    }

    /// The unit with this UCUM code (without annotations), or with this text as `{…}`-stripped code.
    pub fn unit_by_code(&self, code: &[u8]) -> Option<&Unit> {
        let bare = |code: &[u8]| self.units.iter().find(|unit| unit.ucum.as_bytes() == code);
        if let Some(unit) = bare(code) {
            return Some(unit);
        }
        let mut buffer = [0; UNIT_TEXT_MAX];
        bare(strip_annotations(code, &mut buffer)?)
    }

    /// The unit that is spelled so, by the table's comparison of texts.
    pub fn unit_by_text(&self, text: &[u8]) -> Option<&Unit> {
        let mut buffer = [0; UNIT_TEXT_MAX];
        let text = fold(text, &mut buffer)?;
        self.units.iter().find(|unit| unit.texts.iter().any(|known| known == text))
    }

    /// True within the plausible range, bounds included; false for NaN.
    pub fn plausible(&self, value: f64) -> bool {
        (self.plausible_min..=self.plausible_max).contains(&value)
    }

    pub(super) fn codes(&self) -> &[(Code, Variant)] {
        &self.codes
    }
}

impl Unit {
    fn check(written: &WrittenUnit) -> Result<Self, String> {
        if !written.factor.is_finite() || written.factor == 0.0 || !written.offset.is_finite() {
            return Err(format!("unit {:?}: factor and offset must be finite, the factor not 0", written.ucum));
        }
        let mut texts = Vec::new();
        for text in &written.texts {
            let mut buffer = [0; UNIT_TEXT_MAX];
            let folded = fold(text.as_bytes(), &mut buffer).ok_or_else(|| {
                format!("unit {:?}: the text {text:?} is longer than {UNIT_TEXT_MAX} bytes", written.ucum)
            })?;
            texts.push(folded.to_vec());
        }
        let conversion = Conversion { offset: written.offset, factor: written.factor };
        Ok(Unit { ucum: written.ucum.clone(), conversion, texts })
    }

    /// A value of this unit in the canonical one.
    pub fn canonical(&self, value: f64) -> f64 {
        self.conversion.canonical(value)
    }

    /// The same, without the unit's names.
    pub fn conversion(&self) -> Conversion {
        self.conversion
    }
}

impl Conversion {
    /// The value in the canonical unit.
    pub fn canonical(self, value: f64) -> f64 {
        (value + self.offset) * self.factor
    }
}

impl Code {
    fn check(written: &WrittenCode, systems: &[&String]) -> Result<Self, String> {
        let system = systems
            .iter()
            .position(|name| **name == written.system)
            .ok_or_else(|| format!("code {:?}: no system {:?} under [systems]", written.code, written.system))?;
        if written.code.is_empty() {
            return Err("a code is empty".into());
        }
        Ok(Code { system: system as u8, code: written.code.clone() })
    }
}

/// Copies without `{…}` (UCUM §6: annotations carry no meaning); an annotation alone is unity. `None` if it does not fit.
fn strip_annotations<'b>(code: &[u8], buffer: &'b mut [u8; UNIT_TEXT_MAX]) -> Option<&'b [u8]> {
    let mut length = 0;
    let mut annotated = false;
    for &byte in code {
        match byte {
            b'{' => annotated = true,
            b'}' if annotated => annotated = false,
            _ if annotated => {}
            _ => {
                *buffer.get_mut(length)? = byte;
                length += 1;
            }
        }
    }
    if length == 0 && !code.is_empty() {
        return Some(b"1");
    }
    Some(&buffer[..length])
}

/// A spelling as it is compared: lower case, without blanks, `[`, `]`, `.`, `°`, `º` and annotations; both micro signs are `u`.
fn fold<'b>(text: &[u8], buffer: &'b mut [u8; UNIT_TEXT_MAX]) -> Option<&'b [u8]> {
    let mut bare = [0; UNIT_TEXT_MAX];
    let mut rest = strip_annotations(text, &mut bare)?;
    let mut length = 0;
    while let [byte, after @ ..] = rest {
        rest = after;
        let folded = match (byte, after.first()) {
            (b' ' | b'[' | b']' | b'.', _) => continue,
            // U+00B0 degree sign, U+00BA ordinal indicator in its place.
            (0xC2, Some(0xB0 | 0xBA)) => {
                rest = &after[1..];
                continue;
            }
            // U+00B5 micro sign, U+03BC Greek mu.
            (0xC2, Some(0xB5)) | (0xCE, Some(0xBC)) => {
                rest = &after[1..];
                b'u'
            }
            (byte, _) => byte.to_ascii_lowercase(),
        };
        buffer[length] = folded;
        length += 1;
    }
    Some(&buffer[..length])
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    systems: BTreeMap<String, String>,
    units: BTreeMap<String, Vec<WrittenUnit>>,
    signal: Vec<WrittenSignal>,
    #[serde(default)]
    panel: Vec<WrittenPanel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenUnit {
    ucum: String,
    #[serde(default = "one")]
    factor: f64,
    #[serde(default)]
    offset: f64,
    #[serde(default)]
    texts: Vec<String>,
}

fn one() -> f64 {
    1.0
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSignal {
    name: String,
    column: String,
    unit: String,
    plausible: [f64; 2],
    units: String,
    codes: Vec<WrittenCode>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCode {
    system: String,
    code: String,
    variant: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPanel {
    kind: Panel,
    codes: Vec<WrittenCode>,
}

#[cfg(test)]
mod tests {
    use super::super::{BODY_MASS_INDEX, GLUCOSE, HEART_RATE, OXYGEN_SATURATION, SYSTOLIC, TEMPERATURE};
    use super::*;

    fn by_code(signal: SignalId, value: f64, code: &str) -> Option<f64> {
        SignalTable::shipped().signal(signal).unit_by_code(code.as_bytes()).map(|unit| unit.canonical(value))
    }

    fn by_text(signal: SignalId, value: f64, text: &str) -> Option<f64> {
        SignalTable::shipped().signal(signal).unit_by_text(text.as_bytes()).map(|unit| unit.canonical(value))
    }

    #[test]
    fn the_constants_are_the_places_in_the_shipped_table() {
        let table = SignalTable::shipped();
        for (at, name) in SHIPPED.iter().enumerate() {
            assert_eq!(table.id(name), Some(SignalId(at as u8)));
        }
        assert_eq!(table.id("body_mass_index"), Some(BODY_MASS_INDEX));
        assert_eq!(table.signal(SYSTOLIC).column, "systolic_mmhg");
        assert_eq!(table.signal(HEART_RATE).column, "heart_rate_per_min");
    }

    #[test]
    fn units_convert_to_the_canonical_one() {
        assert_eq!(by_code(SYSTOLIC, 120.0, "mm[Hg]"), Some(120.0));
        assert!((by_code(SYSTOLIC, 16.0, "kPa").unwrap() - 120.00992).abs() < 1e-9);
        assert!((by_code(TEMPERATURE, 98.6, "[degF]").unwrap() - 37.0).abs() < 1e-9);
        assert!((by_code(TEMPERATURE, 310.15, "K").unwrap() - 37.0).abs() < 1e-9);
        assert!((by_code(GLUCOSE, 90.08, "mg/dL").unwrap() - 5.0).abs() < 1e-9);
        assert_eq!(by_code(OXYGEN_SATURATION, 0.97, "1"), Some(97.0));
        assert_eq!(by_code(HEART_RATE, 60.0, "{beats}/min"), Some(60.0));
        assert_eq!(by_code(SYSTOLIC, 1.0, "cm[H2O]"), None);
        assert_eq!(by_code(SYSTOLIC, 1.0, "MM[HG]"), None, "UCUM codes are compared with case");
        assert_eq!(by_code(SYSTOLIC, 1.0, &"x".repeat(100)), None);
    }

    #[test]
    fn spellings_of_units_are_folded() {
        for text in
            ["mmHg", "mm Hg", "MMHG", "mm[Hg]", "millimeter Mercury column", "millimeter of mercury", "mmHg{arterial}"]
        {
            assert_eq!(by_text(SYSTOLIC, 1.0, text), Some(1.0), "{text}");
        }
        for text in ["°C", "C", "deg C", "ºC", "Cel."] {
            assert_eq!(by_text(TEMPERATURE, 37.0, text), Some(37.0), "{text}");
        }
        for text in ["°F", "?F", "[degF]"] {
            assert!(by_text(TEMPERATURE, 98.6, text).is_some(), "{text}");
        }
        assert_eq!(by_text(HEART_RATE, 60.0, "{beat}/min}"), Some(60.0));
        assert_eq!(by_text(SYSTOLIC, 1.0, "psi"), None);
        assert_eq!(by_text(SYSTOLIC, 1.0, &"m".repeat(100)), None);
    }

    #[test]
    fn a_table_that_cannot_be_right_is_refused() {
        let shipped = include_str!("../../schemas/signals.toml");
        let broken = |from: &str, to: &str| {
            assert!(shipped.contains(from), "{from}");
            SignalTable::parse(&shipped.replacen(from, to, 1)).unwrap_err()
        };
        assert!(broken("name = \"systolic\"", "name = \"upper\"").contains("the first signals must be"));
        assert!(broken("[30, 300]", "[300, 30]").contains("plausible"));
        assert!(broken("\"8462-4\"", "\"8480-6\"").contains("two meanings"));
        assert!(broken("unit = \"mm[Hg]\"", "unit = \"kPa\"").contains("unscaled"));
        assert!(broken("system = \"loinc\"", "system = \"loink\"").contains("no system"));
        assert!(broken("units = \"pressure\"", "units = \"presure\"").contains("no units.presure"));
        assert!(broken("diastolic_mmhg", "systolic_mmhg").contains("twice"));
        assert!(broken("factor = 100", "factor = 0").contains("factor"));
        assert!(broken("plausible = [30", "plausibel = [30").contains("plausibel"));
    }

    #[test]
    fn a_thirteenth_signal_needs_no_code() {
        let text = format!(
            "{}\n[[signal]]\nname = \"central_venous\"\ncolumn = \"central_venous_mmhg\"\nunit = \"mm[Hg]\"\nplausible = [-10, 40]\nunits = \"pressure\"\ncodes = [{{ system = \"loinc\", code = \"60985-9\" }}]\n",
            include_str!("../../schemas/signals.toml")
        );
        let table = SignalTable::parse(&text).unwrap();
        assert_eq!(table.id("central_venous"), Some(SignalId(12)));
    }
}
