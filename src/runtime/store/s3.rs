//! A store in a bucket of S3, or of what speaks like it.
//!
//! [`Store::create`] is a conditional put (`If-None-Match: *`): S3 since 2024, MinIO, Ceph and R2 take it. A store that does not know the condition
//! would overwrite; [`S3::open`] cannot tell, but the epoch log finds out at every start, before anything depends on it.
//!
//! Credentials come from the files that `[state]` names; without them from the usual `AWS_*` variables, a web identity or the machine's role.
//! The client is asynchronous: a runtime of one thread, the caller's, drives it. Messages hold status and error code of an answer, never its
//! text: it may repeat what was signed.

use std::path::Path;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::{
    Certificate, ClientOptions, Error, ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions, RetryConfig,
    path::Path as Key,
};
use tokio::runtime::Runtime;
use tokio_stream::StreamExt as _;
use zeroize::Zeroizing;

use super::{Store, StoreError, check_name};
use crate::config::StateSpec;

/// How long a connection may take to come about.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long a request may take, its body included.
const REQUEST_MAX: Duration = Duration::from_secs(60);
/// A request is repeated within this long in here; longer patience is the caller's.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// And so many times.
const RETRIES_MAX: usize = 3;
/// Where a bucket is if nothing says so; stores other than Amazon's do not care.
const REGION: &str = "us-east-1";

/// Objects below a prefix of a bucket.
pub(super) struct S3 {
    bucket: AmazonS3,
    prefix: String,
    place: String,
    runtime: Runtime,
}

impl S3 {
    /// Prepares the client; nothing is sent yet.
    pub(super) fn open(spec: &StateSpec, bucket: &str, prefix: &str) -> Result<Self, StoreError> {
        let refused = |why| StoreError::refused("open", "the store", &spec.path, why, "see [state] of the flow");
        // The one provider of cryptography for TLS. If somebody was faster it is the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| refused(format!("no runtime: {error}")))?;
        let bucket = builder(spec, bucket).map_err(refused)?;
        let bucket = bucket.build().map_err(|error| refused(explain(&error).1))?;
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(S3 { bucket, prefix, place: spec.path.clone(), runtime })
    }

    fn key(&self, action: &'static str, name: &str) -> Result<Key, StoreError> {
        check_name(name).map_err(|why| StoreError::refused(action, name, &self.place, why, "choose another name"))?;
        Ok(Key::from(format!("{}{name}", self.prefix)))
    }

    fn failed(&self, action: &'static str, object: &str, error: &Error) -> StoreError {
        let (passing, why) = explain(error);
        match passing {
            true => StoreError::unavailable(action, object, &self.place, why, "is state.endpoint reachable?"),
            false => StoreError::refused(action, object, &self.place, why, "check bucket, region and credentials"),
        }
    }
}

fn builder(spec: &StateSpec, bucket: &str) -> Result<AmazonS3Builder, String> {
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
    if let Some(endpoint) = &spec.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
    let mut client = ClientOptions::new()
        .with_connect_timeout(CONNECT_MAX)
        .with_timeout(REQUEST_MAX)
        // Only for who has written http:// himself.
        .with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")));
    for authority in spec.ca_file.as_deref().map(authorities).transpose()?.into_iter().flatten() {
        client = client.with_root_certificate(authority);
    }
    let retry = RetryConfig { max_retries: RETRIES_MAX, retry_timeout: RETRY_MAX, ..RetryConfig::default() };
    builder = builder.with_client_options(client).with_retry(retry).with_conditional_put(S3ConditionalPut::ETagMatch);
    let in_environment = std::env::var_os("AWS_REGION").or_else(|| std::env::var_os("AWS_DEFAULT_REGION")).is_some();
    match &spec.region {
        Some(region) => builder = builder.with_region(region),
        None if !in_environment => builder = builder.with_region(REGION),
        None => {}
    }
    if let (Some(access), Some(secret)) = (&spec.access_key_file, &spec.secret_key_file) {
        builder = builder
            .with_access_key_id(secret_of("access_key_file", access)?.as_str())
            .with_secret_access_key(secret_of("secret_key_file", secret)?.as_str());
    }
    Ok(builder)
}

fn authorities(path: &Path) -> Result<Vec<Certificate>, String> {
    let pem = std::fs::read(path).map_err(|error| format!("could not read state.ca_file {path:?}: {error}"))?;
    let found = Certificate::from_pem_bundle(&pem).unwrap_or_default();
    if found.is_empty() {
        return Err(format!("found no certificate in state.ca_file {path:?}; it must be PEM"));
    }
    Ok(found)
}

fn secret_of(setting: &str, path: &Path) -> Result<Zeroizing<String>, String> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    let text = text.map_err(|error| format!("could not read state.{setting} {path:?}: {error}"))?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

impl Store for S3 {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        let key = self.key("create", name)?;
        let options = PutOptions::from(PutMode::Create);
        let put = self.bucket.put_opts(&key, bytes.to_vec().into(), options);
        match self.runtime.block_on(put) {
            Ok(_) => Ok(true),
            Err(error) if is_taken(&error) => Ok(false),
            Err(error) => Err(self.failed("create", name, &error)),
        }
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let key = self.key("read", name)?;
        let read = async { self.bucket.get(&key).await?.bytes().await };
        match self.runtime.block_on(read) {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", name, &error)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        // The client lists whole parts of names only.
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let below = Key::from(format!("{}{folder}", self.prefix));
        let listed = async {
            let (mut names, mut objects) = (Vec::new(), self.bucket.list(Some(&below)));
            while let Some(object) = objects.next().await {
                names.extend(object?.location.as_ref().strip_prefix(&self.prefix).map(str::to_owned));
            }
            Ok(names)
        };
        let listed: Result<Vec<String>, Error> = self.runtime.block_on(listed);
        let mut names = listed.map_err(|error| self.failed("list", prefix, &error))?;
        names.retain(|name| name.starts_with(prefix));
        names.sort_unstable();
        Ok(names)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        let key = self.key("delete", name)?;
        match self.runtime.block_on(self.bucket.delete(&key)) {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("delete", name, &error)),
        }
    }
}

/// True if the condition of a put did not hold. The client says "exists" of a 409 as well, which S3 answers while something else
/// happens to the name: that one is to be tried again.
fn is_taken(error: &Error) -> bool {
    let Error::AlreadyExists { source, .. } = error else { return false };
    matches!(source.downcast_ref::<Error>(), Some(Error::Precondition { .. } | Error::NotModified { .. }))
}

/// Whether it may pass by itself, and why, without anything of an answer's text but its status and code.
fn explain(error: &Error) -> (bool, String) {
    let text = error.to_string();
    match error {
        Error::NotFound { .. } => return (false, "there is no such bucket".into()),
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            return (false, format!("access is denied{}", code(&text)));
        }
        Error::AlreadyExists { .. } => return (true, format!("something else happens to the name{}", code(&text))),
        Error::Precondition { .. } | Error::NotModified { .. } => {
            return (false, format!("an unexpected answer{}", code(&text)));
        }
        _ => {}
    }
    if let Some((_, answer)) = text.split_once("status code: ") {
        let status: String = answer.chars().take_while(char::is_ascii_digit).collect();
        let passing = status.starts_with('5') || status == "429" || status == "408";
        return (passing, format!("status {status}{}", code(&text)));
    }
    if text.contains("Server returned error response") {
        return (true, format!("an error instead of an answer{}", code(&text)));
    }
    // No answer at all. The innermost cause says most, and is the operating system's or the TLS library's.
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    (true, cause.to_string())
}

/// The code of an S3 error (`SlowDown`), in brackets, if the text holds one.
fn code(text: &str) -> String {
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
    let plain = code.filter(|code| code.len() <= 64 && code.chars().all(|c| c.is_ascii_alphanumeric()));
    plain.map(|code| format!(" ({code})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    //! That an answer is told apart as it must be, and its text kept out of messages.

    use super::*;

    fn generic(text: &str) -> Error {
        Error::Generic { store: "S3", source: text.to_owned().into() }
    }

    #[test]
    fn messages_hold_status_and_code_and_nothing_else_of_an_answer() {
        let body = "<Error><Code>SlowDown</Code><StringToSign>secret</StringToSign></Error>";
        let answer = |status: &str| generic(&format!("Server returned non-2xx status code: {status}: {body}"));
        assert_eq!(explain(&answer("503 Service Unavailable")), (true, "status 503 (SlowDown)".into()));
        assert_eq!(explain(&answer("429 Too Many Requests")), (true, "status 429 (SlowDown)".into()));
        assert_eq!(explain(&answer("400 Bad Request")), (false, "status 400 (SlowDown)".into()));
        let path = || "log/1".to_owned();
        let denied = Error::PermissionDenied { path: path(), source: body.into() };
        assert_eq!(explain(&denied), (false, "access is denied (SlowDown)".into()));
        assert_eq!(code("<Code>a b</Code>"), "");
        assert_eq!(code(&format!("<Code>{}</Code>", "a".repeat(65))), "");
    }

    #[test]
    fn only_a_condition_that_does_not_hold_means_that_a_name_is_taken() {
        let path = || "log/1".to_owned();
        let failed = Error::Precondition { path: path(), source: "412".into() };
        assert!(is_taken(&Error::AlreadyExists { path: path(), source: Box::new(failed) }));
        // A 409: something else happens to the name at the same time.
        let conflict = Error::AlreadyExists { path: path(), source: "409".into() };
        assert!(!is_taken(&conflict));
        assert!(explain(&conflict).0);
        assert!(!is_taken(&Error::NotFound { path: path(), source: "404".into() }));
    }
}
