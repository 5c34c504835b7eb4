"""Whose histories may stand in prompts as worked examples: users of the day, as of the oldest cut that is scored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import pyarrow as pa

from rayrec.data.cutoff_histories import histories_at
from rayrec.data.schemas import HISTORY
from rayrec.denoising.denoise_stage import histories_of
from rayrec.numerics.bottom_k_sample import BottomKSample
from rayrec.numerics.hashing import derive_seed, hash_strings, splitmix64
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline.interaction_ingest import histories, histories_path
from rayrec.pipeline.models import cutoffs
from rayrec.pipeline.run_context import RunContext
from rayrec.reranking.text.few_shot import FewShotPool

_USERS, _FEWEST = 200, 4  # at most so many, with so many positive events at least
_SALT = np.uint64(derive_seed("demonstrations"))  # shards and samples go by the plain hash


def few_shot_pool(context: RunContext) -> FewShotPool:
    """The same for every cut and shard of the run; nothing in it is later than the oldest cut. Reads every shard."""
    shards = (
        shard for shard in range(context.config.data.shards) if context.storage.exists(histories_path(context, shard))
    )
    return few_shot_pool_of((histories(context, shard) for shard in shards), context.event_weights, cutoffs(context)[0])


def few_shot_pool_of(tables: Iterable[pa.Table], event_weights: Sequence[float], cut: int) -> FewShotPool:
    """Of the users of HISTORY tables, those of smallest hash: each one's positive events before the cut, the newest as
    what was taken."""
    chosen = BottomKSample(_USERS)
    for table in chain([HISTORY.empty_table()], tables):
        found = histories_of(histories_at(table, cut), event_weights)
        positive = found.item.filter(found.weight.values > 0)
        rows = np.flatnonzero(positive.lengths >= _FEWEST)
        users = table["user_id"].take(pa.array(rows))
        kept = pa.table({"user_id": users, "item": positive.take(rows).to_arrow(pa.int32())})
        chosen.add(kept, splitmix64(hash_strings(users) ^ _SALT))
    people = chosen.table()
    together = Ragged.from_arrow(people["item"])
    last = np.zeros(len(together.values), np.bool_)
    last[together.offsets[1:] - 1] = True
    return FewShotPool(tuple(people["user_id"].to_pylist()), together.filter(~last), together.values[last])
