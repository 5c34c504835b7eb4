"""Text ablation: the effect of the text beside an item's title on its score, measured on a sample of users.

Two candidates of each sampled user are scored again with the title alone, one at a time, the rest of the prompt
unchanged (the other candidates are left out where scores do not depend on them): the one that the checkpoint raised
furthest above the retrievers' order, and a random one. If the category or description of an item manipulates the
checkpoint, its score drops more than that of other items.
"""

from __future__ import annotations

from dataclasses import replace

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
        pa.field("item", pa.int32(), nullable=False),  # code in the run's catalogue
        pa.field("score", pa.float32(), nullable=False),  # with the whole text
        pa.field("score_title_only", pa.float32(), nullable=False),
    ]
)


def ablate_texts(reranker: TextReranker, table: pa.Table, users: int, seed: int) -> pa.Table:
    """TEXT_ABLATION of up to `users` of the rows that `reranker` scored (reranked_schema); deterministic in `seed`.

    Items that have only a title are never sampled; failed prompts are left out.
    """
    scored = table.filter(pc.is_valid(table["llm_score"])).combine_chunks()
    draw = splitmix64(hash_strings(scored["user_id"]) ^ np.uint64(seed))
    order = np.argsort(draw, kind="stable")[:users]
    scored, draw = scored.take(pa.array(order)), draw[order]
    depth, queries = reranker.queries(scored)
    code = Ragged.from_arrow(scored["candidate"]).values[depth.values]
    score = Ragged.from_arrow(scored["llm_score"]).values[depth.values]
    has_more = np.array([reranker.texts[one] != reranker.titles[one] for one in code], np.bool_)
    places, ablated = [], []
    alone = reranker.scorer.asks_each_alone
    for row, query in enumerate(queries):
        start = int(depth.offsets[row])
        part = slice(start, int(depth.offsets[row + 1]))
        for place in _two_candidates(score[part], has_more[part], int(draw[row])):
            places.append(start + place)
            title = reranker.titles[code[start + place]]
            before, after = ((), ()) if alone else (query.candidates[:place], query.candidates[place + 1 :])
            ablated.append(replace(query, candidates=(*before, title, *after)))
    answers = zip(reranker.scores(ablated), depth.rows[places], places, strict=True)
    title_only = [
        np.nan if isinstance(answer, Failure) else answer[0 if alone else place - depth.offsets[row]]
        for answer, row, place in answers
    ]
    found = pa.table([code[places], score[places], np.array(title_only, np.float32)], schema=TEXT_ABLATION)
    return found.filter(pc.and_(pc.is_finite(found["score"]), pc.is_finite(found["score_title_only"])))


def _two_candidates(score: Float32, eligible: npt.NDArray[np.bool_], draw: int) -> list[int]:
    """Of candidates in the retrievers' order, the eligible one that rose furthest and a random other one."""
    rank = np.empty(len(score), np.int64)
    rank[np.argsort(-score, kind="stable")] = np.arange(len(score))
    places = np.flatnonzero(eligible)
    if not len(places):
        return []
    first = int(places[np.argmax(places - rank[places])])
    others = places[places != first]
    return [first, int(others[draw % len(others)])] if len(others) else [first]
