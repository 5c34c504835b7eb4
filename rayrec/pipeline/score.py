"""One shard after another: denoise -> retrieve -> rerank, as tables that flow through Ray Data.

The same stages serve two ends: slates for the date (`rayrec.pipeline.commit`), and lessons for the blend, as of earlier
cuts (`rayrec.pipeline.learn`). A unit is a (cut, shard); for the slates there is one cut, the date.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Dataset

from rayrec import config
from rayrec.contracts.schemas import DENOISED
from rayrec.denoising.stage import DenoiseStage
from rayrec.hashing import hash_strings
from rayrec.pipeline.carry import Pool, carry, over_units
from rayrec.pipeline.day import Day
from rayrec.pipeline.ingest import histories
from rayrec.pipeline.kept import keep_verdicts
from rayrec.pipeline.models import Models, asks_llm, available, catalogue_of, instruction, loaded, sources_of
from rayrec.reranking import engines
from rayrec.reranking.actor import Reranker, RerankSpec
from rayrec.reranking.artefact import localise
from rayrec.reranking.base import EngineSettings
from rayrec.reranking.vllm_engine import ENVIRONMENT
from rayrec.retrieval.candidates import CandidateStage, Source
from rayrec.slates.examples import known_at, taken_after, usable


@dataclass(frozen=True)
class Scoring:
    """What is scored: as of each cut in `models`, every shard. Hashable, so that a worker builds a stage once.

    `sample`: score only users who can teach the blend, among about this many of the day's; None: everybody.
    """

    day: Day
    models: tuple[Models, ...]
    engine: str
    sample: int | None = None
    users: int = 0  # in the whole day, for the sample's share
    run_id: str = ""  # keep the verdicts on events for this run; "": they are not kept

    def at(self, unit: int) -> tuple[Models, int]:
        """The models and the shard of a unit."""
        cut, shard = divmod(unit, self.day.config.data.shards)
        return self.models[cut], shard

    @property
    def units(self) -> list[int]:
        return list(range(len(self.models) * self.day.config.data.shards))


def reranked(scoring: Scoring, units: list[int]) -> Dataset:
    """A dataset of reranked tables, one a unit."""
    resources = scoring.day.config.resources
    flow = over_units(units)
    flow = carry(flow, Denoise, scoring, concurrency=resources.score_tasks)
    flow = carry(flow, Retrieve, scoring, concurrency=resources.score_tasks)
    if any(models.llm for models in scoring.models):
        flow = carry(flow, Rerank, scoring, pool=_engine_pool(scoring))
    return flow


class Denoise:
    """Stage: a shard's histories as they were at the cut, with every denoise variant's verdict on each event."""

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring

    def __call__(self, unit: int, _: pa.Table) -> pa.Table:
        day = self._scoring.day
        models, shard = self._scoring.at(unit)
        everything = histories(day, shard)
        table = known_at(everything, models.cut) if self._scoring.sample is not None else everything
        if self._scoring.sample is not None:
            table = table.filter(pa.array(self._teaching(everything, table, models.cut)))
        arrays = loaded(day, models.item_model).denoiser_arrays(
            [spec for variant in day.arms.variants("retrieve") for spec in sources_of(variant)]
        )
        parts = [DENOISED.empty_table()]
        for variant in day.arms.variants("denoise"):
            settings = variant.read(config.Denoise)
            stage = DenoiseStage.load(
                variant.name,
                settings.method,
                settings.settings,
                day.event_weights,
                arrays,
            )
            members = day.arms.users_of(variant, table["user_id"])
            parts.append(stage(table.filter(pa.array(members)).combine_chunks()))
        denoised = pa.concat_tables(parts)
        if self._scoring.run_id:
            keep_verdicts(day, self._scoring.run_id, shard, denoised)
        return denoised

    def _teaching(self, everything: pa.Table, known: pa.Table, cut: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Users who did something after the cut to learn from; of many users, those with the smallest hashes."""
        scoring, blend = self._scoring, self._scoring.day.config.blend
        until = cut + int(blend.horizon_days * 86_400_000_000)
        weights = scoring.day.event_weights
        new_only = scoring.day.config.retrieval.exclude_seen
        wanted = taken_after(everything, cut, until, weights, new_only=new_only)
        share = (scoring.sample or 0) / max(scoring.users, 1)
        sampled = hash_strings(everything["user_id"]) < np.uint64(min(share, 1.0) * (2**64 - 2**11))
        result: np.ndarray[tuple[int], np.dtype[np.bool_]] = usable(known, wanted, blend.min_events) & sampled
        return result


class Retrieve:
    """Stage: candidates of every retrieve variant; rows are named by the rerank variants that read them."""

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring

    def __call__(self, unit: int, table: pa.Table) -> pa.Table:
        day = self._scoring.day
        model = loaded(day, self._scoring.at(unit)[0].item_model)
        parts = []
        for variant in day.arms.variants("retrieve"):
            sources = tuple(Source(spec.name, spec.top, model.retriever(spec)) for spec in sources_of(variant))
            stage = CandidateStage(
                variant.name,
                sources,
                available(day),
                variant.read(config.Retrieval).exclude_seen,
                day.event_weights,
            )
            rows = table.filter(pc.equal(table["variant"], variant.parent)).combine_chunks()
            parts.append(stage(rows))
        return pa.concat_tables(parts, promote_options="default")


class Rerank:
    """Stage, as an actor: the LLM's log-probabilities for the candidates of the variants that some arm reranks.

    Adds to reranked_schema a column `engine`: which one scored the row; null where the LLM was not asked or failed.
    """

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring
        self._ready: tuple[Models, Reranker] | None = None

    def __call__(self, unit: int, table: pa.Table) -> pa.Table:
        models, _ = self._scoring.at(unit)
        if self._ready is None or self._ready[0] != models:
            self._ready = models, self._load(models)
        out = self._ready[1](table)
        name = engines.engine_named(self._scoring.engine).name
        return out.append_column(
            "engine", pc.if_else(pc.is_valid(out["score.llm"]), name, pa.scalar(None, pa.string()))
        )

    def _load(self, models: Models) -> Reranker:
        day = self._scoring.day
        resources = day.config.resources
        model = localise(day.storage, str(models.llm))
        settings = EngineSettings(
            dtype=day.config.rerank.dtype,
            threads=resources.rerank_threads,
            device="cuda" if resources.rerank_num_gpus and resources.rerank_device == "auto" else "cpu",
            vllm=resources.vllm,
        )
        asked = [variant.parent for variant in day.arms.variants("rerank") if asks_llm(variant)]
        spec = RerankSpec(instruction(day), models.cut, frozenset(name for name in asked if name))
        return Reranker(engines.start(self._scoring.engine, model, settings), model, catalogue_of(day), spec)


def _engine_pool(scoring: Scoring) -> Pool:
    resources = scoring.day.config.resources
    # Ray would set OMP_NUM_THREADS from num_cpus, which says how tasks are placed, not how fast the engine may run.
    env = tuple(ENVIRONMENT.items())
    if not resources.rerank_num_gpus:
        env += (("OMP_NUM_THREADS", str(resources.rerank_threads)),)
    return Pool(resources.rerank_actors, resources.rerank_num_cpus, resources.rerank_num_gpus, env)
