//! Patience: a request is sent until Elasticsearch answers it.
//!
//! A destination that is down, overloaded or unreachable is waited for without limit, with [`Backoff`]; meanwhile nothing is settled, so the
//! sources stop. Wrong credentials are read again once. The rest is the caller's to judge.
//!
//! Invariants: every wait ends when the run is abandoned; `sink_waiting` counts the workers that wait; every repetition is counted.

use std::thread;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::runtime::metrics::Metrics;
use crate::runtime::stop::Stop;
use crate::sink::SinkError;
use crate::sink::remote::{Backoff, Unanswered};

use super::SINK;
use super::client::{Client, Reply, Request};
use super::response;

/// Ceiling of the first wait.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(200);
/// Ceiling of every later wait: an operator who has repaired the cluster sees documents within this time.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How often a wait looks whether the run is being abandoned.
const WAIT_SLICE: Duration = Duration::from_millis(50);

/// One cluster, as one worker's sink sees it.
pub struct Destination {
    client: Client,
    backoff: Backoff,
    stop: Stop,
    metrics: Metrics,
    waiting: bool,
}

impl Destination {
    /// Does not connect.
    pub fn new(client: Client, backoff: Backoff, stop: Stop, metrics: Metrics) -> Self {
        // Shown as 0 from the start; not set, for another worker may be waiting.
        let _ = metrics.sink_waiting.with_label_values(&[SINK]);
        Destination { client, backoff, stop, metrics, waiting: false }
    }

    /// Sends until there is an answer that is neither 401, 403, 408, 429 nor 5xx. The caller says [`Destination::relieved`] when it is content with it.
    ///
    /// # Errors
    /// `Refused` if the credentials are not accepted even after reading them again; `Stopped` if the run is abandoned.
    pub fn send(&mut self, request: &Request) -> Result<Reply, SinkError> {
        let mut renewed = false;
        loop {
            if self.stop.abandon() {
                return Err(SinkError::Stopped);
            }
            match self.client.send(request) {
                Ok(reply) if matches!(reply.status, 401 | 403) => {
                    if renewed {
                        return Err(forbidden(reply.status, response::error_type(&reply.body)));
                    }
                    self.client.renew()?;
                    renewed = true;
                }
                Ok(reply) if matches!(reply.status, 408 | 429 | 500..=599) => {
                    self.wait("it is overloaded or not ready", reply.status, 1)?;
                }
                Ok(reply) => return Ok(reply),
                Err(unanswered) => {
                    self.wait(unanswered.reason(), 0, 1)?;
                    // A rotated authority is the usual cause of lost trust; other causes lose nothing by it.
                    if unanswered == Unanswered::Tls
                        && let Err(error) = self.client.renew()
                    {
                        // It may be read while it is written anew; until it can be, those of before stand.
                        warn!(sink = SINK, %error, "could not read certificates and secrets again; trying with those of before");
                    }
                }
            }
        }
    }

    /// Like [`Destination::send`], for a request whose first such answer is success.
    pub fn ask(&mut self, request: &Request) -> Result<Reply, SinkError> {
        let reply = self.send(request)?;
        self.relieved();
        Ok(reply)
    }

    /// Sends once and says whether it was done. For what may fail without harm.
    pub fn try_once(&mut self, request: &Request) -> bool {
        self.client.send(request).is_ok_and(|reply| reply.status == 200)
    }

    /// Reads certificates and secrets again.
    pub fn renew(&mut self) -> Result<(), SinkError> {
        self.client.renew()
    }

    /// Everything asked for was done: the next wait is a short one again.
    pub fn relieved(&mut self) {
        self.backoff.reset();
        if std::mem::take(&mut self.waiting) {
            info!(sink = SINK, "the destination answers again");
            self.metrics.sink_waiting.with_label_values(&[SINK]).dec();
        }
    }

    /// Waits before `repeated` requests or documents are sent again. `status` is 0 if there was no answer.
    pub fn wait(&mut self, reason: &'static str, status: u16, repeated: usize) -> Result<(), SinkError> {
        let random = getrandom::u64().expect("the operating system has a source of randomness");
        let pause = self.backoff.next(random);
        if !std::mem::replace(&mut self.waiting, true) {
            self.metrics.sink_waiting.with_label_values(&[SINK]).inc();
        }
        warn!(sink = SINK, reason, status, pause_seconds = pause.as_secs_f64(), "waiting for the destination");
        let until = Instant::now() + pause;
        loop {
            if self.stop.abandon() {
                return Err(SinkError::Stopped);
            }
            match until.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => thread::sleep(left.min(WAIT_SLICE)),
                _ => break,
            }
        }
        self.metrics.sink_retries.with_label_values(&[SINK]).inc_by(repeated as u64);
        Ok(())
    }
}

/// The text for credentials that were read again and still do not do.
pub fn forbidden(status: u16, error_type: &str) -> SinkError {
    SinkError::Refused(format!(
        "could not write to Elasticsearch: it answered {status} ({error_type}) also after the secret was read again; check \
         sink.elasticsearch.user and password_file or api_key_file, that the account may write, create and read the flow's indices \
         (and manage index templates while install_template is true), and that no index is blocked for writing"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ElasticsearchSpec;

    /// The gauge is one for all workers: none may set it for the others, and a start of one more says nothing of those that wait.
    #[test]
    fn each_worker_that_waits_counts_once_until_it_is_relieved() {
        let (metrics, spec) = (Metrics::new(), ElasticsearchSpec::default());
        let worker = || {
            let client = Client::new(&spec, Duration::from_secs(1)).unwrap();
            Destination::new(client, Backoff::new(Duration::ZERO, Duration::ZERO), Stop::default(), metrics.clone())
        };
        let waiting = || metrics.sink_waiting.with_label_values(&[SINK]).get();
        let (mut one, mut other) = (worker(), worker());
        one.wait("refused", 0, 1).unwrap();
        one.wait("refused", 0, 1).unwrap();
        assert_eq!(waiting(), 1);
        other.relieved();
        let mut third = worker();
        third.relieved();
        assert_eq!(waiting(), 1, "those who do not wait change nothing");
        other.wait("refused", 0, 1).unwrap();
        assert_eq!(waiting(), 2);
        one.relieved();
        one.relieved();
        assert_eq!(waiting(), 1);
        other.relieved();
        assert_eq!(waiting(), 0);
    }
}
