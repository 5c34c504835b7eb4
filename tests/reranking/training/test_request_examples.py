"""Request examples: every target satisfies its request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from small_tables import item_table
from tuning_cases import as_table, settings

from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.instructions.facet_scheme import FacetScheme
from rayrec.instructions.facets import Facets, facet_words
from rayrec.instructions.teachers.instruction_simulator import InstructionSimulator
from rayrec.instructions.templates import InstructionRenderer, load_templates
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.item_token.item_vocabulary import Vocabulary
from rayrec.reranking.item_token.prompt_layout import PromptLayout
from rayrec.reranking.training.request_augmentation import RequestAugmentation, add_distractors
from rayrec.reranking.training.request_examples import add_request_examples, concat_examples
from rayrec.reranking.training.tuning_examples import Sequences, TuningExamples, epoch_examples

ITEMS, USERS, NOW = 24, 30, 200 * MICROSECONDS_PER_DAY
VOCABULARY = Vocabulary(pad=0, user=1000, history=1001, first_gap=1002, first_item=1010, items=ITEMS)
LAYOUT = PromptLayout(VOCABULARY, (5, 6), 100, 400)
KINDS = ("red", "green", "blue", "black")


@pytest.fixture(scope="module")
def facets() -> Facets:
    names = [f"{KINDS[row % 4]}|{('old', 'new')[row % 2 ^ (row < 12)]}" for row in range(ITEMS)]
    return Facets.of(item_table(category=names))


@pytest.fixture(scope="module")
def examples() -> TuningExamples:
    rng = np.random.default_rng(0)
    item = Ragged.from_lengths(rng.integers(0, ITEMS, USERS * 10), [10] * USERS)
    ts = np.sort(rng.integers(0, 199, (USERS, 10)), axis=1).reshape(-1) * MICROSECONDS_PER_DAY
    sequences = Sequences.from_tables([as_table(item, ts)], np.arange(ITEMS), NOW)
    return epoch_examples(sequences, LAYOUT, settings(events=100, item_dropout=0.0), NOW, np.random.default_rng(1))


class LineNumbers:
    """Tokenizes each text as the number of the line on which it is stored."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts: Sequence[str]) -> Ragged:
        first = len(self.texts)
        self.texts += texts
        return Ragged.from_lengths(np.arange(first, len(self.texts)) % 900 + 20, [1] * len(texts))


def asking(facets: Facets, **shares: float) -> tuple[RequestAugmentation, LineNumbers]:
    tokenizer = LineNumbers()
    simulator, renderer = InstructionSimulator(facets), InstructionRenderer(load_templates())
    return RequestAugmentation(simulator, renderer, tokenizer, shares), tokenizer  # type: ignore[arg-type]


def added(examples: TuningExamples, out: TuningExamples) -> list[tuple[list[int], list[set[int]]]]:
    """For each row after the plain ones: its tokens, and the answers of each of its queries."""
    query = int(examples.query.lengths.sum())
    found = []
    for row in range(len(examples), len(out)):
        answers = [set(out.target[query + k].tolist()) for k in range(int(out.query.lengths[row]))]
        query += len(answers)
        found.append((out.tokens[row].tolist(), answers))
    return found


def said(facets: Facets, text: str) -> tuple[list[int], list[int]]:
    """The facets that a request includes and excludes, parsed from its words."""
    turning = {"no", "not", "without", "but", "never", "except", "avoid", "skip", "exclude", "hate", "dislike"}
    include, exclude, plain = [], [], text.replace(",", " ").replace('"', " ").split()
    for number, name in enumerate(facets.name):
        for place, word in enumerate(plain):
            if word.strip(".;") == name:
                without = turning.intersection(plain[max(0, place - 2) : place])
                (exclude if without else include).append(number)
    return include, exclude


@pytest.mark.parametrize("form", ["specific", "vague", "search", "contrary"])
def test_every_target_satisfies_its_request(facets: Facets, examples: TuningExamples, form: str) -> None:
    given, tokenizer = asking(facets, **{form: 1.0})
    out = add_request_examples(examples, LAYOUT, given, np.random.default_rng(2))
    rows = added(examples, out)
    assert len(rows) == len(examples)
    for (tokens, answers), text in zip(rows, tokenizer.texts, strict=True):
        include, exclude = said(facets, text)
        good = set(np.flatnonzero(facets.items_of(include, exclude)).tolist())
        assert include
        assert answers
        assert all(part and part <= good for part in answers)
        assert tokens[0] == VOCABULARY.user
        assert tokens[2] == VOCABULARY.history


def test_plain_examples_come_first_unchanged(facets: Facets, examples: TuningExamples) -> None:
    given, _ = asking(facets, specific=0.5, search=1.5)
    out = add_request_examples(examples, LAYOUT, given, np.random.default_rng(2))
    assert len(out) == len(examples) + round(0.5 * len(examples)) + round(1.5 * len(examples))
    np.testing.assert_array_equal(out.tokens.values[: len(examples.tokens.values)], examples.tokens.values)
    np.testing.assert_array_equal(out.cutoff[: len(examples.cutoff)], examples.cutoff)
    assert out.weight.lengths.tolist() == out.target.lengths.tolist()
    assert len(out.cutoff) == out.query.lengths.sum() == len(out.target)


def test_queries_are_at_gaps_of_the_same_history(facets: Facets, examples: TuningExamples) -> None:
    given, _ = asking(facets, specific=1.0, contrary=1.0)
    out = add_request_examples(examples, LAYOUT, given, np.random.default_rng(3))
    plain = {tuple(examples.tokens[row][len(LAYOUT.prefix) :].tolist()) for row in range(len(examples))}
    for row in range(len(examples), len(out)):
        tokens, places = out.tokens[row], out.query[row]
        assert ((tokens[places] >= VOCABULARY.first_gap) & (tokens[places] < VOCABULARY.first_item)).all()
        body = tuple(tokens[3:].tolist())
        assert any(body == whole[start : start + len(body)] for whole in plain for start in range(len(whole)))


def test_search_has_no_history_and_explicit_profile_replaces_it(facets: Facets, examples: TuningExamples) -> None:
    given, tokenizer = asking(facets, search=0.5, explicit=0.5)
    out = add_request_examples(examples, LAYOUT, given, np.random.default_rng(4))
    rows = added(examples, out)
    assert {tuple(tokens[2:]) for tokens, _ in rows} == {(VOCABULARY.history, LAYOUT.longest_gap)}
    assert all(len(answers) == 1 for _, answers in rows)
    assert len(tokenizer.texts) == len(rows)


def test_some_profiles_come_with_a_request_for_what_was_consumed(facets: Facets, examples: TuningExamples) -> None:
    given, tokenizer = asking(facets, explicit=3.0)
    out = add_request_examples(examples, LAYOUT, given, np.random.default_rng(4))
    rows, asked = added(examples, out), out.request_facets[len(examples.cutoff) :]
    related = asked[:, 0] >= 0
    assert 0.3 < related.mean() < 0.7
    for (_, (answers,)), facet, text in zip(rows, asked[:, 0].tolist(), tokenizer.texts, strict=True):
        assert answers
        if facet >= 0:
            assert facets.name[facet] in text
            assert answers <= set(np.flatnonzero(facets.items_of([facet])).tolist())


def test_queries_have_the_facets_of_their_requests(facets: Facets, examples: TuningExamples) -> None:
    given, tokenizer = asking(facets, contrary=1.0)
    out = add_request_examples(examples, LAYOUT, given, np.random.default_rng(6))
    plain = len(examples.cutoff)
    assert (out.request_facets[:plain] == -1).all()
    for asked, text in zip(out.request_facets[plain:].tolist(), tokenizer.texts, strict=True):
        include, exclude = said(facets, text)
        assert {facet for facet in asked[:2] if facet >= 0} == set(include)
        assert {facet for facet in asked[2:] if facet >= 0} == set(exclude)


def test_catalogue_without_facets_has_no_requests(examples: TuningExamples) -> None:
    bare = Facets(FacetScheme((), (), {}), Ragged.from_lengths(np.empty(0, np.int64), [0] * ITEMS))
    given, tokenizer = asking(bare, specific=1.0, contrary=1.0, search=1.0)
    assert add_request_examples(examples, LAYOUT, given, np.random.default_rng(7)) is examples
    assert not tokenizer.texts


def test_request_examples_are_deterministic_in_the_seed(facets: Facets, examples: TuningExamples) -> None:
    shares = {"specific": 0.5, "vague": 0.5, "search": 0.5, "contrary": 0.5, "explicit": 0.5}
    one, two = (asking(facets, **shares) for _ in "ab")
    first, second = (add_request_examples(examples, LAYOUT, given, np.random.default_rng(5)) for given, _ in (one, two))
    assert one[1].texts == two[1].texts
    np.testing.assert_array_equal(first.tokens.values, second.tokens.values)
    np.testing.assert_array_equal(first.target.values, second.target.values)


def test_protected_words_keep_their_order_and_others_may_be_dropped(facets: Facets) -> None:
    text = 'The user asks for "1970s, not red" Find it.'
    given, _ = asking(facets)
    assert add_distractors(text, given, np.random.default_rng(0)) == text  # there are no distractors
    given = replace(given, distractors=("please", "me", "lantern"), protected_words=facet_words(facets) | {"1970s"})
    rng = np.random.default_rng(1)
    found = [add_distractors(text, given, rng) for _ in range(400)]
    for one in found:
        assert [word for word in one.split(" ") if word in ('"1970s,', "not", 'red"')] == ['"1970s,', "not", 'red"']
    kept = np.mean(
        [[word in one.split(" ") for word in ("The", "user", "asks", "for", "Find", "it.")] for one in found]
    )
    assert 0.6 < kept < 0.75  # two texts in three lose half of them on average
    of_fillers = [sum(word in ("please", "me", "lantern") for word in one.split(" ")) for one in found]
    assert min(of_fillers) == 0
    assert max(of_fillers) > 12


def test_title_distractors_occur_only_in_requests_for_other_facets(facets: Facets, examples: TuningExamples) -> None:
    words = replace(facets, scheme=replace(facets.scheme, kind=("word",) * len(facets)))
    for asked, expected in ((facets, True), (words, False)):
        given, tokenizer = asking(asked, specific=1.0)
        given = replace(given, distractors=("please",), title_distractors=("lantern",))
        add_request_examples(examples, LAYOUT, given, np.random.default_rng(3))
        assert any("lantern" in text for text in tokenizer.texts) == expected


def test_concatenated_examples_are_unchanged(examples: TuningExamples) -> None:
    both = concat_examples([examples, examples])
    assert len(both) == 2 * len(examples)
    for part in ("tokens", "query", "target", "weight"):
        whole, once = getattr(both, part), getattr(examples, part)
        np.testing.assert_array_equal(whole.values, np.tile(once.values, 2))
        np.testing.assert_array_equal(whole.lengths, np.tile(once.lengths, 2))
    np.testing.assert_array_equal(both.request_facets, np.tile(examples.request_facets, (2, 1)))
