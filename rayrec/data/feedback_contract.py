"""The contract of logged feedback: each raw row becomes FEEDBACK or, with a reason, QUARANTINE.

Rows are checked alone, then against the other good rows in (file, row) order. A quarantined row has one reason: the
first check, in code order, that it fails. All raw rows stay in memory until it is known which slates are complete; one
call reads the feedback of one evaluation, which covers days, not a year.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from rayrec.config.data_section import Feedback
from rayrec.data.file_reader import read_fragment
from rayrec.data.input_files import FileFragment, list_files
from rayrec.data.quarantine import check_quarantine, counts_by_reason
from rayrec.data.row_validation import Mask, RowValidation, as_column
from rayrec.data.schemas import FEEDBACK, QUARANTINE
from rayrec.data.text_columns import Text
from rayrec.errors import DataError
from rayrec.storage import Storage

_MAX_RANK = 1000  # the largest slate size
_GREATEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class FeedbackResult:
    """The result of reading feedback: rows = feedback.num_rows + quarantine.num_rows."""

    feedback: pa.Table  # FEEDBACK, in the order of (file, row)
    quarantine: pa.Table  # QUARANTINE
    rows: int
    by_reason: dict[str, int]  # quarantined rows by reason, most first


@dataclass(frozen=True)
class _Rows:
    """One batch under validation; values in the columns [n] are only defined for good rows."""

    checks: RowValidation
    slate: Text
    item: Text
    rank: npt.NDArray[np.int64]
    reward: npt.NDArray[np.float32]
    propensity: npt.NDArray[np.float32]

    def table(self) -> pa.Table:
        """FEEDBACK of the good rows."""
        ids = [self.slate.to_arrow().cast(pa.string()), self.item.to_arrow().cast(pa.string())]
        good = self.checks.good
        arrays = [ids[0].filter(good), self.rank[good].astype(np.int16), ids[1].filter(good)]
        return pa.table([*arrays, self.reward[good], self.propensity[good]], schema=FEEDBACK)


@dataclass(frozen=True)
class FeedbackContract:
    feedback: Feedback

    def check(self, batches: Sequence[RowValidation]) -> tuple[pa.Table, pa.Table]:
        """Validate all batches, in order: FEEDBACK and QUARANTINE. Independent of how the rows are batched."""
        rows = [self._check_row(batch) for batch in batches]
        self._check_ranks(rows)
        self._check_items(rows)
        self._check_slates(rows)
        quarantine = [each.checks.quarantine(each.item.only(np.zeros(len(each.item), bool))) for each in rows]
        return (
            pa.concat_tables([FEEDBACK.empty_table(), *(each.table() for each in rows)]),
            pa.concat_tables([QUARANTINE.empty_table(), *quarantine]),
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """The raw columns to read; all are required."""
        source = self.feedback
        fields = (source.slate_id, source.rank, source.item_id, source.reward, source.propensity)
        return tuple(dict.fromkeys(as_column(field).column for field in fields))

    def _check_row(self, rows: RowValidation) -> _Rows:
        """Check each row alone."""
        source = self.feedback
        slate, item = rows.ids(source.slate_id), rows.ids(source.item_id)
        slate_column, item_column = as_column(source.slate_id).column, as_column(source.item_id).column
        rows.flag(~slate.present, "no_slate", slate_column)
        rows.flag(~item.present, "no_item", item_column)
        rows.reject_invalid_ids(slate, slate_column)
        rows.reject_invalid_ids(item, item_column)
        rank, _ = rows.numbers(source.rank)
        whole = (rank >= 1) & (rank <= _MAX_RANK) & (rank == np.floor(rank))  # false for NaN
        rows.flag(~whole, "bad_rank", as_column(source.rank).column)
        reward, _ = rows.numbers(source.reward)
        finite = np.abs(reward) <= _GREATEST
        rows.flag(~finite, "bad_reward", as_column(source.reward).column)
        propensity, _ = rows.numbers(source.propensity)
        # A propensity that float32 rounds to 0 would be a zero divisor later.
        possible = (propensity <= 1) & (np.where(propensity <= 1, propensity, 0).astype(np.float32) > 0)
        rows.flag(~possible, "bad_propensity", as_column(source.propensity).column)
        return _Rows(
            rows,
            slate,
            item,
            np.where(whole, rank, 0).astype(np.int64),
            np.where(finite, reward, 0).astype(np.float32),
            np.where(possible, propensity, 1).astype(np.float32),
        )

    def _check_ranks(self, rows: Sequence[_Rows]) -> None:
        """Flag all but the first row of each (slate, rank)."""
        good = _good(rows)
        again = good[["slate", "rank"]].duplicated().to_numpy()
        _flag(rows, again, "duplicate_rank", as_column(self.feedback.rank).column)

    def _check_items(self, rows: Sequence[_Rows]) -> None:
        again = _good(rows)[["slate", "item"]].duplicated().to_numpy()
        _flag(rows, again, "duplicate_item", as_column(self.feedback.item_id).column)

    def _check_slates(self, rows: Sequence[_Rows]) -> None:
        """Flag slates with gaps: distinct ranks are 1..m exactly if the highest equals their number."""
        ranks = _good(rows).groupby("slate", sort=False)["rank"]
        holes = (ranks.transform("max") != ranks.transform("size")).to_numpy()
        _flag(rows, holes, "incomplete_slate", as_column(self.feedback.slate_id).column)


def read_feedback(feedback: Feedback, data_root: str) -> FeedbackResult:
    """Read all feedback. Raises DataError if there are no files or rows, or a file cannot be read; QuarantineError if
    more than `feedback.max_quarantine_share` of the rows break the contract."""
    root, root_key = (data_root, "data.root") if feedback.root is None else (feedback.root, "feedback.root")
    contract, storage = FeedbackContract(feedback), Storage(root)
    batches = [
        RowValidation(batch, file.path, storage.url(file.path))
        for file in list_files(root, feedback, "feedback", root_key)
        for batch in read_fragment(storage, FileFragment(file), feedback, contract.columns, contract.columns)
    ]
    table, quarantine = contract.check(batches)
    read = FeedbackResult(table, quarantine, table.num_rows + quarantine.num_rows, counts_by_reason(quarantine))
    where = storage.url(feedback.path)
    if not read.rows:
        raise DataError("there is no feedback: its files hold no rows", where=where, hint="correct feedback.path")
    hint = "correct the feedback or its section in the config, or raise feedback.max_quarantine_share"
    check_quarantine(quarantine, read.rows, feedback.max_quarantine_share, "rows of feedback", where, hint)
    return read


def _good(rows: Sequence[_Rows]) -> pd.DataFrame:
    """Slate code, item code and rank of the good rows of all batches, in order."""
    tables = [FEEDBACK.empty_table(), *(each.table() for each in rows)]
    table = pa.concat_tables(tables).select(["slate_id", "item_id", "rank"])
    slate, item = (
        table[name].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
        for name in ("slate_id", "item_id")
    )
    return pd.DataFrame({"slate": slate, "item": item, "rank": table["rank"].to_numpy()})


def _flag(rows: Sequence[_Rows], against: Mask, reason: str, column: str) -> None:
    """Flag rows; `against` is aligned with `_good`."""
    start = 0
    for each in rows:
        good = each.checks.good
        mine = np.zeros(len(good), bool)
        mine[good] = against[start : start + int(good.sum())]
        start += int(good.sum())
        each.checks.flag(mine, reason, column)
