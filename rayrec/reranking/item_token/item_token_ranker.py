"""Reranking by item tokens: one engine per job, which scores the candidates shard by shard.

Input: candidate_schema, optionally with the columns `instruction` (string, profile and request as rendered for the
prompt; "" or null: the default instruction) and `request` (string, the user's own words; null: none), which changes
scores by `request_guidance`. Output: reranked_schema, the same rows with `llm_score` and `error`.

    neither a known event nor an instruction    all scores NaN
    candidate that is newer than the tuning     its score NaN
    prompt that fails                           score null, the reason in `error`; no other row is affected
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from rayrec.instructions.facet_matching import FacetMatches
from rayrec.instructions.facets import Facets
from rayrec.numerics.ragged import Ragged, list_offsets
from rayrec.reranking.engines.engine import Engine, Failure, Float32
from rayrec.reranking.item_token.item_head import ItemHead
from rayrec.reranking.item_token.prompt_layout import Int
from rayrec.reranking.item_token.request_guidance import (
    FacetMatchScore,
    WeightedPrompts,
    guided_states,
    weighted_prompts,
)
from rayrec.reranking.item_token.tuned_checkpoint import LocalCheckpoint

_BLOCK = 4096  # rows scored at a time, many times an engine's batch


class ItemTokenRanker:
    """Scores tables with a started engine; `rayrec.pipeline` wraps it into an actor."""

    def __init__(self, engine: Engine, model: LocalCheckpoint, catalogue: pa.Table, instruction: str, now: int) -> None:
        """`catalogue`: ITEM of the run; its row numbers are the item codes of all tables. Requests match the facets
        that the model was tuned with; an item's facets come from its own texts. `instruction`: the default, cleaned
        text; `now`: the cutoff, microseconds UTC."""
        self._engine, self._now = engine, now
        self._head = ItemHead.of(model, engine.device)
        self._layout = model.layout(instruction, engine.max_prompt_tokens)
        self._tokenize = model.word_tokenizer(engine.max_prompt_tokens)
        known = model.token_index(catalogue["item_id"].combine_chunks())
        self._index: Int = known.fill_null(-1).to_numpy().astype(np.int64)  # [items] token index; -1: unknown
        self._code = np.zeros(self._index.max(initial=-1) + 1, np.int64)  # item code of each token index
        self._code[self._index[self._index >= 0]] = np.flatnonzero(self._index >= 0)
        scheme = model.card.facets
        self._facet_score = None if scheme is None else FacetMatchScore(Facets.of(catalogue, scheme))

    def __call__(self, table: pa.Table) -> pa.Table:
        """candidate_schema -> reranked_schema, row for row; in blocks, because prompts and hidden states exceed the
        table in size."""
        answers: list[Float32 | Failure] = [np.empty(0, np.float32)] * len(table)
        for rows in self._blocks(table):
            for row, answer in zip(rows.tolist(), self._scores(table.take(pa.array(rows))), strict=True):
                answers[row] = answer
        scores, errors = score_columns(answers)
        return table.append_column("llm_score", scores).append_column("error", errors)

    def _blocks(self, table: pa.Table) -> Iterator[Int]:
        """Blocks of ascending row numbers. Rows with a common history prefix are in the same or the next block, so that
        the engine's prefix cache serves them."""
        if len(table) <= _BLOCK:
            yield np.arange(len(table))
            return
        history = self._layout.prompts(*self._events(table), self._now)
        tokens = history.values.astype(">u4").tobytes()  # big-endian bytes sort as the tokens do
        starts = (4 * history.offsets).tolist()
        keys = [
            (tokens[start:end], instruction or "")
            for (start, end), instruction in zip(pairwise(starts), self._instructions(table), strict=True)
        ]
        order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
        for start in range(0, len(order), _BLOCK):
            yield np.sort(order[start : start + _BLOCK])

    def _scores(self, table: pa.Table) -> list[Float32 | Failure]:
        """One answer a row, [candidates] each.

        Rows with the same prompts and facets (arms with the same history) are scored once, for the union of their
        candidates.
        """
        candidates = Ragged.from_arrow(table["candidate"])
        index = candidates.like(self._index[candidates.values])  # [rows] token indices, -1: unknown
        distinct, place = _distinct(list(zip(self._prompts(table), self._matches(table), strict=True)))
        offers = _unions(index, place, len(distinct))  # [distinct] token indices, ascending
        first = self._layout.vocabulary.first_item
        with_prompts = [at for at, (prompts, _) in enumerate(distinct) if prompts]
        states = guided_states(self._engine, [distinct[at][0] for at in with_prompts])
        scored = self._head.score(states, [(offers[at] + first).tolist() for at in with_prompts])
        answers: list[Float32 | Failure] = [np.empty(0, np.float32)] * len(distinct)
        for at, answer in zip(with_prompts, scored, strict=True):
            answers[at] = self._with_bonus(answer, distinct[at][1], offers[at])
        return [
            _pick(answers[at], offers[at], index[row], bool(distinct[at][0])) for row, at in enumerate(place.tolist())
        ]

    def _events(self, table: pa.Table) -> tuple[Ragged, Ragged]:
        """The events with known items: token indices and times."""
        items = Ragged.from_arrow(table["item"])
        times = Ragged.from_arrow(table["ts"])
        indices = self._index[items.values]
        known = indices >= 0
        retained = items.filter(known)
        return retained.like(indices[known]), retained.like(times.values[known])

    def _instructions(self, table: pa.Table) -> list[str | None]:
        if "instruction" not in table.column_names:
            return [None] * len(table)
        instructions: list[str | None] = table["instruction"].to_pylist()
        return instructions

    def _prompts(self, table: pa.Table) -> list[WeightedPrompts]:
        words, guided = None, np.zeros(len(table), np.bool_)
        if "instruction" in table.column_names:
            words = self._tokenize([text or "" for text in self._instructions(table)])
        if "request" in table.column_names:
            guided = table["request"].is_valid().to_numpy()
        return weighted_prompts(self._layout, *self._events(table), self._now, words, guided)

    def _matches(self, table: pa.Table) -> list[FacetMatches]:
        if self._facet_score is None or "request" not in table.column_names:
            return [FacetMatches()] * len(table)
        return self._facet_score.matches(table["request"].to_pylist())

    def _with_bonus(self, answer: Float32 | Failure, matches: FacetMatches, offer: Int) -> Float32 | Failure:
        if isinstance(answer, Failure) or self._facet_score is None or not matches:
            return answer
        return answer + self._facet_score.score_bonus(matches, self._code[offer])


def score_columns(answers: Sequence[Float32 | Failure]) -> tuple[pa.ListArray, pa.StringArray]:
    """The columns `llm_score` (ragged float32, null for a Failure) and `error` (null for scores)."""
    missing = np.array([isinstance(answer, Failure) for answer in answers], np.bool_)
    filled = [np.empty(0, np.float32) if isinstance(answer, Failure) else answer for answer in answers]
    values = np.concatenate([np.empty(0, np.float32), *filled])
    offsets = list_offsets(Ragged.from_lengths(values, [len(scores) for scores in filled]).offsets)
    scores = pa.ListArray.from_arrays(offsets, pa.array(values, pa.float32()), mask=pa.array(missing))
    errors = [answer.reason if isinstance(answer, Failure) else None for answer in answers]
    return scores, pa.array(errors, pa.string())


def _pick(answer: Float32 | Failure, offer: Int, index: Int, has_prompts: bool) -> Float32 | Failure:
    """A row's scores for its candidates `index`, from those of `offer` (ascending); NaN for unknown items."""
    if isinstance(answer, Failure):
        return answer
    out = np.full(len(index), np.nan, np.float32)
    if has_prompts:
        known = index >= 0
        out[known] = answer[np.searchsorted(offer, index[known])]
    return out


def _distinct(
    rows: Sequence[tuple[WeightedPrompts, FacetMatches]],
) -> tuple[list[tuple[WeightedPrompts, FacetMatches]], Int]:
    """The distinct rows, and the number of each row's, [rows]."""
    number = {one: at for at, one in enumerate(dict.fromkeys(rows))}
    return list(number), np.array([number[one] for one in rows], np.int64)


def _unions(index: Ragged, place: Int, count: int) -> Ragged:
    """For each distinct prompt the known candidates of all its rows, ascending."""
    known = index.values >= 0
    span = int(index.values.max(initial=0)) + 1
    keys = np.unique(place[index.rows[known]] * span + index.values[known])
    return Ragged.from_lengths(keys % span, np.bincount(keys // span, minlength=count))
