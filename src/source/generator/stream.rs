//! The messages of one partition, in the order in which they arrive: which patient is next, and what goes wrong with the reading.
//!
//! Invariants: the messages are a pure function of (profile, seed, patients, observations, partition). Observation `n` of all
//! (counted over all partitions, from 0) arrives at `start + n · every / patients` in partition `n % partitions`.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::conditions::{self, Known};
use super::patient::{Device, Draws, Patient, Pressures, Previous, Shown, Status, Unit};
use super::profile::{Profile, Wrapping};
use super::render::{ID_BYTES, Renderer, Told, patient_id};
use super::{Content, Fault, Head, PARTITIONS, Truth};
use crate::time::EventTime;

/// 1 kPa = 7.50062 mmHg (BIPM SI brochure, conventional millimetre of mercury 133.322 Pa).
const MMHG_PER_KPA: f32 = 7.500_62;

/// A gateway needs this long from measuring to storing, microseconds.
const STORED_AFTER_US: i64 = 300_000;

/// One partition's messages.
pub(super) struct Stream {
    profile: Profile,
    number: u32,
    /// Partitions that have patients at all; the observations are dealt out to these.
    streams: u64,
    patients_all: u64,
    patients: Vec<Patient>,
    rng: ChaCha8Rng,
    renderer: Renderer,
    /// Observations so far, of this partition.
    done: u64,
    /// Observations altogether, of this partition.
    total: u64,
    /// The patient whose observation comes next, once its Patient resource is out.
    next: Option<usize>,
}

/// How many partitions hold patients.
pub(super) fn streams(patients: u32) -> u32 {
    patients.clamp(1, PARTITIONS)
}

impl Stream {
    /// `observations` over all partitions; 0 means without end.
    pub(super) fn new(profile: &Profile, seed: u64, patients: u32, observations: u64, number: u32) -> Self {
        let patients = patients.max(1);
        let streams = u64::from(streams(patients));
        let share = |all: u64| (all + streams - 1 - u64::from(number)) / streams;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(u64::from(number));
        let members = (number..patients).step_by(PARTITIONS as usize);
        Stream {
            profile: profile.clone(),
            number,
            streams,
            patients_all: u64::from(patients),
            patients: members.map(|index| Patient::new(profile, seed, index)).collect(),
            rng,
            renderer: Renderer::new(profile),
            done: 0,
            total: match observations {
                0 => u64::MAX,
                _ if u64::from(number) >= streams => 0,
                observations => share(observations),
            },
            next: None,
        }
    }

    /// Observations still to come.
    pub(super) fn left(&self) -> u64 {
        if self.patients.is_empty() { 0 } else { self.total - self.done }
    }

    /// Writes the next message over `payload`; `None` at the end.
    pub(super) fn next_into(&mut self, payload: &mut Vec<u8>) -> Option<Head> {
        if self.left() == 0 {
            return None;
        }
        payload.clear();
        let arrival_us = self.arrival_us();
        let at = match self.next.take() {
            Some(at) => at,
            None => (self.rng.next_u64() % self.patients.len() as u64) as usize,
        };
        let patient = &mut self.patients[at];
        if !patient.introduced {
            patient.introduced = true;
            if self.profile.wrapping == Wrapping::Bare {
                self.next = Some(at);
                self.renderer.patient(payload, patient);
                return Some(head(patient, Content::Patient, arrival_us, arrival_us, Truth::of(patient)));
            }
        }
        if let Some((number, condition)) = next_condition(&self.profile, patient) {
            self.next = Some(at);
            self.renderer.condition(payload, patient, number, &condition);
            return Some(head(patient, Content::Condition, arrival_us, arrival_us, Truth::of(patient)));
        }
        self.done += 1;
        let mut draws = Draws(self.rng.next_u64());
        let (told, truth) = correction(&self.profile, patient, arrival_us, &mut draws)
            .unwrap_or_else(|| reading(&self.profile, patient, arrival_us, &mut draws));
        self.renderer.observation(payload, self.profile.wrapping, patient, &told);
        Some(head(patient, Content::Observation, told.measured_us, arrival_us, truth))
    }

    fn arrival_us(&self) -> i64 {
        let ordinal = u128::from(self.done) * u128::from(self.streams) + u128::from(self.number);
        let since_us = ordinal * u128::from(self.profile.every.micros().unsigned_abs()) / u128::from(self.patients_all);
        self.profile.start.micros().saturating_add(i64::try_from(since_us).unwrap_or(i64::MAX))
    }
}

/// The next condition to tell of, and its number.
fn next_condition(profile: &Profile, patient: &mut Patient) -> Option<(u32, Known)> {
    if !profile.conditions || profile.wrapping != Wrapping::Bare {
        return None;
    }
    while usize::from(patient.conditions) < conditions::CONDITIONS_MAX {
        let number = patient.conditions;
        patient.conditions += 1;
        if let Some(condition) = conditions::of(patient, usize::from(number)) {
            return Some((number.into(), condition));
        }
    }
    None
}

fn head(patient: &Patient, content: Content, measured_us: i64, arrival_us: i64, truth: Truth) -> Head {
    let key: [u8; ID_BYTES] = patient_id(patient);
    let (event_time, arrival) = (EventTime::from_micros(measured_us), EventTime::from_micros(arrival_us));
    Head { key, patient_index: patient.index, content, event_time, arrival, truth }
}

/// Day shift: from 7 to 20 o'clock three readings of four are taken by staff; at night by the device alone.
fn attended(measured_us: i64, reading: u32) -> bool {
    let hour = measured_us.rem_euclid(86_400_000_000) / 3_600_000_000;
    (7..20).contains(&hour) && !reading.is_multiple_of(4)
}

/// A further message about the previous reading, if chance wants one.
fn correction(profile: &Profile, patient: &mut Patient, arrival_us: i64, draws: &mut Draws) -> Option<(Told, Truth)> {
    let draw = draws.unit();
    let previous = patient.previous?;
    let withdrawn = previous.status == Status::EnteredInError;
    let (again, amended, withdraws) = (
        draw < profile.duplicates,
        draw < profile.duplicates + profile.amended && !withdrawn,
        draw < profile.duplicates + profile.amended + profile.entered_in_error && !withdrawn,
    );
    let mut told = Previous { ..previous };
    let fault = if again {
        Fault::Duplicate
    } else if amended || withdraws {
        told.version += 1;
        told.updated_us = arrival_us + STORED_AFTER_US;
        told.status = if amended { Status::Amended } else { Status::EnteredInError };
        if amended {
            // Somebody read the display again: both values move a little.
            told.shown.systolic_tenths -= told.shown.systolic_tenths / 200 * 10;
            told.shown.diastolic_tenths -= told.shown.diastolic_tenths / 200 * 10;
        }
        if amended { Fault::Amended } else { Fault::EnteredInError }
    } else {
        return None;
    };
    patient.previous = Some(told);
    let truth = Truth { adverse: previous.adverse, fault: Some(fault), ..Truth::of(patient) };
    Some((told.told(), truth))
}

/// A new reading, with whatever goes wrong.
fn reading(profile: &Profile, patient: &mut Patient, arrival_us: i64, draws: &mut Draws) -> (Told, Truth) {
    let draw = draws.unit();
    let late_us = if draw < profile.late_minutes {
        30_000_000 + (draws.unit() * 270e6) as i64
    } else if draw < profile.late_minutes + profile.late_seconds {
        (draws.unit() * 30e6) as i64
    } else {
        0
    };
    // Whole milliseconds: what is written is what was measured.
    let measured_us = (arrival_us - late_us) / 1_000 * 1_000;
    patient.readings += 1;
    let pressures = patient.measure(measured_us, attended(measured_us, patient.readings), draws);
    let (shown, fault) = show(profile, patient, pressures, draws);
    let fault = fault.or((late_us > 0).then_some(Fault::Late));
    let told = Previous {
        reading: patient.readings,
        version: 1,
        measured_us,
        updated_us: arrival_us + STORED_AFTER_US,
        shown,
        status: Status::Final,
        adverse: pressures.adverse,
    };
    patient.previous = Some(told);
    let truth = Truth {
        adverse: pressures.adverse,
        fault,
        systolic_mmhg: pressures.systolic,
        diastolic_mmhg: pressures.diastolic,
        ..Truth::of(patient)
    };
    (told.told(), truth)
}

/// What the device shows of the true pressures.
fn show(profile: &Profile, patient: &Patient, pressures: Pressures, draws: &mut Draws) -> (Shown, Option<Fault>) {
    let (systolic, diastolic) = (pressures.systolic.round() as i32, pressures.diastolic.round() as i32);
    let tenths = |systolic: i32, diastolic: i32| Shown {
        systolic_tenths: systolic * 10,
        diastolic_tenths: diastolic * 10,
        unit: Unit::Mmhg,
    };
    let draw = draws.unit();
    if draw < profile.outliers {
        let (systolic, diastolic) = match draws.bits() % 3 {
            0 => (systolic * 100 + diastolic % 100, diastolic),
            1 => (0, 0),
            _ => (systolic + 200, diastolic + 150),
        };
        return (tenths(systolic, diastolic), Some(Fault::Outlier));
    }
    if draw < profile.outliers + profile.swapped {
        return (tenths(diastolic, systolic), Some(Fault::Swapped));
    }
    match patient.device {
        Device::Unitless if patient.readings.is_multiple_of(4) => {
            (Shown { unit: Unit::Missing, ..tenths(systolic, diastolic) }, Some(Fault::UnitMissing))
        }
        Device::Kilopascal => {
            let tenths = |mmhg: f32| (mmhg / MMHG_PER_KPA * 10.0).round() as i32;
            let (systolic_tenths, diastolic_tenths) = (tenths(pressures.systolic), tenths(pressures.diastolic));
            (Shown { systolic_tenths, diastolic_tenths, unit: Unit::Kilopascal }, None)
        }
        _ => (tenths(systolic, diastolic), None),
    }
}

impl Previous {
    fn told(&self) -> Told {
        Told {
            reading: self.reading,
            version: self.version,
            status: self.status,
            measured_us: self.measured_us,
            updated_us: self.updated_us,
            shown: self.shown,
            attended: attended(self.measured_us, self.reading),
        }
    }
}

impl Truth {
    fn of(patient: &Patient) -> Self {
        Truth {
            cohort: patient.figures().cohort,
            age_years: patient.age_years,
            female: patient.female,
            adverse: None,
            fault: None,
            systolic_mmhg: f32::NAN,
            diastolic_mmhg: f32::NAN,
        }
    }
}
