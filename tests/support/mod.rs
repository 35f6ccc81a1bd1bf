//! Drives the binary as a user would, and reads what it writes: NDJSON, Parquet, the summary. Compares it with the oracle.

pub(crate) mod canary;
pub(crate) mod crash;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use serde_json::{Map, Value};

use crate::oracle::{Aggregate, Expected, Window};

/// The key of all tests, as a key file holds it.
pub(crate) const KEY_TEXT: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// The same as bytes.
pub(crate) const KEY: [u8; 32] = {
    let mut key = [0; 32];
    let mut at = 0;
    while at < 32 {
        key[at] = at as u8;
        at += 1;
    }
    key
};
/// No step of a test takes longer, unless something hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(600);

/// The binary, in a folder of its own, with nothing of the tester's environment that changes what it does.
pub(crate) fn windkessel(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_windkessel"));
    command.current_dir(folder).env_remove("RUST_LOG").env("COLUMNS", "100").stdin(Stdio::null());
    command
}

/// A file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Writes the key of all tests, readable by its owner only, and returns the setting that names it.
pub(crate) fn key_file(folder: &Path) -> String {
    let path = folder.join("pseudonym.key");
    fs::write(&path, KEY_TEXT).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    format!("pseudonymise.key_file={path:?}")
}

/// What a finished process left.
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
    /// Largest resident set that was seen, in bytes; 0 where `/proc` is absent.
    pub(crate) resident_max: u64,
}

impl Finished {
    /// Its exit code; `None` if a signal ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Asserts that it did what it was asked.
    pub(crate) fn succeeded(self) -> Self {
        assert!(self.status.success(), "{}\n{}\n{}", self.status, self.out, self.err);
        self
    }

    /// The last line on standard error.
    pub(crate) fn last_words(&self) -> &str {
        self.err.trim_end().lines().last().unwrap_or_default()
    }
}

/// Runs a command to its end.
pub(crate) fn finish(command: &mut Command) -> Finished {
    Running::start(command).wait(DEADLINE)
}

/// A running process; killed on drop.
pub(crate) struct Running {
    child: Child,
    out: Output,
    err: Output,
    resident_max: u64,
}

struct Output {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Output {
    fn of(mut from: impl Read + Send + 'static) -> Output {
        let text = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 16_384];
            while let Ok(count) = from.read(&mut buffer) {
                if count == 0 {
                    break;
                }
                into.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Output { text, reader: Some(reader) }
    }

    fn now(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    fn all(&mut self) -> String {
        self.reader.take().unwrap().join().unwrap();
        self.now()
    }
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, err) = (Output::of(child.stdout.take().unwrap()), Output::of(child.stderr.take().unwrap()));
        Running { child, out, err, resident_max: 0 }
    }

    /// Standard input, if it was piped.
    pub(crate) fn stdin(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().unwrap()
    }

    /// What it has said so far on standard output.
    pub(crate) fn out(&self) -> String {
        self.out.now()
    }

    /// What it has said so far on standard error.
    pub(crate) fn err(&self) -> String {
        self.err.now()
    }

    /// Waits until `what` answers something.
    pub(crate) fn until<T>(&mut self, what: &str, mut test: impl FnMut(&Running) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = test(self) {
                return found;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "ended before {what}: {ended:?}\n{}\n{}", self.out.now(), self.err.now());
            assert!(begun.elapsed() < DEADLINE, "no {what}\n{}\n{}", self.out.now(), self.err.now());
            self.look_at_memory();
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Where its live page is, once it has said so.
    pub(crate) fn url(&mut self) -> String {
        self.until("the address of the live page", |running| {
            let err = running.err();
            let (_, rest) = err.split_once("http://")?;
            let end = rest.find('/')?;
            Some(format!("http://{}", &rest[..end]))
        })
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.child.id())).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self, deadline: Duration) -> Finished {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < deadline, "does not end\n{}\n{}", self.out.now(), self.err.now());
            self.look_at_memory();
            std::thread::sleep(Duration::from_millis(10));
        };
        Finished { status, out: self.out.all(), err: self.err.all(), resident_max: self.resident_max }
    }

    /// Kills it, as `kill -9` does.
    pub(crate) fn kill(mut self) -> Finished {
        let _ = self.child.kill();
        self.wait(DEADLINE)
    }

    /// True once it has ended by itself, if that is within this time.
    pub(crate) fn ends_within(&mut self, wait: Duration) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < wait {
            if self.child.try_wait().unwrap().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }

    fn look_at_memory(&mut self) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let peak =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        self.resident_max = self.resident_max.max(peak.unwrap_or(0_u64) * 1_024);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `GET`s a text.
pub(crate) fn get(url: &str) -> Option<String> {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    agent.get(url).call().ok()?.body_mut().read_to_string().ok()
}

/// The sum of a metric over the samples whose labels contain `label`.
pub(crate) fn metric(text: &str, name: &str, label: &str) -> f64 {
    let of = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let sample = rest.starts_with(['{', ' ']) && rest.contains(label);
        sample.then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    };
    text.lines().filter_map(of).sum()
}

/// The outcomes that a summary tells, and that it says they add up; of one process of several they need not.
pub(crate) fn outcomes(summary: &str) -> BTreeMap<String, u64> {
    const NAMES: [&str; 6] = ["contributed", "superseded", "duplicate", "late", "ignored", "rejected"];
    let table = summary.split('└').next().unwrap();
    assert!(table.contains("as many as were read") || table.contains("were read here: process"), "{summary}");
    let row = |line: &str| {
        let mut cells = line.split(['│', '┆']).map(str::trim).skip(1);
        let name = cells.next().filter(|name| NAMES.contains(name))?;
        Some((name.to_owned(), cells.next()?.replace(',', "").parse().ok()?))
    };
    let found: BTreeMap<String, u64> = table.lines().filter_map(row).collect();
    assert_eq!(found.len(), NAMES.len(), "{summary}");
    found
}

// ---------------------------------------------------------------- rows

/// A row as JSON; columns that are null are absent.
pub(crate) type Row = Map<String, Value>;

/// The rows of one table in all NDJSON files below a folder.
pub(crate) fn ndjson(folder: &Path, table: &str) -> Vec<Row> {
    let text = |path: PathBuf| fs::read_to_string(path).unwrap();
    let texts: Vec<String> = files(&folder.join(table), "ndjson").into_iter().map(text).collect();
    texts.iter().flat_map(|text| text.lines()).map(parsed).collect()
}

/// A row from its line, every number to its last bit: serde_json alone is quick rather than exact about the last digit.
pub(crate) fn parsed(line: &str) -> Row {
    let raw: BTreeMap<String, &serde_json::value::RawValue> = serde_json::from_str(line).unwrap();
    let value = |raw: &serde_json::value::RawValue| match raw.get() {
        number if number.contains('.') && number.parse::<f64>().is_ok() => number.parse::<f64>().unwrap().into(),
        other => serde_json::from_str(other).unwrap(),
    };
    raw.into_iter().map(|(column, raw)| (column, value(raw))).collect()
}

/// The rows of one table in all Parquet files below a folder, in the shape of [`ndjson`].
pub(crate) fn parquet(folder: &Path, table: &str) -> Vec<Row> {
    files(&folder.join(table), "parquet").into_iter().flat_map(|path| parquet_file(&path).unwrap()).collect()
}

/// The rows of one Parquet file.
pub(crate) fn parquet_file(path: &Path) -> Result<Vec<Row>, parquet::errors::ParquetError> {
    let mut rows = Vec::new();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path)?)?;
    for batch in reader.build()? {
        let batch: RecordBatch = batch?;
        rows.extend((0..batch.num_rows()).map(|row| row_of(&batch, row)));
    }
    Ok(rows)
}

fn row_of(batch: &RecordBatch, row: usize) -> Row {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns());
    let present = columns.filter(|(_, column)| column.is_valid(row));
    let row: BTreeMap<String, Value> =
        present.map(|(field, column)| (field.name().clone(), value_of(column, row))).collect();
    row.into_iter().collect()
}

fn value_of(column: &dyn Array, row: usize) -> Value {
    match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::Boolean => column.as_boolean().value(row).into(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).into(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(row).into(),
        DataType::Timestamp(_, _) => {
            let micros = column.as_primitive::<TimestampMicrosecondType>().value(row);
            format!("{:.6}", jiff::Timestamp::from_microsecond(micros).unwrap()).into()
        }
        DataType::List(_) => {
            let items = column.as_list::<i32>().value(row);
            (0..items.len()).map(|item| value_of(&items, item)).collect::<Vec<_>>().into()
        }
        other => panic!("a column of type {other}"),
    }
}

/// The files of this extension in a folder, sorted; none if it is not there.
pub(crate) fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    paths
}

/// Rows without what differs from run to run, sorted.
pub(crate) fn timeless(rows: &[Row]) -> Vec<String> {
    let text = |row: &Row| {
        let mut row = row.clone();
        row.remove("epoch");
        serde_json::to_string(&row).unwrap()
    };
    let mut texts: Vec<String> = rows.iter().map(text).collect();
    texts.sort();
    texts
}

/// Of each key the row of the highest epoch. No key may have two rows of one epoch.
pub(crate) fn last_rows(rows: &[Row], key: &[&str]) -> Vec<Row> {
    let mut last: BTreeMap<Vec<String>, &Row> = BTreeMap::new();
    for row in rows {
        let key = key.iter().map(|column| row[*column].to_string()).collect();
        match last.get(&key).map(|before| integer(before, "epoch").cmp(&integer(row, "epoch"))) {
            Some(std::cmp::Ordering::Equal) => panic!("two rows of one epoch: {row:?}"),
            Some(std::cmp::Ordering::Greater) => {}
            Some(std::cmp::Ordering::Less) | None => drop(last.insert(key, row)),
        }
    }
    last.into_values().cloned().collect()
}

pub(crate) fn integer(row: &Row, column: &str) -> i64 {
    row[column].as_i64().unwrap_or_else(|| panic!("{column} of {row:?}"))
}

pub(crate) fn text<'a>(row: &'a Row, column: &str) -> &'a str {
    row[column].as_str().unwrap_or_else(|| panic!("{column} of {row:?}"))
}

pub(crate) fn instant(row: &Row, column: &str) -> Option<i64> {
    row.get(column).map(|value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_microsecond())
}

fn close(found: Option<f64>, expected: Option<f64>, what: &dyn Fn() -> String) {
    let near = match (found, expected) {
        (Some(found), Some(expected)) => (found - expected).abs() <= 1e-9 * found.abs().max(expected.abs()).max(1.0),
        (None, None) => true,
        _ => false,
    };
    assert!(near, "{found:?}, not {expected:?}: {}", what());
}

/// What a run wrote.
pub(crate) struct Tables {
    pub(crate) readings: Vec<Row>,
    pub(crate) windows: Vec<Row>,
    pub(crate) rejected: Vec<Row>,
}

impl Tables {
    pub(crate) fn ndjson(folder: &Path) -> Tables {
        let of = |table| ndjson(folder, table);
        Tables { readings: of("readings"), windows: of("windows"), rejected: of("rejected") }
    }

    pub(crate) fn parquet(folder: &Path) -> Tables {
        let of = |table| parquet(folder, table);
        Tables { readings: of("readings"), windows: of("windows"), rejected: of("rejected") }
    }

    /// Everything that may not depend on workers, batches and epochs.
    pub(crate) fn lasting(&self) -> [Vec<String>; 3] {
        let windows = last_rows(&self.windows, &["patient", "window_start"]);
        [timeless(&self.readings), timeless(&windows), timeless(&self.rejected)]
    }

    /// Asserts that every row is what the oracle says, and that none is missing. `partition` tells the oracle's number for a row's.
    pub(crate) fn agree(&self, expected: &Expected, partition: &dyn Fn(&Row) -> i32) {
        let place = |row: &Row| (partition(row), integer(row, "offset"));
        self.readings_agree(expected, &place);
        let found: BTreeMap<(i32, i64), &str> =
            self.rejected.iter().map(|row| (place(row), text(row, "rule"))).collect();
        assert_eq!(found.len(), self.rejected.len(), "a rejection was written twice");
        assert_eq!(found, expected.rejected);
        self.windows_agree(expected);
    }

    fn readings_agree(&self, expected: &Expected, place: &dyn Fn(&Row) -> (i32, i64)) {
        let mut found: HashMap<(i32, i64), &Row> = HashMap::new();
        for row in &self.readings {
            assert!(found.insert(place(row), row).is_none(), "a reading was written twice: {row:?}");
        }
        for (place, reading) in &expected.readings {
            let row = found.remove(place).unwrap_or_else(|| panic!("no row of {place:?}: {reading:?}"));
            reading_agrees(row, reading);
        }
        assert!(found.is_empty(), "rows that nobody expects: {:?}", found.values().next());
    }

    /// The same of `windows` alone.
    pub(crate) fn windows_agree(&self, expected: &Expected) {
        let rows = last_rows(&self.windows, &["patient", "window_start"]);
        let key = |row: &Row| (text(row, "patient").to_owned(), instant(row, "window_start").unwrap());
        let found: BTreeMap<(String, i64), &Row> = rows.iter().map(|row| (key(row), row)).collect();
        let missing = expected.windows.keys().find(|key| !found.contains_key(*key));
        assert_eq!(missing, None, "a window without a row");
        let unexpected = found.keys().find(|key| !expected.windows.contains_key(*key));
        assert_eq!(unexpected, None, "a row of a window that nobody expects");
        for (key, window) in &expected.windows {
            window_agrees(found[key], window);
        }
    }
}

/// Asserts that two runs wrote the same, and shows the first row that they did not both write.
pub(crate) fn same(one: &Tables, other: &Tables, what: &str) {
    for (one, other) in one.lasting().iter().zip(&other.lasting()) {
        let differing = one.iter().zip(other).find(|(one, other)| one != other);
        assert!(differing.is_none(), "{what}: {differing:#?}");
        assert_eq!(one.len(), other.len(), "{what}");
    }
}

/// Asserts that a row of `readings` is what the oracle says.
pub(crate) fn reading_agrees(row: &Row, expected: &crate::oracle::Reading) {
    let what = || format!("{row:?} against {expected:?}");
    let number = |column: &str| row.get(column).map(|value| value.as_f64().unwrap());
    assert_eq!(text(row, "patient"), expected.patient, "{}", what());
    assert_eq!(text(row, "observation"), expected.observation, "{}", what());
    assert_eq!(text(row, "status"), expected.status, "{}", what());
    assert_eq!(row.get("version").and_then(Value::as_i64), expected.version, "{}", what());
    assert_eq!(instant(row, "effective_at"), Some(expected.at), "{}", what());
    assert_eq!(instant(row, "received_at"), expected.received_at, "{}", what());
    assert_eq!(row.get("category").and_then(Value::as_str), expected.category, "{}", what());
    assert_eq!(row["late"], expected.late, "{}", what());
    close(number("systolic_mmhg"), expected.systolic, &what);
    close(number("diastolic_mmhg"), expected.diastolic, &what);
    close(number("mean_arterial_mmhg"), expected.mean_arterial, &what);
}

fn window_agrees(row: &Row, expected: &Window) {
    let what = || format!("{row:?} against {expected:?}");
    let number = |column: String| row.get(&column).map(|value| value.as_f64().unwrap());
    assert_eq!(integer(row, "revision"), expected.revision, "{}", what());
    assert_eq!(integer(row, "mean_arterial_count"), 0, "{}", what());
    for (name, aggregate) in [("systolic", &expected.systolic), ("diastolic", &expected.diastolic)] {
        let of = |statistic: &str| number(format!("{name}_{statistic}"));
        let is = |statistic, value: fn(&Aggregate) -> Option<f64>| {
            close(of(statistic), aggregate.as_ref().and_then(value), &what);
        };
        assert_eq!(integer(row, &format!("{name}_count")), aggregate.as_ref().map_or(0, |found| found.count));
        is("mean_mmhg", |found| Some(found.mean));
        is("min_mmhg", |found| Some(found.min));
        is("max_mmhg", |found| Some(found.max));
        is("standard_deviation_mmhg", |found| found.standard_deviation);
        is("slope_mmhg_per_hour", |found| found.slope_per_hour);
        is("last_mmhg", |found| Some(found.last));
    }
    let measured = expected.systolic.is_some();
    close(number("systolic_above_seconds".into()), measured.then_some(expected.above_seconds), &what);
    close(number("systolic_below_seconds".into()), measured.then_some(expected.below_seconds), &what);
}
