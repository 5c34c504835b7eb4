"""The sentences that a sentence encoder compares requests with (facet_sentences.yaml), read and checked.

A file of the user's is untrusted: values are plain text of bounded length and number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from importlib import resources
from typing import Any

import yaml

from rayrec.config import yaml_loader
from rayrec.errors import ConfigError
from rayrec.numerics.hashing import digest
from rayrec.storage import Storage

_WHERE = "instruction.facet_sentences"
_GENERAL = "general"
_FIELD = {"request": "{text}", "facet": "{value}"}
_MOST, _CHARS, _BYTES = 200, 300, 1 << 20
_SHARE = 0.5  # of the categories that descriptions must name


@dataclass(frozen=True)
class FacetSentences:
    request: tuple[str, ...]  # with {text}
    facet: tuple[str, ...]  # with {value}
    neutral: tuple[str, ...]
    descriptions: Mapping[str, tuple[str, ...]]  # by facet value
    synonyms: Mapping[str, tuple[str, ...]]  # by facet value: other names, which the rules find

    @cached_property
    def digest(self) -> str:
        more = [sorted(mapping.items()) for mapping in (self.descriptions, self.synonyms)]
        return digest([self.request, self.facet, self.neutral, *more])

    def requests(self, text: str) -> list[str]:
        """A request's sentences."""
        return [frame.replace("{text}", text) for frame in self.request]

    def facets(self, value: str) -> list[list[str]]:
        """A facet value's sentences, in groups of equal weight."""
        named = [frame.replace("{value}", value.replace("-", " ")) for frame in self.facet]
        described = self.descriptions.get(value, ())
        first = self.facet[0].replace("{value}", value)
        return [named, *([text] for text in described), *([f"{first}: {text}"] for text in described)]


def load_facet_sentences(path: str | None, categories: Sequence[str]) -> FacetSentences:
    """The sentences of `path`, or the built-in ones for a catalogue with these categories. Raises ConfigError."""
    shipped = _shipped()
    general = shipped[_GENERAL]
    if path is not None:
        given = _read(path)
        merged = {field.name: given.get(field.name, getattr(general, field.name)) for field in fields(FacetSentences)}
        if unknown := sorted(set(map(str, given)) - set(merged)):
            raise _wrong(f"has an unknown key {unknown[0][:60]!r}; there is {', '.join(merged)}", path)
        return _checked(merged, path)
    known = {name: len(set(kind.descriptions) & set(categories)) for name, kind in shipped.items()}
    best = max(known, key=lambda name: known[name])
    return shipped[best] if known[best] and known[best] >= _SHARE * len(set(categories)) else general


def _shipped() -> dict[str, FacetSentences]:
    text = resources.files(__package__).joinpath("facet_sentences.yaml").read_text(encoding="utf8")
    return {name: _checked(content, f"facet_sentences.yaml: {name}") for name, content in yaml.safe_load(text).items()}


def _read(path: str) -> dict[str, Any]:
    folder, _, name = path.rpartition("/")
    storage = Storage(folder or ("/" if path.startswith("/") else "."))
    if (size := storage.info(name).size) > _BYTES:
        raise _wrong(f"has {size:,} bytes, allowed {_BYTES:,}", path)
    try:
        content = yaml_loader.load(storage.read(name).decode(), path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _wrong(f"is not YAML in UTF-8: {error}", path) from None
    if not isinstance(content, dict):
        raise _wrong("is not a mapping", path)
    return content


def _checked(content: Mapping[str, Any], path: str) -> FacetSentences:
    lists = {name: _texts(content[name], name, path, _FIELD.get(name)) for name in ("request", "facet", "neutral")}
    descriptions, synonyms = (_mapping(content[name], name, path) for name in ("descriptions", "synonyms"))
    return FacetSentences(**lists, descriptions=descriptions, synonyms=synonyms)


def _mapping(given: Any, name: str, path: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(given, Mapping) or len(given) > 10 * _MOST:
        raise _wrong(f"`{name}` is not a mapping of facet values to lists of texts", path)
    return {str(value).lower(): _texts(texts, f"{name}.{value}", path) for value, texts in given.items()}


def _texts(given: Any, name: str, path: str, field: str | None = None) -> tuple[str, ...]:
    if not isinstance(given, list | tuple) or not 0 < len(given) <= _MOST:
        raise _wrong(f"`{name}` is not a list of 1 to {_MOST} sentences", path)
    for text in given:
        if not isinstance(text, str) or not text.strip() or len(text) > _CHARS:
            raise _wrong(f"`{name}` has an entry that is not text of 1 to {_CHARS} characters", path)
        if text.count("{") != bool(field) or text.count("}") != bool(field) or (field and field not in text):
            raise _wrong(
                f"`{name}` has {text[:60]!r}; it needs {f'{field} once and ' if field else ''}no other brace", path
            )
    return tuple(given)


def _wrong(what: str, path: str) -> ConfigError:
    return ConfigError(
        f"the file {what}", where=f"{_WHERE}: {path}", hint="see rayrec/instructions/facet_sentences.yaml"
    )
