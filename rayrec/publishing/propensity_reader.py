"""What other arms would have made of a published day's slates: runs/dt=D/<run id>/targets/shard=0007.arrow (COUNTERFACTUAL_PROPENSITY)."""

from __future__ import annotations

import pyarrow as pa

from rayrec.data.schemas import COUNTERFACTUAL_PROPENSITY
from rayrec.errors import MissingFileError
from rayrec.publishing.records import Manifest
from rayrec.storage import Storage, layout


def read_counterfactual_propensities(storage: Storage, manifest: Manifest, shard: int) -> pa.Table:
    """One shard's COUNTERFACTUAL_PROPENSITY rows; none where no arm left anything to chance, or there was only one."""
    try:
        data = storage.read(layout.counterfactual_propensities_path(manifest.dt, manifest.run_id, shard))
    except MissingFileError:
        return COUNTERFACTUAL_PROPENSITY.empty_table()
    with pa.ipc.open_file(data) as reader:
        return reader.read_all()
