//! Small drawings as inline SVG: pure functions of numbers, without script, colours by CSS classes so that light, dark and paper each have their own.
//!
//! Every drawing has a title and a description, which a screen reader reads in its place. Drawn about as large as it is shown, so that its
//! letters have the size of the page's small print; `viewBox` lets it shrink with the screen.

use maud::{Markup, html};

pub mod histogram;
pub mod history;
pub mod whiskers;

/// A drawing's size, in its own units (CSS pixels at full width).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Size {
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

/// The rectangle that data are drawn into: what axes leave of a [`Size`].
#[derive(Clone, Copy, Debug)]
struct Field {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    /// Values at the left and the right edge.
    x: (f64, f64),
    /// Values at the bottom and the top edge.
    y: (f64, f64),
}

impl Field {
    fn x(&self, value: f64) -> f64 {
        round(self.left + share(value, self.x) * (self.right - self.left))
    }

    fn y(&self, value: f64) -> f64 {
        round(self.bottom - share(value, self.y) * (self.bottom - self.top))
    }
}

/// Where a value lies in a range, held within it; a range without length has everything in its middle.
fn share(value: f64, (low, high): (f64, f64)) -> f64 {
    if high > low { ((value - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 }
}

/// A tenth of a pixel is enough, and keeps the page small.
fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Round numbers within a range, at most `count` of them and at least their ends' neighbours.
///
/// Source: Heckbert, "Nice numbers for graph labels", Graphics Gems, 1990.
fn ticks((low, high): (f64, f64), count: usize) -> Vec<f64> {
    let length = high - low;
    if !length.is_finite() || length <= 0.0 || count == 0 {
        return vec![low];
    }
    let rough = length / count as f64;
    let magnitude = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|nice| nice * magnitude).find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(10.0 * magnitude);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|at| at as f64 * step).collect()
}

/// As many decimals as a step between ticks needs.
fn tick_text(value: f64, ticks: &[f64]) -> String {
    let step = if let [first, second, ..] = ticks { second - first } else { 1.0 };
    let decimals = (-step.log10() - 1e-9).ceil().clamp(0.0, 6.0) as usize;
    super::numbers::decimals(value, decimals)
}

/// A drawing with what is read in its place.
fn drawing(size: Size, class: &str, title: &str, description: &str, content: Markup) -> Markup {
    html! {
        svg role="img" class={ "chart " (class) } viewBox={ "0 0 " (size.width) " " (size.height) } xmlns="http://www.w3.org/2000/svg" {
            title { (title) }
            desc { (description) }
            (content)
        }
    }
}

/// A label. `anchor` is `start`, `middle` or `end`.
fn label(x: f64, y: f64, anchor: &str, class: &str, text: &str) -> Markup {
    html! { text x=(round(x)) y=(round(y)) text-anchor=(anchor) class=(class) { (text) } }
}

fn line(class: &str, from: (f64, f64), to: (f64, f64)) -> Markup {
    html! { line class=(class) x1=(round(from.0)) y1=(round(from.1)) x2=(round(to.0)) y2=(round(to.1)) {} }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(ticks((30.0, 212.0), 5), [50.0, 100.0, 150.0, 200.0]);
        assert_eq!(ticks((0.0, 0.34), 3), [0.0, 0.2]);
        assert_eq!(ticks((0.0, 1.0), 5).len(), 6);
        assert_eq!(ticks((5.0, 5.0), 3), [5.0]);
        assert_eq!(ticks((f64::NEG_INFINITY, 1.0), 3).len(), 1);
        let third = ticks((0.0, 0.3), 3);
        assert_eq!(third.iter().map(|at| tick_text(*at, &third)).collect::<Vec<_>>(), ["0.0", "0.1", "0.2", "0.3"]);
    }

    #[test]
    fn what_is_outside_is_drawn_at_the_edge() {
        let field = Field { left: 10.0, right: 110.0, top: 5.0, bottom: 55.0, x: (0.0, 10.0), y: (0.0, 1.0) };
        assert_eq!((field.x(2.5), field.x(-4.0), field.x(99.0)), (35.0, 10.0, 110.0));
        assert_eq!((field.y(0.0), field.y(1.0), field.y(2.0)), (55.0, 5.0, 5.0));
    }
}
