//! What stands in the cluster already: the flow's indices, and documents that moved to another month.
//!
//! With one index a month, a correction may carry another event time than what it corrects ("2025" for "2026", every January).
//! The new version then belongs to another index, where nothing is overwritten, and the old one would stand. So for rows
//! that replace something, and for them only, the id is looked up in the other months of the stem (a get by id sees what was
//! written a moment ago, unlike a search), and what is found is written back there with `retracted: true` and this epoch as version. A replay
//! finds the same or is answered 409.
//!
//! Limits: [`LOOKED_UP_AT_ONCE`] lookups a request; a closed or deleted month is passed over.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use crate::config::IndexBy;
use crate::sink::SinkError;

use super::bulk::Item;
use super::client::{Body, Request};
use super::destination::{Destination, forbidden};
use super::document::{Document, is_month_of};
use super::response;

/// Documents looked up by one request; each answer holds a whole document of about 1 kB.
const LOOKED_UP_AT_ONCE: usize = 1_000;

/// The flow's indices that exist: the one, or those of the months.
pub fn existing(destination: &mut Destination, index: &str, by: IndexBy) -> Result<Vec<String>, SinkError> {
    let pattern = match by {
        IndexBy::None => index.to_owned(),
        IndexBy::Month => format!("{index}-*"),
    };
    let reply = destination.ask(&Request::get(format!("/{pattern}/_alias")))?;
    if reply.status == 404 {
        return Ok(Vec::new());
    }
    let names: Option<std::collections::BTreeMap<String, IgnoredAny>> =
        (reply.status == 200).then(|| serde_json::from_slice(&reply.body).ok()).flatten();
    let names = names.ok_or_else(|| unexpected("list the indices", reply.status, &reply.body))?;
    Ok(names.into_keys().filter(|name| by == IndexBy::None || is_month_of(index, name)).collect())
}

/// The retractions of what these documents replace in other months.
pub fn moved(destination: &mut Destination, stem: &str, documents: &[Document]) -> Result<Vec<Item>, SinkError> {
    let replacing: Vec<&Document> = documents.iter().filter(|document| document.replaces).collect();
    if replacing.is_empty() {
        return Ok(Vec::new());
    }
    let months: Vec<Arc<str>> = existing(destination, stem, IndexBy::Month)?.into_iter().map(Arc::from).collect();
    let lookups: Vec<(&Document, &Arc<str>)> = replacing
        .into_iter()
        .flat_map(|document| {
            months.iter().filter(|month| **month != document.index).map(move |month| (document, month))
        })
        .collect();
    let mut items = Vec::new();
    for lookups in lookups.chunks(LOOKED_UP_AT_ONCE) {
        let found = look_up(destination, lookups)?;
        items.extend(lookups.iter().zip(found).filter_map(|((document, month), found)| {
            let source = retraction(found?, document.epoch)?;
            Some(Item::new(document.table, (*month).clone(), document.id, document.epoch, &source))
        }));
    }
    Ok(items)
}

/// The old document, retracted; `None` if it is retracted already.
fn retraction(mut source: Map<String, Value>, epoch: u64) -> Option<Vec<u8>> {
    if source.get("retracted") == Some(&Value::Bool(true)) {
        return None;
    }
    source.insert("retracted".into(), Value::Bool(true));
    source.insert("epoch".into(), json!(epoch));
    Some(serde_json::to_vec(&source).expect("a JSON object serialises"))
}

/// One answer a lookup, in order.
fn look_up(
    destination: &mut Destination,
    lookups: &[(&Document, &Arc<str>)],
) -> Result<Vec<Option<Map<String, Value>>>, SinkError> {
    let docs: Vec<Value> = lookups
        .iter()
        .map(|(document, month)| json!({ "_index": &***month, "_id": document.id.to_string() }))
        .collect();
    let request = Request::post("/_mget", Body::json(&json!({ "docs": docs })));
    loop {
        let reply = destination.send(&request)?;
        let found: Option<Found> = (reply.status == 200).then(|| serde_json::from_slice(&reply.body).ok()).flatten();
        match found {
            Some(found) if found.docs.len() == lookups.len() => match found.trouble() {
                None => {
                    destination.relieved();
                    return Ok(found.docs.into_iter().map(|doc| doc.source).collect());
                }
                Some("security_exception") => return Err(forbidden(403, "security_exception")),
                Some(_) => destination.wait("a shard does not answer", 200, 1)?,
            },
            _ if reply.status == 200 => destination.wait("its answer could not be read", 200, 1)?,
            _ => return Err(unexpected("look up replaced documents", reply.status, &reply.body)),
        }
    }
}

#[derive(Deserialize)]
struct Found {
    docs: Vec<FoundDocument>,
}

#[derive(Deserialize)]
struct FoundDocument {
    #[serde(rename = "_source")]
    source: Option<Map<String, Value>>,
    error: Option<LookupError>,
}

#[derive(Deserialize)]
struct LookupError {
    #[serde(rename = "type", default)]
    kind: String,
}

impl Found {
    /// The first error that is not simply "there is no such index".
    fn trouble(&self) -> Option<&str> {
        let kinds = self.docs.iter().filter_map(|doc| doc.error.as_ref()).map(|error| error.kind.as_str());
        kinds.into_iter().find(|kind| !matches!(*kind, "index_not_found_exception" | "index_closed_exception"))
    }
}

fn unexpected(action: &str, status: u16, body: &[u8]) -> SinkError {
    SinkError::Refused(format!(
        "could not {action}: Elasticsearch answered {status} ({}); check sink.elasticsearch.url and the account's privileges",
        response::error_type(body)
    ))
}
