"""Counterfactual propensities: how another arm would have shown a logged slate, the numerator of off-policy weights.

At each rank, P(the target arm shows this item here | the ranks above), with the target's own scores, rules, diversifier
and pins. Where the target pins an item, that item has probability 1 and all others 0. The target's policy fills the
other ranks in order; an item that the logged slate shows at a pinned rank remains a candidate for them.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rayrec.data.schemas import COUNTERFACTUAL_PROPENSITY
from rayrec.numerics.hashing import derive_seed, hash_strings
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Float32s, Float64s, Int64s
from rayrec.slates.assembly import CandidatePool, SlateAssembler, slate_ids
from rayrec.slates.exploration_floor import drawn_places
from rayrec.slates.pins import pins_at
from rayrec.slates.policies import uniform_draws
from rayrec.slates.scored_candidates import ScoredCandidates

STORED_RANKS = 20  # per slate: lower ranks are rarely seen, and each costs a stored row
DRAWN_RANKS = 10  # ranks with draws from the target
DRAWS = 4


def slate_probabilities(stage: SlateAssembler, arm: str, pool: CandidatePool, slates: Ragged) -> Float32s:
    """Probabilities of given slates under this arm, aligned with `slates.values`.

    `slates`: ragged int64 item codes, one row per user of `pool` (the arm's own, rules applied).
    """
    rank = np.arange(len(slates.values)) - slates.offsets[slates.rows]
    drawn = np.minimum(pool.scored.scores.lengths, stage.policy_size)
    pinned, item = pins_at(rank, slates.rows, stage.rules.pin_ranks(drawn), stage.rules)
    result: Float32s = (item == slates.values).astype(np.float32)
    unpinned = slates.filter(~pinned)
    given = unpinned.like(_places(pool.scored, unpinned))
    result[~pinned] = stage.policy.probability(pool.scored, given, stage.policy_size, stage.seed(arm))
    return result


def slate_marginals(stage: SlateAssembler, arm: str, pool: CandidatePool, slates: Ragged) -> Float64s:
    """P(this arm shows this item at this rank), whatever is above, of given slates as in `slate_probabilities`; NaN
    below DRAWN_RANKS, and where the arm's policy does not know it."""
    rank = np.arange(len(slates.values)) - slates.offsets[slates.rows]
    result = np.full(len(rank), np.nan)
    head = slates.filter(rank < DRAWN_RANKS)
    rank, filled = rank[rank < DRAWN_RANKS], np.minimum(pool.scored.scores.lengths, stage.policy_size)
    pinned, item = pins_at(rank, head.rows, stage.rules.pin_ranks(filled), stage.rules)
    unpinned = head.filter(~pinned)
    found = stage.policy.marginal(pool.scored, unpinned.like(_places(pool.scored, unpinned)), stage.seed(arm))
    if found is not None:
        by_policy = np.arange(len(found)) - unpinned.offsets[unpinned.rows]  # rank among those that the policy fills
        within = (item == head.values).astype(np.float64)
        within[~pinned] = np.where(by_policy < stage.policy_size, found, 0.0)
        result[np.arange(len(slates.values)) - slates.offsets[slates.rows] < DRAWN_RANKS] = within
    return result


def counterfactual_rows(
    logged: str,
    target: str,
    arms: tuple[str, ...],
    run: str,
    pool: CandidatePool,
    slates: Ragged,
    stage: SlateAssembler,
    shown_first: Ragged,
    own_marginal: Float64s,
) -> pa.Table:
    """COUNTERFACTUAL_PROPENSITY of the first STORED_RANKS of `logged`'s slates under the arm `target`.

    `slates`: item codes, one row per user of `pool`; `stage` and `pool` (rules applied) are those of `target`.
    `shown_first`: item codes that `logged` may show first, one row per user. `own_marginal`: `slate_marginals` of
    `slates` under `logged`.
    """
    rank = np.arange(len(slates.values)) - slates.offsets[slates.rows]
    head = slates.filter(rank < STORED_RANKS)
    names = pa.DictionaryArray.from_arrays(
        np.full(len(head.values), arms.index(target), np.int8), pa.array(arms, pa.string())
    )
    columns = [
        slate_ids(run, logged, pool.scored.user_ids).take(pa.array(head.rows)),
        pa.array((rank[rank < STORED_RANKS] + 1).astype(np.int16)),
        names,
        pa.array(slate_probabilities(stage, target, pool, head)),
        pa.array(unsupported_share(stage, target, pool.scored, shown_first)[head.rows]),
        _drawn_column(drawn_codes(stage, target, pool.scored, head), stage.items.ids),
        _known(slate_marginals(stage, target, pool, head)),
        _known(own_marginal[rank < STORED_RANKS]),
    ]
    return pa.table(columns, schema=COUNTERFACTUAL_PROPENSITY)


def unsupported_share(stage: SlateAssembler, arm: str, scored: ScoredCandidates, shown_first: Ragged) -> Float32s:
    """Share of this arm's first choice on items that are not in `shown_first`, [users]; pins are left aside.

    Where it is above 0, an importance-weighted estimate misses that share of what the arm would show.
    """
    chance = stage.policy.first_choice(scored, stage.seed(arm)).astype(np.float64)
    keys = scored.scores.rows << 32 | scored.candidate.values
    missing = ~np.isin(keys, shown_first.rows << 32 | shown_first.values.astype(np.int64))
    share = np.bincount(scored.scores.rows[missing], chance[missing], minlength=len(scored))
    return np.clip(share, 0, 1).astype(np.float32)


def drawn_codes(stage: SlateAssembler, arm: str, scored: ScoredCandidates, slates: Ragged) -> Int64s:
    """Item codes [values, DRAWS] that this arm would show at each place of given slates, drawn given the ranks above;
    −1 below DRAWN_RANKS and where the arm shows nothing.

    Systematic draws: one uniform number a place, at DRAWS equal distances. Their mean of any function of the item is
    unbiased, with less variance than that of independent draws.
    """
    rank = np.arange(len(slates.values)) - slates.offsets[slates.rows]
    filled = np.minimum(scored.scores.lengths, stage.policy_size)
    pinned, pin = pins_at(rank, slates.rows, stage.rules.pin_ranks(filled), stage.rules)
    place = np.where(pinned, -1, _places(scored, slates))
    drawn_above: Int64s = np.cumsum(~pinned) - ~pinned
    by_policy = drawn_above - drawn_above[slates.offsets[:-1][slates.rows]]  # ranks above that the policy fills
    found = np.where(pinned[:, None], pin[:, None], -1).repeat(DRAWS, axis=1).astype(np.int64)
    found[rank >= DRAWN_RANKS] = -1
    heads = np.minimum(slates.lengths, DRAWN_RANKS)
    uniform = uniform_draws(derive_seed(stage.seed(arm), "drawn"), scored.user_ids, heads)[0]
    left = np.ones(len(scored.candidate.values), np.bool_)
    for now in range(int(heads.max(initial=0))):
        at = np.flatnonzero((rank == now) & ~pinned & (by_policy < stage.policy_size))
        remaining = np.bincount(scored.scores.rows[left], minlength=len(scored))
        at = at[remaining[slates.rows[at]] > 0]
        users = slates.rows[at]
        chance = np.zeros(len(left))
        chance[left] = stage.policy.first_choice(scored.filter(left), stage.seed(arm))
        start = uniform[np.cumsum(heads)[users] - heads[users] + now]
        points = (start[:, None] + np.arange(DRAWS)) / DRAWS
        found[at] = scored.candidate.values[drawn_places(scored.scores.like(chance), users, points)]
        shown = place[rank == now]
        left[shown[shown >= 0]] = False
    return found


def _drawn_column(codes: Int64s, item_id: pa.Array) -> pa.ListArray:
    """The column `drawn` of item codes [values, DRAWS]."""
    known = codes[:, 0] >= 0
    used, at = np.unique(codes[known], return_inverse=True)
    hashes = hash_strings(item_id.take(pa.array(used)))[at.reshape(-1)] if len(used) else np.zeros(0, np.uint64)
    lists = Ragged.from_lengths(hashes, np.full(int(known.sum()), DRAWS)).to_arrow(pa.uint64())
    where = np.where(known, np.cumsum(known) - 1, -1)
    return lists.take(pa.array(where, mask=~known))


def _known(values: Float64s) -> pa.Array:
    return pa.array(values.astype(np.float32), mask=np.isnan(values))


def first_items(stage: SlateAssembler, arm: str, scored: ScoredCandidates) -> Ragged:
    """Item codes that an arm shows first with a probability above 0, one row per user."""
    return scored.candidate.filter(stage.policy.first_choice(scored, stage.seed(arm)) > 0)


def _places(scored: ScoredCandidates, codes: Ragged) -> Int64s:
    """Flat position of each item among its user's candidates, [values]; −1 if it is not a candidate."""
    keys = scored.scores.rows << 32 | scored.candidate.values
    wanted = codes.rows << 32 | codes.values.astype(np.int64)
    if not len(keys):
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(keys)
    at = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
    return np.where(keys[at] == wanted, at, -1)
