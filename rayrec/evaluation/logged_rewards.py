"""Logged feedback on a published day: read, matched with what was published, and every arm judged by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import Feedback
from rayrec.data.feedback_contract import FeedbackResult, read_feedback
from rayrec.data.schemas import COUNTERFACTUAL_PROPENSITY, QUARANTINE, SLATE
from rayrec.errors import DataError
from rayrec.evaluation.off_policy.published_feedback import UNMATCHED, estimate_arms, match_published
from rayrec.evaluation.published_day import is_participant
from rayrec.publishing.records import Manifest
from rayrec.publishing.slate_reader import read_counterfactual_propensities, read_manifest, read_shard_slates
from rayrec.storage import Storage, layout
from rayrec.storage.tables import write_parquet

_COLUMNS = ("slate_id", "rank", "item_id", "propensity", "user_id", "arm")


@dataclass(frozen=True)
class OffPolicyResult:
    """`words`: what was read, and what could not be used; `estimates`: OFF_POLICY_ESTIMATES."""

    description: str
    estimates: pa.Table

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON content."""
        return {"from": self.description, "estimates": self.estimates.to_pylist()}


def evaluate_feedback(feedback: Feedback, data_root: str, root: str, day: date) -> OffPolicyResult:
    """Estimates for every arm of a published day from the feedback on the slates of those who take part in its
    experiment.

    What broke the contract, and what does not fit the publication, lies in quarantine/dt=D/feedback*.parquet.
    Raises DataError where no feedback is on this day's slates, QuarantineError where too much of it is broken.
    """
    storage, manifest = Storage(root), read_manifest(root, day)
    read = read_feedback(feedback, data_root)
    slates = _slates(storage, manifest, pc.unique(read.feedback["slate_id"].combine_chunks()))
    matched, unmatched = match_published(read.feedback, slates)
    _keep(storage, day, read, unmatched)
    inside = is_participant(manifest, matched["user_id"])
    left_out = _left_out(read.by_reason, unmatched, int(np.count_nonzero(~inside)))
    matched = matched.filter(pa.array(inside))
    if not matched.num_rows:
        raise DataError(
            f"none of the {read.rows:,} rows of feedback is on a slate of {day}: {left_out}",
            where=Storage(feedback.root or data_root).url(feedback.path),
            hint="check feedback.slate_id and --date; slate ids are those of the published slates",
        )
    targets = pa.concat_tables([COUNTERFACTUAL_PROPENSITY.empty_table(), *_targets(storage, manifest)])
    words = f"{matched.num_rows:,} rows of feedback on {len(pc.unique(matched['slate_id'])):,} slates."
    if left_out:
        words += f" Left out: {left_out}."
    return OffPolicyResult(words, estimate_arms(matched, targets, feedback.depth))


def _slates(storage: Storage, manifest: Manifest, slate_ids: pa.Array) -> pa.Table:
    """SLATE columns of these slates alone, shard by shard."""
    tables = [SLATE.empty_table().select(list(_COLUMNS))]
    plain = pa.schema([SLATE.field(name) for name in _COLUMNS])
    for shard in range(manifest.shards):
        for arm in manifest.arms:
            table = read_shard_slates(storage, manifest, arm, shard, _COLUMNS)
            wanted = pc.is_in(table["slate_id"].cast(pa.string()), slate_ids)
            tables.append(table.filter(wanted).cast(plain))
    return pa.concat_tables(tables)


def _targets(storage: Storage, manifest: Manifest) -> list[pa.Table]:
    return [read_counterfactual_propensities(storage, manifest, shard) for shard in range(manifest.shards)]


def _keep(storage: Storage, day: date, read: FeedbackResult, unmatched: pa.Table) -> None:
    for name, table, schema in (("feedback", read.quarantine, QUARANTINE), ("unmatched", unmatched, UNMATCHED)):
        if table.num_rows:
            write_parquet(storage, layout.quarantined_feedback_path(day, name), table.cast(schema))


def _left_out(broken: Mapping[str, int], unmatched: pa.Table, outside: int) -> str:
    """How many rows for which reason, in words; empty where all are used."""
    unfit = pc.value_counts(unmatched["reason"].combine_chunks()).to_pylist()
    counts = {**broken, **{pair["values"]: pair["counts"] for pair in unfit}, "outside the experiment": outside}
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.items() if count)
