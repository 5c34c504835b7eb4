"""Checkpoints of an unfinished training: trained parameters, Adam's state and progress, as safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from rayrec.errors import DataError, MissingFileError
from rayrec.numerics.collectives import Worker
from rayrec.storage import Storage, layout

_STATE = ("step", "exp_avg", "exp_avg_sq")  # of Adam


def save(
    trained: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    progress: Mapping[str, Any],
    more: Mapping[str, Tensor] | None = None,
) -> bytes:
    """Everything that `restore` needs; `more`: tensors by names of the caller's own."""
    tensors = {f"weight.{name}": p.detach() for name, p in trained.items()}
    tensors |= {f"more.{name}": tensor for name, tensor in (more or {}).items()}
    for name, parameter in trained.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}.{name}"] = value
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data: bytes = safetensors.torch.save(plain, {"progress": json.dumps(dict(progress))})
    return data


def restore(
    data: bytes, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Set the parameters and the optimizer; returns progress and `more`. Raises DataError for an invalid checkpoint."""
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        progress = dict(json.loads(header["__metadata__"]["progress"]))
        load_parameters(trained, {name: tensors[f"weight.{name}"] for name in trained})
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(
            f"the checkpoint cannot be used: {error}", hint="delete it; the tuning starts from the beginning"
        ) from None
    for name, parameter in trained.items():
        optimizer.state[parameter] = {
            key: tensors[f"{key}.{name}"].to("cpu" if key == "step" else parameter.device)
            for key in _STATE
            if f"{key}.{name}" in tensors
        }
    return progress, {name[5:]: tensor for name, tensor in tensors.items() if name.startswith("more.")}


def stored(storage: Storage, folder: str, worker: Worker) -> bytes | None:
    """The checkpoint of a run that was stopped, if any: on every worker what the first one reads, because a concurrent
    run may write another meanwhile."""
    data = None
    if worker.rank == 0:
        with suppress(MissingFileError):
            data = storage.read(layout.training_checkpoint_path(folder))
    return worker.broadcast_first(data)


def load_parameters(trained: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[name])
