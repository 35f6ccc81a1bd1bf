//! Numbers and times as people read them. A figure keeps the digits that mean something; its exact value goes along in the page's `<data>`.

use jiff::Timestamp;
use maud::{Markup, html};

pub(super) use crate::runtime::summary::grouped as count;
use crate::time::EventTime;
use crate::vocabulary::findings::Span;

/// What stands where there is no number.
pub(super) const NOTHING: &str = "–";

/// With so many decimals, a true minus sign, and commas in thousands; never `−0`.
pub(super) fn decimals(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let whole = whole.parse().map_or_else(|_| whole.to_owned(), count);
    let zero = text.bytes().all(|byte| matches!(byte, b'0' | b'.'));
    let minus = if value < 0.0 && !zero { "−" } else { "" };
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{minus}{whole}{point}{fraction}")
}

/// The same with a plus sign.
pub(super) fn signed(value: f64, digits: usize) -> String {
    let text = decimals(value, digits);
    let zero = text.bytes().all(|byte| matches!(byte, b'0' | b'.' | b','));
    if text.starts_with('−') || zero { text } else { format!("+{text}") }
}

/// How many decimals show a value of this size with three or four digits.
pub(super) fn decimals_of(size: f64) -> usize {
    match size.abs() {
        size if size >= 1_000.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    }
}

/// A statistic without unit, three decimals; what would round to nothing is said to be small.
pub(super) fn statistic(value: f64) -> String {
    match value {
        value if value != 0.0 && value.abs() < 0.0005 => "< 0.001".to_owned(),
        value if value.abs() >= 1_000.0 => decimals(value, 0),
        value if value.abs() >= 10.0 => decimals(value, 1),
        value => decimals(value, 3),
    }
}

/// A rate as a percentage; small ones with another digit.
pub(super) fn percent(rate: f64) -> String {
    let percent = rate * 100.0;
    match percent.abs() {
        size if size != 0.0 && size < 0.005 => "< 0.01 %".to_owned(),
        size if size < 1.0 && size != 0.0 => format!("{} %", decimals(percent, 2)),
        _ => format!("{} %", decimals(percent, 1)),
    }
}

/// A difference of two rates, in percentage points.
pub(super) fn points(difference: f64) -> String {
    let places = if difference.abs() < 0.01 { 2 } else { 1 };
    format!("{} points", signed(difference * 100.0, places))
}

/// A quantity with its unit; `1` and nothing are no units.
pub(super) fn with_unit(text: &str, unit: &str) -> String {
    if matches!(unit, "" | "1") { text.to_owned() } else { format!("{text} {unit}") }
}

/// A name of a column as words.
pub(super) fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// The same as a heading.
pub(super) fn heading(name: &str) -> String {
    let words = words(name);
    let mut letters = words.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// `sex=female` as `sex: female`.
pub(super) fn group(name: &str) -> String {
    words(&name.replacen('=', ": ", 1))
}

/// A number with its exact value.
pub(super) fn data(value: Option<f64>, text: impl Fn(f64) -> String) -> Markup {
    match value {
        // `Debug` writes the shortest text that reads back as the same number, with an exponent where there would be many zeros.
        Some(value) => html! { data value=(format!("{value:?}")) { (text(value)) } },
        None => html! { span.none title="not known" { (NOTHING) } },
    }
}

/// A count with its exact value.
pub(super) fn data_count(value: Option<u64>) -> Markup {
    match value {
        Some(value) => html! { data value=(value) { (count(value)) } },
        None => html! { span.none title="not counted" { (NOTHING) } },
    }
}

fn stamp(at: EventTime) -> Option<Timestamp> {
    Timestamp::from_microsecond(at.micros()).ok()
}

/// `2026-01-02 06:00`, UTC.
pub(super) fn instant(at: EventTime) -> String {
    stamp(at).map_or_else(|| "unknown".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M").to_string())
}

/// `2026-01-02 00:00–06:00`, or both days where they differ. UTC.
pub(super) fn span((start, end): Span) -> String {
    let (Some(from), Some(to)) = (stamp(start), stamp(end)) else { return "unknown".to_owned() };
    let same = from.strftime("%F").to_string() == to.strftime("%F").to_string();
    let to = to.strftime(if same { "%H:%M" } else { "%Y-%m-%d %H:%M" });
    format!("{}{}{to}", instant(start), if same { "–" } else { " – " })
}

/// The length of a span: `6 h`, `30 d`, `45 min`.
pub(super) fn length((start, end): Span) -> String {
    let minutes = (end - start).micros() / 60_000_000;
    match minutes {
        minutes if minutes > 0 && minutes % 1_440 == 0 => format!("{} d", count((minutes / 1_440).unsigned_abs())),
        minutes if minutes > 0 && minutes % 60 == 0 => format!("{} h", count((minutes / 60).unsigned_abs())),
        minutes => format!("{minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::EventSpan;

    #[test]
    fn figures_keep_the_digits_that_mean_something() {
        assert_eq!([0, 999, 1_000, 12_345_678].map(count), ["0", "999", "1,000", "12,345,678"]);
        assert_eq!([8.24, -8.25, 0.0, -0.04].map(|value| signed(value, 1)), ["+8.2", "−8.2", "0.0", "0.0"]);
        assert_eq!(
            [0.283_12, 0.000_4, 0.0, 1_234.5, 0.000_5].map(statistic),
            ["0.283", "< 0.001", "0.000", "1,234", "0.001"]
        );
        assert_eq!(
            [0.241, 0.0, 0.004_2, 0.000_04, 1.0].map(percent),
            ["24.1 %", "0.0 %", "0.42 %", "< 0.01 %", "100.0 %"]
        );
        assert_eq!([0.077, -0.004].map(points), ["+7.7 points", "−0.40 points"]);
        assert_eq!([128.0, 0.5, 37.0, -1_500.0, 4.2].map(decimals_of), [1, 3, 1, 0, 2]);
        assert_eq!((with_unit("8.2", "mmHg"), with_unit("8.2", "1")), ("8.2 mmHg".into(), "8.2".into()));
        assert_eq!((heading("mean_arterial"), group("age=65-79")), ("Mean arterial".into(), "age: 65-79".into()));
    }

    #[test]
    fn times_are_utc_and_a_day_is_said_once() {
        let at = |hours: i64| EventTime::from_micros(1_767_225_600_000_000) + EventSpan::from_seconds(3_600 * hours);
        assert_eq!(span((at(0), at(6))), "2026-01-01 00:00–06:00");
        assert_eq!(span((at(18), at(24))), "2026-01-01 18:00 – 2026-01-02 00:00");
        assert_eq!(span((EventTime::MIN, at(0))), "unknown");
        assert_eq!([(at(0), at(6)), (at(0), at(48))].map(length), ["6 h", "2 d"]);
        assert_eq!(length((at(0), at(0) + EventSpan::from_seconds(2_700))), "45 min");
    }
}
