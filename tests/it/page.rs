//! Proves that the live page shows what the engine says: a real headless Chromium reads it, and each figure is compared with `/metrics`, with the
//! snapshot, and with the rows that another sink of the same run wrote. The page asks nobody but its own server, logs no error, fits
//! a screen of 320 pixels, and can be used with the keyboard alone.
//!
//! It needs `chromium` and a Python with Playwright, named by `WINDKESSEL_TEST_PYTHON`; else it is skipped aloud. `WINDKESSEL_SCREENSHOTS=docs`
//! writes the pictures of the README.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{Row, Running, finish, get, integer, metric, ndjson, repository, windkessel};

/// What the browser saw, or `None` where there is none.
fn look(url: &str) -> Option<Value> {
    let missing = |what: &str| -> Option<Value> {
        assert!(std::env::var_os("WINDKESSEL_REQUIRE_SERVICES").is_none(), "{what}");
        eprintln!("skipped: the live page in a browser: {what}");
        None
    };
    let Some(python) = std::env::var_os("WINDKESSEL_TEST_PYTHON") else {
        return missing("WINDKESSEL_TEST_PYTHON is not set");
    };
    let has = |program: &str| Command::new(program).arg("--version").output().is_ok();
    if !["chromium", "chromium-browser", "google-chrome"].into_iter().any(has) {
        return missing("chromium is not installed");
    }
    let playwright = Command::new(&python).args(["-c", "import playwright"]).output();
    if !playwright.is_ok_and(|output| output.status.success()) {
        return missing("Playwright is not installed");
    }
    let mut command = Command::new(python);
    command.current_dir(repository("")).arg("tests/it/page.py").arg(url);
    command.args(std::env::var_os("WINDKESSEL_SCREENSHOTS"));
    Some(serde_json::from_str(&finish(&mut command).succeeded().out).unwrap())
}

/// A figure as the page writes it, without its commas.
fn number(text: &Value) -> f64 {
    let text = text.as_str().unwrap();
    text.replace(',', "").parse().unwrap_or_else(|_| panic!("{text:?} is no figure"))
}

/// The rows of one of the page's tables: the first cell, and the others.
fn table(seen: &Value, name: &str) -> Vec<(String, Vec<Value>)> {
    let row = |row: &Value| {
        let cells = row.as_array().unwrap();
        (cells[0].as_str().unwrap().to_owned(), cells[1..].to_vec())
    };
    seen[name].as_array().unwrap().iter().map(row).collect()
}

/// Of each observation the row that stands: the last one, by epoch and place.
fn newest(data: &Path) -> Vec<Row> {
    let mut rows = ndjson(data, "readings");
    rows.sort_by_key(|row| (integer(row, "epoch"), integer(row, "offset")));
    let last: BTreeMap<String, Row> = rows.into_iter().map(|row| (row["observation"].to_string(), row)).collect();
    last.into_values().collect()
}

/// A patient's readings as the files have them: the last version of each, withdrawn ones left out, newest measurement first.
fn standing(data: &Path, patient: &Value) -> Vec<Row> {
    let mut rows = newest(data);
    rows.retain(|row| row["patient"] == *patient && row.contains_key("systolic_mmhg"));
    rows.sort_by_key(|row| std::cmp::Reverse(row["effective_at"].as_str().unwrap().to_owned()));
    rows
}

/// Pressures as the page writes them.
fn pressures(row: &Row) -> String {
    let part = |column: &str| {
        let rounded = (row[column].as_f64().unwrap() * 10.0).round() / 10.0;
        rounded.to_string()
    };
    format!("{} / {}", part("systolic_mmhg"), part("diastolic_mmhg"))
}

#[test]
fn the_live_page_shows_what_the_engine_says() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = windkessel(folder.path());
    demo.args(["demo", "--observations", "9000", "--patients", "60", "--rate", "3000", "--stay"]);
    demo.args(["--listen", "127.0.0.1:0", "--output", "out"]);
    for setting in ["audit.window=\"1h\"", "audit.reference_windows=2", "audit.readings_min=20"] {
        demo.args(["--set", setting]);
    }
    let mut demo = Running::start(&mut demo);
    let url = demo.url();
    demo.until("the end of the run", |running| running.err().contains("still serving").then_some(()));
    let Some(seen) = look(&url) else { return };
    let metrics = get(&format!("{url}/metrics")).unwrap();
    let snapshot: Value = serde_json::from_str(&get(&format!("{url}/api/v1/snapshot")).unwrap()).unwrap();
    figures_agree(&seen, &metrics, &snapshot);
    alerts_agree(&seen, &snapshot, &folder.path().join("out"));
    histograms_agree(&seen, &folder.path().join("out"));
    let stages = ["source", "decode", "pseudonymise", "patient", "score", "audit", "tables"];
    assert_eq!(seen["stages"], serde_json::json!(stages));
    for stage in stages {
        let busy = metric(&metrics, "windkessel_operator_busy_seconds_total", &format!("operator=\"{stage}\""));
        assert!(busy > 0.0, "{stage}");
    }
    assert!(number(&seen["charts"].to_string().into()) >= 2.0);
    assert_eq!(seen["first_tab"], "Skip to the figures");
    assert_eq!(seen["paused"], "Paused");
    demo.signal("TERM");
}

fn figures_agree(seen: &Value, metrics: &str, snapshot: &Value) {
    let of = |name: &str, label: &str| metric(metrics, name, label);
    assert_eq!(number(&seen["readings"]), snapshot["readings"]["count"].as_f64().unwrap());
    assert_eq!(number(&seen["patients"]), of("windkessel_patients", ""));
    assert_eq!(number(&seen["alarms"]), of("windkessel_alerts_total", ""));
    assert_eq!(number(&seen["lag"]), of("windkessel_source_lag_records", ""));
    let rejected = of("windkessel_inputs_total", "outcome=\"rejected\"");
    assert!(rejected > 0.0);
    assert_eq!(number(&seen["rejected"]), rejected);
    for (outcome, cells) in table(seen, "outcome_rows") {
        assert_eq!(number(&cells[0]), of("windkessel_inputs_total", &format!("outcome=\"{outcome}\"")), "{outcome}");
    }
    for (reason, cells) in table(seen, "reason_rows") {
        let label = format!("outcome=\"rejected\",reason=\"{}\"", reason.replace(' ', "_"));
        assert_eq!(number(&cells[0]), of("windkessel_inputs_total", &label), "{reason}");
    }
    let sinks = table(seen, "sink_rows");
    assert_eq!(sinks.len(), 3, "{sinks:?}");
    for (sink, cells) in sinks {
        assert_eq!(number(&cells[0]), of("windkessel_sink_records_total", &format!("sink=\"{sink}\"")), "{sink}");
    }
    let partitions = table(seen, "lag_rows");
    assert_eq!(partitions.len(), 8);
    for (partition, cells) in partitions {
        let label = format!("partition=\"{}\"", partition.rsplit(" / ").next().unwrap());
        assert_eq!(number(&cells[0]), of("windkessel_source_lag_records", &label), "{partition}");
        let watermark = of("windkessel_source_watermark_timestamp_seconds", &label);
        let reached = jiff::Timestamp::from_second(watermark as i64).unwrap().to_string();
        // The browser writes local time; minutes and seconds are those of any zone of full hours.
        assert!(cells[1].as_str().unwrap().ends_with(&reached[13..19]), "{partition}: {} is not {reached}", cells[1]);
    }
    let drift: BTreeMap<String, f64> = table(seen, "drift_rows")
        .into_iter()
        .filter(|(_, cells)| cells[1] != "–")
        .map(|(feature, cells)| (feature, number(&cells[1])))
        .collect();
    assert!(!drift.is_empty());
    for (feature, psi) in drift.iter().filter(|(feature, _)| !feature.contains('=')) {
        let label = format!("feature=\"{}\",group=\"all\"", feature.replace(' ', "_"));
        assert!((of("windkessel_drift_psi", &label) - psi).abs() <= 0.0005, "{feature}");
    }
}

/// Where most readings lie, in the words of the page.
fn mode(row: &Row, column: &str) -> String {
    let numbers =
        |column: &str| row[column].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect::<Vec<f64>>();
    let (edges, bins) = (numbers("bin_edges"), numbers(column));
    let most = bins.iter().fold(0.0_f64, |most, count| most.max(*count));
    let bin = bins.iter().position(|count| *count == most).unwrap();
    assert_eq!(edges.len(), bins.len() + 1);
    match bin {
        0 => format!("below {}", edges[1]),
        last if last + 1 == bins.len() => format!("from {}", edges[last]),
        bin => format!("{} to {}", edges[bin], edges[bin + 1]),
    }
}

/// The histograms are those of the newest rows of `shifts`.
fn histograms_agree(seen: &Value, data: &Path) {
    let mut rows = ndjson(data, "shifts");
    rows.sort_by_key(|row| (row["current_end"].as_str().unwrap().to_owned(), integer(row, "epoch")));
    for feature in ["systolic", "diastolic"] {
        let row = rows.iter().rev().find(|row| row["feature"] == feature && row["group"] == "all").unwrap();
        let (reference, current) = (mode(row, "reference_bins"), mode(row, "current_bins"));
        let expected = format!("Most frequent in the reference: {reference} mmHg; now: {current} mmHg");
        assert_eq!(seen["histograms"][feature], expected.as_str());
    }
}

fn alerts_agree(seen: &Value, snapshot: &Value, data: &Path) {
    let alerts = snapshot["alerts"].as_array().unwrap();
    let shown = table(seen, "alert_rows");
    assert_eq!(shown.len(), alerts.len());
    let rows = newest(data);
    for (alert, (_, cells)) in alerts.iter().zip(&shown) {
        let row = rows.iter().find(|row| row["observation"] == alert["observation"]).unwrap();
        assert_eq!(cells[1], pressures(row).as_str());
        let reasons =
            row["reasons"].as_array().unwrap().iter().map(|reason| reason.as_str().unwrap().replace('_', " "));
        assert_eq!(cells[3], reasons.collect::<Vec<_>>().join("\n").as_str());
        let probability = row["probability"].as_f64().unwrap();
        assert!((number(&cells[4]) - probability).abs() <= 0.005 + 1e-9, "{}: {probability}", cells[4]);
        let moved = alert["contributions"].as_array().unwrap();
        assert_eq!(moved.len(), 3, "a model's three strongest: {alert}");
        let strongest = moved[0]["feature"].as_str().unwrap().replace('_', " ");
        assert!(cells[5].as_str().unwrap().lines().next().unwrap().ends_with(&strongest), "{}", cells[5]);
    }
    let patient = &seen["patient"];
    assert_eq!(patient["title"], alerts[0]["patient"]);
    let expected = standing(data, &patient["title"]);
    let shown = table(patient, "rows");
    assert!(expected.len() > 20, "{}", expected.len());
    assert_eq!(shown.len(), expected.len());
    for (row, (_, cells)) in expected.iter().zip(&shown) {
        assert_eq!(cells[0], pressures(row).as_str());
        assert_eq!(cells[2], row["category"].as_str().unwrap().replace('_', " ").as_str());
    }
    for kept in ["closed", "focus_is_back", "refuses_what_is_none"] {
        assert_eq!(patient[kept], true, "{kept}");
    }
}
