//! What the progress topic says: pure, knows no client.
//!
//! ```text
//! key <job>/<generation>/<worker>/<workers>        value <epoch>               that lane has published all its rows up to the epoch
//! key <job>/<generation>/<worker>/<workers>/mark   value announced | opened    that lane exists | it has fenced all earlier ones
//! ```
//!
//! Invariants:
//!
//! 1. A progress record is true for ever: with `epoch`, every row of every epoch up to it whose route led to that lane is published,
//!    by the lane itself or by one before it.
//! 2. Records of other jobs are passed over; one of this job that cannot be read is an error, never a guess.

use std::collections::{BTreeMap, BTreeSet};

use crate::runtime::survive::Route;
use crate::sink::SinkError;
use crate::time::Epoch;

/// Whose output a sink writes: one worker of one start of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// The flow's name: part of transactional ids and of the keys of the progress topic.
    pub job: String,
    /// Which start of the flow; ascends.
    pub generation: u64,
    /// This worker, from 0, over all processes.
    pub worker: usize,
    /// How many workers there are, over all processes.
    pub workers: usize,
    /// Earlier generations since the oldest epoch that may be replayed, with their numbers of workers. What the progress topic says of others is
    /// deleted, unless it is about epochs above `published_up_to`.
    pub earlier: Vec<(u64, usize)>,
    /// Everything up to here is known to be published: a checkpoint covers it.
    pub published_up_to: Epoch,
}

impl Lane {
    pub(super) fn id(&self) -> LaneId {
        LaneId { generation: self.generation, worker: self.worker, workers: self.workers }
    }
}

/// A lane, as keys name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LaneId {
    pub(super) generation: u64,
    pub(super) worker: usize,
    pub(super) workers: usize,
}

impl LaneId {
    /// Holds the generation, so that fencing an earlier lane never meets a present one.
    pub(super) fn transactional_id(self, job: &str) -> String {
        format!("windkessel.{job}.{}.{}", self.generation, self.worker)
    }

    pub(super) fn progress_key(self, job: &str) -> String {
        format!("{job}/{}/{}/{}", self.generation, self.worker, self.workers)
    }

    pub(super) fn mark_key(self, job: &str) -> String {
        format!("{}/mark", self.progress_key(job))
    }
}

/// How far a lane has come in its opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    /// It exists: whoever reads this in a lower generation must not publish any more.
    Announced,
    /// It has fenced every lane of earlier generations.
    Opened,
}

impl Mark {
    pub(super) fn value(self) -> &'static str {
        match self {
            Mark::Announced => "announced",
            Mark::Opened => "opened",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// 0 is nothing yet.
    progress: Epoch,
    mark: Option<Mark>,
}

/// What has been read of the progress topic about one job.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    job: String,
    lanes: BTreeMap<LaneId, Entry>,
}

impl Ledger {
    pub(super) fn new(job: &str) -> Self {
        Ledger { job: job.to_owned(), lanes: BTreeMap::new() }
    }

    /// Takes in a record, in the order of the topic.
    ///
    /// # Errors
    /// [`SinkError::Refused`] if it is this job's and cannot be read.
    pub(super) fn take(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), SinkError> {
        let Some(rest) = key.strip_prefix(self.job.as_bytes()).and_then(|rest| rest.strip_prefix(b"/")) else {
            return Ok(());
        };
        self.read(rest, value).ok_or_else(|| {
            let key = String::from_utf8_lossy(key);
            SinkError::Refused(format!(
                "could not read the record {key:?} of the progress topic: nobody but windkessel may write there; name another sink.kafka.progress_topic"
            ))
        })
    }

    fn read(&mut self, rest: &[u8], value: Option<&[u8]>) -> Option<()> {
        let mut parts = std::str::from_utf8(rest).ok()?.split('/');
        let (generation, worker, workers) = (parts.next()?, parts.next()?, parts.next()?);
        let id = LaneId {
            generation: generation.parse().ok()?,
            worker: worker.parse().ok()?,
            workers: workers.parse().ok().filter(|workers| *workers > 0)?,
        };
        let value = value.map(std::str::from_utf8).transpose().ok()?;
        let entry = self.lanes.entry(id).or_default();
        match (parts.next(), value) {
            (None, None) => entry.progress = 0,
            (None, Some(epoch)) => entry.progress = epoch.parse().ok()?,
            (Some("mark"), None) => entry.mark = None,
            (Some("mark"), Some("announced")) => entry.mark = Some(Mark::Announced),
            (Some("mark"), Some("opened")) => entry.mark = Some(Mark::Opened),
            _ => return None,
        }
        if *entry == Entry::default() {
            self.lanes.remove(&id);
        }
        parts.next().is_none().then_some(())
    }

    /// What a lane has published; 0 is nothing.
    pub(super) fn progress(&self, lane: LaneId) -> Epoch {
        self.lanes.get(&lane).map_or(0, |entry| entry.progress)
    }

    /// # Errors
    /// [`SinkError::Refused`] if there is a generation after this one.
    pub(super) fn refuse_if_taken_over(&self, lane: &Lane) -> Result<(), SinkError> {
        match self.lanes.keys().next_back().filter(|newest| newest.generation > lane.generation) {
            None => Ok(()),
            Some(newest) => Err(SinkError::Refused(format!(
                "another run of this flow has taken over: this is start {} of flow {:?}, and the progress topic knows start {}; \
                 stop one of them, or, if the state was deleted on purpose, name another sink.kafka.progress_topic",
                lane.generation, lane.job, newest.generation
            ))),
        }
    }

    /// The lanes that may still be at work: of the newest earlier generation that has fenced all before it, and of those after.
    pub(super) fn to_fence(&self, generation: u64) -> Vec<LaneId> {
        let earlier = || self.lanes.iter().filter(|(id, _)| id.generation < generation);
        let opened = earlier().filter(|(_, entry)| entry.mark == Some(Mark::Opened)).map(|(id, _)| id.generation);
        let from = opened.max().unwrap_or(0);
        earlier().map(|(id, _)| *id).filter(|id| id.generation >= from).collect()
    }

    /// What generations before this lane's have published.
    pub(super) fn published(&self, lane: &Lane) -> Published {
        let mut by = BTreeMap::new();
        for (id, entry) in self.lanes.iter().filter(|(id, _)| id.generation < lane.generation) {
            let lanes = by.entry((id.generation, id.workers)).or_insert_with(|| vec![0; id.workers]);
            if let Some(progress) = lanes.get_mut(id.worker) {
                *progress = entry.progress;
            }
        }
        let by: Vec<Vec<Epoch>> = by.into_values().collect();
        let last = by.iter().flatten().copied().max().unwrap_or(0);
        Published { covered: lane.published_up_to, last: last.max(lane.published_up_to), by }
    }

    /// Keys of records about generations that no replay will ask about: those that are not named and have published nothing above what is covered.
    pub(super) fn outdated(&self, lane: &Lane) -> Vec<String> {
        let ahead = self.lanes.iter().filter(|(_, entry)| entry.progress > lane.published_up_to);
        let named = lane.earlier.iter().map(|(generation, _)| *generation);
        let kept: BTreeSet<u64> = ahead.map(|(id, _)| id.generation).chain(named).collect();
        let old = self.lanes.iter().filter(|(id, _)| id.generation < lane.generation && !kept.contains(&id.generation));
        let mut keys = Vec::new();
        for (id, entry) in old {
            keys.extend((entry.progress > 0).then(|| id.progress_key(&self.job)));
            keys.extend(entry.mark.map(|_| id.mark_key(&self.job)));
        }
        keys
    }
}

/// Which rows of replayed epochs are published already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Published {
    covered: Epoch,
    /// No epoch above this is published, not even in part.
    last: Epoch,
    /// The progress of each generation's workers.
    by: Vec<Vec<Epoch>>,
}

impl Published {
    /// True if the epoch's rows of this route are published.
    pub(super) fn holds(&self, epoch: Epoch, route: Route) -> bool {
        epoch <= self.covered
            || (epoch <= self.last
                && self.by.iter().any(|progress| progress[(route % progress.len() as u64) as usize] >= epoch))
    }
}

#[cfg(test)]
mod tests {
    //! Proves that the ledger reads what is written, whom it fences, and, against a model that plays crashes, that each row is published once.
    use rand::RngExt;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const JOB: &str = "flow";

    fn lane(generation: u64, worker: usize, workers: usize) -> Lane {
        Lane { job: JOB.into(), generation, worker, workers, earlier: Vec::new(), published_up_to: 0 }
    }

    fn ledger(records: &[(&str, Option<&str>)]) -> Ledger {
        let mut ledger = Ledger::new(JOB);
        for (key, value) in records {
            ledger.take(key.as_bytes(), value.map(str::as_bytes)).unwrap();
        }
        ledger
    }

    #[test]
    fn keys_are_read_as_they_are_written() {
        let id = LaneId { generation: 7, worker: 1, workers: 3 };
        assert_eq!(id.transactional_id(JOB), "windkessel.flow.7.1");
        let mut ledger = Ledger::new(JOB);
        ledger.take(id.progress_key(JOB).as_bytes(), Some(b"42")).unwrap();
        ledger.take(id.mark_key(JOB).as_bytes(), Some(Mark::Opened.value().as_bytes())).unwrap();
        assert_eq!(ledger.lanes[&id], Entry { progress: 42, mark: Some(Mark::Opened) });
        ledger.take(id.progress_key(JOB).as_bytes(), None).unwrap();
        ledger.take(id.mark_key(JOB).as_bytes(), None).unwrap();
        assert!(ledger.lanes.is_empty());
    }

    #[test]
    fn other_jobs_are_passed_over_and_nonsense_is_refused() {
        let mut ledger = Ledger::new(JOB);
        for key in ["flow2/1/0/1", "other/x", "flow", ""] {
            ledger.take(key.as_bytes(), Some(b"x")).unwrap();
        }
        assert!(ledger.lanes.is_empty());
        for (key, value) in [
            ("flow/1/0", "5"),
            ("flow/1/0/0", "5"),
            ("flow/1/0/1", "x"),
            ("flow/1/0/1/mark", "5"),
            ("flow/1/0/1/other", "5"),
            ("flow/1/0/1/mark/2", "opened"),
        ] {
            let error = ledger.take(key.as_bytes(), Some(value.as_bytes())).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("progress_topic"), "{error}");
        }
    }

    #[test]
    fn a_later_generation_refuses_and_an_equal_one_does_not() {
        let ledger = ledger(&[("flow/7/1/2/mark", Some("announced"))]);
        ledger.refuse_if_taken_over(&lane(7, 0, 2)).unwrap();
        ledger.refuse_if_taken_over(&lane(8, 0, 2)).unwrap();
        let error = ledger.refuse_if_taken_over(&lane(6, 0, 2)).unwrap_err().to_string();
        assert!(error.starts_with("another run of this flow has taken over"), "{error}");
    }

    #[test]
    fn lanes_that_an_earlier_generation_has_fenced_are_not_fenced_again() {
        let ledger = ledger(&[
            ("flow/1/0/1/mark", Some("opened")),
            ("flow/2/0/2/mark", Some("opened")),
            ("flow/2/1/2/mark", Some("announced")),
            ("flow/3/0/1/mark", Some("announced")),
            ("flow/4/0/1/mark", Some("opened")),
        ]);
        let fenced: Vec<_> = ledger.to_fence(4).into_iter().map(|id| (id.generation, id.worker)).collect();
        assert_eq!(fenced, [(2, 0), (2, 1), (3, 0)]);
    }

    #[test]
    fn generations_that_are_not_named_are_forgotten() {
        let ledger = ledger(&[
            ("flow/1/0/1", Some("5")),
            ("flow/1/0/1/mark", Some("opened")),
            ("flow/2/0/1/mark", Some("opened")),
            ("flow/3/0/1", Some("9")),
        ]);
        let lane = Lane { earlier: vec![(2, 1)], published_up_to: 5, ..lane(3, 0, 1) };
        assert_eq!(ledger.outdated(&lane), ["flow/1/0/1", "flow/1/0/1/mark"]);
        let behind = Lane { published_up_to: 4, ..lane };
        assert!(ledger.outdated(&behind).is_empty(), "epoch 5 may be replayed");
    }

    /// Plays a job: each generation replays what is not covered, with any number of workers, and dies anywhere.
    #[test]
    fn whatever_dies_when_each_row_is_published_once() {
        for seed in 0..300 {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let epochs: Vec<Vec<Route>> = (0..12)
                .map(|_| (0..random.random_range(0..6)).map(|_| random.random_range(0..256)).collect())
                .collect();
            let mut ledger = Ledger::new(JOB);
            let mut topic: Vec<(Epoch, usize)> = Vec::new();
            let (mut earlier, mut covered) = (Vec::new(), 0);
            for generation in 1.. {
                let workers = random.random_range(1..5);
                let mut complete = true;
                let mut done = Vec::new();
                for worker in 0..workers {
                    let lane = Lane {
                        earlier: earlier.clone(),
                        published_up_to: covered,
                        ..self::lane(generation, worker, workers)
                    };
                    let published = ledger.published(&lane);
                    let dies = if random.random_bool(0.7) { random.random_range(0..13) } else { 13 };
                    complete &= dies == 13;
                    done.push(dies);
                    let mut epoch = covered + 1;
                    while epoch < dies.min(13) {
                        // Some epochs are closed together: one transaction.
                        let upto = (epoch + random.random_range(0..3)).min(dies.min(13) - 1);
                        let mut sent = Vec::new();
                        for at in epoch..=upto {
                            let rows = epochs[at as usize - 1].iter().enumerate();
                            let mine = rows.filter(|(_, route)| **route % workers as u64 == worker as u64);
                            sent.extend(
                                mine.filter(|(_, route)| !published.holds(at, **route)).map(|(row, _)| (at, row)),
                            );
                        }
                        if let Some((last, _)) = sent.last() {
                            let key = lane.id().progress_key(JOB);
                            ledger.take(key.as_bytes(), Some(last.to_string().as_bytes())).unwrap();
                            topic.extend(sent);
                        }
                        epoch = upto + 1;
                    }
                }
                // A checkpoint covers what all have settled; sometimes.
                let settled = done.into_iter().min().unwrap_or(1).max(1) - 1;
                earlier.push((generation, workers));
                if random.random_bool(0.3) && settled > covered {
                    covered = settled;
                    earlier.retain(|(earlier, _)| *earlier == generation);
                    let now = Lane { earlier: earlier.clone(), ..self::lane(generation + 1, 0, 1) };
                    ledger.outdated(&now).iter().for_each(|key| ledger.take(key.as_bytes(), None).unwrap());
                }
                if complete {
                    break;
                }
            }
            let once: BTreeSet<_> = topic.iter().copied().collect();
            assert_eq!(once.len(), topic.len(), "seed {seed}: a row twice");
            assert_eq!(once.len(), epochs.iter().map(Vec::len).sum::<usize>(), "seed {seed}: a row is missing");
        }
    }
}
