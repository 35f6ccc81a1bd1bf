//! How much memory a run may take, said at its start; and what it does when it comes near what it may have.
//!
//! ```text
//! flow ─> Bound (pure) ─> one line of the log, `explain`, memory_bound_bytes
//! cgroup, /proc ─every second─> Machine ─> judge (pure) ─> Pressure ─> sources: at HIGH half of inflight, at CRITICAL nothing is read
//! ```
//!
//! Invariants:
//!
//! 1. A source that is paused goes on closing epochs: what was read is settled, and its memory given back.
//! 2. Pressure decides when something is read, never what comes of it.
//! 3. Page cache does not count: the kernel takes it back before it kills.
//!
//! Limits: the bound is without state, which grows with patients; what a patient takes is said beside it. Without a limit of a cgroup the
//! process's own resident memory is held against all memory of the machine. Other systems than Linux tell nothing: there is no pressure then.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::checkpoint::writer;
use super::live::recent;
use super::metrics::Metrics;
use super::reader::{BATCH_BYTES, HELD_BYTES_MAX};
use super::survive::{BLOCK_BYTES, KEY_GROUPS};
use crate::audit::ledger;
use crate::config::{Flow, InflightSpec, SourceKind};
use crate::patient;
use crate::pseudonymise;
use crate::sink;

/// Tables that may fill a row group of Parquet: `readings`, `windows`, `rejected`, `shifts`. The audit's others have some rows a window.
const FULL_TABLES: usize = 4;

/// Program, threads, buffers of the allocator and of connections: an estimate, not a measurement.
const BASE_BYTES: u64 = 64 << 20;
/// A record under way is there raw, decoded, exchanged and sorted.
const INFLIGHT_COPIES: u64 = 4;
/// What is fetched is there twice while an answer of the broker is taken apart.
const FETCH_COPIES: u64 = 2;
/// A request and the documents that it is made of.
const REQUEST_COPIES: u64 = 2;
/// What the allocator keeps back, per cent.
const ALLOCATOR_PERCENT: u64 = 20;

/// From here on, in per cent of the limit, half as much may be under way.
const HIGH_PERCENT: u64 = 85;
/// From here on nothing is read.
const CRITICAL_PERCENT: u64 = 95;
/// A level is left only this far below where it begins: no flapping.
const RELIEF_PERCENT: u64 = 2;

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The most memory that a flow takes, by what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// What for, and how many bytes. Nothing that takes none.
    parts: Vec<(&'static str, u64)>,
    /// Bytes that a patient at rest takes, and a contribution within `correction.horizon`.
    patient: (u64, u64),
}

impl Bound {
    /// Of a flow on so many workers of one process.
    pub fn of(flow: &Flow, workers: usize) -> Bound {
        let spec = &flow.spec;
        let each = |bytes: usize| bytes as u64 * workers as u64;
        let queue = if spec.source.kind == SourceKind::Kafka { (spec.source.queue_kib as usize) << 10 } else { 0 };
        // One epoch is let through whatever its size, and a poll is not broken off.
        let read = spec.inflight.bytes.max(spec.epoch.bytes) + BATCH_BYTES;
        let (parquet, elasticsearch) = (spec.sink.parquet.as_ref(), spec.sink.elasticsearch.as_ref());
        let all = [
            ("program", BASE_BYTES),
            ("fetched", FETCH_COPIES * each(queue)),
            ("under way", INFLIGHT_COPIES * each(read)),
            ("held back while repeating", each(HELD_BYTES_MAX + BATCH_BYTES)),
            ("pseudonyms", each(pseudonymise::CACHE_BYTES_MAX)),
            ("parquet", parquet.map_or(0, |parquet| each(parquet.row_group_bytes * FULL_TABLES))),
            (
                "ndjson",
                spec.sink.ndjson.as_ref().map_or(0, |ndjson| each(sink::ndjson::BUFFER_BYTES * ndjson.tables.len())),
            ),
            ("elasticsearch", elasticsearch.map_or(0, |spec| REQUEST_COPIES * each(spec.bulk_bytes))),
            (
                "live page",
                if spec.http.listen.is_empty() { 0 } else { (2 * recent::READINGS_MAX * recent::READING_BYTES) as u64 },
            ),
            ("state being saved", writer::WRITER_BYTES_MAX as u64 + each(KEY_GROUPS as usize * BLOCK_BYTES)),
            ("kafka", spec.sink.kafka.as_ref().map_or(0, |kafka| each(sink::kafka::queue_bytes(&kafka.client)))),
        ];
        let mut parts: Vec<(&'static str, u64)> = all.into_iter().filter(|(_, bytes)| *bytes > 0).collect();
        let sum: u64 = parts.iter().map(|(_, bytes)| bytes).sum();
        parts.push(("allocator", sum * ALLOCATOR_PERCENT / 100));
        let ledger = if spec.audit.enabled && spec.audit.patients { ledger::KEPT_BYTES } else { (0, 0) };
        let patient = patient::bytes_at_rest(&spec.patient) + ledger.0;
        Bound { parts, patient: (patient, patient::CONTRIBUTION_BYTES + ledger.1) }
    }

    /// Bytes, without state.
    pub fn total(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "at most {} MiB (", mib(self.total()))?;
        for (at, (what, bytes)) in self.parts.iter().enumerate() {
            write!(out, "{}{what} {}", if at == 0 { "" } else { ", " }, mib(*bytes))?;
        }
        let (patient, contribution) = self.patient;
        write!(out, ") + state, {patient} bytes a patient and {contribution} a reading within correction.horizon")
    }
}

/// Rounded up: a bound that is said must hold.
fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// Says the bound, and what it is held against.
pub fn announce(bound: &Bound, limit: Option<u64>, metrics: &Metrics) {
    metrics.memory_bound.set(i64::try_from(bound.total()).unwrap_or(i64::MAX));
    match limit {
        Some(limit) if bound.total() > limit => tracing::warn!(
            target: "runtime",
            "memory: {bound}; that is more than the {} MiB that this process may have: sources will pause now and then; set inflight.bytes or workers lower",
            mib(limit)
        ),
        Some(limit) => tracing::info!(target: "runtime", "memory: {bound}; this process may have {} MiB", mib(limit)),
        None => tracing::info!(target: "runtime", "memory: {bound}"),
    }
}

/// How near the limit memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Far.
    Calm = 0,
    /// Half of `inflight` may be under way.
    High = 1,
    /// Nothing is read.
    Critical = 2,
}

/// The level, shared by all sources of a process.
#[derive(Clone, Debug, Default)]
pub struct Pressure(Arc<AtomicU8>);

impl Pressure {
    /// As it is now.
    pub fn level(&self) -> Level {
        match self.0.load(Ordering::Relaxed) {
            0 => Level::Calm,
            1 => Level::High,
            _ => Level::Critical,
        }
    }

    /// Sets it.
    pub fn set(&self, level: Level) {
        self.0.store(level as u8, Ordering::Relaxed);
    }

    /// How much may be under way now: epochs, bytes.
    pub fn inflight(&self, spec: &InflightSpec) -> (u64, usize) {
        match self.level() {
            Level::Calm => (spec.epochs, spec.bytes),
            Level::High | Level::Critical => ((spec.epochs / 2).max(1), spec.bytes / 2),
        }
    }
}

/// Memory that is used, and that may be; bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Without page cache.
    pub used: u64,
    /// More ends the process.
    pub limit: u64,
}

/// The level after `before`. A level above is reached at its per cent, one below only some way under it.
fn judge(before: Level, Reading { used, limit }: Reading) -> Level {
    let reaches = |percent: u64| u128::from(used) * 100 >= u128::from(limit) * u128::from(percent);
    let begins = |level: Level, percent: u64| reaches(percent - if before >= level { RELIEF_PERCENT } else { 0 });
    if begins(Level::Critical, CRITICAL_PERCENT) {
        Level::Critical
    } else if begins(Level::High, HIGH_PERCENT) {
        Level::High
    } else {
        Level::Calm
    }
}

/// A thread that looks every second; it ends when this is dropped.
pub struct Watch {
    _running: Sender<()>,
}

impl Watch {
    /// Starts it. `read` is asked each time; without an answer the level stays.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(
        read: impl FnMut() -> Option<Reading> + Send + 'static,
        pressure: Pressure,
        metrics: Metrics,
    ) -> std::io::Result<Watch> {
        Watch::every(LOOK_EVERY, read, pressure, metrics)
    }

    fn every(
        pause: Duration,
        mut read: impl FnMut() -> Option<Reading> + Send + 'static,
        pressure: Pressure,
        metrics: Metrics,
    ) -> std::io::Result<Watch> {
        let (running, ended) = channel::<()>();
        std::thread::Builder::new().name("memory".into()).spawn(move || {
            loop {
                if let Some(reading) = read() {
                    let before = pressure.level();
                    let level = judge(before, reading);
                    pressure.set(level);
                    metrics.memory_pressure.set(level as i64);
                    if level != before {
                        tell(level, reading);
                    }
                }
                // Nothing is ever sent: the channel closes when the run has ended.
                if ended.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        })?;
        Ok(Watch { _running: running })
    }
}

fn tell(level: Level, Reading { used, limit }: Reading) {
    let (used, limit) = (mib(used), mib(limit));
    match level {
        Level::Calm => tracing::info!(target: "runtime", "memory: {used} of {limit} MiB; sources read as configured"),
        Level::High => {
            tracing::warn!(target: "runtime", "memory: {used} of {limit} MiB; sources keep half of inflight under way");
        }
        Level::Critical => tracing::error!(
            target: "runtime",
            "memory: {used} of {limit} MiB; sources pause until it is less; if it stays, state has outgrown the limit: give more memory or lower correction.horizon"
        ),
    }
}

/// Where memory can be read: `/`, or a folder that looks like it.
#[derive(Clone, Debug)]
pub struct Machine(PathBuf);

impl Default for Machine {
    fn default() -> Self {
        Machine("/".into())
    }
}

impl Machine {
    /// Memory as it is now; `None` where nothing tells.
    pub fn read(&self) -> Option<Reading> {
        let grouped = self.version_2().or_else(|| self.version_1());
        grouped.or_else(|| Some(Reading { used: self.resident()?, limit: self.installed()? }))
    }

    /// The lowest limit of the process's cgroup and of those above it.
    fn version_2(&self) -> Option<Reading> {
        let group = self.group("")?;
        self.lowest("sys/fs/cgroup", &group, &["memory.max", "memory.current"], &["inactive_file", "active_file"])
    }

    fn version_1(&self) -> Option<Reading> {
        let group = self.group("memory")?;
        let files = ["memory.limit_in_bytes", "memory.usage_in_bytes"];
        self.lowest("sys/fs/cgroup/memory", &group, &files, &["total_inactive_file", "total_active_file"])
    }

    fn lowest(&self, mount: &str, group: &str, files: &[&str; 2], cache: &[&str; 2]) -> Option<Reading> {
        let mount = self.0.join(mount);
        let own = mount.join(group);
        let folders = own.ancestors().take_while(|folder| folder.starts_with(&mount));
        let reading = |folder: &Path| {
            // "max", or a number beyond all memory, is no limit.
            let limit: u64 = number(&folder.join(files[0])).filter(|limit| *limit < 1 << 50)?;
            let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
            let cached: u64 = cache.iter().filter_map(|name| field(&stat, name)).sum();
            Some(Reading { used: number(&folder.join(files[1]))?.saturating_sub(cached), limit })
        };
        folders.filter_map(reading).min_by_key(|reading| reading.limit)
    }

    /// The path of the process's group: of version 2 for no controller.
    fn group(&self, controller: &str) -> Option<String> {
        let groups = std::fs::read_to_string(self.0.join("proc/self/cgroup")).ok()?;
        let path = groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let controllers = parts.next()?;
            let path = parts.next()?;
            controllers.split(',').any(|one| one == controller).then_some(path)
        })?;
        Some(path.trim_start_matches('/').to_owned())
    }

    fn resident(&self) -> Option<u64> {
        field(&std::fs::read_to_string(self.0.join("proc/self/status")).ok()?, "VmRSS:").map(|kib| kib << 10)
    }

    fn installed(&self) -> Option<u64> {
        field(&std::fs::read_to_string(self.0.join("proc/meminfo")).ok()?, "MemTotal:").map(|kib| kib << 10)
    }
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The number behind a name, one a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(name)).then(|| words.next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    //! Proves what is added up, what is read of a machine, and when sources are told to slow down. That they do is proved in `runtime/tests.rs`.
    use super::*;

    fn flow(settings: &[&str]) -> Flow {
        let flow = "name = \"bound\"\n[pseudonymise]\nkey_env = \"KEY\"\n";
        Flow::parse(flow, &settings.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    /// One part of a bound, in MiB.
    fn part(bound: &Bound, name: &str) -> u64 {
        bound.parts.iter().find(|(what, _)| *what == name).map_or(0, |(_, bytes)| mib(*bytes))
    }

    #[test]
    fn each_setting_counts_in_its_part_and_with_the_workers() {
        let settings = [
            "source.queue_kib=8192",
            "inflight.bytes=10485760",
            "epoch.bytes=1048576",
            "sink.parquet.row_group_bytes=4194304",
            "sink.elasticsearch.bulk_bytes=3145728",
            "sink.kafka.client={\"queue.buffering.max.kbytes\"=\"2048\"}",
            "sink.ndjson.tables=[\"readings\"]",
        ];
        for workers in [1, 3] {
            let bound = Bound::of(&flow(&settings), workers);
            let each = workers as u64;
            let parts = ["fetched", "under way", "parquet", "elasticsearch", "kafka"].map(|name| part(&bound, name));
            assert_eq!(parts, [16 * each, 44 * each, 16 * each, 6 * each, 2 * each], "{bound}");
            let sum: u64 = bound.parts[..bound.parts.len() - 1].iter().map(|(_, bytes)| bytes).sum();
            assert_eq!(bound.total(), sum + sum / 5);
        }
        let large = Bound::of(&flow(&["inflight.bytes=1048576", "epoch.bytes=20971520"]), 1);
        assert_eq!(part(&large, "under way"), 84, "one epoch is let through");
        let files = Bound::of(&flow(&["source.kind=\"files\""]), 1);
        assert_eq!((part(&files, "fetched"), part(&files, "parquet")), (0, 0));
    }

    #[test]
    fn the_bound_is_one_line_with_its_parts() {
        let text = Bound::of(&flow(&[]), 2).to_string();
        assert!(text.starts_with("at most ") && text.contains("(program 64, fetched 64, under way 520, "), "{text}");
        assert!(text.ends_with(") + state, 255 bytes a patient and 116 a reading within correction.horizon"), "{text}");
        let text = Bound::of(&flow(&["audit.patients=false"]), 2).to_string();
        assert!(text.contains("191 bytes a patient and 84 a reading"), "{text}");
        assert!(!text.contains('\n') && !text.contains("parquet"));
    }

    #[test]
    fn levels_begin_at_their_per_cent_and_end_a_little_below() {
        let mut level = Level::Calm;
        let mut seen = String::new();
        for used in [84, 85, 84, 83, 82, 94, 95, 94, 93, 92, 85, 83, 82, 100, 120, 0] {
            level = judge(level, Reading { used, limit: 100 });
            seen.push(['c', 'h', '!'][level as usize]);
        }
        assert_eq!(seen, "chhhch!!!hhhc!!c");
    }

    #[test]
    fn half_of_inflight_is_at_least_one_epoch() {
        let pressure = Pressure::default();
        let spec = InflightSpec { epochs: 1, bytes: 100 };
        assert_eq!(pressure.inflight(&spec), (1, 100));
        pressure.set(Level::High);
        assert_eq!(pressure.inflight(&spec), (1, 50));
        assert_eq!(pressure.inflight(&InflightSpec { epochs: 16, bytes: 100 }), (8, 50));
    }

    /// A machine with these files.
    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let machine = Machine(root.path().to_owned());
        (root, machine)
    }

    #[test]
    fn the_lowest_limit_of_all_groups_above_counts_and_page_cache_does_not() {
        let (_root, machine) = machine(&[
            ("proc/self/cgroup", "0::/pods/windkessel\n"),
            ("sys/fs/cgroup/pods/windkessel/memory.max", "max\n"),
            ("sys/fs/cgroup/pods/windkessel/memory.current", "5\n"),
            ("sys/fs/cgroup/pods/memory.max", "1000\n"),
            ("sys/fs/cgroup/pods/memory.current", "900\n"),
            ("sys/fs/cgroup/pods/memory.stat", "anon 300\ninactive_file 200\nactive_file 100\n"),
            ("sys/fs/cgroup/memory.max", "2000\n"),
            ("sys/fs/cgroup/memory.current", "1900\n"),
        ]);
        assert_eq!(machine.read(), Some(Reading { used: 600, limit: 1_000 }));
    }

    #[test]
    fn groups_of_version_1_are_read_as_well() {
        let (_root, machine) = machine(&[
            ("proc/self/cgroup", "8:pids:/x\n4:cpu,memory:/a\n0::/\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1000\n"),
            ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "700\n"),
            ("sys/fs/cgroup/memory/a/memory.stat", "cache 9\ntotal_inactive_file 50\ntotal_active_file 50\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "800\n"),
        ]);
        assert_eq!(machine.read(), Some(Reading { used: 600, limit: 1_000 }));
    }

    #[test]
    fn without_a_limit_all_memory_of_the_machine_is_one() {
        let (_root, machine) = machine(&[
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "max\n"),
            ("sys/fs/cgroup/memory.current", "7\n"),
            ("proc/self/status", "Name:\twindkessel\nVmRSS:\t     100 kB\n"),
            ("proc/meminfo", "MemTotal:        2000 kB\nMemFree: 1 kB\n"),
        ]);
        assert_eq!(machine.read(), Some(Reading { used: 100 << 10, limit: 2_000 << 10 }));
        assert_eq!(Machine("/nowhere/at/all".into()).read(), None);
    }

    #[test]
    fn the_watch_tells_the_sources_and_the_metric() {
        let (pressure, metrics) = (Pressure::default(), Metrics::new());
        let used = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let reading = {
            let used = Arc::clone(&used);
            move || Some(Reading { used: used.load(Ordering::Relaxed), limit: 100 })
        };
        let watch = Watch::every(Duration::from_millis(1), reading, pressure.clone(), metrics.clone()).unwrap();
        for (now, level) in [(90, Level::High), (96, Level::Critical), (10, Level::Calm)] {
            used.store(now, Ordering::Relaxed);
            while pressure.level() != level || metrics.memory_pressure.get() != level as i64 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        drop(watch);
    }
}
