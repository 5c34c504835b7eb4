"""A catalogue out of interactions: how often each item came with each value of each field, countable in parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa

from rayrec.config import ColumnLike, ItemSource
from rayrec.data.text_columns import Text

ATTRIBUTE = "attributes."  # before the name of a field that is one of the item's attributes
ITEM_COUNTS = pa.schema(
    [
        pa.field("item_id", pa.string()),
        pa.field("field", pa.string()),  # "" counts the item itself
        pa.field("value", pa.string()),
        pa.field("count", pa.int64()),
    ]
)
"""One row an (item, field, value)."""


def item_fields(source: ItemSource) -> dict[str, ColumnLike]:
    """The fields of an item besides its id that the config maps; attributes as ATTRIBUTE + name."""
    named = {name: getattr(source, name) for name in ("title", "category", "description", "available")}
    attributes = {f"{ATTRIBUTE}{name}": field for name, field in source.attributes.items()}
    return {name: field for name, field in (named | attributes).items() if field is not None}


def count(items: Text, fields: Mapping[str, Text]) -> pa.Table:
    """ITEM_COUNTS of one batch; rows without an item, or without a value, do not count."""
    tables = [_count(items, "", Text(np.zeros(len(items), np.int32), pa.array([""])))]
    tables += [_count(items, name, text) for name, text in fields.items()]
    return pa.concat_tables(tables)


def _count(items: Text, field: str, text: Text) -> pa.Table:
    rows = items.present & text.present
    width = max(len(text.values), 1)
    pairs, counts = np.unique(items.codes[rows].astype(np.int64) * width + text.codes[rows], return_counts=True)
    columns = [
        items.values.take(pa.array(pairs // width)),
        pa.repeat(pa.scalar(field), len(pairs)),
        text.values.take(pa.array(pairs % width)),
        counts,
    ]
    return pa.table(columns, schema=ITEM_COUNTS)


def merge(tables: Iterable[pa.Table]) -> pa.Table:
    """The sum of counts, sorted by (item_id, field, value): the same whatever the order of the parts."""
    together = pa.concat_tables([ITEM_COUNTS.empty_table(), *tables])
    summed = together.group_by(["item_id", "field", "value"]).aggregate([("count", "sum")])
    return pa.table(
        [summed["item_id"], summed["field"], summed["value"], summed["count_sum"]], schema=ITEM_COUNTS
    ).sort_by([("item_id", "ascending"), ("field", "ascending"), ("value", "ascending")])
