"""Feedback on published slates as targets of the blender: what users did with slates of the days after each cutoff.

    log -> FEEDBACK -> joined to the published slates of each date -> importance weights -> FEEDBACK_TARGETS

A slate of a date belongs to the newest cutoff up to it, as far as the blend's horizon: there the features of training
examples are known, and nothing of the slate is. So no feature knows a reward, and none is newer than the slate.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.blending.feedback_weights import (
    Showings,
    effective_size,
    estimated_examination,
    reward_targets,
)
from rayrec.config.feedback_learning_section import FeedbackLearning
from rayrec.data.feedback_contract import read_feedback
from rayrec.data.schemas import FEEDBACK_TARGETS, MICROSECONDS_PER_DAY
from rayrec.evaluation.off_policy.feedback_evaluation import MATCHED, match_published, published_slates
from rayrec.monitoring.feedback_learning import LEFT_OUT, RANK, REWARDED, WORTH
from rayrec.monitoring.run_statistics import ALL_ARMS, count_statistics
from rayrec.numerics.hashing import shard_of
from rayrec.numerics.types import Float64s, Int64s
from rayrec.pipeline.interaction_ingest import read_catalogue
from rayrec.pipeline.run_context import RunContext, microseconds
from rayrec.publishing.slate_reader import read_manifest
from rayrec.storage import layout
from rayrec.storage.tables import write_arrow, write_parquet

Counts = dict[str, float]

_SHOWN = pa.schema([*MATCHED, pa.field("date", pa.date32(), nullable=False)])


def folder(context: RunContext) -> str:
    return layout.feedback_targets_folder(context.work_folder, context.record.run_id)


def memory(context: RunContext) -> int:
    """Bytes that Ray reserves for `write_feedback_targets`: rows of the log are held as text, and it may be parquet."""
    return (1 << 30) + 40 * sum(file.size for file in context.feedback_inputs.files)


def write_feedback_targets(context: RunContext, cutoffs: Sequence[int]) -> None:
    """Write FEEDBACK_TARGETS of every (cutoff, shard), then their counts. Does nothing if these exist."""
    storage, learning = context.storage, context.config.blend.feedback
    path = layout.feedback_counts_path(folder(context))
    if learning is None or storage.exists(path):
        return
    shown, left_out = _shown(context, cutoffs)
    target, counts = targets_of(shown, learning)
    rewarded = target > 0
    rows, target = shown.filter(pa.array(rewarded)), target[rewarded]
    code = pc.index_in(rows["item_id"].combine_chunks(), read_catalogue(context)["item_id"].combine_chunks())
    horizon = context.config.blend.horizon_days
    at = np.array([cutoff_of(microseconds(day), cutoffs, horizon) for day in rows["date"].to_pylist()], np.int64)
    known = code.is_valid().to_numpy(zero_copy_only=False)
    left_out["item not in the catalogue"] = float(np.count_nonzero(~known))
    user_id, item = rows["user_id"].combine_chunks(), code.fill_null(-1).to_numpy()
    shard = shard_of(user_id, context.config.data.shard_count)
    for cutoff in cutoffs:
        for number in range(context.config.data.shard_count):
            own = known & (at == cutoff) & (shard == number)
            table = summed(user_id.filter(pa.array(own)), item[own], target[own])
            write_arrow(storage, layout.feedback_targets_path(folder(context), cutoff, number), table)
    counts |= {f"{LEFT_OUT}{reason}": count for reason, count in left_out.items() if count}
    write_parquet(storage, path, count_statistics("feedback", {ALL_ARMS: counts}))


def targets_of(shown: pa.Table, learning: FeedbackLearning) -> tuple[Float64s, Counts]:
    """The target of each row of MATCHED rows with their `date` [n], 0 where there is none, and what is counted.

    Rows of a showing are together, in the order of their ranks.
    """
    named = pc.binary_join_element_wise(
        *(shown[name].combine_chunks().cast(pa.string()) for name in ("date", "slate_id", "impression_id")), "\x1f"
    )
    showing = named.dictionary_encode().indices.to_numpy().astype(np.int64)
    rank, propensity = shown["rank"].to_numpy().astype(np.int64), shown["propensity"].to_numpy().astype(np.float64)
    reward = np.maximum(shown["reward"].to_numpy().astype(np.float64), 0)
    every = Showings(showing, rank, propensity, reward)
    drawn = every.drawn()
    given = every.filter(drawn)
    examination = _examination(given, learning)
    target = np.zeros(len(showing))
    target[drawn] = learning.weight * reward_targets(given, examination, learning.clip)
    rewarded = target > 0
    day = shown["date"].combine_chunks().dictionary_encode()
    found = np.bincount(day.indices.to_numpy()[rewarded], minlength=len(day.dictionary))
    counts = {f"{REWARDED}{each}": float(n) for each, n in zip(day.dictionary.to_pylist(), found, strict=True)}
    counts |= {f"{RANK}{number}": float(share) for number, share in enumerate(examination, 1)}
    counts[WORTH] = effective_size(target[rewarded])
    counts[f"{LEFT_OUT}not drawn by a policy"] = float(np.count_nonzero(reward[~drawn]))
    return target, counts


def cutoff_of(moment: int, cutoffs: Sequence[int], horizon_days: float) -> int:
    """The newest of `cutoffs` up to a moment; -1 if there is none, or the horizon ends before the moment."""
    newest = max((cutoff for cutoff in cutoffs if cutoff <= moment), default=-1)
    return newest if newest >= 0 and moment < newest + horizon_days * MICROSECONDS_PER_DAY else -1


def summed(user_id: pa.Array, item: Int64s, target: Float64s) -> pa.Table:
    """FEEDBACK_TARGETS, sorted by user and item; several rewards of one item add up."""
    rows = pa.table({"user_id": user_id, "item": pa.array(item, pa.int32()), "target": target})
    added = rows.group_by(["user_id", "item"], use_threads=False).aggregate([("target", "sum")])
    named = added.rename_columns(FEEDBACK_TARGETS.names).cast(FEEDBACK_TARGETS)
    return named.sort_by([("user_id", "ascending"), ("item", "ascending")]).combine_chunks()


def _examination(given: Showings, learning: FeedbackLearning) -> Float64s:
    if learning.examination == "estimated":
        return estimated_examination(given)
    return np.ones(1) if learning.examination == "none" else np.array(learning.examination)


def _shown(context: RunContext, cutoffs: Sequence[int]) -> tuple[pa.Table, Counts]:
    """MATCHED rows of the dates that count, with their `date`, and the feedback rows that do not count, by reason."""
    log, inputs = context.config.feedback, context.feedback_inputs
    horizon = context.config.blend.horizon_days
    dates = [day for day in inputs.dates if cutoff_of(microseconds(day), cutoffs, horizon) >= 0]
    if log is None or not dates or not inputs.files:
        return _SHOWN.empty_table(), {}
    read = read_feedback(log, context.config.data.root, inputs.files, context.cutoff)
    left_out: Counts = {**read.by_reason, **read.unused}
    slate_ids, tables, used = pc.unique(read.feedback["slate_id"].combine_chunks()), [], 0
    for day in dates:
        slates = published_slates(context.storage, read_manifest(context.storage.root, day), slate_ids)
        own = read.feedback.filter(pc.is_in(read.feedback["slate_id"], slates["slate_id"].combine_chunks()))
        matched, unmatched = match_published(own, slates)
        used += own.num_rows
        for pair in pc.value_counts(unmatched["reason"].combine_chunks()).to_pylist():
            left_out[pair["values"]] = left_out.get(pair["values"], 0) + pair["counts"]
        matched = matched.filter(pc.less_equal(matched["rank"], log.depth))
        tables.append(_with_date(matched, day))
    left_out["on no slate of these dates"] = float(read.feedback.num_rows - used)
    return pa.concat_tables(tables), left_out


def _with_date(matched: pa.Table, day: date) -> pa.Table:
    column = pa.array([day] * matched.num_rows, pa.date32())
    return pa.table([*matched.columns, column], schema=_SHOWN)
