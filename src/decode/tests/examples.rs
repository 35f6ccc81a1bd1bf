//! The files of `schemas/fhir/` do what their names say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use expect_test::expect_file;

use super::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/fhir")
}

/// Files of a folder, by name.
pub(super) fn files(kind: &str) -> BTreeMap<String, Vec<u8>> {
    files_in(&folder().join(kind))
}

pub(super) fn files_in(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap();
    let files = entries.map(|entry| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap())
    });
    files.collect()
}

/// The settings of an example: the defaults, and what `settings.toml` says of it.
pub(super) fn spec_of(kind: &str, file: &str) -> DecodeSpec {
    let text = std::fs::read_to_string(folder().join("settings.toml")).unwrap();
    let all: BTreeMap<String, DecodeSpec> = toml::from_str(&text).unwrap();
    let said = all.get(&format!("{kind}/{file}")).cloned().unwrap_or_default();
    DecodeSpec { signals: spec().signals, ..said }
}

/// A table with more signals than one observation may carry.
fn many_signals(spec: DecodeSpec) -> (tempfile::NamedTempFile, DecodeSpec) {
    let mut text = include_str!("../../../schemas/signals.toml")
        .replace("[systems]\n", "[systems]\nmany = \"urn:example:many\"\n");
    let mut signals = Vec::new();
    for at in 0..17 {
        let name = format!("extra_{at}");
        let _ = write!(
            text,
            "\n[[signal]]\nname = \"{name}\"\ncolumn = \"{name}_mmhg\"\nunit = \"mm[Hg]\"\nplausible = [0, 1000]\nunits = \"pressure\"\ncodes = [{{ system = \"many\", code = \"extra-{at}\" }}]\n"
        );
        signals.push(name);
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let signals_file = Some(file.path().to_owned());
    (file, DecodeSpec { signals, signals_file, ..spec })
}

fn decode_rejected(file: &str, bytes: &[u8]) -> Decoded {
    let spec = spec_of("rejected", file);
    match file {
        "record_too_large.json" => {
            Batch::of_payload(Payload::TooLarge, None).decode(&mut Decoder::new(settings(&spec, false)))
        }
        "unreadable.json" => {
            Batch::of_payload(Payload::Unreadable, None).decode(&mut Decoder::new(settings(&spec, false)))
        }
        "too_many_signals.json" => {
            let (_file, spec) = many_signals(spec);
            decode(&spec, bytes)
        }
        _ => decode(&spec, bytes),
    }
}

#[test]
fn every_rejected_example_breaks_the_rule_that_it_is_named_for() {
    for (file, bytes) in files("rejected") {
        let rule = file.split('.').next().unwrap();
        let out = decode_rejected(&file, &bytes);
        let broken: Vec<_> = out.rejections.iter().map(|rejection| rejection.rule).collect();
        assert_eq!(broken, [rule], "{file}");
        assert_eq!(out.tally.total(Outcome::Rejected), 1, "{file}");
        let observations = out.observations.entries.iter().filter(|entry| !matches!(entry, Entry::Patient(_)));
        assert_eq!(observations.count(), 0, "{file}");
    }
}

#[test]
fn every_ignored_example_is_ignored_for_the_reason_that_it_is_named_for() {
    for (file, bytes) in files("ignored") {
        let reason = file.split('.').next().unwrap();
        let mut out = decode(&spec_of("ignored", &file), &bytes);
        let ends: Vec<_> = out.tally.drain().collect();
        assert_eq!(ends, [(Outcome::Ignored, leak(reason), 1)], "{file}");
        assert!(out.rejections.is_empty(), "{file}");
    }
}

/// Reasons are static; a test may spend the few bytes.
pub(super) fn leak(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

#[test]
fn accepted_examples_come_to_what_the_table_says() {
    let mut table = String::new();
    for (file, bytes) in files("accepted") {
        let mut out = decode(&spec_of("accepted", &file), &bytes);
        let _ = writeln!(table, "{file}");
        for line in show(&mut out).lines() {
            let _ = writeln!(table, "    {line}");
        }
    }
    expect_file!["../../../schemas/fhir/accepted.txt"].assert_eq(&table);
}

/// The constants of `rule.rs`, read from its text: (value, doc).
pub(super) fn documented() -> BTreeMap<String, String> {
    let mut doc = String::new();
    let mut rules = BTreeMap::new();
    for line in include_str!("../rule.rs").lines() {
        if let Some(text) = line.strip_prefix("/// ") {
            doc = text.to_owned();
        } else if let Some((_, value)) = line.strip_prefix("pub const ").and_then(|rest| rest.split_once(": &str = ")) {
            rules.insert(value.trim_matches([';', '"']).to_owned(), doc.clone());
        }
    }
    rules
}

pub(super) fn listed(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn rules_reasons_files_and_readme_name_the_same() {
    let readme = std::fs::read_to_string(folder().join("README.md")).unwrap();
    let stems = |kind| -> BTreeSet<String> {
        files(kind).keys().map(|file| file.split('.').next().unwrap().to_owned()).collect()
    };
    assert_eq!(stems("rejected"), listed(&rule::REJECTED));
    assert_eq!(stems("ignored"), listed(&rule::IGNORED));
    let documented = documented();
    let of_outcomes = rule::OUTCOME_REJECTED.iter().chain(&rule::OUTCOME_IGNORED);
    let all: BTreeSet<&str> = rule::REJECTED.iter().chain(&rule::IGNORED).chain(of_outcomes).copied().collect();
    assert_eq!(documented.len(), all.len());
    for name in rule::REJECTED.iter().chain(&rule::IGNORED) {
        assert!(documented.contains_key(*name), "{name} is documented in rule.rs");
        assert!(readme.contains(&format!("\n| `{name}` | ")), "{name} is in the README");
    }
    let accepted = std::fs::read_to_string(folder().join("accepted.txt")).unwrap();
    for (_, name) in Leniency::ALL {
        assert!(readme.contains(&format!("\n| `{name}` | ")), "{name} is in the README");
        assert!(accepted.contains(&format!("+{name}")), "an accepted example needs {name}");
    }
}

#[test]
fn settings_name_files_that_exist() {
    let text = std::fs::read_to_string(folder().join("settings.toml")).unwrap();
    let all: BTreeMap<String, DecodeSpec> = toml::from_str(&text).unwrap();
    for file in all.keys() {
        assert!(folder().join(file).is_file(), "{file}");
    }
}
