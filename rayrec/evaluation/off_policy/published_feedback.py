"""Feedback on published slates: does it fit what was published, and what would other arms have earned.

Arms are judged by logged propensities and COUNTERFACTUAL_PROPENSITY rows, both P(item here | the ranks above), so by self-normalised SIPS
and RIPS and by cascade-DR. IIPS needs marginal propensities, which nobody stores. The expectation of a q(item) under
the target needs the target's propensities of all items, which are not stored either: cascade-DR here has a q of the
rank alone, the mean reward from that rank on, whose expectation under any target is itself. That is honest, and takes
away the variance that comes from the weights; a q that knows items is for callers of `rayrec.evaluation.off_policy.slate_estimators`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.schemas import FEEDBACK
from rayrec.errors import DataError
from rayrec.evaluation.off_policy.action_estimators import on_policy
from rayrec.evaluation.off_policy.diagnostics import support_problem
from rayrec.evaluation.off_policy.estimates import (
    Codes,
    Contributions,
    Estimate,
    Floats,
    effective_sample_size,
    interval,
)
from rayrec.evaluation.off_policy.slate_estimators import (
    Mask,
    cascade_dr,
    conditional_weights,
    prefix_weights,
    sn_rips,
    sn_sips,
)
from rayrec.numerics.hashing import hash_strings

DEPTH = 10
FOLDS = 2

MATCHED = pa.schema([*FEEDBACK, pa.field("user_id", pa.string()), pa.field("arm", pa.string())])
"""Feedback on what was published."""

UNMATCHED = pa.schema([*FEEDBACK, pa.field("reason", pa.string(), nullable=False)])
"""Feedback that cannot be used, and why: see `match_published`."""

OFF_POLICY_ESTIMATES = pa.schema(
    [
        pa.field("logging", pa.string(), nullable=False),  # the arm whose slates were shown
        pa.field("target", pa.string(), nullable=False),  # the arm that is judged by them
        pa.field("estimator", pa.string(), nullable=False),
        pa.field("value", pa.float64()),  # expected sum of the rewards of a slate's first ranks
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("standard_error", pa.float64()),
        pa.field("slates", pa.int64(), nullable=False),
        pa.field("effective_sample_size", pa.float64(), nullable=False),
        pa.field("refused", pa.string()),  # why there is no estimate; null where there is one
    ]
)

_PROPENSITY_TOLERANCE = 1e-4  # relative: what a detour through text may cost


def match_published(feedback: pa.Table, slates: pa.Table) -> tuple[pa.Table, pa.Table]:
    """FEEDBACK joined to SLATE rows by (slate_id, rank): MATCHED and UNMATCHED, each in feedback's order.

    `unknown_slate`: no such slate; `not_what_was_published`: another item, or a rank beyond the slate's end;
    `propensity_differs`: by more than 1e-4 relative; `incomplete_slate`: fine itself, but a rank of its slate is not,
    and what a user saw of half a slate cannot be weighed.
    """
    keys = ["slate_id", "rank"]
    published = slates.select([*keys, "item_id", "propensity", "user_id", "arm"]).to_pandas()
    if published.duplicated(keys).any():
        twice = published[published.duplicated(keys)].iloc[0]
        raise DataError(
            "the same published slate is given twice", where=f"slate {twice['slate_id']}", hint="read each day once"
        )
    given = feedback.select(FEEDBACK.names).to_pandas()
    joined = given.merge(published, on=keys, how="left", suffixes=("", "_published"))
    known = joined["slate_id"].isin(published["slate_id"]).to_numpy()
    same = (joined["item_id"] == joined["item_id_published"]).to_numpy()
    logged = joined["propensity_published"].to_numpy(np.float64)
    close = np.abs(joined["propensity"].to_numpy(np.float64) - logged) <= _PROPENSITY_TOLERANCE * logged
    alone = np.select(
        [~known, ~same, ~close], ["unknown_slate", "not_what_was_published", "propensity_differs"], ""
    ).astype(object)
    touched = joined["slate_id"].isin(joined["slate_id"][alone != ""]).to_numpy()
    reason = np.where((alone == "") & touched, "incomplete_slate", alone)
    good = pa.array(reason == "")
    columns = [feedback[name] for name in FEEDBACK.names]
    owners = [pa.array(joined[name], pa.string(), from_pandas=True) for name in ("user_id", "arm")]
    matched = pa.table([*columns, *owners], schema=MATCHED).filter(good)
    return matched, pa.table([*columns, pa.array(reason, pa.string())], schema=UNMATCHED).filter(pc.invert(good))


@dataclass(frozen=True)
class _Log:
    """Slates of one logging arm, [n, K], in the order of first appearance."""

    slate_id: pa.Array  # [n]
    user: Codes  # [n]: intervals are clustered by it
    fold: Codes  # [n]
    reward: Floats
    propensity: Floats
    mask: Mask

    def rows(self, keep: Mask) -> _Log:
        columns = (self.reward[keep], self.propensity[keep], self.mask[keep])
        return _Log(self.slate_id.filter(pa.array(keep)), self.user[keep], self.fold[keep], *columns)


def estimate_arms(matched: pa.Table, targets: pa.Table, depth: int = DEPTH) -> pa.Table:
    """OFF_POLICY_ESTIMATES of every arm by the slates of every other, and of each arm by its own (`on_policy`).

    Only the first `depth` ranks count, at most as many as COUNTERFACTUAL_PROPENSITY holds. A target is judged on slates for which COUNTERFACTUAL_PROPENSITY
    has every rank shown: slates in which chance had no part are not among them, so compare it with estimates of the
    same `slates`.
    Intervals are clustered by user.
    """
    if depth < 1:
        raise DataError(f"a depth of {depth} ranks leaves nothing to judge", hint="give a depth of at least 1")
    shown = matched.filter(pc.less_equal(matched["rank"], depth))
    offered = targets.filter(pc.less_equal(targets["rank"], depth))
    rows: list[dict[str, object]] = []
    arms = sorted(set(shown["arm"].to_pylist()))
    judged = sorted({*arms, *pc.unique(offered["target"].cast(pa.string())).to_pylist()})
    for arm in arms:
        log = _log(shown.filter(pc.equal(shown["arm"], arm)))
        rows.append(_own_row(arm, log))
        for target in judged:
            if target != arm:
                its = offered.filter(pc.equal(offered["target"].cast(pa.string()), target))
                rows += _target_rows(arm, target, log, its)
    return pa.Table.from_pylist(rows, OFF_POLICY_ESTIMATES)


def _log(feedback: pa.Table) -> _Log:
    slate = feedback["slate_id"].combine_chunks().dictionary_encode()
    codes, column = slate.indices.to_numpy(), feedback["rank"].to_numpy().astype(np.int64) - 1
    shape = (len(slate.dictionary), int(column.max()) + 1)
    reward, propensity, mask = np.zeros(shape), np.ones(shape), np.zeros(shape, bool)
    reward[codes, column] = feedback["reward"].to_numpy()
    propensity[codes, column] = feedback["propensity"].to_numpy()
    mask[codes, column] = True
    first = np.unique(codes, return_index=True)[1]
    user_id = feedback["user_id"].combine_chunks().take(pa.array(first))
    user = user_id.dictionary_encode().indices.to_numpy().astype(np.int64)
    # By the user rather than the slate: a q must not have seen the user's other days either.
    fold = (hash_strings(user_id) % np.uint64(FOLDS)).astype(np.int64)
    return _Log(slate.dictionary, user, fold, reward, propensity, mask)


def _own_row(arm: str, log: _Log) -> dict[str, object]:
    own = on_policy(log.reward.sum(axis=1))
    if len(np.unique(log.user)) < 2:
        return _refused_row(arm, arm, own.name, len(log.user), float(len(log.user)), "fewer than two users")
    return _row(arm, arm, interval(own, log.user))


def _target_rows(arm: str, target: str, log: _Log, offered: pa.Table) -> Iterator[dict[str, object]]:
    above = _target_propensities(log, offered)
    whole = np.isfinite(above).min(axis=1)
    log, above = log.rows(whole), above[whole]
    weight = conditional_weights(above, log.propensity, log.mask)
    q = _reward_to_go(log)
    prefix = prefix_weights(weight, log.mask)
    for name, weights in (("sn_sips", prefix[:, -1:]), ("sn_rips", prefix), ("cascade_dr", prefix)):
        problem = _problem(weights, log)
        if problem:
            yield _refused_row(arm, target, name, len(above), effective_sample_size(weights), problem)
        else:
            yield _row(arm, target, interval(_contributions(name, log, weight, q), log.user))


def _problem(weights: Floats, log: _Log) -> str | None:
    if not len(weights):
        return "of no slate are all ranks in COUNTERFACTUAL_PROPENSITY: chance had no part in them, or the depth is beyond what is stored"
    if len(np.unique(log.user)) < 2:
        return "fewer than two users"
    return support_problem(weights, log.propensity[log.mask])


def _contributions(name: str, log: _Log, weight: Floats, q: Floats) -> Contributions:
    if name == "cascade_dr":
        return cascade_dr(log.reward, weight, q, q, log.mask)
    return {"sn_sips": sn_sips, "sn_rips": sn_rips}[name](log.reward, weight, log.mask)


def _target_propensities(log: _Log, offered: pa.Table) -> Floats:
    """[n, K]; 1 past a slate's end, NaN where no COUNTERFACTUAL_PROPENSITY row says."""
    found = np.where(log.mask, np.nan, 1.0)
    at = pc.index_in(offered["slate_id"].combine_chunks(), value_set=log.slate_id)
    known = at.is_valid().to_numpy(zero_copy_only=False)
    row = at.drop_null().to_numpy()
    column = offered["rank"].to_numpy()[known].astype(np.int64) - 1
    inside = column < found.shape[1]
    row, column = row[inside], column[inside]
    propensity = offered["propensity"].to_numpy()[known][inside]
    found[row, column] = np.where(log.mask[row, column], propensity, 1.0)
    return found


def _reward_to_go(log: _Log) -> Floats:
    """q of cascade-DR, [n, K]: the mean reward from each rank on in the other folds; 0 past a slate's end.

    Slates without a rank do not count there. A fold that is alone has q = 0, which makes it RIPS.
    """
    to_go = np.cumsum(log.reward[:, ::-1], axis=1)[:, ::-1]
    q = np.zeros_like(to_go)
    for fold in range(FOLDS):
        other = log.fold != fold
        there = log.mask[other]
        sums, counts = np.where(there, to_go[other], 0).sum(axis=0), there.sum(axis=0)
        q[~other] = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
    return np.where(log.mask, q, 0.0)


def _row(logging: str, target: str, found: Estimate) -> dict[str, object]:
    named = {"logging": logging, "target": target, "estimator": found.name, "value": found.value}
    ends = {"low": found.low, "high": found.high, "standard_error": found.standard_error}
    return {**named, **ends, "slates": found.observations, "effective_sample_size": found.effective_sample_size}


def _refused_row(
    logging: str, target: str, estimator: str, slates: int, size: float, no_estimate_reason: str
) -> dict[str, object]:
    named = {"logging": logging, "target": target, "estimator": estimator}
    return {**named, "slates": slates, "effective_sample_size": size, "refused": no_estimate_reason}
