"""What published vectors rest on: of each user, the events that change a vector most when left out, per instruction."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.embeddings.events import Events, Items
from rayrec.embeddings.influence import EventInfluence, leave_one_out, left_out
from rayrec.embeddings.publication import INFLUENCES
from rayrec.embeddings.schema import INFLUENCE
from rayrec.pipeline.day import Day
from rayrec.pipeline.embed_beside import BesideSpec, embedder_of, publish_beside, record_beside
from rayrec.pipeline.embed_training import settings_of
from rayrec.pipeline.ingest import histories, ingest, read_catalogue
from rayrec.publishing.records import Manifest, RunRecord, UserCounts
from rayrec.publishing.run import Publication


def record_of(day: Day) -> RunRecord:
    """What publishing calls this run."""
    return record_beside(day, "influence", tuple(settings_of(day).instructions))


def publish(day: Day, manifest: Manifest) -> Publication:
    """Publish the influences of a day whose embeddings are in `manifest`."""
    return publish_beside(day, manifest, record_of(day), INFLUENCES, InfluenceShard, "weigh", partial(ingest, day))


class InfluenceShard:
    """Stage: the events that one shard's vectors rest on, under every instruction, files and a receipt."""

    def __init__(self, spec: BesideSpec) -> None:
        self._spec = spec
        day, settings = spec.day, settings_of(spec.day)
        catalogue = read_catalogue(day)
        self._embedder = embedder_of(day, spec.fingerprint)
        self._viewer = self._embedder.viewer(Items.of(catalogue, settings.price))
        self._item_id = catalogue["item_id"].combine_chunks()

    def __call__(self, unit: int, _: pa.Table) -> pa.Table:
        day = self._spec.day
        asked, most = settings_of(day).instructions, settings_of(day).influence.events
        table = histories(day, unit).sort_by("user_id")
        tables = {name: INFLUENCE.empty_table() for name in asked}
        events = Events.of(table, day.event_weights, day.cut)
        if len(events.item):
            found = leave_one_out(self._embedder, self._viewer, events, [one.text for one in asked.values()])
            for k, (name, one) in enumerate(asked.items()):
                gone = left_out(events, found, k, one.leave_out)
                tables[name] = self._rows(table["user_id"].combine_chunks(), name, events, found, k, gone, most)
        users, having = table.num_rows, int(np.count_nonzero(events.lengths))
        nothing = {"no events": users - having} if users > having else {}
        self._spec.run.commit(unit, tables, UserCounts(users, having, ineligible=nothing))
        return pa.table({"users": [users]})

    def _rows(
        self,
        user_id: pa.Array,
        name: str,
        events: Events,
        found: EventInfluence,
        k: int,
        gone: npt.NDArray[np.bool_],
        most: int,
    ) -> pa.Table:
        order = np.lexsort((np.arange(len(events.item)), -found.influence[k], events.user))
        rank = np.arange(len(order)) - events.offsets[events.user[order]] + 1
        chosen, rank = order[rank <= most], rank[rank <= most]
        kinds = pa.array(list(self._spec.day.config.data.events), pa.string())
        columns = [
            user_id.take(pa.array(events.user[chosen])),
            pa.repeat(pa.scalar(name), len(chosen)),
            pa.array(rank, pa.int32()),
            self._item_id.take(pa.array(events.item[chosen])),
            pa.array(events.ts[chosen]).cast(INFLUENCE.field("ts").type),
            kinds.take(pa.array(events.event[chosen])),
            pa.array(found.influence[k][chosen]),
            pa.array(found.agreement[k][chosen]),
            pa.array(gone[chosen]),
        ]
        return pa.table(columns, schema=INFLUENCE)
