//! Rule sets as text: Markdown tables, readable as they are, for `explain --rules` and for `docs/clinical.md` (a test compares).

use std::fmt::Write;
use std::ops::Bound;

use super::news2;
use super::rules::{Band, Categories, Range, Rule, RuleSet, rule_sets};

/// All rule sets, in their order.
pub fn describe_all() -> String {
    rule_sets().iter().map(describe).collect::<Vec<_>>().join("\n")
}

/// One rule set: its source, its categories and its rules with their thresholds.
pub fn describe(set: &RuleSet) -> String {
    let mut text = format!("### `{}`: {}\n\nSource: {}.\n\n{}\n\n", set.name, set.title, set.source, set.note);
    match set.categories {
        Categories::Pressure(bands) => {
            text.push_str("| category | systolic, mmHg | diastolic, mmHg | what may be said |\n| --- | --- | --- | --- |\n");
            text.extend(bands.iter().map(band_row));
        }
        Categories::News2 => {
            text.push_str(&news2_tables());
        }
    }
    text.push_str("\n| reason | fires when | may alarm | label | source |\n| --- | --- | --- | --- | --- |\n");
    text.extend(set.rules.iter().map(rule_row));
    text
}

fn band_row(band: &Band) -> String {
    let cell = |range: Option<Range>| range.map_or("does not lead here".to_owned(), |range| condition("", range));
    format!("| `{}` | {} | {} | {} |\n", band.category, cell(band.systolic), cell(band.diastolic), band.wording)
}

fn rule_row(rule: &Rule) -> String {
    let mut when = format!("{}, {}", condition(rule.quantity.name(), rule.range), rule.quantity.unit());
    if let Some((quantity, range)) = rule.and {
        when = format!("{when}; and {}, {}", condition(quantity.name(), range), quantity.unit());
    }
    let alarms = if rule.alarms { "yes" } else { "no" };
    format!("| `{}` | {when} | {alarms} | `{}` | {} |\n", rule.name, rule.label, rule.source)
}

/// The conditions of a range: `≥ 120, < 130`.
fn condition(name: &str, range: Range) -> String {
    let (lower, upper) = range.bounds();
    let lower = match lower {
        Bound::Included(value) => Some(format!("≥ {value}")),
        Bound::Excluded(value) => Some(format!("> {value}")),
        Bound::Unbounded => None,
    };
    let upper = match upper {
        Bound::Included(value) => Some(format!("≤ {value}")),
        Bound::Excluded(value) => Some(format!("< {value}")),
        Bound::Unbounded => None,
    };
    let conditions: Vec<_> = lower.into_iter().chain(upper).collect();
    format!("{name} {}", conditions.join(" and ")).trim_start().to_owned()
}

fn news2_tables() -> String {
    let mut text = String::from("| category | leads there | what may be said |\n| --- | --- | --- |\n");
    for (name, wording, when) in news2::CATEGORIES {
        push(&mut text, format_args!("| `{name}` | {when} | {wording} |\n"));
    }
    text.push_str("\n| parameter | unit | points, each from the value where its band begins |\n| --- | --- | --- |\n");
    for news2::Parameter { quantity, bands } in &news2::PARAMETERS {
        let bands: Vec<_> = bands.iter().map(|&band| points(band)).collect();
        push(&mut text, format_args!("| {} | {} | {} |\n", quantity.name(), quantity.unit(), bands.join(", ")));
    }
    text
}

/// One band of a NEWS2 parameter: `21: 2`.
fn points((from, points): (f64, u8)) -> String {
    if from.is_finite() { format!("{from}: {points}") } else { format!("below: {points}") }
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.write_fmt(line).expect("a String takes whatever is written");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The part of `docs/clinical.md` that is generated.
    const BEGIN: &str = "<!-- rule sets: generated from src/score, UPDATE_EXPECT=1 cargo test rewrites -->\n";
    const END: &str = "<!-- end of rule sets -->\n";

    #[test]
    fn the_thresholds_in_the_documentation_are_those_in_the_tables() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/clinical.md");
        let found = std::fs::read_to_string(path).unwrap();
        let (before, rest) = found.split_once(BEGIN).expect("the marker where the rule sets begin");
        let (_, after) = rest.split_once(END).expect("the marker where the rule sets end");
        let expected = format!("{before}{BEGIN}\n{}\n{END}{after}", describe_all());
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(path, &expected).unwrap();
        } else {
            assert!(found == expected, "docs/clinical.md differs from the tables; run with UPDATE_EXPECT=1 and review");
        }
    }

    #[test]
    fn ranges_read_as_they_are_written_in_guidelines() {
        assert_eq!(condition("systolic", Range::from(140.0).up_to(180.0)), "systolic ≥ 140 and ≤ 180");
        assert_eq!(condition("", Range::above(120.0)), "> 120");
        assert_eq!(condition("", Range::below(35.1)), "< 35.1");
    }
}
