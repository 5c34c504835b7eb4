"""Items whose scores depend most on the text besides the title, from a text ablation."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

ITEM_TEXT_EFFECTS = pa.schema(
    [
        pa.field("method", pa.string(), nullable=False),  # the text scorer
        pa.field("title", pa.string(), nullable=False),
        pa.field("scores", pa.int64(), nullable=False),  # compared scores of the item
        pa.field("score_difference", pa.float64(), nullable=False),  # mean of full text minus title only
        pa.field("median_difference", pa.float64(), nullable=False),  # of the items' absolute differences
        pa.field("items", pa.int64(), nullable=False),  # all items scored again, including those not listed
    ]
)


def item_text_effects(method: str, ablation: pa.Table, titles: pa.ChunkedArray | pa.Array, limit: int = 10) -> pa.Table:
    """ITEM_TEXT_EFFECTS of the items with the largest score differences, if above the median.

    `ablation`: TEXT_ABLATION (columns item, score, score_title_only); `titles` by item code.
    """
    if not ablation.num_rows:
        return ITEM_TEXT_EFFECTS.empty_table()
    code, row = np.unique(ablation["item"].to_numpy(), return_inverse=True)
    differences = ablation["score"].to_numpy().astype(np.float64) - ablation["score_title_only"].to_numpy()
    scores = np.bincount(row)
    difference = np.bincount(row, differences) / scores
    median = float(np.median(np.abs(difference)))
    most = np.argsort(-np.abs(difference), kind="stable")[:limit]
    most = most[np.abs(difference[most]) > median]
    columns = {
        "method": [method] * len(most),
        "title": titles.take(pa.array(code[most])),
        "scores": scores[most],
        "score_difference": difference[most],
        "median_difference": [median] * len(most),
        "items": [len(code)] * len(most),
    }
    return pa.table(columns, schema=ITEM_TEXT_EFFECTS)
