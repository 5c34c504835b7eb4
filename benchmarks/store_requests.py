"""Counts what the daily run asks of its store, by shard, split and pair of both; computes it for many users.

    python -m benchmarks.store_requests

The default run (without an LLM, two earlier cutoffs) of a few users runs in one process, three times: with twice the
shards, and with twice the splits, on a local store that counts calls as a remote one would be asked: a listing, an
`info`, a read, a range, a write each. From the differences follow the calls a shard, a split and a (shard, split) pair;
the table for 1, 10 and 100 million users is computed from them, with about 4,000 users a shard and 20 bytes an event.
A process loads models and catalogue once; that is in the constant part.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from benchmarks.generated import Made, make
from benchmarks.in_process import without_ray
from benchmarks.scale import CONFIG
from rayrec.config import load
from rayrec.pipeline import daily_run
from rayrec.pipeline.run_context import RunContext
from rayrec.storage.backends import LocalBackend

CALLS = ("find", "folders", "info", "read", "read_range", "open", "move_in", "create", "delete")
USERS, EVENTS, ITEMS, SHARDS, DAYS = 1_200, 30, 150, 16, 20
USERS_A_SHARD, BYTES_A_USER, SPLIT_BYTES = 4_000, 50 * 20, 64 << 20


def counted_run(folder: Path, made: Made, shards: int, splits: int) -> Counter[str]:
    """Calls by kind of one run with so many shards; each of the `splits` input files is a split."""
    config = folder / "requests.yaml"
    config.write_text(yaml.safe_dump(CONFIG), encoding="utf8")
    settings = [f"data.root={made.root}", f"output.root={folder / f'out-{shards}-{splits}'}", f"data.shards={shards}"]
    context = RunContext(load(config, [*settings, "data.split_bytes=1024"]), made.date)
    calls = Counter[str]()
    originals = {name: getattr(LocalBackend, name) for name in CALLS}

    def counting(name: str) -> Any:
        def call(self: LocalBackend, url: str, *rest: Any) -> Any:
            if str(context.storage.root) in url or name == "move_in":
                calls[name] += 1
            return originals[name](self, url, *rest)

        return call

    for name in CALLS:
        setattr(LocalBackend, name, counting(name))
    try:
        with without_ray():
            daily_run.run(context)
    finally:
        for name, original in originals.items():
            setattr(LocalBackend, name, original)
    return calls


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory(prefix="rayrec-requests-") as name:
        folder = Path(name)
        found = {}
        for shards, splits in ((SHARDS, DAYS), (2 * SHARDS, DAYS), (SHARDS, 2 * DAYS), (2 * SHARDS, 2 * DAYS)):
            made = make(folder / f"days-{splits}", users=USERS, events=EVENTS, items=ITEMS, days=splits)
            started = time.process_time()
            calls = counted_run(folder, made, shards, splits)
            found[shards, splits] = calls.total()
            print(
                f"{shards} shards, {splits} splits: {dict(calls)}, {time.process_time() - started:.0f} CPU s",
                flush=True,
            )
    base, more, wide, both = found.values()
    pair = (both - wide - more + base) / (SHARDS * DAYS)
    shard, split = (more - base) / SHARDS - pair * DAYS, (wide - base) / DAYS - pair * SHARDS
    rest = base - shard * SHARDS - split * DAYS - pair * SHARDS * DAYS
    print(f"calls: {shard:.1f} a shard, {split:.1f} a split, {pair:.2f} a pair, {rest:.0f} besides")
    for users in (1_000_000, 10_000_000, 100_000_000):
        shards, splits = users // USERS_A_SHARD, -(-users * BYTES_A_USER // SPLIT_BYTES)
        total = shard * shards + split * splits + pair * shards * splits + rest
        print(f"{users:>12,} users: {shards:,} shards, {splits:,} splits, {total:,.0f} calls (computed)")
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    sys.exit(main())
