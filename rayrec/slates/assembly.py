"""Slate assembly: SLATE rows of one arm and shard from scored candidates.

candidate_pool   all candidates with blended scores; cold-start users in the order of the fallback source
apply_rules      filter by the rules and `slate.min_probability`, and diversify: the deterministic input of the policy
select           draw slates from the policy with exact propensities, and insert pinned items
to_slates        build SLATE rows

The published score is always the blended score, even if the fallback or the diversifier decides the order.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.blending.blend_features import ItemFeatures
from rayrec.blending.blender import Blender
from rayrec.config import Slate
from rayrec.data.schemas import SLATE
from rayrec.errors import ConfigError
from rayrec.numerics.hashing import derive_seed, digest
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.top_k import best
from rayrec.numerics.types import Bools, Float32s
from rayrec.slates.diversity import Diversifier, diversify, make_diversifier
from rayrec.slates.exploration_floor import EXPLORATION, ExplorationFloor, extended, with_other_candidates
from rayrec.slates.fallback import Fallback, reorder_by
from rayrec.slates.pins import SelectedSlates, insert_pins
from rayrec.slates.policies import POLICIES, Greedy, SlatePolicy
from rayrec.slates.scored_candidates import CatalogueItems, ScoredCandidates
from rayrec.slates.slate_rules import PINNED, Rules


@dataclass(frozen=True)
class CandidatePool:
    """The candidates of one arm. `scored` has the scores that decide the order."""

    scored: ScoredCandidates
    blend_scores: Ragged  # float32, aligned with the candidates: the published scores
    source: Ragged  # int8, aligned: index into the arm's sources; −1 for candidates of other arms alone
    cold: Bools | None = None  # [users] ranked by the fallback; None: no user

    def take_users(self, users: Bools) -> CandidatePool:
        """Select these users [users]."""
        if users.all():
            return self
        rows = np.flatnonzero(users)
        cold = None if self.cold is None else self.cold[rows]
        return CandidatePool(self.scored.take_users(rows), self.blend_scores.take(rows), self.source.take(rows), cold)

    def filter(self, mask: Bools) -> CandidatePool:
        """Select the candidates in `mask` [candidates]."""
        scored = self.scored.filter(mask)
        like = scored.scores.like
        blend_scores, source = like(self.blend_scores.values[mask]), like(self.source.values[mask])
        return replace(self, scored=scored, blend_scores=blend_scores, source=source)


@dataclass(frozen=True)
class SlateAssembler:
    """Builds SLATE rows, sorted by (user_id, rank), from candidate_schema or reranked_schema.

    Users without candidates get pinned items only, and no rows if there are none. `sources` are the names of the int8
    `source` column.
    """

    blend: Blender
    item_features: ItemFeatures
    sources: tuple[str, ...]
    items: CatalogueItems
    date: datetime.date
    run: str  # part of the slate ids: they differ between dates and configs
    size: int
    policy: SlatePolicy
    rules: Rules = field(default_factory=Rules)
    diversity: Diversifier | None = None
    depth: int = 0  # number of each user's best candidates that are diversified
    fallback: Fallback | None = None
    max_promotion: int | None = None  # ranks that the LLM may move a candidate up; None: no limit
    min_probability: float = 0.0  # candidates with a smaller calibrated probability are withheld

    @classmethod
    def of(
        cls,
        slate: Slate,
        blend: Blender,
        item_features: ItemFeatures,
        sources: tuple[str, ...],
        items: CatalogueItems,
        attributes: pa.ChunkedArray,
        date: datetime.date,
        run: str,
        max_promotion: int | None = None,
    ) -> Self:
        """Create from the config; `attributes` is the catalogue's column. Raises ConfigError."""
        cold = slate.fallback
        policy = POLICIES.lookup(slate.policy)(slate.settings)
        if slate.exploration_floor:
            policy = ExplorationFloor(policy, slate.exploration_floor)
        return cls(
            blend=blend,
            item_features=item_features,
            sources=sources,
            items=items,
            date=date,
            run=run,
            size=slate.size,
            policy=policy,
            rules=Rules.of(slate.rules, items, attributes),
            diversity=make_diversifier(slate.diversity),
            depth=slate.diversity.depth or 2 * slate.size,
            fallback=Fallback(cold.source, cold.below_events) if cold else None,
            max_promotion=max_promotion,
            min_probability=slate.min_probability,
        )

    def __call__(self, table: pa.Table, arm: str) -> pa.Table:
        pool = self.apply_rules(self.candidate_pool(table))
        return self.to_slates(pool, self.select(pool, arm), arm)

    def candidate_pool(self, table: pa.Table) -> CandidatePool:
        """Score all candidates, sorted by user."""
        table, own = _sorted_by_user(table, self.blend.scores(table, self.item_features, self.max_promotion))
        history, candidate = Ragged.from_arrow(table["item"]), Ragged.from_arrow(table["candidate"])
        source, user_ids = Ragged.from_arrow(table["source"]), table["user_id"].combine_chunks()
        pool = CandidatePool(ScoredCandidates(user_ids, own, candidate, history, self.items), own, source)
        if self.fallback is None:
            return pool
        cold = history.lengths < self.fallback.below_events
        theirs = Ragged.from_arrow(table[f"score.{self.fallback.source}"])
        return replace(pool, scored=replace(pool.scored, scores=reorder_by(theirs, own, cold)), cold=cold)

    def _eligible(self, pool: CandidatePool) -> Bools | None:
        """The candidates that the rules admit and `min_probability` does not withhold; None: all. Each user's best one
        that the rules admit is shown, and so are those of cold users."""
        admitted = self.rules.eligible(pool.scored) if self.rules.names else None
        curve, scores = self.blend.acceptance, pool.blend_scores
        if curve is None or not self.min_probability:
            return admitted
        shown: Bools = curve(scores) >= self.min_probability
        left = scores.values if admitted is None else np.where(admitted, scores.values, -np.inf).astype(np.float32)
        shown[best(scores.like(left), 1).values] = True
        if pool.cold is not None:
            shown |= pool.cold[scores.rows]
        return shown if admitted is None else shown & admitted

    def apply_rules(self, found: CandidatePool) -> CandidatePool:
        """Apply the rules, `slate.min_probability` and the diversifier."""
        eligible = self._eligible(found)
        pool = found if eligible is None else found.filter(eligible)
        if self.diversity is None:
            return pool
        warm = np.ones(len(pool.scored), np.bool_) if pool.cold is None else ~pool.cold
        scores = diversify(self.diversity, pool.scored, self.depth, warm)
        return replace(pool, scored=replace(pool.scored, scores=scores))

    def with_others(self, pool: CandidatePool, others: Sequence[CandidatePool]) -> CandidatePool:
        """Add the candidates of other arms (rules applied) that this arm's exploration floor may show; `blocked`,
        `ranges` and pins of this arm hold for them, caps do not. Without a floor, the pool itself."""
        if not isinstance(self.policy, ExplorationFloor):
            return pool
        admitted = np.ones(len(self.items.ids), np.bool_) & self.rules.admitted_items
        admitted[[pin.code for pin in self.rules.pins]] = False
        new = with_other_candidates(pool.scored, [other.scored for other in others], admitted)
        return replace(
            pool,
            scored=extended(pool.scored, new),
            blend_scores=pool.blend_scores.joined(new.like(np.zeros(len(new.values), np.float32))),
            source=pool.source.joined(new.like(np.full(len(new.values), -1, np.int8))),
        )

    def select(self, pool: CandidatePool, arm: str) -> SelectedSlates:
        """Draw the slates and insert pinned items."""
        return insert_pins(self.policy.order(pool.scored, self.policy_size, self.seed(arm)), pool.scored, self.rules)

    def greedy_slates(self, pool: CandidatePool) -> SelectedSlates:
        """The best-first slates, without exploration."""
        return insert_pins(Greedy().order(pool.scored, self.policy_size, 0), pool.scored, self.rules)

    def to_slates(self, pool: CandidatePool, chosen: SelectedSlates, arm: str) -> pa.Table:
        """Build SLATE rows. A pinned item, and one that only other arms have as a candidate, has score 0."""
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

    @property
    def policy_size(self) -> int:
        """Number of ranks that the policy fills."""
        return self.size - len(self.rules.pins)

    def seed(self, arm: str) -> int:
        return derive_seed(self.run, arm)

    def _credits(self, pool: CandidatePool, place: Ragged) -> tuple[Float32s, pa.Array]:
        """Published score and source of every row."""
        names = [*self.sources, PINNED, self.fallback.label if self.fallback else "", EXPLORATION]
        pinned, last = place.values < 0, len(self.sources)
        score = np.zeros(len(pinned), np.float32)
        number = np.full(len(pinned), last, np.int16)
        score[~pinned] = pool.blend_scores.values[place.values[~pinned]]
        number[~pinned] = pool.source.values[place.values[~pinned]]
        if pool.cold is not None:
            number[~pinned & pool.cold[place.rows]] = last + 1
        explored = ~pinned
        explored[explored] = pool.source.values[place.values[~pinned]] < 0
        number[explored] = last + 2
        return score, pa.array(names, pa.string()).take(pa.array(number))


def check_slate(slate: Slate, sources: tuple[str, ...], attributes: tuple[str, ...]) -> None:
    """Raise ConfigError for sources or attributes that the arm or the catalogue does not have."""
    if slate.fallback and slate.fallback.source not in sources:
        raise ConfigError(
            f"there is no source {slate.fallback.source!r} in the arm's retrieval",
            where="slate.fallback.source",
            hint=f"use one of {', '.join(sources)}",
        )
    for name in slate.rules.ranges:
        if name not in attributes:
            known = f"; those known are {', '.join(attributes)}" if attributes else ""
            raise ConfigError(
                f"items have no attribute {name!r}",
                where=f"slate.rules.ranges.{name}",
                hint=f"name its column in data.items.attributes{known}",
            )


def slate_ids(run: str, arm: str, user_ids: pa.Array) -> pa.Array:
    """Stable ids of users' slates: 128 bits of SipHash keyed by (run, arm), as 32 hex characters."""
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
