"""Evaluate published slates with what users consumed next: every arm, and each retriever alone.

python -m jobs.evaluate --config conf/online_retail.yaml --set data.root=DIR --set output.root=OUT \\
    --date 2011-08-24 --horizon-days 7

Prints the decision and the metrics, writes reports/dt=D/metrics.json, and adds both to reports/dt=D/report.html.
With `--from` and `--to` instead of `--date`, all published dates of the period are judged together.
"""

from __future__ import annotations

from datetime import date as Date
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from jobs.cli import ConfigPath, Overrides, PrintConfig, as_date, command, settings
from rayrec.config import Config
from rayrec.data import erasure_list
from rayrec.errors import ConfigError, DataError, MissingFileError, PublicationError
from rayrec.evaluation import evaluation_job
from rayrec.evaluation.evaluation_job import EvaluationResult
from rayrec.evaluation.off_policy.interleaving import INTERLEAVING
from rayrec.evaluation.pooled_dates import pool_dates
from rayrec.evaluation.segment_effects import interaction_sentences
from rayrec.evaluation.session_metrics import NUM
from rayrec.publishing.manifest import find_manifest, published_dates
from rayrec.publishing.slate_reader import read_manifest
from rayrec.reporting.html_report import read_report, shorten, write_pooled_report, write_report
from rayrec.reporting.mlflow_run import log_evaluation
from rayrec.reporting.report_data import ReportData
from rayrec.reporting.terminal import (
    print_comparison,
    print_decision,
    print_effect_by_day,
    print_off_policy,
    results_console,
)
from rayrec.storage import Storage, layout

SHOWN_METRICS = ("recall@10", "recall@50", "ndcg@10", "hr@1", "coverage@10")


def evaluate(
    config: ConfigPath,
    date: Annotated[datetime | None, typer.Option("--date", formats=["%Y-%m-%d"], help="The published date.")] = None,
    first: Annotated[
        datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="The first of several published dates.")
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="The last of them, included.")
    ] = None,
    horizon_days: Annotated[
        int,
        typer.Option("--horizon-days", min=1, max=366, help="Days of consumption to evaluate with, from the date on."),
    ] = 7,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="The arm to compare the others with; default: the first.")
    ] = None,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
) -> None:
    """Evaluate the slates of a published date, or of all dates of a period, with what users consumed from it on."""
    loaded, console = settings(config, overrides, print_config), results_console()
    if date is None and first is not None and last is not None:
        _evaluate_pooled(loaded, as_date(first), as_date(last), horizon_days, baseline, console)
        return
    if date is None or first is not None or last is not None:
        raise ConfigError("which dates?", where="--date, --from, --to", hint="give --date, or both --from and --to")
    day = as_date(date)
    _require_published(loaded, day, f"python -m jobs.daily --config {config} --date {day}")
    storage = Storage(loaded.output.root)
    listed = erasure_list.read(storage).digest
    result = evaluation_job.evaluate(loaded, day, horizon_days, baseline)
    console.print(result.evaluated_on, soft_wrap=True)
    print_comparison(console, result.slates.comparison, SHOWN_METRICS)
    print_decision(console, result.decision, result.slates.interleaving)
    for sentence in interaction_sentences(result.segment_effects):
        console.print(Text(shorten(sentence, 1000)), soft_wrap=True)
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
    if loaded.tracking.mlflow is not None:
        manifest, report = read_manifest(storage.root, day), _report(storage, day)
        run = log_evaluation(loaded.tracking.mlflow, loaded.name, manifest, result, report)
        console.print(f"mlflow:  run {run}", soft_wrap=True)


def _report(storage: Storage, day: Date) -> ReportData | None:
    try:
        return read_report(storage, day.isoformat())
    except (MissingFileError, DataError):
        return None


def _evaluate_pooled(
    config: Config, first: Date, last: Date, horizon_days: int, baseline: str | None, console: Console
) -> None:
    """Judge the published dates of the period together; writes metrics.json and report.html in reports/pooled/."""
    if not config.data.root:
        raise DataError("data.root is not set; what users consumed is read from it", hint="give --set data.root=DIR")
    storage = Storage(config.output.root)
    dates = [day for day in published_dates(config.output.root) if first <= day <= last]
    result = pool_dates(config, dates, horizon_days, baseline)
    console.print(result.description, soft_wrap=True)
    known = set(result.comparison["metric"].to_pylist())
    print_comparison(
        console, result.comparison, [name for name in ("conversion", *SHOWN_METRICS, NUM) if name in known]
    )
    print_decision(console, result.decision, INTERLEAVING.empty_table())
    print_effect_by_day(console, result.by_day)
    path = layout.pooled_metrics_path(dates[0], dates[-1])
    storage.write(path, result.to_json())
    console.print(f"metrics: {storage.url(path)}", soft_wrap=True)
    console.print(f"report:  {write_pooled_report(result, config.name, storage)}", soft_wrap=True)


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
