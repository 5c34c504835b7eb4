"""A user, or a comparison, as tables on a terminal. All text goes in as plain text: no markup, no escapes of titles."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rayrec.evaluation.comparison import ALL_USERS, COVERAGE
from rayrec.evaluation.decision import Decision
from rayrec.evaluation.logged_rewards import OffPolicyResult
from rayrec.reporting.html_report import shorten
from rayrec.reporting.user_examples import UserView

_TITLE, _WHY = 48, 400  # characters
_LOG_WIDTH = 140


def results_console() -> Console:
    """Where results go: the terminal as it is; elsewhere (`ray job logs`, a file) wide enough that no table is cut."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_LOG_WIDTH)


def print_user(console: Console, person: UserView, *, ranks: int = 10, events: int = 20) -> None:
    """The newest events (kept and taken out), then the slates of all arms side by side."""
    out = sum(bool(event.removed) for event in person.history)
    shown = person.history[-events:]
    older = f", the newest {len(shown)}" if len(shown) < len(person.history) else ""
    title = f"user {shorten(person.user_id)}: {len(person.history)} events, {out} taken out{older}"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("when", "event", "title", "taken out because"):
        table.add_column(name)
    for event in shown:
        style = "dim strike" if event.removed else ""
        why = "; ".join(f"{words} ({variant})" for variant, words in event.why.items())
        cells = (
            f"{event.when:%Y-%m-%d %H:%M}",
            shorten(event.event, 20),
            Text(shorten(event.title, _TITLE), style=style),
        )
        table.add_row(*cells, Text(("✗ " if why else "") + shorten(why, _WHY), style="red"))
    console.print(table)
    console.print(_slates(person, ranks))


def _slates(person: UserView, ranks: int) -> Table | Text:
    if not person.slates:
        return Text("no slate in any arm")
    known = {event.title for event in person.history}
    table = Table(title=Text("slates"), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("rank", justify="right")
    for arm in person.slates:
        table.add_column(Text(shorten(arm, 30)))
    for place in range(max(len(slate[:ranks]) for slate in person.slates.values())):
        cells = []
        for slate in person.slates.values():
            item = slate[place] if place < len(slate) else None
            again = " (again)" if item and item.title in known else ""
            cells.append(Text(f"{shorten(item.title, _TITLE)}{again}" if item else ""))
        table.add_row(str(place + 1), *cells)
    return table


def print_comparison(console: Console, comparison: pa.Table, metrics: Sequence[str]) -> None:
    """Systems down, metrics across, each with its 95% interval; then the differences in nDCG@10."""
    rows = [row for row in comparison.to_pylist() if row["segment"] == ALL_USERS]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("system")
    table.add_column("users", justify="right")
    for metric in metrics:
        table.add_column(metric.removesuffix("@10") if metric == COVERAGE else metric, justify="right", no_wrap=True)
    cells = {(row["system"], row["metric"]): row for row in rows if row["against"] is None}
    for system in dict.fromkeys(system for system, _ in cells):
        values = [cells[system, metric] for metric in metrics]
        shown = [f"{row['value']:.4f}\n{row['low']:.3f}–{row['high']:.3f}" for row in values]
        table.add_row(Text(shorten(system, 40)), f"{values[0]['users']:,}", *shown)
    console.print(table)
    for row in rows:
        if row["against"] is not None and row["metric"] == "ndcg@10":
            interval = f"[{row['low']:+.4f}, {row['high']:+.4f}]"
            line = f"{row['system']} − {row['against']}: {row['metric']} {row['value']:+.4f} {interval}"
            console.print(Text(shorten(line)), soft_wrap=True)


def print_off_policy(console: Console, logged: OffPolicyResult) -> None:
    """What each arm would have earned, by the rewards of the arm that was shown."""
    table = Table(title=Text(logged.description), title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("shown", "judged", "by", "reward a slate", "slates", "effective"):
        table.add_column(name, justify="right" if name in ("slates", "effective") else "left")
    for row in logged.estimates.to_pylist():
        no_estimate_reason = row["refused"]
        value = no_estimate_reason or f"{row['value']:.4f}  {row['low']:.4f}–{row['high']:.4f}"
        names = (Text(shorten(row[name], 40)) for name in ("logging", "target", "estimator"))
        table.add_row(*names, Text(shorten(value)), f"{row['slates']:,}", f"{row['effective_sample_size']:,.0f}")
    console.print(table)


def print_decision(console: Console, decision: Decision | None, interleaving: pa.Table) -> None:
    """What to do, why, and whose items users took when two arms' slates are mixed."""
    if decision is None:
        return
    console.print(Text(f"\n{shorten(decision.recommendation, 400)}", style="bold"), soft_wrap=True)
    for verdict in decision.conclusions:
        console.print(Text(shorten(verdict.sentence, 1000)), soft_wrap=True)
    for row in interleaving.to_pylist():
        counts = f"{row['wins']:,} users took more of {row['system']}, {row['losses']:,} of {row['against']}"
        line = f"interleaved: {counts}, {row['ties']:,} neither (sign test p = {row['p']:.3f})"
        console.print(Text(shorten(line, 400)), soft_wrap=True)
