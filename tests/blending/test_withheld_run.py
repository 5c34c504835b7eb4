"""A whole run with `slate.min_probability`."""

from __future__ import annotations

from pathlib import Path

from one_process import without_ray
from tiny_runs import TinyShop

from rayrec import read_slates
from rayrec.numerics.threads import thread_limit
from rayrec.pipeline import daily_run
from rayrec.pipeline.blender_fitting import load_blender


def test_slates_are_the_beginning_of_those_that_withhold_nothing(tmp_path: Path) -> None:
    variants = "arms.variants={all: {}, sure: {slate: {min_probability: 0.1}}}"
    shop = TinyShop.make(tmp_path, users=150)
    context = shop.context(tmp_path / "out", variants)
    with without_ray(), thread_limit(1):
        result = daily_run.run(context)
    (blend,) = {name for key, name in result.manifest.models.items() if key.startswith("blend of")}
    assert load_blender(context, blend).acceptance is not None
    slates = []
    for arm in ("all", "sure"):
        rows = read_slates(tmp_path / "out", context.date, arm=arm)
        rows = rows.sort_by([("user_id", "ascending"), ("rank", "ascending")])
        found: dict[str, list[str]] = {}
        for user, item in zip(rows["user_id"].to_pylist(), rows["item_id"].to_pylist(), strict=True):
            found.setdefault(user, []).append(item)
        slates.append(found)
    everything, sure = slates
    assert everything.keys() == sure.keys()
    assert all(items == everything[user][: len(items)] for user, items in sure.items())
    assert sum(map(len, sure.values())) < sum(map(len, everything.values()))
