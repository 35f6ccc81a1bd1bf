//! Values with their intervals, one below the other: the same rate in every group; and pairs of values that should be equal.

use maud::{Markup, html};

use super::{Field, Size, drawing, label, line, tick_text, ticks};
use crate::report::numbers;
use crate::vocabulary::findings::Rate;

/// One group.
#[derive(Clone, Debug)]
pub struct Dot {
    /// What it is called.
    pub label: String,
    /// Its rate, with the interval.
    pub rate: Rate,
    /// True if the others are compared with it.
    pub reference: bool,
    /// True if too little is known of it.
    pub faint: bool,
}

/// Height of a row.
const ROW: f64 = 22.0;

/// Rates from 0 to a round number above the highest, with a line through the reference group's; `band` shades what lies within
/// four fifths of it (29 CFR 1607.4(D)). `None` without any rate.
pub fn rates(title: &str, dots: &[Dot], band: bool) -> Option<Markup> {
    let highest = dots.iter().filter_map(|dot| dot.rate.high.or(dot.rate.rate)).reduce(f64::max)?;
    let size = Size { width: 330.0, height: ROW * dots.len() as f64 + 34.0 };
    let field = field(size, (highest * 1.05).clamp(0.05, 1.0), dots.iter().map(|dot| dot.label.as_str()));
    let reference = dots.iter().find(|dot| dot.reference).and_then(|dot| dot.rate.rate);
    let content = html! {
        @if let Some(reference) = reference {
            @if band {
                @let (from, to) = (field.x(reference * 0.8), field.x(reference * 1.25));
                rect class="band" x=(from) y=(field.top) width=(to - from) height=(field.bottom - field.top) {}
            }
            (line("reference", (field.x(reference), field.top), (field.x(reference), field.bottom)))
        }
        (percent_axis(&field))
        @for (dot, y) in dots.iter().zip(rows(&field)) { (row(&field, y, dot)) }
    };
    Some(drawing(size, "whiskers", title, &description(dots), content))
}

/// Two values of each group that should be the same, such as what was predicted and what happened.
pub fn pairs(title: &str, names: [&str; 2], groups: &[(String, [Option<f64>; 2])]) -> Option<Markup> {
    let highest = groups.iter().flat_map(|(_, values)| values).copied().flatten().reduce(f64::max)?;
    let size = Size { width: 330.0, height: ROW * groups.len() as f64 + 34.0 };
    let field = field(size, (highest * 1.1).clamp(0.05, 1.0), groups.iter().map(|(name, _)| name.as_str()));
    let content = html! {
        (percent_axis(&field))
        @for ((name, values), y) in groups.iter().zip(rows(&field)) {
            (label(field.left - 8.0, y + 4.0, "end", "name", name))
            @if let [Some(first), Some(second)] = values {
                (line("whisker", (field.x(*first), y), (field.x(*second), y)))
            }
            @for (class, value) in [("hollow", values[0]), ("dot", values[1])] {
                @if let Some(value) = value { circle class=(class) cx=(field.x(value)) cy=(y) r="4" {} }
            }
        }
    };
    let said = groups.iter().map(|(name, values)| {
        let text = |at: usize| values[at].map_or("not known".to_owned(), numbers::percent);
        format!("{name}: {} {}, {} {}.", names[0], text(0), names[1], text(1))
    });
    Some(drawing(size, "whiskers", title, &said.collect::<Vec<_>>().join(" "), content))
}

/// On the left as much room as the longest label needs, within reason.
fn field<'a>(size: Size, highest: f64, labels: impl Iterator<Item = &'a str>) -> Field {
    let longest = labels.map(|label| label.chars().count()).max().unwrap_or(0);
    let left = (16.0 + 6.8 * longest as f64).clamp(50.0, 150.0);
    Field { left, right: size.width - 14.0, top: 4.0, bottom: size.height - 26.0, x: (0.0, highest), y: (0.0, 1.0) }
}

/// The middle of each row.
fn rows(field: &Field) -> impl Iterator<Item = f64> + use<> {
    let top = field.top;
    (0..).map(move |at| top + ROW * (f64::from(at) + 0.5))
}

fn percent_axis(field: &Field) -> Markup {
    let ticks = ticks((field.x.0 * 100.0, field.x.1 * 100.0), 5);
    html! {
        @for at in &ticks {
            @let x = field.x(at / 100.0);
            (line("grid", (x, field.top), (x, field.bottom)))
            (label(x, field.bottom + 15.0, "middle", "tick", &format!("{} %", tick_text(*at, &ticks))))
        }
    }
}

fn row(field: &Field, y: f64, dot: &Dot) -> Markup {
    let faint = if dot.faint { " faint" } else { "" };
    html! {
        (label(field.left - 8.0, y + 4.0, "end", &format!("name{faint}"), &dot.label))
        @if let (Some(low), Some(high)) = (dot.rate.low, dot.rate.high) {
            (line(&format!("whisker{faint}"), (field.x(low), y), (field.x(high), y)))
            @for end in [low, high] {
                (line(&format!("whisker{faint}"), (field.x(end), y - 4.0), (field.x(end), y + 4.0)))
            }
        }
        @match dot.rate.rate {
            Some(rate) => { circle class={ (if dot.reference { "hollow" } else { "dot" }) (faint) } cx=(field.x(rate)) cy=(y) r="4" {} }
            None => { (label(field.left + 4.0, y + 4.0, "start", "tick", "not known")) }
        }
    }
}

fn description(dots: &[Dot]) -> String {
    let said = dots.iter().map(|dot| {
        let rate = dot.rate.rate.map_or("not known".to_owned(), numbers::percent);
        let interval = dot.rate.low.zip(dot.rate.high);
        let interval =
            interval.map(|(low, high)| format!(" ({} to {})", numbers::percent(low), numbers::percent(high)));
        let compared = if dot.reference { ", the group of reference" } else { "" };
        let little = if dot.faint { ", too little data" } else { "" };
        format!("{}: {rate}{}{compared}{little}.", dot.label, interval.unwrap_or_default())
    });
    said.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(label: &str, rate: f64) -> Dot {
        let rate = Rate { rate: Some(rate), low: Some(rate - 0.1), high: Some(rate + 0.1) };
        Dot { label: label.into(), rate, reference: label == "a", faint: false }
    }

    #[test]
    fn rates_and_intervals_are_where_they_belong() {
        let drawn = rates("t", &[dot("a", 0.4), dot("b", 0.6)], true).unwrap().into_string();
        // From 50 to 316 lie 0 to 0.735.
        let x = |rate: f64| ((50.0 + rate / 0.735 * 266.0) * 10.0).round() / 10.0;
        for expected in [
            format!(r#"<circle class="hollow" cx="{}" cy="15""#, x(0.4)),
            format!(r#"<circle class="dot" cx="{}" cy="37""#, x(0.6)),
            format!(r#"x1="{}" y1="37" x2="{}" y2="37""#, x(0.5), x(0.7)),
            format!(r#"<rect class="band" x="{}""#, x(0.32)),
            "a: 40.0 % (30.0 % to 50.0 %), the group of reference.".to_owned(),
        ] {
            assert!(drawn.contains(&expected), "{expected} in {drawn}");
        }
    }

    #[test]
    fn what_is_not_known_is_said() {
        let unknown = Dot { label: "c".into(), rate: Rate::default(), reference: false, faint: true };
        assert!(rates("t", std::slice::from_ref(&unknown), false).is_none());
        let drawn = rates("t", &[dot("a", 0.4), unknown], false).unwrap().into_string();
        assert!(drawn.contains("c: not known, too little data."), "{drawn}");
    }
}
