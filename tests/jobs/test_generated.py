"""The generator of the scale benchmark."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.generated import make


def test_users_have_the_requested_events_and_each_day_has_a_file(tmp_path: Path) -> None:
    made = make(tmp_path, users=300, events=20, items=150, days=7, seed=1)
    files = sorted((tmp_path / "events").glob("*.parquet"))
    assert [file.stem for file in files] == [f"dt=2026-02-{day}" for day in range(23, 29)] + ["dt=2026-03-01"]
    for file in files:
        days = pc.unique(pq.read_table(file)["ts"].cast(pa.date32())).to_pylist()
        assert [str(day) for day in days] == [file.stem.removeprefix("dt=")]
    whole = pa.concat_tables(
        [
            pq.read_table(file).cast(
                pa.schema(
                    [
                        ("user_id", pa.string()),
                        ("item_id", pa.string()),
                        ("ts", pa.timestamp("us", "UTC")),
                        ("event", pa.string()),
                    ]
                )
            )
            for file in files
        ]
    )
    per_user = whole["user_id"].drop_null().value_counts()
    assert whole.num_rows == made.rows == 6000
    assert len(per_user) == 300
    assert max(per_user.field("counts").to_pylist()) == 20
    items = pq.read_table(tmp_path / "items.parquet")
    assert set(whole["item_id"].to_pylist()) <= set(items["item_id"].to_pylist())


def test_equal_arguments_give_equal_rows(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make(tmp_path / name, users=50, events=10, items=100, days=3)
    for file in (tmp_path / "a").rglob("*.parquet"):
        assert pq.read_table(file) == pq.read_table(tmp_path / "b" / file.relative_to(tmp_path / "a"))
