//! Files are read back with parquet-rs and, if `WINDKESSEL_TEST_PYTHON` names an interpreter that has them, with pyarrow and DuckDB.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use arrow::compute::concat_batches;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::{FileReader, SerializedFileReader};
use tempfile::TempDir;

use super::*;
use crate::sink::files::Folder;
use crate::sink::testing::{self, Hand, many, visible};
use crate::sink::{Deliver, json};

fn sink(folder: &Path, adapt: impl Fn(&mut ParquetSpec)) -> ParquetSink {
    let mut spec = ParquetSpec { path: folder.to_path_buf(), ..ParquetSpec::default() };
    adapt(&mut spec);
    let provenance = Provenance {
        flow: "blood_pressure".into(),
        key_id: "k1".into(),
        rule_set: "acc_aha_2017".into(),
        version: "0.1.0".into(),
    };
    ParquetSink::parquet(&spec, provenance, 4, 2, Hand::new().clock(), Metrics::new()).unwrap()
}

/// A checkpoint of all that was delivered.
fn publish(folder: &Path, sink: &mut ParquetSink) {
    let files = sink.stage(9).unwrap();
    for file in &files {
        let path = folder.join(file.table.name()).join(format!(".{}.staged", file.name));
        assert_eq!(read(&path).num_rows() as u64, file.rows);
    }
    Folder::of::<Parquet>(folder.into()).publish(9, &files, true).unwrap();
}

fn read(path: &Path) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let schema = reader.schema().clone();
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

fn lines(batch: &RecordBatch) -> Vec<u8> {
    json::rows(batch, &BTreeMap::new()).unwrap().into_bytes()
}

#[test]
fn what_was_written_is_read_back_with_the_same_schema() {
    let folder = TempDir::new().unwrap();
    let mut sink = sink(folder.path(), |_| {});
    let (first, second, rejected) = (many(7, 3_000), many(8, 10), testing::rejected(8, 4));
    sink.deliver(7, &first).unwrap();
    sink.close(7).unwrap();
    sink.deliver(8, &second).unwrap();
    sink.deliver(8, &rejected).unwrap();
    sink.close(8).unwrap();
    publish(folder.path(), &mut sink);

    let readings = read(&folder.path().join("readings/7-g4-w2-0.parquet"));
    let expected = concat_batches(&first.batch.schema(), [&first.batch, &second.batch]).unwrap();
    assert_eq!(readings.schema().fields(), expected.schema().fields());
    assert_eq!(lines(&readings), lines(&expected));
    assert_eq!(lines(&read(&folder.path().join("rejected/8-g4-w2-0.parquet"))), lines(&rejected.batch));
    assert_eq!(visible(folder.path()), ["_committed", "readings", "rejected"]);
}

#[test]
fn a_file_says_where_it_comes_from_and_what_range_its_numbers_have() {
    let folder = TempDir::new().unwrap();
    let mut sink = sink(folder.path(), |_| {});
    for epoch in [7, 9] {
        sink.deliver(epoch, &many(epoch, 100)).unwrap();
    }
    publish(folder.path(), &mut sink);
    let file = File::open(folder.path().join("readings/7-g4-w2-0.parquet")).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let metadata = reader.metadata();
    let said: Vec<String> = metadata
        .file_metadata()
        .key_value_metadata()
        .unwrap()
        .iter()
        .filter(|pair| pair.key.starts_with("windkessel."))
        .map(|pair| format!("{}={}", &pair.key[11..], pair.value.as_deref().unwrap()))
        .collect();
    let expected = ["flow=blood_pressure", "key_id=k1", "rule_set=acc_aha_2017", "version=0.1.0"];
    assert_eq!(said, [&expected[..], &["epoch_first=7", "epoch_last=9", "generation=4"]].concat());
    let group = metadata.row_group(0);
    for column in group.columns() {
        let name = column.column_path().string();
        let text = column.column_type() == parquet::basic::Type::BYTE_ARRAY;
        assert_eq!(column.statistics().is_some(), !text, "{name}");
        assert!(matches!(column.compression(), Compression::ZSTD(_)), "{name}");
        assert_eq!(column.bloom_filter_offset().is_some(), name == "patient", "{name}");
    }
}

#[test]
fn a_row_group_is_closed_when_it_has_its_bytes() {
    for (row_group_bytes, groups) in [(1, 3), (usize::MAX, 1)] {
        let folder = TempDir::new().unwrap();
        let mut sink = sink(folder.path(), |spec| spec.row_group_bytes = row_group_bytes);
        (1..=3).for_each(|epoch| sink.deliver(epoch, &many(epoch, 50)).unwrap());
        publish(folder.path(), &mut sink);
        let file = File::open(folder.path().join("readings/1-g4-w2-0.parquet")).unwrap();
        assert_eq!(SerializedFileReader::new(file).unwrap().metadata().num_row_groups(), groups);
    }
}

#[test]
fn a_level_that_zstd_does_not_have_is_refused_by_name() {
    let spec = ParquetSpec { zstd_level: 99, path: TempDir::new().unwrap().path().into(), ..ParquetSpec::default() };
    let provenance =
        Provenance { flow: String::new(), key_id: String::new(), rule_set: String::new(), version: String::new() };
    let error = ParquetSink::parquet(&spec, provenance, 4, 0, Hand::new().clock(), Metrics::new()).err().unwrap();
    assert_eq!(error.to_string(), "sink.parquet.zstd_level must be between 1 and 22, got 99");
}

#[test]
fn rows_of_no_rows_make_no_file() {
    let folder = TempDir::new().unwrap();
    let mut sink = sink(folder.path(), |_| {});
    sink.deliver(1, &many(1, 0)).unwrap();
    sink.close(1).unwrap();
    assert_eq!(sink.stage(1).unwrap(), []);
    assert!(testing::names(&folder.path().join("readings")).is_empty());
}

/// Prints rows and columns as pyarrow and DuckDB see them.
const OTHER_READERS: &str = r#"
import sys, pyarrow.parquet as pq, pyarrow as pa, duckdb
folder = sys.argv[1] + "/readings"
table = pq.read_table(folder)
assert table.schema.field("reasons").type.value_type == pa.string(), table.schema
assert str(table.schema.field("effective_at").type) == "timestamp[us, tz=UTC]", table.schema
one = duckdb.sql(f"""select count(*), sum(systolic_mmhg), count(distinct patient), max(len(reasons)), max(epoch),
    count(distinct observation), min(epoch_us(effective_at)), avg(probability) from '{folder}/*.parquet'""").fetchall()[0]
import pyarrow.compute as pc
other = (table.num_rows, pc.sum(table["systolic_mmhg"]).as_py(), len(pc.unique(table["patient"])),
    pc.max(pc.list_value_length(table["reasons"])).as_py(), pc.max(table["epoch"]).as_py(),
    len(pc.unique(table["observation"])), pc.min(table["effective_at"]).cast(pa.int64()).as_py())
assert one[:7] == other, (one, other)
patient = table["patient"][0].as_py()
assert duckdb.sql(f"select count(*) from '{folder}/*.parquet' where patient = '{patient}'").fetchall()[0][0] == \
    pc.sum(pc.equal(table["patient"], patient)).as_py() > 9000
print(*one[:7])
"#;

#[test]
fn pyarrow_and_duckdb_read_what_we_write() {
    let Ok(python) = std::env::var("WINDKESSEL_TEST_PYTHON") else {
        println!("skipped: WINDKESSEL_TEST_PYTHON names no interpreter with pyarrow and duckdb");
        return;
    };
    let folder = TempDir::new().unwrap();
    let mut sink = sink(folder.path(), |spec| spec.row_group_bytes = 400_000);
    sink.deliver(7, &many(7, 50_000)).unwrap();
    publish(folder.path(), &mut sink);
    // A temporary beside them is not read.
    std::fs::write(folder.path().join("readings/.8-g4-w2-0.parquet.open"), "half").unwrap();
    let output = std::process::Command::new(python).args(["-c", OTHER_READERS]).arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let sum: f64 = (0..50_000).map(|at| 110.0 + (at * 7 % 60) as f64).sum();
    let expected = format!("50000 {sum:.1} 5 1 7 50000 {}", testing::NEW_YEAR);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected);
}
