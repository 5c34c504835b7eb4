"""The item model: storage, fingerprint, independence of sharding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from halves_shop import CUT, ITEMS, history_table, profiles_of, two_halves
from pydantic import ValidationError

from rayrec.config import Retrieval
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.errors import DataError, RayrecError
from rayrec.retrieval import item_model, item_model_store
from rayrec.retrieval.fit_data import FitDataCollector
from rayrec.retrieval.item_model import FACTORS, FittedRetriever, ItemModel, fingerprint, required_sources
from rayrec.retrieval.retriever import all_item_scores
from rayrec.retrieval.source_specs import SourceSpec, source_specs
from rayrec.storage import Storage, artifacts

IDS = pa.array([f"item {code:02d}" for code in range(ITEMS)])
SOURCES = {
    "ease": {"regularization": 5.0},
    "ease_recent": {"method": "ease", "regularization": 5.0, "history_half_life_days": 3.0, "top_k": 0},
    "user_knn": {},
    "ials": {"factors": 4},
    "popularity": {},
}
SPECS = source_specs(Retrieval(sources=SOURCES))


def fitted(tables: list[pa.Table], max_events: int = 10**6) -> ItemModel:
    return item_model.fit(tables, IDS, required_sources([SPECS], True), (1.0, -1.0), CUT, max_events)


def equal(one: ItemModel, other: ItemModel) -> bool:
    return (
        one.item_ids.equals(other.item_ids)
        and np.array_equal(one.count, other.count)
        and np.array_equal(one.features, other.features)
        and set(one.fitted) == set(other.fitted)
        and all(
            np.array_equal(array, other.fitted[key].arrays[name])
            for key, part in one.fitted.items()
            for name, array in part.arrays.items()
        )
    )


def test_one_shard_and_many_shards_give_the_same_model() -> None:
    table = two_halves()
    shards = [table.filter(pa.array(np.arange(60) % 3 == shard)) for shard in (2, 0, 1)]
    assert equal(fitted([table]), fitted(shards))
    assert equal(fitted([table], max_events=150), fitted(shards, max_events=150))


def test_events_in_memory_are_bounded_and_users_are_complete() -> None:
    collected = FitDataCollector(ITEMS, np.array([1.0], np.float32), CUT, 150)
    for start in range(0, 60, 5):
        collected.add(two_halves().slice(start, 5))
    data = collected.finish()
    assert 100 < len(data.item) <= 150
    assert np.diff(data.matrix.indptr).min() >= 6


def test_events_at_or_after_the_cutoff_are_not_used() -> None:
    table = history_table({"u": [(1, 1.0, 0), (2, 0.0, 0), (3, -5.0, 0)]})
    data = FitDataCollector(ITEMS, np.array([1.0], np.float32), CUT, 10)
    data.add(table)
    assert data.finish().item.tolist() == [1]


def test_no_positive_events_is_a_data_error() -> None:
    with pytest.raises(DataError, match="no positive event"):
        fitted([history_table({"u": [(1, 1.0, 1)], "v": []})])


def test_a_saved_model_loads_unchanged(tmp_path: Path) -> None:
    storage, model = Storage(str(tmp_path)), fitted([two_halves()])
    assert item_model_store.save(storage, "abc", model, {"note": 1})
    assert artifacts.exists(storage, item_model_store.KIND, "abc")
    assert equal(item_model_store.load(storage, "abc"), model)


def test_of_two_saved_fits_the_first_one_is_stored(tmp_path: Path) -> None:
    storage, model = Storage(str(tmp_path)), fitted([two_halves()])
    assert item_model_store.save(storage, "abc", model)
    before = [file.path for file in storage.list()]
    assert not item_model_store.save(storage, "abc", model)
    assert [file.path for file in storage.list()] == before


def test_a_damaged_artifact_is_a_data_error(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    item_model_store.save(storage, "abc", fitted([two_halves()]))
    arrays = next(file.path for file in storage.list() if file.path.endswith(".safetensors"))
    storage.write(arrays, storage.read(arrays)[:-100])
    with pytest.raises(DataError, match="not the ones that were saved"):
        item_model_store.load(storage, "abc")
    storage.write("models/item_model/abc/meta.json", b"{")
    with pytest.raises(DataError, match=r"meta\.json cannot be read"):
        item_model_store.load(storage, "abc")
    with pytest.raises(RayrecError):
        item_model_store.load(storage, "never saved")


def test_loading_a_part_of_a_model_reads_only_that_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, model = Storage(str(tmp_path)), fitted([two_halves()])
    item_model_store.save(storage, "abc", model)
    whole = next(file for file in storage.list() if file.path.endswith(".safetensors"))
    header = int.from_bytes(storage.read_range(whole.path, 0, 8), "little")
    read, read_range = list[int](), Storage.read_range

    def counted(at: Storage, path: str, start: int, length: int) -> bytes:
        read.append(length)
        return read_range(at, path, start, length)

    monkeypatch.setattr(Storage, "read_range", counted)
    items = replace(model, fitted={})
    assert equal(item_model_store.load_part(storage, "abc"), items)
    text = sum(len(name.encode()) for name in IDS.to_pylist()) + 8 * (ITEMS + 1)
    assert sum(read) == 8 + header + items.count.nbytes + items.features.nbytes + text
    factors = item_model_store.load_part(storage, "abc", {"ials"})
    assert equal(factors, replace(model, fitted=_of_kind(model, "ials")))
    assert np.array_equal(factors.factors(SPECS), model.factors(SPECS))


def test_a_damaged_part_is_a_data_error(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    item_model_store.save(storage, "abc", fitted([two_halves()]))
    arrays = next(file.path for file in storage.list() if file.path.endswith(".safetensors"))
    content = storage.read(arrays)
    for damaged in (b"", content[:-100], b"\xff" * 8 + content[8:], content[:8] + b"[" + content[9:]):
        storage.write(arrays, damaged)
        with pytest.raises(DataError, match="arrays cannot be read"):
            item_model_store.load_part(storage, "abc", {"ease", "ials", "user_knn", "popularity"})


def _of_kind(model: ItemModel, kind: str) -> dict[str, FittedRetriever]:
    return {key: fit for key, fit in model.fitted.items() if fit.method == kind}


def test_a_model_is_converted_to_a_newer_catalogue() -> None:
    model = fitted([two_halves()])
    newer = pa.array(sorted(["a new item", *IDS.to_pylist()[5:]]))
    moved = model.for_catalogue(newer)
    table = history_table({"u": [(20, 2.0, 0), (22, 1.0, 0)]})
    code = [newer.to_pylist().index(name) for name in ("item 20", "item 22")]
    new_table = history_table({"u": [(code[0], 2.0, 0), (code[1], 1.0, 0)]})
    for spec in SPECS:
        before = all_item_scores(model.retriever(spec), profiles_of(table))[0]
        after = all_item_scores(moved.retriever(spec), profiles_of(new_table, len(newer)))[0]
        assert after[newer.to_pylist().index("a new item")] == 0
        assert np.allclose(after[newer.to_pylist().index("item 30")], before[30], atol=1e-5)


def test_sources_that_differ_only_in_scoring_share_one_fit() -> None:
    keys = {spec.name: spec.key for spec in SPECS}
    assert keys["ease"] == keys["ease_recent"]
    assert len(required_sources([SPECS, SPECS], True)) == 4
    assert FACTORS in required_sources([source_specs(Retrieval(sources={"popularity": {}}))], True)
    assert FACTORS not in required_sources([source_specs(Retrieval(sources={"popularity": {}}))], False)


def test_the_fingerprint_changes_with_every_input() -> None:
    same = {"cutoff": CUT, "inputs": "i", "catalogue": "c", "max_events": 5}
    first = fingerprint(SPECS, **same)
    assert fingerprint(tuple(reversed(SPECS)), **same) == first
    assert fingerprint(SPECS[1:], **same) == first  # ease_recent shares the fit of ease
    changed = [
        {**same, "cutoff": CUT + MICROSECONDS_PER_DAY},
        {**same, "inputs": "j"},
        {**same, "catalogue": "d"},
        {**same, "max_events": 6},
    ]
    assert len({first, fingerprint(SPECS[2:], **same), *(fingerprint(SPECS, **other) for other in changed)}) == 6


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({}, "at least 1 item"),
        ({"eaze": {}}, "no retriever 'eaze'; use one of ease"),
        ({"ease": {"regularisation": 1}}, r"(?s)sources\.ease\.regularisation.*did you mean 'regularization'"),
        ({"ease": {"regularization": "much"}}, "valid number"),
        ({"ease": {"regularization": float("nan")}}, "finite number"),
        ({"ease": {"top_k": -1}}, "greater than or equal to 0"),
        ({"ease": {"top_k": 0}}, "no source proposes"),
        ({"llm": {"method": "ease"}}, "cannot be a source's name"),
        ({"../x": {"method": "ease"}}, "should match pattern"),
    ],
)
def test_invalid_sources_are_an_error(sources: dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Retrieval(sources=sources)


def test_a_source_without_a_fit_is_a_data_error() -> None:
    with pytest.raises(DataError, match="fitted without the source 'other'"):
        fitted([two_halves()]).retriever(SourceSpec.of("other", "item_knn", 5))
