"""The item model: every retriever that some arm needs, and what is known of each item, fitted once and loaded anywhere.

Items are codes of the catalogue it was fitted with; `for_catalogue` moves it to another one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.required_fit import RequiredFit
from rayrec.errors import DataError
from rayrec.numerics.hashing import digest
from rayrec.retrieval import item_statistics
from rayrec.retrieval.fit_data import FitDataCollector
from rayrec.retrieval.retriever import RETRIEVERS, FitData, Retriever
from rayrec.retrieval.source_specs import SourceSpec
from rayrec.storage import Storage, artifacts, layout

KIND = "item_model"
VERSION = 1  # part of the fingerprint: raised when the meaning of the arrays changes

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class DenoiserFit:
    """What a stage learns once a fit, from the events of the fit; the result holds no item codes.

    `learn` gets the fit's data and a function that fits `needs` on other data and gives their arrays, named as
    `ItemModel.denoiser_arrays` names them.
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
    cutoff: int  # microseconds UTC: nothing at or after this was known
    count: npt.NDArray[np.float32]  # [items] summed positive weight
    features: npt.NDArray[np.float32]  # [items, len(item_statistics.NAMES)]
    fitted: Mapping[str, FittedRetriever]  # by SourceSpec.key
    fitted_denoisers: Mapping[str, Arrays] = field(default_factory=dict)  # by Learner.key

    def retriever(self, spec: SourceSpec) -> Retriever:
        """Ready to score. Raises DataError if the model was fitted without it."""
        if spec.key not in self.fitted:
            raise DataError(
                f"the item model was fitted without the source {spec.name!r}",
                where=f"retrieval.sources.{spec.name}",
                hint="run jobs.fit with this config",
            )
        return spec.retriever.load(self.fitted[spec.key].arrays, spec.settings)

    def denoiser_arrays(self, specs: Sequence[SourceSpec]) -> Arrays:
        """What denoisers load: `item.count`, the fits' arrays, and what was learned, without a copy.

        A fit's arrays go by its kind, `ease.weights`, for the first of that kind among these sources (else the
        default's), and by its key, `ease-0123456789abcdef.weights`; see rayrec.data.required_fit.
        """
        arrays: Arrays = {"item.count": self.count}
        kinds = sorted({fitted.method for fitted in self.fitted.values()})
        chosen = [spec for kind in kinds for spec in (*specs, _default(kind)) if spec.fit_method == kind]
        for spec in reversed(chosen):  # so that the first of a kind stands
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
        """iALS item factors [items, d]: of the first of these sources that has some, else the default's."""
        for spec in (*specs, FACTORS):
            if spec.fit_method == "ials" and spec.key in self.fitted:
                found: npt.NDArray[np.float32] = self.fitted[spec.key].arrays["factors"]
                return found
        return None

    def for_catalogue(self, item_ids: pa.Array) -> ItemModel:
        """The same model by the codes of another catalogue; items it has never seen score 0."""
        if item_ids.equals(self.item_ids):
            return self
        codes = pc.index_in(self.item_ids, value_set=item_ids).fill_null(-1).to_numpy().astype(np.int64)
        items, stays = len(item_ids), codes >= 0
        count, features = np.zeros(items, np.float32), np.tile(item_statistics.unseen_item_features(), (items, 1))
        count[codes[stays]], features[codes[stays]] = self.count[stays], self.features[stays]
        fitted = {}
        for key, old in self.fitted.items():
            moved = RETRIEVERS[old.method].load(old.arrays, old.settings).remap(codes, items)
            fitted[key] = replace(old, arrays=moved.arrays())
        return ItemModel(item_ids, self.cutoff, count, features, fitted, self.fitted_denoisers)


def _default(method: str) -> SourceSpec:
    return SourceSpec.of(method, method)


FACTORS = _default("ials")
"""The factors that denoisers and slates use where an arm has no iALS source of its own."""


def required_sources(
    arms: Iterable[Sequence[SourceSpec]], factors: bool, needs: Iterable[RequiredFit] = ()
) -> tuple[SourceSpec, ...]:
    """The fits that the arms' sources need, each once; with factors where something asks for them.

    `factors`: some arm denoises, or makes its slates by item factors. `needs`: what the denoisers ask for.
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
    """Of everything that can change the model; `inputs` and `catalogue` are digests, `more` is plain content."""
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
) -> ItemModel:
    """Fit all `specs` on HISTORY tables, one a shard, in any order: the result does not depend on the sharding.

    Only positive events before `cut` (microseconds UTC) count; beyond `max_events` of them, whole users are left out,
    chosen by their stable hash. Memory: 20 bytes an event, plus one shard, plus the models.
    """
    collected = FitDataCollector(len(item_ids), np.asarray(event_weights, np.float32), cutoff, max_events)
    for table in histories:
        collected.add(table)
    return from_fit_data(collected.finish(), item_ids, specs, denoiser_fits)


def from_fit_data(
    data: FitData,
    item_ids: pa.Array,
    specs: Sequence[SourceSpec],
    denoiser_fits: Sequence[DenoiserFit] = (),
    prefitted: Mapping[str, FittedRetriever] | None = None,
) -> ItemModel:
    """The model of collected events, in the codes of `item_ids`; fits in `made`, by key, are taken as they are."""
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
    """Fits of other data, of what is needed alone, with the settings that the model's own fits have."""
    kinds = {need.method for need in needs if need.settings is None}
    keys = {need.name for need in needs if need.settings is not None}
    first = {spec.fit_method: spec.key for spec in reversed(specs) if spec.fit_method in kinds}
    wanted = [spec for spec in specs if spec.key in keys or first.get(spec.fit_method) == spec.key]

    def refit(data: FitData) -> Arrays:
        nobody = np.zeros((data.matrix.shape[1], 0), np.float32)
        model = ItemModel(pa.nulls(0, pa.string()), data.cutoff, _count(data), nobody, _fitted(data, wanted))
        return model.denoiser_arrays(wanted)

    return refit


def save(storage: Storage, fingerprint: str, model: ItemModel, more: Mapping[str, Any] | None = None) -> bool:
    """False if another run saved it first. `more`: plain content to keep in meta.json."""
    text, offsets = _strings_to_arrays(model.item_ids)
    arrays: dict[str, npt.NDArray[Any]] = {
        "item.count": model.count,
        "item.features": model.features,
        "item.text": text,
        "item.offsets": offsets,
    }
    for key, fitted in model.fitted.items():
        arrays.update({f"{key}/{name}": array for name, array in fitted.arrays.items()})
    for key, learned in model.fitted_denoisers.items():
        arrays.update({f"learned/{key}/{name}": array for name, array in learned.items()})
    fits = {key: {"method": fit.method, "settings": fit.settings.fit_settings} for key, fit in model.fitted.items()}
    meta = {
        "version": VERSION,
        "cut": model.cutoff,
        "fitted": fits,
        "learned": sorted(model.fitted_denoisers),
        "features": item_statistics.NAMES,
        "more": dict(more or {}),
    }
    return artifacts.save(storage, KIND, fingerprint, arrays, meta)


def load(storage: Storage, fingerprint: str) -> ItemModel:
    """Raises MissingFileError where there is none, DataError where it cannot be read."""
    return _model(storage, artifacts.load(storage, KIND, fingerprint))


def load_part(storage: Storage, fingerprint: str, kinds: Collection[str] = ()) -> ItemModel:
    """What is known of the items, with the fits of these kinds alone: the others are neither read nor held.

    Raises as `load` does.
    """
    fits = artifacts.load_meta(storage, KIND, fingerprint).get("fitted", {})
    wanted = [f"{key}/" for key, entry in fits.items() if entry["method"] in kinds]
    return _model(storage, artifacts.load_part(storage, KIND, fingerprint, ("item.", *wanted)), kinds)


def _model(storage: Storage, stored: artifacts.Artifact, kinds: Collection[str] | None = None) -> ItemModel:
    """Of all that was saved, or without what was learned and with the fits of `kinds` alone."""
    arrays, meta = stored.arrays, stored.meta
    if meta.get("version") != VERSION or tuple(meta.get("features", ())) != item_statistics.NAMES:
        raise DataError(
            "the item model was saved by another version of rayrec",
            where=storage.url(layout.model_folder(KIND, stored.fingerprint)),
            hint="delete the artefact's folder; the next run fits again",
        )
    fitted = {}
    for key, entry in meta["fitted"].items():
        if kinds is None or entry["method"] in kinds:
            fitted[key] = FittedRetriever(
                entry["method"], RETRIEVERS.settings(entry["method"], entry["settings"]), _under(f"{key}/", arrays)
            )
    learned = {key: _under(f"learned/{key}/", arrays) for key in meta.get("learned", ()) if kinds is None}
    item_ids = _strings_from_arrays(arrays["item.text"], arrays["item.offsets"])
    return ItemModel(item_ids, meta["cut"], arrays["item.count"], arrays["item.features"], fitted, learned)


def _under(prefix: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _strings_to_arrays(strings: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    encoded = [text.encode() for text in strings.to_pylist()]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    return np.frombuffer(b"".join(encoded), np.uint8), offsets


def _strings_from_arrays(text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> pa.Array:
    whole = text.tobytes()
    return pa.array([whole[a:b].decode() for a, b in pairwise(offsets)], pa.string())
