//! Lines are read back by serde_json and compared with the batch; filters and fields.

use serde_json::Value;
use std::path::Path;
use tempfile::TempDir;

use super::*;
use crate::config::ReadingFilter;
use crate::sink::files::Folder;
use crate::sink::testing::{self, Hand, many, visible};
use crate::sink::{Deliver, StagedFile};

fn sink(folder: &Path, adapt: impl Fn(&mut NdjsonSpec)) -> NdjsonSink {
    let mut spec = NdjsonSpec { path: folder.to_path_buf(), ..NdjsonSpec::default() };
    adapt(&mut spec);
    NdjsonSink::ndjson(&spec, 1, 0, Hand::new().clock(), Metrics::new()).unwrap()
}

fn publish(folder: &Path, checkpoint: Epoch, files: &[StagedFile]) {
    Folder::of::<Ndjson>(folder.into()).publish(checkpoint, files, true).unwrap();
}

fn read(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_row_of_every_table_is_a_line() {
    let folder = TempDir::new().unwrap();
    let mut sink = sink(folder.path(), |_| {});
    sink.deliver(7, &many(7, 500)).unwrap();
    sink.deliver(7, &testing::rejected(7, 3)).unwrap();
    sink.close(7).unwrap();
    sink.deliver(8, &many(8, 20)).unwrap();
    sink.close(8).unwrap();
    let files = sink.stage(9).unwrap();
    assert_eq!(files.iter().map(|file| file.rows).collect::<Vec<_>>(), [520, 3]);
    publish(folder.path(), 9, &files);
    let readings = read(&folder.path().join("readings/7-g1-w0-0.ndjson"));
    assert_eq!(readings.len(), 520);
    let mut expected = json::rows(&many(7, 500).batch, &BTreeMap::new()).unwrap().into_bytes();
    expected.extend(json::rows(&many(8, 20).batch, &BTreeMap::new()).unwrap().into_bytes());
    assert_eq!(std::fs::read(folder.path().join("readings/7-g1-w0-0.ndjson")).unwrap(), expected);
    assert_eq!((&readings[3]["systolic_mmhg"], &readings[519]["epoch"]), (&131.0.into(), &8.into()));
    assert_eq!(read(&folder.path().join("rejected/7-g1-w0-0.ndjson")).len(), 3);
}

#[test]
fn anomalies_alone_under_the_names_that_a_dashboard_knows() {
    let folder = TempDir::new().unwrap();
    let mut sink = sink(folder.path(), |spec| {
        spec.readings = ReadingFilter::Anomalies;
        let fields = [("patient_id", "patient"), ("anomaly_type", "reasons"), ("systolic_pressure", "systolic_mmhg")];
        spec.fields = fields.map(|(field, column)| (field.into(), column.into())).into();
    });
    sink.deliver(7, &testing::readings(7, &[(120.0, false), (170.0, false), (121.0, true)])).unwrap();
    let files = sink.stage(7).unwrap();
    assert_eq!(files[0].rows, 2, "rows that were left out are not counted");
    publish(folder.path(), 7, &files);
    let text = std::fs::read_to_string(folder.path().join("readings/7-g1-w0-0.ndjson")).unwrap();
    expect_test::expect![[r#"
        {"anomaly_type":["systolic_high"],"patient_id":"01010101010101010101010101010101","systolic_pressure":170.0}
        {"anomaly_type":[],"patient_id":"02020202020202020202020202020202","systolic_pressure":121.0}
    "#]]
    .assert_eq(&text);
}

#[test]
fn a_filter_that_lets_nothing_through_makes_no_file() {
    let folder = TempDir::new().unwrap();
    let mut sink = sink(folder.path(), |spec| spec.readings = ReadingFilter::Anomalies);
    sink.deliver(7, &testing::readings(7, &[(120.0, false)])).unwrap();
    sink.close(7).unwrap();
    assert_eq!(sink.stage(7).unwrap(), []);
    assert!(testing::names(&folder.path().join("readings")).is_empty());
}

#[test]
fn tables_that_are_not_asked_for_are_not_written() {
    let folder = TempDir::new().unwrap();
    let mut sink = sink(folder.path(), |spec| spec.tables = vec![TableName::Rejected]);
    sink.deliver(7, &many(7, 5)).unwrap();
    sink.deliver(7, &testing::rejected(7, 1)).unwrap();
    assert_eq!(sink.stage(7).unwrap().len(), 1);
    assert_eq!(visible(folder.path()), ["rejected"]);
}

#[test]
fn closing_an_epoch_hands_its_lines_to_the_operating_system() {
    let folder = TempDir::new().unwrap();
    let mut sink = sink(folder.path(), |_| {});
    sink.deliver(7, &many(7, 2)).unwrap();
    let temporary = || testing::names(&folder.path().join("readings")).remove(0);
    let bytes = || std::fs::metadata(folder.path().join("readings").join(temporary())).unwrap().len();
    assert_eq!(bytes(), 0);
    sink.close(7).unwrap();
    assert_eq!(bytes(), json::rows(&many(7, 2).batch, &BTreeMap::new()).unwrap().bytes().len() as u64);
}

#[test]
fn a_field_of_an_unknown_column_is_refused() {
    let folder = TempDir::new().unwrap();
    let mut sink = sink(folder.path(), |spec| spec.fields = [("a".into(), "systolic".into())].into());
    let error = sink.deliver(7, &many(7, 1)).unwrap_err().to_string();
    assert!(
        error.starts_with(r#"sink.ndjson.fields: could not write field "a": there is no column "systolic""#),
        "{error}"
    );
}
