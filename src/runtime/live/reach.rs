//! How far an answer reaches: of which run it is, and which epochs of the log are in it.
//!
//! ```text
//! close of every LiveSink ─┐
//! clock: cuts, checkpoints ┴─> Reached ─> Reach { generation, epoch } in every answer below /api/v1
//! ```
//!
//! Invariants:
//!
//! 1. Everything of this run up to `epoch` is in the answer, and nothing that the log does not have.
//! 2. `epoch` is the log's: one that was claimed, or that of a checkpoint, or the last one before this run. So it never goes back, over a restart either.
//! 3. While what an earlier run had claimed is being repeated there is none: the answer holds less than that run's answers did.

use serde::Serialize;

use crate::runtime::clock::EpochClock;
use crate::time::Epoch;

/// What an answer says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// Which run of the flow answers, counted from 1; `None` before it has the log.
    pub generation: Option<u64>,
    /// Everything that this run has read up to this epoch of the log is in the answer; `None` if it repeats what an earlier run had read, or nothing was ever read.
    pub epoch: Option<Epoch>,
}

/// How a run begins, as its log says.
pub struct Beginning {
    /// The run's number.
    pub generation: u64,
    /// The highest epoch in the log.
    pub last_epoch: Option<Epoch>,
    /// Claimed epochs are repeated.
    pub repeats: bool,
}

/// How far the sinks of a run have come. One a process.
#[derive(Default)]
pub(super) struct Reached {
    run: Option<(Beginning, EpochClock)>,
    /// Of each sink.
    closed: Vec<Epoch>,
}

impl Reached {
    /// The run has begun.
    pub(super) fn begin(&mut self, beginning: Beginning, clock: EpochClock) {
        self.run = Some((beginning, clock));
    }

    /// One more sink; its number.
    pub(super) fn seat(&mut self) -> usize {
        self.closed.push(0);
        self.closed.len() - 1
    }

    /// A sink has been given everything up to an epoch.
    pub(super) fn close(&mut self, seat: usize, epoch: Epoch) {
        self.closed[seat] = self.closed[seat].max(epoch);
    }

    pub(super) fn reach(&self) -> Reach {
        let Some((beginning, clock)) = &self.run else { return Reach::default() };
        let closed = self.closed.iter().copied().min().unwrap_or(0);
        let repeating = beginning.repeats && beginning.last_epoch.is_some_and(|last| closed < last);
        let epochs =
            [beginning.last_epoch, clock.held_up_to(closed), Some(clock.recorded()).filter(|epoch| *epoch > 0)];
        let epoch = epochs.into_iter().flatten().max().filter(|_| !repeating);
        Reach { generation: Some(beginning.generation), epoch }
    }
}

#[cfg(test)]
mod tests {
    //! Proves which epoch an answer may name.
    use std::time::Duration;

    use super::*;
    use crate::runtime::clock::{BORDER, Cut};
    use crate::vocabulary::Partition;

    fn cut(epoch: Epoch, read: bool) -> Cut {
        let ends = if read { vec![(Partition::default(), 1)] } else { Vec::new() };
        Cut {
            worker: 0,
            epoch,
            starts: Vec::new(),
            ends,
            marks: Vec::new(),
            first: false,
            ended: false,
            draining: false,
        }
    }

    fn begun(last_epoch: Option<Epoch>, repeats: bool) -> (Reached, EpochClock) {
        let clock = EpochClock::starting_above(last_epoch.unwrap_or(0), 1, Duration::from_secs(3_600));
        let mut reached = Reached::default();
        assert_eq!([reached.seat(), reached.seat()], [0, 1]);
        assert_eq!(reached.reach(), Reach::default(), "nothing is known of the log");
        reached.begin(Beginning { generation: 3, last_epoch, repeats }, clock.clone());
        (reached, clock)
    }

    fn close(reached: &mut Reached, epochs: [Epoch; 2]) -> Option<Epoch> {
        (0..2).for_each(|seat| reached.close(seat, epochs[seat]));
        let Reach { generation, epoch } = reached.reach();
        assert_eq!(generation, Some(3));
        epoch
    }

    #[test]
    fn an_answer_names_the_last_epoch_that_holds_something_and_that_every_sink_has() {
        let (mut reached, clock) = begun(None, false);
        assert_eq!(close(&mut reached, [0, 0]), None, "nothing was ever read");
        [(1, true), (2, false), (3, true), (4, false)]
            .into_iter()
            .for_each(|(epoch, read)| clock.hear(&cut(epoch, read)));
        assert_eq!(close(&mut reached, [4, 0]), None);
        assert_eq!(close(&mut reached, [4, 2]), Some(1), "2 holds nothing, so that the log does not have it");
        assert_eq!(close(&mut reached, [4, 4]), Some(3));
        clock.hear(&cut(5, true));
        assert_eq!(close(&mut reached, [4, 5]), Some(3));
        clock.record(BORDER - 1);
        assert_eq!(close(&mut reached, [BORDER, BORDER]), Some(BORDER - 1), "a checkpoint's");
        assert_eq!(close(&mut reached, [Epoch::MAX, Epoch::MAX]), Some(BORDER - 1));
    }

    #[test]
    fn an_answer_names_none_until_what_was_claimed_is_repeated() {
        let (mut reached, clock) = begun(Some(90), true);
        assert_eq!(close(&mut reached, [88, 89]), None);
        assert_eq!(close(&mut reached, [90, 89]), None);
        assert_eq!(close(&mut reached, [90, 90]), Some(90));
        clock.hear(&cut(91, true));
        assert_eq!(close(&mut reached, [91, 95]), Some(91));
    }

    #[test]
    fn a_run_with_nothing_to_repeat_goes_on_from_the_last_epoch_of_the_log() {
        let (mut reached, _) = begun(Some(90), false);
        assert_eq!(close(&mut reached, [0, 0]), Some(90));
    }
}
