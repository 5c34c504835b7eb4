"""Measures what content features, announced launches and the LLM add to the whole job's nDCG@10, on real data.

    python -m benchmarks.content --data online-retail --root DIR --check
    python -m benchmarks.content --data movietweetings --root DIR --no-llm

The `time` protocol of benchmarks.quality: same dates, horizons, users. Systems, each a published run:

    plain       arm `control` without content features
    control     arm `control`: content features, as configured by default
    char        arm `control` with character 4-grams alone, the baseline of every claim for a language model
    announced   online-retail: `control` with a catalogue of announced launches and the source item_text
    llm         arm `llm` of the same run as `control`
    denoised    arm `llm` without its LLM, of the same run: what of their difference is the denoising's

With --keep FOLDER a run that is stopped goes on where it was, and --in-process does without Ray (dates can then be
measured side by side, and the report printed from the folder).

Intervals: 95%, paired bootstrap over the users of all dates. Bars: control >= 1.02 x plain and announced >= 1.05 x
plain in the mean over the dates; llm >= control in the mean, on no date more than 1% below.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.announced_items import SETS, with_announced_items
from benchmarks.in_process import without_ray
from benchmarks.plain_recommenders import CutoffSnapshot
from benchmarks.quality import SETTINGS, Case, time_cases
from rayrec.config import Retrieval
from rayrec.data.cutoff_histories import histories_at
from rayrec.evaluation.metrics import RelevantItems, user_metrics
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline import daily_run
from rayrec.pipeline.run_context import RunContext
from rayrec.publishing.slate_reader import read_slates
from rayrec.ray_support import cluster

CONTROL_SECTIONS = "control: {denoise: {method: none}, rerank: {method: none}}"
CONTROL = f"arms.variants={{{CONTROL_SECTIONS}}}"
ARMS = f"arms.variants={{{CONTROL_SECTIONS}, denoised: {{rerank: {{method: none}}}}, llm: {{}}}}"
BARS = {"control": 1.02, "announced": 1.05}
BAR_LLM, BAR_LLM_DATE = 1.0, 0.99


@dataclass(frozen=True)
class System:
    name: str
    sets: tuple[str, ...]
    arms: tuple[tuple[str, str], ...]  # arm of the run -> name in the table
    announced: bool = False


def systems(data: str, llm: bool, launch_days: int) -> list[System]:
    found = [
        System("plain", (CONTROL, "blend.content_features=[]"), (("control", "plain"),)),
        System("char", (CONTROL, "blend.content_features=[char]"), (("control", "char"),)),
    ]
    if data == "online-retail":
        launches = (f"retrieval.launch_days={launch_days}", _sources())
        found.append(System("announced", (CONTROL, *SETS, *launches), (("control", "announced"),), announced=True))
    arms = ("control", "denoised", "llm") if llm else ("control",)
    return [*found, System("control", (ARMS if llm else CONTROL,), tuple(zip(arms, arms, strict=True)))]


def _sources() -> str:
    """The default sources, and item_text."""
    sources = {name: one.model_dump(exclude_defaults=True, mode="json") for name, one in Retrieval().sources.items()}
    named = {name: {**settings, "method": Retrieval().sources[name].method} for name, settings in sources.items()}
    return "retrieval.sources=" + json.dumps({**named, "item_text": {"top_k": 50}})


def measure(case: Case, chosen: Sequence[System], folder: Path, in_process: bool) -> dict[str, npt.NDArray[np.float64]]:
    """nDCG@10 of each evaluated user by system, users in one order. What `folder` has of it is not measured again."""
    found: dict[str, npt.NDArray[np.float64]] = {}
    for system in chosen:
        output = folder / f"{case.day}-{system.name}"
        kept = {name: folder / f"{case.day}-{name}.npy" for _, name in system.arms}
        if not all(file.exists() for file in kept.values()):
            done = [folder / f"{case.day}-{name}" for name in ("plain", "char", "control")]
            done = [other for other in done if other.with_suffix(".npy").exists()]
            if done and not system.announced and not output.exists():
                for part in ("work", "models"):  # the systems share histories and item models
                    shutil.copytree(done[0] / part, output / part, ignore=shutil.ignore_patterns("llm"))
            root = str(with_announced_items(case.root, folder / f"{case.day}-data")) if system.announced else case.root
            context = RunContext(replace(case, root=root, sets=system.sets).at(output, 0), case.day)
            with without_ray() if in_process else cluster.connect(context.config.resources):
                daily_run.run(context)
            for arm, name in system.arms:
                np.save(kept[name], ndcg(context, arm, case))
            print(f"{case.name} {system.name} done", file=sys.stderr)
        found |= {name: np.load(file) for name, file in kept.items()}
    return found


def relevant_items(context: RunContext, case: Case) -> RelevantItems:
    """What users with enough events then consumed and had not had; items that no catalogue knows count, too."""
    now = CutoffSnapshot(context, context.cutoff, case.min_events)
    table = histories_at(now.everything, context.cutoff)
    item = Ragged.from_arrow(table["item"])
    users = np.array(table["user_id"].to_pylist(), object)
    enough = set(users[item.lengths >= case.min_events])
    seen = set(zip(users[item.rows], np.array(now.item_id.to_pylist(), object)[item.values], strict=True))
    pairs = set(zip(case.wanted["user_id"].to_pylist(), case.wanted["item_id"].to_pylist(), strict=True))
    kept = sorted(pair for pair in pairs if pair[0] in enough and pair not in seen)
    user, wanted = (pa.array([pair[side] for pair in kept], pa.string()) for side in (0, 1))
    known = sorted({*wanted.to_pylist(), *now.item_id.to_pylist()})
    return RelevantItems.from_pairs(user, wanted, pa.array(known, pa.string()))


def ndcg(context: RunContext, arm: str, case: Case) -> npt.NDArray[np.float64]:
    """[users], in the order of their ids."""
    slates = read_slates(context.config.output.root, context.date, arm)
    return np.asarray(user_metrics(arm, slates, relevant_items(context, case)).values["ndcg@10"])


def interval(differences: Sequence[npt.NDArray[np.float64]], resamples: int = 2000) -> tuple[float, float]:
    """95% paired bootstrap of the mean over dates of the mean difference; users are drawn within their date."""
    rng = np.random.default_rng(0)
    means = [
        np.array([values[rng.integers(0, len(values), len(values))].mean() for _ in range(resamples)])
        for values in differences
    ]
    low, high = np.quantile(np.mean(means, axis=0), [0.025, 0.975])
    return float(low), float(high)


def report(found: Mapping[str, Mapping[str, npt.NDArray[np.float64]]], data: str) -> bool:
    """Print the table; whether all bars are met."""
    dates = list(found)
    names = list(found[dates[0]])
    base = "plain" if "plain" in names else names[0]
    print(f"\nnDCG@10\n{'':12}" + "".join(f"{each:>14}" for each in dates) + f"{f'/ {base}':>10}   difference [95%]")
    ratios = {}
    for name in names:
        values = [found[each][name].mean() for each in dates]
        ratios[name] = statistics.fmean(v / found[e][base].mean() for v, e in zip(values, dates, strict=True))
        low, high = interval([found[each][name] - found[each][base] for each in dates])
        cells = "".join(f"{value:>14.4f}" for value in values)
        print(f"{name:12}{cells}{ratios[name]:>10.3f}   [{low:+.4f}, {high:+.4f}]")
    met = True
    for name, bar in BARS.items():
        if name in ratios and base == "plain":
            met &= ratios[name] >= bar
            print(f"content {data}: {name} {ratios[name]:.3f} x plain (bar {bar}): {_word(ratios[name] >= bar)}")
    if "llm" in names:
        by_date = [found[each]["llm"].mean() / found[each]["control"].mean() for each in dates]
        mean, good = statistics.fmean(by_date), statistics.fmean(by_date) >= BAR_LLM and min(by_date) >= BAR_LLM_DATE
        met &= good
        low, high = interval([found[each]["llm"] - found[each]["control"] for each in dates])
        print(
            f"content {data}: llm {mean:.3f} x control [{low:+.4f}, {high:+.4f}] (bar {BAR_LLM}), "
            f"lowest date {min(by_date):.3f} (bar {BAR_LLM_DATE}): {_word(good)}"
        )
    return met


def _word(met: bool) -> str:
    return "met" if met else "NOT MET"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(SETTINGS), required=True)
    parser.add_argument("--root", required=True, help="the data set's folder")
    parser.add_argument("--dates", nargs="+", help="other dates than the benchmark's own")
    parser.add_argument("--no-llm", action="store_true", help="no arm `llm`")
    parser.add_argument("--systems", nargs="+", help="only these")
    parser.add_argument(
        "--keep", type=Path, help="a folder for runs and results, from which a stopped benchmark goes on"
    )
    parser.add_argument("--in-process", action="store_true", help="without Ray, on one thread")
    parser.add_argument("--set", nargs="+", default=[], help="further settings of every run")
    parser.add_argument("--check", action="store_true", help="exit with 1 below the bars")
    given = parser.parse_args()
    setting = SETTINGS[given.data]
    chosen = systems(given.data, not given.no_llm, setting.horizon_days)
    chosen = [one for one in chosen if given.systems is None or one.name in given.systems]
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = given.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        chosen = [replace(one, sets=(*one.sets, *given.set)) for one in chosen]
        for case in time_cases(setting, given.root, given.dates or setting.dates):
            found[case.name] = measure(case, chosen, folder, given.in_process)
            for system, values in found[case.name].items():
                print(f"{case.name} {system:10} {len(values)} users {values.mean():.4f}", file=sys.stderr)
    met = report(found, given.data)
    return 1 if given.check and not met else 0


if __name__ == "__main__":
    sys.exit(main())
