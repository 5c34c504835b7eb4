"""Before a split experiment is published: did the arms get the users that their shares promise?"""

from __future__ import annotations

import numpy as np

from rayrec.errors import PublicationError
from rayrec.evaluation.significance import sample_ratio_min_p
from rayrec.monitoring.run_statistics import counts_by_arm
from rayrec.pipeline.run_artifacts import read_run_statistics
from rayrec.pipeline.run_context import RunContext
from rayrec.publishing.records import RunRecord

SPLIT, SERVED = "split", "users"  # quantity and key of the counts that commit keeps


def require_sample_ratio(context: RunContext, record: RunRecord) -> None:
    """Raise PublicationError where the split is less likely than `arms.sample_ratio_min_p`: whatever lost the users would
    be taken for a difference between the arms."""
    arms = context.config.arms
    if arms.assignment != "split" or len(context.arms.paths) < 2 or not arms.sample_ratio_min_p:
        return
    counts = counts_by_arm(read_run_statistics(context, record.run_id), SPLIT)
    served = [counts.get(arm, {}).get(SERVED, 0.0) for arm in context.arms.names]
    p = sample_ratio_min_p(served, context.arms.shares)
    if p >= arms.sample_ratio_min_p:
        return
    total = float(np.sum(served))
    rows = zip(context.arms.names, served, context.arms.shares, strict=True)
    listed = ", ".join(f"{arm} {users:,.0f} (its share: {share * total:,.0f})" for arm, users, share in rows)
    raise PublicationError(
        f"the arms did not get the users of their shares: {listed}; p = {p:.1g}, allowed {arms.sample_ratio_min_p:g}",
        where="arms.sample_ratio_min_p",
        hint="look under quarantine/ and at min_events for users that one arm lost; a new arms.salt deals anew",
    )
