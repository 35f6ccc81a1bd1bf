//! Proves that `windkessel setup` puts templates and lifecycle policy into a real Elasticsearch, and that a second time changes nothing in it.
//!
//! The server of Maven Central has no lifecycle management. What it lacks is kept by a stand-in before it, which answers `/_ilm/policy/…` in the
//! server's shape and passes everything else on: so policies are proved by what is sent, all else by what is there.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::clients::ask;
use crate::servers::servers;
use crate::support::{Finished, finish, repository, windkessel};

/// Policies by name, and the cluster behind.
#[derive(Clone)]
struct StandIn {
    policies: Arc<Mutex<BTreeMap<String, Value>>>,
    cluster: String,
}

impl StandIn {
    /// Its address.
    fn start(cluster: &str) -> (StandIn, String) {
        let stand_in = StandIn { policies: Arc::default(), cluster: cluster.to_owned() };
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
        let (status, answer) = match path.strip_prefix("/_ilm/policy/") {
            Some(name) => self.policy(method, name, &body),
            None => self.pass_on(method, path, body),
        };
        let head = format!("HTTP/1.1 {status} x\r\ncontent-type: application/json\r\nconnection: close\r\n");
        let _ = stream.write_all(format!("{head}content-length: {}\r\n\r\n{answer}", answer.len()).as_bytes());
    }

    fn policy(&self, method: &str, name: &str, body: &[u8]) -> (u16, String) {
        let mut policies = self.policies.lock().unwrap();
        if method == "PUT" {
            policies.insert(name.to_owned(), serde_json::from_slice::<Value>(body).unwrap()["policy"].take());
            return (200, r#"{"acknowledged":true}"#.to_owned());
        }
        match policies.get(name) {
            Some(policy) => (200, json!({ name: { "version": 1, "policy": policy } }).to_string()),
            None => (404, "{}".to_owned()),
        }
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
    fn setup(&self, url: &str, keep: &str) -> Finished {
        let mut command = windkessel(self.folder.path());
        command.arg("setup").arg(repository("dataflows/blood_pressure.toml"));
        for setting in [
            format!("sink.elasticsearch.url={url:?}"),
            format!("sink.elasticsearch.index={:?}", self.index),
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
    let policy_of = |index: &str| {
        let settings = ask(cluster, "GET", &format!("/{index}/_settings?flat_settings=true"), None);
        settings[index]["settings"]["index.lifecycle.name"].clone()
    };

    assert_eq!(flow.installed(cluster, "unbounded"), [format!("index template {name}")]);
    let before = version();
    assert_eq!(flow.installed(cluster, "unbounded"), Vec::<String>::new());
    assert_eq!(version(), before, "nothing in the cluster has changed");
    assert!(flow.setup(cluster, "unbounded").out.contains("as it was"));

    // A month that is there already, and one that follows an operator's policy.
    ask(cluster, "PUT", &format!("/{month}"), None);
    let other = format!("{}-2026.02", flow.index);
    ask(cluster, "PUT", &format!("/{other}"), Some(json!({ "settings": { "index.lifecycle.name": "theirs" } })));
    let expected = [format!("lifecycle policy {name}"), format!("index template {name}"), format!("index {month}")];
    assert_eq!(flow.installed(&url, "90d"), expected);
    let policy = stand_in.policies.lock().unwrap()[&name].clone();
    assert_eq!(policy["phases"], json!({ "delete": { "min_age": "121d", "actions": { "delete": {} } } }));
    assert_eq!(policy["_meta"]["managed_by"], "windkessel");
    assert_eq!((policy_of(&month), policy_of(&other)), (json!(name), json!("theirs")));
    let before = (version(), stand_in.policies.lock().unwrap().clone());
    assert_eq!(flow.installed(&url, "90d"), Vec::<String>::new());
    assert_eq!((version(), stand_in.policies.lock().unwrap().clone()), before);

    // A month that is made now follows it by the template.
    let next = format!("{}-2026.03", flow.index);
    ask(cluster, "PUT", &format!("/{next}"), None);
    assert_eq!(policy_of(&next), json!(name));
    assert_eq!(flow.installed(&url, "100d"), [format!("lifecycle policy {name}")]);
    let released = [format!("index template {name}"), format!("index {month}"), format!("index {next}")];
    assert_eq!(flow.installed(&url, "unbounded"), released);
    assert_eq!((policy_of(&month), policy_of(&other)), (Value::Null, json!("theirs")));

    ask(cluster, "DELETE", &format!("/_index_template/{name}"), None);
    [month, other, next].iter().for_each(|index| drop(ask(cluster, "DELETE", &format!("/{index}"), None)));
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
