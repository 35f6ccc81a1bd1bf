//! Proves what is delivered for files of every odd shape, in which order, and that nothing depends on the size of batches or the number of workers.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::source::Share;

const ONE: Share = Share { worker: 0, workers: 1 };

/// A folder with files, and what is read from it.
struct Folder {
    root: TempDir,
    spec: SourceSpec,
    resume: BTreeMap<Partition, i64>,
    stop: Stop,
}

fn key(path: &str) -> [u8; 6] {
    let sum = path.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    sum.to_le_bytes()[..6].try_into().unwrap()
}

impl Folder {
    fn with(files: &[(&str, &[u8])]) -> Self {
        let root = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(root.path().join(name), content).unwrap();
        }
        let spec = SourceSpec { paths: vec![root.path().to_owned()], record_bytes_max: 100, ..SourceSpec::default() };
        Folder { root, spec, resume: BTreeMap::new(), stop: Stop::default() }
    }

    fn open(&self, share: Share) -> FileSource {
        let topics = topics(&self.spec, &key).unwrap();
        let opening = Opening {
            share,
            until_end: true,
            topics: &topics,
            path_key: &key,
            resume: &self.resume,
            stop: &self.stop,
            progress: None,
        };
        FileSource::open(&self.spec, &opening).unwrap()
    }

    /// One line a record, then one a mark, files by their names. `(first)` stands behind what came first, if anything did.
    fn read(&self, share: Share, bytes_max: usize) -> Vec<String> {
        self.drain(&mut self.open(share), bytes_max)
    }

    fn drain(&self, source: &mut FileSource, bytes_max: usize) -> Vec<String> {
        let topics = topics(&self.spec, &key).unwrap();
        let mut names = BTreeMap::new();
        for input in find(&self.spec.paths, &key).unwrap().0 {
            let name = input.path.strip_prefix(self.root.path()).unwrap_or(&input.path).display().to_string();
            names.insert(topics.id(&input.topic).unwrap(), name);
        }
        let (mut lines, mut marks) = (Vec::new(), Vec::new());
        loop {
            let mut records = Records::default();
            let polled = source.poll(bytes_max, &mut records).unwrap();
            for record in &records.records {
                let Position { partition, offset, .. } = record.position;
                let text = match record.payload {
                    Payload::Bytes(slice) => String::from_utf8_lossy(records.arena.bytes(slice)).into_owned(),
                    other => format!("{other:?}"),
                };
                lines.push(format!("{} {offset} {text}", names[&partition.topic]));
            }
            for mark in &records.marks {
                marks.push(match mark {
                    Mark::Opened(partition) => format!("{} opened", names[&partition.topic]),
                    Mark::Ended(partition) => format!("{} ended", names[&partition.topic]),
                    Mark::Idle(_) => panic!("a file is never idle"),
                });
            }
            match polled {
                Polled::Some => assert!(!records.records.is_empty() || !records.marks.is_empty()),
                Polled::First => {
                    assert!(records.records.is_empty() && records.marks.is_empty());
                    lines.extend((!lines.is_empty()).then(|| "(first)".to_owned()));
                }
                _ => {
                    assert!(polled == Polled::End && records.records.is_empty() && records.marks.is_empty());
                    return [lines, marks].concat();
                }
            }
        }
    }
}

/// What one file delivers, marks left out.
fn check(name: &str, content: &[u8], expected: &[&str]) {
    let lines = Folder::with(&[(name, content)]).read(ONE, 1 << 20);
    let records: Vec<&str> =
        lines.iter().filter(|line| !line.ends_with("ed")).map(|line| &line[name.len() + 1..]).collect();
    assert_eq!(records, expected, "{name}");
    assert!(
        lines.contains(&format!("{name} opened")) && *lines.last().unwrap() == format!("{name} ended"),
        "{lines:?}"
    );
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn ndjson_of_every_odd_shape() {
    check("a.ndjson", b"", &[]);
    check("a.ndjson", b"{\"a\":1}\r\n\r\n  \n{\"a\":2}", &["0 {\"a\":1}", "1 {\"a\":2}"]);
    check("a.jsonl", b"\xEF\xBB\xBF{\"a\":1}\nnot json\n", &["0 {\"a\":1}", "1 not json"]);
    let long = format!("1\n{}\n2\n{}", "x".repeat(101), "y".repeat(400_000));
    check("a.ndjson", long.as_bytes(), &["0 1", "1 TooLarge", "2 2", "3 TooLarge"]);
}

#[test]
fn json_is_one_document_or_in_truth_ndjson() {
    check("a.json", b"{\n  \"a\": 1\n}\n", &["0 {\n  \"a\": 1\n}"]);
    check("a.json", b"{\"a\":1}\n{\"a\":2}\n", &["0 {\"a\":1}", "1 {\"a\":2}"]);
    // A document may be larger than a record.
    let pretty = format!("[\n\"{}\"]", "x".repeat(600_000));
    check("a.json", pretty.as_bytes(), &[&format!("0 {pretty}")]);
}

#[test]
fn compressed_files_are_read_as_what_they_hold() {
    let mut two = gzip(b"{\"a\":1}\n");
    two.extend(gzip(b"{\"a\":2}\n"));
    check("a.ndjson.gz", &two, &["0 {\"a\":1}", "1 {\"a\":2}"]);
    check("a.json.gz", &gzip(b"{\n\"a\":1}"), &["0 {\n\"a\":1}"]);
    check("a.ndjson.zst", &zstd::encode_all(&b"{\"a\":1}\n{\"a\":2}"[..], 1).unwrap(), &["0 {\"a\":1}", "1 {\"a\":2}"]);
}

#[test]
fn a_file_that_breaks_off_delivers_what_was_readable_and_says_so() {
    let lines: String = (0..5_000).map(|number| format!("{{\"a\":{}}}\n", number * 7919 % 104_729)).collect();
    let whole = gzip(lines.as_bytes());
    let records = |content: &[u8]| -> Vec<String> { Folder::with(&[("a.ndjson.gz", content)]).read(ONE, 1 << 20) };
    let broken = records(&whole[..whole.len() / 2]);
    let intact = records(&whole);
    let readable = broken.len() - 3;
    assert!(readable > 100 && intact.len() == 5_002, "{readable}");
    assert_eq!(broken[..readable], intact[..readable]);
    assert_eq!(broken[readable], format!("a.ndjson.gz {readable} Unreadable"));
    check("a.ndjson.gz", b"not gzip at all", &["0 Unreadable"]);
    check("a.ndjson.zst", b"not zstd at all", &["0 Unreadable"]);
}

#[test]
fn patients_come_first_and_the_rest_in_order() {
    let folder = Folder::with(&[
        ("a.ndjson", b"{\"resourceType\":\"Observation\"}"),
        ("b.ndjson", b"{\"id\":\"1\", \"resourceType\" : \"Patient\"}"),
        ("c.json", b"{\n\"resourceType\":\n\"Patient\"}"),
        ("d.json", b"{\"resourceType\":\"Bundle\",\"entry\":[{\"resource\":{\"resourceType\":\"Patient\"}}]}"),
    ]);
    let lines = folder.read(ONE, 1 << 20);
    let files: Vec<&str> = lines
        .iter()
        .filter(|line| line.contains(" 0 ") || *line == "(first)")
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(files, ["b.ndjson", "c.json", "(first)", "a.ndjson", "d.json"]);
}

#[test]
fn every_file_belongs_to_one_worker_and_batches_do_not_matter() {
    let names: Vec<String> = (0..12).map(|number| format!("{number:02}.ndjson")).collect();
    let content: String = (0..50).map(|number| format!("{{\"a\":{number}}}\n")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), content.as_bytes())).collect();
    let folder = Folder::with(&files);
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    let alone = sorted(folder.read(ONE, 1 << 20));
    assert_eq!(alone.len(), 12 * 52);
    assert_eq!(sorted(folder.read(ONE, 1)), alone);
    let share = |worker| folder.read(Share { worker, workers: 3 }, 1_000);
    assert_eq!(sorted([share(0), share(1), share(2)].concat()), alone);
}

#[test]
fn a_file_that_vanishes_after_the_start_is_one_unreadable_record() {
    let folder = Folder::with(&[("a.ndjson", b"1\n"), ("b.ndjson", b"2\n")]);
    let mut source = folder.open(ONE);
    fs::write(folder.root.path().join("keep.ndjson"), "").unwrap();
    let vanished = folder.root.path().join("b.ndjson");
    let kept = fs::read(&vanished).unwrap();
    fs::remove_file(&vanished).unwrap();
    let mut records = Records::default();
    while source.poll(1 << 20, &mut records).unwrap() != Polled::End {}
    fs::write(&vanished, kept).unwrap();
    let payloads: Vec<_> = records.records.iter().map(|record| record.payload).collect();
    assert!(matches!(payloads[..], [Payload::Bytes(_), Payload::Unreadable]), "{payloads:?}");
    assert_eq!(records.marks.len(), 4);
}

#[test]
fn a_resumed_file_goes_on_at_its_ordinal() {
    let mut folder = Folder::with(&[("a.ndjson", b"1\n2\n3\n")]);
    let topics = topics(&folder.spec, &key).unwrap();
    let name = topics.names().next().unwrap().to_owned();
    folder.resume.insert(Partition { topic: topics.id(&name).unwrap(), number: 0 }, 2);
    assert_eq!(folder.read(ONE, 1 << 20), ["a.ndjson 2 3", "a.ndjson opened", "a.ndjson ended"]);
}

#[test]
fn a_stop_ends_the_source_but_not_its_partitions() {
    let folder = Folder::with(&[("a.ndjson", b"1\n")]);
    let mut source = folder.open(ONE);
    folder.stop.ask();
    let mut records = Records::default();
    assert_eq!(source.poll(1 << 20, &mut records).unwrap(), Polled::End);
    assert!(records.marks.is_empty());
}

#[test]
fn topics_do_not_name_files() {
    let folder = Folder::with(&[("smith_john.ndjson", b"1\n")]);
    let topics = topics(&folder.spec, &key).unwrap();
    assert!(topics.names().all(|name| name.len() == 17 && !name.contains("smith")), "{topics:?}");
    let missing = SourceSpec { paths: vec![Path::new("no/such").into()], ..SourceSpec::default() };
    assert!(super::topics(&missing, &key).unwrap_err().to_string().starts_with("could not read \"no/such\""));
}

#[test]
fn documents_for_feeding_are_those_of_the_source() {
    let folder = Folder::with(&[("a.ndjson", b"1\n2\n"), ("b.json", b"{\n}"), ("c.txt", b"")]);
    let mut documents = documents(&folder.spec.paths, 100).unwrap();
    let read: Vec<_> =
        documents.by_ref().map(|(file, bytes)| format!("{file} {}", String::from_utf8(bytes).unwrap())).collect();
    assert_eq!(read, ["0 1", "0 2", "1 {\n}"]);
    assert_eq!((documents.skipped(), documents.passed_over()), (1, 0));
}

#[test]
fn real_samples_are_each_one_record_or_one_a_line() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fhir-samples");
    if !samples.is_dir() {
        println!("skipped: no folder ../shared/fhir-samples beside the project");
        return;
    }
    let count = documents(&[samples.join("hl7_r4"), samples.join("us_core")], 1 << 20)
        .unwrap()
        .inspect(|(_, bytes)| {
            assert!(serde_json::from_slice::<serde_json::Value>(bytes).unwrap()["resourceType"].is_string())
        })
        .count();
    assert!(count >= 30, "{count}");
}

#[test]
fn a_file_that_was_read_and_is_gone_has_ended_for_the_worker_whose_it_was() {
    let folder = Folder::with(&[("a.ndjson", b"1\n2\n")]);
    let there = topics(&folder.spec, &key).unwrap();
    let all = Topics::continuing(&["file-gone".to_owned()], there.names().map(str::to_owned));
    let gone = Partition { topic: all.id("file-gone").unwrap(), number: 0 };
    let mut ended = Vec::new();
    for worker in 0..3 {
        let opening = Opening {
            share: Share { worker, workers: 3 },
            until_end: true,
            topics: &all,
            path_key: &key,
            resume: &BTreeMap::from([(gone, 7)]),
            stop: &folder.stop,
            progress: None,
        };
        let mut source = FileSource::open(&folder.spec, &opening).unwrap();
        let mut records = Records::default();
        while source.poll(1 << 20, &mut records).unwrap() != Polled::End {}
        ended.extend(records.marks.into_iter().filter(|mark| *mark == Mark::Ended(gone)).map(|_| worker));
    }
    let whose = (0..3).find(|worker| Share { worker: *worker, workers: 3 }.takes("file-gone", 0));
    assert_eq!(ended, Vec::from_iter(whose));
}
