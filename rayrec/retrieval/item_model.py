"""The item model: all retrievers that the arms need, and statistics of each item, fitted once per cutoff.

Items are codes of the catalogue at the fit; `for_catalogue` converts them to another one. `item_model_store` saves and
loads the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.required_fit import RequiredFit
from rayrec.errors import DataError
from rayrec.numerics.hashing import digest
from rayrec.retrieval import item_statistics
from rayrec.retrieval.fit_data import FitData, FitDataCollector
from rayrec.retrieval.retriever import RETRIEVERS, Retriever, remap_rows
from rayrec.retrieval.source_specs import SourceSpec

VERSION = 3  # part of the fingerprint; raise it when the meaning of the arrays changes

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class DenoiserFit:
    """A denoiser's own fit, part of the item model. Its arrays must not contain item codes.

    `fit` gets the training data, and a function that fits `required_fits` on other data and returns their arrays, named
    as in `ItemModel.denoiser_arrays`.
    """

    key: str  # of the method and its settings
    required_fits: tuple[RequiredFit, ...]
    fit: Callable[[FitData, Callable[[FitData], Arrays]], Arrays]


@dataclass(frozen=True)
class FittedRetriever:
    method: str
    settings: Any  # those of the fit: an instance of the settings class of `method`
    arrays: Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class ItemModel:
    item_ids: pa.Array  # strings, by code
    cutoff: int  # microseconds UTC: events at or after it are excluded
    count: npt.NDArray[np.float32]  # [items] summed positive weight
    features: npt.NDArray[np.float32]  # [items, len(item_statistics.NAMES)]
    fitted: Mapping[str, FittedRetriever]  # by SourceSpec.key
    fitted_denoisers: Mapping[str, Arrays] = field(default_factory=dict)  # by DenoiserFit.key

    def retriever(self, spec: SourceSpec) -> Retriever:
        """The fitted retriever of a source. Raises DataError if the model was fitted without it."""
        if spec.key not in self.fitted:
            raise DataError(
                f"the item model was fitted without the source {spec.name!r}",
                where=f"retrieval.sources.{spec.name}",
                hint="run jobs.fit with this config",
            )
        return spec.retriever.load(self.fitted[spec.key].arrays, spec.settings)

    def denoiser_arrays(self, specs: Sequence[SourceSpec]) -> Arrays:
        """The arrays that denoisers load: `item.count`, and those of all fits, without copies.

        A fit's arrays are named by its key, `ease-0123456789abcdef.weights`. Those of the first fit of a method among
        these sources (else of its default) are also named by the method, `ease.weights`. See rayrec.data.required_fit.
        """
        arrays: Arrays = {"item.count": self.count}
        kinds = sorted({fitted.method for fitted in self.fitted.values()})
        chosen = [spec for kind in kinds for spec in (*specs, _default(kind)) if spec.fit_method == kind]
        for spec in reversed(chosen):  # so that the first of a method wins
            if spec.key in self.fitted:
                arrays.update(
                    {f"{spec.fit_method}.{name}": array for name, array in self.fitted[spec.key].arrays.items()}
                )
        for key, fitted in self.fitted.items():
            arrays.update({f"{key}.{name}": array for name, array in fitted.arrays.items()})
        for key, learned in self.fitted_denoisers.items():
            arrays.update({f"{key}.{name}": array for name, array in learned.items()})
        return arrays

    def factors(self, specs: Sequence[SourceSpec]) -> npt.NDArray[np.float32] | None:
        """iALS item factors [items, d] of the first of these sources that has some, else of the default fit."""
        for spec in (*specs, FACTORS):
            if spec.fit_method == "ials" and spec.key in self.fitted:
                found: npt.NDArray[np.float32] = self.fitted[spec.key].arrays["factors"]
                return found
        return None

    def for_catalogue(self, item_ids: pa.Array) -> ItemModel:
        """Convert the model to the codes of another catalogue; items that are not in the fit score 0."""
        if item_ids.equals(self.item_ids):
            return self
        codes = pc.index_in(self.item_ids, value_set=item_ids).fill_null(-1).to_numpy().astype(np.int64)
        items = len(item_ids)
        count = remap_rows(self.count, codes, items)
        features = remap_rows(self.features, codes, items, item_statistics.unseen_item_features())
        fitted = {}
        for key, old in self.fitted.items():
            moved = RETRIEVERS[old.method].load(old.arrays, old.settings).remap(codes, items)
            fitted[key] = replace(old, arrays=moved.arrays())
        return ItemModel(item_ids, self.cutoff, count, features, fitted, self.fitted_denoisers)


def _default(method: str) -> SourceSpec:
    return SourceSpec.of(method, method)


FACTORS = _default("ials")
"""The fit whose item factors denoisers and slates use if an arm has no iALS source of its own."""


def required_sources(
    arms: Iterable[Sequence[SourceSpec]], factors: bool, needs: Iterable[RequiredFit] = ()
) -> tuple[SourceSpec, ...]:
    """Distinct fits that the arms' sources and denoisers need.

    `factors`: whether item factors are needed, for denoising or slates. `needs`: the fits that denoisers require.
    """
    unique: dict[str, SourceSpec] = {}
    for specs in arms:
        for spec in specs:
            unique.setdefault(spec.key, spec)
        if factors and not any(spec.fit_method == "ials" for spec in specs):
            unique.setdefault(FACTORS.key, FACTORS)
    for need in needs:
        if need.settings is not None or all(spec.fit_method != need.method for spec in unique.values()):
            spec = SourceSpec.of(need.name, need.method, **(need.settings or {}))
            unique.setdefault(spec.key, spec)
    return tuple(unique.values())


def fingerprint(
    specs: Sequence[SourceSpec], *, cutoff: int, inputs: str, catalogue: str, max_events: int, **more: Any
) -> str:
    """Fingerprint of all inputs of the fit; `inputs` and `catalogue` are digests, `more` is JSON content."""
    keys = sorted({spec.key for spec in specs})
    return digest([VERSION, keys, cutoff, inputs, catalogue, max_events, more])


def fit(
    histories: Iterable[pa.Table],
    item_ids: pa.Array,
    specs: Sequence[SourceSpec],
    event_weights: Sequence[float],
    cutoff: int,
    max_events: int,
    denoiser_fits: Sequence[DenoiserFit] = (),
    catalogue: pa.Table | None = None,
) -> ItemModel:
    """Fit all `specs` on HISTORY tables, one per shard, in any order: the result does not depend on the sharding.

    `catalogue`: ITEM in the order of `item_ids`, for retrievers that read texts.
    Only positive events before `cutoff` (microseconds UTC) are used. If there are more than `max_events`, whole users
    are sampled by their stable hash. Memory: 20 bytes per event, plus one shard, plus the models.
    """
    collected = FitDataCollector(len(item_ids), np.asarray(event_weights, np.float32), cutoff, max_events)
    for table in histories:
        collected.add(table)
    return from_fit_data(replace(collected.finish(), catalogue=catalogue), item_ids, specs, denoiser_fits)


def from_fit_data(
    data: FitData,
    item_ids: pa.Array,
    specs: Sequence[SourceSpec],
    denoiser_fits: Sequence[DenoiserFit] = (),
    prefitted: Mapping[str, FittedRetriever] | None = None,
) -> ItemModel:
    """Fit a model on collected events, in the codes of `item_ids`. Fits in `prefitted`, by key, are reused."""
    given = prefitted or {}
    fitted = {**_fitted(data, [spec for spec in specs if spec.key not in given]), **given}
    learned = {learner.key: learner.fit(data, _refit(specs, learner.required_fits)) for learner in denoiser_fits}
    return ItemModel(item_ids, data.cutoff, _count(data), item_statistics.item_statistics(data), fitted, learned)


def _fitted(data: FitData, specs: Sequence[SourceSpec]) -> dict[str, FittedRetriever]:
    fitted = {}
    for spec in specs:
        settings = RETRIEVERS.settings(spec.fit_method, spec.settings.fit_settings)
        model = RETRIEVERS[spec.fit_method].fit(data, settings)
        fitted[spec.key] = FittedRetriever(spec.fit_method, settings, model.arrays())
    return fitted


def _count(data: FitData) -> npt.NDArray[np.float32]:
    return np.bincount(data.item, data.weight, minlength=data.matrix.shape[1]).astype(np.float32)


def _refit(specs: Sequence[SourceSpec], needs: Sequence[RequiredFit]) -> Callable[[FitData], Arrays]:
    """Create a function that fits `needs` on other data, with the settings of the model's own fits."""
    kinds = {need.method for need in needs if need.settings is None}
    keys = {need.name for need in needs if need.settings is not None}
    first = {spec.fit_method: spec.key for spec in reversed(specs) if spec.fit_method in kinds}
    wanted = [spec for spec in specs if spec.key in keys or first.get(spec.fit_method) == spec.key]

    def refit(data: FitData) -> Arrays:
        nobody = np.zeros((data.matrix.shape[1], 0), np.float32)
        model = ItemModel(pa.nulls(0, pa.string()), data.cutoff, _count(data), nobody, _fitted(data, wanted))
        return model.denoiser_arrays(wanted)

    return refit
