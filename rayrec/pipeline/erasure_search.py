"""The last step of an erasure: search everything for the users, and say what was searched and how.

Every file under `output.root`, hidden ones too, is decoded (rayrec.storage.decoded_content) and searched for the ids of
this call byte by byte; temporary folders of the nodes are emptied of what killed processes left. Ids of an earlier
call that was killed are not known any more: their users are found by token, in columns of users.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayrec.data.id_search import IdSearch
from rayrec.storage import Storage, temporary_folders
from rayrec.storage.decoded_content import UndecodedError, decoded


@dataclass
class SearchResult:
    """What a search covered, and the files that hold an id."""

    files: Counter[str] = field(default_factory=Counter)  # by the ending of the name
    file_bytes: int = 0
    decoded_bytes: int = 0
    inputs: int = 0  # files left out
    undecoded: list[str] = field(default_factory=list)  # searched as they are
    found: list[str] = field(default_factory=list)


def search(storage: Storage, user_ids: Iterable[str], others: Iterable[str] = ()) -> SearchResult:
    """Search every file under the root for distinctive ids, except `others`: files and folders that are input."""
    ids, result = IdSearch(user_ids), SearchResult()
    inputs = tuple(Storage(other).root for other in others if other)
    for info in sorted((*storage.list(), *storage.hidden()), key=lambda one: one.path):
        url = storage.url(info.path)
        if any(url == each or url.startswith(f"{each}/") for each in inputs if each != storage.root):
            result.inputs += 1
            continue
        data = storage.read(info.path)
        result.files[info.path.rpartition("/")[2].rpartition(".")[2]] += 1
        result.file_bytes += len(data)
        try:
            for texts in decoded(data):
                result.decoded_bytes += pc.sum(pc.binary_length(texts)).as_py() or 0
                if ids.found_in(texts):
                    result.found.append(info.path)
                    break
        except UndecodedError:
            result.undecoded.append(info.path)
    return result


@dataclass(frozen=True)
class TemporaryFolders:
    """Temporary folders of one node."""

    node: str
    deleted: tuple[str, ...]
    in_use: tuple[str, ...]  # of running processes, not searched


def empty_temporary_folders() -> list[TemporaryFolders]:
    """Delete what killed processes left on this machine and, with a connected cluster, on each of its nodes."""
    found = [_empty("this machine")]
    if not ray.is_initialized():
        return found
    here = ray.get_runtime_context().get_node_id()
    others = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    task = ray.remote(num_cpus=0)(_empty)
    there = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(node)
        for node in others
    ]
    return [*found, *ray.get(there)]


def _empty(node: str) -> TemporaryFolders:
    deleted = temporary_folders.delete_abandoned(min_age_s=0)
    return TemporaryFolders(node, tuple(deleted), tuple(map(str, temporary_folders.in_use())))


def description(result: SearchResult, ids: IdSearch, tokens: int, folders: list[TemporaryFolders]) -> dict[str, Any]:
    """What a certificate says about the search."""
    return {
        "files": dict(sorted(result.files.items())),
        "bytes": result.file_bytes,
        "decoded_bytes": result.decoded_bytes,
        "searched_as_they_are": result.undecoded,
        "layers": "parquet pages, dictionaries and raw rows; Arrow and shuffle files; JSON and HTML escapes; "
        "safetensors and numpy files; gz, zst, xz, bz2, lz4 and zip",
        "ids_searched_byte_by_byte": len(ids.ids),
        "ids_searched_in_user_columns_and_raw_values": tokens,
        "not_searched_byte_by_byte": "ids that are short or plain words or numbers, which occur everywhere, and ids of "
        "an earlier call that was killed: their users were found by token",
        "input_files_below_the_root_not_searched": result.inputs,
        "temporary_folders": [
            {"node": each.node, "deleted": len(each.deleted), "in_use_and_not_searched": len(each.in_use)}
            for each in folders
        ],
    }
