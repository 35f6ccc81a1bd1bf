//! Files to rows: the datasets below a flow's folders, Parquet, or NDJSON for a table that has no Parquet.
//!
//! Invariants:
//!
//! 1. Whole checkpoints alone are read: where there are lists (`_committed/`, decision 0012), a file that begins after the newest of them is passed by.
//!    The lists are looked at before the folders, so that every file of a checkpoint has its name by then.
//! 2. What is missing or damaged is a remark, and what else can be read is read. Nothing of a damaged file is quoted.
//! 3. Histograms, the bulk of a row, are read of one window only ([`Source::histograms`]).
//! 4. Of `readings` two columns of one row are read, the rule set and the model; no pseudonym is ever in memory.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::rows::{Columns, Row, Shift, unusable};
use super::standing::Standing;
use crate::config::TableName;
use crate::sink::tables::{Context, Tables};
use crate::source::Topics;
use crate::time::{Epoch, EventTime};
use crate::vocabulary::findings::Span;

/// The bulk of `shifts`.
const HISTOGRAMS: [&str; 3] = ["bin_edges", "reference_bins", "current_bins"];

/// Where a flow wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folders {
    /// Of the Parquet sink.
    pub parquet: Option<PathBuf>,
    /// Of the NDJSON sink.
    pub ndjson: Option<PathBuf>,
}

/// What the files say of themselves; several values if they differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Provenance {
    /// Names of flows.
    pub(super) flows: BTreeSet<String>,
    /// Names of rule sets.
    pub(super) rule_sets: BTreeSet<String>,
    /// Versions of the code.
    pub(super) versions: BTreeSet<String>,
    /// Digest of the model, of the newest readings.
    pub(super) model: Option<String>,
}

/// Reads tables, and notes what it could not read.
#[derive(Debug)]
pub(super) struct Source {
    folders: Folders,
    /// Windows that begin and end within.
    range: Span,
    schemas: Tables,
    /// What the files say of themselves.
    pub(super) provenance: Provenance,
    /// What could not be read, a sentence each.
    pub(super) remarks: BTreeSet<String>,
}

/// A file of rows.
enum Opened {
    Parquet(ParquetRecordBatchReader),
    Ndjson(arrow::json::Reader<BufReader<File>>),
}

impl Iterator for Opened {
    type Item = Result<RecordBatch, ArrowError>;
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Opened::Parquet(reader) => reader.next(),
            Opened::Ndjson(reader) => reader.next(),
        }
    }
}

impl Source {
    /// Of the windows within `range`.
    pub(super) fn new(folders: Folders, range: Span) -> Self {
        let context = Context { topics: Topics::new([]), signals: Vec::new(), rule_set: String::new(), model: None };
        let (provenance, remarks) = (Provenance::default(), BTreeSet::new());
        Source { folders, range, schemas: Tables::new(context), provenance, remarks }
    }

    /// What stands of a table, without histograms.
    pub(super) fn table<R: Row>(&mut self) -> Standing<R> {
        let (start, end) = self.range;
        self.rows(R::TABLE, &HISTOGRAMS, |row: &R| row.window().0 >= start && row.window().1 <= end)
    }

    /// The shifts of one window, with histograms.
    pub(super) fn histograms(&mut self, window: Span) -> Standing<Shift> {
        self.rows(TableName::Shifts, &[], |row: &Shift| row.window() == window)
    }

    /// The windows that files of a table say something of which begin with an epoch that is `wanted`.
    pub(super) fn windows(&mut self, table: TableName, wanted: impl Fn(Epoch) -> bool) -> BTreeSet<Span> {
        const BOUNDS: [&str; 2] = ["current_start", "current_end"];
        let schema = self.schemas.schema(table).clone();
        let names = schema.fields().iter().map(|field| field.name().as_str());
        let without: Vec<&str> = names.filter(|name| !BOUNDS.contains(name)).collect();
        let mut windows = BTreeSet::new();
        for path in self.files(table).into_iter().filter(|path| first_epoch(path).is_some_and(&wanted)) {
            let Ok(batches) = self.open(table, &path, &without) else { continue };
            // A file that is damaged says what it can; who reads its rows says that it is.
            for batch in batches.map_while(Result::ok) {
                let columns = Columns::new(&batch, &schema);
                windows.extend((0..batch.num_rows()).filter_map(|at| columns.window(at)));
            }
        }
        windows
    }

    fn rows<R: Row>(&mut self, table: TableName, without: &[&str], keep: impl Fn(&R) -> bool) -> Standing<R> {
        let mut standing = Standing::default();
        let files = self.files(table);
        if files.is_empty() {
            self.remarks.insert(format!("There is no table {}.", table.name()));
        }
        for path in files {
            let said = match self.open(table, &path, without) {
                Ok(batches) => self.take(table, batches, &mut standing, &keep),
                Err(why) => Err(why),
            };
            if let Err(why) = said {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                tracing::warn!(target: "report", table = table.name(), file = %name, %why, "could not read");
                self.remarks.insert(format!("The file {name} of {} is damaged; rows may be missing.", table.name()));
            }
        }
        standing
    }

    fn take<R: Row>(
        &mut self,
        table: TableName,
        batches: Opened,
        into: &mut Standing<R>,
        keep: impl Fn(&R) -> bool,
    ) -> Result<(), ArrowError> {
        let schema = self.schemas.schema(table).clone();
        let mut nameless = 0;
        for batch in batches {
            let batch = batch?;
            let columns = Columns::new(&batch, &schema);
            let rows: Vec<Option<R>> = (0..batch.num_rows()).map(|at| R::read(&columns, at)).collect();
            nameless += rows.iter().filter(|row| row.is_none()).count();
            rows.into_iter().flatten().filter(&keep).for_each(|row| into.insert(row));
        }
        if nameless > 0 {
            self.remarks
                .insert(format!("Rows of {} that do not say what they are about are passed over.", table.name()));
        }
        Ok(())
    }

    fn open(&mut self, table: TableName, path: &Path, without: &[&str]) -> Result<Opened, ArrowError> {
        let file = File::open(path)?;
        if path.extension().is_some_and(|ending| ending == "parquet") {
            let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
            self.provenance.of(&builder);
            for column in unusable(builder.schema(), self.schemas.schema(table)) {
                self.remarks.insert(format!("Files of {} have no usable column {column}.", table.name()));
            }
            let fields = builder.schema().fields().iter().map(|field| field.name().as_str());
            let names: Vec<&str> = fields.filter(|name| !without.contains(name)).collect();
            let mask = ProjectionMask::columns(builder.parquet_schema(), names);
            return Ok(Opened::Parquet(builder.with_projection(mask).build()?));
        }
        let schema = nullable(self.schemas.schema(table), without);
        Ok(Opened::Ndjson(arrow::json::ReaderBuilder::new(schema).build(BufReader::new(file))?))
    }

    /// The files of a table, in the order of their names.
    fn files(&self, table: TableName) -> Vec<PathBuf> {
        let of = |folder: &Option<PathBuf>, ending| folder.as_deref().map(|folder| files(folder, table, ending));
        let parquet = of(&self.folders.parquet, "parquet").unwrap_or_default();
        if parquet.is_empty() { of(&self.folders.ndjson, "ndjson").unwrap_or_default() } else { parquet }
    }

    /// Rule set and model of the newest readings, if they are in Parquet files.
    pub(super) fn newest_readings(&mut self) {
        let files = self.folders.parquet.as_deref().map(|folder| files(folder, TableName::Readings, "parquet"));
        let newest = files.unwrap_or_default().into_iter().max_by_key(|path| (first_epoch(path), path.clone()));
        // Without it the report says less; that the readings cannot be read is not its business.
        let said = newest.and_then(|path| scored_by(&path).ok());
        let (rule_set, model) = said.unwrap_or_default();
        self.provenance.rule_sets.extend(rule_set);
        self.provenance.model = model;
    }
}

impl Provenance {
    /// What a file says of itself.
    fn of(&mut self, file: &ParquetRecordBatchReaderBuilder<File>) {
        let pairs = file.metadata().file_metadata().key_value_metadata();
        for pair in pairs.into_iter().flatten() {
            let said = match pair.key.as_str() {
                "windkessel.flow" => &mut self.flows,
                "windkessel.rule_set" => &mut self.rule_sets,
                "windkessel.version" => &mut self.versions,
                _ => continue,
            };
            said.extend(pair.value.clone());
        }
    }
}

/// `rule_set` and `model` of the first row.
fn scored_by(path: &Path) -> Result<(Option<String>, Option<String>), ArrowError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), ["rule_set", "model"]);
    let mut batches = builder.with_projection(mask).with_limit(1).build()?;
    let Some(batch) = batches.next().transpose()? else { return Ok((None, None)) };
    let text = |name: &str| {
        let column = batch.column_by_name(name)?.as_string_opt::<i32>()?;
        column.iter().next().flatten().map(str::to_owned)
    };
    Ok((text("rule_set"), text("model")))
}

/// A schema in which everything may be absent, as it may in a line of JSON. Arrow's reader of JSON knows time zones by their offsets alone.
fn nullable(schema: &Schema, without: &[&str]) -> SchemaRef {
    let fields = schema.fields().iter().filter(|field| !without.contains(&field.name().as_str()));
    let field = |field: &FieldRef| match field.data_type() {
        DataType::Timestamp(unit, Some(_)) => {
            Field::new(field.name(), DataType::Timestamp(*unit, Some("+00:00".into())), true)
        }
        _ => Field::clone(field).with_nullable(true),
    };
    Arc::new(Schema::new(fields.map(field).collect::<Vec<_>>()))
}

/// The files of whole checkpoints of a table, in the order of their names. Hidden files are a sink's own.
pub(crate) fn files(folder: &Path, table: TableName, ending: &str) -> Vec<PathBuf> {
    let listed = newest_list(folder, ending);
    let entries = std::fs::read_dir(folder.join(table.name())).into_iter().flatten().flatten();
    let shown = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let hidden = name.starts_with(['.', '_']);
        let unfinished = listed.is_some_and(|listed| first_epoch(path).is_some_and(|first| first > listed));
        !hidden && !unfinished && path.extension().is_some_and(|found| found == ending)
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(shown).collect();
    files.sort();
    files
}

/// The newest checkpoint that a sink's lists name: `_committed/<20 digits>.<sink>.json`.
fn newest_list(folder: &Path, sink: &str) -> Option<Epoch> {
    let entries = std::fs::read_dir(folder.join("_committed")).ok()?.flatten();
    let epoch = |name: &str| name.strip_suffix(".json")?.strip_suffix(sink)?.strip_suffix('.')?.parse().ok();
    entries.filter_map(|entry| epoch(&entry.file_name().to_string_lossy())).max()
}

/// The first epoch in a name that a sink gave: `<first epoch>-g<generation>-…`.
fn first_epoch(path: &Path) -> Option<Epoch> {
    let name = path.file_name()?.to_str()?;
    let (epoch, rest) = name.split_once('-')?;
    rest.starts_with('g').then(|| epoch.parse().ok())?
}

/// All of time.
pub const ALWAYS: Span = (EventTime::MIN, EventTime::MAX);
