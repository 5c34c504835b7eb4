"""Publishing without users who were erased while the run worked."""

from __future__ import annotations

from rayrec.data import erasure_list
from rayrec.pipeline.run_context import RunContext
from rayrec.publishing import erasure
from rayrec.publishing.publishing_run import PublishingRun, PublishResult
from rayrec.publishing.records import Provenance


def publish_unless_erased(context: RunContext, run: PublishingRun, provenance: Provenance) -> PublishResult:
    """Publish, if the erasure list is the one that the run began with. Raises PublicationError if it has grown.

    The list may also grow between this check and the publication, after jobs.forget searched the publications. So it is
    read again afterwards, and the publication is then erased as jobs.forget would have done it.
    """
    context.require_same_erasure_list()
    result = run.publish(provenance)
    now = erasure_list.read(context.storage)
    if now.digest != context.erasure_list.digest:
        erasure.erase(context.storage, run.product.name, context.date, now)
    return result
