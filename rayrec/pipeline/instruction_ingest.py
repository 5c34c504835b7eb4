"""The night's instruction table: read once, through its contract, into the day's work folder.

Which of its rows are good depends on the arms there are and on the cap of texts. Configs that differ in these share the
day's work folder, so the files here carry a digest of both.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import pyarrow as pa

from rayrec.data.quarantine import counts_by_reason
from rayrec.data.schemas import INSTRUCTION
from rayrec.instructions.instruction_table import read_instructions
from rayrec.numerics.hashing import digest
from rayrec.pipeline.run_context import RunContext
from rayrec.storage import layout
from rayrec.storage.tables import read_parquet, write_parquet

INSTRUCTION_REASON_PREFIX = (
    "instruction: "  # begins the reasons of its rows, which are no part of the interactions' share
)


@dataclass(frozen=True)
class InstructionCounts:
    rows: dict[str, int]  # rows read, by input path
    quarantined: dict[str, int]  # rows by reason, which INSTRUCTION_REASON_PREFIX begins


def ingest_instructions(context: RunContext) -> InstructionCounts:
    """Read the table, or find it read. Raises DataError; QuarantineError where too many rows broke the contract."""
    if context.config.data.instructions is None:
        return InstructionCounts({}, {})
    counts_path = layout.instruction_counts_path(context.work_folder, _key(context))
    if not context.storage.exists(counts_path):
        arms, max_chars = tuple(context.config.arms.variants), context.config.instruction.max_chars
        read = read_instructions(context.config.data, context.instruction_files, arms, max_chars)
        instructions, quarantine = _remembered(context, read.instructions), _remembered(context, read.quarantine)
        if quarantine.num_rows:
            quarantine_path = layout.quarantined_instructions_path(context.quarantine, _key(context))
            write_parquet(context.storage, quarantine_path, quarantine)
        write_parquet(context.storage, _path(context), instructions)
        by_reason = {f"{INSTRUCTION_REASON_PREFIX}{reason}": n for reason, n in counts_by_reason(quarantine).items()}
        context.storage.write(counts_path, json.dumps(asdict(InstructionCounts(read.rows, by_reason))).encode())
    return InstructionCounts(**json.loads(context.storage.read(counts_path)))


def instruction_table(context: RunContext) -> pa.Table:
    """INSTRUCTION of the night, once `ingest_instructions` has run; empty where the config names none."""
    if context.config.data.instructions is None:
        return INSTRUCTION.empty_table()
    return read_parquet(context.storage, _path(context), INSTRUCTION).combine_chunks()


def _remembered(context: RunContext, table: pa.Table) -> pa.Table:
    """Without the rows of users on the erasure list."""
    return table.filter(pa.array(~context.erasure_list.contains(table["user_id"])))


def _path(context: RunContext) -> str:
    return layout.instructions_path(context.work_folder, _key(context))


def _key(context: RunContext) -> str:
    return digest([list(context.config.arms.variants), context.config.instruction.max_chars])
