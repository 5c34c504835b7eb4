"""Judge a published day by what its users did next: every arm, and popularity and each retriever alone.

python -m jobs.evaluate --config conf/online_retail.yaml --set data.root=DIR --set output.root=OUT \\
    --date 2011-08-24 --horizon-days 7

Prints the decision and the table, writes reports/dt=D/metrics.json, and adds both to reports/dt=D/report.html.
"""

from __future__ import annotations

from datetime import date as Date
from typing import Annotated

import typer

from jobs.cli import ConfigPath, Overrides, PrintConfig, PublishedDateOption, as_date, command, settings
from rayrec.config import Config
from rayrec.errors import DataError, MissingFileError, PublicationError
from rayrec.evaluation import evaluation_result
from rayrec.evaluation.evaluation_result import EvaluationResult
from rayrec.publishing.manifest import find_manifest
from rayrec.reporting.html_report import read_report, write_report
from rayrec.reporting.terminal import print_comparison, print_decision, print_off_policy, results_console
from rayrec.storage import Storage, layout

SHOWN_METRICS = ("recall@10", "recall@50", "ndcg@10", "hr@1", "coverage@10")


def evaluate(
    config: ConfigPath,
    date: PublishedDateOption,
    horizon_days: Annotated[
        int, typer.Option("--horizon-days", min=1, max=366, help="Days to judge, from --date on.")
    ] = 7,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="The arm to compare the others with; default: the first.")
    ] = None,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
) -> None:
    """Judge the slates of a published day by what users did in the days from it on."""
    loaded, day, console = settings(config, overrides, print_config), as_date(date), results_console()
    _require_published(loaded, day, f"python -m jobs.daily --config {config} --date {day}")
    found = evaluation_result.evaluate(loaded, day, horizon_days, baseline)
    console.print(found.evaluated_on, soft_wrap=True)
    print_comparison(console, found.found.comparison, SHOWN_METRICS)
    print_decision(console, found.decision, found.found.interleaving)
    if found.off_policy is not None:
        print_off_policy(console, found.off_policy)
    storage = Storage(loaded.output.root)
    path = layout.metrics_path(day)
    storage.write(path, found.to_json())
    console.print(f"metrics: {storage.url(path)}", soft_wrap=True)
    console.print(f"report:  {_update_report(found, storage)}", soft_wrap=True)


def _update_report(found: EvaluationResult, storage: Storage) -> str:
    """Add what was found to the day's report: where it lies, or why there is none to add to."""
    try:
        report = read_report(storage, found.date.isoformat())
    except MissingFileError:
        return "the day has none to add this to; jobs.daily writes it"
    except DataError:
        return "the day's is of another version of rayrec; jobs.daily for its date writes one anew to add this to"
    return write_report(found.on(report), storage)


def _require_published(config: Config, day: Date, line: str) -> None:
    storage = Storage(config.output.root)
    if not config.data.root:
        raise DataError("data.root is not set, and what users did lies there", hint="give --set data.root=DIR")
    if find_manifest(storage, day) is None:
        sets = f"--set data.root={config.data.root} --set output.root={config.output.root}"
        raise PublicationError(
            f"no slates are published for {day}", where=storage.root, hint=f"first run: {line} {sets}"
        )


main = command(evaluate)

if __name__ == "__main__":
    main()
