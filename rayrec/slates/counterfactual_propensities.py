"""Counterfactual propensities: how another arm would have shown a logged slate, the numerator of off-policy weights.

At each rank, P(the target arm shows this item here | the ranks above), with the target's own scores, rules, diversifier
and pins. Where the target pins an item, that item has probability 1 and all others 0. The target's policy fills the
other ranks in order; an item that the logged slate shows at a pinned rank remains a candidate for them.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rayrec.data.schemas import COUNTERFACTUAL_PROPENSITY
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Float32s, Int64s
from rayrec.slates.assembly import CandidatePool, SlateAssembler, slate_ids
from rayrec.slates.pins import pins_at
from rayrec.slates.scored_candidates import ScoredCandidates

STORED_RANKS = 20  # per slate: lower ranks are rarely seen, and each costs a stored row


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


def counterfactual_rows(
    logged: str,
    target: str,
    arms: tuple[str, ...],
    run: str,
    pool: CandidatePool,
    slates: Ragged,
    stage: SlateAssembler,
    shown_first: Ragged,
) -> pa.Table:
    """COUNTERFACTUAL_PROPENSITY of the first STORED_RANKS of `logged`'s slates under the arm `target`.

    `slates`: item codes, one row per user of `pool`; `stage` and `pool` (rules applied) are those of `target`.
    `shown_first`: item codes that `logged` may show first, one row per user.
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
