"""Is an arm better than the baseline, how sure is one, and for whom: a comparison in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from rayrec.evaluation.comparison import ALL_USERS
from rayrec.evaluation.significance import POWER

LEVEL = 0.05  # of Holm's p: below it a difference counts as found
METRIC_LABELS = {"ndcg@10": "nDCG@10", "recall@10": "recall@10", "hr@1": "HR@1", "hr@10": "HR@10", "mrr": "MRR"}

Conclusion = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class ArmConclusion:
    """One arm against the baseline, on one metric."""

    arm: str
    conclusion: Conclusion
    sentence: str
    difference: float  # the difference itself
    worse_segments: tuple[str, ...]  # segments in which the arm is found to be worse


@dataclass(frozen=True)
class Decision:
    """`headline`: what to do, in a sentence; `verdicts`: why, an arm at a time."""

    recommendation: str
    conclusions: tuple[ArmConclusion, ...]


def decide(comparison: pa.Table, baseline: str, arms: list[str], metric: str) -> Decision | None:
    """From COMPARISON rows; None where there is no second arm to decide on."""
    rows = [row for row in comparison.to_pylist() if row["against"] == baseline and row["metric"] == metric]
    conclusions = tuple(
        _verdict(row, [other for other in rows if other["system"] == row["system"] and other["segment"]])
        for row in rows
        if row["segment"] == ALL_USERS and row["system"] in arms
    )
    return Decision(_headline(conclusions, baseline), conclusions) if conclusions else None


def _verdict(row: dict[str, Any], segments: list[dict[str, Any]]) -> ArmConclusion:
    word = _word(row)
    worse_segments = tuple(other["segment"] for other in segments if _word(other) == "worse")
    what = f"{row['system']} − {row['against']}: {_span(row)}"
    if word == "undecided":
        least = _amount(row, row["detectable"])
        found = f"no difference is found; one below {least} would be missed more often than {1 - POWER:.0%} of the time"
        sentence = f"{what}; {found} with {row['users']:,} users"
    else:
        sentence = f"{what}, p {_p(row['p_adjusted'])}"
    if segments:
        lost = "; ".join(
            f"{other['segment']}: {_gain(other)}" for other in segments if other["segment"] in worse_segments
        )
        sentence += f". It loses among users with {lost}" if worse_segments else "; no segment is found to lose"
    return ArmConclusion(row["system"], word, sentence + ".", row["value"], worse_segments)


def _headline(conclusions: tuple[ArmConclusion, ...], baseline: str) -> str:
    better = sorted((v for v in conclusions if v.conclusion == "better"), key=lambda v: -v.difference)
    clean = [verdict for verdict in better if not verdict.worse_segments]
    if clean:
        return f"Choose {clean[0].arm}: it is better than {baseline}."
    if better:
        return f"{better[0].arm} is better than {baseline} on the whole, but some users lose: look at them first."
    if all(verdict.conclusion == "worse" for verdict in conclusions):
        return f"Keep {baseline}: everything else is worse."
    return f"Keep {baseline}: no arm is found to be better."


def _word(row: dict[str, Any]) -> Conclusion:
    if row["p_adjusted"] is None or row["p_adjusted"] >= LEVEL:
        return "undecided"
    return "better" if row["value"] > 0 else "worse"


def _span(row: dict[str, Any]) -> str:
    low, high = ("relative_low", "relative_high") if row["relative"] is not None else ("low", "high")
    metric = METRIC_LABELS.get(row["metric"], row["metric"])
    interval = f"{_number(row, row[low])} … {_number(row, row[high])}"
    return f"{_gain(row)} {metric}, 95% interval {interval}"


def _gain(row: dict[str, Any]) -> str:
    return _number(row, row["relative"] if row["relative"] is not None else row["value"])


def _number(row: dict[str, Any], value: float) -> str:
    return f"{value:+.1%}" if row["relative"] is not None else f"{value:+.4f}"


def _amount(row: dict[str, Any], value: float) -> str:
    """An absolute difference in the unit that the sentence uses."""
    if row["relative"] is None or not row["value"]:
        return f"{value:.4f}"
    return f"{value * row['relative'] / row['value']:.1%}"


def _p(p: float) -> str:
    return "< .001" if p < 0.001 else "= " + f"{p:.3f}".removeprefix("0")
