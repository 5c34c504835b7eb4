"""Evaluation of the published slates on later interactions: every arm, and each retriever alone.

Standalone retrievers rank with the run's item model through its candidate stage, without denoising and without LLM.
This is slower than reading slates, so only a sample of the users is ranked (STANDALONE_SAMPLE_USERS). If the item model
was deleted, as on older dates after an erasure, only the arms are evaluated.

Where every user has a slate of every arm, only users who consumed something new are evaluated: the others say nothing
about the order of the items. In a split experiment the arm itself may turn users into consumers, so every assigned user
is evaluated, and the decision rests on outcomes per assigned user.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from rayrec.errors import ConfigError, DataError
from rayrec.evaluation.beyond_accuracy import beyond_accuracy
from rayrec.evaluation.comparison import COMPARISON, compare, holm_adjusted
from rayrec.evaluation.cuped import adjust
from rayrec.evaluation.intent_metrics import intent_metrics
from rayrec.evaluation.metrics import ADJUSTED, RelevantItems, UserMetrics, outcome_metrics, shown_metrics, user_metrics
from rayrec.evaluation.off_policy.interleaving import interleaving
from rayrec.evaluation.published_run import PublishedRun, is_participant
from rayrec.evaluation.segments import SegmentFeatures, segments
from rayrec.experiments.sample_ratio import sample_ratio_p
from rayrec.numerics.hashing import derive_seed, hash_strings, shard_of, splitmix64
from rayrec.numerics.types import Bools, Int64s

STANDALONE_SAMPLE_USERS = 20_000  # users of the standalone retrievers, by their stable hash
PRIMARY_METRIC = "ndcg@10"  # the metric of the decision where every user is in every arm
SPLIT_METRIC = "conversion_cuped"  # the metric of the decision in a split experiment


@dataclass(frozen=True)
class SlateEvaluation:
    """`comparison`: COMPARISON rows of arms and retrievers; differences from the best retriever and the baseline."""

    comparison: pa.Table
    users: int
    events: int  # distinct relevant (user, item) pairs
    best_standalone: str | None  # the retriever with the highest nDCG@10, selected on these same users
    baseline: str  # the arm that the others are compared with
    decision_metric: str  # PRIMARY_METRIC or SPLIT_METRIC
    sample_ratio_p: float  # of the evaluated users by arm; 1 where every user is in every arm
    interleaving: pa.Table  # INTERLEAVING of the arms with the baseline
    left_out: str = ""  # what could not be evaluated, and why


@dataclass(frozen=True)
class MeasuredDate:
    """The metrics of a published date by user, before any comparison."""

    published: PublishedRun
    relevant: RelevantItems  # of all evaluated users
    arms: list[UserMetrics]
    standalone: list[UserMetrics]
    features: SegmentFeatures


@dataclass(frozen=True)
class _Part:
    """The metrics of one shard."""

    relevant: RelevantItems
    arms: list[UserMetrics]
    standalone: list[UserMetrics]  # on the sample
    features: SegmentFeatures


def evaluate_slates(
    root: str,
    day: date,
    relevant: pa.Table,
    *,
    min_events: int = 1,
    others: Mapping[str, pa.Table] | None = None,
    baseline: str | None = None,
) -> SlateEvaluation:
    """Evaluate a published date on `relevant` (columns user_id, item_id: each user's relevant items).

    The users are those with a slate and at least `min_events` positive events in their history; where every user is in
    every arm, also with a relevant item. Relevant items are those in the catalogue and, if slates exclude seen items,
    new to the user. `others`: more systems, as slates
    (user_id, rank, item_id). `baseline`: an arm, by default the first. Raises PublicationError if the date is not
    published, ConfigError for an unknown baseline, DataError if no user remains.
    """
    measured = measure_date(root, day, relevant, min_events=min_events, others=others)
    published, arms, standalone = measured.published, measured.arms, measured.standalone
    features, relevant_items = measured.features, measured.relevant.matrix
    chosen = resolve_baseline(published.manifest.arms, baseline)
    seed = derive_seed("evaluate", published.manifest.run_id)
    by_segment = list(segments(features, published.item_statistics.categories))
    if not published.shares_users:
        arms = _adjusted(arms, features)
    retrievers = [system for system in standalone if system.system not in (others or {})]
    best = max(retrievers, key=lambda system: float(np.nanmean(system.values[PRIMARY_METRIC])), default=None)
    best_standalone = None if best is None else best.system
    metric = PRIMARY_METRIC if published.shares_users else SPLIT_METRIC
    return SlateEvaluation(
        _compare(arms, standalone, by_segment, best_standalone, chosen, metric, seed),
        relevant_items.shape[0],
        int(relevant_items.nnz),
        best_standalone,
        chosen,
        metric,
        _sample_ratio_p(published, arms),
        interleaving(arms, relevant_items, chosen, seed),
        published.left_out,
    )


def measure_date(
    root: str, day: date, relevant: pa.Table, *, min_events: int = 1, others: Mapping[str, pa.Table] | None = None
) -> MeasuredDate:
    """The metrics of every user of a published date; see `evaluate_slates`."""
    published = PublishedRun.open(root, day)
    parts = list(_parts(published, relevant, min_events, others or {}))
    if not parts:
        raise DataError(
            f"none of the {published.manifest.users.published:,} users with a slate on {day} has a relevant item",
            hint="choose a longer --horizon-days, or check that the config is the one of the run",
        )
    user_id = pa.concat_arrays([part.relevant.user_id for part in parts])
    matrix = sp.vstack([part.relevant.matrix for part in parts], format="csr")
    return MeasuredDate(
        published,
        RelevantItems(user_id, parts[0].relevant.item_id, matrix),
        _concat([part.arms for part in parts]),
        _concat([part.standalone for part in parts]),
        SegmentFeatures.concat([part.features for part in parts]),
    )


def resolve_baseline(arms: tuple[str, ...], name: str | None) -> str:
    """The baseline arm: the given name, else the first arm."""
    if name is not None and name not in arms:
        raise ConfigError(f"there is no arm {name!r}", where="--baseline", hint=f"use one of {', '.join(arms)}")
    return name or arms[0]


def _parts(
    published: PublishedRun, relevant: pa.Table, min_events: int, others: Mapping[str, pa.Table]
) -> Iterator[_Part]:
    """Metrics of every shard with users to evaluate; their `rows` index the users of all shards."""
    user_id, item_id = (relevant[name].combine_chunks().cast(pa.string()) for name in ("user_id", "item_id"))
    users = pc.unique(user_id)
    shard = shard_of(users, published.manifest.shards)
    pair_shard = shard[pc.index_in(user_id, users).to_numpy()]
    shards, many = np.unique(shard).tolist(), len(users)
    if not published.shares_users:
        shards, many = list(range(published.manifest.shards)), published.manifest.users.published
    sample, before = STANDALONE_SAMPLE_USERS / max(many, 1), 0
    for number in shards:
        mine = pa.array(pair_shard == number)
        pairs = user_id.filter(mine), item_id.filter(mine)
        part = _evaluate_shard(published, number, *pairs, min_events, others, sample, before)
        if part is not None:
            yield part
            before += len(part.relevant)


def _evaluate_shard(
    published: PublishedRun,
    shard: int,
    user_id: pa.Array,
    item_id: pa.Array,
    min_events: int,
    others: Mapping[str, pa.Table],
    sample: float,
    before: int,
) -> _Part | None:
    """Metrics of one shard from (user, item) pairs; `before`: number of users in the previous shards."""
    consumers_only = published.shares_users
    histories = published.histories(shard, pc.unique(user_id) if consumers_only else None, min_events)
    if published.retrieval.exclude_seen:
        new = published.is_unseen(histories, user_id, item_id)
        user_id, item_id = user_id.filter(new), item_id.filter(new)
    users = histories["user_id"].combine_chunks()
    if consumers_only:
        users = users.filter(pc.is_in(users, pc.unique(user_id)))
    users = users.filter(pa.array(is_participant(published.manifest, users)))
    slates = {arm: published.slates(shard, arm, users) for arm in published.manifest.arms}
    with_slate = [slate["user_id"].combine_chunks().unique().cast(pa.string()) for slate in slates.values()]
    served = users.filter(pc.is_in(users, pc.unique(pa.concat_arrays(with_slate))))
    if consumers_only:
        relevant = RelevantItems.from_pairs(user_id, item_id, published.item_id).restrict_to(served)
    else:
        relevant = RelevantItems.from_pairs(user_id, item_id, published.item_id, served)
    if not len(relevant):
        return None
    features, category_shares = published.segment_features(histories, relevant)

    def metrics_of(system: str, table: pa.Table, rows: Int64s) -> UserMetrics:
        mine, items = relevant.take(rows), published.item_statistics
        found = user_metrics(system, table, mine)
        if published.withholds and system in published.manifest.arms:
            found = replace(found, values=found.values | shown_metrics(table, mine))
        by_intent = intent_metrics(found.top, mine, items.category)
        beyond = beyond_accuracy(found.top, items, category_shares[rows])
        return replace(found, values=found.values | by_intent | beyond, rows=rows + before)

    every = np.arange(len(relevant))
    arm_rows = [every if published.shares_users else _rows_of(relevant, users) for users in with_slate]
    arms = [metrics_of(arm, table, rows) for (arm, table), rows in zip(slates.items(), arm_rows, strict=True)]
    if not consumers_only:
        mine = (relevant.take(rows) for rows in arm_rows)
        arms = [
            replace(arm, values=outcome_metrics(arm, own) | arm.values) for arm, own in zip(arms, mine, strict=True)
        ]
    point = splitmix64(hash_strings(relevant.user_id)) * 2.0**-64
    sampled = np.flatnonzero(point < sample)
    in_sample = pc.is_in(histories["user_id"], relevant.user_id.take(pa.array(sampled)))
    rankings = [*published.standalone(histories.filter(in_sample).combine_chunks()), *others.items()]
    standalone = [metrics_of(name, table, sampled) for name, table in rankings]
    return _Part(relevant, arms, standalone, features)


def _adjusted(arms: list[UserMetrics], features: SegmentFeatures) -> list[UserMetrics]:
    """Add the outcomes adjusted for past activity (CUPED) to arms with users of their own."""
    rows = np.concatenate([arm.rows for arm in arms])
    of_arm = np.repeat(np.arange(len(arms)), [len(arm) for arm in arms])
    for adjusted, outcome in reversed(ADJUSTED.items()):
        found = adjust(np.concatenate([arm.values[outcome] for arm in arms]), of_arm, features.activity[rows])
        parts = np.split(found, np.cumsum([len(arm) for arm in arms])[:-1])
        arms = [replace(arm, values={adjusted: own} | arm.values) for arm, own in zip(arms, parts, strict=True)]
    return arms


def _sample_ratio_p(published: PublishedRun, arms: Sequence[UserMetrics]) -> float:
    if published.shares_users:
        return 1.0
    share = {name: arm.get("share", 1.0) for name, arm in published.arm_settings.items()}
    return sample_ratio_p([len(arm) for arm in arms], [share[arm.system] for arm in arms])


def _rows_of(relevant: RelevantItems, users: pa.Array) -> Int64s:
    return np.flatnonzero(pc.is_in(relevant.user_id, users).to_numpy(zero_copy_only=False))


def _concat(parts: Sequence[list[UserMetrics]]) -> list[UserMetrics]:
    """Concatenate the metrics of each system over all shards."""
    return [UserMetrics.concat(list(of_one)) for of_one in zip(*parts, strict=True)]


def _compare(
    arms: list[UserMetrics],
    alone: list[UserMetrics],
    segments: list[tuple[str, Bools]],
    best_standalone: str | None,
    baseline: str,
    metric: str,
    seed: int,
) -> pa.Table:
    """Values of all systems; differences of arms from the best retriever, and from the baseline, also by segment."""
    tables = [compare(alone, seed=seed, baselines=[] if best_standalone is None else [best_standalone])]
    if best_standalone is not None:
        base = next(system for system in alone if system.system == best_standalone)
        with_best = compare([base, *arms], seed=seed, baselines=[best_standalone])
        tables.append(with_best.filter(pc.equal(with_best["baseline"], best_standalone)))
    tables.append(compare(arms, seed=seed, baselines=[baseline]))
    by_segment, family = [], len(segments) * (len(arms) - 1)
    for name, users in segments:
        inside = [arm.take(users[arm.rows]) for arm in arms]
        found = compare(inside, seed=seed, baselines=[baseline], segment=name, metrics=[metric], family=family)
        by_segment += found.to_pylist()
    values = [row for row in by_segment if row["baseline"] is None]
    differences = holm_adjusted([row for row in by_segment if row["baseline"] is not None])
    return pa.concat_tables([*tables, pa.Table.from_pylist([*values, *differences], COMPARISON)])
