"""Assignment of users to arms and to an experiment's layer, by salted hashes: the same on every date and machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.config import ExperimentLayer
from rayrec.numerics.hashing import derive_seed, hash_strings, splitmix64
from rayrec.numerics.types import Bools, Float64s

Users: TypeAlias = pa.Array | pa.ChunkedArray  # ids, string [n]


def hash_to_unit(salt: str, user_ids: Users) -> Float64s:
    """The hash of each user, [n] in [0, 1); hashes of different salts are independent."""
    bits = splitmix64(hash_strings(user_ids) ^ np.uint64(derive_seed("arms", salt)))
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53, np.float64)


def in_layer(layer: ExperimentLayer, user_ids: Users) -> Bools:
    """Which users [n] are in the layer."""
    point = hash_to_unit(layer.salt, user_ids)
    return (point >= layer.low) & (point < layer.high)


def assign_arms(salt: str, shares: Sequence[float], user_ids: Users) -> npt.NDArray[np.int16]:
    """The arm of each user, [n], as an index into `shares` (of any sum)."""
    bounds = np.cumsum(shares)
    arm = np.searchsorted(bounds / bounds[-1], hash_to_unit(salt, user_ids), side="right")
    return np.minimum(arm, len(bounds) - 1).astype(np.int16)
