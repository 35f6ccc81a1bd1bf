//! What outlives a simulated process: the store, what sinks were given, and everything that happened, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::config::TableName;
use crate::runtime::epoch_log::{self, Claim, Entry};
use crate::runtime::recorder::Recorded;
use crate::runtime::store::{self, SharedStore, Store, StoreError};
use crate::sink::{Deliver, Rows, SinkError, StagedFile, json};
use crate::time::Epoch;

/// Shared by all processes of a simulation.
pub(super) struct World {
    pub(super) objects: SharedStore,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    events: Vec<String>,
    claims: BTreeMap<Epoch, Claim>,
    /// What hands were given: rows by process and epoch, with how often.
    delivered: BTreeMap<(usize, Epoch), BTreeMap<String, usize>>,
    staged: BTreeMap<String, Vec<(Epoch, String)>>,
    named: BTreeSet<String>,
    /// What must not happen, and did.
    wrong: Option<String>,
}

/// What a simulation came to.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    /// Rows that hands were given, by process and epoch, with how often.
    pub(super) delivered: BTreeMap<(usize, Epoch), BTreeMap<String, usize>>,
    /// Rows of files that readers see, by epoch, with how often.
    pub(super) named: BTreeMap<Epoch, BTreeMap<String, usize>>,
    pub(super) claims: Vec<Claim>,
    pub(super) events: Vec<String>,
    pub(super) wrong: Option<String>,
}

impl World {
    pub(super) fn new() -> Arc<World> {
        Arc::new(World { objects: store::memory(), state: Mutex::default() })
    }

    pub(super) fn note(&self, event: String) {
        self.state.lock().unwrap().events.push(event);
    }

    pub(super) fn wrong(&self, what: String) {
        self.state.lock().unwrap().wrong.get_or_insert(what);
    }

    pub(super) fn is_wrong(&self) -> bool {
        self.state.lock().unwrap().wrong.is_some()
    }

    /// Files of a recorded checkpoint get their names.
    pub(super) fn publish(&self, recorded: &Recorded) -> Result<(), String> {
        let mut state = self.state.lock().unwrap();
        for file in &recorded.staged {
            if !state.staged.contains_key(&file.name) {
                return Err(format!("a checkpoint names the file {}, which is not there", file.name));
            }
            state.named.insert(file.name.clone());
        }
        state.events.push(format!("named: {}", recorded.epoch));
        Ok(())
    }

    /// As at every start: what no checkpoint names is removed.
    pub(super) fn sweep(&self) {
        let mut state = self.state.lock().unwrap();
        let State { staged, named, .. } = &mut *state;
        staged.retain(|name, _| named.contains(name));
    }

    pub(super) fn found(&self) -> Found {
        let mut state = self.state.lock().unwrap();
        let mut named: BTreeMap<Epoch, BTreeMap<String, usize>> = BTreeMap::new();
        for (epoch, row) in state.named.iter().filter_map(|name| state.staged.get(name)).flatten() {
            *named.entry(*epoch).or_default().entry(row.clone()).or_default() += 1;
        }
        Found {
            delivered: std::mem::take(&mut state.delivered),
            named,
            claims: std::mem::take(&mut state.claims).into_values().collect(),
            events: std::mem::take(&mut state.events),
            wrong: state.wrong.take(),
        }
    }
}

/// How a process reaches the store.
pub(super) struct Reach {
    world: Arc<World>,
    process: usize,
    faults: Mutex<Faults>,
}

struct Faults {
    rng: ChaCha8Rng,
    /// Objects that the process creates until it dies.
    left: Option<usize>,
    dead: bool,
    /// How often an answer is lost.
    lost: f64,
}

impl Reach {
    pub(super) fn new(world: &Arc<World>, process: usize, seed: u64, left: Option<usize>, lost: f64) -> Arc<Reach> {
        let faults = Faults { rng: ChaCha8Rng::seed_from_u64(seed), left, dead: false, lost };
        Arc::new(Reach { world: Arc::clone(world), process, faults: Mutex::new(faults) })
    }

    /// True once the process has died in the middle of something.
    pub(super) fn is_dead(&self) -> bool {
        self.faults.lock().unwrap().dead
    }

    fn living(&self, name: &str) -> Result<(), StoreError> {
        if self.is_dead() { Err(StoreError::gone(name)) } else { Ok(()) }
    }

    fn really_create(&self, name: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        let created = self.world.objects.create(name, bytes)?;
        let what = match name.starts_with("log/") {
            true => format!("{:?}", epoch_log::entry(name, bytes)),
            false => format!("{:08x}", crc32c::crc32c(bytes)),
        };
        self.world.note(format!("{}: create {name} {created} {what}", self.process));
        if created
            && name.starts_with("log/")
            && let Entry::Claims(claims) = epoch_log::entry(name, bytes)
        {
            let mut state = self.world.state.lock().unwrap();
            for claim in claims {
                let epoch = claim.epoch;
                if state.claims.insert(epoch, claim).is_some() {
                    state.wrong.get_or_insert(format!("epoch {epoch} is claimed twice"));
                }
            }
        }
        Ok(created)
    }
}

impl Store for Reach {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        self.living(name)?;
        let mut faults = self.faults.lock().unwrap();
        if faults.left == Some(0) {
            faults.dead = true;
            let done = faults.rng.random_bool(0.5);
            drop(faults);
            self.world.note(format!("{}: dies at {name}", self.process));
            if done {
                self.really_create(name, bytes)?;
            }
            return Err(StoreError::gone(name));
        }
        faults.left = faults.left.map(|left| left - 1);
        let lost = faults.lost;
        if faults.rng.random_bool(lost) {
            let done = faults.rng.random_bool(0.5);
            drop(faults);
            if done {
                self.really_create(name, bytes)?;
            }
            return Err(StoreError::time_out(name));
        }
        drop(faults);
        self.really_create(name, bytes)
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.living(name)?;
        self.world.objects.get(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.living(prefix)?;
        self.world.objects.list(prefix)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.living(name)?;
        self.world.note(format!("{}: delete {name}", self.process));
        self.world.objects.delete(name)
    }
}

/// A sink's hand that writes down what it is given.
pub(super) struct Hand {
    world: Arc<World>,
    process: usize,
    generation: u64,
    worker: usize,
    closed: Epoch,
    /// Rows that are in no file yet; `None` for a sink that writes at once.
    unstaged: Option<Vec<(Epoch, String)>>,
    /// What an earlier run has written of files is not written again.
    written_up_to: Epoch,
}

impl Hand {
    /// A sink whose rows count when they are delivered.
    pub(super) fn at_once(world: &Arc<World>, process: usize, generation: u64, worker: usize) -> Self {
        let world = Arc::clone(world);
        Hand { world, process, generation, worker, closed: 0, unstaged: None, written_up_to: 0 }
    }

    /// A sink of files, which count when they are named.
    pub(super) fn in_files(self, written_up_to: Epoch) -> Self {
        Hand { unstaged: Some(Vec::new()), written_up_to, ..self }
    }

    fn closed(&self, epoch: Epoch) {
        if epoch <= self.closed {
            self.world.wrong(format!("process {}: epoch {epoch} comes after {} was closed", self.process, self.closed));
        }
    }
}

impl Deliver for Hand {
    fn deliver(&mut self, epoch: Epoch, rows: &Rows) -> Result<(), SinkError> {
        self.closed(epoch);
        let lines = json::rows(&rows.batch, &BTreeMap::new()).expect("all columns").into_bytes();
        let lines = String::from_utf8(lines).expect("JSON is text");
        let rows = lines.lines().map(|line| format!("{} {line}", rows.table.name()));
        if let Some(unstaged) = &mut self.unstaged {
            if epoch > self.written_up_to {
                unstaged.extend(rows.map(|row| (epoch, row)));
            }
            return Ok(());
        }
        let mut state = self.world.state.lock().unwrap();
        for row in rows {
            state.events.push(format!("{}: worker {} {epoch} {row}", self.process, self.worker));
            *state.delivered.entry((self.process, epoch)).or_default().entry(row).or_default() += 1;
        }
        Ok(())
    }

    fn close(&mut self, epoch: Epoch) -> Result<(), SinkError> {
        self.closed(epoch);
        self.closed = epoch;
        Ok(())
    }

    fn stage(&mut self, epoch: Epoch) -> Result<Vec<StagedFile>, SinkError> {
        let rows = self.unstaged.as_mut().map(std::mem::take).unwrap_or_default();
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(Vec::new()) };
        let epochs = (first.0, last.0);
        let name = format!("{epoch}-{}-{}", self.generation, self.worker);
        let (sink, count) = ("files".to_owned(), rows.len() as u64);
        let mut state = self.world.state.lock().unwrap();
        state.events.push(format!("{}: stage {name}", self.process));
        if state.staged.insert(name.clone(), rows).is_some() {
            state.wrong.get_or_insert(format!("the file {name} is written twice"));
        }
        Ok(vec![StagedFile { sink, table: TableName::Readings, name, bytes: 0, rows: count, epochs }])
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        if self.unstaged.as_ref().is_some_and(|rows| !rows.is_empty()) {
            self.world.wrong(format!("process {}: rows are left when a sink finishes", self.process));
        }
        Ok(())
    }
}
