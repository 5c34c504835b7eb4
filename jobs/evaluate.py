"""Evaluate published slates with what users consumed next: every arm, and each retriever alone.

python -m jobs.evaluate --config conf/online_retail.yaml --set data.root=DIR --set output.root=OUT \\
    --date 2011-08-24 --horizon-days 7

Prints the decision and the metrics, writes reports/dt=D/metrics.json, and adds both to reports/dt=D/report.html.
"""

from __future__ import annotations

from datetime import date as Date
from typing import Annotated

import typer

from jobs.cli import ConfigPath, Overrides, PrintConfig, PublishedDateOption, as_date, command, settings
from rayrec.config import Config
from rayrec.data import erasure_list
from rayrec.errors import DataError, MissingFileError, PublicationError
from rayrec.evaluation import evaluation_job
from rayrec.evaluation.evaluation_job import EvaluationResult
from rayrec.publishing.manifest import find_manifest
from rayrec.reporting.html_report import read_report, write_report
from rayrec.reporting.terminal import print_comparison, print_decision, print_off_policy, results_console
from rayrec.storage import Storage, layout

SHOWN_METRICS = ("recall@10", "recall@50", "ndcg@10", "hr@1", "coverage@10")


def evaluate(
    config: ConfigPath,
    date: PublishedDateOption,
    horizon_days: Annotated[
        int,
        typer.Option("--horizon-days", min=1, max=366, help="Days of consumption to evaluate with, from --date on."),
    ] = 7,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="The arm to compare the others with; default: the first.")
    ] = None,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
) -> None:
    """Evaluate the slates of a published date with what users consumed in the days from it on."""
    loaded, day, console = settings(config, overrides, print_config), as_date(date), results_console()
    _require_published(loaded, day, f"python -m jobs.daily --config {config} --date {day}")
    storage = Storage(loaded.output.root)
    listed = erasure_list.read(storage).digest
    result = evaluation_job.evaluate(loaded, day, horizon_days, baseline)
    console.print(result.evaluated_on, soft_wrap=True)
    print_comparison(console, result.slates.comparison, SHOWN_METRICS)
    print_decision(console, result.decision, result.slates.interleaving)
    if result.off_policy is not None:
        print_off_policy(console, result.off_policy)
    if erasure_list.read(storage).digest != listed:
        raise PublicationError(
            "users were erased while the job ran; no metrics are written",
            where=storage.url(layout.ERASURE),
            hint="run the job again: it evaluates without them",
        )
    storage.write(layout.metrics_path(day), result.to_json())
    console.print(f"metrics: {storage.url(layout.metrics_path(day))}", soft_wrap=True)
    console.print(f"report:  {_update_report(result, storage)}", soft_wrap=True)


def _update_report(result: EvaluationResult, storage: Storage) -> str:
    """Add the result to the date's report. Gives the report's path, or why it was not updated."""
    try:
        report = read_report(storage, result.date.isoformat())
    except MissingFileError:
        return "not updated: the date has no report; jobs.daily for the date writes one"
    except DataError:
        return "not updated: the report is of another version of rayrec; jobs.daily for the date writes a new one"
    return write_report(report.with_evaluation(result), storage)


def _require_published(config: Config, day: Date, line: str) -> None:
    storage = Storage(config.output.root)
    if not config.data.root:
        raise DataError("data.root is not set; what users consumed is read from it", hint="give --set data.root=DIR")
    if find_manifest(storage, day) is None:
        sets = f"--set data.root={config.data.root} --set output.root={config.output.root}"
        raise PublicationError(
            f"no slates are published for {day}", where=storage.root, hint=f"first run: {line} {sets}"
        )


main = command(evaluate)

if __name__ == "__main__":
    main()
