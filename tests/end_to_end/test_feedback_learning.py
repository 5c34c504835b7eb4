"""Learning from feedback end to end: an exploring date is published, its clicks are logged, a later run learns."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pytest
from small_runs import differences
from tiny_runs import CONFIG, TinyShop

from rayrec import read_slates
from rayrec.config import load
from rayrec.errors import PublicationError
from rayrec.pipeline import daily_run, dry_run
from rayrec.pipeline.blender_fitting import load_blender
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.run_report import report_data

USERS = 120
EXPLORES = (
    "slate.policy=plackett_luce",
    "slate.settings={temperature: 1.0}",
    "slate.size=10",
    "arms.variants={soft: {denoise: {method: none}}}",
    "feedback={path: clicks.csv, propensity: null}",
)
LEARNS = "blend.feedback={weight: 5.0}"


@dataclass(frozen=True)
class Explored:
    shop: TinyShop
    folder: Path  # of the log and the first output root

    def context(self, days_ago: int, output: str, *more: str) -> RunContext:
        sets = self.shop.overrides(self.folder / output, *EXPLORES, f"feedback.root={self.folder}", *more)
        return RunContext(load(CONFIG, sets), self.shop.dataset.date - timedelta(days_ago))


@pytest.fixture(scope="module")
def explored(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Explored:
    """Two dates are published, the second too late for its rewards to be complete. Items of even numbers are wanted."""
    folder = tmp_path_factory.mktemp("feedback")
    found, parts = Explored(TinyShop.make(folder / "shop", users=USERS), folder), []
    for days_ago in (4, 1):
        daily_run.run(found.context(days_ago, "out"))
        slates = read_slates(folder / "out", found.context(days_ago, "out").date)
        wanted = pc.match_substring_regex(slates["item_id"], "[02468]$").cast(pa.int8())
        parts.append(slates.select(["slate_id", "rank", "item_id"]).append_column("reward", wanted))
    pa_csv.write_csv(pa.concat_tables(parts), folder / "clicks.csv")
    shutil.copytree(folder / "out", folder / "again")
    return found


def test_a_run_learns_from_the_slates_whose_rewards_are_complete(explored: Explored) -> None:
    context = explored.context(0, "out", LEARNS, "blend.feedback.attribution_days=2")
    complete, recent = (context.date - timedelta(days) for days in (4, 1))
    assert f"feedback on slates of {complete}; not yet of {recent}" in dry_run.describe(context)
    result = daily_run.run(context)
    log = pa_csv.read_csv(explored.folder / "clicks.csv")
    own = log.filter(pc.is_in(log["slate_id"], read_slates(explored.folder / "out", complete)["slate_id"]))
    blender = load_blender(context, result.manifest.models["blend of soft"])
    assert blender.feedback[f"rewarded/{complete}"] == pc.sum(own["reward"]).as_py()
    assert 0 < blender.feedback["used"] <= blender.feedback[f"rewarded/{complete}"]
    assert blender.feedback["left out/on no slate of these dates"] == len(log) - len(own)
    assert f"{complete}: " in report_data(result, []).facts["feedback in the blend of soft"]
    named = {record.path for record in result.manifest.inputs}
    assert {f"slates/dt={complete}/manifest.json", "feedback: clicks.csv"} <= named

    again = daily_run.run(explored.context(0, "again", LEARNS, "blend.feedback.attribution_days=2"))
    first, second = (read_slates(explored.folder / root, context.date) for root in ("out", "again"))
    assert not differences(first, second)
    assert load_blender(again.context, again.manifest.models["blend of soft"]) == blender

    with (explored.folder / "clicks.csv").open("a") as file:
        file.write(f"{own['slate_id'][0]},1,{own['item_id'][0]},1\n")
    with pytest.raises(PublicationError, match=r"feedback: clicks\.csv"):
        daily_run.run(explored.context(0, "out", LEARNS, "blend.feedback.attribution_days=2"))
