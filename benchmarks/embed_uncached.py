"""Embeddings without the prefix cache: the control of benchmarks and tests of the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from rayrec.embeddings.embedder import Embedder, Vectors
from rayrec.embeddings.source_views import View
from rayrec.embeddings.user_model import UserModel
from rayrec.numerics.ridge_blocks import single_thread


def embed_from_prefix(model: UserModel, prefix: Tensor, instruction: Sequence[int]) -> Tensor:
    """Unit vectors [rows, dim], computing prefix [rows, tokens, width] and instruction in one pass."""
    question = model.question(instruction).expand(len(prefix), -1, -1)
    return model.unit_user(model.llm(torch.cat([prefix, question], 1))[:, -1])


def embed_uncached(embedder: Embedder, views: Mapping[str, View], instructions: Sequence[str]) -> Vectors:
    """As `Embedder.embed`, but sources and prefix are computed again for every instruction."""
    users = len(next(iter(views.values())).lengths)
    out = np.empty((len(instructions), users, embedder.dim), np.float32)
    with single_thread(), torch.inference_mode():
        for k, text in enumerate(instructions):
            for start, prefix in embedder.prefixes(views):
                found = embed_from_prefix(embedder.model, prefix, embedder.instruction_ids(text)).numpy()
                out[k, start : start + len(found)] = found[: users - start]
    return out
