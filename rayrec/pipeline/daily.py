"""The night, from the first event to the publication: read `run` from top to bottom.

    ingest   events -> contract -> histories by shard
    fit      item models, as of the date and of a few earlier cuts
    tune     the LLM, as of the same
    blend    how to weigh them all, learned on the earlier cuts
    score    shard by shard: denoise -> retrieve -> rerank -> order -> commit
    publish  one conditional write

Every step finds what an earlier attempt finished and goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pyarrow.parquet as pq

from rayrec import artefacts, forgotten
from rayrec.config import Denoise, Rerank, Slate
from rayrec.denoising.stage import denoiser_kind
from rayrec.errors import PublicationError
from rayrec.evaluation.people import catalogue_path
from rayrec.hashing import digest
from rayrec.pipeline.carry import carry, results
from rayrec.pipeline.commit import Commit, Committing
from rayrec.pipeline.day import Day
from rayrec.pipeline.ingest import Ingested, ingest
from rayrec.pipeline.kept import counted, keep_summary
from rayrec.pipeline.learn import fit_blends, fit_models, tune_models
from rayrec.pipeline.models import Models, asks_llm, instruction, sources_of
from rayrec.pipeline.score import Scoring, reranked
from rayrec.pipeline.split import require_sample_ratio
from rayrec.progress import Progress
from rayrec.publishing.records import Manifest, Provenance
from rayrec.publishing.run import Publication, Run
from rayrec.publishing.versions import versions
from rayrec.reranking import artefact
from rayrec.reranking.ways.engines import way_named
from rayrec.reranking.ways.prompts import by_cell
from rayrec.retrieval import item_model
from rayrec.slates.assemble import check_slate
from rayrec.slates.rules import unknown
from rayrec.slates.scored import Items

LLM = "llm"  # the name of the tuned one in manifests, and its folder among the models


@dataclass
class Timings:
    """How long each step took, in the order in which they ran."""

    steps: list[tuple[str, float, int, str]] = field(default_factory=list)  # (stage, seconds, units of work, unit)

    @contextmanager
    def step(self, name: str, unit: str) -> Iterator[Callable[[int], None]]:
        started, done = time.monotonic(), [0]
        yield lambda n: done.__setitem__(0, n)
        self.steps.append((name, time.monotonic() - started, done[0], unit))


@dataclass(frozen=True)
class Night:
    """How a run ended, for the report and the terminal."""

    day: Day  # as the code that published it left its files
    publication: Publication
    already: bool  # it was published before this run started: nothing was done
    models: Models  # as of the date
    data: Ingested | None = None
    timings: Timings = field(default_factory=Timings)

    @property
    def manifest(self) -> Manifest:
        return self.publication.manifest


def check(day: Day) -> None:
    """Refuse settings that some stage would refuse later, before any work. Raises ConfigError."""
    for variant in day.arms.variants("denoise"):
        settings = variant.read(Denoise)
        denoiser_kind(settings.method).check(settings.settings)
    for variant in day.arms.variants("retrieve"):
        sources_of(variant)
    for path in day.arms:
        sources = tuple(source.name for source in sources_of(path.at("retrieve")))
        check_slate(path.at("slate").read(Slate), sources, tuple(day.config.data.items.attributes))
    for variant in day.arms.variants("rerank"):
        if (rerank := variant.read(Rerank)).reads_text:
            way = way_named(rerank.method)
            if way.read(rerank.settings).by_templates:
                by_cell(day.templates, way.task_form)
    instruction(day)
    _ = day.templates, day.checkpoints, day.base


def run(day: Day) -> Night:
    """Everything for one date; a Ray cluster must be connected. Raises RayrecErrors; nothing is published then."""
    check(day)
    opened = Run.open(day.storage, day.record)
    if opened.published is not None:
        left = replace(day, code=opened.published.code_version)
        return Night(left, Publication("published", opened.published), True, _models_of(left, opened.published))
    timings = Timings()
    with timings.step("ingest", "rows") as done:
        data = ingest(day)
        done(data.rows)
    with timings.step("fit", "models") as done:
        models = fit_models(day, data)
        done(len(models))
    with timings.step("tune", "models") as done:
        models = tune_models(day, data, models)
        done(len(models))
    with timings.step("blend", "arms") as done:
        blends = fit_blends(day, data, models)
        done(len(blends))
    with timings.step("score", "users") as done:
        score(day, opened, data, models[-1], blends)
        done(data.users)
    require_sample_ratio(day, opened.record)
    _require_same_list(day)
    publication = opened.publish(provenance(day, data, models[-1], blends))
    return Night(day, publication, False, models[-1], data, timings)


def score(day: Day, run: Run, data: Ingested, models: Models, blends: dict[str, str]) -> None:
    """Commit every shard that has no receipt yet."""
    _keep_catalogue(day, run, data)
    _keep_unknown(day, run, data)
    receipts = run.receipts()
    scoring = Scoring(day, (models,), day.config.rerank.engine, run_id=run.record.run_id)
    committing = Committing(scoring, run, tuple(sorted(blends.items())), data.shards)
    to_do = [shard for shard in scoring.units if shard not in receipts]
    # A shard without histories has no block for Ray Data to carry; it is committed here.
    empty = [shard for shard in to_do if not data.shards[shard].histories]
    if empty:
        commit = Commit(committing)
        for shard in empty:
            commit.nobody(shard)
    with Progress("score", data.users) as progress:
        left = sum(data.shards[shard].users for shard in to_do if shard not in empty)
        progress.advance(data.users - left)
        units = [shard for shard in to_do if shard not in empty]
        if units:
            for counts in results(carry(reranked(scoring, units), Commit, committing)):
                progress.advance(counts["users"][0].as_py())


def provenance(day: Day, data: Ingested, models: Models, blends: dict[str, str]) -> Provenance:
    """What the manifest says of how the slates came about."""
    named = {item_model.KIND: models.item_model}
    for variant in day.arms.variants("rerank"):
        named[f"blend of {', '.join(day.arms.arms_of(variant))}"] = blends[variant.name]
    told: list[object] = [instruction(day), day.templates.digest]
    if models.llm is not None:
        card = artefact.read_card(day.storage, models.llm)
        named[LLM] = models.llm.rsplit("/", 1)[1]
        named["llm base"] = card.base
        told += [card.as_json()["vocabulary"], card.events]
    return Provenance(
        users_in=data.users,
        models=named,
        prompt_hash=digest(told) if any(asks_llm(variant) for variant in day.arms.variants("rerank")) else "",
        input_rows=data.input_rows,
        quarantined_rows=data.quarantined,
        versions=versions(),
    )


def _models_of(day: Day, manifest: Manifest) -> Models:
    """Those that `provenance` named."""
    llm = manifest.models.get(LLM)
    path = None if llm is None else f"{artefacts.FOLDER}/{LLM}/{llm}"
    return Models(day.cut, manifest.models[item_model.KIND], path)


def _require_same_list(day: Day) -> None:
    """Raises PublicationError where users were forgotten since the run began: it was made with them."""
    if forgotten.read(day.storage).digest != day.forgotten.digest:
        raise PublicationError(
            "users were forgotten while the job ran; nothing is published",
            where=day.storage.url(forgotten.FOLDER),
            do="run the job again: it starts anew without them",
        )


def _keep_catalogue(day: Day, run: Run, data: Ingested) -> None:
    """The run's item codes, beside its verdicts: what `jobs.show` and `jobs.evaluate` read titles from."""
    path = catalogue_path(day.date, run.record.run_id)
    if not day.storage.exists(path):
        with day.storage.writer(path) as file:
            pq.write_table(data.catalogue, file, compression="zstd")


def _keep_unknown(day: Day, run: Run, data: Ingested) -> None:
    """How many item ids of the arms' rules the catalogue does not have: no error, for a catalogue changes daily."""
    items = Items.of(data.catalogue)
    counts = {path.arm: unknown(path.at("slate").read(Slate).rules, items) for path in day.arms}
    if any(counts.values()):
        keep_summary(day, run.record.run_id, "catalogue", 0, counted("rule", counts))
