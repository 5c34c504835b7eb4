"""Labels that a checkpoint answers with as exactly one token, verified when loaded.

A label of two tokens would be scored by its first, and labels that begin alike would silently score the same. In the
list a label is the very token that it is as an answer: the lines are put together from ids, since some vocabularies
would join the letter and the dot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase
from typing import Self

from rayrec.errors import ConfigError
from rayrec.reranking.text.instruct_checkpoint import Chat, InstructCheckpoint
from rayrec.reranking.text.untrusted_text import TokenIds

LABELS = ascii_uppercase + ascii_lowercase


@dataclass(frozen=True)
class ChoiceLetters:
    """The first `count` usable letters. `ids`: as the answer; `lines`: the ids of a line break, the label, a dot."""

    ids: tuple[int, ...]
    lines: tuple[TokenIds, ...]

    @classmethod
    def of(cls, checkpoint: InstructCheckpoint, chat: Chat, count: int, where: str) -> Self:
        """Raises ConfigError where fewer than `count` letters are one token each; `where` in the config."""
        words, ids = checkpoint.words, answer_ids(checkpoint, chat, LABELS, where, count)
        return cls(ids, tuple((*words.own("\n"), label, *words.own(".")) for label in ids))

    def listed(self, texts: Sequence[TokenIds]) -> TokenIds:
        """Texts one a line, each behind its label."""
        return tuple(token for line, text in zip(self.lines, texts, strict=False) for token in (*line, *text))


def answer_ids(
    checkpoint: InstructCheckpoint, chat: Chat, letters: str, where: str, count: int | None = None
) -> TokenIds:
    """The ids of the first `count` usable ones of `letters`, None: of all, as answers. Raises ConfigError as `of`."""
    count = len(letters) if count is None else count
    ids = tuple(checkpoint.answer_ids(chat, letters).values())[:count]
    if len(ids) < count:
        raise ConfigError(
            f"{count} labels are needed, {len(ids)} letters are one token each where this checkpoint answers",
            where=f"{where}; {checkpoint.folder}",
            hint="ask for fewer, or choose another checkpoint",
        )
    return ids
