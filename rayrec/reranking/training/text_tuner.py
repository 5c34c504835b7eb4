"""The tuner of a text reranker's adapter in one worker: read the examples, run the loop, publish the adapter."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from rayrec.config import TextTuning
from rayrec.instructions.templates import Templates
from rayrec.numerics.collectives import Worker
from rayrec.numerics.hashing import derive_seed, hash_strings
from rayrec.reranking.text import tuned_adapter
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint
from rayrec.reranking.text.text_reranker import TextReranker
from rayrec.reranking.text.text_scorer import TEXT_SCORERS, TextScorer, TextScorerSettings
from rayrec.reranking.text.tuned_adapter import AdapterCard
from rayrec.reranking.training import loop_checkpoint
from rayrec.reranking.training.text_examples import PromptsAlone, UserCandidates, user_candidates
from rayrec.reranking.training.text_tuning_loop import TextTuningLoop
from rayrec.storage import Storage, hf_checkpoint, layout, published_folder
from rayrec.storage.checkpoint_source import is_remote, require_same
from rayrec.storage.tables import read_arrow

_LOG = logging.getLogger(__name__)
_WHERE = "rerank.checkpoint"


@dataclass(frozen=True)
class TextTuningSpec:
    """The inputs and the output of a tuning. Plain data: it is sent to the workers.

    `examples`: Arrow files of training examples below `root`: candidates as of `now` (microseconds UTC), and what was
    consumed in [now, until). Only rows of the retrieve `variant` are used.
    """

    root: str  # of the storage
    examples: tuple[str, ...]
    variant: str
    path: str  # of the adapter, below root
    checkpoint: str  # folder, URL or hub id
    method: str
    scorer_settings: TextScorerSettings
    templates: Templates
    texts: tuple[str, ...]  # item texts by code
    default_request: str
    depth: int
    settings: TextTuning
    now: int
    until: int
    digest: str | None = None  # that a remote checkpoint must have; None: any


def tune_adapter_on_worker(
    spec: TextTuningSpec, worker: Worker, report: Callable[[Mapping[str, float], int], None]
) -> None:
    """Run one worker's part; the adapter is then published (by this run, or by a concurrent one).

    `report` receives each row of the loss curve and the planned steps. Raises DataError without training data,
    ConfigError for an unusable checkpoint.
    """
    storage = Storage(spec.root)
    if worker.broadcast_first(published_folder.exists(storage, spec.path)):
        return
    checkpoint = InstructCheckpoint.open(spec.checkpoint)
    if spec.digest is not None and is_remote(spec.checkpoint):
        require_same(spec.checkpoint, checkpoint.digest, spec.digest, _WHERE)
    scorer = prompting_scorer(checkpoint, spec.method, spec.scorer_settings, spec.templates)
    users = training_users(_tables(spec, storage), scorer, spec)
    loop = TextTuningLoop(
        model_with_adapter(str(checkpoint.folder), spec.settings), scorer, users, spec.settings, worker
    )
    _resume(loop, storage, spec, worker)
    loop.run(lambda state: _after_round(state, storage, spec, worker, report))
    if worker.rank == 0:
        card = AdapterCard(
            base=checkpoint.digest,
            method=spec.method,
            scorer_settings=spec.scorer_settings.model_dump(mode="json"),
            templates=spec.templates.digest,
            settings=spec.settings.model_dump(mode="json"),
            users=len(users),
            now=spec.now,
            until=spec.until,
            curve=tuple({k: v for k, v in row.items() if k != "seconds"} for row in loop.progress.curve),
        )
        tuned_adapter.publish(loop.causal, card, storage, spec.path)
        storage.delete(layout.training_checkpoint_path(spec.path))
    worker.broadcast_first(True)  # no worker returns before the adapter is there


def prompting_scorer(
    checkpoint: InstructCheckpoint, method: str, settings: TextScorerSettings, templates: Templates
) -> TextScorer:
    """A scorer that only writes prompts."""
    alone = PromptsAlone(checkpoint.model_files, settings.prompt_tokens)
    return TEXT_SCORERS.lookup(method)(alone, checkpoint, settings, templates)


def model_with_adapter(folder: str, settings: TextTuning) -> Any:
    """The checkpoint with fresh LoRA weights, the same for the same settings."""
    torch.manual_seed(derive_seed("text adapter", settings.seed) % 2**63)
    return hf_checkpoint.load_causal_lm_with_lora(
        folder, settings.lora_rank, _WHERE, last_layers=settings.layers, dtype="auto"
    )


def training_users(tables: Iterator[pa.Table], scorer: TextScorer, spec: TextTuningSpec) -> list[UserCandidates]:
    """Up to `max_users` users with an example, by a stable hash; an order that does not depend on shards."""
    reranker = TextReranker(scorer, spec.texts, spec.texts, spec.default_request, spec.depth)
    found = [user for table in tables for user in user_candidates(table, reranker, spec.now)]
    ids = hash_strings(pa.array([f"{user.user}\n{user.query.request}" for user in found], pa.string()))
    return [found[row] for row in np.argsort(ids, kind="stable")[: spec.settings.max_users]]


def _tables(spec: TextTuningSpec, storage: Storage) -> Iterator[pa.Table]:
    for path in spec.examples:
        table = read_arrow(storage, path)
        if table.num_rows:
            yield table.filter(pc.equal(table["variant"], spec.variant)).combine_chunks()


def _resume(loop: TextTuningLoop, storage: Storage, spec: TextTuningSpec, worker: Worker) -> None:
    data = loop_checkpoint.stored(storage, spec.path, worker)
    if data is not None:
        loop.resume(data)
        _LOG.warning("tune: resuming after step %d of a run that was stopped", loop.progress.step)


def _after_round(
    loop: TextTuningLoop,
    storage: Storage,
    spec: TextTuningSpec,
    worker: Worker,
    report: Callable[[Mapping[str, float], int], None],
) -> None:
    if worker.rank == 0:
        storage.write(layout.training_checkpoint_path(spec.path), loop.checkpoint())
    report(loop.progress.curve[-1], loop.steps)
