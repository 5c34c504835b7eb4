"""Shops that are too new or too small for a part of the job: it does without it, or says at once what to change."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from one_process import without_ray
from small_shop import DAY, HEADER, good_config, good_files, write
from typer.testing import CliRunner, Result

from jobs import daily, evaluate, fit, tune
from rayrec import read_slates
from rayrec.errors import PublicationError

pytestmark = pytest.mark.slow  # whole runs

QUICK = ("rerank.method=none", 'retrieval.sources={"ease": {}, "popularity": {}}')
PUBLISHED = {("ann", "pot"), ("ann", "mug"), ("bob", "cup"), ("bob", "pot"), ("bob", "mug")}
MUG = {"items.csv": "item_id,title,price\ntea,Green tea,3.50\ncup,A cup,7\npot,A tea pot,20\nmug,A mug,5\n"}


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    with without_ray():
        yield


def job(main: Any, folder: Path, files: Mapping[str, bytes | str], *sets: str, also: tuple[str, ...] = ()) -> Result:
    all_files = {**good_files(), **files}
    missing = {path: data for path, data in all_files.items() if not (folder / "data" / path).exists()}
    config = write(folder, good_config(), missing)  # an input that is written again is another input
    overrides = (f"data.root={folder / 'data'}", f"output.root={folder / 'out'}", *QUICK, *sets)
    options = [part for each in overrides for part in ("--set", each)]
    return CliRunner().invoke(main, ["--config", str(config), "--date", DAY.isoformat(), *options, *also])


def published(folder: Path) -> set[tuple[str, str]]:
    slates = read_slates(folder / "out", DAY, verify=True)
    return set(zip(slates["user_id"].to_pylist(), slates["item_id"].to_pylist(), strict=True))


@pytest.mark.parametrize("sets", [(), ("data.window_days=14",), ("data.window_days=1",)])
def test_a_shop_without_events_before_the_cutoffs_takes_default_weights(sets: tuple[str, ...], tmp_path: Path) -> None:
    plan = job(daily.main, tmp_path, MUG, *sets, also=("--dry-run",))
    assert plan.exit_code == 0, plan.output
    for other in (fit, tune):
        done = job(other.main, tmp_path, MUG, *sets)
        assert done.exit_code == 0, done.output
    plan = job(daily.main, tmp_path, MUG, *sets, also=("--dry-run",))
    assert "none, so the blender takes its default weights (2 of blend.cutoffs 2 left out" in plan.output
    done = job(daily.main, tmp_path, MUG, *sets)
    assert done.exit_code == 0, done.output
    assert published(tmp_path) == PUBLISHED
    assert "default weights" in next((tmp_path / "out" / "reports").rglob("report.html")).read_text()
    late = {"events/late.csv": HEADER + "bob,pot,2011-08-31 08:00:00,purchase,1,\n"}
    assert job(evaluate.main, tmp_path, {**MUG, **late}, *sets).exit_code == 0


def test_an_item_that_everybody_has_is_refused_before_the_fit(tmp_path: Path) -> None:
    files = {"items.csv": "item_id,title,price\ntea,Green tea,3.50\ncup,A cup,7\n"}
    files["events/2011-08-30.csv"] = HEADER + "".join(
        f"{user},{item},2011-08-30 08:00:00,purchase,1,\n" for user in ("ann", "bob") for item in ("tea", "cup")
    )
    done = job(daily.main, tmp_path, files)
    assert done.exit_code == 2
    assert "retrieval.exclude_seen: false" in done.output
    assert "fit " not in done.output
    with pytest.raises(PublicationError):
        read_slates(tmp_path / "out", DAY)
    assert job(daily.main, tmp_path, files, "retrieval.exclude_seen=false").exit_code == 0


@pytest.mark.parametrize(
    ("files", "sets", "says"),
    [
        (
            {"items.csv": "item_id,title,price\ntea,T,£3.50\ncup,C,£7\npot,P,£20\n"},
            ("slate.rules.ranges.price.max=30",),
            (
                "slate.rules.ranges.price cannot be applied",
                "3 of 3 items",
                "'£7'",
                "items.csv, column 'price'",
                "number: ",
            ),
        ),
        ({}, ("slate.rules.ranges.price.min=900",), ("the rules admit none", "slate.rules.ranges.price")),
        ({}, ("slate.rules.blocked=[tea, cup, pot]",), ("the rules admit none", "slate.rules.blocked")),
        (
            {"items.csv": "item_id,title,price,there\ntea,T,3,no\ncup,C,7,no\npot,P,20,no\n"},
            ("data.items.available=there",),
            ("none of the 3 items is available", "data.items.available"),
        ),
    ],
)
def test_rules_that_leave_nobody_a_slate_are_named_before_the_fit(
    files: Mapping[str, str], sets: tuple[str, ...], says: tuple[str, ...], tmp_path: Path
) -> None:
    done = job(daily.main, tmp_path, files, *sets)
    assert done.exit_code == 2
    assert "fit " not in done.output
    for words in says:
        assert words in done.output


def test_too_much_quarantine_shows_rows(tmp_path: Path) -> None:
    rows = "ann,tea,yesterday,purchase,1,\nann,\x1b[31mxyz,2011-08-30 08:00:00,purchase,1,\n"
    done = job(daily.main, tmp_path, {"events/2011-08-29.csv": HEADER + rows}, "data.max_quarantine_share=0.1")
    assert done.exit_code == 3
    assert "bad_time: events/2011-08-29.csv, row 1: ts is 'yesterday'" in done.output
    assert "row 2: item_id is" in done.output
    assert "\x1b" not in done.output


def test_the_day_of_an_export_in_the_path_loses_no_rows(tmp_path: Path) -> None:
    moved = {"events/export_2011-09-02/dt=2011-08-30/e.csv": good_files()["events/2011-08-30.csv"]}
    day = {"events/2011-08-30.csv": HEADER, **moved}
    done = job(daily.main, tmp_path, {**MUG, **day})
    assert done.exit_code == 0, done.output
    assert published(tmp_path) == PUBLISHED


def test_a_guardrail_that_blocks_is_lifted_by_the_remedy_that_it_names(tmp_path: Path) -> None:
    bound = "guardrails.users.min_users=3"
    blocked = job(daily.main, tmp_path, MUG, bound, "guardrails.users.action=block")
    assert blocked.exit_code == 4
    assert "guardrail users: users published: 2 users; bound: at least 3" in blocked.output
    assert "--set guardrails.users.action=warn" in blocked.output
    with pytest.raises(PublicationError):
        read_slates(tmp_path / "out", DAY)
    assert status(tmp_path)["state"] == "blocked"
    receipts = written(tmp_path, "receipts")
    remedy = "guardrails.users.action=warn"
    done = job(daily.main, tmp_path, MUG, bound, remedy, also=("--log-format", "json"))
    assert done.exit_code == 0, done.output
    assert published(tmp_path) == PUBLISHED
    assert written(tmp_path, "receipts") == receipts  # no shard was scored again
    said = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
    assert [line["done"] for line in said if line.get("stage") == "score"] == [2]
    assert [line["level"] for line in said if "guardrail users" in line["message"]] == ["warning"]
    ended = status(tmp_path)
    assert (ended["state"], ended["exit_code"], ended["shards_done"], ended["shards"]) == ("published", 0, 2, 2)
    assert [words for words in ended["warnings"] if "at least 3" in words]
    assert "2 users" in next((tmp_path / "out" / "reports").rglob("report.html")).read_text()


def status(folder: Path) -> dict[str, Any]:
    (path,) = (folder / "out" / "runs").rglob("status.json")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def written(folder: Path, name: str) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (folder / "out" / "runs").rglob(f"{name}/*.json")}
