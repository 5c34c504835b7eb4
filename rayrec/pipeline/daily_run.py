"""The daily run, from events to publication. `run` calls the stages in order.

    ingest   events -> contract -> histories by shard
    understand  requests and user profile texts -> weights of facets
    fit      item models, as of the date and of a few earlier cutoffs
    tune     the LLM, as of the same cutoffs, and adapters of text rerankers
    blend    blender weights, fitted at the earlier cutoffs
    score    shard by shard: denoise -> retrieve -> rerank -> blend -> slates
    publish  one conditional write; then the date is registered in the tables of `output.tables`

Every step reuses what an earlier attempt finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from rayrec.blending import BLENDING_METHODS
from rayrec.config import Rerank, Slate
from rayrec.experiments.sample_ratio import require_sample_ratio
from rayrec.monitoring.feedback_learning import FEEDBACK
from rayrec.monitoring.progress import Progress
from rayrec.monitoring.run_guardrails import outside
from rayrec.monitoring.run_statistics import ALL_ARMS, REPEATED, count_statistics, merge, participants_by_arm
from rayrec.monitoring.run_status import RunStatus
from rayrec.monitoring.scorer_gains import gain_statistics
from rayrec.numerics.hashing import digest
from rayrec.pipeline import run_metrics
from rayrec.pipeline.arm_settings import default_instruction, retriever_specs, uses_llm
from rayrec.pipeline.blender_fitting import fit_blenders, load_blender
from rayrec.pipeline.denoiser_choice import contests_of
from rayrec.pipeline.erasure_check import publish_unless_erased
from rayrec.pipeline.gpu_shares import check_gpu_shares
from rayrec.pipeline.ingest_checks import check_ingested
from rayrec.pipeline.interaction_ingest import IngestResult, ingest
from rayrec.pipeline.item_model_fitting import ModelSet, describe_cutoffs, fit_item_models
from rayrec.pipeline.llm_tuning import tune_llms
from rayrec.pipeline.placement import check_placement
from rayrec.pipeline.publication_gate import in_words, require_guardrails
from rayrec.pipeline.run_artifacts import read_run_statistics, write_run_statistics
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.scoring import ScoringSpec, score_shards
from rayrec.pipeline.slate_commit import CommitShard, CommitSpec
from rayrec.pipeline.text_adapter_tuning import tune_text_adapters
from rayrec.pipeline.understood_texts import understand_texts
from rayrec.publishing.code_version import package_versions
from rayrec.publishing.publishing_run import PublishingRun, PublishResult
from rayrec.publishing.records import Manifest, Provenance
from rayrec.publishing.tables.table_registration import TableVersion, open_tables, register_date
from rayrec.ray_support.shard_progress import heard
from rayrec.ray_support.stage_runner import append_stage, run_pending
from rayrec.reranking.item_token import tuned_checkpoint
from rayrec.reranking.text.text_prompt import template_by_cell
from rayrec.reranking.text.text_scorer import TEXT_SCORERS, TextScorerSettings
from rayrec.retrieval import item_model_store
from rayrec.slates.assembly import check_slate
from rayrec.slates.scored_candidates import CatalogueItems
from rayrec.slates.slate_rules import unresolved_ids
from rayrec.storage import layout, retries
from rayrec.storage.tables import write_parquet


@dataclass
class StageTimings:
    """Duration of each step, in order of execution."""

    steps: list[tuple[str, float, int, str]] = field(default_factory=list)  # (stage, seconds, units of work, unit)
    entered: Callable[[str], None] = lambda name: None  # called with the name of each step as it begins

    @contextmanager
    def step(self, name: str, unit: str) -> Iterator[Callable[[int], None]]:
        self.entered(name)
        started, done = time.monotonic(), [0]
        yield lambda n: done.__setitem__(0, n)
        self.steps.append((name, time.monotonic() - started, done[0], unit))


@dataclass(frozen=True)
class RunResult:
    """How a run ended, for the report and the terminal."""

    context: RunContext  # with the code version that published
    publication: PublishResult
    already_published: bool  # published before this run started: nothing was done
    models: ModelSet  # as of the date
    data: IngestResult | None = None
    repeats: dict[str, int] = field(default_factory=dict)  # what a failing store made the run do again, by kind
    timings: StageTimings = field(default_factory=StageTimings)
    learned_at: str = ""  # the cutoffs that the blender learned from, as text; "": not known any more
    table_versions: tuple[TableVersion, ...] = ()  # that this run made

    @property
    def manifest(self) -> Manifest:
        return self.publication.manifest


def check(context: RunContext, *, checkpoints: bool = True) -> None:
    """Check settings of all stages before any work starts, and `checkpoints`, which are copied to this node if they
    are remote. Raises ConfigError."""
    for path in context.arms:
        sources = tuple(source.name for source in retriever_specs(path.at("retrieve")))
        check_slate(path.at("slate").read(Slate), sources, tuple(context.config.data.items.attributes))
    for variant in context.arms.variants("rerank"):
        if (rerank := variant.read(Rerank)).is_text_scorer:
            scorer = TEXT_SCORERS.lookup(rerank.method)
            if isinstance(rerank.settings, TextScorerSettings) and rerank.settings.uses_templates:
                template_by_cell(context.templates, scorer.task_form)
    if (blending := context.config.blend.method) not in BLENDING_METHODS.built_in:
        BLENDING_METHODS.lookup(blending).require()
    check_gpu_shares(context)
    open_tables(context.storage, context.config.output.tables)
    default_instruction(context)
    _ = context.templates, context.facet_sentences_digest
    if checkpoints:
        _ = context.checkpoints, context.base, context.encoder


def run(context: RunContext, status: RunStatus | None = None) -> RunResult:
    """Run all stages for one date on the connected Ray cluster. On any RayrecError nothing is published.

    `status`: kept up to date, and written; None: there is none.
    """
    check(context)
    opened = PublishingRun.open(context.storage, context.record)
    if opened.published is not None:
        left = replace(context, code_version=opened.published.code_version)
        return RunResult(
            left,
            PublishResult("published", opened.published),
            True,
            _models_of(left, opened.published),
            table_versions=register_date(context.storage, context.config.output.tables, context.date),
        )
    if status is not None:
        status.begin(opened.record.run_id, opened.record.shards)
    status = status or RunStatus(context.storage, context.date)
    retries.take()  # of the process's earlier runs
    check_placement(context)
    timings = StageTimings(entered=status.enter)
    with timings.step("ingest", "rows") as done:
        data = ingest(context)
        done(data.rows)
    run_metrics.input_read(sum(data.input_rows.values()), sum(data.quarantined.values()))
    check_ingested(context, data)
    with timings.step("understand", "texts") as done:
        done(understand_texts(context))
    with timings.step("fit", "models") as done:
        models = fit_item_models(context, data)
        done(len(models))
    with timings.step("tune", "models") as done:
        models = tune_text_adapters(context, data, tune_llms(context, data, models))
        done(len(models))
    with timings.step("blend", "arms") as done:
        blenders = fit_blenders(context, data, models)
        _write_blend_statistics(context, opened.record.run_id, blenders)
        done(len(blenders))
    with timings.step("score", "users") as done:
        score(context, opened, data, models[-1], blenders, status)
        done(data.users)
    counted = read_run_statistics(context, opened.record.run_id)
    require_sample_ratio(context.arms, participants_by_arm(counted), context.config.arms.sample_ratio_min_p)
    rows_read = sum(data.input_rows.values())
    findings = require_guardrails(context.config, opened, rows_read, data.quarantined, counted)
    status.warn([in_words(row) for row in outside(findings)])
    status.enter("publish")
    repeats = retries.take()
    if repeats:
        counts = count_statistics(REPEATED, {ALL_ARMS: repeats})
        write_run_statistics(context, opened.record.run_id, "storage", 0, counts)
    publication = publish_unless_erased(context, opened, provenance(context, data, models[-1], blenders))
    versions = register_date(context.storage, context.config.output.tables, context.date)
    learned_at = describe_cutoffs(context, [one.cutoff for one in models[:-1]], ingested=True)
    return RunResult(context, publication, False, models[-1], data, repeats, timings, learned_at, versions)


def score(
    context: RunContext,
    run: PublishingRun,
    data: IngestResult,
    models: ModelSet,
    blenders: dict[str, str],
    status: RunStatus,
) -> None:
    """Commit every shard that has no receipt yet."""
    _write_catalogue(context, run, data)
    _write_unknown_rule_items(context, run, data)
    receipts = run.receipts()
    scoring = ScoringSpec(context, (models,), context.config.rerank.engine, run_id=run.record.run_id)
    committing = CommitSpec(scoring, run, tuple(sorted(blenders.items())), data.shards)
    pending = [item for item in scoring.work_items if item.shard not in receipts]
    # Ray Data skips stages for empty tables, so shards without histories are committed here.
    empty = [item.shard for item in pending if not data.shards[item.shard].histories]
    if empty:
        commit = CommitShard(committing)
        for shard in empty:
            commit.commit_empty(shard)
    pending = [item for item in pending if item.shard not in empty]
    done = data.users - sum(data.shards[item.shard].users for item in pending)
    status.score(data.users, done, run.record.shards - len(pending))
    run_metrics.shards_pending(len(pending))
    left = list(pending)

    def reached(users: int) -> None:
        status.reached(users)
        progress.reached(done + users)

    with Progress("score", data.users) as progress, heard(scoring.progress_name, reached):
        progress.advance(done)

        def advance(users: int) -> None:
            progress.advance(users)
            status.shard_done(users)
            left.pop()
            run_metrics.shard_done(users, len(left))

        run_pending(
            pending,
            lambda dataset: append_stage(
                score_shards(dataset, scoring), CommitShard, committing, memory=scoring.task_memory
            ),
            advance,
            lambda counts: int(counts["users"][0].as_py()),
            "score",
        )


def provenance(context: RunContext, data: IngestResult, models: ModelSet, blenders: dict[str, str]) -> Provenance:
    """The models, inputs and versions that the manifest names."""
    named = {item_model_store.KIND: models.item_model}
    for variant in context.arms.variants("rerank"):
        arms = ", ".join(context.arms.arms_of(variant))
        named[f"blend of {arms}"] = blenders[variant.name]
        if (adapter := dict(models.text_adapters).get(variant.read(Rerank).scorer_key)) is not None:
            named[f"adapter of {arms}"] = adapter.rsplit("/", 1)[1]
    for arms, _, contest in contests_of(context):
        if contest is not None:
            named[f"auto denoising of {arms}"] = str(contest.table["method"][contest.choice + 1])
    prompt_parts: list[object] = [default_instruction(context), context.templates.digest]
    if models.llm is not None:
        card = tuned_checkpoint.read_model_card(context.storage, models.llm)
        named[layout.LLM_KIND] = models.llm.rsplit("/", 1)[1]
        named["llm base"] = card.base
        if card.ancestors:
            named["llm ancestors"] = ", ".join(card.ancestors)
        prompt_parts += [card.as_json()["vocabulary"], card.events]
    return Provenance(
        users_in=data.users,
        models=named,
        prompt_hash=digest(prompt_parts)
        if any(uses_llm(variant) for variant in context.arms.variants("rerank"))
        else "",
        input_rows=data.input_rows,
        quarantined_rows=data.quarantined,
        versions=package_versions(),
    )


def _models_of(context: RunContext, manifest: Manifest) -> ModelSet:
    """The models that `provenance` recorded in the manifest."""
    llm = manifest.models.get(layout.LLM_KIND)
    path = None if llm is None else layout.model_folder(layout.LLM_KIND, llm)
    return ModelSet(context.cutoff, manifest.models[item_model_store.KIND], path)


def _write_blend_statistics(context: RunContext, run_id: str, blenders: dict[str, str]) -> None:
    arms = {variant.name: ", ".join(context.arms.arms_of(variant)) for variant in context.arms.variants("rerank")}
    loaded = {arms[name]: load_blender(context, key) for name, key in blenders.items()}
    counts = [gain_statistics(own, blender.gains) for own, blender in loaded.items()]
    learned = count_statistics(FEEDBACK, {own: blender.feedback for own, blender in loaded.items()})
    write_run_statistics(context, run_id, "blend", 0, merge([*counts, learned]))


def _write_catalogue(context: RunContext, run: PublishingRun, data: IngestResult) -> None:
    """Write the run's catalogue (item codes), from which `jobs.show` and `jobs.evaluate` read titles."""
    path = layout.run_catalogue_path(context.date, run.record.run_id)
    if not context.storage.exists(path):
        write_parquet(context.storage, path, data.catalogue)


def _write_unknown_rule_items(context: RunContext, run: PublishingRun, data: IngestResult) -> None:
    """Count item ids in the arms' rules that the catalogue lacks: no error, because the catalogue changes daily."""
    items = CatalogueItems.of(data.catalogue)
    counts = {path.arm: unresolved_ids(path.at("slate").read(Slate).rules, items) for path in context.arms}
    if any(counts.values()):
        write_run_statistics(context, run.record.run_id, "catalogue", 0, count_statistics("rule", counts))
