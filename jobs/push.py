"""Push the slates of a published date into Redis: the new version is written beside the old one, then switched to.

    python -m jobs.push --config C --set output.root=OUT --date 2026-01-31

The Redis is `push.url` of the config, by default the URL in the environment variable RAYREC_REDIS_URL. A push that was
killed is completed by the same command; a date that is current already is not written again.
"""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.cli import ConfigPath, Overrides, PublishedDateOption, as_date, command, settings
from rayrec.publishing.redis_push import push as push_slates
from rayrec.reporting.terminal import results_console


def push(
    config: ConfigPath,
    date: PublishedDateOption,
    arm: Annotated[str | None, typer.Option("--arm", help="Push only this arm; the others keep their version.")] = None,
    overrides: Overrides = None,
) -> None:
    """Push the slates of a published date into Redis."""
    loaded, console = settings(config, overrides), results_console()
    prefix = loaded.push.prefix or f"rayrec:{loaded.name}"
    result = push_slates(loaded.output.root, as_date(date), loaded.push, prefix, arm)
    done = f"{result.slates:,} slates written; it is current now" if result.switched else "it was current before"
    console.print(f"{prefix}: version {result.version}: {done}", markup=False, soft_wrap=True)
    if result.expiring:
        wait = f"expire within {loaded.push.keep_old_minutes:g} minutes"
        console.print(f"{result.expiring:,} slates of other versions {wait}", markup=False, soft_wrap=True)


main = command(push)

if __name__ == "__main__":
    main()
