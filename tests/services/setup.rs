//! Proves that `windkessel setup` puts templates and lifecycle policy into a real Elasticsearch, and that a second time changes nothing in it.
//!
//! The server of Maven Central has no lifecycle management: it knows neither `/_ilm/policy/…` nor the setting `index.lifecycle.name`. Both are kept
//! by a stand-in before it, which answers in the server's shape and passes everything else on: so lifecycles are proved by what is sent, all
//! else by what is there.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::clients::ask;
use crate::servers::servers;
use crate::support::{Finished, finish, repository, windkessel};

/// What the cluster behind does not know.
#[derive(Clone)]
struct StandIn {
    kept: Arc<Mutex<Kept>>,
    cluster: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Kept {
    /// By name.
    policies: BTreeMap<String, Value>,
    /// The policy that an index, or an index made by a template, follows; by its path.
    followed: BTreeMap<String, Value>,
}

impl StandIn {
    /// Its address.
    fn start(cluster: &str) -> (StandIn, String) {
        let stand_in = StandIn { kept: Arc::default(), cluster: cluster.to_owned() };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = stand_in.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                shared.serve(&stream);
            }
        });
        (stand_in, url)
    }

    fn serve(&self, mut stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        if reader.read_line(&mut line).is_err() || line.is_empty() {
            return;
        }
        let mut length = 0;
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header).is_err() || header.trim().is_empty() {
                break;
            }
            if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let (status, answer) = if let Some(name) = path.strip_prefix("/_ilm/policy/") {
            self.policy(method, name, &body)
        } else if path.contains("/_settings") {
            self.settings(method, path.split('/').nth(1).unwrap(), &body)
        } else {
            self.pass_on(method, path, self.without_lifecycle(path, body))
        };
        let head = format!("HTTP/1.1 {status} x\r\ncontent-type: application/json\r\nconnection: close\r\n");
        let _ = stream.write_all(format!("{head}content-length: {}\r\n\r\n{answer}", answer.len()).as_bytes());
    }

    fn policy(&self, method: &str, name: &str, body: &[u8]) -> (u16, String) {
        let policies = &mut self.kept.lock().unwrap().policies;
        if method == "PUT" {
            policies.insert(name.to_owned(), serde_json::from_slice::<Value>(body).unwrap()["policy"].take());
            return (200, r#"{"acknowledged":true}"#.to_owned());
        }
        match policies.get(name) {
            Some(policy) => (200, json!({ name: { "version": 1, "policy": policy } }).to_string()),
            None => (404, "{}".to_owned()),
        }
    }

    fn settings(&self, method: &str, index: &str, body: &[u8]) -> (u16, String) {
        let followed = &mut self.kept.lock().unwrap().followed;
        if method == "PUT" {
            let name = serde_json::from_slice::<Value>(body).unwrap()["index.lifecycle.name"].take();
            followed.insert(format!("/{index}"), name);
            return (200, r#"{"acknowledged":true}"#.to_owned());
        }
        let name = followed.get(&format!("/{index}")).filter(|name| !name.is_null());
        let settings = name.map_or(json!({}), |name| json!({ "index.lifecycle.name": name }));
        (200, json!({ index: { "settings": settings } }).to_string())
    }

    /// Takes out of a template what the cluster would refuse.
    fn without_lifecycle(&self, path: &str, body: Vec<u8>) -> Vec<u8> {
        let Ok(mut template) = serde_json::from_slice::<Value>(&body) else { return body };
        if path.starts_with("/_index_template/") {
            let settings = template["template"].as_object_mut().unwrap().remove("settings").unwrap_or_default();
            let name = settings["index"]["lifecycle"]["name"].clone();
            self.kept.lock().unwrap().followed.insert(path.to_owned(), name);
        }
        template.to_string().into_bytes()
    }

    fn pass_on(&self, method: &str, path: &str, body: Vec<u8>) -> (u16, String) {
        let request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.cluster));
        let request = request.header("content-type", "application/json").body(body).unwrap();
        let config = ureq::Agent::config_builder().allow_non_standard_methods(true).http_status_as_error(false);
        let agent: ureq::Agent = config.build().into();
        let mut answer = agent.run(request).unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    }
}

/// One flow of its own in the cluster.
struct Flow {
    folder: tempfile::TempDir,
    index: String,
}

impl Flow {
    fn audit(&self) -> String {
        format!("audit-{}", self.index)
    }

    fn setup(&self, url: &str, keep: &str) -> Finished {
        let mut command = windkessel(self.folder.path());
        command.arg("setup").arg(repository("dataflows/blood_pressure.toml"));
        for setting in [
            format!("sink.elasticsearch.url={url:?}"),
            format!("sink.elasticsearch.index={:?}", self.index),
            format!("sink.elasticsearch.audit={:?}", self.audit()),
            format!("sink.elasticsearch.keep={keep:?}"),
        ] {
            command.args(["--set", &setting]);
        }
        finish(&mut command)
    }

    /// What a run says that it has installed; the two common templates may be another test's.
    fn installed(&self, url: &str, keep: &str) -> Vec<String> {
        let said = self.setup(url, keep).succeeded().out;
        let own = |line: &&str| !line.contains("windkessel-settings") && !line.contains("windkessel-mappings");
        let lines = said.lines().filter_map(|line| line.strip_prefix("installed")).map(str::trim);
        lines.filter(own).map(str::to_owned).collect()
    }
}

#[test]
fn setup_installs_once_and_a_second_time_changes_nothing() {
    let Some(servers) = servers("setup_installs_once_and_a_second_time_changes_nothing") else { return };
    let cluster = &servers.elasticsearch.address;
    let flow =
        Flow { folder: tempfile::tempdir().unwrap(), index: format!("bp-readings-setup-{}", std::process::id()) };
    let (stand_in, url) = StandIn::start(cluster);
    let (name, month) = (format!("windkessel-{}", flow.index), format!("{}-2026.01", flow.index));
    let version = || ask(cluster, "GET", "/_cluster/state/version", None)["version"].clone();
    let follows = |path: &str| stand_in.kept.lock().unwrap().followed.get(path).cloned().unwrap_or_default();
    let all = || (version(), stand_in.kept.lock().unwrap().clone());

    let audit = ["shifts", "quality", "performance", "fairness", "alerts"]
        .map(|table| format!("windkessel-{}-{table}", flow.audit()));
    let own = std::iter::once(&name).chain(&audit).map(|name| format!("index template {name}")).collect::<Vec<_>>();
    assert_eq!(flow.installed(cluster, "unbounded"), own);
    let before = version();
    assert_eq!(flow.installed(cluster, "unbounded"), Vec::<String>::new());
    assert_eq!(version(), before, "nothing in the cluster has changed");
    assert!(flow.setup(cluster, "unbounded").out.contains("as it was"));

    // A month that is there already, and one that follows an operator's policy.
    let other = format!("{}-2026.02", flow.index);
    [&month, &other].iter().for_each(|index| drop(ask(cluster, "PUT", &format!("/{index}"), None)));
    stand_in.kept.lock().unwrap().followed.insert(format!("/{other}"), json!("theirs"));
    let expected = [format!("lifecycle policy {name}"), format!("index template {name}"), format!("index {month}")];
    assert_eq!(flow.installed(&url, "90d"), expected);
    let policy = stand_in.kept.lock().unwrap().policies[&name].clone();
    assert_eq!(policy["phases"], json!({ "delete": { "min_age": "121d", "actions": { "delete": {} } } }));
    assert_eq!(policy["_meta"]["managed_by"], "windkessel");
    assert_eq!(follows(&format!("/_index_template/{name}")), json!(name), "months that are made from now on");
    assert_eq!((follows(&format!("/{month}")), follows(&format!("/{other}"))), (json!(name), json!("theirs")));
    let before = all();
    assert_eq!(flow.installed(&url, "90d"), Vec::<String>::new());
    assert_eq!(all(), before, "nothing has changed, here or there");

    assert_eq!(flow.installed(&url, "100d"), [format!("lifecycle policy {name}")]);
    assert_eq!(flow.installed(&url, "unbounded"), [format!("index template {name}"), format!("index {month}")]);
    assert_eq!((follows(&format!("/{month}")), follows(&format!("/{other}"))), (Value::Null, json!("theirs")));
    assert_eq!(follows(&format!("/_index_template/{name}")), Value::Null);

    for name in std::iter::once(&name).chain(&audit) {
        ask(cluster, "DELETE", &format!("/_index_template/{name}"), None);
    }
    [month, other].iter().for_each(|index| drop(ask(cluster, "DELETE", &format!("/{index}"), None)));
}

#[test]
fn setup_says_what_the_cluster_cannot_do() {
    let Some(servers) = servers("setup_says_what_the_cluster_cannot_do") else { return };
    let flow = Flow { folder: tempfile::tempdir().unwrap(), index: "bp-readings-refused".into() };
    let refused = flow.setup(&servers.elasticsearch.address, "90d");
    assert_eq!(refused.code(), Some(69), "{}", refused.err);
    assert!(
        refused.last_words().contains("lifecycle policy") && refused.last_words().contains("keep"),
        "{}",
        refused.err
    );
    let away = flow.setup("http://127.0.0.1:1", "unbounded");
    assert_eq!((away.code(), away.last_words().contains("sink.elasticsearch.url")), (Some(69), true), "{}", away.err);
}
