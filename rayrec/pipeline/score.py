"""One shard after another: denoise -> retrieve -> rerank, as tables that flow through Ray Data.

The same stages serve two ends: slates for the date (`rayrec.pipeline.commit`), and lessons for the blend, as of earlier
cuts (`rayrec.pipeline.learn`). A unit is a (cut, shard); for the slates there is one cut, the date.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Dataset

from rayrec.config import Retrieval
from rayrec.contracts.ragged import Ragged
from rayrec.contracts.schemas import DENOISED
from rayrec.evaluation.taken_out import popularity_bands, summarise_taken_out
from rayrec.hashing import digest
from rayrec.pipeline.asking import anything_asked, has_events, told_in_words
from rayrec.pipeline.carry import ActorPool, carry, over_units
from rayrec.pipeline.day import Day
from rayrec.pipeline.ingest import histories
from rayrec.pipeline.kept import keep_summary, keep_verdicts
from rayrec.pipeline.lesson_files import LessonFiles
from rayrec.pipeline.loaded_stages import candidate_stages, denoise_stages
from rayrec.pipeline.models import Models, asks_llm, loaded
from rayrec.pipeline.readers import Readers
from rayrec.pipeline.readings import INTENDS, SCORES, WAY, Reading, looked_at, readings, requested, served
from rayrec.pipeline.rereading import keep_reread
from rayrec.pipeline.searching import search, searches
from rayrec.pipeline.teaching import ASK, WANTED, lessons, taken, teaching
from rayrec.reranking.text_actor import TextReranker
from rayrec.reranking.vllm_engine import ENVIRONMENT
from rayrec.slates.arms import Variant
from rayrec.slates.examples import known_at

Ints = npt.NDArray[np.int64]
_READ = ("user_id", "item", "ts", "candidate")  # what a reading needs of a row, beside the retrievers' scores


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
    lessons: str = ""  # the folder of what these teach
    run_id: str = ""  # keep the verdicts on events for this run; "": they are not kept

    def at(self, unit: int) -> tuple[Models, int]:
        """The models and the shard of a unit."""
        cut, shard = divmod(unit, self.day.config.data.shards)
        return self.models[cut], shard

    @property
    def teaches(self) -> bool:
        """Whether it is for the blend. Then every user is scored in every variant, whatever the split: an arm has as
        much to learn from, and the same, whichever share of the users it gets."""
        return self.sample is not None

    @property
    def share(self) -> float:
        """Of the users, those who are asked to teach, at most."""
        return (self.sample or 0) / max(self.users, 1)

    @property
    def files(self) -> LessonFiles:
        """Where lessons lie."""
        return LessonFiles(self.day.storage, self.lessons)

    @property
    def units(self) -> list[int]:
        return list(range(len(self.models) * self.day.config.data.shards))


def reranked(scoring: Scoring, units: list[int]) -> Dataset:
    """A dataset of reranked tables, one a unit."""
    resources = scoring.day.config.resources
    flow = over_units(units)
    flow = carry(flow, DenoiseShard, scoring, concurrency=resources.score_tasks)
    flow = carry(flow, RetrieveShard, scoring, concurrency=resources.score_tasks)
    if any(asks_llm(variant) for variant in scoring.day.arms.variants("rerank")):
        flow = carry(flow, RerankShard, scoring, pool=_engine_pool(scoring))
    return flow


class DenoiseShard:
    """Stage: a shard's histories as they were at the cut, with every denoise variant's verdict on each event."""

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring

    def __call__(self, unit: int, _: pa.Table) -> pa.Table:
        scoring, day = self._scoring, self._scoring.day
        models, shard = scoring.at(unit)
        table = everything = histories(day, shard)
        wanted = None
        if scoring.teaches:
            wanted = taken(day, everything, models.cut)
            teaches = teaching(day, everything, wanted, models.cut, scoring.share)
            table = known_at(everything, models.cut).filter(pa.array(teaches))
        parts = [DENOISED.empty_table()]
        stages = denoise_stages(day, models.item_model)
        for variant, stage in zip(day.arms.variants("denoise"), stages, strict=True):
            own = table if scoring.teaches else table.filter(pa.array(day.arms.users_of(variant, table["user_id"])))
            parts.append(stage(own.combine_chunks()))
        denoised = pa.concat_tables(parts)
        if scoring.run_id:
            keep_verdicts(day, scoring.run_id, shard, denoised)
            bands = popularity_bands(loaded(day, models.item_model).count)
            taken_out = summarise_taken_out(denoised, tuple(day.config.data.events), models.cut, bands)
            keep_summary(day, scoring.run_id, "taken-out", shard, taken_out)
        if wanted is not None:
            taught = lessons(day, denoised, everything["user_id"].combine_chunks(), wanted, models.cut)
            if not taught.num_rows:  # Ray Data hands no rows on to nobody: the stage that saves is not called
                scoring.files.write(models.cut, shard, taught)
            return taught
        return denoised


class RetrieveShard:
    """Stage: candidates of every retrieve variant; rows are named by the rerank variants that read them."""

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring

    def __call__(self, unit: int, table: pa.Table) -> pa.Table:
        day = self._scoring.day
        stages = candidate_stages(day, self._scoring.at(unit)[0].item_model)
        parts = []
        for variant, stage in zip(day.arms.variants("retrieve"), stages, strict=True):
            rows = table.filter(pc.equal(table["variant"], variant.parent)).combine_chunks()
            found = stage(rows, self._matching(variant, rows))
            for name in (WANTED, ASK):
                if name in rows.column_names:
                    found = found.append_column(name, rows[name])
            parts.append(found)
        return pa.concat_tables(parts, promote_options="default")

    def _matching(self, variant: Variant, rows: pa.Table) -> Ragged | None:
        """Items that match what the users of some rows ask for; None where nobody asks for anything."""
        day = self._scoring.day
        if not anything_asked(day):
            return None
        if ASK in rows.column_names:
            texts: list[tuple[str, ...]] = [(text,) if text else () for text in rows[ASK].to_pylist()]
        else:
            texts = searches(day, rows["user_id"], day.arms.arms_of(variant))
        return search(day, texts, variant.read(Retrieval).request_top)


class RerankShard:
    """Stage, as an actor: the LLM's scores for every reading, each in columns of its own (see readings.py).

    `way.<reading>` says who scored a row, engine and way; null where nobody did. `error` says why a prompt failed that
    an arm of the user's own goes by.
    """

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring
        self._readers = Readers(scoring.day, scoring.engine)

    def __call__(self, unit: int, table: pa.Table) -> pa.Table:
        models, shard = self._scoring.at(unit)
        asked = [(reading, arms, *self._asked(table, reading, arms)) for reading, arms in self._readings()]
        members = self._scoring.day.arms.members(table["user_id"])
        errors = []
        for reader in dict.fromkeys(reading.reader for reading, *_ in asked):
            own = [one for one in asked if one[0].reader == reader]
            method = own[0][0].method
            # One call for all readings of a reader: where they share a prompt, it is read once.
            started = self._readers.at(models, method)
            out = started(pa.concat_tables([rows for *_, rows in own]).combine_chunks())
            if isinstance(started, TextReranker) and self._scoring.run_id:
                name = f"{method.method}-{digest(reader)}"
                keep_reread(self._scoring.day, self._scoring.run_id, shard, name, started, out)
            start = 0
            for reading, arms, place, rows in own:
                part = out.slice(start, len(rows))
                start += len(rows)
                back = pc.index_in(pa.array(np.arange(len(table))), value_set=pa.array(place))
                scores, error = (part[name].combine_chunks().take(back) for name in ("score.llm", "error"))
                intends = pc.is_valid(part["request"].combine_chunks()).take(back)
                way = pc.if_else(pc.is_valid(scores), self._readers.named(method), pa.scalar(None, pa.string()))
                for kind, column in ((SCORES, scores), (INTENDS, intends), (WAY, way)):
                    table = table.append_column(f"{kind}{reading.name}", column)
                served_by = np.any([members[arm] for arm in arms], axis=0)
                errors.append(pc.if_else(pa.array(served_by), error, pa.scalar(None, pa.string())))
        return table.append_column("error", pc.coalesce(*errors))

    def _readings(self) -> list[tuple[Reading, tuple[str, ...]]]:
        """Tonight's, and the arms that they serve; a lesson is read once a rerank variant: its request is its own."""
        day = self._scoring.day
        if not self._scoring.teaches:
            return [(reading, served(day, reading)) for reading in readings(day)]
        return [(Reading(v, None), day.arms.arms_of(v)) for v in day.arms.variants("rerank") if asks_llm(v)]

    def _asked(self, table: pa.Table, reading: Reading, arms: tuple[str, ...]) -> tuple[Ints, pa.Table]:
        """The rows of the table that a reading scores, [n], and those rows with what is asked."""
        day = self._scoring.day
        own = pc.equal(table["variant"], reading.rerank.parent).to_numpy(zero_copy_only=False)
        users = np.ones(len(table), np.bool_) if self._scoring.teaches else looked_at(day, arms, table["user_id"])
        place = np.flatnonzero(own & users)
        rows = table.take(pa.array(place))
        if ASK in rows.column_names:
            preference, intention = pa.nulls(len(rows), pa.string()), rows[ASK].combine_chunks()
        else:
            preference, intention = requested(day, reading, rows["user_id"])
        read = [name for name in rows.column_names if name in _READ or name.startswith("score.")]
        if reading.method.reads_text:
            told = rows.select(read).append_column("preference", preference)
        else:
            told = rows.select(read).append_column("ask", told_in_words(day, preference, intention, has_events(rows)))
        return place, told.append_column("request", intention)


def _engine_pool(scoring: Scoring) -> ActorPool:
    resources = scoring.day.config.resources
    # Ray would set OMP_NUM_THREADS from num_cpus, which says how tasks are placed, not how fast the engine may run.
    env = tuple(ENVIRONMENT.items())
    if not resources.rerank_num_gpus:
        env += (("OMP_NUM_THREADS", str(resources.rerank_threads)),)
    return ActorPool(resources.rerank_actors, resources.rerank_num_cpus, resources.rerank_num_gpus, env)
