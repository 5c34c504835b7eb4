"""A killed ingest resumes, even with another split plan: no row is lost or read twice."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayrec.config import Config
from rayrec.pipeline import interaction_ingest
from rayrec.pipeline.run_context import RunContext

SMALL, LARGE = 100 << 10, 1 << 20  # split size for one file, for all files
FILES, ROWS = 6, 20


def day(folder: Path, split_bytes: int, out: str = "out") -> RunContext:
    data = {
        "root": str(folder / "data"),
        "interactions": {"path": "events"},
        "items": {"from_interactions": True, "title": None},
        "shards": 2,
        "split_bytes": split_bytes,
    }
    content = {"name": "test", "data": data, "arms": {"variants": {"a": {}}}, "output": {"root": str(folder / out)}}
    return RunContext(Config.model_validate(content), date(2011, 8, 31))


def write_files(folder: Path) -> None:
    """Write files in which every last row lacks its item."""
    (folder / "data" / "events").mkdir(parents=True)
    for number in range(FILES):
        rows = [f"u{row % 7},i{(number + row) % 5},2011-08-30T00:{number:02}:{row:02}\n" for row in range(ROWS - 1)]
        text = "user_id,item_id,ts\n" + "".join(rows) + "u0,,2011-08-30T01:00:00\n"
        (folder / "data" / "events" / f"{number}.csv").write_text(text)


def run_here(stop_after: int | None = None) -> Callable[..., None]:
    """`interaction_ingest._run` without Ray; `stop_after`: kill it after this many work items."""

    def run(context: RunContext, name: str, stage: Any, items: list[Any], *, of: int, unit: str) -> None:
        built = stage(context)
        for number, item in enumerate(items, 1):
            built(item, pa.table({}))
            if number == stop_after:
                raise KeyboardInterrupt

    return run


def all_rows(work: RunContext) -> list[dict[str, Any]]:
    return [row for shard in range(2) for row in interaction_ingest.histories(work, shard).to_pylist()]


def test_resuming_with_another_split_plan_gives_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path)
    monkeypatch.setattr(interaction_ingest, "_run", run_here())
    whole = day(tmp_path, LARGE, "whole")
    expected = interaction_ingest.ingest(whole)
    assert expected.rows == FILES * ROWS
    for killed, then in ((SMALL, LARGE), (LARGE, SMALL)):
        first, second = (day(tmp_path, split_bytes, f"out{killed}") for split_bytes in (killed, then))
        monkeypatch.setattr(interaction_ingest, "_run", run_here(stop_after=1))
        with pytest.raises(KeyboardInterrupt):
            interaction_ingest.ingest(first)
        monkeypatch.setattr(interaction_ingest, "_run", run_here())
        found = interaction_ingest.ingest(second)
        assert (found.rows, found.quarantined, found.input_rows) == (
            expected.rows,
            expected.quarantined,
            expected.input_rows,
        )
        assert str(all_rows(second)) == str(all_rows(whole))  # NaN equals NaN
        broken = [second.storage.url(interaction_ingest.SplitPlan.of(second).quarantine(n)) for n in range(FILES)]
        assert sum(pq.read_table(path).num_rows for path in broken if Path(path).exists()) == FILES


def test_finished_splits_are_not_read_again_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path)
    monkeypatch.setattr(interaction_ingest, "_run", run_here(stop_after=2))
    with pytest.raises(KeyboardInterrupt):
        interaction_ingest.ingest(day(tmp_path, SMALL))
    assert interaction_ingest.SplitPlan.of(day(tmp_path, SMALL)).pending() == [2, 3, 4, 5]
    assert interaction_ingest.SplitPlan.of(day(tmp_path, LARGE)).pending() == [0]
