"""Checkpoints in a folder, at a URL and on a hub: the same files with the same digest, copied once a node."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, running_hub
from small_checkpoints import build

from rayrec.errors import ConfigError, TransientStorageError
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint
from rayrec.storage import Storage, checkpoint_cache, hub_download
from rayrec.storage.checkpoint_source import is_remote, local_folder, require_same
from rayrec.storage.hf_checkpoint import base_model_id

REVISION = "0123456789abcdef0123456789abcdef01234567"
WHERE = "rerank.checkpoint"


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and beside it what nobody loads."""
    folder = build(tmp_path_factory.mktemp("built"), "qwen3")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "README.md").write_text("about")
    (folder / "fp16").mkdir()
    (folder / "fp16" / "model.safetensors").write_bytes(b"other weights")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The node's cache."""
    monkeypatch.setattr(checkpoint_cache, "default_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def url(qwen3: Path) -> str:
    """The URL of the checkpoint's folder."""
    found = f"memory://{uuid.uuid4().hex}/models/qwen3"
    upload(qwen3, found)
    return found


@pytest.fixture
def hub(qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub(Hub(qwen3, "org/qwen3", REVISION)) as hub:
        monkeypatch.setattr(hub_download, "_OFFLINE", False)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


def upload(folder: Path, url: str) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            Storage(url).write(file.relative_to(folder).as_posix(), file.read_bytes())


def loaded(folder: Path) -> dict[str, bytes]:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    left_out = {"pytorch_model.bin", "README.md", "fp16/model.safetensors"}
    return {name: path.read_bytes() for name, path in files.items() if name not in left_out}


def test_a_folder_is_used_where_it_is(qwen3: Path, cache: Path) -> None:
    for source in (str(qwen3), f"file://{qwen3}"):
        assert not is_remote(source)
        assert local_folder(source, WHERE) == str(qwen3)
    assert local_folder("models/relative", WHERE) == "models/relative"
    assert not cache.exists()


def test_a_url_is_copied_once_with_all_that_is_loaded_and_nothing_else(
    url: str, qwen3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_remote(url)
    copied = Path(local_folder(url, WHERE))
    assert {path.relative_to(copied).as_posix() for path in copied.rglob("*") if path.is_file()} == set(loaded(qwen3))
    assert loaded(copied) == loaded(qwen3)
    monkeypatch.setattr(Storage, "open", lambda *_: pytest.fail("it is there"))
    assert Path(local_folder(url, WHERE)) == copied


def test_the_digest_is_that_of_the_folder(url: str, qwen3: Path) -> None:
    assert InstructCheckpoint.open(url).digest == InstructCheckpoint.open(str(qwen3)).digest
    assert base_model_id(url, "tuning.base") == base_model_id(str(qwen3), "tuning.base")


def test_other_content_at_the_url_is_another_copy_and_no_worker_goes_on_with_it(url: str) -> None:
    before, first = InstructCheckpoint.open(url), local_folder(url, WHERE)
    config = Storage(url).read("config.json")
    Storage(url).write("config.json", config.replace(b"{", b"{ ", 1))
    after = InstructCheckpoint.open(url)
    assert local_folder(url, WHERE) != first
    assert after.digest != before.digest
    require_same(url, before.digest, before.digest, WHERE)
    with pytest.raises(ConfigError, match="has changed since the run began"):
        require_same(url, after.digest, before.digest, WHERE)


def test_a_url_without_a_checkpoint_says_so() -> None:
    with pytest.raises(ConfigError, match=r"0 files of a checkpoint are below the URL"):
        local_folder(f"memory://{uuid.uuid4().hex}/nothing", WHERE)


def test_a_copy_is_as_untrusted_as_a_folder(url: str) -> None:
    config = Storage(url).read("config.json").decode()
    Storage(url).write("config.json", config.replace("{", '{"auto_map": {"AutoModel": "own.Model"},', 1).encode())
    with pytest.raises(ConfigError, match="names code of the checkpoint"):
        InstructCheckpoint.open(url)


def test_a_hub_gives_the_same_checkpoint_once(hub: Hub, qwen3: Path) -> None:
    source = f"hf://org/qwen3@{REVISION}"
    assert is_remote(source)
    copied = Path(local_folder(source, WHERE))
    assert copied.name == "qwen3"
    assert {path.relative_to(copied).as_posix() for path in copied.rglob("*") if path.is_file()} == set(loaded(qwen3))
    assert loaded(copied) == loaded(qwen3)
    assert InstructCheckpoint.open(source).digest == InstructCheckpoint.open(str(qwen3)).digest
    assert all(hub.repository in path and REVISION in path for path in hub.asked)
    asked = len(hub.asked)
    assert Path(local_folder(source, WHERE)) == copied
    assert len(hub.asked) == asked


@pytest.mark.parametrize(
    ("source", "kind"),
    [(f"hf://org/other@{REVISION}", "RepositoryNotFound"), (f"hf://org/qwen3@{'f' * 40}", "RevisionNotFound")],
)
def test_what_the_hub_has_not_is_an_error_of_the_config(hub: Hub, source: str, kind: str, cache: Path) -> None:
    with pytest.raises(ConfigError, match=kind) as error:
        local_folder(source, WHERE)
    assert source in error.value.where
    assert list(cache.iterdir()) == []


def test_a_private_repository_needs_the_token_of_the_environment(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_0123456789abcdefghij"
    source = f"hf://org/qwen3@{REVISION}"
    with pytest.raises(ConfigError, match="does not give the checkpoint"):
        local_folder(source, WHERE)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert (Path(local_folder(source, WHERE)) / "config.json").is_file()


def test_a_hub_that_does_not_answer_is_a_passing_error(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own repeats take half a minute, so its last word is given."""
    done = subprocess.CompletedProcess([], 0, stdout='["ConnectError", "no route"]\n', stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(TransientStorageError, match="cannot be downloaded: ConnectError: no route"):
        local_folder(f"hf://org/qwen3@{REVISION}", WHERE)


def test_offline_only_the_hubs_cache_of_the_machine_is_used(
    hub: Hub, qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_download, "_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set"):
        local_folder(f"hf://org/qwen3@{REVISION}", WHERE)
    repository = tmp_path / "hub" / "models--org--qwen3"
    (repository / "refs").mkdir(parents=True)
    shutil.copytree(qwen3, repository / "snapshots" / REVISION)
    copied = Path(local_folder(f"hf://org/qwen3@{REVISION}", WHERE))
    assert loaded(copied) == loaded(qwen3)
    assert not (copied / "pytorch_model.bin").exists()
    assert hub.asked == []
