"""Which files a path of the config stands for, and which of them a writer left behind."""

from __future__ import annotations

import pytest

from rayrec.data.source_paths import SourcePath

LEFT_BEHIND = [
    "events/_SUCCESS",
    "events/_metadata",
    "events/_temporary/0/_temporary/attempt_1/part-1.csv",
    "events/dt=2026-01-30/_temporary/0/part-1.csv",
    "events/_delta_log/00000000000000000000.json",
    "events/_change_data/cdc-0.parquet",
    "events/_spark_metadata/0",
    "events/_started_17",
    "events/.spark-staging-1/dt=2026-01-30/part-0.csv",
    "events/.hive-staging_hive_1/-ext-10000/000000_0.csv",
    "events/.hoodie/hoodie.properties",
    "events/.ipynb_checkpoints/a-checkpoint.csv",
    "events/__magic/job-1/part-0.csv",
    "events/__MACOSX/._a.csv",
    "events/+tmp/part-0.csv",
    "events/.part-0.csv.crc",
    "events/part-0.csv.crc",
    "events/part-0.csv._COPYING_",
    "events/part-0.csv.tmp",
    "events/part-0.csv.TMP",
    "events/part-0.csv.inprogress",
    "events/part-0.csv.md5",
    "events/part-0.csv.sha256",
    "events/part-0.csv~",
    "events/dt=2026-01-30_$folder$",
    "events/q.csv.metadata",
]
DATA = [
    "events/part-0.csv",
    "events/dt=2026-01-30/part-0.csv",
    "events/_day=2026-01-30/part-0.csv",
    "events/country=__HIVE_DEFAULT_PARTITION__/part-0.csv",
    "events/a_b/part_0.csv",
    "events/tmp/part-0.csv",
    "events/part.tmp.csv",
]


@pytest.mark.parametrize("path", ["events", "events/", "./events", "events/**", "**", "*/**"])
def test_what_a_writer_left_behind_is_no_data_for_any_path(path: str) -> None:
    source = SourcePath(path)
    assert [file for file in LEFT_BEHIND if source.matches(file) and not source.is_leftover(file)] == []
    assert [file for file in DATA if not source.matches(file) or source.is_leftover(file)] == []


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("_export/events", "_export/events/part-0.csv"),
        (".cache", ".cache/part-0.csv"),
        ("lake/_raw/*.csv", "lake/_raw/a.csv"),
        ("_export*/*.csv", "_export-7/a.csv"),
        ("events/_*.csv", "events/_a.csv"),
        ("events/_a.csv", "events/_a.csv"),
        ("events/a.csv.tmp", "events/a.csv.tmp"),
    ],
)
def test_what_the_path_names_itself_is_data(path: str, file: str) -> None:
    assert SourcePath(path).matches(file)
    assert not SourcePath(path).is_leftover(file)


def test_a_named_folder_makes_no_other_hidden_one_data() -> None:
    assert SourcePath("_export").is_leftover("_export/_temporary/a.csv")
    assert SourcePath("_export/*/*.csv").is_leftover("_export/_temporary/a.csv")
    assert SourcePath("_*/*.csv").is_leftover("_export/.a.csv")


def test_a_folder_is_listed_up_to_the_first_glob_and_is_not_a_prefix() -> None:
    assert SourcePath("a/b*/c").folder == "a"
    assert SourcePath("a/b").folder == "a/b"
    assert SourcePath(".").folder == ""
    assert not SourcePath("events").matches("events-old/a.csv")
    assert SourcePath("events/a.csv").names("events/a.csv")
    assert not SourcePath("events/*.csv").names("events/a.csv")
