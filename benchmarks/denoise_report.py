"""Tables, a plot and the bars of the denoising benchmark's records. Intervals are over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from scipy import stats

from benchmarks.denoise_conditions import CLEAN, DEFAULT, NATURAL, NOTHING, ORACLE, RANDOM

RETUNED, NOT_RETUNED = "retuned ndcg@10", "not retuned ndcg@10"
LOSSES = "loss"  # its objectives T-CE, R-CE and PLD must be beaten by the default in the same run
LEVEL = 0.95
_DETECTION = ("auc", "precision", "removed", "removed_noise", "removed_tail", "fit_seconds", "peak_mb")
_RANKERS = ("ials", "ease", "not retuned", "retuned")


@dataclass(frozen=True)
class Mean:
    """A mean over seeds and half the width of its t interval; NaN with one seed."""

    value: float
    half: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        if len(values) < 2:
            return cls(float(np.mean(values)) if values else float("nan"), float("nan"), len(values))
        spread = np.std(values, ddof=1) / np.sqrt(len(values))
        return cls(float(np.mean(values)), float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * spread), len(values))

    def text(self, form: str) -> str:
        if np.isnan(self.value):
            return "-"
        half = "" if np.isnan(self.half) else f" ±{self.half:{form.lstrip('+')}}"
        return f"{self.value:{form}}{half}"


class Records:
    """All records of one plan, by noise, condition and seed."""

    def __init__(self, records: Iterable[dict[str, Any]]) -> None:
        self._found = {(r["noise"], r["condition"], r["seed"]): r for r in records}
        self.noises = tuple(dict.fromkeys(noise for noise, _, _ in self._found))

    def conditions(self, noise: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(condition for own, condition, _ in self._found if own == noise))

    def mean(self, noise: str, condition: str, name: str) -> Mean:
        values = (r.get(name) for (n, c, _), r in sorted(self._found.items()) if (n, c) == (noise, condition))
        return Mean.of([value for value in values if value is not None])

    def gain(self, noise: str, condition: str, against: str, name: str) -> Mean:
        """The paired difference in shares of the mean of `against`, over the seeds that have both."""
        pairs = []
        for (n, c, seed), record in sorted(self._found.items()):
            other = self._found.get((noise, against, seed), {})
            if (n, c) == (noise, condition) and name in record and name in other:
                pairs.append((record[name], other[name]))
        scale = float(np.mean([b for _, b in pairs])) if pairs else 1.0
        return Mean.of([(a - b) / scale for a, b in pairs])


def tables(records: Records) -> str:
    lines = []
    for noise in records.noises:
        lines += ["", f"{noise} noise: detection and removal", *_detection(records, noise)]
        if noise != NATURAL:
            lines += ["", f"{noise} noise: rankings, nDCG@10 and Recall@20", *_ranking(records, noise)]
    return "\n".join(lines)


def _detection(records: Records, noise: str) -> list[str]:
    heads = ("AUC", "precision", "removed", "of it noise", "of it tail", "fit s", "peak MB", "events/s")
    lines = [f"{'':28}" + "".join(f"{head:>15}" for head in heads)]
    for condition in records.conditions(noise):
        forms = (".3f", ".3f", ".1%", ".1%", ".1%", ".1f", ".0f")
        pairs = zip(_DETECTION, forms, strict=True)
        cells = [records.mean(noise, condition, name).text(form) for name, form in pairs]
        speed = records.mean(noise, condition, "events_per_second").value
        cells.append("-" if np.isnan(speed) else f"{speed:,.0f}")
        lines.append(f"{condition:28}" + "".join(f"{cell:>15}" for cell in cells))
    return lines


def _ranking(records: Records, noise: str) -> list[str]:
    heads = ("iALS", "EASE", "LLM not retuned", "LLM retuned", "against none", "against random", "LLM Recall@20")
    lines = [f"{'':28}" + "".join(f"{head:>17}" for head in heads)]
    for condition in records.conditions(noise):
        cells = [records.mean(noise, condition, f"{ranker} ndcg@10").text(".4f") for ranker in _RANKERS]
        for against in (NOTHING, RANDOM):
            gain = records.gain(noise, condition, against, RETUNED)
            cells.append("-" if condition == against else gain.text("+.1%"))
        cells.append(records.mean(noise, condition, "retuned recall@20").text(".4f"))
        lines.append(f"{condition:28}" + "".join(f"{cell:>17}" for cell in cells))
    return lines


@dataclass(frozen=True)
class Bar:
    """One promise: what was found, and whether it holds. Not measured is not met."""

    what: str
    found: str
    met: bool


def bars(records: Records) -> list[Bar]:
    """The bars of the benchmark for whatever noises were run."""
    out = []
    for noise, least in (("popularity", 0.70), ("uniform", 0.90), (NATURAL, 0.65)):
        if noise in records.noises:
            mean = records.mean(noise, DEFAULT, "auc")
            out.append(Bar(f"{noise}: AUC >= {least:.2f}", mean.text(".3f"), mean.value >= least))
    for noise in ("popularity", "taste-swap"):
        if noise in records.noises:
            out += _helps(records, noise)
    if CLEAN in records.noises:
        gain = records.gain(CLEAN, DEFAULT, NOTHING, RETUNED)
        out.append(Bar("clean: retuned costs <= 1%", gain.text("+.1%"), gain.value >= -0.01))
    return out


def _helps(records: Records, noise: str) -> list[Bar]:
    found = []
    for name, against, least, what in (
        (RETUNED, NOTHING, 0.10, "retuned >= 10% over none"),
        (RETUNED, RANDOM, 0.05, "retuned >= 5% over random"),
        (NOT_RETUNED, NOTHING, 0.03, "not retuned >= 3% over none"),
        ("ials ndcg@10", NOTHING, 0.03, "iALS >= 3% over none"),
        ("ease ndcg@10", NOTHING, 0.03, "EASE >= 3% over none"),
    ):
        gain = records.gain(noise, DEFAULT, against, name)
        met = gain.value >= least and (name != RETUNED or gain.value - gain.half > 0)
        found.append(Bar(f"{noise}: {what}", gain.text("+.1%"), met))
    noisy, own, whole = (records.mean(noise, one, RETUNED).value for one in (NOTHING, DEFAULT, ORACLE))
    won = (own - noisy) / (whole - noisy) if whole > noisy else float("nan")
    found.append(Bar(f"{noise}: recovers >= half of the loss", f"{won:.0%}", won >= 0.5))
    for condition in records.conditions(noise):
        if condition.partition(":")[0] == LOSSES != DEFAULT:
            gain = records.gain(noise, DEFAULT, condition, RETUNED)
            found.append(Bar(f"{noise}: retuned beats {condition}", gain.text("+.1%"), gain.value > 0))
    return found


def plot(records: Records) -> str:
    """An SVG: what each condition adds to the retuned LLM's nDCG@10 over removing nothing, with its interval."""
    rows: list[tuple[str, Mean | None]] = []
    for noise in records.noises:
        own = [(c, records.gain(noise, c, NOTHING, RETUNED)) for c in records.conditions(noise) if c != NOTHING]
        measured = [(condition, gain) for condition, gain in own if gain.seeds]
        rows += [(f"{noise} noise", None), *measured] if measured else []
    reach = [abs(g.value) + np.nan_to_num(g.half) for _, g in rows if g is not None]
    most = 1.05 * max([0.05, *reach])
    left, width, line = 230, 560, 22

    def x(value: float) -> float:
        return float(left + width * (value + most) / (2 * most))

    height = line * (len(rows) + 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 20} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="100%" height="100%" fill="#fff"/><path d="M{x(0):.1f},4V{height - line}" stroke="#999"/>',
    ]
    for place, (name, gain) in enumerate(rows):
        y = line * (place + 1)
        weight = ' font-weight="bold"' if gain is None else ""
        parts.append(f'<text x="8" y="{y + 4}"{weight}>{escape(name)}</text>')
        if gain is not None:
            half = float(np.nan_to_num(gain.half))
            low, high = x(gain.value - half), x(gain.value + half)
            parts.append(f'<path d="M{low:.1f},{y}H{high:.1f}" stroke="#36c" stroke-width="2"/>')
            parts.append(f'<circle cx="{x(gain.value):.1f}" cy="{y}" r="4" fill="#36c"/>')
    step = float(f"{most / 2:.1g}")
    for value in np.arange(-2, 3) * step:
        if abs(value) <= most:
            parts.append(f'<text x="{x(value):.1f}" y="{height - 6}" text-anchor="middle">{value:+.1%}</text>')
    return "\n".join([*parts, "</svg>\n"])


def write_plot(records: Records, path: Path) -> None:
    path.write_text(plot(records), encoding="utf8")
