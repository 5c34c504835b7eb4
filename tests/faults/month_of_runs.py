"""Daily runs of many dates in one output root, in one process: does a run cost more the more dates there are?

    python tests/faults/month_of_runs.py --days 30

Without Ray, LLM and network: what grows here grows in the driver, in the store or in the tables of `output.tables`.
Prints, for each date, the seconds of the run, the memory of the process after it, and the files and bytes it left.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [
        str(Path(__file__).parents[2]),
        str(Path(__file__).parent),
        str(Path(__file__).parents[1] / "support"),
    ]

import numpy as np
from one_process import without_ray
from rich.console import Console
from tiny_runs import CONFIG, TinyShop

from jobs import daily
from rayrec.config import load
from rayrec.numerics.threads import thread_limit
from rayrec.pipeline import daily_run, run_watch
from rayrec.pipeline.run_context import RunContext
from rayrec.publishing.manifest import published_dates
from rayrec.storage import Storage, layout

TABLES = "output.tables=[{format: delta}, {format: iceberg}]"
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class DayCost:
    """What one run cost, and what it left."""

    date: date
    seconds: float
    memory_bytes: int  # of the process, after the run
    files: dict[str, int]  # that the run added, by top folder
    added_bytes: int


def run_days(shop: TinyShop, output: Path, days: int) -> Iterator[DayCost]:
    """The runs of the `days` dates that end with the dataset's, oldest first."""
    config = load(CONFIG, shop.overrides(output, TABLES))
    storage, before = Storage(str(output)), dict[str, int]()
    with without_ray(), thread_limit(1):
        for number in range(days):
            day = shop.dataset.date - timedelta(days=days - 1 - number)
            context = replace(RunContext(config, day), code_version="month")
            began = time.perf_counter()
            with run_watch.watched(context) as status:
                result = daily_run.run(context, status)
                daily.show(result, Console(file=io.StringIO()))
            seconds = time.perf_counter() - began
            there = {info.path: info.size for info in storage.list()}
            added = {path: size for path, size in there.items() if path not in before}
            files = Counter(layout.top_folder(path) for path in added)
            yield DayCost(day, seconds, _memory_bytes(), dict(sorted(files.items())), sum(added.values()))
            before = there


def _memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def slope(values: list[float]) -> float:
    """Least-squares growth from one date to the next, as a share of the mean."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0] / np.mean(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--users", type=int, default=40)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rayrec-month-") as folder:
        shop, output = TinyShop.make(Path(folder) / "shop", arguments.users), Path(folder) / "out"
        costs = []
        for cost in run_days(shop, output, arguments.days):
            costs.append(cost)
            files = ", ".join(f"{name} {count}" for name, count in cost.files.items())
            memory, added = cost.memory_bytes / 2**20, cost.added_bytes / 2**20
            print(f"{cost.date}  {cost.seconds:6.2f} s  {memory:7.1f} MiB  +{added:5.2f} MiB  {files}", flush=True)
        settled = costs[len(costs) // 6 :]
        print(f"published: {len(published_dates(str(output)))} dates")
        for name, values in (
            ("seconds", [cost.seconds for cost in settled]),
            ("memory", [float(cost.memory_bytes) for cost in settled]),
            ("files", [float(sum(cost.files.values())) for cost in settled]),
        ):
            print(f"{name}: mean {np.mean(values):.4g}, {100 * slope(values):+.2f}% a date (without the first sixth)")


if __name__ == "__main__":
    main()
