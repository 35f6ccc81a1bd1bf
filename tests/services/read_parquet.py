"""Reads every Parquet file below a folder with PyArrow and with DuckDB; prints `<reader> <table> <rows> <sum of a column>`."""

import sys

import duckdb
import pyarrow.compute
import pyarrow.dataset

data = sys.argv[1]
for table, column in [("readings", "systolic_mmhg"), ("windows", "systolic_mean_mmhg"), ("rejected", "offset")]:
    rows = pyarrow.dataset.dataset(f"{data}/{table}", format="parquet", exclude_invalid_files=True).to_table()
    print("pyarrow", table, rows.num_rows, pyarrow.compute.sum(rows[column]).as_py())
    count, total = duckdb.sql(f"""select count(*), sum("{column}") from '{data}/{table}/*.parquet'""").fetchall()[0]
    print("duckdb", table, count, total)
