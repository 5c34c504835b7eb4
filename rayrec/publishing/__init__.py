"""Publishing: shard files, receipts, the manifest that publishes a date, and readers of publications."""

from rayrec.publishing.code_version import code_version, package_versions
from rayrec.publishing.manifest import find_manifest
from rayrec.publishing.publishing_run import PublishingRun, PublishResult
from rayrec.publishing.records import InputRecord, Manifest, Provenance, RunRecord, UserCounts
from rayrec.publishing.slate_reader import read_manifest

__all__ = [
    "InputRecord",
    "Manifest",
    "Provenance",
    "PublishResult",
    "PublishingRun",
    "RunRecord",
    "UserCounts",
    "code_version",
    "find_manifest",
    "package_versions",
    "read_manifest",
]
