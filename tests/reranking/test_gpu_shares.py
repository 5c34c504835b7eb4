"""LLM engines that share a GPU, by vLLM's own arithmetic: it starts if that share of the whole GPU is free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest
from fake_gpu import TOTAL, Gpu
from small_checkpoints import build

from rayrec.config import Rerank, Resources, load
from rayrec.errors import ConfigError
from rayrec.instructions.templates import load_templates
from rayrec.pipeline import scorers
from rayrec.pipeline.gpu_shares import check_gpu_shares, engines_of_an_actor, gpu_share
from rayrec.pipeline.item_model_fitting import ModelSet
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.scorers import ScorerCache
from rayrec.reranking.engines.engine import EngineSettings
from rayrec.reranking.engines.vllm_runner import VllmRunner
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint

CONFIG = Path(__file__).parents[2] / "jobs" / "demo.yaml"


def run_of(methods: Sequence[Rerank], **resources: Any) -> RunContext:
    """What is read of a run: an arm for each method."""
    variants = [SimpleNamespace(read=lambda _, method=method: method) for method in methods]
    arms = SimpleNamespace(variants=lambda _: variants)
    config = SimpleNamespace(resources=Resources(**resources), rerank=Rerank())
    return cast(RunContext, SimpleNamespace(config=config, arms=arms, templates=load_templates()))


def text(folder: str, method: str = "pointwise", **more: Any) -> Rerank:
    return Rerank(method=method, engine="vllm", checkpoint=folder, settings={"prompt_tokens": 500}, **more)


def loaded(context: RunContext, methods: Sequence[Rerank], monkeypatch: pytest.MonkeyPatch) -> None:
    """An actor of the run, once it has every text scorer."""
    nothing = pa.nulls(1, pa.string())
    catalogue = pa.table({"title": ["Tea"], "category": nothing, "description": nothing})
    monkeypatch.setattr(scorers, "default_request", lambda context: "")
    monkeypatch.setattr(scorers, "worker_cache", lambda context: SimpleNamespace(catalogue=catalogue))
    cache = ScorerCache(context, "vllm")
    for method in methods:
        cache.at(ModelSet(1, "items"), method)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return tuple(str(build(tmp_path_factory.mktemp("model"), "qwen3")) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize(("gpus", "actors"), [(1, 1), (0.5, 2), (0.25, 4), (2, 1)])
def test_all_engines_of_a_gpu_fit_into_it(
    gpus: float, actors: int, gpu: Gpu, folders: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = [text(folders[0]), text(folders[1]), text(folders[0], "pairwise"), text(folders[1], dtype="float16")]
    context = run_of(methods, rerank_num_gpus=gpus)
    assert engines_of_an_actor(context) == 3  # the pairwise one shares the first engine
    for _ in range(actors):
        loaded(context, methods, monkeypatch)
    assert len(gpu.started) == 3 * actors
    assert 0.07 * TOTAL < gpu.free < 0.10 * TOTAL  # nothing is wasted beside what vLLM leaves free itself


def test_without_shares_the_second_engine_does_not_start(
    gpu: Gpu, folders: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in refuses what vLLM refuses."""
    methods = [text(folder) for folder in folders]
    monkeypatch.setattr(scorers, "gpu_share", lambda context: 1.0)
    with pytest.raises(ConfigError, match="less than desired"):
        loaded(run_of(methods, rerank_num_gpus=1), methods, monkeypatch)


def test_the_item_token_ranker_is_an_engine_too(folders: tuple[str, str]) -> None:
    methods = [Rerank(), Rerank(max_promotion=3), text(folders[0]), Rerank(method="none")]
    assert gpu_share(run_of(methods, rerank_num_gpus=1)) == 0.5
    assert gpu_share(run_of([Rerank(method="none")], rerank_num_gpus=1)) == 1


def test_one_engine_alone_gets_what_vllm_takes_by_default(gpu: Gpu, folders: tuple[str, str]) -> None:
    model = InstructCheckpoint.open(folders[0]).model_files
    VllmRunner(model, "next_token", EngineSettings(device="cuda"), 300)
    assert gpu.started[0]["gpu_memory_utilization"] == 0.92
    assert gpu.started[0]["max_num_batched_tokens"] == 16_384


def test_a_share_of_the_config_is_used_as_it_is(gpu: Gpu, folders: tuple[str, str]) -> None:
    model, vllm = InstructCheckpoint.open(folders[0]).model_files, {"gpu_memory_utilization": 0.3}
    VllmRunner(model, "next_token", EngineSettings(device="cuda", gpu_share=0.5, vllm=vllm), 300)
    assert gpu.started[0]["gpu_memory_utilization"] == 0.3


def test_an_engine_on_cpus_gets_no_share_of_a_gpu(gpu: Gpu, folders: tuple[str, str]) -> None:
    VllmRunner(InstructCheckpoint.open(folders[0]).model_files, "next_token", EngineSettings(gpu_share=0.5), 300)
    assert gpu.started[0]["gpu_memory_utilization"] == 0.92  # of the stand-in: none was given
    assert "kv_cache_memory_bytes" in gpu.started[0]


@pytest.mark.parametrize(
    ("gpus", "engines", "given", "refused"),
    [(1, 1, 0.92, False), (1, 2, 0.5, False), (1, 2, 0.6, True), (0.5, 1, 0.6, True), (0.5, 1, 0.5, False)],
)
def test_shares_of_the_config_that_exceed_a_gpu_are_refused(
    gpus: float, engines: int, given: float, refused: bool, folders: tuple[str, str]
) -> None:
    vllm = {"gpu_memory_utilization": given}
    context = run_of([text(folder) for folder in folders[:engines]], rerank_num_gpus=gpus, vllm=vllm)
    if not refused:
        check_gpu_shares(context)
        return
    with pytest.raises(ConfigError, match="engines share a GPU") as caught:
        check_gpu_shares(context)
    assert caught.value.where == "resources.vllm.gpu_memory_utilization"


@pytest.mark.parametrize(
    ("gpus", "arguments", "message"),
    [
        ("2", "{tensor_parallel_size: 4}", "4 GPUs, and it gets 2"),
        ("4", "{tensor_parallel_size: 2}", "2 GPUs, and it gets 4"),
        ("0.5", "{tensor_parallel_size: 2}", "2 GPUs, and it gets 0.5"),
        ("2", "{tensor_parallel_size: 2, pipeline_parallel_size: 2}", "4 GPUs, and it gets 2"),
        ("2", "{tensor_parallel_size: two}", "whole number"),
        ("2", "{tensor_parallel_size: 0}", "whole number"),
    ],
)
def test_parallelism_that_does_not_fit_the_gpus_is_refused_when_the_config_is_read(
    gpus: str, arguments: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(CONFIG, [f"resources.rerank_num_gpus={gpus}", f"resources.vllm={arguments}"])


@pytest.mark.parametrize(
    ("gpus", "arguments"),
    [
        ("2", "{}"),
        ("2", "{tensor_parallel_size: 2}"),
        ("0.5", "{tensor_parallel_size: 1}"),
        ("4", "{tensor_parallel_size: 2, pipeline_parallel_size: 2}"),
        ("0", "{tensor_parallel_size: 2}"),
    ],
)
def test_parallelism_that_fits_is_taken(gpus: str, arguments: str) -> None:
    read = load(CONFIG, [f"resources.rerank_num_gpus={gpus}", f"resources.vllm={arguments}"]).resources
    assert read.rerank_num_gpus == float(gpus)
