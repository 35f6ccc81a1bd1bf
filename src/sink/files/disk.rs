//! The steps by which file sinks change the disk, behind a trait so that tests can end a run before each of them (`faults.rs`).
//!
//! Reading is no step: it goes to the file system directly.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// A file that grows.
pub trait Output: Write + Send {
    /// Makes its content durable and returns its length in bytes. Its name is the folder's matter ([`Disk::sync_folder`]).
    fn sync(&mut self) -> io::Result<u64>;
}

/// What is done to files and folders. Nothing but a synced file in a synced folder survives a crash of the machine.
pub trait Disk: Debug + Send + Sync {
    /// Begins a file; an error if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Box<dyn Output>>;

    /// Begins a file, or writes over one from its start without shortening it. Several who write the same bytes do not disturb each other.
    fn rewrite(&self, path: &Path) -> io::Result<Box<dyn Output>>;

    /// Renames, within one folder.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Creates a folder and those above it; one that is there is fine.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
}

/// The file system.
#[derive(Clone, Copy, Debug)]
pub struct System;

impl Disk for System {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        Ok(Box::new(OpenOptions::new().write(true).create_new(true).open(path)?))
    }

    fn rewrite(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        Ok(Box::new(OpenOptions::new().write(true).create(true).truncate(false).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

impl Output for File {
    fn sync(&mut self) -> io::Result<u64> {
        self.sync_all()?;
        Ok(self.metadata()?.len())
    }
}
