"""Models and stages cached by a worker: built once, with the same output as new ones."""

from __future__ import annotations

import gc
import weakref
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_runs import CONFIG, Run

from rayrec.config import load
from rayrec.pipeline import worker_cache as worker_cache_module
from rayrec.pipeline.arm_settings import retriever_specs
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.scoring import DenoiseShard, RetrieveShard, ScoringSpec
from rayrec.pipeline.worker_cache import WorkerCache, worker_cache
from rayrec.ray_support.stage_runner import WorkItem
from rayrec.retrieval.item_model import ItemModel


def test_cached_stages_give_the_same_output_as_new_ones(first_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _, result = first_run
    assert result.models is not None
    scoring, built, retriever = (
        ScoringSpec(result.context, (result.models,), "transformers"),
        list[str](),
        ItemModel.retriever,
    )

    def counted(model: ItemModel, spec: object) -> object:
        built.append(spec.name)
        return retriever(model, spec)

    def candidates(item: WorkItem) -> pa.Table:
        return RetrieveShard(scoring)(item, DenoiseShard(scoring)(item, None))

    monkeypatch.setattr(ItemModel, "retriever", counted)
    worker_cache.cache_clear()
    cached = [candidates(item) for item in scoring.work_items]
    variants = result.context.arms.variants("retrieve")
    assert built == [spec.name for variant in variants for spec in retriever_specs(variant)]
    for item, before in zip(scoring.work_items, cached, strict=True):
        worker_cache.cache_clear()
        assert candidates(item).equals(before)


def test_a_process_holds_one_item_model_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = RunContext(load(CONFIG, [f"data.root={tmp_path}", f"output.root={tmp_path / 'out'}"]), date(2026, 1, 1))
    catalogue = pa.table({"item_id": ["a", "b"]})

    def made(*_: object) -> ItemModel:
        return ItemModel(
            catalogue["item_id"].combine_chunks(),
            context.cutoff,
            np.ones(2, np.float32),
            np.ones((2, 1), np.float32),
            {},
        )

    monkeypatch.setattr(worker_cache_module, "read_catalogue", lambda _: catalogue)
    monkeypatch.setattr(worker_cache_module.item_model_store, "load", made)
    cache = WorkerCache(context)
    held = [weakref.ref(cache.item_model(fingerprint).model) for fingerprint in ("first", "second", "third")]
    assert cache.item_model("third").model is held[-1]()
    gc.collect()
    assert [model() is not None for model in held] == [False, False, True]
