"""Describes what a run would do: `jobs.daily --dry-run`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from rayrec.blending.held_out_selection import MIN_USERS
from rayrec.config import Rerank
from rayrec.pipeline.arm_settings import needs_tuned_llm, retriever_specs, tuned_text_rerankers
from rayrec.pipeline.daily_run import check
from rayrec.pipeline.denoiser_choice import plan_lines
from rayrec.pipeline.interaction_ingest import SplitPlan, is_ingested, pending_shards
from rayrec.pipeline.item_model_fitting import as_day, configured_cutoffs, cutoffs, describe_cutoffs
from rayrec.pipeline.placement import dtype_notes, placement_notes, planned_capacity
from rayrec.pipeline.run_context import RunContext
from rayrec.publishing.manifest import find_manifest
from rayrec.publishing.publishing_run import PublishingRun
from rayrec.publishing.records import Receipt
from rayrec.ray_support.capacity import ClusterError
from rayrec.reporting.html_report import has_report
from rayrec.retrieval.ease import EaseSettings
from rayrec.retrieval.retriever import MAX_DENSE_ITEMS
from rayrec.storage.checkpoint_source import node_copy


def describe(context: RunContext) -> str:
    """The plan as text: inputs, finished stages and stages to run. Mostly lists files; writes and copies nothing: if a
    checkpoint is not on this node yet, what depends on its content is left open."""
    copies = tuple(_copies(context))
    check(context, checkpoints=not copies)
    record = None if copies else context.record
    manifest = find_manifest(context.storage, context.date)
    size = sum(file.size for file in context.files)
    named, inputs = ("its id depends on the checkpoints", context.inputs)
    if record is not None:
        named, inputs = record.run_id, record.inputs
    lines = [
        f"{context.config.name}, {context.dt}: run {named}, "
        f"config {context.config.fingerprint}, code {context.code_version}",
        f"inputs    {len(inputs):,} files, {size / 1e6:,.1f} MB under {context.config.data.root}; "
        f"{context.window_files.skipped:,} more are of other days by their paths and are skipped"
        + ("; paths have several days: see data.interactions.day_pattern" if context.window_files.several_days else ""),
        f"output    {context.storage.root}",
        *copies,
    ]
    if manifest is not None and record is None:
        return "\n".join([*lines, "already published, by this run or by another one"])
    if manifest is not None and record is not None:
        report = "" if has_report(context.storage, context.dt) else ", but its missing report would be written"
        lines.append(
            f"already published by this run: nothing would be done{report}"
            if manifest.identity == record.identity
            else "already published by another run: this one would be refused"
        )
        return "\n".join(lines)
    receipts = {} if record is None else PublishingRun(context.storage, record).receipts()
    shards = context.config.data.shard_count
    ingested = is_ingested(context)
    *earlier, _ = cutoffs(context) if ingested else configured_cutoffs(context)
    models = ", ".join([*map(as_day, earlier), context.dt])
    bounded = "" if ingested or not earlier else "; a date before the first positive event is left out"
    lines += [
        f"ingest    {_ingest(context)}",
        f"fit       item models as of {models}{bounded}{_solvers(context)}",
        *plan_lines(context, [as_day(cutoff) for cutoff in earlier]),
        f"tune      {_tuned(context)}",
        f"blend     fitted on the {context.config.blend.horizon_days:g} days after each earlier cutoff: "
        f"{describe_cutoffs(context, earlier, ingested=ingested)}; "
        f"content features: {', '.join(context.config.blend.content_features) or 'none'}; "
        f"they and an LLM enter if they help on at least {MIN_USERS} held-out users"
        + (f"; {context.feedback_inputs.describe()}" if context.config.blend.feedback is not None else ""),
        context.arms.describe(),
        f"score     {len(receipts)} of {shards} shards have receipts, {shards - len(receipts)} would run"
        f"{_minutes_per_shard(receipts.values())}"
        if record is not None
        else f"score     those of {shards} shards that have no receipt of this run",
        *_resources(context),
        "publish   one manifest, by one conditional write",
    ]
    return "\n".join(lines)


def _copies(context: RunContext) -> Iterator[str]:
    """The checkpoints that a run would copy to this node first."""
    for source, where in context.checkpoint_sources.items():
        copy = node_copy(source, where)
        if copy is not None and not copy.is_here():
            size = "of a size that only the hub knows" if copy.size is None else f"of {copy.size / 1e6:,.1f} MB"
            yield f"copy      {source} ({where}), {size}, to this node and to every node that uses it; checked then"


def _tuned(context: RunContext) -> str:
    found = [f"the LLM as of these dates; {_item_vectors(context)}"] if needs_tuned_llm(context) else []
    if context.ancestors:
        found[0] += f"; {len(context.ancestors)} may start from the model of an earlier run"
    found += [f"an adapter for {variant.read(Rerank).method}" for variant in tuned_text_rerankers(context)]
    return " and ".join(found) or "nothing: no arm uses a tuned LLM"


def _item_vectors(context: RunContext) -> str:
    """How many items have a vector, and their memory: weights, gradients, two moments, and those of the best epoch."""
    tuning = context.config.tuning
    scratch = tuning.base == "scratch"
    megabytes = 5 * 4 * tuning.max_items * (tuning.width if scratch else 1000) / 1e6
    return (
        f"at most {tuning.max_items:,} items (tuning.max_items) have a vector, {megabytes:,.0f} MB while tuning"
        f"{'' if scratch else ' for each 1,000 numbers of width'}"
    )


def _solvers(context: RunContext) -> str:
    """What EASE's `auto` takes."""
    specs = [spec for variant in context.arms.variants("retrieve") for spec in retriever_specs(variant)]
    if not any(isinstance(spec.settings, EaseSettings) and spec.settings.solver == "auto" for spec in specs):
        return ""
    return f"; ease is solved densely for up to {MAX_DENSE_ITEMS:,} items with enough events, sparsely beyond"


def _minutes_per_shard(receipts: Iterable[Receipt]) -> str:
    """The minutes between two receipts of this run so far, as text; "" with fewer than two."""
    times = sorted(datetime.fromisoformat(receipt.created_at) for receipt in receipts)
    if len(times) < 2:
        return ""
    each = (times[-1] - times[0]) / (len(times) - 1)
    return f"; so far {each.total_seconds() / 60:.1f} minutes from one to the next"


def _resources(context: RunContext) -> Iterator[str]:
    """How a run on this machine would differ from `resources`, or why it cannot start; nothing for a cluster."""
    has = planned_capacity(context.config.resources)
    try:
        notes = () if has is None else placement_notes(context, has)
    except ClusterError as error:
        notes = (f"this machine cannot run it: {error.what} ({error.where})",)
    for note in (*notes, *(() if has is None else dtype_notes(context))):
        yield f"resources {note}"


def _ingest(context: RunContext) -> str:
    if is_ingested(context):
        return "done: the histories exist"
    plan = SplitPlan.of(context)
    left, of = len(plan.pending()), len(plan.splits)
    shards = len(pending_shards(context))
    return (
        f"{of - left} of {of} splits done; then histories, {shards} of {context.config.data.shard_count} shards pending"
    )
