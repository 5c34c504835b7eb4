"""What the identity of a run covers, and what not."""

from __future__ import annotations

import dataclasses
import pickle
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayrec.config import Config
from rayrec.errors import ConfigError, DataError
from rayrec.numerics.hashing import digest, with_key_order
from rayrec.pipeline import embedding_products, llm_tuning
from rayrec.pipeline.blender_fitting import blender_fingerprint
from rayrec.pipeline.daily_run import check
from rayrec.pipeline.embedding_training import model_fingerprint
from rayrec.pipeline.item_model_fitting import ModelSet
from rayrec.pipeline.run_context import RunContext
from rayrec.publishing.run_differences import run_differences

SETTINGS = {
    "data.events": {"view": 0.1, "buy": 1.0, "return": -1.0},
    "data.items.attributes": {"price": "p", "colour": "c"},
    "denoise.settings": {"max_tail_share": 0.2, "min_users": 5},
    "retrieval.sources": {"ease": {"method": "ease", "top_k": 3}, "popularity": {}},
    "arms.variants": {"plain": {}, "other": {"retrieval": {"sources": {"item_knn": {}, "ease": {}}}}},
    "embeddings.instructions": {
        "again": {"text": "Again?", "answer": {"kind": "again"}},
        "next": {"text": "What next?", "answer": {"kind": "next"}},
    },
    "embeddings.views": {"events": {"kind": "events"}, "rhythm": {"kind": "rhythm"}},
}
OTHER_SOURCES = "arms.variants.other.retrieval.sources"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with the files that the config names."""
    for name in ("events.csv", "items.csv"):
        (tmp_path / name).touch()
    return tmp_path


def day(root: Path, turned: str = "", **sections: Any) -> RunContext:
    """A run context; `turned`: the path of a mapping whose keys are reversed."""
    data = {
        "root": str(root),
        "interactions": {"path": "events.csv", "event": {"column": "event"}},
        "items": {"path": "items.csv"},
    }
    content: dict[str, Any] = {"name": "test", "data": data, "output": {"root": str(root / "out")}} | sections
    for path, value in SETTINGS.items():
        _put(content, path, value)
    if turned:
        _put(content, turned, dict(reversed(_at(content, turned).items())))
    return RunContext(Config.model_validate(content), date(2011, 8, 31))


def _at(content: dict[str, Any], path: str) -> dict[str, Any]:
    for key in path.split("."):
        content = content[key]
    return content


def _put(content: dict[str, Any], path: str, value: dict[str, Any]) -> None:
    """Set a value in copies, so that the constants above stay unchanged."""
    first, _, rest = path.partition(".")
    content[first] = dict(content.get(first, {}))
    if rest:
        _put(content[first], rest, value)
    else:
        content[first] = value


def test_digests_depend_on_key_order_only_in_the_named_mappings() -> None:
    one = {"a": {"x": {"p": 1, "q": 2}, "y": {}}, "b": {"x": 1, "y": 2}}
    turned = {"b": {"y": 2, "x": 1}, "a": {"x": {"q": 2, "p": 1}, "y": {}}}
    assert digest(one) == digest(turned)
    assert digest(with_key_order(one, "a", "a.y", "c.d")) == digest(with_key_order(turned, "a", "a.y", "c.d"))
    for path in ("b", "a.x", "a.*"):
        assert digest(with_key_order(one, path)) != digest(with_key_order(turned, path))
    assert with_key_order(one, "a", "a.*") == {"a": [["x", [["p", 1], ["q", 2]]], ["y", []]], "b": {"x": 1, "y": 2}}


@pytest.mark.parametrize("path", ["data.events", "arms.variants", "retrieval.sources", OTHER_SOURCES])
def test_another_significant_key_order_is_another_run_and_is_reported(path: str, root: Path) -> None:
    usual, turned = day(root), day(root, path)
    assert turned.config.fingerprint != usual.config.fingerprint
    (line,) = run_differences(usual.record, turned.record)
    keys = list(_at(usual.config.fingerprinted_settings(), path))
    assert line == f"config  order of {path}: {', '.join(keys)} -> {', '.join(reversed(keys))}"


@pytest.mark.parametrize("path", ["data.items.attributes", "denoise.settings", "retrieval.sources.ease"])
def test_an_insignificant_key_order_is_the_same_run(path: str, root: Path) -> None:
    usual, turned = day(root), day(root, path)
    assert turned.record.run_id == usual.record.run_id
    assert turned.data_fingerprint == usual.data_fingerprint
    assert [one.variants for one in turned.arms] == [one.variants for one in usual.arms]


def test_histories_depend_on_the_order_of_events(root: Path) -> None:
    assert day(root, "data.events").data_fingerprint != day(root).data_fingerprint
    assert day(root, "arms.variants").data_fingerprint == day(root).data_fingerprint


@pytest.mark.parametrize("path", ["data.events", "embeddings.instructions", "embeddings.views"])
def test_embeddings_depend_on_the_order(path: str, root: Path) -> None:
    usual, turned = day(root), day(root, path)
    assert model_fingerprint(turned) != model_fingerprint(usual)
    names = (embedding_products.record_of, embedding_products.influence_record, embedding_products.neighbours_record)
    for record_of in names:
        assert record_of(turned).identity != record_of(usual).identity


def test_a_tuned_llm_depends_on_the_content_of_its_base(root: Path) -> None:
    base = root / "models" / "base"
    base.mkdir(parents=True)
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_text("weights")
    models = ModelSet(1, "item model")

    def identity() -> tuple[str, str]:
        run_of = day(root, tuning={"base": str(base)})
        return run_of.record.identity, llm_tuning._fingerprint(run_of, models, [models])

    before = identity()
    assert identity() == before
    (base / "model.safetensors").write_text("others ")
    assert all(now != then for now, then in zip(identity(), before, strict=True))
    with pytest.raises(ConfigError, match="no base model in the folder"):
        check(day(root, tuning={"base": "models/nowhere"}))
    unread = day(root, tuning={"base": "models/nowhere"}, rerank={"method": "none"})
    assert unread.record.inputs == day(root).record.inputs


def test_output_of_another_code_version_is_never_reused(root: Path) -> None:
    usual = day(root)
    other = dataclasses.replace(usual, code_version="other")
    assert (usual.work_folder, usual.quarantine) != (other.work_folder, other.quarantine)
    assert usual != other
    (variant, *_) = usual.arms.variants("rerank")
    for made in (model_fingerprint, lambda of: blender_fingerprint(of, variant, [])):
        assert made(usual) != made(other)
    assert usual.record.identity == other.record.identity  # both must give the same rows,
    assert usual.record.run_id != other.record.run_id  # but share no shard


def test_contexts_are_equal_until_files_change_and_pickled_ones_stay_fixed(root: Path) -> None:
    first = day(root)
    assert first == day(root)
    assert hash(first) == hash(day(root))
    copy = pickle.loads(pickle.dumps(first))
    (root / "items.csv").write_text("item_id,title\n1,one\n", encoding="utf8")
    assert day(root) != first
    assert day(root) == day(root)
    assert copy == first
    assert copy.data_fingerprint == first.data_fingerprint


@pytest.mark.parametrize("name", ["events.csv", "items.csv"])
def test_contexts_without_files_compare_by_the_rest(root: Path, name: str) -> None:
    (root / name).unlink()
    assert day(root) == day(root)
    assert hash(day(root)) == hash(day(root))
    assert day(root) != day(root, slate={"size": 3})
    there = pickle.loads(pickle.dumps(day(root)))
    assert there == day(root)
    with pytest.raises(DataError):
        _ = there.data_fingerprint


def test_configured_templates_are_part_of_a_text_rerankers_identity(root: Path) -> None:
    checkpoint = root / "models" / "text"
    checkpoint.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (checkpoint / name).write_text("{}")

    def written(name: str, words: str, cells: int) -> str:
        lead = {"P0": "", "P1": "{history}", "P2": "{preference}", "P2 ": "{preference} {history}"}
        entries = [
            {
                "id": f"own-{number}",
                "preference": who.strip(),
                "intention": request,
                "task_form": "T0",
                "split": "train",
                "text": f"{words} {fields} {'{intention}' if request == 'I2' else ''} {{item}}",
            }
            for number, ((who, fields), request) in enumerate(product(lead.items(), ("I0", "I2")))
        ]
        (root / name).write_text(yaml.safe_dump(entries[:cells]), encoding="utf8")
        return str(root / name)

    def run_of(templates: str | None, method: str = "pointwise") -> RunContext:
        rerank = {"method": method} | ({"checkpoint": str(checkpoint)} if method == "pointwise" else {})
        return day(root, rerank=rerank, instruction={"templates": templates})

    def blend(of: RunContext) -> str:
        return blender_fingerprint(of, next(iter(of.arms.variants("rerank"))), (ModelSet(1, "item model"),))

    whole, other = (written(f"{word}.yaml", f"Would they {word}?", 8) for word in ("take", "want"))
    short = written("short.yaml", "Would they take?", 7)
    for templates in (None, whole, other):
        check(run_of(templates))
    with pytest.raises(ConfigError, match="no template for P2 I2 T0"):
        check(run_of(short))
    assert len({blend(run_of(templates)) for templates in (None, whole, other)}) == 3
    assert len({blend(run_of(templates, "none")) for templates in (None, whole, other)}) == 1
