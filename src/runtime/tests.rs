//! Proves what the operators promise, with scripted sources and sinks through the real operators, on 1, 2 and 4 workers: nothing is lost,
//! machines see whole sorted epochs, the gate holds, and every way to fail ends the run with its reason.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use timely::dataflow::Scope;
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::probe::Handle;
use timely::dataflow::operators::vec::{Broadcast, Map};

use super::checkpoint::writer::StateWriter;
use super::checkpoint::{self, Desk};
use super::clock::{BORDER, EpochClock, border_above};
use super::delivery::{self, Progress, Sink};
use super::driver::{self, Keyed, SourceContext, Tail};
use super::epoch_log::{EpochLog, History, Seal};
use super::failure::{Cause, Failure, Reported};
use super::http::Health;
use super::memory::{Level, Pressure};
use super::metrics::Metrics;
use super::recorder::{self, Publisher, Recorder, Stamp};
use super::recovery::{self, Recovery};
use super::stop::Stop;
use super::store::power_loss::Twin;
use super::store::{self, SharedStore, Store, StoreError};
use super::survive::{Blocks, Corrupt, Extent, Survive, entries, key_group};
use super::worker;
use crate::config::{EpochSpec, InflightSpec};
use crate::identified::{Mark, Payload, Record, Records};
use crate::sink::{Deliver, Rows, SinkError, StagedFile, testing};
use crate::source::{Lag, Poll, Polled, Share, SourceError, Topics};
use crate::time::{Epoch, EventTime};
use crate::vocabulary::{Partition, Position, Rejection, Tick, TopicId};

/// New epochs come above this one in a first run, and the first of them.
const ABOVE: Epoch = 4 * BORDER;
const FIRST: Epoch = ABOVE + 1;
/// Bytes of a record.
const RECORD_BYTES: usize = 10;
/// No test comes near: a run that takes longer hangs.
const HANG: Duration = Duration::from_secs(60);

/// What a scripted source does at one poll.
#[derive(Clone, Copy)]
enum Step {
    /// So many records of the partition.
    Read(i32, usize),
    /// The partition was added, and begins at this offset.
    Open(i32, i64),
    Nothing,
    First,
    Fail,
    /// The topic is not what it was.
    Anew,
}
use Step::{Anew, Fail, First, Nothing, Open, Read};

/// What a scripted sink does.
#[derive(Clone, Default)]
struct Temper {
    /// Takes so long for everything.
    slow: Duration,
    /// Waits at the first rows until it is let go.
    stuck: Option<Arc<AtomicBool>>,
    /// Fails at the first rows.
    fails: bool,
    panics: bool,
}

/// What a run is made of.
#[derive(Clone)]
struct Setup {
    /// One script a worker.
    sources: Vec<Vec<Step>>,
    /// Beyond its script each source reads one record a poll until it is stopped.
    endless: bool,
    inflight: InflightSpec,
    pressure: Pressure,
    metrics: Metrics,
    epoch: EpochSpec,
    temper: Temper,
    /// The machine fails, or panics, at this offset.
    machine_fails: Option<(i64, bool)>,
    /// The last worker begins late.
    late: bool,
    stop: Stop,
    seen: Seen,
    /// Where the log and the state are: a second run with the same store goes on.
    store: SharedStore,
    /// A checkpoint is due as often as this.
    every: Duration,
}

/// One call of the machine: worker, epoch, positions, ticks.
type Applied = (usize, Epoch, Vec<Position>, Vec<Tick>);

/// What a run did, as seen from its ends.
#[derive(Clone, Default)]
struct Seen {
    applied: Arc<Mutex<Vec<Applied>>>,
    /// Worker, epoch, position.
    delivered: Arc<Mutex<Vec<(usize, Epoch, Position)>>>,
    finished: Arc<AtomicUsize>,
    read: Arc<AtomicUsize>,
    durable: Arc<Mutex<BTreeMap<Partition, i64>>>,
    /// The machines' state, as of their last call.
    counts: Arc<Mutex<BTreeMap<u64, u64>>>,
    /// Staged, and recorded.
    published: Arc<Mutex<Vec<StagedFile>>>,
}

fn setup(sources: Vec<Vec<Step>>) -> Setup {
    Setup {
        sources,
        endless: false,
        inflight: InflightSpec { epochs: 4, bytes: 1 << 20 },
        pressure: Pressure::default(),
        metrics: Metrics::new(),
        epoch: EpochSpec { ms: 5, bytes: 10 * RECORD_BYTES },
        temper: Temper::default(),
        machine_fails: None,
        late: false,
        stop: Stop::default(),
        seen: Seen::default(),
        store: store::memory(),
        every: Duration::from_secs(3_600),
    }
}

/// So many workers, each with two partitions of its own but the last of several, which has none.
fn busy(workers: usize) -> Vec<Vec<Step>> {
    let script = |worker: usize| {
        let (a, b) = (2 * worker as i32, 2 * worker as i32 + 1);
        let turn =
            |at: usize| [Read(b, 3 + at % 5), Read(a, 4), if at.is_multiple_of(3) { Nothing } else { Read(a, 20) }];
        (0..30).flat_map(turn).collect()
    };
    (0..workers).map(|worker| if worker > 0 && worker == workers - 1 { Vec::new() } else { script(worker) }).collect()
}

/// Every position that the scripts read.
fn expected(sources: &[Vec<Step>]) -> BTreeSet<Position> {
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    let mut all = BTreeSet::new();
    for step in sources.iter().flatten() {
        if let Open(number, first) = *step {
            next.insert(number, first);
        }
        if let Read(number, count) = *step {
            let offset = next.entry(number).or_default();
            all.extend((0..count as i64).map(|ahead| position(number, *offset + ahead)));
            *offset += count as i64;
        }
    }
    all
}

fn position(number: i32, offset: i64) -> Position {
    Position { partition: Partition { topic: TopicId(0), number }, offset, entry: 0 }
}

struct Script {
    steps: VecDeque<Step>,
    endless: bool,
    opened: bool,
    next: BTreeMap<i32, i64>,
    /// Where reading begins, if not at the beginning: what lies before is passed over.
    resume: BTreeMap<i32, i64>,
    seen: Seen,
}

impl Script {
    fn read(&mut self, number: i32, count: usize, into: &mut Records) {
        for _ in 0..count {
            let offset = self.next.entry(number).or_default();
            if *offset >= self.resume.get(&number).copied().unwrap_or(0) {
                let payload = Payload::Bytes(into.arena.push(&[b'x'; RECORD_BYTES]));
                let position = position(number, *offset);
                into.records.push(Record { position, received_at: None, payload, key: None });
                self.seen.read.fetch_add(1, Ordering::SeqCst);
            }
            *offset += 1;
        }
    }
}

impl Poll for Script {
    fn poll(&mut self, _: usize, into: &mut Records) -> Result<Polled, SourceError> {
        if !std::mem::replace(&mut self.opened, true) {
            let later = |n: i32| self.steps.iter().any(|step| matches!(step, Open(added, _) if *added == n));
            let resumed = |n: i32| self.resume.contains_key(&n);
            let numbers = self.steps.iter().filter_map(|s| if let Read(n, _) = s { Some(*n) } else { None });
            let numbers: BTreeSet<i32> = numbers.filter(|n| resumed(*n) || !later(*n)).collect();
            into.marks.extend(numbers.into_iter().map(|number| Mark::Opened(position(number, 0).partition)));
            return Ok(Polled::Some);
        }
        match self.steps.pop_front() {
            Some(Read(number, count)) => self.read(number, count, into),
            Some(Open(number, first)) => {
                self.next.insert(number, first);
                if !self.resume.contains_key(&number) {
                    into.marks.push(Mark::Opened(position(number, 0).partition));
                }
            }
            Some(Nothing) => return Ok(Polled::Nothing),
            Some(First) => return Ok(Polled::First),
            Some(Fail) => return Err(SourceError::Unavailable("the broker has gone".into())),
            Some(Anew) => return Err(SourceError::Configuration("another topic".into())),
            None if self.endless => self.read(99, 1, into),
            None => return Ok(Polled::End),
        }
        Ok(Polled::Some)
    }

    fn limit(&mut self, _: Option<&BTreeMap<Partition, i64>>) {}

    fn durable(&mut self, ends: &[(Partition, i64)]) {
        self.seen.durable.lock().unwrap().extend(ends.iter().copied());
    }

    fn lag(&self) -> Vec<Lag> {
        let begun = self.next.iter().map(|(number, position)| (*number, *position));
        let all: BTreeMap<i32, i64> = self.resume.iter().map(|(number, at)| (*number, *at)).chain(begun).collect();
        let lag = |(number, at)| Lag { partition: position(number, 0).partition, position: at, records: 0 };
        all.into_iter().map(lag).collect()
    }
}

struct Scripted {
    worker: usize,
    temper: Temper,
    stop: Stop,
    seen: Seen,
    closed: Epoch,
}

impl Deliver for Scripted {
    fn deliver(&mut self, epoch: Epoch, rows: &Rows) -> Result<(), SinkError> {
        assert!(epoch > self.closed, "an epoch is closed after its last rows");
        sleep(self.temper.slow);
        assert!(!self.temper.panics, "as the script says");
        if self.temper.fails {
            return Err(SinkError::Refused("the disk is on fire".into()));
        }
        while self.temper.stuck.as_ref().is_some_and(|stuck| stuck.load(Ordering::SeqCst)) {
            if self.stop.abandon() {
                return Err(SinkError::Stopped);
            }
            sleep(Duration::from_millis(1));
        }
        let column = |name: &str| rows.batch.column_by_name(name).unwrap().clone();
        let (numbers, offsets) = (column("partition"), column("offset"));
        let (numbers, offsets) = (numbers.as_primitive::<Int32Type>(), offsets.as_primitive::<Int64Type>());
        let positions = (0..rows.batch.num_rows()).map(|row| position(numbers.value(row), offsets.value(row)));
        self.seen.delivered.lock().unwrap().extend(positions.map(|position| (self.worker, epoch, position)));
        Ok(())
    }

    fn close(&mut self, epoch: Epoch) -> Result<(), SinkError> {
        assert!(epoch > self.closed, "closings ascend");
        self.closed = epoch;
        sleep(self.temper.slow);
        Ok(())
    }

    /// A file a checkpoint, named for what it covers.
    fn stage(&mut self, epoch: Epoch) -> Result<Vec<StagedFile>, SinkError> {
        assert_eq!(epoch, self.closed, "staged right behind the closing");
        let name = format!("{epoch}-{}", self.worker);
        let (sink, table) = ("scripted".to_owned(), crate::config::TableName::Rejected);
        Ok(vec![StagedFile { sink, table, name, bytes: 0, rows: 0, epochs: (epoch, epoch) }])
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.seen.finished.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// Writes down what it is given, and passes it on as rows. Its state is how many inputs of each key group it has seen.
struct Ledger {
    worker: usize,
    fails: Option<(i64, bool)>,
    seen: Seen,
    last: Option<Epoch>,
    failed: bool,
    counts: BTreeMap<u64, u64>,
}

impl Survive for Ledger {
    fn save(&mut self, _: Extent, into: &mut Blocks) {
        assert!(!self.failed, "not saved after a failure");
        self.counts.iter().for_each(|entry| into.push(*entry.0, &entry));
    }

    fn load(&mut self, block: &[u8]) -> Result<(), Corrupt> {
        entries(block, "count", |(group, count)| {
            self.counts.insert(group, count);
            Ok(())
        })
    }
}

impl Keyed for Ledger {
    type Input = Position;
    type Tick = Tick;
    type Output = Rows;
    type Order = Position;

    fn route(input: &Position) -> u64 {
        key_group(input.offset as u64)
    }

    fn order(input: &Position) -> Position {
        *input
    }

    fn apply(&mut self, epoch: Epoch, inputs: &mut Vec<Position>, ticks: &[Tick]) -> Result<Option<Rows>, String> {
        assert!(self.last.is_none_or(|last| last < epoch), "each epoch once, ascending");
        assert!(inputs.is_sorted(), "sorted by position");
        assert!(!self.failed, "not called again after a failure");
        self.last = Some(epoch);
        for position in inputs.iter() {
            *self.counts.entry(key_group(position.offset as u64)).or_default() += 1;
        }
        self.seen.counts.lock().unwrap().extend(self.counts.iter().map(|(group, count)| (*group, *count)));
        if let Some((offset, panics)) = self.fails
            && inputs.iter().any(|position| position.offset == offset)
        {
            assert!(!panics, "as the script says");
            self.failed = true;
            return Err("no room".into());
        }
        self.seen.applied.lock().unwrap().push((self.worker, epoch, inputs.clone(), ticks.to_vec()));
        let rejection = |position| Rejection { rule: "rule", detail: "detail", index: None, position };
        let rejections: Vec<Rejection> = inputs.drain(..).map(rejection).collect();
        Ok((!rejections.is_empty()).then(|| testing::tables(None, false).rejected(&rejections, epoch)))
    }
}

/// Runs to the end, on a thread of its own, so that a run that hangs is a failed test.
fn run(setup: &Setup) -> Result<(), Reported> {
    let (done, ended) = channel();
    let setup = setup.clone();
    std::thread::spawn(move || {
        // The receiver is gone only if the test has failed.
        let _ = done.send(execute(setup));
    });
    ended.recv_timeout(HANG).expect("the run hangs")
}

fn execute(setup: Setup) -> Result<(), Reported> {
    let (workers, keeping) = (setup.sources.len(), Keeping::of(&setup));
    let telling = (keeping.failure.clone(), keeping.metrics.clone());
    worker::execute(worker::Crew::alone(workers), Vec::new(), Health::new(workers), telling, move |worker, scope| {
        if setup.late && worker == workers - 1 {
            sleep(Duration::from_millis(200));
        }
        let tail = build(scope, &setup, worker, &keeping);
        move || tail.finish()
    })
}

/// What a job keeps, as `job.rs` makes it.
struct Keeping {
    metrics: Metrics,
    failure: Failure,
    recovery: Recovery,
    clock: EpochClock,
    writer: StateWriter,
    recorder: Recorder,
    publisher: Mutex<Option<Publisher>>,
}

impl Keeping {
    fn of(setup: &Setup) -> Keeping {
        let (metrics, failure, workers) = (setup.metrics.clone(), Failure::default(), setup.sources.len());
        let (log, recovery) = begin(&setup.store, workers);
        let clock = EpochClock::starting_above(recovery.above.max(ABOVE), workers, setup.every);
        clock.record(recovery.checkpoint.unwrap_or(0));
        let (stop, store, generation) = (setup.stop.clone(), setup.store.clone(), recovery.generation);
        let writer =
            StateWriter::start(store, generation, None, stop.clone(), failure.clone(), metrics.clone()).unwrap();
        let topics = Topics::new(["bp-obs".to_owned()]);
        let recorder = Recorder::start(log, 3, stop, failure.clone(), metrics.clone(), topics).unwrap();
        let published = Arc::clone(&setup.seen.published);
        let publish = move |recorded: &recorder::Recorded| {
            published.lock().unwrap().extend(recorded.staged.iter().cloned());
            Ok(())
        };
        let publisher = Mutex::new(Some(Publisher::start(publish, clock.clone(), failure.clone()).unwrap()));
        Keeping { metrics, failure, recovery, clock, writer, recorder, publisher }
    }

    fn desk(&self, worker: usize, workers: usize) -> Desk {
        let (restored, writer) = (self.recovery.restored.clone(), self.writer.clone());
        let share = Share { worker, workers };
        Desk::new(share, restored, None, self.clock.start(), 4, writer, (self.metrics.clone(), self.failure.clone()))
    }

    fn stamp(&self) -> Stamp {
        Stamp {
            generation: self.recovery.generation,
            base_every: 4,
            ends: self.recovery.ends.clone(),
            replay: self.recovery.replay.clone(),
            committed_up_to: self.recovery.committed_up_to,
        }
    }

    fn context(&self, setup: &Setup, worker: usize, settled: &Handle<Epoch>) -> SourceContext {
        SourceContext {
            worker,
            epoch: setup.epoch.clone(),
            inflight: setup.inflight.clone(),
            pressure: setup.pressure.clone(),
            clock: self.clock.clone(),
            settled: settled.clone(),
            replay: self.recovery.replay.clone(),
            stop: setup.stop.clone(),
            failure: self.failure.clone(),
            metrics: self.metrics.clone(),
            topics: Topics::new(["bp-obs".to_owned()]),
        }
    }
}

/// The graph in small: a source, a keyed machine, a sink, and everything that keeps them.
fn build(scope: Scope<'_, Epoch>, setup: &Setup, worker: usize, keeping: &Keeping) -> Tail {
    let (seen, settled) = (setup.seen.clone(), Handle::new());
    let telling = (keeping.metrics.clone(), keeping.failure.clone());
    let desk = keeping.desk(worker, setup.sources.len());
    let script = Script {
        steps: setup.sources[worker].clone().into(),
        endless: setup.endless,
        opened: false,
        next: BTreeMap::new(),
        resume: own(&setup.sources[worker], &keeping.recovery.resume),
        seen: seen.clone(),
    };
    let context = keeping.context(setup, worker, &settled);
    let (records, cuts, tail) = driver::source(scope, "source", Box::new(script), context);
    let cuts = cuts.broadcast();
    let claimed = recorder::claim(cuts.clone(), keeping.recorder.clone(), keeping.clock.clone());
    let (positions, marks) = driver::split(records, "decode", |records: Records, positions, marks| {
        positions.extend(records.records.iter().map(|record| record.position));
        marks.extend(records.marks);
    });
    let ticks = marks.map(|mark| {
        let (Mark::Opened(partition) | Mark::Ended(partition) | Mark::Idle(partition)) = mark;
        Tick { partition, watermark: EventTime::MIN, idle: false }
    });
    let fails = setup.machine_fails;
    let machine = Ledger { worker, fails, seen: seen.clone(), last: None, failed: false, counts: BTreeMap::new() };
    let seat = desk.seat("ledger", machine);
    let rows = driver::keyed(positions, ticks.broadcast(), "ledger", telling.clone(), seat);
    let (temper, stop) = (setup.temper.clone(), setup.stop.clone());
    let deliver = Box::new(Scripted { worker, temper, stop, seen, closed: 0 });
    let sink = Sink { name: "scripted", deliver, progress: Progress::default() };
    delivery::sink(rows, claimed, sink, &desk, telling).probe_with(&settled);
    let pieces = checkpoint::gather(scope, desk, keeping.clock.clone());
    let recorded = recorder::record(pieces, cuts, keeping.stamp(), keeping.recorder.clone());
    recorder::publish(recorded.broadcast(), keeping.publisher.lock().unwrap().take());
    tail
}

/// Where the partitions of a script begin; those that are added later, only if an earlier run knew them.
fn own(script: &[Step], resume: &BTreeMap<Partition, i64>) -> BTreeMap<i32, i64> {
    let at = |number| resume.get(&position(number, 0).partition).copied();
    let later = |number: i32| script.iter().any(|step| matches!(step, Open(added, _) if *added == number));
    let begins = |number| at(number).or((!later(number)).then_some(0)).map(|at| (number, at));
    let numbers = script.iter().filter_map(|step| if let Read(number, _) = step { Some(*number) } else { None });
    numbers.filter_map(begins).collect()
}

/// Takes over the log as a job does.
fn begin(store: &SharedStore, workers: usize) -> (EpochLog, Recovery) {
    let seal = |_: &_| {
        let topics = vec!["bp-obs".to_owned()];
        let workers = workers as u32;
        Ok(Seal { generation: 0, workers, processes: 1, topics, digests: BTreeMap::new(), replay: false })
    };
    let (log, history) = EpochLog::take_over(store.clone(), seal).unwrap();
    let recovery = recovery::recover(store, &history, None).unwrap();
    (log, recovery)
}

impl Seen {
    fn positions_delivered(&self) -> Vec<Position> {
        let mut positions: Vec<_> = self.delivered.lock().unwrap().iter().map(|(_, _, position)| *position).collect();
        positions.sort();
        positions
    }

    fn reads(&self) -> usize {
        self.read.load(Ordering::SeqCst)
    }
}

#[test]
fn everything_is_delivered_once_in_order_and_machines_see_whole_epochs() {
    for workers in [1, 2, 4] {
        for slow in [0, 2] {
            let mut setup = setup(busy(workers));
            setup.temper.slow = Duration::from_millis(slow);
            run(&setup).unwrap();
            let all: Vec<Position> = expected(&setup.sources).into_iter().collect();
            assert_eq!(setup.seen.positions_delivered(), all, "{workers} workers");
            let delivered = setup.seen.delivered.lock().unwrap().clone();
            for worker in 0..workers {
                let epochs =
                    delivered.iter().filter(|(of, ..)| *of == worker).map(|(_, epoch, position)| (epoch, position));
                assert!(epochs.is_sorted(), "epoch by epoch, position by position");
            }
            // An epoch is whole: whoever sees a later one sees no position before what an earlier one had.
            let mut latest: BTreeMap<Partition, i64> = BTreeMap::new();
            let mut applied = setup.seen.applied.lock().unwrap().clone();
            applied.sort_by_key(|(_, epoch, ..)| *epoch);
            for of_epoch in applied.chunk_by(|a, b| a.1 == b.1) {
                let before = latest.clone();
                for position in of_epoch.iter().flat_map(|(_, _, positions, _)| positions) {
                    assert!(before.get(&position.partition).is_none_or(|last| *last < position.offset));
                    let latest = latest.entry(position.partition).or_insert(position.offset);
                    *latest = position.offset.max(*latest);
                }
            }
            assert_eq!(setup.seen.finished.load(Ordering::SeqCst), workers);
        }
    }
}

#[test]
fn a_stuck_sink_stops_the_sources_and_a_stop_drains_what_was_read() {
    for workers in [1, 2, 4] {
        let stuck = Arc::new(AtomicBool::new(true));
        let mut setup = setup(vec![vec![Read(0, 1)]; workers]);
        (setup.endless, setup.temper.stuck) = (true, Some(Arc::clone(&stuck)));
        // Every poll fills an epoch.
        (setup.epoch.bytes, setup.epoch.ms) = (1, 60_000);
        let running = std::thread::spawn({
            let setup = setup.clone();
            move || run(&setup)
        });
        let reads_max = workers * (setup.inflight.epochs as usize + 1);
        let mut quiet = 0;
        while quiet < 50 {
            let before = setup.seen.reads();
            assert!(before <= reads_max, "{before} reads, {workers} workers");
            sleep(Duration::from_millis(5));
            quiet = if before > 0 && before == setup.seen.reads() { quiet + 1 } else { 0 };
        }
        stuck.store(false, Ordering::SeqCst);
        while setup.seen.reads() <= 2 * reads_max {
            sleep(Duration::from_millis(1));
        }
        setup.stop.ask();
        running.join().unwrap().unwrap();
        assert_eq!(setup.seen.delivered.lock().unwrap().len(), setup.seen.reads(), "what was read is delivered");
    }
}

/// The sink's thread comes to an end in every way but finishing.
#[test]
fn a_sink_that_fails_ends_the_run_with_its_reason() {
    for workers in [1, 2, 4] {
        let mut failing = setup(busy(workers));
        failing.temper.fails = true;
        let text = "sink scripted: the disk is on fire".to_owned();
        assert_eq!(run(&failing), Err(Reported { cause: Cause::Outside, text }));

        let mut panicking = setup(busy(workers));
        panicking.temper.panics = true;
        let reported = run(&panicking).unwrap_err();
        assert_eq!(reported.cause, Cause::Bug);
        assert!(reported.text.starts_with("sink scripted panicked"), "{}", reported.text);

        let mut stuck = setup(busy(workers));
        stuck.temper.stuck = Some(Arc::new(AtomicBool::new(true)));
        stuck.stop.ask();
        stuck.stop.ask();
        // Nothing was read before the stop, so nothing is stuck.
        run(&stuck).unwrap();
        let mut stuck = setup(busy(workers));
        stuck.temper.stuck = Some(Arc::new(AtomicBool::new(true)));
        let stop = stuck.stop.clone();
        let seen = stuck.seen.clone();
        std::thread::spawn(move || {
            while seen.reads() == 0 {
                sleep(Duration::from_millis(1));
            }
            stop.abandon_now();
        });
        assert_eq!(run(&stuck).unwrap_err().cause, Cause::Undelivered);
    }
}

#[test]
fn a_source_or_a_machine_that_fails_ends_the_run_with_its_reason() {
    for workers in [1, 2, 4] {
        let mut sources = busy(workers);
        sources[0].push(Fail);
        let text = "source: the broker has gone".to_owned();
        assert_eq!(run(&setup(sources)), Err(Reported { cause: Cause::Outside, text }));

        let mut full = setup(busy(workers));
        full.machine_fails = Some((50, false));
        assert_eq!(run(&full), Err(Reported { cause: Cause::Outside, text: "ledger: no room".to_owned() }));

        let mut broken = setup(busy(workers));
        broken.machine_fails = Some((50, true));
        assert_eq!(run(&broken).unwrap_err().cause, Cause::Bug);
    }
}

#[test]
fn what_comes_first_is_applied_in_lower_epochs_than_all_that_follows() {
    for (workers, inflight) in [(1, 1), (1, 4), (2, 1), (2, 4), (4, 1), (4, 4)] {
        let mut sources = busy(workers);
        for (worker, script) in sources.iter_mut().enumerate() {
            // Partition 100 and above come first; the more, the higher the worker.
            let first: Vec<Step> = (0..10 * worker + 3).map(|_| Read(100 + worker as i32, 7)).collect();
            script.splice(0..0, first.into_iter().chain([First]));
        }
        let mut setup = setup(sources);
        // With one at a time, an epoch that is closed and held would stop the source for ever.
        setup.inflight.epochs = inflight;
        run(&setup).unwrap();
        assert_eq!(setup.seen.positions_delivered().len(), expected(&setup.sources).len());
        let epochs = |first: bool| -> Vec<Epoch> {
            let applied = setup.seen.applied.lock().unwrap();
            let of = |positions: &[Position]| positions.iter().any(|at| (at.partition.number >= 100) == first);
            applied.iter().filter(|(_, _, positions, _)| of(positions)).map(|(_, epoch, ..)| *epoch).collect()
        };
        let (first, rest) = (epochs(true), epochs(false));
        assert!(first.iter().max().unwrap() < rest.iter().min().unwrap_or(&Epoch::MAX), "{workers} workers");
    }
}

#[test]
fn all_partitions_are_opened_in_the_first_epoch_even_by_a_worker_that_begins_late() {
    for workers in [1, 2, 4] {
        let mut setup = setup((0..workers).map(|worker| vec![Read(worker as i32, 5); 20]).collect());
        setup.late = true;
        run(&setup).unwrap();
        let applied = setup.seen.applied.lock().unwrap();
        let opened: Vec<(Epoch, usize)> = applied
            .iter()
            .filter(|(.., ticks)| !ticks.is_empty())
            .map(|(_, epoch, _, ticks)| (*epoch, ticks.len()))
            .collect();
        assert_eq!(opened, vec![(FIRST, workers); workers], "every worker hears of all, once");
    }
}

#[test]
fn what_a_checkpoint_covers_is_reported_to_the_source() {
    for workers in [1, 2, 4] {
        let setup = setup(busy(workers));
        run(&setup).unwrap();
        let mut ends: BTreeMap<Partition, i64> = BTreeMap::new();
        expected(&setup.sources).into_iter().for_each(|at| _ = ends.insert(at.partition, at.offset + 1));
        assert_eq!(*setup.seen.durable.lock().unwrap(), ends);
    }
}

#[test]
fn checkpoints_are_recorded_with_the_state_and_the_files_of_all_workers() {
    for workers in [1, 2, 4] {
        let mut setup = setup(busy(workers));
        (setup.every, setup.temper.slow) = (Duration::ZERO, Duration::from_micros(100));
        run(&setup).unwrap();
        let (_, recovery) = begin(&setup.store, workers);
        let published = setup.seen.published.lock().unwrap().clone();
        let epochs: BTreeSet<Epoch> = published.iter().map(|file| file.epochs.0).collect();
        assert!(epochs.len() > 1 && published.len() == workers * epochs.len(), "{published:?}");
        assert_eq!(recovery.checkpoint, epochs.last().copied());
        assert_eq!(recovery.checkpoint.map(border_above), recovery.checkpoint.map(|epoch| epoch + 1));
        assert_eq!((recovery.replay.len(), recovery.generation), (0, 2), "everything is covered");
        let mut ends: BTreeMap<Partition, i64> = BTreeMap::new();
        expected(&setup.sources).into_iter().for_each(|at| _ = ends.insert(at.partition, at.offset + 1));
        assert_eq!(recovery.ends, ends);
    }
}

#[test]
fn a_run_that_dies_is_repeated_exactly_by_any_number_of_workers() {
    for (before, after) in [(1, 1), (1, 2), (2, 1), (2, 4), (4, 2)] {
        // Ends before the script does, in the middle of an epoch, without a last checkpoint.
        let mut dying = setup(busy(before));
        dying.every = Duration::from_millis(7);
        dying.temper.slow = Duration::from_micros(300);
        dying.machine_fails = Some((200, false));
        run(&dying).unwrap_err();
        let first = dying.seen.delivered.lock().unwrap().clone();
        // The same partitions, dealt out to others.
        let mut sources = vec![Vec::new(); after];
        for step in dying.sources.iter().flatten() {
            let worker = if let Read(number, _) = step { *number as usize % after } else { 0 };
            sources[worker].push(*step);
        }
        let mut second = setup(sources);
        second.store = dying.store.clone();
        second.every = dying.every;
        run(&second).unwrap();
        for (.., epoch, _, ticks) in second.seen.applied.lock().unwrap().iter() {
            let partitions: BTreeSet<Partition> = ticks.iter().map(|tick| tick.partition).collect();
            assert_eq!(partitions.len(), ticks.len(), "in {epoch} one worker alone says what was said of a partition");
        }
        let of = |delivered: &[(usize, Epoch, Position)]| -> BTreeMap<Position, Epoch> {
            delivered.iter().map(|(_, epoch, position)| (*position, *epoch)).collect()
        };
        let (first, delivered) = (of(&first), second.seen.delivered.lock().unwrap().clone());
        let again = of(&delivered);
        assert_eq!(again.len(), delivered.len(), "nothing is delivered twice in one run");
        for (position, epoch) in &again {
            let earlier = first.get(position);
            assert!(earlier.is_none_or(|earlier| earlier == epoch), "{position:?} was in {earlier:?}, is in {epoch}");
        }
        let all: BTreeSet<Position> = first.keys().chain(again.keys()).copied().collect();
        assert_eq!(all, expected(&dying.sources), "{before} to {after}: nothing is lost");
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        all.iter().for_each(|position| *counts.entry(key_group(position.offset as u64)).or_default() += 1);
        assert_eq!(*second.seen.counts.lock().unwrap(), counts, "{before} to {after}: the state is that of one run");
    }
}

/// Partition 7 is added while the run is under way, begins at offset 1,000, and is known to the next run from the log alone.
#[test]
fn a_partition_that_is_added_is_known_to_the_next_run_from_its_first_offset() {
    for (before, after) in [(1, 1), (2, 1), (1, 2)] {
        for dies_at in [1_000, 1_003, 1_030] {
            let mut sources = busy(before);
            let added = (0..20).map(|_| Read(7, 3));
            sources[0].splice(20..20, [Open(7, 1_000)].into_iter().chain(added));
            let mut dying = setup(sources.clone());
            dying.machine_fails = Some((dies_at, false));
            // Every poll fills an epoch, and no checkpoint is due: all that is known of the partition is its claims.
            (dying.epoch.bytes, dying.temper.slow) = (1, Duration::from_millis(1));
            run(&dying).unwrap_err();
            let (_, recovery) = begin(&dying.store, before);
            let partition = position(7, 0).partition;
            let first = recovery.resume.get(&partition).copied();
            let claimed = recovery.replay.iter().any(|claim| claim.cuts.iter().any(|(of, _)| *of == partition));
            assert!(first == Some(1_000) || first.is_none() && !claimed, "{first:?}");
            let starts = recovery.replay.iter().flat_map(|claim| &claim.starts).filter(|(of, _)| *of == partition);
            assert!(starts.count() <= 1, "announced once");

            let mut dealt = vec![Vec::new(); after];
            sources.iter().flatten().for_each(|step| match step {
                Read(number, _) | Open(number, _) => dealt[*number as usize % after].push(*step),
                _ => {}
            });
            let mut second = setup(dealt);
            second.store = dying.store.clone();
            run(&second).unwrap();
            let all: BTreeSet<Position> =
                dying.seen.positions_delivered().into_iter().chain(second.seen.positions_delivered()).collect();
            assert_eq!(all, expected(&sources), "{before} to {after}");
            let (_, recovery) = begin(&dying.store, after);
            assert_eq!(recovery.ends.get(&partition), Some(&1_060));
        }
    }
}

#[test]
fn a_source_whose_topic_is_another_one_ends_the_run_for_good() {
    let mut sources = busy(2);
    sources[1].push(Anew);
    let text = "source: another topic".to_owned();
    assert_eq!(run(&setup(sources)), Err(Reported { cause: Cause::Configuration, text }));
}

#[test]
fn sources_slow_down_while_memory_is_short_and_pause_when_it_runs_out() {
    for workers in [1, 2, 4] {
        let stuck = Arc::new(AtomicBool::new(true));
        let mut setup = setup(vec![vec![Read(0, 1)]; workers]);
        (setup.endless, setup.temper.stuck) = (true, Some(Arc::clone(&stuck)));
        (setup.epoch.bytes, setup.epoch.ms) = (1, 5);
        setup.pressure.set(Level::Critical);
        let running = std::thread::spawn({
            let setup = setup.clone();
            move || run(&setup)
        });
        sleep(Duration::from_millis(100));
        assert_eq!(setup.seen.reads(), 0, "{workers} workers");
        // Half of four epochs, and the one that is open.
        setup.pressure.set(Level::High);
        // One of them may have closed as many empty epochs meanwhile as it may now have under way.
        until("a source reads", || setup.seen.reads() > 0);
        sleep(Duration::from_millis(200));
        let reads = setup.seen.reads();
        assert!(reads <= workers * 3, "{reads} reads, {workers} workers");
        stuck.store(false, Ordering::SeqCst);
        while setup.seen.reads() <= 20 * workers {
            sleep(Duration::from_millis(1));
        }
        // What was read is delivered although nothing is read any more, and the pause ends.
        setup.pressure.set(Level::Critical);
        let mut before = usize::MAX;
        while before != setup.seen.reads() || setup.seen.delivered.lock().unwrap().len() != before {
            before = setup.seen.reads();
            sleep(Duration::from_millis(50));
        }
        setup.pressure.set(Level::Calm);
        while setup.seen.reads() == before {
            sleep(Duration::from_millis(1));
        }
        setup.stop.ask();
        running.join().unwrap().unwrap();
    }
}

#[test]
fn metrics_say_what_was_claimed_checkpointed_and_repeated() {
    let mut dying = setup(busy(2));
    (dying.epoch.bytes, dying.temper.slow) = (1, Duration::from_millis(1));
    dying.machine_fails = Some((60, false));
    run(&dying).unwrap_err();
    let mut second = setup(dying.sources.clone());
    second.store = dying.store.clone();
    run(&second).unwrap();
    let (first, then) = (&dying.metrics, &second.metrics);
    assert!(first.claims.get() > 0 && first.replayed_epochs.get() == 0 && first.restore_seconds.get() == 0.0);
    assert_eq!(then.replayed_epochs.get(), first.claims.get(), "no checkpoint was due before");
    assert!(then.restore_seconds.get() > 0.0 && then.settled.get() > 0 && then.claim_last_success.get() > 0);
    let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
    expected(&second.sources).into_iter().for_each(|at| _ = ends.insert(at.partition.number, at.offset + 1));
    for (number, end) in ends {
        for stage in ["claimed", "checkpointed"] {
            let offset = then.source_offset.with_label_values(&["bp-obs", &number.to_string(), stage]);
            assert_eq!(offset.get(), end, "{stage} of {number}");
        }
    }
}

/// A store that does not answer for objects whose names begin so.
struct Failing {
    store: SharedStore,
    refused: Arc<Mutex<Option<&'static str>>>,
    deleted: Arc<Mutex<Vec<String>>>,
}

impl Store for Failing {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        match *self.refused.lock().unwrap() {
            Some(prefix) if name.starts_with(prefix) => Err(StoreError::time_out(name)),
            _ => self.store.create(name, bytes),
        }
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.store.list(prefix)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.deleted.lock().unwrap().push(name.to_owned());
        self.store.delete(name)
    }
}

/// Waits until something is so.
fn until(what: &str, is_it: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_it() {
        assert!(begun.elapsed() < HANG, "{what}");
        sleep(Duration::from_millis(2));
    }
}

/// Runs without end with `store`, which stops working and comes back; what happens in between is looked at by `meanwhile`.
fn outage(mut setup: Setup, stops: impl Fn(bool), meanwhile: impl Fn(&Setup)) {
    (setup.endless, setup.every) = (true, Duration::from_millis(50));
    let running = std::thread::spawn({
        let setup = setup.clone();
        move || run(&setup)
    });
    until("checkpoints", || setup.metrics.checkpoints.get() >= 4);
    stops(true);
    until("three are missed", || setup.metrics.checkpoints_missed.get() >= 3);
    let recorded = setup.metrics.checkpoints.get();
    meanwhile(&setup);
    assert!(setup.metrics.checkpoints.get() <= recorded + 1);
    stops(false);
    until("checkpoints go on", || setup.metrics.checkpoints.get() >= recorded + 4);
    until("none is missed", || setup.metrics.checkpoints_missed.get() <= 1);
    setup.stop.ask();
    running.join().unwrap().unwrap();
    assert_eq!(setup.seen.delivered.lock().unwrap().len(), setup.seen.reads(), "nothing is lost, nothing twice");
    let (_, recovery) = begin(&setup.store, setup.sources.len());
    assert_eq!(recovery.replay.len(), 0, "the last checkpoint covers everything");
}

#[test]
fn a_run_goes_on_with_the_old_checkpoint_while_state_cannot_be_written() {
    let (refused, deleted) = (Arc::default(), Arc::default());
    let mut setup = setup(vec![vec![Read(0, 1)]; 2]);
    let (store, of_store) = (store::memory(), Arc::clone(&refused));
    setup.store = Arc::new(Failing { store, refused: of_store, deleted: Arc::clone(&deleted) });
    let stops = |stops: bool| *refused.lock().unwrap() = stops.then_some("state/");
    outage(setup, stops, |setup| {
        let (reads, before) = (setup.seen.reads(), deleted.lock().unwrap().len());
        until("reading goes on", || setup.seen.delivered.lock().unwrap().len() > reads + 20);
        assert_eq!(setup.metrics.epoch_log_waiting.get(), 0);
        // Whatever happens, there is a whole checkpoint.
        assert!(newest(&setup.store).checkpoint.is_some());
        assert!(deleted.lock().unwrap().len() <= before + 1, "nothing is deleted while nothing new is recorded");
    });
}

/// What a start would find, without taking over.
fn newest(store: &SharedStore) -> Recovery {
    let mut found = None;
    let refuse = |history: &History| {
        found = Some(recovery::recover(store, history, None).unwrap());
        Err("only looking".to_owned())
    };
    assert!(EpochLog::take_over(store.clone(), refuse).is_err());
    found.unwrap()
}

#[test]
fn a_full_disk_stops_the_sources_until_there_is_room_and_loses_nothing() {
    let twin = Twin::new();
    let mut setup = setup(vec![vec![Read(0, 1)]; 2]);
    setup.store = twin.open().unwrap();
    outage(
        setup,
        |stops| twin.space(stops.then_some(0)),
        |setup| {
            // Nothing can be claimed, so nothing is given to a sink, so the sources wait.
            until("the log says so", || setup.metrics.epoch_log_waiting.get() == 1);
            until("the sources wait", || {
                let reads = setup.seen.reads();
                sleep(Duration::from_millis(200));
                setup.seen.reads() == reads
            });
        },
    );
}
