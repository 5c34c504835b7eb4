"""Evaluation of logged feedback on one published date: reading, matching, and off-policy estimates of every arm."""

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
from rayrec.evaluation.off_policy.arm_estimates import estimate_arms
from rayrec.evaluation.off_policy.feedback_matching import UNMATCHED, match_published
from rayrec.evaluation.published_run import is_participant
from rayrec.publishing.records import Manifest
from rayrec.publishing.slate_reader import read_counterfactual_propensities, read_manifest, read_shard_slates
from rayrec.storage import Storage, layout
from rayrec.storage.tables import write_parquet

_COLUMNS = ("slate_id", "rank", "item_id", "propensity", "user_id", "arm")


@dataclass(frozen=True)
class OffPolicyResult:
    """`description`: what was read and what was left out; `estimates`: OFF_POLICY_ESTIMATES."""

    description: str
    estimates: pa.Table

    def to_dict(self) -> dict[str, Any]:
        """As JSON content."""
        return {"feedback": self.description, "estimates": self.estimates.to_pylist()}


def evaluate_feedback(feedback: Feedback, data_root: str, root: str, day: date) -> OffPolicyResult:
    """Estimates for every arm of a published date from the feedback on the slates of its experiment's participants.

    Feedback that violates the contract, or matches no published slate, goes to quarantine/dt=D/feedback/. Raises
    DataError where no feedback is on the slates of this date, QuarantineError where too much violates the contract.
    """
    storage, manifest = Storage(root), read_manifest(root, day)
    read = read_feedback(feedback, data_root)
    slates = _slates(storage, manifest, pc.unique(read.feedback["slate_id"].combine_chunks()))
    matched, unmatched = match_published(read.feedback, slates)
    _write_quarantine(storage, day, read, unmatched)
    participant = is_participant(manifest, matched["user_id"])
    left_out = _left_out(read.by_reason, unmatched, int(np.count_nonzero(~participant)))
    matched = matched.filter(pa.array(participant))
    if not matched.num_rows:
        raise DataError(
            f"none of the {read.rows:,} feedback rows is on a slate of {day}: {left_out}",
            where=Storage(feedback.root or data_root).url(feedback.path),
            hint="check feedback.slate_id and --date; slate ids are those of the published slates",
        )
    shards = [read_counterfactual_propensities(storage, manifest, shard) for shard in range(manifest.shards)]
    counterfactual = pa.concat_tables([COUNTERFACTUAL_PROPENSITY.empty_table(), *shards])
    description = f"{matched.num_rows:,} feedback rows on {len(pc.unique(matched['slate_id'])):,} slates."
    if left_out:
        description += f" Left out: {left_out}."
    return OffPolicyResult(description, estimate_arms(matched, counterfactual, feedback.depth))


def _slates(storage: Storage, manifest: Manifest, slate_ids: pa.Array) -> pa.Table:
    """SLATE columns of these slates, read shard by shard."""
    tables = [SLATE.empty_table().select(list(_COLUMNS))]
    plain = pa.schema([SLATE.field(name) for name in _COLUMNS])
    for shard in range(manifest.shards):
        for arm in manifest.arms:
            table = read_shard_slates(storage, manifest, arm, shard, _COLUMNS)
            wanted = pc.is_in(table["slate_id"].cast(pa.string()), slate_ids)
            tables.append(table.filter(wanted).cast(plain))
    return pa.concat_tables(tables)


def _write_quarantine(storage: Storage, day: date, read: FeedbackResult, unmatched: pa.Table) -> None:
    for name, table, schema in (("feedback", read.quarantine, QUARANTINE), ("unmatched", unmatched, UNMATCHED)):
        if table.num_rows:
            write_parquet(storage, layout.quarantined_feedback_path(day, name), table.cast(schema))


def _left_out(quarantined: Mapping[str, int], unmatched: pa.Table, outside: int) -> str:
    """Unused rows by reason, in words; empty where all are used."""
    reasons = pc.value_counts(unmatched["reason"].combine_chunks()).to_pylist()
    counts = {**quarantined, **{pair["values"]: pair["counts"] for pair in reasons}, "outside the experiment": outside}
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.items() if count)
