"""The soak: trial after trial of the fault harness, by seed, resumable. `make soak`, or

python tests/faults/soak.py --kills 200 --seed 0 --folder FOLDER

Figures are printed at the end, and kept in FOLDER/soak.json after every trial: a call that is ended goes on from there.
A trial that fails is kept with its number, so that `--only kill:17` repeats it.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parent), str(Path(__file__).parents[2])]

import contract_fuzzing  # noqa: E402
import text_fuzzing  # noqa: E402
import trials  # noqa: E402
from cluster_trials import KillCluster, environment_of_cluster  # noqa: E402
from s3_server import running_s3  # noqa: E402

AT_A_TIME = 100  # inputs of a trial
Trial = Callable[[random.Random, int], None]


class Soak:
    """Runs trials that have not been run, and counts."""

    def __init__(self, folder: Path, seed: int, until: float) -> None:
        self._state, self._seed, self._until = folder / f"soak-{seed}.json", seed, until
        known = json.loads(self._state.read_text()) if self._state.exists() else {}
        self.done: dict[str, int] = known.get("done", {})
        self.counts = Counter[str](known.get("counts", {}))
        self.failed: dict[str, str] = known.get("failed", {})

    def run(self, plan: Mapping[str, tuple[Trial, int]], field: trials.Field) -> None:
        """The trials of each name up to its count, while there is time; the name of which least is done comes next."""

        def share(name: str) -> float:
            return self.done.get(name, 0) / plan[name][1]

        while time.monotonic() < self._until and share(name := min(plan, key=share)) < 1:
            number = self.done.get(name, 0)
            self.try_one(name, plan[name][0], field, number)
            self.done[name] = number + 1
            content = {"done": self.done, "counts": self.counts, "failed": self.failed}
            self._state.write_text(json.dumps(content, indent=1))

    def try_one(self, name: str, trial: Trial, field: trials.Field, number: int) -> None:
        field.counts.clear()
        try:
            trial(random.Random(f"{self._seed}/{name}/{number}"), number)
        except Exception:
            self.failed[f"{name}:{number}"] = traceback.format_exc()
            print(f"FAILED {name}:{number}\n{traceback.format_exc()}", flush=True)
        self.counts.update(field.counts)

    def figures(self) -> str:
        lines = [f"{name:<28} {count:>8,} trials" for name, count in self.done.items()]
        lines += [f"{name:<28} {count:>8,}" for name, count in self.counts.items()]
        return "\n".join([*lines, f"{'trials that failed':<28} {len(self.failed):>8,}", *self.failed])


def _some_texts(field: trials.Field, name: str, chance: random.Random, number: int) -> None:
    field.counts[f"{name} tried"] += text_fuzzing.fuzz(name, AT_A_TIME, seed=chance.randrange(1 << 30))


def _some_cases(field: trials.Field, chance: random.Random, number: int) -> None:
    field.counts["contract inputs tried"] += contract_fuzzing.fuzz(AT_A_TIME, seed=chance.randrange(1 << 30))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="kills of a run in one process")
    parser.add_argument("--cluster-kills", type=int, default=40, help="kills of a process of a run on a Ray cluster")
    parser.add_argument("--failing", type=int, default=30, help="runs on storage that fails, local and S3 each")
    parser.add_argument("--at-once", type=int, default=25, help="pairs of jobs at once")
    parser.add_argument("--inputs", type=int, default=2000, help="inputs of the contract, and of each kind of text")
    parser.add_argument("--full", type=int, default=None, help="full disks; default: three at each write of a run")
    parser.add_argument("--minutes", type=float, default=1e6, help="no trial begins after so long; call again to go on")
    parser.add_argument("--only", help="NAME or NAME:NUMBER")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("soak"))
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what it started ends with it
    asked.folder.mkdir(parents=True, exist_ok=True)
    work = asked.folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    soak = Soak(asked.folder, asked.seed, time.monotonic() + 60 * asked.minutes)
    with running_s3() as endpoint, environment_of_cluster(work / "control") as environment, ExitStack() as stack:
        field = trials.Field.make(work)
        print(f"an undisturbed run makes {field.calls} storage calls, {field.writes} of them writes", flush=True)
        every_write = len(trials.FULL_KINDS) * field.writes
        plan: dict[str, tuple[Trial, int]] = {
            "kill": (partial(trials.kill, field), asked.kills),
            "full disk": (partial(trials.full_disk, field), every_write if asked.full is None else asked.full),
            "failing local storage": (partial(trials.failing_storage, field), asked.failing),
            "failing S3": (partial(trials.failing_s3, field, endpoint), asked.failing),
            "jobs at once": (partial(trials.at_once, field), asked.at_once),
        }
        if asked.cluster_kills:
            cluster = stack.enter_context(KillCluster.start(field, environment))
            plan["kill on Ray"] = (cluster.kill_one, asked.cluster_kills)
        for each in text_fuzzing.inputs():
            plan[each] = (partial(_some_texts, field, each), -(-asked.inputs // AT_A_TIME))
        plan["contract"] = (partial(_some_cases, field), -(-asked.inputs // AT_A_TIME))
        name, _, number = (asked.only or "").partition(":")
        if number:
            soak.try_one(name, plan[name][0], field, int(number))
        else:
            soak.run({each: plan[each] for each in plan if name in ("", each) and plan[each][1]}, field)
    shutil.rmtree(work, ignore_errors=True)
    print(soak.figures())
    sys.exit(1 if soak.failed else 0)


if __name__ == "__main__":
    main()
