"""Measures explanations of slates: insertion and deletion curves of the greedy order against leave-one-out and random.

    python -m benchmarks.explain --data online-retail --root DIR --check

EASE is fitted on everything before the date. For users with at least `--min-items` items, the slate is EASE's own
top 10. An item of it is kept while it is among the 30 best. `inserted`: mean share kept over all numbers of items taken
in the order (high is good); `deleted`: the same when these are removed instead (low is good); `part`: share of the
history's items in the shortest start of the order that keeps 80% of the slate. Intervals: 1.96 standard errors.

Bar: greedy keeps more than random and leave-one-out when inserted, each with an interval above 0.
"""

from __future__ import annotations

import argparse
import sys
from datetime import date

import numpy as np

from benchmarks.denoise_data import read_until
from benchmarks.quality import CONF, SETTINGS
from rayrec.config import load
from rayrec.denoising.denoiser import histories_of
from rayrec.evaluation.history_explanation import KEEP, LinearHistory, linear_history, mean_curve
from rayrec.evaluation.slate_explanations import DEPTH
from rayrec.numerics.types import Int64s
from rayrec.pipeline.run_context import microseconds
from rayrec.retrieval.ease import regularised_inverse, weights_of
from rayrec.retrieval.fit_data import gram_matrix
from rayrec.retrieval.user_histories import clipped_matrix

RANKS, REGULARIZATION, MAX_ITEMS = 10, 200.0, 3000
ORDERS = ("greedy", "leave-one-out", "random")


def part_share(history: LinearHistory, order: Int64s, slate: Int64s) -> float:
    kept = history.kept(order, slate, DEPTH * RANKS)
    count = (kept & kept[-1]).sum(1)
    return float(np.argmax(count >= KEEP * count[-1] - 1e-9)) / len(order)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(SETTINGS), required=True)
    parser.add_argument("--root", required=True)
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--min-items", type=int, default=10)
    parser.add_argument("--check", action="store_true", help="exit with 1 below the bar")
    given = parser.parse_args()
    setting = SETTINGS[given.data]
    day = date.fromisoformat(setting.dates[-1])
    config = load(CONF / setting.config, [f"data.root={given.root}", "data.shards=1", "data.window_days=4000"])
    items, table = read_until(config, day)
    whole = histories_of(table, tuple(config.data.events.values()))
    known = (whole.weight.values > 0) & (whole.ts.values < microseconds(day))
    item, weight = whole.item.filter(known), whole.weight.values[known]
    popular = np.sort(np.argsort(-np.bincount(item.values, minlength=len(items)), kind="stable")[:MAX_ITEMS])
    matrix = clipped_matrix(weight, item.values, item.offsets, len(items))[:, popular].tocsr()
    weights = weights_of(regularised_inverse(gram_matrix(matrix), REGULARIZATION))
    rng = np.random.default_rng(0)
    enough = np.flatnonzero((np.diff(matrix.indptr) >= given.min_items) & (np.diff(matrix.indptr) <= 200))
    users = rng.choice(enough, min(given.users, len(enough)), replace=False)
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ORDERS}
    for user in users:
        own = matrix[user]
        history = linear_history(own.indices, own.data, weights[own.indices])
        score = history.added.sum(0)
        score[own.indices] = -np.inf
        slate = np.argsort(-score, kind="stable")[:RANKS]
        orders = {
            "greedy": history.order(slate),
            "leave-one-out": history.leave_one_out_order(slate),
            "random": rng.permutation(len(history.item)),
        }
        for name, order in orders.items():
            curves = mean_curve(history, order, slate, DEPTH * RANKS)
            found[name].append((*curves, part_share(history, order, slate)))
    values = {name: np.array(rows) for name, rows in found.items()}
    print(f"{given.data} {day}: {len(users)} users, {np.diff(matrix.indptr)[users].mean():.0f} items in the mean")
    met = True
    for name, rows in values.items():
        gap = values["greedy"][:, 0] - rows[:, 0]
        error = 1.96 * gap.std(ddof=1) / np.sqrt(len(gap))
        inserted, deleted, part = rows.mean(0)
        line = f"  {name:14} inserted {inserted:.3f}  deleted {deleted:.3f}  part {part:.1%}"
        print(line + ("" if name == "greedy" else f"  greedy inserts {gap.mean():+.3f} ± {error:.3f} better"))
        met &= name == "greedy" or gap.mean() > error
    print(f"greedy is above the others: {'met' if met else 'NOT MET'}")
    return 1 if given.check and not met else 0


if __name__ == "__main__":
    sys.exit(main())
