"""Gradients of single users in the output layer, in closed form: forward passes are all that they take.

With the state h_q a query q gives item i the logit v_i'h_q. With p_q the softmax of the logits, targets t of weights
w_qt and W_q the sum of these, its loss, -sum_t w_qt log p_qt, has the derivative r_q h_q' in the item vectors, where
r_q = W_q p_q - sum_t w_qt e_t. A user's gradient is the sum over the user's queries. Item vectors are also what the
model reads; that way into the loss is left out, and so is everything below the output layer.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rayrec.reranking.item_token.item_lm import ItemLM
from rayrec.reranking.training.tuning_data import TuningExamples, batches, collate


def user_gradients(lm: ItemLM, examples: TuningExamples, batch_tokens: int) -> Iterator[tuple[int, Tensor]]:
    """(row of `examples`, gradient of its summed loss in the item vectors, float32 [tuned, width]), each row once.

    Items without a part of their own are left out, as answers and as alternatives.
    """
    lm.eval()
    device, tuned = lm.items.device, len(lm.items)
    with torch.inference_mode():
        vectors = lm.vectors().float()
        for rows in batches(examples, batch_tokens, None):
            batch = collate(examples, rows, lm.vocabulary.pad)
            states = lm(torch.from_numpy(batch.tokens).to(device), vectors).flatten(0, 1)
            asking = states[torch.from_numpy(batch.place).to(device)].float()
            ends = np.cumsum(examples.query.lengths[rows])
            for row, start, end in zip(rows, [0, *ends[:-1]], ends, strict=True):
                low, high = np.searchsorted(batch.query, [start, end])
                own = batch.target[low:high] < tuned
                target, query, weight = (
                    torch.from_numpy(part[own]).to(device)
                    for part in (batch.target[low:high], batch.query[low:high] - start, batch.weight[low:high])
                )
                yield int(row), output_gradient(asking[start:end], vectors[:tuned], target, query, weight)


def output_gradient(states: Tensor, vectors: Tensor, target: Tensor, query: Tensor, weight: Tensor) -> Tensor:
    """[items, width]: sum of r_q h_q'. `states` [queries, width]; target, query and weight [targets]."""
    total = torch.zeros(len(states), device=states.device).index_add_(0, query, weight)
    residual = torch.softmax(states @ vectors.T, 1) * total[:, None]
    residual.index_put_((query, target), -weight, accumulate=True)
    return residual.T @ states


def mean_gradient(lm: ItemLM, examples: TuningExamples, batch_tokens: int) -> Tensor:
    """The rows' mean gradient, float32 [items, width]."""
    total = torch.zeros(lm.items.shape, device=lm.items.device)
    for _, gradient in user_gradients(lm, examples, batch_tokens):
        total += gradient
    return total / len(examples)


def cosines(
    lm: ItemLM, examples: TuningExamples, direction: Tensor, scale: Tensor, batch_tokens: int
) -> npt.NDArray[np.float64]:
    """[rows] the cosine of each row's gradient, times `scale` element by element, and `direction`."""
    out = np.empty(len(examples))
    for row, gradient in user_gradients(lm, examples, batch_tokens):
        out[row] = float(torch.cosine_similarity((gradient * scale).flatten(), direction.flatten(), 0))
    return out
