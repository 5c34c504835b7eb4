"""The contract of logged feedback: raw rows become FEEDBACK or, with a reason, QUARANTINE.

Rows are checked alone, then against the other good rows in (file, row) order. A quarantined row has one reason: the
first check, in code order, that it fails. Good rows of one item in one showing are then merged, so a log may repeat
rows, and may hold an impression and its clicks in rows of their own. All raw rows stay in memory until then; one call
reads the feedback of one evaluation, which covers days, not a year.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from rayrec.config import Timestamp
from rayrec.config.data_section import Feedback
from rayrec.data.file_reader import read_fragment
from rayrec.data.input_files import FileFragment, InputFile, list_files
from rayrec.data.quarantine import check_quarantine, counts_by_reason
from rayrec.data.row_validation import Mask, RowValidation, as_column, read_times
from rayrec.data.schemas import FEEDBACK, QUARANTINE
from rayrec.data.text_columns import Text
from rayrec.errors import DataError
from rayrec.storage import Storage

_MAX_RANK = 1000  # the largest slate size
_GREATEST = float(np.finfo(np.float32).max)
_HOUR = 3_600_000_000  # microseconds
_SHOWING = ["slate_id", "impression_id"]
_ITEM = [*_SHOWING, "item_id"]
_NUMBERS = ["rank", "reward", "propensity", "event", "time"]


@dataclass(frozen=True)
class FeedbackResult:
    """The result of reading feedback: every row is merged into `feedback`, quarantined, repeated or late."""

    feedback: pa.Table  # FEEDBACK, in the order in which (slate, impression, item) first appear
    quarantine: pa.Table  # QUARANTINE
    rows: int
    by_reason: dict[str, int]  # quarantined rows by reason, most first
    unused: dict[str, int] = field(default_factory=dict)  # valid rows that do not count, by reason


@dataclass(frozen=True)
class _Rows:
    """One batch under validation; values in the columns [n] are only defined for good rows."""

    checks: RowValidation
    slate: Text
    impression: Text | None
    item: Text
    rank: npt.NDArray[np.int64]  # 0: not logged
    reward: npt.NDArray[np.float64]
    propensity: npt.NDArray[np.float64]  # NaN: not logged
    event: npt.NDArray[np.int16]
    time: npt.NDArray[np.int64]

    def frame(self) -> pd.DataFrame:
        """The good rows."""
        good = self.checks.good
        blank = np.full(int(good.sum()), "", object)
        columns = {
            "slate_id": _texts(self.slate, good),
            "impression_id": blank if self.impression is None else _texts(self.impression, good),
            "item_id": _texts(self.item, good),
        }
        numbers = {name: getattr(self, name)[good] for name in _NUMBERS}
        return pd.DataFrame({**columns, **numbers})


@dataclass(frozen=True)
class FeedbackContract:
    feedback: Feedback
    before: int | None = None  # microseconds UTC: rows at or after it do not count, where the log has times

    def check(self, batches: Sequence[RowValidation]) -> tuple[pa.Table, pa.Table, dict[str, int]]:
        """Validate all batches, in order: FEEDBACK, QUARANTINE, and the valid rows that do not count, by reason.

        Independent of how the rows are batched.
        """
        rows = [self._check_row(batch) for batch in batches]
        self._check_ranks(rows)
        quarantine = [each.checks.quarantine(each.item.only(np.zeros(len(each.item), bool))) for each in rows]
        merged, unused = self._merged(_good(rows))
        return merged, pa.concat_tables([QUARANTINE.empty_table(), *quarantine]), unused

    @property
    def columns(self) -> tuple[str, ...]:
        """The raw columns to read; all are required."""
        source = self.feedback
        reward = source.reward if source.event is None else source.event
        fields = (source.slate_id, source.impression_id, source.rank, source.item_id, reward, source.propensity)
        names = [as_column(each).column for each in fields if each is not None]
        return tuple(dict.fromkeys([*names, *(() if self._time is None else (self._time.column,))]))

    @property
    def _time(self) -> Timestamp | None:
        time = self.feedback.time
        return Timestamp(column=time) if isinstance(time, str) else time

    def _check_row(self, rows: RowValidation) -> _Rows:
        """Check each row alone."""
        source = self.feedback
        slate, item = rows.ids(source.slate_id), rows.ids(source.item_id)
        slate_column, item_column = as_column(source.slate_id).column, as_column(source.item_id).column
        rows.flag(~slate.present, "no_slate", slate_column)
        rows.flag(~item.present, "no_item", item_column)
        rows.reject_invalid_ids(slate, slate_column)
        rows.reject_invalid_ids(item, item_column)
        impression = None
        if source.impression_id is not None:
            impression, column = rows.ids(source.impression_id), as_column(source.impression_id).column
            rows.flag(~impression.present, "no_impression", column)
            rows.reject_invalid_ids(impression, column)
        rank = self._ranks(rows)
        reward, event = self._rewards(rows)
        return _Rows(rows, slate, impression, item, rank, reward, self._propensities(rows), event, self._times(rows))

    def _ranks(self, rows: RowValidation) -> npt.NDArray[np.int64]:
        source = self.feedback.rank
        if source is None:
            return np.zeros(len(rows.reason), np.int64)
        rank, wrong = rows.numbers(source)
        missing = np.isnan(rank) & ~wrong
        whole = (rank >= 1) & (rank <= _MAX_RANK) & (rank == np.floor(rank))  # false for NaN
        rows.flag(~whole & ~missing, "bad_rank", as_column(source).column)
        return np.where(whole, rank, 0).astype(np.int64)

    def _rewards(self, rows: RowValidation) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int16]]:
        """Rewards [n], and the event type of each row as an index into `rewards` (0 without types)."""
        source = self.feedback
        if source.event is None:
            reward, _ = rows.numbers(source.reward)
            finite = np.abs(reward) <= _GREATEST
            rows.flag(~finite, "bad_reward", as_column(source.reward).column)
            return np.where(finite, reward, 0), np.zeros(len(reward), np.int16)
        names, text = list(source.rewards), rows.text(source.event)
        codes = np.array([names.index(v) if v in names else -1 for v in text.values.to_pylist()], np.int16)
        event = text.look_up(codes, -1).astype(np.int16)
        rows.flag(event < 0, "unknown_event", as_column(source.event).column)
        return np.array([*source.rewards.values(), 0.0])[event], event

    def _propensities(self, rows: RowValidation) -> npt.NDArray[np.float64]:
        source = self.feedback.propensity
        if source is None:
            return np.full(len(rows.reason), np.nan)
        propensity, wrong = rows.numbers(source)
        missing = np.isnan(propensity) & ~wrong
        # A propensity that float32 rounds to 0 would be a zero divisor later.
        possible = (propensity <= 1) & (np.where(propensity <= 1, propensity, 0).astype(np.float32) > 0)
        rows.flag(~possible & ~missing, "bad_propensity", as_column(source).column)
        return np.where(possible, propensity, np.nan)

    def _times(self, rows: RowValidation) -> npt.NDArray[np.int64]:
        time = self._time
        if time is None:
            return np.zeros(len(rows.reason), np.int64)
        micros, timed = read_times(rows.batch.table[time.column], time, self.feedback.path, "see feedback.time")
        rows.flag(~timed, "bad_time", time.column)
        return np.where(timed, micros, 0)

    def _check_ranks(self, rows: Sequence[_Rows]) -> None:
        """Flag rows with another rank of an item, and with another item at a rank, than the showing's first row."""
        source = self.feedback.rank
        if source is None:
            return
        good = _good(rows)
        known = good["rank"].where(good["rank"] > 0)
        first = known.groupby([good[name] for name in _ITEM], sort=False).transform("first")
        _flag(rows, (known.notna() & (known != first)).to_numpy(), "duplicate_item", as_column(source).column)
        good = _good(rows)
        ranked = good[good["rank"] > 0]
        first_item = ranked.groupby([*_SHOWING, "rank"], sort=False)["item_id"].transform("first")
        against = np.zeros(len(good), bool)
        against[ranked.index[(ranked["item_id"] != first_item).to_numpy()]] = True
        _flag(rows, against, "duplicate_rank", as_column(source).column)

    def _merged(self, good: pd.DataFrame) -> tuple[pa.Table, dict[str, int]]:
        """FEEDBACK of the good rows, and the rows that do not count."""
        repeated = good.duplicated().to_numpy()
        late = np.zeros(len(good), bool)
        if self.feedback.attribution_hours is not None and len(good):
            shown = good.groupby(_SHOWING, sort=False)["time"].transform("min")
            late = (good["time"] > shown + self.feedback.attribution_hours * _HOUR).to_numpy() & ~repeated
        future = np.zeros(len(good), bool)
        if self.before is not None and self._time is not None:
            future = (good["time"] >= self.before).to_numpy(bool) & ~repeated & ~late
        groups = good[~repeated & ~late & ~future].groupby(_ITEM, sort=False)
        merged = groups.agg({"rank": "max", "reward": "sum", "propensity": "first"}).reset_index()
        columns = [pa.array(merged[f.name], f.type, from_pandas=True) for f in FEEDBACK]
        unused = {"repeated": repeated, "late": late, "after the date": future}
        counts = {reason: int(rows.sum()) for reason, rows in unused.items()}
        return pa.table(columns, schema=FEEDBACK), {reason: count for reason, count in counts.items() if count}


def feedback_files(feedback: Feedback, data_root: str) -> tuple[Storage, tuple[InputFile, ...]]:
    """Where the log lies, and its files, sorted by path. Raises DataError if there are none."""
    root, root_key = (data_root, "data.root") if feedback.root is None else (feedback.root, "feedback.root")
    return Storage(root), list_files(root, feedback, "feedback", root_key)


def read_feedback(
    feedback: Feedback, data_root: str, files: Sequence[InputFile] | None = None, before: int | None = None
) -> FeedbackResult:
    """Read all feedback, or that of some `files`; `before`: see FeedbackContract. Raises DataError if there are no
    files or rows, or a file cannot be read; QuarantineError if more than `feedback.max_quarantine_share` of the rows
    break the contract."""
    storage, every = feedback_files(feedback, data_root)
    contract = FeedbackContract(feedback, before)
    batches = [
        RowValidation(batch, file.path, storage.url(file.path))
        for file in (every if files is None else files)
        for batch in read_fragment(storage, FileFragment(file), feedback, contract.columns, contract.columns)
    ]
    table, quarantine, unused = contract.check(batches)
    rows = sum(batch.batch.table.num_rows for batch in batches)
    rows += quarantine.num_rows - sum(int(np.count_nonzero(~batch.good)) for batch in batches)  # malformed rows
    where = storage.url(feedback.path)
    if not rows:
        raise DataError("there is no feedback: its files hold no rows", where=where, hint="correct feedback.path")
    hint = "correct the feedback or its section in the config, or raise feedback.max_quarantine_share"
    check_quarantine(quarantine, rows, feedback.max_quarantine_share, "rows of feedback", where, hint)
    return FeedbackResult(table, quarantine, rows, counts_by_reason(quarantine), unused)


def _texts(text: Text, good: Mask) -> npt.NDArray[np.object_]:
    found: npt.NDArray[np.object_] = text.to_arrow().cast(pa.string()).filter(pa.array(good)).to_numpy(False)
    return found


def _good(rows: Sequence[_Rows]) -> pd.DataFrame:
    """The good rows of all batches, in order."""
    frames = [each.frame() for each in rows]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*_ITEM, *_NUMBERS])


def _flag(rows: Sequence[_Rows], against: Mask, reason: str, column: str) -> None:
    """Flag rows; `against` is aligned with `_good`."""
    start = 0
    for each in rows:
        good = each.checks.good
        mine = np.zeros(len(good), bool)
        mine[good] = against[start : start + int(good.sum())]
        start += int(good.sum())
        each.checks.flag(mine, reason, column)
