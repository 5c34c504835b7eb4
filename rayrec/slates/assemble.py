"""Scored candidates to SLATE: one arm's published rows for one shard.

    found     every candidate with the blend's score; users of whom little is known in the fallback's order
    arranged  rules filter, diversity reorders: what the policy is given, no chance yet
    slates    the policy chooses, with exact propensities; pins go to their ranks

The published score is the blend's own throughout, also where something else decided the order.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import Slate
from rayrec.contracts.ragged import Ragged
from rayrec.contracts.schemas import SLATE
from rayrec.errors import ConfigError
from rayrec.hashing import digest, seed_of
from rayrec.slates.blend import Blend, Prior
from rayrec.slates.diversity import Diversity, diversified, read_diversity
from rayrec.slates.fallback import Fallback, in_the_order_of
from rayrec.slates.pins import Chosen, with_pins
from rayrec.slates.policies import Greedy, SlatePolicy, policy_kind
from rayrec.slates.rules import PINNED, Rules
from rayrec.slates.scored import Bools, Floats, Items, Scored


@dataclass(frozen=True)
class CandidatePool:
    """One arm's candidates. `scored` holds the scores that decide the order; those of the blend stand beside it."""

    scored: Scored
    own: Ragged  # float32, aligned with the candidates: what is published
    source: Ragged  # int8, aligned: index into the arm's sources
    cold: Bools | None = None  # [users] who go by the fallback; None: nobody

    def of(self, users: Bools) -> CandidatePool:
        """These users [users] alone."""
        if users.all():
            return self
        rows = np.flatnonzero(users)
        cold = None if self.cold is None else self.cold[rows]
        return CandidatePool(self.scored.of(rows), self.own.take(rows), self.source.take(rows), cold)

    def where(self, kept: Bools) -> CandidatePool:
        """The candidates [candidates] that are kept."""
        scored = self.scored.where(kept)
        like = scored.scores.like
        return replace(self, scored=scored, own=like(self.own.values[kept]), source=like(self.source.values[kept]))


@dataclass(frozen=True)
class AssembleStage:
    """Reads candidate_schema or reranked_schema, writes SLATE sorted by (user_id, rank).

    Users without candidates get the pins, and no row where there are none. `sources` name the int8 `source` column.
    """

    blend: Blend
    prior: Prior
    sources: tuple[str, ...]
    items: Items
    date: datetime.date
    run: str  # what makes slate ids differ between days and configs
    size: int
    policy: SlatePolicy
    rules: Rules = field(default_factory=Rules)
    diversity: Diversity | None = None
    depth: int = 0  # how many of a user's best candidates are diversified
    fallback: Fallback | None = None
    lift: int | None = None  # places that the LLM may lift a candidate, None: any (see lift.py)

    @classmethod
    def of(
        cls,
        slate: Slate,
        blend: Blend,
        prior: Prior,
        sources: tuple[str, ...],
        items: Items,
        attributes: pa.ChunkedArray,
        date: datetime.date,
        run: str,
        lift: int | None = None,
    ) -> Self:
        """As the config says; `attributes` is the catalogue's column. Raises ConfigError."""
        cold = slate.fallback
        return cls(
            blend=blend,
            prior=prior,
            sources=sources,
            items=items,
            date=date,
            run=run,
            size=slate.size,
            policy=policy_kind(slate.policy).read(slate.settings),
            rules=Rules.of(slate.rules, items, attributes),
            diversity=read_diversity(slate.diversify.method, slate.diversify.settings),
            depth=slate.diversify.depth or 2 * slate.size,
            fallback=Fallback(cold.source, cold.below_events) if cold else None,
            lift=lift,
        )

    def __call__(self, table: pa.Table, arm: str) -> pa.Table:
        pool = self.arranged(self.found(table))
        return self.rows(pool, self.chosen(pool, arm), arm)

    def found(self, table: pa.Table) -> CandidatePool:
        """All candidates of all users, by user."""
        table, own = _sorted_by_user(table, self.blend.scores(table, self.prior, self.lift))
        history, candidate = Ragged.from_arrow(table["item"]), Ragged.from_arrow(table["candidate"])
        source, user_ids = Ragged.from_arrow(table["source"]), table["user_id"].combine_chunks()
        pool = CandidatePool(Scored(user_ids, own, candidate, history, self.items), own, source)
        if self.fallback is None:
            return pool
        cold = history.lengths < self.fallback.below_events
        theirs = Ragged.from_arrow(table[f"score.{self.fallback.source}"])
        return replace(pool, scored=replace(pool.scored, scores=in_the_order_of(theirs, own, cold)), cold=cold)

    def arranged(self, found: CandidatePool) -> CandidatePool:
        """What the policy is given."""
        pool = found.where(self.rules.kept(found.scored)) if self.rules.names else found
        if self.diversity is None:
            return pool
        warm = np.ones(len(pool.scored), np.bool_) if pool.cold is None else ~pool.cold
        scores = diversified(self.diversity, pool.scored, self.depth, warm)
        return replace(pool, scored=replace(pool.scored, scores=scores))

    def chosen(self, pool: CandidatePool, arm: str) -> Chosen:
        """The slates, pins included."""
        return with_pins(self.policy.order(pool.scored, self.drawn, self.seed(arm)), pool.scored, self.rules)

    def without_chance(self, pool: CandidatePool) -> Chosen:
        """The slates that the policy explores around: best first."""
        return with_pins(Greedy().order(pool.scored, self.drawn, 0), pool.scored, self.rules)

    def rows(self, pool: CandidatePool, chosen: Chosen, arm: str) -> pa.Table:
        """SLATE. A pin's score is 0: nothing was asked about it."""
        rows = chosen.place.rows
        user_row, count = pa.array(rows.astype(np.int32)), len(rows)
        score, source = self._credits(pool, chosen.place)
        columns = [
            pa.repeat(pa.scalar(self.date, pa.date32()), count),
            pa.repeat(pa.scalar(arm), count),
            slate_ids(self.run, arm, pool.scored.user_ids).take(user_row),
            pool.scored.user_ids.take(user_row),
            pa.array((np.arange(count) - chosen.place.offsets[rows] + 1).astype(np.int16)),
            self.items.ids.take(pa.array(chosen.code.values)),
            pa.array(score),
            source,
            pa.array(chosen.propensity),
        ]
        return pa.table(columns, schema=SLATE)

    def relieved(self, rule: str) -> AssembleStage:
        """The same without one of its rules."""
        return replace(self, rules=self.rules.without(rule))

    @property
    def drawn(self) -> int:
        """How many ranks are the policy's."""
        return self.size - len(self.rules.pins)

    def seed(self, arm: str) -> int:
        return seed_of(self.run, arm)

    def _credits(self, pool: CandidatePool, place: Ragged) -> tuple[Floats, pa.Array]:
        """The score and the source of every row."""
        names = [*self.sources, PINNED, self.fallback.label if self.fallback else ""]
        pinned, last = place.values < 0, len(self.sources)
        score = np.zeros(len(pinned), np.float32)
        number = np.full(len(pinned), last, np.int16)
        score[~pinned] = pool.own.values[place.values[~pinned]]
        number[~pinned] = pool.source.values[place.values[~pinned]]
        if pool.cold is not None:
            number[~pinned & pool.cold[place.rows]] = last + 1
        return score, pa.array(names, pa.string()).take(pa.array(number))


def check_slate(slate: Slate, sources: tuple[str, ...], attributes: tuple[str, ...]) -> None:
    """Refuse what `AssembleStage.of` or its work would refuse, for an arm with these sources and a catalogue with these
    attributes. Raises ConfigError."""
    policy_kind(slate.policy).read(slate.settings)
    read_diversity(slate.diversify.method, slate.diversify.settings)
    if slate.fallback and slate.fallback.source not in sources:
        raise ConfigError(
            f"there is no source {slate.fallback.source!r} in the arm's retrieval",
            where="slate.fallback.source",
            do=f"use one of {', '.join(sources)}",
        )
    for name in slate.rules.ranges:
        if name not in attributes:
            known = f"; those known are {', '.join(attributes)}" if attributes else ""
            raise ConfigError(
                f"items have no attribute {name!r}",
                where=f"slate.rules.ranges.{name}",
                do=f"name its column in data.items.attributes{known}",
            )


def slate_ids(run: str, arm: str, user_ids: pa.Array) -> pa.Array:
    """A stable id for each user's slate: 128 bits of SipHash keyed by (run, arm), as 32 hex characters."""
    users = np.asarray(user_ids.to_pylist(), dtype=object)
    halves = [pd.util.hash_array(users, hash_key=digest([run, arm, half]), categorize=False) for half in (0, 1)]
    text = np.stack(halves, axis=1).astype(">u8").tobytes().hex().encode()
    offsets = np.arange(0, 32 * len(users) + 1, 32, dtype=np.int32)
    return pa.StringArray.from_buffers(len(users), pa.py_buffer(offsets), pa.py_buffer(text))


def _sorted_by_user(table: pa.Table, scores: Ragged) -> tuple[pa.Table, Ragged]:
    order = pc.sort_indices(table["user_id"])
    if np.array_equal(order.to_numpy(), np.arange(len(table))):
        return table, scores
    rows = Ragged.from_arrow(scores.to_arrow(pa.float32()).take(order))
    return table.take(order).combine_chunks(), rows
