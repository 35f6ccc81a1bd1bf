//! Ids and references to patients, in every form that occurs, reduced to one canonical logical id.
//!
//! `Patient/x`, `https://host/fhir/Patient/x` and either with `/_history/3` all are `x`: the host is not part of the id.
//! A `urn:uuid:` is the id of the resource with that `fullUrl` in the same Bundle; nobody having it, the UUID itself, which is what
//! servers and generators make the id from.
//!
//! FHIR's id is `[A-Za-z0-9\-.]{1,64}`. Ids in the wild are longer and hold `_`, `:`, `~` or `=`: up to [`ID_BYTES_MAX`] printable
//! ASCII characters are taken and counted (`id_nonstandard`), without those that would blur where an id ends (`/ ? # |`, quotes, backslash, blank).

use super::json::Text;
use super::leniency::Leniency;
use super::rule;
use super::verdict::Broken;
use crate::vocabulary::Leniencies;

/// Longest id that is taken, in bytes.
pub(super) const ID_BYTES_MAX: usize = 256;
/// Longest id that FHIR allows.
const ID_BYTES_STANDARD: usize = 64;

/// Where the bytes of an id are: in the record, or (unescaped, or composed) among the scratch's ids.
#[derive(Clone, Copy, Debug)]
pub(super) enum IdSource {
    Record { start: usize, len: usize },
    Scratch { start: usize, len: usize },
}

/// Buffers that are used again and again, so that no record allocates.
#[derive(Default)]
pub(super) struct Scratch {
    /// For one unescaped text at a time.
    pub(super) text: Vec<u8>,
    /// Ids that are not a range of the record as it stands.
    pub(super) ids: Vec<u8>,
    /// A document that was a string of another document.
    pub(super) inner: Vec<u8>,
}

/// Where a reference leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target<'t> {
    /// A resource of this type, and its id as a range of the reference.
    Logical { kind: &'t [u8], start: usize, end: usize },
    /// A URN, and where its own part starts.
    Urn { start: usize },
    /// A contained resource.
    Contained,
    /// Nowhere that can be followed: conditional, malformed.
    Nowhere,
}

/// Reads a reference.
pub(super) fn target(reference: &[u8]) -> Target<'_> {
    // By far the most common form first: one pass over the id, which is judged later.
    if let Some(id) = reference.strip_prefix(b"Patient/")
        && !id.iter().any(|byte| matches!(byte, b'/' | b'?' | b'#'))
    {
        return Target::Logical { kind: &reference[..7], start: 8, end: reference.len() };
    }
    if reference.starts_with(b"#") {
        return Target::Contained;
    }
    for urn in [&b"urn:uuid:"[..], b"urn:oid:"] {
        if reference.starts_with(urn) {
            return Target::Urn { start: urn.len() };
        }
    }
    // A conditional reference may hold anything behind its question mark, slashes included.
    if memchr::memchr2(b'?', b'#', reference).is_some() {
        return Target::Nowhere;
    }
    // The path before its last segment, and that segment as a range of the reference.
    let cut = |path: &[u8]| memchr::memrchr(b'/', path).map(|slash| (slash, (slash + 1, path.len())));
    let Some((mut before, mut id)) = cut(reference) else { return Target::Nowhere };
    if reference[..before].ends_with(b"/_history") && id.0 < id.1 {
        let resource = before - b"/_history".len();
        match cut(&reference[..resource]) {
            Some(found) => (before, id) = found,
            None => return Target::Nowhere,
        }
    }
    let path = &reference[..before];
    let start = memchr::memrchr(b'/', path).map_or(0, |slash| slash + 1);
    let relative = start == 0;
    if !relative && memchr::memmem::find(path, b"://").is_none() {
        return Target::Nowhere;
    }
    Target::Logical { kind: &path[start..], start: id.0, end: id.1 }
}

/// The version that a reference names with `/_history/`, if it is a number.
pub(super) fn version(reference: &[u8]) -> Option<i64> {
    let at = memchr::memmem::rfind(reference, b"/_history/")?;
    integer(&reference[at + b"/_history/".len()..])
}

/// A decimal integer without sign.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Whether bytes can be an id; `false` inside says that FHIR would not allow it.
pub(super) fn standard(id: &[u8]) -> Option<bool> {
    const fn class(byte: u8) -> u8 {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' => 2,
            b'/' | b'?' | b'#' | b'|' | b'"' | b'\\' | b'\'' => 0,
            0x21..=0x7E => 1,
            _ => 0,
        }
    }
    const CLASSES: [u8; 256] = {
        let (mut classes, mut byte) = ([0; 256], 0);
        while byte < 256 {
            classes[byte] = class(byte as u8);
            byte += 1;
        }
        classes
    };
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return None;
    }
    let worst = id.iter().fold(2, |worst, &byte| worst.min(CLASSES[usize::from(byte)]));
    (worst > 0).then_some(worst == 2 && id.len() <= ID_BYTES_STANDARD)
}

/// Takes bytes `start..end` of a text as an id, or rejects it.
pub(super) fn take(
    text: Text<'_>,
    (start, end): (usize, usize),
    scratch: &mut Scratch,
    leniencies: &mut Leniencies,
    otherwise: Broken,
) -> Result<IdSource, Broken> {
    let plain = text.plain(&mut scratch.text);
    let id = plain.get(start..end).unwrap_or_default();
    let Some(standard) = standard(id) else { return Err(otherwise) };
    if !standard {
        Leniency::IdNonstandard.add_to(leniencies);
    }
    Ok(match text.unescaped() {
        Some((_, at)) => IdSource::Record { start: at + start, len: end - start },
        None => {
            let from = scratch.ids.len();
            scratch.ids.extend_from_slice(id);
            IdSource::Scratch { start: from, len: end - start }
        }
    })
}

/// A resource of a Bundle that has a URN.
pub(super) struct Named<'a> {
    urn: Vec<u8>,
    /// Its type.
    pub(super) kind: Option<Text<'a>>,
    /// Its id.
    pub(super) id: Option<Text<'a>>,
}

/// The URNs of a Bundle, and of the Bundles around it.
#[derive(Default)]
pub(super) struct Names<'a, 'o> {
    named: Vec<Named<'a>>,
    outer: Option<&'o Names<'a, 'o>>,
}

impl<'a, 'o> Names<'a, 'o> {
    /// Names from (URN, type, id); a URN is compared without case (RFC 4122 §3), of equal ones the first stands.
    pub(super) fn new(
        named: impl Iterator<Item = (Vec<u8>, Option<Text<'a>>, Option<Text<'a>>)>,
        outer: Option<&'o Names<'a, 'o>>,
    ) -> Self {
        let mut named: Vec<_> =
            named.map(|(urn, kind, id)| Named { urn: urn.to_ascii_lowercase(), kind, id }).collect();
        named.sort_by(|a, b| a.urn.cmp(&b.urn));
        Names { named, outer }
    }

    /// The resource with this URN, looked for from the innermost Bundle outwards.
    pub(super) fn find(&self, urn: &[u8]) -> Option<&Named<'a>> {
        if self.named.is_empty() && self.outer.is_none() {
            return None;
        }
        let urn = urn.to_ascii_lowercase();
        let mut names = Some(self);
        while let Some(here) = names {
            let at = here.named.partition_point(|one| one.urn < urn);
            if let Some(found) = here.named.get(at).filter(|one| one.urn == urn) {
                return Some(found);
            }
            names = here.outer;
        }
        None
    }
}

/// What an Observation says of its subject.
#[derive(Clone, Copy, Default)]
pub(super) struct Subject<T> {
    pub(super) reference: Option<T>,
    pub(super) kind: Option<T>,
    pub(super) system: Option<T>,
    pub(super) value: Option<T>,
}

impl<T: Copy> Subject<T> {
    /// The same with every text exchanged.
    pub(super) fn map<U>(self, of: &mut impl FnMut(T) -> U) -> Subject<U> {
        let Subject { reference, kind, system, value } = self;
        Subject {
            reference: reference.map(&mut *of),
            kind: kind.map(&mut *of),
            system: system.map(&mut *of),
            value: value.map(&mut *of),
        }
    }
}

/// The canonical patient id of a subject.
pub(super) fn patient(
    subject: &Subject<Text<'_>>,
    names: &Names<'_, '_>,
    identifier_allowed: bool,
    scratch: &mut Scratch,
    leniencies: &mut Leniencies,
) -> Result<IdSource, Broken> {
    match subject.reference {
        Some(reference) if !reference.is(b"") => referred(reference, names, scratch, leniencies),
        _ => identified(subject, identifier_allowed, scratch, leniencies),
    }
}

/// The canonical patient id of an outcome: the id alone, or a reference.
pub(super) fn named(patient: Text<'_>, scratch: &mut Scratch, leniencies: &mut Leniencies) -> Result<IdSource, Broken> {
    let plain = patient.plain(&mut scratch.text);
    let whole = (0, plain.len());
    let alone = !plain.starts_with(b"#") && !plain.starts_with(b"urn:") && memchr::memchr(b'/', plain).is_none();
    let found = match alone {
        true => take(patient, whole, scratch, leniencies, Broken::new(rule::SUBJECT_INVALID, "patient")),
        false => referred(patient, &Names::default(), scratch, leniencies),
    };
    found.map_err(|broken| Broken::new(broken.rule, "patient"))
}

fn referred(
    reference: Text<'_>,
    names: &Names<'_, '_>,
    scratch: &mut Scratch,
    leniencies: &mut Leniencies,
) -> Result<IdSource, Broken> {
    const MALFORMED: Broken = Broken::new(rule::SUBJECT_INVALID, "subject.reference: no reference to a Patient");
    let plain = reference.plain(&mut scratch.text);
    let end = plain.len();
    match target(plain) {
        Target::Contained => Err(Broken::new(rule::SUBJECT_CONTAINED, "subject.reference: a contained resource")),
        Target::Nowhere => Err(MALFORMED),
        Target::Logical { kind: b"Patient", start, end } => {
            take(reference, (start, end), scratch, leniencies, MALFORMED)
        }
        Target::Logical { .. } => Err(MALFORMED),
        Target::Urn { start } => match names.find(plain) {
            Some(found) if found.kind.is_some_and(|kind| !kind.is(b"Patient")) => Err(MALFORMED),
            Some(Named { id: Some(id), .. }) => {
                let whole = (0, id.plain(&mut scratch.text).len());
                take(*id, whole, scratch, leniencies, MALFORMED)
            }
            Some(_) => take(reference, (start, end), scratch, leniencies, MALFORMED),
            None => {
                Leniency::SubjectUnresolved.add_to(leniencies);
                take(reference, (start, end), scratch, leniencies, MALFORMED)
            }
        },
    }
}

/// A logical identifier as key: `system|value`. No id holds a `|`, so it meets none.
fn identified(
    subject: &Subject<Text<'_>>,
    allowed: bool,
    scratch: &mut Scratch,
    leniencies: &mut Leniencies,
) -> Result<IdSource, Broken> {
    let Some(value) = subject.value.filter(|value| !value.is(b"")) else {
        return Err(Broken::new(rule::SUBJECT_MISSING, "subject"));
    };
    if subject.kind.is_some_and(|kind| !kind.is(b"Patient")) {
        return Err(Broken::new(rule::SUBJECT_INVALID, "subject.type: not Patient"));
    }
    if !allowed {
        return Err(Broken::new(rule::SUBJECT_IDENTIFIER, "subject.identifier"));
    }
    let start = scratch.ids.len();
    if let Some(system) = subject.system {
        let system = system.plain(&mut scratch.text);
        scratch.ids.extend_from_slice(system);
    }
    scratch.ids.push(b'|');
    let value = value.plain(&mut scratch.text);
    scratch.ids.extend_from_slice(value);
    let len = scratch.ids.len() - start;
    if len > ID_BYTES_MAX {
        return Err(Broken::new(rule::SUBJECT_INVALID, "subject.identifier: longer than 256 bytes"));
    }
    Leniency::SubjectIdentifier.add_to(leniencies);
    Ok(IdSource::Scratch { start, len })
}

/// A resource's own id: `id`, or what its `fullUrl` says. `None` if it has neither.
pub(super) fn own(
    id: Option<Text<'_>>,
    full_url: Option<Text<'_>>,
    kind: &[u8],
    scratch: &mut Scratch,
    leniencies: &mut Leniencies,
) -> Result<Option<IdSource>, Broken> {
    const MALFORMED: Broken = Broken::new(rule::ID_INVALID, "id");
    if let Some(id) = id {
        let whole = (0, id.plain(&mut scratch.text).len());
        return take(id, whole, scratch, leniencies, MALFORMED).map(Some);
    }
    let Some(url) = full_url else { return Ok(None) };
    let plain = url.plain(&mut scratch.text);
    let range = match target(plain) {
        Target::Urn { start } => (start, plain.len()),
        Target::Logical { kind: named, start, end } if named == kind => (start, end),
        _ => return Ok(None),
    };
    // A fullUrl that is no use is no fault of the resource: its position stands for it.
    Ok(take(url, range, scratch, leniencies, MALFORMED).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(reference: &str) -> String {
        match target(reference.as_bytes()) {
            Target::Logical { kind, start, end } => {
                format!("{} {}", String::from_utf8_lossy(kind), &reference[start..end])
            }
            Target::Urn { start } => format!("urn {}", &reference[start..]),
            other => format!("{other:?}").to_lowercase(),
        }
    }

    #[test]
    fn every_form_of_a_reference_leads_to_the_same_id() {
        for (reference, leads) in [
            ("Patient/x", "Patient x"),
            ("Patient/x/_history/2", "Patient x"),
            ("https://a.example/fhir/Patient/x", "Patient x"),
            ("https://a.example:8080/b/c/Patient/x/_history/2", "Patient x"),
            ("http://h/Patient/x", "Patient x"),
            ("Group/x", "Group x"),
            ("patient/x", "patient x"),
            ("urn:uuid:8e81f54b", "urn 8e81f54b"),
            ("urn:oid:1.2.3", "urn 1.2.3"),
            ("#p", "contained"),
            ("#", "contained"),
            ("x", "nowhere"),
            ("", "nowhere"),
            ("/Patient/x", "nowhere"),
            ("a/Patient/x", "nowhere"),
            ("Patient?identifier=http://a/Patient/5", "nowhere"),
            ("Patient/x#p", "nowhere"),
            ("Patient/", "Patient "),
            ("Patient/x/_history/", "nowhere"),
            ("_history/2", "_history 2"),
            ("/_history/2", "nowhere"),
            ("x/_history/2", "nowhere"),
        ] {
            assert_eq!(shown(reference), leads, "{reference:?}");
        }
    }

    #[test]
    fn ids_are_judged_at_their_limits() {
        assert_eq!(standard(b"a-Z.9"), Some(true));
        assert_eq!(standard(&[b'a'; 64]), Some(true));
        assert_eq!(standard(&[b'a'; 65]), Some(false));
        assert_eq!(standard(&[b'a'; 256]), Some(false));
        assert_eq!(standard(&[b'a'; 257]), None);
        assert_eq!(standard(b""), None);
        assert_eq!(standard(b"a_b:c~d=e@f"), Some(false));
        for bad in ["a b", "a/b", "a|b", "a?b", "é", "a\"b", "a\nb"] {
            assert_eq!(standard(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn versions_come_from_history_references() {
        assert_eq!(version(b"Observation/x/_history/17"), Some(17));
        assert_eq!(version(b"Observation/x/_history/v1"), None);
        assert_eq!(version(b"Observation/x/_history/"), None);
        assert_eq!(version(b"Observation/x"), None);
        assert_eq!(version(b"Observation/x/_history/99999999999999999999"), None);
    }
}
