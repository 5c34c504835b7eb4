"""Tuning in a group of workers (rayrec.ray_support.training_workers): one model after another, with a line for people after each epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from rayrec.numerics.collectives import Worker
from rayrec.ray_support.training_workers import ReportCallback, WorkerGroup, run
from rayrec.reranking.item_token import tuned_checkpoint
from rayrec.reranking.item_token.tuned_checkpoint import ModelCard
from rayrec.reranking.training.tuning import TuningSpec, tune_on_worker
from rayrec.storage import Storage


def tune(specs: Sequence[TuningSpec], workers: WorkerGroup) -> list[ModelCard]:
    """Tune (or find) the artefacts of `specs`, one after another, in one group of workers: starting it takes long.

    If the first is judged (`until`), the others run as many epochs as it found best. Errors as of `tune_on_worker`.
    """
    if not all(tuned_checkpoint.exists(Storage(spec.root), spec.path) for spec in specs):
        run(partial(_tune_all, tuple(specs)), workers, "tune")
    return [tuned_checkpoint.read_model_card(Storage(spec.root), spec.path) for spec in specs]


def _tune_all(specs: Sequence[TuningSpec], worker: Worker, report: ReportCallback) -> None:
    epochs: int | None = None
    for planned in specs:
        spec = planned if epochs is None else replace(planned, stop_after=epochs)
        card = tune_on_worker(spec, worker, partial(_report, report, spec))
        if planned.until is not None:
            epochs = card.epochs


def _report(report: ReportCallback, spec: TuningSpec, row: Mapping[str, float]) -> None:
    report(row, progress_line(row, spec))


def progress_line(row: Mapping[str, float], spec: TuningSpec) -> str:
    """One epoch, as people read it; of the model as of `now`."""
    planned = spec.stop_after or spec.settings.epochs
    judged = f"  validation {row['validation']:.3f}" if "validation" in row else ""
    speed = row["tokens"] / max(row["seconds"], 1e-9)
    as_of = datetime.fromtimestamp(spec.now / 1e6, UTC).date()
    epoch = f"tune       as of {as_of}  epoch {row['epoch']:.0f} / {planned}"
    settings = spec.settings
    chosen = "" if settings.choose == "all" else f"  {settings.choose} {settings.budget:.0%} of users"
    return f"{epoch}  loss {row['loss']:.3f}{judged}  {speed:,.0f} tokens/s{chosen}"
