//! What the simulated topic holds, and the source that reads it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::identified::{Arena, Mark, Payload, Record, Records};
use crate::source::{Lag, Poll, Polled, Share, SourceError, Topics};
use crate::time::IngestTime;
use crate::vocabulary::{Partition, Position, TopicId};

pub(super) const TOPIC: &str = "bp-obs";

/// 2026-01-01T00:00:00Z in seconds.
const NEW_YEAR: i64 = 1_767_225_600;

/// One record of a partition.
#[derive(Clone, Debug)]
pub(super) struct Message {
    key: Option<String>,
    /// `None`: a tombstone.
    payload: Option<String>,
    received_at: i64,
}

/// The records of each partition, by offset.
#[derive(Debug, Default)]
pub(super) struct Input {
    pub(super) partitions: Vec<Vec<Message>>,
    /// The first partition holds patients, and comes before all others.
    pub(super) patients_first: bool,
}

/// An observation as it was sent before.
#[derive(Clone)]
struct Sent {
    id: String,
    patient: u32,
    version: u32,
    minute: i64,
}

impl Input {
    pub(super) fn random(rng: &mut ChaCha8Rng) -> Input {
        let patients_first = rng.random_bool(0.2);
        let count = rng.random_range(1..=4) + usize::from(patients_first);
        // Some observations are sent to two partitions.
        let mut sent: Vec<Sent> = Vec::new();
        let mut partitions = Vec::new();
        for number in 0..count {
            let records = rng.random_range(3..=15);
            let mut own: Vec<Sent> = Vec::new();
            let mut now = 0;
            let mut messages = Vec::new();
            for _ in 0..records {
                now += rng.random_range(0..30);
                messages.push(match patients_first && number == 0 {
                    true => patient(rng, now),
                    false => message(rng, number, now, &mut own, &sent),
                });
            }
            sent.append(&mut own);
            partitions.push(messages);
        }
        Input { partitions, patients_first }
    }
}

fn message(rng: &mut ChaCha8Rng, partition: usize, now: i64, own: &mut Vec<Sent>, others: &[Sent]) -> Message {
    let minute = if rng.random_bool(0.15) { (now - rng.random_range(0..180)).max(0) } else { now };
    let fresh = |own: &[Sent], rng: &mut ChaCha8Rng| Sent {
        id: format!("o{partition}-{}", own.len()),
        // Most live in one partition.
        patient: if rng.random_bool(0.9) {
            rng.random_range(0..4) + 4 * partition as u32
        } else {
            rng.random_range(0..8)
        },
        version: 1,
        minute,
    };
    match rng.random_range(0..100) {
        0..4 => broken(rng, now),
        4..6 => patient(rng, now),
        6..8 => condition(rng, now),
        8..11 if !own.is_empty() => {
            let of = own.choose(rng).expect("not empty").clone();
            Message { key: Some(format!("Observation/{}", of.id)), payload: None, received_at: now }
        }
        11..30 if !own.is_empty() => {
            let at = rng.random_range(0..own.len());
            let mut again = own[at].clone();
            let status = *["final", "corrected", "amended", "entered-in-error", "cancelled"].choose(rng).expect("some");
            match rng.random_range(0..4) {
                0 => {}
                1 => again.version = again.version.saturating_sub(1),
                _ => again.version += 1,
            }
            if rng.random_bool(0.3) {
                again.minute = minute;
            }
            own.push(again.clone());
            observation(rng, &again, status, now)
        }
        30..33 if !others.is_empty() => {
            let mut again = others.choose(rng).expect("not empty").clone();
            again.version += rng.random_range(0..2);
            observation(rng, &again, "final", now)
        }
        _ => {
            let new = fresh(own, rng);
            own.push(new.clone());
            observation(rng, &new, "final", now)
        }
    }
}

fn patient(rng: &mut ChaCha8Rng, now: i64) -> Message {
    let number = rng.random_range(0..16);
    let gender = ["female", "male"].choose(rng).expect("two");
    let year = rng.random_range(1930..2000);
    let payload =
        format!(r#"{{"resourceType":"Patient","id":"p{number}","gender":"{gender}","birthDate":"{year}-04-07"}}"#);
    Message { key: None, payload: Some(payload), received_at: now }
}

/// A condition of somebody, or that it was deleted.
fn condition(rng: &mut ChaCha8Rng, now: i64) -> Message {
    let (patient, number) = (rng.random_range(0..16), rng.random_range(0..3));
    let key = Some(format!("Condition/c{patient}-{number}"));
    if rng.random_bool(0.15) {
        return Message { key, payload: None, received_at: now };
    }
    let code = ["I21.0", "E11.9", "J44.9", "N18.3", "I10"].choose(rng).expect("some");
    let clinical = ["active", "active", "resolved"].choose(rng).expect("some");
    let version = rng.random_range(1..4);
    let payload = format!(
        r#"{{"resourceType":"Condition","id":"c{patient}-{number}","meta":{{"versionId":"{version}"}},"clinicalStatus":{{"coding":[{{"code":"{clinical}"}}]}},"code":{{"coding":[{{"system":"http://hl7.org/fhir/sid/icd-10","code":"{code}"}}]}},"subject":{{"reference":"Patient/p{patient}"}}}}"#
    );
    Message { key, payload: Some(payload), received_at: now }
}

fn broken(rng: &mut ChaCha8Rng, now: i64) -> Message {
    let payload = match rng.random_range(0..3) {
        0 => "{".to_owned(),
        1 => r#"{"resourceType":"Observation","id":"x","status":"final"}"#.to_owned(),
        _ => r#"{"resourceType":"Encounter","id":"e"}"#.to_owned(),
    };
    Message { key: None, payload: Some(payload), received_at: now }
}

fn observation(rng: &mut ChaCha8Rng, of: &Sent, status: &str, now: i64) -> Message {
    let Sent { id, patient, version, minute } = of;
    let time = format!("2026-01-{:02}T{:02}:{:02}:00Z", 1 + minute / 1440, minute / 60 % 24, minute % 60);
    let mut text = format!(
        r#"{{"resourceType":"Observation","id":"{id}","meta":{{"versionId":"{version}"}},"status":"{status}","code":{{"coding":[{{"system":"http://loinc.org","code":"85354-9"}}]}},"subject":{{"reference":"Patient/p{patient}"}},"effectiveDateTime":"{time}","component":["#
    );
    let systolic = rng.random_range(80..190);
    let mut component = |code: &str, value: u32, last: bool| {
        let comma = if last { "" } else { "," };
        let _ = write!(
            text,
            r#"{{"code":{{"coding":[{{"system":"http://loinc.org","code":"{code}"}}]}},"valueQuantity":{{"value":{value},"unit":"mmHg","system":"http://unitsofmeasure.org","code":"mm[Hg]"}}}}{comma}"#
        );
    };
    let both = rng.random_bool(0.9);
    component("8480-6", systolic, !both);
    if both {
        component("8462-4", systolic / 2 + rng.random_range(0..20), true);
    }
    text.push_str("]}");
    let key = rng.random_bool(0.5).then(|| format!("Observation/{id}"));
    Message { key, payload: Some(text), received_at: now }
}

pub(super) fn partition(number: usize) -> Partition {
    Partition { topic: TopicId(0), number: number as i32 }
}

pub(super) fn topics() -> Topics {
    Topics::new([TOPIC.to_owned()])
}

/// One worker's share, read in random pieces.
pub(super) struct Reading {
    input: std::sync::Arc<Input>,
    rng: ChaCha8Rng,
    /// Partitions of this worker, with the next offset, and whether their end was said.
    next: BTreeMap<usize, (i64, bool)>,
    opened: bool,
    /// What comes first was delivered, and that was said.
    first_said: bool,
    /// Says nothing of partitions: all that was said of them is repeated.
    silent: bool,
}

impl Reading {
    pub(super) fn new(
        input: &std::sync::Arc<Input>,
        share: Share,
        resume: &BTreeMap<Partition, i64>,
        seed: u64,
        silent: bool,
    ) -> Self {
        let ours = (0..input.partitions.len()).filter(|number| share.takes(TOPIC, *number as i32));
        let from = |number| resume.get(&partition(number)).copied().unwrap_or(0);
        Reading {
            next: ours.map(|number| (number, (from(number), false))).collect(),
            first_said: !input.patients_first,
            input: std::sync::Arc::clone(input),
            rng: ChaCha8Rng::seed_from_u64(seed),
            opened: silent,
            silent,
        }
    }

    fn waiting(&self, number: usize) -> i64 {
        self.input.partitions[number].len() as i64 - self.next[&number].0
    }

    fn read(&mut self, number: usize, into: &mut Records) {
        let most = self.waiting(number).min(if self.silent { i64::MAX } else { self.rng.random_range(1..6) });
        let (next, _) = self.next.get_mut(&number).expect("ours");
        for _ in 0..most {
            let message = &self.input.partitions[number][*next as usize];
            push(message, Position { partition: partition(number), offset: *next, entry: 0 }, into);
            *next += 1;
        }
    }

    /// All is read: says so of each partition, then of all.
    fn end(&mut self, into: &mut Records) -> Polled {
        let unsaid = self.next.iter_mut().find(|(_, (_, said))| !*said);
        match unsaid {
            Some((number, (_, said))) if !self.silent => {
                *said = true;
                into.marks.push(Mark::Ended(partition(*number)));
                Polled::Some
            }
            _ => Polled::End,
        }
    }
}

fn push(message: &Message, position: Position, into: &mut Records) {
    let Records { arena, records, .. } = into;
    let bytes = |arena: &mut Arena, text: &String| arena.push(text.as_bytes());
    let key = message.key.as_ref().map(|key| bytes(arena, key));
    let payload = message.payload.as_ref().map_or(Payload::Tombstone, |text| Payload::Bytes(bytes(arena, text)));
    let received_at = Some(IngestTime::from_millis((NEW_YEAR + message.received_at * 60 + 59) * 1_000));
    records.push(Record { position, received_at, payload, key });
}

impl Poll for Reading {
    fn poll(&mut self, _: usize, into: &mut Records) -> Result<Polled, SourceError> {
        if !std::mem::replace(&mut self.opened, true) {
            into.marks.extend(self.next.keys().map(|number| Mark::Opened(partition(*number))));
            return Ok(Polled::Some);
        }
        if !self.silent && self.rng.random_bool(0.2) {
            return Ok(Polled::Nothing);
        }
        let patients = self.input.patients_first && self.next.contains_key(&0) && self.waiting(0) > 0;
        if patients {
            self.read(0, into);
            return Ok(Polled::Some);
        }
        if !std::mem::replace(&mut self.first_said, true) {
            return Ok(Polled::First);
        }
        let left: Vec<usize> = self.next.keys().copied().filter(|number| self.waiting(*number) > 0).collect();
        let Some(number) = left.choose(&mut self.rng).copied() else { return Ok(self.end(into)) };
        if !self.silent && self.rng.random_bool(0.05) {
            into.marks.push(Mark::Idle(partition(number)));
        } else {
            self.read(number, into);
        }
        Ok(Polled::Some)
    }

    fn limit(&mut self, _: Option<&BTreeMap<Partition, i64>>) {}

    fn durable(&mut self, _: &[(Partition, i64)]) {}

    fn lag(&self) -> Vec<Lag> {
        let lag = |(number, (next, _)): (&usize, &(i64, bool))| Lag {
            partition: partition(*number),
            position: *next,
            records: self.waiting(*number),
        };
        self.next.iter().map(lag).collect()
    }
}
