//! How an observation is written: a hospital has gateways of several makers, and now and then a message is unlike all others.
//!
//! Invariants: a shape follows from (profile, patient, ordinal of the reading), so that every version of a reading has the same one;
//! it changes nothing that is read from a message, and with the default profile not a byte.

use super::patient::{Draws, mix};
use super::profile::{KINDS_MAX, Profile};

/// Notes of a message unlike others, each in one of [`NOTES`]'s forms: 3^12, half a million of them.
const NOTES_COUNT: usize = 12;
const NOTES: [&[u8]; 3] = [
    b"{\"text\":\"as before\"}",
    b"{\"time\":\"2026\",\"text\":\"again\"}",
    b"{\"authorString\":\"RN\",\"text\":\"ok\"}",
];

/// Which shapes there are, and how often each.
pub(super) struct Shapes {
    /// Up to which share of 0..1 the draw means the first, second … kind. One entry fewer than there are kinds.
    until: Vec<f64>,
    unlike: f64,
}

/// One message's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    /// A bit for each part that may be there.
    kind: u32,
    /// Which notes it has, if it is unlike others.
    notes: Option<u64>,
}

impl Shapes {
    pub(super) fn new(profile: &Profile) -> Self {
        let kinds = profile.kinds.clamp(1, KINDS_MAX);
        let weight = |kind: u32| 1.0 / f64::from(kind);
        let all: f64 = (1..=kinds).map(weight).sum();
        let until = (1..kinds).scan(0.0, |sum, kind| {
            *sum += weight(kind) / all;
            Some(*sum)
        });
        Shapes { until: until.collect(), unlike: profile.unlike }
    }

    /// The shape of a patient's reading.
    pub(super) fn of(&self, identity: u64, reading: u32) -> Shape {
        if self.until.is_empty() && self.unlike <= 0.0 {
            return Shape { kind: 0, notes: None };
        }
        let mut draws = Draws(mix(identity ^ (u64::from(reading) << 8) ^ 0x5ba9e));
        let (draw, unlike) = (draws.unit(), draws.unit() < self.unlike);
        Shape { kind: self.until.partition_point(|until| *until <= draw) as u32, notes: unlike.then(|| draws.bits()) }
    }
}

impl Shape {
    fn has(self, part: u32) -> bool {
        self.kind >> part & 1 == 1
    }

    pub(super) fn diastolic_first(self) -> bool {
        self.has(1)
    }

    /// What stands between encounter and time.
    pub(super) fn before_time(self, out: &mut Vec<u8>) {
        if self.has(0) {
            out.extend_from_slice(
                b"\"extension\":[{\"url\":\"http://gateway.example/source\",\"valueString\":\"bedside\"}],",
            );
        }
        if self.has(5) {
            out.extend_from_slice(b"\"language\":\"en\",");
        }
    }

    /// What stands between performer and device.
    pub(super) fn before_device(self, out: &mut Vec<u8>) {
        if self.has(2) {
            out.extend_from_slice(b"\"interpretation\":[{\"text\":\"see trend\"}],");
        }
        if let Some(notes) = self.notes {
            self.notes(out, notes);
        }
        if self.has(3) {
            out.extend_from_slice(
                b"\"bodySite\":{\"coding\":[{\"system\":\"http://snomed.info/sct\",\"code\":\"368208006\"}]},",
            );
        }
        if self.has(4) {
            out.extend_from_slice(b"\"method\":{\"text\":\"oscillometry\"},");
        }
    }

    fn notes(self, out: &mut Vec<u8>, mut notes: u64) {
        out.extend_from_slice(b"\"note\":[");
        for at in 0..NOTES_COUNT {
            if at > 0 {
                out.push(b',');
            }
            out.extend_from_slice(NOTES[(notes % NOTES.len() as u64) as usize]);
            notes /= NOTES.len() as u64;
        }
        out.extend_from_slice(b"],");
    }
}

#[cfg(test)]
mod tests {
    //! Proves that there are as many shapes as asked for, as often as a Zipf distribution wants them, and that nothing else changes.
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::*;
    use crate::source::generator::{Content, Generator, Message};

    fn observations(profile: &Profile) -> Vec<Message> {
        let messages = Generator::new(profile, 9, 100, 20_000);
        messages.filter(|message| message.head.content == Content::Observation).collect()
    }

    /// The order and depth of all keys.
    fn skeleton(text: &[u8]) -> Vec<u8> {
        let (mut keys, mut from) = (Vec::new(), 0);
        while let Some(end) = text[from..].windows(2).position(|pair| pair == b"\":").map(|at| from + at) {
            let begin = text[..end].iter().rposition(|byte| *byte == b'"').unwrap();
            keys.extend_from_slice(&text[begin..=end]);
            from = end + 2;
        }
        keys
    }

    #[test]
    fn there_are_as_many_kinds_as_asked_for_and_the_first_are_the_most_frequent() {
        for kinds in [1, 2, 16, KINDS_MAX] {
            let shapes = Shapes::new(&Profile { kinds, ..Profile::default() });
            let (count, mut seen) = (200_000, BTreeMap::new());
            for reading in 0..count {
                *seen.entry(shapes.of(7, reading).kind).or_insert(0_u32) += 1;
            }
            assert_eq!(seen.keys().copied().collect::<Vec<_>>(), (0..kinds).collect::<Vec<_>>());
            let all: f64 = (1..=kinds).map(|kind| 1.0 / f64::from(kind)).sum();
            for (kind, seen) in seen {
                let share = 1.0 / f64::from(kind + 1) / all;
                assert!(
                    (f64::from(seen) / f64::from(count) / share - 1.0).abs() < 0.15,
                    "{kinds} kinds, {kind}: {seen}"
                );
            }
        }
    }

    #[test]
    fn sixteen_kinds_are_sixteen_orders_of_keys_and_one_in_twenty_is_like_no_other() {
        let skeletons = |profile: &Profile| -> BTreeMap<Vec<u8>, u32> {
            let mut counts = BTreeMap::new();
            for message in observations(profile) {
                // Both components have the same keys: what is first tells their order.
                let diastolic = message.payload.windows(6).position(|code| code == b"8462-4");
                let systolic = message.payload.windows(6).position(|code| code == b"8480-6");
                let mut key = skeleton(&message.payload);
                key.push(u8::from(diastolic < systolic));
                *counts.entry(key).or_insert(0) += 1;
            }
            counts
        };
        assert_eq!(skeletons(&Profile::clean()).len(), 1);
        assert_eq!(skeletons(&Profile { kinds: 16, ..Profile::clean() }).len(), 16);
        let unlike = skeletons(&Profile { unlike: 0.05, ..Profile::clean() });
        let plain = *unlike.values().max().unwrap();
        assert!((18_800..19_200).contains(&plain), "{plain}");
        assert!(unlike.len() as u32 > (20_000 - plain) * 99 / 100, "{}", unlike.len());
    }

    #[test]
    fn whatever_its_shape_a_message_says_the_same() {
        let kinds = Profile { kinds: KINDS_MAX, unlike: 0.2, ..Profile::default() };
        let mut sizes = BTreeSet::new();
        for (plain, shaped) in observations(&Profile::default()).iter().zip(observations(&kinds)) {
            sizes.insert(shaped.payload.len());
            let plain: Value = serde_json::from_slice(&plain.payload).unwrap();
            let mut shaped: Value = serde_json::from_slice(&shaped.payload).unwrap();
            for part in ["extension", "language", "interpretation", "note", "bodySite", "method"] {
                shaped.as_object_mut().unwrap().remove(part);
            }
            let parts = shaped["component"].as_array_mut().unwrap();
            parts.sort_by_key(|part| part["code"]["coding"][0]["code"] == "8462-4");
            assert_eq!(shaped, plain);
        }
        assert!(sizes.len() > 100);
    }
}
