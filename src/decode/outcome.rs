//! What came of a patient: a record of `audit.outcomes`, one small JSON object.
//!
//! ```json
//! {"id": "o-17", "patient": "p1", "outcome": "deterioration", "at": "2026-01-01T10:00:00Z", "value": 1, "version": 2}
//! ```
//!
//! | key | is |
//! |---|---|
//! | `patient` | the logical id, alone or as a reference to it in any form that a subject may have |
//! | `outcome` | which outcome; others than the flow's are ignored |
//! | `at` | by when it had happened, or had not; a FHIR `instant`. A withdrawal with an id needs none |
//! | `value` | 1 or true: it happened; 0 or false: it did not; null withdraws what was said |
//! | `id` | may be absent: then patient and time stand for it |
//! | `version` | a whole number; may be absent: then what comes later stands |
//!
//! Other keys are passed by. A null payload (tombstone) withdraws the outcome whose id is the record's key.
//!
//! Not here: what readings it is about and whether it is news, which is the [ledger](crate::audit::ledger)'s.

use super::datetime::instant;
use super::grammar::{Fault, FaultKind};
use super::json::{Reader, Seen, Text, decimal};
use super::observation::Walk;
use super::reference::{self, IdSource, Scratch};
use super::verdict::{Broken, Stop};
use super::{Settings, rule};
use crate::time::{EventTime, IngestTime};
use crate::vocabulary::{Leniencies, Version};

/// An outcome that goes on.
#[derive(Debug)]
pub(super) struct Reported {
    pub(super) patient: IdSource,
    pub(super) id: Option<IdSource>,
    /// `None` withdraws.
    pub(super) happened: Option<bool>,
    pub(super) at: EventTime,
    pub(super) version: Version,
    pub(super) leniencies: Leniencies,
}

/// What stands in a record, without an opinion on it.
#[derive(Default)]
struct Draft<'a> {
    id: Option<Text<'a>>,
    patient: Option<Text<'a>>,
    outcome: Option<Text<'a>>,
    at: Option<Text<'a>>,
    value: Value,
    version: Version,
    wrong: Option<&'static str>,
}

/// What `value` says.
#[derive(Clone, Copy, Default)]
enum Value {
    #[default]
    Missing,
    Null,
    Binary(bool),
    Other,
}

/// Reads and judges a record of the outcome that the flow takes. `received_at` is the broker's time.
pub(super) fn read(
    bytes: &[u8],
    settings: &Settings,
    received_at: Option<IngestTime>,
    scratch: &mut Scratch,
) -> Result<Reported, Stop> {
    let draft = draft(bytes, settings, scratch).map_err(|fault| {
        let (rule, detail) = fault.rule();
        Broken::new(rule, detail).at(fault.at as usize)
    })?;
    let draft = draft.ok_or(Broken::new(rule::NOT_AN_OBJECT, "the document is no JSON object"))?;
    judge(&draft, settings, received_at, scratch)
}

/// `None` if there is something else than an object.
fn draft<'a>(bytes: &'a [u8], settings: &Settings, scratch: &mut Scratch) -> Result<Option<Draft<'a>>, Fault> {
    if let Err(error) = std::str::from_utf8(bytes) {
        return Err(Fault::new(FaultKind::NotUtf8, error.valid_up_to()));
    }
    let start = if bytes.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
    let mut reader = Reader::new(bytes, start, settings.repeats_allowed);
    if reader.peek() != b'{' {
        reader.skip()?;
        reader.end()?;
        return Ok(None);
    }
    let mut walk = Walk { reader, settings, text: &mut scratch.text, wrong: None, lesson: None };
    let mut draft = Draft::default();
    let (mut members, mut seen) = (walk.reader.enter()?, Seen::default());
    while let Some(key) = walk.reader.key(&mut members)? {
        match key {
            b"id" => draft.id = walk.once_text(&mut seen, 0, "id")?,
            b"patient" => draft.patient = walk.once_text(&mut seen, 1, "patient")?,
            b"outcome" => draft.outcome = walk.once_text(&mut seen, 2, "outcome")?,
            b"at" => draft.at = walk.once_text(&mut seen, 3, "at")?,
            b"value" => {
                walk.reader.once(&mut seen, 4)?;
                draft.value = value(&mut walk)?;
            }
            b"version" => {
                walk.reader.once(&mut seen, 5)?;
                draft.version = version(&mut walk)?;
            }
            _ => walk.reader.skip()?,
        }
    }
    walk.reader.end()?;
    draft.wrong = walk.wrong;
    Ok(Some(draft))
}

fn value(walk: &mut Walk<'_, '_>) -> Result<Value, Fault> {
    Ok(match walk.reader.peek() {
        b'-' | b'0'..=b'9' => match decimal(walk.reader.number()?.raw()) {
            Some(0.0) => Value::Binary(false),
            Some(1.0) => Value::Binary(true),
            _ => Value::Other,
        },
        first => {
            walk.reader.skip()?;
            match first {
                b't' => Value::Binary(true),
                b'f' => Value::Binary(false),
                b'n' => Value::Null,
                _ => Value::Other,
            }
        }
    })
}

fn version(walk: &mut Walk<'_, '_>) -> Result<Version, Fault> {
    let number = match walk.reader.peek() {
        b'0'..=b'9' => reference::integer(walk.reader.number()?.raw()),
        b'n' => {
            walk.reader.skip()?;
            return Ok(Version::Unversioned);
        }
        _ => {
            walk.reader.skip()?;
            None
        }
    };
    if number.is_none() {
        walk.wrong.get_or_insert("version");
    }
    Ok(number.map(Version::Number).unwrap_or_default())
}

fn judge(
    draft: &Draft<'_>,
    settings: &Settings,
    received_at: Option<IngestTime>,
    scratch: &mut Scratch,
) -> Result<Reported, Stop> {
    if let Some(path) = draft.wrong {
        return Err(Broken::new(rule::WRONG_TYPE, path).into());
    }
    let name = draft.outcome.ok_or(Broken::new(rule::OUTCOME_MISSING, "outcome"))?;
    if !settings.outcomes.as_ref().is_some_and(|outcomes| name.is(outcomes.name.as_bytes())) {
        return Err(Stop::Ignored(rule::OTHER_OUTCOME));
    }
    let happened = match draft.value {
        Value::Missing => return Err(Broken::new(rule::VALUE_MISSING, "value").into()),
        Value::Other => return Err(Broken::new(rule::OUTCOME_NOT_BINARY, "value").into()),
        Value::Null => None,
        Value::Binary(happened) => Some(happened),
    };
    let mut leniencies = Leniencies::default();
    let patient = draft.patient.ok_or(Broken::new(rule::SUBJECT_MISSING, "patient"))?;
    let patient = reference::named(patient, scratch, &mut leniencies)?;
    let id = reference::own(draft.id, None, b"", scratch, &mut leniencies)?;
    let at = match draft.at {
        None if happened.is_none() && id.is_some() => EventTime::MIN,
        None => return Err(Broken::new(rule::EFFECTIVE_MISSING, "at").into()),
        Some(text) => instant(text.plain(&mut scratch.text)).ok_or(Broken::new(rule::EFFECTIVE_INVALID, "at"))?,
    };
    if received_at.is_some_and(|received| received.precedes(at, settings.clock_ahead)) {
        return Err(Broken::new(rule::CLOCK_AHEAD, "at").into());
    }
    Ok(Reported { patient, id, happened, at, version: draft.version, leniencies })
}
