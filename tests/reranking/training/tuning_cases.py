"""A synthetic dataset with predictable next items: items come in pairs (2k, 2k + 1), consumed in this order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rayrec.config import Tuning
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.numerics.collectives import Worker
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.engines.engine import EngineSettings
from rayrec.reranking.engines.transformers_runner import TransformersRunner
from rayrec.reranking.item_token import tuned_checkpoint
from rayrec.reranking.item_token.item_head import ItemHead
from rayrec.reranking.training.tuner import tune_on_worker
from rayrec.reranking.training.tuning_preparation import TuningSpec
from rayrec.storage import Storage

ITEMS = 24
NOW = 40 * MICROSECONDS_PER_DAY
INSTRUCTION = "Recommend what this user will want next."


def pairs_shop(users: int = 150, seed: int = 0) -> pa.Table:
    """(item, ts, keep): three pairs a user, about one event every other day."""
    rng = np.random.default_rng(seed)
    first = np.argsort(rng.random((users, ITEMS // 2)), axis=1)[:, :3] * 2
    item = np.stack([first, first + 1], axis=2).reshape(users, 6)
    ts = np.cumsum(rng.integers(MICROSECONDS_PER_DAY, 6 * MICROSECONDS_PER_DAY, (users, 6)), axis=1)
    return as_table(Ragged.from_lengths(item.reshape(-1), np.full(users, 6)), ts.reshape(-1))


def as_table(item: Ragged, ts: Any, keep: Any = None) -> pa.Table:
    keep = np.ones(len(item.values)) if keep is None else keep
    columns = {
        "item": item.to_arrow(pa.int32()),
        "ts": item.like(np.asarray(ts)).to_arrow(pa.int64()),
        "keep_weight": item.like(np.asarray(keep)).to_arrow(pa.float32()),
        "order": np.arange(len(item), dtype=np.uint64),
    }
    return pa.table(columns)


def settings(**changes: Any) -> Tuning:
    small = {"layers": 1, "width": 32, "heads": 1, "feedforward": 64, "events": 10, "epochs": 3, "batch_tokens": 1024}
    return Tuning.model_validate({**small, "min_item_events": 1, "learning_rate": 1e-2, **changes})


def spec(root: Path, table: pa.Table, **changes: Any) -> TuningSpec:
    """A spec with one file of sequences, written below `root`."""
    storage = Storage(str(root))
    write_shard(storage, "sequences.arrow", table)
    names = [f"item {code:02}" for code in range(ITEMS)]
    catalogue = pa.table({"item_id": [f"i{code:02}" for code in range(ITEMS)], "title": names})
    catalogue = catalogue.append_column("category", pa.nulls(ITEMS, pa.string()))
    given: dict[str, Any] = {
        "sequences": ("sequences.arrow",),
        "path": "models/lm/test",
        "instruction": INSTRUCTION,
        "settings": settings(),
        "now": NOW,
    }
    return TuningSpec(root=storage.root, catalogue=catalogue, **{**given, **changes})


def write_shard(storage: Storage, path: str, table: pa.Table) -> None:
    with storage.writer(path) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def run(
    given: TuningSpec, report: Callable[[Mapping[str, float]], None] = lambda row: None
) -> tuned_checkpoint.ModelCard:
    """Tune in this process."""
    return tune_on_worker(given, Worker(), report)


def fetch(given: TuningSpec) -> tuned_checkpoint.LocalCheckpoint:
    return tuned_checkpoint.fetch_checkpoint(Storage(given.root), given.path)


def learned_pairs(given: TuningSpec) -> float:
    """Share of the pairs for which the tuned model ranks the second item first after the first one."""
    model = fetch(given)
    engine = TransformersRunner(model.model_files, "hidden_state", EngineSettings())
    layout = model.layout(INSTRUCTION, engine.max_prompt_tokens)
    firsts = np.arange(0, ITEMS, 2)
    item = Ragged.from_lengths(firsts, np.ones(len(firsts), np.int64))
    prompts = layout.prompts(item, item.like(np.full(len(firsts), NOW - 2 * MICROSECONDS_PER_DAY)), NOW)
    every = list(range(model.card.vocabulary.first_item, model.card.vocabulary.size))
    states = engine.last_hidden_states([prompts[row].tolist() for row in range(len(firsts))])
    scores = np.stack(ItemHead.of(model).score(states, [every] * len(firsts)))
    scores[np.arange(len(firsts)), firsts] = -np.inf
    return float((scores.argmax(1) == firsts + 1).mean())
