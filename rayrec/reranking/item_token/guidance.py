"""A request beside a history is put to the model in more than one prompt, and the answers are multiplied.

    h = .8 h(request and history) + .2 h(history) + .4 h(request) - .4 h(neither)

where h is a prompt's final hidden state. Scores before the softmax are linear in it (see base.py), so an item's chance
is the product of its chances by each prompt, each to the power of its weight: a product of experts, as in
classifier-free guidance (2207.12598) and its compositions (2206.01714). In one prompt alone, history and request get
into each other's way. "Neither" is what people take whatever they did or asked: popularity, which three prompts would
count three times. The weights sum to 1, so a score's scale is that of one prompt.

They come from a grid on movietweetings' validation events (benchmarks/notes/requests.md has what they are worth). The
price is a history read twice, once of which an arm without requests needs anyhow, and a short prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rayrec.numerics.ragged import Ragged
from rayrec.reranking.engines.engine import Engine, Failure, Float32
from rayrec.reranking.item_token.item_prompt import PromptLayout

BOTH, HISTORY, REQUEST, NEITHER = 0.8, 0.2, 0.4, -0.4

Prompt = tuple[int, ...]
WeightedPrompts = tuple[tuple[float, Prompt], ...]  # prompts and their weights; none: there is nothing to read


def parts(
    layout: PromptLayout, item: Ragged, ts: Ragged, now: int, words: Ragged | None, guided: npt.NDArray[np.bool_]
) -> list[WeightedPrompts]:
    """What is read of each row. `item`, `ts`, `now`, `words` as in `Layout.prompts`; `guided` [n]: whose words are a
    request that may be read apart from the history."""
    own = layout.prompts(item, ts, now, words)
    if words is None:
        return [_alone(tokens) for tokens in _rows(own)]
    apart = np.flatnonzero(guided & (item.lengths > 0) & (words.lengths > 0) & (own.lengths > 0))
    nothing = Ragged.from_lengths(item.values[:0], np.zeros(len(apart), np.int64))
    history = layout.prompts(item.take(apart), ts.take(apart), now)
    request = layout.prompts(nothing, nothing.like(ts.values[:0]), now, words.take(apart))
    neither = (*layout.prefix.tolist(), layout.longest_gap)
    found = [_alone(tokens) for tokens in _rows(own)]
    for row, past, wish in zip(apart.tolist(), _rows(history), _rows(request), strict=True):
        found[row] = ((BOTH, found[row][0][1]), (HISTORY, past), (REQUEST, wish), (NEITHER, neither))
    return found


def states(engine: Engine, asked: Sequence[WeightedPrompts]) -> list[Float32 | Failure]:
    """The weighed sum of the parts' hidden states, float32 [d] a row; where a part fails, its failure."""
    prompts = list(dict.fromkeys(prompt for row in asked for _, prompt in row))
    read = dict(zip(prompts, engine.states([list(prompt) for prompt in prompts]), strict=True))
    return [_added([(weight, read[prompt]) for weight, prompt in row]) for row in asked]


def _added(weighed: Sequence[tuple[float, Float32 | Failure]]) -> Float32 | Failure:
    total: Float32 = np.zeros(1, np.float32)
    for weight, state in weighed:
        if isinstance(state, Failure):
            return state
        total = total + np.float32(weight) * state
    return total


def _alone(tokens: Prompt) -> WeightedPrompts:
    return ((1.0, tokens),) if tokens else ()


def _rows(prompts: Ragged) -> list[Prompt]:
    return [tuple(prompts[row].tolist()) for row in range(len(prompts))]
