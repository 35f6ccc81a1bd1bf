//! Proves what the command line promises: exit codes, one sentence for what cannot work, signals, and verbs that only look.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{
    DEADLINE, Finished, Running, files, finish, get, key_file, metric, ndjson, outcomes, repository, windkessel,
};

const REPLAY: &str = "dataflows/blood_pressure_replay.toml";
const REFERENCE: &str = "dataflows/blood_pressure.toml";
/// Stands for a secret: must be in no message.
const SECRET: &str = "f00dfacecafe";

fn run(folder: &Path, flow: &str, settings: &[&str]) -> Command {
    let mut command = windkessel(folder);
    command.arg("run").arg(repository(flow));
    command.args(settings.iter().flat_map(|setting| ["--set", setting]));
    command
}

/// Asserts that a verb refused with this exit code, in one sentence that holds `words`.
fn refused(finished: &Finished, code: i32, words: &str) {
    let (err, said) = (&finished.err, finished.last_words());
    assert_eq!(finished.code(), Some(code), "{err}");
    assert!(said.starts_with("windkessel: could not ") || said.contains(words), "{err}");
    assert!(said.contains(words), "{words:?} is not in {said:?}");
    assert!(!said.ends_with('.'), "{said}");
    for bad in ["panicked", "unwrap", "RUST_BACKTRACE", SECRET] {
        assert!(!err.contains(bad) && !finished.out.contains(bad), "{bad} in {err}");
    }
    assert!(err.lines().filter(|line| !line.contains("INFO") && !line.contains("WARN")).count() == 1, "{err}");
}

#[test]
fn wrong_arguments_end_with_2_and_help() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &[][..],
        &["bogus"],
        &["run"],
        &["run", REPLAY, "-w", "0"],
        &["run", REPLAY, "--until", "never"],
        &["demo", "--patients", "0"],
        &["generate"],
        &["generate", "--output", "a", "--brokers", "b:1"],
        &["completions", "cobol"],
    ] {
        let finished = finish(windkessel(folder.path()).args(arguments));
        assert_eq!(finished.code(), Some(2), "{arguments:?}: {}", finished.err);
        assert!(finished.err.contains("Usage") || finished.err.contains("--help"), "{}", finished.err);
    }
}

#[test]
fn what_cannot_work_is_said_in_one_sentence_with_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let key = key_file(at);
    fs::write(at.join("a.ndjson"), "{}\n").unwrap();
    fs::write(at.join("short.key"), format!("{SECRET}\n")).unwrap();
    fs::write(at.join("not-hex.key"), SECRET.repeat(5) + "wxyz").unwrap();
    fs::write(at.join("model.json"), "{\"kind\": 1}").unwrap();
    let a = "source.paths=[\"a.ndjson\"]";
    let cases: [(i32, &str, &[&str]); 21] = [
        (78, "has no \"=\"", &["foo"]),
        (78, "`nope`", &["source.nope=1"]),
        (78, "source.paths", &["source.paths=oops"]),
        (78, "nowhere", &["nowhere.key=1"]),
        (78, "patient.window", &["patient.window=\"0s\""]),
        (78, "patient.window", &["patient.window=\"soon\""]),
        (78, "acc_aha_2017", &["score.rules=\"guess\""]),
        (78, "blood_pressure", &["decode.signals=[\"blood_pressure\"]"]),
        (78, "absent.key", &["pseudonymise.key_file=\"absent.key\"", a]),
        (78, "64 hexadecimal", &["pseudonymise.key_file=\"short.key\"", a]),
        (78, "64 hexadecimal", &["pseudonymise.key_file=\"not-hex.key\"", a]),
        (78, "key_env", &[&key, "pseudonymise.key_env=\"X\"", a]),
        (78, "source.paths is empty", &[&key]),
        (78, "absent.ndjson", &[&key, "source.paths=[\"absent.ndjson\"]"]),
        (78, "model.json", &[&key, a, "model.file=\"model.json\""]),
        (78, "observations", &[&key, "source.kind=\"generator\"", "source.observations=0"]),
        (69, "sink.parquet.path", &[&key, a, "sink.parquet.path=\"a.ndjson/below\""]),
        (69, "sink.ndjson.path", &[&key, a, "sink.ndjson.path=\"a.ndjson/below\""]),
        (69, "http.listen", &[&key, a, "http.listen=\"nonsense\""]),
        (
            78,
            "index",
            &[&key, a, "sink.elasticsearch.url=\"http://127.0.0.1:1\"", "sink.elasticsearch.index=\"UPPER\""],
        ),
        (78, "client", &[&key, "source.kind=\"kafka\"", "source.client={\"sasl.password\"=\"f00dfacecafe\"}"]),
    ];
    for (code, words, settings) in cases {
        refused(&finish(run(at, REPLAY, settings).args(["--until", "end"])), code, words);
    }
    refused(&finish(windkessel(at).args(["run", "absent.toml"])), 78, "absent.toml");
    fs::write(at.join("broken.toml"), "name = \"x\"\n[source]\nkind = 7\n").unwrap();
    let broken = finish(windkessel(at).args(["check", "broken.toml"]));
    assert_eq!(broken.code(), Some(78));
    assert!(broken.err.contains("line 3"), "it names the place: {}", broken.err);
    refused(&finish(windkessel(at).args(["generate", "--output", "no/such/folder.ndjson"])), 69, "no/such/folder");
    refused(&finish(windkessel(at).args(["train", "--output", "model.json"])), 78, "--force");
}

#[test]
fn a_broker_that_nobody_reaches_ends_with_69() {
    let folder = tempfile::tempdir().unwrap();
    let key = key_file(folder.path());
    let settings = [&key, "source.brokers=\"127.0.0.1:1\"", "sink.kafka.brokers=\"127.0.0.1:1\"", "http.listen=\"\""];
    let running = Running::start(&mut run(folder.path(), REFERENCE, &settings));
    let generating = Running::start(windkessel(folder.path()).args(["generate", "--brokers", "127.0.0.1:1"]));
    refused(&running.wait(DEADLINE), 69, "127.0.0.1:1");
    refused(&generating.wait(DEADLINE), 69, "127.0.0.1:1");
}

#[test]
fn a_port_in_use_ends_with_69_before_anything_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let key = key_file(folder.path());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("http.listen=\"{}\"", taken.local_addr().unwrap());
    let settings = [&key, "source.kind=\"generator\"", &listen];
    refused(&finish(&mut run(folder.path(), REPLAY, &settings)), 69, "in use");
    assert!(files(&folder.path().join("windkessel-data/readings"), "parquet").is_empty());
}

#[test]
fn every_shipped_flow_is_valid_and_can_be_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let flows = files(&repository("dataflows"), "toml");
    assert!(flows.len() >= 5);
    for flow in flows {
        let checked = finish(windkessel(folder.path()).arg("check").arg(&flow)).succeeded();
        assert!(checked.out.contains("valid"), "{}", checked.out);
        let explain = |format: &str| {
            let mut command = windkessel(folder.path());
            finish(command.args(["explain", "--format", format]).arg(&flow)).succeeded().out
        };
        let (text, mermaid, dot) = (explain("text"), explain("mermaid"), explain("dot"));
        assert!(mermaid.starts_with("flowchart") || mermaid.starts_with("graph"), "{mermaid}");
        assert!(dot.starts_with("digraph") && dot.trim_end().ends_with('}'), "{dot}");
        for stage in ["source", "decode", "pseudonymise", "patient", "score"] {
            for drawing in [&text, &mermaid, &dot] {
                assert!(drawing.contains(stage), "{stage} is not in {drawing}");
            }
        }
        assert!(text.contains("[patient]") && text.contains("lateness"), "every setting is spelled out: {text}");
    }
}

#[test]
fn what_connects_reads_the_model_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let key = key_file(folder.path());
    fs::write(folder.path().join("broken.json"), "{\"format\": \"other\"}").unwrap();
    let check = |model: &str| {
        let mut command = windkessel(folder.path());
        command.args(["check", "--connect"]).arg(repository(REPLAY));
        let settings = [&*key, "source.kind=\"generator\"", &*format!("model.file={model:?}")];
        finish(command.args(settings.iter().flat_map(|setting| ["--set", setting])))
    };
    refused(&check("broken.json"), 78, "broken.json");
    let absent = check("absent.json");
    assert!(absent.out.contains("absent.json is not there, rules alone"), "{}", absent.out);
    finish(windkessel(folder.path()).args(["train", "--patients", "200", "--output", "model.json"])).succeeded();
    let present = check("model.json");
    assert!(present.out.contains("model: readable") && present.out.contains("source: answers"), "{}", present.out);
}

#[test]
fn completions_are_made_for_every_shell() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let finished = finish(windkessel(folder.path()).args(["completions", shell])).succeeded();
        assert!(finished.out.contains("windkessel") && finished.out.contains("explain"), "{shell}");
    }
}

#[test]
fn an_empty_input_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("empty.ndjson"), "\n\n").unwrap();
    let settings = [&key_file(folder.path()), "source.paths=[\"empty.ndjson\"]"];
    let finished = finish(run(folder.path(), REPLAY, &settings).args(["--until", "end"])).succeeded();
    assert_eq!(outcomes(&finished.out).values().sum::<u64>(), 0);
    assert!(files(&folder.path().join("windkessel-data/readings"), "parquet").is_empty(), "no empty files");
}

#[test]
fn standard_input_is_a_source() {
    let folder = tempfile::tempdir().unwrap();
    let made = ["generate", "--output", "-", "--observations", "500", "--patients", "10", "--clean"];
    let lines = finish(windkessel(folder.path()).args(made)).succeeded().out;
    let settings = [&key_file(folder.path()), "source.paths=[\"-\"]"];
    let mut running = Running::start(run(folder.path(), REPLAY, &settings).stdin(Stdio::piped()));
    running.stdin().write_all(lines.as_bytes()).unwrap();
    let finished = running.wait(DEADLINE).succeeded();
    let told = outcomes(&finished.out);
    assert_eq!((told["contributed"], told["ignored"]), (500, 10), "{}", finished.out);
    assert_eq!(ndjson(&folder.path().join("windkessel-data"), "readings").len(), 500);
}

/// A run of the generator without end.
fn endless(folder: &Path, more: &[&str]) -> (Running, String) {
    let key = key_file(folder);
    let mut settings = vec![
        key.as_str(),
        "source.kind=\"generator\"",
        "source.observations=0",
        "source.rate_per_second=2000",
        "http.listen=\"127.0.0.1:0\"",
    ];
    settings.extend(more);
    let mut running = Running::start(run(folder, REPLAY, &settings).args(["-w", "2"]));
    let url = running.url();
    (running, url)
}

fn read(url: &str) -> f64 {
    get(&format!("{url}/metrics")).map_or(0.0, |text| metric(&text, "windkessel_inputs_total", ""))
}

#[test]
fn a_signal_drains_what_was_read_and_ends_with_0() {
    for signal in ["TERM", "INT"] {
        let folder = tempfile::tempdir().unwrap();
        let (mut running, url) = endless(folder.path(), &[]);
        running.until("a thousand messages", |_| (read(&url) > 1_000.0).then_some(()));
        running.signal(signal);
        let finished = running.wait(Duration::from_secs(60)).succeeded();
        let told = outcomes(&finished.out);
        let rows = ndjson(&folder.path().join("windkessel-data"), "readings");
        assert_eq!(rows.len() as u64, told["contributed"] + told["late"], "{}", finished.out);
        assert!(told["contributed"] > 100, "{}", finished.out);
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    // A server that takes connections and never answers: draining would wait for ever.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("sink.elasticsearch.url=\"http://{}\"", mute.local_addr().unwrap());
    let more = [url.as_str(), "sink.elasticsearch.index=\"bp\""];
    let (running, _) = endless(folder.path(), &more);
    std::thread::sleep(Duration::from_millis(500));
    running.signal("TERM");
    let begun = Instant::now();
    let mut running = running;
    running.until("word of the first signal", |running| running.err().contains("second signal").then_some(()));
    std::thread::sleep(Duration::from_millis(500));
    running.signal("TERM");
    let finished = running.wait(Duration::from_secs(20));
    assert_eq!(finished.code(), Some(130), "{}", finished.err);
    assert!(begun.elapsed() < Duration::from_secs(20));
}
