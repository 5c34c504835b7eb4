"""Tunes the adapters of text rerankers (`rerank.adapter: tuned`): one for each way of asking, by a group of workers.

    histories before `now` -> candidates as of `now` -> what users consumed in [now, until) -> examples -> adapter

`until` is the oldest cutoff of the run, and `now` the blend's horizon before it. So an adapter knows nothing that the
blender's training examples, at later cutoffs, are labelled with, and one adapter serves all cutoffs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from rayrec.config import Rerank
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.errors import DataError
from rayrec.experiments.arm_plan import Variant
from rayrec.numerics.collectives import Worker
from rayrec.numerics.hashing import digest
from rayrec.pipeline.arm_settings import default_request, tuned_text_rerankers
from rayrec.pipeline.blender_fitting import TrainingSpec, write_training_examples
from rayrec.pipeline.interaction_ingest import IngestResult, first_positive_event
from rayrec.pipeline.item_model_fitting import ModelSet, as_day, submit_fit
from rayrec.pipeline.placement import training_workers
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.scorers import item_texts
from rayrec.pipeline.scoring import ScoringSpec
from rayrec.pipeline.scoring_requests import has_requests
from rayrec.ray_support.training_workers import ReportCallback, run
from rayrec.reranking.text import tuned_adapter
from rayrec.reranking.text.text_scorer import TextScorerSettings
from rayrec.reranking.training.text_tuner import TextTuningSpec, tune_adapter_on_worker
from rayrec.storage import layout, published_folder

_TRIED = 10  # users whose candidates are made for one that is wanted: most consume none of them


def tune_text_adapters(context: RunContext, data: IngestResult, models: Sequence[ModelSet]) -> tuple[ModelSet, ...]:
    """Tune (or reuse) the adapters that the arms use. Returns `models` with their paths."""
    variants = tuned_text_rerankers(context)
    if not variants:
        return tuple(models)
    window = _window(context, models)
    fitted = submit_fit(context, data, window.now)
    path_of = {
        variant: layout.model_folder(
            layout.TEXT_ADAPTER_KIND, _fingerprint(context, variant, window, fitted.fingerprint)
        )
        for variant in variants
    }
    missing = [v for v in variants if not published_folder.exists(context.storage, path_of[v])]
    if missing:
        fitted.wait()
        scoring = ScoringSpec(context, (ModelSet(window.now, fitted.fingerprint),), "transformers", for_training=True)
        spec = TrainingSpec(scoring, _TRIED * context.config.text_tuning.max_users / max(data.users, 1))
        write_training_examples(spec, rerank=False, name="tune")
        specs = {path_of[v]: _spec(context, data, v, window, spec, path_of[v]) for v in missing}
        workers = training_workers(context.config.resources, context.config.resources.tune_num_gpus)
        run(partial(_tune_all, tuple(specs.values())), workers, "tune-text")
    adapters = tuple(sorted({variant.read(Rerank).scorer_key: path_of[variant] for variant in variants}.items()))
    return tuple(replace(one, text_adapters=adapters) for one in models)


@dataclass(frozen=True)
class TuningWindow:
    """Candidates as of `now`, answers from [now, until); microseconds UTC."""

    now: int
    until: int


def tuning_window(oldest_cutoff: int, horizon_days: float) -> TuningWindow:
    """The window that ends where the oldest cutoff of the run begins to know nothing."""
    return TuningWindow(oldest_cutoff - int(horizon_days * MICROSECONDS_PER_DAY), oldest_cutoff)


def _window(context: RunContext, models: Sequence[ModelSet]) -> TuningWindow:
    window = tuning_window(models[0].cutoff, context.config.blend.horizon_days)
    first = first_positive_event(context)
    if first is None or first >= window.now:
        raise DataError(
            f"there are no positive events before {as_day(window.now)} to tune a text reranker on",
            where="rerank.adapter",
            hint="give more days (data.window_days), lower blend.cutoffs, or leave rerank.adapter out",
        )
    return window


def _spec(
    context: RunContext, data: IngestResult, variant: Variant, window: TuningWindow, spec: TrainingSpec, path: str
) -> TextTuningSpec:
    rerank = variant.read(Rerank)
    assert isinstance(rerank.settings, TextScorerSettings)
    return TextTuningSpec(
        root=context.storage.root,
        examples=tuple(spec.path(item) for item in spec.scoring.work_items),
        variant=str(variant.parent),
        path=path,
        checkpoint=str(rerank.checkpoint),
        digest=context.checkpoints[variant.name][1],
        method=rerank.method,
        scorer_settings=rerank.settings,
        templates=context.templates,
        texts=tuple(item_texts(data.catalogue, rerank.fields)),
        default_request=default_request(context),
        depth=rerank.depth,
        settings=context.config.text_tuning,
        now=window.now,
        until=window.until,
    )


def _fingerprint(context: RunContext, variant: Variant, window: TuningWindow, item_model: str) -> str:
    """Fingerprint of all that can change the tuned weights."""
    rerank, config = variant.read(Rerank), context.config
    way = rerank.model_dump(mode="json", include={"method", "settings", "fields", "depth"})
    return digest(
        [
            tuned_adapter.FORMAT,
            way,
            context.checkpoints[variant.name][1],  # by content, not by path
            config.text_tuning.model_dump(mode="json"),
            context.templates.digest,
            [default_request(context), has_requests(context), config.retrieval.exclude_seen, config.blend.min_events],
            context.data_fingerprint,
            [window.now, window.until, item_model, str(variant.parent)],
        ]
    )


def _tune_all(specs: Sequence[TextTuningSpec], worker: Worker, report: ReportCallback) -> None:
    for spec in specs:
        tune_adapter_on_worker(spec, worker, partial(_report, report, spec))


def _report(report: ReportCallback, spec: TextTuningSpec, row: Mapping[str, float], steps: int) -> None:
    speed = row["tokens"] / max(row["seconds"], 1e-9)
    at = f"tune       {spec.method} as of {as_day(spec.now)}  step {row['step']:.0f} / {steps}"
    report(row, f"{at}  loss {row['loss']:.3f}  {speed:,.0f} tokens/s")
