"""Scored candidates of users, and the catalogue columns that slates need."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.id_text import canonical_ids
from rayrec.errors import ConfigError
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Bools, Float32s, Int32s, Int64s


@dataclass(frozen=True)
class CatalogueItems:
    """Catalogue columns that slates need, by item code."""

    ids: pa.Array  # strings, sorted
    category: Int32s  # [items], −1 if there is none
    available: Bools  # [items]
    factors: Float32s | None = None  # [items, d] of `ials`; None if not needed

    @classmethod
    def of(cls, catalogue: pa.Table, factors: Float32s | None = None) -> Self:
        """Create from ITEM rows. A category is its whole text: `Drama|Comedy` is one, as in the report's counts."""
        encoded = catalogue["category"].combine_chunks().dictionary_encode()
        category = encoded.indices.fill_null(-1).to_numpy().astype(np.int32)
        available = catalogue["available"].combine_chunks().to_numpy(zero_copy_only=False)
        return cls(catalogue["item_id"].combine_chunks(), category, available, factors)

    def codes(self, item_ids: tuple[str, ...]) -> Int64s:
        """Code of each id, [n], −1 for ids outside the catalogue."""
        found = pc.index_in(pa.array(canonical_ids(item_ids), pa.string()), value_set=self.ids)
        return np.asarray(found.fill_null(-1).to_numpy(), np.int64)

    @property
    def vectors(self) -> Float32s:
        """The factors. Raises ConfigError if the model was fitted without them."""
        if self.factors is None:
            raise ConfigError(
                "slates by factors need 'ials.factors', which the item model does not hold",
                where="slate",
                hint="fit the item model again with `ials`",
            )
        return self.factors


@dataclass(frozen=True)
class ScoredCandidates:
    """The candidates that a policy chooses from. Every ragged member has one row per user."""

    user_ids: pa.Array  # strings [users]
    scores: Ragged  # float32: they decide the order
    candidate: Ragged  # int32 codes, aligned with `scores`
    history: Ragged  # int32 codes of the retained positive events, oldest first
    items: CatalogueItems
    others: Bools | None = None  # [candidates] candidates of other arms alone (see exploration_floor); None: no one is

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def from_others(self) -> Bools:
        """Mask [candidates] of those that only other arms have."""
        return np.zeros(len(self.scores.values), np.bool_) if self.others is None else self.others

    def take_users(self, users: Int64s) -> ScoredCandidates:
        """Select these users in this order."""
        scores, candidate, history = (part.take(users) for part in (self.scores, self.candidate, self.history))
        others = None if self.others is None else self.scores.like(self.others).take(users).values
        return ScoredCandidates(self.user_ids.take(pa.array(users)), scores, candidate, history, self.items, others)

    def filter(self, mask: Bools) -> ScoredCandidates:
        """Select the candidates in `mask` [candidates]; all users stay."""
        scores = self.scores.filter(mask)
        others = None if self.others is None else self.others[mask]
        return replace(self, scores=scores, candidate=scores.like(self.candidate.values[mask]), others=others)
