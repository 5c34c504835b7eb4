"""Whose histories may stand in prompts as worked examples: users of the day, as of the oldest cut that is scored."""

from __future__ import annotations

import numpy as np

from rayrec.contracts.ragged import Ragged
from rayrec.denoising.stage import histories_of
from rayrec.hashing import hash_strings
from rayrec.pipeline.day import Day
from rayrec.pipeline.ingest import histories, histories_path
from rayrec.pipeline.models import cuts
from rayrec.reranking.ways.demonstrations import Pool
from rayrec.slates.examples import known_at

_USERS, _FEWEST = 200, 4  # at most so many, with so many positive events at least


def demonstration_pool(day: Day) -> Pool:
    """Of the first shards that it takes, the users of smallest hash: each one's positive events, the newest as what was
    taken. The same for every cut and shard of the run; nothing in it is later than the oldest cut."""
    users: list[str] = []
    items, lengths = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
    for shard in range(day.config.data.shards):
        if len(users) >= _USERS or not day.storage.exists(histories_path(day, shard)):
            continue
        table = known_at(histories(day, shard), cuts(day)[0])
        found = histories_of(table, day.event_weights)
        positive = found.item.filter(found.weight.values > 0)
        order = np.argsort(hash_strings(table["user_id"]), kind="stable")
        rows = order[positive.lengths[order] >= _FEWEST][: _USERS - len(users)]
        chosen = positive.take(rows)
        users += table["user_id"].take(rows).to_pylist()
        items.append(chosen.values)
        lengths.append(chosen.lengths)
    together = Ragged.from_lengths(np.concatenate(items), np.concatenate(lengths))
    last = np.zeros(len(together.values), np.bool_)
    last[together.offsets[1:] - 1] = True
    return Pool(tuple(users), together.filter(~last), together.values[last])
