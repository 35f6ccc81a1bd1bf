"""As fast as Python goes: librdkafka in batches, orjson, Parquet from columns, one process for each core.

The pseudonym of a patient is kept (`--hmac kept`) or computed for each message (`--hmac each`).
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import Consumer, KafkaError, TopicPartition

sys.path.insert(0, str(Path(__file__).parent.parent))
from job import (
    DIASTOLIC_CODE,
    LOINC,
    READING_COLUMNS,
    SYSTOLIC_CODE,
    WINDOW_COLUMNS,
    Job,
    Model,
    Windows,
    arguments,
    category,
    in_processes,
    pseudonym,
    say_first,
)

BATCH = 5_000
ROW_GROUP = 100_000
TIME = pa.timestamp("ms", tz="UTC")
READINGS = pa.schema(list(zip(READING_COLUMNS, [pa.string(), TIME, pa.float64(), pa.float64(), pa.string(), pa.float64()], strict=True)))
PRESSURE = [pa.int64(), pa.float64(), pa.float64(), pa.float64()]
WINDOWS = pa.schema(list(zip(WINDOW_COLUMNS, [pa.string(), TIME, *PRESSURE, *PRESSURE], strict=True)))


class Table:
    """Columns that are filled row by row and written a row group at a time."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema = schema
        self.writer = pq.ParquetWriter(path, schema, compression="zstd", compression_level=1)
        self.rows: list[tuple[Any, ...]] = []

    def flush(self, rows_min: int = 1) -> None:
        """Writes what has come together, if it is so many rows."""
        if len(self.rows) < rows_min:
            return
        columns = [pa.array(column, kind) for column, kind in zip(zip(*self.rows, strict=True), self.schema.types, strict=True)]
        self.writer.write_table(pa.table(columns, schema=self.schema))
        self.rows.clear()

    def close(self) -> None:
        self.flush()
        self.writer.close()


@lru_cache(maxsize=4_096)
def minute_ms(text: str) -> int:
    """The Unix time of a text such as 2026-01-05T00:00, UTC; consecutive readings have the same."""
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def instant_ms(text: str) -> int:
    """The Unix time of an instant in UTC with milliseconds, as all of this topic are."""
    assert text[23:] == "Z"
    return minute_ms(text[:16]) + int(text[17:19]) * 1000 + int(text[20:23])


def pressures(observation: dict[str, Any]) -> tuple[float, float] | None:
    """Systolic and diastolic by their LOINC codes."""
    systolic = diastolic = None
    for component in observation["component"]:
        for coding in component["code"]["coding"]:
            if coding["system"] != LOINC:
                continue
            if coding["code"] == SYSTOLIC_CODE:
                systolic = component["valueQuantity"]["value"]
            elif coding["code"] == DIASTOLIC_CODE:
                diastolic = component["valueQuantity"]["value"]
    return None if systolic is None or diastolic is None else (systolic, diastolic)


class Pipeline:
    """One process's share."""

    def __init__(self, job: Job, share: int, partitions: list[int], keep: bool) -> None:
        name = f"part-{share}.parquet"
        self.readings = Table(job.output / "readings" / name, READINGS)
        self.closed = Table(job.output / "windows" / name, WINDOWS)
        self.windows = Windows(partitions)
        self.probability = Model().probability
        self.key = job.key
        self.kept: dict[str, str] | None = {} if keep else None

    def pseudonym(self, patient: str) -> str:
        if self.kept is None:
            return pseudonym(self.key, patient)
        found = self.kept.get(patient)
        if found is None:
            found = self.kept[patient] = pseudonym(self.key, patient)
        return found

    def observe(self, partition: int, payload: bytes) -> None:
        """Scores one message, if it is a blood pressure."""
        observation = orjson.loads(payload)
        if observation["resourceType"] != "Observation":
            return
        both = pressures(observation)
        if both is None:
            return
        systolic, diastolic = both
        patient = self.pseudonym(observation["subject"]["reference"][8:])
        at_ms = instant_ms(observation["effectiveDateTime"])
        band, probability = category(systolic, diastolic), self.probability(systolic, diastolic)
        self.readings.rows.append((patient, at_ms, systolic, diastolic, band, probability))
        self.windows.add(patient, at_ms, systolic, diastolic)
        self.windows.advance(partition, at_ms)

    def settle(self) -> None:
        """Writes what can change no more."""
        self.readings.flush(ROW_GROUP)
        for start_ms, patients in self.windows.close():
            for patient, (count, s_sum, s_min, s_max, d_sum, d_min, d_max) in patients.items():
                row = (patient, start_ms, count, s_sum / count, s_min, s_max, count, d_sum / count, d_min, d_max)
                self.closed.rows.append(row)
        self.closed.flush(ROW_GROUP)


def consume(job: Job, share: int, keep: bool) -> None:
    """Reads this process's partitions to their ends."""
    settings = {
        "bootstrap.servers": job.brokers,
        "group.id": "peers-best-python",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "fetch.queue.backoff.ms": 1,
    }
    consumer = Consumer(settings)
    numbers = sorted(consumer.list_topics(job.topic, timeout=30).topics[job.topic].partitions)[share :: job.workers]
    consumer.assign([TopicPartition(job.topic, number, 0) for number in numbers])
    pipeline = Pipeline(job, share, numbers, keep)
    left = set(numbers)
    say_first()
    while left:
        for message in consumer.consume(BATCH, timeout=0.05):
            error = message.error()
            if error is None:
                pipeline.observe(message.partition(), message.value())
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition())
                pipeline.windows.end(message.partition())
            else:
                raise RuntimeError(error.str())
        pipeline.settle()
    pipeline.settle()
    pipeline.readings.close()
    pipeline.closed.close()
    consumer.close()
    print(json.dumps({"late": pipeline.windows.late}), flush=True)


def main() -> None:
    keep = "--hmac=each" not in sys.argv
    sys.argv = [word for word in sys.argv if not word.startswith("--hmac=")]
    job = arguments()
    in_processes(job.workers, lambda share: consume(job, share, keep))


if __name__ == "__main__":
    main()
