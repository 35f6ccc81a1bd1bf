//! Proves that several processes are one run: the same rows as one process, whoever calls at their ports, and whichever of them is killed, stopped or asked
//! to end. All on loopback, with one folder as `state.path`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::replay::{FINITE, Input, Ran, TIMES};
use crate::support::{
    DEADLINE, Finished, Running, Tables, files, finish, key_file, outcomes, repository, same, windkessel,
};

const REPLAY: &str = "dataflows/blood_pressure_replay.toml";

/// After one process of a cluster has died, the others have ended: long before they would find it silent.
const END_MAX: Duration = Duration::from_secs(20);

/// Where nobody is stopped, nobody is taken for it, however busy the machine is.
const PATIENT: &str = "cluster.silence_seconds=60";
/// Where somebody is.
const WATCHFUL: &str = "cluster.silence_seconds=3";
/// Who will be disturbed: in half a minute of all runs together they do not come to the end.
const SLOW: &str = "source.rate_per_second=300";

/// A hosts file of this many processes, at ports that were free a moment ago.
fn hosts(folder: &Path, processes: usize) -> PathBuf {
    let listeners: Vec<TcpListener> = (0..processes).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let lines = listeners.iter().map(|listener| format!("{} # one\n", listener.local_addr().unwrap()));
    let path = folder.join(format!("hosts-{processes}"));
    fs::write(&path, lines.collect::<String>()).unwrap();
    path
}

/// Synthetic patients, with a checkpoint a second, into one folder.
struct Stream {
    folder: tempfile::TempDir,
    key: String,
    hosts: PathBuf,
}

impl Stream {
    fn new(processes: usize) -> Stream {
        let folder = tempfile::tempdir().unwrap();
        let key = key_file(folder.path());
        let hosts = hosts(folder.path(), processes);
        Stream { folder, key, hosts }
    }

    fn command(&self) -> Command {
        let mut command = windkessel(self.folder.path());
        command.arg("run").arg(repository(REPLAY)).args(["--until", "end"]);
        let settings = [
            &self.key,
            "source.kind=\"generator\"",
            "source.observations=9000",
            "source.patients=150",
            "state.checkpoint_seconds=1",
            PATIENT,
        ];
        command.args(settings.iter().flat_map(|setting| ["--set", setting]));
        command
    }

    /// One process of the cluster, not started.
    fn process(&self, number: usize) -> Command {
        let mut command = self.command();
        command.arg("--hosts").arg(&self.hosts).args(["--process", &number.to_string()]);
        command
    }

    fn start(&self, number: usize) -> Running {
        self.start_with(number, &[])
    }

    fn start_with(&self, number: usize, settings: &[&str]) -> Running {
        Running::start(self.process(number).args(settings.iter().flat_map(|setting| ["--set", setting])))
    }

    fn tables(&self) -> Tables {
        Tables::ndjson(&self.folder.path().join("windkessel-data"))
    }

    /// Waits until a checkpoint has been recorded that was not there.
    fn checkpoint(&self, running: &mut Running) {
        let names = || files(&self.folder.path().join("windkessel-data/readings"), "ndjson").len();
        let before = names();
        running.until("a checkpoint", |_| (names() > before).then_some(()));
    }

    /// Runs all processes to their end, and compares what all runs have written with what one process writes that nobody disturbs.
    fn finish_and_compare(&self, processes: usize) {
        let running: Vec<Running> = (0..processes).map(|number| self.start(number)).collect();
        running.into_iter().for_each(|running| drop(running.wait(DEADLINE).succeeded()));
        self.compare();
    }

    fn compare(&self) {
        let undisturbed = Stream::new(1);
        finish(&mut undisturbed.command()).succeeded();
        let (expected, found) = (undisturbed.tables(), self.tables());
        assert!(expected.readings.len() > 8_000);
        same(&expected, &found, "the cluster wrote other rows than one process");
    }
}

/// Asserts that a process ended in order, with this code and a sentence that holds `words`.
fn ended(finished: &Finished, code: i32, words: &str) {
    assert_eq!(finished.code(), Some(code), "{}", finished.err);
    assert!(finished.last_words().starts_with("windkessel: "), "{}", finished.err);
    assert!(finished.last_words().contains(words), "{words:?} is not in {}", finished.err);
    assert!(!finished.err.contains("panicked"), "{}", finished.err);
}

#[test]
fn two_and_three_processes_write_what_one_does_and_what_the_oracle_says() {
    let input = Input::generated(8_000);
    let expected = input.expected(TIMES);
    for (processes, workers) in [(2, "2"), (3, "1")] {
        let folder = tempfile::tempdir_in(input.folder.path()).unwrap();
        let hosts = hosts(folder.path(), processes);
        let start = |number: usize| {
            let mut command = windkessel(folder.path());
            command.arg("run").arg(repository(REPLAY)).args(["--until", "end", "-w", workers, "--hosts"]).arg(&hosts);
            command.args(["--process", &number.to_string(), "--set", &input.paths(), "--set", &input.key]);
            command.args(FINITE.iter().flat_map(|setting| ["--set", setting]));
            Running::start(&mut command)
        };
        let running: Vec<Running> = (0..processes).map(start).collect();
        let mut together: BTreeMap<String, u64> = BTreeMap::new();
        for running in running {
            let finished = running.wait(DEADLINE).succeeded();
            outcomes(&finished.out).into_iter().for_each(|(name, count)| *together.entry(name).or_default() += count);
        }
        let data = folder.path().join("windkessel-data");
        let tables = Tables::ndjson(&data);
        same(&tables, &Tables::parquet(&data), "NDJSON and Parquet");
        input.check(&Ran { tables, outcomes: together }, &expected);
    }
}

#[test]
fn processes_that_were_started_differently_refuse_each_other_and_say_what_differs() {
    let stream = Stream::new(2);
    let secret = |name: &str| {
        let path = stream.folder.path().join(name);
        fs::write(&path, format!("{name} secret, long enough")).unwrap();
        path
    };
    let zero = Running::start(stream.process(0).args(["--join-seconds", "3", "--secret-file"]).arg(secret("one")));
    let one = Running::start(stream.process(1).args(["--join-seconds", "60", "--secret-file"]).arg(secret("another")));
    ended(&one.wait(DEADLINE), 78, "another cluster secret");
    ended(&zero.wait(DEADLINE), 69, "process 1");
    let zero = Running::start(stream.process(0).args(["-w", "2"]));
    let one = Running::start(&mut stream.process(1));
    ended(&one.wait(DEADLINE), 78, "another number of workers: there 2, here 1");
    ended(&zero.wait(DEADLINE), 78, "another number of workers: there 1, here 2");
    let far = stream.folder.path().join("far");
    fs::write(&far, "10.1.2.3:1\n10.1.2.4:1\n").unwrap();
    let far = Running::start(stream.command().arg("--hosts").arg(far).args(["--process", "0"]));
    ended(&far.wait(DEADLINE), 78, "--secret-file");
    assert_eq!(finish(stream.command().args(["--process", "0"])).code(), Some(2), "--process wants --hosts");
    assert!(!stream.folder.path().join("windkessel-data/state/log").exists(), "nobody has touched the log");
}

#[test]
fn strangers_at_the_port_are_hung_up_on_and_harm_nobody() {
    let stream = Stream::new(2);
    let address = fs::read_to_string(&stream.hosts).unwrap().split_whitespace().next().unwrap().to_owned();
    let mut zero = stream.start(0);
    let mut call = || zero.until("the port", |_| TcpStream::connect(&address).ok());
    let mut strangers: Vec<TcpStream> = (0..4).map(|_| call()).collect();
    strangers[0]
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n and what else a browser would say first of all")
        .unwrap();
    strangers[1].write_all(&[0xff; 100_000]).unwrap();
    // The header of a timely frame of many gigabytes.
    strangers[2].write_all(&[0, 0, 0, 9].repeat(12)).unwrap();
    zero.until("a complaint", |zero| (zero.err().matches("hung up on").count() >= 3).then_some(()));
    let one = stream.start(1);
    one.wait(DEADLINE).succeeded();
    let zero = zero.wait(DEADLINE).succeeded();
    assert!(zero.resident_max < 1 << 30, "{} bytes", zero.resident_max);
    assert!(!zero.err.contains("panicked"), "{}", zero.err);
    stream.compare();
}

#[test]
fn a_process_that_is_killed_ends_all_and_the_next_run_goes_on() {
    let stream = Stream::new(3);
    for victim in [1, 0] {
        let mut running: Vec<Option<Running>> = (0..3).map(|number| Some(stream.start_with(number, &[SLOW]))).collect();
        stream.checkpoint(running[victim].as_mut().unwrap());
        let killed = running[victim].take().unwrap();
        killed.signal("KILL");
        let begun = Instant::now();
        for running in running.into_iter().flatten() {
            ended(&running.wait(DEADLINE), 69, &format!("process {victim} ("));
        }
        assert!(begun.elapsed() < END_MAX, "{:?}", begun.elapsed());
        killed.wait(DEADLINE);
    }
    stream.finish_and_compare(3);
}

#[test]
fn a_process_that_is_stopped_ends_the_others_and_writes_nothing_when_it_goes_on() {
    let stream = Stream::new(2);
    for victim in [1, 0] {
        let mut running = [0, 1].map(|number| Some(stream.start_with(number, &[SLOW, WATCHFUL])));
        stream.checkpoint(running[victim].as_mut().unwrap());
        let stopped = running[victim].take().unwrap();
        stopped.signal("STOP");
        let other = running[1 - victim].take().unwrap();
        ended(&other.wait(END_MAX * 3), 70, &format!("process {victim} ("));
        // Its successors begin while it is still there.
        let mut successors = [0, 1].map(|number| stream.start_with(number, &[SLOW]));
        successors[0].until("the successors' start", |zero| zero.err().contains("starting").then_some(()));
        stopped.signal("CONT");
        let stopped = stopped.wait(DEADLINE);
        // 9: its successors have sealed the log; which process 0 may find out first of all.
        assert!([Some(9), Some(70)].contains(&stopped.code()), "{:?}\n{}", stopped.code(), stopped.err);
        assert!(victim == 0 || stopped.last_words().contains("this process was stopped"), "{}", stopped.err);
        assert!(!stopped.err.contains("panicked"), "{}", stopped.err);
        stream.checkpoint(&mut successors[0]);
        successors[0].signal("TERM");
        successors.into_iter().for_each(|successor| drop(successor.wait(DEADLINE).succeeded()));
    }
    stream.finish_and_compare(2);
}

#[test]
fn one_process_that_is_asked_to_end_drains_all() {
    let stream = Stream::new(3);
    for asked in [2, 0] {
        let mut running: Vec<Running> = (0..3).map(|number| stream.start_with(number, &[SLOW])).collect();
        stream.checkpoint(&mut running[asked]);
        running[asked].signal("TERM");
        for running in running {
            assert!(!running.wait(DEADLINE).succeeded().err.contains("panicked"));
        }
    }
    let mut zero = stream.start(0);
    let one = stream.start(1);
    let two = stream.start(2);
    let repeated =
        zero.until("the start", |zero| zero.err().lines().find(|line| line.contains("starting")).map(str::to_owned));
    assert!(repeated.contains("repeated=0"), "{repeated}");
    [zero, one, two].into_iter().for_each(|running| drop(running.wait(DEADLINE).succeeded()));
    stream.compare();
}
