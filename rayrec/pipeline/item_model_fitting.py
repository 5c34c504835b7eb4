"""Fits item models (retrievers, and what denoisers learn with them) in Ray tasks, or reuses them by fingerprint.

There is one model as of the date, and one as of each earlier cutoff that the blender learns from.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import ray

from rayrec.blending.blend_features import ItemFeatures
from rayrec.config import Denoise
from rayrec.config.section import MethodSettings
from rayrec.data.required_fit import RequiredFit
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.denoising.denoiser import DENOISERS, Denoiser, Histories
from rayrec.monitoring.progress import Progress
from rayrec.numerics.hashing import digest
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline.arm_settings import denoisers_of, retriever_specs, uses_item_factors
from rayrec.pipeline.denoiser_choice import choose_denoisers
from rayrec.pipeline.interaction_ingest import IngestResult, first_positive_event, histories, read_catalogue
from rayrec.pipeline.run_context import RunContext
from rayrec.ray_support.cluster import task, wait_for
from rayrec.retrieval import item_model, item_model_store
from rayrec.retrieval.fit_data import FitData
from rayrec.retrieval.item_model import Arrays, DenoiserFit, ItemModel
from rayrec.retrieval.item_statistics import NAMES
from rayrec.retrieval.retriever import MAX_DENSE_ITEMS
from rayrec.retrieval.source_specs import SourceSpec
from rayrec.retrieval.user_histories import clipped_matrix
from rayrec.storage import artifacts

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSet:
    """The models as of one cutoff."""

    cutoff: int  # microseconds UTC: nothing at or after it is known
    item_model: str  # fingerprint
    llm: str | None = None  # the tuned LLM's path; None: no arm uses it
    text_adapters: tuple[tuple[str, str], ...] = ()  # (scorer_key, path) of the tuned adapters of text rerankers

    @property
    def date(self) -> str:
        """The day of the cutoff, YYYY-MM-DD."""
        return as_day(self.cutoff)


def configured_cutoffs(context: RunContext) -> tuple[int, ...]:
    """The cutoffs that `blend` asks for, oldest first, and then the date. All lie after the start of the window."""
    blend = context.config.blend
    start = context.cutoff - context.config.data.window_days * MICROSECONDS_PER_DAY
    back = (context.cutoff - int(k * blend.horizon_days * MICROSECONDS_PER_DAY) for k in range(blend.cutoffs, 0, -1))
    return (*(cutoff for cutoff in back if cutoff > start), context.cutoff)


def cutoffs(context: RunContext) -> tuple[int, ...]:
    """The cutoffs of all models, oldest first: those for blender training, then the date. Requires ingested data.

    As of an earlier cutoff there must be a positive event to learn from: a new shop has fewer cutoffs, or only the
    date.
    """
    first = first_positive_event(context)
    earlier = configured_cutoffs(context)[:-1] if first is not None else ()
    return (*(cutoff for cutoff in earlier if first is not None and first < cutoff), context.cutoff)


def describe_cutoffs(context: RunContext, earlier: Sequence[int], *, ingested: bool) -> str:
    """The earlier cutoffs that the blender learns from, and why there are fewer than `blend.cutoffs`, as text."""
    blend, missing = context.config.blend, context.config.blend.cutoffs - len(earlier)
    known = ", ".join(as_day(cutoff) for cutoff in earlier) or "none"
    text = known if earlier else f"{known}, so the blender takes its default weights"
    if not missing:
        return text
    if not ingested:
        reason = f"data.window_days is {context.config.data.window_days}"
    elif len(earlier) < len(cutoffs(context)) - 1:
        reason = "too few events before them to tune the LLM"
    else:
        first = first_positive_event(context)
        reason = "there are no positive events" if first is None else f"the positive events begin on {as_day(first)}"
    return f"{text} ({missing} of blend.cutoffs {blend.cutoffs} left out, {blend.horizon_days:g} days apart: {reason})"


def as_day(moment: int) -> str:
    """The UTC day of a time in microseconds, YYYY-MM-DD."""
    return datetime.fromtimestamp(moment / 1e6, UTC).date().isoformat()


def fit_item_models(context: RunContext, data: IngestResult) -> tuple[ModelSet, ...]:
    """Fit the item model as of every cutoff, oldest first, and decide with them what `denoise.method: auto` takes."""
    moments = cutoffs(context)
    if len(moments) <= context.config.blend.cutoffs:
        _LOG.warning("blend: earlier cutoffs: %s", describe_cutoffs(context, moments[:-1], ingested=True))
    with Progress("fit", len(moments), unit="models") as progress:
        submitted = [submit_fit(context, data, cutoff) for cutoff in moments]
        for fit in submitted:
            fit.wait()
            progress.advance()
    choose_denoisers(context, data, [(at, fit.fingerprint) for at, fit in zip(moments, submitted, strict=True)])
    return tuple(ModelSet(cutoff, fit.fingerprint) for cutoff, fit in zip(moments, submitted, strict=True))


@dataclass(frozen=True)
class SubmittedFit:
    """An item model that exists or is being fitted by a task."""

    fingerprint: str
    task: ray.ObjectRef | None = None

    def wait(self) -> None:
        """Wait until the model exists. Raises the task's error."""
        if self.task is not None:
            wait_for(self.task, name="fit")


def submit_fit(context: RunContext, data: IngestResult, cutoff: int) -> SubmittedFit:
    """Start a task that fits the item model as of `cutoff`, unless the model exists."""
    specs, fingerprint = item_model_spec(context, data, cutoff)
    if artifacts.exists(context.storage, item_model_store.KIND, fingerprint):
        return SubmittedFit(fingerprint)
    memory = fit_memory(len(data.catalogue), sum(shard.events for shard in data.shards), context.config.fit.max_events)
    fitting = task(_fit, context.config.resources.fit_num_cpus, memory)
    return SubmittedFit(fingerprint, fitting.remote(context, specs, cutoff, fingerprint))


def fit_memory(items: int, events: int, max_events: int) -> int:
    """Bytes of a fit that Ray reserves: the events (collected and sorted, and as a matrix), one dense solve (float64,
    its gram matrix and weights), and of a larger catalogue some hundred weights an item."""
    dense = min(items, MAX_DENSE_ITEMS)
    return (1 << 30) + 80 * min(events, max_events) + 16 * dense**2 + 8_000 * max(0, items - dense)


def item_model_spec(context: RunContext, data: IngestResult, cutoff: int) -> tuple[tuple[SourceSpec, ...], str]:
    """The sources of the item model as of `cutoff`, and its fingerprint."""
    denoisers = denoisers_of(context)
    denoised = any(denoise.method != "none" for denoise in denoisers)
    by_factors = denoised or any(uses_item_factors(variant) for variant in context.arms.variants("slate"))
    arms = [retriever_specs(variant) for variant in context.arms.variants("retrieve")]
    specs = item_model.required_sources(arms, by_factors, required_fits_of(denoisers))
    fingerprint = item_model.fingerprint(
        specs,
        cutoff=cutoff,
        inputs=context.data_fingerprint,
        catalogue=digest(data.catalogue["item_id"].to_pylist()),
        max_events=context.config.fit.max_events,
        fitted_denoisers=sorted(fit.key for fit in required_denoiser_fits(denoisers)),
    )
    return specs, fingerprint


def _fit(context: RunContext, specs: tuple[SourceSpec, ...], cutoff: int, fingerprint: str) -> None:
    shards = range(context.config.data.shard_count)
    catalogue = read_catalogue(context)
    model = item_model.fit(
        (histories(context, shard) for shard in shards),
        catalogue["item_id"].combine_chunks(),
        specs,
        context.event_weights,
        cutoff,
        context.config.fit.max_events,
        required_denoiser_fits(denoisers_of(context)),
        catalogue,
    )
    item_model_store.save(context.storage, fingerprint, model)


def item_features(model: ItemModel) -> ItemFeatures:
    """The item features of the blender."""
    return ItemFeatures(NAMES, model.features, model.cutoff)


def required_fits_of(denoisers: Iterable[Denoise]) -> tuple[RequiredFit, ...]:
    """All fits that these denoisers require, with duplicates. Raises ConfigError for unknown methods or settings."""
    found = [DENOISERS.lookup(denoise.method).required_fits(denoise.settings) for denoise in denoisers]
    return tuple(fit for fits in found for fit in fits)


def required_denoiser_fits(denoisers: Iterable[Denoise]) -> tuple[DenoiserFit, ...]:
    """The fits of these denoisers, without duplicates."""
    found: dict[str, DenoiserFit] = {}
    members = (pair for denoise in denoisers for pair in DENOISERS.lookup(denoise.method).members(denoise.settings))
    for method, settings in members:
        if method.requires_fit:
            key = method.fit_key(settings)
            found.setdefault(key, DenoiserFit(key, method.required_fits(settings), _denoiser_fit(method, settings)))
    return tuple(found.values())


def _denoiser_fit(
    method: type[Denoiser], settings: MethodSettings
) -> Callable[[FitData, Callable[[FitData], Arrays]], Arrays]:
    def learn(data: FitData, refit: Callable[[FitData], Arrays]) -> Arrays:
        items = data.matrix.shape[1]
        return method.fit(
            histories_from_fit_data(data), items, lambda other: refit(fit_data(other, items, data.cutoff)), settings
        )

    return learn


def histories_from_fit_data(data: FitData) -> Histories:
    """A fit's events in the denoisers' format, without values and dwell times."""
    item = Ragged.from_lengths(data.item, np.bincount(data.user, minlength=data.matrix.shape[0]))
    return Histories(
        item=item,
        ts=item.like(data.ts),
        weight=item.like(data.weight),
        value=item.like(np.full(len(data.item), np.nan, np.float32)),
        dwell_ms=item.like(np.full(len(data.item), -1, np.int32)),
    )


def fit_data(histories: Histories, items: int, cutoff: int) -> FitData:
    """The positive events of histories in the retrievers' format."""
    positive = histories.weight.values > 0
    item = histories.item.filter(positive)
    weight = histories.weight.values[positive]
    matrix = clipped_matrix(weight, item.values, item.offsets, items)
    return FitData(matrix, item.rows.astype(np.int32), item.values, histories.ts.values[positive], weight, cutoff)
