//! The whole sink over real HTTP against a scripted server: one test for each row of the status table, and what surrounds it.
//!
//! Pauses are a few milliseconds here; nothing is timed.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use expect_test::expect;

use super::testing::{MOVED, Reaction, Row, Scripted, pseudonym, readings_of, row};
use super::*;

use Reaction::{Accept, Answer, Hang, Items, Tear};

/// Fast enough for tests; the request's time-out is long enough for a busy machine.
const TEST_PACE: Pace = Pace {
    backoff_first: Duration::from_millis(1),
    backoff_max: Duration::from_millis(4),
    request: Duration::from_secs(20),
};

/// A sink before a scripted server.
struct Bench {
    server: Scripted,
    sink: ElasticsearchSink,
    letters: Arc<Mutex<Vec<DeadLetter>>>,
    metrics: Metrics,
    stop: Stop,
}

fn bench_with(script: Vec<Reaction>, change: impl FnOnce(&mut ElasticsearchSpec)) -> Bench {
    let server = Scripted::start(script);
    let mut spec = ElasticsearchSpec { url: server.url.clone(), install_template: false, ..Default::default() };
    change(&mut spec);
    let letters = Arc::new(Mutex::new(Vec::new()));
    let (metrics, stop, kept) = (Metrics::new(), Stop::default(), letters.clone());
    let hook: DeadLetterHook = Box::new(move |letter| {
        kept.lock().unwrap().push(letter);
        Ok(())
    });
    let sink = ElasticsearchSink::with(&spec, hook, stop.clone(), metrics.clone(), TEST_PACE).unwrap();
    Bench { server, sink, letters, metrics, stop }
}

fn bench(script: Vec<Reaction>) -> Bench {
    bench_with(script, |_| {})
}

impl Bench {
    fn epoch(&mut self, epoch: Epoch, rows: &[Row]) -> Result<(), SinkError> {
        self.sink.deliver(epoch, &readings_of(epoch, rows))?;
        self.sink.close(epoch)
    }

    /// Documents 1 to `count` in epoch 7.
    fn documents(&mut self, count: u8) -> Result<(), SinkError> {
        self.epoch(7, &(1..=count).map(row).collect::<Vec<_>>())
    }

    /// Settled, retried and rejected documents, and whether it waits.
    fn counted(&self) -> (u64, u64, u64, i64) {
        let rejected = self.metrics.sink_rejected_items.with_label_values(&[SINK, "document_parsing_exception"]).get();
        (
            self.metrics.sink_records.with_label_values(&[SINK, "readings"]).get(),
            self.metrics.sink_retries.with_label_values(&[SINK]).get(),
            rejected,
            self.metrics.sink_waiting.with_label_values(&[SINK]).get(),
        )
    }
}

#[test]
fn written_and_already_newer_are_settled() {
    let mut bench = bench(vec![Items(&[200, 201, 409])]);
    bench.documents(3).unwrap();
    assert_eq!(bench.server.bulks(), "POST /_bulk: 1 2 3\n");
    assert_eq!(bench.counted(), (3, 0, 0, 0));
}

#[test]
fn only_the_items_that_were_too_many_are_sent_again_in_order() {
    let mut bench = bench(vec![Items(&[201, 429, 503, 201]), Items(&[429, 201]), Items(&[201])]);
    bench.documents(4).unwrap();
    expect![[r#"
        POST /_bulk: 1 2 3 4
        POST /_bulk: 2 3
        POST /_bulk: 2
    "#]]
    .assert_eq(&bench.server.bulks());
    assert_eq!(bench.counted(), (4, 3, 0, 0));
}

#[test]
fn a_rejected_document_is_a_dead_letter_and_the_others_are_written() {
    let mut bench = bench(vec![Items(&[201, 400, 429]), Items(&[201])]);
    bench.documents(3).unwrap();
    expect![[r#"
        POST /_bulk: 1 2 3
        POST /_bulk: 3
    "#]]
    .assert_eq(&bench.server.bulks());
    let letter = DeadLetter::new("bp-readings-2026.01", pseudonym(2), 7, 400, "document_parsing_exception");
    assert_eq!(*bench.letters.lock().unwrap(), [letter]);
    assert_eq!(bench.counted(), (2, 1, 1, 0));
}

#[test]
fn ten_rejected_documents_are_borne_and_eleven_stop_the_run() {
    const TEN: [u16; 20] = {
        let mut statuses = [201; 20];
        let mut at = 0;
        while at < 10 {
            statuses[at] = 400;
            at += 1;
        }
        statuses
    };
    const ELEVEN: [u16; 20] = {
        let mut statuses = TEN;
        statuses[10] = 400;
        statuses
    };
    bench(vec![Items(&TEN)]).documents(20).unwrap();
    let mut bench = bench(vec![Items(&ELEVEN)]);
    let error = bench.documents(20).unwrap_err().to_string();
    assert!(error.contains("11 of 20 documents") && error.contains("document_parsing_exception"), "{error}");
    assert!(!error.contains("SECRET VALUE"));
}

#[test]
fn eleven_in_a_large_epoch_are_borne() {
    let share = |documents, rejected| Tolerance { documents, rejected }.exceeded();
    assert!(!share(1_100, 11), "exactly one per cent");
    assert!(share(1_099, 11));
    assert!(!share(5, 5) && !share(10, 10));
}

#[test]
fn a_missing_index_stops_the_run() {
    let mut bench = bench(vec![Items(&[201, 404])]);
    let error = bench.documents(2).unwrap_err().to_string();
    assert!(error.contains("no index \"bp-readings-2026.01\""), "{error}");
}

#[test]
fn a_request_too_large_is_split_and_stays_small() {
    let large = || Answer(413, String::new());
    let mut bench = bench(vec![large(), large()]);
    bench.documents(5).unwrap();
    bench.epoch(8, &[row(1), row(2), row(3)]).unwrap();
    expect![[r#"
        POST /_bulk: 1 2 3 4 5
        POST /_bulk: 1 2
        POST /_bulk: 1
        POST /_bulk: 2
        POST /_bulk: 3
        POST /_bulk: 4
        POST /_bulk: 5
        POST /_bulk: 1
        POST /_bulk: 2
        POST /_bulk: 3
    "#]]
    .assert_eq(&bench.server.bulks());
    assert_eq!(bench.counted(), (8, 0, 0, 0));
}

#[test]
fn a_document_too_large_alone_is_a_dead_letter() {
    let mut bench = bench_with(vec![Accept, Answer(413, String::new())], |spec| spec.bulk_documents = 1);
    bench.documents(3).unwrap();
    let letter = DeadLetter::new("bp-readings-2026.01", pseudonym(2), 7, 413, "document_too_large");
    assert_eq!(*bench.letters.lock().unwrap(), [letter]);
    assert_eq!(bench.counted().0, 2);
}

#[test]
fn an_overloaded_cluster_is_waited_for() {
    let busy = |status| Answer(status, r#"{"error":{"type":"circuit_breaking_exception"}}"#.into());
    let mut bench = bench(vec![busy(429), busy(503), busy(502), busy(408), Accept]);
    bench.documents(2).unwrap();
    assert_eq!(bench.server.bulks(), "POST /_bulk: 1 2\n".repeat(5));
    assert_eq!(bench.counted(), (2, 4, 0, 0));
}

#[test]
fn broken_connections_and_answers_are_waited_for() {
    let mut bench =
        bench(vec![Hang, Tear, Answer(200, "<html>".into()), Answer(200, r#"{"items":[]}"#.into()), Accept]);
    bench.documents(2).unwrap();
    assert_eq!(bench.server.bulks(), "POST /_bulk: 1 2\n".repeat(5));
    assert_eq!(bench.counted().0, 2);
}

#[test]
fn nobody_listening_is_waited_for_until_the_run_is_abandoned() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let mut bench = bench_with(vec![], |spec| spec.url = closed);
    let (stop, metrics) = (bench.stop.clone(), bench.metrics.clone());
    let operator = std::thread::spawn(move || {
        // Asked once it goes on waiting; asked twice it gives up.
        stop.ask();
        while metrics.sink_retries.with_label_values(&[SINK]).get() < 5 {
            std::thread::yield_now();
        }
        assert_eq!(metrics.sink_waiting.with_label_values(&[SINK]).get(), 1);
        stop.ask();
    });
    assert!(matches!(bench.documents(1), Err(SinkError::Stopped)));
    operator.join().unwrap();
    assert_eq!(bench.counted().0, 0);
}

fn secret_file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

#[test]
fn a_rotated_secret_is_read_again_once() {
    let (_folder, path) = secret_file("old");
    let file = path.clone();
    let mut bench = bench_with(vec![Accept, Answer(401, String::new()), Accept], |spec| spec.api_key_file = Some(file));
    bench.documents(1).unwrap();
    std::fs::write(&path, "new\n").unwrap();
    bench.epoch(8, &[row(1)]).unwrap();
    let keys: Vec<_> = bench.server.seen().into_iter().filter_map(|seen| seen.authorization).collect();
    assert_eq!(keys, ["ApiKey old", "ApiKey old", "ApiKey new"]);
}

#[test]
fn a_wrong_secret_stops_the_run_and_is_not_shown() {
    let (_folder, path) = secret_file("hunter2");
    for script in [
        vec![Answer(401, String::new()), Answer(403, r#"{"error":{"type":"security_exception"}}"#.into())],
        vec![Items(&[201, 403]), Items(&[403])],
    ] {
        let file = path.clone();
        let mut bench = bench_with(script, |spec| {
            spec.user = Some("windkessel".into());
            spec.password_file = Some(file);
        });
        let error = bench.documents(2).unwrap_err().to_string();
        assert!(error.contains("password_file") && error.contains("403"), "{error}");
        assert!(!error.contains("hunter2"));
        assert_eq!(bench.server.bulks().lines().count(), 2, "read again once, not for ever");
    }
}

#[test]
fn other_answers_stop_the_run() {
    for status in [301, 400, 404, 405] {
        let mut bench = bench(vec![Answer(status, r#"{"error":{"type":"x","reason":"SECRET VALUE"}}"#.into())]);
        let error = bench.documents(1).unwrap_err().to_string();
        assert!(error.contains(&status.to_string()) && !error.contains("SECRET VALUE"), "{error}");
    }
}

#[test]
fn one_document_an_id_and_epoch_the_last_one() {
    let mut bench = bench(vec![]);
    let first = readings_of(7, &[row(1).pressure(150.0, 90.0), row(2)]);
    let second = readings_of(7, &[row(1).pressure(151.0, 91.0).replaces()]);
    bench.sink.deliver(7, &first).unwrap();
    bench.sink.deliver(7, &second).unwrap();
    assert_eq!(bench.server.bulks(), "", "nothing is sent before the epoch is closed");
    bench.sink.close(7).unwrap();
    assert_eq!(bench.server.bulks(), "POST /_bulk: 1 2\n");
    let body = bench.server.seen().pop().unwrap().body;
    assert!(body.contains("151.0") && !body.contains("150.0"));
    assert!(body.contains(r#""version":7,"version_type":"external""#));
}

#[test]
fn an_epoch_that_is_still_open_waits_for_its_own_close() {
    let mut bench = bench(vec![]);
    bench.sink.deliver(7, &readings_of(7, &[row(1)])).unwrap();
    bench.sink.deliver(8, &readings_of(8, &[row(1), row(2)])).unwrap();
    bench.sink.close(7).unwrap();
    assert_eq!(bench.server.bulks(), "POST /_bulk: 1\n");
    bench.sink.deliver(8, &readings_of(8, &[row(1).pressure(151.0, 91.0).replaces()])).unwrap();
    bench.sink.close(8).unwrap();
    assert_eq!(bench.server.bulks(), "POST /_bulk: 1\nPOST /_bulk: 1 2\n");
    assert!(bench.server.seen().pop().unwrap().body.contains("151.0"));
}

#[test]
fn a_document_that_moves_to_another_month_is_retracted_where_it_was() {
    let mut bench = bench(vec![]);
    bench.epoch(8, &[row(MOVED).at("2026-01-05T00:00:00Z").replaces(), row(1).replaces()]).unwrap();
    expect![[r#"
        GET /bp-readings-*/_alias
        POST /_mget
        POST /_bulk: 9 1 9
    "#]]
    .assert_eq(&bench.server.seen().iter().map(|seen| seen.line()).collect::<String>());
    let body = bench.server.seen().pop().unwrap().body;
    let retraction: Vec<&str> = body.lines().take(2).collect();
    assert!(retraction[0].contains(r#""_index":"bp-readings-2025.12""#) && retraction[0].contains(r#""version":8"#));
    assert_eq!(retraction[1], r#"{"patient":"p","retracted":true,"epoch":8}"#);
}

#[test]
fn without_corrections_nothing_is_looked_up() {
    let mut bench = bench(vec![]);
    bench.documents(3).unwrap();
    assert_eq!(bench.server.seen().len(), 1);
}

#[test]
fn an_epoch_of_many_documents_goes_in_requests_of_the_configured_size() {
    let mut bench = bench_with(vec![], |spec| spec.bulk_documents = 2);
    bench.documents(5).unwrap();
    assert_eq!(bench.server.bulks(), "POST /_bulk: 1 2\nPOST /_bulk: 3 4\nPOST /_bulk: 5\n");
}

#[test]
fn other_tables_and_empty_epochs_send_nothing() {
    let mut bench = bench_with(vec![], |spec| spec.install_template = true);
    let windows = Rows { table: TableName::Windows, ..readings_of(7, &[row(1)]) };
    bench.sink.deliver(7, &windows).unwrap();
    bench.sink.close(7).unwrap();
    bench.sink.finish().unwrap();
    assert!(bench.server.seen().is_empty());
}

#[test]
fn templates_are_put_before_the_first_document_and_once() {
    let mut bench = bench_with(vec![], |spec| spec.install_template = true);
    bench.documents(1).unwrap();
    bench.epoch(8, &[row(2).replaces()]).unwrap();
    bench.sink.finish().unwrap();
    let lines: String = bench.server.seen().iter().map(|seen| seen.line()).collect();
    expect![[r#"
        GET /_component_template/windkessel-settings
        PUT /_component_template/windkessel-settings
        GET /_component_template/windkessel-mappings
        PUT /_component_template/windkessel-mappings
        GET /_index_template/windkessel-bp-readings
        PUT /_index_template/windkessel-bp-readings
        GET /bp-readings-*/_alias
        PUT /bp-readings-2025.12/_mapping
        POST /_bulk: 1
        GET /bp-readings-*/_alias
        POST /_mget
        POST /_bulk: 2
        POST /bp-readings-*/_refresh
    "#]]
    .assert_eq(&lines);
}

#[test]
fn what_the_audit_finds_becomes_documents_where_the_flow_says_so() {
    use super::testing::found;
    use crate::vocabulary::findings::{Finding, Performance, Shift};

    let shifts = || {
        let shift = |feature| Finding::Shift(Shift { feature, group: "all".into(), ..Shift::default() });
        found(7, vec![shift("systolic"), shift("diastolic")])
    };
    let performance = || found(7, vec![Finding::Performance(Performance { group: "all", ..Performance::default() })]);
    let mut off = bench(vec![]);
    for rows in [shifts(), performance()] {
        off.sink.deliver(7, &rows).unwrap();
    }
    off.sink.close(7).unwrap();
    assert_eq!(off.server.bulks(), "", "without sink.elasticsearch.audit nothing is sent");

    let mut on = bench_with(vec![Items(&[201, 429, 201, 409]), Items(&[201])], |spec| spec.audit = "bp-audit".into());
    on.sink.deliver(7, &readings_of(7, &[row(1)])).unwrap();
    for rows in [shifts(), performance()] {
        on.sink.deliver(7, &rows).unwrap();
    }
    on.sink.close(7).unwrap();
    let count = |table: &str| on.metrics.sink_records.with_label_values(&[SINK, table]).get();
    assert_eq!((count("readings"), count("shifts"), count("performance")), (1, 2, 1), "each counted as its table's");
    assert_eq!(on.counted().1, 1);
    on.sink.close(8).unwrap();
    assert_eq!(on.server.bulks().lines().count(), 2, "nothing is sent twice");
}
