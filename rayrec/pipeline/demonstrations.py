"""Whose histories may stand in prompts as worked examples: users of the day, as of the oldest cut that is scored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import pyarrow as pa

from rayrec.contracts.ragged import Ragged
from rayrec.contracts.schemas import HISTORY
from rayrec.denoising.stage import histories_of
from rayrec.hashing import hash_strings, mixed, seed_of
from rayrec.pipeline.day import Day
from rayrec.pipeline.ingest import histories, histories_path
from rayrec.pipeline.models import cuts
from rayrec.reranking.ways.demonstrations import Pool
from rayrec.slates.examples import known_at
from rayrec.smallest import Smallest

_USERS, _FEWEST = 200, 4  # at most so many, with so many positive events at least
_SALT = np.uint64(seed_of("demonstrations"))  # shards and samples go by the plain hash


def demonstration_pool(day: Day) -> Pool:
    """The same for every cut and shard of the run; nothing in it is later than the oldest cut. Reads every shard."""
    shards = (shard for shard in range(day.config.data.shards) if day.storage.exists(histories_path(day, shard)))
    return pool_of((histories(day, shard) for shard in shards), day.event_weights, cuts(day)[0])


def pool_of(tables: Iterable[pa.Table], event_weights: Sequence[float], cut: int) -> Pool:
    """Of the users of HISTORY tables, those of smallest hash: each one's positive events before the cut, the newest as
    what was taken."""
    chosen = Smallest(_USERS)
    for table in chain([HISTORY.empty_table()], tables):
        found = histories_of(known_at(table, cut), event_weights)
        positive = found.item.filter(found.weight.values > 0)
        rows = np.flatnonzero(positive.lengths >= _FEWEST)
        users = table["user_id"].take(pa.array(rows))
        kept = pa.table({"user_id": users, "item": positive.take(rows).to_arrow(pa.int32())})
        chosen.add(kept, mixed(hash_strings(users) ^ _SALT))
    people = chosen.table()
    together = Ragged.from_arrow(people["item"])
    last = np.zeros(len(together.values), np.bool_)
    last[together.offsets[1:] - 1] = True
    return Pool(tuple(people["user_id"].to_pylist()), together.filter(~last), together.values[last])
