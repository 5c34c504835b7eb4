"""Commits one shard: each arm's slates from the scored candidates, written to files with a receipt.

For exploring arms, COUNTERFACTUAL_PROPENSITY holds the probabilities with which every other arm would have shown their
slates. With `assignment: split` a user has one arm. Another arm's candidates exist only if both share their denoising;
then its LLM has scored them, too (scoring_requests.py). If they do not exist, or the other arm's prompt failed, the
pair gets no rows, and estimates for the other arm exclude the user.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.blending.blender import REQUEST_MATCH
from rayrec.config import Rerank, Retrieval, Slate
from rayrec.data.schemas import DENOISED_HISTORY, SLATE
from rayrec.experiments.arm_plan import ArmPath
from rayrec.instructions.instruction_table import instructions_for
from rayrec.monitoring.new_item_statistics import new_item_statistics
from rayrec.monitoring.run_statistics import PARTICIPANTS, SPLIT, count_statistics, merge, slate_statistics
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Bools, Float64s
from rayrec.pipeline.arm_settings import explores, retriever_specs, uses_item_factors
from rayrec.pipeline.blender_fitting import load_blender
from rayrec.pipeline.interaction_ingest import ShardCounts
from rayrec.pipeline.item_model_fitting import item_features
from rayrec.pipeline.request_candidates import candidate_match
from rayrec.pipeline.run_artifacts import (
    write_counterfactual_propensities,
    write_denoising_decisions,
    write_failed_prompts,
    write_run_statistics,
)
from rayrec.pipeline.scoring import ScoringSpec, arm_rows
from rayrec.pipeline.scoring_requests import has_requests, scoring_request_of, users_to_score
from rayrec.pipeline.understood_texts import texts_meaning
from rayrec.pipeline.worker_cache import worker_cache
from rayrec.publishing.publishing_run import PublishingRun
from rayrec.publishing.records import UserCounts, add_counts
from rayrec.ray_support.stage_runner import WorkItem
from rayrec.retrieval.item_model import FACTORS, ItemModel
from rayrec.slates.assembly import CandidatePool, SlateAssembler
from rayrec.slates.counterfactual_propensities import counterfactual_rows, first_items, slate_marginals
from rayrec.slates.rule_counts import rule_effects
from rayrec.slates.scored_candidates import CatalogueItems


@dataclass(frozen=True)
class CommitSpec:
    """Arguments of the commit stage: scoring spec, each rerank variant's blender, users of each shard."""

    scoring: ScoringSpec
    run: PublishingRun
    blenders: tuple[tuple[str, str], ...]  # rerank variant -> fingerprint
    shards: tuple[ShardCounts, ...]

    def __hash__(self) -> int:
        return hash((self.scoring, self.blenders, self.run.record.run_id))


@dataclass(frozen=True)
class ArmSlates:
    """One arm's slates of a shard."""

    pool: CandidatePool  # after the rules, of all users scored for the arm
    members: Bools  # [users of the pool] who get a slate
    codes: Ragged  # int64 item codes of the slates, one row a member
    slates: pa.Table  # SLATE
    rules: dict[str, int]  # how often each rule binds


class CommitShard:
    """Stage: turns one shard's scored candidates into slates, files and a receipt. Returns one row of counts."""

    def __init__(self, committing: CommitSpec) -> None:
        self._spec = committing
        self._context = committing.scoring.context
        fingerprint = committing.scoring.models[0].item_model
        model = worker_cache(self._context).item_model_parts(fingerprint, FACTORS.method)
        self._new = item_features(model).column("log_count") == 0  # [items]
        self._assemblers = {path.arm: self._assembler(path, model) for path in self._context.arms}

    def __call__(self, item: WorkItem, table: pa.Table) -> pa.Table:
        context, run = self._context, self._spec.run
        run_id, shard = run.record.run_id, item.shard
        failed = failed_users(table)
        if failed.num_rows:
            table = table.filter(pc.invert(pc.is_in(table["user_id"], failed["user_id"].combine_chunks())))
        found = {path.arm: self._candidate_pool(path, table) for path in context.arms}
        pools = {arm: self._assemblers[arm].apply_rules(pool) for arm, pool in found.items()}
        arms = {path.arm: self._arm_slates(path, found[path.arm], pools) for path in context.arms}
        slates = {arm: part.slates for arm, part in arms.items()}
        write_failed_prompts(context, run_id, shard, failed)
        write_run_statistics(context, run_id, "slates", shard, self._statistics(arms))
        if propensities := self._counterfactuals(arms):
            write_counterfactual_propensities(context, run_id, shard, pa.concat_tables(propensities).combine_chunks())
        published = len(pc.unique(pa.chunked_array([s["user_id"].combine_chunks() for s in slates.values()])))
        users = user_counts(self._spec.shards[shard], published, failed.num_rows)
        receipt = run.commit(shard, slates, users, scorer_counts(table, failed.num_rows))
        return pa.table({"users": [receipt.users.users_in], "published": [receipt.users.published]})

    def commit_empty(self, shard: int) -> None:
        """Commit a shard without eligible users."""
        run_id = self._spec.run.record.run_id
        write_denoising_decisions(self._context, run_id, shard, DENOISED_HISTORY.empty_table())
        slates = {arm: SLATE.empty_table() for arm in self._context.arms.names}
        self._spec.run.commit(shard, slates, user_counts(self._spec.shards[shard], 0, 0), {})

    def _assembler(self, path: ArmPath, model: ItemModel) -> SlateAssembler:
        context, blenders = self._context, dict(self._spec.blenders)
        sources = retriever_specs(path.at("retrieve"))
        factors = model.factors(sources) if uses_item_factors(path.at("slate")) else None
        catalogue = worker_cache(context).catalogue
        return SlateAssembler.of(
            path.at("slate").read(Slate),
            load_blender(context, blenders[path.at("rerank").name]),
            item_features(model),
            tuple(source.name for source in sources),
            CatalogueItems.of(catalogue, factors),
            catalogue["attributes"],
            context.date,
            self._spec.run.record.identity,
            path.at("rerank").read(Rerank).promotion_cap,
        )

    def _candidate_pool(self, path: ArmPath, table: pa.Table) -> CandidatePool:
        request = scoring_request_of(self._context, path)
        rows = arm_rows(table, path.at("retrieve").name, None if request is None else request.name)
        rows = rows.filter(pa.array(users_to_score(self._context.arms, (path.arm,), rows["user_id"])))
        if request is not None:
            rows = rows.filter(pc.is_valid(rows["llm_score"]))  # the arm's own users without a score have failed
        return self._assemblers[path.arm].candidate_pool(self._with_request_match(path, rows.combine_chunks()))

    def _arm_slates(self, path: ArmPath, found: CandidatePool, pools: dict[str, CandidatePool]) -> ArmSlates:
        """`found`: the arm's candidates; `pools`: those of all arms after their rules."""
        assembler = self._assemblers[path.arm]
        members = self._context.arms.members(found.scored.user_ids)[path.arm]
        others = [pools[other.arm] for other in self._context.arms if self._may_show(path, other)]
        pool = assembler.with_others(pools[path.arm], others)
        own = pool.take_users(members)
        chosen = assembler.select(own, path.arm)
        slates = assembler.to_slates(own, chosen, path.arm)
        effects = rule_effects(assembler, found.take_users(members), pools[path.arm].take_users(members))
        return ArmSlates(pool, members, chosen.code, slates, effects)

    def _may_show(self, path: ArmPath, other: ArmPath) -> bool:
        """Whether an exploration floor of `path` may show candidates of `other`: not those that its users have seen."""
        excludes = [arm.at("retrieve").read(Retrieval).exclude_seen for arm in (path, other)]
        return path.arm != other.arm and excludes[1] >= excludes[0]

    def _with_request_match(self, path: ArmPath, rows: pa.Table) -> pa.Table:
        """The rows with the column `request_match`: nats by which the user's instruction in this arm moves each
        candidate."""
        settings = self._context.config.instruction
        if not has_requests(self._context) or not len(rows):
            return rows
        cache, candidate = worker_cache(self._context), Ragged.from_arrow(rows["candidate"])
        texts = instructions_for(cache.instructions, rows["user_id"], path.arm)
        match = np.zeros(len(candidate.values), np.float32)
        for column, weight in zip(texts, (settings.profile_weight, settings.request_weight), strict=True):
            if weight:
                meanings = texts_meaning(self._context, column.to_pylist())
                match += np.float32(weight) * candidate_match(cache.facets, cache.titles, meanings, candidate)
        return rows.append_column(REQUEST_MATCH, candidate.like(match).to_arrow(pa.float32()))

    def _counterfactuals(self, arms: dict[str, ArmSlates]) -> list[pa.Table]:
        """COUNTERFACTUAL_PROPENSITY of every exploring arm under every other arm; empty without exploring arms."""
        tables = []
        for path in (path for path in self._context.arms if explores(path) and len(arms) > 1):
            own = arms[path.arm]
            served = own.pool.take_users(own.members)
            marginal = slate_marginals(self._assemblers[path.arm], path.arm, served, own.codes)
            others = (target for target in arms if target != path.arm)
            tables += [self._counterfactual(path.arm, own, marginal, target, arms[target]) for target in others]
        return tables

    def _counterfactual(
        self, logged: str, own: ArmSlates, marginal: Float64s, target: str, other: ArmSlates
    ) -> pa.Table:
        logging = own.pool.take_users(own.members).scored
        row = pc.index_in(other.pool.scored.user_ids, value_set=logging.user_ids)
        both = row.is_valid().to_numpy(zero_copy_only=False)
        rows = row.drop_null().to_numpy().astype("int64")
        shown_first = first_items(self._assemblers[logged], logged, logging.take_users(rows))
        slates = own.codes.take(rows)
        names, run = self._context.arms.names, self._spec.run.record.identity
        return counterfactual_rows(
            logged,
            target,
            names,
            run,
            other.pool.take_users(both),
            slates,
            self._assemblers[target],
            shown_first,
            own.codes.like(marginal).take(rows).values,
        )

    def _statistics(self, arms: dict[str, ArmSlates]) -> pa.Table:
        """RUN_STATISTICS of slates and rules, and the number of users served by each arm of the experiment."""
        catalogue = worker_cache(self._context).catalogue
        slates = pa.concat_tables([part.slates for part in arms.values()]).combine_chunks()
        item_id, category = catalogue["item_id"].combine_chunks(), catalogue["category"].combine_chunks()
        rules = count_statistics("rule", {arm: part.rules for arm, part in arms.items()})
        users = {arm: self._context.arms.participants(pc.unique(part.slates["user_id"])) for arm, part in arms.items()}
        served = count_statistics(SPLIT, {arm: {PARTICIPANTS: int(part.sum())} for arm, part in users.items()})
        proposed = new_item_statistics({arm: part.slates for arm, part in arms.items()}, item_id, self._new)
        return merge([slate_statistics(slates, item_id, category), rules, served, proposed])


def failed_users(table: pa.Table) -> pa.Table:
    """The distinct users whose prompt failed in any arm: columns user_id, error. They get no slate in any arm, so that
    arms stay comparable."""
    rows = table.filter(pc.is_valid(table["error"])).select(["user_id", "error"])
    first = rows.group_by("user_id").aggregate([("error", "min")]).sort_by("user_id")
    return pa.table({"user_id": first["user_id"], "error": first["error_min"]})


def user_counts(counts: ShardCounts, published: int, failed: int) -> UserCounts:
    """UserCounts of one shard: users in = published + quarantined + ineligible."""
    without = counts.histories - published - failed
    return UserCounts(
        counts.users,
        published,
        add_counts(counts.quarantined, {"prompt_failed": failed} if failed else {}),
        add_counts(counts.ineligible, {"no_candidates": without} if without else {}),
    )


def scorer_counts(table: pa.Table, failed: int) -> dict[str, int]:
    """Scored rows by engine and method, and the number of users with a failed prompt."""
    scored = table["scorer"].drop_null().value_counts().to_pylist()
    return add_counts({"failed": failed} if failed else {}, {pair["values"]: pair["counts"] for pair in scored})
