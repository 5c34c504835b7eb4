"""Explanations of published slates: which part of a user's history keeps them, by the run's EASE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.evaluation.history_explanation import Explanation, linear_history
from rayrec.evaluation.published_run import PublishedRun
from rayrec.numerics.hashing import shard_of
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Float32s, Int64s
from rayrec.publishing.slate_reader import read_denoised, read_slates
from rayrec.retrieval.ease import EaseRetriever
from rayrec.retrieval.source_specs import SourceSpec, source_specs
from rayrec.retrieval.user_histories import clipped_matrix

COLUMNS = 5_000  # items that are ranked again, where the catalogue is too large for all
DEPTH = 3  # an item of a slate of 10 ranks is kept while it is among EASE's 30 best: the blend has other sources too


@dataclass(frozen=True)
class SlateExplainer:
    """Explains slates of a published run. Reads only from its output root."""

    run: PublishedRun
    variants: Mapping[str, str]  # arm -> its denoising variant, whose retained events explain the arm's slates

    @property
    def unavailable(self) -> str:
        """Why nothing can be explained; empty if slates can."""
        if self.run.model is None:
            return "the item model of the run no longer exists"
        return "" if self._spec is not None else "no source of the run is EASE, which explains"

    def explain(self, users: Sequence[str], ranks: int) -> dict[tuple[str, str], Explanation]:
        """By (user, arm), for the first ranks of each slate; users and arms without a history or slate are left out."""
        if self.unavailable or not users:
            return {}
        wanted = pa.array(users, pa.string())
        shards = sorted(set(shard_of(wanted, self.run.manifest.shards).tolist()))
        tables = [read_denoised(self.run.storage, self.run.manifest, shard) for shard in shards]
        denoised = pa.concat_tables(tables)
        denoised = denoised.filter(pc.is_in(denoised["user_id"], wanted)).combine_chunks()
        slates = read_slates(self.run.storage.root, self.run.manifest.dt, users=list(users))
        slates = slates.filter(pc.less_equal(slates["rank"], ranks))
        found = {}
        for user in users:
            rows = denoised.filter(pc.equal(denoised["user_id"], user))
            own = slates.filter(pc.equal(slates["user_id"], user))
            for arm in self.run.manifest.arms:
                explanation = self._explain(rows, own.filter(pc.equal(own["arm"], arm)), arm)
                if explanation is not None:
                    found[user, arm] = explanation
        return found

    def _explain(self, rows: pa.Table, slate: pa.Table, arm: str) -> Explanation | None:
        if not rows.num_rows or not slate.num_rows:
            return None
        of_arm = rows.filter(pc.equal(rows["variant"], self.variants.get(arm, "")))
        row = (of_arm if of_arm.num_rows else rows).slice(0, 1).combine_chunks()
        item, event = Ragged.from_arrow(row["item"]), Ragged.from_arrow(row["event"])
        weight = np.asarray(self.run.event_weights, np.float32)[event.values]
        weight = weight * Ragged.from_arrow(row["keep_weight"]).values
        own = item.filter(weight > 0)
        profile = clipped_matrix(weight[weight > 0], own.values, own.offsets, len(self.run.catalogue))
        ids = pc.index_in(slate.sort_by("rank")["item_id"].cast(pa.string()), self.run.item_id)
        codes = ids.drop_null().to_numpy().astype(np.int64)
        if not len(profile.indices) or not len(codes) or self._spec is None:
            return None
        own_codes = profile.indices.astype(np.int64)
        columns, weights = self._rows(own_codes, codes)
        history = linear_history(np.searchsorted(columns, own_codes).tolist(), profile.data, weights)
        found = history.explain(np.searchsorted(columns, codes), DEPTH * len(codes))
        return replace(found, items=tuple(int(columns[place]) for place in found.items))

    def _rows(self, codes: Int64s, slate: Int64s) -> tuple[Int64s, Float32s]:
        """Item codes, ascending, and EASE's weights from the items `codes` to them, [n, len(columns)].

        All items; of the sparse solver those of the history, of the slate, and the COLUMNS that can score highest.
        """
        ease = self._ease
        if not isinstance(ease.weights, np.ndarray):
            rows = ease.weights[codes]
            highest = np.asarray(rows.maximum(0).sum(0)).ravel()
            best = np.argsort(-highest, kind="stable")[:COLUMNS]
            columns = np.unique(np.concatenate([best, codes, slate])).astype(np.int64)
            return columns, np.asarray(rows[:, columns].toarray(), np.float32)
        found = np.zeros((len(codes), ease.items), np.float32)
        slot = np.full(ease.items, -1, np.int64)
        slot[ease.active] = np.arange(len(ease.active))
        known = slot[codes] >= 0
        found[np.ix_(known, ease.active)] = ease.weights[slot[codes[known]]]
        return np.arange(ease.items), found

    @cached_property
    def _spec(self) -> SourceSpec | None:
        model = self.run.model
        specs = (spec for spec in source_specs(self.run.retrieval) if spec.fit_method == EaseRetriever.name)
        return next((spec for spec in specs if model is not None and spec.key in model.fitted), None)

    @cached_property
    def _ease(self) -> EaseRetriever:
        assert self.run.model is not None
        assert self._spec is not None
        found = self.run.model.retriever(self._spec)
        assert isinstance(found, EaseRetriever)
        return found
