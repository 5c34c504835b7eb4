"""Refusals in turns of phrase that no list of negations has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from rayrec.instructions import polarity
from rayrec.instructions.facet_matching import FacetMatcher
from rayrec.instructions.facet_scheme import CATEGORY, FacetScheme
from rayrec.instructions.polarity import Polarity
from rayrec.instructions.refusals import Refusals
from rayrec.numerics.types import Float32s

SCHEME = FacetScheme((CATEGORY, CATEGORY, CATEGORY), ("comedy", "sci-fi", "western"), {})


class Words:
    """An encoder whose vectors say whether "gah" or "hmm" is in a text."""

    digest = "words"

    def encode(self, texts: list[str]) -> Float32s:
        return np.array([["gah" in text, "hmm" in text] for text in texts], np.float32)


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> Refusals:
    model = Polarity([1.0, 0.4], {}, 0.0, refused=0.5, unsure=0.3)
    monkeypatch.setattr("rayrec.instructions.refusals.polarity_of", lambda *_: model)
    return Refusals(FacetMatcher(SCHEME), (CATEGORY,), Words())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "written", "unsure"),
    [
        ("westerns gah", "no westerns", ()),
        ("sci-fi and westerns gah", "no sci - fi, no westerns", ()),
        ("hmm westerns", "", ("hmm westerns",)),
        ("a comedy. westerns gah", "a comedy. no westerns", ()),
        ("a comedy, gah westerns", "a comedy, no westerns", ()),
        ("westerns gah, but a comedy", "no westerns, but a comedy", ()),
        ("dragons gah", "dragons gah", ()),  # no name
        ("westerns before 1970 gah", "westerns before 1970 gah", ()),  # a range of years: a wish
        ("no westerns gah", "no westerns gah", ()),  # the rules decide
        ("can't get enough of westerns gah", "can't get enough of westerns gah", ()),
        ("a comedy", "a comedy", ()),
        ("", "", ()),
    ],
)
def test_refusals_are_written_out_and_doubt_is_left_out(
    refusals: Refusals, text: str, written: str, unsure: tuple[str, ...]
) -> None:
    assert refusals(text) == (written, unsure)


def test_the_packaged_weights_are_those_of_the_sentences() -> None:
    assert polarity._content("polarity_weights.json")["sentences"] == polarity.sentences_digest()


def test_a_model_of_another_encoder_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(texts: Sequence[str]) -> Float32s:
        return np.zeros((len(texts), 1), np.float32)

    weights = {"encoder": "another"}
    sentences = {
        "refusals": [[f"{{x}} {verb} me", f"{{x}} {verb} us"] for verb in ("bore", "pain", "irk", "tire", "vex")],
        "others": [[f"{verb} {{x}}", f"{verb} me {{x}}"] for verb in ("find", "bring", "get", "send", "sell")],
    }
    monkeypatch.setattr(polarity, "_content", lambda name: weights if name.endswith("json") else sentences)
    found = polarity.polarity_of(encode, "mine")
    vector = np.zeros(1, np.float32)
    assert found.refused >= found.unsure
    assert found.score("things bore me", vector) > 0.5 > 0 > found.score("find things", vector)


def test_a_vector_and_words_add_up() -> None:
    model = Polarity([2.0], {"gah": 3.0, "< gah": 1.0}, 0.5, 1.0, 0.0)
    assert model.score("gah", np.ones(1, np.float32)) == pytest.approx(2 + 4 / np.sqrt(5) + 0.5)
