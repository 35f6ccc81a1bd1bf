//! The flow file: [`Spec`] is what was written, [`Flow`] is what will run.
//!
//! `Spec` is deserialised from TOML (unknown keys are refused), then validated once into a `Flow` whose parts cannot be wrong;
//! each stage is handed its own part, by value, and nothing else. `dataflows/blood_pressure.toml` shows every key with its default;
//! a test holds the two together. The JSON Schema for editors is generated from `Spec` into `schemas/flow.schema.json`.
//!
//! Order of precedence: the file, then `--set section.key=value` in the order given. No environment variables, no `${…}`:
//! a secret is only ever the *name of a file* (`*_file`) or of an environment variable (`*_env`), never a value here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::EventSpan;

/// A flow file as written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Spec {
    /// The flow's name: letters, digits, `_` and `-`. Part of metric labels and file names.
    pub name: String,
    /// Where records come from.
    pub source: SourceSpec,
    /// How bytes become observations.
    pub decode: DecodeSpec,
    /// How identity is removed.
    pub pseudonymise: PseudonymiseSpec,
    /// Windows, features and baselines of each patient.
    pub patient: PatientSpec,
    /// Rules and alarms.
    pub score: ScoreSpec,
    /// The statistical model.
    pub model: ModelSpec,
    /// Drift statistics.
    pub audit: AuditSpec,
    /// Where rows go. Sections that are absent are not written.
    pub sink: SinkSpec,
    /// Slices of ingestion.
    pub epoch: EpochSpec,
    /// How much may be under way.
    pub inflight: InflightSpec,
    /// How long contributions can be taken back.
    pub correction: CorrectionSpec,
    /// Where the engine keeps its own files.
    pub state: StateSpec,
    /// Several processes: when one is given up.
    pub cluster: ClusterSpec,
    /// Metrics, health and the live page.
    pub http: HttpSpec,
}

/// `[source]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SourceSpec {
    /// `kafka`, `files` or `generator`.
    pub kind: SourceKind,
    /// Kafka: bootstrap servers, `host:port[,host:port]`.
    pub brokers: String,
    /// Kafka: topics to read.
    pub topics: Vec<String>,
    /// Kafka: group under which finished offsets are published for outside tools.
    pub group: String,
    /// Kafka: where to begin without state of one's own.
    pub start: Start,
    /// Kafka: any further librdkafka setting, passed through. Secrets do not belong here.
    pub client: BTreeMap<String, String>,
    /// Kafka: librdkafka settings whose value is read from a file, e.g. `"sasl.password" = "/run/secrets/kafka"`.
    pub client_files: BTreeMap<String, PathBuf>,
    /// Kafka: the client's queue of fetched messages, KiB per worker.
    pub queue_kib: u32,
    /// Kafka: how long a partition must be empty until it no longer holds windows open.
    #[schemars(with = "String")]
    pub idle: EventSpan,
    /// Kafka: seconds between two looks for partitions that were added and topics that were made anew; 0 for none.
    pub discovery_seconds: u64,
    /// Files: files or folders (read recursively; `.json`, `.ndjson`, `.jsonl`, each also `.gz` or `.zst`); `-` is standard input.
    pub paths: Vec<PathBuf>,
    /// Largest record in bytes; a larger one is rejected (`record_too_large`) without being parsed.
    pub record_bytes_max: usize,
    /// Generator: seed.
    pub seed: u64,
    /// Generator: number of patients.
    pub patients: u32,
    /// Generator: number of observations; 0 means without end.
    pub observations: u64,
    /// Generator: observations a second over all workers; 0 means as fast as they are taken.
    pub rate_per_second: u64,
    /// What is read besides, by the same client or as further files: filled in from `audit.outcomes` when a flow is checked.
    #[serde(skip)]
    pub outcomes: Option<OutcomeInputs>,
}

/// What kind of source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// Topics of a Kafka cluster.
    #[default]
    Kafka,
    /// Files and standard input.
    Files,
    /// Synthetic patients.
    Generator,
}

/// Where a Kafka source begins when nothing else says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// At the group's committed offset, else at the beginning.
    #[default]
    Committed,
    /// At the beginning.
    Earliest,
    /// At the end.
    Latest,
}

impl Default for SourceSpec {
    fn default() -> Self {
        SourceSpec {
            kind: SourceKind::Kafka,
            brokers: "localhost:9092".into(),
            topics: vec!["bp-obs".into()],
            group: "windkessel".into(),
            start: Start::Committed,
            client: BTreeMap::new(),
            client_files: BTreeMap::new(),
            queue_kib: 16_384,
            idle: EventSpan::from_seconds(60),
            discovery_seconds: 30,
            paths: Vec::new(),
            record_bytes_max: 8 << 20,
            seed: 1,
            patients: 1_000,
            observations: 100_000,
            rate_per_second: 0,
            outcomes: None,
        }
    }
}

/// `[decode]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DecodeSpec {
    /// What is around the resource: `auto` knows a bare resource, a Bundle and `{"patient": …, "observation": …}`;
    /// a JSON pointer such as `/payload/after` names where the resource is (an object, or a string holding one).
    pub unwrap: String,
    /// The signals to take, by name, in the order of the output columns. Observations with none of them are ignored.
    pub signals: Vec<String>,
    /// Another table of signals than the shipped one.
    pub signals_file: Option<PathBuf>,
    /// Take Condition resources too: readings then count, in performance and fairness, under how many comorbidities their patient has
    /// (`comorbidities=2-3`). What counts as one is in `schemas/comorbidities.toml`.
    pub conditions: bool,
    /// Another table of comorbidities than the shipped one. What was read under an earlier table is not looked at again.
    pub comorbidities_file: Option<PathBuf>,
    /// A value without any unit (CLINICAL row 15).
    pub unit_missing: MissingUnit,
    /// A generic systolic/diastolic pair under a panel with only SNOMED 75367002 (row 5).
    pub panel_generic: Choice,
    /// Observations of status registered or unknown that carry values (row 24).
    pub status_uncertain: Choice,
    /// No effective time: take `issued` (row 34), or reject.
    pub effective_missing: MissingTime,
    /// Year or year-month as effective time (row 31).
    pub effective_partial: Choice,
    /// A subject known only by logical identifier (row 37).
    pub subject_identifier: Choice,
    /// Repeated keys in one JSON object (row 45): reject the resource, or take the last as most parsers do.
    pub duplicate_keys: Choice,
    /// Position- or method-specific codes such as standing systolic 8460-8 (row 10).
    pub position_specific: Choice,
    /// How far a device's clock may run ahead of the broker's before its reading is rejected (`clock_ahead`).
    #[schemars(with = "String")]
    pub clock_ahead: EventSpan,
}

/// A setting with two branches, both counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// Take it, and count the leniency.
    Accept,
    /// Reject it under the rule's name.
    Reject,
}

/// What to do with a value that has no unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MissingUnit {
    /// Reject it (`unit_missing`).
    Reject,
    /// Take the signal's canonical unit, counted as a leniency.
    AssumeCanonical,
}

/// What to do without an effective time. Never "now": a replay must read the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MissingTime {
    /// Reject it (`effective_missing`).
    Reject,
    /// Take `issued`, else reject.
    Issued,
    /// Take `issued`, else the broker's timestamp, else reject.
    IssuedOrReceived,
}

impl Default for DecodeSpec {
    fn default() -> Self {
        DecodeSpec {
            unwrap: "auto".into(),
            signals: vec!["systolic".into(), "diastolic".into(), "mean_arterial".into()],
            signals_file: None,
            conditions: false,
            comorbidities_file: None,
            unit_missing: MissingUnit::Reject,
            panel_generic: Choice::Reject,
            status_uncertain: Choice::Reject,
            effective_missing: MissingTime::Issued,
            effective_partial: Choice::Reject,
            subject_identifier: Choice::Reject,
            duplicate_keys: Choice::Reject,
            position_specific: Choice::Accept,
            clock_ahead: EventSpan::from_seconds(300),
        }
    }
}

/// `[pseudonymise]`: one of the two must be given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PseudonymiseSpec {
    /// A file holding the key as 64 hexadecimal characters; readable by its owner only.
    pub key_file: Option<PathBuf>,
    /// The name of an environment variable holding the same.
    pub key_env: Option<String>,
}

/// `[patient]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PatientSpec {
    /// Length of a window.
    #[schemars(with = "String")]
    pub window: EventSpan,
    /// Distance between the starts of two windows; equal to `window` they tumble, smaller they overlap. Must divide `window`.
    #[schemars(with = "String")]
    pub hop: EventSpan,
    /// How far a partition's readings may be out of order: its watermark is the greatest event time seen, less this.
    #[schemars(with = "String")]
    pub disorder: EventSpan,
    /// How far behind the watermark a reading still reopens its windows.
    #[schemars(with = "String")]
    pub lateness: EventSpan,
    /// Systolic pressure at or above which `above_seconds` counts, mmHg.
    pub high_mmhg: f64,
    /// Systolic pressure below which `below_seconds` counts, mmHg.
    pub low_mmhg: f64,
    /// The patient's own recent readings that baseline and recent features look at.
    pub baseline_readings: u32,
    /// From how many of them on the baseline is the patient's own; below, it is blended with the population's.
    pub baseline_readings_min: u32,
    /// The population's systolic median for a cold start, mmHg.
    pub population_systolic_mmhg: f64,
    /// The population's diastolic median, mmHg.
    pub population_diastolic_mmhg: f64,
    /// Distinct patients one worker may hold; beyond, the run stops with a clear message rather than swap.
    pub patients_max: u64,
}

impl Default for PatientSpec {
    fn default() -> Self {
        PatientSpec {
            window: EventSpan::from_seconds(3_600),
            hop: EventSpan::from_seconds(3_600),
            disorder: EventSpan::from_seconds(600),
            lateness: EventSpan::from_seconds(86_400),
            high_mmhg: 140.0,
            low_mmhg: 90.0,
            baseline_readings: 12,
            baseline_readings_min: 6,
            population_systolic_mmhg: 122.0,
            population_diastolic_mmhg: 72.0,
            patients_max: 20_000_000,
        }
    }
}

/// `[score]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScoreSpec {
    /// The guideline or rule set, by name (`windkessel explain --rules` lists them).
    pub rules: String,
    /// An alarm needs this many firing readings …
    pub alarm_k: u32,
    /// … among the patient's last this many.
    pub alarm_n: u32,
    /// The firing must have lasted this long.
    #[schemars(with = "String")]
    pub alarm_hold: EventSpan,
    /// After an alarm the same rule is silent for this long.
    #[schemars(with = "String")]
    pub alarm_refractory: EventSpan,
}

impl Default for ScoreSpec {
    fn default() -> Self {
        ScoreSpec {
            rules: "acc_aha_2017".into(),
            alarm_k: 2,
            alarm_n: 2,
            alarm_hold: EventSpan::ZERO,
            alarm_refractory: EventSpan::from_seconds(1_800),
        }
    }
}

/// `[model]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSpec {
    /// A model file as `train` writes it. Absent, or naming no file: rules alone, `probability` is null, and a log line and a metric say so.
    pub file: Option<PathBuf>,
}

/// `[audit]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuditSpec {
    /// Keep statistics of drift, performance and fairness.
    pub enabled: bool,
    /// Length of the current window.
    #[schemars(with = "String")]
    pub window: EventSpan,
    /// From one window to the next; must divide `window`. Absent: windows do not overlap.
    #[schemars(with = "Option<String>")]
    pub hop: Option<EventSpan>,
    /// The reference: this many windows (that do not overlap) right before the current one.
    pub reference_windows: u32,
    /// The reference instead: a profile as `windkessel profile` writes it; `reference_windows` is then not used.
    pub reference_profile: Option<PathBuf>,
    /// Fewer readings than this on either side: the verdict is `insufficient`.
    pub readings_min: u64,
    /// Which statistic makes the verdict, and its thresholds.
    pub preset: DriftPreset,
    /// `industry`: from this PSI on the verdict is `watch`.
    pub psi_watch: f64,
    /// `industry`: from this PSI on the verdict is `act`.
    pub psi_act: f64,
    /// Count patients as well as readings, and keep performance and fairness: 32 bytes a reading within horizon and reference.
    pub patients: bool,
    /// Which readings count as selected, for fairness and performance.
    pub selected: Selected,
    /// A verdict `act` for so many windows in a row begins an alert, as many `none` end it; 0 for never.
    pub alert_windows: u32,
    /// What came of patients: against it scores are measured.
    pub outcomes: OutcomesSpec,
    /// Audits that are kept.
    pub schedule: ScheduleSpec,
}

/// `[audit.schedule]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleSpec {
    /// When the watermark passes the end of a period of so long, one audit of it is kept: a multiple of `audit.window`. Absent: none.
    #[schemars(with = "Option<String>")]
    pub every: Option<EventSpan>,
    /// A folder for the pages (as `windkessel report` makes them), one a period; empty for none.
    pub reports: PathBuf,
}

/// `[audit.outcomes]`: nothing is read if neither topics nor paths are given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OutcomesSpec {
    /// Kafka: topics of outcomes at `source.brokers`, none of them one of `source.topics`.
    pub topics: Vec<String>,
    /// Files: files or folders of outcomes, with names as in `source.paths`; what is named there as well is read as outcomes alone.
    pub paths: Vec<PathBuf>,
    /// Which outcome is taken, by the name it has in the records; others are ignored.
    pub outcome: String,
    /// A reading is labelled by the outcomes of this length of time after it. At most `correction.horizon`.
    #[schemars(with = "String")]
    pub horizon: EventSpan,
}

/// Where outcomes are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutcomeInputs {
    /// Kafka topics.
    Topics(Vec<String>),
    /// Files and folders.
    Paths(Vec<PathBuf>),
}

impl OutcomesSpec {
    /// Where outcomes are read, if anywhere. A flow has one or the other.
    pub fn inputs(&self) -> Option<OutcomeInputs> {
        match (self.topics.is_empty(), self.paths.is_empty()) {
            (true, true) => None,
            (false, _) => Some(OutcomeInputs::Topics(self.topics.clone())),
            (true, false) => Some(OutcomeInputs::Paths(self.paths.clone())),
        }
    }
}

impl Default for OutcomesSpec {
    fn default() -> Self {
        OutcomesSpec {
            topics: Vec::new(),
            paths: Vec::new(),
            outcome: String::new(),
            // Royal College of Physicians, NEWS2 (2017): the score is validated against what happens within 24 hours.
            horizon: EventSpan::from_seconds(86_400),
        }
    }
}

impl Default for AuditSpec {
    fn default() -> Self {
        AuditSpec {
            enabled: true,
            window: EventSpan::from_seconds(3_600),
            hop: None,
            reference_windows: 24,
            reference_profile: None,
            readings_min: 500,
            preset: DriftPreset::Industry,
            psi_watch: 0.1,
            psi_act: 0.25,
            patients: true,
            selected: Selected::Alarm,
            alert_windows: 3,
            outcomes: OutcomesSpec::default(),
            schedule: ScheduleSpec::default(),
        }
    }
}

/// Which readings the scoring has picked out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Selected {
    /// Those that raised an alarm.
    #[default]
    Alarm,
    /// Those for which a rule fired.
    Reason,
    /// Those of risk level `HIGH`.
    HighRisk,
}

/// Named thresholds of drift; `src/audit/judge.rs` has their numbers and sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DriftPreset {
    /// PSI at `psi_watch` and `psi_act`.
    #[default]
    Industry,
    /// As Evidently: Kolmogorov–Smirnov's p-value for a small reference, else the normed Wasserstein distance.
    Evidently,
    /// As NannyML: a Jensen–Shannon distance beyond what is usual within the reference.
    Nannyml,
    /// As whylogs: the Hellinger distance.
    Whylogs,
}

/// `[sink]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SinkSpec {
    /// Parquet datasets below one folder.
    pub parquet: Option<ParquetSpec>,
    /// NDJSON files below one folder.
    pub ndjson: Option<NdjsonSpec>,
    /// Elasticsearch documents.
    pub elasticsearch: Option<ElasticsearchSpec>,
    /// Kafka topics: assessed readings, dead letters, alerts.
    pub kafka: Option<KafkaSinkSpec>,
    /// Alerts, to whoever is to be told of them.
    pub webhook: Option<WebhookSpec>,
    /// Rows of scheduled audits.
    pub postgres: Option<PostgresSpec>,
}

/// `[sink.parquet]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ParquetSpec {
    /// The folder.
    pub path: PathBuf,
    /// A row group is closed at about this many bytes.
    pub row_group_bytes: usize,
    /// A file is finished at a checkpoint in any case, before it at about this many bytes …
    pub file_bytes: usize,
    /// … or after this long. It gets its name at the checkpoint.
    #[schemars(with = "String")]
    pub file_age: EventSpan,
    /// zstd's level.
    pub zstd_level: i32,
}

impl Default for ParquetSpec {
    fn default() -> Self {
        ParquetSpec {
            path: "windkessel-data".into(),
            row_group_bytes: 32 << 20,
            file_bytes: 128 << 20,
            file_age: EventSpan::from_seconds(60),
            zstd_level: 1,
        }
    }
}

/// `[sink.ndjson]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NdjsonSpec {
    /// The folder.
    pub path: PathBuf,
    /// Which tables: `readings`, `windows`, `rejected`, `shifts`, `quality`, `performance`, `fairness`, `alerts`.
    pub tables: Vec<TableName>,
    /// Which readings.
    pub readings: ReadingFilter,
    /// Renames and selects columns of `readings`: output name = column; empty means all under their own names.
    pub fields: BTreeMap<String, String>,
}

impl Default for NdjsonSpec {
    fn default() -> Self {
        NdjsonSpec {
            path: "windkessel-data".into(),
            tables: TableName::ALL.to_vec(),
            readings: ReadingFilter::All,
            fields: BTreeMap::new(),
        }
    }
}

/// The tables that leave the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TableName {
    /// One row per contributed (or late) observation.
    Readings,
    /// One row per window and revision.
    Windows,
    /// One row per rejected input.
    Rejected,
    /// One row per window, feature and group: drift.
    Shifts,
    /// One row per window, topic and flaw of the input.
    Quality,
    /// One row per window and group: how good the scores were.
    Performance,
    /// One row per window and group: how it fares beside others.
    Fairness,
    /// One row whenever an alert about a verdict of the others begins or ends.
    Alerts,
}

impl TableName {
    /// All of them, in the order in which they are shown.
    pub const ALL: [TableName; 8] = [
        TableName::Readings,
        TableName::Windows,
        TableName::Rejected,
        TableName::Shifts,
        TableName::Quality,
        TableName::Performance,
        TableName::Fairness,
        TableName::Alerts,
    ];

    /// Those that the audit makes, and that its reports are made from.
    pub const OF_AUDIT: [TableName; 5] =
        [TableName::Shifts, TableName::Quality, TableName::Performance, TableName::Fairness, TableName::Alerts];

    /// The folder of its dataset, and its metric label.
    pub fn name(self) -> &'static str {
        match self {
            TableName::Readings => "readings",
            TableName::Windows => "windows",
            TableName::Rejected => "rejected",
            TableName::Shifts => "shifts",
            TableName::Quality => "quality",
            TableName::Performance => "performance",
            TableName::Fairness => "fairness",
            TableName::Alerts => "alerts",
        }
    }
}

/// Which readings a sink takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReadingFilter {
    /// Every row.
    #[default]
    All,
    /// Rows with at least one reason.
    Anomalies,
    /// Rows with none.
    Normal,
}

/// `[sink.elasticsearch]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ElasticsearchSpec {
    /// `http://host:9200` or `https://…`.
    pub url: String,
    /// Name of the index, or its stem when `index_by` is `month`.
    pub index: String,
    /// One index, or one per month of event time (`bp-readings-2026.01`).
    pub index_by: IndexBy,
    /// Which readings become documents.
    pub readings: ReadingFilter,
    /// Renames and selects columns: document field = column (or `labels`, the rule set's anomaly labels). Empty means all.
    pub fields: BTreeMap<String, String>,
    /// Stem of the indices for what the audit finds (`<stem>-shifts`, `-performance`, `-fairness`, `-alerts`), for example `bp-audit`; empty for none.
    pub audit: String,
    /// Install the index template from `schemas/elasticsearch/` at start.
    pub install_template: bool,
    /// How long a month's documents are kept at least; then `windkessel setup` has the index deleted. Needs `index_by = "month"`.
    #[schemars(with = "String")]
    pub keep: EventSpan,
    /// User name for basic authentication.
    pub user: Option<String>,
    /// A file holding its password.
    pub password_file: Option<PathBuf>,
    /// A file holding an API key (base64 of `id:key`).
    pub api_key_file: Option<PathBuf>,
    /// A PEM file with the certificate authority to trust.
    pub ca_file: Option<PathBuf>,
    /// A bulk request is sent at about this many bytes …
    pub bulk_bytes: usize,
    /// … or this many documents.
    pub bulk_documents: usize,
}

/// How index names are formed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IndexBy {
    /// One index.
    None,
    /// By the month of the event time: a replayed document finds the same index again.
    #[default]
    Month,
}

impl Default for ElasticsearchSpec {
    fn default() -> Self {
        ElasticsearchSpec {
            url: "http://localhost:9200".into(),
            index: "bp-readings".into(),
            index_by: IndexBy::Month,
            readings: ReadingFilter::All,
            fields: BTreeMap::new(),
            audit: String::new(),
            install_template: true,
            keep: EventSpan::UNBOUNDED,
            user: None,
            password_file: None,
            api_key_file: None,
            ca_file: None,
            bulk_bytes: 5 << 20,
            bulk_documents: 2_000,
        }
    }
}

/// `[sink.kafka]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaSinkSpec {
    /// Bootstrap servers.
    pub brokers: String,
    /// Topic for assessed readings as JSON, keyed by pseudonym; empty for none.
    pub topic: String,
    /// Which readings go there.
    pub readings: ReadingFilter,
    /// Dead-letter topic for rejections; `auto` is `error.<source topic>.<group>`, empty for none.
    pub dead_letter_topic: String,
    /// Topic for the audit's alerts as JSON, keyed by table, feature, group and window; empty for none.
    pub alerts_topic: String,
    /// Topic in which each transaction notes how far it goes, so that a restart publishes no row twice; made, compacted, if it is missing. Flows may share it.
    pub progress_topic: String,
    /// Any further librdkafka setting, passed through.
    pub client: BTreeMap<String, String>,
    /// librdkafka settings whose value is read from a file.
    pub client_files: BTreeMap<String, PathBuf>,
}

impl Default for KafkaSinkSpec {
    fn default() -> Self {
        KafkaSinkSpec {
            brokers: "localhost:9092".into(),
            topic: "bp-assessed".into(),
            readings: ReadingFilter::Anomalies,
            dead_letter_topic: "auto".into(),
            alerts_topic: String::new(),
            progress_topic: "windkessel-progress".into(),
            client: BTreeMap::new(),
            client_files: BTreeMap::new(),
        }
    }
}

/// `[sink.webhook]`: nothing is sent if neither `url` nor `url_file` is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookSpec {
    /// `http://…` or `https://…`: each of the audit's alerts is POSTed there as JSON (`schemas/webhook`); empty for none.
    pub url: String,
    /// A file holding the URL, where it is a secret itself, as those of chats are.
    pub url_file: Option<PathBuf>,
    /// A file holding a token, which is sent as `Authorization: Bearer …`.
    pub token_file: Option<PathBuf>,
    /// A PEM file with the certificate authority to trust.
    pub ca_file: Option<PathBuf>,
    /// So many alerts of each worker may wait for a receiver that does not answer; beyond, the oldest is given up.
    pub waiting_max: usize,
}

impl WebhookSpec {
    /// Whether anybody is to be told.
    pub fn is_on(&self) -> bool {
        !self.url.is_empty() || self.url_file.is_some()
    }
}

impl Default for WebhookSpec {
    fn default() -> Self {
        WebhookSpec { url: String::new(), url_file: None, token_file: None, ca_file: None, waiting_max: 1_000 }
    }
}

/// `[sink.postgres]`: nothing is written without `url`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PostgresSpec {
    /// `postgresql://user@host:5432/database`: scheduled audits are kept in the table `fairness_reports` there; empty for none.
    pub url: String,
    /// A file holding the password.
    pub password_file: Option<PathBuf>,
    /// A PEM file with the certificate authority to trust; given, the connection must be encrypted.
    pub ca_file: Option<PathBuf>,
}

impl PostgresSpec {
    /// Whether anything is written.
    pub fn is_on(&self) -> bool {
        !self.url.is_empty()
    }
}

/// `[epoch]`: whichever comes first closes an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EpochSpec {
    /// Milliseconds.
    pub ms: u64,
    /// Bytes read by one worker.
    pub bytes: usize,
}

impl Default for EpochSpec {
    fn default() -> Self {
        // An epoch costs some two milliseconds of CPU whatever is in it: while a backlog is read, fewer and larger ones are cheaper.
        EpochSpec { ms: 250, bytes: 16 << 20 }
    }
}

/// `[inflight]`: a source waits while either is exceeded (at least one epoch is always let through).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InflightSpec {
    /// Epochs read and not yet settled in every sink.
    pub epochs: u64,
    /// Bytes read by one worker and not yet settled.
    pub bytes: usize,
}

impl Default for InflightSpec {
    fn default() -> Self {
        InflightSpec { epochs: 16, bytes: 64 << 20 }
    }
}

/// `[correction]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CorrectionSpec {
    /// How long, in event time, a contribution can be superseded, withdrawn or recognised as a duplicate. At least `patient.lateness` + `patient.window`.
    #[schemars(with = "String")]
    pub horizon: EventSpan,
}

impl Default for CorrectionSpec {
    fn default() -> Self {
        CorrectionSpec { horizon: EventSpan::from_seconds(30 * 86_400) }
    }
}

/// `[state]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StateSpec {
    /// A place of the engine's own, one for each flow: a folder, or `s3://bucket/prefix`.
    pub path: String,
    /// Seconds between two checkpoints.
    pub checkpoint_seconds: u64,
    /// Checkpoints that are kept; older ones are removed.
    pub keep: usize,
    /// Every so many checkpoints all of the state is saved, in between what changed.
    pub base_every: u32,
    /// S3: `http://host:port` or `https://…` of a store that is not Amazon's.
    pub endpoint: Option<String>,
    /// S3: the bucket's region; else `AWS_REGION`, else `us-east-1`.
    pub region: Option<String>,
    /// S3: a file holding the access key's id; without it the usual `AWS_*` variables or the machine's role.
    pub access_key_file: Option<PathBuf>,
    /// S3: a file holding the secret access key.
    pub secret_key_file: Option<PathBuf>,
    /// S3 over https: a PEM file with authorities that may have signed its certificate, besides those that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// A file holding the key that saved state is encrypted with, as 64 hexadecimal characters; readable by its owner only.
    pub encryption_key_file: Option<PathBuf>,
}

impl Default for StateSpec {
    fn default() -> Self {
        StateSpec {
            path: "windkessel-state".into(),
            checkpoint_seconds: 10,
            keep: 3,
            base_every: 16,
            endpoint: None,
            region: None,
            access_key_file: None,
            secret_key_file: None,
            ca_file: None,
            encryption_key_file: None,
        }
    }
}

impl StateSpec {
    /// Where notes go that stay on this machine (documents that Elasticsearch refused): the folder, or the default one if state is in a bucket.
    pub fn folder(&self) -> PathBuf {
        let path = if self.path.contains("://") { StateSpec::default().path } else { self.path.clone() };
        path.into()
    }
}

/// `[cluster]`, of runs with `--hosts`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterSpec {
    /// Seconds: a process that the others do not hear of, or whose workers do not step, for this long ends them all.
    pub silence_seconds: u64,
    /// Seconds: while epochs are under way, none is settled and no sink waits for this long, all processes end.
    pub stall_seconds: u64,
}

impl Default for ClusterSpec {
    fn default() -> Self {
        ClusterSpec { silence_seconds: 20, stall_seconds: 30 }
    }
}

/// `[http]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpSpec {
    /// Address and port of `/metrics`, `/health`, `/ready`, `/version` and the live page; empty for none.
    pub listen: String,
}

impl Default for HttpSpec {
    fn default() -> Self {
        HttpSpec { listen: "127.0.0.1:9187".into() }
    }
}
