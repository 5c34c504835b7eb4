"""The best of the union by the first-stage blend: what the LLM gets to score."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from rayrec.contracts.ragged import Ragged
from rayrec.ordering import best
from rayrec.slates.blend import Blend, Prior


@dataclass(frozen=True)
class ShortlistStage:
    """Reads and writes candidate_schema: each user's best `size` candidates, best first, ties by item code."""

    blend: Blend
    prior: Prior
    size: int

    def __call__(self, table: pa.Table) -> pa.Table:
        places = best(self.blend.scores(table, self.prior), self.size)
        columns = []
        for field in table.schema:
            column = table[field.name].combine_chunks()
            if field.name in ("candidate", "source") or field.name.startswith("score."):
                values = Ragged.from_arrow(column).values[places.values]
                column = places.like(values).to_arrow(field.type.value_type)
            columns.append(column)
        return pa.table(columns, schema=table.schema)
