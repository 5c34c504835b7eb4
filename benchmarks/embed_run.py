"""One training of embeddings and its evaluation by a linear probe, with ablated instructions and baselines."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.embed_baselines import baselines
from benchmarks.embed_noise import Denoising, denoising, with_noise
from benchmarks.embed_probe import auc, ks, out_of_fold_scores
from benchmarks.embed_uncached import embed_uncached
from rayrec.config.embeddings_section import Embeddings
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.embeddings.embedder import Embedder
from rayrec.embeddings.embedder_training import train
from rayrec.embeddings.embedder_training_loop import TrainingLoop
from rayrec.embeddings.instruction_answers import answer
from rayrec.embeddings.source_views import View
from rayrec.embeddings.training_windows import training_windows
from rayrec.embeddings.user_events import Events, Items
from rayrec.numerics.hashing import derive_seed

INSTRUCTIONS = (1, 4, 16)  # timed
FEWEST = 20  # users of either kind that a task needs


@dataclass(frozen=True)
class Case:
    """What is known, and the truth after `now`."""

    settings: Embeddings
    event_weights: tuple[float, ...]
    table: pa.Table  # HISTORY, up to the end of the horizon
    items: Items
    now: int  # microseconds UTC

    def labels(self, users: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.float64]]:
        """Per task, of these rows of the table: 1, 0, or NaN where the log has no answer."""
        before = Events.of(self.table, self.event_weights, self.now).take(users)
        until = Events.of(
            self.table, self.event_weights, self.now + int(self.settings.horizon_days * MICROSECONDS_PER_DAY)
        )
        after = until.filter(until.ts >= self.now).take(users)
        instructions = {name: one.answer for name, one in self.settings.instructions.items() if one.answer}
        return {
            name: answer(one, before, after, self.items).yes for name, one in instructions.items() if one.kind != "next"
        }


@dataclass
class ProbeResult:
    """One training: AUC and KS by (system, task), and what the intervals are made of."""

    auc: dict[str, dict[str, float]] = field(default_factory=dict)
    ks: dict[str, dict[str, float]] = field(default_factory=dict)
    yes: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    score: dict[str, dict[str, npt.NDArray[np.float64]]] = field(default_factory=dict)
    train_seconds: float = 0.0
    cached: dict[int, float] = field(default_factory=dict)  # instructions -> seconds for a million users
    uncached: dict[int, float] = field(default_factory=dict)
    denoising: Denoising | None = None

    def mean(self, system: str) -> float:
        return statistics.fmean(self.auc[system].values())


def run(case: Case, seed: int, noise: float, *, timed: bool, denoised_users: int) -> ProbeResult:
    """Train, embed and probe."""
    found = ProbeResult()
    settings = case.settings.model_copy(
        update={"training": case.settings.training.model_copy(update={"seed": case.settings.training.seed + seed})}
    )
    table, marks = with_noise(case.table, case.now, noise, case.event_weights, seed)
    started = time.perf_counter()
    windows = training_windows(settings, table, case.items, case.event_weights, case.now)
    embedder = Embedder.of(settings, train(settings, windows, case.items, _say))
    found.train_seconds = time.perf_counter() - started
    users = np.flatnonzero(Events.of(table, case.event_weights, case.now).lengths > 0)
    events = Events.of(table, case.event_weights, case.now).take(users)
    view_builder = embedder.view_builder(case.items)
    views = view_builder(events)
    texts = {name: one.text for name, one in settings.instructions.items()}
    _probe_all(found, case.labels(users), embedder, views, texts, dict(baselines(events, case.items, seed)), seed)
    if timed:
        for count in INSTRUCTIONS:
            cycle = [list(texts.values())[k % len(texts)] for k in range(count)]
            found.cached[count] = _seconds(lambda c=cycle: embedder.embed(views, c)) / len(users) * 1e6
            found.uncached[count] = _seconds(lambda c=cycle: embed_uncached(embedder, views, c)) / len(users) * 1e6
    if noise and denoised_users:
        clean = Events.of(case.table, case.event_weights, case.now).take(users)
        planted = Events.of(marks, case.event_weights, case.now).take(users).item > 0
        instructions = [texts[task] for task in found.yes]
        found.denoising = denoising(
            embedder, view_builder, events, clean, planted, instructions, noise, denoised_users, seed
        )
    return found


def _probe_all(
    found: ProbeResult,
    labels: Mapping[str, npt.NDArray[np.float64]],
    embedder: Embedder,
    views: Mapping[str, View],
    texts: Mapping[str, str],
    others: Mapping[str, npt.NDArray[np.float64]],
    seed: int,
) -> None:
    shuffled = {task: _shuffled(texts[task], seed) for task in labels}
    instructions = list(dict.fromkeys([*texts.values(), "", *shuffled.values()]))
    vectors = dict(zip(instructions, embedder.embed(views, instructions), strict=True))
    for task, yes in labels.items():
        known = ~np.isnan(yes)
        if not FEWEST <= yes[known].sum() <= known.sum() - FEWEST:
            print(f"{task}: too few users of one kind, left out", file=sys.stderr)
            continue
        found.yes[task] = yes[known]
        _probe(found, task, "matched", vectors[texts[task]][known], seed)
        wrong = [_scores(found, task, vectors[text][known], seed) for name, text in texts.items() if name != task]
        found.auc.setdefault("mismatched", {})[task] = statistics.fmean(auc(yes[known], s) for s in wrong)
        found.ks.setdefault("mismatched", {})[task] = statistics.fmean(ks(yes[known], s) for s in wrong)
        _probe(found, task, "empty", vectors[""][known], seed)
        _probe(found, task, "shuffled", vectors[shuffled[task]][known], seed)
        for name, rows in others.items():
            _probe(found, task, name, rows[known], seed)


def _probe(found: ProbeResult, task: str, system: str, vectors: npt.NDArray[Any], seed: int) -> None:
    score = _scores(found, task, vectors, seed)
    found.auc.setdefault(system, {})[task] = auc(found.yes[task], score)
    found.ks.setdefault(system, {})[task] = ks(found.yes[task], score)
    found.score.setdefault(system, {})[task] = score


def _scores(found: ProbeResult, task: str, vectors: npt.NDArray[Any], seed: int) -> npt.NDArray[np.float64]:
    return out_of_fold_scores(vectors, found.yes[task], derive_seed("probe", task, seed) % 2**32)


def _shuffled(text: str, seed: int) -> str:
    words = text.split()
    return " ".join(np.random.default_rng(derive_seed("shuffled", text, seed)).permutation(words))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _say(loop: TrainingLoop) -> None:
    print("  ".join(f"{name} {value:.4g}" for name, value in loop.progress.curve[-1].items()), file=sys.stderr)
