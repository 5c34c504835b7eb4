"""The night's instruction table: read once, through its contract, into the day's work folder.

Which of its rows are good depends on the arms there are and on the cap of texts. Configs that differ in these share the
day's work folder, so the files here carry a digest of both.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from rayrec.contracts.quarantine import counts_by_reason
from rayrec.contracts.schemas import INSTRUCTION
from rayrec.hashing import digest
from rayrec.instructions.table import read_instructions
from rayrec.pipeline.day import Day

OF_INSTRUCTIONS = "instruction: "  # begins the reasons of its rows, which are no part of the interactions' share


@dataclass(frozen=True)
class InstructionCounts:
    rows: dict[str, int]  # rows read, by input path
    quarantined: dict[str, int]  # rows by reason, which OF_INSTRUCTIONS begins


def ingest_instructions(day: Day) -> InstructionCounts:
    """Read the table, or find it read. Raises DataError; QuarantineError where too many rows broke the contract."""
    if day.config.data.instructions is None:
        return InstructionCounts({}, {})
    counts_path = f"{_path(day)}.json"
    if not day.storage.exists(counts_path):
        arms, max_chars = tuple(day.config.arms.variants), day.config.instruction.max_chars
        read = read_instructions(day.config.data, day.instruction_files, arms, max_chars)
        instructions, quarantine = _remembered(day, read.instructions), _remembered(day, read.quarantine)
        if quarantine.num_rows:
            _write(day, f"{day.quarantine}/instructions-{_key(day)}.parquet", quarantine)
        _write(day, f"{_path(day)}.parquet", instructions)
        by_reason = {f"{OF_INSTRUCTIONS}{reason}": n for reason, n in counts_by_reason(quarantine).items()}
        day.storage.write(counts_path, json.dumps(asdict(InstructionCounts(read.rows, by_reason))).encode())
    return InstructionCounts(**json.loads(day.storage.read(counts_path)))


def instruction_table(day: Day) -> pa.Table:
    """INSTRUCTION of the night, once `ingest_instructions` has run; empty where the config names none."""
    if day.config.data.instructions is None:
        return INSTRUCTION.empty_table()
    with day.storage.open(f"{_path(day)}.parquet") as file:
        return pq.read_table(file, schema=INSTRUCTION).combine_chunks()


def _remembered(day: Day, table: pa.Table) -> pa.Table:
    """Without the rows of users who asked to be forgotten."""
    return table.filter(pa.array(~day.forgotten.among(table["user_id"])))


def _write(day: Day, path: str, table: pa.Table) -> None:
    with day.storage.writer(path) as file:
        pq.write_table(table, file, compression="zstd")


def _path(day: Day) -> str:
    return f"{day.work}/instructions-{_key(day)}"


def _key(day: Day) -> str:
    return digest([list(day.config.arms.variants), day.config.instruction.max_chars])
