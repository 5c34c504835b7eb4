"""Measures time and memory of `jobs.evaluate` for a million slates, against a fixed bar.

    python -m benchmarks.evaluate --check

500 k synthetic users x 50 events, two arms (with and without denoising), slates of 50: 1 M slates, evaluated on the
seven days after the date, with intervals, tests, segments, interleaving and standalone retrievers. Publishing is not
counted. Bar: under 2 minutes and under 4 GB (proportional set size of the process tree) on 2 cores.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import yaml

from benchmarks.generated import make
from benchmarks.process_tree import watched
from benchmarks.scale import CONFIG
from rayrec.config import load
from rayrec.pipeline import daily_run
from rayrec.pipeline.run_context import RunContext
from rayrec.ray_support import cluster

BAR_MINUTES, BAR_GB, HORIZON = 2.0, 4.0, 7
ARMS = {"variants": {"control": {"denoise": {"method": "none"}}, "denoised": {}}}


@dataclass(frozen=True)
class Measured:
    slates: int
    seconds: float
    gigabytes: float
    summary: str  # first line of the job's output: how many users were evaluated


def publish(users: int, events: int, items: int, seed: int, folder: Path) -> tuple[list[str], date, int]:
    """Publish one date; returns the `--set` options, the date and the number of slates."""
    made = make(folder / "data", users=users, events=events, items=items, seed=seed)
    config = folder / "evaluate.yaml"
    config.write_text(yaml.safe_dump({**CONFIG, "arms": ARMS}), encoding="utf8")
    sets = [f"data.root={made.root}", f"output.root={folder / 'out'}"]
    context = RunContext(load(config, sets), made.date - timedelta(days=HORIZON))
    with cluster.connect(context.config.resources):
        result = daily_run.run(context)
    return (
        ["--config", str(config), *(part for one in sets for part in ("--set", one))],
        context.date,
        sum(file.users for file in result.manifest.files),
    )


def measure(sets: list[str], day: date, slates: int) -> Measured:
    line = [sys.executable, "-m", "jobs.evaluate", *sets, "--date", str(day), "--horizon-days", str(HORIZON)]
    started = time.monotonic()
    with watched(0.2) as peak:
        done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    return Measured(slates, time.monotonic() - started, peak.bytes / 1e9, done.stdout.splitlines()[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=500_000)
    parser.add_argument("--events", type=int, default=50, help="per user")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 over the bar")
    given = parser.parse_args()
    rows = []
    for seed in given.seeds:
        folder = Path(tempfile.mkdtemp(prefix="evaluate-"))
        try:
            published = publish(given.users, given.events, given.items, seed, folder)
            rows += [measure(*published) for _ in range(given.repeats)]
        finally:
            shutil.rmtree(folder)
    print(f"\n{'slates':>10} {'seconds':>8} {'peak GB':>8}   evaluated")
    for row in rows:
        print(f"{row.slates:>10,} {row.seconds:>8.0f} {row.gigabytes:>8.2f}   {row.summary}")
    minutes, gigabytes = statistics.median(row.seconds for row in rows) / 60, max(row.gigabytes for row in rows)
    met = minutes < BAR_MINUTES and gigabytes < BAR_GB
    print(
        f"evaluate: {rows[0].slates:,} slates in {minutes:.2f} minutes (bar {BAR_MINUTES:.0f}), "
        f"peak {gigabytes:.1f} GB (bar {BAR_GB:.0f}): {'met' if met else 'NOT MET'}"
    )
    return 1 if given.check and not met else 0


if __name__ == "__main__":
    sys.exit(main())
