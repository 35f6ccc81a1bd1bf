//! Nanoseconds a message of the pure stages, on messages made here. `cargo bench --bench stages [-- MESSAGES [NAME]]`.
//!
//! Each figure is that of the best batch of several rounds on one thread, copying the batch into its arena not counted:
//! other work on the machine can only make a batch slower. Measures, never judges: no test depends on it.

#![expect(clippy::print_stdout, reason = "a benchmark's figures are its output")]

use std::time::Instant;

use windkessel::config::DecodeSpec;
use windkessel::decode::{Decoded, Decoder, Settings};
use windkessel::identified::{Arena, Payload, Record, Records};
use windkessel::pseudonymise::{Key, Pseudonymiser};
use windkessel::signals::SHIPPED;
use windkessel::source::Topics;
use windkessel::time::{EventSpan, IngestTime};
use windkessel::vocabulary::{Outcome, Partition, Position, Tally};

const ROUNDS: usize = 15;
/// Messages in a batch: what fits the cache beats what is large.
const BATCH: usize = 1_024;

fn main() {
    let messages = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(20 * BATCH);
    decode("bare observation", "auto", messages, |at| observation(at, "p"));
    decode("one in 20 unlike", "auto", messages, |at| if at % 20 == 7 { unlike(at) } else { observation(at, "p") });
    // A fixed order that no run of equal shapes helps.
    decode("16 shapes", "auto", messages, |at| shape((at * 2_654_435_761) >> 7 & 15, at));
    decode("never the same", "auto", messages, unlike);
    decode("envelope", "auto", messages, |at| {
        let patient = "{\"resourceType\":\"Patient\",\"id\":\"p1\",\"gender\":\"female\",\"birthDate\":\"1958-04-07\"}";
        format!("{{\"patient\":{patient},\"observation\":{}}}", observation(at, "p"))
    });
    decode("unwrapped string", "/after", messages, |at| {
        format!("{{\"after\":\"{}\"}}", observation(at, "p").replace('"', "\\\""))
    });
    decode("bundle of ten", "auto", messages / 10, |at| {
        let entries: Vec<_> = (0..10).map(|n| format!("{{\"resource\":{}}}", observation(at * 10 + n, "p"))).collect();
        format!("{{\"resourceType\":\"Bundle\",\"type\":\"collection\",\"entry\":[{}]}}", entries.join(","))
    });
}

/// The same with notes that make it a shape of its own.
fn unlike(at: usize) -> String {
    let notes: String = (0..20).map(|bit| if at >> bit & 1 == 1 { "{\"text\":\"a\"}," } else { "{}," }).collect();
    observation(at, "p").replacen("\"status\"", &format!("\"note\":[{notes}null],\"status\""), 1)
}

/// Four gateways, each with four kinds of Observation.
fn shape(kind: usize, at: usize) -> String {
    let gateway = format!(
        "\"extension\":[{{\"url\":\"http://gateway.example/{}\",\"valueString\":\"ward {}\"}}],\"effective",
        kind / 4,
        at % 17
    );
    let text = observation(at, "p").replacen("\"effective", &gateway, 1);
    let single = |code: &str, unit: &str, value: usize| {
        let (begin, rest) = text.split_once("\"85354-9\"").unwrap_or_default();
        let (rest, _) = rest.split_once("\"component\"").unwrap_or_default();
        format!(
            "{begin}\"{code}\"{rest}\"valueQuantity\":{{\"value\":{value},\"unit\":\"x\",\"system\":\"http://unitsofmeasure.org\",\"code\":\"{unit}\"}}}}"
        )
    };
    match kind % 4 {
        0 => single("8867-4", "/min", 60 + at % 50),
        1 => single("8310-5", "Cel", 36 + at % 4),
        2 => single("9279-1", "/min", 12 + at % 9),
        _ => text,
    }
}

/// A blood pressure as machines write it: about 1.2 kB, one line, no blanks.
fn observation(at: usize, patient: &str) -> String {
    let (minute, second, systolic, diastolic) = (at / 60 % 60, at % 60, 100 + at * 7 % 80, 50 + at * 5 % 45);
    let quantity = |value: usize| {
        format!(
            "{{\"value\":{value}.{},\"unit\":\"mmHg\",\"system\":\"http://unitsofmeasure.org\",\"code\":\"mm[Hg]\"}}",
            at % 10
        )
    };
    let component = |code: &str, name: &str, value: usize| {
        format!(
            "{{\"code\":{{\"coding\":[{{\"system\":\"http://loinc.org\",\"code\":\"{code}\",\"display\":\"{name} blood pressure\"}}],\"text\":\"{name} blood pressure\"}},\"valueQuantity\":{}}}",
            quantity(value)
        )
    };
    format!(
        "{{\"resourceType\":\"Observation\",\"id\":\"{at:08x}-5f0c-4c0e-8a52-1d2f3c4b5a69\",\"meta\":{{\"versionId\":\"1\",\"lastUpdated\":\"2026-01-01T08:{minute:02}:{second:02}.512Z\",\"profile\":[\"http://hl7.org/fhir/StructureDefinition/bp\"]}},\"status\":\"final\",\"category\":[{{\"coding\":[{{\"system\":\"http://terminology.hl7.org/CodeSystem/observation-category\",\"code\":\"vital-signs\",\"display\":\"Vital Signs\"}}]}}],\"code\":{{\"coding\":[{{\"system\":\"http://loinc.org\",\"code\":\"85354-9\",\"display\":\"Blood pressure panel with all children optional\"}}],\"text\":\"Blood pressure\"}},\"subject\":{{\"reference\":\"Patient/{patient}{:06}\"}},\"effectiveDateTime\":\"2026-01-01T08:{minute:02}:{second:02}.000+01:00\",\"component\":[{},{}]}}",
        at * 7_919 % 10_000,
        component("8480-6", "Systolic", systolic),
        component("8462-4", "Diastolic", diastolic),
    )
}

fn batch(texts: &[String], first: usize) -> Records {
    let mut arena = Arena::with_capacity(texts.iter().map(String::len).sum::<usize>() * 2);
    let records = texts.iter().enumerate().map(|(at, text)| Record {
        position: Position { partition: Partition::default(), offset: (first + at) as i64, entry: 0 },
        received_at: Some(IngestTime::from_millis(1_767_312_000_000)),
        payload: Payload::Bytes(arena.push(text.as_bytes())),
        key: None,
    });
    let records = records.collect();
    Records { arena, records, marks: Vec::new() }
}

fn decode(name: &str, unwrap: &str, messages: usize, make: impl Fn(usize) -> String) {
    // Only what was asked for, by the beginning of its name; `cargo bench` adds a flag of its own.
    if std::env::args().skip(2).any(|wanted| !wanted.starts_with('-') && !name.starts_with(&wanted)) {
        return;
    }
    let texts: Vec<String> = (0..messages).map(make).collect();
    let bytes: usize = texts.iter().map(String::len).sum();
    let signals = SHIPPED.map(String::from).to_vec();
    let spec = DecodeSpec { unwrap: unwrap.into(), signals, ..DecodeSpec::default() };
    let settings = Settings::new(&spec, EventSpan::from_seconds(600), EventSpan::from_seconds(86_400), false);
    let mut decoder = Decoder::new(settings.expect("the default settings are valid"));
    let key = Key::from_hex(&"0b".repeat(32)).expect("a key");
    let mut pseudonymiser = Pseudonymiser::new(&key, Topics::new(["bench".to_owned()]));
    let (mut best, mut best_after) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..ROUNDS {
        for (number, chunk) in texts.chunks(BATCH).enumerate() {
            let (records, mut out) = (batch(chunk, number * BATCH), Decoded::default());
            let start = Instant::now();
            decoder.decode(records, &mut out);
            best = best.min(start.elapsed().as_nanos() as f64 / chunk.len() as f64);
            assert!(out.tally.total(Outcome::Rejected) == 0, "every message is in order");
            let (mut intakes, mut tally) = (Vec::new(), Tally::default());
            let start = Instant::now();
            pseudonymiser.pseudonymise(out.observations, &mut intakes, &mut tally);
            best_after = best_after.min(start.elapsed().as_nanos() as f64 / intakes.len().max(1) as f64);
        }
    }
    let each = bytes as f64 / messages.max(1) as f64;
    println!(
        "decode  {name:<17} {best:>7.0} ns/message  {each:>5.0} bytes/message  {:>5.2} GB/s  pseudonymise {best_after:>5.0} ns/entry",
        each / best
    );
}
