"""The tables that a run can publish, and the validation of slates before they are written.

Each product has its own folder; all are published by the same rules (rayrec.publishing.publishing_run).
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.schemas import SLATE
from rayrec.errors import PublicationError
from rayrec.numerics.hashing import shard_of
from rayrec.publishing.records import RunRecord
from rayrec.storage import layout

Check = Callable[[pa.Table, RunRecord, str, int], tuple[pa.Table, pa.Array]]


@dataclass(frozen=True)
class PublishedTable:
    """A kind of table published by date, arm and shard. Picklable: `check` is a plain function."""

    name: str  # the folder under the output root
    singular: str  # noun with article for one user's rows in an arm
    arm_key: str  # the name of arms in paths
    sort_columns: tuple[str, ...]  # of the rows of a file
    row_group_rows: int  # small enough to find a user's rows by row-group statistics
    covers_all_users: bool  # every published user is in every arm; else in at least one
    check: Check  # (table, run, arm, shard) -> sorted table, its users; raises PublicationError


def validate_slates(
    table: pa.Table, *, date: datetime.date, arm: str, shard: int, shards: int
) -> tuple[pa.Table, pa.Array]:
    """The slates sorted by (user_id, rank), and their users (string, unique, sorted).

    Raises PublicationError unless: the schema is SLATE; no value is missing; `dt` and `arm` are this run's; every user
    belongs to this shard and has exactly one slate with a slate_id of its own and ranks 1..n; no item occurs twice in a
    slate; scores are finite; propensities lie in (0, 1].
    """
    check = _Check(arm, shard)
    if not table.schema.equals(SLATE):
        check.fail(f"columns are not those of a slate: {_schema_difference(table.schema)}")
    table = _sorted(table.combine_chunks())
    for name in SLATE.names:
        check.rows(table, pc.is_null(table[name]), f"{name} is missing")
    check.rows(table, pc.not_equal(table["dt"], pa.scalar(date)), f"dt is not {date}")
    check.rows(table, pc.not_equal(table["arm"], arm), "arm is another one")
    check.rows(table, pc.invert(pc.is_finite(table["score"])), "the score is not finite")
    propensity = table["propensity"].to_numpy()
    check.rows(table, ~((propensity > 0) & (propensity <= 1)), "the propensity is not in (0, 1]")
    if not table.num_rows:
        return table, pa.array([], pa.string())
    starts = _starts(table["user_id"])
    slate = np.cumsum(starts) - 1  # the slate of each row
    begin = np.flatnonzero(starts)
    check.rows(table, table["rank"].to_numpy() != np.arange(table.num_rows) - begin[slate] + 1, "ranks are not 1..n")
    check.rows(table, _starts(table["slate_id"]) & ~starts, "there are two slates for one user")
    users = table["user_id"].take(begin).combine_chunks()
    check.rows(table, shard_of(users, shards)[slate] != shard, "the user belongs to another shard")
    check.rows(
        table, _repeated(np.zeros(len(begin), np.int64), table["slate_id"].take(begin))[slate], "slate_id is shared"
    )
    check.rows(table, _repeated(slate, table["item_id"]), "an item is in the slate twice")
    return table, users


def _sorted(table: pa.Table) -> pa.Table:
    order = pc.sort_indices(table, sort_keys=[("user_id", "ascending"), ("rank", "ascending")])
    if np.array_equal(order.to_numpy(), np.arange(table.num_rows)):
        return table
    return table.take(order)


def _starts(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Bool [n]: the row differs from the previous one, or is the first."""
    changed = pc.not_equal(column.slice(1), column.slice(0, len(column) - 1)).to_numpy(zero_copy_only=False)
    return np.concatenate([np.ones(1, np.bool_), changed.astype(np.bool_)])


def _repeated(group: npt.NDArray[np.int64], column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Bool [n]: an earlier row has the same group (int64 [n]) and value."""
    codes = pc.dictionary_encode(column).combine_chunks().indices.to_numpy().astype(np.int64)
    keys = group * (codes.max(initial=0) + 1) + codes
    repeated = np.ones(len(keys), np.bool_)
    repeated[np.unique(keys, return_index=True)[1]] = False
    return repeated


def _schema_difference(schema: pa.Schema) -> str:
    expected, got = ([f"{field.name}: {field.type}" for field in fields] for fields in (SLATE, schema))
    wrong = [f"{field} is expected" for field in expected if field not in got]
    wrong += [f"{field} is not" for field in got if field not in expected]
    return ", ".join(wrong) or f"order or nullability differ: {[str(field) for field in schema]}"


class _Check:
    """Raises errors that name the arm, the shard and the first invalid row."""

    def __init__(self, arm: str, shard: int) -> None:
        self._where = f"arm {arm}, shard {shard}"

    def rows(self, table: pa.Table, wrong: pa.ChunkedArray | npt.NDArray[np.bool_], what: str) -> None:
        mask = wrong if isinstance(wrong, np.ndarray) else wrong.fill_null(True).to_numpy()
        if not mask.any():
            return
        row = table.slice(int(mask.argmax()), 1).to_pylist()[0]
        self.fail(f"{what} in {int(mask.sum())} of {len(mask)} rows, first in {row}")

    def fail(self, what: str) -> None:
        raise PublicationError(
            f"an invalid slate was not written: {what}",
            where=self._where,
            hint="this is a bug in the scoring stages; please report it with this message",
        )


def _checked_slates(table: pa.Table, record: RunRecord, arm: str, shard: int) -> tuple[pa.Table, pa.Array]:
    return validate_slates(table, date=record.date, arm=arm, shard=shard, shards=record.shards)


SLATES = PublishedTable(layout.SLATES, "a slate", "arm", ("user_id", "rank"), 1 << 17, False, _checked_slates)
