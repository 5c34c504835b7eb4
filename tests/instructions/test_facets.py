"""Facets of a small catalogue with known categories, years, prices and titles."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tables import item_table

from rayrec.data.schemas import ITEM
from rayrec.instructions.facet_scheme import BELOW, CATEGORY, DECADE, VALUE, WORD
from rayrec.instructions.facets import Facets, distractor_words
from rayrec.instructions.teachers.instruction_simulator import InstructionSimulator, phrases
from rayrec.numerics.ragged import Ragged

FILMS = 40


@pytest.fixture(scope="module")
def films() -> pa.Table:
    rows = range(FILMS)
    return item_table(
        title=[f"The {('Red', 'Blue')[row % 2]} House {row}" for row in rows],
        category=[("Drama|War", "Comedy", "Drama > Crime", "comedy / War")[row % 4] for row in rows],
        attributes=[
            [("year", str(1990 + row)), ("price", f"{row / 4}"), ("mood", ("dark", "light")[row % 2])] for row in rows
        ],
    )


@pytest.fixture(scope="module")
def facets(films: pa.Table) -> Facets:
    return Facets.of(films)


def test_categories_are_split_and_lower_case(facets: Facets) -> None:
    comedy = facets.items_of([facets.number(CATEGORY, "comedy")])
    assert comedy.tolist() == [row % 4 in (1, 3) for row in range(FILMS)]
    assert facets.items_of([facets.number(CATEGORY, "war"), facets.number(CATEGORY, "drama")]).tolist() == [
        row % 4 == 0 for row in range(FILMS)
    ]


def test_years_become_decades_and_amounts_nested_bounds(facets: Facets) -> None:
    assert facets.items_of([facets.number(DECADE, "1990s")]).tolist() == [row < 10 for row in range(FILMS)]
    under_two, under_five = (facets.items_of([facets.number(BELOW, name)]) for name in ("2", "5"))
    assert under_two.tolist() == [row / 4 < 2 for row in range(FILMS)]
    assert (under_five | ~under_two).all()
    assert (BELOW, "10") not in zip(facets.kind, facets.name, strict=True)  # holds for all items, so it is no facet


@pytest.mark.parametrize(
    ("amounts", "bound"),
    [
        pytest.param([0.5 + row / 8 for row in range(FILMS)], 5, id="a price that most items are below"),
        pytest.param([50_000 * row for row in range(FILMS)], 1_000_000, id="large amounts"),
    ],
)
def test_price_bounds_have_natural_names(amounts: list[float], bound: int) -> None:
    facets = Facets.of(item_table(attributes=[[("price", str(amount))] for amount in amounts]))
    assert facets.items_of([facets.number(BELOW, str(bound))]).tolist() == [amount < bound for amount in amounts]


def test_values_and_common_title_words_are_facets(facets: Facets) -> None:
    dark = facets.items_of([facets.number(VALUE, "dark")])
    red = facets.items_of([facets.number(WORD, "red")])
    assert dark.tolist() == red.tolist() == [row % 2 == 0 for row in range(FILMS)]
    assert (WORD, "house") not in zip(facets.kind, facets.name, strict=True)


def test_excluded_facets_are_removed(facets: Facets) -> None:
    drama, war = facets.number(CATEGORY, "drama"), facets.number(CATEGORY, "war")
    assert facets.items_of([drama], [war]).tolist() == [row % 4 == 2 for row in range(FILMS)]
    assert facets.items_of([-1], [-1]).all()


@given(st.permutations(range(FILMS)))
@settings(max_examples=10, deadline=None)
def test_facets_do_not_depend_on_item_order(order: list[int]) -> None:
    table = item_table(category=[("a|b", "b", "c|a")[row % 3] for row in range(FILMS)])
    whole, moved = Facets.of(table), Facets.of(table.take(pa.array(order)))
    assert (moved.kind, moved.name) == (whole.kind, whole.name)
    taken = whole.take(np.array(order))
    np.testing.assert_array_equal(moved.of_item.values, taken.of_item.values)
    np.testing.assert_array_equal(moved.of_item.offsets, taken.of_item.offsets)


def test_empty_or_bare_catalogue_has_no_facets() -> None:
    assert len(Facets.of(ITEM.empty_table())) == 0
    bare = Facets.of(item_table(category=[None] * 3))
    assert len(bare) == 0
    asked = InstructionSimulator(bare).specific(np.array([0, 1]), np.random.default_rng(0))
    assert asked.text == ("", "")


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_target_item_satisfies_its_request(seed: int) -> None:
    table = item_table(
        category=[("a|b", "b", "c|a", "d")[row % 4] for row in range(FILMS)],
        attributes=[[("price", str(row))] for row in range(FILMS)],
    )
    teacher = InstructionSimulator(Facets.of(table))
    item = np.random.default_rng(seed).integers(0, FILMS, 50)
    for asked in (
        teacher.specific(item, np.random.default_rng(seed)),
        teacher.vague(item, np.random.default_rng(seed)),
    ):
        assert teacher.facets.satisfied(item, asked.include, asked.exclude).all()
        for text, wanted in zip(asked.text, asked.include, strict=True):
            assert all(teacher.facets.name[facet] in text for facet in wanted if facet >= 0)


def test_balanced_sampling_covers_rare_facets() -> None:
    many = ["broad"] * 90 + ["rare"] * 10
    facets = Facets.of(
        item_table(category=many[:50] + many[90:] * 5, attributes=[[("year", str(1950 + row))] for row in range(100)])
    )
    drawn = facets.take(facets.sample_balanced(20_000, np.random.default_rng(0))).of_item
    share = np.bincount(drawn.values, minlength=len(facets)) / 20_000
    # Half of the samples start from a decade, one of seven each; the rest of a decade's share comes from the
    # categories.
    by_decade = [share[n] for n, kind in enumerate(facets.kind) if kind == DECADE]
    assert min(by_decade) > 0.5 / len(by_decade) - 0.02
    assert sum(by_decade) == pytest.approx(1)


def test_held_out_pairs_never_occur_together(films: pa.Table, facets: Facets) -> None:
    pairs = np.array([(a, b) for a in range(len(facets)) for b in range(a)])
    item = np.arange(FILMS).repeat(20)
    asked = InstructionSimulator(facets, held_out_pairs=pairs).specific(item, np.random.default_rng(0))
    assert (asked.include[:, 1] < 0).all()
    free = InstructionSimulator(facets).specific(item, np.random.default_rng(0))
    assert (free.include[:, 1] >= 0).any()


def test_profile_names_facets_more_frequent_than_in_the_catalogue(facets: Facets) -> None:
    war = np.flatnonzero(facets.items_of([facets.number(CATEGORY, "war"), facets.number(CATEGORY, "drama")]))
    history = Ragged.from_lengths(np.concatenate([war[:6], [0]]), [6, 1])
    told, nothing = InstructionSimulator(facets).profiles(history, np.random.default_rng(0))
    assert "war" in told
    assert nothing == ""


def test_splits_have_different_phrases() -> None:
    for kind, splits in phrases().items():
        assert splits["train"], kind
        assert splits["held_out"], kind
        assert not set(splits["train"]) & set(splits["held_out"]), kind


def test_distractor_words_name_no_facet(facets: Facets) -> None:
    stop = distractor_words(facets)
    assert "please" in stop
    assert not {"not", "without", "under"} & set(stop), "words that turn a request round are no fillers"


def test_stop_words_are_no_facets() -> None:
    titles = [
        f"{said} about the lantern {number}"
        for number, said in enumerate(["what", "who", "where", "when", "nothing"] * 4)
    ]
    found = Facets.of(item_table(titles=titles))
    assert [name for name, kind in zip(found.name, found.kind, strict=True) if kind == WORD] == []
