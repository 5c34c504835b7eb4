"""The lifetime of LLMs in an actor."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest
from oracle import Oracle
from small_checkpoints import build
from small_model import PATH

from rayrec.config import Rerank, Resources
from rayrec.instructions.templates import load_templates
from rayrec.pipeline import scorers
from rayrec.pipeline.item_model_fitting import ModelSet
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.scorers import ScorerCache
from rayrec.reranking.engines import engine_registry
from rayrec.reranking.engines.engine import EngineSettings
from rayrec.reranking.engines.vllm_runner import VllmRunner
from rayrec.reranking.item_token.tuned_checkpoint import LocalCheckpoint
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint
from rayrec.reranking.text.text_reranker import TextReranker


class Held:
    """Stands for an LLM; has a reference cycle, as a real one does."""

    def __init__(self) -> None:
        self.itself = self


@dataclass
class Loading(ScorerCache):
    """Records each LLM that it loads, and how many others are alive then."""

    loaded: list[tuple[ModelSet, int]] = field(default_factory=list)
    there: weakref.WeakSet[Held] = field(default_factory=weakref.WeakSet)

    def _item_tokens(self, models: ModelSet) -> Any:
        self.loaded.append((models, len(self.there)))
        held = Held()
        self.there.add(held)
        return held


def test_llm_of_one_cutoff_is_released_before_the_next_is_loaded() -> None:
    readers = Loading(cast(RunContext, None), "transformers")
    one, two = ModelSet(1, "items", PATH), ModelSet(2, "items", PATH)
    for models in (one, one, two, two, one):
        readers.at(models, Rerank())
    assert readers.loaded == [(one, 0), (two, 0), (one, 0)]


def test_text_scorers_of_one_checkpoint_share_its_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the way of asking; another data type needs another engine."""
    folder, started = str(build(tmp_path, "qwen3")), list[str]()

    def start(engine: str, checkpoint: InstructCheckpoint, settings: EngineSettings, prompt_tokens: int) -> Oracle:
        started.append(settings.dtype)
        return Oracle(checkpoint)

    monkeypatch.setattr(scorers, "start_engine", start)
    monkeypatch.setattr(scorers, "default_request", lambda context: "")
    catalogue = pa.table(
        {"title": ["Tea"], "category": pa.nulls(1, pa.string()), "description": pa.nulls(1, pa.string())}
    )
    monkeypatch.setattr(scorers, "worker_cache", lambda context: SimpleNamespace(catalogue=catalogue))
    config = SimpleNamespace(resources=Resources())
    cache = ScorerCache(cast(RunContext, SimpleNamespace(config=config, templates=load_templates())), "transformers")
    models = ModelSet(1, "items")

    def at(method: str, dtype: str = "auto") -> TextReranker:
        found = cache.at(models, Rerank(method=method, checkpoint=folder, dtype=dtype, settings={"prompt_tokens": 300}))
        assert isinstance(found, TextReranker)
        return found

    assert at("pointwise") is at("pointwise")
    assert at("pointwise") is not at("pairwise")
    assert started == ["auto"]
    at("pairwise", "float16")
    assert started == ["auto", "float16"]


@pytest.mark.slow  # vLLM
def test_vllm_engine_is_released(small_model: LocalCheckpoint) -> None:
    settings = EngineSettings(threads=1, vllm={"kv_cache_memory_bytes": 64 << 20})
    engine = VllmRunner(small_model.model_files, "hidden_state", settings)
    core = engine._llm.llm_engine.engine_core.engine_core
    worker = weakref.ref(core.model_executor.driver_worker.worker)
    assert worker() is not None
    del engine, core
    engine_registry.free_memory()
    assert worker() is None
