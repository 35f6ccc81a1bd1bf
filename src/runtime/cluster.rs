//! Several processes that are one run: who they are, how they find each other, what they say to each other beside the data.
//!
//! ```text
//! process i ─ connects to all j < i, is called by all j > i; each pair has two connections, both by the same handshake:
//!     data   timely's own, handed to it when all are there ([`Wire`])
//!     side   process 0's word at the start, then heartbeats ([`Peers`])
//! ```
//!
//! Invariants:
//!
//! 1. Nothing that a connection says is looked at before it has proved that it knows the cluster's secret, and nothing is reserved for lengths that it
//!    claims. A stray client is dropped and logged.
//! 2. All processes are of one mind before the log is touched: same number of processes and workers, same flow, key, rules, version, sinks ([`Word`]).
//! 3. Process 0 alone opens the log and decides; the others hear what it decided from it ([`Told`](super::recovery::Told)).
//! 4. One that goes ends all: the rest of the cluster cannot do without it, and a restart takes a second.
//! 5. The port is open only while processes are missing.
//!
//! Limits: [`HANDSHAKES_MAX`] callers at a time, [`HANDSHAKE_MAX`] each; frames as in [`handshake`] and [`peers`]. What is said is authenticated when a connection
//! is made, and not encrypted: the network between the processes is to be their own (docs/operations.md).

use std::collections::BTreeMap;
use std::net::{IpAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

mod handshake;
pub mod peers;
#[cfg(test)]
mod tests;
mod wire;

use handshake::{Hello, Purpose, Refusal};
pub use handshake::{Secret, Word};
pub use peers::Peers;
pub use wire::Wire;

/// Between two attempts to reach a process that is not there yet.
const RETRY_EVERY: Duration = Duration::from_millis(20);

/// A handshake takes no longer, whoever the other is.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// Callers whose handshakes are under way; more are hung up on.
const HANDSHAKES_MAX: usize = 64;

/// Processes of one cluster.
pub const PROCESSES_MAX: usize = 64;

/// Which process of which cluster this is.
#[derive(Clone, Debug)]
pub struct Membership {
    /// `host:port` of every process, by its number.
    pub hosts: Vec<String>,
    /// This process's number.
    pub process: usize,
    /// What all processes know, and nobody else.
    pub secret: Secret,
    /// How long processes wait for each other at the start.
    pub join: Duration,
}

impl Membership {
    /// Reads the file of hosts and the secret.
    ///
    /// # Errors
    /// A sentence with a hint: a line that is no `host:port`, a number without a line, a secret that is missing or short.
    pub fn read(hosts: &Path, process: usize, secret: Option<&Path>, join: Duration) -> Result<Membership, String> {
        let text = std::fs::read_to_string(hosts)
            .map_err(|error| format!("could not read the hosts file {hosts:?}: {error}"))?;
        let listed = parse(&text).map_err(|why| format!("could not use the hosts file {hosts:?}: {why}"))?;
        if process >= listed.len() {
            let last = listed.len() - 1;
            return Err(format!("--process {process} has no line in {hosts:?}, which names processes 0 to {last}"));
        }
        let secret = match secret {
            Some(path) => Secret::read(path)?,
            None if listed.len() == 1 || listed.iter().all(|host| is_loopback(host)) => Secret::none(),
            None => {
                return Err("processes on several machines need a secret: --secret-file FILE or WINDKESSEL_CLUSTER_SECRET_FILE; \
                            make one with: (umask 077; openssl rand -hex 32 > FILE)"
                    .into());
            }
        };
        Ok(Membership { hosts: listed, process, secret, join })
    }

    /// How many processes there are.
    pub fn processes(&self) -> usize {
        self.hosts.len()
    }

    /// How a process is called in messages.
    pub fn name(&self, process: usize) -> String {
        let host = self.hosts.get(process).map_or("?", String::as_str);
        format!("process {process} ({host})")
    }
}

/// One `host:port` a line, `#` begins a comment.
fn parse(text: &str) -> Result<Vec<String>, String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let mut hosts: Vec<String> = Vec::new();
    for (number, line) in lines.enumerate().filter(|(_, line)| !line.is_empty()) {
        let port = line.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse().ok());
        if port.is_none_or(|port: u16| port == 0) || line.contains(char::is_whitespace) {
            return Err(format!("line {}: {line:?} is not host:port", number + 1));
        }
        if hosts.iter().any(|host| host == line) {
            return Err(format!("line {}: {line:?} is listed twice", number + 1));
        }
        hosts.push(line.to_owned());
    }
    match hosts.len() {
        0 => Err("it names no host:port".into()),
        count if count > PROCESSES_MAX => {
            Err(format!("it names {count} processes, at most {PROCESSES_MAX} are possible"))
        }
        _ => Ok(hosts),
    }
}

fn is_loopback(host: &str) -> bool {
    let (name, _) = host.rsplit_once(':').unwrap_or((host, ""));
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Why the processes did not come together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// They were started with different settings or secrets: a restart does not help.
    #[error("{0}")]
    Differs(String),
    /// Some are missing, or the port cannot be opened.
    #[error("{0}")]
    Missing(String),
}

/// Both connections to each other process; `None` at this process's own place.
#[derive(Debug, Default)]
pub struct Links {
    data: Vec<Option<TcpStream>>,
    side: Vec<Option<TcpStream>>,
}

impl Links {
    /// The connections for timely, which end the run through `peers` when they break.
    pub fn wires(&mut self, peers: &Peers) -> Vec<Option<Wire>> {
        let streams = std::mem::take(&mut self.data).into_iter().enumerate();
        streams.map(|(process, stream)| stream.map(|stream| Wire::new(stream, process, peers.clone()))).collect()
    }

    /// A later connection takes the place of an earlier one, which was a process's that has been restarted meanwhile.
    fn put(&mut self, purpose: Purpose, process: usize, stream: TcpStream) {
        let links = if purpose == Purpose::Data { &mut self.data } else { &mut self.side };
        links[process] = Some(stream);
    }

    fn missing(&self, own: usize) -> Vec<usize> {
        let there = |process: usize| self.data[process].is_some() && self.side[process].is_some();
        (0..self.data.len()).filter(|process| *process != own && !there(*process)).collect()
    }
}

/// What the threads of a join report.
enum News {
    Linked(Purpose, usize, TcpStream),
    Differs(String),
    /// Somebody who is not of the cluster, or does not know its secret.
    Stranger(String),
}

/// What every handshake of a join needs.
#[derive(Clone)]
struct Joining {
    membership: Membership,
    word: Word,
    news: Sender<News>,
    over: Arc<AtomicBool>,
    deadline: Instant,
}

/// Connects this process to all others.
///
/// # Errors
/// [`JoinError::Differs`] as soon as one is found that was started differently; [`JoinError::Missing`] after `membership.join`, with those that are missing.
pub fn join(membership: &Membership, word: &Word) -> Result<Links, JoinError> {
    let (own, processes) = (membership.process, membership.processes());
    let none = || (0..processes).map(|_| None).collect();
    let mut links = Links { data: none(), side: none() };
    let (news, told) = channel();
    let over = Arc::new(AtomicBool::new(false));
    let deadline = Instant::now() + membership.join;
    let joining = Joining { membership: membership.clone(), word: word.clone(), news, over: over.clone(), deadline };
    let listening = joining.clone();
    let spawned = std::thread::Builder::new().name("join".into()).spawn(move || listen(&listening));
    spawned.map_err(|error| JoinError::Missing(error.to_string()))?;
    for (process, purpose) in (0..own).flat_map(|process| [(process, Purpose::Data), (process, Purpose::Side)]) {
        let calling = joining.clone();
        let spawned = std::thread::Builder::new().name("join".into()).spawn(move || call(&calling, process, purpose));
        spawned.map_err(|error| JoinError::Missing(error.to_string()))?;
    }
    let joined = collect(&joining, &mut links, &told);
    over.store(true, Ordering::SeqCst);
    joined.map(|()| links)
}

/// Takes connections until all are there.
fn collect(joining: &Joining, links: &mut Links, told: &Receiver<News>) -> Result<(), JoinError> {
    let membership = &joining.membership;
    let mut strangers = Vec::new();
    loop {
        let missing = links.missing(membership.process);
        if missing.is_empty() {
            return Ok(());
        }
        match told.recv_timeout(joining.deadline.saturating_duration_since(Instant::now())) {
            Ok(News::Linked(purpose, process, stream)) => links.put(purpose, process, stream),
            Ok(News::Differs(why)) => return Err(JoinError::Differs(why)),
            Ok(News::Stranger(why)) => {
                tracing::warn!(target: "runtime", "cluster: {why}");
                strangers.push(why);
            }
            Err(_) => return Err(JoinError::Missing(not_joined(membership, &missing, strangers.last()))),
        }
    }
}

fn not_joined(membership: &Membership, missing: &[usize], last: Option<&String>) -> String {
    let names = missing.iter().map(|process| membership.name(*process)).collect::<Vec<_>>().join(", ");
    let heard = last.map(|why| format!("; last: {why}")).unwrap_or_default();
    format!(
        "could not form the cluster within {} s: {names} did not join (start every process of the hosts file, with one secret){heard}",
        membership.join.as_secs()
    )
}

/// Answers callers until the join is over.
fn listen(joining: &Joining) {
    let Some(listener) = bind(joining) else { return };
    let callers = Arc::new(AtomicUsize::new(0));
    while !joining.is_over() {
        let Ok((stream, from)) = listener.accept() else {
            std::thread::sleep(RETRY_EVERY);
            continue;
        };
        if callers.fetch_add(1, Ordering::SeqCst) >= HANDSHAKES_MAX {
            callers.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (joining, left) = (joining.clone(), callers.clone());
        let answering = move || {
            let news = answer(&joining, stream).map_err(|why| format!("hung up on {from}: {why}"));
            left.fetch_sub(1, Ordering::SeqCst);
            joining.tell(news.unwrap_or_else(News::Stranger));
        };
        if std::thread::Builder::new().name("join".into()).spawn(answering).is_err() {
            callers.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Opens the port of this process; its name may not be known yet, or an earlier process still have it.
fn bind(joining: &Joining) -> Option<TcpListener> {
    let host = &joining.membership.hosts[joining.membership.process];
    let mut told = false;
    while !joining.is_over() {
        match TcpListener::bind(host) {
            Ok(listener) if listener.set_nonblocking(true).is_ok() => return Some(listener),
            Ok(_) => {}
            Err(error) if !told => {
                joining.tell(News::Stranger(format!("could not listen on {host} yet: {error}")));
                told = true;
            }
            Err(_) => {}
        }
        std::thread::sleep(RETRY_EVERY);
    }
    None
}

fn answer(joining: &Joining, mut stream: TcpStream) -> Result<News, String> {
    let membership = &joining.membership;
    stream.set_nonblocking(false).and_then(|()| stream.set_nodelay(true)).map_err(|error| error.to_string())?;
    let own = joining.hello(Purpose::Data);
    let hello =
        handshake::answer(&mut stream, &membership.secret, &own, HANDSHAKE_MAX).map_err(|why| why.to_string())?;
    let process = hello.process as usize;
    if let Some(why) = differs(membership, &own, &hello, process) {
        return Ok(News::Differs(why));
    }
    if process <= membership.process || process >= membership.processes() {
        return Err(format!(
            "it says that it is process {process}, which does not call process {}",
            membership.process
        ));
    }
    Ok(News::Linked(hello.purpose, process, stream))
}

/// Calls one process until it answers as one of this cluster.
fn call(joining: &Joining, process: usize, purpose: Purpose) {
    let name = joining.membership.name(process);
    let mut told = false;
    while !joining.is_over() {
        match try_call(joining, process, purpose) {
            Ok(news) => return joining.tell(news),
            Err(Refusal::Secret) => {
                return joining.tell(News::Differs(format!(
                    "{name} has another cluster secret; give all processes the same --secret-file"
                )));
            }
            Err(Refusal::Unreachable) => {}
            Err(why) if !told => {
                joining.tell(News::Stranger(format!("{name}: {why}")));
                told = true;
            }
            Err(_) => {}
        }
        std::thread::sleep(RETRY_EVERY);
    }
}

fn try_call(joining: &Joining, process: usize, purpose: Purpose) -> Result<News, Refusal> {
    let membership = &joining.membership;
    let addresses = membership.hosts[process].to_socket_addrs().map_err(|_| Refusal::Unreachable)?;
    let connect = |address| TcpStream::connect_timeout(&address, HANDSHAKE_MAX).ok();
    let mut stream = addresses.into_iter().find_map(connect).ok_or(Refusal::Unreachable)?;
    stream.set_nodelay(true)?;
    let own = joining.hello(purpose);
    let hello = handshake::call(&mut stream, &membership.secret, &own, HANDSHAKE_MAX)?;
    if let Some(why) = differs(membership, &own, &hello, process) {
        return Ok(News::Differs(why));
    }
    if hello.process as usize != process {
        return Ok(News::Differs(format!(
            "{} says that it is process {}; all processes need the same hosts file",
            membership.name(process),
            hello.process
        )));
    }
    Ok(News::Linked(purpose, process, stream))
}

/// What two processes were started with differently.
fn differs(membership: &Membership, own: &Hello, theirs: &Hello, process: usize) -> Option<String> {
    let said = |word: &Word, name: &str| word.get(name).cloned().unwrap_or_else(|| "nothing".into());
    let names: BTreeMap<&String, ()> = own.word.keys().chain(theirs.word.keys()).map(|name| (name, ())).collect();
    let name = names.into_keys().find(|name| own.word.get(*name) != theirs.word.get(*name))?;
    Some(format!(
        "{} was started with another {name}: there {}, here {}; start all processes with the same flow, key, model, version, hosts file and --workers",
        membership.name(process),
        said(&theirs.word, name),
        said(&own.word, name)
    ))
}

impl Joining {
    fn hello(&self, purpose: Purpose) -> Hello {
        Hello { process: self.membership.process as u32, purpose, word: self.word.clone() }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst) || Instant::now() >= self.deadline
    }

    fn tell(&self, news: News) {
        // The join is over only if everything or enough was told.
        let _ = self.news.send(news);
    }
}
