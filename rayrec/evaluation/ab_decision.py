"""A/B decision: which arm is better than the baseline, by how much, and what speaks against it.

Against an arm speak segments in which it is worse, and guardrail metrics on which it loses more than a margin. Where
nothing is found, the sentence says how large a loss could have been missed, and which segments are too small to tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa

from rayrec.evaluation.comparison import ALL_USERS
from rayrec.evaluation.non_inferiority import MARGIN, ArmGuardrail, arm_guardrails
from rayrec.evaluation.significance import LEVEL, POWER

_METRIC_LABELS = {
    "ndcg@10": "nDCG@10",
    "hr@1": "HR@1",
    "hr@10": "HR@10",
    "mrr": "MRR",
    "conversion": "conversion rate",
    "conversion_cuped": "conversion rate (adjusted for past activity)",
    "reward_cuped": "reward per user (adjusted for past activity)",
    "consumed": "new items per user",
    "consumed_cuped": "new items per user (adjusted for past activity)",
    "hits@10": "hits in the first ten per user",
}
SAMPLE_RATIO_MIN_P = 1e-3  # Fabijan et al. 2019
_SHOWN_SEGMENTS = 4  # named in a sentence

Conclusion = Literal["better", "worse", "inconclusive"]


@dataclass(frozen=True)
class ArmConclusion:
    """One arm compared with the baseline on one metric."""

    arm: str
    conclusion: Conclusion
    sentence: str
    difference: float
    worse_segments: tuple[str, ...]  # segments in which the arm is significantly worse
    small_segments: tuple[str, ...]  # segments in which a loss of the margin would be missed too often
    guardrails: tuple[ArmGuardrail, ...]

    def guardrail_labels(self, finding: str) -> str:
        """The guardrails with this finding, with their changes, as text; empty without one."""
        return ", ".join(f"{g.label} {g.measured}" for g in self.guardrails if g.finding == finding)


@dataclass(frozen=True)
class Decision:
    """`recommendation`: what to do, in one or two sentences; `conclusions`: the reasons, one per arm."""

    recommendation: str
    conclusions: tuple[ArmConclusion, ...]


def decide(
    comparison: pa.Table, baseline: str, arms: list[str], metric: str, sample_ratio_p: float = 1.0
) -> Decision | None:
    """The decision from COMPARISON rows; None without a second arm.

    `sample_ratio_p`: of the evaluated users by arm. Below SAMPLE_RATIO_MIN_P the arms are not compared fairly, and no
    arm is recommended.
    """
    every = [row for row in comparison.to_pylist() if row["metric"] == metric]
    base_value = {row["segment"]: row["value"] for row in every if (row["system"], row["baseline"]) == (baseline, None)}
    rows = [row | {"base": base_value.get(row["segment"], 0.0)} for row in every if row["baseline"] == baseline]
    compared = [row for row in rows if row["segment"] == ALL_USERS and row["system"] in arms]
    guardrails = arm_guardrails(comparison, baseline, [row["system"] for row in compared])
    conclusions = tuple(
        _conclude(
            row,
            [other for other in rows if other["system"] == row["system"] and other["segment"]],
            tuple(guardrail for guardrail in guardrails if guardrail.arm == row["system"]),
            len(compared),
        )
        for row in compared
    )
    if not conclusions:
        return None
    if sample_ratio_p < SAMPLE_RATIO_MIN_P:
        what = f"the evaluated users do not have the arms' shares (sample-ratio mismatch, p = {sample_ratio_p:.1g})"
        return Decision(f"No decision: {what}. Find out which users an arm lost.", conclusions)
    return Decision(_recommend(conclusions, baseline), conclusions)


def is_significant(row: Mapping[str, Any]) -> bool:
    """Whether a difference row of COMPARISON has a Holm-corrected p below LEVEL."""
    return row["p_adjusted"] is not None and row["p_adjusted"] < LEVEL


def _conclude(
    row: dict[str, Any], segments: list[dict[str, Any]], guardrails: tuple[ArmGuardrail, ...], arms: int
) -> ArmConclusion:
    conclusion = _conclusion(row)
    worse = [other for other in segments if _conclusion(other) == "worse"]
    small = [other for other in segments if other not in worse and _detectable(other) > MARGIN]
    parts = [f"{row['system']} − {row['baseline']}: {_estimate(row, arms)}"]
    if row["low"] == row["high"] == 0:  # the arms differ in nothing that changed a slate
        metric = _METRIC_LABELS.get(row["metric"], row["metric"])
        parts[0] = f"{row['system']} − {row['baseline']}: {metric} is the same for every user"
    elif conclusion == "inconclusive":
        effect = _absolute(row, row["min_detectable_effect"])
        parts[0] += f"; not significant. With {row['users']:,} users, a difference of {effect} has {POWER:.0%} power"
    else:
        parts[0] += f", p {_p(row['p_adjusted'])}"
    if worse:
        differences = [f"{other['segment']} ({_difference(other)})" for other in worse]
        parts.append(f"It is worse in the segments {', '.join(differences)}")
    elif segments:
        parts.append("No segment is significantly worse")
    if small:
        named = [f"{other['segment']} ({_absolute(other, other['min_detectable_effect'])})" for other in small]
        listed = ", ".join(named[:_SHOWN_SEGMENTS])
        more = f" and {len(small) - _SHOWN_SEGMENTS} more" if len(small) > _SHOWN_SEGMENTS else ""
        parts.append(
            f"Too few users to exclude a loss of {MARGIN:.0%}, with the loss that has {POWER:.0%} power: {listed}{more}"
        )
    found = ArmConclusion(
        row["system"],
        conclusion,
        "",
        row["value"],
        tuple(other["segment"] for other in worse),
        tuple(other["segment"] for other in small),
        guardrails,
    )
    if violated := found.guardrail_labels("violated"):
        parts.append(f"Guardrails violated (margin −{MARGIN:.0%}): {violated}")
    if not_shown := found.guardrail_labels("not shown"):
        parts.append(f"Guardrails not shown to hold (margin −{MARGIN:.0%}): {not_shown}")
    return replace(found, sentence=". ".join(parts) + ".")


def _recommend(conclusions: tuple[ArmConclusion, ...], baseline: str) -> str:
    better = sorted((c for c in conclusions if c.conclusion == "better"), key=lambda c: -c.difference)
    safe = [c for c in better if not c.worse_segments and not c.guardrail_labels("violated")]
    if safe:
        chosen = f"Choose {safe[0].arm}: it is better than {baseline}."
        not_shown = safe[0].guardrail_labels("not shown")
        return chosen + (f" First check what is not shown to hold: {not_shown}." if not_shown else "")
    if better:
        first = better[0]
        if violated := first.guardrail_labels("violated"):
            return f"Keep {baseline} for now: {first.arm} is better, but violates a guardrail: {violated}."
        return f"{first.arm} is better than {baseline} overall but worse for some segments: check them first."
    if all(conclusion.conclusion == "worse" for conclusion in conclusions):
        return f"Keep {baseline}: every other arm is worse."
    return f"Keep {baseline}: no arm is significantly better."


def _conclusion(row: dict[str, Any]) -> Conclusion:
    if not is_significant(row):
        return "inconclusive"
    return "better" if row["value"] > 0 else "worse"


def _estimate(row: dict[str, Any], arms: int) -> str:
    low, high = ("relative_low", "relative_high") if row["relative"] is not None else ("low", "high")
    metric = _METRIC_LABELS.get(row["metric"], row["metric"])
    interval = "95% interval" if arms == 1 else f"simultaneous 95% interval of {arms} arms"
    return f"{_difference(row)} {metric}, {interval} {_number(row, row[low])} … {_number(row, row[high])}"


def _difference(row: dict[str, Any]) -> str:
    return _number(row, row["relative"] if row["relative"] is not None else row["value"])


def _number(row: dict[str, Any], value: float) -> str:
    return f"{value:+.1%}" if row["relative"] is not None else f"{value:+.4f}"


def _absolute(row: dict[str, Any], value: float) -> str:
    """An absolute difference as text: a share of the baseline's value where it has one."""
    return f"{value / row['base']:.1%}" if row["base"] > 0 else f"{value:.4f}"


def _detectable(row: dict[str, Any]) -> float:
    """The minimum detectable effect as a share of the baseline's value; infinite where that is 0."""
    return float(row["min_detectable_effect"] / row["base"]) if row["base"] > 0 else float("inf")


def _p(p: float) -> str:
    return "< .001" if p < 0.001 else "= " + f"{p:.3f}".removeprefix("0")
