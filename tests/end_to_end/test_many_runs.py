"""Three concurrent runs of one date on one cluster: one publishes, the others fail, and readers see no mixture."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from ray_heads import REPOSITORY, ray_head
from small_runs import CONFIG, WITHOUT_LLM, Run, differences
from waiting import PATIENCE_S

from rayrec import read_slates
from rayrec.storage import Storage

RUNS = 3


def test_exactly_one_of_three_concurrent_runs_publishes(without_llm: Run, tmp_path: Path) -> None:
    workspace, undisturbed = without_llm
    alone, root = Path(undisturbed.context.config.output.root), tmp_path / "out"
    shutil.copytree(alone / "models", root / "models")  # the runs race only in ingest and scoring
    sets = [part for each in workspace.overrides(root, WITHOUT_LLM) for part in ("--set", each)]
    command = [
        sys.executable,
        "-m",
        "jobs.daily",
        "--config",
        str(CONFIG),
        "--date",
        workspace.dataset.date.isoformat(),
        *sets,
    ]
    with ray_head("--num-cpus=4", "--object-store-memory=400000000") as head:
        runs = [
            subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=head.reached_by(),
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for _ in range(RUNS)
        ]
        outputs = [run.communicate(timeout=PATIENCE_S)[0] for run in runs]
    for run, output in zip(runs, outputs, strict=True):
        assert run.returncode == 0, output
    said = [output.count("(published)") for output in outputs]
    assert sum(said) == 1, "\n".join(outputs)
    for output, published in zip(outputs, said, strict=True):
        assert published or "(published by another run)" in output or "is already published" in output
    assert not differences(
        read_slates(root, workspace.dataset.date, verify=True), read_slates(alone, workspace.dataset.date)
    )
    parquet = [file for file in Storage(str(root)).list("slates") if file.path.endswith(".parquet")]
    shards = workspace.config(root).data.shards
    assert len(parquet) == 2 * shards  # one file per arm and shard; the losers' files are deleted
