//! One line on standard error while a run goes on; where that is no terminal, one log line every ten seconds.
//!
//! ```text
//! ⠹ 1.24 M records · 145 k/s · 1.20 M readings · 312 alarms · lag 12.4 k · 0:42
//! ```
//!
//! Invariants: the line is one line whatever the terminal's width (the least telling figures go first), it shows what `/metrics` shows, and log
//! lines do not run into it as long as they are written through [`Terminal::writer`]. It never writes to standard output and asks nothing.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::runtime::metrics::{Metrics, total};

/// The line is drawn this often …
const DRAW: Duration = Duration::from_millis(250);
/// … and a log line written this often.
const LOG: Duration = Duration::from_secs(10);
/// Records a second are the mean over this long.
const SPEED: Duration = Duration::from_secs(5);
/// What a terminal that does not say is taken to be.
const WIDTH_USUAL: usize = 80;
/// The spinner and a column that stays free: some terminals wrap when the last one is written.
const WIDTH_TAKEN: usize = 3;

/// Standard error, shared by the progress line and the log. Made once, before logging is set up.
#[derive(Clone)]
pub struct Terminal {
    bar: ProgressBar,
}

impl Terminal {
    /// No line is shown until [`Progress::start`].
    pub fn stderr() -> Self {
        Terminal { bar: ProgressBar::hidden() }
    }

    /// What a log subscriber writes with (`fmt().with_writer(…)`): the line steps aside meanwhile.
    pub fn writer(&self) -> impl Fn() -> LogWriter + Send + Sync + 'static {
        let bar = self.bar.clone();
        move || LogWriter { bar: bar.clone() }
    }
}

/// Writes to standard error beside the progress line.
pub struct LogWriter {
    bar: ProgressBar,
}

impl Write for LogWriter {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.bar.suspend(|| io::stderr().write(text))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// The line while it is shown. Dropping it takes it away.
pub struct Progress {
    end: Option<mpsc::Sender<()>>,
    join: Option<JoinHandle<()>>,
}

impl Progress {
    /// Shows the line, or logs where standard error is no terminal, on a thread of its own.
    pub fn start(metrics: &Metrics, terminal: &Terminal) -> Progress {
        let (end, ended) = mpsc::channel();
        let (metrics, bar) = (metrics.clone(), terminal.bar.clone());
        let work =
            move || if io::stderr().is_terminal() { draw(&metrics, &bar, &ended) } else { log(&metrics, &ended) };
        // Without a thread to spare the run goes on unwatched.
        let join = std::thread::Builder::new().name("progress".into()).spawn(work).ok();
        Progress { end: Some(end), join }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.end.take());
        self.join.take().map(JoinHandle::join);
    }
}

fn draw(metrics: &Metrics, bar: &ProgressBar, ended: &mpsc::Receiver<()>) {
    bar.set_draw_target(ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("a constant template"));
    each(metrics, DRAW, ended, |figures| {
        bar.set_message(line(figures, terminal_width().saturating_sub(WIDTH_TAKEN)));
        bar.tick();
    });
    bar.finish_and_clear();
    bar.set_draw_target(ProgressDrawTarget::hidden());
}

fn log(metrics: &Metrics, ended: &mpsc::Receiver<()>) {
    each(metrics, LOG, ended, |figures| {
        tracing::info!(
            records = figures.records,
            records_per_second = figures.records_per_second.round(),
            readings = figures.readings,
            rejected = figures.rejected,
            alarms = figures.alarms,
            lag_records = figures.lag,
            inflight_epochs = figures.inflight_epochs,
            elapsed_seconds = figures.elapsed.as_secs(),
            "under way"
        );
    });
}

/// Calls `show` every `period` until the sender is gone.
fn each(metrics: &Metrics, period: Duration, ended: &mpsc::Receiver<()>, mut show: impl FnMut(&Figures)) {
    let (start, mut speed) = (Instant::now(), Speed::default());
    while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(period) {
        let mut figures = Figures::of(metrics, start.elapsed());
        figures.records_per_second = speed.after(figures.elapsed, figures.records);
        show(&figures);
    }
}

/// Columns of the terminal behind standard error.
pub fn terminal_width() -> usize {
    terminal_size::terminal_size_of(io::stderr()).map_or(WIDTH_USUAL, |(width, _)| usize::from(width.0))
}

/// What the line shows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Records read.
    pub records: u64,
    /// Mean of the last seconds.
    pub records_per_second: f64,
    /// Bytes read.
    pub bytes: u64,
    /// Readings scored.
    pub readings: u64,
    /// Inputs rejected.
    pub rejected: u64,
    /// Alarms raised.
    pub alarms: u64,
    /// Records known to wait.
    pub lag: u64,
    /// Epochs read and not settled.
    pub inflight_epochs: u64,
    /// Since the start.
    pub elapsed: Duration,
}

impl Figures {
    /// As the metrics stand; the speed is the caller's, who sees more than one moment.
    pub fn of(metrics: &Metrics, elapsed: Duration) -> Figures {
        let rejected = crate::runtime::metrics::samples(&metrics.inputs);
        let rejected = rejected.iter().filter(|sample| sample.label("outcome") == "rejected");
        Figures {
            records: total(&metrics.source_records) as u64,
            records_per_second: 0.0,
            bytes: total(&metrics.source_bytes) as u64,
            readings: total(&metrics.readings) as u64,
            rejected: rejected.map(|sample| sample.value as u64).sum(),
            alarms: total(&metrics.alarms) as u64,
            lag: total(&metrics.source_lag) as u64,
            inflight_epochs: metrics.inflight_epochs.get().max(0) as u64,
            elapsed,
        }
    }
}

/// The figures in at most `width` columns. Elapsed time and records stay longest.
pub fn line(figures: &Figures, width: usize) -> String {
    // In the order shown, each with its rank: the highest rank is left out first.
    let mut parts = vec![
        (1, format!("{} records", short(figures.records as f64))),
        (2, format!("{}/s", short(figures.records_per_second))),
        (8, format!("{} read", short_bytes(figures.bytes))),
        (4, format!("{} readings", short(figures.readings as f64))),
        (5, format!("{} alarms", short(figures.alarms as f64))),
        (7, format!("{} rejected", short(figures.rejected as f64))),
        (3, format!("lag {}", short(figures.lag as f64))),
        (6, format!("{} epochs under way", figures.inflight_epochs)),
        (0, clock(figures.elapsed)),
    ];
    loop {
        let text = parts.iter().map(|(_, part)| part.as_str()).collect::<Vec<_>>().join(" · ");
        if text.chars().count() <= width || parts.len() == 1 {
            return text.chars().take(width).collect();
        }
        let dropped = parts.iter().map(|(rank, _)| *rank).max();
        parts.retain(|(rank, _)| Some(*rank) != dropped);
    }
}

/// Three figures and a decimal prefix: `999`, `1.24 k`, `145 k`, `1.20 M`.
pub fn short(value: f64) -> String {
    let (mut value, mut prefix) = (value, "");
    for next in [" k", " M", " G", " T"] {
        // 999.5 would print as 1000.
        if value < 999.5 {
            break;
        }
        (value, prefix) = (value / 1_000.0, next);
    }
    let decimals = match value {
        _ if prefix.is_empty() => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}{prefix}")
}

/// Likewise, of bytes: `0 B`, `48.2 MB`.
pub fn short_bytes(bytes: u64) -> String {
    let text = short(bytes as f64);
    if bytes < 1_000 { text + " B" } else { text + "B" }
}

/// `0:42`, `12:05`, `3:04:05`.
fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// Records a second over the last [`SPEED`].
#[derive(Default)]
struct Speed(VecDeque<(Duration, u64)>);

impl Speed {
    fn after(&mut self, elapsed: Duration, records: u64) -> f64 {
        self.0.push_back((elapsed, records));
        while self.0.len() > 2 && self.0[1].0 + SPEED <= elapsed {
            self.0.pop_front();
        }
        let (since, before) = self.0[0];
        let span = (elapsed - since).as_secs_f64();
        if span > 0.0 { (records - before) as f64 / span } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    const FIGURES: Figures = Figures {
        records: 1_238_400,
        records_per_second: 145_210.4,
        bytes: 1_486_000_000,
        readings: 1_201_345,
        rejected: 8_112,
        alarms: 312,
        lag: 12_400,
        inflight_epochs: 3,
        elapsed: Duration::from_secs(42),
    };

    fn check(width: usize, expected: Expect) {
        let text = line(&FIGURES, width);
        assert!(text.chars().count() <= width);
        expected.assert_eq(&text);
    }

    #[test]
    fn the_line_fits_and_drops_the_least_telling_first() {
        check(
            200,
            expect![
                "1.24 M records · 145 k/s · 1.49 GB read · 1.20 M readings · 312 alarms · 8.11 k rejected · lag 12.4 k · 3 epochs under way · 0:42"
            ],
        );
        check(80, expect!["1.24 M records · 145 k/s · 1.20 M readings · 312 alarms · lag 12.4 k · 0:42"]);
        check(40, expect!["1.24 M records · 145 k/s · 0:42"]);
        check(5, expect!["0:42"]);
        (0..220).for_each(|width| assert!(line(&FIGURES, width).chars().count() <= width));
    }

    #[test]
    fn numbers_have_three_figures() {
        let written: Vec<String> =
            [0.0, 7.4, 999.0, 999.5, 1_000.0, 9_994.0, 9_996.0, 99_960.0, 999_499.0, 999_500.0, 3e12]
                .into_iter()
                .map(short)
                .collect();
        let expected = ["0", "7", "999", "1.00 k", "1.00 k", "9.99 k", "10.0 k", "100 k", "999 k", "1.00 M", "3.00 T"];
        assert_eq!(written, expected);
        assert_eq!([0, 999, 1_000, 48_211_304].map(short_bytes), ["0 B", "999 B", "1.00 kB", "48.2 MB"]);
    }

    #[test]
    fn elapsed_time_reads_like_a_clock() {
        let written = [0, 59, 60, 3_599, 3_600, 90_061].map(|seconds| clock(Duration::from_secs(seconds)));
        assert_eq!(written, ["0:00", "0:59", "1:00", "59:59", "1:00:00", "25:01:01"]);
    }

    #[test]
    fn speed_is_that_of_the_last_seconds() {
        let mut speed = Speed::default();
        let seconds = Duration::from_secs;
        assert_eq!(speed.after(seconds(0), 0), 0.0);
        assert_eq!(speed.after(seconds(2), 20), 10.0);
        assert_eq!(speed.after(seconds(5), 50), 10.0);
        assert_eq!(speed.after(seconds(10), 50), 0.0);
        assert_eq!(speed.after(seconds(11), 60), 10.0 / 6.0);
    }

    #[test]
    fn the_line_says_what_the_metrics_say() {
        let metrics = Metrics::new();
        metrics.source_records.with_label_values(&["bp-obs", "0"]).inc_by(5);
        metrics.source_records.with_label_values(&["bp-obs", "1"]).inc_by(6);
        metrics.inputs.with_label_values(&["rejected", "unit_missing"]).inc_by(2);
        metrics.inputs.with_label_values(&["contributed", ""]).inc_by(9);
        let figures = Figures::of(&metrics, Duration::ZERO);
        assert_eq!((figures.records, figures.rejected), (11, 2));
        // It ends when dropped, whatever standard error is.
        drop(Progress::start(&metrics, &Terminal::stderr()));
    }
}
