"""Attributes from titles: words, the encoder's margin, and the table that the items are read from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rayrec.data.schemas import ITEM
from rayrec.errors import ConfigError
from rayrec.instructions.attribute_extraction import (
    AttributeExtractor,
    ExtractedAttribute,
    item_table,
    load_attribute_schema,
)
from rayrec.text_encoding.sentence_encoder import SentenceEncoder

MATERIAL = ExtractedAttribute(values={"wood": ["wooden", "bamboo"], "metal": ["tin", "steel"]})


class FixedEncoder(SentenceEncoder):
    """Vectors by hand: what ends in w is near `wood`, what ends in m near `metal`, all else near both."""

    def __init__(self) -> None:
        pass

    def encode(self, texts: object) -> np.ndarray:
        assert isinstance(texts, list)
        found = [
            (1, 0)
            if text in ("wood", "wooden", "bamboo") or text.endswith("w")
            else (0, 1)
            if text in ("metal", "tin", "steel") or text.endswith("m")
            else (1, 1)
            for text in texts
        ]
        vectors = np.array(found, np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def test_words_of_a_title_are_whole_words_and_plurals() -> None:
    extractor = AttributeExtractor({"material": MATERIAL}, None)
    titles = ["Wooden Box", "TIN boxes", "two tins", "latin dance", "Bamboo and steel", "paper"]
    found = extractor.extract(titles)["material"]
    assert found == [["wood"], ["metal"], ["metal"], [], ["wood"], []]


def test_an_attribute_may_have_several_values() -> None:
    several = MATERIAL.model_copy(update={"most": 2})
    assert AttributeExtractor({"m": several}, None).extract(["bamboo and steel"])["m"] == [["wood", "metal"]]


def test_the_encoder_decides_where_no_word_does_and_abstains_below_the_margin() -> None:
    extractor = AttributeExtractor({"material": MATERIAL}, FixedEncoder())
    assert extractor.extract(["xw", "xm", "neither", "a tin w"])["material"] == [["wood"], ["metal"], [], ["metal"]]
    words_alone = MATERIAL.model_copy(update={"min_margin": 2.0})
    assert AttributeExtractor({"material": words_alone}, FixedEncoder()).extract(["xw"])["material"] == [[]]


def test_a_title_is_answered_alone() -> None:
    extractor = AttributeExtractor({"material": MATERIAL}, FixedEncoder())
    titles = [f"{number} {end}" for number in range(1200) for end in ("w", "m")]
    together = extractor.extract(titles)["material"]
    assert [together[7], together[2399]] == [extractor.extract([titles[at]])["material"][0] for at in (7, 2399)]
    assert extractor.extract([]) == {"material": []}


def test_the_table_has_the_items_their_attributes_and_the_new_ones() -> None:
    rows = [
        {"item_id": "a", "title": "A", "category": "old", "available": True, "attributes": [("price", "3")]},
        {"item_id": "b", "title": "B", "category": None, "available": False, "attributes": []},
    ]
    catalogue = pa.Table.from_pylist(rows, ITEM)
    table = item_table(catalogue, {"category": [["new"], ["x", "y"]], "material": [["wood"], []]})
    assert table["category"].to_pylist() == ["old", "x|y"]
    assert table["material"].to_pylist() == ["wood", None]
    assert table["price"].to_pylist() == ["3", None]
    assert table["available"].to_pylist() == [True, False]
    assert "attributes" not in table.column_names


def test_a_schema_is_read_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text("material: {values: {wood: [wooden], metal: []}, most: 2}\n")
    schema = load_attribute_schema(str(path))
    assert schema["material"].texts("wood") == ["wood", "wooden"]
    assert schema["material"].most == 2


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("material: {values: {wood: []}}", "material.values"),
        ("material: {value: {wood: [], metal: []}}", "did you mean 'values'"),
        ("Material: {values: {wood: [], metal: []}}", "Material"),
        ("m: {values: {'a|b': [], c: []}}", "values"),
        ("m: [1", "cannot be read"),
        ("{}", "names no attribute"),
        ("- a", "dictionary"),
    ],
)
def test_a_wrong_schema_is_an_error_that_names_the_key(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=what.replace("|", r"\|")) as error:
        load_attribute_schema(str(path))
    assert str(path) in str(error.value.where)
