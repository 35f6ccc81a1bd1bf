//! CPU-seconds per million observations, from a real broker to Parquet: `cargo bench --bench end_to_end [-- OBSERVATIONS]`.
//! What checkpoints cost, and how long a start after `kill -9` takes with a million patients: `cargo bench --bench end_to_end -- recovery`.
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

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use windkessel::config::{SourceSpec, Start};
use windkessel::identified::{Arena, Records};
use windkessel::runtime::stop::Stop;
use windkessel::runtime::summary::Usage;
use windkessel::source::{self, Opening, Polled, Share};

use support::{Flow, Place, generate, listen, metric, run_to_end, wait_until, windkessel};

const TOPIC: &str = "bench-bp-obs";
const PATIENTS: u64 = 20_000;
const OBSERVATIONS: u64 = 2_000_000;
/// For the start after a crash: state of a million patients.
const RECOVERY_PATIENTS: u64 = 1_000_000;
const RECOVERY_OBSERVATIONS: u64 = 3_000_000;
/// Single runs differ by up to a tenth.
const CHECKPOINT_RUNS: usize = 5;
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
    let place = Place::new();
    let topic = format!("{TOPIC}-{}", std::process::id());
    if std::env::args().any(|argument| argument == "recovery") {
        recovery(&brokers, &topic, &place);
    } else {
        generate(&brokers, &topic, PATIENTS, observations);
        // The first drain brings the topic into the page cache.
        drain(&brokers, &topic);
        let run = |workers| run(&brokers, &topic, workers, 10, &place);
        show(&[drain(&brokers, &topic), run(1), run(2)], observations);
    }
}

/// What checkpoints cost, as ratios of runs in turn; and a start after `kill -9`.
fn recovery(brokers: &str, topic: &str, place: &Place) {
    generate(brokers, topic, RECOVERY_PATIENTS, RECOVERY_OBSERVATIONS);
    drain(brokers, topic);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..CHECKPOINT_RUNS {
        with.push(run(brokers, topic, 1, 10, place));
        without.push(run(brokers, topic, 1, 3_600, place));
    }
    let median = |of: &[Figure], seconds: fn(&Figure) -> Duration| {
        let mut of: Vec<Duration> = of.iter().map(seconds).collect();
        of.sort();
        of[of.len() / 2].as_secs_f64()
    };
    println!(
        "{RECOVERY_OBSERVATIONS} observations of {RECOVERY_PATIENTS} patients, 1 worker, medians of {CHECKPOINT_RUNS} in turn"
    );
    println!("                         a checkpoint every 10 s   one at the end   ratio");
    let show = |name: &str, seconds: fn(&Figure) -> Duration| {
        let (with, without) = (median(&with, seconds), median(&without, seconds));
        println!("{name:<25}{with:>23.2}{without:>17.2}{:>8.3}", with / without);
    };
    show("seconds", |figure| figure.wall);
    show("CPU-seconds", |figure| figure.cpu);
    start_after_kill(brokers, topic, &place.folder);
}

/// Kills a run that has read everything and recorded it, and times the next one up to its first settled epoch.
fn start_after_kill(brokers: &str, topic: &str, folder: &Path) {
    let flow = Flow { brokers, topic, workers: 1, checkpoint_seconds: 10, listen: listen(), more: "" }.write(folder);
    let mut first = windkessel().arg("run").arg("--quiet").arg(&flow).spawn().unwrap();
    wait_until(|| {
        metric("windkessel_source_lag_records").is_some_and(|lag| lag == 0.0) && counted(RECOVERY_OBSERVATIONS)
    });
    let recorded = metric("windkessel_checkpoints_total").unwrap();
    // What comes now is claimed, and partly behind the last checkpoint.
    generate(brokers, topic, RECOVERY_PATIENTS / 100, RECOVERY_OBSERVATIONS / 20);
    wait_until(|| metric("windkessel_checkpoints_total").is_some_and(|count| count > recorded));
    first.kill().unwrap();
    first.wait().unwrap();
    let began = Instant::now();
    let mut second = windkessel().arg("run").arg("--quiet").arg(&flow).spawn().unwrap();
    wait_until(|| metric("windkessel_settled_epoch").is_some_and(|epoch| epoch > 0.0));
    let took = began.elapsed();
    second.kill().unwrap();
    second.wait().unwrap();
    let state: u64 = std::fs::read_dir(folder.join("state/state"))
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    println!(
        "after kill -9, from start to the first settled epoch: {:.2} s ({} MiB of state files)",
        took.as_secs_f64(),
        state >> 20
    );
}

fn counted(observations: u64) -> bool {
    metric("windkessel_inputs_total").is_some_and(|count| count >= observations as f64)
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

/// Runs the reference flow with Parquet alone to the end of the topic.
fn run(brokers: &str, topic: &str, workers: u32, checkpoint_seconds: u32, place: &Place) -> Figure {
    let flow = Flow { brokers, topic, workers, checkpoint_seconds, listen: "", more: "" }.write(&place.folder);
    let ended = run_to_end(&flow, workers);
    // The next run is to read everything again.
    place.clear();
    Figure {
        name: format!("windkessel, {workers} worker(s)"),
        cpu: ended.cpu,
        wall: ended.wall,
        peak_bytes: ended.peak_bytes,
    }
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
