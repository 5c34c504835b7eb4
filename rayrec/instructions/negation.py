"""Negation in requests: its cues, their scope, and the split of a text into wanted and unwanted clauses.

"Something funny, but nothing that gives me nightmares" has the wanted clause "something funny" and the unwanted one
"that gives me nightmares". The scope of a cue ends at a punctuation mark, at "but", or after ten words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rayrec.instructions.vocabulary_filter import stop_words, tokenize_words

_NOT = re.compile(r"n['’]t\b")
_SUFFIXED = re.compile(r"\bnon[- ]?(?:stop|fiction|fictional|linear)\b", re.IGNORECASE)  # one word, not a negation
# What stands before one of these is unwanted: "fantasy is not my thing", "cartoons, skip those". Each is rewritten with
# the negation in front, so that its scope is that of the others.
_MINE = (
    r"(?:my (?:thing|cup of tea|bag|style|scene|kind of (?:thing|film|movie))|for me|what i (?:want|like|enjoy|need))"
)
_AFTER = re.compile(
    r"(?:^|(?<=[.,;:!?])|(?<=\bbut))\s*(?P<what>(?:(?!\bbut\b)[^.,;:!?])+?)[,:?]?\s+(?:"
    rf"(?:is|are|was|were)? ?not (?:really |exactly |quite )?{_MINE}(?: at all)?"
    r"|(?:really |always |just )?(?:bores?|annoys?|irritates?) (?:me|us)(?: to (?:death|tears))?"
    r"|(?:puts?|sends?) (?:me|us) (?:off|to sleep)|leaves? (?:me|us) cold|gets? on (?:my|our) nerves"
    r"|do(?:es)? nothing for (?:me|us)|away from (?:me|us)"
    r"|(?:please )?(?:skip|avoid|drop|exclude|omit|spare me) (?:those|these|them|that|it)"
    r"|(?:do not|never) (?:show|give|send) (?:me|us) (?:any|those|these|them|that|it)(?: of (?:those|them|it))?"
    r"|none (?:please|of (?:those|that|them))|no (?:thanks|thank you|way)"
    r")(?=\s*(?:,? ?please)?\s*(?:[.,;:!?]|$))",
    re.IGNORECASE,
)
# Not a negation of what follows: "can't wait to laugh", "I have not seen a western", "nothing beats a good comedy".
_AFFIRMATIVE = re.compile(
    r"\b(?:can|could|do|did|have|has|had|would|wo|ca)?\s*(?:no|not|never|nothing|cannot)\s+(?:(?:ever|yet|quite|really)\s+)?"
    r"(?:get enough of|get enough|wait|find|decide|choose|know|remember|sure|only|idea|seen|watched|heard|mind|matter"
    r"|problem|preference|better|beats|doubt|joke|worries|bad)\b",
    re.IGNORECASE,
)
NEGATIONS = frozenset(
    tokenize_words(
        "avoid avoiding cannot dislike dislikes except exclude excluding hate hates instead minus neither never no"
        " nobody non none nor not nothing skip without"
    )
)
_TWO_WORD_NEGATIONS = frozenset(
    tuple(tokenize_words(two))
    for two in (
        *("all but", "anything but", "everything but", "other than", "rather than", "away from", "leave out"),
        *("leaving out", "enough of", "sick of", "tired of", "fed up", "spare me", "bored of", "bored with"),
        *("weary of", "done with", "clear of", "free of", "allergic to", "hold the", "lay off", "opposite of"),
        *("enough with", "here with", "old for", "refuse to", "refuses to", "through with", "off with"),
    )
)
END = frozenset(",.;:!?()") | {"but", "just", "only"}  # end of a negation's scope
_MOST_WORDS = 10  # in the scope of a negation
_DISTANCE = 2  # most words from a negation to what it surely negates; stop words do not count


@dataclass(frozen=True)
class Clause:
    text: str
    unwanted: bool


def request_words(text: str) -> list[str]:
    """The words and punctuation marks of a text in lower case, with contracted negations written out and in front."""
    written_out = _AFFIRMATIVE.sub(" ", _NOT.sub(" not", _SUFFIXED.sub(" ", text)))
    return tokenize_words(_AFTER.sub(lambda match: f" no {match['what']} ", written_out))


def negates(words: Sequence[str], at: int) -> bool | None:
    """Whether the word at `at` is negated; None: a negation stands before it, too far away to be sure."""
    others = 0
    for back in range(1, at + 1):
        word = words[at - back]
        if cue_length(words, at - back) or (back < at and cue_length(words, at - back - 1) == 2):
            return True if back <= _DISTANCE or not others else None
        if word in END:
            return False
        others += word not in stop_words()
    return False


def cue_length(words: Sequence[str], at: int) -> int:
    """The number of words of the negation that begins at `at`; 0: none does."""
    if tuple(words[at : at + 2]) in _TWO_WORD_NEGATIONS:
        return 2
    return int(words[at] in NEGATIONS)


def clauses(text: str) -> list[Clause]:
    """The clauses of a text in order, each with a word beside stop words."""
    words, found = request_words(text), list[Clause]()
    part, unwanted, at = list[str](), False, 0

    def close() -> None:
        if any(word.isalnum() and word not in stop_words() for word in part):
            found.append(Clause(" ".join(part), unwanted))
        part.clear()

    while at < len(words):
        if cue := cue_length(words, at):
            close()
            unwanted, at = True, at + cue
            continue
        if words[at] in END or (unwanted and len(part) == _MOST_WORDS):
            close()
            unwanted = False
        if words[at] not in END:
            part.append(words[at])
        at += 1
    close()
    return found
