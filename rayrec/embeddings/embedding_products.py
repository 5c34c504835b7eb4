"""What is published of embeddings, by the rules of slates (rayrec.publishing.run).

    embeddings/dt=2011-08-31/instruction=gifts/shard=0007-<run id>-<attempt>.parquet
    embeddings/dt=2011-08-31/manifest.json                    the publication: what it does not name does not exist
    neighbours/dt=2011-08-31/list=gifts.users/shard=...       nearest users, where the config asks for them
    neighbours/dt=2011-08-31/list=next_order.items/shard=...  nearest items
    influences/dt=2011-08-31/instruction=gifts/shard=...      what the vectors rest on, where the config asks for it
    runs/dt=2011-08-31/<run id>/run.json, receipts/           as of slates, under other run ids

The documents are those of slates: where theirs say arm, these hold an instruction, or a list of one.
"""

from __future__ import annotations

import pyarrow as pa

from rayrec.embeddings.embedding_schema import check_embeddings, check_influences, check_neighbours
from rayrec.publishing.products import PublishedTable
from rayrec.publishing.records import RunRecord

_ROW_GROUP = 1 << 14  # rows


def _embeddings(table: pa.Table, record: RunRecord, arm: str, shard: int) -> tuple[pa.Table, pa.Array]:
    return table, check_embeddings(table, instruction=arm, shard=shard, shards=record.shards)


def _neighbours(table: pa.Table, record: RunRecord, arm: str, shard: int) -> tuple[pa.Table, pa.Array]:
    return table, check_neighbours(table, arm=arm, shard=shard, shards=record.shards)


def _influences(table: pa.Table, record: RunRecord, arm: str, shard: int) -> tuple[pa.Table, pa.Array]:
    return table, check_influences(table, instruction=arm, shard=shard, shards=record.shards)


EMBEDDINGS = PublishedTable("embeddings", "a vector", "instruction", ("user_id",), _ROW_GROUP, True, _embeddings)
NEIGHBOURS = PublishedTable("neighbours", "a neighbour", "list", ("user_id", "rank"), 1 << 17, False, _neighbours)
INFLUENCES = PublishedTable("influences", "an event", "instruction", ("user_id", "rank"), 1 << 17, False, _influences)
