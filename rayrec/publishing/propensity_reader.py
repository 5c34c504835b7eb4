"""Counterfactual propensities of a published day: how other arms would have shown its slates."""

from __future__ import annotations

import pyarrow as pa

from rayrec.data.schemas import COUNTERFACTUAL_PROPENSITY
from rayrec.errors import MissingFileError
from rayrec.publishing.records import Manifest
from rayrec.storage import Storage, layout
from rayrec.storage.tables import read_arrow


def read_counterfactual_propensities(storage: Storage, manifest: Manifest, shard: int) -> pa.Table:
    """One shard's COUNTERFACTUAL_PROPENSITY rows; none where no arm left anything to chance, or there was only one."""
    try:
        return read_arrow(storage, layout.counterfactual_propensities_path(manifest.dt, manifest.run_id, shard))
    except MissingFileError:
        return COUNTERFACTUAL_PROPENSITY.empty_table()
