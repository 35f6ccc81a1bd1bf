//! A saved reference: what a population of readings looked like, in one file of JSON.
//!
//! ```text
//! flow ────> counter ─┐                                     windows
//!                     ├─> sums ─> Profile ─file─> Reference ───┴──> comparisons, performance
//! Parquet ─> counter ─┘      without small groups
//! ```
//!
//! A trailing reference follows whatever happens slowly: a population that ages over a year never shifts. A profile stays what it was.
//!
//! * [`count`]: what a profile is made of, by the same machine as the audit's own counts. [`reference`]: what windows are compared with.
//!
//! Invariants:
//!
//! 1. It is a function of what was counted alone: the same readings give the same bytes, on any number of workers, whenever it is made.
//! 2. It holds sums of readings by group: no pseudonym, no time of a reading, nothing that links two features of one reading. A group of fewer
//!    than [`PATIENTS_MIN`] patients is not in it, nor can be got by subtracting the others (decision 19).
//! 3. What is read is believed only if it adds up: every figure that follows from others is compared with them.

pub mod count;
pub mod reference;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::audit::judge::Usual;
use crate::audit::ledger::Standing;
use crate::audit::series::{ATTRIBUTES, BIN_RULE, FEATURES, GROUPS, Grid, Groups, PATIENT_GROUPS};
use crate::audit::statistics::Moments;
use crate::time::EventSpan;
use crate::vocabulary::findings::Span;

/// The format that is written, and the only one that is read.
pub const FORMAT: u32 = 1;

/// A group of fewer patients is left out. Source: the cell size suppression policy of the US Centers for Medicare & Medicaid Services, which shows no
/// figure that stands for 1 to 10 beneficiaries.
pub const PATIENTS_MIN: u64 = 11;

/// The longest file that is read, in bytes: some twenty times what all groups and probabilities fill.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

/// The greatest count that is believed of a value; sums of them stay far within 64 bits.
const COUNT_MAX: u64 = super::histogram::COUNT_MAX;

/// A profile, as its file has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The format: 1. A file of another is refused.
    pub windkessel_profile: u32,
    /// The name of the rule by which values are counted; a profile of another is refused.
    pub bin_rule: String,
    /// What it was made of.
    pub source: Source,
    /// Start of the first window with readings; RFC 3339.
    pub start: String,
    /// End of the last one.
    pub end: String,
    /// The length of the windows whose distances from the whole are said to be usual.
    #[schemars(with = "String")]
    pub window: EventSpan,
    /// Windows of fewer readings do not count for that.
    pub readings_min: u64,
    /// Readings with both pressures.
    pub readings: u64,
    /// Patients with such readings; absent if they could not be told apart.
    pub patients: Option<u64>,
    /// How readings were scored.
    pub scored_by: ScoredBy,
    /// Groups that have readings and are not in it, for they have too few patients or would tell of a group that has.
    pub left_out: Vec<String>,
    /// The distributions of the features, by feature and group.
    pub features: Vec<OfFeature>,
    /// What scoring said, by group.
    pub scores: Vec<OfScores>,
}

/// What a profile was made of. No path: names of files may name somebody.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// `flow` or `parquet`.
    pub kind: String,
    /// The flow's name, as far as it is known.
    pub flow: Option<String>,
    /// The version of Windkessel that made it.
    pub version: String,
}

/// How readings were scored: scores are compared with such only as were made alike.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScoredBy {
    /// The rule set.
    pub rule_set: Option<String>,
    /// Digest of the model; absent without one.
    pub model: Option<String>,
    /// Which readings count as selected (`audit.selected`), and with which settings of alarms; absent if that is not known.
    pub selected: Option<String>,
    /// Which outcome labels readings, and for how long before it; absent if none does.
    pub outcome: Option<String>,
}

/// The distribution of one feature in one group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OfFeature {
    /// The feature's name.
    pub feature: String,
    /// The unit of its values.
    pub unit: String,
    /// The group.
    pub group: String,
    /// Readings.
    pub readings: u64,
    /// Patients with at least one of them; absent if they could not be told apart.
    pub patients: Option<u64>,
    /// Arithmetic mean, in the unit.
    pub mean: Option<f64>,
    /// Standard deviation of the sample (n − 1), in the unit; absent below two readings.
    pub standard_deviation: Option<f64>,
    /// How far its windows are from the whole.
    pub usual: Option<Usual>,
    /// The lowest value that occurs, in steps of the feature's grid (1 mmHg).
    pub first: u16,
    /// Readings by value, from the lowest to the highest that occurs, one count a step.
    pub counts: Vec<u64>,
}

/// What scoring said of the readings of one group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OfScores {
    /// The group.
    pub group: String,
    /// Readings that were assessed.
    pub readings: u64,
    /// Patients with at least one of them; absent if they could not be told apart.
    pub patients: Option<u64>,
    /// Counts of readings, each with the probability in thousandths (absent without one), whether they were selected, and whether the outcome happened
    /// (absent if nothing is known). Ascending, each at most once.
    pub counts: Vec<(Option<u16>, bool, Option<bool>, u64)>,
}

impl Profile {
    /// Reads a file, and checks it; also its [`digest`].
    ///
    /// # Errors
    /// A sentence that names the file and says what is wrong.
    pub fn read(path: &Path) -> Result<(Profile, String), String> {
        let fail = |why: String| format!("could not use the profile {path:?}: {why}");
        let bytes = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(fail(format!("it has {bytes} bytes, and no profile has more than {FILE_BYTES_MAX}")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        Ok((Profile::parse(&text).map_err(fail)?, digest(&text)))
    }

    /// As [`Profile::read`], of a text.
    pub fn parse(text: &str) -> Result<Profile, String> {
        #[derive(Deserialize)]
        struct Format {
            windkessel_profile: Option<u32>,
        }
        let none = |error: serde_json::Error| {
            format!("it is none: {error}; `windkessel profile` makes one of a flow or of Parquet files")
        };
        // The format first: a file of a later version should be told apart, not blamed for a key.
        let format: Format = serde_json::from_str(text).map_err(none)?;
        match format.windkessel_profile {
            Some(FORMAT) => {}
            Some(other) => {
                return Err(format!(
                    "it is of format {other}, this version reads {FORMAT}; make it anew with `windkessel profile`"
                ));
            }
            None => return Err("it is none: it has no key windkessel_profile; `windkessel profile` makes one".into()),
        }
        let profile: Profile = serde_json::from_str(text).map_err(none)?;
        profile.check()?;
        Ok(profile)
    }

    /// Its file's text: a feature or a group a line.
    pub fn text(&self) -> String {
        let line = |value: &serde_json::Value| value.to_string();
        let value = serde_json::to_value(self).expect("texts, numbers and lists always serialise");
        let serde_json::Value::Object(map) = value else { unreachable!("a struct is an object") };
        let entries = map.iter().map(|(key, value)| match value.as_array() {
            Some(list) if list.first().is_some_and(serde_json::Value::is_object) => {
                let lines: Vec<String> = list.iter().map(|item| format!("    {}", line(item))).collect();
                format!("  {key:?}: [\n{}\n  ]", lines.join(",\n"))
            }
            _ => format!("  {key:?}: {}", line(value)),
        });
        format!("{{\n{}\n}}\n", entries.collect::<Vec<_>>().join(",\n"))
    }

    /// What it is of, as event time.
    pub fn span(&self) -> Result<Span, String> {
        let time = |key: &str, text: &str| {
            let at = text.parse::<jiff::Timestamp>().map_err(|_| format!("{key} is no instant: {text:?}"))?;
            Ok::<_, String>(crate::time::EventTime::from_micros(at.as_microsecond()))
        };
        let span = (time("start", &self.start)?, time("end", &self.end)?);
        if span.0 < span.1 { Ok(span) } else { Err(format!("end must be after start, got {:?}", self.end)) }
    }

    fn check(&self) -> Result<(), String> {
        if self.bin_rule != BIN_RULE {
            return Err(format!(
                "its values are counted by the rule {:?}, this version counts by {BIN_RULE:?}; make it anew",
                self.bin_rule
            ));
        }
        self.span()?;
        let mut seen = BTreeSet::new();
        for (at, of) in self.features.iter().enumerate() {
            of.check().map_err(|why| format!("features[{at}]: {why}"))?;
            if !seen.insert((&of.feature, &of.group)) {
                return Err(format!("features[{at}]: {} of {} is there twice", of.feature, of.group));
            }
        }
        for feature in FEATURES {
            let all = self.features.iter().find(|of| of.feature == feature.name && of.group == GROUPS[0]);
            if all.map(|of| of.readings) != Some(self.readings) {
                return Err(format!("{} of all does not have {} readings", feature.name, self.readings));
            }
        }
        let mut seen = BTreeSet::new();
        for (at, of) in self.scores.iter().enumerate() {
            of.check().map_err(|why| format!("scores[{at}]: {why}"))?;
            if !seen.insert(&of.group) {
                return Err(format!("scores[{at}]: {} is there twice", of.group));
            }
        }
        Ok(())
    }
}

/// Eight hexadecimal digits that tell the texts of profiles apart.
pub fn digest(text: &str) -> String {
    format!("{:08x}", crc32c::crc32c(text.as_bytes()))
}

/// The index of a group among the first `end` of [`GROUPS`].
fn group(name: &str, end: usize) -> Result<usize, String> {
    let known = &GROUPS[..end];
    known
        .iter()
        .position(|group| *group == name)
        .ok_or_else(|| format!("there is no group {name:?}; known are {}", known.join(", ")))
}

fn sum(counts: impl IntoIterator<Item = u64>) -> Result<u64, String> {
    counts.into_iter().try_fold(0u64, |sum, count| match sum.checked_add(count).filter(|sum| *sum <= COUNT_MAX) {
        Some(sum) => Ok(sum),
        None => Err(format!("more than {COUNT_MAX} readings")),
    })
}

impl OfFeature {
    /// The index of its feature.
    fn feature(&self) -> Result<usize, String> {
        FEATURES.iter().position(|feature| feature.name == self.feature).ok_or_else(|| {
            let known: Vec<&str> = FEATURES.iter().map(|feature| feature.name).collect();
            format!("there is no feature {:?}; known are {}", self.feature, known.join(", "))
        })
    }

    /// One count a value of the grid. What was checked fits into it.
    fn values(&self, grid: &Grid) -> Vec<i64> {
        let mut values = vec![0; grid.values()];
        for (value, count) in values.iter_mut().skip(usize::from(self.first)).zip(&self.counts) {
            *value = i64::try_from(*count).unwrap_or(i64::MAX);
        }
        values
    }

    fn check(&self) -> Result<(), String> {
        let feature = FEATURES[self.feature()?];
        group(&self.group, PATIENT_GROUPS)?;
        let what = format!("{} of {}", self.feature, self.group);
        if self.unit != feature.unit {
            return Err(format!("{what} is in {:?}, this version counts in {:?}", self.unit, feature.unit));
        }
        if usize::from(self.first) + self.counts.len() > feature.grid.values() {
            let greatest = feature.grid.values() - 1;
            return Err(format!("{what} has counts beyond the greatest value, {greatest} steps"));
        }
        let counted = sum(self.counts.iter().copied()).map_err(|why| format!("{what} has {why}"))?;
        if counted != self.readings || counted == 0 {
            return Err(format!("{what} says {} readings and counts {counted}", self.readings));
        }
        let moments = Moments::of(&feature.grid, &self.values(&feature.grid));
        let close = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * b.abs().max(1.0),
            (a, b) => a == b,
        };
        if !close(self.mean, moments.mean) || !close(self.standard_deviation, moments.standard_deviation()) {
            return Err(format!("mean or standard deviation of {what} is not that of its counts"));
        }
        match &self.usual {
            Some(usual) if !usual.is_sound() => Err(format!("usual of {what} is no distance")),
            _ => check_patients(&what, self.patients, self.readings, &self.group),
        }
    }
}

/// Whether a group may be in a profile at all.
fn check_patients(what: &str, patients: Option<u64>, readings: u64, group: &str) -> Result<(), String> {
    match patients {
        Some(patients) if patients < PATIENTS_MIN || patients > readings => Err(format!(
            "{what} has {patients} patients and {readings} readings; a group has at least {PATIENTS_MIN} patients, and each of them a reading"
        )),
        None if group != GROUPS[0] => Err(format!("{what} does not say of how many patients it is")),
        _ => Ok(()),
    }
}

impl OfScores {
    fn check(&self) -> Result<(), String> {
        group(&self.group, GROUPS.len())?;
        let what = format!("scores of {}", self.group);
        if let Some((thousandths, ..)) =
            self.counts.iter().find(|(thousandths, ..)| thousandths.is_some_and(|p| p > 1_000))
        {
            return Err(format!("{what} have the probability {} ‰", thousandths.unwrap_or_default()));
        }
        let key = |(thousandths, selected, happened, _): &(Option<u16>, bool, Option<bool>, u64)| {
            (*thousandths, *selected, *happened)
        };
        if !self.counts.is_sorted_by(|a, b| key(a) < key(b)) {
            return Err(format!("{what} do not ascend"));
        }
        let counted = sum(self.counts.iter().map(|(.., count)| *count)).map_err(|why| format!("{what} have {why}"))?;
        if counted != self.readings || counted == 0 {
            return Err(format!("{what} say {} readings and count {counted}", self.readings));
        }
        check_patients(&what, self.patients, self.readings, &self.group)
    }
}

/// The groups that are left out, as bits.
///
/// Whoever knows `all` and the groups of an attribute knows what is in none of these: so if those that are left out, and those who are in no group, are
/// fewer than [`PATIENTS_MIN`] between them, the smallest other group goes too.
pub fn left_out(patients: &Standing) -> Groups {
    let mut left_out = 0;
    for ((_, groups), mut hidden) in ATTRIBUTES.into_iter().zip(patients.without) {
        let mut there: Vec<usize> = groups.filter(|group| patients.of[*group] > 0).collect();
        there.sort_by_key(|group| patients.of[*group]);
        for group in there {
            let of_group = patients.of[group];
            if of_group < PATIENTS_MIN || (0 < hidden && hidden < PATIENTS_MIN) {
                hidden += of_group;
                left_out |= 1 << group;
            }
        }
    }
    left_out
}
