"""Reading the slates of a published date, as a serving layer does."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from small_day import ARMS, DATE, USERS, publish_day, whole_day

from rayrec import published_dates, read_slates
from rayrec.data.schemas import SLATE
from rayrec.errors import PublicationError, StorageError
from rayrec.publishing import read_manifest
from rayrec.storage import Storage


@pytest.fixture
def root(tmp_path: Path) -> str:
    publish_day(Storage(str(tmp_path)))
    return str(tmp_path)


def test_a_date_may_be_text_or_a_date(root: str) -> None:
    assert read_slates(root, "2011-08-31").equals(read_slates(root, datetime.date(2011, 8, 31)))
    midnight = datetime.datetime(2011, 8, 31, tzinfo=datetime.UTC)
    assert read_slates(root, "2011-08-31").equals(read_slates(root, midnight))
    with pytest.raises(PublicationError, match=r"'31\.08\.2011' is not a date"):
        read_slates(root, "31.08.2011")


def test_all_arms_are_the_concatenation_of_single_arms(root: str) -> None:
    arms = [read_slates(root, DATE, arm) for arm in ARMS]
    assert [pc.unique(table["arm"]).to_pylist() for table in arms] == [[arm] for arm in ARMS]
    assert pa.concat_tables(arms).equals(read_slates(root, DATE))


def test_slates_of_some_users_equal_the_filtered_publication(root: str) -> None:
    whole = whole_day()
    for users in (["user-07"], USERS[3:9], ["nobody"], []):
        expected = whole.filter(pc.is_in(whole["user_id"], value_set=pa.array(users, pa.string())))
        assert read_slates(root, DATE, users=users).equals(expected)


def test_the_slates_of_one_user_are_read_from_one_file_an_arm(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read, seen = Storage.read, []
    monkeypatch.setattr(Storage, "read", lambda self, path: (seen.append(path), read(self, path))[1])
    read_slates(root, DATE, users=["user-07"])
    assert len([path for path in seen if path.endswith(".parquet")]) == len(ARMS)


def test_a_date_that_is_not_published_names_the_newest_that_are(root: str) -> None:
    with pytest.raises(PublicationError, match="no slates are published for 2011-09-01") as error:
        read_slates(root, "2011-09-01")
    assert "2011-08-31" in error.value.hint
    assert published_dates(root) == [DATE]


def test_the_newest_date_is_the_last_with_a_manifest(root: str) -> None:
    storage = Storage(root)
    manifest = storage.read("slates/dt=2011-08-31/manifest.json")
    storage.write("slates/dt=2011-08-30/manifest.json", manifest)
    storage.write("slates/dt=2011-09-01/arm=llm/shard=0000-begun.parquet", b"of a run that has not published")
    assert published_dates(Path(root)) == [datetime.date(2011, 8, 30), DATE]
    storage.delete("slates/dt=2011-08-31/manifest.json")  # withdrawn
    assert published_dates(root)[-1] == datetime.date(2011, 8, 30)


def test_an_empty_root_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(PublicationError, match="nothing is published here"):
        read_slates(str(tmp_path / "none"), "2011-09-01")
    assert published_dates(str(tmp_path / "none")) == []


def test_an_unknown_arm_is_an_error_that_lists_the_arms(root: str) -> None:
    with pytest.raises(PublicationError, match="there is no arm 'treatment'") as error:
        read_slates(root, DATE, "treatment")
    assert error.value.hint == "the arms are control, llm"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (None, "it is missing"),
        (lambda data: data[:-1], r"it has \d+ bytes, not \d+"),
        (lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:], "its sha256 is another"),
    ],
    ids=["missing", "shortened", "changed"],
)
def test_a_damaged_file_is_an_error_and_never_a_shorter_table(
    change: Callable[[bytes], bytes] | None, says: str, root: str
) -> None:
    path, storage = read_manifest(root, DATE).files[0].path, Storage(root)
    if change is None:
        storage.delete(path)
    else:
        storage.write(path, change(storage.read(path)))
    with pytest.raises(PublicationError, match=f"a published file differs from the manifest: {says}") as error:
        read_slates(root, DATE, verify=True)
    assert path in error.value.where


def test_a_manifest_cannot_point_outside_the_root(root: str) -> None:
    manifest = json.loads(Storage(root).read("slates/dt=2011-08-31/manifest.json"))
    manifest["files"][0]["path"] = "../../etc/passwd"
    Storage(root).write("slates/dt=2011-08-31/manifest.json", json.dumps(manifest).encode())
    with pytest.raises(StorageError, match="leaves the root"):
        read_slates(root, DATE)


# The SQL of the README: DuckDB reads the manifest's files, like read_slates.
DUCKDB = """
SET VARIABLE root = '{root}';
SET VARIABLE files = (
    SELECT list(getvariable('root') || '/' || file.path)
    FROM (SELECT unnest(files) AS file FROM read_json(getvariable('root') || '/slates/dt={date}/manifest.json'))
    WHERE file.arm = 'llm'
);
SELECT * FROM read_parquet(getvariable('files'), hive_partitioning = false) ORDER BY user_id, rank;
"""


def test_duckdb_and_read_slates_read_the_files_of_the_manifest_and_no_others(root: str) -> None:
    stray = "slates/dt=2011-08-31/arm=llm/shard=0000-stray.parquet"
    Storage(root).write(stray, Storage(root).read(read_manifest(root, DATE).files[0].path))
    assert read_slates(root, DATE).equals(whole_day())
    with duckdb.connect() as connection:
        got = connection.sql(DUCKDB.format(root=root, date=DATE)).to_arrow_table()
    expected = read_slates(root, DATE, "llm").sort_by([("user_id", "ascending"), ("rank", "ascending")])
    assert got.num_rows == 300
    assert got.cast(SLATE).equals(expected)
