//! The protocol that both file formats share, with a format of one byte a row and a clock that the test moves.
//!
//! They prove: readers see whole files of recorded checkpoints only, whatever fails; limits at, below and above; nothing is overwritten, and nothing is
//! deleted but what has no name. What a crash does at each step is proved in `crash.rs`.

use std::fs;
use std::io::Write;

use tempfile::TempDir;

use super::faults::Faulty;
use super::*;
use crate::config::{NdjsonSpec, ParquetSpec};
use crate::sink::ndjson::NdjsonSink;
use crate::sink::parquet::{ParquetSink, Provenance};
use crate::sink::testing::{Hand, many, names, rejected, visible};

/// One `.` a row, `!` when complete.
struct Dots {
    /// Fails at: begin, write, complete.
    fails: &'static str,
}

impl Dots {
    fn step(&self, name: &str) -> io::Result<()> {
        if self.fails == name { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl Format for Dots {
    type Chunk = usize;
    type Writer = (Box<dyn Output>, u64);
    const NAME: &'static str = "dots";
    const SETTING: &'static str = "sink.dots.path";

    fn chunk(&self, rows: &Rows) -> Result<Option<usize>, SinkError> {
        Ok(Some(rows.batch.num_rows()).filter(|rows| *rows > 0))
    }
    fn rows(chunk: &usize) -> u64 {
        *chunk as u64
    }
    fn begin(&self, file: Box<dyn Output>, _: &usize) -> io::Result<Self::Writer> {
        self.step("begin").map(|()| (file, 0))
    }
    fn write(&self, (file, bytes): &mut Self::Writer, chunk: &usize) -> io::Result<()> {
        *bytes += *chunk as u64;
        file.write_all(&vec![b'.'; *chunk])?;
        self.step("write")
    }
    fn bytes(writer: &Self::Writer) -> u64 {
        writer.1
    }
    fn settle(_: &mut Self::Writer) -> io::Result<()> {
        Ok(())
    }
    fn complete(&self, mut writer: Self::Writer, _: RangeInclusive<Epoch>, _: u64) -> io::Result<u64> {
        writer.0.write_all(b"!")?;
        self.step("complete")?;
        writer.0.sync()
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
        FileSink::new(Dots { fails }, folder.into(), 3, 0, limits, hand.clock(), Metrics::new())
    }

    fn dots(&self) -> Folder {
        Folder::of::<Dots>(self.folder.path().into())
    }

    fn readings(&self) -> PathBuf {
        self.folder.path().join("readings")
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.readings()).unwrap();
        fs::write(self.readings().join(name), text).unwrap();
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

    /// Files that wait for a checkpoint.
    fn staged(&self) -> usize {
        names(&self.readings()).iter().filter(|name| name.ends_with(STAGED)).count()
    }

    /// Two staged files: two readings of epoch 5 and one of 6, and two rejections of 6.
    fn checkpoint(&mut self) -> Vec<StagedFile> {
        self.sink.deliver(5, &many(5, 2)).unwrap();
        self.sink.deliver(6, &many(6, 1)).unwrap();
        self.sink.deliver(6, &rejected(6, 2)).unwrap();
        self.sink.close(6).unwrap();
        self.sink.stage(7).unwrap()
    }
}

fn file(table: TableName, name: &str, bytes: u64, rows: u64, epochs: (Epoch, Epoch)) -> StagedFile {
    StagedFile { sink: "dots".into(), table, name: name.into(), bytes, rows, epochs }
}

#[test]
fn a_file_is_seen_once_its_checkpoint_is_recorded_and_not_before() {
    let mut bench = Bench::new("");
    for epoch in 5..8 {
        bench.sink.deliver(epoch, &many(epoch, 2)).unwrap();
        bench.sink.close(epoch).unwrap();
        bench.sink.idle().unwrap();
        assert_eq!(names(&bench.readings()), [".5-g3-w0-0.dots.open"]);
    }
    let files = bench.sink.stage(7).unwrap();
    assert_eq!(names(&bench.readings()), [".5-g3-w0-0.dots.staged"]);
    assert_eq!(files, [file(TableName::Readings, "5-g3-w0-0.dots", 7, 6, (5, 7))]);
    assert_eq!(bench.sink.stage(9).unwrap(), [], "each is listed once");
    bench.dots().publish(7, &files, true).unwrap();
    assert_eq!(bench.seen(), ["5-g3-w0-0.dots"]);
    assert_eq!(names(&bench.readings()), ["5-g3-w0-0.dots"]);
    bench.sink.finish().unwrap();
}

#[test]
fn a_checkpoint_is_listed_in_a_form_that_readers_rely_on() {
    let mut bench = Bench::new("");
    let mut files = bench.checkpoint();
    files.push(StagedFile { sink: "other".into(), ..files[0].clone() });
    bench.dots().publish(7, &files, true).unwrap();
    let committed = bench.folder.path().join("_committed");
    assert_eq!(names(&committed), ["00000000000000000007.dots.json"]);
    let text = fs::read_to_string(committed.join("00000000000000000007.dots.json")).unwrap();
    expect_test::expect![[r#"
        {"checkpoint":7,"files":[{"sink":"dots","table":"readings","name":"5-g3-w0-0.dots","bytes":4,"rows":3,"epochs":[5,6]},{"sink":"dots","table":"rejected","name":"6-g3-w0-0.dots","bytes":3,"rows":2,"epochs":[6,6]}]}
    "#]]
    .assert_eq(&text);
    bench.dots().publish(9, &[], true).unwrap();
    assert_eq!(names(&committed).len(), 1, "a checkpoint without files has no list");
}

#[test]
fn a_file_is_finished_at_its_size_and_not_below() {
    for (rows, files) in [(9, 0), (10, 1), (11, 1)] {
        let mut bench = Bench::new("");
        bench.sink.deliver(5, &many(5, rows)).unwrap();
        assert_eq!(bench.staged(), files, "{rows} bytes");
        assert_eq!(bench.seen(), [""; 0]);
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
            assert_eq!(bench.staged(), files, "{age:?} at {when}");
        }
    }
}

#[test]
fn files_are_listed_in_the_order_in_which_they_were_finished() {
    let mut bench = Bench::new("");
    for rows in [10, 12, 1] {
        bench.sink.deliver(5, &many(5, rows)).unwrap();
    }
    bench.sink.deliver(6, &rejected(6, 10)).unwrap();
    let listed: Vec<(String, u64)> = bench.sink.stage(6).unwrap().into_iter().map(|f| (f.name, f.rows)).collect();
    let expected = [("5-g3-w0-0.dots", 10), ("5-g3-w0-1.dots", 12), ("6-g3-w0-0.dots", 10), ("5-g3-w0-2.dots", 1)];
    assert_eq!(listed, expected.map(|(name, rows)| (name.to_owned(), rows)));
}

#[test]
#[should_panic(expected = "a checkpoint of 6 came after rows of a later epoch")]
fn a_checkpoint_that_comes_too_late_is_a_bug() {
    let mut bench = Bench::new("");
    bench.sink.deliver(7, &many(7, 1)).unwrap();
    let _ = bench.sink.stage(6);
}

#[test]
fn rows_of_committed_epochs_are_not_written_again() {
    let mut bench = Bench::new("");
    bench.sink.skip_up_to(6);
    bench.sink.skip_up_to(2);
    for epoch in [5, 6] {
        bench.sink.deliver(epoch, &many(epoch, 3)).unwrap();
    }
    assert_eq!(bench.sink.stage(6).unwrap(), []);
    bench.sink.deliver(7, &many(7, 1)).unwrap();
    assert_eq!(bench.sink.stage(7).unwrap(), [file(TableName::Readings, "7-g3-w0-0.dots", 2, 1, (7, 7))]);
}

#[test]
fn a_name_is_not_given_twice_even_if_its_file_was_taken_away() {
    let mut bench = Bench::new("");
    bench.write("5-g3-w0-0.dots", "theirs!");
    bench.write(".5-g3-w0-1.dots.staged", "theirs!");
    bench.sink.deliver(5, &many(5, 10)).unwrap();
    fs::remove_file(bench.readings().join(".5-g3-w0-2.dots.staged")).unwrap();
    bench.sink.deliver(5, &many(5, 10)).unwrap();
    let names: Vec<String> = bench.sink.stage(5).unwrap().into_iter().map(|file| file.name).collect();
    assert_eq!(names, ["5-g3-w0-2.dots", "5-g3-w0-3.dots"]);
}

#[test]
fn what_is_open_at_the_end_stays_without_a_name() {
    let mut bench = Bench::new("");
    bench.sink.deliver(5, &many(5, 1)).unwrap();
    bench.sink.finish().unwrap();
    assert_eq!((bench.seen().len(), bench.staged()), (0, 1));
}

#[test]
fn whatever_fails_is_an_error_with_a_hint_and_leaves_nothing_behind() {
    for step in ["begin", "write", "complete"] {
        let mut bench = Bench::new(step);
        let result = bench.sink.deliver(5, &many(5, 3)).and_then(|()| bench.sink.stage(5));
        let error = result.expect_err(step).to_string();
        assert!(error.contains("(free some space, or change sink.dots.path)"), "{error}");
        assert!(error.contains("/readings\""), "{error}");
        assert_eq!(names(&bench.readings()), [""; 0], "{step}");
    }
}

#[test]
fn a_folder_that_may_not_be_written_is_an_error_with_a_hint_at_every_step() {
    for (step, kind) in [
        ("create folder", io::ErrorKind::PermissionDenied),
        ("create", io::ErrorKind::ReadOnlyFilesystem),
        ("sync", io::ErrorKind::ReadOnlyFilesystem),
        ("sync folder", io::ErrorKind::ReadOnlyFilesystem),
        ("rename", io::ErrorKind::PermissionDenied),
    ] {
        let mut bench = Bench::new("");
        bench.sink.disk = Faulty::refusing(step, kind).disk();
        let result = bench.sink.deliver(5, &many(5, 3)).and_then(|()| bench.sink.stage(5));
        let error = result.expect_err(step).to_string();
        assert!(error.contains("(let this user write there, or change sink.dots.path)"), "{error}");
        assert_eq!(bench.seen(), [""; 0], "{step}");
    }
    for step in ["rename", "sync folder", "create folder", "create", "sync"] {
        let mut bench = Bench::new("");
        let files = bench.checkpoint();
        let mut folder = bench.dots();
        folder.disk = Faulty::refusing(step, io::ErrorKind::ReadOnlyFilesystem).disk();
        let error = folder.publish(7, &files, true).expect_err(step).to_string();
        assert!(error.contains("(let this user write there, or change sink.dots.path)"), "{error}");
        assert!(error.contains(bench.folder.path().to_str().unwrap()), "{error}");
        assert_eq!(bench.dots().recover(&[(7, files)], true).unwrap().deleted, 0, "{step}");
        assert_eq!(bench.seen(), ["5-g3-w0-0.dots"], "nothing is lost: {step}");
    }
}

/// A disk that is full after any number of bytes, with the real formats.
fn a_full_disk_names_nothing_torn<F: Format>(make: impl Fn(&Path) -> FileSink<F>) {
    let mut bytes = 0;
    loop {
        let folder = TempDir::new().unwrap();
        let mut sink = make(folder.path());
        sink.disk = Faulty::with_room_for(bytes).disk();
        let mut run = || {
            sink.deliver(5, &many(5, 3))?;
            sink.close(5)?;
            sink.deliver(6, &many(6, 3))?;
            sink.close(6)?;
            sink.stage(7)
        };
        match run() {
            Ok(files) => {
                assert!(files[0].bytes > 500 && bytes as u64 >= files[0].bytes, "{bytes} bytes were not enough");
                return;
            }
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("(free some space, or change sink."), "{error}");
            }
        }
        drop(sink);
        assert_eq!(names(&folder.path().join("readings")), [""; 0], "full after {bytes} bytes");
        bytes += 97;
    }
}

#[test]
fn a_full_disk_names_nothing_torn_of_ndjson() {
    a_full_disk_names_nothing_torn(|path| {
        let spec = NdjsonSpec { path: path.into(), ..NdjsonSpec::default() };
        NdjsonSink::ndjson(&spec, 3, 0, Hand::new().clock(), Metrics::new()).unwrap()
    });
}

#[test]
fn a_full_disk_names_nothing_torn_of_parquet() {
    a_full_disk_names_nothing_torn(|path| {
        let spec = ParquetSpec { path: path.into(), ..ParquetSpec::default() };
        let text = String::new;
        let provenance = Provenance { flow: text(), key_id: text(), rule_set: text(), version: text() };
        ParquetSink::parquet(&spec, provenance, 3, 0, Hand::new().clock(), Metrics::new()).unwrap()
    });
}

#[test]
fn a_run_that_is_dropped_leaves_only_what_a_checkpoint_may_list() {
    let mut bench = Bench::new("");
    bench.sink.deliver(5, &many(5, 10)).unwrap();
    bench.sink.deliver(6, &many(6, 3)).unwrap();
    assert_eq!(names(&bench.readings()).len(), 2);
    drop(bench.sink);
    assert_eq!(names(&bench.folder.path().join("readings")), [".5-g3-w0-0.dots.staged"]);
}

#[test]
fn a_file_in_the_way_of_the_folder_is_an_error_with_a_hint() {
    let hint = "a file is in the way of a folder: move it, or change sink.dots.path";
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data");
    fs::write(&path, "").unwrap();
    let error = Bench::sink("", &path, &Hand::new()).err().unwrap().to_string();
    assert!(error.contains(hint), "{error}");
    let error = Folder::of::<Dots>(path).recover(&[], true).unwrap_err().to_string();
    assert!(error.contains(hint), "{error}");
    // The same while it runs: between staging and naming, and before a file is begun.
    let mut bench = Bench::new("");
    let files = bench.checkpoint();
    fs::rename(bench.readings(), bench.folder.path().join("moved")).unwrap();
    fs::write(bench.readings(), "").unwrap();
    for strict in [true, false] {
        let error = bench.dots().publish(7, &files, strict).unwrap_err().to_string();
        assert!(error.contains(hint) && error.contains("readings"), "{error}");
    }
    let error = bench.sink.deliver(8, &many(8, 1)).unwrap_err().to_string();
    assert!(error.contains(hint) && error.contains("readings"), "{error}");
    assert_eq!(names(&bench.folder.path().join("rejected")), [".6-g3-w0-0.dots.staged"], "nothing is named");
}

#[test]
fn a_staged_file_that_was_shortened_is_an_error_and_nothing_of_its_checkpoint_is_named() {
    let mut bench = Bench::new("");
    let files = bench.checkpoint();
    let staged = bench.folder.path().join("rejected/.6-g3-w0-0.dots.staged");
    fs::write(&staged, "..").unwrap();
    for strict in [true, false] {
        let error = bench.dots().recover(&[(7, files.clone())], strict).unwrap_err().to_string();
        assert!(
            error.contains("it has 2 bytes where its checkpoint says 3 (something else removed or changed it"),
            "{error}"
        );
        assert!(error.contains(staged.to_str().unwrap()), "{error}");
    }
    assert_eq!((bench.seen().len(), bench.staged()), (0, 1));
    fs::write(&staged, "..!").unwrap();
    assert_eq!(bench.dots().recover(&[(7, files)], true).unwrap(), Recovered { named: 2, deleted: 0 });
}

#[test]
fn a_staged_file_that_vanished_is_an_error_unless_it_may_be_elsewhere() {
    let mut bench = Bench::new("");
    let files = bench.checkpoint();
    let staged = bench.folder.path().join("rejected/.6-g3-w0-0.dots.staged");
    fs::remove_file(&staged).unwrap();
    let error = bench.dots().publish(7, &files, true).unwrap_err().to_string();
    assert!(error.contains("a recorded checkpoint lists it, but it is neither staged nor named"), "{error}");
    assert!(error.contains("/rejected/6-g3-w0-0.dots\""), "{error}");
    assert_eq!((bench.seen().len(), bench.staged()), (0, 1), "nothing is named");
    bench.dots().publish(7, &files, false).unwrap();
    assert_eq!(bench.seen(), ["5-g3-w0-0.dots"]);
    // The process that has the file shares the folder after all: it still gets its name.
    fs::write(&staged, "..!").unwrap();
    bench.dots().publish(7, &files, false).unwrap();
    assert_eq!(names(&bench.folder.path().join("rejected")), ["6-g3-w0-0.dots"]);
}

#[test]
fn a_final_name_with_another_content_is_an_error_and_not_overwritten() {
    let mut bench = Bench::new("");
    let files = bench.checkpoint();
    bench.write("5-g3-w0-0.dots", "theirs!");
    let error = bench.dots().publish(7, &files, true).unwrap_err().to_string();
    assert!(error.contains("it has 7 bytes where its checkpoint says 4"), "{error}");
    assert_eq!(fs::read_to_string(bench.readings().join("5-g3-w0-0.dots")).unwrap(), "theirs!");
    assert_eq!(bench.staged(), 1, "nothing is lost");
}

#[test]
fn files_that_were_published_are_the_readers_to_take_away() {
    let mut bench = Bench::new("");
    let files = bench.checkpoint();
    bench.dots().publish(7, &files, true).unwrap();
    bench.write("5-g3-w0-0.dots", "compacted!");
    fs::remove_file(bench.folder.path().join("rejected/6-g3-w0-0.dots")).unwrap();
    assert_eq!(bench.dots().recover(&[(7, files)], true).unwrap(), Recovered::default());
    assert_eq!(fs::read_to_string(bench.readings().join("5-g3-w0-0.dots")).unwrap(), "compacted!");
}

#[test]
fn a_list_of_another_state_is_refused() {
    let mut bench = Bench::new("");
    let files = bench.checkpoint();
    bench.dots().publish(7, &files, true).unwrap();
    for broken in [r#"{"checkpoint":7,"files":[]}"#, "{"] {
        fs::write(bench.folder.path().join("_committed/00000000000000000007.dots.json"), broken).unwrap();
        let error = bench.dots().recover(&[(7, files.clone())], true).unwrap_err().to_string();
        assert!(error.contains("lists other files than the log does") && error.contains("sink.dots.path"), "{error}");
    }
}

#[test]
fn left_overs_of_any_generation_and_worker_are_deleted_and_nothing_else() {
    let mut bench = Bench::new("");
    let files = bench.checkpoint();
    let (committed, readings) = (bench.folder.path().join("_committed"), bench.readings());
    fs::create_dir_all(&committed).unwrap();
    for name in [".9-g2-w7-0.dots.staged", ".9-g44-w0-1.dots.open", ".1767225600000-g1-w0-0.dots.staged"] {
        bench.write(name, "..!");
    }
    let mut stay = [
        "4-0-0.dots",
        "4-g1-w0-0.dots",
        ".4-0-0.dots.77.tmp",
        ".4-g1-w0-0.other.open",
        ".4-g1-w0.dots.open",
        ".4-g1-w0-0-0.dots.open",
        ".4-w1-g0-0.dots.open",
        ".x-g1-w0-0.dots.open",
        ".4-g1-w0-0.dots",
        ".staged",
    ];
    stay.iter().for_each(|name| bench.write(name, "theirs!"));
    for name in [".00000000000000000007.dots.json.open", ".00000000000000000007.other.json.open", "_SUCCESS"] {
        fs::write(committed.join(name), "{").unwrap();
    }
    assert_eq!(bench.dots().recover(&[(7, files)], true).unwrap(), Recovered { named: 2, deleted: 3 });
    let mut expected = stay.to_vec();
    expected.push("5-g3-w0-0.dots");
    expected.sort();
    stay.sort();
    assert_eq!(names(&readings), expected);
    let listed = [".00000000000000000007.other.json.open", "00000000000000000007.dots.json", "_SUCCESS"];
    assert_eq!(names(&committed), listed);
}

#[test]
fn a_start_in_an_empty_place_finds_nothing_to_do() {
    let folder = Folder::of::<Dots>(TempDir::new().unwrap().path().join("not/there"));
    assert_eq!(folder.recover(&[], true).unwrap(), Recovered::default());
}
