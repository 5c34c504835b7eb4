"""Template data of a run's sections: plain rows, sorted and scaled, not yet escaped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rayrec.denoising.denoiser import REASONS
from rayrec.monitoring.removal_statistics import AGES, POPULARITY_BANDS
from rayrec.monitoring.request_recognition import recognised_counts
from rayrec.monitoring.run_statistics import RANK_BANDS, counts_by_arm
from rayrec.reporting import charts
from rayrec.reporting.report_data import ReportData

Rows = list[dict[str, Any]]
_MAX_CATEGORIES = 12
_MAX_REQUESTS = 20


def shares(counts: Mapping[str, float], total: float) -> Rows:
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [{"name": name, "count": count, "share": count / max(total, 1)} for name, count in ordered]


def user_outcomes(data: ReportData) -> Rows:
    """Number of input users published, ineligible and quarantined, by reason."""
    rows = [("published", data.users_published, "published")]
    for outcome, counts in (("ineligible", data.users_ineligible), ("quarantined", data.users_quarantined)):
        rows += [(f"{outcome}: {name}", count, outcome) for name, count in sorted(counts.items())]
    total = max(data.users_in, 1)
    return [{"name": name, "count": count, "share": count / total, "outcome": outcome} for name, count, outcome in rows]


def removals(data: ReportData) -> Rows:
    """Interactions that each denoising variant removed, by reason and band; variants without removals are omitted."""
    found = []
    groups = {name: counts_by_arm(data.statistics, f"removed by {name}") for name in ("event", "age", "popularity")}
    order = {"age": [name for _, name in AGES], "popularity": list(POPULARITY_BANDS)}
    for variant, counts in counts_by_arm(data.statistics, "denoising reason").items():
        events = sum(counts.values())
        reasons = shares({name: count for name, count in counts.items() if name != REASONS[0]}, events)
        removed = sum(row["count"] for row in reasons)
        bands = {name: _bands(by_variant.get(variant, {}), order.get(name)) for name, by_variant in groups.items()}
        row = {"variant": variant, "arms": data.arms_by_variant.get(variant, ""), "events": events, "removed": removed}
        found.append({**row, "reasons": reasons, "bands": {name: rows for name, rows in bands.items() if rows}})
    return [row for row in found if row["removed"]]


def _bands(counts: Mapping[str, float], order: list[str] | None) -> Rows:
    """Rows from counts by `band/all` and `band/removed`, in this order, or the largest band first."""
    total = {key.rpartition("/")[0]: count for key, count in counts.items() if key.endswith("/all")}
    names = order or sorted(total, key=lambda name: (-total[name], name))
    rows = [(name, total[name], counts.get(f"{name}/removed", 0.0)) for name in names if total.get(name)]
    return [{"name": name, "events": events, "removed": out, "share": out / events} for name, events, out in rows]


def before_after(table: pa.Table) -> Rows:
    """The history of each user and denoising variant, and the number of retained events."""
    found: dict[tuple[str, str], Rows] = {}
    for row in table.to_pylist():
        found.setdefault((row["user_id"], row["variant"]), []).append(row)
    rows: Rows = [{"user_id": user, "variant": variant, "lines": lines} for (user, variant), lines in found.items()]
    return [{**row, "retained": sum(not line["explanation"] for line in row["lines"])} for row in rows]


def scores(statistics: pa.Table, arms: list[str]) -> Rows:
    """Histograms of each arm's scores, of all ranks and of rank 1."""
    found = []
    for statistic in ("score", "top score"):
        by_arm = counts_by_arm(statistics, statistic)
        for number, arm in enumerate(arms):
            if arm in by_arm:
                heights, low, high = charts.histogram(by_arm[arm])
                plot = charts.bars(heights, number % 6 + 1)
                found.append({"arm": arm, "statistic": statistic, "plot": plot, "low": low, "high": high})
    return found


def sources(statistics: pa.Table, arms: list[str]) -> dict[str, Any]:
    """The share of each source in each rank band of each arm."""
    by_arm = _in_arm_order(statistics, "source", arms)
    names = sorted({key.rpartition("/")[0] for counts in by_arm.values() for key in counts})
    rows = []
    for arm, counts in by_arm.items():
        for _, _, band in RANK_BANDS:
            number = [counts.get(f"{name}/{band}", 0.0) for name in names]
            if sum(number):
                rows.append({"arm": arm, "band": band, "shares": [n / sum(number) for n in number]})
    return {"names": names, "rows": rows}


def categories(statistics: pa.Table, arms: list[str]) -> dict[str, Any]:
    """The share of each of the most recommended categories in each arm."""
    by_arm = _in_arm_order(statistics, "category", arms)
    total: dict[str, float] = {}
    for counts in by_arm.values():
        for name, number in counts.items():
            total[name] = total.get(name, 0.0) + number
    shown = sorted(total, key=lambda name: (-total[name], name))[:_MAX_CATEGORIES]
    share = {arm: {n: counts.get(n, 0.0) / sum(counts.values()) for n in shown} for arm, counts in by_arm.items()}
    most = max((one for of_arm in share.values() for one in of_arm.values()), default=1.0)
    return {"names": shown, "shares": share, "most": most, "hidden": len(total) - len(shown)}


def _in_arm_order(statistics: pa.Table, statistic: str, arms: list[str]) -> dict[str, dict[str, float]]:
    """A statistic's counts in the order of the arms, so that an arm has the same colour in every section."""
    found = counts_by_arm(statistics, statistic)
    return {arm: found[arm] for arm in arms if arm in found}


def overlaps(statistics: pa.Table) -> Rows:
    """Similarity of the slates of each pair of arms with common users."""
    found = []
    for pair, sums in counts_by_arm(statistics, "overlap").items():
        if users := sums["users"]:
            shared = sums["top 10 shared"] / users
            found.append({"pair": pair, "users": users, "rbo": sums["rbo"] / users, "shared": shared})
    return found


def rules(data: ReportData) -> Rows:
    """Number of slates of each arm that each rule changed."""
    found, slates = [], counts_by_arm(data.statistics, "top score")
    for arm, counts in counts_by_arm(data.statistics, "rule").items():
        for row in shares(counts, sum(slates.get(arm, {}).values())):
            found.append({"arm": arm, "rule": row["name"], "count": row["count"], "share": min(row["share"], 1.0)})
    return found


def timings(table: pa.Table) -> dict[str, Any]:
    rows = table.to_pylist()
    longest = max((row["seconds"] for row in rows), default=1.0)
    for row in rows:
        row["share"] = row["seconds"] / max(longest, 1e-9)
        row["rate"] = row["done"] / max(row["seconds"], 1e-9)
    return {"rows": rows, "total": sum(row["seconds"] for row in rows)}


def losses(table: pa.Table) -> dict[str, Any] | None:
    if table.num_rows < 2:
        return None
    step, loss = (table[name].to_numpy() for name in ("step", "loss"))
    plot = charts.line(step.astype(float), loss)
    return {"plot": plot, "steps": int(step[-1]), "first": float(loss[0]), "last": float(loss[-1])}


def example_users(examples: pa.Table) -> Rows:
    """Each user's history and slates; `only`: titles that no other arm shows to the user."""
    found = []
    for user in pc.unique(examples["user_id"]).to_pylist():
        rows = examples.filter(pc.equal(examples["user_id"], user)).to_pylist()
        slates: dict[str, Rows] = {}
        for row in rows:
            slates.setdefault(row["arm"], []).append(row)
        history = slates.pop("", [])
        for arm, slate in slates.items():
            elsewhere = {row["title"] for other, of_other in slates.items() if other != arm for row in of_other}
            for row in slate:
                row["only"] = len(slates) > 1 and row["title"] not in elsewhere
        found.append({"user_id": user, "history": history, "slates": slates})
    return found


def explanations(table: pa.Table) -> dict[tuple[str, str], dict[str, Any]]:
    """By (user, arm): the titles of the part of the history that keeps the slate, and what it keeps."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in table.to_pylist():
        part = found.setdefault((row["user_id"], row["arm"]), {"titles": [], "summary": row["summary"]})
        part["titles"] += [row["title"]] if row["title"] else []
    return found


def requests(table: pa.Table) -> dict[str, Any]:
    """The requests to show, those without a recognised term first, and the total number."""
    shown = sorted(table.to_pylist(), key=lambda row: (row["recognised"], row["text"] is None))[:_MAX_REQUESTS]
    texts, recognised = recognised_counts(table)
    return {"rows": shown, "texts": texts, "unrecognised": texts - recognised}


def text_ablation(table: pa.Table) -> Rows:
    """Items by text scorer, with bars relative to the largest difference."""
    found = []
    for method in pc.unique(table["method"]).to_pylist():
        rows = table.filter(pc.equal(table["method"], method)).to_pylist()
        most, median = max(abs(row["score_difference"]) for row in rows), rows[0]["median_difference"]
        for row in rows:
            row["share"] = abs(row["score_difference"]) / most
            row["times_median"] = abs(row["score_difference"]) / median if median else None
        found.append({"method": method, "median_difference": median, "items": rows[0]["items"], "rows": rows})
    return found
