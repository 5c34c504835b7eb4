"""The night as its users see it: real Ray, real vLLM on CPU, real Ray Train, a made-up shop.

What parts alone cannot show: that the same rows come out whatever the sharding, the number of workers, the engine's
batches or the other arms; and that what goes wrong for one user, or one input, stays there.
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
from small_runs import CONFIG, USERS, Made, differences, rows
from typer.testing import CliRunner

from jobs.daily import main as daily_job
from rayrec import read_slates
from rayrec.data.schemas import SLATE
from rayrec.errors import PublicationError, QuarantineError
from rayrec.pipeline import daily_run, scoring
from rayrec.pipeline.daily_run import RunResult
from rayrec.pipeline.dry_run import describe
from rayrec.pipeline.models import ModelSet
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


def published(made: Made, night: RunResult) -> pa.Table:
    return read_slates(night.context.config.output.root, made.shop.date, verify=True)


def test_every_user_has_exactly_one_slate_in_every_arm(first_night: tuple[Made, RunResult]) -> None:
    made, night = first_night
    slates = published(made, night)
    assert slates.schema.equals(SLATE)
    counts = slates.filter(pc.equal(slates["rank"], 1)).group_by(["arm", "user_id"]).aggregate([([], "count_all")])
    assert pc.max(counts["count_all"]).as_py() == 1
    assert counts.num_rows == 2 * USERS == 2 * night.manifest.users.published


def test_the_manifest_says_what_went_in_and_who_scored(first_night: tuple[Made, RunResult]) -> None:
    _, night = first_night
    manifest = night.manifest
    assert manifest.engine == {"vllm: item_token": USERS}
    assert {"item_model", "llm", "llm base"} <= set(manifest.models)
    assert manifest.prompt_hash
    assert all(file.rows for file in manifest.inputs)
    assert sum(manifest.quarantined_rows.values()) > 0
    assert manifest.users.users_in == USERS


def test_a_rerun_does_nothing(first_night: tuple[Made, RunResult]) -> None:
    made, night = first_night
    before = {info.path: info.version for info in night.context.storage.list("slates")}
    again = daily_run.run(made.context(made.root))
    assert again.already_published
    assert {info.path: info.version for info in night.context.storage.list("slates")} == before
    assert "nothing would be done" in describe(made.context(made.root))


@pytest.mark.parametrize(("left", "code"), [(None, None), (b'{"name": "of another version"}', "newer")])
def test_a_night_that_died_before_its_report_gets_it_from_the_rerun(
    first_night: tuple[Made, RunResult],
    tmp_path: Path,
    left: bytes | None,
    code: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, night = first_night
    root = tmp_path / "out"
    shutil.copytree(made.root, root)
    storage, dt = Storage(str(root)), made.shop.date.isoformat()
    if left is not None:
        storage.write(layout.report_data_path(night.date), left)
    if code is not None:
        monkeypatch.setattr(sys.modules[code_version.__module__], "_commit", lambda checkout: code)
        assert made.context(root).code_version == code != night.context.code_version
    assert "its report would be written" in describe(made.context(root))
    sets = [word for one in made.overrides(root) for word in ("--set", one)]
    lines = [CliRunner().invoke(daily_job, ["--config", str(CONFIG), "--date", dt, *sets]).output for _ in range(2)]
    assert "written now" in lines[0]
    assert "report:" not in lines[1]
    expected = report_data(
        night, select_example_users(night.context, night.manifest, night.context.config.output.examples)
    )
    assert expected.losses.num_rows
    assert read_report(storage, dt) == dataclasses.replace(expected, timings=TIMINGS.empty_table())
    assert storage.exists(layout.report_page_path(night.date))


def test_a_late_report_whose_sources_are_gone_is_told_and_no_error(
    first_night: tuple[Made, RunResult], tmp_path: Path
) -> None:
    made, _ = first_night
    root = tmp_path / "out"
    shutil.copytree(made.root / "slates", root / "slates")
    sets = [word for one in made.overrides(root) for word in ("--set", one)]
    given = ["--config", str(CONFIG), "--date", made.shop.date.isoformat(), *sets]
    result = CliRunner().invoke(daily_job, given)
    assert result.exit_code == 0, result.output
    assert "what it is made of is gone" in result.output
    assert not Storage(str(root)).list("reports")


def test_another_config_is_refused_and_told_what_differs(first_night: tuple[Made, RunResult]) -> None:
    made, _ = first_night
    with pytest.raises(PublicationError, match=r"slate\.size: 50 -> 10"):
        daily_run.run(made.context(made.root, "slate.size=10"))


def test_the_rows_do_not_depend_on_the_number_of_shards(first_night: tuple[Made, RunResult], tmp_path: Path) -> None:
    made, night = first_night
    other = daily_run.run(made.context(tmp_path / "out", "data.shards=1"))
    drop = ("slate_id",)  # names the run
    assert not differences(published(made, other), published(made, night), but=drop)


def test_the_rows_do_not_depend_on_the_number_of_workers(first_night: tuple[Made, RunResult], tmp_path: Path) -> None:
    made, night = first_night
    root = made.prepared(tmp_path / "out")
    sets = ("resources.score_tasks=3", "resources.rerank_actors=2", "resources.rerank_num_cpus=0.4")
    other = daily_run.run(made.context(root, *sets))
    assert not differences(published(made, other), published(made, night))


def test_transformers_scores_like_vllm(first_night: tuple[Made, RunResult], tmp_path: Path) -> None:
    made, night = first_night
    other = daily_run.run(made.context(made.prepared(tmp_path / "out"), "rerank.engine=transformers"))
    assert other.manifest.engine == {"transformers: item_token": USERS}
    keys = ["arm", "user_id", "item_id"]
    ours, theirs = (published(made, n).select([*keys, "score"]) for n in (night, other))
    joined = ours.join(theirs, keys, right_suffix="_other", join_type="inner")
    assert joined.num_rows > 0.99 * ours.num_rows  # the last ranks may change places within rounding
    gap = np.abs(joined["score"].to_numpy() - joined["score_other"].to_numpy())
    assert gap.max() < 1e-3


def test_an_arm_alone_gives_the_slates_it_gives_beside_others(
    first_night: tuple[Made, RunResult], tmp_path: Path
) -> None:
    made, night = first_night
    config = made.config(made.prepared(tmp_path / "out"))
    alone = config.model_copy(
        update={"arms": config.arms.model_copy(update={"variants": {"llm": config.arms.variants["llm"]}})}
    )
    other = daily_run.run(type(night.context)(alone, made.shop.date))
    together = published(made, night).filter(pc.field("arm") == "llm")
    assert not differences(published(made, other), together, but=("slate_id",))


def test_split_users_get_one_arm_each(first_night: tuple[Made, RunResult], tmp_path: Path) -> None:
    made, _ = first_night
    other = daily_run.run(made.context(made.prepared(tmp_path / "out"), "arms.assignment=split"))
    slates = published(made, other)
    arms = slates.group_by("user_id").aggregate([("arm", "count_distinct")])
    assert arms.num_rows == USERS
    assert pc.max(arms["arm_count_distinct"]).as_py() == 1
    assert set(slates["arm"].to_pylist()) == {"control", "llm"}
    assert sum(other.manifest.engine.values()) < USERS  # the control's users never reach the LLM


def test_slates_left_to_chance_come_out_the_same_again(first_night: tuple[Made, RunResult], tmp_path: Path) -> None:
    made, _ = first_night
    sets = ("rerank.method=none", "slate.policy=plackett_luce", "slate.settings={temperature: 0.5}")
    first, second = (daily_run.run(made.context(made.prepared(tmp_path / name), *sets)) for name in ("a", "b"))
    assert not differences(published(made, first), published(made, second))
    assert pc.max(published(made, first)["propensity"]).as_py() <= 1
    assert pc.mean(published(made, first)["propensity"]).as_py() < 0.9


def test_too_much_quarantine_publishes_nothing(first_night: tuple[Made, RunResult], tmp_path: Path) -> None:
    made, _ = first_night
    context = made.context(tmp_path / "out", "data.max_quarantine_share=0.0001")
    with pytest.raises(QuarantineError, match=r"broke the contract .* no_user"):
        daily_run.run(context)
    assert find_manifest(context.storage, made.shop.date) is None
    assert context.storage.list(context.quarantine)


class ReadersThatFailOnce(ScorerCache):
    """One prompt of the day fails."""

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
        self._readers = ReadersThatFailOnce(scoring.context, scoring.engine)


def test_a_user_whose_prompt_fails_is_quarantined_and_the_others_go_on(
    first_night: tuple[Made, RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, night = first_night
    monkeypatch.setattr(scoring, "RerankShard", RerankThatFailsOne)
    other = daily_run.run(made.context(made.prepared(tmp_path / "out"), "rerank.engine=transformers"))
    shards = made.config(tmp_path).data.shards
    assert other.manifest.users.quarantined == {"prompt_failed": shards}  # one of each shard
    slates = published(made, other)
    assert len(pc.unique(slates["user_id"])) == USERS - shards
    files = [info.path for info in other.context.storage.list(other.context.quarantine) if "prompts-" in info.path]
    named = pa.concat_tables([pq.read_table(other.context.storage.url(path)) for path in files])
    assert set(named["detail"].to_pylist()) == {"refused for the test"}
    assert not set(named["user_id"].to_pylist()) & set(slates["user_id"].to_pylist())
    untouched = rows(slates.filter(pc.field("arm") == "control"), but=("slate_id",))
    base = published(made, night)
    base = rows(
        base.filter((pc.field("arm") == "control") & pc.is_in(pc.field("user_id"), slates["user_id"].combine_chunks())),
        but=("slate_id",),
    )
    assert untouched.equals(base)


def test_the_report_is_made_from_what_the_run_left(first_night: tuple[Made, RunResult]) -> None:
    _, night = first_night
    people = select_example_users(night.context, night.manifest, 3)
    assert len(people) == 3
    data = report_data(night, people)
    assert data.users_in == USERS
    assert data.losses.num_rows > 0
    assert data.facts["input files"].startswith(f"{len(night.context.files)}; 7 more")  # the week after the date
    page = render(data)
    assert night.manifest.run_id in page
    assert "no_user" in page
