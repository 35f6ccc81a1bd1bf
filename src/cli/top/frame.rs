//! A frame of `windkessel top`: lines of a given width and number. Pure.
//!
//! Blocks stand below each other in one to three columns, by width; what has no place at the bottom is cut.

use serde_json::Value;

use super::view::View;
use crate::runtime::summary::grouped;

/// How a text looks where there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Head,
    Quiet,
    Good,
    Watch,
    Act,
}

/// Texts side by side.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Line(pub(super) Vec<(Tone, String)>);

/// A column is at least this wide.
const COLUMN_MIN: usize = 64;
/// Between two columns.
const GAP: usize = 2;
/// Rows of a block's table.
const ROWS_MAX: usize = 12;
/// Eighths of a character's height.
const UPWARDS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

impl Line {
    fn of(tone: Tone, text: impl Into<String>) -> Line {
        Line(vec![(tone, text.into())])
    }

    fn then(mut self, tone: Tone, text: impl Into<String>) -> Line {
        self.0.push((tone, text.into()));
        self
    }

    /// What it says.
    pub(super) fn text(&self) -> String {
        self.0.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// Exactly this wide: cut, or filled up with blanks.
    fn fit(mut self, width: usize) -> Line {
        let mut left = width;
        for (_, text) in &mut self.0 {
            let length = text.chars().count();
            if length > left {
                *text = text.chars().take(left).collect();
            }
            left -= length.min(left);
        }
        if left > 0 {
            self.0.push((Tone::Plain, " ".repeat(left)));
        }
        self
    }
}

/// The frame of a view.
pub(super) fn frame(view: &View, width: usize, height: usize) -> Vec<Line> {
    let mut lines = head(view, width);
    let count = ((width + GAP) / (COLUMN_MIN + GAP)).clamp(1, 3);
    let each = (width + GAP) / count - GAP;
    let mut columns: Vec<Vec<Line>> = vec![Vec::new(); count];
    for block in blocks(view, each) {
        let shortest = columns.iter_mut().min_by_key(|column| column.len()).expect("there is a column");
        if !shortest.is_empty() {
            shortest.push(Line::default());
        }
        shortest.extend(block);
    }
    let rows = columns.iter().map(Vec::len).max().unwrap_or(0);
    lines.push(Line::default());
    for row in 0..rows {
        let mut line = Line::default();
        for (at, column) in columns.iter().enumerate() {
            let cell = column.get(row).cloned().unwrap_or_default().fit(each);
            line.0.extend(cell.0);
            if at + 1 < count {
                line.0.push((Tone::Plain, " ".repeat(GAP)));
            }
        }
        lines.push(line);
    }
    lines.truncate(height);
    lines.into_iter().map(|line| line.fit(width)).collect()
}

fn head(view: &View, width: usize) -> Vec<Line> {
    let running = view.count("at_seconds").saturating_sub(view.count("started_at_seconds"));
    let model = view.at("model").as_str().map_or("rules alone".to_owned(), |model| format!("model {model}"));
    let mut first = Line::of(Tone::Head, format!("windkessel top  {}", view.text("flow")))
        .then(Tone::Quiet, format!("  {} {}  {model}  ", view.text("phase"), span(running as f64)));
    first = match (&view.lost, view.problems.is_empty()) {
        (Some(_), _) => first.then(Tone::Act, "no answer"),
        (None, true) => first.then(Tone::Good, "ready"),
        (None, false) => first.then(Tone::Watch, "not ready"),
    };
    let mut lines = vec![first];
    lines.extend(view.lost.iter().map(|why| Line::of(Tone::Act, why)));
    lines.extend(view.problems.iter().map(|problem| Line::of(Tone::Watch, problem)));
    let rate = view.at("readings.per_second").as_f64().unwrap_or(0.0);
    let figures = [
        ("readings", grouped(view.count("readings.count"))),
        ("a second", grouped(rate.round() as u64)),
        ("lag", grouped(view.count("source.lag"))),
        ("patients", grouped(view.count("patients"))),
        ("alarms", grouped(view.count("alarms"))),
    ];
    let mut line = Line::default();
    for (name, figure) in figures {
        line = line.then(Tone::Head, figure).then(Tone::Quiet, format!(" {name}   "));
    }
    lines.push(line);
    lines.push(Line::of(Tone::Good, sparkline(view.list("readings.history"), width)));
    lines
}

/// The last seconds, one a character.
fn sparkline(history: &[Value], width: usize) -> String {
    let counts: Vec<f64> = history.iter().filter_map(Value::as_f64).collect();
    let shown = &counts[counts.len().saturating_sub(width)..];
    let most = shown.iter().fold(1.0_f64, |most, count| most.max(*count));
    let column = |count: &f64| match (count / most * 8.0).ceil() as usize {
        0 => ' ',
        eighths => UPWARDS[eighths.min(8) - 1],
    };
    shown.iter().map(column).collect()
}

fn blocks(view: &View, width: usize) -> Vec<Vec<Line>> {
    [stages(view, width), sinks(view), engine(view), inputs(view), partitions(view), drift(view), alerts(view)]
        .into_iter()
        .filter(|block| block.len() > 1)
        .collect()
}

fn stages(view: &View, width: usize) -> Vec<Line> {
    let mut block = vec![Line::of(Tone::Head, "stages, as a part of one core")];
    let bar_max = width.saturating_sub(26).min(40);
    // What keeps the run going is a line of the page; here the stages need the room.
    let shown = || view.list("stages").iter().filter(|stage| stage["kind"] != "engine");
    for stage in shown() {
        let Some(busy) = stage["busy_per_second"].as_f64() else { continue };
        let bar = "█".repeat((busy.min(1.0) * bar_max as f64).round() as usize);
        let tone = if busy > 0.8 { Tone::Watch } else { Tone::Good };
        let name = stage["stage"].as_str().unwrap_or_default();
        block.push(Line::of(Tone::Plain, format!("{name:<14}{:>7.1} %  ", busy * 100.0)).then(tone, bar));
    }
    if block.len() == 1 {
        block = vec![Line::of(Tone::Head, "stages, time of work")];
        // Rates need two looks; the time since the start does not.
        for stage in shown() {
            let (name, busy) = (stage["stage"].as_str().unwrap_or_default(), stage["busy_seconds"].as_f64());
            block.push(Line::of(Tone::Plain, format!("{name:<14}{:>9.1} s since the start", busy.unwrap_or(0.0))));
        }
    }
    block
}

fn inputs(view: &View) -> Vec<Line> {
    let counts = view.list("outcomes.counts");
    let all: u64 = counts.iter().filter_map(|outcome| outcome["count"].as_u64()).sum();
    let mut block = vec![Line::of(Tone::Head, format!("inputs: {}", grouped(all)))];
    let row = |name: &str, count: u64| {
        let share = 100.0 * count as f64 / all.max(1) as f64;
        Line::of(Tone::Plain, format!("{name:<30}{:>14}{share:>9.2} %", grouped(count)))
    };
    for outcome in counts {
        block.push(row(outcome["outcome"].as_str().unwrap_or_default(), outcome["count"].as_u64().unwrap_or(0)));
    }
    for reason in view.list("outcomes.rejected") {
        let name = format!("  {}", reason["reason"].as_str().unwrap_or_default());
        block.push(row(&name, reason["count"].as_u64().unwrap_or(0)));
    }
    block
}

fn sinks(view: &View) -> Vec<Line> {
    let mut block = vec![Line::of(Tone::Head, "sinks, rows settled")];
    for sink in view.list("sinks") {
        let (tone, state) =
            if sink["waiting"] == true { (Tone::Watch, "waits for its destination") } else { (Tone::Good, "settling") };
        let name = sink["sink"].as_str().unwrap_or_default();
        let rows = grouped(sink["records"].as_u64().unwrap_or(0));
        block.push(Line::of(Tone::Plain, format!("{name:<14}{rows:>16}  ")).then(tone, state));
    }
    block
}

fn engine(view: &View) -> Vec<Line> {
    let age = |name: &str| view.age(name).map_or("–".to_owned(), |age| format!("{} ago", span(age)));
    let mebibytes = |name: &str| view.metric(name).map_or("–".to_owned(), |b| format!("{:.0} MiB", b / 1_048_576.0));
    let pressure = match view.metric("windkessel_memory_pressure") {
        Some(level) if level >= 2.0 => (Tone::Act, "sources are paused"),
        Some(level) if level >= 1.0 => (Tone::Watch, "sources are slowed down"),
        _ => (Tone::Good, "calm"),
    };
    let row = |name: &str, value: String| Line::of(Tone::Plain, format!("{name:<22}{value:>16}"));
    let count = |name: &str| view.metric(name).map_or("–".to_owned(), |count| grouped(count.max(0.0) as u64));
    vec![
        Line::of(Tone::Head, "engine"),
        row("last settled epoch", age("windkessel_settled_timestamp_seconds")),
        row("last checkpoint", age("windkessel_checkpoint_last_success_timestamp_seconds")),
        row("epochs under way", count("windkessel_inflight_epochs")),
        row("starts of this state", count("windkessel_generation")),
        row("memory, resident", mebibytes("process_resident_memory_bytes"))
            .then(Tone::Plain, "  ")
            .then(pressure.0, pressure.1),
        row("memory, bound", mebibytes("windkessel_memory_bound_bytes")),
    ]
}

fn partitions(view: &View) -> Vec<Line> {
    let mut block = vec![Line::of(Tone::Head, format!("{:<26}{:>12}{:>22}", "partitions", "waiting", "event time"))];
    for lag in view.list("source.lags").iter().take(ROWS_MAX) {
        let part = |key: &str| lag[key].as_str().unwrap_or_default();
        let name = clipped(&format!("{} / {}", part("topic"), part("partition")), 26);
        let at = lag["watermark_seconds"].as_f64().map_or("–".to_owned(), instant);
        block.push(Line::of(
            Tone::Plain,
            format!("{name:<26}{:>12}{at:>22}", grouped(lag["records"].as_u64().unwrap_or(0))),
        ));
    }
    block
}

fn drift(view: &View) -> Vec<Line> {
    let mut shifts: Vec<&Value> = view.list("shifts").iter().collect();
    let psi = |shift: &Value| shift["psi"].as_f64().unwrap_or(-1.0);
    // What is about everybody first, then the largest.
    shifts.sort_by(|one, other| {
        let group = |shift: &Value| shift["group"] != "all";
        group(one).cmp(&group(other)).then_with(|| psi(other).total_cmp(&psi(one)))
    });
    let mut block = vec![Line::of(Tone::Head, format!("{:<34}{:>8}{:>8}", "drift", "PSI", "JS"))];
    for shift in shifts.into_iter().take(ROWS_MAX) {
        let part = |key: &str| shift[key].as_str().unwrap_or_default();
        let name = if part("group") == "all" {
            part("feature").to_owned()
        } else {
            format!("{} {}", part("feature"), part("group"))
        };
        let three = |key: &str| shift[key].as_f64().map_or("–".to_owned(), |value| format!("{value:.3}"));
        let tone = match part("verdict") {
            "act" => Tone::Act,
            "watch" => Tone::Watch,
            "none" => Tone::Good,
            _ => Tone::Quiet,
        };
        let verdict = if part("verdict") == "none" { "stable" } else { part("verdict") };
        let figures = format!("{:<34}{:>8}{:>8}  ", clipped(&name, 34), three("psi"), three("jensen_shannon"));
        block.push(Line::of(Tone::Plain, figures).then(tone, verdict));
    }
    block
}

fn alerts(view: &View) -> Vec<Line> {
    let head = format!("{:<21}{:<10}{:>9}  {}", "newest alerts", "patient", "mmHg", "reasons");
    let mut block = vec![Line::of(Tone::Head, head)];
    for alert in view.list("alerts").iter().take(ROWS_MAX) {
        let part = |key: &str| alert[key].as_str().unwrap_or("–");
        let mmhg = |key: &str| alert[key].as_f64().map_or("–".to_owned(), |value| format!("{value:.0}"));
        let pressures = format!("{}/{}", mmhg("systolic_mmhg"), mmhg("diastolic_mmhg"));
        let reasons: Vec<&str> = alert["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let (at, patient) = (clipped(part("effective_at"), 20), clipped(part("patient"), 8));
        block.push(Line::of(Tone::Plain, format!("{at:<21}{patient:<10}{pressures:>9}  {}", reasons.join(", "))));
    }
    block
}

fn clipped(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

fn instant(seconds: f64) -> String {
    jiff::Timestamp::from_second(seconds as i64).map_or("–".to_owned(), |at| at.to_string())
}

/// A length of time in its two largest units.
fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}
