//! A Patient resource, reduced to what features and audit may know: year of birth and sex.
//!
//! It never breaks a rule: what cannot be read is unknown, and a Patient without a usable id updates nobody.

use super::Settings;
use super::draft::Meta;
use super::grammar::Fault;
use super::json::{Reader, Seen, Text};
use super::judge::version;
use super::observation::Walk;
use super::reference::{Scratch, own};
use super::verdict::Item;
use crate::vocabulary::{Demographics, Leniencies, Sex};

/// Reads the Patient that begins here. `counted` unless it only accompanies an observation.
pub(super) fn read<'a>(
    reader: &mut Reader<'a>,
    settings: &Settings,
    full_url: Option<Text<'a>>,
    counted: bool,
    scratch: &mut Scratch,
) -> Result<Item, Fault> {
    let mut walk = Walk { reader: reader.clone(), settings, text: &mut scratch.text, wrong: None, lesson: None };
    let (mut id, mut meta, mut birth, mut gender) = (None, Meta::default(), None, None);
    let (mut members, mut seen) = (walk.reader.enter()?, Seen::default());
    while let Some(key) = walk.reader.key(&mut members)? {
        match key {
            b"resourceType" => walk.resource_type(&mut seen, 0)?,
            b"id" => id = walk.once_text(&mut seen, 1, "id")?,
            b"meta" => meta = walk.meta(&mut seen, 2)?,
            b"birthDate" => birth = walk.once_text(&mut seen, 3, "birthDate")?,
            b"gender" => gender = walk.once_text(&mut seen, 4, "gender")?,
            _ => walk.reader.skip()?,
        }
    }
    *reader = walk.reader;
    let birth_year = birth.and_then(|text| year(text.plain(&mut scratch.text)));
    let sex = gender.map_or(Sex::Unknown, |text| sex(text.plain(&mut scratch.text)));
    let demographics = Demographics { birth_year, sex, comorbidities: None, version: version(&meta, scratch) };
    let patient = own(id, full_url, b"Patient", scratch, &mut Leniencies::default()).unwrap_or(None);
    Ok(Item::Patient { patient, demographics, counted })
}

/// The year of a FHIR `date`, which is a `dateTime` without a time of day.
fn year(text: &[u8]) -> Option<i16> {
    if text.len() > b"2026-01-31".len() {
        return None;
    }
    super::datetime::date_time(text)?;
    Some(text[..4].iter().fold(0, |year, digit| year * 10 + i16::from(digit - b'0')))
}

fn sex(code: &[u8]) -> Sex {
    match code {
        b"female" => Sex::Female,
        b"male" => Sex::Male,
        b"other" => Sex::Other,
        _ => Sex::Unknown,
    }
}
