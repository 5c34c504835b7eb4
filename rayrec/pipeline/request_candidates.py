"""Candidates for what is asked: the items whose words match best, by BM25."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.instructions.bm25 import Bm25
from rayrec.instructions.instruction_table import instructions_for
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline.instruction_inputs import arms_with_requests, facets, requests
from rayrec.pipeline.models import load_catalogue
from rayrec.pipeline.run_context import RunContext


def request_queries(context: RunContext, user_ids: pa.ChunkedArray, arms: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The texts, [n], by which candidates are looked for, for users of these arms: everything they intend in any."""
    whose = dict.fromkeys(arm if arm in arms_with_requests(context) else "" for arm in arms)
    columns = [instructions_for(requests(context), user_ids, arm)[1].to_pylist() for arm in whose]
    return [tuple(dict.fromkeys(text for text in row if text)) for row in zip(*columns, strict=True)]


def search(context: RunContext, texts: Sequence[Sequence[str]], top: int) -> Ragged:
    """The items, int32 codes, whose titles, categories and facets match the texts of each row: the best `top` of each
    text, so that no text takes the place of another. Who matches two of them stands there twice."""
    different = dict.fromkeys(text for row in texts for text in row)
    found = {text: top_matches(_words(context), text, top) for text in different}
    rows = [np.concatenate([np.empty(0, np.int32), *(found[text] for text in row)]) for row in texts]
    return Ragged.from_lengths(np.concatenate([np.empty(0, np.int32), *rows]), [len(row) for row in rows])


def top_matches(documents: Bm25, text: str, top: int) -> npt.NDArray[np.int32]:
    """The `top` documents that match a text best, best first, of equal ones the first; only such as match at all."""
    scores = documents.scores([text])[0]
    found = np.flatnonzero(scores > 0)
    if len(found) > top > 0:
        # Without sorting them all: whatever is as good as the last that has a place.
        found = found[scores[found] >= np.partition(scores[found], -top)[-top]]
    best: npt.NDArray[np.int32] = found[np.argsort(-scores[found], kind="stable")][:top].astype(np.int32)
    return best


@lru_cache(maxsize=2)
def _words(context: RunContext) -> Bm25:
    catalogue, own = load_catalogue(context), facets(context)
    named = [" ".join(own.name[facet] for facet in own.of_item[row]) for row in range(catalogue.num_rows)]
    parts = zip(catalogue["title"].to_pylist(), catalogue["category"].to_pylist(), named, strict=True)
    return Bm25(f"{title} {category or ''} {names}" for title, category, names in parts)
