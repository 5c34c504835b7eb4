"""What a run would do, without doing it: `jobs.daily --dry-run`."""

from __future__ import annotations

from datetime import UTC, datetime

from rayrec.evaluation.report import has_report
from rayrec.pipeline.daily import check
from rayrec.pipeline.day import Day
from rayrec.pipeline.ingest import SplitPlan, ingested_already, shards_to_do
from rayrec.pipeline.models import cuts, tunes
from rayrec.publishing.manifest import find_manifest
from rayrec.publishing.run import Run


def describe(day: Day) -> str:
    """The plan as text: inputs, steps, what is done, what would run. Reads little but listings; writes nothing."""
    check(day)
    record = day.record
    manifest = find_manifest(day.storage, day.date)
    size = sum(file.size for file in day.files)
    lines = [
        f"{day.config.name}, {day.dt}: run {record.run_id}, config {record.fingerprint}, code {record.code_version}",
        f"inputs    {len(record.inputs):,} files, {size / 1e6:,.1f} MB under {day.config.data.root}; "
        f"{day.window_files.left_out:,} more have other days in their paths and are left out",
        f"output    {day.storage.root}",
    ]
    if manifest is not None:
        report = "" if has_report(day.storage, day.dt) else ", but its report would be written, which is missing"
        lines.append(
            f"published already by this very run: nothing would be done{report}"
            if manifest.identity == record.identity
            else "published already by another run: this one would be refused"
        )
        return "\n".join(lines)
    receipts = Run(day.storage, record).receipts()
    shards = day.config.data.shards
    models = ", ".join(datetime.fromtimestamp(cut / 1e6, UTC).date().isoformat() for cut in cuts(day))
    lines += [
        f"ingest    {_ingest(day)}",
        f"fit       item models as of {models}",
        f"tune      {'the LLM as of the same days' if tunes(day) else 'nothing: no arm asks a tuned LLM'}",
        f"blend     learned on the {day.config.blend.horizon_days:g} days after each but the last",
        day.arms.describe(),
        f"score     {len(receipts)} of {shards} shards have receipts, {shards - len(receipts)} would run",
        "publish   one manifest, by one conditional write",
    ]
    return "\n".join(lines)


def _ingest(day: Day) -> str:
    if ingested_already(day):
        return "done: histories are there"
    plan = SplitPlan.of(day)
    left, of = len(plan.to_do()), len(plan.splits)
    shards = len(shards_to_do(day))
    return f"{of - left} of {of} splits done; then histories, {shards} of {day.config.data.shards} shards to do"
