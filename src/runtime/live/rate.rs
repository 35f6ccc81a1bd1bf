//! Readings per second of the wall clock, over the last five minutes.
//!
//! Invariant: slot `s % SLOTS` holds the count of second `s` for the newest [`SLOTS`] seconds, 0 where nothing came.
//! A clock that steps back adds to the newest second; one that jumps ahead clears what it skipped.

/// Full seconds that the page shows.
pub const RATE_SECONDS: usize = 300;

/// The seconds shown and the one under way.
const SLOTS: usize = RATE_SECONDS + 1;

/// The headline figure is the mean over this many full seconds: an epoch is a quarter of one, so it would flicker.
const MEAN_SECONDS: usize = 5;

pub(super) struct Rate {
    counts: [u64; SLOTS],
    newest: u64,
}

impl Default for Rate {
    fn default() -> Self {
        Rate { counts: [0; SLOTS], newest: 0 }
    }
}

impl Rate {
    pub(super) fn add(&mut self, second: u64, count: u64) {
        self.advance(second);
        self.counts[slot(self.newest)] += count;
    }

    /// Counts of the [`RATE_SECONDS`] full seconds before `second`, oldest first.
    pub(super) fn history(&mut self, second: u64) -> Vec<u64> {
        self.advance(second);
        (1..=RATE_SECONDS as u64).rev().map(|ago| self.counts[slot(self.newest.saturating_sub(ago))]).collect()
    }

    fn advance(&mut self, second: u64) {
        let skipped = second.saturating_sub(self.newest).min(SLOTS as u64);
        for ahead in 0..skipped {
            self.counts[slot(second - ahead)] = 0;
        }
        self.newest = self.newest.max(second);
    }
}

/// Mean of the newest seconds of a history.
pub(super) fn mean(history: &[u64]) -> f64 {
    let newest = &history[history.len().saturating_sub(MEAN_SECONDS)..];
    newest.iter().sum::<u64>() as f64 / newest.len().max(1) as f64
}

fn slot(second: u64) -> usize {
    (second % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(rate: &mut Rate, second: u64, length: usize) -> Vec<u64> {
        let history = rate.history(second);
        assert_eq!(history.len(), RATE_SECONDS);
        history[RATE_SECONDS - length..].to_vec()
    }

    #[test]
    fn the_second_under_way_is_not_shown() {
        let mut rate = Rate::default();
        rate.add(1_000, 3);
        rate.add(1_000, 4);
        assert_eq!(tail(&mut rate, 1_000, 2), [0, 0]);
        assert_eq!(tail(&mut rate, 1_001, 2), [0, 7]);
    }

    #[test]
    fn silence_reads_as_zero_and_old_seconds_leave() {
        let mut rate = Rate::default();
        rate.add(1_000, 3);
        rate.add(1_003, 5);
        assert_eq!(tail(&mut rate, 1_004, 4), [3, 0, 0, 5]);
        assert_eq!(rate.history(1_000 + RATE_SECONDS as u64)[0], 3);
        assert_eq!(rate.history(1_001 + RATE_SECONDS as u64)[0], 0);
        assert_eq!(rate.history(u64::from(u32::MAX)).iter().sum::<u64>(), 0);
    }

    #[test]
    fn a_clock_that_steps_back_loses_nothing() {
        let mut rate = Rate::default();
        rate.add(1_000, 3);
        rate.add(990, 2);
        assert_eq!(tail(&mut rate, 1_001, 2), [0, 5]);
    }

    #[test]
    fn the_ring_agrees_with_a_list_of_everything() {
        use rand::{RngExt as _, SeedableRng as _};
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        let (mut rate, mut all, mut now) = (Rate::default(), Vec::new(), 5_000_u64);
        for _ in 0..2_000 {
            now += [0, 0, 1, 1, 2, 40, 400][random.random_range(0..7)];
            let count = random.random_range(0..9);
            rate.add(now, count);
            all.push((now, count));
            let expected: Vec<u64> = (now - RATE_SECONDS as u64..now)
                .map(|second| all.iter().filter(|(at, _)| *at == second).map(|(_, count)| count).sum())
                .collect();
            assert_eq!(rate.history(now), expected, "seed 7, second {now}");
        }
    }
}
