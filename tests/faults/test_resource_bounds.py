"""Impossible numbers for Ray or dates are rejected when the config is read; small files do not exhaust memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_files import FILES

from rayrec.config import load
from rayrec.errors import ConfigError

CONFIG = Path(__file__).parents[2] / "jobs" / "demo.yaml"


@pytest.mark.parametrize(
    "setting",
    [
        "resources.ingest_tasks=-1",
        "resources.score_tasks=0",
        "resources.rerank_actors=0",
        "resources.rerank_actors=[4, 1]",
        "resources.rerank_actors=[0, 2]",
        "resources.rerank_num_gpus=-2",
        "resources.rerank_num_gpus=1.5",
        "resources.rerank_num_gpus=.inf",
        "resources.rerank_num_cpus=-1",
        "resources.rerank_num_cpus=.inf",
        "data.window_days=1000000",
    ],
)
def test_an_impossible_number_is_refused_with_its_key(setting: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(CONFIG, [setting])
    (line,) = error.value.what.splitlines()
    assert line.startswith(f"{setting.partition('=')[0]}: ")


@pytest.mark.parametrize("actors", ["1", "[1, 1]", "[1, 4]"])
def test_actors_are_a_number_or_a_range(actors: str) -> None:
    gpus = "resources.rerank_num_gpus=0.5"
    resources = load(CONFIG, [f"resources.rerank_actors={actors}", gpus, "resources.score_tasks=1"]).resources
    assert resources.rerank_actors in (1, (1, 1), (1, 4))
    assert load(CONFIG, ["data.window_days=36500"]).data.window_days == 36_500


@pytest.mark.slow
def test_small_files_that_decode_to_much_stay_within_memory_and_cpu_time() -> None:
    """Each is refused or quarantined in at most 1.5 GB above the imports; all together in a minute of CPU time."""
    script = Path(__file__).parent / "small_files.py"
    done = subprocess.run([sys.executable, str(script), "1500", "60"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    outcomes = json.loads(done.stdout)
    for name, (_, words) in FILES.items():
        assert words in outcomes[name], (name, outcomes[name])
