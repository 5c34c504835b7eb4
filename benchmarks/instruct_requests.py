"""Requests and evaluation sets of the instruction benchmark, and the metrics of a ranking of all items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.instruct_out_of_distribution import out_of_distribution_request
from rayrec.instructions.facet_scheme import BELOW, CATEGORY, DECADE, WORD
from rayrec.instructions.facets import Facets
from rayrec.instructions.teachers.instruction_simulator import InstructionSimulator
from rayrec.numerics.ragged import Ragged

Int = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Scores = Callable[[Int], Floats]  # users [n] -> [n, items]

_BLOCK = 256  # users
_FEWEST = 20  # known items with a requested facet, at least
NEGATIVES = 99


@dataclass(frozen=True)
class EvaluationSet:
    """The evaluated users, the one item that each consumed next, and the negatives beside it in short lists."""

    users: Int  # rows of the case's history
    target: Int  # item codes
    negatives: Int  # [users, NEGATIVES] codes of unseen items, drawn evenly

    @classmethod
    def of(cls, history: Ragged, wanted: Ragged, items: int, known: Bools, seed: int, most: int) -> EvaluationSet:
        """Up to `most` users with something wanted; of several wanted items one is drawn.

        Targets and the others beside them are `known` items [items]: all rankers have seen them.
        """
        rng = np.random.default_rng([seed, 1])
        usable = wanted.filter(known[wanted.values])
        users = np.flatnonzero((usable.lengths > 0) & (history.lengths > 0))
        users = np.sort(rng.permutation(users)[:most])
        pick = (rng.random(len(users)) * usable.lengths[users]).astype(np.int64)
        target = usable.values[usable.offsets[users] + pick].astype(np.int64)
        pool = np.flatnonzero(known)
        negatives = np.empty((len(users), NEGATIVES), np.int64)
        for row, user in enumerate(users):
            excluded = np.append(history[user], usable[user])
            fresh = np.setdiff1d(
                rng.choice(pool, min(4 * NEGATIVES + len(excluded), len(pool)), replace=False), excluded
            )
            negatives[row] = rng.permutation(fresh)[:NEGATIVES]
        return cls(users, target, negatives)


def metrics_by_user(
    scores: Scores, evaluation: EvaluationSet, history: Ragged, satisfied: Bools | None = None
) -> dict[str, Floats]:
    """Measures of each user [users]; `satisfied` [users, items]: what satisfies the request."""
    parts = [
        _block(scores, evaluation, history, satisfied, slice(start, start + _BLOCK))
        for start in range(0, len(evaluation.users), _BLOCK)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _block(
    scores: Scores, evaluation: EvaluationSet, history: Ragged, satisfied: Bools | None, rows: slice
) -> dict[str, Floats]:
    users, target = evaluation.users[rows], evaluation.target[rows]
    found = scores(users).astype(np.float64)
    found[~np.isfinite(found)] = -1e300  # what is not scored ties with all that is not
    past = history.take(users)
    found[past.rows, past.values] = -np.inf
    own = found[np.arange(len(users)), target]
    rank = (found > own[:, None]).sum(1) + (found == own[:, None]).sum(1) // 2  # ties: the middle
    negative_scores = np.take_along_axis(found, evaluation.negatives[rows], axis=1)
    above = (negative_scores > own[:, None]) + 0.5 * (negative_scores == own[:, None])
    out = {
        "nDCG@10": np.where(rank < 10, 1 / np.log2(rank + 2), 0),
        "HR@10": rank < 10,
        "HR@1": rank < 1,
        "HR@1 of 100": above.sum(1) < 1,
        "HR@5 of 100": above.sum(1) < 5,
        "HR@10 of 100": above.sum(1) < 10,
        "HR@1 of 10": above[:, :9].sum(1) < 1,
        "HR@5 of 10": above[:, :9].sum(1) < 5,
    }
    if satisfied is not None:
        top = np.argpartition(-found, 10, axis=1)[:, :10]
        out["satisfied@10"] = np.take_along_axis(satisfied[rows], top, axis=1).mean(1)
    return {name: np.asarray(values, np.float32) for name, values in out.items()}


@dataclass(frozen=True)
class FacetRequests:
    """One request a user that names facets, not the held-out item, and what satisfies it."""

    include: Int  # [users, 2]
    satisfied: Bools  # [users, items]

    def words(self, facets: Facets, split: str) -> list[str]:
        """The requests in the phrases of a split."""
        teacher = InstructionSimulator(facets, split)  # type: ignore[arg-type]
        return [teacher.phrase(wanted, number=number) for number, wanted in enumerate(self._facets_by_user())]

    def out_of_distribution(self, facets: Facets) -> list[str | None]:
        """The whole texts before the history, as out-of-distribution paraphrases; None where there are none."""
        named = ({facets.kind[facet]: facets.name[facet] for facet in wanted} for wanted in self._facets_by_user())
        return [out_of_distribution_request(names, number) for number, names in enumerate(named)]

    def _facets_by_user(self) -> list[list[int]]:
        return [[facet for facet in row if facet >= 0] for row in self.include.tolist()]


def requestable_kinds(facets: Facets) -> tuple[str, ...]:
    """The kinds of requested facets: categories (or else words of titles), and decades (or else prices) if any."""
    first = CATEGORY if CATEGORY in facets.kind else WORD
    return (first, *[kind for kind in (DECADE, BELOW) if kind in facets.kind][:1])


def facet_requests(facets: Facets, pairs: Int, users: int, kind: str, seed: int, known: Bools) -> FacetRequests:
    """`kind`: one of `requestable_kinds`, "both" (pairs that tuning may have met) or "unseen" (held-out pairs)."""
    rng = np.random.default_rng([seed, 2])
    include = np.full((users, 2), -1)
    if kind in requestable_kinds(facets):
        size = np.bincount(facets.of_item.values[known[facets.of_item.rows]], minlength=len(facets))
        include[:, 0] = rng.choice([n for n, k in enumerate(facets.kind) if k == kind and size[n] >= _FEWEST], users)
    else:
        unseen = {tuple(pair) for pair in np.sort(pairs, axis=1).tolist()}
        common = [pair for pair in both_of(facets, known) if (pair in unseen) == (kind == "unseen")]
        include = np.array(common)[rng.integers(0, len(common), users)]
    masks: dict[tuple[int, ...], Bools] = {}
    for row in include.tolist():
        masks.setdefault(tuple(row), facets.items_of([facet for facet in row if facet >= 0]))
    return FacetRequests(include, np.stack([masks[tuple(row)] for row in include.tolist()]))


def both_of(facets: Facets, known: Bools) -> list[tuple[int, int]]:
    """Pairs of facets of the two spoken kinds, ascending, that enough of the known items have."""
    first, *second = requestable_kinds(facets)
    one, other = ([n for n, kind in enumerate(facets.kind) if kind in kinds] for kinds in ((first,), second))
    return [
        (min(a, b), max(a, b)) for a in one for b in other if int((facets.items_of([a, b]) & known).sum()) >= _FEWEST
    ]
