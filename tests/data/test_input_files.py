"""Selection of input files and their division into splits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayrec.config import Data
from rayrec.data.file_reader import read_fragment
from rayrec.data.input_files import InputFile, Split, auto_shards, list_window_files, make_splits
from rayrec.data.interaction_contract import InteractionContract
from rayrec.data.raw_rows import RawBatch
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
    return [file.path for file in list_window_files(data, day).files]


def batches(storage: Storage, splits: Sequence[Split], data: Data, columns: Sequence[str]) -> list[RawBatch]:
    fragments = [fragment for split in splits for fragment in split.fragments]
    return [b for each in fragments for b in read_fragment(storage, each, data.interactions, columns, columns)]


@pytest.mark.parametrize("layout", ["events/dt={}/part-0.csv", "events/{}.csv.gz", "events/deep/er/log-{}-7.parquet"])
def test_only_days_in_the_window_before_the_date_are_read(layout: str, tmp_path: Path) -> None:
    days = ["2011-08-27", "2011-08-28", "2011-08-30", "2011-08-31", "2011-09-01"]
    touch(tmp_path, *(layout.format(day) for day in days))
    assert paths(data(tmp_path)) == [layout.format("2011-08-28"), layout.format("2011-08-30")]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York", "Europe/London"])
def test_files_partitioned_by_local_day_give_every_row_of_the_window(zone: str, tmp_path: Path) -> None:
    hours = [datetime(2011, 8, 26, tzinfo=UTC) + timedelta(hours=hour) for hour in range(24 * 8)]
    local: dict[str, list[str]] = {}
    for hour in hours:
        there = hour.astimezone(ZoneInfo(zone))
        local.setdefault(there.date().isoformat(), []).append(f"u,i,{there:%Y-%m-%d %H:%M:%S}")
    (tmp_path / "events").mkdir()
    for name, rows in local.items():
        (tmp_path / "events" / f"{name}.csv").write_text("\n".join(["user_id,item_id,ts", *rows, ""]))
    settings, day = data(tmp_path, ts={"column": "ts", "timezone": zone}), date(2011, 8, 31)
    contract = InteractionContract(settings, day, pa.array(["i"]))
    store = Storage(str(tmp_path))
    (split,) = make_splits(store, list_window_files(settings, day).files, 1 << 20)
    read = batches(store, [split], settings, contract.columns)
    accepted = sum(contract.check(batch, split.fragments[0].file, "there").accepted for batch in read)
    assert accepted == sum(date(2011, 8, 28) <= hour.date() < day for hour in hours) == 3 * 24


@pytest.mark.parametrize(
    ("zone", "day", "first", "last"),
    [
        ("UTC", "2011-08-31", "2011-08-28", "2011-08-30"),
        ("Asia/Tokyo", "2011-08-31", "2011-08-28", "2011-08-31"),
        ("America/New_York", "2011-08-31", "2011-08-27", "2011-08-30"),
        ("Europe/London", "2011-08-31", "2011-08-28", "2011-08-31"),
        ("Europe/London", "2011-01-31", "2011-01-28", "2011-01-30"),
    ],
)
def test_skipped_files_are_counted_and_not_read(zone: str, day: str, first: str, last: str, tmp_path: Path) -> None:
    days = [f"{day[:7]}-{number:02d}" for number in range(20, 32)]
    touch(tmp_path, *(f"events/{each}.csv" for each in days))
    found = list_window_files(data(tmp_path, ts={"column": "ts", "timezone": zone}), date.fromisoformat(day))
    assert [file.path for file in found.files] == [f"events/{each}.csv" for each in days if first <= each <= last]
    assert found.skipped == len(days) - len(found.files)


def test_files_without_a_day_in_the_path_are_always_read(tmp_path: Path) -> None:
    touch(tmp_path, "events/all.csv", "events/2011-99-99.csv", "events/2010-01-01.csv")
    assert paths(data(tmp_path)) == ["events/2011-99-99.csv", "events/all.csv"]


def test_a_glob_and_a_single_file_work_too(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.csv", "a/2.csv", "a/README.md", "a/b/3.csv")
    assert paths(data(tmp_path, "a/*.csv")) == ["a/1.csv", "a/2.csv"]
    assert paths(data(tmp_path, "a/**/*.csv")) == ["a/1.csv", "a/2.csv", "a/b/3.csv"]
    assert paths(data(tmp_path, "a/2.csv")) == ["a/2.csv"]


def test_hidden_and_marker_files_are_skipped(tmp_path: Path) -> None:
    touch(tmp_path, "events/1.csv", "events/_SUCCESS", "events/.1.csv.crc")
    assert paths(data(tmp_path)) == ["events/1.csv"]


def test_an_error_lists_the_available_days(tmp_path: Path) -> None:
    touch(tmp_path, "events/2011-01-01.csv", "events/2011-02-03.csv")
    with pytest.raises(DataError, match="2011-01-01 to 2011-02-03"):
        paths(data(tmp_path))


def test_of_several_days_in_a_path_one_in_the_window_is_enough(tmp_path: Path) -> None:
    inside, outside = "events/export_2011-09-02/dt=2011-08-30/1.csv", "events/export_2011-09-02/dt=2011-01-30/1.csv"
    touch(tmp_path, inside, outside)
    assert paths(data(tmp_path)) == [inside]
    assert list_window_files(data(tmp_path), date(2011, 8, 31)).several_days in (inside, outside)


def test_a_day_outside_the_window_is_shown_with_the_key_that_reads_it(tmp_path: Path) -> None:
    touch(tmp_path, "events/export_2099-01-01.csv")
    with pytest.raises(DataError, match=r"data\.interactions\.day_pattern") as caught:
        paths(data(tmp_path))
    assert caught.value.where.endswith("events/export_2099-01-01.csv")


def test_small_files_share_a_split_and_keep_their_order(tmp_path: Path) -> None:
    files = [InputFile(i, f"{i}.csv", 100_000, "v", "csv") for i in range(10)]
    splits = make_splits(Storage(str(tmp_path)), files, 350_000)
    assert [len(split.fragments) for split in splits] == [3, 3, 3, 1]
    assert [fragment.file.index for split in splits for fragment in split.fragments] == list(range(10))


def test_a_large_parquet_file_is_split_by_row_groups_and_no_row_is_lost(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    numbers = np.random.default_rng(0).integers(0, 1 << 40, 10_000)
    table = pa.table({"user_id": numbers, "item_id": numbers, "ts": numbers})
    pq.write_table(table, tmp_path / "events" / "all.parquet", row_group_size=700)
    settings = data(tmp_path)
    splits = make_splits(Storage(str(tmp_path)), list_window_files(settings, date(2011, 8, 31)).files, 64 << 10)
    assert len(splits) > 3
    read = batches(Storage(str(tmp_path)), splits, settings, ["user_id", "item_id", "ts"])
    assert np.concatenate([batch.row for batch in read]).tolist() == list(range(1, 10_001))
    assert pa.concat_tables([batch.table for batch in read])["user_id"].to_pylist() == numbers.tolist()


def test_auto_shards_follow_the_size_of_the_files() -> None:
    def files(*given: tuple[str, int]) -> list[InputFile]:
        return [InputFile(k, path, size, "", path.split(".")[1]) for k, (path, size) in enumerate(given)]

    assert auto_shards([]) == auto_shards(files(("a.parquet", 1000))) == 16
    assert auto_shards(files(("a.parquet", 400_000_000))) == 100  # 400,000 users x 50 events
    assert auto_shards(files(("a.csv", 1_200_000_000))) == auto_shards(files(("a.csv.gz", 400_000_000))) == 100
    assert auto_shards(files(("a.parquet", 10**15))) == 100_000
