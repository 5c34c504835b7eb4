"""What a run keeps beside its receipts: the verdict on every event, the counts that the report shows, and what arms
would have made of the slates of others."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from rayrec.monitoring.run_statistics import RUN_STATISTICS, history_statistics, merge
from rayrec.pipeline.run_context import RunContext
from rayrec.reporting.user_examples import denoised_path
from rayrec.storage import layout


def write_denoising_decisions(context: RunContext, run_id: str, shard: int, denoised: pa.Table) -> None:
    """DENOISED_HISTORY of one shard, for `jobs.show`, and its counts for the report."""
    with (
        context.storage.writer(denoised_path(context.date, run_id, shard)) as file,
        pa.ipc.new_file(file, denoised.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer,
    ):
        writer.write_table(denoised)
    write_run_statistics(context, run_id, "histories", shard, history_statistics(denoised))


def write_counterfactual_propensities(context: RunContext, run_id: str, shard: int, targets: pa.Table) -> None:
    """COUNTERFACTUAL_PROPENSITY of one shard, for off-policy estimates. See rayrec.publishing.propensity_reader."""
    with (
        context.storage.writer(layout.counterfactual_propensities_path(context.date, run_id, shard)) as file,
        pa.ipc.new_file(file, targets.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer,
    ):
        writer.write_table(targets)


def count_statistics(quantity: str, counts: Mapping[str, Mapping[str, int]]) -> pa.Table:
    """SUMMARY rows of counts by arm and key."""
    rows = [
        {"quantity": quantity, "arm": arm, "key": key, "count": float(count)}
        for arm, found in counts.items()
        for key, count in found.items()
    ]
    return pa.Table.from_pylist(rows, RUN_STATISTICS)


def write_run_statistics(context: RunContext, run_id: str, of: str, shard: int, summary: pa.Table) -> None:
    with context.storage.writer(f"{_folder(context, run_id)}/{of}-shard={shard:04d}.parquet") as file:
        pq.write_table(summary, file)


def read_run_statistics(context: RunContext, run_id: str) -> pa.Table:
    """SUMMARY of the whole run."""
    tables = []
    for info in context.storage.list(_folder(context, run_id)):
        with context.storage.open(info.path) as file:
            tables.append(pq.read_table(file, schema=RUN_STATISTICS))
    return merge(tables)


def _folder(context: RunContext, run_id: str) -> str:
    return f"{layout.run_folder(context.date, run_id)}/summary"
