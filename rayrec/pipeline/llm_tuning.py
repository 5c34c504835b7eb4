"""Tunes the LLM on denoised histories: one checkpoint per cutoff, reused by fingerprint or tuned by a group of workers.

Validation at the oldest cutoff selects the number of epochs for all cutoffs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pyarrow as pa
import ray

from rayrec.data.cutoff_histories import histories_at
from rayrec.data.schemas import TUNING_SEQUENCE
from rayrec.numerics.collectives import Worker
from rayrec.numerics.hashing import digest, hash_strings
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.threads import with_thread_limit
from rayrec.pipeline.arm_settings import default_instruction, needs_tuned_llm, retriever_specs
from rayrec.pipeline.denoiser_choice import denoising_identity
from rayrec.pipeline.interaction_ingest import IngestResult, histories
from rayrec.pipeline.item_model_fitting import ModelSet
from rayrec.pipeline.placement import training_workers
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.scoring_requests import has_requests
from rayrec.pipeline.worker_cache import worker_cache
from rayrec.ray_support.cluster import gather, placeable_cpus
from rayrec.ray_support.stage_runner import WorkItem, append_stage, run_pending
from rayrec.ray_support.training_workers import ReportCallback, WorkerGroup, run
from rayrec.reranking.item_token import tuned_checkpoint
from rayrec.reranking.item_token.tuned_checkpoint import ModelCard
from rayrec.reranking.training.tuner import tune_on_worker
from rayrec.reranking.training.tuning_examples import has_examples
from rayrec.reranking.training.tuning_preparation import TuningSpec
from rayrec.retrieval.item_model import FACTORS
from rayrec.storage import Storage, layout, published_folder
from rayrec.storage.tables import read_arrow, write_arrow

_LOG = logging.getLogger(__name__)


def tune_llms(context: RunContext, data: IngestResult, models: Sequence[ModelSet]) -> tuple[ModelSet, ...]:
    """Tune the LLM as of every cutoff. Returns `models` with its paths, or unchanged if no arm uses it.

    Earlier cutoffs with too few events to tune an LLM are left out, so the blender does not learn from them.
    """
    if not needs_tuned_llm(context):
        return tuple(models)
    path_of = {one: layout.model_folder(layout.LLM_KIND, _fingerprint(context, one, models)) for one in models}
    missing = [one for one in models if not tuned_checkpoint.exists(context.storage, path_of[one])]
    if missing:
        _warn_of_stale_checkpoints(context)
        items = [WorkItem(one.cutoff, shard) for one in missing for shard in range(context.config.data.shard_count)]
        spec = SequenceSpec(context, tuple(missing))
        run_pending(items, lambda dataset: append_stage(dataset, WriteTuningSequences, spec), name="tune")
    models = _tunable(context, data, models, missing)
    paths = [path_of[one] for one in models]
    requests = has_requests(context)
    specs = [
        TuningSpec(
            root=context.storage.root,
            catalogue=data.catalogue,
            sequences=tuple(_sequence_path(context, one, shard) for shard in range(context.config.data.shard_count)),
            path=path,
            instruction=default_instruction(context),
            settings=context.config.tuning.with_epochs(has_requests=requests),
            templates=context.templates if requests else None,
            now=one.cutoff,
            until=models[1].cutoff if one is models[0] and len(models) > 1 else None,
            factors=_item_factors(context, one) if one in missing else None,
            base=context.base,
            ancestor=context.ancestors.get(one.cutoff),
        )
        for one, path in zip(models, paths, strict=True)
    ]
    resources = context.config.resources
    tune(specs, training_workers(resources, resources.tune_num_gpus))
    return tuple(replace(one, llm=path) for one, path in zip(models, paths, strict=True))


def _tunable(
    context: RunContext, data: IngestResult, models: Sequence[ModelSet], missing: Sequence[ModelSet]
) -> Sequence[ModelSet]:
    """`models` without the earlier ones whose events give too few tuning examples. The last, the date's, stays."""
    checking = ray.remote(num_cpus=placeable_cpus(1), max_retries=3)(with_thread_limit(1, _has_examples))
    items = len(data.catalogue)
    enough = {one: checking.remote(context, one, items) for one in missing if one is not models[-1]}
    answers = gather(list(enough.values()), "tune")
    left_out = [one for one, answer in zip(enough, answers, strict=True) if not answer]
    if left_out:
        days = ", ".join(one.date for one in left_out)
        _LOG.warning("tune: too few events before %s to tune an LLM; the blender does not learn from there", days)
    return [one for one in models if one not in left_out]


def _has_examples(context: RunContext, models: ModelSet, items: int) -> bool:
    paths = [_sequence_path(context, models, shard) for shard in range(context.config.data.shard_count)]
    return has_examples(
        lambda: (read_arrow(context.storage, path) for path in paths), items, context.config.tuning, models.cutoff
    )


def tune(specs: Sequence[TuningSpec], workers: WorkerGroup) -> list[ModelCard]:
    """Tune (or reuse) the checkpoints of `specs` in sequence, in one group of workers, which takes long to start.

    If the first is validated (`until`), the others that start as it did, cold or warm, run its best number of epochs.
    Raises as `tune_on_worker`.
    """
    if not all(tuned_checkpoint.exists(Storage(spec.root), spec.path) for spec in specs):
        run(partial(_tune_all, tuple(specs)), workers, "tune")
    return [tuned_checkpoint.read_model_card(Storage(spec.root), spec.path) for spec in specs]


def progress_line(row: Mapping[str, float], spec: TuningSpec) -> str:
    """One epoch of a tuning, as a line for the terminal."""
    validation = f"  validation {row['validation']:.3f}" if "validation" in row else ""
    speed = row["tokens"] / max(row["seconds"], 1e-9)
    as_of = datetime.fromtimestamp(spec.now / 1e6, UTC).date()
    epoch = f"tune       as of {as_of}  epoch {row['epoch']:.0f} / {row['planned']:.0f}"
    settings = spec.settings
    chosen = (
        ""
        if settings.data_selection == "all"
        else f"  {settings.data_selection} {settings.selection_budget:.0%} of users"
    )
    return f"{epoch}  loss {row['loss']:.3f}{validation}  {speed:,.0f} tokens/s{chosen}"


def _tune_all(specs: Sequence[TuningSpec], worker: Worker, report: ReportCallback) -> None:
    cold: int | None = None  # epochs, as validated
    warm: int | None = None
    for planned in specs:
        spec = replace(planned, stop_after=cold, stop_after_warm=warm)
        card = tune_on_worker(spec, worker, partial(_report, report, spec))
        if planned.until is not None:
            cold, warm = (None, card.epochs) if card.ancestors else (card.epochs, None)


def _report(report: ReportCallback, spec: TuningSpec, row: Mapping[str, float]) -> None:
    report(row, progress_line(row, spec))


@dataclass(frozen=True)
class SequenceSpec:
    """Arguments of `WriteTuningSequences`: the run, and the models as of each cutoff."""

    context: RunContext
    models: tuple[ModelSet, ...]


class WriteTuningSequences:
    """Stage: writes a shard's positive events as of a cutoff with their keep weights, and later events (not denoised)
    for validation."""

    def __init__(self, spec: SequenceSpec) -> None:
        self._context = spec.context
        self._models = {models.cutoff: models for models in spec.models}

    def __call__(self, item: WorkItem, _: pa.Table) -> pa.Table:
        context, models = self._context, self._models[item.cutoff]
        table = histories(context, item.shard)
        denoise = worker_cache(context).item_model(models.item_model).tuning_denoiser
        code, ts = Ragged.from_arrow(table["item"]), Ragged.from_arrow(table["ts"])
        keep = np.ones(len(code.values), np.float32)
        keep[ts.values < item.cutoff] = Ragged.from_arrow(
            denoise(histories_at(table, item.cutoff))["keep_weight"]
        ).values
        positive = np.asarray(context.event_weights, np.float32)[Ragged.from_arrow(table["event"]).values] > 0
        positives = code.filter(positive)
        columns = [
            positives.to_arrow(pa.int32()),
            positives.like(ts.values[positive]).to_arrow(pa.int64()),
            positives.like(keep[positive]).to_arrow(pa.float32()),
            pa.array(hash_strings(table["user_id"])),
        ]
        write_arrow(context.storage, _sequence_path(context, models, item.shard), pa.table(columns, TUNING_SEQUENCE))
        return pa.table({"users": [table.num_rows]})


def _item_factors(context: RunContext, models: ModelSet) -> np.ndarray[tuple[int, int], np.dtype[np.float32]] | None:
    """The item factors that initialise the item tokens; None if the models have none."""
    specs = [spec for variant in context.arms.variants("retrieve") for spec in retriever_specs(variant)]
    return worker_cache(context).item_model_parts(models.item_model, FACTORS.method).factors(specs)


def _warn_of_stale_checkpoints(context: RunContext) -> None:
    stale = published_folder.folders(context.storage, layout.model_kind_folder(layout.LLM_KIND), stale=True)
    if stale:
        what = "tune: %d checkpoints are stale, because users were erased; they may be deleted: %s"
        _LOG.warning(what, len(stale), ", ".join(stale[:5]))


def _fingerprint(context: RunContext, one: ModelSet, models: Sequence[ModelSet]) -> str:
    """Fingerprint of all that can change the tuned weights; the first cutoff decides the number of epochs of all."""
    config = context.config
    templates = context.templates.digest if has_requests(context) else None
    tuning = config.tuning.model_dump(mode="json") | {"base": context.base}  # by content, not by path
    settings = [
        tuned_checkpoint.FORMAT,
        tuning,
        *denoising_identity(context, config.denoise),
        default_instruction(context),
        templates,
    ]
    return digest(
        [
            settings,
            context.data_fingerprint,
            one.cutoff,
            one.item_model,
            models[0].item_model,
            [m.cutoff for m in models],
            [context.ancestors[m.cutoff].digest if m.cutoff in context.ancestors else None for m in models],
        ]
    )


def _sequence_path(context: RunContext, models: ModelSet, shard: int) -> str:
    method = digest([*denoising_identity(context, context.config.denoise), models.item_model])
    return layout.training_sequences_path(context.work_folder, models.cutoff, method, shard)
