"""An assembling stage over the candidates of `scored_candidates`, as a config's `slate` section describes it."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from scored_candidates import NAMES, PERSONAL, SOURCES, item_features, items

from rayrec.blending.blender import Blender
from rayrec.config import Slate
from rayrec.data.schemas import ITEM
from rayrec.numerics.ragged import Ragged
from rayrec.slates.assembly import SlateAssembler
from rayrec.slates.scored_candidates import CatalogueItems

KNOWN = items()
ATTRIBUTES = pa.chunked_array(
    [
        pa.array(
            [[("price", "free" if code % 10 == 3 else str(code % 10))] if code % 4 else [] for code in range(200)],
            ITEM.field("attributes").type,
        )
    ]
)
"""Items cost their last digit; every fourth has no price, and one that ends in 3 has a price that is no number."""


def stage(known: CatalogueItems = KNOWN, **slate: Any) -> SlateAssembler:
    section = Slate.model_validate({"size": 10, **slate})
    blend = Blender.default(PERSONAL, NAMES)
    return SlateAssembler.of(
        section, blend, item_features(), SOURCES, known, ATTRIBUTES, datetime.date(2024, 5, 1), "run 1"
    )


def codes_of(rows: pa.Table) -> list[list[int]]:
    """Item codes of each user's slate, in the order of user and rank."""
    found: dict[str, list[int]] = {}
    for user, item in zip(rows["user_id"].to_pylist(), rows["item_id"].to_pylist(), strict=True):
        found.setdefault(user, []).append(int(item.removeprefix("item ")))
    return list(found.values())


def without_candidates(table: pa.Table) -> pa.Table:
    empty = Ragged.from_lengths(np.zeros(0, np.int32), np.zeros(len(table), np.int64))
    for name in ("candidate", "source", *(f"score.{source}" for source in SOURCES)):
        field = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, empty.to_arrow(field.type.value_type))
    return table
