"""What every peer in Python does alike: the job's numbers, its arguments, and how it says that the first message has come.

The job (BP-1): observations of Kafka are parsed by LOINC code, sorted into a band of ACC/AHA 2017, scored by a logistic model of both
pressures, pseudonymised, and gathered in one-minute windows of event time for each pseudonym, with ten minutes of allowed lateness.
Each observation becomes a row of `readings`, each window one of `windows`, with the names of Windkessel's columns.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import dataclass
from math import exp
from pathlib import Path

LOINC = "http://loinc.org"
SYSTOLIC_CODE = "8480-6"
DIASTOLIC_CODE = "8462-4"
WINDOW_MS = 60_000
LATENESS_MS = 600_000
MODEL_FILE = Path(__file__).parent / "model.json"
READING_COLUMNS = ("patient", "effective_at", "systolic_mmhg", "diastolic_mmhg", "category", "probability")
WINDOW_COLUMNS = (
    "patient",
    "window_start",
    "systolic_count",
    "systolic_mean_mmhg",
    "systolic_min_mmhg",
    "systolic_max_mmhg",
    "diastolic_count",
    "diastolic_mean_mmhg",
    "diastolic_min_mmhg",
    "diastolic_max_mmhg",
)


@dataclass(frozen=True)
class Job:
    """The arguments of one run."""

    brokers: str
    topic: str
    # The same observations as the topic's, one a line.
    file: Path
    output: Path
    workers: int
    key: bytes


def in_processes(workers: int, run: Callable[[int], None]) -> None:
    """Runs every share of the work, the first one here and each other in a process; ends with 1 if one of these failed."""
    others = [multiprocessing.Process(target=run, args=(share,)) for share in range(1, workers)]
    for process in others:
        process.start()
    run(0)
    for process in others:
        process.join()
        if process.exitcode != 0:
            sys.exit(1)


def arguments() -> Job:
    """Reads the command line; the folders of both tables are there afterwards."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--brokers", default="")
    parser.add_argument("--topic", default="")
    parser.add_argument("--file", type=Path, default=Path())
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--key-file", type=Path, required=True)
    given = parser.parse_args()
    for table in ("readings", "windows"):
        (given.output / table).mkdir(parents=True, exist_ok=True)
    key = bytes.fromhex(given.key_file.read_text().strip())
    return Job(given.brokers, given.topic, given.file, given.output, given.workers, key)


def say_first() -> None:
    """Tells the harness that what was spent so far was spent on starting."""
    print("first", flush=True)


def pseudonym(key: bytes, patient: str) -> str:
    """The first 16 bytes of HMAC-SHA-256(key, "Patient/" + logical id), in hexadecimal."""
    return hmac.digest(key, b"Patient/" + patient.encode(), hashlib.sha256)[:16].hex()


def category(systolic: float, diastolic: float) -> str:
    """The band of ACC/AHA 2017 (Whelton et al., Hypertension 2018;71:e13-e115, Table 6)."""
    if systolic > 180 or diastolic > 120:
        return "crisis"
    if systolic >= 140 or diastolic >= 90:
        return "stage 2"
    if systolic >= 130 or diastolic >= 80:
        return "stage 1"
    if systolic >= 120:
        return "elevated"
    return "normal"


class Model:
    """The logistic model of `model.json`, which is also the one that Windkessel loads."""

    def __init__(self) -> None:
        content = json.loads(MODEL_FILE.read_text())
        self.terms = content["features"]
        assert [term["name"] for term in self.terms] == ["systolic", "diastolic"]
        # Standardising is linear, so it can be done once: margin = offset + slope * systolic + slope * diastolic.
        self.slopes = [term["coefficient"] / term["scale"] for term in self.terms]
        means = [term["mean"] for term in self.terms]
        self.offset = content["intercept"] - sum(slope * mean for slope, mean in zip(self.slopes, means, strict=True))

    def probability(self, systolic: float, diastolic: float) -> float:
        """Of an adverse state; made-up coefficients without clinical meaning."""
        return 1 / (1 + exp(-(self.offset + self.slopes[0] * systolic + self.slopes[1] * diastolic)))


class Windows:
    """Tumbling windows by pseudonym; a window closes when every partition is ten minutes past its end."""

    def __init__(self, partitions: list[int]) -> None:
        self.open: dict[int, dict[str, list[float]]] = {}
        self.latest_ms = dict.fromkeys(partitions, -(1 << 62))
        self.closed_until_ms = -(1 << 62)
        self.late = 0

    def add(self, patient: str, at_ms: int, systolic: float, diastolic: float) -> None:
        """Puts a reading into its window, or counts it as late."""
        start_ms = at_ms - at_ms % WINDOW_MS
        if start_ms + WINDOW_MS <= self.closed_until_ms:
            self.late += 1
            return
        window = self.open.get(start_ms)
        if window is None:
            window = self.open[start_ms] = {}
        sums = window.get(patient)
        if sums is None:
            window[patient] = [1, systolic, systolic, systolic, diastolic, diastolic, diastolic]
            return
        sums[0] += 1
        sums[1] += systolic
        sums[4] += diastolic
        if systolic < sums[2]:
            sums[2] = systolic
        if systolic > sums[3]:
            sums[3] = systolic
        if diastolic < sums[5]:
            sums[5] = diastolic
        if diastolic > sums[6]:
            sums[6] = diastolic

    def advance(self, partition: int, at_ms: int) -> None:
        """A partition has come to this event time."""
        self.latest_ms[partition] = max(at_ms, self.latest_ms[partition])

    def end(self, partition: int) -> None:
        """A partition has no more messages, and holds no window open."""
        self.latest_ms[partition] = 1 << 62

    def close(self) -> list[tuple[int, dict[str, list[float]]]]:
        """The windows that can change no more, by their starts."""
        self.closed_until_ms = min(self.latest_ms.values()) - LATENESS_MS
        starts = [start for start in self.open if start + WINDOW_MS <= self.closed_until_ms]
        return [(start, self.open.pop(start)) for start in sorted(starts)]
