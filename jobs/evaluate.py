"""Judge a published day by what its users did next: every arm, and popularity and each retriever alone.

python -m jobs.evaluate --config conf/online_retail.yaml --set data.root=DIR --set output.root=OUT \\
    --date 2011-08-24 --horizon-days 7

Prints the table, writes reports/dt=D/metrics.json, and adds the table to reports/dt=D/report.html.
"""

from __future__ import annotations

import dataclasses
import json
from datetime import date as Date
from datetime import timedelta
from typing import Annotated

import numpy as np
import pyarrow as pa
import typer

from jobs.cli import ConfigPath, Day, Overrides, PrintConfig, command, day_of, settings
from rayrec.config import Config
from rayrec.errors import DataError, MissingFileError, PublicationError
from rayrec.evaluation.judging import Judgement, judge_day
from rayrec.evaluation.outcomes import outcomes
from rayrec.evaluation.report import read_report, report_folder, write_report
from rayrec.evaluation.terminal import print_comparison, results_console
from rayrec.publishing.manifest import find_manifest
from rayrec.publishing.reader import read_manifest
from rayrec.storage import Storage

SHOWN = ("recall@10", "recall@50", "ndcg@10", "hr@1", "coverage@10")


def evaluate(
    config: ConfigPath,
    date: Day,
    horizon_days: Annotated[
        int, typer.Option("--horizon-days", min=1, max=366, help="Days to judge, from --date on.")
    ] = 7,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
) -> None:
    """Judge the slates of a published day by what users did in the days from it on."""
    loaded, day, console = settings(config, overrides, print_config), day_of(date), results_console()
    root = loaded.output.root
    _require_published(loaded, day, f"python -m jobs.daily --config {config} --date {day}")
    acts = outcomes(loaded, day, horizon_days)
    found = judge_day(root, day, _wanted(loaded, acts), min_events=max(1, loaded.data.min_events))
    judged = _in_words(loaded, day, horizon_days, acts, found)
    console.print(judged, soft_wrap=True)
    print_comparison(console, found.comparison, SHOWN)
    storage = Storage(root)
    path = f"{report_folder(day.isoformat())}/metrics.json"
    storage.write(path, _metrics_json(root, day, horizon_days, judged, found))
    console.print(f"metrics: {storage.url(path)}", soft_wrap=True)
    try:
        report = dataclasses.replace(read_report(storage, day.isoformat()), judged=judged, comparison=found.comparison)
        console.print(f"report:  {write_report(report, storage)}", soft_wrap=True)
    except MissingFileError:
        console.print("report:  the day has none to add this to; jobs.daily writes it", soft_wrap=True)


def _require_published(config: Config, day: Date, line: str) -> None:
    storage = Storage(config.output.root)
    if not config.data.root:
        raise DataError("data.root is not set, and what users did lies there", do="give --set data.root=DIR")
    if find_manifest(storage, day) is None:
        sets = f"--set data.root={config.data.root} --set output.root={config.output.root}"
        raise PublicationError(f"no slates are published for {day}", where=storage.root, do=f"first run: {line} {sets}")


def _in_words(config: Config, day: Date, horizon_days: int, acts: pa.Table, found: Judgement) -> str:
    last = day + timedelta(days=horizon_days - 1)
    newest = acts["ts"].combine_chunks().cast(pa.int64()).to_numpy().max()
    there = Date.fromtimestamp(0) + timedelta(microseconds=int(newest))
    events = max(1, config.data.min_events)
    who = f"{found.users:,} users with a slate, at least {events} {'event' if events == 1 else 'events'} before {day}"
    what = f"{found.events:,} new items taken from {day} to {last}"
    return f"{who}, and {what}" + (f"; the data end on {there}." if there < last else ".")


def _wanted(config: Config, acts: pa.Table) -> pa.Table:
    positive = np.array(list(config.data.events.values())) > 0
    chosen = positive[acts["event"].combine_chunks().to_numpy()]
    return acts.filter(pa.array(chosen)).select(["user_id", "item_id"])


def _metrics_json(root: str, day: Date, horizon_days: int, judged: str, found: Judgement) -> bytes:
    systems: dict[str, dict[str, dict[str, float]]] = {}
    differences = []
    for row in found.comparison.to_pylist():
        interval = {"value": row["value"], "low": row["low"], "high": row["high"]}
        if row["against"] is None:
            systems.setdefault(row["system"], {"users_judged": row["users"]})[row["metric"]] = interval
        else:
            named = {"system": row["system"], "against": row["against"], "metric": row["metric"]}
            differences.append({**named, **interval})
    content = {
        "date": day.isoformat(),
        "horizon_days": horizon_days,
        "run_id": read_manifest(root, day).run_id,
        "judged": judged,
        "users_judged": found.users,
        "best_retriever_alone": found.best_alone,
        "systems": systems,
        "differences": differences,
    }
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


main = command(evaluate)

if __name__ == "__main__":
    main()
