"""Measures initialisations of item vectors (text, factors, both), against random vectors, on the instruction benchmark.

    python -m benchmarks.item_vectors --data movietweetings --root DIR --seeds 0 1 2

One tuning per kind (`tuning.item_init`) and seed, as in benchmarks.instruct. Intervals: 95%, over users of all seeds.
Bar: the kind that the daily job uses with requests (hybrid) ranks requests with a history no worse than any other, by
more than its interval.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from benchmarks.denoise_data import SOURCES, held_out
from benchmarks.instruct import Measures, merged, prepare, questions, tuning_of

KINDS = ("random", "text", "collaborative", "hybrid")
DEFAULT = "hybrid"
QUESTIONS = {  # column -> question, measure
    "history alone": ("sequential", "nDCG@10"),
    "request alone": ("search", "nDCG@10"),
    "both": ("personalised", "nDCG@10"),
    "new of 100": ("new item", "HR@1 of 100"),
    "pair": ("following: both, train", "satisfied@10"),
    "paraphrased": ("following: both, held_out", "satisfied@10"),
    "never named": ("following: unseen, held_out", "satisfied@10"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=tuple(SOURCES), required=True)
    parser.add_argument("--root", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--users", type=int, default=500, help="evaluated, at most")
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--check", action="store_true", help="exit with 1 below the bar")
    given = parser.parse_args()
    case = held_out(given.data, given.root)
    found: dict[str, Measures] = {}
    for kind in KINDS:
        tuning = tuning_of(case, [f"item_init={kind}"], given.epochs)
        found[kind] = merged(
            [questions(*prepare(case, tuning, seed, given.users)[:2], peer=None) for seed in given.seeds]
        )
        print(f"{kind:<15}{row(found[kind])}", flush=True)
    print(f"\n{'':<15}" + "".join(f"{name:>16}" for name in QUESTIONS))
    for kind, measures in found.items():
        print(f"{kind:<15}{row(measures)}")
    behind = {kind: lead(found[kind], found[DEFAULT]) for kind in KINDS if kind != DEFAULT}
    met = all(low <= 0 for _, low in behind.values())
    against = ", ".join(f"{kind} {gain:+.3f} (from {low:+.3f})" for kind, (gain, low) in behind.items())
    print(
        f"item_vectors {given.data}, {len(given.seeds)} seeds: over {DEFAULT}, request and history: {against}: ", end=""
    )
    print("met" if met else "NOT MET")
    return 1 if given.check and not met else 0


def row(measures: Measures) -> str:
    cells = []
    for question, name in QUESTIONS.values():
        values = measures[question, "LLM"][name] if (question, "LLM") in measures else None
        cells.append("" if values is None else f"{values.mean():.3f} ±{1.96 * values.std() / len(values) ** 0.5:.3f}")
    return "".join(f"{cell:>16}" for cell in cells)


def lead(one: Measures, other: Measures) -> tuple[float, float]:
    """By how much nDCG@10 of requests with a history is above another's, user by user; and the interval's lower end."""
    apart = np.subtract(*(of["personalised", "LLM"]["nDCG@10"] for of in (one, other)))
    gain = float(apart.mean())
    return gain, gain - 1.96 * float(apart.std()) / len(apart) ** 0.5


if __name__ == "__main__":
    sys.exit(main())
