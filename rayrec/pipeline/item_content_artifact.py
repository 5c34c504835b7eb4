"""The sparse item vectors of a run's catalogue, built once and loaded by every worker."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import scipy.sparse as sp

from rayrec.config.scoring_sections import BEST
from rayrec.data.item_content import item_content
from rayrec.numerics.hashing import digest
from rayrec.pipeline.run_context import RunContext
from rayrec.storage import artifacts

KIND = "item_content"  # of the artifact
_PARTS = ("data", "indices", "indptr")


def content_views(context: RunContext) -> tuple[str, ...]:
    """The views that the config's content features need."""
    return tuple(dict.fromkeys(name.removesuffix(BEST) for name in context.config.blend.content_features))


def load_item_content(context: RunContext, catalogue: pa.Table) -> Mapping[str, sp.csr_matrix]:
    """float32 CSR [items, terms] by view. The first worker that needs them builds and saves them."""
    views = content_views(context)
    if not views:
        return {}
    fingerprint = digest([views, context.data_fingerprint])
    if not artifacts.exists(context.storage, KIND, fingerprint):
        built = item_content(catalogue, views)
        arrays = {f"{view}.{part}": getattr(matrix, part) for view, matrix in built.items() for part in _PARTS}
        widths = {view: matrix.shape[1] for view, matrix in built.items()}
        artifacts.save(context.storage, KIND, fingerprint, arrays, {"terms": widths})
        return built
    stored = artifacts.load(context.storage, KIND, fingerprint)
    return {
        view: sp.csr_matrix(
            tuple(stored.arrays[f"{view}.{part}"] for part in _PARTS), (catalogue.num_rows, stored.meta["terms"][view])
        )
        for view in views
    }
