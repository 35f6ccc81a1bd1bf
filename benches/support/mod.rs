//! What the benches of the whole program share: a flow in a folder, the program, its metrics from outside.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Where a run that is watched from outside listens: a port that was free when this process asked first, so that no other bench's run is taken for ours.
pub(crate) fn listen() -> &'static str {
    static ADDRESS: OnceLock<String> = OnceLock::new();
    ADDRESS.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    })
}

/// The pseudonym key of every bench.
pub(crate) const KEY: &str = "0303030303030303030303030303030303030303030303030303030303030303";

/// A folder for one bench, removed with it.
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Place {
        let folder = std::env::temp_dir().join(format!("windkessel-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("key"), KEY).unwrap();
        Place { folder }
    }

    /// What a run has written and kept: the next one begins anew.
    pub(crate) fn clear(&self) {
        for name in ["out", "state"] {
            let _ = std::fs::remove_dir_all(self.folder.join(name));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The reference flow with Parquet as its sink, and what else `more` says.
pub(crate) struct Flow<'a> {
    pub(crate) brokers: &'a str,
    pub(crate) topic: &'a str,
    pub(crate) workers: u32,
    pub(crate) checkpoint_seconds: u32,
    /// Empty: nowhere.
    pub(crate) listen: &'a str,
    /// Sections of further sinks.
    pub(crate) more: &'a str,
}

impl Flow<'_> {
    pub(crate) fn write(&self, folder: &Path) -> PathBuf {
        let Flow { brokers, topic, workers, checkpoint_seconds, listen, more } = self;
        let flow = folder.join("flow.toml");
        let text = format!(
            "name = \"bench\"\n[source]\nbrokers = \"{brokers}\"\ntopics = [\"{topic}\"]\nstart = \"earliest\"\ngroup = \"bench-{workers}\"\n\
             [pseudonymise]\nkey_file = {key:?}\n[sink.parquet]\npath = {out:?}\n\
             [state]\npath = {state:?}\ncheckpoint_seconds = {checkpoint_seconds}\n[http]\nlisten = \"{listen}\"\n{more}",
            key = folder.join("key"),
            out = folder.join("out"),
            state = folder.join("state"),
        );
        std::fs::write(&flow, text).unwrap();
        flow
    }
}

pub(crate) fn windkessel() -> Command {
    Command::new(env!("CARGO_BIN_EXE_windkessel"))
}

/// Fills a topic with the seeded generator, lz4.
pub(crate) fn generate(brokers: &str, topic: &str, patients: u64, observations: u64) {
    let numbers =
        ["--partitions", "8", "--patients", &patients.to_string(), "--observations", &observations.to_string()];
    let status = windkessel()
        .args(["generate", "--brokers", brokers, "--topic", topic, "--compression", "lz4"])
        .args(numbers)
        .env("RUST_LOG", "error")
        .status();
    assert!(status.unwrap().success(), "generate failed");
}

/// One run to the end of its topic.
#[allow(dead_code, reason = "not every bench shows all of it")]
pub(crate) struct Ended {
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
    pub(crate) peak_bytes: u64,
}

/// Runs a flow to the end of what is there; the figures are those of the process.
pub(crate) fn run_to_end(flow: &Path, workers: u32) -> Ended {
    let began = Instant::now();
    let output =
        windkessel().args(["run", "--until", "end", "--workers", &workers.to_string()]).arg(flow).output().unwrap();
    let wall = began.elapsed();
    let summary = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{summary}{}", String::from_utf8_lossy(&output.stderr));
    assert!(summary.contains("as many as were read"), "{summary}");
    let field = |name: &str| {
        let line = summary.lines().find(|line| line.contains(name));
        line.and_then(|line| line.split('┆').nth(1)).unwrap().trim().trim_end_matches(" │").to_owned()
    };
    let number = |text: &str| text.split_whitespace().next().unwrap().replace(',', "").parse::<f64>().unwrap();
    let cpu = Duration::from_secs_f64(number(&field("CPU time  ")));
    let peak_bytes = (number(&field("memory, peak")) * 1024.0 * 1024.0) as u64;
    Ended { cpu, wall, peak_bytes }
}

pub(crate) fn wait_until(so: impl Fn() -> bool) {
    while !so() {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The sum of a metric's time series at [`listen`]; `None` while nobody answers.
pub(crate) fn metric(name: &str) -> Option<f64> {
    let mut stream = TcpStream::connect(listen()).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let of = |line: &str| -> Option<f64> {
        let rest = line.strip_prefix(name)?;
        let labelled = rest.starts_with('{') || rest.starts_with(' ');
        labelled.then(|| rest.rsplit(' ').next()?.parse().ok()).flatten()
    };
    let values: Vec<f64> = text.lines().filter_map(of).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}
