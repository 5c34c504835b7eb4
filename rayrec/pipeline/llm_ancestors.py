"""The models of earlier runs from which the tuning of a run's LLMs may start (`tuning.warm_start`).

For a model as of a cutoff it is that of the newest date published at or before the cutoff, which knows nothing after
it. Never used are models of another code version, architecture or base; those tuned under another erasure list, or
marked stale (`jobs.forget` marks every LLM, and so the descendants of one that saw an erased user); and those that are
`MOST_GENERATIONS` warm starts away from a cold one, so that nothing is inherited for ever.
"""

from __future__ import annotations

from rayrec.numerics.hashing import digest
from rayrec.pipeline.arm_settings import needs_tuned_llm
from rayrec.pipeline.item_model_fitting import configured_cutoffs
from rayrec.pipeline.run_context import RunContext, microseconds
from rayrec.publishing.manifest import find_manifest, published_dates
from rayrec.publishing.records import Manifest
from rayrec.reranking.item_token import tuned_checkpoint
from rayrec.reranking.training.warm_start import Ancestor, same_scheme
from rayrec.storage import layout, published_folder

MOST_GENERATIONS = 30


def find_ancestors(context: RunContext) -> dict[int, Ancestor]:
    """The ancestor of each of the run's cutoffs that has one; they are inputs of the run."""
    if context.config.tuning.warm_start == "none" or not needs_tuned_llm(context):
        return {}
    published = [day for day in published_dates(context.storage.root) if day < context.date]
    found = {}
    for cutoff in configured_cutoffs(context):
        newest = max((day for day in published if microseconds(day) <= cutoff), default=None)
        manifest = None if newest is None else find_manifest(context.storage, newest)
        ancestor = None if manifest is None else _usable(context, manifest)
        if ancestor is not None:
            found[cutoff] = ancestor
    return found


def _usable(context: RunContext, manifest: Manifest) -> Ancestor | None:
    fingerprint, storage = manifest.models.get(layout.LLM_KIND), context.storage
    listed = next((one.version for one in manifest.inputs if one.path == layout.ERASURE), None)
    known = context.erasure_list.digest if context.erasure_list else None
    if fingerprint is None or manifest.code_version != context.code_version or listed != known:
        return None
    path = layout.model_folder(layout.LLM_KIND, fingerprint)
    if not published_folder.exists(storage, path) or storage.exists(layout.llm_stale_path(path)):
        return None
    card = tuned_checkpoint.read_model_card(storage, path)
    if not same_scheme(card, context.config.tuning, context.base or "scratch"):
        return None
    if len(card.ancestors) >= MOST_GENERATIONS:
        return None
    files = digest(published_folder.read_record(storage, path)["files"])
    return Ancestor(path, microseconds(manifest.dt), files)
