"""Who and what is nearest to whom, by the vectors that are published: a publication beside them, resumed like them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.embeddings.embedding_reader import read_embeddings
from rayrec.embeddings.embedding_tables import NEIGHBOURS, neighbour_table, vectors_of
from rayrec.embeddings.neighbour_search import Index
from rayrec.embeddings.user_events import Items
from rayrec.numerics.hashing import shard_of
from rayrec.pipeline.embedding_side_products import DerivedSpec, derived_record, embedder_of, publish_derived
from rayrec.pipeline.embedding_training import settings_of
from rayrec.pipeline.interaction_ingest import read_catalogue
from rayrec.pipeline.run_context import RunContext
from rayrec.publishing.publishing_run import PublishResult
from rayrec.publishing.records import Manifest, RunRecord, UserCounts
from rayrec.ray_support.stage_runner import WorkItem


def record_of(context: RunContext) -> RunRecord:
    """What publishing calls this run."""
    return derived_record(context, "neighbours", settings_of(context).neighbour_lists)


def publish(context: RunContext, manifest: Manifest) -> PublishResult:
    """Publish the neighbours of a day whose embeddings are in `manifest`."""
    return publish_derived(context, manifest, record_of(context), NEIGHBOURS, NeighbourShard, "near")


@dataclass(frozen=True)
class IndexedUsers:
    """Everybody's vectors under one instruction, by user_id, and the same to be searched."""

    user_id: pa.Array
    vectors: npt.NDArray[np.float32]  # [users, dim]
    index: Index


class NeighbourShard:
    """Stage: the neighbours of one shard's users under every instruction, files and a receipt.

    Holds the vectors of all users under all instructions: 4 bytes a user, instruction and dimension, twice.
    """

    def __init__(self, spec: DerivedSpec) -> None:
        self._spec = spec
        self._settings = settings_of(spec.context)
        self._known = _known(spec.context, spec.run.record.arms)
        self._items = _found_items(spec.context, spec.fingerprint) if self._settings.neighbours.items else None

    def __call__(self, item: WorkItem, _: pa.Table) -> pa.Table:
        run, wanted = self._spec.run, self._settings.neighbours
        tables, users, having = {}, 0, set[str]()
        for arm in run.record.arms:
            instruction, of = arm.rsplit(".", 1)
            known = self._known[instruction]
            rows = np.flatnonzero(shard_of(known.user_id, run.record.shards) == item.shard)
            user_id, vectors = known.user_id.take(pa.array(rows)), known.vectors[rows]
            if of == "users":
                ids, nearest = known.user_id, known.index.search(vectors, wanted.users, rows)
            else:
                assert self._items is not None
                ids, nearest = self._items[0], self._items[1].search(vectors, wanted.items)
            tables[arm] = neighbour_table(user_id, instruction, of, ids, nearest)
            users = len(rows)
            having |= set(tables[arm]["user_id"].to_pylist())
        alone = {"alone": users - len(having)} if users > len(having) else {}
        run.commit(item.shard, tables, UserCounts(users, len(having), ineligible=alone))
        return pa.table({"users": [users]})


@lru_cache(maxsize=1)
def _known(context: RunContext, lists: tuple[str, ...]) -> dict[str, IndexedUsers]:
    found = {}
    for instruction in dict.fromkeys(arm.rsplit(".", 1)[0] for arm in lists):
        table = read_embeddings(context.config.output.root, context.date, instruction).sort_by("user_id")
        vectors = vectors_of(table)
        found[instruction] = IndexedUsers(table["user_id"].combine_chunks(), vectors, Index(vectors))
    return found


@lru_cache(maxsize=1)
def _found_items(context: RunContext, fingerprint: str) -> tuple[pa.Array, Index]:
    catalogue = read_catalogue(context)
    items = Items.of(catalogue, settings_of(context).price)
    return catalogue["item_id"].combine_chunks(), Index(embedder_of(context, fingerprint).embed_items(items))
