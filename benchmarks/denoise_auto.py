r"""Measures what `denoise.method: auto` chooses on real dates, and what that and every contestant then gain.

    python -m benchmarks.denoise_auto --data online-retail --root DIR --check
    python -m benchmarks.denoise_auto --data movietweetings --root DIR --judge inputs --candidates influence ease loss

For each date: item models as of the two earlier cutoffs, a horizon apart, the contest there, and then the same judge as
of the date itself, on what users consumed in the horizon after it. Nothing of that horizon is used for the choice. The
gains over `none` are paired by user. The models, the contest and the judge are those of the daily job, called in one
process. `random` is a control: it removes as many events of each user as the first contestant, at random.

Bar: over all dates together, the interval of what `auto` gains is not below 0.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.denoise_data import read_until
from benchmarks.quality import CONF, SETTINGS
from rayrec.config import Config, Denoise, load
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.denoising.auto import NONE, AutoSettings, contestants
from rayrec.denoising.denoiser import DENOISERS, Denoiser, DenoisingDecision, Histories
from rayrec.evaluation.denoising_contest import Contest, CutoffScores, decide, score_cutoff
from rayrec.evaluation.significance import standard_error, t_interval
from rayrec.numerics.hashing import derive_seed, digest
from rayrec.numerics.types import Float64s
from rayrec.pipeline.item_model_fitting import required_denoiser_fits, required_fits_of
from rayrec.pipeline.run_context import microseconds
from rayrec.retrieval import item_model

REGULARIZATION, CUTOFFS = 200.0, 2


class RandomRemoval(Denoiser):
    """Removes as many events of each user as another method, at random."""

    name = "random"

    def __init__(self, like: Denoiser) -> None:
        self.like = like

    @classmethod
    def load(cls, arrays: object, settings: object) -> RandomRemoval:
        raise NotImplementedError("made from another denoiser, never loaded")

    def decide(self, histories: Histories) -> DenoisingDecision:
        other, rows = self.like.decide(histories), histories.item.rows
        rng = np.random.default_rng(derive_seed("random removal", len(rows)))
        assessed = histories.weight.values > 0
        number = np.bincount(rows, other.reason > 0, minlength=len(histories.item))
        order = np.lexsort((np.where(assessed, rng.random(len(rows)), 2.0), rows))
        place = np.arange(len(rows)) - histories.item.offsets[rows[order]]
        out = np.zeros(len(rows), np.bool_)
        out[order[place < number[rows[order]]]] = True
        return DenoisingDecision(
            np.where(out, 0, 1).astype(np.float32), other.influence, other.negative_influence, out.astype(np.int8)
        )


@dataclass(frozen=True)
class DateResult:
    contest: Contest
    then: CutoffScores  # as of the date; the last column is the random control
    seconds: float


@dataclass(frozen=True)
class Measurements:
    """Scores by cutoff, measured once and kept in files."""

    name: str  # of the data set
    config: Config
    table: pa.Table  # HISTORY
    items: pa.Table  # ITEM
    step: int  # microseconds of the horizon
    settings: AutoSettings
    folder: Path

    def at(self, cutoff: int) -> CutoffScores:
        """The contestants' scores; the last column is the random control."""
        measured = self.settings.model_dump(mode="json", exclude={"judge", "max_tail_share", "min_users"})
        path = self.folder / f"{self.name}-{cutoff}-{digest([measured, self.step])}.npz"
        if path.is_file():
            with np.load(path, allow_pickle=False) as stored:
                return CutoffScores.load(stored)
        found = self._measured(cutoff)
        self.folder.mkdir(parents=True, exist_ok=True)
        np.savez(path, **found.arrays())
        return found

    def past(self, cutoff: int) -> CutoffScores:
        """Without the control, as the contest has them."""
        found = self.at(cutoff)
        cut = {name: getattr(found, name)[:, :-1] for name in ("refit", "inputs", "removed")}
        return replace(found, **cut)

    def _measured(self, cutoff: int) -> CutoffScores:
        weights, denoise = tuple(self.config.data.events.values()), Denoise(method="auto", settings=self.settings)
        specs = item_model.required_sources([], True, required_fits_of([denoise]))
        ids, fits = self.items["item_id"].combine_chunks(), required_denoiser_fits([denoise])
        model = item_model.fit([self.table], ids, specs, weights, cutoff, 10**9, fits)
        arrays, tried = model.denoiser_arrays(()), contestants(self.settings)
        denoisers = [DENOISERS.lookup(one.denoise.method).load(arrays, one.denoise.settings) for one in tried]
        return score_cutoff(
            self.table,
            cutoff,
            cutoff + self.step,
            [*denoisers, RandomRemoval(denoisers[0])],
            weights,
            len(self.items),
            self.settings,
            REGULARIZATION,
            new_only=self.config.retrieval.exclude_seen,
        )


def run(measurements: Measurements, days: Sequence[str]) -> list[DateResult]:
    found = []
    for text in days:
        now, started = microseconds(date.fromisoformat(text)), time.monotonic()
        past = [measurements.past(now - k * measurements.step) for k in range(CUTOFFS, 0, -1)]
        contest = decide(past, contestants(measurements.settings), measurements.settings)
        seconds = time.monotonic() - started
        found.append(DateResult(contest, measurements.at(now), seconds))
        print(f"{text} done", file=sys.stderr, flush=True)
    return found


def gain_text(gains: Float64s) -> tuple[str, float, float]:
    mean = float(gains.mean())
    low, high = t_interval(mean, standard_error(gains), len(gains) - 1)
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]", low, high


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(SETTINGS), required=True)
    parser.add_argument("--root", required=True)
    parser.add_argument("--dates", nargs="+")
    parser.add_argument("--judge", choices=["refit", "inputs"], default=AutoSettings().judge)
    parser.add_argument("--candidates", nargs="+", help="methods with their defaults")
    parser.add_argument("--max-tail-share", type=float, default=AutoSettings().max_tail_share)
    parser.add_argument("--max-items", type=int, default=AutoSettings().max_items, help="that the judge ranks")
    parser.add_argument("--out", default="denoise-auto-results", help="what was measured: kept for later calls")
    parser.add_argument(
        "--only", type=int, choices=range(CUTOFFS + 1), help="measure this many horizons back, and stop"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 below the bar")
    given = parser.parse_args()
    setting = SETTINGS[given.data]
    days = given.dates or setting.dates
    chosen = {"judge": given.judge, "max_tail_share": given.max_tail_share, "max_items": given.max_items}
    chosen |= {"candidates": {name: {} for name in given.candidates}} if given.candidates else {}
    settings = AutoSettings.model_validate(chosen)
    config = load(CONF / setting.config, [f"data.root={given.root}", "data.shards=1", "data.window_days=4000"])
    items, table = read_until(
        config, date.fromordinal(date.fromisoformat(max(days)).toordinal() + setting.horizon_days)
    )
    step = setting.horizon_days * MICROSECONDS_PER_DAY
    measurements = Measurements(given.data, config, table, items, step, settings, Path(given.out))
    if given.only is not None:  # to split the work
        for text in days:
            measurements.at(microseconds(date.fromisoformat(text)) - given.only * step)
        return 0
    results = run(measurements, days)
    names = [*(one.name for one in contestants(settings)), "random"]
    autos: dict[str, list[Float64s]] = {judge: [] for judge in ("refit", "inputs")}
    each: dict[str, list[list[Float64s]]] = {judge: [[] for _ in names] for judge in autos}
    for day, result in zip(days, results, strict=True):
        choice = result.contest.choice
        print(f"\n{given.data} {day}: auto takes {'none' if choice == NONE else names[choice]}, {result.seconds:.0f} s")
        rows = result.contest.table.to_pylist()[1:]
        for number, name in enumerate(names):
            row = rows[number] if number < len(rows) else None
            before = f"{row['gain']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}] {row['verdict']}" if row else ""
            shares = result.then.removed[:, number + 1] / result.then.events
            after = []
            for judge in autos:
                scores = getattr(result.then, judge)
                each[judge][number].append(scores[:, number + 1] - scores[:, 0])
                after.append(f"{judge} {gain_text(each[judge][number][-1])[0]}")
            print(
                f"  {name:16} removed {shares[0]:5.1%} tail {shares[1]:5.1%}  then {'  '.join(after)}  contest {before}"
            )
        for judge, gains in autos.items():
            scores = getattr(result.then, judge)
            gains.append(scores[:, choice + 1] - scores[:, 0])
        print(f"  none             nDCG@10 {result.then.refit[:, 0].mean():.4f} on {len(result.then.user):,} users")
    print(f"\n{given.data}, {len(days)} dates together (users of each date), gain in nDCG@10 over none")
    for judge in autos:
        for number, name in enumerate(names):
            print(f"  {judge:7} {name:16} {gain_text(np.concatenate(each[judge][number]))[0]}")
        text, _, high = gain_text(np.concatenate(autos[judge]))
        print(f"  {judge:7} {'auto':16} {text}")
        if judge == given.judge:
            met = high >= 0
    print(f"auto is not worse than none beyond noise: {'met' if met else 'NOT MET'}")
    return 1 if given.check and not met else 0


if __name__ == "__main__":
    sys.exit(main())
