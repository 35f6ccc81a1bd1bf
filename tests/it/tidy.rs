//! Proves that the sources keep the rules of the house that no lint knows.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::repository;

const COLUMNS_MAX: usize = 140;
const FUNCTION_LINES_MAX: usize = 70;
/// Functions that are one long list, which is easier to read whole.
const LISTS: [&str; 2] = ["src/runtime/metrics.rs", "src/decode/tests/grammar.rs"];

/// Every Rust file with its path below the repository.
fn sources() -> Vec<(String, String)> {
    let mut paths = Vec::new();
    for folder in ["src", "tests", "benches"] {
        rust_files(&repository(folder), &mut paths);
    }
    assert!(paths.len() > 100);
    let name = |path: &Path| path.strip_prefix(repository("")).unwrap().display().to_string();
    paths.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => rust_files(&path, into),
            false if path.extension().is_some_and(|extension| extension == "rs") => into.push(path),
            false => {}
        }
    }
}

/// Asserts that there are no findings, and shows them all.
fn none(findings: &[String]) {
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

fn lines(mut test: impl FnMut(&str, &str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (name, text) in sources() {
        let numbered = (1..).zip(text.lines()).filter(|(_, line)| test(&name, line));
        found.extend(numbered.map(|(number, line)| format!("{name}:{number}: {}", line.trim())));
    }
    found
}

#[test]
fn every_file_says_first_what_it_is_for() {
    let silent = |(name, text): (String, String)| (!text.starts_with("//! ")).then_some(name);
    none(&sources().into_iter().filter_map(silent).collect::<Vec<_>>());
}

#[test]
fn no_line_of_code_is_too_long() {
    // Tables in documentation and texts that stand for themselves may be.
    let wide = |_: &str, line: &str| {
        let prose = line.trim_start().starts_with("//") || line.contains('"');
        line.chars().count() > COLUMNS_MAX && !prose
    };
    none(&lines(wide));
}

#[test]
fn no_function_is_too_long() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        let all: Vec<&str> = text.lines().collect();
        for (start, line) in all.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            if !is_function(line) {
                continue;
            }
            // rustfmt closes a function where it began; a declaration ends in a semicolon first.
            let closes = |line: &&str| line.len() == indent + 1 && line.ends_with('}');
            let length = all[start..].iter().position(closes).unwrap_or(0) + 1;
            if length > FUNCTION_LINES_MAX && !LISTS.contains(&name.as_str()) {
                found.push(format!("{name}:{}: {length} lines: {}", start + 1, line.trim()));
            }
        }
    }
    none(&found);
}

fn is_function(line: &str) -> bool {
    let mut words = line
        .trim_start()
        .split(' ')
        .skip_while(|word| word.starts_with("pub") || matches!(*word, "const" | "async" | "unsafe" | "in" | "super)"));
    words.next() == Some("fn") && !line.trim_end().ends_with(['}', ';'])
}

#[test]
fn nothing_is_left_to_do() {
    let marks =
        [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["db", "g!("], ["#[ig", "nore"]].map(|halves| halves.concat());
    none(&lines(|_, line| marks.iter().any(|mark| line.contains(mark.as_str()))));
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let places = [["/wo", "rk/"], ["/ro", "ot/"], ["/ho", "me/"]].map(|halves| halves.concat());
    none(&lines(|_, line| places.iter().any(|place| line.contains(place.as_str()))));
}

#[test]
fn timely_is_named_only_by_the_runtime_the_audit_and_what_renders() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        let runs = ["src/runtime/", "src/audit/", "src/graph.rs", "src/job", "benches/"]
            .iter()
            .any(|place| name.starts_with(place));
        let renders = text.contains("pub fn render<") || text.contains("pub fn build<");
        let named = text.lines().find(|line| line.contains("use timely") || line.contains("use differential_dataflow"));
        if let Some(line) = named.filter(|_| !runs && !renders) {
            found.push(format!("{name}: {line}"));
        }
    }
    none(&found);
}
