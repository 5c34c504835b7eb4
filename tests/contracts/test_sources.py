"""Which files are read, and how they are cut."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayrec.config import Data
from rayrec.contracts.reading import read_piece
from rayrec.contracts.sources import InputFile, input_files, make_splits
from rayrec.errors import DataError
from rayrec.storage import Storage


def data(root: Path, path: str = "events", **others: object) -> Data:
    interactions = {"path": path, **others}
    return Data.model_validate(
        {"root": str(root), "interactions": interactions, "items": {"path": "items.csv"}, "window_days": 3}
    )


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("x")


def paths(data: Data, day: date = date(2011, 8, 31)) -> list[str]:
    return [file.path for file in input_files(data, day)]


@pytest.mark.parametrize("layout", ["events/dt={}/part-0.csv", "events/{}.csv.gz", "events/deep/er/log-{}-7.parquet"])
def test_only_days_in_the_window_before_the_date_are_read(layout: str, tmp_path: Path) -> None:
    days = ["2011-08-27", "2011-08-28", "2011-08-30", "2011-08-31", "2011-09-01"]
    touch(tmp_path, *(layout.format(day) for day in days))
    assert paths(data(tmp_path)) == [layout.format("2011-08-28"), layout.format("2011-08-30")]


def test_files_that_name_no_day_are_always_read(tmp_path: Path) -> None:
    touch(tmp_path, "events/all.csv", "events/2011-99-99.csv", "events/2010-01-01.csv")
    assert paths(data(tmp_path)) == ["events/2011-99-99.csv", "events/all.csv"]


def test_a_glob_and_a_single_file_work_too(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.csv", "a/2.csv", "a/README.md", "a/b/3.csv")
    assert paths(data(tmp_path, "a/*.csv")) == ["a/1.csv", "a/2.csv"]
    assert paths(data(tmp_path, "a/**/*.csv")) == ["a/1.csv", "a/2.csv", "a/b/3.csv"]
    assert paths(data(tmp_path, "a/2.csv")) == ["a/2.csv"]


def test_hidden_and_marker_files_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "events/1.csv", "events/_SUCCESS", "events/.1.csv.crc")
    assert paths(data(tmp_path)) == ["events/1.csv"]


def test_an_error_says_which_days_there_are(tmp_path: Path) -> None:
    touch(tmp_path, "events/2011-01-01.csv", "events/2011-02-03.csv")
    with pytest.raises(DataError, match="2011-01-01 to 2011-02-03"):
        paths(data(tmp_path))


def test_small_files_share_a_split_and_keep_their_order(tmp_path: Path) -> None:
    files = [InputFile(i, f"{i}.csv", 100_000, "v", "csv") for i in range(10)]
    splits = make_splits(Storage(str(tmp_path)), files, 350_000)
    assert [len(split.pieces) for split in splits] == [3, 3, 3, 1]
    assert [piece.file.index for split in splits for piece in split.pieces] == list(range(10))


def test_a_big_parquet_file_is_cut_by_row_groups_and_no_row_is_lost(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    numbers = np.random.default_rng(0).integers(0, 1 << 40, 10_000)
    table = pa.table({"user_id": numbers, "item_id": numbers, "ts": numbers})
    pq.write_table(table, tmp_path / "events" / "all.parquet", row_group_size=700)
    settings = data(tmp_path)
    splits = make_splits(Storage(str(tmp_path)), input_files(settings, date(2011, 8, 31)), 64 << 10)
    assert len(splits) > 3
    columns = ["user_id", "item_id", "ts"]
    batches = [
        batch
        for split in splits
        for piece in split.pieces
        for batch in read_piece(Storage(str(tmp_path)), piece, settings.interactions, columns, columns)
    ]
    assert np.concatenate([batch.row for batch in batches]).tolist() == list(range(1, 10_001))
    assert pa.concat_tables([batch.table for batch in batches])["user_id"].to_pylist() == numbers.tolist()
