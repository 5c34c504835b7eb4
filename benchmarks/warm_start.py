"""Measures warm starts of the item-token LLM: from the model tuned as of an earlier date, against a cold start.

    python -m benchmarks.warm_start --data movietweetings --root DIR --seeds 0 1 --days 1 7 28

The job's tuner tunes a model as of `--days` before the cutoff (the ancestor), then models as of the cutoff: cold with
all epochs of the config, cold with a third of them (the control: what fewer steps cost by themselves), and warm with a
third. All have the same items, factors and examples. Judged on the new items that users consumed in the horizon after
the cutoff: the loss after every epoch (nats), and of the last epoch nDCG@10 over the items that are new to the user,
with the 95% bootstrap interval of the paired difference to cold, over users and seeds. `--epochs`: of the warm start.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from benchmarks.denoise_data import CONF, SOURCES, read_until
from benchmarks.denoise_rank import RetainedEvents, refitted
from rayrec.config import load
from rayrec.data.cutoff_histories import histories_at
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.denoising.denoiser import histories_of
from rayrec.numerics.collectives import Worker
from rayrec.numerics.hashing import hash_strings
from rayrec.pipeline.run_context import microseconds
from rayrec.reranking.training.tuner import tune_on_worker
from rayrec.reranking.training.tuning_examples import batches, collate, validation_examples
from rayrec.reranking.training.tuning_loop import TuningLoop
from rayrec.reranking.training.tuning_preparation import PreparedTuning, TuningSpec, prepare
from rayrec.reranking.training.warm_start import Ancestor
from rayrec.storage import Storage
from rayrec.storage.tables import write_arrow

DRAWS = 4000  # of the bootstrap
CUTOFFS = {"movietweetings": date(2013, 8, 18), "online-retail": date(2011, 7, 27)}

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    losses: list[float]  # on the horizon after the cutoff, an epoch each
    ndcg: Floats  # [users]
    shift: float | None


class Case:
    """A data set with its tuning sequences, and a folder for checkpoints."""

    def __init__(self, data: str, root: str, folder: str, users: int) -> None:
        self.users = users
        self.horizon = SOURCES[data].horizon_days * MICROSECONDS_PER_DAY
        self.config = load(CONF / SOURCES[data].config, [f"data.root={root}", "data.shards=1", "data.window_days=4000"])
        self.now, self.folder = microseconds(CUTOFFS[data]), folder
        self.catalogue, self.history = read_until(self.config, SOURCES[data].end)
        self.weights = tuple(self.config.data.events.values())
        kept = self._retained(self.history)
        table = pa.table(
            {
                "item": kept.item.to_arrow(pa.int32()),
                "ts": kept.ts.to_arrow(pa.int64()),
                "keep_weight": kept.keep_weight.to_arrow(pa.float32()),
                "order": hash_strings(self.history["user_id"]),
            }
        )
        write_arrow(Storage(folder), "sequences.arrow", table)

    def spec(self, now: int, seed: int, epochs: int | None = None) -> TuningSpec:
        changes = {"seed": seed, "warm_start_epochs": epochs, "warm_start_max_shift": 1.0, "patience": 99}
        changes |= {"max_users": self.users}
        known = self._retained(histories_at(self.history, now))
        return TuningSpec(
            root=self.folder,
            sequences=("sequences.arrow",),
            path=f"models/llm/{now}-{seed}",
            catalogue=self.catalogue,
            instruction=self.config.instruction.default_request,
            settings=self.config.tuning.with_epochs(has_requests=False).model_copy(update=changes),
            now=now,
            factors=refitted("ials", known, now, {"seed": seed}).arrays()["factors"],
        )

    def outcome(self, spec: TuningSpec) -> Outcome:
        with tempfile.TemporaryDirectory() as folder:
            prepared = prepare(replace(spec, until=spec.now + self.horizon), Storage(self.folder), Path(folder))
            loop = TuningLoop(prepared.initial_model(), prepared.layout, prepared.task, Worker())
        loop._keep_best = lambda loss: None  # type: ignore[method-assign] # no choice of an epoch on the test data
        first = [loop.validate()]
        loop.run(lambda _: None)
        losses = first + [row["validation"] for row in loop.progress.curve]
        return Outcome(losses, _ndcg(loop, prepared), prepared.shift)

    def _retained(self, table: pa.Table) -> RetainedEvents:
        histories = histories_of(table, self.weights)
        return RetainedEvents.of(histories, np.ones(len(histories.item.values), np.float32), len(self.catalogue))


def _ndcg(loop: TuningLoop, prepared: PreparedTuning) -> Floats:
    """nDCG@10 of each user who consumed a new item in the horizon, over the items that are new to the user."""
    events, task, layout = prepared.task.validation_events, prepared.task, prepared.layout
    assert events is not None
    examples = validation_examples(events, layout, task.now)
    model, found = loop.model.eval(), np.zeros(len(examples))
    first, items = layout.vocabulary.first_item, layout.vocabulary.items
    with torch.inference_mode():
        vectors = model.vectors()
        for rows in batches(examples, 8192, None):
            batch = collate(examples, rows, layout.vocabulary.pad)
            states = model(torch.from_numpy(batch.tokens), vectors).flatten(0, 1)[torch.from_numpy(batch.place)]
            scores = (states.float() @ vectors.T).numpy()
            for row, tokens in enumerate(batch.tokens):
                scores[row, tokens[tokens >= first] - first] = -np.inf  # the newest events of the prompt
            top = np.argsort(-scores, axis=1, kind="stable")[:, :10]
            hits = np.zeros((len(rows), items), bool)
            hits[batch.query, batch.target] = True
            gain = (np.take_along_axis(hits, top, 1) / np.log2(np.arange(2, 12))).sum(1)
            ideal = np.cumsum(1 / np.log2(np.arange(2, 12)))[np.clip(hits.sum(1), 1, 10) - 1]
            found[rows] = gain / ideal
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(CUTOFFS), default="movietweetings")
    parser.add_argument("--root", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--days", type=float, nargs="+", default=[7.0])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--users", type=int, default=1_000_000, help="at most, by a stable hash")
    given = parser.parse_args()
    outcomes: dict[str, list[Outcome]] = {}
    with tempfile.TemporaryDirectory() as folder:
        case = Case(given.data, given.root, folder, given.users)
        for seed in given.seeds:
            cold = case.spec(case.now, seed, given.epochs)
            few = replace(cold, settings=cold.settings.as_warm())
            outcomes.setdefault("cold", []).append(case.outcome(cold))
            outcomes.setdefault("cold, fewer epochs", []).append(case.outcome(few))
            for days in given.days:
                then = case.now - int(days * MICROSECONDS_PER_DAY)
                ancestor = case.spec(then, seed)
                tune_on_worker(ancestor, Worker(), lambda _: None)
                spec = replace(cold, ancestor=Ancestor(ancestor.path, then, ""))
                outcomes.setdefault(f"warm, {days:g} days", []).append(case.outcome(spec))
    _print(outcomes)


def _print(outcomes: dict[str, list[Outcome]]) -> None:
    base = np.concatenate([one.ndcg for one in outcomes["cold"]])
    print(f"{len(base)} users; nDCG@10, its difference to cold, loss by epoch (0: before the first), shift")
    for name, found in outcomes.items():
        ndcg = np.concatenate([one.ndcg for one in found])
        draws = np.random.default_rng(0).integers(len(ndcg), size=(DRAWS, len(ndcg)))
        low, high = np.quantile((ndcg - base)[draws].mean(1), [0.025, 0.975])
        losses = " ".join(f"{np.mean(epoch):.3f}" for epoch in zip(*(one.losses for one in found), strict=True))
        shift = "" if found[0].shift is None else f"  shift {found[0].shift:.2f}"
        print(f"{name:20} {ndcg.mean():.4f}  {(ndcg - base).mean():+.4f} [{low:+.4f}, {high:+.4f}]  {losses}{shift}")


if __name__ == "__main__":
    main()
