//! What processes say to each other beside the data: process 0's word at the start, then that they live, at last that they leave.
//!
//! ```text
//! process 0 ── Told ──> all     all ── Met ──> process 0 ── Go ──> all      then each to each: Beat, Beat, …, Bye (or Failed, and why)
//! ```
//!
//! Heartbeats have a connection of their own. Timely's data connections are its own and speak when there is data; that the frontier moves says that all
//! processes live, but not which one does not, and not whether it only waits for a sink, which is no reason to end. So a beat says that, too.
//!
//! Invariants:
//!
//! 1. A side connection that ends without a Bye has lost its process: the run fails.
//! 2. Beats are sent by a thread that does nothing else, and never waits for a worker: silence is a process that was stopped, or a network that is gone.
//! 3. Whatever is heard of another process's end, it is asked first whether this one was stopped: then the others went on without it, and what they say is no news.
//!
//! Limits: [`NOTE_BYTES_MAX`] a note; nothing is reserved for what has not come. A write waits [`WRITE_MAX`] at most.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Links, Membership};
use crate::runtime::failure::{Cause, Failure, Reported};
use crate::runtime::recovery::Told;

/// A note is not longer: process 0's word holds the claims that are repeated and the files of all checkpoints that are kept.
pub(super) const NOTE_BYTES_MAX: u32 = 256 << 20;

/// A peer that does not read is given up on by the watchdog; nobody waits for it.
const WRITE_MAX: Duration = Duration::from_secs(1);

/// Between two beats at most.
const BEAT_EVERY_MAX: Duration = Duration::from_millis(500);

/// What a process says when it fails arrives this long after its connections have closed at the latest.
const LAST_WORD_MAX: Duration = Duration::from_millis(100);

/// How often a wait looks whether the run has failed.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What is said on a side connection.
#[derive(Debug, Serialize, Deserialize)]
enum Note {
    /// It lives; a sink of it, or the log, waits for the outside.
    Beat { waits: bool },
    /// What process 0 has decided.
    Told(Box<Told>),
    /// It has come to the meeting point.
    Met,
    /// All have.
    Go,
    /// Its part is done.
    Bye,
    /// It ends because of this, and all end with it.
    Failed { why: String },
}

/// The other processes of the cluster.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    membership: Membership,
    failure: Failure,
    silence: Duration,
    begun: Instant,
    /// When the watchdog looked last, in milliseconds since `begun`.
    looked: AtomicU64,
    sides: Vec<Option<Side>>,
    heard: Mutex<Heard>,
    changed: Condvar,
}

/// The side connection to one process.
struct Side {
    writer: Mutex<TcpStream>,
    /// When it was heard of last, in milliseconds since `begun`.
    beat: AtomicU64,
    waits: AtomicBool,
    left: AtomicBool,
}

/// What has come and was not asked for yet.
#[derive(Default)]
struct Heard {
    told: Option<Told>,
    met: usize,
    go: bool,
}

/// A process that was not heard of for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silent {
    /// Its name.
    pub name: String,
    /// For how long.
    pub silence: Duration,
}

impl Peers {
    /// Takes the side connections of `links` over. `waits` says whether something here waits for the outside. A process that is not heard of for `silence`,
    /// or has gone, is reported to `failure`; the first time, it has as long as it may take to join.
    ///
    /// # Errors
    /// The system refuses a thread or a socket.
    pub fn start(
        links: &mut Links,
        membership: &Membership,
        silence: Duration,
        failure: Failure,
        waits: impl Fn() -> bool + Send + 'static,
    ) -> io::Result<Peers> {
        let grace = membership.join.as_millis() as u64;
        let mut readers = Vec::new();
        let mut sides = Vec::new();
        for stream in std::mem::take(&mut links.side) {
            sides.push(stream.as_ref().map(TcpStream::try_clone).transpose()?.map(|writer| {
                let beat = AtomicU64::new(grace);
                Side { writer: Mutex::new(writer), beat, waits: AtomicBool::new(false), left: AtomicBool::new(false) }
            }));
            readers.push(stream);
        }
        let inner = Inner {
            membership: membership.clone(),
            failure,
            silence,
            begun: Instant::now(),
            looked: AtomicU64::new(0),
            sides,
            heard: Mutex::default(),
            changed: Condvar::new(),
        };
        let peers = Peers(Arc::new(inner));
        for (process, stream) in readers.into_iter().enumerate().filter_map(|(at, stream)| Some((at, stream?))) {
            stream.set_write_timeout(Some(WRITE_MAX))?;
            let reading = peers.clone();
            std::thread::Builder::new()
                .name(format!("peer-{process}"))
                .spawn(move || reading.listen(process, stream))?;
        }
        let beating = peers.clone();
        std::thread::Builder::new().name("heartbeat".into()).spawn(move || beating.beat(waits))?;
        Ok(peers)
    }

    /// Process 0: tells all others what it has decided.
    pub fn tell(&self, told: Told) {
        self.say_to_all(&Note::Told(Box::new(told)));
    }

    /// The others: waits for what process 0 has decided.
    ///
    /// # Errors
    /// The run has failed meanwhile.
    pub fn hear(&self) -> Result<Told, Reported> {
        self.wait(|heard| heard.told.take())
    }

    /// Returns when every process has called it.
    ///
    /// # Errors
    /// The run has failed meanwhile.
    pub fn meet(&self) -> Result<(), Reported> {
        if self.0.membership.process == 0 {
            let others = self.0.membership.processes() - 1;
            self.wait(|heard| (heard.met >= others).then_some(()))?;
            self.say_to_all(&Note::Go);
            return Ok(());
        }
        self.say(0, &Note::Met);
        self.wait(|heard| heard.go.then_some(()))
    }

    /// This process's part is done: it may go, and the others need not be heard of any more.
    pub fn leave(&self) {
        self.say_to_all(&Note::Bye);
        self.others().for_each(|(_, side)| side.left.store(true, Ordering::SeqCst));
    }

    /// This process ends because of what was reported. The others then need not guess who was first.
    pub fn fail(&self, reported: &Reported) {
        self.say_to_all(&Note::Failed { why: reported.text.clone() });
        self.others().for_each(|(_, side)| side.left.store(true, Ordering::SeqCst));
    }

    /// A process has gone, or something is wrong with its connection.
    pub fn lost(&self, process: usize, why: &str) {
        self.ended(process, &format!("has gone: {why}; all processes end and are to be started again"));
    }

    /// Another process has ended, or is about to. If that is because this one had been stopped for long, that is what is said.
    fn ended(&self, process: usize, how: &str) {
        match self.stopped() {
            Some(gap) => self.0.failure.report_as(Cause::Stuck, was_stopped(gap)),
            None => self.0.failure.report(format!("{} of the cluster {how}", self.0.membership.name(process))),
        }
    }

    /// How long this process was stopped, if it was for about as long as the others bear. The watchdog looks many times in that time, and would have.
    pub fn stopped(&self) -> Option<Duration> {
        let gap = self.now().saturating_sub(Duration::from_millis(self.0.looked.load(Ordering::SeqCst)));
        // They count from the last beat, which may have been one earlier.
        (gap + beat_every(self.0.silence) > self.0.silence).then_some(gap)
    }

    /// The watchdog has looked.
    pub fn looked(&self) {
        self.0.looked.store(self.now().as_millis() as u64, Ordering::SeqCst);
    }

    /// Processes that were not heard of for longer than they may be silent.
    pub fn silent(&self) -> impl Iterator<Item = Silent> {
        let now = self.now();
        self.others().filter(|(_, side)| !side.left.load(Ordering::SeqCst)).filter_map(move |(process, side)| {
            let silence = now.saturating_sub(Duration::from_millis(side.beat.load(Ordering::SeqCst)));
            (silence > self.0.silence).then(|| Silent { name: self.0.membership.name(process), silence })
        })
    }

    /// True if another process says that a sink, or the log, waits for the outside.
    pub fn wait_for_the_outside(&self) -> bool {
        self.others().any(|(_, side)| side.waits.load(Ordering::SeqCst))
    }

    /// The same of a data connection: on the side there may be a word of the reason.
    pub(super) fn lost_data(&self, process: usize, why: &str) {
        if self.stopped().is_none() {
            std::thread::sleep(LAST_WORD_MAX);
        }
        self.lost(process, why);
    }

    fn now(&self) -> Duration {
        self.0.begun.elapsed()
    }

    fn others(&self) -> impl Iterator<Item = (usize, &Side)> {
        self.0.sides.iter().enumerate().filter_map(|(process, side)| Some((process, side.as_ref()?)))
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<T>(&self, mut ready: impl FnMut(&mut Heard) -> Option<T>) -> Result<T, Reported> {
        let mut heard = self.heard();
        loop {
            if let Some(reported) = self.0.failure.reported() {
                return Err(reported);
            }
            if let Some(found) = ready(&mut heard) {
                return Ok(found);
            }
            let waited = self.0.changed.wait_timeout(heard, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner);
            heard = waited.0;
        }
    }

    fn say_to_all(&self, note: &Note) {
        self.others().for_each(|(process, _)| self.say(process, note));
    }

    /// What cannot be written is found out by whoever reads.
    fn say(&self, process: usize, note: &Note) {
        let Some(side) = self.0.sides.get(process).and_then(Option::as_ref) else { return };
        let bytes = postcard::to_allocvec(note).expect("notes hold nothing that cannot be written");
        let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= NOTE_BYTES_MAX);
        let Some(length) = length else {
            return self.0.failure.report(
                "what the log has to repeat is too much to be told to the other processes; start once with one process"
                    .into(),
            );
        };
        let mut writer = side.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let written = writer.write_all(&[&length.to_be_bytes()[..], &bytes].concat());
        if let Err(error) = written {
            tracing::debug!(target: "runtime", process, "could not write to another process: {error}");
        }
    }

    fn listen(&self, process: usize, mut stream: TcpStream) {
        let Some(side) = &self.0.sides[process] else { return };
        loop {
            let note = match read_note(&mut stream) {
                Ok(note) => note,
                Err(_) if side.left.load(Ordering::SeqCst) => return,
                Err(error) => return self.lost(process, &error.to_string()),
            };
            // Also back from the time that it had for its join.
            side.beat.store(self.now().as_millis() as u64, Ordering::SeqCst);
            match note {
                Note::Beat { waits } => side.waits.store(waits, Ordering::SeqCst),
                Note::Told(told) => self.heard().told = Some(*told),
                Note::Met => self.heard().met += 1,
                Note::Go => self.heard().go = true,
                Note::Failed { why } => {
                    self.ended(process, &format!("has ended: {why}"));
                    return side.left.store(true, Ordering::SeqCst);
                }
                Note::Bye => {
                    side.waits.store(false, Ordering::SeqCst);
                    return side.left.store(true, Ordering::SeqCst);
                }
            }
            self.0.changed.notify_all();
        }
    }

    fn beat(&self, waits: impl Fn() -> bool) {
        let every = beat_every(self.0.silence);
        while self.others().any(|(_, side)| !side.left.load(Ordering::SeqCst)) {
            let note = Note::Beat { waits: waits() };
            for (process, _) in self.others().filter(|(_, side)| !side.left.load(Ordering::SeqCst)) {
                self.say(process, &note);
            }
            std::thread::sleep(every);
        }
    }
}

/// Ten beats at least in the time that a process may be silent.
fn beat_every(silence: Duration) -> Duration {
    (silence / 10).min(BEAT_EVERY_MAX)
}

/// What a process says that was stopped for longer than the others bear.
pub(in crate::runtime) fn was_stopped(gap: Duration) -> String {
    format!(
        "this process was stopped for {:.1} s, and the cluster has gone on without it; it is to be started again",
        gap.as_secs_f64()
    )
}

fn read_note(from: &mut impl Read) -> io::Result<Note> {
    let mut length = [0; 4];
    let closed = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::other("it closed the connection"),
        _ => error,
    };
    from.read_exact(&mut length).map_err(closed)?;
    let length = u32::from_be_bytes(length);
    if length > NOTE_BYTES_MAX {
        return Err(io::Error::other(format!("it announced a note of {length} bytes")));
    }
    let mut bytes = Vec::new();
    from.take(u64::from(length)).read_to_end(&mut bytes)?;
    if bytes.len() < length as usize {
        return Err(io::Error::other("it closed the connection"));
    }
    postcard::from_bytes(&bytes).map_err(|_| io::Error::other("it said something that no windkessel says"))
}

#[cfg(test)]
mod tests {
    //! Proves that whatever comes on a side connection is a note or an error, and that nothing is reserved for what was only announced.
    use super::*;

    #[test]
    fn a_note_that_breaks_off_or_is_announced_too_long_is_an_error() {
        let bytes = postcard::to_allocvec(&Note::Beat { waits: true }).unwrap();
        let framed = [&(bytes.len() as u32).to_be_bytes()[..], &bytes].concat();
        assert!(matches!(read_note(&mut &framed[..]), Ok(Note::Beat { waits: true })));
        for cut in 0..framed.len() {
            let error = read_note(&mut &framed[..cut]).unwrap_err().to_string();
            assert_eq!(error, "it closed the connection");
        }
        let announced = (NOTE_BYTES_MAX + 1).to_be_bytes();
        assert!(read_note(&mut &announced[..]).unwrap_err().to_string().contains("announced"));
        let wrong = [&4_u32.to_be_bytes()[..], &[0xff; 4]].concat();
        assert!(read_note(&mut &wrong[..]).unwrap_err().to_string().contains("no windkessel"));
    }
}
