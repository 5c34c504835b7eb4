"""Publishing: shard files, receipts, the manifest that publishes a date, and reading what is published."""

from rayrec.publishing.code_version import code_version, package_versions
from rayrec.publishing.manifest import find_manifest, published_dates
from rayrec.publishing.publishing_run import PublishingRun, PublishResult
from rayrec.publishing.records import InputRecord, Manifest, Provenance, PublishedFile, Receipt, RunRecord, UserCounts
from rayrec.publishing.slate_reader import read_manifest, read_slates

__all__ = [
    "InputRecord",
    "Manifest",
    "Provenance",
    "PublishResult",
    "PublishedFile",
    "PublishingRun",
    "Receipt",
    "RunRecord",
    "UserCounts",
    "code_version",
    "find_manifest",
    "package_versions",
    "published_dates",
    "read_manifest",
    "read_slates",
]
