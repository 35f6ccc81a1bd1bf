//! From reasons to alarms: a rule must fire in k of the patient's last n readings, for some time, and is then silent for a while.
//!
//! One firing reading is mostly an artefact: asking for two in a row cuts episodes about 2.4-fold on real cuff readings
//! (docs/clinical.md). State is kept by (patient, partition), so that what one partition raises does not depend on how partitions
//! interleave, and only for patients with something firing.
//!
//! What counts, all of it in event time:
//! * *Newest wins.* A reading counts if it is on time and not older than the newest one in state. A late one neither raises nor
//!   clears; where there is no state, the order of arrival stands for the order of measurement.
//! * *One instant is one reading.* Observations with the event time of the newest reading are merged with it: two devices, or one
//!   reading sent twice, never make "two in a row". What the first of them ended stays ended.
//! * *Held* since the oldest firing reading among the last n, taken when k was reached; k must stay reached from there on.
//! * *Refractory*: from an alarm on, the same rule is silent for the span; it alarms again if it still fires then.
//! * *Corrections* (the same observation again) replace what the reading said as long as it is among the last n, however late they
//!   come. They may end an episode and never raise. After a merge only the first observation of the instant can be corrected.
//! * *Memory* is [`MEMORY`]: a patient unheard of for longer starts afresh.
//!
//! **What survives** is every stream with something firing, an entry in the block of its patient's key group; a stream that was dropped since the
//! last save is an entry without a watch. Rules are saved by their number: what one rule set saved is not for another.
//!
//! Limits: n ≤ [`READINGS_MAX`]; 24 bytes a reading kept, 40 a rule, about 100 for the entry itself: 250 bytes for a patient with
//! something firing at the default n = 2. Patients who fire and then fall silent are dropped by [`Scorer::forget`](super::Scorer::forget).

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hash, Hasher};

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::rules::Fired;
use crate::config::ScoreSpec;
use crate::runtime::survive::{Blocks, Corrupt, Extent, entries, key_group};
use crate::time::{EventSpan, EventTime};
use crate::vocabulary::{Partition, Pseudonym};

/// The most readings that `score.alarm_n` may look back on.
pub const READINGS_MAX: u32 = 16;

/// After this long without a reading a patient's firing is forgotten. Hold and refractory time may not exceed it.
pub const MEMORY: EventSpan = EventSpan::from_seconds(30 * 86_400);

/// Whose readings, read where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stream {
    /// Whose.
    pub patient: Pseudonym,
    /// Read where.
    pub partition: Partition,
}

impl Hash for Stream {
    /// The pseudonym is an HMAC's output and as good as any hash of it; a patient is rarely read from two partitions.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.patient.hash64() ^ self.partition.number as u64);
    }
}

/// Takes the one number that [`Stream`] gives as its hash.
#[derive(Default)]
struct Uniform(u64);

impl Hasher for Uniform {
    fn write_u64(&mut self, uniform: u64) {
        self.0 = uniform;
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a stream gives one u64")
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What persistence has to know of one reading.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) stream: Stream,
    pub(super) at: EventTime,
    /// Which observation it is a version of, [`Pseudonym::hash64`] of its pseudonym.
    pub(super) observation: u64,
    /// The rules that fire, of those that may alarm.
    pub(super) fired: Fired,
    /// False if it is behind its partition's watermark.
    pub(super) on_time: bool,
}

/// All patients with something firing.
#[derive(Debug)]
pub(super) struct Persistence {
    demand: Demand,
    watches: HashMap<Stream, Watch, BuildHasherDefault<Uniform>>,
    /// Streams changed or dropped since the last save; `None` before the first save or load, when everything is to be saved.
    changed: Option<HashSet<Stream, BuildHasherDefault<Uniform>>>,
}

/// What an alarm needs.
#[derive(Clone, Copy, Debug)]
struct Demand {
    k: usize,
    n: usize,
    hold: EventSpan,
    refractory: EventSpan,
}

/// What is remembered of one patient in one partition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Watch {
    /// The last n readings, ascending in time; those before the first firing one are missing, which is the same as not firing.
    history: SmallVec<[Entry; 2]>,
    /// Rules with something to remember, ascending.
    episodes: SmallVec<[Episode; 2]>,
}

/// One reading.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    at: EventTime,
    observation: u64,
    fired: Fired,
}

/// One rule's firing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Episode {
    /// Index into the rule set.
    rule: u8,
    /// Since when k of n have been firing.
    since: Option<EventTime>,
    /// The last alarm, while it is refractory.
    alarmed: Option<EventTime>,
}

impl Persistence {
    /// Nothing firing yet. Errors name the key of the flow file.
    pub(super) fn new(spec: &ScoreSpec) -> Result<Self, String> {
        if spec.alarm_n == 0 || spec.alarm_n > READINGS_MAX {
            return Err(format!("score.alarm_n must be between 1 and {READINGS_MAX}, got {}", spec.alarm_n));
        }
        if spec.alarm_k == 0 || spec.alarm_k > spec.alarm_n {
            return Err(format!(
                "score.alarm_k must be between 1 and score.alarm_n, which is {}; got {}",
                spec.alarm_n, spec.alarm_k
            ));
        }
        for (key, span) in [("alarm_hold", spec.alarm_hold), ("alarm_refractory", spec.alarm_refractory)] {
            if span > MEMORY {
                return Err(format!(
                    "score.{key} must be at most {MEMORY}, as long as firing is remembered; got {span}"
                ));
            }
        }
        let demand = Demand {
            k: spec.alarm_k as usize,
            n: spec.alarm_n as usize,
            hold: spec.alarm_hold,
            refractory: spec.alarm_refractory,
        };
        Ok(Persistence { demand, watches: HashMap::default(), changed: None })
    }

    /// Takes a reading in, in position order, and says which rules alarm at it.
    pub(super) fn observe(&mut self, seen: &Seen) -> Fired {
        let watch = match self.watches.get_mut(&seen.stream) {
            Some(watch) => watch,
            None if seen.fired == 0 || !seen.on_time => return 0,
            None => self.watches.entry(seen.stream).or_default(),
        };
        touch(&mut self.changed, seen.stream);
        let raised = watch.observe(seen, &self.demand);
        if watch.is_idle() {
            self.watches.remove(&seen.stream);
        }
        raised
    }

    /// Takes back what a version of this observation said: it was withdrawn, or its new version says nothing about alarms.
    pub(super) fn withdraw(&mut self, stream: Stream, observation: u64) {
        if let Some(watch) = self.watches.get_mut(&stream) {
            touch(&mut self.changed, stream);
            watch.history.retain(|entry| entry.observation != observation);
            watch.end_episodes(&self.demand);
            if watch.is_idle() {
                self.watches.remove(&stream);
            }
        }
    }

    /// Drops patients of this partition whom [`MEMORY`] no longer covers at its watermark. Never changes what is raised later.
    pub(super) fn forget(&mut self, partition: Partition, watermark: EventTime) {
        let expired = |watch: &Watch| watch.latest().is_none_or(|latest| watermark - latest > MEMORY);
        self.watches.retain(|stream, watch| {
            let kept = stream.partition != partition || !expired(watch);
            if !kept {
                touch(&mut self.changed, *stream);
            }
            kept
        });
    }

    /// Number of (patient, partition) pairs with something firing.
    pub(super) fn len(&self) -> usize {
        self.watches.len()
    }

    /// Saves what was changed or dropped since the last save, or everything; ascending by stream.
    pub(super) fn save(&mut self, extent: Extent, into: &mut Blocks) {
        let changed = self.changed.replace(HashSet::default()).filter(|_| extent == Extent::Changed);
        let mut streams: Vec<Stream> = match changed {
            Some(changed) => changed.into_iter().collect(),
            None => self.watches.keys().copied().collect(),
        };
        streams.sort_unstable();
        for stream in streams {
            into.push(key_group(stream.patient.hash64()), &(stream, self.watches.get(&stream)));
        }
    }

    /// Takes in a block. If the flow now asks for fewer readings, the oldest are left out.
    pub(super) fn load(&mut self, block: &[u8]) -> Result<(), Corrupt> {
        let what = "persistence of an alarm";
        self.changed.get_or_insert_default();
        entries(block, what, |(stream, watch): (Stream, Option<Watch>)| {
            match watch {
                Some(watch) if !watch.is_possible() => return Err(Corrupt { what }),
                Some(mut watch) => {
                    watch.history.drain(..watch.history.len().saturating_sub(self.demand.n));
                    self.watches.insert(stream, watch);
                }
                None => drop(self.watches.remove(&stream)),
            }
            Ok(())
        })
    }
}

fn touch(changed: &mut Option<HashSet<Stream, BuildHasherDefault<Uniform>>>, stream: Stream) {
    if let Some(changed) = changed {
        changed.insert(stream);
    }
}

impl Watch {
    fn observe(&mut self, seen: &Seen, demand: &Demand) -> Fired {
        if let Some(index) = self.history.iter().position(|entry| entry.observation == seen.observation) {
            if self.history[index].at == seen.at {
                self.history[index].fired = seen.fired;
                self.end_episodes(demand);
                return 0;
            }
            self.history.remove(index);
            self.end_episodes(demand);
        }
        let latest = self.latest().unwrap_or(seen.at);
        if !seen.on_time || seen.at < latest {
            return 0;
        }
        if seen.at - latest > MEMORY {
            *self = Watch::default();
        }
        match self.history.last_mut() {
            Some(last) if last.at == seen.at => last.fired |= seen.fired,
            _ => {
                if self.history.len() == demand.n {
                    self.history.remove(0);
                }
                self.history.push(Entry { at: seen.at, observation: seen.observation, fired: seen.fired });
            }
        }
        self.raise(seen.at, demand)
    }

    /// Brings the episodes up to the newest reading, at `at`, and says which rules alarm at it.
    fn raise(&mut self, at: EventTime, demand: &Demand) -> Fired {
        let now = self.history.last().map_or(0, |entry| entry.fired);
        let known = self.episodes.iter().fold(0, |mask: Fired, episode| mask | 1 << episode.rule);
        let mut left = self.history.iter().fold(known, |mask, entry| mask | entry.fired);
        let mut raised = 0;
        while left != 0 {
            let rule = left.trailing_zeros() as u8;
            let bit = 1 << rule;
            left &= !bit;
            let mut episode = self.take_episode(rule);
            // An instant alarms once, however many observations it has and however short the refractory time is.
            episode.alarmed = episode.alarmed.filter(|&alarmed| alarmed == at || at - alarmed < demand.refractory);
            if self.firing(bit) < demand.k {
                episode.since = None;
            } else {
                let since = *episode.since.get_or_insert_with(|| self.oldest_firing(bit, at));
                if now & bit != 0 && at - since >= demand.hold && episode.alarmed.is_none() {
                    raised |= bit;
                    episode.alarmed = Some(at);
                }
            }
            self.put_episode(episode);
        }
        raised
    }

    /// Ends the episodes that a correction left with fewer than k readings. Begins none: a correction never raises.
    fn end_episodes(&mut self, demand: &Demand) {
        for index in 0..self.episodes.len() {
            if self.firing(1 << self.episodes[index].rule) < demand.k {
                self.episodes[index].since = None;
            }
        }
        self.episodes.retain(|episode| episode.since.is_some() || episode.alarmed.is_some());
    }

    /// Readings among the last n at which this rule fires.
    fn firing(&self, bit: Fired) -> usize {
        self.history.iter().filter(|entry| entry.fired & bit != 0).count()
    }

    fn oldest_firing(&self, bit: Fired, otherwise: EventTime) -> EventTime {
        self.history.iter().find(|entry| entry.fired & bit != 0).map_or(otherwise, |entry| entry.at)
    }

    fn take_episode(&mut self, rule: u8) -> Episode {
        match self.episodes.iter().position(|episode| episode.rule == rule) {
            Some(index) => self.episodes.remove(index),
            None => Episode { rule, since: None, alarmed: None },
        }
    }

    /// Keeps an episode, taken before, if there is something to remember.
    fn put_episode(&mut self, episode: Episode) {
        if episode.since.is_some() || episode.alarmed.is_some() {
            let at = self.episodes.partition_point(|other| other.rule < episode.rule);
            self.episodes.insert(at, episode);
        }
    }

    /// The newest time that anything is remembered of. An alarm can outlive its readings when they are withdrawn.
    fn latest(&self) -> Option<EventTime> {
        let alarms = self.episodes.iter().filter_map(|episode| episode.alarmed);
        self.history.last().map(|entry| entry.at).into_iter().chain(alarms).max()
    }

    /// True of everything that a machine can have saved.
    fn is_possible(&self) -> bool {
        self.history.len() <= READINGS_MAX as usize
            && self.history.is_sorted_by_key(|entry| entry.at)
            && self.episodes.is_sorted_by(|a, b| a.rule < b.rule)
            && self.episodes.iter().all(|episode| u32::from(episode.rule) < Fired::BITS)
    }

    fn is_idle(&self) -> bool {
        self.episodes.is_empty() && self.history.iter().all(|entry| entry.fired == 0)
    }
}

#[cfg(test)]
mod tests;
