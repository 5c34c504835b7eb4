"""What the blender has learned from feedback, as run statistics and in words."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from rayrec.monitoring.run_statistics import counts_by_arm

FEEDBACK = "feedback"  # the statistic; its keys:
REWARDED, RANK, LEFT_OUT = "rewarded/", "examination/", "left out/"  # by date, rank, reason
WORTH, USED = "worth", "used"


def in_words(counts: Mapping[str, float]) -> str:
    """What the counts of one blend say; "" without feedback."""
    if not counts:
        return ""
    days = {key.removeprefix(REWARDED): count for key, count in sorted(counts.items()) if key.startswith(REWARDED)}
    by_rank = sorted((int(key.removeprefix(RANK)), share) for key, share in counts.items() if key.startswith(RANK))
    reasons = [
        f"{key.removeprefix(LEFT_OUT)} {count:,.0f}"
        for key, count in sorted(counts.items())
        if key.startswith(LEFT_OUT) and count
    ]
    text = f"{counts.get(USED, 0):,.0f} rewarded items among the candidates of training users"
    text += f"; of the slates of {', '.join(f'{day}: {count:,.0f}' for day, count in days.items()) or 'no date'}"
    text += f"; worth {counts.get(WORTH, 0):,.0f} equally weighted ones"
    text += f"; examination by rank {', '.join(f'{share:.2f}' for _, share in by_rank)}"
    return text + (f"; left out: {', '.join(reasons)}" if reasons else "")


def feedback_facts(statistics: pa.Table) -> dict[str, str]:
    """Facts of the report: for each blend what it has learned from."""
    return {
        f"feedback in the blend of {arms}": in_words(counts)
        for arms, counts in counts_by_arm(statistics, FEEDBACK).items()
    }
