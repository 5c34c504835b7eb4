"""Users whose gradient points where validation users' does: LESS (Xia et al. 2024), with one checkpoint.

A short warm-up tunes the night's own model on random users. Then, with g_u the gradient of user u's loss in the output
layer (see gradients.py) and v Adam's second moments of the item vectors as the warm-up left them, the score is the
cosine of g_u / (sqrt(v) + eps) and the mean gradient of the validation users' newest targets; Adam's first moments,
which are the same for all users, are left out. The best scores are chosen. Gradients are compared with one direction
only, so they are neither kept nor projected: the cosines are exact.

It costs the warm-up and forward passes over all users' newest events, once.
"""

from __future__ import annotations

import numpy as np
import safetensors.torch
from torch import Tensor

from rayrec.numerics.collectives import Worker
from rayrec.reranking.item_token.item_lm import ItemLM
from rayrec.reranking.training.data_selection.selection_pool import (
    SELECTION_METHODS,
    SelectionPool,
    Weights,
    best,
    filter_events,
    groups,
    take_users,
)
from rayrec.reranking.training.data_selection.user_gradients import cosines, mean_gradient
from rayrec.reranking.training.tuning_data import Int, Sequences, TuningExamples, epoch
from rayrec.reranking.training.tuning_loop import TuningLoop, TuningTask

_WARMUP_STEPS = 300  # at most
_EPSILON = 1e-8  # Adam's


@SELECTION_METHODS.register_as("influence")
def by_influence(pool: SelectionPool, count: int) -> Weights:
    """Users whose gradient points where that of validation users does (LESS, Xia et al. 2024)."""
    wanted, tokens = pool.validation_targets, pool.settings.batch_tokens
    lm, scale = warm_up_model(pool)
    users, examples = newest_event_examples(pool)
    scores = np.full(len(pool), -np.inf)
    scores[users] = cosines(lm, examples, mean_gradient(lm, wanted, tokens), scale, tokens)
    return best(scores, count)


def newest_event_examples(pool: SelectionPool) -> tuple[Int, TuningExamples]:
    """Users, and a row for each: what they would teach as prompts of their newest events, none of them hidden."""
    ends = pool.past.ts.offsets[1:][pool.past.ts.rows]
    newest = filter_events(pool.past, ends - np.arange(len(pool.past.ts.values)) <= pool.settings.events)
    users = np.flatnonzero(groups(newest) > 1)
    settings = pool.settings.model_copy(update={"item_dropout": 0.0})
    examples = epoch(take_users(newest, users), pool.layout, settings, pool.now, pool.rng("lessons"))
    return users, examples


def warm_up_model(pool: SelectionPool) -> tuple[ItemLM, Tensor]:
    """A model tuned a little on random users, and 1 / (sqrt(v) + eps) of its item vectors, [items, width].

    It takes as many users as give it the steps, in the epochs that the tuning itself may take.
    """
    lm = pool.initial_model()
    loop = TuningLoop(
        lm, pool.layout, TuningTask(_some(pool), None, pool.now, pool.settings), Worker(device=pool.device)
    )
    loop.run(lambda _: None)
    moments = safetensors.torch.load(loop.checkpoint())["exp_avg_sq.items"]
    return lm, (1 / (moments.sqrt() + _EPSILON)).to(pool.device)


def _some(pool: SelectionPool) -> Sequences:
    """Random users, as many as `_WARMUP_STEPS` batches of all epochs hold; one at least."""
    settings = pool.settings
    tokens = len(pool.layout.prefix) + 2 * np.minimum(pool.past.item.lengths, settings.events)
    order = pool.rng("warm-up").permutation(len(pool))
    room = _WARMUP_STEPS * settings.batch_tokens / settings.epochs
    return take_users(pool.past, np.sort(order[: max(1, int((np.cumsum(tokens[order]) <= room).sum()))]))
