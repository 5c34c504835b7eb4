"""Stable hashes: shards, arms and seeds are the same on every machine, in every process and library version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

_HASH_KEY = "rayrec-stable-16"  # SipHash key, 16 characters; another key moves every user to another shard


def hash_strings(values: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """SipHash-2-4 of each string, uint64 [n], via pandas' documented stable hash."""
    texts = np.asarray(values.to_pylist(), dtype=object)
    hashes: npt.NDArray[np.uint64] = pd.util.hash_array(texts, hash_key=_HASH_KEY, categorize=False)
    return hashes


def shard_of(user_ids: pa.Array, shards: int) -> npt.NDArray[np.int32]:
    """The shard of each user, int32 [n] in [0, shards)."""
    return (hash_strings(user_ids) % np.uint64(shards)).astype(np.int32)


def digest(content: Any) -> str:
    """Sha256 (hex, 16 characters) of the canonical JSON of plain content, for fingerprints of configs and artifacts."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def with_key_order(content: Mapping[str, Any], *paths: str) -> Any:
    """Convert the mappings at `paths` to lists of pairs, so that `digest` depends on the order of their keys.

    `a.b` is the mapping b in a, `a.*.b` the mapping b of every value in a; missing paths are ignored.
    """
    return _ordered(content, [path.split(".") for path in paths])


def _ordered(value: Any, paths: list[list[str]]) -> Any:
    if not isinstance(value, Mapping):
        return value
    pairs = [
        [key, _ordered(inner, [path[1:] for path in paths if path[:1] in ([key], ["*"])])]
        for key, inner in value.items()
    ]
    return pairs if [] in paths else dict(pairs)


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2^63) derived from any identity, such as (run, user, arm)."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def splitmix64(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Finaliser of splitmix64 (Steele et al. 2014): maps numbers that differ in any bit to unrelated ones."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
