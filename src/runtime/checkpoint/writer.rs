//! Writing state files, beside the stages that make their blocks.
//!
//! ```text
//! stage ─Belt─> blocks ─> "state": packs ─> whole files ─> "state-store": stores ─> its name and checksum, to the desk
//!   └───────────── memory of packed blocks ──┘   └───────────── memory of stored files ──┘
//! ```
//!
//! Two threads, so that a store that is slow or away keeps no stage waiting.
//!
//! Limits: [`WRITER_QUEUE_MAX`] blocks wait for being packed while a stage makes the next ones; the stage waits then, so that what is being saved takes
//! [`WRITER_BYTES_MAX`] and not as much as the state. [`FILES_QUEUE_MAX`] files wait for the store. A file must fit into memory, compressed; the memory of
//! the largest two is kept for the next.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::mpsc::{Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::runtime::epoch_log::StatePart;
use crate::runtime::failpoint;
use crate::runtime::failure::Failure;
use crate::runtime::host;
use crate::runtime::metrics::Metrics;
use crate::runtime::recorder::checkpoint_of;
use crate::runtime::state_files::{self, Encoder, Packer, StateKey};
use crate::runtime::stop::Stop;
use crate::runtime::store::SharedStore;
use crate::runtime::survive::{BLOCK_BYTES, KEY_GROUPS, Outlet, Route};
use crate::time::Epoch;

/// Blocks that may wait for the writer of a process.
const WRITER_QUEUE_MAX: usize = 512;

/// Blocks whose memory is kept for the next: as many as one stage has open at once.
const SPARE_BLOCKS_MAX: usize = KEY_GROUPS as usize;

/// Files that may wait for the store: more than all stages of a process make at one border, as a rule.
const FILES_QUEUE_MAX: usize = 32;

/// Files whose memory is kept for the next: one is stored while another is made.
const SPARE_FILES_MAX: usize = 2;

/// The most memory that blocks take which wait, or are spare.
pub const WRITER_BYTES_MAX: usize = (WRITER_QUEUE_MAX + SPARE_BLOCKS_MAX) * BLOCK_BYTES;

/// Between two attempts to write a state file.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// A piece of one stage's state, on its way to a file.
struct Piece {
    stage: &'static str,
    worker: usize,
    border: Epoch,
    what: What,
}

enum What {
    Block(Route, Vec<u8>),
    /// There are no more for this border.
    End(Sender<(Epoch, StatePart)>),
}

/// Memory for the next ones of a kind: fresh pages cost more than what is written to them.
#[derive(Clone)]
struct Spare {
    kept: Arc<Mutex<Vec<Vec<u8>>>>,
    max: usize,
}

impl Spare {
    fn new(max: usize) -> Self {
        Spare { kept: Arc::default(), max }
    }

    /// The largest, empty.
    fn take(&self) -> Option<Vec<u8>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Keeps it, if it is among the largest.
    fn put(&self, mut used: Vec<u8>) {
        used.clear();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let place = kept.partition_point(|other| other.capacity() <= used.capacity());
        kept.insert(place, used);
        if kept.len() > self.max {
            kept.remove(0);
        }
    }
}

/// The threads of a process that write state files: one packs blocks, the other stores files, so that a store that is slow or away keeps no stage waiting.
#[derive(Clone)]
pub struct StateWriter {
    queue: SyncSender<Piece>,
    blocks: Spare,
}

impl StateWriter {
    /// Starts them.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(
        store: SharedStore,
        generation: u64,
        cipher: Option<Arc<StateKey>>,
        stop: Stop,
        failure: Failure,
        metrics: Metrics,
    ) -> std::io::Result<StateWriter> {
        let (blocks, files) = (Spare::new(SPARE_BLOCKS_MAX), Spare::new(SPARE_FILES_MAX));
        let storing = Storing { store, stop, failure, metrics, spare: files.clone() };
        let finished = host::take("state-store", FILES_QUEUE_MAX, move |file| storing.take(file))?;
        let packer = Packer::new()?;
        let (making, spare) = (BTreeMap::new(), (blocks.clone(), files));
        let mut packing = Packing { generation, cipher, packer, making, spare, finished };
        let queue = host::take("state", WRITER_QUEUE_MAX, move |piece| packing.take(piece))?;
        Ok(StateWriter { queue, blocks })
    }
}

/// What one stage of one worker saves for one border, on its way to the writer.
pub(super) struct Belt {
    pub(super) writer: StateWriter,
    pub(super) stage: &'static str,
    pub(super) worker: usize,
    pub(super) border: Epoch,
}

impl Belt {
    /// There are no more blocks for this border.
    pub(super) fn end(&self, reply: Sender<(Epoch, StatePart)>) {
        self.give(What::End(reply));
    }

    fn give(&self, what: What) {
        let Belt { stage, worker, border, .. } = *self;
        // Fails only when the writer has reported why it is gone.
        let _ = self.writer.queue.send(Piece { stage, worker, border, what });
    }
}

impl Outlet for Belt {
    fn spare(&mut self) -> Vec<u8> {
        // An entry that makes a block full may lie beyond.
        self.writer.blocks.take().unwrap_or_else(|| Vec::with_capacity(BLOCK_BYTES + BLOCK_BYTES / 8))
    }

    fn take(&mut self, route: Route, block: Vec<u8>) {
        self.give(What::Block(route, block));
    }
}

/// Makes files of blocks.
struct Packing {
    generation: u64,
    cipher: Option<Arc<StateKey>>,
    packer: Packer,
    /// Files in the making, by stage and worker, each of which is at one border at a time.
    making: BTreeMap<(&'static str, usize), Encoder>,
    /// Memory of blocks, and of files.
    spare: (Spare, Spare),
    finished: SyncSender<Finished>,
}

/// A whole file that is to be stored.
struct Finished {
    border: Epoch,
    name: String,
    bytes: Vec<u8>,
    reply: Sender<(Epoch, StatePart)>,
}

impl Packing {
    fn take(&mut self, Piece { stage, worker, border, what }: Piece) -> ControlFlow<()> {
        let (whose, epoch) = ((stage, worker), checkpoint_of(border));
        let (blocks, files) = &self.spare;
        match what {
            What::Block(route, block) => {
                let begin = || Encoder::new(stage, epoch, self.cipher.as_deref(), files.take().unwrap_or_default());
                self.making.entry(whose).or_insert_with(begin).add(route, &block, &mut self.packer);
                blocks.put(block);
            }
            What::End(reply) => {
                let Some(file) = self.making.remove(&whose) else { return ControlFlow::Continue(()) };
                let name = state_files::name(epoch, self.generation, worker, stage);
                if self.finished.send(Finished { border, name, bytes: file.finish(), reply }).is_err() {
                    // It has reported why it is gone.
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// Stores files.
struct Storing {
    store: SharedStore,
    stop: Stop,
    failure: Failure,
    metrics: Metrics,
    spare: Spare,
}

impl Storing {
    fn take(&self, Finished { border, name, bytes, reply }: Finished) -> ControlFlow<()> {
        if let Err(text) = self.write(&name, &bytes) {
            self.failure.report(text);
            return ControlFlow::Break(());
        }
        // Fails only when the worker has gone.
        let _ = reply.send((border, state_files::part(&name, &bytes)));
        self.spare.put(bytes);
        ControlFlow::Continue(())
    }

    /// Writes one object; goes on trying while the store cannot be reached: the run goes on with the checkpoint before.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), String> {
        failpoint::hit("state.create.before");
        loop {
            match self.store.create(name, bytes) {
                // False: an attempt whose answer was lost. Nobody else writes under our generation.
                Ok(_) => break,
                Err(error) if error.may_be_retried() && !self.stop.abandon() => {
                    tracing::warn!(target: "runtime", "could not write {name}: {error}; trying again");
                    host::sleep(RETRY_EVERY);
                }
                Err(error) => return Err(format!("checkpoint: {error}")),
            }
        }
        failpoint::hit("state.create.after");
        self.metrics.checkpoint_bytes.inc_by(bytes.len() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::channel;

    use super::*;
    use crate::runtime::store::testing::creating;
    use crate::runtime::store::{StoreError, memory};

    #[test]
    fn a_store_that_is_away_keeps_no_stage_waiting_and_gets_every_file_when_it_is_back() {
        let away = Arc::new(AtomicBool::new(true));
        let is_away = Arc::clone(&away);
        let store = creating(memory(), move |store, name, bytes| {
            if is_away.load(Ordering::SeqCst) { Err(StoreError::time_out(name)) } else { store.create(name, bytes) }
        });
        let (stop, failure, metrics) = (Stop::default(), Failure::default(), Metrics::new());
        let writer = StateWriter::start(store.clone(), 7, None, stop, failure.clone(), metrics).unwrap();
        let (reply, written) = channel();
        // Far more blocks than may wait for being packed.
        for stage in ["one", "two", "three"] {
            let mut belt = Belt { writer: writer.clone(), stage, worker: 0, border: 1_024 };
            for number in 0..WRITER_QUEUE_MAX as Route {
                let mut block = belt.spare();
                block.extend(number.to_le_bytes());
                belt.take(number % KEY_GROUPS, block);
            }
            belt.end(reply.clone());
        }
        assert!(written.try_recv().is_err(), "nothing is stored");
        away.store(false, Ordering::SeqCst);
        for stage in ["one", "two", "three"] {
            let (border, part) = written.recv().unwrap();
            assert_eq!((border, &*part.name), (1_024, &*state_files::name(checkpoint_of(1_024), 7, 0, stage)));
            let bytes = store.get(&part.name).unwrap().unwrap();
            let mut numbers = Vec::new();
            let take = |route, block: &[u8], _| {
                let number = Route::from_le_bytes(block.try_into().unwrap());
                assert_eq!(route, number % KEY_GROUPS);
                numbers.push(number);
                Ok(())
            };
            state_files::decode(&part.name, &bytes, &part, None, |_| true, take).unwrap();
            assert!(numbers.into_iter().eq(0..WRITER_QUEUE_MAX as Route));
        }
        assert!(failure.reported().is_none());
    }

    #[test]
    fn the_largest_memory_is_kept_and_no_more_than_may_be() {
        let spare = Spare::new(2);
        for room in [10, 1_000, 100, 10_000] {
            spare.put(Vec::with_capacity(room));
        }
        let found: Vec<usize> = std::iter::from_fn(|| spare.take()).map(|of| of.capacity()).collect();
        assert!(found.len() == 2 && found[0] >= 10_000 && (1_000..10_000).contains(&found[1]), "{found:?}");
    }
}
