//! Reading an Observation: one pass over its JSON into a [`Draft`], without an opinion on what it says.
//!
//! Only what [`judge`](super::judge) asks for is looked at; everything else is checked for grammar and passed by. An element of a
//! JSON type that FHIR does not give it is noted ([`Draft::wrong`]) and passed by as well; null counts as absent everywhere.

use super::Settings;
use super::draft::{Coded, Component, Draft, Effective, Meta};
use super::grammar::{Fault, FaultKind};
use super::json::{Members, Reader, Seen, Text};
use super::quantity::{Number, Quantity, Value};
use super::reference::Subject;
use super::templates::Lesson;
use crate::signals::Panel;
use crate::vocabulary::Status;

/// FHIR's code of a status.
pub(super) fn status(text: &[u8]) -> Option<Status> {
    Some(match text {
        b"final" => Status::Final,
        b"amended" => Status::Amended,
        b"corrected" => Status::Corrected,
        b"preliminary" => Status::Preliminary,
        b"registered" => Status::Registered,
        b"unknown" => Status::Unknown,
        b"entered-in-error" => Status::EnteredInError,
        b"cancelled" => Status::Cancelled,
        _ => return None,
    })
}

/// Walks over a resource and notes elements of a wrong type.
pub(super) struct Walk<'a, 's> {
    pub(super) reader: Reader<'a>,
    pub(super) settings: &'s Settings,
    pub(super) text: &'s mut Vec<u8>,
    pub(super) wrong: Option<&'static str>,
    /// Notes what means nothing to the walk, for a template.
    pub(super) lesson: Option<&'s mut Lesson>,
}

/// Reads the Observation that begins where the reader stands into a blank draft; the reader is left behind it.
pub(super) fn read<'a>(
    reader: &mut Reader<'a>,
    settings: &Settings,
    text: &mut Vec<u8>,
    lesson: Option<&mut Lesson>,
    draft: &mut Draft<Text<'a>>,
) -> Result<(), Fault> {
    // The walk owns its reader: one indirection less at every byte.
    let mut walk = Walk { reader: reader.clone(), settings, text, wrong: None, lesson };
    walk.observation(draft)?;
    draft.wrong = walk.wrong;
    *reader = walk.reader;
    Ok(())
}

impl<'a> Walk<'a, '_> {
    fn observation(&mut self, draft: &mut Draft<Text<'a>>) -> Result<(), Fault> {
        let (mut members, mut seen) = (self.reader.enter()?, Seen::default());
        while let Some(key) = self.reader.key(&mut members)? {
            match key {
                b"resourceType" => self.resource_type(&mut seen, 0)?,
                b"id" => draft.id = self.once_text(&mut seen, 1, "id")?,
                b"meta" => draft.meta = self.meta(&mut seen, 2)?,
                b"implicitRules" => draft.implicit_rules = self.present(&mut seen, 3)?,
                b"modifierExtension" => draft.modified |= self.present(&mut seen, 4)?,
                b"status" => draft.status = self.once_text(&mut seen, 5, "status")?,
                b"code" => draft.code = self.once_concept(&mut seen, 6, "code")?,
                b"subject" => draft.subject = self.subject(&mut seen, 7)?,
                b"effectiveDateTime" | b"effectiveInstant" | b"effectivePeriod" | b"effectiveTiming" => {
                    let kind = key[9];
                    self.effective(kind, &mut seen, &mut draft.effective)?;
                }
                b"issued" => draft.issued = self.once_text(&mut seen, 12, "issued")?,
                b"valueQuantity" => draft.value.quantity = self.quantity(&mut seen, 13)?,
                b"dataAbsentReason" => draft.value.absent_reason = self.present(&mut seen, 14)?,
                b"component" => self.components(&mut seen, 15, draft)?,
                b"hasMember" => draft.has_member = self.present(&mut seen, 16)?,
                b"derivedFrom" => draft.derived = self.present(&mut seen, 17)?,
                key if key.starts_with(b"value") => draft.value.other |= self.not_null()?,
                _ => self.skip()?,
            }
        }
        Ok(())
    }

    /// The type was read before; a second one would make the reading above a guess, so no policy lets it through.
    pub(super) fn resource_type(&mut self, seen: &mut Seen, bit: u32) -> Result<(), Fault> {
        let repeats = self.reader.repeats();
        self.reader.once(seen, bit)?;
        if self.reader.repeats() > repeats {
            return self.reader.fault(FaultKind::TypeTwice);
        }
        self.reader.skip()
    }

    /// Passes a value that means nothing here, whatever stands in it.
    #[inline(always)]
    fn skip(&mut self) -> Result<(), Fault> {
        self.reader.peek();
        let start = self.reader.at();
        self.reader.skip()?;
        if let Some(lesson) = &mut self.lesson {
            lesson.passed(start, self.reader.at());
        }
        Ok(())
    }

    /// A string; null is none.
    #[inline(always)]
    pub(super) fn text(&mut self, path: &'static str) -> Result<Option<Text<'a>>, Fault> {
        if self.reader.peek() == b'"' {
            return self.reader.text().map(Some);
        }
        self.other(path)?;
        Ok(None)
    }

    #[inline(always)]
    pub(super) fn once_text(
        &mut self,
        seen: &mut Seen,
        bit: u32,
        path: &'static str,
    ) -> Result<Option<Text<'a>>, Fault> {
        self.reader.once(seen, bit)?;
        self.text(path)
    }

    /// Passes what is not of the expected type; anything but null is noted.
    #[cold]
    fn other(&mut self, path: &'static str) -> Result<(), Fault> {
        if self.reader.peek() != b'n' {
            self.wrong.get_or_insert(path);
        }
        self.skip()
    }

    #[inline(always)]
    pub(super) fn object(&mut self, path: &'static str) -> Result<Option<Members>, Fault> {
        self.open(b'{', path)
    }

    #[inline(always)]
    pub(super) fn array(&mut self, path: &'static str) -> Result<Option<Members>, Fault> {
        self.open(b'[', path)
    }

    #[inline(always)]
    fn open(&mut self, bracket: u8, path: &'static str) -> Result<Option<Members>, Fault> {
        if self.reader.peek() == bracket {
            return self.reader.enter().map(Some);
        }
        self.other(path)?;
        Ok(None)
    }

    /// Passes a value; true unless it is null.
    pub(super) fn not_null(&mut self) -> Result<bool, Fault> {
        let null = self.reader.peek() == b'n';
        self.skip()?;
        Ok(!null)
    }

    /// Passes a value; true if it says something: null, the empty array and an array of nulls do not.
    pub(super) fn present(&mut self, seen: &mut Seen, bit: u32) -> Result<bool, Fault> {
        self.reader.once(seen, bit)?;
        if self.reader.peek() != b'[' {
            return self.not_null();
        }
        let (mut members, mut any) = (self.reader.enter()?, false);
        while self.reader.element(&mut members)? {
            any |= self.not_null()?;
        }
        Ok(any)
    }

    pub(super) fn meta(&mut self, seen: &mut Seen, bit: u32) -> Result<Meta<Text<'a>>, Fault> {
        self.reader.once(seen, bit)?;
        let mut meta = Meta::default();
        let Some(mut members) = self.object("meta")? else { return Ok(meta) };
        let mut seen = Seen::default();
        while let Some(key) = self.reader.key(&mut members)? {
            match key {
                b"versionId" => meta.version_id = self.once_text(&mut seen, 0, "meta.versionId")?,
                b"lastUpdated" => meta.last_updated = self.once_text(&mut seen, 1, "meta.lastUpdated")?,
                _ => self.skip()?,
            }
        }
        Ok(meta)
    }

    pub(super) fn subject(&mut self, seen: &mut Seen, bit: u32) -> Result<Subject<Text<'a>>, Fault> {
        self.reader.once(seen, bit)?;
        let mut subject = Subject::default();
        let Some(mut members) = self.object("subject")? else { return Ok(subject) };
        let mut seen = Seen::default();
        while let Some(key) = self.reader.key(&mut members)? {
            match key {
                b"reference" => subject.reference = self.once_text(&mut seen, 0, "subject.reference")?,
                b"type" => subject.kind = self.once_text(&mut seen, 1, "subject.type")?,
                b"identifier" => {
                    self.reader.once(&mut seen, 2)?;
                    (subject.system, subject.value) = self.identifier()?;
                }
                _ => self.skip()?,
            }
        }
        Ok(subject)
    }

    fn identifier(&mut self) -> Result<(Option<Text<'a>>, Option<Text<'a>>), Fault> {
        let (mut system, mut value) = (None, None);
        let Some(mut members) = self.object("subject.identifier")? else { return Ok((None, None)) };
        let mut seen = Seen::default();
        while let Some(key) = self.reader.key(&mut members)? {
            match key {
                b"system" => system = self.once_text(&mut seen, 0, "subject.identifier.system")?,
                b"value" => value = self.once_text(&mut seen, 1, "subject.identifier.value")?,
                _ => self.skip()?,
            }
        }
        Ok((system, value))
    }

    /// `kind` is the first letter behind `effective`.
    fn effective(&mut self, kind: u8, seen: &mut Seen, effective: &mut Effective<Text<'a>>) -> Result<(), Fault> {
        let bit = match kind {
            b'D' => 8,
            b'I' => 9,
            b'P' => 10,
            _ => 11,
        };
        self.reader.once(seen, bit)?;
        if self.reader.peek() == b'n' {
            return self.skip();
        }
        effective.kinds |= 1 << (bit - 8);
        effective.instant = kind == b'I';
        effective.text = match kind {
            b'D' => self.text("effectiveDateTime")?,
            b'I' => self.text("effectiveInstant")?,
            b'P' => self.period_start()?,
            _ => self.first_event()?,
        };
        Ok(())
    }

    fn period_start(&mut self) -> Result<Option<Text<'a>>, Fault> {
        let mut start = None;
        let Some(mut members) = self.object("effectivePeriod")? else { return Ok(None) };
        let mut seen = Seen::default();
        while let Some(key) = self.reader.key(&mut members)? {
            match key {
                b"start" => start = self.once_text(&mut seen, 0, "effectivePeriod.start")?,
                _ => self.skip()?,
            }
        }
        Ok(start)
    }

    fn first_event(&mut self) -> Result<Option<Text<'a>>, Fault> {
        let mut first = None;
        let Some(mut members) = self.object("effectiveTiming")? else { return Ok(None) };
        let mut seen = Seen::default();
        while let Some(key) = self.reader.key(&mut members)? {
            if key != b"event" {
                self.skip()?;
                continue;
            }
            self.reader.once(&mut seen, 0)?;
            first = None;
            let Some(mut events) = self.array("effectiveTiming.event")? else { continue };
            while self.reader.element(&mut events)? {
                let event = self.text("effectiveTiming.event")?;
                first = first.or(event);
            }
        }
        Ok(first)
    }

    fn once_concept(&mut self, seen: &mut Seen, bit: u32, path: &'static str) -> Result<Coded, Fault> {
        self.reader.once(seen, bit)?;
        let mut coded = Coded::default();
        let Some(mut members) = self.object(path)? else { return Ok(coded) };
        let mut seen = Seen::default();
        while let Some(key) = self.reader.key(&mut members)? {
            if key != b"coding" {
                self.skip()?;
                continue;
            }
            self.reader.once(&mut seen, 0)?;
            coded = Coded::default();
            let Some(mut codings) = self.array("code.coding")? else { continue };
            while self.reader.element(&mut codings)? {
                self.coding(&mut coded)?;
            }
        }
        Ok(coded)
    }

    fn coding(&mut self, coded: &mut Coded) -> Result<(), Fault> {
        let (mut system, mut code) = (None, None);
        let Some(mut members) = self.object("code.coding")? else { return Ok(()) };
        let mut seen = Seen::default();
        while let Some(key) = self.reader.key(&mut members)? {
            match key {
                b"system" => system = self.once_text(&mut seen, 0, "code.coding.system")?,
                b"code" => code = self.once_text(&mut seen, 1, "code.coding.code")?,
                _ => self.skip()?,
            }
        }
        let Some(code) = code else { return Ok(()) };
        let settings = self.settings;
        let index = &settings.index;
        let meaning = match system {
            Some(system) => {
                index.system(system.plain(self.text)).and_then(|of| index.meaning(of, code.plain(self.text)))
            }
            None => index.meaning_without_system(code.plain(self.text)),
        };
        if let Some(meaning) = meaning {
            coded.add(meaning, system.is_none());
        }
        Ok(())
    }

    fn components(&mut self, seen: &mut Seen, bit: u32, draft: &mut Draft<Text<'a>>) -> Result<(), Fault> {
        self.reader.once(seen, bit)?;
        draft.components.clear();
        draft.component_count = 0;
        let Some(mut members) = self.array("component")? else { return Ok(()) };
        while self.reader.element(&mut members)? {
            self.component(draft)?;
            draft.component_count += 1;
        }
        Ok(())
    }

    fn component(&mut self, draft: &mut Draft<Text<'a>>) -> Result<(), Fault> {
        let (mut code, mut value) = (Coded::default(), Value::default());
        let Some(mut members) = self.object("component")? else { return Ok(()) };
        let mut seen = Seen::default();
        while let Some(key) = self.reader.key(&mut members)? {
            match key {
                b"code" => code = self.once_concept(&mut seen, 0, "component.code")?,
                b"valueQuantity" => value.quantity = self.quantity(&mut seen, 1)?,
                b"dataAbsentReason" => value.absent_reason = self.present(&mut seen, 2)?,
                b"modifierExtension" => draft.modified |= self.present(&mut seen, 3)?,
                key if key.starts_with(b"value") => value.other |= self.not_null()?,
                _ => self.skip()?,
            }
        }
        if code.panels.has(Panel::Elsewhere) {
            draft.code.panels.add(Panel::Elsewhere);
        }
        if code.signal.is_some() {
            draft.components.push(Component { ordinal: draft.component_count, code, value });
        }
        Ok(())
    }

    fn quantity(&mut self, seen: &mut Seen, bit: u32) -> Result<Option<Quantity<Text<'a>>>, Fault> {
        self.reader.once(seen, bit)?;
        let Some(mut members) = self.object("valueQuantity")? else { return Ok(None) };
        let (mut quantity, mut seen) = (Quantity::default(), Seen::default());
        while let Some(key) = self.reader.key(&mut members)? {
            match key {
                b"value" => quantity.value = self.number(&mut seen, 0)?,
                b"_value" => quantity.explained = self.not_null()?,
                b"unit" => quantity.unit = self.once_text(&mut seen, 1, "valueQuantity.unit")?,
                b"system" => quantity.system = self.once_text(&mut seen, 2, "valueQuantity.system")?,
                b"code" => quantity.code = self.once_text(&mut seen, 3, "valueQuantity.code")?,
                b"comparator" => quantity.comparator = self.present(&mut seen, 4)?,
                _ => self.skip()?,
            }
        }
        Ok(Some(quantity))
    }

    fn number(&mut self, seen: &mut Seen, bit: u32) -> Result<Number<Text<'a>>, Fault> {
        self.reader.once(seen, bit)?;
        match self.reader.peek() {
            b'-' | b'0'..=b'9' => self.literal().map(Number::Literal),
            _ => Ok(if self.not_null()? { Number::Other } else { Number::Missing }),
        }
    }

    fn literal(&mut self) -> Result<Text<'a>, Fault> {
        let literal = self.reader.number()?;
        if let Some(lesson) = &mut self.lesson {
            // Of a component without a signal nobody else knows it.
            lesson.passed(literal.start(), self.reader.at());
        }
        Ok(literal)
    }
}
