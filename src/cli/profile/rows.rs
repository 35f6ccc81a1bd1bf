//! Readings from Parquet files: those that Windkessel wrote, or others with columns for the same.
//!
//! Of an observation the row with the highest epoch stands, unless its status withdraws it: as the README reads the table. Nothing of a row but numbers
//! and hashes is kept, some 150 bytes each.
//!
//! What the table does not tell is not known here: averages (`summary`), days without a time, and readings too late for their windows are counted like others.
//! Sex and birth year never leave a flow, so that its own table gives no groups by them; other files may have both.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use foldhash::fast::FixedState;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sha2::{Digest, Sha256};

use crate::config::TableName;
use crate::report::read::files;
use crate::signals::{DIASTOLIC, MEAN_ARTERIAL, SYSTOLIC};
use crate::time::EventTime;
use crate::vocabulary::{Assessed, Assessment, Demographics, Facts, Pseudonym, Reading, Scorable, Sex, Signals};

/// What is read, with the name that Windkessel writes it under, and whether it must be there.
const COLUMNS: [(&str, &str, bool); 16] = [
    ("time", "effective_at", true),
    ("systolic", "systolic_mmhg", true),
    ("diastolic", "diastolic_mmhg", true),
    ("mean_arterial", "mean_arterial_mmhg", false),
    ("patient", "patient", false),
    ("observation", "observation", false),
    ("status", "status", false),
    ("not_recomputed", "not_recomputed", false),
    ("epoch", "epoch", false),
    ("partition", "partition", false),
    ("offset", "offset", false),
    ("probability", "probability", false),
    ("risk_level", "risk_level", false),
    ("model", "model", false),
    ("sex", "sex", false),
    ("birth_year", "birth_year", false),
];

/// Readings that are handed over at once.
const BATCH_ROWS: usize = 8_192;

/// One `--column`.
pub(super) fn renaming(text: &str) -> Result<(&'static str, String), String> {
    let known = || COLUMNS.map(|(column, ..)| column).join(", ");
    let (column, name) = text.split_once('=').ok_or("write COLUMN=NAME, such as systolic=sbp".to_owned())?;
    let (column, ..) = COLUMNS
        .iter()
        .find(|(known, ..)| *known == column.trim())
        .ok_or_else(|| format!("there is no column {column:?} to be read; known are {}", known()))?;
    Ok((column, name.trim().to_owned()))
}

/// What columns are called.
pub(super) struct Names(HashMap<&'static str, String, FixedState>);

impl Names {
    /// As Windkessel calls them, apart from those.
    pub(super) fn new(renamed: &[(&'static str, String)]) -> Self {
        let mut names: HashMap<_, _, FixedState> =
            COLUMNS.iter().map(|(column, name, _)| (*column, (*name).to_owned())).collect();
        names.extend(renamed.iter().cloned());
        Names(names)
    }
}

/// What was read.
pub(super) struct Found {
    pub(super) rows: Rows,
    /// The name of the flow, if all files are of one that Windkessel ran.
    pub(super) flow: Option<String>,
    pub(super) rule_set: Option<String>,
    /// The model whose probabilities they are, if it is one.
    pub(super) model: Option<String>,
    pub(super) knows_patients: bool,
    pub(super) knows_sex: bool,
}

/// What stands of each observation.
#[derive(Default)]
pub(super) struct Rows(HashMap<[u8; 16], Row, FixedState>);

/// Where a row stands among those of its observation: epoch, partition, offset, and the row's number.
type Place = (i64, i64, i64, u64);

struct Row {
    place: Place,
    /// `None` if it was withdrawn, or is no reading of both pressures.
    standing: Option<Standing>,
}

struct Standing {
    patient: [u8; 16],
    at: EventTime,
    systolic: f64,
    diastolic: f64,
    mean_arterial: Option<f64>,
    probability: Option<f64>,
    risk_level: Option<&'static str>,
    demographics: Demographics,
}

/// Reads a file, a folder of files, or a folder that a flow wrote to.
///
/// # Errors
/// A sentence that names the file, and what to do.
pub(super) fn read(path: &Path, names: &Names) -> Result<Found, String> {
    let mut reader = Reader::default();
    for path in paths(path)? {
        let of_file = |why: String| format!("could not read {path:?}: {why}");
        reader.file(&path, names).map_err(of_file)?;
    }
    if let [_, another, ..] = &reader.models.iter().collect::<Vec<_>>()[..] {
        return Err(format!(
            "the readings of {path:?} were scored by several models, such as {another}, and probabilities of one say nothing of another; take files of one model"
        ));
    }
    let one = |all: &BTreeSet<String>| all.first().filter(|_| all.len() == 1).cloned();
    Ok(Found {
        flow: one(&reader.flows),
        rule_set: one(&reader.rule_sets),
        model: one(&reader.models),
        knows_patients: reader.knows_patients,
        knows_sex: reader.knows_sex,
        rows: reader.rows,
    })
}

fn paths(path: &Path) -> Result<Vec<PathBuf>, String> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = files(path, TableName::Readings, "parquet");
    if found.is_empty() {
        let entries = std::fs::read_dir(path).map_err(|error| format!("could not read {path:?}: {error}"))?;
        found = entries.flatten().map(|entry| entry.path()).collect();
        found.retain(|path| path.extension().is_some_and(|ending| ending == "parquet"));
        found.sort();
    }
    match found.is_empty() {
        true => Err(format!(
            "could not make a profile of {path:?}: there are no Parquet files, neither in it nor in readings/ below it"
        )),
        false => Ok(found),
    }
}

#[derive(Default)]
struct Reader {
    rows: Rows,
    flows: BTreeSet<String>,
    rule_sets: BTreeSet<String>,
    models: BTreeSet<String>,
    knows_patients: bool,
    knows_sex: bool,
    /// Files, and rows, so far.
    files: u64,
    number: u64,
}

impl Reader {
    fn file(&mut self, path: &Path, names: &Names) -> Result<(), String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| error.to_string())?;
        for pair in builder.metadata().file_metadata().key_value_metadata().into_iter().flatten() {
            match pair.key.as_str() {
                "windkessel.flow" => self.flows.extend(pair.value.clone()),
                "windkessel.rule_set" => self.rule_sets.extend(pair.value.clone()),
                _ => {}
            }
        }
        let there: Vec<String> = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
        for (column, name, needed) in COLUMNS {
            let called = &names.0[column];
            // What was named must be there, as must what nothing can be made without.
            if !there.contains(called) && (needed || called != name) {
                return Err(format!(
                    "there is no column {called:?} for {column}; there are {}; --column {column}=NAME names another",
                    there.join(", ")
                ));
            }
        }
        let has = |column: &str| there.contains(&names.0[column]);
        // All files must say it, or groups would be of a part of the patients.
        let first = self.files == 0;
        self.knows_patients = has("patient") && (first || self.knows_patients);
        self.knows_sex = has("sex") && (first || self.knows_sex);
        self.files += 1;
        let wanted = there.iter().filter(|name| names.0.values().any(|called| called == *name));
        let mask = ProjectionMask::columns(builder.parquet_schema(), wanted.map(String::as_str));
        let batches = builder.with_projection(mask).build().map_err(|error| error.to_string())?;
        for batch in batches {
            let batch = batch.map_err(|error| error.to_string())?;
            self.batch(&Columns::new(&batch, names)?, batch.num_rows());
        }
        Ok(())
    }

    fn batch(&mut self, columns: &Columns, rows: usize) {
        for at in 0..rows {
            self.number += 1;
            // It corrects something that was forgotten: what it corrects still stands.
            if columns.flag("not_recomputed", at) == Some(true) {
                continue;
            }
            let key =
                columns.text("observation", at).map_or(hash(&self.number.to_le_bytes()), |id| hash(id.as_bytes()));
            let integer = |column| columns.integer(column, at).unwrap_or_default();
            let place = (integer("epoch"), integer("partition"), integer("offset"), self.number);
            if self.rows.0.get(&key).is_some_and(|known| known.place > place) {
                continue;
            }
            let standing = columns.standing(at);
            if standing.as_ref().is_some_and(|standing| standing.probability.is_some()) {
                self.models.extend(columns.text("model", at).map(str::to_owned));
            }
            self.rows.0.insert(key, Row { place, standing });
        }
    }
}

impl Rows {
    /// Hands over what stands as the score would, some thousand readings at a time.
    pub(super) fn assessed(self, take: &mut dyn FnMut(&Assessed)) {
        let mut batch = Assessed::default();
        for (key, row) in self.0 {
            let Some(standing) = row.standing else { continue };
            let Standing { patient, at, demographics, probability, risk_level, .. } = standing;
            let mut signals = Signals::default();
            signals.insert(SYSTOLIC, standing.systolic);
            signals.insert(DIASTOLIC, standing.diastolic);
            standing.mean_arterial.map(|mmhg| signals.insert(MEAN_ARTERIAL, mmhg));
            let facts = Facts { at, signals, ..Facts::default() };
            let Scorable { readings, demographics: known, replaces, .. } = &mut batch.scorable;
            readings.push(Reading { patient: Pseudonym(patient), observation: Pseudonym(key), facts });
            known.push(demographics);
            replaces.push(false);
            batch.assessments.push(Assessment { probability, risk_level, ..Assessment::default() });
            if batch.assessments.len() == BATCH_ROWS {
                take(&std::mem::take(&mut batch));
            }
        }
        take(&batch);
    }
}

/// The columns of a batch, made what they must be.
struct Columns(HashMap<&'static str, ArrayRef, FixedState>);

impl Columns {
    fn new(batch: &RecordBatch, names: &Names) -> Result<Self, String> {
        let mut columns: HashMap<_, _, FixedState> = HashMap::default();
        for (column, ..) in COLUMNS {
            let called = &names.0[column];
            let Some(found) = batch.column_by_name(called) else { continue };
            let kind = match column {
                "time" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
                "patient" | "observation" | "status" | "risk_level" | "model" | "sex" => DataType::Utf8,
                "epoch" | "partition" | "offset" | "birth_year" => DataType::Int64,
                "not_recomputed" => DataType::Boolean,
                _ => DataType::Float64,
            };
            // The reason may quote a value.
            let made = cast(found, &kind).map_err(|_| {
                format!("column {called:?} of type {} cannot be read as {column} ({kind})", found.data_type())
            })?;
            columns.insert(column, made);
        }
        Ok(Columns(columns))
    }

    fn get(&self, column: &str, at: usize) -> Option<&ArrayRef> {
        self.0.get(column).filter(|values| values.is_valid(at))
    }

    fn number(&self, column: &str, at: usize) -> Option<f64> {
        Some(self.get(column, at)?.as_primitive_opt::<Float64Type>()?.value(at)).filter(|number| number.is_finite())
    }

    fn integer(&self, column: &str, at: usize) -> Option<i64> {
        Some(self.get(column, at)?.as_primitive_opt::<Int64Type>()?.value(at))
    }

    fn flag(&self, column: &str, at: usize) -> Option<bool> {
        Some(self.get(column, at)?.as_boolean_opt()?.value(at))
    }

    fn text(&self, column: &str, at: usize) -> Option<&str> {
        Some(self.get(column, at)?.as_string_opt::<i32>()?.value(at))
    }

    /// The reading of a row that stands.
    fn standing(&self, at: usize) -> Option<Standing> {
        if matches!(self.text("status", at), Some("entered-in-error" | "cancelled")) {
            return None;
        }
        let time = self.get("time", at)?.as_primitive_opt::<TimestampMicrosecondType>()?.value(at);
        let risk = ["LOW", "MODERATE", "HIGH"].into_iter().find(|level| self.text("risk_level", at) == Some(level));
        let sexes = [Sex::Female, Sex::Male, Sex::Other];
        let sex = sexes.into_iter().find(|sex| self.text("sex", at) == Some(sex.code())).unwrap_or_default();
        let birth_year = self.integer("birth_year", at).and_then(|year| i16::try_from(year).ok());
        Some(Standing {
            patient: self.text("patient", at).map(|id| hash(id.as_bytes())).unwrap_or_default(),
            at: EventTime::from_micros(time),
            systolic: self.number("systolic", at)?,
            diastolic: self.number("diastolic", at)?,
            mean_arterial: self.number("mean_arterial", at),
            probability: self.number("probability", at),
            risk_level: risk,
            demographics: Demographics { birth_year, sex, ..Demographics::default() },
        })
    }
}

/// Enough to tell ids apart, and no id.
fn hash(id: &[u8]) -> [u8; 16] {
    let digest = Sha256::digest(id);
    let mut hash = [0; 16];
    hash.copy_from_slice(&digest[..16]);
    hash
}

#[cfg(test)]
mod tests {
    //! Against the readings themselves, counted as a flow counts them; what cannot be read is said with the name of the column.

    use std::sync::Arc;

    use arrow::array::{BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
    use parquet::arrow::ArrowWriter;
    use rand::{Rng, RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::audit::profile::count::{Counter, Making, Sums};
    use crate::audit::profile::{Profile, ScoredBy, Source};
    use crate::config::AuditSpec;

    /// A version of an observation.
    #[derive(Clone)]
    struct Version {
        patient: usize,
        observation: u64,
        epoch: i64,
        withdraws: bool,
        not_recomputed: bool,
        at: i64,
        pressures: [f64; 2],
        probability: Option<f64>,
    }

    fn sex(patient: usize) -> Sex {
        [Sex::Female, Sex::Male][patient % 2]
    }

    fn birth_year(patient: usize) -> Option<i16> {
        (!patient.is_multiple_of(5)).then(|| 1930 + (patient % 45 * 2) as i16)
    }

    /// Versions of observations, the later ones of higher epochs; some withdraw.
    fn versions(seed: u64) -> Vec<Version> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut versions: Vec<Version> = Vec::new();
        for epoch in 0..600 {
            let again = versions.get(rng.random_range(0..600)).map(|version| (version.observation, version.patient));
            let (observation, patient) = again.unwrap_or_else(|| (rng.next_u64(), rng.random_range(0..90)));
            versions.push(Version {
                patient,
                observation,
                epoch,
                withdraws: again.is_some() && rng.random_bool(0.3),
                not_recomputed: again.is_some() && rng.random_bool(0.2),
                at: 1_770_000_000_000_000 + rng.random_range(0..20_000) * 1_000_000,
                pressures: [f64::from(rng.random_range(900..1_600)) / 10.0, f64::from(rng.random_range(50..90))],
                probability: rng.random_bool(0.5).then(|| rng.random_range(0.0..1.0)),
            });
        }
        versions
    }

    fn batch(versions: &[Version], names: [&str; 4]) -> RecordBatch {
        let [systolic, patient, time, sex_name] = names;
        let texts = |text: &dyn Fn(&Version) -> String| {
            Arc::new(versions.iter().map(|v| Some(text(v))).collect::<StringArray>()) as ArrayRef
        };
        let times = versions.iter().map(|version| version.at);
        let numbers = |number: &dyn Fn(&Version) -> Option<f64>| {
            Arc::new(versions.iter().map(number).collect::<Float64Array>()) as ArrayRef
        };
        let shown = |version: &Version, at: usize| (!version.withdraws).then_some(version.pressures[at]);
        let flags = Arc::new(versions.iter().map(|version| Some(version.not_recomputed)).collect::<BooleanArray>());
        RecordBatch::try_from_iter_with_nullable([
            (patient, texts(&|version| version.patient.to_string()), false),
            ("observation", texts(&|version| version.observation.to_string()), false),
            (
                "status",
                texts(&|version| if version.withdraws { "entered-in-error" } else { "final" }.to_owned()),
                false,
            ),
            (time, Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")), false),
            (systolic, numbers(&|version| shown(version, 0)), true),
            ("diastolic_mmhg", numbers(&|version| shown(version, 1)), true),
            ("probability", numbers(&|version| version.probability), true),
            ("not_recomputed", flags, false),
            ("epoch", Arc::new(versions.iter().map(|version| Some(version.epoch)).collect::<Int64Array>()), false),
            (sex_name, texts(&|version| sex(version.patient).code().to_owned()), false),
            (
                "birth_year",
                Arc::new(versions.iter().map(|v| birth_year(v.patient).map(i64::from)).collect::<Int64Array>()),
                true,
            ),
        ])
        .unwrap()
    }

    const USUAL: [&str; 4] = ["systolic_mmhg", "patient", "effective_at", "sex"];

    fn write(path: &Path, batch: &RecordBatch) {
        let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
        writer.write(batch).unwrap();
        writer.close().unwrap();
    }

    fn made(sums: &Sums, (knows_patients, knows_sex): (bool, bool)) -> Profile {
        let audit = AuditSpec { readings_min: 10, ..AuditSpec::default() };
        let (source, scored_by) = (Source::default(), ScoredBy::default());
        Making { audit, source, scored_by, knows_patients, knows_sex }.make(sums).unwrap()
    }

    fn of_files(path: &Path, renamed: &[(&'static str, String)]) -> Profile {
        let found = read(path, &Names::new(renamed)).unwrap();
        let mut counter = Counter::new(&AuditSpec::default());
        let knows = (found.knows_patients, found.knows_sex);
        found.rows.assessed(&mut |batch| counter.add(batch));
        made(&counter.sums(), knows)
    }

    /// What stands, counted as it leaves the score.
    fn of_readings(versions: &[Version]) -> Profile {
        let mut counter = Counter::new(&AuditSpec::default());
        let newest: std::collections::BTreeMap<u64, &Version> = versions
            .iter()
            .filter(|version| !version.not_recomputed)
            .map(|version| (version.observation, version))
            .collect();
        for (at, version) in newest.into_values().enumerate().filter(|(_, version)| !version.withdraws) {
            let mut signals = Signals::default();
            signals.insert(SYSTOLIC, version.pressures[0]);
            signals.insert(DIASTOLIC, version.pressures[1]);
            let demographics = Demographics {
                birth_year: birth_year(version.patient),
                sex: sex(version.patient),
                ..Default::default()
            };
            let facts = Facts { at: EventTime::from_micros(version.at), signals, ..Facts::default() };
            let mut observation = [0; 16];
            observation[..8].copy_from_slice(&(at as u64).to_le_bytes());
            let reading =
                Reading { patient: Pseudonym([version.patient as u8; 16]), observation: Pseudonym(observation), facts };
            let assessment = Assessment { probability: version.probability, ..Assessment::default() };
            let scorable = Scorable {
                readings: vec![reading],
                demographics: vec![demographics],
                replaces: vec![false],
                ..Scorable::default()
            };
            counter.add(&Assessed { scorable, assessments: vec![assessment] });
        }
        made(&counter.sums(), (true, true))
    }

    #[test]
    fn files_in_any_order_give_the_profile_of_the_readings_that_stand() {
        let folder = tempfile::tempdir().unwrap();
        let versions = versions(1);
        let expected = of_readings(&versions);
        assert!(expected.features.len() >= 4 * 5 && !expected.scores.is_empty(), "{:?}", expected.left_out);
        // The newer versions in the file that is read first.
        let (first, second) = versions.split_at(250);
        write(&folder.path().join("b.parquet"), &batch(first, USUAL));
        write(&folder.path().join("a.parquet"), &batch(second, USUAL));
        assert_eq!(of_files(folder.path(), &[]).text(), expected.text());
        let path = folder.path().join("other");
        write(&path, &batch(&versions, ["sbp", "subject", "when", "gender"]));
        let renamed =
            ["systolic=sbp", "patient=subject", "time=when", "sex=gender"].map(|text| renaming(text).unwrap());
        assert_eq!(of_files(&path, &renamed).text(), expected.text());
    }

    #[test]
    fn groups_are_of_known_patients_and_of_known_sex_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (path, versions) = (folder.path().join("a.parquet"), versions(2));
        let groups =
            |profile: &Profile| -> BTreeSet<String> { profile.features.iter().map(|of| of.group.clone()).collect() };
        write(&path, &batch(&versions, ["systolic_mmhg", "patient", "effective_at", "gender"]));
        let found = groups(&of_files(&path, &[]));
        assert!(found.contains("age=40-64") && !found.iter().any(|group| group.starts_with("sex=")), "{found:?}");
        write(&path, &batch(&versions, ["systolic_mmhg", "subject", "effective_at", "sex"]));
        let profile = of_files(&path, &[]);
        assert_eq!(groups(&profile), BTreeSet::from(["all".to_owned()]));
        assert_eq!((profile.patients, profile.left_out.len()), (None, 0));
    }

    #[test]
    fn what_cannot_be_read_is_said_with_the_name_of_the_column() {
        let folder = tempfile::tempdir().unwrap();
        let (path, versions) = (folder.path().join("a.parquet"), versions(3));
        let refused = |path: &Path, renamed: &[&str]| {
            let renamed: Vec<_> = renamed.iter().map(|text| renaming(text).unwrap()).collect();
            read(path, &Names::new(&renamed)).err().unwrap()
        };
        write(&path, &batch(&versions, ["sbp", "patient", "effective_at", "sex"]));
        let why = refused(&path, &[]);
        assert!(
            why.contains("no column \"systolic_mmhg\" for systolic; there are patient, ")
                && why.contains("--column systolic=NAME"),
            "{why}"
        );
        let why = refused(&path, &["systolic=sbp", "model=version"]);
        assert!(why.contains("no column \"version\" for model"), "{why}");
        assert!(refused(&folder.path().join("b.parquet"), &[]).contains("No such file"));
        let empty = tempfile::tempdir().unwrap();
        assert!(refused(empty.path(), &[]).contains("there are no Parquet files"));
        std::fs::write(&path, "PAR0").unwrap();
        assert!(refused(&path, &[]).contains("could not read"));
        assert!(renaming("pulse=x").unwrap_err().contains("known are time, systolic"));
        assert!(renaming("systolic").unwrap_err().contains("COLUMN=NAME"));
    }
}
