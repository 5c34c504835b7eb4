"""What published vectors rest on: of each user, the events that change a vector most when left out, per instruction."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.embeddings.embedding_tables import INFLUENCE, INFLUENCES
from rayrec.embeddings.interaction_influence import InteractionInfluence, leave_one_out, most_influential
from rayrec.embeddings.user_events import Events, Items
from rayrec.pipeline.embedding_side_products import DerivedSpec, derived_record, embedder_of, publish_derived
from rayrec.pipeline.embedding_training import settings_of
from rayrec.pipeline.interaction_ingest import histories, ingest, read_catalogue
from rayrec.pipeline.run_context import RunContext
from rayrec.publishing.publishing_run import PublishResult
from rayrec.publishing.records import Manifest, RunRecord, UserCounts
from rayrec.ray_support.stage_runner import WorkItem


def record_of(context: RunContext) -> RunRecord:
    """What publishing calls this run."""
    return derived_record(context, "influence", tuple(settings_of(context).instructions))


def publish(context: RunContext, manifest: Manifest) -> PublishResult:
    """Publish the influences of a day whose embeddings are in `manifest`."""
    return publish_derived(
        context, manifest, record_of(context), INFLUENCES, InfluenceShard, "weigh", partial(ingest, context)
    )


class InfluenceShard:
    """Stage: the events that one shard's vectors rest on, under every instruction, files and a receipt."""

    def __init__(self, spec: DerivedSpec) -> None:
        self._spec = spec
        context, settings = spec.context, settings_of(spec.context)
        catalogue = read_catalogue(context)
        self._embedder = embedder_of(context, spec.fingerprint)
        self._viewer = self._embedder.view_builder(Items.of(catalogue, settings.price))
        self._item_id = catalogue["item_id"].combine_chunks()

    def __call__(self, item: WorkItem, _: pa.Table) -> pa.Table:
        context = self._spec.context
        asked, most = settings_of(context).instructions, settings_of(context).influence.events
        table = histories(context, item.shard).sort_by("user_id")
        tables = {name: INFLUENCE.empty_table() for name in asked}
        events = Events.of(table, context.event_weights, context.cutoff)
        if len(events.item):
            found = leave_one_out(self._embedder, self._viewer, events, [one.text for one in asked.values()])
            for k, (name, one) in enumerate(asked.items()):
                gone = most_influential(events, found.influence[k], one.leave_out)
                tables[name] = self._rows(table["user_id"].combine_chunks(), name, events, found, k, gone, most)
        users, having = table.num_rows, int(np.count_nonzero(events.lengths))
        nothing = {"no events": users - having} if users > having else {}
        self._spec.run.commit(item.shard, tables, UserCounts(users, having, ineligible=nothing))
        return pa.table({"users": [users]})

    def _rows(
        self,
        user_id: pa.Array,
        name: str,
        events: Events,
        found: InteractionInfluence,
        k: int,
        gone: npt.NDArray[np.bool_],
        most: int,
    ) -> pa.Table:
        order = np.lexsort((np.arange(len(events.item)), -found.influence[k], events.user))
        rank = np.arange(len(order)) - events.offsets[events.user[order]] + 1
        chosen, rank = order[rank <= most], rank[rank <= most]
        kinds = pa.array(list(self._spec.context.config.data.events), pa.string())
        columns = [
            user_id.take(pa.array(events.user[chosen])),
            pa.repeat(pa.scalar(name), len(chosen)),
            pa.array(rank, pa.int32()),
            self._item_id.take(pa.array(events.item[chosen])),
            pa.array(events.ts[chosen]).cast(INFLUENCE.field("ts").type),
            kinds.take(pa.array(events.event[chosen])),
            pa.array(found.influence[k][chosen]),
            pa.array(found.alignment[k][chosen]),
            pa.array(gone[chosen]),
        ]
        return pa.table(columns, schema=INFLUENCE)
