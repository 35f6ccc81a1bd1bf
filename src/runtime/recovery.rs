//! How a run begins: what the log says of the runs before, and what follows from it. Decisions over facts that were read; the reading is the log's.
//!
//! ```text
//! log ─> History ─┬─ admit: may this run go on from there at all?
//!                 └─ recover: the newest checkpoint whose files are whole ─> state, epochs to repeat, offsets, files to name
//! ```
//!
//! Invariants:
//!
//! 1. A run begins at a checkpoint whose files have all been verified, or at the beginning of the log if there is none.
//! 2. If the newest checkpoint is damaged, the one before is used, loudly: the claims since are still there. Files that the damaged one named stay, and
//!    their epochs are not written again ([`Recovery::committed_up_to`]).
//! 3. What was claimed is repeated by the same settings and the same version only: they decide the rows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::checkpoint::Restored;
use super::clock::border_above;
use super::epoch_log::{Checkpoint, Claim, History, LogError, Seal, StatePart};
use super::state_files::StateKey;
use super::store::SharedStore;
use crate::sink::StagedFile;
use crate::time::Epoch;
use crate::vocabulary::Partition;

/// What a run begins with.
#[derive(Default)]
pub struct Recovery {
    /// This run's number.
    pub generation: u64,
    /// State to put back.
    pub restored: Restored,
    /// Epochs to be repeated, ascending.
    pub replay: Vec<Claim>,
    /// New epochs come above this one.
    pub above: Epoch,
    /// The highest epoch in the log.
    pub last_epoch: Option<Epoch>,
    /// The epoch of the checkpoint that it begins with.
    pub checkpoint: Option<Epoch>,
    /// Where each partition stood at the checkpoint: the next offset.
    pub ends: BTreeMap<Partition, i64>,
    /// Where each partition is to be read from: the same, or where it was first opened.
    pub resume: BTreeMap<Partition, i64>,
    /// Files of recorded checkpoints, which must have their names.
    pub staged: Vec<(Epoch, Vec<StagedFile>)>,
    /// Files of epochs up to here are written and named.
    pub committed_up_to: Epoch,
    /// Earlier runs whose epochs may be repeated, with their numbers of workers.
    pub earlier: Vec<(u64, usize)>,
}

/// What process 0 tells the others of a [`Recovery`]. They fetch the state themselves: `state.path` is one store for all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// This run's number.
    pub generation: u64,
    /// Topics by their numbers.
    pub topics: Vec<String>,
    /// The log's entry that began this run.
    pub seal: String,
    parts: Vec<StatePart>,
    replay: Vec<Claim>,
    above: Epoch,
    last_epoch: Option<Epoch>,
    checkpoint: Option<Epoch>,
    ends: Vec<(Partition, i64)>,
    resume: Vec<(Partition, i64)>,
    staged: Vec<(Epoch, Vec<StagedFile>)>,
    committed_up_to: Epoch,
    earlier: Vec<(u64, usize)>,
}

impl Recovery {
    /// What the other processes need of it.
    pub fn to_tell(&self, topics: Vec<String>, seal: String) -> Told {
        let pairs = |offsets: &BTreeMap<Partition, i64>| offsets.iter().map(|(at, offset)| (*at, *offset)).collect();
        Told {
            generation: self.generation,
            topics,
            seal,
            parts: self.restored.parts().cloned().collect(),
            replay: self.replay.clone(),
            above: self.above,
            last_epoch: self.last_epoch,
            checkpoint: self.checkpoint,
            ends: pairs(&self.ends),
            resume: pairs(&self.resume),
            staged: self.staged.clone(),
            committed_up_to: self.committed_up_to,
            earlier: self.earlier.clone(),
        }
    }

    /// As process 0 has it, with the state from this process's own view of the store.
    ///
    /// # Errors
    /// The store is not the one in which process 0 keeps the log and the state.
    pub fn as_told(told: Told, store: &SharedStore, cipher: Option<&StateKey>) -> Result<Recovery, String> {
        let hint = "state.path must be one store for all processes: a folder that they share, or s3://";
        let seal = store.get(&told.seal).map_err(|error| error.to_string())?;
        if seal.is_none() {
            return Err(format!("state.path does not hold {}, which process 0 has just written; {hint}", told.seal));
        }
        let restored = Restored::fetch_parts(store, &told.parts, cipher).map_err(|why| format!("{why}; {hint}"))?;
        Ok(Recovery {
            generation: told.generation,
            restored,
            replay: told.replay,
            above: told.above,
            last_epoch: told.last_epoch,
            checkpoint: told.checkpoint,
            ends: told.ends.into_iter().collect(),
            resume: told.resume.into_iter().collect(),
            staged: told.staged,
            committed_up_to: told.committed_up_to,
            earlier: told.earlier,
        })
    }
}

/// The names under which a run's settings are compared with those of earlier ones.
pub mod digest {
    /// The flow's name: a state belongs to one flow.
    pub const FLOW: &str = "flow";
    /// The pseudonym key's id: state is kept by pseudonym.
    pub const KEY: &str = "key";
    /// The shape of what is kept: the lengths of windows, the rule set whose rules are numbered.
    pub const SHAPE: &str = "shape";
    /// What labels say, if outcomes are read: those that are kept were counted by it.
    pub const LABELS: &str = "labels";
    /// The names of comorbidities, in the order of their numbers; left out if no conditions are taken.
    pub const COMORBIDITIES: &str = "comorbidities";
    /// What decides the rows: settings, model, version.
    pub const RULES: &str = "rules";
    /// What each topic's id is kept under, its name behind it.
    pub const TOPIC: &str = "topic ";
    /// What each file's print is kept under, its topic behind it.
    pub const FILE: &str = "file ";
}

/// The digests with the ids of the topics; those that are not known just now are as they were, and so is what labels say, and comorbidities are called, while none are read.
///
/// # Errors
/// The name of a topic that was made anew since: what was read of it is not in the one that bears its name now.
pub fn with_topics(
    digests: &BTreeMap<String, String>,
    history: &History,
    ids: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, String> {
    let last = history.seals.last().filter(|_| !history.is_blank());
    let then = last.into_iter().flat_map(|seal| &seal.digests);
    let mut all = digests.clone();
    let stays = |name: &str| name.starts_with(digest::TOPIC) || [digest::LABELS, digest::COMORBIDITIES].contains(&name);
    for (name, text) in then.filter(|(name, _)| stays(name)) {
        all.entry(name.clone()).or_insert_with(|| text.clone());
    }
    for (topic, id) in ids {
        match all.insert(format!("{}{topic}", digest::TOPIC), id.clone()) {
            Some(then) if then != *id => return Err(topic.clone()),
            _ => {}
        }
    }
    Ok(all)
}

/// Whether a run with these digests may go on from what is there.
///
/// # Errors
/// A sentence that says what differs and what to do.
pub fn admit(history: &History, digests: &BTreeMap<String, String>, replay_with_new_code: bool) -> Result<(), String> {
    let Some(last) = history.seals.last().filter(|_| !history.is_blank()) else { return Ok(()) };
    let differs = |name: &str| match (last.digests.get(name), digests.get(name)) {
        (Some(then), Some(now)) if then != now => Some((then.clone(), now.clone())),
        _ => None,
    };
    if let Some((then, now)) = differs(digest::FLOW) {
        return Err(format!(
            "state.path holds the state of the flow {then:?}, this is {now:?}; give each flow a state.path of its own"
        ));
    }
    if let Some((then, now)) = differs(digest::KEY) {
        return Err(format!(
            "state.path holds pseudonyms made with key {then}, pseudonymise names key {now}; use the same key, or an empty state.path for a new beginning"
        ));
    }
    if let Some((then, now)) = differs(digest::SHAPE) {
        return Err(format!(
            "state.path holds windows and alarms of other settings ({then}), which cannot be turned into those of this flow ({now}); \
             set them back, or begin with an empty state.path"
        ));
    }
    if let Some((then, now)) = differs(digest::LABELS) {
        return Err(format!(
            "state.path holds readings labelled by {then}, this flow labels by {now}; set audit.outcomes back, or begin with an empty state.path"
        ));
    }
    if let Some((then, now)) = differs(digest::COMORBIDITIES) {
        return Err(format!(
            "state.path holds patients' comorbidities by the table {then}, this flow's names are {now}; set decode.comorbidities_file back, or begin with an empty state.path"
        ));
    }
    if differs(digest::RULES).is_some() && !history.claims.is_empty() && !replay_with_new_code {
        return Err(format!(
            "the last run did not end cleanly, and {} epochs have to be repeated exactly as they were, but settings, model or version have changed since; \
             start once more as before and stop with SIGTERM, or accept other rows for these epochs with --replay-with-new-code",
            history.claims.len()
        ));
    }
    Ok(())
}

/// Reads the newest state that is whole, and says what follows from it.
///
/// # Errors
/// There are checkpoints, and none can be read; or the log cannot.
pub fn recover(store: &SharedStore, history: &History, cipher: Option<&StateKey>) -> Result<Recovery, LogError> {
    let mut found = None;
    let mut why_not = None;
    for at in (0..history.checkpoints.len()).rev() {
        match Restored::fetch(store, &history.chain(&history.checkpoints[at]), cipher) {
            Ok(restored) => {
                found = Some((at, restored));
                break;
            }
            Err(why @ LogError::Corrupt { .. }) => {
                tracing::error!(target: "runtime", "checkpoint {} cannot be used: {why}; trying the one before", history.checkpoints[at].epoch);
                why_not.get_or_insert(why);
            }
            // Another key or another version of the format is no damage, and a store that does not answer is none either.
            Err(error) => return Err(error),
        }
    }
    match (found, why_not) {
        (None, Some(why)) => Err(why),
        (None, None) => Ok(plan(history, None, Restored::default(), history.claims.clone())),
        (Some((at, restored)), _) => {
            let from = &history.checkpoints[at];
            Ok(plan(history, Some(from), restored, history.claims_since(from.epoch)))
        }
    }
}

/// The name of the counter that says up to which epoch files are written, where that is further than the checkpoint: after falling back.
pub const FILES_UP_TO: &str = "files_up_to";

fn committed_up_to(checkpoint: &Checkpoint) -> Epoch {
    checkpoint.epoch.max(checkpoint.counters.get(FILES_UP_TO).copied().unwrap_or(0))
}

fn plan(history: &History, from: Option<&Checkpoint>, restored: Restored, replay: Vec<Claim>) -> Recovery {
    let ends: BTreeMap<Partition, i64> = from.iter().flat_map(|from| from.ends.iter().copied()).collect();
    let mut resume = ends.clone();
    for (partition, start) in replay.iter().flat_map(|claim| &claim.starts) {
        resume.entry(*partition).or_insert(*start);
    }
    let checkpoint = from.map(|from| from.epoch);
    // The border above the checkpoint is where collections are put back: nothing else may happen in it.
    let above = history.last_epoch.unwrap_or(0).max(checkpoint.map_or(0, border_above));
    let workers = |seal: &Seal| (seal.generation, seal.workers as usize);
    Recovery {
        generation: history.generation,
        restored,
        replay,
        above,
        last_epoch: history.last_epoch,
        checkpoint,
        ends,
        resume,
        staged: history.checkpoints.iter().map(|checkpoint| (checkpoint.epoch, checkpoint.staged.clone())).collect(),
        committed_up_to: history.checkpoints.iter().map(committed_up_to).max().unwrap_or(0),
        earlier: history.seals.iter().map(workers).collect(),
    }
}

#[cfg(test)]
mod tests {
    //! Proves what is made of topics' ids. Everything else is proved in `runtime/tests.rs` and `epoch_log/tests.rs`.
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// A history whose last start had these digests, with something read since.
    fn history(digests: &[(&str, &str)]) -> History {
        let (topics, digests) = (Vec::new(), map(digests));
        let seal = Seal { generation: 1, workers: 1, processes: 1, topics, digests, replay: false };
        let claim = Claim { epoch: 5, starts: Vec::new(), cuts: Vec::new(), marks: Vec::new() };
        History { seals: vec![seal], claims: vec![claim], ..History::default() }
    }

    #[test]
    fn a_topic_that_was_made_anew_is_named() {
        let now = map(&[("bp-obs", "other"), ("labs", "b")]);
        let known = history(&[("key", "k"), ("topic bp-obs", "a"), ("topic labs", "b")]);
        assert_eq!(with_topics(&map(&[("key", "k")]), &known, &now), Err("bp-obs".to_owned()));
    }

    #[test]
    fn ids_that_nobody_tells_just_now_are_kept_and_new_ones_added() {
        let known = history(&[("key", "k"), ("topic bp-obs", "a")]);
        let digests = with_topics(&map(&[("key", "k2")]), &known, &map(&[("labs", "b")])).unwrap();
        assert_eq!(digests, map(&[("key", "k2"), ("topic bp-obs", "a"), ("topic labs", "b")]));
        let again = with_topics(&digests, &known, &map(&[("bp-obs", "a")])).unwrap();
        assert_eq!(again["topic bp-obs"], "a");
    }

    #[test]
    fn what_labels_say_is_remembered_while_none_are_read_and_may_be_said_for_the_first_time() {
        let known = history(&[("key", "k"), ("labels", "death within 1d")]);
        let without = with_topics(&map(&[("key", "k")]), &known, &map(&[])).unwrap();
        assert_eq!(without["labels"], "death within 1d");
        let (now, other) = (map(&[("labels", "death within 1d")]), map(&[("labels", "death within 2d")]));
        assert_eq!(admit(&known, &now, false), Ok(()));
        assert!(admit(&known, &other, true).unwrap_err().contains("audit.outcomes"));
        assert_eq!(with_topics(&other, &known, &map(&[])).unwrap()["labels"], "death within 2d");
        assert_eq!(admit(&history(&[("key", "k")]), &other, false), Ok(()));
    }

    #[test]
    fn what_state_cannot_be_carried_over_is_refused_with_what_to_do() {
        let then =
            [("flow", "a"), ("key", "b"), ("shape", "c"), ("labels", "e"), ("comorbidities", "f"), ("rules", "d")];
        let known = history(&then);
        assert_eq!(admit(&known, &map(&then), false), Ok(()));
        for (name, hint) in [
            ("flow", "a state.path of its own"),
            ("key", "use the same key"),
            ("shape", "set them back"),
            ("labels", "set audit.outcomes back"),
            ("comorbidities", "set decode.comorbidities_file back"),
            ("rules", "--replay-with-new-code"),
        ] {
            let mut now = map(&then);
            now.insert(name.to_owned(), "other".to_owned());
            let why = admit(&known, &now, false).unwrap_err();
            assert!(why.contains(hint), "{name}: {why}");
            let forced = admit(&known, &now, true);
            assert_eq!(forced.is_ok(), name == "rules", "{name}: only rules may be others");
            let blank = History { claims: Vec::new(), ..history(&then) };
            assert_eq!(admit(&blank, &now, false), Ok(()), "{name}: nothing was read");
        }
    }

    /// What the machine's clock says is looked at by the first run alone.
    #[test]
    fn epochs_go_on_above_those_before_whatever_the_clock_says_now() {
        let day_ahead = 1 << 45;
        let far = History { last_epoch: Some(day_ahead), ..history(&[]) };
        let recovery = recover(&crate::runtime::store::memory(), &far, None).unwrap();
        assert_eq!(recovery.above, day_ahead);
    }

    #[test]
    fn a_start_with_nothing_to_go_on_from_compares_nothing() {
        let blank = History { claims: Vec::new(), ..history(&[("topic bp-obs", "a")]) };
        assert_eq!(with_topics(&map(&[]), &blank, &map(&[("bp-obs", "b")])), Ok(map(&[("topic bp-obs", "b")])));
    }
}
