"""Gradient-based selection of training users (LESS, Xia et al. 2024), with one checkpoint.

A short warm-up tunes the run's own model on random users. With g_u the gradient of user u's loss in the output layer
and v Adam's second moments of the item vectors after the warm-up, a user's score is the cosine between
g_u / (sqrt(v) + eps) and the mean gradient of the validation users' newest targets. Adam's first moments are left out:
they are equal for all users. Gradients are compared with one direction only, so cosines are exact.

Output-layer gradients have a closed form. With state h_q, query q gives item i the logit v_i'h_q. With p_q the softmax
of the logits, targets t of weights w_qt, and W_q the sum of these, the loss -sum_t w_qt log p_qt has the derivative
r_q h_q' in the item vectors, where r_q = W_q p_q - sum_t w_qt e_t. A user's gradient is the sum over the user's
queries; layers below the output layer are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor

from rayrec.numerics.collectives import Worker
from rayrec.reranking.item_token.item_lm import ItemLM
from rayrec.reranking.training.data_selection.selection_pool import (
    SELECTION_METHODS,
    SelectionPool,
    Weights,
    event_group_counts,
    filter_events,
    take_users,
    top_weights,
)
from rayrec.reranking.training.tuning_examples import Int, Sequences, TuningExamples, batches, collate, epoch_examples
from rayrec.reranking.training.tuning_loop import TuningLoop, TuningTask

_WARMUP_STEPS = 300  # at most
_EPSILON = 1e-8  # Adam's


@SELECTION_METHODS.register_as("influence")
def by_influence(pool: SelectionPool, count: int) -> Weights:
    """Users whose gradients align with those of validation users (LESS, Xia et al. 2024)."""
    targets, tokens = pool.validation_targets, pool.settings.batch_tokens
    lm, scale = warm_up_model(pool)
    users, examples = newest_event_examples(pool)
    scores = np.full(len(pool), -np.inf)
    scores[users] = cosines(lm, examples, mean_gradient(lm, targets, tokens), scale, tokens)
    return top_weights(scores, count)


def newest_event_examples(pool: SelectionPool) -> tuple[Int, TuningExamples]:
    """Users, and one example each: the prompt of their newest events, without dropout."""
    ends = pool.past.ts.offsets[1:][pool.past.ts.rows]
    newest = filter_events(pool.past, ends - np.arange(len(pool.past.ts.values)) <= pool.settings.events)
    users = np.flatnonzero(event_group_counts(newest) > 1)
    settings = pool.settings.model_copy(update={"item_dropout": 0.0})
    examples = epoch_examples(take_users(newest, users), pool.layout, settings, pool.now, pool.rng("newest_events"))
    return users, examples


def warm_up_model(pool: SelectionPool) -> tuple[ItemLM, Tensor]:
    """A model tuned briefly on random users, and 1 / (sqrt(v) + eps) of its item vectors, [items, width]."""
    lm = pool.initial_model()
    loop = TuningLoop(
        lm, pool.layout, TuningTask(_warm_up_users(pool), None, pool.now, pool.settings), Worker(device=pool.device)
    )
    loop.run(lambda _: None)
    moments = safetensors.torch.load(loop.checkpoint())["exp_avg_sq.items"]
    return lm, (1 / (moments.sqrt() + _EPSILON)).to(pool.device)


def _warm_up_users(pool: SelectionPool) -> Sequences:
    """Random users, enough to fill `_WARMUP_STEPS` batches over all epochs; at least one."""
    settings = pool.settings
    tokens = len(pool.layout.prefix) + 2 * np.minimum(pool.past.item.lengths, settings.events)
    order = pool.rng("warm-up").permutation(len(pool))
    budget = _WARMUP_STEPS * settings.batch_tokens / settings.max_epochs
    return take_users(pool.past, np.sort(order[: max(1, int((np.cumsum(tokens[order]) <= budget).sum()))]))


def user_gradients(lm: ItemLM, examples: TuningExamples, batch_tokens: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (row of `examples`, gradient of its summed loss in the item vectors, float32 [tuned, width]), each row
    once.

    Items without an own vector are excluded, as targets and from the softmax.
    """
    lm.eval()
    device, tuned = lm.items.device, len(lm.items)
    with torch.inference_mode():
        vectors = lm.vectors().float()
        for rows in batches(examples, batch_tokens, None):
            batch = collate(examples, rows, lm.vocabulary.pad)
            states = lm(torch.from_numpy(batch.tokens).to(device), vectors).flatten(0, 1)
            query_states = states[torch.from_numpy(batch.place).to(device)].float()
            ends = np.cumsum(examples.query.lengths[rows])
            for row, start, end in zip(rows, [0, *ends[:-1]], ends, strict=True):
                low, high = np.searchsorted(batch.query, [start, end])
                own = batch.target[low:high] < tuned
                target, query, weight = (
                    torch.from_numpy(part[own]).to(device)
                    for part in (batch.target[low:high], batch.query[low:high] - start, batch.weight[low:high])
                )
                yield int(row), output_gradient(query_states[start:end], vectors[:tuned], target, query, weight)


def output_gradient(states: Tensor, vectors: Tensor, target: Tensor, query: Tensor, weight: Tensor) -> Tensor:
    """The sum of r_q h_q', [items, width]. `states` [queries, width]; target, query and weight [targets]."""
    total = torch.zeros(len(states), device=states.device).index_add_(0, query, weight)
    residual = torch.softmax(states @ vectors.T, 1) * total[:, None]
    residual.index_put_((query, target), -weight, accumulate=True)
    return residual.T @ states


def mean_gradient(lm: ItemLM, examples: TuningExamples, batch_tokens: int) -> Tensor:
    """The mean gradient of the rows, float32 [items, width]."""
    total = torch.zeros(lm.items.shape, device=lm.items.device)
    for _, gradient in user_gradients(lm, examples, batch_tokens):
        total += gradient
    return total / len(examples)


def cosines(
    lm: ItemLM, examples: TuningExamples, direction: Tensor, scale: Tensor, batch_tokens: int
) -> npt.NDArray[np.float64]:
    """Cosine between each row's gradient, scaled elementwise by `scale`, and `direction`, [rows]."""
    out = np.empty(len(examples))
    for row, gradient in user_gradients(lm, examples, batch_tokens):
        out[row] = float(torch.cosine_similarity((gradient * scale).flatten(), direction.flatten(), 0))
    return out
