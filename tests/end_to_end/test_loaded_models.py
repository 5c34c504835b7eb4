"""What a worker keeps from shard to shard: made once, and the same as if it were made for each."""

from __future__ import annotations

import gc
import weakref
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_runs import CONFIG, Workspace

from rayrec.config import load
from rayrec.pipeline import loaded_models, models
from rayrec.pipeline.daily_run import RunResult
from rayrec.pipeline.models import retriever_specs
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.scoring import DenoiseShard, RetrieveShard, ScoringSpec
from rayrec.retrieval.item_model import ItemModel

KEPT = (loaded_models.denoiser_arrays, loaded_models.load_denoise_stages, loaded_models.load_candidate_stages)


def test_stages_cached_between_shards_do_what_new_ones_do(
    first_run: tuple[Workspace, RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, result = first_run
    assert result.models is not None
    scoring, workspace, retriever = (
        ScoringSpec(result.context, (result.models,), "transformers"),
        list[str](),
        ItemModel.retriever,
    )

    def counted(model: ItemModel, spec: object) -> object:
        workspace.append(spec.name)
        return retriever(model, spec)

    def candidates(unit: int) -> pa.Table:
        return RetrieveShard(scoring)(unit, DenoiseShard(scoring)(unit, None))

    def forget() -> None:
        for kept in KEPT:
            kept.cache_clear()

    monkeypatch.setattr(ItemModel, "retriever", counted)
    forget()
    kept = [candidates(unit) for unit in scoring.work_items]
    variants = result.context.arms.variants("retrieve")
    assert workspace == [spec.name for variant in variants for spec in retriever_specs(variant)]
    for unit in scoring.work_items:
        forget()
        assert candidates(unit).equals(kept[unit])


def test_a_process_holds_one_item_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = RunContext(load(CONFIG, [f"data.root={tmp_path}", f"output.root={tmp_path / 'out'}"]), date(2026, 1, 1))
    catalogue = pa.table({"item_id": ["a", "b"]})

    def workspace(*_: object) -> ItemModel:
        return ItemModel(
            catalogue["item_id"].combine_chunks(),
            context.cutoff,
            np.ones(2, np.float32),
            np.ones((2, 1), np.float32),
            {},
        )

    monkeypatch.setattr(models, "load_catalogue", lambda _: catalogue)
    monkeypatch.setattr(models.item_model, "load", workspace)
    models.load_item_model.cache_clear()
    held = [weakref.ref(models.load_item_model(context, fingerprint)) for fingerprint in ("first", "second", "third")]
    assert models.load_item_model(context, "third") is held[-1]()
    gc.collect()
    assert [model() is not None for model in held] == [False, False, True]
    models.load_item_model.cache_clear()
