"""Items whose score depends on the words beside their title more than others' do: suspects for a person to look at."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

TEXT_ABLATION = pa.schema(
    [
        pa.field("method", pa.string(), nullable=False),  # who reads the texts
        pa.field("title", pa.string(), nullable=False),
        pa.field("readings", pa.int64(), nullable=False),  # of this item
        pa.field("shift", pa.float64(), nullable=False),  # mean over them: the score as read, less that by title alone
        pa.field("typical", pa.float64(), nullable=False),  # the median size of an item's shift, each item once
        pa.field("items", pa.int64(), nullable=False),  # read again, with those that are not shown
    ]
)


def text_ablation(method: str, reread: pa.Table, titles: pa.ChunkedArray | pa.Array, limit: int = 10) -> pa.Table:
    """WORDING: the items that shift most, and more than is typical; `reread`: item, given, bare, a row a reading;
    `titles` by item code."""
    if not reread.num_rows:
        return TEXT_ABLATION.empty_table()
    code, place = np.unique(reread["item"].to_numpy(), return_inverse=True)
    shifts = reread["score"].to_numpy().astype(np.float64) - reread["score_title_only"].to_numpy()
    readings = np.bincount(place)
    shift = np.bincount(place, shifts) / readings
    typical = float(np.median(np.abs(shift)))
    most = np.argsort(-np.abs(shift), kind="stable")[:limit]
    most = most[np.abs(shift[most]) > typical]
    columns = {
        "method": [method] * len(most),
        "title": titles.take(pa.array(code[most])),
        "readings": readings[most],
        "shift": shift[most],
        "typical": [typical] * len(most),
        "items": [len(code)] * len(most),
    }
    return pa.table(columns, schema=TEXT_ABLATION)
