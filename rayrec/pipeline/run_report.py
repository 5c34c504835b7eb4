"""Collects a published run's report data from its run artifacts."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from rayrec.config import Denoise, Rerank, Retrieval, Slate
from rayrec.data.schemas import QUARANTINE
from rayrec.errors import DataError, MissingFileError
from rayrec.evaluation.comparison import COMPARISON
from rayrec.evaluation.published_run import PublishedRun
from rayrec.evaluation.slate_explanations import SlateExplainer
from rayrec.experiments.arm_plan import ArmPath
from rayrec.monitoring.drift import DRIFT
from rayrec.monitoring.feedback_learning import feedback_facts
from rayrec.monitoring.item_text_effects import ITEM_TEXT_EFFECTS, item_text_effects
from rayrec.monitoring.request_recognition import REQUEST_RECOGNITION, request_recognition
from rayrec.monitoring.run_guardrails import RunCounts, guardrail_findings
from rayrec.monitoring.run_statistics import ALL_ARMS, REPEATED, counts_by_arm
from rayrec.pipeline.daily_run import RunResult
from rayrec.pipeline.denoiser_choice import contest_table
from rayrec.pipeline.interaction_ingest import IngestResult
from rayrec.pipeline.publication_gate import previous_run
from rayrec.pipeline.run_artifacts import read_run_statistics, read_text_ablation
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.scoring_requests import has_requests
from rayrec.pipeline.understood_texts import understood_texts
from rayrec.pipeline.worker_cache import worker_cache
from rayrec.publishing.records import Manifest
from rayrec.publishing.slate_reader import read_catalogue, read_denoised, read_shard_slates
from rayrec.reporting.example_users import (
    before_after_rows,
    example_rows,
    explanation_rows,
    least_similar_users,
    removed_examples,
    users_with_removals,
)
from rayrec.reporting.report_data import LOSSES, TIMINGS, ReportData
from rayrec.reporting.user_views import UserView, read_users
from rayrec.reranking.item_token import tuned_checkpoint
from rayrec.reranking.item_token.tuned_checkpoint import ModelCard
from rayrec.retrieval import item_model_store

_RANKED = ("user_id", "rank", "item_id")
_QUARANTINE_EXAMPLES, _REMOVED_EXAMPLES, _HISTORIES = 20, 20, 10


def select_example_users(context: RunContext, manifest: Manifest, limit: int) -> list[UserView]:
    """Select up to `limit` example users.

    First come users with removed events. Up to half of the places go to users whose slates differ most between the
    first two arms (searched in the first shard) or, if no user is in both arms, to users of arms not shown otherwise.
    """
    lost = _users_with_removals(context, manifest, limit)
    differ: list[str] = []
    if len(manifest.arms) > 1:
        one, other = (read_shard_slates(context.storage, manifest, arm, 0, _RANKED) for arm in manifest.arms[:2])
        differ = [user for user in least_similar_users(one, other, limit) if user not in lost][: limit // 2]
    more = differ or _of_other_arms(context, manifest, lost)[: limit // 2]
    users = lost[: limit - len(more)] + more
    return read_users(context.config.output.root, context.date, users) if users else []


def _of_other_arms(context: RunContext, manifest: Manifest, users: list[str]) -> list[str]:
    """For each arm without one of `users`, its first user in the first shard."""
    members = context.arms.members(pa.array(users, pa.string()))
    unseen = [arm for arm in manifest.arms if not members[arm].any()]
    columns = [read_shard_slates(context.storage, manifest, arm, 0, ("user_id",))["user_id"] for arm in unseen]
    return [column[0].as_py() for column in columns if len(column)]


def _users_with_removals(context: RunContext, manifest: Manifest, limit: int) -> list[str]:
    """Up to `limit` users with removed events; reads as many shards as needed."""
    lost: list[str] = []
    for shard in range(manifest.shards):
        if len(lost) >= limit:
            break
        lost += users_with_removals(read_denoised(context.storage, manifest, shard), limit - len(lost))
    return lost


def report_data(result: RunResult, users: list[UserView], ground_truth: pa.Table | None = None) -> ReportData:
    """Collect all data of the report; `ground_truth`: COMPARISON against synthetic ground truth, if any."""
    context, manifest = result.context, result.manifest
    summary = read_run_statistics(context, manifest.run_id)
    previous = previous_run(context.storage, context.date, summary)
    rows_read = sum(file.rows or 0 for file in manifest.inputs)
    counts = RunCounts(manifest.users, rows_read, manifest.quarantined_rows, summary, previous)
    card = _card(result)
    return ReportData(
        name=context.config.name,
        date=context.date,
        run_id=manifest.run_id,
        published=True,
        publication_status=_publication_status(manifest),
        arms={path.arm: _arm_summary(path) for path in context.arms},
        facts=_facts(manifest)
        | _item_model(context, manifest)
        | _inputs(context, result.data)
        | _repeats(summary)
        | _learned_at(result)
        | feedback_facts(summary),
        users_in=manifest.users.users_in,
        users_published=manifest.users.published,
        users_quarantined=manifest.users.quarantined,
        users_ineligible=manifest.users.ineligible,
        rows_read=rows_read,
        rows_quarantined=manifest.quarantined_rows,
        statistics=summary,
        guardrails=guardrail_findings(context.config, counts),
        quarantine_examples=_quarantine_examples(context),
        removed_examples=_removed_examples(context, manifest),
        examples=example_rows(users),
        explanations=_explanations(context, manifest, users),
        before_after=_before_after(context, manifest),
        denoising_contest=contest_table(context),
        arms_by_variant={
            variant.name: ", ".join(context.arms.arms_of(variant)) for variant in context.arms.variants("denoise")
        },
        previous_date=None if previous is None else previous.date,
        drift=DRIFT.empty_table() if previous is None else previous.drift,
        drift_unavailable="" if previous is None else previous.drift_unavailable,
        timings=pa.Table.from_pylist(
            [dict(zip(TIMINGS.names, step, strict=True)) for step in result.timings.steps], TIMINGS
        ),
        losses=_losses(card),
        ground_truth=COMPARISON.empty_table() if ground_truth is None else ground_truth,
        text_ablation=_text_ablation(context, manifest),
        requests=_request_table(context, card),
    )


def _publication_status(manifest: Manifest) -> str:
    users = manifest.users
    left = users.users_in - users.published
    rest = f"; {left:,} of {users.users_in:,} users have none, for the reasons below" if left else ""
    return f"{users.published:,} users have slates for {manifest.dt}, in {len(manifest.arms)} arms{rest}."


def _arm_summary(path: ArmPath) -> str:
    denoise, retrieval = path.at("denoise").read(Denoise), path.at("retrieve").read(Retrieval)
    rerank, slate = path.at("rerank").read(Rerank), path.at("slate").read(Slate)
    llm = "no LLM" if rerank.method == "none" else f"LLM by {rerank.method}"
    parts = [f"denoising: {denoise.method}", f"{len(retrieval.sources)} sources", llm]
    if slate.diversity.method != "none":
        parts.append(f"diversified by {slate.diversity.method}")
    if slate.fallback is not None:
        parts.append(f"{slate.fallback.source} below {slate.fallback.below_events} events")
    return "; ".join([*parts, f"{slate.policy}, {slate.size} items"])


def _facts(manifest: Manifest) -> dict[str, str]:
    return {
        "engine": ", ".join(f"{name}: {count:,} prompts" for name, count in manifest.engine.items()) or "none",
        "fingerprint": manifest.fingerprint,
        "code": manifest.code_version,
        "prompt hash": manifest.prompt_hash or "none",
        **manifest.models,
        **manifest.versions,
        "published at": manifest.created_at,
    }


def _item_model(context: RunContext, manifest: Manifest) -> dict[str, str]:
    """What the fits chose by themselves, such as EASE its solver."""
    try:
        found = item_model_store.summaries(context.storage, manifest.models[item_model_store.KIND])
    except (DataError, MissingFileError):  # the models may be deleted
        return {}
    return {f"fit of {key.partition('-')[0]}": summary for key, summary in found.items()}


def _inputs(context: RunContext, data: IngestResult | None) -> dict[str, str]:
    skipped = context.window_files.skipped
    facts = {
        "input files": f"{len(context.files):,}; {skipped:,} more are of other days by their paths and were skipped"
    }
    if data is not None and data.missing_columns:
        counts = (f"{column} in {count:,}" for column, count in data.missing_columns.items())
        facts["missing columns"] = f"null in the interaction files that lack them: {', '.join(counts)}"
    return facts


def _repeats(summary: pa.Table) -> dict[str, str]:
    counts = counts_by_arm(summary, REPEATED).get(ALL_ARMS, {})
    said = ", ".join(f"{count:,.0f} {kind}" for kind, count in counts.items())
    return {"repeated after storage errors": said} if said else {}


def _learned_at(result: RunResult) -> dict[str, str]:
    return {"blend learned as of": result.learned_at} if result.learned_at else {}


def _quarantine_examples(context: RunContext) -> pa.Table:
    """A few rows per reason."""
    chosen: dict[str, list[dict[str, object]]] = {}
    for info in context.storage.list(context.quarantine):
        with context.storage.open(info.path) as file:
            for batch in pq.ParquetFile(file).iter_batches(4096):
                for row in _first_of_each(batch):
                    chosen.setdefault(str(row["reason"]), []).append(row)
                break
    per_reason = max(1, _QUARANTINE_EXAMPLES // max(1, len(chosen)))
    return pa.Table.from_pylist([row for rows in chosen.values() for row in rows[:per_reason]], QUARANTINE)


def _first_of_each(batch: pa.RecordBatch) -> Iterator[dict[str, object]]:
    table = pa.Table.from_batches([batch])
    for reason in table["reason"].unique().to_pylist():
        yield from table.filter(pa.compute.equal(table["reason"], reason)).slice(0, 3).to_pylist()


def _removed_examples(context: RunContext, manifest: Manifest) -> pa.Table:
    titles = read_catalogue(context.storage, manifest)["title"]
    first = read_denoised(context.storage, manifest, 0)
    return removed_examples(first, titles, _REMOVED_EXAMPLES)


def _before_after(context: RunContext, manifest: Manifest) -> pa.Table:
    users = _users_with_removals(context, manifest, _HISTORIES)
    return before_after_rows(read_users(context.config.output.root, context.date, users) if users else [])


def _explanations(context: RunContext, manifest: Manifest, users: list[UserView]) -> pa.Table:
    run = PublishedRun(context.storage, manifest, read_catalogue(context.storage, manifest))
    variants = {path.arm: path.at("denoise").name for path in context.arms}
    return explanation_rows(SlateExplainer(run, variants), [user.user_id for user in users])


def _text_ablation(context: RunContext, manifest: Manifest) -> pa.Table:
    titles = read_catalogue(context.storage, manifest)["title"]
    found = [
        item_text_effects(method, table, titles)
        for method, table in read_text_ablation(context, manifest.run_id).items()
    ]
    return pa.concat_tables([ITEM_TEXT_EFFECTS.empty_table(), *found])


def _card(result: RunResult) -> ModelCard | None:
    """The model card of the tuned LLM; None if no arm uses one or it has been deleted."""
    if result.models.llm is None:
        return None
    try:
        return tuned_checkpoint.read_model_card(result.context.storage, result.models.llm)
    except MissingFileError:
        return None


def _request_table(context: RunContext, card: ModelCard | None) -> pa.Table:
    if not has_requests(context):
        return REQUEST_RECOGNITION.empty_table()
    cache, known = worker_cache(context), understood_texts(context)
    words = None if card is None or card.facets is None else card.known_words
    return request_recognition(cache.instructions, words, cache.facets.scheme, known.__getitem__, known.is_understood)


def _losses(card: ModelCard | None) -> pa.Table:
    if card is None:
        return LOSSES.empty_table()
    return pa.table(
        {"step": [int(row["epoch"]) for row in card.curve], "loss": [float(row["loss"]) for row in card.curve]}, LOSSES
    )
