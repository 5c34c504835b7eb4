"""Untrusted text as token ids that can only be words, whatever stands in it.

Three things keep a title from speaking for the prompt: it is cleaned (no control, format or bidirectional characters,
no line breaks: one text is one line), it is read by a tokenizer that has been stripped of all added tokens, and what
would still come out as one of them (vocabularies that hold `<start_of_turn>` as a piece, the byte pieces of control
characters) is spelt letter by letter instead. Then it is cut to a number of tokens.
"""

from __future__ import annotations

import json
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from rayrec.instructions.text_cleaning import clean

_READ = 4_000  # characters of a text that are looked at
_LETTERS = 8  # per token kept: real words are shorter, and no text is tokenised beyond
_KEPT = 50_000  # texts remembered: titles come back with every user
_CONTROL = {f"<0x{byte:02X}>" for byte in (*range(0x20), 0x7F)}

TokenIds = tuple[int, ...]


class SafeTokenizer:
    """A checkpoint's tokenizer.json, for text that is not ours (`of`) and for text that is (`own`, `whole`)."""

    def __init__(self, tokenizer_json: Path) -> None:
        content: dict[str, Any] = json.loads(tokenizer_json.read_text(encoding="utf8"))
        content["truncation"] = content["padding"] = None
        self._whole = Tokenizer.from_str(json.dumps(content))
        self.added = frozenset(token["id"] for token in content["added_tokens"])
        content["added_tokens"], content["post_processor"] = [], None
        self._plain = Tokenizer.from_str(json.dumps(content))
        control = (self._whole.token_to_id(piece) for piece in _CONTROL)
        self._forbidden = self.added | {piece for piece in control if piece is not None}
        self._remembered = lru_cache(_KEPT)(self._read)

    def of(self, text: str, most: int, lead: str = " ") -> TokenIds:
        """Untrusted text, after a space (`lead`: or nothing), as at most `most` ids; none of them an added or control
        token."""
        return self._remembered(text[:_READ], most, lead)

    @property
    def begin(self) -> TokenIds:
        """The special tokens that the tokenizer puts before any text."""
        ids: list[int] = self._whole.encode("a", add_special_tokens=True).ids
        return tuple(takewhile(self.added.__contains__, ids))

    def own(self, text: str) -> TokenIds:
        """Our own wording, without special tokens."""
        return tuple(self._plain.encode(text, add_special_tokens=False).ids)

    def whole(self, text: str) -> TokenIds:
        """Text of the checkpoint's chat template: added tokens are read as what they are."""
        return tuple(self._whole.encode(text, add_special_tokens=False).ids)

    def _read(self, text: str, most: int, lead: str) -> TokenIds:
        words = lead + clean(text, _LETTERS * most)
        ids: list[int] = self._plain.encode(words, add_special_tokens=False).ids
        if not self._forbidden.isdisjoint(ids):
            spelt = (token for letter in words for token in self._plain.encode(letter, add_special_tokens=False).ids)
            ids = [token for token in spelt if token not in self._forbidden]
        return tuple(ids[:most])
