"""The instruction table: validated user profile texts and requests, and the instruction of a user in an arm.

The text is untrusted. Invalid rows are quarantined with the first of REASONS that applies; valid ones are cleaned
(`text_cleaning`). Users without events are valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import ColumnLike, Data, InstructionSource
from rayrec.data.file_reader import read_fragment
from rayrec.data.input_files import FileFragment, InputFile
from rayrec.data.quarantine import check_quarantine
from rayrec.data.raw_rows import MissingColumns
from rayrec.data.row_validation import Mask, RowValidation, as_column
from rayrec.data.schemas import ALL_USERS, INSTRUCTION, QUARANTINE
from rayrec.data.text_columns import Text, has_undecodable_bytes
from rayrec.instructions.text_cleaning import clean
from rayrec.storage import Storage

REASONS = (
    "malformed_row",
    "no_user",
    "bad_encoding",
    "control_characters",
    "inexact_id",
    "too_long_id",
    "unknown_arm",
    "no_text",
    "illegible_text",
    "duplicate_instruction",
)
"""Reasons for quarantine, in the order of the checks."""

_TEXTS = ("preference", "intention")


@dataclass(frozen=True)
class InstructionReadResult:
    """The validated rows of all files: sum(rows) = instructions.num_rows + quarantine.num_rows."""

    instructions: pa.Table  # INSTRUCTION
    quarantine: pa.Table  # QUARANTINE
    rows: dict[str, int]  # by file


@dataclass(frozen=True)
class InstructionContract:
    """The validation of the table. `arms`: all arm names; `max_chars`: texts are truncated to it."""

    source: InstructionSource
    arms: tuple[str, ...]
    max_chars: int

    @property
    def columns(self) -> tuple[str, ...]:
        """The raw columns to read."""
        fields = (self.source.user_id, self.source.arm, self.source.preference, self.source.intention)
        return tuple(dict.fromkeys(as_column(field).column for field in fields if field is not None))

    def check(self, rows: RowValidation, seen: set[tuple[str, str | None]]) -> tuple[pa.Table, pa.Table]:
        """Validate a batch: INSTRUCTION and QUARANTINE. Rejects the (user, arm) pairs in `seen`, and adds the new
        ones."""
        user, arm = rows.ids(self.source.user_id), self._text(rows, self.source.arm)
        user_column = as_column(self.source.user_id).column
        rows.flag(~user.present, "no_user", user_column)
        usable = rows.reject_invalid_ids(user, user_column)
        if self.source.arm is not None:
            known = pa.array(self.arms, pa.string())
            unknown = arm.where(lambda values: pc.invert(pc.is_in(values, value_set=known)))
            rows.flag(unknown, "unknown_arm", as_column(self.source.arm).column)
        texts = self._clean_texts(rows)
        ids, arms = (text.to_arrow().cast(pa.string()) for text in (user, arm))
        rows.flag(_repeated(ids, arms, rows.good, seen), "duplicate_instruction", user_column)
        table = pa.table([ids, arms, *texts], names=INSTRUCTION.names).filter(pa.array(rows.good))
        return table.cast(INSTRUCTION), rows.quarantine(user.only(usable))

    def _clean_texts(self, rows: RowValidation) -> list[pa.Array]:
        """The cleaned profile texts and requests, string [n] each."""
        fields = [self.source.preference, self.source.intention]
        columns = [as_column(field).column for field in fields if field is not None]
        raw = [self._text(rows, field) for field in fields]
        for field, text in zip(fields, raw, strict=True):
            if field is not None:
                rows.flag(text.where(has_undecodable_bytes), "bad_encoding", as_column(field).column)
        rows.flag(~(raw[0].present | raw[1].present), "no_text", columns[0])
        cleaned = [text.map(self._clean) for text in raw]
        for field, before, after in zip(fields, raw, cleaned, strict=True):
            if field is not None:
                rows.flag(before.present & ~after.present, "illegible_text", as_column(field).column)
        return [text.to_arrow().cast(pa.string()) for text in cleaned]

    def _clean(self, values: pa.Array) -> pa.Array:
        return pa.array([clean(value, self.max_chars) for value in values.to_pylist()], pa.string())

    def _text(self, rows: RowValidation, field: ColumnLike | None) -> Text:
        if field is not None:
            return rows.text(field)
        return Text(np.full(len(rows.reason), -1, np.int32), pa.array([], pa.string()))


def read_instructions(
    data: Data, files: Sequence[InputFile], arms: Sequence[str], max_chars: int
) -> InstructionReadResult:
    """Read and validate the table; of several rows with one (user, arm) the first, by (file, row), is used.

    Raises DataError if a file cannot be read, and QuarantineError if every row, or a larger share than
    `data.instructions.max_quarantine_share`, is invalid.
    """
    good, bad, rows = [INSTRUCTION.empty_table()], [QUARANTINE.empty_table()], {file.path: 0 for file in files}
    seen: set[tuple[str, str | None]] = set()
    source, storage = data.instructions, Storage(data.root)
    if source is None:
        return InstructionReadResult(good[0], bad[0], {})
    contract = InstructionContract(source, tuple(arms), max_chars)
    user_column = as_column(source.user_id).column
    missing = MissingColumns()
    for file in files:
        batches = read_fragment(storage, FileFragment(file), source, contract.columns, [user_column])
        for batch in missing.noted(batches):
            table, rejected = contract.check(RowValidation(batch, file.path, storage.url(file.path)), seen)
            good.append(table)
            bad.append(rejected)
            rows[file.path] += table.num_rows + rejected.num_rows
    missing.check()
    instructions = pa.concat_tables(good).sort_by([("user_id", "ascending"), ("arm", "ascending")]).combine_chunks()
    read = InstructionReadResult(instructions, pa.concat_tables(bad), rows)
    limit, where = source.max_quarantine_share, storage.url(source.path)
    hint = "correct the file or data.instructions, or raise data.instructions.max_quarantine_share"
    check_quarantine(read.quarantine, sum(read.rows.values()), limit, "instructions", where, hint)
    return read


def instructions_for(
    table: pa.Table, user_ids: pa.Array | pa.ChunkedArray, arm: str
) -> tuple[pa.StringArray, pa.StringArray]:
    """Each user's profile text and request in an arm, string [n] each; null if the table has none.

    `table`: INSTRUCTION. Each text comes from the first row that has it: the user's in this arm, the user's in all
    arms, all users' in this arm, all users' in all arms.
    """
    users = user_ids.combine_chunks() if isinstance(user_ids, pa.ChunkedArray) else user_ids
    all_users = pa.array([ALL_USERS], pa.string())
    near = table.filter(pc.is_in(table["user_id"], value_set=pa.concat_arrays([users, all_users])))
    levels = [near.filter(pc.equal(near["arm"], arm)), near.filter(pc.is_null(near["arm"]))]
    profile, request = (
        pc.coalesce(
            *(_texts_of(level, users, text) for level in levels),
            *(_texts_of(level, all_users, text)[0] for level in levels),
        )
        for text in _TEXTS
    )
    return profile, request


def _texts_of(rows: pa.Table, user_ids: pa.Array, text: str) -> pa.StringArray:
    """The text of each user's row, string [n], null if none. `rows` has at most one row per user."""
    with_text = rows.filter(pc.is_valid(rows[text]))
    at = pc.index_in(user_ids, value_set=with_text["user_id"].combine_chunks())
    return with_text[text].combine_chunks().take(at)


def _repeated(users: pa.Array, arms: pa.Array, good: Mask, seen: set[tuple[str, str | None]]) -> Mask:
    """Valid rows [n] whose (user, arm) occurred before."""
    again = np.zeros(len(good), np.bool_)
    at = np.flatnonzero(good)
    pairs = zip(users.take(pa.array(at)).to_pylist(), arms.take(pa.array(at)).to_pylist(), strict=True)
    for row, pair in zip(at, pairs, strict=True):
        again[row] = pair in seen
        seen.add(pair)
    return again
