//! A Condition resource, reduced to which comorbidities it means, if the flow takes conditions (`decode.conditions`).
//!
//! | it is | it counts |
//! |---|---|
//! | `clinicalStatus` active, recurrence or relapse | as what its codings mean |
//! | without `clinicalStatus` (FHIR R4 asks for one only in problem lists, con-3) | the same, unless an `abatement[x]` says that it has ended (con-4) |
//! | inactive, in remission, resolved | as nothing |
//! | `verificationStatus` confirmed, or none | as above |
//! | unconfirmed, provisional, differential | as nothing: a question that is still open is not a comorbidity. Once confirmed, the newer version counts |
//! | refuted, entered-in-error | as nothing, and takes earlier versions back |
//!
//! Codings of one Condition are names for one thing, as a rule; those that mean different comorbidities mean all of them. A Condition of another code goes on
//! as one that counts as nothing, for it may be the newer version of one that did. It breaks no rule then: what cannot be read of it is of no interest.
//!
//! Conditions have no event time here: what is known of a patient holds from the position in which it was read.

use super::draft::Meta;
use super::grammar::Fault;
use super::json::{Reader, Seen, Text};
use super::judge::version;
use super::observation::Walk;
use super::reference::{self, Names, Scratch, Subject};
use super::verdict::{Broken, Diagnosed, Item, Stop};
use super::{Settings, rule};
use crate::comorbidities::ComorbidityTable;
use crate::config::Choice;
use crate::vocabulary::{Comorbidities, Leniencies};

/// What stands in a Condition, without an opinion on it.
#[derive(Default)]
pub(super) struct Draft<'a> {
    id: Option<Text<'a>>,
    pub(super) meta: Meta<Text<'a>>,
    implicit_rules: bool,
    modified: bool,
    clinical: Said<Clinical>,
    verification: Said<Verification>,
    means: Comorbidities,
    pub(super) subject: Subject<Text<'a>>,
    abated: bool,
    wrong: Option<&'static str>,
}

/// What a status says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Said<T> {
    #[default]
    Nothing,
    Known(T),
    /// Something, but none of FHIR's codes.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Clinical {
    Active,
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Verification {
    Confirmed,
    Open,
    Withdrawn,
}

/// <http://hl7.org/fhir/R4/valueset-condition-clinical.html>
fn clinical(code: &[u8]) -> Option<Clinical> {
    match code {
        b"active" | b"recurrence" | b"relapse" => Some(Clinical::Active),
        b"inactive" | b"remission" | b"resolved" => Some(Clinical::Over),
        _ => None,
    }
}

/// <http://hl7.org/fhir/R4/valueset-condition-ver-status.html>
fn verification(code: &[u8]) -> Option<Verification> {
    match code {
        b"confirmed" => Some(Verification::Confirmed),
        b"unconfirmed" | b"provisional" | b"differential" => Some(Verification::Open),
        b"refuted" | b"entered-in-error" => Some(Verification::Withdrawn),
        _ => None,
    }
}

/// Reads and judges the Condition that begins here. `table` is the one in force.
pub(super) fn read<'a>(
    reader: &mut Reader<'a>,
    (settings, table): (&Settings, &ComorbidityTable),
    full_url: Option<Text<'a>>,
    names: &Names<'a, '_>,
    scratch: &mut Scratch,
) -> Result<Item, Fault> {
    let draft = draft(reader, (settings, table), scratch)?;
    Ok(match judge(&draft, settings, full_url, names, scratch) {
        Ok(diagnosed) => Item::Condition(diagnosed),
        Err(Stop::Ignored(reason)) => Item::Ignored(reason),
        Err(Stop::Rejected(broken)) => Item::Rejected(broken),
    })
}

/// Reads the Condition that begins here.
pub(super) fn draft<'a>(
    reader: &mut Reader<'a>,
    (settings, table): (&Settings, &ComorbidityTable),
    scratch: &mut Scratch,
) -> Result<Draft<'a>, Fault> {
    let mut walk = Walk { reader: reader.clone(), settings, text: &mut scratch.text, wrong: None, lesson: None };
    let mut draft = Draft::default();
    let (mut members, mut seen) = (walk.reader.enter()?, Seen::default());
    while let Some(key) = walk.reader.key(&mut members)? {
        match key {
            b"resourceType" => walk.resource_type(&mut seen, 0)?,
            b"id" => draft.id = walk.once_text(&mut seen, 1, "id")?,
            b"meta" => draft.meta = walk.meta(&mut seen, 2)?,
            b"implicitRules" => draft.implicit_rules = walk.present(&mut seen, 3)?,
            b"modifierExtension" => draft.modified |= walk.present(&mut seen, 4)?,
            b"clinicalStatus" => draft.clinical = status(&mut walk, &mut seen, 5, "clinicalStatus", clinical)?,
            b"verificationStatus" => {
                draft.verification = status(&mut walk, &mut seen, 6, "verificationStatus", verification)?;
            }
            b"code" => draft.means = meaning(&mut walk, &mut seen, 7, table)?,
            b"subject" => draft.subject = walk.subject(&mut seen, 8)?,
            key if key.starts_with(b"abatement") => draft.abated |= walk.not_null()?,
            _ => walk.reader.skip()?,
        }
    }
    draft.wrong = walk.wrong;
    *reader = walk.reader;
    Ok(draft)
}

/// The first of FHIR's codes in a concept.
fn status<T>(
    walk: &mut Walk<'_, '_>,
    seen: &mut Seen,
    bit: u32,
    path: &'static str,
    of: impl Fn(&[u8]) -> Option<T>,
) -> Result<Said<T>, Fault> {
    walk.reader.once(seen, bit)?;
    let mut said = Said::Nothing;
    codings(walk, path, |_, code| {
        said = match (std::mem::replace(&mut said, Said::Other), of(code)) {
            (Said::Known(known), _) | (_, Some(known)) => Said::Known(known),
            (_, None) => Said::Other,
        };
    })?;
    Ok(said)
}

fn meaning(
    walk: &mut Walk<'_, '_>,
    seen: &mut Seen,
    bit: u32,
    table: &ComorbidityTable,
) -> Result<Comorbidities, Fault> {
    walk.reader.once(seen, bit)?;
    let mut means = Comorbidities::NONE;
    codings(walk, "code", |system, code| means = means.or(table.meaning(system, code)))?;
    Ok(means)
}

/// Hands over system and code of each coding of the concept that begins here; the system is empty if there is none.
fn codings(walk: &mut Walk<'_, '_>, path: &'static str, mut each: impl FnMut(&[u8], &[u8])) -> Result<(), Fault> {
    let Some(mut members) = walk.object(path)? else { return Ok(()) };
    let mut seen = Seen::default();
    while let Some(key) = walk.reader.key(&mut members)? {
        if key != b"coding" {
            walk.reader.skip()?;
            continue;
        }
        walk.reader.once(&mut seen, 0)?;
        let Some(mut all) = walk.array(path)? else { continue };
        while walk.reader.element(&mut all)? {
            coding(walk, path, &mut each)?;
        }
    }
    Ok(())
}

fn coding(walk: &mut Walk<'_, '_>, path: &'static str, each: &mut impl FnMut(&[u8], &[u8])) -> Result<(), Fault> {
    let (mut system, mut code) = (None, None);
    let Some(mut members) = walk.object(path)? else { return Ok(()) };
    let mut seen = Seen::default();
    while let Some(key) = walk.reader.key(&mut members)? {
        match key {
            b"system" => system = walk.once_text(&mut seen, 0, path)?,
            b"code" => code = walk.once_text(&mut seen, 1, path)?,
            _ => walk.reader.skip()?,
        }
    }
    let Some(code) = code else { return Ok(()) };
    let mut unescaped = Vec::new();
    let system = system.map_or(&[][..], |system| system.plain(&mut unescaped));
    each(system, code.plain(walk.text));
    Ok(())
}

fn judge<'a>(
    draft: &Draft<'a>,
    settings: &Settings,
    full_url: Option<Text<'a>>,
    names: &Names<'a, '_>,
    scratch: &mut Scratch,
) -> Result<Diagnosed, Stop> {
    if let Some(path) = draft.wrong {
        return Err(Broken::new(rule::WRONG_TYPE, path).into());
    }
    let withdraws = draft.verification == Said::Known(Verification::Withdrawn);
    if draft.means.is_empty() && !withdraws {
        // Somebody who cannot be told apart has nothing to take back either.
        return whose(draft, settings, full_url, names, scratch).map_err(|_| Stop::Ignored(rule::CONDITION));
    }
    if draft.modified {
        return Err(Broken::new(rule::MODIFIER_EXTENSION, "modifierExtension").into());
    }
    if draft.implicit_rules {
        return Err(Broken::new(rule::IMPLICIT_RULES, "implicitRules").into());
    }
    let counts = match (draft.verification, draft.clinical) {
        (Said::Known(Verification::Withdrawn), _) => false,
        (Said::Other, _) => return Err(Broken::new(rule::STATUS_INVALID, "verificationStatus").into()),
        (_, Said::Other) => return Err(Broken::new(rule::STATUS_INVALID, "clinicalStatus").into()),
        (Said::Known(Verification::Open), _) | (_, Said::Known(Clinical::Over)) => false,
        (_, Said::Known(Clinical::Active)) => true,
        (_, Said::Nothing) => !draft.abated,
    };
    let comorbidities = if counts { draft.means } else { Comorbidities::NONE };
    Ok(Diagnosed { comorbidities, withdraws, ..whose(draft, settings, full_url, names, scratch)? })
}

/// A Condition that counts as nothing: whose it is, and which.
fn whose<'a>(
    draft: &Draft<'a>,
    settings: &Settings,
    full_url: Option<Text<'a>>,
    names: &Names<'a, '_>,
    scratch: &mut Scratch,
) -> Result<Diagnosed, Broken> {
    let mut leniencies = Leniencies::default();
    let identifiers = settings.subject_identifier == Choice::Accept;
    let patient = reference::patient(&draft.subject, names, identifiers, scratch, &mut leniencies)?;
    let id = reference::own(draft.id, full_url, b"Condition", scratch, &mut leniencies)?;
    let version = version(&draft.meta, scratch);
    let (comorbidities, withdraws) = (Comorbidities::NONE, false);
    Ok(Diagnosed { patient: Some(patient), id, comorbidities, withdraws, version, leniencies })
}
