"""Fits the blenders: one per rerank variant, on training examples of earlier cutoffs, or reused by fingerprint.

Users are scored as of each of a few earlier cutoffs, with models as of that cutoff. What they consumed within the
horizon afterwards gives the labels. Every user is scored in every variant, so that an arm learns the same whatever its
share of the users.

With `blend.feedback`, rewarded items of slates that were published within the horizon are targets of examples of their
own, see `rayrec.pipeline.feedback_targets`.

Where some users have requests, each training user counts twice: without a request, and with a simulated request for one
of the consumed items. With the request, only items that satisfy it are labels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Dataset

from rayrec.blending.acceptance import fit_acceptance
from rayrec.blending.blend_fitting import TrainingWindow, fit_blender
from rayrec.blending.blender import Blender
from rayrec.blending.score_correction import with_correction
from rayrec.config import Rerank, Slate
from rayrec.data.cutoff_histories import consumed_after, histories_at, is_consumed, is_training_user
from rayrec.data.schemas import (
    CONSUMED,
    CONSUMED_ITEMS,
    FEEDBACK_TARGET,
    FEEDBACK_TARGETS,
    MICROSECONDS_PER_DAY,
    SIMULATED_REQUEST,
)
from rayrec.experiments.arm_plan import Variant
from rayrec.instructions.teachers.instruction_simulator import InstructionSimulator
from rayrec.monitoring.feedback_learning import FEEDBACK, USED
from rayrec.monitoring.progress import Progress
from rayrec.monitoring.run_statistics import ALL_ARMS, RUN_STATISTICS, counts_by_arm
from rayrec.numerics.hashing import derive_seed, digest, hash_strings
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Float32s
from rayrec.pipeline import feedback_targets, stage_placement
from rayrec.pipeline.arm_settings import default_instruction, retriever_specs, uses_llm
from rayrec.pipeline.interaction_ingest import IngestResult, histories
from rayrec.pipeline.item_model_fitting import ModelSet, item_features
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.scoring import RetrieveShard, ScoringSpec, arm_rows, denoise, retrieve_and_rerank
from rayrec.pipeline.scoring_requests import has_requests
from rayrec.pipeline.worker_cache import worker_cache
from rayrec.ray_support.cluster import task, wait_for
from rayrec.ray_support.stage_runner import WorkItem, append_stage, run_pending
from rayrec.retrieval.item_statistics import NAMES
from rayrec.storage import artifacts, layout
from rayrec.storage.tables import read_arrow, read_parquet, write_arrow

BLENDER = "blend"
_LOG = logging.getLogger(__name__)

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TrainingSpec:
    """How training examples are made. `share`: the largest share of users that is sampled.

    Files lie in a folder of the run, by cutoff and shard. A file without rows means that the shard has no training
    user.
    """

    scoring: ScoringSpec
    share: float
    feedback: bool = False  # with the targets that `feedback_targets` has written

    def path(self, item: WorkItem) -> str:
        return layout.training_examples_path(self.folder, item.cutoff, item.shard)

    @property
    def folder(self) -> str:
        context = self.scoring.context
        return layout.training_examples_folder(context.work_folder, context.record.run_id)

    def feedback_targets(self, item: WorkItem) -> pa.Table:
        """FEEDBACK_TARGETS of a work item; empty where the blender does not learn from feedback."""
        context = self.scoring.context
        if not self.feedback:
            return FEEDBACK_TARGETS.empty_table()
        path = layout.feedback_targets_path(feedback_targets.folder(context), item.cutoff, item.shard)
        return read_arrow(context.storage, path)


def fit_blenders(context: RunContext, data: IngestResult, models: Sequence[ModelSet]) -> dict[str, str]:
    """Map each rerank variant to the fingerprint of its blender, fitted on all but the last of `models`."""
    past, variants = tuple(models[:-1]), context.arms.variants("rerank")
    fingerprints = {variant.name: blender_fingerprint(context, variant, past) for variant in variants}
    missing = [v for v in variants if not artifacts.exists(context.storage, BLENDER, fingerprints[v.name])]
    if missing:
        # On a GPU vLLM batches prompts. On CPUs its start, once a cutoff, costs more than the few prompts.
        on_gpu = bool(context.config.resources.rerank_num_gpus)
        engine = context.config.rerank.engine if on_gpu else "transformers"
        scoring = ScoringSpec(context, past, engine, for_training=True)
        learns = context.config.blend.feedback is not None
        if learns:
            targets = task(feedback_targets.write_feedback_targets, 1, feedback_targets.memory(context))
            wait_for(targets.remote(context, [one.cutoff for one in past]), name="feedback")
        spec = TrainingSpec(scoring, context.config.blend.max_users / max(data.users, 1), learns)
        write_training_examples(spec)
        fitting = task(_fit_blender, 1)
        wait_for(*[fitting.remote(spec, variant, fingerprints[variant.name]) for variant in missing], name="blend")
    return fingerprints


def load_blender(context: RunContext, fingerprint: str) -> Blender:
    return Blender.from_dict(artifacts.load(context.storage, BLENDER, fingerprint).meta)


def blender_fingerprint(context: RunContext, variant: Variant, past: Sequence[ModelSet]) -> str:
    """Fingerprint of everything that can change the weights that a rerank variant learns at the cutoffs of `past`."""
    models = [(one.cutoff, one.item_model, one.llm if uses_llm(variant) else None) for one in past]
    templated = has_requests(context) or variant.read(Rerank).is_text_scorer
    requests = [has_requests(context), context.templates.digest if templated else None]
    adapters = [dict(one.text_adapters).get(variant.read(Rerank).scorer_key) for one in past]
    checkpoint = [context.checkpoints.get(variant.name), adapters]
    examples = [default_instruction(context), context.config.retrieval.exclude_seen]
    blend = context.config.blend.model_dump(mode="json")
    if context.config.blend.feedback is not None:
        log = [(record.path, record.size, record.version) for record in context.feedback_inputs.records]
        examples.append([context.config.fingerprinted_settings()["feedback"], log])
    curve = [variant.read(Rerank).promotion_cap] if _withholds(context, variant) else []
    return digest([variant.name, models, blend, context.data_fingerprint, requests, checkpoint, examples, *curve])


def _withholds(context: RunContext, variant: Variant) -> bool:
    """Whether an arm of this rerank variant has `slate.min_probability`."""
    paths = (path for path in context.arms if path.at("rerank").name == variant.name)
    return any(path.at("slate").read(Slate).min_probability for path in paths)


def write_training_examples(spec: TrainingSpec, *, rerank: bool = True, name: str = "blend") -> None:
    """Write the missing files of training examples, one per (cutoff, shard). `rerank`: with LLM scores."""
    items, storage = spec.scoring.work_items, spec.scoring.context.storage
    done = {info.path for info in storage.list(spec.folder)}
    pending = [item for item in items if spec.path(item) not in done]

    def flow(dataset: Dataset) -> Dataset:
        resources = spec.scoring.context.config.resources
        denoised = append_stage(dataset, DenoiseTrainingUsers, spec, **stage_placement.denoising(resources))
        if rerank:
            scored = retrieve_and_rerank(denoised, spec.scoring)
        else:
            scored = append_stage(denoised, RetrieveShard, spec.scoring, **stage_placement.retrieval(resources))
        return append_stage(scored, WriteTrainingExamples, spec, memory=spec.scoring.task_memory)

    with Progress(name, len(items), unit="shards") as progress:
        progress.advance(len(items) - len(pending))
        run_pending(pending, flow, progress.advance, name=name)


class DenoiseTrainingUsers:
    """Stage: DENOISED_HISTORY of a shard's training users as of a cutoff, and what they consumed afterwards."""

    def __init__(self, spec: TrainingSpec) -> None:
        self._spec = spec

    def __call__(self, item: WorkItem, _: pa.Table) -> pa.Table:
        context = self._spec.scoring.context
        table = histories(context, item.shard)
        sampled = hash_strings(table["user_id"]) < np.uint64(min(self._spec.share, 1.0) * (2**64 - 2**11))
        table = table.filter(pa.array(sampled)).combine_chunks()
        until = item.cutoff + int(context.config.blend.horizon_days * MICROSECONDS_PER_DAY)
        new_only = context.config.retrieval.exclude_seen
        consumed = consumed_after(table, item.cutoff, until, context.event_weights, new_only=new_only)
        known = histories_at(table, item.cutoff)
        rewarded = pc.is_in(table["user_id"], self._spec.feedback_targets(item)["user_id"].combine_chunks()).to_numpy()
        users = is_training_user(known, consumed, context.config.blend.min_events, rewarded)
        models = self._spec.scoring.models_at(item.cutoff)
        denoised = denoise(context, models, known.filter(pa.array(users)), every_user=True)
        examples = _examples(context, denoised, table["user_id"].combine_chunks(), consumed, item.cutoff)
        if not examples.num_rows:  # Ray Data skips stages for empty tables, so the writing stage would not run
            write_arrow(context.storage, self._spec.path(item), examples)
        return examples


class WriteTrainingExamples:
    """Stage: writes the scored training users of one (cutoff, shard), with a label for each candidate."""

    def __init__(self, spec: TrainingSpec) -> None:
        self._spec = spec

    def __call__(self, item: WorkItem, table: pa.Table) -> pa.Table:
        candidate, consumed = Ragged.from_arrow(table["candidate"]), Ragged.from_arrow(table[CONSUMED_ITEMS])
        labels = candidate.like(is_consumed(candidate, consumed).astype(np.int8)).to_arrow(pa.int8())
        examples = table.drop_columns([CONSUMED_ITEMS]).append_column(CONSUMED, labels)
        if self._spec.feedback:
            target = candidate_targets(examples, candidate, self._spec.feedback_targets(item))
            examples = examples.append_column(FEEDBACK_TARGET, candidate.like(target).to_arrow(pa.float32()))
        write_arrow(self._spec.scoring.context.storage, self._spec.path(item), examples)
        return pa.table({"rows": [table.num_rows]})


def _fit_blender(spec: TrainingSpec, variant: Variant, fingerprint: str) -> None:
    context = spec.scoring.context
    parent = next(v for v in context.arms.variants("retrieve") if v.name == variant.parent)
    scoring_request = variant.name if uses_llm(variant) else None
    personalized = [source.name for source in retriever_specs(parent) if source.retriever.personalized]
    windows, every, rewarded, used = [], [], [], 0
    withholds = _withholds(context, variant)
    for models in spec.scoring.models:
        tables = _read_examples(spec, models.cutoff, parent.name, scoring_request, personalized, every_user=withholds)
        if not tables:
            continue
        table = pa.concat_tables(tables).sort_by("user_id").combine_chunks()
        if scoring_request is None:
            table = table.filter(pc.is_null(table[SIMULATED_REQUEST])).combine_chunks()
        consumed = Ragged.from_arrow(table[CONSUMED])
        model = worker_cache(context).item_model_parts(models.item_model)
        window = TrainingWindow(table, consumed.like(consumed.values > 0), item_features(model))
        windows.append(window.filter(_any(window.consumed)))
        if withholds:
            every.append(window.filter(_without_request(table)))
        if spec.feedback:
            target = Ragged.from_arrow(table[FEEDBACK_TARGET])
            used += int(np.count_nonzero(target.values))
            rewarded.append(replace(window, consumed=target, weighted=True).filter(_any(target)))
    blend = context.config.blend

    def fit(given: Sequence[TrainingWindow]) -> Blender:
        of = [window.filter(_any(window.consumed)) for window in given]
        blender = fit_blender(of, personalized, blend.l2, blend.content_features, NAMES)
        return with_correction(blender, of, blend.method, blend.settings)

    blender = fit_blender([*windows, *rewarded], personalized, blend.l2, blend.content_features, NAMES)
    blender = with_correction(blender, windows, blend.method, blend.settings)
    if withholds:
        curve = fit_acceptance(every, fit, variant.read(Rerank).promotion_cap)
        if curve is None:
            _LOG.warning("blend: there are no examples to calibrate on, so slate.min_probability withholds nothing")
        blender = replace(blender, acceptance=curve)
    if spec.feedback:
        counts = read_parquet(context.storage, layout.feedback_counts_path(feedback_targets.folder(context)))
        known = counts_by_arm(counts.cast(RUN_STATISTICS), FEEDBACK).get(ALL_ARMS, {})
        blender = replace(blender, feedback={**known, USED: float(used)})
    artifacts.save(context.storage, BLENDER, fingerprint, {}, blender.to_dict())


def _read_examples(
    spec: TrainingSpec,
    cutoff: int,
    variant: str,
    scoring_request: str | None,
    personalized: Sequence[str],
    *,
    every_user: bool = False,
) -> list[pa.Table]:
    """One table per shard that has rows of this retrieve variant and scoring request: the users who consumed one of
    their candidates or were rewarded for one, or `every_user`, and what the blender reads of them."""
    context = spec.scoring.context
    unread = {"source", *(f"score.{name}" for name in _sources(context) if name not in personalized)}
    found = []
    for shard in range(context.config.data.shard_count):
        table = read_arrow(context.storage, spec.path(WorkItem(cutoff, shard)), without=unread)
        table = arm_rows(table, variant, scoring_request) if table.num_rows else table
        if table.num_rows:
            users = _any(Ragged.from_arrow(table[CONSUMED]))
            if spec.feedback:
                users |= _any(Ragged.from_arrow(table[FEEDBACK_TARGET]))
            found.append(table.filter(pa.array(users | every_user)))
    return found


def _any(labels: Ragged) -> Bools:
    """The users [users] with a label above 0."""
    return np.asarray(np.bincount(labels.rows, labels.values > 0, minlength=len(labels)) > 0)


def candidate_targets(examples: pa.Table, candidate: Ragged, given: pa.Table) -> Float32s:
    """The target of each candidate [candidates] from FEEDBACK_TARGETS; 0 in examples with a request."""
    users = examples["user_id"].combine_chunks().dictionary_encode()
    user = pc.index_in(given["user_id"].combine_chunks(), users.dictionary)
    given, user = given.filter(user.is_valid()), user.drop_null().to_numpy().astype(np.int64)
    key = user << 32 | given["item"].to_numpy()
    order = np.argsort(key)
    key = np.append(key[order], -1)
    wanted = users.indices.to_numpy().astype(np.int64)[candidate.rows] << 32 | candidate.values
    place = np.searchsorted(key[:-1], wanted)
    found = np.append(given["target"].to_numpy()[order], 0).astype(np.float32)[place]
    plain = examples[SIMULATED_REQUEST].combine_chunks().is_null().to_numpy(zero_copy_only=False)
    result: Float32s = np.where((key[place] == wanted) & plain[candidate.rows], found, np.float32(0))
    return result


def _without_request(table: pa.Table) -> Bools:
    """Which examples [rows] have no simulated request."""
    missing: Bools = pc.is_null(table[SIMULATED_REQUEST]).to_numpy()
    return missing


def _sources(context: RunContext) -> set[str]:
    """The names of all arms' sources."""
    return {spec.name for variant in context.arms.variants("retrieve") for spec in retriever_specs(variant)}


def _examples(context: RunContext, table: pa.Table, user_ids: pa.Array, consumed: Ragged, cutoff: int) -> pa.Table:
    """DENOISED_HISTORY rows with the items that their users consumed; if there are requests, plus simulated
    requests.

    `consumed`: int32 item codes of `user_ids`, which include every user of the table.
    """
    own = consumed.take(pc.index_in(table["user_id"].combine_chunks(), user_ids).to_numpy().astype(np.int64))
    plain = _with_labels(table, own, pa.nulls(table.num_rows, pa.string()))
    if not has_requests(context):
        return plain
    texts, satisfying = _simulated_requests(context, table["user_id"].to_pylist(), own, cutoff)
    rows = pa.array(np.flatnonzero(satisfying.lengths > 0))
    return pa.concat_tables([plain, _with_labels(table, satisfying, pa.array(texts, pa.string())).take(rows)])


def _with_labels(table: pa.Table, consumed: Ragged, request: pa.Array) -> pa.Table:
    labelled = table.append_column(SIMULATED_REQUEST, request)
    return labelled.append_column(CONSUMED_ITEMS, consumed.to_arrow(pa.int32()))


def _simulated_requests(
    context: RunContext, users: list[str], consumed: Ragged, cutoff: int
) -> tuple[list[str], Ragged]:
    """A simulated request for each user, seeded by user: its text, and the consumed items that satisfy it."""
    simulator = InstructionSimulator(worker_cache(context).facets)
    texts, right = [], np.zeros(len(consumed.values), np.bool_)
    for row, user in enumerate(users):
        rng = np.random.default_rng(derive_seed("simulated_request", cutoff, user))
        target = rng.choice(consumed[row]) if len(consumed[row]) else -1
        request = simulator.specific(np.array([target] if target >= 0 else [], np.int64), rng)
        texts.append(request.text[0] if request.text else "")
        if texts[-1]:
            first = np.zeros(len(consumed[row]), np.int64)
            right[consumed.offsets[row] : consumed.offsets[row + 1]] = simulator.facets.satisfied(
                consumed[row].astype(np.int64), request.include[first], request.exclude[first]
            )
    return texts, consumed.filter(right)
