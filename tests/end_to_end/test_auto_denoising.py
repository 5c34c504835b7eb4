"""`denoise.method: auto` in a whole run: the contest decides, and the plan, the report and the manifest say how."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from one_process import without_ray
from small_runs import Run, Workspace, differences, make

from rayrec import read_slates
from rayrec.pipeline import daily_run
from rayrec.pipeline.denoiser_choice import contests_of
from rayrec.pipeline.dry_run import describe
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.run_report import report_data, select_example_users
from rayrec.publishing.slate_reader import read_denoised
from rayrec.reporting.html_report import render

pytestmark = pytest.mark.slow  # whole runs

_NO_LLM = "rerank: {method: none}"
ARMS = (
    f"arms.variants={{auto: {{denoise: {{method: auto}}, {_NO_LLM}}}, none: {{denoise: {{method: none}}, {_NO_LLM}}}}}",
    'retrieval.sources={"ease": {}, "popularity": {}}',
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    workspace = make(tmp_path_factory.mktemp("auto"))
    with without_ray():
        before = describe(workspace.context(workspace.root, *ARMS))
        assert "contest   for auto: none, influence 0.1, influence 0.2" in before
        yield workspace, daily_run.run(workspace.context(workspace.root, *ARMS))


def test_the_report_and_the_manifest_name_what_it_took(run: Run) -> None:
    _, result = run
    ((arms, _, contest),) = contests_of(result.context)
    assert contest is not None
    assert contest.cutoffs == 1
    chosen = contest.table["method"][contest.choice + 1].as_py()
    assert (arms, result.manifest.models["auto denoising of auto"]) == ("auto", chosen)
    data = report_data(result, select_example_users(result.context, result.manifest, 1))
    assert data.denoising_contest.drop_columns(["arms"]).equals(contest.table)
    page = render(data)
    assert "influence 0.1" in page
    assert "What <code>denoise.method: auto</code> takes" in page
    removed = pa.concat_tables(
        [read_denoised(result.context.storage, result.manifest, s) for s in range(result.manifest.shards)]
    )
    removed = removed.filter(pc.starts_with(removed["variant"], "auto"))
    gone = sum(np.count_nonzero(row) for row in removed["reason"].to_pylist())
    assert (gone > 0) == (chosen != "none")


def test_the_choice_does_not_depend_on_shards(run: Run, tmp_path: Path) -> None:
    workspace, result = run
    other = daily_run.run(workspace.context(tmp_path, *ARMS, "data.shards=3"))
    (one,), (two,) = (list(contests_of(each.context)) for each in (result, other))
    assert one[2] is not None
    assert two[2] is not None
    assert one[2].table.equals(two[2].table)
    assert not differences(published(workspace, result.context), published(workspace, other.context), but=("slate_id",))


def test_without_an_earlier_cutoff_it_takes_none(run: Run, tmp_path: Path) -> None:
    workspace, _ = run
    context = workspace.context(tmp_path, *ARMS, "blend.cutoffs=0")
    assert "there is no earlier cutoff, so auto takes none" in describe(context)
    result = daily_run.run(context)
    assert result.manifest.models["auto denoising of auto"] == "none"
    slates = published(workspace, context)
    one, other = (slates.filter(pc.equal(slates["arm"], arm)).drop_columns("arm") for arm in ("auto", "none"))
    assert one.drop_columns("slate_id").equals(other.drop_columns("slate_id"))


def published(workspace: Workspace, context: RunContext) -> pa.Table:
    return read_slates(context.config.output.root, workspace.dataset.date)
