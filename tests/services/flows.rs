//! Proves, against the oracle, that every message of a topic is accounted for once in every sink, whatever dies on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::clients::{Document, documents, topic};
use crate::findings;
use crate::oracle::{self, Expected, Message, Times};
use crate::servers::{Servers, servers};
use crate::support::{
    DEADLINE, Finished, KEY, Row, Running, Tables, finish, get, integer, key_file, metric, ndjson, outcomes, parsed,
    reading_agrees, repository, text, timeless, windkessel,
};

const SECOND: i64 = 1_000_000;
const TIMES: Times = Times { window: 3_600 * SECOND, disorder: 30 * SECOND, lateness: 120 * SECOND };
/// What the NDJSON sink writes, to compare the others with.
const TABLES: [&str; 8] = ["readings", "windows", "rejected", "shifts", "quality", "performance", "fairness", "alerts"];
/// A debug build with Parquet, NDJSON, Elasticsearch and Kafka sinks, two workers and everything in flight that the flow's limits allow.
const RESIDENT_MAX_BYTES: u64 = 800 << 20;

/// One test's flow: a topic, an index and a folder of its own.
pub(crate) struct Stage {
    name: String,
    folder: tempfile::TempDir,
    kafka: String,
    elasticsearch: String,
}

impl Stage {
    pub(crate) fn new(name: &str, servers: &Servers) -> Stage {
        Stage {
            name: format!("{name}-{}", std::process::id()),
            folder: tempfile::tempdir().unwrap(),
            kafka: servers.kafka.address.clone(),
            elasticsearch: servers.elasticsearch.address.clone(),
        }
    }

    pub(crate) fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn generate(&self, observations: u32, rate: u32) -> Command {
        let mut command = windkessel(self.folder.path());
        command.args(["generate", "--brokers", &self.kafka, "--topic", &self.name, "--seed", "5"]);
        command.args(["--observations", &observations.to_string(), "--rate", &rate.to_string()]);
        command
    }

    /// Waits until a run, whose page is at `url`, has accounted for every message of the topic; asks it to stop, and checks its memory and all that it wrote.
    pub(crate) fn stop_when_all_is_accounted_for(&self, mut running: Running, url: &str) {
        let messages = self.messages().len() as f64;
        running.until("all messages", |_| (accounted(url) >= messages).then_some(()));
        running.signal("TERM");
        let finished = running.wait(DEADLINE).succeeded();
        assert!(finished.resident_max < RESIDENT_MAX_BYTES, "{} bytes resident", finished.resident_max);
        self.check(&finished, End::Stopped);
    }

    /// The reference flow, from this stage's topic to all sinks.
    fn run(&self) -> Command {
        self.run_on(2)
    }

    /// The same on so many workers.
    pub(crate) fn run_on(&self, workers: u64) -> Command {
        let (data, name) = (self.data(), &self.name);
        let settings = [
            format!("source.brokers={:?}", self.kafka),
            format!("source.topics=[{name:?}]"),
            format!("source.group={name:?}"),
            format!("sink.parquet.path={data:?}"),
            format!("sink.ndjson.path={data:?}"),
            format!("sink.ndjson.tables={:?}", TABLES),
            format!("sink.elasticsearch.url={:?}", self.elasticsearch),
            format!("sink.elasticsearch.index={name:?}"),
            format!("sink.elasticsearch.audit=\"audit-{name}\""),
            format!("sink.kafka.brokers={:?}", self.kafka),
            format!("sink.kafka.topic=\"{name}-assessed\""),
            format!("sink.kafka.alerts_topic=\"{name}-alerts\""),
            format!("sink.kafka.progress_topic=\"{name}-progress\""),
            format!("state.path={:?}", data.join("state")),
            "http.listen=\"127.0.0.1:0\"".into(),
            "patient.disorder=\"30s\"".into(),
            "patient.lateness=\"2m\"".into(),
            // Few readings are enough for a verdict, and one window for an alert: there are to be some.
            "audit.readings_min=20".into(),
            "audit.alert_windows=1".into(),
            key_file(self.folder.path()),
        ];
        let mut command = windkessel(self.folder.path());
        command.arg("run").arg(repository("dataflows/blood_pressure.toml")).args(["-w", &workers.to_string()]);
        settings.iter().for_each(|setting| {
            command.args(["--set", setting]);
        });
        command
    }

    pub(crate) fn messages(&self) -> Vec<Message> {
        let message = |record: crate::clients::Record| Message {
            partition: record.partition,
            offset: record.offset,
            received_at: record.received_at,
            payload: record.payload,
        };
        topic(&self.kafka, &self.name).into_iter().map(message).collect()
    }

    /// Compares everything that the flow wrote with the oracle. A run that was told to stop has not seen the end of its partitions:
    /// windows that were open then have no row yet.
    pub(crate) fn check(&self, finished: &Finished, end: End) {
        let messages = self.messages();
        let mut expected = oracle::expect(&messages, &KEY, TIMES);
        if end == End::Stopped {
            let watermark = watermark(&expected);
            expected.windows.retain(|(_, start), _| start + TIMES.window <= watermark);
            assert!(!expected.windows.is_empty());
        }
        let told = outcomes(&finished.out);
        assert_eq!(told.values().sum::<u64>(), messages.len() as u64, "{}", finished.out);
        for (name, count) in &told {
            assert_eq!(*count, expected.outcomes.get(name.as_str()).copied().unwrap_or(0), "{name}");
        }
        let tables = self.rows_agree(&expected);
        read_by_others(&self.data(), &tables);
    }

    /// What a run to the end of the topic, or several, must have left in every sink.
    pub(crate) fn agree(&self) {
        self.rows_agree(&oracle::expect(&self.messages(), &KEY, TIMES));
    }

    fn rows_agree(&self, expected: &Expected) -> Tables {
        let tables = Tables::ndjson(&self.data());
        tables.agree(expected, &|row| {
            assert_eq!(text(row, "topic"), self.name);
            integer(row, "partition") as i32
        });
        self.documents_agree(expected, &tables);
        let found = findings::agree(&self.elasticsearch, &format!("audit-{}", self.name), &self.data());
        assert!(!found["shifts"].is_empty() && !found["fairness"].is_empty() && !found["performance"].is_empty());
        self.assessed_agree(expected, &tables);
        self.dead_letters_agree(expected);
        self.alerts_agree();
        assert!(!self.data().join("state/dead_letters").exists(), "Elasticsearch refused a document");
        tables
    }

    fn documents_agree(&self, expected: &Expected, tables: &Tables) {
        let epochs: BTreeMap<(i32, i64), i64> =
            tables.readings.iter().map(|row| (place(row), integer(row, "epoch"))).collect();
        let found = documents(&self.elasticsearch, &self.name);
        let ids: BTreeSet<&str> = found.iter().map(|document| document.id.as_str()).collect();
        assert_eq!(ids.len(), found.len(), "a document is in two indices");
        assert_eq!(ids, expected.standing.keys().map(String::as_str).collect::<BTreeSet<_>>());
        for Document { id, version, source } in &found {
            let place = expected.standing[id];
            let reading = &expected.readings[&place];
            reading_agrees(source, reading);
            assert_eq!(source["retracted"], reading.systolic.is_none(), "{id}");
            assert_eq!((*version, integer(source, "epoch")), (epochs[&place], epochs[&place]), "{id}");
        }
    }

    /// Anomalies and what replaces an earlier row: each once, and nothing else.
    fn assessed_agree(&self, expected: &Expected, tables: &Tables) {
        let mut earlier = BTreeSet::new();
        let replaces = |(place, reading): (&(i32, i64), &oracle::Reading)| {
            (!earlier.insert(reading.observation.clone())).then_some(*place)
        };
        let replacing: BTreeSet<(i32, i64)> = expected.readings.iter().filter_map(replaces).collect();
        let wanted = |row: &&Row| !row["reasons"].as_array().unwrap().is_empty() || replacing.contains(&place(row));
        let wanted: Vec<Row> = tables.readings.iter().filter(wanted).cloned().collect();
        let assessed = topic(&self.kafka, &format!("{}-assessed", self.name));
        let mut sent = Vec::new();
        for record in &assessed {
            let row = parsed(std::str::from_utf8(&record.payload).unwrap());
            assert_eq!(record.key, text(&row, "patient").as_bytes());
            assert_eq!(record.headers["epoch"], integer(&row, "epoch").to_string());
            sent.push(row);
        }
        let (sent, wanted) = (timeless(&sent), timeless(&wanted));
        assert!(sent == wanted, "the topic of assessed readings holds {} rows, not {}", sent.len(), wanted.len());
    }

    /// Each row of `alerts` once, those of one window in their order.
    fn alerts_agree(&self) {
        const ABOUT: [&str; 5] = ["table", "feature", "group", "current_start", "current_end"];
        let by_key = |rows: Vec<Row>| {
            let mut by_key = BTreeMap::<String, Vec<Row>>::new();
            for row in rows {
                by_key.entry(ABOUT.map(|column| text(&row, column)).join("/")).or_default().push(row);
            }
            by_key
        };
        let mut sent = Vec::new();
        for record in topic(&self.kafka, &format!("{}-alerts", self.name)) {
            let row = parsed(std::str::from_utf8(&record.payload).unwrap());
            assert_eq!(record.key, ABOUT.map(|column| text(&row, column)).join("/").into_bytes());
            assert_eq!(record.headers["epoch"], integer(&row, "epoch").to_string());
            sent.push(row);
        }
        let mut wanted = ndjson(&self.data(), "alerts");
        wanted.sort_by_key(|row| integer(row, "epoch"));
        assert_eq!(by_key(sent), by_key(wanted));
    }

    fn dead_letters_agree(&self, expected: &Expected) {
        let letters = topic(&self.kafka, &format!("error.{0}.{0}", self.name));
        let mut found = BTreeMap::new();
        for letter in &letters {
            let header = |name: &str| letter.headers[name].as_str();
            let place = (header("x-source-partition").parse().unwrap(), header("x-source-offset").parse().unwrap());
            assert_eq!(header("x-source-topic"), self.name);
            assert_eq!(letter.key, format!("{}/{}/{}/0", self.name, place.0, place.1).into_bytes());
            found.insert(place, header("x-error-type").to_owned());
        }
        assert_eq!(found.len(), letters.len(), "a dead letter was sent twice");
        let rules = expected.rejected.iter().map(|(place, rule)| (*place, (*rule).to_owned()));
        assert_eq!(found, rules.collect());
    }
}

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// At the end of its input.
    Reached,
    /// By a signal.
    Stopped,
}

/// The lowest of the partitions' watermarks.
fn watermark(expected: &Expected) -> i64 {
    let mut newest = BTreeMap::new();
    for ((partition, _), reading) in expected.readings.iter().filter(|(_, reading)| reading.systolic.is_some()) {
        let at = newest.entry(partition).or_insert(i64::MIN);
        *at = reading.at.max(*at);
    }
    newest.into_values().min().unwrap() - TIMES.disorder
}

fn place(row: &Row) -> (i32, i64) {
    (integer(row, "partition") as i32, integer(row, "offset"))
}

/// Messages accounted for so far, as `/metrics` tells.
pub(crate) fn accounted(url: &str) -> f64 {
    get(&format!("{url}/metrics")).map_or(0.0, |text| metric(&text, "windkessel_inputs_total", ""))
}

/// Workers whose Elasticsearch sink waits.
pub(crate) fn waiting(url: &str) -> f64 {
    get(&format!("{url}/metrics"))
        .map_or(0.0, |text| metric(&text, "windkessel_sink_waiting", "sink=\"elasticsearch\""))
}

/// PyArrow and DuckDB, where `WINDKESSEL_TEST_PYTHON` names a Python that has them, read every Parquet file as we do.
fn read_by_others(data: &Path, tables: &Tables) {
    let Some(python) = std::env::var_os("WINDKESSEL_TEST_PYTHON") else {
        assert!(std::env::var_os("WINDKESSEL_REQUIRE_SERVICES").is_none(), "WINDKESSEL_TEST_PYTHON is not set");
        eprintln!("SKIPPED reading with PyArrow and DuckDB: WINDKESSEL_TEST_PYTHON names no Python that has them");
        return;
    };
    let read = finish(Command::new(python).arg(repository("tests/services/read_parquet.py")).arg(data)).succeeded();
    let sum = |rows: &[Row], column: &str| -> f64 {
        let values = rows.iter().filter_map(|row| row.get(column)).map(|value| value.as_f64().unwrap());
        values.sum()
    };
    for (table, rows, column) in [
        ("readings", &tables.readings, "systolic_mmhg"),
        ("windows", &tables.windows, "systolic_mean_mmhg"),
        ("rejected", &tables.rejected, "offset"),
    ] {
        let (count, total) = (rows.len(), sum(rows, column));
        for reader in ["pyarrow", "duckdb"] {
            let line = read.out.lines().find(|line| line.starts_with(&format!("{reader} {table} ")));
            let mut words = line.unwrap_or_else(|| panic!("{}", read.out)).split(' ').skip(2);
            assert_eq!(words.next().unwrap().parse::<usize>().unwrap(), count, "{reader} {table}");
            let found: f64 = words.next().unwrap().parse().unwrap();
            assert!((found - total).abs() <= 1e-9 * total.abs(), "{reader} {table}: {found}, not {total}");
        }
    }
}

#[test]
fn two_hundred_thousand_observations_are_each_accounted_for_once() {
    let Some(servers) = servers("two_hundred_thousand_observations_are_each_accounted_for_once") else { return };
    let stage = Stage::new("two-hundred-thousand", &servers);
    finish(&mut stage.generate(200_000, 0)).succeeded();
    let finished = finish(stage.run().args(["--until", "end"])).succeeded();
    assert!(finished.resident_max < RESIDENT_MAX_BYTES, "{} bytes resident", finished.resident_max);
    stage.check(&finished, End::Reached);
    assert!(!ndjson(&stage.data(), "alerts").is_empty(), "no alerts to compare with their topic");
}

#[test]
fn elasticsearch_stopped_in_the_middle_loses_nothing() {
    const NAME: &str = "elasticsearch_stopped_in_the_middle_loses_nothing";
    let Some(mut servers) = servers(NAME) else { return };
    if !servers.elasticsearch.is_ours(NAME) {
        return;
    }
    let stage = Stage::new("elasticsearch-stopped", &servers);
    // The topic, before anybody asks for it.
    finish(&mut stage.generate(1, 0)).succeeded();
    let generator = Running::start(&mut stage.generate(30_000, 2_000));
    let mut running = Running::start(&mut stage.run());
    let url = running.url();
    running.until("a part of the messages", |_| (accounted(&url) > 4_000.0).then_some(()));
    servers.elasticsearch.kill();
    running.until("both workers' sinks that wait", |_| (waiting(&url) == 2.0).then_some(()));
    servers.elasticsearch.restart();
    running.until("sinks that go on", |_| (waiting(&url) == 0.0).then_some(()));
    generator.wait(DEADLINE).succeeded();
    stage.stop_when_all_is_accounted_for(running, &url);
}

#[test]
fn the_broker_killed_and_restarted_loses_nothing() {
    const NAME: &str = "the_broker_killed_and_restarted_loses_nothing";
    let Some(mut servers) = servers(NAME) else { return };
    if !servers.kafka.is_ours(NAME) {
        return;
    }
    let stage = Stage::new("broker-killed", &servers);
    finish(&mut stage.generate(40_000, 0)).succeeded();
    let messages = stage.messages().len() as f64;
    let mut running = Running::start(&mut stage.run());
    let url = running.url();
    running.until("a part of the messages", |_| (accounted(&url) > 2_000.0).then_some(()));
    servers.kafka.kill();
    std::thread::sleep(Duration::from_secs(3));
    servers.kafka.restart();
    running.until("all messages", |_| (accounted(&url) >= messages).then_some(()));
    running.signal("TERM");
    stage.check(&running.wait(DEADLINE).succeeded(), End::Stopped);

    let again = finish(stage.run().args(["--until", "end"])).succeeded();
    assert_eq!(outcomes(&again.out).values().sum::<u64>(), 0, "what was settled is not read again: {}", again.out);
}

/// The library's own tests with a real server lie beside the sink that they are about, where nobody starts a server for them.
#[test]
fn the_tests_of_the_elasticsearch_sink_pass_against_a_real_server() {
    const NAME: &str = "the_tests_of_the_elasticsearch_sink_pass_against_a_real_server";
    let Some(servers) = servers(NAME) else { return };
    let address = &servers.elasticsearch.address;
    library_tests(NAME, "sink::elasticsearch::real::", "WINDKESSEL_TEST_ELASTICSEARCH", address);
}

#[test]
fn the_tests_of_the_kafka_sink_pass_against_a_real_broker() {
    const NAME: &str = "the_tests_of_the_kafka_sink_pass_against_a_real_broker";
    let Some(servers) = servers(NAME) else { return };
    library_tests(NAME, "sink::kafka::real::", "WINDKESSEL_TEST_KAFKA", &servers.kafka.address);
}

/// Runs those of the library's tests whose names begin so, one at a time.
fn library_tests(name: &str, tests: &str, variable: &str, address: &str) {
    let this = std::env::current_exe().unwrap();
    let has_them = |path: &std::path::PathBuf| {
        let library =
            path.file_name().unwrap().to_string_lossy().starts_with("windkessel-") && path.extension().is_none();
        library
            && Command::new(path)
                .arg("--list")
                .output()
                .is_ok_and(|list| String::from_utf8_lossy(&list.stdout).contains(tests))
    };
    let built = |path: &std::path::PathBuf| std::fs::metadata(path).and_then(|data| data.modified()).unwrap();
    let beside = std::fs::read_dir(this.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let Some(library) = beside.filter(has_them).max_by_key(built) else {
        eprintln!("SKIPPED {name}: the library's tests are not built; `cargo test` builds them");
        return;
    };
    let mut command = Command::new(library);
    command.current_dir(repository("")).args([tests, "--test-threads", "1"]);
    let ran = finish(command.env(variable, address)).succeeded();
    assert!(!ran.out.contains("running 0 tests"), "{}", ran.out);
}
