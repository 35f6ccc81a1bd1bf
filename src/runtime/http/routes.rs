//! What each path answers, and the headers that every answer carries.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::TextEncoder;
use serde::Serialize;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::WatchStream;

use super::assets::ASSETS;
use super::health::Problem;
use super::{CLIENTS_MAX, Shared};
use crate::runtime::live::Reach;
use crate::runtime::live::recent::READINGS_MAX;
use crate::vocabulary::{NoPseudonym, Pseudonym};

/// The Prometheus text format, version 0.0.4 (prometheus.io, "Exposition formats").
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// A browser that lost the stream asks again after this long.
const RETRY: Duration = Duration::from_secs(2);
/// Crates that the engine stands on; a test compares with `Cargo.lock`.
pub(super) const TIMELY_VERSION: &str = "0.32.0";
pub(super) const DIFFERENTIAL_VERSION: &str = "0.26.0";

/// Sent with every answer: the page may load from here only, be embedded nowhere, and be kept by no cache (it is about patients).
const HEADERS: [(&str, &str); 7] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
];

pub(super) fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/version", get(version))
        .route("/api/v1/live", get(live))
        .route("/api/v1/snapshot", get(snapshot))
        .route("/api/v1/patient/{pseudonym}", get(patient));
    for asset in &ASSETS {
        router = router.route(asset.path, get(async || ([(header::CONTENT_TYPE, asset.kind)], asset.text)));
    }
    router
        .fallback(async || (StatusCode::NOT_FOUND, "not found; the live page is at /\n"))
        .layer(middleware::from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

/// Refuses foreign host names on loopback, and adds the headers to every answer, refusals included.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let mut response = if shared.loopback && !is_local(request.headers()) {
        let hint = "this address answers to localhost and to IP addresses only\n";
        (StatusCode::MISDIRECTED_REQUEST, hint).into_response()
    } else {
        next.run(request).await
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// True unless `Host` is a name other than `localhost`. HTTP/1.0 clients send none.
fn is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let host = host.to_str().unwrap_or("?");
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    match TextEncoder::new().encode_to_string(&shared.metrics.registry().gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("could not write the metrics: {error}\n")).into_response()
        }
    }
}

#[derive(Serialize)]
struct Verdict {
    status: &'static str,
    problems: Vec<Problem>,
}

fn verdict(good: &'static str, bad: &'static str, problems: Vec<Problem>) -> Response {
    if problems.is_empty() {
        (StatusCode::OK, Json(Verdict { status: good, problems })).into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, Json(Verdict { status: bad, problems })).into_response()
    }
}

async fn health(State(shared): State<Arc<Shared>>) -> Response {
    verdict("alive", "stuck", shared.health.stuck())
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    verdict("ready", "not ready", shared.health.unready(&shared.metrics, shared.stop.drain()))
}

#[derive(Serialize)]
struct Version {
    name: &'static str,
    version: &'static str,
    timely: &'static str,
    differential_dataflow: &'static str,
}

async fn version() -> Json<Version> {
    Json(Version {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        timely: TIMELY_VERSION,
        differential_dataflow: DIFFERENTIAL_VERSION,
    })
}

async fn snapshot(State(shared): State<Arc<Shared>>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], shared.snapshot().to_string()).into_response()
}

/// An answer, and how far it reaches.
#[derive(Serialize)]
struct Reaching<T> {
    #[serde(flatten)]
    reach: Reach,
    #[serde(flatten)]
    answer: T,
}

#[derive(Serialize)]
struct Refusal {
    error: String,
}

/// A patient's readings among the last that came by.
async fn patient(State(shared): State<Arc<Shared>>, Path(pseudonym): Path<String>) -> Response {
    let Ok(pseudonym) = pseudonym.parse::<Pseudonym>() else {
        return (StatusCode::BAD_REQUEST, Json(Refusal { error: NoPseudonym.to_string() })).into_response();
    };
    let (reach, found) = shared.live.patient(pseudonym);
    match found {
        Some(answer) => Json(Reaching { reach, answer }).into_response(),
        None => {
            let error = format!("none of the last {READINGS_MAX} readings of this process is of this patient");
            (StatusCode::NOT_FOUND, Json(Reaching { reach, answer: Refusal { error } })).into_response()
        }
    }
}

/// A snapshot at once, then one a second, until the client leaves or the server ends.
async fn live(State(shared): State<Arc<Shared>>) -> Response {
    let Ok(place) = shared.clients.clone().try_acquire_owned() else {
        let text = format!("{CLIENTS_MAX} browsers follow already; close one\n");
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")], text).into_response();
    };
    let first = Event::default().retry(RETRY).data(shared.snapshot());
    let later = WatchStream::from_changes(shared.follow.clone()).map(|json| Event::default().data(json));
    let events = tokio_stream::once(first).chain(later).map(move |event| {
        // The place is held as long as the stream lives.
        let _ = &place;
        Ok::<_, Infallible>(event)
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_localhost_and_addresses_are_local() {
        let local =
            |host: &'static str| is_local(&HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]));
        for host in ["localhost", "localhost:9187", "LocalHost:1", "127.0.0.1:9187", "[::1]:9187", "[::1]", "10.0.0.4"]
        {
            assert!(local(host), "{host}");
        }
        for host in ["example.org", "example.org:9187", "localhost.example.org", "127.0.0.1.example.org", ""] {
            assert!(!local(host), "{host}");
        }
        assert!(is_local(&HeaderMap::new()));
    }
}
