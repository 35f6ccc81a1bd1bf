//! What a record costs in allocations, stage by stage, once everything has been met: a guard against structural regressions (a text made for
//! each record, a column that grows row by row) that needs no clock and says the same on every machine.
//!
//! The stages run as plain machines, in the order and in the batches of the graph. Counted are calls, not bytes, of this thread.

use std::collections::BTreeMap;

use allocation_counter::measure;
use windkessel::config::Flow;
use windkessel::decode::{Decoded, Decoder};
use windkessel::identified::Records;
use windkessel::job;
use windkessel::patient::{PatientOutput, Patients, Settings};
use windkessel::pseudonymise::{Key, Pseudonymiser};
use windkessel::runtime::stop::Stop;
use windkessel::score::Scorer;
use windkessel::sink::tables::{Context, Tables};
use windkessel::source::{self, Opening, Poll, Polled, Share};
use windkessel::vocabulary::Tally;

const FLOW: &str = "name = \"allocations\"
    [source]
    kind = \"generator\"
    patients = 400
    observations = 60_000
    [pseudonymise]
    key_env = \"UNUSED\"
    [patient]
    lateness = \"1h\"
    [correction]
    horizon = \"3h\"
    [sink.ndjson]
    path = \"unused\"";

/// What the driver asks a source for at once, and what makes an epoch.
const BATCH_BYTES: usize = 1 << 20;
const BATCHES_AN_EPOCH: usize = 4;
/// Epochs after which every patient and every shape of message has been met.
const WARM_EPOCHS: u64 = 8;

/// Allocations a record that each stage may make, in steady state. `patient` keeps a few lists for each patient, which grow now and then.
const BOUNDS: [(&str, f64); 6] =
    [("source", 0.1), ("decode", 0.1), ("pseudonymise", 0.01), ("patient", 0.5), ("score", 0.05), ("tables", 0.1)];

#[test]
fn a_record_costs_few_allocations_in_steady_state() {
    let mut line = Line::new(&Flow::parse(FLOW, &[]).unwrap());
    let mut spent: BTreeMap<&str, u64> = BTreeMap::new();
    let mut records = 0;
    for epoch in 1.. {
        let count = line.epoch(epoch, &mut |stage, calls| {
            *spent.entry(stage).or_default() += if epoch > WARM_EPOCHS { calls } else { 0 };
        });
        if count == 0 {
            break;
        }
        records += if epoch > WARM_EPOCHS { count } else { 0 };
    }
    assert!(records > 10_000, "{records} records are enough to judge by");
    for (stage, most) in BOUNDS {
        let each = spent[stage] as f64 / records as f64;
        eprintln!("{stage:<14} {each:.4} allocations a record, at most {most}");
        assert!(each <= most, "{stage}: {each} allocations a record, at most {most}");
    }
}

/// The machines of one worker.
struct Line {
    source: Box<dyn Poll>,
    decoder: Decoder,
    pseudonymiser: Pseudonymiser,
    patients: Patients,
    scorer: Scorer,
    tables: Tables,
}

impl Line {
    fn new(flow: &Flow) -> Self {
        let spec = &flow.spec;
        let path_key = |_: &str| [0; 6];
        let topics = source::topics(&spec.source, &path_key).unwrap();
        let opening = Opening {
            share: Share { worker: 0, workers: 1 },
            until_end: true,
            topics: &topics,
            path_key: &path_key,
            resume: &BTreeMap::new(),
            stop: &Stop::default(),
            progress: None,
        };
        let settings = Settings::new(&spec.patient, &spec.correction, flow.decode.signals().to_vec(), true);
        Line {
            source: source::open(&spec.source, &opening).unwrap(),
            decoder: Decoder::new(flow.decode.clone()).with_topics(topics.clone()),
            pseudonymiser: Pseudonymiser::new(&Key::from_hex(&"0b".repeat(32)).unwrap(), topics.clone()),
            patients: Patients::new(settings),
            scorer: Scorer::new(&spec.score, None).unwrap(),
            tables: Tables::new(Context {
                topics,
                signals: job::signal_columns(flow),
                rule_set: spec.score.rules.clone(),
                model: None,
            }),
        }
    }

    /// Takes an epoch through all stages; the number of its records.
    fn epoch(&mut self, epoch: u64, spent: &mut dyn FnMut(&'static str, u64)) -> u64 {
        let (mut intakes, mut ticks, mut count) = (Vec::with_capacity(8_192), Vec::new(), 0);
        for _ in 0..BATCHES_AN_EPOCH {
            let mut records = Records::default();
            let mut polled = None;
            let cost = measure(|| polled = Some(self.source.poll(BATCH_BYTES, &mut records).unwrap()));
            spent("source", cost.count_total);
            count += records.records.len() as u64;
            let mut decoded = Decoded::default();
            spent("decode", measure(|| self.decoder.decode(records, &mut decoded)).count_total);
            ticks.append(&mut decoded.ticks);
            let mut tally = Tally::default();
            let cost = measure(|| self.pseudonymiser.pseudonymise(decoded.observations, &mut intakes, &mut tally));
            spent("pseudonymise", cost.count_total);
            if polled == Some(Polled::End) {
                break;
            }
        }
        intakes.sort_by_key(|intake| intake.position());
        let mut output = PatientOutput::default();
        let cost = measure(|| self.patients.apply(epoch, &mut intakes, &ticks, &mut output).unwrap());
        spent("patient", cost.count_total);
        let mut assessed = None;
        spent("score", measure(|| assessed = Some(self.scorer.score(output.scorable))).count_total);
        let cost = measure(|| {
            drop(assessed.map(|assessed| self.tables.readings(&assessed, epoch)));
            drop(self.tables.windows(&output.windows, epoch));
        });
        spent("tables", cost.count_total);
        count
    }
}
