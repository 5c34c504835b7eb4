"""Artifacts of a run besides slates: denoising decisions, statistics, text ablation, counterfactual propensities."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rayrec.data.schemas import QUARANTINE
from rayrec.monitoring.run_statistics import RUN_STATISTICS, history_statistics, merge
from rayrec.numerics.hashing import derive_seed
from rayrec.pipeline.run_context import RunContext
from rayrec.reranking.text.text_ablation import TEXT_ABLATION, ablate_texts
from rayrec.reranking.text.text_reranker import TextReranker
from rayrec.storage import layout
from rayrec.storage.concurrent_reads import read_all
from rayrec.storage.tables import read_arrow, read_parquet, write_arrow, write_parquet

_ABLATION_USERS = 100  # users per run and text scorer, two items each


def write_denoising_decisions(context: RunContext, run_id: str, shard: int, denoised: pa.Table) -> None:
    """Write DENOISED_HISTORY of one shard, for `jobs.show`, and its counts for the report."""
    write_arrow(context.storage, layout.denoising_decisions_path(context.date, run_id, shard), denoised)
    write_run_statistics(context, run_id, "histories", shard, history_statistics(denoised))


def write_counterfactual_propensities(context: RunContext, run_id: str, shard: int, propensities: pa.Table) -> None:
    """Write COUNTERFACTUAL_PROPENSITY of one shard, for off-policy estimates. See rayrec.publishing.slate_reader."""
    write_arrow(context.storage, layout.counterfactual_propensities_path(context.date, run_id, shard), propensities)


def write_failed_prompts(context: RunContext, run_id: str, shard: int, failed: pa.Table) -> None:
    """Write QUARANTINE of users (columns user_id, error) whose prompt failed; no file if there are none."""
    if not failed.num_rows:
        return
    rows = failed.num_rows
    columns = [
        pa.array([f"histories, shard {shard}"] * rows),
        pa.array(np.zeros(rows, np.int64)),
        failed["user_id"],
        pa.array(["prompt_failed"] * rows),
        failed["error"],
        pa.nulls(rows, pa.string()),
    ]
    path = layout.quarantined_prompts_path(context.quarantine, run_id, shard)
    write_parquet(context.storage, path, pa.table(columns, schema=QUARANTINE))


def write_run_statistics(context: RunContext, run_id: str, stage: str, shard: int, statistics: pa.Table) -> None:
    write_parquet(context.storage, layout.run_statistics_path(context.date, run_id, stage, shard), statistics)


def read_run_statistics(context: RunContext, run_id: str) -> pa.Table:
    """RUN_STATISTICS of the whole run."""
    files = context.storage.list(layout.run_statistics_folder(context.date, run_id))
    return merge(read_all(lambda info: read_parquet(context.storage, info.path, RUN_STATISTICS), files))


def write_text_ablation(
    context: RunContext, run_id: str, shard: int, method: str, scorer: TextReranker, scored: pa.Table
) -> None:
    """Write TEXT_ABLATION of a sample of one shard's users; `scored`: what `scorer` returned."""
    shards = context.config.data.shard_count
    users = _ABLATION_USERS // shards + (shard < _ABLATION_USERS % shards)
    found = TEXT_ABLATION.empty_table()
    if users:
        found = ablate_texts(scorer, scored, users, derive_seed("read again", context.dt))
    write_arrow(context.storage, layout.text_ablation_path(context.date, run_id, method, shard), found)


def read_text_ablation(context: RunContext, run_id: str) -> dict[str, pa.Table]:
    """TEXT_ABLATION of the whole run, by method."""
    found: dict[str, list[pa.Table]] = {}
    files = context.storage.list(layout.text_ablation_folder(context.date, run_id))
    for info, table in zip(files, read_all(lambda info: read_arrow(context.storage, info.path), files), strict=True):
        found.setdefault(layout.text_ablation_method(info.path), []).append(table)
    return {method: pa.concat_tables(tables) for method, tables in sorted(found.items())}
