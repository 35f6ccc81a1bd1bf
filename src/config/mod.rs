//! The flow file: [`Spec`] is what was written, [`Flow`] is what will run.
//!
//! A `Spec` is deserialised from TOML, unknown keys being refused, and validated once into a `Flow`; each stage is handed its own
//! part and nothing else. Order of precedence: the file, then `--set section.key=value` in the order given. No environment
//! variables and no `${…}`: a secret is only ever the *name* of a file (`*_file`) or of an environment variable (`*_env`).
//!
//! `dataflows/blood_pressure.toml` shows every key with its default; a test holds the two together. The JSON Schema for editors,
//! `schemas/flow.schema.json`, is generated from `Spec`; another test regenerates and compares it.

use std::path::Path;
use std::sync::Arc;

use toml::{Table, Value};

use crate::audit::profile::reference::Reference;
use crate::decode::Settings;
use crate::runtime::store::Place;
use crate::sink::elasticsearch::document::check_index;
use crate::time::EventSpan;

mod spec;

pub use spec::*;

/// Windows that one reading may lie in (`patient.window` / `patient.hop`).
pub const WINDOWS_PER_READING_MAX: i64 = 64;

/// Readings that baseline and alarms may look back on.
pub const HISTORY_READINGS_MAX: u32 = 64;

/// How many times `audit.hop` the audit's reference may be long: so many sums a window's comparison looks at.
pub const AUDIT_HOPS_MAX: i64 = 10_000;

/// A checked flow.
#[derive(Clone, Debug)]
pub struct Flow {
    /// What was written, defaults filled in.
    pub spec: Spec,
    /// `[decode]`, checked: the table of signals in force, and the signals of this flow.
    pub decode: Settings,
    /// The profile that `audit.reference_profile` names.
    pub reference: Option<Arc<Reference>>,
}

/// A flow that cannot run: one sentence with the place and a hint.
#[derive(Debug, thiserror::Error)]
#[error("could not read flow {flow:?}: {why}")]
pub struct FlowError {
    flow: String,
    why: String,
}

impl Flow {
    /// Reads a flow file and applies overrides of the form `section.key=value`.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Flow, FlowError> {
        Self::read_with(path, overrides, |_| {})
    }

    /// As [`Flow::read`], to make the profile of: the one that it names need not be there yet.
    pub fn read_for_profile(path: &Path, overrides: &[String]) -> Result<Flow, FlowError> {
        Self::read_with(path, overrides, |spec| spec.audit.reference_profile = None)
    }

    fn read_with(path: &Path, overrides: &[String], change: impl FnOnce(&mut Spec)) -> Result<Flow, FlowError> {
        let fail = |why: String| FlowError { flow: path.display().to_string(), why };
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        let mut spec = parse(&text, overrides).map_err(fail)?;
        change(&mut spec);
        Self::check(spec).map_err(fail)
    }

    /// As [`Flow::read`], of a text.
    pub fn parse(text: &str, overrides: &[String]) -> Result<Flow, String> {
        Self::check(parse(text, overrides)?)
    }

    /// Checks a spec and resolves what it names.
    pub fn check(mut spec: Spec) -> Result<Flow, String> {
        check_names(&spec)?;
        check_source(&spec.source)?;
        check_patient(&spec)?;
        check_audit(&spec.audit)?;
        check_outcomes(&spec)?;
        check_score(&spec.score)?;
        check_limits(&spec)?;
        check_sinks(&spec.sink)?;
        check_alerts(&spec)?;
        check_schedule(&spec)?;
        check_state(&spec.state)?;
        at_least("cluster.silence_seconds", spec.cluster.silence_seconds as usize, 1)?;
        at_least("cluster.stall_seconds", spec.cluster.stall_seconds as usize, 1)?;
        let files = spec.source.kind == SourceKind::Files;
        let decode = Settings::new(&spec.decode, spec.patient.disorder, spec.patient.lateness, files)?;
        let mut decode = decode.with_outcomes(&spec.audit.outcomes);
        if spec.audit.enabled {
            decode = decode.with_flaws(spec.audit.hop.unwrap_or(spec.audit.window));
        }
        spec.source.outcomes = spec.audit.outcomes.inputs();
        let reference = load_reference(&spec.audit)?;
        Ok(Flow { spec, decode, reference })
    }
}

/// Parses the text, then applies the overrides one after the other.
fn parse(text: &str, overrides: &[String]) -> Result<Spec, String> {
    let spec: Spec = toml::from_str(text).map_err(|error| error.to_string())?;
    if overrides.is_empty() {
        return Ok(spec);
    }
    let mut table: Table = toml::from_str(text).map_err(|error| error.to_string())?;
    for text in overrides {
        apply(&mut table, text)?;
    }
    // What was set has no place in the file to show; the key comes on a second line, which makes no sentence.
    let one_line = |error: toml::de::Error| error.to_string().trim_end().replace('\n', " ");
    table.try_into().map_err(|error| format!("after --set: {}", one_line(error)))
}

/// Applies one `section.key=value`.
fn apply(table: &mut Table, text: &str) -> Result<(), String> {
    let hint = "write --set section.key=value, with a TOML value such as 'source.paths=[\"a.ndjson\"]'";
    let (key, value) = text.split_once('=').ok_or_else(|| format!("--set {text:?} has no \"=\"; {hint}"))?;
    let (sections, last) = key.trim().rsplit_once('.').unwrap_or(("", key.trim()));
    let mut place = table;
    for section in sections.split('.').filter(|section| !section.is_empty()) {
        let entry = place.entry(section).or_insert_with(|| Value::Table(Table::new()));
        place = entry.as_table_mut().ok_or_else(|| format!("--set {text:?}: {section} is not a section; {hint}"))?;
    }
    place.insert(last.to_owned(), toml_value(value.trim()));
    Ok(())
}

/// A TOML value, or, since a shell eats quotes, the bare text as a string.
fn toml_value(text: &str) -> Value {
    let parsed: Result<Table, _> = toml::from_str(&format!("value = {text}"));
    parsed.ok().and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.to_owned()))
}

fn check_names(spec: &Spec) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if spec.name.is_empty() || !spec.name.chars().all(plain) {
        return Err(format!("name must be letters, digits, _ and -, got {:?}", spec.name));
    }
    match (&spec.pseudonymise.key_file, &spec.pseudonymise.key_env) {
        (Some(_), None) | (None, Some(_)) => Ok(()),
        (None, None) => {
            Err("pseudonymise needs key_file (64 hexadecimal characters) or key_env (the name of a variable)".into())
        }
        (Some(_), Some(_)) => Err("pseudonymise has both key_file and key_env; which one is meant?".into()),
    }
}

fn check_source(source: &SourceSpec) -> Result<(), String> {
    match source.kind {
        SourceKind::Kafka if source.brokers.trim().is_empty() => Err("source.brokers must name host:port".into()),
        SourceKind::Kafka if source.topics.is_empty() => Err("source.topics must name at least one topic".into()),
        SourceKind::Kafka if source.group.is_empty() => Err("source.group must not be empty".into()),
        SourceKind::Generator if source.patients == 0 => Err("source.patients must be at least 1".into()),
        _ => {
            at_least("source.record_bytes_max", source.record_bytes_max, 1 << 10)?;
            at_least("source.queue_kib", source.queue_kib as usize, 64)
        }
    }
}

fn check_patient(spec: &Spec) -> Result<(), String> {
    let patient = &spec.patient;
    positive("patient.window", patient.window)?;
    positive("patient.hop", patient.hop)?;
    let (window, hop) = (patient.window.micros(), patient.hop.micros());
    if hop > window || window % hop != 0 {
        return Err(format!("patient.hop must divide patient.window, got {} and {}", patient.hop, patient.window));
    }
    if window / hop > WINDOWS_PER_READING_MAX {
        return Err(format!(
            "patient.window may be at most {WINDOWS_PER_READING_MAX} times patient.hop, got {}",
            window / hop
        ));
    }
    let needed = patient.lateness + patient.window;
    if spec.correction.horizon < needed {
        return Err(format!(
            "correction.horizon must be at least patient.lateness + patient.window ({needed}), got {}",
            spec.correction.horizon
        ));
    }
    if !(1..=HISTORY_READINGS_MAX).contains(&patient.baseline_readings) {
        return Err(format!(
            "patient.baseline_readings must lie in 1..={HISTORY_READINGS_MAX}, got {}",
            patient.baseline_readings
        ));
    }
    if !(1..=patient.baseline_readings).contains(&patient.baseline_readings_min) {
        return Err(format!(
            "patient.baseline_readings_min must lie in 1..={}, got {}",
            patient.baseline_readings, patient.baseline_readings_min
        ));
    }
    Ok(())
}

fn check_audit(audit: &AuditSpec) -> Result<(), String> {
    positive("audit.window", audit.window)?;
    let hop = audit.hop.unwrap_or(audit.window);
    positive("audit.hop", hop)?;
    let (window, hop_micros) = (audit.window.micros(), hop.micros());
    if hop_micros > window || window % hop_micros != 0 {
        return Err(format!("audit.hop must divide audit.window, got {hop} and {}", audit.window));
    }
    let panes = window / hop_micros * i64::from(audit.reference_windows);
    if panes > AUDIT_HOPS_MAX {
        return Err(format!(
            "audit.reference_windows may be at most {AUDIT_HOPS_MAX} times audit.hop long, got {panes}"
        ));
    }
    at_least("audit.reference_windows", audit.reference_windows as usize, 1)
}

fn load_reference(audit: &AuditSpec) -> Result<Option<Arc<Reference>>, String> {
    let path = audit.reference_profile.as_deref().filter(|_| audit.enabled);
    path.map(|path| Reference::load(path, audit)).transpose()
}

fn check_outcomes(spec: &Spec) -> Result<(), String> {
    let (audit, outcomes) = (&spec.audit, &spec.audit.outcomes);
    positive("audit.outcomes.horizon", outcomes.horizon)?;
    let Some(inputs) = outcomes.inputs() else { return Ok(()) };
    if !audit.enabled || !audit.patients {
        return Err("audit.outcomes needs audit.enabled and audit.patients: labels are kept by patient".into());
    }
    if outcomes.outcome.is_empty() {
        return Err("audit.outcomes.outcome must name the outcome that is taken, as the records do".into());
    }
    if outcomes.horizon > spec.correction.horizon {
        return Err(format!(
            "audit.outcomes.horizon must be at most correction.horizon ({}), got {}: older readings are forgotten",
            spec.correction.horizon, outcomes.horizon
        ));
    }
    match (spec.source.kind, inputs) {
        (SourceKind::Kafka, OutcomeInputs::Topics(topics)) if outcomes.paths.is_empty() => {
            let both = topics.iter().find(|topic| topic.is_empty() || spec.source.topics.contains(topic));
            both.map_or(Ok(()), |topic| {
                Err(format!("audit.outcomes.topics must be topics of their own, none of source.topics, got {topic:?}"))
            })
        }
        (SourceKind::Files, OutcomeInputs::Paths(paths)) => match paths.iter().any(|path| path == Path::new("-")) {
            true => Err("audit.outcomes.paths cannot be -, standard input: write outcomes to a file".into()),
            false => Ok(()),
        },
        _ => Err("audit.outcomes has topics with source.kind \"kafka\", paths with \"files\", and neither else".into()),
    }
}

fn check_score(score: &ScoreSpec) -> Result<(), String> {
    crate::score::Scorer::new(score, None).map(drop)
}

fn check_limits(spec: &Spec) -> Result<(), String> {
    at_least("epoch.ms", spec.epoch.ms as usize, 1)?;
    at_least("epoch.bytes", spec.epoch.bytes, 1 << 10)?;
    at_least("inflight.epochs", spec.inflight.epochs as usize, 1)?;
    at_least("inflight.bytes", spec.inflight.bytes, 1 << 20)?;
    at_least("patient.patients_max", spec.patient.patients_max as usize, 1)
}

fn check_sinks(sink: &SinkSpec) -> Result<(), String> {
    if let Some(parquet) = &sink.parquet {
        path("sink.parquet.path", &parquet.path)?;
        at_least("sink.parquet.row_group_bytes", parquet.row_group_bytes, 64 << 10)?;
        at_least("sink.parquet.file_bytes", parquet.file_bytes, 64 << 10)?;
        positive("sink.parquet.file_age", parquet.file_age)?;
        if !(1..=22).contains(&parquet.zstd_level) {
            return Err(format!("sink.parquet.zstd_level must lie in 1..=22, got {}", parquet.zstd_level));
        }
    }
    if let Some(ndjson) = &sink.ndjson {
        path("sink.ndjson.path", &ndjson.path)?;
    }
    if let Some(elasticsearch) = &sink.elasticsearch {
        check_elasticsearch(elasticsearch)?;
    }
    sink.webhook.as_ref().map_or(Ok(()), check_webhook)?;
    sink.kafka.as_ref().map_or(Ok(()), check_kafka)
}

fn check_webhook(webhook: &WebhookSpec) -> Result<(), String> {
    if !webhook.url.is_empty() && webhook.url_file.is_some() {
        return Err("sink.webhook has both url and url_file; which one is meant?".into());
    }
    if !webhook.url.is_empty() {
        crate::sink::webhook::check_url("sink.webhook.url", &webhook.url).map_err(|error| error.to_string())?;
    }
    at_least("sink.webhook.waiting_max", webhook.waiting_max, 1)
}

fn check_kafka(kafka: &KafkaSinkSpec) -> Result<(), String> {
    let KafkaSinkSpec { topic, dead_letter_topic, alerts_topic, progress_topic, .. } = kafka;
    if [topic, dead_letter_topic, alerts_topic].iter().all(|topic| topic.is_empty()) {
        return Err("sink.kafka names neither topic nor dead_letter_topic nor alerts_topic".into());
    }
    if progress_topic.is_empty() {
        return Err("sink.kafka.progress_topic must not be empty".into());
    }
    if [topic, dead_letter_topic, alerts_topic].contains(&progress_topic) {
        return Err(format!("sink.kafka.progress_topic must be a topic of its own, got {progress_topic:?}"));
    }
    if !alerts_topic.is_empty() && [topic, dead_letter_topic].contains(&alerts_topic) {
        return Err(format!("sink.kafka.alerts_topic must be a topic of its own, got {alerts_topic:?}"));
    }
    Ok(())
}

/// Scheduled audits are made from the files of the audit's tables.
fn check_schedule(spec: &Spec) -> Result<(), String> {
    let (audit, sink) = (&spec.audit, &spec.sink);
    let postgres = sink.postgres.as_ref().filter(|postgres| postgres.is_on());
    if let Some(postgres) = postgres {
        crate::sink::postgres::check_url(&postgres.url).map_err(|error| error.to_string())?;
    }
    let reports = !audit.schedule.reports.as_os_str().is_empty();
    let Some(every) = audit.schedule.every else {
        return match (postgres, reports) {
            (None, false) => Ok(()),
            (Some(_), _) => {
                Err("sink.postgres keeps scheduled audits: it needs audit.schedule.every, for example \"1d\"".into())
            }
            (_, true) => Err("audit.schedule.reports needs audit.schedule.every, for example \"1d\"".into()),
        };
    };
    positive("audit.schedule.every", every)?;
    if every.micros() % audit.window.micros() != 0 {
        return Err(format!("audit.schedule.every must be a multiple of audit.window ({}), got {every}", audit.window));
    }
    if postgres.is_none() && !reports {
        return Err(
            "audit.schedule keeps nothing: it needs audit.schedule.reports (a folder) or sink.postgres.url".into()
        );
    }
    let needed = TableName::OF_AUDIT;
    let in_files = sink.parquet.is_some()
        || sink.ndjson.as_ref().is_some_and(|ndjson| needed.iter().all(|table| ndjson.tables.contains(table)));
    if !audit.enabled || !in_files {
        let tables = needed.map(TableName::name).join(", ");
        return Err(format!(
            "audit.schedule is made from files of the audit: it needs audit.enabled, and sink.parquet, or sink.ndjson with all \
             of its tables: {tables}"
        ));
    }
    Ok(())
}

/// What tells of alerts needs some to tell of.
fn check_alerts(spec: &Spec) -> Result<(), String> {
    let kafka = spec.sink.kafka.as_ref().filter(|kafka| !kafka.alerts_topic.is_empty());
    let webhook = spec.sink.webhook.as_ref().filter(|webhook| webhook.is_on());
    let silent = !spec.audit.enabled || spec.audit.alert_windows == 0;
    match kafka.map(|_| "sink.kafka.alerts_topic").or(webhook.map(|_| "sink.webhook")) {
        Some(key) if silent => Err(format!(
            "{key} needs audit.enabled = true and audit.alert_windows of at least 1: without them there are no alerts"
        )),
        _ => Ok(()),
    }
}

fn check_elasticsearch(spec: &ElasticsearchSpec) -> Result<(), String> {
    if !spec.url.starts_with("http://") && !spec.url.starts_with("https://") {
        return Err(format!("sink.elasticsearch.url must begin with http:// or https://, got {:?}", spec.url));
    }
    check_index("sink.elasticsearch.index", &spec.index).map_err(|error| error.to_string())?;
    if !spec.audit.is_empty() {
        check_index("sink.elasticsearch.audit", &spec.audit).map_err(|error| error.to_string())?;
    }
    if spec.audit.starts_with(&spec.index) {
        return Err(format!(
            "sink.elasticsearch.audit must not begin as index does, or who reads {:?} would read both; got {:?}",
            format!("{}*", spec.index),
            spec.audit
        ));
    }
    if spec.keep != EventSpan::UNBOUNDED && spec.index_by != IndexBy::Month {
        return Err(format!(
            "sink.elasticsearch.keep deletes whole indices, so that it needs index_by = \"month\"; got {} and \"none\"",
            spec.keep
        ));
    }
    if spec.keep == EventSpan::ZERO {
        return Err("sink.elasticsearch.keep must be positive, got \"0s\"; \"unbounded\" keeps for ever".into());
    }
    at_least("sink.elasticsearch.bulk_bytes", spec.bulk_bytes, 16 << 10)?;
    at_least("sink.elasticsearch.bulk_documents", spec.bulk_documents, 1)
}

fn check_state(state: &StateSpec) -> Result<(), String> {
    let place = Place::parse(&state.path).map_err(|why| format!("state.path is {:?}: {why}", state.path))?;
    at_least("state.checkpoint_seconds", state.checkpoint_seconds as usize, 1)?;
    at_least("state.keep", state.keep, 1)?;
    at_least("state.base_every", state.base_every as usize, 1)?;
    let s3 = [
        ("endpoint", state.endpoint.is_some()),
        ("region", state.region.is_some()),
        ("access_key_file", state.access_key_file.is_some()),
        ("secret_key_file", state.secret_key_file.is_some()),
    ];
    if let (Place::Folder(_), Some((key, _))) = (&place, s3.iter().find(|(_, given)| *given)) {
        return Err(format!("state.{key} is for s3://bucket/prefix, and state.path is {:?}", state.path));
    }
    if state.access_key_file.is_some() != state.secret_key_file.is_some() {
        return Err("state needs both access_key_file and secret_key_file, or neither".into());
    }
    let url = |endpoint: &String| {
        let host = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
        // A user name in it would be a secret in the flow, and in messages.
        host.is_some_and(|host| !host.is_empty() && !host.contains('@'))
    };
    match &state.endpoint {
        Some(endpoint) if !url(endpoint) => {
            Err("state.endpoint must be http://host:port or https://host:port, without user and password".into())
        }
        _ => Ok(()),
    }
}

fn positive(key: &str, span: EventSpan) -> Result<(), String> {
    if span > EventSpan::ZERO && span != EventSpan::UNBOUNDED {
        Ok(())
    } else {
        Err(format!("{key} must be positive and bounded, got {:?}", span.to_string()))
    }
}

fn at_least(key: &str, value: usize, least: usize) -> Result<(), String> {
    if value >= least { Ok(()) } else { Err(format!("{key} must be at least {least}, got {value}")) }
}

fn path(key: &str, path: &Path) -> Result<(), String> {
    if path.as_os_str().is_empty() { Err(format!("{key} must not be empty")) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
