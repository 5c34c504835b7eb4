"""Show one user of a published date: the history, what denoising removed and why, and each arm's slate.

python -m jobs.show --config conf/online_retail.yaml --set output.root=OUT --date 2011-08-31 --user 12423
"""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.cli import ConfigPath, Overrides, PublishedDateOption, as_date, command, settings
from rayrec.reporting.terminal import print_user, results_console
from rayrec.reporting.user_views import read_users


def show(
    config: ConfigPath,
    date: PublishedDateOption,
    user: Annotated[str, typer.Option("--user", help="The user's id, as in the data.")],
    overrides: Overrides = None,
    ranks: Annotated[int, typer.Option("--ranks", min=1, help="Ranks of each slate to show.")] = 10,
    events: Annotated[int, typer.Option("--events", min=1, help="Newest events to show.")] = 30,
) -> None:
    """Show one user's history and slates. Reads only from output.root."""
    loaded = settings(config, overrides)
    (view,) = read_users(loaded.output.root, as_date(date), [user])
    print_user(results_console(), view, ranks=ranks, events=events)


main = command(show)

if __name__ == "__main__":
    main()
