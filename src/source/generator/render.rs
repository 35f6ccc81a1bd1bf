//! FHIR R4 as bytes: constant pieces with values between them, into a buffer that is used again.
//!
//! Invariants: what is written is valid JSON without any escaping (every inserted text is ASCII letters, digits and punctuation that needs none).
//! The shape is that of a monitor's gateway, or one of its relatives (`shape.rs`): panel 85354-9 with components 8480-6 and 8462-4, profile `bp`, about 1.2 kB.
//! Names, addresses and numbers are invented; they are there so that de-identification has something to remove.

use super::conditions::Known;
use super::patient::{Patient, Shown, Status, Unit, mix};
use super::profile::{Profile, START, Wrapping};
use super::shape::Shapes;

/// The length of an id: a UUID.
pub const ID_BYTES: usize = 36;

const FAMILIES: [&str; 16] = [
    "Abendroth",
    "Birkeland",
    "Castellanos",
    "Dumont",
    "Eriksen",
    "Fairbairn",
    "Giordano",
    "Hartwell",
    "Ivanova",
    "Jankowski",
    "Kovacs",
    "Lindqvist",
    "Moreau",
    "Nakamura",
    "Okonkwo",
    "Pereira",
];
const FEMALE: [&str; 8] = ["Amara", "Beatrix", "Chiara", "Dagny", "Elif", "Freya", "Greta", "Hanna"];
const MALE: [&str; 8] = ["Anton", "Bruno", "Cosmo", "Darius", "Emil", "Felix", "Goran", "Henrik"];
const STREETS: [&str; 8] = [
    "Alder Row",
    "Bridge Street",
    "Canal Walk",
    "Dove Lane",
    "Elm Street",
    "Foundry Road",
    "Garden Close",
    "Harbour View",
];
const TOWNS: [&str; 8] =
    ["Ashford", "Brookhaven", "Clearwater", "Dunmore", "Eastvale", "Fernhill", "Glenmoor", "Holmwood"];

/// What one observation message says.
pub(super) struct Told {
    pub(super) reading: u32,
    pub(super) version: u32,
    pub(super) status: Status,
    pub(super) measured_us: i64,
    pub(super) updated_us: i64,
    pub(super) shown: Shown,
    pub(super) attended: bool,
}

/// Writes messages; keeps the dates it wrote last.
pub(super) struct Renderer {
    day: Day,
    shapes: Shapes,
}

/// One day as text: consecutive readings are mostly of the same.
struct Day {
    number: i64,
    text: [u8; 10],
}

impl Default for Day {
    fn default() -> Self {
        Day { number: i64::MIN, text: *b"0000-00-00" }
    }
}

/// What ids are of; part of their hash.
#[derive(Clone, Copy)]
enum Kind {
    Patient = 1,
    Encounter,
    Device,
    Practitioner,
    Observation,
    Condition,
}

/// The logical id of a patient: also the Kafka key.
pub(super) fn patient_id(patient: &Patient) -> [u8; ID_BYTES] {
    uuid(patient.identity, Kind::Patient, 0)
}

impl Renderer {
    pub(super) fn new(profile: &Profile) -> Self {
        Renderer { day: Day::default(), shapes: Shapes::new(profile) }
    }

    /// One observation, in its wrapping.
    pub(super) fn observation(&mut self, out: &mut Vec<u8>, wrapping: Wrapping, patient: &Patient, told: &Told) {
        match wrapping {
            Wrapping::Bare => self.bare(out, patient, told),
            Wrapping::Envelope => {
                out.extend_from_slice(b"{\"patient\":");
                self.patient(out, patient);
                out.extend_from_slice(b",\"observation\":");
                self.bare(out, patient, told);
                out.push(b'}');
            }
            Wrapping::Bundle => {
                out.extend_from_slice(
                    b"{\"resourceType\":\"Bundle\",\"type\":\"collection\",\"entry\":[{\"fullUrl\":\"urn:uuid:",
                );
                out.extend_from_slice(&patient_id(patient));
                out.extend_from_slice(b"\",\"resource\":");
                self.patient(out, patient);
                out.extend_from_slice(b"},{\"resource\":");
                self.bare(out, patient, told);
                out.extend_from_slice(b"}]}");
            }
        }
    }

    fn bare(&mut self, out: &mut Vec<u8>, patient: &Patient, told: &Told) {
        let identity = patient.identity;
        let shape = self.shapes.of(identity, told.reading);
        out.extend_from_slice(b"{\"resourceType\":\"Observation\",\"id\":\"");
        out.extend_from_slice(&uuid(identity, Kind::Observation, told.reading));
        out.extend_from_slice(b"\",\"meta\":{\"versionId\":\"");
        number(out, told.version);
        out.extend_from_slice(b"\",\"lastUpdated\":\"");
        self.instant(out, told.updated_us);
        out.extend_from_slice(b"\",\"profile\":[\"http://hl7.org/fhir/StructureDefinition/bp\"]},\"status\":\"");
        out.extend_from_slice(match told.status {
            Status::Final => b"final",
            Status::Amended => b"amended",
            Status::EnteredInError => b"entered-in-error",
        });
        out.extend_from_slice(
            b"\",\"category\":[{\"coding\":[{\"system\":\"http://terminology.hl7.org/CodeSystem/observation-category\",\
            \"code\":\"vital-signs\",\"display\":\"Vital Signs\"}]}],\
            \"code\":{\"coding\":[{\"system\":\"http://loinc.org\",\"code\":\"85354-9\",\
            \"display\":\"Blood pressure panel with all children optional\"}]},\"subject\":{\"reference\":\"Patient/",
        );
        out.extend_from_slice(&patient_id(patient));
        out.extend_from_slice(b"\"},\"encounter\":{\"reference\":\"Encounter/");
        out.extend_from_slice(&uuid(identity, Kind::Encounter, 0));
        out.extend_from_slice(b"\"},");
        shape.before_time(out);
        out.extend_from_slice(b"\"effectiveDateTime\":\"");
        self.instant(out, told.measured_us);
        // An unattended reading is the device's own.
        out.extend_from_slice(b"\",\"performer\":[{\"reference\":\"");
        let performer =
            if told.attended { (&b"Practitioner/"[..], Kind::Practitioner) } else { (&b"Device/"[..], Kind::Device) };
        out.extend_from_slice(performer.0);
        out.extend_from_slice(&uuid(identity, performer.1, 0));
        out.extend_from_slice(b"\"}],");
        shape.before_device(out);
        out.extend_from_slice(b"\"device\":{\"reference\":\"Device/");
        out.extend_from_slice(&uuid(identity, Kind::Device, 0));
        out.extend_from_slice(b"\"},\"component\":[");
        let parts: [fn(&mut Vec<u8>, Shown); 2] =
            if shape.diastolic_first() { [diastolic, systolic] } else { [systolic, diastolic] };
        parts[0](out, told.shown);
        out.push(b',');
        parts[1](out, told.shown);
        out.extend_from_slice(b"]}");
    }

    /// The Patient resource.
    pub(super) fn patient(&mut self, out: &mut Vec<u8>, patient: &Patient) {
        // Birthdays are counted back from the year the profile starts in; which day of the year comes from the identity.
        let bits = mix(patient.identity ^ 0x00b1_47da);
        let pick = |shift: u32, len: usize| (bits >> shift) as usize % len;
        let given = if patient.female { FEMALE } else { MALE }[pick(0, 8)];
        let birth_year = 2025 - u32::from(patient.age_years);
        out.extend_from_slice(b"{\"resourceType\":\"Patient\",\"id\":\"");
        out.extend_from_slice(&patient_id(patient));
        out.extend_from_slice(b"\",\"meta\":{\"versionId\":\"1\",\"lastUpdated\":\"");
        // Always the same, whenever it is sent: it is the same version.
        self.instant(out, START.micros());
        out.extend_from_slice(
            b"\"},\"identifier\":[{\"use\":\"usual\",\"type\":{\"coding\":[{\"system\":\"http://terminology.hl7.org/CodeSystem/v2-0203\",\
            \"code\":\"MR\"}]},\"system\":\"urn:oid:2.999.1.7\",\"value\":\"MRN-",
        );
        number(out, 10_000_000 + (bits >> 40) as u32 % 90_000_000);
        out.extend_from_slice(b"\"}],\"active\":true,\"name\":[{\"use\":\"official\",\"family\":\"");
        out.extend_from_slice(FAMILIES[pick(4, 16)].as_bytes());
        out.extend_from_slice(b"\",\"given\":[\"");
        out.extend_from_slice(given.as_bytes());
        out.extend_from_slice(b"\"]}],\"telecom\":[{\"system\":\"phone\",\"value\":\"+1-555-01");
        two(out, pick(8, 100) as u32);
        out.push(b'-');
        two(out, pick(16, 100) as u32);
        two(out, pick(24, 100) as u32);
        out.extend_from_slice(b"\",\"use\":\"mobile\"}],\"gender\":\"");
        out.extend_from_slice(if patient.female { b"female" } else { b"male" });
        out.extend_from_slice(b"\",\"birthDate\":\"");
        number(out, birth_year);
        out.push(b'-');
        two(out, 1 + pick(32, 12) as u32);
        out.push(b'-');
        two(out, 1 + pick(36, 28) as u32);
        out.extend_from_slice(b"\",\"address\":[{\"use\":\"home\",\"line\":[\"");
        number(out, 1 + pick(42, 99) as u32);
        out.push(b' ');
        out.extend_from_slice(STREETS[pick(50, 8)].as_bytes());
        out.extend_from_slice(b"\"],\"city\":\"");
        out.extend_from_slice(TOWNS[pick(54, 8)].as_bytes());
        out.extend_from_slice(b"\",\"postalCode\":\"");
        number(out, 10_000 + pick(44, 90_000) as u32);
        out.extend_from_slice(b"\"}]}");
    }

    /// A Condition resource: active and confirmed.
    pub(super) fn condition(&mut self, out: &mut Vec<u8>, patient: &Patient, number: u32, known: &Known) {
        out.extend_from_slice(b"{\"resourceType\":\"Condition\",\"id\":\"");
        out.extend_from_slice(&uuid(patient.identity, Kind::Condition, number));
        out.extend_from_slice(b"\",\"meta\":{\"versionId\":\"1\",\"lastUpdated\":\"");
        self.instant(out, START.micros());
        out.extend_from_slice(
            b"\"},\"clinicalStatus\":{\"coding\":[{\"system\":\"http://terminology.hl7.org/CodeSystem/condition-clinical\",\"code\":\"active\"}]},\
            \"verificationStatus\":{\"coding\":[{\"system\":\"http://terminology.hl7.org/CodeSystem/condition-ver-status\",\
            \"code\":\"confirmed\"}]},\"code\":{\"coding\":[{\"system\":\"",
        );
        out.extend_from_slice(known.system.as_bytes());
        out.extend_from_slice(b"\",\"code\":\"");
        out.extend_from_slice(known.code.as_bytes());
        out.extend_from_slice(b"\",\"display\":\"");
        out.extend_from_slice(known.display.as_bytes());
        out.extend_from_slice(b"\"}]},\"subject\":{\"reference\":\"Patient/");
        out.extend_from_slice(&patient_id(patient));
        out.extend_from_slice(b"\"}}");
    }

    /// RFC 3339 in UTC with milliseconds: 24 bytes.
    fn instant(&mut self, out: &mut Vec<u8>, at_us: i64) {
        const DAY_US: i64 = 86_400_000_000;
        let number = at_us.div_euclid(DAY_US);
        if number != self.day.number {
            let midnight = jiff::Timestamp::from_microsecond(number * DAY_US).unwrap_or_default();
            let date = jiff::tz::Offset::UTC.to_datetime(midnight).date();
            let mut text = Vec::with_capacity(10);
            number4(&mut text, date.year().unsigned_abs().into());
            text.push(b'-');
            two(&mut text, date.month().unsigned_abs().into());
            text.push(b'-');
            two(&mut text, date.day().unsigned_abs().into());
            self.day.text.copy_from_slice(&text);
            self.day.number = number;
        }
        let millis = (at_us.rem_euclid(DAY_US) / 1_000) as u32;
        out.extend_from_slice(&self.day.text);
        out.push(b'T');
        two(out, millis / 3_600_000);
        out.push(b':');
        two(out, millis / 60_000 % 60);
        out.push(b':');
        two(out, millis / 1_000 % 60);
        out.push(b'.');
        let millis = millis % 1_000;
        out.push(b'0' + (millis / 100) as u8);
        two(out, millis % 100);
        out.push(b'Z');
    }
}

/// The systolic component.
fn systolic(out: &mut Vec<u8>, shown: Shown) {
    out.extend_from_slice(
        b"{\"code\":{\"coding\":[{\"system\":\"http://loinc.org\",\"code\":\"8480-6\",\
        \"display\":\"Systolic blood pressure\"}]},\"valueQuantity\":{\"value\":",
    );
    quantity(out, shown.systolic_tenths, shown.unit);
    out.push(b'}');
}

/// The diastolic component.
fn diastolic(out: &mut Vec<u8>, shown: Shown) {
    out.extend_from_slice(
        b"{\"code\":{\"coding\":[{\"system\":\"http://loinc.org\",\"code\":\"8462-4\",\
        \"display\":\"Diastolic blood pressure\"}]},\"valueQuantity\":{\"value\":",
    );
    quantity(out, shown.diastolic_tenths, shown.unit);
    out.push(b'}');
}

/// The rest of a Quantity, from its value on.
fn quantity(out: &mut Vec<u8>, tenths: i32, unit: Unit) {
    number(out, tenths.unsigned_abs() / 10);
    if tenths % 10 != 0 {
        out.push(b'.');
        out.push(b'0' + (tenths.unsigned_abs() % 10) as u8);
    }
    out.extend_from_slice(match unit {
        Unit::Mmhg => &b",\"unit\":\"mmHg\",\"system\":\"http://unitsofmeasure.org\",\"code\":\"mm[Hg]\"}"[..],
        Unit::Kilopascal => b",\"unit\":\"kPa\",\"system\":\"http://unitsofmeasure.org\",\"code\":\"kPa\"}",
        Unit::Missing => b",\"system\":\"http://unitsofmeasure.org\"}",
    });
}

/// A decimal number without leading zeros.
fn number(out: &mut Vec<u8>, value: u32) {
    let mut digits = [0; 10];
    let (mut at, mut left) = (digits.len(), value);
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn number4(out: &mut Vec<u8>, value: u32) {
    two(out, value / 100 % 100);
    two(out, value % 100);
}

/// Two digits.
fn two(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&[b'0' + (value / 10 % 10) as u8, b'0' + (value % 10) as u8]);
}

/// A UUID of version 4's shape, from hashes instead of chance.
fn uuid(identity: u64, kind: Kind, ordinal: u32) -> [u8; ID_BYTES] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let high = mix(identity ^ (u64::from(ordinal) << 8) ^ kind as u64);
    let low = mix(high ^ identity.rotate_left(32));
    let bytes = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
    let mut text = [b'-'; ID_BYTES];
    let mut at = 0;
    for (index, byte) in bytes.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = DIGITS[usize::from(byte >> 4)];
        text[at + 1] = DIGITS[usize::from(byte & 15)];
        at += 2;
    }
    (text[14], text[19]) = (b'4', b'a');
    text
}

#[cfg(test)]
mod tests {
    //! Proves the hand-written formats against a library.
    use super::*;

    #[test]
    fn instants_are_written_as_a_library_writes_them() {
        let mut renderer = Renderer::new(&Profile::default());
        for at_us in [0, 1_767_571_200_123_000, 951_782_400_000_000, 4_102_444_799_999_000, 1_709_164_800_000_000] {
            let mut out = Vec::new();
            renderer.instant(&mut out, at_us);
            let text = String::from_utf8(out).unwrap();
            let read: jiff::Timestamp = text.parse().unwrap();
            assert_eq!((read.as_microsecond(), text.len()), (at_us, 24), "{text}");
        }
    }

    #[test]
    fn ids_are_uuids_and_differ_by_kind_and_ordinal() {
        let ids = [
            uuid(1, Kind::Patient, 0),
            uuid(1, Kind::Device, 0),
            uuid(1, Kind::Observation, 1),
            uuid(1, Kind::Observation, 2),
        ];
        for (index, id) in ids.iter().enumerate() {
            let text = std::str::from_utf8(id).unwrap();
            assert_eq!(text.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{text}");
            assert!(!ids[..index].contains(id));
        }
    }
}
