from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from small_model import INSTRUCTION, KNOWN, PATH, publish

from rayrec.errors import DataError, MissingFileError
from rayrec.instructions.facet_scheme import FacetScheme
from rayrec.reranking.item_token import tuned_checkpoint
from rayrec.reranking.item_token.tuned_checkpoint import ModelCard
from rayrec.storage import Storage


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """A checkpoint on a store that is not the local file system, as engines see S3."""
    root = tmp_path_factory.mktemp("remote")
    storage = Storage(str(root / "store"))
    publish(root, storage)
    memory = Storage("memory://rayrec-artefact-test")
    for info in storage.list(PATH):
        memory.write(info.path, storage.read(info.path))
    return memory


def test_remote_checkpoint_is_copied_once(remote: Storage, tmp_path: Path) -> None:
    model = tuned_checkpoint.fetch_checkpoint(remote, PATH, tmp_path)
    assert model.card.item_ids == tuple(KNOWN)
    assert Path(model.folder).parent == tmp_path
    stamp = (Path(model.folder) / "model.safetensors").stat().st_mtime_ns
    assert tuned_checkpoint.fetch_checkpoint(remote, PATH, tmp_path).folder == model.folder
    assert (Path(model.folder) / "model.safetensors").stat().st_mtime_ns == stamp
    assert len(model.layout(INSTRUCTION, 128).words) > 0


def test_model_card_round_trips_through_json(remote: Storage) -> None:
    card = tuned_checkpoint.read_model_card(remote, PATH)
    scheme = FacetScheme(("category", "below"), ("lamps", "5"), {"price": "below"})
    full = replace(card, known_words=("lamp",), facets=scheme, data_selection={"method": "random", "users": 2})
    assert ModelCard.from_json(json.loads(json.dumps(full.as_json()))) == full
    broken = full.as_json() | {"facets": {"kind": ["category"], "name": [], "attributes": {}}}
    with pytest.raises(ValueError, match="not a facet scheme"):
        ModelCard.from_json(broken)


def test_concurrent_copies_give_one_complete_folder(remote: Storage, tmp_path: Path) -> None:
    folders: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: folders.append(tuned_checkpoint.fetch_checkpoint(remote, PATH, tmp_path).folder)
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 6
    assert len(set(folders)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [Path(folders[0]).name]


def test_corrupt_file_is_refused_and_leaves_nothing(remote: Storage, tmp_path: Path) -> None:
    broken = Storage("memory://rayrec-broken")
    for info in remote.list(PATH):
        data = remote.read(info.path)
        broken.write(info.path, data[:-1] + b"x" if info.path.endswith("model.safetensors") else data)
    with pytest.raises(DataError, match="not the one"):
        tuned_checkpoint.fetch_checkpoint(broken, PATH, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["model.pkl", "../model.safetensors", "modeling.py", ".hidden.json"])
def test_only_tensors_and_plain_text_are_loaded(remote: Storage, tmp_path: Path, name: str) -> None:
    evil = Storage(f"memory://rayrec-evil-{abs(hash(name))}")
    record = json.loads(remote.read(f"{PATH}/rayrec.json"))
    record["files"][name] = {"size": 1, "sha256": "0"}
    evil.write(f"{PATH}/rayrec.json", json.dumps(record).encode())
    with pytest.raises(DataError, match="not loaded"):
        tuned_checkpoint.fetch_checkpoint(evil, PATH, tmp_path)


def test_second_of_two_tunings_leaves_nothing(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "store"))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    publish(tmp_path / "a", storage)
    before = storage.list()
    publish(tmp_path / "b", storage)
    assert storage.list() == before


def test_missing_and_broken_records_are_distinguished(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert not tuned_checkpoint.exists(storage, PATH)
    with pytest.raises(MissingFileError):
        tuned_checkpoint.read_model_card(storage, PATH)
    storage.write(f"{PATH}/rayrec.json", b"{}")
    with pytest.raises(DataError, match="record"):
        tuned_checkpoint.fetch_checkpoint(storage, PATH)
