//! The nouns of the project. One word for one thing; `docs/architecture.md` has the glossary.
//!
//! ```text
//! identified::Records ─decode─> identified::Observations ─pseudonymise─> Intake ─patient─> Scorable ─score─> Assessed ─audit─> Finding
//!                          └──> Rejection                                          └─────> WindowRow
//! ```
//!
//! Everything in this file, in [`findings`] and in [`flaws`] may leave the process. What may not is in [`identified`](crate::identified).

pub mod findings;
pub mod flaws;

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::signals::SignalId;
use crate::time::{EventTime, IngestTime};
use crate::vocabulary::flaws::Flawed;

// ---------------------------------------------------------------- where things come from

/// A topic, as its index in the flow's sorted list of topics: the same number on every worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicId(pub u32);

/// One partition of one topic. A file is a topic with the one partition 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Partition {
    /// The topic.
    pub topic: TopicId,
    /// Kafka's partition number.
    pub number: i32,
}

/// Where a resource was read. Orders everything that has no better order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Topic and partition.
    pub partition: Partition,
    /// Kafka's offset; in a file the ordinal of the resource, from 0.
    pub offset: i64,
    /// Ordinal within the record, for a Bundle in one Kafka message; else 0.
    pub entry: u32,
}

/// A keyed pseudonym: the first 16 bytes of HMAC-SHA-256(key, `"Patient/"` ‖ id) or of `"Observation/"` ‖ id. Prints as 32 lower-case hex digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pseudonym(pub [u8; 16]);

impl Pseudonym {
    /// Sixty-four of its bits: an HMAC's output is uniform, so they serve as a hash. The route between workers and the key group come from it.
    pub fn hash64(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Display for Pseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for Pseudonym {
    type Err = NoPseudonym;

    /// Reads what is printed: 32 hex digits.
    fn from_str(text: &str) -> Result<Self, NoPseudonym> {
        let mut bytes = [0; 16];
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NoPseudonym);
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            let digits = text.get(2 * at..2 * at + 2).ok_or(NoPseudonym)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| NoPseudonym)?;
        }
        Ok(Pseudonym(bytes))
    }
}

/// A text that is not what a [`Pseudonym`] prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pseudonym is 32 hexadecimal digits")]
pub struct NoPseudonym;

impl fmt::Debug for Pseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// ---------------------------------------------------------------- what was measured

/// One measured value of one signal, in the signal's canonical unit (`schemas/signals.toml`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Which quantity.
    pub signal: SignalId,
    /// Its value, in the canonical unit, unrounded.
    pub value: f64,
}

/// The values of one observation: at most one per signal, ascending by signal, at most [`Signals::MEASURED_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Signals(SmallVec<[Measured; 2]>);

impl Signals {
    /// An observation with more configured signals than this is rejected (`too_many_signals`).
    pub const MEASURED_MAX: usize = 16;

    /// The value of a signal, if it was measured.
    pub fn get(&self, signal: SignalId) -> Option<f64> {
        self.0.iter().find(|measured| measured.signal == signal).map(|measured| measured.value)
    }

    /// Adds a value; `false` (and no change) if that signal has one already or the limit is reached.
    pub fn insert(&mut self, signal: SignalId, value: f64) -> bool {
        match self.0.binary_search_by_key(&signal, |measured| measured.signal) {
            Err(at) if self.0.len() < Self::MEASURED_MAX => {
                self.0.insert(at, Measured { signal, value });
                true
            }
            _ => false,
        }
    }

    /// All values, ascending by signal.
    pub fn iter(&self) -> impl Iterator<Item = Measured> + '_ {
        self.0.iter().copied()
    }

    /// True if nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// FHIR R4 `Observation.status`, as far as it leaves `decode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "FHIR's own codes")]
pub enum Status {
    #[default]
    Final,
    Amended,
    Corrected,
    Preliminary,
    Registered,
    Unknown,
    /// Withdraws every earlier version.
    EnteredInError,
    /// Never happened; withdraws every earlier version, its own values are not looked at.
    Cancelled,
}

impl Status {
    /// FHIR's code.
    pub fn code(self) -> &'static str {
        match self {
            Status::Final => "final",
            Status::Amended => "amended",
            Status::Corrected => "corrected",
            Status::Preliminary => "preliminary",
            Status::Registered => "registered",
            Status::Unknown => "unknown",
            Status::EnteredInError => "entered-in-error",
            Status::Cancelled => "cancelled",
        }
    }

    /// True for the statuses that withdraw what an earlier version contributed.
    pub fn withdraws(self) -> bool {
        matches!(self, Status::EnteredInError | Status::Cancelled)
    }

    /// True for the statuses that say that there was an earlier version.
    pub fn corrects(self) -> bool {
        self.withdraws() || matches!(self, Status::Amended | Status::Corrected)
    }
}

/// Which version of a resource this is. `meta.versionId` when it is an integer, else `meta.lastUpdated`, else nothing.
///
/// Versions of one id are ordered by [`Version::supersedes`]; without any version the later position is the newer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Version {
    /// `meta.versionId`, an integer.
    Number(i64),
    /// `meta.lastUpdated`, in microseconds since the Unix epoch.
    Updated(i64),
    /// The resource does not say.
    #[default]
    Unversioned,
}

impl Version {
    /// How this version relates to `other` of the same id; `None` if they cannot be compared (then the position decides).
    pub fn compare(self, other: Version) -> Option<Ordering> {
        match (self, other) {
            (Version::Number(a), Version::Number(b)) | (Version::Updated(a), Version::Updated(b)) => Some(a.cmp(&b)),
            _ => None,
        }
    }

    /// What becomes of an input of this version when one of version `known` is here, and whether each of them withdraws; `same` says whether they say the
    /// same otherwise, which decides between two that cannot be compared.
    pub fn precedence(
        self,
        withdraws: bool,
        (known, known_withdraws): (Version, bool),
        same: impl FnOnce() -> bool,
    ) -> Precedence {
        match self.compare(known) {
            Some(Ordering::Greater) => Precedence::Newer,
            Some(Ordering::Less) => Precedence::Superseded,
            // Of two inputs with the same version the one that withdraws wins, whichever came first: a withdrawn value must not stand.
            Some(Ordering::Equal) => match (withdraws, known_withdraws) {
                (true, false) => Precedence::Newer,
                (false, true) => Precedence::Superseded,
                (true, true) | (false, false) => Precedence::Duplicate,
            },
            None if (withdraws && known_withdraws) || same() => Precedence::Duplicate,
            None => Precedence::Newer,
        }
    }

    /// What the `version` column shows: the number, or `lastUpdated` in microseconds; `None` if unversioned.
    pub fn number(self) -> Option<i64> {
        match self {
            Version::Number(number) | Version::Updated(number) => Some(number),
            Version::Unversioned => None,
        }
    }
}

/// Where an input stands against an earlier one of the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precedence {
    /// It takes the place of the earlier one.
    Newer,
    /// The earlier one stands.
    Superseded,
    /// It says what the earlier one said.
    Duplicate,
}

/// How exactly an event time is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Precision {
    /// To the second or better.
    #[default]
    Instant,
    /// To the day: `at` is its midnight UTC, and the reading enters no window shorter than a day.
    Day,
}

/// Where a record stands against the watermark of its own partition at that record: a pure function of the partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Timeliness {
    /// At or after the watermark.
    #[default]
    OnTime,
    /// Behind the watermark, within `patient.lateness`: it reopens its windows and is flagged late.
    Late,
    /// Further behind: it keeps its row, flagged late, and contributes to nothing else (outcome `late`).
    TooLate,
}

/// Leniencies that were needed to read an observation; each is counted under its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Leniencies(pub u32);

/// Everything about an observation that identifies nobody.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Facts {
    /// Where it was read.
    pub position: Position,
    /// The broker's timestamp; absent for files.
    pub received_at: Option<IngestTime>,
    /// When it was measured.
    pub at: EventTime,
    /// How exactly that is known.
    pub precision: Precision,
    /// Against the partition's own watermark.
    pub timeliness: Timeliness,
    /// The resource's version.
    pub version: Version,
    /// The resource's status.
    pub status: Status,
    /// What was measured; empty when `status` withdraws.
    pub signals: Signals,
    /// Of a withdrawal: it says what it withdraws, and that is of a kind that the flow takes.
    pub taken: bool,
    /// A correction of something older than `correction.horizon`: its row stands, but windows, baseline and drift keep what they held.
    pub not_recomputed: bool,
    /// An average or derived value (CLINICAL row 7): kept as a row, not fed into windows, baseline or alarms.
    pub summary: bool,
    /// What had to be overlooked.
    pub leniencies: Leniencies,
}

impl Facts {
    /// Whether data quality counts it as an input of its own: it withdraws nothing, and corrects nothing that is counted and forgotten.
    pub fn is_input(&self) -> bool {
        !self.status.withdraws() && !self.not_recomputed
    }
}

/// What features and audit may know of a patient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Demographics {
    /// Year of birth, never the day; `None` if unknown. Ages of 90 and over are one age: [`Demographics::AGE_YEARS_MAX`].
    pub birth_year: Option<i16>,
    /// FHIR administrative gender.
    pub sex: Sex,
    /// How many [`Comorbidities`] are active; `None` of a flow that takes no conditions.
    pub comorbidities: Option<u8>,
    /// The Patient resource's version.
    pub version: Version,
}

impl Demographics {
    /// Ages above are reported as this (45 CFR 164.514(b)(2)(i)(C): "90 or older" is one category).
    pub const AGE_YEARS_MAX: i16 = 90;

    /// The age in whole years in the year of `at`, capped; `None` if the birth year is unknown or after it.
    pub fn age_years(&self, at: EventTime) -> Option<i16> {
        let age = year_of(at)? - i64::from(self.birth_year?);
        (age >= 0).then(|| age.min(i64::from(Self::AGE_YEARS_MAX)) as i16)
    }

    /// True if whoever has either counts in the same groups at any time: all that groups depend on is the same. Versions say nothing of that.
    pub fn groups_alike(&self, other: &Demographics) -> bool {
        let Demographics { birth_year, sex, comorbidities, version: _ } = self;
        (birth_year, sex, comorbidities) == (&other.birth_year, &other.sex, &other.comorbidities)
    }
}

/// A set of comorbidities, by their place in the table in force ([`ComorbidityTable`](crate::comorbidities::ComorbidityTable)). It reaches `patient` and goes no
/// further: what others may know is how many they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Comorbidities(u32);

impl Comorbidities {
    /// None of them.
    pub const NONE: Comorbidities = Comorbidities(0);

    /// The one of this number, below [`COMORBIDITIES_MAX`](crate::comorbidities::COMORBIDITIES_MAX).
    pub fn one(number: u8) -> Self {
        Comorbidities(1 << number)
    }

    /// Those of either set.
    pub fn or(self, other: Comorbidities) -> Self {
        Comorbidities(self.0 | other.0)
    }

    /// Whether this number is among them.
    pub fn has(self, number: u8) -> bool {
        self.0 >> number & 1 == 1
    }

    /// True for none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many they are.
    pub fn count(self) -> u8 {
        self.0.count_ones() as u8
    }
}

/// The Gregorian year of an instant, UTC; `None` outside the years -9999 to 9999.
fn year_of(at: EventTime) -> Option<i64> {
    let instant = jiff::Timestamp::from_microsecond(at.micros()).ok()?;
    Some(i64::from(jiff::tz::Offset::UTC.to_datetime(instant).year()))
}

/// FHIR `Patient.gender`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "FHIR's own codes")]
pub enum Sex {
    Female,
    Male,
    Other,
    #[default]
    Unknown,
}

impl Sex {
    /// FHIR's code.
    pub fn code(self) -> &'static str {
        match self {
            Sex::Female => "female",
            Sex::Male => "male",
            Sex::Other => "other",
            Sex::Unknown => "unknown",
        }
    }
}

// ---------------------------------------------------------------- right of pseudonymise

/// A pseudonymised observation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reading {
    /// Whose.
    pub patient: Pseudonym,
    /// Which observation: pseudonym of its id, or of its position if it has none.
    pub observation: Pseudonym,
    /// Everything else.
    pub facts: Facts,
}

/// What came of a patient by some time: against it the scores of the readings before are measured (`audit.outcomes`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Label {
    /// Whose.
    pub patient: Pseudonym,
    /// Pseudonym of the label's own id: a later version corrects it.
    pub id: Pseudonym,
    /// Whether the outcome happened; `None` withdraws the label.
    pub happened: Option<bool>,
    /// Readings measured within `audit.outcomes.horizon` before this time have it, that time itself not included. [`EventTime::MIN`] of a
    /// withdrawal that does not say: it has the time of what it withdraws.
    pub at: EventTime,
    /// The label's version.
    pub version: Version,
}

/// What a Condition resource says of a patient, as far as anybody right of `pseudonymise` may know: not the code, but what it counts as.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    /// Pseudonym of the condition's id, or of its position if it has none: a later version replaces it.
    pub id: Pseudonym,
    /// What it counts as: nothing if it is over, not confirmed, withdrawn, or no comorbidity.
    pub comorbidities: Comorbidities,
    /// Said in error, refuted, or deleted: earlier versions are taken back.
    pub withdraws: bool,
    /// Its version.
    pub version: Version,
}

/// What `patient` takes in, exchanged by the key group of the patient.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Intake {
    /// A reading, or a version that withdraws one.
    Reading(Reading),
    /// Who the patient is.
    Demographics {
        /// Whose.
        patient: Pseudonym,
        /// Orders updates without version.
        position: Position,
        /// What is known.
        demographics: Demographics,
    },
    /// What came of the patient.
    Label {
        /// Orders labels without version.
        position: Position,
        /// What is known.
        label: Label,
    },
    /// What the patient suffers from.
    Condition {
        /// Whose.
        patient: Pseudonym,
        /// Orders conditions without version.
        position: Position,
        /// What is known.
        condition: Condition,
    },
}

impl Intake {
    /// Whose it is.
    pub fn patient(&self) -> &Pseudonym {
        match self {
            Intake::Reading(reading) => &reading.patient,
            Intake::Demographics { patient, .. } | Intake::Condition { patient, .. } => patient,
            Intake::Label { label, .. } => &label.patient,
        }
    }

    /// Where it was read: a keyed stage applies an epoch in this order.
    pub fn position(&self) -> Position {
        match self {
            Intake::Reading(reading) => reading.facts.position,
            Intake::Demographics { position, .. }
            | Intake::Label { position, .. }
            | Intake::Condition { position, .. } => *position,
        }
    }
}

/// How far the event time of one partition has come. Broadcast to every worker, epoch by epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// Which partition.
    pub partition: Partition,
    /// Its watermark: no on-time record of it will be earlier. [`EventTime::MIN`] when opened, [`EventTime::MAX`] when ended.
    pub watermark: EventTime,
    /// True while the partition holds no window open although it has not ended.
    pub idle: bool,
}

/// Where every input ends, exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// It became (or withdrew) a row of `readings`, or a label.
    Contributed,
    /// A newer version of the same observation had been seen.
    Superseded,
    /// The same version of the same observation had been seen.
    Duplicate,
    /// Too far behind its partition's watermark to contribute to windows and features; its row is kept, flagged.
    Late,
    /// Nothing for this flow: another resource type, no configured signal, no value.
    Ignored,
    /// It broke a rule; a row of `rejected` names it.
    Rejected,
}

impl Outcome {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Outcome; 6] = [
        Outcome::Contributed,
        Outcome::Superseded,
        Outcome::Duplicate,
        Outcome::Late,
        Outcome::Ignored,
        Outcome::Rejected,
    ];

    /// The metric label and the summary's word.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Contributed => "contributed",
            Outcome::Superseded => "superseded",
            Outcome::Duplicate => "duplicate",
            Outcome::Late => "late",
            Outcome::Ignored => "ignored",
            Outcome::Rejected => "rejected",
        }
    }
}

/// Outcomes counted by reason, gathered while a batch is worked on and added to the metrics once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(Vec<(Outcome, &'static str, u64)>);

impl Tally {
    /// Counts one.
    pub fn add(&mut self, outcome: Outcome, reason: &'static str) {
        self.add_many(outcome, reason, 1);
    }

    /// Counts several.
    pub fn add_many(&mut self, outcome: Outcome, reason: &'static str, count: u64) {
        // A handful of pairs per batch: a scan beats a hash.
        match self.0.iter_mut().find(|(o, r, _)| *o == outcome && *r == reason) {
            Some((_, _, total)) => *total += count,
            None => self.0.push((outcome, reason, count)),
        }
    }

    /// The total of one outcome.
    pub fn total(&self, outcome: Outcome) -> u64 {
        self.0.iter().filter(|(o, _, _)| *o == outcome).map(|(_, _, count)| count).sum()
    }

    /// Takes all counts out.
    pub fn drain(&mut self) -> impl Iterator<Item = (Outcome, &'static str, u64)> + '_ {
        self.0.drain(..)
    }
}

/// Why a record contributed nothing: a rule's name and a position, never a value.
///
/// Every text in it is `&'static str`, so nothing that was read can get into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The rule, as listed in `schemas/fhir/README.md` (and as the file name of its example).
    pub rule: &'static str,
    /// What the rule says of the place, without values: the path (`component.valueQuantity.unit`) or the limit.
    pub detail: &'static str,
    /// Which element of a repeating one, which line, which byte: whatever `detail` counts.
    pub index: Option<u64>,
    /// Where the resource was read.
    pub position: Position,
}

// ---------------------------------------------------------------- what the stages make of readings

/// Readings with the features they are to be scored by: what one worker's `patient` stage emits for one epoch.
#[derive(Clone, Debug, Default)]
pub struct Scorable {
    /// In (patient-independent) position order.
    pub readings: Vec<Reading>,
    /// Row-major matrix: `readings.len()` rows of [`FEATURE_NAMES`]`.len()` columns; NaN where unknown.
    pub features: Vec<f64>,
    /// What each reading's patient is known to be, one per reading.
    pub demographics: Vec<Demographics>,
    /// One per reading: it replaces or withdraws an earlier version of the same observation, so a sink that filters must pass it on.
    pub replaces: Vec<bool>,
    /// Contributions that these readings (or deletions) withdrew: audit subtracts them.
    pub withdrawn: Vec<Withdrawn>,
    /// What counts under other groups from now on, because more is known of the patient: audit counts it there instead.
    pub moved: Vec<Moved>,
    /// Labels, in the order in which they came.
    pub labels: Vec<Label>,
    /// What data quality counts besides the rows: their flaws, inputs without a row, and what stands no longer.
    pub flawed: Vec<Flawed>,
    /// Partitions that have come a good way since this was last said, these readings included: what is kept for them may be looked over.
    pub progress: Vec<Tick>,
}

impl Scorable {
    /// Makes room for so many more readings.
    pub fn reserve(&mut self, readings: usize) {
        self.readings.reserve(readings);
        self.features.reserve(readings * FEATURE_NAMES.len());
        self.demographics.reserve(readings);
        self.replaces.reserve(readings);
    }

    /// True if it says nothing to anybody, so that it need not go on. Every field is named, for one that is forgotten here is lost whenever it comes alone.
    pub fn is_empty(&self) -> bool {
        // A row of each of these stands for a reading.
        let Scorable {
            readings,
            features: _,
            demographics: _,
            replaces: _,
            withdrawn,
            moved,
            labels,
            flawed,
            progress,
        } = self;
        let of_readings = readings.is_empty() && withdrawn.is_empty() && moved.is_empty();
        of_readings && labels.is_empty() && flawed.is_empty() && progress.is_empty()
    }
}

/// Names of the features, in the order of the matrix. A model file names its own subset.
pub const FEATURE_NAMES: [&str; 20] = [
    "systolic",
    "diastolic",
    "mean_arterial",
    "pulse_pressure",
    "recent_readings",
    "systolic_mean",
    "systolic_standard_deviation",
    "systolic_min",
    "systolic_max",
    "systolic_slope_per_hour",
    "systolic_variability",
    "diastolic_mean",
    "diastolic_standard_deviation",
    "diastolic_slope_per_hour",
    "systolic_baseline",
    "systolic_baseline_deviation",
    "diastolic_baseline",
    "diastolic_baseline_deviation",
    "age_years",
    "female",
];

/// An earlier contribution that no longer stands.
#[derive(Clone, Debug)]
pub struct Withdrawn {
    /// Whose.
    pub patient: Pseudonym,
    /// When it was measured.
    pub at: EventTime,
    /// How exactly that is known: a day entered no window shorter than a day, so there is nothing to subtract there.
    pub precision: Precision,
    /// Its values.
    pub signals: Signals,
    /// The group it was counted under.
    pub demographics: Demographics,
}

/// A contribution whose row stands, while the groups of its patient have changed.
#[derive(Clone, Debug)]
pub struct Moved {
    /// Which observation.
    pub observation: Pseudonym,
    /// What it is, under the groups that it counts under now.
    pub measured: Withdrawn,
    /// The group that it was counted under.
    pub before: Demographics,
}

/// Readings with their assessments: what `score` emits.
#[derive(Clone, Debug, Default)]
pub struct Assessed {
    /// The readings and features, as they came.
    pub scorable: Scorable,
    /// One per reading.
    pub assessments: Vec<Assessment>,
}

/// What scoring says of one reading.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Assessment {
    /// The guideline's name for the band, e.g. `stage 2`; `None` for partial readings.
    pub category: Option<&'static str>,
    /// The rules that fired, by name, in the rule set's order.
    pub reasons: SmallVec<[&'static str; 2]>,
    /// True if an alarm is raised: a rule fired and its persistence (k of n, hold, refractory) was met.
    pub alarm: bool,
    /// The model's probability; `None` without a model or with a feature missing that it cannot do without.
    pub probability: Option<f64>,
    /// `LOW`, `MODERATE` or `HIGH`, by the model's thresholds.
    pub risk_level: Option<&'static str>,
    /// The features that moved the probability most, by index into [`FEATURE_NAMES`], with their share of the margin (log-odds).
    pub contributions: SmallVec<[(u8, f64); 3]>,
}

/// One window of one patient, as `patient` emits it when the watermark passes its end or a late reading reopens it.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowRow {
    /// Whose.
    pub patient: Pseudonym,
    /// Inclusive.
    pub start: EventTime,
    /// Exclusive.
    pub end: EventTime,
    /// Per configured signal, in the order of the flow's `decode.signals`; `None` if it was not measured in this window.
    pub aggregates: SmallVec<[Option<Aggregate>; 2]>,
    /// Seconds with the systolic pressure at or above `patient.threshold.high_mmhg`, the last value standing until the next.
    pub above_seconds: f64,
    /// Seconds with the systolic pressure below `patient.threshold.low_mmhg`.
    pub below_seconds: f64,
    /// 0 for the on-time content; one more for each late reading or correction in it.
    pub revision: u32,
}

/// One signal over one window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Aggregate {
    /// Number of readings.
    pub count: u32,
    /// Arithmetic mean.
    pub mean: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Sample standard deviation (n − 1); NaN below two readings.
    pub standard_deviation: f64,
    /// Least-squares slope per hour; NaN below two readings at different times.
    pub slope_per_hour: f64,
    /// The latest value.
    pub last: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_above_ninety_are_one_age() {
        let born = Demographics { birth_year: Some(1900), ..Default::default() };
        assert_eq!(born.age_years(EventTime::from_micros(0)), Some(70));
        assert_eq!(born.age_years(EventTime::from_micros(-1)), Some(69));
        assert_eq!(born.age_years(EventTime::MAX), None);
        assert_eq!(born.age_years(EventTime::from_micros(1_800_000_000_000_000)), Some(90));
    }
}
