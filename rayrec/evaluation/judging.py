"""A published day judged by what users did: every arm, and each retriever alone, on the same users.

The retrievers rank with the artefact that the manifest names, through the candidate stage that the slates came from:
`popularity` and its like for everybody, EASE and its like from the whole history, without denoising and without LLM.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import Retrieval
from rayrec.contracts.ragged import Ragged
from rayrec.contracts.schemas import DENOISED
from rayrec.errors import DataError
from rayrec.evaluation.comparison import COMPARISON, compare
from rayrec.evaluation.metrics import Judged, Truth, judge
from rayrec.evaluation.people import read_catalogue, read_denoised
from rayrec.hashing import seed_of, shard_of
from rayrec.ordering import best
from rayrec.publishing.reader import read_manifest, read_slates
from rayrec.publishing.records import Manifest
from rayrec.retrieval import item_model
from rayrec.retrieval.candidates import CandidateStage, Source
from rayrec.retrieval.popularity import Popularity
from rayrec.retrieval.sources import read_sources
from rayrec.storage import Storage

DEPTH = 50  # of the retrievers' rankings: what the deepest metric looks at
POPULARITY = "popularity"


@dataclass(frozen=True)
class Judgement:
    """`comparison`: COMPARISON rows of arms and retrievers, with differences from the best retriever alone."""

    comparison: pa.Table
    users: int
    events: int  # distinct (user, item) pairs they were judged on
    best_alone: str  # the retriever with the highest nDCG@10 on these very users: chosen in its own favour


def judge_day(
    root: str, day: date, wanted: pa.Table, *, min_events: int = 1, others: Mapping[str, pa.Table] | None = None
) -> Judgement:
    """Judge a published day by `wanted` (columns user_id, item_id: what each user did or truly wanted).

    Judged are the users with a slate and at least `min_events` positive events in their history; of what they wanted,
    the items in the catalogue and, where seen ones are left out of slates, new to them. `others`: more systems, as
    slates (user_id, rank, item_id). Raises PublicationError if the day is not published, DataError if nobody is left.
    """
    storage, manifest = Storage(root), read_manifest(root, day)
    catalogue = read_catalogue(storage, manifest)
    retrieval = Retrieval.model_validate(manifest.meaning["retrieval"])
    user_id, item_id = (wanted[name].combine_chunks().cast(pa.string()) for name in ("user_id", "item_id"))
    histories = _histories(storage, manifest, pc.unique(user_id), min_events)
    new = _new(histories, user_id, item_id, catalogue["item_id"]) if retrieval.exclude_seen else None
    if new is not None:
        user_id, item_id = user_id.filter(new), item_id.filter(new)
    slates = read_slates(root, day, users=pc.unique(user_id).to_pylist())
    with_slate = pc.unique(slates["user_id"].combine_chunks())
    truth = Truth.of(user_id, item_id, catalogue["item_id"].combine_chunks()).among(with_slate)
    truth = truth.among(histories["user_id"].combine_chunks())
    if not len(truth):
        raise DataError(
            f"none of the {manifest.users.published:,} users with a slate on {day} did anything that can be judged",
            do="choose a longer --horizon-days, or check that the config is the one of the run",
        )
    alone = [judge(name, table, truth) for name, table in _alone(storage, manifest, catalogue, histories, retrieval)]
    alone += [judge(name, table, truth) for name, table in (others or {}).items()]
    retrievers = [judged for judged in alone if judged.system not in (others or {})]
    best_alone = max(retrievers, key=lambda judged: float(judged.values["ndcg@10"].mean())).system
    seed = seed_of("evaluate", manifest.run_id)
    comparison = _compare(manifest, slates, truth, alone, best_alone, seed)
    return Judgement(comparison, len(truth), int(truth.wanted.nnz), best_alone)


def _compare(
    manifest: Manifest, slates: pa.Table, truth: Truth, alone: list[Judged], best_alone: str, seed: int
) -> pa.Table:
    of_arm = {arm: slates.filter(pc.equal(slates["arm"], arm)) for arm in manifest.arms}
    if manifest.meaning["arms"]["assignment"] == "all":
        arms = [judge(arm, table, truth) for arm, table in of_arm.items()]
        return compare([*alone, *arms], seed=seed, against=best_alone)
    # Users were split: an arm owes slates to its own users only, and is compared on them.
    parts = [compare(alone, seed=seed, against=best_alone)]
    for arm, table in of_arm.items():
        own = truth.among(pc.unique(table["user_id"].combine_chunks()))
        rows = np.flatnonzero(pc.is_in(truth.user_id, own.user_id).to_numpy(zero_copy_only=False))
        base = next(judged for judged in alone if judged.system == best_alone)
        same = Judged(base.system, {name: values[rows] for name, values in base.values.items()}, base.shown[rows])
        found = compare([same, judge(arm, table, own)], seed=seed, against=best_alone)
        parts.append(found.filter(pc.equal(found["system"], arm)))
    return pa.concat_tables([COMPARISON.empty_table(), *parts])


def _histories(storage: Storage, manifest: Manifest, users: pa.Array, min_events: int) -> pa.Table:
    """DENOISED rows of these users, one each, with nothing taken out: what a retriever alone goes by."""
    weights = np.array(list(manifest.meaning["data"]["events"].values()), np.float32)
    tables = [DENOISED.empty_table()]
    for shard in sorted(set(shard_of(users, manifest.shards).tolist())):
        table = read_denoised(storage, manifest, shard)
        if table.num_rows:
            table = table.filter(pc.equal(table["variant"], table["variant"][0]))
            tables.append(table.filter(pc.is_in(table["user_id"], users)))
    table = pa.concat_tables(tables).combine_chunks()
    event = Ragged.from_arrow(table["event"])
    positive = np.bincount(event.rows, weights[event.values] > 0, minlength=len(event))
    everything = event.like(np.ones(len(event.values), np.float32)).to_arrow(pa.float32())
    table = table.set_column(table.column_names.index("keep"), DENOISED.field("keep"), everything)
    return table.filter(pa.array(positive >= min_events))


def _new(histories: pa.Table, user_id: pa.Array, item_id: pa.Array, catalogue: pa.ChunkedArray) -> pa.Array:
    """Which (user, item) pairs are not in the user's history, bool [pairs]."""
    item = Ragged.from_arrow(histories["item"])
    row = pc.index_in(user_id, histories["user_id"].combine_chunks()).fill_null(-1).to_numpy().astype(np.int64)
    code = pc.index_in(item_id, catalogue.combine_chunks()).fill_null(-1).to_numpy().astype(np.int64)
    seen = item.rows * len(catalogue) + item.values
    pair = np.where((row >= 0) & (code >= 0), row * len(catalogue) + code, -1)
    return pa.array(~np.isin(pair, seen))


def _alone(
    storage: Storage, manifest: Manifest, catalogue: pa.Table, histories: pa.Table, retrieval: Retrieval
) -> Iterator[tuple[str, pa.Table]]:
    """Each retriever's ranking of its own candidates, as slates of DEPTH."""
    ids = catalogue["item_id"].combine_chunks()
    model = item_model.load(storage, manifest.models[item_model.KIND]).for_catalogue(ids)
    specs = [spec for spec in read_sources(retrieval.sources, retrieval.per_source) if spec.key in model.fitted]
    sources = {spec.name: Source(spec.name, DEPTH, model.retriever(spec)) for spec in specs}
    sources.setdefault(POPULARITY, Source(POPULARITY, DEPTH, Popularity(model.count)))
    weights = tuple(float(weight) for weight in manifest.meaning["data"]["events"].values())
    available = catalogue["available"].combine_chunks().to_numpy(zero_copy_only=False)
    stage = CandidateStage("alone", (), available, retrieval.exclude_seen, weights)
    for name, source in sorted(sources.items(), key=lambda pair: (pair[0] != POPULARITY, pair[0])):
        found = replace(stage, sources=(source,))(histories)
        scores = Ragged.from_arrow(found[f"score.{name}"])
        places = best(scores, DEPTH)
        code = Ragged.from_arrow(found["candidate"]).values[places.values]
        rank = np.arange(len(places.values)) - places.offsets[places.rows] + 1
        users = found["user_id"].take(pa.array(places.rows))
        yield name, pa.table({"user_id": users, "rank": rank, "item_id": ids.take(pa.array(code))})
