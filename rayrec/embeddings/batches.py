"""Views of some users as dense tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rayrec.embeddings.source_events import ranges
from rayrec.embeddings.source_views import View

Users = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Lines:
    """One source of some users: [rows, length, most words], and which lines are there [rows, length]."""

    words: Tensor  # int64
    weight: Tensor  # float32
    there: Tensor  # bool


def padded(view: View, users: Users, rows: int, length: int) -> Lines:
    """The lines of `users`, which have at most `length`, as the first of `rows` rows; the rest is empty."""
    offsets = np.concatenate([[0], np.cumsum(view.lengths)])
    counts = view.lengths[users]
    at = ranges(offsets[users], counts)
    row = np.repeat(np.arange(len(users)), counts)
    column = ranges(np.zeros(len(users), np.int64), counts)
    words = np.zeros((rows, length, view.words.shape[1]), np.int64)
    weight = np.zeros(words.shape, np.float32)
    there = np.zeros((rows, length), np.bool_)
    words[row, column], weight[row, column], there[row, column] = view.words[at], view.weight[at], True
    return Lines(*(torch.from_numpy(array) for array in (words, weight, there)))
