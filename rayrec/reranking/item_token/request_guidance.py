"""The effect of a request on item scores: guidance from several prompts, and a facet bonus.

Guidance. A request beside a history gives four prompts, whose hidden states are combined:

    h = .8 h(request and history) + .2 h(history) + .4 h(request) - .4 h(neither)

Logits are linear in h, so an item's probability is the product of its probabilities under each prompt to the power of
the weight, as in classifier-free guidance (arXiv 2207.12598) and its compositions (2206.01714). "Neither" is
popularity, which the other three prompts would count three times. The weights sum to 1, which preserves the scale of
scores; they were tuned on validation events (benchmarks/notes/requests.md).

Facet bonus. Rules find the facets that a request names (`rayrec.instructions.facet_matching`):

    score = log P(item | prompts) + FACET_MATCH_WEIGHT x (included facets that the item has - excluded ones that it has)

By Bayes' rule with a constant error rate, an item with a named facet is e^FACET_MATCH_WEIGHT times as likely to be
meant. A facet named in passing ("for a family night, a western") excludes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rayrec.instructions.facet_matching import FacetMatcher, FacetMatches
from rayrec.instructions.facets import Facets
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.engines.engine import Engine, Failure, Float32
from rayrec.reranking.item_token.prompt_layout import PromptLayout

BOTH, HISTORY, REQUEST, NEITHER = 0.8, 0.2, 0.4, -0.4
FACET_MATCH_WEIGHT = 4.0  # nats per facet

Prompt = tuple[int, ...]
WeightedPrompts = tuple[tuple[float, Prompt], ...]  # (weight, prompt) pairs; empty: nothing to score from


def weighted_prompts(
    layout: PromptLayout, item: Ragged, ts: Ragged, now: int, words: Ragged | None, guided: npt.NDArray[np.bool_]
) -> list[WeightedPrompts]:
    """The weighted prompts of each row. `item`, `ts`, `now`, `words`: as in `PromptLayout.prompts`; `guided` [n]:
    whether the words are a request, which guidance needs."""
    own = layout.prompts(item, ts, now, words)
    if words is None:
        return [_single(tokens) for tokens in _rows(own)]
    apart = np.flatnonzero(guided & (item.lengths > 0) & (words.lengths > 0) & (own.lengths > 0))
    nothing = Ragged.from_lengths(item.values[:0], np.zeros(len(apart), np.int64))
    histories = layout.prompts(item.take(apart), ts.take(apart), now)
    requests = layout.prompts(nothing, nothing.like(ts.values[:0]), now, words.take(apart))
    neither = (*layout.prefix.tolist(), layout.longest_gap)
    found = [_single(tokens) for tokens in _rows(own)]
    for row, history, request in zip(apart.tolist(), _rows(histories), _rows(requests), strict=True):
        found[row] = ((BOTH, found[row][0][1]), (HISTORY, history), (REQUEST, request), (NEITHER, neither))
    return found


def guided_states(engine: Engine, rows: Sequence[WeightedPrompts]) -> list[Float32 | Failure]:
    """The weighted sum of the hidden states of each row's prompts, float32 [d]; the Failure if a prompt fails."""
    prompts = list(dict.fromkeys(prompt for row in rows for _, prompt in row))
    states = dict(zip(prompts, engine.last_hidden_states([list(prompt) for prompt in prompts]), strict=True))
    return [_weighted_sum([(weight, states[prompt]) for weight, prompt in row]) for row in rows]


class FacetMatchScore:
    """The facet bonus. Item codes are rows of the catalogue of `facets`."""

    def __init__(self, facets: Facets) -> None:
        self._facets = facets
        self._matcher = FacetMatcher(facets.scheme)

    def matches(self, requests: Sequence[str | None]) -> list[FacetMatches]:
        """The facets that each request names; empty without a request."""
        found = {text: self._matcher(text) if text else FacetMatches() for text in set(requests)}
        return [found[text] for text in requests]

    def score_bonus(self, matches: FacetMatches, codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The bonus of these items, nats, float32 [codes]."""
        sign = dict.fromkeys(matches.include, 1) | dict.fromkeys(matches.exclude, -1)
        total = np.zeros(len(codes), np.float32)
        for facet, direction in sign.items():
            has = self._facets.has(codes, np.full(len(codes), facet))
            total += np.float32(direction * FACET_MATCH_WEIGHT) * has
        return total


def _weighted_sum(states: Sequence[tuple[float, Float32 | Failure]]) -> Float32 | Failure:
    total: Float32 = np.zeros(1, np.float32)
    for weight, state in states:
        if isinstance(state, Failure):
            return state
        total = total + np.float32(weight) * state
    return total


def _single(tokens: Prompt) -> WeightedPrompts:
    return ((1.0, tokens),) if tokens else ()


def _rows(prompts: Ragged) -> list[Prompt]:
    return [tuple(prompts[row].tolist()) for row in range(len(prompts))]
