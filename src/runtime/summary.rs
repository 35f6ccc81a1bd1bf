//! What a run says when it is over: where every input ended, what came of it, what it cost, where to look next.
//!
//! A pure function of the metrics and of what the caller measured; tables are at most [`WIDTH_MAX`] columns wide and fit 80.
//!
//! Invariant: the outcomes are added up here, not trusted: their sum is compared with the resources read, and a difference is said in words.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use crate::runtime::metrics::{Metrics, Sample, samples, total};
use crate::runtime::progress::{short, short_bytes};
use crate::vocabulary::Outcome;

/// Wider tables are harder to read, not easier.
pub const WIDTH_MAX: u16 = 100;
/// Reasons named behind an outcome; further ones are counted.
const REASONS_MAX: usize = 4;

/// What the metrics do not know about a run.
#[derive(Clone, Debug, Default)]
pub struct Ran {
    /// The flow's name.
    pub flow: String,
    /// Resources that sources delivered: what the outcomes must add up to. `None`: one a record (no bundles), as the source counted.
    pub resources: Option<u64>,
    /// True if the run was cut short, so that resources may have been read and not yet judged.
    pub cut_short: bool,
    /// From start to end by the wall clock.
    pub wall: Duration,
    /// What the process used.
    pub usage: Usage,
    /// Where to look next: what it is, and its path, address or command. Never a patient's file.
    pub look: Vec<(String, String)>,
    /// Which process of how many, if there are several. Inputs are counted where they are read or where their patient is, so that those of one process do
    /// not add up.
    pub part: Option<(usize, usize)>,
}

/// What the process used, as far as the system says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all threads.
    pub cpu: Option<Duration>,
    /// Largest resident set.
    pub memory_peak_bytes: Option<u64>,
}

impl Usage {
    /// Of this process, from `/proc/self`; nothing where that is absent (macOS, Windows).
    pub fn of_process() -> Usage {
        let read = |file| std::fs::read_to_string(file).unwrap_or_default();
        Usage::parse(&read("/proc/self/stat"), &read("/proc/self/status"))
    }

    /// proc(5): fields 14 and 15 of `stat` are user and system time in ticks, `VmHWM` of `status` is the peak in KiB.
    fn parse(stat: &str, status: &str) -> Usage {
        // Linux reports to user space in ticks of a hundredth of a second on every architecture (USER_HZ).
        const TICK: Duration = Duration::from_millis(10);
        // The second field is the program's name in parentheses, which may hold spaces.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3)?.parse::<u32>().ok();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|peak| peak.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        Usage {
            cpu: ticks(14).zip(ticks(15)).map(|(user, system)| TICK * (user + system)),
            memory_peak_bytes: kib.map(|kib| kib * 1_024),
        }
    }
}

/// Which characters a terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glyphs {
    /// Lines and marks.
    Utf8,
    /// Nothing beyond ASCII.
    Ascii,
}

/// The summary, ending in a newline. `width` is the terminal's.
pub fn summary(metrics: &Metrics, ran: &Ran, width: u16, glyphs: Glyphs) -> String {
    let page = Page { width: width.min(WIDTH_MAX), glyphs };
    let mut text = format!("{}: {} records\n", ran.flow, grouped(total(&metrics.source_records) as u64));
    page.section(&mut text, inputs(metrics, ran, glyphs));
    page.section(&mut text, readings(metrics));
    page.section(&mut text, alarms(metrics));
    page.section(&mut text, sinks(metrics));
    page.section(&mut text, cost(metrics, ran));
    if !ran.look.is_empty() {
        text.push('\n');
        let widest = ran.look.iter().map(|(what, _)| what.chars().count()).max().unwrap_or_default();
        for (what, place) in &ran.look {
            let _ = writeln!(text, "{what:widest$}  {place}");
        }
    }
    text
}

struct Page {
    width: u16,
    glyphs: Glyphs,
}

impl Page {
    /// Appends a table; one without rows is left out.
    fn section(&self, text: &mut String, mut table: Table) {
        if table.is_empty() {
            return;
        }
        let style = match self.glyphs {
            Glyphs::Utf8 => presets::UTF8_FULL_CONDENSED,
            Glyphs::Ascii => presets::ASCII_FULL_CONDENSED,
        };
        table.load_style(style).set_content_arrangement(ContentArrangement::Dynamic).set_width(self.width);
        let _ = writeln!(text, "{}", table.trim_fmt());
    }
}

fn inputs(metrics: &Metrics, ran: &Ran, glyphs: Glyphs) -> Table {
    let inputs = samples(&metrics.inputs);
    let sum = sum_of(&inputs);
    let mut table = table(["inputs", "count", "share", "why"]);
    for outcome in Outcome::ALL {
        let reasons: Vec<&Sample> = inputs.iter().filter(|s| s.label("outcome") == outcome.name()).collect();
        let count: u64 = reasons.iter().map(|sample| sample.value as u64).sum();
        table.add_row(row([outcome.name().to_owned(), grouped(count), share(count, sum), why(&reasons)]));
    }
    let read = ran.resources.unwrap_or_else(|| total(&metrics.source_records) as u64);
    let verdict = match ran.part {
        Some((process, processes)) => {
            format!("{} were read here: process {process} of 0 to {}", grouped(read), processes - 1)
        }
        None => verdict(sum, read, ran.cut_short, glyphs),
    };
    table.add_row(row(["all".to_owned(), grouped(sum), String::new(), verdict]));
    table
}

/// Whether every resource that was read ended somewhere.
fn verdict(sum: u64, read: u64, cut_short: bool, glyphs: Glyphs) -> String {
    let (good, bad) = match glyphs {
        Glyphs::Utf8 => ("✓", "✗"),
        Glyphs::Ascii => ("ok:", "WRONG:"),
    };
    match read.checked_sub(sum) {
        Some(0) => format!("{good} as many as were read"),
        Some(missing) if cut_short => format!("{} read and not judged: the run was cut short", grouped(missing)),
        Some(missing) => format!("{bad} {} were read: {} are missing", grouped(read), grouped(missing)),
        None => format!("{bad} only {} were read: {} counted twice", grouped(read), grouped(sum - read)),
    }
}

/// The most frequent reasons with their counts.
fn why(reasons: &[&Sample]) -> String {
    let mut named: Vec<(&str, u64)> = reasons.iter().map(|s| (s.label("reason"), s.value as u64)).collect();
    named.retain(|(reason, count)| !reason.is_empty() && *count > 0);
    named.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let rest: u64 = named.iter().skip(REASONS_MAX).map(|(_, count)| count).sum();
    let mut words: Vec<String> =
        named.iter().take(REASONS_MAX).map(|(reason, count)| format!("{reason} {}", grouped(*count))).collect();
    if rest > 0 {
        words.push(format!("further {}", grouped(rest)));
    }
    words.join(", ")
}

fn readings(metrics: &Metrics) -> Table {
    let categories = samples(&metrics.readings);
    let sum = sum_of(&categories);
    let mut table = table(["readings", "count", "share"]);
    for sample in &categories {
        let count = sample.value as u64;
        table.add_row(row([named(sample.label("category"), "uncategorised"), grouped(count), share(count, sum)]));
    }
    table
}

fn alarms(metrics: &Metrics) -> Table {
    let mut table = table(["alarms and windows", "count"]);
    for sample in samples(&metrics.alarms) {
        let reason = named(sample.label("reason"), "unnamed");
        table.add_row(row([format!("alarm: {reason}"), grouped(sample.value as u64)]));
    }
    for sample in samples(&metrics.windows) {
        let revision = sample.label("revision");
        table.add_row(row([format!("windows: {revision}"), grouped(sample.value as u64)]));
    }
    let patients = metrics.patients.get().max(0) as u64;
    table.add_row_if(|_, _| patients > 0, row(["patients in state".to_owned(), grouped(patients)]));
    table
}

fn sinks(metrics: &Metrics) -> Table {
    let mut rows: BTreeMap<String, (Vec<String>, Vec<String>)> = BTreeMap::new();
    for sample in samples(&metrics.sink_records) {
        let (tables, counts) = rows.entry(sample.label("sink").to_owned()).or_default();
        tables.push(sample.label("table").to_owned());
        counts.push(grouped(sample.value as u64));
    }
    let of = |metric: &prometheus::IntCounterVec, sink: &str| {
        let samples = samples(metric);
        samples.iter().filter(|sample| sample.label("sink") == sink).map(|sample| sample.value as u64).sum::<u64>()
    };
    // A batch is a request that was sent or a file that was finished.
    let mut table = table(["sink", "table", "rows", "batches", "bytes", "retried", "refused"]);
    for (sink, (tables, counts)) in rows {
        let count = |metric| grouped(of(metric, &sink));
        table.add_row(row([
            sink.clone(),
            tables.join("\n"),
            counts.join("\n"),
            count(&metrics.sink_batches),
            short_bytes(of(&metrics.sink_bytes, &sink)),
            count(&metrics.sink_retries),
            count(&metrics.sink_rejected_items),
        ]));
    }
    table
}

fn cost(metrics: &Metrics, ran: &Ran) -> Table {
    let records = total(&metrics.source_records);
    let wall = ran.wall.as_secs_f64();
    let mut table = table(["cost", ""]);
    let mut add = |what: &str, figure: String| {
        table.add_row(row([what.to_owned(), figure]));
    };
    add("wall time", format!("{wall:.1} s"));
    if wall > 0.0 {
        add("records a second", short(records / wall));
    }
    if let Some(cpu) = ran.usage.cpu {
        add("CPU time", format!("{:.2} s", cpu.as_secs_f64()));
        if records > 0.0 {
            add("CPU time a million records", format!("{:.2} s", cpu.as_secs_f64() * 1e6 / records));
        }
    }
    if let Some(bytes) = ran.usage.memory_peak_bytes {
        add("memory, peak resident", format!("{} MiB", grouped(bytes >> 20)));
    }
    table
}

fn table<const N: usize>(names: [&str; N]) -> Table {
    let mut table = Table::new();
    table.set_header(row(names.map(str::to_owned)));
    table
}

/// A row: text to the left, whatever looks like a number to the right.
fn row<const N: usize>(cells: [String; N]) -> Vec<Cell> {
    let numeric = |text: &str| {
        let figure = |line: &str| line.starts_with(|first: char| first.is_ascii_digit()) && line.len() < 16;
        text.lines().all(figure) || ["count", "share", "rows", "batches", "bytes", "retried", "refused"].contains(&text)
    };
    let aligned = |text: String| {
        let alignment = if numeric(&text) { CellAlignment::Right } else { CellAlignment::Left };
        Cell::new_owned(text).set_alignment(alignment)
    };
    cells.into_iter().map(aligned).collect()
}

fn named(label: &str, otherwise: &str) -> String {
    if label.is_empty() { otherwise.to_owned() } else { label.to_owned() }
}

fn sum_of(samples: &[Sample]) -> u64 {
    samples.iter().map(|sample| sample.value as u64).sum()
}

fn share(part: u64, sum: u64) -> String {
    if sum == 0 { String::new() } else { format!("{:.2} %", 100.0 * part as f64 / sum as f64) }
}

/// Digits in groups of three.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn metrics() -> Metrics {
        let m = Metrics::new();
        for (outcome, reason, count) in [
            ("contributed", "", 981_230),
            ("superseded", "newer_version", 1_204),
            ("duplicate", "same_version", 4_412),
            ("late", "beyond_lateness", 87),
            ("ignored", "other_resource_type", 10_955),
            ("ignored", "no_configured_signal", 102),
            ("rejected", "unit_missing", 1_511),
            ("rejected", "subject_missing", 402),
            ("rejected", "implausible_value", 61),
            ("rejected", "effective_missing", 31),
            ("rejected", "json_syntax", 4),
            ("rejected", "clock_ahead", 1),
        ] {
            m.inputs.with_label_values(&[outcome, reason]).inc_by(count);
        }
        m.source_records.with_label_values(&["bp-obs", "0"]).inc_by(600_000);
        m.source_records.with_label_values(&["bp-obs", "1"]).inc_by(400_000);
        for (category, count) in [("normal", 612_000), ("stage 1", 300_000), ("", 69_230)] {
            m.readings.with_label_values(&[category]).inc_by(count);
        }
        m.alarms.with_label_values(&["hypertension_systolic"]).inc_by(2_311);
        m.windows.with_label_values(&["first"]).inc_by(140_022);
        m.windows.with_label_values(&["revised"]).inc_by(733);
        m.patients.set(3_999);
        for (table, count) in [("readings", 981_317), ("windows", 140_755), ("rejected", 2_010), ("shifts", 60)] {
            m.sink_records.with_label_values(&["parquet", table]).inc_by(count);
        }
        m.sink_records.with_label_values(&["elasticsearch", "readings"]).inc_by(981_317);
        m.sink_batches.with_label_values(&["parquet"]).inc_by(12);
        m.sink_batches.with_label_values(&["elasticsearch"]).inc_by(491);
        m.sink_bytes.with_label_values(&["elasticsearch"]).inc_by(512_000_400);
        m.sink_bytes.with_label_values(&["parquet"]).inc_by(48_211_304);
        m.sink_retries.with_label_values(&["elasticsearch"]).inc_by(3);
        m
    }

    fn ran() -> Ran {
        Ran {
            flow: "blood_pressure".into(),
            wall: Duration::from_millis(12_340),
            usage: Usage { cpu: Some(Duration::from_millis(910)), memory_peak_bytes: Some(187 << 20) },
            look: vec![
                ("live page".into(), "http://127.0.0.1:9187/".into()),
                ("readings".into(), "windkessel-data/readings/".into()),
            ],
            ..Ran::default()
        }
    }

    fn check(width: u16, glyphs: Glyphs, expected: Expect) {
        let text = summary(&metrics(), &ran(), width, glyphs);
        assert!(text.lines().all(|line| line.chars().count() <= usize::from(width)), "{text}");
        expected.assert_eq(&text);
    }

    #[test]
    fn a_summary_fits_eighty_columns() {
        check(
            80,
            Glyphs::Utf8,
            expect![[r#"
            blood_pressure: 1,000,000 records
            ┌─────────────┬───────────┬─────────┬──────────────────────────────────────────┐
            │ inputs      ┆     count ┆   share ┆ why                                      │
            ╞═════════════╪═══════════╪═════════╪══════════════════════════════════════════╡
            │ contributed ┆   981,230 ┆ 98.12 % ┆                                          │
            │ superseded  ┆     1,204 ┆  0.12 % ┆ newer_version 1,204                      │
            │ duplicate   ┆     4,412 ┆  0.44 % ┆ same_version 4,412                       │
            │ late        ┆        87 ┆  0.01 % ┆ beyond_lateness 87                       │
            │ ignored     ┆    11,057 ┆  1.11 % ┆ other_resource_type 10,955,              │
            │             ┆           ┆         ┆ no_configured_signal 102                 │
            │ rejected    ┆     2,010 ┆  0.20 % ┆ unit_missing 1,511, subject_missing 402, │
            │             ┆           ┆         ┆ implausible_value 61, effective_missing  │
            │             ┆           ┆         ┆ 31, further 5                            │
            │ all         ┆ 1,000,000 ┆         ┆ ✓ as many as were read                   │
            └─────────────┴───────────┴─────────┴──────────────────────────────────────────┘
            ┌───────────────┬─────────┬─────────┐
            │ readings      ┆   count ┆   share │
            ╞═══════════════╪═════════╪═════════╡
            │ uncategorised ┆  69,230 ┆  7.06 % │
            │ normal        ┆ 612,000 ┆ 62.37 % │
            │ stage 1       ┆ 300,000 ┆ 30.57 % │
            └───────────────┴─────────┴─────────┘
            ┌──────────────────────────────┬─────────┐
            │ alarms and windows           ┆   count │
            ╞══════════════════════════════╪═════════╡
            │ alarm: hypertension_systolic ┆   2,311 │
            │ windows: first               ┆ 140,022 │
            │ windows: revised             ┆     733 │
            │ patients in state            ┆   3,999 │
            └──────────────────────────────┴─────────┘
            ┌───────────────┬──────────┬─────────┬─────────┬─────────┬─────────┬─────────┐
            │ sink          ┆ table    ┆    rows ┆ batches ┆   bytes ┆ retried ┆ refused │
            ╞═══════════════╪══════════╪═════════╪═════════╪═════════╪═════════╪═════════╡
            │ elasticsearch ┆ readings ┆ 981,317 ┆     491 ┆  512 MB ┆       3 ┆       0 │
            │ parquet       ┆ readings ┆ 981,317 ┆      12 ┆ 48.2 MB ┆       0 ┆       0 │
            │               ┆ rejected ┆   2,010 ┆         ┆         ┆         ┆         │
            │               ┆ shifts   ┆      60 ┆         ┆         ┆         ┆         │
            │               ┆ windows  ┆ 140,755 ┆         ┆         ┆         ┆         │
            └───────────────┴──────────┴─────────┴─────────┴─────────┴─────────┴─────────┘
            ┌────────────────────────────┬─────────┐
            │ cost                       ┆         │
            ╞════════════════════════════╪═════════╡
            │ wall time                  ┆  12.3 s │
            │ records a second           ┆  81.0 k │
            │ CPU time                   ┆  0.91 s │
            │ CPU time a million records ┆  0.91 s │
            │ memory, peak resident      ┆ 187 MiB │
            └────────────────────────────┴─────────┘

            live page  http://127.0.0.1:9187/
            readings   windkessel-data/readings/
        "#]],
        );
    }

    #[test]
    fn a_plain_summary_is_ascii() {
        let text = summary(&metrics(), &ran(), 200, Glyphs::Ascii);
        assert!(text.is_ascii(), "{text}");
        assert!(text.lines().all(|line| line.len() <= usize::from(WIDTH_MAX)));
        assert!(text.contains("ok: as many as were read"));
    }

    #[test]
    fn inputs_that_do_not_add_up_are_said() {
        let text = |read, cut_short| verdict(10, read, cut_short, Glyphs::Utf8);
        assert_eq!(text(10, false), "✓ as many as were read");
        assert_eq!(text(12, false), "✗ 12 were read: 2 are missing");
        assert_eq!(text(12, true), "2 read and not judged: the run was cut short");
        assert_eq!(text(9, true), "✗ only 9 were read: 1 counted twice");
        let bundles = Ran { resources: Some(1_000_007), ..ran() };
        assert!(summary(&metrics(), &bundles, 80, Glyphs::Utf8).contains("7 are missing"));
    }

    #[test]
    fn a_run_without_input_has_a_summary() {
        let text = summary(&Metrics::new(), &Ran::default(), 80, Glyphs::Utf8);
        assert!(text.contains("0 records") && text.contains("as many as were read"), "{text}");
    }

    #[test]
    fn usage_is_read_from_proc() {
        let stat = "4242 (a (strange) name) S 1 2 3 4 5 6 7 8 9 10 1203 97 0 0 20 0 4 0 99";
        let status = "Name:\twindkessel\nVmPeak:\t  999999 kB\nVmHWM:\t  190464 kB\nThreads:\t4\n";
        let expected = Usage { cpu: Some(Duration::from_millis(13_000)), memory_peak_bytes: Some(190_464 * 1_024) };
        assert_eq!(Usage::parse(stat, status), expected);
        assert_eq!(Usage::parse("", ""), Usage::default());
        #[cfg(target_os = "linux")]
        assert!(Usage::of_process().memory_peak_bytes.is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn digits_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
