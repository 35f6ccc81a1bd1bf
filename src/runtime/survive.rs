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

/// Which worker owns a block, modulo the number of workers.
pub type Route = u64;

/// Keyed state is saved in this many blocks, by [`key_group`].
pub const KEY_GROUPS: u64 = 256;

/// The block, and the route, of a key with these 64 uniform bits.
pub const fn key_group(hash64: u64) -> Route {
    hash64 % KEY_GROUPS
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

    /// Called once, after the first block: about `times` as much of a base will follow. A table gets its size here; growing to it would move everything
    /// twice.
    fn expect(&mut self, _times: f64) {}

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

/// Bytes from which on a block is full: it stays in a core's cache until it is compressed, and the memory of one serves the next.
pub const BLOCK_BYTES: usize = 64 << 10;

/// Where full blocks go, while others are still being filled.
pub trait Outlet: Send {
    /// Memory for a block: empty, with as much room as there is.
    fn spare(&mut self) -> Vec<u8>;

    /// Takes a full block, or the last of its route.
    fn take(&mut self, route: Route, block: Vec<u8>);
}

/// Entries by route, as bytes (postcard, <https://postcard.jamesmunns.com/wire-format>). A route has as many blocks as it fills; each holds whole
/// entries, and those of a route keep their order.
#[derive(Default)]
pub struct Blocks {
    open: BTreeMap<Route, Vec<u8>>,
    /// Without an outlet.
    full: Vec<(Route, Vec<u8>)>,
    outlet: Option<Box<dyn Outlet>>,
    /// Blocks that were put away.
    count: usize,
}

impl Blocks {
    /// Blocks that are not kept here but go to `outlet`.
    pub fn through(outlet: impl Outlet + 'static) -> Self {
        Blocks { outlet: Some(Box::new(outlet)), ..Blocks::default() }
    }

    /// Appends an entry.
    pub fn push<T: Serialize>(&mut self, route: Route, entry: &T) {
        let outlet = &mut self.outlet;
        let block = self.open.entry(route).or_insert_with(|| outlet.as_mut().map(|to| to.spare()).unwrap_or_default());
        let filled = postcard::to_extend(entry, std::mem::take(block));
        *block = filled.expect("memory takes every type that derives Serialize with known lengths");
        if block.len() < BLOCK_BYTES {
            return;
        }
        if let Some(block) = self.open.remove(&route) {
            self.put_away(route, block);
        }
    }

    /// Puts away what is not full, ascending by route: nothing more will come. How many blocks there were.
    pub fn finish(&mut self) -> usize {
        for (route, block) in std::mem::take(&mut self.open) {
            self.put_away(route, block);
        }
        self.count
    }

    /// All blocks, which are kept here; those of a route in their order.
    pub fn into_blocks(mut self) -> Vec<(Route, Vec<u8>)> {
        self.finish();
        self.full
    }

    fn put_away(&mut self, route: Route, block: Vec<u8>) {
        self.count += 1;
        match &mut self.outlet {
            Some(outlet) => outlet.take(route, block),
            None => self.full.push((route, block)),
        }
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
    use std::sync::{Arc, Mutex};

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

    /// Takes blocks, and hands their memory back.
    #[derive(Clone, Default)]
    struct Taken(Arc<Mutex<Inside>>);

    #[derive(Default)]
    struct Inside {
        /// Routes, and the number in each block's first entry.
        blocks: Vec<(Route, usize)>,
        spare: Vec<Vec<u8>>,
    }

    impl Outlet for Taken {
        fn spare(&mut self) -> Vec<u8> {
            self.0.lock().unwrap().spare.pop().unwrap_or_default()
        }

        fn take(&mut self, route: Route, mut block: Vec<u8>) {
            let (number, _): (usize, Vec<u8>) = postcard::from_bytes(&block).unwrap();
            block.clear();
            let mut inside = self.0.lock().unwrap();
            inside.blocks.push((route, number));
            inside.spare.push(block);
        }
    }

    #[test]
    fn a_block_goes_away_when_it_is_full_and_its_memory_is_that_of_the_next() {
        let taken = Taken::default();
        let mut blocks = Blocks::through(taken.clone());
        for number in 0..6 {
            blocks.push(number % 2, &(number as usize, vec![0; BLOCK_BYTES]));
            blocks.push(9, &(0_usize, Vec::<u8>::new()));
        }
        let numbers = [0, 1, 2, 3, 4, 5].map(|number| (number as Route % 2, number));
        assert_eq!(taken.0.lock().unwrap().blocks, numbers);
        assert_eq!(taken.0.lock().unwrap().spare.len(), 1, "one did for all");
        assert_eq!((blocks.finish(), blocks.finish()), (7, 7));
        assert_eq!(
            taken.0.lock().unwrap().blocks,
            [&numbers[..], &[(9, 0)]].concat(),
            "what is not full, at the end, once"
        );
        assert!(blocks.into_blocks().is_empty(), "nothing is kept beside");
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
