//! Bytes into documents: NDJSON line by line, or a whole file that is one JSON document. Pushed, not pulled, so that it never waits.
//!
//! ```text
//! undecided ── a first line that is complete JSON, and more behind it ──> lines
//!           └─ anything else ───────────────────────────────────────────> whole
//! ```
//!
//! Invariants: at most `line_bytes_max` (lines) or `document_bytes_max` (whole) bytes and one chunk are held; what is larger is reported
//! once as too large and skipped to its end. The pieces are the same however the bytes are cut into chunks.
//!
//! It does not check JSON, apart from the first line of a file that may be either.

use serde::de::IgnoredAny;

/// How a file's bytes are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One document a line (`.ndjson`, `.jsonl`).
    Lines,
    /// One document, or one a line: the first line tells (`.json`, standard input).
    Either,
}

/// One document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// Its bytes, without white space around them; never empty.
    Bytes(&'a [u8]),
    /// It is larger than allowed.
    TooLarge,
}

/// Takes chunks, gives documents.
#[derive(Debug)]
pub(super) struct Splitter {
    mode: Mode,
    line_bytes_max: usize,
    document_bytes_max: usize,
    /// The beginning of a line or document whose end has not come yet.
    held: Vec<u8>,
    /// Undecided: how much of `held` has been searched for the end of the first line.
    searched: usize,
    /// The rest of the line or document is thrown away.
    skipping: bool,
    /// Nothing but a byte order mark and white space has come.
    at_start: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Undecided,
    Lines,
    Whole,
}

/// UTF-8's byte order mark: not JSON, but many files begin with it.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

impl Splitter {
    /// For one file.
    pub(super) fn new(shape: Shape, line_bytes_max: usize, document_bytes_max: usize) -> Self {
        let mode = match shape {
            Shape::Lines => Mode::Lines,
            Shape::Either => Mode::Undecided,
        };
        let document_bytes_max = document_bytes_max.max(line_bytes_max);
        Splitter {
            mode,
            line_bytes_max,
            document_bytes_max,
            held: Vec::new(),
            searched: 0,
            skipping: false,
            at_start: true,
        }
    }

    /// The next bytes of the file.
    pub(super) fn push(&mut self, mut chunk: &[u8], emit: &mut dyn FnMut(Piece<'_>)) {
        if self.at_start {
            // The start may come in pieces; it is held until it can be told from a byte order mark.
            self.held.extend_from_slice(chunk);
            if BYTE_ORDER_MARK.starts_with(&self.held) && self.held.len() < BYTE_ORDER_MARK.len() {
                return;
            }
            self.at_start = false;
            let start = std::mem::take(&mut self.held);
            return self.push(start.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&start), emit);
        }
        if self.mode == Mode::Undecided {
            self.held.extend_from_slice(chunk);
            if !self.decide() {
                return;
            }
            let held = std::mem::take(&mut self.held);
            return self.push(&held, emit);
        }
        if self.mode == Mode::Lines {
            while let Some(end) = memchr::memchr(b'\n', chunk) {
                self.line(&chunk[..end], emit);
                chunk = &chunk[end + 1..];
            }
        }
        self.hold(chunk);
    }

    /// The file has ended: what is held is its last document.
    pub(super) fn finish(&mut self, emit: &mut dyn FnMut(Piece<'_>)) {
        let held = std::mem::take(&mut self.held);
        let bytes_max = if self.mode == Mode::Lines { self.line_bytes_max } else { self.document_bytes_max };
        if std::mem::take(&mut self.skipping) {
            emit(Piece::TooLarge);
        } else {
            document(&held, bytes_max, emit);
        }
    }

    /// The end of a line; its beginning may be held.
    fn line(&mut self, end: &[u8], emit: &mut dyn FnMut(Piece<'_>)) {
        if std::mem::take(&mut self.skipping) {
            emit(Piece::TooLarge);
        } else if self.held.is_empty() {
            document(end, self.line_bytes_max, emit);
        } else {
            self.held.extend_from_slice(end);
            document(&self.held, self.line_bytes_max, emit);
            self.held.clear();
        }
    }

    fn hold(&mut self, rest: &[u8]) {
        // White space around a document may come on top: a carriage return, the last line's end.
        const SLACK_BYTES: usize = 64;
        let bytes_max = if self.mode == Mode::Lines { self.line_bytes_max } else { self.document_bytes_max };
        if self.skipping || self.held.len() + rest.len() > bytes_max + SLACK_BYTES {
            self.skipping = true;
            self.held = Vec::new();
        } else {
            self.held.extend_from_slice(rest);
        }
    }

    /// Looks for the end of the first line. True once the mode is known.
    fn decide(&mut self) -> bool {
        let blank = self.held.len() - self.held.trim_ascii_start().len();
        self.searched = self.searched.max(blank);
        let Some(end) = memchr::memchr(b'\n', &self.held[self.searched..]).map(|end| self.searched + end) else {
            self.searched = self.held.len();
            if self.held.len() <= self.document_bytes_max {
                return false;
            }
            self.mode = Mode::Whole;
            return true;
        };
        self.searched = end;
        if self.held[end..].trim_ascii().is_empty() && self.held.len() <= self.document_bytes_max {
            return false;
        }
        let complete = serde_json::from_slice::<IgnoredAny>(&self.held[blank..end]).is_ok();
        self.mode = if complete { Mode::Lines } else { Mode::Whole };
        true
    }
}

fn document(bytes: &[u8], bytes_max: usize, emit: &mut dyn FnMut(Piece<'_>)) {
    match bytes.trim_ascii() {
        [] => {}
        bytes if bytes.len() > bytes_max => emit(Piece::TooLarge),
        bytes => emit(Piece::Bytes(bytes)),
    }
}

#[cfg(test)]
mod tests {
    //! Proves that the pieces do not depend on where chunks are cut, that limits hold to the byte, and that both shapes are told apart.
    use super::*;

    fn split(shape: Shape, input: &[u8], chunk: usize) -> Vec<String> {
        let mut splitter = Splitter::new(shape, 10, 30);
        let mut pieces = Vec::new();
        let mut emit = |piece: Piece<'_>| {
            pieces.push(match piece {
                Piece::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                Piece::TooLarge => "too large".into(),
            })
        };
        input.chunks(chunk).for_each(|chunk| splitter.push(chunk, &mut emit));
        splitter.finish(&mut emit);
        assert!(splitter.held.is_empty());
        pieces
    }

    fn check(shape: Shape, input: &str, expected: &[&str]) {
        for chunk in 1..=input.len().max(1) {
            assert_eq!(split(shape, input.as_bytes(), chunk), expected, "{input:?} in chunks of {chunk}");
        }
    }

    #[test]
    fn lines_may_end_with_crlf_be_blank_or_lack_the_last_newline() {
        check(Shape::Lines, "", &[]);
        check(Shape::Lines, "\n \n\r\n", &[]);
        check(Shape::Lines, "{1}\r\n\r\n{2}\n\n{3}", &["{1}", "{2}", "{3}"]);
        check(Shape::Lines, "\u{feff}{1}\n{2}\n", &["{1}", "{2}"]);
        check(Shape::Lines, "\u{feff}", &[]);
    }

    #[test]
    fn a_line_over_the_limit_is_reported_once_and_skipped_to_its_end() {
        check(Shape::Lines, "1234567890\n12345678901\nx", &["1234567890", "too large", "x"]);
        let long = format!("{}\nx\n{}", "y".repeat(300), "z".repeat(300));
        check(Shape::Lines, &long, &["too large", "x", "too large"]);
    }

    #[test]
    fn a_json_file_is_one_document_unless_its_first_line_is_complete_and_more_follows() {
        check(Shape::Either, "{\n \"a\": 1\n}\n", &["{\n \"a\": 1\n}"]);
        check(Shape::Either, "{\"a\": 1}\n{\"b\": 2}\n", &["{\"a\": 1}", "{\"b\": 2}"]);
        check(Shape::Either, "\n\r\n{\"a\": 1}\r\n\r\n{\"b\"", &["{\"a\": 1}", "{\"b\""]);
        check(Shape::Either, "\u{feff}{\"a\": 1}\n", &["{\"a\": 1}"]);
        check(Shape::Either, "{\"a\": 1}", &["{\"a\": 1}"]);
        check(Shape::Either, " \n ", &[]);
    }

    #[test]
    fn a_document_has_the_larger_limit_and_lines_in_a_json_file_the_smaller() {
        let document = format!("[{}]", "1".repeat(28));
        check(Shape::Either, &document, &[&document]);
        check(Shape::Either, &format!("[\n{}]", "1".repeat(28)), &["too large"]);
        check(Shape::Either, &format!("[{}]\n[1]", "1".repeat(20)), &["too large", "[1]"]);
        check(Shape::Either, &"1".repeat(200), &["too large"]);
    }
}
