//! What sinks have in common that reach somebody over a network: a client, secrets from files, why no answer came, and how long to wait until the next try.
//!
//! Invariants: no error holds a secret; no redirect is followed and no proxy is taken from the environment, for credentials and rows go to the configured
//! host only.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use ureq::Agent;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use zeroize::Zeroizing;

use super::SinkError;

/// Until a connection stands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// No answer came. It is not known whether the request took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// Not in time.
    Timeout,
    /// The host name does not resolve.
    HostNotFound,
    /// Nobody listens there, or no way leads there.
    Unreachable,
    /// The connection was closed or reset, or what came was no HTTP.
    Broken,
    /// No trust: the certificate is wrong, expired or of another authority.
    Tls,
}

impl Unanswered {
    /// For logs.
    pub fn reason(self) -> &'static str {
        match self {
            Unanswered::Timeout => "no answer in time",
            Unanswered::HostNotFound => "the host name does not resolve",
            Unanswered::Unreachable => "the connection was refused",
            Unanswered::Broken => "the connection broke",
            Unanswered::Tls => {
                "the certificate is not trusted: ca_file must hold the authority that signed it, which cannot be the server's own certificate"
            }
        }
    }

    /// Of the client's error.
    pub(super) fn of(error: &ureq::Error) -> Self {
        use ureq::Error;
        match error {
            Error::Timeout(_) => Unanswered::Timeout,
            Error::HostNotFound => Unanswered::HostNotFound,
            Error::ConnectionFailed => Unanswered::Unreachable,
            Error::Tls(_) | Error::Pem(_) | Error::Rustls(_) => Unanswered::Tls,
            Error::Io(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::AddrNotAvailable => Unanswered::Unreachable,
                io::ErrorKind::TimedOut => Unanswered::Timeout,
                // rustls reports a failed handshake as invalid data.
                io::ErrorKind::InvalidData => Unanswered::Tls,
                _ => Unanswered::Broken,
            },
            _ => Unanswered::Broken,
        }
    }
}

/// How long to wait before the next attempt: exponential back-off with full jitter (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog
/// 2015: of the schemes compared there it needs the fewest calls). Pure: the randomness is given.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    attempts: u32,
}

impl Backoff {
    /// Waits of at most `first`, then twice that, and so on up to `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        Backoff { first, max, attempts: 0 }
    }

    /// The next wait: uniform in [0, ceiling], `random` being uniform in all of `u64`.
    pub fn next(&mut self, random: u64) -> Duration {
        let ceiling = self.first.saturating_mul(2_u32.saturating_pow(self.attempts)).min(self.max);
        self.attempts = self.attempts.saturating_add(1);
        ceiling.mul_f64(random as f64 / u64::MAX as f64)
    }

    /// Something succeeded.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// A secret's file without surrounding white space. Zeroised when dropped; best effort, the header that is made of it is not.
pub(super) fn secret(path: &Path) -> Result<Zeroizing<String>, SinkError> {
    let text = Zeroizing::new(fs::read_to_string(path).map_err(|source| read_error(path, source))?);
    Ok(Zeroizing::new(text.trim().to_owned()))
}

/// The same, for a setting: an error names it.
pub(super) fn secret_of(setting: &str, path: &Path) -> Result<Zeroizing<String>, SinkError> {
    secret(path).or_else(|error| refused(format!("{setting}: {error}")))
}

/// A client for a section of the flow file: it trusts whom `ca_file` names, follows no redirect and takes no proxy from the environment.
pub(super) fn agent(section: &str, ca_file: Option<&Path>, timeout: Duration) -> Result<Agent, SinkError> {
    let mut tls = TlsConfig::builder();
    if let Some(path) = ca_file {
        tls = tls.root_certs(certificates(section, path)?);
    }
    let config = Agent::config_builder()
        .tls_config(tls.build())
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .timeout_connect(Some(CONNECT_TIMEOUT.min(timeout)))
        .timeout_global(Some(timeout))
        .user_agent(concat!("windkessel/", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(config.new_agent())
}

fn certificates(section: &str, path: &Path) -> Result<RootCerts, SinkError> {
    let pem = fs::read(path).map_err(|source| read_error(path, source))?;
    let found: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() {
        return refused(format!("found no certificate in {section}.ca_file {path:?}; it must be PEM"));
    }
    Ok(RootCerts::new_with_certs(&found))
}

fn read_error(path: &Path, source: io::Error) -> SinkError {
    SinkError::Io { action: "read", path: path.to_owned(), source }
}

fn refused<T>(text: impl Into<String>) -> Result<T, SinkError> {
    Err(SinkError::Refused(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_ceiling_and_fill_all_of_it() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        let ceilings: Vec<u128> = (0..10).map(|_| backoff.next(u64::MAX).as_millis()).collect();
        assert_eq!(ceilings, [200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000]);
        assert_eq!(backoff.next(0), Duration::ZERO);
        backoff.reset();
        assert_eq!(backoff.next(u64::MAX / 2).as_millis(), 100);
        (0..100).for_each(|_| assert!(backoff.next(1) < Duration::from_secs(1)));
        assert_eq!(backoff.next(u64::MAX).as_secs(), 30);
    }
}
