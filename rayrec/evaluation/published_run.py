"""A published run opened for evaluation: its slates, users' histories and standalone retrievers, shard by shard.

Only one shard is in memory at a time, so memory does not grow with the number of users.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from rayrec.config import Arms, Retrieval
from rayrec.data import erasure_list
from rayrec.data.cutoff_histories import first_row_per_user
from rayrec.data.schemas import DENOISED_HISTORY, MICROSECONDS_PER_DAY
from rayrec.errors import MissingFileError
from rayrec.evaluation.beyond_accuracy import ItemStatistics
from rayrec.evaluation.cuped import covariates
from rayrec.evaluation.metrics import RelevantItems
from rayrec.evaluation.segments import SegmentFeatures, main_category
from rayrec.experiments.arm_plan import in_layer
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.top_k import best
from rayrec.publishing.records import Manifest
from rayrec.publishing.slate_reader import read_catalogue, read_denoised, read_manifest, read_shard_slates
from rayrec.retrieval import item_model_store
from rayrec.retrieval.candidates import CandidateStage, Source
from rayrec.retrieval.item_model import ItemModel
from rayrec.retrieval.popularity import PopularityRetriever
from rayrec.retrieval.source_specs import source_specs
from rayrec.storage import Storage

DEPTH = 50  # ranks evaluated: the deepest metric is recall@50
POPULARITY = "popularity"
_COLUMNS = ("user_id", "rank", "item_id")


@dataclass(frozen=True)
class PublishedRun:
    """One publication with the data that its evaluation needs."""

    storage: Storage
    manifest: Manifest
    catalogue: pa.Table

    @classmethod
    def open(cls, root: str, day: date) -> PublishedRun:
        """Open a published date. Raises PublicationError if it is not published."""
        storage, manifest = Storage(root), read_manifest(root, day)
        return cls(storage, manifest, read_catalogue(storage, manifest))

    @cached_property
    def item_id(self) -> pa.Array:
        return self.catalogue["item_id"].combine_chunks()

    @cached_property
    def retrieval(self) -> Retrieval:
        return Retrieval.model_validate(self.manifest.fingerprinted_settings["retrieval"])

    @property
    def withholds(self) -> bool:
        """Whether any arm has `slate.min_probability`."""
        sections = [self.manifest.fingerprinted_settings, *self.arm_settings.values()]
        return any((section.get("slate") or {}).get("min_probability") for section in sections)

    @cached_property
    def model(self) -> ItemModel | None:
        """The item model of the run; None if it was deleted: then only the arms are evaluated."""
        try:
            found = item_model_store.load(self.storage, self.manifest.models[item_model_store.KIND])
        except MissingFileError:
            return None
        return found.for_catalogue(self.item_id)

    @cached_property
    def left_out(self) -> str:
        """What cannot be evaluated and why, as text; empty if everything can."""
        if self.model is not None:
            return ""
        reason = "was deleted by an erasure" if erasure_list.requests(self.storage) else "no longer exists"
        return f"no standalone retrievers, novelty, popularity and tail: the item model of the run {reason}"

    @cached_property
    def item_statistics(self) -> ItemStatistics:
        count = None if self.model is None else self.model.count
        return ItemStatistics.of(count, self.catalogue["category"].combine_chunks())

    @property
    def event_weights(self) -> tuple[float, ...]:
        return tuple(float(weight) for weight in self.manifest.fingerprinted_settings["data"]["events"].values())

    @property
    def cutoff(self) -> int:
        """Midnight UTC of the date, in microseconds: the run uses only events before it."""
        day = self.manifest.dt
        return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000

    @property
    def shares_users(self) -> bool:
        """Whether every user is in every arm."""
        return bool(self.manifest.fingerprinted_settings["arms"]["assignment"] == "all")

    @property
    def arm_settings(self) -> dict[str, dict[str, Any]]:
        """Settings of each arm, as in the config."""
        found: dict[str, dict[str, Any]] = self.manifest.fingerprinted_settings["arms"]["variants"]
        return found

    def histories(self, shard: int, users: pa.Array | None, min_events: int) -> pa.Table:
        """Read one DENOISED_HISTORY row per user with at least `min_events` positive events, ignoring the removals.

        `users`: only these; None: all users of the shard.
        """
        table = read_denoised(self.storage, self.manifest, shard)
        table = first_row_per_user(table if users is None else table.filter(pc.is_in(table["user_id"], users)))
        event = Ragged.from_arrow(table["event"])
        keep = event.like(np.ones(len(event.values), np.float32)).to_arrow(pa.float32())
        table = table.set_column(table.column_names.index("keep_weight"), DENOISED_HISTORY.field("keep_weight"), keep)
        return table.filter(pa.array(self.positive_events(table) >= min_events)).combine_chunks()

    def positive_events(self, histories: pa.Table) -> npt.NDArray[np.int64]:
        """Number of events with positive weight in each history, [users]."""
        event = Ragged.from_arrow(histories["event"])
        positive = np.asarray(self.event_weights)[event.values] > 0
        return np.bincount(event.rows[positive], minlength=len(event))

    def activity(self, histories: pa.Table) -> npt.NDArray[np.float64]:
        """Past activity of each user, [users, covariates]: see `evaluation.cuped.covariates`."""
        event, ts = Ragged.from_arrow(histories["event"]), Ragged.from_arrow(histories["ts"])
        positive = np.asarray(self.event_weights)[event.values] > 0
        age = (self.cutoff - ts.values[positive]) / MICROSECONDS_PER_DAY
        return covariates(event.rows[positive], age, len(event))

    def slates(self, shard: int, arm: str, users: pa.Array) -> pa.Table:
        """Read user_id, rank, item_id of these users' slates down to rank DEPTH; ids are dictionaries."""
        table = read_shard_slates(self.storage, self.manifest, arm, shard, _COLUMNS)
        return table.filter(pc.less_equal(table["rank"], DEPTH)).filter(pc.is_in(table["user_id"], users))

    def is_unseen(self, histories: pa.Table, user_id: pa.Array, item_id: pa.Array) -> pa.Array:
        """Mask of the (user, item) pairs that are not in the user's history, bool [pairs]."""
        item = Ragged.from_arrow(histories["item"])
        row = pc.index_in(user_id, histories["user_id"].combine_chunks()).fill_null(-1).to_numpy().astype(np.int64)
        code = pc.index_in(item_id, self.item_id).fill_null(-1).to_numpy().astype(np.int64)
        seen = item.rows * len(self.item_id) + item.values
        pair = np.where((row >= 0) & (code >= 0), row * len(self.item_id) + code, -1)
        return pa.array(~np.isin(pair, seen))

    def segment_features(self, histories: pa.Table, relevant: RelevantItems) -> tuple[SegmentFeatures, sp.csr_matrix]:
        """Segment features and category shares of each user, in the order of `relevant`."""
        rows = pc.index_in(relevant.user_id, histories["user_id"].combine_chunks())
        histories = histories.take(rows).combine_chunks()
        item, ts = Ragged.from_arrow(histories["item"]), Ragged.from_arrow(histories["ts"])
        category_shares = self.item_statistics.category_shares(item.values, item.rows, len(relevant))
        oldest = np.full(len(relevant), self.cutoff)
        some = np.flatnonzero(item.lengths)
        oldest[some] = ts.values[ts.offsets[some]]  # oldest first
        tenure = (self.cutoff - oldest) / MICROSECONDS_PER_DAY
        events, category = self.positive_events(histories), main_category(category_shares)
        return SegmentFeatures(events, tenure, category, self.activity(histories)), category_shares

    def standalone(self, histories: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        """Slates of DEPTH items by each standalone retriever; popularity first."""
        available = self.catalogue["available"].combine_chunks().to_numpy(zero_copy_only=False)
        stage = CandidateStage("standalone", (), available, self.retrieval.exclude_seen, self.event_weights)
        for name, source in sorted(self._sources.items(), key=lambda pair: (pair[0] != POPULARITY, pair[0])):
            found = replace(stage, sources=(source,))(histories)
            scores = Ragged.from_arrow(found[f"score.{name}"])
            places = best(scores, DEPTH)
            code = Ragged.from_arrow(found["candidate"]).values[places.values]
            rank = np.arange(len(places.values)) - places.offsets[places.rows] + 1
            users = found["user_id"].take(pa.array(places.rows))
            columns = {"user_id": users, "rank": pa.chunked_array([pa.array(rank)])}
            yield name, pa.table({**columns, "item_id": self.item_id.take(pa.array(code))})

    @cached_property
    def _sources(self) -> dict[str, Source]:
        model = self.model
        if model is None:
            return {}
        specs = source_specs(self.retrieval)
        fitted = [spec for spec in specs if spec.key in model.fitted]
        sources = {spec.name: Source(spec.name, DEPTH, model.retriever(spec)) for spec in fitted}
        sources.setdefault(POPULARITY, Source(POPULARITY, DEPTH, PopularityRetriever(model.count)))
        return sources


def is_participant(manifest: Manifest, users: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Mask of the users [n] in the experiment's layer; users outside it are not compared."""
    return in_layer(Arms.model_validate(manifest.fingerprinted_settings["arms"]).layer, users)
