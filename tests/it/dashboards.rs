//! Proves that what is imported is what is committed, and that the import waits for Kibana and says when it did not work.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};

use crate::support::{finish, repository, windkessel};

/// One request that was made.
struct Request {
    line: String,
    head: String,
    body: String,
}

fn read(stream: &TcpStream) -> Request {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        if header.trim().is_empty() {
            break;
        }
        let lower = header.to_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if lower.starts_with("expect: 100-continue") {
            (&*stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        }
        head.push_str(&lower);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    Request { line, head, body: String::from_utf8(body).unwrap() }
}

/// Answers one request after the other with these, as Kibana might, and tells what was asked.
fn stand_in(answers: Vec<(u16, &'static str)>) -> (String, Receiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (told, tell) = channel();
    std::thread::spawn(move || {
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let request = read(&stream);
            let length = body.len();
            write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
                .unwrap();
            if told.send(request).is_err() {
                return;
            }
        }
    });
    (url, tell)
}

fn import(url: &str) -> Option<crate::support::Finished> {
    if Command::new("curl").arg("--version").output().is_err() {
        assert!(std::env::var_os("WINDKESSEL_REQUIRE_SERVICES").is_none(), "curl is missing");
        eprintln!("skipped: the import into Kibana: curl is not installed");
        return None;
    }
    let mut command = Command::new("sh");
    command.arg(repository("docker/kibana/import")).env("KIBANA_URL", url);
    command.env("KIBANA_OBJECTS", repository("docker/kibana/windkessel.ndjson"));
    command.env("KIBANA_PAUSE", "0.1").env("KIBANA_TRIES", "5");
    Some(finish(&mut command))
}

#[test]
fn the_import_waits_for_kibana_and_sends_the_committed_file() {
    let (url, told) = stand_in(vec![(503, "not yet"), (200, "{}"), (200, r#"{"successCount":9,"success":true}"#)]);
    let Some(finished) = import(&url) else { return };
    assert!(finished.succeeded().out.contains("/app/dashboards"));
    let requests: Vec<Request> = told.try_iter().collect();
    assert_eq!(requests.len(), 3);
    assert!(requests[0].line.starts_with("GET /api/status ") && requests[1].line.starts_with("GET /api/status "));
    let sent = &requests[2];
    assert!(sent.line.starts_with("POST /api/saved_objects/_import?overwrite=true "), "{}", sent.line);
    assert!(sent.head.contains("kbn-xsrf: true") && sent.head.contains("multipart/form-data"), "{}", sent.head);
    // Kibana looks at the name's ending.
    assert!(sent.body.contains("filename=\"windkessel.ndjson\""));
    let objects = std::fs::read_to_string(repository("docker/kibana/windkessel.ndjson")).unwrap();
    assert!(sent.body.contains(&objects), "every object, as it is in the file");
}

#[test]
fn an_import_that_kibana_refuses_in_part_or_never_answers_fails() {
    let refused = r#"{"successCount":8,"success":false,"errors":[{"id":"x","error":{"type":"missing_references"}}]}"#;
    for answers in [vec![(200, "{}"), (200, refused)], vec![(200, "{}"), (500, "")], vec![(503, ""); 5]] {
        let (url, _told) = stand_in(answers);
        let Some(finished) = import(&url) else { return };
        assert_eq!(finished.code(), Some(if finished.err.contains("500") { 22 } else { 1 }), "{}", finished.err);
        assert!(!finished.err.is_empty());
    }
}

#[test]
fn the_export_is_the_committed_file() {
    let folder = tempfile::tempdir().unwrap();
    finish(windkessel(folder.path()).args(["kibana", "export", "--out", "objects.ndjson"])).succeeded();
    let committed = std::fs::read_to_string(repository("docker/kibana/windkessel.ndjson")).unwrap();
    assert_eq!(std::fs::read_to_string(folder.path().join("objects.ndjson")).unwrap(), committed);
    assert_eq!(finish(windkessel(folder.path()).args(["kibana", "export"])).succeeded().out, committed);
    let finished = finish(windkessel(folder.path()).args(["kibana", "export", "--out", "no/such/folder"]));
    assert_eq!((finished.code(), finished.last_words().contains("no/such/folder")), (Some(69), true));
}
