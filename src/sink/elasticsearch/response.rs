//! What a bulk answer says of each document.
//!
//! A bulk request is answered 200 even when every document failed: only the per-item statuses count, and the top-level `errors`
//! flag is not looked at. Unknown fields are passed over; an item's `reason` is never read, because Elasticsearch quotes the
//! document in it.
//!
//! Invariants: answers keep the order of the request (the bulk API's promise); every text that leaves this file is `&'static str`.

use serde::Deserialize;
use serde::de::IgnoredAny;

/// The parts of a bulk answer that are read; sent as `filter_path`, so that the rest does not travel.
pub const FILTER_PATH: &str = "items.*._id,items.*.status,items.*.error.type";

/// One document's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemAnswer {
    /// The document's id, if the answer repeats it.
    pub id: Option<String>,
    /// The HTTP status of this item.
    pub status: u16,
    /// The error's type, from a fixed list; `other` beyond it, `none` without an error.
    pub error_type: &'static str,
}

/// What is to be done with a document after its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Written.
    Written,
    /// The index holds this version or a newer one: a replay, or a retry of something that had arrived. As good as written.
    AlreadyNewer,
    /// Send it again later: the cluster is short of something.
    Again,
    /// It will never be accepted.
    Rejected,
    /// Its index does not exist and is not created.
    IndexMissing,
    /// These credentials may not write there.
    Forbidden,
}

impl ItemAnswer {
    /// The status table of the sink.
    pub fn verdict(&self) -> Verdict {
        match self.status {
            200..=299 => Verdict::Written,
            409 => Verdict::AlreadyNewer,
            429 | 500..=599 => Verdict::Again,
            404 => Verdict::IndexMissing,
            401 | 403 => Verdict::Forbidden,
            _ => Verdict::Rejected,
        }
    }
}

/// A 200 whose body is no bulk answer, or answers another number of documents: cut short or changed under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

/// Reads the answer to a bulk request of `documents` documents.
pub fn parse(body: &[u8], documents: usize) -> Result<Vec<ItemAnswer>, Unreadable> {
    let answer: Answer = serde_json::from_slice(body).map_err(|_| Unreadable)?;
    if answer.items.len() != documents {
        return Err(Unreadable);
    }
    Ok(answer.items.into_iter().map(|item| ItemAnswer::from(item.index)).collect())
}

/// The error type of a whole request that was refused, for the error text.
pub fn error_type(body: &[u8]) -> &'static str {
    #[derive(Deserialize)]
    struct Whole {
        error: Option<Fault>,
    }
    serde_json::from_slice::<Whole>(body).map_or("other", |whole| Fault::name(whole.error))
}

#[derive(Deserialize)]
struct Answer {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(alias = "create", alias = "update", alias = "delete")]
    index: Outcome,
}

#[derive(Deserialize)]
struct Outcome {
    #[serde(rename = "_id")]
    id: Option<String>,
    status: u16,
    error: Option<Fault>,
}

/// An error is an object with a type; old proxies and a few endpoints give a bare string.
#[derive(Deserialize)]
#[serde(untagged)]
enum Fault {
    Typed {
        #[serde(rename = "type")]
        kind: String,
    },
    Untyped(IgnoredAny),
}

impl From<Outcome> for ItemAnswer {
    fn from(outcome: Outcome) -> Self {
        ItemAnswer { id: outcome.id, status: outcome.status, error_type: Fault::name(outcome.error) }
    }
}

/// The error types that a bulk item or a refused request can have: a metric label must be bounded, and a type from elsewhere could hold anything.
const ERROR_TYPES: [&str; 20] = [
    "action_request_validation_exception",
    "circuit_breaking_exception",
    "cluster_block_exception",
    "document_parsing_exception",
    "es_rejected_execution_exception",
    "illegal_argument_exception",
    "index_closed_exception",
    "index_not_found_exception",
    "invalid_index_name_exception",
    "mapper_exception",
    "mapper_parsing_exception",
    "parsing_exception",
    "process_cluster_event_timeout_exception",
    "routing_missing_exception",
    "security_exception",
    "strict_dynamic_mapping_exception",
    "unavailable_shards_exception",
    "validation_exception",
    "version_conflict_engine_exception",
    "x_content_parse_exception",
];

impl Fault {
    fn name(fault: Option<Fault>) -> &'static str {
        match fault {
            None => "none",
            Some(Fault::Typed { kind }) => ERROR_TYPES.iter().find(|known| **known == kind).copied().unwrap_or("other"),
            Some(Fault::Untyped(IgnoredAny)) => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    //! What these prove: the status table, tolerance to unknown fields, and that no text of an answer gets out.

    use super::*;

    #[test]
    fn the_status_table_is_complete() {
        use Verdict::*;
        for (status, verdict) in [
            (200, Written),
            (201, Written),
            (409, AlreadyNewer),
            (429, Again),
            (500, Again),
            (503, Again),
            (400, Rejected),
            (413, Rejected),
            (404, IndexMissing),
            (401, Forbidden),
            (403, Forbidden),
        ] {
            assert_eq!(ItemAnswer { id: None, status, error_type: "none" }.verdict(), verdict, "{status}");
        }
    }

    #[test]
    fn items_are_read_whatever_surrounds_them() {
        let body = br#"{"took":3,"errors":false,"new":{"x":[1]},"items":[
            {"index":{"_index":"i","_id":"a","status":201,"_shards":{"total":2}}},
            {"create":{"_id":"b","status":400,"error":{"type":"document_parsing_exception","reason":"value 'Erika' ..."}}},
            {"index":{"status":429,"error":"rejected"}},
            {"index":{"status":400,"error":{"type":"invented by Erika","reason":"x"}}}]}"#;
        let answers = parse(body, 4).unwrap();
        let seen: Vec<_> = answers.iter().map(|a| (a.id.as_deref(), a.status, a.error_type)).collect();
        assert_eq!(
            seen,
            [
                (Some("a"), 201, "none"),
                (Some("b"), 400, "document_parsing_exception"),
                (None, 429, "other"),
                (None, 400, "other"),
            ]
        );
        assert!(!format!("{answers:?}").contains("Erika"), "no text of the answer is kept");
    }

    #[test]
    fn an_answer_for_another_number_of_documents_is_unreadable() {
        let body = br#"{"errors":false,"items":[{"index":{"status":201}}]}"#;
        assert_eq!(parse(body, 2), Err(Unreadable));
        assert_eq!(parse(&body[..body.len() - 4], 1), Err(Unreadable));
        assert_eq!(parse(b"<html>", 1), Err(Unreadable));
        assert!(parse(body, 1).is_ok());
    }

    #[test]
    fn a_refused_request_names_a_known_error_type_only() {
        assert_eq!(
            error_type(br#"{"error":{"type":"security_exception","reason":"secret"},"status":401}"#),
            "security_exception"
        );
        assert_eq!(error_type(br#"{"error":"no such thing"}"#), "other");
        assert_eq!(error_type(b"nginx"), "other");
    }
}
