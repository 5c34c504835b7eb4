"""How much of a score is the words beside an item's title: a few users read again with the title alone.

Of each sampled user two candidates are read again, one at a time, everything else in the prompt as it was: the one that
the checkpoint lifted furthest above the retrievers' order, and one by chance. Where an item's category or description
works on the reader, its score falls by more than others' do.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.numerics.hashing import hash_strings, splitmix64
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.engines.engine import Failure, Float32
from rayrec.reranking.text.text_reranker import TextReranker

TEXT_ABLATION = pa.schema(
    [
        pa.field("item", pa.int32(), nullable=False),  # code in the day's catalogue
        pa.field("given", pa.float32(), nullable=False),  # its score as it was read
        pa.field("bare", pa.float32(), nullable=False),  # its score by its title alone, all else as it was
    ]
)


def ablate_texts(reader: TextReranker, table: pa.Table, users: int, seed: int) -> pa.Table:
    """TEXT_ABLATION of up to `users` of the rows that `reader` scored (reranked_schema): for a seed always the same ones.

    Items of which nothing but the title was read are never drawn; answers that fail are left out.
    """
    scored = table.filter(pc.is_valid(table["llm_score"])).combine_chunks()
    drawn = splitmix64(hash_strings(scored["user_id"]) ^ np.uint64(seed))
    order = np.argsort(drawn, kind="stable")[:users]
    scored, drawn = scored.take(pa.array(order)), drawn[order]
    read, asks = reader.queries(scored)
    code = Ragged.from_arrow(scored["candidate"]).values[read.values]
    given = Ragged.from_arrow(scored["llm_score"]).values[read.values]
    worded = np.array([reader.texts[one] != reader.titles[one] for one in code], np.bool_)
    places, again = [], []
    for row, ask in enumerate(asks):
        start = int(read.offsets[row])
        part = slice(start, int(read.offsets[row + 1]))
        for place in _two(given[part], worded[part], int(drawn[row])):
            places.append(start + place)
            again.append(ask.with_candidate(place, reader.titles[code[start + place]]))
    answers = zip(reader.scored(again), read.rows[places], places, strict=True)
    bare = [
        np.nan if isinstance(answer, Failure) else answer[place - read.offsets[row]] for answer, row, place in answers
    ]
    found = pa.table([code[places], given[places], np.array(bare, np.float32)], schema=TEXT_ABLATION)
    return found.filter(pc.and_(pc.is_finite(found["given"]), pc.is_finite(found["bare"])))


def _two(given: Float32, worded: npt.NDArray[np.bool_], draw: int) -> list[int]:
    """Of candidates in the retrievers' order the `worded` one that rose furthest, and another of them."""
    rank = np.empty(len(given), np.int64)
    rank[np.argsort(-given, kind="stable")] = np.arange(len(given))
    may = np.flatnonzero(worded)
    if not len(may):
        return []
    first = int(may[np.argmax(may - rank[may])])
    others = may[may != first]
    return [first, int(others[draw % len(others)])] if len(others) else [first]
