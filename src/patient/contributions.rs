//! What one patient's observations contributed, kept so that it can be corrected: the versions within `correction.horizon`.
//!
//! Invariants:
//!
//! 1. Sorted by (event time, observation, arrival), so that sums over a window do not depend on the order of arrival.
//! 2. At most one version for each (observation, partition): the one that stands within its partition, or the tombstone that withdrew it.
//!    At most one version of an observation *holds* ([`Version::HOLDS`]): the one whose row stands and that windows count.
//! 3. Three parallel arrays: 32 bits of the observation's pseudonym (scanned for every reading), the versions, the values
//!    (`stride` each, NaN where not measured).
//!
//! Forgetting is lazy: what lies behind the horizon may still be here, and every search leaves it out.
//! Limits: the scan is linear, about 0.1 µs a thousand contributions of one patient.

use std::ops::Range;

use crate::time::EventTime;
use crate::vocabulary::flaws::Flaws;
use crate::vocabulary::{self, Pseudonym, Sex, Status};
use crate::watermark::PartitionId;

/// One version of one observation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Version {
    pub(super) observation: Pseudonym,
    pub(super) at: EventTime,
    pub(super) version: vocabulary::Version,
    pub(super) partition: PartitionId,
    /// The group under which audit counted it.
    pub(super) birth_year: Option<i16>,
    pub(super) sex: Sex,
    pub(super) comorbidities: Option<u8>,
    pub(super) status: Status,
    pub(super) flags: u8,
    /// What data quality counts it under, as long as it holds.
    pub(super) flaws: Flaws,
}

impl Version {
    /// Its row stands; it decides about versions from other partitions.
    pub(super) const HOLDS: u8 = 1;
    /// The observation was in time once, so that corrections are not too late within the horizon.
    pub(super) const ADMITTED: u8 = 2;
    /// Audit counted it: it is to be taken back if it is replaced.
    pub(super) const COUNTED: u8 = 4;
    /// Windows hold it.
    pub(super) const IN_WINDOWS: u8 = 8;
    /// It has had a place in its chain.
    pub(super) const IN_HISTORY: u8 = 16;
    /// Its time is known to the day only.
    pub(super) const DAY: u8 = 32;
    /// It came, or was changed, after the last save.
    pub(super) const UNSAVED: u8 = 64;

    /// A version of which nothing is known yet but what it is.
    pub(super) fn new(observation: Pseudonym, partition: PartitionId, facts: &vocabulary::Facts) -> Self {
        Version {
            observation,
            at: facts.at,
            version: facts.version,
            partition,
            birth_year: None,
            sex: Sex::Unknown,
            comorbidities: None,
            status: facts.status,
            flags: Version::UNSAVED,
            flaws: Flaws::NONE,
        }
    }

    /// The same, holding: its row stands, audit may count it under these demographics, and windows may hold it.
    pub(super) fn holding(
        mut self,
        demographics: &vocabulary::Demographics,
        (counted, in_windows): (bool, bool),
        flaws: Flaws,
    ) -> Self {
        self.set(Version::HOLDS, true);
        self.set(Version::COUNTED, counted);
        self.set(Version::IN_WINDOWS, in_windows);
        self.flaws = flaws;
        self.group(demographics);
        self
    }

    /// Under these demographics audit counts it from now on.
    pub(super) fn group(&mut self, demographics: &vocabulary::Demographics) {
        (self.birth_year, self.sex) = (demographics.birth_year, demographics.sex);
        self.comorbidities = demographics.comorbidities;
    }

    /// The demographics under which audit counted it; of which version they were is not kept.
    pub(super) fn demographics(&self) -> vocabulary::Demographics {
        let Version { birth_year, sex, comorbidities, .. } = *self;
        vocabulary::Demographics { birth_year, sex, comorbidities, version: vocabulary::Version::Unversioned }
    }

    pub(super) fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn set(&mut self, flag: u8, on: bool) {
        self.flags = if on { self.flags | flag } else { self.flags & !flag };
    }
}

/// Where the versions of one observation are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    /// The one of the same partition.
    pub(super) own: Option<usize>,
    /// The one that holds, of whichever partition.
    pub(super) holder: Option<usize>,
}

/// All versions of one patient.
#[derive(Debug)]
pub(super) struct Contributions {
    /// No version is older: spares [`Contributions::forget`] a look at the versions.
    oldest: EventTime,
    /// No version is newer: spares [`Contributions::insert`] one.
    newest: EventTime,
    tags: Vec<u32>,
    versions: Vec<Version>,
    values: Vec<f64>,
}

impl Default for Contributions {
    fn default() -> Self {
        Contributions {
            oldest: EventTime::MAX,
            newest: EventTime::MIN,
            tags: Vec::new(),
            versions: Vec::new(),
            values: Vec::new(),
        }
    }
}

/// Tags are compared this many at a time, without a branch, so that the compiler uses vector instructions.
const TAGS_AT_ONCE: usize = 32;

/// Tags in one line of the memory's cache.
const TAGS_IN_A_LINE: usize = 16;

/// Thirty-two bits of a pseudonym that neither route nor hash use.
fn tag(observation: &Pseudonym) -> u32 {
    let [.., a, b, c, d] = observation.0;
    u32::from_be_bytes([a, b, c, d])
}

impl Contributions {
    /// Makes room for exactly so many versions more.
    pub(super) fn expect(&mut self, versions: usize, stride: usize) {
        self.tags.reserve_exact(versions);
        self.versions.reserve_exact(versions);
        self.values.reserve_exact(versions * stride);
    }

    pub(super) fn len(&self) -> usize {
        self.versions.len()
    }

    /// The versions of `observation` measured at or after `since`.
    pub(super) fn known(&self, observation: &Pseudonym, partition: PartitionId, since: EventTime) -> Known {
        let mut known = Known::default();
        let tag = tag(observation);
        for (chunk, tags) in self.tags.chunks(TAGS_AT_ONCE).enumerate() {
            if !tags.iter().fold(false, |any, other| any | (*other == tag)) {
                continue;
            }
            let start = chunk * TAGS_AT_ONCE;
            for (place, version) in self.versions[start..start + tags.len()].iter().enumerate() {
                if version.observation != *observation || version.at < since {
                    continue;
                }
                if version.partition == partition {
                    known.own = Some(start + place);
                }
                if version.is(Version::HOLDS) {
                    known.holder = Some(start + place);
                }
            }
        }
        known
    }

    /// Something of all tags, which are looked at next, and of where the next version goes: for the cache's sake.
    pub(super) fn touch(&self) -> usize {
        let tags = self.tags.iter().step_by(TAGS_IN_A_LINE).fold(0, |sum: usize, tag| sum.wrapping_add(*tag as usize));
        tags.wrapping_add(self.touch_newest())
    }

    /// Something of the newest version and its values, for the cache's sake.
    pub(super) fn touch_newest(&self) -> usize {
        let version = self.versions.last().map_or(0, |version| usize::from(version.flags));
        version + self.values.last().map_or(0, |value| usize::from(value.is_nan()))
    }

    pub(super) fn get(&self, place: usize) -> &Version {
        &self.versions[place]
    }

    pub(super) fn get_mut(&mut self, place: usize) -> &mut Version {
        &mut self.versions[place]
    }

    /// The values of one version.
    pub(super) fn values(&self, place: usize, stride: usize) -> &[f64] {
        &self.values[place * stride..(place + 1) * stride]
    }

    /// Adds a version with its values where it belongs. There is none of the same observation and partition.
    pub(super) fn insert(&mut self, version: Version, values: &[f64]) {
        let key = (version.at, version.observation);
        // As a rule it is the newest, and the cache has not got the last one.
        let place = match self.versions.last().filter(|_| version.at <= self.newest) {
            Some(last) if (last.at, last.observation) > key => {
                self.versions.partition_point(|other| (other.at, other.observation) <= key)
            }
            _ => self.versions.len(),
        };
        self.oldest = self.oldest.min(version.at);
        self.newest = self.newest.max(version.at);
        self.tags.insert(place, tag(&version.observation));
        self.versions.insert(place, version);
        self.values.extend_from_slice(values);
        self.values[place * values.len()..].rotate_right(values.len());
    }

    /// Removes a version.
    pub(super) fn remove(&mut self, place: usize, stride: usize) {
        self.tags.remove(place);
        self.versions.remove(place);
        self.values.drain(place * stride..(place + 1) * stride);
    }

    /// Adds a version in place of the one of the same observation and partition, if there is one.
    pub(super) fn replace(&mut self, version: Version, values: &[f64]) {
        if let Some(own) = self.known(&version.observation, version.partition, EventTime::MIN).own {
            self.remove(own, values.len());
        }
        self.insert(version, values);
    }

    /// Where the versions measured in `[start, end)` are.
    pub(super) fn between(&self, start: EventTime, end: EventTime) -> Range<usize> {
        // Windows lie near the end of what is kept more often than not, so the search goes from there.
        let mut high = self.versions.len();
        let mut step = 1;
        while high > 0 && self.versions[high - 1].at >= start {
            let low = high.saturating_sub(step);
            if self.versions[low].at < start {
                break;
            }
            high = low;
            step *= 2;
        }
        let low = high.saturating_sub(step);
        let first = low + self.versions[low..high].partition_point(|version| version.at < start);
        let count = self.versions[first..].partition_point(|version| version.at < end);
        first..first + count
    }

    /// Drops what was measured before `until`, once that is more than half of it: each version is then moved less than once on average.
    ///
    /// False if one of them was not saved.
    pub(super) fn forget(&mut self, until: EventTime, stride: usize) -> bool {
        if self.oldest >= until {
            return true;
        }
        let half = self.versions.len() / 2;
        if self.versions.get(half).is_none_or(|version| version.at >= until) {
            return true;
        }
        let dead = self.versions.partition_point(|version| version.at < until);
        let saved = self.versions[..dead].iter().all(|version| !version.is(Version::UNSAVED));
        self.tags.drain(..dead);
        self.versions.drain(..dead);
        self.values.drain(..dead * stride);
        self.oldest = self.versions.first().map_or(EventTime::MAX, |version| version.at);
        if self.versions.capacity() > 4 * self.versions.len() {
            self.tags.shrink_to(2 * self.tags.len());
            self.versions.shrink_to(2 * self.versions.len());
            self.values.shrink_to(2 * self.values.len());
        }
        saved
    }
}
