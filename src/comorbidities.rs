//! Which conditions are comorbidities: the table of their names and codes.
//!
//! The truth is `schemas/comorbidities.toml`; a flow may name another file (`decode.comorbidities_file`). What is known of a patient is a *set* of names, kept as
//! bits ([`Comorbidities`]); what leaves `patient` is how many there are.
//!
//! **Invariants**
//!
//! 1. A coding means at most one comorbidity: no code is there twice, and of two prefixes of one system neither begins with the other.
//! 2. Looking a coding up allocates nothing.
//!
//! Limits: [`COMORBIDITIES_MAX`] names; codes of more than [`CODE_BYTES_MAX`] bytes mean none. It does not weigh: the count is not the Charlson index.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use smallvec::SmallVec;

use crate::vocabulary::Comorbidities;

/// Most names in a table: the bits of a set.
pub const COMORBIDITIES_MAX: usize = 32;

/// Longest code that is compared, in bytes: SNOMED CT's have up to 18 digits, those of ICD-10 up to 8 characters.
pub const CODE_BYTES_MAX: usize = 32;

/// Shortest prefix, in characters: a category of ICD-10. A shorter one is more likely a slip than a wish for a whole chapter.
const PREFIX_BYTES_MIN: usize = 3;

/// The table, checked.
#[derive(Clone, Debug)]
pub struct ComorbidityTable {
    names: Vec<String>,
    systems: Vec<System>,
}

/// One system of codes, under all its addresses.
#[derive(Clone, Debug)]
struct System {
    name: String,
    urls: Vec<String>,
    compared: Compared,
    /// Ascending; each with the number of what it means.
    codes: Vec<(String, u8)>,
}

/// How codes of a system are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Compared {
    /// Without dots and case, by their beginning.
    Prefixes,
    /// As they are.
    Whole,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    systems: BTreeMap<String, WrittenSystem>,
    comorbidity: Vec<WrittenComorbidity>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSystem {
    codes: Compared,
    urls: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenComorbidity {
    name: String,
    codes: BTreeMap<String, Vec<String>>,
}

impl ComorbidityTable {
    /// The shipped table.
    pub fn shipped() -> Self {
        Self::parse(include_str!("../schemas/comorbidities.toml")).expect("a test reads the shipped table")
    }

    /// The shipped table, or the one in a file. For start-up: stages read no files.
    ///
    /// # Errors
    /// A sentence that names the file, the entry and what is wrong with it.
    pub fn load(file: Option<&Path>) -> Result<Self, String> {
        let Some(path) = file else { return Ok(Self::shipped()) };
        let hint = "decode.comorbidities_file must name a table like schemas/comorbidities.toml";
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("could not read the table of comorbidities {path:?}: {error}; {hint}"))?;
        Self::parse(&text).map_err(|error| format!("could not use the table of comorbidities {path:?}: {error}"))
    }

    /// Reads a table.
    ///
    /// # Errors
    /// A sentence that names the entry and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let written: Written = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        let mut table = ComorbidityTable { names: Vec::new(), systems: systems(written.systems)? };
        for comorbidity in &written.comorbidity {
            table.add(comorbidity)?;
        }
        if table.names.is_empty() {
            return Err("there is no [[comorbidity]]".into());
        }
        table.check_codes()?;
        Ok(table)
    }

    /// The names, by their number.
    pub fn all_names(&self) -> &[String] {
        &self.names
    }

    fn add(&mut self, WrittenComorbidity { name, codes }: &WrittenComorbidity) -> Result<(), String> {
        let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if name.is_empty() || !name.bytes().all(word) {
            return Err(format!("comorbidity {name:?}: a name is lower-case letters, digits and _"));
        }
        if self.names.contains(name) {
            return Err(format!("the comorbidity {name:?} is there twice"));
        }
        if self.names.len() == COMORBIDITIES_MAX {
            return Err(format!("comorbidity {name:?} is one more than the {COMORBIDITIES_MAX} that a table may have"));
        }
        let number = self.names.len() as u8;
        self.names.push(name.clone());
        for (system, codes) in codes {
            let known: Vec<&str> = self.systems.iter().map(|system| system.name.as_str()).collect();
            let unknown = format!(
                "comorbidity {name:?}: there is no system {system:?} under [systems]; known are {}",
                known.join(", ")
            );
            let place = known.iter().position(|known| known == system).ok_or(unknown)?;
            let of = &mut self.systems[place];
            for code in codes {
                let code = of.compared.check(code).map_err(|why| format!("comorbidity {name:?}: {why}"))?;
                of.codes.push((code, number));
            }
        }
        if !self.systems.iter().any(|system| system.codes.iter().any(|(_, of)| *of == number)) {
            return Err(format!("comorbidity {name:?} has no codes"));
        }
        Ok(())
    }

    /// Sorts the codes, and sees that each coding has one meaning.
    fn check_codes(&mut self) -> Result<(), String> {
        for system in &mut self.systems {
            system.codes.sort();
            for pair in system.codes.windows(2) {
                let [(first, one), (second, other)] = pair else { continue };
                let meets = match system.compared {
                    Compared::Prefixes => second.starts_with(first.as_str()),
                    Compared::Whole => first == second,
                };
                if meets {
                    let name = |number: u8| &self.names[usize::from(number)];
                    return Err(format!(
                        "the {} code {second:?} of {:?} is taken in by {first:?} of {:?}",
                        system.name,
                        name(*other),
                        name(*one)
                    ));
                }
            }
        }
        Ok(())
    }

    /// The names in a set.
    pub fn names(&self, of: Comorbidities) -> impl Iterator<Item = &str> {
        let has = move |number: &usize| of.has(*number as u8);
        (0..self.names.len()).filter(has).map(|number| self.names[number].as_str())
    }

    /// What a coding means: the empty set, or one comorbidity.
    pub fn meaning(&self, system: &[u8], code: &[u8]) -> Comorbidities {
        let of = self.systems.iter().find(|of| of.urls.iter().any(|url| url.as_bytes() == system));
        of.and_then(|of| of.number(code)).map_or(Comorbidities::NONE, Comorbidities::one)
    }
}

fn systems(written: BTreeMap<String, WrittenSystem>) -> Result<Vec<System>, String> {
    let mut systems: Vec<System> = Vec::new();
    for (name, WrittenSystem { codes, urls }) in written {
        if urls.is_empty() {
            return Err(format!("system {name:?} has no urls"));
        }
        for url in &urls {
            if let Some(other) = systems.iter().find(|other| other.urls.contains(url)) {
                return Err(format!("the address {url:?} is that of two systems, {:?} and {name:?}", other.name));
            }
        }
        systems.push(System { name, urls, compared: codes, codes: Vec::new() });
    }
    Ok(systems)
}

impl Compared {
    /// A code of the table, as codes are compared.
    fn check(self, code: &str) -> Result<String, String> {
        let Some(plain) = self.plain(code.as_bytes()).and_then(|plain| String::from_utf8(plain.to_vec()).ok()) else {
            return Err(format!("the code {code:?} is longer than {CODE_BYTES_MAX} bytes"));
        };
        let bytes_min = if self == Compared::Prefixes { PREFIX_BYTES_MIN } else { 1 };
        if plain.len() < bytes_min || !plain.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(format!("the code {code:?} is not {bytes_min} or more letters and digits"));
        }
        Ok(plain)
    }

    /// A code as it is compared; `None` if it is too long to be one.
    fn plain(self, code: &[u8]) -> Option<SmallVec<[u8; CODE_BYTES_MAX]>> {
        if code.len() > CODE_BYTES_MAX {
            return None;
        }
        let mut plain = SmallVec::from_slice(code);
        if self == Compared::Prefixes {
            plain.retain(|byte| *byte != b'.');
            plain.make_ascii_uppercase();
        }
        Some(plain)
    }
}

impl System {
    fn number(&self, code: &[u8]) -> Option<u8> {
        let plain = self.compared.plain(code)?;
        // Whatever lies between a prefix and what begins with it begins with it as well, and no prefix begins with another.
        let behind = self.codes.partition_point(|(known, _)| known.as_bytes() <= plain.as_slice());
        let (known, number) = self.codes.get(behind.checked_sub(1)?)?;
        let means = match self.compared {
            Compared::Prefixes => plain.starts_with(known.as_bytes()),
            Compared::Whole => known.as_bytes() == plain.as_slice(),
        };
        means.then_some(*number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ICD10: &str = "http://hl7.org/fhir/sid/icd-10";
    const ICD10_CM: &str = "http://hl7.org/fhir/sid/icd-10-cm";
    const SNOMED: &str = "http://snomed.info/sct";

    fn names(system: &str, code: &str) -> String {
        let table = ComorbidityTable::shipped();
        let of = table.meaning(system.as_bytes(), code.as_bytes());
        table.names(of).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn codes_mean_what_quan_and_others_say() {
        for (system, code, name) in [
            (ICD10, "I21.0", "myocardial_infarction"),
            (ICD10, "I25.2", "myocardial_infarction"),
            (ICD10_CM, "I252", "myocardial_infarction"),
            (ICD10_CM, "i50.22", "heart_failure"),
            (ICD10, "I42.1", ""),
            (ICD10, "I13.1", "renal_disease"),
            (ICD10, "I13.2", "heart_failure"),
            (ICD10, "I13", ""),
            (ICD10_CM, "E11.9", "diabetes"),
            (ICD10_CM, "E11.22", "diabetes"),
            (ICD10, "K76.1", ""),
            (ICD10, "K76.6", "liver_disease"),
            (ICD10, "C44.9", ""),
            (ICD10, "C77.0", "cancer"),
            (ICD10, "C86.0", ""),
            (ICD10, "B23", ""),
            (ICD10, "J47", "chronic_pulmonary_disease"),
            (ICD10, "J48", ""),
            // Essential hypertension.
            (ICD10, "I10", ""),
            (SNOMED, "38341003", ""),
            (SNOMED, "59621000", ""),
            (SNOMED, "44054006", "diabetes"),
            (SNOMED, "440540061", ""),
            (SNOMED, "I21.0", ""),
            (ICD10, "44054006", ""),
            ("http://hl7.org/fhir/sid/icd-9-cm", "I21.0", ""),
            ("", "I21.0", ""),
            (ICD10, "", ""),
            (ICD10, "I21000000000000000000000000000000", ""),
        ] {
            assert_eq!(names(system, code), name, "{system} {code}");
        }
        assert_eq!(ComorbidityTable::shipped().all_names().len(), 14);
    }

    proptest! {
        /// Against a look at every line of the file as text.
        #[test]
        fn a_prefix_is_found_as_by_looking_at_all_of_them(code in "[A-Z][0-9]{2}(\\.[0-9]{0,2})?") {
            let written: toml::Table = toml::from_str(include_str!("../schemas/comorbidities.toml")).unwrap();
            let begins = |prefix: &toml::Value| code.replace('.', "").starts_with(&prefix.as_str().unwrap().replace('.', ""));
            let all = written["comorbidity"].as_array().unwrap().iter();
            let found = all.filter(|one| one["codes"]["icd10"].as_array().unwrap().iter().any(begins));
            let expected: Vec<&str> = found.map(|one| one["name"].as_str().unwrap()).collect();
            prop_assert_eq!(names(ICD10, &code), expected.join(" "));
        }
    }

    #[test]
    fn a_table_that_cannot_be_meant_is_refused_with_the_place() {
        let systems = "[systems]\nicd10 = { codes = \"prefixes\", urls = [\"u:icd\"] }\nsct = { codes = \"whole\", urls = [\"u:sct\"] }\n";
        let refused = |rest: &str| ComorbidityTable::parse(&format!("{systems}{rest}")).unwrap_err();
        let one = |name: &str, codes: &str| format!("[[comorbidity]]\nname = \"{name}\"\ncodes.{codes}\n");
        let two = |first: &str, second: &str| refused(&(one("a", first) + &one("b", second)));
        assert_eq!(
            two("icd10 = [\"I13\"]", "icd10 = [\"I13.0\"]"),
            "the icd10 code \"I130\" of \"b\" is taken in by \"I13\" of \"a\""
        );
        assert_eq!(two("sct = [\"1\"]", "sct = [\"1\"]"), "the sct code \"1\" of \"b\" is taken in by \"1\" of \"a\"");
        assert!(ComorbidityTable::parse(&format!("{systems}{}", one("a", "sct = [\"1\", \"12\"]"))).is_ok());
        let unknown = refused(&one("a", "icd11 = [\"BA41\"]"));
        assert_eq!(unknown, "comorbidity \"a\": there is no system \"icd11\" under [systems]; known are icd10, sct");
        assert_eq!(
            refused(&(one("a", "sct = [\"1\"]") + &one("a", "sct = [\"2\"]"))),
            "the comorbidity \"a\" is there twice"
        );
        assert_eq!(
            refused(&one("A", "sct = [\"1\"]")),
            "comorbidity \"A\": a name is lower-case letters, digits and _"
        );
        assert_eq!(
            refused(&one("a", "icd10 = [\"I.1\"]")),
            "comorbidity \"a\": the code \"I.1\" is not 3 or more letters and digits"
        );
        assert_eq!(refused(&one("a", "sct = []")), "comorbidity \"a\" has no codes");
        assert_eq!(
            ComorbidityTable::parse(&format!("comorbidity = []\n{systems}")).unwrap_err(),
            "there is no [[comorbidity]]".to_owned()
        );
        let many: String =
            (0..=COMORBIDITIES_MAX).map(|at| one(&format!("c{at}"), &format!("sct = [\"{at}\"]"))).collect();
        assert_eq!(refused(&many), "comorbidity \"c32\" is one more than the 32 that a table may have");
        let twice = "[systems]\na = { codes = \"whole\", urls = [\"u\"] }\nb = { codes = \"whole\", urls = [\"u\"] }\n";
        assert_eq!(
            ComorbidityTable::parse(&format!("{twice}{}", one("x", "a = [\"1\"]"))).unwrap_err(),
            "the address \"u\" is that of two systems, \"a\" and \"b\""
        );
        assert!(refused("[[comorbidity]]\nname = \"a\"\ncode = 1\n").contains("code"));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = ComorbidityTable::load(Some(Path::new("/no/such.toml"))).unwrap_err();
        assert!(error.contains("\"/no/such.toml\"") && error.contains("decode.comorbidities_file"), "{error}");
    }
}
