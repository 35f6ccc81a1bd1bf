"""What a drift report of Evidently costs: the preset over a million rows against a million, six columns.

    python drift_report.py [ROWS]

Needs a Python with evidently, numpy and pandas. Prints user and system time of the report alone, making the rows not counted.
"""

import resource
import sys

import numpy
import pandas
from evidently import Report
from evidently.presets import DataDriftPreset

COLUMNS = ["systolic", "diastolic", "mean_arterial", "pulse_pressure", "age", "probability"]


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def rows(count: int, seed: int) -> pandas.DataFrame:
    random = numpy.random.default_rng(seed)
    systolic, diastolic = random.normal(128, 15, count).round(), random.normal(76, 9, count).round()
    columns = [systolic, diastolic, diastolic + (systolic - diastolic) / 3, systolic - diastolic]
    columns += [random.integers(18, 95, count).astype(float), random.random(count)]
    return pandas.DataFrame(dict(zip(COLUMNS, columns, strict=True)))


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    reference, current = rows(count, 1), rows(count, 2)
    before = cpu_seconds()
    Report([DataDriftPreset()]).run(current, reference).dict()
    print(
        f"Evidently's data drift preset, {count:,} rows against as many, {len(COLUMNS)} columns: {cpu_seconds() - before:.2f} CPU seconds"
    )


if __name__ == "__main__":
    main()
