//! A sink's folder seen from the log: files get their names when the checkpoint that lists them is recorded, and at a start the folder is made to agree
//! with the log.
//!
//! ```text
//! recorded checkpoint ─> check that every file is whole ─> name them ─> sync their folders ─> _committed/<epoch>.<sink>.json
//! ```
//!
//! Invariants:
//!
//! 1. Nothing of a checkpoint is named unless each of its files that is here has the length that the checkpoint says.
//! 2. All of it can be done again at any time, by several processes at once, and after a crash between any two steps.
//! 3. The list of a checkpoint is written after its files are named for good. From then on they are the readers': one that is gone was taken away by them.
//! 4. What has a name is never changed, overwritten or removed.
//!
//! It does not know the log. Who calls it passes every recorded checkpoint that may not have been published; one may be dropped from the log only after
//! [`Folder::publish`] has returned.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::disk::{Disk, System};
use super::{Format, OPEN, STAGED, failure, hidden, is_hidden};
use crate::config::TableName;
use crate::runtime::failpoint;
use crate::sink::{SinkError, StagedFile};
use crate::time::Epoch;

/// The folder of lists, beside those of the tables.
const COMMITTED: &str = "_committed";

/// The folder of one file sink.
#[derive(Clone, Debug)]
pub struct Folder {
    sink: &'static str,
    path: PathBuf,
    setting: &'static str,
    pub(super) disk: Arc<dyn Disk>,
}

/// What a start found left over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Files of recorded checkpoints that had no name yet, and have it now.
    pub named: u64,
    /// Files that no checkpoint lists: their rows are written again.
    pub deleted: u64,
}

/// The content of a list, one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Listing {
    checkpoint: Epoch,
    files: Vec<StagedFile>,
}

/// How far a listed file has come.
#[derive(PartialEq, Eq)]
enum Found {
    Named,
    Staged,
    Missing,
}

impl Folder {
    /// The folder in which a sink of this format writes.
    pub fn of<F: Format>(path: PathBuf) -> Self {
        Folder { sink: F::NAME, path, setting: F::SETTING, disk: Arc::new(System) }
    }

    /// Gives the files of a recorded checkpoint their names, and lists them for readers that want whole checkpoints. Files of other sinks are passed over;
    /// a checkpoint without files of this sink gets no list.
    ///
    /// # Errors
    /// A file has not the length that the checkpoint says, or with `strict` is neither staged nor named and was not published before. Without `strict`
    /// such a file is another process's, whose folder is elsewhere.
    pub fn publish(&self, checkpoint: Epoch, files: &[StagedFile], strict: bool) -> Result<(), SinkError> {
        self.roll_forward(checkpoint, files, strict).map(|_| ())
    }

    /// Makes the folder agree with the log: publishes these checkpoints, ascending, and deletes every other file without a name, of any generation.
    /// Files under their names that no checkpoint lists are left alone: their checkpoint has gone from the log, or an older release wrote them.
    ///
    /// To be called at a start, after earlier generations are fenced and before any sink of this flow writes.
    ///
    /// # Errors
    /// Those of [`publish`](Folder::publish); nothing is deleted then.
    pub fn recover(&self, checkpoints: &[(Epoch, Vec<StagedFile>)], strict: bool) -> Result<Recovered, SinkError> {
        let mut recovered = Recovered::default();
        for (checkpoint, files) in checkpoints {
            recovered.named += self.roll_forward(*checkpoint, files, strict)?;
        }
        let tables = TableName::ALL.iter().map(|table| table.name());
        for name in tables.chain([COMMITTED]) {
            let folder = self.path.join(name);
            recovered.deleted += self.sweep(&folder).map_err(|source| self.failed("clean up", &folder, source))?;
        }
        Ok(recovered)
    }

    fn failed(&self, action: &'static str, path: &Path, source: io::Error) -> SinkError {
        failure(action, path, self.setting, source)
    }

    /// Returns how many files were named.
    fn roll_forward(&self, checkpoint: Epoch, files: &[StagedFile], strict: bool) -> Result<u64, SinkError> {
        let files: Vec<&StagedFile> = files.iter().filter(|file| file.sink == self.sink).collect();
        if files.is_empty() {
            return Ok(0);
        }
        let listed = self.is_listed(checkpoint, &files)?;
        let (mut here, mut staged) = (BTreeSet::new(), Vec::new());
        for file in &files {
            let found = self.find(file, listed)?;
            match found {
                Found::Missing if strict && !listed => return Err(self.missing(file)),
                Found::Missing => continue,
                Found::Staged => staged.push(*file),
                Found::Named => {}
            }
            here.insert(file.table);
        }
        for file in &staged {
            failpoint::hit("sink.name.before");
            self.name(file, listed)?;
            failpoint::hit("sink.name.after");
        }
        if listed && staged.is_empty() {
            return Ok(0);
        }
        // Also of those that had their names already: a crash may have come between the name and the sync.
        for table in here {
            let folder = self.path.join(table.name());
            self.disk.sync_folder(&folder).map_err(|source| self.failed("sync", &folder, source))?;
        }
        if !listed {
            failpoint::hit("sink.list.before");
            self.list(checkpoint, &files)?;
            failpoint::hit("sink.list.after");
        }
        Ok(staged.len() as u64)
    }

    fn named(&self, file: &StagedFile) -> PathBuf {
        self.path.join(file.table.name()).join(&file.name)
    }

    fn staged(&self, file: &StagedFile) -> PathBuf {
        self.path.join(file.table.name()).join(hidden(&file.name, STAGED))
    }

    /// Where a file is. Its length is checked, unless it is named and listed and so no longer ours.
    fn find(&self, file: &StagedFile, listed: bool) -> Result<Found, SinkError> {
        // The name is looked up again because another process may be naming it at this moment.
        let (named, staged) = (self.named(file), self.staged(file));
        for (path, found) in [(&named, Found::Named), (&staged, Found::Staged), (&named, Found::Named)] {
            match fs::metadata(path) {
                Ok(metadata) if metadata.len() == file.bytes || (listed && found == Found::Named) => return Ok(found),
                Ok(metadata) => {
                    let text = format!("it has {} bytes where its checkpoint says {}", metadata.len(), file.bytes);
                    return Err(self.failed("publish", path, io::Error::new(io::ErrorKind::InvalidData, text)));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(self.failed("publish", path, error)),
            }
        }
        Ok(Found::Missing)
    }

    fn missing(&self, file: &StagedFile) -> SinkError {
        let text = "a recorded checkpoint lists it, but it is neither staged nor named";
        self.failed("publish", &self.named(file), io::Error::new(io::ErrorKind::NotFound, text))
    }

    /// Names of ours are never taken by others, as the log gives a generation to one run alone: so this overwrites nothing.
    fn name(&self, file: &StagedFile, listed: bool) -> Result<(), SinkError> {
        let target = self.named(file);
        match self.disk.rename(&self.staged(file), &target) {
            // Another process was quicker.
            Err(error) if error.kind() == io::ErrorKind::NotFound => match self.find(file, listed)? {
                Found::Named => Ok(()),
                Found::Staged | Found::Missing => Err(self.missing(file)),
            },
            result => result.map_err(|source| self.failed("name", &target, source)),
        }
    }

    fn listing(&self, checkpoint: Epoch) -> String {
        format!("{checkpoint:020}.{}.json", self.sink)
    }

    /// True if this checkpoint was published before.
    fn is_listed(&self, checkpoint: Epoch, files: &[&StagedFile]) -> Result<bool, SinkError> {
        let path = self.path.join(COMMITTED).join(self.listing(checkpoint));
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(self.failed("read", &path, error)),
        };
        let listing: Option<Listing> = serde_json::from_slice(&text).ok();
        let names: BTreeSet<&StagedFile> = listing.iter().flat_map(|listing| &listing.files).collect();
        if files.iter().all(|file| names.contains(file)) {
            return Ok(true);
        }
        let setting = self.setting;
        Err(SinkError::Refused(format!(
            "{path:?} lists other files than the log does for that checkpoint (one folder belongs to one flow and its state: change {setting})"
        )))
    }

    /// Writes the list under its name unless there is one. Several processes that share the folder write the same bytes.
    fn list(&self, checkpoint: Epoch, files: &[&StagedFile]) -> Result<(), SinkError> {
        let folder = self.path.join(COMMITTED);
        let name = self.listing(checkpoint);
        let (open, target) = (folder.join(hidden(&name, OPEN)), folder.join(&name));
        let listing = Listing { checkpoint, files: files.iter().copied().cloned().collect() };
        let write = || {
            self.disk.create_folder(&folder)?;
            self.disk.sync_folder(&self.path)?;
            let mut text = serde_json::to_vec(&listing).map_err(io::Error::other)?;
            text.push(b'\n');
            let mut output = self.disk.rewrite(&open)?;
            output.write_all(&text)?;
            output.sync()?;
            drop(output);
            match self.disk.rename(&open, &target) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && target.try_exists()? => {}
                result => result?,
            }
            self.disk.sync_folder(&folder)
        };
        write().map_err(|source| self.failed("write", &target, source))
    }

    /// Deletes the files of this sink that have no name.
    fn sweep(&self, folder: &Path) -> io::Result<u64> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut deleted = 0;
        for entry in entries {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| self.is_left_over(name)) {
                match self.disk.remove(&entry.path()) {
                    // Another process that shares the folder cleans up as well.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    result => result?,
                }
                deleted += 1;
            }
        }
        Ok(deleted)
    }

    fn is_left_over(&self, name: &str) -> bool {
        let list = || {
            let stem = name.strip_prefix('.')?.strip_suffix(OPEN)?.strip_suffix(".json")?.strip_suffix(self.sink)?;
            stem.strip_suffix('.')?.parse::<Epoch>().ok()
        };
        is_hidden(name, self.sink) || list().is_some()
    }
}
