"""Small tables of the pipeline's schemas, with what a test does not give filled in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from rayrec.data.schemas import ITEM, candidate_schema


def item_table(**columns: Sequence[Any]) -> pa.Table:
    """ITEM of these columns: available items called "thing", of which nothing else is known."""
    items = len(next(iter(columns.values())))
    filled: dict[str, Any] = {
        "item_id": [f"i{code:03}" for code in range(items)],
        "title": ["thing"] * items,
        "category": [None] * items,
        "description": [None] * items,
        "available": [True] * items,
        "attributes": [[]] * items,
        "available_from": [None] * items,
    }
    return pa.table(filled | columns, schema=ITEM)


def candidate_table(
    users: Sequence[str],
    history: Sequence[Sequence[int]],
    candidates: Sequence[Sequence[int]],
    *,
    ts: Sequence[Sequence[int]] | None = None,
    **scores: Sequence[Sequence[float]],
) -> pa.Table:
    """One row a user; `scores`: of the candidates by each retriever. `ts` counts from 1 unless it is given."""
    columns = {
        "user_id": users,
        "variant": ["v"] * len(users),
        "item": history,
        "ts": [list(range(1, 1 + len(row))) for row in history] if ts is None else ts,
        "candidate": candidates,
        "source": [[0] * len(row) for row in candidates],
        **{f"score.{name}": rows for name, rows in scores.items()},
    }
    return pa.table(columns, schema=candidate_schema(tuple(scores)))
