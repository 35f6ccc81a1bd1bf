//! Proves that the Grafana dashboard is sound, that its expressions parse, and that rules, dashboard and manual name only metrics that are exported.

use std::collections::BTreeSet;

use serde_json::Value;

const GRAFANA: &str = "docker/grafana/dashboards/windkessel.json";

#[test]
fn the_committed_grafana_dashboard_is_what_the_description_gives() {
    expect_test::expect_file![concat!(env!("CARGO_MANIFEST_DIR"), "/docker/grafana/dashboards/windkessel.json")]
        .assert_eq(&crate::dashboards::grafana().unwrap());
}

fn grafana() -> Value {
    serde_json::from_str(&std::fs::read_to_string(GRAFANA).unwrap()).unwrap()
}

/// Every expression of the dashboard.
fn expressions() -> Vec<String> {
    let dashboard = grafana();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let annotations = dashboard["annotations"]["list"].as_array().unwrap();
    targets.chain(annotations).map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_grafana_dashboard_is_sound() {
    let dashboard = grafana();
    assert_eq!((&dashboard["schemaVersion"], &dashboard["uid"]), (&39.into(), &"windkessel".into()));
    let place = |panel: &Value, key: &str| panel["gridPos"][key].as_u64().unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    for (at, panel) in panels.iter().enumerate() {
        let title = &panel["title"];
        assert!(place(panel, "x") + place(panel, "w") <= u64::from(crate::dashboards::grafana::GRID_WIDTH), "{title}");
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
        for other in &panels[..at] {
            let apart = |from: &str, length: &str| {
                place(panel, from) + place(panel, length) <= place(other, from)
                    || place(other, from) + place(other, length) <= place(panel, from)
            };
            assert!(apart("x", "w") || apart("y", "h"), "{title} overlaps {}", other["title"]);
            assert_ne!(panel["id"], other["id"]);
        }
    }
    assert_eq!(dashboard["templating"]["list"][0]["name"], "datasource");
    let provisioned = std::fs::read_to_string("docker/grafana/provisioning/dashboards/windkessel.yaml").unwrap();
    let compose = std::fs::read_to_string("docker/compose.yaml").unwrap();
    assert!(
        provisioned.contains("/var/lib/grafana/dashboards")
            && compose.contains("./grafana/dashboards:/var/lib/grafana/dashboards")
    );
}

/// Names that stand in rules and in the dashboard's expressions, besides the functions and labels of the language.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    words.filter(|word| word.contains("windkessel_") || word.starts_with("process_")).map(str::to_owned).collect()
}

/// The names of the recording rules, and their file.
fn recorded() -> (BTreeSet<String>, String) {
    let text = std::fs::read_to_string("docker/recording.yml").unwrap();
    let names = text.lines().filter_map(|line| line.trim().strip_prefix("- record: "));
    (names.map(str::to_owned).collect(), text)
}

#[test]
fn every_metric_that_rules_and_dashboards_name_is_exported() {
    let reference = crate::runtime::metrics::Metrics::new().reference();
    let (records, rules) = recorded();
    let alerts = std::fs::read_to_string("docker/alerts.yml").unwrap();
    let manual = std::fs::read_to_string("docs/operations.md").unwrap();
    let rules: String =
        rules.lines().filter(|line| !line.trim().starts_with(['#', '-'])).collect::<Vec<_>>().join("\n");
    let named: BTreeSet<String> =
        [rules, alerts.clone(), manual, expressions().join("\n")].iter().flat_map(|text| metrics_in(text)).collect();
    for name in &named {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
        let exported = [name, base].iter().any(|name| reference.contains(&format!("| `{name}` |")));
        assert!(exported || records.contains(name) || name.starts_with("process_"), "{name}");
    }
    assert!(named.len() > 30, "{named:?}");
    let used: String = expressions().join("\n") + &alerts;
    for record in &records {
        let level = record.split(':').collect::<Vec<_>>();
        assert!(level.len() == 3 && level.iter().all(|part| !part.is_empty()), "level:metric:operation: {record}");
        assert!(used.contains(record), "{record} is computed and nowhere shown");
        let tried = std::fs::read_to_string("docker/recording.test.yml").unwrap();
        assert!(tried.contains(&format!("expr: '{record}")), "{record} is not tried out");
    }
}

/// Grafana's expressions are Prometheus's: `promtool` reads them as recording rules.
#[test]
fn every_grafana_expression_parses() {
    let rules: String = (0..)
        .zip(expressions())
        .map(|(at, expr)| format!("      - {{record: \"panel:expression_{at}:shown\", expr: {}}}\n", Value::from(expr)))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let check = |rules: &str| {
        let path = folder.path().join("rules.yml");
        std::fs::write(&path, format!("groups:\n  - name: grafana\n    rules:\n{rules}")).unwrap();
        std::process::Command::new("promtool").args(["check", "rules"]).arg(path).output()
    };
    let Ok(checked) = check(&rules) else {
        assert!(std::env::var_os("WINDKESSEL_REQUIRE_SERVICES").is_none(), "promtool is missing");
        println!("skipped: promtool is not installed");
        return;
    };
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let broken = check(&rules.replace("sum by (operator) (", "sum by (operator) ((")).unwrap();
    assert!(!broken.status.success(), "a broken expression is noticed");
}
