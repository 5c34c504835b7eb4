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
from rayrec.data import erasure_list
from rayrec.data.feedback_contract import FeedbackResult, read_feedback
from rayrec.data.quarantine import without_contents
from rayrec.data.schemas import COUNTERFACTUAL_PROPENSITY, FEEDBACK, QUARANTINE, SLATE
from rayrec.errors import DataError
from rayrec.evaluation.live_experiment import LiveExperiment, live_experiment
from rayrec.evaluation.off_policy.arm_estimates import estimate_arms
from rayrec.evaluation.published_run import PublishedRun, is_participant
from rayrec.numerics.hashing import derive_seed, shard_of
from rayrec.publishing.records import Manifest
from rayrec.publishing.slate_reader import read_counterfactual_propensities, read_manifest, read_shard_slates
from rayrec.storage import Storage, layout
from rayrec.storage.tables import write_parquet

MATCHED = pa.schema([*FEEDBACK, pa.field("user_id", pa.string()), pa.field("arm", pa.string())])
"""Feedback on published slates."""

UNMATCHED = pa.schema([*FEEDBACK, pa.field("reason", pa.string(), nullable=False)])
"""Feedback that cannot be used, with the reason; see `match_published`."""

_PROPENSITY_TOLERANCE = 1e-4  # relative: logs may store propensities as text
_COLUMNS = ("slate_id", "rank", "item_id", "propensity", "user_id", "arm")


@dataclass(frozen=True)
class OffPolicyResult:
    """`description`: what was read and dropped; `estimates`: OFF_POLICY_ESTIMATES; `live`: None unless several arms
    have feedback of users of their own."""

    description: str
    estimates: pa.Table
    live: LiveExperiment | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON content."""
        live = None if self.live is None else self.live.to_dict()
        return {"feedback": self.description, "estimates": self.estimates.to_pylist(), "live_experiment": live}


def evaluate_feedback(
    feedback: Feedback, data_root: str, root: str, day: date, baseline: str | None = None
) -> OffPolicyResult:
    """Estimate every arm of a published date from the feedback on the slates of the experiment's participants, and
    compare the arms on the rewards of the users who saw them. `baseline`: an arm, by default the first.

    Feedback that violates the contract, or matches no published slate, goes to quarantine/dt=D/feedback/. Raises
    DataError without feedback on the slates of this date, QuarantineError if too much violates the contract.
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
    live = _live(PublishedRun.open(root, day), matched, baseline)
    return OffPolicyResult(description, estimate_arms(matched, counterfactual, feedback.depth), live)


def _live(published: PublishedRun, matched: pa.Table, baseline: str | None) -> LiveExperiment | None:
    manifest = published.manifest
    if len(pc.unique(matched["arm"])) < 2:
        return None
    activity: dict[str, list[float]] = {}
    users = pc.unique(matched["user_id"].combine_chunks())
    shard = shard_of(users, manifest.shards)
    for number in np.unique(shard).tolist():
        histories = published.histories(number, users.filter(pa.array(shard == number)), 0)
        rows = published.activity(histories).tolist()
        activity.update(zip(histories["user_id"].to_pylist(), rows, strict=True))
    shares: dict[str, float] = {}
    if not published.shares_users:
        shares = {name: arm.get("share", 1.0) for name, arm in published.arm_settings.items()}
    seed = derive_seed("live", manifest.run_id)
    return live_experiment(matched, activity, shares, baseline or manifest.arms[0], seed)


def match_published(feedback: pa.Table, slates: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Join FEEDBACK to SLATE rows by (slate_id, rank): MATCHED and UNMATCHED, each in feedback's order.

    Reasons: `unknown_slate`; `item_mismatch`: another item, or a rank beyond the slate's end; `propensity_mismatch`: by
    more than 1e-4 relative; `incomplete_slate`: the row is valid, but another rank of its slate is not, and a partial
    slate has no importance weight.
    """
    keys = ["slate_id", "rank"]
    published = slates.select([*keys, "item_id", "propensity", "user_id", "arm"]).to_pandas()
    if published.duplicated(keys).any():
        twice = published[published.duplicated(keys)].iloc[0]
        raise DataError(
            "the same published slate is given twice", where=f"slate {twice['slate_id']}", hint="read each date once"
        )
    given = feedback.select(FEEDBACK.names).to_pandas()
    joined = given.merge(published, on=keys, how="left", suffixes=("", "_published"))
    known = joined["slate_id"].isin(published["slate_id"]).to_numpy()
    same_item = (joined["item_id"] == joined["item_id_published"]).to_numpy()
    logged = joined["propensity_published"].to_numpy(np.float64)
    same_propensity = np.abs(joined["propensity"].to_numpy(np.float64) - logged) <= _PROPENSITY_TOLERANCE * logged
    reason = np.select(
        [~known, ~same_item, ~same_propensity], ["unknown_slate", "item_mismatch", "propensity_mismatch"], ""
    ).astype(object)
    incomplete = joined["slate_id"].isin(joined["slate_id"][reason != ""]).to_numpy()
    reason = np.where((reason == "") & incomplete, "incomplete_slate", reason)
    valid = pa.array(reason == "")
    columns = [feedback[name] for name in FEEDBACK.names]
    owners = [pa.array(joined[name], pa.string(), from_pandas=True) for name in ("user_id", "arm")]
    matched = pa.table([*columns, *owners], schema=MATCHED).filter(valid)
    return matched, pa.table([*columns, pa.array(reason, pa.string())], schema=UNMATCHED).filter(pc.invert(valid))


def _slates(storage: Storage, manifest: Manifest, slate_ids: pa.Array) -> pa.Table:
    """Read SLATE columns of these slates, shard by shard."""
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
            if schema is QUARANTINE:  # feedback names slates, but its raw rows have all columns of the file
                table, _ = without_contents(table.cast(schema), erasure_list.read(storage))
            write_parquet(storage, layout.quarantined_feedback_path(day, name), table.cast(schema))


def _left_out(quarantined: Mapping[str, int], unmatched: pa.Table, outside: int) -> str:
    """Dropped rows by reason, as text; empty if all are used."""
    reasons = pc.value_counts(unmatched["reason"].combine_chunks()).to_pylist()
    counts = {**quarantined, **{pair["values"]: pair["counts"] for pair in reasons}, "outside the experiment": outside}
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.items() if count)
