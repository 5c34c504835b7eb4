"""Measures time and memory of the daily run, all default sources and two earlier cutoffs, without an LLM.

    python -m benchmarks.scale --users 100000 1000000 --items 10000 --check
    python -m benchmarks.scale --users 200000 --items 10000 100000 1000000

Generated users x 50 events; making the data is not counted. One arm: denoised by influence, the default sources, a
blend learned at two earlier cutoffs, slates of 50. Memory is the proportional set size of the whole process tree
(driver, Ray, workers).

The peers fit, and find the 100 best new items of every user, on the same events (see scale_peers.py). The whole job is
nine sources at three cutoffs, and more; so each peer also stands beside our fit and top 100 of the same method alone.

Bars: 1 M users x 10,000 items in under 20 minutes and 12 GB, and users/s within 20% of 100 k users; 200 k users x 1 M
items in under 16 GB and three times the time of 10,000 items; no source slower than its peer.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.generated import make
from benchmarks.process_tree import watched
from benchmarks.scale_peers import Pair, compare
from rayrec.config import load
from rayrec.pipeline import daily_run
from rayrec.pipeline.run_context import RunContext
from rayrec.ray_support import cluster

BAR_MINUTES, BAR_GB, BAR_GB_MILLION_ITEMS, BAR_SLOPE, BAR_ITEMS = 20.0, 12.0, 16.0, 0.8, 3.0
CONFIG = {
    "name": "scale",
    "data": {
        "interactions": {"path": "events/*.parquet", "event": {"column": "event"}},
        "items": {"path": "items.parquet", "category": "category"},
        "events": {"purchase": 1.0, "view": 1.0, "return": -1.0},
    },
    "rerank": {"method": "none"},
    "denoise": {"method": "influence"},
    "arms": {"variants": {"denoised": {}}},
    "output": {"examples": 0},
}


@dataclass(frozen=True)
class Measured:
    users: int
    items: int
    seconds: float
    cpu_seconds: float
    gigabytes: float
    steps: str
    published: int
    peers: tuple[Pair, ...]

    @property
    def users_a_second(self) -> float:
        return self.users / self.seconds


def measure(users: int, events: int, items: int, seed: int, folder: Path, given: argparse.Namespace) -> Measured:
    made = make(folder / "data", users=users, events=events, items=items, seed=seed)
    config = folder / "scale.yaml"
    config.write_text(yaml.safe_dump(CONFIG), encoding="utf8")
    places = [f"data.root={made.root}", f"output.root={folder / 'out'}"]
    context = RunContext(load(config, [*places, f"data.shards={max(16, users // 4000)}", *given.set]), made.date)
    started = time.monotonic()
    with watched() as peak, cluster.connect(context.config.resources):
        result = daily_run.run(context)
        seconds = time.monotonic() - started
        time.sleep(2)  # a last sample, before Ray's processes end
    steps = ", ".join(f"{name} {took:.0f}" for name, took, *_ in result.timings.steps if took >= 0.5)
    return Measured(
        users,
        items,
        seconds,
        peak.cpu_seconds,
        peak.bytes / 1e9,
        steps,
        result.manifest.users.published,
        () if given.no_peer else tuple(compare(made, given.peer)),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--events", type=int, default=50, help="per user")
    parser.add_argument("--items", type=int, nargs="+", default=[10_000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="a setting of the config, as in jobs.daily")
    parser.add_argument("--no-peer", action="store_true", help="the job alone")
    parser.add_argument("--peer", help="a Python with rectools, for its EASE: see peer_ease.py")
    parser.add_argument("--check", action="store_true", help="exit with 1 over a bar")
    given = parser.parse_args()
    rows = []
    for users in given.users:
        for items in given.items:
            folder = Path(tempfile.mkdtemp(prefix="rayrec-scale-"))
            try:
                rows.append(measure(users, given.events, items, given.seed, folder, given))
                print(line(rows[-1]), *rows[-1].peers, sep="\n", flush=True)
            finally:
                shutil.rmtree(folder)
    missed = bars(rows)
    most = max(rows, key=lambda row: (row.users, row.items))
    print(
        f"scale: {most.users:,} users x {most.items:,} items in {most.seconds / 60:.1f} minutes, "
        f"{most.cpu_seconds / 60:.1f} of CPU, peak {most.gigabytes:.1f} GB: "
        + (f"NOT MET: {'; '.join(missed)}" if missed else "bars met")
    )
    return 1 if given.check and missed else 0


def line(row: Measured) -> str:
    against = "".join(f"; {row.seconds / pair.theirs.both:.1f} x {pair.peer} alone" for pair in row.peers)
    return (
        f"{row.users:>10,} users {row.items:>9,} items {row.published:>10,} published {row.seconds / 60:>6.1f} min "
        f"{row.cpu_seconds / 60:>6.1f} CPU min {row.users_a_second:>6,.0f} users/s {row.gigabytes:>6.2f} GB   "
        f"{row.steps}{against}"
    )


def bars(rows: list[Measured]) -> list[str]:
    """The bars that these rows miss, in words."""
    missed = []
    by = {(row.users, row.items): row for row in rows}
    for (users, items), row in by.items():
        if (users, items) == (1_000_000, 10_000) and row.seconds > BAR_MINUTES * 60:
            missed.append(f"{row.seconds / 60:.1f} minutes, bar {BAR_MINUTES:.0f}")
        if row.gigabytes > (bar := BAR_GB_MILLION_ITEMS if items >= 1_000_000 else BAR_GB):
            missed.append(f"{row.gigabytes:.1f} GB with {items:,} items, bar {bar:.0f}")
        fewer = by.get((100_000, items))
        if users == 1_000_000 and fewer and row.users_a_second < BAR_SLOPE * fewer.users_a_second:
            missed.append(f"{row.users_a_second:.0f} users/s against {fewer.users_a_second:.0f}")
        small = by.get((users, 10_000))
        if items == 1_000_000 and small and row.seconds > BAR_ITEMS * small.seconds:
            missed.append(f"{row.seconds / small.seconds:.1f} times the time of 10,000 items, bar {BAR_ITEMS:.0f}")
        for pair in row.peers:
            if pair.own.both > pair.theirs.both:
                missed.append(f"{pair.method} {pair.own.both:.0f} s against {pair.theirs.both:.0f} s of {pair.peer}")
    return missed


if __name__ == "__main__":
    sys.exit(main())
