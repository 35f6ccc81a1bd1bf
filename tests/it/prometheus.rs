//! Proves that a real Prometheus scrapes the running engine, that every rule evaluates, and that every expression of the Grafana dashboard
//! answers with figures of that run. Where `prometheus` is not installed (Debian: the package of that name), it is skipped aloud.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{Running, get, metric, repository, windkessel};

/// What has no value in a run of the demo in which nothing is wrong: refused rows, alerts, and sinks that wait (files never do).
const QUIET: [&str; 3] = ["windkessel_sink_rejected_items_total", "windkessel_sink_waiting", "ALERTS"];

/// A scrape every second, and the shipped rules evaluated every second instead of every fifteen.
fn configure(folder: &Path, target: &str) {
    for name in ["alerts.yml", "recording.yml"] {
        let rules = fs::read_to_string(repository("docker").join(name)).unwrap();
        fs::write(folder.join(name), rules.replace("interval: 15s", "interval: 1s")).unwrap();
    }
    let shipped = fs::read_to_string(repository("docker/prometheus.yml")).unwrap();
    let targets = "targets: [\"worker-0:9187\", \"worker-1:9187\"]";
    assert!(shipped.contains(targets) && shipped.contains("rule_files: [alerts.yml, recording.yml]"));
    let ours = shipped
        .replace(targets, &format!("targets: [{target:?}]"))
        .replace("scrape_interval: 5s", "scrape_interval: 1s")
        .replace("evaluation_interval: 15s", "evaluation_interval: 1s");
    fs::write(folder.join("prometheus.yml"), ours).unwrap();
}

/// A running Prometheus and its address.
fn prometheus(folder: &Path) -> Option<(Running, String)> {
    if Command::new("prometheus").arg("--version").output().is_err() {
        assert!(std::env::var_os("WINDKESSEL_REQUIRE_SERVICES").is_none(), "prometheus is missing");
        eprintln!("skipped: a real Prometheus: it is not installed");
        return None;
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", folder.join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()));
    command.args([&format!("--web.listen-address=127.0.0.1:{port}"), "--log.level=warn"]);
    Some((Running::start(&mut command), format!("http://127.0.0.1:{port}")))
}

fn asked(url: &str, path: &str, query: Option<&str>) -> Option<Value> {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut request = agent.get(format!("{url}{path}"));
    if let Some(query) = query {
        request = request.query("query", query);
    }
    let answer: Value = request.call().ok()?.body_mut().read_json().ok()?;
    assert!(answer["status"] == "success" || query.is_none(), "{query:?}: {answer}");
    Some(answer["data"].clone())
}

/// Every expression of the Grafana dashboard.
fn expressions() -> Vec<String> {
    let text = fs::read_to_string(repository("docker/grafana/dashboards/windkessel.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    panels.flat_map(|p| p["targets"].as_array().unwrap()).map(|t| t["expr"].as_str().unwrap().to_owned()).collect()
}

/// The rules that have been evaluated: their number, and what is wrong with them.
fn rules(url: &str) -> Option<(usize, Vec<String>)> {
    let groups = asked(url, "/api/v1/rules", None)?;
    let all: Vec<&Value> = groups["groups"].as_array()?.iter().flat_map(|g| g["rules"].as_array().unwrap()).collect();
    let seen = all.iter().filter(|rule| rule["health"] != "unknown").count();
    let bad = |rule: &&&Value| rule["health"] != "ok" && rule["health"] != "unknown";
    Some((seen, all.iter().filter(bad).map(|rule| format!("{}: {}", rule["name"], rule["lastError"])).collect()))
}

#[test]
fn a_real_prometheus_scrapes_a_run_and_every_rule_and_panel_has_its_figures() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = windkessel(folder.path());
    demo.args(["demo", "--observations", "0", "--patients", "40", "--rate", "3000", "--listen", "127.0.0.1:0"]);
    for setting in ["audit.window=\"1h\"", "audit.reference_windows=1", "audit.readings_min=10"] {
        demo.args(["--set", setting]);
    }
    let mut demo = Running::start(&mut demo);
    let engine = demo.url();
    configure(folder.path(), engine.trim_start_matches("http://"));
    let Some((mut prometheus, url)) = prometheus(folder.path()) else { return };

    let texts = ["alerts.yml", "recording.yml"].map(|name| fs::read_to_string(folder.path().join(name)).unwrap());
    let rule_count =
        texts.iter().map(|text| text.matches("\n      - alert: ").count() + text.matches("\n      - record: ").count());
    let rule_count: usize = rule_count.sum();
    assert!(rule_count >= 30, "{rule_count}");
    let faults = prometheus.until("an evaluation of every rule", |_| {
        rules(&url).filter(|(seen, _)| *seen == rule_count).map(|(_, faults)| faults)
    });
    assert_eq!(faults, Vec::<String>::new());

    let quiet = |expression: &str| QUIET.iter().any(|name| expression.contains(name));
    let wanted: BTreeSet<String> = expressions().into_iter().filter(|expression| !quiet(expression)).collect();
    assert!(wanted.len() >= 20, "{wanted:?}");
    let mut missing = wanted;
    prometheus.until("a figure in every panel", |_| {
        missing.retain(|expression| {
            asked(&url, "/api/v1/query", Some(expression))
                .is_none_or(|data| data["result"].as_array().unwrap().is_empty())
        });
        missing.is_empty().then_some(())
    });

    // What it has stored is what the engine said: a counter lies between two looks at the source.
    let look = || metric(&get(&format!("{engine}/metrics")).unwrap(), "windkessel_source_records_total", "");
    let before = look();
    let stored = prometheus.until("a later scrape", |_| {
        let data = asked(&url, "/api/v1/query", Some("sum(windkessel_source_records_total)"))?;
        let stored: f64 = data["result"][0]["value"][1].as_str()?.parse().ok()?;
        (stored >= before).then_some(stored)
    });
    assert!(stored <= look(), "{stored}");
    // A run in which all is well rings nothing.
    let firing = asked(&url, "/api/v1/query", Some("ALERTS{alertstate=\"firing\"}")).unwrap();
    assert_eq!(firing["result"], serde_json::json!([]));
    drop(prometheus);
    demo.signal("TERM");
}
