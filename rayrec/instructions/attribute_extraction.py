"""Attributes of items from their titles, held to a schema of your own: material, occasion, audience, category, ...

The schema is YAML: attributes, each with values, each with the words or short sentences that mean it:

    material:
      values:
        wood: [wood, wooden, bamboo]
        metal: [metal, tin, steel, "made of iron"]
    category: {values: {bags: [bag, shopper], candles: [candle, "something that gives light"]}, most: 2}

A title that contains such a text, as whole words, has the value. Otherwise the sentence encoder decides: a value's
similarity is the largest of its texts' cosines with the title, and the value is taken if this is at least `min_margin`
above the mean over all values of the attribute; the best first, at most `most`. Else the item has none: an attribute
that is not in the title is not made up. The answer depends on the item's title and the schema alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyarrow as pa
import yaml
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from rayrec.config import yaml_loader
from rayrec.config.section import Section, explain
from rayrec.errors import ConfigError
from rayrec.instructions.text_cleaning import clean
from rayrec.numerics.types import Bools, Float32s
from rayrec.storage import Storage
from rayrec.text_encoding.sentence_encoder import SentenceEncoder

CATEGORY = "category"  # this attribute fills the items' category
_BYTES, _CHARS = 1 << 20, 200
_BLOCK = 1024  # titles encoded at once

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,40}$")]
Text = Annotated[str, StringConstraints(min_length=2, max_length=_CHARS)]


class ExtractedAttribute(Section):
    """An attribute's values and the texts that mean them."""

    values: dict[Annotated[str, StringConstraints(pattern=r"^[^|>;,/]{1,40}$")], list[Text]] = Field(
        min_length=2, max_length=200
    )
    """The values, each with words or short sentences that mean it; `[]`: its name alone."""
    most: int = Field(1, ge=1, le=10)
    """Most values of an item; several are joined by `|`, as in a category."""
    min_margin: float = Field(0.15, ge=0, le=2)
    """Cosine above the mean over the values from which the encoder's best value is taken; 2: words alone."""

    def texts(self, value: str) -> list[str]:
        """The texts that mean a value, its name first."""
        return list(dict.fromkeys([value, *self.values[value]]))


AttributeSchema = Mapping[str, ExtractedAttribute]
_READER = TypeAdapter(dict[Name, ExtractedAttribute])


def load_attribute_schema(path: str) -> AttributeSchema:
    """Read a schema. Raises ConfigError for anything else, MissingFileError."""
    folder, _, name = path.rpartition("/")
    storage = Storage(folder or ("/" if path.startswith("/") else "."))
    hint = "see rayrec/instructions/attribute_extraction.py for the format"
    if storage.info(name).size > _BYTES:
        raise ConfigError("the schema of attributes is larger than 1 MiB", where=path, hint=hint)
    try:
        found = _READER.validate_python(yaml_loader.load(storage.read(name).decode(), path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"the schema of attributes cannot be read: {error}", where=path, hint=hint) from None
    except ValidationError as error:
        raise ConfigError(explain(error), where=path, hint=hint) from None
    if not found:
        raise ConfigError("the schema names no attribute", where=path, hint=hint)
    return found


@dataclass(frozen=True)
class AttributeExtractor:
    """Finds the values of each attribute in titles. `encoder`: None: words alone."""

    schema: AttributeSchema
    encoder: SentenceEncoder | None

    def extract(self, titles: Sequence[str]) -> dict[str, list[list[str]]]:
        """The values of each title by attribute, the best first; empty lists where there is none."""
        cleaned = [clean(title, _CHARS) for title in titles]
        named = {name: _named(cleaned, attribute) for name, attribute in self.schema.items()}
        found: dict[str, list[list[str]]] = {name: [] for name in self.schema}
        vectors = {name: self._vectors(attribute) for name, attribute in self.schema.items()}
        for start in range(0, len(cleaned), _BLOCK):
            rows = slice(start, start + _BLOCK)
            encoded = None if self.encoder is None else self.encoder.encode(cleaned[rows])
            for name, attribute in self.schema.items():
                margin = None if encoded is None else _margins(encoded, vectors[name])
                found[name] += _chosen(attribute, named[name][rows], margin)
        return found

    def _vectors(self, attribute: ExtractedAttribute) -> list[Float32s]:
        if self.encoder is None:
            return []
        return [self.encoder.encode(attribute.texts(value)) for value in attribute.values]


def item_table(catalogue: pa.Table, found: Mapping[str, list[list[str]]]) -> pa.Table:
    """A table of items for `data.items`: the columns of ITEM, one column per attribute, those found included.

    Found values fill the column `category` where the item has none, and replace an attribute of the same name.
    """
    columns = {name: catalogue[name] for name in catalogue.column_names if name != "attributes"}
    own = [dict(pairs or ()) for pairs in catalogue["attributes"].to_pylist()]
    for name in sorted({key for pairs in own for key in pairs}):
        columns[name] = pa.chunked_array([pa.array([pairs.get(name) for pairs in own], pa.string())])
    for name, values in found.items():
        texts = ["|".join(row) or None for row in values]
        if name == CATEGORY:
            given = catalogue[CATEGORY].to_pylist()
            texts = [old or new for old, new in zip(given, texts, strict=True)]
        columns[name] = pa.chunked_array([pa.array(texts, pa.string())])
    return pa.table(columns)


def _named(titles: Sequence[str], attribute: ExtractedAttribute) -> Bools:
    """Whether each title contains a text of each value, as whole words, [titles, values]."""
    found = np.zeros((len(titles), len(attribute.values)), np.bool_)
    for column, value in enumerate(attribute.values):
        texts = "|".join(re.escape(clean(text, _CHARS).lower()) for text in attribute.texts(value))
        pattern = re.compile(rf"(?<![^\W_])(?:{texts})(?:s|es)?(?![^\W_])")
        found[:, column] = [pattern.search(title.lower()) is not None for title in titles]
    return found


def _margins(encoded: Float32s, vectors: Sequence[Float32s]) -> Float32s:
    """Each value's similarity less the mean over the values, [titles, values]."""
    similarity = np.stack([(encoded @ texts.T).max(1) for texts in vectors], axis=1)
    return np.asarray(similarity - similarity.mean(1, keepdims=True), np.float32)


def _chosen(attribute: ExtractedAttribute, named: Bools, margin: Float32s | None) -> list[list[str]]:
    """The values of each title: those that it names, else those of the encoder."""
    values, found = list(attribute.values), []
    for row, names in enumerate(named):
        score = np.zeros(len(values)) if margin is None else margin[row]
        taken = names if names.any() or margin is None else score >= attribute.min_margin
        order = np.argsort(-np.where(taken, score, -np.inf), kind="stable")[: min(attribute.most, int(taken.sum()))]
        found.append([values[column] for column in order])
    return found
