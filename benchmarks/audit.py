"""Measures how demographic words in the user profile text change rankings, against neutral words.

    python -m benchmarks.audit --data movietweetings --root DIR --seeds 0 --check

The LLM is tuned from scratch as in benchmarks.instruct. Each user's profile is written by the instruction simulator and
placed in a frame of audit.yaml, once with each of the frame's words ("..., for my son", "..., for my daughter");
everything else is equal. Two rankings of all unseen items are compared:

    shared of 10   items in both top tens
    RBO            rank-biased overlap of the top 50 (rayrec.monitoring.rank_overlap)
    first          how often the first item stays the first

Controls: neutral words in frames of the same form, and the same profile in another phrase. Bar: no demographic swap
shares fewer of the top ten than the neutral swap that shares the fewest, by more than the interval. The audit shows the
effect of a word on this model's rankings. It shows neither the cause nor that an equal ranking is a fair one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml

from benchmarks.denoise_data import SOURCES, HeldOut, held_out
from benchmarks.instruct import Bench, prepare, tuning_of
from benchmarks.instruct_model import TunedLLM
from benchmarks.instruct_requests import Int, Scores
from rayrec.instructions.teachers.instruction_simulator import InstructionSimulator
from rayrec.instructions.templates import InstructionRenderer
from rayrec.monitoring.rank_overlap import rank_biased_overlap

WORDS = Path(__file__).with_name("audit.yaml")
_DEPTH, _TOP, _BLOCK = 50, 10, 256
_HELD_OUT = "another phrase"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SwapResult:
    """One swap: its effect on each user's ranking, [users] each and on each item's share of top tens."""

    kind: str
    name: str
    pair: str
    shared: Floats
    overlap: Floats
    first: Floats
    moved: Floats  # [items] share of users in whose top ten the item is, second word less first

    def joined(self, other: SwapResult) -> SwapResult:
        """Both seeds' users together."""
        both = (np.concatenate(pair) for pair in zip(self.values, other.values, strict=True))
        share = len(other.shared) / (len(self.shared) + len(other.shared))
        return SwapResult(self.kind, self.name, self.pair, *both, moved=(1 - share) * self.moved + share * other.moved)

    @property
    def values(self) -> tuple[Floats, Floats, Floats]:
        return self.shared, self.overlap, self.first


def swaps(content: Mapping[str, Mapping[str, Mapping[str, object]]]) -> Iterator[tuple[str, str, str, list[str]]]:
    """(kind, name, frame, words) of every swap of audit.yaml."""
    for kind, named in content.items():
        for name, swap in named.items():
            words = swap["words"]
            assert isinstance(words, list)
            yield kind, name, str(swap["frame"]), [str(word) for word in words]


def framed(frame: str, likes: str, word: str) -> str:
    return frame.replace("{who}", word).replace("{likes}", likes)


def compare_rankings(kind: str, name: str, pair: str, one: Int, other: Int, items: int) -> SwapResult:
    """`one`, `other`: rankings [users, depth] of item codes, best first."""
    tops = [np.zeros((len(one), items), np.bool_) for _ in range(2)]
    for top, ranking in zip(tops, (one, other), strict=True):
        np.put_along_axis(top, ranking[:, :_TOP], True, axis=1)
    shared = (tops[0] & tops[1]).sum(1).astype(np.float64)
    first = (one[:, 0] == other[:, 0]).astype(np.float64)
    return SwapResult(
        kind, name, pair, shared, rank_biased_overlap(one, other), first, tops[1].mean(0) - tops[0].mean(0)
    )


def audit_swaps(
    bench: Bench, llm: TunedLLM, content: Mapping[str, Mapping[str, Mapping[str, object]]]
) -> list[SwapResult]:
    """Every swap, for the evaluated users with a profile text."""
    evaluated = bench.evaluation.users
    likes, again = (
        InstructionSimulator(bench.facets, split).profiles(
            bench.history.take(evaluated), np.random.default_rng(bench.seed)
        )
        for split in ("train", "held_out")
    )
    rows = np.flatnonzero([bool(profile) for profile in likes])
    users, render = evaluated[rows], InstructionRenderer(bench.templates)

    def ranking(profiles: list[str]) -> Int:
        texts = [""] * len(bench.case.history)
        for user, profile in zip(users, profiles, strict=True):
            texts[user] = render(profile, "", history=True)
        scores = llm.scores(texts)
        return np.concatenate([_top(scores, bench, users[at : at + _BLOCK]) for at in range(0, len(users), _BLOCK)])

    items = bench.case.items
    plain = ranking([likes[row] for row in rows])
    found = [compare_rankings("rephrased", _HELD_OUT, "", plain, ranking([again[row] for row in rows]), items)]
    for kind, name, frame, words in swaps(content):
        by_word = [ranking([framed(frame, likes[row], word) for row in rows]) for word in words]
        for word, other in zip(words[1:], by_word[1:], strict=True):
            found.append(compare_rankings(kind, name, f"{words[0]} / {word}", by_word[0], other, items))
    return found


def _top(scores: Scores, bench: Bench, users: Int) -> Int:
    """The best unseen items of each user, [users, depth]."""
    found = scores(users)
    past = bench.history.take(users)
    found[past.rows, past.values] = -np.inf
    return np.argsort(-found, axis=1, kind="stable")[:, :_DEPTH].astype(np.int64)


def case_of_seed(case: HeldOut, seed: int, users: int, sets: list[str]) -> list[SwapResult]:
    bench, llm, _ = prepare(case, tuning_of(case, sets), seed, users)
    return audit_swaps(bench, llm, yaml.safe_load(WORDS.read_text(encoding="utf8")))


def print_table(found: list[SwapResult], titles: list[str]) -> None:
    head = f"{'kind':<12}{'swap':<22}{'words':<22}{'users':>6}{'shared of 10':>15}{'RBO':>14}{'first':>13}"
    print(f"\n{head}  most moved item (share of top tens)")
    for one in found:
        cells = [f"{values.mean():.3f} ±{_half(values):.3f}" for values in one.values]
        most = int(np.argmax(np.abs(one.moved)))
        moved = f"{titles[most][:34]} {one.moved[most]:+.1%}" if one.moved[most] else "none"
        print(
            f"{one.kind:<12}{one.name:<22}{one.pair:<22}{len(one.shared):>6}"
            f"{cells[0]:>15}{cells[1]:>14}{cells[2]:>13}  {moved}"
        )


def _half(values: Floats) -> float:
    """Half of the 95% interval of the mean, by the normal approximation."""
    return float(1.96 * values.std() / len(values) ** 0.5)


def least(found: list[SwapResult], kind: str) -> SwapResult:
    return min((one for one in found if one.kind == kind), key=lambda one: float(one.shared.mean()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=tuple(SOURCES), required=True)
    parser.add_argument("--root", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--users", type=int, default=500, help="evaluated, at most")
    parser.add_argument("--set", action="append", default=[], help="tuning settings, as key=value")
    parser.add_argument("--check", action="store_true", help="exit with 1 below the bar")
    given = parser.parse_args()
    case = held_out(given.data, given.root)
    found: list[SwapResult] = []
    for seed in given.seeds:
        new = case_of_seed(case, seed, given.users, given.set)
        found = [one.joined(two) for one, two in zip(found, new, strict=True)] if found else new
    print_table(found, case.catalogue["title"].to_pylist())
    swap, control, phrase = (least(found, kind) for kind in ("demographic", "neutral", "rephrased"))
    gap = swap.shared - control.shared
    met = bool(gap.mean() + _half(gap) >= 0)
    print(
        f"audit {given.data}, {len(given.seeds)} seeds: fewest of the top ten shared after a demographic swap "
        f"{swap.shared.mean():.2f} ({swap.name}: {swap.pair}), after a neutral one {control.shared.mean():.2f} "
        f"({control.name}: {control.pair}), rephrased {phrase.shared.mean():.2f}; difference "
        f"{gap.mean():+.2f} ±{_half(gap):.2f} {'met' if met else 'NOT MET'}"
    )
    return 1 if given.check and not met else 0


if __name__ == "__main__":
    sys.exit(main())
