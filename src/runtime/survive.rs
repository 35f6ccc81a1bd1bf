//! State that survives the process: what a stage's machine saves at a checkpoint, and takes in again at a start.
//!
//! ```text
//! machine ─save─> Blocks (route ─> entries) ─> state files ─> block ─load─> machine of whichever worker the route leads to now
//! ```
//!
//! Invariants:
//!
//! 1. A block belongs to a *route*, a number that does not depend on how many workers there are: taken modulo the workers, it names the one that
//!    owns what is in the block. So any number of workers can take in what any other number saved.
//! 2. An entry stands for itself: loading entries in the order in which they were saved, a newer one replacing an older, gives the state.
//!    So a base and the changes since are loaded one after the other.
//! 3. What is saved is pseudonymous: [`identified`](crate::identified) types are not `Serialize`.
//!
//! It does not know files, checksums or compression: those are the checkpoint's.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::source::Share;

/// Which worker owns a block, modulo the number of workers.
pub type Route = u64;

/// Keyed state is saved in this many blocks, by [`key_group`].
pub const KEY_GROUPS: u64 = 256;

/// The block, and the route, of a key with these 64 uniform bits.
pub const fn key_group(hash64: u64) -> Route {
    hash64 % KEY_GROUPS
}

/// How many keys the other blocks of a worker are likely to hold, if one holds so many: they are spread evenly.
///
/// Asked after the first block of a start, a table gets its size once; growing to it would move everything twice.
pub fn in_the_other_blocks(keys: usize, share: Share) -> usize {
    keys * (KEY_GROUPS as usize / share.workers.max(1)).saturating_sub(1)
}

/// How much is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Everything: a base.
    All,
    /// What was changed or forgotten since the last call.
    Changed,
}

/// A machine whose state survives the process. It may be loaded on another thread than the one that uses it.
pub trait Survive: Send {
    /// Appends what must survive, as of now.
    fn save(&mut self, extent: Extent, into: &mut Blocks);

    /// Takes in one block of the same stage, oldest first.
    ///
    /// # Errors
    /// [`Corrupt`] if it is no block of this stage; the machine must not be used then.
    fn load(&mut self, block: &[u8]) -> Result<(), Corrupt>;

    /// Called once, after the last block: what is derived from the state is derived here.
    fn loaded(&mut self) {}
}

/// Nothing survives of what has no state.
impl Survive for () {
    fn save(&mut self, _: Extent, _: &mut Blocks) {}

    fn load(&mut self, _: &[u8]) -> Result<(), Corrupt> {
        Ok(())
    }
}

/// A block cannot be what it should be, although its checksum is right: another version of the engine wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a saved {what} cannot be read")]
pub struct Corrupt {
    /// What was being read.
    pub what: &'static str,
}

/// Entries by route, as bytes (postcard, <https://postcard.jamesmunns.com/wire-format>).
#[derive(Debug, Default)]
pub struct Blocks {
    blocks: BTreeMap<Route, Vec<u8>>,
    /// Room that a block begins with.
    likely_bytes: usize,
}

impl Blocks {
    /// Says how much keyed state this worker is likely to append: a block that is begun from now on has room for its part of it, and half as much again.
    /// Room that is not used costs nothing, because it is never touched; a block that must grow is copied into fresh pages.
    pub fn expect(&mut self, bytes: usize, share: Share) {
        let groups = KEY_GROUPS as usize / share.workers.max(1);
        self.likely_bytes = bytes / groups.max(1) * 3 / 2;
    }

    /// Appends an entry.
    pub fn push<T: Serialize>(&mut self, route: Route, entry: &T) {
        let block = self.blocks.entry(route).or_insert_with(|| Vec::with_capacity(self.likely_bytes));
        let filled = postcard::to_extend(entry, std::mem::take(block));
        *block = filled.expect("memory takes every type that derives Serialize with known lengths");
    }

    /// True if nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.blocks.values().map(Vec::len).sum()
    }

    /// All blocks, ascending by route.
    pub fn iter(&self) -> impl Iterator<Item = (Route, &[u8])> {
        self.blocks.iter().map(|(route, block)| (*route, block.as_slice()))
    }
}

/// Calls `take` with every entry of a block.
///
/// # Errors
/// [`Corrupt`], naming `what`, at the first entry that cannot be read.
pub fn entries<T: DeserializeOwned>(
    mut block: &[u8],
    what: &'static str,
    mut take: impl FnMut(T) -> Result<(), Corrupt>,
) -> Result<(), Corrupt> {
    while !block.is_empty() {
        let (entry, rest) = postcard::take_from_bytes(block).map_err(|_| Corrupt { what })?;
        take(entry)?;
        block = rest;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_in_order_and_by_route() {
        let mut blocks = Blocks::default();
        for (route, entry) in [(7, (1_u64, "a")), (3, (2, "b")), (7, (3, "c"))] {
            blocks.push(route, &entry);
        }
        let mut read = Vec::new();
        for (route, block) in blocks.iter() {
            entries::<(u64, String)>(block, "test", |entry| {
                read.push((route, entry.0, entry.1));
                Ok(())
            })
            .unwrap();
        }
        assert_eq!(read, [(3, 2, "b".to_owned()), (7, 1, "a".to_owned()), (7, 3, "c".to_owned())]);
    }

    #[test]
    fn a_torn_entry_is_corrupt() {
        let mut blocks = Blocks::default();
        blocks.push(0, &(1_u64, "text"));
        let block = blocks.iter().next().unwrap().1;
        let torn = entries::<(u64, String)>(&block[..block.len() - 1], "test", |_| Ok(()));
        assert_eq!(torn, Err(Corrupt { what: "test" }));
    }
}
