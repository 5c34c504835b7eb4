"""Run a job on a remote cluster, show its log, and end with its exit code.

    rayrec submit --address http://127.0.0.1:8265 -- python -m jobs.daily --config ... --date ...

Outages of the connection are survived (`--patience-minutes`). Ctrl-C stops following, not the job. Exit 5: how the
job ended is not known.
"""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from jobs.cli import command
from rayrec.ray_support import stop_signals
from rayrec.ray_support.job_submission import RemoteJob

Command = Annotated[list[str], typer.Argument(help="After `--`: the command to run on the cluster's head.")]
Address = Annotated[str, typer.Option("--address", help="The cluster's job API.", envvar="RAY_API_SERVER_ADDRESS")]
SubmissionId = Annotated[
    str | None,
    typer.Option(
        "--submission-id",
        help="A name for the job; default: a random one. A job of this name and command that runs is followed.",
    ),
]
WorkingDir = Annotated[
    str, typer.Option("--working-dir", help="The folder to upload; '' for none, where the image has the code.")
]
Patience = Annotated[
    float, typer.Option("--patience-minutes", min=0, help="How long the job API may stay away before this gives up.")
]


def submit(
    job: Command,
    address: Address = "http://127.0.0.1:8265",
    submission_id: SubmissionId = None,
    working_dir: WorkingDir = ".",
    patience_minutes: Patience = 30,
) -> None:
    """Run a job on a remote cluster, show its log, and end with its exit code."""
    remote = RemoteJob(address, submission_id, patience_s=60 * patience_minutes, show=_show)
    try:
        remote.submit(shlex.join(job), working_dir or None)
        print(f"submit: the job is {remote.submission_id}", file=sys.stderr, flush=True)
        code = remote.follow()
    except KeyboardInterrupt:
        name = remote.submission_id
        print(
            f"submit: no longer following; the job {name} goes on if it was submitted.\n"
            f"  follow it: the same command with --submission-id {name}\n"
            f"  end it:    ray job stop --address {address} {name}",
            file=sys.stderr,
        )
        signal = stop_signals.received()
        if signal is None:
            raise
        stop_signals.finish(stop_signals.exit_code(signal))
    raise typer.Exit(code)


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


main = command(submit)

if __name__ == "__main__":
    main()
