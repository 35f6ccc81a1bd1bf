//! How long an index of a month is kept: a lifecycle policy with nothing but an end.
//!
//! The policy deletes an index so many days after it was made. An index of a month is made with the month's first reading, so a month is added: each
//! document is kept at least as long as `keep` says, and a month longer at most. An index that was filled later (a replay of old files)
//! counts from then. There is no rollover: a rolled-over index cannot be overwritten, and a corrected document would stand twice.
//!
//! Invariants: a policy belongs to one index stem and is named after its template; an index that follows another policy, an operator's, is left alone.

use serde_json::{Value, json};

use crate::config::ElasticsearchSpec;
use crate::sink::SinkError;
use crate::time::EventSpan;

use super::client::Request;
use super::destination::Destination;
use super::template::{Kind, Template};
use super::{indices, response};

/// Raised with every change of what a policy is made of.
const VERSION: u64 = 1;
/// The longest month: what is written on its last day into an index that was made on its first.
const MONTH_DAYS: i64 = 31;
const DAY_MICROS: i64 = 86_400_000_000;

/// The name of the policy that the flow's indices follow; `None` if they are kept for ever.
pub fn policy_name(spec: &ElasticsearchSpec) -> Option<String> {
    days(spec).map(|_| format!("windkessel-{}", spec.index))
}

/// Whole days, begun ones counted; `None` for ever.
fn days(spec: &ElasticsearchSpec) -> Option<i64> {
    let keep = spec.keep.micros();
    (spec.keep != EventSpan::UNBOUNDED).then(|| keep / DAY_MICROS + i64::from(keep % DAY_MICROS != 0))
}

/// The policy, if there is to be one.
pub fn policy(spec: &ElasticsearchSpec) -> Option<Template> {
    let (name, days) = (policy_name(spec)?, days(spec)? + MONTH_DAYS);
    let body = json!({
        "phases": { "delete": { "min_age": format!("{days}d"), "actions": { "delete": {} } } },
        "_meta": {
            "version": VERSION,
            "managed_by": "windkessel",
            "description": format!("Deletes the indices {}-YYYY.MM {days} days after they were made: keep, and a month.", spec.index),
        },
    });
    Some(Template::new(Kind::Policy, name, body))
}

/// Makes existing indices follow the policy, or none. Returns those that were changed.
pub fn apply(destination: &mut Destination, spec: &ElasticsearchSpec) -> Result<Vec<String>, SinkError> {
    let wanted = policy_name(spec);
    let ours = format!("windkessel-{}", spec.index);
    let mut changed = Vec::new();
    for name in indices::existing(destination, &spec.index, spec.index_by)? {
        let followed = followed(destination, &name)?;
        // An operator's own policy stands.
        if followed == wanted || followed.as_ref().is_some_and(|followed| *followed != ours) {
            continue;
        }
        let settings = json!({ "index.lifecycle.name": wanted });
        let reply = destination.ask(&Request::put(format!("/{name}/_settings"), &settings))?;
        if reply.status != 200 {
            return Err(refused("set the lifecycle policy of", &name, reply.status, &reply.body));
        }
        changed.push(name);
    }
    Ok(changed)
}

/// The policy that an index follows.
fn followed(destination: &mut Destination, index: &str) -> Result<Option<String>, SinkError> {
    let path = format!("/{index}/_settings/index.lifecycle.name?flat_settings=true");
    let reply = destination.ask(&Request::get(path))?;
    if reply.status != 200 {
        return Err(refused("read the settings of", index, reply.status, &reply.body));
    }
    let answer: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    Ok(answer[index]["settings"]["index.lifecycle.name"].as_str().map(str::to_owned))
}

fn refused(action: &str, index: &str, status: u16, body: &[u8]) -> SinkError {
    let error = response::error_type(body);
    SinkError::Refused(format!("could not {action} the index {index:?}: Elasticsearch answered {status} ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(keep: &str) -> ElasticsearchSpec {
        ElasticsearchSpec { keep: keep.parse().unwrap(), ..ElasticsearchSpec::default() }
    }

    #[test]
    fn a_document_is_kept_at_least_as_long_as_asked_for() {
        assert_eq!((policy_name(&spec("unbounded")), policy(&spec("unbounded"))), (None, None));
        for (keep, min_age) in [("1d", "32d"), ("90d", "121d"), ("36h", "33d"), ("1s", "32d")] {
            let policy = policy(&spec(keep)).unwrap();
            assert_eq!(policy.body()["phases"]["delete"]["min_age"], min_age, "{keep}");
            assert_eq!(policy.body()["phases"].as_object().unwrap().len(), 1, "no rollover");
            assert_eq!(policy.path(), "/_ilm/policy/windkessel-bp-readings");
        }
    }
}
