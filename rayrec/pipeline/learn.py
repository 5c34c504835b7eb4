"""What the night learns before it scores: item models, the LLM, and how to weigh them, each an artefact by fingerprint.

The blend must see the models as honestly as the date will. So for each of a few earlier cuts, models are made from what
was known then, users are scored, and what they took within the horizon afterwards is the lesson; then the same models
are made as of the date. The oldest cut's tuning also finds how many epochs are enough; the others run that many.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from rayrec import artefacts
from rayrec.cluster import placeable_cpus, task
from rayrec.config import Rerank
from rayrec.contracts.ragged import Ragged
from rayrec.hashing import digest, hash_strings
from rayrec.pipeline.asking import anything_asked
from rayrec.pipeline.carry import carry, over_units, results
from rayrec.pipeline.day import Day
from rayrec.pipeline.ingest import Ingested, histories
from rayrec.pipeline.lesson_files import lessons_folder
from rayrec.pipeline.loaded_stages import tuning_denoise_stage
from rayrec.pipeline.models import (
    BLEND,
    Models,
    asks_llm,
    cuts,
    instruction,
    loaded_part,
    prior_of,
    sources_of,
    start_fit,
    tunes,
)
from rayrec.pipeline.readings import Reading, with_reading
from rayrec.pipeline.score import Scoring, reranked
from rayrec.pipeline.teaching import ASK, WANTED
from rayrec.progress import Progress
from rayrec.reranking import artefact
from rayrec.reranking.tuning import TuningSpec
from rayrec.reranking.tuning_ray import tune
from rayrec.retrieval.base import retriever_kind
from rayrec.retrieval.item_model import FACTORS
from rayrec.slates.arms import Variant
from rayrec.slates.blend import Lesson, fit
from rayrec.slates.examples import is_taken, known_at
from rayrec.workers import Workers

_LOG = logging.getLogger(__name__)


def fit_models(day: Day, data: Ingested) -> tuple[Models, ...]:
    """The item model as of every cut, oldest first."""
    moments = cuts(day)
    with Progress("fit", len(moments), unit="models") as progress:
        started = [start_fit(day, data, cut) for cut in moments]
        for fit in started:
            fit.wait()
            progress.advance()
    return tuple(Models(cut, fit.fingerprint) for cut, fit in zip(moments, started, strict=True))


def tune_models(day: Day, data: Ingested, models: Sequence[Models]) -> tuple[Models, ...]:
    """The LLM as of every cut, tuned on denoised histories; as it was where no arm asks one."""
    if not tunes(day):
        return tuple(models)
    paths = [f"{artefacts.FOLDER}/llm/{_llm_fingerprint(day, one, models)}" for one in models]
    missing = [k for k, path in enumerate(paths) if not artefact.exists(day.storage, path)]
    if missing:
        _say_what_is_stale(day)
        _write_sequences(day, tuple(models), missing)
    asked = anything_asked(day)
    specs = [
        TuningSpec(
            root=day.storage.root,
            catalogue=data.catalogue,
            sequences=tuple(_sequence_path(day, one, shard) for shard in range(day.config.data.shards)),
            path=path,
            instruction=instruction(day),
            settings=day.config.tuning.planned(asked=asked),
            templates=day.templates if asked else None,
            now=one.cut,
            until=models[1].cut if k == 0 and len(models) > 1 else None,
            factors=_factors(day, one) if k in missing else None,
        )
        for k, (one, path) in enumerate(zip(models, paths, strict=True))
    ]
    resources = day.config.resources
    tune(specs, Workers(resources.tune_workers, placeable_cpus(resources.tune_num_cpus), resources.tune_num_gpus))
    return tuple(replace(one, llm=path) for one, path in zip(models, paths, strict=True))


def fit_blends(day: Day, data: Ingested, models: Sequence[Models]) -> dict[str, str]:
    """Rerank variant -> fingerprint of its blend, learned on all but the last of `models`."""
    past = tuple(models[:-1])
    named = {variant.name: blend_fingerprint(day, variant, past) for variant in day.arms.variants("rerank")}
    missing = [v for v in day.arms.variants("rerank") if not artefacts.exists(day.storage, BLEND, named[v.name])]
    if missing:
        scoring = Scoring(day, past, "transformers", day.config.blend.sample_users, data.users, lessons_folder(day))
        _write_lessons(scoring)
        fitting = task(_fit_blend, 1)
        ray.get([fitting.remote(scoring, variant, named[variant.name]) for variant in missing])
    return named


class SaveLesson:
    """Stage: the scored users of one (cut, shard), and which of their candidates they then took, into a file."""

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring

    def __call__(self, unit: int, table: pa.Table) -> pa.Table:
        candidate, wanted = Ragged.from_arrow(table["candidate"]), Ragged.from_arrow(table[WANTED])
        taken = candidate.like(is_taken(candidate, wanted).astype(np.int8)).to_arrow(pa.int8())
        models, shard = self._scoring.at(unit)
        self._scoring.files.write(models.cut, shard, table.drop_columns([WANTED]).append_column("taken", taken))
        return pa.table({"users": [table.num_rows]})


class WriteSequences:
    """Stage: one shard's denoised positives as of a cut, with what came after it (never denoised) for validation."""

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring

    def __call__(self, unit: int, _: pa.Table) -> pa.Table:
        day = self._scoring.day
        models, shard = self._scoring.at(unit)
        table = histories(day, shard)
        stage = tuning_denoise_stage(day, models.item_model)
        item, ts = Ragged.from_arrow(table["item"]), Ragged.from_arrow(table["ts"])
        keep = np.ones(len(item.values), np.float32)
        past = ts.values < models.cut
        keep[past] = Ragged.from_arrow(stage(known_at(table, models.cut))["keep"]).values
        weight = np.asarray(day.event_weights, np.float32)[Ragged.from_arrow(table["event"]).values]
        positive = weight > 0
        kept = item.filter(positive)
        columns = {
            "item": kept.to_arrow(pa.int32()),
            "ts": kept.like(ts.values[positive]).to_arrow(pa.int64()),
            "keep": kept.like(keep[positive]).to_arrow(pa.float32()),
            "order": hash_strings(table["user_id"]),
        }
        sequences = pa.table(columns)
        with (
            day.storage.writer(_sequence_path(day, models, shard)) as file,
            pa.ipc.new_file(file, sequences.schema) as out,
        ):
            out.write_table(sequences)
        return pa.table({"users": [table.num_rows]})


def _write_lessons(scoring: Scoring) -> None:
    """Of every (cut, shard) that has no file yet."""
    units, done = scoring.units, scoring.files.paths()
    to_do = [unit for unit in units if _lesson_path(scoring, unit) not in done]
    with Progress("blend", len(units), unit="lessons") as progress:
        progress.advance(len(units) - len(to_do))
        if to_do:
            for _ in results(carry(reranked(scoring, to_do), SaveLesson, scoring)):
                progress.advance()


def _write_sequences(day: Day, models: tuple[Models, ...], which: Sequence[int]) -> None:
    scoring = Scoring(day, models, "transformers")
    shards = day.config.data.shards
    units = [k * shards + shard for k in which for shard in range(shards)]
    for _ in results(carry(over_units(units), WriteSequences, scoring)):
        pass


def _say_what_is_stale(day: Day) -> None:
    stale = artefact.checkpoints(day.storage, f"{artefacts.FOLDER}/llm", stale=True)
    if stale:
        what = "tune: %d checkpoints are stale, because users were forgotten; they may be deleted: %s"
        _LOG.warning(what, len(stale), ", ".join(stale[:5]))


def _factors(day: Day, models: Models) -> np.ndarray[tuple[int, int], np.dtype[np.float32]] | None:
    """The item factors that the LLM's tokens begin with; None where the models have none."""
    specs = [spec for variant in day.arms.variants("retrieve") for spec in sources_of(variant)]
    return loaded_part(day, models.item_model, FACTORS.kind).factors(specs)


def _fit_blend(scoring: Scoring, variant: Variant, fingerprint: str) -> None:
    day = scoring.day
    parent = next(v for v in day.arms.variants("retrieve") if v.name == variant.parent)
    lessons = []
    for models in scoring.models:
        tables = scoring.files.read(models.cut, day.config.data.shards, parent.name)
        if not tables:
            continue
        table = pa.concat_tables(tables, promote_options="default").sort_by("user_id").combine_chunks()
        reading = Reading(variant, None) if asks_llm(variant) else None
        table = with_reading(table, reading)
        if reading is None:
            table = table.filter(pc.is_null(table[ASK]))
        table = table.drop_columns([ASK]).combine_chunks()
        taken = Ragged.from_arrow(table["taken"])
        lessons.append(Lesson(table, taken.like(taken.values > 0), prior_of(loaded_part(day, models.item_model))))
    personal = [source.name for source in sources_of(parent) if retriever_kind(source.kind).personal]
    blend = fit(lessons, personal, day.config.blend.l2)
    artefacts.save(day.storage, BLEND, fingerprint, {}, blend.to_plain())


def _llm_fingerprint(day: Day, one: Models, models: Sequence[Models]) -> str:
    """Of everything that can change the tuned weights; the first cut decides the number of epochs of all."""
    config = day.config
    asked = day.templates.digest if anything_asked(day) else None
    tuning = config.tuning.model_dump(mode="json") | {"base": day.base}  # by its content, wherever it lies
    settings = [artefact.FORMAT, tuning, config.denoise.model_dump(mode="json"), instruction(day), asked]
    return digest(
        [settings, day.data_fingerprint, one.cut, one.item_model, models[0].item_model, [m.cut for m in models]]
    )


def blend_fingerprint(day: Day, variant: Variant, past: Sequence[Models]) -> str:
    """Of everything that can change the weights that a rerank variant learns on the cuts of `past`."""
    known = [(models.cut, models.item_model, models.llm if asks_llm(variant) else None) for models in past]
    told = anything_asked(day) or variant.read(Rerank).reads_text
    asked = [anything_asked(day), day.templates.digest if told else None]
    read = day.checkpoints.get(variant.name)
    lessons = [instruction(day), day.config.retrieval.exclude_seen]
    blend = day.config.blend.model_dump(mode="json")
    return digest([variant.name, known, blend, day.data_fingerprint, asked, read, lessons])


def _sequence_path(day: Day, models: Models, shard: int) -> str:
    method = digest([day.config.denoise.model_dump(mode="json"), models.item_model])
    return f"{day.work}/sequences/{models.cut}-{method}/shard={shard:04d}.arrow"


def _lesson_path(scoring: Scoring, unit: int) -> str:
    models, shard = scoring.at(unit)
    return scoring.files.path(models.cut, shard)
