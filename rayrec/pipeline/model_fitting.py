"""What the night learns before it scores: item models, the LLM, and how to weigh them, each an artefact by fingerprint.

The blend must see the models as honestly as the date will. So for each of a few earlier cuts, models are made from what
was known then, users are scored, and what they took within the horizon afterwards is the lesson; then the same models
are made as of the date. The oldest cut's tuning also finds how many epochs are enough; the others run that many.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from rayrec.blending.blender import TrainingWindow, fit
from rayrec.config import Rerank
from rayrec.data.cutoff_histories import histories_at, is_consumed
from rayrec.experiments.arm_plan import Variant
from rayrec.monitoring.progress import Progress
from rayrec.numerics.hashing import digest, hash_strings
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline.distributed_tuning import tune
from rayrec.pipeline.instruction_inputs import has_requests
from rayrec.pipeline.interaction_ingest import IngestResult, histories
from rayrec.pipeline.loaded_models import tuning_denoiser
from rayrec.pipeline.models import (
    BLENDER,
    ModelSet,
    cutoffs,
    instruction,
    item_prior,
    load_item_model_parts,
    needs_tuned_llm,
    retriever_specs,
    submit_fit,
    uses_llm,
)
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.scoring import ScoringSpec, score_shards
from rayrec.pipeline.scoring_requests import ScoringRequest, with_scores_of
from rayrec.pipeline.training_example_files import training_examples_folder
from rayrec.pipeline.training_example_rows import CONSUMED, SIMULATED_REQUEST
from rayrec.ray_support.cluster import placeable_cpus, task
from rayrec.ray_support.stage_runner import carry, results, work_item_dataset
from rayrec.ray_support.training_workers import WorkerGroup
from rayrec.reranking.item_token import tuned_checkpoint
from rayrec.reranking.training.tuning import TuningSpec
from rayrec.retrieval.item_model import FACTORS
from rayrec.retrieval.retriever import retriever_class
from rayrec.storage import artifacts, layout
from rayrec.storage.tables import write_arrow

_LOG = logging.getLogger(__name__)


def fit_item_models(context: RunContext, data: IngestResult) -> tuple[ModelSet, ...]:
    """The item model as of every cut, oldest first."""
    moments = cutoffs(context)
    with Progress("fit", len(moments), unit="models") as progress:
        started = [submit_fit(context, data, cut) for cut in moments]
        for fit in started:
            fit.wait()
            progress.advance()
    return tuple(ModelSet(cut, fit.fingerprint) for cut, fit in zip(moments, started, strict=True))


def tune_llms(context: RunContext, data: IngestResult, models: Sequence[ModelSet]) -> tuple[ModelSet, ...]:
    """The LLM as of every cut, tuned on denoised histories; as it was where no arm asks one."""
    if not needs_tuned_llm(context):
        return tuple(models)
    paths = [layout.model_folder(layout.LLM_KIND, _llm_fingerprint(context, one, models)) for one in models]
    missing = [k for k, path in enumerate(paths) if not tuned_checkpoint.exists(context.storage, path)]
    if missing:
        _say_what_is_stale(context)
        _write_sequences(context, tuple(models), missing)
    asked = has_requests(context)
    specs = [
        TuningSpec(
            root=context.storage.root,
            catalogue=data.catalogue,
            sequences=tuple(_sequence_path(context, one, shard) for shard in range(context.config.data.shards)),
            path=path,
            instruction=instruction(context),
            settings=context.config.tuning.with_epochs(asked=asked),
            templates=context.templates if asked else None,
            now=one.cutoff,
            until=models[1].cutoff if k == 0 and len(models) > 1 else None,
            factors=_factors(context, one) if k in missing else None,
        )
        for k, (one, path) in enumerate(zip(models, paths, strict=True))
    ]
    resources = context.config.resources
    tune(specs, WorkerGroup(resources.tune_workers, placeable_cpus(resources.tune_num_cpus), resources.tune_num_gpus))
    return tuple(replace(one, llm=path) for one, path in zip(models, paths, strict=True))


def fit_blenders(context: RunContext, data: IngestResult, models: Sequence[ModelSet]) -> dict[str, str]:
    """Rerank variant -> fingerprint of its blend, learned on all but the last of `models`."""
    past = tuple(models[:-1])
    named = {variant.name: blender_fingerprint(context, variant, past) for variant in context.arms.variants("rerank")}
    missing = [
        v for v in context.arms.variants("rerank") if not artifacts.exists(context.storage, BLENDER, named[v.name])
    ]
    if missing:
        scoring = ScoringSpec(
            context, past, "transformers", context.config.blend.max_users, data.users, training_examples_folder(context)
        )
        _write_training_examples(scoring)
        fitting = task(_fit_blend, 1)
        ray.get([fitting.remote(scoring, variant, named[variant.name]) for variant in missing])
    return named


class WriteTrainingExamples:
    """Stage: the scored users of one (cut, shard), and which of their candidates they then took, into a file."""

    def __init__(self, scoring: ScoringSpec) -> None:
        self._scoring = scoring

    def __call__(self, unit: int, table: pa.Table) -> pa.Table:
        candidate, wanted = Ragged.from_arrow(table["candidate"]), Ragged.from_arrow(table[CONSUMED])
        consumed = candidate.like(is_consumed(candidate, wanted).astype(np.int8)).to_arrow(pa.int8())
        models, shard = self._scoring.at(unit)
        self._scoring.example_store.write(
            models.cutoff, shard, table.drop_columns([CONSUMED]).append_column("taken", consumed)
        )
        return pa.table({"users": [table.num_rows]})


class WriteTuningSequences:
    """Stage: one shard's denoised positives as of a cut, with what came after it (never denoised) for validation."""

    def __init__(self, scoring: ScoringSpec) -> None:
        self._scoring = scoring

    def __call__(self, unit: int, _: pa.Table) -> pa.Table:
        context = self._scoring.context
        models, shard = self._scoring.at(unit)
        table = histories(context, shard)
        stage = tuning_denoiser(context, models.item_model)
        item, ts = Ragged.from_arrow(table["item"]), Ragged.from_arrow(table["ts"])
        keep = np.ones(len(item.values), np.float32)
        past = ts.values < models.cutoff
        keep[past] = Ragged.from_arrow(stage(histories_at(table, models.cutoff))["keep_weight"]).values
        weight = np.asarray(context.event_weights, np.float32)[Ragged.from_arrow(table["event"]).values]
        positive = weight > 0
        kept = item.filter(positive)
        columns = {
            "item": kept.to_arrow(pa.int32()),
            "ts": kept.like(ts.values[positive]).to_arrow(pa.int64()),
            "keep_weight": kept.like(keep[positive]).to_arrow(pa.float32()),
            "order": hash_strings(table["user_id"]),
        }
        sequences = pa.table(columns)
        write_arrow(context.storage, _sequence_path(context, models, shard), sequences)
        return pa.table({"users": [table.num_rows]})


def _write_training_examples(scoring: ScoringSpec) -> None:
    """Of every (cut, shard) that has no file yet."""
    work_items, done = scoring.work_items, scoring.example_store.paths()
    pending = [unit for unit in work_items if _training_examples_path(scoring, unit) not in done]
    with Progress("blend", len(work_items), unit="lessons") as progress:
        progress.advance(len(work_items) - len(pending))
        if pending:
            for _ in results(carry(score_shards(scoring, pending), WriteTrainingExamples, scoring)):
                progress.advance()


def _write_sequences(context: RunContext, models: tuple[ModelSet, ...], which: Sequence[int]) -> None:
    scoring = ScoringSpec(context, models, "transformers")
    shards = context.config.data.shards
    work_items = [k * shards + shard for k in which for shard in range(shards)]
    for _ in results(carry(work_item_dataset(work_items), WriteTuningSequences, scoring)):
        pass


def _say_what_is_stale(context: RunContext) -> None:
    stale = tuned_checkpoint.checkpoints(context.storage, layout.model_kind_folder(layout.LLM_KIND), stale=True)
    if stale:
        what = "tune: %d checkpoints are stale, because users were erased; they may be deleted: %s"
        _LOG.warning(what, len(stale), ", ".join(stale[:5]))


def _factors(context: RunContext, models: ModelSet) -> np.ndarray[tuple[int, int], np.dtype[np.float32]] | None:
    """The item factors that the LLM's tokens begin with; None where the models have none."""
    specs = [spec for variant in context.arms.variants("retrieve") for spec in retriever_specs(variant)]
    return load_item_model_parts(context, models.item_model, FACTORS.kind).factors(specs)


def _fit_blend(scoring: ScoringSpec, variant: Variant, fingerprint: str) -> None:
    context = scoring.context
    parent = next(v for v in context.arms.variants("retrieve") if v.name == variant.parent)
    training_examples = []
    for models in scoring.models:
        tables = scoring.example_store.read(models.cutoff, context.config.data.shards, parent.name)
        if not tables:
            continue
        table = pa.concat_tables(tables, promote_options="default").sort_by("user_id").combine_chunks()
        scoring_request = ScoringRequest(variant, None) if uses_llm(variant) else None
        table = with_scores_of(table, scoring_request)
        if scoring_request is None:
            table = table.filter(pc.is_null(table[SIMULATED_REQUEST]))
        table = table.drop_columns([SIMULATED_REQUEST]).combine_chunks()
        consumed = Ragged.from_arrow(table["taken"])
        training_examples.append(
            TrainingWindow(
                table, consumed.like(consumed.values > 0), item_prior(load_item_model_parts(context, models.item_model))
            )
        )
    personalized = [source.name for source in retriever_specs(parent) if retriever_class(source.kind).personalized]
    blend = fit(training_examples, personalized, context.config.blend.l2)
    artifacts.save(context.storage, BLENDER, fingerprint, {}, blend.to_dict())


def _llm_fingerprint(context: RunContext, one: ModelSet, models: Sequence[ModelSet]) -> str:
    """Of everything that can change the tuned weights; the first cut decides the number of epochs of all."""
    config = context.config
    asked = context.templates.digest if has_requests(context) else None
    tuning = config.tuning.model_dump(mode="json") | {"base": context.base}  # by its content, wherever it lies
    settings = [tuned_checkpoint.FORMAT, tuning, config.denoise.model_dump(mode="json"), instruction(context), asked]
    return digest(
        [
            settings,
            context.data_fingerprint,
            one.cutoff,
            one.item_model,
            models[0].item_model,
            [m.cutoff for m in models],
        ]
    )


def blender_fingerprint(context: RunContext, variant: Variant, past: Sequence[ModelSet]) -> str:
    """Of everything that can change the weights that a rerank variant learns on the cuts of `past`."""
    known = [(models.cutoff, models.item_model, models.llm if uses_llm(variant) else None) for models in past]
    told = has_requests(context) or variant.read(Rerank).is_text_scorer
    asked = [has_requests(context), context.templates.digest if told else None]
    read = context.checkpoints.get(variant.name)
    training_examples = [instruction(context), context.config.retrieval.exclude_seen]
    blend = context.config.blend.model_dump(mode="json")
    return digest([variant.name, known, blend, context.data_fingerprint, asked, read, training_examples])


def _sequence_path(context: RunContext, models: ModelSet, shard: int) -> str:
    method = digest([context.config.denoise.model_dump(mode="json"), models.item_model])
    return layout.training_sequences_path(context.work_folder, models.cutoff, method, shard)


def _training_examples_path(scoring: ScoringSpec, unit: int) -> str:
    models, shard = scoring.at(unit)
    return scoring.example_store.path(models.cutoff, shard)
