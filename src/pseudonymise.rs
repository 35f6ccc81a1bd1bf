//! The last file in which an identifier exists.
//!
//! `pseudonymise` stands before the first exchange: no identifier crosses between workers, none reaches a sink, a log or a metric.
//! A pseudonym is the first 16 bytes of HMAC-SHA-256 (RFC 2104, FIPS 180-4) over the resource type, a slash and the logical id.
//! It is *pseudonymised personal data* in the sense of GDPR Art. 4(5), not anonymous data, and not HIPAA Safe Harbor
//! (45 CFR 164.514(c) forbids codes derived from the individual's data); whoever holds the key can link it back.
//!
//! Invariants:
//!
//! 1. [`Pseudonymiser`] is the one place that reads an [`Id`](crate::identified::Id); what comes out is [`Intake`].
//! 2. The key is read from a file or from an environment variable that the flow names, never from the flow itself; it is
//!    wiped from memory on drop (best effort: the allocator may have copied it) and `Debug` prints `…`.
//! 3. Same id, same key, same pseudonym, on every worker and in every run.
//!
//! What survives is whose the observations and outcomes are that tombstones may delete; all the rest is worked out again.
//!
//! Limits: a worker remembers so many patients' pseudonyms as fit into [`CACHE_BYTES_MAX`], the others cost time, never a wrong answer;
//! and [`OWNERS_MAX`] observations' owners of each partition, of which the older half is forgotten when full: a tombstone that names only an
//! observation forgotten so, or one that was read from another partition, is counted as ignored (`deletion_of_unknown_observation`), and
//! the observation stands. Outcomes of patients likewise (`deletion_of_unknown_outcome`), and conditions (all are counted as ignored anyway).

mod cache;
mod owners;

use std::fmt;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::config::PseudonymiseSpec;
use crate::graph::Plan;
use crate::identified::{Arena, ConditionUpdate, Deletion, Entry, Id, LabelUpdate, Observation, Observations};
use crate::runtime::checkpoint::Desk;
use crate::runtime::driver::{Stream, batches};
use crate::runtime::secret;
use crate::runtime::survive::{Blocks, Corrupt, Extent, Survive};
use crate::source::Topics;
use crate::vocabulary::{Condition, Facts, Intake, Label, Outcome, Position, Pseudonym, Reading, Status, Tally};

use cache::{Cache, Place};
pub use owners::OWNERS_MAX;
use owners::Owners;

/// Bytes that one worker takes at most to remember pseudonyms of patients: 2 million slots.
pub const CACHE_BYTES_MAX: usize = cache::SLOTS_MAX * cache::SLOT_BYTES;

/// Patients whose pseudonyms are looked for at once, so that the misses of the memory's caches overlap.
const WARM_PATIENTS: usize = 32;

/// Observations in, readings out.
pub fn render<'s>(observations: Stream<'s, Observations>, plan: &Plan, desk: &Desk) -> Stream<'s, Intake> {
    let metrics = plan.metrics.clone();
    let seat = desk.seat("pseudonymise", Pseudonymiser::new(&plan.key, plan.topics.clone()));
    batches(observations, "pseudonymise", seat, move |machine, _, observations, out| {
        let mut tally = Tally::default();
        machine.pseudonymise(observations, out, &mut tally);
        metrics.add(&mut tally);
    })
}

/// The secret that pseudonyms are made with: 32 bytes.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; 32]>);

impl Key {
    /// Reads the key that a flow names.
    ///
    /// # Errors
    /// A sentence with a hint; it never holds a part of the key.
    pub fn read(spec: &PseudonymiseSpec) -> Result<Key, String> {
        match (&spec.key_file, &spec.key_env) {
            (Some(path), None) => Self::read_file(path),
            (None, Some(name)) => {
                let text = std::env::var(name).map(Zeroizing::new);
                let text = text
                    .map_err(|_| format!("could not read the pseudonym key: environment variable {name} is not set"))?;
                Self::from_hex(&text)
                    .map_err(|why| format!("could not read the pseudonym key from environment variable {name}: {why}"))
            }
            _ => Err("pseudonymise needs exactly one of key_file and key_env".into()),
        }
    }

    fn read_file(path: &Path) -> Result<Key, String> {
        let hint = "make one with: (umask 077; openssl rand -hex 32 > FILE)";
        let text = std::fs::read_to_string(path).map(Zeroizing::new);
        let text = text.map_err(|error| format!("could not read the pseudonym key file {path:?}: {error}; {hint}"))?;
        warn_if_others_can_read(path);
        Self::from_hex(&text).map_err(|why| format!("could not use the pseudonym key file {path:?}: {why}; {hint}"))
    }

    /// From 64 hexadecimal characters, white space around them ignored.
    pub fn from_hex(text: &str) -> Result<Key, &'static str> {
        secret::from_hex(text).map(Key)
    }

    /// Makes a new key file, readable by its owner only; an existing file is left alone and read.
    pub fn create_file(path: &Path) -> Result<Key, String> {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let fail = |error: &dyn fmt::Display| format!("could not create the pseudonym key file {path:?}: {error}");
        match options.open(path) {
            Ok(mut file) => {
                let mut bytes = Zeroizing::new([0_u8; 32]);
                getrandom::fill(bytes.as_mut()).map_err(|error| fail(&error))?;
                let mut text = Zeroizing::new(String::with_capacity(65));
                for byte in bytes.iter() {
                    fmt::Write::write_fmt(&mut *text, format_args!("{byte:02x}")).map_err(|error| fail(&error))?;
                }
                text.push('\n');
                std::io::Write::write_all(&mut file, text.as_bytes()).map_err(|error| fail(&error))?;
                Ok(Key(bytes))
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Self::read_file(path),
            Err(error) => Err(fail(&error)),
        }
    }

    /// Which key this is, for people who keep several: the first 8 hex digits of SHA-256 over a fixed prefix and the key.
    /// It travels beside pseudonyms and does not help to guess the key.
    pub fn id(&self) -> String {
        let digest = Sha256::new().chain_update(b"windkessel key id\0").chain_update(self.0.as_ref()).finalize();
        digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }

    /// A keyed hash for names that may identify somebody without being an id, such as a file's path.
    pub fn name_hash(&self, name: &str) -> [u8; 6] {
        let mac = self.mac().chain_update(b"File/").chain_update(name.as_bytes()).finalize().into_bytes();
        let mut short = [0; 6];
        short.copy_from_slice(&mac[..6]);
        short
    }

    fn mac(&self) -> Hmac<Sha256> {
        <Hmac<Sha256> as KeyInit>::new_from_slice(self.0.as_ref()).expect("HMAC takes keys of any length")
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

fn warn_if_others_can_read(path: &Path) {
    #[cfg(unix)]
    if let Ok(metadata) = std::fs::metadata(path)
        && std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o004 != 0
    {
        tracing::warn!(target: "pseudonymise", ?path, "the pseudonym key can be read by every user of this machine; run: chmod 600");
    }
}

/// One worker's machine.
pub struct Pseudonymiser {
    patients: Hmac<Sha256>,
    observations: Hmac<Sha256>,
    positions: Hmac<Sha256>,
    outcomes: Hmac<Sha256>,
    conditions: Hmac<Sha256>,
    topics: Topics,
    cache: Cache,
    /// Where the patients of the batch may be in the cache: kept for its memory alone.
    places: Vec<Place>,
    owners: Owners,
}

impl Pseudonymiser {
    /// A machine with this key; `topics` name the positions of observations without an id.
    pub fn new(key: &Key, topics: Topics) -> Self {
        // The keyed prefixes are hashed once.
        Pseudonymiser {
            patients: key.mac().chain_update(b"Patient/"),
            observations: key.mac().chain_update(b"Observation/"),
            positions: key.mac().chain_update(b"Position/"),
            outcomes: key.mac().chain_update(b"Outcome"),
            conditions: key.mac().chain_update(b"Condition/"),
            topics,
            cache: Cache::default(),
            places: Vec::new(),
            owners: Owners::new(OWNERS_MAX),
        }
    }

    /// Turns a batch into intakes. Deletions of which nobody knows the patient are counted as ignored.
    pub fn pseudonymise(&mut self, observations: Observations, out: &mut Vec<Intake>, tally: &mut Tally) {
        let Observations { arena, entries } = observations;
        out.reserve(entries.len());
        let mut places = std::mem::take(&mut self.places);
        places.clear();
        places.extend(entries.iter().map(|entry| self.place(&arena, entry)));
        for (at, entry) in entries.into_iter().enumerate() {
            if at % WARM_PATIENTS == 0 {
                self.warm(places[at..].iter().take(WARM_PATIENTS));
            }
            match entry {
                Entry::Observation(observation) => {
                    out.push(Intake::Reading(self.reading(&arena, observation, places[at])))
                }
                Entry::Patient(update) => out.push(Intake::Demographics {
                    patient: self.patient(&arena, update.patient, places[at]),
                    position: update.position,
                    demographics: update.demographics,
                }),
                Entry::Deletion(deletion) => match self.deletion(&arena, deletion, places[at]) {
                    Some(reading) => out.push(Intake::Reading(reading)),
                    None => tally.add(Outcome::Ignored, "deletion_of_unknown_observation"),
                },
                Entry::Label(update) => match self.label(&arena, &update, places[at]) {
                    Some(label) => out.push(Intake::Label { position: update.position, label }),
                    None => tally.add(Outcome::Ignored, "deletion_of_unknown_outcome"),
                },
                // Where it ends was counted by `decode`. A deletion of which nobody knows the patient has nothing to take back.
                Entry::Condition(update) => {
                    if let Some((patient, condition)) = self.condition(&arena, &update, places[at]) {
                        out.push(Intake::Condition { patient, position: update.position, condition });
                    }
                }
            }
        }
        self.places = places;
    }

    /// Where the patient of an entry may be in the cache; anywhere if it names none.
    fn place(&self, arena: &Arena, entry: &Entry) -> Place {
        let patient = match entry {
            Entry::Observation(observation) => Some(observation.patient),
            Entry::Patient(update) => Some(update.patient),
            Entry::Deletion(deletion) => deletion.patient,
            Entry::Label(update) => update.patient,
            Entry::Condition(update) => update.patient,
        };
        patient.map_or_else(Place::default, |patient| self.cache.place(arena.id(patient)))
    }

    fn warm<'a>(&self, places: impl Iterator<Item = &'a Place>) {
        // The sum means nothing; it must not be left out.
        std::hint::black_box(places.fold(0, |sum, place| sum + self.cache.touch(*place)));
    }

    fn reading(&mut self, arena: &Arena, observation: Observation, place: Place) -> Reading {
        let patient = self.patient(arena, observation.patient, place);
        let pseudonym = match observation.id {
            Some(id) => self.observation(arena, id),
            None => self.position(observation.facts.position),
        };
        if observation.deletable {
            self.owners.own(observation.facts.position.partition, pseudonym, patient);
        }
        Reading { patient, observation: pseudonym, facts: observation.facts }
    }

    fn deletion(&mut self, arena: &Arena, deletion: Deletion, place: Place) -> Option<Reading> {
        let observation = self.observation(arena, deletion.id);
        let patient = match deletion.patient {
            Some(patient) => self.patient(arena, patient, place),
            None => self.owners.patient(deletion.position.partition, &observation)?,
        };
        let facts = Facts {
            position: deletion.position,
            received_at: deletion.received_at,
            at: deletion.watermark,
            version: deletion.version,
            status: Status::EnteredInError,
            ..Facts::default()
        };
        Some(Reading { patient, observation, facts })
    }

    /// `None` if nobody knows whose it is.
    fn label(&mut self, arena: &Arena, update: &LabelUpdate, place: Place) -> Option<Label> {
        let partition = update.position.partition;
        let (patient, id) = match (update.patient, update.id) {
            (Some(patient), Some(id)) => (self.patient(arena, patient, place), self.outcome(arena, id)),
            (Some(patient), None) => {
                let at = update.at.micros().to_be_bytes();
                let id = self.outcomes.clone().chain_update(b"At").chain_update(at).chain_update(b"/");
                (self.patient(arena, patient, place), finish(id.chain_update(arena.id(patient))))
            }
            (None, id) => {
                let id = self.outcome(arena, id?);
                (self.owners.patient(partition, &id)?, id)
            }
        };
        if update.deletable {
            self.owners.own(partition, id, patient);
        }
        let LabelUpdate { happened, at, version, .. } = *update;
        Some(Label { patient, id, happened, at, version })
    }

    /// `None` if nobody knows whose it is.
    fn condition(&mut self, arena: &Arena, update: &ConditionUpdate, place: Place) -> Option<(Pseudonym, Condition)> {
        let partition = update.position.partition;
        let id = match update.id {
            Some(id) => finish(self.conditions.clone().chain_update(arena.id(id))),
            None => self.position(update.position),
        };
        let patient = match update.patient {
            Some(patient) => self.patient(arena, patient, place),
            None => self.owners.patient(partition, &id)?,
        };
        if update.deletable {
            self.owners.own(partition, id, patient);
        }
        let ConditionUpdate { comorbidities, withdraws, version, .. } = *update;
        Some((patient, Condition { id, comorbidities, withdraws, version }))
    }

    /// The pseudonym of a patient, whose place in the cache is known.
    fn patient(&mut self, arena: &Arena, id: Id, place: Place) -> Pseudonym {
        let id = arena.id(id);
        self.cache.get(place, id).unwrap_or_else(|| {
            let pseudonym = finish(self.patients.clone().chain_update(id));
            self.cache.insert(place, id, pseudonym);
            pseudonym
        })
    }

    fn observation(&self, arena: &Arena, id: Id) -> Pseudonym {
        finish(self.observations.clone().chain_update(arena.id(id)))
    }

    fn outcome(&self, arena: &Arena, id: Id) -> Pseudonym {
        finish(self.outcomes.clone().chain_update(b"/").chain_update(arena.id(id)))
    }

    /// Stands for the id of an observation that has none: a re-read of the same record gives the same.
    fn position(&self, position: Position) -> Pseudonym {
        let topic = self.topics.name(position.partition.topic);
        let mac = self.positions.clone().chain_update(topic.as_bytes()).chain_update(b"/");
        let mac = mac.chain_update(position.partition.number.to_be_bytes());
        finish(mac.chain_update(position.offset.to_be_bytes()).chain_update(position.entry.to_be_bytes()))
    }
}

impl Survive for Pseudonymiser {
    fn save(&mut self, extent: Extent, into: &mut Blocks) {
        self.owners.save(extent, &self.topics, into);
    }

    fn load(&mut self, block: &[u8]) -> Result<(), Corrupt> {
        self.owners.load(block, &self.topics)
    }
}

fn finish(mac: Hmac<Sha256>) -> Pseudonym {
    let bytes = mac.finalize().into_bytes();
    let mut pseudonym = Pseudonym::default();
    pseudonym.0.copy_from_slice(&bytes[..16]);
    pseudonym
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identified::PatientUpdate;
    use crate::runtime::survive::testing::Saves;
    use crate::vocabulary::{Comorbidities, Demographics, Partition, Version};

    fn key() -> Key {
        Key::from_hex(&"0b".repeat(32)).unwrap()
    }

    fn machine() -> Pseudonymiser {
        Pseudonymiser::new(&key(), Topics::new(["bp-obs".to_owned()]))
    }

    fn patient(pseudonymiser: &mut Pseudonymiser, id: &str) -> Pseudonym {
        let mut arena = Arena::default();
        let place = pseudonymiser.cache.place(id.as_bytes());
        let id = Id::new(arena.push(id.as_bytes()));
        pseudonymiser.patient(&arena, id, place)
    }

    #[test]
    fn a_pseudonym_is_the_start_of_the_hmac() {
        // python3: hmac.new(bytes.fromhex("0b"*32), b"Patient/p-1", "sha256").hexdigest()[:32]
        let mut machine = machine();
        assert_eq!(patient(&mut machine, "p-1").to_string(), EXPECTED);
        assert_eq!(patient(&mut machine, "p-1").to_string(), EXPECTED, "from the cache");
    }
    const CONDITION: &str = "30bf82672aeabfef211410cc1f5ba587";
    const EXPECTED: &str = "5c0523b91102bb6642006ed59a9444cf";

    #[test]
    fn keys_are_read_strictly_and_never_shown() {
        for text in ["", "0b", &"0b".repeat(33), &"0g".repeat(32)] {
            assert!(Key::from_hex(text).is_err());
        }
        assert!(Key::from_hex(&format!(" {}\n", "0B".repeat(32))).is_ok());
        assert_eq!(format!("{:?}", key()), "Key(…)");
        assert_eq!(key().id(), key().id());
        assert_ne!(key().id(), Key::from_hex(&"0c".repeat(32)).unwrap().id());
    }

    #[test]
    fn a_key_file_is_made_for_its_owner_alone_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let made = Key::create_file(&path).unwrap();
        #[cfg(unix)]
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions()) & 0o777,
            0o600
        );
        assert_eq!(Key::create_file(&path).unwrap().id(), made.id());
        let spec = PseudonymiseSpec { key_file: Some(path), key_env: None };
        assert_eq!(Key::read(&spec).unwrap().id(), made.id());
    }

    fn deletion(position: Position, id: Id) -> Entry {
        Entry::Deletion(Deletion {
            patient: None,
            id,
            position,
            received_at: None,
            version: Default::default(),
            watermark: Default::default(),
        })
    }

    #[test]
    fn a_tombstone_finds_the_patient_of_an_observation_seen_before() {
        let mut machine = machine();
        let mut arena = Arena::default();
        let (patient, id) = (Id::new(arena.push(b"p-1")), Id::new(arena.push(b"o-1")));
        let stranger = Id::new(arena.push(b"o-2"));
        let deletion = |id| deletion(Position::default(), id);
        let entries = vec![
            Entry::Patient(PatientUpdate {
                patient,
                position: Position::default(),
                demographics: Demographics::default(),
            }),
            Entry::Observation(Observation { patient, id: Some(id), facts: Facts::default(), deletable: true }),
            deletion(id),
            deletion(stranger),
        ];
        let (mut out, mut tally) = (Vec::new(), Tally::default());
        machine.pseudonymise(Observations { arena, entries }, &mut out, &mut tally);
        assert_eq!(out.len(), 3);
        assert!(out.iter().all(|intake| intake.patient() == out[0].patient()));
        assert!(matches!(&out[2], Intake::Reading(reading) if reading.facts.status.withdraws()));
        assert_eq!(tally.total(Outcome::Ignored), 1);
    }

    #[test]
    fn an_outcome_is_known_by_its_id_else_by_patient_and_time_and_a_tombstone_finds_its_patient() {
        let (mut arena, mut machine) = (Arena::default(), machine());
        let [p1, p2, o1, o2] = [&b"p-1"[..], b"p-2", b"o-1", b"o-2"].map(|text| Id::new(arena.push(text)));
        let said = |patient, id, at| LabelUpdate {
            patient,
            id,
            position: Position::default(),
            happened: patient.map(|_| true),
            at: crate::time::EventTime::from_micros(at),
            version: Default::default(),
            deletable: id.is_some(),
        };
        let elsewhere = Position { partition: Partition { number: 1, ..Partition::default() }, ..Position::default() };
        let entries = vec![
            said(Some(p1), Some(o1), 1),
            said(Some(p1), Some(o1), 2),
            said(Some(p1), None, 1),
            said(Some(p1), None, 1),
            said(Some(p1), None, 2),
            said(Some(p2), None, 1),
            said(None, Some(o1), 0),
            said(None, Some(o2), 0),
            LabelUpdate { position: elsewhere, ..said(None, Some(o1), 0) },
        ];
        let entries = entries.into_iter().map(Entry::Label).collect();
        let (mut out, mut tally) = (Vec::new(), Tally::default());
        machine.pseudonymise(Observations { arena, entries }, &mut out, &mut tally);
        let labels: Vec<Label> = out
            .iter()
            .map(|intake| match intake {
                Intake::Label { label, .. } => *label,
                other => panic!("{other:?}"),
            })
            .collect();
        let ids: Vec<Pseudonym> = labels.iter().map(|label| label.id).collect();
        assert_eq!((ids[0], ids[2]), (ids[1], ids[3]));
        let others: std::collections::BTreeSet<Pseudonym> = ids[2..6].iter().chain(&ids[..1]).copied().collect();
        assert_eq!(others.len(), 4, "another time, another patient, an id: another outcome");
        assert_eq!(labels[0].patient.to_string(), EXPECTED, "as its readings have it");
        let deletion = labels[6];
        assert_eq!((labels.len(), deletion.patient, deletion.id), (7, labels[0].patient, ids[0]));
        assert_eq!(tally.total(Outcome::Ignored), 2, "of something unknown, or of another partition");
    }

    #[test]
    fn tombstones_find_their_patients_on_any_number_of_workers() {
        let topics = || Topics::new(["bp-obs".to_owned()]);
        let machines = |workers| (0..workers).map(|_| machine()).collect::<Vec<_>>();
        // Of each of eight partitions and each round: an observation, and the deletions of this one and of an earlier one.
        let run = |moves: &[usize]| {
            let (mut workers, mut saves, mut out) = (machines(1), Saves::default(), Vec::new());
            for round in 0..9_u8 {
                if round % 2 == 1 && !moves.is_empty() {
                    saves.save(if round == 1 { Extent::All } else { Extent::Changed }, &mut workers);
                    workers = machines(moves[usize::from(round / 2)]);
                    saves.load(&mut workers);
                }
                for number in 0..8 {
                    let partition = Partition { number, ..Partition::default() };
                    let position = Position { partition, offset: i64::from(round), entry: 0 };
                    let owner = (topics().route(partition) % workers.len() as u64) as usize;
                    let (mut arena, mut tally) = (Arena::default(), Tally::default());
                    let mut id = |round: u8| Id::new(arena.push(&[round, number as u8]));
                    let facts = Facts { position, ..Facts::default() };
                    let (patient, own) = (id(100 + round % 3), Some(id(round)));
                    let entries = vec![
                        Entry::Observation(Observation { patient, id: own, facts, deletable: true }),
                        deletion(position, id(round.wrapping_sub(3))),
                        deletion(
                            Position { partition: Partition { number: number ^ 1, ..partition }, ..position },
                            id(round),
                        ),
                    ];
                    workers[owner].pseudonymise(Observations { arena, entries }, &mut out, &mut tally);
                    out.push(Intake::Reading(Reading {
                        patient: Pseudonym([tally.total(Outcome::Ignored) as u8; 16]),
                        observation: Pseudonym::default(),
                        facts: Facts::default(),
                    }));
                }
            }
            format!("{out:?}")
        };
        let alone = run(&[]);
        for moves in [[2, 3, 1, 4], [4, 2, 2, 3], [1, 1, 4, 1]] {
            assert_eq!(run(&moves), alone, "{moves:?}");
        }
    }

    #[test]
    fn conditions_are_known_by_a_pseudonym_of_their_own_and_deleted_by_their_key() {
        let mut machine = machine();
        let mut arena = Arena::default();
        let mut id = |text: &str| Some(Id::new(arena.push(text.as_bytes())));
        let (patient, own) = (id("p-1"), id("c-1"));
        let update = |patient, id, number, offset, withdraws| {
            let position =
                Position { partition: Partition { number, ..Partition::default() }, offset, ..Position::default() };
            let comorbidities = if withdraws { Comorbidities::NONE } else { Comorbidities::one(3) };
            let (version, deletable) = (Version::Unversioned, !withdraws);
            Entry::Condition(ConditionUpdate { patient, id, position, comorbidities, withdraws, version, deletable })
        };
        let entries = vec![
            update(patient, own, 0, 0, false),
            update(patient, None, 0, 1, false),
            update(None, own, 0, 2, true),
            // Of another partition; of something unknown.
            update(None, own, 1, 3, true),
            update(None, patient, 0, 4, true),
        ];
        let (mut out, mut tally) = (Vec::new(), Tally::default());
        machine.pseudonymise(Observations { arena, entries }, &mut out, &mut tally);
        let all: Vec<(Pseudonym, Condition)> = out
            .iter()
            .map(|intake| match intake {
                Intake::Condition { patient, condition, .. } => (*patient, *condition),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(all.len(), 3);
        assert!(all.iter().all(|(patient, _)| patient.to_string() == EXPECTED), "as the patient's readings have it");
        // python3: hmac.new(bytes.fromhex("0b"*32), b"Condition/c-1", "sha256").hexdigest()[:32]
        assert_eq!(all[0].1.id.to_string(), CONDITION);
        assert_eq!((all[2].1.id, all[2].1.withdraws, all[2].1.comorbidities.count()), (all[0].1.id, true, 0));
        assert_ne!(all[1].1.id, all[0].1.id, "one without id is known by its position");
        assert_eq!(tally.total(Outcome::Ignored), 0, "decode has counted them");
    }

    #[test]
    fn an_observation_without_id_is_known_by_its_position() {
        let machine = machine();
        let position = |offset| Position { offset, ..Position::default() };
        assert_eq!(machine.position(position(1)), machine.position(position(1)));
        assert_ne!(machine.position(position(1)), machine.position(position(2)));
    }
}
