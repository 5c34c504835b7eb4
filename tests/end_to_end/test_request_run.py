"""A run with instructions: a request for one arm, a request of one user, a text scorer, an arm without an LLM whose
request avoids the catalogue's words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pytest
from small_checkpoints import build
from small_runs import Run, Workspace

from rayrec import read_slates
from rayrec.data.synthetic_dataset import make_synthetic_dataset
from rayrec.pipeline import daily_run
from rayrec.pipeline.blender_fitting import load_blender
from rayrec.pipeline.daily_run import RunResult
from rayrec.pipeline.interaction_ingest import histories
from rayrec.pipeline.item_model_fitting import cutoffs
from rayrec.pipeline.run_artifacts import read_text_ablation
from rayrec.pipeline.run_report import report_data
from rayrec.pipeline.scorers import few_shot_pool
from rayrec.reranking.item_token import tuned_checkpoint
from rayrec.reranking.text import tuned_adapter
from rayrec.storage import layout

POINTWISE = (
    "{rerank: {method: pointwise, checkpoint: %s, depth: 2, engine: transformers, settings: "
    "{events: 2, item_tokens: 32, few_shot: coverage, examples: 1, example_events: 2}}}"
)
TUNED = (
    "{rerank: {method: pointwise, checkpoint: %s, adapter: tuned, depth: 2, engine: transformers, settings: "
    "{events: 2, item_tokens: 32, prompt_tokens: 500}}}"
)
ARMS = "arms.variants={llm: {}, campaign: {}, pointwise: %s, tuned: %s, outdoors: {rerank: {method: none}}}"
TUNED_ON_REQUESTS = (
    "tuning.epochs=8",
    "tuning.batch_tokens=512",
    "tuning.learning_rate=0.01",
    "tuning.task_mix={search: 20, contrary: 10}",
    "blend.max_users=60",
    "text_tuning.max_users=8",
)


@pytest.fixture(scope="module")
def with_requests(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("asked")
    workspace = Workspace(make_synthetic_dataset(root, seed=3, users=60), root / "out")
    table = {
        "user_id": ["*", "nobody", "*"],
        "arm": ["campaign", "", "outdoors"],
        "preference": ["", "", ""],
        "intention": ["something in camping", "a boat", "a tent to sleep in outdoors"],
    }
    pa_csv.write_csv(pa.table(table), workspace.dataset.data_root / "instructions.csv")
    folder = build(root, "qwen3")
    arms = ARMS % (POINTWISE % folder, TUNED % folder)
    return workspace, daily_run.run(workspace.context(workspace.root, arms, *TUNED_ON_REQUESTS))


def top(workspace: Workspace, result: RunResult, arm: str) -> pa.Table:
    slates = read_slates(str(workspace.root), workspace.dataset.date)
    slates = slates.filter((pc.field("arm") == arm) & (pc.field("rank") <= 10))
    items = pa_csv.read_csv(workspace.dataset.data_root / "items.csv")
    place = pc.index_in(slates["item_id"], items["item_id"].combine_chunks())
    return slates.append_column("category", items["category"].take(place))


def share(table: pa.Table, category: str) -> float:
    return float(np.mean(pc.equal(table["category"], category)))


def test_a_request_of_one_arm_changes_the_slates_of_that_arm(with_requests: Run) -> None:
    workspace, result = with_requests
    with_request, without = (share(top(workspace, result, arm), "Camping") for arm in ("campaign", "llm"))
    assert with_request > 0.9 > without + 0.4


def test_an_arm_without_an_llm_follows_a_request_in_other_words(with_requests: Run) -> None:
    workspace, result = with_requests
    assert share(top(workspace, result, "outdoors"), "Camping") > 0.9


def test_prompts_are_counted_by_engine_and_method(with_requests: Run) -> None:
    workspace, result = with_requests
    slates = read_slates(str(workspace.root), workspace.dataset.date)
    users = len(pc.unique(slates["user_id"]))
    assert result.manifest.engine == {"vllm: item_token": 2 * users, "transformers: pointwise": 2 * users}


def test_the_manifest_names_the_requests_and_the_checkpoint(with_requests: Run) -> None:
    _, result = with_requests
    inputs = {Path(file.path).name: file for file in result.manifest.inputs}
    assert inputs["instructions.csv"].rows == 3
    assert "qwen3@" in str(inputs["qwen3"].version)
    assert "all-MiniLM-L6-v2@" in str(inputs["instruction.encoder: auto"].version)
    assert result.manifest.prompt_hash


def test_the_adapter_that_the_job_tuned_is_named_and_was_tuned_before_the_blend(with_requests: Run) -> None:
    _, result = with_requests
    path = layout.model_folder(layout.TEXT_ADAPTER_KIND, result.manifest.models["adapter of tuned"])
    card = tuned_adapter.read_card(result.context.storage, path)
    assert 0 < card["users"] <= 8
    assert card["until"] == cutoffs(result.context)[0]


def test_an_llm_changes_the_ranking_of_users_without_request_only_if_it_has_entered_the_blend(
    with_requests: Run,
) -> None:
    workspace, result = with_requests
    named = result.manifest.models
    blends = {arm: load_blender(result.context, key) for name, key in named.items() for arm in blend_arms(name)}
    entered = [blends[arm].with_llm is not None for arm in ("pointwise", "llm")]
    pointwise, llm = (top(workspace, result, arm) for arm in ("pointwise", "llm"))
    assert pointwise.num_rows == llm.num_rows
    assert pointwise["item_id"].equals(llm["item_id"]) == (not any(entered))


def blend_arms(name: str) -> list[str]:
    """The arms in the manifest's name of a blend; [] for other models."""
    return name.removeprefix("blend of ").split(", ") if name.startswith("blend of ") else []


def test_the_report_shows_the_text_ablation(with_requests: Run) -> None:
    _, result = with_requests
    again = read_text_ablation(result.context, result.manifest.run_id)
    assert [method.partition("-")[0] for method in again] == ["pointwise"] * 2
    assert all(60 < table.num_rows <= 200 for table in again.values())
    shown = report_data(result, []).text_ablation
    items = {method: len(pc.unique(table["item"])) for method, table in again.items()}
    assert dict(zip(shown["method"].to_pylist(), shown["items"].to_pylist(), strict=True)) == items


def test_the_report_lists_the_recognised_requests(with_requests: Run) -> None:
    _, result = with_requests
    card = tuned_checkpoint.read_model_card(
        result.context.storage, result.models.llm if result.models and result.models.llm else ""
    )
    assert card.settings["epochs"] == 8
    columns = ("in_vocabulary", "facets", "arms", "recognised")
    rows = {row["text"]: tuple(row[name] for name in columns) for row in report_data(result, []).requests.to_pylist()}
    assert rows == {
        "something in camping": ("something in camping", "camping", "campaign", True),
        "a tent to sleep in outdoors": ("a tent to in", "camping", "outdoors", True),
        None: (None, None, "", False),
    }


def test_few_shot_examples_are_as_of_the_oldest_cutoff(with_requests: Run) -> None:
    _, result = with_requests
    pool = few_shot_pool(result.context)
    assert 20 < len(pool) == len(set(pool.users)) <= 60
    first = cutoffs(result.context)[0]
    assert first < result.context.cutoff
    by_user = dict(zip(pool.users, range(len(pool)), strict=True))
    weight = np.asarray(result.context.event_weights)
    met = 0
    for shard in range(result.context.config.data.shard_count):
        for row in histories(result.context, shard).to_pylist():
            if row["user_id"] in by_user:
                rows = zip(row["item"], row["ts"], row["event"], strict=True)
                past = [item for item, ts, event in rows if ts < first and weight[event] > 0]
                place = by_user[row["user_id"]]
                assert [*pool.history[place], pool.consumed[place]] == past
                met += 1
    assert met == len(pool)
