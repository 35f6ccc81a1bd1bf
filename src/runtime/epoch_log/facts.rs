//! What is known of a log, and what follows from it. No store in here.

use std::collections::BTreeSet;

use super::envelope::{Begin, Envelope, Writer};
use super::{Checkpoint, Claim, Entry, History, LogError, Seal, corrupt, name};
use crate::time::Epoch;

/// What was appended since the log begins, as far as further appends and pruning depend on it.
#[derive(Default)]
pub(super) struct Facts {
    /// The number of the newest entry; 0 if there is none.
    pub(super) newest: u64,
    /// Number of each seal that was read or written.
    seals: Vec<u64>,
    /// Number of each entry of claims, and the highest epoch in it.
    claims: Vec<(u64, Epoch)>,
    /// Number of each checkpoint's entry, ascending by epoch as well.
    checkpoints: Vec<(u64, Checkpoint)>,
    /// The highest epoch that was claimed or saved.
    last_epoch: Option<Epoch>,
    last_claim: Option<Epoch>,
}

impl Facts {
    /// May this be the next entry of this generation?
    pub(super) fn check(&self, generation: u64, entry: &Entry) -> Result<(), String> {
        match entry {
            Entry::Seal(seal) if seal.generation != generation => {
                Err(format!("a seal of generation {} is not one of generation {generation}", seal.generation))
            }
            Entry::Seal(_) => Ok(()),
            Entry::Claims(claims) => self.check_claims(claims),
            Entry::Checkpoint(checkpoint) => {
                self.check_checkpoint(generation, checkpoint)?;
                self.check_base(generation, checkpoint)
            }
        }
    }

    fn check_claims(&self, claims: &[Claim]) -> Result<(), String> {
        let mut before = self.last_claim;
        for claim in claims {
            if before.is_some_and(|before| claim.epoch <= before) {
                return Err(format!("epoch {} is claimed, and {} was before", claim.epoch, before.unwrap_or_default()));
            }
            before = Some(claim.epoch);
        }
        if claims.is_empty() { Err("claims of no epoch".into()) } else { Ok(()) }
    }

    fn check_checkpoint(&self, generation: u64, checkpoint: &Checkpoint) -> Result<(), String> {
        if checkpoint.generation != generation {
            return Err(format!(
                "a checkpoint of generation {} is not one of generation {generation}",
                checkpoint.generation
            ));
        }
        if let Some(newest) = self.newest_of(generation).filter(|newest| checkpoint.epoch <= *newest) {
            return Err(format!("checkpoint {} is not after {newest}, which is of the same start", checkpoint.epoch));
        }
        Ok(())
    }

    /// May a checkpoint of this generation hold changes to what it says?
    fn check_base(&self, generation: u64, checkpoint: &Checkpoint) -> Result<(), String> {
        let Some(base) = checkpoint.base else { return Ok(()) };
        // Of this start: what an earlier one saved last may be what this one fell back from. And not before the newest base,
        // so that what lies between two checkpoints is either needed for both or for none.
        let ours = self.checkpoints.iter().filter(|(_, kept)| kept.generation == generation);
        let newest = ours.clone().filter(|(_, kept)| kept.base.is_none()).map(|(_, kept)| kept.epoch).next_back();
        if newest.is_some_and(|newest| newest <= base) && ours.clone().any(|(_, kept)| kept.epoch == base) {
            return Ok(());
        }
        Err(format!(
            "checkpoint {} holds changes to {base}, which is no checkpoint of this start since its newest base",
            checkpoint.epoch
        ))
    }

    /// Takes in an entry that was checked and created.
    pub(super) fn apply(&mut self, number: u64, generation: u64, entry: &Entry) {
        self.newest = number;
        match entry {
            Entry::Seal(_) => self.seals.push(number),
            Entry::Claims(claims) => {
                self.last_claim = claims.last().map(|claim| claim.epoch).or(self.last_claim);
                self.claims.extend(self.last_claim.map(|epoch| (number, epoch)));
                self.last_epoch = self.last_epoch.max(self.last_claim);
            }
            Entry::Checkpoint(checkpoint) => {
                // One of an earlier start that is not older was fallen back behind.
                self.checkpoints.retain(|(_, kept)| kept.epoch < checkpoint.epoch || kept.generation == generation);
                self.checkpoints.push((number, checkpoint.clone()));
                self.last_epoch = self.last_epoch.max(Some(checkpoint.epoch));
            }
        }
    }

    /// Forgets what is before the beginning.
    pub(super) fn trim(&mut self, begin: Begin) {
        self.claims.retain(|(number, _)| *number >= begin.entry);
        self.checkpoints.retain(|(_, kept)| kept.epoch >= begin.epoch);
    }

    /// Where the log may begin if the newest `keep` checkpoints are kept; `None` while there is none.
    pub(super) fn begin(&self, keep: usize, before: Begin) -> Option<Begin> {
        let all: Vec<Checkpoint> = self.checkpoints.iter().map(|(_, kept)| kept.clone()).collect();
        let kept = &all[all.len().saturating_sub(keep.max(1))..];
        let epoch = kept.iter().flat_map(|kept| chain(&all, kept)).map(|needed| needed.epoch).min()?;
        let checkpoint = self.checkpoints.iter().find(|(_, kept)| kept.epoch == epoch)?.0;
        let claim = self.claims.iter().find(|(_, last)| *last > epoch).map_or(u64::MAX, |(number, _)| *number);
        let entry = checkpoint.min(claim);
        let seal = self.seals.iter().rev().find(|number| **number <= entry)?;
        Some(Begin { entry, seal: *seal, epoch, ..before })
    }

    /// True if an entry is a seal; only of entries that were read or written.
    pub(super) fn is_seal(&self, number: u64) -> bool {
        self.seals.contains(&number)
    }

    /// The newest checkpoint of a generation.
    pub(super) fn newest_of(&self, generation: u64) -> Option<Epoch> {
        self.checkpoints.iter().rev().find(|(_, kept)| kept.generation == generation).map(|(_, kept)| kept.epoch)
    }

    /// Names of the state files that checkpoints list.
    pub(super) fn parts(&self) -> BTreeSet<&str> {
        self.checkpoints.iter().flat_map(|(_, kept)| &kept.parts).map(|part| part.name.as_str()).collect()
    }
}

/// The checkpoints from the base of one up to itself, in `all`, which ascends.
pub(super) fn chain<'a>(all: &'a [Checkpoint], checkpoint: &Checkpoint) -> Vec<&'a Checkpoint> {
    let mut first = checkpoint;
    while let Some(base) = first.base.and_then(|base| all.iter().find(|kept| kept.epoch == base)) {
        first = base;
    }
    all.iter().filter(|kept| first.epoch <= kept.epoch && kept.epoch <= checkpoint.epoch).collect()
}

/// Puts entries together to a history, and refuses those that cannot follow one another.
pub(super) struct Reader {
    begin: Begin,
    facts: Facts,
    generation: u64,
    writer: Option<Writer>,
    seals: Vec<Seal>,
    claims: Vec<Claim>,
}

impl Reader {
    pub(super) fn new(begin: Begin) -> Self {
        let (facts, seals, claims) = (Facts::default(), Vec::new(), Vec::new());
        Reader { begin, facts, generation: 0, writer: None, seals, claims }
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] if it cannot be what was written after the ones before.
    pub(super) fn take(&mut self, envelope: Envelope) -> Result<(), LogError> {
        let Envelope { number, generation, writer, entry, .. } = envelope;
        let fail = |why: String| Err(corrupt(&name(number), &why));
        if let Entry::Seal(seal) = &entry {
            if generation <= self.generation || seal.generation != generation {
                return fail(format!("seals for generation {generation} after {}", self.generation));
            }
            self.generation = generation;
            self.writer = Some(writer);
            self.seals.push(seal.clone());
        } else if self.writer.as_ref() != Some(&writer) || generation != self.generation {
            return fail(format!("was not written by generation {}, which had sealed the log", self.generation));
        } else if let Err(why) = self.check(&entry) {
            return fail(format!("does not follow from the entries before: {why}"));
        }
        self.facts.apply(number, generation, &entry);
        if let Entry::Claims(claims) = entry {
            self.claims.extend(claims);
        }
        Ok(())
    }

    /// As the writer checks; but one that is not kept may hold changes to what is gone already.
    fn check(&self, entry: &Entry) -> Result<(), String> {
        match entry {
            Entry::Checkpoint(checkpoint) => self.facts.check_checkpoint(self.generation, checkpoint),
            entry => self.facts.check(self.generation, entry),
        }
    }

    /// What all entries say together.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] if a checkpoint that is needed was not among them.
    pub(super) fn finish(mut self) -> Result<(Facts, History), LogError> {
        self.facts.trim(self.begin);
        let begins = self.facts.checkpoints.first().is_some_and(|(_, kept)| kept.epoch == self.begin.epoch);
        if !begins && self.begin != Begin::default() {
            let why = format!("says that checkpoint {} is kept, and it is not there", self.begin.epoch);
            return Err(corrupt(&name(self.facts.newest), &why));
        }
        let checkpoints: Vec<Checkpoint> = self.facts.checkpoints.iter().map(|(_, kept)| kept.clone()).collect();
        for (number, kept) in &self.facts.checkpoints {
            if kept.base.is_some_and(|base| !checkpoints.iter().any(|other| other.epoch == base)) {
                return Err(corrupt(&name(*number), "holds changes to a checkpoint that is not there"));
            }
        }
        let oldest = checkpoints.first().map(|kept| kept.epoch);
        let newest = checkpoints.last().map(|kept| kept.epoch);
        let after = |epoch: Option<Epoch>, claim: &Claim| epoch.is_none_or(|epoch| claim.epoch > epoch);
        self.claims.retain(|claim| after(oldest, claim));
        let (claims, earlier) = self.claims.into_iter().partition(|claim| after(newest, claim));
        let history = History {
            generation: self.generation + 1,
            seals: self.seals,
            checkpoints,
            claims,
            earlier,
            last_epoch: self.facts.last_epoch,
        };
        Ok((self.facts, history))
    }
}
