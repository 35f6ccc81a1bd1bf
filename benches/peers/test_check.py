"""Proves that `check.py` notices every way in which answers can be wrong. Runs in DuckDB's environment: `python -m unittest`."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

import duckdb
from check import VALUES, compare

READINGS = """
SELECT printf('%032x', n % 7) AS patient, TIMESTAMPTZ '2026-01-05 00:00:00Z' + INTERVAL (n) SECOND AS effective_at,
    110.0 + n % 40 AS systolic_mmhg, 70.0 + n % 20 AS diastolic_mmhg,
    CASE WHEN n % 40 < 20 THEN 'normal' ELSE 'stage 1' END AS category, 1.0 / (2 + n) AS probability
FROM range(500) AS r(n)
"""
WINDOWS = """
SELECT patient, time_bucket(INTERVAL '1 minute', effective_at) AS window_start,
    count(*) AS systolic_count, avg(systolic_mmhg) AS systolic_mean_mmhg,
    min(systolic_mmhg) AS systolic_min_mmhg, max(systolic_mmhg) AS systolic_max_mmhg,
    count(*) AS diastolic_count, avg(diastolic_mmhg) AS diastolic_mean_mmhg,
    min(diastolic_mmhg) AS diastolic_min_mmhg, max(diastolic_mmhg) AS diastolic_max_mmhg
FROM readings GROUP BY ALL
"""


class Check(unittest.TestCase):
    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        self.write("reference")

    def write(self, name: str, *changes: str, suffix: str = "parquet") -> Path:
        """The right answers, changed by some statements on the tables `readings` and `windows`."""
        database = duckdb.connect()
        database.execute("SET TimeZone = 'UTC'")
        database.execute(f"CREATE TABLE readings AS {READINGS}")
        database.execute(f"CREATE TABLE windows AS {WINDOWS}")
        for change in changes:
            database.execute(change)
        for table in ("readings", "windows"):
            (self.folder / name / table).mkdir(parents=True)
            kind = "parquet" if suffix == "parquet" else "json"
            database.execute(f"COPY {table} TO '{self.folder / name / table / f'part.{suffix}'}' (FORMAT {kind})")
        return self.folder / name

    def differences(self, *changes: str) -> list[str]:
        verdict = compare(self.folder / "reference", self.write("candidate", *changes))
        self.assertEqual(verdict["missing"], [])
        return [*verdict["readings"], *verdict["windows"]]

    def test_the_same_answers_are_equal_in_either_format(self) -> None:
        self.assertEqual(self.differences(), [])
        verdict = compare(self.folder / "reference", self.write("lines", suffix="ndjson"))
        self.assertEqual((verdict["missing"], verdict["readings"], verdict["windows"]), ([], [], []))
        self.assertEqual(verdict["readings_count"], 500)

    def test_rows_that_are_missing_doubled_or_changed_are_noticed(self) -> None:
        one = "WHERE effective_at = TIMESTAMPTZ '2026-01-05 00:03:20Z'"
        changes = [f"DELETE FROM readings {one}", f"INSERT INTO readings SELECT * FROM readings {one}"]
        columns = {"patient": "'x'", "category": "'crisis'", "systolic_mmhg": "1.5", "effective_at": "now()"}
        changes += [f"UPDATE readings SET {column} = {value} {one}" for column, value in columns.items()]
        changes += [f"UPDATE readings SET probability = probability + 1e-6 {one}"]
        changes += [f"UPDATE readings SET {column} = NULL {one}" for column in ("patient", "category", "diastolic_mmhg")]
        for number, change in enumerate(changes):
            verdict = compare(self.folder / "reference", self.write(f"candidate-{number}", change))
            self.assertTrue(verdict["readings"], change)
            self.assertEqual(verdict["windows"], [], change)

    def test_windows_that_are_missing_doubled_or_changed_are_noticed(self) -> None:
        one = "WHERE patient LIKE '%3' AND window_start = TIMESTAMPTZ '2026-01-05 00:03:00Z'"
        changes = [f"DELETE FROM windows {one}", f"INSERT INTO windows SELECT * FROM windows {one}"]
        changes += [f"UPDATE windows SET {value} = {value} + 1 {one}" for value in VALUES]
        changes += [f"UPDATE windows SET {value} = NULL {one}" for value in VALUES]
        changes += [f"UPDATE windows SET systolic_mean_mmhg = systolic_mean_mmhg + 1e-6 {one}"]
        changes += [f"UPDATE windows SET window_start = window_start + INTERVAL 1 HOUR {one}"]
        for number, change in enumerate(changes):
            verdict = compare(self.folder / "reference", self.write(f"candidate-{number}", change))
            self.assertTrue(verdict["windows"], change)
            self.assertEqual(verdict["readings"], [], change)

    def test_a_window_that_was_written_again_counts_as_it_was_written_last(self) -> None:
        again = [
            "ALTER TABLE windows ADD COLUMN revision BIGINT DEFAULT 1",
            "ALTER TABLE windows ADD COLUMN epoch BIGINT DEFAULT 9",
        ]
        wrong_at_first = "INSERT INTO windows SELECT * REPLACE (0 AS systolic_count, 0 AS revision, 8 AS epoch) FROM windows"
        wrong_at_last = wrong_at_first.replace("0 AS revision", "2 AS revision")
        self.assertEqual(self.differences(*again, wrong_at_first), [])
        verdict = compare(self.folder / "reference", self.write("last", *again, wrong_at_last))
        self.assertTrue(verdict["windows"])

    def test_a_part_that_is_not_there_is_missing_and_not_equal(self) -> None:
        candidate = self.write("candidate")
        (candidate / "windows" / "part.parquet").unlink()
        verdict = compare(self.folder / "reference", candidate)
        self.assertEqual(verdict["missing"], ["windows"])
        self.assertNotIn("windows", verdict)


if __name__ == "__main__":
    unittest.main()
