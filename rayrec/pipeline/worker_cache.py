"""What one process loads once per run: catalogue, instructions, models, stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import pyarrow as pa
import scipy.sparse as sp

from rayrec.config import Denoise, Retrieval
from rayrec.data.catalogue import recommendable
from rayrec.denoising.denoiser import DenoiseStage
from rayrec.instructions.bm25 import Bm25
from rayrec.instructions.facets import Facets
from rayrec.instructions.request_understanding import RequestUnderstanding
from rayrec.instructions.title_search import TitleIndex
from rayrec.pipeline.arm_settings import retriever_specs
from rayrec.pipeline.denoiser_choice import choices
from rayrec.pipeline.instruction_ingest import instruction_table
from rayrec.pipeline.interaction_ingest import read_catalogue
from rayrec.pipeline.item_content_artifact import load_item_content
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.stage_placement import torch_device
from rayrec.retrieval import item_model_store
from rayrec.retrieval.candidates import CandidateStage, Source
from rayrec.retrieval.item_model import Arrays, ItemModel


@lru_cache(maxsize=1)
def worker_cache(context: RunContext) -> WorkerCache:
    """This process's cache of a run. Only the last run's cache is retained; runs compare by identity."""
    return WorkerCache(context)


class WorkerCache:
    """Loads everything on first use. Holds one item model at a time: models are large, and work items are ordered by
    cutoff."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._loaded: LoadedItemModel | None = None

    @cached_property
    def catalogue(self) -> pa.Table:
        """ITEM."""
        return read_catalogue(self._context)

    @cached_property
    def item_ids(self) -> pa.Array:
        """string [items], by code."""
        return self.catalogue["item_id"].combine_chunks()

    @cached_property
    def instructions(self) -> pa.Table:
        """INSTRUCTION."""
        return instruction_table(self._context)

    @cached_property
    def arms_with_requests(self) -> frozenset[str]:
        """The arms with their own rows in the instruction table."""
        return frozenset(self.instructions["arm"].drop_null().to_pylist())

    @cached_property
    def facets(self) -> Facets:
        """The attribute values that a request may name."""
        return Facets.of(self.catalogue)

    @cached_property
    def rules(self) -> RequestUnderstanding:
        """What the rules find in a text, for simulated requests: they name facets, so no encoder is needed."""
        return RequestUnderstanding.of(self.facets.scheme)

    @cached_property
    def item_search(self) -> Bm25:
        """BM25 over the items' titles, categories and facets."""
        catalogue, facets = self.catalogue, self.facets
        named = [" ".join(facets.name[facet] for facet in facets.of_item[row]) for row in range(catalogue.num_rows)]
        parts = zip(catalogue["title"].to_pylist(), catalogue["category"].to_pylist(), named, strict=True)
        return Bm25(f"{title} {category or ''} {names}" for title, category, names in parts)

    @cached_property
    def titles(self) -> TitleIndex:
        return TitleIndex(self.catalogue["title"].to_pylist())

    @cached_property
    def item_content(self) -> Mapping[str, sp.csr_matrix]:
        """The vectors of the items by view, for content features."""
        return load_item_content(self._context, self.catalogue)

    def item_model(self, fingerprint: str) -> LoadedItemModel:
        """The item model, indexed by the item codes of the run's catalogue."""
        if self._loaded is None or self._loaded.fingerprint != fingerprint:
            self._loaded = None  # free the previous one first
            model = item_model_store.load(self._context.storage, fingerprint).for_catalogue(self.item_ids)
            self._loaded = LoadedItemModel(self._context, self.catalogue, fingerprint, model)
        return self._loaded

    def item_model_parts(self, fingerprint: str, *kinds: str) -> ItemModel:
        """Like `item_model`, with the fits of these kinds only; small, so not cached."""
        return item_model_store.load_part(self._context.storage, fingerprint, kinds).for_catalogue(self.item_ids)


@dataclass(frozen=True)
class LoadedItemModel:
    """An item model and its stages, which are built on first use: building takes as long as scoring a shard."""

    context: RunContext
    catalogue: pa.Table  # ITEM
    fingerprint: str
    model: ItemModel

    @cached_property
    def denoise_stages(self) -> tuple[DenoiseStage, ...]:
        """One per denoise variant, in plan order."""
        variants = self.context.arms.variants("denoise")
        device = torch_device(self.context.config.resources.denoise_num_gpus)
        return tuple(self._denoise_stage(variant.name, variant.read(Denoise)).to(device) for variant in variants)

    @cached_property
    def tuning_denoiser(self) -> DenoiseStage:
        """The denoiser for the LLM's tuning data."""
        return self._denoise_stage("tuning", self.context.config.denoise)

    @cached_property
    def candidate_stages(self) -> tuple[CandidateStage, ...]:
        """One per retrieve variant, in plan order."""
        stages = []
        device = torch_device(self.context.config.resources.retrieve_num_gpus)
        for variant in self.context.arms.variants("retrieve"):
            sources = tuple(
                Source(spec.name, spec.top_k, self.model.retriever(spec).to(device))
                for spec in retriever_specs(variant)
            )
            retrieval = variant.read(Retrieval)
            available = recommendable(self.catalogue, self.model.cutoff, retrieval.launch_days)
            stages.append(
                CandidateStage(variant.name, sources, available, retrieval.exclude_seen, self.context.event_weights)
            )
        return tuple(stages)

    @cached_property
    def _denoiser_arrays(self) -> Arrays:
        specs = [spec for variant in self.context.arms.variants("retrieve") for spec in retriever_specs(variant)]
        return self.model.denoiser_arrays(specs)

    def _denoise_stage(self, name: str, method: Denoise) -> DenoiseStage:
        arrays = {**self._denoiser_arrays, **choices(self.context, method)}
        return DenoiseStage.load(name, method.method, method.settings, self.context.event_weights, arrays)
