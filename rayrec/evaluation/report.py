"""`report.html`: one self-contained page about one day, for the person who decides whether to trust it.

    write_report(data, storage)      # reports/dt=D/report.html, and report.json to make it from again

No script, no network, no fonts; light and dark; readable on a phone and on paper. All text is escaped by the template.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from rayrec.evaluation import charts
from rayrec.evaluation.report_data import ReportData
from rayrec.evaluation.summary import RANK_BANDS, of_quantity
from rayrec.progress import spell_seconds
from rayrec.storage import Storage

_SHOWN = 12  # categories, sources: the rest is "other"
MAX_TEXT = 120  # characters of a title on the page


def report_folder(dt: str) -> str:
    """Where a day's report and metrics lie, relative to output.root."""
    return f"reports/dt={dt}"


def write_report(data: ReportData, storage: Storage) -> str:
    """Write page and facts; gives the page's path or URL."""
    folder = report_folder(data.date.isoformat())
    storage.write(f"{folder}/report.json", data.to_json())
    storage.write(f"{folder}/report.html", render(data).encode())
    return storage.url(f"{folder}/report.html")


def read_report(storage: Storage, dt: str) -> ReportData:
    """Raises MissingFileError where the day has no report."""
    path = f"{report_folder(dt)}/report.json"
    return ReportData.from_json(storage.read(path), storage.url(path))


def render(data: ReportData) -> str:
    """The page's HTML."""
    arms = list(data.arms)
    return _template().render(
        data=data,
        charts=charts,
        flow=_flow(data),
        quarantine=_shares(data.rows_quarantined, max(data.rows_read, 1)),
        quarantined_rows=sum(data.rows_quarantined.values()),
        quarantine_examples=data.quarantine_examples.to_pylist(),
        verdicts=_verdicts(data.summary),
        removed=data.removed_examples.to_pylist(),
        scores=_scores(data.summary, arms),
        sources=_sources(data.summary, arms),
        categories=_categories(data.summary, arms),
        overlaps=_overlaps(data.summary),
        drift=data.drift.to_pylist(),
        timings=_timings(data.timings),
        losses=_losses(data.losses),
        people=_people(data.examples),
        comparison=_comparison(data.comparison),
        planted=_comparison(data.planted),
    )


@cache
def _template() -> Template:
    loader = PackageLoader("rayrec.evaluation", ".")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        count=_count, percent=_percent, brief=brief, seconds=spell_seconds, day=_day, three=_three
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


def brief(text: str | None, limit: int = MAX_TEXT) -> str:
    """Text cut to `limit` characters, control characters made visible: what a person can read of a hostile title."""
    shown = "".join(char if char.isprintable() else "\ufffd" for char in (text or "")[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _shares(counts: Mapping[str, float], whole: float) -> list[dict[str, Any]]:
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [{"name": name, "count": count, "share": count / max(whole, 1)} for name, count in ordered]


def _flow(data: ReportData) -> list[dict[str, Any]]:
    rows = [("published", data.users_published, "published")]
    rows += [(f"ineligible: {name}", count, "left") for name, count in sorted(data.users_ineligible.items())]
    rows += [(f"quarantined: {name}", count, "out") for name, count in sorted(data.users_quarantined.items())]
    whole = max(data.users_in, 1)
    return [{"name": name, "count": count, "share": count / whole, "kind": kind} for name, count, kind in rows]


def _verdicts(summary: pa.Table) -> list[dict[str, Any]]:
    found = []
    for variant, counts in of_quantity(summary, "verdict").items():
        events = sum(counts.values())
        taken = _shares({name: n for name, n in counts.items() if name != "kept"}, events)
        removed = sum(row["count"] for row in taken)
        found.append({"variant": variant, "events": events, "removed": removed, "reasons": taken})
    return [verdict for verdict in found if verdict["removed"]]


def _scores(summary: pa.Table, arms: list[str]) -> list[dict[str, Any]]:
    found = []
    for quantity in ("score", "top score"):
        by_arm = of_quantity(summary, quantity)
        for place, arm in enumerate(arms):
            if arm in by_arm:
                heights, low, high = charts.spread(by_arm[arm])
                plot = charts.columns(heights, place % 6 + 1)
                found.append({"arm": arm, "quantity": quantity, "plot": plot, "low": low, "high": high})
    return found


def _sources(summary: pa.Table, arms: list[str]) -> dict[str, Any]:
    by_arm = {arm: counts for arm, counts in of_quantity(summary, "source").items() if arm in arms}
    names = sorted({key.rpartition("/")[0] for counts in by_arm.values() for key in counts})
    rows = []
    for arm, counts in by_arm.items():
        for _, _, band in RANK_BANDS:
            number = [counts.get(f"{name}/{band}", 0.0) for name in names]
            if sum(number):
                rows.append({"arm": arm, "band": band, "shares": [n / sum(number) for n in number]})
    return {"names": names, "rows": rows}


def _categories(summary: pa.Table, arms: list[str]) -> dict[str, Any]:
    by_arm = {arm: counts for arm, counts in of_quantity(summary, "category").items() if arm in arms}
    total: dict[str, float] = {}
    for counts in by_arm.values():
        for name, number in counts.items():
            total[name] = total.get(name, 0.0) + number
    shown = sorted(total, key=lambda name: (-total[name], name))[:_SHOWN]
    shares = {arm: {n: counts.get(n, 0.0) / sum(counts.values()) for n in shown} for arm, counts in by_arm.items()}
    most = max((share for of_arm in shares.values() for share in of_arm.values()), default=1.0)
    return {"names": shown, "shares": shares, "most": most, "hidden": len(total) - len(shown)}


def _overlaps(summary: pa.Table) -> list[dict[str, Any]]:
    found = []
    for pair, sums in of_quantity(summary, "overlap").items():
        users = max(sums["users"], 1.0)
        shared = sums["top 10 shared"] / users
        found.append({"pair": pair, "users": sums["users"], "rbo": sums["rbo"] / users, "shared": shared})
    return found


def _timings(timings: pa.Table) -> dict[str, Any]:
    rows = timings.to_pylist()
    longest = max((row["seconds"] for row in rows), default=1.0)
    for row in rows:
        row["share"] = row["seconds"] / max(longest, 1e-9)
        row["rate"] = row["done"] / max(row["seconds"], 1e-9)
    return {"rows": rows, "total": sum(row["seconds"] for row in rows)}


def _losses(losses: pa.Table) -> dict[str, Any] | None:
    if losses.num_rows < 2:
        return None
    step, loss = (losses[name].to_numpy() for name in ("step", "loss"))
    last = (int(step[-1]), float(loss[0]), float(loss[-1]))
    return {"plot": charts.line(step.astype(float), loss), "steps": last[0], "first": last[1], "last": last[2]}


def _people(examples: pa.Table) -> list[dict[str, Any]]:
    people = []
    for user in pc.unique(examples["user_id"]).to_pylist():
        rows = examples.filter(pc.equal(examples["user_id"], user)).to_pylist()
        slates: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            slates.setdefault(row["arm"], []).append(row)
        people.append({"user_id": user, "history": slates.pop("", []), "slates": slates})
    return people


def _comparison(comparison: pa.Table) -> dict[str, Any] | None:
    """Systems down, metrics across; and for each metric the scale on which its intervals are drawn."""
    rows = comparison.to_pylist()
    values = [row for row in rows if row["against"] is None]
    if not values:
        return None
    systems = list(dict.fromkeys(row["system"] for row in values))
    metrics = list(dict.fromkeys(row["metric"] for row in values))
    span = {m: (0.0, max(row["high"] for row in values if row["metric"] == m)) for m in metrics}
    cells = {(row["system"], row["metric"]): row for row in values}
    users = {row["system"]: row["users"] for row in values}
    against = [row for row in rows if row["against"] is not None and row["metric"] in ("ndcg@10", "recall@10", "hr@10")]
    reach = max((max(abs(row["low"]), abs(row["high"])) for row in against), default=1.0)
    table = {"systems": systems, "metrics": metrics, "cells": cells, "span": span, "users": users}
    return {**table, "against": against, "reach": (-reach, reach)}
