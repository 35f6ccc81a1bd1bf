//! From the broker to a searchable document and to a durable row, under load; and memory while Elasticsearch is dead.
//!
//! `cargo bench --bench latency [-- SECONDS]`: what share of what can be done at full rate is offered for so long (60), and how long records take.
//! `cargo bench --bench latency -- dead [MINUTES]`: resident memory, each second, of a run whose Elasticsearch was killed (10).
//!
//! Starts Apache Kafka and Elasticsearch. The flow is the reference flow with Elasticsearch and Parquet, one worker, a checkpoint every 10 s.
//!
//! **Open loop.** A record is sent when its time has come, whatever became of those before, and carries that time as its Kafka timestamp, which every row shows as
//! `received_at`. A latency is the time at which something was *seen* less that time: a stall shows in all records that it has kept waiting, also those
//! that were sent late because of it.
//!
//! **Seen**: a document, when a search that asks for it has answered with it (one search after another, with [`SEARCH_PAUSE`] between them: that is in the figure);
//! each [`SAMPLE`]th offset of each partition. A row, when its Parquet file bears its name, which is after it was synced and its checkpoint was recorded: all rows.
//! Broker, Elasticsearch, generator and searches share the cores with the run.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark's figures are its output, and it may be blunt"
)]
#![expect(clippy::disallowed_methods, reason = "it compares with the clock that it has sent by")]

#[path = "../tests/services/servers.rs"]
#[allow(dead_code, unreachable_pub, clippy::print_stderr, reason = "shared with the tests, which use more of it")]
mod servers;
#[path = "support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use serde_json::{Value, json};
use windkessel::source::generator::profile::Profile;
use windkessel::source::generator::{Content, Generator};
use windkessel::time::{EventSpan, EventTime};

use support::{Flow, Place, generate, listen, metric, run_to_end, wait_until, windkessel};

const PATIENTS: u32 = 20_000;
const PARTITIONS: i32 = 8;
/// What the full rate is measured with.
const OBSERVATIONS: u64 = 300_000;
const SECONDS: u64 = 60;
/// Before anything is measured: caches, the first segments, the first checkpoint.
const WARM_SECONDS: u64 = 15;
const LOADS_PERCENT: [u64; 3] = [25, 50, 75];
const SAMPLE: i64 = 20;
/// Offsets of a partition that a search asks for.
const ASKED_MAX: i64 = 250;
const SEARCH_PAUSE: Duration = Duration::from_millis(10);
/// What was offered is seen so long after the last record, or is missing.
const SEEN_MAX: Duration = Duration::from_secs(60);
const DEAD_MINUTES: u64 = 10;
/// More than is read while Elasticsearch lives, and may be under way when it does not.
const BACKLOG: u64 = 1_000_000;
/// After Elasticsearch has died, until everything that may be under way is.
const FILL_MINUTES: u64 = 2;

fn main() {
    let (Some(kafka), Some(mut elasticsearch)) = (servers::kafka(), servers::elasticsearch()) else { return };
    let bench = Bench { brokers: kafka.address.clone(), url: elasticsearch.address.clone(), place: Place::new() };
    let number = std::env::args().skip(1).find_map(|argument| argument.parse::<u64>().ok());
    if std::env::args().any(|argument| argument == "dead") {
        bench.dead(&mut elasticsearch, number.unwrap_or(DEAD_MINUTES));
    } else {
        bench.latency(number.unwrap_or(SECONDS));
    }
}

struct Bench {
    brokers: String,
    url: String,
    place: Place,
}

impl Bench {
    fn flow(&self, name: &str, listen: &str) -> PathBuf {
        let more = format!("[sink.elasticsearch]\nurl = \"{}\"\nindex = \"{name}\"\n", self.url);
        let flow =
            Flow { brokers: &self.brokers, topic: name, workers: 1, checkpoint_seconds: 10, listen, more: &more };
        flow.write(&self.place.folder)
    }

    fn start(&self, name: &str) -> Running {
        self.start_with(name, &[])
    }

    fn start_with(&self, name: &str, environment: &[(&str, &str)]) -> Running {
        let flow = self.flow(name, listen());
        Running(
            windkessel()
                .arg("run")
                .arg("--quiet")
                .arg(flow)
                .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or("error".into()))
                .envs(environment.iter().copied())
                .spawn()
                .unwrap(),
        )
    }

    fn latency(&self, seconds: u64) {
        let full = self.full_rate();
        println!("full rate, Elasticsearch and Parquet, 1 worker: {full:.0} records/s");
        println!("{:<34} {:>8} {:>9} {:>9} {:>9} {:>9}", "", "count", "p50 ms", "p99 ms", "p99.9 ms", "max ms");
        for percent in LOADS_PERCENT {
            let rate = (full * percent as f64 / 100.0) as u64;
            let measured = self.offer(&format!("bench-load-{percent}"), rate, seconds);
            show(&format!("{percent:>2} %, {rate}/s: searchable"), measured.searchable);
            show(&format!("{percent:>2} %, {rate}/s: durable row"), measured.durable);
        }
    }

    /// Records a second if they are all there already.
    fn full_rate(&self) -> f64 {
        let name = "bench-full";
        generate(&self.brokers, name, u64::from(PATIENTS), OBSERVATIONS);
        let ended = run_to_end(&self.flow(name, ""), 1);
        self.place.clear();
        OBSERVATIONS as f64 / ended.wall.as_secs_f64()
    }

    /// Offers so many records a second, and says when they were seen.
    fn offer(&self, name: &str, rate: u64, seconds: u64) -> Measured {
        // Makes the topic.
        generate(&self.brokers, name, u64::from(PATIENTS), 1);
        let mut running = self.start(name);
        wait_until(|| metric("windkessel_inputs_total").is_some_and(|count| count > 0.0));
        let over = AtomicBool::new(false);
        let begin = now_us() + 1_000_000;
        let from = begin + WARM_SECONDS as i64 * 1_000_000;
        let out = self.place.folder.join("out/readings");
        let measured = std::thread::scope(|scope| {
            let searching = scope.spawn(|| self.search(name, from, &over));
            let watching = scope.spawn(|| watch(&out, from, &over));
            let sent = send(&self.brokers, name, rate, begin, (WARM_SECONDS + seconds) * rate);
            let ended = Instant::now();
            // A checkpoint later everything is durable.
            wait_until(|| {
                ended.elapsed() > SEEN_MAX || metric("windkessel_source_lag_records").is_some_and(|lag| lag == 0.0)
            });
            std::thread::sleep(Duration::from_secs(15));
            over.store(true, Ordering::SeqCst);
            let measured = Measured { searchable: searching.join().unwrap(), durable: watching.join().unwrap() };
            assert_eq!(sent, (WARM_SECONDS + seconds) * rate);
            let (seen, expected) = (measured.durable.len() as u64, seconds * rate);
            assert!(seen * 100 >= expected * 99, "{seen} of {expected} rows were seen");
            measured
        });
        running.stop();
        self.place.clear();
        measured
    }

    /// Asks for every [`SAMPLE`]th record of each partition until it is there.
    fn search(&self, name: &str, from: i64, over: &AtomicBool) -> Vec<i64> {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut next: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
        let mut furthest = vec![0; PARTITIONS as usize];
        let mut latencies = Vec::new();
        for (partition, furthest) in (0..).zip(&mut furthest) {
            *furthest = SAMPLE * ASKED_MAX;
            next.insert(partition, (1..=ASKED_MAX).map(|number| number * SAMPLE).collect());
        }
        while !over.load(Ordering::SeqCst) {
            let any = next.iter().map(|(partition, offsets)| {
                json!({"bool": {"filter": [{"term": {"partition": partition}}, {"terms": {"offset": offsets}}]}})
            });
            let query = json!({
                "size": 10_000, "track_total_hits": false, "_source": ["partition", "offset", "received_at"],
                "query": {"bool": {"should": any.collect::<Vec<Value>>(), "minimum_should_match": 1}},
            });
            let address = format!("{}/{name}*/_search?ignore_unavailable=true", self.url);
            let answer = agent.post(&address).header("content-type", "application/json").send(query.to_string());
            let mut answer = answer.unwrap();
            let seen = now_us();
            let answer: Value = answer.body_mut().read_json().unwrap();
            for hit in answer["hits"]["hits"].as_array().into_iter().flatten() {
                let source = &hit["_source"];
                let (partition, offset) = (source["partition"].as_i64().unwrap(), source["offset"].as_i64().unwrap());
                if next.get_mut(&partition).unwrap().remove(&offset) {
                    let furthest = &mut furthest[partition as usize];
                    *furthest += SAMPLE;
                    next.get_mut(&partition).unwrap().insert(*furthest);
                    let sent = micros(source["received_at"].as_str().unwrap());
                    latencies.extend((sent >= from).then_some(seen - sent));
                }
            }
            std::thread::sleep(SEARCH_PAUSE);
        }
        latencies
    }

    /// Kills Elasticsearch under load, and watches the run's memory.
    fn dead(&self, elasticsearch: &mut servers::Server, minutes: u64) {
        let name = "bench-dead";
        generate(&self.brokers, name, u64::from(PATIENTS), BACKLOG);
        // Without huge pages: the kernel makes them of ours while a run waits (khugepaged), and fills the gaps, which looks like growth.
        let running = self.start_with(name, &[("MIMALLOC_ALLOW_THP", "0")]);
        wait_until(|| metric("windkessel_settled_epoch").is_some_and(|epoch| epoch > 0.0));
        std::thread::sleep(Duration::from_secs(5));
        elasticsearch.kill();
        let read = || metric("windkessel_inputs_total").unwrap_or(0.0);
        let (began, mut samples) = (Instant::now(), Vec::new());
        while began.elapsed() < Duration::from_secs(minutes * 60) {
            samples.push((began.elapsed().as_secs_f64(), resident_bytes(running.0.id())));
            std::thread::sleep(Duration::from_secs(1));
        }
        let waits = metric("windkessel_sink_waiting");
        let others = ["inflight_epochs", "epoch_log_waiting", "memory_pressure"]
            .map(|name| format!("{name} {:?}", metric(&format!("windkessel_{name}"))));
        assert_eq!(waits, Some(1.0), "the sink waits; {} records were read, {}", read(), others.join(", "));
        assert!(read() < BACKLOG as f64, "there is more to read");
        let skipped = (FILL_MINUTES * 60).min(minutes * 30) as f64;
        samples.retain(|(at, _)| *at >= skipped);
        let bytes = || samples.iter().map(|(_, bytes)| *bytes);
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        let minutely = samples.iter().step_by(60).map(|(_, bytes)| format!("{:.0}", mib(*bytes as f64)));
        println!("resident MiB, a figure a minute: {}", minutely.collect::<Vec<_>>().join(" "));
        println!(
            "Elasticsearch dead for {minutes} min, {:.0} records read and waiting; resident, the last {:.0} s: min {:.1} MiB, max {:.1} MiB, slope {:+.3} MiB/min \
             (bound said at the start: {:.0} MiB)",
            read(),
            minutes as f64 * 60.0 - skipped,
            mib(bytes().min().unwrap() as f64),
            mib(bytes().max().unwrap() as f64),
            mib(slope(&samples) * 60.0),
            mib(metric("windkessel_memory_bound_bytes").unwrap_or(0.0)),
        );
    }
}

/// What was seen, as microseconds since it was to be sent.
struct Measured {
    searchable: Vec<i64>,
    durable: Vec<i64>,
}

/// A run; killed when it goes.
struct Running(Child);

impl Running {
    fn stop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Sends `count` observations from `begin` on, each when its time has come; how many.
fn send(brokers: &str, topic: &str, rate: u64, begin: i64, count: u64) -> u64 {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("compression.type", "lz4")
        .set("linger.ms", "5")
        .set("queue.buffering.max.messages", "1000000")
        .create()
        .unwrap();
    let profile = Profile {
        start: EventTime::from_micros(begin),
        every: EventSpan::from_micros((u64::from(PATIENTS) * 1_000_000 / rate) as i64),
        ..Profile::clean()
    };
    let mut generator = Generator::new(&profile, 1, PATIENTS, count);
    let (mut payload, mut sent) = (Vec::new(), 0);
    while let Some(head) = generator.next_into(&mut payload) {
        // Who a patient is comes right before the first reading, and is not counted.
        let due = begin + (sent * 1_000_000 / rate) as i64;
        let early = due - now_us();
        if early > 1_000 {
            std::thread::sleep(Duration::from_micros(early as u64));
        }
        loop {
            let record = BaseRecord::to(topic).key(&head.key[..]).payload(&payload).timestamp(due / 1_000);
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((why, _)) => panic!("{why}"),
            }
        }
        sent += u64::from(head.content == Content::Observation);
    }
    producer.flush(Duration::from_secs(30)).unwrap();
    sent
}

/// Looks for files that got their names, and how old their rows were then.
fn watch(folder: &Path, from: i64, over: &AtomicBool) -> Vec<i64> {
    let (mut known, mut latencies) = (BTreeSet::new(), Vec::new());
    let mut found: Vec<(PathBuf, i64)> = Vec::new();
    while !over.load(Ordering::SeqCst) {
        let seen = now_us();
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(['.', '_']));
            if !hidden && path.extension().is_some_and(|ending| ending == "parquet") && known.insert(path.clone()) {
                found.push((path, seen));
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // Read only now: reading would delay looking.
    for (path, seen) in found {
        let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap();
        for batch in reader.build().unwrap() {
            latencies.extend(sent_at(&batch.unwrap()).into_iter().filter(|at| *at >= from).map(|at| seen - at));
        }
    }
    latencies
}

fn sent_at(batch: &RecordBatch) -> Vec<i64> {
    let column = batch.column_by_name("received_at").unwrap();
    column.as_primitive::<TimestampMicrosecondType>().iter().flatten().collect()
}

fn show(name: &str, mut latencies: Vec<i64>) {
    latencies.sort_unstable();
    let at = |share: f64| {
        let place = ((latencies.len() as f64 * share).ceil() as usize).clamp(1, latencies.len()) - 1;
        latencies[place] as f64 / 1_000.0
    };
    println!(
        "{name:<34} {:>8} {:>9.0} {:>9.0} {:>9.0} {:>9.0}",
        latencies.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}

fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64
}

fn micros(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_microsecond()
}

fn resident_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Bytes a second, by least squares.
fn slope(samples: &[(f64, u64)]) -> f64 {
    let count = samples.len() as f64;
    let mean = |of: &dyn Fn(&(f64, u64)) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (at, bytes) = (mean(&|sample| sample.0), mean(&|sample| sample.1 as f64));
    let across: f64 = samples.iter().map(|(x, y)| (x - at) * (*y as f64 - bytes)).sum();
    let along: f64 = samples.iter().map(|(x, _)| (x - at).powi(2)).sum();
    across / along
}
