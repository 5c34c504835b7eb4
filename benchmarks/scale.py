"""Measures time and memory of the daily run without an LLM for up to 1 M users, against a fixed bar.

    python -m benchmarks.scale --check

Bar: 1 M synthetic users x 50 events on 2 cores in under 15 minutes and under 8 GB (proportional set size of the whole
process tree: driver, Ray, workers). 100 k users run first, to show the slope. Generating the data is not counted. One
arm: denoised by influence, candidates of EASE and the popularities, slates of 50; the blend has its default weights.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.generated import make
from benchmarks.process_tree import watched
from rayrec.config import load
from rayrec.pipeline import daily_run
from rayrec.pipeline.run_context import RunContext
from rayrec.ray_support import cluster

BAR_MINUTES, BAR_GB = 15.0, 8.0
CONFIG = {
    "name": "scale",
    "data": {
        "interactions": {"path": "events/*.parquet", "event": {"column": "event"}},
        "items": {"path": "items.parquet", "category": "category"},
        "events": {"purchase": 1.0, "view": 1.0, "return": -1.0},
        "window_days": 60,
        "history_limit": 100,
        "shards": 64,
    },
    "retrieval": {"sources": {"ease": {}, "popularity": {}, "recent_popularity": {"half_life_days": 8.0}}},
    "rerank": {"method": "none"},
    "blend": {"cutoffs": 0},
    "arms": {"variants": {"denoised": {}}},
    "output": {"examples": 0},
}


@dataclass(frozen=True)
class Measured:
    users: int
    seconds: float
    gigabytes: float
    steps: str
    published: int


def measure(users: int, events: int, items: int, seed: int, folder: Path) -> Measured:
    made = make(folder / "data", users=users, events=events, items=items, seed=seed)
    config = folder / "scale.yaml"
    config.write_text(yaml.safe_dump(CONFIG), encoding="utf8")
    context = RunContext(load(config, [f"data.root={made.root}", f"output.root={folder / 'out'}"]), made.date)
    started = time.monotonic()
    with watched() as peak, cluster.connect(context.config.resources):
        result = daily_run.run(context)
    seconds = time.monotonic() - started
    steps = ", ".join(f"{name} {took:.0f}" for name, took, *_ in result.timings.steps if took >= 0.5)
    return Measured(users, seconds, peak.bytes / 1e9, steps, result.manifest.users.published)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--events", type=int, default=50, help="per user")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 over the bar")
    given = parser.parse_args()
    rows = []
    for users in given.users:
        for seed in given.seeds:
            folder = Path(tempfile.mkdtemp(prefix="scale-"))
            try:
                rows.append(measure(users, given.events, given.items, seed, folder))
            finally:
                shutil.rmtree(folder)
    return report(rows, given.check)


def report(rows: list[Measured], check: bool) -> int:
    print(f"{'users':>10} {'published':>10} {'minutes':>8} {'users/s':>8} {'peak GB':>8}   seconds a step")
    for row in rows:
        print(
            f"{row.users:>10,} {row.published:>10,} {row.seconds / 60:>8.1f} {row.users / row.seconds:>8,.0f} "
            f"{row.gigabytes:>8.2f}   {row.steps}"
        )
    most = [row for row in rows if row.users == max(row.users for row in rows)]
    minutes = statistics.median(row.seconds for row in most) / 60
    gigabytes = max(row.gigabytes for row in most)
    met = minutes < BAR_MINUTES and gigabytes < BAR_GB
    print(
        f"scale: {most[0].users:,} users in {minutes:.1f} minutes (bar {BAR_MINUTES:.0f}), peak {gigabytes:.1f} GB "
        f"(bar {BAR_GB:.0f}): {'met' if met else 'NOT MET'}"
    )
    return 1 if check and not met else 0


if __name__ == "__main__":
    sys.exit(main())
