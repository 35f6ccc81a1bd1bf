//! A statistic over windows, with the thresholds that it is judged by.

use std::fmt::Write;

use maud::{Markup, html};

use super::{Field, Size, drawing, label, line, tick_text, ticks};
use crate::report::numbers;
use crate::report::thresholds::Thresholds;
use crate::time::EventTime;
use crate::vocabulary::findings::Verdict;

/// Points that a line is drawn with at most; of more, each stretch keeps its highest (or lowest, where low is what matters), so that no excursion is lost.
pub const POINTS_MAX: usize = 240;

/// The same for a line in a table's cell, which is as many pixels wide.
const POINTS_SMALL_MAX: usize = 96;

/// A window's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The end of the window.
    pub at: EventTime,
    /// The value; `None` interrupts the line.
    pub value: Option<f64>,
    /// What it amounts to.
    pub verdict: Verdict,
}

/// One line of a drawing.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// Its CSS class: `current`, `strongest`, `estimated`.
    pub class: &'a str,
    /// Ascending by time.
    pub points: &'a [Point],
}

/// With axes, the vertical one from `base` unless a value is lower: 0 for a distance, so that sizes are seen as they are. `None` unless there are two
/// values to connect.
pub fn large(title: &str, lines: &[Line<'_>], base: f64, thresholds: Thresholds) -> Option<Markup> {
    let size = Size { width: 460.0, height: 230.0 };
    let lines = thinned(lines, POINTS_MAX, thresholds.below);
    let field = field(&lines, (base, thresholds), size, (40.0, 6.0, 34.0))?;
    let y_ticks = ticks(field.y, 4);
    let content = html! {
        @for at in &y_ticks {
            (line("grid", (field.left, field.y(*at)), (field.right, field.y(*at))))
            (label(field.left - 6.0, field.y(*at) + 3.5, "end", "tick", &tick_text(*at, &y_ticks)))
        }
        (limit(&field, "watch", thresholds.watch))
        (limit(&field, "act", thresholds.act))
        @for (class, points) in &lines { (drawn(&field, class, points, true)) }
        (line("axis", (field.left, field.bottom), (field.right, field.bottom)))
        (label(field.left, field.bottom + 14.0, "start", "tick", &numbers::instant(EventTime::from_micros(field.x.0 as i64))))
        (label(field.right, field.bottom + 14.0, "end", "tick", &numbers::instant(EventTime::from_micros(field.x.1 as i64))))
        (label(field.right, field.bottom + 29.0, "end", "tick", "end of window, UTC"))
    };
    Some(drawing(size, "history", title, &description(&lines), content))
}

/// A line in a table's cell.
pub fn small(title: &str, points: &[Point], thresholds: Thresholds) -> Option<Markup> {
    let size = Size { width: 96.0, height: 22.0 };
    let lines = thinned(&[Line { class: "current", points }], POINTS_SMALL_MAX, thresholds.below);
    let field = field(&lines, (0.0, thresholds), size, (1.0, 2.0, 2.0))?;
    let content = html! {
        @for (class, limit) in [("watch", thresholds.watch), ("act", thresholds.act)] {
            @if let Some(limit) = limit {
                (line(&format!("limit {class}"), (field.left, field.y(limit)), (field.right, field.y(limit))))
            }
        }
        @for (class, points) in &lines { (drawn(&field, class, points, false)) }
    };
    Some(drawing(size, "spark", title, &description(&lines), content))
}

fn thinned<'a>(lines: &[Line<'a>], points_max: usize, low_matters: bool) -> Vec<(&'a str, Vec<Point>)> {
    lines.iter().map(|line| (line.class, thin(line.points, points_max, low_matters))).collect()
}

/// At most so many points: of each stretch the one that stands out most. The last point always stays.
fn thin(points: &[Point], points_max: usize, low_matters: bool) -> Vec<Point> {
    if points.len() <= points_max {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(points_max - 1);
    let sign = if low_matters { -1.0 } else { 1.0 };
    let height = |point: &Point| point.value.map_or(f64::NEG_INFINITY, |value| value * sign);
    let kept = points.chunks(stretch).filter_map(|chunk| chunk.iter().max_by(|a, b| height(a).total_cmp(&height(b))));
    let mut kept: Vec<Point> = kept.copied().collect();
    let last = points[points.len() - 1];
    if kept.last() != Some(&last) {
        kept.push(last);
    }
    kept
}

/// Margins: left, top, below.
fn field(
    lines: &[(&str, Vec<Point>)],
    (base, thresholds): (f64, Thresholds),
    size: Size,
    (left, top, below): (f64, f64, f64),
) -> Option<Field> {
    let known = || lines.iter().flat_map(|(_, points)| points).filter_map(|point| Some((point.at, point.value?)));
    if known().count() < 2 {
        return None;
    }
    let times = || known().map(|(at, _)| at.micros() as f64);
    let values = known().map(|(_, value)| value).chain(thresholds.watch).chain(thresholds.act);
    let (low, high) = values.fold((base, base), |(low, high), value| (low.min(value), high.max(value)));
    let (start, end) = (times().fold(f64::INFINITY, f64::min), times().fold(f64::NEG_INFINITY, f64::max));
    let (bottom, right) = (size.height - below, size.width - 4.0);
    let above = ((high - low) * 0.08).max(f64::MIN_POSITIVE);
    Some(Field { left, right, top, bottom, x: (start, end), y: (low, high + above) })
}

fn limit(field: &Field, class: &str, limit: Option<f64>) -> Markup {
    html! {
        @if let Some(limit) = limit {
            (line(&format!("limit {class}"), (field.left, field.y(limit)), (field.right, field.y(limit))))
            (label(field.left + 3.0, field.y(limit) - 3.0, "start", &format!("tick {class}"), &format!("{class} {limit}")))
        }
    }
}

/// The line, and with `marks` a dot at each window that moved.
fn drawn(field: &Field, class: &str, points: &[Point], marks: bool) -> Markup {
    let at = |point: &Point, value: f64| (field.x(point.at.micros() as f64), field.y(value));
    let mut path = String::new();
    let mut begun = false;
    for point in points {
        if let Some(value) = point.value {
            let (x, y) = at(point, value);
            write!(path, "{}{x} {y}", if begun { "L" } else { "M" }).expect("a String takes all");
        }
        begun = point.value.is_some();
    }
    let last = points.iter().rev().find_map(|point| Some((point, point.value?)));
    let moved = points.iter().filter(|point| marks && point.verdict >= Verdict::Watch);
    html! {
        path class=(class) d=(path) {}
        @for (point, value) in moved.filter_map(|point| Some((point, point.value?))) {
            circle class={ "mark " (point.verdict.name()) } cx=(at(point, value).0) cy=(at(point, value).1) r="2.4" {}
        }
        @if let Some((point, value)) = last {
            circle class={ "last " (class) " " (point.verdict.name()) } cx=(at(point, value).0) cy=(at(point, value).1) r=(if marks { 3.4 } else { 2.4 }) {}
        }
    }
}

fn description(lines: &[(&str, Vec<Point>)]) -> String {
    let of = |(_, points): &(&str, Vec<Point>)| {
        let values: Vec<f64> = points.iter().filter_map(|point| point.value).collect();
        let last = values.last()?;
        let (low, high) = values.iter().fold((*last, *last), |(low, high), value| (low.min(*value), high.max(*value)));
        let [low, high, last] = [low, high, *last].map(numbers::statistic);
        Some(format!("{} windows, from {low} to {high}, last {last}.", values.len()))
    };
    lines.iter().filter_map(of).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(values: impl IntoIterator<Item = Option<f64>>) -> Vec<Point> {
        let point = |(at, value)| Point { at: EventTime::from_micros(at), value, verdict: Verdict::None };
        (0..).zip(values).map(point).collect()
    }

    #[test]
    fn a_gap_interrupts_the_line() {
        let points = points([Some(0.0), Some(1.0), None, Some(1.0), Some(0.0)]);
        let field = Field { left: 0.0, right: 40.0, top: 0.0, bottom: 10.0, x: (0.0, 4.0), y: (0.0, 1.0) };
        let drawn = drawn(&field, "current", &points, false).into_string();
        assert!(drawn.contains(r#"d="M0 10L10 0M30 0L40 10""#), "{drawn}");
    }

    #[test]
    fn of_many_windows_none_that_stands_out_is_lost() {
        for (low_matters, odd) in [(false, 9.0), (true, -9.0)] {
            let mut values = vec![Some(0.5); 10_000];
            values[4_321] = Some(odd);
            values[9_999] = Some(0.25);
            let thin = thin(&points(values), POINTS_MAX, low_matters);
            assert!(thin.len() <= POINTS_MAX, "{}", thin.len());
            assert!(thin.iter().any(|point| point.value == Some(odd)));
            assert_eq!(thin.last().unwrap().value, Some(0.25));
        }
        let few = points(vec![None; POINTS_MAX]);
        assert_eq!(thin(&few, POINTS_MAX, false), few);
    }

    #[test]
    fn one_value_is_no_history() {
        let limits = Thresholds::default();
        assert!(small("t", &points([Some(1.0)]), limits).is_none());
        assert!(small("t", &points([Some(1.0), None]), limits).is_none());
        assert!(small("t", &points([Some(1.0), Some(1.0)]), limits).is_some());
    }
}
