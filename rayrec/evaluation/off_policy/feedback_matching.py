"""Matching of feedback with published slates, by slate id and rank."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.schemas import FEEDBACK
from rayrec.errors import DataError

MATCHED = pa.schema([*FEEDBACK, pa.field("user_id", pa.string()), pa.field("arm", pa.string())])
"""Feedback on published slates."""

UNMATCHED = pa.schema([*FEEDBACK, pa.field("reason", pa.string(), nullable=False)])
"""Feedback that cannot be used, and the reason: see `match_published`."""

_PROPENSITY_TOLERANCE = 1e-4  # relative: logs may store propensities as text


def match_published(feedback: pa.Table, slates: pa.Table) -> tuple[pa.Table, pa.Table]:
    """FEEDBACK joined to SLATE rows by (slate_id, rank): MATCHED and UNMATCHED, each in feedback's order.

    Reasons: `unknown_slate`; `item_mismatch`: another item, or a rank beyond the slate's end; `propensity_mismatch`: by
    more than 1e-4 relative; `incomplete_slate`: the row is valid, but another rank of its slate is not, and a part of a
    slate has no importance weight.
    """
    keys = ["slate_id", "rank"]
    published = slates.select([*keys, "item_id", "propensity", "user_id", "arm"]).to_pandas()
    if published.duplicated(keys).any():
        twice = published[published.duplicated(keys)].iloc[0]
        raise DataError(
            "the same published slate is given twice", where=f"slate {twice['slate_id']}", hint="read each date once"
        )
    given = feedback.select(FEEDBACK.names).to_pandas()
    joined = given.merge(published, on=keys, how="left", suffixes=("", "_published"))
    known = joined["slate_id"].isin(published["slate_id"]).to_numpy()
    same_item = (joined["item_id"] == joined["item_id_published"]).to_numpy()
    logged = joined["propensity_published"].to_numpy(np.float64)
    same_propensity = np.abs(joined["propensity"].to_numpy(np.float64) - logged) <= _PROPENSITY_TOLERANCE * logged
    reason = np.select(
        [~known, ~same_item, ~same_propensity], ["unknown_slate", "item_mismatch", "propensity_mismatch"], ""
    ).astype(object)
    incomplete = joined["slate_id"].isin(joined["slate_id"][reason != ""]).to_numpy()
    reason = np.where((reason == "") & incomplete, "incomplete_slate", reason)
    valid = pa.array(reason == "")
    columns = [feedback[name] for name in FEEDBACK.names]
    owners = [pa.array(joined[name], pa.string(), from_pandas=True) for name in ("user_id", "arm")]
    matched = pa.table([*columns, *owners], schema=MATCHED).filter(valid)
    return matched, pa.table([*columns, pa.array(reason, pa.string())], schema=UNMATCHED).filter(pc.invert(valid))
