"""The usual Python consumer, message by message: kafka-python, json, a scikit-learn model, a line of NDJSON flushed for each row."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from kafka import KafkaConsumer, TopicPartition
from sklearn.linear_model import LogisticRegression

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
    pseudonym,
    say_first,
)


def trained() -> LogisticRegression:
    """The model of `model.json` as scikit-learn has it."""
    numbers = Model()
    model = LogisticRegression()
    model.classes_ = np.array([0, 1])
    model.coef_ = np.array([numbers.slopes])
    model.intercept_ = np.array([numbers.offset])
    return model


def value_of(observation: dict[str, Any], code: str) -> float | None:
    """The value of the component with this LOINC code."""
    for component in observation.get("component", []):
        for coding in component["code"]["coding"]:
            if coding.get("system") == LOINC and coding.get("code") == code:
                return float(component["valueQuantity"]["value"])
    return None


def write(file: TextIO, columns: tuple[str, ...], values: tuple[Any, ...]) -> None:
    json.dump(dict(zip(columns, values, strict=True)), file)
    file.write("\n")
    file.flush()


def iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()


class Pipeline:
    """What is done with each message."""

    def __init__(self, job: Job, partitions: list[int], readings: TextIO, windows: TextIO) -> None:
        self.key = job.key
        self.model = trained()
        self.windows = Windows(partitions)
        self.readings_file = readings
        self.windows_file = windows

    def observe(self, partition: int, payload: bytes) -> None:
        """Scores one message, if it is a blood pressure."""
        observation = json.loads(payload)
        if observation["resourceType"] != "Observation":
            return
        systolic, diastolic = value_of(observation, SYSTOLIC_CODE), value_of(observation, DIASTOLIC_CODE)
        if systolic is None or diastolic is None:
            return
        patient = pseudonym(self.key, observation["subject"]["reference"].removeprefix("Patient/"))
        at_ms = round(datetime.fromisoformat(observation["effectiveDateTime"]).timestamp() * 1000)
        probability = float(self.model.predict_proba([[systolic, diastolic]])[0][1])
        row = (patient, iso(at_ms), systolic, diastolic, category(systolic, diastolic), probability)
        write(self.readings_file, READING_COLUMNS, row)
        self.windows.add(patient, at_ms, systolic, diastolic)
        self.windows.advance(partition, at_ms)

    def close(self) -> None:
        """Writes the windows that can change no more."""
        for start_ms, patients in self.windows.close():
            for patient, (count, s_sum, s_min, s_max, d_sum, d_min, d_max) in patients.items():
                pressures = (count, s_sum / count, s_min, s_max, count, d_sum / count, d_min, d_max)
                write(self.windows_file, WINDOW_COLUMNS, (patient, iso(start_ms), *pressures))


def main() -> None:
    job = arguments()
    consumer = KafkaConsumer(bootstrap_servers=job.brokers, enable_auto_commit=False)
    partitions = [TopicPartition(job.topic, number) for number in consumer.partitions_for_topic(job.topic) or []]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    ends = consumer.end_offsets(partitions)
    with (
        (job.output / "readings" / "part.ndjson").open("w") as readings,
        (job.output / "windows" / "part.ndjson").open("w") as windows,
    ):
        pipeline = Pipeline(job, [partition.partition for partition in partitions], readings, windows)
        left = {partition for partition in partitions if ends[partition] > 0}
        say_first()
        while left:
            for partition, messages in consumer.poll(timeout_ms=100).items():
                for message in messages:
                    pipeline.observe(partition.partition, message.value)
            for partition in [one for one in left if consumer.position(one) >= ends[one]]:
                left.remove(partition)
                pipeline.windows.end(partition.partition)
            pipeline.close()
        pipeline.close()
    print(json.dumps({"late": pipeline.windows.late}))


if __name__ == "__main__":
    main()
