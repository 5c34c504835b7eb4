"""`report.html`: one self-contained page about one day, for the person who decides whether to trust it.

    write_report(data, storage)      # reports/dt=D/report.html, and report.json to make it from again

No script, no network, no fonts; light and dark; readable on a phone and on paper. All text is escaped by the template.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from functools import cache

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from rayrec.errors import DataError, MissingFileError
from rayrec.monitoring.guardrails import guardrails
from rayrec.monitoring.progress import format_duration
from rayrec.reporting import charts, views
from rayrec.reporting.report_data import ReportData
from rayrec.storage import Storage, layout

MAX_TEXT = 120  # characters of a title on the page


def write_report(data: ReportData, storage: Storage) -> str:
    """Write the page, then the facts: where they lie, the report is whole. Gives the page's path or URL."""
    page = layout.report_page_path(data.date)
    storage.write(page, render(data).encode())
    storage.write(layout.report_data_path(data.date), data.to_json())
    return storage.url(page)


def read_report(storage: Storage, dt: str) -> ReportData:
    """Raises MissingFileError where the day has no report, DataError where it is of another version of rayrec."""
    path = layout.report_data_path(date.fromisoformat(dt))
    return ReportData.from_json(storage.read(path), storage.url(path))


def has_report(storage: Storage, dt: str) -> bool:
    """Whether the day has a report that can be read."""
    try:
        read_report(storage, dt)
    except (MissingFileError, DataError):
        return False
    return True


def render(data: ReportData) -> str:
    """The page's HTML."""
    arms = list(data.arms)
    off_policy, offpolicy_span = views.off_policy(data.off_policy)
    return _template().render(
        data=data,
        charts=charts,
        guardrails=guardrails(data),
        flow=views.flow(data),
        quarantine=views.shares(data.rows_quarantined, max(data.rows_read, 1)),
        quarantined_rows=sum(data.rows_quarantined.values()),
        quarantine_examples=data.quarantine_examples.to_pylist(),
        removals=views.removals(data),
        before_after=views.before_after(data.before_after),
        removed=data.removed_examples.to_pylist(),
        scores=views.scores(data.statistics, arms),
        sources=views.sources(data.statistics, arms),
        categories=views.categories(data.statistics, arms),
        overlaps=views.overlaps(data.statistics),
        rules=views.rules(data),
        drift=data.drift.to_pylist(),
        timings=views.timings(data.timings),
        losses=views.losses(data.losses),
        text_ablation=views.text_ablation(data.text_ablation),
        asked=views.asked(data.requests),
        example_users=views.example_users(data.examples),
        comparison=views.comparison(data.comparison, data.baseline),
        ground_truth=views.comparison(data.ground_truth, data.baseline),
        interleaving=views.interleaving(data.interleaving),
        off_policy=off_policy,
        offpolicy_span=offpolicy_span,
    )


@cache
def _template() -> Template:
    loader = PackageLoader("rayrec.reporting", "page")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        count=_count, percent=_percent, shorten=shorten, seconds=format_duration, day=_day, three=_three
    )
    return environment.get_template("report.html.j2")


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or share == 0 else "< 0.1%"


def _three(number: float | None) -> str:
    return "–" if number is None or np.isnan(number) else f"{number:.3f}"


def _day(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).date().isoformat()


def shorten(text: str | None, limit: int = MAX_TEXT) -> str:
    """Text cut to `limit` characters, control characters made visible: what a person can read of a hostile title."""
    shown = "".join(char if char.isprintable() else "\ufffd" for char in (text or "")[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
