"""What requests mean: rules and the packaged encoder together, on the genres of films and on the words of a shop."""

from __future__ import annotations

import pytest

from rayrec.instructions.facet_scheme import CATEGORY, DECADE, WORD, FacetScheme
from rayrec.instructions.request_understanding import RequestUnderstanding, searchable_words
from rayrec.text_encoding.sentence_encoder import SentenceEncoder

GENRES = ("action", "comedy", "crime", "drama", "family", "horror", "musical", "romance", "sci-fi", "war", "western")
FILMS = FacetScheme(
    (*[CATEGORY] * len(GENRES), DECADE, WORD, WORD), (*GENRES, "1990s", "night", "zombies"), {"year": DECADE}
)
SHOP = FacetScheme((WORD,) * 5, ("bag", "candle", "clock", "mug", "umbrella"), {})


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder.open("auto")


@pytest.fixture(scope="module")
def films(encoder: SentenceEncoder) -> RequestUnderstanding:
    return RequestUnderstanding.of(FILMS, encoder)


def meaning(understanding: RequestUnderstanding, text: str) -> dict[str, float]:
    return {understanding.scheme.name[facet]: weight for facet, weight in understanding(text).weights}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("something to laugh at", "comedy"),
        ("I want to be terrified", "horror"),
        ("spaceships and aliens", "sci-fi"),
        ("two people falling in love", "romance"),
        ("cowboys and gunslingers", "western"),
        ("Hi! Could you point me towards something to laugh at? Thank you so much.", "comedy"),
        ("scarry movei with gosts", "horror"),
        ("acton", "action"),
        ("anything gangster", "crime"),
        ("a romantic comedy", "romance"),
    ],
)
def test_words_that_the_catalogue_does_not_use(films: RequestUnderstanding, text: str, wanted: str) -> None:
    assert meaning(films, text)[wanted] > 0.4


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("anything but horror", {"horror": -1}),
        ("a comedy from the 90s", {"comedy": 1, "1990s": 1}),
        ("not in the mood for westerns", {"western": -1}),
        ("not too long a comedy", {"comedy": 1}),
        ("a comedy for the night", {"comedy": 1}),
        ("no zombies", {"zombies": -1}),
    ],
)
def test_a_rules_hit_wins(films: RequestUnderstanding, text: str, weights: dict[str, float]) -> None:
    found = meaning(films, text)
    assert {name: found[name] for name in weights} == weights
    assert {name for name, weight in found.items() if abs(weight) == 1} == set(weights)
    assert set(found) - set(weights) <= ({"horror"} if "zombies" in weights else set())


def test_unwanted_clauses_count_negatively(films: RequestUnderstanding) -> None:
    assert meaning(films, "nothing scary please")["horror"] < -0.5
    found = meaning(films, "spaceships, but no kissing and weddings")
    assert found["sci-fi"] > 0.5
    assert found["romance"] < -0.5


@pytest.mark.parametrize(
    "text",
    [
        "dividend yields of utility stocks",
        "asdf qwer zxcv",
        "a film with Brad Pitt",
        "something to watch tonight",
        "what is the capital of Mongolia?",
        "the film night",
        "",
    ],
)
def test_texts_about_nothing_in_the_catalogue_mean_nothing(films: RequestUnderstanding, text: str) -> None:
    assert not films(text)


def test_what_means_nothing_is_told(films: RequestUnderstanding) -> None:
    assert films("a comedy, with Brad Pitt").not_understood == ("with brad pitt",)
    assert films("dividend yields").not_understood == ("dividend yields",)
    assert films("Hi! Please?").not_understood == ("Hi! Please?",)
    assert films("something to laugh at").not_understood == ()


def test_title_words_count_where_there_is_nothing_else(encoder: SentenceEncoder) -> None:
    shop = RequestUnderstanding.of(SHOP, encoder)
    assert meaning(shop, "a clock") == {"clock": 1}
    assert meaning(shop, "to drink coffee from")["mug"] > 0.5
    assert meaning(shop, "against the rain")["umbrella"] > 0.5
    assert not shop("my printer is out of ink")


def test_synonyms_are_found_as_names_are() -> None:
    rules = RequestUnderstanding.of(FILMS)
    assert meaning(rules, "science fiction, nothing romantic") == {"sci-fi": 1, "romance": -1}
    assert meaning(rules, "a rom-com") == {"romance": 1, "comedy": 1}


def test_without_an_encoder_the_rules_are_all() -> None:
    rules = RequestUnderstanding.of(FILMS)
    assert meaning(rules, "a comedy, something creepy") == {"comedy": 1}
    assert rules("a comedy, something creepy").not_understood == ("something creepy",)


def test_a_text_means_the_same_beside_others(films: RequestUnderstanding) -> None:
    first = films("robots, nothing gory")
    films("a song and dance show")
    assert films("robots, nothing gory") == first


def test_searchable_words_leave_out_stop_words_and_what_is_not_wanted() -> None:
    assert searchable_words("I want the red lamp, but no glass please") == "red lamp"
    assert searchable_words("anything good?") == ""
