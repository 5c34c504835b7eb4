"""Which LLM an actor holds, and for how long."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any, cast

from small_model import PATH

from rayrec.config import Rerank
from rayrec.pipeline.day import Day
from rayrec.pipeline.models import Models
from rayrec.pipeline.readers import Readers
from rayrec.reranking import engines
from rayrec.reranking.artefact import LocalModel
from rayrec.reranking.base import EngineSettings
from rayrec.reranking.vllm_engine import VllmEngine


class Held:
    """Stands for an LLM; as a real one, it is held by itself, too."""

    def __init__(self) -> None:
        self.itself = self


@dataclass
class Loading(Readers):
    """Writes down each LLM that it loads, and how many others there are then."""

    loaded: list[tuple[Models, int]] = field(default_factory=list)
    there: weakref.WeakSet[Held] = field(default_factory=weakref.WeakSet)

    def _item_tokens(self, models: Models) -> Any:
        self.loaded.append((models, len(self.there)))
        held = Held()
        self.there.add(held)
        return held


def test_the_llm_of_one_cut_is_gone_before_that_of_the_next_is_loaded() -> None:
    readers = Loading(cast(Day, None), "transformers")
    one, two = Models(1, "items", PATH), Models(2, "items", PATH)
    for models in (one, one, two, two, one):
        readers.at(models, Rerank())
    assert readers.loaded == [(one, 0), (two, 0), (one, 0)]


def test_vllm_keeps_nothing_of_an_engine_that_is_gone(small_model: LocalModel) -> None:
    engine = VllmEngine(small_model, EngineSettings(threads=1, vllm={"kv_cache_memory_bytes": 64 << 20}))
    core = engine._llm.llm_engine.engine_core.engine_core
    worker = weakref.ref(core.model_executor.driver_worker.worker)
    assert worker() is not None
    del engine, core
    engines.free()
    assert worker() is None
