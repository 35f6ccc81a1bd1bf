//! Proves that `windkessel top` shows what `/metrics` and the live page say, at 80 and at 200 columns, and that it gives the terminal back.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Running, finish, get, metric, windkessel};

/// A run that has ended and is still served.
fn served(folder: &std::path::Path) -> (Running, String) {
    let mut demo = windkessel(folder);
    demo.args([
        "demo",
        "--observations",
        "3000",
        "--patients",
        "40",
        "--rate",
        "0",
        "--stay",
        "--listen",
        "127.0.0.1:0",
    ]);
    demo.args(["--set", "audit.window=\"1h\"", "--set", "audit.readings_min=5", "--set", "audit.reference_windows=1"]);
    let mut demo = Running::start(&mut demo);
    let url = demo.url();
    demo.until("the end of the run", |running| running.err().contains("still serving").then_some(()));
    (demo, url)
}

/// Thousands with commas.
fn grouped(number: f64) -> String {
    let digits = (number as u64).to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// The line that begins so, wherever its column stands.
fn row<'a>(frame: &'a str, name: &str) -> &'a str {
    let line = frame.lines().find_map(|line| line.find(name).map(|at| &line[at..]));
    line.unwrap_or_else(|| panic!("no {name:?} in\n{frame}"))
}

fn figures_agree(frame: &str, metrics: &str, snapshot: &Value) {
    for outcome in ["contributed", "superseded", "duplicate", "late", "ignored", "rejected"] {
        let count = metric(metrics, "windkessel_inputs_total", &format!("outcome=\"{outcome}\""));
        assert_eq!(
            row(frame, &format!("{outcome}  ")).split_whitespace().nth(1),
            Some(grouped(count).as_str()),
            "{outcome}"
        );
    }
    for sink in ["parquet  ", "ndjson  "] {
        let count = metric(metrics, "windkessel_sink_records_total", &format!("sink=\"{}\"", sink.trim()));
        let line = frame.lines().find(|line| line.contains(sink) && line.contains("settling")).unwrap();
        assert!(line.contains(&format!(" {}  settling", grouped(count))), "{line}");
    }
    let head =
        |name: &str, figure: f64| assert!(frame.contains(&format!("{} {name}", grouped(figure))), "{name}\n{frame}");
    head("patients", metric(metrics, "windkessel_patients", ""));
    head("alarms", metric(metrics, "windkessel_alerts_total", ""));
    head("readings", snapshot["readings"]["count"].as_f64().unwrap());
    let alert = &snapshot["alerts"][0];
    let shown = row(frame, alert["effective_at"].as_str().unwrap());
    assert!(shown.contains(&alert["patient"].as_str().unwrap()[..8]), "{shown}");
    assert!(shown.contains(alert["reasons"][0].as_str().unwrap()), "{shown}");
    let partition = &snapshot["source"]["lags"][0];
    let name = format!("bp-obs / {}", partition["partition"].as_str().unwrap());
    let reached = partition["watermark_seconds"].as_f64().unwrap() as i64;
    assert!(row(frame, &name).contains(&jiff::Timestamp::from_second(reached).unwrap().to_string()));
    let shift = snapshot["shifts"].as_array().unwrap().iter().find(|shift| shift["group"] == "all").unwrap();
    if let Some(psi) = shift["psi"].as_f64() {
        let line = row(frame, &format!("{:<34}", shift["feature"].as_str().unwrap()));
        assert!(line.contains(&format!("{psi:.3}")), "{line}");
    }
}

#[test]
fn a_frame_says_what_the_metrics_say_and_fits_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let (demo, url) = served(folder.path());
    let metrics = get(&format!("{url}/metrics")).unwrap();
    let snapshot: Value = serde_json::from_str(&get(&format!("{url}/api/v1/snapshot")).unwrap()).unwrap();
    for columns in [80, 200] {
        let mut top = windkessel(folder.path());
        let frame = finish(top.arg("top").arg(&url).env("COLUMNS", columns.to_string())).succeeded().out;
        assert!(!frame.contains('\u{1b}'), "no terminal, no escapes");
        for line in frame.lines() {
            assert!(line.chars().count() <= columns, "{columns}: {line}");
        }
        figures_agree(&frame, &metrics, &snapshot);
    }
    for (columns, rows) in [(80, 24), (200, 50)] {
        for key in [b"\x03".as_slice(), b"q"] {
            on_a_terminal(&url, columns, rows, key);
        }
    }
    demo.signal("TERM");
    let gone = finish(windkessel(folder.path()).args(["top", "127.0.0.1:1"]));
    assert_eq!((gone.code(), gone.last_words().contains("http.listen")), (Some(69), true), "{}", gone.err);
}

/// A real terminal of this size, which must be as before when the key has ended it.
fn on_a_terminal(url: &str, columns: usize, rows: usize, key: &[u8]) {
    if Command::new("script").arg("--version").output().is_err() {
        assert!(std::env::var_os("WINDKESSEL_REQUIRE_SERVICES").is_none(), "script is missing");
        eprintln!("skipped: top on a terminal: `script` of util-linux is not installed");
        return;
    }
    let binary = env!("CARGO_BIN_EXE_windkessel");
    let inner = format!("stty cols {columns} rows {rows}; stty -g; {binary} top {url}; echo \"ended $?\"; stty -g");
    let mut command = Command::new("script");
    command.args(["-qec", &inner, "/dev/null"]).stdin(Stdio::piped()).env("TERM", "xterm-256color");
    let mut running = Running::start(&mut command);
    let mut stdin = running.stdin();
    running.until("a frame", |running| running.out().contains("sinks, rows settled").then_some(()));
    stdin.write_all(key).unwrap();
    stdin.flush().unwrap();
    running.until("its end", |running| running.out().contains("ended ").then_some(()));
    drop(stdin);
    let said = running.wait(crate::support::DEADLINE).out;
    let (shown, after) = said.split_once("ended ").unwrap();
    assert!(after.starts_with('0'), "{after}");
    for escape in ["\u{1b}[?1049h", "\u{1b}[?1049l", "\u{1b}[?25l", "\u{1b}[?25h"] {
        assert!(shown.contains(escape), "{escape:?} was not sent");
    }
    let modes = |text: &str| text.split_whitespace().find(|word| word.matches(':').count() > 10).map(str::to_owned);
    assert!(modes(shown).is_some());
    assert_eq!(modes(shown), modes(after), "the terminal's modes are as before");
    frame_fits(shown, columns, rows);
}

/// What is written between two places of the cursor is within the terminal.
fn frame_fits(shown: &str, columns: usize, rows: usize) {
    let screen = shown.split("\u{1b}[?1049h").nth(1).unwrap().split("\u{1b}[?1049l").next().unwrap();
    let mut row = 0;
    let mut column = 0;
    let mut letters = screen.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter != '\u{1b}' {
            column += 1;
            assert!(column <= columns && row < rows, "row {row}, column {column}");
            continue;
        }
        let sequence: String = std::iter::from_fn(|| letters.next_if(|letter| !letter.is_ascii_alphabetic())).collect();
        if letters.next() == Some('H') {
            let mut place = sequence.trim_start_matches('[').split(';').map(|part| part.parse::<usize>().unwrap_or(1));
            (row, column) = (place.next().unwrap_or(1) - 1, place.next().unwrap_or(1) - 1);
        }
    }
}
