//! Proves, in a real cgroup with a real limit, that a run reads its limit, slows down and pauses before the kernel would kill it, goes on when there is
//! room again, and has lost nothing.
//!
//! Needs a memory cgroup below this process's own that may be written; else it is skipped aloud.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{DEADLINE, Running, get, key_file, metric, ndjson, outcomes, repository, windkessel};

const MIB: u64 = 1 << 20;
const OBSERVATIONS: usize = 12_000;

/// A cgroup of this test's own, of either version.
struct Group {
    folder: PathBuf,
    limit: &'static str,
    used: &'static str,
    cache: [&'static str; 2],
}

impl Group {
    /// `None`, said aloud, where there can be none.
    fn new() -> Option<Group> {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = |controller: &str| {
            let line = groups.lines().find(|line| line.split(':').nth(1) == Some(controller))?;
            Some(line.splitn(3, ':').nth(2)?.trim_start_matches('/').to_owned())
        };
        let name = format!("windkessel-test-{}", std::process::id());
        let version_1 = own("memory").map(|group| Group {
            folder: Path::new("/sys/fs/cgroup/memory").join(group).join(&name),
            limit: "memory.limit_in_bytes",
            used: "memory.usage_in_bytes",
            cache: ["total_inactive_file", "total_active_file"],
        });
        let version_2 = own("").map(|group| Group {
            folder: Path::new("/sys/fs/cgroup").join(group).join(&name),
            limit: "memory.max",
            used: "memory.current",
            cache: ["inactive_file", "active_file"],
        });
        for group in [version_1, version_2].into_iter().flatten() {
            if fs::create_dir(&group.folder).is_ok() {
                if group.set_limit(1 << 40) {
                    return Some(group);
                }
                drop(group);
            }
        }
        eprintln!("SKIPPED a run under a real limit of memory: no cgroup can be made here");
        None
    }

    fn set_limit(&self, bytes: u64) -> bool {
        fs::write(self.folder.join(self.limit), bytes.to_string()).is_ok()
    }

    /// What is held against the limit: without page cache.
    fn used(&self) -> u64 {
        let number = |text: &str| text.trim().parse::<u64>().unwrap();
        let all = number(&fs::read_to_string(self.folder.join(self.used)).unwrap());
        let stat = fs::read_to_string(self.folder.join("memory.stat")).unwrap();
        let field = |name: &&str| stat.lines().find_map(|line| Some(number(line.strip_prefix(*name)?)));
        all - self.cache.iter().filter_map(field).sum::<u64>().min(all)
    }

    /// The command, in this group from its first instruction on.
    fn put(&self, command: &Command) -> Command {
        let mut within = Command::new("sh");
        within.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.folder.join("cgroup.procs"));
        within.arg(command.get_program()).args(command.get_args());
        within.current_dir(command.get_current_dir().unwrap());
        within.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        within
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Refused while somebody is in it, who has been killed by then.
        let _ = fs::remove_dir(&self.folder);
    }
}

#[test]
fn a_run_in_a_cgroup_pauses_before_its_limit_and_goes_on_when_there_is_room() {
    let Some(group) = Group::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut command = windkessel(folder.path());
    command.arg("run").arg(repository("dataflows/blood_pressure_replay.toml")).args(["--until", "end"]);
    let observations = format!("source.observations={OBSERVATIONS}");
    // Slowly: what grows by itself must not come near the limit while it is being lowered.
    let settings = [
        "source.kind=\"generator\"",
        "source.patients=40",
        "source.rate_per_second=500",
        &observations,
        "sink.parquet.row_group_bytes=1048576",
        "inflight.bytes=1048576",
        "epoch.bytes=1048576",
        "http.listen=\"127.0.0.1:0\"",
    ];
    command.args(settings.iter().flat_map(|setting| ["--set", setting])).args(["--set", &key_file(folder.path())]);
    assert!(group.set_limit(1_024 * MIB));
    let mut running = Running::start(&mut group.put(&command));
    let url = running.url();
    let look = |name: &str| get(&format!("{url}/metrics")).map_or(0.0, |text| metric(&text, name, ""));
    let read = || look("windkessel_source_records_total");
    running.until("a part of the input", |_| (read() > 1_000.0).then_some(()));
    assert!(running.err().contains("this process may have 1024 MiB"), "{}", running.err());

    for (level, per_mille) in [(1.0, 900), (2.0, 955)] {
        running.until("pressure", |_| {
            // Again each time: memory may be given back meanwhile, and cache may not be given up at once.
            group.set_limit(group.used() * 1_000 / per_mille);
            (look("windkessel_memory_pressure") >= level).then_some(())
        });
    }
    // So many looks in a row at what was read, without any difference: ten a look is what it would be otherwise.
    let mut looks = Vec::new();
    let paused = running.until("a pause", |running| {
        looks.push(read());
        let same = looks.iter().rev().take_while(|look| **look == looks[looks.len() - 1]).count();
        (same > 10 && running.err().contains("sources pause until it is less")).then_some(looks[looks.len() - 1])
    });
    assert!(paused < OBSERVATIONS as f64, "{paused}");
    assert!(group.set_limit(1_024 * MIB));
    running.until("calm", |_| (look("windkessel_memory_pressure") == 0.0).then_some(()));
    let finished = running.wait(DEADLINE).succeeded();
    assert!(finished.resident_max < 1_024 * MIB, "{}", finished.resident_max);
    let told = outcomes(&finished.out);
    let rows = ndjson(&folder.path().join("windkessel-data"), "readings").len() as u64;
    assert!(
        told.values().sum::<u64>() >= OBSERVATIONS as u64 && rows >= told["contributed"],
        "{rows}: {}",
        finished.out
    );
}
