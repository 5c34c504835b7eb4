"""The sentences for the encoder: chosen by the catalogue's categories, or the user's own file, which is untrusted."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayrec.errors import ConfigError
from rayrec.instructions.facet_sentences import load_facet_sentences


def test_the_kind_of_catalogue_follows_from_its_categories() -> None:
    movies = load_facet_sentences(None, ["comedy", "drama", "something else"])
    general = load_facet_sentences(None, ["bags", "drama", "toys"])
    assert "horror" in movies.descriptions
    assert not general.descriptions
    assert load_facet_sentences(None, []) == general


def test_every_sentence_of_a_facet_value() -> None:
    sentences = load_facet_sentences(None, ["film-noir"])
    named, *described = sentences.facets("film-noir")
    assert "a film noir movie" in named
    assert len(described) == 2 * len(sentences.descriptions["film-noir"])
    assert sentences.requests("x {value} y")[0] == "x {value} y"


def test_a_file_replaces_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("facet: ['{value} for the home']\ndescriptions: {Bags: [to carry things]}\n")
    mine, general = load_facet_sentences(str(path), ["comedy"]), load_facet_sentences(None, [])
    assert mine.facet == ("{value} for the home",)
    assert mine.descriptions == {"bags": ("to carry things",)}
    assert mine.neutral == general.neutral
    assert mine.digest != general.digest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a list", "not a mapping"),
        ("facets: [x]", "unknown key 'facets'"),
        ("facet: []", "1 to 200"),
        ("facet: [no field]", "once"),
        ("facet: ['{value} {value}']", "once"),
        ("request: ['{text.__class__}']", "once"),
        ("neutral: ['{text}']", "no other brace"),
        ("neutral: [1]", "not text"),
        ("descriptions: [x]", "not a mapping of facet values"),
        ("a: [", "not YAML"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_facet_sentences(str(path), [])
