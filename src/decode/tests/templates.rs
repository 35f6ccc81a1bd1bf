//! With templates and without, every record comes to the same.
//!
//! The oracle is the same decoder that forgets its templates before every record, so that the parser reads them all. Messages are
//! those of the generator, the examples, and some of other makers; then tens of thousands of seeded mutants of them, one after the
//! other with whole ones, so that templates stay in use. That mutants do go through templates is counted.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::grammar;
use super::super::templates::{TEMPLATES_MAX, Templates};
use super::*;
use crate::source::generator::Generator;
use crate::source::generator::profile::{Profile, Wrapping};

/// Two decoders, of which one has templates.
struct Pair {
    with: Decoder,
    without: Decoder,
    offset: i64,
}

impl Pair {
    fn new(spec: &DecodeSpec) -> Self {
        Pair { with: Decoder::new(settings(spec, false)), without: Decoder::new(settings(spec, false)), offset: 0 }
    }

    /// Decodes a record both ways, holds the results against each other, and says if a template fitted and if it was accepted.
    fn same(&mut self, payload: &[u8]) -> (bool, bool) {
        let before = self.with.templates.fitted();
        self.offset += 1;
        self.without.templates = Templates::new();
        let mut results = [&mut self.with, &mut self.without].map(|decoder| {
            let out = Batch::default().with(self.offset, payload).decode(decoder);
            (format!("{out:?}"), out)
        });
        let accepted = !results[0].1.observations.entries.is_empty();
        let shown = results.each_mut().map(|(debug, out)| format!("{}{debug}", show(out)));
        assert_eq!(shown[0], shown[1], "{}", String::from_utf8_lossy(payload));
        assert!(self.without.templates.fitted() == 0, "the oracle has no templates");
        (self.with.templates.fitted() > before, accepted)
    }
}

/// What the generator writes, dirty as it is.
fn generated(wrapping: Wrapping, seed: u64, messages: usize) -> Vec<Vec<u8>> {
    // Before the broker received them, or the clock would be ahead.
    let start = EventTime::from_micros(RECEIVED.micros() - 20 * 86_400_000_000);
    let profile =
        Profile { start, wrapping, outliers: 0.02, amended: 0.05, kilopascal_patients: 0.1, ..Profile::default() };
    let mut generator = Generator::new(&profile, seed, 40, messages as u64);
    let mut all = Vec::new();
    let mut payload = Vec::new();
    while generator.next_into(&mut payload).is_some() {
        all.push(payload.clone());
    }
    all
}

/// Shapes of other makers, more than there are templates: blanks, escapes, other orders, single values, times of other kinds.
fn made(shape: usize, at: usize) -> Vec<u8> {
    let (minute, value, id) = (at % 60, 60 + at * 7 % 60, at * 7_919 % 1_000);
    let time = match shape % 5 {
        0 => format!("\"effectiveDateTime\":\"2026-01-01T08:{minute:02}:00Z\""),
        1 => format!("\"effectiveInstant\": \"2026-01-01T08:{minute:02}:00.5+01:00\""),
        2 => format!("\"effectivePeriod\":{{\"start\":\"2026-01-01T08:{minute:02}:00Z\",\"end\":\"x\"}}"),
        3 => format!("\"issued\":\"2026-01-01T08:{minute:02}:00Z\",\"effectiveDateTime\":null"),
        _ => "\"effectiveDateTime\":\"2026-01-01\"".into(),
    };
    let quantity = |value: usize, unit: &str| format!("{{\"value\": {value}.{}, \"code\":\"{unit}\"}}", at % 10);
    let part = |code: &str, quantity: &str| {
        format!(
            "{{\"code\":{{\"coding\":[{{\"system\":\"http:\\/\\/loinc.org\",\"code\":\"{code}\",\"display\":\"d{}\"}}]}},\"valueQuantity\":{quantity}}}",
            at % 3
        )
    };
    let what = match shape % 3 {
        0 => format!(
            "\"valueQuantity\":{},\"code\":{{\"coding\":[{{\"system\":\"http:\\/\\/loinc.org\",\"code\":\"8867-4\"}}]}}",
            quantity(value, "/min")
        ),
        1 => format!(
            "\"code\":{{\"coding\":[{{\"system\":\"http://loinc.org\",\"code\":\"85354-9\"}}]}},\"component\":[{},{},{}]",
            part("8480-6", &quantity(value + 60, "mm[Hg]")),
            part("8462-4", &quantity(value - 20, "mm[Hg]")),
            part("8478-0x", &quantity(value, "mm[Hg]")),
        ),
        _ => format!(
            "\"code\":{{\"coding\":[{{\"system\":\"http://loinc.org\",\"code\":\"8310-5\"}}],\"text\":\"t\\u00e9 {at}\"}},\"valueQuantity\":{{\"value\":3{}.5,\"unit\":\"Cel\",\"code\":\"Cel\"}}",
            5 + at % 5
        ),
    };
    let subject = match shape % 2 {
        0 => format!("\"subject\":{{\"reference\":\"Patient/p{id}\",\"display\":\"Jörg {}\"}}", at % 4),
        _ => format!("\"subject\" : {{\"reference\":\"https://a.example/Patient/{id}/_history/2\"}}"),
    };
    let extra = "\"extension\":[{\"url\":\"u\",\"valueInteger\":7}],".repeat(shape / 15);
    format!("{{\"resourceType\":\"Observation\",{extra}\"id\":\"o-{at}\",\"meta\":{{\"versionId\":\"{}\"}},\"status\":\"final\",{what},{subject},\"contained\":[{{\"resourceType\":\"Device\",\"n\":[1,-2.5e3,true,null,\"{}\"]}}],{time}}}", 1 + at % 3, at % 5).into_bytes()
}

const SHAPES: usize = 30;

#[test]
fn every_made_shape_is_accepted() {
    for shape in 0..SHAPES {
        for at in 0..3 {
            let out = decode(&spec(), &made(shape, at));
            assert_eq!(out.observations.entries.len(), 1, "{} {out:?}", String::from_utf8_lossy(&made(shape, at)));
        }
    }
}

#[test]
fn what_the_generator_writes_comes_to_the_same_and_mostly_fits() {
    for wrapping in [Wrapping::Bare, Wrapping::Envelope, Wrapping::Bundle] {
        let mut pair = Pair::new(&DecodeSpec::default());
        let all = generated(wrapping, 7, 1_500);
        let fitted = all.iter().filter(|payload| pair.same(payload).0).count();
        match wrapping {
            Wrapping::Bare => assert!(fitted * 100 > all.len() * 90, "{fitted} of {}", all.len()),
            Wrapping::Envelope | Wrapping::Bundle => {
                assert_eq!(fitted, 0, "there are templates of bare Observations only")
            }
        }
    }
}

#[test]
fn every_example_comes_to_the_same_as_often_as_it_comes() {
    for kind in ["accepted", "ignored", "rejected"] {
        for (file, bytes) in super::examples::files(kind) {
            let mut pair = Pair::new(&super::examples::spec_of(kind, &file));
            for _ in 0..3 {
                pair.same(&bytes);
            }
            let mut rng = ChaCha8Rng::seed_from_u64(11);
            for _ in 0..60 {
                pair.same(&mutant(&mut rng, &bytes, &bytes));
                pair.same(&bytes);
            }
        }
    }
}

/// Spelled in two ways it is the same type; a template that takes both must not take a third for it.
#[test]
fn a_type_is_no_hole_however_it_is_spelled() {
    let mut pair = Pair::new(&spec());
    for at in 0..24 {
        let name = ["Observation", "Observ\\u0061tion", "Observation", "Encounter", "Patient", "Bundle"][at % 6];
        let text = String::from_utf8(made(1, at)).unwrap().replacen("Observation", name, 1);
        pair.same(text.as_bytes());
    }
}

#[test]
fn an_unwrapped_string_fits_like_a_bare_observation() {
    let mut pair = Pair::new(&DecodeSpec { unwrap: "/after".into(), ..spec() });
    let mut fitted = 0;
    for at in 0..20 {
        let inner = String::from_utf8(made(1, at)).unwrap();
        let text = serde_json::to_string(&serde_json::json!({ "after": inner })).unwrap();
        fitted += usize::from(pair.same(text.as_bytes()).0);
        assert!(!pair.same(inner.as_bytes()).0, "the document around it is not what is templated");
    }
    assert!(fitted > 10, "{fitted}");
}

/// A place in a list.
fn pick(rng: &mut ChaCha8Rng, length: usize) -> usize {
    (rng.next_u64() % length.max(1) as u64) as usize
}

/// The insides of strings, and numbers, by a scan of its own.
fn places(bytes: &[u8]) -> Vec<(usize, usize)> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let start = at;
        if bytes[at] == b'"' {
            at += 1;
            while at < bytes.len() && bytes[at] != b'"' {
                at += 1 + usize::from(bytes[at] == b'\\');
            }
            found.push((start + 1, at.min(bytes.len())));
        } else if bytes[at].is_ascii_digit() || bytes[at] == b'-' {
            while at + 1 < bytes.len() && matches!(bytes[at + 1], b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-') {
                at += 1;
            }
            found.push((start, at + 1));
        }
        at += 1;
    }
    found
}

const TEXTS: [&[u8]; 24] = [
    b"",
    b"a",
    b"\\u0041b",
    b"\\ud83d\\ude00",
    b"\\ud800",
    b"\\udc00x",
    b"\\x",
    b"\\",
    b"\xff",
    b"\xc3",
    b"\xc3\xa9",
    b"\xed\xa0\x80",
    b"a\x00",
    b"a\x1f",
    b"tab\t",
    b"\x7f",
    b"Patient/a b",
    b"#p",
    b"urn:uuid:x",
    b"Group/1",
    b"2026-02-30",
    b"2026-01-01T00:00:60Z",
    b"9999999999999999999",
    b"\",\"id\":\"twice",
];

const NUMBERS: [&[u8]; 20] = [
    b"0",
    b"-0",
    b"007",
    b"1e999",
    b"-1e-999",
    b"1E2",
    b"1.",
    b".5",
    b"+1",
    b"1e",
    b"-",
    b"12345678901234567890",
    b"120.000000000000001",
    b"null",
    b"true",
    b"\"5\"",
    b"{}",
    b"[1]",
    b"1 ",
    b"0.0",
];

/// A message with one thing changed: mostly in a token, sometimes anywhere; sometimes a token of another message.
fn mutant(rng: &mut ChaCha8Rng, message: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = message.to_vec();
    if bytes.is_empty() {
        return bytes;
    }
    // Mostly what varies between messages: there templates have holes.
    let (mut tokens, theirs) = (places(&bytes), places(other));
    if tokens.len() == theirs.len() && !rng.next_u64().is_multiple_of(4) {
        let mut theirs = theirs.iter();
        tokens.retain(|&(from, to)| theirs.next().is_some_and(|&(start, end)| message[from..to] != other[start..end]));
    }
    let (start, end) = tokens.get(pick(rng, tokens.len())).copied().unwrap_or((0, bytes.len()));
    let inside = start + pick(rng, end - start);
    let anywhere = pick(rng, bytes.len());
    let at = if rng.next_u64().is_multiple_of(3) { anywhere } else { inside.min(bytes.len() - 1) };
    match rng.next_u64() % 12 {
        0 | 1 => bytes[at] ^= 1 << pick(rng, 8),
        2 => bytes[at] = b"\"\\\x00\x1f\x7f\x80\xff\xc3 09-e.{}[],:"[pick(rng, 20)],
        3 => bytes.truncate(at),
        4 => bytes.swap(at, (at + 1 + pick(rng, 4)).min(message.len() - 1)),
        5 | 6 => drop(bytes.splice(start..end, TEXTS[pick(rng, TEXTS.len())].iter().copied())),
        7 => drop(bytes.splice(start..end, NUMBERS[pick(rng, NUMBERS.len())].iter().copied())),
        8 => drop(bytes.drain(at..(at + 1 + pick(rng, 6)).min(message.len()))),
        9 => {
            let again = bytes[at..(at + 1 + pick(rng, 40)).min(message.len())].to_vec();
            drop(bytes.splice(at..at, again));
        }
        10 => {
            let theirs = places(other);
            let (from, to) = theirs.get(pick(rng, theirs.len())).copied().unwrap_or_default();
            drop(bytes.splice(start..end, other[from..to].iter().copied()));
        }
        _ => match pick(rng, 4) {
            0 => bytes.push(b"x} \xff"[pick(rng, 4)]),
            1 => drop(bytes.splice(0..0, *b"\xEF\xBB\xBF")),
            2 => drop(bytes.splice(1..1, *b"\"id\":\"x\",")),
            _ => drop(bytes.splice(1..1, *b"\"z\":1,")),
        },
    }
    bytes
}

/// Mutants of messages, each after a whole one. Returns how many fitted, and how many of those were accepted.
fn mutants(spec: &DecodeSpec, messages: &[Vec<u8>], seed: u64, count: usize) -> (usize, usize) {
    let mut pair = Pair::new(spec);
    for message in messages {
        pair.same(message);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut fitted, mut accepted) = (0, 0);
    for nth in 0..count {
        let message = &messages[pick(&mut rng, messages.len())];
        let other = &messages[pick(&mut rng, messages.len())];
        if nth % 2 == 0 {
            pair.same(other);
        }
        let mut mutant = mutant(&mut rng, message, other);
        if rng.next_u64().is_multiple_of(8) {
            mutant = self::mutant(&mut rng, &mutant, other);
        }
        let (fits, taken) = pair.same(&mutant);
        fitted += usize::from(fits);
        accepted += usize::from(fits && taken);
    }
    (fitted, accepted)
}

#[test]
fn mutants_of_generated_messages_come_to_the_same() {
    let messages = generated(Wrapping::Bare, 3, 300);
    let (fitted, accepted) = mutants(&DecodeSpec::default(), &messages, 1, 12_000);
    assert!(
        fitted > 2_000 && accepted > 1_000 && accepted < fitted,
        "{fitted} fitted, {accepted} of them were accepted"
    );
}

#[test]
fn mutants_of_many_shapes_come_to_the_same() {
    // As many shapes as there are templates, and more.
    for (shapes, least) in [(2, 1_000), (TEMPLATES_MAX, 250), (SHAPES, 50)] {
        let messages: Vec<_> = (0..shapes * 12).map(|at| made(at % shapes, at)).collect();
        for (seed, choice) in [(5, Choice::Reject), (6, Choice::Accept)] {
            let spec = DecodeSpec { duplicate_keys: choice, subject_identifier: choice, ..spec() };
            let (fitted, accepted) = mutants(&spec, &messages, seed, 8_000);
            assert!(
                fitted > least && accepted > least / 2,
                "{shapes} shapes: {fitted} fitted, {accepted} of them were accepted"
            );
        }
    }
}

#[test]
fn a_hole_takes_exactly_the_strings_that_are_strings_and_utf8() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let alphabet = b"ab\"\\u00e9d8\x00\x1f \x7f\x80\xa9\xc3\xff\xe2\x82\xac/n";
    let mut taken = 0;
    for _ in 0..60_000 {
        let length = pick(&mut rng, 24);
        let mut bytes: Vec<u8> = (0..length).map(|_| alphabet[pick(&mut rng, alphabet.len())]).collect();
        if rng.next_u64().is_multiple_of(2) {
            // A pair of bytes that is one character, and an end.
            bytes.splice(length / 2..length / 2, *b"\xc3\xa9");
            bytes.push(b'"');
        }
        let found = grammar::unchecked_string(&bytes, 0);
        let closed = grammar::string(&bytes, 0).ok();
        let utf8 = closed.filter(|(end, _)| std::str::from_utf8(&bytes[..*end]).is_ok());
        assert_eq!(found, utf8, "{bytes:?}");
        taken += usize::from(found.is_some_and(|(end, _)| end > 1));
    }
    assert!(taken > 2_000, "{taken}");
}

#[test]
fn what_is_never_the_same_is_hardly_learned_from() {
    let mut decoder = Decoder::new(settings(&spec(), false));
    let unlike = |at: usize| {
        let notes: String = (0..14).map(|bit| if at >> bit & 1 == 1 { "{}," } else { "[]," }).collect();
        let message = String::from_utf8(made(1, at)).unwrap();
        message.replacen("\"status\"", &format!("\"note\":[{notes}1],\"status\""), 1).into_bytes()
    };
    for at in 0..8_000 {
        let out = Batch::of(&unlike(at)).decode(&mut decoder);
        assert_eq!(out.observations.entries.len(), 1);
    }
    let lessons = decoder.templates.lessons();
    assert!((TEMPLATES_MAX as u64..200).contains(&lessons), "{lessons} lessons");
    // And yet a shape that begins to repeat is learned, soon.
    let before = decoder.templates.fitted();
    for at in 0..2_000 {
        Batch::of(&made(1, at)).decode(&mut decoder);
    }
    let fitted = decoder.templates.fitted() - before;
    assert!(fitted > 1_000, "{fitted} of 2,000 fitted");
}

#[test]
fn a_message_that_is_too_large_for_a_template_is_parsed() {
    let mut pair = Pair::new(&spec());
    let large = |at: usize, extra: String| {
        let text = String::from_utf8(made(1, at)).unwrap();
        text.replacen("\"status\"", &format!("\"note\":[{extra}1],\"status\""), 1).into_bytes()
    };
    for (extra, fits) in
        [("2,".repeat(60), true), ("2,".repeat(200), false), (format!("\"{}\",", "x".repeat(20 << 10)), false)]
    {
        let fitted = (0..6).filter(|at| pair.same(&large(*at, extra.clone())).0).count();
        assert_eq!(fitted > 0, fits, "{} bytes", extra.len());
    }
}
