"""How tuning learns to follow requests: an epoch's examples told again, each with something asked for.

Whatever is asked, the answers are what the user then took, as far as it satisfies the request:

    specific   history + a request that one of the later items satisfies
    vague      the same, hedged and broad
    search     the request alone; besides the user's items, others that satisfy it, drawn as often as they are taken
    contrary   some newest events + a request for some item of the catalogue, rare facets as often as broad ones; the
               answers are drawn as for a search
    explicit   a sentence about the user in place of the history; in half of them a request, too, for what they then
               took: preference and intention are of one person
    turned     the task turned round (InstructRec, arXiv 2305.07001): history + the item then taken; the answer is the
               request that it satisfies, word by word

How words are said, and shaken up: tuning_words.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rayrec.config import RequestTask
from rayrec.instructions.facet_scheme import WORD
from rayrec.instructions.teachers.instruction_simulator import InstructionSimulator, SimulatedRequests
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.item_token.prompt_layout import PromptLayout
from rayrec.reranking.training.prompt_augmentation import RequestAugmentation, add_distractors
from rayrec.reranking.training.tuning_data import Int, TuningExamples, no_text_target, text_target_examples

_BARE = 0.5  # share of requests without a template
_RELATED = 0.5  # share of explicit preferences beside which something is asked for
_NEWEST = (8, 16, 32, 10_000)  # tokens of a history that a contrary request stands against: most need not be long
_DRAWS, _MOST = 64, 16  # items drawn for a search, of which so many that satisfy it become answers


def add_request_examples(
    examples: TuningExamples, layout: PromptLayout, asking: RequestAugmentation, rng: np.random.Generator
) -> TuningExamples:
    """The examples followed by those that ask for something; each example's first words are the layout's prefix.

    Of a catalogue without facets nothing can be asked: the examples alone.
    """
    if not len(asking.teacher.facets.of_item.values):
        return examples
    parts = [examples]
    drawn = _popular(examples, rng)
    for form, tell in _FORMS.items():
        rows = _chosen(len(examples), asking.task_mix.get(form, 0.0), rng)
        anchor = _anchors(examples, rows, rng)
        if len(anchor.row):
            parts.append(tell(_Told(examples, layout, asking, anchor, drawn), rng))
    return concat_examples(parts)


def concat_examples(parts: Sequence[TuningExamples]) -> TuningExamples:
    """All rows of the first, then those of the next."""

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
        chained([part.text_target for part in parts]),
    )


@dataclass(frozen=True)
class _Anchors:
    """Rows of the examples to tell again, and one later item of each that the request is made from."""

    row: Int
    query: Int  # which of all queries the item is an answer of
    item: Int


@dataclass(frozen=True)
class _Told:
    """What a form is made from."""

    examples: TuningExamples
    layout: PromptLayout
    augmentation: RequestAugmentation
    anchor: _Anchors
    drawn: Int  # [many] items, as often as they are answers

    def intended(self, requests: SimulatedRequests, rng: np.random.Generator, *, history: bool, vague: bool) -> Ragged:
        """Token ids of prompts that ask for something."""
        keys = rng.integers(0, 2**31, len(requests.text)).tolist()
        say, asking = self.augmentation.renderer, self.augmentation
        texts = [say("", t, history=history, vague=vague, key=k) for t, k in zip(requests.text, keys, strict=True)]
        bare = rng.random(len(texts)) < _BARE
        said = [t if alone else text for t, text, alone in zip(requests.text, texts, bare.tolist(), strict=True)]
        kinds = asking.teacher.facets.kind
        asides = (
            asking.title_distractors if any(kinds[facet] != WORD for facet in row if facet >= 0) else ()
            for row in requests.include.tolist()
        )
        return asking.tokens(
            [add_distractors(text, asking, rng, aside) for text, aside in zip(said, asides, strict=True)]
        )

    def told(self, words: Ragged, requests: SimulatedRequests) -> TuningExamples:
        """The anchors' rows with other words before the same history; only queries that are answered stay."""
        examples, rows = self.examples, self.anchor.row
        prefix, plain = self.layout.prefixes(words), len(self.layout.prefix)
        body = examples.tokens.take(rows)
        body = body.tails(body.lengths - plain)
        number = examples.query.like(np.arange(len(examples.cutoff))).take(rows)
        queries = number.values
        target, weight = examples.target.take(queries), examples.weight.take(queries)
        good = _satisfied(self.augmentation.teacher, target.values, number.rows[target.rows], requests)
        target, weight = target.filter(good), weight.filter(good)
        answered = target.lengths > 0
        place = examples.query.take(rows)
        place = place.like(place.values - plain + prefix.lengths[place.rows]).filter(answered)
        kept = np.flatnonzero(answered)
        return TuningExamples(
            prefix.joined(body),
            place,
            examples.cutoff[queries][answered],
            target.take(kept),
            weight.take(kept),
            _asked(requests)[number.rows[answered]],
            no_text_target(len(rows)),
        )

    def once(
        self, words: Ragged, requests: SimulatedRequests, answers: tuple[Ragged, Ragged], newest: Int
    ) -> TuningExamples:
        """The `newest` tokens [rows] before the anchors' queries, with other words before them, asked there alone."""
        tokens = self.layout.prefixes(words).joined(self.before(newest))
        query = Ragged.from_lengths(tokens.lengths - 1, np.ones(len(tokens), np.int64))
        said = no_text_target(len(tokens))
        return TuningExamples(tokens, query, self.examples.cutoff[self.anchor.query], *answers, _asked(requests), said)

    def before(self, newest: Int) -> Ragged:
        """The `newest` tokens [rows] of the histories up to the anchors' queries."""
        plain, place = len(self.layout.prefix), self.examples.query.values[self.anchor.query]
        body = self.examples.tokens.take(self.anchor.row)
        at = np.arange(len(body.values)) - body.offsets[:-1][body.rows]
        body = body.filter((at >= plain) & (at <= place[body.rows]))
        return body.tails(np.minimum(body.lengths, newest))

    def alone(self, words: Ragged, asked: Int, target: Ragged, weight: Ragged) -> TuningExamples:
        """Prompts of words without a history, asked once."""
        prefix = self.layout.prefixes(words)
        one = np.ones(len(prefix), np.int64)
        tokens = prefix.joined(Ragged.from_lengths(one * self.layout.longest_gap, one))
        query = Ragged.from_lengths(tokens.lengths - 1, one)
        said = no_text_target(len(tokens))
        return TuningExamples(tokens, query, self.examples.cutoff[self.anchor.query], target, weight, asked, said)


def _specific(told: _Told, rng: np.random.Generator) -> TuningExamples:
    requests = told.augmentation.teacher.specific(told.anchor.item, rng)
    return told.told(told.intended(requests, rng, history=True, vague=False), requests)


def _vague(told: _Told, rng: np.random.Generator) -> TuningExamples:
    requests = told.augmentation.teacher.vague(told.anchor.item, rng)
    return told.told(told.intended(requests, rng, history=True, vague=True), requests)


def _search(told: _Told, rng: np.random.Generator) -> TuningExamples:
    requests = told.augmentation.teacher.specific(told.anchor.item, rng)
    answers = _answers(told, told.anchor.item, requests, rng)
    return told.alone(told.intended(requests, rng, history=False, vague=False), _asked(requests), *answers)


def _contrary(told: _Told, rng: np.random.Generator) -> TuningExamples:
    facets, items = told.augmentation.teacher.facets, told.augmentation.items
    others = (facets if items is None else facets.take(np.arange(items))).sample_balanced(len(told.anchor.row), rng)
    requests = told.augmentation.teacher.specific(others, rng)
    answers = _answers(told, others, requests, rng)
    words = told.intended(requests, rng, history=True, vague=False)
    return told.once(words, requests, answers, rng.choice(_NEWEST, len(words)))


def _answers(told: _Told, item: Int, requests: SimulatedRequests, rng: np.random.Generator) -> tuple[Ragged, Ragged]:
    """Each request's own item and some others that satisfy it, and their weights: 1 each, for what is asked once must
    be heard beside histories that ask at every step."""
    rows = np.repeat(np.arange(len(item)), _DRAWS)
    others = rng.choice(told.drawn, len(rows))
    good = _satisfied(told.augmentation.teacher, others, rows, requests)
    found = Ragged.from_lengths(others, np.full(len(item), _DRAWS)).filter(good)
    few = found.tails(np.minimum(found.lengths, _MOST - 1))
    target = Ragged.from_lengths(item, np.ones(len(item), np.int64)).joined(few)
    return target, target.like(np.ones(len(target.values), np.float32))


def _explicit(told: _Told, rng: np.random.Generator) -> TuningExamples:
    examples, anchor = told.examples, told.anchor
    tokens = examples.tokens.take(anchor.row)
    place = examples.query.values[anchor.query]
    before = np.arange(len(tokens.values)) - tokens.offsets[:-1][tokens.rows] < place[tokens.rows]
    first = told.layout.vocabulary.first_item
    history = tokens.filter(before & (tokens.values >= first))
    said = told.augmentation.teacher.preferences(history.like(history.values - first), rng)
    requests = told.augmentation.teacher.specific(anchor.item, rng).only(rng.random(len(said)) < _RELATED)
    keys = rng.integers(0, 2**31, len(said)).tolist()
    rows = zip(said, requests.text, keys, strict=True)
    texts = [told.augmentation.renderer(liked, wanted, history=False, key=key) for liked, wanted, key in rows]
    target, weight = examples.target.take(anchor.query), examples.weight.take(anchor.query)
    good = _satisfied(told.augmentation.teacher, target.values, target.rows, requests)
    words = told.augmentation.tokens([add_distractors(text, told.augmentation, rng) for text in texts])
    return told.alone(words, _asked(requests), target.filter(good), weight.filter(good))


def _turned(told: _Told, rng: np.random.Generator) -> TuningExamples:
    layout, item = told.layout, told.anchor.item
    said = told.augmentation.tokens(told.augmentation.teacher.specific(item, rng).text)
    one = np.ones(len(item), np.int64)
    room = layout.tokens - len(layout.prefix) - said.lengths
    history = told.before(np.minimum(rng.choice(_NEWEST, len(item)), np.maximum(room, 0)))
    taken = Ragged.from_lengths(layout.vocabulary.first_item + item, one)
    # What is said last is only ever an answer: as in any causal language model, each word is read to say the next.
    read = said.filter(np.arange(len(said.values)) < said.offsets[1:][said.rows] - 1)
    plain = layout.prefixes(Ragged.from_lengths(np.tile(layout.words, len(item)), len(layout.words) * one))
    rows = np.flatnonzero((said.lengths > 0) & (room > 0))
    return text_target_examples(plain.joined(history).joined(taken).joined(read).take(rows), said.take(rows))


_FORMS: Mapping[RequestTask, Callable[[_Told, np.random.Generator], TuningExamples]] = {
    "specific": _specific,
    "vague": _vague,
    "search": _search,
    "contrary": _contrary,
    "explicit": _explicit,
    "turned": _turned,
}


def _chosen(rows: int, share: float, rng: np.random.Generator) -> Int:
    """round(share x rows) of the rows; each once before any is there twice."""
    many = round(share * rows)
    rounds = [rng.permutation(rows) for _ in range(-(-many // max(rows, 1)))]
    chosen: Int = np.concatenate([np.empty(0, np.int64), *rounds])[:many].astype(np.int64)
    return chosen


def _anchors(examples: TuningExamples, rows: Int, rng: np.random.Generator) -> _Anchors:
    """One answer of each row, drawn by weight; rows without answers are left out."""
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
    drawn: Int = rng.choice(examples.target.values, max(4096, len(weight)), p=weight / weight.sum())
    return drawn


def _asked(requests: SimulatedRequests) -> Int:
    """`Examples.asked` of prompts with these requests."""
    return np.concatenate([requests.include, requests.exclude], axis=1)


def _satisfied(
    teacher: InstructionSimulator, item: Int, row: Int, requests: SimulatedRequests
) -> npt.NDArray[np.bool_]:
    good: npt.NDArray[np.bool_] = teacher.facets.satisfied(item, requests.include[row], requests.exclude[row])
    return good
