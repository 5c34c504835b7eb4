"""A small dataset of 60 users and 30 items in three kinds, and a model that trains in seconds."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rayrec.config.embeddings_section import Embeddings
from rayrec.data.schemas import HISTORY, ITEM, MICROSECONDS_PER_DAY
from rayrec.embeddings.embedder import Embedder
from rayrec.embeddings.embedder_training import train
from rayrec.embeddings.training_windows import training_windows
from rayrec.embeddings.user_events import Events, Items
from rayrec.numerics.ragged import Ragged

NOW = 100 * MICROSECONDS_PER_DAY
KINDS = ("lamp", "chair", "vase")
WEIGHTS = (1.0, 0.0, -1.0)  # purchase, view, return
QUESTIONS = {
    "again": {"text": "Will this person buy again?", "answer": {"kind": "again"}},
    "lamps": {"text": "Does this person like lamps?", "answer": {"kind": "takes", "words": ["lamp"]}},
    "next": {"text": "What will this person take next?", "answer": {"kind": "next"}},
    "other": {"text": "Is this person patient?"},  # has no answer: not used in training
}


def settings(**changes: object) -> Embeddings:
    content = {
        "instructions": QUESTIONS,
        "horizon_days": 10.0,
        "model": {"encoder_width": 16, "width": 32, "heads": 2, "feedforward": 32, "layers": 1, "dim": 16},
        "training": {
            "cutoffs": 2,
            "cutoff_interval_days": 10.0,
            "epochs": 2,
            "batch_users": 16,
            "validation_share": 0.2,
        },
    }
    return Embeddings.model_validate(content | changes)


def catalogue(items: int = 30) -> pa.Table:
    rows = [
        {
            "item_id": f"i{k:02d}",
            "title": f"{('red', 'blue')[k % 2]} {KINDS[k % 3]} {k}",
            "category": None,
            "description": None,
            "available": True,
            "attributes": [("price", str(1 + k % 7))],
        }
        for k in range(items)
    ]
    return pa.Table.from_pylist(rows, ITEM)


def histories(users: int = 60, seed: int = 0) -> pa.Table:
    """Each user likes one kind; a quarter of the events are of other kinds, some are views or returns."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 25, users)
    user = np.repeat(np.arange(users), lengths)
    item = np.where(rng.random(len(user)) < 0.75, 3 * rng.integers(10, size=len(user)) + user % 3, 0)
    item = np.where(item == 0, rng.integers(30, size=len(user)), item)
    ts = (
        np.sort(rng.integers(10 * MICROSECONDS_PER_DAY, NOW + 10 * MICROSECONDS_PER_DAY, len(user)) + user * 10**15)
        - user * 10**15
    )
    event = rng.choice(3, len(user), p=[0.8, 0.1, 0.1])
    columns = {
        "item": item,
        "ts": ts,
        "event": event,
        "value": rng.integers(1, 9, len(user)),
        "dwell_ms": -1 + 0 * user,
    }
    lists = [
        Ragged.from_lengths(
            columns[name].astype(HISTORY.field(name).type.value_type.to_pandas_dtype()), lengths
        ).to_arrow(HISTORY.field(name).type.value_type)
        for name in columns
    ]
    older = pa.array([[]] * users, pa.list_(pa.int32()))
    return pa.table([pa.array([f"u{k:02d}" for k in range(users)]), *lists, older], schema=HISTORY)


def events(table: pa.Table | None = None) -> Events:
    return Events.of(histories() if table is None else table, WEIGHTS, NOW)


def items() -> Items:
    return Items.of(catalogue(), "price")


def trained(given: Embeddings | None = None, table: pa.Table | None = None) -> Embedder:
    given = given or settings()
    windows = training_windows(given, histories() if table is None else table, items(), WEIGHTS, NOW)
    return Embedder.of(given, train(given, windows, items()))
