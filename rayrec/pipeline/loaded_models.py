"""Denoising and retrieval as the stages use them, made once a process and cut.

What a method makes of its fit when it is loaded (a dense matrix, whitened factors) takes as long as a small shard, so
it is kept for the next one. It is as large as the fit, so it is kept for one item model at a time: shards come cut by
cut.
"""

from __future__ import annotations

from functools import lru_cache

from rayrec.config import Denoise, Retrieval
from rayrec.denoising.denoise_stage import DenoiseStage
from rayrec.pipeline.models import available, load_item_model, retriever_specs
from rayrec.pipeline.run_context import RunContext
from rayrec.retrieval.candidates import CandidateStage, Source
from rayrec.retrieval.item_model import Arrays


@lru_cache(maxsize=1)
def denoiser_arrays(context: RunContext, fingerprint: str) -> Arrays:
    """What denoisers load of an item model."""
    specs = [spec for variant in context.arms.variants("retrieve") for spec in retriever_specs(variant)]
    return load_item_model(context, fingerprint).denoiser_arrays(specs)


@lru_cache(maxsize=1)
def load_denoise_stages(context: RunContext, fingerprint: str) -> tuple[DenoiseStage, ...]:
    """One a denoise variant, in the order of the plan."""
    return tuple(
        _denoise_stage(context, fingerprint, variant.name, variant.read(Denoise))
        for variant in context.arms.variants("denoise")
    )


@lru_cache(maxsize=1)
def tuning_denoiser(context: RunContext, fingerprint: str) -> DenoiseStage:
    """The one whose verdicts the LLM is tuned by."""
    return _denoise_stage(context, fingerprint, "tuning", context.config.denoise)


@lru_cache(maxsize=1)
def load_candidate_stages(context: RunContext, fingerprint: str) -> tuple[CandidateStage, ...]:
    """One a retrieve variant, in the order of the plan."""
    model, stages = load_item_model(context, fingerprint), []
    for variant in context.arms.variants("retrieve"):
        sources = tuple(Source(spec.name, spec.top, model.retriever(spec)) for spec in retriever_specs(variant))
        exclude_seen = variant.read(Retrieval).exclude_seen
        stages.append(CandidateStage(variant.name, sources, available(context), exclude_seen, context.event_weights))
    return tuple(stages)


def _denoise_stage(context: RunContext, fingerprint: str, name: str, method: Denoise) -> DenoiseStage:
    arrays = denoiser_arrays(context, fingerprint)
    return DenoiseStage.load(name, method.method, method.settings, context.event_weights, arrays)
