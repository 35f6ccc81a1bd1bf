//! The server over real sockets: every path, the limits, the headers, and that it ends.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::runtime::clock::EpochClock;
use crate::runtime::live::{Beginning, LiveSink, sample};
use crate::sink::Deliver as _;

/// Reading from a socket gives up after this long, so that a broken server fails a test instead of hanging it.
const PATIENCE: Duration = Duration::from_secs(20);

struct Setup {
    server: Option<ServerHandle>,
    addr: SocketAddr,
    metrics: Metrics,
    live: Arc<Live>,
    health: Arc<Health>,
    stop: Stop,
    clock: Arc<AtomicU64>,
}

impl Setup {
    fn new() -> Setup {
        let (clock, read) = health::tests::manual();
        let (metrics, stop) = (Metrics::new(), Stop::default());
        let (live, health) = (Live::new("test", metrics.clone()), Health::with_clock(1, read));
        let server = serve("127.0.0.1:0", metrics.clone(), live.clone(), health.clone(), stop.clone()).unwrap();
        let addr = server.addr;
        Setup { server: Some(server), addr, metrics, live, health, stop, clock }
    }

    fn connect(&self, head: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        BufReader::new(stream)
    }

    fn ask(&self, method: &str, path: &str, host: &str) -> Answer {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let mut text = String::new();
        self.connect(&head).read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "localhost")
    }

    fn follow(&self) -> BufReader<TcpStream> {
        self.connect("GET /api/v1/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.server.take().into_iter().for_each(ServerHandle::shutdown);
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// The data of the next event of a stream.
fn event(stream: &mut BufReader<TcpStream>) -> serde_json::Value {
    loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the stream ended");
        if let Some(data) = line.strip_prefix("data: ") {
            return serde_json::from_str(data).unwrap();
        }
    }
}

#[test]
fn metrics_are_prometheus_text() {
    let setup = Setup::new();
    setup.metrics.inputs.with_label_values(&["contributed", ""]).inc_by(3);
    let answer = setup.get("/metrics");
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{}", answer.head);
    assert!(answer.body.contains("windkessel_inputs_total{outcome=\"contributed\",reason=\"\"} 3\n"));
    #[cfg(target_os = "linux")]
    assert!(answer.body.contains("process_resident_memory_bytes"));
}

#[test]
fn a_patient_is_told_by_pseudonym_and_by_nothing_else() {
    use crate::vocabulary::{Assessed, Assessment, FEATURE_NAMES, Pseudonym, Reading};
    let setup = Setup::new();
    let mut batch = Assessed::default();
    batch.scorable.readings.push(Reading { patient: Pseudonym([0xab; 16]), ..Reading::default() });
    batch.scorable.features.extend([f64::NAN; FEATURE_NAMES.len()]);
    batch.assessments.push(Assessment::default());
    setup.live.see(7, batch.into());
    let ask = || setup.get(&format!("/api/v1/patient/{}", "ab".repeat(16)));
    let early = ask();
    assert_eq!(
        (early.status, &early.json()["epoch"]),
        (404, &serde_json::Value::Null),
        "7 is not claimed: {}",
        early.body
    );
    let clock = EpochClock::starting_above(6, 1, Duration::from_secs(3_600));
    let mut sink = LiveSink::new(setup.live.clone());
    setup.live.begin(Beginning { generation: 2, last_epoch: Some(6), repeats: false }, clock.clone());
    sink.close(7).unwrap();
    let known = ask();
    for answer in [&known, &setup.get("/api/v1/snapshot"), &setup.get(&format!("/api/v1/patient/{}", "cd".repeat(16)))]
    {
        assert_eq!((&answer.json()["generation"], &answer.json()["epoch"]), (&2.into(), &6.into()), "{}", answer.body);
    }
    assert_eq!((known.status, known.json()["readings"].as_array().unwrap().len()), (200, 1));
    assert!(!known.body.contains("NaN") && known.head.contains("cache-control: no-store"), "{}", known.body);
    for (path, status) in [("cd".repeat(16), 404), ("ab".repeat(15), 400), ("p1".into(), 400), ("zz".repeat(16), 400)] {
        let answer = setup.get(&format!("/api/v1/patient/{path}"));
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.json()["error"].is_string() && !answer.body.contains(&path), "{}", answer.body);
    }
}

#[test]
fn promtool_finds_nothing_to_mend() {
    let setup = Setup::new();
    let m = &setup.metrics;
    // With one label value each, so that every metric is in the text.
    m.ingest_to_sink.with_label_values(&["parquet"]).observe(0.2);
    m.source_lag.with_label_values(&["bp-obs", "0"]).set(2);
    m.source_watermark.with_label_values(&["bp-obs", "0"]).set(1.8e9);
    m.stage_busy.with_label_values(&["decode"]).inc_by(0.5);
    m.stage_records.with_label_values(&["patient"]).inc();
    m.drift_psi.with_label_values(&["systolic", "all"]).set(0.1);
    m.sink_inflight_bytes.with_label_values(&["parquet"]).set(1);
    let text = setup.get("/metrics").body;
    let tool = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut tool) = tool else {
        println!("skipped: promtool is not installed");
        return;
    };
    tool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = tool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("windkessel_"), "{said}");
}

#[test]
fn health_flips_when_the_heartbeat_stops_and_back() {
    let setup = Setup::new();
    setup.health.tick(0);
    assert_eq!(setup.get("/health").status, 200);
    setup.clock.store(6_000, Ordering::Relaxed);
    let answer = setup.get("/health");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["problems"][0]["reason"], "worker 0 has not stepped for 6 s");
    setup.health.tick(0);
    let answer = setup.get("/health");
    assert_eq!((answer.status, answer.json()["status"].as_str()), (200, Some("alive")));
}

#[test]
fn ready_says_what_is_missing() {
    let setup = Setup::new();
    let checks = |answer: &Answer| {
        let problems = answer.json()["problems"].as_array().unwrap().clone();
        problems.iter().map(|p| p["check"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let answer = setup.get("/ready");
    assert_eq!((answer.status, checks(&answer)), (503, vec!["joined".to_owned(), "source".to_owned()]));
    setup.health.joined();
    setup.health.assigned(0);
    assert_eq!(setup.get("/ready").status, 200);
    setup.stop.ask();
    let answer = setup.get("/ready");
    assert_eq!((answer.status, checks(&answer)), (503, vec!["draining".to_owned()]));
    assert_eq!(setup.get("/health").status, 200, "draining is alive");
}

#[test]
fn version_names_the_crates_that_are_locked() {
    let json = Setup::new().get("/version").json();
    assert_eq!(json["name"], "windkessel");
    let lock = include_str!("../../../Cargo.lock");
    for (name, key) in [("timely", "timely"), ("differential-dataflow", "differential_dataflow")] {
        let version = json[key].as_str().unwrap();
        assert!(lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"")), "{name} {version}");
    }
}

#[test]
fn every_answer_carries_the_headers_and_only_get_is_answered() {
    let setup = Setup::new();
    for path in ["/", "/metrics", "/health", "/api/v1/snapshot", "/nothing", "/page.js"] {
        let answer = setup.get(path);
        assert!(answer.head.contains("content-security-policy: default-src 'none'; script-src 'self'"), "{path}");
        assert!(answer.head.contains("x-content-type-options: nosniff"), "{path}");
        assert_eq!(answer.status, if path == "/nothing" { 404 } else { 200 }, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        assert_eq!(setup.ask(method, "/api/v1/snapshot", "localhost").status, 405, "{method}");
    }
    assert_eq!(setup.ask("HEAD", "/", "localhost").status, 200);
    assert_eq!(setup.ask("GET", "/api/v1/snapshot", "example.org").status, 421);
}

#[test]
fn the_page_asks_nothing_of_anybody_else() {
    for asset in &assets::ASSETS {
        // The licence and the namespace of SVG name addresses that nobody loads.
        let text = asset.text.replace("http://www.w3.org/2000/svg", "");
        if asset.path == "/uplot.txt" {
            continue;
        }
        let text = text.strip_prefix("/*! https://github.com/leeoniya/uPlot").unwrap_or(&text);
        for outside in ["http://", "https://", "=\"//", "@import", "url(", "wss://", "ws://", "eval(", "new Function"] {
            assert!(!text.contains(outside), "{} has {outside:?}", asset.path);
        }
    }
    let html = assets::ASSETS[0].text;
    for inline in ["<script>", "<style", "style=", "onclick", "onload"] {
        assert!(!html.contains(inline), "{inline:?} would need a laxer policy");
    }
    for reference in ["src=\"", "href=\""] {
        for part in html.split(reference).skip(1) {
            let target = part.split('"').next().unwrap();
            let known = assets::ASSETS.iter().any(|asset| asset.path == target)
                || ["/metrics", "/api/v1/snapshot", "/health"].contains(&target)
                || target.starts_with('#');
            assert!(known, "{target}");
        }
    }
}

#[test]
fn followers_are_told_at_once_and_then_every_second() {
    let setup = Setup::new();
    let mut sink = LiveSink::new(setup.live.clone());
    sink.deliver(1, &sample::readings(&[sample::Row::new(1, 0, 150.0, 95.0)], true)).unwrap();
    let mut stream = setup.follow();
    let first = event(&mut stream);
    assert_eq!((first["readings"]["count"].as_u64(), first["phase"].as_str()), (Some(1), Some("running")));
    assert_eq!(first["alerts"][0]["reasons"][0], "hypertension_systolic");
    sink.deliver(2, &sample::readings(&[sample::Row::new(2, 0, 110.0, 70.0)], true)).unwrap();
    setup.stop.ask();
    let later = (0..3).map(|_| event(&mut stream)).last().unwrap();
    assert_eq!((later["readings"]["count"].as_u64(), later["phase"].as_str()), (Some(2), Some("draining")));
    assert_eq!(setup.get("/api/v1/snapshot").json()["flow"], "test");
}

#[test]
fn the_thirty_third_follower_is_refused_until_one_leaves() {
    let setup = Setup::new();
    let mut followers: Vec<_> = (0..CLIENTS_MAX).map(|_| setup.follow()).collect();
    followers.iter_mut().for_each(|stream| assert_eq!(event(stream)["flow"], "test"));
    // The first line decides: a stream that was let in would never end.
    let (mut refused, mut status) = (setup.connect("GET /api/v1/live HTTP/1.0\r\n\r\n"), String::new());
    refused.read_line(&mut status).unwrap();
    assert!(status.contains("503"), "{status}");
    let mut rest = String::new();
    refused.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("retry-after: 5") && rest.contains("32 browsers follow"), "{rest}");
    followers.pop();
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        // The server notices with its next write, a second later at most.
        let mut stream = setup.follow();
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        if line.contains("200") {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "the place was not given back");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_port_in_use_is_said_with_a_hint() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let start = |listen: &str| {
        let metrics = Metrics::new();
        let live = Live::new("test", metrics.clone());
        serve(listen, metrics, live, Health::new(1), Stop::default()).map(|server| server.addr)
    };
    let error = start(&listen).unwrap_err();
    assert!(matches!(error, HttpError::InUse { .. }));
    assert!(error.to_string().contains("http.listen"), "{error}");
    for wrong in ["", "9187", "localhost", "127.0.0.1:99999"] {
        let error = start(wrong).unwrap_err();
        assert!(matches!(error, HttpError::Address { .. }), "{wrong}: {error}");
    }
}

#[test]
fn shutting_down_sends_followers_off() {
    let mut setup = Setup::new();
    let mut stream = setup.follow();
    event(&mut stream);
    setup.server.take().unwrap().shutdown();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(TcpStream::connect(setup.addr).is_err());
}

#[test]
fn a_run_that_is_abandoned_ends_its_server() {
    let mut setup = Setup::new();
    setup.stop.ask();
    setup.stop.ask();
    setup.server.take().unwrap().join.join().unwrap();
}

/// For looking at the page: `WINDKESSEL_PAGE=127.0.0.1:9187 cargo test --lib the_page_by_hand`, then open it. Returns at once otherwise.
#[test]
fn the_page_by_hand() {
    let Ok(listen) = std::env::var("WINDKESSEL_PAGE") else { return };
    let metrics = Metrics::new();
    let live = Live::new("blood_pressure", metrics.clone());
    let (health, stop) = (Health::new(1), Stop::default());
    let server = serve(&listen, metrics.clone(), live.clone(), health, stop).unwrap();
    println!("{}", server.url());
    let mut sink = LiveSink::new(live);
    let start = 1_790_000_000_000_000_i64;
    for epoch in 0..4 * 3_600 {
        let at = start + epoch as i64 * 40_000_000;
        let count = 1_500 + (600.0 * (epoch as f64 / 37.0).sin()) as usize;
        let rows = sample::readings(&sample::ward(epoch, count, at, 1_200_000_000), true);
        sink.deliver(epoch, &rows).unwrap();
        if epoch % 8 == 0 {
            sink.deliver(epoch, &drift(epoch)).unwrap();
        }
        count_by_hand(&metrics, epoch, count as u64);
        std::thread::sleep(Duration::from_millis(if epoch < 200 { 5 } else { 250 }));
    }
}

fn drift(epoch: u64) -> crate::sink::Rows {
    let wave = |phase: f64| (0.12 + 0.14 * (epoch as f64 / 60.0 + phase).sin()).max(0.004);
    let features = [
        "systolic",
        "diastolic",
        "mean_arterial",
        "pulse_pressure",
        "systolic_variability",
        "systolic_baseline_deviation",
        "age_years",
    ];
    let mut shifts: Vec<_> = features
        .iter()
        .enumerate()
        .map(|(n, feature)| (*feature, "all", (n != 6).then(|| wave(n as f64 / 2.0))))
        .collect();
    shifts.push(("systolic", "sex=female", Some(wave(1.5))));
    shifts.push(("systolic", "age=65-79", Some(0.31)));
    sample::shifts(&shifts)
}

fn count_by_hand(metrics: &Metrics, epoch: u64, count: u64) {
    let add = |outcome: &str, reason: &str, count| metrics.inputs.with_label_values(&[outcome, reason]).inc_by(count);
    add("contributed", "", count);
    add("ignored", "other_resource_type", count / 9);
    add("duplicate", "same_version", count / 180);
    add("superseded", "newer_version", count / 500);
    add("late", "beyond_lateness", count / 900);
    add("rejected", "unit_missing", count / 300);
    add("rejected", "subject_missing", count / 800);
    add("rejected", "implausible_value", count / 1_200);
    metrics.alarms.with_label_values(&["hypertension_systolic"]).inc_by(count / 150);
    metrics.patients.set(3_999.min(epoch as i64 * 60));
    metrics.inflight_epochs.set(3);
    for partition in ["0", "1", "2", "3"] {
        metrics.source_records.with_label_values(&["bp-obs", partition]).inc_by(count / 4);
        metrics.source_bytes.with_label_values(&["bp-obs", partition]).inc_by(count * 300);
        let lag = (epoch * 37 + partition.len() as u64 * 11) % 900;
        metrics.source_lag.with_label_values(&["bp-obs", partition]).set(lag as i64);
    }
    for sink in ["parquet", "elasticsearch", "ndjson"] {
        metrics.sink_records.with_label_values(&[sink, "readings"]).inc_by(count);
        metrics.sink_waiting.with_label_values(&[sink]).set(i64::from(sink == "elasticsearch" && epoch % 160 > 120));
    }
    metrics.model_info.with_label_values(&["risk-2026-09", "logistic"]).set(1);
}
