"""Candidate tables whose truth is known: what users take follows a planted mix of two retrievers and the prior."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rayrec.blending.blend_features import ItemFeatures
from rayrec.blending.blend_fitting import TrainingWindow
from rayrec.data.schemas import candidate_schema
from rayrec.numerics.ragged import Ragged
from rayrec.slates.scored_candidates import CatalogueItems, ScoredCandidates

ITEMS, CUT = 200, 86_400_000_000 * 100
NAMES = ("log_decayed_1d", "log_decayed_8d", "log_age", "log_count")
SOURCES = ("ease", "user_knn", "popularity")
PERSONAL = ("ease", "user_knn")


def item_features(seed: int = 0) -> ItemFeatures:
    return ItemFeatures(NAMES, np.random.default_rng(seed).normal(size=(ITEMS, len(NAMES))).astype(np.float32), CUT)


def items(count: int = ITEMS, kinds: int = 6, width: int = 4, seed: int = 0) -> CatalogueItems:
    """Every seventh item has no category."""
    random = np.random.default_rng(seed)
    category = random.integers(0, kinds, count).astype(np.int32)
    category[::7] = -1
    factors = random.normal(size=(count, width)).astype(np.float32)
    return CatalogueItems(
        pa.array([f"item {code:03d}" for code in range(count)]), category, np.ones(count, np.bool_), factors
    )


def scored(lengths: list[int], seed: int = 0, known: CatalogueItems | None = None, past: int = 6) -> ScoredCandidates:
    """Users with so many candidates each, normal scores, and up to `past` events; the second user has none."""
    random, known = np.random.default_rng(seed), known or items()
    scores = Ragged.from_lengths(random.normal(size=sum(lengths)).astype(np.float32), lengths)
    codes = [np.sort(random.choice(len(known.ids), n, replace=False)) for n in lengths]
    events = random.integers(0, past + 1, len(lengths))
    events[1:2] = 0
    history = Ragged.from_lengths(random.integers(0, len(known.ids), events.sum()).astype(np.int32), events)
    users = pa.array([f"user {n}" for n in range(len(lengths))], pa.string())
    code = np.concatenate([*codes, np.zeros(0, np.int64)]).astype(np.int32)
    return ScoredCandidates(users, scores, scores.like(code), history, known)


def repeated(one: ScoredCandidates, many: int) -> ScoredCandidates:
    """The first user of `one`, many times under other names: for counting what chance does."""
    users = pa.array([f"user {n}" for n in range(many)])
    copies = one.take_users(np.zeros(many, np.int64))
    return ScoredCandidates(users, copies.scores, copies.candidate, copies.history, one.items)


def candidates(users: int = 50, seed: int = 0, shortest: int = 5) -> pa.Table:
    random = np.random.default_rng(seed)
    lengths = random.integers(shortest, 40, users)
    code = np.concatenate([np.sort(random.choice(ITEMS, length, replace=False)) for length in lengths])
    candidate = Ragged.from_lengths(code.astype(np.int32), lengths)
    past = random.integers(0, 6, users)
    history = Ragged.from_lengths(random.integers(0, ITEMS, past.sum()).astype(np.int32), past)
    ts = CUT - np.sort(random.integers(1, 10**12, past.sum()))[::-1]
    scores = [candidate.like(random.gamma(1.0, 1.0, len(code)).astype(np.float32)) for _ in SOURCES]
    return pa.table(
        [
            pa.array([f"user {number:04d}" for number in range(users)]),
            pa.array(["v"] * users),
            history.to_arrow(pa.int32()),
            history.like(ts).to_arrow(pa.int64()),
            candidate.to_arrow(pa.int32()),
            candidate.like(random.integers(0, 3, len(code)).astype(np.int8)).to_arrow(pa.int8()),
            *(score.to_arrow(pa.float32()) for score in scores),
        ],
        schema=candidate_schema(SOURCES),
    )


def with_llm(table: pa.Table, seed: int = 0) -> pa.Table:
    candidate = Ragged.from_arrow(table["candidate"])
    score = np.random.default_rng(seed + 100).normal(-5, 2, len(candidate.values)).astype(np.float32)
    table = table.append_column(
        pa.field("llm_score", pa.list_(pa.float32())), candidate.like(score).to_arrow(pa.float32())
    )
    return table.append_column(pa.field("error", pa.string()), pa.nulls(len(table), pa.string()))


def set_llm_scores(table: pa.Table, values: np.ndarray) -> pa.Table:
    """The table with these scores, one per candidate."""
    scores = Ragged.from_arrow(table["llm_score"]).like(values.astype(np.float32)).to_arrow(pa.float32())
    column = table.schema.get_field_index("llm_score")
    return table.set_column(column, table.schema.field("llm_score"), scores)


def window(users: int = 400, seed: int = 0, llm: float | None = None, ease: float = 2.0) -> TrainingWindow:
    """Each user takes two candidates, drawn by exp(ease * log ease score + the 8-day prior + llm * LLM score)."""
    table = candidates(users, seed)
    if llm is not None:
        table = with_llm(table, seed)
    candidate, known = Ragged.from_arrow(table["candidate"]), item_features()
    value = ease * np.log(Ragged.from_arrow(table["score.ease"]).values + 0.3)
    value += known.column("log_decayed_8d")[candidate.values]
    if llm is not None:
        value += llm * Ragged.from_arrow(table["llm_score"]).values
    value += np.random.default_rng(seed + 7).gumbel(size=len(value))
    consumed = np.zeros(len(value), np.bool_)
    for user in range(users):
        at = slice(candidate.offsets[user], candidate.offsets[user + 1])
        consumed[candidate.offsets[user] + np.argsort(-value[at])[:2]] = True
    return TrainingWindow(table, candidate.like(consumed), known)
