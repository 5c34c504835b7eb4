"""What a run keeps of texts read again by their titles alone: a file a shard and reader; none without such a reader."""

from __future__ import annotations

import pyarrow as pa

from rayrec.numerics.hashing import derive_seed
from rayrec.pipeline.run_context import RunContext
from rayrec.reranking.text.text_ablation import TEXT_ABLATION, ablate_texts
from rayrec.reranking.text.text_reranker import TextReranker
from rayrec.storage import layout
from rayrec.storage.tables import read_arrow, write_arrow

_USERS = 100  # of a run and reader, two items each


def write_text_ablation(
    context: RunContext, run_id: str, shard: int, method: str, reader: TextReranker, scored: pa.Table
) -> None:
    """Read some of one shard's users again; `scored`: what `reader` made of them."""
    shards = context.config.data.shards
    users = _USERS // shards + (shard < _USERS % shards)
    found = (
        ablate_texts(reader, scored, users, derive_seed("read again", context.dt))
        if users
        else TEXT_ABLATION.empty_table()
    )
    write_arrow(context.storage, layout.text_ablation_path(context.date, run_id, method, shard), found)


def read_text_ablation(context: RunContext, run_id: str) -> dict[str, pa.Table]:
    """TEXT_ABLATION of the whole run, by method."""
    found: dict[str, list[pa.Table]] = {}
    for info in context.storage.list(layout.text_ablation_folder(context.date, run_id)):
        table = read_arrow(context.storage, info.path)
        found.setdefault(layout.text_ablation_method(info.path), []).append(table)
    return {method: pa.concat_tables(tables) for method, tables in sorted(found.items())}
