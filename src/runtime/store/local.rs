//! A store in a folder of a local (or NFS) file system.
//!
//! ```text
//! create: folder/log/.<name>.<random>.tmp   write, fsync
//!         folder/log/<name>                 hard link (fails if the name is taken), fsync of the folder
//!         folder/log/.<name>.<random>.tmp   removed
//! ```
//!
//! A link is made in one step, so an object is whole or not there, and a taken name is never written over. The folder is synced as well
//! where the name was taken: whoever took it may have died before it did so. By hand, because the file system of `object_store` (0.14.2)
//! answers "exists" without that, and never sweeps what a crash left.
//!
//! Temporaries are removed at [`Local::open`], whoever they belong to: a writer whose temporary is taken away from it is told that it may try
//! again. Deletions are not synced (see the store's invariants).

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Store, StoreError, check_name};

/// What a file system does, step by step: as much as can be cut off in between. `Disk` does it; a twin in tests loses power.
pub(super) trait Files: Send + Sync {
    /// Makes a new file and writes it, without waiting for the disk.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<Box<dyn Written>>;
    /// A second name for a file; fails if there is one.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder; fails if it is there.
    fn make_folder(&self, path: &Path) -> io::Result<()>;
    /// Waits until the names in a folder are on the disk.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// A file's content.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// What is in a folder: names, and true for a folder. In no order.
    fn entries(&self, path: &Path) -> io::Result<Vec<(String, bool)>>;
}

/// A file that was written and is still open.
pub(super) trait Written {
    /// Waits until its content is on the disk.
    fn sync(&self) -> io::Result<()>;
}

/// The file system of the machine.
pub(super) struct Disk;

impl Written for File {
    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Files for Disk {
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<Box<dyn Written>> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(bytes)?;
        Ok(Box::new(file))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn entries(&self, path: &Path) -> io::Result<Vec<(String, bool)>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry.file_name().into_string() {
                entries.push((name, entry.file_type()?.is_dir()));
            }
        }
        Ok(entries)
    }
}

/// Objects as files below a folder.
pub(super) struct Local {
    root: PathBuf,
    files: Arc<dyn Files>,
    /// Folders whose own name is known to be on the disk.
    durable: Mutex<BTreeSet<PathBuf>>,
}

impl Local {
    /// Makes the folder, if it is not there, and removes left-over temporaries.
    pub(super) fn open(root: PathBuf, files: Arc<dyn Files>) -> Result<Self, StoreError> {
        let store = Local { root, files, durable: Mutex::default() };
        let opened = store.folder(&store.root).and_then(|()| store.sweep(&store.root));
        opened.map_err(|error| store.failed("open", "the store", &error))?;
        Ok(store)
    }

    /// Makes sure that a folder is there, and after a loss of power as well.
    fn folder(&self, folder: &Path) -> io::Result<()> {
        if self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(folder) {
            return Ok(());
        }
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match self.files.make_folder(folder) {
            // Folders above the store's own are made as well, as long as there are none.
            Err(error) if error.kind() == ErrorKind::NotFound && parent != folder => {
                self.folder(parent)?;
                match self.files.make_folder(folder) {
                    // Another process of the cluster was quicker.
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                    made => made?,
                }
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made?,
        }
        self.files.sync_folder(parent)?;
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned());
        Ok(())
    }

    fn sweep(&self, folder: &Path) -> io::Result<()> {
        for (name, is_folder) in self.files.entries(folder)? {
            let path = folder.join(&name);
            if is_folder {
                self.sweep(&path)?;
            } else if name.starts_with('.') && name.ends_with(".tmp") {
                gone_is_fine(self.files.remove(&path))?;
            }
        }
        Ok(())
    }

    fn path(&self, action: &'static str, name: &str) -> Result<PathBuf, StoreError> {
        let place = self.root.display().to_string();
        check_name(name).map_err(|why| StoreError::refused(action, name, &place, why, "choose another name"))?;
        Ok(self.root.join(name))
    }

    fn create_file(&self, path: &Path, bytes: &[u8]) -> io::Result<bool> {
        let folder = path.parent().unwrap_or(&self.root);
        self.folder(folder)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let temporary = folder.join(format!(".{name}.{:016x}.tmp", u64::from_ne_bytes(random)));
        let written = self.files.write(&temporary, bytes).and_then(|file| file.sync());
        let linked = written.and_then(|()| self.files.link(&temporary, path));
        // Also where it could not be written whole. What stays is swept later.
        let _ = self.files.remove(&temporary);
        match linked {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            linked => self.files.sync_folder(folder).map(|()| linked.is_ok()),
        }
    }

    /// All names in and below a folder, hidden ones left out.
    fn walk(&self, folder: &Path, prefix: &str, into: &mut Vec<String>) -> io::Result<()> {
        let entries = match self.files.entries(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for (name, is_folder) in entries.into_iter().filter(|(name, _)| !name.starts_with('.')) {
            if is_folder {
                self.walk(&folder.join(&name), &format!("{prefix}{name}/"), into)?;
            } else {
                into.push(format!("{prefix}{name}"));
            }
        }
        Ok(())
    }

    fn failed(&self, action: &'static str, object: &str, error: &io::Error) -> StoreError {
        failure(action, object, &self.root.display().to_string(), error)
    }
}

impl Store for Local {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        let path = self.path("create", name)?;
        self.create_file(&path, bytes).map_err(|error| self.failed("create", name, &error))
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match self.files.read(&self.path("read", name)?) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("read", name, &error)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let (path, inner) = if folder.is_empty() {
            (self.root.clone(), String::new())
        } else {
            (self.path("list", folder)?, format!("{folder}/"))
        };
        let mut names = Vec::new();
        self.walk(&path, &inner, &mut names).map_err(|error| self.failed("list", prefix, &error))?;
        names.retain(|name| name.starts_with(prefix));
        names.sort_unstable();
        Ok(names)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path("delete", name)?;
        gone_is_fine(self.files.remove(&path)).map_err(|error| self.failed("delete", name, &error))
    }
}

fn gone_is_fine(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// What a user can do about it, and whether it may pass by itself.
fn failure(action: &'static str, object: &str, place: &str, error: &io::Error) -> StoreError {
    let why = error.to_string();
    let passing = |hint| StoreError::unavailable(action, object, place, why.clone(), hint);
    let lasting = |hint| StoreError::refused(action, object, place, why.clone(), hint);
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => passing("free some space, or change state.path"),
        // Another process opened the store at this moment and swept; or a folder was moved away.
        ErrorKind::NotFound => passing("a file or folder of the store was removed by somebody"),
        ErrorKind::Interrupted
        | ErrorKind::TimedOut
        | ErrorKind::WouldBlock
        | ErrorKind::ResourceBusy
        | ErrorKind::StaleNetworkFileHandle
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::NetworkDown => passing("the file system of state.path does not answer"),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            lasting("let this user write there, or change state.path")
        }
        ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            lasting("a file is in the way of a folder, or a folder of a file: move it, or change state.path")
        }
        ErrorKind::Unsupported | ErrorKind::CrossesDevices => lasting("state.path needs a file system with hard links"),
        _ => lasting("state.path names the place"),
    }
}
