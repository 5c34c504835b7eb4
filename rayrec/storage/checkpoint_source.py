"""Where a checkpoint is kept: a folder, the URL of a folder on a store, or a hub's repository at a pinned revision.

The last two are copied once a node into the node's cache (rayrec.storage.checkpoint_cache). Only files that a library
would load are copied, so no pickles. A copy is as untrusted as any folder: who opens it checks it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rayrec.errors import ConfigError, StorageError
from rayrec.numerics.hashing import digest
from rayrec.storage import FileInfo, Storage, checkpoint_cache, hub_download
from rayrec.storage_url import hub_id

# Configuration, chat template, weights; a tokenizer is JSON, lists of words and merges, or a SentencePiece model.
_SETTINGS = (".json", ".jinja", ".txt")
_LOADED = (*_SETTINGS, ".safetensors", ".model", ".spm", ".tiktoken")
_AT_ONCE = 4  # files
_MOST_FILES = 10_000


def is_loaded(path: str) -> bool:
    """Whether libraries read this file of a checkpoint; of folders within, they read settings and templates alone."""
    return path.endswith(_SETTINGS if "/" in path else _LOADED)


def is_remote(source: str) -> bool:
    """Whether a checkpoint is copied before it is used."""
    return hub_id(source) is not None or ("://" in source and not Storage(source).is_local)


@dataclass(frozen=True)
class NodeCopy:
    """The copy of a remote checkpoint that this node has, or lacks. `size`: bytes of the files; None: of a hub's."""

    key: str
    name: str
    size: int | None
    _fill: Callable[[Path], None]

    def is_here(self) -> bool:
        return (checkpoint_cache.default_folder() / self.key).is_dir()

    def folder(self) -> str:
        return str(checkpoint_cache.cached_copy(self.key, checkpoint_cache.default_folder(), self._fill) / self.name)


def local_folder(source: str, where: str) -> str:
    """The folder of the checkpoint on this node; the last part of its path is the checkpoint's name.

    `where`: the config key, for errors. Raises ConfigError and StorageError.
    """
    copy = node_copy(source, where)
    return source.removeprefix("file://").removeprefix("local://") if copy is None else copy.folder()


def node_copy(source: str, where: str) -> NodeCopy | None:
    """The copy on this node of a remote checkpoint, by its listing; None for a folder. Arguments as `local_folder`."""
    if (pinned := hub_id(source)) is not None:
        name = pinned.repository.rpartition("/")[2]
        wanted = [f"*{ending}" for ending in _LOADED]
        unwanted = [f"*/*{ending}" for ending in _LOADED if ending not in _SETTINGS]

        def fetch(folder: Path) -> None:
            hub_download.download(*pinned, wanted, unwanted, folder / name, f"{where}: {source}")

        return NodeCopy(digest(["hub", *pinned]), name, None, fetch)
    if not is_remote(source):
        return None
    storage = Storage(source)
    files = [file for file in storage.list() if is_loaded(file.path)]
    if not files or len(files) > _MOST_FILES:
        raise ConfigError(
            f"{len(files):,} files of a checkpoint are below the URL",
            where=f"{where}: {source}",
            hint="give the URL of the folder that holds config.json, *.safetensors and tokenizer.json",
        )
    last = storage.root.rpartition("/")[2]
    name = last if re.fullmatch(r"\w[\w.-]*", last) else "checkpoint"

    def copy(folder: Path) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for _ in pool.map(lambda file: _copy(storage, file, folder / name), files):
                pass

    key = digest([source, [(file.path, file.size, file.version) for file in files]])
    return NodeCopy(key, name, sum(file.size for file in files), copy)


def _copy(storage: Storage, file: FileInfo, folder: Path) -> None:
    target = folder / file.path
    with storage.open(file.path) as source:  # refuses a path that leaves the folder
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "wb") as copy:
            shutil.copyfileobj(source, copy, 16 << 20)
    if target.stat().st_size != file.size:
        raise StorageError(
            f"the file has {target.stat().st_size:,} bytes, listed were {file.size:,}",
            where=storage.url(file.path),
            hint="a checkpoint must not change while a run uses it: give every version a URL of its own",
        )


def require_same(source: str, found: str, expected: str, where: str) -> None:
    """Raise ConfigError if a remote checkpoint's digest on this node is not the one that the run was planned with."""
    if is_remote(source) and found != expected:
        raise changed(source, found, expected, where)


def changed(source: str, found: str, expected: str, where: str) -> ConfigError:
    return ConfigError(
        f"the checkpoint has changed since the run began: it is {found}, and was {expected}",
        where=f"{where}: {source}",
        hint="give every version a URL of its own, and run again",
    )
