//! How several processes become one run: they find each other, and see that they were started alike.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Options;
use crate::cli::Failed;
use crate::config::{Flow, WebhookSpec};
use crate::runtime::cluster::{self, JoinError, Links, Peers, Word};
use crate::runtime::failure::Failure;
use crate::runtime::http::Health;
use crate::runtime::metrics::Metrics;
use crate::runtime::watchdog::{self, Watchdog};
use crate::source::Topics;

/// The other processes, found.
pub(super) struct Cluster {
    pub(super) peers: Peers,
    pub(super) links: Links,
    pub(super) watchdog: Watchdog,
}

/// Finds the other processes, if there are any.
pub(super) fn join(
    flow: &Flow,
    options: &Options,
    digests: &BTreeMap<String, String>,
    names: &Topics,
    (health, metrics, failure): (&Arc<Health>, &Metrics, &Failure),
) -> Result<Option<Cluster>, Failed> {
    let Some(membership) = &options.cluster else { return Ok(None) };
    let mut links = cluster::join(membership, &word(flow, options, digests, names)).map_err(|error| match error {
        JoinError::Differs(_) => Failed::configuration(error),
        JoinError::Missing(_) => Failed::unavailable(error),
    })?;
    let spec = &flow.spec.cluster;
    let silence = Duration::from_secs(spec.silence_seconds);
    let seen = metrics.clone();
    let peers = Peers::start(&mut links, membership, silence, failure.clone(), move || watchdog::waits(&seen))
        .map_err(Failed::unavailable)?;
    let watchdog = Watchdog::start(spec, peers.clone(), health.clone(), metrics.clone(), failure.clone())
        .map_err(Failed::unavailable)?;
    tracing::info!(target: "runtime", process = membership.process, processes = membership.processes(), "the cluster is complete");
    Ok(Some(Cluster { peers, links, watchdog }))
}

/// What all processes must have been started with alike: else their graphs, or their rows, would differ.
fn word(flow: &Flow, options: &Options, digests: &BTreeMap<String, String>, names: &Topics) -> Word {
    let spec = &flow.spec;
    let topics =
        names.names().fold(0, |sum, name| crc32c::crc32c_append(crc32c::crc32c_append(sum, name.as_bytes()), b"\n"));
    let sinks = [
        ("live page", !spec.http.listen.is_empty()),
        ("parquet", spec.sink.parquet.is_some()),
        ("ndjson", spec.sink.ndjson.is_some()),
        ("elasticsearch", spec.sink.elasticsearch.is_some()),
        ("kafka", spec.sink.kafka.is_some()),
        ("webhook", spec.sink.webhook.as_ref().is_some_and(WebhookSpec::is_on)),
    ];
    let sinks: Vec<&str> = sinks.into_iter().filter_map(|(name, there)| there.then_some(name)).collect();
    let crew = options.crew();
    let mut word = digests.clone();
    word.extend(
        [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("number of processes", crew.processes.to_string()),
            ("number of workers", crew.threads.to_string()),
            ("end", options.until_end.to_string()),
            ("set of topics or files", format!("{topics:08x}")),
            ("set of sinks", sinks.join(", ")),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    word
}
