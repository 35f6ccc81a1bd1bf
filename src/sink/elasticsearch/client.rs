//! One HTTP request to Elasticsearch and its answer. Blocking.
//!
//! Invariants: no error and no `Debug` holds a credential, a body or the URL's path; credentials come from files and are read
//! again by [`Client::renew`]; no redirect is followed (credentials and documents go to the configured host only); no proxy is
//! taken from the environment; every request ends within [`REQUEST_TIMEOUT`].
//!
//! It does not retry, and does not judge statuses: [`Destination`](super::destination::Destination) does.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use ureq::Agent;
use ureq::http::{self, HeaderValue, Method, header};
use zeroize::Zeroizing;

use crate::config::ElasticsearchSpec;
use crate::sink::SinkError;
use crate::sink::remote::{Unanswered, agent, secret};

/// The section of the flow file, for messages.
const SECTION: &str = "sink.elasticsearch";
/// Until the answer has arrived. Shorter than the minute that Elasticsearch itself waits for a shard: then the request is repeated, which is safe.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest answer that is read. A bulk answer with the filtered fields takes about 100 bytes a document.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// GET, PUT or POST.
    pub method: Method,
    /// Path and query below the configured URL, with a leading slash.
    pub path: String,
    /// The body, ready to be sent.
    pub body: Option<Body>,
}

/// A request's body. Its `Debug` shows the length only.
#[derive(Clone)]
pub struct Body {
    bytes: Vec<u8>,
    content_type: &'static str,
    gzip: bool,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

impl Body {
    /// A JSON value, uncompressed.
    pub fn json(value: &serde_json::Value) -> Self {
        Body { bytes: value.to_string().into_bytes(), content_type: "application/json", gzip: false }
    }

    /// Lines of a bulk request, compressed with gzip's fastest level: the documents of a batch repeat their keys.
    pub fn bulk(lines: &[u8]) -> Self {
        let mut encoder = GzEncoder::new(Vec::with_capacity(lines.len() / 4), Compression::fast());
        let bytes = encoder.write_all(lines).and_then(|()| encoder.finish()).expect("writing to a Vec cannot fail");
        Body { bytes, content_type: "application/x-ndjson", gzip: true }
    }

    /// Bytes on the wire.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

impl Request {
    /// Without body.
    pub fn get(path: impl Into<String>) -> Self {
        Request { method: Method::GET, path: path.into(), body: None }
    }

    /// POST without a body: `_refresh` refuses one.
    pub fn poke(path: impl Into<String>) -> Self {
        Request { method: Method::POST, path: path.into(), body: None }
    }

    /// With a JSON body.
    pub fn put(path: impl Into<String>, value: &serde_json::Value) -> Self {
        Request { method: Method::PUT, path: path.into(), body: Some(Body::json(value)) }
    }

    /// With any body.
    pub fn post(path: impl Into<String>, body: Body) -> Self {
        Request { method: Method::POST, path: path.into(), body: Some(body) }
    }
}

/// An answer, whatever its status.
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The whole body, decompressed. It may quote documents: parse it, never print it.
    pub body: Vec<u8>,
}

/// How one shows who one is. Paths, not secrets.
#[derive(Clone, Debug)]
enum Credentials {
    None,
    Basic { user: String, password_file: PathBuf },
    ApiKey { file: PathBuf },
}

/// A connection pool to one cluster, with its credentials.
pub struct Client {
    base: String,
    credentials: Credentials,
    ca_file: Option<PathBuf>,
    timeout: Duration,
    agent: Agent,
    authorization: Option<HeaderValue>,
}

impl fmt::Debug for Client {
    /// Neither the URL (it may tell a network's layout) nor what stands in the files.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    /// Reads certificates and secrets; does not connect.
    ///
    /// # Errors
    /// A URL without `http://` or `https://` or with credentials in it, contradictory credentials, a file that cannot be read.
    pub fn new(spec: &ElasticsearchSpec, timeout: Duration) -> Result<Self, SinkError> {
        let credentials = credentials(spec)?;
        let agent = agent(SECTION, spec.ca_file.as_deref(), timeout)?;
        let authorization = authorization(&credentials)?;
        Ok(Client { base: base(&spec.url)?, credentials, ca_file: spec.ca_file.clone(), timeout, agent, authorization })
    }

    /// Reads certificates and secrets again: they may have been rotated.
    pub fn renew(&mut self) -> Result<(), SinkError> {
        self.agent = agent(SECTION, self.ca_file.as_deref(), self.timeout)?;
        self.authorization = authorization(&self.credentials)?;
        Ok(())
    }

    /// Sends a request and reads the whole answer.
    pub fn send(&self, request: &Request) -> Result<Reply, Unanswered> {
        let mut builder =
            http::Request::builder().method(&request.method).uri(format!("{}{}", self.base, request.path));
        if let Some(value) = &self.authorization {
            builder = builder.header(header::AUTHORIZATION, value);
        }
        let answer = match &request.body {
            None => self.agent.run(builder.body(()).expect("the URL was checked at start")),
            Some(body) => {
                builder = builder.header(header::CONTENT_TYPE, body.content_type);
                if body.gzip {
                    builder = builder.header(header::CONTENT_ENCODING, "gzip");
                }
                self.agent.run(builder.body(&body.bytes[..]).expect("the URL was checked at start"))
            }
        };
        let mut answer = answer.map_err(|error| Unanswered::of(&error))?;
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        Ok(Reply { status: answer.status().as_u16(), body: body.map_err(|error| Unanswered::of(&error))? })
    }
}

/// The URL without trailing slash.
fn base(url: &str) -> Result<String, SinkError> {
    if url.contains('@') {
        // The URL is not quoted: it holds a password.
        return refused(
            "sink.elasticsearch.url must not hold credentials; give sink.elasticsearch.user and password_file, or api_key_file",
        );
    }
    let base = url.trim_end_matches('/');
    let parsed = base.parse::<http::Uri>().ok().filter(|uri| {
        // A port that is no number is not seen as a port, but as a longer authority.
        let host =
            uri.authority().is_some_and(|authority| authority.as_str() == authority.host() || uri.port_u16().is_some());
        matches!(uri.scheme_str(), Some("http" | "https")) && host && uri.query().is_none()
    });
    match parsed {
        Some(_) => Ok(base.to_owned()),
        None => refused(format!(
            "could not use sink.elasticsearch.url {url:?}; write http://host:9200 or https://host:9200"
        )),
    }
}

fn credentials(spec: &ElasticsearchSpec) -> Result<Credentials, SinkError> {
    match (&spec.user, &spec.password_file, &spec.api_key_file) {
        (None, None, None) => Ok(Credentials::None),
        (Some(user), Some(file), None) => Ok(Credentials::Basic { user: user.clone(), password_file: file.clone() }),
        (None, None, Some(file)) => Ok(Credentials::ApiKey { file: file.clone() }),
        _ => refused("sink.elasticsearch takes either user and password_file, or api_key_file, or none of them"),
    }
}

fn authorization(credentials: &Credentials) -> Result<Option<HeaderValue>, SinkError> {
    let text = match credentials {
        Credentials::None => return Ok(None),
        Credentials::Basic { user, password_file } => {
            let password = secret(password_file)?;
            let pair = Zeroizing::new(format!("{user}:{}", password.as_str()));
            Zeroizing::new(format!("Basic {}", Zeroizing::new(STANDARD.encode(pair.as_bytes())).as_str()))
        }
        Credentials::ApiKey { file } => Zeroizing::new(format!("ApiKey {}", secret(file)?.as_str())),
    };
    let mut value = HeaderValue::from_str(&text).or_else(|_| {
        refused("could not use the secret of sink.elasticsearch: its file holds characters that a header cannot carry")
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn refused<T>(text: impl Into<String>) -> Result<T, SinkError> {
    Err(SinkError::Refused(text.into()))
}

#[cfg(test)]
mod tests {
    //! What these prove: what is refused at start, and that secrets stay where they are. The wire is tested through the whole sink.

    use std::fs;

    use super::*;

    fn spec(url: &str) -> ElasticsearchSpec {
        ElasticsearchSpec { url: url.into(), ..Default::default() }
    }

    fn error(spec: &ElasticsearchSpec) -> String {
        Client::new(spec, REQUEST_TIMEOUT).unwrap_err().to_string()
    }

    #[test]
    fn a_url_is_checked_before_anything_is_sent() {
        for url in ["", "localhost:9200", "ftp://x", "http://", "http://h/?a=b", "http://h:x"] {
            assert!(error(&spec(url)).contains("sink.elasticsearch.url"), "{url}");
        }
        for url in ["http://h", "http://h:9200/", "https://h.example/elastic"] {
            assert!(Client::new(&spec(url), REQUEST_TIMEOUT).is_ok(), "{url}");
        }
        let text = error(&spec("http://user:hunter2@h:9200"));
        assert!(text.contains("password_file") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn half_a_credential_is_refused() {
        let half = ElasticsearchSpec { user: Some("u".into()), ..spec("http://h") };
        assert!(error(&half).contains("either user and password_file"));
        let both = ElasticsearchSpec {
            api_key_file: Some("k".into()),
            user: Some("u".into()),
            password_file: Some("p".into()),
            ..spec("http://h")
        };
        assert!(error(&both).contains("either user and password_file"));
    }

    #[test]
    fn secrets_are_trimmed_encoded_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        fs::write(&file, "open sesame\n").unwrap();
        let credentials = Credentials::Basic { user: "Aladdin".into(), password_file: file };
        let header = authorization(&credentials).unwrap().unwrap();
        // RFC 7617 §2's example.
        assert_eq!(header.as_bytes(), b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert!(!format!("{header:?}").contains("QWxh"));
    }

    #[test]
    fn a_file_without_certificate_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        fs::write(&file, "nothing").unwrap();
        let with = ElasticsearchSpec { ca_file: Some(file), ..spec("https://h") };
        assert!(error(&with).contains("no certificate"));
        let gone = ElasticsearchSpec { ca_file: Some(folder.path().join("gone")), ..spec("https://h") };
        assert!(error(&gone).contains("could not read"));
    }
}
