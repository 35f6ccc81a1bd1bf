//! Named places at which a test ends or delays the process, and guards that a test takes away: aids of the crash loop, see `docs/hacking.md`.
//!
//! ```text
//! WINDKESSEL_FAILPOINT=log.seal.after              dies there, as by kill -9
//! WINDKESSEL_FAILPOINT=sink.name.before:3          the third time
//! WINDKESSEL_FAILPOINT=log.claims.before:1:delay=50,sink.list.after:2:exit
//! WINDKESSEL_BREAK=no-fence                        without one guard; in debug builds alone
//! ```
//!
//! Both variables are read once. Where they are not set, a place costs one relaxed load. What is written in them and cannot be meant ends the
//! process at once: a test that killed nobody would look like one that passed.

use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

/// Every place, in the order in which a run comes by.
pub const PLACES: [&str; 22] = [
    "log.seal.before",
    "log.seal.after",
    "restore.after",
    "replay.epoch.after",
    "log.claims.before",
    "log.claims.after",
    "elasticsearch.bulk.before",
    "elasticsearch.bulk.after",
    "kafka.commit.before",
    "kafka.commit.after",
    "sink.stage.before",
    "sink.stage.after",
    "state.create.before",
    "state.create.after",
    "log.checkpoint.before",
    "log.checkpoint.after",
    "log.prune.before",
    "log.prune.after",
    "sink.name.before",
    "sink.name.after",
    "sink.list.before",
    "sink.list.after",
];

const UNREAD: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(UNREAD);
static POINTS: OnceLock<Vec<Point>> = OnceLock::new();

/// Something happens here, if the environment says so.
pub fn hit(place: &'static str) {
    debug_assert!(PLACES.contains(&place), "{place} is not listed");
    if STATE.load(Ordering::Relaxed) != OFF {
        act(place);
    }
}

#[cold]
fn act(place: &str) {
    let points =
        POINTS.get_or_init(|| meant("WINDKESSEL_FAILPOINT", |text| text.split(',').map(Point::from_str).collect()));
    STATE.store(if points.is_empty() { OFF } else { ON }, Ordering::Relaxed);
    for point in points.iter().filter(|point| point.place == place) {
        let hits = point.hits.fetch_add(1, Ordering::Relaxed) + 1;
        match point.action {
            Action::Exit if hits == point.nth => std::process::abort(),
            Action::Delay(pause) if hits >= point.nth => std::thread::sleep(pause),
            Action::Exit | Action::Delay(_) => {}
        }
    }
}

/// What a variable says; the default where it is not set.
fn meant<T: Default>(variable: &str, read: impl Fn(&str) -> Result<T, String>) -> T {
    let Some(text) = std::env::var_os(variable) else { return T::default() };
    read(&text.to_string_lossy()).unwrap_or_else(|why| {
        tracing::error!(target: "runtime", "could not read {variable}: {why}");
        std::process::abort()
    })
}

#[derive(Debug)]
struct Point {
    place: &'static str,
    /// From 1.
    nth: u32,
    action: Action,
    hits: AtomicU32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// The process dies at the nth time.
    Exit,
    /// A pause, from the nth time on.
    Delay(Duration),
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let place = PLACES.into_iter().find(|place| *place == name).ok_or_else(|| format!("{name:?} is no place"))?;
        let nth = parts.next().map_or(Ok(1), str::parse).map_err(|error| format!("{text:?}: {error}"))?;
        let action = match parts.next() {
            None | Some("exit") => Action::Exit,
            Some(action) => {
                let millis = action.strip_prefix("delay=").and_then(|millis| millis.parse().ok());
                Action::Delay(Duration::from_millis(
                    millis.ok_or_else(|| format!("{action:?} is not exit or delay=<ms>"))?,
                ))
            }
        };
        Ok(Point { place, nth, action, hits: AtomicU32::new(0) })
    }
}

/// What keeps a promise, and can be taken away to see that the crash loop notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Claims and checkpoints are written down.
    Log,
    /// Sinks are given claimed epochs alone.
    ClaimWait,
    /// Claimed epochs are repeated as they were.
    Replay,
    /// A machine sees its input sorted.
    Sort,
    /// A file has no name before its checkpoint is recorded.
    LatePublish,
    /// Whoever loses an append ends.
    Fence,
}

impl Guard {
    const ALL: [(&'static str, Guard); 6] = [
        ("no-log", Guard::Log),
        ("no-claim-wait", Guard::ClaimWait),
        ("no-replay", Guard::Replay),
        ("no-sort", Guard::Sort),
        ("early-publish", Guard::LatePublish),
        ("no-fence", Guard::Fence),
    ];

    /// True, unless a debug build was told otherwise.
    pub fn holds(self) -> bool {
        !cfg!(debug_assertions) || removed() != Some(self)
    }
}

fn removed() -> Option<Guard> {
    static REMOVED: OnceLock<Option<Guard>> = OnceLock::new();
    let guard = |text: &str| {
        let named = Guard::ALL.into_iter().find(|(name, _)| *name == text);
        named.map(|(_, guard)| Some(guard)).ok_or_else(|| format!("{text:?} is no guard"))
    };
    *REMOVED.get_or_init(|| meant("WINDKESSEL_BREAK", guard))
}

#[cfg(test)]
mod tests {
    //! Proves how the variables are read. What the places are for is proved by `tests/it/crash.rs`, which dies at each of them.
    use super::*;

    fn point(text: &str) -> Result<(&'static str, u32, Action), String> {
        text.parse::<Point>().map(|point| (point.place, point.nth, point.action))
    }

    #[test]
    fn a_point_is_a_place_a_number_and_an_action() {
        assert_eq!(point("log.seal.after"), Ok(("log.seal.after", 1, Action::Exit)));
        assert_eq!(point("sink.name.before:3:exit"), Ok(("sink.name.before", 3, Action::Exit)));
        let pause = Action::Delay(Duration::from_millis(50));
        assert_eq!(point("log.claims.before:2:delay=50"), Ok(("log.claims.before", 2, pause)));
        for wrong in ["", "nowhere", "log.seal.after:x", "log.seal.after:1:delay", "log.seal.after:1:explode"] {
            assert!(point(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn all_guards_hold_unless_one_is_taken_away() {
        assert!(Guard::ALL.iter().all(|(_, guard)| guard.holds()));
    }
}
