"""Ingests the instruction table: validates it and writes it to the run's work folder.

Which rows are valid depends on the arms and on `instruction.max_chars`. Configs that differ in these share the work
folder, so file names carry a digest of both.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import pyarrow as pa

from rayrec.data.quarantine import counts_by_reason, without_contents
from rayrec.data.schemas import INSTRUCTION
from rayrec.instructions.instruction_table import read_instructions
from rayrec.numerics.hashing import digest
from rayrec.pipeline.run_context import RunContext
from rayrec.storage import layout
from rayrec.storage.tables import read_parquet, write_parquet

INSTRUCTION_REASON_PREFIX = "instruction: "  # of reasons that do not count in data.max_quarantine_share


@dataclass(frozen=True)
class InstructionCounts:
    rows: dict[str, int]  # rows read, by input path
    quarantined: dict[str, int]  # rows by reason, with INSTRUCTION_REASON_PREFIX


def ingest_instructions(context: RunContext) -> InstructionCounts:
    """Read and validate the table, once. Raises DataError; QuarantineError for too many invalid rows."""
    if context.config.data.instructions is None:
        return InstructionCounts({}, {})
    counts_path = layout.instruction_counts_path(context.work_folder, instruction_key(context))
    if not context.storage.exists(counts_path):
        arms, max_chars = tuple(context.config.arms.variants), context.config.instruction.max_chars
        read = read_instructions(context.config.data, context.instruction_files, arms, max_chars)
        instructions, quarantine = (
            _without_erased(context, read.instructions),
            _without_erased(context, read.quarantine),
        )
        if quarantine.num_rows:
            quarantine_path = layout.quarantined_instructions_path(context.quarantine, instruction_key(context))
            rows, _ = without_contents(quarantine, context.erasure_list)
            write_parquet(context.storage, quarantine_path, rows)
        write_parquet(context.storage, _path(context), instructions)
        by_reason = {f"{INSTRUCTION_REASON_PREFIX}{reason}": n for reason, n in counts_by_reason(quarantine).items()}
        context.storage.write(counts_path, json.dumps(asdict(InstructionCounts(read.rows, by_reason))).encode())
    return InstructionCounts(**json.loads(context.storage.read(counts_path)))


def instruction_table(context: RunContext) -> pa.Table:
    """The INSTRUCTION table, after `ingest_instructions`; empty if the config names none."""
    if context.config.data.instructions is None:
        return INSTRUCTION.empty_table()
    return read_parquet(context.storage, _path(context), INSTRUCTION).combine_chunks()


def _without_erased(context: RunContext, table: pa.Table) -> pa.Table:
    """Drop the rows of users on the erasure list."""
    return table.filter(pa.array(~context.erasure_list.contains(table["user_id"])))


def _path(context: RunContext) -> str:
    return layout.instructions_path(context.work_folder, instruction_key(context))


def instruction_key(context: RunContext) -> str:
    """Digest of the settings that decide which rows are valid and what their texts are."""
    return digest([list(context.config.arms.variants), context.config.instruction.max_chars])
