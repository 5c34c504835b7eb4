"""Measures how much narrower CUPED makes the interval of a split experiment, on real purchases.

python -m benchmarks.cuped --data ../shared/data/online-retail/by-day --horizon-days 28 --seeds 0 1 2 --check

Users with a purchase in the 230 days before a date are split at random (an A/A experiment). Their outcome in the next
`--horizon-days` is tested with and without adjustment for past activity: the share who bought anything (`conversion`),
and the number of items bought. The width depends on the explained variance alone, not on the effect. The bar: the
interval of the number of items is at least 20% narrower.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from rayrec.evaluation.cuped import adjust, covariates
from rayrec.evaluation.significance import standard_error

BAR = 0.20
_PAST_DAYS = 230


def outcomes(data: Path, date: pd.Timestamp, horizon_days: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Conversion and number of items [users], and past activity, of the users with a purchase before the date."""
    names = sorted(data.glob("*.csv"))
    first, last = date - pd.Timedelta(days=_PAST_DAYS), date + pd.Timedelta(days=horizon_days)
    chosen = [name for name in names if first <= pd.Timestamp(name.stem[-10:]) < last]
    rows = pd.concat([pd.read_csv(name, dtype=str).assign(day=pd.Timestamp(name.stem[-10:])) for name in chosen])
    user, item = (next(c for c in rows.columns if c.lower().startswith(part)) for part in ("customer", "stock"))
    rows = rows.dropna(subset=[user])
    rows = rows[~rows[next(c for c in rows.columns if c.lower().startswith("invoice"))].str.startswith("C")]
    past, later = rows[rows["day"] < date], rows[rows["day"] >= date]
    users = np.sort(past[user].unique())
    age = (date - past["day"]).dt.days.to_numpy(float)
    activity = covariates(np.searchsorted(users, past[user]), age, len(users))
    bought = later.groupby(user)[item].nunique().reindex(users).fillna(0).to_numpy(float)
    return (bought > 0).astype(float), bought, activity


def narrower(outcome: np.ndarray, activity: np.ndarray, seed: int) -> float:
    """1 - width with CUPED / width without, of the difference of two random halves."""
    arm = np.random.default_rng(seed).integers(0, 2, len(outcome))
    adjusted = adjust(outcome, arm, activity)
    widths = [np.hypot(*(standard_error(values[arm == code]) for code in (0, 1))) for values in (adjusted, outcome)]
    return float(1 - widths[0] / widths[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dates", nargs="+", default=["2011-06-15", "2011-07-20", "2011-08-10"])
    parser.add_argument("--horizon-days", type=int, default=7)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--check", action="store_true", help="exit 1 if the bar is missed")
    arguments = parser.parse_args()
    found: dict[str, list[float]] = {"conversion": [], "items": []}
    for date in arguments.dates:
        conversion, items, activity = outcomes(arguments.data, pd.Timestamp(date), arguments.horizon_days)
        for name, outcome in (("conversion", conversion), ("items", items)):
            by_seed = [narrower(outcome, activity, seed) for seed in arguments.seeds]
            found[name] += by_seed
            print(f"{date} {name:<10} {len(outcome):,} users, narrower by {np.mean(by_seed):.1%}")
    mean = {name: float(np.mean(values)) for name, values in found.items()}
    met = mean["items"] >= BAR
    print(f"cuped: items {mean['items']:.1%}, conversion {mean['conversion']:.1%} narrower (bar {BAR:.0%}: {met})")
    return 1 if arguments.check and not met else 0


if __name__ == "__main__":
    sys.exit(main())
