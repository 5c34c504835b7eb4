"""Reranking by item tokens: one engine for the whole job, then one shard's candidates after another.

Reads candidate_schema, with or without a column `ask` (string: what the user asks for; "" or null: nothing, the
instruction that everybody has stands there) and `request` (string: what of it is a request, in the user's own words;
null: nothing). A request is read by itself, too (guidance.py), and the facets that it names are weighed (agreement.py).
Writes reranked_schema: the same rows in the same order, plus `llm_score` and `error`.

    neither a known event nor an ask            scores NaN: there is nothing to read
    candidate that came after the tuning        NaN in its place
    prompt that fails                           score null, the reason in `error`; nobody else is touched
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.instructions.facet_matching import FacetMatches
from rayrec.instructions.facets import Facets
from rayrec.numerics.ragged import Ragged, list_offsets
from rayrec.reranking.engines.engine import Engine, Failure, Float32
from rayrec.reranking.item_token import guidance
from rayrec.reranking.item_token.facet_boost import FacetMatchScore
from rayrec.reranking.item_token.guidance import WeightedPrompts
from rayrec.reranking.item_token.item_prompt import Int
from rayrec.reranking.item_token.tuned_checkpoint import LocalCheckpoint

_BLOCK = 4096  # rows scored at a time: many times what an engine reads at once


@dataclass(frozen=True)
class ItemTokenSpec:
    """What a reranker needs besides its engine. `now`: the time of scoring, microseconds UTC (the day's cut)."""

    instruction: str  # clean words
    now: int


class ItemTokenRanker:
    """Plain: built with a started engine; `rayrec.pipeline` wraps it into an actor."""

    def __init__(self, engine: Engine, model: LocalCheckpoint, catalogue: pa.Table, spec: ItemTokenSpec) -> None:
        """`catalogue`: ITEM, the run's; its row numbers are the item codes of the tables to come. Requests may name the
        facets that the model was tuned with; an item has those that its own texts say."""
        self._engine = engine
        self._spec = spec
        self._layout = model.layout(spec.instruction, engine.longest)
        self._read = model.word_tokenizer(engine.longest)
        known = model.token_index(catalogue["item_id"].combine_chunks())
        self._index: Int = known.fill_null(-1).to_numpy().astype(np.int64)
        self._code = np.zeros(self._index.max(initial=-1) + 1, np.int64)  # of each artefact index
        self._code[self._index[self._index >= 0]] = np.flatnonzero(self._index >= 0)
        named = model.card.facets
        self._agreement = None if named is None else FacetMatchScore(Facets.of(catalogue, named))

    def __call__(self, table: pa.Table) -> pa.Table:
        """candidate_schema -> reranked_schema, row for row.

        A block of rows at a time: prompts, hidden states and probabilities are larger than the table by far.
        """
        answers: list[Float32 | Failure] = [np.empty(0, np.float32)] * len(table)
        for rows in self._blocks(table):
            for row, answer in zip(rows.tolist(), self._scores(table.take(pa.array(rows))), strict=True):
                answers[row] = answer
        scores, errors = score_columns(answers)
        return table.append_column("llm_score", scores).append_column("error", errors)

    def _blocks(self, table: pa.Table) -> Iterator[Int]:
        """Row numbers, ascending in each block. Rows whose histories begin alike are in one block, or in two that
        follow each other: what they share is read once there."""
        if len(table) <= _BLOCK:
            yield np.arange(len(table))
            return
        history = self._layout.prompts(*self._events(table), self._spec.now)
        tokens = history.values.astype(">u4").tobytes()  # bytes that sort as the tokens do
        starts = (4 * history.offsets).tolist()
        asks = table["ask"].to_pylist() if "ask" in table.column_names else [None] * len(table)
        keys = [(tokens[start:end], ask or "") for (start, end), ask in zip(pairwise(starts), asks, strict=True)]
        order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
        for start in range(0, len(order), _BLOCK):
            yield np.sort(order[start : start + _BLOCK])

    def _scores(self, table: pa.Table) -> list[Float32 | Failure]:
        """One answer a row, [candidates] each.

        Where rows share what is read (variants that do not touch the history), it is read once for all of them, and
        scored for every candidate that any of them has.
        """
        candidates = Ragged.from_arrow(table["candidate"])
        index = candidates.like(self._index[candidates.values])  # [rows]: artefact indices, -1: unknown
        read = list(zip(self._parts(table), self._named(table), strict=True))
        distinct, place = _distinct(read)  # what is read, each once; [rows]: which of it
        offers = _unions(index, place, len(distinct))  # [distinct]: artefact indices, ascending
        first = self._layout.vocabulary.first_item
        ask = [at for at, (parts, _) in enumerate(distinct) if parts]  # of `distinct`: where there is something to read
        states = guidance.states(self._engine, [distinct[at][0] for at in ask])
        scored = self._engine.score_states(states, [(offers[at] + first).tolist() for at in ask])
        answers: list[Float32 | Failure] = [np.empty(0, np.float32)] * len(distinct)
        for at, answer in zip(ask, scored, strict=True):
            answers[at] = self._agreeing(answer, distinct[at][1], offers[at])
        return [
            self._pick(answers[at], offers[at], index[row], bool(distinct[at][0]))
            for row, at in enumerate(place.tolist())
        ]

    def _events(self, table: pa.Table) -> tuple[Ragged, Ragged]:
        """The events whose items the model knows: artefact indices and times."""
        items = Ragged.from_arrow(table["item"])
        times = Ragged.from_arrow(table["ts"])
        codes = self._index[items.values]
        known = codes >= 0
        kept = items.filter(known)
        return kept.like(codes[known]), kept.like(times.values[known])

    def _parts(self, table: pa.Table) -> list[WeightedPrompts]:
        words, guided = None, np.zeros(len(table), np.bool_)
        if "ask" in table.column_names:
            words = self._read([text or "" for text in table["ask"].to_pylist()])
        if "request" in table.column_names:
            guided = table["request"].is_valid().to_numpy()
        return guidance.parts(self._layout, *self._events(table), self._spec.now, words, guided)

    def _named(self, table: pa.Table) -> list[FacetMatches]:
        if self._agreement is None or "request" not in table.column_names:
            return [FacetMatches()] * len(table)
        return self._agreement.matches(table["request"].to_pylist())

    def _agreeing(
        self, answer: Float32 | Failure, named: FacetMatches, offer: npt.NDArray[np.int64]
    ) -> Float32 | Failure:
        if isinstance(answer, Failure) or self._agreement is None or not named:
            return answer
        return answer + self._agreement.score_bonus(named, self._code[offer])

    def _pick(
        self, answer: Float32 | Failure, offer: npt.NDArray[np.int64], index: npt.NDArray[np.int64], read: bool
    ) -> Float32 | Failure:
        if isinstance(answer, Failure):
            return answer
        out = np.full(len(index), np.nan, np.float32)
        if read:
            known = index >= 0
            out[known] = answer[np.searchsorted(offer, index[known])]
        return out


def score_columns(answers: Sequence[Float32 | Failure]) -> tuple[pa.ListArray, pa.StringArray]:
    """One answer a row as `llm_score` (ragged float32, null where it failed) and `error` (null where it did not)."""
    missing = np.array([isinstance(answer, Failure) for answer in answers], np.bool_)
    filled = [np.empty(0, np.float32) if isinstance(answer, Failure) else answer for answer in answers]
    values = np.concatenate([np.empty(0, np.float32), *filled])
    offsets = list_offsets(Ragged.from_lengths(values, [len(scores) for scores in filled]).offsets)
    scores = pa.ListArray.from_arrays(offsets, pa.array(values, pa.float32()), mask=pa.array(missing))
    errors = [answer.reason if isinstance(answer, Failure) else None for answer in answers]
    return scores, pa.array(errors, pa.string())


def _distinct(
    asked: Sequence[tuple[WeightedPrompts, FacetMatches]],
) -> tuple[list[tuple[WeightedPrompts, FacetMatches]], npt.NDArray[np.int64]]:
    """What is read, each once, and which of it each row has, [rows]."""
    number = {one: at for at, one in enumerate(dict.fromkeys(asked))}
    return list(number), np.array([number[one] for one in asked], np.int64)


def _unions(index: Ragged, place: npt.NDArray[np.int64], count: int) -> Ragged:
    """For each distinct prompt the known items that any of its rows proposes, sorted."""
    known = index.values >= 0
    span = int(index.values.max(initial=0)) + 1
    keys = np.unique(place[index.rows[known]] * span + index.values[known])
    return Ragged.from_lengths(keys % span, np.bincount(keys // span, minlength=count))
