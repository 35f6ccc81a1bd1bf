//! How a librdkafka client is configured: what the flow file passes through, what belongs to the engine, and how mistakes are told.
//!
//! Invariants: no error and no log line holds a setting's value, because any of them may be a secret; librdkafka's own error texts about settings
//! quote values, so they are never passed on.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use crate::source::SourceError;

/// Settings that have a key of their own in the flow file or that the engine's promises rest on, and what to write instead.
const RESERVED: [(&str, &str); 9] = [
    ("bootstrap.servers", "write source.brokers"),
    ("metadata.broker.list", "write source.brokers"),
    ("group.id", "write source.group"),
    ("auto.offset.reset", "write source.start; an offset that has vanished always stops the run"),
    ("enable.auto.commit", "offsets are committed when every sink is done with them"),
    ("enable.auto.offset.store", "offsets are committed when every sink is done with them"),
    ("enable.partition.eof", "idle and ended partitions are recognised by it"),
    ("queued.max.messages.kbytes", "write source.queue_kib"),
    ("log.queue", "librdkafka's log is part of the engine's"),
];

/// Settings whose value must come from a file: they are secrets, and a flow file is not.
const SECRETS: [&str; 5] =
    ["sasl.password", "ssl.key.password", "ssl.key.pem", "ssl.keystore.password", "sasl.oauthbearer.client.secret"];

/// A client's context that keeps librdkafka's log out of standard error: it is read from the client's queue instead.
pub(crate) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, _: &str, text: &str) {
        tracing::debug!(target: "source", "{text}");
    }

    fn error(&self, _: KafkaError, text: &str) {
        tracing::debug!(target: "source", "{text}");
    }
}

impl ConsumerContext for Quiet {}

/// A client's configuration from a flow file's keys: `brokers`, `client`, `client_files` (each file's content, without white space around it).
/// Consumers and producers alike; what only one of them needs is set by the caller afterwards.
///
/// # Errors
/// [`SourceError::Configuration`]: no brokers, a reserved setting, a secret in the open, a file that cannot be read, TLS without the feature `tls`.
pub fn configuration(
    brokers: &str,
    client: &BTreeMap<String, String>,
    client_files: &BTreeMap<String, PathBuf>,
) -> Result<ClientConfig, SourceError> {
    let refuse = |text: String| Err(SourceError::Configuration(text));
    if brokers.trim().is_empty() {
        return refuse("no Kafka brokers are named; write brokers = \"host:9092\"".into());
    }
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", brokers).set("client.id", "windkessel");
    for key in client.keys().chain(client_files.keys()) {
        if let Some((_, instead)) = RESERVED.iter().find(|(reserved, _)| reserved == key) {
            return refuse(format!("client setting {key:?} belongs to the engine: {instead}"));
        }
    }
    for (key, value) in client {
        if SECRETS.contains(&key.as_str()) {
            return refuse(format!(
                "client setting {key:?} is a secret; put it into a file and name the file in client_files"
            ));
        }
        settings.set(key, value);
    }
    for (key, path) in client_files {
        let value = fs::read_to_string(path).map_err(|why| {
            SourceError::Configuration(format!("could not read client_files.{key:?} from {path:?}: {why}"))
        })?;
        settings.set(key, value.trim());
    }
    match tls_needed(&settings) {
        Some(by) if !cfg!(feature = "tls") => refuse(format!(
            "client setting {by:?} needs TLS, but this binary was built without it; build with `cargo build --release --features tls`"
        )),
        _ => Ok(settings),
    }
}

/// The first setting that librdkafka can only follow with OpenSSL: TLS itself, and SCRAM, whose HMAC comes from there.
fn tls_needed(settings: &ClientConfig) -> Option<&'static str> {
    let holds =
        |key: &str, part: &str| settings.get(key).is_some_and(|value| value.to_ascii_uppercase().contains(part));
    if holds("security.protocol", "SSL") {
        return Some("security.protocol");
    }
    ["sasl.mechanism", "sasl.mechanisms"].into_iter().find(|key| holds(key, "SCRAM"))
}

/// What went wrong when a client was made, without the values that librdkafka would quote.
pub fn creation_error(why: &KafkaError) -> SourceError {
    SourceError::Configuration(match why {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _, key, _) => {
            format!("client setting {key:?} is not known to librdkafka; its CONFIGURATION.md lists all")
        }
        KafkaError::ClientConfig(_, _, key, _) => {
            format!("librdkafka refuses the value of client setting {key:?}; its CONFIGURATION.md has the range")
        }
        KafkaError::ClientCreation(_) => {
            "librdkafka refuses the combination of client settings (brokers, client, client_files); \
             check certificates, keys and the SASL mechanism"
                .into()
        }
        other => format!("could not make a Kafka client: {other}"),
    })
}

#[cfg(test)]
mod tests {
    //! Proves that secrets stay out of errors, that the engine's settings cannot be overridden, and that TLS is asked for in words.
    use super::*;

    fn error(client: &[(&str, &str)]) -> String {
        let client = client.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        configuration("localhost:9092", &client, &BTreeMap::new()).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn the_engines_own_settings_are_refused_with_what_to_write_instead() {
        assert_eq!(
            error(&[("auto.offset.reset", "earliest")]),
            "client setting \"auto.offset.reset\" belongs to the engine: write source.start; an offset that has vanished always stops the run"
        );
    }

    #[test]
    fn a_password_in_the_flow_file_is_refused_and_not_repeated() {
        let text = error(&[("sasl.password", "canary")]);
        assert!(text.contains("client_files") && !text.contains("canary"), "{text}");
    }

    #[test]
    fn a_refused_value_is_not_repeated() {
        let mut settings = configuration("localhost:9092", &BTreeMap::new(), &BTreeMap::new()).unwrap();
        settings.set("fetch.min.bytes", "canary");
        let why = settings.create_native_config().err().unwrap();
        let text = creation_error(&why).to_string();
        assert!(text.contains("fetch.min.bytes") && !text.contains("canary"), "{text}");
        let mut settings = configuration("localhost:9092", &BTreeMap::new(), &BTreeMap::new()).unwrap();
        settings.set("no.such.thing", "canary");
        let text = creation_error(&settings.create_native_config().err().unwrap()).to_string();
        assert!(text.contains("not known") && !text.contains("canary"), "{text}");
    }

    #[test]
    fn the_value_of_a_file_is_trimmed_and_a_missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("name");
        fs::write(&path, " somebody\n").unwrap();
        let files = BTreeMap::from([("sasl.username".to_owned(), path)]);
        let settings = configuration("localhost:9092", &BTreeMap::new(), &files).unwrap();
        assert_eq!(settings.get("sasl.username"), Some("somebody"));
        let files = BTreeMap::from([("sasl.password".to_owned(), folder.path().join("absent"))]);
        assert!(configuration("x:1", &BTreeMap::new(), &files).unwrap_err().to_string().contains("absent"));
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn tls_without_the_feature_is_explained() {
        assert!(error(&[("security.protocol", "sasl_ssl")]).contains("--features tls"));
        assert!(error(&[("sasl.mechanism", "SCRAM-SHA-512")]).contains("sasl.mechanism"));
    }
}
