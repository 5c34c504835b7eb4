"""Shard files, receipts, the manifest that publishes a day, and the reader that follows it."""

from rayrec.publishing.manifest import find_manifest, published_dates
from rayrec.publishing.reader import read_manifest, read_slates
from rayrec.publishing.records import Input, Manifest, Provenance, Receipt, RunRecord, SlateFile, UserCounts
from rayrec.publishing.run import Publication, Run
from rayrec.publishing.versions import code_version, versions

__all__ = [
    "Input",
    "Manifest",
    "Provenance",
    "Publication",
    "Receipt",
    "Run",
    "RunRecord",
    "SlateFile",
    "UserCounts",
    "code_version",
    "find_manifest",
    "published_dates",
    "read_manifest",
    "read_slates",
    "versions",
]
