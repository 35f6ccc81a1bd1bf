//! For the tests of this module: rows of `readings`, and a scripted HTTP server.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondArray,
};

use serde_json::json;

use crate::config::TableName;
use crate::sink::Rows;
use crate::sink::tables::{Context, Tables};
use crate::source::Topics;
use crate::vocabulary::findings::Finding;

use super::document::DocumentId;

/// One row of `readings`.
pub(super) struct Row {
    number: u8,
    at: i64,
    pressure: Option<(f64, f64)>,
    reasons: Vec<&'static str>,
    status: &'static str,
    replaces: bool,
}

/// A final reading of observation `number` without reason.
pub(super) fn row(number: u8) -> Row {
    Row { number, at: 0, pressure: None, reasons: Vec::new(), status: "final", replaces: false }
        .at("2026-01-01T00:00:00Z")
}

impl Row {
    pub(super) fn at(self, at: &str) -> Self {
        Row { at: at.parse::<jiff::Timestamp>().unwrap().as_microsecond(), ..self }
    }

    pub(super) fn pressure(self, systolic: f64, diastolic: f64) -> Self {
        Row { pressure: Some((systolic, diastolic)), ..self }
    }

    pub(super) fn reasons(self, reasons: &[&'static str]) -> Self {
        Row { reasons: reasons.to_vec(), ..self }
    }

    pub(super) fn status(self, status: &'static str) -> Self {
        Row { status, ..self }
    }

    pub(super) fn replaces(self) -> Self {
        Row { replaces: true, ..self }
    }
}

/// The id of observation `number`.
pub(super) fn pseudonym(number: u8) -> DocumentId {
    let mut id = [0; 16];
    id[15] = number;
    DocumentId(id)
}

/// The tables of a flow without further signals.
pub(super) fn tables() -> Tables {
    let context = Context { topics: Topics::new([]), signals: Vec::new(), rule_set: String::new(), model: None };
    Tables::new(context)
}

/// The rows of one finding's table.
pub(super) fn found(epoch: u64, findings: Vec<Finding>) -> Rows {
    tables().findings(findings, epoch).remove(0)
}

/// Rows of epoch 7.
pub(super) fn readings(rows: &[Row]) -> Rows {
    readings_of(7, rows)
}

/// A table of `readings` with the columns of the first release.
pub(super) fn readings_of(epoch: u64, rows: &[Row]) -> Rows {
    let n = rows.len();
    let text =
        |value: &dyn Fn(&Row) -> Option<String>| Arc::new(StringArray::from_iter(rows.iter().map(value))) as ArrayRef;
    let float =
        |value: &dyn Fn(&Row) -> Option<f64>| Arc::new(Float64Array::from_iter(rows.iter().map(value))) as ArrayRef;
    let instant = |value: &dyn Fn(&Row) -> Option<i64>| {
        let column = TimestampMicrosecondArray::from_iter(rows.iter().map(value)).with_timezone("UTC");
        Arc::new(column) as ArrayRef
    };
    let dictionary = |value: &dyn Fn(&Row) -> Option<&'static str>| {
        Arc::new(rows.iter().map(value).collect::<StringArray>()) as ArrayRef
    };
    let mut reasons = ListBuilder::new(StringBuilder::new());
    rows.iter().for_each(|row| reasons.append_value(row.reasons.iter().map(Some)));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("patient", text(&|_| Some(format!("{:032x}", 0xaa)))),
        ("observation", text(&|row| Some(pseudonym(row.number).to_string()))),
        ("status", text(&|row| Some(row.status.into()))),
        ("version", Arc::new(Int64Array::new_null(n))),
        ("topic", dictionary(&|_| None)),
        ("partition", Arc::new(Int32Array::from(vec![0; n]))),
        ("offset", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| i64::from(row.number))))),
        ("effective_at", instant(&|row| Some(row.at))),
        ("received_at", instant(&|_| None)),
        ("systolic_mmhg", float(&|row| Some(row.pressure?.0))),
        ("diastolic_mmhg", float(&|row| Some(row.pressure?.1))),
        ("mean_arterial_mmhg", float(&|_| None)),
        ("category", dictionary(&|row| (row.pressure?.0 >= 140.0).then_some("stage 2"))),
        ("reasons", Arc::new(reasons.finish())),
        ("rule_set", text(&|_| Some("legacy_readings_envelope".into()))),
        ("probability", float(&|_| None)),
        ("risk_level", dictionary(&|_| None)),
        ("model", dictionary(&|_| None)),
        ("late", Arc::new(BooleanArray::from(vec![false; n]))),
        ("not_recomputed", Arc::new(BooleanArray::from(vec![false; n]))),
        ("epoch", Arc::new(Int64Array::from(vec![epoch as i64; n]))),
    ];
    Rows {
        table: TableName::Readings,
        batch: RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
            .unwrap(),
        replaces: rows.iter().map(|row| row.replaces).collect(),
        routes: Arc::default(),
    }
}

/// What the scripted server does with a request.
#[derive(Clone, Debug)]
pub(super) enum Reaction {
    /// Answers with a status and a body.
    Answer(u16, String),
    /// Answers 200 with one item a document, of these statuses.
    Items(&'static [u16]),
    /// Answers 200 with 201 for every document.
    Accept,
    /// Closes the connection without an answer.
    Hang,
    /// Announces more bytes than it sends, then closes.
    Tear,
}

/// A request as the server saw it, its body decompressed.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) authorization: Option<String>,
    pub(super) body: String,
}

impl Seen {
    /// `POST /_bulk: 1 2 3`, the numbers being those of the documents.
    pub(super) fn line(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        let ids: Vec<String> =
            self.ids().iter().map(|id| u8::from_str_radix(&id[30..], 16).unwrap().to_string()).collect();
        format!("{} {path}{}{}\n", self.method, if ids.is_empty() { "" } else { ": " }, ids.join(" "))
    }

    /// The ids of a bulk request's documents, in order.
    pub(super) fn ids(&self) -> Vec<String> {
        if !self.path.starts_with("/_bulk") {
            return Vec::new();
        }
        let action = |line: &str| {
            let action: serde_json::Value = serde_json::from_str(line).unwrap();
            action["index"]["_id"].as_str().unwrap().to_owned()
        };
        self.body.lines().step_by(2).map(action).collect()
    }
}

/// A server on a loopback port that follows a script, one reaction a request, and accepts everything after its end.
///
/// Only bulk requests consume the script; the rest is answered by [`young_cluster`].
pub(super) struct Scripted {
    pub(super) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Scripted {
    pub(super) fn start(script: Vec<Reaction>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script = Arc::new(Mutex::new(VecDeque::from(script)));
        let shared = seen.clone();
        // Lives as long as the test process: a listener has no portable way to be woken.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, script) = (shared.clone(), script.clone());
                thread::spawn(move || while serve(&stream, &seen, &script).is_some() {});
            }
        });
        Scripted { url, seen }
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// All bulk requests, a line each.
    pub(super) fn bulks(&self) -> String {
        self.seen().iter().filter(|seen| seen.path.starts_with("/_bulk")).map(Seen::line).collect()
    }
}

/// Reads one request and reacts; `None` when the connection is over.
fn serve(stream: &TcpStream, seen: &Mutex<Vec<Seen>>, script: &Mutex<VecDeque<Reaction>>) -> Option<()> {
    let request = read(&mut BufReader::new(stream))?;
    let bulk = request.path.starts_with("/_bulk");
    let reaction =
        if bulk { script.lock().unwrap().pop_front().unwrap_or(Reaction::Accept) } else { young_cluster(&request) };
    let ids = request.ids();
    seen.lock().unwrap().push(request);
    let (status, body) = match reaction {
        Reaction::Answer(status, body) => (status, body),
        Reaction::Items(statuses) => (200, items(&ids, statuses)),
        Reaction::Accept => (200, items(&ids, &vec![201; ids.len()])),
        Reaction::Hang => {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return None;
        }
        Reaction::Tear => {
            let mut stream = stream;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"items\":[");
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return None;
        }
    };
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .ok()
}

/// The observation that stands in December 2025 already.
pub(super) const MOVED: u8 = 9;

/// A cluster with one month, and nothing in it but one document.
fn young_cluster(request: &Seen) -> Reaction {
    match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/_mget") => {
            let asked: serde_json::Value = serde_json::from_str(&request.body).unwrap();
            let moved = |id: &serde_json::Value| *id == pseudonym(MOVED).to_string();
            let docs = asked["docs"].as_array().unwrap().iter().map(|doc| match moved(&doc["_id"]) {
                true => json!({ "found": true, "_source": { "patient": "p", "retracted": false, "epoch": 3 } }),
                false => json!({ "found": false }),
            });
            let docs: Vec<_> = docs.collect();
            Reaction::Answer(200, json!({ "docs": docs }).to_string())
        }
        ("GET", path) if path.ends_with("/_alias") => {
            Reaction::Answer(200, r#"{"bp-readings-2025.12":{"aliases":{}}}"#.into())
        }
        ("GET", _) => Reaction::Answer(404, "{}".into()),
        _ => Reaction::Answer(200, "{}".into()),
    }
}

fn items(ids: &[String], statuses: &[u16]) -> String {
    assert_eq!(ids.len(), statuses.len(), "the script fits the request");
    let item = |(id, status): (&String, &u16)| {
        let error = match status {
            400.. => r#","error":{"type":"document_parsing_exception","reason":"SECRET VALUE"}"#,
            _ => "",
        };
        format!(r#"{{"index":{{"_id":"{id}","status":{status}{error}}}}}"#)
    };
    let items: Vec<String> = ids.iter().zip(statuses).map(item).collect();
    format!(r#"{{"took":1,"errors":true,"items":[{}]}}"#, items.join(","))
}

fn read(reader: &mut impl BufRead) -> Option<Seen> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let (mut length, mut gzip, mut authorization) = (0, false, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap(),
            "content-encoding" => gzip = value.trim() == "gzip",
            "authorization" => authorization = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).ok()?;
    let mut body = String::new();
    match gzip {
        true => flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut body).unwrap(),
        false => (&bytes[..]).read_to_string(&mut body).unwrap(),
    };
    Some(Seen { method, path, authorization, body })
}
