//! One POST to the receiver and what it answers. Blocking; does not retry.
//!
//! Invariants: no redirect is followed (token and alerts go to the configured host only), no proxy is taken from the environment; a receiver's answer is
//! thrown away but for its status and `Retry-After`; secrets come from files and are read again by [`Client::renew`].

use std::fmt;
use std::time::Duration;

use ureq::Agent;
use ureq::http::{self, HeaderValue, Method, header};
use zeroize::Zeroizing;

use super::notice::Notice;
use crate::config::WebhookSpec;
use crate::sink::SinkError;
use crate::sink::remote::{Unanswered, agent, secret_of};

/// The section of the flow file, for messages.
const SECTION: &str = "sink.webhook";
/// So much of an answer is read, so that its connection can be used again.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// What a receiver has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// `Retry-After`, if it is in seconds.
    pub(super) retry_after: Option<Duration>,
}

/// A connection to one receiver.
pub(super) struct Client {
    spec: WebhookSpec,
    timeout: Duration,
    agent: Agent,
    url: Zeroizing<String>,
    authorization: Option<HeaderValue>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    /// Reads certificates and secrets; does not connect.
    pub(super) fn new(spec: &WebhookSpec, timeout: Duration) -> Result<Self, SinkError> {
        let (url, authorization) = (url(spec)?, authorization(spec)?);
        let agent = agent(SECTION, spec.ca_file.as_deref(), timeout)?;
        Ok(Client { spec: spec.clone(), timeout, agent, url, authorization })
    }

    /// Reads certificates and secrets again: they may have been rotated.
    pub(super) fn renew(&mut self) -> Result<(), SinkError> {
        *self = Self::new(&self.spec, self.timeout)?;
        Ok(())
    }

    pub(super) fn post(&self, notice: &Notice) -> Result<Answer, Unanswered> {
        let request = self
            .request(Method::POST)
            .header(header::CONTENT_TYPE, "application/json")
            .header("Idempotency-Key", &notice.id)
            .body(notice.body.as_bytes());
        self.answer(self.agent.run(request.expect("the URL was checked at start")))
    }

    /// As [`connect`].
    pub(super) fn look(&self) -> Result<(), SinkError> {
        let request = self.request(Method::HEAD).body(());
        let why = match self.answer(self.agent.run(request.expect("the URL was checked at start"))) {
            Err(unanswered) => unanswered.reason().to_owned(),
            Ok(Answer { status: 401 | 403, .. }) => {
                "it refuses the token; sink.webhook.token_file must hold a valid one".into()
            }
            Ok(Answer { status: 300..=399, .. }) => {
                "it redirects, which is not followed; name the address that it leads to".into()
            }
            Ok(Answer { status: status @ 500..=599, .. }) => format!("it answers with status {status}"),
            Ok(_) => return Ok(()),
        };
        let place = match &self.spec.url_file {
            Some(file) => format!("the receiver that sink.webhook.url_file {file:?} names"),
            None => format!("sink.webhook.url {:?}", self.spec.url),
        };
        Err(SinkError::Refused(format!("could not reach {place}: {why}")))
    }

    fn request(&self, method: Method) -> http::request::Builder {
        let mut request = http::Request::builder().method(method).uri(self.url.as_str());
        if let Some(value) = &self.authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        request
    }

    fn answer(&self, answer: Result<http::Response<ureq::Body>, ureq::Error>) -> Result<Answer, Unanswered> {
        let mut answer = answer.map_err(|error| Unanswered::of(&error))?;
        let seconds =
            answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        // What it says is nobody's business, and a longer one costs only its connection.
        let _ = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        Ok(Answer { status: answer.status().as_u16(), retry_after: seconds.map(Duration::from_secs) })
    }
}

/// Asks once whether the receiver is there, with a HEAD, which tells nobody anything. Any answer is good that does not refuse the token or lead elsewhere:
/// many receivers take nothing but POST.
///
/// # Errors
/// What cannot work about the settings, that no answer came, or which one.
pub fn connect(spec: &WebhookSpec, wait_max: Duration) -> Result<(), SinkError> {
    Client::new(spec, wait_max)?.look()
}

/// Checks a URL that the key, or the file, gives.
///
/// # Errors
/// What is wrong with it; the URL of a file is not quoted.
pub fn check_url(key: &str, url: &str) -> Result<(), SinkError> {
    let uri = url.parse::<http::Uri>().ok().filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
    let authority = uri.as_ref().and_then(http::Uri::authority);
    if authority.is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(SinkError::Refused(format!("{key} must not hold credentials; give sink.webhook.token_file")));
    }
    // A port that is no number is not seen as a port, but as a longer authority.
    let host =
        authority.is_some_and(|at| !at.host().is_empty() && (at.as_str() == at.host() || at.port_u16().is_some()));
    match host {
        true => Ok(()),
        false => Err(SinkError::Refused(format!("{key} must be a URL that begins with http:// or https://"))),
    }
}

fn url(spec: &WebhookSpec) -> Result<Zeroizing<String>, SinkError> {
    let Some(file) = &spec.url_file else {
        check_url("sink.webhook.url", &spec.url)?;
        return Ok(Zeroizing::new(spec.url.clone()));
    };
    let url = secret_of("sink.webhook.url_file", file)?;
    check_url(&format!("what stands in sink.webhook.url_file {file:?}"), &url)?;
    Ok(url)
}

fn authorization(spec: &WebhookSpec) -> Result<Option<HeaderValue>, SinkError> {
    let Some(file) = &spec.token_file else { return Ok(None) };
    let token = secret_of("sink.webhook.token_file", file)?;
    if token.is_empty() {
        return Err(SinkError::Refused(format!("found no token in sink.webhook.token_file {file:?}: it is empty")));
    }
    let text = Zeroizing::new(format!("Bearer {}", token.as_str()));
    let mut value = HeaderValue::from_str(&text).map_err(|_| {
        SinkError::Refused(format!(
            "could not use the token of sink.webhook.token_file {file:?}: it holds characters that a header cannot carry"
        ))
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    //! What these prove: what is refused at start, and that secrets stay where they are. The wire is tested through the whole sink.
    use super::*;

    fn error(spec: &WebhookSpec) -> String {
        Client::new(spec, Duration::from_secs(1)).unwrap_err().to_string()
    }

    #[test]
    fn a_url_is_checked_before_anything_is_sent() {
        for url in ["", "localhost:9200", "ftp://x", "http://", "http://h:x", "//h", "nonsense"] {
            let text = error(&WebhookSpec { url: url.into(), ..WebhookSpec::default() });
            assert!(text.contains("sink.webhook.url must be a URL"), "{url}: {text}");
        }
        for url in ["http://h", "http://h:9/x?key=1", "https://h.example/hooks/a@b"] {
            check_url("k", url).unwrap();
        }
        let text = error(&WebhookSpec { url: "https://user:hunter2@h".into(), ..WebhookSpec::default() });
        assert!(text.contains("token_file") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn secrets_come_from_files_and_are_not_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
            Some(folder.path().join(name))
        };
        let good = WebhookSpec { url_file: file("url", "https://h/secret-path\n"), ..WebhookSpec::default() };
        Client::new(&good, Duration::from_secs(1)).unwrap();
        let wrong = WebhookSpec { url_file: file("wrong", "h/secret-path"), ..WebhookSpec::default() };
        assert!(error(&wrong).contains("url_file") && !error(&wrong).contains("secret-path"), "{}", error(&wrong));
        let empty = WebhookSpec { token_file: file("token", "\n"), ..good.clone() };
        assert!(error(&empty).contains("token_file") && error(&empty).contains("empty"), "{}", error(&empty));
        let odd = WebhookSpec { token_file: file("odd", "a\u{7}b"), ..good.clone() };
        assert!(error(&odd).contains("characters"), "{}", error(&odd));
        let gone = WebhookSpec { token_file: Some("/nowhere/token".into()), ..good };
        assert!(
            error(&gone).starts_with("sink.webhook.token_file: could not read \"/nowhere/token\""),
            "{}",
            error(&gone)
        );
    }
}
