"""The models of a night, one set a cut: found by fingerprint or made, then loaded by the stages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from rayrec.blending.blender import Blender, ItemFeatures
from rayrec.config import Denoise, Instruction, Rerank, Retrieval, Slate
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.experiments.arm_plan import ArmPath, Variant
from rayrec.instructions.text_cleaning import clean
from rayrec.numerics.hashing import digest
from rayrec.pipeline.denoiser_fits import required_denoiser_fits, required_fits_of
from rayrec.pipeline.interaction_ingest import IngestResult, histories, read_catalogue
from rayrec.pipeline.run_context import RunContext
from rayrec.ray_support.cluster import task
from rayrec.retrieval import item_model
from rayrec.retrieval.item_model import ItemModel
from rayrec.retrieval.source_specs import SourceSpec, parse_sources
from rayrec.slates.diversity import make_diversifier
from rayrec.slates.policies import policy_class
from rayrec.slates.scored_candidates import CatalogueItems
from rayrec.storage import artifacts

BLENDER = "blend"


@dataclass(frozen=True)
class ModelSet:
    """What scores as of one cut: fingerprints, and where the tuned LLM lies (None: no arm asks it)."""

    cutoff: int  # microseconds UTC: nothing at or after this was known
    item_model: str
    llm: str | None = None

    @property
    def date(self) -> str:
        """The cut, as people read it."""
        return datetime.fromtimestamp(self.cutoff / 1e6, UTC).date().isoformat()


def cutoffs(context: RunContext) -> tuple[int, ...]:
    """The moments as of which models are made, oldest first: those that the blend learns from, then the date itself."""
    blend = context.config.blend
    back = range(blend.cutoffs, -1, -1)
    return tuple(context.cutoff - int(k * blend.horizon_days * MICROSECONDS_PER_DAY) for k in back)


def retriever_specs(variant: Variant) -> tuple[SourceSpec, ...]:
    """The retrievers of a retrieve variant."""
    settings = variant.read(Retrieval)
    return parse_sources(settings.sources, settings.candidates_per_source)


def uses_llm(variant: Variant) -> bool:
    """Whether a rerank variant has the LLM score its candidates."""
    return variant.read(Rerank).method != "none"


def needs_tuned_llm(context: RunContext) -> bool:
    """Whether some arm needs the LLM that is tuned here."""
    return any(variant.read(Rerank).method == "item_token" for variant in context.arms.variants("rerank"))


def explores(path: ArmPath) -> bool:
    """Whether chance has a part in an arm's slates."""
    return policy_class(path.at("slate").read(Slate).policy).explores


def uses_item_factors(variant: Variant) -> bool:
    """Whether a slate variant goes by the items' factors."""
    slate = variant.read(Slate)
    diversity = make_diversifier(slate.diversity.method, slate.diversity.settings)
    return policy_class(slate.policy).needs_factors or (diversity is not None and diversity.needs_factors)


def instruction(context: RunContext) -> str:
    return clean(context.config.instruction.text, context.config.instruction.max_chars)


def default_request(context: RunContext) -> str:
    """What a reader of titles is told of users who ask for nothing; "" as long as the config asks for nothing either,
    but for what comes next: templates say that in words of their own."""
    return "" if context.config.instruction.text == Instruction().text else instruction(context)


def item_model_spec(context: RunContext, data: IngestResult, cut: int) -> tuple[tuple[SourceSpec, ...], str]:
    """What the item model as of `cut` is fitted of, and its fingerprint."""
    denoisers = denoisers_of(context)
    denoised = any(denoise.method != "none" for denoise in denoisers)
    by_factors = denoised or any(uses_item_factors(variant) for variant in context.arms.variants("slate"))
    arms = [retriever_specs(variant) for variant in context.arms.variants("retrieve")]
    specs = item_model.required_sources(arms, by_factors, required_fits_of(denoisers))
    fingerprint = item_model.fingerprint(
        specs,
        cutoff=cut,
        inputs=context.data_fingerprint,
        catalogue=digest(data.catalogue["item_id"].to_pylist()),
        max_events=context.config.fit.max_events,
        fitted_denoisers=sorted(learner.key for learner in required_denoiser_fits(denoisers)),
    )
    return specs, fingerprint


@dataclass(frozen=True)
class SubmittedFit:
    """An item model that is there, or that a task fits."""

    fingerprint: str
    task: ray.ObjectRef | None = None

    def wait(self) -> None:
        """Until it is there. Raises what stopped it."""
        if self.task is not None:
            ray.get(self.task)


def submit_fit(context: RunContext, data: IngestResult, cut: int) -> SubmittedFit:
    """The item model as of `cut`; a task begins to fit it if it is not there yet."""
    specs, fingerprint = item_model_spec(context, data, cut)
    if artifacts.exists(context.storage, item_model.KIND, fingerprint):
        return SubmittedFit(fingerprint)
    return SubmittedFit(
        fingerprint, task(_fit, context.config.resources.fit_num_cpus).remote(context, specs, cut, fingerprint)
    )


def _fit(context: RunContext, specs: tuple[SourceSpec, ...], cut: int, fingerprint: str) -> None:
    shards = range(context.config.data.shards)
    model = item_model.fit(
        (histories(context, shard) for shard in shards),
        load_catalogue(context)["item_id"].combine_chunks(),
        specs,
        context.event_weights,
        cut,
        context.config.fit.max_events,
        required_denoiser_fits(denoisers_of(context)),
    )
    item_model.save(context.storage, fingerprint, model)


def denoisers_of(context: RunContext) -> list[Denoise]:
    """Those of the arms, and the one of the LLM's tuning."""
    denoisers = [variant.read(Denoise) for variant in context.arms.variants("denoise")]
    return [*denoisers, context.config.denoise] if needs_tuned_llm(context) else denoisers


@lru_cache(maxsize=4)
def load_catalogue(context: RunContext) -> pa.Table:
    """ITEM, once a process."""
    return read_catalogue(context)


@lru_cache(maxsize=1)
def load_item_model(context: RunContext, fingerprint: str) -> ItemModel:
    """The item model by the codes of the day's catalogue. A process keeps one: they are large and come cut by cut."""
    return item_model.load(context.storage, fingerprint).for_catalogue(
        load_catalogue(context)["item_id"].combine_chunks()
    )


def load_item_model_parts(context: RunContext, fingerprint: str, *kinds: str) -> ItemModel:
    """As `loaded`, with the fits of these kinds alone, and not kept: small beside the whole."""
    part = item_model.load_part(context.storage, fingerprint, kinds)
    return part.for_catalogue(load_catalogue(context)["item_id"].combine_chunks())


def item_prior(model: ItemModel) -> ItemFeatures:
    from rayrec.retrieval.item_statistics import NAMES

    return ItemFeatures(NAMES, model.features, model.cutoff)


def available(context: RunContext) -> npt.NDArray[np.bool_]:
    """Which items may be proposed, [items]."""
    found: npt.NDArray[np.bool_] = load_catalogue(context)["available"].combine_chunks().to_numpy(zero_copy_only=False)
    return found


def items_of(context: RunContext, path: ArmPath, model: ItemModel) -> CatalogueItems:
    """What an arm's slates need to know of the items."""
    factors = model.factors(retriever_specs(path.at("retrieve"))) if uses_item_factors(path.at("slate")) else None
    return CatalogueItems.of(load_catalogue(context), factors)


def load_blender(context: RunContext, fingerprint: str) -> Blender:
    return Blender.from_dict(artifacts.load(context.storage, BLENDER, fingerprint).meta)
