"""How many items without a positive event the slates propose, as run statistics and as rows of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rayrec.monitoring.run_statistics import count_statistics, counts_by_arm
from rayrec.numerics.types import Bools

NEW_ITEMS = "new items"  # the statistic


def new_item_statistics(slates: Mapping[str, pa.Table], item_id: pa.Array, new: Bools) -> pa.Table:
    """RUN_STATISTICS of one shard's SLATE rows by arm; `item_id`, `new` [items]: the catalogue's, in one order."""
    codes = item_id.filter(pa.array(new))
    counts = {}
    for arm, table in slates.items():
        proposed = table.filter(pc.is_in(table["item_id"], value_set=codes))
        users = pc.count_distinct(proposed["user_id"]).as_py()
        counts[arm] = {"proposed": proposed.num_rows, "slate rows": table.num_rows, "users": users}
    return count_statistics(NEW_ITEMS, counts)


def new_item_rows(statistics: pa.Table) -> list[dict[str, Any]]:
    """One row per arm: rows of new items, their share, and the users who see one."""
    return [
        {
            "arm": arm,
            "proposed": counts["proposed"],
            "share": counts["proposed"] / max(counts["slate rows"], 1),
            "users": counts["users"],
        }
        for arm, counts in counts_by_arm(statistics, NEW_ITEMS).items()
    ]
