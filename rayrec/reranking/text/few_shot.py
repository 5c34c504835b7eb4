"""Worked examples in the prompt, for checkpoints that were not tuned: other users' histories and what they took next.

nearest     each user gets the histories most like theirs (cosine of the sets of items), the nearest last
difficult   everybody gets those whose taken item the checkpoint itself expects least (PaRaDe, Drozdov et al. 2023)
coverage    everybody gets a set chosen by vote-k over the same similarity (Su et al. 2022): each one chosen discounts
            its neighbours by 10 for every neighbour of theirs that is chosen already

The last two are the same for all users of a run and stand first in the prompt: engines read them once. Examples are
other users' events, and item texts: they are cleaned and cut as all texts are, but an item that stands in an example
is read for every user and candidate. So the promise of `yes_no`, that no item's text reaches another item's score, is
kept by candidates and broken by the texts of examples.
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

_BESIDE = 7  # other items that stand beside the taken one where its difficulty is measured
_NEIGHBOURS, _DISCOUNT = 10, 10.0  # of vote-k: neighbours of each, rho

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FewShotPool:
    """Users who may stand as examples, one row a user; nothing in it that is not known at every cut of the run."""

    users: tuple[str, ...]
    history: Ragged  # int32, oldest first
    consumed: npt.NDArray[np.int32]  # [users] the item that came after it

    def __len__(self) -> int:
        return len(self.users)

    def example(self, row: int, texts: Sequence[str], events: int) -> FewShotExample:
        newest = self.history[row][max(0, int(self.history.lengths[row]) - events) :]
        return FewShotExample(tuple(texts[code] for code in newest), texts[self.consumed[row]])


@dataclass(frozen=True)
class FewShotSelector:
    """Who gets which examples. `fixed`: rows of the pool that everybody gets; None: each user the nearest."""

    pool: FewShotPool
    texts: tuple[str, ...]  # of each item, by code
    count: int
    events: int  # newest of a history that are shown
    fixed: tuple[int, ...] | None

    @classmethod
    def of(
        cls, settings: TextScorerSettings, pool: FewShotPool, way: TextScorer, texts: tuple[str, ...], intention: str
    ) -> Self | None:
        """As the way's settings say, None: no examples. Reads the pool with `way` where its opinion is asked for."""
        count = min(settings.examples, len(pool))
        if settings.few_shot == "none" or not count:
            return None
        fixed = None
        if settings.few_shot == "difficult":
            fixed = np.argsort(checkpoint_margins(pool, way, texts, intention), kind="stable")[:count]
        elif settings.few_shot == "coverage":
            fixed = vote_k(similarity(pool.history, pool.history), count)
        return cls(pool, texts, count, settings.example_events, None if fixed is None else tuple(fixed.tolist()))

    def __call__(self, users: Sequence[str], history: Ragged) -> list[tuple[FewShotExample, ...]]:
        """The examples of each user, by id and history (item codes). Nobody is their own nearest."""
        if self.fixed is not None:
            shown = [self.pool.example(row, self.texts, self.events) for row in self.fixed]
            return [tuple(shown)] * len(users)
        alike = similarity(history, self.pool.history)
        alike[np.array(users, dtype=object)[:, None] == np.array(self.pool.users, dtype=object)[None, :]] = -1
        order = np.argsort(-alike, axis=1, kind="stable")[:, : self.count]
        return [
            tuple(self.pool.example(row, self.texts, self.events) for row in reversed(rows.tolist()) if found[row] >= 0)
            for rows, found in zip(order, alike, strict=True)
        ]


def similarity(one: Ragged, other: Ragged) -> Floats:
    """Cosine of the sets of items of each two rows, [n, m]; 0 where one of them is empty."""
    a, b = (_sets(rows, max(int(part.values.max(initial=0)) for part in (one, other)) + 1) for rows in (one, other))
    size = np.sqrt(np.outer(a.sum(axis=1), b.sum(axis=1)))
    shared = np.asarray((a @ b.T).todense(), np.float64)
    return np.asarray(shared / np.maximum(size, 1))


def _sets(rows: Ragged, items: int) -> sp.csr_matrix:
    cell = np.unique(rows.rows * items + rows.values)
    return sp.csr_matrix((np.ones(len(cell)), np.divmod(cell, items)), shape=(len(rows), items))


def vote_k(alike: Floats, count: int) -> Ints:
    """`count` rows of the similarity matrix [n, n], in the order chosen (Su et al. 2022, algorithm 1).

    A row votes for its nearest neighbours with rho^-(how many of those are chosen already); the one of most votes by
    rows that are not chosen is next, of equals the first.
    """
    alike = alike.copy()
    np.fill_diagonal(alike, -np.inf)
    neighbours = min(_NEIGHBOURS, len(alike) - 1)
    voted = np.zeros(alike.shape, np.bool_)
    np.put_along_axis(voted, np.argsort(-alike, axis=1, kind="stable")[:, :neighbours], True, axis=1)
    chosen: list[int] = []
    for _ in range(count):
        weight = _DISCOUNT ** -voted[:, chosen].sum(axis=1).astype(np.float64)
        weight[chosen] = 0
        votes = np.round(weight @ voted, 9)  # equal votes are equal whatever the order of the sum
        votes[chosen] = -np.inf
        chosen.append(int(np.argmax(votes)))
    return np.array(chosen, np.int64)


def checkpoint_margins(pool: FewShotPool, way: TextScorer, texts: Sequence[str], intention: str) -> Floats:
    """How far the checkpoint prefers what each user took to a few other items of the pool, [users]; what it could not
    read is +inf."""
    asks = []
    for row in range(len(pool)):
        others = np.setdiff1d(pool.consumed, np.append(pool.history[row], pool.consumed[row]))
        drawn = np.random.default_rng(derive_seed("beside", pool.users[row])).permutation(others)[:_BESIDE]
        candidates = tuple(texts[code] for code in (pool.consumed[row], *drawn))
        asks.append(RankingQuery(intention, tuple(texts[code] for code in pool.history[row]), candidates))
    found = [np.inf if isinstance(answer, Failure) else _over_the_rest(answer) for answer in way.score(asks)]
    return np.nan_to_num(np.array(found, np.float64), nan=np.inf, posinf=np.inf)


def _over_the_rest(scores: Float32) -> float:
    return float(scores[0] - scores[1:].mean()) if len(scores) > 1 else np.inf
