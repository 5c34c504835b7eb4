"""Request examples: the examples of an epoch, repeated with instructions, from which tuning learns to follow requests.

The targets of every task are what the user then consumed, as far as it satisfies the request:

    specific   history + a request that one of the later items satisfies
    vague      the same, hedged and broad
    search     the request alone; other satisfying items, sampled by popularity, are targets too
    contrary   some newest events + a request for a random catalogue item, balanced by facets; targets as for search
    explicit   a user profile text instead of the history; half of them with a request for what the user then consumed

The tasks follow InstructRec (arXiv 2305.07001). Its reversed task (generate the request from the item) did not help
(benchmarks/notes/requests.md). `request_augmentation` varies the wording.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rayrec.config import RequestTask
from rayrec.instructions.facet_scheme import WORD
from rayrec.instructions.teachers.instruction_simulator import InstructionSimulator, SimulatedRequests
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.item_token.prompt_layout import PromptLayout
from rayrec.reranking.training.request_augmentation import RequestAugmentation, add_distractors
from rayrec.reranking.training.tuning_examples import Int, TuningExamples

_WITHOUT_TEMPLATE = 0.5  # share of requests
_WITH_REQUEST = 0.5  # share of profile texts with a request
_NEWEST = (8, 16, 32, 10_000)  # tokens of history in a contrary prompt
_DRAWS, _MAX_ANSWERS = 64, 16  # items sampled for a search, and most targets


def add_request_examples(
    examples: TuningExamples, layout: PromptLayout, augmentation: RequestAugmentation, rng: np.random.Generator
) -> TuningExamples:
    """The examples followed by request examples. Each example must begin with the layout's prefix.

    Without facets in the catalogue there are no requests: the examples alone.
    """
    if not len(augmentation.simulator.facets.of_item.values):
        return examples
    parts = [examples]
    popular = _popular(examples, rng)
    for name, make in _TASKS.items():
        rows = _sample_rows(len(examples), augmentation.task_mix.get(name, 0.0), rng)
        anchors = _anchors(examples, rows, rng)
        if len(anchors.row):
            parts.append(make(_TaskInputs(examples, layout, augmentation, anchors, popular), rng))
    return concat_examples(parts)


def concat_examples(parts: Sequence[TuningExamples]) -> TuningExamples:
    """The concatenation of the parts, in order."""

    def chained(raggeds: Sequence[Ragged]) -> Ragged:
        lengths = np.concatenate([ragged.lengths for ragged in raggeds])
        return Ragged.from_lengths(np.concatenate([ragged.values for ragged in raggeds]), lengths)

    return TuningExamples(
        chained([part.tokens for part in parts]),
        chained([part.query for part in parts]),
        np.concatenate([part.cutoff for part in parts]),
        chained([part.target for part in parts]),
        chained([part.weight for part in parts]),
        np.concatenate([part.request_facets for part in parts]),
    )


@dataclass(frozen=True)
class _Anchors:
    """Rows of the examples, each with one later item from which its request is made."""

    row: Int
    query: Int  # number of the query that the item is a target of
    item: Int


@dataclass(frozen=True)
class _TaskInputs:
    """The inputs of one task's request examples."""

    examples: TuningExamples
    layout: PromptLayout
    augmentation: RequestAugmentation
    anchors: _Anchors
    popular: Int  # [many] items, sampled as often as they are targets

    @property
    def simulator(self) -> InstructionSimulator:
        return self.augmentation.simulator

    def request_words(
        self, requests: SimulatedRequests, rng: np.random.Generator, *, history: bool, vague: bool = False
    ) -> Ragged:
        """Token ids of the instruction, one row a request."""
        augmentation = self.augmentation
        keys = rng.integers(0, 2**31, len(requests.text)).tolist()
        texts = [
            augmentation.renderer("", text, history=history, vague=vague, key=key)
            for text, key in zip(requests.text, keys, strict=True)
        ]
        bare = (rng.random(len(texts)) < _WITHOUT_TEMPLATE).tolist()
        texts = [own if alone else text for own, text, alone in zip(requests.text, texts, bare, strict=True)]
        kinds = self.simulator.facets.kind
        titles = (
            augmentation.title_distractors if any(kinds[facet] != WORD for facet in row if facet >= 0) else ()
            for row in requests.include.tolist()
        )
        return augmentation.tokens(
            [add_distractors(text, augmentation, rng, words) for text, words in zip(texts, titles, strict=True)]
        )

    def with_history(self, words: Ragged, requests: SimulatedRequests) -> TuningExamples:
        """The anchors' rows with these words before the same history; queries without a target are dropped."""
        examples, rows = self.examples, self.anchors.row
        prefix, plain = self.layout.prefixes(words), len(self.layout.prefix)
        body = examples.tokens.take(rows)
        body = body.tails(body.lengths - plain)
        number = examples.query.like(np.arange(len(examples.cutoff))).take(rows)
        queries = number.values
        target, weight = examples.target.take(queries), examples.weight.take(queries)
        good = self.simulator.facets.satisfied(
            target.values, requests.include[number.rows[target.rows]], requests.exclude[number.rows[target.rows]]
        )
        target, weight = target.filter(good), weight.filter(good)
        answered = target.lengths > 0
        place = examples.query.take(rows)
        place = place.like(place.values - plain + prefix.lengths[place.rows]).filter(answered)
        with_answer = np.flatnonzero(answered)
        return TuningExamples(
            prefix.joined(body),
            place,
            examples.cutoff[queries][answered],
            target.take(with_answer),
            weight.take(with_answer),
            _request_facets(requests)[number.rows[answered]],
        )

    def at_one_query(
        self, words: Ragged, requests: SimulatedRequests, answers: tuple[Ragged, Ragged], newest: Int
    ) -> TuningExamples:
        """These words, the `newest` tokens [rows] before the anchors' queries, and that query alone."""
        tokens = self.layout.prefixes(words).joined(self._before_query(newest))
        query = Ragged.from_lengths(tokens.lengths - 1, np.ones(len(tokens), np.int64))
        return TuningExamples(
            tokens, query, self.examples.cutoff[self.anchors.query], *answers, _request_facets(requests)
        )

    def without_history(self, words: Ragged, request_facets: Int, target: Ragged, weight: Ragged) -> TuningExamples:
        """Prompts of words alone, with one query."""
        prefix = self.layout.prefixes(words)
        one = np.ones(len(prefix), np.int64)
        tokens = prefix.joined(Ragged.from_lengths(one * self.layout.longest_gap, one))
        query = Ragged.from_lengths(tokens.lengths - 1, one)
        return TuningExamples(tokens, query, self.examples.cutoff[self.anchors.query], target, weight, request_facets)

    def _before_query(self, newest: Int) -> Ragged:
        """The `newest` tokens [rows] of the histories up to the anchors' queries."""
        plain, place = len(self.layout.prefix), self.examples.query.values[self.anchors.query]
        body = self.examples.tokens.take(self.anchors.row)
        at = np.arange(len(body.values)) - body.offsets[:-1][body.rows]
        body = body.filter((at >= plain) & (at <= place[body.rows]))
        return body.tails(np.minimum(body.lengths, newest))


def _specific(task: _TaskInputs, rng: np.random.Generator) -> TuningExamples:
    requests = task.simulator.specific(task.anchors.item, rng)
    return task.with_history(task.request_words(requests, rng, history=True), requests)


def _vague(task: _TaskInputs, rng: np.random.Generator) -> TuningExamples:
    requests = task.simulator.vague(task.anchors.item, rng)
    return task.with_history(task.request_words(requests, rng, history=True, vague=True), requests)


def _search(task: _TaskInputs, rng: np.random.Generator) -> TuningExamples:
    requests = task.simulator.specific(task.anchors.item, rng)
    answers = _answers(task, task.anchors.item, requests, rng)
    words = task.request_words(requests, rng, history=False)
    return task.without_history(words, _request_facets(requests), *answers)


def _contrary(task: _TaskInputs, rng: np.random.Generator) -> TuningExamples:
    facets, items = task.simulator.facets, task.augmentation.items
    others = (facets if items is None else facets.take(np.arange(items))).sample_balanced(len(task.anchors.row), rng)
    requests = task.simulator.specific(others, rng)
    answers = _answers(task, others, requests, rng)
    words = task.request_words(requests, rng, history=True)
    return task.at_one_query(words, requests, answers, rng.choice(_NEWEST, len(words)))


def _explicit(task: _TaskInputs, rng: np.random.Generator) -> TuningExamples:
    examples, anchors = task.examples, task.anchors
    tokens = examples.tokens.take(anchors.row)
    place = examples.query.values[anchors.query]
    before = np.arange(len(tokens.values)) - tokens.offsets[:-1][tokens.rows] < place[tokens.rows]
    first = task.layout.vocabulary.first_item
    history = tokens.filter(before & (tokens.values >= first))
    profiles = task.simulator.profiles(history.like(history.values - first), rng)
    requests = task.simulator.specific(anchors.item, rng).only(rng.random(len(profiles)) < _WITH_REQUEST)
    keys = rng.integers(0, 2**31, len(profiles)).tolist()
    rows = zip(profiles, requests.text, keys, strict=True)
    texts = [task.augmentation.renderer(profile, request, history=False, key=key) for profile, request, key in rows]
    target, weight = examples.target.take(anchors.query), examples.weight.take(anchors.query)
    good = task.simulator.facets.satisfied(target.values, requests.include[target.rows], requests.exclude[target.rows])
    words = task.augmentation.tokens([add_distractors(text, task.augmentation, rng) for text in texts])
    return task.without_history(words, _request_facets(requests), target.filter(good), weight.filter(good))


_TASKS: Mapping[RequestTask, Callable[[_TaskInputs, np.random.Generator], TuningExamples]] = {
    "specific": _specific,
    "vague": _vague,
    "search": _search,
    "contrary": _contrary,
    "explicit": _explicit,
}


def _answers(
    task: _TaskInputs, item: Int, requests: SimulatedRequests, rng: np.random.Generator
) -> tuple[Ragged, Ragged]:
    """Targets: each request's own item and some sampled ones that satisfy it. Weights: 1 each, so that a prompt with
    one query balances histories with many."""
    rows = np.repeat(np.arange(len(item)), _DRAWS)
    others = rng.choice(task.popular, len(rows))
    good = task.simulator.facets.satisfied(others, requests.include[rows], requests.exclude[rows])
    found = Ragged.from_lengths(others, np.full(len(item), _DRAWS)).filter(good)
    few = found.tails(np.minimum(found.lengths, _MAX_ANSWERS - 1))
    target = Ragged.from_lengths(item, np.ones(len(item), np.int64)).joined(few)
    return target, target.like(np.ones(len(target.values), np.float32))


def _sample_rows(rows: int, share: float, rng: np.random.Generator) -> Int:
    """round(share x rows) rows, sampled; every row once before any row twice."""
    many = round(share * rows)
    rounds = [rng.permutation(rows) for _ in range(-(-many // max(rows, 1)))]
    sample: Int = np.concatenate([np.empty(0, np.int64), *rounds])[:many].astype(np.int64)
    return sample


def _anchors(examples: TuningExamples, rows: Int, rng: np.random.Generator) -> _Anchors:
    """One target of each row, sampled by weight; rows without targets are left out."""
    number = examples.query.like(np.arange(len(examples.cutoff))).take(rows)
    place = examples.target.like(np.arange(len(examples.target.values))).take(number.values)
    row = number.rows[place.rows]
    weight = examples.weight.values[place.values]
    key = np.log(np.maximum(weight, 1e-30)) + rng.gumbel(size=len(weight))
    order = np.lexsort((key, row))
    last = np.append(row[order][1:] != row[order][:-1], True)[: len(order)]
    best = order[last]
    return _Anchors(rows[row[best]], number.values[place.rows[best]], examples.target.values[place.values[best]])


def _popular(examples: TuningExamples, rng: np.random.Generator) -> Int:
    weight = examples.weight.values.astype(np.float64)
    if not len(weight):
        return np.empty(0, np.int64)
    sample: Int = rng.choice(examples.target.values, max(4096, len(weight)), p=weight / weight.sum())
    return sample


def _request_facets(requests: SimulatedRequests) -> Int:
    """`TuningExamples.request_facets` of prompts with these requests."""
    return np.concatenate([requests.include, requests.exclude], axis=1)
