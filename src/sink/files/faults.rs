//! A disk that fails where a test says: before the n-th step (the process has died), when it is full, or with an error of one step.
//!
//! It also knows what a crash of the machine takes away: content that was not synced is torn in half, names are undone in folders that were not.
//! Nothing is really synced. It takes away all of that, or with a crash of the process none; a real machine may take away some.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::disk::{Disk, Output, System};

/// See the module. Clones are one disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faulty(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    steps: usize,
    /// Dies before the step of this number, counted from 0.
    dies_at: Option<usize>,
    /// Bytes that still fit.
    room: Option<usize>,
    /// Steps of this name fail so.
    refuses: Option<(&'static str, io::ErrorKind)>,
    /// Changes of names since their folders were synced, oldest first.
    unsynced_names: Vec<Change>,
    /// Files with content that is not synced, and their present paths.
    unsynced_content: BTreeMap<usize, PathBuf>,
    files: usize,
}

#[derive(Debug)]
enum Change {
    Created(PathBuf),
    CreatedFolder(PathBuf),
    Renamed(PathBuf, PathBuf),
    Removed(PathBuf, Vec<u8>),
}

impl Change {
    fn path(&self) -> &Path {
        match self {
            Change::Created(path) | Change::CreatedFolder(path) | Change::Renamed(_, path) => path,
            Change::Removed(path, _) => path,
        }
    }

    fn undo(self) {
        // What it undoes may be gone with a folder that was undone before.
        let _ = match self {
            Change::Created(path) => fs::remove_file(path),
            Change::CreatedFolder(path) => fs::remove_dir_all(path),
            Change::Renamed(from, to) => fs::rename(to, from),
            Change::Removed(path, content) => fs::write(path, content),
        };
    }
}

impl Faulty {
    /// Dies before the step of this number; all after it fail as well.
    pub(crate) fn dying_at(step: usize) -> Self {
        Faulty::with(State { dies_at: Some(step), ..State::default() })
    }

    /// Is full after so many bytes.
    pub(crate) fn with_room_for(bytes: usize) -> Self {
        Faulty::with(State { room: Some(bytes), ..State::default() })
    }

    /// Fails steps of this name: `create`, `rename`, `remove`, `sync`, `create folder`, `sync folder`.
    pub(crate) fn refusing(step: &'static str, kind: io::ErrorKind) -> Self {
        Faulty::with(State { refuses: Some((step, kind)), ..State::default() })
    }

    fn with(state: State) -> Self {
        Faulty(Arc::new(Mutex::new(state)))
    }

    /// For use behind a sink or a folder.
    pub(crate) fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// A step that the test itself takes.
    pub(crate) fn step(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if state.dies_at.is_some_and(|at| state.steps >= at) {
            return Err(io::Error::other("died"));
        }
        state.steps += 1;
        match state.refuses {
            Some((step, kind)) if step == name => Err(kind.into()),
            _ => Ok(()),
        }
    }

    /// The machine loses what was not synced.
    pub(crate) fn lose_power(&self) {
        let mut state = self.0.lock().unwrap();
        for path in std::mem::take(&mut state.unsynced_content).into_values() {
            if let Ok(content) = fs::read(&path) {
                fs::write(&path, &content[..content.len() / 2]).unwrap();
            }
        }
        std::mem::take(&mut state.unsynced_names).into_iter().rev().for_each(Change::undo);
    }

    fn changed(&self, change: Change) {
        self.0.lock().unwrap().unsynced_names.push(change);
    }

    fn grows(&self, path: &Path, file: Box<dyn Output>) -> Box<dyn Output> {
        let mut state = self.0.lock().unwrap();
        state.files += 1;
        let number = state.files;
        state.unsynced_content.insert(number, path.to_owned());
        Box::new(Growing { file, number, disk: self.clone() })
    }
}

impl Disk for Faulty {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        self.step("create")?;
        let file = System.create(path)?;
        self.changed(Change::Created(path.to_owned()));
        Ok(self.grows(path, file))
    }

    fn rewrite(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        self.step("create")?;
        let existed = path.try_exists()?;
        let file = System.rewrite(path)?;
        if !existed {
            self.changed(Change::Created(path.to_owned()));
        }
        Ok(self.grows(path, file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("rename")?;
        System.rename(from, to)?;
        self.changed(Change::Renamed(from.to_owned(), to.to_owned()));
        let mut state = self.0.lock().unwrap();
        state.unsynced_content.values_mut().filter(|path| *path == from).for_each(|path| *path = to.to_owned());
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step("remove")?;
        let content = fs::read(path)?;
        System.remove(path)?;
        self.changed(Change::Removed(path.to_owned(), content));
        Ok(())
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.step("create folder")?;
        if !path.try_exists()? {
            System.create_folder(path)?;
            self.changed(Change::CreatedFolder(path.to_owned()));
        }
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.step("sync folder")?;
        fs::read_dir(path)?;
        self.0.lock().unwrap().unsynced_names.retain(|change| change.path().parent() != Some(path));
        Ok(())
    }
}

struct Growing {
    file: Box<dyn Output>,
    number: usize,
    disk: Faulty,
}

impl Write for Growing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.disk.step("write") {
            // It dies in the middle.
            self.file.write_all(&bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        let fits = self.disk.0.lock().unwrap().room.map_or(bytes.len(), |room| room.min(bytes.len()));
        if fits == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_all(&bytes[..fits])?;
        if let Some(room) = self.disk.0.lock().unwrap().room.as_mut() {
            *room -= fits;
        }
        Ok(fits)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Output for Growing {
    fn sync(&mut self) -> io::Result<u64> {
        self.disk.step("sync")?;
        let mut state = self.disk.0.lock().unwrap();
        let path = state.unsynced_content.remove(&self.number);
        path.map_or(Ok(0), |path| fs::metadata(path).map(|metadata| metadata.len()))
    }
}
