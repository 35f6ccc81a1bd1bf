//! For tests of machines: what a checkpoint does with saved blocks, without files.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{Blocks, Extent, Route, Survive};

impl Blocks {
    /// The blocks that are kept here; those of a route in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Route, &[u8])> {
        let open = self.open.iter().map(|(route, block)| (*route, block.as_slice()));
        self.full.iter().map(|(route, block)| (*route, block.as_slice())).chain(open)
    }

    /// True if nothing was appended.
    pub(crate) fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Bytes kept here.
    pub(crate) fn bytes(&self) -> usize {
        self.iter().map(|(_, block)| block.len()).sum()
    }
}

/// A base and the changes since, as all workers saved them, oldest first.
#[derive(Default)]
pub(crate) struct Saves(Vec<(Route, Vec<u8>)>);

impl Saves {
    /// Saves all machines of a run; a base makes the earlier saves unnecessary.
    pub(crate) fn save(&mut self, extent: Extent, machines: &mut [impl Survive]) {
        if extent == Extent::All {
            self.0.clear();
        }
        for machine in machines {
            let mut blocks = Blocks::default();
            machine.save(extent, &mut blocks);
            self.0.extend(blocks.iter().map(|(route, block)| (route, block.to_vec())));
        }
    }

    /// Loads new machines, each with the blocks that its place among them makes its own.
    pub(crate) fn load(&self, machines: &mut [impl Survive]) {
        let workers = machines.len() as Route;
        for (route, block) in &self.0 {
            machines[(route % workers) as usize].load(block).unwrap();
        }
        machines.iter_mut().for_each(Survive::loaded);
    }

    /// All blocks.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|(_, block)| block.as_slice())
    }

    /// Size of everything saved.
    pub(crate) fn bytes(&self) -> usize {
        self.blocks().map(<[u8]>::len).sum()
    }
}

/// A block with something wrong in it: bytes changed, a piece missing, or the end.
pub(crate) fn mutilated(block: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut block = block.to_vec();
    for _ in 0..rng.random_range(1..4) {
        if block.is_empty() {
            break;
        }
        let at = rng.random_range(0..block.len());
        match rng.random_range(0..5) {
            0 => block.truncate(at),
            1 => drop(block.remove(at)),
            2 => block[at] = 0xff,
            3 => block.insert(at, rng.random_range(0..=255)),
            _ => block[at] ^= 1 << rng.random_range(0..8),
        }
    }
    block
}
