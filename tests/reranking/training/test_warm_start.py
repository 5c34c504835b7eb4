"""A warm start: the model begins where its ancestor ended, unless consumption has shifted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import small_model
import torch
from one_process import without_ray
from tiny_runs import TinyShop
from tuning_cases import NOW, pairs_shop, run, settings, spec

from rayrec.config import Config
from rayrec.data.erasure_list import ErasureList
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.numerics.collectives import Worker
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline import llm_ancestors, llm_tuning
from rayrec.pipeline.interaction_ingest import ingest
from rayrec.pipeline.item_model_fitting import fit_item_models
from rayrec.pipeline.run_context import RunContext, microseconds
from rayrec.publishing.records import Manifest, UserCounts
from rayrec.ray_support.training_workers import WorkerGroup
from rayrec.reranking.item_token import tuned_checkpoint
from rayrec.reranking.training.tuning_examples import Sequences
from rayrec.reranking.training.tuning_loop import TuningLoop
from rayrec.reranking.training.tuning_preparation import PreparedTuning, TuningSpec, prepare
from rayrec.reranking.training.warm_start import Ancestor, consumption_shift, same_scheme
from rayrec.storage import Storage, layout, published_folder

DAY = MICROSECONDS_PER_DAY
THEN = NOW // 2
ARCHITECTURE = ("layers", "width", "heads", "feedforward")


def prepared(given: TuningSpec, folder: Path) -> PreparedTuning:
    folder.mkdir()
    return prepare(given, Storage(given.root), folder)


def validation(one: PreparedTuning) -> float:
    return TuningLoop(one.initial_model(), one.layout, one.task, Worker()).validate()


@pytest.fixture
def ancestor(tmp_path: Path) -> TuningSpec:
    given = spec(tmp_path, pairs_shop(60), settings=settings(item_init="text", epochs=2))
    rows = len(given.catalogue)
    whole = given.catalogue.append_column("available", [[True] * rows])
    whole = whole.append_column("attributes", pa.array([[]] * rows, pa.map_(pa.string(), pa.string())))
    return replace(given, catalogue=whole, now=THEN, until=NOW)


def warm(given: TuningSpec, **changes: Any) -> TuningSpec:
    tuning = given.settings.model_copy(update={"warm_start_max_shift": 1.0, "epochs": 3})
    known = Ancestor(given.path, given.now, "digest")
    return replace(given, **{"path": "models/llm/warm", "settings": tuning, "ancestor": known, **changes})


def test_it_begins_where_the_ancestor_ended(ancestor: TuningSpec, tmp_path: Path) -> None:
    card = run(ancestor)
    best = min(row["validation"] for row in card.curve)
    again = prepared(warm(ancestor), tmp_path / "same")
    assert validation(again) == pytest.approx(best, abs=1e-4)
    # Other codes, so other tokens, and a word that changes the tokenizer: the same model of the same items.
    order = np.arange(len(ancestor.catalogue))[::-1]
    titles = ["another " + title for title in ancestor.catalogue["title"].to_pylist()]
    turned = ancestor.catalogue.set_column(1, "title", [titles]).take(order)
    other = prepared(warm(ancestor, catalogue=turned), tmp_path / "other").initial_model()
    one = again.initial_model()
    assert torch.allclose(one.vectors().flip(0), other.vectors(), atol=1e-5)
    weights = [dict(model.causal.model.layers.named_parameters()) for model in (one, other)]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_its_card_names_all_ancestors_and_it_takes_a_third_of_the_epochs(ancestor: TuningSpec) -> None:
    run(ancestor)
    first = warm(ancestor)
    second = warm(first, path="models/llm/second", ancestor=Ancestor(first.path, THEN, "digest"))
    assert run(first).ancestors == ("test",)
    card = run(second)
    assert card.ancestors == ("warm", "test")
    assert len(card.curve) == 1
    assert tuned_checkpoint.read_model_card(Storage(second.root), second.path) == card
    assert run(replace(second, path="models/llm/cold", ancestor=None)).ancestors == ()


def test_after_a_shift_of_consumption_it_starts_cold(ancestor: TuningSpec, tmp_path: Path) -> None:
    run(ancestor)
    strict = ancestor.settings.model_copy(update={"warm_start_max_shift": 0.0})
    shifted = warm(ancestor, settings=strict, now=NOW, until=None)
    one = prepared(shifted, tmp_path / "shifted")
    assert one.ancestor is None
    assert one.shift is not None
    assert one.shift > 0
    assert one.task.settings.max_epochs == strict.max_epochs
    plain = prepared(replace(shifted, ancestor=None), tmp_path / "plain")
    assert torch.equal(one.initial_model().items, plain.initial_model().items)


def test_shift_is_the_total_variation_distance_of_the_last_weeks() -> None:
    def shift(*events: tuple[int, float]) -> float:
        items, days = np.array([item for item, _ in events]), np.array([day for _, day in events])
        item = Ragged.from_lengths(items, [len(items)])
        rows = Sequences(item, item.like((days * DAY).astype(np.int64)), item.like(np.ones(len(items), np.float32)))
        return consumption_shift(rows, 50 * DAY, 100 * DAY)

    assert shift((0, 49), (1, 49), (1, 99), (0, 99)) == 0
    assert shift((0, 49), (1, 99)) == 1
    assert shift((0, 49), (1, 49), (1, 99), (2, 99)) == pytest.approx(0.5)
    assert shift((0, 49), (1, 10), (0, 99)) == 0  # older than four weeks
    assert shift((0, 99)) == 1  # nothing is known of then


def test_another_architecture_or_base_is_no_ancestor(ancestor: TuningSpec) -> None:
    card = run(ancestor)
    assert same_scheme(card, settings(epochs=9, learning_rate=1.0), "scratch")
    assert not same_scheme(card, settings(layers=2), "scratch")
    assert not same_scheme(card, ancestor.settings, "other@digest")


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    """A run of 31 August over a root that has published 30 and 20 August with the same model."""
    root = tmp_path / "root"
    for name in ("events.csv", "items.csv"):
        (tmp_path / name).touch()
    content = {
        "name": "test",
        "data": {"root": str(tmp_path), "interactions": {"path": "events.csv"}, "items": {"path": "items.csv"}},
        "output": {"root": str(root)},
        "tuning": {"warm_start": "auto", **{key: getattr(small_model.SETTINGS, key) for key in ARCHITECTURE}},
        "blend": {"cutoffs": 2, "horizon_days": 7},
        "arms": {"variants": {"llm": {}}},
    }
    storage = Storage(str(root))
    small_model.publish(tmp_path, storage, layout.model_folder(layout.LLM_KIND, "first"))
    made = RunContext(Config.model_validate(content), date(2011, 8, 31))
    for day in (20, 30):
        published(storage, date(2011, 8, day), made.code_version)
    return made


def published(storage: Storage, day: date, code_version: str, llm: str = "first") -> None:
    models, none = {layout.LLM_KIND: llm}, UserCounts(0, 0)
    manifest = Manifest(day, "", "", "", "", "", code_version, {}, models, "", 1, (), none, 0, {}, {}, {}, (), ())
    storage.write(layout.manifest_path(day), manifest.to_json())


def test_ancestors_know_nothing_after_the_cutoff(context: RunContext) -> None:
    found = llm_ancestors.find_ancestors(context)
    days = {cutoff: ancestor.cutoff for cutoff, ancestor in found.items()}
    at = {day: microseconds(date(2011, 8, day)) for day in (20, 24, 30, 31)}
    assert days == {at[24]: at[20], at[31]: at[30]}  # of 17 August there is none
    assert {(one.path, one.version) for one in context.record.inputs} >= {(a.path, a.digest) for a in found.values()}
    cold = context.config.model_copy(update={"tuning": context.config.tuning.model_copy(update={"warm_start": "none"})})
    assert RunContext(cold, context.date).record.run_id != context.record.run_id
    assert llm_ancestors.find_ancestors(replace(context, config=cold)) == {}


def test_stale_models_and_those_of_other_code_are_no_ancestors(context: RunContext) -> None:
    assert llm_ancestors.find_ancestors(replace(context, code_version="other")) == {}
    (path,) = {one.path for one in llm_ancestors.find_ancestors(context).values()}
    published_folder.mark_stale(context.storage, path, {"request": "x"})  # as jobs.forget does to every model
    assert llm_ancestors.find_ancestors(context) == {}


def test_models_tuned_under_another_erasure_list_are_no_ancestors(context: RunContext) -> None:
    listed = replace(context, given_erasure_list=ErasureList(b"salt", frozenset({"token"})))
    assert llm_ancestors.find_ancestors(listed) == {}


def here(work: Callable[..., Any], workers: WorkerGroup, name: str) -> None:
    """Stands for a group of training workers: one, in this process."""
    work(Worker(), lambda row, line: None)


def test_a_run_tunes_from_the_model_of_the_date_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = TinyShop.make(tmp_path, users=60)
    shape = "layers: 1, width: 32, heads: 1, feedforward: 64"
    small = f"tuning={{{shape}, epochs: 3, warm_start: auto, warm_start_max_shift: 1}}"
    later = shop.context(tmp_path / "out", "rerank.method=item_token", "blend.cutoffs=0", small)
    monkeypatch.setattr(llm_tuning, "run", here)
    monkeypatch.setattr(llm_tuning, "training_workers", lambda resources, gpus: WorkerGroup())
    monkeypatch.setattr(llm_tuning, "placeable_cpus", lambda wanted: wanted)
    monkeypatch.setattr(llm_tuning, "gather", lambda tasks, name: tasks)  # no earlier cutoff is checked
    cards = []
    with without_ray():
        for context in (replace(later, date=later.date - timedelta(days=1)), later):
            data = ingest(context)
            (model,) = llm_tuning.tune_llms(context, data, fit_item_models(context, data))
            cards.append(tuned_checkpoint.read_model_card(context.storage, str(model.llm)))
            published(context.storage, context.date, context.code_version, str(model.llm).rsplit("/", 1)[1])
    first, second = cards
    assert first.ancestors == ()
    assert second.ancestors == (later.ancestors[later.cutoff].path.rsplit("/", 1)[1],)
    assert (len(first.curve), len(second.curve)) == (3, 1)
