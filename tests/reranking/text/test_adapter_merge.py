"""Merging LoRA adapters: known answers, and what is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from jobs import merge as merge_job
from rayrec.errors import ConfigError
from rayrec.reranking.text.adapter_merge import merge_adapters, merged

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


def adapter(folder: Path, change: np.ndarray, layer: str = LAYER, alpha: float = 8.0) -> Path:
    """An adapter whose scale x B A is `change`, of rank 4."""
    folder.mkdir()
    u, s, v = np.linalg.svd(change / (alpha / 4), full_matrices=False)
    a, b = v[:4] * s[:4, None], u[:, :4]
    tensors = {f"{layer}.lora_A.weight": a.astype(np.float32), f"{layer}.lora_B.weight": b.astype(np.float32)}
    save_file(
        {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": alpha, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def change_of(folder: Path) -> np.ndarray:
    config, tensors = (
        json.loads((folder / "adapter_config.json").read_text()),
        load_file(folder / "adapter_model.safetensors"),
    )
    return config["lora_alpha"] / config["r"] * tensors[f"{LAYER}.lora_B.weight"] @ tensors[f"{LAYER}.lora_A.weight"]


def low_rank(seed: int, rank: int = 2) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(12, rank)) @ random.normal(size=(rank, 16))


def test_ties_trims_elects_a_sign_and_averages_those_that_agree() -> None:
    changes = np.array([[4.0, 3.0, 0.1, 5.0], [2.0, -4.0, 0.2, 0.1], [0.1, 2.0, 0.3, -3.0]])
    # Half of each is kept: [4, 0, 0, 5], [2, -4, 0, 0], [0, 2, 0, -3]; signs +, -, 0, +.
    assert merged(changes, "ties", density=0.5).tolist() == [3.0, -4.0, 0.0, 5.0]


def test_breadcrumbs_drops_outliers_and_small_changes() -> None:
    changes = np.array([[100.0, 4.0, 3.0, 0.1], [1.0, 50.0, -2.0, 0.2]])
    # Without the largest quarter, the next half: [0, 4, 3, 0] and [1, 0, -2, 0].
    assert merged(changes, "breadcrumbs", density=0.5, outliers=0.25).tolist() == [0.5, 2.0, 0.5, 0.0]
    assert merged(changes, "breadcrumbs", density=1.0, outliers=0.0).tolist() == merged(changes, "average").tolist()


def test_one_adapter_twice_is_itself_under_every_method() -> None:
    change = low_rank(0)
    for method in ("average", "ties", "breadcrumbs"):
        found = merged(np.stack([change, change]), method, density=1.0, outliers=0.0)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, change)


def test_the_written_average_is_the_average_of_the_changes(tmp_path: Path) -> None:
    one, other = low_rank(1), low_rank(2)
    folders = [adapter(tmp_path / "one", one), adapter(tmp_path / "other", other, alpha=16.0)]
    kept = merge_adapters(folders, tmp_path / "both", "average", rank=6)
    assert kept == pytest.approx(1)
    np.testing.assert_allclose(change_of(tmp_path / "both"), (one + other) / 2, atol=1e-5)
    assert merge_adapters(folders, tmp_path / "narrow", "average", rank=1) < 0.95


def test_adapters_of_other_layers_or_shapes_are_refused(tmp_path: Path) -> None:
    first = adapter(tmp_path / "first", low_rank(1))
    elsewhere = adapter(tmp_path / "elsewhere", low_rank(1), LAYER.replace("q_proj", "v_proj"))
    wider = adapter(tmp_path / "wider", np.pad(low_rank(1), ((0, 0), (0, 4))))
    for other, words in ((elsewhere, "same layers"), (wider, "shape"), (tmp_path, "lacks")):
        with pytest.raises(ConfigError, match=words):
            merge_adapters([first, other], tmp_path / "out", "average", rank=4)
    assert not (tmp_path / "out").exists()


def test_the_job_writes_a_new_folder(tmp_path: Path) -> None:
    one, other = adapter(tmp_path / "one", low_rank(1)), adapter(tmp_path / "other", low_rank(2))
    options = ["--adapter", str(one), "--adapter", str(other), "--out", str(tmp_path / "new"), "--method", "ties"]
    assert CliRunner().invoke(merge_job.main, options).exit_code == 0
    assert (tmp_path / "new" / "adapter_model.safetensors").is_file()
    assert CliRunner().invoke(merge_job.main, options).exit_code != 0
