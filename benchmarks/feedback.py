"""Measures the time and memory of judging logged feedback: 1 M slates with 3 M rows.

python -m benchmarks.feedback --slates 1000000 --check

Two arms show every user three items; a parquet log has one row an item. Measured are reading and validating the log,
joining it to the published slates, and the off-policy estimates of each arm from the other's log. The bars: below three
minutes and 5 GB, the inputs made by this script included in the memory.
"""

from __future__ import annotations

import argparse
import datetime
import resource
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rayrec.config.data_section import Feedback
from rayrec.data.feedback_contract import read_feedback
from rayrec.data.schemas import COUNTERFACTUAL_PROPENSITY, SLATE
from rayrec.evaluation.off_policy.arm_estimates import estimate_arms
from rayrec.evaluation.off_policy.feedback_evaluation import match_published

RANKS = 3
BAR_SECONDS, BAR_GB = 180, 5.0


def make(slates: int, folder: str, seed: int) -> tuple[pa.Table, pa.Table]:
    """Write the log; SLATE and COUNTERFACTUAL_PROPENSITY of the two arms."""
    rng, rows = np.random.default_rng(seed), slates * RANKS
    slate = np.repeat(np.char.add("s", np.arange(slates).astype(str)), RANKS)
    rank = np.tile(np.arange(1, RANKS + 1), slates)
    item = np.char.add("i", (rng.integers(0, 5000, rows) * RANKS + rank).astype(str))
    propensity = rng.uniform(0.2, 0.9, rows).astype(np.float32)
    reward = (rng.random(rows) < 0.1).astype(float)
    log = {"slate_id": slate, "rank": rank, "item_id": item, "reward": reward, "propensity": propensity}
    pq.write_table(pa.table(log), f"{folder}/log.parquet")
    arm = np.repeat(np.arange(slates) % 2, RANKS)
    published = {
        "dt": pa.array([datetime.date(2026, 1, 1)] * rows, pa.date32()),
        "arm": pa.array(np.array(["a", "b"])[arm]),
        "slate_id": slate,
        "user_id": np.char.replace(slate, "s", "u"),
        "rank": pa.array(rank, pa.int16()),
        "item_id": item,
        "score": pa.array(np.zeros(rows), pa.float32()),
        "source": pa.array(["ease"] * rows),
        "propensity": propensity,
    }
    other = pa.DictionaryArray.from_arrays(pa.array((1 - arm).astype(np.int8)), pa.array(["a", "b"]))
    supported = pa.array(np.zeros(rows, np.float32))
    draws = pa.nulls(rows, COUNTERFACTUAL_PROPENSITY.field("drawn").type)
    columns = [
        pa.array(slate),
        pa.array(rank, pa.int16()),
        other,
        pa.array(propensity),
        supported,
        draws,
        *[pa.array(propensity)] * 2,
    ]
    return pa.table(published).select(SLATE.names), pa.table(columns, schema=COUNTERFACTUAL_PROPENSITY)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slates", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    arguments = parser.parse_args()
    slowest, processor = 0.0, 0.0
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            slates, counterfactual = make(arguments.slates, folder, seed)
            start, used = time.perf_counter(), time.process_time()
            feedback = read_feedback(Feedback(path="log.parquet"), folder).feedback
            matched, _ = match_published(feedback, slates)
            estimates = estimate_arms(matched, counterfactual)
        slowest = max(slowest, time.perf_counter() - start)
        processor = max(processor, time.process_time() - used)
        print(f"seed {seed}: {matched.num_rows:,} rows matched, {estimates.num_rows} estimates")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    met = slowest < BAR_SECONDS and peak < BAR_GB
    print(f"feedback: {slowest:.0f} s, {processor:.0f} CPU seconds, peak {peak:.1f} GB (bars: {met})")
    return 1 if arguments.check and not met else 0


if __name__ == "__main__":
    sys.exit(main())
