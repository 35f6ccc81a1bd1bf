//! Two histograms of the same bins, one over the other: the reference as a filled ground, the window as a line.

use std::fmt::Write;
use std::ops::Range;

use maud::{Markup, html};

use super::{Field, Size, drawing, label, line, tick_text, ticks};
use crate::report::numbers;

/// Readings by bin.
#[derive(Clone, Copy, Debug)]
pub struct Bins<'a> {
    /// Ascending; one more than there are bins. The outer bins take the rest.
    pub edges: &'a [f64],
    /// Of the reference.
    pub reference: &'a [u64],
    /// Of the window.
    pub current: &'a [u64],
}

impl Bins<'_> {
    /// `None` unless the edges ascend and fit both sides, and some bin holds something: then there is nothing to draw.
    fn occupied(&self) -> Option<Range<usize>> {
        let count = self.edges.len().checked_sub(1)?;
        let ascending = self.edges.windows(2).all(|pair| pair[0] < pair[1]) && self.edges.iter().all(|e| e.is_finite());
        if !ascending || self.reference.len() != count || self.current.len() != count {
            return None;
        }
        let holds = |at: &usize| self.reference[*at] > 0 || self.current[*at] > 0;
        let (first, last) = ((0..count).find(holds)?, (0..count).rev().find(holds)?);
        Some(first.saturating_sub(1)..(last + 2).min(count))
    }
}

/// Shares of the readings in a side's bins; all zero without readings.
fn shares(counts: &[u64]) -> Vec<f64> {
    let all: u64 = counts.iter().sum();
    counts.iter().map(|count| if all == 0 { 0.0 } else { *count as f64 / all as f64 }).collect()
}

/// With axes.
pub fn large(title: &str, unit: &str, bins: Bins<'_>) -> Option<Markup> {
    let size = Size { width: 460.0, height: 230.0 };
    let (field, shares) = field(bins, size, 40.0, 34.0)?;
    let (x_ticks, y_ticks) = (ticks(field.x, 7), ticks(field.y, 4));
    let content = html! {
        @for at in &y_ticks {
            (line("grid", (field.left, field.y(*at)), (field.right, field.y(*at))))
            (label(field.left - 6.0, field.y(*at) + 3.5, "end", "tick", &format!("{} %", tick_text(at * 100.0, &y_ticks.iter().map(|at| at * 100.0).collect::<Vec<_>>()))))
        }
        (steps(&field, bins.edges, &shares))
        (line("axis", (field.left, field.bottom), (field.right, field.bottom)))
        @for at in &x_ticks { (label(field.x(*at), field.bottom + 14.0, "middle", "tick", &tick_text(*at, &x_ticks))) }
        (label(field.right, field.bottom + 29.0, "end", "tick", &numbers::with_unit(if matches!(unit, "" | "1") { "share of readings by bin" } else { "share of readings by bin," }, unit)))
    };
    Some(drawing(size, "histogram", title, &description(bins, unit), content))
}

/// Without: one of many.
pub fn small(title: &str, unit: &str, bins: Bins<'_>) -> Option<Markup> {
    let size = Size { width: 200.0, height: 84.0 };
    let (field, shares) = field(bins, size, 2.0, 16.0)?;
    let x_ticks = ticks(field.x, 3);
    let content = html! {
        (steps(&field, bins.edges, &shares))
        (line("axis", (field.left, field.bottom), (field.right, field.bottom)))
        @for at in &x_ticks { (label(field.x(*at), field.bottom + 12.0, "middle", "tick", &tick_text(*at, &x_ticks))) }
    };
    Some(drawing(size, "histogram small", title, &description(bins, unit), content))
}

/// Where it is drawn, and the shares of the reference and of the window.
fn field(bins: Bins<'_>, size: Size, left: f64, below: f64) -> Option<(Field, [Vec<f64>; 2])> {
    let range = bins.occupied()?;
    let shares = [shares(bins.reference), shares(bins.current)];
    let highest = shares.iter().flatten().copied().fold(0.0, f64::max);
    let field = Field {
        left,
        right: size.width - 4.0,
        top: 8.0,
        bottom: size.height - below,
        x: (bins.edges[range.start], bins.edges[range.end]),
        y: (0.0, highest * 1.05),
    };
    Some((field, shares))
}

fn steps(field: &Field, edges: &[f64], [reference, current]: &[Vec<f64>; 2]) -> Markup {
    html! {
        path class="reference" d=(format!("{}V{}H{}Z", path(field, edges, reference), field.bottom, field.left)) {}
        path class="current" d=(path(field, edges, current)) {}
    }
}

/// A line over the bins, from the left border to the right one.
fn path(field: &Field, edges: &[f64], shares: &[f64]) -> String {
    let mut path = format!("M{} {}", field.left, field.bottom);
    let shown = edges.windows(2).zip(shares).filter(|(pair, _)| pair[0] >= field.x.0 && pair[1] <= field.x.1);
    for (pair, share) in shown {
        write!(path, "V{}H{}", field.y(*share), field.x(pair[1])).expect("a String takes all");
    }
    write!(path, "V{}", field.bottom).expect("a String takes all");
    path
}

/// The same in words: where most readings are.
fn description(bins: Bins<'_>, unit: &str) -> String {
    let most = |counts: &[u64]| {
        let (at, count) =
            counts.iter().enumerate().max_by_key(|(_, count)| **count).filter(|(_, count)| **count > 0)?;
        let share = *count as f64 / counts.iter().sum::<u64>() as f64;
        let (low, high) = (bins.edges[at], bins.edges[at + 1]);
        Some(format!("{} from {low} to {}", numbers::percent(share), numbers::with_unit(&high.to_string(), unit)))
    };
    let side = |name: &str, counts: &[u64]| match most(counts) {
        Some(most) => format!("{name}: fullest bin {most}."),
        None => format!("{name}: no readings."),
    };
    format!("{} {}", side("Reference", bins.reference), side("Window", bins.current))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDGES: [f64; 6] = [0.0, 10.0, 20.0, 30.0, 40.0, 50.0];

    fn bins<'a>(reference: &'a [u64], current: &'a [u64]) -> Bins<'a> {
        Bins { edges: &EDGES, reference, current }
    }

    #[test]
    fn shares_are_drawn_from_border_to_border_at_their_heights() {
        let bins = bins(&[0, 0, 3, 1, 0], &[0, 0, 0, 4, 0]);
        let (field, shares) = field(bins, Size { width: 104.0, height: 108.0 }, 0.0, 0.0).unwrap();
        assert_eq!(field.x, (10.0, 50.0), "one empty bin on either side");
        assert_eq!(shares[0], [0.0, 0.0, 0.75, 0.25, 0.0]);
        // The highest share, 1, is a twentieth below the top.
        assert_eq!(path(&field, &EDGES, &shares[1]), "M0 108V108H25V108H50V12.8H75V108H100V108");
    }

    #[test]
    fn what_cannot_be_drawn_is_not() {
        for bins in [bins(&[0; 5], &[0; 5]), bins(&[1; 4], &[1; 5]), Bins { edges: &[], reference: &[], current: &[] }]
        {
            assert!(large("t", "mmHg", bins).is_none() && small("t", "mmHg", bins).is_none());
        }
        let falling = Bins { edges: &[2.0, 1.0], reference: &[1], current: &[1] };
        assert!(large("t", "mmHg", falling).is_none());
        assert!(large("t", "mmHg", bins(&[0; 5], &[1; 5])).is_some(), "one side may be empty");
    }

    #[test]
    fn a_reader_without_eyes_is_told_where_most_readings_are() {
        let said = description(bins(&[0, 1, 3, 0, 0], &[0; 5]), "mmHg");
        assert_eq!(said, "Reference: fullest bin 75.0 % from 20 to 30 mmHg. Window: no readings.");
    }
}
