"""The models of a night, one set a cut: found by fingerprint or made, then loaded by the stages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from rayrec import artefacts
from rayrec.cluster import task
from rayrec.config import Denoise, Instruction, Rerank, Retrieval, Slate
from rayrec.hashing import digest
from rayrec.instructions.cleaning import clean
from rayrec.pipeline.day import Day
from rayrec.pipeline.denoisers import learners_of, needs_of
from rayrec.pipeline.ingest import Ingested, histories, read_catalogue
from rayrec.retrieval import item_model
from rayrec.retrieval.item_model import ItemModel
from rayrec.retrieval.sources import SourceSpec, read_sources
from rayrec.slates.arms import ArmPath, Variant
from rayrec.slates.blend import Blend, Prior
from rayrec.slates.diversity import read_diversity
from rayrec.slates.policies import policy_kind
from rayrec.slates.scored import Items
from rayrec.units import DAY_US

BLEND = "blend"


@dataclass(frozen=True)
class Models:
    """What scores as of one cut: fingerprints, and where the tuned LLM lies (None: no arm asks it)."""

    cut: int  # microseconds UTC: nothing at or after this was known
    item_model: str
    llm: str | None = None

    @property
    def day(self) -> str:
        """The cut, as people read it."""
        return datetime.fromtimestamp(self.cut / 1e6, UTC).date().isoformat()


def cuts(day: Day) -> tuple[int, ...]:
    """The moments as of which models are made, oldest first: those that the blend learns from, then the date itself."""
    blend = day.config.blend
    back = range(blend.cuts, -1, -1)
    return tuple(day.cut - int(k * blend.horizon_days * DAY_US) for k in back)


def sources_of(variant: Variant) -> tuple[SourceSpec, ...]:
    """The retrievers of a retrieve variant."""
    settings = variant.read(Retrieval)
    return read_sources(settings.sources, settings.per_source)


def asks_llm(variant: Variant) -> bool:
    """Whether a rerank variant has the LLM score its candidates."""
    return variant.read(Rerank).method != "none"


def tunes(day: Day) -> bool:
    """Whether some arm needs the LLM that is tuned here."""
    return any(variant.read(Rerank).method == "item_token" for variant in day.arms.variants("rerank"))


def explores(path: ArmPath) -> bool:
    """Whether chance has a part in an arm's slates."""
    return policy_kind(path.at("slate").read(Slate).policy).explores


def asks_factors(variant: Variant) -> bool:
    """Whether a slate variant goes by the items' factors."""
    slate = variant.read(Slate)
    diversity = read_diversity(slate.diversify.method, slate.diversify.settings)
    return policy_kind(slate.policy).needs_factors or (diversity is not None and diversity.needs_factors)


def instruction(day: Day) -> str:
    return clean(day.config.instruction.text, day.config.instruction.max_chars)


def intention(day: Day) -> str:
    """What a reader of titles is told of users who ask for nothing; "" as long as the config asks for nothing either,
    but for what comes next: templates say that in words of their own."""
    return "" if day.config.instruction.text == Instruction().text else instruction(day)


def item_model_of(day: Day, data: Ingested, cut: int) -> tuple[tuple[SourceSpec, ...], str]:
    """What the item model as of `cut` is fitted of, and its fingerprint."""
    denoisers = denoisers_of(day)
    denoised = any(denoise.method != "none" for denoise in denoisers)
    by_factors = denoised or any(asks_factors(variant) for variant in day.arms.variants("slate"))
    arms = [sources_of(variant) for variant in day.arms.variants("retrieve")]
    specs = item_model.needed(arms, by_factors, needs_of(denoisers))
    fingerprint = item_model.fingerprint(
        specs,
        cut=cut,
        inputs=day.data_fingerprint,
        catalogue=digest(data.catalogue["item_id"].to_pylist()),
        max_events=day.config.fit.max_events,
        learned=sorted(learner.key for learner in learners_of(denoisers)),
    )
    return specs, fingerprint


@dataclass(frozen=True)
class Fit:
    """An item model that is there, or that a task fits."""

    fingerprint: str
    task: ray.ObjectRef | None = None

    def wait(self) -> None:
        """Until it is there. Raises what stopped it."""
        if self.task is not None:
            ray.get(self.task)


def start_fit(day: Day, data: Ingested, cut: int) -> Fit:
    """The item model as of `cut`; a task begins to fit it if it is not there yet."""
    specs, fingerprint = item_model_of(day, data, cut)
    if artefacts.exists(day.storage, item_model.KIND, fingerprint):
        return Fit(fingerprint)
    return Fit(fingerprint, task(_fit, day.config.resources.fit_num_cpus).remote(day, specs, cut, fingerprint))


def _fit(day: Day, specs: tuple[SourceSpec, ...], cut: int, fingerprint: str) -> None:
    shards = range(day.config.data.shards)
    model = item_model.fit(
        (histories(day, shard) for shard in shards),
        catalogue_of(day)["item_id"].combine_chunks(),
        specs,
        day.event_weights,
        cut,
        day.config.fit.max_events,
        learners_of(denoisers_of(day)),
    )
    item_model.save(day.storage, fingerprint, model)


def denoisers_of(day: Day) -> list[Denoise]:
    """Those of the arms, and the one of the LLM's tuning."""
    denoisers = [variant.read(Denoise) for variant in day.arms.variants("denoise")]
    return [*denoisers, day.config.denoise] if tunes(day) else denoisers


@lru_cache(maxsize=4)
def catalogue_of(day: Day) -> pa.Table:
    """ITEM, once a process."""
    return read_catalogue(day)


@lru_cache(maxsize=1)
def loaded(day: Day, fingerprint: str) -> ItemModel:
    """The item model by the codes of the day's catalogue. A process keeps one: they are large and come cut by cut."""
    return item_model.load(day.storage, fingerprint).for_catalogue(catalogue_of(day)["item_id"].combine_chunks())


def loaded_part(day: Day, fingerprint: str, *kinds: str) -> ItemModel:
    """As `loaded`, with the fits of these kinds alone, and not kept: small beside the whole."""
    part = item_model.load_part(day.storage, fingerprint, kinds)
    return part.for_catalogue(catalogue_of(day)["item_id"].combine_chunks())


def prior_of(model: ItemModel) -> Prior:
    from rayrec.retrieval.item_features import NAMES

    return Prior(NAMES, model.features, model.cut)


def available(day: Day) -> npt.NDArray[np.bool_]:
    """Which items may be proposed, [items]."""
    found: npt.NDArray[np.bool_] = catalogue_of(day)["available"].combine_chunks().to_numpy(zero_copy_only=False)
    return found


def items_of(day: Day, path: ArmPath, model: ItemModel) -> Items:
    """What an arm's slates need to know of the items."""
    factors = model.factors(sources_of(path.at("retrieve"))) if asks_factors(path.at("slate")) else None
    return Items.of(catalogue_of(day), factors)


def blend_of(day: Day, fingerprint: str) -> Blend:
    return Blend.from_plain(artefacts.load(day.storage, BLEND, fingerprint).meta)
