//! How a job begins: takes over the log, and says what there is to go on from. The decisions are in `runtime/recovery.rs`; what they are told is from here.
//!
//! Invariants: nothing is changed before it is known that this run may go on from there; in a process that does not lead, everything is as process 0 told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use super::{Keep, Options};
use crate::cli::Failed;
use crate::config::{AuditSpec, Flow, ScheduleSpec, SourceKind, SourceSpec};
use crate::pseudonymise::Key;
use crate::runtime::cluster::Peers;
use crate::runtime::epoch_log::{Claim, EpochLog, History, LogError, Seal};
use crate::runtime::failpoint;
use crate::runtime::metrics::Metrics;
use crate::runtime::recovery::{self, Recovery, digest};
use crate::runtime::state_files::StateKey;
use crate::runtime::store::SharedStore;
use crate::score::logistic::Logistic;
use crate::source::{self, Earlier, Found, PathKey, Topics};
use crate::time::Epoch;
use crate::vocabulary::TopicId;

/// The log, taken over, and what follows from it.
pub(crate) struct Begun {
    pub(super) store: SharedStore,
    /// `None` in a process that does not lead.
    pub(super) log: Option<EpochLog>,
    pub(super) cipher: Option<Arc<StateKey>>,
    pub(crate) recovery: Recovery,
}

/// What a state belongs to.
pub(crate) fn digests(flow: &Flow, key: &Key, model: Option<&Logistic>) -> BTreeMap<String, String> {
    let mut digests: BTreeMap<String, String> = [
        (digest::FLOW, flow.spec.name.clone()),
        (digest::KEY, key.id()),
        (digest::SHAPE, shape(flow)),
        (digest::RULES, rules_digest(flow, model)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let outcomes = &flow.spec.audit.outcomes;
    if outcomes.inputs().is_some() {
        // A flow that has read none may begin to.
        let labels = format!("{:?} within {}", outcomes.outcome, outcomes.horizon);
        digests.insert(digest::LABELS.to_owned(), labels);
    }
    if let Some(table) = flow.decode.comorbidities() {
        // The numbers that patients' comorbidities are kept under. Codes may change: what was read is not looked at again.
        digests.insert(digest::COMORBIDITIES.to_owned(), table.all_names().join(" "));
    }
    digests
}

/// What a run would begin with if there were nothing to go on from.
pub(crate) struct Wanted<'a> {
    pub(crate) flow: &'a Flow,
    pub(crate) options: &'a Options,
    pub(crate) key: &'a Key,
    /// What a state belongs to.
    pub(crate) digests: BTreeMap<String, String>,
    /// The flow's topics.
    pub(crate) names: &'a Topics,
}

/// Takes over the log, and reads what there is to go on from; in a process that does not lead, hears it from the one that does.
/// The topics are those of the flow, behind those that earlier runs knew.
pub(crate) fn begin(
    store: impl FnOnce() -> Result<SharedStore, Failed>,
    wanted: Wanted<'_>,
    metrics: &Metrics,
    peers: Option<&Peers>,
) -> Result<(Begun, Topics), Failed> {
    let spec = &wanted.flow.spec;
    let leads = wanted.options.crew().process == 0;
    // Opening a store sweeps it, so that nobody may be writing: process 0 has just written the seal, and nobody does again before all have met.
    let told = peers.filter(|_| !leads).map(Peers::hear).transpose().map_err(Failed::of)?;
    let store = store()?;
    let cipher = StateKey::read(&spec.state).map_err(Failed::configuration)?.map(Arc::new);
    if let Some(mut told) = told {
        let topics = Topics::continuing(&std::mem::take(&mut told.topics), []);
        let recovery = Recovery::as_told(told, &store, cipher.as_deref()).map_err(Failed::unavailable)?;
        return Ok((Begun { store, log: None, cipher, recovery }, topics));
    }
    let (log, history, there) = take_over(&store, &wanted)?;
    let fetching = Instant::now();
    let mut recovery = recovery::recover(&store, &history, cipher.as_deref()).map_err(log_failed)?;
    metrics.restore_seconds.set(fetching.elapsed().as_secs_f64());
    failpoint::hit("restore.after");
    metrics.generation.set(i64::try_from(recovery.generation).unwrap_or(i64::MAX));
    if history.last_epoch.is_none() {
        recovery.above = first_epoch();
    }
    let There { topics, names } = there;
    // Again: behind a damaged checkpoint there is more to repeat.
    still_there(&recovery.replay, &topics, &names).map_err(Failed::configuration)?;
    tracing::info!(target: "runtime", generation = recovery.generation, checkpoint = recovery.checkpoint, repeated = recovery.replay.len(), "starting");
    if let Some(peers) = peers {
        peers.tell(recovery.to_tell(topics.names().map(str::to_owned).collect(), log.newest()));
    }
    Ok((Begun { store, log: Some(log), cipher, recovery }, topics))
}

/// Topics, as a run that goes on where earlier ones stopped finds them.
struct There {
    /// Those of the flow, behind those that earlier runs knew.
    topics: Topics,
    /// Those of the flow.
    names: Topics,
}

/// Seals the log, if this run may go on from what is in it.
fn take_over(store: &SharedStore, wanted: &Wanted<'_>) -> Result<(EpochLog, History, There), Failed> {
    let Wanted { flow, options, digests, names, key } = wanted;
    let (source, crew) = (&flow.spec.source, options.crew());
    let ids = match options.keep {
        Keep::State => source::topic_ids(source, names, &options.stop).map_err(Failed::source)?,
        Keep::Nowhere => BTreeMap::new(),
    };
    let mut there = None;
    let seal = |history: &History| {
        recovery::admit(history, digests, options.replay_with_new_code)?;
        let mut digests =
            recovery::with_topics(digests, history, &ids).map_err(|topic| source::made_anew(&topic).to_string())?;
        let found = identify(history, source, names, &|name| key.name_hash(name))?;
        digests.extend(found.prints.into_iter().map(|(topic, print)| (format!("{}{topic}", digest::FILE), print)));
        let topics = known_topics(history, source.kind, &found.names)?;
        still_there(&history.claims, &topics, &found.names)?;
        let seal = Seal {
            generation: 0,
            workers: crew.workers() as u32,
            processes: crew.processes as u32,
            topics: topics.names().map(str::to_owned).collect(),
            digests,
            replay: !history.claims.is_empty(),
        };
        there = Some(There { topics, names: found.names });
        Ok(seal)
    };
    let (log, history) = EpochLog::take_over(store.clone(), seal).map_err(log_failed)?;
    Ok((log, history, there.expect("the log is sealed with what was found")))
}

/// Which files are those that earlier runs have read.
fn identify(history: &History, spec: &SourceSpec, names: &Topics, key: PathKey<'_>) -> Result<Found, String> {
    let last = history.seals.last().filter(|_| !history.is_blank());
    let then = last.into_iter().flat_map(|seal| &seal.digests);
    let then = then.filter_map(|(name, print)| Some((name.strip_prefix(digest::FILE)?.to_owned(), print.clone())));
    let (prints, read) = (then.collect(), history.topics_read());
    let earlier = Earlier { topics: last.map_or(&[][..], |seal| &seal.topics), read: &read, prints: &prints };
    let mut found = source::identify(spec, names, key, &earlier).map_err(|error| error.to_string())?;
    // Of files that are not there just now, as they were.
    for (topic, print) in prints {
        found.prints.entry(topic).or_insert(print);
    }
    Ok(found)
}

fn log_failed(error: LogError) -> Failed {
    match error {
        LogError::Store(_) => Failed::unavailable(error),
        _ => Failed::configuration(error),
    }
}

/// The flow's topics, behind those that the state knows.
fn known_topics(history: &History, kind: SourceKind, names: &Topics) -> Result<Topics, String> {
    let known = history.seals.last().filter(|_| !history.is_blank()).map_or(&[][..], |seal| &seal.topics);
    let read = history.partitions_read();
    let gone = |(id, name): &(u32, &String)| {
        names.id(name).is_none() && read.iter().any(|partition| partition.topic == TopicId(*id))
    };
    // A file that was read may be taken away. A topic that is no longer read would hold every window open.
    if let Some((_, gone)) = (0..).zip(known).find(|topic| kind == SourceKind::Kafka && gone(topic)) {
        return Err(format!(
            "source.topics no longer names {gone:?}, of which state.path holds state; name it, or begin with an empty state.path"
        ));
    }
    Ok(Topics::continuing(known, names.names().map(str::to_owned)))
}

/// Refuses to repeat claimed epochs without what was read in them.
fn still_there(replay: &[Claim], topics: &Topics, names: &Topics) -> Result<(), String> {
    let read = replay.iter().flat_map(|claim| &claim.cuts).map(|(partition, _)| topics.name(partition.topic));
    let gone: BTreeSet<&str> = read.filter(|name| names.id(name).is_none()).collect();
    gone.first().map_or(Ok(()), |first| {
        Err(format!(
            "the last run did not end cleanly, and has to read again what is not there any more, or not as it was: {} of its files or topics, such as {first}              (`windkessel explain --files` tells which file that is); put them back for one run, or, as standard input cannot be, begin with an empty state.path              and new folders of the sinks",
            gone.len()
        ))
    })
}

/// The settings that state cannot be carried over.
fn shape(flow: &Flow) -> String {
    let spec = &flow.spec;
    let (patient, audit) = (&spec.patient, &spec.audit);
    // Panes are kept, and patients told apart, as long as the reference needs it. Which profile it is makes no difference to that.
    let reference = match audit.reference_profile {
        Some(_) => "audit.reference_profile".to_owned(),
        None => format!("audit.reference_windows {}", audit.reference_windows),
    };
    format!(
        "patient.window {}, patient.hop {}, audit.window {}, audit.hop {}, {reference}, score.rules {}",
        patient.window,
        patient.hop,
        audit.window,
        audit.hop.unwrap_or(audit.window),
        spec.score.rules
    )
}

/// What decides the rows of an epoch, as one number: the settings of the stages, the model, the version.
fn rules_digest(flow: &Flow, model: Option<&Logistic>) -> String {
    let spec = &flow.spec;
    // Not what is kept of an audit, and where, nor where a profile lies: what is in it counts.
    let audit = AuditSpec { schedule: ScheduleSpec::default(), reference_profile: None, ..spec.audit.clone() };
    let settings = serde_json::json!({
        "decode": spec.decode, "patient": spec.patient, "correction": spec.correction, "score": spec.score, "audit": audit,
        "model": model.map(Logistic::name), "version": env!("CARGO_PKG_VERSION"),
        "reference": flow.reference.as_ref().map(|reference| &reference.digest),
        // What is in the tables that settings name, or in the shipped ones.
        "signals": format!("{:?}", flow.decode.table()), "comorbidities": format!("{:?}", flow.decode.comorbidities()),
    });
    format!("{:08x}", crc32c::crc32c(settings.to_string().as_bytes()))
}

/// Unix milliseconds: higher than every epoch of an earlier run, so that document versions never go back.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where a run is numbered by the clock; no result depends on it"
)]
fn first_epoch() -> Epoch {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as Epoch
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Of the replay flow against this profile.
    fn of(profile: Option<&Path>) -> BTreeMap<String, String> {
        with(profile.map(|path| format!("audit.reference_profile={path:?}")))
    }

    /// Of the replay flow with another setting.
    fn with(setting: Option<String>) -> BTreeMap<String, String> {
        with_all(setting.as_slice())
    }

    /// With several.
    fn with_all(more: &[String]) -> BTreeMap<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        Key::create_file(&key).unwrap();
        let mut settings = vec![format!("pseudonymise.key_file={key:?}")];
        settings.extend_from_slice(more);
        let flow = Flow::read(Path::new("dataflows/blood_pressure_replay.toml"), &settings).unwrap();
        digests(&flow, &Key::read(&flow.spec.pseudonymise).unwrap(), None)
    }

    #[test]
    fn panes_that_were_cut_otherwise_are_another_shape() {
        let shape = |setting: Option<&str>| with(setting.map(str::to_owned))[digest::SHAPE].clone();
        assert_eq!(shape(None), shape(Some("audit.hop=1h")), "as long as a window, if nothing is said");
        for other in ["audit.hop=30m", "audit.window=2h", "audit.reference_windows=12", "patient.hop=30m"] {
            assert_ne!(shape(None), shape(Some(other)), "{other}");
        }
    }

    #[test]
    fn the_names_of_comorbidities_are_kept_and_their_codes_belong_to_the_rules() {
        assert!(!with(None).contains_key(digest::COMORBIDITIES), "no conditions are taken");
        let folder = tempfile::tempdir().unwrap();
        let taken = |table: &str| {
            let path = folder.path().join("table.toml");
            std::fs::write(&path, table).unwrap();
            with_all(&["decode.conditions=true".to_owned(), format!("decode.comorbidities_file={path:?}")])
        };
        let shipped = std::fs::read_to_string("schemas/comorbidities.toml").unwrap();
        let one = taken(&shipped);
        assert!(one[digest::COMORBIDITIES].starts_with("myocardial_infarction "), "{one:?}");
        let codes = taken(&shipped.replace("\"I21\"", "\"I24\""));
        assert_eq!(codes[digest::COMORBIDITIES], one[digest::COMORBIDITIES]);
        assert_ne!(codes[digest::RULES], one[digest::RULES], "another code makes other rows");
        let names = taken(&shipped.replace("name = \"myocardial_infarction\"", "name = \"infarction\""));
        assert_ne!(names[digest::COMORBIDITIES], one[digest::COMORBIDITIES]);
    }

    #[test]
    fn what_is_in_a_profile_belongs_to_the_rules_and_that_there_is_one_to_the_shape() {
        let text = std::fs::read_to_string("schemas/profile.example.json").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let written = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            of(Some(&path))
        };
        let (one, elsewhere) = (written("a.json", &text), written("b.json", &text));
        let other = written("a.json", &text.replace("2026-01-12", "2026-01-19"));
        let trailing = of(None);
        assert_eq!(one[digest::RULES], elsewhere[digest::RULES]);
        assert_ne!(one[digest::RULES], other[digest::RULES]);
        assert_eq!(one[digest::SHAPE], other[digest::SHAPE]);
        assert_ne!(one[digest::SHAPE], trailing[digest::SHAPE]);
    }
}
