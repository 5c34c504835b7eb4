"""Try everything on synthetic data, on one machine, in a few minutes.

    make demo        # or: python -m jobs.demo --root demo

Generates a dataset with known ground truth, runs the daily job on it (local Ray, vLLM on CPU, an LLM tuned on the
spot), evaluates the slates against the ground truth, and shows three users. It writes to demo/ and downloads nothing.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs.cli import command, print_counts
from jobs.daily import result_counts
from rayrec.config import load
from rayrec.data.synthetic_dataset import SyntheticDataset, make_synthetic_dataset
from rayrec.errors import ConfigError
from rayrec.evaluation.ground_truth_metrics import evaluate_on_ground_truth, noise_detection
from rayrec.pipeline import daily_run
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.run_report import report_data, select_example_users
from rayrec.ray_support import cluster
from rayrec.reporting.html_report import write_report
from rayrec.reporting.terminal import print_comparison, print_user, results_console

CONFIG = Path(__file__).with_name("demo.yaml")  # package data: the wheel has no conf/
FOLDERS = ("data", "truth", "out")
MARKER = ".made-by-jobs.demo"  # marks a folder made by the demo
SEED = 7  # jobs/demo.yaml was developed on the dataset of seed 0, not on this one

Root = Annotated[
    Path, typer.Option("--root", help="Folder for the demo; its data/, truth/ and out/ are deleted and made anew.")
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the synthetic dataset.")]
Users = Annotated[int, typer.Option("--users", min=1, help="Number of users in the synthetic dataset.")]


def demo(root: Root = Path("demo"), seed: Seed = SEED, users: Users = 1200) -> None:
    """Generate a dataset, run the daily job on it, and evaluate the slates against the ground truth."""
    console = results_console()
    clear_demo_folders(root)
    dataset = make_synthetic_dataset(root, seed=seed, users=users)
    console.print(
        f"Synthetic dataset: {dataset.users:,} users, {dataset.items} items, {dataset.events:,} events, of which "
        f"{dataset.noise:,} are planted noise and {dataset.broken} are broken rows.",
        soft_wrap=True,
    )
    config = load(CONFIG, [f"data.root={root / 'data'}", f"output.root={root / 'out'}"])
    context = RunContext(config, dataset.date)
    with cluster.connect(config.resources):
        result = daily_run.run(context)
    evaluation = evaluate_on_ground_truth(config.output.root, dataset)
    examples = select_example_users(context, result.manifest, config.output.examples)
    for user in examples:
        print_user(console, user)
    report = write_report(report_data(result, examples, evaluation.comparison), context.storage)
    print_counts(console, result_counts(result))
    _print_noise_detection(console, context, dataset)
    console.print("\nEvaluated against the ground truth (what each user truly wants next):")
    print_comparison(console, evaluation.comparison, ("hr@10", "ndcg@10"))
    _print_next_steps(console, context, report, root)


def clear_demo_folders(root: Path) -> None:
    """Empty the folders that an earlier demo made, or make them.

    Raises ConfigError, before anything is deleted, if one of them was not made by a demo.
    """
    folders = [root / name for name in FOLDERS]
    others = [
        folder
        for folder in folders
        if os.path.lexists(folder) and (folder.is_symlink() or not (folder / MARKER).is_file())
    ]
    if others:
        raise ConfigError(
            "the demo would delete folders that it did not make",
            where=", ".join(str(folder) for folder in others),
            hint="give another folder (--root), or delete these yourself if nothing in them is needed",
        )
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).touch()
        for child in folder.iterdir():
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            elif child.name != MARKER:  # retained: a demo killed here can be run again
                child.unlink()


def _print_noise_detection(console: Console, context: RunContext, dataset: SyntheticDataset) -> None:
    for found in noise_detection(context.config.output.root, dataset):
        console.print(
            f"{found.variant}: {found.removed:,} of {found.events:,} events removed; {found.precision:.0%} of them "
            f"are planted noise ({found.noise / found.events:.0%} at random), {found.recall:.0%} of all noise",
            soft_wrap=True,
        )


def _print_next_steps(console: Console, context: RunContext, report: str, root: Path) -> None:
    config = "jobs/demo.yaml" if Path("jobs/demo.yaml").is_file() else CONFIG
    sets = f"--config {config} --set data.root={root / 'data'} --set output.root={root / 'out'} --date {context.dt}"
    console.print(
        f"report:  {report}\n\nNext steps, after `. .venv/bin/activate`:\n"
        f"  python -m jobs.show {sets} --user user-0001\n"
        f"  python -m jobs.evaluate {sets} --horizon-days 7\n"
        f"  python -m jobs.daily {sets}              # again: nothing is done\n"
        f"  python -m jobs.daily {sets} --dry-run --set slate.size=10\n"
        f"  python -m jobs.daily --config conf/online_retail.yaml ...   # your own data: see the README",
        soft_wrap=True,
        markup=False,
    )


main = command(demo)

if __name__ == "__main__":
    main()
