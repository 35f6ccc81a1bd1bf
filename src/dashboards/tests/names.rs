//! Proves that one name is the same everywhere: an index, a field or a port that is renamed in the flows, the templates, the dashboards, the
//! deployment or the manual alone fails here.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::config::Spec;
use crate::dashboards::source::{self, Placed};
use crate::sink::elasticsearch::findings::{self, TABLES};

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|why| panic!("{path}: {why}"))
}

/// The shipped flows, and that of the compose stack.
fn flows() -> Vec<Spec> {
    let flows = ["blood_pressure", "real_time_monitoring", "readings_envelope", "fhir_anomalies"];
    let paths = flows.map(|name| format!("dataflows/{name}.toml")).into_iter().chain(["docker/flow.toml".into()]);
    paths.map(|path| toml::from_str(&read(&path)).unwrap()).collect()
}

/// The dashboards whose data view takes an index.
fn over(index: &str) -> Vec<Placed> {
    let takes = |placed: &Placed| index.starts_with(placed.view.title.trim_end_matches('*'));
    source::dashboards().unwrap().into_iter().filter(takes).collect()
}

/// The indices that a flow fills: that of its readings, and those of its audit.
fn filled(flow: &Spec) -> Vec<String> {
    let spec = flow.sink.elasticsearch.as_ref().unwrap_or_else(|| panic!("{} has no index", flow.name));
    let audit = TABLES.into_iter().filter(|_| !spec.audit.is_empty()).map(|table| findings::index(&spec.audit, table));
    std::iter::once(spec.index.clone()).chain(audit).collect()
}

/// Every field that a dashboard over readings names, in Lens or in a query.
fn fields(placed: &Placed) -> BTreeSet<String> {
    let text = crate::dashboards::kibana().unwrap();
    let object = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).find(|o| o["id"] == *placed.id);
    let panels = object.unwrap()["attributes"]["panelsJSON"].as_str().unwrap().to_owned();
    let mut found: BTreeSet<String> = BTreeSet::new();
    for part in panels.split("\"sourceField\":\"").skip(1) {
        found.insert(part.split('"').next().unwrap().to_owned());
    }
    found.remove("___records___");
    found
}

#[test]
fn every_flow_that_fills_an_index_has_its_dashboard_and_writes_the_fields_that_it_shows() {
    for flow in flows() {
        let spec = flow.sink.elasticsearch.unwrap_or_else(|| panic!("{} has no index", flow.name));
        let dashboards = over(&spec.index);
        assert!(!dashboards.is_empty(), "{}: no dashboard over {}", flow.name, spec.index);
        for placed in dashboards {
            for field in fields(&placed) {
                // What the sink adds by itself; without `fields` a flow writes all columns, which the template maps.
                let by_itself = ["@timestamp", "retracted", "epoch"].contains(&field.as_str());
                let written = by_itself || spec.fields.is_empty() || spec.fields.contains_key(&field);
                assert!(written, "{}: {} shows {field}, which is not written", flow.name, placed.id);
                assert!(placed.view.field(&field).is_ok(), "{field}");
            }
        }
    }
}

/// The compose stack fills every index that a panel looks at: nothing is empty that could be full.
#[test]
fn every_panel_over_the_audit_is_over_a_table_that_the_compose_stack_writes() {
    let stack = flows().pop().unwrap();
    let filled = filled(&stack);
    assert_eq!(filled.len(), 1 + TABLES.len());
    let mut seen = BTreeSet::new();
    for placed in source::dashboards().unwrap().iter().filter(|placed| placed.id == "windkessel-drift") {
        for panel in &placed.dashboard.panels {
            let stem = placed.view_of(panel).title.trim_end_matches('*').to_owned();
            assert!(filled.contains(&stem), "{}: {stem}", panel.title);
            seen.insert(stem);
        }
    }
    assert_eq!(seen.len(), TABLES.len(), "{seen:?}");
}

#[test]
fn every_dashboard_is_over_an_index_that_a_flow_fills() {
    let indices: Vec<String> = flows().iter().flat_map(filled).collect();
    for view in source::views().unwrap() {
        let stem = view.title.trim_end_matches('*');
        assert!(indices.iter().any(|index| index == stem), "{} is over {stem}, which no flow fills", view.name);
        let manual = read("README.md") + &read("schemas/elasticsearch/README.md");
        assert!(manual.contains(stem), "the manual does not know {stem}");
    }
}

#[test]
fn the_deployment_serves_what_it_provisions() {
    let (compose, prometheus) = (read("docker/compose.yaml"), read("docker/prometheus.yml"));
    for (file, place) in [
        ("docker/kibana/windkessel.ndjson", "./kibana:/objects:ro"),
        ("docker/grafana/dashboards/windkessel.json", "./grafana/dashboards:"),
        ("docker/alerts.yml", "./alerts.yml:/etc/prometheus/alerts.yml:ro"),
        ("docker/recording.yml", "./recording.yml:/etc/prometheus/recording.yml:ro"),
    ] {
        assert!(std::path::Path::new(file).exists() && compose.contains(place), "{file} is mounted by {place}");
    }
    assert!(prometheus.contains("rule_files: [alerts.yml, recording.yml]"));
    // Alerts ask for this job's name, and the panels for the data source that is provisioned.
    assert!(prometheus.contains("job_name: windkessel") && read("docker/alerts.yml").contains("job=\"windkessel\""));
    assert!(read("docker/grafana/provisioning/datasources/prometheus.yaml").contains("url: http://prometheus:9090"));
    let script = read("docker/kibana/import");
    assert!(script.contains("/objects/windkessel.ndjson") && compose.contains("/objects/import"));
    let readme = read("README.md");
    for port in ["9187", "5601", "3000", "9090"] {
        assert!(
            compose.contains(&format!("127.0.0.1:{port}:")) && readme.contains(&format!("localhost:{port}")),
            "{port}"
        );
    }
}

/// The live page and `top` name stages by themselves.
#[test]
fn the_stages_of_the_live_page_are_those_of_the_graph() {
    let graph = read("src/graph.rs") + &read("src/patient/mod.rs");
    let busy = read("src/runtime/live/busy.rs");
    for stage in ["source", "decode", "pseudonymise", "patient", "score", "audit", "tables"] {
        assert!(busy.contains(&format!("(\"{stage}\", ")), "{stage}");
        assert!(
            graph.contains(&format!("{stage}::render(")) || graph.contains(&format!("driver::{stage}(")),
            "{stage}"
        );
    }
}
