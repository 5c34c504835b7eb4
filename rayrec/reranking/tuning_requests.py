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

from rayrec.config import Form
from rayrec.contracts.ragged import Ragged
from rayrec.instructions.facet_scheme import WORD
from rayrec.instructions.teachers.rules import Requests, RulesTeacher
from rayrec.reranking.prompt import Layout
from rayrec.reranking.tuning_data import Examples, Int, answered_in_words, nothing_said
from rayrec.reranking.tuning_words import Asking, strewn

_BARE = 0.5  # share of requests without a template
_RELATED = 0.5  # share of explicit preferences beside which something is asked for
_NEWEST = (8, 16, 32, 10_000)  # tokens of a history that a contrary request stands against: most need not be long
_DRAWS, _MOST = 64, 16  # items drawn for a search, of which so many that satisfy it become answers


def requested(examples: Examples, layout: Layout, asking: Asking, rng: np.random.Generator) -> Examples:
    """The examples followed by those that ask for something; each example's first words are the layout's prefix.

    Of a catalogue without facets nothing can be asked: the examples alone.
    """
    if not len(asking.teacher.facets.of_item.values):
        return examples
    parts = [examples]
    drawn = _popular(examples, rng)
    for form, tell in _FORMS.items():
        rows = _chosen(len(examples), asking.shares.get(form, 0.0), rng)
        anchor = _anchors(examples, rows, rng)
        if len(anchor.row):
            parts.append(tell(_Told(examples, layout, asking, anchor, drawn), rng))
    return together(parts)


def together(parts: Sequence[Examples]) -> Examples:
    """All rows of the first, then those of the next."""

    def chained(raggeds: Sequence[Ragged]) -> Ragged:
        lengths = np.concatenate([ragged.lengths for ragged in raggeds])
        return Ragged.from_lengths(np.concatenate([ragged.values for ragged in raggeds]), lengths)

    return Examples(
        chained([part.tokens for part in parts]),
        chained([part.query for part in parts]),
        np.concatenate([part.cut for part in parts]),
        chained([part.target for part in parts]),
        chained([part.weight for part in parts]),
        np.concatenate([part.asked for part in parts]),
        chained([part.said for part in parts]),
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

    examples: Examples
    layout: Layout
    asking: Asking
    anchor: _Anchors
    drawn: Int  # [many] items, as often as they are answers

    def intended(self, requests: Requests, rng: np.random.Generator, *, history: bool, vague: bool) -> Ragged:
        """Token ids of prompts that ask for something."""
        keys = rng.integers(0, 2**31, len(requests.text)).tolist()
        say, asking = self.asking.sentences, self.asking
        texts = [say("", t, history=history, vague=vague, key=k) for t, k in zip(requests.text, keys, strict=True)]
        bare = rng.random(len(texts)) < _BARE
        said = [t if alone else text for t, text, alone in zip(requests.text, texts, bare.tolist(), strict=True)]
        kinds = asking.teacher.facets.kind
        asides = (
            asking.asides if any(kinds[facet] != WORD for facet in row if facet >= 0) else ()
            for row in requests.include.tolist()
        )
        return asking.tokens([strewn(text, asking, rng, aside) for text, aside in zip(said, asides, strict=True)])

    def told(self, words: Ragged, requests: Requests) -> Examples:
        """The anchors' rows with other words before the same history; only queries that are answered stay."""
        examples, rows = self.examples, self.anchor.row
        prefix, plain = self.layout.prefixes(words), len(self.layout.prefix)
        body = examples.tokens.take(rows)
        body = body.tails(body.lengths - plain)
        number = examples.query.like(np.arange(len(examples.cut))).take(rows)
        queries = number.values
        target, weight = examples.target.take(queries), examples.weight.take(queries)
        good = _satisfied(self.asking.teacher, target.values, number.rows[target.rows], requests)
        target, weight = target.filter(good), weight.filter(good)
        answered = target.lengths > 0
        place = examples.query.take(rows)
        place = place.like(place.values - plain + prefix.lengths[place.rows]).filter(answered)
        kept = np.flatnonzero(answered)
        return Examples(
            prefix.joined(body),
            place,
            examples.cut[queries][answered],
            target.take(kept),
            weight.take(kept),
            _asked(requests)[number.rows[answered]],
            nothing_said(len(rows)),
        )

    def once(self, words: Ragged, requests: Requests, answers: tuple[Ragged, Ragged], newest: Int) -> Examples:
        """The `newest` tokens [rows] before the anchors' queries, with other words before them, asked there alone."""
        tokens = self.layout.prefixes(words).joined(self.before(newest))
        query = Ragged.from_lengths(tokens.lengths - 1, np.ones(len(tokens), np.int64))
        said = nothing_said(len(tokens))
        return Examples(tokens, query, self.examples.cut[self.anchor.query], *answers, _asked(requests), said)

    def before(self, newest: Int) -> Ragged:
        """The `newest` tokens [rows] of the histories up to the anchors' queries."""
        plain, place = len(self.layout.prefix), self.examples.query.values[self.anchor.query]
        body = self.examples.tokens.take(self.anchor.row)
        at = np.arange(len(body.values)) - body.offsets[:-1][body.rows]
        body = body.filter((at >= plain) & (at <= place[body.rows]))
        return body.tails(np.minimum(body.lengths, newest))

    def alone(self, words: Ragged, asked: Int, target: Ragged, weight: Ragged) -> Examples:
        """Prompts of words without a history, asked once."""
        prefix = self.layout.prefixes(words)
        one = np.ones(len(prefix), np.int64)
        tokens = prefix.joined(Ragged.from_lengths(one * self.layout.longest_gap, one))
        query = Ragged.from_lengths(tokens.lengths - 1, one)
        said = nothing_said(len(tokens))
        return Examples(tokens, query, self.examples.cut[self.anchor.query], target, weight, asked, said)


def _specific(told: _Told, rng: np.random.Generator) -> Examples:
    requests = told.asking.teacher.specific(told.anchor.item, rng)
    return told.told(told.intended(requests, rng, history=True, vague=False), requests)


def _vague(told: _Told, rng: np.random.Generator) -> Examples:
    requests = told.asking.teacher.vague(told.anchor.item, rng)
    return told.told(told.intended(requests, rng, history=True, vague=True), requests)


def _search(told: _Told, rng: np.random.Generator) -> Examples:
    requests = told.asking.teacher.specific(told.anchor.item, rng)
    answers = _answers(told, told.anchor.item, requests, rng)
    return told.alone(told.intended(requests, rng, history=False, vague=False), _asked(requests), *answers)


def _contrary(told: _Told, rng: np.random.Generator) -> Examples:
    facets, items = told.asking.teacher.facets, told.asking.items
    others = (facets if items is None else facets.take(np.arange(items))).evenly(len(told.anchor.row), rng)
    requests = told.asking.teacher.specific(others, rng)
    answers = _answers(told, others, requests, rng)
    words = told.intended(requests, rng, history=True, vague=False)
    return told.once(words, requests, answers, rng.choice(_NEWEST, len(words)))


def _answers(told: _Told, item: Int, requests: Requests, rng: np.random.Generator) -> tuple[Ragged, Ragged]:
    """Each request's own item and some others that satisfy it, and their weights: 1 each, for what is asked once must
    be heard beside histories that ask at every step."""
    rows = np.repeat(np.arange(len(item)), _DRAWS)
    others = rng.choice(told.drawn, len(rows))
    good = _satisfied(told.asking.teacher, others, rows, requests)
    found = Ragged.from_lengths(others, np.full(len(item), _DRAWS)).filter(good)
    few = found.tails(np.minimum(found.lengths, _MOST - 1))
    target = Ragged.from_lengths(item, np.ones(len(item), np.int64)).joined(few)
    return target, target.like(np.ones(len(target.values), np.float32))


def _explicit(told: _Told, rng: np.random.Generator) -> Examples:
    examples, anchor = told.examples, told.anchor
    tokens = examples.tokens.take(anchor.row)
    place = examples.query.values[anchor.query]
    before = np.arange(len(tokens.values)) - tokens.offsets[:-1][tokens.rows] < place[tokens.rows]
    first = told.layout.vocabulary.first_item
    history = tokens.filter(before & (tokens.values >= first))
    said = told.asking.teacher.preferences(history.like(history.values - first), rng)
    requests = told.asking.teacher.specific(anchor.item, rng).only(rng.random(len(said)) < _RELATED)
    keys = rng.integers(0, 2**31, len(said)).tolist()
    rows = zip(said, requests.text, keys, strict=True)
    texts = [told.asking.sentences(liked, wanted, history=False, key=key) for liked, wanted, key in rows]
    target, weight = examples.target.take(anchor.query), examples.weight.take(anchor.query)
    good = _satisfied(told.asking.teacher, target.values, target.rows, requests)
    words = told.asking.tokens([strewn(text, told.asking, rng) for text in texts])
    return told.alone(words, _asked(requests), target.filter(good), weight.filter(good))


def _turned(told: _Told, rng: np.random.Generator) -> Examples:
    layout, item = told.layout, told.anchor.item
    said = told.asking.tokens(told.asking.teacher.specific(item, rng).text)
    one = np.ones(len(item), np.int64)
    room = layout.tokens - len(layout.prefix) - said.lengths
    history = told.before(np.minimum(rng.choice(_NEWEST, len(item)), np.maximum(room, 0)))
    taken = Ragged.from_lengths(layout.vocabulary.first_item + item, one)
    # What is said last is only ever an answer: as in any causal language model, each word is read to say the next.
    read = said.filter(np.arange(len(said.values)) < said.offsets[1:][said.rows] - 1)
    plain = layout.prefixes(Ragged.from_lengths(np.tile(layout.words, len(item)), len(layout.words) * one))
    rows = np.flatnonzero((said.lengths > 0) & (room > 0))
    return answered_in_words(plain.joined(history).joined(taken).joined(read).take(rows), said.take(rows))


_FORMS: Mapping[Form, Callable[[_Told, np.random.Generator], Examples]] = {
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


def _anchors(examples: Examples, rows: Int, rng: np.random.Generator) -> _Anchors:
    """One answer of each row, drawn by weight; rows without answers are left out."""
    number = examples.query.like(np.arange(len(examples.cut))).take(rows)
    place = examples.target.like(np.arange(len(examples.target.values))).take(number.values)
    row = number.rows[place.rows]
    weight = examples.weight.values[place.values]
    key = np.log(np.maximum(weight, 1e-30)) + rng.gumbel(size=len(weight))
    order = np.lexsort((key, row))
    last = np.append(row[order][1:] != row[order][:-1], True)[: len(order)]
    best = order[last]
    return _Anchors(rows[row[best]], number.values[place.rows[best]], examples.target.values[place.values[best]])


def _popular(examples: Examples, rng: np.random.Generator) -> Int:
    weight = examples.weight.values.astype(np.float64)
    if not len(weight):
        return np.empty(0, np.int64)
    drawn: Int = rng.choice(examples.target.values, max(4096, len(weight)), p=weight / weight.sum())
    return drawn


def _asked(requests: Requests) -> Int:
    """`Examples.asked` of prompts with these requests."""
    return np.concatenate([requests.include, requests.exclude], axis=1)


def _satisfied(teacher: RulesTeacher, item: Int, row: Int, requests: Requests) -> npt.NDArray[np.bool_]:
    good: npt.NDArray[np.bool_] = teacher.facets.satisfied(item, requests.include[row], requests.exclude[row])
    return good
