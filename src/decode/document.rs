//! One record, from bytes to [`Item`]s: UTF-8, the envelope, the kind of resource.
//!
//! Every document is read to its end before anything of it counts: whatever follows a fault or precedes it is taken back, and the record
//! is one rejection. A bare Observation is read in one pass; envelopes and Bundles in two (an outline first), so that a `urn:uuid:` can
//! be resolved whatever the order of entries.

use super::draft::Draft;
use super::grammar::{Fault, FaultKind};
use super::json::{Reader, Seen, Text};
use super::judge::{self, Bench};
use super::reference::{Names, Scratch};
use super::templates::Templates;
use super::verdict::{Broken, Item};
use super::{Settings, bundle, condition, observation, patient, rule};
use crate::time::IngestTime;

/// Reads records, one after the other.
pub(super) struct Document<'s, 'i> {
    pub(super) settings: &'s Settings,
    pub(super) received_at: Option<IngestTime>,
    pub(super) scratch: &'i mut Scratch,
    pub(super) items: &'i mut Vec<Item>,
    pub(super) templates: &'i mut Templates,
}

/// How a record was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All of it is in the items.
    Done,
    /// The resource was a string, now unescaped in `scratch.inner`: that is to be read in its place.
    Inner,
}

/// What an object is, seen from outside.
#[derive(Default)]
struct Outline<'a> {
    kind: Option<Text<'a>>,
    /// Where the values of `patient` and `observation` begin.
    patient: Option<usize>,
    observation: Option<usize>,
}

impl<'a> Document<'_, '_> {
    /// Reads one record. `inner` is true for a document that was a string inside another one: it has no envelope to take off.
    pub(super) fn read(&mut self, bytes: &'a [u8], inner: bool) -> Outcome {
        match self.try_read(bytes, inner) {
            Ok(outcome) => outcome,
            Err(fault) => {
                let (rule, detail) = fault.rule();
                self.items.clear();
                self.items.push(Item::Rejected(Broken::new(rule, detail).at(fault.at as usize)));
                Outcome::Done
            }
        }
    }

    fn try_read(&mut self, bytes: &'a [u8], inner: bool) -> Result<Outcome, Fault> {
        let bare = inner || self.settings.unwrap.is_none();
        if bare && self.templated(bytes) {
            return Ok(Outcome::Done);
        }
        if let Err(error) = std::str::from_utf8(bytes) {
            return Err(Fault::new(FaultKind::NotUtf8, error.valid_up_to()));
        }
        // A byte order mark is no part of the document (RFC 8259 §8.1 lets a reader pass it).
        let start = if bytes.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        let mut reader = Reader::new(bytes, start, self.settings.repeats_allowed);
        if let (Some(pointer), false) = (&self.settings.unwrap, inner) {
            return self.unwrap(&mut reader, pointer, bytes);
        }
        if reader.peek() != b'{' {
            return self.not_an_object(&mut reader);
        }
        let begin = reader.clone();
        let outline = outline(&mut reader)?;
        if outline.kind.is_some() {
            // The outline stops at the type when that comes first, so the document is checked to its end here.
            let mut reader = begin;
            if outline.kind.is_some_and(|kind| kind.is(b"Observation")) {
                return self.bare(&mut reader, bytes);
            }
            self.resource(&mut reader, outline.kind, None, &Names::default())?;
            reader.end()?;
            return Ok(Outcome::Done);
        }
        reader.end()?;
        self.envelope(&outline, bytes)?;
        Ok(Outcome::Done)
    }

    fn not_an_object(&mut self, reader: &mut Reader<'a>) -> Result<Outcome, Fault> {
        reader.skip()?;
        reader.end()?;
        self.items.push(Item::Rejected(Broken::new(rule::NOT_AN_OBJECT, "the document is no JSON object")));
        Ok(Outcome::Done)
    }

    /// `{"patient": …, "observation": …}`: one input, the observation; what the patient says comes along.
    fn envelope(&mut self, outline: &Outline<'a>, bytes: &'a [u8]) -> Result<(), Fault> {
        if outline.patient.is_none() && outline.observation.is_none() {
            self.items.push(Item::Rejected(Broken::new(rule::RESOURCE_TYPE_MISSING, "resourceType")));
            return Ok(());
        }
        if let Some(at) = outline.patient {
            let mut reader = Reader::new(bytes, at, self.settings.repeats_allowed);
            if reader.peek() == b'{' {
                let item = patient::read(&mut reader, self.settings, None, false, self.scratch)?;
                self.items.push(item);
            }
        }
        let mut reader = Reader::new(bytes, outline.observation.unwrap_or_default(), self.settings.repeats_allowed);
        match outline.observation.map(|_| reader.peek()) {
            None | Some(b'n') => self.items.push(Item::Ignored(rule::NO_OBSERVATION)),
            Some(b'{') => {
                let kind = kind(&mut reader.clone())?;
                self.resource(&mut reader, kind, None, &Names::default())?;
            }
            Some(_) => self.items.push(Item::Rejected(Broken::new(rule::NOT_AN_OBJECT, "observation"))),
        }
        Ok(())
    }

    /// Reads the resource that begins here, whose type is known.
    pub(super) fn resource(
        &mut self,
        reader: &mut Reader<'a>,
        kind: Option<Text<'a>>,
        full_url: Option<Text<'a>>,
        names: &Names<'a, '_>,
    ) -> Result<(), Fault> {
        let is = |name: &[u8]| kind.is_some_and(|kind| kind.is(name));
        if is(b"Observation") {
            return self.observation(reader, full_url, names);
        }
        if is(b"Bundle") {
            return bundle::read(self, reader, names);
        }
        let item = if is(b"Patient") {
            patient::read(reader, self.settings, full_url, true, self.scratch)?
        } else if let (true, Some(table)) = (is(b"Condition"), &self.settings.comorbidities) {
            condition::read(reader, (self.settings, table), full_url, names, self.scratch)?
        } else {
            reader.skip()?;
            match kind {
                Some(_) => Item::Ignored(rule::OTHER_RESOURCE),
                None => Item::Rejected(Broken::new(rule::RESOURCE_TYPE_MISSING, "resourceType")),
            }
        };
        self.items.push(item);
        Ok(())
    }

    /// Reads a record that is like earlier ones; false if it is not.
    fn templated(&mut self, bytes: &[u8]) -> bool {
        let Some(slot) = self.templates.fit(bytes) else { return false };
        let draft = self.templates.draft(slot, bytes);
        let names = Names::default();
        let bench = Bench { settings: self.settings, received_at: self.received_at, names: &names, full_url: None };
        self.items.push(judge::item(&draft, bench, self.scratch));
        true
    }

    /// Reads an Observation that is the whole record, and learns from it.
    fn bare(&mut self, reader: &mut Reader<'a>, bytes: &'a [u8]) -> Result<Outcome, Fault> {
        let (repeats, mut draft) = (reader.repeats(), Draft::default());
        observation::read(reader, self.settings, &mut self.scratch.text, self.templates.lesson(), &mut draft)?;
        reader.end()?;
        let item = self.judged(&draft, reader.repeats() > repeats, None, &Names::default());
        if matches!(item, Item::Observation(_)) && reader.repeats() == 0 {
            self.templates.learn(bytes, &draft, self.settings);
        }
        self.items.push(item);
        Ok(Outcome::Done)
    }

    fn observation(
        &mut self,
        reader: &mut Reader<'a>,
        full_url: Option<Text<'a>>,
        names: &Names<'a, '_>,
    ) -> Result<(), Fault> {
        let (repeats, mut draft) = (reader.repeats(), Draft::default());
        observation::read(reader, self.settings, &mut self.scratch.text, None, &mut draft)?;
        let item = self.judged(&draft, reader.repeats() > repeats, full_url, names);
        self.items.push(item);
        Ok(())
    }

    fn judged(
        &mut self,
        draft: &Draft<Text<'a>>,
        repeated: bool,
        full_url: Option<Text<'a>>,
        names: &Names<'a, '_>,
    ) -> Item {
        let bench = Bench { settings: self.settings, received_at: self.received_at, names, full_url };
        let mut item = judge::item(draft, bench, self.scratch);
        if let (Item::Observation(found), true) = (&mut item, repeated) {
            super::leniency::Leniency::DuplicateKey.add_to(&mut found.leniencies);
        }
        item
    }

    /// Follows `decode.unwrap` to the resource, or to a string that holds it.
    fn unwrap(&mut self, reader: &mut Reader<'a>, pointer: &[Box<[u8]>], bytes: &'a [u8]) -> Result<Outcome, Fault> {
        let mut found = None;
        locate(reader, pointer, &mut found)?;
        reader.end()?;
        let Some(at) = found else {
            self.items.push(Item::Rejected(Broken::new(rule::UNWRAP_MISSING, "decode.unwrap")));
            return Ok(Outcome::Done);
        };
        let mut reader = Reader::new(bytes, at, self.settings.repeats_allowed);
        match reader.peek() {
            b'{' => {
                let begin = reader.clone();
                let outline = outline(&mut reader)?;
                match outline.kind {
                    Some(_) => self.resource(&mut begin.clone(), outline.kind, None, &Names::default())?,
                    None => self.envelope(&outline, bytes)?,
                }
            }
            b'n' => self.items.push(Item::Tombstone),
            b'"' => {
                let text = reader.text()?;
                let mut inner = std::mem::take(&mut self.scratch.inner);
                inner.clear();
                inner.extend_from_slice(text.plain(&mut self.scratch.text));
                self.scratch.inner = inner;
                return Ok(Outcome::Inner);
            }
            _ => self.items.push(Item::Rejected(Broken::new(rule::NOT_AN_OBJECT, "decode.unwrap"))),
        }
        Ok(Outcome::Done)
    }
}

/// The type of the object that begins here, wherever in it that stands.
pub(super) fn kind<'a>(reader: &mut Reader<'a>) -> Result<Option<Text<'a>>, Fault> {
    outline(reader).map(|outline| outline.kind)
}

/// Looks at the keys of the object that begins here. Stops at `resourceType` if that is the first; otherwise reads to the object's end.
fn outline<'a>(reader: &mut Reader<'a>) -> Result<Outline<'a>, Fault> {
    let (mut outline, mut seen) = (Outline::default(), Seen::default());
    let (mut members, mut first) = (reader.enter()?, true);
    while let Some(key) = reader.key(&mut members)? {
        match key {
            b"resourceType" => {
                reader.once(&mut seen, 0)?;
                if reader.peek() == b'"' {
                    outline.kind = Some(reader.text()?);
                    if first {
                        return Ok(outline);
                    }
                } else {
                    reader.skip()?;
                }
            }
            b"patient" => {
                reader.peek();
                outline.patient = Some(reader.at());
                reader.skip()?;
            }
            b"observation" => {
                reader.peek();
                outline.observation = Some(reader.at());
                reader.skip()?;
            }
            _ => reader.skip()?,
        }
        first = false;
    }
    Ok(outline)
}

/// Reads the value that begins here and notes where in it `pointer` (RFC 6901, split and unescaped) leads. Of repeated keys the last is followed, if allowed.
fn locate(reader: &mut Reader<'_>, pointer: &[Box<[u8]>], found: &mut Option<usize>) -> Result<(), Fault> {
    let next = reader.peek();
    let Some((token, rest)) = pointer.split_first() else {
        *found = Some(reader.at());
        return reader.skip();
    };
    match next {
        b'{' => {
            let (mut members, mut seen) = (reader.enter()?, Seen::default());
            while let Some(key) = reader.key(&mut members)? {
                if *key == **token {
                    reader.once(&mut seen, 0)?;
                    *found = None;
                    locate(reader, rest, found)?;
                } else {
                    reader.skip()?;
                }
            }
            Ok(())
        }
        b'[' => {
            let wanted = std::str::from_utf8(token).ok().and_then(|token| token.parse::<usize>().ok());
            let (mut members, mut at) = (reader.enter()?, 0);
            while reader.element(&mut members)? {
                if Some(at) == wanted {
                    locate(reader, rest, found)?;
                } else {
                    reader.skip()?;
                }
                at += 1;
            }
            Ok(())
        }
        _ => reader.skip(),
    }
}
