"""Several LoRA adapters of one checkpoint merged into one.

Merged are the changes of the weights, D_k = scale_k B_k A_k of each layer, not the factors: A and B of two adapters
mean nothing to each other. The merged change is factored again by a truncated SVD.

    average       mean of D_k
    ties          of each D_k the share `density` of largest absolute values; each weight takes the sign with the larger
                  sum, and the mean of the D_k with this sign (Yadav et al. 2023)
    breadcrumbs   of each D_k neither the share `outliers` of the largest absolute values nor what is smaller than the
                  next share `density`; then the mean (Davari & Belilovsky 2023, whose sum it is but for the scale)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors.numpy import load_file, save_file

from rayrec.errors import ConfigError
from rayrec.numerics.types import Float64s
from rayrec.storage import checkpoint_safety

Method = Literal["average", "ties", "breadcrumbs"]
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_A, _B = "lora_A.weight", "lora_B.weight"


def merge_adapters(
    folders: Sequence[Path], out: Path, method: Method, *, density: float = 0.2, outliers: float = 0.01, rank: int
) -> float:
    """Write the merged adapter of PEFT folders, of at most this rank, into the new folder `out`.

    Returns the share of the merged change (squared Frobenius norm) that the rank keeps. Raises ConfigError for folders
    that are no plain LoRA adapters, or not of the same layers.
    """
    configs, layers = zip(*(_read(folder) for folder in folders), strict=True)
    names = layers[0].keys()
    for folder, config, own in zip(folders, configs, layers, strict=True):
        if own.keys() != names or config.get("task_type") != configs[0].get("task_type"):
            raise _refused(folder, "it does not change the same layers as the first adapter")
    tensors, kept, whole = {}, 0.0, 0.0
    for name in sorted(names):
        changes = [own[name] for own in layers]
        if len({change.shape for change in changes}) > 1:
            raise _refused(folders[0], f"the adapters disagree on the shape of {name}: they are of other checkpoints")
        u, s, v = np.linalg.svd(merged(np.stack(changes), method, density, outliers), full_matrices=False)
        kept, whole = kept + float((s[:rank] ** 2).sum()), whole + float((s**2).sum())
        root = np.sqrt(s[:rank])
        a, b = (root[:, None] * v[:rank]).astype(np.float32), (u[:, :rank] * root).astype(np.float32)
        tensors[f"{name}.{_A}"] = np.ascontiguousarray(np.pad(a, ((0, rank - len(a)), (0, 0))))
        tensors[f"{name}.{_B}"] = np.ascontiguousarray(np.pad(b, ((0, 0), (0, rank - b.shape[1]))))
    config = {**configs[0], "r": rank, "lora_alpha": rank, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
    out.mkdir(parents=True)
    (out / _CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf8")
    save_file(tensors, out / _WEIGHTS)
    return kept / whole if whole else 1.0


def merged(changes: Float64s, method: Method, density: float = 0.2, outliers: float = 0.01) -> Float64s:
    """One change from several of the same weights, [adapters, ...] -> [...]."""
    if method == "average":
        return np.asarray(changes.mean(0))
    left_out = outliers if method == "breadcrumbs" else 0.0
    trimmed = np.stack([_trimmed(change, left_out, density) for change in changes])
    if method == "breadcrumbs":
        return np.asarray(trimmed.mean(0))
    agrees = (np.sign(trimmed) == np.sign(trimmed.sum(0))) & (trimmed != 0)
    return np.asarray((trimmed * agrees).sum(0) / np.maximum(agrees.sum(0), 1))


def _trimmed(change: Float64s, outliers: float, density: float) -> Float64s:
    """Without the share `outliers` of the largest absolute values and what comes after the next share `density`; of
    equal values the first count as larger."""
    order = np.argsort(-np.abs(change), axis=None, kind="stable")
    first = round(outliers * change.size)
    kept = order[first : first + max(1, round(density * change.size))]
    result = np.zeros_like(change)
    result.flat[kept] = change.flat[kept]
    return result


def _read(folder: Path) -> tuple[dict[str, object], dict[str, Float64s]]:
    """The configuration, and the change of each layer by name."""
    if not (folder / _WEIGHTS).is_file() or not (folder / _CONFIG).is_file():
        raise _refused(folder, f"it lacks {_CONFIG} or {_WEIGHTS}")
    checkpoint_safety.require_safe(folder, str(folder), adapter=True)
    config = checkpoint_safety.read_json(folder / _CONFIG, str(folder))
    if config.get("use_dora") or config.get("rank_pattern") or config.get("alpha_pattern"):
        raise _refused(folder, "it is not a plain LoRA adapter of one rank")
    alpha, rank = float(config["lora_alpha"]), float(config["r"])
    scale = alpha / np.sqrt(rank) if config.get("use_rslora") else alpha / rank
    tensors = load_file(folder / _WEIGHTS)
    names = {name.rpartition(".lora_")[0] for name in tensors}
    if {f"{name}.{part}" for name in names for part in (_A, _B)} != tensors.keys():
        raise _refused(folder, "it has other weights than A and B of layers")
    pairs = ((name, tensors[f"{name}.{_A}"], tensors[f"{name}.{_B}"]) for name in names)
    return config, {name: scale * (b.astype(np.float64) @ a.astype(np.float64)) for name, a, b in pairs}


def _refused(folder: Path, what: str) -> ConfigError:
    return ConfigError(
        f"the adapter cannot be merged: {what}",
        where=str(folder),
        hint="give folders of PEFT LoRA adapters of the same checkpoint",
    )
