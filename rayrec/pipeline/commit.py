"""The end of a shard: every arm's slates, put in order, written, and committed with a receipt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayrec.config import Slate
from rayrec.contracts.schemas import DENOISED, QUARANTINE, SLATE
from rayrec.evaluation.summary import summarise_slates
from rayrec.pipeline.day import Day
from rayrec.pipeline.ingest import ShardCounts
from rayrec.pipeline.kept import keep_summary, keep_verdicts
from rayrec.pipeline.models import Models, blend_of, catalogue_of, loaded, prior_of, sources_of
from rayrec.pipeline.score import Scoring
from rayrec.publishing.records import UserCounts, add_counts
from rayrec.publishing.run import Run
from rayrec.slates.arms import ArmPath
from rayrec.slates.assemble import AssembleStage
from rayrec.slates.policies import policy_kind


@dataclass(frozen=True)
class Committing:
    """What the commit stage is told: the scoring it ends, the blend of each rerank variant, the users of each shard."""

    scoring: Scoring
    run: Run
    blends: tuple[tuple[str, str], ...]  # rerank variant -> fingerprint
    shards: tuple[ShardCounts, ...]

    def __hash__(self) -> int:
        return hash((self.scoring, self.blends, self.run.record.run_id))


class Commit:
    """Stage: one shard's reranked table into slates, files and a receipt. Gives one row of counts."""

    def __init__(self, committing: Committing) -> None:
        self._what = committing
        self._day: Day = committing.scoring.day
        self._stages = {path.arm: self._assembler(path, committing.scoring.models[0]) for path in self._day.arms}

    def __call__(self, unit: int, table: pa.Table) -> pa.Table:
        counts = self._what.shards[unit]
        failed = failures(table)
        table = table.filter(pc.invert(pc.is_in(table["user_id"], failed["user_id"].combine_chunks())))
        slates = {path.arm: self._slates(path, table) for path in self._day.arms}
        _write_failures(self._day, self._what.run.record.run_id, unit, failed)
        self._write_summary(unit, slates)
        published = len(pc.unique(pa.chunked_array([s["user_id"].combine_chunks() for s in slates.values()])))
        users = users_of_shard(counts, published, failed.num_rows)
        receipt = self._what.run.commit(unit, slates, users, engine_counts(table, failed.num_rows))
        return pa.table({"users": [receipt.users.users_in], "published": [receipt.users.published]})

    def nobody(self, shard: int) -> None:
        """Commit a shard in which nobody is eligible."""
        denoised = DENOISED.empty_table()
        keep_verdicts(self._day, self._what.run.record.run_id, shard, denoised)
        slates = {arm: SLATE.empty_table() for arm in self._day.arms.names}
        self._what.run.commit(shard, slates, users_of_shard(self._what.shards[shard], 0, 0), {})

    def _assembler(self, path: ArmPath, models: Models) -> AssembleStage:
        day, slate = self._day, path.at("slate").read(Slate)
        blends = dict(self._what.blends)
        return AssembleStage(
            blend_of(day, blends[path.at("rerank").name]),
            prior_of(loaded(day, models.item_model)),
            policy_kind(slate.policy).read(slate.settings),
            slate.size,
            tuple(source.name for source in sources_of(path.at("retrieve"))),
            catalogue_of(day)["item_id"].combine_chunks(),
            day.date,
            self._what.run.record.identity,
        )

    def _slates(self, path: ArmPath, table: pa.Table) -> pa.Table:
        rows = table.filter(pc.equal(table["variant"], path.at("retrieve").name))
        own = self._day.arms.members(rows["user_id"])[path.arm]
        rows = rows.filter(pa.array(own)).combine_chunks()
        return self._stages[path.arm](rows, path.arm) if rows.num_rows else SLATE.empty_table()

    def _write_summary(self, shard: int, slates: dict[str, pa.Table]) -> None:
        catalogue = catalogue_of(self._day)
        together = pa.concat_tables(slates.values()).combine_chunks()
        item_id, category = catalogue["item_id"].combine_chunks(), catalogue["category"].combine_chunks()
        keep_summary(
            self._day, self._what.run.record.run_id, "slates", shard, summarise_slates(together, item_id, category)
        )


def failures(table: pa.Table) -> pa.Table:
    """The users whose prompt failed in any variant, once each: columns user_id, error. They get no slate in any arm, so
    that arms stay comparable."""
    if "error" not in table.column_names:
        return pa.table({"user_id": pa.array([], pa.string()), "error": pa.array([], pa.string())})
    rows = table.filter(pc.is_valid(table["error"])).select(["user_id", "error"])
    first = rows.group_by("user_id").aggregate([("error", "min")]).sort_by("user_id")
    return pa.table({"user_id": first["user_id"], "error": first["error_min"]})


def users_of_shard(counts: ShardCounts, published: int, failed: int) -> UserCounts:
    """users in = published + quarantined + ineligible, for one shard."""
    without = counts.histories - published - failed
    return UserCounts(
        counts.users,
        published,
        add_counts(counts.quarantined, {"prompt_failed": failed} if failed else {}),
        add_counts(counts.ineligible, {"no_candidates": without} if without else {}),
    )


def engine_counts(table: pa.Table, failed: int) -> dict[str, int]:
    """Prompts scored by engine, and those that failed."""
    if "engine" not in table.column_names:
        return {}
    scored = table["engine"].drop_null().value_counts().to_pylist()
    return {pair["values"]: pair["counts"] for pair in scored} | ({"failed": failed} if failed else {})


def _write_failures(day: Day, run_id: str, shard: int, failed: pa.Table) -> None:
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
    with day.storage.writer(f"{day.quarantine}/prompts-{run_id}-shard={shard:04d}.parquet") as file:
        pq.write_table(pa.table(columns, schema=QUARANTINE), file, compression="zstd")
