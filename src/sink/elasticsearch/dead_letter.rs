//! Documents that Elasticsearch will never accept.
//!
//! A dead letter names the document, not its content: the row stands in the Parquet and NDJSON sinks, and its record in Kafka. The
//! standard hook appends one JSON object a line to `<state.path>/dead_letters/elasticsearch-<worker>.ndjson`, synced before the epoch is
//! settled. After a crash a dead letter may be written twice (equal `index`, `document_id` and `epoch`), never not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::sink::SinkError;
use crate::time::Epoch;

use super::document::DocumentId;

/// One refused document. Holds no value of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// The index that refused it.
    pub index: String,
    /// Its `_id`, as printed: of a reading, the observation's pseudonym.
    pub document_id: String,
    /// The version that was refused.
    pub epoch: Epoch,
    /// The item's HTTP status; 413 for a document that is too large for a request of its own.
    pub status: u16,
    /// Elasticsearch's error type, from a fixed list; `other` beyond it.
    pub error_type: &'static str,
}

impl DeadLetter {
    /// Of a document.
    pub fn new(index: &str, id: DocumentId, epoch: Epoch, status: u16, error_type: &'static str) -> Self {
        DeadLetter { index: index.to_owned(), document_id: id.to_string(), epoch, status, error_type }
    }
}

/// Takes dead letters. When it returns, the letter is kept; its error stops the run.
pub type DeadLetterHook = Box<dyn FnMut(DeadLetter) -> Result<(), SinkError> + Send>;

/// The standard hook. Opens its file with the first letter.
pub fn to_file(state: &Path, worker: usize) -> DeadLetterHook {
    let path = state.join("dead_letters").join(format!("elasticsearch-{worker}.ndjson"));
    let mut file = None;
    Box::new(move |letter| {
        append(&mut file, &path, &letter).map_err(|source| SinkError::Io {
            action: "write a dead letter to",
            path: path.clone(),
            source,
        })
    })
}

fn append(file: &mut Option<File>, path: &PathBuf, letter: &DeadLetter) -> io::Result<()> {
    let file = match file {
        Some(file) => file,
        None => {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            file.insert(OpenOptions::new().create(true).append(true).open(path)?)
        }
    };
    let mut line = serde_json::to_vec(letter)?;
    line.push(b'\n');
    file.write_all(&line)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_appended_one_a_line() {
        let state = tempfile::tempdir().unwrap();
        for epoch in [7, 8] {
            // A new hook each time, as after a restart.
            let letter = DeadLetter::new("i", DocumentId([1; 16]), epoch, 400, "document_parsing_exception");
            to_file(state.path(), 3)(letter).unwrap();
        }
        let text = fs::read_to_string(state.path().join("dead_letters/elasticsearch-3.ndjson")).unwrap();
        expect_test::expect![[r#"
            {"index":"i","document_id":"01010101010101010101010101010101","epoch":7,"status":400,"error_type":"document_parsing_exception"}
            {"index":"i","document_id":"01010101010101010101010101010101","epoch":8,"status":400,"error_type":"document_parsing_exception"}
        "#]]
        .assert_eq(&text);
    }
}
