//! NDJSON files: the tables' rows as one JSON object a line ([`json`](crate::sink::json)), below `<path>/<table>/`.
//!
//! Files appear whole, and when their checkpoint is recorded ([`files`](crate::sink::files)); one is finished at a checkpoint, at 128 MiB or at 60 s.
//! Settled (`close`) means handed to the operating system.
//! `readings` may be filtered and their columns selected and renamed; the other tables are written as they are.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::{NdjsonSpec, TableName};
use crate::runtime::metrics::Metrics;
use crate::sink::files::{Clock, FileSink, Format, Limits, Output};
use crate::sink::filter::Filter;
use crate::sink::{Rows, SinkError, json};
use crate::time::Epoch;

/// A file is finished at this size …
pub const FILE_BYTES_MAX: u64 = 128 << 20;
/// … or at this age.
pub const FILE_AGE_MAX: Duration = Duration::from_secs(60);
/// Written to the operating system in pieces of this size.
pub(crate) const BUFFER_BYTES: usize = 256 << 10;

/// The NDJSON sink of one worker.
pub type NdjsonSink = FileSink<Ndjson>;

/// Rows as lines.
#[derive(Debug)]
pub struct Ndjson {
    spec: NdjsonSpec,
    /// For tables whose columns are not renamed.
    plain: BTreeMap<String, String>,
}

impl NdjsonSink {
    /// A sink below `spec.path`. That `spec.fields` names existing columns is checked by [`json::select`] at start, and here with the first rows.
    pub fn ndjson(
        spec: &NdjsonSpec,
        generation: u64,
        worker: usize,
        clock: Clock,
        metrics: Metrics,
    ) -> Result<Self, SinkError> {
        let limits = Limits { bytes_max: FILE_BYTES_MAX, age_max: FILE_AGE_MAX };
        let format = Ndjson { spec: spec.clone(), plain: BTreeMap::new() };
        FileSink::new(format, spec.path.clone(), generation, worker, limits, clock, metrics)
    }
}

/// A buffered file that knows its length.
pub struct Lines {
    file: BufWriter<Box<dyn Output>>,
    bytes: u64,
}

impl Format for Ndjson {
    type Chunk = Vec<u8>;
    type Writer = Lines;
    const NAME: &'static str = "ndjson";
    const SETTING: &'static str = "sink.ndjson.path";

    fn chunk(&self, rows: &Rows) -> Result<Option<Vec<u8>>, SinkError> {
        if !self.spec.tables.contains(&rows.table) {
            return Ok(None);
        }
        let fields = if rows.table == TableName::Readings { &self.spec.fields } else { &self.plain };
        let filter = Filter::new(self.spec.readings, rows);
        let lines = json::rows_where(&rows.batch, fields, |row| filter.passes(row))
            .map_err(|error| SinkError::Refused(format!("sink.ndjson.fields: {error}")))?
            .into_bytes();
        Ok((!lines.is_empty()).then_some(lines))
    }

    fn rows(chunk: &Vec<u8>) -> u64 {
        // A newline within a text is written as an escape.
        memchr::memchr_iter(b'\n', chunk).count() as u64
    }

    fn begin(&self, file: Box<dyn Output>, _: &Vec<u8>) -> io::Result<Lines> {
        Ok(Lines { file: BufWriter::with_capacity(BUFFER_BYTES, file), bytes: 0 })
    }

    fn write(&self, writer: &mut Lines, chunk: &Vec<u8>) -> io::Result<()> {
        writer.bytes += chunk.len() as u64;
        writer.file.write_all(chunk)
    }

    fn bytes(writer: &Lines) -> u64 {
        writer.bytes
    }

    fn settle(writer: &mut Lines) -> io::Result<()> {
        writer.file.flush()
    }

    fn complete(&self, mut writer: Lines, _: RangeInclusive<Epoch>, _: u64) -> io::Result<u64> {
        writer.file.flush()?;
        writer.file.get_mut().sync()
    }
}

#[cfg(test)]
mod tests;
