//! Records from files and standard input: NDJSON line by line, `.json` as one document (or as lines, if that is what it holds), each also
//! compressed with gzip or zstd.
//!
//! ```text
//! paths ─find─> inputs ─Share─> this worker's ─order─> one after the other: chunks ─split─> Records
//! ```
//!
//! Invariants:
//!
//! 1. A file is a topic with the one partition 0; a record's offset is its ordinal among the file's documents, blank lines not counted.
//! 2. All partitions are opened at the start and each ends at its end, in every case: a file that breaks off delivers what was readable, then one
//!    record [`Payload::Unreadable`], and ends.
//! 3. Files that begin with a Patient come first, on all workers ([`Polled::First`]): a FHIR Bulk Data export keeps demographics in files of
//!    their own, and they must be known before the first observation is scored, whatever is read where. Otherwise the order is that of [`find`].
//! 4. An earlier run's offset is used for the file alone in which it was counted ([`identity`]); standard input is never resumed. A file that an earlier run
//!    has read and that is there no more has ended.
//!
//! Limits: one open file a worker (while epochs of an earlier run are repeated, one for each of its workers), [`chunks::CHUNK_BYTES`] beyond the bytes asked for, `source.record_bytes_max` a line,
//! [`DOCUMENT_BYTES_MAX`] a document. It does not watch folders for new files.

mod chunks;
mod find;
pub(super) mod identity;
mod split;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::path::PathBuf;

use self::chunks::{Chunks, Next};
use self::find::{Input, closed, find, find_all};
use self::split::{Piece, Splitter};
use crate::config::SourceSpec;
use crate::identified::{Mark, Payload, Record, Records};
use crate::runtime::stop::Stop;
use crate::source::{Lag, Opening, PathKey, Poll, Polled, SourceError, Topics};
use crate::vocabulary::{Partition, Position};

/// The largest `.json` file that is read as one document (unless `source.record_bytes_max` is larger): a Bundle of a long life in hospital has tens of MB.
pub const DOCUMENT_BYTES_MAX: usize = 256 << 20;

/// The topic that standard input is.
const STDIN_TOPIC: &str = "stdin";

/// What the topics of files of outcomes begin with.
pub(crate) const OUTCOMES_TOPIC: &str = "file-outcomes-";

/// So much of a file's beginning is searched for its first resource's type.
const HEAD_BYTES: usize = 16 << 10;

/// The topics of the files that are there now.
pub(super) fn topics(spec: &SourceSpec, key: PathKey<'_>) -> Result<Topics, SourceError> {
    let (inputs, skipped) = find_all(spec, key)?;
    if skipped > 0 {
        tracing::info!(target: "source", skipped, "files whose names do not end in .json, .ndjson or .jsonl (.gz, .zst) are not read");
    }
    Ok(Topics::new(inputs.into_iter().map(|input| input.topic)))
}

/// One worker's share of some files.
pub struct FileSource {
    /// Those that begin with a Patient; `None` once it was said that they have been read.
    first: Option<VecDeque<File>>,
    waiting: VecDeque<File>,
    current: Option<Reading>,
    /// Files that were left in the middle, because nothing beyond a limit was wanted of them.
    left: VecDeque<Reading>,
    limits: Option<BTreeMap<Partition, i64>>,
    /// Not delivered yet.
    marks: Vec<Mark>,
    /// Ascending by partition.
    lags: Vec<Lag>,
    record_bytes_max: usize,
    stop: Stop,
}

/// A file that waits for its turn.
struct File {
    input: Input,
    partition: Partition,
    /// Documents before this one were delivered by an earlier run.
    resume: i64,
}

/// The file whose turn it is.
struct Reading {
    chunks: Chunks,
    splitter: Splitter,
    documents: Documents,
}

/// Where the next document of a file belongs.
#[derive(Clone, Copy)]
struct Documents {
    partition: Partition,
    offset: i64,
    resume: i64,
}

impl FileSource {
    /// Looks at the beginning of each file of this worker, so that one that cannot be read stops the run before it begins.
    ///
    /// # Errors
    /// [`SourceError::Configuration`], naming the path as it was written.
    pub fn open(spec: &SourceSpec, opening: &Opening<'_>) -> Result<Self, SourceError> {
        let (inputs, _) = find_all(spec, opening.path_key)?;
        let (mut patients, mut others, mut unknown) = (Vec::new(), Vec::new(), 0);
        let mut there = BTreeSet::new();
        for input in inputs {
            let Some(topic) = opening.topics.newest(&input.topic) else {
                unknown += 1;
                continue;
            };
            there.insert(topic);
            if !opening.share.takes(opening.topics.name(topic), 0) {
                continue;
            }
            let partition = Partition { topic, number: 0 };
            let resume = opening.resume.get(&partition).copied().unwrap_or(0);
            let of_patients = begins_with_patient(&input).map_err(|why| closed(&input, &why))?;
            if of_patients { &mut patients } else { &mut others }.push(File { input, partition, resume });
        }
        if unknown > 0 {
            tracing::warn!(target: "source", unknown, "files appeared while the run was starting; the next run reads them");
        }
        // It may have been left in the middle, and would hold windows open for ever.
        let gone = opening.resume.keys().filter(|partition| !there.contains(&partition.topic));
        let ours = |partition: &&Partition| opening.share.takes(opening.topics.name(partition.topic), 0);
        let gone: Vec<Mark> = gone.filter(ours).map(|partition| Mark::Ended(*partition)).collect();
        let all = || patients.iter().chain(&others);
        let lag = |file: &File| Lag { partition: file.partition, position: file.resume, records: 0 };
        let mut lags: Vec<Lag> = all().map(lag).collect();
        lags.sort_unstable_by_key(|lag| lag.partition);
        Ok(FileSource {
            marks: all().map(|file| Mark::Opened(file.partition)).chain(gone).collect(),
            lags,
            first: Some(patients.into()),
            waiting: others.into(),
            current: None,
            left: VecDeque::new(),
            limits: None,
            record_bytes_max: spec.record_bytes_max,
            stop: opening.stop.clone(),
        })
    }

    /// The next file, opened; `None` if none is left of those whose time it is. One that vanished meanwhile is one unreadable record.
    fn turn(&mut self, into: &mut Records) -> Option<&mut Reading> {
        self.leave();
        while self.current.is_none() {
            let limits = &self.limits;
            let wanted = |partition, position| {
                limits.as_ref().is_none_or(|limits| limits.get(&partition).is_some_and(|limit| position < *limit))
            };
            if let Some(at) = self.left.iter().position(|left| wanted(left.documents.partition, left.documents.offset))
            {
                self.current = self.left.remove(at);
                break;
            }
            let files = self.first.as_mut().unwrap_or(&mut self.waiting);
            let at = files.iter().position(|file| wanted(file.partition, file.resume))?;
            let File { input, partition, resume } = files.remove(at)?;
            let mut documents = Documents { partition, offset: 0, resume };
            match Chunks::open(&input) {
                Ok(chunks) => {
                    let splitter = Splitter::new(input.shape, self.record_bytes_max, DOCUMENT_BYTES_MAX);
                    self.current = Some(Reading { chunks, splitter, documents });
                }
                Err(_) => {
                    documents.deliver(Payload::Unreadable, into);
                    self.close(&documents);
                }
            }
        }
        self.current.as_mut()
    }

    /// Leaves a file of which nothing is wanted at present.
    fn leave(&mut self) {
        let beyond = |reading: &Reading, limits: &BTreeMap<Partition, i64>| {
            limits.get(&reading.documents.partition).is_none_or(|limit| reading.documents.offset >= *limit)
        };
        if let (Some(reading), Some(limits)) = (&self.current, &self.limits)
            && beyond(reading, limits)
        {
            self.left.extend(self.current.take());
        }
    }

    fn close(&mut self, documents: &Documents) {
        self.note(documents);
        self.marks.push(Mark::Ended(documents.partition));
        self.current = None;
    }

    fn note(&mut self, documents: &Documents) {
        if let Ok(at) = self.lags.binary_search_by_key(&documents.partition, |lag| lag.partition) {
            self.lags[at].position = self.lags[at].position.max(documents.offset);
        }
    }
}

impl Poll for FileSource {
    fn poll(&mut self, bytes_max: usize, into: &mut Records) -> Result<Polled, SourceError> {
        if self.stop.drain() {
            return Ok(Polled::End);
        }
        let (start, before) = (into.arena.len(), into.records.len());
        let mut later = false;
        while !later && into.arena.len() - start < bytes_max {
            let Some(reading) = self.turn(into) else { break };
            let step = reading.step(into);
            later = step == ControlFlow::Continue(false);
            let documents = reading.documents;
            if step.is_break() {
                self.close(&documents);
            } else {
                self.note(&documents);
            }
        }
        let marked = !self.marks.is_empty();
        into.marks.append(&mut self.marks);
        Ok(if marked || into.records.len() > before {
            Polled::Some
        } else if later || self.limits.is_some() {
            Polled::Nothing
        } else if self.first.take().is_some() {
            Polled::First
        } else {
            Polled::End
        })
    }

    fn limit(&mut self, limits: Option<&BTreeMap<Partition, i64>>) {
        self.limits = limits.cloned();
    }

    /// Files keep no offsets.
    fn durable(&mut self, _: &[(Partition, i64)]) {}

    /// How many documents wait in a file is not known before it is read: 0.
    fn lag(&self) -> Vec<Lag> {
        self.lags.clone()
    }
}

impl Reading {
    /// One chunk. Breaks at the file's end; continues with `false` if there is nothing yet.
    fn step(&mut self, into: &mut Records) -> ControlFlow<(), bool> {
        let Reading { chunks, splitter, documents } = self;
        match chunks.next() {
            Ok(Next::Bytes(chunk)) => {
                splitter.push(chunk, &mut |piece| documents.take(piece, into));
                ControlFlow::Continue(true)
            }
            Ok(Next::Later) => ControlFlow::Continue(false),
            Ok(Next::End) => {
                splitter.finish(&mut |piece| documents.take(piece, into));
                ControlFlow::Break(())
            }
            Err(_) => {
                // What the splitter still holds is a document without its end.
                documents.deliver(Payload::Unreadable, into);
                ControlFlow::Break(())
            }
        }
    }
}

impl Documents {
    fn take(&mut self, piece: Piece<'_>, into: &mut Records) {
        if self.offset < self.resume {
            self.offset += 1;
            return;
        }
        let payload = match piece {
            Piece::Bytes(bytes) => Payload::Bytes(into.arena.push(bytes)),
            Piece::TooLarge => Payload::TooLarge,
        };
        self.deliver(payload, into);
    }

    fn deliver(&mut self, payload: Payload, into: &mut Records) {
        if self.offset >= self.resume {
            let position = Position { partition: self.partition, offset: self.offset, entry: 0 };
            into.records.push(Record { position, received_at: None, payload, key: None });
        }
        self.offset += 1;
    }
}

/// True if the first resource type named in the file is Patient. A guess for the order alone: standard input is not looked at.
fn begins_with_patient(input: &Input) -> std::io::Result<bool> {
    if input.topic == STDIN_TOPIC {
        return Ok(false);
    }
    let mut chunks = Chunks::open(input)?;
    // A compressed file that breaks off in its first chunk is reported as a record, not here: the file itself can be read.
    let Ok(Next::Bytes(head)) = chunks.next() else { return Ok(false) };
    let head = &head[..head.len().min(HEAD_BYTES)];
    let Some(at) = memchr::memmem::find(head, b"\"resourceType\"") else { return Ok(false) };
    let value = head[at + b"\"resourceType\"".len()..].trim_ascii_start();
    Ok(value.strip_prefix(b":").is_some_and(|value| value.trim_ascii_start().starts_with(b"\"Patient\"")))
}

/// The files of a flow with the topics that stand for them in every output: for the eyes of whoever holds the key.
///
/// # Errors
/// [`SourceError::Configuration`], naming the path as it was written.
pub fn list(spec: &SourceSpec, key: PathKey<'_>) -> Result<Vec<(PathBuf, String)>, SourceError> {
    let (inputs, _) = find_all(spec, key)?;
    Ok(inputs.into_iter().map(|input| (input.path, input.topic)).collect())
}

/// The documents of some files, for feeding them to an [`embedded`](super::embedded) broker. Each comes with the ordinal of its file.
///
/// What cannot be read or is too large is passed over and counted: see [`Documented::passed_over`].
///
/// # Errors
/// [`SourceError::Configuration`], naming the path as it was written.
pub fn documents(paths: &[PathBuf], record_bytes_max: usize) -> Result<Documented, SourceError> {
    // Topics are not needed; any injective name will do, and paths are told apart by the whole of them.
    let ordinal = std::cell::Cell::new(0_u64);
    let key = |_: &str| {
        ordinal.set(ordinal.get() + 1);
        let [a, b, c, d, e, f, ..] = ordinal.get().to_le_bytes();
        [a, b, c, d, e, f]
    };
    let (inputs, skipped) = find(paths, &key)?;
    let (mut patients, mut others) = (Vec::new(), Vec::new());
    for input in inputs {
        let of_patients = begins_with_patient(&input).map_err(|why| closed(&input, &why))?;
        if of_patients { &mut patients } else { &mut others }.push(input);
    }
    let waiting = patients.into_iter().chain(others).enumerate().collect();
    Ok(Documented { waiting, current: None, ready: VecDeque::new(), record_bytes_max, skipped, passed_over: 0 })
}

/// See [`documents`]. Waits where it reads; not for workers.
pub struct Documented {
    waiting: VecDeque<(usize, Input)>,
    current: Option<(usize, Chunks, Splitter)>,
    ready: VecDeque<(usize, Vec<u8>)>,
    record_bytes_max: usize,
    skipped: usize,
    passed_over: u64,
}

impl Documented {
    /// Files that were not read because of their names.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// Documents so far that were too large or broke off.
    pub fn passed_over(&self) -> u64 {
        self.passed_over
    }

    /// Reads one chunk into `ready`. False at the end of everything.
    fn advance(&mut self) -> bool {
        if self.current.is_none() {
            let Some((file, input)) = self.waiting.pop_front() else { return false };
            match Chunks::open(&input) {
                Ok(chunks) => {
                    let splitter = Splitter::new(input.shape, self.record_bytes_max, DOCUMENT_BYTES_MAX);
                    self.current = Some((file, chunks, splitter));
                }
                Err(_) => self.passed_over += 1,
            }
        }
        let Documented { current, ready, passed_over, .. } = self;
        let Some((file, chunks, splitter)) = current else { return true };
        let mut take = |piece: Piece<'_>| match piece {
            Piece::Bytes(bytes) => ready.push_back((*file, bytes.to_owned())),
            Piece::TooLarge => *passed_over += 1,
        };
        match chunks.next() {
            Ok(Next::Bytes(chunk)) => splitter.push(chunk, &mut take),
            Ok(Next::Later) => std::thread::sleep(std::time::Duration::from_millis(5)),
            Ok(Next::End) => {
                splitter.finish(&mut take);
                self.current = None;
            }
            Err(_) => {
                self.passed_over += 1;
                self.current = None;
            }
        }
        true
    }
}

impl Iterator for Documented {
    type Item = (usize, Vec<u8>);

    fn next(&mut self) -> Option<(usize, Vec<u8>)> {
        while self.ready.is_empty() {
            if !self.advance() {
                return None;
            }
        }
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests;
