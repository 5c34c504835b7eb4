"""A/B decision: which arm is better than the baseline, by how much, and in which segments it is worse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from rayrec.evaluation.comparison import ALL_USERS
from rayrec.evaluation.significance import POWER

LEVEL = 0.05  # of Holm's p: below it a difference is significant
_METRIC_LABELS = {"ndcg@10": "nDCG@10", "hr@1": "HR@1", "hr@10": "HR@10", "mrr": "MRR"}

Conclusion = Literal["better", "worse", "inconclusive"]


@dataclass(frozen=True)
class ArmConclusion:
    """One arm compared with the baseline on one metric."""

    arm: str
    conclusion: Conclusion
    sentence: str
    difference: float
    worse_segments: tuple[str, ...]  # segments in which the arm is significantly worse


@dataclass(frozen=True)
class Decision:
    """`recommendation`: what to do, in one sentence; `conclusions`: the reasons, one per arm."""

    recommendation: str
    conclusions: tuple[ArmConclusion, ...]


def decide(comparison: pa.Table, baseline: str, arms: list[str], metric: str) -> Decision | None:
    """The decision from COMPARISON rows; None without a second arm."""
    rows = [row for row in comparison.to_pylist() if row["baseline"] == baseline and row["metric"] == metric]
    conclusions = tuple(
        _conclude(row, [other for other in rows if other["system"] == row["system"] and other["segment"]])
        for row in rows
        if row["segment"] == ALL_USERS and row["system"] in arms
    )
    return Decision(_recommend(conclusions, baseline), conclusions) if conclusions else None


def is_significant(row: Mapping[str, Any]) -> bool:
    """Whether a difference row of COMPARISON has a Holm-corrected p below LEVEL."""
    return row["p_adjusted"] is not None and row["p_adjusted"] < LEVEL


def _conclude(row: dict[str, Any], segments: list[dict[str, Any]]) -> ArmConclusion:
    conclusion = _conclusion(row)
    worse = [other for other in segments if _conclusion(other) == "worse"]
    sentence = f"{row['system']} − {row['baseline']}: {_estimate(row)}"
    if conclusion == "inconclusive":
        effect = _absolute(row, row["min_detectable_effect"])
        sentence += f"; not significant. With {row['users']:,} users, a difference of {effect} has {POWER:.0%} power"
    else:
        sentence += f", p {_p(row['p_adjusted'])}"
    if worse:
        differences = [f"{other['segment']} ({_difference(other)})" for other in worse]
        sentence += f". It is worse in the segments {', '.join(differences)}"
    elif segments:
        sentence += "; no segment is significantly worse"
    names = tuple(other["segment"] for other in worse)
    return ArmConclusion(row["system"], conclusion, sentence + ".", row["value"], names)


def _recommend(conclusions: tuple[ArmConclusion, ...], baseline: str) -> str:
    better = sorted((c for c in conclusions if c.conclusion == "better"), key=lambda c: -c.difference)
    clean = [conclusion for conclusion in better if not conclusion.worse_segments]
    if clean:
        return f"Choose {clean[0].arm}: it is better than {baseline}."
    if better:
        return f"{better[0].arm} is better than {baseline} overall but worse for some segments: check them first."
    if all(conclusion.conclusion == "worse" for conclusion in conclusions):
        return f"Keep {baseline}: every other arm is worse."
    return f"Keep {baseline}: no arm is significantly better."


def _conclusion(row: dict[str, Any]) -> Conclusion:
    if not is_significant(row):
        return "inconclusive"
    return "better" if row["value"] > 0 else "worse"


def _estimate(row: dict[str, Any]) -> str:
    low, high = ("relative_low", "relative_high") if row["relative"] is not None else ("low", "high")
    metric = _METRIC_LABELS.get(row["metric"], row["metric"])
    return f"{_difference(row)} {metric}, 95% interval {_number(row, row[low])} … {_number(row, row[high])}"


def _difference(row: dict[str, Any]) -> str:
    return _number(row, row["relative"] if row["relative"] is not None else row["value"])


def _number(row: dict[str, Any], value: float) -> str:
    return f"{value:+.1%}" if row["relative"] is not None else f"{value:+.4f}"


def _absolute(row: dict[str, Any], value: float) -> str:
    """An absolute difference as text, with its unit."""
    if row["relative"] is None or not row["value"]:
        return f"{value:.4f}"
    return f"{value * row['relative'] / row['value']:.1%}"


def _p(p: float) -> str:
    return "< .001" if p < 0.001 else "= " + f"{p:.3f}".removeprefix("0")
