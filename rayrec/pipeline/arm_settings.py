"""Derives what the stages need from the arms' settings: retrievers, LLM, item factors, instructions."""

from __future__ import annotations

from rayrec.config import Denoise, Instruction, Rerank, Retrieval, Slate
from rayrec.experiments.arm_plan import ArmPath, Variant
from rayrec.instructions.text_cleaning import clean
from rayrec.pipeline.run_context import RunContext
from rayrec.retrieval.source_specs import SourceSpec, source_specs
from rayrec.slates.diversity import make_diversifier
from rayrec.slates.policies import POLICIES


def retriever_specs(variant: Variant) -> tuple[SourceSpec, ...]:
    """The retrievers of a retrieve variant."""
    return source_specs(variant.read(Retrieval))


def uses_llm(variant: Variant) -> bool:
    """Whether an LLM scores the candidates of a rerank variant."""
    return variant.read(Rerank).method != "none"


def needs_tuned_llm(context: RunContext) -> bool:
    """Whether some arm needs the LLM that this job tunes."""
    return any(variant.read(Rerank).method == "item_token" for variant in context.arms.variants("rerank"))


def tuned_text_rerankers(context: RunContext) -> tuple[Variant, ...]:
    """The rerank variants whose adapter this job tunes, one for each scorer."""
    variants = [variant for variant in context.arms.variants("rerank") if variant.read(Rerank).tunes_adapter]
    return tuple({variant.read(Rerank).scorer_key: variant for variant in reversed(variants)}.values())[::-1]


def explores(path: ArmPath) -> bool:
    """Whether an arm's slates are random: by its policy or an exploration floor."""
    slate = path.at("slate").read(Slate)
    return slate.exploration_floor > 0 or POLICIES.lookup(slate.policy).explores


def uses_item_factors(variant: Variant) -> bool:
    """Whether a slate variant needs item factors."""
    slate = variant.read(Slate)
    diversity = make_diversifier(slate.diversity)
    return POLICIES.lookup(slate.policy).needs_factors or (diversity is not None and diversity.needs_factors)


def denoisers_of(context: RunContext) -> list[Denoise]:
    """The denoising settings of the arms and of the LLM's tuning."""
    denoisers = [variant.read(Denoise) for variant in context.arms.variants("denoise")]
    return [*denoisers, context.config.denoise] if needs_tuned_llm(context) else denoisers


def default_instruction(context: RunContext) -> str:
    """The cleaned instruction of users without one of their own."""
    return clean(context.config.instruction.default_request, context.config.instruction.max_chars)


def default_request(context: RunContext) -> str:
    """The request in text scorers' prompts for users without one. "" for the config's default: templates have their own
    wording for that."""
    return (
        ""
        if context.config.instruction.default_request == Instruction().default_request
        else default_instruction(context)
    )
