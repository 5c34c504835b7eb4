"""The end of a shard: every arm's slates, put in order, written, and committed with a receipt.

Where an arm leaves something to chance, what every other arm would have made of its slates is kept beside them
(COUNTERFACTUAL_PROPENSITY). With `assignment: split` a user has one arm; another arm's candidates are there only if both share their
denoising, and then its LLM has read them, too (readings.py). Where they are not, or its LLM could not read the user,
nothing is kept for the pair: an estimate for the other arm has no users there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import Rerank, Slate
from rayrec.data.schemas import DENOISED_HISTORY, QUARANTINE, SLATE
from rayrec.experiments.arm_plan import ArmPath
from rayrec.monitoring.run_statistics import PARTICIPANTS, SPLIT, count_statistics, merge, slate_statistics
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline.interaction_ingest import ShardCounts
from rayrec.pipeline.models import (
    explores,
    item_prior,
    items_of,
    load_blender,
    load_catalogue,
    load_item_model_parts,
    retriever_specs,
)
from rayrec.pipeline.run_artifacts import (
    write_counterfactual_propensities,
    write_denoising_decisions,
    write_run_statistics,
)
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.scoring import ScoringSpec
from rayrec.pipeline.scoring_requests import SCORER, scoring_request_of, users_to_score, with_scores_of
from rayrec.publishing.publishing_run import PublishingRun
from rayrec.publishing.records import UserCounts, add_counts
from rayrec.retrieval.item_model import FACTORS, ItemModel
from rayrec.slates.assembly import CandidatePool, SlateAssembler
from rayrec.slates.counterfactual_propensities import counterfactual_rows
from rayrec.slates.rule_counts import rule_effects
from rayrec.slates.scored_candidates import Bools
from rayrec.storage import layout
from rayrec.storage.tables import write_parquet


@dataclass(frozen=True)
class CommitSpec:
    """What the commit stage is told: the scoring it ends, the blend of each rerank variant, the users of each shard."""

    scoring: ScoringSpec
    run: PublishingRun
    blenders: tuple[tuple[str, str], ...]  # rerank variant -> fingerprint
    shards: tuple[ShardCounts, ...]

    def __hash__(self) -> int:
        return hash((self.scoring, self.blenders, self.run.record.run_id))


@dataclass(frozen=True)
class ArmSlates:
    """One arm's part of a shard."""

    pool: CandidatePool  # arranged, of all users whom the arm is looked at for
    members: Bools  # [users of the pool] who get a slate
    codes: Ragged  # int64 item codes of the slates, one row a member
    slates: pa.Table  # SLATE
    rules: dict[str, int]  # how often each rule binds


class CommitShard:
    """Stage: one shard's reranked table into slates, files and a receipt. Gives one row of counts."""

    def __init__(self, committing: CommitSpec) -> None:
        self._what = committing
        self._day: RunContext = committing.scoring.context
        model = load_item_model_parts(self._day, committing.scoring.models[0].item_model, FACTORS.kind)
        self._stages = {path.arm: self._assembler(path, model) for path in self._day.arms}

    def __call__(self, unit: int, table: pa.Table) -> pa.Table:
        counts = self._what.shards[unit]
        failed = failures(table)
        table = table.filter(pc.invert(pc.is_in(table["user_id"], failed["user_id"].combine_chunks())))
        made = {path.arm: self._made(path, table) for path in self._day.arms}
        slates = {arm: part.slates for arm, part in made.items()}
        run_id = self._what.run.record.run_id
        _write_failures(self._day, run_id, unit, failed)
        self._write_summary(unit, made)
        if targets := self._targets(made):
            write_counterfactual_propensities(self._day, run_id, unit, pa.concat_tables(targets).combine_chunks())
        published = len(pc.unique(pa.chunked_array([s["user_id"].combine_chunks() for s in slates.values()])))
        users = user_counts(counts, published, failed.num_rows)
        receipt = self._what.run.commit(unit, slates, users, engine_counts(table, failed.num_rows))
        return pa.table({"users": [receipt.users.users_in], "published": [receipt.users.published]})

    def commit_empty(self, shard: int) -> None:
        """Commit a shard in which nobody is eligible."""
        denoised = DENOISED_HISTORY.empty_table()
        write_denoising_decisions(self._day, self._what.run.record.run_id, shard, denoised)
        slates = {arm: SLATE.empty_table() for arm in self._day.arms.names}
        self._what.run.commit(shard, slates, user_counts(self._what.shards[shard], 0, 0), {})

    def _assembler(self, path: ArmPath, model: ItemModel) -> SlateAssembler:
        context, blends = self._day, dict(self._what.blenders)
        return SlateAssembler.of(
            path.at("slate").read(Slate),
            load_blender(context, blends[path.at("rerank").name]),
            item_prior(model),
            tuple(source.name for source in retriever_specs(path.at("retrieve"))),
            items_of(context, path, model),
            load_catalogue(context)["attributes"],
            context.date,
            self._what.run.record.identity,
            path.at("rerank").read(Rerank).promotion_cap,
        )

    def _made(self, path: ArmPath, table: pa.Table) -> ArmSlates:
        stage = self._stages[path.arm]
        rows = with_scores_of(table, scoring_request_of(self._day, path))
        rows = rows.filter(pc.equal(rows["variant"], path.at("retrieve").name))
        rows = rows.filter(pa.array(users_to_score(self._day, (path.arm,), rows["user_id"])))
        if "llm_score" in rows.column_names:
            rows = rows.filter(pc.is_valid(rows["llm_score"]))  # the arm's own users without a score have failed
        rows = rows.combine_chunks()
        found = stage.found(rows)
        members = self._day.arms.members(found.scored.user_ids)[path.arm]
        pool = stage.apply_rules(found)
        own = pool.of(members)
        chosen = stage.chosen(own, path.arm)
        slates = stage.rows(own, chosen, path.arm)
        return ArmSlates(pool, members, chosen.code, slates, rule_effects(stage, found.of(members), own))

    def _targets(self, made: dict[str, ArmSlates]) -> list[pa.Table]:
        """COUNTERFACTUAL_PROPENSITY of every arm that explores, under every other one; empty where none does."""
        return [
            self._under(path.arm, made[path.arm], target, made[target])
            for path in self._day.arms
            if explores(path)
            for target in made
            if target != path.arm
        ]

    def _under(self, logged: str, own: ArmSlates, target: str, other: ArmSlates) -> pa.Table:
        users = own.pool.of(own.members).scored.user_ids
        row = pc.index_in(other.pool.scored.user_ids, value_set=users)
        both = row.is_valid().to_numpy(zero_copy_only=False)
        slates = own.codes.take(row.drop_null().to_numpy().astype(np.int64))
        pool = other.pool.of(both)
        names, run = self._day.arms.names, self._what.run.record.identity
        return counterfactual_rows(logged, target, names, run, pool, slates, self._stages[target])

    def _taking_part(self, slates: pa.Table) -> int:
        """Users with one of these slates who take part in the experiment."""
        return int(self._day.arms.participants(pc.unique(slates["user_id"])).sum())

    def _write_summary(self, shard: int, made: dict[str, ArmSlates]) -> None:
        catalogue = load_catalogue(self._day)
        together = pa.concat_tables([part.slates for part in made.values()]).combine_chunks()
        item_id, category = catalogue["item_id"].combine_chunks(), catalogue["category"].combine_chunks()
        rules = count_statistics("rule", {arm: part.rules for arm, part in made.items()})
        served = count_statistics(
            SPLIT, {arm: {PARTICIPANTS: self._taking_part(part.slates)} for arm, part in made.items()}
        )
        summary = merge([slate_statistics(together, item_id, category), rules, served])
        write_run_statistics(self._day, self._what.run.record.run_id, "slates", shard, summary)


def failures(table: pa.Table) -> pa.Table:
    """The users whose prompt failed in any of their arms, once each: columns user_id, error. They get no slate in any
    arm, so that arms stay comparable."""
    if "error" not in table.column_names:
        return pa.table({"user_id": pa.array([], pa.string()), "error": pa.array([], pa.string())})
    rows = table.filter(pc.is_valid(table["error"])).select(["user_id", "error"])
    first = rows.group_by("user_id").aggregate([("error", "min")]).sort_by("user_id")
    return pa.table({"user_id": first["user_id"], "error": first["error_min"]})


def user_counts(counts: ShardCounts, published: int, failed: int) -> UserCounts:
    """users in = published + quarantined + ineligible, for one shard."""
    without = counts.histories - published - failed
    return UserCounts(
        counts.users,
        published,
        add_counts(counts.quarantined, {"prompt_failed": failed} if failed else {}),
        add_counts(counts.ineligible, {"no_candidates": without} if without else {}),
    )


def engine_counts(table: pa.Table, failed: int) -> dict[str, int]:
    """Users scored by engine and way, once a reading, and users with a prompt that failed."""
    total = {"failed": failed} if failed else {}
    for name in table.column_names:
        if name.startswith(SCORER):
            found = table[name].drop_null().value_counts().to_pylist()
            total = add_counts(total, {pair["values"]: pair["counts"] for pair in found})
    return total


def _write_failures(context: RunContext, run_id: str, shard: int, failed: pa.Table) -> None:
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
