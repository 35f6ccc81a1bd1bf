//! Proves that the history of scheduled audits says what the tables say, each period once, whatever dies on the way: the run, or the database.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use postgres::{Client, NoTls};
use serde_json::{Value, json};

use crate::servers::{PASSWORD, Server, certify, postgres};
use crate::support::{
    DEADLINE, Row, Running, finish, instant, key_file, last_rows, ndjson, repository, text, windkessel,
};

const HOUR: i64 = 3_600_000_000;
const PERIOD: i64 = 6 * HOUR;
/// Of each table what its rows are about, besides the window.
const TABLES: [(&str, &[&str]); 4] = [
    ("shifts", &["feature", "group", "current_start", "current_end"]),
    ("quality", &["topic", "measure", "current_start", "current_end"]),
    ("performance", &["group", "current_start", "current_end"]),
    ("fairness", &["attribute", "group", "current_start", "current_end"]),
];

struct Stage {
    server: Server,
    /// With the authority, and the password's file.
    home: PathBuf,
    folder: tempfile::TempDir,
}

/// A row of the history.
#[derive(Clone, Debug, PartialEq)]
struct Kept {
    id: String,
    created_at: String,
    reference: (Option<String>, Option<String>),
    report_path: Option<String>,
    summary: Value,
}

impl Stage {
    fn new() -> Option<Stage> {
        let (server, home) = postgres()?;
        let folder = tempfile::tempdir().unwrap();
        let made = ["generate", "--output", "input.ndjson", "--observations", "6000", "--patients", "40"];
        finish(windkessel(folder.path()).args(made)).succeeded();
        Some(Stage { server, home, folder })
    }

    fn settings(&self) -> Vec<String> {
        vec![
            "source.paths=[\"input.ndjson\"]".to_owned(),
            key_file(self.folder.path()),
            "patient.disorder=\"10m\"".into(),
            "audit.window=\"1h\"".into(),
            "audit.reference_windows=6".into(),
            "audit.readings_min=10".into(),
            "audit.schedule={every=\"6h\",reports=\"reports\"}".into(),
            format!("sink.postgres.url={:?}", self.server.address),
            format!("sink.postgres.password_file={:?}", self.home.join("password")),
            format!("sink.postgres.ca_file={:?}", self.home.join("authority.pem")),
            "state.checkpoint_seconds=1".into(),
            "epoch.bytes=65536".into(),
        ]
    }

    fn run(&self, more: &[&str]) -> Command {
        let mut command = windkessel(self.folder.path());
        command.arg("run").arg(repository("dataflows/blood_pressure_replay.toml")).args(["--until", "end"]);
        command.args(self.settings().iter().flat_map(|setting| ["--set", setting]));
        command.args(more.iter().flat_map(|setting| ["--set", setting]));
        command
    }

    fn client(&self) -> Client {
        let mut config: postgres::Config = self.server.address.parse().unwrap();
        config.password(PASSWORD).connect(NoTls).unwrap()
    }

    /// The history, by the starts of its periods in microseconds; each period once.
    fn history(&self) -> BTreeMap<i64, Kept> {
        let rows = self.client().query(
            "SELECT id, created_at::text, ref_start::text, ref_end::text, report_path, summary::text, \
                    (extract(epoch FROM cur_start) * 1000000)::bigint, (extract(epoch FROM cur_end) * 1000000)::bigint \
             FROM fairness_reports",
            &[],
        );
        let (rows, mut history, mut ids) = (rows.unwrap(), BTreeMap::new(), BTreeSet::new());
        for row in &rows {
            let (start, end): (i64, i64) = (row.get(6), row.get(7));
            assert_eq!(end, start + PERIOD);
            let summary = serde_json::from_str(row.get(5)).unwrap();
            let reference = (row.get(2), row.get(3));
            let kept = Kept { id: row.get(0), created_at: row.get(1), reference, report_path: row.get(4), summary };
            assert!(ids.insert(kept.id.clone()));
            assert!(history.insert(start, kept).is_none(), "a period twice");
        }
        history
    }

    fn rows(&self, table: &str, subject: &[&str]) -> Vec<Row> {
        last_rows(&ndjson(&self.folder.path().join("windkessel-data"), table), subject)
    }

    /// Compares the history with the NDJSON files: every period that has ended, and no other, with what its rows say.
    fn agree(&self) -> BTreeMap<i64, Kept> {
        let history = self.history();
        let tables = TABLES.map(|(table, subject)| (table, self.rows(table, subject)));
        let of = |row: &Row, column: &str| instant(row, column).unwrap();
        let all = || tables.iter().flat_map(|(_, rows)| rows);
        let reached = all().map(|row| of(row, "current_end")).max().unwrap();
        let period = |row: &Row| of(row, "current_start").div_euclid(PERIOD) * PERIOD;
        let ended: BTreeSet<i64> = all().map(period).filter(|start| start + PERIOD <= reached).collect();
        assert!(ended.len() >= 3, "nothing to compare: {ended:?}");
        assert_eq!(history.keys().copied().collect::<BTreeSet<_>>(), ended);
        for (start, kept) in &history {
            for (table, rows) in &tables {
                let rows: Vec<&Row> = rows.iter().filter(|row| period(row) == *start).collect();
                for verdict in ["act", "watch", "none", "insufficient"] {
                    let count = rows.iter().filter(|row| text(row, "verdict") == verdict).count();
                    assert_eq!(kept.summary["verdicts"][table][verdict], count, "{table} {verdict} of {start}");
                }
                match *table {
                    "fairness" => fairness_agrees(&kept.summary["fairness"], &rows),
                    "shifts" => drift_agrees(kept, &rows),
                    "quality" => quality_agrees(&kept.summary["quality"], &rows),
                    _ => {}
                }
            }
            let page = std::fs::read_to_string(self.folder.path().join(kept.report_path.as_ref().unwrap())).unwrap();
            assert!(page.starts_with("<!DOCTYPE html>") && page.contains("Drift"));
        }
        history
    }
}

/// The groups of the newest window of which anything can be said, each with its differences and ratios.
fn fairness_agrees(said: &Value, rows: &[&Row]) {
    let newest = |rows: &mut dyn Iterator<Item = &&Row>| rows.map(|row| instant(row, "current_end").unwrap()).max();
    let telling = newest(&mut rows.iter().filter(|row| text(row, "verdict") != "insufficient"));
    let window = telling.or_else(|| newest(&mut rows.iter()));
    let mut wanted = BTreeMap::new();
    for row in rows.iter().filter(|row| instant(row, "current_end") == window) {
        wanted.insert((text(row, "attribute"), text(row, "group")), row);
    }
    let groups = said["groups"].as_array().unwrap();
    assert_eq!(groups.len(), wanted.len());
    for group in groups {
        let row = wanted[&(group["attribute"].as_str().unwrap(), group["group"].as_str().unwrap())];
        for column in [
            "readings_count",
            "selection_rate",
            "selection_rate_difference",
            "selection_rate_ratio",
            "tpr_difference",
            "verdict",
        ] {
            let wanted = row.get(column).unwrap_or(&Value::Null);
            let same = match (group[column].as_f64(), wanted.as_f64()) {
                (Some(one), Some(other)) => (one - other).abs() <= 1e-12,
                _ => &group[column] == wanted,
            };
            assert!(same, "{column}: {} is not {wanted}", group[column]);
        }
    }
}

/// Files are one topic, of which the worst verdict is said; what has not become worse is not named.
fn quality_agrees(said: &Value, rows: &[&Row]) {
    let moved = ["watch", "act"].map(|verdict| rows.iter().any(|row| text(row, "verdict") == verdict));
    let worst = match moved {
        [_, true] => Value::from("act"),
        [true, false] => Value::from("watch"),
        [false, false] => Value::Null,
    };
    assert_eq!(said[0]["verdict"], worst, "{said}");
}

/// The worst PSI is named first, and the reference is all that windows were compared with.
fn drift_agrees(kept: &Kept, rows: &[&Row]) {
    let worst = |row: &&&Row| {
        (["none", "watch", "act"].iter().position(|verdict| *verdict == text(row, "verdict")), row["psi"].as_f64())
    };
    let telling = rows.iter().filter(|row| text(row, "verdict") != "insufficient");
    let worst = telling.max_by(|one, other| worst(one).partial_cmp(&worst(other)).unwrap());
    match worst {
        None => assert_eq!(kept.summary["drift"], json!([])),
        Some(worst) => assert_eq!(kept.summary["drift"][0]["psi"].as_f64(), worst["psi"].as_f64()),
    }
    assert_eq!(kept.reference.0.is_some(), !rows.is_empty());
}

#[test]
fn every_period_that_has_ended_is_kept_once_whatever_dies_and_a_correction_changes_its_row() {
    let Some(stage) = Stage::new() else { return };
    let input = std::fs::read_to_string(stage.folder.path().join("input.ndjson")).unwrap();
    let lines: Vec<&str> = input.lines().collect();
    let mut paths = Vec::new();
    let deaths = ["log.checkpoint.after:1", "sink.stage.after:1", "log.claims.after:2", "sink.name.after:2"];
    for (number, place) in deaths.into_iter().enumerate() {
        let part = format!("part-{number}.ndjson");
        let quarter = &lines[lines.len() * number / 4..lines.len() * (number + 1) / 4];
        std::fs::write(stage.folder.path().join(&part), quarter.join("\n") + "\n").unwrap();
        paths.push(part);
        let dead = finish(stage.run(&[&format!("source.paths={paths:?}")]).env("WINDKESSEL_FAILPOINT", place));
        assert_eq!(dead.code(), None, "it dies at {place}: {}", dead.err);
    }
    finish(&mut stage.run(&[&format!("source.paths={paths:?}")])).succeeded();
    let before = stage.agree();

    let observations = lines.iter().filter(|line| line.starts_with(r#"{"resourceType":"Observation""#));
    let corrected = observations.take(1_000).step_by(3).map(|line| {
        let line = line.replacen(r#""versionId":"1""#, r#""versionId":"2""#, 1);
        line.replacen(r#""status":"final""#, r#""status":"entered-in-error""#, 1)
    });
    let corrected = corrected.collect::<Vec<_>>().join("\n") + "\n";
    std::fs::write(stage.folder.path().join("corrected.ndjson"), corrected).unwrap();
    paths.push("corrected.ndjson".into());
    finish(&mut stage.run(&[&format!("source.paths={paths:?}")])).succeeded();
    let after = stage.agree();
    let changed: Vec<&i64> = after
        .iter()
        .filter(|(start, kept)| before.get(start).is_some_and(|was| was.summary != kept.summary))
        .map(|(start, _)| start)
        .collect();
    assert!(!changed.is_empty(), "the first of the readings were withdrawn");
    for start in &changed {
        assert_eq!((&after[start].id, &after[start].created_at), (&before[start].id, &before[start].created_at));
    }
    eprintln!("{} periods, {} of them changed", after.len(), changed.len());
}

#[test]
fn a_database_that_is_away_holds_nothing_up_and_gets_everything_when_it_is_back() {
    let Some(mut stage) = Stage::new() else { return };
    stage.server.kill();
    let mut running = Running::start(&mut stage.run(&[
        "http.listen=\"127.0.0.1:0\"",
        "source.kind=\"generator\"",
        "source.patients=40",
        "source.observations=8000",
        "source.rate_per_second=400",
    ]));
    running.until("an audit that waits", |running| running.err().contains("an audit waits").then_some(()));
    let written = || ndjson(&stage.folder.path().join("windkessel-data"), "readings").len();
    let then = written();
    running.until("readings that do not", |_| (written() > then).then_some(()));
    stage.server.restart();
    running.until("the history", |_| {
        let made = stage.client().query_one("SELECT to_regclass('fairness_reports') IS NOT NULL", &[]).unwrap();
        (made.get::<_, bool>(0) && !stage.history().is_empty()).then_some(())
    });
    running.wait(DEADLINE).succeeded();
    stage.agree();
}

#[test]
fn a_run_that_ends_without_its_database_leaves_the_audits_to_the_next() {
    let Some(mut stage) = Stage::new() else { return };
    stage.server.kill();
    let alone = finish(&mut stage.run(&[])).succeeded();
    assert!(alone.err.contains("the next run keeps them"), "{}", alone.err);
    stage.server.restart();
    finish(&mut stage.run(&[])).succeeded();
    stage.agree();
}

#[test]
fn what_is_wrong_with_a_database_is_said_with_what_helps() {
    let Some(stage) = Stage::new() else { return };
    std::fs::write(stage.folder.path().join("wrong"), "hunter2").unwrap();
    let other = stage.folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    certify(&other);
    let address = &stage.server.address;
    let elsewhere = format!("sink.postgres.url={:?}", address.replace("/postgres", "/nowhere"));
    let authority = format!("sink.postgres.ca_file={:?}", other.join("authority.pem"));
    for (setting, why) in [
        (
            "sink.postgres.password_file=\"wrong\"",
            "password authentication failed for user \"windkessel\" (28P01); check the user in sink.postgres.url and sink.postgres.password_file",
        ),
        (&*elsewhere, "database \"nowhere\" does not exist (3D000); the database in sink.postgres.url must be there"),
        (&*authority, "sink.postgres.ca_file must hold the authority"),
        ("sink.postgres.password_file=\"absent\"", "sink.postgres.password_file: could not read \"absent\""),
    ] {
        let refused = finish(&mut stage.run(&[setting]));
        assert_eq!(refused.code(), Some(69), "{setting}: {}", refused.err);
        assert!(refused.last_words().contains(why), "{setting}: {}", refused.err);
        assert!(!refused.err.contains("hunter2") && !refused.err.contains(PASSWORD));
    }
    let mut check = windkessel(stage.folder.path());
    check.arg("check").arg(repository("dataflows/blood_pressure_replay.toml")).arg("--connect");
    // What the golden gives under these settings is not its business.
    let checked = finish(check.args(stage.settings().iter().flat_map(|setting| ["--set", setting])));
    assert!(checked.out.contains("postgres: answers"), "{}", checked.out);
}
