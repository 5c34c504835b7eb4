"""Erase users (GDPR): from models, published dates and every later run.

    python -m jobs.forget --config conf/online_retail.yaml --set data.root=DIR --set output.root=OUT --users users.csv

The file (local or an fsspec URL) is a CSV with a header, parquet or JSON lines; its column `user_id` (or --column)
holds the ids, read as in interactions: only empty text and nulls are no id. A row that cannot be read refuses the file.
Do not run it while another job runs; beside a daily run it ends with words. The next call completes one that was
killed; a call with no new users changes nothing.
"""

from __future__ import annotations

from contextlib import nullcontext
from datetime import datetime
from typing import Annotated

import typer

from jobs.cli import ConfigPath, Overrides, PrintConfig, as_date, command, settings
from rayrec.data import erasure_list
from rayrec.data.user_file import read_user_ids
from rayrec.errors import PublicationError
from rayrec.monitoring.run_status import live_runs
from rayrec.pipeline.daily_run import check
from rayrec.pipeline.erasure_run import add_to_erasure_list, execute, newest_context
from rayrec.ray_support import cluster
from rayrec.reporting.terminal import results_console
from rayrec.storage import Storage


def forget(
    config: ConfigPath,
    users: Annotated[str, typer.Option("--users", help="File or URL of user ids: CSV, parquet or JSON lines.")],
    column: Annotated[str, typer.Option("--column", help="The column that holds the ids.")] = "user_id",
    date: Annotated[
        datetime | None,
        typer.Option(
            "--date",
            formats=["%Y-%m-%d"],
            help="The date whose item models are corrected; default: the newest published. Others are deleted.",
        ),
    ] = None,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
) -> None:
    """Erase users, and write a certificate."""
    loaded, console = settings(config, overrides, print_config), results_console()
    context = newest_context(loaded, None if date is None else as_date(date))
    if context is not None:
        check(context)
    ids = read_user_ids(users, column)
    storage = Storage(loaded.output.root)
    added = add_to_erasure_list(storage, ids)
    console.print(
        f"{len(ids):,} users in {users}, {added:,} of them new on the erasure list", markup=False, soft_wrap=True
    )
    requests = erasure_list.pending_requests(storage)
    if not requests:
        console.print("nothing to do: every request has its certificate")
        return
    if alive := live_runs(storage):
        raise PublicationError(
            "a daily run goes on, and may write rows of these users while they are erased: they are on the erasure "
            "list, nothing else was changed",
            where=", ".join(storage.url(path) for path in alive),
            hint="wait for its end or stop it, then run jobs.forget with the same file again",
        )
    with cluster.connect(loaded.resources) if context is not None else nullcontext():
        for request in requests:
            path = execute(loaded, request, context, ids.to_pylist(), (users, loaded.data.root))
            console.print(f"certificate: {storage.url(path)}", soft_wrap=True)


main = command(forget)

if __name__ == "__main__":
    main()
