"""The stages that score one shard: denoise -> retrieve -> rerank, as tables that flow through Ray Data.

    HISTORY -> DENOISED_HISTORY    one row per (user, denoise variant)
            -> candidate_schema    one row per (user, retrieve variant)
            -> scored_schema       one row per (user, retrieve variant, scoring request)

They score the date, for slates (`rayrec.pipeline.slate_commit`), and earlier cutoffs, for the blender's training
examples (`rayrec.pipeline.blender_fitting`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Dataset

from rayrec.blending.content_features import with_content
from rayrec.config import Retrieval
from rayrec.data.schemas import DENOISED_HISTORY, SIMULATED_REQUEST, candidate_schema, conform, scored_schema
from rayrec.experiments.arm_plan import Variant
from rayrec.instructions.instruction_table import instructions_for
from rayrec.monitoring.removal_statistics import summarise_removals
from rayrec.numerics.hashing import digest
from rayrec.numerics.popularity_bands import popularity_bands
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline import run_metrics, stage_placement
from rayrec.pipeline.arm_settings import retriever_specs, uses_llm
from rayrec.pipeline.interaction_ingest import histories
from rayrec.pipeline.item_model_fitting import ModelSet, item_features
from rayrec.pipeline.placement import engines
from rayrec.pipeline.request_candidates import Query, RequestSearch
from rayrec.pipeline.run_artifacts import write_denoising_decisions, write_run_statistics, write_text_ablation
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.scorers import ScorerCache
from rayrec.pipeline.scoring_requests import (
    ScoringRequest,
    has_requests,
    instruction_prompts,
    request_queries,
    scoring_requests,
    training_requests,
    users_to_score,
)
from rayrec.pipeline.understood_texts import only_understood, understood_texts
from rayrec.pipeline.worker_cache import worker_cache
from rayrec.ray_support.shard_progress import tell
from rayrec.ray_support.stage_runner import ActorPoolSpec, WorkItem, append_stage
from rayrec.reranking.engines.vllm_runner import VLLM_ENVIRONMENT
from rayrec.reranking.text.text_reranker import TextReranker
from rayrec.retrieval.item_model import ItemModel

_TEXT_USERS, _ITEM_TOKEN_USERS = 64, 8192  # scored between two messages about the progress

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ScoringSpec:
    """Arguments of the scoring stages: every shard as of each cutoff of `models`. Hashable: a stage is built once."""

    context: RunContext
    models: tuple[ModelSet, ...]
    engine: str  # of the tuned LLM
    run_id: str = ""  # the run that denoising decisions are written for; "": not written
    for_training: bool = False  # score every user in every variant, regardless of the split

    def models_at(self, cutoff: int) -> ModelSet:
        return next(models for models in self.models if models.cutoff == cutoff)

    @property
    def progress_name(self) -> str:
        """What shards in work tell of their progress by."""
        return f"score {self.run_id}"

    @property
    def task_memory(self) -> int:
        """Bytes that Ray reserves for each task of these stages."""
        return self.context.config.resources.score_memory_mb << 20

    @property
    def work_items(self) -> list[WorkItem]:
        shards = range(self.context.config.data.shard_count)
        return [WorkItem(models.cutoff, shard) for models in self.models for shard in shards]


def score_shards(dataset: Dataset, scoring: ScoringSpec) -> Dataset:
    """Append all scoring stages: work items to scored candidates."""
    flow = append_stage(dataset, DenoiseShard, scoring, **stage_placement.denoising(scoring.context.config.resources))
    return retrieve_and_rerank(flow, scoring)


def retrieve_and_rerank(dataset: Dataset, scoring: ScoringSpec) -> Dataset:
    """Append the stages from DENOISED_HISTORY to scored candidates."""
    context = scoring.context
    flow = append_stage(dataset, RetrieveShard, scoring, **stage_placement.retrieval(context.config.resources))
    if any(uses_llm(variant) for variant in context.arms.variants("rerank")):
        flow = append_stage(flow, RerankShard, scoring, pool=_engine_pool(scoring))
    return flow


class DenoiseShard:
    """Stage: denoises a shard's histories with every variant."""

    def __init__(self, scoring: ScoringSpec) -> None:
        self._scoring = scoring

    def __call__(self, item: WorkItem, _: pa.Table) -> pa.Table:
        context, run_id = self._scoring.context, self._scoring.run_id
        models = self._scoring.models_at(item.cutoff)
        denoised = denoise(context, models, histories(context, item.shard), every_user=False)
        if run_id:
            write_denoising_decisions(context, run_id, item.shard, denoised)
            bands = popularity_bands(worker_cache(context).item_model(models.item_model).model.count)
            removals = summarise_removals(denoised, tuple(context.config.data.events), item.cutoff, bands)
            write_run_statistics(context, run_id, "removals", item.shard, removals)
        return denoised


def denoise(context: RunContext, models: ModelSet, table: pa.Table, *, every_user: bool) -> pa.Table:
    """Apply each denoise variant to HISTORY rows: DENOISED_HISTORY of all users, or of the users of its arms."""
    stages = worker_cache(context).item_model(models.item_model).denoise_stages
    parts = [DENOISED_HISTORY.empty_table()]
    for variant, stage in zip(context.arms.variants("denoise"), stages, strict=True):
        users = None if every_user else context.arms.users_of(variant, table["user_id"])
        parts.append(stage((table if users is None else table.filter(pa.array(users))).combine_chunks()))
    return pa.concat_tables(parts)


class RetrieveShard:
    """Stage: retrieves candidates with every retrieve variant."""

    def __init__(self, scoring: ScoringSpec) -> None:
        self._scoring = scoring
        context = scoring.context
        variants = context.arms.variants("retrieve")
        sources = tuple(dict.fromkeys(spec.name for variant in variants for spec in retriever_specs(variant)))
        self._content = context.config.blend.content_features
        self._schema = candidate_schema(sources, content=self._content, for_training=scoring.for_training)
        self._scores_follow = any(uses_llm(variant) for variant in context.arms.variants("rerank"))

    def __call__(self, item: WorkItem, table: pa.Table) -> pa.Table:
        context = self._scoring.context
        model = worker_cache(context).item_model(self._scoring.models_at(item.cutoff).item_model)
        parts = []
        for variant, stage in zip(context.arms.variants("retrieve"), model.candidate_stages, strict=True):
            rows = table.filter(pc.equal(table["variant"], variant.parent)).combine_chunks()
            found = stage(rows, self._matching_requests(variant, rows, model.model))
            found = with_content(found, worker_cache(context).item_content, self._content)
            for name in set(self._schema.names) & set(rows.column_names) - set(found.column_names):
                found = found.append_column(name, rows[name])
            parts.append(found)
        candidates = conform(pa.concat_tables(parts, promote_options="default"), self._schema)
        return candidates if self._scores_follow else with_scores(candidates)

    def _matching_requests(self, variant: Variant, rows: pa.Table, model: ItemModel) -> Ragged | None:
        """Items that match the requests of the rows' users; None if nobody has a request."""
        context, cache = self._scoring.context, worker_cache(self._scoring.context)
        if not has_requests(context):
            return None
        if self._scoring.for_training:
            simulated = rows[SIMULATED_REQUEST].to_pylist()
            queries: list[tuple[Query, ...]] = [((text, cache.rules(text)),) if text else () for text in simulated]
        else:
            texts = request_queries(context, rows["user_id"], context.arms.arms_of(variant))
            known = understood_texts(context)
            queries = [tuple((text, known[text]) for text in row if known.is_understood(text)) for row in texts]
        popularity = item_features(model).column("log_decayed_8d")
        search = RequestSearch(cache.item_search, cache.facets, cache.titles, popularity)
        return search(queries, variant.read(Retrieval).request_candidates)


class RerankShard:
    """Stage, run as an actor: adds LLM scores to the rows of scoring requests; passes on rows of arms without LLM."""

    def __init__(self, scoring: ScoringSpec) -> None:
        self._scoring = scoring
        context = scoring.context
        self._scorers = ScorerCache(context, scoring.engine)
        self._on_gpu = bool(context.config.resources.rerank_num_gpus)
        self._requests = training_requests(context.arms) if scoring.for_training else scoring_requests(context)

    def __call__(self, item: WorkItem, table: pa.Table) -> pa.Table:
        rows = {request.name: self._rows(table, request.variant, request.arms) for request in self._requests}
        scored: dict[str, pa.Table] = {}
        done, total, users = 0, sum(map(len, rows.values())), len(table["user_id"].unique())

        def rows_scored(count: int) -> None:
            nonlocal done
            done += count
            if self._scoring.run_id:
                tell(self._scoring.progress_name, item.shard, users * done // total)

        for key in dict.fromkeys(request.method.scorer_key for request in self._requests):
            together = [request for request in self._requests if request.method.scorer_key == key]
            scored |= self._scored(item, together, [rows[request.name] for request in together], rows_scored)
        run_metrics.engine_work(self._on_gpu)
        return pa.concat_tables([*self._without_llm(table), *(scored[request.name] for request in self._requests)])

    def _scored(
        self,
        item: WorkItem,
        requests: Sequence[ScoringRequest],
        rows: Sequence[pa.Table],
        rows_scored: Callable[[int], None],
    ) -> dict[str, pa.Table]:
        """Scored rows by request. A scorer handles all requests of a user in one call, so a shared prompt runs once."""
        context, method = self._scoring.context, requests[0].method
        scorer = self._scorers.at(self._scoring.models_at(item.cutoff), method)
        prompts = [self._prompts(request, own) for request, own in zip(requests, rows, strict=True)]
        users_at_once = _TEXT_USERS if isinstance(scorer, TextReranker) else _ITEM_TOKEN_USERS
        out = in_parts(scorer, pa.concat_tables(prompts).combine_chunks(), users_at_once, rows_scored)
        if isinstance(scorer, TextReranker) and self._scoring.run_id:
            name = f"{method.method}-{digest(method.scorer_key)}"
            write_text_ablation(context, self._scoring.run_id, item.shard, name, scorer, out)
        found, start = {}, 0
        for request, own in zip(requests, rows, strict=True):
            part = out.slice(start, len(own))
            start += len(own)
            members = context.arms.members(own["user_id"])
            served = pa.array(np.any([members[arm] for arm in request.arms], axis=0))
            found[request.name] = with_scores(
                own,
                request.name,
                part["llm_score"],
                pc.is_valid(part["request"]),
                self._scorers.engine_and_method(method),
                pc.if_else(served, part["error"], pa.scalar(None, pa.string())),  # ignore unserved users' errors
            )
        return found

    def _without_llm(self, table: pa.Table) -> list[pa.Table]:
        """The rows of arms without an LLM, by retrieve variant."""
        arms: dict[str, list[str]] = {}
        for path in self._scoring.context.arms:
            if not uses_llm(path.at("rerank")):
                arms.setdefault(path.at("retrieve").name, []).append(path.arm)
        return [with_scores(self._rows(table, variant, served)) for variant, served in arms.items()]

    def _rows(self, table: pa.Table, variant: str, arms: Sequence[str]) -> pa.Table:
        """The rows of a retrieve variant that these arms need; zero-copy if they are contiguous."""
        wanted = pc.equal(table["variant"], variant).to_numpy()
        if not self._scoring.for_training:
            wanted = wanted & users_to_score(self._scoring.context.arms, arms, table["user_id"])
        place = np.flatnonzero(wanted)
        if not len(place) or place[-1] - place[0] + 1 == len(place):
            return table.slice(int(place[0]) if len(place) else 0, len(place))
        return table.take(pa.array(place))

    def _prompts(self, request: ScoringRequest, rows: pa.Table) -> pa.Table:
        """The scorer's input: candidates and the users' instructions."""
        context = self._scoring.context
        if self._scoring.for_training:
            preference, wanted = pa.nulls(len(rows), pa.string()), rows[SIMULATED_REQUEST].combine_chunks()
        else:
            instructions = worker_cache(context).instructions
            preference, wanted = instructions_for(instructions, rows["user_id"], request.instruction_arm or "")
            if not request.method.is_text_scorer and context.config.tuning.base == "scratch":
                wanted = only_understood(context, wanted)  # a model from scratch knows the catalogue's words alone
        scores = [name for name in rows.column_names if name.startswith("score.")]
        read = rows.select(["user_id", "item", "ts", "candidate", *scores])
        if request.method.is_text_scorer:
            read = read.append_column("profile", preference)
        else:
            has_history = Ragged.from_arrow(rows["item"]).lengths > 0
            prompt = instruction_prompts(context.templates, preference, wanted, has_history)
            read = read.append_column("instruction", prompt)
        return read.append_column("request", wanted)


def in_parts(
    scorer: Callable[[pa.Table], pa.Table], table: pa.Table, users_at_once: int, rows_scored: Callable[[int], None]
) -> pa.Table:
    """`scorer(table)`, computed for so many users at a time; `rows_scored` is called after each."""
    user = table["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.argsort(user, kind="stable")
    bounds = np.searchsorted(user[order], np.arange(0, user.max(initial=0) + 1 + users_at_once, users_at_once))
    if len(bounds) <= 2:
        out = scorer(table)
        rows_scored(len(table))
        return out
    parts = []
    for start, end in pairwise(bounds.tolist()):
        parts.append(scorer(table.take(pa.array(order[start:end])).combine_chunks()))
        rows_scored(end - start)
    return pa.concat_tables(parts).take(pa.array(np.argsort(order, kind="stable"))).combine_chunks()


def with_scores(
    candidates: pa.Table,
    scoring_request: str | None = None,
    llm_score: pa.ChunkedArray | None = None,
    has_request: pa.ChunkedArray | None = None,
    scorer: str | None = None,
    error: pa.ChunkedArray | None = None,
) -> pa.Table:
    """Candidates as scored_schema rows; without scores, as rows of arms without an LLM."""
    count, no_text = len(candidates), pa.nulls(len(candidates), pa.string())
    scored = pa.nulls(count, pa.list_(pa.float32())) if llm_score is None else llm_score
    named = pc.if_else(pc.is_valid(scored), pa.scalar(scorer, pa.string()), pa.scalar(None, pa.string()))
    columns = [
        no_text if scoring_request is None else pa.repeat(pa.scalar(scoring_request), count),
        scored,
        pa.nulls(count, pa.bool_()).fill_null(False) if has_request is None else has_request,
        named,
        no_text if error is None else error,
    ]
    schema = scored_schema(candidates.schema)
    return pa.table([*candidates.columns, *columns], schema=schema)


def arm_rows(scored: pa.Table, variant: str, scoring_request: str | None) -> pa.Table:
    """The rows of one (retrieve variant, scoring request); without a request, candidates alone (candidate_schema)."""
    request = scored["scoring_request"]
    own = pc.is_null(request) if scoring_request is None else pc.fill_null(pc.equal(request, scoring_request), False)
    rows = scored.filter(pc.and_(pc.equal(scored["variant"], variant), own))
    return rows.drop_columns(["llm_score", "has_request"]) if scoring_request is None else rows


def _engine_pool(scoring: ScoringSpec) -> ActorPoolSpec:
    resources = scoring.context.config.resources
    # Ray would set OMP_NUM_THREADS from num_cpus, which controls placement, not the engine's number of threads.
    env = tuple(VLLM_ENVIRONMENT.items())
    if not resources.rerank_num_gpus:
        env += (("OMP_NUM_THREADS", str(resources.rerank_threads)),)
    placed = engines(resources)
    return ActorPoolSpec(placed.engines, placed.engine_cpus, placed.engine_gpus, env)
