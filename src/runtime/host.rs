//! What the runtime has beside its workers: threads that do one thing after another, and the time.
//!
//! Both are asked for here, so that a simulation can take them into its hands: under a [`simulated`] host a [`Hand`] is no thread but works when it is
//! told to, time goes by in steps, and nobody sleeps. Otherwise this is the system's.

use std::io;
use std::num::NonZero;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Something that does one thing after another, on a thread of its own.
pub(super) trait Hand: Send + 'static {
    /// Does the next thing, for which it waits at most so long, or as long as it likes; `Break` when there will be no more.
    fn turn(&mut self, at_most: Option<Duration>) -> ControlFlow<()>;
}

/// Starts the thread of a hand; `None` under a simulated host, which has none.
///
/// # Errors
/// The system refuses a thread.
pub(super) fn start(name: String, mut hand: impl Hand) -> io::Result<Option<JoinHandle<()>>> {
    #[cfg(test)]
    if let Some(host) = simulated::host() {
        host.take(name, Box::new(hand));
        return Ok(None);
    }
    std::thread::Builder::new().name(name).spawn(move || while hand.turn(None).is_continue() {}).map(Some)
}

/// A queue on which whoever sends waits while `max` messages are in it.
pub(super) fn queue<T>(max: usize) -> (SyncSender<T>, Receiver<T>) {
    #[cfg(test)]
    if simulated::host().is_some() {
        // Nobody may wait for somebody whose turn it is not.
        return sync_channel(max * simulated::ROOM);
    }
    sync_channel(max)
}

/// Starts the thread of a hand that takes one message after another from a queue of `max`, until it breaks or nobody is left who could send.
///
/// # Errors
/// The system refuses a thread.
pub(super) fn take<T: Send + 'static>(
    name: &str,
    max: usize,
    work: impl FnMut(T) -> ControlFlow<()> + Send + 'static,
) -> io::Result<SyncSender<T>> {
    let (sender, from) = queue(max);
    start(name.to_owned(), Taking { from, work })?;
    Ok(sender)
}

struct Taking<T, F> {
    from: Receiver<T>,
    work: F,
}

impl<T: Send + 'static, F: FnMut(T) -> ControlFlow<()> + Send + 'static> Hand for Taking<T, F> {
    fn turn(&mut self, at_most: Option<Duration>) -> ControlFlow<()> {
        match receive(&self.from, at_most) {
            Ok(message) => (self.work)(message),
            Err(RecvTimeoutError::Timeout) => ControlFlow::Continue(()),
            Err(RecvTimeoutError::Disconnected) => ControlFlow::Break(()),
        }
    }
}

/// The next message of a queue.
pub(super) fn receive<T>(from: &Receiver<T>, at_most: Option<Duration>) -> Result<T, RecvTimeoutError> {
    match at_most {
        None => from.recv().map_err(|_| RecvTimeoutError::Disconnected),
        Some(at_most) => from.recv_timeout(at_most),
    }
}

/// What comes of each of `items`, in their order; they are begun in this order, on as many threads as there are cores for. This one has the first.
pub(super) fn side_by_side<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    #[cfg(test)]
    if simulated::host().is_some() {
        return items.into_iter().map(work).collect();
    }
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(items.len());
    let queue = Mutex::new(items.into_iter().enumerate());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let turn = |first| {
        let mine = std::iter::successors(first, |_| None).chain(std::iter::from_fn(next));
        mine.map(|(place, item)| (place, work(item))).collect::<Vec<_>>()
    };
    let mut results: Vec<(usize, R)> = std::thread::scope(|scope| {
        let first = next();
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| turn(None))).collect();
        let of_this = turn(first);
        let of_others = others.into_iter().flat_map(|thread| thread.join().expect("what it does does not panic"));
        of_this.into_iter().chain(of_others).collect()
    });
    results.sort_unstable_by_key(|(place, _)| *place);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Now.
pub(super) fn now() -> Instant {
    #[cfg(test)]
    if let Some(host) = simulated::host() {
        return host.now();
    }
    Instant::now()
}

/// How long ago that was.
pub(super) fn since(instant: Instant) -> Duration {
    now().saturating_duration_since(instant)
}

/// Waits.
pub(super) fn sleep(duration: Duration) {
    #[cfg(test)]
    if simulated::host().is_some() {
        return;
    }
    std::thread::sleep(duration);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_side_by_side_comes_back_in_order_and_the_first_is_done_here() {
        let here = std::thread::current().id();
        for count in [0, 1, 2, 100] {
            let done = side_by_side((0..count).collect(), |item| (item, std::thread::current().id()));
            assert!(done.iter().map(|(item, _)| *item).eq(0..count));
            assert!(done.first().is_none_or(|(_, thread)| *thread == here));
        }
    }
}

#[cfg(test)]
pub(super) mod simulated {
    //! A host whose hands and time somebody else moves. Each thread enters it for itself.
    use std::cell::RefCell;
    use std::sync::Arc;

    use super::*;

    /// How many times longer queues are: for all that is sent between two turns of whoever receives it.
    pub(super) const ROOM: usize = 8;

    /// Time, shared by all hosts of a simulation.
    #[derive(Clone)]
    pub(in crate::runtime) struct Time(Arc<Mutex<Instant>>);

    impl Time {
        pub(in crate::runtime) fn new() -> Self {
            Time(Arc::new(Mutex::new(Instant::now())))
        }

        pub(in crate::runtime) fn pass(&self, duration: Duration) {
            *self.0.lock().unwrap() += duration;
        }
    }

    /// Hands by name; one that has come to its end leaves an empty place.
    type Hands = Vec<(String, Option<Box<dyn Hand>>)>;

    /// One process's.
    pub(in crate::runtime) struct Host {
        time: Time,
        hands: Mutex<Hands>,
    }

    thread_local! {
        static HOST: RefCell<Option<Arc<Host>>> = const { RefCell::new(None) };
    }

    pub(super) fn host() -> Option<Arc<Host>> {
        HOST.with_borrow(Clone::clone)
    }

    /// Everything that this thread does from now on is of this host; of the system's with `None`.
    pub(in crate::runtime) fn enter(host: Option<Arc<Host>>) {
        HOST.set(host);
    }

    impl Host {
        pub(in crate::runtime) fn new(time: Time) -> Arc<Self> {
            Arc::new(Host { time, hands: Mutex::default() })
        }

        pub(super) fn now(&self) -> Instant {
            *self.time.0.lock().unwrap()
        }

        pub(super) fn take(&self, name: String, hand: Box<dyn Hand>) {
            self.hands.lock().unwrap().push((name, Some(hand)));
        }

        pub(in crate::runtime) fn hands(&self) -> usize {
            self.hands.lock().unwrap().len()
        }

        /// Gives a hand its turn; its name if it is still there.
        pub(in crate::runtime) fn turn(self: &Arc<Self>, number: usize) -> Option<String> {
            let mut hand = self.hands.lock().unwrap()[number].1.take()?;
            let outer = host();
            enter(Some(Arc::clone(self)));
            let flow = hand.turn(Some(Duration::ZERO));
            enter(outer);
            let place = &mut self.hands.lock().unwrap()[number];
            place.1 = flow.is_continue().then_some(hand);
            Some(place.0.clone())
        }

        /// The process ends: what hands had in them is gone.
        pub(in crate::runtime) fn drop_hands(&self) {
            let hands = std::mem::take(&mut *self.hands.lock().unwrap());
            drop(hands);
        }
    }
}
