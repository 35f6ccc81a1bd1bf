//! What synthetic patients suffer from besides: Condition resources behind the Patient resource, if the profile asks for them.
//!
//! Shares rise with age and are plausible, not fitted to a population. Most of what a patient has is no comorbidity, as in real data.
//!
//! Invariant: a function of who the patient is, so that nothing else about anybody depends on it.

use super::patient::{Patient, mix};
use super::profile::Cohort;

const SNOMED: &str = "http://snomed.info/sct";
const ICD10_CM: &str = "http://hl7.org/fhir/sid/icd-10-cm";

/// What a patient may have: its coding, and per mille of those below 40, below 65, and older.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) system: &'static str,
    pub(super) code: &'static str,
    pub(super) display: &'static str,
    shares: [u64; 3],
}

const fn known(system: &'static str, code: &'static str, display: &'static str, shares: [u64; 3]) -> Known {
    Known { system, code, display, shares }
}

/// Order is part of the seed's meaning.
const ALL: [Known; 11] = [
    known(SNOMED, "224299000", "Received higher education (finding)", [400, 350, 250]),
    known(SNOMED, "59621000", "Essential hypertension (disorder)", [40, 250, 500]),
    known(SNOMED, "44054006", "Diabetes mellitus type 2 (disorder)", [20, 120, 220]),
    known(ICD10_CM, "E78.5", "Hyperlipidemia, unspecified", [50, 250, 400]),
    known(SNOMED, "84114007", "Heart failure (disorder)", [2, 25, 150]),
    known(ICD10_CM, "J44.9", "Chronic obstructive pulmonary disease, unspecified", [5, 70, 140]),
    known(ICD10_CM, "N18.3", "Chronic kidney disease, stage 3", [5, 50, 220]),
    known(SNOMED, "22298006", "Myocardial infarction (disorder)", [2, 30, 110]),
    known(SNOMED, "230690007", "Cerebrovascular accident (disorder)", [2, 20, 100]),
    known(SNOMED, "26929004", "Alzheimer's disease (disorder)", [0, 2, 90]),
    known(SNOMED, "363346000", "Malignant neoplastic disease (disorder)", [8, 50, 130]),
];

/// How many a patient can have.
pub(super) const CONDITIONS_MAX: usize = ALL.len();

/// Whether a patient has the condition of this number, and which it is: the frail have twice as many, athletes a quarter.
pub(super) fn of(patient: &Patient, number: usize) -> Option<Known> {
    let known = *ALL.get(number)?;
    let band = usize::from(patient.age_years >= 40) + usize::from(patient.age_years >= 65);
    let share = match patient.figures().cohort {
        Cohort::Frail => known.shares[band] * 2,
        Cohort::Athlete => known.shares[band] / 4,
        _ => known.shares[band],
    };
    let draw = mix(patient.identity ^ (0x00c0_4d17 + number as u64)) % 1_000;
    (draw < share).then_some(known)
}
