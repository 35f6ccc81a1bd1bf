//! CPU-seconds per million observations, from a real broker to Parquet. `cargo bench --bench end_to_end [-- OBSERVATIONS]`.
//!
//! Starts Apache Kafka (or uses `WINDKESSEL_TEST_KAFKA=host:port`), fills an lz4 topic once with the seeded generator, and then, in turn:
//! a bare drain of the topic (this crate's own source, every payload copied once, nothing else) and `windkessel run` of the reference flow
//! with Parquet alone as its sink, on one and on two workers. Figures are those of whole processes as the system accounts for them; the
//! broker's and the generator's CPU time are not in them, but they share the cores. The ratio to the drain is what to compare between machines.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark's figures are its output, and it may be blunt"
)]

#[path = "../tests/services/servers.rs"]
#[allow(dead_code, unreachable_pub, clippy::print_stderr, reason = "shared with the tests, which use more of it")]
mod servers;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use windkessel::config::{SourceSpec, Start};
use windkessel::identified::{Arena, Records};
use windkessel::runtime::stop::Stop;
use windkessel::runtime::summary::Usage;
use windkessel::source::{self, Opening, Polled, Share};

const TOPIC: &str = "bench-bp-obs";
const PATIENTS: u64 = 20_000;
const OBSERVATIONS: u64 = 2_000_000;
const KEY: &str = "0303030303030303030303030303030303030303030303030303030303030303";
/// What one poll of the engine's driver asks for.
const BATCH_BYTES: usize = 1 << 20;

/// One measured run.
struct Figure {
    name: String,
    cpu: Duration,
    wall: Duration,
    peak_bytes: u64,
}

fn main() {
    let observations = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(OBSERVATIONS);
    let started;
    let brokers = match std::env::var("WINDKESSEL_TEST_KAFKA") {
        Ok(brokers) => brokers,
        Err(_) => {
            let Some(server) = servers::kafka() else { return };
            started = server;
            started.address.clone()
        }
    };
    let folder = std::env::temp_dir().join(format!("windkessel-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("key"), KEY).unwrap();
    let topic = format!("{TOPIC}-{}", std::process::id());
    generate(&brokers, &topic, observations);
    // The first drain brings the topic into the page cache.
    drain(&brokers, &topic);
    let figures = [drain(&brokers, &topic), run(&brokers, &topic, 1, &folder), run(&brokers, &topic, 2, &folder)];
    show(&figures, observations);
    let _ = std::fs::remove_dir_all(&folder);
}

fn windkessel() -> Command {
    Command::new(env!("CARGO_BIN_EXE_windkessel"))
}

fn generate(brokers: &str, topic: &str, observations: u64) {
    let numbers =
        ["--partitions", "8", "--patients", &PATIENTS.to_string(), "--observations", &observations.to_string()];
    let status = windkessel()
        .args(["generate", "--brokers", brokers, "--topic", topic, "--compression", "lz4"])
        .args(numbers)
        .status();
    assert!(status.unwrap().success(), "generate failed");
}

/// Reads the topic to its end and does nothing with it.
fn drain(brokers: &str, topic: &str) -> Figure {
    let spec = SourceSpec {
        brokers: brokers.into(),
        topics: vec![topic.into()],
        start: Start::Earliest,
        ..SourceSpec::default()
    };
    let key = |_: &str| [0; 6];
    let topics = source::topics(&spec, &key).unwrap();
    let opening = Opening {
        share: Share { worker: 0, workers: 1 },
        until_end: true,
        topics: &topics,
        path_key: &key,
        resume: &BTreeMap::new(),
        stop: &Stop::default(),
        progress: None,
    };
    let (began, before) = (Instant::now(), Usage::of_process().cpu.unwrap_or_default());
    let mut from = source::open(&spec, &opening).unwrap();
    loop {
        let mut records = Records { arena: Arena::recycled(), ..Records::default() };
        match from.poll(BATCH_BYTES, &mut records).unwrap() {
            Polled::Some | Polled::First => {}
            Polled::Nothing => std::thread::sleep(Duration::from_millis(2)),
            Polled::End => break,
        }
    }
    let usage = Usage::of_process();
    let cpu = usage.cpu.unwrap_or_default() - before;
    Figure { name: "bare drain".into(), cpu, wall: began.elapsed(), peak_bytes: usage.memory_peak_bytes.unwrap_or(0) }
}

/// Runs the reference flow with Parquet alone.
fn run(brokers: &str, topic: &str, workers: u32, folder: &Path) -> Figure {
    let flow = folder.join("flow.toml");
    let text = format!(
        "name = \"bench\"\n[source]\nbrokers = \"{brokers}\"\ntopics = [\"{topic}\"]\nstart = \"earliest\"\ngroup = \"bench-{workers}\"\n\
         [pseudonymise]\nkey_file = {key:?}\n[sink.parquet]\npath = {out:?}\n[state]\npath = {state:?}\n[http]\nlisten = \"\"\n",
        key = folder.join("key"),
        out = folder.join("out"),
        state = folder.join("state"),
    );
    std::fs::write(&flow, text).unwrap();
    let began = Instant::now();
    let output =
        windkessel().args(["run", "--until", "end", "--workers", &workers.to_string()]).arg(&flow).output().unwrap();
    let wall = began.elapsed();
    let summary = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{summary}{}", String::from_utf8_lossy(&output.stderr));
    assert!(summary.contains("as many as were read"), "{summary}");
    // The next run is to read everything again.
    std::fs::remove_dir_all(folder.join("out")).unwrap();
    std::fs::remove_dir_all(folder.join("state")).unwrap();
    let field = |name: &str| {
        summary
            .lines()
            .find(|line| line.contains(name))
            .and_then(|line| line.split('┆').nth(1))
            .unwrap()
            .trim()
            .trim_end_matches(" │")
            .to_owned()
    };
    let number = |text: &str| text.split_whitespace().next().unwrap().replace(',', "").parse::<f64>().unwrap();
    let cpu = Duration::from_secs_f64(number(&field("CPU time  ")));
    let peak_bytes = (number(&field("memory, peak")) * 1024.0 * 1024.0) as u64;
    Figure { name: format!("windkessel, {workers} worker(s)"), cpu, wall, peak_bytes }
}

fn show(figures: &[Figure], observations: u64) {
    let millions = observations as f64 / 1e6;
    let drain = figures[0].cpu.as_secs_f64();
    println!("{observations} observations, {PATIENTS} patients, 8 partitions, lz4");
    println!("{:<24} {:>14} {:>12} {:>12} {:>10}", "", "CPU-s/million", "x the drain", "records/s", "peak MiB");
    for figure in figures {
        let cpu = figure.cpu.as_secs_f64();
        println!(
            "{:<24} {:>14.2} {:>12.2} {:>12.0} {:>10}",
            figure.name,
            cpu / millions,
            cpu / drain,
            observations as f64 / figure.wall.as_secs_f64(),
            figure.peak_bytes >> 20
        );
    }
}
