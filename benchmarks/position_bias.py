"""Measures the position bias of the `listwise` reranker averaged over several orders, against one order.

    python -m benchmarks.position_bias                          # a tiny random Qwen3, built here
    python -m benchmarks.position_bias --checkpoint FOLDER      # a real one

Synthetic queries of 12 titles each. Per setting: how far the score depends on an item's position in the first list, and
the cost.

    bias     standard deviation, over positions, of the mean score there (centred by query), in nats
    chance   the same with the positions of each query shuffled, the mean of 100 times: the bias of pure noise
    lists    prompts per query
    agrees   Spearman's correlation of a query's scores with those of up to 64 orders, the mean over queries

A random model answers by chance and by position. It shows that averaging removes the position and at what cost, and
nothing about a trained model, which has its own bias and its own gain from averaging.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from tokenizers import Tokenizer

from rayrec.instructions.templates import load_templates
from rayrec.reranking.engines.engine import EngineSettings, Failure
from rayrec.reranking.engines.transformers_runner import TransformersRunner
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint
from rayrec.reranking.text.listwise import ListwiseScorer, ListwiseSettings
from rayrec.reranking.text.text_scorer import RankingQuery
from tests.support.small_checkpoints import FAMILIES, build

CANDIDATES, _LONGEST = 12, 1200
SETTINGS: Mapping[str, Mapping[str, int]] = {
    "one order": {"permutations": 1},
    "forwards and backwards": {"permutations": 2},
    "up to 8, top 1 stable": {"permutations": 8, "stable_top": 1},
    "up to 8, top 5 stable": {"permutations": 8, "stable_top": 5},
    "up to 8, all stable": {"permutations": 8, "stable_top": CANDIDATES},
    "up to 64, all stable": {"permutations": 64, "stable_top": CANDIDATES},
}
_THINGS = ("Lamp", "Tent", "Kettle", "Chair", "Clock", "Scarf", "Drum", "Map", "Rope", "Knife", "Bowl", "Coat")
_MANNERS = ("Red", "Old", "Tall", "Quiet", "Bright", "Heavy", "Folding", "Wooden", "Striped", "Plain")
_SHUFFLES = 100

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ScoredQueries:
    """The queries as scored under one setting."""

    scores: Floats  # [queries, CANDIDATES]
    place: Ints  # [queries, CANDIDATES]: where each candidate stood in the first list
    lists: float  # prompts a query


def make_queries(count: int, seed: int) -> list[RankingQuery]:
    rng = np.random.default_rng(seed)
    titles = np.array([f"{manner} {thing}" for manner in _MANNERS for thing in _THINGS])
    drawn = [rng.permutation(titles)[: CANDIDATES + 3].tolist() for _ in range(count)]
    return [
        RankingQuery("something for the weekend", tuple(some[CANDIDATES:]), tuple(some[:CANDIDATES])) for some in drawn
    ]


def score_queries(
    checkpoint: InstructCheckpoint, queries: list[RankingQuery], settings: Mapping[str, int]
) -> ScoredQueries:
    engine = TransformersRunner(checkpoint.model_files, "next_token", EngineSettings(threads=1), _LONGEST)
    given = ListwiseSettings(**{"window": CANDIDATES, "item_tokens": 16, "instruction_tokens": 16, **settings})
    scorer = ListwiseScorer(engine, checkpoint, given, load_templates())
    decoder = Tokenizer.from_file(str(checkpoint.folder / "tokenizer.json"))
    scores, place = np.empty((len(queries), CANDIDATES)), np.empty((len(queries), CANDIDATES), np.int64)
    count = 0
    for row, query in enumerate(queries):
        rounds = scorer.prompt_rounds(query)
        prompts = next(rounds)
        place[row] = places(decoder.decode(prompts[0]), query.candidates)
        while True:
            try:
                count += len(prompts)
                prompts = rounds.send(engine.next_token_log_probs(prompts, scorer.ids))
            except StopIteration as end:
                if isinstance(end.value, Failure):
                    raise SystemExit(f"the checkpoint failed on a prompt: {end.value.reason}") from None
                scores[row] = end.value
                break
    return ScoredQueries(scores, place, count / len(queries))


def places(prompt: str, candidates: tuple[str, ...]) -> list[int]:
    """The line of each candidate in a prompt's list."""
    lines = re.findall(r"\n\s*[A-Za-z]\.\s*(.+)", prompt)
    return [lines.index(title) for title in candidates]


def mean_by_place(scores: Floats, place: Ints) -> Floats:
    """The mean score at each place, centred by query."""
    centred = scores - scores.mean(1, keepdims=True)
    return np.asarray(np.bincount(place.ravel(), centred.ravel()) / np.bincount(place.ravel()))


def bias(scores: Floats, place: Ints) -> float:
    return float(mean_by_place(scores, place).std())


def by_chance(scored: ScoredQueries) -> float:
    rng = np.random.default_rng(0)
    return float(np.mean([bias(scored.scores, rng.permuted(scored.place, axis=1)) for _ in range(_SHUFFLES)]))


def agreement(scores: Floats, others: Floats) -> float:
    one, two = (rankdata(part, axis=1) - (CANDIDATES + 1) / 2 for part in (scores, others))
    return float(np.mean((one * two).sum(1) / np.sqrt((one**2).sum(1) * (two**2).sum(1))))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="a folder; without one, a tiny random model is made")
    parser.add_argument("--family", choices=FAMILIES, default="qwen3", help="of the random model")
    parser.add_argument("--asks", dest="queries", type=int, default=50, help="queries a seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--check", action="store_true", help="exit with 1 unless averaging removes half of the bias")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = InstructCheckpoint.open(given.checkpoint or str(build(Path(folder), given.family)))
        queries = [query for seed in given.seeds for query in make_queries(given.queries, seed)]
        found = {name: score_queries(checkpoint, queries, settings) for name, settings in SETTINGS.items()}
    most = list(found.values())[-1].scores
    print(f"{checkpoint.folder.name}, {len(queries)} queries of {CANDIDATES} candidates")
    print(f"{'orders':<26}{'lists':>7}{'bias':>8}{'chance':>8}{'agrees':>8}")
    for name, one in found.items():
        measures = f"{one.lists:>7.1f}{bias(one.scores, one.place):>8.3f}{by_chance(one):>8.3f}"
        print(f"{name:<26}{measures}{agreement(one.scores, most):>8.3f}")
    print(f"\nmean score by place  {''.join(f'{place:>6}' for place in range(1, CANDIDATES + 1))}")
    for name, one in found.items():
        print(f"{name:<22}" + "".join(f"{mean:>6.2f}" for mean in mean_by_place(one.scores, one.place)))
    before, after = (found[name] for name in ("one order", "up to 8, top 5 stable"))
    was, now = (bias(one.scores, one.place) for one in (before, after))
    met = now <= max(was / 2, 2 * by_chance(after))
    which = "" if given.checkpoint else " of a random model"
    print(
        f"position bias{which}: {was:.3f} nats in one order, {now:.3f} averaged, by {after.lists:.1f} lists of at most "
        f"8 (bar: half, or what chance shows) {'met' if met else 'NOT MET'}"
    )
    return 1 if given.check and not met else 0


if __name__ == "__main__":
    sys.exit(main())
