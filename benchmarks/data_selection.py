"""Measures training-data selection for tuning at a budget of users, against random and BM25-similar users.

    python -m benchmarks.data_selection --data movietweetings --root DIR --seeds 0 1 2 --budgets .1 .25 --check
    python -m benchmarks.data_selection --data made --root DIR --seeds 0 --budgets .1 --ways random influence

The item-token LLM of the daily job is tuned on the histories of the selected users and predicts the next items of all
users (see denoise_data.py). At a budget b every method has the same optimisation steps, b times --steps and at least
100. So has `all`, which uses all users as far as the steps reach. Item factors, from which item vectors start, and the
items with a token come from all users. `longest` selects the users with the most events. It is a control, because a
budget of users does not bound the number of events. Selection targets 1,000 validation users by their newest known
events, which come before the test events: the users who were active last, or any users where each user has an own
cutoff (protocol last-event).

nDCG@10 over all items that are new to the user, mean ± half the 95% bootstrap interval over seeds and users; gains are
paired. The bar of --check: influence beats random and similar at every budget, with the interval above 0.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp

from benchmarks import denoise_llm as llm
from benchmarks import denoise_rank as rank
from benchmarks.denoise_data import SOURCES, HeldOut, held_out
from rayrec.denoising.denoiser import histories_of
from rayrec.instructions.text_cleaning import clean
from rayrec.numerics.hashing import derive_seed
from rayrec.reranking.item_token.item_lm import ItemLM
from rayrec.reranking.training.data_selection import select_users
from rayrec.reranking.training.data_selection.selection_pool import event_group_counts, top_weights
from rayrec.reranking.training.tuning_examples import Sequences

ALL, LONGEST = "all", "longest"
METHODS = (ALL, "random", "similar", LONGEST, "diverse", "influence")
CONTROLS = ("random", "similar")  # must be beaten by influence, which costs more
VALIDATION_USERS = 1000
LEAST_STEPS = 100
DRAWS = 4000  # of the bootstrap

Floats = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TuningResult:
    """One tuning. `ndcg` [evaluated users]; `users`, `events`: what it was tuned on; `seconds`: of the selection."""

    ndcg: Floats
    users: int
    events: int
    seconds: float


class Case:
    """One seed of a data set: factors, model, choices and tunings follow from it."""

    def __init__(self, held: HeldOut, seed: int, steps: int) -> None:
        self.held, self.seed, self.steps = held, seed, steps
        self.histories = histories_of(held.history, held.event_weights)
        self.retained = rank.RetainedEvents.of(
            self.histories, np.ones(len(self.histories.item.values), np.float32), held.items
        )
        self.now = int(held.user_cutoffs.max()) + (held.protocol == "last-event")

    def tune_and_evaluate(self, method: str, budget: float) -> TuningResult:
        started = time.perf_counter()
        weights = self._weights(method, budget)
        seconds = time.perf_counter() - started
        keep = weights[self.histories.item.rows]
        chosen = rank.RetainedEvents.of(self.histories, keep, self.held.items)
        lm = llm.tuned(self._encoder, chosen, self._factors, max(LEAST_STEPS, round(budget * self.steps)))
        found = rank.ranking_metrics(llm.scores_of(self._encoder, lm, self.retained), self._seen, self.held.wanted)
        return TuningResult(found["ndcg@10"], int(np.count_nonzero(weights)), len(chosen.item.values), seconds)

    def _weights(self, method: str, budget: float) -> npt.NDArray[np.float32]:
        """[users of the histories], 0: left out."""
        index = self._encoder.index
        known = (
            np.bincount(
                self.retained.item.rows, index[self.retained.item.values] >= 0, minlength=len(self.retained.item)
            )
            > 0
        )
        weights = known.astype(np.float32)
        if method != ALL:
            weights[known] = self._chosen(method, budget)
        return weights

    def _chosen(self, method: str, budget: float) -> npt.NDArray[np.float32]:
        """[users with an item that has a token]"""
        columns = {
            "item": self.retained.item.to_arrow(pa.int32()),
            "ts": self.retained.ts.to_arrow(pa.int64()),
            "keep_weight": self.retained.keep_weight.to_arrow(pa.float32()),
        }
        events = Sequences.from_tables([pa.table(columns)], self._encoder.index, self.now)
        trainable = event_group_counts(events) > 1
        if method == LONGEST:
            scores = np.where(trainable, events.item.lengths, -1).astype(np.float64)
            return top_weights(scores, max(1, round(budget * int(trainable.sum()))))
        validation = None
        if self.held.protocol == "last-event":
            able = np.flatnonzero(event_group_counts(events) > 2)
            rng = np.random.default_rng(derive_seed("validation users", self.seed))
            validation = np.sort(rng.permutation(able)[:VALIDATION_USERS])
        settings = self._encoder.settings.model_copy(update={"data_selection": method, "selection_budget": budget})
        choice = select_users(events, self._fresh, self._encoder.layout, settings, self.now, validation=validation)
        return choice.weights

    def _fresh(self) -> ItemLM:
        lm = self._encoder.blank()
        lm.init_item_vectors(lm.project_factors(self._factors[self._encoder.codes]))
        return lm

    @cached_property
    def _factors(self) -> npt.NDArray[np.float32]:
        factors: npt.NDArray[np.float32] = rank.refitted("ials", self.retained, self.now, {"seed": self.seed}).arrays()[
            "factors"
        ]
        return factors

    @cached_property
    def _encoder(self) -> llm.PromptEncoder:
        config = self.held.config
        settings = config.tuning.model_copy(update={"seed": self.seed})
        if self.held.protocol == "last-event":
            settings = settings.model_copy(update={"target_half_life_days": 0.0})
        counts = np.bincount(self.retained.item.values, minlength=self.held.items)
        words = clean(config.instruction.default_request, config.instruction.max_chars)
        return llm.PromptEncoder.of(self.held.catalogue, counts, words, settings, self.held.user_cutoffs)

    @cached_property
    def _seen(self) -> sp.csr_matrix:
        item = self.histories.item
        cells = (np.ones(len(item.values), np.bool_), (item.rows, item.values))
        return sp.csr_matrix(cells, shape=(len(item), self.held.items))


Found = dict[tuple[str, float], list[TuningResult]]
"""(method, budget) -> one tuning a seed."""


def run(held: HeldOut, seeds: list[int], budgets: list[float], methods: list[str], steps: int) -> Found:
    found: Found = {}
    for seed in seeds:
        case = Case(held, seed, steps)
        for budget, method in product(budgets, methods):
            found.setdefault((method, budget), []).append(case.tune_and_evaluate(method, budget))
            print(
                f"seed {seed} {budget:g} {method}: {found[method, budget][-1].ndcg.mean():.4f}",
                file=sys.stderr,
                flush=True,
            )
    return found


def interval(values: Floats) -> tuple[float, float]:
    """The mean of [seeds, users] and half its 95% interval: seeds and users drawn with replacement."""
    rng = np.random.default_rng(0)
    seeds, users = values.shape
    of_users = rng.multinomial(users, np.full(users, 1 / users), DRAWS) / users
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS) / seeds
    drawn = ((of_users @ values.T) * of_seeds).sum(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(values.mean()), float(high - low) / 2


def gain(found: Found, method: str, other: str, budget: float) -> tuple[float, float]:
    """The paired difference in nDCG@10 over the mean of the other method at that budget, and half its interval."""
    one, two = (np.stack([evaluated.ndcg for evaluated in found[name, budget]]) for name in (method, other))
    mean, half = interval(one - two)
    return mean / float(two.mean()), half / float(two.mean())


def beats(found: Found, other: str, budget: float) -> bool:
    """Whether influence does, beyond its interval; not measured is no."""
    if not {("influence", budget), (other, budget)} <= found.keys():
        return False
    mean, half = gain(found, "influence", other, budget)
    return mean > half


def rows(found: Found, budgets: list[float], methods: list[str]) -> Iterator[str]:
    heads = ("users", "events", "selection s", "nDCG@10", *(f"against {other}" for other in CONTROLS))
    yield f"{'budget':8}{'':11}" + "".join(f"{head:>18}" for head in heads)
    for budget, method in product(budgets, methods):
        tunings = found[method, budget]
        means = [float(np.mean([getattr(one, name) for one in tunings])) for name in ("users", "events", "seconds")]
        mean, half = interval(np.stack([one.ndcg for one in tunings]))
        cells = [f"{means[0]:,.0f}", f"{means[1]:,.0f}", f"{means[2]:.1f}", f"{mean:.4f} ±{half:.4f}"]
        for other in CONTROLS:
            compared = method != other and (other, budget) in found
            cells.append("{:+.1%} ±{:.1%}".format(*gain(found, method, other, budget)) if compared else "-")
        yield f"{budget:<8.0%}{method:11}" + "".join(f"{cell:>18}" for cell in cells)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(SOURCES), required=True)
    parser.add_argument("--root", help="the data set's folder; for made, where it is or will be generated")
    parser.add_argument("--protocol", choices=["time", "last-event"], help="default: the data set's own")
    parser.add_argument("--split", choices=["test", "validation"], default="test")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.1, 0.25])
    parser.add_argument("--ways", dest="methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--steps", type=int, default=700, help="of a tuning on everybody")
    parser.add_argument("--check", action="store_true", help="exit with 1 below the bar")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        held = held_out(given.data, given.root or folder, given.protocol, given.split)
        found = run(held, given.seeds, given.budgets, given.methods, given.steps)
    users, evaluated = len(held.history), int((held.wanted.lengths > 0).sum())
    print(
        f"{given.data}, {held.protocol}, {given.split}: {users:,} users, {evaluated:,} evaluated, "
        f"{held.items:,} items; {given.steps} steps, seeds {given.seeds}"
    )
    print("\n".join(rows(found, given.budgets, given.methods)))
    pairs = list(product(given.budgets, CONTROLS))
    wins = sum(beats(found, other, budget) for budget, other in pairs)
    print(
        f"data_selection {given.data}: influence beats {' and '.join(CONTROLS)} in {wins} of {len(pairs)} comparisons"
    )
    return 1 if given.check and wins < len(pairs) else 0


if __name__ == "__main__":
    sys.exit(main())
