"""DuckDB, Polars and Spark read a published date with the lines of docs/readers.md."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import small_day

from rayrec.data.schemas import SLATE
from rayrec.publishing.slate_reader import read_slates
from rayrec.storage import Storage

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "readers.md"
SPARK = REPOSITORY / ".venv-spark" / "bin" / "python"  # make test-spark
WITH_SPARK = """
import sys
from pyspark.sql import SparkSession
session = SparkSession.builder.master("local[1]").config("spark.ui.enabled", False)
spark = session.config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1").getOrCreate()
exec(sys.argv[1])
slates.write.parquet(sys.argv[2])
spark.stop()
"""


@pytest.fixture
def root(local: Storage) -> str:
    """A date with files that its manifest does not name, as a killed attempt leaves them."""
    small_day.publish_day(local)
    named = next(info.path for info in local.list("slates") if info.path.endswith(".parquet"))
    local.write(named.replace(".parquet", "0.parquet"), local.read(named))
    return local.root


def block(heading: str, language: str, root: str) -> str:
    """The code below a heading of the page, for this root and date."""
    section = PAGE.read_text(encoding="utf8").split(f"## {heading}\n")[1].split("\n## ")[0]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1].replace("OUT", root).replace("dt=D", f"dt={small_day.DATE}")


def in_order(table: pa.Table) -> pa.Table:
    rows = pa.table(table.select(SLATE.names)).cast(SLATE)
    return rows.sort_by([("arm", "ascending"), ("user_id", "ascending"), ("rank", "ascending")]).combine_chunks()


def published(root: str, arm: str | None = "llm") -> pa.Table:
    return in_order(read_slates(root, small_day.DATE, arm))


def test_duckdb_reads_the_rows_of_the_manifest(root: str) -> None:
    with duckdb.connect() as connection:
        rows = connection.execute(block("DuckDB", "sql", root)).to_arrow_table()
    assert in_order(rows).equals(published(root))


def test_polars_reads_the_rows_of_the_manifest(root: str) -> None:
    names: dict[str, pl.DataFrame] = {}
    exec(block("Polars", "python", root), names)
    assert in_order(names["slates"].to_arrow()).equals(published(root))


@pytest.mark.slow  # starts Java
@pytest.mark.skipif(not SPARK.exists(), reason="make test-spark")
def test_spark_reads_the_rows_of_the_manifest(root: str, tmp_path: Path) -> None:
    out = tmp_path / "read"
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "SPARK_HOME")}
    command = [SPARK, "-c", WITH_SPARK, block("Spark", "python", root), str(out)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert in_order(ds.dataset(out, format="parquet").to_table()).equals(published(root, None))
