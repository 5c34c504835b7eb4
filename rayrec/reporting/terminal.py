"""Tables for the terminal: a user, a comparison, off-policy estimates, a decision. Text is plain: no rich markup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rayrec.evaluation.ab_decision import Decision
from rayrec.evaluation.comparison import ALL_USERS, COVERAGE
from rayrec.evaluation.effect_by_day import EffectByDay
from rayrec.evaluation.off_policy.feedback_evaluation import OffPolicyResult
from rayrec.redaction import printable
from rayrec.reporting import run_views
from rayrec.reporting.html_report import shorten
from rayrec.reporting.user_views import UserView

_TITLE, _EXPLANATION = 48, 400  # characters
_LOG_WIDTH = 140


def results_console() -> Console:
    """The console for results: the terminal, or 140 columns elsewhere (`ray job logs`, a file), so that tables fit."""
    console = _PlainConsole(highlight=False)
    return console if console.is_terminal else _PlainConsole(highlight=False, width=_LOG_WIDTH)


class _PlainConsole(Console):
    """Prints text without the control characters of paths, names and titles that others chose."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(printable(each) if isinstance(each, str) else each for each in objects), **options)


def print_user(console: Console, user: UserView, *, ranks: int = 10, events: int = 20) -> None:
    """Print the newest events, retained and removed, then the slates of all arms side by side."""
    removed = sum(bool(event.removed) for event in user.history)
    shown = user.history[-events:]
    older = f", the newest {len(shown)}" if len(shown) < len(user.history) else ""
    heading = f"user {shorten(user.user_id)}: {len(user.history)} events, {removed} removed{older}"
    table = Table(title=Text(heading), title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("when", "event", "title", "reason for removal"):
        table.add_column(name)
    for event in shown:
        style = "dim strike" if event.removed else ""
        explanation = "; ".join(f"{words} ({variant})" for variant, words in event.explanation.items())
        title = Text(shorten(event.title, _TITLE), style=style)
        reason = Text(("✗ " if explanation else "") + shorten(explanation, _EXPLANATION), style="red")
        table.add_row(f"{event.when:%Y-%m-%d %H:%M}", shorten(event.event, 20), title, reason)
    console.print(table)
    console.print(_slates(user, ranks))


def print_explanations(console: Console, explanations: pa.Table) -> None:
    """Print which part of the history keeps the slate of each arm (EXPLANATION)."""
    table = Table(title=Text("why, by EASE"), title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("arm", "items of the history, the most important first", "what they keep"):
        table.add_column(name)
    for (_, arm), part in run_views.explanations(explanations).items():
        titles = "\n".join(shorten(title, _TITLE) for title in part["titles"])
        table.add_row(Text(shorten(arm, 30)), Text(titles), Text(part["summary"]))
    console.print(table)


def _slates(user: UserView, ranks: int) -> Table | Text:
    if not user.slates:
        return Text("no slate in any arm")
    known = {event.title for event in user.history}
    table = Table(title=Text("slates"), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("rank", justify="right")
    for arm in user.slates:
        table.add_column(Text(shorten(arm, 30)))
    for place in range(max(len(slate[:ranks]) for slate in user.slates.values())):
        cells = []
        for slate in user.slates.values():
            item = slate[place] if place < len(slate) else None
            again = " (again)" if item and item.title in known else ""
            cells.append(Text(f"{shorten(item.title, _TITLE)}{again}" if item else ""))
        table.add_row(str(place + 1), *cells)
    return table


def print_comparison(console: Console, comparison: pa.Table, metrics: Sequence[str]) -> None:
    """Print metrics by system with 95% intervals, then the differences in nDCG@10."""
    rows = [row for row in comparison.to_pylist() if row["segment"] == ALL_USERS]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("system")
    table.add_column("users", justify="right")
    for metric in metrics:
        table.add_column(metric.removesuffix("@10") if metric == COVERAGE else metric, justify="right", no_wrap=True)
    cells = {(row["system"], row["metric"]): row for row in rows if row["baseline"] is None}
    for system in dict.fromkeys(system for system, _ in cells):
        values = [cells[system, metric] for metric in metrics]
        shown = [f"{row['value']:.4f}\n{row['low']:.3f}–{row['high']:.3f}" for row in values]
        table.add_row(Text(shorten(system, 40)), f"{values[0]['users']:,}", *shown)
    console.print(table)
    for row in rows:
        if row["baseline"] is not None and row["metric"] == "ndcg@10":
            interval = f"[{row['low']:+.4f}, {row['high']:+.4f}]"
            line = f"{row['system']} − {row['baseline']}: {row['metric']} {row['value']:+.4f} {interval}"
            console.print(Text(shorten(line)), soft_wrap=True)


def print_off_policy(console: Console, result: OffPolicyResult) -> None:
    """Print each target arm's expected reward, estimated from the logging arm's rewards, and the live experiment."""
    table = Table(title=Text(result.description), title_justify="left", box=box.SIMPLE_HEAD)
    for name in (
        "logging arm",
        "target arm",
        "estimator",
        "reward per slate",
        "minus the logging arm's",
        "mean weight",
        "slates",
        "effective size",
    ):
        table.add_column(name, justify="right" if name in ("slates", "effective size") else "left")
    for row in result.estimates.to_pylist():
        value = row["no_estimate_reason"] or f"{row['value']:.4f}  {row['low']:.4f}–{row['high']:.4f}"
        names = (Text(shorten(row[name], 40)) for name in ("logging_arm", "target_arm", "estimator"))
        low, high = row["mean_weight_low"], row["mean_weight_high"]
        ends = [row[f"difference{end}"] for end in ("", "_low", "_high")]
        difference = "" if ends[0] is None else "{:+.4f}  {:+.4f} … {:+.4f}".format(*ends)
        weight = "" if row["mean_weight"] is None else f"{row['mean_weight']:.3f}  {low:.3f}–{high:.3f}"
        counts = f"{row['slates']:,}", f"{row['effective_sample_size']:,.0f}"
        table.add_row(*names, Text(shorten(value)), difference, weight, *counts)
    console.print(table)
    for sentence in () if result.live is None else result.live.sentences:
        console.print(Text(shorten(sentence, 1000)), soft_wrap=True)


def print_effect_by_day(console: Console, arms: Sequence[EffectByDay]) -> None:
    """Print each arm's difference from the baseline by day since the start, and whether it changes."""
    table = Table(title="difference from the baseline by day", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("arm", "day", "users", "difference"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for arm in arms:
        for day in arm.days:
            shown = f"{day.difference:+.4f}  {day.low:+.4f} … {day.high:+.4f}"
            table.add_row(Text(shorten(arm.arm, 40)), str(day.day), f"{day.users:,}", shown)
    console.print(table)
    for arm in arms:
        console.print(Text(shorten(arm.sentence, 400)), soft_wrap=True)


def print_decision(console: Console, decision: Decision | None, interleaving: pa.Table) -> None:
    """Print the recommendation, the conclusion on each arm, and the interleaving of each arm with the baseline."""
    if decision is None:
        return
    console.print(Text(f"\n{shorten(decision.recommendation, 400)}", style="bold"), soft_wrap=True)
    for conclusion in decision.conclusions:
        console.print(Text(shorten(conclusion.sentence, 1000)), soft_wrap=True)
    for row in interleaving.to_pylist():
        counts = f"{row['wins']:,} users consumed more items of {row['system']}, {row['losses']:,} of {row['baseline']}"
        line = f"interleaving: {counts}, {row['ties']:,} ties (sign test p = {row['p']:.3f})"
        console.print(Text(shorten(line, 400)), soft_wrap=True)
