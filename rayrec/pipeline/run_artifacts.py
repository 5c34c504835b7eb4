"""What a run keeps beside its receipts: the verdict on every event, the counts that the report shows, and what arms
would have made of the slates of others."""

from __future__ import annotations

import pyarrow as pa

from rayrec.monitoring.run_statistics import RUN_STATISTICS, history_statistics, merge
from rayrec.pipeline.run_context import RunContext
from rayrec.storage import layout
from rayrec.storage.tables import read_parquet, write_arrow, write_parquet


def write_denoising_decisions(context: RunContext, run_id: str, shard: int, denoised: pa.Table) -> None:
    """DENOISED_HISTORY of one shard, for `jobs.show`, and its counts for the report."""
    write_arrow(context.storage, layout.denoising_decisions_path(context.date, run_id, shard), denoised)
    write_run_statistics(context, run_id, "histories", shard, history_statistics(denoised))


def write_counterfactual_propensities(context: RunContext, run_id: str, shard: int, targets: pa.Table) -> None:
    """COUNTERFACTUAL_PROPENSITY of one shard, for off-policy estimates. See rayrec.publishing.slate_reader."""
    write_arrow(context.storage, layout.counterfactual_propensities_path(context.date, run_id, shard), targets)


def write_run_statistics(context: RunContext, run_id: str, of: str, shard: int, summary: pa.Table) -> None:
    write_parquet(context.storage, layout.run_statistics_path(context.date, run_id, of, shard), summary)


def read_run_statistics(context: RunContext, run_id: str) -> pa.Table:
    """SUMMARY of the whole run."""
    files = context.storage.list(layout.run_statistics_folder(context.date, run_id))
    return merge([read_parquet(context.storage, info.path, RUN_STATISTICS) for info in files])
