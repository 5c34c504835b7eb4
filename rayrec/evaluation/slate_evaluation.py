"""A published day judged by what users did: every arm, and each retriever alone.

The retrievers rank with the artefact that the manifest names, through the candidate stage that the slates came from:
`popularity` and its like for everybody, EASE and its like from the whole history, without denoising and without LLM.
They cost more than the slates that are there already, so of many users a sample is enough for them (STANDALONE_SAMPLE_USERS).
Where that artefact is gone, as on all days but one once users were erased, the arms are judged alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from rayrec.errors import ConfigError, DataError
from rayrec.evaluation.beyond_accuracy import beyond_accuracy
from rayrec.evaluation.comparison import COMPARISON, compare, holm_adjusted
from rayrec.evaluation.interleaved_preference import interleaving
from rayrec.evaluation.metrics import RelevantItems, UserMetrics, user_metrics
from rayrec.evaluation.published_day import PublishedRun
from rayrec.evaluation.segments import SegmentFeatures, segments
from rayrec.numerics.hashing import derive_seed, hash_strings, shard_of, splitmix64

STANDALONE_SAMPLE_USERS = 20_000  # judged users whom each retriever alone ranks for, chosen by their stable hash
PRIMARY_METRIC = "ndcg@10"  # the metric that a decision goes by


@dataclass(frozen=True)
class SlateEvaluation:
    """`comparison`: COMPARISON rows of arms and retrievers; differences from the best retriever and the baseline."""

    comparison: pa.Table
    users: int
    events: int  # distinct (user, item) pairs they were judged on
    best_standalone: str | None  # the retriever with the highest nDCG@10 on these very users: chosen in its own favour
    baseline: str  # the arm that the others are compared with
    interleaving: pa.Table  # PREFERENCE: arms interleaved with the baseline
    left_out: str = ""  # what could not be judged, and why


@dataclass(frozen=True)
class _Part:
    """One shard, judged."""

    truth: RelevantItems
    arms: list[UserMetrics]
    standalone: list[UserMetrics]  # on the sample
    traits: SegmentFeatures


@dataclass(frozen=True)
class _AllShards:
    """All shards together."""

    arms: list[UserMetrics]
    standalone: list[UserMetrics]
    segments: list[tuple[str, npt.NDArray[np.bool_]]]


def evaluate_slates(
    root: str,
    day: date,
    relevant: pa.Table,
    *,
    min_events: int = 1,
    others: Mapping[str, pa.Table] | None = None,
    baseline: str | None = None,
) -> SlateEvaluation:
    """Judge a published day by `wanted` (columns user_id, item_id: what each user did or truly wanted).

    Judged are the users with a slate and at least `min_events` positive events in their history; of what they wanted,
    the items in the catalogue and, where seen ones are left out of slates, new to them. `others`: more systems, as
    slates (user_id, rank, item_id). `baseline`: an arm, by default the first. Raises PublicationError if the day is not
    published, ConfigError for an unknown baseline, DataError if nobody is left.
    """
    published = PublishedRun.open(root, day)
    chosen = resolve_baseline(published.manifest.arms, baseline)
    seed = derive_seed("evaluate", published.manifest.run_id)
    parts = list(_parts(published, relevant, min_events, others or {}))
    if not parts:
        raise DataError(
            f"none of the {published.manifest.users.published:,} users with a slate on {day} did anything that can be"
            " judged",
            hint="choose a longer --horizon-days, or check that the config is the one of the run",
        )
    judged = _AllShards(
        _together([part.arms for part in parts]),
        _together([part.standalone for part in parts]),
        list(segments(SegmentFeatures.concat([part.traits for part in parts]), published.facts.categories)),
    )
    retrievers = [system for system in judged.standalone if system.system not in (others or {})]
    best = max(retrievers, key=lambda system: float(system.values[PRIMARY_METRIC].mean()), default=None)
    best_standalone = None if best is None else best.system
    wanted_by = sp.vstack([part.truth.relevant for part in parts], format="csr")
    return SlateEvaluation(
        _compare(judged, best_standalone, chosen, seed),
        wanted_by.shape[0],
        int(wanted_by.nnz),
        best_standalone,
        chosen,
        interleaving(judged.arms, wanted_by, chosen, seed),
        published.left_out,
    )


def resolve_baseline(arms: tuple[str, ...], asked: str | None) -> str:
    """The arm that the others are compared with: the one asked for, else the first."""
    if asked is not None and asked not in arms:
        raise ConfigError(f"there is no arm {asked!r}", where="--baseline", hint=f"use one of {', '.join(arms)}")
    return asked or arms[0]


def _parts(
    published: PublishedRun, relevant: pa.Table, min_events: int, others: Mapping[str, pa.Table]
) -> Iterator[_Part]:
    """The shards in which somebody can be judged; `rows` of what they judge count through all of them."""
    user_id, item_id = (relevant[name].combine_chunks().cast(pa.string()) for name in ("user_id", "item_id"))
    users = pc.unique(user_id)
    shard = shard_of(users, published.manifest.shards)
    of_pair = shard[pc.index_in(user_id, users).to_numpy()]
    sample, before = STANDALONE_SAMPLE_USERS / max(len(users), 1), 0
    for number in np.unique(shard).tolist():
        mine = pa.array(of_pair == number)
        pairs = user_id.filter(mine), item_id.filter(mine)
        part = _judge_shard(published, number, *pairs, min_events, others, sample, before)
        if part is not None:
            yield part
            before += len(part.truth)


def _judge_shard(
    published: PublishedRun,
    shard: int,
    user_id: pa.Array,
    item_id: pa.Array,
    min_events: int,
    others: Mapping[str, pa.Table],
    sample: float,
    before: int,
) -> _Part | None:
    """One shard's users and what they wanted (pairs); `before`: users judged in the shards before this one."""
    histories = published.histories(shard, pc.unique(user_id), min_events)
    if published.retrieval.exclude_seen:
        new = published.is_unseen(histories, user_id, item_id)
        user_id, item_id = user_id.filter(new), item_id.filter(new)
    known = histories["user_id"].combine_chunks()
    users = published.participants(known.filter(pc.is_in(known, pc.unique(user_id))))
    slates = {arm: published.slates(shard, arm, users) for arm in published.manifest.arms}
    with_slate = [slate["user_id"].combine_chunks().unique().cast(pa.string()) for slate in slates.values()]
    served = pc.unique(pa.concat_arrays(with_slate))
    truth = RelevantItems.of(user_id, item_id, published.item_id).restrict_to(users).restrict_to(served)
    if not len(truth):
        return None
    traits, category_shares = published.segment_features(histories, truth)

    def judged(system: str, table: pa.Table, rows: npt.NDArray[np.int64]) -> UserMetrics:
        found = user_metrics(system, table, truth.take(rows))
        beyond = beyond_accuracy(found.top, published.facts, category_shares[rows])
        return replace(found.with_metrics(beyond), rows=rows + before)

    everybody = np.arange(len(truth))
    own = {
        arm: everybody if published.shares_users else _rows_of(truth, users)
        for arm, users in zip(slates, with_slate, strict=True)
    }
    arms = [judged(arm, table, own[arm]) for arm, table in slates.items()]
    point = splitmix64(hash_strings(truth.user_id)) * 2.0**-64
    few = np.flatnonzero(point < sample)
    theirs = histories.filter(pc.is_in(histories["user_id"], truth.user_id.take(pa.array(few)))).combine_chunks()
    alone = [judged(name, table, few) for name, table in published.standalone(theirs)]
    alone += [judged(name, table, few) for name, table in others.items()]
    return _Part(truth, arms, alone, traits)


def _rows_of(truth: RelevantItems, users: pa.Array) -> npt.NDArray[np.int64]:
    return np.flatnonzero(pc.is_in(truth.user_id, users).to_numpy(zero_copy_only=False))


def _together(parts: Sequence[list[UserMetrics]]) -> list[UserMetrics]:
    """Each system's shards as one."""
    return [UserMetrics.concat(list(of_one)) for of_one in zip(*parts, strict=True)]


def _compare(judged: _AllShards, best_standalone: str | None, baseline: str, seed: int) -> pa.Table:
    """Everybody's values; arms against the best retriever on its users, and against the baseline, also by segment."""
    arms, alone = judged.arms, judged.standalone
    tables = [compare(alone, seed=seed, against=[] if best_standalone is None else [best_standalone])]
    if best_standalone is not None:
        base = next(system for system in alone if system.system == best_standalone)
        against_alone = compare([base, *arms], seed=seed, against=[best_standalone])
        tables.append(against_alone.filter(pc.equal(against_alone["against"], best_standalone)))
    tables.append(compare(arms, seed=seed, against=[baseline]))
    by_segment = []
    for name, users in judged.segments:
        inside = [arm.take(users[arm.rows]) for arm in arms]
        found = compare(inside, seed=seed, against=[baseline], segment=name, metrics=[PRIMARY_METRIC])
        by_segment += found.to_pylist()
    values = [row for row in by_segment if row["against"] is None]
    differences = holm_adjusted([row for row in by_segment if row["against"] is not None])
    return pa.concat_tables([*tables, pa.Table.from_pylist([*values, *differences], COMPARISON)])
