//! Parquet files: one dataset a table, below `<path>/<table>/`, readable by a glob over `*.parquet`.
//!
//! Files appear whole, and when their checkpoint is recorded ([`files`](crate::sink::files)). Settled (`close`) means handed to the encoder, in memory:
//! a crash of the process loses it, and the next run writes it again. Memory is bounded by `row_group_bytes` per table and worker.
//!
//! Every file says where it comes from, as key-value metadata `windkessel.*`: flow, key_id, rule_set, version, epoch_first, epoch_last, generation.
//! Statistics are kept for numbers and instants, by which readers prune; on texts they would cost more than the encoding itself
//! and prune nothing (pseudonyms are uniform). `patient` has a Bloom filter instead, so that one patient's rows are found without reading all.

use std::io;
use std::ops::RangeInclusive;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

use crate::config::ParquetSpec;
use crate::runtime::metrics::Metrics;
use crate::sink::files::{Clock, FileSink, Format, Limits, Output};
use crate::sink::{Rows, SinkError};
use crate::time::Epoch;

/// Rows encoded at once; parquet-rs's 1,024 costs a fifth more.
const WRITE_BATCH_ROWS: usize = 8_192;

/// Where the rows of a file come from. Names no secret: the key id is public.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// The flow's name.
    pub flow: String,
    /// Which key made the pseudonyms.
    pub key_id: String,
    /// Name of the rule set.
    pub rule_set: String,
    /// Version of the code.
    pub version: String,
}

/// The Parquet sink of one worker.
pub type ParquetSink = FileSink<Parquet>;

/// Rows as row groups.
#[derive(Debug)]
pub struct Parquet {
    row_group_bytes: usize,
    compression: Compression,
    provenance: Provenance,
}

impl ParquetSink {
    /// A sink below `spec.path`. Refuses a zstd level that does not exist.
    pub fn parquet(
        spec: &ParquetSpec,
        provenance: Provenance,
        generation: u64,
        worker: usize,
        clock: Clock,
        metrics: Metrics,
    ) -> Result<Self, SinkError> {
        let level = ZstdLevel::try_new(spec.zstd_level).map_err(|_| {
            SinkError::Refused(format!("sink.parquet.zstd_level must be between 1 and 22, got {}", spec.zstd_level))
        })?;
        let age_max = Duration::from_micros(u64::try_from(spec.file_age.micros()).unwrap_or(0));
        let limits = Limits { bytes_max: spec.file_bytes as u64, age_max };
        let compression = Compression::ZSTD(level);
        let format = Parquet { row_group_bytes: spec.row_group_bytes, compression, provenance };
        FileSink::new(format, spec.path.clone(), generation, worker, limits, clock, metrics)
    }
}

impl Format for Parquet {
    type Chunk = RecordBatch;
    type Writer = ArrowWriter<Box<dyn Output>>;
    const NAME: &'static str = "parquet";
    const SETTING: &'static str = "sink.parquet.path";

    fn chunk(&self, rows: &Rows) -> Result<Option<RecordBatch>, SinkError> {
        Ok((rows.batch.num_rows() > 0).then(|| rows.batch.clone()))
    }

    fn rows(chunk: &RecordBatch) -> u64 {
        chunk.num_rows() as u64
    }

    fn begin(&self, file: Box<dyn Output>, like: &RecordBatch) -> io::Result<ArrowWriter<Box<dyn Output>>> {
        let schema = like.schema();
        let properties = properties(&schema, self.compression);
        ArrowWriter::try_new(file, schema, Some(properties)).map_err(io_error)
    }

    fn write(&self, writer: &mut ArrowWriter<Box<dyn Output>>, chunk: &RecordBatch) -> io::Result<()> {
        writer.write(chunk).map_err(io_error)?;
        if writer.in_progress_size() >= self.row_group_bytes {
            writer.flush().map_err(io_error)?;
        }
        Ok(())
    }

    fn bytes(writer: &ArrowWriter<Box<dyn Output>>) -> u64 {
        (writer.bytes_written() + writer.in_progress_size()) as u64
    }

    fn settle(_: &mut ArrowWriter<Box<dyn Output>>) -> io::Result<()> {
        Ok(())
    }

    fn complete(
        &self,
        mut writer: ArrowWriter<Box<dyn Output>>,
        epochs: RangeInclusive<Epoch>,
        generation: u64,
    ) -> io::Result<u64> {
        let Provenance { flow, key_id, rule_set, version } = self.provenance.clone();
        let (first, last) = (epochs.start().to_string(), epochs.end().to_string());
        for (key, value) in [
            ("flow", flow),
            ("key_id", key_id),
            ("rule_set", rule_set),
            ("version", version),
            ("epoch_first", first),
            ("epoch_last", last),
            ("generation", generation.to_string()),
        ] {
            writer.append_key_value_metadata(KeyValue::new(format!("windkessel.{key}"), value));
        }
        // `into_inner` would hide what kind of error the last write had.
        writer.finish().map_err(io_error)?;
        writer.inner_mut().sync()
    }
}

/// How each column is encoded. The choices were measured on 10⁶ readings in batches of 8,192.
fn properties(schema: &SchemaRef, compression: Compression) -> WriterProperties {
    let start = WriterProperties::builder()
        .set_created_by(concat!("windkessel ", env!("CARGO_PKG_VERSION")).to_string())
        .set_compression(compression)
        .set_write_batch_size(WRITE_BATCH_ROWS)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_column_bloom_filter_enabled("patient".into(), true);
    schema.fields().iter().fold(start, |builder, field| column(builder, field.name(), field.data_type())).build()
}

fn column(builder: WriterPropertiesBuilder, name: &str, kind: &DataType) -> WriterPropertiesBuilder {
    let path = ColumnPath::from(name);
    match (name, kind) {
        // Never repeats: a dictionary would hold every value, and the length is always the same.
        ("observation", _) => builder
            .set_column_statistics_enabled(path.clone(), EnabledStatistics::None)
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, Encoding::DELTA_LENGTH_BYTE_ARRAY),
        (_, DataType::Utf8) => builder.set_column_statistics_enabled(path, EnabledStatistics::None),
        (_, DataType::List(item)) => {
            let item = ColumnPath::new(vec![name.into(), "list".into(), item.name().clone()]);
            builder.set_column_statistics_enabled(item, EnabledStatistics::None)
        }
        // Whole seconds repeat and suit a dictionary, which gives way to differences when it grows too large.
        ("effective_at", _) => builder.set_column_encoding(path, Encoding::DELTA_BINARY_PACKED),
        (_, DataType::Int32 | DataType::Int64 | DataType::Timestamp(_, _)) => builder
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED),
        // Hardly ever repeats; exponents of probabilities are alike, so their bytes stand together.
        ("probability", _) => builder
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, Encoding::BYTE_STREAM_SPLIT),
        // Hardly ever repeats either, and filling a dictionary of a megabyte until it gives up costs more than all else of the column.
        (name, DataType::Float64) if name.contains("_slope_") => builder
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, Encoding::BYTE_STREAM_SPLIT),
        _ => builder,
    }
}

/// The file system's own error where there is one.
fn io_error(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(inner) => *inner,
            Err(other) => io::Error::other(other),
        },
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests;
