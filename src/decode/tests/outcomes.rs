//! Outcomes of patients: the files of `schemas/outcomes` do what their names say; no bytes make the reader panic; partitions of outcomes have no event time.

use std::collections::BTreeSet;
use std::path::Path;

use expect_test::{expect, expect_file};
use proptest::prelude::*;

use super::examples::{documented, leak, listed};
use super::*;
use crate::config::OutcomesSpec;

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/outcomes")
}

/// Topic 0 has observations, topic 1 outcomes.
fn decoder() -> Decoder {
    let outcomes =
        OutcomesSpec { topics: vec!["outcomes".into()], outcome: "deterioration".into(), ..OutcomesSpec::default() };
    let topics = Topics::new(["bp-obs".to_owned(), "outcomes".to_owned()]);
    Decoder::new(settings(&spec(), false).with_outcomes(&outcomes)).with_topics(topics)
}

const OUTCOMES: Partition = Partition { topic: TopicId(1), number: 0 };

fn batch(payload: Option<&[u8]>, key: Option<&[u8]>) -> Batch {
    let mut batch = Batch::default();
    let payload = payload.map_or(Payload::Tombstone, |payload| Payload::Bytes(batch.0.arena.push(payload)));
    let key = key.map(|key| batch.0.arena.push(key));
    batch.push(OUTCOMES, 7, payload, key);
    batch
}

fn decode(file: &str, bytes: &[u8]) -> Decoded {
    let mut of_payload = Batch::default();
    of_payload.push(
        OUTCOMES,
        7,
        match file {
            "record_too_large.json" => Payload::TooLarge,
            "unreadable.json" => Payload::Unreadable,
            "tombstone.json" => Payload::Tombstone,
            _ => return batch(Some(bytes), None).decode(&mut decoder()),
        },
        None,
    );
    of_payload.decode(&mut decoder())
}

fn files(kind: &str) -> std::collections::BTreeMap<String, Vec<u8>> {
    super::examples::files_in(&folder().join(kind))
}

#[test]
fn every_rejected_outcome_breaks_the_rule_that_it_is_named_for() {
    for (file, bytes) in files("rejected") {
        let out = decode(&file, &bytes);
        let broken: Vec<_> = out.rejections.iter().map(|rejection| rejection.rule).collect();
        assert_eq!(broken, [file.split('.').next().unwrap()], "{file}");
        assert_eq!((out.resources, out.tally.total(Outcome::Rejected)), (1, 1), "{file}");
        assert_eq!(out.rejections[0].position, Position { partition: OUTCOMES, offset: 7, entry: 0 });
        assert!(out.observations.entries.is_empty(), "{file}");
    }
}

#[test]
fn every_ignored_outcome_is_ignored_for_the_reason_that_it_is_named_for() {
    for (file, bytes) in files("ignored") {
        let mut out = decode(&file, &bytes);
        let ends: Vec<_> = out.tally.drain().collect();
        assert_eq!(ends, [(Outcome::Ignored, leak(file.split('.').next().unwrap()), 1)], "{file}");
        assert!(out.observations.entries.is_empty() && out.rejections.is_empty(), "{file}");
    }
}

#[test]
fn accepted_outcomes_come_to_what_the_table_says() {
    let mut table = String::new();
    for (file, bytes) in files("accepted") {
        let mut out = decode(&file, &bytes);
        let leniencies: Vec<_> = out.leniencies.drain().map(|(name, _)| format!(" +{name}")).collect();
        let _ = writeln!(table, "{file}\n    {}{}", show(&mut out).trim_end(), leniencies.concat());
    }
    expect_file!["../../../schemas/outcomes/accepted.txt"].assert_eq(&table);
}

#[test]
fn rules_and_reasons_of_outcomes_have_files_and_lines_in_the_readme() {
    let stems = |kind| -> BTreeSet<String> {
        files(kind).keys().map(|file| file.split('.').next().unwrap().to_owned()).collect()
    };
    assert_eq!(stems("rejected"), listed(&rule::OUTCOME_REJECTED));
    assert_eq!(stems("ignored"), listed(&rule::OUTCOME_IGNORED));
    let readme = std::fs::read_to_string(folder().join("README.md")).unwrap();
    for name in rule::OUTCOME_REJECTED.iter().chain(&rule::OUTCOME_IGNORED) {
        assert!(documented().contains_key(*name), "{name} is documented in rule.rs");
        assert!(readme.contains(&format!("\n| `{name}` | ")), "{name} is in the README");
    }
}

#[test]
fn a_tombstone_names_an_outcome_by_its_key_and_what_has_its_key_as_id_can_be_deleted() {
    let shown = |payload: Option<&str>, key: &str| {
        show(&mut batch(payload.map(str::as_bytes), Some(key.as_bytes())).decode(&mut decoder()))
    };
    let text = r#"{"id":"o17","patient":"p1","outcome":"deterioration","at":"2026-01-01T10:00:00Z","value":false}"#;
    expect![[r#"
        7 outcome o17 of p1 by 2026-01-01T10:00:00Z did not happen deletable
    "#]]
    .assert_eq(&shown(Some(text), "o17"));
    assert!(shown(Some(&text.replace("o17", "\\u006f17")), "o17").contains("deletable"));
    assert!(!shown(Some(text), "p1").contains("deletable"));
    assert_eq!(shown(None, "o17"), "7 outcome o17 of - by - withdrawn\n");
    assert_eq!(shown(None, ""), "ignored tombstone 1\n");
}

#[test]
fn partitions_of_outcomes_hold_no_window_open() {
    let mut decoder = decoder();
    let observed = Partition { topic: TopicId(0), number: 0 };
    let marks = |mark: fn(Partition) -> Mark| Batch::default().marked(mark(observed)).marked(mark(OUTCOMES));
    for mark in [Mark::Opened, Mark::Idle, Mark::Ended] {
        let ticks = marks(mark).decode(&mut decoder).ticks;
        assert_eq!(ticks.iter().map(|tick| tick.partition).collect::<Vec<_>>(), [observed]);
    }
    let text = br#"{"patient":"p1","outcome":"deterioration","at":"2026-01-01T10:00:00Z","value":1}"#;
    assert_eq!(batch(Some(text), None).decode(&mut decoder).ticks, []);
    assert_eq!(decoder.progress.idle(), 0);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_and_each_record_ends_once(
        text in "[{}\\[\\]:,\" a-z0-9\\\\.+-]{0,60}",
        at in any::<prop::sample::Index>(),
        with in any::<u8>(),
    ) {
        let whole = br#"{"id":"o17","patient":"Patient/p1","outcome":"deterioration","at":"2026-01-01T10:00:00Z","value":1,"version":3}"#;
        let mut mutated = whole.to_vec();
        let at = at.index(mutated.len());
        mutated[at] = with;
        for bytes in [text.as_bytes(), &mutated[..], &whole[..at]] {
            let out = batch(Some(bytes), None).decode(&mut decoder());
            let ends = out.tally.total(Outcome::Ignored) + out.tally.total(Outcome::Rejected);
            prop_assert_eq!((out.observations.entries.len() as u64 + ends, out.resources), (1, 1));
        }
    }
}
