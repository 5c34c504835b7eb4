"""Negation in requests: its scope, and the split of a text into wanted and unwanted clauses.

"Something funny, but nothing that gives me nightmares" has the wanted clause "something funny" and the unwanted one
"that gives me nightmares". The scope of a negation (`negations.yaml`) ends at a punctuation mark, at "but", or after
ten words; that of "not too" is the next word: "not too sad a comedy" wants a comedy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import yaml

from rayrec.instructions.negation_forms import request_words
from rayrec.instructions.vocabulary_filter import stop_words, tokenize_words

END = frozenset(",.;:!?()–") | {"but", "just", "only"}  # end of a negation's scope
_MOST_WORDS = 10  # in the scope of a negation
_DISTANCE = 2  # most words from a negation to what it surely negates; those between do not count
_DEGREES = frozenset({"excessively", "overly", "so", "too", "very"})  # "not too ..." negates the next word alone
_QUANTITIES = frozenset({"many", "much"})
_OR = frozenset({"and", "nor", "or"})
_BOUNDED = frozenset({"fewer", "less"})  # no negation in "less than"


@dataclass(frozen=True)
class Clause:
    text: str
    unwanted: bool


@dataclass(frozen=True)
class Scopes:
    """Of each word of a text: whether it is (a part of) a negation, and whether it is negated; None: a negation stands
    before it, too far away to be sure."""

    cue: tuple[bool, ...]
    negated: tuple[bool | None, ...]


def scopes(words: Sequence[str]) -> Scopes:
    """The scopes of the negations in `request_words`."""
    cue, negated = [False] * len(words), list[bool | None]([False] * len(words))
    at = start = others = left = 0  # left: words that the current scope may still have
    degree = False  # whether the scope is of "not too"
    while at < len(words):
        if size := cue_length(words, at):
            cue[at : at + size] = [True] * size
            at += size
            degree = words[at : at + 1] != [] and words[at] in _DEGREES and words[at + 1 : at + 2] != []
            degree = degree and words[at + 1] not in _QUANTITIES | _words_between()
            start, others, left = at, 0, _MOST_WORDS
            continue
        beyond = degree and at > start + 1 and _OR.isdisjoint(words[at - 1 : at + 1])
        if words[at] == ":" and left and not others:
            left -= 1  # "one thing I don't want: westerns"
        elif words[at] in END or not left or beyond:
            left = 0
        else:
            sure = at - start < _DISTANCE or not others
            with_the_last = at > 1 and words[at - 1] in _OR and negated[at - 2] is True
            negated[at] = True if sure or with_the_last else None
            others += words[at] not in stop_words() and words[at] not in _words_between()
            left -= 1
        at += 1
    return Scopes(tuple(cue), tuple(negated))


def cue_length(words: Sequence[str], at: int) -> int:
    """The number of words of the negation that begins at `at`; 0: none does."""
    phrases = _phrases()
    for size in range(min(max(phrases), len(words) - at), 0, -1):
        if tuple(words[at : at + size]) in phrases.get(size, ()):
            bounded = words[at] in _BOUNDED and (words[at + 1 : at + 2] or ["."])[0] in END | {"than"}
            return 0 if bounded else size
    return 0


def clauses(text: str) -> list[Clause]:
    """The clauses of a text in order, each with a word beside stop words."""
    words, found, part = request_words(text), list[Clause](), list[str]()
    scope = scopes(words)
    unwanted = False

    def close() -> None:
        if any(word.isalnum() and word not in stop_words() for word in part):
            found.append(Clause(" ".join(part), unwanted))
        part.clear()

    for word, cue, negated in zip(words, scope.cue, scope.negated, strict=True):
        if cue or word in END or (negated is not False) != unwanted:
            close()
        unwanted = negated is not False
        if not cue and word not in END:
            part.append(word)
    close()
    return found


def negation_words() -> frozenset[str]:
    """The words that negate alone."""
    return frozenset(words[0] for words in _phrases()[1])


@lru_cache(maxsize=1)
def _phrases() -> Mapping[int, frozenset[tuple[str, ...]]]:
    """Negations by number of words."""
    content = _content()
    phrases = [tuple(tokenize_words(text)) for text in [*content["words"].split(), *content["phrases"]]]
    return {
        size: frozenset(one for one in phrases if len(one) == size) for size in range(1, max(map(len, phrases)) + 1)
    }


@lru_cache(maxsize=1)
def _words_between() -> frozenset[str]:
    return frozenset(_content()["between"].split())


@lru_cache(maxsize=1)
def _content() -> dict:  # type: ignore[type-arg]
    text = resources.files(__package__).joinpath("negations.yaml").read_text(encoding="utf8")
    content: dict = yaml.safe_load(text)  # type: ignore[type-arg]
    return content
