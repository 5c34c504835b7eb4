"""`rerank.adapter: tuned` in the job's stages, in one process without Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from one_process import without_ray
from small_checkpoints import build
from tiny_runs import TinyShop

from rayrec.config import Rerank
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.errors import ConfigError, DataError
from rayrec.numerics.collectives import Worker
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline import daily_run, text_adapter_tuning
from rayrec.pipeline.blender_fitting import DenoiseTrainingUsers, TrainingSpec, blender_fingerprint
from rayrec.pipeline.interaction_ingest import IngestResult, ingest
from rayrec.pipeline.item_model_fitting import ModelSet, fit_item_models
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.scorers import ScorerCache
from rayrec.pipeline.scoring import RerankShard, RetrieveShard, ScoringSpec
from rayrec.pipeline.text_adapter_tuning import tune_text_adapters, tuning_window
from rayrec.ray_support.training_workers import WorkerGroup
from rayrec.reranking.engines.engine import EngineSettings
from rayrec.reranking.engines.transformers_runner import TransformersRunner
from rayrec.reranking.engines.vllm_runner import VllmRunner
from rayrec.reranking.text import InstructCheckpoint, tuned_adapter
from rayrec.reranking.text.text_reranker import TextReranker
from rayrec.storage import published_folder
from rayrec.storage.tables import read_arrow

pytestmark = pytest.mark.slow  # two tunings, some seconds

ARM = (
    "{rerank: {method: %s, checkpoint: %s, adapter: tuned, depth: 10, engine: transformers, "
    "settings: {events: 2, item_tokens: 16, prompt_tokens: 500%s}}}"
)
SMALL = ("text_tuning.max_users=6", "text_tuning.learning_rate=0.01", "denoise={method: none}")
Prepared = tuple[RunContext, IngestResult, tuple[ModelSet, ...]]


def here(work: Callable[..., Any], workers: WorkerGroup, name: str) -> None:
    """Stands for a group of training workers: one, in this process."""
    work(Worker(), lambda row, line: None)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    root = tmp_path_factory.mktemp("tuned")
    folder = build(root, "qwen3")
    arms = [ARM % (method, folder, more) for method, more in (("pointwise", ""), ("listwise", ", window: 5"))]
    variants = f"arms.variants={{plain: {{}}, one: {arms[0]}, list: {arms[1]}}}"
    context = TinyShop.make(root, users=60).context(root / "out", variants, *SMALL)
    daily_run.check(context)
    with pytest.MonkeyPatch.context() as patched, without_ray():
        patched.setattr(text_adapter_tuning, "run", here)
        patched.setattr(text_adapter_tuning, "training_workers", lambda resources, gpus: WorkerGroup())
        data = ingest(context)
        return context, data, tune_text_adapters(context, data, fit_item_models(context, data))


def variants(context: RunContext) -> list[Any]:
    return [v for v in context.arms.variants("rerank") if v.read(Rerank).is_text_scorer]


def test_each_way_of_asking_has_its_adapter_of_before_the_first_cutoff(tuned: Prepared) -> None:
    context, _, models = tuned
    assert {one.text_adapters for one in models} == {models[0].text_adapters}  # one adapter serves all cutoffs
    assert len({path for _, path in models[0].text_adapters}) == 2
    for _, path in models[0].text_adapters:
        card = tuned_adapter.read_card(context.storage, path)
        assert 0 < card["users"] <= 6
        assert card["now"] < card["until"] == models[0].cutoff


def test_training_candidates_and_answers_lie_before_the_first_cutoff(tuned: Prepared) -> None:
    context, _, models = tuned
    window = tuning_window(models[0].cutoff, context.config.blend.horizon_days)
    assert window.until - window.now == context.config.blend.horizon_days * MICROSECONDS_PER_DAY
    files = [info.path for info in context.storage.list(context.work_folder) if f"/{window.now}/" in info.path]
    assert len(files) == context.config.data.shard_count
    shown = [read_arrow(context.storage, path) for path in files]
    times = pa.concat_tables([table.select(["ts"]) for table in shown if table.num_rows])["ts"]
    assert np.array(times.combine_chunks().flatten()).max() < window.now


def test_scorers_load_their_adapter(tuned: Prepared) -> None:
    context, _, models = tuned
    cache = ScorerCache(context, "transformers")
    scorers = [cache.at(models[-1], variant.read(Rerank)) for variant in variants(context)]
    assert all(isinstance(scorer, TextReranker) for scorer in scorers)
    assert len({id(scorer.scorer.engine) for scorer in scorers if isinstance(scorer, TextReranker)}) == 2
    plain = variants(context)[0].read(Rerank).model_copy(update={"adapter": None})
    query = pa.table(
        {
            "user_id": ["a"],
            "item": pa.array([[0, 1]], pa.list_(pa.int32())),
            "candidate": pa.array([[2, 3, 4]], pa.list_(pa.int32())),
            "score.popularity": pa.array([[3.0, 2.0, 1.0]], pa.list_(pa.float32())),
        }
    )
    with_adapter, without = (
        np.array(scorer(query)["llm_score"][0].as_py()) for scorer in (scorers[0], cache.at(models[-1], plain))
    )
    assert np.isfinite(with_adapter).all()
    assert not np.array_equal(with_adapter, without)


def test_vllm_scores_with_an_adapter_as_transformers_does(tuned: Prepared) -> None:
    context, _, models = tuned
    method = variants(context)[0].read(Rerank)
    folder = published_folder.fetch(context.storage, dict(models[0].text_adapters)[method.scorer_key])
    files = [InstructCheckpoint.open(str(method.checkpoint), on_top).model_files for on_top in (str(folder), None)]
    settings = EngineSettings(dtype="float32", threads=1, vllm={"kv_cache_memory_bytes": 16 << 20})
    engines = (
        VllmRunner(files[0], "next_token", settings, 500),
        *(TransformersRunner(each, "next_token", settings, 500) for each in files),
    )
    prompts = [[3, 4, 5, 6, 7], [3, 4, 5, 8], list(range(3, 90))]
    vllm, same, plain = (np.array(engine.next_token_log_probs(prompts, [9, 10, 11])) for engine in engines)
    np.testing.assert_allclose(vllm, same, atol=1e-3)
    assert np.abs(same - plain).max() > 0.01  # the adapter counts


def test_the_rerank_stage_scores_with_the_adapters(tuned: Prepared) -> None:
    """What the blender learns from, shard by shard as in the job."""
    context, _, models = tuned
    spec = TrainingSpec(ScoringSpec(context, models[:-1], "transformers", for_training=True), 0.3)
    stages = [DenoiseTrainingUsers(spec), RetrieveShard(spec.scoring), RerankShard(spec.scoring)]
    for item in spec.scoring.work_items:
        table = pa.table({})
        for stage in stages:
            table = stage(item, table)
        if table.num_rows:
            break
    for variant in variants(context):
        rows = table.filter(pc.equal(table["scoring_request"], variant.name))
        assert rows.num_rows
        assert set(rows["scorer"].to_pylist()) == {f"transformers: {variant.read(Rerank).method}"}
        scores = Ragged.from_arrow(rows["llm_score"])
        assert np.isfinite(scores.values).sum() == np.minimum(scores.lengths, 10).sum()  # rerank.depth


def test_an_adapter_that_exists_is_reused(tuned: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    context, data, models = tuned
    monkeypatch.setattr(text_adapter_tuning, "run", None)  # nothing is left to run
    with without_ray():
        assert tune_text_adapters(context, data, models) == models


def test_another_adapter_is_another_blender(tuned: Prepared) -> None:
    context, _, models = tuned
    variant = variants(context)[0]
    assert blender_fingerprint(context, variant, models[:-1]) != blender_fingerprint(
        context, variant, [ModelSet(one.cutoff, one.item_model) for one in models[:-1]]
    )


def test_without_events_before_the_window_the_error_says_what_to_do(
    tuned: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, data, models = tuned
    monkeypatch.setattr(text_adapter_tuning, "first_positive_event", lambda context: models[0].cutoff - 1)
    with pytest.raises(DataError, match="no positive events before"):
        tune_text_adapters(context, data, models)


def test_few_shot_examples_are_for_untuned_checkpoints(tmp_path: Path) -> None:
    shop = TinyShop.make(tmp_path, users=5)
    arm = ARM % ("pointwise", "/nowhere", ", few_shot: nearest")
    with pytest.raises(ConfigError, match="few_shot"):
        shop.context(tmp_path / "out", f"arms.variants={{one: {arm}}}")
