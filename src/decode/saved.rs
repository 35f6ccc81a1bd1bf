//! What survives of `decode`: how far each partition has come. Buffers and counts do not: the ones are empty between batches, the others telemetry.

use super::Decoder;
use crate::runtime::survive::{Blocks, Corrupt, Extent, Survive};

impl Survive for Decoder {
    /// Panics if a partition's topic is none of [`Decoder::with_topics`].
    fn save(&mut self, extent: Extent, into: &mut Blocks) {
        self.progress.save(extent, &self.topics, into);
    }

    fn load(&mut self, block: &[u8]) -> Result<(), Corrupt> {
        self.progress.load(block, &self.topics)
    }
}
