"""Erases users (GDPR) from everything under `output.root`: `jobs.forget`.

    list      add the users to the erasure list: later ingests drop their rows, and earlier runs are not resumed
    plan      record which files hold their rows
    models    correct the date's item models, saved under the fingerprints that the date's next run looks for
    erase     remove their rows from publications, run artifacts, quarantine and reports; update the model in the
              manifest, and the files of lake tables (output.tables); delete derived data that may hold them (work/,
              other item models, blenders); mark LLM checkpoints stale
    verify    search output.root again, byte by byte in every format (rayrec.pipeline.erasure_search)
    certify   record what was found, what was done and what remains

Every step is idempotent. The next call completes any request without a certificate; the erasure list holds all that it
needs. Do not run this job while another runs: the other would fail on missing files.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date as Date
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from rayrec.config import Config
from rayrec.data import erasure_list
from rayrec.data.erasure_list import ErasureList, ErasureRequest
from rayrec.data.id_search import IdSearch
from rayrec.errors import DataError, NoInteractionsError, StorageError
from rayrec.pipeline.arm_settings import denoisers_of
from rayrec.pipeline.erasure_search import description, empty_temporary_folders, search
from rayrec.pipeline.interaction_ingest import histories, ingest, is_ingested, read_catalogue
from rayrec.pipeline.item_model_fitting import cutoffs, item_model_spec, required_denoiser_fits
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.user_data_inventory import delete_folders, erase, find_user_data
from rayrec.publishing.code_version import code_version
from rayrec.publishing.manifest import find_manifest, published_dates
from rayrec.publishing.records import utc_now
from rayrec.publishing.tables.table_registration import open_tables, update_tables
from rayrec.ray_support.cluster import task, wait_for
from rayrec.retrieval import item_model_store, unlearning
from rayrec.retrieval.fit_data import FitDataCollector
from rayrec.storage import Storage, artifacts, layout, published_folder

LLM_FOLDER = layout.model_kind_folder(layout.LLM_KIND)

REMAINING = {
    "input data": "rayrec does not change it; every ingest drops their rows and counts the users as ineligible",
    "LLM checkpoints": "those listed are marked stale and not loaded; delete them once a run has tuned a new one",
    "item factors (iALS)": "factors of their items were solved again; others keep a trace until the next fit",
    "counts": "manifests, receipts, reports and metrics keep sums over all users of their date",
    "the erasure list": "salted tokens, so that the users are recognised if their events come again",
    "rows without a user in quarantine": "their contents were deleted, since they may be of anybody; file, row number "
    "and reason remain",
    "requests that few users share": "a text whose users may now be fewer than five is only counted in the reports",
    "copies elsewhere": "readers of the slates, backups, earlier versions in a versioned bucket, caches of models, "
    "nodes that are gone, logs of a Ray cluster",
}
"""What remains after an erasure, and why; part of every certificate."""


def add_to_erasure_list(storage: Storage, user_ids: pa.Array) -> int:
    """Add users to the erasure list and return the number of new ones."""
    storage.require_atomic_create()
    request = erasure_list.add(storage, user_ids)
    return 0 if request is None else len(request.tokens)


def newest_context(config: Config, date: Date | None) -> RunContext | None:
    """The run of `date`, or of the newest published date, whose item models are corrected; None if there is none."""
    dates = [date] if date is not None else published_dates(config.output.root)
    return RunContext(config, dates[-1]) if dates else None


def execute(
    config: Config,
    request: ErasureRequest,
    context: RunContext | None,
    user_ids: Sequence[str] = (),
    others: Sequence[str] = (),
) -> str:
    """Fulfil a request and return the certificate's path. With a `context`, a Ray cluster must be connected.

    `user_ids`: the users of this call, whose ids are searched byte by byte. `others`: files and folders that are not
    output, such as the users' own file; they are not searched, even below output.root. Raises StorageError if rows of
    the request's users, or these ids, are found afterwards.
    """
    storage = Storage(config.output.root)
    erased = erasure_list.of(storage, request)
    staging_files = storage.delete_staging_files()
    plan = _plan(storage, request, erased)
    models = [] if context is None else unlearn(_as_published(context, erasure_list.before(storage, request)), context)
    stale = _mark_stale(storage, request)
    retrained = {model["before"]: model["after"] for model in models}
    found = len(plan["tokens"])
    emptied = erase(storage, [file["path"] for file in plan["files"]], erased, retrained, found)
    update_tables(open_tables(storage, config.output.tables, with_others=True))
    deleted = _delete_derived(storage, context, {model["after"] for model in models})
    folders = empty_temporary_folders()
    ids = IdSearch(user for user in user_ids if erased.token(user) in erased.tokens)
    searched = search(storage, ids.ids, others)
    left = sorted({file.path for file in find_user_data(storage, erased)} | set(searched.found))
    if left:
        raise StorageError(
            f"{len(left)} files still hold rows or ids of users on the erasure list",
            where=", ".join(storage.url(path) for path in left[:5]),
            hint="no finished run wrote them: make sure that none is active, delete them, and run jobs.forget again",
        )
    certificate = {
        "request": request.id,
        "requested_at": request.requested_at,
        "completed_at": utc_now(),
        "code_version": code_version(),
        "config": config.name,
        "users": {"in_request": len(request.tokens), "found": found, "not_found": len(request.tokens) - found},
        "date": None if context is None else context.dt,
        "item_models": models,
        "removed": plan["summary"],
        "deleted": deleted,
        "stale_checkpoints": stale,
        "quarantined_rows_emptied": emptied,
        "staging_files_deleted": staging_files,
        "verified": "no file under output.root holds a row of theirs, or an id that was searched byte by byte",
        "searched": description(searched, ids, len(request.tokens), folders),
        "remains": REMAINING,
    }
    path = layout.erasure_certificate_path(request.id)
    storage.create(path, (json.dumps(certificate, indent=1) + "\n").encode())
    return path


def _as_published(context: RunContext, listed: ErasureList) -> RunContext:
    """The date's run with the code version that published it and with `listed` as the erasure list."""
    manifest = find_manifest(context.storage, context.date)
    return RunContext(
        context.config, context.date, listed, context.code_version if manifest is None else manifest.code_version
    )


def unlearn(before: RunContext, now: RunContext) -> list[dict[str, Any]]:
    """Remove the users on the erasure list of `now` from the item models of `before`, saved under new fingerprints.

    Returns a row per model; [] if the histories of `before` are gone, or nobody is left, in which case its models are
    deleted instead.
    """
    if not is_ingested(before):
        return []
    try:
        old, new = ingest(before), ingest(now)
    except NoInteractionsError:
        return []
    rows = []
    for cut in cutoffs(now):
        _, old_fingerprint = item_model_spec(before, old, cut)
        _, fingerprint = item_model_spec(now, new, cut)
        if not artifacts.exists(now.storage, item_model_store.KIND, fingerprint):
            if not artifacts.exists(before.storage, item_model_store.KIND, old_fingerprint):
                continue
            correcting = task(_unlearn, now.config.resources.fit_num_cpus)
            wait_for(correcting.remote(before, now, cut, old_fingerprint, fingerprint), name="unlearn")
        how = artifacts.load_meta(now.storage, item_model_store.KIND, fingerprint)["more"].get("unlearned")
        rows.append({"before": old_fingerprint, "after": fingerprint, "cut": cut, "sources": how})
    return rows


def _unlearn(before: RunContext, now: RunContext, cut: int, old_fingerprint: str, fingerprint: str) -> None:
    model = item_model_store.load(before.storage, old_fingerprint)
    specs, _ = item_model_spec(now, ingest(now), cut)
    most, weights = now.config.fit.max_events, np.asarray(now.event_weights, np.float32)
    catalogue = read_catalogue(now)
    item_ids = catalogue["item_id"].combine_chunks()
    theirs, others = (
        FitDataCollector(len(model.item_ids), weights, cut, most),
        FitDataCollector(len(item_ids), weights, cut, most),
    )
    for shard in range(now.config.data.shard_count):
        table = histories(before, shard)
        theirs.add(table.filter(pa.array(now.erasure_list.contains(table["user_id"]))))
        others.add(histories(now, shard))
    rows = theirs.finish().matrix if theirs.added else sp.csr_matrix((0, len(model.item_ids)), dtype=np.float32)
    found = unlearning.unlearn_users(
        model,
        rows,
        replace(others.finish(), catalogue=catalogue),
        item_ids,
        specs,
        required_denoiser_fits(denoisers_of(now)),
        sampled=theirs.added + others.added > most,
    )
    item_model_store.save(now.storage, fingerprint, found.model, {"unlearned": list(found.how)})


def _plan(storage: Storage, request: ErasureRequest, erased: ErasureList) -> dict[str, Any]:
    """The files that hold rows of these users before any change."""
    path = layout.erasure_plan_path(request.id)
    if not storage.exists(path):
        found = find_user_data(storage, erased)
        counts: dict[str, Counter[str]] = {}
        for file in found:
            counts.setdefault(file.kind, Counter()).update(files=1, rows=file.rows)
        tokens = sorted({token for file in found for token in file.tokens})
        plan = {
            "files": [{"path": file.path, "rows": file.rows} for file in found],
            "summary": {kind: dict(count) for kind, count in sorted(counts.items())},
            "tokens": tokens,
        }
        storage.create(path, (json.dumps(plan, indent=1) + "\n").encode())
    try:
        content: dict[str, Any] = json.loads(storage.read(path))
    except ValueError:
        raise DataError(
            "the plan of the erasure cannot be read",
            where=storage.url(path),
            hint="delete it, and run jobs.forget again",
        ) from None
    return content


def _mark_stale(storage: Storage, request: ErasureRequest) -> list[str]:
    """Mark every LLM checkpoint stale: its training users are not recorded, and every run tunes its own.

    Also deletes unfinished tunings. Returns all stale checkpoints, of this request and of earlier ones.
    """
    why: Mapping[str, str] = {"request": request.id, "marked_at": utc_now()}
    for path in published_folder.folders(storage, LLM_FOLDER, stale=False):
        published_folder.mark_stale(storage, path, why)
    stale = published_folder.folders(storage, LLM_FOLDER, stale=True)
    delete_folders(storage, LLM_FOLDER, set(stale), 3)
    return stale


def _delete_derived(storage: Storage, context: RunContext | None, kept_models: set[str]) -> dict[str, list[str]]:
    """Delete derived data: work folders, and all models except LLMs and `kept_models`."""
    work = set() if context is None else {context.work_folder}
    kinds = {info.path.split("/")[1] for info in storage.list(layout.MODELS)} - {layout.LLM_KIND}
    models = {layout.model_folder(item_model_store.KIND, fingerprint) for fingerprint in kept_models}
    return {
        "work": delete_folders(storage, layout.WORK, work, 3),
        "models": [
            path
            for kind in sorted(kinds)
            for path in delete_folders(storage, layout.model_kind_folder(kind), models, 3)
        ],
    }
