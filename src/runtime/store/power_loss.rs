//! A file system that loses power, for tests.
//!
//! What was not synced may be on the disk or not when the power comes back: of names, any of the changes since the folder was last
//! synced, each by itself; of a file's content, any part of it. That is worse than journalling file systems are. It can be cut
//! off before any of its operations, and be full after any number of bytes.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::SharedStore;
use super::local::{Files, Local, Written};

/// The root of every twin.
const ROOT: &str = "/state";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Node {
    Folder,
    File(usize),
}

#[derive(Clone, Default)]
struct Inode {
    content: Vec<u8>,
    /// True if all of it is on the disk.
    synced: bool,
}

#[derive(Clone, Default)]
struct State {
    /// What a running machine sees.
    names: BTreeMap<PathBuf, Node>,
    /// What is sure to be on the disk.
    durable: BTreeMap<PathBuf, Node>,
    /// Changes of names that are not synced, oldest first.
    pending: Vec<(PathBuf, Option<Node>)>,
    inodes: Vec<Inode>,
    /// Operations that are still possible.
    operations_left: Option<usize>,
    operations: usize,
    /// Bytes that still fit.
    space: Option<usize>,
}

/// A disk; clones are the same one.
#[derive(Clone)]
pub(crate) struct Twin(Arc<Mutex<State>>);

impl Twin {
    /// A new disk with nothing but `/`.
    pub(crate) fn new() -> Twin {
        let mut state = State::default();
        state.names.insert("/".into(), Node::Folder);
        state.durable = state.names.clone();
        Twin(Arc::new(Mutex::new(state)))
    }

    /// The power fails before the operation after so many.
    pub(crate) fn cut_after(&self, operations: usize) {
        self.state().operations_left = Some(operations);
    }

    /// So many bytes still fit; `None`: all that come.
    pub(crate) fn space(&self, bytes: Option<usize>) {
        self.state().space = bytes;
    }

    /// Operations so far.
    pub(crate) fn operations(&self) -> usize {
        self.state().operations
    }

    /// Opens the store on it.
    pub(crate) fn open(&self) -> Result<SharedStore, super::StoreError> {
        Ok(Arc::new(Local::open(ROOT.into(), Arc::new(self.clone()))?))
    }

    /// All names of files, hidden ones as well.
    pub(crate) fn files(&self) -> Vec<String> {
        let state = self.state();
        let files = state.names.iter().filter(|(_, node)| matches!(node, Node::File(_)));
        files.map(|(path, _)| path.display().to_string()).collect()
    }

    /// What is on the disk when the power comes back.
    pub(crate) fn power_comes_back(&self, seed: u64) -> Twin {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let old = self.state();
        let mut names = old.durable.clone();
        for (path, node) in &old.pending {
            if random.random_bool(0.5) {
                match node {
                    Some(node) => drop(names.insert(path.clone(), *node)),
                    None => drop(names.remove(path)),
                }
            }
        }
        // A name in a folder that is not there is lost.
        let reachable = |path: &Path| path.ancestors().skip(1).all(|above| names.get(above) == Some(&Node::Folder));
        let kept: BTreeMap<PathBuf, Node> =
            names.iter().filter(|(path, _)| reachable(path)).map(|(path, node)| (path.clone(), *node)).collect();
        let mut inodes = old.inodes.clone();
        for inode in inodes.iter_mut().filter(|inode| !inode.synced) {
            let torn = random.random_range(0..=inode.content.len());
            // Some file systems give zeros for what was not written, others a shorter file.
            if random.random_bool(0.5) {
                inode.content[torn..].fill(0)
            } else {
                inode.content.truncate(torn)
            }
            inode.synced = true;
        }
        let state = State { durable: kept.clone(), names: kept, inodes, ..State::default() };
        Twin(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Begins an operation.
    fn operation(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        if state.operations_left == Some(0) {
            return Err(io::Error::other("the power is gone"));
        }
        state.operations_left = state.operations_left.map(|left| left - 1);
        state.operations += 1;
        Ok(state)
    }
}

impl State {
    fn change(&mut self, path: &Path, node: Option<Node>) {
        match node {
            Some(node) => drop(self.names.insert(path.to_owned(), node)),
            None => drop(self.names.remove(path)),
        }
        self.pending.push((path.to_owned(), node));
    }

    /// A new name needs a folder and must be free.
    fn must_be_free(&self, path: &Path) -> io::Result<()> {
        if self.names.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        match path.parent().and_then(|parent| self.names.get(parent)) {
            Some(Node::Folder) => Ok(()),
            Some(Node::File(_)) => Err(ErrorKind::NotADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn file(&self, path: &Path) -> io::Result<usize> {
        match self.names.get(path) {
            Some(Node::File(inode)) => Ok(*inode),
            Some(Node::Folder) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }
}

struct Open(Twin, usize);

impl Written for Open {
    fn sync(&self) -> io::Result<()> {
        self.0.operation()?.inodes[self.1].synced = true;
        Ok(())
    }
}

impl Files for Twin {
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<Box<dyn Written>> {
        let mut state = self.operation()?;
        state.must_be_free(path)?;
        let inode = state.inodes.len();
        let fits = state.space.map_or(bytes.len(), |space| space.min(bytes.len()));
        state.space = state.space.map(|space| space - fits);
        state.inodes.push(Inode { content: bytes[..fits].to_vec(), synced: false });
        state.change(path, Some(Node::File(inode)));
        if fits < bytes.len() { Err(ErrorKind::StorageFull.into()) } else { Ok(Box::new(Open(self.clone(), inode))) }
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.operation()?;
        let inode = state.file(from)?;
        state.must_be_free(to)?;
        state.change(to, Some(Node::File(inode)));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.operation()?;
        state.file(path)?;
        state.change(path, None);
        Ok(())
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.operation()?;
        state.must_be_free(path)?;
        state.change(path, Some(Node::Folder));
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.operation()?;
        let (synced, pending) =
            std::mem::take(&mut state.pending).into_iter().partition(|(path, _)| path.parent() == Some(folder));
        state.pending = pending;
        let synced: Vec<(PathBuf, Option<Node>)> = synced;
        for (path, node) in synced {
            match node {
                Some(node) => drop(state.durable.insert(path, node)),
                None => drop(state.durable.remove(&path)),
            }
        }
        Ok(())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.operation()?;
        let inode = state.file(path)?;
        Ok(state.inodes[inode].content.clone())
    }

    fn entries(&self, folder: &Path) -> io::Result<Vec<(String, bool)>> {
        let state = self.operation()?;
        if state.names.get(folder) != Some(&Node::Folder) {
            return Err(ErrorKind::NotFound.into());
        }
        let inside = state.names.iter().filter(|(path, _)| path.parent() == Some(folder));
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        Ok(inside.map(|(path, node)| (name(path), *node == Node::Folder)).collect())
    }
}
