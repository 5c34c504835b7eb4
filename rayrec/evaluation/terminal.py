"""A user, or a comparison, as tables on a terminal. All text goes in as plain text: no markup, no escapes of titles."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rayrec.evaluation.comparison import COVERAGE, EVERYBODY
from rayrec.evaluation.decision import Decision
from rayrec.evaluation.logged import Logged
from rayrec.evaluation.people import Person
from rayrec.evaluation.report import brief

_TITLE, _WHY = 48, 400  # characters
_LOG_WIDTH = 140


def results_console() -> Console:
    """Where results go: the terminal as it is; elsewhere (`ray job logs`, a file) wide enough that no table is cut."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_LOG_WIDTH)


def print_person(console: Console, person: Person, *, ranks: int = 10, events: int = 20) -> None:
    """The newest events (kept and taken out), then the slates of all arms side by side."""
    out = sum(bool(event.taken_out) for event in person.history)
    shown = person.history[-events:]
    older = f", the newest {len(shown)}" if len(shown) < len(person.history) else ""
    title = f"user {brief(person.user_id)}: {len(person.history)} events, {out} taken out{older}"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("when", "event", "title", "taken out because"):
        table.add_column(name)
    for event in shown:
        style = "dim strike" if event.taken_out else ""
        why = "; ".join(f"{words} ({variant})" for variant, words in event.why.items())
        cells = (f"{event.when:%Y-%m-%d %H:%M}", brief(event.event, 20), Text(brief(event.title, _TITLE), style=style))
        table.add_row(*cells, Text(("✗ " if why else "") + brief(why, _WHY), style="red"))
    console.print(table)
    console.print(_slates(person, ranks))


def _slates(person: Person, ranks: int) -> Table | Text:
    if not person.slates:
        return Text("no slate in any arm")
    known = {event.title for event in person.history}
    table = Table(title=Text("slates"), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("rank", justify="right")
    for arm in person.slates:
        table.add_column(Text(brief(arm, 30)))
    for place in range(max(len(slate[:ranks]) for slate in person.slates.values())):
        cells = []
        for slate in person.slates.values():
            item = slate[place] if place < len(slate) else None
            again = " (again)" if item and item.title in known else ""
            cells.append(Text(f"{brief(item.title, _TITLE)}{again}" if item else ""))
        table.add_row(str(place + 1), *cells)
    return table


def print_comparison(console: Console, comparison: pa.Table, metrics: Sequence[str]) -> None:
    """Systems down, metrics across, each with its 95% interval; then the differences in nDCG@10."""
    rows = [row for row in comparison.to_pylist() if row["segment"] == EVERYBODY]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("system")
    table.add_column("users", justify="right")
    for metric in metrics:
        table.add_column(metric.removesuffix("@10") if metric == COVERAGE else metric, justify="right", no_wrap=True)
    cells = {(row["system"], row["metric"]): row for row in rows if row["against"] is None}
    for system in dict.fromkeys(system for system, _ in cells):
        values = [cells[system, metric] for metric in metrics]
        shown = [f"{row['value']:.4f}\n{row['low']:.3f}–{row['high']:.3f}" for row in values]
        table.add_row(Text(brief(system, 40)), f"{values[0]['users']:,}", *shown)
    console.print(table)
    for row in rows:
        if row["against"] is not None and row["metric"] == "ndcg@10":
            interval = f"[{row['low']:+.4f}, {row['high']:+.4f}]"
            line = f"{row['system']} − {row['against']}: {row['metric']} {row['value']:+.4f} {interval}"
            console.print(Text(brief(line)), soft_wrap=True)


def print_logged(console: Console, logged: Logged) -> None:
    """What each arm would have earned, by the rewards of the arm that was shown."""
    table = Table(title=Text(logged.words), title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("shown", "judged", "by", "reward a slate", "slates", "effective"):
        table.add_column(name, justify="right" if name in ("slates", "effective") else "left")
    for row in logged.estimates.to_pylist():
        refused = row["refused"]
        value = refused or f"{row['value']:.4f}  {row['low']:.4f}–{row['high']:.4f}"
        names = (Text(brief(row[name], 40)) for name in ("logging", "target", "estimator"))
        table.add_row(*names, Text(brief(value)), f"{row['slates']:,}", f"{row['effective_sample_size']:,.0f}")
    console.print(table)


def print_decision(console: Console, decision: Decision | None, preferences: pa.Table) -> None:
    """What to do, why, and whose items users took when two arms' slates are mixed."""
    if decision is None:
        return
    console.print(Text(f"\n{brief(decision.headline, 400)}", style="bold"), soft_wrap=True)
    for verdict in decision.verdicts:
        console.print(Text(brief(verdict.sentence, 1000)), soft_wrap=True)
    for row in preferences.to_pylist():
        counts = f"{row['wins']:,} users took more of {row['system']}, {row['losses']:,} of {row['against']}"
        line = f"interleaved: {counts}, {row['ties']:,} neither (sign test p = {row['p']:.3f})"
        console.print(Text(brief(line, 400)), soft_wrap=True)
