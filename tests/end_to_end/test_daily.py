"""The daily run end to end: real Ray, vLLM on CPU, Ray Train, a synthetic dataset.

Covers what unit tests cannot: rows do not depend on sharding, the number of workers, the engine's batches or the other
arms; and the failure of one user or one input does not affect others.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import ray
import test_daily as this_module
from small_runs import CONFIG, USERS, Run, Workspace, differences, rows
from typer.testing import CliRunner

from jobs.daily import main as daily_job
from rayrec import read_slates
from rayrec.data.schemas import SLATE
from rayrec.errors import PublicationError, QuarantineError
from rayrec.pipeline import daily_run, scoring
from rayrec.pipeline.daily_run import RunResult
from rayrec.pipeline.dry_run import describe
from rayrec.pipeline.item_model_fitting import ModelSet
from rayrec.pipeline.run_report import report_data, select_example_users
from rayrec.pipeline.scorers import ScorerCache
from rayrec.pipeline.scoring import ScoringSpec
from rayrec.publishing import code_version
from rayrec.publishing.manifest import find_manifest
from rayrec.reporting.html_report import read_report, render
from rayrec.reporting.report_data import TIMINGS
from rayrec.reranking.engines.engine import Failure
from rayrec.reranking.item_token.item_token_ranker import ItemTokenRanker
from rayrec.storage import Storage, layout

ray.cloudpickle.register_pickle_by_value(this_module)  # workers cannot import a test


def published(workspace: Workspace, result: RunResult) -> pa.Table:
    return read_slates(result.context.config.output.root, workspace.dataset.date, verify=True)


def test_every_user_has_exactly_one_slate_in_every_arm(first_run: Run) -> None:
    workspace, result = first_run
    slates = published(workspace, result)
    assert slates.schema.equals(SLATE)
    counts = slates.filter(pc.equal(slates["rank"], 1)).group_by(["arm", "user_id"]).aggregate([([], "count_all")])
    assert pc.max(counts["count_all"]).as_py() == 1
    assert counts.num_rows == 2 * USERS == 2 * result.manifest.users.published


def test_the_manifest_names_inputs_and_scorers(first_run: Run) -> None:
    _, result = first_run
    manifest = result.manifest
    assert manifest.engine == {"vllm: item_token": USERS}
    assert {"item_model", "llm", "llm base"} <= set(manifest.models)
    assert manifest.prompt_hash
    read = {file.path for file in manifest.inputs if file.rows}
    assert {file.path for file in result.context.files} <= read
    assert [file.path for file in manifest.inputs if file.path not in read] == ["instruction.encoder: auto"]
    assert sum(manifest.quarantined_rows.values()) > 0
    assert manifest.users.users_in == USERS


def test_a_rerun_changes_nothing(first_run: Run) -> None:
    workspace, result = first_run
    before = {info.path: info.version for info in result.context.storage.list("slates")}
    again = daily_run.run(workspace.context(workspace.root))
    assert again.already_published
    assert {info.path: info.version for info in result.context.storage.list("slates")} == before
    assert "nothing would be done" in describe(workspace.context(workspace.root))


@pytest.mark.parametrize(("left", "code"), [(None, None), (b'{"name": "of another version"}', "newer")])
def test_a_rerun_writes_the_report_of_a_run_killed_before_it(
    first_run: Run, tmp_path: Path, left: bytes | None, code: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, result = first_run
    root = tmp_path / "out"
    shutil.copytree(workspace.root, root)
    storage, dt = Storage(str(root)), workspace.dataset.date.isoformat()
    if left is not None:
        storage.write(layout.report_data_path(workspace.dataset.date), left)
    if code is not None:
        monkeypatch.setattr(sys.modules[code_version.__module__], "_commit", lambda checkout: code)
        assert workspace.context(root).code_version == code != result.context.code_version
    assert "its missing report would be written" in describe(workspace.context(root))
    sets = [word for one in workspace.overrides(root) for word in ("--set", one)]
    lines = [CliRunner().invoke(daily_job, ["--config", str(CONFIG), "--date", dt, *sets]).output for _ in range(2)]
    assert "written now" in lines[0]
    assert "report:" not in lines[1]
    expected = report_data(
        result, select_example_users(result.context, result.manifest, result.context.config.output.examples)
    )
    assert expected.losses.num_rows
    facts = {name: fact for name, fact in expected.facts.items() if name != "blend learned as of"}  # not stored
    assert read_report(storage, dt) == dataclasses.replace(expected, facts=facts, timings=TIMINGS.empty_table())
    assert storage.exists(layout.report_page_path(workspace.dataset.date))


def test_a_late_report_without_its_sources_is_no_error(first_run: Run, tmp_path: Path) -> None:
    workspace, _ = first_run
    root = tmp_path / "out"
    shutil.copytree(workspace.root / "slates", root / "slates")
    sets = [word for one in workspace.overrides(root) for word in ("--set", one)]
    given = ["--config", str(CONFIG), "--date", workspace.dataset.date.isoformat(), *sets]
    result = CliRunner().invoke(daily_job, given)
    assert result.exit_code == 0, result.output
    assert "because a file is missing" in result.output
    assert not Storage(str(root)).list("reports")


def test_another_config_is_refused_with_the_differences(first_run: Run) -> None:
    workspace, _ = first_run
    with pytest.raises(PublicationError, match=r"slate\.size: 50 -> 10"):
        daily_run.run(workspace.context(workspace.root, "slate.size=10"))


def test_an_arm_gives_the_same_slates_with_and_without_other_arms(first_run: Run, tmp_path: Path) -> None:
    workspace, result = first_run
    config = workspace.config(workspace.prepared(tmp_path / "out"))
    alone = config.model_copy(
        update={"arms": config.arms.model_copy(update={"variants": {"llm": config.arms.variants["llm"]}})}
    )
    other = daily_run.run(type(result.context)(alone, workspace.dataset.date))
    together = published(workspace, result).filter(pc.field("arm") == "llm")
    assert not differences(published(workspace, other), together, but=("slate_id",))


def test_too_much_quarantine_publishes_nothing(first_run: Run, tmp_path: Path) -> None:
    workspace, _ = first_run
    context = workspace.context(tmp_path / "out", "data.max_quarantine_share=0.0001")
    with pytest.raises(QuarantineError, match=r"broke the contract .* no_user"):
        daily_run.run(context)
    assert find_manifest(context.storage, workspace.dataset.date) is None
    assert context.storage.list(context.quarantine)


class ReadersThatFailOnce(ScorerCache):
    """Item-token scorer that fails the longest prompt of each call."""

    def _item_tokens(self, models: ModelSet) -> ItemTokenRanker:
        reranker = super()._item_tokens(models)
        engine = reranker._engine
        hidden = engine.last_hidden_states

        def failing(prompts: list[list[int]]) -> list[object]:
            answers = list(hidden(prompts))
            longest = max(range(len(prompts)), key=lambda row: len(prompts[row]))
            answers[longest] = Failure("refused for the test")
            return answers

        engine.last_hidden_states = failing
        return reranker


class RerankThatFailsOne(scoring.RerankShard):
    def __init__(self, scoring: ScoringSpec) -> None:
        super().__init__(scoring)
        if not scoring.for_training:  # no failures in the blender's training
            self._scorers = ReadersThatFailOnce(scoring.context, scoring.engine)


@pytest.fixture(scope="module")
def on_transformers(first_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with the reference engine, which rejects one prompt per shard."""
    workspace, _ = first_run
    root = workspace.prepared(tmp_path_factory.mktemp("transformers") / "out")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scoring, "RerankShard", RerankThatFailsOne)
        return workspace, daily_run.run(workspace.context(root, "rerank.engine=transformers"))


def test_transformers_and_vllm_scores_agree(first_run: Run, on_transformers: Run) -> None:
    (workspace, result), (_, other) = first_run, on_transformers
    assert set(other.manifest.engine) == {"transformers: item_token", "failed"}
    keys = ["arm", "user_id", "item_id"]
    ours, theirs = (published(workspace, each).select([*keys, "score"]) for each in (result, other))
    joined = theirs.join(ours, keys, right_suffix="_other", join_type="inner")
    assert joined.num_rows > 0.99 * theirs.num_rows  # the last ranks may swap within rounding
    gap = np.abs(joined["score"].to_numpy() - joined["score_other"].to_numpy())
    assert gap.max() < 1e-3


def test_a_user_with_a_failed_prompt_is_quarantined_alone(first_run: Run, on_transformers: Run, tmp_path: Path) -> None:
    workspace, other = on_transformers
    shards = workspace.config(tmp_path).data.shards
    assert other.manifest.users.quarantined == {"prompt_failed": shards}  # one per shard
    slates = published(workspace, other)
    assert len(pc.unique(slates["user_id"])) == USERS - shards
    files = [info.path for info in other.context.storage.list(other.context.quarantine) if "prompts-" in info.path]
    named = pa.concat_tables([pq.read_table(other.context.storage.url(path)) for path in files])
    assert set(named["detail"].to_pylist()) == {"refused for the test"}
    assert not set(named["user_id"].to_pylist()) & set(slates["user_id"].to_pylist())
    untouched = rows(slates.filter(pc.field("arm") == "control"), but=("slate_id",))
    base = published(workspace, first_run[1])
    base = rows(
        base.filter((pc.field("arm") == "control") & pc.is_in(pc.field("user_id"), slates["user_id"].combine_chunks())),
        but=("slate_id",),
    )
    assert untouched.equals(base)


def test_the_report_is_built_from_run_artifacts(first_run: Run) -> None:
    _, result = first_run
    people = select_example_users(result.context, result.manifest, 3)
    assert len(people) == 3
    data = report_data(result, people)
    assert data.users_in == USERS
    assert data.losses.num_rows > 0
    assert data.facts["input files"].startswith(f"{len(result.context.files)}; 7 more")  # the week after the date
    page = render(data)
    assert result.manifest.run_id in page
    assert "no_user" in page
