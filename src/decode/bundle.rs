//! Bundles: every type, nested, with null and empty entries, deletions and notifications (CLINICAL rows 36, 41 and 42).
//!
//! Two passes: an outline of all entries (which checks the grammar of the whole Bundle), then the resources, in order. One bad entry does
//! not lose the others. Nesting is bounded by [`DEPTH_MAX`](super::grammar::DEPTH_MAX): a Bundle within a Bundle is three levels deeper.
//! This is not the hot path: it may allocate.

use super::document::Document;
use super::draft::Draft;
use super::grammar::Fault;
use super::json::{Reader, Seen, Text};
use super::judge::version;
use super::observation::{self, Walk};
use super::reference::{self, IdSource, Names, Scratch, Target, target};
use super::verdict::{Broken, Diagnosed, Item};
use super::{Settings, condition, rule};
use crate::vocabulary::{Leniencies, Version};

/// What is known of an entry after the first pass.
#[derive(Default)]
struct Entry<'a> {
    full_url: Option<Text<'a>>,
    /// Where its resource begins.
    resource: Option<Reader<'a>>,
    kind: Option<Text<'a>>,
    id: Option<Text<'a>>,
    method: Option<Text<'a>>,
    url: Option<Text<'a>>,
    etag: Option<Text<'a>>,
    /// An element of it has a type that it cannot have.
    wrong: Option<&'static str>,
}

/// Reads the Bundle that begins here.
pub(super) fn read<'a>(
    document: &mut Document<'_, '_>,
    reader: &mut Reader<'a>,
    outer: &Names<'a, '_>,
) -> Result<(), Fault> {
    let entries = match entries(document, reader)? {
        Ok(entries) => entries,
        Err(broken) => {
            document.items.push(Item::Rejected(broken));
            return Ok(());
        }
    };
    if entries.is_empty() {
        document.items.push(Item::Ignored(rule::EMPTY_BUNDLE));
    }
    let urns = entries.iter().filter_map(|entry| {
        let url = entry.full_url?.plain(&mut Vec::new()).to_vec();
        matches!(target(&url), Target::Urn { .. }).then_some((url, entry.kind, entry.id))
    });
    let names = Names::new(urns, Some(outer));
    let mut history = None;
    for (at, entry) in entries.iter().enumerate() {
        let item = if let Some(path) = entry.wrong {
            Item::Rejected(Broken::new(rule::WRONG_TYPE, path).at(at))
        } else if entry.method.is_some_and(|method| method.is(b"DELETE")) {
            let history = history.get_or_insert_with(|| History::new(&entries, document.settings));
            deletion(document, entry, at, history, &names)?
        } else if let Some(resource) = &entry.resource {
            document.resource(&mut resource.clone(), entry.kind, entry.full_url, &names)?;
            continue;
        } else {
            Item::Ignored(rule::NO_RESOURCE)
        };
        document.items.push(item);
    }
    Ok(())
}

/// The first pass. The inner error is a Bundle that has no array of entries.
fn entries<'a>(
    document: &mut Document<'_, '_>,
    reader: &mut Reader<'a>,
) -> Result<Result<Vec<Entry<'a>>, Broken>, Fault> {
    let mut walk = Walk {
        reader: reader.clone(),
        settings: document.settings,
        text: &mut document.scratch.text,
        wrong: None,
        lesson: None,
    };
    let (mut members, mut seen) = (walk.reader.enter()?, Seen::default());
    let mut entries = Ok(Vec::new());
    while let Some(key) = walk.reader.key(&mut members)? {
        match key {
            b"resourceType" => walk.resource_type(&mut seen, 0)?,
            b"entry" => {
                walk.reader.once(&mut seen, 1)?;
                entries = match walk.reader.peek() {
                    b'[' => Ok(all(&mut walk)?),
                    b'n' => walk.reader.skip().map(|()| Ok(Vec::new()))?,
                    _ => {
                        walk.reader.skip()?;
                        Err(Broken::new(rule::BUNDLE_ENTRY_NOT_ARRAY, "Bundle.entry"))
                    }
                };
            }
            _ => walk.reader.skip()?,
        }
    }
    *reader = walk.reader;
    Ok(entries)
}

fn all<'a>(walk: &mut Walk<'a, '_>) -> Result<Vec<Entry<'a>>, Fault> {
    let (mut members, mut entries) = (walk.reader.enter()?, Vec::new());
    while walk.reader.element(&mut members)? {
        walk.wrong = None;
        let mut entry = Entry::default();
        if let Some(mut members) = walk.object("entry")? {
            let mut seen = Seen::default();
            while let Some(key) = walk.reader.key(&mut members)? {
                match key {
                    b"fullUrl" => entry.full_url = walk.once_text(&mut seen, 0, "entry.fullUrl")?,
                    b"resource" => resource(walk, &mut seen, &mut entry)?,
                    b"request" => (entry.method, entry.url) = two(walk, &mut seen, 2, b"method", b"url")?,
                    b"response" => (entry.etag, _) = two(walk, &mut seen, 3, b"etag", b"status")?,
                    _ => walk.reader.skip()?,
                }
            }
        }
        entry.wrong = walk.wrong;
        entries.push(entry);
    }
    Ok(entries)
}

fn resource<'a>(walk: &mut Walk<'a, '_>, seen: &mut Seen, entry: &mut Entry<'a>) -> Result<(), Fault> {
    walk.reader.once(seen, 1)?;
    walk.reader.peek();
    let begin = walk.reader.clone();
    let Some(mut members) = walk.object("entry.resource")? else { return Ok(()) };
    let mut seen = Seen::default();
    while let Some(key) = walk.reader.key(&mut members)? {
        match key {
            b"resourceType" => entry.kind = walk.once_text(&mut seen, 0, "entry.resource.resourceType")?,
            b"id" => entry.id = walk.once_text(&mut seen, 1, "entry.resource.id")?,
            _ => walk.reader.skip()?,
        }
    }
    entry.resource = Some(begin);
    Ok(())
}

type Pair<'a> = (Option<Text<'a>>, Option<Text<'a>>);

fn two<'a>(walk: &mut Walk<'a, '_>, seen: &mut Seen, bit: u32, first: &[u8], second: &[u8]) -> Result<Pair<'a>, Fault> {
    walk.reader.once(seen, bit)?;
    let mut pair = (None, None);
    let Some(mut members) = walk.object("entry.request")? else { return Ok(pair) };
    let mut seen = Seen::default();
    while let Some(key) = walk.reader.key(&mut members)? {
        if key == first {
            pair.0 = walk.once_text(&mut seen, 0, "entry.request")?;
        } else if key == second {
            pair.1 = walk.once_text(&mut seen, 1, "entry.request")?;
        } else {
            walk.reader.skip()?;
        }
    }
    Ok(pair)
}

/// The entries that hold an Observation or a Condition with an id, by type, id and then place.
struct History<'e, 'a> {
    entries: &'e [Entry<'a>],
    by_id: Vec<(Deleted, Vec<u8>, usize)>,
}

/// A type of resource of which a deletion matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Deleted {
    Observation,
    Condition,
}

impl Deleted {
    fn of(kind: &[u8], settings: &Settings) -> Option<Self> {
        match kind {
            b"Observation" => Some(Deleted::Observation),
            b"Condition" if settings.comorbidities.is_some() => Some(Deleted::Condition),
            _ => None,
        }
    }
}

impl<'e, 'a> History<'e, 'a> {
    fn new(entries: &'e [Entry<'a>], settings: &Settings) -> Self {
        let mut text = Vec::new();
        let mut by_id: Vec<_> = entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.resource.is_some())
            .filter_map(|(at, entry)| {
                let kind = Deleted::of(entry.kind?.plain(&mut text), settings)?;
                Some((kind, entry.id?.plain(&mut text).to_vec(), at))
            })
            .collect();
        by_id.sort();
        History { entries, by_id }
    }

    /// The version right before the one at `at`: the newest first is a history's order.
    fn older(&self, kind: Deleted, id: &[u8], at: usize) -> Option<&'e Entry<'a>> {
        let key = (kind, id, at);
        let next = self.by_id.partition_point(|(kind, known, place)| (*kind, known.as_slice(), *place) <= key);
        let same = |(of, known, _): &&(Deleted, Vec<u8>, usize)| *of == kind && known == id;
        self.by_id.get(next).filter(same).map(|(_, _, place)| &self.entries[*place])
    }
}

/// A DELETE: of an Observation or a Condition that `request.url` (or `fullUrl`) names. The subject comes from an older version in the same Bundle.
fn deletion<'a>(
    document: &mut Document<'_, '_>,
    entry: &Entry<'a>,
    at: usize,
    history: &History<'_, 'a>,
    names: &Names<'a, '_>,
) -> Result<Item, Fault> {
    let settings = document.settings;
    let named = |url| deleted(url, settings);
    let Some((kind, url, (start, end))) = [entry.url, entry.full_url].into_iter().flatten().find_map(named) else {
        return Ok(Item::Ignored(rule::TOMBSTONE));
    };
    let scratch = &mut *document.scratch;
    let plain = url.plain(&mut scratch.text).to_vec();
    let broken = Broken::new(rule::ID_INVALID, "entry.request.url").at(at);
    let id = match reference::take(url, (start, end), scratch, &mut Leniencies::default(), broken) {
        Ok(id) => id,
        Err(broken) => return Ok(Item::Rejected(broken)),
    };
    let etag = entry.etag.and_then(|text| etag(text.plain(&mut scratch.text)));
    let named = etag.or_else(|| reference::version(&plain)).map(Version::Number);
    let (mut patient, mut version) = (None, named.unwrap_or_default());
    if let Some(older) = history.older(kind, &plain[start..end], at)
        && let Some(resource) = &older.resource
    {
        let before = last_version(document, (kind, resource), names)?;
        patient = before.0;
        // A history lists the newest first, so the deletion comes right after the version below it.
        if let (Version::Unversioned, Version::Number(number)) = (version, before.1) {
            version = Version::Number(number.saturating_add(1));
        }
    }
    Ok(match kind {
        Deleted::Observation => Item::Deletion { patient, id, version },
        Deleted::Condition => Item::Condition(Diagnosed::deleted(patient, id, version)),
    })
}

/// What a URL names, and the id as a range of it.
fn deleted<'a>(url: Text<'a>, settings: &Settings) -> Option<(Deleted, Text<'a>, (usize, usize))> {
    match target(url.plain(&mut Vec::new())) {
        Target::Logical { kind, start, end } => Some((Deleted::of(kind, settings)?, url, (start, end))),
        _ => None,
    }
}

/// The version number in `W/"3"`.
fn etag(text: &[u8]) -> Option<i64> {
    let inner = text.strip_prefix(b"W/").unwrap_or(text).strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    reference::integer(inner)
}

/// Patient and version of a resource of this Bundle.
fn last_version<'a>(
    document: &mut Document<'_, '_>,
    (kind, resource): (Deleted, &Reader<'a>),
    names: &Names<'a, '_>,
) -> Result<(Option<IdSource>, Version), Fault> {
    let settings = document.settings;
    let scratch: &mut Scratch = document.scratch;
    let mut reader = resource.clone();
    let (subject, meta) = match (kind, &settings.comorbidities) {
        (Deleted::Condition, Some(table)) => {
            let draft = condition::draft(&mut reader, (settings, table), scratch)?;
            (draft.subject, draft.meta)
        }
        _ => {
            let mut draft = Draft::default();
            observation::read(&mut reader, settings, &mut scratch.text, None, &mut draft)?;
            (draft.subject, draft.meta)
        }
    };
    let identifiers = settings.subject_identifier == crate::config::Choice::Accept;
    let patient = reference::patient(&subject, names, identifiers, scratch, &mut Leniencies::default()).ok();
    Ok((patient, version(&meta, scratch)))
}

/// The resource of this type that a Kafka key names, as a range of the key: `Observation/x` in any form of a reference.
pub(super) fn key_of(kind: &[u8], key: &[u8]) -> Option<(usize, usize)> {
    match target(key) {
        Target::Logical { kind: named, start, end } if named == kind => {
            reference::standard(&key[start..end]).map(|_| (start, end))
        }
        _ => None,
    }
}
