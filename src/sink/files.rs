//! Files that are only ever seen whole and once: what Parquet and NDJSON have in common.
//!
//! ```text
//! <path>/<table>/.<first epoch>-g<generation>-w<worker>-<sequence>.<ending>.open      grows
//! <path>/<table>/.<first epoch>-g<generation>-w<worker>-<sequence>.<ending>.staged    complete and synced; listed by the next checkpoint
//! <path>/<table>/<first epoch>-g<generation>-w<worker>-<sequence>.<ending>            named when that checkpoint is recorded ([`folder`])
//! <path>/_committed/<checkpoint's last epoch, 20 digits>.<sink>.json                  the files of that checkpoint, written after they are named
//! ```
//!
//! Invariants:
//!
//! 1. A file under its final name is complete, is never changed or overwritten, and holds rows of recorded checkpoints alone. There are no empty files.
//! 2. No file has rows of two checkpoints: [`Deliver::stage`] finishes all that are open.
//! 3. At most one file per table is open, and it is finished when it has `bytes_max` bytes or is `age_max` old: at the row batch, close or idle call that
//!    finds it so.
//! 4. What is staged survives a crash of the machine: content and folder are synced before `stage` returns.
//! 5. No two runs give the same name: `generation` belongs to one of them. Within a run a name is not given twice, even if somebody takes a file away.
//!
//! What a crash leaves open or staged stays hidden, and [`Folder::recover`] names or deletes it at the next start. One folder belongs to one flow.
//! Why it is so: `docs/decisions/0012-files-are-named-by-checkpoints.md`.

pub mod disk;
pub mod folder;

#[cfg(test)]
pub(crate) mod faults;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::disk::Output;
use self::disk::{Disk, System};
pub use self::folder::{Folder, Recovered};
use crate::config::TableName;
use crate::runtime::failpoint::Guard;
use crate::runtime::metrics::Metrics;
use crate::sink::{Deliver, Rows, SinkError, StagedFile};
use crate::time::Epoch;

/// What the hidden name of a growing file ends with.
const OPEN: &str = ".open";
/// What the hidden name of a complete file ends with.
const STAGED: &str = ".staged";

/// Where an age comes from: `Instant::now`, or a test's hand.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// How rows become bytes of a file.
pub trait Format: Send {
    /// What is written of one batch of rows.
    type Chunk;
    /// An open file.
    type Writer: Send;
    /// The sink's name in metrics and in the log, and what file names end with.
    const NAME: &'static str;
    /// The setting that a user changes to write elsewhere.
    const SETTING: &'static str;

    /// What is to be written of these rows; `None` if nothing is.
    fn chunk(&self, rows: &Rows) -> Result<Option<Self::Chunk>, SinkError>;

    /// How many rows that is.
    fn rows(chunk: &Self::Chunk) -> u64;

    /// Begins a file for chunks like this one.
    fn begin(&self, file: Box<dyn Output>, like: &Self::Chunk) -> io::Result<Self::Writer>;

    /// Adds to a file.
    fn write(&self, writer: &mut Self::Writer, chunk: &Self::Chunk) -> io::Result<()>;

    /// Bytes that the file would have if it were finished now, roughly.
    fn bytes(writer: &Self::Writer) -> u64;

    /// Hands over what is buffered as far as the format allows.
    fn settle(writer: &mut Self::Writer) -> io::Result<()>;

    /// Completes the file's content, which holds rows of these epochs, written by this generation; syncs it, and returns its length in bytes.
    fn complete(&self, writer: Self::Writer, epochs: RangeInclusive<Epoch>, generation: u64) -> io::Result<u64>;
}

/// When a file is finished, if no checkpoint comes before.
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
    generation: u64,
    worker: usize,
    limits: Limits,
    clock: Clock,
    metrics: Metrics,
    disk: Arc<dyn Disk>,
    open: BTreeMap<TableName, Open<F::Writer>>,
    /// Complete since the last checkpoint, in this order.
    finished: Vec<StagedFile>,
    /// First epoch and sequence of each table's last file.
    last: BTreeMap<TableName, (Epoch, u32)>,
    committed: Option<Epoch>,
}

/// A file that grows. The writer goes first: what it still flushes when it is dropped belongs to a file that is removed right after.
struct Open<W> {
    writer: W,
    temporary: Temporary,
    name: String,
    epochs: RangeInclusive<Epoch>,
    rows: u64,
    since: Instant,
}

/// The hidden name of a file that grows. Dropped before the file is staged, it removes it.
struct Temporary {
    path: PathBuf,
    disk: Arc<dyn Disk>,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already if it was staged; what cannot be removed is hidden and deleted at the next start.
        let _ = self.disk.remove(&self.path);
    }
}

impl<F: Format> FileSink<F> {
    /// Creates the folder. `generation` is the run's own number, which no other run below this path has had.
    ///
    /// # Errors
    /// The folder cannot be created.
    pub fn new(
        format: F,
        path: PathBuf,
        generation: u64,
        worker: usize,
        limits: Limits,
        clock: Clock,
        metrics: Metrics,
    ) -> Result<Self, SinkError> {
        let disk = Arc::new(System);
        let create = || {
            disk.create_folder(&path)?;
            // Above a relative path of one part is the folder of the process.
            path.parent().filter(|above| !above.as_os_str().is_empty()).map_or(Ok(()), |above| disk.sync_folder(above))
        };
        create().map_err(|source| failure("create folder", &path, F::SETTING, source))?;
        Ok(FileSink {
            format,
            path,
            generation,
            worker,
            limits,
            clock,
            metrics,
            disk,
            open: BTreeMap::new(),
            finished: Vec::new(),
            last: BTreeMap::new(),
            committed: None,
        })
    }

    /// Rows up to and including this epoch stand in files of recorded checkpoints: they are taken and not written.
    /// So it is after a start from an older checkpoint than the newest, whose epochs come again.
    pub fn skip_up_to(&mut self, epoch: Epoch) {
        self.committed = self.committed.max(Some(epoch));
    }

    fn failed(&self, action: &'static str, table: TableName, source: io::Error) -> SinkError {
        failure(action, &self.path.join(table.name()), F::SETTING, source)
    }

    /// The table's open file, begun if there is none.
    fn opened(&mut self, table: TableName, epoch: Epoch, chunk: &F::Chunk) -> Result<Open<F::Writer>, SinkError> {
        match self.open.remove(&table) {
            Some(open) => Ok(open),
            None => self.begin(table, epoch, chunk).map_err(|source| self.failed("begin a file in", table, source)),
        }
    }

    fn begin(&mut self, table: TableName, epoch: Epoch, chunk: &F::Chunk) -> io::Result<Open<F::Writer>> {
        let folder = self.path.join(table.name());
        self.disk.create_folder(&folder)?;
        self.disk.sync_folder(&self.path)?;
        let (name, output) = self.create(table, &folder, epoch)?;
        let temporary = Temporary { path: folder.join(hidden(&name, OPEN)), disk: Arc::clone(&self.disk) };
        let writer = self.format.begin(output, chunk)?;
        Ok(Open { writer, temporary, name, epochs: epoch..=epoch, rows: 0, since: (self.clock)() })
    }

    /// A new file, with the next sequence of this epoch that is free.
    fn create(&mut self, table: TableName, folder: &Path, epoch: Epoch) -> io::Result<(String, Box<dyn Output>)> {
        let mut sequence = match self.last.get(&table) {
            Some((last, sequence)) if *last == epoch => sequence + 1,
            _ => 0,
        };
        loop {
            let name = format!("{epoch}-g{}-w{}-{sequence}.{}", self.generation, self.worker, F::NAME);
            let taken = folder.join(&name).try_exists()? || folder.join(hidden(&name, STAGED)).try_exists()?;
            let created = if taken {
                Err(io::ErrorKind::AlreadyExists.into())
            } else {
                self.disk.create(&folder.join(hidden(&name, OPEN)))
            };
            match created {
                Ok(output) => {
                    self.last.insert(table, (epoch, sequence));
                    return Ok((name, output));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => sequence += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Completes a file and syncs its content. Its folder is synced by `stage`, once for all its files.
    fn finish_file(&mut self, table: TableName, open: Open<F::Writer>) -> Result<(), SinkError> {
        let Open { writer, temporary, name, epochs, rows, .. } = open;
        let finish = || {
            let bytes = self.format.complete(writer, epochs.clone(), self.generation)?;
            let staged = if Guard::LatePublish.holds() { hidden(&name, STAGED) } else { name.clone() };
            let staged = temporary.path.with_file_name(staged);
            self.disk.rename(&temporary.path, &staged)?;
            Ok(bytes)
        };
        let bytes = finish().map_err(|source| self.failed("finish a file in", table, source))?;
        self.metrics.sink_bytes.with_label_values(&[F::NAME]).inc_by(bytes);
        self.metrics.sink_batches.with_label_values(&[F::NAME]).inc();
        let epochs = (*epochs.start(), *epochs.end());
        self.finished.push(StagedFile { sink: F::NAME.to_owned(), table, name, bytes, rows, epochs });
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
        if self.committed >= Some(epoch) {
            return Ok(());
        }
        let Some(chunk) = self.format.chunk(rows)? else { return Ok(()) };
        let mut open = self.opened(rows.table, epoch, &chunk)?;
        open.epochs = *open.epochs.start()..=epoch;
        open.rows += F::rows(&chunk);
        // Whatever fails here drops `open`, and with it the temporary.
        self.format.write(&mut open.writer, &chunk).map_err(|source| self.failed("write to", rows.table, source))?;
        if F::bytes(&open.writer) >= self.limits.bytes_max {
            return self.finish_file(rows.table, open);
        }
        self.open.insert(rows.table, open);
        Ok(())
    }

    fn close(&mut self, _: Epoch) -> Result<(), SinkError> {
        // A busy sink is never idle, so ages are looked at here as well.
        self.finish_old()?;
        let failed = |table: &TableName, source| failure("write to", &self.path.join(table.name()), F::SETTING, source);
        self.open.iter_mut().try_for_each(|(table, open)| F::settle(&mut open.writer).map_err(|e| failed(table, e)))
    }

    fn idle(&mut self) -> Result<(), SinkError> {
        self.finish_old()
    }

    fn stage(&mut self, epoch: Epoch) -> Result<Vec<StagedFile>, SinkError> {
        self.finish_where(|_| true)?;
        let late = self.finished.iter().find(|file| file.epochs.1 > epoch);
        assert!(late.is_none(), "a checkpoint of {epoch} came after rows of a later epoch: {late:?}");
        let tables: BTreeSet<TableName> = self.finished.iter().map(|file| file.table).collect();
        for table in tables {
            let synced = self.disk.sync_folder(&self.path.join(table.name()));
            synced.map_err(|source| self.failed("sync", table, source))?;
        }
        Ok(std::mem::take(&mut self.finished))
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        let left = self.stage(Epoch::MAX)?;
        if !left.is_empty() {
            let (sink, files) = (F::NAME, left.len());
            tracing::warn!(target: "sink", sink, files, "files of no checkpoint stay unnamed; the next run writes their rows again");
        }
        Ok(())
    }
}

/// The name under which no reader sees a file.
fn hidden(name: &str, state: &str) -> String {
    format!(".{name}{state}")
}

/// True for the hidden names of a sink's files, of any generation and worker.
fn is_hidden(name: &str, sink: &str) -> bool {
    let numbers = || {
        let name = name.strip_prefix('.')?;
        let name = name.strip_suffix(OPEN).or_else(|| name.strip_suffix(STAGED))?;
        let mut parts = name.strip_suffix(sink)?.strip_suffix('.')?.splitn(4, '-');
        let mut number = |before: &str| parts.next()?.strip_prefix(before)?.parse::<u64>().ok();
        Some([number("")?, number("g")?, number("w")?, number("")?])
    };
    numbers().is_some()
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
        io::ErrorKind::NotFound | io::ErrorKind::InvalidData => format!(
            "something else removed or changed it: put it back, or begin again with an empty state.path and {setting}"
        ),
        _ => format!("{setting} names the place"),
    };
    let source = io::Error::new(source.kind(), format!("{source} ({hint})"));
    SinkError::Io { action, path: path.to_path_buf(), source }
}

#[cfg(test)]
mod crash;
#[cfg(test)]
mod tests;
