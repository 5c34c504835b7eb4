"""The run report: one self-contained HTML page per date.

    write_report(data, storage)      # reports/dt=D/report.html, and report.json, the data of the page
    write_pooled_report(result, name, storage)      # one page of several dates judged together

A page has no scripts, fonts or network access, a light and a dark theme, and fits phones and paper. The template
escapes all text.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from functools import cache

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from rayrec.errors import DataError, MissingFileError
from rayrec.evaluation.pooled_dates import PooledEvaluation
from rayrec.monitoring.new_item_statistics import new_item_rows
from rayrec.monitoring.progress import format_duration
from rayrec.monitoring.scorer_gains import scorer_gains
from rayrec.reporting import charts, evaluation_views, run_views
from rayrec.reporting.guardrails import guardrails
from rayrec.reporting.report_data import ReportData
from rayrec.storage import Storage, layout

MAX_TEXT = 120  # characters of a title


def write_report(data: ReportData, storage: Storage) -> str:
    """Write the page, then its data: a report with data is complete. Returns the page's path or URL."""
    page = layout.report_page_path(data.date)
    storage.write(page, render(data).encode())
    storage.write(layout.report_data_path(data.date), data.to_json())
    return storage.url(page)


def read_report(storage: Storage, dt: str) -> ReportData:
    """Read the data of a report. Raises MissingFileError if there is none, DataError if another version wrote it."""
    path = layout.report_data_path(date.fromisoformat(dt))
    return ReportData.from_json(storage.read(path), storage.url(path))


def has_report(storage: Storage, dt: str) -> bool:
    """Whether the date has a readable report."""
    try:
        read_report(storage, dt)
    except (MissingFileError, DataError):
        return False
    return True


def render(data: ReportData) -> str:
    """The page's HTML."""
    arms = list(data.arms)
    off_policy, off_policy_span = evaluation_views.off_policy(data.off_policy)
    return _template("report.html.j2").render(
        data=data,
        charts=charts,
        guardrails=guardrails(data),
        user_outcomes=run_views.user_outcomes(data),
        quarantine=run_views.shares(data.rows_quarantined, max(data.rows_read, 1)),
        quarantined_rows=sum(data.rows_quarantined.values()),
        quarantine_examples=data.quarantine_examples.to_pylist(),
        removals=run_views.removals(data),
        before_after=run_views.before_after(data.before_after),
        contest=data.denoising_contest.to_pylist(),
        removed=data.removed_examples.to_pylist(),
        new_items=new_item_rows(data.statistics),
        scorer_gains=scorer_gains(data.statistics),
        scores=run_views.scores(data.statistics, arms),
        sources=run_views.sources(data.statistics, arms),
        categories=run_views.categories(data.statistics, arms),
        overlaps=run_views.overlaps(data.statistics),
        rules=run_views.rules(data),
        drift=data.drift.to_pylist(),
        timings=run_views.timings(data.timings),
        losses=run_views.losses(data.losses),
        text_ablation=run_views.text_ablation(data.text_ablation),
        requests=run_views.requests(data.requests),
        example_users=run_views.example_users(data.examples),
        explanations=run_views.explanations(data.explanations),
        comparison=evaluation_views.comparison(data.comparison, data.baseline),
        ground_truth=evaluation_views.comparison(data.ground_truth, data.baseline),
        interleaving=evaluation_views.interleaving(data.interleaving),
        off_policy=off_policy,
        off_policy_span=off_policy_span,
    )


def write_pooled_report(result: PooledEvaluation, name: str, storage: Storage) -> str:
    """Write the page of several dates judged together. Returns its path or URL. `name`: of the config."""
    page = layout.pooled_report_path(result.dates[0], result.dates[-1])
    ends = [abs(end) for arm in result.by_day for day in arm.days for end in (day.low, day.high)]
    furthest = max(ends, default=0.0) or 1.0
    text = _template("pooled.html.j2").render(
        name=name,
        result=result,
        charts=charts,
        comparison=evaluation_views.comparison(result.comparison, result.baseline),
        reach=(-furthest, furthest),
    )
    storage.write(page, text.encode())
    return storage.url(page)


@cache
def _template(name: str) -> Template:
    loader = PackageLoader("rayrec.reporting", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        count=_count, percent=_percent, shorten=shorten, seconds=format_duration, day=_day, three=_three
    )
    return environment.get_template(name)


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or share == 0 else "< 0.1%"


def _three(number: float | None) -> str:
    return "–" if number is None or np.isnan(number) else f"{number:.3f}"


def _day(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).date().isoformat()


def shorten(text: str | None, limit: int = MAX_TEXT) -> str:
    """Truncate text to `limit` characters and replace control characters."""
    shown = "".join(char if char.isprintable() else "\ufffd" for char in (text or "")[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
