//! Proves that nothing of a message but its figures gets out: no row, file name, log line (at the most talkative level), metric or page
//! holds a word that stands in every id, name, narrative, note, URL, file name and broken piece of the input.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::support::canary::{CANARY, leak, marked, spellings};
use crate::support::{DEADLINE, Finished, Running, get, key_file, outcomes, parquet, repository, windkessel};

/// Marks every example of `schemas/fhir`, cuts some short, and writes them below `folder`, under names that hold the word as well.
fn write_input(folder: &Path) -> Vec<Vec<u8>> {
    fs::create_dir_all(folder).unwrap();
    let mut inputs = Vec::new();
    let mut lines = String::new();
    for kind in ["accepted", "rejected", "ignored"] {
        for (number, path) in (0..).zip(crate::support::files(&repository("schemas/fhir").join(kind), "json")) {
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let whole = marked(&text);
            let cut: String = whole.chars().take(whole.chars().count() * 2 / 3).collect();
            for (part, text) in [("whole", &whole), ("cut", &cut)] {
                let name = format!("{CANARY}-{kind}-{number}-{part}.json");
                fs::write(folder.join(name), text).unwrap();
                lines.push_str(&text.replace(['\n', '\r'], " "));
                lines.push('\n');
                inputs.push(text.clone().into_bytes());
            }
        }
    }
    lines.push_str(&format!("\u{feff}{CANARY}\n\"{CANARY}\"\n[\"{CANARY}\"]\n{{\"{CANARY}\":\n"));
    fs::write(folder.join(format!("{CANARY}.ndjson")), lines).unwrap();
    // Damaged compression, and bytes that are no text.
    fs::write(folder.join(format!("{CANARY}-broken.ndjson.gz")), format!("\x1f{CANARY}")).unwrap();
    fs::write(folder.join(format!("{CANARY}-broken.ndjson.zst")), CANARY).unwrap();
    fs::write(folder.join(format!("{CANARY}-latin.ndjson")), [CANARY.as_bytes(), b"\xff\xfe\n"].concat()).unwrap();
    inputs
}

/// Marks every example of `schemas/outcomes` and writes them below `folder`.
fn write_outcomes(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let mut lines = String::new();
    for kind in ["accepted", "rejected", "ignored"] {
        for path in crate::support::files(&repository("schemas/outcomes").join(kind), "json") {
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let whole = text.replace("p1", &format!("{CANARY}-p1")).replace("\"o-17\"", &format!("\"{CANARY}-o17\""));
            let whole = whole.replacen('{', &format!("{{\"{CANARY}\":\"{CANARY}\","), 1).replace('\n', " ");
            let cut: String = whole.chars().take(whole.chars().count() * 2 / 3).collect();
            let other = whole.replace("deterioration", CANARY);
            lines.push_str(&format!("{whole}\n{cut}\n{other}\n"));
        }
    }
    fs::write(folder.join(format!("{CANARY}-outcomes.ndjson")), lines).unwrap();
}

/// Everything that a run shows over HTTP.
fn pages(url: &str) -> Vec<(String, String)> {
    let paths = ["/", "/metrics", "/health", "/ready", "/version", "/api/v1/snapshot"];
    paths.iter().filter_map(|path| Some((format!("{url}{path}"), get(&format!("{url}{path}"))?))).collect()
}

fn all_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all_files(&path, into) } else { into.push(path) }
    }
}

/// Asserts that nothing of a run holds the word.
fn nothing_leaked(finished: &Finished, pages: &[(String, String)], data: &Path) {
    assert_eq!(leak(finished.out.as_bytes()), None, "standard output");
    assert_eq!(leak(finished.err.as_bytes()), None, "standard error");
    assert!(finished.err.contains("INFO"), "the log says something");
    assert!(pages.len() >= 6, "the pages were looked at");
    for (url, page) in pages {
        assert_eq!(leak(page.as_bytes()), None, "{url}");
    }
    let mut paths = Vec::new();
    all_files(data, &mut paths);
    for path in &paths {
        assert_eq!(leak(path.file_name().unwrap().as_encoded_bytes()), None, "{path:?}");
        assert_eq!(leak(&fs::read(path).unwrap()), None, "{path:?}");
    }
    let mut rows = 0;
    for table in ["readings", "windows", "rejected", "shifts"] {
        for row in parquet(data, table) {
            rows += 1;
            assert_eq!(leak(serde_json::to_string(&row).unwrap().as_bytes()), None, "{table}");
        }
    }
    assert!(rows > 100, "{rows} rows were looked at");
}

#[test]
fn the_search_finds_the_word_however_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let inputs = write_input(folder.path());
    assert!(inputs.len() > 200);
    let holding = inputs.iter().filter(|input| leak(input).is_some()).count();
    assert!(holding * 10 > inputs.len() * 9, "nearly every input holds the word: {holding} of {}", inputs.len());
    for spelling in spellings() {
        assert!(leak(&[b"...", &spelling[..], b"..."].concat()).is_some());
    }
    assert!(leak(CANARY.to_uppercase().as_bytes()).is_some());
    assert!(leak(b"Patient/5 systolic 120").is_none());
}

#[test]
fn a_replay_lets_no_identity_out() {
    let folder = tempfile::tempdir().unwrap();
    write_input(&folder.path().join("input"));
    write_outcomes(&folder.path().join("outcomes"));
    let mut command = windkessel(folder.path());
    command.env("RUST_LOG", "trace").arg("run").arg(repository("dataflows/blood_pressure_replay.toml"));
    let settings = [
        &key_file(folder.path()),
        "source.paths=[\"input\", \"-\"]",
        "source.record_bytes_max=20000",
        "decode.conditions=true",
        "audit.outcomes.paths=[\"outcomes\"]",
        "audit.outcomes.outcome=\"deterioration\"",
        "http.listen=\"127.0.0.1:0\"",
        "sink.ndjson.tables=[\"readings\", \"windows\", \"rejected\", \"shifts\"]",
    ];
    command.args(settings.iter().flat_map(|setting| ["--set", setting])).args(["-w", "2"]);
    let mut running = Running::start(command.stdin(Stdio::piped()));
    let mut stdin = running.stdin();
    let line = marked("{\"resourceType\":\"Observation\",\"id\":\"o1\",\"status\":\"final\"}");
    stdin.write_all(format!("{line}\n{CANARY}\n").as_bytes()).unwrap();
    let url = running.url();
    let mut seen = Vec::new();
    for _ in 0..10 {
        seen.extend(pages(&url));
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(stdin);
    let finished = running.wait(DEADLINE).succeeded();
    let told = outcomes(&finished.out);
    assert!(told["rejected"] > 200 && told["contributed"] > 5, "{}", finished.out);
    nothing_leaked(&finished, &seen, &folder.path().join("windkessel-data"));
}

#[test]
fn the_demo_lets_no_identity_out() {
    let folder = tempfile::tempdir().unwrap();
    write_input(&folder.path().join("input"));
    let mut command = windkessel(folder.path());
    command.env("RUST_LOG", "debug,windkessel=trace");
    command.args(["demo", "--input", "input", "--output", "out", "--listen", "127.0.0.1:0", "--rate", "400", "--stay"]);
    let mut running = Running::start(&mut command);
    let url = running.url();
    let mut seen = Vec::new();
    running.until("the summary", |running| {
        seen.extend(pages(&url));
        running.err().contains("still serving").then_some(())
    });
    seen.extend(pages(&url));
    running.signal("INT");
    let finished = running.wait(DEADLINE).succeeded();
    assert!(outcomes(&finished.out)["rejected"] > 100, "{}", finished.out);
    nothing_leaked(&finished, &seen, &folder.path().join("out"));
}

#[test]
fn an_error_about_an_input_names_no_file_that_was_found_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input");
    fs::create_dir_all(&input).unwrap();
    // A link to nowhere: found, and not readable.
    std::os::unix::fs::symlink("nowhere", input.join(format!("{CANARY}.ndjson"))).unwrap();
    let mut command = windkessel(folder.path());
    command.env("RUST_LOG", "trace").arg("run").arg(repository("dataflows/blood_pressure_replay.toml"));
    command.args(["--set", &key_file(folder.path()), "--set", "source.paths=[\"input\"]", "--until", "end"]);
    let finished = crate::support::finish(&mut command);
    assert_eq!(leak(finished.err.as_bytes()), None, "{}", finished.err);
    assert_eq!(leak(finished.out.as_bytes()), None, "{}", finished.out);
}
