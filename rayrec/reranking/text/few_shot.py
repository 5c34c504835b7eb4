"""Few-shot examples for untuned checkpoints: other users' histories and what they consumed next.

nearest     per user: the most similar histories (cosine of the sets of items), the most similar last
difficult   for all users: those whose next item the checkpoint least expects (PaRaDe, Drozdov et al. 2023)
coverage    for all users: a set selected by vote-k over the same similarity (Su et al. 2022); each selected example
            discounts its neighbours by 10 for every neighbour of theirs that is selected already

With the last two, all users of a run share the examples, at the start of the prompt, so that engines compute them once.
The text of an item in an example affects the scores of every user and candidate: the pointwise guarantee, that an
item's text changes no other item's score, holds for candidates only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from rayrec.numerics.hashing import derive_seed
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.engines.engine import Failure, Float32
from rayrec.reranking.text.text_scorer import FewShotExample, RankingQuery, TextScorer, TextScorerSettings

_ALTERNATIVES = 7  # items against which the difficulty of the consumed one is measured
_NEIGHBOURS, _DISCOUNT = 10, 10.0  # vote-k: neighbours per example, rho

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FewShotPool:
    """The users who may be examples, one row a user; contains only what is known at every cutoff of the run."""

    users: tuple[str, ...]
    history: Ragged  # int32, oldest first
    consumed: npt.NDArray[np.int32]  # [users] item code of the next item

    def __len__(self) -> int:
        return len(self.users)

    def example(self, row: int, texts: Sequence[str], events: int) -> FewShotExample:
        newest = self.history[row][max(0, int(self.history.lengths[row]) - events) :]
        return FewShotExample(tuple(texts[code] for code in newest), texts[self.consumed[row]])


@dataclass(frozen=True)
class FewShotSelector:
    """Selects the examples of each user. `fixed`: rows of the pool, for all users; None: the nearest ones."""

    pool: FewShotPool
    texts: tuple[str, ...]  # item texts by code
    count: int
    events: int  # newest events of a history to show
    fixed: tuple[int, ...] | None

    @classmethod
    def of(
        cls,
        settings: TextScorerSettings,
        pool: FewShotPool,
        scorer: TextScorer,
        texts: tuple[str, ...],
        default_request: str,
    ) -> Self | None:
        """The selector for these settings; None: no examples. For `difficult` the `scorer` scores the pool."""
        count = min(settings.examples, len(pool))
        if settings.few_shot == "none" or not count:
            return None
        fixed = None
        if settings.few_shot == "difficult":
            margins = checkpoint_margins(pool, scorer, texts, default_request)
            fixed = np.argsort(margins, kind="stable")[:count]
        elif settings.few_shot == "coverage":
            fixed = vote_k(similarity(pool.history, pool.history), count)
        return cls(pool, texts, count, settings.example_events, None if fixed is None else tuple(fixed.tolist()))

    def __call__(self, users: Sequence[str], history: Ragged) -> list[tuple[FewShotExample, ...]]:
        """The examples of each user, given ids and histories (item codes). With `nearest`, no user is their own
        example."""
        if self.fixed is not None:
            shown = [self.pool.example(row, self.texts, self.events) for row in self.fixed]
            return [tuple(shown)] * len(users)
        similar = similarity(history, self.pool.history)
        similar[np.array(users, dtype=object)[:, None] == np.array(self.pool.users, dtype=object)[None, :]] = -1
        order = np.argsort(-similar, axis=1, kind="stable")[:, : self.count]
        return [
            tuple(self.pool.example(row, self.texts, self.events) for row in reversed(rows.tolist()) if found[row] >= 0)
            for rows, found in zip(order, similar, strict=True)
        ]


def similarity(one: Ragged, other: Ragged) -> Floats:
    """Cosine between the sets of items of each pair of rows, float64 [n, m]; 0 for an empty row."""
    a, b = (_sets(rows, max(int(part.values.max(initial=0)) for part in (one, other)) + 1) for rows in (one, other))
    size = np.sqrt(np.outer(a.sum(axis=1), b.sum(axis=1)))
    shared = np.asarray((a @ b.T).todense(), np.float64)
    return np.asarray(shared / np.maximum(size, 1))


def _sets(rows: Ragged, items: int) -> sp.csr_matrix:
    cell = np.unique(rows.rows * items + rows.values)
    return sp.csr_matrix((np.ones(len(cell)), np.divmod(cell, items)), shape=(len(rows), items))


def vote_k(similar: Floats, count: int) -> Ints:
    """Select `count` rows by the similarity matrix [n, n], in order of selection (Su et al. 2022, algorithm 1).

    A row votes for its nearest neighbours with weight rho^-(number of them selected already). The next row is the one
    with most votes from rows not yet selected; ties go to the first.
    """
    similar = similar.copy()
    np.fill_diagonal(similar, -np.inf)
    neighbours = min(_NEIGHBOURS, len(similar) - 1)
    voted = np.zeros(similar.shape, np.bool_)
    np.put_along_axis(voted, np.argsort(-similar, axis=1, kind="stable")[:, :neighbours], True, axis=1)
    chosen: list[int] = []
    for _ in range(count):
        weight = _DISCOUNT ** -voted[:, chosen].sum(axis=1).astype(np.float64)
        weight[chosen] = 0
        votes = np.round(weight @ voted, 9)  # makes ties independent of the order of the sum
        votes[chosen] = -np.inf
        chosen.append(int(np.argmax(votes)))
    return np.array(chosen, np.int64)


def checkpoint_margins(pool: FewShotPool, scorer: TextScorer, texts: Sequence[str], request: str) -> Floats:
    """The margin of what each user consumed over a few other items of the pool, [users]; +inf if it has no score."""
    queries = []
    for row in range(len(pool)):
        others = np.setdiff1d(pool.consumed, np.append(pool.history[row], pool.consumed[row]))
        sample = np.random.default_rng(derive_seed("beside", pool.users[row])).permutation(others)[:_ALTERNATIVES]
        candidates = tuple(texts[code] for code in (pool.consumed[row], *sample))
        queries.append(RankingQuery(request, tuple(texts[code] for code in pool.history[row]), candidates))
    margins = [np.inf if isinstance(scores, Failure) else _margin(scores) for scores in scorer.score(queries)]
    return np.nan_to_num(np.array(margins, np.float64), nan=np.inf, posinf=np.inf)


def _margin(scores: Float32) -> float:
    """The first score minus the mean of the others."""
    return float(scores[0] - scores[1:].mean()) if len(scores) > 1 else np.inf
