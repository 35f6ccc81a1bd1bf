//! Time, in types that cannot be mixed up.
//!
//! Three clocks run through Windkessel and none converts into another:
//!
//! * [`EventTime`]: when something was measured. Data. Microseconds since 1970-01-01T00:00:00Z, leap seconds ignored.
//! * [`IngestTime`]: when the broker took the record in. Data as well (a replay reads the same value), same unit.
//! * [`Epoch`]: the timely timestamp, a slice of ingestion. The only one that timely ever sees.
//!
//! Invariants: intervals are half open, `[start, end)`; nothing here reads a wall clock.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The timely timestamp: a slice of ingestion, counted upwards. A new job starts at Unix milliseconds.
pub type Epoch = u64;

/// When something was measured: microseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventTime(i64);

impl EventTime {
    /// Before every reading: the watermark of a partition that has delivered nothing yet.
    pub const MIN: EventTime = EventTime(i64::MIN);
    /// After every reading: the watermark of a partition that has ended.
    pub const MAX: EventTime = EventTime(i64::MAX);

    /// From microseconds since the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        EventTime(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// The start of the window of length `width` that this time lies in, windows being aligned to the Unix epoch.
    ///
    /// `width` must be positive. Correct before 1970 as well (it rounds towards the past).
    pub fn floor_to(self, width: EventSpan) -> EventTime {
        debug_assert!(width.0 > 0, "a window has a positive width");
        EventTime(self.0.saturating_sub(self.0.rem_euclid(width.0)))
    }
}

impl Add<EventSpan> for EventTime {
    type Output = EventTime;
    /// Saturates: [`EventTime::MAX`] plus anything stays the end of time.
    fn add(self, span: EventSpan) -> EventTime {
        EventTime(self.0.saturating_add(span.0))
    }
}

impl Sub<EventSpan> for EventTime {
    type Output = EventTime;
    /// Saturates at [`EventTime::MIN`]; an unbounded span subtracted from anything gives [`EventTime::MIN`].
    fn sub(self, span: EventSpan) -> EventTime {
        if span == EventSpan::UNBOUNDED {
            return if self == EventTime::MAX { self } else { EventTime::MIN };
        }
        EventTime(self.0.saturating_sub(span.0))
    }
}

impl Sub<EventTime> for EventTime {
    type Output = EventSpan;
    fn sub(self, earlier: EventTime) -> EventSpan {
        EventSpan(self.0.saturating_sub(earlier.0))
    }
}

/// A length of event time in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventSpan(i64);

impl EventSpan {
    /// No length at all.
    pub const ZERO: EventSpan = EventSpan(0);
    /// Longer than any input: written `unbounded` in a flow file.
    pub const UNBOUNDED: EventSpan = EventSpan(i64::MAX);

    /// From microseconds.
    pub const fn from_micros(micros: i64) -> Self {
        EventSpan(micros)
    }

    /// From whole seconds.
    pub const fn from_seconds(seconds: i64) -> Self {
        EventSpan(seconds * 1_000_000)
    }

    /// Microseconds.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Seconds, with fraction.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl Add for EventSpan {
    type Output = EventSpan;
    /// Saturates: unbounded plus anything stays unbounded.
    fn add(self, other: EventSpan) -> EventSpan {
        EventSpan(self.0.saturating_add(other.0))
    }
}

/// Units a span may be written in, and their microseconds; longest first, so that printing picks the largest that divides.
const UNITS: [(&str, i64); 6] =
    [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

impl FromStr for EventSpan {
    type Err = String;

    /// Reads `10m`, `24h`, `30d`, `250ms` or `unbounded`. Whole, non-negative numbers with one unit only.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unbounded" {
            return Ok(EventSpan::UNBOUNDED);
        }
        let hint = || {
            format!(
                "{text:?} is not a length of time; write a whole number and a unit, such as 250ms, 10m, 24h, 30d, or unbounded"
            )
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: i64 = number.parse().map_err(|_| hint())?;
        let micros = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(hint)?.1;
        number.checked_mul(micros).map(EventSpan).ok_or_else(hint)
    }
}

impl TryFrom<String> for EventSpan {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<EventSpan> for String {
    fn from(span: EventSpan) -> String {
        span.to_string()
    }
}

impl fmt::Display for EventSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == EventSpan::UNBOUNDED {
            return f.write_str("unbounded");
        }
        let (name, micros) =
            UNITS.iter().find(|(_, micros)| self.0 % micros == 0 && self.0 != 0).unwrap_or(&("s", 1_000_000));
        write!(f, "{}{name}", self.0 / micros)
    }
}

/// When the broker took a record in: microseconds since the Unix epoch, UTC. Absent for files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IngestTime(i64);

impl IngestTime {
    /// From the milliseconds that Kafka keeps.
    pub const fn from_millis(millis: i64) -> Self {
        IngestTime(millis.saturating_mul(1_000))
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// True if `at` was measured more than `tolerance` after the broker saw the record: the device's clock runs ahead.
    /// The only place where the two clocks meet.
    pub fn precedes(self, at: EventTime, tolerance: EventSpan) -> bool {
        at.micros().saturating_sub(self.0) > tolerance.micros()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_aligned_before_1970_as_well() {
        let minute = EventSpan::from_seconds(60);
        assert_eq!(EventTime::from_micros(-1).floor_to(minute), EventTime::from_micros(-60_000_000));
        assert_eq!(EventTime::from_micros(59_999_999).floor_to(minute), EventTime::from_micros(0));
        assert_eq!(EventTime::from_micros(60_000_000).floor_to(minute), EventTime::from_micros(60_000_000));
    }

    #[test]
    fn spans_print_as_they_are_written() {
        for text in ["10m", "24h", "30d", "250ms", "7us", "unbounded", "0s"] {
            let span: EventSpan = text.parse().unwrap();
            let again: EventSpan = span.to_string().parse().unwrap();
            assert_eq!(span, again, "{text}");
        }
        assert_eq!("1h".parse::<EventSpan>().unwrap().to_string(), "1h");
        assert_eq!("24h".parse::<EventSpan>().unwrap().to_string(), "1d");
        for text in ["", "10", "m", "-5m", "1.5h", "10 m", "1y", "99999999999999d"] {
            assert!(text.parse::<EventSpan>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_unbounded_disorder_makes_nothing_late() {
        assert_eq!(EventTime::from_micros(7) - EventSpan::UNBOUNDED, EventTime::MIN);
        assert_eq!(EventTime::MAX - EventSpan::UNBOUNDED, EventTime::MAX);
    }
}
