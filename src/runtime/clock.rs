//! Which epoch the sources are in, and when a checkpoint is due.
//!
//! ```text
//! epochs  …  2045  2046  2047 │ 2049  2050  …      every multiple of 1,024 is a border: a checkpoint is of everything below one
//!                          border 2048
//! ```
//!
//! There is one clock a process. The fastest source leads, so that none waits for another's timer; what sources of other processes do comes with
//! their [`Cut`]s. When `state.checkpoint_seconds` are over and something was read meanwhile, the clock jumps over the next border. So a border needs
//! no message: an operator sees the frontier pass it.
//!
//! Invariants:
//!
//! 1. Epochs ascend. No source reads anything in an epoch that is a border itself: that one is left for putting back what was saved.
//! 2. All sources end at the same border, the first above every epoch in which one of them ended.
//! 3. A border is jumped over only when the checkpoint of the one before is recorded: checkpoints never pile up.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::epoch_log::PartitionMark;
use super::host;
use crate::time::Epoch;
use crate::vocabulary::Partition;

/// Every multiple of this is a border. A new job counts from Unix milliseconds: with one checkpoint in ten seconds and at most this many epochs
/// between two, epochs advance more slowly than that clock, and a job whose state was lost still begins above all that it has written.
pub const BORDER: Epoch = 1_024;

/// The next border above an epoch.
pub const fn border_above(epoch: Epoch) -> Epoch {
    (epoch / BORDER + 1) * BORDER
}

/// The epoch after this one.
const fn after(epoch: Epoch) -> Epoch {
    if (epoch + 1).is_multiple_of(BORDER) { epoch + 2 } else { epoch + 1 }
}

/// How one source closes an epoch: what it has read in it. Broadcast to all workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cut {
    /// Whose source.
    pub worker: usize,
    /// The epoch.
    pub epoch: Epoch,
    /// For each partition that is new here: its first offset.
    pub starts: Vec<(Partition, i64)>,
    /// For each partition that was read: the next offset.
    pub ends: Vec<(Partition, i64)>,
    /// What happened to partitions after that.
    pub marks: Vec<PartitionMark>,
    /// The source has delivered what comes first.
    pub first: bool,
    /// The source has ended.
    pub ended: bool,
    /// The source's process was asked to end; the others end with it.
    pub draining: bool,
}

impl Cut {
    /// True if the epoch holds nothing of this source.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty() && self.ends.is_empty() && self.marks.is_empty()
    }
}

/// Shared by all sources of a process.
#[derive(Clone, Debug)]
pub struct EpochClock(Arc<Ticking>);

#[derive(Debug)]
struct Ticking {
    start: Epoch,
    leader: AtomicU64,
    recorded: AtomicU64,
    draining: AtomicBool,
    schedule: Mutex<Schedule>,
    sources: Mutex<Vec<Source>>,
    /// Epochs since the last recorded checkpoint in which something was read.
    held: Mutex<BTreeSet<Epoch>>,
}

#[derive(Debug)]
struct Schedule {
    every: Duration,
    since: Instant,
    /// Something was read since the last border.
    dirty: bool,
}

/// What is known of one source.
#[derive(Clone, Copy, Debug, Default)]
struct Source {
    first: bool,
    ended: Option<Epoch>,
}

impl EpochClock {
    /// For `sources` sources of all processes together. Reading begins above `start`, which must not lie below any epoch of an earlier run.
    /// A checkpoint is due after `every`.
    pub fn starting_above(start: Epoch, sources: usize, every: Duration) -> Self {
        let first = after(start);
        EpochClock(Arc::new(Ticking {
            start: first,
            leader: AtomicU64::new(first),
            recorded: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            schedule: Mutex::new(Schedule { every, since: host::now(), dirty: false }),
            sources: Mutex::new(vec![Source::default(); sources]),
            held: Mutex::default(),
        }))
    }

    /// The first epoch in which something new may be read.
    pub fn start(&self) -> Epoch {
        self.0.start
    }

    /// The highest epoch that any source is known to be in.
    pub fn leader(&self) -> Epoch {
        self.0.leader.load(Ordering::SeqCst)
    }

    /// A source ends its epoch `from`, which held something or not. The epoch that comes next.
    pub fn advance(&self, from: Epoch, held_something: bool) -> Epoch {
        let mut schedule = self.schedule();
        schedule.dirty |= held_something;
        let leader = self.leader();
        let mut next = after(from).max(leader);
        let border = border_above(leader.max(from));
        if schedule.dirty && self.caught_up(leader.max(from)) && host::since(schedule.since) >= schedule.every {
            (schedule.dirty, schedule.since) = (false, host::now());
            next = border + 1;
        } else if border_above(next) > border {
            (schedule.dirty, schedule.since) = (false, host::now());
        }
        self.0.leader.fetch_max(next, Ordering::SeqCst).max(next)
    }

    /// A source, of whichever process, has closed an epoch.
    pub fn hear(&self, cut: &Cut) {
        let mut sources = self.sources();
        if let Some(source) = sources.get_mut(cut.worker) {
            source.first |= cut.first || cut.ended;
            source.ended = source.ended.or(cut.ended.then_some(cut.epoch));
        }
        drop(sources);
        let mut schedule = self.schedule();
        if !cut.ended {
            let next = after(cut.epoch);
            let before = self.0.leader.fetch_max(next, Ordering::SeqCst);
            if border_above(next) > border_above(before) {
                // Another process has jumped: its checkpoint is everybody's.
                (schedule.dirty, schedule.since) = (false, Instant::now());
            }
        }
        schedule.dirty |= !cut.is_empty();
        drop(schedule);
        if !cut.is_empty() {
            self.held().insert(cut.epoch);
        }
        if cut.draining {
            self.0.draining.store(true, Ordering::SeqCst);
        }
    }

    /// True once every source has delivered what comes first.
    pub fn all_have_delivered_first(&self) -> bool {
        self.sources().iter().all(|source| source.first)
    }

    /// The border at which all sources end, once all have.
    pub fn final_border(&self) -> Option<Epoch> {
        let ended: Option<Vec<Epoch>> = self.sources().iter().map(|source| source.ended).collect();
        ended.map(|epochs| border_above(epochs.into_iter().max().unwrap_or(self.0.start)))
    }

    /// True once any process was asked to end.
    pub fn draining(&self) -> bool {
        self.0.draining.load(Ordering::SeqCst)
    }

    /// The checkpoint of this epoch is recorded, and its files have their names.
    pub fn record(&self, epoch: Epoch) {
        self.0.recorded.fetch_max(epoch, Ordering::SeqCst);
        let mut held = self.held();
        *held = held.split_off(&(epoch + 1));
    }

    /// The highest epoch up to this one in which something was read, of those since the last recorded checkpoint.
    pub fn held_up_to(&self, epoch: Epoch) -> Option<Epoch> {
        self.held().range(..=epoch).next_back().copied()
    }

    /// The epoch of the last recorded checkpoint of this run; 0 before the first.
    pub fn recorded(&self) -> Epoch {
        self.0.recorded.load(Ordering::SeqCst)
    }

    /// Checkpoint intervals that have gone by since something was read, or a border was passed, without a checkpoint of it; 0 if nothing is due.
    pub fn missed(&self) -> u64 {
        let schedule = self.schedule();
        if !schedule.dirty && self.caught_up(self.leader()) {
            return 0;
        }
        let every = schedule.every.as_millis().max(1);
        u64::try_from(schedule.since.elapsed().as_millis() / every).unwrap_or(u64::MAX)
    }

    /// True if the checkpoint of the last border at or before this epoch is recorded, or the run began above it.
    fn caught_up(&self, epoch: Epoch) -> bool {
        let last_border = border_above(epoch) - BORDER;
        self.recorded() + 1 >= last_border || last_border <= self.0.start
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.0.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, BTreeSet<Epoch>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sources(&self) -> MutexGuard<'_, Vec<Source>> {
        self.0.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(worker: usize, epoch: Epoch) -> Cut {
        Cut {
            worker,
            epoch,
            starts: Vec::new(),
            ends: Vec::new(),
            marks: Vec::new(),
            first: false,
            ended: false,
            draining: false,
        }
    }

    #[test]
    fn the_clock_jumps_over_a_border_when_a_checkpoint_is_due_and_something_was_read() {
        let clock = EpochClock::starting_above(10 * BORDER, 1, Duration::ZERO);
        assert_eq!(clock.start(), 10 * BORDER + 1);
        assert_eq!(clock.advance(10 * BORDER + 1, false), 10 * BORDER + 2, "nothing was read");
        assert_eq!(clock.advance(10 * BORDER + 2, true), 11 * BORDER + 1);
        assert_eq!(clock.advance(11 * BORDER + 1, true), 11 * BORDER + 2, "the checkpoint before is not recorded");
        clock.record(11 * BORDER - 1);
        assert_eq!(clock.advance(11 * BORDER + 2, false), 12 * BORDER + 1, "what was read meanwhile is not forgotten");
        let patient = EpochClock::starting_above(5, 1, Duration::from_secs(3_600));
        assert_eq!(patient.advance(6, true), 7);
    }

    #[test]
    fn a_checkpoint_is_missed_while_something_was_read_and_none_is_recorded() {
        let every = Duration::from_millis(20);
        let clock = EpochClock::starting_above(10 * BORDER, 1, every);
        std::thread::sleep(3 * every);
        assert_eq!(clock.missed(), 0, "nothing was read");
        let border = clock.advance(10 * BORDER + 1, true);
        assert_eq!(border, 11 * BORDER + 1);
        std::thread::sleep(3 * every);
        assert!(clock.missed() >= 3, "not recorded");
        assert_eq!(clock.advance(border, true), border + 1, "and so no other one is begun");
        assert!(clock.missed() >= 3);
        clock.record(11 * BORDER - 1);
        clock.advance(border + 1, true);
        assert_eq!(clock.missed(), 0);
    }

    #[test]
    fn a_jump_of_another_process_is_a_checkpoint_of_this_one_too() {
        let clock = EpochClock::starting_above(10 * BORDER, 2, Duration::from_secs(3_600));
        assert_eq!(clock.advance(10 * BORDER + 1, true), 10 * BORDER + 2);
        assert!(clock.schedule().dirty);
        let long_ago = Instant::now();
        clock.schedule().since = long_ago;
        std::thread::sleep(Duration::from_millis(2));
        clock.hear(&cut(1, 10 * BORDER + 5));
        assert_eq!(clock.schedule().since, long_ago, "no border was passed");
        clock.hear(&cut(1, 11 * BORDER + 1));
        let schedule = clock.schedule();
        assert!(!schedule.dirty && schedule.since > long_ago);
    }

    #[test]
    fn a_border_itself_is_never_an_epoch() {
        let clock = EpochClock::starting_above(BORDER - 3, 1, Duration::from_secs(3_600));
        let mut seen = vec![clock.start()];
        for _ in 0..3 {
            seen.push(clock.advance(*seen.last().unwrap(), true));
        }
        assert_eq!(seen, [BORDER - 2, BORDER - 1, BORDER + 1, BORDER + 2]);
        assert_eq!(EpochClock::starting_above(BORDER - 1, 1, Duration::ZERO).start(), BORDER + 1);
    }

    #[test]
    fn the_fastest_leads_and_all_end_at_one_border() {
        let clock = EpochClock::starting_above(BORDER, 2, Duration::from_secs(3_600));
        clock.hear(&cut(1, BORDER + 40));
        assert_eq!(clock.advance(BORDER + 1, true), BORDER + 41);
        clock.hear(&Cut { ended: true, ..cut(0, BORDER + 41) });
        assert_eq!((clock.final_border(), clock.all_have_delivered_first()), (None, false));
        clock.hear(&Cut { ended: true, draining: true, ..cut(1, 3 * BORDER + 7) });
        assert_eq!((clock.final_border(), clock.draining()), (Some(4 * BORDER), true));
        assert!(clock.all_have_delivered_first());
    }
}
