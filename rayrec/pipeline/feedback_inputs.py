"""Which published dates and which files of feedback a run learns from: inputs of the run.

Only dates whose rewards were complete before the run's date count, and only dates since the run's oldest training
cutoff: the features of training examples are those of the cutoffs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, timedelta

from rayrec.config import Config
from rayrec.data.feedback_contract import feedback_files
from rayrec.data.input_files import InputFile, files_before
from rayrec.publishing.manifest import find_manifest, published_dates
from rayrec.publishing.records import InputRecord
from rayrec.storage import Storage, layout


@dataclass(frozen=True)
class FeedbackInputs:
    """The dates are published, oldest first. Empty where the blender does not learn from feedback."""

    run_ids: tuple[tuple[date, str], ...] = ()
    files: tuple[InputFile, ...] = ()
    too_recent: tuple[date, ...] = ()  # published, but their rewards may not be complete

    @property
    def dates(self) -> tuple[date, ...]:
        return tuple(day for day, _ in self.run_ids)

    @property
    def records(self) -> tuple[InputRecord, ...]:
        runs = (InputRecord(layout.manifest_path(day), 0, run_id) for day, run_id in self.run_ids)
        return (*runs, *(InputRecord(f"feedback: {file.path}", file.size, file.version) for file in self.files))

    def describe(self) -> str:
        """The dates, as text."""
        days = ", ".join(map(str, self.dates)) or "none"
        recent = f"; not yet of {', '.join(map(str, self.too_recent))}" if self.too_recent else ""
        return f"feedback on slates of {days}{recent}"


def feedback_inputs(config: Config, storage: Storage, day: date) -> FeedbackInputs:
    """What the run of a date learns from. Raises DataError if the log is missing."""
    learning, log = config.blend.feedback, config.feedback
    if learning is None or log is None:
        return FeedbackInputs()
    oldest = day - timedelta(days=int(config.blend.cutoffs * config.blend.horizon_days))
    window = math.ceil(max(learning.attribution_days, 1 + (log.attribution_hours or 0) / 24))
    there = [each for each in published_dates(storage.root) if oldest <= each < day]
    last = day - timedelta(days=window)
    used = [each for each in there if each <= last][-learning.dates :]
    manifests = [(each, find_manifest(storage, each)) for each in used]
    known = tuple((each, manifest.run_id) for each, manifest in manifests if manifest is not None)
    files = files_before(feedback_files(log, config.data.root)[1], day) if known else ()
    return FeedbackInputs(known, files, tuple(each for each in there if each > last))
