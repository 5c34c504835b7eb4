"""Tables that a published run leaves beside its slates: its catalogue and its denoising decisions."""

from __future__ import annotations

import pyarrow as pa

from rayrec.data.schemas import DENOISED_HISTORY, ITEM
from rayrec.errors import MissingFileError
from rayrec.publishing.records import Manifest
from rayrec.storage import Storage, layout
from rayrec.storage.tables import read_arrow, read_parquet


def read_catalogue(storage: Storage, manifest: Manifest) -> pa.Table:
    """The run's ITEM table. Raises MissingFileError."""
    return read_parquet(storage, layout.run_catalogue_path(manifest.dt, manifest.run_id), ITEM)


def read_denoised(storage: Storage, manifest: Manifest, shard: int) -> pa.Table:
    """One shard's DENOISED_HISTORY table; empty for a shard without users. Raises MissingFileError."""
    try:
        return read_arrow(storage, layout.denoising_decisions_path(manifest.dt, manifest.run_id, shard))
    except MissingFileError:
        if any(file.shard == shard for file in manifest.files):
            raise
        return DENOISED_HISTORY.empty_table()
