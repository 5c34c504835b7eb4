"""Marginal propensities: P(an item is at a rank), whatever is above it.

The weights of IIPS (Li et al. 2018) are ratios of these. They are exact, but for an exploration floor:

- Plackett-Luce is a race: an item of weight w arrives after an exponential time of rate w, and its rank is 1 + how many
  arrived before (Yellott 1977). Given its time t, the others have arrived independently with 1 - exp(-w t), so
  P(rank) is one integral over t of the density times a Poisson-binomial probability. The trapezoid rule over log t
  converges exponentially, exp(-pi^2 / step).
- Greedy and epsilon-greedy depend on the number of better items that were taken, a Markov chain.
- A floor over either is neither: the mean of P(item here | ranks above) over DRAWS slates, drawn with the user's own
  random numbers. The number of draws bounds the cost; a marginal of p has a relative error below 1 / sqrt(DRAWS p).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rayrec.numerics.jit import jit
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Bools, Float64s, Int64s

DRAWS = 128
_STEP = 0.4  # of log t: a relative error of 1e-8 in float64
_EARLIEST = -8.0  # log t before which no two items arrive, where the rates sum to 1: P < 1e-6
_LATEST = 45.0  # exponent after which fewer than a slate's items have arrived with P < 1e-12


def plackett_luce_marginals(logits: Ragged, given: Ragged) -> Float64s:
    """P(this candidate at this rank) of given slates [values]; `given`: see `SlatePolicy.marginal`."""
    values, result = np.asarray(logits.values, np.float64), np.zeros(len(given.values))
    _race(values, logits.offsets, _local(given, logits), given.offsets, result)
    return result


def epsilon_greedy_marginals(better: Int64s, many: Int64s, rank: Int64s, epsilon: float) -> Float64s:
    """P(an item with `better` candidates of higher score, of `many`, is at `rank` from 0), all [cells]; epsilon 0 is
    greedy."""
    cells, deepest = len(rank), int(rank.max(initial=-1)) + 1
    result, taken = np.zeros(cells), np.zeros((cells, deepest + 1))  # P(so many better ones above, the item not)
    taken[:, 0] = 1
    is_best, number = np.arange(deepest + 1) == better[:, None], np.arange(deepest + 1)
    for above in range(deepest):
        left = np.maximum(many - above, 1)[:, None]
        item = (epsilon / left + np.where(is_best, 1 - epsilon, 0)) * (many > above)[:, None]
        here = rank == above
        result[here] = (taken * item).sum(axis=1)[here]
        another = np.clip(better[:, None] - number, 0, None)  # better ones that are left
        of_better = epsilon * another / left + np.where(another > 0, 1 - epsilon, 0)
        worse = np.clip(1 - item - of_better, 0, None)
        moved = taken * of_better
        taken = taken * worse
        taken[:, 1:] += moved[:, :-1]
    return result


def mixture_marginals(
    scores: Ragged,
    own: Bools,
    log_weight: Float64s,
    best_share: float,
    floor: float,
    given: Ragged,
    state: npt.NDArray[np.uint64],
) -> Float64s:
    """Sampled P(this candidate at this rank) of given slates [values].

    The policy shows, at each rank, any candidate with probability `floor`, else the best of its `own` with
    `best_share`, else one of its own by weight.

    `log_weight` [candidates]; `state`: uint64 [users], the random numbers of each user.
    """
    top = np.full(len(scores), -np.inf)
    np.maximum.at(top, scores.rows[own], log_weight[own])
    weight = np.zeros(len(own))
    weight[own] = np.exp(log_weight[own] - top[scores.rows[own]])
    order = np.lexsort((np.arange(len(own)), -scores.values.astype(np.float64), scores.rows))
    result, states = np.zeros(len(given.values)), state.astype(np.uint64)
    local = order - scores.offsets[scores.rows[order]]
    _draws(weight, own, local, scores.offsets, best_share, floor, _local(given, scores), given.offsets, states, result)
    return result


def _local(given: Ragged, of: Ragged) -> Int64s:
    """Places in the user's own row, [values]; −1 for no candidate."""
    return np.where(given.values >= 0, given.values - of.offsets[given.rows], -1)


@jit
def _race(logits, offsets, given, given_offsets, result):  # type: ignore[no-untyped-def]
    for user in range(len(offsets) - 1):
        first, ranks = given_offsets[user], given_offsets[user + 1] - given_offsets[user]
        values = logits[offsets[user] : offsets[user + 1]]
        many = len(values)
        if not many or not ranks:
            continue
        ranks = min(ranks, many)
        top = values.max()
        values = values - (top + np.log(np.exp(values - top).sum()))
        common = np.ones(many, np.bool_)
        for rank in range(ranks):
            place = given[first + rank]
            if place >= 0:
                common[place] = False
        # The last of `slowest` items to arrive: until then fewer than `ranks` have.
        ascending = np.sort(values)[: max(many - ranks + 1, 1)]
        slowest = ascending[-1] + np.log(np.exp(ascending - ascending[-1]).sum())
        nodes = int((np.log(_LATEST) - slowest - _EARLIEST) / _STEP) + 2
        before, after = np.empty(ranks), np.zeros((ranks + 1, ranks))
        if given[first] >= 0:
            result[first] = np.exp(values[given[first]])
        for node in range(nodes):
            x = _EARLIEST + _STEP * node
            before[:] = 0
            before[0] = 1
            for place in range(many):
                if common[place]:
                    _arrive(before, -np.expm1(-np.exp(values[place] + x)))
            after[:] = 0
            after[ranks, 0] = 1
            for rank in range(ranks - 1, -1, -1):
                after[rank] = after[rank + 1]
                if given[first + rank] >= 0:
                    _arrive(after[rank], -np.expm1(-np.exp(values[given[first + rank]] + x)))
            for rank in range(ranks):
                place = given[first + rank]
                if place < 0:
                    continue
                rate = np.exp(values[place] + x)
                if rank and rate < 700:
                    exactly = 0.0
                    for number in range(rank + 1):
                        exactly += before[number] * after[rank + 1, rank - number]
                    result[first + rank] += _STEP * rate * np.exp(-rate) * exactly
                _arrive(before, -np.expm1(-rate))


@jit
def _arrive(number, chance):  # type: ignore[no-untyped-def]
    """P(so many have arrived) [ranks] with one more item, which has arrived with this chance."""
    for m in range(len(number) - 1, 0, -1):
        number[m] = number[m] * (1 - chance) + number[m - 1] * chance
    number[0] *= 1 - chance


@jit
def _draws(  # type: ignore[no-untyped-def]
    weight, own, order, offsets, best_share, floor, given, given_offsets, states, result
):
    for user in range(len(offsets) - 1):
        start, many = offsets[user], offsets[user + 1] - offsets[user]
        first = given_offsets[user]
        ranks = min(given_offsets[user + 1] - first, many)
        state = states[user]
        for _ in range(DRAWS):
            left = np.ones(many, np.bool_)
            own_left, head = own[start : start + many].sum(), 0
            for rank in range(ranks):
                total = 0.0
                for place in range(many):
                    if left[place]:
                        total += weight[start + place]
                while head < many and not (left[order[start + head]] and own[start + order[start + head]]):
                    head += 1
                best = order[start + head] if head < many else -1
                uniform = 1.0 / (many - rank)
                place = given[first + rank]
                if place >= 0 and left[place]:
                    chance = uniform
                    if own_left > 0:
                        by_policy = 0.0
                        if own[start + place]:
                            by_weight = weight[start + place] / total if total > 0 else 1.0 / own_left
                            by_policy = best_share * (place == best) + (1 - best_share) * by_weight
                        chance = floor * uniform + (1 - floor) * by_policy
                    result[first + rank] += chance / DRAWS
                state, anywhere = _uniform(state)
                state, greedy = _uniform(state)
                state, point = _uniform(state)
                shown = -1
                if own_left > 0 and anywhere >= floor and greedy < best_share:
                    shown = best
                else:
                    from_all = own_left == 0 or anywhere < floor
                    by_count = from_all or total <= 0
                    whole = float(many - rank if from_all else own_left) if by_count else total
                    reached = 0.0
                    for candidate in range(many):
                        if left[candidate] and (from_all or own[start + candidate]):
                            shown = candidate
                            reached += 1.0 if by_count else weight[start + candidate]
                            if reached > point * whole:
                                break
                left[shown] = False
                own_left -= own[start + shown]


@jit
def _uniform(state):  # type: ignore[no-untyped-def]
    """The next state, and a number in [0, 1): splitmix64."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    z = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return state, (z >> np.uint64(11)) * 2.0**-53
