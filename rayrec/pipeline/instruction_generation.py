"""Generates user profile texts from histories, by rules or with an LLM that reads titles, and attributes of items from
their titles: `jobs.teach`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from rayrec.config import Resources
from rayrec.config.vllm_arguments import check_vllm_arguments
from rayrec.data.schemas import ALL_USERS, INSTRUCTION
from rayrec.errors import ConfigError
from rayrec.instructions.attribute_extraction import AttributeExtractor, AttributeSchema, item_table
from rayrec.instructions.teachers.instruction_simulator import InstructionSimulator
from rayrec.instructions.teachers.llm_teacher import LlmTeacher
from rayrec.numerics.hashing import derive_seed
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.threads import with_thread_limit
from rayrec.pipeline.interaction_ingest import histories
from rayrec.pipeline.placement import engines
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.worker_cache import worker_cache
from rayrec.ray_support.cluster import gather, placeable_cpus
from rayrec.reranking.engines.engine import EngineSettings
from rayrec.reranking.engines.vllm_runner import VllmRunner
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint
from rayrec.storage import Storage
from rayrec.storage_url import check_url
from rayrec.text_encoding.sentence_encoder import SentenceEncoder

ProfileGenerator = Callable[[list[str], Ragged], list[str | None]]  # user ids, their items -> one text per user


@dataclass(frozen=True)
class OutputTable:
    """An output parquet file, written atomically."""

    storage: Storage
    name: str

    @classmethod
    def at(cls, table: str) -> OutputTable:
        """Parse a path or fsspec URL. Raises ConfigError for a folder, StorageError if it is not writable."""
        check_url(table, "--table")
        folder, slash, name = table.rpartition("/")
        target = cls(Storage(folder or slash or "."), name)
        if not name or (target.storage.is_local and os.path.isdir(target.storage.url(name))):
            raise ConfigError("the table must be a file, but this is a folder", where=table, hint="add a file name")
        target.storage.require_writable()
        return target

    def write(self, table: pa.Table) -> None:
        with self.storage.writer(self.name) as file:
            pq.write_table(table, file)

    def __str__(self) -> str:
        return self.storage.url(self.name)


@dataclass(frozen=True)
class TeachResult:
    table: pa.Table  # INSTRUCTION
    counts: Mapping[str, int]  # of LlmTeacher; empty by rules


def llm_teacher(context: RunContext, checkpoint: str) -> LlmTeacher:
    """An LLM teacher with the resources of a scoring LLM. Raises ConfigError."""
    settings = generator_settings(context.config.resources)
    check_vllm_arguments(settings.vllm)
    return LlmTeacher(checkpoint, context.storage, partial(_start_generator, settings))


def generator_settings(resources: Resources) -> EngineSettings:
    return EngineSettings(
        device=resources.engine_device,
        threads=resources.rerank_threads,
        gpu_share=min(resources.rerank_num_gpus or 1.0, 1.0),
        vllm=resources.vllm,
    )


def _start_generator(settings: EngineSettings, checkpoint: Path, max_prompt_tokens: int, new_tokens: int) -> VllmRunner:
    model = replace(InstructCheckpoint.open(str(checkpoint)).model_files, dtype="auto")
    return VllmRunner(model, "json", settings, max_prompt_tokens, new_tokens)


def generate_profiles(context: RunContext, teacher: LlmTeacher | None) -> TeachResult:
    """A profile text for each user with enough evidence, by the teacher or, without one, by rules. Requires ingested
    data.

    Runs as one task with the resources of one text scorer. If its node dies, another resumes from the cached answers.
    """
    resources = context.config.resources
    placed = engines(resources) if teacher else None
    cpus, gpus = (1.0, 0.0) if placed is None else (placed.engine_cpus, placed.engine_gpus)
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=3)(_generate_profiles)
    result: TeachResult = gather([task.remote(context, teacher)], "teach")[0]
    return result


def _generate_profiles(context: RunContext, teacher: LlmTeacher | None) -> TeachResult:
    generate = llm_profiles(context, teacher) if teacher else rule_profiles(context)
    table = pa.concat_tables([INSTRUCTION.empty_table(), *preferences(context, generate)])
    return TeachResult(table, dict(teacher.counts) if teacher else {})


def preferences(context: RunContext, generate: ProfileGenerator) -> Iterator[pa.Table]:
    """INSTRUCTION table of each shard with the profile texts; never a row for all users. Requires ingested data."""
    for shard in range(context.config.data.shard_count):
        table = histories(context, shard)
        item = Ragged.from_arrow(table["item"])
        weight = np.asarray(context.event_weights, np.float32)[Ragged.from_arrow(table["event"]).values]
        users = table["user_id"].to_pylist()
        texts = generate(users, item.filter(weight > 0))
        rows = [(user, text) for user, text in zip(users, texts, strict=True) if text and user != ALL_USERS]
        columns = [
            pa.array([user for user, _ in rows], pa.string()),
            pa.nulls(len(rows), pa.string()),
            pa.array([text for _, text in rows], pa.string()),
            pa.nulls(len(rows), pa.string()),
        ]
        yield pa.table(columns, schema=INSTRUCTION)


def extract_attributes(context: RunContext, schema: AttributeSchema) -> tuple[pa.Table, dict[str, int]]:
    """The catalogue as a table for `data.items`, with the attributes found in titles; and how many items have each.

    Requires ingested data. Runs as one task on one CPU.
    """
    task = ray.remote(num_cpus=placeable_cpus(1), max_retries=3)(with_thread_limit(1, _extract_attributes))
    found: list[tuple[pa.Table, dict[str, int]]] = gather([task.remote(context, schema)], "teach")
    return found[0]


def _extract_attributes(context: RunContext, schema: AttributeSchema) -> tuple[pa.Table, dict[str, int]]:
    catalogue, name = worker_cache(context).catalogue, context.config.instruction.encoder
    encoder = None if name is None else SentenceEncoder.open(name)
    found = AttributeExtractor(schema, encoder).extract(catalogue["title"].to_pylist())
    return item_table(catalogue, found), {name: sum(map(bool, rows)) for name, rows in found.items()}


def rule_profiles(context: RunContext) -> ProfileGenerator:
    """Generate profiles, per user, from facets that are more frequent in a history than in the catalogue."""
    teacher = InstructionSimulator(worker_cache(context).facets)

    def generate(users: list[str], item: Ragged) -> list[str | None]:
        rows = zip(users, range(len(users)), strict=True)
        own = [(user, Ragged.from_lengths(item[row].astype(np.int64), [len(item[row])])) for user, row in rows]
        return [
            teacher.profiles(one, np.random.default_rng(derive_seed("teach", user)))[0] or None for user, one in own
        ]

    return generate


def llm_profiles(context: RunContext, teacher: LlmTeacher) -> ProfileGenerator:
    """Generate profiles from titles with the LLM."""
    titles = worker_cache(context).catalogue["title"].to_pylist()

    def generate(users: list[str], item: Ragged) -> list[str | None]:
        return teacher.profiles([[titles[code] for code in item[row]] for row in range(len(item))])

    return generate
