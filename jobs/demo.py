"""The whole story on one machine, in a few minutes: `make demo`.

Makes a small shop whose truth is known, runs the night on it (local Ray, vLLM on CPU, an LLM tuned on the spot), judges
the slates by the planted truth, and shows three shoppers. Everything goes to demo/; nothing is fetched.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs.cli import command
from jobs.daily import print_counts
from rayrec.config import load
from rayrec.data.synthetic_dataset import SyntheticDataset, make_synthetic_dataset
from rayrec.errors import ConfigError
from rayrec.evaluation.ground_truth import evaluate_on_ground_truth, noise_detection
from rayrec.pipeline import daily_run
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.run_report import report_data, select_example_users
from rayrec.ray_support import cluster
from rayrec.reporting.html_report import write_report
from rayrec.reporting.terminal import print_comparison, print_user, results_console

CONFIG = Path(__file__).resolve().parent.parent / "conf" / "demo.yaml"
FOLDERS = ("shop", "truth", "out")
MARKER = ".made-by-jobs.demo"  # lies in each: a folder without it is somebody else's
SEED = 7  # conf/demo.yaml was written looking at the shop of seed 0; this one had no part in it

Root = Annotated[
    Path, typer.Option("--root", help="Folder for the shop and the slates; its shop/, truth/ and out/ are made anew.")
]
Seed = Annotated[int, typer.Option("--seed", help="Of the shop: another seed, another shop.")]
Users = Annotated[int, typer.Option("--users", min=1, help="How many shoppers the shop has.")]


def demo(root: Root = Path("demo"), seed: Seed = SEED, users: Users = 1200) -> None:
    """Make a shop, run the night on it, and judge the slates by the planted truth."""
    console = results_console()
    clear_demo_folders(root)
    shop = make_synthetic_dataset(root, seed=seed, users=users)
    console.print(
        f"A shop of {shop.users:,} users, {shop.items} items and {shop.events:,} events, of which {shop.noise:,} are "
        f"planted noise and {shop.broken} are broken rows.",
        soft_wrap=True,
    )
    work = RunContext(load(CONFIG, [f"data.root={root / 'shop'}", f"output.root={root / 'out'}"]), shop.date)
    with cluster.connect(work.config.resources):
        night = daily_run.run(work)
    planted = evaluate_on_ground_truth(work.config.output.root, shop)
    people = select_example_users(work, night.manifest, work.config.output.examples)
    for person in people:
        print_user(console, person)
    report = write_report(report_data(night, people, planted.comparison), work.storage)
    print_counts(night, console)
    _print_truth(console, work, shop)
    console.print("\nJudged by what each user truly wants next (the shop knows):")
    print_comparison(console, planted.comparison, ("hr@10", "ndcg@10"))
    _print_next(console, work, report, root)


def clear_demo_folders(root: Path) -> None:
    """Empty the folders that an earlier demo made, or make them.

    Raises ConfigError, before anything is deleted, where one of them was not made by a demo.
    """
    folders = [root / name for name in FOLDERS]
    others = [
        folder
        for folder in folders
        if os.path.lexists(folder) and (folder.is_symlink() or not (folder / MARKER).is_file())
    ]
    if others:
        raise ConfigError(
            "the demo would delete what it did not make",
            where=", ".join(str(folder) for folder in others),
            hint="give another folder (--root), or delete these yourself if nothing in them is needed",
        )
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).touch()
        for child in folder.iterdir():
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            elif child.name != MARKER:  # it stays to the end: a demo killed here can be run again
                child.unlink()


def _print_truth(console: Console, work: RunContext, shop: SyntheticDataset) -> None:
    for found in noise_detection(work.config.output.root, shop):
        console.print(
            f"{found.variant}: {found.removed:,} of {found.events:,} events taken out; {found.precision:.0%} of them "
            f"are planted noise ({found.noise / found.events:.0%} at random), {found.recall:.0%} of all noise",
            soft_wrap=True,
        )


def _print_next(console: Console, work: RunContext, report: str, root: Path) -> None:
    sets = f"--config conf/demo.yaml --set data.root={root / 'shop'} --set output.root={root / 'out'} --date {work.dt}"
    console.print(
        f"report:  {report}\n\nWhat to try next, after `. .venv/bin/activate`:\n"
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
