"""Compares a peer's answers with the reference's, row by row. Runs in DuckDB's environment: `check.py REFERENCE CANDIDATE`.

Prints one JSON object; a list in it that is empty means that this part is the same.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import duckdb

READING_KEY = "patient, effective_at, systolic_mmhg, diastolic_mmhg, category"
AGGREGATES = ("count", "mean_mmhg", "min_mmhg", "max_mmhg")
VALUES = [f"{signal}_{aggregate}" for signal in ("systolic", "diastolic") for aggregate in AGGREGATES]
# Sums in another order may differ in their last bits, which are far below this.
TOLERANCE = 1e-9


def files(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*") if path.suffix in (".parquet", ".ndjson"))


def scan(paths: list[str]) -> str:
    reader = "read_parquet" if paths[0].endswith(".parquet") else "read_ndjson"
    return f"{reader}({paths!r})"


def load(database: duckdb.DuckDBPyConnection, name: str, folder: Path) -> list[str]:
    """Makes the views NAME_readings and NAME_windows; returns what is missing."""
    missing = []
    for table, columns in (("readings", [*READING_KEY.split(", "), "probability"]), ("windows", None)):
        paths = files(folder / table)
        if not paths:
            missing.append(table)
            continue
        source = scan(paths)
        chosen = ", ".join(columns or ["patient", "window_start", *VALUES]).replace(
            "effective_at", "effective_at::TIMESTAMPTZ AS effective_at"
        )
        chosen = chosen.replace("window_start", "window_start::TIMESTAMPTZ AS window_start")
        known = [row[0] for row in database.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()]
        # A window that was written again counts as it was written last.
        last = (
            " QUALIFY row_number() OVER (PARTITION BY patient, window_start ORDER BY revision DESC, epoch DESC) = 1"
            if table == "windows" and "revision" in known
            else ""
        )
        database.execute(f"CREATE TEMP TABLE {name}_{table} AS SELECT {chosen} FROM {source}{last}")
    return missing


def readings(database: duckdb.DuckDBPyConnection) -> list[str]:
    """What differs in the scored rows."""
    differences = []
    counts = "SELECT category, count(*) FROM {}_readings GROUP BY ALL ORDER BY ALL"
    expected, found = (database.execute(counts.format(name)).fetchall() for name in ("reference", "candidate"))
    if expected != found:
        differences.append(f"category counts: {dict(found)} instead of {dict(expected)}")
    for one, other, what in (("reference", "candidate", "missing"), ("candidate", "reference", "extra")):
        query = f"""SELECT count(*) FROM (
            SELECT {READING_KEY} FROM {one}_readings EXCEPT ALL SELECT {READING_KEY} FROM {other}_readings)"""
        count = scalar(database, query)
        if count:
            differences.append(f"{count} rows {what}")
    total = "SELECT coalesce(sum(probability), -1) FROM {}_readings"
    expected_sum, found_sum = (scalar(database, total.format(name)) for name in ("reference", "candidate"))
    if abs(expected_sum - found_sum) > TOLERANCE * max(1.0, abs(expected_sum)):
        differences.append(f"sum of probabilities: {found_sum} instead of {expected_sum}")
    return differences


def windows(database: duckdb.DuckDBPyConnection) -> list[str]:
    """What differs in the windows."""
    differences = []
    join = "reference_windows AS r {} JOIN candidate_windows AS c USING (patient, window_start)"
    for kind, what in (("ANTI", "missing"), ("RIGHT ANTI", "extra")):
        query = (
            f"SELECT count(*) FROM {join.format(kind)}"
            if kind == "ANTI"
            else ("SELECT count(*) FROM candidate_windows AS c ANTI JOIN reference_windows AS r USING (patient, window_start)")
        )
        count = scalar(database, query)
        if count:
            differences.append(f"{count} {what}")
    twice = scalar(database, "SELECT count(*) - count(DISTINCT (patient, window_start)) FROM candidate_windows")
    if twice:
        differences.append(f"{twice} written more than once")
    for value in VALUES:
        wrong = f"r.{value} IS DISTINCT FROM c.{value} AND coalesce(abs(r.{value} - c.{value}) > {TOLERANCE}, true)"
        count = scalar(database, f"SELECT count(*) FROM {join.format('INNER')} WHERE {wrong}")
        if count:
            differences.append(f"{value} differs in {count}")
    return differences


def scalar(database: duckdb.DuckDBPyConnection, query: str) -> Any:
    row = database.execute(query).fetchone()
    assert row is not None
    return row[0]


def compare(reference: Path, candidate: Path) -> dict[str, Any]:
    """The verdict."""
    database = duckdb.connect()
    database.execute("SET TimeZone = 'UTC'")
    missing = load(database, "reference", reference)
    assert not missing, f"the reference lacks {missing}"
    missing = load(database, "candidate", candidate)
    verdict: dict[str, Any] = {"missing": missing}
    if "readings" not in missing:
        verdict["readings_count"] = scalar(database, "SELECT count(*) FROM candidate_readings")
        verdict["readings"] = readings(database)
    if "windows" not in missing:
        verdict["windows_count"] = scalar(database, "SELECT count(*) FROM candidate_windows")
        verdict["windows"] = windows(database)
    return verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reference", type=Path)
    parser.add_argument("candidate", type=Path)
    given = parser.parse_args()
    print(json.dumps(compare(given.reference, given.candidate)))


if __name__ == "__main__":
    main()
