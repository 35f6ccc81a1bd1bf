//! Several records: positions, watermarks, tombstones, marks. Batching changes nothing.

use expect_test::{Expect, expect};

use super::*;

pub(super) fn heart_rate(id: &str, at: &str) -> String {
    format!(
        r#"{{"resourceType":"Observation","id":"{id}","status":"final","code":{{"coding":[{{"system":"http://loinc.org","code":"8867-4"}}]}},"subject":{{"reference":"Patient/p1"}},"effectiveDateTime":"{at}","valueQuantity":{{"value":61,"code":"/min"}}}}"#
    )
}

pub(super) fn bundle(ids: &[&str]) -> String {
    let entries: Vec<_> =
        ids.iter().map(|id| format!("{{\"resource\":{}}}", heart_rate(id, "2026-01-01T00:00:00Z"))).collect();
    format!("{{\"resourceType\":\"Bundle\",\"entry\":[{}]}}", entries.join(","))
}

fn check(files: bool, batch: Batch, expected: Expect) {
    expected.assert_eq(&show(&mut batch.decode(&mut Decoder::new(settings(&spec(), files)))));
}

#[test]
fn in_kafka_a_resource_is_an_entry_of_its_record() {
    let batch = Batch::default()
        .with(7, bundle(&["a", "b"]).as_bytes())
        .with(9, b"{")
        .with(12, heart_rate("c", "2026-01-01T00:00:00Z").as_bytes());
    check(
        false,
        batch,
        expect![[r#"
            7 observation a of p1 at 2026-01-01T00:00:00Z final heart_rate=61
            7.1 observation b of p1 at 2026-01-01T00:00:00Z final heart_rate=61
            12 observation c of p1 at 2026-01-01T00:00:00Z final heart_rate=61
            9 rejected json_syntax: the document ends early [1]
        "#]],
    );
}

#[test]
fn in_a_file_resources_are_counted_through() {
    let batch = Batch::default()
        .with(0, bundle(&["a", "b"]).as_bytes())
        .with(1, b"{")
        .with(2, heart_rate("c", "2026-01-01T00:00:00Z").as_bytes());
    check(
        true,
        batch,
        expect![[r#"
            0 observation a of p1 at 2026-01-01T00:00:00Z final heart_rate=61
            1 observation b of p1 at 2026-01-01T00:00:00Z final heart_rate=61
            3 observation c of p1 at 2026-01-01T00:00:00Z final heart_rate=61
            2 rejected json_syntax: the document ends early [1]
        "#]],
    );
}

#[test]
fn the_patient_of_an_envelope_shares_its_observations_position() {
    let envelope = format!(
        "{{\"observation\":{},\"patient\":{{\"id\":\"p1\",\"gender\":\"male\"}}}}",
        heart_rate("a", "2026-01-01T00:00:00Z")
    );
    for files in [false, true] {
        let batch = Batch::default().with(0, envelope.as_bytes()).with(1, envelope.as_bytes());
        check(
            files,
            batch,
            expect![[r#"
                0 patient p1 - male
                0 observation a of p1 at 2026-01-01T00:00:00Z final heart_rate=61
                1 patient p1 - male
                1 observation a of p1 at 2026-01-01T00:00:00Z final heart_rate=61
            "#]],
        );
    }
}

#[test]
fn readings_behind_the_watermark_are_late_and_never_by_themselves() {
    // Disorder 10 minutes, lateness 1 day.
    let times = ["12:00:00Z", "11:50:00Z", "11:49:59Z", "12:30:00Z", "12:15:00Z"];
    let mut batch = Batch::default();
    for (at, time) in times.iter().enumerate() {
        batch = batch.with(at as i64, heart_rate("a", &format!("2025-12-30T{time}")).as_bytes());
    }
    batch = batch
        .with(5, heart_rate("b", "2025-12-29T12:20:00Z").as_bytes())
        .with(6, heart_rate("b", "2025-12-29T12:19:59Z").as_bytes());
    let mut out = batch.decode(&mut Decoder::new(settings(&spec(), false)));
    assert_eq!(out.late, LateCounts { reopened: 3, late: 1 });
    let lines = show(&mut out);
    let words: Vec<_> = lines.lines().map(|line| line.split(' ').nth(8).unwrap_or_default()).collect();
    assert_eq!(words, ["heart_rate=61", "heart_rate=61", "Late", "heart_rate=61", "Late", "Late", "TooLate"]);
}

#[test]
fn neither_withdrawals_nor_clocks_that_run_ahead_move_the_watermark() {
    let mut decoder = Decoder::new(settings(&spec(), false));
    let withdrawn = heart_rate("a", "2026-01-01T23:00:00Z").replace("final", "entered-in-error");
    let batch = Batch::default()
        .with(0, heart_rate("a", "2026-01-01T00:00:00Z").as_bytes())
        .with(1, withdrawn.as_bytes())
        .with(2, heart_rate("a", "2027-01-01T00:00:00Z").as_bytes());
    let out = batch.decode(&mut decoder);
    assert_eq!(out.rejections[0].rule, rule::CLOCK_AHEAD);
    assert_eq!(out.ticks.len(), 1);
    assert_eq!(show_time(out.ticks[0].watermark), "2025-12-31T23:50:00Z");
}

#[test]
fn a_withdrawal_says_whether_it_is_of_something_that_the_flow_takes() {
    let whole = heart_rate("a", "2026-01-01T00:00:00Z").replace("final", "entered-in-error");
    let other = whole.replace("8867-4", "718-7");
    let bare =
        r#"{"resourceType":"Observation","id":"a","status":"entered-in-error","subject":{"reference":"Patient/p1"}}"#;
    let withdrawals = [(whole.as_str(), true), (&other, false), (bare, false)];
    for (text, expected) in withdrawals {
        let out = decode(&spec(), text.as_bytes());
        let [Entry::Observation(observation)] = &out.observations.entries[..] else {
            panic!("{text}: one observation")
        };
        assert_eq!(observation.facts.taken, expected, "{text}");
    }
}

#[test]
fn the_clock_may_run_ahead_by_exactly_the_tolerance() {
    let accepted = |at: &str| decode(&spec(), heart_rate("a", at).as_bytes()).rejections.is_empty();
    assert!(accepted("2026-01-02T00:05:00Z"));
    assert!(!accepted("2026-01-02T00:05:00.000001Z"));
    let mut batch = Batch::of(heart_rate("a", "2999-01-01T00:00:00Z").as_bytes());
    batch.0.records[0].received_at = None;
    assert!(batch.decode(&mut Decoder::new(settings(&spec(), true))).rejections.is_empty(), "files know no such time");
}

#[test]
fn tombstones_delete_what_their_key_names() {
    let deleted = |key: &str| {
        show(
            &mut Batch::of_payload(Payload::Tombstone, Some(key.as_bytes()))
                .decode(&mut Decoder::new(settings(&spec(), false))),
        )
    };
    assert_eq!(deleted("Observation/o1"), "0 deletion of o1 of -\n");
    assert_eq!(deleted("http://h/fhir/Observation/o1/_history/4"), "0 deletion of o1 of - v4\n");
    for other in ["Patient/p1", "o1", "", "Observation/", "Observation/a b"] {
        assert_eq!(deleted(other), "ignored tombstone 1\n", "{other:?}");
    }
}

#[test]
fn conditions_are_taken_by_flows_that_ask_for_them_alone() {
    let condition = br#"{"resourceType":"Condition","id":"c1","code":{"coding":[{"system":"http://hl7.org/fhir/sid/icd-10","code":"I21"}]},"subject":{"reference":"Patient/p1"}}"#;
    let conditions = DecodeSpec { conditions: true, ..spec() };
    assert_eq!(show(&mut decode(&spec(), condition)), "ignored other_resource 1\n");
    let taken = "0 condition c1 of p1: myocardial_infarction\nignored condition 1\n";
    assert_eq!(show(&mut decode(&conditions, condition)), taken);
    let of = |spec: &DecodeSpec, payload: Option<&[u8]>, key: &str| {
        let mut batch = Batch::default();
        let key = batch.0.arena.push(key.as_bytes());
        let payload = payload.map_or(Payload::Tombstone, |payload| Payload::Bytes(batch.0.arena.push(payload)));
        batch.push(ZERO, 0, payload, Some(key));
        show(&mut batch.decode(&mut Decoder::new(settings(spec, false))))
    };
    assert_eq!(of(&spec(), None, "Condition/c1"), "ignored tombstone 1\n");
    let deleted = "0 condition c1 of - v3: withdrawn\nignored condition 1\n";
    assert_eq!(of(&conditions, None, "http://h/fhir/Condition/c1/_history/3"), deleted);
    assert!(of(&conditions, Some(condition), "Condition/c1").contains(" deletable\n"));
    assert!(!of(&conditions, Some(condition), "Patient/p1").contains("deletable"));
}

#[test]
fn an_observation_whose_key_a_tombstone_may_bear_is_deletable() {
    let deletable = |key: &str| {
        let mut batch = Batch::default();
        let payload = batch.0.arena.push(heart_rate("a", "2026-01-01T00:00:00Z").as_bytes());
        let key = batch.0.arena.push(key.as_bytes());
        batch.push(ZERO, 0, Payload::Bytes(payload), Some(key));
        let out = batch.decode(&mut Decoder::new(settings(&spec(), false)));
        out.observations.entries.iter().all(|entry| matches!(entry, Entry::Observation(found) if found.deletable))
    };
    assert!(deletable("Observation/o1") && deletable("http://h/fhir/Observation/o1"));
    assert!(!deletable("Patient/p1") && !deletable("p1") && !deletable("Observation/"));
}

#[test]
fn an_unwrapped_null_is_a_tombstone() {
    let spec = DecodeSpec { unwrap: "/after".into(), ..spec() };
    let mut batch = Batch::default();
    let (payload, key) = (batch.0.arena.push(b"{\"after\": null}"), batch.0.arena.push(b"Observation/o1"));
    batch.push(ZERO, 0, Payload::Bytes(payload), Some(key));
    assert_eq!(show(&mut batch.decode(&mut Decoder::new(settings(&spec, false)))), "0 deletion of o1 of -\n");
}

#[test]
fn marks_become_ticks_after_the_records_of_their_batch() {
    let mut decoder = Decoder::new(settings(&spec(), false));
    let tick = |out: Decoded| out.ticks.iter().map(|tick| (tick.watermark, tick.idle)).collect::<Vec<_>>();
    let opened = Batch::default().marked(Mark::Opened(ZERO));
    assert_eq!(tick(opened.decode(&mut decoder)), [(EventTime::MIN, false)]);
    let at = EventTime::from_micros(1_767_225_000_000_000);
    let ended = Batch::of(heart_rate("a", "2026-01-01T00:00:00Z").as_bytes()).marked(Mark::Idle(ZERO));
    assert_eq!(tick(ended.decode(&mut decoder)), [(at, true)]);
    let ended = Batch::of(heart_rate("a", "2025-12-01T00:00:00Z").as_bytes());
    assert_eq!(tick(ended.decode(&mut decoder)), [(at, false)], "a record ends idleness even if it moves nothing");
    assert_eq!(tick(Batch::default().marked(Mark::Ended(ZERO)).decode(&mut decoder)), [(EventTime::MAX, false)]);
}

#[test]
fn batches_of_any_size_come_to_the_same() {
    let texts: Vec<String> = (0..40)
        .map(|at| match at % 5 {
            0 => bundle(&["a", "b", "c"]),
            1 => "{".into(),
            2 => heart_rate("x", &format!("2026-01-01T{:02}:00:00Z", (at * 7) % 24)),
            3 => "{\"resourceType\":\"Patient\",\"id\":\"p1\",\"birthDate\":\"1950\"}".into(),
            _ => heart_rate("\\u0061b", "2025-12-31T00:00:00+01:00"),
        })
        .collect();
    let run = |size: usize, files: bool| {
        let mut decoder = Decoder::new(settings(&spec(), files));
        let (mut entries, mut rejected, mut ignored) = (Vec::new(), Vec::new(), 0);
        for (number, chunk) in texts.chunks(size).enumerate() {
            let batch = chunk
                .iter()
                .enumerate()
                .fold(Batch::default(), |batch, (at, text)| batch.with((number * size + at) as i64, text.as_bytes()));
            let mut out = batch.decode(&mut decoder);
            ignored += out.tally.total(Outcome::Ignored);
            let text = show(&mut out);
            let (no, yes): (Vec<_>, Vec<_>) = text
                .lines()
                .filter(|line| !line.starts_with("ignored"))
                .map(String::from)
                .partition(|line| line.contains(" rejected "));
            entries.extend(yes);
            rejected.extend(no);
        }
        (entries, rejected, ignored)
    };
    for files in [false, true] {
        let one = run(1, files);
        assert_eq!(one.0.len(), 8 * 3 + 8 + 8 + 8);
        for size in [2, 7, 40] {
            assert_eq!(run(size, files), one, "batches of {size}");
        }
    }
}

#[test]
fn settings_that_cannot_be_meant_are_refused() {
    let refused = |spec: DecodeSpec| Settings::new(&spec, EventSpan::ZERO, EventSpan::ZERO, false).unwrap_err();
    assert!(refused(DecodeSpec { signals: vec!["sistolic".into()], ..spec() }).contains("\"sistolic\""));
    assert!(refused(DecodeSpec { signals: vec![], ..spec() }).contains("empty"));
    assert!(refused(DecodeSpec { signals: vec!["weight".into(), "weight".into()], ..spec() }).contains("twice"));
    for pointer in ["payload", "/a~", "/a~2", "Auto"] {
        assert!(refused(DecodeSpec { unwrap: pointer.into(), ..spec() }).contains("JSON pointer"), "{pointer}");
    }
    let missing = DecodeSpec { signals_file: Some("no/such/table.toml".into()), ..spec() };
    assert!(refused(missing).contains("no/such/table.toml"));
    let table = DecodeSpec { comorbidities_file: Some("no/such/table.toml".into()), ..spec() };
    let said = refused(table.clone());
    assert!(said.contains("no/such/table.toml") && said.contains("decode.conditions is false"), "{said}");
    assert!(refused(DecodeSpec { conditions: true, ..table }).contains("could not read the table of comorbidities"));
}
