//! FHIR R4 `dateTime` and `instant`, strictly (the regular expressions of FHIR R4 §2.24.0.1).
//!
//! A time of day needs seconds and a zone; second 60 is the next second; fractions are kept to the microsecond and cut there.
//! Written by hand because it runs once a message and must accept exactly FHIR's grammar; a test holds it against `jiff`.

use crate::time::EventTime;
use crate::vocabulary::Precision;

/// What a `dateTime` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) at: EventTime,
    pub(super) precision: Precision,
    /// Only the year, or the year and the month, were given; `at` is the first day.
    pub(super) partial: bool,
}

const SECOND: i64 = 1_000_000;

/// Reads a `dateTime`: `2026`, `2026-01`, `2026-01-31`, `2026-01-31T23:59:59.123+01:00`. `None` if it is none.
pub(super) fn date_time(text: &[u8]) -> Option<Moment> {
    let year = number(text.get(..4)?)?;
    if year == 0 {
        return None;
    }
    let (month, rest) = dashed(&text[4..])?;
    let (day, rest) = if month.is_some() { dashed(rest)? } else { (None, rest) };
    let days = days_since_1970(year, month.unwrap_or(1), day.unwrap_or(1))?;
    let midnight = days * 86_400 * SECOND;
    if rest.is_empty() {
        let at = EventTime::from_micros(midnight);
        return Some(Moment { at, precision: Precision::Day, partial: day.is_none() });
    }
    day?;
    let at = EventTime::from_micros(midnight + time_of_day(rest)?);
    Some(Moment { at, precision: Precision::Instant, partial: false })
}

/// Reads an `instant`: a `dateTime` known to the second. `None` if it is none.
pub(super) fn instant(text: &[u8]) -> Option<EventTime> {
    date_time(text).filter(|moment| moment.precision == Precision::Instant).map(|moment| moment.at)
}

/// `-dd` if a dash comes next: the number and what follows. The outer `None` is a grammar error.
fn dashed(text: &[u8]) -> Option<(Option<i64>, &[u8])> {
    match text {
        [b'-', a, b, rest @ ..] => Some((Some(two(*a, *b)?), rest)),
        [b'-', ..] => None,
        rest => Some((None, rest)),
    }
}

/// `Thh:mm:ss[.f…](Z|±hh:mm)` in microseconds from midnight UTC.
fn time_of_day(text: &[u8]) -> Option<i64> {
    let [b'T', h1, h2, b':', m1, m2, b':', s1, s2, rest @ ..] = text else { return None };
    let hour = at_most(two(*h1, *h2)?, 23)?;
    let minute = at_most(two(*m1, *m2)?, 59)?;
    let second = at_most(two(*s1, *s2)?, 60)?;
    let (fraction, rest) = match rest {
        [b'.', rest @ ..] => fraction(rest)?,
        rest => (0, rest),
    };
    let offset = match rest {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let hours = at_most(two(*h1, *h2)?, 14)?;
            let minutes = at_most(two(*m1, *m2)?, if hours == 14 { 0 } else { 59 })?;
            let offset = hours * 3_600 + minutes * 60;
            if *sign == b'+' { offset } else { -offset }
        }
        _ => return None,
    };
    Some((hour * 3_600 + minute * 60 + second - offset) * SECOND + fraction)
}

/// Digits after the point, in microseconds, and what follows them.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(length);
    const TENS: [i64; 7] = [1_000_000, 100_000, 10_000, 1_000, 100, 10, 1];
    let kept = &digits[..length.min(6)];
    let micros = kept.iter().fold(0, |value, &digit| value * 10 + i64::from(digit - b'0')) * TENS[kept.len()];
    (length > 0).then_some((micros, rest))
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |value, &byte| byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0')))
}

fn two(tens: u8, ones: u8) -> Option<i64> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| i64::from(tens * 10 + ones))
}

fn at_most(value: i64, max: i64) -> Option<i64> {
    (value <= max).then_some(value)
}

/// Days from 1970-01-01 to a Gregorian date, `None` if there is no such date.
///
/// The year begins in March, so that the leap day is its last (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`).
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=last).contains(&day) {
        return None;
    }
    let from_march = year - i64::from(month <= 2);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let (era, year_of_era) = (from_march.div_euclid(400), from_march.rem_euclid(400));
    Some(era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn micros(text: &str) -> Option<i64> {
        instant(text.as_bytes()).map(EventTime::micros)
    }

    #[test]
    fn zones_fractions_and_leap_seconds_become_utc() {
        assert_eq!(micros("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(micros("1970-01-01T14:00:00+14:00"), Some(0));
        assert_eq!(micros("1969-12-31T12:00:00-12:00"), Some(0));
        assert_eq!(micros("1970-01-01T00:00:00.1234567891Z"), Some(123_456));
        assert_eq!(micros("1969-12-31T23:59:59.5Z"), Some(-500_000));
        assert_eq!(micros("2016-12-31T23:59:60Z"), micros("2017-01-01T00:00:00Z"));
        assert_eq!(micros("2016-12-31T23:59:60.25Z"), micros("2017-01-01T00:00:00.25Z"));
        assert_eq!(micros("9999-12-31T23:59:59.999999Z"), Some(253_402_300_799_999_999));
    }

    #[test]
    fn dates_without_a_time_are_days_and_say_when_they_are_partial() {
        let day =
            |text: &str| date_time(text.as_bytes()).map(|m| (m.at.micros() / 86_400_000_000, m.precision, m.partial));
        assert_eq!(day("1970-01-02"), Some((1, Precision::Day, false)));
        assert_eq!(day("1970-02"), Some((31, Precision::Day, true)));
        assert_eq!(day("1971"), Some((365, Precision::Day, true)));
        assert_eq!(micros("1970-01-02"), None, "a date is no instant");
    }

    #[test]
    fn what_the_grammar_does_not_allow_is_no_time() {
        for text in [
            "",
            "197",
            "0000",
            "0000-01-01",
            "1970-",
            "1970-1",
            "1970-00",
            "1970-13",
            "1970-01-",
            "1970-01-00",
            "1970-01-32",
            "1970-02-30",
            "1900-02-29",
            "1970-01-01T",
            "1970-01-01T00:00Z",
            "1970-01-01T00:00:00",
            "1970-01-01 00:00:00Z",
            "1970-01-01t00:00:00Z",
            "1970-01-01T00:00:00z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:60:00Z",
            "1970-01-01T00:00:61Z",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00+14:01",
            "1970-01-01T00:00:00+15:00",
            "1970-01-01T00:00:00+0100",
            "1970-01-01T00:00:00+01",
            "1970-01-01T00:00:00Z ",
            " 1970-01-01T00:00:00Z",
            "1970-01T00:00:00Z",
            "1970T00:00:00Z",
            "+1970-01-01",
            "19700101",
            "1970-01-01Z",
            "1970-01-01T00:00:00,5Z",
            "1970-01-01T00:00:00.5",
            "1970-01-01T-1:00:00Z",
        ] {
            assert_eq!(date_time(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        /// Another implementation prints an instant in any zone; reading it gives the instant back.
        #[test]
        fn what_jiff_prints_is_read_back(micros in -62_135_500_000_000_000i64..253_402_200_000_000_000, minutes in -839i32..=839) {
            let offset = jiff::tz::Offset::from_seconds(minutes * 60).unwrap();
            let at = jiff::Timestamp::from_microsecond(micros).unwrap();
            let text = at.display_with_offset(offset).to_string();
            prop_assert_eq!(instant(text.as_bytes()).map(EventTime::micros), Some(micros), "{}", text);
        }

        #[test]
        fn a_date_exists_here_exactly_if_it_exists_there(year in 1i16..=9999, month in 0i8..=13, day in 0i8..=32) {
            let text = format!("{year:04}-{month:02}-{day:02}");
            let theirs = jiff::civil::Date::new(year, month, day).ok()
                .and_then(|date| jiff::tz::Offset::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok()).map(|at| at.as_microsecond());
            prop_assert_eq!(date_time(text.as_bytes()).map(|moment| moment.at.micros()), theirs);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            let _ = date_time(text.as_bytes());
        }
    }
}
