//! Tests of the stage as a whole.
//!
//! * `examples`: every rule, reason and row of CLINICAL.md has a file that shows it, and every file does what its name says.
//! * `poison`: no bytes make the decoder panic, and damaged documents are rejected.
//! * `grammar`: the JSON reader accepts and reads exactly what an independent one does.
//! * `outcomes`: what came of patients, which is read in topics of its own.
//! * `stream`: positions, watermarks, tombstones and marks over several records; batching changes nothing.
//! * `saved`: decoders that are saved and loaded, on any number of workers, go on as one that was not.
//! * `templates`: with templates and without, every record comes to the same.
//! * `samples`: public FHIR data, if present, with expected values that another program computed.

mod examples;
mod grammar;
mod outcomes;
mod poison;
mod samples;
mod saved;
mod stream;
mod templates;

use std::fmt::Write;

use super::*;
use crate::identified::{Mark, Record};
use crate::signals::SHIPPED;
use crate::time::{EventTime, IngestTime};
use crate::vocabulary::{Partition, Precision, TopicId, Version};

/// Midnight of 2026-01-02, when the broker received whatever a test does not say otherwise of.
const RECEIVED: IngestTime = IngestTime::from_millis(1_767_312_000_000);

const ZERO: Partition = Partition { topic: TopicId(0), number: 0 };

/// The defaults, with all shipped signals.
fn spec() -> DecodeSpec {
    DecodeSpec { signals: SHIPPED.map(String::from).to_vec(), ..DecodeSpec::default() }
}

fn settings(spec: &DecodeSpec, files: bool) -> Settings {
    Settings::new(spec, EventSpan::from_seconds(600), EventSpan::from_seconds(86_400), files).unwrap()
}

/// A batch under construction.
#[derive(Default)]
struct Batch(Records);

impl Batch {
    fn of(payload: &[u8]) -> Self {
        Batch::default().with(0, payload)
    }

    fn with(mut self, offset: i64, payload: &[u8]) -> Self {
        let slice = self.0.arena.push(payload);
        self.push(ZERO, offset, Payload::Bytes(slice), None);
        self
    }

    fn of_payload(payload: Payload, key: Option<&[u8]>) -> Self {
        let mut batch = Batch::default();
        let key = key.map(|key| batch.0.arena.push(key));
        batch.push(ZERO, 0, payload, key);
        batch
    }

    fn push(&mut self, partition: Partition, offset: i64, payload: Payload, key: Option<Slice>) {
        let position = Position { partition, offset, entry: 0 };
        self.0.records.push(Record { position, received_at: Some(RECEIVED), payload, key });
    }

    fn marked(mut self, mark: Mark) -> Self {
        self.0.marks.push(mark);
        self
    }

    fn decode(self, decoder: &mut Decoder) -> Decoded {
        let mut out = Decoded::default();
        decoder.decode(self.0, &mut out);
        out
    }
}

fn decode(spec: &DecodeSpec, payload: &[u8]) -> Decoded {
    Batch::of(payload).decode(&mut Decoder::new(settings(spec, false)))
}

/// Everything that a batch came to, as text: entries, rejections, then what was ignored.
fn show(out: &mut Decoded) -> String {
    let mut text = String::new();
    let Observations { arena, entries } = &out.observations;
    let id = |id: Id| String::from_utf8(arena.id(id).to_vec()).unwrap();
    let place = |position: Position| match position.entry {
        0 => position.offset.to_string(),
        entry => format!("{}.{entry}", position.offset),
    };
    for entry in entries {
        match entry {
            Entry::Observation(one) => {
                let name = one.id.map_or("-".into(), id);
                let _ = write!(text, "{} observation {name} of {}", place(one.facts.position), id(one.patient));
                show_facts(&one.facts, &mut text);
            }
            Entry::Patient(one) => {
                let Demographics { birth_year, sex, version, .. } = one.demographics;
                let year = birth_year.map_or("-".into(), |year| year.to_string());
                let place = place(one.position);
                let _ =
                    write!(text, "{place} patient {} {year} {}{}", id(one.patient), sex.code(), show_version(version));
            }
            Entry::Label(one) => {
                let (name, patient) = (one.id.map_or("-".into(), id), one.patient.map_or("-".into(), id));
                let said =
                    one.happened.map_or("withdrawn", |happened| if happened { "happened" } else { "did not happen" });
                let (place, at) = (place(one.position), show_time(one.at));
                let _ = write!(text, "{place} outcome {name} of {patient} by {at} {said}{}", show_version(one.version));
                text.push_str(if one.deletable { " deletable" } else { "" });
            }
            Entry::Condition(one) => {
                let (name, patient) = (one.id.map_or("-".into(), id), one.patient.map_or("-".into(), id));
                let table = crate::comorbidities::ComorbidityTable::shipped();
                let means: String = table.names(one.comorbidities).flat_map(|name| [" ", name]).collect();
                let means = if one.withdraws { " withdrawn" } else { &means };
                let means = if means.is_empty() { " nothing" } else { means };
                let _ = write!(
                    text,
                    "{} condition {name} of {patient}{}:{means}",
                    place(one.position),
                    show_version(one.version)
                );
                text.push_str(if one.deletable { " deletable" } else { "" });
            }
            Entry::Deletion(one) => {
                let patient = one.patient.map_or("-".into(), id);
                let place = place(one.position);
                let _ = write!(text, "{place} deletion of {} of {patient}{}", id(one.id), show_version(one.version));
            }
        }
        text.push('\n');
    }
    for rejection in &out.rejections {
        let index = rejection.index.map_or(String::new(), |index| format!(" [{index}]"));
        let _ =
            writeln!(text, "{} rejected {}: {}{index}", place(rejection.position), rejection.rule, rejection.detail);
    }
    for (outcome, reason, count) in out.tally.drain() {
        if outcome == Outcome::Ignored {
            let _ = writeln!(text, "ignored {reason} {count}");
        }
    }
    text
}

use crate::vocabulary::Demographics;

fn show_version(version: Version) -> String {
    match version {
        Version::Number(number) => format!(" v{number}"),
        Version::Updated(micros) => format!(" updated {}", show_time(EventTime::from_micros(micros))),
        Version::Unversioned => String::new(),
    }
}

fn show_time(at: EventTime) -> String {
    if at == EventTime::MIN {
        return "-".into();
    }
    jiff::Timestamp::from_microsecond(at.micros()).unwrap().to_string()
}

fn show_facts(facts: &Facts, text: &mut String) {
    let _ = write!(text, " at {}", show_time(facts.at));
    if facts.precision == Precision::Day {
        text.push_str(" (day)");
    }
    let _ = write!(text, " {}{}", facts.status.code(), show_version(facts.version));
    if facts.timeliness != Timeliness::OnTime {
        let _ = write!(text, " {:?}", facts.timeliness);
    }
    for measured in facts.signals.iter() {
        let name = SHIPPED.get(usize::from(measured.signal.0)).copied().unwrap_or("other");
        let _ = write!(text, " {name}={}", measured.value);
    }
    if facts.summary {
        text.push_str(" summary");
    }
    for leniency in Leniency::names(facts.leniencies) {
        let _ = write!(text, " +{leniency}");
    }
}
