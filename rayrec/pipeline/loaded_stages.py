"""Denoising and retrieval as the stages use them, made once a process and cut.

What a method makes of its fit when it is loaded (a dense matrix, whitened factors) takes as long as a small shard, so
it is kept for the next one. It is as large as the fit, so it is kept for one item model at a time: shards come cut by
cut.
"""

from __future__ import annotations

from functools import lru_cache

from rayrec.config import Denoise, Retrieval
from rayrec.denoising.stage import DenoiseStage
from rayrec.pipeline.day import Day
from rayrec.pipeline.models import available, loaded, sources_of
from rayrec.retrieval.candidates import CandidateStage, Source
from rayrec.retrieval.item_model import Arrays


@lru_cache(maxsize=1)
def denoiser_arrays(day: Day, fingerprint: str) -> Arrays:
    """What denoisers load of an item model."""
    specs = [spec for variant in day.arms.variants("retrieve") for spec in sources_of(variant)]
    return loaded(day, fingerprint).denoiser_arrays(specs)


@lru_cache(maxsize=1)
def denoise_stages(day: Day, fingerprint: str) -> tuple[DenoiseStage, ...]:
    """One a denoise variant, in the order of the plan."""
    return tuple(
        _denoise_stage(day, fingerprint, variant.name, variant.read(Denoise))
        for variant in day.arms.variants("denoise")
    )


@lru_cache(maxsize=1)
def tuning_denoise_stage(day: Day, fingerprint: str) -> DenoiseStage:
    """The one whose verdicts the LLM is tuned by."""
    return _denoise_stage(day, fingerprint, "tuning", day.config.denoise)


@lru_cache(maxsize=1)
def candidate_stages(day: Day, fingerprint: str) -> tuple[CandidateStage, ...]:
    """One a retrieve variant, in the order of the plan."""
    model, stages = loaded(day, fingerprint), []
    for variant in day.arms.variants("retrieve"):
        sources = tuple(Source(spec.name, spec.top, model.retriever(spec)) for spec in sources_of(variant))
        exclude_seen = variant.read(Retrieval).exclude_seen
        stages.append(CandidateStage(variant.name, sources, available(day), exclude_seen, day.event_weights))
    return tuple(stages)


def _denoise_stage(day: Day, fingerprint: str, name: str, method: Denoise) -> DenoiseStage:
    arrays = denoiser_arrays(day, fingerprint)
    return DenoiseStage.load(name, method.method, method.settings, day.event_weights, arrays)
