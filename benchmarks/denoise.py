r"""Measures ranking quality and noise detection of every denoising method on planted noise, against random removal.

    python -m benchmarks.denoise --data movietweetings --root DIR --out OUT --check
    python -m benchmarks.denoise --data made --root DIR --out OUT --noise popularity --seeds 0 --no-llm
    python -m benchmarks.denoise --data movietweetings --root DIR --out OUT \
        --methods influence:max_removed_share=0.1 random

For each seed, noise is planted into the histories of users with at least 8 events, until it is 20% of their events.
Models are fitted on these noisy histories and each condition removes some events. iALS and EASE are then refitted on
the retained events. The item-token LLM scores the retained histories twice: tuned on the noisy histories (`not
retuned`) and tuned on the retained events (`retuned`). The held-out items are never noisy. All items that are new to
the user are ranked.

Conditions: every registered method with its defaults, or with settings (`name:setting=value,...`), and the controls
`none`, `random` (removes as many events of each user as the default method; `random@METHOD` for another method),
`popularity` (as many, the least popular first) and `oracle` (all noise and nothing else). The LLM that is retuned after
the oracle equals the LLM on clean data, because the histories are the same. `clean` noise plants nothing and shows the
cost of denoising. `natural` noise is only detected: the noise of the synthetic dataset, ratings of 5 and less, returned
purchases.

One record per (noise, seed, condition) is appended to OUT; conditions that are already there are skipped.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.denoise_conditions import (
    CLEAN,
    CONTROLS,
    DEFAULT,
    NATURAL,
    NOTHING,
    ORACLE,
    POPULARITY,
    Case,
    Plan,
    read_condition,
)
from benchmarks.denoise_data import SOURCES, HeldOut, held_out
from benchmarks.denoise_planting import KINDS
from benchmarks.denoise_report import Records, bars, tables, write_plot
from rayrec.denoising import DENOISERS
from rayrec.errors import ConfigError

LOSSES = ("loss:objective=t_ce", "loss:objective=r_ce")  # beside the method's default loss

Record = dict[str, Any]


class Folder:
    """Records as JSON lines, and the models tuned on noisy histories, of one plan."""

    def __init__(self, root: Path, name: str) -> None:
        self.path = root / f"{name}.jsonl"
        self.models = root / "models" / name
        self.plot = root / f"{name}.svg"
        root.mkdir(parents=True, exist_ok=True)

    def records(self) -> list[Record]:
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.is_file() else []

    def add(self, record: Record) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def conditions(noise: str, chosen: list[str]) -> list[str]:
    """Those that mean something with this noise."""
    pointless = {CLEAN: (ORACLE, POPULARITY), NATURAL: (NOTHING, ORACLE)}.get(noise, ())
    return [one for one in chosen if one not in pointless]


def run(held: HeldOut, noises: list[str], seeds: list[int], chosen: list[str], plan: Plan, folder: Folder) -> None:
    done = {(r["noise"], r["seed"], r["condition"]) for r in folder.records()}
    for seed in seeds:
        for noise in noises:
            missing = [c for c in conditions(noise, chosen) if (noise, seed, c) not in done]
            case = Case(held, noise, seed, plan) if missing else None
            for condition in missing:
                assert case is not None
                try:
                    folder.add(case.record(condition))
                except ConfigError as error:
                    print(f"{condition} left out: {error}", file=sys.stderr)
                print(f"{noise} seed {seed} {condition} done", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(SOURCES), required=True)
    parser.add_argument(
        "--root", required=True, help="the data set's folder; for made, where it is or will be generated"
    )
    parser.add_argument("--out", default="denoise-results", help="where records, models and the plot go")
    parser.add_argument("--protocol", choices=["time", "last-event"], help="default: the data set's own")
    parser.add_argument("--split", choices=["test", "validation"], default="test")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--noise", nargs="+", choices=[*KINDS, CLEAN, NATURAL], default=[*KINDS, CLEAN, NATURAL])
    parser.add_argument("--methods", nargs="+", help="conditions; default: the controls and every method")
    parser.add_argument("--share", type=float, default=0.2, help="of noise in the noisy histories")
    parser.add_argument("--steps", type=int, default=700, help="of each tuning")
    parser.add_argument("--llm", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--check", action="store_true", help="exit with 1 below a bar")
    given = parser.parse_args()
    given.methods = given.methods or [*CONTROLS, DEFAULT, *sorted(set(DENOISERS) - {DEFAULT, NOTHING}), *LOSSES]
    for condition in given.methods:
        name, _, like = condition.partition("@")
        if name not in CONTROLS or like:
            method, settings = read_condition(like or condition)
            DENOISERS.settings(method, settings)
    return given


def main() -> int:
    given = arguments()
    protocol = given.protocol or SOURCES[given.data].protocol
    steps = given.steps if given.llm else 0
    folder = Folder(Path(given.out), f"{given.data}-{protocol}-{given.split}-{given.share:g}-{steps}")
    held = held_out(given.data, given.root, protocol, given.split)
    run(held, given.noise, given.seeds, given.methods, Plan(given.share, steps, folder.models), folder)
    wanted = [r for r in folder.records() if r["seed"] in given.seeds and r["noise"] in given.noise]
    records = Records(r for r in wanted if r["condition"] in given.methods)
    users, evaluated = len(held.history), int((held.wanted.lengths > 0).sum())
    print(
        f"{given.data}, {protocol}, {given.split}: {users:,} users, {evaluated:,} evaluated, {held.items:,} items, "
        f"seeds {given.seeds}; LLM {steps} steps"
    )
    print(tables(records))
    write_plot(records, folder.plot)
    found = bars(records)
    print()
    for bar in found:
        print(f"{bar.what:44}{bar.found:>18}  {'met' if bar.met else 'NOT MET'}")
    met = sum(bar.met for bar in found)
    print(f"denoise {given.data}: default {DEFAULT}, {met} of {len(found)} bars met over {len(given.seeds)} seeds")
    return 1 if given.check and met < len(found) else 0


if __name__ == "__main__":
    sys.exit(main())
