//! Proves that the generator is deterministic and independent of workers, that what it writes is the FHIR it claims to be,
//! and that rates are those of the profile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::profile::Wrapping;
use super::*;
use crate::config::SourceSpec;
use crate::identified::{Mark, Payload, Records};
use crate::runtime::stop::Stop;
use crate::source::{Opening, Poll, Polled, Share, Topics};

fn generate(profile: &Profile, seed: u64, patients: u32, observations: u64) -> Vec<Message> {
    Generator::new(profile, seed, patients, observations).collect()
}

fn quantity(observation: &Value, code: &str) -> Value {
    let components = observation["component"].as_array().unwrap();
    let found = components.iter().find(|component| component["code"]["coding"][0]["code"] == code).unwrap();
    found["valueQuantity"].clone()
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let bytes = |seed| -> Vec<Vec<u8>> {
        generate(&Profile::default(), seed, 50, 2_000).into_iter().map(|message| message.payload).collect()
    };
    assert_eq!(bytes(1), bytes(1));
    assert_ne!(bytes(1), bytes(2));
}

/// They come behind the Patient resource and change nothing else; some patients have none, and some have many comorbidities.
#[test]
fn conditions_are_told_of_when_asked_for_and_nothing_else_changes() {
    let table = crate::comorbidities::ComorbidityTable::shipped();
    let (mut counts, mut others) = (BTreeMap::<Vec<u8>, BTreeSet<String>>::new(), Vec::new());
    let (mut ids, mut last) = (BTreeSet::new(), Vec::new());
    for message in generate(&Profile { conditions: true, ..Profile::default() }, 7, 300, 2_000) {
        let key = message.head.key.to_vec();
        match message.head.content {
            Content::Patient => drop(counts.insert(key.clone(), BTreeSet::new())),
            Content::Observation => {}
            Content::Condition => {
                assert_eq!(last, key, "behind its patient");
                let resource: Value = serde_json::from_slice(&message.payload).unwrap();
                assert!(ids.insert(resource["id"].as_str().unwrap().to_owned()));
                let key_text = std::str::from_utf8(&key).unwrap();
                assert_eq!(resource["subject"]["reference"], format!("Patient/{key_text}"));
                let coding = &resource["code"]["coding"][0];
                let text = |name: &str| coding[name].as_str().unwrap().as_bytes();
                let names = table.names(table.meaning(text("system"), text("code"))).map(str::to_owned);
                counts.get_mut(&key).unwrap().extend(names);
                continue;
            }
        }
        last = key;
        others.push(message.payload);
    }
    let plain = generate(&Profile::default(), 7, 300, 2_000).into_iter().map(|message| message.payload);
    assert!(plain.eq(others));
    let having = |range: std::ops::Range<usize>| counts.values().filter(|names| range.contains(&names.len())).count();
    assert!(
        [having(0..1), having(1..2), having(2..4), having(4..9)].iter().all(|patients| *patients >= 3),
        "{counts:?}"
    );
}

#[test]
fn every_message_parses_and_a_patient_comes_before_its_first_observation() {
    let mut known = BTreeSet::new();
    let (mut observations, mut last) = (0, EventTime::MIN);
    for message in generate(&Profile::default(), 7, 300, 20_000) {
        let resource: Value = serde_json::from_slice(&message.payload).unwrap();
        let key = std::str::from_utf8(&message.head.key).unwrap().to_owned();
        assert!(message.head.event_time <= message.head.arrival && message.head.arrival >= last);
        last = message.head.arrival;
        match message.head.content {
            Content::Patient => {
                assert_eq!((&resource["resourceType"], &resource["id"]), (&"Patient".into(), &key.as_str().into()));
                assert!(resource["birthDate"].as_str().unwrap().parse::<jiff::civil::Date>().is_ok());
                assert!(known.insert(key));
            }
            Content::Condition => panic!("nobody asked for conditions"),
            Content::Observation => {
                observations += 1;
                assert!(known.contains(&key));
                assert_eq!(resource["subject"]["reference"], format!("Patient/{key}"));
                let at: jiff::Timestamp = resource["effectiveDateTime"].as_str().unwrap().parse().unwrap();
                assert_eq!(at.as_microsecond(), message.head.event_time.micros());
                let (systolic, diastolic) = (quantity(&resource, "8480-6"), quantity(&resource, "8462-4"));
                if message.head.truth.fault.is_none() && systolic["code"] == "mm[Hg]" {
                    assert_eq!(systolic["value"], message.head.truth.systolic_mmhg.round() as i64);
                    assert_eq!(diastolic["value"], message.head.truth.diastolic_mmhg.round() as i64);
                }
            }
        }
    }
    assert_eq!((observations, known.len()), (20_000, 300));
}

#[test]
fn a_bare_observation_has_about_1200_bytes() {
    let messages = generate(&Profile::default(), 3, 100, 5_000);
    let sizes: Vec<usize> = messages
        .iter()
        .filter(|message| message.head.content == Content::Observation)
        .map(|message| message.payload.len())
        .collect();
    let mean = sizes.iter().sum::<usize>() / sizes.len();
    assert!((1_100..=1_300).contains(&mean), "{mean}");
}

#[test]
fn envelopes_and_bundles_carry_their_patient_with_them() {
    for (wrapping, patient, observation) in
        [(Wrapping::Envelope, "/patient", "/observation"), (Wrapping::Bundle, "/entry/0/resource", "/entry/1/resource")]
    {
        let messages = generate(&Profile { wrapping, ..Profile::clean() }, 3, 20, 200);
        assert_eq!(messages.len(), 200);
        for message in messages {
            let value: Value = serde_json::from_slice(&message.payload).unwrap();
            let id = &value.pointer(patient).unwrap()["id"];
            let subject = &value.pointer(observation).unwrap()["subject"]["reference"];
            assert_eq!(*subject, format!("Patient/{}", id.as_str().unwrap()));
        }
    }
}

#[test]
fn dirt_comes_at_the_rates_of_the_profile_and_not_at_all_when_clean() {
    let profile = Profile::default();
    let (count, mut faults) = (300_000, BTreeMap::new());
    let mut payload = Vec::new();
    let mut generator = Generator::new(&profile, 11, 4_000, count);
    while let Some(head) = generator.next_into(&mut payload) {
        if let Some(fault) = head.truth.fault {
            *faults.entry(fault).or_insert(0_u32) += 1;
        }
    }
    for (fault, rate) in [
        (Fault::Late, profile.late_seconds + profile.late_minutes),
        (Fault::Outlier, profile.outliers),
        (Fault::Swapped, profile.swapped),
        (Fault::Amended, profile.amended),
        (Fault::EnteredInError, profile.entered_in_error),
        (Fault::Duplicate, profile.duplicates),
        (Fault::UnitMissing, profile.unit_missing_patients / 4.0),
    ] {
        let seen = f64::from(faults[&fault]) / count as f64;
        assert!((seen / rate - 1.0).abs() < 0.4, "{fault:?}: {seen} instead of {rate}");
    }
    assert!(generate(&Profile::clean(), 11, 100, 5_000).iter().all(|message| message.head.truth.fault.is_none()));
}

#[test]
fn corrections_are_higher_versions_of_an_observation_that_was_sent_and_duplicates_are_the_same_bytes() {
    let mut sent: BTreeMap<String, (u64, Vec<u8>)> = BTreeMap::new();
    let (mut amended, mut duplicates) = (0, 0);
    for message in generate(&Profile::default(), 5, 200, 30_000) {
        if message.head.content == Content::Patient {
            continue;
        }
        let value: Value = serde_json::from_slice(&message.payload).unwrap();
        let id = value["id"].as_str().unwrap().to_owned();
        let version: u64 = value["meta"]["versionId"].as_str().unwrap().parse().unwrap();
        let before = sent.insert(id, (version, message.payload.clone()));
        match message.head.truth.fault {
            Some(Fault::Amended | Fault::EnteredInError) => {
                amended += 1;
                assert_eq!(before.unwrap().0 + 1, version);
                assert_ne!(value["status"], "final");
            }
            Some(Fault::Duplicate) => {
                duplicates += 1;
                assert_eq!(before.unwrap().1, message.payload);
            }
            _ => assert!(before.is_none() && version == 1),
        }
    }
    assert!(amended > 50 && duplicates > 20);
}

#[test]
fn adverse_states_are_rare_and_nights_are_lower_than_days() {
    let (mut adverse, mut all) = (0, 0);
    let (mut day, mut night) = ((0.0, 0), (0.0, 0));
    let mut payload = Vec::new();
    let mut generator = Generator::new(&Profile::clean(), 2, 1_000, 200_000);
    while let Some(head) = generator.next_into(&mut payload) {
        if head.content == Content::Patient {
            continue;
        }
        all += 1;
        adverse += u32::from(head.truth.adverse.is_some());
        let hour = head.event_time.micros() / 3_600_000_000 % 24;
        let sum = if (12..17).contains(&hour) { &mut day } else { &mut night };
        if (12..17).contains(&hour) || (0..5).contains(&hour) {
            *sum = (sum.0 + f64::from(head.truth.systolic_mmhg), sum.1 + 1);
        }
    }
    let share = f64::from(adverse) / f64::from(all);
    assert!((0.004..0.03).contains(&share), "{share}");
    let (day, night) = (day.0 / f64::from(day.1), night.0 / f64::from(night.1));
    assert!((105.0..140.0).contains(&night) && (5.0..25.0).contains(&(day - night)), "day {day}, night {night}");
}

fn open(
    spec: &SourceSpec,
    share: Share,
    resume: &BTreeMap<crate::vocabulary::Partition, i64>,
    now: Duration,
) -> GeneratorSource {
    let topics = Topics::new([TOPIC.to_owned()]);
    let opening = Opening {
        share,
        until_end: true,
        topics: &topics,
        path_key: &|_| [0; 6],
        resume,
        stop: &Stop::default(),
        progress: None,
    };
    GeneratorSource::with_clock(spec, &opening, Box::new(move || now)).unwrap()
}

type Read = BTreeMap<(i32, i64), Vec<u8>>;

fn read(source: &mut GeneratorSource, bytes_max: usize) -> (Read, usize) {
    let (mut read, mut ended) = (Read::new(), 0);
    loop {
        let mut records = Records::default();
        let polled = source.poll(bytes_max, &mut records).unwrap();
        for record in &records.records {
            let Payload::Bytes(slice) = record.payload else { panic!("always bytes") };
            let place = (record.position.partition.number, record.position.offset);
            assert!(read.insert(place, records.arena.bytes(slice).to_owned()).is_none());
        }
        ended += records.marks.iter().filter(|mark| matches!(mark, Mark::Ended(_))).count();
        if polled != Polled::Some {
            return (read, ended);
        }
    }
}

#[test]
fn the_partitions_hold_the_same_whatever_the_number_of_workers_and_the_size_of_batches() {
    let spec = SourceSpec { patients: 37, observations: 3_000, ..SourceSpec::default() };
    let (alone, ended) =
        read(&mut open(&spec, Share { worker: 0, workers: 1 }, &BTreeMap::new(), Duration::ZERO), 10_000);
    assert_eq!((alone.len(), ended), (3_037, 8));
    for workers in [2, 3] {
        let mut together = Read::new();
        for worker in 0..workers {
            let share = Share { worker, workers };
            together.append(&mut read(&mut open(&spec, share, &BTreeMap::new(), Duration::ZERO), 100_000).0);
        }
        assert!(together == alone, "{workers} workers");
    }
}

#[test]
fn fewer_patients_than_partitions_leave_some_partitions_empty_but_no_observation_out() {
    let spec = SourceSpec { patients: 3, observations: 100, ..SourceSpec::default() };
    let (read, ended) =
        read(&mut open(&spec, Share { worker: 0, workers: 1 }, &BTreeMap::new(), Duration::ZERO), 1_000);
    assert_eq!((read.len(), ended), (103, 8));
}

#[test]
fn a_resumed_source_goes_on_where_it_was() {
    let spec = SourceSpec { patients: 20, observations: 1_000, ..SourceSpec::default() };
    let share = Share { worker: 0, workers: 1 };
    let (alone, _) = read(&mut open(&spec, share, &BTreeMap::new(), Duration::ZERO), 10_000);
    let partition = crate::vocabulary::Partition { number: 3, ..Default::default() };
    let (rest, _) = read(&mut open(&spec, share, &BTreeMap::from([(partition, 40)]), Duration::ZERO), 10_000);
    let expected: Read = alone.into_iter().filter(|((number, offset), _)| *number != 3 || *offset >= 40).collect();
    assert!(rest == expected);
}

#[test]
fn the_rate_is_kept_by_the_clock_that_is_handed_in() {
    let spec = SourceSpec { patients: 80, observations: 100_000, rate_per_second: 800, ..SourceSpec::default() };
    let share = Share { worker: 0, workers: 1 };
    let (read, ended) = read(&mut open(&spec, share, &BTreeMap::new(), Duration::from_secs(2)), 1 << 20);
    let patients = read.values().filter(|payload| payload.starts_with(b"{\"resourceType\":\"Patient\"")).count();
    assert_eq!((read.len() - patients, ended), (1_600, 0));
}

#[test]
fn a_resumed_source_does_not_wait_for_what_an_earlier_run_had_at_its_rate() {
    let spec = SourceSpec { patients: 80, observations: 100_000, rate_per_second: 800, ..SourceSpec::default() };
    let share = Share { worker: 0, workers: 1 };
    let topic = crate::vocabulary::Partition::default().topic;
    let partition = |number| crate::vocabulary::Partition { topic, number };
    let resume = (0..8).map(|number| (partition(number), 5_000)).collect();
    let (read, _) = read(&mut open(&spec, share, &resume, Duration::from_secs(2)), 1 << 20);
    assert_eq!(read.len(), 1_600);
}
