"""DuckDB over the file: the same rows by SQL, in batch, without Kafka. Its answers are the reference that all others are compared with.

It does less than the others: a pseudonym for each patient instead of each message, and no window is ever open.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import duckdb

sys.path.insert(0, str(Path(__file__).parent.parent))
from job import DIASTOLIC_CODE, LOINC, MODEL_FILE, SYSTOLIC_CODE, arguments, say_first

BLOCK = 64
CODING = "STRUCT(coding STRUCT(system VARCHAR, code VARCHAR)[])"
OBSERVATION = f"""{{
    resourceType: 'VARCHAR',
    subject: 'STRUCT(reference VARCHAR)',
    effectiveDateTime: 'VARCHAR',
    component: 'STRUCT(code {CODING}, valueQuantity STRUCT(value DOUBLE))[]'
}}"""

READ = f"""
CREATE TEMP TABLE observations AS
SELECT
    substr(subject.reference, 9) AS id,
    effectiveDateTime::TIMESTAMPTZ AS effective_at,
    pressure(component, '{SYSTOLIC_CODE}') AS systolic,
    pressure(component, '{DIASTOLIC_CODE}') AS diastolic
FROM read_ndjson(?, columns = {OBSERVATION})
WHERE resourceType = 'Observation'
"""

# The value of the component that has the LOINC code.
PRESSURE = f"""
CREATE TEMP MACRO pressure(components, wanted) AS
    list_filter(
        components,
        lambda one: len(list_filter(one.code.coding, lambda c: c.system = '{LOINC}' AND c.code = wanted)) > 0
    )[1].valueQuantity.value
"""

# HMAC-SHA-256 by its definition (RFC 2104): two hashes around the padded key.
PEOPLE = """
CREATE TEMP TABLE people AS
SELECT id, left(sha256($outer::BLOB || unhex(sha256($inner::BLOB || ('Patient/' || id)::BLOB))), 32) AS patient
FROM (SELECT DISTINCT id FROM observations)
"""

READINGS = """
COPY (
    SELECT
        patient,
        effective_at,
        systolic AS systolic_mmhg,
        diastolic AS diastolic_mmhg,
        CASE
            WHEN systolic > 180 OR diastolic > 120 THEN 'crisis'
            WHEN systolic >= 140 OR diastolic >= 90 THEN 'stage 2'
            WHEN systolic >= 130 OR diastolic >= 80 THEN 'stage 1'
            WHEN systolic >= 120 THEN 'elevated'
            ELSE 'normal'
        END AS category,
        1 / (1 + exp(-({margin}))) AS probability
    FROM observations JOIN people USING (id)
    WHERE systolic IS NOT NULL AND diastolic IS NOT NULL
) TO '{path}' (FORMAT parquet, COMPRESSION zstd)
"""

WINDOWS = """
COPY (
    SELECT
        patient,
        time_bucket(INTERVAL '1 minute', effective_at) AS window_start,
        count(systolic) AS systolic_count,
        avg(systolic) AS systolic_mean_mmhg,
        min(systolic) AS systolic_min_mmhg,
        max(systolic) AS systolic_max_mmhg,
        count(diastolic) AS diastolic_count,
        avg(diastolic) AS diastolic_mean_mmhg,
        min(diastolic) AS diastolic_min_mmhg,
        max(diastolic) AS diastolic_max_mmhg
    FROM observations JOIN people USING (id)
    WHERE systolic IS NOT NULL AND diastolic IS NOT NULL
    GROUP BY patient, window_start
) TO '{path}' (FORMAT parquet, COMPRESSION zstd)
"""


def margin() -> str:
    """The model of `model.json` in SQL."""
    model = json.loads(MODEL_FILE.read_text())
    terms = [f"{t['coefficient']} * ({t['name']} - {t['mean']}) / {t['scale']}" for t in model["features"]]
    return " + ".join([str(model["intercept"]), *terms])


def main() -> None:
    job = arguments()
    database = duckdb.connect()
    database.execute(f"SET threads = {job.workers}; SET TimeZone = 'UTC'")
    say_first()
    padded = job.key.ljust(BLOCK, b"\0")
    pads = {"outer": bytes(byte ^ 0x5C for byte in padded), "inner": bytes(byte ^ 0x36 for byte in padded)}
    database.execute(PRESSURE)
    database.execute(READ, [str(job.file)])
    database.execute(PEOPLE, pads)
    database.execute(READINGS.format(margin=margin(), path=job.output / "readings" / "part.parquet"))
    database.execute(WINDOWS.format(path=job.output / "windows" / "part.parquet"))


if __name__ == "__main__":
    main()
