"""Interactions after the date, within the horizon, validated by the same data contract as the run's input."""

from __future__ import annotations

from datetime import date, timedelta

import pyarrow as pa

from rayrec.config import Config
from rayrec.data.file_reader import read_fragment
from rayrec.data.input_files import list_window_files, make_splits
from rayrec.data.interaction_contract import InteractionContract
from rayrec.data.schemas import TS
from rayrec.errors import DataError
from rayrec.storage import Storage

OUTCOME = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("ts", TS, nullable=False),
        pa.field("event", pa.int8(), nullable=False),  # index into the names of `data.events`
    ]
)


def outcomes(config: Config, day: date, horizon_days: int) -> pa.Table:
    """Read OUTCOME rows of [day, day + horizon_days); rows that violate the data contract are dropped, as in the run.

    Raises DataError without interactions in the horizon.
    """
    end = day + timedelta(days=horizon_days)
    data = config.data.model_copy(update={"window_days": horizon_days})
    storage = Storage(data.root)
    no_interactions = DataError(
        f"there are no interactions from {day} to {end - timedelta(days=1)} to evaluate the slates on",
        where=storage.url(data.interactions.path),
        hint="choose a --date at least --horizon-days before the end of the data",
    )
    contract = InteractionContract(data, end)
    tables = [OUTCOME.empty_table()]
    try:
        files = list_window_files(data, end).files
    except DataError as error:
        raise no_interactions if error.what.startswith("no interactions") else error from None
    for split in make_splits(storage, files, data.split_bytes):
        for fragment in split.fragments:
            for batch in read_fragment(storage, fragment, data.interactions, contract.columns, contract.needed):
                rows = contract.check(batch, fragment.file, storage.url(fragment.file.path)).interactions
                accepted = rows.filter(pa.compute.invert(rows["rejected"]))
                tables.append(accepted.select(OUTCOME.names).cast(OUTCOME))
    found = pa.concat_tables(tables)
    if not found.num_rows:
        raise no_interactions
    return found
