"""The report's tables as its templates read them: plain rows, sorted and scaled, nothing escaped yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rayrec.evaluation import beyond_accuracy
from rayrec.evaluation.comparison import ALL_USERS, COVERAGE
from rayrec.evaluation.decision import LEVEL
from rayrec.monitoring.removal_statistics import AGES, POPULAR
from rayrec.monitoring.run_statistics import RANK_BANDS, counts_by_arm
from rayrec.reporting import charts
from rayrec.reporting.report_data import ReportData
from rayrec.reporting.request_tables import recognised_counts

Rows = list[dict[str, Any]]
_SHOWN = 12  # categories, sources: the rest is "other"
_REQUESTS = 20
_DIFFERENCES = ("ndcg@10", "recall@10", "hr@10")


def shares(counts: Mapping[str, float], whole: float) -> Rows:
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [{"name": name, "count": count, "share": count / max(whole, 1)} for name, count in ordered]


def flow(data: ReportData) -> Rows:
    rows = [("published", data.users_published, "published")]
    rows += [(f"ineligible: {name}", count, "left") for name, count in sorted(data.users_ineligible.items())]
    rows += [(f"quarantined: {name}", count, "out") for name, count in sorted(data.users_quarantined.items())]
    whole = max(data.users_in, 1)
    return [{"name": name, "count": count, "share": count / whole, "kind": kind} for name, count, kind in rows]


def removals(data: ReportData) -> Rows:
    """By denoising variant: how much was taken out and why, and of which events; variants that took nothing are left
    out."""
    found = []
    groups = {name: counts_by_arm(data.statistics, f"out by {name}") for name in ("event", "age", "popularity")}
    bands = {"age": [name for _, name in AGES], "popularity": list(POPULAR)}
    for variant, counts in counts_by_arm(data.statistics, "verdict").items():
        events = sum(counts.values())
        taken = shares({name: n for name, n in counts.items() if name != "retained"}, events)
        removed = sum(row["count"] for row in taken)
        of_what = {name: _out_of(by_variant.get(variant, {}), bands.get(name)) for name, by_variant in groups.items()}
        row = {"variant": variant, "arms": data.arms_by_variant.get(variant, ""), "events": events, "removed": removed}
        found.append({**row, "reasons": taken, "of_what": {name: rows for name, rows in of_what.items() if rows}})
    return [verdict for verdict in found if verdict["removed"]]


def _out_of(counts: Mapping[str, float], order: list[str] | None) -> Rows:
    """Counts by `band/all` and `band/out`, in this order, or the largest band first."""
    whole = {key.rpartition("/")[0]: count for key, count in counts.items() if key.endswith("/all")}
    names = order or sorted(whole, key=lambda name: (-whole[name], name))
    rows = [(name, whole[name], counts.get(f"{name}/out", 0.0)) for name in names if whole.get(name)]
    return [{"name": name, "events": events, "removed": out, "share": out / events} for name, events, out in rows]


def scores(summary: pa.Table, arms: list[str]) -> Rows:
    found = []
    for quantity in ("score", "top score"):
        by_arm = counts_by_arm(summary, quantity)
        for place, arm in enumerate(arms):
            if arm in by_arm:
                heights, low, high = charts.histogram(by_arm[arm])
                plot = charts.columns(heights, place % 6 + 1)
                found.append({"arm": arm, "quantity": quantity, "plot": plot, "low": low, "high": high})
    return found


def sources(summary: pa.Table, arms: list[str]) -> dict[str, Any]:
    by_arm = _by_arm(summary, "source", arms)
    names = sorted({key.rpartition("/")[0] for counts in by_arm.values() for key in counts})
    rows = []
    for arm, counts in by_arm.items():
        for _, _, band in RANK_BANDS:
            number = [counts.get(f"{name}/{band}", 0.0) for name in names]
            if sum(number):
                rows.append({"arm": arm, "band": band, "shares": [n / sum(number) for n in number]})
    return {"names": names, "rows": rows}


def _by_arm(summary: pa.Table, quantity: str, arms: list[str]) -> dict[str, dict[str, float]]:
    """A quantity's counts in the order of the arms, by which they are coloured everywhere."""
    found = counts_by_arm(summary, quantity)
    return {arm: found[arm] for arm in arms if arm in found}


def categories(summary: pa.Table, arms: list[str]) -> dict[str, Any]:
    by_arm = _by_arm(summary, "category", arms)
    total: dict[str, float] = {}
    for counts in by_arm.values():
        for name, number in counts.items():
            total[name] = total.get(name, 0.0) + number
    shown = sorted(total, key=lambda name: (-total[name], name))[:_SHOWN]
    share = {arm: {n: counts.get(n, 0.0) / sum(counts.values()) for n in shown} for arm, counts in by_arm.items()}
    most = max((one for of_arm in share.values() for one in of_arm.values()), default=1.0)
    return {"names": shown, "shares": share, "most": most, "hidden": len(total) - len(shown)}


def overlaps(summary: pa.Table) -> Rows:
    """Of the arms that have users in common."""
    found = []
    for pair, sums in counts_by_arm(summary, "overlap").items():
        if users := sums["users"]:
            shared = sums["top 10 shared"] / users
            found.append({"pair": pair, "users": users, "rbo": sums["rbo"] / users, "shared": shared})
    return found


def rules(data: ReportData) -> Rows:
    """How often each rule of an arm bound, of the slates of that arm."""
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
    last = (int(step[-1]), float(loss[0]), float(loss[-1]))
    return {"plot": charts.line(step.astype(float), loss), "steps": last[0], "first": last[1], "last": last[2]}


def example_users(examples: pa.Table) -> Rows:
    """Each person's history and slates; `only`: no other arm shows this title to this person."""
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


def before_after(table: pa.Table) -> Rows:
    """By person and variant: the history's lines, and how many of them are left."""
    found: dict[tuple[str, str], Rows] = {}
    for row in table.to_pylist():
        found.setdefault((row["user_id"], row["variant"]), []).append(row)
    return [
        {"user_id": user, "variant": variant, "lines": lines, "left": sum(not line["why"] for line in lines)}
        for (user, variant), lines in found.items()
    ]


def asked(table: pa.Table) -> dict[str, Any]:
    """The requests to show, those that name nothing first; of how many, and how many those are."""
    shown = sorted(table.to_pylist(), key=lambda row: (row["named"], row["text"] is None))[:_REQUESTS]
    texts, named = recognised_counts(table)
    return {"rows": shown, "texts": texts, "deaf": texts - named}


def text_ablation(table: pa.Table) -> Rows:
    """By who reads the texts."""
    found = []
    for method in pc.unique(table["method"]).to_pylist():
        rows = table.filter(pc.equal(table["method"], method)).to_pylist()
        most = max(abs(row["shift"]) for row in rows)
        for row in rows:
            row["share"] = abs(row["shift"]) / most
            row["times"] = abs(row["shift"]) / row["typical"] if row["typical"] else None
        found.append({"rows": rows, **{name: rows[0][name] for name in ("method", "typical", "items")}})
    return found


def comparison(table: pa.Table, baseline: str) -> dict[str, Any] | None:
    """Systems down, metrics across, in two tables; differences; and differences by segment."""
    rows = table.to_pylist()
    values = [row for row in rows if row["against"] is None and row["segment"] == ALL_USERS]
    if not values:
        return None
    metrics = list(dict.fromkeys(row["metric"] for row in values))
    primary_metric = "ndcg@10" if "ndcg@10" in metrics else metrics[0]
    more = [metric for metric in (COVERAGE, *beyond_accuracy.METRICS) if metric in metrics]
    against = [row for row in rows if row["against"] and row["segment"] == ALL_USERS and row["metric"] in _DIFFERENCES]
    segments = [row for row in rows if row["against"] == baseline and row["segment"] != ALL_USERS]
    systems = list(dict.fromkeys(row["system"] for row in values))
    return {
        "decisive": primary_metric,
        "accuracy": _metrics(values, [metric for metric in metrics if metric not in more]),
        "beyond": _metrics(values, more),
        "span": (0.0, max(row["high"] for row in values if row["metric"] == primary_metric)),
        "against": [_difference(row, row["system"], 0, relative=False) for row in against],
        "reach": _reach(against, "low", "high"),
        "segments": [
            _difference(row, f"{row['segment']} ({row['system']})", systems.index(row["system"])) for row in segments
        ],
        "segment_reach": _reach(segments, "low", "high"),
    }


def interleaving(table: pa.Table) -> Rows:
    rows: Rows = table.to_pylist()
    for row in rows:
        users = max(row["wins"] + row["losses"], 1)
        row["shares"] = [row["wins"] / users, row["losses"] / users]
    return rows


def off_policy(table: pa.Table) -> tuple[Rows, tuple[float, float]]:
    """Estimates with the colour of the arm that is judged, and the scale that all intervals are drawn on."""
    rows = table.to_pylist()
    targets = list(dict.fromkeys(row["target"] for row in rows))
    for row in rows:
        row["colour"] = targets.index(row["target"]) % 6 + 1
    known = [row for row in rows if row["value"] is not None]
    return rows, (min((0.0, *(r["low"] for r in known))), max((1e-9, *(r["high"] for r in known))))


def _metrics(values: Rows, metrics: list[str]) -> dict[str, Any]:
    cells = {(row["system"], row["metric"]): row for row in values}
    users: dict[str, int] = {}
    for row in values:
        users[row["system"]] = max(row["users"], users.get(row["system"], 0))
    return {"systems": list(users), "metrics": metrics, "cells": cells, "users": users}


def _difference(row: dict[str, Any], name: str, colour: int, relative: bool = True) -> dict[str, Any]:
    share = relative and row["relative"] is not None
    ends = ("relative", "relative_low", "relative_high") if share else ("value", "low", "high")
    shown = [f"{row[key]:+.1%}" if share else f"{row[key]:+.4f}" for key in ends]
    found = row["p_adjusted"] is not None and row["p_adjusted"] < LEVEL
    word = ("better" if row["value"] > 0 else "worse") if found else "no clear difference"
    texts = dict(zip(("shown", "shown_low", "shown_high"), shown, strict=True))
    return {**row, **texts, "name": name, "word": word, "colour": colour % 6 + 1}


def _reach(rows: Rows, low: str, high: str) -> tuple[float, float]:
    furthest = max((max(abs(row[low]), abs(row[high])) for row in rows), default=1.0)
    return -furthest, furthest
