"""The job as a bytewax dataflow: its Kafka source, its event-time windows, and a Parquet sink of our own, since it has none.

A second core is a second process: its workers are threads of one interpreter.
"""

from __future__ import annotations

import socket
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from bytewax.connectors.kafka import KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import EventClock, TumblingWindower, fold_window
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.run import cli_main

sys.path.insert(0, str(Path(__file__).parent.parent))
from job import (
    DIASTOLIC_CODE,
    LATENESS_MS,
    LOINC,
    READING_COLUMNS,
    SYSTOLIC_CODE,
    WINDOW_COLUMNS,
    WINDOW_MS,
    Job,
    Model,
    arguments,
    category,
    in_processes,
    pseudonym,
    say_first,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIME = pa.timestamp("us", tz="UTC")
READINGS = pa.schema(list(zip(READING_COLUMNS, [pa.string(), TIME, pa.float64(), pa.float64(), pa.string(), pa.float64()], strict=True)))
PRESSURE = [pa.int64(), pa.float64(), pa.float64(), pa.float64()]
WINDOWS = pa.schema(list(zip(WINDOW_COLUMNS, [pa.string(), TIME, *PRESSURE, *PRESSURE], strict=True)))
ROW_GROUP = 50_000


class ParquetPartition(StatelessSinkPartition[tuple[Any, ...]]):
    """One worker's file."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema = schema
        self.writer = pq.ParquetWriter(path, schema, compression="zstd", compression_level=1)
        self.rows: list[tuple[Any, ...]] = []

    def write_batch(self, items: list[tuple[Any, ...]]) -> None:
        self.rows.extend(items)
        if len(self.rows) >= ROW_GROUP:
            self.flush()

    def flush(self) -> None:
        columns = zip(*self.rows, strict=True)
        arrays = [pa.array(column, kind) for column, kind in zip(columns, self.schema.types, strict=True)]
        self.writer.write_table(pa.table(arrays, schema=self.schema))
        self.rows.clear()

    def close(self) -> None:
        if self.rows:
            self.flush()
        self.writer.close()


class ParquetSink(DynamicSink[tuple[Any, ...]]):
    """A file for each worker."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder = folder
        self.schema = schema

    def build(self, _step_id: str, worker_index: int, _worker_count: int) -> ParquetPartition:
        return ParquetPartition(self.folder / f"part-{worker_index}.parquet", self.schema)


def flow_of(job: Job) -> Dataflow:
    """The graph."""
    score = Model().probability

    def reading(message: KafkaSourceMessage[Any, Any]) -> tuple[Any, ...] | None:
        observation = orjson.loads(message.value)
        if observation["resourceType"] != "Observation":
            return None
        values = {
            coding["code"]: component["valueQuantity"]["value"]
            for component in observation["component"]
            for coding in component["code"]["coding"]
            if coding["system"] == LOINC
        }
        systolic, diastolic = values.get(SYSTOLIC_CODE), values.get(DIASTOLIC_CODE)
        if systolic is None or diastolic is None:
            return None
        patient = pseudonym(job.key, observation["subject"]["reference"][8:])
        at = datetime.fromisoformat(observation["effectiveDateTime"])
        return patient, at, systolic, diastolic, category(systolic, diastolic), score(systolic, diastolic)

    def fold(sums: list[float], row: tuple[Any, ...]) -> list[float]:
        systolic, diastolic = row[2], row[3]
        if not sums:
            return [1, systolic, systolic, systolic, diastolic, diastolic, diastolic]
        count, s_sum, s_min, s_max, d_sum, d_min, d_max = sums
        low, high = (min(s_min, systolic), max(s_max, systolic)), (min(d_min, diastolic), max(d_max, diastolic))
        return [count + 1, s_sum + systolic, *low, d_sum + diastolic, *high]

    def window_row(closed: tuple[str, tuple[int, list[float]]]) -> tuple[Any, ...]:
        patient, (number, (count, s_sum, s_min, s_max, d_sum, d_min, d_max)) = closed
        start = EPOCH + timedelta(milliseconds=number * WINDOW_MS)
        return patient, start, count, s_sum / count, s_min, s_max, count, d_sum / count, d_min, d_max

    flow = Dataflow("blood_pressure")
    messages = op.input("source", flow, KafkaSource([job.brokers], [job.topic], tail=False, batch_size=5_000))
    readings = op.filter_map("decode", messages, reading)
    op.output("readings", readings, ParquetSink(job.output / "readings", READINGS))
    clock = EventClock(lambda row: row[1], wait_for_system_duration=timedelta(milliseconds=LATENESS_MS))
    windower = TumblingWindower(length=timedelta(milliseconds=WINDOW_MS), align_to=EPOCH)
    keyed = op.key_on("patient", readings, lambda row: row[0])
    closed = fold_window("window", keyed, clock, windower, list, fold, lambda one, other: one + other)
    rows = op.map("window_row", closed.down, window_row)
    op.output("windows", rows, ParquetSink(job.output / "windows", WINDOWS))
    return flow


def run(job: Job, number: int, addresses: list[str]) -> None:
    say_first()
    cli_main(flow_of(job), process_id=number if addresses else None, addresses=addresses or None)


def free_address() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


def main() -> None:
    job = arguments()
    addresses = [free_address() for _ in range(job.workers)] if job.workers > 1 else []
    in_processes(job.workers, lambda number: run(job, number, addresses))


if __name__ == "__main__":
    main()
