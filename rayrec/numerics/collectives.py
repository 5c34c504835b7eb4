"""A worker of a data-parallel training group and its collective operations (torch.distributed)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter

T = TypeVar("T")


@dataclass(frozen=True)
class Worker:
    """One process of a training group; by default a group of one."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"

    def all_reduce_sum(self, tensors: list[Tensor]) -> list[Tensor]:
        """Sum each tensor over the workers. All workers must call it with tensors of the same shapes."""
        if self.world_size == 1:
            return tensors
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        torch.distributed.all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]

    def sum_gradients(self, parameters: Iterable[Parameter]) -> None:
        """Replace each parameter's gradient by its sum over the workers; none counts as 0."""
        if self.world_size == 1:
            return
        parameters = list(parameters)
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        for parameter, gradient in zip(parameters, self.all_reduce_sum(gradients), strict=True):
            parameter.grad = gradient

    def broadcast_first(self, value: T) -> T:
        """The first worker's value, on every worker. All workers must call it."""
        if self.world_size == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, 0, device=torch.device(self.device))
        return values[0]


SINGLE_WORKER = Worker()
