"""Show one user of a published date: the history, what denoising removed and why, and each arm's slate.

python -m jobs.show --config conf/online_retail.yaml --set output.root=OUT --date 2011-08-31 --user 12423 [--why]

--why: the smallest part of the history with which the run's EASE still finds the slate, the most important items first.
"""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.cli import ConfigPath, Overrides, PublishedDateOption, as_date, command, settings
from rayrec.evaluation.published_run import PublishedRun
from rayrec.evaluation.slate_explanations import SlateExplainer
from rayrec.experiments.arm_plan import plan_arms
from rayrec.reporting.example_users import explanation_rows
from rayrec.reporting.terminal import print_explanations, print_user, results_console
from rayrec.reporting.user_views import read_users


def show(
    config: ConfigPath,
    date: PublishedDateOption,
    user: Annotated[str, typer.Option("--user", help="The user's id, as in the data.")],
    overrides: Overrides = None,
    ranks: Annotated[int, typer.Option("--ranks", min=1, help="Ranks of each slate to show.")] = 10,
    events: Annotated[int, typer.Option("--events", min=1, help="Newest events to show.")] = 30,
    why: Annotated[bool, typer.Option("--why", help="Show which part of the history keeps each slate.")] = False,
) -> None:
    """Show one user's history and slates. Reads only from output.root."""
    loaded = settings(config, overrides)
    (view,) = read_users(loaded.output.root, as_date(date), [user])
    console = results_console()
    print_user(console, view, ranks=ranks, events=events)
    if why:
        variants = {path.arm: path.at("denoise").name for path in plan_arms(loaded)}
        explainer = SlateExplainer(PublishedRun.open(loaded.output.root, as_date(date)), variants)
        if explainer.unavailable:
            console.print(f"no explanation: {explainer.unavailable}", soft_wrap=True)
        else:
            print_explanations(console, explanation_rows(explainer, [view.user_id], ranks=ranks))


main = command(show)

if __name__ == "__main__":
    main()
