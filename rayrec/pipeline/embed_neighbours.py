"""Who and what is nearest to whom, by the vectors that are published: a publication beside them, resumed like them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.embeddings.events import Items
from rayrec.embeddings.neighbours import Index
from rayrec.embeddings.publication import NEIGHBOURS
from rayrec.embeddings.reader import read_embeddings
from rayrec.embeddings.schema import neighbour_table, vectors_of
from rayrec.hashing import shard_of
from rayrec.pipeline.day import Day
from rayrec.pipeline.embed_beside import BesideSpec, embedder_of, publish_beside, record_beside
from rayrec.pipeline.embed_training import settings_of
from rayrec.pipeline.ingest import read_catalogue
from rayrec.publishing.records import Manifest, RunRecord, UserCounts
from rayrec.publishing.run import Publication


def record_of(day: Day) -> RunRecord:
    """What publishing calls this run."""
    return record_beside(day, "neighbours", settings_of(day).neighbour_lists)


def publish(day: Day, manifest: Manifest) -> Publication:
    """Publish the neighbours of a day whose embeddings are in `manifest`."""
    return publish_beside(day, manifest, record_of(day), NEIGHBOURS, NearShard, "near")


@dataclass(frozen=True)
class Known:
    """Everybody's vectors under one instruction, by user_id, and the same to be searched."""

    user_id: pa.Array
    vectors: npt.NDArray[np.float32]  # [users, dim]
    index: Index


class NearShard:
    """Stage: the neighbours of one shard's users under every instruction, files and a receipt.

    Holds the vectors of all users under all instructions: 4 bytes a user, instruction and dimension, twice.
    """

    def __init__(self, spec: BesideSpec) -> None:
        self._spec = spec
        self._settings = settings_of(spec.day)
        self._known = _known(spec.day, spec.run.record.arms)
        self._items = _found_items(spec.day, spec.fingerprint) if self._settings.neighbours.items else None

    def __call__(self, unit: int, _: pa.Table) -> pa.Table:
        run, wanted = self._spec.run, self._settings.neighbours
        tables, users, having = {}, 0, set[str]()
        for arm in run.record.arms:
            instruction, of = arm.rsplit(".", 1)
            known = self._known[instruction]
            rows = np.flatnonzero(shard_of(known.user_id, run.record.shards) == unit)
            user_id, vectors = known.user_id.take(pa.array(rows)), known.vectors[rows]
            if of == "users":
                ids, nearest = known.user_id, known.index.nearest(vectors, wanted.users, rows)
            else:
                assert self._items is not None
                ids, nearest = self._items[0], self._items[1].nearest(vectors, wanted.items)
            tables[arm] = neighbour_table(user_id, instruction, of, ids, nearest)
            users = len(rows)
            having |= set(tables[arm]["user_id"].to_pylist())
        alone = {"alone": users - len(having)} if users > len(having) else {}
        run.commit(unit, tables, UserCounts(users, len(having), ineligible=alone))
        return pa.table({"users": [users]})


@lru_cache(maxsize=1)
def _known(day: Day, lists: tuple[str, ...]) -> dict[str, Known]:
    found = {}
    for instruction in dict.fromkeys(arm.rsplit(".", 1)[0] for arm in lists):
        table = read_embeddings(day.config.output.root, day.date, instruction).sort_by("user_id")
        vectors = vectors_of(table)
        found[instruction] = Known(table["user_id"].combine_chunks(), vectors, Index(vectors))
    return found


@lru_cache(maxsize=1)
def _found_items(day: Day, fingerprint: str) -> tuple[pa.Array, Index]:
    catalogue = read_catalogue(day)
    items = Items.of(catalogue, settings_of(day).price)
    return catalogue["item_id"].combine_chunks(), Index(embedder_of(day, fingerprint).embed_items(items))
