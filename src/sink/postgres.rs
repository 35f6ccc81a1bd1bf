//! PostgreSQL: the history of scheduled audits, one row of `fairness_reports` (`schemas/postgresql`) a period.
//!
//! Rows are not the stages': they are made from committed files when a period has ended ([`report`](crate::report)), so that this is no
//! [`Deliver`](super::Deliver). Nothing waits for the database; what it has not is made again.
//!
//! Invariants:
//!
//! 1. A row is one statement under an id that the flow's name and the period give: written again, it takes the place of what was there, unless that is
//!    of a later epoch. So a repetition leaves nothing twice, and an older run that still lives takes nothing back.
//! 2. No error holds the password; it comes from a file, which is read for each connection.
//!
//! Limits: [`CONNECT_MAX`], [`STATEMENT_MAX`]. One connection, made anew after any error.

use std::fs;
use std::time::Duration;

use ::postgres::config::SslMode;
use ::postgres::error::SqlState;
use ::postgres::{Client, Config, Error};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::PostgresSpec;
use crate::sink::json::instant_text;
use crate::sink::remote::secret_of;
use crate::sink::{SinkError, id_of};
use crate::vocabulary::findings::Span;

/// The sink's name in metrics and logs.
pub const SINK: &str = "postgres";

/// The table, in the user's search path.
pub const TABLE: &str = "fairness_reports";
/// What makes it.
const SCHEMA: &str = include_str!("../../schemas/postgresql/fairness_reports.sql");
/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long a statement may, on the server.
const STATEMENT_MAX: &str = "-c statement_timeout=30000";
const UPSERT: &str = "INSERT INTO fairness_reports (id, ref_start, ref_end, cur_start, cur_end, report_path, summary) \
    VALUES ($1, $2::text::timestamptz, $3::text::timestamptz, $4::text::timestamptz, $5::text::timestamptz, $6, $7::text::jsonb) \
    ON CONFLICT (id) DO UPDATE SET ref_start = excluded.ref_start, ref_end = excluded.ref_end, \
    report_path = excluded.report_path, summary = excluded.summary \
    WHERE (fairness_reports.summary->>'epoch')::bigint <= (excluded.summary->>'epoch')::bigint";

/// A scheduled audit, as the table has it.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The flow's name.
    pub flow: String,
    /// What the period was compared with.
    pub reference: Option<Span>,
    /// The period.
    pub period: Span,
    /// The page.
    pub report_path: Option<String>,
    /// What it says; `epoch` is the highest that it was made from.
    pub summary: serde_json::Value,
}

/// A database that was not reached, or did not take a row.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It may work later without anybody's help.
    #[error("{0}")]
    Passing(String),
    /// Somebody has to put something right.
    #[error("{0}")]
    Refused(String),
}

/// The history, connected when it is needed.
pub struct History {
    spec: PostgresSpec,
    client: Option<Client>,
}

impl History {
    /// Does not connect.
    pub fn new(spec: &PostgresSpec) -> History {
        History { spec: spec.clone(), client: None }
    }

    /// Connects, if it is not connected.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn connect(&mut self) -> Result<(), Fault> {
        let client = self.client.take().map_or_else(|| open(&self.spec, CONNECT_MAX), Ok)?;
        self.client = Some(client);
        Ok(())
    }

    /// Writes a row, or writes it anew.
    ///
    /// # Errors
    /// What became of it is not known then: write it again.
    pub fn write(&mut self, kept: &Kept) -> Result<(), Fault> {
        // Taken out: whatever goes wrong from here on ends it.
        let mut client = self.client.take().map_or_else(|| open(&self.spec, CONNECT_MAX), Ok)?;
        let bounds = |span: Span| (instant_text(span.0), instant_text(span.1));
        let (start, end) = bounds(kept.period);
        let reference = kept.reference.map(bounds);
        let (from, to) = (reference.as_ref().map(|(from, _)| from), reference.as_ref().map(|(_, to)| to));
        let (id, summary) = (id(kept), kept.summary.to_string());
        client
            .execute(UPSERT, &[&id, &from, &to, &start, &end, &kept.report_path, &summary])
            .map_err(|error| fault(&self.spec, "write to", &error))?;
        self.client = Some(client);
        Ok(())
    }
}

/// Connects once and looks for the table, which is made if it is missing.
///
/// # Errors
/// What cannot work about the settings, or why nobody answers.
pub fn connect(spec: &PostgresSpec, wait_max: Duration) -> Result<(), SinkError> {
    open(spec, wait_max).map(drop).map_err(|fault| SinkError::Refused(fault.to_string()))
}

/// Checks a URL.
///
/// # Errors
/// What is wrong with it.
pub fn check_url(url: &str) -> Result<(), SinkError> {
    let refused = |why: &str| Err(SinkError::Refused(format!("sink.postgres.url {why}")));
    if !url.starts_with("postgresql://") && !url.starts_with("postgres://") {
        return refused("must be postgresql://user@host:5432/database");
    }
    match url.parse::<Config>() {
        // The URL is not quoted: it holds a password.
        Ok(config) if config.get_password().is_some() => {
            refused("must not hold a password; give sink.postgres.password_file")
        }
        Ok(config) if config.get_user().is_none() || config.get_dbname().is_none() || config.get_hosts().is_empty() => {
            refused("must name user, host and database: postgresql://user@host:5432/database")
        }
        Ok(_) => Ok(()),
        Err(error) => refused(&format!("cannot be read ({error}); write postgresql://user@host:5432/database")),
    }
}

fn open(spec: &PostgresSpec, wait_max: Duration) -> Result<Client, Fault> {
    let refused = |error: SinkError| Fault::Refused(error.to_string());
    check_url(&spec.url).map_err(refused)?;
    let mut config: Config = spec.url.parse().expect("it was checked in the line before");
    config.connect_timeout(wait_max).application_name("windkessel").options(STATEMENT_MAX);
    if let Some(file) = &spec.password_file {
        config.password(secret_of("sink.postgres.password_file", file).map_err(refused)?.as_bytes());
    }
    if spec.ca_file.is_some() {
        config.ssl_mode(SslMode::Require);
    }
    let mut client = config.connect(tls(spec)?).map_err(|error| fault(spec, "reach", &error))?;
    let there = client.query_one("SELECT to_regclass($1::text) IS NOT NULL", &[&TABLE]);
    if !there.map_err(|error| fault(spec, "read", &error))?.get::<_, bool>(0) {
        client.batch_execute(SCHEMA).map_err(|error| fault(spec, "make the table fairness_reports in", &error))?;
    }
    Ok(client)
}

/// Trusts whom `ca_file` names, else whom browsers do.
fn tls(spec: &PostgresSpec) -> Result<MakeRustlsConnect, Fault> {
    let mut roots = RootCertStore::empty();
    match &spec.ca_file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => {
            let pem = fs::read(file)
                .map_err(|error| Fault::Refused(format!("sink.postgres.ca_file: could not read {file:?}: {error}")))?;
            let found: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
            if roots.add_parsable_certificates(found).0 == 0 {
                return Err(Fault::Refused(format!(
                    "found no certificate in sink.postgres.ca_file {file:?}; it must be PEM"
                )));
            }
        }
    }
    let provider = rustls::crypto::ring::default_provider();
    let config = ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .expect("ring knows the protocols that are asked for")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// Says what was attempted and why it failed, with what helps.
fn fault(spec: &PostgresSpec, action: &str, error: &Error) -> Fault {
    // The library's own text says only which of its steps failed.
    let cause = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    let said = error.as_db_error().map_or(cause, |said| format!("{} ({})", said.message(), said.code().code()));
    let hint = match error.code() {
        Some(&SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => {
            "check the user in sink.postgres.url and sink.postgres.password_file"
        }
        Some(&SqlState::INVALID_CATALOG_NAME) => "the database in sink.postgres.url must be there",
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            "the user needs SELECT, INSERT and UPDATE on fairness_reports; somebody who may create tables can make it by schemas/postgresql/fairness_reports.sql"
        }
        Some(
            &SqlState::UNDEFINED_COLUMN
            | &SqlState::DATATYPE_MISMATCH
            | &SqlState::INVALID_COLUMN_REFERENCE
            | &SqlState::UNDEFINED_TABLE,
        ) => "fairness_reports must be as schemas/postgresql/fairness_reports.sql makes it",
        _ if said.contains("certificate") => {
            "sink.postgres.ca_file must hold the authority that signed the server's certificate"
        }
        _ if said.contains("password missing") => "the server wants a password: give sink.postgres.password_file",
        _ if said.contains("server does not support TLS") => {
            "the server speaks no TLS, and sink.postgres.ca_file or sslmode=require asks for it"
        }
        _ => return Fault::Passing(format!("could not {action} sink.postgres.url {:?}: {said}", spec.url)),
    };
    Fault::Refused(format!("could not {action} sink.postgres.url {:?}: {said}; {hint}", spec.url))
}

/// Of the flow's name and the period.
fn id(kept: &Kept) -> String {
    id_of(&format!("{}\n{}\n{}", kept.flow, kept.period.0.micros(), kept.period.1.micros()))
}

#[cfg(test)]
mod tests {
    //! What these prove: what is refused before anything is sent. The rest is proved against a real server in `tests/services/audits.rs`.
    use super::*;

    #[test]
    fn a_url_is_checked_before_anything_is_sent() {
        for url in [
            "",
            "h/d",
            "mysql://u@h/d",
            "postgresql://h/d",
            "postgresql://u@h",
            "postgresql://u@h:x/d",
            "postgresql://u@h/d?sslmode=no",
        ] {
            let text = check_url(url).unwrap_err().to_string();
            assert!(text.starts_with("sink.postgres.url ") && text.contains("postgresql://user@host"), "{url}: {text}");
        }
        let text = check_url("postgresql://u:hunter2@h/d").unwrap_err().to_string();
        assert!(text.contains("password_file") && !text.contains("hunter2"), "{text}");
        check_url("postgresql://u@h:5432/d?sslmode=require").unwrap();
    }

    #[test]
    fn nobody_at_the_other_end_may_pass_and_a_missing_file_does_not() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let spec = PostgresSpec { url: format!("postgresql://u@{nobody}/d"), ..PostgresSpec::default() };
        let fault = open(&spec, CONNECT_MAX).map(drop).unwrap_err();
        assert!(matches!(&fault, Fault::Passing(why) if why.contains("refused") && why.contains(&spec.url)), "{fault}");
        for spec in [
            PostgresSpec { password_file: Some("/nowhere/password".into()), ..spec.clone() },
            PostgresSpec { ca_file: Some("/nowhere/ca.pem".into()), ..spec.clone() },
        ] {
            let fault = open(&spec, CONNECT_MAX).map(drop).unwrap_err();
            assert!(matches!(&fault, Fault::Refused(why) if why.contains("/nowhere/")), "{fault}");
        }
    }
}
