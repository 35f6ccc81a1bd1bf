//! Files that are only ever seen whole: what Parquet and NDJSON have in common.
//!
//! ```text
//! <path>/<table>/.<first epoch>-<worker>-<sequence>.<extension>.<pid>.tmp   while it grows: hidden, and matched by no `*.parquet`
//! <path>/<table>/<first epoch>-<worker>-<sequence>.<extension>              written, fsynced, then named; the folder is fsynced after
//! ```
//!
//! Invariants:
//!
//! 1. A file under its final name is complete and is never changed or overwritten; there are no empty files.
//! 2. At most one file per table is open, and it is finished when it has `bytes_max` bytes or is `age_max` old: at the row batch, close or idle call that finds it so.
//! 3. [`Deliver::durable`] never covers a row of an open file.
//!
//! Left-over temporaries of a crashed run are removed at start if they are this worker's and their process is gone (its own pid counts as gone: nothing is open yet).
//! Where processes cannot be looked up (no `/proc`) they stay; being hidden they do no harm.
//!
//! It does not undo files that a crashed run finished after the last durable epoch that the run recorded. One folder belongs to one flow.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::TableName;
use crate::runtime::metrics::Metrics;
use crate::sink::{Deliver, Rows, SinkError};
use crate::time::Epoch;

/// Where an age comes from: `Instant::now`, or a test's hand.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// How rows become bytes of a file.
pub trait Format: Send {
    /// What is written of one batch of rows.
    type Chunk;
    /// An open file.
    type Writer: Send;
    /// The sink's name in metrics.
    const NAME: &'static str;
    /// What file names end with.
    const EXTENSION: &'static str;
    /// The setting that a user changes to write elsewhere.
    const SETTING: &'static str;

    /// What is to be written of these rows; `None` if nothing is.
    fn chunk(&self, rows: &Rows) -> Result<Option<Self::Chunk>, SinkError>;

    /// Begins a file for chunks like this one.
    fn begin(&self, file: File, like: &Self::Chunk) -> io::Result<Self::Writer>;

    /// Adds to a file.
    fn write(&self, writer: &mut Self::Writer, chunk: &Self::Chunk) -> io::Result<()>;

    /// Bytes that the file would have if it were finished now, roughly.
    fn bytes(writer: &Self::Writer) -> u64;

    /// Hands over what is buffered as far as the format allows.
    fn settle(writer: &mut Self::Writer) -> io::Result<()>;

    /// Completes the file's content.
    fn complete(&self, writer: Self::Writer, epochs: RangeInclusive<Epoch>) -> io::Result<File>;
}

/// When a file is finished.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// At this many bytes.
    pub bytes_max: u64,
    /// At this age.
    pub age_max: Duration,
}

/// A sink of files: one folder per table below `path`, one open file per table.
pub struct FileSink<F: Format> {
    format: F,
    path: PathBuf,
    worker: usize,
    limits: Limits,
    clock: Clock,
    metrics: Metrics,
    open: BTreeMap<TableName, Open<F::Writer>>,
    closed: Option<Epoch>,
}

/// A file that grows.
struct Open<W> {
    writer: W,
    staged: Staged,
    epochs: RangeInclusive<Epoch>,
    since: Instant,
}

impl<F: Format> FileSink<F> {
    /// Creates the folder and removes this worker's left-over temporaries.
    pub fn new(
        format: F,
        path: PathBuf,
        worker: usize,
        limits: Limits,
        clock: Clock,
        metrics: Metrics,
    ) -> Result<Self, SinkError> {
        let failed = |action, path: &Path, source| failure(action, path, F::SETTING, source);
        fs::create_dir_all(&path).map_err(|source| failed("create folder", &path, source))?;
        for table in TableName::ALL {
            let folder = path.join(table.name());
            sweep(&folder, worker, F::EXTENSION).map_err(|source| failed("clean up", &folder, source))?;
        }
        Ok(FileSink { format, path, worker, limits, clock, metrics, open: BTreeMap::new(), closed: None })
    }

    fn failed(&self, action: &'static str, table: TableName, source: io::Error) -> SinkError {
        failure(action, &self.path.join(table.name()), F::SETTING, source)
    }

    /// The table's open file, begun if there is none.
    fn opened(&mut self, table: TableName, epoch: Epoch, chunk: &F::Chunk) -> Result<Open<F::Writer>, SinkError> {
        if let Some(open) = self.open.remove(&table) {
            return Ok(open);
        }
        let begin = || {
            let folder = self.path.join(table.name());
            if !folder.try_exists()? {
                fs::create_dir_all(&folder)?;
                File::open(&self.path)?.sync_all()?;
            }
            let (file, staged) = Staged::create(&folder, &format!("{epoch}-{}", self.worker), F::EXTENSION)?;
            let writer = self.format.begin(file, chunk)?;
            Ok(Open { writer, staged, epochs: epoch..=epoch, since: (self.clock)() })
        };
        begin().map_err(|source| self.failed("begin a file in", table, source))
    }

    fn finish_file(&self, table: TableName, open: Open<F::Writer>) -> Result<(), SinkError> {
        let finish = |open: Open<F::Writer>| {
            let file = self.format.complete(open.writer, open.epochs)?;
            let bytes = file.metadata()?.len();
            file.sync_all()?;
            drop(file);
            open.staged.publish()?;
            Ok(bytes)
        };
        let bytes = finish(open).map_err(|source| self.failed("finish a file in", table, source))?;
        self.metrics.sink_bytes.with_label_values(&[F::NAME]).inc_by(bytes);
        self.metrics.sink_batches.with_label_values(&[F::NAME]).inc();
        Ok(())
    }

    /// Finishes the files for which `due` holds.
    fn finish_where(&mut self, due: impl Fn(&Open<F::Writer>) -> bool) -> Result<(), SinkError> {
        let tables: Vec<TableName> = self.open.iter().filter(|(_, open)| due(open)).map(|(table, _)| *table).collect();
        tables.into_iter().try_for_each(|table| match self.open.remove(&table) {
            Some(open) => self.finish_file(table, open),
            None => Ok(()),
        })
    }

    fn finish_old(&mut self) -> Result<(), SinkError> {
        if self.open.is_empty() {
            return Ok(());
        }
        let (now, age_max) = ((self.clock)(), self.limits.age_max);
        self.finish_where(|open| now.saturating_duration_since(open.since) >= age_max)
    }
}

impl<F: Format> Deliver for FileSink<F> {
    fn deliver(&mut self, epoch: Epoch, rows: &Rows) -> Result<(), SinkError> {
        let Some(chunk) = self.format.chunk(rows)? else { return Ok(()) };
        let mut open = self.opened(rows.table, epoch, &chunk)?;
        open.epochs = *open.epochs.start()..=epoch;
        // Whatever fails here drops `open`, and with it the temporary.
        self.format.write(&mut open.writer, &chunk).map_err(|source| self.failed("write to", rows.table, source))?;
        if F::bytes(&open.writer) >= self.limits.bytes_max {
            return self.finish_file(rows.table, open);
        }
        self.open.insert(rows.table, open);
        Ok(())
    }

    fn close(&mut self, epoch: Epoch) -> Result<(), SinkError> {
        self.closed = Some(epoch);
        self.finish_old()?;
        // No epoch lies before 0, so `durable` could not say that such a file is not there yet.
        self.finish_where(|open| *open.epochs.start() == 0)?;
        let failed = |table: &TableName, source| failure("write to", &self.path.join(table.name()), F::SETTING, source);
        self.open.iter_mut().try_for_each(|(table, open)| F::settle(&mut open.writer).map_err(|e| failed(table, e)))
    }

    fn idle(&mut self) -> Result<(), SinkError> {
        self.finish_old()
    }

    /// `None` until an epoch is closed.
    fn durable(&self) -> Option<Epoch> {
        let first = self.open.values().map(|open| *open.epochs.start()).min();
        let before = first.map_or(Epoch::MAX, |first| first.saturating_sub(1));
        self.closed.map(|closed| closed.min(before))
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.finish_where(|_| true)
    }
}

/// A file under its temporary name. Dropped unpublished, it is removed.
struct Staged {
    folder: PathBuf,
    stem: String,
    extension: &'static str,
    sequence: u32,
    temporary: PathBuf,
}

impl Staged {
    /// Begins `<stem>-<sequence>.<extension>` with the first sequence that is free.
    fn create(folder: &Path, stem: &str, extension: &'static str) -> io::Result<(File, Staged)> {
        let mut sequence = 0;
        loop {
            let name = format!("{stem}-{sequence}.{extension}");
            let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
            if !folder.join(&name).try_exists()? {
                match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                    Ok(file) => {
                        let (folder, stem) = (folder.to_path_buf(), stem.to_string());
                        return Ok((file, Staged { folder, stem, extension, sequence, temporary }));
                    }
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(error),
                }
            }
            sequence += 1;
        }
    }

    /// Gives the file its final name, the next one if somebody has taken it meanwhile.
    fn publish(self) -> io::Result<()> {
        let mut sequence = self.sequence;
        loop {
            let target = self.folder.join(format!("{}-{sequence}.{}", self.stem, self.extension));
            match name(&self.temporary, &target) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => sequence += 1,
                Err(error) => return Err(error),
            }
        }
        // The name is in the folder; the folder has to reach the disk as well.
        File::open(&self.folder)?.sync_all()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Gone already if it was published; what cannot be removed is hidden and swept at the next start.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Renames without overwriting. A hard link fails atomically if the name is taken, which `rename` does not; file systems without links get the check and the rename.
fn name(temporary: &Path, target: &Path) -> io::Result<()> {
    match fs::hard_link(temporary, target) {
        Ok(()) => fs::remove_file(temporary),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        Err(_) if target.try_exists()? => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(temporary, target),
    }
}

/// Removes a worker's temporaries whose process is gone.
fn sweep(folder: &Path, worker: usize, extension: &str) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let pid = entry.file_name().to_str().and_then(|name| owner(name, worker, extension));
        if pid.is_some_and(is_gone) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The process that a temporary of this worker belongs to; `None` for any other file.
fn owner(name: &str, worker: usize, extension: &str) -> Option<u32> {
    let name = name.strip_prefix('.')?.strip_suffix(".tmp")?;
    let (name, pid) = name.rsplit_once('.')?;
    let mut parts = name.strip_suffix(extension)?.strip_suffix('.')?.split('-');
    let (first, of, sequence) = (parts.next()?, parts.next()?, parts.next()?);
    let numbers = first.parse::<Epoch>().is_ok() && sequence.parse::<u32>().is_ok() && parts.next().is_none();
    (numbers && of.parse() == Ok(worker)).then(|| pid.parse().ok())?
}

fn is_gone(pid: u32) -> bool {
    let processes = Path::new("/proc");
    pid == std::process::id() || (processes.join("self").exists() && !processes.join(pid.to_string()).exists())
}

/// An error of the file system, with what to do about it.
fn failure(action: &'static str, path: &Path, setting: &str, source: io::Error) -> SinkError {
    let hint = match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => format!("free some space, or change {setting}"),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            format!("let this user write there, or change {setting}")
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            format!("a file is in the way of a folder: move it, or change {setting}")
        }
        _ => format!("{setting} names the place"),
    };
    let source = io::Error::new(source.kind(), format!("{source} ({hint})"));
    SinkError::Io { action, path: path.to_path_buf(), source }
}

#[cfg(test)]
mod tests;
