"""One shard after another: denoise -> retrieve -> rerank, as tables that flow through Ray Data.

The same stages serve two ends: slates for the date (`rayrec.pipeline.slate_commit`), and lessons for the blend, as of earlier
cuts (`rayrec.pipeline.model_fitting`). A unit is a (cut, shard); for the slates there is one cut, the date.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Dataset

from rayrec.config import Retrieval
from rayrec.data.cutoff_histories import histories_at
from rayrec.data.schemas import DENOISED_HISTORY
from rayrec.experiments.arm_plan import Variant
from rayrec.monitoring.removal_statistics import popularity_bands, summarise_removals
from rayrec.numerics.hashing import digest
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline.instruction_inputs import has_history, has_requests, render_instructions
from rayrec.pipeline.interaction_ingest import histories
from rayrec.pipeline.loaded_models import load_candidate_stages, load_denoise_stages
from rayrec.pipeline.models import ModelSet, load_item_model, uses_llm
from rayrec.pipeline.request_candidates import request_queries, search
from rayrec.pipeline.run_artifacts import write_denoising_decisions, write_run_statistics
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.scorers import ScorerCache
from rayrec.pipeline.scoring_requests import (
    HAS_REQUEST,
    LLM_SCORE,
    SCORER,
    ScoringRequest,
    arms_served,
    instructions_of,
    scoring_requests,
    users_to_score,
)
from rayrec.pipeline.text_ablation_files import write_text_ablation
from rayrec.pipeline.training_example_files import TrainingExampleStore
from rayrec.pipeline.training_example_rows import (
    CONSUMED,
    SIMULATED_REQUEST,
    consumed_in_horizon,
    training_examples,
    training_users,
)
from rayrec.ray_support.stage_runner import ActorPoolSpec, carry, work_item_dataset
from rayrec.reranking.engines.vllm_runner import VLLM_ENVIRONMENT
from rayrec.reranking.text.text_reranker import TextReranker

Ints = npt.NDArray[np.int64]
_READ = ("user_id", "item", "ts", "candidate")  # what a reading needs of a row, beside the retrievers' scores


@dataclass(frozen=True)
class ScoringSpec:
    """What is scored: as of each cut in `models`, every shard. Hashable, so that a worker builds a stage once.

    `sample`: score only users who can teach the blend, among about this many of the day's; None: everybody.
    """

    context: RunContext
    models: tuple[ModelSet, ...]
    engine: str
    sample: int | None = None
    users: int = 0  # in the whole day, for the sample's share
    examples_folder: str = ""  # the folder of what these teach
    run_id: str = ""  # keep the verdicts on events for this run; "": they are not kept

    def at(self, unit: int) -> tuple[ModelSet, int]:
        """The models and the shard of a unit."""
        cut, shard = divmod(unit, self.context.config.data.shards)
        return self.models[cut], shard

    @property
    def for_training(self) -> bool:
        """Whether it is for the blend. Then every user is scored in every variant, whatever the split: an arm has as
        much to learn from, and the same, whichever share of the users it gets."""
        return self.sample is not None

    @property
    def share(self) -> float:
        """Of the users, those who are asked to teach, at most."""
        return (self.sample or 0) / max(self.users, 1)

    @property
    def example_store(self) -> TrainingExampleStore:
        """Where lessons lie."""
        return TrainingExampleStore(self.context.storage, self.examples_folder)

    @property
    def work_items(self) -> list[int]:
        return list(range(len(self.models) * self.context.config.data.shards))


def score_shards(scoring: ScoringSpec, work_items: list[int]) -> Dataset:
    """A dataset of reranked tables, one a unit."""
    resources = scoring.context.config.resources
    flow = work_item_dataset(work_items)
    flow = carry(flow, DenoiseShard, scoring, concurrency=resources.score_tasks)
    flow = carry(flow, RetrieveShard, scoring, concurrency=resources.score_tasks)
    if any(uses_llm(variant) for variant in scoring.context.arms.variants("rerank")):
        flow = carry(flow, RerankShard, scoring, pool=_engine_pool(scoring))
    return flow


class DenoiseShard:
    """Stage: a shard's histories as they were at the cut, with every denoise variant's verdict on each event."""

    def __init__(self, scoring: ScoringSpec) -> None:
        self._scoring = scoring

    def __call__(self, unit: int, _: pa.Table) -> pa.Table:
        scoring, context = self._scoring, self._scoring.context
        models, shard = scoring.at(unit)
        table = everything = histories(context, shard)
        wanted = None
        if scoring.for_training:
            wanted = consumed_in_horizon(context, everything, models.cutoff)
            teaches = training_users(context, everything, wanted, models.cutoff, scoring.share)
            table = histories_at(everything, models.cutoff).filter(pa.array(teaches))
        parts = [DENOISED_HISTORY.empty_table()]
        stages = load_denoise_stages(context, models.item_model)
        for variant, stage in zip(context.arms.variants("denoise"), stages, strict=True):
            own = (
                table
                if scoring.for_training
                else table.filter(pa.array(context.arms.users_of(variant, table["user_id"])))
            )
            parts.append(stage(own.combine_chunks()))
        denoised = pa.concat_tables(parts)
        if scoring.run_id:
            write_denoising_decisions(context, scoring.run_id, shard, denoised)
            bands = popularity_bands(load_item_model(context, models.item_model).count)
            taken_out = summarise_removals(denoised, tuple(context.config.data.events), models.cutoff, bands)
            write_run_statistics(context, scoring.run_id, "taken-out", shard, taken_out)
        if wanted is not None:
            taught = training_examples(context, denoised, everything["user_id"].combine_chunks(), wanted, models.cutoff)
            if not taught.num_rows:  # Ray Data hands no rows on to nobody: the stage that saves is not called
                scoring.example_store.write(models.cutoff, shard, taught)
            return taught
        return denoised


class RetrieveShard:
    """Stage: candidates of every retrieve variant; rows are named by the rerank variants that read them."""

    def __init__(self, scoring: ScoringSpec) -> None:
        self._scoring = scoring

    def __call__(self, unit: int, table: pa.Table) -> pa.Table:
        context = self._scoring.context
        stages = load_candidate_stages(context, self._scoring.at(unit)[0].item_model)
        parts = []
        for variant, stage in zip(context.arms.variants("retrieve"), stages, strict=True):
            rows = table.filter(pc.equal(table["variant"], variant.parent)).combine_chunks()
            found = stage(rows, self._matching(variant, rows))
            for name in (CONSUMED, SIMULATED_REQUEST):
                if name in rows.column_names:
                    found = found.append_column(name, rows[name])
            parts.append(found)
        return pa.concat_tables(parts, promote_options="default")

    def _matching(self, variant: Variant, rows: pa.Table) -> Ragged | None:
        """Items that match what the users of some rows ask for; None where nobody asks for anything."""
        context = self._scoring.context
        if not has_requests(context):
            return None
        if SIMULATED_REQUEST in rows.column_names:
            texts: list[tuple[str, ...]] = [(text,) if text else () for text in rows[SIMULATED_REQUEST].to_pylist()]
        else:
            texts = request_queries(context, rows["user_id"], context.arms.arms_of(variant))
        return search(context, texts, variant.read(Retrieval).request_candidates)


class RerankShard:
    """Stage, as an actor: the LLM's scores for every reading, each in columns of its own (see readings.py).

    `way.<reading>` says who scored a row, engine and way; null where nobody did. `error` says why a prompt failed that
    an arm of the user's own goes by.
    """

    def __init__(self, scoring: ScoringSpec) -> None:
        self._scoring = scoring
        self._readers = ScorerCache(scoring.context, scoring.engine)

    def __call__(self, unit: int, table: pa.Table) -> pa.Table:
        models, shard = self._scoring.at(unit)
        asked = [
            (scoring_request, arms, *self._asked(table, scoring_request, arms))
            for scoring_request, arms in self._readings()
        ]
        members = self._scoring.context.arms.members(table["user_id"])
        errors = []
        for reader in dict.fromkeys(scoring_request.scorer_key for scoring_request, *_ in asked):
            own = [one for one in asked if one[0].scorer_key == reader]
            method = own[0][0].method
            # One call for all readings of a reader: where they share a prompt, it is read once.
            started = self._readers.at(models, method)
            out = started(pa.concat_tables([rows for *_, rows in own]).combine_chunks())
            if isinstance(started, TextReranker) and self._scoring.run_id:
                name = f"{method.method}-{digest(reader)}"
                write_text_ablation(self._scoring.context, self._scoring.run_id, shard, name, started, out)
            start = 0
            for scoring_request, arms, place, rows in own:
                part = out.slice(start, len(rows))
                start += len(rows)
                back = pc.index_in(pa.array(np.arange(len(table))), value_set=pa.array(place))
                scores, error = (part[name].combine_chunks().take(back) for name in ("llm_score", "error"))
                intends = pc.is_valid(part["request"].combine_chunks()).take(back)
                way = pc.if_else(
                    pc.is_valid(scores), self._readers.engine_and_method(method), pa.scalar(None, pa.string())
                )
                for kind, column in ((LLM_SCORE, scores), (HAS_REQUEST, intends), (SCORER, way)):
                    table = table.append_column(f"{kind}{scoring_request.name}", column)
                served_by = np.any([members[arm] for arm in arms], axis=0)
                errors.append(pc.if_else(pa.array(served_by), error, pa.scalar(None, pa.string())))
        return table.append_column("error", pc.coalesce(*errors))

    def _readings(self) -> list[tuple[ScoringRequest, tuple[str, ...]]]:
        """Tonight's, and the arms that they serve; a lesson is read once a rerank variant: its request is its own."""
        context = self._scoring.context
        if not self._scoring.for_training:
            return [
                (scoring_request, arms_served(context, scoring_request))
                for scoring_request in scoring_requests(context)
            ]
        return [
            (ScoringRequest(v, None), context.arms.arms_of(v)) for v in context.arms.variants("rerank") if uses_llm(v)
        ]

    def _asked(self, table: pa.Table, scoring_request: ScoringRequest, arms: tuple[str, ...]) -> tuple[Ints, pa.Table]:
        """The rows of the table that a reading scores, [n], and those rows with what is asked."""
        context = self._scoring.context
        own = pc.equal(table["variant"], scoring_request.rerank.parent).to_numpy(zero_copy_only=False)
        users = (
            np.ones(len(table), np.bool_)
            if self._scoring.for_training
            else users_to_score(context, arms, table["user_id"])
        )
        place = np.flatnonzero(own & users)
        rows = table.take(pa.array(place))
        if SIMULATED_REQUEST in rows.column_names:
            preference, intention = pa.nulls(len(rows), pa.string()), rows[SIMULATED_REQUEST].combine_chunks()
        else:
            preference, intention = instructions_of(context, scoring_request, rows["user_id"])
        read = [name for name in rows.column_names if name in _READ or name.startswith("score.")]
        if scoring_request.method.is_text_scorer:
            told = rows.select(read).append_column("profile", preference)
        else:
            told = rows.select(read).append_column(
                "instruction", render_instructions(context, preference, intention, has_history(rows))
            )
        return place, told.append_column("request", intention)


def _engine_pool(scoring: ScoringSpec) -> ActorPoolSpec:
    resources = scoring.context.config.resources
    # Ray would set OMP_NUM_THREADS from num_cpus, which says how tasks are placed, not how fast the engine may run.
    env = tuple(VLLM_ENVIRONMENT.items())
    if not resources.rerank_num_gpus:
        env += (("OMP_NUM_THREADS", str(resources.rerank_threads)),)
    return ActorPoolSpec(resources.rerank_actors, resources.rerank_num_cpus, resources.rerank_num_gpus, env)
