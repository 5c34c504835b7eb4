"""What a run keeps beside its receipts: the verdict on every event, the counts that the report shows, and what arms
would have made of the slates of others."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from rayrec.evaluation.people import denoised_path
from rayrec.evaluation.summary import SUMMARY, merge, summarise_histories
from rayrec.pipeline.day import Day
from rayrec.publishing import layout


def keep_verdicts(day: Day, run_id: str, shard: int, denoised: pa.Table) -> None:
    """DENOISED of one shard, for `jobs.show`, and its counts for the report."""
    with (
        day.storage.writer(denoised_path(day.date, run_id, shard)) as file,
        pa.ipc.new_file(file, denoised.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer,
    ):
        writer.write_table(denoised)
    keep_summary(day, run_id, "histories", shard, summarise_histories(denoised))


def keep_targets(day: Day, run_id: str, shard: int, targets: pa.Table) -> None:
    """TARGET of one shard, for off-policy estimates. See rayrec.publishing.targets."""
    with (
        day.storage.writer(layout.targets_path(day.date, run_id, shard)) as file,
        pa.ipc.new_file(file, targets.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer,
    ):
        writer.write_table(targets)


def counted(quantity: str, counts: Mapping[str, Mapping[str, int]]) -> pa.Table:
    """SUMMARY rows of counts by arm and key."""
    rows = [
        {"quantity": quantity, "arm": arm, "key": key, "count": float(count)}
        for arm, found in counts.items()
        for key, count in found.items()
    ]
    return pa.Table.from_pylist(rows, SUMMARY)


def keep_summary(day: Day, run_id: str, of: str, shard: int, summary: pa.Table) -> None:
    with day.storage.writer(f"{_folder(day, run_id)}/{of}-shard={shard:04d}.parquet") as file:
        pq.write_table(summary, file)


def read_summaries(day: Day, run_id: str) -> pa.Table:
    """SUMMARY of the whole run."""
    tables = []
    for info in day.storage.list(_folder(day, run_id)):
        with day.storage.open(info.path) as file:
            tables.append(pq.read_table(file, schema=SUMMARY))
    return merge(tables)


def _folder(day: Day, run_id: str) -> str:
    return f"{layout.run_folder(day.date, run_id)}/summary"
