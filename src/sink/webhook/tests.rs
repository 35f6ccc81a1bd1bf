//! The whole sink against a receiver that misbehaves: what arrives, in which order, and that nothing of it holds the sink up.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::Instant;

use super::*;
use crate::runtime::survive::Route;
use crate::sink::testing::{alert, alerts};
use crate::vocabulary::findings::AlertState;

const DEADLINE: Duration = Duration::from_secs(60);
const QUICK: Pace = Pace {
    backoff_first: Duration::from_millis(1),
    backoff_max: Duration::from_millis(5),
    request: Duration::from_secs(20),
};

/// One request as it came.
#[derive(Clone, Debug)]
struct Seen {
    line: String,
    headers: BTreeMap<String, String>,
    body: serde_json::Value,
}

/// Answers requests with these heads, one after the other; after them with 204. An empty one closes the connection instead.
struct Receiver {
    address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Receiver {
    fn start(script: &[&str]) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let script: Vec<String> = script.iter().map(|answer| (*answer).to_owned()).collect();
        let (script, seen) = (Arc::new(Mutex::new(VecDeque::from(script))), Arc::new(Mutex::new(Vec::new())));
        let shared = Arc::clone(&seen);
        // Lives as long as the test process: a listener has no portable way to be woken.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, script) = (Arc::clone(&shared), Arc::clone(&script));
                std::thread::spawn(move || while serve(&stream, &seen, &script).is_some() {});
            }
        });
        Receiver { address, seen }
    }

    fn url(&self) -> String {
        format!("http://{}/hook?key=1", self.address)
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The hours of the alerts that were sent, and how they stand.
    fn told(&self) -> Vec<String> {
        let told = |seen: Seen| {
            let of = |name: &str| seen.body[name].as_str().unwrap().to_owned();
            format!("{} {}", &of("current_start")[11..13], of("state"))
        };
        self.seen().into_iter().map(told).collect()
    }

    fn until_told(&self, requests: usize) -> Vec<String> {
        until(|| (self.seen().len() >= requests).then(|| self.told()))
    }
}

fn serve(stream: &TcpStream, seen: &Mutex<Vec<Seen>>, script: &Mutex<VecDeque<String>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut body = vec![0; headers.get("content-length").map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    let body = serde_json::from_slice(&body).unwrap_or_default();
    seen.lock().unwrap().push(Seen { line: line.trim().to_owned(), headers, body });
    let answer = script.lock().unwrap().pop_front().unwrap_or_else(|| "204 No Content".into());
    if answer.is_empty() {
        let _ = stream.shutdown(std::net::Shutdown::Both);
        return None;
    }
    let mut stream = stream;
    let body = if answer.starts_with("204") { "" } else { "content-length: 6\r\n\r\nSECRET" };
    write!(stream, "HTTP/1.1 {answer}\r\n{}", if body.is_empty() { "\r\n" } else { body }).ok()
}

fn until<T>(mut seen: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = seen() {
            return seen;
        }
        assert!(begun.elapsed() < DEADLINE, "it does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn sink(spec: &WebhookSpec, metrics: &Metrics) -> WebhookSink {
    WebhookSink::with((spec, "bp"), false, Stop::default(), metrics.clone(), QUICK).unwrap()
}

fn spec(url: &str) -> WebhookSpec {
    WebhookSpec { url: url.into(), ..WebhookSpec::default() }
}

/// One alert, of the hour that the epoch says, settled.
fn raise(sink: &mut WebhookSink, epochs: std::ops::RangeInclusive<u64>) {
    for epoch in epochs {
        sink.deliver(epoch, &alerts(epoch, vec![alert("systolic", epoch as i64, AlertState::Raised)])).unwrap();
        sink.close(epoch).unwrap();
    }
}

#[test]
fn alerts_are_posted_when_their_epoch_is_settled_with_token_and_id() {
    let (receiver, metrics, folder) = (Receiver::start(&[]), Metrics::new(), tempfile::tempdir().unwrap());
    let token = folder.path().join("token");
    std::fs::write(&token, "t0ken\n").unwrap();
    let mut sink = sink(&WebhookSpec { token_file: Some(token), ..spec(&receiver.url()) }, &metrics);
    sink.deliver(7, &crate::sink::testing::many(7, 3)).unwrap();
    sink.deliver(7, &alerts(7, vec![alert("systolic", 1, AlertState::Raised)])).unwrap();
    sink.deliver(8, &alerts(8, vec![alert("systolic", 1, AlertState::Withdrawn)])).unwrap();
    sink.close(7).unwrap();
    sink.stage(7).unwrap();
    assert_eq!(receiver.told(), ["01 raised"], "epoch 8 may yet be another");
    sink.finish().unwrap();
    assert_eq!(receiver.told(), ["01 raised", "01 withdrawn"]);
    for seen in receiver.seen() {
        assert_eq!(seen.line, "POST /hook?key=1 HTTP/1.1");
        assert_eq!(seen.headers["authorization"], "Bearer t0ken");
        assert_eq!(seen.headers["content-type"], "application/json");
        assert_eq!(seen.headers["idempotency-key"], seen.body["id"]);
    }
    assert_eq!(metrics.sink_records.with_label_values(&[SINK, "alerts"]).get(), 2);
}

#[test]
fn a_receiver_that_misbehaves_gets_every_alert_in_order_and_one_that_refuses_an_alert_gets_the_next() {
    let script = [
        "503 X",
        "",
        "429 X\r\nretry-after: 0",
        "302 X\r\nlocation: http://elsewhere/",
        "404 X",
        "200 OK",
        "422 X",
        "200 OK",
    ];
    let (receiver, metrics) = (Receiver::start(&script), Metrics::new());
    let mut sink = sink(&spec(&receiver.url()), &metrics);
    raise(&mut sink, 1..=4);
    let told = receiver.until_told(9);
    let hours = ["01", "01", "01", "01", "01", "01", "02", "03", "04"].map(|hour| format!("{hour} raised"));
    assert_eq!(told, hours);
    let ids: Vec<String> = receiver.seen().iter().map(|seen| seen.body["id"].to_string()).collect();
    assert_eq!(ids[0], ids[5], "sent again under the same id");
    sink.finish().unwrap();
    let count = |reason| metrics.sink_rejected_items.with_label_values(&[SINK, reason]).get();
    assert_eq!((count("refused"), metrics.sink_records.with_label_values(&[SINK, "alerts"]).get()), (1, 3));
    assert_eq!(metrics.sink_retries.with_label_values(&[SINK]).get(), 5);
    assert_eq!(metrics.sink_waiting.with_label_values(&[SINK]).get(), 0);
}

#[test]
fn a_token_that_was_changed_is_read_again() {
    let (receiver, metrics, folder) =
        (Receiver::start(&["401 X", "401 X", "401 X"]), Metrics::new(), tempfile::tempdir().unwrap());
    let token = folder.path().join("token");
    std::fs::write(&token, "old").unwrap();
    let mut sink = sink(&WebhookSpec { token_file: Some(token.clone()), ..spec(&receiver.url()) }, &metrics);
    std::fs::write(&token, "new").unwrap();
    raise(&mut sink, 1..=1);
    receiver.until_told(4);
    let tokens: Vec<String> = receiver.seen().iter().map(|seen| seen.headers["authorization"].clone()).collect();
    assert_eq!(tokens[..2], ["Bearer old", "Bearer new"]);
    until(|| (metrics.sink_waiting.with_label_values(&[SINK]).get() == 0).then_some(()));
}

/// What a run leaves in its state is what the next one begins with.
#[test]
fn what_a_dead_receiver_did_not_take_waits_through_checkpoint_and_restart() {
    let (metrics, nobody) = (Metrics::new(), TcpListener::bind("127.0.0.1:0").unwrap());
    let url = format!("http://{}/", nobody.local_addr().unwrap());
    drop(nobody);
    let mut first = sink(&WebhookSpec { waiting_max: 3, ..spec(&url) }, &metrics);
    raise(&mut first, 1..=5);
    until(|| (metrics.sink_waiting.with_label_values(&[SINK]).get() == 1).then_some(()));
    first.stage(5).unwrap();
    let mut blocks = Blocks::default();
    first.state().unwrap().save(Extent::All, &mut blocks);
    first.finish().unwrap();
    assert_eq!(metrics.sink_rejected_items.with_label_values(&[SINK, "too_many_wait"]).get(), 2);

    let receiver = Receiver::start(&[]);
    let mut next = sink(&spec(&receiver.url()), &metrics);
    let saved: Vec<(Route, Vec<u8>)> = blocks.iter().map(|(route, block)| (route, block.to_vec())).collect();
    let state = next.state().unwrap();
    saved.iter().for_each(|(_, block)| state.load(block).unwrap());
    state.loaded();
    raise(&mut next, 6..=6);
    let hours = ["03", "04", "05", "06"].map(|hour| format!("{hour} raised"));
    assert_eq!(receiver.until_told(4), hours);
}

#[test]
fn nobody_waits_for_a_receiver_that_fails() {
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let metrics = Metrics::new();
    let pace = Pace { request: Duration::from_millis(100), backoff_first: DEADLINE, backoff_max: DEADLINE };
    let spec = spec(&format!("http://{}", hanging.local_addr().unwrap()));
    let mut sink = WebhookSink::with((&spec, "bp"), false, Stop::default(), metrics.clone(), pace).unwrap();
    raise(&mut sink, 1..=1);
    until(|| (metrics.sink_waiting.with_label_values(&[SINK]).get() == 1).then_some(()));
    for epoch in 2..1_000 {
        raise(&mut sink, epoch..=epoch);
        sink.stage(epoch).unwrap();
    }
    sink.finish().unwrap();
}

#[test]
fn a_receiver_can_be_looked_for_without_telling_it_anything() {
    let receiver = Receiver::start(&["405 X", "403 X", "301 X", "500 X"]);
    let wait = Duration::from_secs(20);
    connect(&spec(&receiver.url()), wait).unwrap();
    for why in ["token", "redirects", "status 500"] {
        let error = connect(&spec(&receiver.url()), wait).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("sink.webhook.url"), "{error}");
    }
    assert!(receiver.seen().iter().all(|seen| seen.line.starts_with("HEAD ") && seen.body.is_null()));
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = connect(&spec(&format!("http://{nobody}")), wait).unwrap_err().to_string();
    assert!(error.contains("the connection was refused"), "{error}");
}
