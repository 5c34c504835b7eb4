"""The vocabulary filter of a model trained from scratch, which knows only the words of its tuning prompts; stop words.

Unknown words would be split into pieces of known ones and change meaning, so they are dropped: "it's pouring, got any
Westerns?" becomes "it ' s , any western ?". Singular and plural match each other, "90s", "nineties" and "1994" match
"1990s", and a price matches the next lower known one: "under 7" becomes "under 5". Words with non-ASCII letters are
unchanged, because not every script separates its words.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import resources

import yaml

_TOKEN = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+|\w+|[^\w\s]")
_NUMBER, _YEAR, _DECADE = re.compile(r"\d+(?:\.\d+)?"), re.compile(r"(?:1[89]|2[01])\d\d"), re.compile(r"\d\d(\d0s)")
_BOUNDS = frozenset({"below", "max", "maximum", "most", "than", "to", "under", "until", "up", "within"})
_BOUND_DISTANCE = 3  # most words from a bound to its number
_DECADE_WORDS = dict(
    zip(
        (f"{tens}0s" for tens in range(2, 10)),
        ("twenties", "thirties", "forties", "fifties", "sixties", "seventies", "eighties", "nineties"),
        strict=True,
    )
) | {"00s": "noughties"}


def tokenize_words(text: str) -> list[str]:
    """Words, numbers (without thousands separators) and punctuation marks, in lower case."""
    return [token if token == "," else token.replace(",", "") for token in _TOKEN.findall(text.lower())]


class InVocabularyFilter:
    """Replaces the words of a text by known variants, and drops unknown words."""

    def __init__(self, texts: Iterable[str]) -> None:
        """The known words are those of `texts`."""
        self.words = frozenset(token for text in texts for token in tokenize_words(text))
        self._known_as: dict[str, str] = {}
        for word in sorted(self.words):
            for variant in spelling_variants(word):
                self._known_as.setdefault(variant, word)
        self._known_as |= {word: word for word in self.words}
        self._prices = sorted((float(word), word) for word in self.words if _NUMBER.fullmatch(word))

    def __call__(self, text: str) -> str:
        """The known words of the text, in lower case, separated by spaces."""
        return " ".join(filter(None, self.filter_tokens(tokenize_words(text))))

    def filter_tokens(self, tokens: Sequence[str]) -> list[str]:
        """The known word for each token, "" if there is none."""
        return [self._known(tokens, at) for at in range(len(tokens))]

    def _known(self, tokens: Sequence[str], at: int) -> str:
        token = tokens[at]
        if token in self._known_as:
            return self._known_as[token]
        if not token.isascii():
            return token if unicodedata.category(token[0])[0] not in "PS" else ""
        if _YEAR.fullmatch(token) and (decade := f"{token[:3]}0s") in self.words:
            return decade
        if _NUMBER.fullmatch(token) and is_upper_bound(tokens, at):
            lower = bisect_right(self._prices, float(token), key=lambda price: price[0])
            return self._prices[lower - 1][1] if lower else ""
        return ""


def is_upper_bound(tokens: Sequence[str], at: int) -> bool:
    """Whether the number at `at` is an upper bound, as in "under £5"."""
    return not _BOUNDS.isdisjoint(tokens[max(0, at - _BOUND_DISTANCE) : at])


def stop_words() -> frozenset[str]:
    """Words without meaning of their own (stopwords.yaml), in lower case."""
    return frozenset().union(*_stop_word_groups().values())


def negation_and_bound_words() -> frozenset[str]:
    """The stop words that negate or set a bound, such as "not" and "under"."""
    return _stop_word_groups()["negation_and_bounds"]


@lru_cache(maxsize=1)
def _stop_word_groups() -> Mapping[str, frozenset[str]]:
    text = resources.files(__package__).joinpath("stopwords.yaml").read_text(encoding="utf8")
    content: dict[str, str] = yaml.safe_load(text)
    return {group: frozenset(words.split()) for group, words in content.items()}


def spelling_variants(word: str) -> Iterator[str]:
    """Other spellings: singular or plural, a decade without its century or as a word."""
    if decade := _DECADE.fullmatch(word):
        yield decade[1]
        if decade[1] in _DECADE_WORDS:
            yield _DECADE_WORDS[decade[1]]
    if len(word) < 3 or not word.isalpha():
        return
    yield from (word + "s", word + "es")
    if word.endswith("y"):
        yield word[:-1] + "ies"
    if word.endswith("ies"):
        yield word[:-3] + "y"
    if word.endswith("es"):
        yield word[:-2]
    if word.endswith("s"):
        yield word[:-1]
