//! Between the graph and a sink: a thread, a bounded queue, and a frontier that moves only when rows are settled.
//!
//! ```text
//! rows ────> [sink operator] ─ queue (QUEUE_MAX messages) ─> [thread: Deliver] ─> outside
//! claimed ─>     ^──────── settled epoch, staged files ─────────────┘
//! ```
//!
//! Invariants:
//!
//! 1. The thread is given an epoch's rows only when the epoch is complete and claimed: what it does for them, a run after a crash repeats.
//! 2. The operator keeps the capability of every epoch whose rows it has passed on, until the thread says the epoch is settled.
//!    So the probe behind the sinks tells what is settled, and a dead sink stops the sources.
//! 3. At every border the thread stages everything below it, before it is given anything above.
//! 4. The worker never blocks: while the queue is full, rows wait in the operator, whose number the gate of the sources bounds.
//! 5. A sink's own state, if it has one, is saved by the thread at each border and handed in here: like a stage's.
//! 6. However the thread ends, other than by finishing, the run fails: nobody waits for a settlement that will not come.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;
use timely::scheduling::SyncActivator;

use super::checkpoint::Desk;
use super::clock::border_above;
use super::driver::{Nap, Stream};
use super::failpoint::{self, Guard};
use super::failure::{Cause, Failure};
use super::host;
use super::metrics::{Metrics, unix_seconds};
use super::recorder::checkpoint_of;
use super::survive::{Blocks, Extent};
use crate::config::TableName;
use crate::sink::{Deliver, Rows, SinkError, StagedFile};
use crate::time::Epoch;

/// Messages that may wait for a sink's thread.
pub const QUEUE_MAX: usize = 64;

/// How often an idle sink is asked whether it has something to finish.
const IDLE: Duration = Duration::from_millis(200);

/// What the operator tells the thread.
enum Message {
    /// With the bytes that they are counted as while they are under way.
    Rows(Epoch, Rows, i64),
    Close(Epoch),
    /// Stage everything below this border, which is closed.
    Stage(Epoch),
    Finish,
}

/// How far a sink has come. Epoch 0 means nothing yet; `u64::MAX` that it has finished.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// The highest epoch up to which everything is settled.
    pub fn settled(&self) -> Epoch {
        self.0.load(Ordering::Acquire)
    }

    /// That of a sink that has come so far.
    #[cfg(test)]
    pub(crate) fn settled_up_to(epoch: Epoch) -> Self {
        let progress = Progress::default();
        progress.set(epoch);
        progress
    }

    fn set(&self, settled: Epoch) {
        self.0.store(settled, Ordering::Release);
    }
}

/// A sink, ready to be put behind a stream.
pub struct Sink {
    /// Its name: metric label, operator name.
    pub name: &'static str,
    /// Its hand.
    pub deliver: Box<dyn Deliver>,
    /// How far it has come, for the sources.
    pub progress: Progress,
}

/// Delivers `rows` of epochs that the frontier of `claimed` has passed, and emits nothing: the stream's frontier is what is settled.
pub fn sink<'s>(
    rows: Stream<'s, Rows>,
    claimed: Stream<'s, ()>,
    mut sink: Sink,
    desk: &Desk,
    (metrics, failure): (Metrics, Failure),
) -> Stream<'s, ()> {
    let scope = rows.scope();
    let name = sink.name;
    let mut place = sink.deliver.state().map(|state| desk.seat_of_sink(name, state));
    let (desk, border) = (desk.clone(), desk.seat_sink());
    rows.binary_frontier::<_, CapacityContainerBuilder<Vec<()>>, _, _, _, _>(
        claimed,
        Pipeline,
        Pipeline,
        name,
        move |capability, info| {
            let mut nap = Nap::new(scope.activator_for(Rc::clone(&info.address)));
            let inflight_bytes = metrics.sink_inflight_bytes.with_label_values(&[name]);
            let wake = scope.worker().sync_activator_for(info.address.to_vec());
            let progress = sink.progress.clone();
            let mut outbox = Outbox::start(sink, border, wake, metrics, failure);
            // One capability, for the lowest epoch that is not settled.
            let mut unsettled = Some(capability);
            move |(input, complete), (claims, claimed), _output| {
                input.for_each(|capability, data| {
                    let epoch = *capability.least().expect("a message has a time");
                    let of_epoch = outbox.incomplete.entry(epoch).or_default();
                    for rows in data.drain(..) {
                        let bytes = i64::try_from(rows.batch.get_array_memory_size()).unwrap_or(i64::MAX);
                        inflight_bytes.add(bytes);
                        of_epoch.push((rows, bytes));
                    }
                });
                claims.for_each(|_, _| {});
                let claimed = claimed.frontier().first().copied().filter(|_| Guard::ClaimWait.holds());
                let first = [complete.frontier().first().copied(), claimed];
                let upto = first.into_iter().flatten().min().map_or(Epoch::MAX, |first| first.saturating_sub(1));
                outbox.close(upto);
                if !outbox.flush() {
                    nap.take();
                }
                for Staged { border, files, state } in outbox.staged.try_iter() {
                    desk.staged(border, files);
                    if let Some((place, state)) = place.as_mut().zip(state) {
                        debug_assert_eq!(place.border(), border, "a sink stages at every border");
                        place.hand_in(state);
                    }
                }
                match progress.settled() {
                    Epoch::MAX => unsettled = None,
                    settled => {
                        if let Some(capability) = unsettled.as_mut() {
                            let next = (settled + 1).max(*capability.time()).min(upto.saturating_add(1));
                            capability.downgrade(&next);
                        }
                    }
                }
            }
        },
    )
}

/// The operator's side of the queue.
struct Outbox {
    /// Rows of epochs that are not complete, or not claimed.
    incomplete: BTreeMap<Epoch, Vec<(Rows, i64)>>,
    waiting: VecDeque<Message>,
    sender: Option<SyncSender<Message>>,
    closed: Epoch,
    /// The next one to stage at.
    border: Epoch,
    staged: Receiver<Staged>,
    _thread: Thread,
}

/// What the thread has staged below a border.
struct Staged {
    border: Epoch,
    files: Vec<StagedFile>,
    /// Of a sink that has a state.
    state: Option<Blocks>,
}

/// Joins on drop, so that a run does not end before its sinks have.
struct Thread(Option<JoinHandle<()>>);

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // Panics are caught and reported by the thread itself.
            let _ = thread.join();
        }
    }
}

impl Outbox {
    fn start(sink: Sink, border: Epoch, activator: SyncActivator, metrics: Metrics, failure: Failure) -> Self {
        let (sender, messages) = sync_channel(QUEUE_MAX);
        let (reply, staged) = channel();
        let hand = Hand {
            messages,
            unsettled: BTreeMap::new(),
            unsettled_bytes: 0,
            received_first: None,
            deliver: sink.deliver,
            name: sink.name,
            progress: sink.progress,
            staged: reply,
            activator,
            metrics,
            failure: failure.clone(),
        };
        let thread = host::start(format!("sink-{}", sink.name), hand);
        // Without the thread nothing is ever settled, and the failure ends the run.
        let thread = thread
            .map_err(|error| failure.report(format!("sink: could not start the thread of {}: {error}", sink.name)))
            .ok()
            .flatten();
        let _thread = Thread(thread);
        Outbox {
            incomplete: BTreeMap::new(),
            waiting: VecDeque::new(),
            sender: Some(sender),
            closed: 0,
            border,
            staged,
            _thread,
        }
    }

    /// Everything up to and including `upto` is there and claimed; [`Epoch::MAX`] ends the input. Queues its rows, and what is to be staged.
    fn close(&mut self, upto: Epoch) {
        loop {
            let epoch = self.incomplete.keys().next().copied().filter(|epoch| *epoch <= upto);
            let ended = upto == Epoch::MAX;
            if !ended && self.border <= upto + 1 && epoch.is_none_or(|epoch| epoch >= self.border) {
                self.say_closed(checkpoint_of(self.border));
                self.waiting.push_back(Message::Stage(self.border));
                self.border = border_above(self.border);
            } else if let Some(rows) = epoch.and_then(|epoch| self.incomplete.remove(&epoch)) {
                let epoch = epoch.unwrap_or_default();
                self.waiting.extend(rows.into_iter().map(|(rows, bytes)| Message::Rows(epoch, rows, bytes)));
            } else {
                break;
            }
        }
        self.say_closed(upto);
    }

    /// A closing is never left for later: nothing might wake the operator again. Those that follow one another are one.
    fn say_closed(&mut self, upto: Epoch) {
        if upto <= self.closed {
            return;
        }
        self.closed = upto;
        let message = if upto == Epoch::MAX { Message::Finish } else { Message::Close(upto) };
        match self.waiting.back_mut() {
            Some(last @ Message::Close(_)) => *last = message,
            _ => self.waiting.push_back(message),
        }
    }

    /// Passes on what the queue takes; `false` if something still waits.
    fn flush(&mut self) -> bool {
        let Some(sender) = &self.sender else { return true };
        while let Some(message) = self.waiting.pop_front() {
            match sender.try_send(message) {
                Ok(()) => {}
                Err(TrySendError::Full(message)) => {
                    self.waiting.push_front(message);
                    return false;
                }
                // The thread has reported its failure and gone.
                Err(TrySendError::Disconnected(_)) => return true,
            }
        }
        true
    }
}

/// The thread's side.
struct Hand {
    messages: Receiver<Message>,
    /// Rows passed on since the last settlement, by table, and when the broker had the oldest of them (microseconds).
    unsettled: BTreeMap<TableName, u64>,
    unsettled_bytes: i64,
    received_first: Option<i64>,
    deliver: Box<dyn Deliver>,
    name: &'static str,
    progress: Progress,
    staged: Sender<Staged>,
    activator: SyncActivator,
    metrics: Metrics,
    failure: Failure,
}

impl host::Hand for Hand {
    fn turn(&mut self, at_most: Option<Duration>) -> ControlFlow<()> {
        let (name, failure) = (self.name, self.failure.clone());
        // Unwinding leaves nothing behind that is used again: the run fails.
        match std::panic::catch_unwind(AssertUnwindSafe(|| self.serve(at_most.unwrap_or(IDLE)))) {
            Ok(Ok(ControlFlow::Continue(()))) => return ControlFlow::Continue(()),
            Ok(Ok(ControlFlow::Break(()))) => {}
            Ok(Err(SinkError::Stopped)) => {
                failure.report_as(Cause::Undelivered, format!("sink {name}: stopped before everything was delivered"));
            }
            Ok(Err(error)) => failure.report(format!("sink {name}: {error}")),
            Err(_) => {
                let text = format!("sink {name} panicked; this is a bug, please report it with the message above");
                failure.report_as(Cause::Bug, text);
            }
        }
        self.wake();
        ControlFlow::Break(())
    }
}

impl Hand {
    fn serve(&mut self, at_most: Duration) -> Result<ControlFlow<()>, SinkError> {
        let message = self.messages.recv_timeout(at_most);
        let started = Instant::now();
        match message {
            Ok(Message::Rows(epoch, rows, bytes)) => {
                self.deliver.deliver(epoch, &rows)?;
                self.unsettled_bytes += bytes;
                *self.unsettled.entry(rows.table).or_default() += rows.batch.num_rows() as u64;
                self.received_first = [self.received_first, rows.received_first()].into_iter().flatten().min();
            }
            Ok(Message::Close(epoch)) => {
                self.deliver.close(epoch)?;
                self.settle(epoch);
            }
            Ok(Message::Stage(border)) => {
                failpoint::hit("sink.stage.before");
                let files = self.deliver.stage(checkpoint_of(border))?;
                failpoint::hit("sink.stage.after");
                let state = self.deliver.state().map(|state| {
                    let mut blocks = Blocks::default();
                    state.save(Extent::All, &mut blocks);
                    blocks
                });
                // Fails only when the worker has gone.
                let _ = self.staged.send(Staged { border, files, state });
                self.wake();
            }
            Ok(Message::Finish) => {
                self.deliver.finish()?;
                self.settle(Epoch::MAX);
                return Ok(ControlFlow::Break(()));
            }
            Err(RecvTimeoutError::Timeout) => {
                self.deliver.idle()?;
            }
            // The run was given up, and whoever did that has said why.
            Err(RecvTimeoutError::Disconnected) => return Ok(ControlFlow::Break(())),
        }
        self.metrics.stage_busy.with_label_values(&[self.name]).inc_by(started.elapsed().as_secs_f64());
        Ok(ControlFlow::Continue(()))
    }

    fn settle(&mut self, epoch: Epoch) {
        if !self.unsettled.is_empty() {
            let now = unix_seconds();
            let counted = self.deliver.counts_its_rows();
            for (table, rows) in std::mem::take(&mut self.unsettled).into_iter().filter(|_| !counted) {
                self.metrics.sink_records.with_label_values(&[self.name, table.name()]).inc_by(rows);
            }
            self.metrics.sink_last_success.with_label_values(&[self.name]).set(now);
            if let Some(received) = self.received_first.take() {
                // By the broker's clock.
                let took = (now - received as f64 / 1e6).max(0.0);
                self.metrics.ingest_to_sink.with_label_values(&[self.name]).observe(took);
            }
        }
        let bytes = std::mem::take(&mut self.unsettled_bytes);
        self.metrics.sink_inflight_bytes.with_label_values(&[self.name]).sub(bytes);
        self.progress.set(epoch);
        self.wake();
    }

    fn wake(&self) {
        // Fails only when the worker has gone.
        let _ = self.activator.activate();
    }
}

#[cfg(test)]
mod tests {
    //! Proves the outbox. The sink as a whole is proved in `runtime/tests.rs`.
    use super::*;
    use crate::sink::testing;

    const BORDER: Epoch = super::super::clock::BORDER;

    fn outbox() -> (Outbox, Receiver<Message>) {
        let (sender, receiver) = sync_channel(QUEUE_MAX);
        let (_, staged) = channel();
        let outbox = Outbox {
            incomplete: BTreeMap::new(),
            waiting: VecDeque::new(),
            sender: Some(sender),
            closed: 0,
            border: BORDER,
            staged,
            _thread: Thread(None),
        };
        (outbox, receiver)
    }

    fn seen(receiver: &Receiver<Message>) -> String {
        let name = |message| match message {
            Message::Rows(epoch, ..) => format!("rows {epoch}"),
            Message::Close(epoch) => format!("close {epoch}"),
            Message::Stage(border) => format!("stage {border}"),
            Message::Finish => "finish".to_owned(),
        };
        receiver.try_iter().map(name).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn a_closing_is_queued_however_many_rows_wait() {
        let (mut outbox, receiver) = outbox();
        outbox.waiting.extend((0..QUEUE_MAX + 2).map(|_| Message::Rows(7, testing::many(7, 1), 0)));
        outbox.close(7);
        assert!(!outbox.flush(), "the queue is full");
        outbox.close(7);
        assert!(seen(&receiver).ends_with("rows 7"));
        assert!(outbox.flush(), "nothing is left behind that another activation would have to bring");
        assert_eq!(seen(&receiver), "rows 7, rows 7, close 7");
    }

    #[test]
    fn rows_wait_until_their_epoch_is_closed_and_are_staged_apart_at_a_border() {
        let (mut outbox, receiver) = outbox();
        for epoch in [BORDER - 1, BORDER + 1, BORDER - 2] {
            outbox.incomplete.entry(epoch).or_default().push((testing::many(epoch, 1), 0));
        }
        outbox.close(BORDER - 2);
        assert!(outbox.flush());
        assert_eq!(seen(&receiver), "rows 1022, close 1022");
        outbox.close(BORDER);
        outbox.close(BORDER + 1);
        assert!(outbox.flush());
        assert_eq!(seen(&receiver), "rows 1023, close 1023, stage 1024, close 1024, rows 1025, close 1025");
    }

    #[test]
    fn every_border_is_staged_at_even_if_several_are_passed_at_once_and_none_at_the_end() {
        let (mut outbox, receiver) = outbox();
        outbox.close(2 * BORDER);
        outbox.close(Epoch::MAX);
        assert!(outbox.flush());
        assert_eq!(seen(&receiver), "close 1023, stage 1024, close 2047, stage 2048, finish");
    }

    #[test]
    fn closings_that_follow_one_another_are_one() {
        let (mut outbox, receiver) = outbox();
        (1..1_000).for_each(|epoch| outbox.close(epoch));
        assert_eq!(outbox.waiting.len(), 1);
        outbox.close(Epoch::MAX);
        outbox.close(Epoch::MAX);
        assert!(outbox.flush());
        assert_eq!(seen(&receiver), "finish");
    }
}
