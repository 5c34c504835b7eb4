"""What other arms would have made of a published day's slates: runs/dt=D/<run id>/targets/shard=0007.arrow (TARGET)."""

from __future__ import annotations

import pyarrow as pa

from rayrec.contracts.schemas import TARGET
from rayrec.errors import MissingFileError
from rayrec.publishing import layout
from rayrec.publishing.records import Manifest
from rayrec.storage import Storage


def read_targets(storage: Storage, manifest: Manifest, shard: int) -> pa.Table:
    """One shard's TARGET rows; none where no arm left anything to chance, or there was only one."""
    try:
        data = storage.read(layout.targets_path(manifest.dt, manifest.run_id, shard))
    except MissingFileError:
        return TARGET.empty_table()
    with pa.ipc.open_file(data) as reader:
        return reader.read_all()
