"""Evaluation of logged feedback on one published date: reading, matching, and off-policy estimates of every arm."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
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
    slates = published_slates(storage, manifest, pc.unique(read.feedback["slate_id"].combine_chunks()))
    matched, unmatched = match_published(read.feedback, slates)
    _write_quarantine(storage, day, read, unmatched)
    participant = is_participant(manifest, matched["user_id"])
    left_out = _left_out(read, unmatched, int(np.count_nonzero(~participant)))
    exposed = exposed_rows(matched, unmatched, slates)
    exposed = exposed.filter(pa.array(is_participant(manifest, exposed["user_id"])))
    matched = matched.filter(pa.array(participant))
    if not matched.num_rows:
        raise DataError(
            f"none of the {read.rows:,} feedback rows is on a slate of {day}: {left_out}",
            where=Storage(feedback.root or data_root).url(feedback.path),
            hint="check feedback.slate_id and --date; slate ids are those of the published slates",
        )
    shards = [read_counterfactual_propensities(storage, manifest, shard) for shard in range(manifest.shards)]
    counterfactual = pa.concat_tables([COUNTERFACTUAL_PROPENSITY.empty_table(), *shards], promote_options="default")
    description = f"{matched.num_rows:,} feedback rows on {len(pc.unique(matched['slate_id'])):,} slates."
    if left_out:
        description += f" Left out: {left_out}."
    estimates = estimate_arms(matched, counterfactual, feedback.depth)
    live = _live(PublishedRun.open(root, day), exposed, baseline)
    return OffPolicyResult(description, estimates, live)


def _live(published: PublishedRun, exposed: pa.Table, baseline: str | None) -> LiveExperiment | None:
    manifest = published.manifest
    if len(pc.unique(exposed["arm"])) < 2:
        return None
    activity: dict[str, list[float]] = {}
    users = pc.unique(exposed["user_id"].combine_chunks())
    shard = shard_of(users, manifest.shards)
    for number in np.unique(shard).tolist():
        histories = published.histories(number, users.filter(pa.array(shard == number)), 0)
        rows = published.activity(histories).tolist()
        activity.update(zip(histories["user_id"].to_pylist(), rows, strict=True))
    shares: dict[str, float] = {}
    if not published.shares_users:
        shares = {name: arm.get("share", 1.0) for name, arm in published.arm_settings.items()}
    seed = derive_seed("live", manifest.run_id)
    return live_experiment(exposed, activity, shares, baseline or manifest.arms[0], seed)


def match_published(feedback: pa.Table, slates: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Join FEEDBACK to SLATE rows by (slate_id, item_id): MATCHED and UNMATCHED.

    MATCHED has every rank of each showing down to the deepest one in the log. Ranks that the log lacks, as loggers of
    viewports leave them, are those of the published slate, with reward 0. Reasons: `unknown_slate`; `item_mismatch`:
    the slate does not have the item, or at another rank; `propensity_mismatch`: by more than 1e-4 relative;
    `incomplete_slate`: another row of the showing has one of these, so the slate was not shown as published.
    """
    published = slates.select(["slate_id", "rank", "item_id", "propensity", "user_id", "arm"]).to_pandas()
    if published.duplicated(["slate_id", "rank"]).any():
        twice = published[published.duplicated(["slate_id", "rank"])].iloc[0]
        raise DataError(
            "the same published slate is given twice", where=f"slate {twice['slate_id']}", hint="read each date once"
        )
    given = feedback.select(FEEDBACK.names).to_pandas()
    joined = given.merge(published, on=["slate_id", "item_id"], how="left", suffixes=("", "_published"))
    known = joined["slate_id"].isin(published["slate_id"]).to_numpy()
    rank, own = joined["rank"].to_numpy(), joined["rank_published"].to_numpy(np.float64)
    same_item = np.isfinite(own) & ((rank == 0) | (rank == own))
    logged, said = (joined[name].to_numpy(np.float64) for name in ("propensity_published", "propensity"))
    same_propensity = np.isnan(said) | (np.abs(said - logged) <= _PROPENSITY_TOLERANCE * logged)
    reason = np.select(
        [~known, ~same_item, ~same_propensity], ["unknown_slate", "item_mismatch", "propensity_mismatch"], ""
    ).astype(object)
    showing = pd.MultiIndex.from_frame(joined[["slate_id", "impression_id"]])
    incomplete = showing.isin(showing[reason != ""])
    reason = np.where((reason == "") & incomplete, "incomplete_slate", reason)
    unmatched = pa.table(
        [*(feedback[name] for name in FEEDBACK.names), pa.array(reason, pa.string())], schema=UNMATCHED
    )
    return _complete(joined[reason == ""], published), unmatched.filter(pa.array(reason != ""))


def _complete(valid: pd.DataFrame, published: pd.DataFrame) -> pa.Table:
    """MATCHED: all ranks of the showings in `valid`, down to the deepest one, in the order of the showings."""
    shown = valid.groupby(["slate_id", "impression_id"], sort=False)["rank_published"].max().rename("deepest")
    ranks = shown.reset_index().reset_index(names="showing").merge(published, on="slate_id")
    ranks = ranks[ranks["rank"] <= ranks["deepest"]]
    rewards = valid[["slate_id", "impression_id", "item_id", "reward"]]
    ranks = ranks.merge(rewards, on=["slate_id", "impression_id", "item_id"], how="left")
    ranks = ranks.sort_values(["showing", "rank"], kind="stable").fillna({"reward": 0.0})
    return pa.table([pa.array(ranks[f.name], f.type, from_pandas=True) for f in MATCHED], schema=MATCHED)


def exposed_rows(matched: pa.Table, unmatched: pa.Table, slates: pa.Table) -> pa.Table:
    """Columns user_id, arm, reward of all feedback on known slates, also on those that were not shown as published.

    A live experiment compares what users did by the arm they were given, whatever the frontend made of the slate.
    """
    names = ["user_id", "arm", "reward"]
    owner = (
        slates.select(["slate_id", "user_id", "arm"])
        .group_by("slate_id")
        .aggregate([("user_id", "min"), ("arm", "min")])
    )
    owner = owner.rename_columns({"user_id_min": "user_id", "arm_min": "arm"})
    known = unmatched.filter(pc.not_equal(unmatched["reason"], "unknown_slate"))
    others = known.select(["slate_id", "reward"]).join(owner, "slate_id").select(names)
    return pa.concat_tables([matched.select(names), others.cast(matched.select(names).schema)])


def published_slates(storage: Storage, manifest: Manifest, slate_ids: pa.Array) -> pa.Table:
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


def _left_out(read: FeedbackResult, unmatched: pa.Table, outside: int) -> str:
    """Rows that do not count by reason, as text; empty if all do."""
    reasons = pc.value_counts(unmatched["reason"].combine_chunks()).to_pylist()
    counts = {
        **read.by_reason,
        **read.unused,
        **{pair["values"]: pair["counts"] for pair in reasons},
        "outside the experiment": outside,
    }
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.items() if count)
