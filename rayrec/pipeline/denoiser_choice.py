"""What `denoise.method: auto` takes in this run: a contest at the earlier cutoffs, stored as an artifact.

One task per cutoff measures every contestant with that cutoff's item model; the driver decides. Both are reused by
fingerprint. The fingerprint follows from the config and the inputs alone, so that every worker finds the choice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from rayrec.config import Denoise
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.denoising.auto import NONE, AutoDenoiser, AutoSettings, contestants
from rayrec.denoising.denoiser import DENOISERS
from rayrec.errors import DataError, MissingFileError
from rayrec.evaluation.denoising_contest import (
    ARM_CONTEST,
    DENOISING_CONTEST,
    Contest,
    CutoffScores,
    decide,
    score_cutoff,
)
from rayrec.numerics.hashing import derive_seed, digest, hash_strings, splitmix64
from rayrec.pipeline.arm_settings import denoisers_of, retriever_specs
from rayrec.pipeline.interaction_ingest import IngestResult, histories, read_catalogue
from rayrec.pipeline.run_context import RunContext
from rayrec.ray_support.cluster import task, wait_for
from rayrec.retrieval import item_model_store
from rayrec.retrieval.ease import EaseSettings
from rayrec.storage import artifacts

KIND = "denoiser_choice"  # of the artifact

_SALT = np.uint64(derive_seed("denoising contest"))
_LOG = logging.getLogger(__name__)


def automatic(denoisers: Iterable[Denoise]) -> tuple[AutoSettings, ...]:
    """The settings of those that choose by a contest, each once."""
    found = {digest(one.settings.model_dump(mode="json")): one.settings for one in denoisers if one.method == "auto"}
    return tuple(settings for settings in found.values() if isinstance(settings, AutoSettings))


def choose_denoisers(context: RunContext, data: IngestResult, models: Sequence[tuple[int, str]]) -> None:
    """Decide every contest that is not decided yet. `models`: cutoff and fingerprint, oldest first; the date's last."""
    for settings in automatic(denoisers_of(context)):
        fingerprint = _fingerprint(context, settings)
        if artifacts.exists(context.storage, KIND, fingerprint):
            continue
        tried = contestants(settings)
        parts = [(cutoff, model, digest([fingerprint, cutoff])) for cutoff, model in models[:-1]]
        share = min(1.0, settings.max_events / max(sum(shard.events for shard in data.shards), 1))
        memory = (1 << 30) + 100 * settings.max_events + 32 * settings.max_items**2
        measuring = task(_measure, 1, memory)
        missing = [part for part in parts if not artifacts.exists(context.storage, KIND, part[2])]
        wait_for(*[measuring.remote(context, settings, share, *part) for part in missing], name="denoise")
        measured = [CutoffScores.load(artifacts.load(context.storage, KIND, part[2]).arrays) for part in parts]
        contest = decide(measured, tried, settings)
        arrays = {"choice": np.array([contest.choice], np.int64)}
        meta = {"contest": contest.table.to_pylist(), "cutoffs": contest.cutoffs}
        artifacts.save(context.storage, KIND, fingerprint, arrays, meta)
        _LOG.info("denoise: %s", in_words(contest))


def choices(context: RunContext, denoise: Denoise) -> dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Arrays that the denoiser needs besides the item model's. Raises MissingFileError before the contest."""
    found = {}
    for settings in automatic([denoise]):
        contest = load_contest(context, settings)
        found[f"{AutoDenoiser.fit_key(settings)}.choice"] = np.array([contest.choice], np.int64)
    return found


def denoising_identity(context: RunContext, denoise: Denoise) -> list[object]:
    """JSON content that differs where the denoiser may decide otherwise: its settings, and what `auto` chooses by."""
    return [denoise.model_dump(mode="json"), *(_fingerprint(context, settings) for settings in automatic([denoise]))]


def load_contest(context: RunContext, settings: AutoSettings) -> Contest:
    """The decided contest. Raises MissingFileError if there is none, DataError if it cannot be read."""
    stored = artifacts.load(context.storage, KIND, _fingerprint(context, settings))
    table = pa.Table.from_pylist(stored.meta["contest"], DENOISING_CONTEST)
    return Contest(int(stored.arrays["choice"][0]), table, int(stored.meta["cutoffs"]))


def contests_of(context: RunContext) -> Iterator[tuple[str, AutoSettings, Contest | None]]:
    """Every contest of the run, once, with its arms as text; None while it is not decided, or if it was deleted."""
    arms: dict[str, list[str]] = {}
    settings = {_fingerprint(context, one): one for one in automatic(denoisers_of(context))}
    for variant in context.arms.variants("denoise"):
        for one in automatic([variant.read(Denoise)]):
            arms.setdefault(_fingerprint(context, one), []).extend(context.arms.arms_of(variant))
    for fingerprint, own in settings.items():
        named = ", ".join(arms.get(fingerprint, ["the LLM's tuning"]))
        try:
            yield named, own, load_contest(context, own)
        except (DataError, MissingFileError):
            yield named, own, None


def contest_table(context: RunContext) -> pa.Table:
    """ARM_CONTEST: the rows of every decided contest."""
    found = [ARM_CONTEST.empty_table()]
    for arms, _, contest in contests_of(context):
        if contest is not None:
            table = contest.table.append_column("arms", pa.array([arms] * len(contest.table), pa.string()))
            found.append(table.cast(ARM_CONTEST))
    return pa.concat_tables(found)


def plan_lines(context: RunContext, earlier: Sequence[str]) -> Iterator[str]:
    """What `auto` decided or would decide, for the plan; `earlier`: the days of the earlier cutoffs."""
    for arms, settings, contest in contests_of(context):
        if contest is not None:
            yield f"contest   for {arms}: {in_words(contest)}"
            continue
        names = ", ".join(one.name for one in contestants(settings))
        where = f"as of {', '.join(earlier)}" if earlier else "there is no earlier cutoff, so auto takes none"
        yield f"contest   for {arms}: none, {names} judged by EASE ({settings.judge}) {where}"


def in_words(contest: Contest) -> str:
    """What the contest decided, as one sentence without a full stop."""
    if not contest.cutoffs:
        return "auto takes none: there is no earlier cutoff to judge a method at"
    rows = contest.table.to_pylist()
    if contest.choice != NONE:
        return f"auto takes {_measured(rows[contest.choice + 1])}; the best of {len(rows) - 1}"
    best = max(rows[1:], key=lambda row: row["gain"])
    return f"auto takes none; the best of {len(rows) - 1}, {_measured(best)}: {best['verdict']}"


def _measured(row: dict[str, float]) -> str:
    return (
        f"{row['method']}, gains {row['gain']:+.4f} nDCG@10 [{row['low']:+.4f}, {row['high']:+.4f}] on "
        f"{row['users']:,} users and removes {row['removed_share']:.1%} of the events, "
        f"{row['tail_share']:.1%} of the tail's"
    )


def _fingerprint(context: RunContext, settings: AutoSettings) -> str:
    """All that the contest depends on, as far as the config and the inputs tell."""
    config, blend = context.config, context.config.blend
    retrieval = [config.retrieval.exclude_seen, _regularization(context)]
    sources = [[spec.key for spec in retriever_specs(one)] for one in context.arms.variants("retrieve")]
    return digest(
        [
            settings.model_dump(mode="json"),
            context.data_fingerprint,
            [blend.cutoffs, blend.horizon_days],
            [config.fit.max_events, retrieval, sources],
        ]
    )


def _regularization(context: RunContext) -> float:
    """EASE's, of the first source that is one, else its default."""
    for variant in context.arms.variants("retrieve"):
        for spec in retriever_specs(variant):
            if isinstance(spec.settings, EaseSettings):
                return spec.settings.regularization
    return EaseSettings().regularization


def _measure(
    context: RunContext, settings: AutoSettings, share: float, cutoff: int, model: str, fingerprint: str
) -> None:
    """Measure every contestant at one cutoff, on a sample of whole users by their stable hash."""
    catalogue = read_catalogue(context)["item_id"].combine_chunks()
    arrays = (
        item_model_store.load(context.storage, model)
        .for_catalogue(catalogue)
        .denoiser_arrays([spec for variant in context.arms.variants("retrieve") for spec in retriever_specs(variant)])
    )
    below = np.uint64(share * (2**64 - 2**11))
    tables = []
    for shard in range(context.config.data.shard_count):
        table = histories(context, shard)
        sampled = (splitmix64(hash_strings(table["user_id"]) ^ _SALT)) <= below
        tables.append(table.filter(pa.array(sampled)))
    denoisers = [
        DENOISERS.lookup(one.denoise.method).load(arrays, one.denoise.settings) for one in contestants(settings)
    ]
    found = score_cutoff(
        pa.concat_tables(tables).combine_chunks(),
        cutoff,
        cutoff + int(context.config.blend.horizon_days * MICROSECONDS_PER_DAY),
        denoisers,
        context.event_weights,
        len(catalogue),
        settings,
        _regularization(context),
        new_only=context.config.retrieval.exclude_seen,
    )
    artifacts.save(context.storage, KIND, fingerprint, found.arrays(), {"cutoff": cutoff})
