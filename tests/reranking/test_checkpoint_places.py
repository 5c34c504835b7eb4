"""Text rerankers on checkpoints at a URL, and on quantized ones, up to the engine's start."""

from __future__ import annotations

import json
import os
import uuid
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from fake_gpu import TOTAL, Gpu
from small_checkpoints import build

from rayrec.config import Tuning, load
from rayrec.data.synthetic_dataset import make_synthetic_dataset
from rayrec.errors import ConfigError
from rayrec.numerics.collectives import SINGLE_WORKER
from rayrec.pipeline.dry_run import describe
from rayrec.pipeline.run_context import RunContext, open_checkpoint
from rayrec.reranking.engines import engine_registry
from rayrec.reranking.engines.engine import EngineSettings
from rayrec.reranking.engines.transformers_runner import TransformersRunner
from rayrec.reranking.engines.vllm_runner import VllmRunner
from rayrec.reranking.item_token.item_lm import base_digest
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint
from rayrec.storage import Storage, checkpoint_cache
from rayrec.text_encoding.sentence_encoder import SentenceEncoder

CONFIG = Path(__file__).parents[2] / "jobs" / "demo.yaml"
QUANTIZATIONS = ("awq", "gptq", "fp8", "compressed-tensors")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(checkpoint_cache, "default_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def at_url(folder: Path) -> str:
    url = f"memory://{uuid.uuid4().hex}/qwen3"
    for file in folder.iterdir():
        Storage(url).write(file.name, file.read_bytes())
    return url


def run(tmp_path: Path, checkpoint: str, *more: str) -> RunContext:
    sets = ["rerank.method=pointwise", f"rerank.checkpoint={checkpoint}", f"output.root={tmp_path}/out", *more]
    return RunContext(load(CONFIG, sets), date(2026, 1, 31))


def quantized(tmp_path: Path, method: str) -> Path:
    folder = build(tmp_path, "qwen3")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_run_knows_a_checkpoint_at_a_url_by_its_content(tmp_path: Path) -> None:
    folder = build(tmp_path, "qwen3")
    url = at_url(folder)
    context = run(tmp_path, url)
    planned = InstructCheckpoint.open(str(folder)).digest
    assert set(context.checkpoints.values()) == {(url, planned)}
    assert any((known.path, known.version) == (url, planned) for known in context._checkpoint_inputs)
    assert open_checkpoint(context, context.config.rerank).digest == planned


def test_a_dry_run_copies_no_checkpoint(tmp_path: Path, cache: Path) -> None:
    shop = make_synthetic_dataset(tmp_path / "shop", users=20)
    folder = build(tmp_path, "qwen3")
    url, size = at_url(folder), sum(file.stat().st_size for file in folder.iterdir())
    context = RunContext(run(tmp_path, url, f"data.root={shop.data_root}").config, shop.date)
    plan = describe(context)
    assert f"{url} (rerank.checkpoint), of {size / 1e6:,.1f} MB" in plan
    assert "its id depends on the checkpoints" in plan
    assert not cache.exists()
    _ = context.checkpoints  # a run copies it
    plan = describe(context)
    assert f"{url} (rerank.checkpoint), of" not in plan
    assert context.record.run_id in plan


def test_a_worker_does_not_score_with_other_content_than_the_run_was_planned_with(tmp_path: Path) -> None:
    url = at_url(build(tmp_path, "qwen3"))
    context = run(tmp_path, url)
    _ = context.checkpoints
    Storage(url).write("config.json", Storage(url).read("config.json") + b"\n")
    with pytest.raises(ConfigError, match="has changed since the run began"):
        open_checkpoint(context, context.config.rerank)


def test_a_tuning_does_not_begin_with_another_base(tmp_path: Path) -> None:
    from rayrec.reranking.training.tuner import tune_on_worker
    from rayrec.reranking.training.tuning_preparation import TuningSpec

    url = at_url(build(tmp_path, "qwen3"))
    spec: dict[str, Any] = {"root": str(tmp_path / "out"), "sequences": (), "path": "models/llm/x", "catalogue": None}
    spec |= {"instruction": "", "settings": Tuning(base=url), "now": 0, "base": "qwen3@0123456789abcdef"}
    with pytest.raises(ConfigError, match="has changed since the run began"):
        tune_on_worker(TuningSpec(**spec), SINGLE_WORKER, print)


@pytest.mark.parametrize("method", QUANTIZATIONS)
def test_a_quantized_checkpoint_is_for_vllm_alone(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(quantized(tmp_path, method))
    assert InstructCheckpoint.open(folder).quantization == method
    monkeypatch.setattr(
        engine_registry, "engine_class", lambda choice, device: {"vllm": VllmRunner}.get(choice, TransformersRunner)
    )
    assert run(tmp_path, folder, "rerank.engine=vllm").checkpoints
    for engine in ("transformers", "auto"):  # `auto` without vLLM
        with pytest.raises(ConfigError, match=rf"quantized \({method}\), which only vLLM supports") as error:
            _ = run(tmp_path, folder, f"rerank.engine={engine}").checkpoints
        assert "rerank.engine: vllm" in str(error.value)


def test_a_quantized_checkpoint_is_no_base_and_no_encoder(tmp_path: Path) -> None:
    folder = str(quantized(tmp_path, "awq"))
    with pytest.raises(ConfigError, match="only vLLM supports") as error:
        base_digest(folder)
    assert "tuning.base" in error.value.where
    with pytest.raises(ConfigError, match="only vLLM supports"):
        SentenceEncoder.open(folder)
    with pytest.raises(ConfigError, match="only vLLM supports"):
        TransformersRunner(InstructCheckpoint.open(folder).model_files, "next_token", EngineSettings(), 300)


def test_what_vllm_refuses_of_a_quantized_checkpoint_is_an_error_of_the_config(
    gpu: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise ValueError("fp8 quantization is currently not supported in cpu.")

    monkeypatch.setattr("vllm.LLM", refuse)
    with pytest.raises(ConfigError, match=r"does not start with this quantized \(fp8\) checkpoint on this cpu: fp8"):
        VllmRunner(
            InstructCheckpoint.open(str(quantized(tmp_path, "fp8"))).model_files, "next_token", EngineSettings(), 300
        )
    plain = tmp_path / "plain"
    plain.mkdir()
    with pytest.raises(ConfigError, match="vLLM cannot run this checkpoint: fp8"):
        VllmRunner(InstructCheckpoint.open(str(build(plain, "llama"))).model_files, "next_token", EngineSettings(), 300)


def test_vllms_compiled_kernels_stay_on_the_node(
    gpu: Gpu, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("VLLM_CACHE_ROOT", raising=False)
    model = InstructCheckpoint.open(str(build(tmp_path, "qwen3"))).model_files
    VllmRunner(model, "next_token", EngineSettings(), 300)
    assert os.environ["VLLM_CACHE_ROOT"] == str(cache / "vllm")
    assert (cache / "vllm").stat().st_mode & 0o777 == 0o700
    assert os.environ["HF_HUB_OFFLINE"] == "1"  # an engine never asks a hub
    monkeypatch.setenv("VLLM_CACHE_ROOT", "/elsewhere")
    gpu.free = TOTAL
    VllmRunner(model, "next_token", EngineSettings(), 300)
    assert os.environ["VLLM_CACHE_ROOT"] == "/elsewhere"
