//! Metrics, health and the live page over HTTP, on one thread of their own.
//!
//! ```text
//! GET /                the live page          GET /health            200 while the workers step
//! GET /api/v1/live     server-sent events     GET /ready             200 while work can be taken
//! GET /api/v1/snapshot the same, once         GET /version           versions
//! GET /metrics         Prometheus text        GET /api/v1/patient/{pseudonym}  one patient's latest readings
//! ```
//!
//! Invariants:
//! 1. Nothing here can slow a worker: it has its own thread and runtime, takes the hub's lock once a second at most plus once a request for
//!    `/api/v1/snapshot`, and reads atomics otherwise.
//! 2. At most [`CLIENTS_MAX`] browsers follow; all are sent the same text, made once a second and only if somebody follows.
//! 3. Only `GET` and `HEAD`; nothing changes the run. The page loads nothing from elsewhere, and its policy forbids it to.
//! 4. Bound to loopback, requests under a foreign host name are refused: a web site cannot read the page by pointing its own name at this machine.
//!
//! It has no accounts and no TLS. What it shows is pseudonymised, but still about patients: beyond loopback it belongs behind a proxy that
//! knows who may look, and a warning says so.

mod assets;
mod health;
mod routes;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot, watch};

use crate::runtime::live::Live;
use crate::runtime::metrics::Metrics;
use crate::runtime::stop::Stop;

pub use health::{BLOCKED_MAX, Clock, Health, Problem, SILENCE_MAX};

/// Followers of `/api/v1/live` beyond this many are refused with 503.
pub const CLIENTS_MAX: usize = 32;
/// A new state of the page.
const PERIOD: Duration = Duration::from_secs(1);
/// Answers under way when the server is shut down may take this long.
const GRACE: Duration = Duration::from_secs(2);

/// A server that runs. Dropped without [`ServerHandle::shutdown`], the server ends by itself a moment later.
pub struct ServerHandle {
    /// Where it really listens, if port 0 was asked for.
    pub addr: SocketAddr,
    end: oneshot::Sender<()>,
    join: JoinHandle<()>,
}

impl ServerHandle {
    /// The live page's address, for a log line or a summary.
    pub fn url(&self) -> String {
        url(self.addr)
    }

    /// Ends the server: followers are sent off, answers under way are finished (within two seconds).
    pub fn shutdown(self) {
        // A send fails if the server has ended already, which is what is wanted.
        let _ = self.end.send(());
        let _ = self.join.join();
    }
}

/// The server could not start.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Not an address.
    #[error(
        "could not listen on {listen:?}: {source}; write http.listen as \"address:port\", such as \"127.0.0.1:9187\", or \"\" for none"
    )]
    Address {
        /// What was asked for.
        listen: String,
        /// Why not.
        source: io::Error,
    },
    /// Somebody else has the port.
    #[error(
        "could not listen on {listen:?}: the port is in use, perhaps by another run; choose another with --set 'http.listen=\"127.0.0.1:0\"' (0 takes any free one)"
    )]
    InUse {
        /// What was asked for.
        listen: String,
    },
    /// The operating system refuses.
    #[error(
        "could not listen on {listen:?}: {source}; ports below 1024 need a privilege, and the address must be this machine's"
    )]
    Refused {
        /// What was asked for.
        listen: String,
        /// Why not.
        source: io::Error,
    },
    /// No thread or no event queue.
    #[error("could not start the HTTP server: {0}")]
    Start(#[source] io::Error),
}

/// Starts the server on `listen` (`address:port`; port 0 takes any free one). Until the handle is shut down it answers, while the run drains
/// as well (then `/ready` says so); once `stop` is asked twice it ends by itself.
pub fn serve(
    listen: &str,
    metrics: Metrics,
    live: Arc<Live>,
    health: Arc<Health>,
    stop: Stop,
) -> Result<ServerHandle, HttpError> {
    let listener = TcpListener::bind(listen).map_err(|source| refusal(listen, source))?;
    let addr = listener.local_addr().map_err(HttpError::Start)?;
    listener.set_nonblocking(true).map_err(HttpError::Start)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(HttpError::Start)?;
    let (latest, follow) = watch::channel(Arc::from(""));
    let shared = Arc::new(Shared {
        metrics,
        live,
        health,
        stop,
        clients: Arc::new(Semaphore::new(CLIENTS_MAX)),
        follow,
        loopback: addr.ip().is_loopback(),
    });
    let (end, ended) = oneshot::channel();
    let work = move || runtime.block_on(run(listener, shared, latest, ended));
    let join = std::thread::Builder::new().name("http".into()).spawn(work).map_err(HttpError::Start)?;
    tracing::info!(url = url(addr), "live page, metrics and health");
    if !addr.ip().is_loopback() {
        tracing::warn!("the live page is open to the network without a password; put a proxy before it");
    }
    Ok(ServerHandle { addr, end, join })
}

/// What every request can see.
struct Shared {
    metrics: Metrics,
    live: Arc<Live>,
    health: Arc<Health>,
    stop: Stop,
    clients: Arc<Semaphore>,
    follow: watch::Receiver<Arc<str>>,
    loopback: bool,
}

impl Shared {
    fn snapshot(&self) -> Arc<str> {
        let snapshot = self.live.snapshot(self.stop.drain());
        serde_json::to_string(&snapshot).expect("a snapshot has only string keys").into()
    }

    fn followers(&self) -> usize {
        CLIENTS_MAX - self.clients.available_permits()
    }
}

async fn run(
    listener: TcpListener,
    shared: Arc<Shared>,
    latest: watch::Sender<Arc<str>>,
    ended: oneshot::Receiver<()>,
) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("the listener was made non-blocking");
    let (drain, drained) = oneshot::channel::<()>();
    let server = axum::serve(listener, routes::router(shared.clone())).with_graceful_shutdown(async {
        // An error means that the sender is gone: the same.
        let _ = drained.await;
    });
    let server = tokio::spawn(async move { server.await });
    tokio::select! {
        // Dropping the handle ends the server as well.
        _ = ended => {}
        () = publish(&shared, &latest) => {}
    }
    // Without a sender every follower's stream ends, so that the server can.
    drop(latest);
    drop(drain);
    let _ = tokio::time::timeout(GRACE, server).await;
}

/// Once a second: looks after the sinks, and tells the followers. Returns when the run is abandoned.
async fn publish(shared: &Shared, latest: &watch::Sender<Arc<str>>) {
    let mut seconds = tokio::time::interval(PERIOD);
    seconds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !shared.stop.abandon() {
        seconds.tick().await;
        shared.health.observe(&shared.metrics);
        shared.metrics.live_clients.set(shared.followers() as i64);
        if shared.followers() > 0 {
            latest.send_replace(shared.snapshot());
        }
    }
}

fn refusal(listen: &str, source: io::Error) -> HttpError {
    let listen = listen.to_owned();
    match source.kind() {
        io::ErrorKind::AddrInUse => HttpError::InUse { listen },
        io::ErrorKind::PermissionDenied | io::ErrorKind::AddrNotAvailable => HttpError::Refused { listen, source },
        _ => HttpError::Address { listen, source },
    }
}

/// A browser cannot go to "any address", so that is shown as this machine.
fn url(addr: SocketAddr) -> String {
    if addr.ip().is_unspecified() { format!("http://localhost:{}/", addr.port()) } else { format!("http://{addr}/") }
}
