//! One simulated process: real workers on threads of which one has the baton at a time, and the hands beside them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use timely::WorkerConfig;
use timely::communication::{Config as Threads, WorkerGuards, initialize_from};
use timely::dataflow::operators::probe::Handle;
use timely::worker::Worker;

use super::input::{self, Input, Reading};
use super::world::{Hand, Reach, World};
use crate::cli::Failed;
use crate::config::Flow;
use crate::graph::{self, Generation, Plan};
use crate::job::{self, Begun, Keep, Keeping, Options, Wanted};
use crate::pseudonymise::Key;
use crate::runtime::clock::BORDER;
use crate::runtime::delivery::{Progress, Sink};
use crate::runtime::driver::Tail;
use crate::runtime::failure::{Failure, Reported};
use crate::runtime::host::simulated::{self, Host, Time};
use crate::runtime::memory::Pressure;
use crate::runtime::metrics::Metrics;
use crate::runtime::stop::Stop;
use crate::sink::Deliver;
use crate::sink::tables::Context;
use crate::source::{Share, Topics};
use crate::time::Epoch;
use crate::vocabulary::Partition;

/// New epochs of a first run come above this one.
const ABOVE: Epoch = 4 * BORDER;

/// What a process is started with.
#[derive(Clone)]
pub(super) struct Setting {
    pub(super) world: Arc<World>,
    pub(super) reach: Arc<Reach>,
    pub(super) flow: Arc<Flow>,
    pub(super) input: Arc<Input>,
    pub(super) time: Time,
    /// Counts processes, from 0.
    pub(super) number: usize,
    pub(super) workers: usize,
    pub(super) seed: u64,
    /// Repeats these epochs and nothing else.
    pub(super) oracle: Option<Arc<Found>>,
}

pub(super) use super::world::Found;

/// A process that has sealed the log and built its graph.
pub(super) struct Process {
    pub(super) setting: Setting,
    pub(super) stop: Stop,
    host: Arc<Host>,
    failure: Failure,
    workers: Vec<Seat>,
    threads: Option<WorkerGuards<()>>,
    /// How often each worker, and each hand, gets a turn.
    weights: Vec<u32>,
    rng: ChaCha8Rng,
}

/// A worker, as whoever has the baton sees it.
struct Seat {
    orders: Sender<Order>,
    answers: Receiver<Answer>,
    over: bool,
}

enum Order {
    Build,
    Step,
}

enum Answer {
    Ready,
    Going,
    /// The dataflow has completed.
    Over,
    Panicked(String),
}

/// What all workers of a process build their graph from.
struct Shared {
    setting: Setting,
    plan: Plan,
    keeping: Keeping,
    stop: Stop,
    resume: BTreeMap<Partition, i64>,
}

impl Process {
    /// Takes over the log and builds the graph on all workers; `None` if it died meanwhile.
    pub(super) fn start(setting: Setting) -> Option<Process> {
        let host = Host::new(setting.time.clone());
        simulated::enter(Some(Arc::clone(&host)));
        let shared = Shared::begin(&setting);
        simulated::enter(None);
        let shared = shared?;
        let (failure, stop) = (shared.plan.failure.clone(), shared.stop.clone());
        let (workers, threads) = seats(&host, shared);
        let mut rng = ChaCha8Rng::seed_from_u64(setting.seed);
        // Some are slow.
        let weight = |_| if rng.random_bool(0.25) { 1 } else { rng.random_range(3..9) };
        let weights = (0..workers.len() + host.hands()).map(weight).collect();
        Some(Process { setting, stop, host, failure, workers, threads: Some(threads), weights, rng })
    }

    /// True once nothing is left to be done.
    pub(super) fn is_over(&self) -> bool {
        self.workers.iter().all(|worker| worker.over)
    }

    pub(super) fn failed(&self) -> Option<Reported> {
        self.failure.reported()
    }

    /// One worker makes a step, or a hand does one thing.
    pub(super) fn turn(&mut self) {
        let total: u32 = self.weights.iter().sum();
        let mut ticket = self.rng.random_range(0..total);
        let mut actor = 0;
        while ticket >= self.weights[actor] {
            ticket -= self.weights[actor];
            actor += 1;
        }
        self.act(actor);
    }

    /// Everybody in order, over and over.
    pub(super) fn round(&mut self) {
        (0..self.weights.len()).for_each(|actor| self.act(actor));
    }

    fn act(&mut self, actor: usize) {
        let number = self.setting.number;
        match actor.checked_sub(self.workers.len()) {
            Some(hand) => {
                if let Some(name) = self.host.turn(hand) {
                    self.setting.world.note(format!("{number}: {name}"));
                }
            }
            None if self.workers[actor].over => {}
            None => {
                self.setting.world.note(format!("{number}: worker {actor} steps"));
                let seat = &mut self.workers[actor];
                match seat.ask(Order::Step) {
                    Answer::Panicked(text) => self.setting.world.wrong(format!("worker {actor} panicked: {text}")),
                    Answer::Over => seat.over = true,
                    Answer::Ready | Answer::Going => {}
                }
            }
        }
    }
}

/// The process dies: whatever was in memory is gone.
impl Drop for Process {
    fn drop(&mut self) {
        self.workers.clear();
        self.threads.take().into_iter().for_each(|threads| drop(threads.join()));
        self.host.drop_hands();
    }
}

impl Seat {
    fn ask(&self, order: Order) -> Answer {
        self.orders.send(order).expect("the thread ends after us");
        self.answers.recv().expect("the thread ends after us")
    }
}

/// What a worker's thread is ordered with, and where it answers.
type Line = (Receiver<Order>, Sender<Answer>);

/// Starts the threads, and lets one after the other build the graph.
fn seats(host: &Arc<Host>, shared: Shared) -> (Vec<Seat>, WorkerGuards<()>) {
    let (world, workers) = (Arc::clone(&shared.setting.world), shared.setting.workers);
    let (mut seats, mut lines) = (Vec::new(), Vec::new());
    for _ in 0..workers {
        let ((orders, ours), (theirs, answers)) = (channel(), channel());
        seats.push(Seat { orders, answers, over: false });
        lines.push(Some((ours, theirs)));
    }
    let (host, lines, shared) = (
        Arc::clone(host),
        Mutex::new(lines),
        Mutex::new(std::iter::repeat_n(Arc::new(shared), workers).collect::<Vec<_>>()),
    );
    let threads = if workers == 1 { Threads::Thread } else { Threads::Process(workers) };
    let (builders, others) = threads.try_build().expect("threads need nothing");
    let guards = initialize_from(builders, others, move |allocator| {
        // Without a timer everything that is to be looked at later is looked at with the next step.
        let worker = Worker::new(WorkerConfig::default(), allocator, None);
        let line = lines.lock().unwrap()[worker.index()].take().expect("each worker takes its own");
        let shared = shared.lock().unwrap().pop().expect("one a worker");
        simulated::enter(Some(Arc::clone(&host)));
        work(worker, shared, &line);
    });
    // They wait for one another until all are there.
    for seat in &seats {
        let _ = seat.answers.recv();
    }
    for (worker, seat) in seats.iter().enumerate() {
        if let Answer::Panicked(text) = seat.ask(Order::Build) {
            world.wrong(format!("worker {worker} panicked: {text}"));
        }
    }
    (seats, guards.expect("threads can be started"))
}

/// A worker's thread: does what it is ordered to, and nothing else, until nobody orders any more.
fn work(mut worker: Worker, shared: Arc<Shared>, (orders, answers): &Line) {
    let index = worker.index();
    let mut tail = None;
    let mut shared = Some(shared);
    let _ = answers.send(Answer::Ready);
    while let Ok(order) = orders.recv() {
        let done = catch_unwind(AssertUnwindSafe(|| match order {
            Order::Build => {
                let shared = shared.take().expect("built once");
                tail = Some(worker.dataflow(|scope| shared.build(index, scope)));
                Answer::Going
            }
            Order::Step => match worker.step() {
                true => Answer::Going,
                false => {
                    tail.take().into_iter().for_each(Tail::finish);
                    Answer::Over
                }
            },
        }));
        let answer = done.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Answer::Panicked(text.unwrap_or_default())
        });
        if answers.send(answer).is_err() {
            break;
        }
    }
}

/// Metrics are summed up over all simulations: nothing depends on them.
fn metrics() -> Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(Metrics::new).clone()
}

impl Shared {
    /// Begins as a job does; `None` if the process died on the way.
    fn begin(setting: &Setting) -> Option<Shared> {
        let Setting { world, flow, workers, .. } = setting;
        let key = Key::from_hex(&"5a".repeat(32)).expect("64 digits");
        let stop = Stop::default();
        let options = Options {
            workers: *workers,
            until_end: true,
            stop: stop.clone(),
            terminal: None,
            read: None,
            keep: Keep::Nowhere,
            replay_with_new_code: false,
            cluster: None,
        };
        let (mut begun, topics) = begin(setting, &options, &key)?;
        let recovery = &mut begun.recovery;
        if let Some(oracle) = &setting.oracle {
            recovery.replay = oracle.claims.clone();
            recovery.above = recovery.replay.last().map_or(ABOVE, |claim| claim.epoch);
        } else if recovery.checkpoint.is_none() && recovery.replay.is_empty() {
            recovery.above = ABOVE;
        }
        let staged = recovery.staged.iter();
        let recorded = staged.map(|(epoch, staged)| job_recorded(*epoch, staged));
        if let Some(why) = recorded.map(|recorded| world.publish(&recorded)).find_map(Result::err) {
            world.wrong(why);
        }
        world.sweep();
        let resume = recovery.resume.clone();
        let plan = plan(flow, key, topics, begun_generation(&begun, *workers));
        let publishing = Arc::clone(world);
        let keeping = Keeping::start(begun, &plan, &options, move |recorded| publishing.publish(recorded));
        Some(Shared { setting: setting.clone(), plan, keeping: keeping.expect("no threads"), stop, resume })
    }

    fn build(&self, index: usize, scope: timely::dataflow::Scope<'_, Epoch>) -> Tail {
        let Setting { world, input, number, workers, seed, oracle, .. } = &self.setting;
        let Generation { number: generation, committed_up_to, .. } = self.plan.generation;
        let share = Share { worker: index, workers: *workers };
        let source = Reading::new(input, share, &self.resume, seed + index as u64, oracle.is_some());
        let sink = |name, deliver: Hand| {
            let deliver: Box<dyn Deliver> = Box::new(deliver);
            Sink { name, deliver, progress: Progress::default() }
        };
        let hand = || Hand::at_once(world, *number, generation, index);
        let sinks = vec![sink("at_once", hand()), sink("files", hand().in_files(committed_up_to))];
        let settled = Handle::new();
        let context = self.keeping.of_source(index, &self.stop, &settled, &Pressure::default());
        let keeping = self.keeping.of_worker(index);
        graph::build(scope, &self.plan, Box::new(source), context, sinks, &settled, keeping)
    }
}

/// Takes over the log; begins again when an answer was lost.
fn begin(setting: &Setting, options: &Options, key: &Key) -> Option<(Begun, Topics)> {
    for _ in 0..20 {
        let store = || Ok(Arc::clone(&setting.reach) as _);
        let digests = job::digests(&setting.flow, key, None);
        let wanted = Wanted { flow: &setting.flow, options, key, digests, names: &input::topics() };
        match job::begin(store, wanted, &metrics(), None) {
            Ok(begun) => return Some(begun),
            Err(_) if setting.reach.is_dead() => return None,
            Err(failed) => setting.world.note(format!("{}: could not begin: {}", setting.number, text(&failed))),
        }
    }
    setting.world.wrong(format!("process {} could not begin", setting.number));
    None
}

fn text(failed: &Failed) -> String {
    failed.to_string()
}

fn job_recorded(epoch: Epoch, staged: &[crate::sink::StagedFile]) -> crate::runtime::recorder::Recorded {
    crate::runtime::recorder::Recorded { epoch, staged: staged.to_vec() }
}

fn begun_generation(begun: &Begun, workers: usize) -> Generation {
    let recovery = &begun.recovery;
    Generation {
        number: recovery.generation,
        workers,
        earlier: recovery.earlier.clone(),
        committed_up_to: recovery.committed_up_to,
    }
}

fn plan(flow: &Arc<Flow>, key: Key, topics: Topics, generation: Generation) -> Plan {
    let context = Context {
        topics: topics.clone(),
        signals: job::signal_columns(flow),
        rule_set: flow.spec.score.rules.clone(),
        model: None,
    };
    Plan {
        flow: Arc::clone(flow),
        key,
        model: None,
        topics,
        context,
        metrics: metrics(),
        failure: Failure::default(),
        generation,
        live: None,
        profile: None,
    }
}
