"""Plan an experiment by simulation: how many users, how many days, and which estimator find an effect.

python -m jobs.plan --users 20000 --effect 0.05 --clicks 0.3 --delay-days 1 --carry-over 0.2

Needs no data: users with planted tastes see simulated slates (docs/arms.md says how). The figures of a real experiment
depend on its users: compare with the detectable effect that jobs.evaluate prints.
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from jobs.cli import command
from rayrec.evaluation.simulation.experiment_plan import PlannedExperiment, PlanRow, plan, shortest
from rayrec.evaluation.simulation.simulated_users import Behaviour
from rayrec.reporting.html_report import shorten
from rayrec.reporting.terminal import results_console


def plan_experiment(
    users: Annotated[int, typer.Option("--users", min=100, help="Users of the whole experiment, a slate a day each.")],
    effect: Annotated[float, typer.Option("--effect", min=0.001, max=1, help="Relative gain to find: 0.05 is 5%.")],
    arms: Annotated[int, typer.Option("--arms", min=1, max=50, help="Arms beside the baseline.")] = 1,
    days: Annotated[list[int] | None, typer.Option("--days", min=1, max=90, help="May be repeated.")] = None,
    clicks: Annotated[float, typer.Option("--clicks", min=0.001, help="Mean reward of a slate of the baseline.")] = 0.3,
    ranks: Annotated[int, typer.Option("--ranks", min=1, max=20, help="Ranks of a slate that users see.")] = 10,
    items: Annotated[int, typer.Option("--items", min=21, max=500, help="Candidates of a user.")] = 50,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.01, help="Of the Plackett-Luce policy: higher explores more.")
    ] = 1.0,
    missing: Annotated[int, typer.Option("--missing", min=0, help="Items that the baseline lacks.")] = 0,
    exploration_floor: Annotated[
        float, typer.Option("--exploration-floor", min=0, max=0.99, help="slate.exploration_floor of the baseline.")
    ] = 0.0,
    position_bias: Annotated[
        float, typer.Option("--position-bias", min=0, help="Rank k is looked at with probability k to the minus this.")
    ] = 1.0,
    delay_days: Annotated[float, typer.Option("--delay-days", min=0, help="Mean delay of a reward.")] = 0.0,
    carry_over: Annotated[
        float, typer.Option("--carry-over", min=0, max=1, help="How much less an item is wanted the day after.")
    ] = 0.0,
) -> None:
    """Print the power of split experiments and off-policy estimates after some days, and the users needed for 80%."""
    behaviour = Behaviour(position_bias=position_bias, delay_days=delay_days, carry_over=carry_over)
    experiment = PlannedExperiment(
        users=users,
        effect=effect,
        arms=arms,
        days=tuple(sorted(set(days or (1, 3, 7, 14, 28)))),
        ranks=ranks,
        items=items,
        clicks=clicks,
        temperature=temperature,
        missing=min(missing, items - ranks),
        exploration_floor=exploration_floor,
        behaviour=behaviour,
    )
    rows = plan(experiment)
    console = results_console()
    console.print(_table(rows))
    for row in rows:
        if row.refused:
            console.print(Text(shorten(f"{row.design}: no estimate: {row.refused}", 300)), soft_wrap=True)
    console.print(Text(shortest(rows), style="bold"), soft_wrap=True)


def _table(rows: list[PlanRow]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("design")
    for name in ("days", "reward of a user", "difference", "detectable", "power", "users for 80%"):
        table.add_column(name, justify="right")
    for row in rows:
        if not row.refused:
            shares = f"{row.difference:+.1%}", f"{row.detectable:.1%}", f"{row.power:.0%}"
            table.add_row(row.design, str(row.days), f"{row.reward:.3f}", *shares, f"{row.users_needed:,.0f}")
    return table


main = command(plan_experiment)

if __name__ == "__main__":
    main()
