"""The night's instruction table: read once, through its contract, into the day's work folder.

Which of its rows are good depends on the arms there are and on the cap of texts. Configs that differ in these share the
day's work folder, so the files here carry a digest of both.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from rayrec.data.quarantine import counts_by_reason
from rayrec.data.schemas import INSTRUCTION
from rayrec.instructions.instruction_table import read_instructions
from rayrec.numerics.hashing import digest
from rayrec.pipeline.run_context import RunContext

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
    counts_path = f"{_path(context)}.json"
    if not context.storage.exists(counts_path):
        arms, max_chars = tuple(context.config.arms.variants), context.config.instruction.max_chars
        read = read_instructions(context.config.data, context.instruction_files, arms, max_chars)
        instructions, quarantine = _remembered(context, read.instructions), _remembered(context, read.quarantine)
        if quarantine.num_rows:
            _write(context, f"{context.quarantine}/instructions-{_key(context)}.parquet", quarantine)
        _write(context, f"{_path(context)}.parquet", instructions)
        by_reason = {f"{INSTRUCTION_REASON_PREFIX}{reason}": n for reason, n in counts_by_reason(quarantine).items()}
        context.storage.write(counts_path, json.dumps(asdict(InstructionCounts(read.rows, by_reason))).encode())
    return InstructionCounts(**json.loads(context.storage.read(counts_path)))


def instruction_table(context: RunContext) -> pa.Table:
    """INSTRUCTION of the night, once `ingest_instructions` has run; empty where the config names none."""
    if context.config.data.instructions is None:
        return INSTRUCTION.empty_table()
    with context.storage.open(f"{_path(context)}.parquet") as file:
        return pq.read_table(file, schema=INSTRUCTION).combine_chunks()


def _remembered(context: RunContext, table: pa.Table) -> pa.Table:
    """Without the rows of users who asked to be forgotten."""
    return table.filter(pa.array(~context.erasure_list.contains(table["user_id"])))


def _write(context: RunContext, path: str, table: pa.Table) -> None:
    with context.storage.writer(path) as file:
        pq.write_table(table, file, compression="zstd")


def _path(context: RunContext) -> str:
    return f"{context.work_folder}/instructions-{_key(context)}"


def _key(context: RunContext) -> str:
    return digest([list(context.config.arms.variants), context.config.instruction.max_chars])
