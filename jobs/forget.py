"""Forget users: out of the item models and the published days, and out of every later night.

    python -m jobs.forget --config conf/online_retail.yaml --set data.root=DIR --set output.root=OUT --users users.csv

The file, here or at an fsspec URL, is a CSV with a header, or parquet; its column `user_id` (or --column) holds the
ids. Run it while no night runs. A call that was killed is completed by the next one; one that finds nothing new to
forget changes nothing.
"""

from __future__ import annotations

from contextlib import nullcontext
from datetime import datetime
from typing import Annotated

import typer

from jobs.cli import ConfigPath, Overrides, PrintConfig, as_date, command, settings
from rayrec.data import erasure_list
from rayrec.data.erasure_list import read_user_ids
from rayrec.pipeline.daily_run import check
from rayrec.pipeline.erasure_run import add_to_erasure_list, execute, newest_context
from rayrec.ray_support import cluster
from rayrec.reporting.terminal import results_console
from rayrec.storage import Storage


def forget(
    config: ConfigPath,
    users: Annotated[str, typer.Option("--users", help="The file or URL of user ids: CSV with a header, or parquet.")],
    column: Annotated[str, typer.Option("--column", help="The column that holds the ids.")] = "user_id",
    date: Annotated[
        datetime | None,
        typer.Option(
            "--date",
            formats=["%Y-%m-%d"],
            help="The day whose item models lose the users; default: the newest published. Others are deleted.",
        ),
    ] = None,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
) -> None:
    """Forget users, and certify it."""
    loaded, console = settings(config, overrides, print_config), results_console()
    day = newest_context(loaded, None if date is None else as_date(date))
    if day is not None:
        check(day)
    ids = read_user_ids(users, column)
    storage = Storage(loaded.output.root)
    added = add_to_erasure_list(storage, ids)
    console.print(f"{len(ids):,} users in {users}, {added:,} of them new on the list", markup=False, soft_wrap=True)
    requests = erasure_list.pending_requests(storage)
    if not requests:
        console.print("nothing to do: every request has its certificate")
        return
    with cluster.connect(loaded.resources) if day is not None else nullcontext():
        for request in requests:
            path = execute(loaded, request, day)
            console.print(f"certificate: {storage.url(path)}", soft_wrap=True)


main = command(forget)

if __name__ == "__main__":
    main()
