"""New items, without a positive event before the date: how many users consumed, and how many of these were proposed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.evaluation.published_run import PublishedRun
from rayrec.publishing.slate_reader import read_shard_slates


@dataclass(frozen=True)
class NewItems:
    """Counts of distinct (user, item) pairs after the date."""

    consumed: int
    new: int  # those of them whose item is new
    proposed: Mapping[str, int] = field(default_factory=dict)  # arm -> those of these that its slates held

    def __str__(self) -> str:
        if not self.new:
            return ""
        held = ", ".join(f"{count:,} by {arm}" for arm, count in self.proposed.items())
        share = self.new / max(self.consumed, 1)
        return f"{self.new:,} of {self.consumed:,} consumed items ({share:.1%}) were new; proposed of these: {held}."


def new_items(root: str, day: date, consumed: pa.Table) -> NewItems:
    """Count for the published date; `consumed`: columns user_id, item_id. Zeros if the item model was deleted."""
    run = PublishedRun.open(root, day)
    if run.model is None:
        return NewItems(0, 0)
    known = run.model.item_ids.filter(pa.array(np.asarray(run.model.count) > 0))
    pairs = _pairs(consumed)
    new = pairs.filter(pc.invert(pc.is_in(pairs["item_id"], value_set=known)))
    in_catalogue = pc.is_in(new["item_id"], value_set=run.item_id)
    proposable = new.filter(in_catalogue)
    proposed = dict.fromkeys(run.manifest.arms, 0)
    for arm in proposed if proposable.num_rows else ():
        for shard in range(run.manifest.shards):
            slates = _pairs(read_shard_slates(run.storage, run.manifest, arm, shard, ("user_id", "item_id")))
            proposed[arm] += slates.join(proposable, ["user_id", "item_id"], join_type="inner").num_rows
    return NewItems(pairs.num_rows, new.num_rows, proposed)


def _pairs(table: pa.Table) -> pa.Table:
    """The distinct (user_id, item_id), as strings."""
    columns = [table[name].cast(pa.string()) for name in ("user_id", "item_id")]
    return pa.table(columns, names=["user_id", "item_id"]).group_by(["user_id", "item_id"]).aggregate([])
