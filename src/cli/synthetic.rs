//! Labelled readings of synthetic patients: the generator's messages through the same stages as any other record.

use std::collections::HashMap;

use crate::config::{CorrectionSpec, DecodeSpec, PatientSpec};
use crate::decode::{Decoded, Decoder, Settings};
use crate::identified::{Payload, Record, Records};
use crate::patient::{self, PatientOutput, Patients};
use crate::pseudonymise::{Key, Pseudonymiser};
use crate::score::FEATURES;
use crate::score::labelled::LabelledReading;
use crate::source::Topics;
use crate::source::generator::profile::Profile;
use crate::source::generator::{Content, Generator};
use crate::vocabulary::{Intake, Partition, Position, Tally};

/// Messages that are put through the stages at once.
const BATCH: usize = 4_096;

/// Nobody's key: these patients do not exist.
const KEY: &str = "0202020202020202020202020202020202020202020202020202020202020202";

/// Which synthetic patients.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cohort {
    /// The generator's seed.
    pub seed: u64,
    /// How many patients.
    pub patients: u32,
    /// How many observations of all of them together.
    pub observations: u64,
}

/// What training reads: features as the engine computes them, the generator's truth as label. In partition order.
pub(super) fn labelled(cohort: &Cohort) -> Box<dyn Iterator<Item = LabelledReading>> {
    let generator = Generator::new(&Profile::clean(), cohort.seed, cohort.patients, cohort.observations);
    let mut bench = Bench::new(generator);
    Box::new(std::iter::from_fn(move || bench.next_batch()).flatten())
}

/// The stages left of `score`, without timely.
struct Bench {
    generator: Generator,
    decoder: Decoder,
    pseudonymiser: Pseudonymiser,
    patients: Patients,
    epoch: u64,
    /// The next offset of each partition.
    offsets: HashMap<i32, i64>,
}

impl Bench {
    fn new(generator: Generator) -> Self {
        let (decode, patient, correction) = (DecodeSpec::default(), PatientSpec::default(), CorrectionSpec::default());
        let settings =
            Settings::new(&decode, patient.disorder, patient.lateness, false).expect("the defaults are valid");
        let signals = decode.signals.iter().filter_map(|name| settings.table().id(name)).collect();
        let key = Key::from_hex(KEY).expect("a constant key");
        Bench {
            generator,
            decoder: Decoder::new(settings),
            pseudonymiser: Pseudonymiser::new(&key, Topics::new(["generator".to_owned()])),
            patients: Patients::new(patient::Settings::new(&patient, &correction, signals, true)),
            epoch: 0,
            offsets: HashMap::new(),
        }
    }

    /// The next readings with their labels; `None` at the end.
    fn next_batch(&mut self) -> Option<Vec<LabelledReading>> {
        let (mut records, mut labels, mut payload) = (Records::default(), HashMap::new(), Vec::new());
        for _ in 0..BATCH {
            let Some(head) = self.generator.next_into(&mut payload) else { break };
            let position = self.position((head.patient_index % 8) as i32);
            if head.content == Content::Observation {
                labels.insert(position, (head.truth.adverse.is_some(), head.patient_index));
            }
            let bytes = Payload::Bytes(records.arena.push(&payload));
            records.records.push(Record { position, received_at: None, payload: bytes, key: None });
        }
        if records.records.is_empty() {
            return None;
        }
        let output = self.patient_output(records);
        let rows = output.scorable.readings.iter().zip(output.scorable.features.chunks_exact(FEATURES));
        let labelled = rows.filter_map(|(reading, features)| {
            let (label, patient) = labels.get(&reading.facts.position)?;
            Some(LabelledReading { features: features.try_into().ok()?, label: *label, patient: u64::from(*patient) })
        });
        Some(labelled.collect())
    }

    fn position(&mut self, number: i32) -> Position {
        let offset = self.offsets.entry(number).or_default();
        let position = Position { partition: Partition { number, ..Partition::default() }, offset: *offset, entry: 0 };
        *offset += 1;
        position
    }

    fn patient_output(&mut self, records: Records) -> PatientOutput {
        let (mut decoded, mut intakes, mut output) = (Decoded::default(), Vec::new(), PatientOutput::default());
        self.decoder.decode(records, &mut decoded);
        self.pseudonymiser.pseudonymise(decoded.observations, &mut intakes, &mut Tally::default());
        intakes.sort_by_key(Intake::position);
        self.epoch += 1;
        let applied = self.patients.apply(self.epoch, &mut intakes, &decoded.ticks, &mut output);
        applied.expect("there are fewer synthetic patients than patients_max");
        output
    }
}
