//! The protocol that both file formats share, with a format of one byte a row and a clock that the test moves.
//!
//! They prove: readers see whole files only, whatever fails; limits at, below and above; `durable` never runs ahead; nothing is overwritten.

use std::io::Write;

use tempfile::TempDir;

use super::*;
use crate::sink::testing::{Hand, many, names, rejected, visible};

/// One `.` a row, `!` when complete.
struct Dots {
    /// Fails at: begin, write, settle, complete.
    fails: &'static str,
}

impl Dots {
    fn step(&self, name: &str) -> io::Result<()> {
        if self.fails == name { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl Format for Dots {
    type Chunk = usize;
    type Writer = (File, u64);
    const NAME: &'static str = "dots";
    const EXTENSION: &'static str = "dots";
    const SETTING: &'static str = "sink.dots.path";

    fn chunk(&self, rows: &Rows) -> Result<Option<usize>, SinkError> {
        Ok(Some(rows.batch.num_rows()).filter(|rows| *rows > 0))
    }
    fn begin(&self, file: File, _: &usize) -> io::Result<(File, u64)> {
        self.step("begin").map(|()| (file, 0))
    }
    fn write(&self, (file, bytes): &mut (File, u64), chunk: &usize) -> io::Result<()> {
        *bytes += *chunk as u64;
        file.write_all(&vec![b'.'; *chunk])?;
        self.step("write")
    }
    fn bytes(writer: &(File, u64)) -> u64 {
        writer.1
    }
    fn settle(_: &mut (File, u64)) -> io::Result<()> {
        Ok(())
    }
    fn complete(&self, mut writer: (File, u64), _: RangeInclusive<Epoch>) -> io::Result<File> {
        writer.0.write_all(b"!")?;
        self.step("complete").map(|()| writer.0)
    }
}

const AGE_MAX: Duration = Duration::from_secs(60);

struct Bench {
    folder: TempDir,
    hand: Hand,
    sink: FileSink<Dots>,
}

impl Bench {
    fn new(fails: &'static str) -> Self {
        let (folder, hand) = (TempDir::new().unwrap(), Hand::new());
        let sink = Self::sink(fails, folder.path(), &hand).unwrap();
        Bench { folder, hand, sink }
    }

    fn sink(fails: &'static str, folder: &Path, hand: &Hand) -> Result<FileSink<Dots>, SinkError> {
        let limits = Limits { bytes_max: 10, age_max: AGE_MAX };
        FileSink::new(Dots { fails }, folder.into(), 0, limits, hand.clock(), Metrics::new())
    }

    fn readings(&self) -> PathBuf {
        self.folder.path().join("readings")
    }

    /// What a reader sees: names, and that every file is whole.
    fn seen(&self) -> Vec<String> {
        let seen = visible(&self.readings());
        for name in &seen {
            let text = fs::read_to_string(self.readings().join(name)).unwrap();
            assert!(text.ends_with('!') && text.len() > 1, "{name} is seen half written: {text:?}");
        }
        seen
    }
}

#[test]
fn a_file_is_seen_once_it_is_whole_and_not_before() {
    let mut bench = Bench::new("");
    for epoch in 5..8 {
        bench.sink.deliver(epoch, &many(epoch, 2)).unwrap();
        assert_eq!(bench.seen(), [""; 0]);
        bench.sink.close(epoch).unwrap();
        bench.sink.idle().unwrap();
        assert_eq!(bench.seen(), [""; 0]);
    }
    bench.sink.finish().unwrap();
    assert_eq!(bench.seen(), ["5-0-0.dots"]);
    assert_eq!(names(&bench.readings()), ["5-0-0.dots"]);
}

#[test]
fn a_file_is_finished_at_its_size_and_not_below() {
    for (rows, files) in [(9, 0), (10, 1), (11, 1)] {
        let mut bench = Bench::new("");
        bench.sink.deliver(5, &many(5, rows)).unwrap();
        assert_eq!(bench.seen().len(), files, "{rows} bytes");
    }
}

#[test]
fn a_file_is_finished_at_its_age_and_not_before() {
    let second = Duration::from_secs(1);
    for (age, files) in [(AGE_MAX - second, 0), (AGE_MAX, 1), (AGE_MAX + second, 1)] {
        for when in ["idle", "close"] {
            let mut bench = Bench::new("");
            bench.sink.deliver(5, &many(5, 1)).unwrap();
            bench.hand.advance(age);
            if when == "idle" {
                bench.sink.idle().unwrap()
            } else {
                bench.sink.close(5).unwrap()
            }
            assert_eq!(bench.seen().len(), files, "{age:?} at {when}");
        }
    }
}

#[test]
fn durable_stays_behind_rows_of_open_files() {
    let mut bench = Bench::new("");
    assert_eq!(bench.sink.durable(), None);
    bench.sink.close(4).unwrap();
    assert_eq!(bench.sink.durable(), Some(4));
    bench.sink.deliver(6, &many(6, 1)).unwrap();
    assert_eq!(bench.sink.durable(), Some(4), "5 is not closed");
    bench.sink.close(6).unwrap();
    assert_eq!(bench.sink.durable(), Some(5));
    bench.sink.deliver(7, &many(7, 9)).unwrap();
    assert_eq!(bench.sink.durable(), Some(6), "finished by its size, in the middle of 7");
    bench.sink.deliver(7, &many(7, 1)).unwrap();
    bench.sink.deliver(8, &rejected(8, 1)).unwrap();
    bench.sink.close(8).unwrap();
    assert_eq!(bench.sink.durable(), Some(6));
    bench.hand.advance(AGE_MAX);
    bench.sink.idle().unwrap();
    assert_eq!(bench.sink.durable(), Some(8));
    assert_eq!(bench.seen(), ["6-0-0.dots", "7-0-0.dots"]);
}

#[test]
fn a_file_that_starts_with_epoch_0_is_not_left_open_as_no_epoch_lies_before() {
    let mut bench = Bench::new("");
    bench.sink.deliver(0, &many(0, 1)).unwrap();
    bench.sink.close(0).unwrap();
    assert_eq!(bench.seen(), ["0-0-0.dots"]);
    assert_eq!(bench.sink.durable(), Some(0));
}

#[test]
fn nothing_is_overwritten() {
    let mut bench = Bench::new("");
    fs::create_dir_all(bench.readings()).unwrap();
    fs::write(bench.readings().join("5-0-0.dots"), "theirs!").unwrap();
    bench.sink.deliver(5, &many(5, 1)).unwrap();
    // Somebody takes the name while the file is open.
    fs::write(bench.readings().join("5-0-1.dots"), "theirs!").unwrap();
    bench.sink.finish().unwrap();
    assert_eq!(bench.seen(), ["5-0-0.dots", "5-0-1.dots", "5-0-2.dots"]);
    for theirs in ["5-0-0.dots", "5-0-1.dots"] {
        assert_eq!(fs::read_to_string(bench.readings().join(theirs)).unwrap(), "theirs!");
    }
}

#[test]
fn whatever_fails_is_an_error_with_a_hint_and_leaves_nothing_behind() {
    for step in ["begin", "write", "complete"] {
        let mut bench = Bench::new(step);
        let result = bench.sink.deliver(5, &many(5, 3)).and_then(|()| bench.sink.finish());
        let error = result.expect_err(step).to_string();
        assert!(error.contains("(free some space, or change sink.dots.path)"), "{error}");
        assert_eq!(names(&bench.readings()), [""; 0], "{step}");
    }
}

#[test]
fn a_run_that_is_dropped_leaves_nothing_behind() {
    let mut bench = Bench::new("");
    bench.sink.deliver(5, &many(5, 3)).unwrap();
    assert_eq!(names(&bench.readings()).len(), 1);
    drop(bench.sink);
    assert_eq!(names(&bench.folder.path().join("readings")), [""; 0]);
}

#[test]
fn a_file_in_the_way_of_the_folder_is_an_error_with_a_hint() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data");
    fs::write(&path, "").unwrap();
    let error = Bench::sink("", &path, &Hand::new()).err().unwrap().to_string();
    assert!(error.contains("a file is in the way of a folder: move it, or change sink.dots.path"), "{error}");
}

#[test]
fn left_overs_are_removed_if_they_are_this_workers_and_nobodys() {
    let folder = TempDir::new().unwrap();
    let readings = folder.path().join("readings");
    fs::create_dir_all(&readings).unwrap();
    let own = std::process::id();
    // No process has a number beyond the kernel's limit of 2^22; process 1 always lives.
    let dead = 5_000_000;
    let gone = [format!(".5-0-0.dots.{own}.tmp"), format!(".6-0-3.dots.{dead}.tmp")];
    let mut stay = [
        "5-0-0.dots".to_string(),
        format!(".5-1-0.dots.{dead}.tmp"),
        ".5-0-0.dots.1.tmp".to_string(),
        format!(".5-0-0.other.{dead}.tmp"),
        format!(".x-0-0.dots.{dead}.tmp"),
    ];
    gone.iter().chain(&stay).for_each(|name| fs::write(readings.join(name), "").unwrap());
    if !Path::new("/proc/self").exists() {
        println!("skipped: processes cannot be looked up here");
        return;
    }
    Bench::sink("", folder.path(), &Hand::new()).unwrap();
    stay.sort();
    assert_eq!(names(&readings), stay);
}
