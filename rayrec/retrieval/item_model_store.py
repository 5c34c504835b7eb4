"""Storage of item models as artifacts: arrays in safetensors, everything else in meta.json."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.errors import DataError
from rayrec.retrieval import item_statistics
from rayrec.retrieval.item_model import VERSION, Arrays, FittedRetriever, ItemModel
from rayrec.retrieval.retriever import RETRIEVERS
from rayrec.storage import Storage, artifacts, layout

KIND = "item_model"  # of the artifact


def save(storage: Storage, fingerprint: str, model: ItemModel, more: Mapping[str, Any] | None = None) -> bool:
    """Save the model. Returns False if another run saved it first. `more`: JSON content for meta.json."""
    text, offsets = _strings_to_arrays(model.item_ids)
    arrays: dict[str, npt.NDArray[Any]] = {
        "item.count": model.count,
        "item.features": model.features,
        "item.text": text,
        "item.offsets": offsets,
    }
    for key, fitted in model.fitted.items():
        arrays.update({f"{key}/{name}": array for name, array in fitted.arrays.items()})
    for key, fit_arrays in model.fitted_denoisers.items():
        arrays.update({f"denoisers/{key}/{name}": array for name, array in fit_arrays.items()})
    fits = {
        key: {
            "method": fit.method,
            "settings": fit.settings.fit_settings,
            "summary": RETRIEVERS[fit.method].summary(fit.arrays),
        }
        for key, fit in model.fitted.items()
    }
    meta = {
        "version": VERSION,
        "cutoff": model.cutoff,
        "fitted": fits,
        "denoisers": sorted(model.fitted_denoisers),
        "features": item_statistics.NAMES,
        "more": dict(more or {}),
    }
    return artifacts.save(storage, KIND, fingerprint, arrays, meta)


def summaries(storage: Storage, fingerprint: str) -> dict[str, str]:
    """What the fits chose by themselves, by key; raises as `load`."""
    fits = artifacts.load_meta(storage, KIND, fingerprint)["fitted"]
    return {key: entry["summary"] for key, entry in fits.items() if entry.get("summary")}


def load(storage: Storage, fingerprint: str) -> ItemModel:
    """Load a model; its arrays are read-only, and one copy for all processes of a node.

    Raises MissingFileError if there is none, DataError if it cannot be read.
    """
    return _model(storage, artifacts.load_mapped(storage, KIND, fingerprint))


def load_part(storage: Storage, fingerprint: str, kinds: Collection[str] = ()) -> ItemModel:
    """Load only the item statistics and the fits of these methods. Raises as `load`."""
    fits = artifacts.load_meta(storage, KIND, fingerprint).get("fitted", {})
    wanted = [f"{key}/" for key, entry in fits.items() if entry["method"] in kinds]
    return _model(storage, artifacts.load_part(storage, KIND, fingerprint, ("item.", *wanted)), kinds)


def _model(storage: Storage, stored: artifacts.Artifact, kinds: Collection[str] | None = None) -> ItemModel:
    """Load the whole model, or only the fits of `kinds`, without denoisers' fits."""
    arrays, meta = stored.arrays, stored.meta
    if meta.get("version") != VERSION or tuple(meta.get("features", ())) != item_statistics.NAMES:
        raise DataError(
            "the item model was saved by another version of rayrec",
            where=storage.url(layout.model_folder(KIND, stored.fingerprint)),
            hint="delete the artifact's folder; the next run fits again",
        )
    fitted = {}
    for key, entry in meta["fitted"].items():
        if kinds is None or entry["method"] in kinds:
            fitted[key] = FittedRetriever(
                entry["method"], RETRIEVERS.settings(entry["method"], entry["settings"]), _under(f"{key}/", arrays)
            )
    learned = {key: _under(f"denoisers/{key}/", arrays) for key in meta.get("denoisers", ()) if kinds is None}
    item_ids = _strings_from_arrays(arrays["item.text"], arrays["item.offsets"])
    return ItemModel(item_ids, meta["cutoff"], arrays["item.count"], arrays["item.features"], fitted, learned)


def _under(prefix: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _strings_to_arrays(strings: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    plain = strings.combine_chunks() if isinstance(strings, pa.ChunkedArray) else strings
    whole = pa.concat_arrays([plain])  # without an offset of a slice
    _, offsets, text = whole.buffers()
    ends = np.frombuffer(offsets, np.int32)[whole.offset : whole.offset + len(whole) + 1]
    letters = np.frombuffer(text, np.uint8)[ends[0] : ends[-1]] if text is not None else np.zeros(0, np.uint8)
    return letters, (ends - ends[0]).astype(np.int64)


def _strings_from_arrays(text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> pa.Array:
    found = pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(text))
    found.validate(full=True)  # UTF-8, and offsets within the text
    return found
